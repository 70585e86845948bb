"""From members and small JSON to images: one pure function for every kind of archive.

Rules: manifest.json decides which images there are, their names and the order of their
layers; index.json adds the manifests that may be pushed byte for byte, and the images
that manifest.json leaves out. A manifest that does not fit the entry with its config is
not trusted: docker 25.0.0 wrote layers in another order (github.com/moby/moby issue
47161), its pre-releases wrong sizes (47072).

One entry that cannot be used spoils no other: it is an image with a problem. Entries of
one name for different platforms, which nothing forbids (github.com/opencontainers/
image-spec issue 581), are one image, under an index that is made here.
"""

from __future__ import annotations

from typing import Callable, Container, Iterable, Iterator, Mapping, Sequence

from ..errors import ArchiveError
from ..events import Notice
from ..oci import (
    OCI_INDEX,
    Descriptor,
    Digest,
    Index,
    Platform,
    dump_json,
    parse_json,
    require,
)
from ..platforms import normalised
from ..strict_json import ANY
from ..values import replace
from .contents import Contents
from .docker import MANIFEST_JSON, Entry, incomplete, read_entries
from .headers import canonical, quoted
from .layout import (
    FULL_NAME,
    INDEX_JSON,
    REF_NAME,
    Layout,
    Root,
    read_layout,
    read_manifest_folder,
)
from .needs import missing_needs, refuse_delta
from .sniff import explain_no_image
from .stored import (
    UNKNOWN,
    Absent,
    Member,
    Node,
    StoredImage,
    StoredIndex,
    StoredManifest,
    StoredOther,
    leaves,
    manifests,
    missing_blobs,
    platform_of,
)

_SHOWN = 20
"""Entries that are left out and told one by one."""


def assemble(
    members: Mapping[str, Member],
    documents: Mapping[str, bytes],
    heads: Mapping[str, bytes],
) -> tuple[StoredImage, ...]:
    """The images of an archive, never none, in its order.

    *members* are all members by normalised name; *documents* gives the bytes of JSON
    members and *heads* the first `HEAD_SIZE` bytes of any, both by the name of a member
    that is no link, and only of those that are needed. Raises ArchiveError,
    InvalidJSON, InvalidDigest, which name the member at fault.
    """
    contents = Contents(members, documents, heads)
    needs = missing_needs(contents).values()
    try:
        images = _assembled(contents)
    except ArchiveError:
        refuse_delta(needs)
        raise
    if not all(map(_is_whole, images)):
        refuse_delta(needs)
    return images


def _is_whole(image: StoredImage) -> bool:
    """False when a delta may have left out a part of *image*."""
    root = image.root or image.entry
    is_sound = not (image.problem or any(one.warning for one in image.notices))
    return is_sound and root is not None and root.complete


def _assembled(contents: Contents) -> tuple[StoredImage, ...]:
    index = contents.find(INDEX_JSON)
    layout = read_layout(contents, index) if index else Layout()
    entries: list[Entry] = []
    broken: list[StoredImage] = []
    member = contents.find(MANIFEST_JSON)
    if member is not None:
        document = parse_json(contents.document(member), MANIFEST_JSON, ANY)
        if isinstance(document, dict) and index is None:
            layout = read_manifest_folder(contents, member)
        elif document is not None:
            records = require(document, list, MANIFEST_JSON)
            entries, broken = read_entries(contents, records, layout.foreign)
    if layout.whole is not None and not entries:
        layout = replace(layout, roots=(Root((), (), layout.whole),))
    images = [*_joined(entries, layout), *_remaining(entries, layout), *layout.broken]
    found = _settled(_without_doubles(images, broken))
    if not found:
        raise ArchiveError(explain_no_image(contents.members))
    return joined_platforms(found)


def _without_doubles(
    images: Iterable[StoredImage], broken: Iterable[StoredImage]
) -> list[StoredImage]:
    """*images*, with *broken* entries of manifest.json, each image once.

    What index.json has in full makes up for a broken entry. What it has in part or
    damaged is not used where manifest.json has the same name, and that is reported.
    """
    images = list(images)
    sound = [image for image in images if not image.problem]
    whole = _places(image for image in sound if image.entry is None)
    lost = [one for one in broken if not _is_held(one, whole)]
    told = _places(lost)
    held = _places(sound, lambda image: image.entry is not None)
    for image in images:
        if not image.problem or _is_held(image, told):
            continue
        if _is_held(image, held):
            place = held[_keys(image)[0]]
            notice = Notice(f"not used: {image.problem}", warning=True)
            sound[place] = _noticed(sound[place], [notice])
        else:
            lost.append(image)
    return sound + lost


def _places(
    images: Iterable[StoredImage], counts: Callable[[StoredImage], bool] = bool
) -> dict[str, int]:
    """The place of an image for each of its names, its tags, and the tags of names."""
    found: dict[str, int] = {}
    for place, image in enumerate(images):
        if counts(image):
            keys = _keys(image)
            for key in (*keys, *(name.rpartition(":")[2] for name in keys)):
                found.setdefault(key, place)
    return found


def _is_held(image: StoredImage, places: Container[str]) -> bool:
    """True when *places* have all the names of *image*, which has some."""
    return _is_called(image) and all(key in places for key in _keys(image))


def _settled(images: Sequence[StoredImage]) -> tuple[StoredImage, ...]:
    """The *images* that can be asked for, the first with notices of the others.

    Those are nameless: broken, or no images beside some that are. Raises ArchiveError
    when nothing but broken ones is left.
    """
    sound = [image for image in images if not image.problem]
    broken = [image for image in images if image.problem]
    main = [image for image in sound if _is_called(image) or _holds_image(image)]
    side = [one for one in sound if not (_is_called(one) or _holds_image(one))]
    kept = main or sound
    if broken and not kept:
        raise ArchiveError(broken[0].problem)
    if not kept:
        return ()
    notices = [Notice(_left_out(image)) for image in side if main]
    notices += [
        Notice(f"left out: {image.problem}", warning=True)
        for image in broken
        if not _is_called(image)
    ]
    if len(notices) > _SHOWN:
        more = f"left out as well: {len(notices) - _SHOWN} entries"
        notices[_SHOWN:] = [Notice(more, warning=any(one.warning for one in notices))]
    return (_noticed(kept[0], notices), *kept[1:], *filter(_is_called, broken))


def _noticed(image: StoredImage, notices: Sequence[Notice]) -> StoredImage:
    return replace(image, notices=(*image.notices, *notices))


def _is_called(image: StoredImage) -> bool:
    return bool(image.names or image.tags)


def _holds_image(image: StoredImage) -> bool:
    return any(one.image_config for one in manifests(image.entry or image.root))


def _left_out(image: StoredImage) -> str:
    assert image.root is not None, "an entry of manifest.json is an image"
    kind = image.root.descriptor.media_type if image.root.descriptor else ""
    return f"left out, it has no name: {_digest(image.root)} ({kind[:80]})"


def referrers(
    members: Mapping[str, Member],
    documents: Mapping[str, bytes],
    heads: Mapping[str, bytes],
) -> tuple[StoredImage, ...]:
    """What is no image of an archive but about one, as a signature is.

    Arguments and errors are those of `assemble`.
    """
    contents = Contents(members, documents, heads)
    index = contents.find(INDEX_JSON)
    layout = read_layout(contents, index) if index else Layout()
    return tuple(_checked_image(root, layout) for root in _about_others(layout))


def _joined(entries: Sequence[Entry], layout: Layout) -> Iterator[StoredImage]:
    """The images of manifest.json, each with what index.json has of it.

    One entry may stand for several indexes that share a platform; every index that has
    a name becomes an image then. An index belongs to one entry, though it holds the
    images of several.
    """
    roots = _roots_by_config(layout.roots)
    owned = _owned(entries, layout.roots)
    for number, entry in enumerate(entries):
        mine = owned.get(number, [])
        others = [root for root in mine[1:] if root.names or root.tags]
        taken = {canonical(name) for root in others for name in root.names}
        names = [name for name in entry.names if canonical(name) not in taken]
        found = mine or roots.get(entry.manifest.config_descriptor.digest, [])
        yield _image(entry, found[0] if found else None, layout, names)
        for root in others:
            yield _image(entry, root, layout, [])


def _owned(entries: Sequence[Entry], roots: Iterable[Root]) -> dict[int, list[Root]]:
    """The number of an entry → the roots that it stands for.

    That is the entry of the same name among those whose config a root has, else the
    first of these.
    """
    owned: dict[int, list[Root]] = {}
    for root in roots:
        configs = {item.config_descriptor.digest for item in manifests(root.node)}
        names = set(map(canonical, root.names))
        having = [
            number
            for number, entry in enumerate(entries)
            if entry.manifest.config_descriptor.digest in configs
        ]
        named = [n for n in having if names & set(map(canonical, entries[n].names))]
        for number in (named or having)[:1]:
            owned.setdefault(number, []).append(root)
    return owned


def _roots_by_config(roots: Iterable[Root]) -> dict[Digest, list[Root]]:
    found: dict[Digest, list[Root]] = {}
    for root in roots:
        for config in {item.config_descriptor.digest for item in manifests(root.node)}:
            found.setdefault(config, []).append(root)
    return found


def _image(
    entry: Entry, root: Root | None, layout: Layout, names: Iterable[str]
) -> StoredImage:
    notices = tuple(Notice(doubt, warning=True) for doubt in entry.doubts)
    if root is None:
        return StoredImage(*_names(names, ()), entry.manifest, None, notices=notices)
    return StoredImage(
        *_names((*names, *root.names), root.tags),
        entry.manifest,
        _fitting(root.node, entry.manifest, layout),
        notices=notices,
    )


def _fitting(
    node: Node, entry: StoredManifest, layout: Layout
) -> StoredManifest | StoredIndex | None:
    """*node*, when it says the same as *entry* of the files they share."""
    found = list(manifests(node))
    if isinstance(node, (Absent, StoredOther)) or any(_problems(node, layout)):
        return None
    config = entry.config_descriptor.digest
    files = [layer.member for layer in entry.layers]
    fits = any(
        manifest.config_descriptor.digest == config
        and [layer.member for layer in manifest.layers] == files
        for manifest in found
    )
    return node if fits else None


def _problems(node: Node, layout: Layout) -> Iterator[str]:
    for leaf in leaves(node):
        problem = layout.problems.get(_digest(leaf))
        if problem:
            yield f"manifest {_digest(leaf)}: {problem}"


def _remaining(entries: Iterable[Entry], layout: Layout) -> Iterator[StoredImage]:
    """The images that only index.json knows.

    What is about another manifest of the archive, as a signature is, is no image.
    """
    known = {entry.manifest.config_descriptor.digest for entry in entries}
    about = {_digest(root.node) for root in _about_others(layout)}
    for root in layout.roots:
        configs = {item.config_descriptor.digest for item in manifests(root.node)}
        if known.isdisjoint(configs) and _digest(root.node) not in about:
            yield _checked_image(root, layout)


def _about_others(layout: Layout) -> list[Root]:
    """The roots whose manifests all have a subject that *layout* holds."""
    present = {digest for root in layout.roots for digest in _digests(root.node)}
    found = []
    for root in layout.roots:
        digests = [_digest(item) for item in leaves(root.node)]
        if digests and all(layout.subjects.get(one) in present for one in digests):
            found.append(root)
    return found


def _checked_image(root: Root, layout: Layout) -> StoredImage:
    """*root* as an image of its own, with a problem unless it can be one."""
    node = root.node
    names = _names(root.names, root.tags)
    what = quoted((*root.names, *root.tags, str(_digest(node)))[0])
    problem = _problem(node, what, layout)
    if problem or isinstance(node, Absent):
        return StoredImage(*names, None, None, problem)
    return StoredImage(*names, None, node)


def _problem(node: Node, what: str, layout: Layout) -> str:
    """Why *node* cannot be pushed; "" when it can."""
    problem = next(_problems(node, layout), "")
    if problem:
        return f"image {what}: {problem}; the archive is damaged, save it again"
    if isinstance(node, Absent):
        found = f"image {what}: {node.problem}"
        return found if node.problem else incomplete(what, (_digest(node),), 1)
    if isinstance(node, StoredIndex):
        gone = tuple(_digest(leaf) for leaf in leaves(node) if isinstance(leaf, Absent))
        if gone and len(gone) == len(list(leaves(node))):
            return incomplete(what, gone, 1)
    elif not node.complete:
        return incomplete(what, missing_blobs(node), 1)
    return ""


def _digests(node: Node) -> Iterator[Digest]:
    yield _digest(node)
    if isinstance(node, StoredIndex):
        for child in node.manifests:
            yield from _digests(child)


def _digest(node: Node) -> Digest:
    assert node.descriptor is not None, "only an entry of manifest.json has none"
    return node.descriptor.digest


def _names(
    names: Iterable[str], tags: Iterable[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """*names*, each meaning once, and the *tags* that none of them has."""
    kept: dict[str, str] = {}
    for name in names:
        kept.setdefault(canonical(name), name)
    known = {name.rpartition(":")[2] for name in kept}
    return (
        tuple(kept.values()),
        tuple(tag for tag in dict.fromkeys(tags) if tag not in known),
    )


def joined_platforms(images: Sequence[StoredImage]) -> tuple[StoredImage, ...]:
    """*images*, those of one name and of different platforms under one index."""
    holders = _holders(images)
    shared: dict[tuple[int, ...], set[str]] = {}
    for key, places in holders.items():
        if len(places) > 1 and _differ([images[place] for place in places]):
            shared.setdefault(tuple(places), set()).add(key)
    found: list[StoredImage] = []
    taken = set().union(*shared.values())
    for place, image in enumerate(images):
        for together, keys in shared.items():
            if together[0] == place:
                found.append(_under_index([images[one] for one in together], keys))
        rest = _without(image, taken)
        if rest.names or rest.tags or not _keys(image):
            found.append(rest)
    return tuple(found)


def _holders(images: Iterable[StoredImage]) -> dict[str, list[int]]:
    """Each name and tag → the places of the images that have it."""
    found: dict[str, list[int]] = {}
    for place, image in enumerate(images):
        for key in _keys(image):
            found.setdefault(key, []).append(place)
    return found


def _keys(image: StoredImage) -> list[str]:
    return [*map(canonical, image.names), *image.tags]


def _without(image: StoredImage, taken: set[str]) -> StoredImage:
    return replace(
        image,
        names=tuple(name for name in image.names if canonical(name) not in taken),
        tags=tuple(tag for tag in image.tags if tag not in taken),
    )


def _differ(images: Iterable[StoredImage]) -> bool:
    """True when each of *images* is for one platform, and no two for the same.

    An index among them stays as it is: joining it would cost it its digest, and what it
    says beside its manifests.
    """
    seen: set[Platform] = set()
    for image in images:
        found = {normalised(platform_of(one)) for one in _runnable(image)}
        if isinstance(image.root, StoredIndex) or len(found) != 1 or found & seen:
            return False
        seen |= found
    return True


def _runnable(image: StoredImage) -> list[StoredManifest]:
    found = manifests(image.root or image.entry)
    return [one for one in found if platform_of(one).os != UNKNOWN.os]


def _under_index(images: Sequence[StoredImage], keys: set[str]) -> StoredImage:
    children = tuple(child for image in images for child in _children(image))
    known = [child.descriptor for child in children]
    raw = b""
    if all(known):
        raw = Index(OCI_INDEX, tuple(one for one in known if one)).to_bytes()
    told = raw or dump_json([str(one.config_descriptor.digest) for one in children])
    first = images[0]
    return StoredImage(
        tuple(name for name in first.names if canonical(name) in keys),
        tuple(tag for tag in first.tags if tag in keys),
        None,
        StoredIndex(Descriptor.of(OCI_INDEX, told), raw, children),
    )


def _children(image: StoredImage) -> Iterator[StoredManifest]:
    """The manifests of *image* as an index names them: where each runs, no names."""
    for manifest in manifests(image.root or image.entry):
        descriptor = manifest.descriptor
        if descriptor is None:
            yield manifest
            continue
        annotations = {
            key: value
            for key, value in (descriptor.annotations or {}).items()
            if key not in (FULL_NAME, REF_NAME)
        }
        platform = platform_of(manifest)
        yield replace(
            manifest,
            descriptor=replace(
                descriptor,
                annotations=annotations or None,
                platform=None if platform == UNKNOWN else platform,
            ),
        )
