"""What there is to store for an image: its manifests, children first, and its blobs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Callable

from ..documents import check_names_nothing, children_of, is_document
from ..errors import ContentMismatch, InvalidJSON
from ..oci import Descriptor, Digest, Index
from ..push.manifests import Document
from .sources import Source, label

DEEPEST = 8
"""Indexes within indexes that are followed."""

MOST_MANIFESTS = 2000
"""Manifests of one image, its referrers included."""

MOST_BYTES = 64 * 1024 * 1024
"""Bytes of all these manifests, which are held in memory."""


@dataclass
class Tree:
    """*documents* children first, *blobs* by digest.

    *trusted* is true when something was left out because the target has it already.
    """

    documents: list[Document] = field(default_factory=list)
    blobs: dict[Digest, Descriptor] = field(default_factory=dict)
    seen: set[Digest] = field(default_factory=set)
    trusted: bool = False


class Walker:
    """Fills trees with what *source* has and *is_held* does not know."""

    def __init__(self, source: Source, is_held: Callable[[Descriptor], bool]) -> None:
        self._source = source
        self._is_held = is_held
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

    def add(self, child: Descriptor, tree: Tree, depth: int = 0) -> None:
        """Add *child*, a document, and what it needs to *tree*, unless it is in there.

        Raises InvalidJSON when it is of a type that is not known, and what `tree` does.
        """
        if child.digest in tree.seen:
            return
        if not is_document(child):
            raise InvalidJSON(
                f"{label(self._source)}: {child.digest} is of the type "
                f"{child.media_type[:80]!r}, which dockerpush cannot read"
            )
        if self._is_held(child):
            tree.seen.add(child.digest)
            tree.trusted = True
        else:
            self._walk(self._source.child(child), tree, depth + 1)

    def _walk(self, document: Document, tree: Tree, depth: int) -> None:
        self._count += 1
        self._bytes += len(document.raw)
        if depth > DEEPEST or self._count > MOST_MANIFESTS or self._bytes > MOST_BYTES:
            raise ContentMismatch(
                f"{label(self._source)}: more than {DEEPEST} levels of indexes, "
                f"{MOST_MANIFESTS} manifests or {MOST_BYTES} bytes of them; refused"
            )
        tree.seen.add(document.descriptor.digest)
        children = children_of(document.descriptor, document.raw)
        for blob in children.unknown:
            check_names_nothing(blob, self._source.read_blob(blob))
        for blob in children.blobs:
            if not blob.urls:  # else it is to be had elsewhere
                tree.blobs.setdefault(blob.digest, blob)
        for child in children.documents:
            self.add(child, tree, depth)
        tree.documents.append(document)


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
