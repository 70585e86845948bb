"""From a registry into the cache, and from the cache to archives and registries.

Nothing is kept under its final name before its digest was checked. A manifest that is
in the cache is not asked for again, nor is a blob.
"""

from __future__ import annotations

from typing import Sequence

from ..blobs import DEPTH_LIMIT, check_depth
from ..documents import check_names_nothing, children_of, is_document
from ..errors import InvalidJSON
from ..events import BlobPlanned, Notice
from ..oci import (
    INDEX_TYPES,
    Descriptor,
    Digest,
    Platform,
)
from ..reference import Reference
from ..workers import Workers
from .fetch import PullSource, fetch_blob, fetch_document
from .model import PulledImage
from .narrow import narrowed, taken

__all__ = ["PullSource", "PulledImage", "cached_image", "pull_image"]

DOCUMENTS_LIMIT = 2000
"""Manifests that one image may name; the largest of indexes have a few dozen."""


def pull_image(
    source: PullSource,
    reference: Reference,
    *,
    platforms: Sequence[Platform] = (),
    default: Platform | None = None,
) -> PulledImage:
    """Make the cache hold *reference*: all of it, or the images for *platforms*.

    *default* is the platform that is taken of an index when none is asked for.
    Raises NotFound when there is none for one of them, NotFoundInRegistry,
    ContentMismatch, InvalidJSON, RegistryError, NetworkError, StateError, Cancelled.
    """
    with source.cancellation.child() as cancellation:
        source = source.within(cancellation)
        root = _root(source, reference)
        by_default = None
        if default and not platforms and root.media_type in INDEX_TYPES:
            by_default = default
            platforms = [default]
        chosen = narrowed(source, root, platforms) if platforms else root
        left = taken(source, root, chosen, by_default) if by_default else None
        documents = _all_documents(source, chosen)
        received, blobs = _fetch_blobs(source, documents)
    source.cache.record(str(reference), root)
    return PulledImage(reference, root, chosen, blobs, received, left)


def cached_image(
    source: PullSource, reference: Reference, *, platforms: Sequence[Platform] = ()
) -> PulledImage | None:
    """What the cache holds of *reference*, without asking whether it has changed.

    None unless all of it is there, or all that is for *platforms*. Raises NotFound, and
    what `pull_image` raises when an index has to be asked for its platforms.
    """
    cache = source.cache
    found = cache.find(str(reference))
    if found is None:
        return None
    source.pins.add(cache.occupied(found.root))
    if cache.read_document(found.root) is None:
        return None
    chosen = narrowed(source, found.root, platforms) if platforms else found.root
    needed = cache.reachable(chosen).values()
    if not all(_is_there(source, descriptor) for descriptor in needed):
        return None
    cache.record(str(reference), found.root)
    blobs = sum(not is_document(descriptor) for descriptor in needed)
    return PulledImage(reference, found.root, chosen, blobs, 0)


def _is_there(source: PullSource, descriptor: Descriptor) -> bool:
    if is_document(descriptor):
        return source.cache.read_document(descriptor) is not None
    return source.cache.has(descriptor) or bool(descriptor.urls)


def _root(source: PullSource, reference: Reference) -> Descriptor:
    """What *reference* names; asked for, unless a digest says all there is to know."""
    known = source.cache.find(str(reference))
    if reference.digest and known and known.root.digest == reference.digest:
        source.pins.add([known.root.digest])
        if source.cache.read_document(known.root) is not None:
            return known.root
    named = str(reference.digest or reference.tag or "latest")
    root, raw = source.client.read_manifest(source.repository, named)
    source.pins.add([root.digest])
    source.cache.put(root.digest, raw)
    return root


def _all_documents(
    source: PullSource, root: Descriptor
) -> list[tuple[Descriptor, bytes]]:
    """*root* and every manifest below it, which are in the cache then."""
    found: dict[Digest, tuple[Descriptor, bytes]] = {}
    level, left = [root], DEPTH_LIMIT
    with Workers(source.cancellation, source.jobs, name="pull") as workers:
        while level:
            check_depth(level[0], left)
            left -= 1
            reading = [workers.submit(fetch_document, source, node) for node in level]
            raws = workers.wait(reading)
            found.update({n.digest: (n, raw) for n, raw in zip(level, raws)})
            below = [
                child
                for node, raw in zip(level, raws)
                for child in children_of(node, raw).documents
            ]
            level = list({c.digest: c for c in below if c.digest not in found}.values())
            if len(found) + len(level) > DOCUMENTS_LIMIT:
                raise InvalidJSON(
                    f"{root.digest}: it names more than {DOCUMENTS_LIMIT} manifests"
                )
    return list(found.values())


def _fetch_blobs(
    source: PullSource, documents: list[tuple[Descriptor, bytes]]
) -> tuple[int, int]:
    """Bytes that were received, and how many blobs the manifests name."""
    children = [children_of(node, raw) for node, raw in documents]
    blobs: dict[Digest, Descriptor] = {}
    for blob in (blob for one in children for blob in one.blobs):
        blobs.setdefault(blob.digest, blob)
    elsewhere = [b for b in blobs.values() if b.urls and not source.cache.has(b)]
    for blob in elsewhere:
        source.on_event(Notice(f"left where its urls point: {blob.digest}"))
        del blobs[blob.digest]
    source.pins.add(blobs)
    for blob in blobs.values():
        source.on_event(BlobPlanned(blob.digest, blob.size))
    with Workers(source.cancellation, source.jobs, name="pull") as workers:
        fetching = [workers.submit(fetch_blob, source, b) for b in blobs.values()]
        received = sum(workers.wait(fetching))
    for blob in (blob for one in children for blob in one.unknown):
        content = source.cache.read_document(blob)
        if content is not None:
            check_names_nothing(blob, content)
    return received, len(blobs)
