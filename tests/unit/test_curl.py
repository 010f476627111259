"""What a shell makes of a request written as a curl command: every byte as it was."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from taskqueue.curl import INLINE_BYTES, command
from taskqueue.errors import UsageError

URL = "http://127.0.0.1:8000/a?x=%20'&y=$HOME;[1-2]{3}"
RECORDER = "import json, sys; json.dump([sys.argv[1:], list(sys.stdin.buffer.read())], open('seen', 'w'))"


def run(text: str, cwd: Path) -> tuple[list[str], bytes]:
    """Return the arguments and the input that curl gets when a shell reads this."""
    (cwd / "bin").mkdir(exist_ok=True)
    curl = cwd / "bin" / "curl"
    curl.write_text(f"#!{sys.executable}\n{RECORDER}\n")
    curl.chmod(0o755)
    path = f"{cwd / 'bin'}:/usr/bin:/bin"
    subprocess.run(
        ["sh"], input=text.encode(), cwd=cwd, env={"PATH": path, "HOME": "/nobody"}, check=True, timeout=20, stdout=-3
    )
    arguments, piped = json.loads((cwd / "seen").read_text())
    return arguments, bytes(piped)


def values(arguments: list[str], flag: str) -> list[str]:
    return [arguments[at + 1] for at, word in enumerate(arguments) if word == flag]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"a=1&b=2",
        b"@/etc/passwd",
        b'it\'s $HOME `id` "!" \\ \n second line\n',
        "grüß, 世界".encode(),
        b"\x00\xff\r\n",
        b"\x1b[2J",
        "\u202egnp".encode(),
        b"x" * (INLINE_BYTES + 1),
        bytes(range(256)) * 1024,
    ],
    ids=range(10),
)
def test_a_body_arrives_as_it_was(tmp_path: Path, body: bytes) -> None:
    text = command("POST", URL, [("Content-Type", "text/plain")], body)
    assert text.replace("\n", "").isprintable()
    arguments, piped = run(f"{text} </dev/null", tmp_path) if "base64" not in text else run(text, tmp_path)
    assert arguments[-1] == URL
    if values(arguments, "--data-binary"):
        assert (values(arguments, "--data-binary"), piped) == (["@-"], body)
    else:
        assert [word.encode() for word in values(arguments, "--data-raw")] == [body]


def test_headers_arrive_as_they_were_and_curl_adds_none(tmp_path: Path) -> None:
    headers = [
        ("Host", "app.example:8000"),
        ("x-quote", 'it\'s "$HOME" `id`'),
        ("x-text", "grüß"),
        ("x-tab", "a\tb %d \\n"),
        ("x-turned", "a\u202eb"),
        ("x-empty", ""),
    ]
    text = command("GET", URL, headers, b"")
    assert text.replace("\n", "").isprintable()
    arguments, _ = run(f"{text} </dev/null", tmp_path)
    given = [f"{name}: {value}" for name, value in headers[:-1]]
    assert values(arguments, "--header") == [*given, "x-empty;", "accept:", "content-type:", "expect:"]
    assert values(arguments, "--request") == ["GET"]
    assert values(arguments, "--data-raw") == []


def test_a_head_has_no_body_to_wait_for() -> None:
    assert "--head" in command("HEAD", URL, [], b"")
    with pytest.raises(UsageError, match="taskqueue replay"):
        command("HEAD", URL, [], b"x")
