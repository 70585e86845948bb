"""Images into one archive: each blob straight to its place in the tar.

A file is filled by several threads, and resumes where another run stopped. What cannot
be filled so (standard output, a pipe, a device) is written from its beginning to its
end; then a damaged blob shows only after its last byte.

Where images go that leave the registries: an archive or an OCI directory.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Iterator, Protocol, Sequence, Union

from ..archive.bundle import BundledImage, Piece, TarLayout, tar_layout
from ..archive.writers import FilledTar, naming_output
from ..events import BlobFinished, BlobStarted, OnEvent, Outcome
from ..oci import Descriptor, Digest
from ..state.blobs import OpenAt, receive
from ..system.cancellation import Cancellation
from ..upload.content import CheckedContent, PreparedBlob
from .choices import DOCKER_ARCHIVE, OCI_DIRECTORY
from .loadable import ForDocker, completed
from .manifests import Document
from .target import Arrival, DirectoryTarget, Target
from .tree import TreeReader

if TYPE_CHECKING:
    from .found import Found
    from .source import Source


@contextmanager
def open_output(
    output: Output,
    form: str,
    *,
    docker: ForDocker | None = None,
    no_clobber: bool = False,
    resumable: bool = True,
    cancellation: Cancellation,
    on_event: OnEvent,
) -> Iterator[Target]:
    """A target that writes *output* in one of `FORMS`; a path for a directory.

    An archive is complete when the ``with`` ends well; another run resumes one that is
    *resumable*. *docker* says how a docker-archive gets its manifest.json. Raises what
    `ArchiveTarget` and `DirectoryTarget` do.
    """
    with cancellation.child() as child:
        if form == OCI_DIRECTORY:
            assert isinstance(output, Path), "a directory has a path"
            yield DirectoryTarget(output, child, on_event)
            return
        with ArchiveTarget(
            output,
            docker=docker if form == DOCKER_ARCHIVE else None,
            no_clobber=no_clobber,
            resumable=resumable,
            cancellation=child,
            on_event=on_event,
        ) as target:
            yield target


Output = Union[Path, BinaryIO]


class ArchiveTarget:
    """An OCI layout in the tar *output*, a path or an open file; to be used in a with.

    For *docker* it has a manifest.json as well. A path gets its name when the ``with``
    ends well; what is left by a failure that may pass stays for another run if it is
    *resumable*. Raises UsageError for what *docker* refuses, and for an *output* that
    exists with *no_clobber*; PusherError when it cannot be written.
    """

    repository = ""

    def __init__(
        self,
        output: Output,
        *,
        docker: ForDocker | None,
        no_clobber: bool = False,
        resumable: bool = True,
        cancellation: Cancellation,
        on_event: OnEvent,
    ) -> None:
        self.place = str(output) if isinstance(output, Path) else "standard output"
        self.cancellation = cancellation
        self.on_event = on_event
        self._output = output
        self._docker = docker
        self._no_clobber = no_clobber
        self._resumable = resumable
        self._stack = ExitStack()
        self._tar: _Tar | None = None

    @property
    def jobs(self) -> int | None:
        """One where blobs have to come in their order."""
        return None if self._is_filled else 1

    def __enter__(self) -> ArchiveTarget:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with naming_output(self._output):
            self._stack.__exit__(kind, error, trace)

    def begin(self, found: Sequence[Found]) -> Sequence[Descriptor]:
        """Begin the archive of all that is going to come; its blobs in their order."""
        images = [image for one in found for image in self._bundled(one)]
        layout = tar_layout(images, docker=self._docker is not None)
        documents = {
            document.descriptor.digest: document.raw
            for one in found
            for document in (*one.tree.documents, *one.tree.referrers)
        }
        with naming_output(self._output):
            self._tar = self._begun(layout, documents)
        blobs = (piece.blob for piece in layout.pieces if piece.blob)
        return [blob for blob in blobs if blob.digest not in documents]

    def digest_of(self, reference: str) -> Digest | None:
        """None: an archive is written anew."""
        return None

    def holds(self, document: Descriptor) -> bool:
        """False: an archive is written anew."""
        return False

    def mount_candidates(self, source: Source, digest: Digest) -> list[str]:
        """None: an archive has one place for a blob."""
        return []

    def put_blob(
        self, blob: Descriptor, open_at: OpenAt, mounts: Sequence[str]
    ) -> Arrival:
        """Write *blob*."""
        assert self._tar is not None, "an archive is begun before its blobs come"
        with naming_output(self._output):
            moved = self._tar.put(blob, open_at, self.cancellation, self.on_event)
        return Arrival(Outcome.UPLOADED, moved)

    def learn(self, blobs: Sequence[Descriptor]) -> None:
        """Nothing: an archive is written anew."""

    def put_document(self, document: Document, reference: str) -> bool:
        """Nothing: manifests and names were written when the archive was begun."""
        return True

    def list_referrers(self, subject: Digest, listed: Sequence[Descriptor]) -> None:
        """Nothing: the index has named them since the archive was begun."""

    @property
    def _is_filled(self) -> bool:
        output = self._output
        return isinstance(output, Path) and (output.is_file() or not output.exists())

    def _begun(self, layout: TarLayout, documents: dict[Digest, bytes]) -> _Tar:
        output = self._output
        if not isinstance(output, Path):
            return self._stack.enter_context(_WrittenTar(layout, documents, output))
        if not self._is_filled:
            file = self._stack.enter_context(output.open("wb"))
            return self._stack.enter_context(_WrittenTar(layout, documents, file))
        tar = FilledTar(
            output,
            layout,
            no_clobber=self._no_clobber,
            resumable=self._resumable,
        )
        filling = _FillingTar(self._stack.enter_context(tar))
        for piece in layout.pieces:
            if piece.blob and piece.blob.digest in documents:
                tar.write(piece.blob, documents[piece.blob.digest])
        return filling

    def _bundled(self, found: Found) -> Iterator[BundledImage]:
        """An image and its referrers, as the index of the archive names them."""
        tree = found.tree
        documents = (*reversed(tree.documents), *tree.referrers)
        image = BundledImage(
            found.root.descriptor,
            found.wanted.names,
            (*(one.descriptor for one in documents), *tree.blobs.values()),
        )
        if self._docker:
            image = completed(
                image,
                found.root,
                TreeReader(found.wanted.source, tree),
                name=(*found.wanted.names, found.wanted.reference)[0],
                docker=self._docker,
                on_event=self.on_event,
            )
        yield image
        for listed in found.listed.values():
            for referrer in listed:
                yield BundledImage(referrer, (), ())


class _Tar(Protocol):
    """A tar that was begun."""

    def put(
        self,
        blob: Descriptor,
        open_at: OpenAt,
        cancellation: Cancellation,
        on_event: OnEvent,
    ) -> int:
        """Write *blob*; how many of its bytes came from its source."""


class _FillingTar:
    """Blobs come in any order, several at a time."""

    def __init__(self, tar: FilledTar) -> None:
        self._tar = tar

    def put(
        self,
        blob: Descriptor,
        open_at: OpenAt,
        cancellation: Cancellation,
        on_event: OnEvent,
    ) -> int:
        """A worker thread's work."""
        with self._tar.place(blob) as place:
            return receive(
                blob, open_at, place, cancellation=cancellation, on_event=on_event
            )


class _WrittenTar:
    """Blobs come one after the other, in the order of the tar."""

    def __init__(
        self, layout: TarLayout, documents: dict[Digest, bytes], file: BinaryIO
    ) -> None:
        self._pieces: Iterator[Piece] = iter(layout.pieces)
        self._documents = documents
        self._file = file

    def __enter__(self) -> _WrittenTar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self._write_up_to(None)
            self._file.flush()

    def put(
        self,
        blob: Descriptor,
        open_at: OpenAt,
        cancellation: Cancellation,
        on_event: OnEvent,
    ) -> int:
        """Write what lies before *blob*, then *blob* itself."""
        self._write_up_to(blob)
        key = str(blob.digest)
        on_event(BlobStarted(key, blob.digest, blob.size))
        prepared = PreparedBlob(key, blob, open_at)
        with CheckedContent(prepared, cancellation, on_event) as content:
            for piece in content.pieces(0, blob.size):
                self._file.write(piece)
            if not blob.size:
                content.verify()
        on_event(BlobFinished(key, blob.digest, blob.size, Outcome.UPLOADED))
        return blob.size

    def _write_up_to(self, blob: Descriptor | None) -> None:
        for piece in self._pieces:
            if piece.blob is None:
                self._file.write(piece.content)
            elif blob is not None and piece.blob.digest == blob.digest:
                return
            else:
                self._file.write(self._documents[piece.blob.digest])
