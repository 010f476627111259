"""A broker of the application's own: ``python://package.module:attribute``, with anything of its own behind a ``?``.

What has that name, a class or a function, is called as ``taskqueue.broker.connect`` is: with the whole URL, and with
``namespace``, ``capacity`` and ``durability`` as keywords. It returns a ``taskqueue.broker.Broker``; what of these it
cannot do it refuses with a ConfigError.
"""

import inspect
import re
from collections.abc import Callable
from typing import Any, Final

from ..broker import UNLIMITED, Broker, Capacity, masked
from ..durability import Durability
from ..errors import ConfigError
from ..importing import imported

_URL: Final = re.compile(r"python://([\w.]+:[\w.]+)(\?.*)?", re.DOTALL)
_METHODS: Final = [name for name in vars(Broker) if not name.startswith("_")]


def open_broker(
    url: str, *, namespace: str, capacity: Capacity = UNLIMITED, durability: Durability | None = None
) -> Broker:
    """Return the broker that the name in a ``python://`` URL makes; see ``taskqueue.broker.connect``."""

    def refusal(words: str) -> ConfigError:
        return ConfigError(f"url: {masked(url)!r}: {words}")

    match = _URL.fullmatch(url)
    if not match:
        raise refusal("it must be python://package.module:attribute, for example python://shop.queues:ShopBroker")
    make: Any = imported(match[1], refusal)
    options: dict[str, Any] = {"namespace": namespace, "capacity": capacity, "durability": durability}
    if not (callable(make) and _takes(make, url, options)):
        raise refusal(
            f"{match[1]} cannot be called with a URL and the keywords {', '.join(options)}; it must be a class or"
            " function that takes them and makes a broker"
        )
    try:
        made: Any = make(url, **options)
    except ConfigError:
        raise
    except Exception as error:
        raise refusal(f"{match[1]} failed: {type(error).__name__}: {error}") from error
    missing = [name for name in _METHODS if not hasattr(made, name)]
    if missing:
        raise refusal(
            f"{match[1]} makes a {type(made).__name__} without {', '.join(missing)}; it must make what"
            " taskqueue.broker.Broker describes"
        )
    broker: Broker = made
    return broker


def _takes(make: Callable[..., object], url: str, options: dict[str, Any]) -> bool:
    try:
        signature = inspect.signature(make)
    except ValueError:
        return True  # It does not tell, as some that are written in C.
    try:
        signature.bind(url, **options)
    except TypeError:
        return False
    return True
