"""What becomes of a layer: by its packing alone, or by looking at a sample of it.

A look at some blocks of a layer: is it worth compressing?
"""

from __future__ import annotations

import zlib
from contextlib import closing
from typing import TYPE_CHECKING, Callable

from ..archive.stored import Compression, StoredBlob, compression_of_type
from ..upload.content import BlobReader
from .plan import Method, blob_key

if TYPE_CHECKING:
    from .known import Knowledge
    from .layers import Readable


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


class SampledDecision:
    """gzip for raw layers, but as they are for those that would not shrink.

    The sample is the same for the same bytes, so is the decision; each layer is looked
    at once, and not at all when *known* tells what it became before. *kept* holds the
    keys of those that stay raw.
    """

    def __init__(self, archive: Readable, known: Knowledge) -> None:
        self.kept: set[str] = set()
        self._known = known
        self._archive = archive
        self._decided: dict[str, Method] = {}

    def __call__(self, layer: StoredBlob) -> Method:
        """What becomes of *layer*. Raises ArchiveError when it cannot be read."""
        key = blob_key(layer)
        if key not in self._decided:
            self._decided[key] = self._decide(layer, key)
        return self._decided[key]

    def _decide(self, layer: StoredBlob, key: str) -> Method:
        method = raw_layer_decision(layer, compress=True)
        member = layer.member
        if method is not Method.COMPRESS or member is None:
            return method
        if layer.compression is not Compression.NONE or layer.diff_id is None:
            return method
        if self._known.was_compressed(layer.diff_id):
            return method
        if not self._known.stays_raw(layer.diff_id):
            if shrinks(
                lambda offset: self._archive.open_at(member, offset), layer.size
            ):
                return method
            self._known.keep_raw(layer.diff_id, layer.size)
        self.kept.add(key)
        return raw_layer_decision(layer, compress=False)


def raw_layer_decision(layer: StoredBlob, *, compress: bool) -> Method:
    """What becomes of *layer* when raw ones are to be compressed, or are not.

    Only a layer of an image is ever compressed; the other blobs of an artifact, such as
    an attestation's statements, mean their exact bytes. bzip2 and xz have no media type
    of their own, so such a layer is packed anew.
    """
    if layer.member is None:
        return Method.FOREIGN
    if not _is_layer(layer):
        return Method.AS_IS
    odd = layer.compression in (Compression.BZIP2, Compression.XZ)
    if odd or (compress and _is_plain(layer)):
        return Method.COMPRESS
    return Method.RELABEL if layer.is_mislabelled else Method.AS_IS


def _is_layer(layer: StoredBlob) -> bool:
    """True for a layer of an image that may be unpacked."""
    is_one = compression_of_type(layer.media_type) is not None
    return layer.diff_id is not None and (layer.descriptor is None or is_one)


def _is_plain(layer: StoredBlob) -> bool:
    plain = compression_of_type(layer.actual_type) is Compression.NONE
    return plain and layer.compression is Compression.NONE
