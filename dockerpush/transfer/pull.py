"""From a registry into the cache, and in the same pass into an archive or a directory.

What the cache holds is not fetched again. Whoever fills an archive through the cache
reads each blob from there as soon as it is complete.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple, Sequence

from ..documents import RawManifest, is_document
from ..errors import ContentMismatch
from ..events import Event, Notice, OnEvent
from ..oci import Descriptor, Digest, Platform
from ..reference import Reference
from ..state.cache import Cache, Pins
from ..system.cancellation import Cancellation
from ..upload.content import PreparedBlob
from ..values import replace
from .choices import CopyOptions, PulledImage
from .copy_image import copy_images
from .plan import PlannedBlob, PlannedImage, Wanted
from .registry_target import UploadResult
from .source import CacheSource, CachingSource, GoneFromCache, RegistrySource, Source
from .target import CacheTarget, Target
from .tree import narrowed


class Pull(NamedTuple):
    """An image to be pulled: *reference* of *source*; *names* are for an output."""

    source: RegistrySource
    reference: Reference
    names: tuple[str, ...] = ()


def pull_images(
    wanted: Sequence[Pull],
    cache: Cache,
    pins: Pins,
    *,
    options: CopyOptions,
    only: Platform | None = None,
    into: Target | None = None,
    cancellation: Cancellation,
    on_event: OnEvent,
) -> list[PulledImage]:
    """Make *cache* hold each of *wanted*, and *into* as well.

    *into* has to be made with `notices_of` (*on_event*), since the bytes count once.
    *only* is the platform that is taken of an index when *options* names none. Raises
    what `copy_images` does, and StateError when the cache cannot be written.
    """
    cached = CacheTarget(cache, pins, cancellation, on_event)
    target: Target = cached if into is None else ThroughCache(cached, cache, into)
    images = [
        Wanted(
            CachingSource(one.source, cache, pins),
            str(one.reference.digest or one.reference.tag),
            one.names,
        )
        for one in wanted
    ]
    results = copy_images(images, target, options=options, only=only)
    found = []
    for one, result in zip(wanted, results):
        assert result.whole is not None, "a transfer tells what the source had"
        cache.record(str(one.reference), result.whole)
        blobs = sum(
            not is_document(item) and cache.has(item)
            for item in cache.occupied(result.descriptor).values()
        )
        found.append(
            PulledImage(
                one.reference,
                result.whole,
                result.descriptor,
                blobs,
                result.sent,
                result.taken,
            )
        )
    return found


def cached_image(
    cache: Cache, pins: Pins, reference: Reference, platforms: Sequence[Platform] = ()
) -> PulledImage | None:
    """What the cache holds of *reference*, without asking whether it has changed.

    None unless all of it is there, or all that is for *platforms*. Raises NotFound when
    there is none for one of them.
    """
    found = cache.find(str(reference))
    if found is None:
        return None
    pins.add(cache.occupied(found.root))
    source = CacheSource(cache)
    chosen = found.root
    raw = cache.read_document(found.root)
    if raw is None:
        return None
    if platforms:
        try:
            part = narrowed(source, RawManifest(found.root, raw), platforms)
        except GoneFromCache:
            return None
        chosen = part.descriptor
        if chosen.digest != found.root.digest:
            cache.put(chosen.digest, part.raw)
    if not cache.is_whole(chosen):
        return None
    cache.record(str(reference), found.root)
    return PulledImage(reference, found.root, chosen, 0, 0)


def notices_of(on_event: OnEvent) -> OnEvent:
    """A listener that passes on to *on_event* what is said, and no counts of bytes."""

    def listen(event: Event) -> None:
        if isinstance(event, Notice):
            on_event(event)

    return listen


class ThroughCache:
    """The cache, and a second target that is filled from it, blob by blob."""

    repository = ""

    def __init__(self, cached: CacheTarget, cache: Cache, then: Target) -> None:
        self.place = then.place
        self.cancellation = cached.cancellation
        self.on_event = cached.on_event
        self.jobs = then.jobs
        self._cached = cached
        self._cache = cache
        self._then = then

    def begin(self, images: Sequence[PlannedImage]) -> Sequence[PlannedBlob]:
        """The blobs of all that is going to come, as the second target wants them."""
        self._cached.begin(images)
        return self._then.begin(images)

    def digest_of(self, reference: str) -> Digest | None:
        """None: the second target is filled in any case."""
        return None

    def has_document(self, document: Descriptor) -> bool:
        """False: the second target is filled in any case."""
        return False

    def mount_candidates(self, source: Source, digest: Digest) -> list[str]:
        """None."""
        return []

    def put_blob(self, blob: PreparedBlob, mounts: Sequence[str]) -> UploadResult:
        """Have both hold *blob*; one that is damaged in the cache is fetched again."""
        result = self._cached.put_blob(blob, mounts)
        try:
            self._fill(blob)
        except ContentMismatch:
            self._cache.remove(blob.descriptor.digest)
            if self.jobs == 1:
                raise  # what was written cannot be taken back
            result = self._cached.put_blob(blob, mounts)
            self._fill(blob)
        return result

    def _fill(self, blob: PreparedBlob) -> None:
        cached = partial(self._cache.open_blob, blob.descriptor.digest)
        self._then.put_blob(replace(blob, open_at=cached, from_network=False), [])

    def learn(self, blobs: Sequence[Descriptor]) -> None:
        """Nothing: both are looked into the next time."""

    def put_document(self, document: RawManifest, reference: str) -> bool:
        """Store a manifest in both; *reference* is a name of the second alone."""
        self._cached.put_document(document, str(document.descriptor.digest))
        return self._then.put_document(document, reference)

    def list_referrers(self, subject: Digest, listed: Sequence[Descriptor]) -> None:
        """Have the second target list these referrers of *subject*."""
        self._then.list_referrers(subject, listed)
