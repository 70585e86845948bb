"""The one reader of tar headers and of the names in them: forward, in bounded memory.

Strategy: the stream goes from header to header and hands out a `Member` for each. Until
it is asked for the next one, the caller may read the member's content, or leave it: a
seekable file is moved over what is left, a pipe is read over it. Extension records are
the only content that is kept, and only while their member is being put together.

Trailing bytes after a zero block are ignored; a file that simply ends after a complete
member is a tar as well, which some writers leave. `normalised` gives one spelling
to each name; links are followed to their files.

The formats are those of POSIX (pax, ustar Interchange Format) and of the GNU tar manual
(Basic Tar Format).
"""

from __future__ import annotations

import contextlib
import io
import os
from typing import TYPE_CHECKING, Iterator, Mapping, Sequence, Union

from ..errors import ArchiveError, InvalidReference
from ..reference import Reference
from ..values import replace, value
from .sparse import (
    MapError,
    SparseBudget,
    SparseMap,
    is_pax_1,
    leading_map,
    pax_map,
)
from .stored import Member, MemberKind

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


SAVE_AGAIN = "get or save it again"
"""What to do about an archive that lacks its end."""

HOP_LIMIT = 40
"""Links that may lead from one name to its file, as in Linux (path_resolution(7))."""


def quoted(name: str) -> str:
    """*name* for a message: quoted, unprintable characters escaped, not too long."""
    return repr(name if len(name) <= 160 else name[:80] + "…" + name[-80:])


def canonical(name: str) -> str:
    """What the image name *name* means to Docker; itself when that is nothing."""
    try:
        reference = Reference.parse(name)
    except InvalidReference:
        return name
    has_version = reference.tag or reference.digest
    return str(reference if has_version else reference.with_tag("latest"))


def normalised(name: str) -> str:
    """*name* without ``.``, inner ``..``, doubled and leading slashes.

    A backslash counts as a slash. What climbs above the root keeps its leading ``..``.
    """
    parts: list[str] = []
    for part in name.replace("\\", "/").split("/"):
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def resolved(members: Mapping[str, Member], name: str) -> Member | None:
    """The member that *name* leads to, which is no link; None when it is not there.

    Raises ArchiveError for a loop of links and for what leads out of the archive.
    """
    path = _inside(normalised(name), name)
    for _ in range(HOP_LIMIT):
        member = members.get(path)
        if member is None:
            followed = _through_folder(members, path)
            if followed is None:
                return None
            path = followed
        elif member.kind is MemberKind.SYMLINK:
            path = _symlink_target(members, member, member.target)
        elif member.kind is MemberKind.HARDLINK:
            path = _inside(member.target, member.name)
        else:
            return member
    raise ArchiveError(f"{quoted(name)}: its links lead in a circle")


def _through_folder(members: Mapping[str, Member], path: str) -> str | None:
    """*path* with the first folder that is a symbolic link replaced by its target."""
    end = path.find("/")
    while end >= 0:
        folder = members.get(path[:end])
        if folder is not None and folder.kind is MemberKind.SYMLINK:
            rest = path[end:]
            return _symlink_target(members, folder, folder.target + rest)
        end = path.find("/", end + 1)
    return None


def _symlink_target(members: Mapping[str, Member], link: Member, target: str) -> str:
    """Where *target* leads, seen from *link*.

    Some writers give it from the root of the archive (github.com/containerd/containerd
    issue 12890), so that is tried when nothing lies where it should lead.
    """
    from_root = normalised(target)
    if target.startswith(("/", "\\")):
        return _inside(from_root, link.name)
    parent = link.name.rpartition("/")[0]
    path = _inside(normalised(f"{parent}/{target}"), link.name)
    return from_root if path not in members and from_root in members else path


def _inside(path: str, name: str) -> str:
    if path == ".." or path.startswith("../"):
        raise ArchiveError(f"{quoted(name)}: leads out of the archive with '..'")
    return path


BLOCK = 512
SIZE_LIMIT = 1 << 53
"""Bytes that a member may claim (8 PiB); more is nonsense in any archive."""

_SPARSE = "GNU.sparse."
PAX_KEYS = (
    *("path", "linkpath", "size"),
    *(_SPARSE + key for key in ("name", "map", "major", "size", "realsize")),
)
"""The PAX records that tell where a member's bytes are; the others are not kept."""

_SPREAD = ("GNU.sparse.offset", "GNU.sparse.numbytes")
_KINDS = {
    b"0": MemberKind.FILE,
    b"\0": MemberKind.FILE,
    b"7": MemberKind.FILE,  # contiguous
    b"1": MemberKind.HARDLINK,
    b"2": MemberKind.SYMLINK,
    b"5": MemberKind.DIRECTORY,
    b"S": MemberKind.SPARSE,
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
    sparse: SparseMap | None = None

    @property
    def kind(self) -> MemberKind:
        """What the type flag means; a name with a slash at its end is a directory."""
        kind = _KINDS.get(self.type, MemberKind.OTHER)
        old_directory = self.type == b"\0" and self.name.endswith("/")
        return MemberKind.DIRECTORY if old_directory else kind

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
    if wanted == unsigned:
        return True
    # Some old writers added the bytes up as signed numbers.
    return wanted == unsigned - 256 * sum(byte > 127 for byte in rest)


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

    Any record of a sparse file is returned as ``GNU.sparse``, and a map that is spread
    over many (form 0.0) as one; an empty value removes the value of an earlier header
    (POSIX pax, pax Header Block).
    """
    records: dict[str, str] = {}
    spread: list[str] = []
    position = 0
    while position < len(content):
        key, value, position = _pax_record(content, position)
        if key in _SPREAD:
            spread.append(value)
        elif key in PAX_KEYS:
            records[key] = value
        elif key == "GNU.sparse.numblocks":
            records.setdefault("GNU.sparse.map", "")
        if key.startswith(_SPARSE) or key == "SCHILY.realsize":
            records["GNU.sparse"] = key
    if spread:
        records["GNU.sparse.map"] = ",".join(spread)
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
    is_wanted = key in PAX_KEYS or key in _SPREAD
    wanted = content[equals + 1 : end - 1] if is_wanted else b""
    return key, _decoded(wanted), end


def apply_pax(header: Header, records: Mapping[str, str]) -> Header:
    """*header* with what PAX *records* say in its place. Raises ArchiveError."""
    name = records.get("GNU.sparse.name") or records.get("path") or header.name
    size = header.size
    if records.get("size"):
        if not (records["size"].isdecimal() and records["size"].isascii()):
            raise ArchiveError(f"{quoted(name)}: damaged PAX header: size is no number")
        size = checked_size(int(records["size"][:40]))
    is_sparse = "GNU.sparse" in records and header.kind is MemberKind.FILE
    return Header(
        b"S" if is_sparse else header.type,
        name,
        records.get("linkpath") or header.target,
        size,
        header.sparse,
    )


def old_map(blocks: Sequence[bytes], stored: int) -> SparseMap:
    """The map in the header of an old GNU sparse file, and the blocks that continue."""
    header, *more = blocks
    fields = [header[386:482], *(block[:504] for block in more)]
    numbers = [
        _parse_number(field[start : start + 12], "sparse map")
        for field in fields
        for start in range(0, len(field), 12)
    ]
    size = checked_size(_parse_number(header[483:495], "real size"))
    pairs = zip(numbers[::2], numbers[1::2])
    return SparseMap((pair for pair in pairs if pair[1]), size, stored)


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


BinaryReader = Union[io.RawIOBase, io.BufferedIOBase]

HEADER_LIMIT = 50_000
"""Headers that a tar may have; the largest archives of images have a few thousand."""

NAMES_LIMIT = 4 * 1024 * 1024
"""Characters that all the names of a tar may have together."""

EXTENSION_LIMIT = 1024 * 1024
"""Bytes that one PAX header or GNU long name may have."""

_PAX, _PAX_GLOBAL, _GNU_NAME, _GNU_TARGET = b"xX", b"g", b"L", b"K"
_EXTENSIONS = _PAX + _PAX_GLOBAL + _GNU_NAME + _GNU_TARGET
_SKIP_SIZE = 64 * 1024


class TarStream:
    """The members of the tar in *file*, from its current position on.

    Iterate to get them in order; `read` and `readinto` give the content of the one got
    last. Raises ArchiveError for a damaged, truncated or absurd tar, with what was
    wrong and where; it names no file, since there may be none.
    """

    def __init__(self, file: BinaryReader) -> None:
        self._file = file
        self._seekable = file.seekable()
        self._position = file.tell() if self._seekable else 0
        self._end = self._find_end() if self._seekable else None
        self._name = ""
        self._left = 0  # stored bytes of the current content that were not read
        self._sparse: SparseMap | None = None
        self._reached = 0  # bytes of a sparse content that were given
        self._budget = SparseBudget()
        self._padding = 0  # bytes from its end to the next header
        self._global_pax: dict[str, str] = {}
        self._headers = 0
        self._name_characters = 0

    def __iter__(self) -> Iterator[Member]:
        while True:
            member = self._next()
            if member is None:
                return
            yield member

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill *buffer* with content of the current member; 0 at its end."""
        view = memoryview(buffer).cast("B")
        if self._sparse is None:
            return self._read_stored(view)
        count = self._sparse.fill(view, self._reached, self._read_piece)
        self._reached += count
        return count

    def _read_piece(self, view: memoryview, offset: int) -> int:
        """The next stored bytes of a sparse member, which come in their order."""
        return self._read_stored(view)

    def _read_stored(self, view: memoryview) -> int:
        view = view[: self._left]
        if not view:
            return 0
        count = self._file.readinto(view) or 0
        if count == 0:
            raise ArchiveError(
                f"truncated: the file ends inside {quoted(self._name)}, "
                f"{self._left} bytes too early; {SAVE_AGAIN}"
            )
        self._advance(count)
        return count

    def read(self, size: int) -> bytes:
        """Up to *size* bytes of the current member's content; fewer only at its end."""
        left = self._left
        if self._sparse is not None:
            left = self._sparse.size - self._reached
        content = bytearray(min(size, left))
        view = memoryview(content)
        while view:
            view = view[self.readinto(view) :]
        return bytes(content)

    def _find_end(self) -> int:
        end = self._file.seek(0, os.SEEK_END)
        self._file.seek(self._position)
        return end

    def _advance(self, count: int) -> None:
        self._position += count
        self._left -= count

    def _next(self) -> Member | None:
        """The next member; None at the end of the tar."""
        self._skip_content()
        records = dict(self._global_pax)
        is_extended = False
        while True:
            header = self._read_header()
            if header is None:
                if is_extended:
                    raise ArchiveError("truncated: a header without its member")
                return None
            if header.type not in _EXTENSIONS:
                return self._enter(apply_pax(header, records), records)
            is_extended = header.type not in _PAX_GLOBAL
            self._read_extension(header, records)

    def _read_extension(self, header: Header, records: dict[str, str]) -> None:
        """Put what an extension says of the next member into *records*."""
        if header.size > EXTENSION_LIMIT:
            raise ArchiveError(
                f"a header record of {header.size} bytes at byte {self._position}, "
                f"the limit is {EXTENSION_LIMIT}"
            )
        self._begin_content("a header record", header.size)
        content = self.read(header.size)
        self._skip_content()
        if header.type in _GNU_NAME:
            records.setdefault("path", text_of(content))
        elif header.type in _GNU_TARGET:
            records.setdefault("linkpath", text_of(content))
        elif header.type in _PAX:
            records.update(parse_pax(content))
        else:
            found = parse_pax(content)
            self._global_pax.update(found)
            records.update({**found, **records})

    def _enter(self, header: Header, records: Mapping[str, str]) -> Member:
        """The member that *header* describes; its content comes next."""
        name, kind = normalised(header.name), header.kind
        target = (
            header.target if kind in (MemberKind.SYMLINK, MemberKind.HARDLINK) else ""
        )
        self._name_characters += len(name) + len(target)
        if self._name_characters > NAMES_LIMIT:
            raise ArchiveError(f"its names take more than {NAMES_LIMIT} characters")
        if kind is MemberKind.HARDLINK:
            target = normalised(target)
        self._begin_content(name, header.content_size)
        found = self._map_of(header, records) if kind is MemberKind.SPARSE else None
        if found is None:
            return Member(name, kind, self._left, self._position, target)
        self._budget.take(found)
        self._sparse = found
        return Member(name, MemberKind.FILE, found.size, self._position, "", found)

    def _map_of(self, header: Header, records: Mapping[str, str]) -> SparseMap | None:
        """The map of a sparse member; None where it cannot be read."""
        with contextlib.suppress(MapError):
            if header.sparse is None and is_pax_1(records):
                blocks = iter(lambda: self.read(BLOCK), b"")
                return leading_map(records, blocks, self._left)
            if header.sparse is None:
                return pax_map(records, self._left)
        return header.sparse

    def _begin_content(self, name: str, size: int) -> None:
        if self._end is not None and self._position + size > self._end:
            raise ArchiveError(
                f"truncated: the file ends inside {quoted(name)}, "
                f"{self._position + size - self._end} bytes too early; {SAVE_AGAIN}"
            )
        self._name = name
        self._sparse, self._reached = None, 0
        self._left = size
        self._padding = -size % BLOCK

    def _skip_content(self) -> None:
        """Go to the end of the current content, and over its padding."""
        if self._seekable:
            count = self._left + self._padding
            if count:
                self._file.seek(self._position + count)
                self._advance(count)
        else:
            scratch = bytearray(min(self._left, _SKIP_SIZE))
            while self._left:
                self._read_stored(memoryview(scratch))
            self._read_block(self._padding)
        self._left = self._padding = 0

    def _read_header(self) -> Header | None:
        """The header at the current position; None at the end of the tar."""
        start = self._position
        block = self._read_block(BLOCK)
        if not any(block):
            return None
        if len(block) < BLOCK:
            raise ArchiveError(f"truncated: the file ends in a header, at byte {start}")
        if not is_header(block):
            raise ArchiveError(f"damaged: no tar header at byte {start}")
        header = parse_header(block)
        self._count_header()
        if header.type == b"S":
            header = replace(header, sparse=self._read_old_map(block, header.size))
        return header

    def _count_header(self) -> None:
        self._headers += 1
        if self._headers > HEADER_LIMIT:
            raise ArchiveError(
                f"it has more than {HEADER_LIMIT} members, which is the limit"
            )

    def _read_old_map(self, header: bytes, stored: int) -> SparseMap | None:
        """The map of an old GNU sparse file, which continues in blocks of its own.

        None for one that cannot be read.
        """
        blocks = [header]
        is_extended = header[482]
        while is_extended:
            self._count_header()
            block = self._read_block(BLOCK)
            if len(block) < BLOCK:
                raise ArchiveError("truncated: the file ends in a sparse file's header")
            blocks.append(block)
            is_extended = block[504]
        with contextlib.suppress(ArchiveError):
            return old_map(blocks, stored)
        return None

    def _read_block(self, size: int) -> bytes:
        """*size* bytes, fewer only at the end of the file."""
        block = bytearray(size)
        view = memoryview(block)
        while view:
            count = self._file.readinto(view) or 0
            if count == 0:
                break
            self._position += count
            view = view[count:]
        return bytes(block[: size - len(view)])
