"""Manifests on their way: built of what the blobs became, and stored.

They are stored children first, the names last of all. A registry that lists no
referrers by itself has their lists kept under tags (distribution-spec, Pushing
Manifests with Subject).
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Iterator, Mapping, Sequence

from ..archive.stored import (
    StoredBlob,
    StoredManifest,
    compression_of_type,
    layer_type,
)
from ..documents import RawManifest
from ..errors import ArchiveError, Cancelled, PusherError, RegistryError
from ..events import ManifestStored, Notice, OnEvent
from ..oci import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Digest,
    Index,
    Manifest,
    as_docker,
    dump_json,
    optional,
    parse_json,
    require,
)
from ..registry.client import RegistryClient
from ..registry.pages import parse_referrers, referrers_tag, tagged_referrers
from ..strict_json import DOCUMENT
from ..values import replace
from .plan import PlannedIndex, PlannedManifest, PlannedNode, PlannedOther

if TYPE_CHECKING:
    from .target import Target

log = logging.getLogger(__name__)

_listing = threading.Lock()  # one list at a time is read, added to and written


def documents(
    node: PlannedNode, became: Mapping[str, Descriptor]
) -> tuple[RawManifest, ...]:
    """What is to be stored for *node*, children first and *node* last.

    *became* maps the key of every layer that is not foreign to what it became, the
    media type being one of OCI's where it was compressed.
    """
    return tuple(_documents(node, became))


def _documents(
    node: PlannedNode, became: Mapping[str, Descriptor]
) -> Iterator[RawManifest]:
    if isinstance(node, PlannedManifest):
        yield _manifest_document(node, became)
        return
    if isinstance(node, PlannedOther):
        if node.stored.raw is not None:
            yield RawManifest(node.stored.descriptor, node.stored.raw)
        return
    entries = []
    for child in node.children:
        made = documents(child, became)
        yield from made
        entries.append(_entry(child, made[-1].descriptor if made else None))
    yield _index_document(node, entries)


def _entry(child: PlannedNode, now: Descriptor | None) -> Descriptor:
    """What an index says of *child*, which is stored as *now*; None for a blob."""
    before = child.stored.descriptor
    if now is None:
        assert before is not None, "only an index names a blob"
        return before
    if before is not None:
        return replace(
            before, media_type=now.media_type, digest=now.digest, size=now.size
        )
    config = child.stored.image_config if isinstance(child, PlannedManifest) else None
    return replace(now, platform=config.platform if config else None)


def _index_document(node: PlannedIndex, entries: list[Descriptor]) -> RawManifest:
    stored = node.stored
    if node.verbatim:
        return RawManifest(stored.descriptor, stored.raw)
    media_type = stored.descriptor.media_type
    if stored.raw:
        index = Index.from_bytes(stored.raw, media_type)
    else:
        index = Index(media_type, ())
    raw = replace(index, manifests=tuple(entries)).to_bytes()
    return RawManifest(Descriptor.of(index.media_type, raw), raw)


def _manifest_document(
    node: PlannedManifest, became: Mapping[str, Descriptor]
) -> RawManifest:
    stored = node.stored
    if node.verbatim and stored.raw is not None and stored.descriptor is not None:
        return RawManifest(stored.descriptor, stored.raw)
    before = _manifest_before(stored)
    pairs = list(zip(node.layers, stored.layers))
    after = replace(
        before,
        layers=tuple(_layer(before, layer, became.get(key)) for key, layer in pairs),
    )
    if after.media_type != OCI_MANIFEST and not _all_docker(after):
        after = _as_oci(after)
    raw = after.to_bytes()
    return RawManifest(Descriptor.of(after.media_type, raw), raw)


def _manifest_before(stored: StoredManifest) -> Manifest:
    if stored.raw is not None and stored.descriptor is not None:
        return Manifest.from_bytes(stored.raw, stored.descriptor.media_type)
    config = replace(stored.config_descriptor, media_type=OCI_CONFIG)
    return Manifest(OCI_MANIFEST, config, ())


def _layer(before: Manifest, layer: StoredBlob, now: Descriptor | None) -> Descriptor:
    """The layer's descriptor: the archive's own when its bytes stayed the same."""
    old = layer.descriptor
    if now is None or (old and old.digest == now.digest):
        if old is None:
            raise ArchiveError(f"layer {layer.diff_id} is not in the archive")
        return replace(old, media_type=layer.actual_type)
    media_type = now.media_type
    compression = compression_of_type(media_type)
    if compression is not None:
        docker = before.media_type != OCI_MANIFEST
        media_type = layer_type(compression, docker=docker)
    if old is None:
        return replace(now, media_type=media_type)
    return replace(
        old,
        media_type=media_type,
        digest=now.digest,
        size=now.size,
        annotations=_of_content(old.annotations),
    )


_OF_PACKING = (
    "containerd.io/snapshot/stargz/",
    "io.containers.estargz.",
    "io.github.containers.zstd-chunked.",
)
"""How annotations begin that tell where files lie in the compressed bytes."""


def _of_content(annotations: Mapping[str, str] | None) -> dict[str, str] | None:
    """*annotations* that are as true of a layer that was compressed in another way."""
    if annotations is None:
        return None
    return {
        key: value
        for key, value in annotations.items()
        if not key.startswith(_OF_PACKING)
    }


def _all_docker(manifest: Manifest) -> bool:
    return all(
        layer.media_type.startswith("application/vnd.docker.")
        for layer in manifest.layers
    )


def _as_oci(manifest: Manifest) -> Manifest:
    """*manifest* with OCI media types throughout, since zstd has no Docker one."""
    return replace(
        manifest,
        media_type=OCI_MANIFEST,
        config=replace(manifest.config, media_type=OCI_CONFIG),
        layers=tuple(map(_as_oci_layer, manifest.layers)),
    )


def _as_oci_layer(layer: Descriptor) -> Descriptor:
    compression = compression_of_type(layer.media_type)
    if compression is None:
        return layer
    return replace(layer, media_type=layer_type(compression, docker=False))


def store(
    target: Target,
    documents: Sequence[RawManifest],
    names: Sequence[str],
    *,
    referrers: Sequence[RawManifest] = (),
    built: bool = False,
) -> Descriptor:
    """Store *documents*, the last one under each of *names*; its descriptor there.

    Without names it is stored under its digest. *referrers*, which refer to one of
    them, are stored before it has a name. A lone manifest that was *built* here becomes
    Docker's schema 2 where the registry refuses OCI types. Raises what *target* does.
    """
    *children, root = documents
    storing = _Storing(target)
    for document in (*children, *referrers):
        storing.put(document, str(document.descriptor.digest))
    storing.list_referrers()
    first, *others = names or [str(root.descriptor.digest)]
    try:
        storing.put(root, first)
    except RegistryError as error:
        docker = _docker_form(root) if built and not children else None
        if docker is None or not _refuses_type(error):
            raise
        refused = "the registry refuses OCI manifests: stored as Docker's"
        target.on_event(Notice(refused, minor=True))
        root = docker
        storing.put(root, first if names else str(root.descriptor.digest))
    for name in others:
        storing.put(root, name)
    storing.list_referrers()
    return _as_known_to(target, root, names)


def _refused_algorithm(digest: Digest, error: RegistryError) -> PusherError:
    return PusherError(
        f"the registry keeps no manifest under a {digest.algorithm} digest, and an "
        f"index names {digest.short} by one; choose one --platform ({error})"
    )


def _as_known_to(target: Target, root: RawManifest, names: Sequence[str]) -> Descriptor:
    """The descriptor of *root* under the digest by which *target* gives it.

    Registries keep what a tag names under its sha256, whatever digest the source has
    for it (github.com/distribution/distribution issue 4420).
    """
    descriptor = root.descriptor
    if descriptor.digest.is_canonical or not names:
        return descriptor
    known = target.digest_of(names[0])
    if known is None or not known.fits(root.raw):
        return descriptor
    return replace(descriptor, digest=known)


def named_before(target: Target, names: Sequence[str]) -> Digest | None:
    """What the first of *names* names so far; not to know it is no harm."""
    if not names or names[0].startswith(("sha256:", "sha512:")):
        return None
    try:
        return target.digest_of(names[0])
    except Cancelled:
        raise
    except PusherError as error:
        log.info("cannot read what %s names: %s", names[0], error)
        return None


class _Storing:
    """Puts manifests, and knows whose referrers are still to be listed."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._unlisted: dict[Digest, list[Descriptor]] = {}

    def put(self, document: RawManifest, reference: str) -> None:
        target, descriptor = self._target, document.descriptor
        try:
            is_listed = target.put_document(document, reference)
        except RegistryError as error:
            if error.code != "DIGEST_INVALID" or descriptor.digest.is_canonical:
                raise
            raise _refused_algorithm(descriptor.digest, error) from error
        tag = None if reference == descriptor.digest else reference
        target.on_event(ManifestStored(target.repository, descriptor.digest, tag))
        found = None if is_listed else as_referrer(document)
        if found is not None:
            subject, listed = found
            others = self._unlisted.setdefault(subject, [])
            if listed not in others:
                others.append(listed)

    def list_referrers(self) -> None:
        """Have them listed, those of each subject at once."""
        for subject, listed in self._unlisted.items():
            self._target.list_referrers(subject, listed)
        self._unlisted.clear()


def as_referrer(document: RawManifest) -> tuple[Digest, Descriptor] | None:
    """The subject of a manifest and how a list of its referrers names it.

    None for one without a subject. Raises InvalidJSON, InvalidDigest.
    (distribution-spec, Listing Referrers)
    """
    if b'"subject"' not in document.raw:
        return None
    record = require(parse_json(document.raw, "manifest", DOCUMENT), dict, "manifest")
    subject = record.get("subject")
    if not subject:
        return None
    config = optional(record, "config", dict, "manifest") or {}
    kind = record.get("artifactType") or config.get("mediaType")
    listed = {
        **document.descriptor.to_json(),
        "annotations": record.get("annotations"),
        "artifactType": kind,
    }
    found = Descriptor.from_json(subject, "manifest.subject")
    return found.digest, Descriptor.from_json(listed, "manifest")


def keep_referrers(
    client: RegistryClient,
    repository: str,
    subject: Digest,
    listed: Sequence[Descriptor],
    *,
    on_event: OnEvent,
) -> None:
    """Add *listed* to the tag that lists the referrers of *subject*.

    Not where the registry has the endpoint. What cannot be kept is reported, and stops
    nothing: the manifests are there. Raises Cancelled.
    """
    try:
        if not client.lists_referrers(repository, subject):
            with _listing:
                _add_to_list(client, repository, subject, listed)
    except Cancelled:
        raise
    except PusherError as error:
        on_event(
            Notice(
                f"{client.registry}/{repository}: the list of what refers to "
                f"{subject.short} (tag {referrers_tag(subject)}) was not updated, so "
                f"tools may not find its signatures or SBOMs: {error}",
                warning=True,
            )
        )


def _add_to_list(
    client: RegistryClient,
    repository: str,
    subject: Digest,
    listed: Sequence[Descriptor],
) -> None:
    """What the list has already stays as it is, unknown keys included."""
    raw = tagged_referrers(client.read_manifest, repository, subject)
    raw = raw or Index(OCI_INDEX, ()).to_bytes()
    have = {one.digest for one in parse_referrers(raw).found}
    missing = [one.to_json() for one in listed if one.digest not in have]
    if missing:
        record = parse_json(raw, "index", DOCUMENT)
        record["manifests"] = [*(record.get("manifests") or ()), *missing]
        client.put_manifest(
            repository, referrers_tag(subject), dump_json(record), OCI_INDEX
        )


def _docker_form(document: RawManifest) -> RawManifest | None:
    if document.descriptor.media_type != OCI_MANIFEST:
        return None
    manifest = as_docker(Manifest.from_bytes(document.raw))
    if manifest is None:
        return None
    raw = manifest.to_bytes()
    return RawManifest(Descriptor.of(manifest.media_type, raw), raw)


def _refuses_type(error: RegistryError) -> bool:
    return error.status in (400, 405, 406, 415) and error.code in (
        "",
        "MANIFEST_INVALID",
        "UNSUPPORTED",
    )


def has_lost_blobs(error: RegistryError) -> bool:
    """True when a registry says that a manifest names what it does not hold."""
    return error.code in ("MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN")
