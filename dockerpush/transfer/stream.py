"""A push from an archive that is read once, forward: a pipe or a compressed file.

Threads: the producer reads the members as they come; each layer is compressed or copied
into a spool and handed to the uploaders at once. What the layers belong to is known at
the end, when the manifests are built from what was kept in memory; tags come last, as
always. Nothing of the archive is ever whole on disk.

What a stream takes a blob for before its manifest comes, and whether it was right.

The manifests may be the last members of an archive. So a blob that comes by is judged
by its bytes, and compressed or copied at once. Once the manifests are known, the plan
says what a plain file would have done; where that differs, nothing may be stored.
"""

from __future__ import annotations

import hashlib
import io
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Callable, ContextManager, Mapping, Sequence

from ..archive.contents import blob_digest
from ..archive.decompress import digests, open_decompressed
from ..archive.sniff import compression_of
from ..archive.stored import Compression, Member, StoredBlob, StoredImage
from ..errors import ArchiveError, ContentMismatch
from ..events import (
    BlobFinished,
    BlobPlanned,
    BytesRead,
    Notice,
    Outcome,
)
from ..oci import OCI_LAYER, Descriptor, Digest
from ..system.cancellation import Cancellation
from ..upload.content import PIECE, PreparedBlob
from ..values import replace, value
from .choices import PushOptions, PushResult
from .compress import Codec, compress
from .known import Knowledge, Shortcuts
from .plan import Method, Plan, PlannedBlob, PlannedManifest, PlannedOther, plan_push
from .prepare import CompressionStep, raw_layer_decision
from .push_image import (
    codec_of,
    knowledge_of,
    push_planned,
    trusted_image,
    without_sampling,
)
from .registry_target import RegistryTarget, UploadResult
from .spool import Pools, Spool, SpoolError, open_pools

if TYPE_CHECKING:
    from hashlib import _Hash

    from ..archive.forward import ForwardArchive


@value
class StreamedLayer:
    """A blob that went by: what it was in the archive, and what became of it."""

    stored: Digest | None
    diff_id: Digest | None
    result: Future[UploadResult]


def guess(compression: Compression, *, is_tar: bool, compress: bool) -> Method:
    """What to do with a blob of which nothing but its first bytes is known.

    bzip2 and xz have no media type of their own, so a layer must be packed anew.
    """
    if compression is Compression.NONE:
        return Method.COMPRESS if compress and is_tar else Method.AS_IS
    known = compression in (Compression.GZIP, Compression.ZSTD)
    return Method.AS_IS if known else Method.COMPRESS


def members_of(plan: Plan) -> dict[str, PlannedBlob]:
    """The members of the archive that *plan* needs, and what becomes of each."""
    return {
        blob.stored.member: blob
        for blob in plan.blobs
        if blob.stored.member is not None
    }


def wrong_guess(
    plan: Plan, passed: Mapping[str, StreamedLayer], image: StoredImage
) -> ArchiveError | None:
    """What to say of the first blob that did not become what *plan* wants of it."""
    methods = {blob.key: blob.method for blob in plan.blobs}
    for manifest in plan.leaves():
        for key, layer in zip(manifest.layers, manifest.stored.layers):
            went = passed.get(layer.member or "")
            method = _wanted(manifest, methods[key])
            if went is not None and _is_wrong(method, _became(layer, went)):
                return _error(layer, method, image)
    return None


def _wanted(manifest: PlannedManifest | PlannedOther, method: Method) -> Method:
    """A manifest that stays byte for byte needs its blobs so, whatever others want."""
    return Method.AS_IS if manifest.verbatim else method


def _is_wrong(wanted: Method, became: Method) -> bool:
    return (wanted is Method.COMPRESS) is not (became is Method.COMPRESS)


def _became(layer: StoredBlob, passed: StreamedLayer) -> Method:
    same = passed.result.result().descriptor.digest == (layer.digest or passed.stored)
    return Method.AS_IS if same else Method.COMPRESS


def _error(layer: StoredBlob, method: Method, image: StoredImage) -> ArchiveError:
    root = image.root or image.entry
    digest = str(root.descriptor.digest) if root and root.descriptor else ""
    label = (*image.names, *image.tags, digest, "")[0]
    what = f"{label}: its blob {layer.digest or layer.member} ({layer.media_type})"
    why = (
        "does not begin as a tar does, so it was not compressed"
        if method is Method.COMPRESS
        else "must stay as it is, but was compressed before its manifest came"
    )
    return ArchiveError(
        f"{what} {why}; write the archive to a file, unpacked, and push the file "
        "instead"
    )


Select = Callable[[Sequence[StoredImage]], StoredImage]
Reopen = Callable[[], "ContextManager[ForwardArchive]"]


def push_stream(
    target: RegistryTarget,
    archive: ForwardArchive,
    select: Select,
    *,
    tags: Sequence[str],
    options: PushOptions,
    image: StoredImage | None = None,
    again: Reopen | None = None,
) -> PushResult:
    """Make *target* hold the image of *archive* that *select* chooses.

    *archive* is read once, forward. *image* is what *select* chooses, where an earlier
    reading has told that; otherwise all layers are sent. *again* opens the archive once
    more, where that can be done: a blob that turns out to have been compressed although
    it must stay as it is needs a second reading. ``auto`` means gzip here, since nobody
    can look ahead. Raises as `push_image` does.
    """
    options = without_sampling(options)
    codec = codec_of(options)
    known = knowledge_of(target, codec, options, trusted_image(target, tags, options))
    push = StreamPush(target, archive, codec, options, known, select, image)
    return push.run(tags, again)


@value
class StreamPush:
    """One archive on its way, while it is being read.

    *select* chooses among the images once they are known. *image* is what it chooses
    where an earlier reading has told that, None when nobody knows yet.
    """

    target: RegistryTarget
    archive: ForwardArchive
    codec: Codec
    options: PushOptions
    known: Knowledge
    select: Select
    image: StoredImage | None = None

    def run(self, tags: Sequence[str], again: Reopen | None = None) -> PushResult:
        """Push, and name the result by each of *tags*.

        *again* opens the archive once more, for when a guess about a blob was wrong;
        None for what can be read only once. Raises ArchiveError, ContentMismatch,
        SpoolError, RegistryError, NetworkError, Cancelled; then no tag was moved.
        """
        done = self._attempt(tags)
        if isinstance(done, PushResult):
            return done
        if again is None or self.image is not None:
            with self.archive.explained():
                raise done
        with self.archive.explained():
            image = self.select(self.archive.index.images())
        with again() as archive:
            return replace(self, archive=archive, image=image).run(tags)

    def _attempt(self, tags: Sequence[str]) -> PushResult | ArchiveError:
        """What was pushed; else what to say of a wrong guess, and nothing is stored.

        It is no exception, since that would cancel all work.
        """
        wanted = None if self.image is None else members_of(self._plan(self.image))
        with open_pools(self.options, self.target.cancellation) as pools:
            reader = _Reader(self, pools, wanted)
            passed = pools.producer.wait([pools.producer.submit(reader.run)])[0]
            pools.uploads.wait([blob.result for blob in passed.values()])
            with self.archive.explained():
                image = self.select(self.archive.index.images())
            plan = self._plan(image)
            wrong = wrong_guess(plan, passed, image)
            return wrong or self._finish(tags, plan, passed)

    def _finish(
        self, tags: Sequence[str], plan: Plan, passed: Mapping[str, StreamedLayer]
    ) -> PushResult:
        """Send what was kept in memory, store and tag; what went by is there."""
        self._report(plan)
        done = {
            blob.key: passed[blob.stored.member or ""].result.result()
            for blob in plan.blobs
            if blob.stored.member in passed and _check(blob.stored, passed)
        }
        kept = Kept(Path(self.archive.name), self.archive.index.documents)
        return push_planned(
            self.target,
            plan,
            tags=tags,
            shortcuts=Shortcuts(self.target, self.known, self.options.jobs, done=done),
            step=CompressionStep(kept, self.codec, self.options),
        )

    def _plan(self, image: StoredImage) -> Plan:
        """What a push of a plain file would do with *image*."""
        compress = self.options.compress != "none"
        return plan_push(
            image,
            partial(raw_layer_decision, compress=compress),
            platforms=self.options.platforms,
            strict=self.options.strict,
        )

    def _report(self, plan: Plan) -> None:
        rebuilt = any(
            manifest.stored.raw is not None and not manifest.verbatim
            for manifest in plan.manifests()
        )
        if rebuilt:
            self.target.on_event(
                Notice(
                    "raw layers were compressed, so the manifest has a new digest; "
                    "--compress none keeps the old one",
                    minor=True,
                )
            )


class _Reader:
    """The producer thread's work: every file of the archive, as it comes."""

    def __init__(
        self,
        push: StreamPush,
        pools: Pools,
        wanted: Mapping[str, PlannedBlob] | None,
    ) -> None:
        self._push = push
        self._wanted = wanted
        self._space = pools.space
        self._blocks = pools.blocks
        self._uploads = pools.uploads
        self._cancellation: Cancellation = push.target.cancellation
        self._on_event = push.target.on_event

    def run(self) -> dict[str, StreamedLayer]:
        """What went by, by the name of the member; the last of a name counts."""
        passed = {}
        for member in self._push.archive.files():
            self._cancellation.check()
            if self._wanted is None or member.name in self._wanted:
                passed[member.name] = self._pass(member)
        return passed

    def _pass(self, member: Member) -> StreamedLayer:
        archive = self._push.archive
        self._on_event(BlobPlanned(member.name, member.size))
        named = blob_digest(member.name)
        compression = compression_of(archive.index.heads[member.name])
        if self._wanted is not None:
            planned = self._wanted[member.name]
            method, named = planned.method, named or planned.stored.digest
        else:
            compress = self._push.options.compress != "none"
            is_tar = archive.is_tar()
            method = guess(compression, is_tar=is_tar, compress=compress)
        if method is not Method.COMPRESS:
            return self._copied(member, named, compression)
        raw = named if compression is Compression.NONE else None
        return self._compressed(member, raw, compression)

    def _copied(
        self, member: Member, named: Digest | None, compression: Compression
    ) -> StreamedLayer:
        """The file as it is; it is unpacked beside only to learn its diff_id."""
        there = named is not None and self._is_there(named, member.size)
        if named is not None and there:
            became = _described(named, member.size, compression)
            return self._skip_existing(member, named, None, became, Outcome.EXISTS)
        spool = self._admit(member.size, member)
        tee = _Tee(self._push.archive, spool)
        if named is not None or compression is Compression.NONE:
            hasher = named.hasher() if named else hashlib.sha256()
            found = _hash(tee, hasher, self._cancellation, self._reporter(member))
            digest, diff_id = found, found if compression is Compression.NONE else None
        else:
            both = digests(
                tee,
                compression,
                cancellation=self._cancellation,
                on_read=self._reporter(member),
                name=f"layer {member.name}",
            )
            digest, diff_id = both.digest, both.diff_id
        _check_name(member, named, digest)
        became = _described(digest, spool.size, compression)
        return self._sent(member, digest, diff_id, self._spooled(member, became, spool))

    def _compressed(
        self, member: Member, named: Digest | None, compression: Compression
    ) -> StreamedLayer:
        """The file packed anew; it is only read when it is known what it became."""
        layer = self._push.known.reusable_layer(named) if named else None
        outcome = self._reusable(layer) if layer else None
        if named and layer and outcome:
            return self._skip_existing(member, named, named, layer, outcome)
        codec = self._push.codec
        source = open_decompressed(
            self._push.archive, compression, name=f"layer {member.name}"
        )
        spool = self._admit(member.size + member.size // 1000 + PIECE, member)
        packed = compress(
            source,
            spool,
            codec=codec,
            blocks=self._blocks,
            cancellation=self._cancellation,
            on_read=self._reporter(member),
        )
        _check_name(member, named, packed.diff_id)
        became = Descriptor(codec.media_type, packed.digest, packed.size)
        prepared = replace(
            self._spooled(member, became, spool), made_from=packed.diff_id
        )
        stored = packed.diff_id if compression is Compression.NONE else None
        return self._sent(member, stored, packed.diff_id, prepared)

    def _spooled(
        self, member: Member, became: Descriptor, spool: Spool
    ) -> PreparedBlob:
        self._space.settle(spool)
        return PreparedBlob(
            member.name, became, spool.open_at, lambda: self._space.release(spool)
        )

    def _sent(
        self,
        member: Member,
        stored: Digest | None,
        diff_id: Digest | None,
        prepared: PreparedBlob,
    ) -> StreamedLayer:
        return StreamedLayer(
            stored, diff_id, self._uploads.submit(self._send, prepared)
        )

    def _send(self, prepared: PreparedBlob) -> UploadResult:
        """An uploader thread's work."""
        target = self._push.target
        try:
            holders = target.holders(prepared.descriptor.digest)
            return target.put_blob(prepared, holders)
        finally:
            prepared.release()

    def _skip_existing(
        self,
        member: Member,
        stored: Digest,
        diff_id: Digest | None,
        became: Descriptor,
        outcome: Outcome,
    ) -> StreamedLayer:
        """The registry holds it: the file is passed over without being read."""
        self._on_event(BlobFinished(member.name, became.digest, became.size, outcome))
        result: Future[UploadResult] = Future()
        result.set_result(UploadResult(became, outcome))
        return StreamedLayer(stored, diff_id, result)

    def _is_there(self, digest: Digest, size: int) -> bool:
        target = self._push.target
        return target.client.has_blob(
            target.repository, Descriptor(OCI_LAYER, digest, size)
        )

    def _reusable(self, layer: Descriptor) -> Outcome | None:
        """How the registry holds what the layer became before; None: it does not."""
        if self._is_there(layer.digest, layer.size):
            return Outcome.REUSED
        target = self._push.target
        holders = target.holders(layer.digest)
        return Outcome.MOUNTED if holders and target.mount(layer, holders) else None

    def _admit(self, size: int, member: Member) -> Spool:
        spool = self._space.admit(size, self._cancellation)
        if spool is None:
            raise SpoolError(
                f"layer {member.name} is larger than the free temp space in "
                f"{self._space.directory}: free some space there, or set TMPDIR to a "
                "larger directory"
            )
        return spool

    def _reporter(self, member: Member) -> Callable[[int], None]:
        return lambda count: self._on_event(BytesRead(member.name, count))


@value
class Kept:
    """The small files of an archive that was read forward, kept in memory."""

    path: Path
    documents: Mapping[str, bytes]

    def open_at(self, member: str, offset: int = 0) -> io.BytesIO:
        """A reader of *member* from *offset* on."""
        return io.BytesIO(self.documents[member][offset:])


def _described(digest: Digest, size: int, compression: Compression) -> Descriptor:
    media_type = StoredBlob(None, size, compression, digest).media_type
    return Descriptor(media_type, digest, size)


class _Tee(io.RawIOBase):
    """The current file of an archive, written to a spool as it is read."""

    def __init__(self, archive: ForwardArchive, spool: Spool) -> None:
        super().__init__()
        self._archive = archive
        self._spool = spool

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        view = memoryview(buffer).cast("B")
        count = self._archive.readinto(view)
        if count:
            self._spool.write(bytes(view[:count]))
        return count


def _hash(
    source: _Tee,
    hasher: _Hash,
    cancellation: Cancellation,
    on_read: Callable[[int], None],
) -> Digest:
    buffer = memoryview(bytearray(PIECE))
    while count := source.readinto(buffer):
        cancellation.check()
        hasher.update(buffer[:count])
        on_read(count)
    return Digest.from_hash(hasher)


def _check_name(member: Member, named: Digest | None, found: Digest) -> None:
    if found.contradicts(named):
        raise ContentMismatch(
            f"{member.name}: its bytes have the digest {found}; the archive is "
            "damaged, save it again"
        )


def _check(stored: StoredBlob, passed: Mapping[str, StreamedLayer]) -> bool:
    """Raises ContentMismatch unless the layer is what the config promises."""
    assert stored.member is not None, "what went by has a name"
    found = passed[stored.member].diff_id
    if found is not None and found.contradicts(stored.content_digest):
        raise ContentMismatch(
            f"layer {stored.member}: its content has the digest {found}, the image's "
            f"config says {stored.diff_id}; the archive is damaged, save it again"
        )
    return True
