"""Commands out of a Python that has loaded dockerpush already, and forks for each.

Loading is most of what a small command costs, and the same each time. What such a
command gets is its own as ever: arguments, environment, directory, the three streams,
memory, signals and an exit code. This file is also the program that forks.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import threading
from typing import Any, BinaryIO, Mapping, Sequence, TextIO


class Forked:
    """A command that was forked, with the methods of a Popen that are needed."""

    def __init__(self, args: Sequence[str], reply: socket.socket) -> None:
        self.args = args
        self.returncode: int | None = None
        self._reply = reply.makefile("rb")
        self._socket = reply
        self.pid = int(self._reply.readline())

    def poll(self) -> int | None:
        """The exit code, once there is one."""
        return self.wait(0)

    def wait(self, timeout: float | None = None) -> int | None:
        """The exit code, at the end; None if that has not come after *timeout*."""
        if (
            self.returncode is None
            and select.select([self._socket], [], [], timeout)[0]
        ):
            self.returncode = int(self._reply.readline())
            self._reply.close()
            self._socket.close()
        return self.returncode

    def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


class WarmPython:
    """The program that forks, for the ``with``.

    It starts in *environment*; each command has *more* variables, but for its own ones.
    """

    def __init__(
        self, environment: Mapping[str, str], more: Mapping[str, str] | None = None
    ) -> None:
        self._more = more or {}
        self._control, theirs = socket.socketpair()
        self._lock = threading.Lock()
        with theirs:
            self._child = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )

    def __enter__(self) -> WarmPython:
        return self

    def __exit__(self, *error: object) -> None:
        self._control.close()
        self._child.wait(30)

    def start(
        self,
        words: Sequence[str],
        environment: Mapping[str, str],
        directory: str,
        streams: Sequence[BinaryIO],
    ) -> Forked:
        """``dockerpush`` with *words*; *streams* become stdin, stdout and stderr."""
        ours, theirs = socket.socketpair()
        with theirs:
            numbers = [*(stream.fileno() for stream in streams), theirs.fileno()]
            with self._lock:
                socket.send_fds(self._control, [b"."], numbers)
        what = {
            "words": words,
            "environment": {**self._more, **environment},
            "directory": directory,
        }
        ours.sendall(json.dumps(what).encode() + b"\n")
        return Forked(["dockerpush", *words], ours)


class Children:
    """The commands that run, each with the socket at which its end is told."""

    def __init__(self) -> None:
        self._replies: dict[int, socket.socket] = {}
        self.ended, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        signal.set_wakeup_fd(self._wake)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def fork(self, reply: socket.socket) -> bool:
        """Whether this is the new process, which knows nothing of the others."""
        child = os.fork()
        if child:
            self._replies[child] = reply
            reply.sendall(b"%d\n" % child)
            return False
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number in (self.ended, self._wake):
            os.close(number)
        for one in (reply, *self._replies.values()):
            one.close()
        return True

    def tell(self) -> None:
        """Tell who asked for them about all that have ended."""
        os.read(self.ended, 4096)
        while self._replies:
            child, status = os.waitpid(-1, os.WNOHANG)
            if not child:
                return
            with self._replies.pop(child) as reply, contextlib.suppress(OSError):
                reply.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))


def main(number: int) -> None:
    """Fork for whoever asks at the socket *number*; run the command in the child."""
    codes: list[int] = []
    atexit.register(leave, codes)  # before all others, which makes it the last
    load_everything()
    control, children = socket.socket(fileno=number), Children()
    while True:
        ready, _, _ = select.select([control, children.ended], [], [])
        if children.ended in ready:
            children.tell()
        if control in ready:
            asked = receive(control)
            if not asked:
                return
            reply = socket.socket(fileno=asked.pop())
            with reply.makefile("rb") as file:
                what = json.loads(file.readline())
            if children.fork(reply):
                control.close()
                become(what, asked)
                from dockerpush.__main__ import main as run

                codes.append(run())
                sys.exit(codes[0])
            for one in asked:
                os.close(one)


def leave(codes: Sequence[int]) -> None:
    """End a command without freeing, and so copying, what it shares with others."""
    for code in codes:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def receive(control: socket.socket) -> list[int]:
    """The four descriptors of the next command; none at the end."""
    size = array.array("i").itemsize * 4
    data, messages, _, _ = control.recvmsg(1, socket.CMSG_SPACE(size))
    numbers = array.array("i")
    for _, _, content in messages:
        numbers.frombytes(content)
    return list(numbers) if data else []


def load_everything() -> None:
    """Import each module of dockerpush, and what those need."""
    import dockerpush

    for module in pkgutil.walk_packages(dockerpush.__path__, "dockerpush."):
        with contextlib.suppress(ImportError):
            importlib.import_module(module.name)
    gc.freeze()


def become(what: Mapping[str, Any], numbers: Sequence[int]) -> None:
    """Take on what makes a process: streams, environment, directory and arguments."""
    for number, given in enumerate(numbers):
        os.dup2(given, number)
        os.close(given)
    os.environ.clear()
    os.environ.update(what["environment"])
    os.chdir(what["directory"])
    sys.argv[1:] = what["words"]
    sys.stdin = sys.__stdin__ = stream(0, "r")
    sys.stdout = sys.__stdout__ = stream(1, "w")
    sys.stderr = sys.__stderr__ = stream(2, "w", 1, "backslashreplace")


def stream(
    number: int, mode: str, buffering: int = -1, errors: str = "surrogateescape"
) -> TextIO:
    """As Python opens it at the start where the locale is C.UTF-8."""
    return open(number, mode, buffering, encoding="utf-8", errors=errors, closefd=False)


if __name__ == "__main__":
    main(int(sys.argv[1]))
