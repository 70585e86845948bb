"""Digests, descriptors, platforms and manifests as values; no input, no output.

Terms and JSON shapes are those of the OCI image-spec (descriptor.md, manifest.md,
image-index.md, config.md) and of Docker's Image Manifest V2, Schema 2.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, Mapping

from .errors import InvalidDigest, InvalidJSON
from .expressions import expression
from .strict_json import CONFIG, DOCUMENT, Shape, decode, glance
from .values import field, replace, value

if TYPE_CHECKING:
    from hashlib import _Hash

JSON_LIMIT = 4 * 1024 * 1024
"""Bytes that a manifest, an index or a config may have (distribution-spec, Pushing
Manifests); a larger one is refused before it is read."""

VALUE_LIMIT = 120_000
"""Values that such a document may hold: each takes dozens of bytes once decoded."""

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_ARTIFACT = "application/vnd.oci.artifact.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = OCI_LAYER + "+gzip"
OCI_LAYER_ZSTD = OCI_LAYER + "+zstd"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = DOCKER_LAYER + ".gzip"

MANIFEST_TYPES = (OCI_MANIFEST, DOCKER_MANIFEST)
INDEX_TYPES = (OCI_INDEX, DOCKER_INDEX)
RAW_LAYER_TYPES = (OCI_LAYER, DOCKER_LAYER)
LAYER_TYPES = (
    "application/vnd.oci.image.layer.",
    "application/vnd.docker.image.rootfs.",
)
"""How the types of all layers begin."""
SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+"
"""How the types of the manifests begin that came before those with a config."""
UNTYPED = ("", "application/json", "application/octet-stream", "text/plain")
"""What stands in the place of a type, and says nothing."""
IMAGE_KEYS = frozenset(("config", "layers"))
"""What only the manifest of an image has."""

_DIGEST_LENGTHS = {"sha256": 64, "sha384": 96, "sha512": 128}
_DIGEST = expression(r"(sha256|sha384|sha512):([0-9a-f]+)")
_DOCUMENT_KEYS = (
    *("schemaVersion", "mediaType", "artifactType", "annotations"),
    *("config", "layers", "manifests", "subject"),
)
_PLATFORM_KEYS = ("os", "architecture", "variant", "os.version", "os.features")
# linux/arm/v7, windows/amd64:10.0.17763, windows(10.0.17763)/amd64
_PLATFORM = expression(
    r"(?P<os>[^/:()]+)(?:\((?P<behind>[^/:()]+)\))?/(?P<architecture>[^/:()]+)"
    r"(?:/(?P<variant>[^/:()]+))?(?::(?P<last>[^/:()]+))?"
)


class Digest(str):
    """``algorithm:hex``, lower case (image-spec, descriptor.md, Digests).

    A text that is a Digest is safe in a URL and as a file name. Raises InvalidDigest
    unless the algorithm is sha256, sha384 or sha512 and the length is right.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Digest:
        """*text* checked."""
        match = _DIGEST.fullmatch(text)
        if match is None or len(match[2]) != _DIGEST_LENGTHS[match[1]]:
            raise InvalidDigest(
                f"not a digest (wanted sha256:<64 hex>): {text[:160]!r}"
            )
        return super().__new__(cls, text)

    @classmethod
    def of(cls, content: bytes) -> Digest:
        """The sha256 digest of *content*."""
        return cls("sha256:" + hashlib.sha256(content).hexdigest())

    @classmethod
    def from_hash(cls, hasher: _Hash) -> Digest:
        """What *hasher* has seen so far."""
        return cls(f"{hasher.name}:{hasher.hexdigest()}")

    @property
    def algorithm(self) -> str:
        """``sha256`` and the like; a name that hashlib knows."""
        return self.partition(":")[0]

    @property
    def hex(self) -> str:
        """The part after the colon."""
        return self.partition(":")[2]

    @property
    def short(self) -> str:
        """The first twelve characters of the hex part, as people say it."""
        return self.hex[:12]

    def hasher(self) -> _Hash:
        """A fresh hash object of this digest's algorithm."""
        return hashlib.new(self.algorithm)

    @property
    def is_canonical(self) -> bool:
        """True for a sha256, which every registry knows."""
        return self.algorithm == "sha256"

    def fits(self, content: bytes) -> bool:
        """True when this is the digest of *content*."""
        hasher = self.hasher()
        hasher.update(content)
        return self == Digest.from_hash(hasher)

    def contradicts(self, other: Digest | None) -> bool:
        """True when *other* is of the same algorithm, but of other bytes."""
        same = other is not None and self.algorithm == other.algorithm
        return same and self != other


@value
class Platform:
    """Where an image runs (image-spec, image-index.md).

    *original* is the JSON object that it was read from, where that says more.
    """

    os: str
    architecture: str
    variant: str | None = None
    os_version: str | None = None
    os_features: tuple[str, ...] = ()
    original: Mapping[str, Any] | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        parts = (self.os, self.architecture, self.variant)
        name = "/".join(part for part in parts if part)
        return f"{name}:{self.os_version}" if self.os_version else name

    @classmethod
    def parse(cls, text: str) -> Platform:
        """``os/architecture[/variant][:os.version]``, as crane and docker write it.

        The version may stand behind the system, as containerd writes it:
        ``windows(10.0.17763)/amd64``. Raises InvalidJSON, which quotes *text*.
        """
        match = _PLATFORM.fullmatch(text)
        if match is None or (match["behind"] and match["last"]):
            raise InvalidJSON(
                f"not a platform (wanted os/arch[/variant][:os.version]): {text!r}"
            )
        version = match["behind"] or match["last"]
        return cls(match["os"], match["architecture"], match["variant"], version)

    @classmethod
    def from_json(cls, value: Any) -> Platform:
        """From an index entry's ``platform``."""
        record = _said(require(value, dict, "platform"))
        features = record.get("os.features")
        made = cls(
            optional(record, "os", str, "platform") or "unknown",
            optional(record, "architecture", str, "platform") or "unknown",
            optional(record, "variant", str, "platform"),
            optional(record, "os.version", str, "platform"),
            tuple(map(str, features)) if isinstance(features, list) else (),
        )
        return made if made._known() == record else replace(made, original=record)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Platform:
        """What an image config says of it (image-spec, config.md)."""
        return cls.from_json({k: config[k] for k in _PLATFORM_KEYS if k in config})

    def to_json(self) -> dict[str, Any]:
        """The object that goes under ``platform``."""
        if self.original is None:
            return self._known()
        before = Platform.from_json(self.original)
        return _rewritten(self.original, before._known(), self._known())

    def _known(self) -> dict[str, Any]:
        record: dict[str, Any] = {"architecture": self.architecture, "os": self.os}
        if self.os_version:
            record["os.version"] = self.os_version
        if self.os_features:
            record["os.features"] = list(self.os_features)
        if self.variant:
            record["variant"] = self.variant
        return record


@value
class Descriptor:
    """What a blob or manifest is: its type, its digest, its size in bytes.

    (image-spec, descriptor.md) *original* is the JSON object that it was read from,
    where that says more.
    """

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] | None = None
    platform: Platform | None = None
    urls: tuple[str, ...] = ()
    artifact_type: str | None = None
    original: Mapping[str, Any] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def from_json(cls, value: Any, where: str = "descriptor") -> Descriptor:
        """Raises InvalidJSON or InvalidDigest, which name *where* it stands."""
        record = _said(require(value, dict, where))
        size = required(record, "size", int, where)
        if isinstance(size, bool) or size < 0:
            raise InvalidJSON(f"{where}.size: wanted a size in bytes, got {size!r}")
        annotations = optional(record, "annotations", dict, where)
        urls = optional(record, "urls", list, where) or []
        platform = record.get("platform")
        made = cls(
            optional(record, "mediaType", str, where) or "",
            Digest(required(record, "digest", str, where)),
            size,
            {str(k): str(v) for k, v in annotations.items()} if annotations else None,
            Platform.from_json(platform) if platform is not None else None,
            tuple(str(url) for url in urls),
            optional(record, "artifactType", str, where),
        )
        return made if made._known() == record else replace(made, original=record)

    def to_json(self) -> dict[str, Any]:
        """The object as it stands in a manifest or index.

        Of other bytes than were read, it holds no copy (``data``).
        """
        if self.original is None:
            return self._known()
        before = Descriptor.from_json(self.original)
        record = _rewritten(self.original, before._known(), self._known())
        if self.digest != before.digest:
            record.pop("data", None)
        return record

    def _known(self) -> dict[str, Any]:
        record: dict[str, Any] = {
            "mediaType": self.media_type,
            "digest": str(self.digest),
            "size": self.size,
        }
        if self.urls:
            record["urls"] = list(self.urls)
        if self.annotations:
            record["annotations"] = dict(self.annotations)
        if self.platform:
            record["platform"] = self.platform.to_json()
        if self.artifact_type:
            record["artifactType"] = self.artifact_type
        return record

    @classmethod
    def of(cls, media_type: str, content: bytes) -> Descriptor:
        """The descriptor of *content*."""
        return cls(media_type, Digest.of(content), len(content))


@value
class Manifest:
    """An image or artifact manifest (image-spec, manifest.md; Docker schema 2)."""

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    subject: Descriptor | None = None
    artifact_type: str | None = None
    annotations: Mapping[str, str] | None = None
    original: Mapping[str, Any] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def from_bytes(cls, raw: bytes, media_type: str = "") -> Manifest:
        """Raises InvalidJSON; *media_type* counts when the document names none."""
        record = require(parse_json(raw, "manifest", DOCUMENT), dict, "manifest")
        if "manifests" in record:
            raise InvalidJSON("manifest: holds 'manifests', so it is an index")
        layers = descriptors(record, "layers", "manifest")
        return cls(
            optional(record, "mediaType", str, "manifest")
            or media_type
            or OCI_MANIFEST,
            Descriptor.from_json(record.get("config"), "manifest.config"),
            layers,
            *_about(record, "manifest"),
        )

    def to_bytes(self) -> bytes:
        """The document, the same bytes for the same value."""
        return _document(
            self,
            {
                "config": self.config.to_json(),
                "layers": [layer.to_json() for layer in self.layers],
            },
        )


@value
class Index:
    """An image index or Docker manifest list (image-spec, image-index.md)."""

    media_type: str
    manifests: tuple[Descriptor, ...]
    subject: Descriptor | None = None
    artifact_type: str | None = None
    annotations: Mapping[str, str] | None = None
    original: Mapping[str, Any] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def from_bytes(cls, raw: bytes, media_type: str = "") -> Index:
        """Raises InvalidJSON; *media_type* counts when the document names none."""
        record = require(parse_json(raw, "index", DOCUMENT), dict, "index")
        if "layers" in record or "config" in record:
            raise InvalidJSON("index: holds 'layers' or 'config', so it is a manifest")
        return cls(
            optional(record, "mediaType", str, "index") or media_type or OCI_INDEX,
            descriptors(record, "manifests", "index"),
            *_about(record, "index"),
        )

    def to_bytes(self) -> bytes:
        """The document, the same bytes for the same value."""
        return _document(
            self, {"manifests": [entry.to_json() for entry in self.manifests]}
        )


def descriptors(
    record: Mapping[str, Any], key: str, where: str
) -> tuple[Descriptor, ...]:
    """The list ``record[key]``; null is an empty list, which is how Go writes it.

    A list may be absent as well, but from what is a document of this kind at all.
    """
    if key in record or record.get("schemaVersion") or record.get("mediaType"):
        entries = optional(record, key, list, where) or []
    else:
        entries = required(record, key, list, where)
    return tuple(
        Descriptor.from_json(entry, f"{where}.{key}[{number}]")
        for number, entry in enumerate(entries)
    )


def _about(record: Mapping[str, Any], where: str) -> tuple[Any, ...]:
    """The last fields of a manifest and of an index, what is not understood last."""
    subject = record.get("subject")
    annotations = optional(record, "annotations", dict, where)
    return (
        Descriptor.from_json(subject, f"{where}.subject") if subject else None,
        optional(record, "artifactType", str, where),
        {str(k): str(v) for k, v in annotations.items()} if annotations else None,
        {k: v for k, v in record.items() if k not in _DOCUMENT_KEYS} or None,
    )


def _document(value: Manifest | Index, content: Mapping[str, Any]) -> bytes:
    record: dict[str, Any] = {"schemaVersion": 2, "mediaType": value.media_type}
    if value.artifact_type:
        record["artifactType"] = value.artifact_type
    record.update(content)
    if value.subject:
        record["subject"] = value.subject.to_json()
    if value.annotations:
        record["annotations"] = dict(value.annotations)
    return dump_json({**record, **(value.original or {})})


def _said(record: Mapping[str, Any]) -> dict[str, Any]:
    """*record* without what is null, which is how Go writes what is not there."""
    return {key: value for key, value in record.items() if value is not None}


def _rewritten(
    original: Mapping[str, Any], before: Mapping[str, Any], now: Mapping[str, Any]
) -> dict[str, Any]:
    """*original*, of which *before* was understood, with what is different *now*."""
    changed = {key: now[key] for key in now if before.get(key) != now[key]}
    return {
        key: value
        for key, value in {**original, **changed}.items()
        if key in now or key not in before
    }


@value
class ImageConfig:
    """What we need of an image config (image-spec, config.md)."""

    platform: Platform
    diff_ids: tuple[Digest, ...]

    @classmethod
    def find(cls, raw: bytes) -> ImageConfig | None:
        """What *raw* says as an image config; None when it is something else.

        Artifacts have all kinds of configs under the type of an image's: ``{}`` in a
        bundle of OPA. Raises InvalidJSON or InvalidDigest, also for what other tools
        may take for the config of an image.
        """
        try:
            _check_size(raw, "config")
            found = glance(raw)
        except (ValueError, RecursionError):
            return None
        record = found if isinstance(found, dict) else {}
        roots = [record[key] for key in record if key.casefold() == "rootfs"]
        is_image = any(root is not None for root in roots)
        return cls.from_bytes(raw) if is_image else None

    @classmethod
    def from_bytes(cls, raw: bytes) -> ImageConfig:
        """Raises InvalidJSON or InvalidDigest."""
        return cls._of(require(parse_json(raw, "config", CONFIG), dict, "config"))

    @classmethod
    def _of(cls, record: Mapping[str, Any]) -> ImageConfig:
        rootfs = require(record.get("rootfs"), dict, "config.rootfs")
        diff_ids = optional(rootfs, "diff_ids", list, "config.rootfs") or []
        return cls(
            Platform.from_config(record),
            tuple(Digest(require(item, str, "config.diff_ids")) for item in diff_ids),
        )


def as_docker(manifest: Manifest) -> Manifest | None:
    """*manifest* as Docker schema 2; None when a layer has no Docker media type."""
    types = {OCI_LAYER_GZIP: DOCKER_LAYER_GZIP, DOCKER_LAYER_GZIP: DOCKER_LAYER_GZIP}
    if any(layer.media_type not in types for layer in manifest.layers):
        return None
    return Manifest(
        DOCKER_MANIFEST,
        replace(manifest.config, media_type=DOCKER_CONFIG),
        tuple(
            replace(layer, media_type=types[layer.media_type], annotations=None)
            for layer in manifest.layers
        ),
    )


def parse_json(raw: bytes, what: str, shape: Shape | None = None) -> Any:
    """*raw* decoded. Raises InvalidJSON, which names *what*, also for bombs.

    What comes from outside has a *shape*, see `strict_json.decode`.
    """
    _check_size(raw, what)
    return decode(raw, what, shape)


def _check_size(raw: bytes, what: str) -> None:
    if len(raw) > JSON_LIMIT:
        raise InvalidJSON(f"{what}: {len(raw)} bytes, the limit is {JSON_LIMIT}")
    if value_count(raw) > VALUE_LIMIT:
        raise InvalidJSON(f"{what}: more than {VALUE_LIMIT} values")


def value_count(raw: bytes) -> int:
    """How many values the JSON *raw* has at most, without decoding it."""
    return sum(map(raw.count, (b",", b"[", b"{")))


def dump_json(value: Any) -> bytes:
    """*value* as compact UTF-8 JSON, keys in the order they were put in."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    # Half of a surrogate pair has no UTF-8; backslashreplace writes JSON's own escape.
    return text.encode(errors="backslashreplace")


_NAMES: Mapping[type, str] = {
    dict: "an object",
    list: "an array",
    str: "a string",
    int: "a number",
}


def require(value: Any, kind: type, where: str) -> Any:
    """*value*, which must be a *kind*. Raises InvalidJSON, which names *where*."""
    if not isinstance(value, kind):
        got = "nothing" if value is None else repr(value)[:60]
        raise InvalidJSON(f"{where}: wanted {_NAMES[kind]}, got {got}")
    return value


def required(record: Mapping[str, Any], key: str, kind: type, where: str) -> Any:
    """``record[key]``, which must be there and be a *kind*. Raises InvalidJSON."""
    return require(record.get(key), kind, f"{where}.{key}")


def optional(record: Mapping[str, Any], key: str, kind: type, where: str) -> Any:
    """``record[key]``, or None when it is absent or null. Raises InvalidJSON."""
    value = record.get(key)
    return None if value is None else require(value, kind, f"{where}.{key}")
