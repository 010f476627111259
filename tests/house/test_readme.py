"""Every block of the README runs as it stands, and its settings table is what the code says."""

import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from taskqueue.configured import instances
from taskqueue.producer import captures
from tests.acceptance.test_examples import answers, started
from tests.house import readme, tree
from tests.servers import RedisServer, free_port
from tests.waiting import wait_until

BLOCKS: Final = readme.blocks()
APPS: Final = {block.name: block for block in BLOCKS if block.name}
SNIPPETS: Final = [block for block in BLOCKS if block.language == "python" and not block.name]
COMMANDS: Final = [block.text for block in BLOCKS if block.language == "console"]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A new folder whose path is short enough for a socket in it, with every named block as a file."""
    made = Path(tempfile.mkdtemp(prefix="tq-"))
    for name, block in APPS.items():
        (made / name).write_text(block.text)
    yield made
    shutil.rmtree(made)


def test_the_settings_table_is_what_the_code_says() -> None:
    text = readme.README.read_text()
    assert text == readme.with_table(text), "write it anew: python -m tests.house.readme"
    assert "`--concurrent-limit`" in text


def test_the_first_screen_has_the_two_commands() -> None:
    first_screen = "\n".join(readme.README.read_text().splitlines()[:45])
    assert "```console\nmake demo\nmake test\n```" in first_screen
    makefile = (tree.ROOT / "Makefile").read_text()
    for target in ("demo", "test"):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


@pytest.mark.parametrize("block", SNIPPETS, ids=lambda block: block.text.splitlines()[-1].strip()[:40])
def test_a_snippet_runs(block: readme.Block) -> None:
    before = set(instances)
    names: dict[str, object] = {"__name__": "snippet"}
    exec(compile(block.text, "README.md", "exec"), names)  # noqa: S102  running it is the test
    for name, value in names.items():
        if name.startswith("test_") and callable(value):
            value()
    assert set(names) - {"__name__", "__builtins__"}
    assert not captures
    del names
    assert set(instances) >= before


def dev_commands(app: str) -> list[str]:
    """Return the two lines of the development block, for one of the README's applications."""
    (block,) = [text for text in COMMANDS if "--dev" in text]
    return [line.replace("app_fastapi", app) for line in block.splitlines()]


@pytest.mark.parametrize(
    ("name", "server"),
    [
        ("app_fastapi", "uvicorn {}:app"),
        ("app_litestar", "uvicorn {}:app"),
        ("app_quart", "uvicorn {}:app"),
        ("app_flask", "flask --app {} run"),
        ("app_pyramid", "gunicorn {}:app"),
        ("app_django", "uvicorn {}:app"),
    ],
)
def test_the_development_commands_run_the_application(name: str, server: str, folder: Path) -> None:
    port, log = free_port(), folder / "output"
    serve, consume = dev_commands(name)
    assert f"uvicorn {name}:app" in serve
    serve = serve.replace(f"uvicorn {name}:app", server.format(name))
    listen = f"--bind 127.0.0.1:{port}" if "gunicorn" in server else f"--port {port}"
    with ExitStack() as stack:
        stack.enter_context(started(f"{serve} {listen}", folder, log))
        stack.enter_context(started(consume, folder, log))
        wait_until(lambda: answers(port, "GET", "/") == 404, f"the application answers, not {log.read_text()}")
        assert answers(port, "POST", "/order") in (200, 201)
        wait_until(lambda: "building 2026" in log.read_text(), "the task has run")


@pytest.mark.parametrize(("name", "method"), [("main.py", "GET"), ("app_aiohttp.py", "POST")])
def test_the_production_commands_run_the_application(
    name: str, method: str, folder: Path, private_server: RedisServer
) -> None:
    port, log = free_port(), folder / "output"
    (block,) = [text for text in COMMANDS if "export TASKQUEUE_URL" in text]
    variables = dict(re.findall(r"export (\w+)=(\S+)", block))
    assert set(variables) == {"TASKQUEUE_URL", "TASKQUEUE_SECRET", "TASKQUEUE_TARGET"}
    variables["TASKQUEUE_URL"] = private_server.url
    variables["TASKQUEUE_SECRET"] = "for-this-test-only-0123456789-abcdefgh"
    variables["TASKQUEUE_TARGET"] = f"http://127.0.0.1:{port}"
    exported = " ".join(f"{key}={value}" for key, value in variables.items())
    consume = block.splitlines()[-1]
    serve = f"{exported} python -m aiohttp.web -H 127.0.0.1 -P {port} {name.removesuffix('.py')}:make"
    with (folder / name).open("a") as file:
        file.write("\ndef make(argv: list[str]) -> web.Application:\n    return app\n")
    with ExitStack() as stack:
        stack.enter_context(started(serve, folder, log))
        stack.enter_context(started(f"{exported} {consume}", folder, log))
        wait_until(lambda: answers(port, "GET", "/nothing") == 404, f"the application answers, not {log.read_text()}")
        assert answers(port, method, "/order") == 200
        wait_until(lambda: re.search(r"building.* 2026", log.read_text()) is not None, "the task has run")


def test_every_console_line_is_a_command_that_exists() -> None:
    known = {path.name for path in Path(sys.executable).parent.iterdir()} | {"make", "export", "pip"}
    for line in "".join(COMMANDS).splitlines():
        program = next(word for word in line.split() if not re.match(r"[A-Z_]+=", word))
        assert program in known, line
