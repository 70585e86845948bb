"""Sparse members of a tar: files whose holes are not stored (``tar -S``, bsdtar).

The forms are those of the GNU tar manual (Storing Sparse Files): the old one of GNU,
whose map is in the header, and 0.0, 0.1 and 1.0, whose map is in PAX records or before
the content. Pure.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from typing import Callable, Iterable, Iterator, Mapping

from ..errors import ArchiveError

HOLES_LIMIT = 8 * 1024 * 1024 * 1024
"""Bytes that all the holes of an archive may have together, which take no room in it;
beside HOLES_PER_BYTE for each byte that its sparse members store."""

HOLES_PER_BYTE = 64

PIECES_LIMIT = 1 << 17
"""Pieces of stored bytes that all the sparse members of a tar may have together."""

_DIGITS = 19
"""Digits of the largest number in a map."""


class MapError(ArchiveError):
    """The map of a sparse file cannot be read."""


class SparseMap:
    """Where the stored bytes of a member belong; the rest of its *size* is zeros.

    *pieces* are offsets and lengths, ascending. *stored* is the bytes that the member
    has in the tar. Raises MapError for a map that contradicts itself.
    """

    __slots__ = ("_ends", "_places", "_starts", "holes", "size")

    def __init__(
        self, pieces: Iterable[tuple[int, int]], size: int, stored: int
    ) -> None:
        self.size = size
        self._starts, self._ends, self._places = array("q"), array("q"), array("q")
        end = place = 0
        for start, length in pieces:
            if start < end or start + length > size:
                raise MapError("the pieces of a sparse file overlap")
            end = start + length
            if length:
                self._starts.append(start)
                self._ends.append(end)
                self._places.append(place)
            place += length
        if place != stored:
            raise MapError(f"a sparse file has {stored} bytes, its map {place}")
        self.holes = size - place

    @property
    def pieces(self) -> int:
        """How many pieces are stored."""
        return len(self._starts)

    def fill(
        self, view: memoryview, position: int, read: Callable[[memoryview, int], int]
    ) -> int:
        """Fill *view* with content from *position* on; the count of bytes.

        *read* fills a view with stored bytes from an offset among them on.
        """
        view = view[: max(self.size - position, 0)]
        number = bisect_right(self._ends, position)
        start = self._starts[number] if number < self.pieces else self.size
        if position < start:
            count = min(len(view), start - position)
            view[:count] = bytes(count)
            return count
        if not view:
            return 0
        inside = position - start
        left = self._ends[number] - position
        return read(view[:left], self._places[number] + inside)


def pax_map(records: Mapping[str, str], stored: int) -> SparseMap | None:
    """The map in PAX *records*, forms 0.0 and 0.1; None when they have none."""
    if "GNU.sparse.map" not in records:
        return None
    numbers = [decimal(text) for text in records["GNU.sparse.map"].split(",") if text]
    return SparseMap(_pairs(numbers), real_size(records), stored)


def is_pax_1(records: Mapping[str, str]) -> bool:
    """True for form 1.0, whose map stands before the content."""
    return records.get("GNU.sparse.major") == "1" and "GNU.sparse.realsize" in records


def leading_map(
    records: Mapping[str, str], blocks: Iterator[bytes], stored: int
) -> SparseMap:
    """The map that *blocks*, which are taken one by one, begin with: form 1.0.

    *stored* is bytes, those of the map included.
    """
    numbers: list[int] = []
    wanted, rest = 1, b""
    while len(numbers) < wanted:
        block = next(blocks, b"")
        stored -= len(block)
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            numbers.append(decimal(line.decode("latin-1")))
            if len(numbers) == 1:
                wanted += 2 * checked_count(numbers[0])
            if len(numbers) == wanted:
                break
        if not block or (len(rest) > _DIGITS and len(numbers) < wanted):
            raise MapError("the map of a sparse file is cut")
    return SparseMap(_pairs(numbers[1:]), real_size(records), stored)


def real_size(records: Mapping[str, str]) -> int:
    """Bytes that the member has with its holes."""
    text = records.get("GNU.sparse.realsize") or records.get("GNU.sparse.size") or ""
    return decimal(text)


def decimal(text: str) -> int:
    """A number in a map. Raises MapError."""
    if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS):
        raise MapError(f"the map of a sparse file has no number: {text[:40]!r}")
    return int(text)


def checked_count(count: int) -> int:
    """*count* pieces, when an archive may have as many."""
    if count > PIECES_LIMIT:
        raise ArchiveError(f"its sparse files have more than {PIECES_LIMIT} pieces")
    return count


class SparseBudget:
    """What the sparse members of one tar may take."""

    def __init__(self) -> None:
        self._pieces = self._holes = self._stored = 0

    def take(self, found: SparseMap) -> None:
        """Count *found*. Raises ArchiveError when all of them are too much."""
        self._pieces += found.pieces
        self._holes += found.holes
        self._stored += found.size - found.holes
        checked_count(self._pieces)
        if self._holes > HOLES_LIMIT + HOLES_PER_BYTE * self._stored:
            raise ArchiveError(
                f"its sparse files have {self._holes} bytes of holes, more than an "
                "image should have; pack it again without -S if it is yours"
            )


def _pairs(numbers: list[int]) -> Iterator[tuple[int, int]]:
    if len(numbers) % 2:
        raise MapError("the map of a sparse file is cut")
    return zip(numbers[::2], numbers[1::2])
