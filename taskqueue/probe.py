"""Asking the application from outside whether its door stands where it should.

Two strangers knock and one delivery. A request that claims to be a task and proves nothing must be refused by the door;
whatever else answers stands before the door, or instead of it. A properly signed delivery of a task that never was must
be refused as ``replayed``: then secret, clock and way are right, and the application has not run, because the door asks
the store first and the store knows no such task. A door with ``replay_guard="process"`` asks nobody and lets it in:
therefore the path is random and the method HEAD, which no view should take amiss.
"""

import secrets
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from .doctor import Finding
from .errors import ConfigError
from .keys import Keyring
from .policy import KEY, REPLAYED, SIGNATURE, SKEW, Answered, Broken, NotSent, Outcome
from .replay import Delivery, HttpReplayer
from .task import Task

PATIENCE: Final = 10.0
OUTERMOST: Final = "mount the door as the outermost middleware of the application, outside of every other one"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a stranger was answered; ``refused`` is X-Task-Refused."""

    status: int
    refused: str | None = None
    location: str = ""


async def examine(
    target: str, keyring: Keyring | None, *, queue: str, public_url: str | None, body_limit: int
) -> list[Finding]:
    """Ask the application at ``target`` (scheme and host) and return what was found.

    ``public_url`` gives the Host that deliveries will carry; ``body_limit`` is how many bytes a task's body may have.
    Without a keyring only the strangers are sent. Raises ConfigError for a target that is none.
    """
    parts = urlsplit(public_url or "")
    host, scheme = parts.netloc or urlsplit(target).netloc, parts.scheme
    path = f"/taskqueue-doctor-{secrets.token_hex(8)}"
    replayer = HttpReplayer(target, keyring or Keyring([secrets.token_urlsafe(48)]), connect_timeout=PATIENCE)
    answer = await _stranger(URL(replayer.address + path, encoded=True), host=host, scheme=scheme)
    found = judge_stranger(answer, address=replayer.address, host=host)
    if found.level != "ok" or keyring is None:
        return [found]
    probe = Probe(replayer, queue=queue, path=path, host=host, scheme=scheme)
    async with replayer:
        proved = judge_delivery(await probe.send("HEAD"))
        return [found, proved, *([await check_body(probe, body_limit)] if proved.level == "ok" else [])]


async def _stranger(url: URL, *, host: str, scheme: str) -> Answer | str:
    """Make a request that claims to be a task and proves nothing; return the answer, or why there is none."""
    headers = {"Host": host, "X-Task-Id": str(uuid.uuid4())}
    if scheme:
        headers["X-Forwarded-Proto"] = scheme
    timeout = aiohttp.ClientTimeout(total=PATIENCE)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session,
            session.get(url, headers=headers, allow_redirects=False) as response,
        ):
            heads = response.headers
            return Answer(response.status, heads.get("X-Task-Refused"), heads.get("Location", ""))
    except TimeoutError:
        return f"no answer within {PATIENCE:g} s"
    except (aiohttp.ClientError, OSError) as error:
        return f"{type(error).__name__}: {error}"


def judge_stranger(answer: Answer | str, *, address: str, host: str) -> Finding:
    """Say what it means how a request was answered that claims to be a task and proves nothing."""
    if isinstance(answer, str):
        remedy = "is the application running, is --target its address as seen from here?"
        return Finding("target", "error", f"{address} cannot be reached: {answer}", remedy)
    if answer.status == 403 and answer.refused:
        return Finding("door", "ok", "refuses what only claims to be a task")
    said = f"{address} answered {answer.status}, not 403 with X-Task-Refused"
    if answer.status in (301, 308) and answer.location.startswith("https://"):
        remedy = (
            f"{OUTERMOST}; or let the application believe its consumer's X-Forwarded-Proto, with TASKQUEUE_PUBLIC_URL"
            " set to the https address; or give the https address as target"
        )
        return Finding("https", "error", f"{said}: it is sent on to https before it reaches the door", remedy)
    if answer.status in (400, 421):
        remedy = f"add {host} to the hosts it accepts (ALLOWED_HOSTS, TrustedHost), or {OUTERMOST}"
        return Finding(
            "host", "error", f"{said}: it seems that the Host {host} is not accepted before the door", remedy
        )
    if answer.status in (502, 503, 504):
        return Finding("target", "error", f"{said}: a proxy without an application", "start the application behind it")
    remedy = f"{OUTERMOST}; is this address the application's own, and not that of something else?"
    return Finding("door order", "error", f"{said}: there is no door, or something stands before it", remedy)


def judge_delivery(outcome: Outcome) -> Finding:
    """Say what it means how a signed delivery was answered whose task does not exist."""
    if isinstance(outcome, NotSent | Broken):
        what = f"a delivery was not answered ({outcome.reason}), though a request before it was"
        return Finding("target", "error", what, "look into the logs of the application, and of proxies before it")
    if not isinstance(outcome, Answered):
        raise ConfigError("public_url: its host has a character that no Host may have")
    if outcome.receipted:
        what = "the same as here; the door does not ask the store whether a delivery is new (replay_guard)"
        return Finding("secret of the door", "ok", what)
    if outcome.refused is not None and outcome.refused in _REFUSALS:
        return _REFUSALS[outcome.refused]
    if outcome.status == 503:
        remedy = "compare its TASKQUEUE_URL with the one here; can it reach that store?"
        return Finding("broker of the door", "error", "the door cannot reach its store: it answered 503", remedy)
    what = f"a delivery was answered {outcome.status} without a receipt: something stands before the door"
    return Finding("door order", "error", what, OUTERMOST)


_REFUSALS: Final[Mapping[str, Finding]] = {
    REPLAYED: Finding("secret of the door", "ok", "the same as here; clocks agree, nothing changes a delivery"),
    KEY: Finding(
        "secret of the door",
        "error",
        "the application has another secret than this process",
        "compare TASKQUEUE_SECRET of both; while changing it, give both secrets to both, with a comma between them",
    ),
    SIGNATURE: Finding(
        "way to the door",
        "error",
        "something on the way changes method, Host, path or headers of a delivery",
        "let proxies hand them on as they are, or let the target be the application's own address",
    ),
    SKEW: Finding(
        "clock of the door",
        "error",
        "the application's clock and this one differ by more than 30 s, or a delivery is held up on its way",
        "synchronise both (chrony, systemd-timesyncd)",
    ),
}


async def check_body(probe: "Probe", limit: int) -> Finding:
    """Look whether the largest body that ``add`` takes gets through; only a POST, to the same path, can show that."""
    outcome = await probe.send("POST", b"\0" * limit)
    size = f"a body of {limit / 2**20:g} MiB, which add accepts,"
    remedy = (
        "raise it (nginx: client_max_body_size, aiohttp: client_max_size, Django: DATA_UPLOAD_MAX_MEMORY_SIZE), or"
        " lower limits.body of the TaskQueue"
    )
    if not isinstance(outcome, Answered):
        return Finding(
            "body limit", "error", f"{size} was cut off: by a limit of a proxy or of the application", remedy
        )
    if outcome.status == 413:
        what = f"{size} was answered 413: a limit of a proxy or of the application"
        return Finding("body limit", "error", what, remedy)
    found = judge_delivery(outcome)
    return Finding("body limit", "ok", f"{size} gets through") if found.level == "ok" else found


@dataclass(frozen=True, slots=True)
class Probe:
    """Makes deliveries of tasks that never were."""

    replayer: HttpReplayer
    queue: str
    path: str
    host: str
    scheme: str

    async def send(self, method: str, body: bytes = b"") -> Outcome:
        """Send one and return what came of it."""
        now = time.time_ns() // 1_000_000
        task = Task(
            id=str(uuid.uuid4()),
            queue=self.queue,
            method=method,
            target=self.path,
            host=self.host,
            scheme=self.scheme,
            body=body,
            created=now,
        )
        delivery = Delivery(task=task, delivery=1, attempt=1, max_attempts=1, timeout=PATIENCE)
        return await self.replayer.replay(delivery)
