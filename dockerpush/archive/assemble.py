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

from functools import partial
from typing import Any, Collection, Iterable, Iterator, Mapping, Sequence

from ..errors import ArchiveError, InvalidDigest, InvalidJSON
from ..events import Notice
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
from .contents import (
    Contents,
    LimitExceeded,
    blob_digest,
    check_bytes,
    config_digest,
)
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
    StoredOther,
    leaves,
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
    """One image of manifest.json: its RepoTags as written, and what it consists of.

    *doubts* are what docker does not mind, and others may.
    """

    names: tuple[str, ...]
    manifest: StoredManifest
    doubts: tuple[str, ...] = ()


def read_entries(
    contents: Contents, entries: list[Any], foreign: Mapping[Digest, Descriptor]
) -> tuple[list[Entry], list[StoredImage]]:
    """The images of manifest.json, decoded as *entries*, and those that are broken.

    *foreign* are layers that lie elsewhere as index.json says. Raises LimitExceeded.
    """
    reader = _EntryReader(contents, foreign)
    found, broken = [], []
    for number, record in enumerate(entries):
        try:
            found.append(reader.read(record, f"{MANIFEST_JSON}[{number}]"))
        except LimitExceeded:
            raise
        except (ArchiveError, InvalidJSON, InvalidDigest) as error:
            tags = record.get("RepoTags") if isinstance(record, dict) else None
            names = [name for name in tags if name] if isinstance(tags, list) else []
            broken.append(StoredImage(_each(names), (), None, None, str(error)))
    return found, broken


def _each(names: Iterable[Any]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(str, names)))


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
        return Entry(_each(names), manifest, _doubts(what, config.name, raw))

    def _read_config(self, member: Member, layers: int, what: str) -> ImageConfig:
        """The config in *member*, with as many *layers*."""
        config = self._contents.image_config(member)
        if config is None:
            raise ArchiveError(
                f"image {what}: {quoted(member.name)} is no config of an image; save "
                "it again"
            )
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


def _doubts(what: str, name: str, config: bytes) -> tuple[str, ...]:
    """What is strange about a config, which docker loads whatever it is called."""
    digest = config_digest(name)
    try:
        if digest is not None:
            check_bytes(config, digest, name)
    except ArchiveError:
        found = Digest.of(config)
        return (
            f"image {what}: its config was changed after it was saved: its digest is "
            f"{found}, its file is {quoted(name)}",
        )
    return ()


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
    entries: list[Entry] = []
    broken: list[StoredImage] = []
    member = contents.find(MANIFEST_JSON)
    if member is not None:
        document = parse_json(contents.document(member), MANIFEST_JSON)
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
        raise ArchiveError(explain_no_image(members))
    return joined_platforms(found)


def _without_doubles(
    images: Iterable[StoredImage], broken: Iterable[StoredImage]
) -> list[StoredImage]:
    """*images*, with *broken* entries of manifest.json, each image told of once.

    What index.json has in full makes up for a broken entry. What it has in part or
    damaged is not used where manifest.json has the same name, and that is said.
    """
    images = list(images)
    whole = [image for image in images if not image.problem]
    broken = [
        one
        for one in broken
        if not (one.names and any(map(partial(_covers, other=one), whole)))
    ]
    found: list[StoredImage] = []
    for image in images:
        if image.problem and any(map(partial(_covers, other=image), broken)):
            continue
        place = next(
            (n for n, one in enumerate(found) if one.entry and _covers(one, image)),
            None,
        )
        if not image.problem or place is None:
            found.append(image)
        else:
            notice = Notice(f"not used: {image.problem}", warning=True)
            found[place] = _noticed(found[place], [notice])
    return found + broken


def _covers(image: StoredImage, other: StoredImage) -> bool:
    """True when *image* has every name that *other* has, which has some."""
    names = set(map(canonical, image.names))
    tags = {*image.tags, *(name.rpartition(":")[2] for name in names)}
    return (
        _is_called(other)
        and names.issuperset(map(canonical, other.names))
        and tags.issuperset(other.tags)
    )


def _settled(images: Sequence[StoredImage]) -> tuple[StoredImage, ...]:
    """Those of *images* that can be asked for, the first with notices of the others.

    Those are nameless: broken, or no images beside some that are. Raises ArchiveError
    when nothing but broken ones is left.
    """
    sound = [image for image in images if not image.problem]
    main = [image for image in sound if _is_called(image) or _holds_image(image)]
    kept = main or sound
    broken = [image for image in images if image.problem]
    if broken and not kept:
        raise ArchiveError(broken[0].problem)
    if not kept:
        return ()
    notices = [Notice(_left_out(image)) for image in sound if image not in kept]
    notices += [
        Notice(f"left out: {image.problem}", warning=True)
        for image in broken
        if not _is_called(image)
    ]
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
    """Those whose manifests all have a subject that *layout* holds."""
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
        return found if node.problem else _incomplete(what, (_digest(node),))
    if isinstance(node, StoredIndex):
        gone = tuple(_digest(leaf) for leaf in leaves(node) if isinstance(leaf, Absent))
        if gone and len(gone) == len(list(leaves(node))):
            return _incomplete(what, gone)
    elif not node.complete:
        return _incomplete(what, missing_blobs(node))
    return ""


def _incomplete(what: str, gone: tuple[Digest, ...]) -> str:
    more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
    return (
        f"truncated or incomplete archive: image {what} needs {gone[0]}{more}, which "
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
