"""Compressed streams read forward, with bounded memory, whatever they claim to be.

A `StreamReader` drives a `Decoder` (the shape of `bz2.BZ2Decompressor`) over a file
that need not be seekable: one stream after another, zeros after the last one allowed,
anything else after it refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable, Protocol

from ..errors import ArchiveError
from ..system.streams import RawReader
from ..values import value

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

PIECE = 128 * 1024
"""Bytes of one step: what is read at a time, and about what comes out at a time."""


class Readable(Protocol):
    """What can be read forward."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill *buffer* from its start; the count of bytes, 0 at the end."""

    def close(self) -> None:
        """Give back what the reader holds."""


class Decoder(Protocol):
    """One compressed stream, fed piece by piece."""

    @property
    def eof(self) -> bool:
        """True once the stream has ended, and its checksum was right."""

    @property
    def needs_input(self) -> bool:
        """True when the next step cannot do without more input."""

    @property
    def unused_data(self) -> bytes:
        """What was fed and lies behind the end of the stream."""

    def decompress(self, data: memoryview | bytes, max_length: int) -> bytes:
        """The next output, *max_length* bytes at the most (at least one block)."""


@value
class Format:
    """A kind of compression: how it begins, what decodes it, what that raises."""

    name: str
    magics: tuple[bytes, ...]
    decoder: Callable[[], Decoder]
    errors: tuple[type[Exception], ...]


class StreamReader(RawReader):
    """The content of a compressed *file*; closing it closes *file*.

    *name* stands in errors. Reading raises ArchiveError when the file is truncated, is
    corrupt, wants too much memory, or continues with something else.
    """

    def __init__(self, file: Readable, kind: Format, name: str) -> None:
        super().__init__()
        self._file = file
        self._kind = kind
        self._name = name
        self._decoder = kind.decoder()
        self._buffer = memoryview(bytearray(PIECE))
        self._fed: memoryview | bytes = b""  # read, and not given to the decoder yet
        self._ready = memoryview(b"")
        self._ended = False

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill *buffer* from its start; the count of bytes, 0 at the end."""
        view = memoryview(buffer).cast("B")
        if not self._ready and view:
            self._ready = memoryview(self._next())
        count = min(len(view), len(self._ready))
        view[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def close(self) -> None:
        """Close the file below as well."""
        if not self.closed:
            super().close()
            self._file.close()

    def _next(self) -> bytes:
        """The next output; nothing at the end of the file."""
        while not self._ended:
            if self._decoder.eof:
                self._next_stream()
                continue
            data: memoryview | bytes = b""
            if self._decoder.needs_input:
                data, self._fed = self._fed or self._read(), b""
                if not data:
                    raise self._error("is truncated: get or save it again")
            output = self._decode(data)
            if output:
                return output
        return b""

    def _decode(self, data: memoryview | bytes) -> bytes:
        try:
            return self._decoder.decompress(data, PIECE)
        except self._kind.errors as error:
            raise self._error(
                f"cannot be unpacked ({error}): get it again, or unpack it first"
            ) from error

    def _next_stream(self) -> None:
        """Begin the stream that follows, or end when only zeros do."""
        rest = self._decoder.unused_data.lstrip(b"\0")
        wanted = max(map(len, self._kind.magics))
        while len(rest) < wanted:
            more = bytes(self._read())
            if not more:
                break
            rest = (rest + more).lstrip(b"\0")
        if not rest:
            self._ended = True
        elif rest.startswith(self._kind.magics):
            self._decoder = self._kind.decoder()
            self._fed = rest
        else:
            raise self._error("is followed by something else: get or save it again")

    def _read(self) -> memoryview:
        return self._buffer[: self._file.readinto(self._buffer) or 0]

    def _error(self, problem: str) -> ArchiveError:
        return ArchiveError(f"{self._name}: the {self._kind.name} stream {problem}")
