"""Images as an OCI image layout describes them: index.json and what it leads to.

(image-spec, image-layout.md). The same walk serves the form that skopeo and podman call
``dir:``, whose manifest.json is the image's own manifest. What cannot be read is
reported where it belongs, so that it spoils nothing else.
"""

from __future__ import annotations

from typing import Any, Iterable, Mapping

from ..documents import check_names_nothing, children_of, is_document, may_name
from ..errors import ArchiveError, InvalidDigest, InvalidJSON
from ..oci import (
    DOCKER_CONFIG,
    IMAGE_KEYS,
    INDEX_TYPES,
    JSON_LIMIT,
    LAYER_TYPES,
    MANIFEST_TYPES,
    OCI_ARTIFACT,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    RAW_LAYER_TYPES,
    UNTYPED,
    Descriptor,
    Digest,
    ImageConfig,
    Index,
    Manifest,
    dump_json,
    optional,
    parse_json,
    require,
)
from ..reference import is_tag
from ..strict_json import ANY, DOCUMENT
from ..values import field, replace, value
from .contents import Contents, LimitExceeded, check_bytes, naming
from .headers import quoted
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
)

INDEX_JSON = "index.json"

DEPTH_LIMIT = 8
"""Indexes within indexes; real ones have two."""

FULL_NAME = "io.containerd.image.name"
REF_NAME = "org.opencontainers.image.ref.name"

_KEYS = (b'"layers"', b'"manifests"')  # what a document of a known type has
_ATTESTATION = "vnd.docker.reference.type"


@value
class Root:
    """What one digest of index.json leads to, under all its names there."""

    names: tuple[str, ...]
    tags: tuple[str, ...]
    node: Node


@value
class Layout:
    """What a layout leads to: its *roots*, and what is strange about them.

    *problems* says by digest why a manifest does not fit its blobs; *subjects* which
    manifest another one is about; *foreign* which layers lie elsewhere. *whole* is
    index.json itself, where it lists the platforms of one image without a name
    (image-spec, image-layout.md, index.json File). *broken* are entries of index.json
    that cannot be read.
    """

    roots: tuple[Root, ...] = ()
    whole: StoredIndex | None = None
    problems: Mapping[Digest, str] = field(default_factory=dict)
    subjects: Mapping[Digest, Digest] = field(default_factory=dict)
    foreign: Mapping[Digest, Descriptor] = field(default_factory=dict)
    broken: tuple[StoredImage, ...] = ()


def read_layout(contents: Contents, member: Member) -> Layout:
    """Everything that the index.json in *member* leads to.

    Manifests, indexes and configs are checked against their descriptors; what is wrong
    with one of them is reported where it belongs. Raises ArchiveError, InvalidJSON,
    InvalidDigest for what is wrong with the whole.
    """
    raw = contents.document(member)
    contents.count_mentions(raw, member.name)
    with naming(member.name):
        index, broken = _read_index_json(raw)
    walk = _Walk(contents)
    nodes = tuple(walk.visit(descriptor, 1).node for descriptor in index.manifests)
    whole = None
    if _lists_platforms(index) and not broken:
        whole = StoredIndex(Descriptor.of(index.media_type, raw), raw, nodes)
    roots = merged_roots(index.manifests, nodes)
    alone = all(_is_file(root.node) for root in roots)
    roots = tuple(
        replace(root, node=walk.as_document(root.node))
        if _is_file(root.node) and (alone or root.names or root.tags)
        else root
        for root in roots
    )
    return replace(walk.layout(roots, whole), broken=broken)


def _is_file(node: Node) -> bool:
    """True for what index.json names, and is no document of a known type."""
    return isinstance(node, StoredOther) and node.raw is None


def _read_index_json(raw: bytes) -> tuple[Index, tuple[StoredImage, ...]]:
    """What index.json says, and those of its entries that cannot be read."""
    record = require(parse_json(raw, INDEX_JSON, DOCUMENT), dict, INDEX_JSON)
    entries, broken = [], []
    for number, entry in enumerate(optional(record, "manifests", list, "index") or ()):
        try:
            Descriptor.from_json(entry, "entry")
            entries.append(entry)
        except (InvalidJSON, InvalidDigest) as error:
            problem = f"{quoted(INDEX_JSON)}: manifests[{number}]: {error}"
            broken.append(StoredImage(*_said_names(entry), None, None, problem))
    index = Index.from_bytes(dump_json({**record, "manifests": entries}))
    return index, tuple(broken)


def read_manifest_folder(contents: Contents, member: Member) -> Layout:
    """The image whose own manifest or index is the manifest.json in *member*."""
    raw = contents.document(member)
    walk = _Walk(contents)
    node = walk.read(Descriptor.of("", raw), raw, 1).node
    return walk.layout((Root((), (), node),))


def _lists_platforms(index: Index) -> bool:
    platforms = [entry.platform for entry in index.manifests]
    return (
        len(platforms) > 1
        and len(set(platforms)) == len(platforms)
        and None not in platforms
        and not any(map(_names, index.manifests))
        and not any(map(_tags, index.manifests))
    )


def merged_roots(
    descriptors: Iterable[Descriptor], nodes: Iterable[Node]
) -> tuple[Root, ...]:
    """One root for each digest, which an index lists once for every tag."""
    roots: dict[Digest, Root] = {}
    for descriptor, node in zip(descriptors, nodes):
        root = roots.get(descriptor.digest, Root((), (), node))
        roots[descriptor.digest] = Root(
            root.names + _names(descriptor), root.tags + _tags(descriptor), root.node
        )
    return tuple(roots.values())


def _names(descriptor: Descriptor) -> tuple[str, ...]:
    """The full references among the annotations of *descriptor*."""
    annotations = descriptor.annotations or {}
    values = (annotations.get(FULL_NAME), annotations.get(REF_NAME))
    return tuple(name for name in values if name and not is_tag(name))


def _tags(descriptor: Descriptor) -> tuple[str, ...]:
    """The annotation that docker means as a tag, and others as a reference."""
    name = (descriptor.annotations or {}).get(REF_NAME)
    return (name,) if name and is_tag(name) else ()


def _said_names(entry: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names and tags of an *entry* that is no descriptor."""
    annotations = entry.get("annotations") if isinstance(entry, dict) else None
    said = annotations if isinstance(annotations, dict) else {}
    found = {str(said[key]) for key in (FULL_NAME, REF_NAME) if said.get(key)}
    tags = tuple(filter(is_tag, found))
    return tuple(found.difference(tags)), tags


@value
class _Visited:
    """A node with the number of nodes below and including it, and their depth."""

    node: Node
    weight: int = 1
    height: int = 1


class _Walk:
    """Reads each manifest once, however often and under whatever names it is listed.

    What indexes add up to is counted with repeats, since that is how often whoever
    walks over the result comes by.
    """

    def __init__(self, contents: Contents) -> None:
        self._contents = contents
        self._visited: dict[tuple[Digest, int, str], _Visited] = {}
        self._problems: dict[Digest, str] = {}
        self._subjects: dict[Digest, Digest] = {}
        self._foreign: dict[Digest, Descriptor] = {}

    def layout(
        self, roots: tuple[Root, ...], whole: StoredIndex | None = None
    ) -> Layout:
        return Layout(roots, whole, self._problems, self._subjects, self._foreign)

    def visit(self, descriptor: Descriptor, depth: int) -> _Visited:
        """What *descriptor* names, *depth* indexes below the top."""
        key = (descriptor.digest, descriptor.size, descriptor.media_type)
        known = self._visited.get(key)
        if known is None:
            known = self._visited[key] = self._find(descriptor, depth)
        else:
            self._contents.count_descriptors(known.weight)
        _check_depth(depth + known.height - 1)
        return replace(known, node=_described(known.node, descriptor))

    def _find(self, descriptor: Descriptor, depth: int) -> _Visited:
        _check_depth(depth)
        try:
            member = self._held(descriptor)
            if not is_document(descriptor) and not self._is_manifest(
                descriptor, member
            ):
                return _Visited(self._read_blob(descriptor, member))
            if member is None:
                return _Visited(Absent(descriptor))
            raw = self._contents.document(member)
            check_bytes(raw, descriptor.digest, member.name)
            with naming(member.name):
                return self.read(descriptor, raw, depth)
        except LimitExceeded:
            raise
        except (ArchiveError, InvalidJSON, InvalidDigest) as error:
            return _Visited(Absent(descriptor, str(error)))

    def _held(self, descriptor: Descriptor) -> Member | None:
        """The file with what *descriptor* names, of the size that it says."""
        member = self._contents.find_blob(descriptor.digest)
        if member is not None and member.size != descriptor.size:
            raise ArchiveError(
                f"{quoted(member.name)}: {member.size} bytes, its descriptor says "
                f"{descriptor.size}; the archive is damaged, save it again"
            )
        return member

    def _is_manifest(self, descriptor: Descriptor, member: Member | None) -> bool:
        """True when a type that says nothing stands for a document that we know."""
        if descriptor.media_type not in UNTYPED or member is None:
            return not descriptor.media_type
        if member.size > JSON_LIMIT or not self._contents.may_be_json(member):
            return False
        return any(key in self._contents.document(member) for key in _KEYS)

    def _read_blob(self, descriptor: Descriptor, member: Member | None) -> StoredOther:
        """What an index names and is no document: nothing can do without it."""
        if member is None and not descriptor.urls:
            raise ArchiveError(
                f"truncated or incomplete archive: {descriptor.digest} "
                f"({descriptor.media_type[:80]}) is not in it; save it again"
            )
        if member and may_name(descriptor) and self._contents.may_be_json(member):
            check_names_nothing(descriptor, self._contents.document(member))
        blob = self._layer(descriptor, None, descriptor.digest)
        return StoredOther(descriptor, None, (blob,))

    def as_document(self, node: Node) -> Node:
        """*node*, an entry of index.json of an unknown type, as a manifest."""
        assert node.descriptor is not None, "an entry of index.json has one"
        try:
            member = self._contents.find_blob(node.descriptor.digest)
            if member is None or member.size > JSON_LIMIT:
                raise ArchiveError(
                    f"{node.descriptor.digest}: it is of the type "
                    f"{node.descriptor.media_type[:80]!r}, and too large for a manifest"
                )
            raw = self._contents.document(member)
            check_bytes(raw, node.descriptor.digest, member.name)
            return StoredOther(node.descriptor, raw, ())
        except LimitExceeded:
            raise
        except (ArchiveError, InvalidJSON) as error:
            return Absent(node.descriptor, str(error))

    def read(self, descriptor: Descriptor, raw: bytes, depth: int) -> _Visited:
        """The index or manifest in *raw*."""
        self._contents.count_mentions(raw, descriptor.digest)
        kind = _kind_of(raw, descriptor)
        if kind == OCI_ARTIFACT:
            return _Visited(self._read_artifact(descriptor, raw))
        if kind == OCI_INDEX:
            return self._read_index(descriptor, raw, depth)
        return _Visited(self._read_manifest(descriptor, raw))

    def _read_artifact(self, descriptor: Descriptor, raw: bytes) -> StoredOther:
        """An artifact manifest of OCI 1.1's release candidates."""
        descriptor = replace(descriptor, media_type=OCI_ARTIFACT)
        self._note_subject(descriptor, raw)
        blobs = children_of(descriptor, raw).blobs
        found = tuple(self._layer(one, None, descriptor.digest) for one in blobs)
        return StoredOther(descriptor, raw, found)

    def _note_subject(self, descriptor: Descriptor, raw: bytes) -> None:
        subject = parse_json(raw, "artifact", DOCUMENT).get("subject")
        if subject:
            found = Descriptor.from_json(subject, "artifact.subject")
            self._subjects[descriptor.digest] = found.digest

    def _read_index(self, descriptor: Descriptor, raw: bytes, depth: int) -> _Visited:
        index = Index.from_bytes(raw, descriptor.media_type)
        children = [self.visit(child, depth + 1) for child in index.manifests]
        node = StoredIndex(
            replace(descriptor, media_type=index.media_type),
            raw,
            tuple(child.node for child in children),
        )
        weight = 1 + sum(child.weight for child in children)
        height = 1 + max((child.height for child in children), default=0)
        return _Visited(node, weight, height)

    def _read_manifest(self, descriptor: Descriptor, raw: bytes) -> StoredManifest:
        manifest = Manifest.from_bytes(raw, descriptor.media_type)
        if manifest.subject:
            self._subjects[descriptor.digest] = manifest.subject.digest
        config, image_config = self._read_config(descriptor, manifest)
        diff_ids: list[Digest | None] = list(
            image_config.diff_ids if image_config else ()
        )
        count = len(manifest.layers)
        if image_config and len(diff_ids) != count:
            self._problems[descriptor.digest] = (
                f"{count} layers, but {len(diff_ids)} diff_ids in its config"
            )
        diff_ids += [None] * count
        return StoredManifest(
            replace(descriptor, media_type=manifest.media_type),
            raw,
            manifest.config,
            config,
            image_config,
            tuple(
                self._layer(layer, diff_id, descriptor.digest)
                for layer, diff_id in zip(manifest.layers, diff_ids)
            ),
        )

    def _read_config(
        self, descriptor: Descriptor, manifest: Manifest
    ) -> tuple[bytes | None, ImageConfig | None]:
        member = self._contents.find_blob(manifest.config.digest)
        if member is None:
            return None, None
        raw = self._contents.document(member)
        check_bytes(raw, manifest.config.digest, member.name)
        if len(raw) != manifest.config.size:
            self._problems[descriptor.digest] = (
                f"its config has {len(raw)} bytes, not {manifest.config.size}"
            )
        if not is_image(descriptor, manifest):
            return raw, None
        config = self._contents.image_config(member)
        is_of_layers = config and (config.diff_ids or not manifest.layers)
        return raw, config if is_of_layers else None

    def _layer(
        self, layer: Descriptor, diff_id: Digest | None, manifest: Digest
    ) -> StoredBlob:
        member = self._contents.find_blob(layer.digest)
        if member is None:
            if layer.urls:
                self._foreign[layer.digest] = layer
            return StoredBlob(
                None, layer.size, Compression.NONE, layer.digest, diff_id, layer
            )
        compression = self._contents.compression(member)
        is_plain = (
            layer.media_type in RAW_LAYER_TYPES and compression is Compression.NONE
        )
        if member.size != layer.size:
            self._problems[manifest] = (
                f"its layer {layer.digest} has {member.size} bytes, not {layer.size}"
            )
        elif is_plain and layer.digest.contradicts(diff_id):
            self._problems[manifest] = (
                f"its layer {layer.digest} is not the layer {diff_id} of its config"
            )
        return StoredBlob(
            member.name, member.size, compression, layer.digest, diff_id, layer
        )


def _kind_of(raw: bytes, descriptor: Descriptor) -> str:
    """What *raw* is: OCI_INDEX for any index, OCI_MANIFEST, OCI_ARTIFACT.

    Raises ArchiveError for what is obsolete, and for a type that cannot be read: it may
    need more than is known.
    """
    record = require(parse_json(raw, "manifest", ANY), dict, "manifest")
    if record.get("schemaVersion") == 1:
        raise ArchiveError(
            f"{descriptor.digest}: a manifest of schema version 1, which registries "
            "reject; pull the image and save it again"
        )
    media_type = record.get("mediaType") or descriptor.media_type
    if media_type == OCI_ARTIFACT:
        return OCI_ARTIFACT
    if media_type and media_type not in (*INDEX_TYPES, *MANIFEST_TYPES):
        raise ArchiveError(
            f"{descriptor.digest}: a document of the type {str(media_type)[:80]!r}, "
            "which dockerpush cannot read"
        )
    without = media_type in INDEX_TYPES and IMAGE_KEYS.isdisjoint(record)
    return OCI_INDEX if "manifests" in record or without else OCI_MANIFEST


def _check_depth(depth: int) -> None:
    if depth > DEPTH_LIMIT:
        raise LimitExceeded(f"indexes within indexes, more than {DEPTH_LIMIT} deep")


def _described(node: Node, descriptor: Descriptor) -> Node:
    """*node* under another *descriptor*, with the media type that its bytes have."""
    if isinstance(node, Absent):
        return replace(node, descriptor=descriptor)
    if node.descriptor:
        descriptor = replace(descriptor, media_type=node.descriptor.media_type)
    return replace(node, descriptor=descriptor)


def is_image(descriptor: Descriptor, manifest: Manifest) -> bool:
    """False for attestations, signatures, charts and whatever else is no image."""
    return (
        _ATTESTATION not in (descriptor.annotations or {})
        and not manifest.artifact_type
        and manifest.config.media_type in (OCI_CONFIG, DOCKER_CONFIG)
        and all(layer.media_type.startswith(LAYER_TYPES) for layer in manifest.layers)
    )
