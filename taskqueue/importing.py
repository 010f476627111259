"""From ``package.module:attribute`` to what has that name, or an error that says what there is instead."""

import importlib
import sys
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

from .errors import ConfigError

Refusal: TypeAlias = Callable[[str], ConfigError]


def imported(path: str, refusal: Refusal, *, likely: Callable[[object], object] = callable) -> Any:
    """Import what has this name, which has both its parts; the current directory is searched too.

    Raises what ``refusal`` makes of the words, with the error of the module's own as its cause. If the attribute is
    missing, the words name those that are ``likely``, or spelt alike.
    """
    name, _, attribute = path.partition(":")
    module = _module(name, refusal)
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            names = [name for name, value in vars(module).items() if not name.startswith("_") and _is(likely, value)]
            close = get_close_matches(part, dir(found), n=3)
            raise refusal(f"{module.__name__} has no {attribute}{_or(names or close, 'it has')}")
        found = getattr(found, part)
    return found


def _is(likely: Callable[[object], object], value: object) -> bool:
    try:
        return bool(likely(value))
    except Exception:  # noqa: BLE001 - outside a request some frameworks' ``request`` answers every question with one
        return False


def _module(name: str, refusal: Refusal) -> ModuleType:
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise refusal(f"importing {name} failed: {error}") from error
        candidates = sorted(path.stem for path in Path.cwd().glob("*.py"))
        raise refusal(f"there is no module {name} in {Path.cwd()}{_or(candidates, 'its modules are')}") from None
    except Exception as error:
        raise refusal(f"importing {name} failed: {type(error).__name__}: {error}") from error


def _or(candidates: list[str], words: str) -> str:
    return f"; {words} {', '.join(candidates)}" if candidates else ""
