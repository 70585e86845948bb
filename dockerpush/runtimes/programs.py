"""A program that is read or fed piece by piece, and whose failure is never missed.

What it writes is read while its complaints are drained beside it, so that neither pipe
fills up and stalls it; a cancellation ends the wait at once. However the reading ends,
the program is ended and reaped with it, and an end of its output counts as one only
when its exit code says so.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import selectors
import subprocess
import tempfile
from pathlib import Path
from typing import IO, Any, Callable, Sequence

from ..errors import PusherError, reason_of
from ..expressions import expression
from ..settings.keys import without_own
from ..system.cancellation import Cancellation
from ..system.processes import CAN_POLL_PIPES
from ..system.streams import RawReader

PIECE = 1024 * 1024
"""Bytes that are read at once."""

_COMPLAINTS_KEPT = 8 * 1024
_PATIENCE = 1.5  # seconds between asking a program to end and killing it
_STEP = 0.05
_COMPLAINT = expression(r"error|fatal?\b|fata\[", re.I)
UNPRINTABLE = expression(r"[\x00-\x1f\x7f-\x9f]+")


class ProgramOutput(RawReader):
    """What a program writes, piece by piece; closing it ends the program.

    Only a program that ended well has an end of output: otherwise reading raises what
    was made for that, see `start`. Raises Cancelled instead of waiting on.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        complaints: IO[bytes] | None,
        failure: Callable[[int, str], PusherError],
        cancellation: Cancellation,
    ) -> None:
        """*complaints* is the file that stderr goes to; None when it is a pipe."""
        assert process.stdout is not None
        self._process = process
        self._output = process.stdout
        self._complaints = complaints or process.stderr
        self._failure = failure
        self._cancellation = cancellation
        self._said = b""
        self._ended = False
        self._selector = None if complaints else selectors.PollSelector()
        if self._selector is not None:
            for file in (self._output, self._complaints, cancellation):
                assert file is not None
                self._selector.register(file, selectors.EVENT_READ)

    @classmethod
    def start(
        cls,
        command: Sequence[str],
        failure: Callable[[int, str], PusherError],
        *,
        cancellation: Cancellation,
        polled: bool = CAN_POLL_PIPES,
    ) -> ProgramOutput:
        """Start *command*; *failure* makes an error of its exit code and last words.

        Without *polled*, as on Windows where pipes cannot be polled, a cancellation is
        seen between two pieces. Raises PusherError when it cannot be started.
        """
        with contextlib.ExitStack() as unless_started:
            complaints: IO[bytes] | None = None
            if not polled:
                complaints = unless_started.enter_context(tempfile.TemporaryFile())
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=complaints or subprocess.PIPE,
                    env=without_own(os.environ),
                    bufsize=0,
                )
            except OSError as error:
                raise PusherError(
                    f"cannot run {command[0]}: {reason_of(error)}"
                ) from error
            unless_started.pop_all()
        return cls(process, complaints, failure, cancellation)

    def readinto(self, buffer: Any) -> int:
        """Fill some of *buffer*; 0 at the end of what a successful program wrote."""
        if self._ended:
            return 0
        while self._output not in self._ready(None):
            pass
        count = self._output.readinto(buffer)  # type: ignore[attr-defined]
        if not count:
            self._end()
        return int(count)

    def finish(self) -> None:
        """Read on to the end and drop it; raises as reading does.

        What was read counts only after this: the program may still fail.
        """
        buffer = bytearray(64 * 1024)
        while self.readinto(buffer):
            pass

    def close(self) -> None:
        """End the program, gently first, and give everything back."""
        if self.closed:
            return
        super().close()
        _end(self._process)
        for file in (self._output, self._complaints, self._selector):
            if file is not None:
                file.close()

    def _ready(self, timeout: float | None) -> list[Any]:
        """What can be read without waiting, complaints taken care of."""
        self._cancellation.check()
        if self._selector is None:
            return [self._output]
        ready = [key.fileobj for key, _ in self._selector.select(timeout)]
        self._cancellation.check()
        if self._complaints in ready:
            self._listen(self._selector)
        return ready

    def _listen(self, selector: selectors.BaseSelector) -> None:
        assert self._complaints is not None
        said = os.read(self._complaints.fileno(), PIECE)
        self._said = (self._said + said)[-_COMPLAINTS_KEPT:]
        if not said:
            selector.unregister(self._complaints)

    def _end(self) -> None:
        """The output has ended: wait for the program, and raise if it failed."""
        if self._selector is not None:
            self._selector.unregister(self._output)
        while self._process.poll() is None:
            self._ready(_STEP)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_STEP)
        self._ended = True
        if self._process.returncode:
            raise self._failure(self._process.returncode, self._stderr_tail())

    def _stderr_tail(self) -> str:
        if self._selector is None:
            assert self._complaints is not None
            self._complaints.seek(0)
            self._said = self._complaints.read()[-_COMPLAINTS_KEPT:]
        else:
            while self._complaints in self._ready(0):
                pass
        return _stderr_tail(self._said)


class ProgramInput(io.RawIOBase):
    """What a program reads, piece by piece; closing it ends the program.

    `finish` says that this was all. Raises Cancelled instead of waiting on, and what
    was made for a failure of the program as soon as it shows.
    """

    def __init__(
        self,
        command: Sequence[str],
        failure: Callable[[int, str], PusherError],
        *,
        cancellation: Cancellation,
        polled: bool = CAN_POLL_PIPES,
    ) -> None:
        """Start *command*, as `ProgramOutput.start` does; what it prints is kept."""
        self._failure = failure
        self._cancellation = cancellation
        self._selector: selectors.BaseSelector | None = None
        self._stack = contextlib.ExitStack()
        enter = self._stack.enter_context
        try:
            self._printed = enter(tempfile.TemporaryFile())  # noqa: SIM115
            self._complaints = enter(tempfile.TemporaryFile())  # noqa: SIM115
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=self._printed,
                stderr=self._complaints,
                env={**without_own(os.environ), "TMPDIR": enter(_own_directory())},
                bufsize=0,
            )
        except OSError as error:
            self._stack.close()
            raise PusherError(f"cannot run {command[0]}: {reason_of(error)}") from error
        assert self._process.stdin is not None
        self._input = self._process.stdin
        if polled:
            self._selector = self._stack.enter_context(selectors.PollSelector())
            os.set_blocking(self._input.fileno(), False)
            self._selector.register(self._input, selectors.EVENT_WRITE)
            self._selector.register(cancellation, selectors.EVENT_READ)

    def writable(self) -> bool:
        """True, as of every writer."""
        return True

    def write(self, data: Any) -> int:
        """Send all of *data* to the program."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        while rest:
            self._cancellation.check()
            if self._selector is not None:
                self._selector.select()
                self._cancellation.check()
            try:
                rest = rest[os.write(self._input.fileno(), rest[:PIECE]) :]
            except BlockingIOError:
                continue
            except BrokenPipeError as error:
                raise self._ended() from error
        return size

    def finish(self) -> str:
        """End the input and wait for the program; what it printed."""
        with contextlib.suppress(BrokenPipeError):
            self._input.close()
        code = self._wait()
        if code:
            raise self._failure(code, _stderr_tail(_kept(self._complaints)))
        return _kept(self._printed).decode(errors="replace")

    def close(self) -> None:
        """End the program, gently first, and give everything back."""
        if self.closed:
            return
        super().close()
        _end(self._process)
        with contextlib.suppress(OSError):
            self._input.close()
        self._stack.close()

    def _ended(self) -> PusherError:
        """The program reads no more: why."""
        code = self._wait()
        said = _stderr_tail(_kept(self._complaints))
        return self._failure(code, said if code else "it did not read to the end")

    def _wait(self) -> int:
        while self._process.poll() is None:
            self._cancellation.check()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_STEP)
        return self._process.returncode


def _own_directory() -> tempfile.TemporaryDirectory[str]:
    """Where podman puts a copy of what it reads, which it forgets when it is ended."""
    usual = "/var/tmp" if Path("/var/tmp").is_dir() else None
    place = os.environ.get("TMPDIR") or usual
    return tempfile.TemporaryDirectory(prefix="dockerpush-", dir=place)


def _kept(file: IO[bytes]) -> bytes:
    """The end of what a program wrote to *file*."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - _COMPLAINTS_KEPT))
    return file.read(_COMPLAINTS_KEPT)


def _stderr_tail(said: bytes) -> str:
    text = said.decode(errors="replace")
    lines = [UNPRINTABLE.sub(" ", line).strip() for line in text.splitlines()]
    lines = [line for line in lines if line]
    errors = [line for line in lines if _COMPLAINT.search(line)]
    return (errors or lines or ["it gave no reason"])[-1][:300]


def _end(process: subprocess.Popen[bytes]) -> None:
    """End *process*, gently first."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE)
    if process.poll() is None:
        process.kill()
        process.wait()
