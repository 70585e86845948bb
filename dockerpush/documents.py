"""What a document names that has to come along with it. Pure.

Whoever moves an image asks here, and nowhere else, so that every command moves the
same. What an entry is depends on where it stands: the layers of a manifest are blobs,
whatever they contain; the entries of an index are documents, or blobs, as in a cache of
BuildKit. A document that cannot be read in full is refused: it would be stored without
what it needs.
"""

from __future__ import annotations

import threading
import time
from typing import Any, Callable, Collection, Iterable, Iterator, NamedTuple, Sequence

from .errors import ContentMismatch, InvalidDigest, InvalidJSON
from .expressions import expression
from .oci import (
    DOCKER_CONFIG,
    INDEX_TYPES,
    JSON_LIMIT,
    MANIFEST_TYPES,
    OCI_ARTIFACT,
    OCI_CONFIG,
    SCHEMA_1,
    VALUE_LIMIT,
    Descriptor,
    Digest,
    Index,
    Manifest,
    descriptors,
    parse_json,
    require,
    value_count,
)
from .strict_json import DOCUMENT, glance
from .values import replace, value

DEEPEST = 8
"""Indexes within indexes that are followed; real ones have two."""

MOST_DOCUMENTS = 2000
"""Documents of one image, its referrers included; the largest have a few dozen."""

MOST_BYTES = 12 * 1024 * 1024
"""Bytes of all these documents, which are held in memory."""

MOST_VALUES = 50_000
"""Values in all of them: a descriptor has four or more, and takes a kilobyte."""

MOST_SECONDS = 3600.0
"""How long finding them may take."""

MOST_HELD = 100_000
"""Names that are held at a time, where all of them are needed at once."""

MOST_HELD_BYTES = 8 * 1024 * 1024
"""Characters of these names."""

SUBJECT_ANNOTATION = "vnd.docker.reference.digest"
"""How buildkit's attestation manifests name the image they refer to."""

_BLOB_TYPES = (
    "application/vnd.oci.image.layer.",
    "application/vnd.docker.image.rootfs.",
    OCI_CONFIG,
    DOCKER_CONFIG,
    "application/vnd.buildkit.cacheconfig.",
)
# sha256:9f86..., also of an algorithm that we cannot verify
_DIGEST = expression(r"[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[0-9a-fA-F]{32,}")


@value
class RawManifest:
    """A manifest or an index: its exact bytes, and what describes them."""

    descriptor: Descriptor
    raw: bytes


class Walk:
    """What one walk over the documents of *where* has seen, and may still take.

    Each digest is visited once, and everything has a ceiling: so no index, whatever it
    names how often, takes more time or memory than an honest one. Several threads may
    share it. Raises ContentMismatch, which says what there is too much of.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._seen: set[Digest] = set()
        self._count = self._bytes = self._values = 0
        self._end = time.monotonic() + MOST_SECONDS
        self._lock = threading.Lock()

    def has(self, node: Descriptor) -> bool:
        """True for what was visited, or skipped."""
        return node.digest in self._seen

    def skip(self, node: Descriptor) -> None:
        """Pass over *node*, which costs nothing."""
        self._seen.add(node.digest)

    def enters(self, node: Descriptor, depth: int = 0) -> bool:
        """True the first time; *node* counts, which is *depth* below the top."""
        with self._lock:
            if node.digest in self._seen:
                return False
            self._seen.add(node.digest)
            self._count += 1
            self._bytes += node.size
        self._check(depth)
        return True

    def takes(self, raw: bytes, said: int = 0) -> None:
        """Take note of *raw*, which is held, and counted as *said* bytes before."""
        with self._lock:
            self._bytes += len(raw) - said
            self._values += value_count(raw)
        self._check(0)

    def reads(self, size: int) -> None:
        """Take note of *size* bytes that are read, and not held."""
        with self._lock:
            self._bytes += size
        self._check(0)

    def _check(self, depth: int) -> None:
        for is_over, much in (
            (depth > DEEPEST, f"indexes within indexes more than {DEEPEST} deep"),
            (self._count > MOST_DOCUMENTS, f"more than {MOST_DOCUMENTS} manifests"),
            (self._bytes > MOST_BYTES, f"more than {MOST_BYTES >> 20} MiB of JSON"),
            (self._values > MOST_VALUES, f"more than {MOST_VALUES} values"),
            (
                time.monotonic() > self._end,
                f"more than {MOST_SECONDS:.0f} s of reading",
            ),
        ):
            if is_over:
                raise ContentMismatch(
                    f"{self._where}: its documents have {much}, which is the limit; "
                    "name a part of it by its digest"
                )


class Children(NamedTuple):
    """What a document names: other *documents*, and *blobs*.

    *unknown* are those of the blobs whose type does not say what they are:
    `check_names_nothing` has to see their bytes.
    """

    documents: tuple[Descriptor, ...] = ()
    blobs: tuple[Descriptor, ...] = ()
    unknown: tuple[Descriptor, ...] = ()


def held(names: Iterable[str]) -> list[str]:
    """*names* as a list. Raises ContentMismatch when they are too many to be held."""
    found, size = [], 0
    for name in names:
        found.append(name)
        size += len(name)
        if len(found) > MOST_HELD or size > MOST_HELD_BYTES:
            raise ContentMismatch(
                f"the registry lists more than {len(found) - 1} names, more than are "
                "taken at once; name what you want, or choose with --last and --limit, "
                "or 'newest' and 'allow' of a sync list"
            )
    return found


class Visited(NamedTuple):
    """A document on a walk; *raw* and *children* of the root and of indexes alone."""

    node: Descriptor
    raw: bytes | None = None
    children: Children = Children()


def visit(
    root: RawManifest, read: Callable[[Descriptor], RawManifest], walk: Walk
) -> Iterator[Visited]:
    """*root* and every document that it and the indexes below it name, each once.

    Indexes are read when they are reached, manifests are not. Raises what *walk*,
    *read* and `children_of` do.
    """
    walk.enters(root.descriptor)
    yield from _visit(root, read, walk, 0)


def _visit(
    document: RawManifest,
    read: Callable[[Descriptor], RawManifest],
    walk: Walk,
    depth: int,
) -> Iterator[Visited]:
    node, raw = document.descriptor, document.raw
    walk.takes(raw, node.size)
    children = children_of(node, raw)
    yield Visited(node, raw, children)
    for child in children.documents:
        if not walk.enters(child, depth + 1):
            continue
        if child.media_type in INDEX_TYPES:
            yield from _visit(read(child), read, walk, depth + 1)
        else:
            yield Visited(child)


def is_document(descriptor: Descriptor) -> bool:
    """True for what `children_of` can read; elsewhere than in an index it is a blob."""
    return descriptor.media_type in (*INDEX_TYPES, *MANIFEST_TYPES, OCI_ARTIFACT)


def children_of(node: Descriptor, raw: bytes) -> Children:
    """What *raw*, the bytes of *node*, names; not its subject, which may be missing.

    Raises InvalidJSON or InvalidDigest, which name *node*, for a document that cannot
    be read, and for one of another type that names anything.
    """
    try:
        if node.media_type in INDEX_TYPES:
            return _of_index(Index.from_bytes(raw, node.media_type))
        if node.media_type in MANIFEST_TYPES:
            manifest = Manifest.from_bytes(raw, node.media_type)
            return Children(blobs=(manifest.config, *manifest.layers))
        if node.media_type == OCI_ARTIFACT:
            record = require(parse_json(raw, "artifact", DOCUMENT), dict, "artifact")
            return Children(blobs=descriptors(record, "blobs", "artifact"))
    except (InvalidJSON, InvalidDigest) as error:
        raise type(error)(f"{node.digest}: {error}") from error
    check_names_nothing(node, raw)
    return Children()


def _of_index(index: Index) -> Children:
    blobs = tuple(entry for entry in index.manifests if not is_document(entry))
    return Children(
        tuple(filter(is_document, index.manifests)),
        blobs,
        tuple(blob for blob in blobs if may_name(blob)),
    )


def may_name(blob: Descriptor) -> bool:
    """False for layers and configs, and for what is too large for a document."""
    return blob.size <= JSON_LIMIT and not blob.media_type.startswith(_BLOB_TYPES)


def check_names_nothing(node: Descriptor, raw: bytes) -> None:
    """Check that *raw*, of an unknown type, names no blob, and so can move by itself.

    Raises InvalidJSON, which names *node*, for a Docker manifest of schema 1, and for
    JSON with a descriptor anywhere in it.
    """
    if node.media_type.startswith(SCHEMA_1):
        raise _refusal(node, "a manifest of Docker's schema 1, which is obsolete")
    if value_count(raw) > VALUE_LIMIT:
        raise _refusal(node, "too large to be read")
    try:
        value = glance(raw)
    except ValueError:
        return
    except RecursionError:
        raise _refusal(node, "nested too deep to be read") from None
    if _names_something(value):
        raise _refusal(node, "and it names other content")


def _refusal(node: Descriptor, why: str) -> InvalidJSON:
    kind = node.media_type[:80]
    return InvalidJSON(
        f"{node.digest}: a document of the type {kind!r}, {why}; dockerpush cannot "
        "read it, so it moves nothing"
    )


def _names_something(value: Any) -> bool:
    """True when a descriptor, or what schema 1 has in its place, is in *value*."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting += item
        elif isinstance(item, dict):
            if "fsLayers" in item or _is_descriptor(item):
                return True
            waiting += item.values()
    return False


def _is_descriptor(item: dict[str, Any]) -> bool:
    digest, size = item.get("digest"), item.get("size")
    is_size = isinstance(size, int) and not isinstance(size, bool)
    return is_size and isinstance(digest, str) and bool(_DIGEST.fullmatch(digest))


def subject_of(entry: Descriptor) -> str:
    """The digest of the image that an attestation in an index refers to, or ""."""
    return (entry.annotations or {}).get(SUBJECT_ANNOTATION, "")


def stays(entry: Descriptor, wanted: Collection[str]) -> bool:
    """True for what is left of an index of which the digests *wanted* are kept.

    These are the images themselves, and what refers to them.
    """
    return entry.digest in wanted or subject_of(entry) in wanted


def part_of_index(
    raw: bytes, media_type: str, kept: Sequence[Descriptor]
) -> RawManifest:
    """The index *raw* with the entries *kept* alone. Raises InvalidJSON."""
    whole = Index.from_bytes(raw, media_type) if raw else Index(media_type, ())
    part = replace(whole, manifests=tuple(kept)).to_bytes()
    return RawManifest(Descriptor.of(whole.media_type, part), part)
