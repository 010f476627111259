"""The Makefile keeps what it has made."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.house import tree


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")
def test_an_environment_stays_when_it_was_made_on_the_way_to_something_else(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text((tree.ROOT / "Makefile").read_text())
    (tmp_path / "pyproject.toml").write_text("")
    folder = tmp_path / "fake"
    folder.mkdir()
    fake = folder / "python"
    # Makes an environment whose python does nothing, and is itself one that is new enough.
    fake.write_text('#!/bin/sh\n[ "$2" = venv ] && mkdir -p "$3/bin" && cp "$0" "$3/bin/python"\nexit 0\n')
    fake.chmod(0o755)
    told = subprocess.run(
        ["make", ".venv/installed-demo", f"PYTHON={fake}"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    assert (tmp_path / ".venv/bin/python").exists(), told.stdout
