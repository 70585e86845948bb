"""Processes and pipes: read what may stall, end what was started, raise limits."""

from __future__ import annotations

import contextlib
import functools
import os
import selectors
import signal
import sys
from typing import TYPE_CHECKING, Callable

from .streams import RawReader

if TYPE_CHECKING:
    import subprocess

    from _typeshed import WriteableBuffer


CAN_POLL_PIPES = os.name == "posix"


class PipeReader(RawReader):
    """What comes out of the pipe *descriptor*; closing it calls *on_close*.

    While it waits it looks at *wake*, a descriptor that becomes readable when it shall
    stop; *check* then raises. Where pipes cannot be polled (Windows), it waits for a
    stalled pipe in any case.
    """

    def __init__(
        self,
        descriptor: int,
        *,
        wake: int,
        check: Callable[[], None],
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._on_close = on_close
        self._wake = wake
        self._check = check

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill *buffer* with what there is; 0 at the end. Raises what *check* does."""
        self._check()
        if CAN_POLL_PIPES:
            self._wait()
        view = memoryview(buffer).cast("B")
        data = os.read(self._descriptor, len(view))
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Stop reading, and call *on_close*."""
        if not self.closed:
            super().close()
            self._on_close()

    def _wait(self) -> None:
        with selectors.DefaultSelector() as selector:
            try:
                selector.register(self._descriptor, selectors.EVENT_READ)
            except PermissionError:  # a file on disk cannot be polled, and never waits
                return
            selector.register(self._wake, selectors.EVENT_READ)
            selector.select()
        self._check()


def ending_signals() -> list[signal.Signals]:
    """The signals that end a run in order: SIGINT, SIGTERM, and SIGHUP of a terminal.

    SIGHUP says that a terminal or an SSH connection is gone; ``nohup`` ignores it.
    """
    signals = [signal.SIGINT, signal.SIGTERM]
    hangup = getattr(signal, "SIGHUP", None)  # POSIX
    if hangup is not None and signal.getsignal(hangup) != signal.SIG_IGN:
        signals.append(hangup)
    return signals


def is_hangup(number: int) -> bool:
    """True for SIGHUP, which a shell and the kernel both send for one lost terminal."""
    return number == getattr(signal, "SIGHUP", None)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill *process*, and what it started if it leads a session of its own."""
    if sys.platform != "win32":
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()


_M_ARENA_MAX, _M_TRIM_THRESHOLD = -8, -1  # mallopt(3), of glibc alone
_TRIM = 1024 * 1024


def share_arenas() -> None:
    """Under ``ulimit -v``, have all threads share one arena of malloc.

    Each would take 64 MiB of the address space for its own: of 160 MiB nothing is left
    for the stack of a third thread then.
    """
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import resource  # POSIX

        if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
            _tell_malloc(_M_ARENA_MAX, 1)


@functools.cache  # once is enough
def give_back_memory() -> None:
    """Have malloc give large blocks back to the system as soon as they are free.

    By itself it keeps them once it has seen one, in each thread its own: what threads
    make of blocks that do not shrink took 14 MiB more by that.
    """
    with contextlib.suppress(ImportError, OSError, AttributeError):
        _tell_malloc(_M_TRIM_THRESHOLD, _TRIM)


def _tell_malloc(parameter: int, value: int) -> None:
    import ctypes  # 5 ms, for the few that need it

    ctypes.CDLL(None).mallopt(parameter, value)


def raise_file_limit() -> int | None:
    """Let this process open as many files as it may; how many, None for any number."""
    try:
        import resource  # POSIX
    except ImportError:
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):  # macOS: less than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft
