"""Archives, opened: what images a file or directory holds, and readers of its bytes."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from types import TracebackType
from typing import Iterator, Mapping, Union

from ..errors import ArchiveError, InvalidDigest, InvalidJSON, NotFound
from ..oci import JSON_LIMIT
from .assemble import assemble, referrers
from .member_names import quoted
from .sniff import HEAD_SIZE, refuse_stream
from .stored import StoredImage
from .tar import TarSource
from .unpacked import DirectorySource

Source = Union[TarSource, DirectorySource]


class Archive:
    """An open archive. Close it, or use it in a ``with``, when all readers are done.

    *path* is what was opened, *images* what it holds, in its order, never none.
    """

    def __init__(
        self, path: Path, source: Source, images: tuple[StoredImage, ...]
    ) -> None:
        self.path = path
        self.images = images
        self._source = source

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

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

    def close(self) -> None:
        """Give the file back; open readers of a tar end with it."""
        self._source.close()


def open_archive(path: str | os.PathLike[str]) -> Archive:
    """The archive at *path*, a plain tar or a directory.

    Reads headers and small JSON, no layer. Raises NotFound when there is no such file;
    ArchiveError, InvalidJSON or InvalidDigest, which name *path* and what is wrong.
    """
    path = Path(path)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_errors_about(path))
        if str(path) == "-":
            refuse_stream()
        source = _open_source(path)
        stack.callback(source.close)
        images = assemble(
            source.members,
            _Beginnings(source, JSON_LIMIT),
            _Beginnings(source, HEAD_SIZE),
        )
        stack.pop_all()
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
    except OSError as error:
        reason = error.strerror or str(error)
        raise ArchiveError(f"{path}: cannot be read: {reason}") from error
