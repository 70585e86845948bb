"""The table: medians, and beside each how many times as much as the base."""

from __future__ import annotations

import statistics
from typing import Callable, Iterator, Sequence

from tests.support.images import MIB

from .peers import FAST, FLOOR
from .results import Report, Result, Round

SUMMARY = (
    "case",
    "floor",
    "dockerpush",
    "in another way",
    "fastest of the others",
    "ratio",
)

HEADER = (
    "by",
    "wall s (range)",
    "CPU s",
    "RSS MiB",
    "temp MiB",
    "stored MiB",
    "again s",
)


def markdown(report: Report) -> str:
    """The whole *report* as tables for people and for the README."""
    return "\n".join(_lines(report)) + "\n"


def summary(report: Report) -> str:
    """*report* as the one table of the README: a line for each case."""
    rows = [_summed(report, case) for case in report.cases()]
    for one in report.start_up:
        ratio = f"{one.ratio:.2f}"
        ours, other = _middle(one.seconds), _middle(one.against_seconds)
        rows.append((one.name, "", ours, "", f"`{one.against}`: {other}", ratio))
    return "\n".join(_narrow(SUMMARY, rows)) + "\n"


def _summed(report: Report, case: str) -> tuple[str, ...]:
    by_peer = {result.peer: result for result in report.of(case)}
    floor = by_peer.pop(FLOOR, None)
    ours = [result for peer, result in by_peer.items() if peer.startswith(FAST)]
    others = [result for result in by_peer.values() if result not in ours]
    fastest = min(others, key=lambda result: result.wall()[1], default=None)
    rest = (
        f"{result.peer[len(FAST) :].strip(' ,')} {_cost(result)}" for result in ours[1:]
    )
    ratio = ours[0].wall()[1] / fastest.wall()[1] if ours and fastest else None
    return (
        case,
        f"{floor.wall()[1]:.2f} s" if floor else "",
        _cost(ours[0]) if ours else "",
        "; ".join(rest),
        f"{fastest.peer}: {_cost(fastest)}" if fastest else "",
        f"{ratio:.2f}" if ratio else "",
    )


def _cost(result: Result) -> str:
    """The time, memory, and temp space of *result*; the time of the run after it."""
    parts = [f"{result.wall()[1]:.2f} s"]
    again = result.warm_wall()
    if again is not None:
        parts.append(f"again {again:.2f} s")
    parts.append(f"{result.median(lambda one: one.cold.memory) / MIB:.0f} MiB")
    temp = result.median(lambda one: one.cold.temp) / MIB
    if temp >= 1:
        parts.append(f"disk {temp:.0f} MiB")
    return ", ".join(parts)


def _middle(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds) * 1000:.0f} ms"


def _narrow(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for row in (header, ["---"] * len(header), *rows):
        yield f"| {' | '.join(row)} |".replace("  ", " ")


def _lines(report: Report) -> Iterator[str]:
    for name, value in report.about.items():
        yield f"- {name}: {value}"
    for reason in report.skipped:
        yield f"- not measured: {reason}"
    bases = "the floor's, else skopeo's, else docker-registry's"
    yield f"- medians; in brackets how many times {bases}"
    for case in report.cases():
        results = report.of(case)
        base = report.base(case)
        yield f"\n**{case}**\n"
        yield from _table(HEADER, [_row(result, base) for result in results])
    if report.start_up:
        yield "\n**start-up**\n"
        rows = [
            (one.name, _ms(one.seconds), one.against, _ms(one.against_seconds))
            for one in report.start_up
        ]
        ratios = [f"{one.ratio:.2f}" for one in report.start_up]
        header = ("command", "ms", "beside", "ms", "ratio")
        yield from _table(header, [(*row, x) for row, x in zip(rows, ratios)])


def _ms(seconds: Sequence[float]) -> str:
    middle = sorted(seconds)[len(seconds) // 2]
    return (
        f"{middle * 1000:.0f} ({min(seconds) * 1000:.0f} to {max(seconds) * 1000:.0f})"
    )


def _row(result: Result, base: Result | None) -> tuple[str, ...]:
    shortest, middle, longest = result.wall()
    wall = f"{middle:.2f} ({shortest:.2f} to {longest:.2f})"
    if base is not None:
        wall += _times(middle, base.wall()[1])
    again = result.warm_wall()

    def cell(value: Callable[[Round], float], form: str, unit: int = 1) -> str:
        amount = result.median(value) / unit
        other = base.median(value) / unit if base is not None else 0.0
        return format(amount, form) + _times(amount, other)

    return (
        result.peer,
        wall,
        cell(lambda one: one.cold.cpu, ".2f"),
        cell(lambda one: one.cold.memory, ".1f", MIB),
        cell(lambda one: one.cold.temp, ".0f", MIB),
        cell(lambda one: one.stored, ".1f", MIB),
        "" if again is None else f"{again:.2f}",
    )


def _times(amount: float, base: float) -> str:
    return f" [{amount / base:.2f}]" if base > 0 else ""


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    rule = ["-" * width for width in widths]
    for row in (header, rule, *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths))
        yield f"| {' | '.join(cells)} |"
