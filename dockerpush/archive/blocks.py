"""The 512-byte blocks of a tar, as values: headers, numbers, PAX records. Pure.

The formats are those of POSIX (pax, ustar Interchange Format) and of the GNU tar manual
(Basic Tar Format).
"""

from __future__ import annotations

from typing import Mapping

from ..errors import ArchiveError
from ..values import value
from .member_names import quoted
from .stored import Kind

BLOCK = 512
SIZE_LIMIT = 1 << 53
"""Bytes that a member may claim (8 PiB); more is nonsense in any archive."""

PAX_KEYS = ("path", "linkpath", "size", "GNU.sparse.name")
"""The PAX records that tell where a member's bytes are; the others are not kept."""

_KINDS = {
    b"0": Kind.FILE,
    b"\0": Kind.FILE,
    b"7": Kind.FILE,  # contiguous
    b"1": Kind.HARDLINK,
    b"2": Kind.SYMLINK,
    b"5": Kind.DIRECTORY,
    b"S": Kind.SPARSE,
}
_WITHOUT_CONTENT = frozenset((b"1", b"2", b"3", b"4", b"5", b"6"))
"""Types that no data follows, whatever their size field says, as in GNU tar."""


@value
class Header:
    """What one header block says; names as written, *size* is bytes that follow."""

    type: bytes
    name: str
    target: str
    size: int

    @property
    def kind(self) -> Kind:
        """What the type flag means; a name with a slash at its end is a directory."""
        kind = _KINDS.get(self.type, Kind.OTHER)
        old_directory = self.type == b"\0" and self.name.endswith("/")
        return Kind.DIRECTORY if old_directory else kind

    @property
    def content_size(self) -> int:
        """Bytes of content that lie behind the header."""
        return 0 if self.type in _WITHOUT_CONTENT else self.size


def is_header(block: bytes) -> bool:
    """True when *block* has the checksum of a tar header."""
    if len(block) < BLOCK or not any(block):
        return False
    try:
        wanted = _parse_number(block[148:156], "checksum")
    except ArchiveError:
        return False
    rest = block[:148] + block[156:BLOCK]
    unsigned = 8 * ord(" ") + sum(rest)
    # Some old writers added the bytes up as signed numbers.
    return wanted in (unsigned, unsigned - 256 * sum(byte > 127 for byte in rest))


def parse_header(block: bytes) -> Header:
    """The fields of *block*, for which `is_header` is true. Raises ArchiveError."""
    name = _text(block[:100])
    if block[257:263] == b"ustar\0":
        prefix = _text(block[345:500])
        name = f"{prefix}/{name}" if prefix else name
    try:
        size = checked_size(_parse_number(block[124:136], "size"))
    except ArchiveError as error:
        raise ArchiveError(f"{quoted(name)}: {error}") from error
    return Header(block[156:157], name, _text(block[157:257]), size)


def checked_size(size: int) -> int:
    """*size*, when a member can have it. Raises ArchiveError."""
    if not 0 <= size <= SIZE_LIMIT:
        raise ArchiveError(f"its header claims an impossible size of {size} bytes")
    return size


def parse_pax(content: bytes) -> dict[str, str]:
    """The records of a PAX header that matter to us. Raises ArchiveError.

    Any record of a sparse file is told as ``GNU.sparse``; an empty value takes back
    what an earlier header said (POSIX pax, pax Header Block).
    """
    records: dict[str, str] = {}
    position = 0
    while position < len(content):
        key, value, position = _pax_record(content, position)
        if key in PAX_KEYS:
            records[key] = value
        if key.startswith("GNU.sparse.") or key == "SCHILY.realsize":
            records["GNU.sparse"] = key
    return records


def _pax_record(content: bytes, start: int) -> tuple[str, str, int]:
    """The record at *start*, ``length key=value\\n``, and where the next one starts."""
    space = content.find(b" ", start, start + 12)
    digits = content[start:space] if space > start else b""
    if not digits.isdigit():
        raise ArchiveError("damaged PAX header: a record has no length")
    end = start + int(digits)
    equals = content.find(b"=", space, end)
    if end > len(content) or equals < 0 or content[end - 1 : end] != b"\n":
        raise ArchiveError("damaged PAX header: a record is cut or not key=value")
    key = _decoded(content[space + 1 : equals])
    wanted = content[equals + 1 : end - 1] if key in PAX_KEYS else b""
    return key, _decoded(wanted), end


def apply_pax(header: Header, records: Mapping[str, str]) -> Header:
    """*header* with what PAX *records* say in its place. Raises ArchiveError."""
    name = records.get("GNU.sparse.name") or records.get("path") or header.name
    size = header.size
    if records.get("size"):
        if not (records["size"].isdecimal() and records["size"].isascii()):
            raise ArchiveError(f"{quoted(name)}: damaged PAX header: size is no number")
        size = checked_size(int(records["size"][:40]))
    is_sparse = "GNU.sparse" in records and header.kind is Kind.FILE
    return Header(
        b"S" if is_sparse else header.type,
        name,
        records.get("linkpath") or header.target,
        size,
    )


def text_of(content: bytes) -> str:
    """The name in a GNU long-name record."""
    return _text(content)


def _text(field: bytes) -> str:
    return _decoded(field.partition(b"\0")[0])


def _decoded(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _parse_number(field: bytes, what: str) -> int:
    """Octal digits, or base-256 when the first bit is set (GNU tar manual)."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big", signed=False)
        bits = 8 * len(field)
        is_negative = bool(field[0] & 0x40)
        return value - (1 << bits) if is_negative else value - (1 << (bits - 1))
    digits = field.partition(b"\0")[0].strip()
    if digits.strip(b"01234567"):
        raise ArchiveError(f"damaged header: its {what} is no octal number")
    return int(digits or b"0", 8)
