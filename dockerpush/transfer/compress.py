"""One layer compressed by many threads, the same bytes whatever their number.

The content is cut into blocks of the codec's size. The caller's thread reads and hashes
them, in order, while a pool packs them; it collects, hashes and writes the results in
the same order. No more than the pool's threads and SPARE blocks exist at a time.
"""

from __future__ import annotations

import hashlib
from collections import deque
from concurrent.futures import Future
from typing import Callable, Protocol, Sequence

from ..oci import Digest
from ..system.cancellation import Cancellation
from ..system.workers import Workers
from ..values import value
from .codecs import Codec, choose_codec

__all__ = ["Codec", "Compressed", "choose_codec", "compress"]

HISTORY = 32 * 1024
"""Bytes before a block that it may refer back to: all that deflate can reach."""

SPARE = 2
"""Blocks in flight beyond those being packed, so that no thread has to wait."""


class Source(Protocol):
    """What is compressed."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill *buffer* from its start; the count of bytes, 0 at the end."""


class Sink(Protocol):
    """Where the result goes."""

    def write(self, data: bytes, /) -> object:
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
    source: Source,
    sink: Sink,
    *,
    codec: Codec,
    blocks: Workers,
    cancellation: Cancellation,
    on_read: Callable[[int], None],
) -> Compressed:
    """Write all of *source* to *sink*, packed by the threads of *blocks*.

    *on_read* is told of every block read, in bytes. Raises what *source* and *sink*
    raise, Cancelled, and PusherError when the compressor fails.
    """
    run = _Run(sink, codec, blocks)
    run.write(codec.header)
    count = codec.block_size
    while count == codec.block_size:
        cancellation.check()
        buffer = run.buffer()
        count = _fill(source, buffer)
        if count or not run.raw_size:
            run.pack(buffer, count)
            on_read(count)
    return run.finish()


def _fill(source: Source, buffer: memoryview) -> int:
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
        self._in_flight: deque[tuple[Future[Sequence[bytes]], memoryview]] = deque()
        self._blob = hashlib.sha256()
        self._size = 0

    def buffer(self) -> memoryview:
        """Room for a block: new, or given back by the oldest block in flight."""
        if len(self._in_flight) < self._blocks.count + SPARE:
            return memoryview(bytearray(self._codec.block_size))
        return self._collect()

    def pack(self, buffer: memoryview, count: int) -> None:
        """Have the first *count* bytes of *buffer* packed, and hash them meanwhile."""
        block = buffer[:count]
        packing = self._blocks.submit(self._codec.pack, block, self._history)
        self._in_flight.append((packing, buffer))
        self._content.update(block)
        self._checksum = self._codec.checksum(block, self._checksum)
        self._history = bytes(block[-HISTORY:])
        self.raw_size += count

    def write(self, data: bytes) -> None:
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
        for piece in packing.result():
            self.write(piece)
        return buffer
