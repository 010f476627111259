"""What the site of the tests can do. What a task has done stands in a file, once its transaction has committed."""

import json
import os
from typing import Any

import transaction
from AccessControl import Unauthorized, getSecurityManager
from plone.protect import createToken
from plone.protect.interfaces import IDisableCSRFProtection
from Products.Five.browser import BrowserView
from ZODB.POSException import ConflictError
from zope.interface import alsoProvides

import taskqueue
from tests.plone import LEDGER


def _write(committed: bool, line: bytes) -> None:  # noqa: FBT001 - the hook's own
    if committed:
        ledger = os.open(LEDGER, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(ledger, line)
        os.close(ledger)


def effect(request: Any, **what: object) -> None:
    """Note something that was done, if this transaction commits."""
    task = taskqueue.current_task()
    about = {"id": task.id if task else None, "user": getSecurityManager().getUser().getId(), **what}
    line = f"{json.dumps(about)}\n".encode()
    transaction.get().addAfterCommitHook(_write, args=(line,))


def path_of(context: Any, view: str) -> str:
    return f"{'/'.join(context.getPhysicalPath())}/{view}"


class PublishLater(BrowserView):  # type: ignore[misc]
    def __call__(self) -> str:
        params = {"workflow_action": "publish", "_authenticator": createToken()}
        return taskqueue.add(path_of(self.context, "content_status_modify"), params=params)


class Retract(BrowserView):  # type: ignore[misc]
    """Makes a published page private again."""

    def __call__(self) -> str:
        workflow = self.context.portal_workflow
        if workflow.getInfoFor(self.context, "review_state") == "published":
            alsoProvides(self.request, IDisableCSRFProtection)
            workflow.doActionFor(self.context, "retract")
        return "private"


class SendLater(BrowserView):  # type: ignore[misc]
    def __call__(self) -> str:
        times = int(self.request.form.get("times", 1))
        ids = [taskqueue.add(path_of(self.context, "@@send"), method="POST") for _ in range(times)]
        return "\n".join(ids)


class Send(BrowserView):  # type: ignore[misc]
    def __call__(self) -> str:
        effect(self.request, mail=self.request.form["text"])
        return "sent"


class Objecting:
    """A resource that finds a conflict when all others have agreed."""

    transaction_manager = transaction.manager

    def sortKey(self) -> str:  # noqa: N802 - see IDataManager
        return "~~~"

    def tpc_begin(self, _transaction: Any) -> None: ...

    commit = tpc_finish = tpc_abort = abort = tpc_begin

    def tpc_vote(self, _transaction: Any) -> None:
        raise ConflictError


class Do(BrowserView):  # type: ignore[misc]
    """Adds a task, changes the database, and ends as it is told."""

    def __call__(self) -> str:
        form = self.request.form
        if "value" in form:
            self.context.taskqueue_value = form["value"]
        task_id = taskqueue.add(form["url"], method=form.get("method"), params={"value": form.get("value", "")})
        if "savepoint" in form:
            savepoint = transaction.savepoint()
            taskqueue.add(form["url"], params={"value": "rolled back"})
            savepoint.rollback()
        if int(form.get("conflicts", 0)) > self.request.retry_count:
            raise ConflictError
        if "fail" in form:
            raise ValueError(form["fail"])
        if int(form.get("objections", 0)) > self.request.retry_count:
            transaction.get().join(Objecting())
        if "doom" in form:
            transaction.doom()
        return task_id


class Value(BrowserView):  # type: ignore[misc]
    def __call__(self) -> str:
        return str(getattr(self.context, "taskqueue_value", ""))


class Write(BrowserView):  # type: ignore[misc]
    """Changes the database, as a page that plone.protect guards."""

    def __call__(self) -> str:
        self.context.taskqueue_value = self.request.form["value"]
        self.request.response.setHeader("Content-Type", "text/html")
        return "<html><body>written</body></html>"


class Note(BrowserView):  # type: ignore[misc]
    """Notes who a task is, and how it calls what it is about."""

    def __call__(self) -> str:
        effect(self.request, url=self.context.absolute_url(), address=self.request["URL"])
        if "secret" in self.request.form:
            raise Unauthorized
        return "noted"


class See(BrowserView):  # type: ignore[misc]
    """Notes what a task sees in the database, and what it was told to see."""

    def __call__(self) -> str:
        effect(self.request, told=self.request.form["value"], sees=getattr(self.context, "taskqueue_value", None))
        return "seen"


class Body(BrowserView):  # type: ignore[misc]
    """Gives what Zope has left of a body, after a conflict at will, and adds a task that copies it."""

    def __call__(self) -> bytes:
        taskqueue.add(path_of(self.context, "@@send"), method="POST")
        if int(self.request.form.get("conflicts", 0)) > self.request.retry_count:
            raise ConflictError
        body: bytes = self.request.get("BODY")
        return body


class Users(BrowserView):  # type: ignore[misc]
    """Removes a user, or adds one to the folder that is named."""

    def __call__(self) -> str:
        form = self.request.form
        folder = self.context.unrestrictedTraverse(form["folder"])
        if "remove" in form:
            source = "source_users" if "source_users" in folder.objectIds() else "users"
            folder[source].removeUser(form["remove"])
        else:
            folder._doAddUser(form["add"], "Secret-9876!", [form.get("role", "Member")], [])
        return "done"
