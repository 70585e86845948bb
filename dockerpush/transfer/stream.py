"""A push from an archive that is read once, forward: a pipe or a compressed file.

Threads: the producer reads the members as they come; each layer is compressed or copied
into a spool and handed to the uploaders at once. What the layers belong to may be known
only at the end. So a blob is judged by what a manifest that came before says of it,
else by its first bytes, and sent.

Once the manifests are known, the plan says what a push of a plain file would do. A blob
that became something else is put right: what was sent is read back from the registry
(and unpacked, if it was compressed), as if it were the archive. That takes no temp disk
but for what is compressed then. Where the registry does not give it back, a file is
read once more, and a pipe is refused by name. Tags come last, as always.
"""

from __future__ import annotations

import io
import zlib
from concurrent.futures import Future
from functools import partial
from typing import (
    TYPE_CHECKING,
    Callable,
    ContextManager,
    Mapping,
    NamedTuple,
    Sequence,
)

from ..archive.contents import blob_digest, config_digest
from ..archive.decompress import digests, open_decompressed
from ..archive.select import label
from ..archive.sniff import compression_of
from ..archive.spooled import Spool, SpoolError
from ..archive.stored import (
    Compression,
    Member,
    StoredBlob,
    StoredImage,
    layers_by_member,
)
from ..errors import (
    MORE_TEMP_SPACE,
    ArchiveError,
    Cancelled,
    ContentMismatch,
    PusherError,
    RegistryError,
)
from ..events import BlobFinished, BlobPlanned, BytesRead, Notice, Outcome
from ..oci import Descriptor, Digest
from ..upload.content import PIECE, PreparedBlob
from ..upload.early import LEAST, GrowingBlob
from ..upload.limits import is_small
from ..values import replace, value
from .choices import PushOptions, PushResult
from .compress import Codec, compress
from .known import Knowledge, Shortcuts, TargetImage
from .manifests import has_lost_blobs
from .plan import Method, Plan
from .prepare import WORTH, CompressionStep, Sample, decision, sample_size
from .push_image import (
    codec_of,
    knowledge_of,
    plan_of,
    push_planned,
    tagged_image,
    trusted_image,
)
from .registry_target import RegistryTarget
from .sent_archive import SentArchive, StreamedLayer, finished, open_unpacked
from .spool import Pools, open_pools
from .streamed_file import StreamedFile
from .target import UploadResult

if TYPE_CHECKING:
    from hashlib import _Hash

    from ..archive.forward import ForwardArchive


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
    reading found that; otherwise all layers are sent. *again* opens the archive once
    more, where that can be done. Raises as `push_image` does.
    """
    codec = codec_of(options)
    trusted = trusted_image(target, tags, options)
    known = knowledge_of(target, codec, options, trusted)
    tagged = tagged_image(target, tags, options, trusted)
    push = StreamPush(target, archive, codec, options, known, tagged, select, image)
    return push.run(tags, again)


class _Again(PusherError):
    """The archive has to be read once more: *plan* says what for.

    *error* is what to say where that cannot be done, *known* what is still believed.
    """

    def __init__(
        self,
        image: StoredImage,
        plan: Plan,
        error: PusherError,
        known: Knowledge,
    ) -> None:
        super().__init__(str(error))
        self.image = image
        self.plan = plan
        self.error = error
        self.known = known


@value
class StreamPush:
    """One archive on its way, while it is being read.

    *tagged* is what was under the target's tag. *select* chooses among the images once
    they are known. *image* is what it chooses where an earlier reading found that, None
    when nobody knows yet. *methods* are what becomes of each member, where an earlier
    attempt has found out.
    """

    target: RegistryTarget
    archive: ForwardArchive
    codec: Codec
    options: PushOptions
    known: Knowledge
    tagged: TargetImage
    select: Select
    image: StoredImage | None = None
    methods: Mapping[str, Method] | None = None

    def run(self, tags: Sequence[str], again: Reopen | None = None) -> PushResult:
        """Push, and name the result by each of *tags*.

        *again* opens the archive once more, None for what can be read only once. Raises
        ArchiveError, ContentMismatch, SpoolError, RegistryError, NetworkError,
        Cancelled; then no tag was moved.
        """
        try:
            return self._attempt(tags)
        except _Again as failed:
            if again is None or self.methods is not None:
                with self.archive.explained():
                    raise failed.error from failed
            methods = {
                blob.stored.member: blob.method
                for blob in failed.plan.blobs
                if blob.stored.member is not None
            }
            with again() as archive:
                more = replace(
                    self,
                    archive=archive,
                    image=failed.image,
                    methods=methods,
                    known=failed.known,
                )
                return more.run(tags)

    def _attempt(self, tags: Sequence[str]) -> PushResult:
        passed = self._read()
        sent = SentArchive(self.target, self.archive, passed)
        with self.archive.explained():
            image = self.select(self.archive.index.images(sent.documents))
            plan = plan_of(
                self.target,
                image,
                options=self.options,
                known=self.known,
                shrinks=sent.layer_shrinks,
            )
            done = finished(plan, passed)
        self._check_can_be_read(sent, image, plan, done)
        self._report(plan)
        try:
            with self.archive.explained():
                return push_planned(
                    self.target,
                    plan,
                    tags=tags,
                    shortcuts=Shortcuts(
                        self.target,
                        self.known,
                        self.options.jobs,
                        replace(self.tagged, blobs=frozenset()),
                        done=done,
                    ),
                    step=CompressionStep(sent, self.codec, self.options),
                )
        except RegistryError as error:
            if not has_lost_blobs(error):
                raise
            raise self._lost(image, plan, done, error) from error

    def _read(self) -> dict[str, StreamedLayer]:
        """Everything that was read and stored."""
        wanted = None if self.image is None else layers_by_member(self.image)
        with open_pools(self.options, self.target.cancellation) as pools:
            reader = _Reader(self, pools, wanted)
            passed = pools.producer.wait([pools.producer.submit(reader.run)])[0]
            pools.uploads.wait([blob.result for blob in passed.values()])
        return passed

    def _check_can_be_read(
        self,
        sent: SentArchive,
        image: StoredImage,
        plan: Plan,
        done: Mapping[str, UploadResult],
    ) -> None:
        """Raises `_Again` unless what has to be put right can be read from *sent*."""
        for blob in plan.moving:
            member = blob.stored.member
            if member is None or member in sent.kept or blob.key in done:
                continue
            try:
                with sent.open_at(member) as reader:
                    reader.readinto(memoryview(bytearray(1)))
            except Cancelled:
                raise
            except PusherError as error:
                what = f"{label(image)}: its blob {blob.stored.digest or member}"
                text = (
                    f"{what} ({blob.stored.media_type}) came before its manifest, was "
                    f"read as another type, and cannot be read back ({error}); "
                    "write the archive to a file, unpacked, and push the file instead"
                )
                raise _Again(image, plan, ArchiveError(text), self.known) from error

    def _lost(
        self,
        image: StoredImage,
        plan: Plan,
        done: Mapping[str, UploadResult],
        error: RegistryError,
    ) -> _Again:
        """Forget what the registry was believed to hold, and does not."""
        sent = {
            one.descriptor.digest
            for one in done.values()
            if one.outcome is Outcome.UPLOADED
        }
        wanted = {blob.descriptor.digest for blob in plan.moving if blob.descriptor}
        wanted |= {one.descriptor.digest for one in done.values()}
        self.target.invalidate(wanted - sent)
        known = self.known.invalidate(plan.blobs)
        text = (
            f"{self.archive.name}: the registry lost blobs that it held before, and a "
            "pipe cannot be read again; run the same command once more, which sends "
            f"them, or push a file ({error})"
        )
        return _Again(image, plan, PusherError(text), known)

    def _report(self, plan: Plan) -> None:
        rebuilt = any(
            blob.method is Method.COMPRESS and blob.stored.descriptor
            for blob in plan.blobs
        )
        if rebuilt:
            self.target.on_event(
                Notice(
                    "raw layers were compressed, so the manifest has a new digest; "
                    "--compress none keeps the old one",
                    minor=True,
                )
            )


class _Current(NamedTuple):
    """The file that goes by: what is known of it when its content begins."""

    member: Member
    named: Digest | None
    compression: Compression
    method: Method
    sample: Sample | None


class _Reader:
    """The producer thread's work: every file of the archive, as it comes."""

    def __init__(
        self,
        push: StreamPush,
        pools: Pools,
        wanted: Mapping[str, StoredBlob] | None,
    ) -> None:
        self._push = push
        self._archive = push.archive
        self._options = push.options
        self._wanted = wanted
        self._space = pools.space
        self._blocks = pools.blocks
        self._uploads = pools.uploads
        self._cancellation = push.target.cancellation
        self._on_event = push.target.on_event
        self._may_be_early = push.target.may_be_early()
        self._remembered = False

    def run(self) -> dict[str, StreamedLayer]:
        """What went by, by the name of the member; the last of a name counts."""
        passed = {}
        for member in self._archive.files():
            self._cancellation.check()
            if self._wanted is None or member.name in self._wanted:
                self._on_event(BlobPlanned(member.name, member.size))
                current = self._judged(member)
                packs = current.method is Method.COMPRESS
                act = self._compressed if packs else self._copied
                passed[member.name] = act(current)
        return passed

    def _judged(self, member: Member) -> _Current:
        stored = (self._wanted or {}).get(member.name)
        told = stored or self._archive.index.layer_of(member)
        named = blob_digest(member.name) or (stored.digest if stored else None)
        compression = compression_of(self._archive.index.heads[member.name])
        raw = compression is Compression.NONE
        methods = self._push.methods
        if methods is not None:
            method = methods[member.name]
        else:
            method = self._guess(member, told, compression)
            diff_id = stored.diff_id if stored else named
            packs = method is Method.COMPRESS
            if raw and packs and not self._is_worth(diff_id, member.size):
                method = Method.AS_IS
        sampled = raw and self._options.compress == "auto"
        sample = Sample(member.size) if sampled else None
        return _Current(member, named, compression, method, sample)

    def _guess(
        self, member: Member, told: StoredBlob | None, compression: Compression
    ) -> Method:
        """By what a manifest says of it, else by its first bytes.

        Only what can be put right is guessed: what was bzip2 or xz cannot be made of
        what it was compressed into. A layer of a docker-archive is known by its name.
        """
        compress = self._options.compress != "none"
        if told is not None:
            return decision(self._options)(told)
        if compression is Compression.NONE:
            packs = compress and self._archive.is_tar()
        else:
            odd = compression in (Compression.BZIP2, Compression.XZ)
            packs = odd and config_digest(member.name) is None
        return Method.COMPRESS if packs else Method.AS_IS

    def _is_worth(self, diff_id: Digest | None, size: int) -> bool:
        """True when the current layer probably shrinks, as far as that counts."""
        known = self._push.known
        if self._options.compress != "auto":
            return True
        if diff_id is not None and known.was_compressed(diff_id):
            return True
        if diff_id is not None and known.stays_raw(diff_id):
            return False
        first = self._archive.peek(sample_size(size))
        return len(zlib.compress(first, 1)) < len(first) * WORTH

    def _copied(self, current: _Current) -> StreamedLayer:
        """The file as it is; it is unpacked beside only to learn its diff_id."""
        member, named, compression = current[:3]
        if named is not None and self._is_there(named, member.size):
            became = _described(named, member.size, compression)
            return self._skip_existing(current, named, None, became, Outcome.EXISTS)
        spool = self._admit(member.size, member)
        source = self._source(current, spool=spool)
        raw = compression is Compression.NONE
        if named is not None or raw:
            digest = source.read_all(named)
            diff_id = digest if raw else None
        else:
            both = digests(
                source,
                compression,
                cancellation=self._cancellation,
                on_read=lambda count: None,
                name=f"layer {member.name}",
            )
            digest, diff_id = both.digest, both.diff_id
        _check_name(member, named, digest)
        became = _described(digest, spool.size, compression)
        prepared = self._spooled(member, became, spool)
        return self._sent(current, Method.AS_IS, (digest, diff_id), prepared)

    def _compressed(self, current: _Current) -> StreamedLayer:
        """The file compressed again; only read if it is not known what it became."""
        member, named, compression = current[:3]
        raw = compression is Compression.NONE
        layer = self._push.known.reusable_layer(named) if named and raw else None
        outcome = self._reusable(layer) if layer else None
        if named and layer and outcome:
            self._remembered = True
            return self._skip_existing(current, named, named, layer, outcome)
        hasher = named.hasher() if named and raw and not named.is_canonical else None
        spool = self._admit(member.size + member.size // 1000 + PIECE, member)
        growing = GrowingBlob(member.name, spool)
        sending = self._sent_early(growing, member.size)
        packed = compress(
            open_decompressed(
                self._source(current, hasher=hasher),
                compression,
                name=f"layer {member.name}",
            ),
            growing,
            codec=self._push.codec,
            blocks=self._blocks,
            cancellation=self._cancellation,
            on_read=lambda count: None,
        )
        found = Digest.from_hash(hasher) if hasher else packed.diff_id
        if raw:
            _check_name(member, named, found)
        stored = (named or packed.diff_id) if raw else None
        both = (stored, packed.diff_id)
        if stored and self._stays_raw(current, packed.diff_id):
            became = _described(stored, packed.raw_size, Compression.NONE)
            unpacked = partial(self._unpacked, spool, member)
            prepared = self._spooled(member, became, spool)
            prepared = replace(prepared, open_at=unpacked)
            growing.end(prepared, of_spool=False)
            return self._sent(current, Method.AS_IS, both, prepared, sending)
        became = Descriptor(self._push.codec.media_type, packed.digest, packed.size)
        prepared = self._spooled(member, became, spool)
        prepared = replace(prepared, made_from=packed.diff_id)
        growing.end(prepared, of_spool=True)
        return self._sent(current, Method.COMPRESS, both, prepared, sending)

    def _sent_early(
        self, growing: GrowingBlob, size: int
    ) -> Future[UploadResult] | None:
        """What comes of *growing*, if it is large and hardly there: the repository is
        new, or earlier runs have made layers beside it."""
        is_new = self._push.target.is_new or self._remembered
        if not (self._may_be_early and is_new and size >= LEAST):
            return None
        return self._uploads.lane(small=False).submit(self._send_early, growing)

    def _send_early(self, growing: GrowingBlob) -> UploadResult:
        """An uploader thread's work."""
        target = self._push.target
        with target.early(growing) as early:
            early.run()
            return self._send(early.made())

    def _stays_raw(self, current: _Current, diff_id: Digest) -> bool:
        """True when the sample, now that all was read, says so."""
        if current.sample is None or self._push.methods is not None:
            return False
        was = self._push.known.was_compressed(diff_id)
        return not was and not current.sample.shrinks

    def _unpacked(self, spool: Spool, member: Member, offset: int) -> io.RawIOBase:
        packing = self._push.codec.compression
        return open_unpacked(spool.open_at(0), packing, member.name, offset)

    def _source(
        self,
        current: _Current,
        *,
        spool: Spool | None = None,
        hasher: _Hash | None = None,
    ) -> StreamedFile:
        name = current.member.name

        def report(count: int) -> None:
            self._cancellation.check()
            self._on_event(BytesRead(name, count))

        return StreamedFile(self._archive, report, spool, current.sample, hasher)

    def _spooled(
        self, member: Member, became: Descriptor, spool: Spool
    ) -> PreparedBlob:
        self._space.settle(spool)
        return PreparedBlob(
            member.name, became, spool.open_at, lambda: self._space.release(spool)
        )

    def _sent(
        self,
        current: _Current,
        method: Method,
        found: tuple[Digest | None, Digest | None],
        prepared: PreparedBlob,
        sending: Future[UploadResult] | None = None,
    ) -> StreamedLayer:
        """*prepared* on its way, unless it is *sending* already."""
        sample = current.sample
        shrinks = sample.shrinks if sample is not None else None
        if sending is None:
            lane = self._uploads.lane(small=is_small(prepared.descriptor))
            sending = lane.submit(self._send, prepared)
        return StreamedLayer(method, *found, sending, shrinks)

    def _send(self, prepared: PreparedBlob) -> UploadResult:
        """An uploader thread's work."""
        target = self._push.target
        try:
            names = target.mount_candidates(prepared.descriptor.digest)
            return target.put_blob(prepared, names)
        finally:
            prepared.release()

    def _skip_existing(
        self,
        current: _Current,
        stored: Digest,
        diff_id: Digest | None,
        became: Descriptor,
        outcome: Outcome,
    ) -> StreamedLayer:
        """The registry holds it: the file is skipped without being read."""
        name = current.member.name
        self._on_event(BlobFinished(name, became.digest, became.size, outcome))
        result: Future[UploadResult] = Future()
        result.set_result(UploadResult(became, outcome))
        return StreamedLayer(current.method, stored, diff_id, result)

    def _is_there(self, digest: Digest, size: int) -> bool:
        blob = _described(digest, size, Compression.NONE)
        return bool(self._push.target.has([blob], jobs=1))

    def _reusable(self, layer: Descriptor) -> Outcome | None:
        """How the registry holds what the layer became before; None: it does not."""
        if self._is_there(layer.digest, layer.size):
            return Outcome.REUSED
        target = self._push.target
        names = target.mount_candidates(layer.digest)
        return Outcome.MOUNTED if names and target.mount(layer, names) else None

    def _admit(self, size: int, member: Member) -> Spool:
        spool = self._space.admit(size, self._cancellation)
        if spool is None:
            raise SpoolError(
                f"layer {member.name} is larger than the free temp space in "
                f"{self._space.directory}: {MORE_TEMP_SPACE}"
            )
        return spool


def _described(digest: Digest, size: int, compression: Compression) -> Descriptor:
    media_type = StoredBlob(None, size, compression, digest).media_type
    return Descriptor(media_type, digest, size)


def _check_name(member: Member, named: Digest | None, found: Digest) -> None:
    if found.contradicts(named):
        raise ContentMismatch(
            f"{member.name}: its bytes have the digest {found}; the archive is "
            "damaged, save it again"
        )
