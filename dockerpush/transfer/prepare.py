"""Planned blobs made ready to be sent, and what is worth compressing.

A blob that goes as it is becomes a window on its source. One that must be read first
(to be compressed, or to learn its digest) is read by one thread; the bytes of a
compressed one then lie in a spool.
"""

from __future__ import annotations

import io
import os
import zlib
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Iterator, Protocol

from ..archive.decompress import digests, open_decompressed, peeked
from ..archive.sniff import HEAD_SIZE, compression_of
from ..archive.spooled import SpoolError, temp_directory
from ..archive.stored import Compression, StoredBlob, compression_of_type
from ..errors import MORE_TEMP_SPACE, ContentMismatch
from ..events import BytesRead, Notice, OnEvent
from ..oci import Descriptor, Digest
from ..system.cancellation import Cancellation
from ..system.workers import Workers, block_threads
from ..upload.content import PIECE, BlobReader, PreparedBlob
from ..upload.early import GrowingBlob
from ..values import replace, value
from .choices import PushOptions
from .compress import Codec, compress
from .plan import Method, PlannedBlob, blob_key
from .spool import TempSpace

if TYPE_CHECKING:
    from ..archive.compressed_streams import Readable
    from ..archive.forward import ForwardArchive
    from ..archive.stored import Member
    from .known import Knowledge


class ReadableArchive(Protocol):
    """The part of an archive that is read."""

    @property
    def path(self) -> Path:
        """Where it is, for messages."""

    def open_at(self, member: str, offset: int = 0) -> io.RawIOBase | io.BytesIO:
        """A reader of *member* from *offset* on, which the caller closes."""


@value
class CompressionStep:
    """What stands between an archive and a target: blobs are read, and compressed.

    *repository* is where the archive is read from, if it is none of files.
    """

    archive: ReadableArchive
    codec: Codec
    options: PushOptions
    repository: str = ""

    @contextmanager
    def opened(
        self, cancellation: Cancellation, on_event: OnEvent
    ) -> Iterator[Preparer]:
        """A preparer; its threads and temp space end with the ``with``."""
        directory = self.options.temp_directory or temp_directory(os.environ)
        with (
            TempSpace(directory, self.options.temp_budget) as space,
            Workers(cancellation, self._threads(), name="block") as blocks,
        ):
            yield Preparer(
                self.archive, self.codec, blocks, space, cancellation, on_event
            )

    def _threads(self) -> int:
        """How many threads compress: a producer that also unpacks fills one core."""
        cores = block_threads()
        return max(1, cores - 1) if self.options.recompress else cores


@value
class Preparer:
    """Reads blobs of one archive; everything it needs, and no state."""

    archive: ReadableArchive
    codec: Codec
    blocks: Workers
    space: TempSpace
    cancellation: Cancellation
    on_event: OnEvent

    def begin(self, planned: PlannedBlob) -> GrowingBlob | None:
        """Room for what *planned* becomes, None where there is none. Raises Cancelled.

        Waits for what others need.
        """
        most = _upper_bound(planned.stored, self.codec)
        if planned.stored.compression is not Compression.NONE:
            most = min(most, self.space.budget)  # an estimate refuses nothing
        spool = self.space.admit(most, self.cancellation)
        return GrowingBlob(planned.key, spool) if spool else None

    def complete(
        self, planned: PlannedBlob, growing: GrowingBlob | None, *, is_read: bool
    ) -> PreparedBlob:
        """*planned*, read once now and compressed into *growing*.

        With *is_read*, another thread reads it meanwhile, so its spool stays open until
        that thread gives it back. A failure leaves it to the temp space, which closes
        when all threads have ended. Raises as `inspect` does, SpoolError.
        """
        if growing is None:
            return self._without_space(planned, "is larger than the free temp space")
        try:
            made = self._compressed(planned, growing)
        except SpoolError as error:
            if planned.stored.compression is not Compression.NONE:
                raise
            made = self._without_space(planned, f"found no room ({error})")
            give_back = partial(self.space.release, growing.spool)
            if is_read:
                made = replace(made, release=give_back)
            else:
                give_back()
            growing.end(made, of_spool=False)
        else:
            growing.end(made, of_spool=True)
        return made

    def _compressed(self, planned: PlannedBlob, growing: GrowingBlob) -> PreparedBlob:
        stored, spool = planned.stored, growing.spool
        with self._open_raw(planned) as reader:
            packed = compress(
                reader,
                growing,
                codec=self.codec,
                blocks=self.blocks,
                cancellation=self.cancellation,
                on_read=lambda count: None,  # what is stored is counted
            )
        check_diff_id(stored, packed.diff_id)
        self.space.settle(spool)
        return PreparedBlob(
            planned.key,
            Descriptor(self.codec.media_type, packed.digest, packed.size),
            spool.open_at,
            lambda: self.space.release(spool),
            made_from=packed.diff_id,
        )

    def _open_raw(self, planned: PlannedBlob) -> io.RawIOBase | io.BytesIO:
        stored = planned.stored
        assert stored.member is not None
        file = self.archive.open_at(stored.member)
        counted = _Counted(file, self._reporter(planned.key))
        head, reader = peeked(counted, HEAD_SIZE)
        return open_decompressed(
            reader, compression_of(head), name=f"layer {stored.member}"
        )

    def inspect(self, planned: PlannedBlob) -> PreparedBlob:
        """A compressed layer of a docker-archive: one pass gives digest and diff_id.

        Raises ContentMismatch when the bytes are not what the config promises,
        ArchiveError, Cancelled.
        """
        stored = planned.stored
        assert stored.member is not None
        found = digests(
            self.archive.open_at(stored.member),
            stored.compression,
            cancellation=self.cancellation,
            on_read=self._reporter(planned.key),
            name=f"layer {stored.member}",
        )
        check_diff_id(stored, found.diff_id)
        return self._window(planned, found.digest)

    def _without_space(self, planned: PlannedBlob, why: str) -> PreparedBlob:
        """*planned* raw and without a spool, since there is no room for one."""
        stored = planned.stored
        if stored.compression is not Compression.NONE or stored.digest is None:
            raise SpoolError(
                f"layer {stored.member} {why} in {self.space.directory}: "
                f"{MORE_TEMP_SPACE}"
            )
        self.on_event(
            Notice(
                f"layer {stored.digest.short} {why}: sent without compression",
                warning=True,
            )
        )
        return self._window(planned, stored.digest)

    def _window(self, planned: PlannedBlob, digest: Digest) -> PreparedBlob:
        stored = planned.stored
        assert stored.member is not None
        return PreparedBlob(
            planned.key,
            Descriptor(stored.actual_type, digest, stored.size),
            partial(self.archive.open_at, stored.member),
        )

    def _reporter(self, key: str) -> Callable[[int], None]:
        return lambda count: self.on_event(BytesRead(key, count))


class _Counted:
    """A file whose stored bytes are counted by *on_read* as they are read."""

    def __init__(self, file: Readable, on_read: Callable[[int], None]) -> None:
        self._file = file
        self._on_read = on_read
        self.close = file.close

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill *buffer* as far as the next bytes go; 0 at the end."""
        count = self._file.readinto(buffer) or 0
        self._on_read(count)
        return count


_GROWTH = {Compression.GZIP: 2, Compression.ZSTD: 2, Compression.NONE: 6}
"""How much larger a layer that was compressed may become, as a guess."""


def _upper_bound(stored: StoredBlob, codec: Codec) -> int:
    """Bytes that a spool of *stored* may take: incompressible data grows a little."""
    raw = stored.compression is Compression.NONE
    size = stored.size * (1 if raw else _GROWTH[codec.compression])
    return size + size // 1000 + 64 * 1024


def check_diff_id(stored: StoredBlob, found: Digest) -> None:
    """Raises ContentMismatch when the content of a layer is not what it should be."""
    if found.contradicts(stored.content_digest):
        raise ContentMismatch(
            f"layer {stored.member}: its content has the digest {found}, the image's "
            f"config says {stored.diff_id}; the archive is damaged, save it again"
        )


COUNT = 16
WORTH = 0.9
"""The part of its size to which a layer must shrink, else it is sent as it is."""


class Sample:
    """COUNT blocks of a layer, spread evenly, that stand for the whole.

    zlib judges them whatever compresses later, so the same bytes give the same answer
    everywhere. What one block grows by does not count, so an answer once found stands.
    """

    def __init__(self, size: int) -> None:
        """*size* is that of the layer in bytes."""
        self._size = size
        self._waiting = [(offset, bytearray()) for offset in sample_offsets(size)]
        self._block = sample_size(size)
        self._total = len(self._waiting) * self._block
        self._position = 0
        self._judged = self._gained = 0

    @property
    def shrinks(self) -> bool:
        """True when what was judged gets smaller by compression."""
        return self._gained > self._judged * (1 - WORTH)

    @property
    def is_settled(self) -> bool:
        """True when `shrinks` is, whatever the blocks to come are."""
        return self._gained > self._total * (1 - WORTH)

    def feed(self, piece: memoryview) -> None:
        """The next bytes of the layer, for who reads it from the first to the last."""
        start, end = self._position, self._position + len(piece)
        self._position = end
        for offset, block in self._waiting:
            if offset >= end:
                break
            last = min(offset + self._block, self._size)
            block += piece[max(offset - start, 0) : max(last - start, 0)]
            if last <= end:
                self.judge(block)
        self._waiting = [
            one
            for one in self._waiting
            if min(one[0] + self._block, self._size) > end and not self.is_settled
        ]

    def judge(self, block: bytes | bytearray) -> None:
        """Take *block* into account."""
        self._judged += len(block)
        self._gained += max(len(block) - len(zlib.compress(block, 1)), 0)


def shrinks(open_at: Callable[[int], BlobReader], size: int) -> bool:
    """True when a layer of *size* bytes gets smaller by compression.

    Raises what the readers of *open_at* raise.
    """
    sample, block = Sample(size), sample_size(size)
    for offset in sample_offsets(size):
        if sample.is_settled:
            break
        with closing(open_at(offset)) as reader:
            sample.judge(_read(reader, min(block, size - offset)))
    return sample.shrinks


def layer_shrinks(archive: ReadableArchive, layer: StoredBlob) -> bool:
    """What a sample of *layer* of *archive* says. Raises ArchiveError."""
    member = layer.member
    assert member is not None, "a layer that is elsewhere is not compressed"
    return shrinks(lambda offset: archive.open_at(member, offset), layer.size)


def sample_size(size: int) -> int:
    """Bytes of a block of the sample of a layer of *size* bytes."""
    return max(16 * 1024, min(size // 64, 64 * 1024))


def sample_offsets(size: int) -> list[int]:
    """Where the blocks begin; fewer blocks when that many would overlap."""
    block = sample_size(size)
    count = min(COUNT, -(-size // block))
    last = size - block
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


class Samples:
    """What samples of the layers of an archive that is read once show."""

    def __init__(self) -> None:
        self._shrinks: dict[str, bool] = {}

    def visit(self, archive: ForwardArchive, member: Member) -> None:
        """Read the current file of *archive*, which is *member*, if it may be raw."""
        if archive.is_tar():
            sample = Sample(member.size)
            buffer = memoryview(bytearray(PIECE))
            while count := archive.readinto(buffer):
                sample.feed(buffer[:count])
            self._shrinks[member.name] = sample.shrinks

    def __call__(self, layer: StoredBlob) -> bool:
        """True for a layer that shrinks, and for one that was not visited."""
        return self._shrinks.get(layer.member or "", True)


class AutoCompression:
    """gzip for raw layers, but as they are for those that would not shrink.

    *shrinks* samples a layer. The sample is the same for the same bytes, so is the
    decision; each layer is sampled once, and not at all when *known* says what became
    of it before. *sampled* holds the keys of those whose samples did not shrink.
    """

    def __init__(self, shrinks: Callable[[StoredBlob], bool], known: Knowledge) -> None:
        self.sampled: set[str] = set()
        self._known = known
        self._shrinks = shrinks
        self._decided: dict[str, Method] = {}

    def __call__(self, layer: StoredBlob) -> Method:
        """What becomes of *layer*. Raises ArchiveError when it cannot be read.

        Two blobs with the same bytes may be a layer here, and an artifact's file there.
        """
        method = raw_layer_decision(layer, compress=True)
        if method is not Method.COMPRESS:
            return method
        key = blob_key(layer)
        if key not in self._decided:
            self._decided[key] = self._decide(layer, key)
        return self._decided[key]

    def _decide(self, layer: StoredBlob, key: str) -> Method:
        if layer.compression is not Compression.NONE or layer.diff_id is None:
            return Method.COMPRESS
        if self._known.was_compressed(layer.diff_id):
            return Method.COMPRESS
        if not self._known.stays_raw(layer.diff_id):
            if self._shrinks(layer):
                return Method.COMPRESS
            self._known.keep_raw(layer.diff_id, layer.size)
            self.sampled.add(key)
        return raw_layer_decision(layer, compress=False)


def raw_layer_decision(layer: StoredBlob, *, compress: bool) -> Method:
    """What becomes of *layer* when raw ones are to be compressed, or are not.

    Only a layer of an image is ever compressed; the other blobs of an artifact, such as
    an attestation's statements, mean their exact bytes. bzip2 and xz have no media type
    of their own, so such a layer is compressed again.
    """
    if layer.member is None:
        return Method.FOREIGN
    if not _is_layer(layer):
        return Method.AS_IS
    odd = layer.compression in (Compression.BZIP2, Compression.XZ)
    if odd or (compress and _is_plain(layer)):
        return Method.COMPRESS
    return Method.RELABEL if layer.is_mislabelled else Method.AS_IS


def recompression_decision(layer: StoredBlob, *, wanted: Compression) -> Method:
    """What becomes of *layer* when every layer of an image is to be *wanted*.

    What is so already stays byte for byte.
    """
    method = raw_layer_decision(layer, compress=False)
    if method is Method.FOREIGN or not _is_layer(layer):
        return method
    return method if layer.compression is wanted else Method.COMPRESS


def decision(options: PushOptions) -> Callable[[StoredBlob], Method]:
    """What becomes of a layer by *options* but ``auto``, which looks at the layer."""
    if options.recompress:
        return partial(recompression_decision, wanted=Compression(options.compress))
    return partial(raw_layer_decision, compress=options.compress != "none")


def _is_layer(layer: StoredBlob) -> bool:
    """True for a layer of an image that may be unpacked."""
    is_one = compression_of_type(layer.media_type) is not None
    return layer.diff_id is not None and (layer.descriptor is None or is_one)


def _is_plain(layer: StoredBlob) -> bool:
    plain = compression_of_type(layer.actual_type) is Compression.NONE
    return plain and layer.compression is Compression.NONE
