"""``taskqueue show ID --response``: the content of a task's last response, as far as it is kept, as it was received."""

import sys
from pathlib import Path
from typing import Final

from .asking import complain
from .catalogue import Settings, missing
from .errors import ConfigError, StorageError, UsageError
from .keys import Keyring
from .storage import Storage
from .task import Response

STDOUT: Final = "-"


def write_content(task_id: str, response: Response | None, chosen: Settings, keyring: Keyring, to: str) -> int:
    """Write it to this file, or to standard output; return the exit code.

    Raises UsageError if nothing can be written there, StorageError, and ConfigError if it is in a storage that these
    settings do not name.
    """
    if to.startswith("-") and to != STDOUT:
        raise UsageError(f"--response: {to!r} looks like a flag; a file of such a name is ./{to}")
    if to == STDOUT and sys.stdout.isatty():
        raise UsageError("--response: what an application has answered may do anything to a terminal; name a file")
    if response is None:
        complain(f"task {task_id}: no response is kept, or the secret does not open it")
        return 1
    content = _content(task_id, response, chosen, keyring)
    if to == STDOUT:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    else:
        try:
            Path(to).write_bytes(content)
        except OSError as error:
            raise UsageError(f"--response: {to!r} cannot be written: {error.strerror}") from None
        print(f"{len(content)} bytes written to {to}")
    if response.kept < response.size:
        complain(f"task {task_id}: of {response.size} bytes the first {response.kept} are kept")
    return 0


def _content(task_id: str, response: Response, chosen: Settings, keyring: Keyring) -> bytes:
    if response.kept == len(response.content):
        return response.content
    place = chosen.storage or missing("storage", "/var/lib/taskqueue/files", ConfigError)
    with Storage(Path(place), keyring, namespace=chosen.namespace).open_response(task_id) as file:
        content = file.read()
    if len(content) != response.kept or not content.startswith(response.content):
        raise StorageError(f"task {task_id}: the file that is kept has another response")
    return content
