"""What Redis refuses, and what that means: wait, or tell the person who can mend it.

``TRANSIENT`` is what passes by itself: it is asked again until the caller's deadline. All else is a setting that will
be wrong again, and the message says which.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from redis.exceptions import (
    AuthenticationError,
    ClusterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from ..errors import BrokerUnavailable, ConfigError, TaskQueueError

# Beside what redis-py has classes for. LOADING is a ConnectionError there, and MASTERDOWN a ClusterDownError. The last
# two are what is left of WAIT when a primary is demoted under it.
TRANSIENT: Final = ("BUSY ", "MISCONF", "NOREPLICAS", "UNBLOCKED", "WAIT cannot be used")
# Redis 6 tells what a command inside a script was refused for in the text of another error.
_INSIDE: Final = re.compile(r"@user_script: ?\d+: -(MISCONF|NOREPLICAS|READONLY|MASTERDOWN|CLUSTERDOWN|TRYAGAIN) ")
_NO_RIGHT: Final = ("NOPERM", "has no permissions", "ACL failure")


def is_transient(error: ResponseError) -> bool:
    """Tell whether what Redis refused now it may well accept in a moment."""
    text = str(error)
    passing = isinstance(error, ReadOnlyError | ClusterDownError | TryAgainError) or text.startswith(TRANSIENT)
    return passing or _INSIDE.search(text) is not None


def said(error: Exception) -> str:
    """Return an error as a person may meet it in Redis's own documentation, with its code in front."""
    code = getattr(error, "status_code", None)
    if isinstance(error, ReadOnlyError):
        return f"READONLY: this server is a replica, perhaps of a primary that has changed ({error})"
    return f"{code} {error}" if code else f"{type(error).__name__}: {error}"


def is_missing_right(error: Exception) -> bool:
    """Tell whether the user may not do this; inside a script the code is lost, and the text tells."""
    return getattr(error, "status_code", None) == "NOPERM" or any(words in str(error) for words in _NO_RIGHT)


def wrong_password(error: Exception) -> ConfigError:
    """Return what to raise when the connection's user is not let in."""
    return ConfigError(f"url: redis refused the user name or password ({error}); correct them in the URL")


def meant(error: ResponseError) -> TaskQueueError:
    """Return what a command was refused for as an error of ours."""
    text = str(error)
    if isinstance(error, OutOfMemoryError) or "OOM" in text:
        return BrokerUnavailable("redis has no memory left (maxmemory reached): free some, or raise it")
    if "WRONGTYPE" in text:
        return ConfigError(f"namespace: a key in redis belongs to something else ({text}); choose another namespace")
    if is_missing_right(error):
        return ConfigError(
            f"redis refused a command: the URL's user lacks a right ({text}); taskqueue acl prints what it needs"
        )
    return ConfigError(f"redis refused a command: {text}")


@contextmanager
def translated() -> Iterator[None]:
    """Raise what a command was refused for as an error of ours."""
    try:
        yield
    except ResponseError as error:
        raise meant(error) from error


@contextmanager
def line_errors() -> Iterator[None]:
    """Raise what breaks a connection as an error of ours."""
    try:
        yield
    except AuthenticationError as error:
        raise wrong_password(error) from None
    except (RedisError, OSError, EOFError, TypeError, AttributeError) as error:
        # redis-py raises TypeError and AttributeError too when an idle connection was reset under it.
        raise BrokerUnavailable(f"redis: {said(error)}") from error
