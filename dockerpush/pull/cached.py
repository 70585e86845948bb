"""An image of the cache as an archive, so that it can be pushed like one."""

from __future__ import annotations

import io
from typing import Iterator, Mapping

from ..archive.assemble import assemble
from ..archive.layout import FULL_NAME
from ..archive.model import Kind, Member, StoredImage
from ..archive.sniff import HEAD_SIZE
from ..archive.window import Window
from ..cache import Cache
from ..errors import ArchiveError
from ..oci import JSON_LIMIT, OCI_INDEX, Descriptor, Digest, Index
from ..system import SharedFile

_INDEX = "index.json"


class CachedArchive:
    """The image *root* of *cache* under the name *reference*.

    Raises ArchiveError and InvalidJSON for documents that cannot be understood.
    """

    def __init__(self, cache: Cache, root: Descriptor, reference: str) -> None:
        self.path = cache.directory
        self._cache = cache
        named = Descriptor(
            root.media_type, root.digest, root.size, {FULL_NAME: reference}
        )
        index = Index(OCI_INDEX, (named,)).to_bytes()
        self._digests: dict[str, Digest] = {}
        members = {_INDEX: Member(_INDEX, Kind.FILE, len(index))}
        for digest, descriptor in cache.reachable(root).items():
            if cache.has(descriptor):
                name = f"blobs/{digest.algorithm}/{digest.hex}"
                members[name] = Member(name, Kind.FILE, descriptor.size)
                self._digests[name] = digest
        self._members = members
        self.images: tuple[StoredImage, ...] = assemble(
            members,
            _Beginnings(self, JSON_LIMIT, {_INDEX: index}),
            _Beginnings(self, HEAD_SIZE, {_INDEX: index}),
        )

    def open_at(self, member: str, offset: int = 0) -> io.RawIOBase:
        """A reader of the blob *member* from *offset* on, which the caller closes.

        Raises ArchiveError when it is not there any more.
        """
        path = self._cache.path_of(self._digests[member])
        try:
            file = SharedFile.open(path)
        except OSError as error:
            raise ArchiveError(
                f"{path}: {error.strerror}; pull the image again"
            ) from error
        size = self._members[member].size
        return Window(file, offset, size - offset, member, on_close=file.close)

    def beginning(self, member: str, limit: int) -> bytes:
        """The first *limit* bytes of *member*, fewer when it is shorter."""
        content = bytearray(min(self._members[member].size, limit))
        with self.open_at(member) as reader:
            view = memoryview(content)
            while view:
                view = view[reader.readinto(view) or 0 :]
        return bytes(content)

    def names(self) -> Iterator[str]:
        """The names of all members."""
        return iter(self._members)


class _Beginnings(Mapping[str, bytes]):
    """The first *limit* bytes of members, read when they are asked for."""

    def __init__(
        self, archive: CachedArchive, limit: int, made: Mapping[str, bytes]
    ) -> None:
        self._archive = archive
        self._limit = limit
        self._made = made

    def __getitem__(self, name: str) -> bytes:
        if name in self._made:
            return self._made[name]
        return self._archive.beginning(name, self._limit)

    def __iter__(self) -> Iterator[str]:
        return self._archive.names()

    def __len__(self) -> int:
        return sum(1 for _ in self._archive.names())
