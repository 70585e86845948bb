"""The one mover of images: look, bring the blobs, store the manifests, tag.

A source gives manifests and blobs, a target takes them; the engine does not know which
it has. It finds everything that has to move before it moves a byte, brings every blob
once, stores manifests children first, and names the images last of all. Nothing is held
in memory but manifests.

Threads: the caller's plans and waits; *jobs* workers look and bring blobs.

What transfers at the same time share: permits, and what arrived already.
"""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import ContextManager, Iterator, Mapping, Sequence

from ..events import BlobFinished, BlobPlanned, Notice, Outcome
from ..oci import INDEX_TYPES, Descriptor, Digest, Platform
from ..system.cancellation import Cancellation
from ..system.workers import STEP, Workers
from ..values import replace
from .choices import CopyOptions, CopyResult, TakenPlatform
from .found import Found, Wanted
from .manifests import Document
from .source import Source
from .store import run_trusting, store
from .target import Arrival, Target
from .tree import Tree, Walker, narrowed, narrowing_notice, taken_of


class Share:
    """What copies at the same time share: permits for each registry, known arrivals.

    *permits* is how much may go on at a time at each registry (``host[:port]``); one
    that is not named has no bound. Threads share one Share.
    """

    def __init__(self, permits: Mapping[str, int] | None = None) -> None:
        self._permits = {
            registry: threading.Semaphore(count)
            for registry, count in (permits or {}).items()
        }
        self._lock = threading.Lock()  # guards _blobs
        self._blobs: dict[tuple[str, Digest], tuple[threading.Lock, list[str]]] = {}

    @contextmanager
    def permit(self, cancellation: Cancellation, *registries: str) -> Iterator[None]:
        """Be one of those who may talk to *registries*; waits for its turn.

        Raises Cancelled. Not to be asked for by who has one already.
        """
        with ExitStack() as stack:
            for registry in sorted(set(registries) & self._permits.keys()):
                permit = self._permits[registry]
                _acquire(permit, cancellation)
                stack.callback(permit.release)
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
        _acquire(lock, cancellation)
        try:
            yield holders
        finally:
            lock.release()


def _acquire(
    lock: threading.Lock | threading.Semaphore, cancellation: Cancellation
) -> None:
    while not lock.acquire(timeout=STEP):
        cancellation.check()


def copy_image(
    source: Source,
    target: Target,
    reference: str,
    *,
    tags: Sequence[str],
    options: CopyOptions | None = None,
    share: Share | None = None,
) -> CopyResult:
    """Make *target* hold what *reference* (tag or digest) names, under each of *tags*.

    Raises what `transfer` does.
    """
    wanted = [Wanted(source, reference, tuple(tags))]
    return transfer(wanted, target, options=options, share=share)[0]


def transfer(
    wanted: Sequence[Wanted],
    target: Target,
    *,
    options: CopyOptions | None = None,
    only: Platform | None = None,
    share: Share | None = None,
) -> list[CopyResult]:
    """Make *target* hold each of *wanted*; what was done for each.

    *only* is the platform that is taken of an index when *options* names none. *share*
    is what transfers at the same time share. Raises NotFoundInRegistry, RegistryError,
    NetworkError, ContentMismatch, InvalidJSON, NotFound for a platform that is not
    there, Cancelled, and what *target* raises; then no tag was moved.
    """
    share = share or Share()
    attempt = _Transfer(wanted, target, options or CopyOptions(), only, share)
    return run_trusting(attempt, target.on_event)


class _Transfer:
    """One try; *trusting* leaves out what the target has by its own word."""

    def __init__(
        self,
        wanted: Sequence[Wanted],
        target: Target,
        options: CopyOptions,
        only: Platform | None,
        share: Share,
        *,
        trusting: bool = True,
    ) -> None:
        self._wanted = wanted
        self._target = target
        self._options = options
        self._only = only
        self._share = share
        self._trusting = trusting and not options.referrers
        self._found: Sequence[Found] = ()

    @property
    def has_trusted(self) -> bool:
        """True when something was left out because the target has it."""
        return any(one.tree.trusted for one in self._found)

    def run(self) -> list[CopyResult]:
        """Find what there is to move, and move it."""
        self._found = self._find_all(self._wanted)
        return self._store_all(self._found)

    def doubted(self) -> _Transfer:
        """The same without trust."""
        return _Transfer(
            self._wanted,
            self._target,
            self._options,
            self._only,
            self._share,
            trusting=False,
        )

    def _find_all(self, wanted: Sequence[Wanted]) -> list[Found]:
        if len(wanted) == 1:
            return [self._find(wanted[0])]
        jobs = min(self._options.jobs, len(wanted))
        with Workers(self._target.cancellation, jobs, name="find") as workers:
            return workers.wait([workers.submit(self._find, one) for one in wanted])

    def _find(self, wanted: Wanted) -> Found:
        """What there is to move; nothing where the target has all of it already."""
        source = wanted.source
        with self._permit(source):
            whole = source.document(wanted.reference)
            root, taken = self._chosen(source, whole)
            found = Found(wanted, whole, root, Tree(), taken)
            found.stored = self._stored_before(found)
            if found.stored is None:
                walker = Walker(source, self._is_held, partial(self._fetch, source))
                found.tree = walker.tree(root)
                if self._options.referrers:
                    self._add_referrers(walker, found)
        return found

    def _fetch(self, source: Source, nodes: Sequence[Descriptor]) -> Sequence[Document]:
        """Manifests of *source*, several at a time."""
        jobs = min(self._options.jobs, len(nodes))
        if jobs < 2:
            return [source.child(node) for node in nodes]
        with Workers(self._target.cancellation, jobs, name="find") as workers:
            return workers.wait([workers.submit(source.child, node) for node in nodes])

    def _chosen(
        self, source: Source, whole: Document
    ) -> tuple[Document, TakenPlatform | None]:
        """What of *whole* is moved."""
        platforms = self._options.platforms
        if platforms:
            part = narrowed(source, whole, platforms)
            if part.descriptor.digest != whole.descriptor.digest:
                self._target.on_event(
                    narrowing_notice(whole.descriptor, part.descriptor, platforms)
                )
            return part, None
        if self._only and whole.descriptor.media_type in INDEX_TYPES:
            part = narrowed(source, whole, (self._only,))
            return part, taken_of(source, whole, part.descriptor, self._only)
        return whole, None

    def _stored_before(self, found: Found) -> Descriptor | None:
        """What the target has of this very image, when it has all its names."""
        named = [self._target.digest_of(n) for n in found.names if self._trusting]
        fitting = [one for one in named if one and one.fits(found.root.raw)]
        if not fitting or len(fitting) < len(named):
            return None
        return replace(found.root.descriptor, digest=fitting[0])

    def _is_held(self, document: Descriptor) -> bool:
        """True when the target has this manifest, and so everything that it needs."""
        return self._trusting and self._target.holds(document)

    def _add_referrers(self, walker: Walker, found: Found) -> None:
        """What refers to the manifests of *found*, and what refers to that."""
        tree, source = found.tree, found.wanted.source
        subjects = [one.descriptor.digest for one in tree.documents]
        for subject in subjects:  # grows meanwhile
            self._target.cancellation.check()
            listed = source.referrers(subject)
            if not listed:
                continue
            found.listed[subject] = listed
            more = Tree(seen=tree.seen)
            walker.add(listed, more)
            tree.referrers += more.documents
            tree.blobs.update(more.blobs)
            subjects += [one.descriptor.digest for one in more.documents]

    def _store_all(self, found: Sequence[Found]) -> list[CopyResult]:
        target = self._target
        moving = [one for one in found if one.tree.documents]
        origins = {
            digest: (blob, one.wanted.source)
            for one in moving
            for digest, blob in one.tree.blobs.items()
        }
        for elsewhere in {blob for one in moving for blob in one.tree.elsewhere}:
            target.on_event(Notice(f"left where its urls point: {elsewhere}"))
        order = target.begin(moving)
        arrived = self._bring_all([origins[blob.digest] for blob in order])
        for one in moving:
            self._store(one)
        return [_result(one, arrived) for one in found]

    def _bring_all(
        self, blobs: Sequence[tuple[Descriptor, Source]]
    ) -> dict[Digest, Arrival]:
        target = self._target
        if not blobs:
            return {}
        for blob, _ in blobs:
            target.on_event(BlobPlanned(str(blob.digest), blob.size))
        mounts = [
            target.mount_candidates(source, blob.digest) for blob, source in blobs
        ]
        jobs = min(target.jobs or self._options.jobs, len(blobs))
        with Workers(target.cancellation, jobs, name="copy") as workers:
            bringing = [
                workers.submit(self._bring, *one, candidates)
                for one, candidates in zip(blobs, mounts)
            ]
            arrivals = workers.wait(bringing)
        target.learn([blob for blob, _ in blobs])
        return {blob.digest: one for (blob, _), one in zip(blobs, arrivals)}

    def _bring(
        self, blob: Descriptor, source: Source, mounts: Sequence[str]
    ) -> Arrival:
        """A worker thread's work."""
        target, cancellation = self._target, self._target.cancellation
        with self._share.blob(cancellation, target.place, blob.digest) as holders:
            if target.repository in holders:
                target.on_event(
                    BlobFinished(
                        str(blob.digest), blob.digest, blob.size, Outcome.EXISTS
                    )
                )
                return Arrival(Outcome.EXISTS)
            with self._permit(source):
                arrival = target.put_blob(
                    blob, partial(source.open_blob, blob.digest), [*holders, *mounts]
                )
            holders.append(target.repository)
        return arrival

    def _store(self, found: Found) -> None:
        """The manifests, children first, and the names last of all.

        A registry takes what refers to a manifest that is still to come.
        """
        tree = found.tree
        with self._permit(found.wanted.source):
            found.stored = store(
                self._target, tree.documents, found.names, referrers=tree.referrers
            )

    def _permit(self, source: Source) -> ContextManager[None]:
        return self._share.permit(
            self._target.cancellation, source.place, self._target.place
        )


def _result(found: Found, arrived: Mapping[Digest, Arrival]) -> CopyResult:
    tree = found.tree
    arrivals = [arrived[digest] for digest in tree.blobs if digest in arrived]
    return CopyResult(
        found.stored or found.root.descriptor,
        len(tree.documents) + len(tree.referrers),
        len(tree.referrers),
        Counter(one.outcome for one in arrivals),
        sum(one.moved for one in arrivals),
        found.taken,
        found.whole.descriptor,
    )
