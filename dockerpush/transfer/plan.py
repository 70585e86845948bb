"""What a push will do with an image of an archive, decided before a byte is sent.

Pure: values in, values out. The plan holds the manifests to be stored, children before
the index that names them, and every blob once, with how it will be made. Layers are
told apart by key: the digest of the stored bytes where the archive gives it, else the
name of the member.
"""

from __future__ import annotations

import enum
from typing import Callable, Iterator, Union

from ..archive.layout import platform_of
from ..archive.stored import (
    Absent,
    Node,
    StoredBlob,
    StoredImage,
    StoredIndex,
    StoredManifest,
    manifests,
)
from ..documents import part_of_index, stays, subject_of
from ..errors import ArchiveError, NotFound
from ..oci import Digest, Platform
from ..platforms import best_match
from ..values import replace, value

_UNKNOWN = "unknown"


class Method(enum.Enum):
    """How a layer of the archive becomes the blob that is sent."""

    AS_IS = "as it is"
    RELABEL = "as it is, under the media type that its bytes have"
    COMPRESS = "compressed"
    FOREIGN = "left where its urls point"

    @property
    def keeps(self) -> bool:
        """True when the manifest says the same of the layer as before."""
        return self in (Method.AS_IS, Method.FOREIGN)


@value
class PlannedBlob:
    """One layer to be put into the target repository."""

    key: str
    stored: StoredBlob
    method: Method


@value
class PlannedManifest:
    """A manifest to be stored; *verbatim* when its bytes are the archive's own."""

    stored: StoredManifest
    layers: tuple[str, ...]
    verbatim: bool


@value
class PlannedIndex:
    """An index to be stored after its *children*."""

    stored: StoredIndex
    children: tuple[PlannedNode, ...]
    verbatim: bool


PlannedNode = Union[PlannedManifest, PlannedIndex]


@value
class Plan:
    """Everything that is to be stored for one image, and what the user should know."""

    root: PlannedNode
    blobs: tuple[PlannedBlob, ...]
    notices: tuple[str, ...] = ()

    def manifests(self) -> Iterator[PlannedManifest]:
        """Every image and artifact manifest of the plan."""
        return _manifests(self.root)


Decide = Callable[[StoredBlob], Method]


def plan_push(
    image: StoredImage,
    decide: Decide,
    *,
    platforms: tuple[Platform, ...] = (),
    strict: bool = False,
) -> Plan:
    """What pushing *image* takes, when *decide* says what becomes of each layer.

    Raises NotFound when no manifest is for one of *platforms*; ArchiveError when the
    archive lacks what is needed: what is for one of *platforms*, with *strict* anything
    that it names, else everything.
    """
    notices: list[str] = []
    root = _choose(image, decide)
    if platforms:
        root = _narrow(root, platforms)
    if strict and not root.complete:
        raise ArchiveError(f"the archive is incomplete: {_missing(root)}")
    node = _plan_node(root, decide, notices)
    if node is None:
        raise ArchiveError(f"nothing in the archive is complete: {_missing(root)}")
    said = tuple(dict.fromkeys(notices))
    return Plan(node, tuple(_blobs(node, decide)), said)


def blob_key(blob: StoredBlob) -> str:
    """The name under which *blob* goes through one push."""
    return str(blob.digest or blob.member)


def narrowed(image: StoredImage, platforms: tuple[Platform, ...]) -> StoredImage:
    """*image* with what `plan_push` leaves of it for *platforms*; all, without any."""
    if not platforms or not isinstance(image.root, StoredIndex):
        return image
    return replace(image, root=_narrow(image.root, platforms), entry=None)


def images_in(root: Node | None) -> list[StoredManifest]:
    """The manifests below *root*, without those that only speak of others."""
    return [node for node in manifests(root) if platform_of(node).os != _UNKNOWN]


def _choose(image: StoredImage, decide: Decide) -> StoredManifest | StoredIndex:
    """The archive's own manifest where it can stay as it is, else the one we build.

    An entry of manifest.json is for one platform, so it cannot stand for several, nor
    for an index that the archive holds whole.
    """
    if image.root is None or image.entry is None:
        root = image.root or image.entry
        assert root is not None
        return root
    several = sum(node.complete for node in images_in(image.root)) > 1
    whole = isinstance(image.root, StoredIndex) and image.root.complete
    rewritten = any(
        not decide(layer).keeps
        for manifest in manifests(image.root)
        for layer in manifest.layers
    )
    return image.entry if rewritten and not (several or whole) else image.root


def _narrow(
    root: StoredManifest | StoredIndex, platforms: tuple[Platform, ...]
) -> StoredManifest | StoredIndex:
    """*root* with the images for *platforms* alone."""
    nodes = images_in(root)
    wanted: list[StoredManifest] = []
    for platform in platforms:
        node = _image_for(platform, nodes)
        if node not in wanted:
            wanted.append(node)
    if len(wanted) == 1 or isinstance(root, StoredManifest):
        return wanted[0]
    digests = {str(one.descriptor.digest) for one in wanted if one.descriptor}
    kept = tuple(
        node
        for node in _leaves(root)
        if node.descriptor and stays(node.descriptor, digests)
    )
    if kept == root.manifests:
        return root
    entries = [node.descriptor for node in kept if node.descriptor]
    descriptor, raw = part_of_index(root.raw, root.descriptor.media_type, entries)
    return StoredIndex(descriptor, raw, kept)


def _leaves(index: StoredIndex) -> Iterator[Node]:
    """What *index* names, the insides of inner indexes instead."""
    for child in index.manifests:
        if isinstance(child, StoredIndex):
            yield from _leaves(child)
        else:
            yield child


def _image_for(wanted: Platform, nodes: list[StoredManifest]) -> StoredManifest:
    """The one of *nodes* to run on *wanted*, of those that are complete."""
    whole = [node for node in nodes if node.complete]
    for some in (whole, nodes):
        place = best_match(wanted, [platform_of(node) for node in some])
        if place is not None and some[place].complete:
            return some[place]
        if place is not None:
            raise ArchiveError(
                f"the archive lacks parts of the image for {wanted}: "
                + _missing(some[place])
            )
    names = sorted({str(platform_of(node)) for node in whole or nodes})
    raise NotFound(
        f"the archive holds no image for {wanted}, only for "
        f"{', '.join(names) or 'platforms that it does not name'}"
    )


def _plan_node(node: Node, decide: Decide, notices: list[str]) -> PlannedNode | None:
    if isinstance(node, Absent) or (
        isinstance(node, StoredManifest) and not node.complete
    ):
        notices.append(f"not in the archive, left out: {_name(node)}")
        return None
    if isinstance(node, StoredManifest):
        verbatim = node.raw is not None and all(
            decide(layer).keeps for layer in node.layers
        )
        if not verbatim:
            notices += mislabelled(
                node, "{}: stored so, which gives the manifest a new digest"
            )
        return PlannedManifest(node, tuple(map(blob_key, node.layers)), verbatim)
    return _plan_index(node, decide, notices)


def _plan_index(
    index: StoredIndex, decide: Decide, notices: list[str]
) -> PlannedNode | None:
    planned = [_plan_node(child, decide, notices) for child in index.manifests]
    present = [child for child in planned if child is not None]
    gone = _lost_subjects(index, planned)
    children = []
    for child in present:
        subject = _subject(child)
        if subject in gone:
            notices.append(
                f"left out: {_name(child.stored)}, which speaks of an image that "
                f"is not stored under its old digest {subject[7:19]}"
            )
        else:
            children.append(child)
    if not children:
        return None
    changed = len(children) < len(index.manifests) or not index.raw
    if changed and len(children) == 1:
        return children[0]
    verbatim = not changed and all(child.verbatim for child in children)
    return PlannedIndex(index, tuple(children), verbatim)


def _lost_subjects(index: StoredIndex, planned: list[PlannedNode | None]) -> set[str]:
    """Digests of children that will not be in the registry under that name."""
    return {
        str(child.descriptor.digest)
        for child, node in zip(index.manifests, planned)
        if child.descriptor and (node is None or not node.verbatim)
    }


def mislabelled(manifest: StoredManifest, outcome: str) -> list[str]:
    """What to say of layers whose media type is not that of their bytes.

    *outcome* says what is done about it, ``{}`` is the type of the bytes.
    """
    return [
        f"layer {layer.digest.short if layer.digest else layer.member} has the media "
        f"type {layer.media_type}, but its bytes are "
        + outcome.format(layer.actual_type)
        for layer in manifest.layers
        if layer.is_mislabelled
    ]


def _subject(node: PlannedNode) -> str:
    descriptor = node.stored.descriptor
    return subject_of(descriptor) if descriptor else ""


def _blobs(node: PlannedNode, decide: Decide) -> Iterator[PlannedBlob]:
    seen = set()
    for manifest in _manifests(node):
        for layer in manifest.stored.layers:
            key = blob_key(layer)
            if key not in seen:
                seen.add(key)
                yield PlannedBlob(key, layer, decide(layer))


def _manifests(node: PlannedNode) -> Iterator[PlannedManifest]:
    if isinstance(node, PlannedManifest):
        yield node
    else:
        for child in node.children:
            yield from _manifests(child)


def _name(node: Node) -> str:
    descriptor = node.descriptor
    if isinstance(node, StoredManifest):
        platform = str(platform_of(node))
    else:
        platform = (
            str(descriptor.platform) if descriptor and descriptor.platform else ""
        )
    digest = descriptor.digest.short if descriptor else ""
    return " ".join(part for part in (platform, digest) if part) or "an image"


def _missing(node: Node) -> str:
    """The names of what is absent below *node*, a few of them."""
    names = list(_missing_names(node))
    rest = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + rest


def _missing_names(node: Node) -> Iterator[str]:
    if isinstance(node, StoredIndex):
        for child in node.manifests:
            yield from _missing_names(child)
    elif isinstance(node, Absent):
        yield f"manifest {_name(node)}"
    elif not node.complete:
        if node.config is None:
            yield f"config {node.config_descriptor.digest.short}"
        for layer in node.layers:
            if layer.member is None and layer.digest:
                yield f"layer {layer.digest.short}"


def known_digest(blob: PlannedBlob) -> Digest | None:
    """The digest that *blob* will have, where that is certain before it is read."""
    return None if blob.method is Method.COMPRESS else blob.stored.digest
