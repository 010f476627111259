import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from taskqueue import settings
from taskqueue.broker import masked
from taskqueue.catalogue import OPTIONS, Settings, table
from taskqueue.errors import ConfigError, UsageError
from taskqueue.settings import colours, under_journald

SECRET: Final = "an-example-that-is-long-enough-0123456789"


def load(folder: Path, flags: Mapping[str, object] | None = None, /, **variables: str) -> Settings:
    return settings.load(flags, environ=variables, directory=folder)


def refused(folder: Path, flags: Mapping[str, object] | None = None, /, **variables: str) -> str:
    """Return the message with which this is refused as misuse."""
    with pytest.raises(UsageError) as caught:
        load(folder, flags, **variables)
    return str(caught.value)


# Where a value comes from.


def test_without_any_source_the_defaults_hold(tmp_path: Path) -> None:
    chosen = load(tmp_path)
    assert (chosen.queues, chosen.namespace, chosen.concurrent_limit) == (("default",), "taskqueue", 1)
    assert (chosen.secrets, chosen.url, chosen.wait_broker) == ((), None, None)
    assert {chosen.origin(row.name) for row in table()} == {"default"}


def test_a_flag_wins_over_a_variable_over_the_file_over_the_default(tmp_path: Path) -> None:
    (tmp_path / "taskqueue.toml").write_text("concurrent_limit = 2\ntimeout = 20\npoll_max = 2.5\n")
    chosen = load(
        tmp_path, {"concurrent_limit": "4", "timeout": None}, TASKQUEUE_CONCURRENT_LIMIT="3", TASKQUEUE_TIMEOUT="30"
    )
    assert (chosen.concurrent_limit, chosen.timeout, chosen.poll_max, chosen.stop_grace) == (4, 30.0, 2.5, 25.0)
    names = ("concurrent_limit", "timeout", "poll_max", "stop_grace")
    assert [chosen.origin(name) for name in names] == ["flag", "TASKQUEUE_TIMEOUT", "taskqueue.toml", "default"]


def test_every_setting_can_come_from_a_variable_and_from_the_file(tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "name": "i1",
        "target": "https://app.example:8443",
        "app": "main:app",
        "dev": "yes",
        "url": "redis://h:1/2",
        "secret": SECRET,
        "namespace": "shop",
        "durability": "replica:2",
        "queues": "a,b:3",
        "route": "/reports/*=slow,/a=b",
        "strategy": "strict",
        "max_tasks": 5000,
        "max_bytes": 10**12,
        "public_url": "https://example.org",
        "concurrent_limit": 0,
        "retry_max_count": 0,
        "timeout": 1.5,
        "connect_timeout": 2,
        "stop_grace": 0,
        "poll_max": 3,
        "lease": 4,
        "receipt": "no",
        "wait_broker": 60,
        "relay": "main:tq",
        "on_failed": "tracking:note",
        "on_event": "tracking:event",
        "keep": "all",
        "storage": "/srv/files",
        "response_bytes": 100_000,
        "retain": "completed=2h,mail.failed=/5",
        "resolve": "orders:committed",
        "log_format": "JSON",
        "log_level": "Debug",
        "limit": 5,
        "burst": "yes",
        "workers": 2,
        "max_memory": "90%",
        "max_load": 1.5,
        "health_addr": "[::1]:9000",
    }
    assert values.keys() == {row.key for row in table()} - {"secret_file"}
    (tmp_path / "taskqueue.toml").write_text("".join(f"{key} = {value!r}\n" for key, value in values.items()))
    from_file = load(tmp_path)
    from_variables = load(Path("/"), **{f"TASKQUEUE_{key.upper()}": str(value) for key, value in values.items()})
    assert from_file == from_variables
    assert {from_file.origin(row.name) for row in table() if row.key in values} == {"taskqueue.toml"}
    assert (from_file.queues, from_file.receipt, from_file.concurrent_limit) == (("a", "b"), False, 0)
    assert (from_file.log_format, from_file.log_level, from_file.wait_broker) == ("json", "debug", 60.0)


def test_an_empty_variable_is_not_set(tmp_path: Path) -> None:
    chosen = load(tmp_path, TASKQUEUE_URL="", TASKQUEUE_CONFIG="")
    assert (chosen.url, chosen.origin("url")) == (None, "default")


def test_pyproject_counts_where_there_is_no_file_of_ours(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.taskqueue]\nnamespace = "shop"\n')
    chosen = load(tmp_path)
    assert (chosen.namespace, chosen.origin("namespace")) == ("shop", "pyproject.toml")
    (tmp_path / "taskqueue.toml").write_text("poll_max = 2\n")
    assert load(tmp_path).namespace == "taskqueue"


def test_a_pyproject_without_us_is_no_fault_unless_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    assert load(tmp_path).namespace == "taskqueue"
    with pytest.raises(ConfigError, match=r"pyproject\.toml: it has no table \[tool\.taskqueue\]"):
        load(tmp_path, TASKQUEUE_CONFIG="pyproject.toml")


def test_another_file_is_named_by_flag_or_variable(tmp_path: Path) -> None:
    (tmp_path / "taskqueue.toml").write_text('namespace = "usual"\n')
    (tmp_path / "a.toml").write_text('namespace = "a"\n')
    (tmp_path / "b.toml").write_text('namespace = "b"\n')
    chosen = load(tmp_path, TASKQUEUE_CONFIG="a.toml")
    assert (chosen.namespace, chosen.origin("namespace")) == ("a", "a.toml")
    environ = {"TASKQUEUE_CONFIG": "a.toml"}
    assert settings.load(environ=environ, directory=tmp_path, config="b.toml").namespace == "b"


@pytest.mark.parametrize(
    ("content", "told"), [(None, "it cannot be read"), (b"a = \n", "it is not TOML"), (b"\xff", "it is not TOML")]
)
def test_a_named_file_that_cannot_be_read_is_a_fault(tmp_path: Path, content: bytes | None, told: str) -> None:
    if content is not None:
        (tmp_path / "other.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=f"other.toml: {told}") as caught:
        load(tmp_path, TASKQUEUE_CONFIG="other.toml")
    assert not isinstance(caught.value, UsageError)


# What nobody knows.


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("TASKQUEUE_QUEUE", "TASKQUEUE_QUEUES"),
        ("TASKQUEUE_CONCURENT_LIMIT", "TASKQUEUE_CONCURRENT_LIMIT"),
        ("TASKQUEUE_SECRETS", "TASKQUEUE_SECRET"),
        ("TASKQUEUE_CONF", "TASKQUEUE_CONFIG"),
    ],
)
def test_a_misspelt_variable_is_refused_with_the_right_one(tmp_path: Path, variable: str, meant: str) -> None:
    message = refused(tmp_path, **{variable: "the value"})
    assert message == f"environment: no such setting: {variable}: did you mean {meant}?"


def test_a_variable_that_resembles_nothing_gets_the_whole_list(tmp_path: Path) -> None:
    message = refused(tmp_path, TASKQUEUE_XYZZY="1")
    assert "TASKQUEUE_XYZZY: known are TASKQUEUE_NAME, " in message
    assert "TASKQUEUE_CONFIG" in message


@pytest.mark.parametrize(
    "variable",
    [
        "TASKQUEUE_SERVICE_HOST",
        "TASKQUEUE_SERVICE_PORT_HTTP",
        "TASKQUEUE_PORT",
        "TASKQUEUE_PORT_6379_TCP_ADDR",
        "TASKQUEUE_REDIS_SERVICE_PORT",
        "TASKQUEUE_REDIS_PORT_6379_TCP",
    ],
)
def test_what_kubernetes_tells_of_a_service_of_our_name_is_no_setting(tmp_path: Path, variable: str) -> None:
    assert load(tmp_path, **{variable: "tcp://10.0.0.1:6379"}) == Settings()


def test_a_misspelt_key_is_refused_with_file_and_right_key(tmp_path: Path) -> None:
    (tmp_path / "taskqueue.toml").write_text("concurency = 3\nconcurent-limit = 4\n")
    message = refused(tmp_path)
    assert message.startswith("taskqueue.toml: no such setting: ")
    assert message.endswith("concurent-limit: did you mean concurrent_limit?")


# Values that break a rule.


@pytest.mark.parametrize(
    ("name", "flag", "low", "high", "beyond"),
    [
        ("concurrent_limit", "--concurrent-limit", "0", "10000", ("-1", "10001", "1000000", "many", "1.5", "", "1_0")),
        ("retry_max_count", "--retry-max-count", "0", "1000", ("-1", "1001", "nan")),
        ("timeout", "--timeout", "0.1", "86400", ("0", "-1", "86400.5", "nan", "inf", "ten", "")),
        ("connect_timeout", "--connect-timeout", "0.1", "600", ("0", "601")),
        ("stop_grace", "--stop-grace", "0", "86400", ("-0.1", "1e9")),
        ("poll_max", "--poll-max", "0.02", "3600", ("0", "3601")),
    ],
)
def test_a_number_out_of_range_is_refused_with_the_range(
    tmp_path: Path, name: str, flag: str, low: str, high: str, beyond: tuple[str, ...]
) -> None:
    assert getattr(load(tmp_path, {name: low}), name) == float(low)
    assert getattr(load(tmp_path, {name: high}), name) == float(high)
    for value in beyond:
        message = refused(tmp_path, {name: value})
        assert message.startswith(f"{flag}: {value!r} must be "), message
        assert message.endswith(f"from {low} to {high}"), message


def test_a_number_in_the_file_is_no_truth_and_no_fraction(tmp_path: Path) -> None:
    for value in ("true", "1.5", "[1]", '"x"', "1979-05-27"):
        (tmp_path / "taskqueue.toml").write_text(f"concurrent_limit = {value}\n")
        assert refused(tmp_path).startswith("taskqueue.toml: concurrent_limit: ")
    (tmp_path / "taskqueue.toml").write_text("timeout = true\n")
    assert "timeout: True must be a number of seconds, from 0.1 to 86400" in refused(tmp_path)


@pytest.mark.parametrize(("value", "seconds"), [("0", 0.0), ("90", 90.0), ("inf", None)])
def test_wait_broker_has_no_upper_end(tmp_path: Path, value: str, seconds: float | None) -> None:
    assert load(tmp_path, TASKQUEUE_WAIT_BROKER=value).wait_broker == seconds
    assert "must be a number of seconds, 0 or more, or inf" in refused(tmp_path, TASKQUEUE_WAIT_BROKER="-1")


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("name", "a b", "--name: 'a b' is no consumer name: 1 to 64 of"),
        ("name", "", "--name: '' is no consumer name"),
        ("name", "x" * 65, "is no consumer name"),
        ("queues", ["a", "Mail Out"], "--queue: 'Mail Out' is no queue name: 1 to 64 of"),
        ("queues", "{a}", "--queue: '{a}' is no queue name"),
        ("queues", " , ", "--queue: ' , ' must name at least one"),
        ("queues", [], "--queue: [] must name at least one"),
        ("namespace", "a{b}", "--namespace: 'a{b}' must be 1 to 64 letters"),
        ("log_format", "xml", "--log-format: 'xml' must be one of auto, console, json, logfmt"),
        ("log_level", "loud", "--log-level: 'loud' must be one of debug, info, warning, error"),
        ("receipt", "maybe", "--no-receipt: 'maybe' must be true or false"),
        ("url", "localhost:6379", "--url: 'localhost:6379' must be a URL, for example redis://127.0.0.1:6379/0"),
        ("url", "redis://h:port/0", "--url: 'redis://h:port/0' must be a URL"),
        ("url", "redis://[::1", "--url: 'redis://[::1' must be a URL"),
    ],
)
def test_a_refusal_names_the_flag_the_value_and_the_rule(tmp_path: Path, name: str, value: object, told: str) -> None:
    assert told in refused(tmp_path, {name: value})


@pytest.mark.parametrize(
    "value",
    [
        "127.0.0.1:8000",
        "http://",
        "http:///path",
        "ftp://h",
        "http://h/path",
        "http://h?x=1",
        "http://h#x",
        "http://user@h",
        "http://h:99999",
        "http://a b",
        "unix:///run/app.sock",
        "",
    ],
)
@pytest.mark.parametrize("name", ["target", "public_url"])
def test_an_address_names_scheme_and_host_and_no_more(tmp_path: Path, name: str, value: str) -> None:
    message = refused(tmp_path, {name: value})
    assert repr(value) in message
    if value:
        assert "http:// or https:// and a host, without user, path and query, for example http://" in message


def test_a_slash_behind_the_host_is_dropped(tmp_path: Path) -> None:
    assert load(tmp_path, {"target": "http://h:8000/"}).target == "http://h:8000"


def test_queues_keep_their_order_and_lose_their_doubles(tmp_path: Path) -> None:
    assert load(tmp_path, {"queues": ["b,a", "b", " c"]}).queues == ("b", "a", "c")


# Secrets.


def test_secrets_are_a_comma_list_newest_first(tmp_path: Path) -> None:
    assert load(tmp_path, TASKQUEUE_SECRET=f"{SECRET}, {SECRET}2").secrets == (SECRET, f"{SECRET}2")


def test_secrets_may_stand_in_a_file_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "secret").write_text(f"{SECRET}\n\n{SECRET}2\n")
    chosen = load(tmp_path, TASKQUEUE_SECRET_FILE="conf/secret")
    assert (chosen.secrets, chosen.origin("secrets")) == ((SECRET, f"{SECRET}2"), "TASKQUEUE_SECRET_FILE")
    # In a configuration file the path begins where that file is.
    (tmp_path / "conf" / "tq.toml").write_text('secret_file = "secret"\n')
    assert load(tmp_path, TASKQUEUE_CONFIG="conf/tq.toml").secrets == (SECRET, f"{SECRET}2")


def test_secret_and_secret_file_replace_each_other_from_source_to_source(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}-in-its-file")
    (tmp_path / "taskqueue.toml").write_text('secret_file = "missing"\n')
    assert load(tmp_path, TASKQUEUE_SECRET=SECRET).secrets == (SECRET,)
    chosen = load(tmp_path, {"secret_file": "secret"}, TASKQUEUE_SECRET=SECRET)
    assert (chosen.secrets, chosen.origin("secrets")) == ((f"{SECRET}-in-its-file",), "flag")
    assert "one of the two is enough" in refused(tmp_path, TASKQUEUE_SECRET=SECRET, TASKQUEUE_SECRET_FILE="secret")


@pytest.mark.parametrize(("content", "told"), [(None, "cannot be read"), ("\n", "holds no secret; make one with")])
def test_a_secret_file_without_secret_is_a_fault(tmp_path: Path, content: str | None, told: str) -> None:
    if content is not None:
        (tmp_path / "secret").write_text(content)
    with pytest.raises(ConfigError, match=told):
        load(tmp_path, TASKQUEUE_SECRET_FILE="secret")


def test_no_flag_takes_a_secret() -> None:
    assert [row.name for row in table() if not row.flag] == ["secrets", "routes", "max_tasks", "max_bytes"]


def test_neither_repr_nor_public_shows_a_secret_or_a_password(tmp_path: Path) -> None:
    chosen = load(
        tmp_path,
        TASKQUEUE_SECRET=f"{SECRET},{SECRET}2",
        TASKQUEUE_URL="redis://ann:p%40ssw0rd@h:1/0?password=p%40ssw0rd",
    )
    seen = f"{chosen!r} {chosen} {[chosen.public(row.name) for row in table()]}"
    assert "ann:***@h:1" in seen
    assert chosen.public("secrets") == ["***", "***"]
    assert SECRET not in seen
    assert "ssw0rd" not in seen


@pytest.mark.parametrize(
    "url", ["redis://:hunter2/x@h/0", "redis://ann:hunter2#@h", "redis://ann:a@hunter2@h:1:2", "redis://ann:hunter2@["]
)
def test_a_refused_url_does_not_show_its_password(tmp_path: Path, url: str) -> None:
    assert "hunter2" not in masked(url)
    for name in ("target", "url", "public_url"):
        with pytest.raises(UsageError) as caught:
            load(tmp_path, {name: url.replace("redis", "http") + ":x"})
        assert "hunter2" not in str(caught.value)


def test_a_refused_secret_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "taskqueue.toml").write_text("secret = [12345678]\n")
    assert refused(tmp_path) == "taskqueue.toml: secret: '***' must be a text"


# What must be there.


def test_what_is_missing_is_told_with_every_remedy(tmp_path: Path) -> None:
    chosen = load(tmp_path)
    with pytest.raises(ConfigError, match="url: none is set") as no_url:
        chosen.required_url()
    assert not isinstance(no_url.value, UsageError)
    for remedy in (
        "--url redis://127.0.0.1:6379/0",
        "TASKQUEUE_URL",
        'url = "redis://127.0.0.1:6379/0"',
        "TASKQUEUE_DEV=1",
    ):
        assert remedy in str(no_url.value)
    with pytest.raises(UsageError, match="--name instance1"):
        chosen.required_name()
    with pytest.raises(UsageError, match="--target http://"):
        chosen.required_target()


def test_what_is_there_is_returned(tmp_path: Path) -> None:
    chosen = load(tmp_path, {"name": "i", "target": "http://h", "url": "redis://h"})
    assert (chosen.required_name(), chosen.required_target(), chosen.required_url()) == ("i", "http://h", "redis://h")


def test_an_app_is_a_target_and_decides_where_the_queues_are(tmp_path: Path) -> None:
    assert load(tmp_path, {"app": "main:app"}, TASKQUEUE_URL="redis://h").required_target() == "main:app"
    for flags, told in (
        ({"target": "http://h"}, "target: --app calls the application in this process; give one of the two"),
        ({"url": "redis://h"}, "--url: with --app this comes from the application's TaskQueue; .*TASKQUEUE_URL or"),
        ({"namespace": "shop"}, "--namespace: with --app this comes .*TASKQUEUE_NAMESPACE or taskqueue.toml"),
    ):
        with pytest.raises(UsageError, match=told):
            load(tmp_path, {"app": "main:app", **flags}).required_target()


# In development.


@pytest.mark.parametrize("say", [{"TASKQUEUE_DEV": "1"}, {}])
def test_dev_gives_a_store_in_the_folder_and_a_name(say: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    chosen = load(tmp_path / "a b", None if say else {"dev": True}, **say)
    assert (chosen.url, chosen.name) == (f"embedded://{tmp_path}/a%20b/.taskqueue", "dev")
    assert chosen.storage == f"{tmp_path}/a b/.taskqueue/files"
    assert [chosen.origin(name) for name in ("url", "name", "dev")] == ["dev", "dev", *(say or ["flag"])]


def test_dev_changes_nothing_that_was_chosen(tmp_path: Path) -> None:
    chosen = load(tmp_path, {"name": "i1"}, TASKQUEUE_DEV="1", TASKQUEUE_URL="redis://h")
    assert (chosen.url, chosen.name) == ("redis://h", "i1")
    assert [chosen.origin(name) for name in ("url", "name")] == ["TASKQUEUE_URL", "flag"]
    assert load(tmp_path, TASKQUEUE_DEV="0").url is None


def test_what_was_said_to_a_command_is_announced_to_what_it_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TASKQUEUE_DEV", "TASKQUEUE_CONFIG"):
        monkeypatch.setenv(name, "")  # so that it is put back afterwards
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.toml").write_text('namespace = "shop"\n')
    settings.announce(dev=False, config=None)
    assert settings.load() == settings.load(environ={})
    settings.announce(dev=True, config="other.toml")
    monkeypatch.chdir("/")
    assert (settings.load().dev, settings.load().namespace) == (True, "shop")


# Several processes.


def test_a_worker_has_a_name_and_a_port_of_its_own(tmp_path: Path) -> None:
    chosen = load(tmp_path, {"name": "i", "workers": "3", "health_addr": "[::1]:9000"})
    chosen.check_together()
    third = chosen.of_worker(3)
    assert (third.name, third.workers, third.health_addr) == ("i-3", 1, "[::1]:9002")
    assert load(tmp_path, {"name": "i"}).of_worker(1).health_addr is None


def test_the_ports_of_the_workers_must_exist(tmp_path: Path) -> None:
    load(tmp_path, {"workers": "2", "health_addr": "h:65534"}).check_together()
    with pytest.raises(UsageError, match="health_addr: 3 workers need as many ports from h:65534 on"):
        load(tmp_path, {"workers": "3", "health_addr": "h:65534"}).check_together()


def test_a_worker_is_told_once_which_it_is_and_reports_to_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.worker_place() is None
    for name, value in (("NOTIFY_SOCKET", "/s"), ("WATCHDOG_PID", "1"), ("WATCHDOG_USEC", "2500000")):
        monkeypatch.setenv(name, value)
    assert (settings.notify_socket(), settings.watchdog()) == ("/s", None), "the watchdog is for process 1"
    place = settings.WorkerPlace(2, 7)
    for name in ("NOTIFY_SOCKET", "WATCHDOG_PID"):
        monkeypatch.delenv(name)
    monkeypatch.setenv(settings.WORKER, settings.environment_of_worker(place)[settings.WORKER])
    assert (settings.notify_socket(), settings.watchdog()) == (None, 2.5)
    assert settings.load() == Settings(), "it is no setting"
    assert settings.worker_place() == place
    assert settings.worker_place() is None


def test_the_environment_of_a_worker_is_that_of_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "OTHER"):
        monkeypatch.setenv(name, "1")
    environment = settings.environment_of_worker(settings.WorkerPlace(1, 5))
    assert {"NOTIFY_SOCKET", "WATCHDOG_PID"}.isdisjoint(environment)
    assert (environment["OTHER"], environment["WATCHDOG_USEC"]) == ("1", "1")


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("max_memory", "0", "must be MiB as a whole number above 0, or 1% to 99%"),
        ("max_memory", "100%", "must be MiB"),
        ("max_memory", "1.5", "must be MiB"),
        ("max_load", "0", "must be a load average per core"),
        ("max_load", "nan", "must be a load average per core"),
        ("max_load", "much", "must be a load average per core"),
        ("storage", "files", "must be the absolute path of a directory"),
        ("health_addr", "9000", "must be host:port"),
        ("health_addr", "h:0", "must be host:port"),
        ("health_addr", "h:65536", "must be host:port"),
        ("health_addr", "::1:9000", "must be host:port"),
        ("workers", "0", "must be a whole number from 1 to 1000"),
    ],
)
def test_what_a_server_at_work_cannot_have_is_refused(tmp_path: Path, name: str, value: str, rule: str) -> None:
    flag = f"--{name.replace('_', '-')}"
    assert refused(tmp_path, {name: value}).startswith(f"{flag}: {value!r} {rule}")


# The documentation's table.


def test_the_table_tells_everything_of_every_option() -> None:
    rows = {row.name: row for row in table()}
    assert rows["queues"][:5] == ("queues", "--queue", "TASKQUEUE_QUEUES", "queues", ("default",))
    assert rows["secrets"][:5] == ("secrets", "", "TASKQUEUE_SECRET", "secret", ())
    assert rows["receipt"].flag == "--no-receipt"
    assert rows["stop_grace"].flag == "--stop-grace"
    assert all(row.help.endswith(".") for row in rows.values())


def test_every_default_passes_its_own_check() -> None:
    for row in table():
        if row.default is not None and row.name != "secrets":
            assert OPTIONS[row.name].parse(row.default) == row.default, row.name
    assert OPTIONS["wait_broker"].parse(math.inf) == Settings().wait_broker


# The streams.


def test_a_file_is_neither_terminal_nor_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "log").open("w") as stream:
        assert not colours(stream)
        monkeypatch.delenv("JOURNAL_STREAM", raising=False)
        assert not under_journald(stream)
        monkeypatch.setenv("JOURNAL_STREAM", "1:1")
        assert not under_journald(stream)
        status = (tmp_path / "log").stat()
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        assert under_journald(stream)


@pytest.mark.parametrize("source", ["variable", "file", "list"])
def test_queues_may_have_weights(tmp_path: Path, source: str) -> None:
    written = {"variable": "", "file": 'queues = "a:3, b"', "list": 'queues = ["a:3", "b"]'}[source]
    (tmp_path / "taskqueue.toml").write_text(written)
    chosen = load(tmp_path, **({"TASKQUEUE_QUEUES": "a:3,b"} if source == "variable" else {}))
    assert tuple(chosen.queues) == ("a", "b")
    assert chosen.queues.weights == {"a": 3, "b": 1}
    assert chosen.public("queues") == ("a:3", "b")


@pytest.mark.parametrize(
    ("queues", "rule"),
    [
        ("b,a:0", "gives queue a the weight '0', which must be a whole number from 1 to 1000"),
        ("a:1001", "from 1 to 1000"),
        ("a:", "from 1 to 1000"),
        ("a:b", "from 1 to 1000"),
        ("a:1,a:2", "names queue a twice"),
        (":3", "queue"),
    ],
)
def test_a_wrong_weight_is_told(queues: str, rule: str) -> None:
    with pytest.raises(ConfigError, match=rule):
        load(Path("/"), TASKQUEUE_QUEUES=queues)
