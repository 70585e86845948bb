"""Layers compressed in blocks: one valid stream, the same for any number of threads."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import io
import random
import shutil
import subprocess
import sys
import tracemalloc
import zlib
from contextlib import ExitStack
from typing import Callable, Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dockerpush.archive.stored import Compression
from dockerpush.archive.zstd import PackageZstd, ProgramZstd, StandardZstd, Zstd
from dockerpush.errors import ArchiveError, Cancelled, PusherError, UsageError
from dockerpush.system.cancellation import Cancellation
from dockerpush.system.workers import Workers
from dockerpush.transfer.compress import (
    HISTORY,
    PROBE,
    SPARE,
    Codec,
    Compressed,
    GzipCodec,
    ZstdCodec,
    choose_codec,
    compress,
)

SMALL = 512
LIBRARIES = ("zlib", "isal")


class SmallGzip(GzipCodec):
    """gzip with blocks of which a test can have many."""

    block_size = SMALL


class Trickle(io.BytesIO):
    """A file that gives *step* bytes at a time."""

    def __init__(self, content: bytes, step: int) -> None:
        super().__init__(content)
        self.step = step

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        return super().readinto(buffer[: self.step])


@pytest.fixture
def cancellation() -> Iterator[Cancellation]:
    with Cancellation() as made:
        yield made


Pools = Callable[[int], Workers]


@pytest.fixture
def pools(cancellation: Cancellation) -> Iterator[Pools]:
    """``pools(n)`` is a pool of n threads, the same one each time."""
    made: dict[int, Workers] = {}
    with ExitStack() as stack:

        def pool(count: int) -> Workers:
            if count not in made:
                made[count] = stack.enter_context(Workers(cancellation, count))
            return made[count]

        yield pool


def squeeze(
    content: bytes, codec: Codec, pool: Workers, *, step: int = 1 << 30
) -> tuple[bytes, Compressed]:
    """*content* compressed, and what `compress` says about it."""
    sink = io.BytesIO()
    with Cancellation() as cancellation:
        told = compress(
            Trickle(content, step),
            sink,
            codec=codec,
            blocks=pool,
            cancellation=cancellation,
            on_read=lambda count: None,
        )
    return sink.getvalue(), told


def text(size: int) -> bytes:
    """*size* bytes that shrink, and that refer back over block borders."""
    words = [random.Random(7).randbytes(40) for _ in range(12)]
    chosen = random.Random(size)
    return b"".join(chosen.choice(words) for _ in range(size // 40 + 1))[:size]


def gzip_codec(kind: type[GzipCodec], library: str, level: int = 1) -> GzipCodec:
    if library == "isal":
        pytest.importorskip("isal")
    return kind(library, level)


@pytest.mark.parametrize("library", LIBRARIES)
def test_any_size_and_any_reads_give_one_valid_member(
    pools: Pools, library: str
) -> None:
    codec = gzip_codec(SmallGzip, library)
    border = st.builds(
        lambda blocks, off: max(0, blocks * SMALL + off),
        st.integers(0, 5),
        st.integers(-2, 2),
    )

    @settings(deadline=None)
    @given(st.one_of(border, st.integers(0, 5 * SMALL)), st.integers(1, 2 * SMALL))
    def check(size: int, step: int) -> None:
        content = text(size)
        packed, told = squeeze(content, codec, pools(2), step=step)
        member = zlib.decompressobj(wbits=31)
        assert member.decompress(packed) == content
        assert (member.eof, member.unused_data) == (True, b"")
        assert told == Compressed(
            "sha256:" + hashlib.sha256(packed).hexdigest(),  # type: ignore[arg-type]
            len(packed),
            "sha256:" + hashlib.sha256(content).hexdigest(),  # type: ignore[arg-type]
            size,
        )

    check()


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_bytes_do_not_depend_on_the_number_of_threads(
    pools: Pools, library: str
) -> None:
    codec = gzip_codec(SmallGzip, library)
    content = text(37 * SMALL + 5)
    results = {squeeze(content, codec, pools(count))[0] for count in (1, 2, 3, 8)}
    assert len(results) == 1


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_the_gzip_program_accepts_full_blocks(
    pools: Pools, library: str, extra: int
) -> None:
    codec = gzip_codec(GzipCodec, library)
    content = text(2 * codec.block_size + extra)
    packed, _ = squeeze(content, codec, pools(2))
    subprocess.run(["gzip", "-t"], input=packed, check=True)
    assert gzip.decompress(packed) == content


def test_the_header_says_nothing_about_time_or_place(pools: Pools) -> None:
    packed, _ = squeeze(b"content", GzipCodec("zlib", 1), pools(1))
    assert packed[:10] == bytes.fromhex("1f8b08000000000000ff")


def test_empty_content_is_a_valid_member(pools: Pools) -> None:
    packed, told = squeeze(b"", GzipCodec("zlib", 1), pools(1))
    assert gzip.decompress(packed) == b""
    assert told.raw_size == 0


@pytest.mark.parametrize("library", LIBRARIES)
def test_blocks_refer_back_to_the_one_before(pools: Pools, library: str) -> None:
    codec = gzip_codec(SmallGzip, library)
    content = random.Random(1).randbytes(SMALL) * 20
    packed, _ = squeeze(content, codec, pools(2))
    assert len(packed) < 3 * SMALL


def test_the_size_in_the_trailer_wraps_at_four_gibibytes() -> None:
    trailer = GzipCodec("zlib", 1).trailer(0x01020304, 2**32 + 5)
    assert trailer[-8:] == bytes.fromhex("0403020105000000")


@pytest.mark.parametrize("library", LIBRARIES)
def test_memory_is_bounded_by_the_blocks_in_flight(
    cancellation: Cancellation, pools: Pools, library: str
) -> None:
    class Endless:
        """64 MiB that do not shrink."""

        noise = random.Random(3).randbytes(1 << 20)
        left = 64 << 20

        def readinto(self, buffer: memoryview) -> int:
            count = min(len(buffer), self.left, len(self.noise))
            buffer[:count] = self.noise[:count]
            self.left -= count
            return count

    class Nowhere:
        def write(self, data: bytes) -> None:
            pass

    codec = gzip_codec(GzipCodec, library)
    tracemalloc.start()
    try:
        told = compress(
            Endless(),
            Nowhere(),
            codec=codec,
            blocks=pools(2),
            cancellation=cancellation,
            on_read=lambda count: None,
        )
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert told.raw_size == 64 << 20
    assert peak < 8 << 20


NOISE = random.Random(11).randbytes(1 << 19)
KINDS = {"zeros": bytes(1 << 19), "noise": NOISE, "text": text(1 << 19)}


class HalfBlocks(GzipCodec):
    """gzip with blocks that are large enough for noise to be seen in them."""

    block_size = 4 * PROBE


@pytest.mark.parametrize("library", LIBRARIES)
def test_any_mix_gives_one_valid_member_the_same_for_any_threads(
    pools: Pools, library: str
) -> None:
    codec = gzip_codec(HalfBlocks, library)
    part = st.tuples(st.sampled_from(sorted(KINDS)), st.integers(0, 5 * PROBE))

    @settings(deadline=None)
    @given(st.lists(part, max_size=5), st.integers(1000, 9 * PROBE))
    def check(parts: list[tuple[str, int]], step: int) -> None:
        content = b"".join(KINDS[kind][:size] for kind, size in parts)
        packed, told = squeeze(content, codec, pools(2), step=step)
        member = zlib.decompressobj(wbits=31)
        assert member.decompress(packed) == content
        assert (member.eof, member.unused_data) == (True, b"")
        assert told.digest == "sha256:" + hashlib.sha256(packed).hexdigest()
        assert squeeze(content, codec, pools(3))[0] == packed

    check()


def zlib_alone(content: bytes, block: int) -> list[bytes]:
    """The raw deflate of each *block* of *content*, as zlib's level 1 makes it."""
    made = []
    for start in range(0, len(content), block):
        before = content[max(0, start - HISTORY) : start]
        one = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS, zdict=before)
        made.append(one.compress(content[start : start + block]) + one.flush(2))
    return made


@pytest.mark.parametrize("kind", ["zeros", "text"])
def test_what_shrinks_is_what_zlib_makes_of_it(pools: Pools, kind: str) -> None:
    codec = HalfBlocks("zlib", 1)
    content = KINDS[kind] + KINDS[kind][:1000]
    packed, _ = squeeze(content, codec, pools(2))
    assert packed[10:-10] == b"".join(zlib_alone(content, codec.block_size))


def test_only_the_start_of_noise_goes_through_deflate() -> None:
    pieces = GzipCodec("zlib", 1).pack(memoryview(NOISE), b"")
    views = [piece for piece in pieces if isinstance(piece, memoryview)]
    assert b"".join(views) == NOISE[PROBE:]
    assert sum(map(len, pieces)) < len(NOISE) * 1.001


@pytest.mark.parametrize("level", [0, 2, 6, 9])
def test_other_levels_are_left_to_zlib(level: int) -> None:
    pieces = GzipCodec("zlib", level).pack(memoryview(NOISE), b"")
    assert not any(isinstance(piece, memoryview) for piece in pieces)


@pytest.mark.parametrize("text_at", [0, PROBE, 3 * PROBE, 7 * PROBE])
def test_text_amid_noise_shrinks_as_much_as_before(text_at: int) -> None:
    mixed = NOISE[:text_at] + KINDS["text"][:PROBE] + NOISE[text_at + PROBE :]
    pieces = GzipCodec("zlib", 1).pack(memoryview(mixed), b"")
    assert sum(map(len, pieces)) < 1.03 * len(zlib_alone(mixed, len(mixed))[0])


def test_noise_that_repeats_itself_shrinks(pools: Pools) -> None:
    packed, _ = squeeze(NOISE[:30_000] * 30, GzipCodec("zlib", 1), pools(2))
    assert len(packed) < 2 * 30_000


def test_gzip_accepts_stored_blocks(pools: Pools) -> None:
    content = NOISE + KINDS["text"] + NOISE[: 3 * PROBE]
    packed, _ = squeeze(content, GzipCodec("zlib", 1), pools(2))
    subprocess.run(["gzip", "-t"], input=packed, check=True)
    assert gzip.decompress(packed) == content


@pytest.mark.parametrize("size", [0, 1, SMALL - 1, SMALL])
def test_the_pool_is_left_alone_by_less_than_a_block(
    cancellation: Cancellation, size: int
) -> None:
    class Counting(Workers):
        """A pool that counts what it is asked for."""

        asked = 0

        def submit(self, *work):  # type: ignore[no-untyped-def]
            self.asked += 1
            return super().submit(*work)

    with Counting(cancellation, 1) as pool:
        packed, _ = squeeze(text(size), SmallGzip("zlib", 1), pool)
        assert pool.asked == (size == SMALL)
    assert gzip.decompress(packed) == text(size)


class Plain:
    """A codec that packs nothing, in blocks of ten bytes; it may *fail* at one."""

    compression = Compression.GZIP
    media_type = "text/plain"
    block_size = 10
    header = b""

    def __init__(self, fail: bytes = b"never") -> None:
        self.fail = fail

    def pack(self, block: memoryview, history: bytes) -> Sequence[bytes]:
        if self.fail in bytes(block):
            raise PusherError("the compressor failed")
        return [bytes(block)]

    def checksum(self, block: memoryview, before: int) -> int:
        return 0

    def trailer(self, checksum: int, size: int) -> bytes:
        return b""


def test_no_more_blocks_are_read_than_may_be_in_flight(
    cancellation: Cancellation, pools: Pools
) -> None:
    class Both(io.BytesIO):
        """Source and sink, to see how far the one is ahead of the other."""

        written = ahead = 0

        def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
            count = super().readinto(buffer)
            self.ahead = max(self.ahead, self.tell() - self.written)
            return count

        def write(self, data: bytes) -> int:  # type: ignore[override]
            self.written += len(data)
            return len(data)

    both = Both(bytes(1000))
    compress(
        both,
        both,
        codec=Plain(),
        blocks=pools(2),
        cancellation=cancellation,
        on_read=lambda count: None,
    )
    assert both.written == 1000
    assert both.ahead <= (2 + SPARE) * 10


def test_reading_is_reported_block_by_block(
    cancellation: Cancellation, pools: Pools
) -> None:
    counts: list[int] = []
    compress(
        Trickle(bytes(25), 3),
        io.BytesIO(),
        codec=Plain(),
        blocks=pools(1),
        cancellation=cancellation,
        on_read=counts.append,
    )
    assert counts == [10, 10, 5]


def test_a_failing_compressor_is_the_failure_that_is_seen() -> None:
    content = b"0123456789" * 5 + b"bad"
    with Cancellation() as cancellation:
        pool = Workers(cancellation, 2)
        with pytest.raises(PusherError, match="the compressor failed"), pool:
            squeeze(content, Plain(b"bad"), pool)


def test_a_failing_source_ends_the_work(cancellation: Cancellation) -> None:
    class Broken:
        def readinto(self, buffer: memoryview) -> int:
            raise ArchiveError("layer.tar: truncated")

    pool = Workers(cancellation, 2)
    with pytest.raises(ArchiveError, match="truncated"), pool:
        compress(
            Broken(),
            io.BytesIO(),
            codec=Plain(),
            blocks=pool,
            cancellation=cancellation,
            on_read=lambda count: None,
        )


def test_cancelling_stops_between_two_blocks(cancellation: Cancellation) -> None:
    source = io.BytesIO(bytes(1000))
    pool = Workers(cancellation, 1)
    with pytest.raises(Cancelled, match="enough"), pool:
        compress(
            source,
            io.BytesIO(),
            codec=Plain(),
            blocks=pool,
            cancellation=cancellation,
            on_read=lambda count: cancellation.cancel("enough"),
        )
    assert source.tell() == 10


@pytest.mark.parametrize(
    ("level", "name"),
    [
        (None, "gzip:isal:1"),
        (0, "gzip:zlib:0"),
        (1, "gzip:isal:1"),
        (3, "gzip:isal:3"),
        (4, "gzip:zlib:4"),
        (9, "gzip:zlib:9"),
    ],
)
def test_isal_does_the_levels_that_it_has(level: int | None, name: str) -> None:
    pytest.importorskip("isal")
    assert str(choose_codec(Compression.GZIP, level)) == name


def test_without_isal_zlib_does_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "isal.isal_zlib", None)
    assert str(choose_codec(Compression.GZIP)) == "gzip:zlib:1"


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("level", range(10))
def test_every_level_gives_the_content_back(
    pools: Pools, library: str, level: int
) -> None:
    codec = gzip_codec(
        SmallGzip, library, min(level, 3) if library == "isal" else level
    )
    content = text(5 * SMALL)
    assert gzip.decompress(squeeze(content, codec, pools(2))[0]) == content


@pytest.mark.parametrize(
    ("compression", "level"),
    [
        (Compression.GZIP, 10),
        (Compression.GZIP, -1),
        (Compression.ZSTD, 0),
        (Compression.ZSTD, 23),
    ],
)
def test_a_level_that_does_not_exist_is_a_usage_error(
    compression: Compression, level: int
) -> None:
    with pytest.raises(UsageError, match=f"{compression.value} has no .*{level}"):
        choose_codec(compression, level)


def zstd_library(name: str) -> Zstd:
    if name == "program":
        path = shutil.which("zstd")
        if path is None:
            pytest.skip("no zstd program")
        return ProgramZstd(path)
    if name == "zstandard":
        return PackageZstd(pytest.importorskip("zstandard"))
    for module in ("compression.zstd", "backports.zstd"):
        try:
            return StandardZstd(importlib.import_module(module))
        except ImportError:
            continue
    pytest.skip("no compression.zstd")


@pytest.mark.parametrize("name", ["python", "zstandard", "program"])
@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (2 << 20) + 7])
def test_zstd_frames_make_one_valid_file(pools: Pools, name: str, size: int) -> None:
    codec = ZstdCodec(zstd_library(name), 3)
    content = text(size)
    packed, told = squeeze(content, codec, pools(2))
    if program := shutil.which("zstd"):
        command = [program, "-q", "-d", "-c"]
        done = subprocess.run(command, input=packed, capture_output=True, check=True)
        assert done.stdout == content
    assert packed[:4] == b"\x28\xb5\x2f\xfd"
    assert told.diff_id == "sha256:" + hashlib.sha256(content).hexdigest()
    assert squeeze(content, codec, pools(3))[0] == packed


@pytest.mark.parametrize("level", [1, 19, 22])
def test_the_zstd_program_knows_all_levels(pools: Pools, level: int) -> None:
    codec = ZstdCodec(zstd_library("program"), level)
    packed, _ = squeeze(text(10_000), codec, pools(1))
    assert str(codec) == f"zstd:program:{level}"
    assert 0 < len(packed) < 10_000
