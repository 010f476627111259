"""What a door may be told of a consumer beside its application: ``consume=True``, a name, or a ``Consume``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from .errors import ConfigError
from .settings import OPTIONS


@dataclass(frozen=True, slots=True, kw_only=True)
class Consume:
    """A consumer that runs beside the application, in the web process; what is None, the settings say.

    ``name`` None: one of host and process id, because servers run several processes. ``queues``: those of the
    TaskQueue's that it serves; ``concurrent_limit``: how many tasks may run at a time, 0: no limit. ``adaptive``:
    that is the most, and there are fewer, down to one, while the event loop or the requests of users are slower than
    without tasks.
    """

    name: str | None = None
    queues: Sequence[str] | None = None
    concurrent_limit: int | None = None
    adaptive: bool = False

    def __post_init__(self) -> None:
        """Check; raises ConfigError."""
        for name, value in self.chosen.items():
            object.__setattr__(self, name, value)

    @property
    def chosen(self) -> Mapping[str, Any]:
        """What counts instead of the settings, by their names and as they have it."""
        given = {"name": self.name, "queues": self.queues, "concurrent_limit": self.concurrent_limit}
        return {name: _parsed(name, value) for name, value in given.items() if value is not None}


Consuming: TypeAlias = Consume | str | bool


def _parsed(name: str, value: object) -> object:
    try:
        return OPTIONS[name].parse(value)
    except ValueError as error:
        raise ConfigError(f"consume: {name}: {value!r} {error}") from None


def wanted(consume: Consuming) -> Consume:
    """Return what is asked of the consumer; raises ConfigError."""
    if isinstance(consume, Consume):
        return consume
    if isinstance(consume, str):
        return Consume(name=consume)
    if consume is True:
        return Consume()
    raise ConfigError(f"consume: {consume!r} must be True, a name such as 'instance1', or a taskqueue.Consume")
