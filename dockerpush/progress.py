"""Progress for people: bars on a terminal, plain lines elsewhere.

A listener is called with events from any thread; one lock guards what it counts and
writes. A layer that will be compressed counts with its raw size until its real one is
known, so that the total only ever shrinks.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Callable, TextIO

from .events import (
    BlobFinished,
    BlobPlanned,
    BlobStarted,
    BytesRead,
    BytesSent,
    Event,
    Notice,
    Outcome,
    Retrying,
)

if TYPE_CHECKING:
    from tqdm import tqdm as Bar

MIB = 1024 * 1024


class Tally:
    """How far a run is: blobs and bytes, done and in all.

    Bytes are those that go over the wire: a blob that the registry holds already takes
    its size out of the total.
    """

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        self.finished: set[str] = set()
        self.read = 0
        self.bytes_done = 0
        self.bytes_total = 0

    def add(self, event: Event) -> None:
        """Count *event*."""
        if isinstance(event, (BlobPlanned, BlobStarted)):
            self._size(event.key, event.size)
        elif isinstance(event, BytesSent):
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
    """A line at the start, one every *interval* seconds, one at the end."""

    def __init__(
        self,
        stream: TextIO,
        *,
        interval: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream
        self._interval = interval
        self._clock = clock
        self._lock = threading.Lock()  # guards everything below
        self._tally = Tally()
        self._started = clock()
        self._last_line: float | None = None
        self._said = ""

    def __call__(self, event: Event) -> None:
        """Count *event*; say what must be said now."""
        with self._lock:
            self._tally.add(event)
            text = message(event)
            if text:
                self._write(text)
            if isinstance(event, (BlobStarted, BytesRead)) and not self._said:
                self._line()
        self.tick()

    def tick(self) -> None:
        """Write a line when the last one is *interval* seconds old."""
        with self._lock:
            since = self._started if self._last_line is None else self._last_line
            if self._clock() - since >= self._interval:
                self._line()

    def close(self) -> None:
        """The last line, where there was anything to tell."""
        with self._lock:
            if self._tally.sizes:
                self._line()

    def _line(self) -> None:
        self._last_line = self._clock()
        elapsed = self._last_line - self._started
        line = plain_line(self._tally, elapsed)
        if line != self._said:
            self._write(line)
        self._said = line

    def _write(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()


class QuietProgress:
    """Notices that may need action, and nothing else."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, event: Event) -> None:
        """Write *event* if it is such a notice."""
        if isinstance(event, Notice) and not event.minor:
            self._stream.write(message(event) + "\n")
            self._stream.flush()

    def tick(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""


class BarProgress:
    """One bar for each blob in flight, and one for all of them."""

    def __init__(self, stream: TextIO) -> None:
        from tqdm import tqdm

        # By default tqdm starts a thread of its own and loads multiprocessing.
        tqdm.monitor_interval = 0
        tqdm.set_lock(threading.RLock())
        self._bar = tqdm
        self._stream = stream
        self._lock = threading.Lock()  # guards everything below
        self._tally = Tally()
        self._total = self._open("total", 0)
        self._bars: dict[str, Bar[Any]] = {}

    def __call__(self, event: Event) -> None:
        """Count *event* and draw what changed."""
        with self._lock:
            self._tally.add(event)
            text = message(event)
            if text:
                self._bar.write(text, file=self._stream)
            self._draw(event)

    def tick(self) -> None:
        """Draw the bars again, so that time goes on while nothing moves."""
        with self._lock:
            for bar in (self._total, *self._bars.values()):
                bar.refresh()

    def close(self) -> None:
        """Take the bars away."""
        with self._lock:
            for bar in (*self._bars.values(), self._total):
                bar.close()
            self._bars.clear()

    def _draw(self, event: Event) -> None:
        if isinstance(event, BytesRead):
            self._reading(event)
        elif isinstance(event, BlobStarted):
            self._close(event.key)
            self._bars[event.key] = self._open(event.digest.short, event.size)
        elif isinstance(event, BytesSent) and event.key in self._bars:
            self._bars[event.key].update(event.count)
        elif isinstance(event, BlobFinished):
            self._close(event.key)
        self._total.total = self._tally.bytes_total
        self._total.update(self._tally.bytes_done - self._total.n)

    def _reading(self, event: BytesRead) -> None:
        if event.key not in self._bars:
            size = self._tally.sizes.get(event.key, 0)
            self._bars[event.key] = self._open("compressing", size)
        self._bars[event.key].update(event.count)

    def _close(self, key: str) -> None:
        bar = self._bars.pop(key, None)
        if bar is not None:
            bar.close()

    def _open(self, name: str, size: int) -> Bar[Any]:
        bar: Bar[Any] = self._bar(
            total=size,
            desc=f"{name:12}",
            unit="B",
            unit_scale=True,
            unit_divisor=1024,
            dynamic_ncols=True,
            leave=False,
            file=self._stream,
        )
        return bar


def message(event: Event) -> str:
    """What *event* has to say in words, "" for nothing."""
    if isinstance(event, Notice):
        return f"{'warning' if event.warning else 'note'}: {event.text}"
    if isinstance(event, Retrying):
        return f"{event.what}: {event.reason}; trying again in {event.delay:.1f} s"
    return ""


def plain_line(tally: Tally, seconds: float) -> str:
    """``blob 3/7 412.0/980.0 MiB 23.1 MiB/s eta 0:25``, after *seconds*."""
    done, total = tally.bytes_done, tally.bytes_total
    blobs = f"blob {len(tally.finished)}/{len(tally.sizes)}"
    line = f"{blobs} {done / MIB:.1f}/{total / MIB:.1f} MiB"
    if tally.read and not done:
        line += f" (read {tally.read / MIB:.1f} MiB to compress)"
    if seconds <= 0 or not done:
        return line
    rate = done / seconds
    line += f" {rate / MIB:.1f} MiB/s"
    return line + (f" eta {clock_time((total - done) / rate)}" if total > done else "")


def clock_time(seconds: float) -> str:
    """``1:02:03`` or ``2:03``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
