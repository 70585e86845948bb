"""One image from an archive into a repository: look, send, store, tag.

Threads: the caller's plans, looks and waits; one producer reads what must be read
before it can be sent; a pool compresses blocks; `jobs` uploaders send. The first
failure cancels the rest. Manifests are stored after every blob was acknowledged, tags
last of all.

From settings to the place that a push goes to.
"""

from __future__ import annotations

from collections import Counter
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Callable, Iterator, Mapping, NamedTuple, Sequence

from ..archive.stored import StoredManifest
from ..events import BlobFinished, BlobPlanned, Notice, OnEvent, Outcome
from ..oci import OCI_LAYER, Descriptor, Digest
from ..reference import Reference
from ..registry.client import RegistryClient
from ..registry.setup import retry_policy
from ..settings.config import Settings
from ..state.directory import StateDirectory
from ..state.known_blobs import KnownBlobs
from ..state.upload_sessions import UploadSessions
from ..system.cancellation import Cancellation
from ..upload.blob_upload import Uploader
from ..upload.limits import LearnedLimits, default_limits, limits_for
from ..values import replace, value
from .choices import PushOptions
from .compress import Codec
from .known import Knowledge
from .layers import LayerMaker, MadeBlob, Readable, config_blob
from .manifests import SentBlob, documents
from .plan import Method, Plan, PlannedBlob, known_digest
from .registry_target import PushTarget, RegistryTarget
from .spool import open_pools
from .store import run_trusting, store


@contextmanager
def open_target(
    client: RegistryClient,
    reference: Reference,
    settings: Settings,
    *,
    cancellation: Cancellation,
    on_event: OnEvent,
    state: StateDirectory | None = None,
) -> Iterator[PushTarget]:
    """Where a push to *reference* goes, for one push.

    *state* is where upload sessions and known blobs are kept for other runs, None for
    nowhere.
    """
    limits = limits_for(default_limits(reference.registry), settings.blob_chunk)
    limits = replace(limits, pace=max(limits.pace, settings.chunk_delay))
    with cancellation.child() as child:
        uploader = Uploader(
            client,
            reference.repository,
            LearnedLimits(limits),
            retry_policy(settings),
            cancellation=child,
            on_event=on_event,
            sessions=UploadSessions(state.path / "uploads") if state else None,
            pause=settings.layer_delay,
        )
        yield PushTarget(
            client,
            reference.repository,
            uploader,
            child,
            on_event,
            KnownBlobs(state) if state else None,
            reference.tag or str(reference.digest or ""),
        )


@value
class PushResult:
    """What a push left in the registry.

    *blobs* counts the blobs by how they came to be there; *sent* is bytes that were
    sent for them.
    """

    repository: str
    tags: tuple[str, ...]
    descriptor: Descriptor
    blobs: Mapping[Outcome, int]
    sent: int


@value
class Push:
    """One image on its way: what goes where, and how.

    *held* are digests that the image under the target's tag names. The registry is not
    asked for them, unless it turns out to lack one.
    """

    target: PushTarget
    archive: Readable
    plan: Plan
    codec: Codec
    options: PushOptions
    known: Knowledge
    held: frozenset[Digest] = frozenset()

    def run(self, tags: Sequence[str]) -> PushResult:
        """Carry the plan out and name the result by each of *tags*.

        Raises RegistryError, NetworkError, ContentMismatch, ArchiveError, Cancelled;
        then no tag was moved.
        """
        for notice in self.plan.notices:
            self.target.on_event(Notice(notice))
        attempt = _Attempt(self, tags, self.known.offers(self.plan))
        return run_trusting(attempt, self.target.on_event)


class _Attempt(NamedTuple):
    """One try of *push*; *offers* are layers that need not be made again."""

    push: Push
    tags: Sequence[str]
    offers: Mapping[str, SentBlob]

    @property
    def has_trusted(self) -> bool:
        """True when something is left out because the target is known to hold it."""
        return bool(self.offers or self.push.held)

    def run(self) -> PushResult:
        """Send what is not there, store and tag."""
        push, plan, offers = self.push, self.push.plan, self.offers
        _announce(push.target, plan)
        present = _mount_offers(push, offers, find_present(push, offers))
        arrived = _transfer(push, present, offers)
        return finish(push.target, plan, arrived, tags=self.tags, known=push.known)

    def doubted(self) -> _Attempt:
        """The same without trust."""
        known = self.push.known.doubted(self.offers, self.push.plan)
        push = replace(self.push, known=known, held=frozenset())
        return _Attempt(push, self.tags, {})


def finish(
    target: PushTarget,
    plan: Plan,
    arrived: Sequence[Arrived],
    *,
    tags: Sequence[str],
    known: Knowledge,
) -> PushResult:
    """Store the manifests of *plan*, whose blobs have *arrived*, and its tags."""
    sent = {made.key: made.sent for made in arrived}
    made = documents(plan.root, sent)
    built = not plan.root.verbatim
    stored = store(RegistryTarget(target), made, tags, built=built)
    known.learn(plan, sent)
    uploaded = (made.sent.size for made in arrived if made.outcome is Outcome.UPLOADED)
    return PushResult(
        target.repository,
        tuple(tags),
        stored,
        Counter(made.outcome for made in arrived),
        sum(uploaded),
    )


def _announce(target: PushTarget, plan: Plan) -> None:
    for made in _made_configs(plan):
        target.on_event(BlobPlanned(made.prepared.key, made.sent.size))
    for blob in plan.blobs:
        if blob.method is not Method.FOREIGN:
            target.on_event(BlobPlanned(blob.key, blob.stored.size))


def find_present(push: Push, offers: Mapping[str, SentBlob]) -> dict[Digest, Outcome]:
    """Which blobs need not be sent, of those whose digests can be told, and why.

    REUSED is a compressed layer that was not made again, EXISTS any other blob.
    """
    offered = {sent.digest for sent in offers.values()}
    wanted = wanted_sizes(push.plan, offers)
    outcomes = {d: Outcome.REUSED if d in offered else Outcome.EXISTS for d in wanted}
    present = {d: outcomes[d] for d in wanted if d in push.held}
    asked = [_layer(d, size) for d, size in wanted.items() if d not in present]
    there = RegistryTarget(push.target).has(asked, jobs=push.options.jobs)
    return {**present, **{digest: outcomes[digest] for digest in there}}


def _layer(digest: Digest, size: int) -> Descriptor:
    return Descriptor(OCI_LAYER, digest, size)


def wanted_sizes(plan: Plan, offers: Mapping[str, SentBlob]) -> dict[Digest, int]:
    """`known_sizes`, and those of what the layers became before."""
    offered = {sent.digest: sent.size for sent in offers.values()}
    return {**known_sizes(plan), **offered}


def _mount_offers(
    push: Push, offers: Mapping[str, SentBlob], present: Mapping[Digest, Outcome]
) -> dict[Digest, Outcome]:
    """*present*, and what could be had from other repositories without reading it."""
    target = RegistryTarget(push.target)
    candidates = {
        _layer(sent.digest, sent.size): target.holders(sent.digest)
        for sent in offers.values()
        if sent.digest not in present
    }
    asked = {blob: holders for blob, holders in candidates.items() if holders}
    mounted = target.mounted(asked, jobs=push.options.jobs)
    return {**present, **dict.fromkeys(mounted, Outcome.MOUNTED)}


def known_sizes(plan: Plan) -> dict[Digest, int]:
    """Digests and sizes in bytes of what can be named before the archive is read."""
    sizes = {made.sent.digest: made.sent.size for made in _made_configs(plan)}
    for blob in plan.blobs:
        digest = known_digest(blob)
        if digest is not None:
            sizes[digest] = blob.stored.size
    return sizes


@value
class Arrived:
    """A blob that the repository holds now."""

    key: str
    sent: SentBlob
    outcome: Outcome


def _transfer(
    push: Push, present: Mapping[Digest, Outcome], offers: Mapping[str, SentBlob]
) -> list[Arrived]:
    """Make the repository hold every blob of the plan."""
    target = push.target
    with open_pools(push.options, target.cancellation) as pools:
        maker = LayerMaker(
            push.archive,
            push.codec,
            pools.blocks,
            pools.space,
            target.cancellation,
            target.on_event,
        )

        def submit(made: MadeBlob) -> Future[Arrived]:
            return pools.uploads.submit(_send, push, made, present)

        layers = [blob for blob in push.plan.blobs if blob.method is not Method.FOREIGN]
        reused = [b.key for b in layers if _is_had(b.key, offers, present)]
        rest = [blob for blob in layers if blob.key not in reused]
        windows = [maker.window(b) for b in rest if not maker.needs_reading(b)]
        to_read = [blob for blob in rest if maker.needs_reading(blob)]
        reading = pools.producer.submit(_read_all, maker, to_read, submit)
        sending = [submit(made) for made in [*_made_configs(push.plan), *windows]]
        return [
            *(_reused(target, key, offers[key], present) for key in reused),
            *pools.uploads.wait(sending),
            *pools.uploads.wait(pools.producer.wait([reading])[0]),
        ]


def _is_had(
    key: str, offers: Mapping[str, SentBlob], present: Mapping[Digest, Outcome]
) -> bool:
    return key in offers and offers[key].digest in present


def _reused(
    target: PushTarget,
    key: str,
    sent: SentBlob,
    present: Mapping[Digest, Outcome],
) -> Arrived:
    outcome = present[sent.digest]
    target.on_event(BlobFinished(key, sent.digest, sent.size, outcome))
    return Arrived(key, sent, outcome)


def _read_all(
    maker: LayerMaker,
    blobs: Sequence[PlannedBlob],
    submit: Callable[[MadeBlob], Future[Arrived]],
) -> list[Future[Arrived]]:
    """The producer thread's work."""
    return [submit(maker.read(blob)) for blob in blobs]


def _send(push: Push, made: MadeBlob, present: Mapping[Digest, Outcome]) -> Arrived:
    """An uploader thread's work."""
    blob = made.prepared
    digest = blob.descriptor.digest
    if digest in present:
        blob.release()
        return _reused(push.target, blob.key, made.sent, present)
    return send(push.target, made, known_absent=digest in known_sizes(push.plan))


def _made_configs(plan: Plan) -> list[MadeBlob]:
    """The configs of all manifests of *plan*, each once."""
    made = {
        manifest.stored.config_descriptor.digest: config_blob(manifest.stored)
        for manifest in plan.manifests()
    }
    return list(made.values())


def send_config(target: PushTarget, stored: StoredManifest) -> Arrived:
    """An uploader thread's work: make *target* hold the config of *stored*."""
    made = config_blob(stored)
    return send(target, made)


def send(target: PushTarget, made: MadeBlob, *, known_absent: bool = False) -> Arrived:
    """An uploader thread's work: make *target* hold *made*.

    *known_absent* means that somebody has looked for it.
    """
    prepared = made.prepared
    holders = RegistryTarget(target).holders(prepared.descriptor.digest)
    try:
        outcome = target.uploader.upload(
            prepared, mount_from=holders, known_absent=known_absent
        )
    finally:
        prepared.release()
    return Arrived(prepared.key, made.sent, outcome)
