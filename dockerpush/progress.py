"""Progress for people: bars on a terminal, plain lines elsewhere.

A listener is called with events from any thread; one lock guards what it counts and
writes. A layer that will be compressed counts with its raw size until its real one is
known, so that the total only ever shrinks. Nothing shows before something moves.
"""

from __future__ import annotations

import threading
import time
from typing import Callable, NamedTuple, Sequence, TextIO

from .events import (
    BlobFinished,
    BlobPlanned,
    BlobStarted,
    BytesRead,
    BytesSaved,
    BytesSent,
    Event,
    Notice,
    Outcome,
    Retrying,
)
from .system.terminal import LiveLines

MIB = 1024 * 1024

FIRST_LINE = 2.0
"""Seconds until a plain line is written: what is done by then needs none."""

REDRAW = 0.1
"""Seconds between two pictures of the bars."""

WIDEST = 100
"""Columns of the bars at most: beyond, numbers stand too far from their names."""

NARROWEST_BAR = 8

SMALLEST = MIB // 20
"""Bytes of a blob that gets a bar: less would be 0.0 MiB."""

_READING = "reading"
"""The name of a row whose blob has no digest yet."""

Say = Callable[[str], object]


class Tally:
    """How far a run is: blobs and bytes, done and in all.

    Bytes are those that go over the wire: a blob that the registry holds already takes
    its size out of the total.
    """

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        self.sent: dict[str, int] = {}
        self.finished: set[str] = set()
        self.read = 0
        self.saving = ""
        self.bytes_done = 0
        self.bytes_total = 0

    @property
    def moves(self) -> bool:
        """True once there is something to show."""
        return bool(self.read or self.bytes_done)

    def add(self, event: Event) -> None:
        """Count *event*."""
        if isinstance(event, (BlobPlanned, BlobStarted)):
            self._size(event.key, event.size)
        elif isinstance(event, BytesSent):
            self.bytes_done += event.count
            self.sent[event.key] = self.sent.get(event.key, 0) + event.count
        elif isinstance(event, BytesSaved):
            self.saving = event.what
            self.bytes_done += event.count
        elif isinstance(event, BytesRead):
            self.read += event.count
        elif isinstance(event, BlobFinished):
            sent = event.outcome is Outcome.UPLOADED
            self._size(event.key, event.size if sent else 0)
            self.finished.add(event.key)

    def _size(self, key: str, size: int) -> None:
        self.bytes_total += size - self.sizes.get(key, 0)
        self.sizes[key] = size


class PlainProgress:
    """A line once it takes a while, one every *interval* seconds, one at the end."""

    def __init__(
        self,
        say: Say,
        *,
        interval: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._say = say
        self._interval = interval
        self._clock = clock
        self._lock = threading.Lock()  # guards everything below
        self._tally = Tally()
        self._started = clock()
        self._next_line = self._started + min(FIRST_LINE, interval)
        self._last = ""

    def __call__(self, event: Event) -> None:
        """Count *event*; show what must be shown now."""
        with self._lock:
            self._tally.add(event)
            text = message(event)
            if text:
                self._say(text)
        self.tick()

    def tick(self) -> None:
        """Write a line when it is time for one."""
        with self._lock:
            if self._tally.moves and self._clock() >= self._next_line:
                self._line()

    def close(self) -> None:
        """The last line, where there was one before."""
        with self._lock:
            if self._last:
                self._line()

    def _line(self) -> None:
        now = self._clock()
        self._next_line = now + self._interval
        line = " ".join(totals(self._tally, now - self._started))
        if line != self._last:
            self._say(line)
        self._last = line


class QuietProgress:
    """Notices that may need action, and nothing else."""

    def __init__(self, say: Say) -> None:
        self._say = say

    def __call__(self, event: Event) -> None:
        """Write *event* if it is such a notice."""
        if isinstance(event, Notice) and not event.minor:
            self._say(message(event))

    def tick(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""


class Row(NamedTuple):
    """A line of the bars: *done* of *total* bytes (0: not known), *cells* beside it."""

    name: str
    done: int
    total: int
    cells: tuple[str, ...]


class BarProgress:
    """One bar for each blob in flight, and one for all of them, below the messages."""

    def __init__(
        self,
        stream: TextIO,
        say: Say,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.lines = LiveLines(stream, self._render)
        self._say = say
        self._clock = clock
        self._lock = self.lines.lock  # guards everything below
        self._tally = Tally()
        self._started = clock()
        self._last_drawn = 0.0
        self._rows: dict[str, Row] = {}
        self._encoding = getattr(stream, "encoding", None) or "ascii"

    def __call__(self, event: Event) -> None:
        """Count *event* and draw what changed."""
        with self._lock:
            self._tally.add(event)
            self._note(event)
            text = message(event)
            if text:
                self._say(text)
            is_time = self._clock() - self._last_drawn >= REDRAW
            if is_time and self._tally.moves:
                self.tick()

    def tick(self) -> None:
        """Draw the bars again, so that time continues while nothing moves."""
        with self._lock:
            self._last_drawn = self._clock()
            self.lines.draw()

    def close(self) -> None:
        """Take the bars away."""
        self.lines.close()

    def _note(self, event: Event) -> None:
        rows = self._rows
        if isinstance(event, BlobStarted):
            rows.pop(event.key, None)
            if event.size >= SMALLEST:
                sent = self._tally.sent.get(event.key, 0)
                rows[event.key] = Row(event.digest.short, sent, event.size, ())
        elif isinstance(event, BlobFinished):
            rows.pop(event.key, None)
        elif isinstance(event, BytesRead):
            size = self._tally.sizes.get(event.key, 0)
            row = rows.setdefault(event.key, Row(_READING, 0, size, ()))
            rows[event.key] = row._replace(done=row.done + event.count)
        elif isinstance(event, BytesSent) and event.key in rows:
            row = rows[event.key]
            if row.name != _READING:  # it is sent while it is still read
                rows[event.key] = row._replace(done=row.done + event.count)

    def _render(self, columns: int, height: int) -> list[str]:
        tally = self._tally
        if not tally.moves:
            return []
        name, size, *rest = totals(tally, self._clock() - self._started)
        total = Row(name, tally.bytes_done, tally.bytes_total, (size, *rest))
        rows = [
            row._replace(cells=(amount(row.done, row.total),))
            for row in self._rows.values()
        ]
        shown = [*rows[: height - 1], total]
        return table(shown, min(columns, WIDEST), unicode=_has_blocks(self._encoding))


def table(rows: Sequence[Row], columns: int, *, unicode: bool = True) -> list[str]:
    """*rows* in *columns* at most: what does not fit is left out, column by column.

    First the time that is left, then the rate, the bars and the names.
    """
    name = max(len(row.name) for row in rows)
    bar = NARROWEST_BAR + 3 if any(row.total for row in rows) else 0
    most = max(len(row.cells) for row in rows)
    widths = [max(len(_cell(row, n)) for row in rows) for n in range(most)]
    while len(widths) > 1 and name + bar + _width(widths) > columns:
        widths.pop()
    space = columns - name - _width(widths) - 3
    if not bar or space < NARROWEST_BAR:
        space, name = 0, max(0, min(name, columns - _width(widths)))
    return [_line(row, name, space, widths, unicode=unicode)[:columns] for row in rows]


def _line(
    row: Row, name: int, space: int, widths: Sequence[int], *, unicode: bool
) -> str:
    cells = "".join(f" {_cell(row, n).rjust(width)}" for n, width in enumerate(widths))
    bar = f" |{_bar(row, space, unicode=unicode)}|" if space else ""
    line = f"{row.name[:name].ljust(name)}{bar}{cells}"
    return line if name else line.lstrip()


def _width(widths: Sequence[int]) -> int:
    """Columns of cells, each after a space."""
    return sum(widths) + len(widths)


def _cell(row: Row, number: int) -> str:
    return row.cells[number] if number < len(row.cells) else ""


def _bar(row: Row, width: int, *, unicode: bool) -> str:
    """How far *row* is, in *width* columns."""
    from tqdm import tqdm

    if not row.total:
        return " " * width
    return tqdm.format_meter(
        *(max(0, min(row.done, row.total)), row.total, 1.0),
        ncols=width,
        ascii=not unicode,
        bar_format="{bar}",
    )


def _has_blocks(encoding: str) -> bool:
    """True when text in *encoding* can have tqdm's bars."""
    try:
        "▏█".encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def message(event: Event) -> str:
    """What *event* has to say in words, "" for nothing."""
    if isinstance(event, Notice):
        return f"{'warning' if event.warning else 'note'}: {event.text}"
    if isinstance(event, Retrying):
        return f"{event.what}: {event.reason}; trying again in {event.delay:.1f} s"
    return ""


def totals(tally: Tally, seconds: float) -> list[str]:
    """``blob 3/7``, ``412.0/980.0 MiB``, ``23.1 MiB/s``, ``eta 0:25``: the columns."""
    done, total = tally.bytes_done, tally.bytes_total
    name = tally.saving or f"blob {len(tally.finished)}/{len(tally.sizes)}"
    columns = [name, amount(done, total)]
    if tally.read and not done:
        columns.append(f"({tally.read / MIB:.1f} MiB read so far)")
    if seconds <= 0 or not done:
        return columns
    rate = done / seconds
    columns.append(f"{rate / MIB:.1f} MiB/s")
    if total > done:
        columns.append(f"eta {clock_time((total - done) / rate)}")
    return columns


def amount(done: int, total: int) -> str:
    """``412.0/980.0 MiB``; ``412.0 MiB`` of nobody knows how much."""
    of = f"/{total / MIB:.1f}" if total else ""
    return f"{done / MIB:.1f}{of} MiB"


def clock_time(seconds: float) -> str:
    """``1:02:03`` or ``2:03``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
