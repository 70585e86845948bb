"""What a stream takes a blob for before its manifest comes, and whether it was right.

The manifests may be the last members of an archive. So a blob that comes by is judged
by its bytes, and compressed or copied at once. Once the manifests are known, the plan
says what a plain file would have done; where that differs, nothing may be stored.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import Mapping

from ..archive.stored import Compression, StoredBlob, StoredImage
from ..errors import ArchiveError
from ..oci import Digest
from ..values import value
from .plan import Method, Plan, PlannedBlob, PlannedManifest
from .push_run import Arrived


@value
class Passed:
    """A blob that went by: what it was in the archive, and what became of it."""

    stored: Digest | None
    diff_id: Digest | None
    arrived: Future[Arrived]


def guess(compression: Compression, *, is_tar: bool, compress: bool) -> Method:
    """What to do with a blob of which nothing but its first bytes is known.

    bzip2 and xz have no media type of their own, so a layer must be packed anew.
    """
    if compression is Compression.NONE:
        return Method.COMPRESS if compress and is_tar else Method.AS_IS
    known = compression in (Compression.GZIP, Compression.ZSTD)
    return Method.AS_IS if known else Method.COMPRESS


def members_of(plan: Plan) -> dict[str, PlannedBlob]:
    """The members of the archive that *plan* needs, and what becomes of each."""
    return {
        blob.stored.member: blob
        for blob in plan.blobs
        if blob.stored.member is not None
    }


def wrong_guess(
    plan: Plan, passed: Mapping[str, Passed], image: StoredImage
) -> ArchiveError | None:
    """What to say of the first blob that did not become what *plan* wants of it."""
    methods = {blob.key: blob.method for blob in plan.blobs}
    for manifest in plan.manifests():
        for key, layer in zip(manifest.layers, manifest.stored.layers):
            went = passed.get(layer.member or "")
            method = _wanted(manifest, methods[key])
            if went is not None and _became(layer, went) is not method:
                return _error(layer, method, image)
    return None


def _wanted(manifest: PlannedManifest, method: Method) -> Method:
    """A manifest that stays byte for byte needs its blobs so, whatever others want."""
    return Method.AS_IS if manifest.verbatim else method


def _became(layer: StoredBlob, passed: Passed) -> Method:
    same = passed.arrived.result().sent.digest == (layer.digest or passed.stored)
    return Method.AS_IS if same else Method.COMPRESS


def _error(layer: StoredBlob, method: Method, image: StoredImage) -> ArchiveError:
    root = image.root or image.entry
    digest = str(root.descriptor.digest) if root and root.descriptor else ""
    label = (*image.names, *image.tags, digest, "")[0]
    what = f"{label}: its blob {layer.digest or layer.member} ({layer.media_type})"
    why = (
        "does not begin as a tar does, so it was not compressed"
        if method is Method.COMPRESS
        else "must stay as it is, but was compressed before its manifest came"
    )
    return ArchiveError(
        f"{what} {why}; write the archive to a file, unpacked, and push the file "
        "instead"
    )
