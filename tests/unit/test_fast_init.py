"""A value that is made fast is in all else what dataclasses makes of it."""

import copy
import inspect
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass, field, replace
from typing import Any

import pytest

from taskqueue.fast_init import by_place, fast_init


@fast_init
@dataclass(frozen=True, slots=True)
class Plain:
    first: int
    second: str = "two"
    third: tuple[int, ...] = field(default=(3,), kw_only=True)


@dataclass(frozen=True, slots=True)
class Slow:
    first: int
    second: str = "two"
    third: tuple[int, ...] = field(default=(3,), kw_only=True)


@fast_init
@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    first: int
    second: str = "two"


def test_it_takes_its_fields_by_place_and_by_name() -> None:
    for made in (Plain(1), Plain(1, "two"), Plain(first=1, second="two", third=(3,))):
        assert (type(made), made.first, made.second, made.third) == (Plain, 1, "two", (3,))
    assert repr(Plain(1, third=())) == "Plain(first=1, second='two', third=())"
    assert str(inspect.signature(Plain)) == "(first, second='two', *, third=(3,))"
    assert inspect.signature(Named).parameters["first"].kind is inspect.Parameter.KEYWORD_ONLY


@pytest.mark.parametrize(
    "call",
    [lambda cls: cls(), lambda cls: cls(1, "2", (3,)), lambda cls: cls(1, fourth=4), lambda cls: cls(1, first=1)],
)
def test_it_refuses_what_its_fields_do_not_allow(call: Callable[[Any], object]) -> None:
    for cls in (Plain, Slow):
        with pytest.raises(TypeError, match=cls.__name__):
            call(cls)


@pytest.mark.parametrize("change", [lambda made: setattr(made, "first", 2), lambda made: delattr(made, "first")])
def test_it_cannot_be_changed(change: Callable[[Any], None]) -> None:
    made = Plain(1)
    with pytest.raises(FrozenInstanceError):
        change(made)
    with pytest.raises((AttributeError, TypeError)):
        made.fourth = 4  # type: ignore[attr-defined]
    assert not hasattr(made, "__dict__")
    assert made == Plain(1)


def test_it_is_compared_hashed_and_matched_as_a_dataclass() -> None:
    assert Plain(1) == Plain(1)
    assert len({Plain(1), Plain(1), Plain(2)}) == 2
    assert Plain(1).__eq__(Slow(1)) is NotImplemented
    match Plain(1, "b"):
        case Plain(1, second):
            assert second == "b"
        case _:
            pytest.fail("it was not matched by place")


@pytest.mark.parametrize("made", [Plain(1, "b", third=()), Named(first=1, second="b")])
def test_it_can_be_copied_and_pickled(made: Any) -> None:
    changed = replace(made, second="c")
    assert (type(changed), changed.first, changed.second) == (type(made), 1, "c")
    assert replace(changed, second="b") == made
    assert copy.copy(made) == copy.deepcopy(made) == made
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(made, protocol)) == made  # noqa: S301 - our own


def test_a_subclass_may_have_more_room() -> None:
    class Wider(Plain):
        def shout(self) -> str:
            return self.second.upper()

    made = Wider(1, "b")
    assert (type(made), made.shout(), made.third) == (Wider, "B", (3,))
    with pytest.raises(FrozenInstanceError):
        made.first = 2  # type: ignore[misc]


def test_a_function_makes_it_of_the_fields_by_place() -> None:
    made = by_place(Plain, "first", "third")
    assert made(1, (4,)) == Plain(1, third=(4,))
    assert made(1) == Plain(1)
    assert by_place(Named)(1, "b") == Named(first=1, second="b")
    assert type(made(1)) is Plain
    with pytest.raises(FrozenInstanceError):
        made(1).first = 2  # type: ignore[misc]
    for wrong in ((), (1, (4,), "b")):
        with pytest.raises(TypeError, match="Plain"):
            made(*wrong)


def test_no_field_is_left_without_a_value() -> None:
    with pytest.raises(TypeError, match="Plain: every field without a default is needed"):
        by_place(Plain, "second")


def test_what_does_more_than_to_take_its_fields_is_refused() -> None:
    @dataclass(frozen=True, slots=True)
    class Factory:
        things: list[int] = field(default_factory=list)

    @dataclass(frozen=True, slots=True)
    class Counted:
        first: int = field(init=False, default=1)

    @dataclass(frozen=True, slots=True)
    class Checked:
        first: int

        def __post_init__(self) -> None:
            assert self.first

    @dataclass(frozen=True)
    class Roomy:
        first: int

    for cls in (Factory, Counted, Checked, Roomy):
        with pytest.raises(TypeError, match=cls.__name__):
            fast_init(cls)
        with pytest.raises(TypeError, match=cls.__name__):
            by_place(cls, "first")
