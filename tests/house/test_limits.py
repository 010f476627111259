"""Sizes that can be read at one sitting."""

import ast

import pytest

from tests.house import tree

MODULE_LINES = 400
FUNCTION_LINES = 50
SCRIPT_LINES = 40


def functions_above(limit: int, source: str) -> list[tuple[str, int]]:
    """Return the functions of a module that have more lines than the limit, signature and docstring included."""
    functions = (
        (node.name, (node.end_lineno or node.lineno) - node.lineno + 1)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    return [(name, lines) for name, lines in functions if lines > limit]


def code_lines(script: str) -> int:
    """Return how many lines of a Lua script are neither blank nor comment."""
    return sum(1 for line in script.splitlines() if line.strip() and not line.strip().startswith("--"))


def test_no_module_is_above_400_lines() -> None:
    assert {
        str(path.relative_to(tree.ROOT)): lines
        for path in tree.sources()
        if (lines := len(path.read_text().splitlines())) > MODULE_LINES
    } == {}


def test_no_function_is_above_50_lines() -> None:
    assert {
        str(path.relative_to(tree.ROOT)): long
        for path in tree.sources()
        if (long := functions_above(FUNCTION_LINES, path.read_text()))
    } == {}


def test_no_script_is_above_40_lines_of_code() -> None:
    assert {path.name: lines for path in tree.scripts() if (lines := code_lines(path.read_text())) > SCRIPT_LINES} == {}


def test_the_package_and_the_middleware_are_measured() -> None:
    measured = set(tree.sources())
    assert {tree.PACKAGE / "task.py", tree.MIDDLEWARE / "__init__.py"} <= measured
    assert len(tree.scripts()) > 0


@pytest.mark.parametrize("keyword", ["def", "async def"])
def test_the_limit_is_the_last_length_allowed(keyword: str) -> None:
    function = f"class C:\n    {keyword} f(self):\n" + "        x = 1\n" * (FUNCTION_LINES - 1)
    assert functions_above(FUNCTION_LINES, function) == []
    assert functions_above(FUNCTION_LINES, function + "        x = 1\n") == [("f", FUNCTION_LINES + 1)]


def test_comments_and_blank_lines_of_a_script_are_free() -> None:
    assert code_lines("-- KEYS: 1 queue\n\nlocal a = 1\n  -- why\nreturn a\n") == 2
