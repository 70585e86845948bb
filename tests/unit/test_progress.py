"""Progress as people read it."""

from __future__ import annotations

import io

import pytest

from dockerpush.events import (
    BlobFinished,
    BlobPlanned,
    BlobStarted,
    BytesRead,
    BytesSent,
    Notice,
    Outcome,
    Retrying,
)
from dockerpush.oci import Digest
from dockerpush.progress import (
    BarProgress,
    PlainProgress,
    QuietProgress,
    Tally,
    clock_time,
    plain_line,
)

MIB = 1024 * 1024
DIGEST = Digest.of(b"blob")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_what_the_registry_holds_is_not_counted_as_sent():
    tally = Tally()
    for event in (
        BlobPlanned("a", 10),
        BlobPlanned("b", 20),
        BlobFinished("a", DIGEST, 10, Outcome.EXISTS),
    ):
        tally.add(event)
    assert (tally.bytes_done, tally.bytes_total) == (0, 20)


def test_a_compressed_layer_shrinks_the_total_when_its_size_is_known():
    tally = Tally()
    for event in (BlobPlanned("a", 100), BlobStarted("a", DIGEST, 30)):
        tally.add(event)
    assert tally.bytes_total == 30


def test_bytes_that_are_sent_again_do_not_count_twice():
    tally = Tally()
    for event in (
        BlobStarted("a", DIGEST, 10),
        BytesSent("a", 6),
        BytesSent("a", -6),
        BytesSent("a", 10),
        BlobFinished("a", DIGEST, 10, Outcome.UPLOADED),
    ):
        tally.add(event)
    assert (tally.bytes_done, tally.bytes_total, len(tally.finished)) == (10, 10, 1)


def test_the_plain_line_tells_blobs_bytes_rate_and_time_left():
    tally = Tally()
    tally.add(BlobStarted("a", DIGEST, 980 * MIB))
    tally.add(BlobPlanned("b", 0))
    tally.add(BytesSent("a", 412 * MIB))
    expected = "blob 0/2 412.0/980.0 MiB 41.2 MiB/s eta 0:13"
    assert plain_line(tally, 10.0) == expected


def test_lines_come_at_the_start_every_interval_and_at_the_end():
    stream, clock = io.StringIO(), Clock()
    progress = PlainProgress(stream, interval=30, clock=clock)
    progress(BlobPlanned("a", 4 * MIB))
    progress(BlobStarted("a", DIGEST, 4 * MIB))
    for _ in range(4):
        clock.now += 15
        progress(BytesSent("a", MIB))
    progress(BlobFinished("a", DIGEST, 4 * MIB, Outcome.UPLOADED))
    progress.close()
    lines = stream.getvalue().splitlines()
    assert [line.split(" MiB")[0] for line in lines] == [
        "blob 0/1 0.0/4.0",
        "blob 0/1 2.0/4.0",
        "blob 0/1 4.0/4.0",
        "blob 1/1 4.0/4.0",
    ]


def test_time_passes_while_nothing_moves():
    stream, clock = io.StringIO(), Clock()
    progress = PlainProgress(stream, interval=30, clock=clock)
    progress(BlobStarted("a", DIGEST, MIB))
    progress(BytesSent("a", MIB))
    clock.now += 31
    progress.tick()
    assert stream.getvalue().count("\n") == 2


def test_reading_shows_before_anything_is_sent():
    tally = Tally()
    tally.add(BlobPlanned("a", 2 * MIB))
    tally.add(BytesRead("a", MIB))
    assert plain_line(tally, 1.0).endswith("(read 1.0 MiB to compress)")


@pytest.mark.parametrize("make", [PlainProgress, QuietProgress, BarProgress])
def test_notices_are_said_everywhere(make):
    stream = io.StringIO()
    progress = make(stream)
    progress(Notice("no room for a spool"))
    progress.close()
    assert "note: no room for a spool\n" in stream.getvalue()


def test_quiet_leaves_out_what_needs_no_action():
    for make, said in ((PlainProgress, True), (QuietProgress, False)):
        stream = io.StringIO()
        progress = make(stream)
        progress(Notice("a layer would not shrink", minor=True))
        progress.close()
        assert ("would not shrink" in stream.getvalue()) == said


def test_quiet_says_nothing_of_retries():
    stream = io.StringIO()
    QuietProgress(stream)(Retrying("layer", "connection reset", 1.0))
    assert stream.getvalue() == ""


def test_a_retry_says_why_and_how_long():
    stream = io.StringIO()
    PlainProgress(stream)(Retrying("blob 12", "connection reset", 1.5))
    expected = "blob 12: connection reset; trying again in 1.5 s\n"
    assert stream.getvalue() == expected


def test_bars_show_a_blob_and_the_total_and_go_away():
    stream = io.StringIO()
    progress = BarProgress(stream)
    progress(BlobPlanned("a", 2 * MIB))
    progress(BytesRead("a", MIB))
    progress(BlobStarted("a", DIGEST, MIB))
    progress(BytesSent("a", MIB))
    progress.tick()
    progress(BlobFinished("a", DIGEST, MIB, Outcome.UPLOADED))
    progress.close()
    drawn = stream.getvalue()
    assert DIGEST.short in drawn
    assert "total" in drawn
    assert "compressing" in drawn


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (61, "1:01"), (3661, "1:01:01")]
)
def test_times_read_like_a_clock(seconds, text):
    assert clock_time(seconds) == text
