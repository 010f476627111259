"""What ``taskqueue completion`` prints is what a shell completes with."""

import subprocess
from pathlib import Path
from typing import Any

import pytest


def completed(script: str, cwd: Path, *words: str) -> list[str]:
    """Return what bash offers for the last of these words."""
    array = " ".join(f"'{word}'" for word in words)
    function = f"_{words[0].replace('-', '_')}"
    asked = (
        f'{script}\nCOMP_WORDS=({array}); COMP_CWORD={len(words) - 1}; {function}; printf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    ended = subprocess.run(["bash", "-c", asked], cwd=cwd, capture_output=True, text=True, check=True, timeout=20)
    assert ended.stderr == ""
    return [word.strip() for word in ended.stdout.splitlines()]


def test_bash_completes_commands_and_options_of_both(taskqueue: Any, tmp_path: Path) -> None:
    script = taskqueue("completion", "bash").out
    assert set(completed(script, tmp_path, "taskqueue", "re")) == {"relay", "replay", "rerun", "retry"}
    assert "purge" in completed(script, tmp_path, "taskqueue", "queues", "p")
    assert completed(script, tmp_path, "taskqueue", "replay", "--secret") == ["--secret-file"]
    assert completed(script, tmp_path, "taskqueue-server", "--concur") == ["--concurrent-limit"]
    assert completed(script, tmp_path, "taskqueue-server", "--dev", "--targ") == ["--target"]


@pytest.mark.parametrize(
    ("shell", "lines"),
    [
        ("zsh", ["compdef _cyclopts_taskqueue taskqueue", "compdef _cyclopts_taskqueue-server taskqueue-server"]),
        ("fish", ["# Fish completion for taskqueue", "# Fish completion for taskqueue-server"]),
    ],
)
def test_the_other_shells_get_both_too(taskqueue: Any, shell: str, lines: list[str]) -> None:
    out = taskqueue("completion", shell).out.splitlines()
    assert [line for line in lines if line not in out] == []


def test_another_shell_is_told(taskqueue: Any) -> None:
    ran = taskqueue("completion", "tcsh")
    assert (ran.code, ran.out) == (2, "")
    assert 'Choose from: "bash", "zsh", "fish"' in ran.err
