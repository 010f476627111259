"""The Lua scripts, each put together from the parts it begins with and its own file. See ``taskqueue/lua``."""

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from typing import Final


@dataclass(frozen=True, slots=True, eq=False)
class Script:
    """A Lua script and the digest Redis knows it by."""

    name: str
    source: bytes
    sha: str


# Whatever takes tasks out must work with a full memory (_drain); whatever puts some in must not.
PARTS: Final[dict[str, tuple[str, ...]]] = {
    "push": ("_task", "_places", "_admit"),
    "prepare": ("_task", "_places", "_admit"),
    "retry": ("_task", "_places", "_acts"),
    "restart": ("_task", "_places", "_drain", "_ends", "_acts"),
    "promote": ("_task", "_places", "_drain"),
    "discard": ("_task", "_places", "_drain", "_ends"),
    "begin": ("_task", "_places", "_drain", "_ends"),
    "note": ("_task", "_places", "_drain"),
    "due": ("_task", "_places", "_drain", "_ends"),
    "trim": ("_task", "_places", "_drain"),
    "reset": ("_task", "_places", "_drain"),
    "claim": ("_task", "_places", "_drain", "_ends", "_return"),
    "reclaim": ("_task", "_places", "_drain", "_ends", "_return"),
    "control": ("_task", "_places"),
    "purge": ("_task", "_places", "_drain", "_ends"),
    "withdraw": ("_task", "_places", "_drain", "_ends", "_acts"),
    "hasten": ("_task", "_places", "_drain", "_acts"),
    "reserve": ("_task", "_places", "_drain", "_ends", "_lease", "_allowed"),
    "settle": ("_task", "_places", "_drain", "_ends", "_lease", "_outcomes"),
    "beat": ("_task", "_places", "_drain", "_lease"),
    "leave": ("_task", "_places", "_drain", "_lease"),
}


def source(name: str) -> bytes:
    """Return the whole text of a script."""
    folder = files("taskqueue") / "lua"
    return b"".join((folder / f"{part}.lua").read_bytes() for part in (*PARTS[name], name))


def _script(name: str) -> Script:
    text = source(name)
    return Script(name, text, hashlib.sha1(text, usedforsecurity=False).hexdigest())


SCRIPTS: Final = {name: _script(name) for name in PARTS}
