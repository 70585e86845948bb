"""The one mover of images: look, mount, bring the blobs, store the manifests, tag.

A plan says what moves, a source has it, a target takes it; the engine does not know
which it has. It brings every blob once, stores manifests children first, and names the
images last of all. A plain copy is the case where nothing is compressed. Nothing is
held in memory but manifests.

Threads: the caller's plans and waits; *jobs* workers bring large blobs, and more of
them look, and bring small ones. Where blobs must be read before they can be sent, one
producer reads them, and a pool compresses. A large blob that is new has its worker
already while it is compressed, and is sent as far as it is written.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import (
    TYPE_CHECKING,
    Callable,
    ContextManager,
    Iterator,
    Mapping,
    Protocol,
    Sequence,
)

from ..errors import RegistryError
from ..events import BlobFinished, BlobPlanned, Notice, Outcome
from ..oci import Digest
from ..system.cancellation import Cancellation
from ..system.workers import STEP, Lanes, Workers, wide
from ..upload.content import PreparedBlob
from ..upload.early import LEAST, GrowingBlob
from ..upload.limits import SMALL, is_small
from .choices import CopyResult
from .manifests import documents, has_lost_blobs, named_before, store
from .plan import Method, PlannedBlob, PlannedImage
from .target import Target, UploadResult

if TYPE_CHECKING:
    from .known import Shortcuts
    from .prepare import CompressionStep, Preparer
    from .source import Source


class ConcurrencyLimits:
    """What transfers at the same time share: permits for each registry, blobs there.

    *permits* is how many large blobs may move at a time at each registry
    (``host[:port]``), or as many small things as `wide` says; one that is not named has
    no bound. Threads share one object.
    """

    def __init__(self, permits: Mapping[str, int] | None = None) -> None:
        self._permits = {
            registry: _Permits(count) for registry, count in (permits or {}).items()
        }
        self._lock = threading.Lock()  # guards _blobs
        self._blobs: dict[tuple[str, Digest], tuple[threading.Lock, list[str]]] = {}

    @contextmanager
    def permit(
        self, cancellation: Cancellation, *registries: str, small: bool = True
    ) -> Iterator[None]:
        """Be one of those who may talk to *registries*; waits for its turn.

        What moves more than a *small* blob counts as several. Raises Cancelled. Not to
        be asked for by who has one already.
        """
        with ExitStack() as stack:
            for registry in sorted(set(registries) & self._permits.keys()):
                permits = self._permits[registry]
                stack.enter_context(permits.taken(cancellation, small=small))
            yield

    @contextmanager
    def blob(
        self, cancellation: Cancellation, registry: str, digest: Digest
    ) -> Iterator[list[str]]:
        """Be the only one who brings this blob to *registry*.

        Gives the repositories that have it by now, to be added to. Raises Cancelled.
        """
        with self._lock:
            lock, holders = self._blobs.setdefault(
                (registry, digest), (threading.Lock(), [])
            )
        while not lock.acquire(timeout=STEP):
            cancellation.check()
        try:
            yield holders
        finally:
            lock.release()


class _Permits:
    """The permits of one registry where *jobs* large blobs may move at a time."""

    def __init__(self, jobs: int) -> None:
        self._lock = threading.Lock()  # guards the two below
        self._free = wide(jobs)
        self._waiting: deque[_Turn] = deque()  # who came first is served first
        self._for_large = self._free // jobs

    @contextmanager
    def taken(self, cancellation: Cancellation, *, small: bool) -> Iterator[None]:
        """Have one permit, or those that something large needs. Raises Cancelled."""
        turn = _Turn(1 if small else self._for_large)
        with self._lock:
            self._waiting.append(turn)
            self._serve()
        try:
            while not turn.came.acquire(timeout=STEP):
                cancellation.check()
            yield
        finally:
            with self._lock:
                if turn in self._waiting:
                    self._waiting.remove(turn)
                else:
                    self._free += turn.count
                self._serve()

    def _serve(self) -> None:
        """Let go those whose turn it is; nobody else is woken."""
        while self._waiting and self._waiting[0].count <= self._free:
            turn = self._waiting.popleft()
            self._free -= turn.count
            turn.came.release()


class _Turn:
    """One who waits for *count* permits, until *came* can be acquired."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.came = threading.Lock()
        self.came.acquire()


_REMEMBERED = (Outcome.REUSED, Outcome.MOUNTED)
"""How compressed layers come to be there that earlier runs have made."""


class ImagePlanner(Protocol):
    """Plans images, for the first try and for a second one."""

    def plan(self, *, trusting: bool) -> Sequence[PlannedImage]:
        """What there is to move; all of it unless *trusting*."""


def transfer(
    planner: ImagePlanner,
    target: Target,
    *,
    jobs: int,
    limits: ConcurrencyLimits | None = None,
    shortcuts: Shortcuts | None = None,
    step: CompressionStep | None = None,
) -> list[CopyResult]:
    """Make *target* hold what *planner* plans; what was done for each image.

    *jobs* blobs move at a time. *limits* is what transfers at the same time share.
    *shortcuts* find blobs before anything is read for them; *step* prepares those that
    have to be read. A target that lost what it was known to hold gets all of it in a
    second try. Raises NotFoundInRegistry, RegistryError, NetworkError, ContentMismatch,
    ArchiveError, InvalidJSON, Cancelled, and what *planner* and *target* raise; then no
    tag was moved.
    """
    first = _Transfer(planner, target, jobs, limits or ConcurrencyLimits(), step)
    try:
        return first.run(shortcuts)
    except RegistryError as error:
        if not (has_lost_blobs(error) and first.skipped_existing):
            raise
    target.on_event(
        Notice(
            "the registry lost blobs that it held before: sending them again",
            minor=True,
        )
    )
    return first.run(shortcuts, trusting=False)


class _Transfer:
    """One run of `transfer`, of one try or two."""

    def __init__(
        self,
        planner: ImagePlanner,
        target: Target,
        jobs: int,
        limits: ConcurrencyLimits,
        step: CompressionStep | None,
    ) -> None:
        self._planner = planner
        self._target = target
        self._jobs = jobs
        self._limits = limits
        self._step = step
        self._sources: dict[str, Source] = {}
        self._trusting = True
        self.skipped_existing = False

    def run(
        self, shortcuts: Shortcuts | None, *, trusting: bool = True
    ) -> list[CopyResult]:
        """Plan, bring, store."""
        target, self._trusting = self._target, trusting
        images = self._planner.plan(trusting=trusting)
        self.skipped_existing = any(one.plan.skipped_existing for one in images)
        moving = [one for one in images if one.plan.documents or one.plan.root]
        self._announce(moving)
        blobs = target.begin(moving)
        went = shortcuts.done if shortcuts is not None else {}  # from a stream
        for blob in blobs:
            if blob.key not in went:
                target.on_event(BlobPlanned(blob.key, blob.stored.size))
        results: dict[str, UploadResult] = {}
        if shortcuts is not None:
            shortcuts = shortcuts if trusting else shortcuts.invalidate(blobs)
            results = shortcuts.find(blobs)
            self.skipped_existing |= shortcuts.are_used(blobs)
        wanted = [blob for blob in blobs if blob.key not in results]
        early = self._early(images, wanted, results)
        results.update(self._bring_all(wanted, early))
        outcomes = {result.outcome for result in results.values()}
        self.skipped_existing |= Outcome.MOUNTED in outcomes
        if shortcuts is None and results:
            target.learn([result.descriptor for result in results.values()])
        done = [self._finish(image, results) for image in images]
        if shortcuts is not None:
            shortcuts.learn(blobs, results)
        return done

    def _announce(self, images: Sequence[PlannedImage]) -> None:
        for image in images:
            for blob in image.plan.moving:
                self._sources.setdefault(blob.key, image.source)
        blobs = (blob for image in images for blob in image.plan.blobs)
        foreign = (b.key for b in blobs if b.method is Method.FOREIGN)
        for key in dict.fromkeys(foreign):
            self._target.on_event(Notice(f"not copied, it stays at its urls: {key}"))

    def _early(
        self,
        images: Sequence[PlannedImage],
        wanted: Sequence[PlannedBlob],
        found: Mapping[str, UploadResult],
    ) -> set[str]:
        """The keys of those *wanted* that are sent while they are made: large and new.

        What is sent early goes in vain when it is there already, which shows only by
        its digest. All layers are new in a new repository, and where earlier runs have
        made those *found*; the top one, where the image's config is.
        """
        packed = [blob for blob in wanted if blob.method is Method.COMPRESS]
        configs = {blob.key for image in images for blob in image.plan.configs}
        remembered = any(one.outcome in _REMEMBERED for one in found.values())
        new = packed if self._target.is_new or remembered else []
        if not new and any(blob.key in configs for blob in wanted):
            new = packed[-1:]
        large = {blob.key for blob in new if blob.stored.size >= LEAST}
        return large if large and self._target.may_be_early() else set()

    def _bring_all(
        self, blobs: Sequence[PlannedBlob], early: set[str]
    ) -> dict[str, UploadResult]:
        """Have the target hold *blobs*; those that need no reading come first."""
        if not blobs:
            return {}
        target, cancellation = self._target, self._target.cancellation
        ready = [blob for blob in blobs if not blob.needs_reading]
        to_read = [blob for blob in blobs if blob.needs_reading]
        packed = [blob for blob in to_read if blob.method is Method.COMPRESS]
        hashed = [blob for blob in to_read if blob.method is not Method.COMPRESS]
        jobs = min(target.jobs or self._jobs, len(blobs))
        with ExitStack() as stack:
            preparer = None
            if to_read:
                assert self._step is not None, "what is copied needs no reading"
                opened = self._step.opened(cancellation, target.on_event)
                preparer = stack.enter_context(opened)
            uploads = stack.enter_context(Lanes(cancellation, jobs, name="upload"))
            reading = None
            if preparer is not None and packed:
                producer = Workers(cancellation, 1, name="producer")
                stack.enter_context(producer)
                read = partial(self._read_all, preparer, packed, early, uploads)
                reading = producer.submit(read)
            sending = [self._added(uploads, blob, self._window) for blob in ready]
            if preparer is not None:
                inspect = preparer.inspect
                sending += [self._added(uploads, blob, inspect) for blob in hashed]
            results = uploads.wait(sending)
            if reading is not None:
                results += uploads.wait(producer.wait([reading])[0])
        return dict(zip((blob.key for blob in (*ready, *hashed, *packed)), results))

    def _read_all(
        self,
        preparer: Preparer,
        blobs: Sequence[PlannedBlob],
        early: set[str],
        uploads: Lanes,
    ) -> list[Future[UploadResult]]:
        """The producer thread's work: what it made waits in temp space for its turn.

        Those that go *early* are sent while they are made.
        """
        sending: list[Future[UploadResult]] = []
        for planned in blobs:
            growing = preparer.begin(planned)
            if growing and planned.key in early:
                large = uploads.lane(small=False)
                sending.append(large.submit(self._bring_early, growing))
                preparer.complete(planned, growing, is_read=True)
            else:
                blob = preparer.complete(planned, growing, is_read=False)
                lane = uploads.lane(small=is_small(blob.descriptor))
                sending.append(lane.submit(self._bring, blob))
        return sending

    def _added(
        self,
        uploads: Lanes,
        planned: PlannedBlob,
        prepare: Callable[[PlannedBlob], PreparedBlob],
    ) -> Future[UploadResult]:
        """Have a worker thread *prepare* and send a blob that takes no temp space."""
        lane = uploads.lane(small=planned.stored.size < SMALL)
        return lane.add(lambda: self._bring(prepare(planned)))

    def _window(self, blob: PlannedBlob) -> PreparedBlob:
        """A blob that goes as it is, straight from its source."""
        source, descriptor = self._sources[blob.key], blob.descriptor
        assert descriptor is not None, "what goes as it is has a descriptor"
        return PreparedBlob(
            blob.key,
            descriptor,
            partial(source.open_blob, descriptor.digest),
            from_network=bool(source.repository),
        )

    def _bring(self, blob: PreparedBlob) -> UploadResult:
        """A worker thread's work."""
        target, cancellation = self._target, self._target.cancellation
        source, descriptor = self._sources[blob.key], blob.descriptor
        digest = descriptor.digest
        try:
            with self._limits.blob(cancellation, target.place, digest) as holders:
                if self._trusting and target.repository in holders:
                    target.on_event(
                        BlobFinished(blob.key, digest, descriptor.size, Outcome.EXISTS)
                    )
                    return UploadResult(
                        descriptor, Outcome.EXISTS, made_from=blob.made_from
                    )
                mounts = [*holders, *target.mount_candidates(digest, source)]
                if not self._trusting:
                    mounts = []  # a registry may say that it mounted, and have not
                with self._permit(source, small=is_small(descriptor)):
                    result = target.put_blob(blob, mounts)
                holders.append(target.repository)
            return result
        finally:
            blob.release()

    def _bring_early(self, growing: GrowingBlob) -> UploadResult:
        """A worker thread's work: send a blob from its first bytes on."""
        cancellation = self._target.cancellation
        with self._target.early(growing) as early:
            with self._limits.permit(cancellation, self._target.place, small=False):
                early.run()
            return self._bring(early.made())

    def _finish(
        self, image: PlannedImage, results: Mapping[str, UploadResult]
    ) -> CopyResult:
        """Store the manifests, children first, and the names last of all.

        A registry takes what refers to a manifest that is still to come.
        """
        plan = image.plan
        done = [results[blob.key] for blob in plan.moving if blob.key in results]
        before = image.before
        if not image.looked and any(one.moved for one in done):
            before = named_before(self._target, image.names)
        made = plan.documents
        if plan.root:
            became = {key: result.descriptor for key, result in results.items()}
            made = documents(plan.root, became)
        if made:
            with self._permit(image.source):
                image.stored = store(
                    self._target,
                    made,
                    image.names,
                    referrers=plan.referrers,
                    built=plan.root is not None and not plan.root.verbatim,
                )
        root = image.root.descriptor if image.root else None
        descriptor = image.stored or root
        assert descriptor is not None, "what is not stored was there"
        return CopyResult(
            descriptor,
            len(made) + len(plan.referrers),
            len(plan.referrers),
            Counter(result.outcome for result in done),
            sum(result.moved for result in done),
            image.taken,
            image.whole,
            None if before == descriptor.digest else before,
            len(plan.lost),
        )

    def _permit(self, source: Source, *, small: bool = True) -> ContextManager[None]:
        cancellation, target = self._target.cancellation, self._target
        return self._limits.permit(
            cancellation, source.place, target.place, small=small
        )
