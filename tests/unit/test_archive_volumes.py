"""Archives in volumes: read as one file, written whole or not at all."""

from __future__ import annotations

import gzip
import hashlib
import random
import threading
from pathlib import Path

import pytest
from archives import Image, layout, packed, tar
from hypothesis import given
from hypothesis import strategies as some

from dockerpush.archive import open_archive, volume_writer
from dockerpush.archive.forward import open_forward
from dockerpush.archive.volume_writer import VolumeWriter
from dockerpush.archive.volumes import (
    Volumes,
    beginning,
    find,
    looked_for_in,
    volume_path,
)
from dockerpush.errors import ArchiveError, NotFound, PusherError, UsageError
from dockerpush.system.cancellation import Cancellation

CONTENT = random.Random(1).randbytes(10_000)
A = Image.of("one", random.Random(2).randbytes(40_000).hex(), tags=("app:1",))


@pytest.fixture
def cancellation():
    cancellation = Cancellation()
    yield cancellation
    cancellation.close()


def split(path: Path, content: bytes, size: int, *, first: int = 1) -> list[Path]:
    """*content* in volumes of *size* bytes, without sums."""
    paths = []
    for offset in range(0, len(content), size):
        paths.append(volume_path(path, first + offset // size))
        paths[-1].write_bytes(content[offset : offset + size])
    return paths


def written(path: Path, content: bytes, size: int, **options) -> list[Path]:
    with VolumeWriter(path, size, **options) as writer:
        writer.write(content)
    return writer.written


def archive(path: Path, image: Image = A) -> list[Path]:
    """An archive in five volumes with sums: the volumes. None has padding alone."""
    content = packed(layout(image).files()).rstrip(b"\0")
    content += bytes(-len(content) % 512 + 1024)
    return written(path, content, -(-len(content) // 5))[:-1]


def error_of(path: Path) -> str:
    with pytest.raises(ArchiveError) as caught, open_archive(path) as opened:
        for layer in opened.images[0].root.layers:
            with opened.open_at(layer.member) as reader:
                if not layer.digest.fits(reader.readall()):
                    raise ArchiveError("a layer is damaged")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@given(
    size=some.integers(50, 12_000),
    offset=some.integers(0, 11_000),
    count=some.integers(0, 11_000),
    first=some.sampled_from((0, 1)),
)
def test_any_size_gives_the_same_bytes_at_any_offset(
    tmp_path_factory, size, offset, count, first
):
    path = tmp_path_factory.mktemp("volumes") / "file"
    split(path, CONTENT, size, first=first)
    volumes = Volumes(find(path))
    assert volumes.size() == len(CONTENT)
    buffer = bytearray(count)
    got = volumes.readinto(memoryview(buffer), offset)
    volumes.close()
    assert bytes(buffer[:got]) == CONTENT[offset : offset + count]


@given(
    size=some.integers(50, 12_000),
    pieces=some.lists(some.integers(0, 3000), max_size=6),
)
def test_what_is_written_is_what_the_pieces_were(tmp_path_factory, size, pieces):
    path = tmp_path_factory.mktemp("volumes") / "file"
    ends = [min(sum(pieces[:n]), len(CONTENT)) for n in range(len(pieces) + 1)]
    with VolumeWriter(path, size) as writer:
        for start, end in zip((*ends, ends[-1]), (*ends[1:], len(CONTENT))):
            writer.write(CONTENT[start:end])
    *volumes, sums = writer.written
    assert b"".join(one.read_bytes() for one in volumes) == CONTENT
    assert {one.stat().st_size for one in volumes[:-1]} <= {size}
    assert sums.read_text() == "".join(
        f"{hashlib.sha256(one.read_bytes()).hexdigest()}  {one.name}\n"
        for one in volumes
    )
    assert sorted(path.parent.iterdir()) == sorted(writer.written)


def test_threads_read_side_by_side(tmp_path):
    split(tmp_path / "file", CONTENT, 700)
    volumes = Volumes(find(tmp_path / "file"))
    wrong = []

    def read(seed: int) -> None:
        chance, buffer = random.Random(seed), bytearray(1500)
        for _ in range(200):
            offset = chance.randrange(len(CONTENT))
            count = volumes.readinto(memoryview(buffer), offset)
            if bytes(buffer[:count]) != CONTENT[offset : offset + 1500]:
                wrong.append(offset)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    volumes.close()
    assert not wrong


@pytest.mark.parametrize("name", ["image.tar", "image.tar.001"])
def test_both_names_open_the_archive(tmp_path, name):
    archive(tmp_path / "image.tar")
    with open_archive(tmp_path / name) as opened:
        assert opened.images[0].root.config == A.config


def test_a_plain_file_comes_before_volumes(tmp_path):
    archive(tmp_path / "image.tar")
    other = tar(tmp_path / "image.tar", layout(Image.of("x", tags=("b:2",))).files())
    assert beginning(other) == other
    assert find(other) is None


def test_volumes_may_lie_in_several_directories(tmp_path):
    places = [tmp_path / name for name in "abc"]
    for place in places:
        place.mkdir()
    for number, volume in enumerate(archive(tmp_path / "image.tar")):
        volume.rename(places[number % 3] / volume.name)
    (tmp_path / "image.tar.sha256").rename(places[2] / "image.tar.sha256")
    with looked_for_in(places), open_archive(tmp_path / "image.tar") as opened:
        assert opened.images[0].root.config == A.config
    with looked_for_in(places[1:]), open_archive(places[0] / "image.tar.001") as opened:
        assert opened.images[0].root.config == A.config
    assert "image.tar.002, image.tar.003" in error_of(places[0] / "image.tar.001")
    with pytest.raises(NotFound, match="no such directory"), looked_for_in([Path("x")]):
        pass


@pytest.mark.parametrize("missing", range(5))
def test_a_missing_volume_is_named(tmp_path, missing):
    volumes = archive(tmp_path / "image.tar")
    assert len(volumes) == 5
    volumes[missing].unlink()
    said = error_of(tmp_path / "image.tar.001")
    assert f"volume {volumes[missing].name} of 5 is missing" in said
    assert "--volumes DIR" in said


def test_a_missing_last_volume_is_suspected_without_sums(tmp_path):
    *volumes, last = archive(tmp_path / "image.tar")
    last.unlink()
    (tmp_path / "image.tar.sha256").unlink()
    said = error_of(tmp_path / "image.tar")
    assert "truncated" in said
    assert "image.tar.sha256 is missing" in said
    assert f"is there one after {volumes[-1]}?" in said


@pytest.mark.parametrize("number", [1, 3, 4])
def test_a_truncated_volume_is_named(tmp_path, number):
    volume = archive(tmp_path / "image.tar")[number - 1]
    volume.write_bytes(volume.read_bytes()[:-100])
    assert f"volume {volume}: truncated" in error_of(tmp_path / "image.tar")


def test_a_truncated_last_volume_is_named(tmp_path):
    volume = archive(tmp_path / "image.tar")[-1]
    volume.write_bytes(b"")
    assert f"volume {volume}: truncated" in error_of(tmp_path / "image.tar")
    volume.write_bytes(b"x")
    said = error_of(tmp_path / "image.tar")
    assert f"volume {volume} is damaged or of another archive" in said


def test_a_volume_of_another_size_is_named(tmp_path):
    volume = archive(tmp_path / "image.tar")[-1]
    volume.write_bytes(b"x" * 90_001)
    said = error_of(tmp_path / "image.tar")
    assert f"volume {volume}: 90001 bytes, more than" in said


def test_exchanged_volumes_are_named(tmp_path):
    _, two, three, *_ = archive(tmp_path / "image.tar")
    two.rename(tmp_path / "x")
    three.rename(two)
    (tmp_path / "x").rename(three)
    said = error_of(tmp_path / "image.tar")
    assert f"volume {two}, {three} is damaged or of another archive" in said


@pytest.mark.parametrize("number", range(5))
def test_a_damaged_volume_is_named(tmp_path, number):
    volume = archive(tmp_path / "image.tar")[number]
    content = bytearray(volume.read_bytes())
    place = len(content) // 3
    content[place : place + 600] = bytes(600)
    volume.write_bytes(content)
    assert f"volume {volume} is damaged" in error_of(tmp_path / "image.tar")


def test_volumes_of_two_archives_are_distinguished(tmp_path):
    archive(tmp_path / "image.tar")
    (tmp_path / "other").mkdir()
    other = Image.of("two", random.Random(5).randbytes(40_000).hex(), tags=("app:1",))
    volumes = archive(tmp_path / "other/image.tar", other)
    volumes[2].replace(tmp_path / "image.tar.003")
    said = error_of(tmp_path / "image.tar")
    assert f"volume {tmp_path / 'image.tar.003'} is damaged or of another" in said
    for volume in volumes[:2] + volumes[3:]:
        volume.replace(tmp_path / volume.name)
    content = bytearray((tmp_path / "image.tar.001").read_bytes())
    content[-2000:-1000] = bytes(1000)
    (tmp_path / "image.tar.001").write_bytes(content)
    assert "no volume has the sum that image.tar.sha256" in error_of(
        tmp_path / "image.tar"
    )


def test_a_later_volume_is_refused_with_the_first_ones_name(tmp_path):
    archive(tmp_path / "image.tar")
    with pytest.raises(ArchiveError, match=r"later volume.*image.tar.001"):
        open_archive(tmp_path / "image.tar.002")


def test_a_damaged_file_of_sums_is_named(tmp_path):
    archive(tmp_path / "image.tar")
    (tmp_path / "image.tar.sha256").write_bytes(b"\0\xff\n")
    assert "image.tar.sha256: damaged" in error_of(tmp_path / "image.tar")


def test_the_sum_of_the_whole_archive_is_no_list_of_volumes(tmp_path):
    archive(tmp_path / "image.tar")
    (tmp_path / "image.tar.sha256").write_text(f"{'a' * 64}  image.tar\n")
    with open_archive(tmp_path / "image.tar") as opened:
        assert opened.images


def test_a_compressed_archive_that_split_cut_is_read_too(tmp_path, cancellation):
    content = gzip.compress(packed(layout(A).files()))
    split(tmp_path / "x.tar.gz", content, 7000, first=0)
    with open_forward(tmp_path / "x.tar.gz.000", cancellation) as forward:
        for _ in forward.files():
            pass
        assert forward.index.images()[0].root.config == A.config
    (tmp_path / "x.tar.gz.002").unlink()
    with pytest.raises(ArchiveError, match=r"x\.tar\.gz\.002 is missing"):
        open_forward(tmp_path / "x.tar.gz", cancellation)


def test_a_damaged_volume_of_a_compressed_archive_is_named(tmp_path, cancellation):
    content = gzip.compress(packed(layout(A).files()))
    volumes = written(tmp_path / "x.tar.gz", content, 7000)
    content = bytearray(volumes[2].read_bytes())
    content[100:200] = bytes(100)
    volumes[2].write_bytes(content)
    with (
        pytest.raises(ArchiveError, match=f"volume {volumes[2]} is damaged"),
        open_forward(tmp_path / "x.tar.gz", cancellation) as forward,
    ):
        for _ in forward.files():
            pass


def test_a_failed_run_leaves_what_was_there_and_nothing_else(tmp_path):
    before = written(tmp_path / "file", b"old" * 100, 200)
    kept = {one: one.read_bytes() for one in before}
    with pytest.raises(KeyError), VolumeWriter(tmp_path / "file", 100) as writer:
        writer.write(CONTENT)
        raise KeyError
    assert {
        one: one.read_bytes() for one in tmp_path.iterdir() if one.is_file()
    } == kept


def test_volumes_of_an_older_longer_archive_go(tmp_path):
    written(tmp_path / "file", CONTENT, 1000)
    split(tmp_path / "file", b"0", 1, first=0)
    (tmp_path / "file.999").mkdir()  # no volume
    after = written(tmp_path / "file", b"new" * 100, 200)
    assert sorted(after) == sorted(one for one in tmp_path.iterdir() if one.is_file())
    assert Volumes(find(tmp_path / "file")).size() == 300


def test_two_runs_never_write_one_archive(tmp_path):
    with VolumeWriter(tmp_path / "file", 100) as first:
        first.write(b"1" * 150)
        said = pytest.raises(PusherError, match="another run is writing")
        with said, VolumeWriter(tmp_path / "file", 100):
            pass
        first.write(b"1" * 150)
    assert Volumes(find(tmp_path / "file")).size() == 300


def test_what_exists_is_kept_on_request(tmp_path):
    *volumes, _ = written(tmp_path / "file", CONTENT, 1000)
    for _ in range(2):
        with (
            pytest.raises(FileExistsError),
            VolumeWriter(tmp_path / "file", 10, no_clobber=True),
        ):
            pass
        for volume in volumes:  # the sums alone are kept, too
            volume.unlink(missing_ok=True)


def test_a_plain_archive_of_that_name_is_not_hidden_beside_volumes(tmp_path):
    (tmp_path / "file").write_bytes(b"plain")
    said = pytest.raises(UsageError, match="in place of its volumes")
    with said, VolumeWriter(tmp_path / "file", 10):
        pass


def test_more_volumes_than_there_are_numbers_are_refused(tmp_path, monkeypatch):
    said = pytest.raises(UsageError, match="more than 999 volumes of 10 bytes")
    with said, VolumeWriter(tmp_path / "file", 10, expected=10_000):
        pass
    monkeypatch.setattr(volume_writer, "MOST", 5)
    said = pytest.raises(UsageError, match="more than 5 volumes of 10 bytes")
    with said, VolumeWriter(tmp_path / "file", 10) as writer:
        writer.write(b"x" * 51)
    assert [one for one in tmp_path.iterdir() if one.is_file()] == []


def test_what_has_no_room_is_refused_before_it_begins(tmp_path):
    said = pytest.raises(PusherError, match="make room")
    with said, VolumeWriter(tmp_path / "file", 1 << 60, expected=1 << 60):
        pass
