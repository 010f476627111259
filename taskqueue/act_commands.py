"""``taskqueue cancel | archive | run-now | rerun | stuck``: what an operator does to tasks."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final

from cyclopts import App, Parameter
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn

from .acting import WITHDRAWN_FROM, Actor, Stuck, Tally
from .admin import Admin, Filter
from .asking import NOTHING, Common, acting, complain, example, write_json
from .broker import Withdrawal
from .errors import RecordError, UsageError
from .keys import Keyring
from .tables import span, write_table
from .task import TaskState

Ids = Annotated[str, Parameter(help="Tasks, by id.", negative=())]
Path = Annotated[str | None, Parameter(help="Only with this path; * stands for anything.")]
Label = Annotated[str | None, Parameter(help="Only with this label.")]
Route = Annotated[str | None, Parameter(help="Only of this route, as `show` tells it.")]

_VERBS: Final[dict[Withdrawal, str]] = {"cancelled": "cancel", "archived": "archive"}
STUCK_AGE: Final = 900.0
_ID: Final = "2f1c4a0e-6b0e-4d0b-9a53-0a8e4f1d7c11"
_LATER: Final = "7d1e5b9c-3f0a-4c62-8e11-5a6b7c8d9e0f"


def register(app: App) -> None:
    """Add these commands to ``taskqueue``."""
    app.command(cancel, help_epilogue=example("taskqueue cancel --path '/reports/*' --yes"))
    app.command(archive, help_epilogue=example("taskqueue archive --all --yes"))
    app.command(run_now, name="run-now", help_epilogue=example(f"taskqueue run-now {_LATER}"))
    app.command(rerun, help_epilogue=example(f"taskqueue rerun {_ID}"))
    app.command(stuck, help_epilogue=example("taskqueue stuck --age 600 --restart"))


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Which:
    """Which tasks are meant, when they are not named by id."""

    path: Path = None
    label: Label = None
    route: Route = None
    every: Annotated[bool, Parameter(name="--all", negative=(), help="All there are.")] = False
    force: Annotated[
        bool, Parameter(negative=(), help="Those under way too: their consumers end them within a second.")
    ] = False
    yes: Annotated[bool, Parameter(negative=(), help="Do not ask.")] = False

    @property
    def only(self) -> Filter:
        """What they must have."""
        return Filter(path=self.path, label=self.label, route=self.route)


ANY: Final = Which()


def cancel(*ids: Ids, which: Which = ANY, common: Common = NOTHING) -> int:
    """Cancel tasks that wait, by id, by filter, or all: they will not run, and stay in the log."""
    return _withdraw("cancelled", ids, which, common)


def archive(*ids: Ids, which: Which = ANY, common: Common = NOTHING) -> int:
    """Put tasks that have ended out of sight, by id, by filter, or all; one named by id that waits will not run."""
    return _withdraw("archived", ids, which, common)


def _withdraw(word: Withdrawal, ids: Sequence[str], which: Which, common: Common) -> int:
    verb, force = _VERBS[word], which.force
    filtered = which.every or which.only != Filter() or bool(common.queues and not ids)
    if bool(ids) == filtered:
        raise UsageError(f"{verb}: name ids, or a filter (--queue, --path, --label, --route), or --all")
    if not (ids or which.yes or _confirmed(verb, WITHDRAWN_FROM[word])):
        complain(f"nothing was {word}")
        return 1
    with _counting(word) as bar:
        part = bar.add_task("", total=None)

        async def work(actor: Actor, admin: Admin) -> Tally:
            if not ids:
                progress = lambda done: bar.update(part, completed=done)  # noqa: E731  shorter than a function
                return await actor.withdraw_all(word, which.only, force=force, progress=progress)
            found = [(task_id, await admin.find(task_id)) for task_id in dict.fromkeys(ids)]
            tally = await actor.withdraw([task for _, task in found if task], word, force=force)
            tally.refused |= {task_id: "unknown" for task_id, task in found if task is None}
            return tally

        tally = acting(common, work)
    _tell(word, tally, common)
    return 1 if tally.refused else 0


def _tell(word: Withdrawal, tally: Tally, common: Common) -> None:
    if common.as_json:
        refused = [{"id": task_id, "state": state} for task_id, state in tally.refused.items()]
        write_json({"success": not refused, word: tally.done, "marked": tally.marked, "refused": refused})
        return
    print(f"{len(tally.done)} of {tally.count} task(s) {word}")
    if tally.marked:
        print(f"{len(tally.marked)} under way: they end as soon as their consumers hear of it")
    for task_id, state in tally.refused.items():
        complain(f"task {task_id} {_refusal(state, _VERBS[word])}")


def _refusal(state: str, verb: str) -> str:
    if state == "unknown":
        return "is unknown here: never committed, forgotten since, or in another queue (--queue)"
    if state in ("reserved", "running", "waiting"):
        return f"is {state}; --force ends it all the same"
    if state == "prepared":
        return "is prepared: its transaction has not ended"
    return f"is {state}; only what has not ended can be cancelled" if verb == "cancel" else f"is {state}"


def run_now(*ids: Ids, common: Common = NOTHING) -> int:
    """Run now, before all others of their priority, tasks that wait for their time or their next retry."""
    if not ids:
        raise UsageError("run-now: name at least one id")

    async def work(actor: Actor, admin: Admin) -> int:
        return await actor.hasten(await _in_state(admin, ids, "scheduled"))

    hastened = acting(common, work)
    _told({"asked": len(set(ids)), "queued": hastened}, f"{hastened} of {len(set(ids))} task(s) queued now", common)
    return 0 if hastened == len(set(ids)) else 1


async def _in_state(admin: Admin, ids: Sequence[str], state: str) -> list[TaskState]:
    found = []
    for task_id in dict.fromkeys(ids):
        task = await admin.find(task_id)
        if task is None:
            complain(f"task {task_id} {_refusal('unknown', '')}")
        elif task.state != state:
            complain(f"task {task_id} is {task.state}; only what is {state} waits for its time")
        else:
            found.append(task)
    return found


def rerun(*ids: Ids, common: Common = NOTHING) -> int:
    """Queue new tasks that ask the same, for the same users; of completed ones only with keep=all. Needs the secret."""
    keyring = common.keyring()
    if not ids or keyring is None:
        raise UsageError("rerun: " + ("name at least one id" if not ids else "the secret is needed (TASKQUEUE_SECRET)"))
    known: Keyring = keyring

    async def work(actor: Actor, admin: Admin) -> dict[str, str]:
        made: dict[str, str] = {}
        for task_id in dict.fromkeys(ids):
            task = await admin.find(task_id)
            try:
                new = await actor.rerun(task, known) if task else None
            except RecordError as error:
                complain(f"task {task_id}: {error}")
                continue
            if new:
                made[task_id] = new
            else:
                why = _refusal("unknown", "") if task is None else "has no request any more (keep=all keeps them)"
                complain(f"task {task_id} {why}")
        return made

    made = acting(common, work)
    if common.as_json:
        write_json({"asked": len(set(ids)), "tasks": [{"from": old, "id": new} for old, new in made.items()]})
    else:
        for new in made.values():
            print(new)
    return 0 if len(made) == len(set(ids)) else 1


def stuck(
    *,
    age: Annotated[float, Parameter(help="Seconds after which waiting in line is too long.")] = STUCK_AGE,
    path: Path = None,
    label: Label = None,
    route: Route = None,
    restart: Annotated[bool, Parameter(negative=(), help="Queue again what is lost.")] = False,
    common: Common = NOTHING,
) -> int:
    """List what gets nowhere: waits too long, runs beyond its time-out, or is lost (in no line, held by nobody)."""
    if age < 0:
        raise UsageError(f"--age: {age} must be seconds, 0 or more")
    chosen, keyring, only = common.settings(), common.keyring(), Filter(path=path, label=label, route=route)
    with _counting("looked at") as bar:
        part = bar.add_task("", total=None)

        async def work(actor: Actor, _: Admin) -> tuple[list[Stuck], int]:
            found = await actor.stuck(
                only,
                age=age,
                may_take=chosen.timeout,
                keyring=keyring,
                progress=lambda seen: bar.update(part, completed=seen),
            )
            lost = [one.task for one in found if one.orphan]
            return found, await actor.restart(lost) if restart else 0

        found, restarted = acting(common, work)
    _write_stuck(found, restarted if restart else None, common)
    return 1 if [one for one in found if one.orphan][restarted:] else 0


def _write_stuck(found: Sequence[Stuck], restarted: int | None, common: Common) -> None:
    lost = sum(one.orphan for one in found)
    if common.as_json:
        tasks = [
            {"id": one.task.id, "queue": one.task.queue, "state": one.task.state, "why": one.why, "orphan": one.orphan}
            | {"seconds": round(one.seconds), "path": one.task.path, "label": one.task.label, "holder": one.task.holder}
            for one in found
        ]
        write_json({"tasks": tasks, "total": len(found), "lost": lost, "restarted": restarted})
        return
    rows = [
        (one.task.id, one.task.queue, one.task.state, one.why, span(one.seconds), one.task.path, one.task.holder)
        for one in found
    ]
    if rows:
        write_table(("id", "queue", "state", "why", "for", "path", "consumer"), rows)
    else:
        print("nothing is stuck")
    if restarted is not None:
        print(f"total {len(found)}, lost {lost}, restarted {restarted}, errors {lost - restarted}")
    elif lost:
        complain(f"{lost} task(s) are lost: --restart queues them again")


def _told(document: dict[str, int], words: str, common: Common) -> None:
    if common.as_json:
        write_json(document)
    else:
        print(words)


def _counting(what: str) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn(f"{what}: {{task.completed}}"),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )


def _confirmed(verb: str, states: Sequence[str]) -> bool:
    if not sys.stdin.isatty():
        raise UsageError(f"{verb}: many tasks may be meant; nobody is here to confirm, so give --yes")
    print(f"{verb.capitalize()} all that are {', '.join(states)}? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
