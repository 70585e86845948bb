"""The images of an archive or an OCI directory as a source.

An archive of manifest.json alone holds no manifests, so they are built as a registry
would hold them; a layer whose digest it does not say is read once for that.
"""

from __future__ import annotations

import io
from functools import partial
from typing import TYPE_CHECKING, Sequence

from ..archive.decompress import digests
from ..archive.stored import StoredBlob, StoredImage
from ..documents import RawManifest
from ..errors import ArchiveError, ContentMismatch, NotFound
from ..events import Notice
from ..oci import Descriptor, Digest
from ..system.cancellation import Cancellation
from ..system.workers import in_parallel
from ..upload.content import FileReader
from ..values import replace
from .manifests import as_referrer, documents
from .plan import Method, Plan, PlannedBlob, mislabelled, plan_push
from .prepare import ReadableArchive, raw_layer_decision

if TYPE_CHECKING:
    from ..upload.content import BlobReader


AS_IT_IS = "{}: kept as it is; push corrects it"


class ArchiveSource:
    """Images of *archive*, which has to stay open. *place* is its path, for messages.

    It holds what was added to it: plans of its images (`take`), or images that go byte
    for byte (`add`).
    """

    def __init__(self, archive: ReadableArchive, repository: str = "") -> None:
        self.repository = repository
        self.place = str(archive.path)
        self._archive = archive
        self._documents: dict[Digest, RawManifest] = {}
        self._members: dict[Digest, str] = {}
        self._configs: dict[Digest, bytes] = {}
        self._referrers: dict[Digest, list[Descriptor]] = {}

    def add(
        self, image: StoredImage, cancellation: Cancellation, *, strict: bool = False
    ) -> Plan:
        """The plan of *image* as it is, whose documents and blobs are here from now on.

        A layer whose digest the archive does not say is read once, bounded in memory.
        Raises ArchiveError, also for layers in a packing that registries do not know,
        and with *strict* for an index that names what the archive does not hold.
        """
        plan = plan_push(image, _as_stored, strict=strict)
        read = partial(self._with_digest, cancellation)
        blobs = tuple(in_parallel(read, plan.blobs, cancellation))
        became = {blob.key: blob.descriptor for blob in blobs}
        assert plan.root is not None, "an image of an archive has a root"
        known = {key: found for key, found in became.items() if found}
        notices = dict.fromkeys(plan.notices)
        for manifest in plan.manifests():
            told = mislabelled(manifest.stored, AS_IT_IS)
            notices.update(dict.fromkeys(map(Notice, told)))
        made = documents(plan.root, known)
        plan = replace(plan, blobs=blobs, documents=made, notices=tuple(notices))
        self.take(plan)
        return replace(plan, root=None)

    def take(self, plan: Plan) -> None:
        """Have what *plan* needs, which is a plan of an image of the archive."""
        for blob in plan.blobs:
            if blob.stored.digest and blob.stored.member is not None:
                self._members.setdefault(blob.stored.digest, blob.stored.member)
        for manifest in plan.manifests():
            content = manifest.stored.config
            assert content is not None, "a complete manifest has its config"
            self._configs[manifest.stored.config_descriptor.digest] = content
        for document in plan.documents:
            self._add_document(document)

    def _add_document(self, document: RawManifest) -> None:
        if document.descriptor.digest in self._documents:
            return
        self._documents[document.descriptor.digest] = document
        found = as_referrer(document)
        if found is not None:
            subject, listed = found
            self._referrers.setdefault(subject, []).append(listed)

    def document(self, reference: str) -> RawManifest:
        """The manifest with the digest *reference*. Raises NotFound."""
        try:
            return self._documents[Digest(reference)]
        except KeyError:
            raise NotFound(
                f"{self.place}: it holds no manifest {reference}; save it again, whole"
            ) from None

    def child(self, descriptor: Descriptor) -> RawManifest:
        """The manifest that *descriptor* names. Raises NotFound."""
        return self.document(str(descriptor.digest))

    def read_blob(self, descriptor: Descriptor) -> bytes:
        """The whole of a small blob, checked. Raises NotFound, ContentMismatch."""
        content = bytearray(descriptor.size)
        view = memoryview(content)
        reader = self.open_blob(descriptor.digest, 0)
        try:
            while view and (count := reader.readinto(view)):
                view = view[count:]
        finally:
            reader.close()
        raw = bytes(content)
        if view or not descriptor.digest.fits(raw):
            raise ContentMismatch(
                f"{self.place}: blob {descriptor.digest} is damaged; save it again"
            )
        return raw

    def open_blob(self, digest: Digest, offset: int) -> BlobReader:
        """The bytes of a blob from *offset* on. Raises NotFound, ArchiveError."""
        if digest in self._configs:
            return io.BytesIO(self._configs[digest][offset:])
        if digest not in self._members:
            raise NotFound(
                f"{self.place}: it holds no blob {digest}; save it again, whole"
            )
        return self.open_at(self._members[digest], offset)

    def open_at(self, member: str, offset: int = 0) -> FileReader:
        """A reader of the file *member* from *offset* on, which the caller closes."""
        return FileReader(self._archive.open_at(member, offset), self.place)

    def referrers(self, subject: Digest) -> Sequence[Descriptor]:
        """The manifests that have *subject* as theirs."""
        return self._referrers.get(subject, [])

    def has(self, blob: Descriptor) -> bool:
        """True when it holds *blob*."""
        return blob.digest in self._members

    def find_document(self, node: Descriptor) -> RawManifest | None:
        """None: an archive does not say, so it is a blob."""
        return None

    def repositories(self, place: str, digest: Digest) -> Sequence[str]:
        """None: it is in no registry."""
        return ()

    def _with_digest(
        self, cancellation: Cancellation, planned: PlannedBlob
    ) -> PlannedBlob:
        if not planned.needs_reading:
            return planned
        stored, member = planned.stored, planned.stored.member
        assert member is not None, "a layer that is not foreign is in the archive"
        if planned.method is Method.COMPRESS:
            packing = stored.compression.value
            raise ArchiveError(
                f"layer {member}: compressed by {packing}; push the archive instead"
            )
        found = digests(
            self._archive.open_at(member),
            stored.compression,
            cancellation=cancellation,
            on_read=lambda count: None,
            name=f"layer {member}",
        )
        return replace(planned, stored=replace(stored, digest=found.digest))


def _as_stored(layer: StoredBlob) -> Method:
    """What an archive's own manifest names stays, whatever its bytes look like."""
    method = raw_layer_decision(layer, compress=False)
    is_named = layer.descriptor is not None and method is not Method.FOREIGN
    return Method.AS_IS if is_named else method
