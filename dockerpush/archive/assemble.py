"""From members and small JSON to images: one pure function for every kind of archive.

Rules: manifest.json decides which images there are, their names and the order of their
layers; index.json adds the manifests that may be pushed byte for byte, and the images
that manifest.json leaves out. A manifest that does not fit the entry with its config is
not trusted: docker 25.0.0 wrote layers in another order (github.com/moby/moby issue
47161), its pre-releases wrong sizes (47072).

What a tar without an image probably is, and what to do about it.

Images as manifest.json tells them: docker save of every age, and its imitators.

It decides which images there are, their tags and the order of their layers
(github.com/moby/docker-image-spec, spec.md, Combined Image JSON + Filesystem Changeset
Format).
"""

from __future__ import annotations

from typing import Any, Collection, Iterable, Iterator, Mapping, Sequence

from ..errors import ArchiveError
from ..expressions import expression
from ..oci import (
    OCI_CONFIG,
    Descriptor,
    Digest,
    ImageConfig,
    optional,
    parse_json,
    require,
    required,
)
from ..values import replace, value
from .contents import Contents, blob_digest, check_bytes, config_digest
from .headers import canonical, quoted
from .layout import (
    INDEX_JSON,
    Layout,
    Root,
    joined_platforms,
    read_layout,
    read_manifest_folder,
)
from .stored import (
    Absent,
    Compression,
    Member,
    Node,
    StoredBlob,
    StoredImage,
    StoredIndex,
    StoredManifest,
    manifests,
    missing_blobs,
)

_LAYER_OF_DOCKER = expression(r"[0-9a-f]{64}(?:/layer)?\.tar")
_ROOT_FOLDERS = ("bin", "etc", "usr", "var")
_WANTED = "wanted manifest.json or index.json in it, as docker save writes them"


def explain_no_image(names: Collection[str]) -> str:
    """Why an archive with the member *names* holds no image, for an error."""
    if "index.json" in names or "manifest.json" in names:
        return "it holds no image: its list of images is empty"
    for name in names:
        folder, _, file = name.rpartition("/")
        if file in ("index.json", "manifest.json") and "/" not in folder:
            return (
                f"its files are in the folder {quoted(folder)}; unpack it and give "
                "that folder instead"
            )
    if "repositories" in names:
        return (
            "written by docker before 1.10, without manifest.json; load it with "
            "docker load and save it again"
        )
    if "oci-layout" in names or any(
        name.startswith("blobs/") or _LAYER_OF_DOCKER.fullmatch(name) for name in names
    ):
        return (
            "truncated or incomplete archive: manifest.json and index.json are "
            "missing; save it again"
        )
    return _explain_other(names)


def _explain_other(names: Collection[str]) -> str:
    if not names:
        return f"it is empty; {_WANTED}"
    inner = next((name for name in names if name.endswith((".tar", ".tar.gz"))), None)
    if inner:
        return f"it holds no image, but {quoted(inner)}: unpack that and give it"
    if (
        sum(folder in names or _has_folder(names, folder) for folder in _ROOT_FOLDERS)
        > 1
    ):
        return (
            "a root file system, as docker export writes it, not an image; use docker "
            "save, or docker import first"
        )
    shown = ", ".join(quoted(name) for name in sorted(names)[:3])
    return f"it holds no image ({_WANTED}), but {shown}"


def _has_folder(names: Collection[str], folder: str) -> bool:
    return any(name.startswith(folder + "/") for name in names)


MANIFEST_JSON = "manifest.json"

_SHOWN = 3
"""Missing files that an error names; more would not help anybody."""


@value
class Entry:
    """One image of manifest.json: its RepoTags as written, and what it consists of."""

    names: tuple[str, ...]
    manifest: StoredManifest


def read_entries(
    contents: Contents, entries: list[Any], foreign: Mapping[Digest, Descriptor]
) -> tuple[Entry, ...]:
    """The images of manifest.json, decoded as *entries*, in its order.

    *foreign* are layers that lie elsewhere as index.json says. Raises ArchiveError when
    something is missing or does not fit, InvalidJSON, InvalidDigest.
    """
    reader = _EntryReader(contents, foreign)
    return tuple(
        reader.read(record, f"{MANIFEST_JSON}[{number}]")
        for number, record in enumerate(entries)
    )


class _EntryReader:
    """Reads entries one by one; layers that images share become one value."""

    def __init__(
        self, contents: Contents, foreign: Mapping[Digest, Descriptor]
    ) -> None:
        self._contents = contents
        self._foreign = foreign
        self._layers: dict[tuple[str, Digest], StoredBlob] = {}

    def read(self, value: Any, where: str) -> Entry:
        record = require(value, dict, where)
        names = [name for name in _strings(record, "RepoTags", where) if name]
        layers = _strings(record, "Layers", where)
        config_name = required(record, "Config", str, where)
        what = quoted(names[0]) if names else where
        self._contents.count_descriptors(len(layers) + 1)
        config = self._contents.find(config_name)
        if config is None:
            raise _missing_members(what, [config_name])
        image_config = self._read_config(config, len(layers), what)
        elsewhere = {**self._foreign, **_layer_sources(record, where)}
        blobs = []
        for name, diff_id in zip(layers, image_config.diff_ids):
            blobs.append(self._find_layer(name, diff_id, elsewhere))
        gone = [name for name, blob in zip(layers, blobs) if blob is None]
        if gone:
            raise _missing_members(what, gone)
        raw = self._contents.document(config)
        manifest = StoredManifest(
            None,
            None,
            Descriptor.of(OCI_CONFIG, raw),
            raw,
            image_config,
            tuple(blob for blob in blobs if blob is not None),
        )
        return Entry(tuple(dict.fromkeys(names)), manifest)

    def _read_config(self, member: Member, layers: int, what: str) -> ImageConfig:
        """The config in *member*, with its digest checked and as many *layers*."""
        digest = config_digest(member.name)
        if digest is not None:
            check_bytes(self._contents.document(member), digest, member.name)
        config = self._contents.image_config(member)
        if len(config.diff_ids) != layers:
            raise ArchiveError(
                f"image {what} has {layers} layers in {MANIFEST_JSON}, but "
                f"{len(config.diff_ids)} diff_ids in its config {quoted(member.name)}"
            )
        return config

    def _find_layer(
        self, name: str, diff_id: Digest, elsewhere: Mapping[Digest, Descriptor]
    ) -> StoredBlob | None:
        """The layer *name*; None when the archive should hold it, and does not."""
        member = self._contents.find(name)
        if member is not None:
            return self._layer(member, diff_id)
        digest = blob_digest(name)
        descriptor = elsewhere.get(diff_id) or (digest and elsewhere.get(digest))
        if not descriptor:
            return None
        return StoredBlob(
            None,
            descriptor.size,
            Compression.NONE,
            descriptor.digest,
            diff_id,
            descriptor,
        )

    def _layer(self, member: Member, diff_id: Digest) -> StoredBlob:
        key = (member.name, diff_id)
        if key not in self._layers:
            self._layers[key] = _stored_layer(self._contents, member, diff_id)
        return self._layers[key]


def _strings(record: Mapping[str, Any], key: str, where: str) -> list[str]:
    """The list under *key*; empty when it is null or missing, as Go writes it."""
    values = optional(record, key, list, where) or []
    return [require(value, str, f"{where}.{key}") for value in values]


def _layer_sources(record: Mapping[str, Any], where: str) -> dict[Digest, Descriptor]:
    """The ``LayerSources`` that tell where else a layer lies, by diff_id."""
    sources = optional(record, "LayerSources", dict, where) or {}
    return {
        Digest(diff_id): Descriptor.from_json(value, f"{where}.LayerSources")
        for diff_id, value in sources.items()
        if isinstance(value, dict) and value.get("urls")
    }


def _stored_layer(contents: Contents, member: Member, diff_id: Digest) -> StoredBlob:
    compression = contents.compression(member)
    digest = blob_digest(member.name)
    if compression is Compression.NONE:
        if digest is not None and digest.contradicts(diff_id):
            raise ArchiveError(
                f"{quoted(member.name)}: not compressed in a way we know, and not the "
                f"layer {diff_id} that the image's config wants"
            )
        digest = diff_id
    return StoredBlob(member.name, member.size, compression, digest, diff_id)


def _missing_members(what: str, gone: list[str]) -> ArchiveError:
    shown = ", ".join(map(quoted, gone[:_SHOWN]))
    more = f" and {len(gone) - _SHOWN} more" if len(gone) > _SHOWN else ""
    return ArchiveError(
        f"truncated or incomplete archive: image {what} needs {shown}{more}, which "
        "the archive does not hold; save it again"
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
