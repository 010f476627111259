"""The project speaks of itself alone: where it was made, and from where its parts were fetched, is nobody's business.

The patterns are put together from pieces, so that this file is no hit itself.
"""

import re
from typing import Final

import pytest

from tests.house import tree

FOREIGN: Final = re.compile(
    "|".join(
        [
            r"(?<![a-z.])/wor" + r"k/",
            r"/far" + r"m/",
            r"/tm" + r"p/venv",
            r"/opt/py" + r"pi",
            r"(?<![\w.])/ro" + r"ot/",
            r"bash_" + r"jobs",
            r"--(extra-)?index" + r"-url",
            r"\.libr" + r"ary/",
            r"pypi\.or" + r"g/simple",
            r"pythonhos" + r"ted\.org",
            r"registry\.npm" + r"js",
        ]
    )
)


def foreign_words(text: str) -> list[str]:
    """Return what in a text belongs to a machine or to a registry, not to the project."""
    return [match.group() for match in FOREIGN.finditer(text)]


def test_no_file_names_a_machine_or_a_registry() -> None:
    files = tree.versioned()
    if not files:
        pytest.skip("not a git checkout")
    hits = {str(path.relative_to(tree.ROOT)): foreign_words(path.read_text(errors="replace")) for path in files}
    assert {name: words for name, words in hits.items() if words} == {}


@pytest.mark.parametrize(
    "text",
    ["see /wor" + "k/main", "pip install --index" + "-url=x", "--extra-index" + "-url", "in /tmp/bash_" + "jobs.0"],
)
def test_a_foreign_word_is_found(text: str) -> None:
    assert foreign_words(text)


@pytest.mark.parametrize("text", ["the network/path", "/homework/", "a.work/", "PYTHON=/path/to/python", "workers/"])
def test_a_word_of_ours_is_not(text: str) -> None:
    assert foreign_words(text) == []
