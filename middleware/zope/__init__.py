"""Zope and Plone on WSGI: tasks that commit with the ZODB, are proved at the door, and run as their users.

``%import taskqueue.middleware.zope`` and a ``<taskqueue>`` section in zope.conf say where the queues are; the filter
``egg:http-taskqueue#zope`` in the WSGI pipeline is the door; the add-on's profile puts a plugin into ``acl_users`` that
knows whom a delivery runs as. Zope itself is imported only when it runs.
"""

from ...middleware.zope.configuration import task_queue
from ...middleware.zope.interfaces import ITaskQueueLayer

__all__ = ["ITaskQueueLayer", "task_queue"]
