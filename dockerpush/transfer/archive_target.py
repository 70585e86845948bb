"""Images into one archive: each blob straight to its place in the tar.

A file is filled by several threads, and resumes where another run stopped. What cannot
be filled so (standard output, a pipe, a device) is written from its beginning to its
end; then a damaged blob shows only after its last byte.

docker and podman read ``manifest.json``, which knows no platforms: it names one image
of an index. What they cannot load has no entry there.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import (
    TYPE_CHECKING,
    BinaryIO,
    Callable,
    Iterator,
    NamedTuple,
    Protocol,
    Sequence,
    Union,
    cast,
)

from ..archive.stored import ENCRYPTED
from ..archive.volume_writer import VolumeWriter
from ..archive.writers import (
    BundledImage,
    FilledTar,
    Piece,
    TarLayout,
    tar_layout,
    translate_write_errors,
)
from ..documents import RawManifest
from ..errors import UsageError
from ..events import BlobFinished, BlobStarted, Notice, OnEvent, Outcome
from ..oci import (
    DOCKER_CONFIG,
    INDEX_TYPES,
    LAYER_TYPES,
    MANIFEST_TYPES,
    OCI_CONFIG,
    Descriptor,
    Digest,
    Manifest,
    Platform,
)
from ..platforms import best_match
from ..state.blobs import receive
from ..system.cancellation import Cancellation
from ..system.files import copy_range
from ..upload.content import CheckedContent, PreparedBlob
from ..values import replace
from .choices import DOCKER_ARCHIVE, OCI_DIRECTORY
from .inventory import NOTHING_HELD, HeldBlobs, LeftOut
from .local_targets import DirectoryTarget
from .plan import PlannedBlob, PlannedImage
from .target import Target, UploadResult
from .tree import Narrowable, PlanReader, images_of

if TYPE_CHECKING:
    pass


@contextmanager
def open_output(
    output: Output,
    form: str,
    *,
    docker: ForDocker | None = None,
    no_clobber: bool = False,
    resumable: bool = True,
    split: int | None = None,
    have: HeldBlobs = NOTHING_HELD,
    cancellation: Cancellation,
    on_event: OnEvent,
) -> Iterator[Target]:
    """A target that writes *output* in one of `FORMS`; a path for a directory.

    An archive is complete when the ``with`` ends well; another run resumes one that is
    *resumable*. With *split* it is in volumes of so many bytes. *docker* says how a
    docker-archive gets its manifest.json. What *have* holds is left out, and a
    needs.json says so. Raises what `ArchiveTarget` and
    `DirectoryTarget` do.
    """
    with cancellation.child() as child:
        if form == OCI_DIRECTORY:
            assert isinstance(output, Path), "a directory has a path"
            yield DirectoryTarget(output, child, on_event, have)
            return
        with ArchiveTarget(
            output,
            docker=docker if form == DOCKER_ARCHIVE else None,
            no_clobber=no_clobber,
            resumable=resumable,
            split=split,
            have=have,
            cancellation=child,
            on_event=on_event,
        ) as target:
            yield target


Output = Union[Path, BinaryIO]


class ArchiveTarget(Target):
    """An OCI layout in the tar *output*, a path or an open file; to be used in a with.

    For *docker* it has a manifest.json as well. A path gets its name when the ``with``
    ends well; what is left by a failure that may pass stays for another run if it is
    *resumable*. With *split* there are volumes of so many bytes, which are written from
    the first byte to the last and are not resumed. Raises UsageError for what *docker*
    refuses, and for an *output* that exists with *no_clobber*; PusherError when it
    cannot be written.
    """

    def __init__(
        self,
        output: Output,
        *,
        docker: ForDocker | None,
        no_clobber: bool = False,
        resumable: bool = True,
        split: int | None = None,
        have: HeldBlobs = NOTHING_HELD,
        cancellation: Cancellation,
        on_event: OnEvent,
    ) -> None:
        place = str(output) if isinstance(output, Path) else "standard output"
        super().__init__(place, cancellation, on_event)
        self._output = output
        self._docker = docker
        self._no_clobber = no_clobber
        self._resumable = resumable
        self._split = split
        self._left_out = LeftOut(have)
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
        with translate_write_errors(self._output):
            self._stack.__exit__(kind, error, trace)

    def begin(self, images: Sequence[PlannedImage]) -> Sequence[PlannedBlob]:
        """Begin the archive of all that is going to come; its blobs in their order."""
        bundled = [part for image in images for part in self._bundled(image)]
        layout = tar_layout(
            bundled, docker=self._docker is not None, needs=self._left_out.needs
        )
        documents = {
            document.descriptor.digest: document.raw
            for image in images
            for document in (*image.plan.documents, *image.plan.referrers)
        }
        with translate_write_errors(self._output):
            self._tar = self._begun(layout, documents)
        planned = {one.key: one for image in images for one in image.plan.moving}
        blobs = (piece.blob.digest for piece in layout.pieces if piece.blob)
        return [planned[digest] for digest in blobs if digest not in documents]

    def has_document(self, document: Descriptor) -> bool:
        """True for a manifest that is left out with all that it needs."""
        return self._left_out.takes(document)

    def put_blob(self, blob: PreparedBlob, mounts: Sequence[str]) -> UploadResult:
        """Write *blob*."""
        assert self._tar is not None, "an archive is begun before its blobs come"
        with translate_write_errors(self._output):
            moved = self._tar.put(blob, self.cancellation, self.on_event)
        return UploadResult(blob.descriptor, Outcome.UPLOADED, moved)

    def take_file(self, blob: Descriptor, path: Path) -> bool:
        """Have the kernel copy the file to its place, where that is a file."""
        if not isinstance(self._tar, _FillingTar):
            return False
        with translate_write_errors(self._output):
            return self._tar.copy(blob, path, self.cancellation)

    @property
    def _is_filled(self) -> bool:
        output = self._output
        if not isinstance(output, Path) or self._split:
            return False
        return output.is_file() or not output.exists()

    def _begun(self, layout: TarLayout, documents: dict[Digest, bytes]) -> _Tar:
        output = self._output
        if not isinstance(output, Path):
            return self._stack.enter_context(_WrittenTar(layout, documents, output))
        if not self._is_filled:
            file = self._stack.enter_context(self._opened(output, layout.size))
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

    def _opened(self, output: Path, size: int) -> BinaryIO:
        if not self._split:
            return output.open("wb")
        writer = VolumeWriter(
            output, self._split, no_clobber=self._no_clobber, expected=size
        )
        return cast("BinaryIO", writer)

    def _bundled(self, image: PlannedImage) -> Iterator[BundledImage]:
        """An image and its referrers, as the index of the archive names them."""
        plan, root = image.plan, image.root
        assert root is not None, "what goes to an archive is known before"
        documents = (*reversed(plan.documents), *plan.referrers)
        blobs = [blob for one in plan.moving if (blob := one.descriptor)]
        everything = (*(one.descriptor for one in documents), *blobs)
        bundled = BundledImage(
            root.descriptor,
            image.names,
            tuple(one for one in everything if not self._left_out.takes(one)),
        )
        if self._docker:
            bundled = completed(
                bundled,
                root,
                PlanReader(image.source, plan),
                name=image.label,
                docker=self._docker,
                on_event=self.on_event,
            )
        yield bundled
        for listed in plan.listed.values():
            for referrer in listed:
                yield BundledImage(referrer, (), ())


class _Tar(Protocol):
    """A tar that was begun."""

    def put(
        self, blob: PreparedBlob, cancellation: Cancellation, on_event: OnEvent
    ) -> int:
        """Write *blob*; how many of its bytes came from its source."""


class _FillingTar:
    """Blobs come in any order, several at a time."""

    def __init__(self, tar: FilledTar) -> None:
        self._tar = tar

    def put(
        self, blob: PreparedBlob, cancellation: Cancellation, on_event: OnEvent
    ) -> int:
        """A worker thread's work."""
        with self._tar.place(blob.descriptor) as place:
            return receive(
                blob.descriptor,
                blob.open_at,
                place,
                cancellation=cancellation,
                on_event=on_event,
                key=blob.key,
            )

    def copy(self, blob: Descriptor, path: Path, cancellation: Cancellation) -> bool:
        """Copy *blob* from the file *path*; False where the kernel does not do that."""
        with self._tar.place(blob) as place, path.open("rb") as file:
            done = 0
            while done < blob.size:
                cancellation.check()
                left, offset = blob.size - done, place.start + done
                copied = copy_range(file, done, place.file, offset, count=left)
                if not copied:
                    return False
                done += copied
                place.on_written(done)
        return True


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
        self, blob: PreparedBlob, cancellation: Cancellation, on_event: OnEvent
    ) -> int:
        """Write what lies before *blob*, then *blob* itself."""
        key, digest, size = blob.key, blob.descriptor.digest, blob.descriptor.size
        self._write_up_to(digest)
        on_event(BlobStarted(key, digest, size))
        with CheckedContent(blob, cancellation, on_event) as content:
            for piece in content.pieces(0, size):
                self._file.write(piece)
            if not size:
                content.verify()
        on_event(BlobFinished(key, digest, size, Outcome.UPLOADED))
        return size

    def _write_up_to(self, digest: Digest | None) -> None:
        for piece in self._pieces:
            if piece.blob is None:
                self._file.write(piece.content)
            elif piece.blob.digest == digest:
                return
            else:
                self._file.write(self._documents[piece.blob.digest])


LINUX_AMD64 = Platform("linux", "amd64")
"""The platform that docker gets of an index when nobody says more."""


class ForDocker(NamedTuple):
    """How an archive gets its ``manifest.json``.

    It names the image for *preferred*, where the index has one, else the first. What
    docker cannot load is refused when it is *required*; else there is a note.
    """

    preferred: Platform | None = LINUX_AMD64
    required: bool = False


class NotLoadable(UsageError):
    """Docker cannot load it; the text says why."""


def why_not_loadable(
    source: Narrowable, root: RawManifest, docker: ForDocker
) -> str | None:
    """Why docker cannot load what *root* names; None when it can, as far as it says."""
    try:
        _image_of(source, root, docker.preferred)
    except NotLoadable as error:
        return str(error)
    return None


def completed(
    image: BundledImage,
    root: RawManifest,
    source: Narrowable,
    *,
    name: str,
    docker: ForDocker,
    on_event: OnEvent,
) -> BundledImage:
    """*image*, whose manifest is *root*, with what ``manifest.json`` says of it.

    Raises UsageError, which calls it *name*, for what docker cannot load and is
    *required*, and what *source* raises.
    """
    held = {blob.digest for blob in image.blobs}
    try:
        manifest = _image_of(source, root, docker.preferred)
        layers = _layers(manifest, held.__contains__)
    except NotLoadable as error:
        if docker.required:
            raise UsageError(
                f"{name}: {error}, which docker cannot load: make it an oci-archive"
            ) from error
        on_event(
            Notice(
                f"{name}: {error}, which docker cannot load: left out of the "
                "archive's manifest.json"
            )
        )
        return image
    return replace(image, config=manifest.config.digest, layers=layers)


def _image_of(
    source: Narrowable, root: RawManifest, preferred: Platform | None
) -> Manifest:
    """The manifest of the image that docker gets. Raises NotLoadable."""
    if root.descriptor.media_type not in INDEX_TYPES:
        return _image(root)
    entries = images_of(source, root)
    place = best_match(preferred, [one for _, one in entries]) if preferred else None
    if place is not None:
        return _image(source.child(entries[place][0]))
    first = next(_loadable(source, [entry for entry, _ in entries]), None)
    if first is None:
        raise NotLoadable("it is an index without an image")
    return first


def _loadable(source: Narrowable, entries: list[Descriptor]) -> Iterator[Manifest]:
    """The manifests among *entries* that are those of images."""
    for entry in entries:
        if entry.media_type in MANIFEST_TYPES:
            manifest = _parsed(source.child(entry))
            if _is_image(manifest):
                yield manifest


def _image(document: RawManifest) -> Manifest:
    if document.descriptor.media_type in MANIFEST_TYPES:
        manifest = _parsed(document)
        if _is_image(manifest):
            return manifest
        kind = manifest.artifact_type or manifest.config.media_type
    else:
        kind = document.descriptor.media_type
    raise NotLoadable(f"it is an artifact ({kind})")


def _parsed(document: RawManifest) -> Manifest:
    return Manifest.from_bytes(document.raw, document.descriptor.media_type)


def _is_image(manifest: Manifest) -> bool:
    return not manifest.artifact_type and manifest.config.media_type in (
        OCI_CONFIG,
        DOCKER_CONFIG,
    )


def _layers(
    manifest: Manifest, is_held: Callable[[Digest], bool]
) -> tuple[Digest, ...]:
    """Its layers, all of them tars that are there. Raises NotLoadable."""
    for layer in manifest.layers:
        if layer.media_type.endswith(ENCRYPTED):
            raise NotLoadable(f"layer {layer.digest.short} is encrypted")
        if not layer.media_type.startswith(LAYER_TYPES):
            raise NotLoadable(
                f"layer {layer.digest.short} is no tar ({layer.media_type})"
            )
        if not is_held(layer.digest):
            raise NotLoadable(
                f"layer {layer.digest.short} is only where its urls point"
            )
    return tuple(layer.digest for layer in manifest.layers)
