"""One layer compressed by many threads, the same bytes whatever their number.

The content is cut into blocks of the codec's size. The caller's thread reads and hashes
them, in order, while a pool packs them; it collects, hashes and writes the results in
the same order. No more than the pool's threads and SPARE blocks exist at a time.

How blocks are compressed: gzip by isal or zlib, zstd by whatever is installed.

gzip: one member (RFC 1952) with a fixed header; each block is raw deflate (RFC 1951),
primed with the 32 KiB before it and flushed to a byte, so that blocks can be compressed
apart and put one after another. zlib is slowest at what does not shrink, so at its
fastest level such a block is stored (RFC 1951, 3.2.4). zstd: one frame for each block
(RFC 8878), which costs 3 % of size at level 3 beside one long frame.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import zlib
from collections import deque
from concurrent.futures import Future
from functools import cached_property
from typing import TYPE_CHECKING, Any, Callable, Iterator, Protocol, Sequence

from ..archive.stored import Compression
from ..errors import UsageError
from ..oci import OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, Digest
from ..system.cancellation import Cancellation
from ..system.processes import give_back_memory
from ..system.workers import Workers
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

PLAIN_BLOCK = 256 * 1024
"""What is not compressed gains nothing by larger blocks."""

ISAL_LEVELS = range(1, 4)
GZIP_LEVELS = range(10)
ZSTD_LEVELS = range(1, 23)

_ISAL = "isal.isal_zlib"
_GZIP_HEADER = b"\x1f\x8b\x08\0" + bytes(4) + b"\0\xff"  # no name, no time, no system
_LAST_BLOCK = b"\x03\0"  # deflate's empty block that ends the stream
_STORED_MOST = 0xFFFF  # bytes in one stored block of deflate

PROBE = 64 * 1024
"""Bytes at the start of a block that tell zlib whether the rest may be noise."""

_NOISY = PROBE * 0.7
"""Bytes that come of PROBE bytes of noise at least: zlib holds back up to a quarter."""

_STEP = 32 * 1024
_SAMPLE = 4096
_NOISE = 0.97
"""The rest is noise unless a sample in one of its steps shrinks to this part."""

Pieces = Sequence["bytes | memoryview"]
"""What a block became; a view is on the block itself."""


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
        """Bytes of content that are compressed at a time."""

    @property
    def header(self) -> bytes:
        """What goes before the blocks."""

    def pack(self, block: memoryview, history: bytes) -> Pieces:
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

    def pack(self, block: memoryview, history: bytes) -> Pieces:
        """*block* as raw deflate that ends on a byte."""
        deflate = self._module.compressobj(
            self.level, zlib.DEFLATED, -zlib.MAX_WBITS, zdict=history
        )
        if self._module is not zlib or self.level != zlib.Z_BEST_SPEED:
            return deflate.compress(block), deflate.flush(zlib.Z_SYNC_FLUSH)
        head, rest = deflate.compress(block[:PROBE]), block[PROBE:]
        if len(head) > _NOISY and _is_noise(rest):
            return head, deflate.flush(zlib.Z_SYNC_FLUSH), *_stored(rest)
        return head, deflate.compress(rest), deflate.flush(zlib.Z_SYNC_FLUSH)

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


def _is_noise(content: memoryview) -> bool:
    """True when no sample of *content* shrinks; the first that does ends the look."""
    samples = (content[at : at + _SAMPLE] for at in range(0, len(content), _STEP))
    return all(len(zlib.compress(one, 1)) > len(one) * _NOISE for one in samples)


def _stored(content: memoryview) -> Iterator[bytes | memoryview]:
    """*content* in stored blocks of deflate, none of which is the last."""
    for start in range(0, len(content), _STORED_MOST):
        piece = content[start : start + _STORED_MOST]
        size = len(piece)
        yield b"\0" + size.to_bytes(2, "little") + (size ^ 0xFFFF).to_bytes(2, "little")
        yield piece


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

    def pack(self, block: memoryview, history: bytes) -> Pieces:
        """*block* as one frame; frames know nothing of the *history*."""
        return (self.library.compress(block, self.level),)

    def checksum(self, block: memoryview, before: int) -> int:
        """None: the blob's digest covers it."""
        return 0

    def trailer(self, checksum: int, size: int) -> bytes:
        """Nothing."""
        return b""


@value
class PlainCodec:
    """No compression: what was compressed is unpacked."""

    compression = Compression.NONE
    media_type = OCI_LAYER
    block_size = PLAIN_BLOCK
    header = b""

    def __str__(self) -> str:
        return "none"

    def pack(self, block: memoryview, history: bytes) -> Pieces:
        """*block* as it is."""
        return (block,)

    def checksum(self, block: memoryview, before: int) -> int:
        """None: the blob's digest covers it."""
        return 0

    def trailer(self, checksum: int, size: int) -> bytes:
        """Nothing."""
        return b""


def choose_codec(compression: Compression, level: int | None = None) -> Codec:
    """The best codec that is installed for *compression* at *level*.

    isal does gzip at levels 1 to 3 where it is installed; it has no others, so zlib
    does those. Raises UsageError when *level* does not exist, or zstd is not here.
    """
    if compression is Compression.NONE:
        return PlainCodec()
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


HISTORY = 32 * 1024
"""Bytes before a block that it may refer back to: all that deflate can reach."""

SPARE = 1
"""Blocks in flight beyond those being compressed: the one that is being read."""


class Content(Protocol):
    """What is compressed."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill *buffer* from its start; the count of bytes, 0 at the end."""


class Sink(Protocol):
    """Where the result goes."""

    def write(self, data: bytes | memoryview, /) -> object:
        """Append all of *data*."""


@value
class Compressed:
    """*digest* and *size* (bytes) of the compressed blob, *diff_id* and *raw_size* of
    its content."""

    digest: Digest
    size: int
    diff_id: Digest
    raw_size: int


def compress(
    source: Content,
    sink: Sink,
    *,
    codec: Codec,
    blocks: Workers,
    cancellation: Cancellation,
    on_read: Callable[[int], None],
) -> Compressed:
    """Write all of *source* to *sink*, compressed by the threads of *blocks*.

    *on_read* is called for every block read, in bytes. Raises what *source* and *sink*
    raise, Cancelled, and PusherError when the compressor fails.
    """
    run = _Run(sink, codec, blocks)
    run.write(codec.header)
    count = codec.block_size
    while count == codec.block_size:
        cancellation.check()
        buffer = run.buffer()
        count = _fill(source, buffer)
        if count == codec.block_size:
            give_back_memory()
        if count or not run.raw_size:
            run.pack(buffer, count)
            on_read(count)
    return run.finish()


def _fill(source: Content, buffer: memoryview) -> int:
    """Read until *buffer* is full or *source* ends; the count of bytes."""
    filled = 0
    while filled < len(buffer):
        count = source.readinto(buffer[filled:])
        if not count:
            break
        filled += count
    return filled


class _Run:
    """The state of one `compress`: sums of what went in and out, blocks in flight."""

    def __init__(self, sink: Sink, codec: Codec, blocks: Workers) -> None:
        self.raw_size = 0
        self._sink = sink
        self._codec = codec
        self._blocks = blocks
        self._content = hashlib.sha256()
        self._checksum = 0
        self._history = b""
        self._in_flight: deque[tuple[Future[Pieces], memoryview]] = deque()
        self._blob = hashlib.sha256()
        self._size = 0

    def buffer(self) -> memoryview:
        """Room for a block: given back by the oldest block in flight, or else new.

        New only while that one is being compressed: where reading is what takes time,
        few blocks are in flight, whatever the number of threads.
        """
        full = len(self._in_flight) >= self._blocks.count + SPARE
        if full or (self._in_flight and self._in_flight[0][0].done()):
            return self._collect()
        return memoryview(bytearray(self._codec.block_size))

    def pack(self, buffer: memoryview, count: int) -> None:
        """Have the first *count* bytes of *buffer* compressed, and hash them.

        A content of one block is compressed here: no other thread could help.
        """
        block = buffer[:count]
        if self.raw_size or count == len(buffer):
            packing = self._blocks.submit(self._codec.pack, block, self._history)
            self._in_flight.append((packing, buffer))
        else:
            self._write_all(self._codec.pack(block, self._history))
        self._content.update(block)
        self._checksum = self._codec.checksum(block, self._checksum)
        self._history = bytes(block[-HISTORY:])
        self.raw_size += count

    def write(self, data: bytes | memoryview) -> None:
        """Write and hash the next bytes of the blob."""
        self._sink.write(data)
        self._blob.update(data)
        self._size += len(data)

    def finish(self) -> Compressed:
        """Write what is left."""
        while self._in_flight:
            self._collect()
        self.write(self._codec.trailer(self._checksum, self.raw_size))
        return Compressed(
            Digest.from_hash(self._blob),
            self._size,
            Digest.from_hash(self._content),
            self.raw_size,
        )

    def _collect(self) -> memoryview:
        """Write the oldest block in flight; its buffer is free then."""
        packing, buffer = self._in_flight.popleft()
        self._write_all(packing.result())
        return buffer

    def _write_all(self, pieces: Pieces) -> None:
        for piece in pieces:
            self.write(piece)
