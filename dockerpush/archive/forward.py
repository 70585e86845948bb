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
from typing import TYPE_CHECKING, Iterator

from ..errors import ArchiveError, InvalidDigest, InvalidJSON, NotFound
from ..oci import JSON_LIMIT
from ..system.cancellation import Cancellation
from ..system.processes import PipeReader
from ..values import field, record
from .assemble import assemble
from .decompress import open_decompressed, peeked
from .headers import BLOCK, TarStream, is_header
from .sniff import HEAD_SIZE, check_tar, compression_of
from .stored import Compression, Kind, Member, StoredImage

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

DOCUMENTS_LIMIT = 16 * 1024 * 1024
"""Bytes that all JSON members together may have in memory."""

_BUFFER = 128 * 1024
_STDIN = 0


@record
class Index:
    """What `assemble` needs of the members that went by."""

    members: dict[str, Member] = field(default_factory=dict)
    documents: dict[str, bytes] = field(default_factory=dict)
    heads: dict[str, bytes] = field(default_factory=dict)
    size: int = 0

    def images(self) -> tuple[StoredImage, ...]:
        """Raises ArchiveError, InvalidJSON, InvalidDigest."""
        return assemble(self.members, self.documents, self.heads)

    def forget(self, name: str) -> None:
        """A member of this name comes again: the last one counts."""
        self.size -= len(self.documents.pop(name, b""))
        self.heads.pop(name, None)


class ForwardArchive:
    """The members of an archive in order, each with its content, once.

    Iterate to get members; a file's content is read by `readinto` until the next step,
    unless `is_document` keeps it. *name* stands in errors.
    """

    def __init__(self, name: str, source: io.RawIOBase) -> None:
        self.name = name
        self.index = Index()
        self._source = source
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
        self._source.close()

    def files(self) -> Iterator[Member]:
        """The files that are no JSON, in order; everything else goes to `index`.

        Raises ArchiveError, which names the archive and what is wrong with it.
        """
        with self.explained():
            self._tar = TarStream(io.BufferedReader(self._source, _BUFFER))
            for member in self._tar:
                self.index.forget(member.name)
                self.index.members[member.name] = member
                if member.kind is Kind.FILE and not self._keep(member):
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
        return is_header(self._head) or not any(self._head)

    def _keep(self, member: Member) -> bool:
        """Read the current file whole if it is JSON, or tiny, and there is room."""
        assert self._tar is not None, "there is a current file"
        head = self._tar.read(BLOCK)
        self.index.heads[member.name] = head[:HEAD_SIZE]
        is_json = head.lstrip()[:1] in (b"{", b"[") or member.size < BLOCK
        fits = member.size <= min(JSON_LIMIT, DOCUMENTS_LIMIT - self.index.size)
        if is_json and fits:
            content = head + self._tar.read(member.size - len(head))
            self.index.documents[member.name] = content
            self.index.size += len(content)
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
            reason = error.strerror or str(error)
            raise ArchiveError(f"{self.name}: cannot be read: {reason}") from error


def is_lasting(path: str | os.PathLike[str]) -> bool:
    """True for a file, which can be read again; not for a pipe."""
    return str(path) != "-" and Path(path).is_file()


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
    with contextlib.ExitStack() as stack:
        stack.callback(file.close)
        head, source = peeked(file)
        if not head:
            raise ArchiveError(f"{name}: nothing came; the writer may have failed")
        compression = compression_of(head)
        if compression is not Compression.NONE:
            head, source = peeked(open_decompressed(source, compression, name=name))
        _check(head, name)
        stack.pop_all()
    return ForwardArchive(name, source)


class IndexedArchive:
    """What a compressed file holds, after one pass over it; layers cannot be read."""

    def __init__(
        self, path: str | os.PathLike[str], cancellation: Cancellation
    ) -> None:
        """Raises what `open_forward` and reading it do."""
        self.path = Path(path)
        with open_forward(path, cancellation) as archive:
            for _ in archive.files():
                cancellation.check()
            with archive.explained():
                self.images: tuple[StoredImage, ...] = archive.index.images()

    def open_at(self, member: str, offset: int = 0) -> io.RawIOBase:
        """Raises ArchiveError: the file would have to be unpacked up to there."""
        raise ArchiveError(
            f"{self.path}: compressed, {member} cannot be read by itself"
        )


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
        file = io.FileIO(os.fspath(path))
    except FileNotFoundError as error:
        raise NotFound(f"{name}: no such file or directory") from error
    except OSError as error:
        raise ArchiveError(f"{name}: cannot be read: {error.strerror}") from error
    if Path(path).is_file():
        return file
    return PipeReader(
        file.fileno(),
        wake=cancellation.fileno(),
        check=cancellation.check,
        on_close=file.close,
    )
