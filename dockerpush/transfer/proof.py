"""Proof that images are whole: everything that they need is there, and is read.

Of an archive, a directory or volumes every document, config and layer is hashed, also
unpacked where a config says what it holds; of a registry everything is downloaded. What
is wrong is reported with the images that it touches, and stops nothing.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import (
    TYPE_CHECKING,
    Callable,
    Iterable,
    Iterator,
    NamedTuple,
    Sequence,
)

from ..archive.decompress import StoredDigests, digests
from ..archive.select import label
from ..archive.stored import Absent, Compression, StoredBlob, StoredImage, leaves
from ..documents import RawManifest, Walk, children_of
from ..errors import (
    Cancelled,
    ContentMismatch,
    NetworkError,
    NotFoundInRegistry,
    PusherError,
    Unauthorized,
)
from ..events import BlobFinished, BlobPlanned, BlobStarted, BytesSent, OnEvent, Outcome
from ..oci import Descriptor, Digest
from ..system.cancellation import Cancellation
from ..system.workers import Workers
from .source import RegistrySource
from .tree import Walker

if TYPE_CHECKING:
    from ..archive.compressed_streams import Readable
    from ..archive.opened import Archive, OpenLayout
    from ..registry.client import RegistryClient


class Damage(NamedTuple):
    """What is wrong with *what*, a blob or an image, and the images that need it."""

    what: str
    why: str
    images: tuple[str, ...]


class Proof(NamedTuple):
    """What was read of so many *images*; *needs* is what a delta leaves out."""

    images: int
    blobs: int
    size: int
    needs: int
    damaged: tuple[Damage, ...]


class Prover:
    """Reads blobs, *jobs* at a time, each once, and keeps what is wrong with them."""

    def __init__(
        self, cancellation: Cancellation, on_event: OnEvent, *, jobs: int
    ) -> None:
        self._cancellation = cancellation
        self._on_event = on_event
        self._jobs = jobs
        self._damaged: dict[str, tuple[str, list[str]]] = {}
        self._checks: dict[str, tuple[int, Callable[[], None]]] = {}
        self._users: dict[str, list[str]] = {}
        self._size = 0

    def damaged(self, what: str, why: str, image: str) -> None:
        """Take note that *what*, which *image* needs, is wrong."""
        images = self._damaged.setdefault(what, (why, []))[1]
        if image not in images:
            images.append(image)

    def read(self, what: str, size: int, check: Callable[[], None], image: str) -> None:
        """Have *check* read *what*, which *image* needs, when `finish` is called."""
        self._checks.setdefault(what, (size, check))
        users = self._users.setdefault(what, [])
        if image not in users:
            users.append(image)

    def finish(self, images: int, needs: int = 0) -> Proof:
        """Read everything; what was found. Raises NetworkError, Cancelled."""
        for what, (size, _) in self._checks.items():
            self._on_event(BlobPlanned(what, size))
        with Workers(self._cancellation, self._jobs, name="verify") as workers:
            reading = [workers.submit(self._read, what) for what in self._checks]
            workers.wait(reading)
        damaged = (Damage(w, why, tuple(i)) for w, (why, i) in self._damaged.items())
        return Proof(images, len(self._checks), self._size, needs, tuple(damaged))

    def _read(self, what: str) -> None:
        """A worker thread's work."""
        size, check = self._checks[what]
        try:
            check()
        except (Cancelled, NetworkError, Unauthorized):
            raise
        except PusherError as error:
            for image in self._users[what]:
                self.damaged(what, str(error), image)
        self._size += size

    def hashed(
        self, file: Readable, what: str, digest: Digest | None, compression: Compression
    ) -> StoredDigests:
        """The digests of *file*, whose bytes count in the progress as *what*."""
        size = self._checks[what][0]
        named = digest or Digest.of(b"")
        self._on_event(BlobStarted(what, named, size))
        found = digests(
            file,
            compression,
            cancellation=self._cancellation,
            on_read=lambda count: self._on_event(BytesSent(what, count)),
            name=what,
            named=digest,
        )
        self._on_event(BlobFinished(what, named, size, Outcome.UPLOADED))
        return found


def prove_archive(
    archive: Archive, images: Iterable[StoredImage], prover: Prover
) -> Proof:
    """Read all that *images* of *archive* need."""
    images = list(images)
    for image in images:
        name = label_of(image)
        if image.problem:
            prover.damaged(name, image.problem, name)
        for notice in image.notices:
            if notice.warning:
                prover.damaged(name, notice.text, name)
        for blob in _blobs_of(image, prover):
            check = partial(_check_stored, archive, blob, prover)
            prover.read(str(blob.member), blob.size, check, name)
    return prover.finish(len(images))


def label_of(image: StoredImage) -> str:
    """What *image* is called, which may be damaged."""
    named = (*image.names, *image.tags)
    return named[0] if named else label(image)


def _blobs_of(image: StoredImage, prover: Prover) -> Iterator[StoredBlob]:
    name = label_of(image)
    for root in (image.root, image.entry):
        for leaf in leaves(root):
            if isinstance(leaf, Absent):
                why = leaf.problem or "it is not there"
                prover.damaged(str(leaf.descriptor.digest), why, name)
                continue
            for blob in leaf.layers:
                if blob.member is not None:
                    yield blob
                elif not (blob.descriptor and blob.descriptor.urls):
                    prover.damaged(str(blob.digest), "it is not there", name)


def _check_stored(archive: Archive, blob: StoredBlob, prover: Prover) -> None:
    """A worker thread's work: *blob* is what its name and the config say."""
    member, wanted = str(blob.member), blob.content_digest
    compression = blob.compression if wanted else Compression.NONE
    with archive.blaming():
        found = prover.hashed(archive.open_at(member), member, blob.digest, compression)
        if blob.digest and found.digest.contradicts(blob.digest):
            raise ContentMismatch(f"its bytes are {found.digest}, not {blob.digest}")
        if wanted and found.diff_id.contradicts(wanted):
            raise ContentMismatch(
                f"it holds {found.diff_id}, and the config says {wanted}"
            )


def prove_layout(
    layout: OpenLayout, images: Iterable[StoredImage], prover: Prover
) -> Proof:
    """Read all that a delta holds of *images*; what it needs is counted."""
    images = list(images)
    needed: set[Digest] = set()
    for image in images:
        name = label_of(image)
        root = image.root.descriptor if image.root else None
        assert root is not None, "index.json names manifests"
        for blob in _below(layout, root, prover, name):
            if blob.digest in layout.needs:
                needed.add(blob.digest)
            elif layout.has(blob):
                check = partial(_check_blob, layout, blob, prover)
                prover.read(str(blob.digest), blob.size, check, name)
            elif not blob.urls:
                why = "it is not there, or not of its size"
                prover.damaged(str(blob.digest), why, name)
    return prover.finish(len(images), len(needed))


def _below(
    layout: OpenLayout, root: Descriptor, prover: Prover, name: str
) -> Iterator[Descriptor]:
    """The blobs and manifests that *root* needs."""
    walk, waiting = Walk(str(layout.path)), [(root, 0)]
    while waiting:
        node, depth = waiting.pop()
        yield node
        if node.digest in layout.needs or not layout.has(node):
            continue
        if not walk.enters(node, depth):
            continue
        try:
            raw = layout.document(node)
            walk.takes(raw, node.size)
            children = children_of(node, raw)
        except PusherError as error:
            prover.damaged(str(node.digest), str(error), name)
            continue
        waiting += [(child, depth + 1) for child in children.documents]
        yield from children.blobs


def _check_blob(layout: OpenLayout, blob: Descriptor, prover: Prover) -> None:
    """A worker thread's work."""
    with layout.blaming():
        opened = layout.open_at(blob.digest)
        _check_bytes(prover, blob, opened, str(blob.digest))


def _check_bytes(prover: Prover, blob: Descriptor, file: Readable, what: str) -> None:
    found = prover.hashed(file, what, blob.digest, Compression.NONE)
    if found.digest != blob.digest:
        raise ContentMismatch(f"its bytes are {found.digest}")


class RemoteProof:
    """Looks whether images are whole in registries.

    A blob that several repositories of a registry name is read from one of them, and
    looked for in the others.
    """

    def __init__(self, prover: Prover) -> None:
        self._prover = prover
        self._held: dict[tuple[str, Digest], str] = {}
        self.count = 0
        self.missing: list[str] = []

    def add(
        self, client: RegistryClient, repository: str, reference: str, name: str
    ) -> None:
        """Find what *reference* needs, and have it read when the prover finishes."""
        self.count += 1
        with self._noting(name):
            source = RegistrySource(client, repository)
            try:
                root = RawManifest(*client.read_manifest(repository, reference))
            except NotFoundInRegistry:
                self.missing.append(name)
                return
            for planned in Walker(source).walk(root).plan().moving:
                blob = planned.descriptor
                assert blob is not None, "what goes as it is has a descriptor"
                self._add_blob(client, repository, blob, name)

    @contextmanager
    def _noting(self, name: str) -> Iterator[None]:
        try:
            yield
        except (Cancelled, NetworkError, Unauthorized):
            raise
        except PusherError as error:
            self._prover.damaged(name, str(error), name)

    def _add_blob(
        self, client: RegistryClient, repository: str, blob: Descriptor, name: str
    ) -> None:
        key = (client.registry, blob.digest)
        home = self._held.setdefault(key, repository)
        what = f"{blob.digest} in {client.registry}"
        if home != repository and not client.has_blob(repository, blob):
            where = f"{client.registry}/{repository}"
            why = f"{where} does not hold it"
            self._prover.damaged(what, why, name)

        def check() -> None:
            opened = client.download(home, blob.digest)
            _check_bytes(self._prover, blob, opened, what)

        self._prover.read(what, blob.size, check, name)


def damaged_images(damaged: Sequence[Damage]) -> list[str]:
    """The images that are touched, each once."""
    return list(dict.fromkeys(name for one in damaged for name in one.images))
