"""Sizes, rates and durations as people write them. Pure.

``K M G T`` are powers of 1000, ``Ki Mi Gi Ti`` of 1024, each with or without a ``B``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..expressions import expression

if TYPE_CHECKING:
    from datetime import datetime

LARGEST = 2**63 - 1
LONGEST = 10_000_000.0
"""Seconds; far beyond any use, and within what clocks and locks can wait for."""

_NUMBER = r"[0-9]{1,3}(?:_?[0-9]){0,18}(?:\.[0-9]{1,6})?"
_SIZE = expression(rf"({_NUMBER}) ?(?:([kmgt])(i?))?b?", re.IGNORECASE)
_DURATION = expression(
    r"(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m)?(?:([0-9]{1,9}(?:\.[0-9]{1,9})?)s?)?"
)
_TIME_OF_DAY = expression(r"([01]?[0-9]|2[0-3]):([0-5][0-9])")
_MILLISECONDS = expression(r"([0-9]{1,9})ms")


def parse_size(text: str) -> int:
    """Bytes, at least 1, from ``50MiB``, ``10M``, ``100_000``. Raises UsageError."""
    size = _size(text)
    if size is None:
        raise UsageError(f"not a size (wanted 50MiB, 10M or bytes): {text!r:.80}")
    return size


def parse_rate(text: str) -> int:
    """Bytes a second, at least 1, from ``10M``, ``500KiB/s``. Raises UsageError."""
    rate = _size(re.sub(r"/s$", "", text.strip()))
    if rate is None:
        raise UsageError(
            f"not a rate (wanted 10M, 500KiB/s or bytes a second): {text!r:.80}"
        )
    return rate


def parse_least_rate(text: str) -> int:
    """The same, or 0 for none. Raises UsageError."""
    return 0 if text.strip() in ("0", "0/s") else parse_rate(text)


def parse_duration(text: str) -> float:
    """Seconds, 0 or more, from ``60``, ``1.5``, ``1m30s``, ``200ms``, ``2h``.

    Raises UsageError.
    """
    stripped = text.strip().lower()
    seconds = None
    if match := _MILLISECONDS.fullmatch(stripped):
        seconds = int(match[1]) / 1000
    elif stripped and (match := _DURATION.fullmatch(stripped)):
        hours, minutes, rest = match.groups(default="0")
        seconds = int(hours) * 3600 + int(minutes) * 60 + float(rest)
    if seconds is None or seconds > LONGEST:
        raise UsageError(
            f"not a duration (wanted seconds, or 1m30s, 200ms, 2h): {text!r:.80}"
        )
    return float(seconds)


def parse_deadline(text: str, now: datetime) -> float:
    """Seconds from *now* (local time) to *text*: ``2h``, or the next ``06:00``.

    Raises UsageError, also for no time at all.
    """
    if match := _TIME_OF_DAY.fullmatch(text.strip()):
        then = now.replace(
            hour=int(match[1]), minute=int(match[2]), second=0, microsecond=0
        )
        seconds = (then - now).total_seconds()
        return seconds if seconds > 0 else seconds + 24 * 3600
    try:
        seconds = parse_duration(text)
    except UsageError:
        seconds = 0.0
    if not seconds:
        raise UsageError(f"not a deadline (wanted 2h, 90m or 06:00): {text!r:.80}")
    return seconds


def format_size(size: int) -> str:
    """*size* bytes in the largest unit that says it exactly."""
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if size and size % 1024**power == 0:
            return f"{size // 1024**power}{unit}"
    return str(size)


def format_duration(seconds: float) -> str:
    """*seconds* as `parse_duration` takes them."""
    return f"{seconds:g}s"


def _size(text: str) -> int | None:
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        return None
    number, unit, binary = match.groups(default="")
    base = 1024 if binary else 1000
    factor = base ** ("kmgt".index(unit.lower()) + 1) if unit else 1
    whole, _, fraction = number.replace("_", "").partition(".")
    size = int(whole) * factor
    if fraction:
        size += int(fraction) * factor // 10 ** len(fraction)
    return size if 1 <= size <= LARGEST else None
