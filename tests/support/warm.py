"""Commands out of a Python that has loaded dockerpush already, and forks for each.

Loading is most of what a small command costs, and the same each time. What such a
command gets is its own as ever: arguments, environment, directory, the three streams,
memory, signals and an exit code. This file is also the program that forks.
"""

from __future__ import annotations

import array
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
        if self.returncode is None and select.select([self._socket], [], [], 0)[0]:
            self._end()
        return self.returncode

    def wait(self) -> int | None:
        """The exit code, at the end."""
        if self.returncode is None:
            self._end()
        return self.returncode

    def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def _end(self) -> None:
        self.returncode = int(self._reply.readline())
        self._reply.close()
        self._socket.close()


class WarmPython:
    """The program that forks, for the ``with``."""

    def __init__(self, environment: Mapping[str, str]) -> None:
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
        what = {"words": words, "environment": environment, "directory": directory}
        ours.sendall(json.dumps(what).encode() + b"\n")
        return Forked(["dockerpush", *words], ours)


def main(number: int) -> None:
    """Fork for whoever asks at the socket *number*; run the command in the child."""
    load_everything()
    control = socket.socket(fileno=number)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while asked := receive(control):
        if not os.fork():
            control.close()
            become(keep(asked), asked[:3])
            from dockerpush.__main__ import main as run

            sys.exit(run())
        for one in asked:
            os.close(one)


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


def keep(numbers: Sequence[int]) -> dict[str, Any]:
    """In a child of its own, what is asked for; this process tells how that ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with socket.socket(fileno=numbers[3]) as reply, reply.makefile("rb") as reader:
        what = json.loads(reader.readline())
        child = os.fork()
        if not child:
            return what
        for number in numbers[:3]:
            os.close(number)
        reply.sendall(b"%d\n" % child)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with contextlib.suppress(OSError):
            reply.sendall(b"%d\n" % status)
    os._exit(0)


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
