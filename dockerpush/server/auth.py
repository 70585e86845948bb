"""Who may use the registry: a password file as ``htpasswd`` writes it.

Understood everywhere: ``htpasswd -s`` ({SHA}) and ``htpasswd -m`` ($apr1$). What the
system's own crypt knows (bcrypt, SHA-256 and SHA-512 crypt) is understood where Python
still has the crypt module, which is up to 3.12. Anything else is refused when the file
is read, not when somebody tries to log in.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
import threading
import warnings
from pathlib import Path
from typing import Callable, Mapping, Optional

from .errors import ServerError

Check = Callable[[bytes], bool]
Crypt = Optional[Callable[[str, str], Optional[str]]]

_APR1 = re.compile(r"\$apr1\$([^$]{1,8})\$([./0-9A-Za-z]{22})")
_CRYPT = re.compile(r"\$(?:2[aby]|5|6)\$.+")
_ALPHABET = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ADVICE = "write it anew with: htpasswd -m FILE USER"


class PasswordFile:
    """User names, and how to check the password of each."""

    def __init__(self, checks: Mapping[str, Check]) -> None:
        self._checks = dict(checks)
        self._key = os.urandom(32)
        self._known: dict[str, bytes] = {}
        self._lock = threading.Lock()  # guards _known

    @classmethod
    def read(cls, path: Path) -> PasswordFile:
        """Raises ServerError for a file or an entry that cannot be used."""
        try:
            lines = path.read_text("utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise ServerError(
                f"cannot read the password file {path}: {error}"
            ) from error
        return cls(parse_entries(lines, str(path), system_crypt()))

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
        with self._lock:
            known = self._known.get(user)
        if known is not None and hmac.compare_digest(known, proof):
            return True  # the slow hashes are paid once for each user
        if not check(password):
            return False
        with self._lock:
            self._known[user] = proof
        return True


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


def parse_entries(lines: list[str], where: str, crypt: Crypt) -> dict[str, Check]:
    """User → check, of the lines of a password file.

    Raises ServerError, which names the line, and never the hash in it.
    """
    checks: dict[str, Check] = {}
    for number, line in enumerate(lines, 1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        user, colon, stored = entry.partition(":")
        check = _check_of(stored, crypt) if colon and user else None
        if check is None:
            what = f"line {number} of {where} ({user[:40]!r})"
            raise ServerError(f"{what}: {_complaint(stored, crypt)}; {_ADVICE}")
        checks[user] = check
    if not checks:
        raise ServerError(f"{where}: no user in this password file; {_ADVICE}")
    return checks


def _complaint(stored: str, crypt: Crypt) -> str:
    if _CRYPT.fullmatch(stored) and crypt is None:
        return "this Python cannot check bcrypt and SHA crypt passwords"
    return "not a password hash that is understood here"


def _check_of(stored: str, crypt: Crypt) -> Check | None:
    if stored.startswith("{SHA}"):
        return _sha_check(stored[len("{SHA}") :])
    apr1 = _APR1.fullmatch(stored)
    if apr1 is not None:
        salt, digest = apr1[1].encode(), apr1[2]
        return lambda password: hmac.compare_digest(md5_crypt(password, salt), digest)
    if crypt is None or not _CRYPT.fullmatch(stored):
        return None
    system = crypt
    probe = system("probe", stored)
    if probe is None or len(probe) != len(stored):
        return None
    return lambda password: _crypt_matches(system, password, stored)


def _crypt_matches(
    crypt: Callable[[str, str], str | None], password: bytes, stored: str
) -> bool:
    try:
        found = crypt(password.decode(), stored)
    except ValueError:  # not UTF-8, or with a zero byte
        return False
    return found is not None and hmac.compare_digest(found, stored)


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


def system_crypt() -> Crypt:
    """The system's crypt(3), None where Python does not offer it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            from crypt import crypt
        except ImportError:
            return None
    return crypt


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
