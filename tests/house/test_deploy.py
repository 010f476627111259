"""What is ready to deploy: it uses what exists, gives more time than a drain takes, starts and stops."""

import re
import shlex
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from taskqueue import catalogue, hooks, server, workers
from taskqueue.cli import EXIT_CODES
from taskqueue.errors import AppNotFound, ConfigError, UsageError
from taskqueue.options import host_and_port
from tests.acceptance.test_cli import NOWHERE, SECRET, command, environment
from tests.house import tree
from tests.servers import RedisServer

DEPLOY: Final = tree.ROOT / "deploy"
UNIT: Final = DEPLOY / "systemd" / "taskqueue-server@.service"
FLAGS: Final = {row.flag: row for row in catalogue.table() if row.flag}
VARIABLES: Final = {row.variable for row in catalogue.table()}


def unit() -> dict[str, list[str]]:
    """Return the values of each key of the unit, in order."""
    found: dict[str, list[str]] = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", UNIT.read_text(), re.MULTILINE):
        found.setdefault(key, []).append(value)
    return found


def consumer_of_compose() -> dict[str, Any]:
    consumer: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["consumer"]
    return consumer


def pod() -> dict[str, Any]:
    spec: dict[str, Any] = yaml.safe_load((DEPLOY / "kubernetes.yaml").read_text())["spec"]["template"]["spec"]
    return spec


def container() -> dict[str, Any]:
    (only,) = pod()["containers"]
    return dict(only)


def flags_of(words: list[str]) -> dict[str, str]:
    """Return the flags of a command with their values, each checked as the command checks it."""
    given = dict(word.split("=", 1) for word in words if word.startswith("--"))
    for flag, value in given.items():
        catalogue.OPTIONS[FLAGS[flag].name].parse(value)
    return given


def drain(flags: dict[str, str]) -> float:
    """Return how many seconds a stop takes at most: the tasks, the last words to the broker, a hook under way."""
    default: float = catalogue.ROWS["stop_grace"].default  # type: ignore[assignment]
    return float(flags.get("--stop-grace", default)) + server.LAST_WORDS + hooks.PATIENCE


def test_every_grace_is_longer_than_a_drain() -> None:
    (exec_start,), (stop,) = unit()["ExecStart"], unit()["TimeoutStopSec"]
    assert float(stop) > drain(flags_of(shlex.split(exec_start.replace("%i", "i"))))
    compose = consumer_of_compose()
    assert float(compose["stop_grace_period"].removesuffix("s")) > drain(flags_of(compose["command"]))
    assert pod()["terminationGracePeriodSeconds"] > drain(flags_of(container()["args"]))


def test_every_variable_exists() -> None:
    used = set(re.findall(r"TASKQUEUE_\w+", "".join(path.read_text() for path in DEPLOY.rglob("*.*"))))
    assert used <= VARIABLES
    assert len(used) > 3


def test_the_probes_ask_where_it_answers() -> None:
    flags = flags_of(container()["args"])
    (port,) = container()["ports"]
    assert host_and_port(flags["--health-addr"]) == ("0.0.0.0", port["containerPort"])  # noqa: S104
    asked = {kind: container()[kind]["httpGet"] for kind in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {probe["port"] for probe in asked.values()} == {port["name"]}
    assert asked["livenessProbe"]["path"] == asked["startupProbe"]["path"] == "/livez"
    assert asked["readinessProbe"]["path"] == "/readyz"
    compose = consumer_of_compose()
    address = flags_of(compose["command"])["--health-addr"]
    assert f"http://{address}/livez" in compose["healthcheck"]["test"][-1]


def test_the_service_is_not_started_again_after_what_would_be_wrong_again() -> None:
    (codes,) = unit()["RestartPreventExitStatus"]
    wrong_again = {EXIT_CODES[kind] for kind in (UsageError, AppNotFound, ConfigError)}
    assert {int(code) for code in codes.split()} == wrong_again == workers.FINAL
    assert unit()["KillMode"] == ["mixed"], "workers would hear a TERM twice"


def test_systemd_knows_every_line_of_it(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("no systemd-analyze on this machine")
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/opt/taskqueue/bin/taskqueue-server", "/bin/true"))
    done = subprocess.run([analyze, "verify", "--man=no", str(copy)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(20)
        yield receiver


@pytest.mark.accept("MY20")
def test_the_service_starts_at_boot_is_ready_lives_and_stops(
    any_server: RedisServer, systemd: socket.socket, tmp_path: Path
) -> None:
    assert unit()["WantedBy"] == ["multi-user.target"]
    assert unit()["Type"] == ["notify"]
    (exec_start,) = unit()["ExecStart"]
    program, *words = shlex.split(exec_start.replace("%i", "instance1"))
    assert program.endswith("/taskqueue-server")
    settings = {"URL": any_server.url, "TARGET": NOWHERE, "SECRET": SECRET}
    variables = {f"TASKQUEUE_{name}": value for name, value in settings.items()}
    manager = {"NOTIFY_SOCKET": systemd.getsockname(), "WATCHDOG_USEC": "400000"}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            command("server_main", *words), cwd=tmp_path, env=environment(**variables, **manager), stderr=log
        )
    try:
        assert "READY=1" not in systemd.recv(1000).decode(), "not before the broker has answered"
        heard = told(systemd, "READY=1")
        assert any_server.client().keys("*:consumer:*"), "it consumes"
        heard += told(systemd, "WATCHDOG=1") + told(systemd, "WATCHDOG=1")
        process.send_signal(signal.SIGTERM)
        heard += told(systemd, "STOPPING=1")
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
    assert "\n".join(heard).count("READY=1") == 1


def told(systemd: socket.socket, words: str) -> list[str]:
    """Wait until systemd is told this; return all that it was told until then."""
    heard = [systemd.recv(1000).decode()]
    while words not in heard[-1].split("\n"):
        heard.append(systemd.recv(1000).decode())
    return heard
