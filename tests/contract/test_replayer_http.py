"""What a replay puts on the wire, and what it makes of every answer: judged by the bytes that a plain socket sees."""

import asyncio
import gzip
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskqueue.errors import ConfigError, InvalidTask
from taskqueue.keys import Keyring
from taskqueue.policy import BROKEN, DNS, FORMAT, REFUSED, TIMEOUT, TLS, Answered, Broken, NotSent, Outcome, Unreadable
from taskqueue.receipt import receipt
from taskqueue.replay import Delivery, HttpReplayer
from taskqueue.signature import check_body, verify
from taskqueue.target import Limits, target_of
from taskqueue.task import Task
from tests.certificate import self_signed
from tests.servers import free_port
from tests.sockets import Conversations, talking
from tests.tasks import KEYRING, SECRET, task
from tests.waiting import until

OK: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
Answer = Callable[["Request", asyncio.StreamWriter], Awaitable[bool]]


@dataclass
class Request:
    """One request as it came: its head and body, byte for byte, and on which connection."""

    head: bytes
    body: bytes
    connection: int

    @property
    def line(self) -> str:
        return self.head.split(b"\r\n")[0].decode("ascii")

    @property
    def headers(self) -> list[tuple[str, str]]:
        lines = self.head.split(b"\r\n\r\n")[0].decode("utf-8", "surrogateescape").split("\r\n")[1:]
        return [(name, value) for name, _, value in (line.partition(": ") for line in lines)]

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.headers]

    def all(self, name: str) -> list[str]:
        return [value for known, value in self.headers if known.lower() == name.lower()]


@dataclass
class RawTarget:
    """A socket that speaks HTTP only as told: ``answer`` writes what it likes and says whether to go on."""

    answer: Answer
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def talk(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections, going = number, True
        while going:
            head = await reader.readuntil(b"\r\n\r\n")
            request = Request(head, b"", number)
            request.body = await reader.readexactly(int((request.all("Content-Length") or ["0"])[0]))
            self.requests.append(request)
            going = await self.answer(request, writer)
            await writer.drain()


def says(*answers: bytes, then: str = "keep") -> Answer:
    """Answer with these bytes in turn, the last one again and again; ``then``: keep, close or hang."""
    left = list(answers)

    async def answer(_request: Request, writer: asyncio.StreamWriter) -> bool:
        writer.write(left.pop(0) if len(left) > 1 else left[0])
        if then == "hang":
            await writer.drain()
            await asyncio.Event().wait()
        return then == "keep"

    return answer


@asynccontextmanager
async def raw_target(answer: Answer, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[RawTarget]:
    target = RawTarget(answer)
    async with talking(target.talk, tls=tls) as conversations:
        target.port = conversations.port
        yield target


@pytest.fixture
async def target() -> AsyncIterator[RawTarget]:
    async with raw_target(says(OK)) as target:
        yield target


@pytest.fixture
async def replayer(target: RawTarget) -> AsyncIterator[HttpReplayer]:
    async with HttpReplayer(target.url, KEYRING) as replayer:
        yield replayer


def delivery(made: Task, *, number: int = 1, attempt: int = 1, timeout: float = 10.0) -> Delivery:
    return Delivery(task=made, delivery=number, attempt=attempt, max_attempts=11, timeout=timeout)


async def outcome_of(answer: Answer, made: Task | None = None, *, within: float = 10.0) -> Outcome:
    """Return the outcome of one replay against a target that answers like this, and that saw one request."""
    async with raw_target(answer) as target, HttpReplayer(target.url, KEYRING) as replayer:
        outcome = await replayer.replay(delivery(made or task("/"), timeout=within))
        assert len(target.requests) == 1
        return outcome


class TestBytes:
    async def test_these_headers_and_no_others(self, replayer: HttpReplayer, target: RawTarget) -> None:
        made = task("/a?b=c", "POST", headers=(("content-type", "text/x"), ("x-own", "1")), body=b"abc", user_id="u")
        await replayer.replay(delivery(made))
        (request,) = target.requests
        assert request.line == "POST /a?b=c HTTP/1.1"
        expected = """Host User-Agent content-type x-own X-Task-Id X-Task-User-Id X-Task-Queue X-Task-Attempt
            X-Task-Delivery X-Task-Max-Attempts X-Task-Enqueued-At X-Task-Deadline Idempotency-Key Content-Digest
            Signature-Input Signature Content-Length"""
        assert sorted(request.names) == sorted(expected.split())
        assert request.names[0] == "Host"
        assert request.all("User-Agent")[0].startswith("taskqueue/")
        assert request.body == b"abc"

    @pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
    async def test_a_body_has_its_length_and_only_its_length(
        self, replayer: HttpReplayer, target: RawTarget, method: str
    ) -> None:
        await replayer.replay(delivery(task("/", method, body=b"\x00\xff" * 50)))
        (request,) = target.requests
        assert request.all("Content-Length") == ["100"]
        assert request.all("Transfer-Encoding") == request.all("Content-Type") == request.all("Expect") == []
        assert request.body == b"\x00\xff" * 50

    @pytest.mark.accept("CT12")
    @pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
    async def test_an_empty_body_is_told(self, replayer: HttpReplayer, target: RawTarget, method: str) -> None:
        assert await replayer.replay(delivery(task("/", method))) == Answered(status=200, receipted=False)
        assert target.requests[0].all("Content-Length") == ["0"]
        assert target.requests[0].all("Transfer-Encoding") == []

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    async def test_no_body_is_no_length(self, replayer: HttpReplayer, target: RawTarget, method: str) -> None:
        await replayer.replay(delivery(task("/", method)))
        assert target.requests[0].all("Content-Length") == []

    async def test_the_recorded_host_and_scheme_are_told(self, replayer: HttpReplayer, target: RawTarget) -> None:
        await replayer.replay(delivery(task("/", host="public.example:8443", scheme="https")))
        await replayer.replay(delivery(task("/", scheme="https", headers=(("x-forwarded-proto", "copied"),))))
        public, own = target.requests
        assert public.all("Host") == ["public.example:8443"]
        assert public.all("X-Forwarded-Proto") == ["https"]
        assert own.all("Host") == [f"127.0.0.1:{target.port}"]
        assert own.all("X-Forwarded-Proto") == ["copied"]

    async def test_headers_keep_their_order_repetition_and_text(
        self, replayer: HttpReplayer, target: RawTarget
    ) -> None:
        headers = (("x-b", "2"), ("x-a", "é, ü"), ("x-b", "1"), ("content-encoding", "gzip"), ("accept", "a/b"))
        await replayer.replay(delivery(task("/", "POST", headers=headers, body=gzip.compress(b"x"))))
        (request,) = target.requests
        own = [pair for pair in request.headers if (pair[0], "") in [(name, "") for name, _ in headers]]
        assert sorted(own) == sorted(headers)
        assert request.all("x-b") == ["2", "1"]
        assert gzip.decompress(request.body) == b"x"

    async def test_two_mebibytes_arrive_byte_for_byte(self, replayer: HttpReplayer, target: RawTarget) -> None:
        body = bytes(range(256)) * 8192
        assert isinstance(await replayer.replay(delivery(task("/", "POST", body=body))), Answered)
        assert target.requests[0].body == body

    @pytest.mark.parametrize(
        "path",
        ["/", "/~user?x=%41", "/x?a=%2f", "/a//b", "/a;b=c,d/(e)'f'!$&+@:*", "/%C3%A9?q=%E2%82%AC", "/x?a=b?c&d=/e",
         "/x?%7Etilde=%7e&plus=a+b&space=a%20b", "/x?=", "/x?&&", "/%25/%5B%5D", "/:80/x", "/@host/x", "/x/?a"],
    )  # fmt: skip
    async def test_what_others_rewrite_is_sent_as_it_was_signed(
        self, replayer: HttpReplayer, target: RawTarget, path: str
    ) -> None:
        made = task(target_of(path, None, Limits()))
        await replayer.replay(delivery(made))
        (request,) = target.requests
        assert request.line == f"GET {made.target} HTTP/1.1"
        proof = verified(request, made.target)
        assert (proof.task_id, proof.target) == (made.id, made.target)

    @settings(max_examples=25, deadline=None)
    @given(st.lists(st.tuples(st.text(), st.dictionaries(st.text(max_size=5), st.text(max_size=5))), min_size=40))
    def test_whatever_add_accepts_is_sent_as_it_is(self, wishes: list[tuple[str, dict[str, str]]]) -> None:
        targets: list[str] = []
        for text, params in wishes:
            for path in (f"/{text}", f"/{text.encode('unicode_escape').decode().replace(chr(92), '%5C')}", "/"):
                try:
                    targets.append(target_of(path, params, Limits()))
                except InvalidTask:
                    continue
        asyncio.run(self._all_arrive(targets))

    async def _all_arrive(self, targets: list[str]) -> None:
        async with raw_target(says(OK)) as raw, HttpReplayer(raw.url, KEYRING) as replayer:
            for path in targets:
                await replayer.replay(delivery(task(path)))
            assert [request.line for request in raw.requests] == [f"GET {path} HTTP/1.1" for path in targets]

    async def test_what_was_signed_is_what_is_sent(self, replayer: HttpReplayer, target: RawTarget) -> None:
        headers = (("cookie", "a=b"), ("authorization", "Basic eDp5"), ("content-type", "text/plain; charset=utf-8"))
        made = task("/a%20b?c=%26", "PUT", headers=headers, body=b"body", user_id="jürgen 100%", host="public.example")
        await replayer.replay(delivery(made, number=7, attempt=3))
        (request,) = target.requests
        proof = verified(request, made.target)
        assert (proof.user_id, proof.delivery, proof.attempt, proof.queue) == ("jürgen 100%", 7, 3, "default")
        for name, value in headers:
            assert request.all(name) == [value]


def verified(request: Request, path: str) -> Any:
    """Return the proof of a request as it came over the wire."""
    proof = verify(
        KEYRING,
        method=request.line.split(" ")[0],
        authority=request.all("Host")[0],
        targets=[path],
        headers=request.headers,
        now=datetime.now(UTC).timestamp(),
    )
    check_body(proof, request.body)
    return proof


class TestHelpfulness:
    """What a client library does unasked, and must not do here."""

    async def test_no_cookie_of_one_task_reaches_another(self) -> None:
        cookies = b"HTTP/1.1 200 OK\r\nSet-Cookie: session=first; Path=/\r\nContent-Length: 0\r\n\r\n"
        # A host name: jars keep nothing for an address.
        async with (
            raw_target(says(cookies)) as target,
            HttpReplayer(f"http://localhost:{target.port}", KEYRING) as replayer,
        ):
            await replayer.replay(delivery(task("/", headers=(("cookie", "session=first"),))))
            await replayer.replay(delivery(task("/", headers=(("cookie", "session=second"),))))
            await replayer.replay(delivery(task("/")))
        assert [request.all("Cookie") for request in target.requests] == [["session=first"], ["session=second"], []]

    @pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "POST", "PATCH"])
    async def test_nothing_is_sent_twice_when_a_kept_connection_dies(self, method: str) -> None:
        seen = 0

        async def dies_at_the_second(_request: Request, writer: asyncio.StreamWriter) -> bool:
            nonlocal seen
            seen += 1
            if seen == 2:
                return False
            writer.write(OK)
            return True

        async with raw_target(dies_at_the_second) as target, HttpReplayer(target.url, KEYRING) as replayer:
            assert isinstance(await replayer.replay(delivery(task("/first", method))), Answered)
            assert await replayer.replay(delivery(task("/second", method))) == Broken(BROKEN)
            assert [request.connection for request in target.requests] == [1, 1], (
                "the connection was kept, and used once"
            )
            assert isinstance(await replayer.replay(delivery(task("/third", method))), Answered)
        assert [request.line.split(" ")[1] for request in target.requests] == ["/first", "/second", "/third"]

    async def test_a_kept_connection_that_was_closed_meanwhile_is_not_used(self) -> None:
        async with raw_target(says(OK, then="close")) as target, HttpReplayer(target.url, KEYRING) as replayer:
            for _ in range(3):
                assert isinstance(await replayer.replay(delivery(task("/"))), Answered)
                await until(lambda: _none_open(replayer), "the close has arrived")
        assert [request.connection for request in target.requests] == [1, 2, 3]

    async def test_connections_are_kept(self, replayer: HttpReplayer, target: RawTarget) -> None:
        for _ in range(5):
            await replayer.replay(delivery(task("/")))
        assert target.connections == 1

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    async def test_redirects_are_not_followed(self, status: int) -> None:
        async with raw_target(says(OK)) as elsewhere:
            location = f"{elsewhere.url}/other?token=x"
            head = f"HTTP/1.1 {status} Moved\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
            outcome = await outcome_of(says(head.encode()), task("/", user_id="u"))
            assert isinstance(outcome, Answered)
            assert (outcome.status, outcome.receipted, outcome.location) == (status, False, location)
            assert elsewhere.requests == []

    async def test_proxies_of_the_environment_are_ignored(
        self, target: RawTarget, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
        async with raw_target(says(OK)) as proxy:
            for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
                monkeypatch.setenv(name, proxy.url)
            async with HttpReplayer(target.url, KEYRING) as replayer:
                await replayer.replay(delivery(task("/")))
            assert proxy.requests == []
        assert len(target.requests) == 1
        assert target.requests[0].all("Authorization") == []

    @pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
    async def test_no_answer_is_inflated(self, coding: str) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {coding}\r\nContent-Length: 4\r\n\r\nnone"
        assert await outcome_of(says(head.encode())) == Answered(status=200, receipted=False, size=4)


async def _none_open(replayer: HttpReplayer) -> bool:
    assert replayer._client is not None
    return not replayer._client._connections


class TestOutcomes:
    async def test_what_the_policy_asks_for_is_taken_from_the_answer(self) -> None:
        head = (
            b"HTTP/1.1 503 Busy\r\nRetry-After: 120\r\nX-Task-Retry: no\r\nX-Task-Refused: skew\r\nLocation: /x\r\n"
            b"Content-Length: 5\r\n\r\nlater"
        )
        assert await outcome_of(says(head)) == Answered(
            status=503,
            receipted=False,
            retry_after="120",
            task_retry="no",
            refused="skew",
            location="/x",
            headers=(
                ("Retry-After", "120"),
                ("X-Task-Retry", "no"),
                ("X-Task-Refused", "skew"),
                ("Location", "/x"),
                ("Content-Length", "5"),
            ),
            content=b"later",
            size=5,
        )

    @pytest.mark.parametrize("logged_in", [True, False])
    async def test_a_receipt_is_believed_for_its_own_delivery_only(self, *, logged_in: bool) -> None:
        made = task("/", user_id="u")

        async def with_receipt(keyring: Keyring, number: int, task_id: str) -> Outcome:
            value = receipt(keyring.current, task_id=task_id, delivery=number, logged_in=logged_in)
            head = f"HTTP/1.1 200 OK\r\nX-Task-Receipt: {value}\r\nContent-Length: 0\r\n\r\n"
            return await outcome_of(says(head.encode()), made)

        believed = Answered(status=200, receipted=True, logged_in=logged_in)
        doubted = Answered(status=200, receipted=False)
        assert await with_receipt(KEYRING, 1, made.id) == believed
        assert await with_receipt(KEYRING, 2, made.id) == doubted
        assert await with_receipt(KEYRING, 1, "another") == doubted
        assert await with_receipt(Keyring([SECRET[::-1]]), 1, made.id) == doubted

    async def test_a_long_answer_is_read_to_its_end(self) -> None:
        body = b"x" * (5 << 20)
        drained: list[int] = []

        async def long(_request: Request, writer: asyncio.StreamWriter) -> bool:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
            for start in range(0, len(body), 1 << 16):
                writer.write(body[start : start + (1 << 16)])
                await writer.drain()
            drained.append(len(body))
            return True

        async with raw_target(long) as target, HttpReplayer(target.url, KEYRING) as replayer:
            for _ in range(2):
                answer = await replayer.replay(delivery(task("/")))
                assert answer == Answered(status=200, receipted=False, size=len(body))
        assert drained == [len(body)] * 2
        assert target.connections == 1, "read to the end, so it could be used again"

    async def test_what_comes_before_the_answer_is_passed_over(self) -> None:
        hints = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 3
        assert await outcome_of(says(hints + OK)) == Answered(status=200, receipted=False)

    @pytest.mark.parametrize(
        "answer",
        [
            b"",
            b"HTTP/1.1",
            b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnot a length\r\n",
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"\x00\xff\x15\x03\x01 nonsense\r\n\r\n",
            b"HTTP/1.1 two hundred\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n123456",
            b"HTTP/1.1 200 OK\r\n" + b"X-Long: " + b"x" * 100_000 + b"\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nBad Name: x\r\n\r\n",
        ],
    )
    async def test_what_is_no_whole_answer_is_broken(self, answer: bytes) -> None:
        assert await outcome_of(says(answer, then="close")) == Broken(BROKEN)

    @pytest.mark.parametrize(
        "answer",
        [
            b"",
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
            b"HTTP/1.1 103 Early Hints\r\n\r\n",
        ],
    )
    async def test_what_does_not_come_in_time_is_a_timeout(self, answer: bytes) -> None:
        assert await outcome_of(says(answer, then="hang"), within=0.1) == Broken(TIMEOUT)

    async def test_an_endless_answer_is_cut_off_at_the_timeout(self) -> None:
        async def endless(_request: Request, writer: asyncio.StreamWriter) -> bool:
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while not writer.is_closing():
                writer.write(b"1\r\nx\r\n")
                await writer.drain()
                await asyncio.sleep(0)
            return False

        assert await outcome_of(endless, within=0.2) == Broken(TIMEOUT)

    async def test_a_cancelled_replay_closes_its_connection(self) -> None:
        entered, cancelled, closed = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def hang(_request: Request, writer: asyncio.StreamWriter) -> bool:
            entered.set()
            await cancelled.wait()
            while not writer.is_closing():
                writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
                await asyncio.sleep(0)
            closed.set()
            return False

        async with raw_target(hang) as target, HttpReplayer(target.url, KEYRING) as replayer:
            replaying = asyncio.create_task(replayer.replay(delivery(task("/"))))
            await entered.wait()
            replaying.cancel()
            with pytest.raises(asyncio.CancelledError):
                await replaying
            cancelled.set()
            async with asyncio.timeout(10):
                await closed.wait()

    async def test_a_record_that_cannot_be_signed_is_not_sent(self, replayer: HttpReplayer, target: RawTarget) -> None:
        assert await replayer.replay(delivery(task("/", headers=(("cookie", "a\r\nb: c"),)))) == Unreadable(FORMAT)
        assert await replayer.replay(delivery(task("/", headers=(("x-a", "a\r\nb: c"),)))) == Unreadable(FORMAT)
        assert target.requests == []


class TestNothingSent:
    async def _outcome(self, url: str, **options: Any) -> Outcome:
        async with HttpReplayer(url, KEYRING, **options) as replayer:
            return await replayer.replay(delivery(task("/")))

    async def test_nobody_listens(self) -> None:
        assert await self._outcome(f"http://127.0.0.1:{free_port()}") == NotSent(REFUSED)

    async def test_the_name_is_not_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def resolve(*_arguments: object, **_options: object) -> Any:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        assert await self._outcome("http://no-such-host.example:80") == NotSent(DNS)

    async def test_the_certificate_is_not_trusted(self, tmp_path: Path) -> None:
        async with raw_target(says(OK), tls=self_signed(tmp_path)) as target:
            assert await self._outcome(f"https://127.0.0.1:{target.port}") == NotSent(TLS)
            assert target.requests == []

    async def test_the_target_does_not_speak_tls(self) -> None:
        async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        async with await asyncio.start_server(plain, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            assert await self._outcome(f"https://127.0.0.1:{port}") == NotSent(TLS)

    async def test_the_connection_takes_too_long(self) -> None:
        silent = asyncio.Event()

        async def hold(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await silent.wait()
            writer.close()

        async with await asyncio.start_server(hold, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            assert await self._outcome(f"https://127.0.0.1:{port}", connect_timeout=0.1) == NotSent(REFUSED)
            silent.set()

    async def test_over_a_unix_socket(self, tmp_path: Path) -> None:
        path = str(tmp_path / "app")
        assert await self._outcome("http://app.example", unix_socket=path) == NotSent(REFUSED)
        target = RawTarget(says(OK))
        conversations = Conversations(target.talk)
        async with await asyncio.start_unix_server(conversations.serve, path):
            outcome = await self._outcome("http://app.example", unix_socket=path)
            await conversations.close()
        assert outcome == Answered(status=200, receipted=False)
        assert target.requests[0].all("Host") == ["app.example"]


class TestAddress:
    @pytest.mark.parametrize(
        "target",
        ["", "localhost:8000", "ftp://host", "http://", "http://user:pw@host", "http://host/path", "http://host?x",
         "http://host#x", "http://ho st", "http://host:port", "http://host:99999", "redis://host", "//host"],
    )  # fmt: skip
    def test_what_is_no_address_is_refused(self, target: str) -> None:
        with pytest.raises(ConfigError, match="target") as caught:
            HttpReplayer(target, KEYRING)
        assert "pw" not in str(caught.value)

    @pytest.mark.parametrize(
        ("target", "address"),
        [("http://127.0.0.1:8000", "http://127.0.0.1:8000"), ("https://app.example/", "https://app.example"),
         ("http://[::1]:80", "http://[::1]:80")],
    )  # fmt: skip
    def test_an_address_is_shown(self, target: str, address: str) -> None:
        assert HttpReplayer(target, KEYRING).address == address

    async def test_the_deadline_is_told(self, replayer: HttpReplayer, target: RawTarget) -> None:
        made = replace(task("/"), created=1_000_000_000_123)
        await replayer.replay(delivery(made, timeout=3600))
        (request,) = target.requests
        assert request.all("X-Task-Enqueued-At") == ["2001-09-09T01:46:40.123Z"]
        told = datetime.fromisoformat(request.all("X-Task-Deadline")[0])
        assert timedelta(minutes=59) < told - datetime.now(UTC) <= timedelta(hours=1)
