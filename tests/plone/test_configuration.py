"""The section of zope.conf: what it takes, and how it tells what is wrong."""

import io
import re
from pathlib import Path
from typing import Any

import pytest
import ZConfig

from taskqueue.errors import ConfigError
from taskqueue.middleware.zope import configuration
from taskqueue.middleware.zope.configuration import Section
from taskqueue.middleware.zope.door import make_filter
from tests.house import readme
from tests.tasks import SECRET

SCHEMA = """
<schema>
  <abstracttype name="zope.product.base" />
  <multisection type="zope.product.base" name="+" attribute="product_config" />
</schema>
"""
IMPORT = "%import taskqueue.middleware.zope\n"


def read(*sections: str) -> list[Section]:
    """Return the sections of a zope.conf."""
    schema = ZConfig.loadSchemaFile(io.StringIO(SCHEMA))
    found: Any = ZConfig.loadConfigFile(schema, io.StringIO(IMPORT + "\n".join(sections)))[0]
    return list(found.product_config)


def section(*lines: str, name: str = "queues") -> str:
    return "\n".join((f"<taskqueue {name}>", *lines, "</taskqueue>"))


def test_every_key_is_taken() -> None:
    (found,) = read(
        section(
            "url redis://127.0.0.1:6379/1",
            f"secret {SECRET}, {SECRET}2",
            "queue default",
            "queue mail",
            "namespace intranet",
            "public-url https://example.org",
            "commit-deadline 3",
            "max-tasks 1000",
            "max-bytes 0",
            "durability disk",
            "storage /srv/plone/files",
        )
    )
    assert found.options() == {
        "url": "redis://127.0.0.1:6379/1",
        "secret": (SECRET, f"{SECRET}2"),
        "queues": ["default", "mail"],
        "namespace": "intranet",
        "public_url": "https://example.org",
        "commit_deadline": 3.0,
        "max_tasks": 1000,
        "max_bytes": 0,
        "durability": "disk",
        "storage": "/srv/plone/files",
    }


def test_the_readme_s_section_is_one() -> None:
    (block,) = [block.text for block in readme.blocks() if block.language == "ini"]
    found = re.search(r"<taskqueue.*</taskqueue>", block, re.DOTALL)
    assert found is not None
    assert IMPORT in block
    assert read(found[0])[0].given == {"url": "redis://127.0.0.1:6379/0"}


def test_what_is_left_out_is_left_to_the_settings() -> None:
    assert read(section())[0].options() == {}


def test_secrets_are_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}\n{SECRET}2\n")
    assert read(section(f"secret-file {tmp_path}/secret"))[0].options() == {"secret": (SECRET, f"{SECRET}2")}
    with pytest.raises(ConfigError, match=r"secret-file in zope\.conf: .* cannot be read"):
        read(section(f"secret-file {tmp_path}/none"))[0].options()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("url 127.0.0.1", r"url: must be a URL"),
        ("queue Mail", r"queue: 'Mail' is no queue name: .*'mail' would do"),
        ("namespace {}", r"namespace: must be 1 to 64"),
        ("public-url example.org", r"public-url: must be http"),
        ("commit-deadline soon", r"commit-deadline: must be a number of seconds"),
        ("max-tasks -1", r"max-tasks: must be a whole number"),
        ("max-bytes much", r"max-bytes: must be a whole number"),
        ("durability iron", r"durability: "),
        ("storage files", r"storage: must be the absolute path"),
    ],
)
def test_a_fault_names_its_key_and_line(line: str, said: str) -> None:
    with pytest.raises(ZConfig.DataConversionError, match=rf"^{said}") as caught:
        read(section(line))
    assert caught.value.lineno == 3


def test_a_key_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ZConfig.ConfigurationError, match="'queues' is not a known key name"):
        read(section("queues default"))


def test_two_ways_to_give_the_secret_are_one_too_many() -> None:
    with pytest.raises(ZConfig.ConfigurationError, match="secret-file: the secret is given beside it") as caught:
        read(section(f"secret {SECRET}", "secret-file secret"))
    assert SECRET not in str(caught.value)


def test_a_process_has_one_task_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configuration, "_sections", lambda: read(section(), section(name="more")))
    with pytest.raises(ConfigError, match="2 <taskqueue> sections, and a process has one TaskQueue; name all its"):
        configuration.task_queue()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"allow_manual": "perhaps"}, "allow_manual: 'perhaps' must be true or false"),
        (
            {"task_only": "/"},
            "task_only: the filter egg:http-taskqueue#zope knows credentials, replay_guard, allow_manual",
        ),
    ],
)
def test_an_option_of_the_filter_that_is_wrong_is_refused(given: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make_filter(lambda _environ, _start: [], None, **given)
