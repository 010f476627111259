"""The checkout as the tests of the house see it."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PACKAGE: Final = ROOT / "taskqueue"
MIDDLEWARE: Final = ROOT / "middleware"


def sources() -> Iterator[Path]:
    """Yield the modules of the package, those of the middleware under their real path."""
    for folder in (PACKAGE, MIDDLEWARE):
        yield from sorted(path for path in folder.rglob("*.py") if not path.is_relative_to(PACKAGE / "middleware"))


def scripts() -> list[Path]:
    """Return the Lua scripts."""
    return sorted((PACKAGE / "lua").glob("*.lua"))


def versioned() -> list[Path]:
    """Return the files that git keeps here, or nothing outside a checkout (a source distribution)."""
    if not (ROOT / ".git").exists():
        return []
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]
