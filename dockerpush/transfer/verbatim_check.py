"""Images that go as they are: what would be sent, and whether all of it arrived."""

from __future__ import annotations

from ..errors import ContentMismatch
from ..events import BytesRead, Outcome
from ..oci import Descriptor, Digest
from ..state.blobs import PIECE
from ..system.workers import Workers
from .manifests import Document
from .push_image import SEND, BlobForecast
from .registry_target import PushTarget, RegistryTarget
from .source import Source
from .tree import Walker
from .verify import Verified


def forecast(
    source: Source, root: Document, target: PushTarget, *, jobs: int
) -> list[BlobForecast]:
    """What a transfer of *root* to *target* would do with each blob.

    Raises what *source* does, RegistryError, NetworkError, Cancelled.
    """
    blobs = list(Walker(source).tree(root).blobs.values())

    there = RegistryTarget(target).has(blobs, jobs=jobs)
    actions = {digest: Outcome.EXISTS.value for digest in there}
    return [
        BlobForecast(str(blob.digest), blob.size, actions.get(blob.digest, SEND))
        for blob in blobs
    ]


def verify_copy(
    source: Source, root: Document, target: PushTarget, reference: str, *, jobs: int
) -> Verified:
    """Read everything back that *root* of *source* needs from *target*.

    *reference* is the tag or digest that it has there. Raises ContentMismatch, which
    names the first difference, NotFoundInRegistry, RegistryError, NetworkError,
    Cancelled.
    """
    client, repository = target.client, target.repository
    found, raw = client.read_manifest(repository, reference)
    if raw != root.raw:
        raise ContentMismatch(
            f"{repository}:{reference} is {found.digest} in the registry, the source "
            f"has {root.descriptor.digest}; push it again"
        )
    tree = Walker(source).tree(root)
    with Workers(target.cancellation, jobs, name="verify") as workers:
        reading = [
            workers.submit(
                client.read_manifest, repository, str(document.descriptor.digest)
            )
            for document in tree.documents[:-1]
        ]
        workers.wait(reading)
        hashing = [
            workers.submit(_verify_blob, target, blob) for blob in tree.blobs.values()
        ]
        workers.wait(hashing)
    return Verified(
        found.digest,
        len(tree.documents),
        len(tree.blobs),
        sum(blob.size for blob in tree.blobs.values()),
    )


def _verify_blob(target: PushTarget, blob: Descriptor) -> None:
    """A worker thread's work."""
    hasher = blob.digest.hasher()
    buffer = memoryview(bytearray(PIECE))
    reader = target.client.download(target.repository, blob.digest)
    try:
        while count := reader.readinto(buffer):
            target.cancellation.check()
            hasher.update(buffer[:count])
            target.on_event(BytesRead(str(blob.digest), count))
    finally:
        reader.close()
    found = Digest.from_hash(hasher)
    if found != blob.digest:
        raise ContentMismatch(
            f"blob {blob.digest}: the registry gave bytes with the digest {found}"
        )
