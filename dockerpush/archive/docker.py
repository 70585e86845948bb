"""Images as manifest.json describes them: docker save of every age, and its imitators.

It decides which images there are, their tags and the order of their layers
(github.com/moby/docker-image-spec, spec.md, Combined Image JSON + Filesystem Changeset
Format).
"""

from __future__ import annotations

from typing import Any, Iterable, Mapping, Sequence

from ..errors import ArchiveError, InvalidDigest, InvalidJSON, some_of
from ..oci import (
    OCI_CONFIG,
    Descriptor,
    Digest,
    ImageConfig,
    optional,
    require,
    required,
)
from ..strict_json import SAVED_IMAGE, check_keys
from ..values import value
from .contents import (
    Contents,
    LimitExceeded,
    blob_digest,
    check_bytes,
    config_digest,
)
from .headers import quoted
from .stored import (
    Compression,
    Member,
    StoredBlob,
    StoredImage,
    StoredManifest,
)

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
        check_keys(record, SAVED_IMAGE, where)
        names = [name for name in _strings(record, "RepoTags", where) if name]
        layers = _strings(record, "Layers", where)
        config_name = required(record, "Config", str, where)
        what = quoted(names[0]) if names else where
        self._contents.count_descriptors(len(layers) + 1)
        config = self._contents.find(config_name)
        if config is None:
            raise ArchiveError(incomplete(what, [quoted(config_name)], 1))
        image_config = self._read_config(config, len(layers), what)
        elsewhere = {**self._foreign, **_layer_sources(record, where)}
        blobs = []
        for name, diff_id in zip(layers, image_config.diff_ids):
            blobs.append(self._find_layer(name, diff_id, elsewhere))
        gone = [name for name, blob in zip(layers, blobs) if blob is None]
        if gone:
            gone = list(map(quoted, gone))
            raise ArchiveError(incomplete(what, gone, _SHOWN))
        raw = self._contents.document(config)
        manifest = StoredManifest(
            None,
            None,
            Descriptor.of(OCI_CONFIG, raw),
            raw,
            image_config,
            tuple(blob for blob in blobs if blob is not None),
        )
        return Entry(
            _each(names), manifest, _changed_after_save(what, config.name, raw)
        )

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


def _changed_after_save(what: str, name: str, config: bytes) -> tuple[str, ...]:
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
    """The ``LayerSources`` that say where else a layer lies, by diff_id."""
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
                f"{quoted(member.name)}: not the layer {diff_id} of the image's "
                "config, nor compressed by gzip, zstd, bzip2 or xz; save it again"
            )
        digest = diff_id
    return StoredBlob(member.name, member.size, compression, digest, diff_id)


def incomplete(what: str, gone: Sequence[str], most: int) -> str:
    """The fault of the image *what*, which lacks *gone*; names at most *most* of it."""
    return (
        f"truncated or incomplete archive: image {what} needs {some_of(gone, most)}, "
        "which the archive does not hold; save it again"
    )
