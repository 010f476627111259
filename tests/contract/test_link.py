"""The one connection to Redis, when callers go, lines break, and Redis forgets, freezes, dies or refuses."""

import asyncio
import gc
import random
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from taskqueue.brokers import connections, link
from taskqueue.brokers.redis import RedisBroker
from taskqueue.brokers.scripts import SCRIPTS
from taskqueue.errors import BrokerUnavailable, ConfigError, ReplyLost
from tests.certificate import self_signed
from tests.invariants import assert_invariants
from tests.proxy import Fault, Proxy, proxied
from tests.servers import RedisServer
from tests.tasks import opaque, opaque_tasks
from tests.waiting import until

BASE: Final = "taskqueue:{default}"
PUSH: Final = SCRIPTS["push"].sha.encode()


def within(seconds: float) -> float:
    return time.monotonic() + seconds


def broker_at(url: str) -> RedisBroker:
    return RedisBroker(url, namespace="taskqueue")


@pytest.fixture
def client(any_server: RedisServer) -> Any:
    return any_server.client()


@pytest.fixture
async def proxy(any_server: RedisServer) -> AsyncIterator[Proxy]:
    async with proxied(any_server.port) as proxy:
        yield proxy


@pytest.fixture
async def broker(proxy: Proxy, client: Any) -> AsyncIterator[RedisBroker]:
    """A broker behind the proxy, connected, its scripts known to Redis."""
    broker = broker_at(proxy.url)
    await broker.push("default", [opaque("first")], deadline=within(10))
    yield broker
    await broker.aclose()
    assert_invariants(client)


class TestScripts:
    async def test_a_forgotten_script_is_sent_again(self, redis_server: RedisServer) -> None:
        client, broker = redis_server.client(), broker_at(redis_server.url)
        for number in range(3):
            await asyncio.gather(
                *(broker.push("default", opaque_tasks(2), deadline=within(10)) for _ in range(5)),
                broker.prepare("default", opaque_tasks(2), deadline=within(10)),
            )
            assert client.llen(BASE) == (number + 1) * 10
            client.script_flush()
        await broker.aclose()
        assert_invariants(client)

    async def test_the_whole_script_travels_only_once(self, any_server: RedisServer) -> None:
        client, broker = any_server.client(), broker_at(any_server.url)
        client.config_resetstat()
        for _ in range(5):
            await broker.push("default", opaque_tasks(1), deadline=within(10))
        commands = client.info("commandstats")
        assert commands["cmdstat_eval"]["calls"] == 1
        assert commands["cmdstat_evalsha"]["calls"] == 5
        await broker.aclose()


class TestCallersThatGo:
    async def test_ten_thousand_random_cancellations_strand_nothing(self, broker: RedisBroker, client: Any) -> None:
        """Whoever was cancelled asks again with the same token, as a consumer does that lost a reply."""
        dice = random.Random(2)
        for _ in range(50):
            await broker.push("default", opaque_tasks(200), deadline=within(10))
        known: dict[str, list[str]] = {}
        cancelled = 0

        async def consume(name: str) -> None:
            nonlocal cancelled
            lease, _ = await broker.claim("default", name, begins=True, deadline=within(10))
            known[name] = []
            for number in range(500):

                def ask(number: int = number) -> Any:
                    return broker.exchange(lease, (), token=str(number), want=1, room=10**6, deadline=within(10))

                caller = asyncio.create_task(ask())
                await _turns(dice.randrange(dice.choice((6, 400))))  # at once, or whenever
                caller.cancel()
                await asyncio.wait([caller])
                cancelled += caller.cancelled()
                result = await ask() if caller.cancelled() else caller.result()
                known[name] += [reservation.id for reservation in result.reservations]

        await asyncio.gather(*(consume(f"c{number}") for number in range(20)))
        assert 4_000 < cancelled < 10_000
        assert sum(map(len, known.values())) == 10_000
        for name, ids in known.items():
            held = client.lrange(f"{BASE}:reserved:{name}", 0, -1)
            assert held == [task_id.encode() for task_id in reversed(ids)]

    async def test_nobody_gets_the_reply_of_another(self, broker: RedisBroker) -> None:
        dice = random.Random(3)
        tasks = opaque_tasks(100)
        await broker.push("default", tasks, deadline=within(10))

        async def ask(task_id: str) -> None:
            state = await broker.get("default", task_id, deadline=within(10))
            assert state is not None
            assert state.id == task_id
            (raw,) = await broker.command("HMGET", f"{BASE}:records", task_id, deadline=within(10))
            assert raw == b"sealed"
            assert await broker.command("ECHO", task_id, deadline=within(10)) == task_id.encode()

        for _ in range(20):
            callers = [asyncio.create_task(ask(task.id)) for task in tasks]
            await _turns(dice.randrange(20))
            for caller in dice.sample(callers, 50):
                caller.cancel()
            results = await asyncio.gather(*callers, return_exceptions=True)
            assert {type(result) for result in results} <= {type(None), asyncio.CancelledError}

    async def test_what_is_asked_together_travels_together(self, broker: RedisBroker, client: Any) -> None:
        client.config_resetstat()
        before = client.info("stats")["total_reads_processed"]
        await asyncio.gather(*(broker.size("default", deadline=within(10)) for _ in range(100)))
        assert client.info("stats")["total_reads_processed"] - before < 20

    async def test_a_close_lets_the_calls_under_way_end(self, any_server: RedisServer) -> None:
        broker = broker_at(any_server.url)
        calls = asyncio.gather(*(broker.push("default", opaque_tasks(1), deadline=within(10)) for _ in range(10)))
        await _turns(1)
        await broker.aclose()
        await calls
        assert any_server.client().llen(BASE) == 10
        await broker.aclose()

    @pytest.mark.parametrize("turns", range(1, 6))
    async def test_a_close_that_is_cancelled_closes_at_once(self, any_server: RedisServer, turns: int) -> None:
        client, broker = any_server.client(), broker_at(any_server.url)
        others = len(client.client_list())

        async def closed() -> bool:
            return len(client.client_list()) == others

        for busy in (True, False):
            await broker.size("default", deadline=within(10))
            size = asyncio.create_task(broker.size("default", deadline=within(10))) if busy else None
            await _turns(1)
            closing = asyncio.create_task(broker.aclose())
            await _turns(turns)
            closing.cancel()
            await asyncio.gather(closing, *([size] if size else []), return_exceptions=True)
            await until(closed, "the connection is closed", limit=2)

    async def test_a_line_on_which_nobody_waits_any_more_breaks_in_silence(
        self, broker: RedisBroker, proxy: Proxy
    ) -> None:
        complaints: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, complaint: complaints.append(complaint))
        await broker.aclose()
        call = asyncio.create_task(broker.command("ECHO", "x", deadline=within(10)))
        await _turns(1)
        call.cancel()  # before it is sent: the line has yet to be made
        await until(lambda: _made(broker), "there is a line")
        await proxy.stop()
        await until(lambda: _made(broker, whole=False), "the line has broken")
        await broker.aclose()
        del call  # the last that holds what nobody waits for
        gc.collect()
        assert complaints == []
        await proxy.start()

    async def test_each_event_loop_has_a_connection_of_its_own(self, any_server: RedisServer) -> None:
        broker = broker_at(any_server.url)
        await broker.push("default", opaque_tasks(1), deadline=within(10))

        async def other_loop() -> int:
            await broker.push("default", opaque_tasks(1), deadline=within(10))
            size = await broker.size("default", deadline=within(10))
            await broker.aclose()
            return size

        sizes: list[int] = []
        thread = threading.Thread(target=lambda: sizes.append(asyncio.run(other_loop())))
        thread.start()
        await asyncio.to_thread(thread.join)
        assert sizes == [2]
        assert await broker.size("default", deadline=within(10)) == 2
        await broker.aclose()


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def _made(broker: RedisBroker, *, whole: bool = True) -> bool:
    """Tell whether there is a line, and all is well with it or not."""
    speaker, wire = broker._link._speaker, broker._link._wire
    return speaker is not None and speaker.done() and wire is not None and wire.usable == whole


class TestLinesThatBreak:
    @pytest.mark.parametrize("fault", ["cut before", "cut after"])
    async def test_a_cut_is_healed_within_the_deadline_and_nothing_is_pushed_twice(
        self, broker: RedisBroker, proxy: Proxy, client: Any, fault: Fault
    ) -> None:
        proxy.inject(fault, PUSH, times=3)
        await broker.push("default", [opaque("a"), opaque("b")], deadline=within(10))
        assert proxy.hits == 3
        assert client.lrange(BASE, 0, -1) == [b"b", b"a", b"first"]

    @pytest.mark.parametrize(("fault", "stored"), [("cut before", False), ("cut after", True), ("swallow", False)])
    async def test_a_reply_that_stays_away_leaves_doubt(
        self, broker: RedisBroker, proxy: Proxy, client: Any, fault: Fault, *, stored: bool
    ) -> None:
        proxy.inject(fault, PUSH, times=1000)
        with pytest.raises(ReplyLost, match="before the deadline"):
            await broker.push("default", [opaque("id")], deadline=within(0.3))
        assert client.hexists(f"{BASE}:state", "id") == stored

    async def test_what_was_never_sent_leaves_none(self, broker: RedisBroker, proxy: Proxy, client: Any) -> None:
        await proxy.stop()
        with pytest.raises(BrokerUnavailable, match="before the deadline") as caught:
            await broker.push("default", [opaque("id")], deadline=within(0.3))
        assert type(caught.value) is BrokerUnavailable
        await proxy.start()
        assert await broker.get("default", "id", deadline=within(10)) is None

    async def test_a_deadline_in_the_past_sends_nothing(self, broker: RedisBroker, client: Any) -> None:
        with pytest.raises(BrokerUnavailable) as caught:
            await broker.push("default", [opaque("id")], deadline=within(-1))
        assert type(caught.value) is BrokerUnavailable
        assert await broker.get("default", "id", deadline=within(10)) is None

    async def test_a_line_that_is_open_at_this_end_only_is_dropped(
        self, broker: RedisBroker, proxy: Proxy, client: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(link, "READ_TIMEOUT", 0.1)
        proxy.inject("swallow", PUSH)
        await broker.push("default", [opaque("id")], deadline=within(10))
        assert proxy.hits == 1
        assert client.llen(BASE) == 2

    async def test_an_impatient_call_does_not_wait_for_a_patient_one(self, broker: RedisBroker, proxy: Proxy) -> None:
        proxy.inject("swallow", b"ECHO")
        patient = asyncio.create_task(broker.command("ECHO", "x", deadline=within(60)))
        await until(lambda: _hit(proxy), "the patient call is stuck")
        with pytest.raises(BrokerUnavailable):
            await broker.push("default", [opaque("id")], deadline=within(0.1))
        patient.cancel()
        await asyncio.gather(patient, return_exceptions=True)
        await proxy.stop()
        await proxy.start()


async def _hit(proxy: Proxy) -> bool:
    return proxy.hits > 0


class TestRedisInTrouble:
    async def test_killed_and_restarted_within_the_deadline_it_is_waited_for(self, private_server: RedisServer) -> None:
        broker = broker_at(private_server.url)
        await broker.push("default", opaque_tasks(1), deadline=within(10))
        private_server.kill()
        size = asyncio.create_task(broker.size("default", deadline=within(20)))
        pushes = asyncio.gather(*(broker.push("default", opaque_tasks(1), deadline=within(20)) for _ in range(5)))
        await asyncio.to_thread(private_server.start)
        await pushes
        await size
        assert await broker.size("default", deadline=within(10)) == 6
        await broker.aclose()

    async def test_killed_again_and_again_it_keeps_what_it_has_confirmed(self, private_server: RedisServer) -> None:
        broker = broker_at(private_server.url)
        tasks = opaque_tasks(300)
        confirmed = 0

        async def push_all() -> None:
            nonlocal confirmed
            for task in tasks:
                await broker.push("default", [task], deadline=within(20))
                confirmed += 1

        pushing = asyncio.create_task(push_all())
        for target in (50, 120, 200):
            await until(lambda target=target: _reached(confirmed, target), f"{target} are confirmed")  # type: ignore[misc]
            await asyncio.to_thread(private_server.kill)
            await asyncio.to_thread(private_server.start)
        await pushing
        client = private_server.client()
        assert client.lrange(BASE, 0, -1) == [task.id.encode() for task in reversed(tasks)]
        await broker.aclose()

    @pytest.mark.parametrize("connected", [True, False])
    async def test_frozen_it_costs_the_deadline_and_does_nothing_afterwards(
        self, private_server: RedisServer, *, connected: bool
    ) -> None:
        client, broker = private_server.client(), broker_at(private_server.url)
        await broker.push("default", [opaque("before")], deadline=within(10))
        if not connected:
            await broker.aclose()
        evals = _calls(client, "evalsha")
        private_server.pause()
        pushes = [broker.push("default", [opaque(f"id-{number}")], deadline=within(0.3)) for number in range(3)]
        results = await asyncio.gather(*pushes, return_exceptions=True)
        assert {type(result) for result in results} == {ReplyLost if connected else BrokerUnavailable}
        private_server.resume()
        if connected:
            await until(lambda: _reached(_calls(client, "evalsha"), evals + 1), "redis has come to the command")
        assert client.lrange(BASE, 0, -1) == [b"before"]
        await broker.push("default", [opaque("after")], deadline=within(10))
        assert client.lrange(BASE, 0, -1) == [b"after", b"before"]
        await broker.aclose()

    async def test_a_replica_is_waited_for_until_it_is_promoted(self, private_server: RedisServer) -> None:
        client, broker = private_server.client(), broker_at(private_server.url)
        await broker.push("default", opaque_tasks(1), deadline=within(10))
        client.replicaof("127.0.0.1", "1")
        with pytest.raises(BrokerUnavailable, match=r"READONLY|refused") as caught:
            await broker.push("default", opaque_tasks(1), deadline=within(0.2))
        assert type(caught.value) is BrokerUnavailable, "refused is not uncertain"
        waiting = asyncio.ensure_future(broker.push("default", opaque_tasks(1), deadline=within(10)))
        await _turns(5)
        client.replicaof("NO", "ONE")
        await waiting
        assert client.llen(BASE) == 2
        await broker.aclose()


async def _reached(value: int, target: int) -> bool:
    return value >= target


def _calls(client: Any, command: str) -> int:
    return int(client.info("commandstats").get(f"cmdstat_{command}", {}).get("calls", 0))


class TestConnectionOptions:
    async def _works(self, url: str) -> None:
        broker = broker_at(url)
        await broker.push("default", opaque_tasks(1), deadline=within(10))
        assert await broker.size("default", deadline=within(10)) == 1
        async with broker.hints(["default"], "one") as hints:
            assert await anext(hints) == "default"
        await broker.reset("default", deadline=within(10))
        await broker.aclose()

    async def _refused(self, url: str) -> str:
        broker = broker_at(url)
        # Waiting would not help, and at once means: not at a deadline that no test lives to see.
        with pytest.raises(ConfigError) as caught:
            await broker.push("default", opaque_tasks(1), deadline=within(3600))
        await broker.aclose()
        return str(caught.value)

    @pytest.mark.accept("CT37")
    async def test_host_and_port(self, redis_server: RedisServer) -> None:
        await self._works(redis_server.url)

    async def test_tls(self, redis_server: RedisServer, tmp_path: Path) -> None:
        async with proxied(redis_server.port, tls=self_signed(tmp_path)) as proxy:
            await self._works(proxy.url)
            broker = broker_at(proxy.url)
            await asyncio.gather(
                *(broker.push("default", [opaque(record=bytes(10_000))], deadline=within(10)) for _ in range(300))
            )
            proxy.inject("cut after", PUSH)
            await broker.push("default", [opaque("again")], deadline=within(10))
            await proxy.stop()
            await proxy.start()
            assert await broker.size("default", deadline=within(10)) == 301
            await broker.aclose()

    @pytest.mark.accept("CT37")
    async def test_a_unix_socket(self, redis_server: RedisServer) -> None:
        await self._works(redis_server.unix_url)

    @pytest.mark.accept("CT37")
    async def test_a_database(self, redis_server: RedisServer) -> None:
        broker = broker_at(redis_server.url.replace("/0", "/3"))
        await broker.push("default", opaque_tasks(1), deadline=within(10))
        assert redis_server.client(db=3).llen(BASE) == 1
        assert redis_server.client(db=0).llen(BASE) == 0
        await broker.aclose()

    @pytest.mark.accept("CT37")
    async def test_a_password(self, private_server: RedisServer) -> None:
        private_server.client().config_set("requirepass", "secret")
        await self._works(private_server.url.replace("redis://", "redis://:secret@"))

    @pytest.mark.accept("CT37")
    async def test_a_user(self, private_server: RedisServer) -> None:
        client: Any = private_server.client()
        client.execute_command("ACL", "SETUSER", "worker", "on", ">secret", "~*", "&*", "+@all")
        await self._works(private_server.url.replace("redis://", "redis://worker:secret@"))

    @pytest.mark.parametrize("user", ["", ":wrong@", "nobody:wrong@"])
    async def test_a_wrong_password_is_refused_at_once(self, private_server: RedisServer, user: str) -> None:
        private_server.client().config_set("requirepass", "secret")
        message = await self._refused(private_server.url.replace("redis://", f"redis://{user}"))
        assert "password" in message
        assert "wrong" not in message.lower().replace("wrongpass", "")

    async def test_hints_with_a_wrong_password_are_refused_too(self, private_server: RedisServer) -> None:
        private_server.client().config_set("requirepass", "secret")
        broker = broker_at(private_server.url)
        with pytest.raises(ConfigError, match="password"):
            async with broker.hints(["default"], "one") as hints:
                await anext(hints)

    async def test_a_database_that_does_not_exist_is_refused_at_once(self, private_server: RedisServer) -> None:
        assert "DB index" in await self._refused(private_server.url.replace("/0", "/99"))

    async def test_missing_rights_are_refused_at_once(self, private_server: RedisServer) -> None:
        client: Any = private_server.client()
        client.execute_command("ACL", "SETUSER", "reader", "on", ">secret", "~*", "&*", "+@read", "+time", "+ping")
        message = await self._refused(private_server.url.replace("redis://", "redis://reader:secret@"))
        assert "redis refused a command" in message

    def test_a_url_that_is_none_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="url"):
            broker_at("redis://127.0.0.1:6379/not-a-number?socket_timeout=x")


async def test_what_was_given_up_is_not_sent_with_what_was_not(
    any_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever was told that nothing will run must be right, also if the line comes for others after all."""
    broker = RedisBroker(any_server.url, namespace="given-up")
    await broker.prepare("default", [opaque("first"), opaque("second")], deadline=time.monotonic() + 10)
    await broker.promote("default", ["first"], deadline=time.monotonic() + 10)  # so that redis knows the script
    await broker.aclose()
    gate, plain = asyncio.Event(), connections.connected

    async def connected(pool: Any) -> Any:
        await gate.wait()
        return await plain(pool)

    monkeypatch.setattr(link, "connected", connected)
    patient = asyncio.create_task(broker.get("default", "second", deadline=time.monotonic() + 30))
    hasty = asyncio.create_task(broker.promote("default", ["second"], deadline=time.monotonic() + 0.1))
    with pytest.raises(BrokerUnavailable, match="no answer"):
        await hasty
    gate.set()
    await patient
    state = await broker.get("default", "second", deadline=time.monotonic() + 10)
    assert state is not None
    assert state.state == "prepared"
    await broker.aclose()
