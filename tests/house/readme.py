"""The README's parts: its blocks, and the settings table that is generated. Run this module to write the table anew."""

import re
from dataclasses import dataclass
from typing import Final

from taskqueue.catalogue import table
from tests.house import tree

README: Final = tree.ROOT / "README.md"
BLOCK: Final = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TABLE: Final = re.compile(r"(?<=<!-- settings -->\n).*?(?=<!-- /settings -->)", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block; ``name`` is the file it says to be, if it does."""

    language: str
    text: str

    @property
    def name(self) -> str:
        """Return the file name in its first line, or an empty string."""
        found = re.match(r"# (\w+\.py)\n", self.text)
        return found[1] if found else ""


def blocks() -> list[Block]:
    """Return all fenced blocks, in order."""
    return [Block(language, text) for language, text in BLOCK.findall(README.read_text(encoding="utf-8"))]


def settings_table() -> str:
    """Return the table of all settings, in Markdown."""
    lines = ["| flag | variable | key | default | |", "|---|---|---|---|---|"]
    for row in table():
        default = ", ".join(row.default) if isinstance(row.default, tuple) else row.default
        shown = "" if default in (None, "") else f"`{str(default).lower() if isinstance(default, bool) else default}`"
        flag = f"`{row.flag}`" if row.flag else ""
        lines.append(f"| {flag} | `{row.variable}` | `{row.key}` | {shown} | {row.help} |")
    return "\n".join(lines) + "\n"


def with_table(text: str) -> str:
    """Return the README's text with the settings table made anew."""
    return TABLE.sub(lambda _: settings_table(), text)


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
