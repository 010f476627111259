"""A request as a curl command that a POSIX shell reads back byte for byte, whatever is in it.

What is signed must be what is sent, so everything is off that curl would add, rewrite or take from a file of its own:
its configuration, its ``Content-Type`` for a body, its squeezing of paths. Text that can be seen is quoted; everything
else is written as ``printf`` escapes or goes through ``base64``, so that nothing in it moves a terminal's cursor.
"""

import shlex
from base64 import b64encode
from collections.abc import Iterator, Sequence
from typing import Final

from .errors import UsageError

# What one argument of a command may hold is limited (128 KiB on Linux); what printf, part of the shell, writes is not.
INLINE_BYTES: Final = 16 * 1024
_SENDS_A_LENGTH: Final = frozenset({"POST", "PUT", "PATCH"})
# What curl adds by itself unless it is told otherwise; a User-Agent is always among the headers of a delivery.
_ADDED: Final = ("accept", "content-type", "expect")


def command(method: str, url: str, headers: Sequence[tuple[str, str]], body: bytes) -> str:
    """Return the command that makes this request and shows status, headers and content of the answer.

    ``headers`` are all but the framing. Raises UsageError for a HEAD with a body, which curl cannot send.
    """
    if method == "HEAD" and body:
        raise UsageError("curl cannot send a HEAD with a body; run it with: taskqueue replay")
    words = ["curl --disable --noproxy '*' --http1.1 --path-as-is --globoff"]
    words.append("--head" if method == "HEAD" else f"--include --request {quoted(method)}")
    words += [f"--header {quoted(line)}" for line in _header_lines(headers)]
    text = _visible(body) if len(body) <= INLINE_BYTES else None
    piped = ""
    if body and text is None:
        piped = f"printf %s {b64encode(body).decode()} | base64 -d | "
        words.append("--data-binary @-")
    elif body or method in _SENDS_A_LENGTH:
        words.append(f"--data-raw {quoted(text or '')}")
    return piped + " \\\n  ".join([*words, quoted(url)])


def _header_lines(headers: Sequence[tuple[str, str]]) -> Iterator[str]:
    for name, value in headers:
        yield f"{name}: {value}" if value else f"{name};"  # with a colon alone curl leaves the header out
    given = {name.lower() for name, _ in headers}
    yield from (f"{name}:" for name in _ADDED if name not in given)


def _visible(body: bytes) -> str | None:
    """Return the body as text, None if something in it is not to be seen, line ends aside."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return None
    return text if text.replace("\n", "").isprintable() else None


def quoted(text: str) -> str:
    """Return this as one word of a POSIX shell; text that ends with a line break must be printable otherwise."""
    if text.replace("\n", "").isprintable():
        return shlex.quote(text)
    escaped = "".join(f"\\{byte:03o}" for byte in text.encode("utf-8", "surrogateescape"))
    return f"\"$(printf '{escaped}')\""
