"""Planned blobs made ready to be sent.

A blob that goes as it is becomes a window on the archive. One that must be read first
(to be compressed, or to learn its digest) is read by the producer thread alone; the
bytes of a compressed one then lie in a spool.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Callable, Mapping, Protocol

from ..archive.decompress import digests, open_decompressed
from ..archive.stored import Compression, StoredBlob, StoredManifest
from ..errors import ContentMismatch
from ..events import BytesRead, Notice, OnEvent
from ..oci import OCI_LAYER, Descriptor, Digest
from ..system.cancellation import Cancellation
from ..system.workers import Workers
from ..upload.content import BlobReader, PreparedBlob
from ..values import value
from .compress import Codec, compress
from .manifests import SentBlob
from .plan import Method, PlannedBlob
from .spool import Spool, SpoolError, TempSpace


class Readable(Protocol):
    """The part of an archive that makers need."""

    path: Path

    def open_at(self, member: str, offset: int = 0) -> io.RawIOBase:
        """A reader of *member* from *offset* on, which the caller closes."""


@value
class MadeBlob:
    """A blob ready to be sent, beside what the manifest will say of it."""

    prepared: PreparedBlob
    sent: SentBlob


@value
class LayerMaker:
    """Makes blobs of one archive; everything it needs, and no state."""

    archive: Readable
    codec: Codec
    blocks: Workers
    space: TempSpace
    cancellation: Cancellation
    on_event: OnEvent

    def needs_reading(self, planned: PlannedBlob) -> bool:
        """True when the producer thread must read the blob before it can be sent."""
        return planned.method is Method.COMPRESS or planned.stored.digest is None

    def window(self, planned: PlannedBlob) -> MadeBlob:
        """*planned*, whose digest the archive tells, straight from the archive."""
        assert planned.stored.digest is not None
        return self._window(planned, planned.stored.digest, planned.stored.size)

    def read(self, planned: PlannedBlob) -> MadeBlob:
        """*planned*, read once now; called on the producer thread.

        Raises ContentMismatch when the bytes are not what the config promises,
        ArchiveError, SpoolError, Cancelled.
        """
        if planned.method is not Method.COMPRESS:
            return self._inspected(planned)
        spool = self.space.admit(_upper_bound(planned.stored), self.cancellation)
        if spool is None:
            return self._without_space(planned, "is larger than the free temp space")
        try:
            return self._compressed(planned, spool)
        except SpoolError as error:
            self.space.release(spool)
            if planned.stored.compression is not Compression.NONE:
                raise
            return self._without_space(planned, f"found no room ({error})")
        except BaseException:
            self.space.release(spool)
            raise

    def _compressed(self, planned: PlannedBlob, spool: Spool) -> MadeBlob:
        stored = planned.stored
        with self._open_raw(stored) as reader:
            packed = compress(
                reader,
                spool,
                codec=self.codec,
                blocks=self.blocks,
                cancellation=self.cancellation,
                on_read=self._reporter(planned.key),
            )
        _check_diff_id(stored, packed.diff_id)
        self.space.settle(spool)
        sent = SentBlob(
            packed.digest,
            packed.size,
            self.codec.compression,
            made_from=packed.diff_id,
        )
        return MadeBlob(
            PreparedBlob(
                planned.key,
                Descriptor(self.codec.media_type, packed.digest, packed.size),
                spool.open_at,
                lambda: self.space.release(spool),
            ),
            sent,
        )

    def _open_raw(self, stored: StoredBlob) -> io.RawIOBase:
        assert stored.member is not None
        reader = self.archive.open_at(stored.member)
        if stored.compression is Compression.NONE:
            return reader
        return open_decompressed(
            reader, stored.compression, name=f"layer {stored.member}"
        )

    def _inspected(self, planned: PlannedBlob) -> MadeBlob:
        """A compressed layer of a docker-archive: one pass tells digest and diff_id."""
        stored = planned.stored
        assert stored.member is not None
        found = digests(
            self.archive.open_at(stored.member),
            stored.compression,
            cancellation=self.cancellation,
            on_read=self._reporter(planned.key),
            name=f"layer {stored.member}",
        )
        _check_diff_id(stored, found.diff_id)
        return self._window(planned, found.digest, found.size)

    def _without_space(self, planned: PlannedBlob, why: str) -> MadeBlob:
        """*planned* raw and without a spool, since there is no room for one."""
        stored = planned.stored
        if stored.compression is not Compression.NONE or stored.digest is None:
            raise SpoolError(
                f"layer {stored.member} {why} in {self.space.directory}: free some "
                "space there, or set TMPDIR to a larger directory"
            )
        self.on_event(
            Notice(
                f"layer {stored.digest.short} {why}: sent without compression",
                minor=True,
            )
        )
        return self.window(planned)

    def _window(self, planned: PlannedBlob, digest: Digest, size: int) -> MadeBlob:
        member = planned.stored.member
        assert member is not None

        def open_at(offset: int) -> BlobReader:
            return self.archive.open_at(member, offset)

        return MadeBlob(
            PreparedBlob(planned.key, Descriptor(OCI_LAYER, digest, size), open_at),
            SentBlob(digest, size, planned.stored.compression),
        )

    def _reporter(self, key: str) -> Callable[[int], None]:
        return lambda count: self.on_event(BytesRead(key, count))


def config_blob(stored: StoredManifest) -> MadeBlob:
    """The config of *stored*, which is complete; it is in memory anyway."""
    content, descriptor = stored.config, stored.config_descriptor
    assert content is not None, "a complete manifest has its config"
    return _in_memory(str(descriptor.digest), descriptor, content, Compression.NONE)


def memory_blob(
    planned: PlannedBlob,
    documents: Mapping[str, bytes],
    *,
    codec: Codec,
    blocks: Workers,
    cancellation: Cancellation,
) -> MadeBlob:
    """A small blob of an archive that was read forward and kept in memory.

    Raises ContentMismatch when it is not what its name or the config promises,
    ArchiveError, Cancelled.
    """
    key, stored = planned.key, planned.stored
    content = documents[stored.member or ""]
    name = f"layer {stored.member}"
    _check_digest(stored, content)
    if planned.method is not Method.COMPRESS:
        if stored.content_digest is not None:
            found = digests(
                io.BytesIO(content),
                stored.compression,
                cancellation=cancellation,
                on_read=lambda count: None,
                name=name,
            )
            _check_diff_id(stored, found.diff_id)
        digest = stored.digest or Digest.of(content)
        descriptor = Descriptor(stored.media_type, digest, len(content))
        return _in_memory(key, descriptor, content, stored.compression)
    sink = io.BytesIO()
    with open_decompressed(
        io.BytesIO(content), stored.compression, name=name
    ) as reader:
        packed = compress(
            reader,
            sink,
            codec=codec,
            blocks=blocks,
            cancellation=cancellation,
            on_read=lambda count: None,
        )
    _check_diff_id(stored, packed.diff_id)
    descriptor = Descriptor(codec.media_type, packed.digest, packed.size)
    return _in_memory(key, descriptor, sink.getvalue(), codec.compression)


def _in_memory(
    key: str, descriptor: Descriptor, content: bytes, compression: Compression
) -> MadeBlob:
    return MadeBlob(
        PreparedBlob(key, descriptor, lambda offset: io.BytesIO(content[offset:])),
        SentBlob(descriptor.digest, descriptor.size, compression),
    )


def _upper_bound(stored: StoredBlob) -> int:
    """Bytes that a spool of *stored* may take: incompressible data grows a little."""
    return stored.size + stored.size // 1000 + 64 * 1024


def _check_digest(stored: StoredBlob, content: bytes) -> None:
    if stored.digest is None:
        return
    hasher = stored.digest.hasher()
    hasher.update(content)
    found = Digest.from_hash(hasher)
    if found != stored.digest:
        raise ContentMismatch(
            f"{stored.member}: its bytes have the digest {found}; the archive is "
            "damaged, save it again"
        )


def _check_diff_id(stored: StoredBlob, found: Digest) -> None:
    if found.contradicts(stored.content_digest):
        raise ContentMismatch(
            f"layer {stored.member}: its content has the digest {found}, the image's "
            f"config says {stored.diff_id}; the archive is damaged, save it again"
        )
