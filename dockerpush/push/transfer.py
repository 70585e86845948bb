"""One image from an archive into a repository: look, send, store, tag.

Threads: the caller's plans, looks and waits; one producer reads what must be read
before it can be sent; a pool compresses blocks; `jobs` uploaders send. The first
failure cancels the rest. Manifests are stored after every blob was acknowledged, tags
last of all.
"""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Callable, Mapping, Sequence

from ..archive.model import Compression
from ..cancellation import Cancellation
from ..errors import RegistryError
from ..events import BlobFinished, BlobPlanned, ManifestStored, Notice, OnEvent, Outcome
from ..oci import OCI_MANIFEST, Descriptor, Digest, Manifest, as_docker
from ..registry.client import RegistryClient
from ..workers import Workers, block_threads
from .codecs import Codec
from .layers import LayerMaker, MadeBlob, Readable, config_blob
from .manifests import Document, SentBlob, documents
from .options import PushOptions
from .plan import Method, Plan, PlannedBlob, known_digest
from .prepared import PreparedBlob
from .spool import TempSpace, temp_directory
from .uploader import Uploader


@dataclass(frozen=True)
class PushResult:
    """What a push left in the registry.

    *blobs* counts the blobs by how they came to be there; *sent* is bytes that were
    sent for them.
    """

    repository: str
    tags: tuple[str, ...]
    descriptor: Descriptor
    blobs: Mapping[Outcome, int]
    sent: int


@dataclass(frozen=True)
class PushTarget:
    """Where a push goes, and everything it shares with others."""

    client: RegistryClient
    repository: str
    uploader: Uploader
    cancellation: Cancellation
    on_event: OnEvent


def push_plan(
    target: PushTarget,
    archive: Readable,
    plan: Plan,
    *,
    tags: Sequence[str],
    codec: Codec,
    options: PushOptions,
) -> PushResult:
    """Carry *plan* out and name the result by each of *tags*.

    Raises RegistryError, NetworkError, ContentMismatch, ArchiveError, Cancelled; then
    no tag was moved.
    """
    for notice in plan.notices:
        target.on_event(Notice(notice))
    for config in _configs(plan):
        target.on_event(BlobPlanned(config.key, config.descriptor.size))
    for blob in plan.blobs:
        if blob.method is not Method.FOREIGN:
            target.on_event(BlobPlanned(blob.key, blob.stored.size))
    present = find_present(target, plan, options.jobs)
    arrived = _transfer(target, archive, plan, present, codec, options)
    sent = {made.key: made.sent for made in arrived}
    stored = store(target, documents(plan.root, sent), tags)
    uploaded = (made.sent.size for made in arrived if made.outcome is Outcome.UPLOADED)
    return PushResult(
        target.repository,
        tuple(tags),
        stored,
        Counter(made.outcome for made in arrived),
        sum(uploaded),
    )


def find_present(target: PushTarget, plan: Plan, jobs: int) -> frozenset[Digest]:
    """Which blobs of *plan*, as far as their digests are known, the registry holds."""
    digests = list(known_sizes(plan))
    with Workers(target.cancellation, jobs, name="look") as workers:
        looking = [
            workers.submit(target.client.blob_size, target.repository, digest)
            for digest in digests
        ]
        sizes = workers.wait(looking)
    return frozenset(digest for digest, size in zip(digests, sizes) if size is not None)


def known_sizes(plan: Plan) -> dict[Digest, int]:
    """Digests and sizes in bytes of what can be named before the archive is read."""
    sizes = {blob.descriptor.digest: blob.descriptor.size for blob in _configs(plan)}
    for blob in plan.blobs:
        digest = known_digest(blob)
        if digest is not None:
            sizes[digest] = blob.stored.size
    return sizes


def store(
    target: PushTarget, made: Sequence[Document], tags: Sequence[str]
) -> Descriptor:
    """Store *made*, the last one under each of *tags*; the descriptor of the last.

    A registry that refuses OCI media types gets a lone manifest as Docker schema 2.
    """
    *children, root = made
    for document in children:
        _put(target, document, str(document.descriptor.digest))
    try:
        _put(target, root, tags[0])
    except RegistryError as error:
        docker = None if children else _docker_form(root)
        if docker is None or not _refuses_type(error):
            raise
        target.on_event(
            Notice("the registry refuses OCI manifests: stored as Docker's")
        )
        root = docker
        _put(target, root, tags[0])
    for tag in tags[1:]:
        _put(target, root, tag)
    return root.descriptor


def _put(target: PushTarget, document: Document, reference: str) -> None:
    descriptor = document.descriptor
    target.client.put_manifest(
        target.repository, reference, document.raw, descriptor.media_type
    )
    tag = None if reference == descriptor.digest else reference
    target.on_event(ManifestStored(target.repository, descriptor.digest, tag))


def _docker_form(document: Document) -> Document | None:
    if document.descriptor.media_type != OCI_MANIFEST:
        return None
    manifest = as_docker(Manifest.from_bytes(document.raw))
    if manifest is None:
        return None
    raw = manifest.to_bytes()
    return Document(Descriptor.of(manifest.media_type, raw), raw)


def _refuses_type(error: RegistryError) -> bool:
    return error.status in (400, 405, 406, 415) and error.code in (
        "",
        "MANIFEST_INVALID",
        "UNSUPPORTED",
    )


@dataclass(frozen=True)
class _Arrived:
    """A blob that the repository holds now."""

    key: str
    sent: SentBlob
    outcome: Outcome


def _transfer(
    target: PushTarget,
    archive: Readable,
    plan: Plan,
    present: frozenset[Digest],
    codec: Codec,
    options: PushOptions,
) -> list[_Arrived]:
    """Make the repository hold every blob of *plan*."""
    directory = options.temp_directory or temp_directory(os.environ)
    cancellation = target.cancellation
    with ExitStack() as stack:
        space = stack.enter_context(TempSpace(directory, options.temp_budget))
        blocks, uploads, producer = (
            stack.enter_context(Workers(cancellation, count, name=name))
            for count, name in (
                (block_threads(), "block"),
                (options.jobs, "upload"),
                (1, "producer"),
            )
        )
        maker = LayerMaker(archive, codec, blocks, space, cancellation, target.on_event)

        def submit(made: MadeBlob) -> Future[_Arrived]:
            return uploads.submit(_send, target, made, present)

        layers = [blob for blob in plan.blobs if blob.method is not Method.FOREIGN]
        windows = [maker.window(b) for b in layers if not maker.needs_reading(b)]
        to_read = [blob for blob in layers if maker.needs_reading(blob)]
        reading = producer.submit(_read_all, maker, to_read, submit)
        sending = [submit(made) for made in [*_made_configs(plan), *windows]]
        return [
            *uploads.wait(sending),
            *uploads.wait(producer.wait([reading])[0]),
        ]


def _read_all(
    maker: LayerMaker,
    blobs: Sequence[PlannedBlob],
    submit: Callable[[MadeBlob], Future[_Arrived]],
) -> list[Future[_Arrived]]:
    """The producer thread's work."""
    return [submit(maker.read(blob)) for blob in blobs]


def _send(target: PushTarget, made: MadeBlob, present: frozenset[Digest]) -> _Arrived:
    """An uploader thread's work."""
    blob = made.prepared
    descriptor = blob.descriptor
    try:
        if descriptor.digest in present:
            outcome = Outcome.EXISTS
            target.on_event(
                BlobFinished(blob.key, descriptor.digest, descriptor.size, outcome)
            )
        else:
            outcome = target.uploader.upload(blob)
    finally:
        blob.release()
    return _Arrived(blob.key, made.sent, outcome)


def _configs(plan: Plan) -> list[PreparedBlob]:
    """The configs of all manifests of *plan*, each once."""
    blobs = {}
    for manifest in plan.manifests():
        stored = manifest.stored
        assert stored.config is not None, "a planned manifest is complete"
        blobs[stored.config_descriptor.digest] = config_blob(
            stored.config_descriptor, stored.config
        )
    return list(blobs.values())


def _made_configs(plan: Plan) -> list[MadeBlob]:
    return [
        MadeBlob(
            blob,
            SentBlob(blob.descriptor.digest, blob.descriptor.size, Compression.NONE),
        )
        for blob in _configs(plan)
    ]
