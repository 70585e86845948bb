"""What an archive holds, as values: members, blobs, images. No input, no output."""

from __future__ import annotations

import enum
from typing import Iterator, NamedTuple, Union

from ..events import Notice
from ..oci import (
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    Descriptor,
    Digest,
    ImageConfig,
    Platform,
)
from ..values import value
from .sparse import SparseMap

ENCRYPTED = "+encrypted"
"""How the media type of a layer ends that only its owner can read (ocicrypt)."""


UNKNOWN = Platform("unknown", "unknown")
"""The platform of what is no image, as buildkit writes it."""


class MemberKind(enum.Enum):
    """What a tar header announces, as far as an image archive may hold it."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symbolic link"
    HARDLINK = "hard link"
    SPARSE = "sparse file whose map cannot be read"
    OUTSIDE = "symbolic link that leads out of the directory"
    OTHER = "special file"


class Member(NamedTuple):
    """One member of a tar, or one file of a directory.

    *name* is normalised (no ``./``, no leading or doubled slash); so is the *target* of
    a hard link, that of a symbolic link is as written. *offset* is where the content
    starts in the archive file, in bytes (0 in a directory); *size* is the content's
    length in bytes, holes included, 0 where there is none. *sparse* says where a sparse
    member has its stored bytes. A tuple, because an archive may have tens of thousands
    of them, and a tuple takes a third of a dataclass's memory.
    """

    name: str
    kind: MemberKind
    size: int = 0
    offset: int = 0
    target: str = ""
    sparse: SparseMap | None = None


class Compression(enum.Enum):
    """How a blob's bytes are compressed, by their first bytes, never by a name."""

    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"
    BZIP2 = "bzip2"
    XZ = "xz"


def compression_of_type(media_type: str) -> Compression | None:
    """How a layer of *media_type* is compressed; None when it is no layer of files."""
    if "foreign" in media_type or "nondistributable" in media_type:
        return None
    for ending, compression in _ENDINGS:
        if media_type.endswith(ending):
            return compression
    return None


_ENDINGS = (
    (".tar", Compression.NONE),
    (".tar+gzip", Compression.GZIP),
    (".tar.gzip", Compression.GZIP),
    (".tar+zstd", Compression.ZSTD),
    (".tar.zstd", Compression.ZSTD),
)


_OCI_TYPES = {
    Compression.NONE: OCI_LAYER,
    Compression.GZIP: OCI_LAYER_GZIP,
    Compression.ZSTD: OCI_LAYER_ZSTD,
}
_DOCKER_TYPES = {
    **_OCI_TYPES,  # Docker has no type for zstd
    Compression.NONE: DOCKER_LAYER,
    Compression.GZIP: DOCKER_LAYER_GZIP,
}


def layer_type(compression: Compression, *, docker: bool) -> str:
    """The media type of a layer that is compressed so, as far as there is one."""
    types = _DOCKER_TYPES if docker else _OCI_TYPES
    return types.get(compression, OCI_LAYER)


@value
class StoredBlob:
    """A blob as it lies in the archive.

    *member* names the file with the bytes, links resolved; None when the archive left
    the blob out (a foreign layer, a platform that was not pulled). *size* is bytes as
    stored. *digest* is that of the stored bytes where the archive says it (the name of
    an OCI blob, the diff_id of a raw layer); None for a compressed layer of a
    docker-archive. *descriptor* is what an OCI manifest says of it, None otherwise.
    """

    member: str | None
    size: int
    compression: Compression
    digest: Digest | None
    diff_id: Digest | None = None
    descriptor: Descriptor | None = None

    @property
    def media_type(self) -> str:
        """What the archive's manifest says, else the OCI type of such a layer."""
        if self.descriptor is not None:
            return self.descriptor.media_type
        if self.compression is Compression.NONE:
            return OCI_LAYER
        return f"{OCI_LAYER}+{self.compression.value}"

    @property
    def actual_type(self) -> str:
        """The media type that its bytes have, whatever the manifest says of a layer.

        (github.com/containerd/containerd issue 10134) Bytes that are not known to be
        compressed are a plain tar only when the config says that this is the layer.
        """
        said = compression_of_type(self.media_type)
        if self.descriptor is None or self.diff_id is None or said is None:
            return self.media_type
        plain = self.compression is Compression.NONE
        odd = self.compression in (Compression.BZIP2, Compression.XZ)
        if said is self.compression or odd or (plain and self.digest != self.diff_id):
            return self.media_type
        docker = self.media_type.startswith("application/vnd.docker.")
        return layer_type(self.compression, docker=docker)

    @property
    def is_mislabelled(self) -> bool:
        """True for a layer whose media type is not that of its bytes."""
        return self.actual_type != self.media_type

    @property
    def content_digest(self) -> Digest | None:
        """The diff_id, where its bytes show it: not those of an encrypted layer."""
        return None if self.media_type.endswith(ENCRYPTED) else self.diff_id


@value
class StoredManifest:
    """An image or artifact manifest of the archive, with what it needs.

    *raw* is its exact bytes and *descriptor* what the index says of it; both None for
    an entry of manifest.json, whose manifest must be built. *config* is the exact bytes
    of the config, None when the archive left it out. *image_config* is None for an
    artifact, such as an attestation.
    """

    descriptor: Descriptor | None
    raw: bytes | None
    config_descriptor: Descriptor
    config: bytes | None
    image_config: ImageConfig | None
    layers: tuple[StoredBlob, ...]

    @property
    def complete(self) -> bool:
        """True when every byte that a push needs is in the archive.

        A layer that may be fetched elsewhere (``urls``) is not needed.
        """
        return self.config is not None and all(map(is_complete, self.layers))


def is_complete(blob: StoredBlob) -> bool:
    """True for a blob that is there, or that may be fetched elsewhere (``urls``)."""
    return blob.member is not None or bool(blob.descriptor and blob.descriptor.urls)


@value
class StoredOther:
    """What an index names that is neither an image nor an index; its bytes stay.

    *raw* is its bytes when it is a document, such as an OCI artifact manifest, and
    *layers* are the blobs that it names. Else *raw* is None and *layers* is itself, a
    blob: BuildKit's cache is an index of layers.
    """

    descriptor: Descriptor
    raw: bytes | None
    layers: tuple[StoredBlob, ...]

    @property
    def complete(self) -> bool:
        """True when every byte that a push needs is in the archive."""
        return all(map(is_complete, self.layers))


@value
class Absent:
    """What an index names, and the archive does not hold.

    With a *problem* it is damaged, or nothing can do without it.
    """

    descriptor: Descriptor
    problem: str = ""

    complete = False


@value
class StoredIndex:
    """An index of the archive, children in its order, with its exact bytes."""

    descriptor: Descriptor
    raw: bytes
    manifests: tuple[Node, ...]

    @property
    def complete(self) -> bool:
        """True when every child is."""
        return all(child.complete for child in self.manifests)


Node = Union[StoredManifest, StoredIndex, StoredOther, Absent]


@value
class StoredImage:
    """One image of an archive, under all the names it has there.

    *names* are RepoTags and full references of annotations as written, in order,
    without repeats; *tags* those annotations that hold only a tag. *entry* is what
    manifest.json says of it, *root* what index.json names; at least one is there, but
    for an image that cannot be used: *problem* says why. *notices* are for whoever
    pushes it; a strict push refuses what is a warning.
    """

    names: tuple[str, ...]
    tags: tuple[str, ...]
    entry: StoredManifest | None
    root: StoredManifest | StoredIndex | StoredOther | None
    problem: str = ""
    notices: tuple[Notice, ...] = ()


def leaves(node: Node | None) -> Iterator[StoredManifest | StoredOther | Absent]:
    """Whatever *node* names that is no index, in the archive's order."""
    if isinstance(node, StoredIndex):
        for child in node.manifests:
            yield from leaves(child)
    elif node is not None:
        yield node


def layers_by_member(image: StoredImage) -> dict[str, StoredBlob]:
    """The members of an archive that *image* needs as layers."""
    return {
        layer.member: layer
        for root in (image.root, image.entry)
        for leaf in leaves(root)
        if not isinstance(leaf, Absent)
        for layer in leaf.layers
        if layer.member is not None
    }


def manifests(node: Node | None) -> Iterator[StoredManifest]:
    """Every manifest that *node* holds, in the archive's order."""
    for leaf in leaves(node):
        if isinstance(leaf, StoredManifest):
            yield leaf


def missing_blobs(node: StoredManifest | StoredOther) -> tuple[Digest, ...]:
    """The digests of what *node* needs and the archive does not hold."""
    gone = []
    if isinstance(node, StoredManifest) and node.config is None:
        gone.append(node.config_descriptor.digest)
    gone += [
        layer.descriptor.digest
        for layer in node.layers
        if layer.descriptor and not is_complete(layer)
    ]
    return tuple(gone)


def platform_of(manifest: StoredManifest) -> Platform:
    """Where *manifest* runs; ``unknown/unknown`` for what is no image."""
    if manifest.descriptor and manifest.descriptor.platform:
        return manifest.descriptor.platform
    if manifest.image_config:
        return manifest.image_config.platform
    return UNKNOWN
