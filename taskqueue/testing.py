"""For the tests of an application: see which tasks its requests add, without Redis, secret or consumer.

>>> with taskqueue.capture() as tasks:
...     client.post("/reports", data={"year": 2026})
>>> assert tasks.find("/reports/build").user_id == "ada"
"""

import reprlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from .producer import captures
from .task import Task


class Tasks(list[Task]):
    """The tasks that were committed, in order: a list, with ways to ask for some of them."""

    @property
    def paths(self) -> list[str]:
        """Return the path of each task, without its query."""
        return [task.path for task in self]

    def select(self, path: str | None = None, **fields: object) -> "Tasks":
        """Return the tasks with this path (without query) and these values of a Task's fields, maybe none.

        For example ``tasks.select("/mail", queue="mail", user_id=None)``. Raises TypeError for what is no such field.
        """
        wanted = _wanted(path, fields)
        return Tasks(task for task in self if _agreeing(task, wanted) == len(wanted))

    def find(self, path: str | None = None, **fields: object) -> Task:
        """Return the one task that ``select`` finds; raise AssertionError for none, naming the nearest, or many."""
        found = self.select(path, **fields)
        if len(found) == 1:
            return found[0]
        wanted = _wanted(path, fields)
        asked = _shown(wanted) or "any fields"
        if found:
            raise AssertionError(f"{len(found)} tasks, not one, have {asked}: {_listed(found)}")
        if not self:
            raise AssertionError(f"no task has {asked}: none was committed")
        nearest = max(self, key=lambda task: _agreeing(task, wanted))
        differs = {name: getattr(nearest, name) for name, value in wanted.items() if getattr(nearest, name) != value}
        nearly = f"{nearest.method} {nearest.path} with {_shown(differs)}"
        raise AssertionError(f"no task has {asked}; nearest is {nearly}; all: {_listed(self)}")


@contextmanager
def capture() -> Iterator[Tasks]:
    """Collect what every TaskQueue of this process commits, in any thread, instead of queueing it.

    What is aborted is not collected. Captures may be nested: the innermost collects.
    """
    tasks = Tasks()
    captures.append(tasks)
    try:
        yield tasks
    finally:
        # By identity: two captures that hold the same tasks are equal.
        captures[:] = [other for other in captures if other is not tasks]


def _wanted(path: str | None, fields: Mapping[str, object]) -> dict[str, object]:
    unknown = [name for name in fields if not hasattr(Task, name)]
    if unknown:
        raise TypeError(f"{unknown[0]!r} is no field of a Task")
    return dict(fields) if path is None else {"path": path, **fields}


def _agreeing(task: Task, wanted: Mapping[str, object]) -> int:
    return sum(getattr(task, name) == value for name, value in wanted.items())


def _shown(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={reprlib.repr(value)}" for name, value in values.items())


def _listed(tasks: Tasks) -> str:
    return ", ".join(f"{task.method} {task.path}" for task in tasks[:20]) + (" ..." if len(tasks) > 20 else "")
