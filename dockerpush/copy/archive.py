"""Images into one archive: each blob straight to its place in the tar.

A file is filled by several threads, and goes on where another run stopped. What cannot
be filled so (standard output, a pipe, a device) is written from its beginning to its
end; then a damaged blob shows only after its last byte.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, Callable, Mapping, Sequence, Union

from ..archive.bundle import BundledImage, TarLayout, tar_layout
from ..archive.filling import FilledTar
from ..archive.writers import naming_output
from ..cancellation import Cancellation
from ..events import BlobFinished, BlobPlanned, BlobStarted, OnEvent, Outcome
from ..oci import INDEX_TYPES, Descriptor, Digest, Platform
from ..push.manifests import Document
from ..push.prepared import CheckedContent, PreparedBlob
from ..receive import OpenAt, receive
from ..workers import Workers
from .loadable import ForDocker, completed
from .model import CopyOptions, CopyResult, TakenPlatform
from .narrow import narrowed, narrowing_notice, taken_of
from .sources import Source
from .tree import Tree, TreeReader, Walker

Output = Union[Path, BinaryIO]


@dataclass(frozen=True)
class Wanted:
    """An image for an archive: what *reference* names in *source*.

    *names* are its full references in the archive.
    """

    source: Source
    reference: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class _Found:
    wanted: Wanted
    tree: Tree
    images: tuple[BundledImage, ...]
    taken: TakenPlatform | None = None

    @property
    def root(self) -> Document:
        return self.tree.documents[-1]


def copy_to_archive(
    wanted: Sequence[Wanted],
    output: Output,
    *,
    docker: ForDocker | None,
    options: CopyOptions,
    only: Platform | None = None,
    no_clobber: bool = False,
    cancellation: Cancellation,
    on_event: OnEvent,
) -> list[CopyResult]:
    """Write *wanted* to *output*, a path or an open file, as an OCI layout in a tar.

    For *docker* it has a manifest.json as well. *only* is the platform that is taken of
    an index when *options* names none; the rest is left out with a warning. A path gets
    its name when all of it is there. Raises UsageError for what *docker* refuses, and
    for an *output* that exists with *no_clobber*; PusherError when it cannot be
    written, Cancelled, ContentMismatch, and what the sources raise.
    """
    gather = _Gather(options, only, docker, cancellation, on_event)
    with Workers(cancellation, options.jobs, name="copy") as workers:
        found = workers.wait([workers.submit(gather.find, one) for one in wanted])
    images = [image for one in found for image in one.images]
    layout = tar_layout(images, docker=docker is not None)
    tar = _Tar(found, layout, cancellation, on_event)
    with naming_output(output):
        if isinstance(output, Path) and (output.is_file() or not output.exists()):
            tar.fill(output, no_clobber=no_clobber, jobs=options.jobs)
        elif isinstance(output, Path):
            with output.open("wb") as file:
                tar.write(file)
        else:
            tar.write(output)
    return [_result(one) for one in found]


class _Gather:
    """Looks for what is to be written, before anything is."""

    def __init__(
        self,
        options: CopyOptions,
        only: Platform | None,
        docker: ForDocker | None,
        cancellation: Cancellation,
        on_event: OnEvent,
    ) -> None:
        self._options = options
        self._only = only
        self._docker = docker
        self._cancellation = cancellation
        self._on_event = on_event

    def find(self, wanted: Wanted) -> _Found:
        """A worker thread's work."""
        source = wanted.source
        root, taken = self._chosen(source, source.read(wanted.reference))
        walker = Walker(source, lambda document: False)
        tree = walker.tree(root)
        image = BundledImage(root.descriptor, wanted.names, _blobs(tree))
        if self._docker:
            image = completed(
                image,
                root,
                TreeReader(source, tree),
                name=(*wanted.names, wanted.reference)[0],
                docker=self._docker,
                on_event=self._on_event,
            )
        about = self._referrers(source, walker, tree) if self._options.referrers else ()
        return _Found(wanted, tree, (image, *about), taken)

    def _chosen(
        self, source: Source, whole: Document
    ) -> tuple[Document, TakenPlatform | None]:
        """What of *whole* is written."""
        platforms = self._options.platforms
        if platforms:
            part = narrowed(source, whole, platforms)
            if part.descriptor.digest != whole.descriptor.digest:
                self._on_event(
                    narrowing_notice(whole.descriptor, part.descriptor, platforms)
                )
            return part, None
        if self._only and whole.descriptor.media_type in INDEX_TYPES:
            part = narrowed(source, whole, (self._only,))
            return part, taken_of(source, whole, part.descriptor, self._only)
        return whole, None

    def _referrers(
        self, source: Source, walker: Walker, tree: Tree
    ) -> tuple[BundledImage, ...]:
        """What refers to the manifests of *tree*, which gets it too, the root last."""
        subjects = [document.descriptor.digest for document in tree.documents]
        images = []
        for subject in subjects:  # grows meanwhile
            self._cancellation.check()
            for referrer in source.referrers(subject):
                found = Tree(seen=tree.seen)
                walker.add(referrer, found)
                images.append(BundledImage(referrer, (), _blobs(found)))
                subjects += [one.descriptor.digest for one in found.documents]
                tree.documents[:0] = found.documents
                tree.blobs.update(found.blobs)
        return tuple(images)


def _blobs(tree: Tree) -> tuple[Descriptor, ...]:
    documents = (document.descriptor for document in reversed(tree.documents))
    return (*documents, *tree.blobs.values())


class _Tar:
    def __init__(
        self,
        found: Sequence[_Found],
        layout: TarLayout,
        cancellation: Cancellation,
        on_event: OnEvent,
    ) -> None:
        self._layout = layout
        self._cancellation = cancellation
        self._on_event = on_event
        self._documents = {
            document.descriptor.digest: document.raw
            for one in found
            for document in one.tree.documents
        }
        self._open: Mapping[Digest, OpenAt] = {
            digest: partial(one.wanted.source.open_blob, digest)
            for one in found
            for digest in one.tree.blobs
        }
        self._blobs = [
            piece.blob
            for piece in layout.pieces
            if piece.blob and piece.blob.digest in self._open
        ]
        for blob in self._blobs:
            on_event(BlobPlanned(str(blob.digest), blob.size))

    def fill(self, path: Path, *, no_clobber: bool, jobs: int) -> None:
        """Several blobs at a time."""
        with FilledTar(path, self._layout, no_clobber=no_clobber) as tar:
            for piece in self._layout.pieces:
                if piece.blob and piece.blob.digest in self._documents:
                    tar.write(piece.blob, self._documents[piece.blob.digest])
            with Workers(self._cancellation, jobs, name="copy") as workers:
                workers.wait(
                    [workers.submit(self._fill_one, tar, blob) for blob in self._blobs]
                )

    def _fill_one(self, tar: FilledTar, blob: Descriptor) -> None:
        """A worker thread's work."""
        with tar.place(blob) as place:
            receive(
                blob,
                self._open[blob.digest],
                place,
                cancellation=self._cancellation,
                on_event=self._on_event,
            )

    def write(self, file: BinaryIO) -> None:
        """One blob after the other."""
        for piece in self._layout.pieces:
            if piece.blob is None:
                file.write(piece.content)
            elif piece.blob.digest in self._documents:
                file.write(self._documents[piece.blob.digest])
            else:
                self._write_blob(piece.blob, file.write)
        file.flush()

    def _write_blob(
        self, blob: Descriptor, write: Callable[[memoryview], object]
    ) -> None:
        key = str(blob.digest)
        self._on_event(BlobStarted(key, blob.digest, blob.size))
        prepared = PreparedBlob(key, blob, self._open[blob.digest])
        with CheckedContent(prepared, self._cancellation, self._on_event) as content:
            for piece in content.pieces(0, blob.size):
                write(piece)
            if not blob.size:
                content.verify()
        self._on_event(BlobFinished(key, blob.digest, blob.size, Outcome.UPLOADED))


def _result(found: _Found) -> CopyResult:
    tree = found.tree
    return CopyResult(
        found.root.descriptor,
        len(tree.documents),
        len(found.images) - 1,
        Counter({Outcome.UPLOADED: len(tree.blobs)}),
        sum(blob.size for blob in tree.blobs.values()),
        found.taken,
    )
