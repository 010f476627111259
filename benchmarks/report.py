"""What people read: tables in Markdown, a plot in SVG. Pure."""

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any, Final

from .figures import MIB, Key, Reached, Round, Spread, judged, spreads

# What a table shows of each suite: figure, heading, unit.
COLUMNS: Final[Mapping[str, Sequence[tuple[str, str, float]]]] = {
    "drain": (
        ("rate", "tasks/s", 1),
        ("consumer_cpu", "consumer ms/1000", 1),
        ("redis_cpu", "Redis ms/1000", 1),
        ("target_cpu", "target ms/1000", 1),
        ("commands", "commands/task", 1),
        ("door_commands", "door's commands/task", 1),
        ("stored_bytes", "bytes/queued task", 1),
        ("resident", "MiB", MIB),
    ),
    "enqueue": (("rate", "tasks/s", 1), ("producer_cpu", "producer ms/1000", 1)),
    "latency": (
        ("p50", "p50 ms", 1),
        ("p99", "p99 ms", 1),
        ("call_p50", "call p50 ms", 1),
        ("arriving", "tasks/s", 1),
        ("idle_cpu", "idle CPU %", 1),
        ("resident", "idle MiB", MIB),
    ),
    "memory": (("idle", "idle MiB", MIB), ("resident", "after MiB", MIB), ("grown", "more MiB", MIB)),
    "several": (
        ("rate", "tasks/s", 1),
        ("consumer_cpu", "consumers ms/1000", 1),
        ("redis_cpu", "Redis ms/1000", 1),
        ("target_cpu", "target ms/1000", 1),
        ("commands", "commands/task", 1),
        ("trickle_commands", "commands/task, one by one", 1),
        ("resident", "MiB", MIB),
    ),
    "waiting": (
        ("start", "start s", 1),
        ("rate", "tasks/s", 1),
        ("consumer_cpu", "consumer ms/1000", 1),
        ("redis_cpu", "Redis ms/1000", 1),
        ("slowest", "slowest script ms", 1),
        ("slowest_rewriting", "while the file is rewritten, ms", 1),
        ("slowest_add", "slowest script that adds 1,000, ms", 1),
    ),
    "alone": tuple((name, f"{name} µs", 1) for name in ("seal", "open", "sign", "verify", "all", "pack", "unpack")),
}
BAR: Final = 14
LEFT: Final = 190
WIDTH: Final = 460


def rounds_of(results: Mapping[str, Any]) -> list[Round]:
    """Return the rounds of a results file."""
    return [
        {Key(cell["suite"], cell["contender"], cell["case"]): cell["figures"] for cell in measured}
        for measured in results["rounds"]
    ]


def markdown(results: Mapping[str, Any]) -> str:
    """Return goals and figures as tables, with where and how they were measured."""
    rounds = rounds_of(results)
    found = spreads(rounds)
    parts = [_where(results), "### Goals\n\n" + _goals(judged(rounds, results["peers"]))]
    for suite, columns in COLUMNS.items():
        rows = {key: figures for key, figures in found.items() if key.suite == suite}
        if rows:
            parts.append(f"### {suite.capitalize()}\n\n" + _table(rows, columns))
    return "\n\n".join(parts) + "\n"


def _where(results: Mapping[str, Any]) -> str:
    machine, servers, sizes = results["machine"], results["servers"], results["sizes"]
    versions = "; ".join(
        f"{contender}: {', '.join(f'{name} {version}' for name, version in found.items())}"
        for contender, found in results["versions"].items()
    )
    return (
        f"{results['begun'][:10]}, {len(results['rounds'])} rounds, windows of {sizes['window']} s,"
        f" {sizes['samples']} samples of latency. {machine['cores']} cores ({machine['cpu']}), {machine['system']},"
        f" Python {machine['python']}; load average {machine['load'][0]:.1f} before,"
        f" {results['load_at_end'][0]:.1f} after. Store: {servers['store']}; target: {servers['target']}."
        f"\n\nVersions: {versions}."
    )


def _goals(reached: Iterable[Reached]) -> str:
    lines = ["| | goal | median | least to greatest | reached |", "|---|---|---|---|---|"]
    for each in reached:
        goal, values = each.goal, each.rounds
        unit = " ×" if goal.others else ""
        bound = "" if goal.bound is None else f"{'≥' if goal.at_least else '≤'} {goal.bound:,g}{unit}"
        said = {True: "yes", False: "**no**", None: "" if values else "not measured"}[each.reached]
        middle = f"{_number(statistics.median(values))}{unit}" if values else "–"
        around = f"{_number(min(values))} – {_number(max(values))}" if values else "–"
        lines.append(f"| {goal.what} | {bound} | {middle} | {around} | {said} |")
    return "\n".join(lines)


def _table(rows: Mapping[Key, Mapping[str, Spread]], columns: Sequence[tuple[str, str, float]]) -> str:
    used = [column for column in columns if any(column[0] in figures for figures in rows.values())]
    lines = [f"| | {' | '.join(heading for _, heading, _ in used)} |", "|---" * (len(used) + 1) + "|"]
    for key, figures in rows.items():
        cells = (_spread(figures.get(name), unit) for name, _, unit in used)
        lines.append(f"| {key.contender} {key.case} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(spread: Spread | None, unit: float) -> str:
    if spread is None:
        return "–"
    low, median, high = (_number(value / unit) for value in spread)
    return f"{median} ({low} – {high})"


def _number(value: float) -> str:
    """Return three digits that count, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def svg(results: Mapping[str, Any]) -> str:
    """Return bars of all rates: how far the median goes, with a line from the least to the greatest."""
    found = spreads(rounds_of(results))
    groups = [
        (suite, {key: figures["rate"] for key, figures in found.items() if _drawn(suite, key, figures)})
        for suite in ("drain", "enqueue")
    ]
    drawn, top = list[str](), 10
    for suite, rates in groups:
        drawn.append(f'<text x="10" y="{top + BAR}" font-weight="bold">{suite}, tasks/s</text>')
        drawn += _bars(rates, top + 2 * BAR)
        top += (len(rates) + 3) * (BAR + 4)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 90}" height="{top}"'
    return "\n".join([head + ' font-family="sans-serif" font-size="12">', *drawn, "</svg>"]) + "\n"


def _drawn(suite: str, key: Key, figures: Mapping[str, Spread]) -> bool:
    # Beside wrk no other bar could be read.
    return key.suite == suite and key.contender != "wrk" and "rate" in figures


def _bars(rates: Mapping[Key, Spread], top: int) -> Iterator[str]:
    scale = WIDTH / max((spread.high for spread in rates.values()), default=1.0)
    for number, (key, (low, median, high)) in enumerate(rates.items()):
        y = top + number * (BAR + 4)
        colour = {"ours": "#2a7", "loop": "#999", "lpush": "#999"}.get(key.contender, "#68c")
        yield f'<text x="10" y="{y + BAR - 3}">{escape(f"{key.contender} {key.case}")}</text>'
        yield f'<rect x="{LEFT}" y="{y}" width="{median * scale:.1f}" height="{BAR}" fill="{colour}"/>'
        yield f'<path d="M{LEFT + low * scale:.1f} {y + BAR / 2}H{LEFT + high * scale:.1f}" stroke="black"/>'
        yield f'<text x="{LEFT + high * scale + 5:.1f}" y="{y + BAR - 3}">{median:,.0f}</text>'
