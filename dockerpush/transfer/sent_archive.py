"""What a stream was, read back from what was kept of it, and from what was sent."""

from __future__ import annotations

import io
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Iterator, Mapping

from ..archive.decompress import open_decompressed
from ..archive.sniff import compression_of
from ..archive.stored import Compression, StoredBlob, compression_of_type
from ..errors import ArchiveError, Cancelled, ContentMismatch, PusherError
from ..oci import Digest
from ..system.streams import RawReader
from ..upload.content import PIECE
from ..values import value
from .plan import Method, Plan
from .prepare import layer_shrinks
from .registry_target import RegistryTarget
from .target import UploadResult

if TYPE_CHECKING:
    from ..archive.compressed_streams import Readable
    from ..archive.forward import ForwardArchive


@value
class StreamedLayer:
    """A blob that went by: what it was in the archive, and what became of it.

    *stored* and *diff_id* are the digests of its bytes and of what they hold, as far as
    they were found. *shrinks* is the result of its sample, None without one.
    """

    method: Method
    stored: Digest | None
    diff_id: Digest | None
    result: Future[UploadResult]
    shrinks: bool | None = None

    def becomes(self, method: Method) -> bool:
        """True when this is what *method* makes of the blob."""
        return (method is Method.COMPRESS) is (self.method is Method.COMPRESS)


def finished(
    plan: Plan, passed: Mapping[str, StreamedLayer]
) -> dict[str, UploadResult]:
    """By key what has become what *plan* wants of it.

    Raises ContentMismatch for what is not what the manifest or the config promises.
    """
    found = {}
    for blob in plan.blobs:
        went = passed.get(blob.stored.member or "")
        if went is not None:
            _check(blob.stored, went)
            if went.becomes(blob.method):
                found[blob.key] = went.result.result()
    return found


def _check(stored: StoredBlob, passed: StreamedLayer) -> None:
    pairs = (
        (passed.stored, stored.digest, "its bytes have", "its name"),
        (passed.diff_id, stored.content_digest, "its content has", "the config"),
    )
    for found, wanted, what, who in pairs:
        if found is not None and found.contradicts(wanted):
            raise ContentMismatch(
                f"layer {stored.member}: {what} the digest {found}, {who} of the image "
                f"says {wanted}; the archive is damaged, save it again"
            )


class SentArchive:
    """The archive as it can be read once it is gone: from what was kept and sent."""

    def __init__(
        self,
        target: RegistryTarget,
        archive: ForwardArchive,
        passed: Mapping[str, StreamedLayer],
    ) -> None:
        self.path = Path(archive.name)
        self.documents: Mapping[str, bytes] = _Documents(self)
        self.kept = archive.index.documents
        self._heads = archive.index.heads
        self._target = target
        self._passed = passed

    def open_at(self, member: str, offset: int = 0) -> io.RawIOBase:
        """A reader of *member* from *offset* on, as it was in the archive.

        It raises ArchiveError for what cannot be read back.
        """
        if member in self.kept:
            return _Reading(io.BytesIO(self.kept[member][offset:]), member)
        sent = self._passed[member].result.result().descriptor
        if self._passed[member].method is not Method.COMPRESS:
            return _Reading(self._download(sent.digest, offset), member)
        if compression_of(self._heads[member]) is not Compression.NONE:
            raise ArchiveError("only its content was sent")
        packing = compression_of_type(sent.media_type) or Compression.NONE
        packed = open_unpacked(self._download(sent.digest, 0), packing, member, offset)
        return _Reading(packed, member)

    def document(self, member: str) -> bytes:
        """All of *member*, which is small. Raises KeyError when it did not go by."""
        if member in self.kept:
            return self.kept[member]
        self._passed[member]
        with self.open_at(member) as reader:
            return reader.readall()

    def layer_shrinks(self, layer: StoredBlob) -> bool:
        """The result of the sample of *layer*, which is taken now if need be."""
        went = self._passed.get(layer.member or "")
        if went is not None and went.shrinks is not None:
            return went.shrinks
        return layer_shrinks(self, layer)

    def _download(self, digest: Digest, offset: int) -> Readable:
        return self._target.client.download(self._target.repository, digest, offset)


class _Documents(Mapping[str, bytes]):
    """The documents of an archive that is gone, also those that were sent as blobs."""

    def __init__(self, archive: SentArchive) -> None:
        self._archive = archive

    def __getitem__(self, name: str) -> bytes:
        return self._archive.document(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._archive.kept)

    def __len__(self) -> int:
        return len(self._archive.kept)


class _Reading(RawReader):
    """*file*, whose failures are those of the archive's *member*."""

    def __init__(self, file: Readable, member: str) -> None:
        super().__init__()
        self._file = file
        self._member = member

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        view = memoryview(buffer).cast("B")
        try:
            return self._file.readinto(view) or 0
        except (ArchiveError, Cancelled):
            raise
        except PusherError as error:
            raise ArchiveError(f"{self._member}: {error}") from error

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._file.close()


def open_unpacked(
    packed: Readable, compression: Compression, name: str, offset: int
) -> io.RawIOBase:
    """What *compressed* holds, from *offset* on; raises as `open_decompressed` does."""
    reader = open_decompressed(packed, compression, name=f"layer {name}")
    buffer = memoryview(bytearray(PIECE))
    while offset:
        count = reader.readinto(buffer[:offset])
        if not count:
            break
        offset -= count
    return reader
