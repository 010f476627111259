"""The files of tasks on disk: under safe names, whole or not at all, and gone with their task."""

import io
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest

import taskqueue
from taskqueue.errors import ConfigError, InvalidReport, NotInTask, StorageError
from taskqueue.storage import Saved, Storage
from tests.tasks import KEYRING, SECRET


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path / "files", KEYRING, namespace="taskqueue")


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("size", [0, 1, 65_536, 300_000])
def test_what_is_saved_is_found(storage: Storage, size: int) -> None:
    data = bytes(number % 251 for number in range(size))
    assert storage.save("mail", "id-1", "a b.csv", data, "text/csv; charset=utf-8") == Saved(
        "a b.csv", size, "text/csv; charset=utf-8"
    )
    with storage.open("id-1", "a b.csv") as file:
        assert (file.name, file.content_type, file.read()) == ("a b.csv", "text/csv; charset=utf-8", data)
    assert storage.names("id-1") == ["a b.csv"]


def test_a_file_is_found_in_whatever_queue_a_rule_has_put_its_task(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    tq = taskqueue.TaskQueue("redis://127.0.0.1:1", secret=SECRET, queues=["default"], storage=str(tmp_path / "files"))
    tq.storage.save("of-a-rule", "id-1", "x", b"found")
    with tq.storage.open("id-1", "x") as file:
        assert file.read() == b"found"
    assert tq.storage.names("id-1") == ["x"]


def test_any_kind_of_data(storage: Storage) -> None:
    for data in (b"h\xc3\xa9", bytearray(b"h\xc3\xa9"), memoryview(b"h\xc3\xa9"), "hé", io.BytesIO(b"h\xc3\xa9")):
        assert storage.save("default", "id-1", "x", data) == Saved("x", 3, "application/octet-stream")
        with storage.open("id-1", "x") as file:
            assert file.read().decode() == "hé"


def test_it_is_read_in_pieces_and_lines(storage: Storage) -> None:
    storage.save("default", "id-1", "x", b"one\ntwo\n" + bytes(100_000))
    with storage.open("id-1", "x") as file, io.BufferedReader(file) as reader:
        assert (reader.readline(), reader.read(2), len(reader.read())) == (b"one\n", b"tw", 100_002)


def test_only_the_owner_may_read_and_nobody_can_without_the_secret(storage: Storage, tmp_path: Path) -> None:
    storage.save("default", "id-1", "x", b"a very secret text")
    (path,) = files(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "files").stat().st_mode) == 0o700
    assert b"secret" not in path.read_bytes()


def test_a_file_takes_the_place_of_another_or_leaves_it(storage: Storage, tmp_path: Path) -> None:
    class Breaking(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            found = super().read(size)
            if not found:
                raise OSError("the disk is away")
            return found

    storage.save("default", "id-1", "x", b"first")
    storage.save("default", "id-1", "x", b"second")
    with pytest.raises(OSError, match="the disk is away"):
        storage.save("default", "id-1", "x", Breaking(b"third"))
    with storage.open("id-1", "x") as file:
        assert file.read() == b"second"
    assert len(files(tmp_path)) == 1


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/b", "a\\b", "/x", ".x", "a\n", "a\0", "x.", "x ", " x", "-x", "é", "x" * 101, "a:b", 1],
)
def test_a_name_that_cannot_be(storage: Storage, tmp_path: Path, name: str) -> None:
    for call in (lambda: storage.save("default", "id-1", name, b""), lambda: storage.open("id-1", name)):
        with pytest.raises(InvalidReport, match="name: "):
            call()
    assert files(tmp_path) == []


@pytest.mark.parametrize("name", ["x", "x" * 100, "Report 7 (final), v1.0+b=c@d_e-f.csv", "0", "_x_"])
def test_a_name_that_can_be(storage: Storage, name: str) -> None:
    storage.save("default", "id-1", name, b"")
    assert storage.names("id-1") == [name]


@pytest.mark.parametrize("task_id", ["", "..", "../id-1", "id/1", ".", "x" * 101])
def test_an_id_that_cannot_be(storage: Storage, task_id: str) -> None:
    with pytest.raises(StorageError, match="no task has such an id"):
        storage.open(task_id, "x")
    with pytest.raises(StorageError, match="no task has such an id"):
        storage.remove("default", [task_id])


def test_what_cannot_be_data(storage: Storage, tmp_path: Path) -> None:
    for data, says in ((1, "not int"), (io.StringIO("x"), "this file gives text")):
        with pytest.raises(InvalidReport, match=says):
            storage.save("default", "id-1", "x", data)  # type: ignore[arg-type]
    for kind in ("", "text", "text/é", "a/" + "b" * 101, "a/b\n", 1):
        with pytest.raises(InvalidReport, match="content_type: "):
            storage.save("default", "id-1", "x", b"", kind)  # type: ignore[arg-type]
    assert files(tmp_path) == []


def test_a_file_that_is_not_there(storage: Storage) -> None:
    with pytest.raises(StorageError, match="task id-1: it has no file 'x'"):
        storage.open("id-1", "x")
    assert storage.names("id-1") == []


def test_a_file_that_was_changed_or_moved(storage: Storage, tmp_path: Path) -> None:
    storage.save("default", "id-1", "x", bytes(200_000))
    (path,) = files(tmp_path)
    raw = path.read_bytes()
    path.with_name("y").write_bytes(raw)
    with pytest.raises(StorageError, match="file 'y': it was changed or cut short, or belongs to another"):
        storage.open("id-1", "y")
    path.write_bytes(raw[:-1])
    with storage.open("id-1", "x") as file:
        assert file.read(10) == bytes(10)
        with pytest.raises(StorageError, match="file 'x': it was changed or cut short"):
            file.read()


def test_files_are_removed_with_their_tasks(storage: Storage, tmp_path: Path) -> None:
    for task_id in ("id-1", "id-2", "id-3"):
        storage.save("default", task_id, "x", b"")
    assert storage.remove("default", ["id-1", "id-3", "id-4"]) == 2
    assert (storage.names("id-1"), storage.names("id-2")) == ([], ["x"])
    assert len(files(tmp_path)) == 1


def test_a_sweep_removes_what_nobody_remembers(storage: Storage, tmp_path: Path) -> None:
    other = Storage(tmp_path / "files", KEYRING, namespace="..")
    other.save("default", "id-1", "x", b"of another application")
    for queue, task_id in (("default", "id-1"), ("default", "id-2"), ("mail", "id-1"), ("mail", "id-3")):
        storage.save(queue, task_id, "x", b"")
    asked: list[tuple[str, list[str]]] = []

    def known(queue: str, ids: Sequence[str]) -> set[str]:
        asked.append((queue, sorted(ids)))
        return {"id-1"} if queue == "default" else {"id-3"}

    assert storage.sweep(known) == 2
    assert sorted(asked) == [("default", ["id-1", "id-2"]), ("mail", ["id-1", "id-3"])]
    assert [storage.names(task_id) for task_id in ("id-1", "id-2", "id-3")] == [["x"], [], ["x"]]
    assert other.names("id-1") == ["x"]


def test_a_sweep_goes_past_what_is_none_of_its_files(storage: Storage, tmp_path: Path) -> None:
    storage.save("default", "id-1", "x", b"")
    (folder,) = tmp_path.glob("files/*/q-default")
    for stray in (folder / ".DS_Store", folder / "notes", folder.parent / "README", folder.parent / "q-default.bak"):
        stray.write_bytes(b"")
    with pytest.raises(StorageError, match="it has no file 'y'"):
        storage.open("id-1", "y")
    assert storage.sweep(lambda _queue, _ids: ()) == 1
    assert storage.names("id-1") == []


def test_a_sweep_of_what_was_never_made(storage: Storage) -> None:
    assert storage.sweep(lambda _queue, _ids: ()) == 0


def test_outside_a_task_nothing_is_saved() -> None:
    with pytest.raises(NotInTask, match="no task runs here"):
        taskqueue.storage.save("x", b"")


def test_without_the_setting_it_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"storage: none is set; give --storage .* TASKQUEUE_STORAGE"):
        _ = taskqueue.TaskQueue("redis://127.0.0.1:1", secret=SECRET).storage
    with pytest.raises(ConfigError, match="storage: 'files' must be the absolute path"):
        _ = taskqueue.TaskQueue("redis://127.0.0.1:1", secret=SECRET, storage="files").storage
    monkeypatch.setenv("TASKQUEUE_STORAGE", str(tmp_path / "here"))
    tq = taskqueue.TaskQueue("redis://127.0.0.1:1", secret=SECRET)
    tq.storage.save("default", "id-1", "x", b"")
    assert (tmp_path / "here").is_dir()


class TestResponse:
    def test_it_is_found_beside_the_files_that_a_task_has_saved(self, storage: Storage, tmp_path: Path) -> None:
        storage.save("default", "id-1", "x", b"mine")
        storage.save_response("default", "id-1", b"answered" * 50_000, "text/html; charset=utf-8")
        with storage.open_response("id-1") as file:
            assert (file.content_type, file.read()) == ("text/html; charset=utf-8", b"answered" * 50_000)
        assert storage.names("id-1") == ["x"]
        assert storage.has_response("default", "id-1")
        assert not any(b"answered" in path.read_bytes() for path in files(tmp_path))
        assert storage.remove("default", ["id-1"]) == 1
        assert files(tmp_path) == []

    def test_no_task_can_save_or_open_one(self, storage: Storage) -> None:
        storage.save_response("default", "id-1", b"answered", "text/html")
        (path,) = Path(storage._directory).rglob(".*")
        for call in (lambda: storage.save("default", "id-1", path.name, b""), lambda: storage.open("id-1", path.name)):
            with pytest.raises(InvalidReport, match="name: "):
                call()

    @pytest.mark.parametrize("kind", ["", "text", "text/é", "a/" + "b" * 101, "a/b\n", "\r\n/x"])
    def test_what_is_no_media_type_counts_as_any_bytes(self, storage: Storage, kind: str) -> None:
        storage.save_response("default", "id-1", b"", kind)
        with storage.open_response("id-1") as file:
            assert file.content_type == "application/octet-stream"

    def test_of_an_earlier_one_nothing_stays_even_if_the_next_cannot_be_saved(
        self, storage: Storage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        storage.save_response("default", "id-1", b"first", "text/html")
        storage.save_response("default", "id-1", b"second", "text/html")
        with storage.open_response("id-1") as file:
            assert file.read() == b"second"

        def full(_descriptor: int) -> None:
            raise OSError("no space left")

        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="no space left"):
            storage.save_response("default", "id-1", b"third", "text/html")
        assert files(tmp_path) == []

    def test_one_that_is_not_there(self, storage: Storage) -> None:
        storage.remove_response("default", "id-1")
        assert not storage.has_response("default", "id-1")
        with pytest.raises(StorageError, match="task id-1: no response is kept as a file"):
            storage.open_response("id-1")
