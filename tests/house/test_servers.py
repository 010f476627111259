import subprocess
import sys
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.servers import RedisServer
from tests.waiting import wait_until


def test_what_was_acknowledged_survives_a_kill(private_server: RedisServer) -> None:
    private_server.client().set("key", "value")
    private_server.kill()
    private_server.start()
    assert private_server.client().get("key") == b"value"


def test_a_restart_keeps_data_port_and_socket(private_server: RedisServer) -> None:
    client = redis.Redis.from_url(private_server.url)
    client.set("key", "value")
    before = private_server.pid
    private_server.restart()
    assert client.get("key") == b"value"
    assert private_server.pid != before
    client.close()


def test_a_paused_server_accepts_bytes_and_answers_after_resume(private_server: RedisServer) -> None:
    patient = private_server.client()
    patient.ping()
    private_server.pause()
    with pytest.raises(redis.TimeoutError):
        private_server.client(socket_timeout=0.05).ping()
    private_server.resume()
    assert patient.ping() is True


def test_a_paused_server_can_be_stopped(private_server: RedisServer) -> None:
    private_server.pause()
    private_server.stop()
    with pytest.raises(redis.ConnectionError):
        private_server.client().ping()


def test_a_server_that_cannot_start_shows_its_log(private_server: RedisServer) -> None:
    server = RedisServer(private_server.binary, "--no-such-option", "1")
    with pytest.raises(RuntimeError, match="no-such-option"):
        server.start()
    assert not server.directory.exists()


@pytest.mark.parametrize("key", ["first", "second"])
def test_every_test_begins_without_data(redis_server: RedisServer, key: str) -> None:
    client = redis_server.client()
    assert client.dbsize() == 0
    client.set(key, "left behind")


def test_close_removes_the_directory(private_server: RedisServer) -> None:
    private_server.close()
    assert not private_server.directory.exists()


def test_a_server_goes_with_a_killed_test_run(private_server: RedisServer) -> None:
    program = f"""
import sys
from pathlib import Path
from tests.servers import RedisServer

server = RedisServer(Path({str(private_server.binary)!r})).start()
print(server.directory, flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        text=True,
    ) as run:
        assert run.stdout is not None
        directory = Path(run.stdout.readline().strip())
        client = redis.Redis(unix_socket_path=str(directory / "socket"), retry=Retry(NoBackoff(), 0))
        assert client.ping() is True
        run.kill()
    wait_until(lambda: not directory.exists(), "the directory is gone")
    with pytest.raises(redis.ConnectionError):
        client.ping()
