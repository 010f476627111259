"""``python -m benchmarks``: run the rounds, print everything, write results.json, figures.md and rates.svg.

``make bench`` and ``make bench-full`` call it; ``--publish`` only puts what was written last into docs/.
"""

import argparse
import json
from pathlib import Path
from typing import Final

from tests.servers import find_binaries

from .plan import full, quick, smoke
from .processes import PEERS, ROOT, python_of
from .report import markdown, svg
from .run import run, write
from .suites import SMALL, Sizes

OUTPUT: Final = ROOT / "build" / "benchmarks"
PAGE: Final = ROOT / "docs" / "performance.md"
PLOT: Final = ROOT / "docs" / "performance.svg"
MARK: Final = "<!-- figures: everything below is written by make bench-publish -->\n"
PLANS: Final = {"quick": quick, "full": full, "smoke": smoke}


def measure(plan: str, rounds: int, sizes: Sizes, output: Path, *, only: str = "", store: str = "") -> None:
    """Run this plan with the peers there are; write what came of it.

    ``only``: cells whose name contains this; ``store``: the kind of the server, usually the first there is.
    """
    peers = [peer for peer in PEERS if python_of(peer) is not None and (plan == "full" or peer in ("arq", "taskiq"))]
    cells = [cell for cell in PLANS[plan](peers) if only in f"{cell.suite} {cell.contender} {cell.case}"]
    results = run(cells, rounds=rounds, sizes=sizes, store=store)
    write(results, output / "results.json")
    (output / "figures.md").write_text(markdown(results))
    (output / "rates.svg").write_text(svg(results))
    print(markdown(results))  # noqa: T201  for the person who waits


def publish(output: Path) -> None:
    """Put the figures that were written last into docs/performance.md, and the plot beside it."""
    results = json.loads((output / "results.json").read_text())
    head, mark, _ = PAGE.read_text().partition(MARK)
    PAGE.write_text(f"{head}{mark or MARK}\n![rates](performance.svg)\n\n{markdown(results)}")
    PLOT.write_text(svg(results))


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--plan", choices=PLANS, default="quick")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=Sizes().window, help="of each window")
    parser.add_argument("--only", default="", help="only cells whose name contains this, as in 'drain ours'")
    parser.add_argument("--store", choices=find_binaries(), default="", help="the server; usually the first of these")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--publish", action="store_true", help="measure nothing: put the last figures into docs/")
    chosen = parser.parse_args()
    if chosen.publish:
        publish(chosen.output)
    else:
        sizes = SMALL if chosen.plan == "smoke" else Sizes(window=chosen.seconds)
        measure(chosen.plan, chosen.rounds, sizes, chosen.output, only=chosen.only, store=chosen.store)


if __name__ == "__main__":
    main()
