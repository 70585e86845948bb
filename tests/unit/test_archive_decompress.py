"""Compressed files read forward: right, bounded, and honest about what is wrong."""

from __future__ import annotations

import bz2
import gc
import gzip
import hashlib
import importlib
import io
import lzma
import random
import shutil
import struct
import subprocess
import sys
import tracemalloc
import zlib
from typing import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dockerpush.archive import decompress
from dockerpush.archive.compressed_streams import PIECE, Format, StreamReader
from dockerpush.archive.decompress import digests, open_decompressed
from dockerpush.archive.stored import Compression
from dockerpush.archive.zstd import (
    FrameDecoder,
    PackageZstd,
    ProgramZstd,
    StandardZstd,
    Zstd,
    find_zstd,
)
from dockerpush.errors import ArchiveError, Cancelled, UsageError
from dockerpush.system.cancellation import Cancellation

Opener = Callable[[io.BytesIO], io.RawIOBase]


class Pipe(io.BytesIO):
    """A file that cannot seek, and gives *step* bytes at a time."""

    def __init__(self, content: bytes, step: int = 1 << 30) -> None:
        super().__init__(content)
        self.step = step

    def seekable(self) -> bool:
        return False

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        return super().readinto(memoryview(buffer)[: self.step])


def zstd_packed(content: bytes) -> bytes:
    """One frame with a checksum, by the program."""
    if shutil.which("zstd") is None:
        pytest.skip("no zstd program to make the input")
    return subprocess.run(
        ["zstd", "-q", "-c", "--check"], input=content, capture_output=True, check=True
    ).stdout


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstd_packed,
}


def python_zstd() -> Zstd:
    for module in ("compression.zstd", "backports.zstd"):
        try:
            return StandardZstd(importlib.import_module(module))
        except ImportError:
            continue
    pytest.skip("no compression.zstd")


def program_zstd() -> Zstd:
    path = shutil.which("zstd")
    return ProgramZstd(path) if path else pytest.skip("no zstd program")


def package_zstd() -> Zstd:
    return PackageZstd(pytest.importorskip("zstandard"))


def streaming(kind: Format) -> Opener:
    return lambda file: StreamReader(file, kind, "image.tar")


def zstd_opener(library: Zstd) -> Opener:
    return lambda file: library.open(file, "image.tar")


def fast_gzip() -> Opener:
    pytest.importorskip("isal")
    return streaming(decompress.fast_gzip_format())


READERS: dict[str, Callable[[], Opener]] = {
    "gzip-zlib": lambda: streaming(decompress.gzip_format()),
    "gzip-isal": fast_gzip,
    "bzip2": lambda: streaming(decompress.bzip2_format()),
    "xz": lambda: streaming(decompress.xz_format()),
    "zstd-python": lambda: zstd_opener(python_zstd()),
    "zstd-package": lambda: zstd_opener(package_zstd()),
    "zstd-program": lambda: zstd_opener(program_zstd()),
}

each_reader = pytest.mark.parametrize("name", READERS)
each_stream_reader = pytest.mark.parametrize(
    "name", [name for name in READERS if name != "zstd-program"]
)


def packed_for(name: str, content: bytes) -> bytes:
    return PACKERS[name.partition("-")[0]](content)


def text(size: int) -> bytes:
    words = [random.Random(9).randbytes(30) for _ in range(40)]
    chosen = random.Random(size)
    return b"".join(chosen.choice(words) for _ in range(size // 30 + 1))[:size]


CONTENT = text(400_000)


def read_all(reader: io.RawIOBase, step: int = PIECE) -> bytes:
    """Everything, *step* bytes at a time; closes the reader."""
    buffer, parts = bytearray(step), []
    with reader:
        while count := reader.readinto(buffer):
            parts.append(bytes(buffer[:count]))
    return b"".join(parts)


@each_reader
@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 400_000])
def test_the_content_comes_back(name: str, size: int) -> None:
    opener = READERS[name]()
    assert read_all(opener(Pipe(packed_for(name, CONTENT[:size])))) == CONTENT[:size]


@each_reader
@pytest.mark.parametrize(("step", "wanted"), [(1, 512), (7, 10_000), (1 << 20, 100)])
def test_the_sizes_of_reads_do_not_matter(name: str, step: int, wanted: int) -> None:
    opener, content = READERS[name](), CONTENT[:20_000]
    assert read_all(opener(Pipe(packed_for(name, content), step)), wanted) == content


@each_reader
@pytest.mark.parametrize("step", [1, 5, 1 << 20])
def test_streams_one_after_another_are_one_content(name: str, step: int) -> None:
    opener = READERS[name]()
    parts = [CONTENT[:3000], b"", CONTENT[3000:5000]]
    packed = b"".join(packed_for(name, part) for part in parts)
    assert read_all(opener(Pipe(packed, step))) == CONTENT[:5000]


@each_stream_reader
@pytest.mark.parametrize("zeros", [1, 4, 511, 3 * PIECE])
def test_zeros_after_the_end_are_padding(name: str, zeros: int) -> None:
    opener, packed = READERS[name](), packed_for(name, CONTENT[:100])
    assert read_all(opener(Pipe(packed + bytes(zeros)))) == CONTENT[:100]


@each_reader
@pytest.mark.parametrize("junk", [b"j", b"junk", b"\0\0junk, and much more of it"])
@pytest.mark.parametrize("step", [1, 1 << 20])
def test_anything_else_after_the_end_is_named(
    name: str, junk: bytes, step: int
) -> None:
    opener, packed = READERS[name](), packed_for(name, CONTENT[:100])
    reader = opener(Pipe(packed + junk, step))
    with pytest.raises(ArchiveError, match=r"^image.tar: the .* stream ") as caught:
        read_all(reader)
    assert "\n" not in str(caught.value)


@each_reader
def test_a_stream_that_ends_too_early_is_named_wherever_it_ends(name: str) -> None:
    opener, packed = READERS[name](), packed_for(name, CONTENT[:2000])
    step = 97 if name == "zstd-program" else 7
    for cut in [*range(0, len(packed) - 9, step), *range(len(packed) - 9, len(packed))]:
        with pytest.raises(ArchiveError, match=r"^image.tar: the "):
            read_all(opener(Pipe(packed[:cut])))


@each_stream_reader
def test_a_truncated_stream_is_called_truncated(name: str) -> None:
    opener, packed = READERS[name](), packed_for(name, CONTENT)
    with pytest.raises(ArchiveError, match=r"truncated: get or save it again"):
        read_all(opener(Pipe(packed[: len(packed) // 2])))


@each_stream_reader
def test_a_flipped_bit_is_never_taken_for_content(name: str) -> None:
    opener, packed = READERS[name](), packed_for(name, CONTENT[:2000])

    @settings(deadline=None)
    @given(st.integers(0, len(packed) * 8 - 1))
    def check(bit: int) -> None:
        broken = bytearray(packed)
        broken[bit // 8] ^= 1 << bit % 8
        try:
            found = read_all(opener(Pipe(bytes(broken))))
        except ArchiveError as error:
            assert str(error).startswith("image.tar: the ")
        else:
            assert found == CONTENT[:2000]

    check()


@each_stream_reader
def test_noise_is_refused(name: str) -> None:
    opener, magic = READERS[name](), packed_for(name, b"")[:4]

    @settings(
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(st.binary(max_size=300))
    def check(noise: bytes) -> None:
        try:
            read_all(opener(Pipe(magic + noise)))
        except ArchiveError as error:
            assert str(error).startswith("image.tar: the ")

    check()


@each_reader
def test_a_bomb_takes_no_memory(name: str) -> None:
    opener = READERS[name]()
    bomb = packed_for(name, bytes(32 << 20))
    buffer, size = bytearray(PIECE), 0
    tracemalloc.start()
    try:
        with opener(Pipe(bomb)) as reader:
            while count := reader.readinto(buffer):
                size += count
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size == 32 << 20
    assert peak < (12 << 20 if name == "xz" else 4 << 20)  # xz keeps 8 MiB to refer to


def test_an_xz_stream_that_wants_too_much_memory_is_refused() -> None:
    packed = bytearray(lzma.compress(b"content", preset=0))
    assert packed[14:16] == b"\x21\x01"  # one filter: LZMA2, one byte of properties
    packed[16] = 36  # a dictionary of 1 GiB
    end = 12 + (packed[12] + 1) * 4
    packed[end - 4 : end] = struct.pack("<I", zlib.crc32(packed[12 : end - 4]))
    reader = open_decompressed(Pipe(bytes(packed)), Compression.XZ, name="image.tar")
    with pytest.raises(ArchiveError, match=r"image.tar: the xz stream .*[Mm]emory"):
        read_all(reader)


ZSTD_READERS = [name for name in READERS if name.startswith("zstd")]


@pytest.mark.parametrize("name", ZSTD_READERS)
def test_a_zstd_frame_that_wants_too_much_memory_is_refused(name: str) -> None:
    window = (31 - 10) << 3  # 2 GiB
    frame = b"\x28\xb5\x2f\xfd\0" + bytes([window]) + b"\x09\0\0x"
    with pytest.raises(ArchiveError, match=r"image.tar: the zstd stream cannot"):
        read_all(READERS[name]()(Pipe(frame)))


@pytest.mark.parametrize("name", ZSTD_READERS)
def test_a_zstd_window_of_the_limit_is_read(name: str) -> None:
    window = (27 - 10) << 3
    frame = b"\x28\xb5\x2f\xfd\0" + bytes([window]) + b"\x09\0\0x"
    assert read_all(READERS[name]()(Pipe(frame))) == b"x"


def test_a_zstd_frame_that_was_read_leaves_no_garbage() -> None:
    """A cycle would: each frame has a window, and a layer has a frame for each MiB."""
    zstd = PackageZstd(pytest.importorskip("zstandard"))
    frames = b"".join(zstd.compress(memoryview(b"%d" % n), 3) for n in range(20))
    skipped = struct.pack("<4sI", b"\x50\x2a\x4d\x18", 3) + b"abc"
    gc.collect()
    gc.disable()
    try:
        with zstd.open(io.BytesIO(frames + skipped + frames), "x") as reader:
            assert read_all(reader) == b"".join(b"%d" % n for n in range(20)) * 2
            alive = [o for o in gc.get_objects() if isinstance(o, FrameDecoder)]
            assert len(alive) == 1
    finally:
        gc.enable()


@pytest.mark.parametrize("name", ZSTD_READERS)
@pytest.mark.parametrize("size", [0, 1, 300_000])
@pytest.mark.parametrize("step", [3, 1 << 20])
def test_zstd_frames_to_be_skipped_are_skipped(name: str, size: int, step: int) -> None:
    skipped = b"\x5e\x2a\x4d\x18" + struct.pack("<I", size) + bytes([7]) * size
    packed = skipped + zstd_packed(b"content") + skipped
    assert read_all(READERS[name]()(Pipe(packed, step))) == b"content"


@pytest.mark.parametrize("name", ZSTD_READERS)
@pytest.mark.parametrize("options", [["-1"], ["--no-check", "-19"], ["--fast=5"]])
def test_every_kind_of_zstd_block_is_read(name: str, options: list[str]) -> None:
    if shutil.which("zstd") is None:
        pytest.skip("no zstd program to make the input")
    content = random.Random(2).randbytes(150_000) + bytes(300_000) + CONTENT
    command = ["zstd", "-q", "-c", *options]
    done = subprocess.run(command, input=content, capture_output=True, check=True)
    assert read_all(READERS[name]()(Pipe(done.stdout, 10_000))) == content


def test_a_reader_left_early_leaves_no_process() -> None:
    library = program_zstd()
    file = Pipe(zstd_packed(bytes(8 << 20)))
    with library.open(file, "image.tar") as reader:
        assert len(reader.read(10)) == 10
    assert file.closed


def test_zstd_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "compression.zstd", None)
    monkeypatch.setitem(sys.modules, "zstandard", None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UsageError, match=r"install .*zstandard.* or the zstd program"):
        find_zstd()


def test_the_program_stands_in_for_the_packages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "compression.zstd", None)
    monkeypatch.setitem(sys.modules, "zstandard", None)
    program_zstd()
    assert find_zstd().name == "program"


def test_a_python_without_xz_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lzma", None)
    with pytest.raises(UsageError, match=r"image.tar.xz: this Python has no xz"):
        open_decompressed(Pipe(b""), Compression.XZ, name="image.tar.xz")


def test_without_isal_zlib_reads_gzip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "isal.igzip_lib", None)
    reader = open_decompressed(Pipe(gzip.compress(CONTENT)), Compression.GZIP)
    assert read_all(reader) == CONTENT


@pytest.mark.parametrize("compression", list(Compression))
def test_closing_the_reader_closes_the_file(compression: Compression) -> None:
    file = Pipe(b"")
    reader = open_decompressed(file, compression)
    assert reader.readable()
    reader.close()
    reader.close()
    assert file.closed


@pytest.fixture
def cancellation() -> Iterator[Cancellation]:
    with Cancellation() as made:
        yield made


@pytest.mark.parametrize("compression", list(Compression))
def test_one_pass_shows_both_digests(
    cancellation: Cancellation, compression: Compression
) -> None:
    packed = CONTENT
    if compression is not Compression.NONE:
        packed = PACKERS[compression.value](CONTENT) * 2
    counts: list[int] = []
    told = digests(
        Pipe(packed),
        compression,
        cancellation=cancellation,
        on_read=counts.append,
    )
    content = packed if compression is Compression.NONE else CONTENT * 2
    assert told.digest == "sha256:" + hashlib.sha256(packed).hexdigest()
    assert told.diff_id == "sha256:" + hashlib.sha256(content).hexdigest()
    assert told.size == sum(counts) == len(packed)
    assert all(counts)


def test_hashing_stops_when_cancelled(cancellation: Cancellation) -> None:
    file = Pipe(gzip.compress(random.Random(1).randbytes(400_000)), 1000)
    with pytest.raises(Cancelled, match=r"enough"):
        digests(
            file,
            Compression.GZIP,
            cancellation=cancellation,
            on_read=lambda count: cancellation.cancel("enough"),
        )
    assert file.closed


def test_hashing_a_broken_layer_names_it(cancellation: Cancellation) -> None:
    with pytest.raises(ArchiveError, match=r"^abc/layer.tar: the gzip stream is trunc"):
        digests(
            Pipe(gzip.compress(CONTENT)[:-3]),
            Compression.GZIP,
            cancellation=cancellation,
            on_read=lambda count: None,
            name="abc/layer.tar",
        )
