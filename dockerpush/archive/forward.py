"""Archives that can only be read once, forward: pipes, and compressed files.

The order of members is what the writer chose, so what a layer belongs to is known only
at the end: `ForwardArchive` gives the members as they come, and whoever reads them
keeps what `assemble` needs.
"""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Callable, Iterator, Mapping

from ..errors import (
    ArchiveError,
    InvalidDigest,
    InvalidJSON,
    NotFound,
    file_error,
    reason_of,
)
from ..oci import JSON_LIMIT, Descriptor, Digest, Manifest
from ..system.cancellation import Cancellation
from ..system.processes import PipeReader
from ..values import field, record, replace
from .assemble import assemble
from .contents import blob_digest
from .decompress import open_decompressed, peeked
from .headers import BLOCK, TarStream
from .layout import is_image
from .sniff import HEAD_SIZE, begins_as_tar, check_tar, compression_of
from .spooled import KeptFiles
from .stored import (
    Compression,
    Member,
    MemberKind,
    StoredBlob,
    StoredImage,
    layers_by_member,
)
from .volumes import Volumes, VolumesReader, beginning, blame, find

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

LAYERS_SHARE = 0.5
"""How much of the room for documents small layers may take; documents come after."""

_BUFFER = 128 * 1024
_STDIN = 0


@record
class PassedMembers:
    """What `assemble` needs of the members that went by."""

    members: dict[str, Member] = field(default_factory=dict)
    documents: KeptFiles = field(default_factory=KeptFiles)
    heads: dict[str, bytes] = field(default_factory=dict)
    told: dict[Digest, StoredBlob] = field(default_factory=dict)

    def images(
        self, documents: Mapping[str, bytes] | None = None
    ) -> tuple[StoredImage, ...]:
        """What went by; *documents* may know more than what was kept.

        Raises ArchiveError, InvalidJSON, InvalidDigest.
        """
        return assemble(self.members, documents or self.documents, self.heads)

    def layer_of(self, member: Member) -> StoredBlob | None:
        """What a manifest that went by before says of *member*; None for nothing."""
        digest = blob_digest(member.name)
        told = self.told.get(digest) if digest else None
        if told is None:
            return None
        compression = compression_of(self.heads[member.name])
        return replace(told, member=member.name, compression=compression)

    def keep(self, name: str, content: bytes) -> None:
        """Take note of a document."""
        self.documents.keep(name, content)
        self.told.update(_told_layers(content))

    def forget(self, name: str) -> None:
        """A member of this name comes again: the last one counts."""
        self.documents.forget(name)
        self.heads.pop(name, None)


class ForwardArchive:
    """The members of an archive in order, each with its content, once.

    Iterate to get members; a file's content is read by `readinto` until the next step,
    unless `is_document` keeps it. *name* stands in errors.
    """

    def __init__(self, name: str, source: io.RawIOBase, file: io.RawIOBase) -> None:
        """*source* is the tar that *file* holds."""
        self.name = name
        self.index = PassedMembers()
        self._source = source
        self._file = file
        self._tar: TarStream | None = None
        self._head = b""

    def __enter__(self) -> ForwardArchive:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        blame(error, self._file)
        self.index.documents.close()
        self._source.close()

    def files(self) -> Iterator[Member]:
        """The files that are no documents, in order; all else goes to `index`.

        Raises ArchiveError, which names the archive and what is wrong with it.
        """
        with self.explained():
            self._tar = TarStream(io.BufferedReader(self._source, _BUFFER))
            for member in self._tar:
                self.index.forget(member.name)
                self.index.members[member.name] = member
                if member.kind is MemberKind.FILE and not self._keep(member):
                    yield member
            self._drain()

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill *buffer* with content of the current file; 0 at its end."""
        view = memoryview(buffer).cast("B")
        if self._head:
            count = min(len(view), len(self._head))
            view[:count] = self._head[:count]
            self._head = self._head[count:]
            return count
        assert self._tar is not None, "there is a current file"
        with self.explained():
            return self._tar.readinto(view)

    def close(self) -> None:
        """A reader of one file ends before the archive does."""

    def is_tar(self) -> bool:
        """True when the current file, unread so far, begins as a tar does."""
        return begins_as_tar(self._head)

    def peek(self, size: int) -> bytes:
        """The first *size* bytes of the current file, unread so far, if it has them."""
        assert self._tar is not None, "there is a current file"
        with self.explained():
            self._head += self._tar.read(size - len(self._head))
        return self._head

    def _keep(self, member: Member) -> bool:
        """Read the current file whole if it may be a document, and there is room."""
        assert self._tar is not None, "there is a current file"
        head = self._tar.read(BLOCK)
        self.index.heads[member.name] = head[:HEAD_SIZE]
        fits = member.size <= JSON_LIMIT and self.index.documents.has_room(member.size)
        if fits and _may_be_document(head):
            self._head = b""
            content = head + self._tar.read(member.size - len(head))
            self.index.keep(member.name, content)
            return True
        self._head = head
        return False

    def _drain(self) -> None:
        """Read to the end: a compressed file is sound only when its end is."""
        buffer = bytearray(_BUFFER)
        while self._source.readinto(buffer):
            pass

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Put the archive's name before whatever the ``with`` finds wrong."""
        try:
            yield
        except (ArchiveError, InvalidJSON, InvalidDigest) as error:
            text = str(error)
            named = text if text.startswith(self.name) else f"{self.name}: {text}"
            raise type(error)(named) from error
        except OSError as error:
            reason = reason_of(error)
            raise ArchiveError(f"{self.name}: cannot be read: {reason}") from error


def _told_layers(raw: bytes) -> dict[Digest, StoredBlob]:
    """What the document *raw*, if it is a manifest, says of blobs before they come.

    A hint: whether one is an image's layer. Its config may not be known yet, so a
    layer's own digest stands for the diff_id.
    """
    if b'"layers"' not in raw or b'"config"' not in raw:
        return {}
    try:
        manifest = Manifest.from_bytes(raw)
    except (InvalidJSON, InvalidDigest):
        return {}
    image = is_image(Descriptor.of("", raw), manifest)
    return {
        layer.digest: StoredBlob(
            None,
            layer.size,
            Compression.NONE,
            layer.digest,
            layer.digest if image else None,
            layer,
        )
        for layer in manifest.layers
    }


def _may_be_document(head: bytes) -> bool:
    """True unless what begins with *head* looks like a layer.

    Configs may be of any type (YAML, text), so it is not asked what they look like.
    """
    packed = compression_of(head) is not Compression.NONE
    is_json = head.lstrip()[:1] in (b"{", b"[")
    return len(head) < BLOCK or is_json or not (packed or begins_as_tar(head))


def is_lasting(path: str | os.PathLike[str]) -> bool:
    """True for a file, which can be read again; not for a pipe."""
    return str(path) != "-" and beginning(Path(path)).is_file()


def open_forward(
    path: str | os.PathLike[str], cancellation: Cancellation
) -> ForwardArchive:
    """The archive at *path*, ``-`` for standard input; it may be compressed.

    Raises NotFound, ArchiveError when it is no archive, UsageError when what unpacks
    it is not installed, Cancelled.
    """
    name = "standard input" if str(path) == "-" else str(path)
    return open_stream(_open_raw(path, name, cancellation), name)


def open_stream(file: io.RawIOBase, name: str) -> ForwardArchive:
    """The archive that *file* gives, plain or compressed. It is closed with it."""
    return ForwardArchive(name, _plain(file, name), file)


def open_plain(
    path: str | os.PathLike[str], cancellation: Cancellation
) -> io.RawIOBase:
    """The tar at *path* without its compression, as `open_forward` opens it."""
    name = "standard input" if str(path) == "-" else str(path)
    return _plain(_open_raw(path, name, cancellation), name)


def _plain(file: io.RawIOBase, name: str) -> io.RawIOBase:
    with contextlib.ExitStack() as stack:
        stack.callback(file.close)
        stack.push(lambda kind, error, trace: blame(error, file))
        head, source = peeked(file)
        if not head:
            raise ArchiveError(
                f"{name}: it is empty: the command that writes it may have failed"
            )
        compression = compression_of(head)
        if compression is not Compression.NONE:
            head, source = peeked(open_decompressed(source, compression, name=name))
        _check(head, name)
        stack.pop_all()
    return source


class IndexedArchive:
    """What a compressed file holds, after one pass over it.

    Documents can be read, and small layers as far as there is room for them. To be
    closed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        cancellation: Cancellation,
        visit: Callable[[ForwardArchive, Member], None],
    ) -> None:
        """*visit* may read each file that is no document.

        Raises what `open_forward` and reading it do.
        """
        self.path = Path(path)
        with contextlib.ExitStack() as stack:
            archive = stack.enter_context(open_forward(path, cancellation))
            self._kept = archive.index.documents
            for member in archive.files():
                cancellation.check()
                self._keep_small(archive, member)
                visit(archive, member)
            with archive.explained():
                self.images: tuple[StoredImage, ...] = archive.index.images()
            self._stack = stack.pop_all()

    def _keep_small(self, archive: ForwardArchive, member: Member) -> None:
        size = member.size
        if size <= JSON_LIMIT and self._kept.has_room(size, LAYERS_SHARE):
            self._kept.keep(member.name, archive.peek(size))

    def holds(self, image: StoredImage) -> bool:
        """True when every layer of *image* can be read."""
        return all(member in self._kept for member in layers_by_member(image))

    def open_at(self, member: str, offset: int = 0) -> io.BytesIO:
        """A reader of *member* from *offset* on.

        Raises ArchiveError for a layer for which the file would have to be unpacked.
        """
        if member not in self._kept:
            raise ArchiveError(
                f"{self.path}: {member} cannot be read alone from a compressed file; "
                "unpack the file first"
            )
        return self._kept.open_at(member, offset)

    def close(self) -> None:
        """Give temp space back."""
        self._stack.close()


def _check(head: bytes, name: str) -> None:
    try:
        check_tar(head, Path(name))
    except ArchiveError as error:
        raise ArchiveError(f"{name}: {error}") from error


def _open_raw(
    path: str | os.PathLike[str], name: str, cancellation: Cancellation
) -> io.RawIOBase:
    if str(path) == "-":
        return PipeReader(_STDIN, wake=cancellation.fileno(), check=cancellation.check)
    try:
        found = find(Path(path))
        if found is not None:
            return VolumesReader(Volumes(found))
        file = io.FileIO(os.fspath(path))
    except FileNotFoundError as error:
        raise NotFound(f"{name}: no such file or directory") from error
    except PermissionError as error:
        raise file_error(f"{name}: cannot be read", error) from error
    except OSError as error:
        raise ArchiveError(f"{name}: cannot be read: {reason_of(error)}") from error
    if Path(path).is_file():
        return file
    return PipeReader(
        file.fileno(),
        wake=cancellation.fileno(),
        check=cancellation.check,
        on_close=file.close,
    )
