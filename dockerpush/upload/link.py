"""How fast a link is, as the bodies that go over it show."""

from __future__ import annotations

from typing import Callable, Iterable, Iterator

from ..errors import PusherError
from ..registry.connections import Piece

LOOK = 3.0
"""Seconds after which a body tells how fast the link is: the first bytes of it only
fill buffers on the way, and a short one mostly waits."""
GIVE_UP = 15.0
"""Seconds after which a body is not stopped any more: too much of it would go twice."""


class SlowLink(PusherError):
    """The body was stopped: it would take so long that it had better go in parts."""


class TimedBody:
    """*pieces*, and how fast they go, given to *on_rate* as bytes a second.

    *is_too_slow* of that rate stops the body with SlowLink, within GIVE_UP. *clock*
    gives seconds that only grow.
    """

    def __init__(
        self,
        pieces: Iterable[Piece],
        clock: Callable[[], float],
        on_rate: Callable[[float], None],
        is_too_slow: Callable[[float], bool],
    ) -> None:
        self._pieces = pieces
        self._clock = clock
        self._on_rate = on_rate
        self._is_too_slow = is_too_slow

    def __iter__(self) -> Iterator[Piece]:
        started, sent = self._clock(), 0
        for piece in self._pieces:
            yield piece
            sent += len(piece)
            seconds = self._clock() - started
            if seconds >= LOOK:
                rate = sent / seconds
                self._on_rate(rate)
                if seconds < GIVE_UP and self._is_too_slow(rate):
                    raise SlowLink(f"a link of {rate:.0f} bytes a second")
