"""From the arguments of ``add``, and the request that is running, to a Task. Everything wrong is told here, by name."""

import math
import os
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from difflib import get_close_matches
from typing import Final, NamedTuple, TypedDict, Unpack

from .defaults import NO_DEFAULTS, NOTHING, Defaults, DefaultsByPath, check_priority, check_retries, check_timeout
from .errors import BodyUnavailable, InvalidTask, UnknownQueue
from .fast_init import fast_init
from .headers import caller_headers, check_size, copied_headers, merge_headers, with_one_cookie
from .request import CURRENT, UNSET, Current, CurrentRequest, CurrentTask, Unset
from .routes import NO_ROUTES, Routes, choose
from .target import Limits, check_body, check_label, check_method, check_user_id, json_body, target_of
from .task import NORMAL_PRIORITY, Task

Headers = Mapping[str, str] | Iterable[tuple[str, str]] | None
Payload = bytes | bytearray | memoryview | str | Current | None

CARRY_A_BODY: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
EXPIRES_AFTER: Final = timedelta(days=35)
LONGEST_DELAY: Final = timedelta(days=365)
_RELATIVES: Final = ("child", "master_status", "on_success", "on_failure")
_MS: Final = timedelta(milliseconds=1)
_EXPIRES_AFTER_MS: Final = EXPIRES_AFTER // _MS
_LONGEST_DELAY_MS: Final = LONGEST_DELAY // _MS


class Options(TypedDict, total=False):
    """The keyword arguments of ``add``; see there."""

    json: object | Unset
    delay: float | timedelta | None
    eta: datetime | None
    user_id: str | Current | None
    label: str | None
    timeout: float | None
    retry_max_count: int | None
    priority: int | None
    child: bool
    master_status: bool
    on_success: object | None
    on_failure: object | None


_OPTIONS: Final = Options.__annotations__.keys()
_BY_PLACE: Final = ("url", "method", "params", "headers", "payload", "queue")


@fast_init
@dataclass(frozen=True, slots=True)
class Frame:
    """What a task takes from where it is added: the TaskQueue's rules, and the running request if there is one."""

    queues: Sequence[str]
    limits: Limits
    public: tuple[str, str]
    request: CurrentRequest | None
    defaults: DefaultsByPath = NO_DEFAULTS
    routes: Routes = NO_ROUTES


class Draft(NamedTuple):
    """A task, and what of it only the commit can fill in."""

    task: Task
    copies_body: bool
    copies_user: bool


def draft(
    frame: Frame,
    url: object,
    method: str | None,
    params: Mapping[str, object] | None,
    headers: Headers,
    payload: Payload,
    queue: str | None,
    **options: Unpack[Options],
) -> Draft:
    """Take what ``add`` takes and return the task; raises InvalidTask, UnknownQueue or BodyUnavailable."""
    _check_known(options)
    request, limits = frame.request, frame.limits
    json, user_id = options.get("json", UNSET), options.get("user_id", CURRENT)
    given = payload is not CURRENT or json is not UNSET
    method = check_method(method, given and not (payload is None and json is UNSET))
    copies_body = not given and method in CARRY_A_BODY and _has_body(request, limits)
    body, own = _content(payload, json, caller_headers(headers, limits), limits)
    if body and method not in CARRY_A_BODY:
        warnings.warn(f"payload: servers may ignore the body of a {method}; give method='POST'", stacklevel=3)
    scheme, host = (request.scheme, request.host) if request else frame.public
    due, expires = _when(options.get("delay"), options.get("eta"), created := _now_ms())
    target = target_of(url, params, limits)
    view = frame.defaults.of(target)
    running = request.task if request else None
    if options.get("child"):
        queue = _queue_of_child(running, queue)
    chosen_queue, route, chosen = choose(target, own=queue, view=view, routes=frame.routes)
    own, host = _without_host(own, host)
    task = Task(
        id=new_id(os.urandom(16)),
        queue=queue_name(chosen_queue, frame.queues, frame.routes.queues),
        method=method,
        target=target,
        host=host,
        scheme=scheme,
        headers=_all_headers(frame, own, content=copies_body, same_user=user_id is CURRENT),
        body=body,
        user_id=_current_user(request) if user_id is CURRENT else check_user_id(user_id),
        created=created,
        expires=expires,
        due=due,
        parent=running.id if running else "",
        **_terms(NOTHING if view is None else view[1], options),
        **_relatives(options, limits, running),
        route=route,
        chosen=chosen,
    )
    later = request is not None and request.user_id_later is not None and user_id is CURRENT
    return Draft(task, copies_body, later)


class _Terms(TypedDict):
    label: str
    timeout: float | None
    retry_max_count: int | None
    priority: int


def _terms(defaults: Defaults, options: Options) -> _Terms:
    """Return how a task is to be run: what was said, else what its view says of itself."""
    label, timeout, retries = options.get("label"), options.get("timeout"), options.get("retry_max_count")
    return {
        "label": "" if label is None else check_label(label),
        "timeout": defaults.timeout if timeout is None else check_timeout(timeout),
        "retry_max_count": defaults.retry_max_count if retries is None else check_retries(retries),
        "priority": _first(check_priority(options.get("priority")), defaults.priority),
    }


class _Relatives(TypedDict, total=False):
    child: bool
    master_status: bool
    on_success: str
    on_failure: str


def _relatives(options: Options, limits: Limits, parent: CurrentTask | None) -> _Relatives:
    """Return what connects a task with others."""
    if not options or options.keys().isdisjoint(_RELATIVES):
        return {}
    success, failure = options.get("on_success"), options.get("on_failure")
    return {
        # What is run by hand changes nothing for the task itself, so that does not begin to wait.
        "child": bool(options.get("child")) and not (parent is not None and parent.manual),
        "master_status": bool(options.get("master_status")),
        "on_success": "" if success is None else _target_after("on_success", success, limits),
        "on_failure": "" if failure is None else _target_after("on_failure", failure, limits),
    }


def _target_after(end: str, url: object, limits: Limits) -> str:
    try:
        return target_of(url, None, limits)
    except InvalidTask as error:
        raise InvalidTask(f"{end}: {str(error).removeprefix('url: ')}") from None


def _check_known(options: Options) -> None:
    """Refuse a keyword that means nothing: one misspelt would otherwise be left out in silence."""
    if options and (unknown := sorted(options.keys() - _OPTIONS)):
        taken = sorted((*_OPTIONS, *_BY_PLACE))
        close = get_close_matches(unknown[0], taken, n=1)
        meant = f"; did you mean {close[0]}? I" if close else "; i"
        raise InvalidTask(f"{unknown[0]}: add takes no such argument{meant}t takes {', '.join(taken)}")


def _queue_of_child(parent: CurrentTask | None, queue: str | None) -> str:
    """Return the queue of a task that another waits for: one move ends the last child and its parent."""
    if parent is None:
        raise InvalidTask("child: only a running task can have one; leave it out here")
    if queue is not None and queue != parent.queue:
        raise InvalidTask(f"child: its queue must be its parent's, {parent.queue!r}, not {queue!r}; leave queue= out")
    return parent.queue


def _content(
    payload: Payload, json: object | Unset, own: list[tuple[str, str]], limits: Limits
) -> tuple[bytes, list[tuple[str, str]]]:
    if json is not UNSET:
        if payload is not CURRENT:
            raise InvalidTask("payload: give either payload or json, not both")
        return json_body(json, limits), list(merge_headers([("content-type", "application/json")], own))
    return (b"" if payload is CURRENT or payload is None else check_body(payload, limits)), own


def _without_host(own: list[tuple[str, str]], host: str) -> tuple[list[tuple[str, str]], str]:
    """Return these headers without the host among them, and that one; if there is none, the one given."""
    for name, value in own:
        if name == "host":  # which stands there once
            return [pair for pair in own if pair[0] != "host"], value
    return own, host


def _all_headers(
    frame: Frame, own: list[tuple[str, str]], *, content: bool, same_user: bool
) -> tuple[tuple[str, str], ...]:
    if frame.request is None:
        return tuple(with_one_cookie(own))
    # A task for somebody else must not carry this user's session.
    credentials = frame.request.credentials and same_user
    headers = merge_headers(copied_headers(frame.request.headers, content=content, credentials=credentials), own)
    check_size(headers, frame.limits)
    return headers


def _has_body(request: CurrentRequest | None, limits: Limits) -> bool:
    if request is None or request.body is None:
        return False
    declared = request.body.declared
    if declared is not None and declared > limits.body:
        raise BodyUnavailable(
            f"payload: the current request's body has {declared} bytes, over the limit of {limits.body}; give"
            " payload=None, a payload of your own (a reference to where you stored it), or raise limits.body",
            status=413,
        )
    return True


def _current_user(request: CurrentRequest | None) -> str | None:
    if request is None or request.user_id is None:
        return None
    return check_user_id(request.user_id())


def _first(*choices: int | None) -> int:
    for choice in choices:
        if choice is not None:
            return choice
    return NORMAL_PRIORITY


def new_id(random: bytes) -> str:
    """Take 16 random bytes and return them as a UUID of version 4 (RFC 9562, 5.4)."""
    digits = random.hex()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{'89ab'[random[8] & 3]}{digits[17:20]}-{digits[20:]}"


def queue_name(name: str | None, queues: Sequence[str], ruled: Sequence[str] = ()) -> str:
    """Return the queue meant by ``name``, or the default one for None; raises UnknownQueue with those there are.

    ``ruled`` are those that a rule has named: as good as the others, but never the default.
    """
    if name is None:
        return "default" if "default" in queues else min(queues)
    if name not in queues and name not in ruled:
        known = dict.fromkeys((*queues, *ruled))
        raise UnknownQueue(
            f"queue: {name!r} is not one of {', '.join(known)}; name one of them, or add it to queues= of"
            " the TaskQueue, or to a rule (taskqueue route)"
        )
    return name


def _when(delay: float | timedelta | None, eta: datetime | None, now: int) -> tuple[int, int]:
    """Return due (0 now, negative a delay, else the time; ms) and expires (ms since 1970)."""
    if delay is not None and eta is not None:
        raise InvalidTask("delay: give either delay or eta, not both")
    due = wait = 0
    if delay is not None:
        wait = _delay_ms(delay)
        due = -wait
    elif eta is not None:
        if not isinstance(eta, datetime):
            raise InvalidTask(f"eta: a datetime is needed, not {type(eta).__name__}")
        if eta.tzinfo is None or eta.utcoffset() is None:
            raise InvalidTask("eta: this datetime has no time zone; give an aware one, as in datetime.now(UTC)")
        due = round(eta.timestamp() * 1000)
        wait = max(0, due - now)
        due = due if wait else 0
    if wait > _LONGEST_DELAY_MS:
        raise InvalidTask(f"{'eta' if eta else 'delay'}: over {LONGEST_DELAY.days} days ahead; add it later")
    return due, now + wait + _EXPIRES_AFTER_MS


def _delay_ms(delay: float | timedelta) -> int:
    seconds = delay.total_seconds() if isinstance(delay, timedelta) else delay
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise InvalidTask(f"delay: seconds or a timedelta is needed, not {type(delay).__name__}")
    if not 0 <= seconds < math.inf:
        raise InvalidTask(f"delay: {seconds!r} is no number of seconds from 0 up")
    return round(seconds * 1000)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
