"""The one reader of tar headers: forward only, in bounded memory.

Strategy: the stream goes from header to header and hands out a `Member` for each. Until
it is asked for the next one, the caller may read the member's content, or leave it: a
seekable file is moved over what is left, a pipe is read over it. Extension records are
the only content that is kept, and only while their member is being put together.

Trailing bytes after a zero block are ignored; a file that simply ends after a complete
member is a tar as well, which some writers leave.
"""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Iterator, Union

from ..errors import ArchiveError
from .blocks import (
    BLOCK,
    Header,
    apply_pax,
    is_header,
    parse_header,
    parse_pax,
    text_of,
)
from .member_names import normalised, quoted
from .stored import Kind, Member

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

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
        self._left = 0  # bytes of the current content that were not read
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
        view = memoryview(buffer).cast("B")[: self._left]
        if not view:
            return 0
        count = self._file.readinto(view) or 0
        if count == 0:
            raise ArchiveError(
                f"truncated: the file ends inside {quoted(self._name)}, "
                f"{self._left} bytes too early"
            )
        self._advance(count)
        return count

    def read(self, size: int) -> bytes:
        """Up to *size* bytes of the current member's content; fewer only at its end."""
        content = bytearray(min(size, self._left))
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
                return self._enter(apply_pax(header, records))
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

    def _enter(self, header: Header) -> Member:
        """The member that *header* describes; its content comes next."""
        name, kind = normalised(header.name), header.kind
        target = header.target if kind in (Kind.SYMLINK, Kind.HARDLINK) else ""
        self._name_characters += len(name) + len(target)
        if self._name_characters > NAMES_LIMIT:
            raise ArchiveError(f"its names take more than {NAMES_LIMIT} characters")
        if kind is Kind.HARDLINK:
            target = normalised(target)
        self._begin_content(name, header.content_size)
        return Member(name, kind, self._left, self._position, target)

    def _begin_content(self, name: str, size: int) -> None:
        if self._end is not None and self._position + size > self._end:
            raise ArchiveError(
                f"truncated: the file ends inside {quoted(name)}, "
                f"{self._position + size - self._end} bytes too early"
            )
        self._name = name
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
                self.readinto(scratch)
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
            self._skip_sparse_map(block[482])
        return header

    def _count_header(self) -> None:
        self._headers += 1
        if self._headers > HEADER_LIMIT:
            raise ArchiveError(
                f"it has more than {HEADER_LIMIT} members; no archive of images has"
            )

    def _skip_sparse_map(self, is_extended: int) -> None:
        """Go over the blocks that go on with the map of an old GNU sparse file."""
        while is_extended:
            self._count_header()
            block = self._read_block(BLOCK)
            if len(block) < BLOCK:
                raise ArchiveError("truncated: the file ends in a sparse file's header")
            is_extended = block[504]

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
