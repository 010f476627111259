"""``taskqueue acl``: each role does its whole job with the rights that are printed for it, and nothing of another's."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import pytest
from redis.exceptions import NoPermissionError

from taskqueue import doctor
from taskqueue.acl import ROLES, Role
from taskqueue.admin import Admin, Filter
from taskqueue.broker import Beat, Lease, Seen
from taskqueue.brokers.redis import RedisBroker
from taskqueue.brokers.scripts import PARTS
from taskqueue.commit import PUSH_TASKS, commit
from taskqueue.doubts import Doubts
from taskqueue.durability import Durability
from taskqueue.errors import ConfigError, ReplyLost
from taskqueue.intake import Intake
from taskqueue.metrics import Metrics
from taskqueue.policy import Rules
from taskqueue.query import Query, parse
from taskqueue.replay import HttpReplayer
from taskqueue.routes import Route
from taskqueue.server import TaskQueueServer
from taskqueue.signs import Signs
from taskqueue.task import CHILD, Settlement, Verdict
from tests.rights import refused
from tests.servers import RedisServer
from tests.target import listening
from tests.tasks import KEYRING, opaque, opaque_tasks, sealed, task
from tests.waiting import until
from tests.work import Ran

BASE: Final = "taskqueue:{default}"


def within(seconds: float = 10) -> float:
    return time.monotonic() + seconds


@dataclass
class Users:
    """A server on which every role has the user that the command has printed for it."""

    server: RedisServer
    passwords: dict[str, str]

    def client(self, role: str) -> Any:
        return self.server.client(username=f"taskqueue-{role}", password=self.passwords[role])

    @asynccontextmanager
    async def broker(self, role: str, durability: Durability | None = None) -> AsyncIterator[RedisBroker]:
        login = f"redis://taskqueue-{role}:{self.passwords[role]}@"
        url = self.server.url.replace("redis://", login)
        broker = RedisBroker(url, namespace="taskqueue", durability=durability)
        yield broker
        await broker.aclose()

    def refused(self) -> list[str]:
        """Return what was refused so far, by command, key or channel."""
        return refused(self.server)


@pytest.fixture
def users(redis_server: RedisServer, taskqueue: Callable[..., Ran]) -> Iterator[Users]:
    document = taskqueue("acl", "--json").document
    client: Any = redis_server.client()
    for one in document["users"]:
        client.execute_command(*one["command"].split(" "))
    client.execute_command("ACL", "LOG", "RESET")
    yield Users(redis_server, {one["role"]: one["password"] for one in document["users"]})
    for one in document["users"]:
        client.execute_command("ACL", "DELUSER", one["user"])


class TestWholeJobs:
    @pytest.mark.parametrize("role", ["producer", "door", "app"])
    async def test_adding(self, users: Users, role: str) -> None:
        async with users.broker(role) as broker:
            await commit(broker, [opaque("one", due=-60_000)], deadline=within())
            await commit(broker, opaque_tasks(PUSH_TASKS + 1), deadline=within())
            await broker.prepare("default", opaque_tasks(2), deadline=within())
            await broker.prepare("default", [opaque("two")], deadline=within())
            await broker.discard("default", ["two"], deadline=within())
            assert await broker.size("default", deadline=within()) == PUSH_TASKS + 1
            found = await broker.get("default", "one", deadline=within())
            assert found is not None
            assert found.state == "scheduled"
            assert await broker.routes(deadline=within()) == {}
        async with users.broker(role, Durability("replica", 1)) as broker:
            with pytest.raises(ReplyLost, match="0 of 1"):
                await broker.push("default", opaque_tasks(1), deadline=within(0.5))
        assert users.refused() == []

    async def test_letting_in(self, users: Users) -> None:
        async with users.broker("door") as door, users.broker("consumer") as consumer:
            await door.push("default", [opaque("id")], deadline=within())
            lease = await _claim(consumer)
            (given,) = (await consumer.exchange(lease, (), token="t", want=1, room=9, deadline=within())).reservations
            assert await door.begin("default", given.id, given.delivery, deadline=within())
            assert not await door.begin("default", given.id, given.delivery, deadline=within())
            fields = {"report": b"sealed"}
            assert await door.note("default", given.id, given.delivery, fields, deadline=within())
        assert users.refused() == []

    @pytest.mark.parametrize("role", ["door", "app"])
    async def test_giving_up_a_child_that_its_parent_waits_for(self, users: Users, role: str) -> None:
        """The vote of a delivery that nobody waits for any more: with it the parent ends, and what follows comes."""
        async with users.broker(role) as door, users.broker("consumer") as consumer:
            await door.push("default", [opaque("parent")], deadline=within())
            lease = await _claim(consumer)
            (given,) = (await consumer.exchange(lease, (), token="t", want=1, room=9, deadline=within())).reservations
            assert await door.begin("default", given.id, given.delivery, deadline=within())
            child = replace(opaque("child"), parent="parent", flags=CHILD)
            await door.prepare("default", [child], deadline=within())
            ended = Settlement("parent", 1, Verdict("complete", "", 200), on_success=opaque("next"))
            await consumer.exchange(lease, [ended], token="u", want=0, room=0, deadline=within())
            assert await _is(door, "parent", "waiting")
            await door.discard("default", ["child"], deadline=within())
            assert await _is(door, "parent", "completed")
            assert await _is(door, "next", "queued")
        assert users.refused() == []

    async def test_consuming(self, users: Users) -> None:
        """A server from its start to its stop: completes, retries, fails, trims, hears hints."""
        async with users.broker("producer") as producer, users.broker("consumer") as broker, listening() as target:
            replayer = HttpReplayer(target.url, KEYRING, connect_timeout=5)
            rules = Rules(retry_max_count=0, receipt_required=False)
            server = TaskQueueServer(broker, replayer, KEYRING, name="one", queues=["default"], rules=rules)
            running = asyncio.create_task(server.run())
            await producer.push("default", [sealed(task("/fine")) for _ in range(3)], deadline=within())
            await target.finished(3)
            await producer.push("default", [sealed(task("/fine")), opaque("spoilt")], deadline=within())
            await target.finished(4)
            await until(lambda: _is(producer, "spoilt", "failed"), "what cannot be opened has failed")
            assert b"taskqueue_consumers{" in await Metrics(broker, ["default"], Signs(), version="1").text()
            assert await Intake(broker, ["default"], burst=True).over(idle=True)
            server.stop()
            await running
        assert users.refused() == []

    async def test_settling_and_taking_over(self, users: Users) -> None:
        async with users.broker("producer") as producer, users.broker("consumer") as consumer:
            await producer.push("default", opaque_tasks(6), deadline=within())
            lease = await _claim(consumer)
            given = (await consumer.exchange(lease, (), token="t", want=6, room=999, deadline=within())).reservations
            verdicts = [
                Verdict("complete", "", 200),
                Verdict("retry", "status", 500, delay=9, slow=1),
                Verdict("fail", "client", 404),
                Verdict("release", "stopped"),
                Verdict("release", "stopped", delay=9),
            ]
            ended = [
                Settlement(one.id, one.delivery, verdict, b"kept")
                for one, verdict in zip(given, verdicts, strict=False)
            ]
            await consumer.exchange(lease, ended, token="u", want=0, room=0, deadline=within())
            await producer.prepare("default", opaque_tasks(1), deadline=within())
            await consumer.due("default", deadline=within())
            await Doubts(consumer, ["default"], lambda _: None).look()
            for decide in (consumer.promote, consumer.discard):
                (voted,) = opaque_tasks(1)
                await producer.prepare("default", [voted], deadline=within())
                await decide("default", [voted.id], deadline=within())
            await consumer.trim("default", [("finished", 0, 0), ("failed", 10**9, 9)], most=9, deadline=within())
            pulse = consumer.pulse(timeout=5)
            assert await asyncio.to_thread(pulse.beat, lease) == Beat(())
            assert (await consumer.owner("default", "one", deadline=within())).epoch == lease.epoch
            dead = Seen("one", lease.epoch, "1")
            assert await consumer.reclaim("default", dead, deadline=within()) == 1
            other = await _claim(consumer, "two")
            await consumer.leave(other, deadline=within())
            async with consumer.hints(["default"], "one") as hints:
                assert await anext(hints) == "default"
            pulse.close()
        assert users.refused() == []

    async def test_looking(self, users: Users) -> None:
        await self._fail_one(users)
        async with users.broker("reader") as broker:
            admin = Admin(broker, ["default"])
            await admin.tasks(Query())
            for field, operator in (("changed", ">"), ("owner", "="), ("label", "="), ("route", "="), ("id", "=")):
                terms = parse(f"{field} {operator} 1h", now=2**40, owners=lambda user: [user])
                await admin.tasks(Query(terms=tuple(terms)))
            (found,) = await admin.failed(Filter())
            await admin.log(found)
            assert await admin.request(found, KEYRING) is not None
            assert [stats.failed for stats in await admin.stats()] == [1]
            assert len(await admin.routes()) == 0
            assert users.refused() == []
            findings = await doctor.examine(broker, ["default"], declared=Durability("process"))
            assert not [finding for finding in findings if finding.level == "error"]
        assert users.refused() == ["config|get"], "which would show passwords too"

    async def test_operating(self, users: Users) -> None:
        await self._fail_one(users)
        async with users.broker("operator") as broker:
            admin = Admin(broker, ["default"])
            assert await admin.retry(await admin.failed(Filter()), KEYRING) == 1
            async with users.broker("producer") as producer:
                await producer.push("default", [opaque("later", due=-60_000)], deadline=within())
            for word in ("cancelled", "archived"):
                done = await broker.withdraw("default", ["held", "x"], word, actor="me", force=True, deadline=within())
                assert done == ["unknown", "unknown"]
            assert await broker.hasten("default", ["later"], actor="me", deadline=within()) == 1
            assert await broker.restart("default", ["later"], actor="me", deadline=within()) == 0
            assert await broker.withdraw(
                "default", ["later"], "cancelled", actor="me", force=False, deadline=within()
            ) == ["cancelled"]
            assert await broker.purge("default", most=10, deadline=within()) == 2
            await broker.reset("default", deadline=within())
            assert not await admin.route("/a", Route("/a", "mail"))
            assert await admin.route("/a", None)
            assert len(await admin.routes()) == 0
        assert users.refused() == []

    async def _fail_one(self, users: Users) -> None:
        async with users.broker("producer") as producer, users.broker("consumer") as consumer:
            await producer.push("default", [sealed(task("/path"))], deadline=within())
            lease = await _claim(consumer)
            (one,) = (await consumer.exchange(lease, (), token="t", want=1, room=9, deadline=within())).reservations
            ended = [Settlement(one.id, one.delivery, Verdict("fail", "client", 404))]
            await consumer.exchange(lease, ended, token="u", want=0, room=0, deadline=within())


async def _claim(broker: RedisBroker, name: str = "one") -> Lease:
    lease, _ = await broker.claim("default", name, begins=True, deadline=within())
    return lease


async def _is(broker: RedisBroker, task_id: str, state: str) -> bool:
    found = await broker.get("default", task_id, deadline=within())
    return found is not None and found.state == state


Doing = Callable[[RedisBroker, Lease], Awaitable[Any]]
DOINGS: Final[dict[str, Doing]] = {
    "push": lambda broker, _: broker.push("default", opaque_tasks(1), deadline=within()),
    "prepare": lambda broker, _: broker.prepare("default", opaque_tasks(1), deadline=within()),
    "begin": lambda broker, _: broker.begin("default", "held", 1, deadline=within()),
    "claim": lambda broker, _: broker.claim("default", "two", begins=True, deadline=within()),
    "reserve": lambda broker, lease: broker.exchange(lease, (), token="t", want=1, room=9, deadline=within()),
    "settle": lambda broker, lease: broker.exchange(
        lease, [Settlement("held", 1, Verdict("complete", "", 200))], token="t", want=0, room=0, deadline=within()
    ),
    "reclaim": lambda broker, lease: broker.reclaim("default", Seen("one", lease.epoch, "0"), deadline=within()),
    "trim": lambda broker, _: broker.trim("default", [("failed", 0, 0)], most=9, deadline=within()),
    "note": lambda broker, _: broker.note("default", "held", 1, {"report": b"sealed"}, deadline=within()),
    "look": lambda broker, _: broker.inspector.queues(deadline=within()),
    "find": lambda broker, _: broker.inspector.index(
        "default", "label", "label", limit=9, offset=0, since=1, deadline=within()
    ),
    "retry": lambda broker, _: broker.inspector.retry("default", [("failed", b"")], deadline=within()),
    "withdraw": lambda broker, _: broker.withdraw(
        "default", ["queued", "held"], "cancelled", actor="me", force=True, deadline=within()
    ),
    "hasten": lambda broker, _: broker.hasten("default", ["later"], actor="me", deadline=within()),
    "restart": lambda broker, _: broker.restart("default", ["stuck"], actor="me", deadline=within()),
    "reset": lambda broker, _: broker.reset("default", deadline=within()),
}
# Writing into a log, and queueing again what has failed, take no more rights than a commit, or than deciding what is in
# doubt; to withdraw and to hasten, no more than to let deliveries end: see taskqueue.acl.
ADDING: Final = {"push", "prepare", "note", "retry"}
TAKING: Final = {"begin", "note", "claim", "reserve", "settle", "reclaim", "trim"}
ACTING: Final = {"withdraw", "hasten", "retry"}
MAY: Final = {
    "producer": ADDING,
    "door": ADDING | {"begin"},
    "consumer": TAKING | ACTING,
    "app": ADDING | TAKING | ACTING,
    "reader": {"look", "find"},
    "operator": {"begin", "note", "look", "find", "reset", "trim", "restart"} | ACTING,
}


class TestNothingElse:
    @pytest.mark.parametrize("doing", DOINGS)
    @pytest.mark.parametrize("role", ROLES)
    async def test_what_another_role_does(self, users: Users, role: str, doing: str) -> None:
        async with users.broker("producer") as producer, users.broker("consumer") as consumer:
            await producer.push(
                "default", [opaque(name) for name in ("failed", "held", "queued", "stuck")], deadline=within()
            )
            await producer.push("default", [opaque("later", due=-60_000)], deadline=within())
            lease = await _claim(consumer)
            await consumer.exchange(lease, (), token="s", want=2, room=99, deadline=within())
            ended = [Settlement("failed", 1, Verdict("fail", "client", 404))]
            await consumer.exchange(lease, ended, token="s", want=0, room=0, deadline=within())
        client: Any = users.server.client()
        client.lrem(BASE, 1, "stuck")
        async with users.broker(role) as broker:
            if doing in MAY[role]:
                await DOINGS[doing](broker, lease)
                assert users.refused() == []
            else:
                with pytest.raises(ConfigError, match=r"lacks a right .*; taskqueue acl prints what it needs"):
                    await DOINGS[doing](broker, lease)

    @pytest.mark.parametrize("role", ROLES)
    @pytest.mark.parametrize(
        "words",
        [
            ("KEYS", "*"),
            ("FLUSHALL",),
            ("CONFIG", "GET", "*"),
            ("CLIENT", "LIST"),
            ("SCRIPT", "FLUSH"),
            ("FUNCTION", "LIST"),
            ("ACL", "LIST"),
            ("MONITOR",),
            ("HGET", "taskqueue2:{default}:state", "id"),
            ("HGET", "somebody-else", "id"),
            ("PUBLISH", "somebody-else", ""),
            ("SET", BASE, "x"),
        ],
    )
    def test_what_no_role_does(self, users: Users, role: str, words: tuple[str, ...]) -> None:
        with pytest.raises(NoPermissionError):
            users.client(role).execute_command(*words)

    @pytest.mark.parametrize("role", ["producer", "door"])
    def test_what_a_consumer_holds_is_not_for_who_adds(self, users: Users, role: str) -> None:
        for key in (":reserved:one", ":consumer:one", ":cancelled", ":archived", ":consumers"):
            with pytest.raises(NoPermissionError):
                users.client(role).hset(BASE + key, "x", "y")

    def test_another_queue(self, any_server: RedisServer, taskqueue: Callable[..., Ran]) -> None:
        (mail,) = taskqueue("acl", "--json", "--role=producer", "--queue=mail", "--user=mailer").document["users"]
        client: Any = any_server.client()
        client.execute_command(*mail["command"].split(" "))
        mailer = any_server.client(username="mailer", password=mail["password"])
        assert mailer.llen("taskqueue:{mail}") == 0
        with pytest.raises(NoPermissionError):
            mailer.llen(BASE)
        client.execute_command("ACL", "DELUSER", "mailer")


class TestCommand:
    def test_lines_for_redis(self, taskqueue: Callable[..., Ran]) -> None:
        ran = taskqueue("acl", "--namespace=shop:eu")
        lines = ran.out.splitlines()
        assert [line.split()[2] for line in lines] == [f"shop-eu-{role}" for role in ROLES]
        assert all(line.startswith("ACL SETUSER ") and " reset on >" in line for line in lines)
        assert all("~shop:eu:{*}" in line for line in lines)
        passwords = {line.split()[5] for line in lines} | {
            line.split()[5] for line in taskqueue("acl").out.splitlines()
        }
        assert len(passwords) == 2 * len(ROLES)
        assert "URL" in ran.err

    def test_one_role_by_a_name_of_ones_own(self, taskqueue: Callable[..., Ran]) -> None:
        (line,) = taskqueue("acl", "--role", "consumer", "--user", "instance1").out.splitlines()
        assert line.startswith("ACL SETUSER instance1 reset on >")
        assert "+ltrim" in line.split()

    @pytest.mark.parametrize(
        "arguments", [("--role=cook",), ("--user=x",), ("--role=door", "--user=a b"), ("--role=door", "--user=a:b")]
    )
    def test_what_it_does_not_take(self, taskqueue: Callable[..., Ran], arguments: tuple[str, ...]) -> None:
        ran = taskqueue("acl", *arguments)
        assert (ran.code, ran.out) == (2, "")
        assert json.dumps(arguments[-1].partition("=")[2])[1:-1] in ran.err

    def test_every_script_is_somebodys(self) -> None:
        given = [script for role in ROLES.values() for script in role.scripts]
        assert set(given) == set(PARTS)

    def test_rights_inside_scripts_are_read_off_them(self) -> None:
        assert {"lpush", "ltrim", "time", "eval", "evalsha"} <= set(Role("", ("exchange",), ()).rights())
        assert "eval" not in Role("", (), ("get",)).rights()
