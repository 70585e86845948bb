"""Our own files of users: a name and a scrypt hash (RFC 7914) on every line.

``NAME:scrypt:N:R:P:SALT:HASH``, where N, R and P are scrypt's parameters, and SALT and
HASH are base64. `put_user` writes the lines, so this needs nothing but Python.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from pathlib import Path
from typing import NamedTuple

from ..errors import StateError
from ..expressions import expression
from ..system import files
from .protocol_errors import ServerError, UserFileError, UserNotFound
from .users import Check, PasswordFile, is_comment, parse_lines, read_lines

MOST_MEMORY = 64 * 1024 * 1024
"""Bytes that one check may take."""

MOST_LANES = 4
"""The highest P: each lane takes the time of the first once more."""

LOCK_TIMEOUT = 10.0
"""Seconds to wait for another run that changes the same file."""

_LINE = expression(
    r"scrypt:([0-9]{1,9}):([0-9]{1,9}):([0-9]{1,9})"
    r":([A-Za-z0-9+/]{22}==):([A-Za-z0-9+/]{43}=)"  # 16 bytes and 32
)
_ADVICE = "write it again with: dockerpush serve --add-user NAME --users FILE"


class _Cost(NamedTuple):
    """scrypt's parameters: *n* the work, *r* the size of a block, *p* the lanes."""

    n: int = 2**14
    r: int = 8
    p: int = 1

    @property
    def memory(self) -> int:
        """Bytes that OpenSSL counts against its limit."""
        return 128 * self.r * (self.n + self.p + 2)

    def is_sound(self) -> bool:
        """True when scrypt knows these parameters and they stay within our limits."""
        return (
            self.n > 1
            and not self.n & (self.n - 1)
            and self.r > 0
            and 0 < self.p <= MOST_LANES
            and self.memory <= MOST_MEMORY
        )

    def hash(self, password: bytes, salt: bytes) -> bytes:
        """32 bytes. Raises UserFileError where Python was built without scrypt."""
        try:
            return hashlib.scrypt(
                password,
                salt=salt,
                n=self.n,
                r=self.r,
                p=self.p,
                maxmem=self.memory,
                dklen=32,
            )
        except (AttributeError, ValueError) as error:
            raise UserFileError(
                "this Python has no scrypt (its OpenSSL leaves it out); use another "
                "Python, or pip install 'dockerpush[serve]' and --htpasswd FILE"
            ) from error


def read_users(path: Path) -> PasswordFile:
    """The users of the file *path*. Raises UserFileError, UserNotFound."""
    checks = parse_lines(read_lines(path), str(path), scrypt_check)
    if not checks:
        raise UserFileError(
            f"{path}: no user in this file; add one with: "
            "dockerpush serve --add-user NAME --users FILE"
        )
    _Cost(2, 1, 1).hash(b"", b"")  # better refused now than at every log-in
    return PasswordFile(checks)


def scrypt_check(stored: str) -> Check:
    """The check of what `put_user` writes after a name. Raises UserFileError."""
    match = _LINE.fullmatch(stored)
    if match is None:
        raise UserFileError(f"this is no line of a file of users; {_ADVICE}")
    cost = _Cost(*(int(match[n]) for n in (1, 2, 3)))
    if not cost.is_sound():
        raise UserFileError(
            f"scrypt with N={cost.n}, r={cost.r}, p={cost.p} is not checked here: at "
            f"most {MOST_MEMORY >> 20} MiB and p={MOST_LANES}; {_ADVICE}"
        )
    salt, wanted = base64.b64decode(match[4]), base64.b64decode(match[5])
    return lambda password: hmac.compare_digest(cost.hash(password, salt), wanted)


def put_user(path: Path, name: str, password: bytes) -> bool:
    """Give *name* this password in the file *path*, which is made when it is missing.

    True when the user was there before. Raises UserFileError, ServerError.
    """
    _check_name(name)
    cost, salt = _Cost(), os.urandom(16)
    encoded = (base64.b64encode(x).decode() for x in (salt, cost.hash(password, salt)))
    return _rewrite(path, name, [":".join([name, "scrypt", *map(str, cost), *encoded])])


def remove_user(path: Path, name: str) -> None:
    """Take *name* out of the file *path*. Raises UserNotFound, UserFileError."""
    if not _rewrite(path, name, []):
        raise UserNotFound(f"there is no user {name[:40]!r} in {path}")


def _check_name(name: str) -> None:
    """Raises UserFileError for what would not be read as the same name again."""
    if name != name.strip() or ":" in name or name[:1] in ("", "#"):
        why = "no colon in it, no space at its ends, no # at its beginning"
    elif len(name) > 255 or not name.isprintable():
        why = "at most 255 characters that can be printed"
    else:
        return
    raise UserFileError(f"{name[:40]!r} cannot be the name of a user: wanted {why}")


def _rewrite(path: Path, name: str, lines: list[str]) -> bool:
    """Put *lines* in place of the one of *name*; whether there was one."""
    try:
        target = path.resolve()
        lock = target.with_name(f".{target.name}.lock")
        with files.claim(lock, timeout=LOCK_TIMEOUT):
            before = [] if lines and not target.exists() else read_lines(target)
            known = name in parse_lines(before, str(path), scrypt_check)
            if known or lines:
                after = [line for line in before if line and not _is_of(name, line)]
                text = "".join(f"{line}\n" for line in after + lines)
                files.replace_file(target, text.encode())
            return known
    except (OSError, RuntimeError, StateError) as error:  # RuntimeError: circular links
        reason = getattr(error, "strerror", None) or str(error)
        raise ServerError(f"cannot write the file of users {path}: {reason}") from error


def _is_of(name: str, line: str) -> bool:
    return not is_comment(line) and line.strip().partition(":")[0] == name
