"""Opened archives: what images a file or directory holds, and readers of its bytes.

A directory is an OCI layout, ``dir:``, or an unpacked tar. Links in it are followed
while they stay in it. A link that leaves it is a member that nobody can read; an image
that does not need it can still be pushed.
"""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from typing import Callable, Iterator, Mapping, TypeVar, Union

from ..errors import (
    ArchiveError,
    InvalidDigest,
    InvalidJSON,
    NotFound,
    PusherError,
    file_error,
    reason_of,
)
from ..oci import JSON_LIMIT, Descriptor, Digest, Index
from ..system.files import SharedFile
from ..system.streams import Closeable
from .assemble import assemble, referrers
from .contents import Contents, check_bytes, path_of
from .docker import MANIFEST_JSON
from .headers import HEADER_LIMIT, quoted
from .layout import INDEX_JSON, merged_roots
from .needs import missing_needs
from .sniff import HEAD_SIZE, refuse_stream
from .stored import Member, MemberKind, StoredImage, StoredOther
from .tar import TarSource, Window

DEPTH_LIMIT = 4
"""Folders below the directory; ``blobs/sha256/HEX`` and ``ID/layer.tar`` need fewer."""

_MARKERS = ("index.json", "manifest.json", "oci-layout", "repositories")


class DirectorySource:
    """The files of the directory at *path*, each opened again by every reader.

    Raises OSError when it cannot be listed, ArchiveError when it is no archive.
    """

    def __init__(self, path: Path) -> None:
        self._root = _real(path)
        self.members: dict[str, Member] = {}
        if not any((path / name).exists() for name in _MARKERS):
            raise ArchiveError(
                "the directory holds no image: wanted index.json or manifest.json in it"
            )
        for member in self._walk(self._root, "", 0):
            self.members[member.name] = member
            if len(self.members) > HEADER_LIMIT:
                raise ArchiveError(f"more than {HEADER_LIMIT} files below it")

    def open_member(self, member: Member, offset: int) -> io.RawIOBase:
        """A reader of *member* from *offset* on, with a file handle of its own."""
        path = _real(self._root / member.name)
        if not self._holds(path):
            raise ArchiveError(f"{quoted(member.name)}: a {MemberKind.OUTSIDE.value}")
        try:
            file = SharedFile.open(path)
        except OSError as error:
            reason = reason_of(error)
            raise ArchiveError(
                f"{quoted(member.name)}: cannot be read: {reason}"
            ) from error
        return Window(
            file, offset, member.size - offset, member.name, on_close=file.close
        )

    def blame(self, error: object) -> None:
        """Do nothing: files have no volumes."""

    def close(self) -> None:
        """Do nothing: every reader has a file of its own."""

    def _walk(self, folder: Path, prefix: str, depth: int) -> Iterator[Member]:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = prefix + entry.name
                member = self._member(entry, name)
                yield member
                if member.kind is MemberKind.DIRECTORY and depth < DEPTH_LIMIT:
                    yield from self._walk(Path(entry.path), name + "/", depth + 1)

    def _member(self, entry: os.DirEntry[str], name: str) -> Member:
        if entry.is_symlink() and not self._holds(_real(entry.path)):
            return Member(name, MemberKind.OUTSIDE)
        with contextlib.suppress(OSError):  # a loop of links, or a file that went away
            if entry.is_dir():
                return Member(name, MemberKind.DIRECTORY)
            if entry.is_file():
                return Member(name, MemberKind.FILE, entry.stat().st_size)
        return Member(name, MemberKind.OTHER)

    def _holds(self, path: Path) -> bool:
        return path == self._root or self._root in path.parents


def _real(path: str | Path) -> Path:
    """*path* without links; `Path.resolve` fails on loops before Python 3.13."""
    return Path(os.path.realpath(path))


Source = Union[TarSource, DirectorySource]


class _Opened(Closeable):
    """What was opened at *path*; close it when all readers are done."""

    def __init__(self, path: Path, source: Source) -> None:
        self.path = path
        self._source = source

    def __exit__(self, *why: object) -> None:
        self._source.blame(why[1])
        super().__exit__()

    @contextlib.contextmanager
    def blaming(self) -> Iterator[None]:
        """Add to an error about content which volumes are damaged.

        This is for callers that continue with other images. For all others the end of
        the ``with`` does it.
        """
        try:
            yield
        except PusherError as error:
            self._source.blame(error)
            raise

    def close(self) -> None:
        """Give the file back; open readers of a tar end with it."""
        self._source.close()


class Archive(_Opened):
    """An open archive.

    *path* is what was opened, *images* what it holds, in its order, never none.
    """

    def __init__(
        self, path: Path, source: Source, images: tuple[StoredImage, ...]
    ) -> None:
        super().__init__(path, source)
        self.images = images

    def open_at(self, member: str, offset: int = 0) -> io.RawIOBase:
        """A reader of the file *member* from *offset* on, which the caller closes.

        *member* is what a `StoredBlob` says. Readers are independent of each other; any
        thread may open one. Raises ArchiveError, which names the member, when it is not
        there, or when the archive ends before it does.
        """
        found = self._source.members.get(member)
        if found is None or not 0 <= offset <= found.size:
            raise ArchiveError(
                f"{self.path}: there is no byte {offset} of {quoted(member)}"
            )
        return self._source.open_member(found, offset)

    def referrers(self) -> tuple[StoredImage, ...]:
        """What is no image but about one that is there, as a signature is.

        Raises as `open_archive` does.
        """
        with _errors_about(self.path):
            return referrers(
                self._source.members,
                _Beginnings(self._source, JSON_LIMIT),
                _Beginnings(self._source, HEAD_SIZE),
            )


class OpenLayout(_Opened):
    """An open OCI layout, whole or a delta, whose blobs are read by their digests.

    *entries* are those of its ``index.json``. *needs* is what a delta says that it
    lacks, as far as it does.
    """

    def __init__(self, path: Path, source: Source) -> None:
        """Raises ArchiveError, InvalidJSON, InvalidDigest, OSError."""
        super().__init__(path, source)
        self._documents = _Beginnings(source, JSON_LIMIT)
        if INDEX_JSON not in source.members:
            raise ArchiveError("no OCI layout: it has no index.json")
        self.entries = Index.from_bytes(self._documents[INDEX_JSON]).manifests
        self.needs = missing_needs(_contents(source))

    @property
    def is_docker(self) -> bool:
        """True when it is a docker-archive as well."""
        return MANIFEST_JSON in self._source.members

    @property
    def images(self) -> tuple[StoredImage, ...]:
        """What *entries* name, each once; nothing of them is read."""
        nodes = [StoredOther(entry, None, ()) for entry in self.entries]
        return tuple(
            StoredImage(root.names, root.tags, None, StoredOther(one, None, ()))
            for root in merged_roots(self.entries, nodes)
            if (one := root.node.descriptor)
        )

    def has(self, blob: Descriptor) -> bool:
        """True when *blob* is there, in its full size."""
        member = self._source.members.get(path_of(blob.digest))
        return member is not None and member.size == blob.size

    def document(self, descriptor: Descriptor) -> bytes:
        """The manifest *descriptor*, checked. Raises ArchiveError."""
        name = path_of(descriptor.digest)
        if not self.has(descriptor) or descriptor.size > JSON_LIMIT:
            raise ArchiveError(f"{self.path}: there is no manifest {descriptor.digest}")
        with _errors_about(self.path):
            raw = self._documents[name]
            check_bytes(raw, descriptor.digest, name)
        return raw

    def open_at(self, digest: Digest, offset: int = 0) -> io.RawIOBase:
        """A reader of the blob from *offset* on, as that of an archive."""
        member = self._source.members.get(path_of(digest))
        if member is None or not 0 <= offset <= member.size:
            raise ArchiveError(f"{self.path}: there is no byte {offset} of {digest}")
        return self._source.open_member(member, offset)


def _contents(source: Source) -> Contents:
    documents, heads = _Beginnings(source, JSON_LIMIT), _Beginnings(source, HEAD_SIZE)
    return Contents(source.members, documents, heads)


def open_layout(path: str | os.PathLike[str]) -> OpenLayout:
    """The OCI layout at *path*, a plain tar or a directory, whole or a delta.

    Raises as `open_archive` does.
    """
    return _opened(Path(path), lambda source: OpenLayout(Path(path), source))


def open_any(path: str | os.PathLike[str]) -> Archive | OpenLayout:
    """As `open_archive`, and a delta as the layout that it is."""

    def opened(source: Source) -> Archive | OpenLayout:
        if missing_needs(_contents(source)):
            return OpenLayout(Path(path), source)
        return _archive(Path(path), source)

    return _opened(Path(path), opened)


def open_archive(path: str | os.PathLike[str]) -> Archive:
    """The archive at *path*, a plain tar, its first volume, or a directory.

    Reads headers and small JSON, no layer. Raises NotFound when there is no such file;
    ArchiveError, InvalidJSON or InvalidDigest, which name *path* and what is wrong.
    """
    return _opened(Path(path), lambda source: _archive(Path(path), source))


Opened = TypeVar("Opened")


def _opened(path: Path, make: Callable[[Source], Opened]) -> Opened:
    with contextlib.ExitStack() as stack:
        stack.enter_context(_errors_about(path))
        if str(path) == "-":
            refuse_stream()
        source = _open_source(path)
        stack.callback(source.close)
        stack.push(lambda kind, error, trace: source.blame(error))
        found = make(source)
        stack.pop_all()
    return found


def _archive(path: Path, source: Source) -> Archive:
    documents = _Beginnings(source, JSON_LIMIT)
    images = assemble(source.members, documents, _Beginnings(source, HEAD_SIZE))
    return Archive(path, source, images)


def _open_source(path: Path) -> Source:
    if path.is_dir():
        return DirectorySource(path)
    if path.exists() and not path.is_file():
        raise ArchiveError(
            "not a regular file; write what it gives to a file first, and push that"
        )
    return TarSource(path)


class _Beginnings(Mapping[str, bytes]):
    """The first *limit* bytes of members, read when they are asked for."""

    def __init__(self, source: Source, limit: int) -> None:
        self._source = source
        self._limit = limit

    def __getitem__(self, name: str) -> bytes:
        member = self._source.members[name]
        content = bytearray(min(member.size, self._limit))
        with self._source.open_member(member, 0) as reader:
            view = memoryview(content)
            while view:
                view = view[reader.readinto(view) :]
        return bytes(content)

    def __iter__(self) -> Iterator[str]:
        return iter(self._source.members)

    def __len__(self) -> int:
        return len(self._source.members)


@contextlib.contextmanager
def _errors_about(path: Path) -> Iterator[None]:
    """Put *path* before whatever the ``with`` finds wrong."""
    try:
        yield
    except (ArchiveError, InvalidJSON, InvalidDigest) as error:
        raise type(error)(f"{path}: {error}") from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(f"{path}: no such file or directory") from error
    except PermissionError as error:
        raise file_error(f"{path}: cannot be read", error) from error
    except OSError as error:
        reason = reason_of(error)
        raise ArchiveError(f"{path}: cannot be read: {reason}") from error
