"""Every row of acceptance that is owed has a test with its mark.

Read from the sources, so that no selection of tests can hide a gap. That a marked test was not skipped is seen when it
runs: the AcceptanceLedger of tests/conftest.py fails a run in which every test of a row was skipped.
"""

import ast
import re
from collections.abc import Iterator

import pytest

from tests.house import tree
from tests.house.owed import OWED

ROW = re.compile(r"(CT|TA|MY)\d\d")


def marked_rows(source: str) -> Iterator[str]:
    """Yield the ids of ``pytest.mark.accept("CT01", ...)`` wherever they stand: decorator, parameter or pytestmark."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.accept":
            for argument in node.args:
                yield ast.literal_eval(argument)


def _rows_of_the_tests() -> dict[str, set[str]]:
    return {
        str(path.relative_to(tree.ROOT)): set(marked_rows(path.read_text()))
        for path in sorted((tree.ROOT / "tests").rglob("test_*.py"))
    }


def test_every_row_owed_has_a_test() -> None:
    shown = set().union(*_rows_of_the_tests().values())
    assert sorted(OWED - shown) == []


def test_every_mark_names_a_row() -> None:
    wrong = {name: {row for row in rows if not ROW.fullmatch(row)} for name, rows in _rows_of_the_tests().items()}
    assert {name: rows for name, rows in wrong.items() if rows} == {}


@pytest.mark.parametrize(
    ("source", "rows"),
    [
        ('@pytest.mark.accept("CT01")\ndef test_a(): ...', {"CT01"}),
        ('@pytest.mark.accept("CT01", "CT02")\nasync def test_a(): ...', {"CT01", "CT02"}),
        ('pytestmark = [pytest.mark.accept("CT03")]', {"CT03"}),
        ('pytest.param(1, marks=pytest.mark.accept("CT04"))', {"CT04"}),
        ('"pytest.mark.accept(\'CT05\')"  # pytest.mark.accept("CT06")', set()),
        ("@pytest.mark.timeout(9)\ndef test_a(): ...", set()),
    ],
)
def test_marks_are_read_from_the_source(source: str, rows: set[str]) -> None:
    assert set(marked_rows(source)) == rows


def test_a_row_whose_tests_are_all_skipped_fails_the_run(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tree.ROOT))
    pytester.makeconftest("from tests.conftest import pytest_configure")
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.accept("CT01")
        def test_skipped():
            pytest.skip("not here")

        @pytest.mark.accept("CT02")
        @pytest.mark.parametrize("kind", ["missing", "here"])
        def test_skipped_once(kind):
            if kind == "missing":
                pytest.skip("not here")

        @pytest.mark.skip(reason="never")
        @pytest.mark.accept("CT03")
        def test_never(): ...
        """
    )
    pytester.makeini("[pytest]\nmarkers = accept(id): a row\nasyncio_default_fixture_loop_scope = function")
    result = pytester.runpytest_subprocess("-p", "no:valkey")
    result.assert_outcomes(passed=1, skipped=3)
    result.stdout.fnmatch_lines(["acceptance rows whose tests were all skipped: CT01, CT03"])
    assert result.ret == pytest.ExitCode.TESTS_FAILED
