"""Zope's TaskQueue: its tasks live and die with the transaction of the thread, and go to where they are addressed."""

from collections.abc import Mapping
from typing import Any, Unpack

import transaction

from ... import producer
from ...headers import caller_headers
from ...middleware.transaction import bind
from ...middleware.zope import current
from ...middleware.zope.virtualhost import hosted
from ...record import Headers, Options, Payload
from ...request import CURRENT, CurrentRequest
from ...target import target_of
from ...transaction import Transaction


class TaskQueue(producer.TaskQueue):
    """A TaskQueue bound to ``transaction.manager``, of which Zope leaves none without a commit or an abort."""

    def __init__(self, url: str | None = None, **given: Any) -> None:
        """Take what ``taskqueue.TaskQueue`` takes."""
        super().__init__(url, **given)
        bind(self, transaction.manager, implicit=True)

    def begin(self, *, outer: Transaction | None = None, request: CurrentRequest | None = None) -> Transaction:
        """See ``taskqueue.TaskQueue.begin``; the request is Zope's own where there is no door."""
        if outer is None and request is None:
            request = current.current_request()
        return super().begin(outer=outer, request=request)

    def _add(
        self,
        transaction: Transaction | None,
        url: object,
        method: str | None,
        params: Mapping[str, object] | None,
        headers: Headers,
        payload: Payload,
        queue: str | None,
        **options: Unpack[Options],
    ) -> str:
        """Record a request; its path is physical, or as the virtual host of the current request shows it."""
        own = [pair for pair in caller_headers(headers, self.limits) if pair[0] != current.FOLDER.lower()]
        is_current = options.get("user_id", CURRENT) is CURRENT
        own.append((current.FOLDER, current.user_folder() if is_current else current.ANY_FOLDER))
        return super()._add(transaction, self._hosted(url), method, params, own, payload, queue, **options)

    def _hosted(self, url: object) -> object:
        request = current.request()
        if request is None or "VirtualRootPhysicalPath" not in request.other:
            return url
        target = target_of(url, None, self.limits)
        shown = request.other
        root = shown["VirtualRootPhysicalPath"]
        return hosted(target, server_url=shown["SERVER_URL"], root=root, prefix=request._script)
