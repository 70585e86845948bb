"""The one uploader: what it sends, what it checks, what it does when things break."""

from __future__ import annotations

import hashlib
import io
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dockerpush.cancellation import Cancellation
from dockerpush.errors import ArchiveError, Cancelled, ContentMismatch
from dockerpush.events import BytesSent
from dockerpush.oci import OCI_LAYER, Descriptor, Digest
from dockerpush.push import prepared
from dockerpush.push.prepared import CheckedContent, PreparedBlob


class Source(io.BytesIO):
    """Content that remembers where it was opened and how much was read."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.content = content
        self.opened: list[int] = []
        self.read_bytes = 0
        self.open_now = 0

    def open_at(self, offset: int) -> Reader:
        self.opened.append(offset)
        self.open_now += 1
        return Reader(self, offset)


class Reader:
    """One reader of a Source; gives at most 100,000 bytes at a time."""

    def __init__(self, source: Source, offset: int) -> None:
        self.source = source
        self.at = offset

    def readinto(self, buffer: memoryview) -> int:
        data = self.source.content[self.at : self.at + min(len(buffer), 100_000)]
        buffer[: len(data)] = data
        self.at += len(data)
        self.source.read_bytes += len(data)
        return len(data)

    def close(self) -> None:
        self.source.open_now -= 1


def noise(size: int, seed: int = 1) -> bytes:
    """*size* bytes that do not repeat."""
    return hashlib.shake_128(b"%d" % seed).digest(size)


def blob_of(content: bytes, source: Source | None = None) -> PreparedBlob:
    """*content* promised; *source* may give something else."""
    source = source or Source(content)
    return PreparedBlob("key", Descriptor.of(OCI_LAYER, content), source.open_at)


def content_of(
    content: bytes, source: Source | None = None, events: list | None = None
) -> CheckedContent:
    on_event = events.append if events is not None else lambda event: None
    return CheckedContent(blob_of(content, source), Cancellation(), on_event)


@pytest.fixture(autouse=True)
def closed_cancellations(monkeypatch):
    """Every Cancellation of a test is closed after it."""
    made = []
    real = Cancellation.__init__

    def remember(self):
        real(self)
        made.append(self)

    monkeypatch.setattr(Cancellation, "__init__", remember)
    yield
    for cancellation in made:
        cancellation.close()


SIZES = [0, 1, 2, 1000, prepared.PIECE - 1, prepared.PIECE, prepared.PIECE + 1, 700_001]


@pytest.mark.parametrize("size", SIZES)
def test_the_pieces_are_the_content(size):
    with content_of(noise(size)) as content:
        assert b"".join(bytes(p) for p in content.pieces(0, size)) == noise(size)
        content.verify()
        assert content.position == size


def test_one_buffer_serves_all_pieces_and_none_is_larger():
    size = 5 * prepared.PIECE + 17
    with content_of(noise(size)) as content:
        pieces = [(piece.obj, len(piece)) for piece in content.pieces(0, size)]
    assert len({id(owner) for owner, _ in pieces}) == 1
    assert max(count for _, count in pieces) == prepared.PIECE


def test_chunks_share_one_reader_and_bytes_are_read_once():
    source = Source(noise(1_000_000))
    with content_of(source.content, source) as content:
        for start in range(0, 1_000_000, 250_000):
            for _ in content.pieces(start, start + 250_000):
                pass
    assert source.opened == [0]
    assert source.read_bytes == 1_000_000
    assert source.open_now == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 900), st.integers(0, 900)), max_size=8))
def test_whatever_is_sent_again_the_hash_stays_right(ranges):
    """Any order of starts, ends and breaks: the bytes are right, and verified once."""
    data = noise(900)
    events: list[BytesSent] = []
    content = content_of(data, events=events)
    for start, end in ranges:
        got = b"".join(bytes(p) for p in content.pieces(start, max(start, end)))
        assert got == data[start : max(start, end)]
    assert b"".join(bytes(p) for p in content.pieces(0, 900)) == data
    content.verify()
    content.close()
    assert sum(event.count for event in events) == 900


def test_going_back_is_reported_as_a_negative_count():
    events: list[BytesSent] = []
    with content_of(noise(1000), events=events) as content:
        for _ in content.pieces(0, 600):
            pass
        for _ in content.pieces(200, 1000):
            pass
    assert [event.count for event in events] == [600, -400, 800]


def test_a_prefix_that_is_skipped_is_hashed_first():
    """A resumed session's first bytes were sent by another run; we check them too."""
    data = noise(3 * prepared.PIECE)
    with content_of(data, Source(b"x" + data[1:])) as content:
        content.start_at(2 * prepared.PIECE)
        with pytest.raises(ContentMismatch):
            for _ in content.pieces(2 * prepared.PIECE, len(data)):
                pass


@pytest.mark.parametrize("size", [1, 1000, prepared.PIECE, prepared.PIECE + 1])
def test_the_last_piece_of_other_bytes_is_withheld(size):
    """Nobody can close a blob that lacks its last piece."""
    data = noise(size)
    given = b""
    content = content_of(data, Source(noise(size, seed=2)))
    with content, pytest.raises(ContentMismatch, match=str(Digest.of(data))):
        for piece in content.pieces(0, size):
            given += bytes(piece)
    assert len(given) <= size - (size % prepared.PIECE or prepared.PIECE)


def test_a_blob_that_ends_early_is_named():
    data = noise(1000)
    content = content_of(data, Source(data[:900]))
    said = r"sha256:\w+: .*ends after 900"
    with content, pytest.raises(ContentMismatch, match=said):
        list(content.pieces(0, 1000))


def test_a_blob_that_goes_on_too_long_is_named():
    data = noise(1000)
    content = content_of(data, Source(data + b"x"))
    with content, pytest.raises(ContentMismatch, match="goes on after"):
        list(content.pieces(0, 1000))


def test_a_content_that_was_not_read_to_its_end_is_not_verified():
    with content_of(noise(1000)) as content:
        list(content.pieces(0, 999))
        with pytest.raises(ContentMismatch):
            content.verify()


def test_a_disk_that_fails_is_not_taken_for_the_network():
    class Broken(Reader):
        def readinto(self, buffer: memoryview) -> int:
            raise OSError(5, "Input/output error")

    source = Source(noise(1000))
    blob = PreparedBlob(
        "key",
        Descriptor.of(OCI_LAYER, source.content),
        lambda offset: Broken(source, offset),
    )
    source.open_now = 1
    content = CheckedContent(blob, Cancellation(), lambda event: None)
    with content, pytest.raises(ArchiveError, match="Input/output error"):
        list(content.pieces(0, 1000))
    assert source.open_now == 0


def test_cancelling_stops_between_two_pieces():
    cancellation = Cancellation()
    blob = blob_of(noise(4 * prepared.PIECE))
    with CheckedContent(blob, cancellation, lambda event: None) as content:
        pieces = content.pieces(0, content.size)
        next(pieces)
        cancellation.cancel("stop")
        with pytest.raises(Cancelled, match="stop"):
            next(pieces)


def test_reading_64_mib_takes_little_memory():
    """One buffer, no copies."""
    size = 64 * 1024 * 1024

    zero = bytes(1024 * 1024)
    hasher = hashlib.sha256()
    for _ in range(64):
        hasher.update(zero)
    descriptor = Descriptor(OCI_LAYER, Digest.from_hash(hasher), size)
    tracemalloc.start()
    try:
        blob = PreparedBlob("key", descriptor, lambda offset: EndingZeros(size, offset))
        with CheckedContent(blob, Cancellation(), lambda event: None) as content:
            for _ in content.pieces(0, size):
                pass
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * 1024 * 1024


class EndingZeros:
    """*size* zero bytes, from *offset* on."""

    def __init__(self, size: int, offset: int) -> None:
        self.left = size - offset

    def readinto(self, buffer: memoryview) -> int:
        count = min(len(buffer), self.left)
        self.left -= count
        return count

    def close(self) -> None:
        pass
