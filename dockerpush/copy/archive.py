"""Images into one archive: each blob straight to its place in the tar.

A file is filled by several threads, and goes on where another run stopped. What cannot
be filled so (standard output, a pipe, a device) is written from its beginning to its
end; then a damaged blob shows only after its last byte.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO, Callable, Mapping, Sequence, Union

from ..archive.bundle import BundledImage, TarLayout, docker_parts, tar_layout
from ..archive.filling import FilledTar
from ..archive.writers import naming_output
from ..cancellation import Cancellation
from ..errors import UsageError
from ..events import BlobFinished, BlobPlanned, BlobStarted, OnEvent, Outcome
from ..oci import INDEX_TYPES, Descriptor, Digest, Platform
from ..push.manifests import Document
from ..push.prepared import CheckedContent, PreparedBlob
from ..receive import OpenAt, receive
from ..workers import Workers
from .model import CopyOptions, CopyResult
from .narrow import narrowed
from .sources import Source
from .tree import Tree, Walker

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

    @property
    def root(self) -> Document:
        return self.tree.documents[-1]


def copy_to_archive(
    wanted: Sequence[Wanted],
    output: Output,
    *,
    docker: bool,
    options: CopyOptions,
    default: Platform | None = None,
    no_clobber: bool = False,
    cancellation: Cancellation,
    on_event: OnEvent,
) -> list[CopyResult]:
    """Write *wanted* to *output*, a path or an open file, as an OCI layout in a tar.

    For *docker* it can be loaded by docker as well. *default* is the platform that is
    taken of an index when *options* names none. A path gets its name when all of it is
    there. Raises UsageError for what docker cannot load, and for an *output* that
    exists with *no_clobber*; PusherError when it cannot be written, Cancelled,
    ContentMismatch, and what the sources raise.
    """
    gather = _Gather(options, default, docker, cancellation)
    with Workers(cancellation, options.jobs, name="copy") as workers:
        found = workers.wait([workers.submit(gather.find, one) for one in wanted])
    images = [image for one in found for image in one.images]
    layout = tar_layout(images, docker=docker)
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
        default: Platform | None,
        docker: bool,  # noqa: FBT001
        cancellation: Cancellation,
    ) -> None:
        self._options = options
        self._default = default
        self._docker = docker
        self._cancellation = cancellation

    def find(self, wanted: Wanted) -> _Found:
        """A worker thread's work."""
        source = wanted.source
        root = source.read(wanted.reference)
        platforms = self._options.platforms
        if (
            not platforms
            and self._default
            and root.descriptor.media_type in INDEX_TYPES
        ):
            platforms = (self._default,)
        if platforms:
            root = narrowed(source, root, platforms)
        walker = Walker(source, lambda document: False)
        tree = walker.tree(root)
        image = BundledImage(root.descriptor, wanted.names, _blobs(tree))
        if self._docker:
            name = (*wanted.names, wanted.reference)[0]
            config, layers = docker_parts(name, root.descriptor, root.raw)
            _refuse_foreign(name, layers, tree)
            image = replace(image, config=config, layers=layers)
        about = self._referrers(source, walker, tree) if self._options.referrers else ()
        return _Found(wanted, tree, (image, *about))

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


def _refuse_foreign(name: str, layers: Sequence[Digest], tree: Tree) -> None:
    missing = [digest for digest in layers if digest not in tree.blobs]
    if missing:
        raise UsageError(
            f"{name}: layer {missing[0].short} is only where its urls point, which "
            "docker cannot load: use oci-archive:"
        )


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
    )
