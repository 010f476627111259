"""The files that settings name: what is in them, or why they cannot be used."""

import tomllib
from pathlib import Path
from typing import Any

from . import options
from .errors import ConfigError


def toml(path: Path, name: str, variable: str) -> dict[str, Any]:
    """Return what a file holds that people know as ``name``; ``variable`` is what names it. Raises ConfigError."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{name}: it cannot be read ({error.strerror}); --config or {variable} names it") from None
    except ValueError as error:
        # The parser tells the place, and never more than one character of the text.
        raise ConfigError(f"{name}: it is not TOML: {error}") from None


def secrets_in(path: Path, where: str) -> tuple[str, ...]:
    """Return the secrets in a file, one a line; ``where`` is the setting that names it. Raises ConfigError."""
    try:
        return options.texts(",".join(path.read_text(encoding="utf-8").splitlines()))
    except OSError as error:
        raise ConfigError(f"{where}: {str(path)!r} cannot be read ({error.strerror})") from None
    except ValueError:
        raise ConfigError(f"{where}: {str(path)!r} holds no secret; make one with: taskqueue secret") from None
