"""Who may use the registry: users, and how the password of each is checked.

`htpasswd` and `userfile` read the two kinds of file. A line that cannot be used is
refused when the file is read, not when somebody tries to log in.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import threading
from pathlib import Path
from typing import Callable, Mapping

from .protocol_errors import UserFileError, UserNotFound

Check = Callable[[bytes], bool]
CheckOf = Callable[[str], Check]
"""From what stands after a name. Raises UserFileError, which does not quote it."""

_LIMIT = 4 * 1024 * 1024  # bytes of a file that are read


class PasswordFile:
    """At least one user, and how to check the password of each."""

    def __init__(self, checks: Mapping[str, Check]) -> None:
        self._checks = dict(checks)
        self._decoy = next(iter(self._checks.values()))
        self._key = os.urandom(32)
        self._known: dict[str, bytes] = {}
        self._lock = threading.Lock()  # one slow check at a time, paid once a user

    def accepts(self, authorization: str | None) -> bool:
        """Whether an Authorization header has a known user and the right password.

        A wrong password and an unknown user take the same time.
        """
        credentials = parse_basic(authorization)
        if credentials is None:
            return False
        user, password = credentials
        proof = hmac.new(self._key, password, "sha256").digest()
        if self._is_known(user, proof):
            return True
        check = self._checks.get(user)
        with self._lock:
            if self._is_known(user, proof):  # by now
                return True
            accepted = (check or self._decoy)(password) and check is not None
            if accepted:
                self._known[user] = proof
            return accepted

    def _is_known(self, user: str, proof: bytes) -> bool:
        known = self._known.get(user)
        return known is not None and hmac.compare_digest(known, proof)


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


def read_lines(path: Path) -> list[str]:
    """The lines of a file of users. Raises UserFileError, UserNotFound."""
    try:
        with path.open("rb") as file:
            raw = file.read(_LIMIT + 1)
        text = raw.decode()
    except FileNotFoundError as error:
        raise UserNotFound(
            f"there is no password file {path}; to write one: "
            "dockerpush serve --add-user NAME --users FILE"
        ) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not a text in UTF-8"
        raise UserFileError(
            f"cannot read the password file {path}: {reason}"
        ) from error
    if len(raw) > _LIMIT:
        raise UserFileError(f"{path} is larger than {_LIMIT} bytes: no password file")
    return text.split("\n")


def parse_lines(lines: list[str], where: str, check_of: CheckOf) -> dict[str, Check]:
    """User → check; ``#`` starts a comment.

    Raises UserFileError, which names the line, and never what stands after the name.
    """
    checks: dict[str, Check] = {}
    for number, line in enumerate(lines, 1):
        user, colon, stored = line.strip().partition(":")
        if is_comment(line):
            continue
        what = f"{where}, line {number}" + (f" ({user[:40]!r})" if colon else "")
        if not user:
            raise UserFileError(f"{what}: no name before the colon; remove this line")
        if user in checks:
            raise UserFileError(f"{what}: an earlier line has this user; remove one")
        try:
            checks[user] = check_of(stored)
        except UserFileError as error:
            raise UserFileError(f"{what}: {error}") from error
    return checks


def is_comment(line: str) -> bool:
    """True for a line that says nothing of any user."""
    return line.strip()[:1] in ("", "#")
