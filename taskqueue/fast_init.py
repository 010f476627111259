"""A frozen dataclass whose instances are made as fast as those of any other.

The ``__init__`` of a frozen dataclass goes around its own ``__setattr__`` for each field, and that takes ten times as
long as an assignment. Here an instance begins in a class that has the same slots and no guard, is filled there, and is
frozen by becoming one of its own class. A delivery is a dozen such values.
"""

from dataclasses import MISSING, Field, fields
from typing import Any, TypeVar

T = TypeVar("T")


def fast_init(frozen: type[T]) -> type[T]:
    """Decorate a dataclass with ``frozen`` and ``slots``: all else about it stays as it was, pickles included.

    Raises TypeError for one that does more in its ``__init__`` than to take its fields: a ``__post_init__``, a
    ``default_factory``, or ``init=False``; and for one whose slots are not all its own.
    """
    cls: Any = frozen
    taken: tuple[Field[Any], ...] = fields(cls)
    names = tuple(one.name for one in taken)
    plain = all(one.init and one.default_factory is MISSING for one in taken) and not hasattr(cls, "__post_init__")
    if not plain or cls.__dict__.get("__slots__") != names:
        raise TypeError(f"{cls.__name__}: a dataclass of plain fields with slots is needed")
    draft = type(cls.__name__, (), {"__slots__": names})
    known = {"_new": object.__new__, "_draft": draft, "_own": cls, "_copied": _copied, "__name__": cls.__module__}
    known |= {f"_{one.name}": one.default for one in taken}
    exec(_source(taken), known)  # noqa: S102 - as dataclasses makes an __init__: of names that stand in our code
    known["__new__"].__qualname__ = f"{cls.__qualname__}.__new__"

    def arguments(self: object) -> tuple[tuple[()], dict[str, Any]]:
        return (), {name: getattr(self, name) for name in names}

    cls.__new__, cls.__getnewargs_ex__ = known["__new__"], arguments
    del cls.__init__
    return frozen


def _source(taken: tuple[Field[Any], ...]) -> str:
    """Return the text of a ``__new__`` that takes these fields and writes them."""
    by_place = [_parameter(one) for one in taken if not one.kw_only]
    by_name = [_parameter(one) for one in taken if one.kw_only]
    parameters = ", ".join(["cls", *by_place, *(["*", *by_name] if by_name else [])])
    written = "; ".join(f"self.{one.name} = {one.name}" for one in taken)
    return (
        f"def __new__({parameters}):\n self = _new(_draft)\n {written}\n"
        " if cls is not _own:\n  return _copied(self, cls)\n self.__class__ = cls\n return self\n"
    )


def _parameter(one: Field[Any]) -> str:
    return one.name if one.default is MISSING else f"{one.name}=_{one.name}"


def _copied(draft: Any, cls: type[T]) -> T:
    """Return an instance of a subclass, which may have more room, with the fields of this draft."""
    made = object.__new__(cls)
    for name in type(draft).__slots__:
        object.__setattr__(made, name, getattr(draft, name))
    return made
