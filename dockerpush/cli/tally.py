"""Many pieces of work of which some may fail: each is reported, the rest goes on."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Iterator

from ..errors import Cancelled, PusherError, SomeFailed, UsageError
from . import console

if TYPE_CHECKING:
    from .session import Session

_SHOWN = 5


class Tally:
    """Counts *what* is done, as in "2 of 5 pushes failed".

    Work that is alone fails with its own error. *several* says from the start that it
    is not alone.
    """

    def __init__(self, what: str, session: Session, *, several: bool = False) -> None:
        self._what = what
        self._session = session
        self._several = several
        self._total = 0
        self._failed: list[str] = []

    def expect(self, count: int) -> None:
        """*count* pieces of work follow."""
        self._total = count + len(self._failed)
        self._several = self._several or self._total > 1

    @contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        """One piece of work; its error is reported, and raised when it is alone.

        Raises UsageError and Cancelled in any case: these concern the whole run.
        """
        try:
            yield
        except (Cancelled, UsageError):
            raise
        except PusherError as error:
            if not self._several:
                raise
            self.failed(name, str(error))

    def failed(self, name: str, why: str) -> None:
        """Report that *name* failed."""
        self._session.end_progress()
        console.say(f"failed: {name}: {why}")
        self._failed.append(name)

    def finish(self) -> None:
        """Raises SomeFailed when something did."""
        if not self._failed:
            return
        count = len(self._failed)
        names = ", ".join(self._failed[:_SHOWN])
        more = f" and {count - _SHOWN} more" if count > _SHOWN else ""
        raise SomeFailed(f"{count} of {self._total} {self._what} failed: {names}{more}")
