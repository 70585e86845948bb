"""What moves for one image, decided before a byte of it moves.

Pure: values in, values out. A plan holds the manifests to be stored, children before
the index that names them, and every blob once, with what becomes of it. Blobs are
distinguished by key: the digest of the stored bytes where the source gives it, else the
name of the member.

`plan_push` plans an image of an archive, whose layers may change on the way. What goes
byte for byte is planned by walking its documents, in ``tree``.
"""

from __future__ import annotations

import enum
from typing import (
    TYPE_CHECKING,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    NamedTuple,
    Sequence,
    Union,
)

from ..archive.stored import (
    Absent,
    Compression,
    Node,
    StoredBlob,
    StoredImage,
    StoredIndex,
    StoredManifest,
    StoredOther,
    manifests,
    missing_blobs,
    platform_of,
)
from ..documents import RawManifest, part_of_index, stays, subject_of
from ..errors import ArchiveError, NotFound, some_of
from ..events import Notice
from ..oci import Descriptor, Digest, Platform
from ..platforms import best_match
from ..values import field, record, replace, value

if TYPE_CHECKING:
    from .choices import CopyOptions, TakenPlatform
    from .source import Source

_UNKNOWN = "unknown"


class Method(enum.Enum):
    """How a blob of the source becomes the blob that the target gets."""

    AS_IS = "as it is"
    RELABEL = "as it is, under the media type that its bytes have"
    COMPRESS = "compressed"
    FOREIGN = "stays at its urls"

    @property
    def keeps(self) -> bool:
        """True when the manifest says the same of the layer as before."""
        return self in (Method.AS_IS, Method.FOREIGN)


@value
class PlannedBlob:
    """One blob to be put into the target: what the source says of it, and a method."""

    key: str
    stored: StoredBlob
    method: Method = Method.AS_IS

    @property
    def descriptor(self) -> Descriptor | None:
        """What it will be, where that is certain before it is read."""
        stored = self.stored
        moves = self.method in (Method.AS_IS, Method.RELABEL)
        if stored.digest is None or not moves:
            return None
        return Descriptor(stored.actual_type, stored.digest, stored.size)

    @property
    def needs_reading(self) -> bool:
        """True when it must be read before it can be sent."""
        return self.method is not Method.FOREIGN and self.descriptor is None


def unchanged(descriptor: Descriptor) -> PlannedBlob:
    """The blob that *descriptor* names, which stays as it is."""
    digest, size = descriptor.digest, descriptor.size
    stored = StoredBlob(None, size, Compression.NONE, digest, descriptor=descriptor)
    method = Method.FOREIGN if descriptor.urls else Method.AS_IS
    return PlannedBlob(str(digest), stored, method)


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


@value
class PlannedOther:
    """What goes as it is, a document or a blob that only an index names."""

    stored: StoredOther
    layers: tuple[str, ...]

    verbatim = True


PlannedNode = Union[PlannedManifest, PlannedIndex, PlannedOther]


@value
class Plan:
    """Everything that is to be stored for one image, and what the user should know.

    *documents* go as they are, children first. Where blobs of an archive may change,
    *root* says how they are built once each blob is prepared. *configs* are in memory,
    *blobs* are what else there is. *referrers* are manifests that refer to one of the
    *documents*, *listed* says to which. *lost* are what is left out since it refers to
    an image that gets another digest. *skipped_existing* is true when something was
    left out because the target has it.
    """

    root: PlannedNode | None = None
    blobs: tuple[PlannedBlob, ...] = ()
    notices: tuple[Notice, ...] = ()
    configs: tuple[PlannedBlob, ...] = ()
    documents: tuple[RawManifest, ...] = ()
    referrers: tuple[RawManifest, ...] = ()
    listed: Mapping[Digest, Sequence[Descriptor]] = field(default_factory=dict)
    lost: tuple[Notice, ...] = ()
    skipped_existing: bool = False

    def manifests(self) -> Iterator[PlannedManifest]:
        """Every image and artifact manifest that may have to be built."""
        for leaf in self.leaves():
            if isinstance(leaf, PlannedManifest):
                yield leaf

    def leaves(self) -> Iterator[PlannedManifest | PlannedOther]:
        """What names blobs, of what may have to be built."""
        return _leaves_of(self.root) if self.root else iter(())

    @property
    def moving(self) -> list[PlannedBlob]:
        """The blobs that the target has to get, configs first, each once."""
        blobs = (*self.configs, *self.blobs)
        return unique(blob for blob in blobs if blob.method is not Method.FOREIGN)


def unique(blobs: Iterable[PlannedBlob]) -> list[PlannedBlob]:
    """The first of *blobs* for each key, in order."""
    found: dict[str, PlannedBlob] = {}
    for blob in blobs:
        found.setdefault(blob.key, blob)
    return list(found.values())


class Wanted(NamedTuple):
    """An image to be moved: what *reference*, a tag or a digest, names in *source*.

    *names* are what it is to be called at the target: tags in a registry, full
    references in an archive or a directory. A name that is the image's digest stores it
    without a name. *options* are its own, None for those of all. *root* is what it is
    where that is known and nothing else is asked for: a target that leaves it out needs
    no more of it.
    """

    source: Source
    reference: str
    names: tuple[str, ...]
    options: CopyOptions | None = None
    root: Descriptor | None = None


@record
class PlannedImage:
    """An image on its way to a target.

    *whole* is what the source has, *root* what is moved of it: all, or what is left for
    some platforms. Both are None for what has to be built. *label* is what the image is
    called in messages. *stored* is what the target has of it in the end. *before* is
    what its first name names at the target so far, once *looked*.
    """

    source: Source
    plan: Plan
    names: tuple[str, ...]
    label: str = ""
    root: RawManifest | None = None
    whole: Descriptor | None = None
    taken: TakenPlatform | None = None
    stored: Descriptor | None = None
    before: Digest | None = None
    looked: bool = False


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
    that it names, else everything; or when *image* has a problem, with *strict* also
    for what it warns of.
    """
    warnings = [notice.text for notice in image.notices if notice.warning]
    if image.problem or (strict and warnings):
        raise ArchiveError(image.problem or warnings[0])
    notices: list[str] = []
    lost: list[Notice] = []
    root = _choose(image, decide)
    if platforms:
        root = _narrow(root, platforms)
    if strict and not root.complete:
        raise ArchiveError(f"the archive is incomplete: {_missing(root)}")
    node = _plan_node(root, decide, notices, lost)
    if node is None:
        raise ArchiveError(f"nothing in the archive is complete: {_missing(root)}")
    told = (*image.notices, *map(Notice, dict.fromkeys(notices)), *lost)
    blobs = tuple(_blobs(node, decide))
    return Plan(node, blobs, told, _configs(node), lost=tuple(lost))


def blob_key(blob: StoredBlob) -> str:
    """The name under which *blob* goes through one push."""
    return str(blob.digest or blob.member)


def narrowed(image: StoredImage, platforms: tuple[Platform, ...]) -> StoredImage:
    """*image* with what `plan_push` leaves of it for *platforms*; all, without any."""
    if not platforms or not isinstance(image.root, StoredIndex):
        return image
    return replace(image, root=_narrow(image.root, platforms), entry=None)


def images_in(root: Node | None) -> list[StoredManifest]:
    """The manifests below *root*, without those that only refer to others."""
    return [node for node in manifests(root) if platform_of(node).os != _UNKNOWN]


_Root = Union[StoredManifest, StoredIndex, StoredOther]


def _choose(image: StoredImage, decide: Decide) -> _Root:
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


class Candidate(NamedTuple):
    """An entry of an index, with what is known of it; inner indexes are opened.

    *is_image* is false for what refers to another entry, such as an attestation.
    """

    descriptor: Descriptor | None
    platform: Platform | None
    is_image: bool
    complete: bool = True


def narrow(
    candidates: Sequence[Candidate], platforms: Sequence[Platform], where: str
) -> tuple[list[int], list[int]]:
    """The places of the images for *platforms*, and of all that stays with them.

    Complete images come before others. Raises NotFound, which names what there is in
    *where*.
    """
    wanted = [_place_for(platform, candidates, where) for platform in platforms]
    chosen = (candidates[place].descriptor for place in wanted)
    digests = {one.digest for one in chosen if one}
    kept = [
        place
        for place, one in enumerate(candidates)
        if one.descriptor and stays(one.descriptor, digests)
    ]
    return list(dict.fromkeys(wanted)), kept


def _place_for(wanted: Platform, candidates: Sequence[Candidate], where: str) -> int:
    images = [place for place, one in enumerate(candidates) if one.is_image]
    whole = [place for place in images if candidates[place].complete]
    for some in (whole, images):
        place = best_match(wanted, [candidates[place].platform for place in some])
        if place is not None:
            return some[place]
    have = {str(candidates[p].platform or "") for p in whole or images} - {""}
    raise NotFound(
        f"{where} holds no image for {wanted}, only for "
        f"{', '.join(sorted(have)) or 'platforms that it does not name'}; choose one "
        "of these with --platform"
    )


def _narrow(root: _Root, platforms: tuple[Platform, ...]) -> _Root:
    """*root* with the images for *platforms* alone. Raises ArchiveError, NotFound."""
    nodes: list[Node] = list(_leaves(root)) if isinstance(root, StoredIndex) else [root]
    images = images_in(root)
    candidates = [
        Candidate(
            node.descriptor,
            platform_of(node) if isinstance(node, StoredManifest) else None,
            node in images,
            node.complete,
        )
        for node in nodes
    ]
    wanted, places = narrow(candidates, platforms, "the archive")
    for place in wanted:
        if not nodes[place].complete:
            raise ArchiveError(
                f"the archive lacks parts of the image for "
                f"{candidates[place].platform}: {_missing(nodes[place])}"
            )
    if len(wanted) == 1 or not isinstance(root, StoredIndex):
        node = nodes[wanted[0]]
        assert isinstance(node, StoredManifest), "only manifests are images"
        return node
    kept = tuple(nodes[place] for place in places)
    if kept == root.manifests:
        return root
    entries = [node.descriptor for node in kept if node.descriptor]
    part = part_of_index(root.raw, root.descriptor.media_type, entries)
    return StoredIndex(part.descriptor, part.raw, kept)


def _leaves(index: StoredIndex) -> Iterator[Node]:
    """What *index* names, the insides of inner indexes instead."""
    for child in index.manifests:
        if isinstance(child, StoredIndex):
            yield from _leaves(child)
        else:
            yield child


def _plan_node(
    node: Node, decide: Decide, notices: list[str], lost: list[Notice]
) -> PlannedNode | None:
    if isinstance(node, Absent) and node.problem:
        raise ArchiveError(node.problem)
    if isinstance(node, StoredIndex):
        return _plan_index(node, decide, notices, lost)
    if isinstance(node, Absent) or not node.complete:
        notices.append(f"not in the archive, left out: {_name(node)}")
        return None
    layers = tuple(map(blob_key, node.layers))
    if isinstance(node, StoredManifest):
        verbatim = node.raw is not None and all(
            decide(layer).keeps for layer in node.layers
        )
        if not verbatim:
            notices += mislabelled(
                node, "{}: corrected, so the manifest gets a new digest"
            )
        return PlannedManifest(node, layers, verbatim)
    return PlannedOther(node, layers)


def _plan_index(
    index: StoredIndex, decide: Decide, notices: list[str], lost: list[Notice]
) -> PlannedNode | None:
    planned = [_plan_node(child, decide, notices, lost) for child in index.manifests]
    present = [child for child in planned if child is not None]
    gone = _lost_subjects(index, planned)
    children = []
    for child in present:
        subject = _subject(child)
        if subject in gone:
            lost.append(left_out(_name(child.stored), subject[7:19]))
        else:
            children.append(child)
    if not children and index.manifests:
        return None
    changed = len(children) < len(index.manifests) or not index.raw
    if changed and len(children) == 1 and not _is_blob(children[0]):
        return children[0]
    verbatim = not changed and all(child.verbatim for child in children)
    return PlannedIndex(index, tuple(children), verbatim)


def left_out(what: str, subject: str) -> Notice:
    """What to say of *what*, which refers to the image *subject* as it was."""
    text = (
        f"left out: {what}, which refers to the image {subject}; that gets another "
        "digest"
    )
    return Notice(text, warning=True)


def _is_blob(node: PlannedNode) -> bool:
    return isinstance(node, PlannedOther) and node.stored.raw is None


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
    """Each once. What something needs byte for byte goes so, whatever others want."""
    kept = {key for leaf in _leaves_of(node) if leaf.verbatim for key in leaf.layers}
    seen = set()
    for leaf in _leaves_of(node):
        for key, layer in zip(leaf.layers, leaf.stored.layers):
            if key in seen:
                continue
            seen.add(key)
            method = decide(layer)
            if method is Method.COMPRESS and key in kept:
                method = Method.AS_IS
            yield PlannedBlob(key, layer, method)


def _configs(node: PlannedNode) -> tuple[PlannedBlob, ...]:
    stored = (
        leaf.stored.config_descriptor
        for leaf in _leaves_of(node)
        if isinstance(leaf, PlannedManifest)
    )
    return tuple(unique(unchanged(replace(config, urls=())) for config in stored))


def _leaves_of(node: PlannedNode) -> Iterator[PlannedManifest | PlannedOther]:
    if isinstance(node, PlannedIndex):
        for child in node.children:
            yield from _leaves_of(child)
    else:
        yield node


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
    return some_of(list(_missing_names(node)), 5)


def _missing_names(node: Node) -> Iterator[str]:
    if isinstance(node, StoredIndex):
        for child in node.manifests:
            yield from _missing_names(child)
    elif isinstance(node, Absent):
        yield f"manifest {_name(node)}"
    else:
        for digest in missing_blobs(node):
            is_layer = any(layer.digest == digest for layer in node.layers)
            yield f"{'layer' if is_layer else 'config'} {digest.short}"
