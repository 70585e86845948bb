"""How blocks are packed: gzip by isal or zlib, zstd by whatever is installed.

gzip: one member (RFC 1952) with a fixed header; each block is raw deflate (RFC 1951),
primed with the 32 KiB before it and flushed to a byte, so that blocks can be packed
apart and put one after another. zstd: one frame for each block (RFC 8878), which costs
3 % of size at level 3 beside one long frame.
"""

from __future__ import annotations

import contextlib
import importlib
import zlib
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, Sequence

from ..archive.stored import Compression
from ..errors import UsageError
from ..oci import OCI_LAYER_GZIP, OCI_LAYER_ZSTD
from ..values import value

if TYPE_CHECKING:
    from ..archive.zstd import Zstd

GZIP_LEVEL = 1
"""isal's and zlib's fastest useful level: the wire is what takes time."""

ZSTD_LEVEL = 3
"""What the zstd program does by default."""

GZIP_BLOCK = 512 * 1024
"""As small a result as with 1 MiB, and 10 MiB less memory with 8 threads."""

ZSTD_BLOCK = 1024 * 1024

ISAL_LEVELS = range(1, 4)
GZIP_LEVELS = range(10)
ZSTD_LEVELS = range(1, 23)

_ISAL = "isal.isal_zlib"
_GZIP_HEADER = b"\x1f\x8b\x08\0" + bytes(4) + b"\0\xff"  # no name, no time, no system
_LAST_BLOCK = b"\x03\0"  # deflate's empty block that ends the stream


class Codec(Protocol):
    """How blocks become one compressed blob.

    ``str()`` names algorithm, library and level (``gzip:isal:1``): with the same name,
    the same content becomes the same blob.
    """

    @property
    def compression(self) -> Compression: ...  # noqa: D102

    @property
    def media_type(self) -> str: ...  # noqa: D102

    @property
    def block_size(self) -> int:
        """Bytes of content that are packed at a time."""

    @property
    def header(self) -> bytes:
        """What goes before the blocks."""

    def pack(self, block: memoryview, history: bytes) -> Sequence[bytes]:
        """*block*, which stands after *history*; runs in any thread."""

    def checksum(self, block: memoryview, before: int) -> int:
        """The checksum of what gave *before* (0 at the start) and *block*."""

    def trailer(self, checksum: int, size: int) -> bytes:
        """What goes after the blocks, which hold *size* bytes of content."""


@value
class GzipCodec:
    """gzip at *level*, by *library*: ``zlib``, or ``isal`` if it is there and can."""

    library: str
    level: int

    compression = Compression.GZIP
    media_type = OCI_LAYER_GZIP
    block_size = GZIP_BLOCK
    header = _GZIP_HEADER

    def __str__(self) -> str:
        library = "zlib" if self._module is zlib else "isal"
        return f"gzip:{library}:{self.level}"

    def pack(self, block: memoryview, history: bytes) -> Sequence[bytes]:
        """*block* as raw deflate that ends on a byte."""
        deflate = self._module.compressobj(
            self.level, zlib.DEFLATED, -zlib.MAX_WBITS, zdict=history
        )
        return deflate.compress(block), deflate.flush(zlib.Z_SYNC_FLUSH)

    def checksum(self, block: memoryview, before: int) -> int:
        """CRC-32."""
        value: int = self._module.crc32(block, before)
        return value

    def trailer(self, checksum: int, size: int) -> bytes:
        """The end of the deflate stream, the CRC, the size modulo 2^32."""
        fields = checksum.to_bytes(4, "little") + (size % 2**32).to_bytes(4, "little")
        return _LAST_BLOCK + fields

    @cached_property
    def _module(self) -> Any:
        """What packs; it is loaded by the first block, not by each push."""
        if self.library == "isal" and self.level in ISAL_LEVELS:
            with contextlib.suppress(ImportError):
                return importlib.import_module(_ISAL)
        return zlib


@value
class ZstdCodec:
    """zstd by *library* at *level*."""

    library: Zstd
    level: int

    compression = Compression.ZSTD
    media_type = OCI_LAYER_ZSTD
    block_size = ZSTD_BLOCK
    header = b""

    def __str__(self) -> str:
        return f"zstd:{self.library.name}:{self.level}"

    def pack(self, block: memoryview, history: bytes) -> Sequence[bytes]:
        """*block* as one frame; frames know nothing of the *history*."""
        return (self.library.compress(block, self.level),)

    def checksum(self, block: memoryview, before: int) -> int:
        """None: the blob's digest covers it."""
        return 0

    def trailer(self, checksum: int, size: int) -> bytes:
        """Nothing."""
        return b""


def choose_codec(compression: Compression, level: int | None = None) -> Codec:
    """The best codec that is installed for *compression* (gzip or zstd) at *level*.

    isal does gzip at levels 1 to 3 where it is installed; it has no others, so zlib
    does those. Raises UsageError when *level* does not exist, or zstd is not here.
    """
    if compression is Compression.ZSTD:
        from ..archive.zstd import find_zstd

        chosen = _checked(level, ZSTD_LEVEL, ZSTD_LEVELS, "zstd")
        return ZstdCodec(find_zstd(), chosen)
    chosen = _checked(level, GZIP_LEVEL, GZIP_LEVELS, "gzip")
    return GzipCodec("isal", chosen)


def _checked(level: int | None, default: int, levels: range, name: str) -> int:
    if level is None:
        return default
    if level not in levels:
        raise UsageError(
            f"{name} has no compression level {level}: use {levels[0]} to {levels[-1]}"
        )
    return level
