"""Where a task is to go, so that behind a virtual host it makes the same addresses as the request that added it."""

from collections.abc import Sequence
from typing import Final
from urllib.parse import quote, urlsplit

from ...target import quote_path

DEFAULT_PORTS: Final = {"http": 80, "https": 443}


def hosted(target: str, *, server_url: str, root: Sequence[str], prefix: Sequence[str]) -> str:
    """Take a target; return the one that Zope's VirtualHostMonster reads as the same object under the public address.

    ``server_url`` is the public scheme and host; ``root`` the physical path of what the virtual host shows
    (``("", "Plone")``); ``prefix`` the parts, percent-encoded, that public paths have in front. A path below ``root``
    is a physical one; any other is public, as from ``absolute_url_path()``. One that names its virtual host itself
    stays.
    """
    path, mark, query = target.partition("?")
    if path.startswith("/VirtualHostBase/"):
        return target
    public = urlsplit(server_url)
    # Without a port the one of the delivery would count, which is not the public one.
    host = public.netloc if public.port else f"{public.netloc}:{DEFAULT_PORTS[public.scheme]}"
    physical = quote_path("/".join(root).encode())
    shown = "".join(f"/{part}" for part in prefix)
    rest = path
    for beginning in (physical, shown):
        if beginning and f"{path}/".startswith(f"{beginning}/"):
            rest = path[len(beginning) :]
            break
    marks = "".join(f"/_vh_{part}" for part in prefix)
    return (
        f"/VirtualHostBase/{public.scheme}/{quote(host, safe=':')}{physical}/VirtualHostRoot{marks}{rest}{mark}{query}"
    )
