"""What marks a request as a delivery, for views that are there for tasks only."""

from zope.interface import Interface


class ITaskQueueLayer(Interface):  # type: ignore[misc]  # which has no types
    """Provided by the request of a proved delivery, and by no other: give it as ``layer`` of a view."""
