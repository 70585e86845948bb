"""A blob that is received into its place, from sources that break and lie."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Iterator

import pytest

from dockerpush.errors import Cancelled, ContentMismatch, NetworkError
from dockerpush.events import BlobFinished, BytesSent, Event, Outcome, Retrying
from dockerpush.oci import OCI_LAYER, Descriptor
from dockerpush.state.blobs import BlobDirectory, BlobPlace, receive, receive_partial
from dockerpush.system.cancellation import Cancellation

CONTENT = random.Random(1).randbytes(700_000)
BLOB = Descriptor.of(OCI_LAYER, CONTENT)


class Giving:
    """A source that gives each of *contents* in turn, the last one ever after.

    *asked* are the offsets it was opened at; a reader breaks at the byte *breaks*.
    """

    def __init__(self, *contents: bytes, breaks: int | None = None) -> None:
        self.asked: list[int] = []
        self.closed = 0
        self._contents = list(contents)
        self._breaks = breaks

    def __call__(self, offset: int) -> Giving:
        self.asked.append(offset)
        content = self._contents[0]
        if len(self._contents) > 1:
            del self._contents[0]
        self._rest = io.BytesIO(content[offset:])
        self._at = offset
        return self

    def readinto(self, buffer: memoryview) -> int:
        if self._breaks is not None:
            buffer = buffer[: self._breaks - self._at]
            if not buffer:
                raise NetworkError("the connection broke")
        count = self._rest.readinto(buffer)
        self._at += count
        return count

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def cancellation() -> Iterator[Cancellation]:
    with Cancellation() as cancellation:
        yield cancellation


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def got(cancellation, events):
    """Receive from a source into a place."""

    def run(source: Giving, place: BlobPlace, blob: Descriptor = BLOB) -> int:
        return receive(
            blob, source, place, cancellation=cancellation, on_event=events.append
        )

    return run


def told(events: list[Event]) -> int:
    return sum(event.count for event in events if isinstance(event, BytesSent))


def test_it_lies_where_it_shall_and_nothing_around_it_is_touched(got, events):
    file = io.BytesIO(b"x" * (len(CONTENT) + 200))
    written: list[int] = []
    place = BlobPlace(file, start=100, on_written=written.append)
    source = Giving(CONTENT)
    assert got(source, place) == len(CONTENT)
    assert file.getvalue() == b"x" * 100 + CONTENT + b"x" * 100
    assert written == sorted(written)
    assert written[-1] == len(CONTENT)
    assert source.closed == 1
    assert told(events) == len(CONTENT)
    assert isinstance(events[-1], BlobFinished)
    assert events[-1].outcome is Outcome.UPLOADED


@pytest.mark.parametrize("have", [1, 300_000, len(CONTENT) - 1])
def test_what_is_there_is_not_asked_for_again(have, got):
    file = io.BytesIO(b"x" * 9 + CONTENT[:have])
    source = Giving(CONTENT)
    assert got(source, BlobPlace(file, start=9, have=have)) == len(CONTENT) - have
    assert source.asked == [have]
    assert file.getvalue()[9:] == CONTENT


def test_what_is_all_there_needs_no_source(got):
    source = Giving(b"")
    assert got(source, BlobPlace(io.BytesIO(CONTENT), have=len(CONTENT))) == 0
    assert source.asked == []


def test_a_beginning_that_is_wrong_is_fetched_once_more_whole(got, events):
    file = io.BytesIO(b"wrong" * 20_000)
    source = Giving(CONTENT)
    assert got(source, BlobPlace(file, have=100_000)) == 2 * len(CONTENT) - 100_000
    assert source.asked == [100_000, 0]
    assert file.getvalue() == CONTENT
    assert told(events) == len(CONTENT)
    assert any(isinstance(event, Retrying) for event in events)


def test_less_is_there_than_was_promised(got):
    file = io.BytesIO(CONTENT[:1000])
    source = Giving(CONTENT)
    got(source, BlobPlace(file, have=5000))
    assert source.asked == [1000]
    assert file.getvalue() == CONTENT


WRONG = {
    "flipped": b"y" + CONTENT[1:],
    "short": CONTENT[:-1],
    "long": CONTENT + b"more",
    "endless": CONTENT * 3,
    "nothing": b"",
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_twice_is_refused(wrong, got):
    file = io.BytesIO(b"x" * (len(CONTENT) + 100))
    written: list[int] = []
    source = Giving(WRONG[wrong])
    with pytest.raises(ContentMismatch, match=str(BLOB.digest)):
        got(source, BlobPlace(file, on_written=written.append))
    assert file.getvalue()[len(CONTENT) :] == b"x" * 100
    assert (written or [0])[-1] == 0
    assert source.closed == 2


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_once_is_right_in_the_end(wrong, got):
    file = io.BytesIO()
    got(Giving(WRONG[wrong], CONTENT), BlobPlace(file))
    assert file.getvalue() == CONTENT


def test_an_empty_blob(got):
    empty = Descriptor.of(OCI_LAYER, b"")
    assert got(Giving(b""), BlobPlace(io.BytesIO(b"x"), start=1), empty) == 0
    with pytest.raises(ContentMismatch):
        got(Giving(b"z"), BlobPlace(io.BytesIO(b"x")), empty)


def test_it_stops_when_it_is_cancelled(got, cancellation):
    source = Giving(CONTENT)
    cancellation.cancel("stop")
    with pytest.raises(Cancelled):
        got(source, BlobPlace(io.BytesIO()))
    assert source.closed == 1


class TestPartial:
    @pytest.fixture
    def directory(self, tmp_path: Path) -> BlobDirectory:
        return BlobDirectory(tmp_path / "dir", what="the directory")

    @pytest.fixture
    def kept(self, directory, cancellation, events):
        def run(source: Giving) -> int:
            with directory.partial(BLOB.digest, cancellation) as partial:
                return receive_partial(
                    partial,
                    BLOB,
                    source,
                    cancellation=cancellation,
                    on_event=events.append,
                )

        return run

    def test_it_gets_its_name_in_the_end_and_nothing_else_is_left(
        self, kept, directory
    ):
        kept(Giving(CONTENT))
        found = [path for path in directory.directory.rglob("*") if path.is_file()]
        assert found == [directory.path_of(BLOB.digest)]
        assert found[0].read_bytes() == CONTENT
        assert not (directory.directory / ".partial").exists()

    def test_a_broken_one_is_continued(self, kept, directory):
        with pytest.raises(NetworkError):
            kept(Giving(CONTENT, breaks=400_000))
        assert not directory.path_of(BLOB.digest).exists()
        source = Giving(CONTENT)
        assert kept(source) == len(CONTENT) - 400_000
        assert source.asked == [400_000]
        assert directory.path_of(BLOB.digest).read_bytes() == CONTENT
        assert not (directory.directory / ".partial").exists()

    @pytest.mark.parametrize("wrong", WRONG)
    def test_nothing_of_a_wrong_one_is_kept(self, wrong, kept, directory):
        with pytest.raises(ContentMismatch):
            kept(Giving(WRONG[wrong]))
        assert [path for path in directory.directory.rglob("*") if path.is_file()] == []

    def test_one_that_is_too_long_is_begun_again(self, kept, directory):
        path = directory.directory / ".partial" / str(BLOB.digest).replace(":", "-")
        path.parent.mkdir(parents=True)
        path.write_bytes(CONTENT + b"more")
        source = Giving(CONTENT)
        kept(source)
        assert source.asked == [0]
        assert directory.path_of(BLOB.digest).read_bytes() == CONTENT
