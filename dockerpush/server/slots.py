"""The connections that may be open at one time, and which of them goes for another.

Strategy. Nobody is limited while there is room. When every slot is taken, the oldest
connection that waits for a request goes. Addresses compete only then: each has an equal
share, what lies beyond a share goes first, and who has used up the own share takes
nothing from others.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Callable, Iterable

if TYPE_CHECKING:
    import ssl


class Slot:
    """One open connection. *idle_since* is None while a request is served."""

    def __init__(self, connection: socket.socket, client: str) -> None:
        self.connection = connection
        self.client = client
        self.since = time.monotonic()
        self.idle_since: float | None = self.since

    def begin_wait(self) -> None:
        """The connection waits for a request from now on."""
        self.idle_since = time.monotonic()

    def begin_request(self) -> None:
        """The head of a request is there."""
        self.idle_since = None

    def cut(self) -> None:
        """Shut the connection down, below TLS; its thread notices."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self.connection, socket.SHUT_RDWR)


class Slots:
    """At most *limit* connections."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: set[Slot] = set()
        self._closed = False
        self._lock = threading.Lock()  # guards _open and _closed

    def __len__(self) -> int:
        return len(self._open)

    def take(self, connection: socket.socket, address: str) -> Slot | None:
        """A slot, if need be that of another connection; None when none is free."""
        slot = Slot(connection, client_of(address))
        with self._lock:
            if self._closed:
                return None
            if len(self._open) >= self._limit:
                victim = choose_victim(self._open, slot.client, self._limit)
                if victim is None:
                    return None
                self._open.discard(victim)
                victim.cut()
            self._open.add(slot)
            return slot

    def secure(
        self, slot: Slot, wrap: Callable[[socket.socket], ssl.SSLSocket]
    ) -> ssl.SSLSocket:
        """Let *wrap* put TLS around the connection, which can be cut all the time.

        Raises OSError when it was cut before.
        """
        with self._lock:
            if slot not in self._open:
                raise OSError("the connection was cut")
            secured = slot.connection = wrap(slot.connection)
            return secured

    def release(self, slot: Slot) -> None:
        """The connection has ended."""
        with self._lock:
            self._open.discard(slot)

    def close(self) -> None:
        """Cut every connection, and take no further ones."""
        with self._lock:
            self._closed = True
            for slot in self._open:
                slot.cut()


def choose_victim(slots: Iterable[Slot], client: str, limit: int) -> Slot | None:
    """Which of *slots*, all of which are taken, goes for a connection of *client*."""
    slots = tuple(slots)
    counts = Counter(slot.client for slot in slots)
    share = max(limit // len({*counts, client}), 1)
    if counts[client] >= share and len(counts) > 1:
        slots = tuple(slot for slot in slots if slot.client == client)
    greedy = [slot for slot in slots if counts[slot.client] > share]
    for group in (greedy, slots):
        idle = [slot for slot in group if slot.idle_since is not None]
        if idle:
            return min(idle, key=lambda slot: slot.idle_since or 0.0)
    others = [slot for slot in greedy if slot.client != client]
    return max(others, key=lambda slot: slot.since, default=None)


def client_of(address: str) -> str:
    """Whom *address* stands for: of IPv6 the network of a site, which has 2^64."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if found.version == 4:
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    if found.is_loopback:
        return str(found)
    return str(ipaddress.ip_network((found, 64), strict=False))


def is_loopback(address: str) -> bool:
    """True for an address of this machine alone."""
    try:
        return ipaddress.ip_address(client_of(address).partition("/")[0]).is_loopback
    except ValueError:
        return address == "localhost"
