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
_ALL: Final = ("_state", "_task", "_moves", "_places")
_NEW: Final = (*_ALL, "_store")
_OUT: Final = (*_ALL, "_drain")
_END: Final = (*_NEW, "_drain", "_ends")
PARTS: Final[dict[str, tuple[str, ...]]] = {
    "push": ("_state", "_late", "_alone", *_NEW[1:], "_admit", "_together"),
    "prepare": (*_NEW, "_admit", "_together"),
    "retry": (*_NEW, "_acts"),
    "restart": (*_END, "_held", "_acts"),
    "promote": (*_NEW, "_drain"),
    "discard": _END,
    "begin": (*_END, "_held"),
    "note": _OUT,
    "due": _END,
    "trim": _OUT,
    "reset": _OUT,
    "claim": (*_END, "_held", "_idle", "_return"),
    "reclaim": (*_END, "_held", "_idle", "_return"),
    "control": _ALL,
    "purge": _END,
    "withdraw": (*_END, "_acts"),
    "hasten": (*_OUT, "_acts"),
    "exchange": (
        *_END,
        "_held",
        "_lease",
        "_idle",
        "_outcomes",
        "_letting",
        "_settle",
        "_lines",
        "_allowed",
        "_giving",
        "_serve",
    ),
    "beat": (*_OUT, "_lease"),
    "leave": (*_OUT, "_lease", "_idle"),
}


def source(name: str) -> bytes:
    """Return the whole text of a script."""
    folder = files("taskqueue") / "lua"
    return b"".join((folder / f"{part}.lua").read_bytes() for part in (*PARTS[name], name))


def _script(name: str) -> Script:
    text = source(name)
    return Script(name, text, hashlib.sha1(text, usedforsecurity=False).hexdigest())


SCRIPTS: Final = {name: _script(name) for name in PARTS}
