"""Files of users, and how the password of each is checked.

`read_htpasswd` reads files of ``htpasswd -B``: bcrypt, checked by the package of that
name. `read_users` reads our own, which `put_user` writes and which need nothing but
Python: each line is ``NAME:scrypt:N:R:P:SALT:HASH`` (RFC 7914), where N, R and P are
scrypt's parameters, and SALT and HASH are base64.

A line that cannot be used is refused when the file is read, not at a login.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from pathlib import Path
from typing import Any, Callable, NamedTuple

from ..errors import StateError
from ..expressions import expression
from ..system import files
from .logins import Check, PasswordFile
from .messages import ServerError, UserFileError, UserNotFound

HIGHEST_COST = 17
"""What ``htpasswd -C`` writes at most: one check takes seconds, not hours."""

_HASH = expression(r"\$2[aby]\$([0-9]{2})\$[./A-Za-z0-9]{53}")
_SIGNIFICANT = 72  # bytes of a password that bcrypt looks at
_WRITE_AGAIN = "write it again with: htpasswd -B FILE USER"


def read_htpasswd(path: Path) -> PasswordFile:
    """The users of the file *path*. Raises UserFileError, UserNotFound."""
    checks = parse_lines(read_lines(path), str(path), bcrypt_check)
    if not checks:
        raise UserFileError(
            f"{path}: no user in this file; add one with: htpasswd -B FILE USER"
        )
    return PasswordFile(checks)


def bcrypt_check(stored: str) -> Check:
    """The check of a bcrypt hash. Raises UserFileError for anything else."""
    match = _HASH.fullmatch(stored)
    if match is None:
        raise UserFileError(
            f"this is no bcrypt hash, and no other kind is understood; {_WRITE_AGAIN}"
        )
    cost = int(match[1])
    if not 4 <= cost <= HIGHEST_COST:
        raise UserFileError(
            f"bcrypt of cost {cost}, not of 4 to {HIGHEST_COST}; {_WRITE_AGAIN}"
        )
    library = _bcrypt()

    def check(password: bytes) -> bool:
        if b"\0" in password:
            return False
        try:
            return bool(library.checkpw(password[:_SIGNIFICANT], stored.encode()))
        except ValueError:  # a salt that no library takes
            return False

    return check


def _bcrypt() -> Any:
    try:
        import bcrypt
    except ImportError as error:
        raise UserFileError(
            "to check a bcrypt hash the package bcrypt is needed; "
            "pip install 'dockerpush[serve]', or use --users FILE"
        ) from error
    return bcrypt


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


CheckOf = Callable[[str], Check]
"""From what stands after a name. Raises UserFileError, which does not quote it."""

_LIMIT = 4 * 1024 * 1024  # bytes of a file that are read


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
