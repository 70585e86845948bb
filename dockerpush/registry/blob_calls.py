"""The endpoints for blobs that are there: look, read, delete."""

from __future__ import annotations

from types import TracebackType

from ..errors import ContentMismatch, NotFoundInRegistry, TransientError
from ..oci import Descriptor, Digest
from .calls import Caller
from .debug import show_url
from .looks import unless_refused
from .transport import PIECE, Response


class BlobReader:
    """The bytes of a blob as they come; *size* is that of the whole, if it is known."""

    def __init__(self, response: Response, size: int | None, *, skip: int = 0) -> None:
        self._response = response
        self._skip = skip
        self.size = size

    @classmethod
    def at(cls, response: Response, offset: int) -> BlobReader:
        """From the answer to a request for all bytes from *offset* on.

        A server that does not know ranges sends everything, of which the beginning is
        then passed over. Raises TransientError for another range than was asked for.
        """
        if response.status == 416 and offset:
            response.close()
            return cls(response, offset)
        if response.status != 206:
            return cls(response, response.size, skip=offset)
        told = (response.header("Content-Range") or "").strip()
        start, _, total = told.partition(" ")[2].partition("/")
        if start.partition("-")[0] != str(offset):
            response.close()
            raise TransientError(
                f"GET {show_url(response.url)}: asked for byte {offset}, got {told!r}"
            )
        return cls(response, int(total) if total.isdigit() else None)

    def __enter__(self) -> BlobReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def readinto(self, buffer: memoryview) -> int:
        """Fill *buffer* as far as the next bytes go; 0 at the end.

        Raises TransientError when the connection breaks, Cancelled.
        """
        while self._skip:
            scratch = memoryview(bytearray(min(PIECE, self._skip)))
            count = self._response.readinto(scratch)
            if not count:
                return 0
            self._skip -= count
        return self._response.readinto(buffer)

    def read(self, size: int = PIECE) -> bytes:
        """At most *size* bytes, b"" at the end."""
        buffer = bytearray(size)
        return bytes(buffer[: self.readinto(memoryview(buffer))])

    def close(self) -> None:
        """Give the connection back."""
        self._response.close()


class BlobCalls(Caller):
    """Blobs that a repository holds (distribution-spec, Pulling blobs)."""

    def blob_size(self, repository: str, digest: Digest) -> int | None:
        """Bytes of the blob *digest* in *repository*; None when it is not there."""
        call = self._call("HEAD", repository, f"blobs/{digest}", (200,))
        what = f"looking for blob {digest.short}"
        try:
            with self._sent(call, what) as response:
                size = response.size
        except NotFoundInRegistry:
            return None
        return size if size is not None else self._size_by_reading(repository, digest)

    def has_blob(self, repository: str, blob: Descriptor) -> bool:
        """True when *repository* holds *blob*, all of it, as far as can be told.

        A look that only saves work: one that is refused tells nothing.
        """
        size = unless_refused(lambda: self.blob_size(repository, blob.digest))
        return size == blob.size

    def _size_by_reading(self, repository: str, digest: Digest) -> int | None:
        """For a registry that answers HEAD without Content-Length."""
        with self.open_blob(repository, digest) as reader:
            return reader.size

    def open_blob(self, repository: str, digest: Digest, offset: int = 0) -> BlobReader:
        """The bytes of the blob from *offset* on, not verified; the caller closes it.

        Reading them raises TransientError when the connection breaks.
        """
        wanted = {"Range": f"bytes={offset}-"} if offset else {}
        call = self._call(
            "GET", repository, f"blobs/{digest}", (200, 206, 416), headers=wanted
        )
        response = self._sent(call, f"reading blob {digest.short}")
        return BlobReader.at(response, offset)

    def read_blob(self, repository: str, descriptor: Descriptor) -> bytes:
        """The whole of a small blob, verified.

        Raises ContentMismatch when it is not what *descriptor* says.
        """
        digest = descriptor.digest

        def read() -> bytes:
            content = bytearray()
            with self.open_blob(repository, digest) as reader:
                while len(content) <= descriptor.size and (piece := reader.read()):
                    content += piece
            return bytes(content)

        content = self._retrying(read, f"reading blob {digest.short}")
        if Digest.of(content) != digest:
            raise ContentMismatch(f"blob {digest}: the registry sent something else")
        return content

    def delete_blob(self, repository: str, digest: Digest) -> None:
        """Delete the blob *digest* (distribution-spec, Deleting Blobs)."""
        call = self._call(
            "DELETE", repository, f"blobs/{digest}", (200, 202, 204), actions="delete"
        )
        self._done(call, f"deleting blob {digest.short}")
