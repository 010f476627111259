"""What a release contains, however the checkout was made: exactly the package, under its one name."""

import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path
from typing import Final

import pytest

from tests.house import tree

LEFT_BEHIND: Final = (
    ".git",
    ".venv*",
    ".*_cache",
    ".hypothesis",
    ".taskqueue",
    "__pycache__",
    "*.egg-info",
    "build",
    "dist",
)

IMPORT_EVERYTHING: Final = """
import importlib, importlib.metadata, importlib.util, pathlib, pkgutil, sys, warnings
import django.conf
import taskqueue

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import pyramid.config  # what it warns of at its first import is not ours

# A model is only to be had where the settings name its application.
django.conf.settings.configure(INSTALLED_APPS=["taskqueue.middleware.django.outbox"])
django.setup()
assert pathlib.Path(taskqueue.__file__).is_relative_to(sys.prefix), taskqueue.__file__
for module in pkgutil.walk_packages(taskqueue.__path__, "taskqueue."):
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:  # Zope has an environment of its own
        if not module.name.startswith("taskqueue.middleware.zope.") or error.name.startswith("taskqueue"):
            raise
    print(module.name)
for script in importlib.metadata.distribution("http-taskqueue").entry_points:
    if importlib.util.find_spec(script.module):
        script.load()
for name in ("middleware", "tests", "examples", "benchmarks", "conftest"):
    found = importlib.util.find_spec(name)  # some dependency may install such a name, this distribution may not
    assert found is None or not pathlib.Path(found.origin or "/").is_relative_to(sys.prefix), f"{name} is importable"
"""


def build(source: Path, output: Path, *kinds: str) -> list[Path]:
    """Build without network what ``kinds`` says: ``--wheel``, or nothing for an sdist and then a wheel from that."""
    command = [sys.executable, "-m", "build", "--no-isolation", *kinds, "--outdir", str(output), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return sorted(output.iterdir())


def contents(wheel: Path) -> set[str]:
    """Return the names in a wheel, without its metadata."""
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def expected() -> set[str]:
    """Return what the tree says a wheel must contain: every module, script and type marker."""
    modules = {
        path.relative_to(tree.ROOT).as_posix().replace("middleware/", "taskqueue/middleware/", 1)
        if path.is_relative_to(tree.MIDDLEWARE)
        else path.relative_to(tree.ROOT).as_posix()
        for path in tree.sources()
    }
    zope = {
        f"taskqueue/{path.relative_to(tree.ROOT).as_posix()}"
        for pattern in ("*.xml", "*.zcml", "profiles/*/*.xml")
        for path in (tree.MIDDLEWARE / "zope").glob(pattern)
    }
    return modules | zope | {f"taskqueue/lua/{path.name}" for path in tree.scripts()} | {"taskqueue/py.typed"}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout, so that no build leaves anything in it."""
    copy = tmp_path_factory.mktemp("checkout") / "http-taskqueue"
    return Path(shutil.copytree(tree.ROOT, copy, symlinks=True, ignore=shutil.ignore_patterns(*LEFT_BEHIND)))


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    (built,) = build(checkout, tmp_path_factory.mktemp("wheel"), "--wheel")
    return built


def test_a_wheel_contains_exactly_the_tree(wheel: Path) -> None:
    assert contents(wheel) == expected()


def test_the_only_top_level_name_is_taskqueue(wheel: Path) -> None:
    assert {name.split("/")[0] for name in contents(wheel)} == {"taskqueue"}
    assert any(name.endswith(".lua") for name in contents(wheel))


def test_a_source_distribution_makes_the_same_wheel(checkout: Path, tmp_path: Path) -> None:
    wheel, sdist = build(checkout, tmp_path / "out")
    assert contents(wheel) == expected()
    with tarfile.open(sdist) as archive:
        members = {member.name.partition("/")[2]: member for member in archive}
    assert {"conftest.py", "tests/conftest.py", "middleware/__init__.py"} <= members.keys()
    assert [name for name, member in members.items() if member.issym() or member.islnk()] == []


def test_a_checkout_without_links_makes_the_same_wheel(checkout: Path, tmp_path: Path) -> None:
    flat = shutil.copytree(checkout, tmp_path / "flat", symlinks=True)
    link = flat / "taskqueue" / "middleware"
    assert link.is_symlink()
    link.unlink()
    link.write_text("../middleware")  # what git writes where links cannot be made
    (wheel,) = build(flat, tmp_path / "out", "--wheel")
    assert contents(wheel) == expected()


def test_an_installed_wheel_imports_everywhere(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    venv.create(environment)
    python = environment / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python)]
    subprocess.run([*pip, "install", "--quiet", "--no-index", "--no-deps", str(wheel)], check=True)
    # The dependencies are those of this environment; it comes second, and its own .pth files do not count.
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    done = subprocess.run(
        [python, "-W", "error", "-c", IMPORT_EVERYTHING], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "taskqueue.middleware" in done.stdout.split()


def test_the_middleware_folder_is_no_module_of_its_own() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import middleware"], cwd=tree.ROOT, capture_output=True, text=True, check=False
    )
    assert "import taskqueue.middleware instead" in done.stderr
