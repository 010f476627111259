"""The door of a WSGI application (PEP 3333): Flask, Pyramid, and every other.

Tasks are stored when the application has said all that it has to say: its iterable is used up and closed. Until then
the answer of a request that has added tasks is held back, status and headers included; of a stream, its end: so nobody
is told of a success that may still fail. All threads of a process share one event loop in the background for that, and
its round trips.
"""

import functools
import inspect
import io
import logging
import math
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final
from urllib.parse import unquote
from wsgiref.types import InputStream, StartResponse, WSGIApplication, WSGIEnvironment

from ..admission import Admission
from ..answers import BROKEN_OFF, Answer, too_large
from ..door import Arrival, Credentials, Door, LoadUser, ReplayGuard, UserId, may_carry_body
from ..errors import ConfigError
from ..producer import TaskQueue, current_task
from ..request import HANDOVER, Body, Handover
from ..target import quote_path
from ..tee import SPOOL_BYTES, Connection, InputTee
from ..transaction import Transaction
from ..wsgi_exchange import WsgiExchange, send_answer

log = logging.getLogger("taskqueue.door")

USER: Final = "taskqueue.user"
"""Where the user of a task stands in the environ."""

_NOT_FOUND: Final = Answer(404, "Not Found")
# As on the request line: of werkzeug, mod_wsgi, uWSGI; of gunicorn.
_REQUEST_LINE: Final = ("REQUEST_URI", "RAW_URI")
# What WebOb has noted of the server's input, which is not true of ours.
_SEEKABLE: Final = "webob.is_body_seekable"
_CONNECTIONS: Final = ("gunicorn.socket", "werkzeug.socket")


def authenticated_user(environ: WSGIEnvironment) -> str | None:
    """Return ``environ["REMOTE_USER"]``, where servers and login middlewares put the user's id, or None for nobody."""
    return _text(environ.get("REMOTE_USER", "")) or None


class TaskQueueMiddleware:
    """Lets an application add tasks and receive their deliveries. It must stand outermost."""

    def __init__(
        self,
        app: WSGIApplication,
        tq: TaskQueue,
        load_user: LoadUser | None = None,
        user_id: UserId[WSGIEnvironment] | None = None,
        *,
        credentials: Credentials | None = None,
        task_only: Iterable[str] = (),
        replay_guard: ReplayGuard = "begin",
        allow_manual: bool = False,
    ) -> None:
        """Take the application and its TaskQueue; raises ConfigError.

        ``load_user``, plain or async, gets a task's user id and returns the user, who is put into
        ``environ["taskqueue.user"]`` (and the id into ``REMOTE_USER``), or None if there is none any more: then the
        task fails. ``user_id``, plain or async, gets the environ and returns the id (a str) of the user who adds a
        task, or None; without it ``authenticated_user`` is asked. What is async runs in the background loop of this
        process. ``credentials``: whether ``Cookie`` and ``Authorization`` travel with a task; None: only if there is no
        ``load_user``. ``task_only``: paths which, with all below them, are 404 for everybody else. ``replay_guard``:
        who sees to it that a delivery starts only once: the broker (``"begin"``) or, cheaper but blind to other
        processes, this one's memory (``"process"``): then a consumer over HTTP takes what it held when it died for not
        begun, and that spends no attempt. ``allow_manual``: whether a person who knows the secret may run a task by
        hand here (``taskqueue curl``, ``taskqueue replay``), past its queue, so that the task itself does not change;
        what it adds is queued as ever.
        """
        self._app, self._tq = app, tq
        self._door: Final[Door[WSGIEnvironment]] = Door(
            tq,
            load_user=load_user,
            user_id=user_id or authenticated_user,
            credentials=credentials,
            task_only=task_only,
            replay_guard=replay_guard,
            allow_manual=allow_manual,
        )
        self.replay_in(self)

    def replay_in(self, app: WSGIApplication) -> None:
        """Have commits in mode ``sync`` replay in this application, of which the door is a part."""
        self._whole = app
        self._door.stands_in("wsgi", lambda: app)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        arrival = arrived(environ)
        if arrival.claimed:
            return self._delivery(arrival, environ, start_response)
        if self._hides(environ):
            return _not_found(self._app, self._missing(environ), start_response)
        if not self._door.stands_in_it():
            self.replay_in(self._whole)
        tee = _tee(environ, self._tq.limits.body)
        if tee is not None:
            environ["wsgi.input"] = tee
            environ.pop(_SEEKABLE, None)
        return self._serve(arrival, environ, start_response, tee, None)

    def _hides(self, environ: WSGIEnvironment) -> bool:
        mount, path = _text(environ.get("SCRIPT_NAME", "")), _text(environ.get("PATH_INFO", ""))
        return self._door.hides(mount + path, mount)

    def _missing(self, environ: WSGIEnvironment) -> WSGIEnvironment:
        """Return a request like this one, for a path that the application does not have."""
        path = f"/{secrets.token_hex(16)}"
        missing: WSGIEnvironment = {**environ, "PATH_INFO": path}
        missing.update((name, environ.get("SCRIPT_NAME", "") + path) for name in _REQUEST_LINE if name in environ)
        return missing

    def _delivery(self, arrival: Arrival, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        admitted = self._door.admit_sync(arrival, functools.partial(_read, environ, self._tq.limits.body))
        if isinstance(admitted, Answer):
            return send_answer(start_response, admitted)
        environ["wsgi.input"] = io.BytesIO(admitted.content)
        environ["CONTENT_LENGTH"] = str(len(admitted.content))
        environ.pop("HTTP_TRANSFER_ENCODING", None)
        environ["wsgi.url_scheme"] = arrival.recorded_scheme or environ["wsgi.url_scheme"]
        task = admitted.task
        if task.user is not None and task.user_id is not None:
            environ[USER] = task.user
            environ["REMOTE_USER"] = task.user_id.encode().decode("latin-1")
        return self._serve(arrival, environ, start_response, admitted.body, admitted)

    def _serve(
        self,
        arrival: Arrival,
        environ: WSGIEnvironment,
        start_response: StartResponse,
        body: Body | None,
        admission: Admission | None,
    ) -> Iterable[bytes]:
        scheme = environ["wsgi.url_scheme"]
        request = self._door.request(arrival, environ, scheme=scheme, body=body, admission=admission)
        transaction = Transaction(self._tq, request=request)
        tee = body if isinstance(body, InputTee) else None
        return WsgiExchange(start_response, transaction, tee, admission).run(self._app, environ)


def task_only(app: WSGIApplication) -> WSGIApplication:
    """Decorate a WSGI application behind the door, to be 404 for all but deliveries.

    Raises ConfigError for anything else.
    """
    if inspect.isclass(app) or len(inspect.signature(app).parameters) != 2:
        raise ConfigError("task_only: decorate a WSGI application, a callable that takes environ and start_response")

    @functools.wraps(app)
    def guarded(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if current_task() is None:
            return send_answer(start_response, _NOT_FOUND)
        return app(environ, start_response)

    return guarded


def arrived(environ: WSGIEnvironment) -> Arrival:
    """Return a request of a WSGI server as the doors look at it."""
    scope = environ.get("asgi.scope")  # of a2wsgi, which calls the application in process
    handover = scope.get(HANDOVER) if isinstance(scope, dict) else None
    return Arrival(
        method=environ["REQUEST_METHOD"],
        targets=_targets(environ),
        headers=list(_headers(environ)),
        handover=handover if isinstance(handover, Handover) else None,
    )


def _headers(environ: WSGIEnvironment) -> Iterator[tuple[str, str]]:
    for key, value in environ.items():
        if key.startswith("HTTP_"):
            yield key[5:].replace("_", "-").lower(), _text(value)
        elif key == "CONTENT_LENGTH" and value:
            yield "content-length", value
        elif key == "CONTENT_TYPE" and value and not _is_made_up(environ):
            yield "content-type", _text(value)


def _is_made_up(environ: WSGIEnvironment) -> bool:
    """Return whether wsgiref, and what is built on it, says ``text/plain`` where a delivery said nothing."""
    of_wsgiref = environ.get("SERVER_SOFTWARE", "").startswith("WSGIServer/")
    signed = environ.get("HTTP_SIGNATURE_INPUT", '"content-type"')
    return of_wsgiref and environ["CONTENT_TYPE"] == "text/plain" and '"content-type"' not in signed


def _targets(environ: WSGIEnvironment) -> Sequence[str]:
    """Return what the target may have been on the request line, with the mount point (SCRIPT_NAME) and without.

    Preferred is what the server says of that line, if it means the same path: a middleware may have written another.
    The decoded path can be encoded again, because ``add`` takes canonical paths only.
    """
    mount, path = (environ.get(name, "").encode("latin-1") for name in ("SCRIPT_NAME", "PATH_INFO"))
    query = _text(environ.get("QUERY_STRING", ""))
    prefix, paths = quote_path(mount), [quote_path(mount + path), quote_path(path)]
    for name in _REQUEST_LINE:
        sent = _text(environ.get(name, "")).partition("?")[0]
        if sent and unquote(sent) in ((mount + path).decode(errors="replace"), path.decode(errors="replace")):
            paths = [sent, sent.removeprefix(prefix)]
            break
    return [f"{path}?{query}" if query else path for path in dict.fromkeys(paths)]


def _text(value: str) -> str:
    """Return as the signature has it what PEP 3333 hands over as if it were latin-1."""
    return value.encode("latin-1").decode("utf-8", "surrogateescape")


def _declared(environ: WSGIEnvironment) -> int | None:
    text = environ.get("CONTENT_LENGTH", "")
    return int(text) if text.isdecimal() else None


def _tee(environ: WSGIEnvironment, limit: int) -> InputTee | None:
    declared = _declared(environ)
    # HTTP/2 and 3 need no header for a body without a length.
    unframed = bool(environ.get("wsgi.input_terminated")) and environ.get("SERVER_PROTOCOL", "") >= "HTTP/2"
    chunked = "HTTP_TRANSFER_ENCODING" in environ or unframed
    if not may_carry_body(environ["REQUEST_METHOD"], declared, chunked=chunked):
        return None
    found: Connection | None = next((environ[name] for name in _CONNECTIONS if name in environ), None)
    connection = None if unframed else found  # which other requests use as well
    return InputTee(environ["wsgi.input"], declared=declared, limit=limit, connection=connection)


def _read(environ: WSGIEnvironment, limit: int, *, keep: bool) -> bytes | Answer:
    """Return a delivery's body, or the answer to one that cannot be taken."""
    declared = _declared(environ)
    if declared is None and "HTTP_TRANSFER_ENCODING" not in environ:
        return b""
    return read_all(environ["wsgi.input"], declared, limit, keep=keep)


def read_all(source: InputStream, declared: int | None, limit: int, *, keep: bool) -> bytes | Answer:
    """Do what ``door.Read`` describes for a stream with this Content-Length; the limit is in bytes."""
    body, received, left = bytearray(), 0, math.inf if declared is None else declared
    while left > 0:
        if max(received, declared or 0) > limit and not keep:
            return too_large(limit)
        piece = source.read(int(min(SPOOL_BYTES, left)))
        if not piece and declared is not None:
            return BROKEN_OFF
        if not piece:
            break
        left -= len(piece)
        received += len(piece)
        if keep and received <= limit:
            body += piece
    return bytes(body) if received <= limit else too_large(limit)


def _not_found(app: WSGIApplication, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer as the application answers for a path that it does not have, or plainly if it has an answer to all."""
    missing: WSGIEnvironment = {**environ, "wsgi.input": io.BytesIO(), "CONTENT_LENGTH": "0"}
    missing.pop("HTTP_TRANSFER_ENCODING", None)
    head: list[tuple[str, list[tuple[str, str]]]] = []
    body: list[bytes] = []

    def start(status: str, headers: list[tuple[str, str]], _exc_info: Any = None, /) -> Callable[[bytes], object]:
        head[:] = [(status, headers)]
        return body.append

    try:
        result = app(missing, start)
        try:
            body.extend(result)
        finally:
            close = getattr(result, "close", None)
            if close is not None:
                close()
    except Exception:
        log.exception("the application raised for a path that it does not have")
        head.clear()
    if not head or not head[0][0].startswith("404"):
        return send_answer(start_response, _NOT_FOUND)
    start_response(*head[0])
    return body
