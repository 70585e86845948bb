"""The pictures, drawn as SVG text from a report."""

from __future__ import annotations

import math
from typing import Iterable, Sequence
from xml.sax.saxutils import escape

from tests.support.images import MIB

from .cases import MEMORY
from .copies import COPY
from .peers import FLOOR, SKOPEO
from .results import Report, Result
from .syncs import SYNC

COLORS = {
    "dockerpush": "#0b6e99",
    FLOOR: "#9aa0a6",
    SKOPEO: "#c2571a",
    "crane": "#5b8c3a",
    "regctl": "#7a4ea3",
    "oras": "#b03a5b",
    "docker": "#3a8c86",
}

WIDTH = 760
TICKS = 5


def memory_picture(report: Report) -> str:
    """Peak memory of each peer against the size of the image."""
    lines = _by_peer(report.results)
    left, right, top, bottom = 70, WIDTH - 160, 50, 330
    sizes = sorted({size for points in lines.values() for size, _ in points})
    highest = max(y for points in lines.values() for _, y in points)
    step = _step(highest / MIB)
    limit = math.ceil(highest / MIB / step) * step * MIB
    low, high = math.log(sizes[0]), math.log(max(sizes[-1], sizes[0] + 1))

    def x(size: float) -> float:
        return left + (right - left) * (math.log(size) - low) / (high - low or 1)

    def y(memory: float) -> float:
        return bottom - (bottom - top) * memory / limit

    parts = [_text(left, 26, "Peak memory (MiB) against image size", size=15)]
    for number in range(round(limit / MIB / step) + 1):
        height = y(number * step * MIB)
        parts.append(_line(left, height, right, height, "#dddddd"))
        parts.append(_text(left - 8, height + 4, f"{number * step:g}", anchor="end"))
    for size in sizes:
        parts.append(_line(x(size), bottom, x(size), bottom + 5, "#444444"))
        parts.append(_text(x(size), bottom + 20, _size(size), anchor="middle"))
    for peer, points in lines.items():
        color = _color(peer)
        places = [(x(size), y(memory)) for size, memory in points]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>'
        )
        parts += [
            f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.5" fill="{color}"/>'
            for a, b in places
        ]
        last = f"{peer}: {points[-1][1] / MIB:.0f} MiB"
        parts.append(_text(right + 10, places[-1][1] + 4, last, color=color))
    return _picture(parts, 370)


def wall_picture(report: Report) -> str:
    """Wall time of each peer in each push: the median, and from least to most."""
    pushes = {result.case for result in report.results if result.peer == FLOOR}
    cases = [case for case in report.cases() if case in pushes]
    return _bars("Wall time of a cold push (median; line: range)", report, cases)


def copies_picture(report: Report) -> str:
    """The same of each copy and each sync."""
    cases = [case for case in report.cases() if case.startswith((COPY, SYNC))]
    return _bars("Wall time of copy and sync (median; line: range)", report, cases)


def _bars(title: str, report: Report, cases: Sequence[str]) -> str:
    """Bars for *cases*. Raises ValueError when there are none."""
    if not cases:
        raise ValueError("no cases")
    left, right, bar = 200, WIDTH - 170, 18
    parts = [_text(20, 26, title, size=15)]
    height = 46
    for case in cases:
        results, base = report.of(case), report.base(case)
        longest = max(result.wall()[2] for result in results)
        parts.append(_text(20, height + 14, case, weight="bold"))
        height += 22
        for result in results:
            scale = (right - left) / longest
            parts += _bar(result, left, height, scale)
            label = f"{result.wall()[1]:.2f} s{_times(result, base)}"
            end = left + result.wall()[2] * scale + 8
            parts.append(_text(end, height + 12, label))
            height += bar
        height += 14
    return _picture(parts, height + 6)


def _times(result: Result, base: Result | None) -> str:
    """How many times as long as *base* it took."""
    if base is None:
        return ""
    name = "floor" if base.peer == FLOOR else base.peer
    return f" ({result.wall()[1] / base.wall()[1]:.2f} x {name})"


def _bar(result: Result, left: float, top: float, scale: float) -> Iterable[str]:
    shortest, middle, longest = (value * scale for value in result.wall())
    color = _color(result.peer)
    yield _text(left - 8, top + 12, result.peer, anchor="end")
    yield (
        f'<rect x="{left}" y="{top + 1}" width="{middle:.1f}" height="14" '
        f'fill="{color}"/>'
    )
    yield _line(left + shortest, top + 8, left + longest, top + 8, "#222222")
    for end in (shortest, longest):
        yield _line(left + end, top + 4, left + end, top + 12, "#222222")


def _by_peer(results: Sequence[Result]) -> dict[str, list[tuple[int, float]]]:
    """(size, memory) in bytes, by peer, from the cases about memory."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for result in results:
        if result.case.startswith(MEMORY):
            point = (result.size, result.median(lambda one: one.cold.memory))
            lines.setdefault(result.peer, []).append(point)
    return {peer: sorted(points) for peer, points in lines.items()}


def _step(highest: float) -> float:
    """A round number that fits about TICKS times into *highest*."""
    unit = 10 ** math.floor(math.log10(highest / TICKS))
    return next(unit * n for n in (1, 2, 5, 10) if unit * n * TICKS >= highest)


def _size(size: int) -> str:
    mib = round(size / MIB)
    return f"{mib / 1024:.2g} GiB" if mib >= 1000 else f"{mib} MiB"


def _color(peer: str) -> str:
    return COLORS.get(peer, "#6fb1cc" if peer.startswith("dockerpush") else "#444444")


def _line(x1: float, y1: float, x2: float, y2: float, color: str) -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{color}"/>'


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: int = 12,
    anchor: str = "start",
    color: str = "#222222",
    weight: str = "normal",
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" '
        f'fill="{color}" font-weight="{weight}">{escape(text)}</text>'
    )


def _picture(parts: Iterable[str], height: float) -> str:
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" '
            f'height="{height:.0f}" viewBox="0 0 {WIDTH} {height:.0f}" '
            'font-family="Helvetica, Arial, sans-serif">',
            '<rect width="100%" height="100%" fill="#ffffff"/>',
            *parts,
            "</svg>\n",
        ]
    )
