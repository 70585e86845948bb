"""Progress as people read it."""

from __future__ import annotations

import io
import re

import pytest
from screen import Screen

from dockerpush.events import (
    BlobFinished,
    BlobPlanned,
    BlobStarted,
    BytesRead,
    BytesSaved,
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
    Row,
    Tally,
    clock_time,
    table,
    totals,
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


def test_the_columns_are_blobs_bytes_rate_and_time_left():
    tally = Tally()
    tally.add(BlobStarted("a", DIGEST, 980 * MIB))
    tally.add(BlobPlanned("b", 0))
    tally.add(BytesSent("a", 412 * MIB))
    expected = ["blob 0/2", "412.0/980.0 MiB", "41.2 MiB/s", "eta 0:13"]
    assert totals(tally, 10.0) == expected


@pytest.fixture
def said() -> list[str]:
    return []


def test_lines_come_after_a_moment_every_interval_and_at_the_end(said):
    clock = Clock()
    progress = PlainProgress(said.append, interval=30, clock=clock)
    progress(BlobPlanned("a", 4 * MIB))
    progress(BlobStarted("a", DIGEST, 4 * MIB))
    for seconds in (1, 2, 15, 30):
        clock.now += seconds
        progress(BytesSent("a", MIB))
    progress(BlobFinished("a", DIGEST, 4 * MIB, Outcome.UPLOADED))
    progress.close()
    assert [line.split(" MiB")[0] for line in said] == [
        "blob 0/1 2.0/4.0",
        "blob 0/1 4.0/4.0",
        "blob 1/1 4.0/4.0",
    ]


def test_what_is_done_in_a_moment_needs_no_line(said):
    progress = PlainProgress(said.append, clock=Clock())
    progress(BlobStarted("a", DIGEST, MIB))
    progress(BytesSent("a", MIB))
    progress(BlobFinished("a", DIGEST, MIB, Outcome.UPLOADED))
    progress.close()
    assert said == []


def test_an_interval_below_a_moment_counts_from_the_start(said):
    clock = Clock()
    progress = PlainProgress(said.append, interval=0.5, clock=clock)
    progress(BlobStarted("a", DIGEST, MIB))
    clock.now += 0.5
    progress(BytesSent("a", 1))
    assert len(said) == 1


def test_time_passes_while_nothing_moves(said):
    clock = Clock()
    progress = PlainProgress(said.append, interval=30, clock=clock)
    progress(BlobStarted("a", DIGEST, 4 * MIB))
    progress(BytesSent("a", MIB))
    for _ in range(2):
        clock.now += 31
        progress.tick()
    assert len(said) == 2


def test_nothing_shows_of_a_run_that_moves_nothing(said):
    clock, stream = Clock(), io.StringIO()
    bars = BarProgress(stream, said.append, clock=clock)
    for progress in (PlainProgress(said.append, clock=clock), bars):
        progress(BlobPlanned("a", MIB))
        progress(BlobFinished("a", DIGEST, MIB, Outcome.EXISTS))
        clock.now += 60
        progress.tick()
        progress.close()
    assert (said, stream.getvalue()) == ([], "")


def test_reading_shows_before_anything_is_sent():
    tally = Tally()
    tally.add(BlobPlanned("a", 2 * MIB))
    tally.add(BytesRead("a", MIB))
    assert totals(tally, 1.0) == ["blob 0/1", "0.0/2.0 MiB", "(1.0 MiB read so far)"]


def test_what_has_no_known_size_shows_what_is_done():
    tally = Tally()
    tally.add(BytesSaved("saving app:1", 3 * MIB))
    assert totals(tally, 2.0) == ["saving app:1", "3.0 MiB", "1.5 MiB/s"]


def listeners(said):
    yield PlainProgress(said.append)
    yield QuietProgress(said.append)
    yield BarProgress(io.StringIO(), said.append)


def test_notices_are_printed_everywhere(said):
    for progress in listeners(said):
        progress(Notice("no room for a spool"))
        progress.close()
    assert said == ["note: no room for a spool"] * 3


def test_quiet_leaves_out_what_needs_no_action(said):
    for progress in listeners(said):
        progress(Notice("a layer would not shrink", minor=True))
    assert len(said) == 2


def test_quiet_says_nothing_of_retries(said):
    QuietProgress(said.append)(Retrying("layer", "connection reset", 1.0))
    assert said == []


def test_a_retry_says_why_and_how_long(said):
    PlainProgress(said.append)(Retrying("blob 12", "connection reset", 1.5))
    assert said == ["blob 12: connection reset; trying again in 1.5 s"]


def test_bars_show_a_blob_and_the_total_and_go_away(said):
    stream, screen = io.StringIO(), Screen(80)
    progress = BarProgress(stream, said.append, clock=Clock())
    progress(BlobPlanned("a", 2 * MIB))
    progress(BytesRead("a", MIB))
    progress.tick()
    progress(BlobStarted("a", DIGEST, MIB))
    progress(BytesSent("a", MIB))
    progress.tick()
    progress(BlobFinished("a", DIGEST, MIB, Outcome.UPLOADED))
    progress.close()
    screen.feed(stream.getvalue())
    names = [[line.split("|")[0].strip() for line in f.lines] for f in screen.frames]
    assert names[0] == ["reading", "blob 0/1"]
    assert [DIGEST.short, "blob 0/1"] in names
    assert screen.text == []


BLOB = Row("f743483a9076", 3 * MIB, 4 * MIB, ("3.0/4.0 MiB",))
ALL = Row("blob 2/5", 412, 980, ("412.0/980.0 MiB", "23.1 MiB/s", "eta 0:24"))


class TestTable:
    """What the bars look like, column by column."""

    @pytest.mark.parametrize("columns", range(1, 120))
    def test_it_never_is_wider_than_the_window(self, columns):
        assert all(len(line) <= columns for line in table([BLOB, ALL], columns))

    @pytest.mark.parametrize(
        ("columns", "line"),
        [
            (79, "blob 2/5     |###2   | 412.0/980.0 MiB 23.1 MiB/s eta 0:24"),
            (52, "blob 2/5     |####2    | 412.0/980.0 MiB 23.1 MiB/s"),
            (40, "blob 2/5     |###3    | 412.0/980.0 MiB"),
            (30, "blob 2/5     412.0/980.0 MiB"),
            (20, "blob 412.0/980.0 MiB"),
            (15, "412.0/980.0 MiB"),
        ],
    )  # fmt: skip
    def test_columns_go_one_by_one(self, columns, line):
        shown = table([BLOB, ALL], columns, unicode=False)
        assert re.sub(r"\|.*\|", "|", shown[1].rstrip()) == re.sub(r"\|.*\|", "|", line)

    def test_numbers_stand_below_each_other(self):
        blob, total = table([BLOB, ALL], 79)
        assert blob.index(" MiB") == total.index(" MiB")

    def test_what_takes_no_bar_has_none(self):
        row = Row("saving app:1", 5, 0, ("5.0 MiB", "1.0 MiB/s"))
        assert table([row], 79) == ["saving app:1 5.0 MiB 1.0 MiB/s"]
        assert table([row], 20) == ["saving app:1 5.0 MiB"]

    def test_a_terminal_without_blocks_gets_what_every_one_has(self):
        assert all(line.isascii() for line in table([BLOB, ALL], 79, unicode=False))


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (61, "1:01"), (3661, "1:01:01")]
)
def test_times_read_like_a_clock(seconds, text):
    assert clock_time(seconds) == text
