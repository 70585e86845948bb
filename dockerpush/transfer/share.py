"""What transfers at the same time share: permits, and what arrived already."""

from __future__ import annotations

import threading
from contextlib import ExitStack, contextmanager
from typing import Iterator, Mapping

from ..oci import Digest
from ..system.cancellation import Cancellation
from ..system.workers import STEP


class Share:
    """What copies at the same time share: permits for each registry, known arrivals.

    *permits* is how much may go on at a time at each registry (``host[:port]``); one
    that is not named has no bound. Threads share one Share.
    """

    def __init__(self, permits: Mapping[str, int] | None = None) -> None:
        self._permits = {
            registry: threading.Semaphore(count)
            for registry, count in (permits or {}).items()
        }
        self._lock = threading.Lock()  # guards _blobs
        self._blobs: dict[tuple[str, Digest], tuple[threading.Lock, list[str]]] = {}

    @contextmanager
    def permit(self, cancellation: Cancellation, *registries: str) -> Iterator[None]:
        """Be one of those who may talk to *registries*; waits for its turn.

        Raises Cancelled. Not to be asked for by who has one already.
        """
        with ExitStack() as stack:
            for registry in sorted(set(registries) & self._permits.keys()):
                permit = self._permits[registry]
                _acquire(permit, cancellation)
                stack.callback(permit.release)
            yield

    @contextmanager
    def blob(
        self, cancellation: Cancellation, registry: str, digest: Digest
    ) -> Iterator[list[str]]:
        """Be the only one who brings this blob to *registry*.

        Gives the repositories that have it by now, to be added to. Raises Cancelled.
        """
        with self._lock:
            lock, holders = self._blobs.setdefault(
                (registry, digest), (threading.Lock(), [])
            )
        _acquire(lock, cancellation)
        try:
            yield holders
        finally:
            lock.release()


def _acquire(
    lock: threading.Lock | threading.Semaphore, cancellation: Cancellation
) -> None:
    while not lock.acquire(timeout=STEP):
        cancellation.check()
