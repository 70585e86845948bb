"""Names that a client may choose, checked before any of them becomes part of a path.

A value of one of these types, like a `Digest`, is safe as a relative path.
"""

from __future__ import annotations

import uuid

from ..errors import InvalidDigest, InvalidReference
from ..expressions import expression
from ..oci import Digest
from ..reference import check_repository, is_tag
from .messages import DIGEST_INVALID, NAME_INVALID, ProtocolError, upload_unknown

_SESSION = expression(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Repository(str):
    """A ``<name>`` of the distribution-spec: lower case, no dot-dot, no hidden part."""

    __slots__ = ()

    def __new__(cls, text: str) -> Repository:
        """Raises ProtocolError (NAME_INVALID)."""
        try:
            check_repository(text)
        except InvalidReference as error:
            message = f"not a repository name: {text[:80]!r}"
            raise ProtocolError(400, NAME_INVALID, message) from error
        return super().__new__(cls, text)


class Tag(str):
    """A tag of the distribution-spec."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Tag | None:
        """*text* as a tag, None when it is not one."""
        return cls(text) if is_tag(text) else None

    @property
    def file_name(self) -> str:
        """A name that stays unique where file names have no case: ``v1=0``.

        After the lower-case tag comes, in hex, which of its letters are capitals.
        """
        capitals = sum(1 << at for at, letter in enumerate(self) if letter.isupper())
        return f"{self.lower()}={capitals:x}"

    @classmethod
    def from_file_name(cls, name: str) -> Tag | None:
        """The tag that has this `file_name`, None when no tag has."""
        lower, _, capitals = name.rpartition("=")
        try:
            mask = int(capitals, 16)
        except ValueError:
            return None
        letters = (
            letter.upper() if mask >> at & 1 else letter
            for at, letter in enumerate(lower)
        )
        return cls.parse("".join(letters))


class SessionId(str):
    """The name of an upload session: a UUID."""

    __slots__ = ()

    @classmethod
    def new(cls) -> SessionId:
        """One that nobody can guess."""
        return cls(uuid.uuid4())

    @classmethod
    def parse(cls, text: str) -> SessionId:
        """Raises ProtocolError (BLOB_UPLOAD_UNKNOWN)."""
        if _SESSION.fullmatch(text) is None:
            raise upload_unknown()
        return cls(text)


def parse_digest(text: str) -> Digest:
    """Raises ProtocolError (DIGEST_INVALID) for what we cannot verify."""
    try:
        return Digest(text)
    except InvalidDigest as error:
        raise ProtocolError(400, DIGEST_INVALID, str(error)) from error


def parse_reference(text: str) -> Tag | Digest | None:
    """What follows ``/manifests/``; None for what can be neither tag nor digest.

    Raises ProtocolError (DIGEST_INVALID) for a broken digest.
    """
    return parse_digest(text) if ":" in text else Tag.parse(text)
