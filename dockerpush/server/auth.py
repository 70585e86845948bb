"""Who may use the registry: a password file as ``htpasswd`` writes it.

Understood are ``htpasswd -B`` (bcrypt), ``-m`` ($apr1$) and ``-s`` ({SHA}). Anything
else is refused when the file is read, not when somebody tries to log in.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
import threading
from pathlib import Path
from typing import Callable, Mapping

from . import bcrypt
from .errors import ServerError

Check = Callable[[bytes], bool]

_APR1 = re.compile(r"\$apr1\$([^$]{1,8})\$([./0-9A-Za-z]{22})")
_ALPHABET = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ADVICE = "write it anew with: htpasswd -B FILE USER"


class PasswordFile:
    """User names, and how to check the password of each."""

    def __init__(self, checks: Mapping[str, Check]) -> None:
        self._checks = dict(checks)
        self._key = os.urandom(32)
        self._known: dict[str, bytes] = {}
        self._lock = threading.Lock()  # one slow check at a time, paid once a user

    @classmethod
    def read(cls, path: Path) -> PasswordFile:
        """Raises ServerError for a file or an entry that cannot be used."""
        try:
            lines = path.read_text("utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise ServerError(
                f"cannot read the password file {path}: {error}"
            ) from error
        return cls(parse_entries(lines, str(path)))

    def accepts(self, authorization: str | None) -> bool:
        """Whether an Authorization header has a known user and the right password."""
        credentials = parse_basic(authorization)
        if credentials is None:
            return False
        user, password = credentials
        check = self._checks.get(user)
        if check is None:
            return False
        proof = hmac.new(self._key, password, "sha256").digest()
        if self._is_known(user, proof):
            return True
        with self._lock:
            if self._is_known(user, proof):  # by now
                return True
            accepted = check(password)
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


def parse_entries(lines: list[str], where: str) -> dict[str, Check]:
    """User → check, of the lines of a password file.

    Raises ServerError, which names the line, and never the hash in it.
    """
    checks: dict[str, Check] = {}
    for number, line in enumerate(lines, 1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        user, colon, stored = entry.partition(":")
        check = _check_of(stored) if colon and user else None
        if check is None:
            what = f"line {number} of {where} ({user[:40]!r})"
            raise ServerError(f"{what}: {_complaint(stored)}; {_ADVICE}")
        checks[user] = check
    if not checks:
        raise ServerError(f"{where}: no user in this password file; {_ADVICE}")
    return checks


def _complaint(stored: str) -> str:
    cost = bcrypt.cost_of(stored)
    if cost is None:
        return "not a password hash that is understood here"
    return f"bcrypt of cost {cost}, the most that is checked is {bcrypt.HIGHEST_COST}"


def _check_of(stored: str) -> Check | None:
    if stored.startswith("{SHA}"):
        return _sha_check(stored[len("{SHA}") :])
    apr1 = _APR1.fullmatch(stored)
    if apr1 is not None:
        salt, digest = apr1[1].encode(), apr1[2]
        return lambda password: hmac.compare_digest(md5_crypt(password, salt), digest)
    cost = bcrypt.cost_of(stored)
    if cost is None or cost > bcrypt.HIGHEST_COST:
        return None
    return lambda password: bcrypt.is_password(password, stored)


def _sha_check(encoded: str) -> Check | None:
    try:
        wanted = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        return None
    if len(wanted) != 20:
        return None
    return lambda password: hmac.compare_digest(
        hashlib.sha1(password, usedforsecurity=False).digest(), wanted
    )


def md5_crypt(password: bytes, salt: bytes) -> str:
    """The last part of ``$apr1$salt$...``: Apache's variant of MD5 crypt."""
    digest = _first_digest(password, salt)
    for round_ in range(1000):
        parts = [password if round_ % 2 else digest]
        parts += [salt] if round_ % 3 else []
        parts += [password] if round_ % 7 else []
        parts.append(digest if round_ % 2 else password)
        digest = _md5(b"".join(parts))
    return _encode(digest)


def _first_digest(password: bytes, salt: bytes) -> bytes:
    inner = _md5(password + salt + password)
    text = password + b"$apr1$" + salt
    text += (inner * (len(password) // 16 + 1))[: len(password)]
    bits = len(password)
    while bits:
        text += b"\0" if bits & 1 else password[:1]
        bits >>= 1
    return _md5(text)


def _md5(content: bytes) -> bytes:
    return hashlib.md5(content, usedforsecurity=False).digest()


def _encode(digest: bytes) -> str:
    """The digest in crypt's own order and alphabet, six bits a letter."""
    letters = []
    for first, second, third in (
        (0, 6, 12),
        (1, 7, 13),
        (2, 8, 14),
        (3, 9, 15),
        (4, 10, 5),
    ):
        value = digest[first] << 16 | digest[second] << 8 | digest[third]
        letters += [_ALPHABET[value >> shift & 63] for shift in (0, 6, 12, 18)]
    letters += [_ALPHABET[digest[11] >> shift & 63] for shift in (0, 6)]
    return "".join(letters)
