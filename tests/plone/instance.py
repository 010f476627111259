"""An instance of Plone: its files, its database server, its web server, and its consumers."""

import base64
import http.client
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from tests.house.tree import ROOT
from tests.plone import LEDGER
from tests.servers import free_port
from tests.tasks import SECRET
from tests.waiting import wait_until

PASSWORD: Final = "Secret-9876!"
START_SECONDS: Final = 120.0

ZOPE_CONF: Final = """\
%define INSTANCE {home}
%import taskqueue.middleware.zope
%import ZEO

instancehome $INSTANCE
debug-mode {debug}
max-conflict-retries 3

<taskqueue queues>
  url {redis}
  secret-file $INSTANCE/secret
  queue default
  queue mail
</taskqueue>

<zodb_db main>
  <clientstorage>
    server {zeo}
    server-sync true
  </clientstorage>
  mount-point /
</zodb_db>
"""

ZOPE_INI: Final = """\
[app:zope]
use = egg:Zope#main
zope_conf = %(here)s/zope.conf

[filter:taskqueue]
use = egg:http-taskqueue#zope

[pipeline:main]
pipeline =
    taskqueue
    egg:Zope#httpexceptions
    zope

[server:main]
use = egg:waitress#main
host = 127.0.0.1
port = {port}
threads = 4
"""

SITE_ZCML: Final = """\
<configure xmlns="http://namespaces.zope.org/zope" xmlns:five="http://namespaces.zope.org/five">
  <include package="Zope2.App" />
  <five:loadProducts file="meta.zcml" />
  <five:loadProducts />
  <five:loadProductsOverrides />
  <include package="tests.plone" file="views.zcml" />
</configure>
"""


@dataclass(frozen=True)
class Response:
    status: int
    headers: Mapping[str, str]
    text: str


@dataclass
class Instance:
    """An instance in a folder of its own; ``redis`` is the URL of its store."""

    home: Path
    redis: str
    port: int = field(default_factory=free_port)
    zeo: int = field(default_factory=free_port)

    def configure(self, *, debug: str = "off") -> None:
        """Write its files."""
        (self.home / "etc").mkdir(exist_ok=True)
        (self.home / "var").mkdir(exist_ok=True)
        (self.home / "secret").write_text(SECRET)
        conf = ZOPE_CONF.format(home=self.home, redis=self.redis, zeo=f"127.0.0.1:{self.zeo}", debug=debug)
        (self.home / "zope.conf").write_text(conf)
        (self.home / "zope.ini").write_text(ZOPE_INI.format(port=self.port))
        (self.home / "etc" / "site.zcml").write_text(SITE_ZCML)

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TASKQUEUE_")}  # noqa: TID251
        return {**kept, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}

    def run(self, *arguments: str) -> None:
        """Run a module of Python here; it must succeed."""
        command = [sys.executable, "-m", *arguments]
        done = subprocess.run(command, cwd=self.home, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    @contextmanager
    def process(self, name: str, *arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
        """Run a module of Python here, and end it after the block; its log is NAME.log."""
        with (self.home / f"{name}.log").open("ab") as log:
            started = subprocess.Popen(
                [sys.executable, "-m", *arguments], cwd=self.home, env=self.environment, stdout=log, stderr=log
            )
        try:
            yield started
        finally:
            started.terminate()
            started.wait(START_SECONDS)

    @contextmanager
    def database(self) -> Iterator[None]:
        """Serve the database."""
        address = f"127.0.0.1:{self.zeo}"
        with self.process("zeo", "ZEO.runzeo", "-a", address, "-f", "var/Data.fs") as started:
            self._answers(started, self.zeo)
            yield

    @contextmanager
    def web(self) -> Iterator[None]:
        """Serve the site."""
        with self.process("web", "Zope2.Startup.serve", "zope.ini") as started:
            self._answers(started, self.port)
            yield

    @contextmanager
    def consumer(self, how: str, *options: str) -> Iterator[None]:
        """Have its tasks replayed: ``over http``, or ``in process``."""
        if how == "over http":
            chosen = ["--target", f"http://127.0.0.1:{self.port}", "--url", self.redis, "--secret-file", "secret"]
        else:
            chosen = ["--app", "config:zope.ini"]
        arguments = ["tests.plone.serve", "--name=instance1", *chosen, "--queue=default,mail", *options]
        log = self.home / "consumer.log"
        log.unlink(missing_ok=True)
        with self.process("consumer", *arguments) as started:
            ready = "starting"
            wait_until(
                lambda: started.poll() is not None or ready in log.read_text(), "it consumes", limit=START_SECONDS
            )
            assert started.poll() is None, log.read_text()
            yield

    def _answers(self, started: "subprocess.Popen[bytes]", port: int) -> None:
        def answers() -> bool:
            with socket.socket() as probe:
                return started.poll() is not None or probe.connect_ex(("127.0.0.1", port)) == 0

        wait_until(answers, f"port {port} answers", limit=START_SECONDS)
        assert started.poll() is None, "\n".join(log.read_text() for log in self.home.glob("*.log"))

    def fetch(
        self,
        path: str,
        method: str = "GET",
        *,
        user: str | None = None,
        form: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Response:
        """Make a request as a browser does, which follows no redirect."""
        sent = dict(headers or {})
        if user is not None:
            sent["Authorization"] = "Basic " + base64.b64encode(f"{user}:{PASSWORD}".encode()).decode()
        if form is not None:
            body = urlencode(form).encode()
            sent["Content-Type"] = "application/x-www-form-urlencoded"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Response(response.status, found, response.read().decode(errors="replace"))
        finally:
            connection.close()

    def effects(self) -> list[dict[str, Any]]:
        """Return what tasks have done since ``forget``; a line that is still being written does not count yet."""
        ledger = self.home / LEDGER
        written = ledger.read_text().rpartition("\n")[0] if ledger.exists() else ""
        return [json.loads(line) for line in written.splitlines()]

    def forget(self) -> None:
        """Begin a new ledger."""
        (self.home / LEDGER).unlink(missing_ok=True)

    def done(self, count: int, *, limit: float = 60.0) -> list[dict[str, Any]]:
        """Wait for this many effects; return them."""
        wait_until(lambda: len(self.effects()) >= count, f"{count} effects", limit=limit)
        return self.effects()


@contextmanager
def running(home: Path, redis: str) -> Iterator[Instance]:
    """Make an instance with a site, and run its database and its web server."""
    instance = Instance(home, redis)
    instance.configure()
    with ExitStack() as stack:
        stack.enter_context(instance.database())
        instance.run("tests.plone.make_site")
        stack.enter_context(instance.web())
        yield instance
