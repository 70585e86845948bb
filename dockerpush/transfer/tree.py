"""What there is to store for an image: its manifests, children first, and its blobs.

From an index to a part of it: the images for some platforms.
"""

from __future__ import annotations

from typing import Callable, Iterator, Protocol, Sequence

from ..documents import (
    check_names_nothing,
    children_of,
    is_document,
    part_of_index,
    stays,
    subject_of,
)
from ..errors import ContentMismatch, InvalidDigest, InvalidJSON, NotFound
from ..events import Notice
from ..oci import (
    INDEX_TYPES,
    JSON_LIMIT,
    MANIFEST_TYPES,
    Descriptor,
    Digest,
    ImageConfig,
    Index,
    Manifest,
    Platform,
)
from ..platforms import best_match
from ..values import field, record
from .choices import TakenPlatform
from .manifests import Document
from .source import Named, Source, label

DEEPEST = 8
"""Indexes within indexes that are followed."""

MOST_MANIFESTS = 2000
"""Manifests of one image, its referrers included."""

MOST_BYTES = 64 * 1024 * 1024
"""Bytes of all these manifests, which are held in memory."""


@record
class Tree:
    """*documents* children first, *referrers* of them likewise, *blobs* by digest.

    *elsewhere* are blobs that stay where their urls point. *trusted* is true when
    something was left out because the target has it already.
    """

    documents: list[Document] = field(default_factory=list)
    referrers: list[Document] = field(default_factory=list)
    blobs: dict[Digest, Descriptor] = field(default_factory=dict)
    elsewhere: set[Digest] = field(default_factory=set)
    seen: set[Digest] = field(default_factory=set)
    trusted: bool = False


Fetch = Callable[[Sequence[Descriptor]], Sequence[Document]]
"""Gives the manifests that descriptors name, in their order."""


class Walker:
    """Fills trees with what *source* has and *is_held* does not know.

    *fetch* gets manifests of *source*, several at a time where that is faster.
    """

    def __init__(
        self,
        source: Source,
        is_held: Callable[[Descriptor], bool] = lambda document: False,
        fetch: Fetch | None = None,
    ) -> None:
        self._source = source
        self._is_held = is_held
        self._fetch = fetch or (lambda nodes: [source.child(node) for node in nodes])
        self._count = 0
        self._bytes = 0

    def tree(self, root: Document) -> Tree:
        """*root* and what it needs.

        Raises ContentMismatch for one without end, InvalidJSON, and what *source* does.
        """
        tree = Tree()
        self._count = self._bytes = 0
        if self._is_held(root.descriptor):
            tree.trusted = True
            tree.documents.append(root)
        else:
            self._walk(root, tree, 0)
        return tree

    def add(self, nodes: Sequence[Descriptor], tree: Tree, depth: int = 0) -> None:
        """Add *nodes*, documents, and what they need to *tree*, each once.

        Raises InvalidJSON when one is of a type that is not known, ContentMismatch when
        one is not what its descriptor says, and what `tree` does.
        """
        wanted = [node for node in nodes if self._is_wanted(node, tree)]
        self._check(len(wanted), depth)
        for node, document in zip(wanted, self._fetch(wanted)):
            _check_fits(node, document.descriptor)
            if node.digest not in tree.seen:
                self._walk(document, tree, depth + 1)

    def _is_wanted(self, node: Descriptor, tree: Tree) -> bool:
        if node.digest in tree.seen:
            return False
        if not is_document(node):
            raise InvalidJSON(
                f"{label(self._source)}: {node.digest} is of the type "
                f"{node.media_type[:80]!r}, which dockerpush cannot read"
            )
        if not self._is_held(node):
            return True
        tree.seen.add(node.digest)
        tree.trusted = True
        return False

    def _walk(self, document: Document, tree: Tree, depth: int) -> None:
        self._count += 1
        self._bytes += len(document.raw)
        self._check(0, depth)
        tree.seen.add(document.descriptor.digest)
        children = children_of(document.descriptor, document.raw)
        for blob in children.unknown:
            check_names_nothing(blob, self._source.read_blob(blob))
        for blob in children.blobs:
            if blob.urls:
                tree.elsewhere.add(blob.digest)
            else:
                tree.blobs.setdefault(blob.digest, blob)
        self.add(children.documents, tree, depth)
        tree.documents.append(document)

    def _check(self, count: int, depth: int) -> None:
        """Raises ContentMismatch when the tree would grow over its limits."""
        if (
            depth > DEEPEST
            or self._count + count > MOST_MANIFESTS
            or self._bytes > MOST_BYTES
        ):
            raise ContentMismatch(
                f"{label(self._source)}: more than {DEEPEST} levels of indexes, "
                f"{MOST_MANIFESTS} manifests or {MOST_BYTES} bytes of them; refused"
            )


def _check_fits(node: Descriptor, found: Descriptor) -> None:
    """Raises ContentMismatch unless *found* is what the index says of it, *node*."""
    if (found.size, found.media_type) != (node.size, node.media_type):
        raise ContentMismatch(
            f"manifest {node.digest}: {found.size} bytes of {found.media_type}, the "
            f"index says {node.size} of {node.media_type}"
        )


class TreeReader:
    """The manifests of *tree* without asking *source* again, and its blobs."""

    def __init__(self, source: Source, tree: Tree) -> None:
        self.place = source.place
        self.repository = source.repository
        self._source = source
        self._documents = {one.descriptor.digest: one for one in tree.documents}

    def child(self, descriptor: Descriptor) -> Document:
        """The manifest that *descriptor* names, which is in the tree."""
        return self._documents[descriptor.digest]

    def read_blob(self, descriptor: Descriptor) -> bytes:
        """The whole of a small blob, checked."""
        return self._source.read_blob(descriptor)


def index_of(document: Document) -> Index:
    """What the index *document* says. Raises InvalidJSON."""
    return Index.from_bytes(document.raw, document.descriptor.media_type)


_NO_PLATFORM = Platform("unknown", "unknown")
"""What buildkit says of an attestation."""


class Narrowable(Named, Protocol):
    """What is asked for manifests and configs."""

    def child(self, descriptor: Descriptor) -> Document:
        """The manifest that *descriptor* names."""

    def read_blob(self, descriptor: Descriptor) -> bytes:
        """The whole of a small blob, checked."""


def narrowed(
    source: Narrowable, root: Document, platforms: Sequence[Platform]
) -> Document:
    """*root* with the images for *platforms* alone, and what speaks of them.

    The bytes of *root* stay as they are when nothing is left out; a single image is
    taken out of its index. Raises NotFound, which tells what there is.
    """
    if root.descriptor.media_type not in INDEX_TYPES:
        _places(source, [_platform(source, root)], platforms)
        return root
    entries = list(_entries(source, root))
    images = [entry for entry in entries if not _is_about_another(entry)]
    have = [_entry_platform(source, entry) for entry in images]
    wanted = {images[place].digest for place in _places(source, have, platforms)}
    kept = tuple(entry for entry in entries if stays(entry, wanted))
    if kept == index_of(root).manifests:
        return root
    if len(wanted) == 1:
        return source.child(next(e for e in images if e.digest in wanted))
    return Document(*part_of_index(root.raw, root.descriptor.media_type, kept))


def images_of(
    source: Narrowable, root: Document
) -> list[tuple[Descriptor, Platform | None]]:
    """The entries of the index *root* that are no attestations, and their platforms.

    Those of inner indexes are among them.
    """
    found = [
        (entry, _entry_platform(source, entry))
        for entry in _entries(source, root)
        if not _is_about_another(entry)
    ]
    return [pair for pair in found if pair[1] != _NO_PLATFORM]


def taken_of(
    source: Narrowable, whole: Document, part: Descriptor, platform: Platform
) -> TakenPlatform | None:
    """What to say of *part*, taken of *whole* for *platform*; None if it is all."""
    if part.digest == whole.descriptor.digest:
        return None
    return TakenPlatform(platform, len(images_of(source, whole)))


def narrowing_notice(
    whole: Descriptor, part: Descriptor, platforms: Sequence[Platform]
) -> Notice:
    """What to say when *part* is what is left of *whole* for *platforms*."""
    return Notice(
        f"only {', '.join(map(str, platforms))}: the digest becomes {part.digest}, "
        f"that of the whole is {whole.digest}"
    )


def _places(
    source: Narrowable, have: Sequence[Platform | None], platforms: Sequence[Platform]
) -> list[int]:
    """Which of *have* are wanted."""
    found = []
    for wanted in platforms:
        place = best_match(wanted, have)
        if place is None:
            names = ", ".join(sorted({str(one) for one in have if one}))
            raise NotFound(
                f"{label(source)} holds no image for "
                f"{wanted}, only for {names or 'nothing known'}"
            )
        found.append(place)
    return found


def _entries(
    source: Narrowable, document: Document, depth: int = 0
) -> Iterator[Descriptor]:
    """What the index *document* names, the insides of inner indexes instead."""
    for entry in index_of(document).manifests:
        if entry.media_type in INDEX_TYPES and depth < DEEPEST:
            yield from _entries(source, source.child(entry), depth + 1)
        else:
            yield entry


def _entry_platform(source: Narrowable, entry: Descriptor) -> Platform | None:
    if entry.platform is not None or entry.media_type not in MANIFEST_TYPES:
        return entry.platform
    return _platform(source, source.child(entry))


def _platform(source: Narrowable, document: Document) -> Platform | None:
    """What the config of a manifest says; None when that is no image's."""
    manifest = Manifest.from_bytes(document.raw, document.descriptor.media_type)
    if manifest.config.size > JSON_LIMIT:
        return None
    raw = source.read_blob(manifest.config)
    try:
        return ImageConfig.from_bytes(raw).platform
    except (InvalidJSON, InvalidDigest):
        return None


def _is_about_another(entry: Descriptor) -> bool:
    return bool(subject_of(entry) or entry.artifact_type)
