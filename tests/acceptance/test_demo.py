"""The demo keeps its promises, says so, and leaves nothing behind."""

import os
import pty
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.house import tree
from tests.waiting import wait_until

DEMO: Final = tree.ROOT / "examples" / "demo.py"


def environment(folder: Path) -> dict[str, str]:
    """Return variables under which all that the demo makes is in one folder."""
    return {"TMPDIR": str(folder), "PATH": os.defpath, "TERM": "xterm", "COLUMNS": "100"}


def nothing_left(folder: Path) -> bool:
    """Tell whether neither a file nor a process of the demo is there any more."""
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    return not any(folder.iterdir()) and not any(str(folder).encode() in command for command in commands)


def short_folder() -> Path:
    """Return a new folder whose path is short enough for a socket in it."""
    return Path(tempfile.mkdtemp(prefix="tq-"))


def test_without_a_terminal_it_ends_by_itself_with_everything_as_promised() -> None:
    folder = short_folder()
    demo = subprocess.run(
        [sys.executable, str(DEMO)], env=environment(folder), capture_output=True, text=True, check=False, timeout=50
    )
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert "2026, built for Ada Lovelace" in demo.stdout
    assert "Everything was as promised." in demo.stdout
    assert "\x1b" not in demo.stdout
    wait_until(lambda: nothing_left(folder), "the demo has left nothing behind")
    folder.rmdir()


def test_a_broken_promise_is_an_exit_code() -> None:
    folder = short_folder()
    broken = f"import sys; sys.path.insert(0, {str(DEMO.parent)!r}); import demo_app, runpy;"
    broken += "demo_app.USERS['ada'] = 'Somebody Else'; runpy.run_path(sys.argv[1], run_name='__main__')"
    demo = subprocess.run(
        [sys.executable, "-c", broken, str(DEMO)],
        env=environment(folder),
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert demo.returncode == 1, demo.stdout + demo.stderr
    assert "Not everything was as promised." in demo.stdout
    wait_until(lambda: nothing_left(folder), "the demo has left nothing behind")
    folder.rmdir()


def test_on_a_terminal_it_stays_until_ctrl_c_and_leaves_nothing() -> None:
    folder = short_folder()
    terminal, far_end = pty.openpty()
    demo = subprocess.Popen(
        [sys.executable, str(DEMO)],
        env=environment(folder),
        stdin=far_end,
        stdout=far_end,
        stderr=far_end,
        start_new_session=True,
    )
    os.close(far_end)
    shown = b""
    while b"leaves nothing" not in shown:
        shown += os.read(terminal, 65536)
    os.killpg(demo.pid, signal.SIGINT)
    wait_until(lambda: demo.poll() is not None, "the demo has ended")
    os.close(terminal)
    assert demo.returncode == 0
    assert b"\x1b[" in shown
    wait_until(lambda: nothing_left(folder), "the demo has left nothing behind")
    folder.rmdir()
