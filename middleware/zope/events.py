"""What is done while Zope publishes a delivery: its request is marked, and its user made sure of."""

from typing import Any

from zExceptions import Forbidden
from zope.component import getGlobalSiteManager
from zope.interface import Interface, alsoProvides, implementedBy
from ZPublisher.interfaces import IPubAfterTraversal, IPubStart

from ...answers import UNCAUGHT, Answer, answer_to_uncaught
from ...middleware.zope import current
from ...middleware.zope.door import LOGIN
from ...middleware.zope.interfaces import ITaskQueueLayer
from ...producer import current_task

try:
    from plone.protect.interfaces import IDisableCSRFProtection
except ImportError:  # Zope without Plone
    _MARKS: tuple[Any, ...] = (ITaskQueueLayer,)
else:
    # A proved delivery is not forged. What a view checks itself it goes on checking: give it the token in params=.
    _MARKS = (ITaskQueueLayer, IDisableCSRFProtection)


def register() -> None:
    """Have Zope call the functions below. May be called again."""
    registry = getGlobalSiteManager()
    for function, event in ((mark, IPubStart), (make_sure, IPubAfterTraversal)):
        registry.unregisterHandler(function, (event,))
        registry.registerHandler(function, (event,))
    for kind in UNCAUGHT:
        registry.registerAdapter(Uncaught, (implementedBy(kind), Interface), Interface, "index.html")


def mark(event: Any) -> None:
    """Mark the request of a proved delivery, before anything is traversed."""
    if current_task() is not None:
        alsoProvides(event.request, *_MARKS)


def make_sure(event: Any) -> None:
    """Raise Forbidden, before any view is called, unless a task's user is logged in."""
    task = current_task()
    if task is None or task.user_id is None:
        return
    named = event.request.environ.get("HTTP_X_ZOPE_USER_FOLDER", current.ANY_FOLDER)
    if current.user_id() != task.user_id or named not in (current.ANY_FOLDER, current.user_folder()):
        raise Forbidden(f"the user of task {task.id} is not logged in")
    login = event.request.environ[LOGIN]
    login.known = login.done = True


class Uncaught:
    """The view of what ``add`` and a commit raise of things that are not the application's fault."""

    def __init__(self, error: Exception, request: Any) -> None:
        """Take the error and Zope's request."""
        self._error, self._response = error, request.response

    def __call__(self) -> str:
        """Answer as the door would."""
        answer: Answer | None = answer_to_uncaught(self._error)
        if answer is None:
            raise self._error
        self._response.setStatus(answer.status, lock=1)  # Plone would set 500
        self._response.setHeader("Content-Type", "text/plain; charset=utf-8")
        for name, value in answer.headers:
            self._response.setHeader(name, value)
        return answer.text
