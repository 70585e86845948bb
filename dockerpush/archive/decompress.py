"""Compressed archives and layers, read forward.

Rules: no step takes more memory for what the stream claims to hold; an xz stream that
wants more than XZ_LIMIT, or a zstd frame that wants more than `zstd.WINDOW_LIMIT`, is
refused; whatever is wrong with a stream is an ArchiveError that names it.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import zlib
from typing import TYPE_CHECKING, Any, Callable

from ..errors import UsageError
from ..oci import Digest
from ..system.cancellation import Cancellation
from ..system.streams import RawReader
from ..values import value
from .compressed_streams import PIECE, Decoder, Format, Readable, StreamReader
from .headers import BLOCK
from .stored import Compression

if TYPE_CHECKING:
    from hashlib import _Hash

    from _typeshed import WriteableBuffer

XZ_LIMIT = 128 * 1024 * 1024
"""Bytes of memory that an xz stream may want; ``xz -9`` wants 65 MiB."""

_GZIP_MAGICS = (b"\x1f\x8b",)


def open_decompressed(
    file: Readable, compression: Compression, *, name: str = "the archive"
) -> io.RawIOBase:
    """A reader of what *file* holds, which need not be seekable; it closes *file*.

    *name* stands in errors. Raises UsageError when what it needs is not installed;
    reading raises ArchiveError.
    """
    if compression is Compression.NONE:
        return _Plain(file)
    if compression is Compression.ZSTD:
        from .zstd import find_zstd

        return find_zstd().open(file, name)
    try:
        kind = _FORMATS[compression]()
    except ImportError as error:
        raise UsageError(
            f"{name}: this Python has no {compression.value}: unpack the file first"
        ) from error
    return StreamReader(file, kind, name)


def peeked(file: Readable, size: int = BLOCK) -> tuple[bytes, io.RawIOBase]:
    """The first *size* bytes of *file*, and a reader of all of it that closes it.

    There are fewer bytes only when it has no more. Raises what reading it does.
    """
    head = bytearray(size)
    view = memoryview(head)
    filled = 0
    while filled < size:
        count = file.readinto(view[filled:])
        if not count:
            break
        filled += count
    return bytes(head[:filled]), _Rejoined(bytes(head[:filled]), file)


class _Rejoined(RawReader):
    """*head*, which was read before, and the rest of *file*; closes *file*."""

    def __init__(self, head: bytes, file: Readable) -> None:
        super().__init__()
        self._head = head
        self._file = file

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        if not self._head:
            return self._file.readinto(view) or 0
        count = min(len(view), len(self._head))
        view[:count] = self._head[:count]
        self._head = self._head[count:]
        return count

    def close(self) -> None:
        if not self.closed:
            self._file.close()
            super().close()


@value
class StoredDigests:
    """What one pass over a blob finds: *digest* and *size* (bytes) are of the stored
    bytes, *diff_id* is the digest of what they hold."""

    digest: Digest
    size: int
    diff_id: Digest


def digests(
    file: Readable,
    compression: Compression,
    *,
    cancellation: Cancellation,
    on_read: Callable[[int], None],
    name: str = "the layer",
    named: Digest | None = None,
) -> StoredDigests:
    """Hash *file* and what it holds in one pass; closes it.

    The digest of the stored bytes is of the same algorithm as *named*, which is what
    they are called; by default sha256, as that of the content is. *on_read* is called
    with each piece of stored bytes. Raises ArchiveError as `open_decompressed` and its
    reader do, Cancelled.
    """
    stored = _Hashing(file, cancellation, on_read, named)
    content = hashlib.sha256()
    buffer = memoryview(bytearray(PIECE))
    with open_decompressed(stored, compression, name=name) as reader:
        while count := reader.readinto(buffer):
            content.update(buffer[:count])
    return StoredDigests(
        Digest.from_hash(stored.hasher), stored.size, Digest.from_hash(content)
    )


class _Hashing:
    """A file that hashes and counts what is read from it."""

    def __init__(
        self,
        file: Readable,
        cancellation: Cancellation,
        on_read: Callable[[int], None],
        named: Digest | None,
    ) -> None:
        self.hasher: _Hash = named.hasher() if named else hashlib.sha256()
        self.size = 0
        self.close = file.close
        self._file = file
        self._cancellation = cancellation
        self._on_read = on_read

    def readinto(self, buffer: memoryview, /) -> int:
        self._cancellation.check()
        count = self._file.readinto(buffer) or 0
        if count:
            self.hasher.update(buffer[:count])
            self.size += count
            self._on_read(count)
        return count


class _Plain(RawReader):
    """A file that is not compressed."""

    def __init__(self, file: Readable) -> None:
        super().__init__()
        self._file = file

    def readinto(self, buffer: memoryview, /) -> int | None:  # type: ignore[override]
        return self._file.readinto(buffer)

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._file.close()


class ZlibDecoder:
    """A gzip member, decoded by the zlib of Python."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        """True behind the checksum and the size."""
        return self._zlib.eof

    @property
    def needs_input(self) -> bool:
        """True when all that was fed is used up."""
        return not self.eof and not self._zlib.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        """What lies behind the member."""
        return self._zlib.unused_data

    def decompress(self, data: memoryview | bytes, max_length: int) -> bytes:
        """The next *max_length* bytes at the most."""
        return self._zlib.decompress(data or self._zlib.unconsumed_tail, max_length)


def gzip_format() -> Format:
    """gzip by zlib (RFC 1952)."""
    return Format("gzip", _GZIP_MAGICS, ZlibDecoder, (zlib.error,))


def fast_gzip_format() -> Format:
    """gzip by the package isal. Raises ImportError."""
    igzip_lib: Any = importlib.import_module("isal.igzip_lib")

    def decoder() -> Decoder:
        made: Decoder = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
        return made

    return Format("gzip", _GZIP_MAGICS, decoder, (igzip_lib.IsalError,))


def _best_gzip_format() -> Format:
    try:
        return fast_gzip_format()
    except ImportError:
        return gzip_format()


def bzip2_format() -> Format:
    """bzip2, whose decoder raises OSError for bad data."""
    import bz2  # not every Python has it

    return Format("bzip2", (b"BZh",), bz2.BZ2Decompressor, (OSError, ValueError))


def xz_format() -> Format:
    """xz, with XZ_LIMIT."""
    import lzma  # not every Python has it

    def decoder() -> Decoder:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_LIMIT)

    return Format("xz", (b"\xfd7zXZ\0",), decoder, (lzma.LZMAError,))


_FORMATS: dict[Compression, Callable[[], Format]] = {
    Compression.GZIP: _best_gzip_format,
    Compression.BZIP2: bzip2_format,
    Compression.XZ: xz_format,
}
