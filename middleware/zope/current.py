"""The request that Zope's thread is serving, and whose it is."""

from typing import Any, Final

from AccessControl import getSecurityManager
from Acquisition import aq_inner, aq_parent
from zope.globalrequest import getRequest

from ...door import may_carry_body
from ...middleware.wsgi import arrived
from ...request import CurrentRequest
from ...target import quote_path
from ...tee import Whole

FOLDER: Final = "X-Zope-User-Folder"
"""The header of a task that names the user folder its user is from: two may have one of the same id."""

ANY_FOLDER: Final = "*"


def user_id() -> str | None:
    """Return the id of the user who is logged in, None for nobody."""
    found: str | None = getSecurityManager().getUser().getId()
    return found


def user_folder() -> str:
    """Return the physical path of the user folder that this user is from, percent-encoded, or ``*`` if from none."""
    folder = aq_parent(aq_inner(getSecurityManager().getUser()))
    return folder_path(folder) if hasattr(folder, "getPhysicalPath") else ANY_FOLDER


def folder_path(folder: Any) -> str:
    """Return the physical path of a user folder, percent-encoded."""
    return quote_path("/".join(folder.getPhysicalPath()).encode())


def request() -> Any:
    """Return Zope's request of this thread, None outside one."""
    found = getRequest()
    return found if hasattr(found, "environ") else None  # tests have other ones


def current_request() -> CurrentRequest | None:
    """Return what the queue is told of it where no door has; None outside a request."""
    zope_request = request()
    if zope_request is None:
        return None
    environ = zope_request.environ
    arrival = arrived(environ)
    body = zope_request.get("BODY") if may_carry_body(environ["REQUEST_METHOD"], None, chunked=True) else None
    return CurrentRequest(
        headers=arrival.headers,
        host=arrival.authority,
        scheme=environ.get("wsgi.url_scheme", "http"),
        body=Whole(body) if body else None,
        user_id=user_id,
        credentials=False,
    )
