"""From a registry into the cache, and in the same pass into an archive or a directory.

What the cache holds is not fetched again. Whoever fills an archive through the cache
reads each blob from there as soon as it is complete.
"""

from __future__ import annotations

from typing import NamedTuple, Sequence

from ..documents import RawManifest, is_document
from ..events import Event, Notice, OnEvent
from ..oci import Platform
from ..reference import Reference
from ..state.cache import Cache, Pins
from ..system.cancellation import Cancellation
from .choices import CopyOptions, PulledImage
from .copy_image import copy_images
from .local_targets import CacheTarget, ThroughCache
from .plan import Wanted
from .source import CacheSource, CachingSource, GoneFromCache, RegistrySource
from .target import Target
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
    what `copy_images` does, and CacheError when the cache cannot be written.
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
    """A listener that passes on to *on_event* messages, and no counts of bytes."""

    def listen(event: Event) -> None:
        if isinstance(event, Notice):
            on_event(event)

    return listen
