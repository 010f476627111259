"""Files that a task saves under a name, sealed, to be found by its id as long as the task is remembered.

They lie in the directory of the setting ``storage``, which application and tools share. A file appears whole or not at
all, and a second one of a name takes the place of the first.
"""

import io
import os
import re
import secrets
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Final, Protocol, TypeAlias, cast

from .errors import InvalidReport, NotInTask, StorageError
from .frames import FRAME_BYTES, SALT_BYTES, opened, sealed
from .keys import Keyring
from .transaction import innermost

Data: TypeAlias = "bytes | bytearray | memoryview | str | Readable"

_NAME: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._ +=@,()-]{0,98}[A-Za-z0-9_+=@()-])?")
_TASK: Final = re.compile(r"[A-Za-z0-9_-]{1,100}")
_TYPE: Final = re.compile(r"[!-~]{1,60}/[ -~]{1,100}")
_BINARY: Final = "application/octet-stream"
# No task can choose such a name, and none is listed.
_RESPONSE: Final = ".response"
# So many tasks are asked for at a time whether they are still known.
_SWEPT_AT_ONCE: Final = 500


class Readable(Protocol):
    """A file opened for reading bytes."""

    def read(self, size: int, /) -> bytes:
        """Return at most so many bytes, none at the end."""
        ...


class _HasStorage(Protocol):
    @property
    def storage(self) -> "Storage": ...


@dataclass(frozen=True, slots=True)
class Saved:
    """A file of a task: its name, its size in bytes before it was sealed, and its media type."""

    name: str
    size: int
    content_type: str


def save(name: str, data: Data, content_type: str | None = None, *, output: bool = False) -> Saved:
    """Save a file of the running task; return what it is listed by.

    ``name``: 1 to 100 of A-Z, a-z, 0-9 and `` ._+=@,()-``, beginning with a letter, digit or ``_`` and not ending with
    a dot, comma or space. ``data``: bytes, a str (UTF-8), or a file opened for reading bytes, of any size.
    ``content_type``: its media type. ``output``: this file is the task's result. A delivery made by hand leaves what
    there is as it is, and saves nothing. It works on disk and so takes a
    moment: in an ``async def`` view write ``await asyncio.to_thread(taskqueue.storage.save, ...)``. Raises NotInTask
    outside a task, InvalidReport for a name, type or data that cannot be, ConfigError without the setting ``storage``.
    """
    running = innermost()
    request = None if running is None else running.request
    if running is None or request is None or request.task is None or request.notes is None:
        raise NotInTask("storage.save: no task runs here; a file is saved by a task, and found by its id")
    storage = cast("_HasStorage", running.tq).storage
    keep = storage.check if request.task.manual else storage.save
    saved = keep(request.task.queue, request.task.id, name, data, content_type)
    request.notes.add_file(name, {"size": saved.size, "content_type": saved.content_type}, output=output)
    return saved


class Storage:
    """The files of all tasks of one TaskQueue."""

    def __init__(self, directory: Path, keyring: Keyring, *, namespace: str) -> None:
        """Take the directory, which is made when it is first needed."""
        self._root = directory / f"n-{namespace}"  # which may be "..", say
        self._directory, self._keyring = directory, keyring

    def check(self, queue: str, task_id: str, name: str, data: Data, content_type: str | None = None) -> Saved:
        """Do all that ``save`` does but to write anything."""
        self._folder(queue, task_id)
        source = _Counted(_pieces(data))
        for _ in source:
            pass
        return Saved(_checked(name), source.size, _media_type(content_type))

    def save(self, queue: str, task_id: str, name: str, data: Data, content_type: str | None = None) -> Saved:
        """Save a file of this task; see the function. Raises OSError if the directory cannot be written."""
        return self._save(queue, task_id, _checked(name), data, _media_type(content_type))

    def save_response(self, queue: str, task_id: str, data: bytes, content_type: str) -> None:
        """Save the content of the last response to this task in place of an earlier one, of which nothing stays.

        A ``content_type`` that is no media type counts as that of any bytes. Raises OSError, StorageError.
        """
        self.remove_response(queue, task_id)
        self._save(queue, task_id, _RESPONSE, data, content_type if _TYPE.fullmatch(content_type) else _BINARY)

    def _save(self, queue: str, task_id: str, name: str, data: Data, kind: str) -> Saved:
        folder, context = self._folder(queue, task_id), _context(queue, task_id, name)
        source = _Counted(_pieces(data))
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        unfinished = folder / f".{secrets.token_hex(8)}"
        try:
            with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                whole = _with_head(kind, source)
                for piece in sealed(self._keyring, context, whole, salt=secrets.token_bytes(SALT_BYTES)):
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(folder / name)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        return Saved(name, source.size, kind)

    def open(self, task_id: str, name: str) -> "StoredFile":
        """Open a file that this task has saved; raises StorageError if there is none, or it cannot be opened.

        What is read was proved to be what was saved, as far as it was read: StorageError while reading tells of the
        rest.
        """
        file = self._open(task_id, _checked(name))
        if file is None:
            raise StorageError(f"task {task_id}: it has no file {name!r}")
        return file

    def open_response(self, task_id: str) -> "StoredFile":
        """Open the content of the last response to this task, as far as it is kept; raises StorageError.

        There is one if it was longer than the 16 KiB that are kept with the task; ``taskqueue show`` tells.
        """
        file = self._open(task_id, _RESPONSE)
        if file is None:
            raise StorageError(f"task {task_id}: no response is kept as a file")
        return file

    def has_response(self, queue: str, task_id: str) -> bool:
        """Tell whether the content of a response to this task is kept. Raises OSError, StorageError."""
        return (self._folder(queue, task_id) / _RESPONSE).exists()

    def remove_response(self, queue: str, task_id: str) -> None:
        """Remove the content of a response to this task, if there is one. Raises OSError, StorageError."""
        (self._folder(queue, task_id) / _RESPONSE).unlink(missing_ok=True)

    def _open(self, task_id: str, name: str) -> "StoredFile | None":
        for queue, folder in self._folders(task_id):
            with suppress(FileNotFoundError, NotADirectoryError):
                file = (folder / name).open("rb")
                return StoredFile(file, self._keyring, _context(queue, task_id, name), name)
        return None

    def names(self, task_id: str) -> list[str]:
        """Return the names of all files that this task has saved, sorted."""
        return sorted(
            path.name for _, folder in self._folders(task_id) for path in _inside(folder) if path.name[0] != "."
        )

    def remove(self, queue: str, ids: Iterable[str]) -> int:
        """Remove all files of these tasks; return how many tasks had some."""
        return sum(_removed(self._folder(queue, task_id)) for task_id in ids)

    def sweep(self, known: Callable[[str, Sequence[str]], Collection[str]]) -> int:
        """Remove the files of tasks that are not remembered any more; return how many tasks those were.

        ``known`` gets a queue and ids and returns those of them that are; it is asked for 500 at a time.
        """
        removed = 0
        for queue in self._queues():
            # Something else may have been put there.
            tasks = (path.name for path in _inside(self._root / f"q-{queue}") if _TASK.fullmatch(path.name))
            while some := list(islice(tasks, _SWEPT_AT_ONCE)):
                found = frozenset(known(queue, some))
                removed += self.remove(queue, [task_id for task_id in some if task_id not in found])
        return removed

    def _queues(self) -> list[str]:
        """Return the queues whose tasks have saved files: a rule may name others than this process knows."""
        return [place.name.removeprefix("q-") for place in _inside(self._root) if place.name.startswith("q-")]

    def _folders(self, task_id: str) -> list[tuple[str, Path]]:
        """Return where a task may have saved files, by queue."""
        _check_id(task_id)
        return [(queue, self._folder(queue, task_id)) for queue in self._queues()]

    def _folder(self, queue: str, task_id: str) -> Path:
        _check_id(task_id)
        return self._root / f"q-{queue}" / task_id


class StoredFile(io.RawIOBase):
    """A file that a task has saved, read from its beginning to its end; ``name`` and ``content_type`` are as saved."""

    def __init__(self, file: BinaryIO, keyring: Keyring, context: bytes, name: str) -> None:
        """Take the sealed file, which is closed with this one; raises StorageError."""
        self._file, self.name = file, name
        self._frames = opened(keyring, context, file.read)
        self._rest = memoryview(b"")
        try:
            first = self._next()
        except StorageError:
            self.close()
            raise
        end = 2 + int.from_bytes(first[:2])
        self.content_type: Final = bytes(first[2:end]).decode("ascii")
        self._rest = first[end:]

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]  # it fills any buffer
        """Read into a buffer; return how many bytes, 0 at the end. Raises StorageError."""
        while not self._rest and (found := self._next()):
            self._rest = found
        view = memoryview(buffer)
        size = min(len(view), len(self._rest))
        view[:size], self._rest = self._rest[:size], self._rest[size:]
        return size

    def close(self) -> None:
        """Close it."""
        self._file.close()
        super().close()

    def _next(self) -> memoryview:
        try:
            return memoryview(next(self._frames, b""))
        except StorageError as error:
            raise StorageError(f"file {self.name!r}: {error}") from None


class _Counted:
    """Pieces of a file, and how many bytes they had."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces, self.size = pieces, 0

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self.size += len(piece)
            yield piece


def _check_id(task_id: str) -> None:
    if not _TASK.fullmatch(task_id):
        raise StorageError(f"task {task_id!r:.60}: no task has such an id")


def _checked(name: str) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidReport(
            f"name: {name!r:.120} is no name of a file: 1 to 100 of A-Z, a-z, 0-9 and ' ._+=@,()-', beginning with a"
            " letter, digit or '_', not ending with a dot, comma or space"
        )
    return name


def _media_type(given: str | None) -> str:
    kind = _BINARY if given is None else given
    if not isinstance(kind, str) or not _TYPE.fullmatch(kind):
        raise InvalidReport(f"content_type: {kind!r:.80} is no media type, as in 'text/csv'")
    return kind


def _pieces(data: Data) -> Iterable[bytes]:
    if isinstance(data, str):
        return [data.encode()]
    if isinstance(data, bytes | bytearray | memoryview):
        return [bytes(data)]
    if not hasattr(data, "read"):
        raise InvalidReport(
            f"data: bytes, a str or a file opened for reading bytes is needed, not {type(data).__name__}"
        )
    return _read(data)


def _read(file: Readable) -> Iterator[bytes]:
    while piece := file.read(FRAME_BYTES):
        if not isinstance(piece, bytes):
            raise InvalidReport("data: this file gives text; open it for reading bytes (mode 'rb')")
        yield piece


def _with_head(kind: str, pieces: Iterable[bytes]) -> Iterator[bytes]:
    yield len(kind).to_bytes(2) + kind.encode("ascii")
    yield from pieces


def _context(queue: str, task_id: str, name: str) -> bytes:
    # None of them can hold a NUL.
    return b"%s\0%s\0%s" % (queue.encode(), task_id.encode(), name.encode())


def _inside(folder: Path) -> Iterator[Path]:
    with suppress(FileNotFoundError, NotADirectoryError):
        yield from folder.iterdir()


def _removed(folder: Path) -> bool:
    try:
        shutil.rmtree(folder)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
