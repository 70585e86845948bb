"""The images of an archive as a registry would hold them, without changing a byte."""

from __future__ import annotations

from typing import TYPE_CHECKING, Iterator

from ..archive.decompress import digests
from ..archive.stored import StoredBlob, StoredImage
from ..errors import ArchiveError
from ..oci import OCI_LAYER, Descriptor, Digest
from ..system.cancellation import Cancellation
from ..upload.content import PreparedBlob
from ..values import value
from .decide import raw_layer_decision
from .layers import config_blob
from .manifests import Document, SentBlob, documents
from .plan import Method, PlannedBlob, mislabelled, plan_push

if TYPE_CHECKING:
    from ..archive import Archive

AS_IT_IS = "{}: kept as it is; push corrects it"


@value
class WholeImage:
    """An image's manifests, children first, and every blob that they name.

    *tags* are those of the archive's names that are only a tag. *notices* says what
    was left out because the archive does not hold it.
    """

    names: tuple[str, ...]
    tags: tuple[str, ...]
    documents: tuple[Document, ...]
    blobs: tuple[PreparedBlob, ...]
    notices: tuple[str, ...] = ()


def whole_archive(archive: Archive, cancellation: Cancellation) -> Iterator[WholeImage]:
    """Every image of *archive*. Raises what `whole_image` does."""
    for image in archive.images:
        yield whole_image(archive, image, cancellation)


def whole_image(
    archive: Archive,
    image: StoredImage,
    cancellation: Cancellation,
    *,
    strict: bool = False,
) -> WholeImage:
    """*image*, which is one of *archive*.

    A layer whose digest the archive does not tell is read once, bounded in memory.
    Raises ArchiveError, also for layers in a packing that registries do not know, and
    with *strict* for an index that names what the archive does not hold.
    """
    plan = plan_push(image, _as_stored, strict=strict)
    sent, blobs = {}, []
    for planned in plan.blobs:
        if planned.method is Method.FOREIGN:
            continue
        digest = planned.stored.digest or _digest(archive, planned, cancellation)
        size = planned.stored.size
        sent[planned.key] = SentBlob(digest, size, planned.stored.compression)
        blobs.append(_blob(archive, planned, digest))
    for manifest in plan.manifests():
        blobs.append(config_blob(manifest.stored).prepared)
    made = documents(plan.root, sent)
    notices = dict.fromkeys(plan.notices)
    for manifest in plan.manifests():
        notices.update(dict.fromkeys(mislabelled(manifest.stored, AS_IT_IS)))
    return WholeImage(image.names, image.tags, made, tuple(blobs), tuple(notices))


def _as_stored(layer: StoredBlob) -> Method:
    """What an archive's own manifest names stays, whatever its bytes look like."""
    method = raw_layer_decision(layer, compress=False)
    is_named = layer.descriptor is not None and method is not Method.FOREIGN
    return Method.AS_IS if is_named else method


def _digest(
    archive: Archive, planned: PlannedBlob, cancellation: Cancellation
) -> Digest:
    member = planned.stored.member
    assert member is not None, "a layer that is not foreign is in the archive"
    if planned.method is Method.COMPRESS:
        packing = planned.stored.compression.value
        raise ArchiveError(f"layer {member}: packed by {packing}, push it instead")
    return digests(
        archive.open_at(member),
        planned.stored.compression,
        cancellation=cancellation,
        on_read=lambda count: None,
        name=f"layer {member}",
    ).digest


def _blob(archive: Archive, planned: PlannedBlob, digest: Digest) -> PreparedBlob:
    member, size = planned.stored.member, planned.stored.size
    assert member is not None, "a layer that is not foreign is in the archive"
    return PreparedBlob(
        planned.key,
        Descriptor(OCI_LAYER, digest, size),
        lambda offset: archive.open_at(member, offset),
    )
