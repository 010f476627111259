"""Each fault of the matrix has a test that exists, or a reason why it cannot have one here."""

import ast
from collections.abc import Iterator

import pytest

from tests.house import tree
from tests.house.faults import FAULTS, Fault


def named_in(source: str) -> Iterator[str]:
    """Yield the tests of a module as they are named behind its path."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            yield from (f"{node.name}::{name}" for name in _functions(node.body))
    yield from _functions(ast.parse(source).body)


def _functions(body: list[ast.stmt]) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            yield node.name


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.what)
def test_a_fault_is_shown_or_the_reason_told(fault: Fault) -> None:
    assert fault.shown or fault.not_shown
    for name in fault.shown:
        path, _, test = name.partition("::")
        assert test in named_in((tree.ROOT / path).read_text()), f"{name}: no such test"


def test_no_fault_is_listed_twice() -> None:
    assert len({fault.what for fault in FAULTS}) == len(FAULTS)


def test_tests_are_found_in_classes_and_modules() -> None:
    source = "class TestA:\n    async def test_b(self): ...\n    def helper(self): ...\ndef test_c(): ...\n"
    assert set(named_in(source)) == {"TestA::test_b", "test_c"}
