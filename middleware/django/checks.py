"""System checks: what is wrong with the settings is said by ``manage.py check``, and so at every start of a command."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage, Error
from django.db import connections
from django.utils.module_loading import import_string

from ...errors import TaskQueueError
from ...middleware.django import configuration
from ...middleware.django.door import TaskQueueMiddleware, door_of
from ...middleware.django.queue import task_queue

_OURS: Final = f"{TaskQueueMiddleware.__module__.rpartition('.')[0]}.{TaskQueueMiddleware.__name__}"
OUTBOX_TABLE: Final = "taskqueue_outbox"
_ROOM: Final = f"Put {_OURS!r} first in MIDDLEWARE."
# What answers in place of the views, looks at who the user is, or changes what was received.
_INSIDE: Final = (
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.auth.middleware.LoginRequiredMiddleware",
    "django.contrib.auth.middleware.RemoteUserMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.cache.FetchFromCacheMiddleware",
    "django.middleware.cache.UpdateCacheMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.security.SecurityMiddleware",
)


def check(**_: Any) -> Sequence[CheckMessage]:
    """Return what Django is to say of the project's settings."""
    return [*_settings(), *_middleware(), *_redirect(), *_cache()]


def check_database(*, databases: Sequence[str] | None = None, **_: Any) -> Sequence[CheckMessage]:
    """Return where the table of the outbox is missing; Django asks at ``check --database`` and at ``migrate``."""
    if configuration.faults():
        return []
    missing = [
        alias
        for alias in configuration.outboxes()
        if alias in (databases or ()) and OUTBOX_TABLE not in connections[alias].introspection.table_names()
    ]
    text = "TASKQUEUE: OUTBOX: the database {!r} has no table {}, so adding a task in a transaction fails."
    return [
        checks.Warning(text.format(alias, OUTBOX_TABLE), hint="Run manage.py migrate.", id="taskqueue.W003")
        for alias in missing
    ]


def _settings() -> Iterator[CheckMessage]:
    faults = configuration.faults()
    for fault in faults:
        yield Error(fault, id="taskqueue.E001")
    if faults:
        return
    try:
        tq = task_queue()
        door_of(tq, is_async=False)
    except TaskQueueError as error:
        yield Error(f"TASKQUEUE: {error}", id="taskqueue.E002")
        return
    try:
        _ = tq.url
    except TaskQueueError as error:
        yield Error(f"TASKQUEUE: {error}", hint="Set TASKQUEUE['URL'], for example.", id="taskqueue.E003")
        return
    try:
        _ = tq.keyring
    except TaskQueueError as error:
        hint = "Set TASKQUEUE['SECRET'], for example; `taskqueue secret` makes one."
        yield Error(f"TASKQUEUE: {error}", hint=hint, id="taskqueue.E004")


def _middleware() -> Iterator[CheckMessage]:
    names = list(settings.MIDDLEWARE)
    places = [place for place, name in enumerate(names) if _is_ours(name)]
    if len(places) != 1:
        times = "is missing" if not places else f"stands there {len(places)} times"
        yield Error(f"MIDDLEWARE: {_OURS} {times}.", hint=_ROOM, id="taskqueue.E005")
        return
    before = names[: places[0]]
    wrong = [name for name in before if name in _INSIDE]
    if wrong:
        text = f"MIDDLEWARE: {', '.join(wrong)} must come after {_OURS}: deliveries get there unproved."
        yield Error(text, hint=_ROOM, id="taskqueue.E006")
    elif before:
        text = f"MIDDLEWARE: what {', '.join(before)} answers to a delivery has no receipt, and completes no task."
        yield checks.Warning(text, hint=_ROOM, id="taskqueue.W001")


def _is_ours(name: str) -> bool:
    try:
        found = import_string(name)
    except ImportError:
        return False  # Django says so itself
    return isinstance(found, type) and issubclass(found, TaskQueueMiddleware)


def _redirect() -> Iterator[CheckMessage]:
    """Tasks that name no scheme are sent as they are: a redirect to https would be all that they get."""
    if settings.SECURE_SSL_REDIRECT and not getattr(settings, "TASKQUEUE", {}).get("PUBLIC_URL"):
        text = "SECURE_SSL_REDIRECT: tasks that are added outside a request would be redirected, and fail."
        hint = "Set TASKQUEUE['PUBLIC_URL'] = 'https://...'."
        yield checks.Warning(text, hint=hint, id="taskqueue.W002")


def _cache() -> Iterator[CheckMessage]:
    """Tell that what a cache keeps is an answer, to a task as to anybody."""
    if "django.middleware.cache.FetchFromCacheMiddleware" in settings.MIDDLEWARE:
        text = "MIDDLEWARE: GET tasks may be answered from the cache, and complete without their view."
        yield checks.Warning(text, hint="Add them with method='POST'.", id="taskqueue.W003")
