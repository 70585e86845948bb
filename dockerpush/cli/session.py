"""What one run of the command shares: cancellation, signals, progress, logging.

The first SIGINT, SIGTERM or SIGHUP cancels: sockets are shut, threads join, temp files
go, and the process then ends by that signal, as a shell expects. Whatever still hangs
after GRACE seconds (a name look-up cannot be interrupted) ends with the process. A
second signal ends at once, but not SIGHUP: a lost terminal may send it twice.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from contextlib import ExitStack
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Union

from ..events import Event
from ..progress import BarProgress, PlainProgress, QuietProgress
from ..registry.debug import uploads_log
from ..settings.keys import is_switched_on
from ..system.cancellation import Cancellation
from ..system.processes import ending_signals, is_hangup, share_arenas
from ..system.terminal import can_redraw
from ..system.workers import ticker
from . import console
from .console import Display

if TYPE_CHECKING:
    from ..settings.config import Settings
    from ..system.rate import RateLimiter

GRACE = 2.5
"""Seconds that threads have to end after the first signal."""

NOTHING = logging.CRITICAL + 1
"""The level that no line of the log has."""

Progress = Union[BarProgress, PlainProgress, QuietProgress]

AGAIN = "run the same command again to resume"
FROM_THE_START = "run the same command again, which starts over"


class Session:
    """One run of the command, as a context manager."""

    def __init__(self, display: Display) -> None:
        self.display = display
        self.cancellation = Cancellation()
        self.signal: signal.Signals | None = None
        self._resume = AGAIN
        self._progress: Progress | None = None
        self._limits: dict[str, RateLimiter] = {}
        self._cleanup = ExitStack()
        self._deadline = ExitStack()

    def __enter__(self) -> Session:
        share_arenas()
        _configure_logging(self.display)
        if threading.current_thread() is threading.main_thread():
            for number in ending_signals():
                signal.signal(number, self._interrupt)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end_progress()
        self._deadline.close()
        self.cancellation.close()

    def on_event(self, event: Event) -> None:
        """The listener that draws progress; it starts with the first event."""
        if self._progress is None:
            self._progress = progress = _progress_for(self.display)
            if isinstance(progress, BarProgress):
                console.write_above(progress.lines)
            self._cleanup.enter_context(ticker(1.0, self._progress.tick))
            self._cleanup.callback(self._progress.close)
        self._progress(event)

    def resume_with(self, command: str) -> None:
        """Say *command* when the run ends early: an answer at a prompt is in it."""
        self._resume = f"to resume: {command}"

    def starts_over(self) -> None:
        """Say so when the run ends early: its file is written as a whole, or not."""
        self._resume = FROM_THE_START

    def end_at(self, when: str) -> None:
        """Stop in an orderly way at *when* (`parse_deadline`). Raises UsageError."""
        from datetime import datetime

        from ..settings.quantities import parse_deadline

        def stop() -> None:
            self.cancellation.cancel(f"stopped at the deadline {when}; {self._resume}")

        seconds = parse_deadline(when, datetime.now())
        self._deadline.enter_context(ticker(seconds, stop))

    def end_progress(self) -> None:
        """Take the bars away, so that other lines can follow."""
        self._cleanup.close()
        self._progress = None

    def rate(self, settings: Settings) -> RateLimiter | None:
        """The limit that this run's connections share, sent and received together.

        One that the configuration gives to a registry is for that registry alone.
        """
        from ..system.rate import RateLimiter

        limit = settings.limit_rate
        if limit is None:
            return None
        source = settings.sources["limit_rate"]
        return self._limits.setdefault(source, RateLimiter(limit))

    def wait_for_signal(self) -> None:
        """Return once SIGINT or SIGTERM has come, and let it count as a request."""
        while self.signal is None:
            time.sleep(0.1)  # no lock that a signal handler could find taken
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)

    def die_by_signal(self) -> None:
        """End the process by the signal that was caught. Does not return."""
        assert self.signal is not None
        if isinstance(self._progress, BarProgress):
            self._progress.close()
        console.error_line(self._interrupted)
        sys.stdout.flush()
        signal.signal(self.signal, signal.SIG_DFL)
        os.kill(os.getpid(), self.signal)

    @property
    def _interrupted(self) -> str:
        return f"interrupted; {self._resume}"

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            if is_hangup(number):
                return
            os._exit(128 + number)
        self.signal = signal.Signals(number)
        if hasattr(signal, "setitimer"):
            signal.signal(signal.SIGALRM, lambda *_: self.die_by_signal())
            signal.setitimer(signal.ITIMER_REAL, GRACE)
        self.cancellation.cancel(self._interrupted)


def _progress_for(display: Display) -> Progress:
    if display.quiet or display.progress == "none":
        return QuietProgress(console.say)
    if display.progress == "tty" or (
        display.progress == "auto" and can_redraw(sys.stderr)
    ):
        return BarProgress(sys.stderr, console.say)
    return PlainProgress(console.say, interval=display.interval)


def _configure_logging(display: Display) -> None:
    """INFO with -v, DEBUG with --debug or OCI_DEBUG; secrets are redacted below.

    OCI_DEBUG_UPLOAD is DEBUG for what happens to upload sessions, beside any of these.
    """
    debug = display.debug or is_switched_on(os.environ.get("OCI_DEBUG"))
    uploads = is_switched_on(os.environ.get("OCI_DEBUG_UPLOAD"))
    level = logging.DEBUG if debug else logging.INFO if display.verbose else NOTHING
    package = logging.getLogger("dockerpush")
    if level == NOTHING and not uploads:
        package.addHandler(logging.NullHandler())
        package.propagate = False
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    package.addHandler(handler)
    package.setLevel(level)
    if uploads:
        uploads_log.setLevel(logging.DEBUG)
