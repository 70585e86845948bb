"""An image in a registry, as ``inspect`` shows it: no layer is downloaded."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Mapping

from ..documents import Children, RawManifest, Visited, Walk, children_of, visit
from ..errors import ContentMismatch, InvalidDigest, InvalidJSON, UsageError
from ..oci import (
    DOCKER_CONFIG,
    INDEX_TYPES,
    JSON_LIMIT,
    MANIFEST_TYPES,
    OCI_CONFIG,
    Descriptor,
    ImageConfig,
    Manifest,
    Platform,
    dump_json,
    parse_json,
)
from ..strict_json import CONFIG
from ..system.workers import Workers
from ..transfer.source import RegistrySource
from ..transfer.tree import child, index_of, narrowed
from ..values import field, value
from . import console
from .inspected import runtime_settings, settings_rows

if TYPE_CHECKING:
    from ..reference import Reference
    from ..registry.client import RegistryClient
    from ..system.cancellation import Cancellation


@value
class RemoteImage:
    """One manifest as it was found, or the blobs that an index names itself.

    *manifest* is None for what has no config; *config* is {} for what is not an image.
    """

    descriptor: Descriptor
    layers: tuple[Descriptor, ...]
    manifest: Manifest | None = None
    platform: Platform | None = None
    config: Mapping[str, Any] = field(default_factory=dict)


class RemoteReader:
    """Reads manifests and configs of what *reference* names; raises what clients do."""

    def __init__(self, client: RegistryClient, reference: Reference) -> None:
        self._client = client
        self._reference = reference
        self._source = RegistrySource(client, reference.repository)

    def chosen(self, platform: str | None) -> RawManifest:
        """What the reference names, or what of it is for *platform*."""
        reference = self._reference
        found = self._source.document(
            str(reference.digest or reference.tag or "latest")
        )
        if platform is None:
            return found
        return narrowed(self._source, found, (Platform.parse(platform),))

    def config(self, document: RawManifest) -> bytes:
        """The config of the only image in *document*. Raises UsageError."""
        if document.descriptor.media_type in INDEX_TYPES:
            names = [str(d.platform) for d in index_of(document).manifests]
            raise UsageError(
                f"{self._reference} is for several platforms: choose one with "
                f"--platform, of {', '.join(dict.fromkeys(names))}"
            )
        return self._config(manifest_of(document).config)

    def images(
        self, document: RawManifest, cancellation: Cancellation, *, jobs: int
    ) -> list[RemoteImage]:
        """Every image and artifact of *document*, *jobs* at a time."""
        walk = Walk(str(self._reference))
        found = [
            one
            for one in visit(document, self._read, walk)
            if not _is_mere_list(one.node, one.children)
        ]
        with Workers(cancellation, jobs, name="inspect") as workers:
            looks = [workers.submit(self._image, one, walk) for one in found]
            return workers.wait(looks)

    def _image(self, visited: Visited, walk: Walk) -> RemoteImage:
        node = visited.node
        if visited.raw is None:
            document = self._read(node)
            walk.takes(document.raw, node.size)
        else:
            document = RawManifest(node, visited.raw)
        if node.media_type not in MANIFEST_TYPES:
            return RemoteImage(node, children_of(node, document.raw).blobs)
        manifest = manifest_of(document)
        config: Mapping[str, Any] = {}
        platform = node.platform
        if manifest.config.media_type in (OCI_CONFIG, DOCKER_CONFIG):
            raw = self._config(manifest.config)
            try:
                found = ImageConfig.find(raw)
            except (InvalidJSON, InvalidDigest) as error:
                raise InvalidJSON(f"{self._reference}: {error}") from error
            if found is not None:
                platform = platform or found.platform
                config = _shown(parse_json(raw, "config", CONFIG))
                walk.takes(dump_json(config))
        return RemoteImage(node, manifest.layers, manifest, platform, config)

    def _read(self, node: Descriptor) -> RawManifest:
        return child(self._source, node)

    def _config(self, descriptor: Descriptor) -> bytes:
        if descriptor.size > JSON_LIMIT:
            raise ContentMismatch(
                f"{self._reference}: the config has {descriptor.size} bytes, the limit "
                f"is {JSON_LIMIT}"
            )
        return self._client.read_blob(self._reference.repository, descriptor)


def _is_mere_list(node: Descriptor, children: Children) -> bool:
    """True for an index that names documents alone."""
    is_list = bool(children.documents) and not children.blobs
    return is_list and node.media_type in INDEX_TYPES


def _shown(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is shown of an image's config; its history may be long."""
    return {key: config[key] for key in ("created", "config") if key in config}


def manifest_of(document: RawManifest) -> Manifest:
    """What the manifest *document* says. Raises InvalidJSON."""
    return Manifest.from_bytes(document.raw, document.descriptor.media_type)


def record_of(
    reference: Reference, document: RawManifest, images: list[RemoteImage]
) -> dict[str, Any]:
    """What ``--json`` shows."""
    descriptor = document.descriptor
    return {
        "reference": str(reference),
        "ref": f"{reference.name}@{descriptor.digest}",
        "digest": descriptor.digest,
        "mediaType": descriptor.media_type,
        "size": descriptor.size,
        "images": [_image_record(image) for image in images],
    }


def _image_record(image: RemoteImage) -> dict[str, Any]:
    manifest = image.manifest
    config = manifest.config if manifest else None
    return {
        "platform": str(image.platform) if image.platform else None,
        "digest": image.descriptor.digest,
        "mediaType": image.descriptor.media_type,
        "artifactType": manifest.artifact_type if manifest else None,
        "annotations": dict(image.descriptor.annotations or {}),
        "created": image.config.get("created"),
        **runtime_settings(image.config),
        "config": {"digest": config.digest, "size": config.size} if config else None,
        "compressedSize": sum(layer.size for layer in image.layers),
        "layers": [
            {
                "digest": layer.digest,
                "size": layer.size,
                "mediaType": layer.media_type,
            }
            for layer in image.layers
        ],
    }


def show_raw(raw: bytes) -> None:
    """*raw* on stdout, byte for byte."""
    sys.stdout.flush()
    sys.stdout.buffer.write(raw)
    sys.stdout.buffer.flush()


def show(record: dict[str, Any]) -> None:
    """*record* for people."""
    console.result(record["ref"])
    images = console.counted(len(record["images"]), "image")
    console.result(f"  {record['mediaType']}, {images}")
    for image in record["images"]:
        console.result("")
        rows = [
            ("  platform", image["platform"] or image["artifactType"] or "unknown"),
            ("  digest", image["digest"]),
            ("  created", str(image["created"] or "unknown")),
            ("  compressed", console.size_text(image["compressedSize"])),
            ("  type", image["mediaType"]),
        ]
        if image["config"]:
            rows[-1] = ("  config", image["config"]["digest"])
        rows += settings_rows(image)
        console.table((name, console.printable(text)) for name, text in rows)
        console.table(
            [("  LAYER", "SIZE", "TYPE")]
            + [
                ("  " + one["digest"], console.size_text(one["size"]), one["mediaType"])
                for one in image["layers"]
            ]
        )
