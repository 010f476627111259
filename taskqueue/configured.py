"""Where an application's queues are, what protects them and what they may hold: as given, or as the settings say."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from weakref import WeakSet

from . import settings
from .broker import Broker, Capacity, connect, kept_secret
from .catalogue import Settings, missing
from .defaults import DefaultsByPath
from .durability import Durability
from .durability import durability as parse_durability
from .errors import ConfigError
from .headers import check_host
from .keys import Keyring
from .relay import Outbox
from .target import Limits, check_queue_name
from .transaction import Transaction

instances: Final["WeakSet[Any]"] = WeakSet()
"""Every TaskQueue of this process: how a consumer finds the one of the application it has imported."""


class Configured:
    """The configuration of a TaskQueue; what is read from settings is read at first use."""

    def __init__(
        self,
        url: str | None = None,
        *,
        secret: str | Sequence[str] | None = None,
        queues: Iterable[str] | None = None,
        namespace: str | None = None,
        public_url: str | None = None,
        limits: Limits | None = None,
        commit_deadline: float = 2.0,
        max_tasks: int | None = None,
        max_bytes: int | None = None,
        durability: str | None = None,
        storage: str | None = None,
    ) -> None:
        """Take where the queues are; nothing is connected, and nothing missing is missed, before first use.

        ``url`` is ``redis://host:port/db``, ``rediss://``, ``unix://``, ``embedded:///directory`` or ``local://`` (each
        of these two keeps a secret of its own; ``local://?mode=sync`` has each commit replay its tasks before it
        returns), or another that ``taskqueue.broker.connect`` knows; ``secret`` 32 bytes
        or more, or several with the newest first; ``queues`` the names that ``add`` accepts; ``public_url`` names
        scheme and host for tasks added outside a request; ``commit_deadline`` is how many seconds a commit may take; a
        queue that holds ``max_tasks`` tasks, failed ones left out, or ``max_bytes`` bytes of records takes no more
        (QueueFull; 0: no limit). ``durability``: what a commit is to survive, ``memory``,
        ``process``, ``disk`` or ``replica:N``; only the last, N replicas that confirm each commit, is waited for, the
        others are a matter of the store's configuration, which ``taskqueue doctor`` checks. ``storage``: the absolute
        path of the directory for the files that tasks save. What is None comes from
        ``TASKQUEUE_*`` variables, then from ``taskqueue.toml``, then from the defaults. Raises ConfigError.
        """
        if not 0 < commit_deadline < math.inf:
            raise ConfigError(f"commit_deadline: {commit_deadline!r} must be seconds above 0, for example 2.0")
        self._url, self._secret, self._namespace, self._public_url = url, secret, namespace, public_url
        if min(max_tasks or 0, max_bytes or 0) < 0:
            raise ConfigError(f"max_tasks, max_bytes: {max_tasks}, {max_bytes} must be 0 (no limit) or more")
        self._max_tasks, self._max_bytes = max_tasks, max_bytes
        self._storage = storage
        self._durability = None if durability is None else parse_durability(durability)
        self._queues = None if queues is None else _checked_queues(queues)
        self._defaults = DefaultsByPath()
        self.outboxes: Final[list[Outbox]] = []
        """Where the tasks of this TaskQueue wait, committed, for a relay; see ``taskqueue.relay``."""
        self._enlisted: list[Callable[[], Transaction | None]] = []
        self.limits: Final = limits or Limits()
        self.commit_deadline: Final = commit_deadline
        self.notes_starts = True
        """Whether its doors tell the broker that a delivery starts. For doors, and for who consumes in process."""
        instances.add(self)

    @cached_property
    def _settings(self) -> Settings:
        return settings.load()

    @cached_property
    def url(self) -> str:
        """The broker's URL; raises ConfigError with the remedies if none is set."""
        return self._url or self._settings.required_url()

    @cached_property
    def queues(self) -> tuple[str, ...]:
        """The names that ``add`` accepts, sorted."""
        return self._queues or _checked_queues(self._settings.queues)

    @cached_property
    def namespace(self) -> str:
        """The prefix of every key in the broker."""
        return self._namespace or self._settings.namespace

    @cached_property
    def durability(self) -> Durability | None:
        """What a commit is declared to survive, None if nobody has."""
        if self._durability is not None:
            return self._durability
        declared = self._settings.durability
        return None if declared is None else parse_durability(declared)

    @cached_property
    def keyring(self) -> Keyring:
        """The keys made of the secrets, or of the one that the store keeps; raises ConfigError if there is none."""
        found = self._secret or self._settings.secrets or kept_secret(self.url) or ()
        return Keyring((found,) if isinstance(found, str) else found)

    @cached_property
    def capacity(self) -> Capacity:
        """What a queue may hold before a commit is refused."""
        chosen = self._settings
        return Capacity(
            chosen.max_tasks if self._max_tasks is None else self._max_tasks,
            chosen.max_bytes if self._max_bytes is None else self._max_bytes,
        )

    @cached_property
    def broker(self) -> Broker:
        """The broker behind the URL, not connected yet."""
        return connect(self.url, namespace=self.namespace, capacity=self.capacity, durability=self.durability)

    @property
    def has_storage(self) -> bool:
        """Whether a directory for the files of tasks is set."""
        return bool(self._storage or self._settings.storage)

    @cached_property
    def storage_directory(self) -> Path:
        """Where the files are that tasks save; raises ConfigError with the remedies if there is no place for them."""
        found = self._storage or self._settings.storage or missing("storage", "/var/lib/taskqueue/files", ConfigError)
        if not Path(found).is_absolute():
            raise ConfigError(f"storage: {found!r} must be the absolute path of a directory")
        return Path(found)

    @cached_property
    def public(self) -> tuple[str, str]:
        """Scheme and host for tasks that are added outside a request, empty if not configured; raises ConfigError."""
        public_url = self._public_url or self._settings.public_url
        if not public_url:
            return "", ""
        parts = urlsplit(public_url)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.username or parts.path.strip("/"):
            raise ConfigError(f"public_url: {public_url!r} must be a scheme and a host, as in https://example.org")
        return parts.scheme, check_host(parts.netloc)


def _checked_queues(queues: Iterable[str]) -> tuple[str, ...]:
    if isinstance(queues, str):
        raise ConfigError(f"queues: a list of names is needed, as in [{queues!r}]")
    names = tuple(sorted({check_queue_name(name) for name in queues}))
    if not names:
        raise ConfigError("queues: at least one name is needed, for example ['default']")
    return names
