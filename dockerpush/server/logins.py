"""Who may come in: slow checks of passwords, a few at a time, and what they found.

Strategy. A check is made to be slow, so checks are what an attacker wants of us: at
most `CHECKS` run at once, and a limited number waits. Among those that wait, addresses
without a failure come first, then the newest and the oldest in turn; so a right login
overtakes a crowd of guesses that came just before it, or just after. What a check found
is remembered. A wrong login gets its answer later each time, counted by address and by
user; a right one never waits for that, so who shares an address with a guesser is not
locked out.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import random
import threading
import time
from typing import Callable, Mapping

from .messages import TOOMANYREQUESTS, Disconnected, ProtocolError
from .slots import client_of

Check = Callable[[bytes], bool]

CHECKS = 2
"""Checks that run at one time."""

QUEUE = 64
"""Checks that wait; beyond it the last in line is told to come back."""

PATIENCE = 10.0
"""Seconds that a login waits for its check."""

FAILURE_MEMORY = 60.0
"""Seconds for which a failure counts, and a wrong password is known to be wrong."""

FREE_FAILURES = 3
"""Wrong logins within that time that are answered at once."""

LONGEST_DELAY = 8.0
"""Seconds that the answer to a wrong login waits at most."""

MOST_DELAYED = 128
"""Answers that wait at one time; further ones do not."""

REMEMBERED = 4096
"""Failures that are remembered, of each kind."""


class Memory:
    """Counts of failures that end some seconds after the last one."""

    def __init__(self) -> None:
        self._found: dict[bytes | str, tuple[float, int]] = {}

    def add(self, key: bytes | str) -> None:
        """One more failure of *key*."""
        count = self.count(key)
        self._found.pop(key, None)
        if len(self._found) >= REMEMBERED:
            self._found.pop(next(iter(self._found)))
        self._found[key] = (time.monotonic() + FAILURE_MEMORY, count + 1)

    def count(self, key: bytes | str) -> int:
        """How many there were."""
        until, count = self._found.get(key, (0.0, 0))
        return count if time.monotonic() < until else 0


class _Login:
    """One check that is waited for, by one request or by several."""

    def __init__(self, user: str, proof: bytes, address: str, order: int) -> None:
        self.user = user
        self.proof = proof
        self.address = address
        self.order = order
        self.accepted: bool | None = None
        self.done = threading.Event()


class PasswordFile:
    """At least one user, and how to check the password of each."""

    def __init__(self, checks: Mapping[str, Check]) -> None:
        self._checks = dict(checks)
        self._decoys = tuple(self._checks.values())
        self._key = os.urandom(32)
        self._known: dict[str, bytes] = {}
        self._failed, self._failures = Memory(), Memory()
        self._logins: dict[bytes, _Login] = {}
        self._waiting: dict[_Login, bytes] = {}  # with the password
        self._newest = False
        self._running = self._delayed = self._count = 0
        self.rejected = 0
        self._stopping = threading.Event()
        self._lock = threading.Lock()  # guards all of the above
        self._settled = threading.Condition(self._lock)

    def accepts(self, authorization: str | None, address: str = "") -> bool:
        """Whether an Authorization header has a known user and the right password.

        An unknown user takes the time of one of the known. Raises ProtocolError
        (429) when too many wait, Disconnected when the server stops.
        """
        credentials = parse_basic(authorization)
        if credentials is None:
            return False
        user, password = credentials
        proof = self._proof(user, password)
        if self._is_known(user, proof):
            return True
        keys = (f"address {client_of(address)}", f"user {user[:256]}")
        accepted = self._checked(user, password, proof, keys)
        if not accepted:
            self._delay(keys)
        return accepted

    def close(self) -> None:
        """End every wait: the server stops."""
        with self._lock:
            self._stopping.set()
            self._waiting.clear()
            for login in self._logins.values():
                login.done.set()

    def settle(self, seconds: float) -> bool:
        """Wait for the checks that run; false when one takes longer than that."""
        with self._settled:
            return self._settled.wait_for(lambda: not self._running, seconds)

    def _proof(self, user: str, password: bytes) -> bytes:
        text = user.encode("utf-8", "surrogatepass") + b"\0" + password
        return hmac.new(self._key, text, "sha256").digest()

    def _is_known(self, user: str, proof: bytes) -> bool:
        known = self._known.get(user)
        return known is not None and hmac.compare_digest(known, proof)

    def _checked(
        self, user: str, password: bytes, proof: bytes, keys: tuple[str, str]
    ) -> bool:
        with self._lock:
            if self._is_known(user, proof):  # by now
                return True
            if self._failed.count(proof):
                self.rejected += 1
                return False
            login = self._logins.get(proof)
            if login is None and not self._stopping.is_set():
                self._count += 1
                login = _Login(user, proof, keys[0], self._count)
                self._queue(login, password)
        if login is not None:
            login.done.wait(PATIENCE)
        if login is None or self._stopping.is_set():
            raise Disconnected("the server stops")
        if login.accepted is None:
            raise _too_many()
        if not login.accepted:
            with self._lock:
                self.rejected += 1
                for key in keys:
                    self._failures.add(key)
        return login.accepted

    def _queue(self, login: _Login, password: bytes) -> None:
        self._logins[login.proof] = login
        self._waiting[login] = password
        self._start_next()
        if len(self._waiting) > QUEUE:
            last = min(self._waiting, key=self._precedence)
            del self._waiting[last]
            self._forget(last)

    def _start_next(self) -> None:
        if self._waiting and self._running < CHECKS and not self._stopping.is_set():
            self._newest = not self._newest
            login = max(self._waiting, key=self._precedence)
            arguments = (login, self._waiting.pop(login))
            self._running += 1
            threading.Thread(
                target=self._run, args=arguments, name="serve-login", daemon=True
            ).start()

    def _precedence(self, login: _Login) -> tuple[bool, int]:
        order = login.order if self._newest else -login.order
        return self._failures.count(login.address) <= FREE_FAILURES, order

    def _run(self, login: _Login, password: bytes) -> None:
        """In a thread that nobody waits for: a check cannot be interrupted."""
        check = self._checks.get(login.user)
        number = self._proof(login.user, b"")[0]  # the same for a name each time
        decoy = self._decoys[number % len(self._decoys)]
        try:
            login.accepted = (check or decoy)(password) and check is not None
        finally:
            with self._lock:
                self._running -= 1
                if login.accepted:
                    self._known[login.user] = login.proof
                elif login.accepted is not None:
                    self._failed.add(login.proof)
                self._forget(login)
                self._start_next()
                self._settled.notify_all()

    def _forget(self, login: _Login) -> None:
        self._logins.pop(login.proof, None)
        login.done.set()

    def _delay(self, keys: tuple[str, str]) -> None:
        """Keep a wrong answer back, unless too many are kept back."""
        with self._lock:
            failures = max(self._failures.count(key) for key in keys)
            if failures <= FREE_FAILURES or self._delayed >= MOST_DELAYED:
                return
            self._delayed += 1
        try:
            steps = min(failures - FREE_FAILURES, 6)
            self._stopping.wait(
                LONGEST_DELAY / 2 ** (6 - steps) * random.uniform(0.5, 1)
            )
        finally:
            with self._lock:
                self._delayed -= 1


def _too_many() -> ProtocolError:
    message = "too many logins at once: try again in a moment"
    return ProtocolError(429, TOOMANYREQUESTS, message, headers={"Retry-After": "1"})


def parse_basic(authorization: str | None) -> tuple[str, bytes] | None:
    """User and password of an Authorization header (RFC 7617); None for any other."""
    scheme, _, token = (authorization or "").strip().partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(token, validate=True).partition(b":")
        return (user.decode(), password) if colon else None
    except (binascii.Error, ValueError):
        return None
