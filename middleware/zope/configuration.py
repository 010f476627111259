"""The ``<taskqueue>`` section of zope.conf, and the one TaskQueue of a process that it describes."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

from ... import files, options, producer
from ...errors import ConfigError
from ...target import check_queue_name

if TYPE_CHECKING:
    from ...middleware.zope.queue import TaskQueue

_KEYS: Final = ("url", "namespace", "public_url", "commit_deadline", "max_tasks", "max_bytes", "durability", "storage")


def _key(name: str, check: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return what ZConfig calls with the text of a key; it adds the line and the file to what is raised."""

    def convert(text: str) -> Any:
        try:
            return check(text)
        except ConfigError as error:  # which names the key its own way
            raise ValueError(f"{name}: {str(error).partition(': ')[2]}") from None
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None

    return convert


url = _key("url", options.broker_url)
queue = _key("queue", check_queue_name)
namespace = _key("namespace", options.namespace)
public_url = _key("public-url", options.base_url)
commit_deadline = _key("commit-deadline", options.Seconds(0.1, 3600))
max_tasks = _key("max-tasks", options.Whole(0))
max_bytes = _key("max-bytes", options.Whole(0))
durability = _key("durability", options.durability_level)
storage = _key("storage", options.directory)


class Section:
    """A ``<taskqueue>`` section as ZConfig has read it; ``given`` is what TaskQueue takes of it."""

    def __init__(self, section: Any) -> None:
        """Take the section; raises ValueError for two keys that contradict each other."""
        if section.secret is not None and section.secret_file is not None:
            raise ValueError("secret-file: the secret is given beside it; one of the two is enough")
        self.getSectionName: Final = section.getSectionName  # Zope asks for it
        self.given: Final[dict[str, Any]] = {
            key: value for key in _KEYS if (value := getattr(section, key)) is not None
        }
        if section.queues:
            self.given["queues"] = section.queues
        if section.secret is not None:
            self.given["secret"] = options.texts(section.secret)
        self._secret_file: Final[str | None] = section.secret_file

    def options(self) -> dict[str, Any]:
        """Return the parameters of TaskQueue; raises ConfigError for a file of secrets that cannot be read."""
        if self._secret_file is None:
            return self.given
        return {**self.given, "secret": files.secrets_in(Path(self._secret_file), "secret-file in zope.conf")}


_lock: Final = Lock()
_made: Final[list["TaskQueue"]] = []


def task_queue() -> "TaskQueue":
    """Return the TaskQueue of this process, made at the first call of what zope.conf says; raises ConfigError.

    Without a section it is made of the settings alone.
    """
    from ...middleware.zope.queue import TaskQueue  # noqa: PLC0415 - Zope has read its configuration by now

    with _lock:
        if not _made:
            found = _sections()
            if len(found) > 1:
                raise ConfigError(
                    f"zope.conf: it has {len(found)} <taskqueue> sections, and a process has one TaskQueue; name all"
                    " its queues in one section, a line `queue NAME` for each"
                )
            _made.append(TaskQueue(**(found[0].options() if found else {})))
        return _made[0]


def _sections() -> list[Section]:
    app_config: Any = sys.modules.get("App.config")
    if app_config is None or app_config._config is None:
        return []
    sections: Mapping[str, object] = getattr(app_config._config, "product_config", {})
    return [one for one in sections.values() if isinstance(one, Section)]


def _of_section() -> "TaskQueue | None":
    """Return the TaskQueue of zope.conf where no door has made it, as in scripts."""
    return task_queue() if _sections() else None


producer.unbound.append(_of_section)
