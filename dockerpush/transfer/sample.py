"""A look at some blocks of a layer: is it worth compressing?"""

from __future__ import annotations

import zlib
from contextlib import closing
from typing import Callable

from ..upload.content import BlobReader

COUNT = 16
SIZE = 64 * 1024
WORTH = 0.9
"""The part of its size to which a layer must shrink, else it is sent as it is."""


def shrinks(open_at: Callable[[int], BlobReader], size: int) -> bool:
    """True when a layer of *size* bytes gets smaller by compression.

    COUNT blocks of SIZE bytes, spread evenly, stand for the whole; zlib judges them
    whatever compresses later, so the same bytes give the same answer everywhere. Raises
    what the readers of *open_at* raise.
    """
    before = after = 0
    for offset in _offsets(size):
        with closing(open_at(offset)) as reader:
            block = _read(reader, min(SIZE, size - offset))
        before += len(block)
        after += len(zlib.compress(block, 1))
    return after < before * WORTH


def _offsets(size: int) -> list[int]:
    """Where the blocks begin; fewer blocks when that many would overlap."""
    count = min(COUNT, -(-size // SIZE))
    last = size - SIZE
    return (
        [last * number // (count - 1) for number in range(count)] if count > 1 else [0]
    )


def _read(reader: BlobReader, count: int) -> bytes:
    """*count* bytes, or fewer when the layer ends before them."""
    buffer = bytearray(count)
    view = memoryview(buffer)
    while view and (got := reader.readinto(view)):
        view = view[got:]
    return bytes(buffer[: count - len(view)])
