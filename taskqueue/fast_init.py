"""A frozen dataclass whose instances are made as fast as those of any other.

The ``__init__`` of a frozen dataclass goes around its own ``__setattr__`` for each field, and that takes ten times as
long as an assignment. Here an instance begins in a class that has the same slots and no guard, is filled there, and is
frozen by becoming one of its own class. A delivery is a dozen such values.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from typing import Any, TypeVar

T = TypeVar("T")


def fast_init(frozen: type[T]) -> type[T]:
    """Decorate a dataclass with ``frozen`` and ``slots``: all else about it stays as it was, pickles included.

    Raises TypeError for one that does more in its ``__init__`` than to take its fields: a ``__post_init__``, a
    ``default_factory``, or ``init=False``; and for one whose slots are not all its own.
    """
    cls: Any = frozen
    taken = _taken(cls)
    placed = [_parameter(one) for one in taken if not one.kw_only]
    named = [_parameter(one) for one in taken if one.kw_only]
    parameters = ["cls", *placed, *(["*", *named] if named else [])]
    names = tuple(one.name for one in taken)
    end = " if cls is not _own:\n  return _copied(self, cls)\n self.__class__ = cls\n return self\n"
    new = _function("__new__", cls, parameters, dict(zip(names, names, strict=True)), end)

    def arguments(self: object) -> tuple[tuple[()], dict[str, Any]]:
        return (), {name: getattr(self, name) for name in names}

    cls.__new__, cls.__getnewargs_ex__ = new, arguments
    del cls.__init__
    return frozen


def by_place(frozen: type[T], *names: str) -> Callable[..., T]:
    """Return a function that makes instances of such a class from these fields, or all of them, given in this order.

    Those that have defaults come last, and may be left out; all other fields have theirs. A call of the class that
    names some twenty fields takes three times as long. Raises TypeError if a field would be left without a value.
    """
    taken = {one.name: one for one in _taken(frozen)}
    names = names or tuple(taken)
    if any(one.default is MISSING and one.name not in names for one in taken.values()):
        raise TypeError(f"{frozen.__name__}: every field without a default is needed")
    written = {name: name if name in names else f"_{name}" for name in taken}
    end = " self.__class__ = _own\n return self\n"
    made: Callable[..., T] = _function("by_place", frozen, [_parameter(taken[name]) for name in names], written, end)
    return made


def _taken(cls: Any) -> tuple[Field[Any], ...]:
    """Return the fields of a dataclass; raise TypeError for what is not as ``fast_init`` needs it."""
    taken: tuple[Field[Any], ...] = fields(cls)
    plain = all(one.init and one.default_factory is MISSING for one in taken) and not hasattr(cls, "__post_init__")
    if not plain or cls.__dict__.get("__slots__") != tuple(one.name for one in taken):
        raise TypeError(f"{cls.__name__}: a dataclass of plain fields with slots is needed")
    return taken


def _function(name: str, cls: Any, parameters: Sequence[str], written: Mapping[str, str], end: str) -> Any:
    """Return a function of the class that writes to each field what is said here, and ends so."""
    known = {"_new": object.__new__, "_own": cls, "_copied": _copied, "__name__": cls.__module__}
    known |= {"_draft": type(cls.__name__, (), {"__slots__": tuple(written)})}
    known |= {f"_{one.name}": one.default for one in fields(cls)}
    filled = "; ".join(f"self.{field} = {value}" for field, value in written.items())
    exec(  # noqa: S102 - as dataclasses makes an __init__: of names that stand in our code
        f"def {name}({', '.join(parameters)}):\n self = _new(_draft)\n {filled}\n{end}", known
    )
    known[name].__qualname__ = f"{cls.__qualname__}.{name}"
    return known[name]


def _parameter(one: Field[Any]) -> str:
    return one.name if one.default is MISSING else f"{one.name}=_{one.name}"


def _copied(draft: Any, cls: type[T]) -> T:
    """Return an instance of a subclass, which may have more room, with the fields of this draft."""
    made = object.__new__(cls)
    for name in type(draft).__slots__:
        object.__setattr__(made, name, getattr(draft, name))
    return made
