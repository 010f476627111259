"""What commands answer with ``--json`` is what docs/json-schema says, and docs/cli.md tells where that is."""

import json
import re
from typing import Any, Final

import pytest

from taskqueue import watching
from taskqueue.task import Verdict
from tests.house import tree
from tests.house.programs import commands
from tests.house.schemas import FOLDER, faults, schema
from tests.laptop import Laptop
from tests.tasks import SECRET, opaque, opaque_tasks, sealed, task
from tests.work import Doing, Work

ID: Final = "2f1c4a0e-6b0e-4d0b-9a53-0a8e4f1d7c11"
ANSWERS: Final = [
    ("add", "add /x --delay 5"),
    ("list", "list"),
    ("show", f"show {ID}"),
    ("show", f"show {ID} --full"),
    ("show", "show id-opaque --full"),
    ("log", f"log {ID}"),
    ("stats", "stats --queue default --queue mail"),
    ("stats-owner", "stats --owner ada"),
    ("times", "times"),
    ("watch", "watch --interval 0.1 --count 2"),
    ("workers", "workers"),
    ("retry", f"retry {ID}"),
    ("cancel", "cancel id-opaque nobody"),
    ("cancel", "cancel --all --force --yes"),
    ("archive", f"archive {ID} id-opaque"),
    ("run-now", "run-now id-opaque"),
    ("rerun", f"rerun {ID}"),
    ("stuck", "stuck --age 0 --restart"),
    ("route", "route"),
    ("route", "route /x/* mail --category export"),
    ("route", "route remove /x/*"),
    ("curl", f"curl {ID} --to http://127.0.0.1:1"),
    ("replay", f"replay {ID} --to http://127.0.0.1:1"),
    ("queues", "queues"),
    *((f"queues-{'purge' if verb == 'purge' else 'said'}", f"queues {verb} mail{more}") for verb, more in (
        ("pause", ""), ("resume", ""), ("close", ""), ("open", ""), ("disable", ""), ("enable", ""), ("limit", " 5"),
        ("purge", " --yes"),
    )),
    ("queues-drain", "queues drain mail --timeout 0"),
    ("doctor", "doctor --queue empty"),
    ("acl", "acl"),
    ("config-show", "config show"),
    ("config-show", "config show --origin"),
]  # fmt: skip


@pytest.fixture
def place(taskqueue: Any, store: Doing, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store with a task in every state, and somebody who has said something."""
    monkeypatch.setenv("TASKQUEUE_SECRET", SECRET)
    monkeypatch.setattr(watching, "SILENT_AFTER", 0.1)

    @store
    async def _(work: Work) -> None:
        await work.fail(sealed(task("/build", "POST", id=ID, headers=(("cookie", "a=1"),), body=b"\xff")))
        await work.push(opaque("id-opaque"), *opaque_tasks(3), opaque(due=-3_600_000))
        await work.end(await work.take(1), Verdict("complete", status=200))
        await work.take(1)
        await work.push(opaque(queue="mail"))


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(("name", "arguments"), ANSWERS, ids=[arguments for _, arguments in ANSWERS])
def test_an_answer_is_as_documented(taskqueue: Any, name: str, arguments: str) -> None:
    ran = taskqueue(*arguments.split(), "--json")
    documents = ran.out.splitlines() if name == "watch" else [ran.out]
    assert documents[0], ran
    for document in documents:
        assert list(faults(json.loads(document), schema(name))) == []


@pytest.mark.usefixtures("place")
def test_the_answer_of_an_application_is_as_documented(taskqueue: Any) -> None:
    with Laptop().running(SECRET, allow_manual=True) as base:
        document = taskqueue("replay", ID, "--to", base, "--json").document
    assert document["response"]["status"] == 201
    assert list(faults(document, schema("replay"))) == []


def test_the_page_names_every_command_and_its_schema() -> None:
    """A row's first cell names commands, its last the schema, which a test above compares with an answer."""
    rows = [line.split(" | ") for line in (tree.ROOT / "docs" / "cli.md").read_text().splitlines() if line[:3] == "| `"]
    told: dict[str, str | None] = {}
    for row in rows:
        link = re.search(r"\(json-schema/([a-z-]+)\.json\)", row[-1])
        first, *others = re.findall(r"`([a-z -]+)`", row[0])
        group = first.rpartition(" ")[0]
        for name in (first, *(f"{group} {other}".strip() for other in others)):
            told[name] = str(link[1]) if link else None
    described = {
        " ".join(command.words[1:]): command
        for command in commands()
        if command.words[0] == "taskqueue" and len(command.words) > 1 and command.app.default_command
    }
    assert told.keys() == described.keys()
    answering = {arguments.split(" mail")[0].split(f" {ID}")[0]: name for name, arguments in ANSWERS}
    for name, page in told.items():
        assert next((known for words, known in answering.items() if f"{words} ".startswith(f"{name} ")), None) == page


def test_every_schema_is_used() -> None:
    texts = {path.stem: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.json")}
    used = {name for name, _ in ANSWERS} | set(re.findall(r'"\$ref": "([a-z-]+)\.json"', "".join(texts.values())))
    assert texts.keys() == used


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ({"id": "a"}, "$: queue is missing"),
        ({"id": 1, "queue": "default"}, "$.id: 1 is not string"),
        ({"id": "a", "queue": "default", "more": 1}, "$: more is not described"),
    ],
)
def test_a_fault_is_found(value: Any, fault: str) -> None:
    assert list(faults(value, schema("add"))) == [fault]
