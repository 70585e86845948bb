"""From members and small JSON to images: one pure function for every kind of archive.

Rules: manifest.json decides which images there are, their names and the order of their
layers; index.json adds the manifests that may be pushed byte for byte, and the images
that manifest.json leaves out. A manifest that does not fit the entry with its config is
not trusted: docker 25.0.0 wrote layers in another order (github.com/moby/moby issue
47161), its pre-releases wrong sizes (47072).
"""

from __future__ import annotations

from typing import Iterable, Iterator, Mapping, Sequence

from ..errors import ArchiveError
from ..oci import Digest, parse_json, require
from ..values import replace
from .contents import Contents
from .docker import MANIFEST_JSON, Entry, read_entries
from .explain import explain_no_image
from .layout import INDEX_JSON, Layout, Root, read_layout, read_manifest_folder
from .member_names import canonical, quoted
from .missing_index import joined_platforms
from .stored import (
    Absent,
    Member,
    Node,
    StoredImage,
    StoredIndex,
    StoredManifest,
    manifests,
    missing_blobs,
)


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
    index = contents.find(INDEX_JSON)
    layout = read_layout(contents, index) if index else Layout()
    entries: tuple[Entry, ...] = ()
    member = contents.find(MANIFEST_JSON)
    if member is not None:
        document = parse_json(contents.document(member), MANIFEST_JSON)
        if isinstance(document, dict) and index is None:
            layout = read_manifest_folder(contents, member)
        elif document is not None:
            records = require(document, list, MANIFEST_JSON)
            entries = read_entries(contents, records, layout.foreign)
    if layout.whole is not None and not entries:
        layout = replace(layout, roots=(Root((), (), layout.whole),))
    images = (*_joined(entries, layout), *_remaining(entries, layout))
    if not images:
        raise ArchiveError(explain_no_image(members))
    return joined_platforms(images)


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
    """By the number of an entry the roots that it stands for.

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
    if root is None:
        return StoredImage(*_names(names, ()), entry.manifest, None)
    return StoredImage(
        *_names((*names, *root.names), root.tags),
        entry.manifest,
        _fitting(root.node, entry.manifest, layout),
    )


def _fitting(
    node: Node, entry: StoredManifest, layout: Layout
) -> StoredManifest | StoredIndex | None:
    """*node*, when it says the same as *entry* of the files they share."""
    found = list(manifests(node))
    if isinstance(node, Absent) or any(_problems(found, layout)):
        return None
    config = entry.config_descriptor.digest
    files = [layer.member for layer in entry.layers]
    fits = any(
        manifest.config_descriptor.digest == config
        and [layer.member for layer in manifest.layers] == files
        for manifest in found
    )
    return node if fits else None


def _problems(found: Iterable[StoredManifest], layout: Layout) -> Iterator[str]:
    for manifest in found:
        problem = layout.problems.get(_digest(manifest))
        if problem:
            yield f"manifest {_digest(manifest)}: {problem}"


def _remaining(entries: Iterable[Entry], layout: Layout) -> Iterator[StoredImage]:
    """The images that only index.json knows.

    What is about another manifest of the archive, as a signature is, is no image.
    """
    known = {entry.manifest.config_descriptor.digest for entry in entries}
    about = {_digest(root.node) for root in _about_others(layout)}
    for root in layout.roots:
        found = list(manifests(root.node))
        if any(item.config_descriptor.digest in known for item in found):
            continue
        named = root.names or root.tags
        if known and not named and not any(item.image_config for item in found):
            continue
        if _digest(root.node) not in about:
            yield _checked_image(root, layout)


def _about_others(layout: Layout) -> list[Root]:
    """Those whose manifests all have a subject that *layout* holds."""
    present = {digest for root in layout.roots for digest in _digests(root.node)}
    found = []
    for root in layout.roots:
        digests = [_digest(item) for item in manifests(root.node)]
        if digests and all(layout.subjects.get(one) in present for one in digests):
            found.append(root)
    return found


def _checked_image(root: Root, layout: Layout) -> StoredImage:
    """*root* as an image of its own. Raises ArchiveError unless it is one."""
    node = root.node
    what = quoted((root.names + root.tags + (str(_digest(node)),))[0])
    found = list(manifests(node))
    problem = next(_problems(found, layout), None)
    if problem:
        raise ArchiveError(
            f"image {what}: {problem}; the archive is damaged, save it again"
        )
    if isinstance(node, Absent) or not found:
        gone: tuple[Digest, ...] = (_digest(node),)
        if isinstance(node, StoredIndex):
            gone = tuple(_digest(child) for child in node.manifests)
        raise _incomplete(what, gone)
    if isinstance(node, StoredManifest) and not node.complete:
        raise _incomplete(what, missing_blobs(node))
    return StoredImage(*_names(root.names, root.tags), None, node)


def _incomplete(what: str, gone: tuple[Digest, ...]) -> ArchiveError:
    more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
    first = gone[0] if gone else "a manifest"
    return ArchiveError(
        f"truncated or incomplete archive: image {what} needs {first}{more}, which "
        "the archive does not hold; save it again"
    )


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
