"""Paths that are there for tasks only, however they are spelt: whoever may not see one must not come in beside it."""

from collections.abc import Iterable, Iterator, Sequence

from .errors import ConfigError


class HiddenPaths:
    """Some paths, and all that is below them."""

    def __init__(self, paths: Iterable[str]) -> None:
        """Take the ``task_only`` of a door; raises ConfigError."""
        if isinstance(paths, str):
            raise ConfigError(f"task_only: a list of paths is needed, as in [{paths!r}]")
        self._prefixes = [_prefix(path) for path in paths]

    def hide(self, path: str, mount: str = "") -> bool:
        """Return whether this decoded path is one of them, or what follows ``mount`` in it is.

        And whether a router might read it so: some join slashes, some resolve dots, and ``@@`` names a view to some.
        """
        if not self._prefixes:  # as in most applications
            return False
        return any(reading[: len(prefix)] == prefix for reading in _readings(path, mount) for prefix in self._prefixes)


def _prefix(path: str) -> Sequence[str]:
    if not path.startswith("/"):
        raise ConfigError(f"task_only: {path!r} must start with a slash, as in '/tasks/'")
    return _segments(path)


def _readings(path: str, mount: str) -> Iterator[Sequence[str]]:
    above, whole = _segments(mount), _segments(path)
    for reading in (whole, _resolved(whole)):
        yield reading
        if above and reading[: len(above)] == above:
            below = reading[len(above) :]
            yield below
            yield _resolved(below)


def _segments(path: str) -> list[str]:
    """Return what stands between the slashes of a path."""
    return [segment.removeprefix("@@") for segment in path.split("/") if segment not in ("", ".")]


def _resolved(segments: Iterable[str]) -> list[str]:
    """Return what is left of these once each ``..`` has taken away what stands before it."""
    left: list[str] = []
    for segment in segments:
        if segment != "..":
            left.append(segment)
        elif left:
            left.pop()
    return left
