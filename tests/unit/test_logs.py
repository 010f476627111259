import io
import json
import logging
import logging.config
from typing import Final

import pytest

from taskqueue import logs
from taskqueue.logs import ConsoleFormatter, JournalFormatter, JsonFormatter, LogfmtFormatter

MESSAGE: Final = "GET /a complete 200"


def record(message: str = MESSAGE, level: int = logging.INFO, /, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("taskqueue.server", level, __file__, 1, message, (), None)
    made.created = 1_700_000_000.25
    vars(made).update(extra)
    return made


def failing() -> logging.LogRecord:
    made = record("it failed", logging.ERROR)
    error = ValueError("two\nlines \x1b[2J")
    made.exc_info = (type(error), error, None)
    return made


TASK = {
    "task_id": "1b4e",
    "queue": "mail",
    "attempt": 2,
    "method": "GET",
    "path": "/a",
    "status": 200,
    "verdict": "complete",
    "reason": "",
    "run_ms": 12.5,
    "wait_ms": 3,
}


def test_a_console_line_has_what_its_message_has_not() -> None:
    time, line = ConsoleFormatter().format(record(**TASK)).split(" ", 1)
    assert len(time) == len("12:34:56")
    assert line == "INFO    GET /a complete 200  task_id=1b4e queue=mail attempt=2 run_ms=12.5 wait_ms=3"


def test_a_console_colours_by_level_if_asked() -> None:
    plain, coloured = ConsoleFormatter(), ConsoleFormatter(colour=True)
    for level in (logging.INFO, logging.WARNING, logging.ERROR):
        assert "\x1b" not in plain.format(record(MESSAGE, level, **TASK))
    assert "\x1b[31mERROR  \x1b[0m" in coloured.format(record(MESSAGE, logging.ERROR))
    assert "\x1b[33mWARNING\x1b[0m" in coloured.format(record(MESSAGE, logging.WARNING))
    assert " INFO    GET" in coloured.format(record())


@pytest.mark.parametrize("formatter", [ConsoleFormatter(), JournalFormatter(), JsonFormatter(), LogfmtFormatter()])
def test_no_message_moves_the_cursor_or_begins_a_line(formatter: logging.Formatter) -> None:
    line = formatter.format(record("a\x1b[2J\r\nERROR forged\x9b", note="b\x1b[0m\nERROR forged"))
    assert line.isprintable()
    assert "forged" in line


def test_a_json_line_is_one_object_in_utc() -> None:
    line = JsonFormatter().format(record(**TASK))
    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.250Z",
        "level": "info",
        "logger": "taskqueue.server",
        "message": "GET /a complete 200",
        **TASK,
    }


def test_json_writes_as_text_what_it_does_not_know() -> None:
    assert json.loads(JsonFormatter().format(record(error=ValueError("x"), odd="\ud800")))["error"] == "x"


def test_logfmt_quotes_what_is_not_one_word() -> None:
    line = LogfmtFormatter().format(record('say "hi"', task_id="1b4e", path="/a?b=c", gone=None, ok=True))
    assert line == (
        "time=2023-11-14T22:13:20.250Z level=info logger=taskqueue.server"
        r' message="say \"hi\"" task_id=1b4e path="/a?b=c" gone= ok=true'
    )


@pytest.mark.parametrize(
    ("level", "number"), [(logging.DEBUG, 7), (logging.INFO, 6), (logging.WARNING, 4), (logging.ERROR, 3)]
)
def test_a_line_for_the_journal_begins_with_its_priority(level: int, number: int) -> None:
    assert JournalFormatter().format(record("hello", level, queue="mail")) == f"<{number}>hello queue=mail"


def test_a_traceback_follows_in_every_format() -> None:
    console = ConsoleFormatter().format(failing()).splitlines()
    assert console[1:] == ["ValueError: two", r"lines \x1b[2J"]
    journal = JournalFormatter().format(failing()).splitlines()
    assert len(journal) == len(console)
    assert all(line.startswith("<3>") for line in journal)
    entry = json.loads(JsonFormatter().format(failing()))
    assert entry["exception"].splitlines() == console[1:]
    assert LogfmtFormatter().format(failing()).endswith(r'exception="ValueError: two\nlines \\x1b[2J"')


@pytest.mark.parametrize("disabling", [True, False])
def test_our_entries_keep_their_handler_when_an_application_sets_up_logging_its_way(*, disabling: bool) -> None:
    root, ours = logging.getLogger(), logging.getLogger("taskqueue")
    before = (root.handlers[:], root.level, ours.handlers[:], ours.level, ours.propagate)
    stream = io.StringIO()
    try:
        handler = logs.setup("json", "info", stream=stream)
        logging.getLogger("taskqueue.server").info("before")
        logging.config.dictConfig(
            {
                "version": 1,
                "disable_existing_loggers": disabling,
                "handlers": {"null": {"class": "logging.NullHandler"}},
                "root": {"handlers": ["null"], "level": "ERROR"},
            }
        )
        logs.keep(handler)
        logging.getLogger("taskqueue.server").info("after")
        logging.getLogger("taskqueue.server").debug("too fine")
        assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["before", "after"]
    finally:
        root.handlers[:], ours.handlers[:], ours.propagate = before[0], before[2], before[4]
        root.setLevel(before[1])
        ours.setLevel(before[3])
        logging.captureWarnings(capture=False)
