"""Rules by route: which paths a pattern means, which of several counts, who has the say, and what is refused."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskqueue import settings
from taskqueue.catalogue import Settings
from taskqueue.defaults import DefaultsByPath
from taskqueue.errors import ConfigError, InvalidTask, UsageError
from taskqueue.routes import (
    UNKNOWN,
    Pattern,
    Route,
    Routes,
    Table,
    category_of,
    choose,
    from_settings,
    is_hidden,
    table_of,
    unpacked,
)
from taskqueue.seal import seal
from taskqueue.task import CHILD, CHOSEN_MASK, CHOSEN_SHIFT, GHOST, MASTER, Chosen
from tests.tasks import KEYRING, task
from tests.unit.test_story import NEW as STATE


@pytest.mark.parametrize(
    ("pattern", "meant", "others"),
    [
        ("/a", ["/a"], ["/a/", "/ab", "/b"]),
        ("/reports/*", ["/reports/", "/reports/1/2"], ["/reports", "/x/reports/1"]),
        ("*", ["/", "/a/b"], []),
        ("*/export", ["/export", "/a/b/export"], ["/export/a", "/a/exports"]),
        ("/a/*/z", ["/a/b/z", "/a/b/c/z", "/a//z"], ["/a/z", "/a/b/z/"]),
        ("/a/**", ["/a/", "/a/b"], ["/a"]),
        ("/*a*b*c", ["/abc", "/xaxbxc", "/a/b/c", "/abcc"], ["/acb", "/ab"]),
        ("/{a}/x", ["/1/x"], ["/1/2/x", "//x"]),
        ("/<int:a>-{b}", ["/1-2", "/1-2-3"], ["/1-", "/1-2/3"]),
        ("/{a}/*/{b}.pdf", ["/1/x/2.pdf", "/1/x/y/2.pdf"], ["/1/2.pdf", "/1/x/.pdf"]),
        ("*/{a}-*z", ["/a-z", "/x/a-b-cz"], ["/a-b"]),
        ("/v\xe9lo/*", ["/v%C3%A9lo/1"], ["/velo/1"]),
        ("/v%c3%a9lo", ["/v%C3%A9lo"], ["/v\xe9lo"]),
        ("/a.b[c]", ["/a.b%5Bc%5D"], ["/axb%5Bc%5D", "/a.bc"]),
    ],
)
def test_which_paths_a_pattern_means(pattern: str, meant: list[str], others: list[str]) -> None:
    made = Pattern(pattern)
    assert [path for path in meant + others if made.matches(path)] == meant


@pytest.mark.parametrize("part", ["*a", "{p}a", "{p}"])
def test_no_pattern_takes_long(part: str) -> None:
    """With plain backtracking this would take longer than any test may."""
    assert not Pattern("/" + part * 200 + "b").matches("/" + "a" * 8000)
    assert not Pattern("/" + part * 200 + "b*/").matches("/" + "a" * 8000)


@given(st.lists(st.sampled_from(["a", "b", "/", "{p}", "*"]), max_size=8), st.text("ab/", max_size=10))
def test_a_pattern_means_what_plain_backtracking_finds(parts: list[str], rest: str) -> None:
    """What is never given back would not have been needed."""
    text = "/" + "".join(parts)
    plain = re.sub(r"\*+", ".*", text).replace("{p}", "[^/]+")
    assert Pattern(text).matches(f"/{rest}") is (re.fullmatch(plain, f"/{rest}") is not None)


def test_of_several_patterns_the_closest_counts() -> None:
    order = ["*", "/*", "/a/*", "/a/{x}", "/a/<y>", "/a/b*", "/a/bcd"]
    table = table_of(Route(path, queue="q") for path in order)

    def counts(path: str) -> str:
        found = table.of(path)
        assert found is not None
        assert found[0] == found[1].path
        return found[0]

    assert [counts(path) for path in ("a", "/b", "/a/b/c", "/a/b", "/a/bcd", "/a/bcd?x=/b", "/a/c/d", "/a/c")] == [
        "*", "/*", "/a/b*", "/a/b*", "/a/bcd", "/a/bcd", "/a/*", "/a/{x}",
    ]  # fmt: skip
    assert table_of([]).of("/a") is None


# Who has the say.


@pytest.mark.accept("TA08", "MY16")
def test_add_goes_before_the_view_the_view_before_a_rule_and_a_rule_before_the_default() -> None:
    rules = Routes(Table(), table_of([Route("/a", "filed"), Route("/c", category="export")]))
    view = DefaultsByPath()
    view.declare("/a", queue="viewed")
    view.declare("/b", timeout=5)

    def chosen(path: str, own: str | None = None, views: DefaultsByPath = view) -> tuple[str | None, str, Chosen]:
        return choose(path, own=own, view=views.of(path), routes=rules)

    assert chosen("/a", "own") == ("own", "/a", Chosen.ADD)
    assert chosen("/a") == ("viewed", "/a", Chosen.VIEW)
    assert chosen("/a", views=DefaultsByPath()) == ("filed", "/a", Chosen.FILE)
    assert chosen("/b") == (None, "/b", Chosen.DEFAULT)
    assert chosen("/c") == (None, "/c", Chosen.DEFAULT)
    assert chosen("/d", "own") == ("own", "", Chosen.ADD)
    assert sorted(Chosen) == [Chosen.UNKNOWN, Chosen.DEFAULT, Chosen.FILE, Chosen.BROKER, Chosen.VIEW, Chosen.ADD]


@pytest.mark.parametrize("who", list(Chosen))
def test_who_has_chosen_travels_beside_the_record(who: Chosen) -> None:
    made = seal(KEYRING, task("/a", route="/{x}", chosen=who), nonce=bytes(12))
    assert made.route == "/{x}"
    assert replace(STATE, route="/{x}", flags=made.flags).chosen is who
    assert replace(STATE, flags=made.flags | CHILD | MASTER | GHOST | 1 << 10).chosen is who
    assert replace(STATE, flags=CHOSEN_MASK << CHOSEN_SHIFT).chosen is Chosen.UNKNOWN


# Kinds of work, and what users do not see.


@pytest.mark.accept("TA29")
def test_a_category_comes_by_route_and_is_unknown_by_default() -> None:
    view = DefaultsByPath()
    view.declare("/items/{id}/export", category="export")
    rules = table_of([Route("/items/*", category="update"), Route("/items/new", category="create")])
    layers = (view, rules)
    paths = ["/items/7/export", "/items/7", "/items/new", "/other"]
    assert [category_of(path, layers) for path in paths] == ["export", "update", "create", UNKNOWN]
    # A route, as it is kept with the task, does as well as the path itself.
    assert [category_of(route, layers) for route in ("/items/{id}/export", "/items/*")] == ["export", "update"]
    assert category_of("/items/7", ()) == UNKNOWN == "unknown"


@pytest.mark.accept("TA30")
def test_a_hidden_route_is_left_out_of_what_users_see() -> None:
    view = DefaultsByPath()
    view.declare("/shown/by-view", hidden=False)
    layers = (view, table_of([Route("/sync/*", hidden=True), Route("/shown/*", hidden=True)]))
    paths = ["/sync/7", "/shown/by-view", "/shown/7", "/mail"]
    assert [path for path in paths if not is_hidden(path, layers)] == ["/shown/by-view", "/mail"]


# As the broker keeps them.


def test_a_rule_is_kept_whole() -> None:
    for rule in (Route("/a", "slow", "export", hidden=True), Route("/b", "slow"), Route("/c", hidden=False)):
        assert unpacked(rule.path, rule.pack()) == rule


@pytest.mark.parametrize("raw", [b"", b"\xc1", b"\x01", b"\x80", b"\x81\xa5queue\xa4A{b}", b"\x81\xa6hidden\x01"])
def test_a_rule_that_nobody_can_have_made_is_refused(raw: bytes) -> None:
    with pytest.raises(ConfigError):
        unpacked("/a", raw)


def test_what_a_newer_release_says_is_passed_over() -> None:
    assert unpacked("/a", b"\x82\xa5queue\xa4slow\xa5other\x01") == Route("/a", "slow")


# As a person writes them.


def load(folder: Path, text: str, name: str = "taskqueue.toml") -> Settings:
    (folder / name).write_text(text)
    return settings.load(environ={}, directory=folder)


def test_the_file_has_a_table_for_each(tmp_path: Path) -> None:
    first = "[[{}route]]\npath = '/reports/*'\nqueue = 'slow'\ncategory = 'export'\n"
    text = f"{first}[[{{}}route]]\npath = '/x'\nhidden = true\n"
    meant = (Route("/reports/*", "slow", "export"), Route("/x", hidden=True))
    assert load(tmp_path, text.format("tool.taskqueue.", "tool.taskqueue."), "pyproject.toml").routes == meant
    chosen = load(tmp_path, text.format("", ""))
    assert chosen.routes == meant
    assert chosen.public("routes") == ("/reports/* = slow (category export)", "/x (hidden)")


@pytest.mark.accept("TA10")
@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("queues = []", "taskqueue.toml: queues: "),
        ("queues = ['a', 'a:2']", "names queue a twice"),
        ("strategy = 'fair'", "must be weighted, strict, or a class"),
        ("route = 5", "taskqueue.toml: route: must be tables"),
        ("[route]\npath = '/a'\nqueue = 'b'", "taskqueue.toml: route: must be tables"),
        ("route = ['/a']", "taskqueue.toml: route: number 1: '/a' must be a table"),
        ("[[route]]\nqueue = 'slow'", "number 1: path is missing"),
        ("[[route]]\npath = '/a'", "number 1: /a: nothing is said of it"),
        ("[[route]]\npath = 'a'\nqueue = 'slow'", "number 1: path: 'a' must be the path of a view"),
        ("[[route]]\npath = '/a'\nqueu = 'slow'", "/a: no such key: queu; known are path, queue, category, hidden"),
        ("[[route]]\npath = '/a'\nqueue = 'Slow One'", "'slow-one' would do"),
        ("[[route]]\npath = '/a'\nqueue = 5", "queue: "),
        ("[[route]]\npath = '/a'\ncategory = 'a b'", "category: 'a b' must be one word"),
        ("[[route]]\npath = '/a'\nhidden = 'yes'", "hidden: 'yes' must be true or false"),
        (
            "[[route]]\npath = '/\xe4'\nqueue = 'b'\n[[route]]\npath = '/%C3%A4'\nqueue = 'c'",
            "number 2: /%C3%A4: there are two rules",
        ),
    ],
)
def test_what_is_wrong_is_refused_with_file_key_and_rule(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(tmp_path, text)
    assert str(caught.value).startswith("taskqueue.toml: ")
    assert told in str(caught.value)


@pytest.mark.parametrize("value", [b"/a=b", "/a", "/a=", None])
def test_a_variable_names_path_and_queue(value: Any) -> None:
    assert from_settings(" /a=b=slow, /c=mail,") == (Route("/a=b", "slow"), Route("/c", "mail"))
    with pytest.raises(ConfigError, match="route: "):
        from_settings(value)


def test_a_pattern_has_an_end() -> None:
    with pytest.raises(InvalidTask, match="too long"):
        Pattern("/" + "a" * 1000)
