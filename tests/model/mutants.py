"""Proof that the model sees what it should: the scripts with one small fault each, told from the real ones.

``make mutants`` tries them all: every line left out, every condition negated, every comparison, connective, sum and
literal changed. A mutant that survives is a gap in the walk, a line that nobody needs, or equivalent, and then named
with the reason in equivalent.py.
"""

import random
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

from taskqueue.brokers.scripts import SCRIPTS
from tests.house import tree
from tests.model.equivalent import EQUIVALENT
from tests.model.proof import first_difference
from tests.model.real import Real, sources, timed
from tests.servers import RedisServer, find_binaries

STEPS: Final = 15_000
# Endless loops are cut off: after this many seconds, or when they have filled so much memory.
PATIENCE: Final = 2.0
OPTIONS: Final = ("--appendonly", "no", "--maxmemory", "200mb")

_CONDITION: Final = re.compile(r"\b(if|elseif|while)\b (.*?) \b(then|do)\b")
_TOKEN: Final = re.compile(r"--.*|'[^']*'|\b\d+\b|[A-Za-z_][\w.]*|==|~=|<=|>=|\.\.|[<>+*/-]")
_SWAPPED: Final = {
    "==": ["~="], "~=": ["=="], "<": ["<=", ">"], "<=": ["<"], ">": [">=", "<"], ">=": [">"],
    "+": ["-"], "-": ["+"], "and": ["or"], "or": ["and"], "not": [""], "true": ["false"], "false": ["true"],
    "math.min": ["math.max"], "math.max": ["math.min"],
    "'LPUSH'": ["'RPUSH'"], "'RPUSH'": ["'LPUSH'"], "'LPOP'": ["'RPOP'"], "'RPOP'": ["'LPOP'"],
}  # fmt: skip


class Mutant(NamedTuple):
    """One line of one script, changed."""

    script: str
    number: int
    before: str
    after: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells it from others, also when lines move."""
        return self.script, self.before.strip(), self.after.strip()

    def __str__(self) -> str:
        return f"{self.script}.lua:{self.number}: {self.before.strip()}  =>  {self.after.strip() or '(left out)'}"

    def sources(self) -> dict[str, bytes]:
        """Return all scripts under the test's clock, this one with its fault."""
        lines = list(_lines(self.script))
        part, lines[self.number - 1] = _joined(lines), self.after
        return {
            name: timed(script.source.replace(part, _joined(lines)), strict=False) for name, script in SCRIPTS.items()
        }


def mutants() -> Iterator[Mutant]:
    """Yield every mutant of every script."""
    for name in (path.stem for path in tree.scripts()):
        for number, line in enumerate(_lines(name), 1):
            if line.strip() and not line.strip().startswith("--"):
                for after in dict.fromkeys(_changed(line)):
                    yield Mutant(name, number, line, after)


@cache
def _lines(name: str) -> tuple[str, ...]:
    return tuple((tree.PACKAGE / "lua" / f"{name}.lua").read_text().splitlines())


def _joined(lines: Sequence[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def _changed(line: str) -> Iterator[str]:
    yield ""
    if _CONDITION.search(line):
        yield _CONDITION.sub(r"\1 not (\2) \3", line)
    for token in _TOKEN.finditer(line):
        for other in _others(token.group()):
            yield line[: token.start()] + other + line[token.end() :]


def _others(token: str) -> list[str]:
    if token.isdigit():
        return [str(int(token) + 1), f"({int(token)} - 1)"]
    if token.startswith("'") and token not in _SWAPPED:
        return ["'other'" if token == "''" else "''"]
    return _SWAPPED.get(token, [])


class Bench:
    """A server of its own on which mutants are tried; endless ones take it down, and it comes back."""

    def __init__(self, binary: Path) -> None:
        self._server = RedisServer(binary, *OPTIONS)

    def __enter__(self) -> Self:
        self._server.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.__exit__(kind, error, trace)

    def sound(self, *, steps: int = STEPS) -> bool:
        """Tell whether the scripts as they are survive; if not, no mutant's death means anything."""
        real = Real(self._server, sources(), patience=PATIENCE)
        try:
            return first_difference(real, "mutants", steps) is None
        finally:
            real.close()

    def fate(self, mutant: Mutant, *, steps: int = STEPS) -> str:
        """Return ``broken`` (does not compile), ``killed``, ``endless`` or ``survived``."""
        real = Real(self._server, mutant.sources(), patience=PATIENCE)
        try:
            if real.refused():
                return "broken"
            return "survived" if first_difference(real, "mutants", steps) is None else "killed"
        except (TimeoutError, ConnectionError):
            self._server.kill()
            self._server.start()
            return "endless"
        finally:
            real.close()


def sample(count: int, seed: int) -> list[Mutant]:
    """Return some mutants, none of them known to be equivalent."""
    return random.Random(seed).sample([mutant for mutant in mutants() if mutant.key not in EQUIVALENT], count)


def _tell(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    """Try every mutant, or those that contain all arguments; print what survived, or died although it is listed."""
    chosen = [mutant for mutant in mutants() if all(word in str(mutant) for word in sys.argv[1:])]
    found: Counter[str] = Counter()
    wrong = []
    started = time.monotonic()
    with Bench(find_binaries()["valkey9"]) as bench:
        if not bench.sound():
            _tell("the scripts themselves differ from the model: make model says where")
            return 1
        for mutant in chosen:
            fate = bench.fate(mutant)
            reason = EQUIVALENT.get(mutant.key)
            found[f"{fate}, listed as equivalent" if reason else fate] += 1
            if (fate == "survived") != (reason is not None):
                wrong.append(mutant)
                _tell(f"{fate}: {mutant}")
    _tell(f"{len(chosen)} mutants in {time.monotonic() - started:.0f} s: {dict(found)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        sys.exit(main())
