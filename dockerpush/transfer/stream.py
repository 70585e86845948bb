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
from .choices import PushOptions
from .compress import Codec, compress
from .decide import raw_layer_decision
from .known import Knowledge
from .layers import MadeBlob, memory_blob
from .manifests import SentBlob
from .plan import Method, Plan, PlannedBlob, PlannedManifest, plan_push
from .push_run import Arrived, PushResult, finish, send, send_config
from .registry_target import PushTarget, RegistryTarget
from .spool import Pools, Spool, SpoolError, open_pools

if TYPE_CHECKING:
    from hashlib import _Hash

    from ..archive.forward import ForwardArchive


@value
class Passed:
    """A blob that went by: what it was in the archive, and what became of it."""

    stored: Digest | None
    diff_id: Digest | None
    arrived: Future[Arrived]


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
    plan: Plan, passed: Mapping[str, Passed], image: StoredImage
) -> ArchiveError | None:
    """What to say of the first blob that did not become what *plan* wants of it."""
    methods = {blob.key: blob.method for blob in plan.blobs}
    for manifest in plan.manifests():
        for key, layer in zip(manifest.layers, manifest.stored.layers):
            went = passed.get(layer.member or "")
            method = _wanted(manifest, methods[key])
            if went is not None and _is_wrong(method, _became(layer, went)):
                return _error(layer, method, image)
    return None


def _wanted(manifest: PlannedManifest, method: Method) -> Method:
    """A manifest that stays byte for byte needs its blobs so, whatever others want."""
    return Method.AS_IS if manifest.verbatim else method


def _is_wrong(wanted: Method, became: Method) -> bool:
    return (wanted is Method.COMPRESS) is not (became is Method.COMPRESS)


def _became(layer: StoredBlob, passed: Passed) -> Method:
    same = passed.arrived.result().sent.digest == (layer.digest or passed.stored)
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


@value
class StreamPush:
    """One archive on its way, while it is being read.

    *select* chooses among the images once they are known. *image* is what it chooses
    where an earlier reading has told that, None when nobody knows yet.
    """

    target: PushTarget
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
            pools.uploads.wait([blob.arrived for blob in passed.values()])
            with self.archive.explained():
                image = self.select(self.archive.index.images())
            plan = self._plan(image)
            wrong = wrong_guess(plan, passed, image)
            return wrong or self._finish(tags, plan, passed, pools)

    def _finish(
        self, tags: Sequence[str], plan: Plan, passed: dict[str, Passed], pools: Pools
    ) -> PushResult:
        self._report(plan)
        arrived = [
            replace(passed[blob.stored.member].arrived.result(), key=blob.key)
            for blob in plan.blobs
            if blob.stored.member in passed and _check(blob.stored, passed)
        ]
        kept = [
            blob
            for blob in plan.blobs
            if blob.method is not Method.FOREIGN and blob.stored.member not in passed
        ]
        made = [
            memory_blob(
                blob,
                self.archive.index.documents,
                codec=self.codec,
                blocks=pools.blocks,
                cancellation=self.target.cancellation,
            )
            for blob in kept
        ]
        sending = [pools.uploads.submit(send, self.target, one) for one in made]
        configs = [
            pools.uploads.submit(send_config, self.target, manifest.stored)
            for manifest in plan.manifests()
        ]
        arrived += [*pools.uploads.wait(sending), *pools.uploads.wait(configs)]
        return finish(self.target, plan, arrived, tags=tags, known=self.known)

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
        for notice in plan.notices:
            self.target.on_event(Notice(notice))
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

    def run(self) -> dict[str, Passed]:
        """What went by, by the name of the member; the last of a name counts."""
        passed = {}
        for member in self._push.archive.files():
            self._cancellation.check()
            if self._wanted is None or member.name in self._wanted:
                passed[member.name] = self._pass(member)
        return passed

    def _pass(self, member: Member) -> Passed:
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
    ) -> Passed:
        """The file as it is; it is unpacked beside only to learn its diff_id."""
        there = named is not None and self._is_there(named, member.size)
        if named is not None and there:
            became = SentBlob(named, member.size, compression)
            return self._had(member, named, None, became, Outcome.EXISTS)
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
        became = SentBlob(digest, spool.size, compression)
        return self._sent(member, digest, diff_id, became, spool)

    def _compressed(
        self, member: Member, named: Digest | None, compression: Compression
    ) -> Passed:
        """The file packed anew; it is only read when it is known what it became."""
        offer = self._push.known.offer_for(named) if named else None
        outcome = self._reusable(offer) if offer else None
        if named and offer and outcome:
            return self._had(member, named, named, offer, outcome)
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
        became = SentBlob(
            packed.digest, packed.size, codec.compression, made_from=packed.diff_id
        )
        stored = packed.diff_id if compression is Compression.NONE else None
        return self._sent(member, stored, packed.diff_id, became, spool)

    def _sent(
        self,
        member: Member,
        stored: Digest | None,
        diff_id: Digest | None,
        became: SentBlob,
        spool: Spool,
    ) -> Passed:
        self._space.settle(spool)
        prepared = PreparedBlob(
            member.name,
            Descriptor(OCI_LAYER, became.digest, became.size),
            spool.open_at,
            lambda: self._space.release(spool),
        )
        made = MadeBlob(prepared, became)
        future = self._uploads.submit(send, self._push.target, made)
        return Passed(stored, diff_id, future)

    def _had(
        self,
        member: Member,
        stored: Digest,
        diff_id: Digest | None,
        became: SentBlob,
        outcome: Outcome,
    ) -> Passed:
        """The registry holds it: the file is passed over without being read."""
        self._on_event(BlobFinished(member.name, became.digest, became.size, outcome))
        arrived: Future[Arrived] = Future()
        arrived.set_result(Arrived(member.name, became, outcome))
        return Passed(stored, diff_id, arrived)

    def _is_there(self, digest: Digest, size: int) -> bool:
        target = self._push.target
        return target.client.has_blob(
            target.repository, Descriptor(OCI_LAYER, digest, size)
        )

    def _reusable(self, offer: SentBlob) -> Outcome | None:
        """How the registry holds what the layer became before; None: it does not."""
        if self._is_there(offer.digest, offer.size):
            return Outcome.REUSED
        target = RegistryTarget(self._push.target)
        blob = Descriptor(OCI_LAYER, offer.digest, offer.size)
        holders = target.holders(offer.digest)
        return Outcome.MOUNTED if holders and target.mount(blob, holders) else None

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


def _check(stored: StoredBlob, passed: dict[str, Passed]) -> bool:
    """Raises ContentMismatch unless the layer is what the config promises."""
    assert stored.member is not None, "what went by has a name"
    found = passed[stored.member].diff_id
    if found is not None and found.contradicts(stored.content_digest):
        raise ContentMismatch(
            f"layer {stored.member}: its content has the digest {found}, the image's "
            f"config says {stored.diff_id}; the archive is damaged, save it again"
        )
    return True
