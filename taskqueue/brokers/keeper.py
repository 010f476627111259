"""The process that runs the server of an embedded store: starts it, watches over it, ends it.

It is a script of its own, detached and with the standard library alone, because it must outlive whoever started it and
yet be small. A store has one keeper at most: it inherits the lock of the store, and so does the server, so that the
lock is free only when both are gone. The server ends when nobody holds the users' lock any more (the kernel lets go of
it however a user died), when nobody was connected for a while, when the store was removed from under it, and when the
keeper itself is killed.

What whoever started it reads, until the end of the pipe: ``ready``; ``refused: <why>`` if the server gave up by itself;
``unusable: <why>`` if there was no getting that far; anything else means that somebody killed it.
"""

import contextlib
import ctypes
import fcntl
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

TICK: Final = 0.25
START_TICK: Final = 0.01
ASK_SECONDS: Final = 1.0
# How often a time without a client is looked at before it is over.
LOOKS: Final = 10
STOP_SECONDS: Final = 5.0
LOG_BYTES: Final = 1024 * 1024
# A socket's address has room for 104 bytes on macOS, 108 on Linux; a path below the temporary directory needs 21.
SOCKET_PARENT_BYTES: Final = 80
PR_SET_PDEATHSIG: Final = 1


def ask(path: str, command: str) -> bytes:
    """Send one command to the server on this socket and return the beginning of its reply; raises OSError."""
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(ASK_SECONDS)
        line.connect(path)
        line.sendall(f"{command}\r\n".encode())
        return line.recv(65536)


def tell(path: str, command: str) -> None:
    """Send one command to the server on this socket and wait for nothing; raises OSError."""
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(ASK_SECONDS)
        line.connect(path)
        line.sendall(f"{command}\r\n".encode())


def answers(path: str) -> bool:
    """Tell whether a server on this socket has loaded its data; it may still answer that its disk is full."""
    try:
        reply = ask(path, "PING")
    except OSError:
        return False
    return reply != b"" and not reply.startswith(b"-LOADING")


def take(lock: int, kind: int) -> bool:
    """Take a lock, ``fcntl.LOCK_SH`` or ``LOCK_EX``, without waiting; return whether that was possible."""
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def still_there(opened: int, path: Path) -> bool:
    """Tell whether the path still names the file that was opened: a store may be removed while it is used."""
    try:
        return os.path.samestat(os.fstat(opened), path.stat())
    except FileNotFoundError:
        return False


def noted_socket(directory: Path) -> str:
    """Return the socket of the store in this directory, empty if none is noted."""
    try:
        return (directory / "socket").read_text()
    except FileNotFoundError:
        return ""


def connected_clients(path: str) -> int:
    """Return how many clients the server has beside us; raises OSError."""
    found = re.search(rb"^connected_clients:(\d+)", ask(path, "INFO clients"), re.MULTILINE)
    return int(found[1]) - 1 if found else 0


def die_with_parent() -> None:
    """Ask the kernel (Linux) to kill this process when its parent dies: no other way survives kill -9 of the parent."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def guard(process: int) -> "subprocess.Popen[bytes]":
    """Do the same elsewhere: a shell that kills the process when our end of its standard input is closed."""
    command = ["/bin/sh", "-c", 'read _; kill -9 "$0"', str(process)]
    return subprocess.Popen(command, stdin=subprocess.PIPE)  # noqa: S603  our own words


class Log:
    """The server's output: appended to a file while there is room on the disk; its end is kept in memory too."""

    def __init__(self, path: Path) -> None:
        too_long = path.exists() and path.stat().st_size > LOG_BYTES
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | (os.O_TRUNC if too_long else 0), 0o600)
        self._tail = b""

    def write(self, text: bytes) -> None:
        """Append; a full disk costs the log, not the store."""
        self._tail = (self._tail + text)[-4096:]
        with contextlib.suppress(OSError):
            os.write(self._file, text)

    def last_line(self) -> str:
        """Return the last line that says something, without process id, role and date."""
        lines = [line for line in self._tail.decode(errors="replace").splitlines() if line.strip()]
        return re.sub(r"^\d+:\w \d+ \w+ \d+ [\d:.]+ \W ", "", lines[-1]) if lines else "(it wrote nothing)"


class Keeper:
    """One run of the server of one store."""

    def __init__(self, lock: int, directory: Path, binary: str, idle: float) -> None:
        """Take the store's lock, held; its directory; the server's binary; the seconds it may be without a client."""
        self._lock, self._directory, self._binary, self._idle = lock, directory, binary, idle
        self._users = os.open(directory / "users", os.O_RDWR)
        self._log = Log(directory / "log")
        self._ready = False
        self._busy = self._looked = time.monotonic()

    def run(self) -> None:
        """Run the server until it is no longer needed, and leave nothing behind but its data."""
        with ExitStack() as stack:
            path = self._make_socket_path(stack)
            output, inlet = os.pipe()
            server = self._start(path, inlet, stack)
            os.close(inlet)
            why = self._watch(server, output, path)
            if self._ready:
                self._log.write(f"keeper: {why}\n".encode())
        os.set_blocking(output, False)  # the rest; a child of the server's may hold the other end open a while longer
        with contextlib.suppress(BlockingIOError):
            self._log.write(os.read(output, 65536))
        if not self._ready and server.returncode > 0:
            report(f"refused: {self._log.last_line()}")

    def _make_socket_path(self, stack: ExitStack) -> str:
        """Make the socket a directory that nobody else can have made, and note it in the store."""
        if left_behind := noted_socket(self._directory):  # by a keeper that was killed
            remove_socket(left_behind)
        temporary = tempfile.gettempdir()
        short = temporary if len(os.fsencode(temporary)) <= SOCKET_PARENT_BYTES else "/tmp"  # noqa: S108  made unique
        path = f"{tempfile.mkdtemp(prefix='taskqueue-', dir=short)}/s"
        stack.callback(remove_socket, path)
        stack.callback(self._remove_note, path)
        (self._directory / "socket").write_text(path)
        return path

    def _remove_note(self, path: str) -> None:
        if noted_socket(self._directory) == path:  # else the store was removed, and there may be a new one
            (self._directory / "socket").unlink()

    def _start(self, path: str, output: int, stack: ExitStack) -> "subprocess.Popen[bytes]":
        linux = sys.platform == "linux"
        server = subprocess.Popen(  # noqa: S603  the binary is the user's choice
            [
                *(self._binary, "--port", "0", "--unixsocket", path, "--unixsocketperm", "700"),
                *("--dir", str(self._directory), "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[self._lock],
            preexec_fn=die_with_parent if linux else None,  # noqa: PLW1509  there is only one thread here
        )
        if not linux:
            watcher = guard(server.pid)
            stack.callback(watcher.communicate)
            stack.callback(watcher.kill)
        stack.callback(stop, server)
        return server

    def _watch(self, server: "subprocess.Popen[bytes]", output: int, path: str) -> str:
        """Return why the server is no longer needed, or that it has ended."""
        while True:
            if select.select([output], [], [], TICK if self._ready else START_TICK)[0]:
                text = os.read(output, 65536)
                self._log.write(text)
                if text:
                    continue
                with contextlib.suppress(subprocess.TimeoutExpired):
                    server.wait(STOP_SECONDS)
                return "the server has ended"
            if server.poll() is not None:
                return "the server has ended"
            if take(self._users, fcntl.LOCK_EX):  # and keep it: who comes now waits until the server has stopped
                return "nobody uses the store any more"
            if not still_there(self._lock, self._directory / "lock"):
                return "the store was removed"
            if not self._ready:
                self._become_ready(path)
            elif noted_socket(self._directory) != path or not Path(path).exists():
                return "the socket was removed"
            elif self._is_idle(path):
                return f"no client for {self._idle:g} s"

    def _become_ready(self, path: str) -> None:
        if answers(path):
            self._ready, self._busy = True, time.monotonic()
            report("ready")
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)

    def _is_idle(self, path: str) -> bool:
        now = time.monotonic()
        if now - self._looked < self._idle / LOOKS:
            return False
        self._looked = now
        try:
            if connected_clients(path) > 0:
                self._busy = now
        except OSError:  # frozen, or all of its connections are taken: not idle, as far as we can tell
            self._busy = now
        return now - self._busy > self._idle


def remove_socket(path: str) -> None:
    """Remove a socket and its directory, and nothing that is not one of ours."""
    home = Path(path).parent
    if home.name.startswith("taskqueue-") and not home.is_symlink():
        with contextlib.suppress(OSError):  # gone already, or somebody else's by now
            Path(path).unlink(missing_ok=True)
            home.rmdir()


def stop(server: "subprocess.Popen[bytes]") -> None:
    """End the server in good order if it lets us, else at once: what it has acknowledged is in its file."""
    server.terminate()
    try:
        server.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def report(text: str) -> None:
    """Tell whoever started us, if they still listen."""
    with contextlib.suppress(OSError):
        os.write(1, f"{text}\n".encode())


def leave(number: int, _frame: object) -> None:
    """End in good order when told to, once."""
    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


def main(lock: str, directory: str, binary: str, idle: str) -> None:
    """Become nobody's child, so that nobody has to wait for us, and keep the server."""
    if os.fork():
        os._exit(0)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, leave)
    try:
        Keeper(int(lock), Path(directory), binary, float(idle)).run()
    except OSError as error:
        report(f"unusable: {error}")


if __name__ == "__main__":
    main(*sys.argv[1:])
