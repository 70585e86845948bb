"""Password files of ``htpasswd -B``: bcrypt, checked by the package of that name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..expressions import expression
from .protocol_errors import UserFileError
from .users import Check, PasswordFile, parse_lines, read_lines

HIGHEST_COST = 17
"""What ``htpasswd -C`` writes at most: one check takes seconds, not hours."""

_HASH = expression(r"\$2[aby]\$([0-9]{2})\$[./A-Za-z0-9]{53}")
_SIGNIFICANT = 72  # bytes of a password that bcrypt looks at
_ADVICE = "write it again with: htpasswd -B FILE USER"


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
            f"this is no bcrypt hash, and no other kind is understood; {_ADVICE}"
        )
    cost = int(match[1])
    if not 4 <= cost <= HIGHEST_COST:
        raise UserFileError(
            f"bcrypt of cost {cost}, and 4 to {HIGHEST_COST} are checked; {_ADVICE}"
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
