"""Cancellation: the one object that can stop everything that waits.

It is passed to whatever may block. Loops look at it between pieces with `check`, sleep
through `wait`, register sockets with `add_socket`, and poll `fileno` beside a pipe.
`cancel` sets the flag, shuts the sockets down and makes the descriptor readable, so
that no thread continues waiting; it takes no lock, so a signal handler may call it. A
`child` ends with its parent, and can end alone: one image of many that fails stops only
itself.
"""

from __future__ import annotations

import contextlib
import selectors
import socket

from ..errors import Cancelled
from .streams import Closeable


class Cancellation(Closeable):
    """A flag that is raised once, and wakes everything that waits when it is."""

    def __init__(self) -> None:
        self._cancelled = False
        self._sockets: set[socket.socket] = set()
        self._children: set[Cancellation] = set()
        self._parent: Cancellation | None = None
        self._read_end, self._write_end = socket.socketpair()  # Windows polls these
        self._write_end.settimeout(0)
        self.reason = ""

    def close(self) -> None:
        """Give the two descriptors back; nobody may wait on this object any more."""
        if self._parent is not None:
            self._parent._children.discard(self)
        self._read_end.close()
        self._write_end.close()

    def child(self) -> Cancellation:
        """A new one that is cancelled with this one; its owner closes it."""
        child = Cancellation()
        child._parent = self
        self._children.add(child)
        if self.cancelled:
            child.cancel(self.reason)
        return child

    @property
    def cancelled(self) -> bool:
        """True once `cancel` was called."""
        return self._cancelled

    def cancel(self, reason: str = "cancelled") -> None:
        """Stop everything that was given this object; the first *reason* is kept."""
        if self._cancelled:
            return
        self.reason = reason
        self._cancelled = True
        with contextlib.suppress(OSError):
            self._write_end.send(b"x")
        for sock in tuple(self._sockets):
            _shut(sock)
        for child in tuple(self._children):
            child.cancel(reason)

    def check(self) -> None:
        """Raises Cancelled once `cancel` was called."""
        if self._cancelled:
            raise Cancelled(self.reason)

    def wait(self, seconds: float) -> None:
        """Sleep for *seconds*; raises Cancelled at once when cancelled."""
        self.check()
        with selectors.DefaultSelector() as selector:
            selector.register(self._read_end, selectors.EVENT_READ)
            selector.select(max(seconds, 0))
        self.check()

    def fileno(self) -> int:
        """A descriptor that polls as readable once cancelled."""
        return self._read_end.fileno()

    def add_socket(self, sock: socket.socket) -> None:
        """Shut *sock* down when cancelled, until it is taken out again."""
        self._sockets.add(sock)
        if self._cancelled:
            _shut(sock)

    def remove_socket(self, sock: socket.socket) -> None:
        """Forget *sock*, which its owner is about to close."""
        self._sockets.discard(sock)


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
