"""``taskqueue curl | replay``: a task's request made by hand, past its queue.

Both read from the store and write nothing there: the task stays what and where it is. Both need its secret, because
the request is sealed, and sign with that of the application they address, which may have another. A door lets such a
delivery in only with ``allow_manual=True``, and each one once. What the request itself adds is queued where that
application adds its tasks.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import urlsplit

from cyclopts import App, Parameter

from . import curl as curls
from . import files, options, policy
from .admin import Admin
from .asking import NOTHING, Common, complain, example, known_secrets, write_json
from .catalogue import Settings
from .errors import UsageError
from .keys import Keyring
from .showing import response_as_json, write_response
from .signature import LIFETIME
from .tables import timestamp, write_pairs
from .task import Response, Task, TaskState, Verdict

if TYPE_CHECKING:
    from .replay import Delivery

CREDENTIALS: Final = ("cookie", "authorization")
"""Headers with which whoever sends them is the user."""

TaskId = Annotated[str, Parameter(help="The id that add returned.")]
SecretFile = Annotated[
    str | None,
    Parameter(help="File with the secret of the application addressed, one a line, if it is not the store's."),
]


def register(app: App) -> None:
    """Add these commands to ``taskqueue``."""
    of = "2f1c4a0e-6b0e-4d0b-9a53-0a8e4f1d7c11"
    laptop = "--to http://127.0.0.1:8000"
    app.command(curl, help_epilogue=example(f"taskqueue curl {of} {laptop}", f"taskqueue curl {of} {laptop} | sh"))
    app.command(replay, help_epilogue=example(f"taskqueue replay {of} {laptop} --secret-file laptop.secret"))


@dataclass(frozen=True, slots=True)
class ByHand:
    """A task's request, to be made by hand: what was recorded, where it goes, and the keys it is signed with."""

    task: Task
    state: TaskState
    to: str
    keyring: Keyring
    settings: Settings

    @property
    def rules(self) -> policy.Rules:
        """What a consumer with these settings would judge the answer by."""
        own = self.task.retry_max_count
        retries = self.settings.retry_max_count if own is None else own
        return policy.Rules(retry_max_count=retries, receipt_required=self.settings.receipt)

    @property
    def attempt(self) -> int:
        """The attempt that was the last one, or would be the first."""
        return max(1, self.state.attempt)

    @property
    def timeout(self) -> float:
        """Seconds that the request may take."""
        return self.task.timeout or self.settings.timeout

    def delivery(self) -> "Delivery":
        """Return it as a delivery, of which no queue knows: its number is 0, so no receipt passes for a real one's."""
        from .replay import Delivery  # noqa: PLC0415  brings the HTTP client, which most commands do without

        return Delivery(
            task=self.task,
            delivery=0,
            attempt=self.attempt,
            max_attempts=self.rules.retry_max_count + 1,
            timeout=self.timeout,
        )

    def verdict(self, outcome: policy.Outcome) -> Verdict:
        """Return what would have become of the task."""
        return policy.decide(
            outcome,
            attempt=self.attempt,
            rules=self.rules,
            anonymous=self.task.user_id is None,
            target_known=False,
            now=time.time(),
            jitter=0.0,
        )


def curl(
    task_id: TaskId,
    /,
    *,
    to: Annotated[
        str | None,
        Parameter(
            help="Scheme and host of the application, which also becomes the Host; without it the --target of the"
            " settings, or else the address that the task was recorded at, and the Host recorded."
        ),
    ] = None,
    secret_file: SecretFile = None,
    common: Common = NOTHING,
) -> int:
    """Print a task's request as a curl command, freshly signed: it works once, for a minute."""
    found = _found(task_id, to, secret_file, common)
    if found is None:
        return 1
    from .replay import signed_headers  # noqa: PLC0415  as above

    expires = (int(time.time()) + LIFETIME) * 1000
    task, host = found.task, urlsplit(found.to).netloc
    headers = signed_headers(found.delivery(), host, found.keyring.current, manual=True)
    command = curls.command(task.method, found.to + task.target, headers, task.body)
    complain(f"valid for {LIFETIME} s and once, at a door with allow_manual=True")
    _warn_of_credentials(task)
    if common.as_json:
        write_json({"task": task.id, "to": found.to, "command": command, "expires": timestamp(expires)})
    else:
        print(command)
    return 0


def replay(
    task_id: TaskId,
    /,
    *,
    to: Annotated[str, Parameter(help="Scheme and host of the application, which also becomes the Host.")],
    secret_file: SecretFile = None,
    common: Common = NOTHING,
) -> int:
    """Run a task against another application, a laptop's perhaps; the task itself does not change.

    Exit code 0 if it would have completed the task, else 1. Once the door lets it in, what the request does it does:
    tasks that it adds go into that application's own queue.
    """
    found = _found(task_id, to, secret_file, common)
    if found is None:
        return 1
    _warn_of_credentials(found.task)
    outcome = asyncio.run(_replayed(found))
    verdict = found.verdict(outcome)
    remark = policy.warning(outcome, verdict)
    answer = outcome if isinstance(outcome, policy.Answered) else None
    response = Response(answer.status, answer.headers, answer.content, size=answer.size) if answer else None
    if common.as_json:
        about = {"task": found.task.id, "to": found.to, "verdict": verdict.kind, "reason": verdict.reason}
        shown = None if response is None else response_as_json(response)
        write_json({**about, "remark": remark, "response": shown})
    else:
        write_pairs([("verdict", verdict.kind), ("reason", verdict.reason), ("remark", remark or "")])
        if response is not None:
            write_response(response, "status")
    return 0 if verdict.kind == "complete" else 1


async def _replayed(found: ByHand) -> policy.Outcome:
    from .replay import HttpReplayer  # noqa: PLC0415  as above

    replayer = HttpReplayer(found.to, found.keyring, connect_timeout=found.settings.connect_timeout, manual=True)
    async with replayer:
        return await replayer.replay(found.delivery())


def _found(task_id: str, to: str | None, secret_file: str | None, common: Common) -> ByHand | None:
    """Return the task as it is to be sent, None after saying why it cannot be.

    Raises RecordError if the record cannot be opened, UsageError or ConfigError for what was said wrong.
    """
    chosen = common.settings()
    address = None if to is None else _address(to)
    ours = Keyring(known_secrets(chosen))
    theirs = Keyring(files.secrets_in(Path(secret_file), "--secret-file")) if secret_file else ours
    found = common.ask(_asking(task_id, ours))
    if found is None:
        queues = ", ".join(chosen.queues)
        complain(f"no task {task_id!r} in {queues}: never committed, forgotten since, or in another queue (--queue)")
        return None
    state, task = found
    if task is None:
        complain(f"the request of task {task_id} is no longer stored: a completed task's is removed")
        return None
    if address is not None:
        task = replace(task, host="", scheme=urlsplit(address).scheme)
    return ByHand(task, state, address or _recorded_address(task, chosen), theirs, chosen)


def _asking(task_id: str, keyring: Keyring) -> Callable[[Admin], Awaitable[tuple[TaskState, Task | None] | None]]:
    async def ask(admin: Admin) -> tuple[TaskState, Task | None] | None:
        state = await admin.find(task_id)
        return None if state is None else (state, await admin.request(state, keyring))

    return ask


def _address(to: str) -> str:
    try:
        return options.base_url(to)
    except ValueError as error:
        raise UsageError(f"--to: {to!r} {error}") from None


def _recorded_address(task: Task, chosen: Settings) -> str:
    """Return where a consumer would send it; where that is not set, where the task was recorded."""
    if chosen.target:
        return chosen.target
    if not task.host:
        raise UsageError("--to: the task was recorded outside a request, and no target is set; give the address")
    return f"{task.scheme or 'http'}://{task.host}"


def _warn_of_credentials(task: Task) -> None:
    carried = [name.title() for name, _ in task.headers if name.lower() in CREDENTIALS]
    if carried:
        complain(f"warning: with {' and '.join(carried)} of the request; whoever gets to see them can act as that user")
