"""Opening archives from disk, and reading what they hold."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import json
import lzma
import os
import random
import threading
import tracemalloc
from pathlib import Path

import pytest
from archives import Image, Layout, blob, folder, layout, legacy, packed, simple, tar
from nobody import as_nobody

from dockerpush.archive import open_archive
from dockerpush.archive.forward import open_forward
from dockerpush.errors import (
    ArchiveError,
    InvalidDigest,
    InvalidJSON,
    NotFound,
    PusherError,
)
from dockerpush.system.cancellation import Cancellation

A = Image.of("one", "two", tags=("app:1",))

OUR_ERRORS = (ArchiveError, InvalidJSON, InvalidDigest)


def error_of(path) -> str:
    with pytest.raises(PusherError) as caught:
        open_archive(path)
    said = str(caught.value)
    assert "\n" not in said
    return said


@pytest.fixture
def written(tmp_path):
    """``written(content)``: a file with this content."""

    def written(content: bytes, name: str = "image.tar") -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return written


@pytest.mark.parametrize("place", [tar, folder])
def test_a_tar_and_a_directory_give_the_same_images_and_bytes(tmp_path, place):
    with open_archive(place(tmp_path / "image", layout(A).files())) as archive:
        assert archive.path == tmp_path / "image"
        (image,) = archive.images
        assert image.root.config == A.config
        for stored, content in zip(image.root.layers, A.layers):
            with archive.open_at(stored.member) as reader:
                assert gzip.decompress(reader.readall()) == content


@pytest.mark.parametrize("place", [tar, folder])
def test_readers_are_independent_and_start_anywhere(tmp_path, place):
    files = simple(A)
    with open_archive(place(tmp_path / "image", files)) as archive:
        stored = archive.images[0].entry.layers[1]
        late, early = (archive.open_at(stored.member, start) for start in (600, 0))
        with late, early:
            assert early.read(7) == A.layers[1][:7]
            assert late.readall() == A.layers[1][600:]
            assert early.readall() == A.layers[1][7:]
        with archive.open_at(stored.member, stored.size) as at_the_end:
            assert at_the_end.read(1) == b""


@pytest.mark.parametrize("place", [tar, folder])
def test_threads_read_side_by_side(tmp_path, place):
    content = random.Random(3).randbytes(1 << 20)
    image = Image((content, A.layers[0]))
    with open_archive(place(tmp_path / "image", simple(image))) as archive:
        member = archive.images[0].entry.layers[0].member
        right = []

        def read(offset: int) -> None:
            with archive.open_at(member, offset) as reader:
                right.append(reader.readall() == content[offset:])

        threads = [threading.Thread(target=read, args=(n * 999,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    assert right == [True] * 8


@pytest.mark.parametrize("place", [tar, folder])
def test_an_archive_that_shrinks_is_noticed_and_named(tmp_path, place):
    path = place(tmp_path / "image", simple(A))
    with open_archive(path) as archive:
        member = archive.images[0].entry.layers[0].member
        os.truncate(path if path.is_file() else path / member, 700)
        said = pytest.raises(ArchiveError, match=rf"{member}: truncated")
        with archive.open_at(member) as reader, said:
            reader.readall()


def test_a_file_that_vanishes_from_a_directory_is_named(tmp_path):
    path = folder(tmp_path / "image", simple(A))
    with open_archive(path) as archive:
        member = archive.images[0].entry.layers[0].member
        (path / member).unlink()
        with pytest.raises(ArchiveError, match=f"{member}.*cannot be read"):
            archive.open_at(member)


@pytest.mark.parametrize(("member", "offset"), [("gone", 0), ("config.json", 10**6)])
def test_what_is_not_there_cannot_be_opened(tmp_path, member, offset):
    said = pytest.raises(ArchiveError, match=f"no byte {offset} of '{member}'")
    with open_archive(tar(tmp_path / "image", simple(A))) as archive, said:
        archive.open_at(member, offset)


# What is no archive says what it is and what to do.


@pytest.mark.parametrize(
    ("pack", "name", "command"),
    [
        (gzip.compress, "image.tar.gz", "gunzip {path}"),
        (gzip.compress, "image.tgz", "gunzip {path}"),
        (gzip.compress, "image.tar", "gunzip < {path} > image-plain.tar"),
        (bz2.compress, "image.tar.bz2", "bunzip2 {path}"),
        (lzma.compress, "image.tar.xz", "unxz {path}"),
        (lambda content: b"\x28\xb5\x2f\xfd" + content, "i.tar.zst", "unzstd {path}"),
    ],
)
def test_a_compressed_archive_says_how_to_decompress_it(written, pack, name, command):
    path = written(pack(packed(simple(A))), name)
    assert command.format(path=path) in error_of(path)


def test_standard_input_says_to_use_a_file():
    assert "write it to a file first" in error_of("-")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"\0" * 2048, "starts with zeros"),
        (b"<!DOCTYPE html><p>sign in", "HTML"),
        (b'{"errors": []}', "a JSON file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"PK\x03\x04" + b"\0" * 600, "a zip file"),
        (b"\x7fELF" + b"\0" * 600, "a program"),
        (b"hello\n", "a text file"),
        (b"\x01\x02\x03" * 300, "not a tar"),
        (b"\0" * 100, "not a tar"),
    ],
)
def test_another_file_says_what_it_looks_like(written, content, said):
    path = written(content)
    assert said in error_of(path)
    assert str(path) in error_of(path)


def test_a_missing_file_is_not_found(tmp_path):
    for path in (
        tmp_path / "gone.tar",
        tmp_path / "gone" / "x",
        written_file(tmp_path),
    ):
        with pytest.raises(NotFound, match="no such file"):
            open_archive(path)


def written_file(tmp_path: Path) -> Path:
    """A path below something that is no directory."""
    (tmp_path / "file").write_bytes(b"x")
    return tmp_path / "file" / "image.tar"


def test_a_pipe_or_device_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    assert "not a regular file" in error_of(tmp_path / "fifo")
    assert "not a regular file" in error_of("/dev/null")


def test_a_file_that_cannot_be_opened_says_why(tmp_path):
    assert "cannot be read: file name too long" in error_of(tmp_path / ("x" * 300))
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert "cannot be read: too many levels" in error_of(loop)


@pytest.mark.parametrize("name", ["image.tar", "image.tar.gz"])
def test_a_file_that_nobody_may_read_is_not_called_broken(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(b"x")
    path.chmod(0)
    raised = pytest.raises(PusherError)
    with Cancellation() as run, as_nobody(tmp_path), raised as caught:
        open_forward(path, run) if name.endswith(".gz") else open_archive(path)
    assert str(caught.value) == f"{path}: cannot be read: permission denied"
    assert not isinstance(caught.value, ArchiveError)


def test_a_directory_without_an_image_says_so(tmp_path):
    assert "the directory holds no image" in error_of(tmp_path)


def test_a_directory_with_too_many_files_is_refused(tmp_path):
    path = folder(tmp_path / "image", layout(A).files())
    for number in range(225):
        (path / f"{number}").mkdir()
    many = path / "0"
    for number in range(225):
        (many / f"{number}").touch()
    for number in range(1, 225):
        (path / f"{number}").rmdir()
        (path / f"{number}").symlink_to("0")
    assert "more than 50000 files" in error_of(path)


def test_links_inside_a_directory_are_followed(tmp_path):
    files = layout(A).files()
    (tmp_path / "image").mkdir()
    folder(tmp_path / "image" / "real", {k: v for k, v in files.items() if "/" in k})
    folder(tmp_path / "image", {k: v for k, v in files.items() if "/" not in k})
    (tmp_path / "image" / "blobs").symlink_to("real/blobs")
    with open_archive(tmp_path / "image") as archive:
        member = archive.images[0].root.layers[0].member
        with archive.open_at(member) as reader:
            assert gzip.decompress(reader.readall()) == A.layers[0]


@pytest.mark.parametrize("name", ["index.json", blob(A.config)])
def test_links_that_leave_the_directory_are_refused_when_needed(tmp_path, name):
    path = folder(tmp_path / "image", layout(A).files())
    (path / name).rename(tmp_path / "outside")
    (path / name).symlink_to(tmp_path / "outside")
    said = error_of(path)
    assert f"'{name}': a symbolic link that leads out of the directory" in said


def test_a_link_that_leaves_the_directory_harms_nobody_who_does_not_need_it(tmp_path):
    path = folder(tmp_path / "image", layout(A).files())
    (path / "other").symlink_to("/etc")
    (path / "loop").symlink_to("loop")
    with open_archive(path) as archive:
        assert len(archive.images) == 1
        with pytest.raises(ArchiveError):
            archive.open_at("other/passwd")


def test_a_link_that_is_swapped_after_opening_is_refused(tmp_path):
    path = folder(tmp_path / "image", simple(A))
    with open_archive(path) as archive:
        member = archive.images[0].entry.layers[0].member
        (path / member).unlink()
        (path / member).symlink_to("/etc/passwd")
        with pytest.raises(ArchiveError, match="leads out of the directory"):
            archive.open_at(member)


def test_only_headers_and_small_json_are_read(tmp_path):
    """10 GiB of layer, which the file system does not even hold, open at once."""
    path = tar(tmp_path / "image.tar", simple(A, {"huge.tar": b"", "small.tar": b"x"}))
    data = path.read_bytes()
    start = data.index(b"huge.tar\0")
    header = bytearray(data[start : start + 512])
    header[124:136] = b"\x80" + (10 << 30).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    with path.open("wb") as file:
        file.write(data[:start] + header)
        file.seek(10 << 30, os.SEEK_CUR)
        file.write(data[start + 512 :])
    before = bytes_read()
    with open_archive(path) as archive:
        assert archive.images[0].entry.layers[0].size == 10 << 30
        assert bytes_read() - before < 100_000
        member = archive.images[0].entry.layers[0].member
        with archive.open_at(member, (10 << 30) - 3) as reader:
            assert reader.readall() == b"\0\0\0"


def bytes_read() -> int:
    """What this process has read by now (proc(5), /proc/pid/io, rchar)."""
    return int(Path("/proc/self/io").read_text().split()[1])


@pytest.mark.long
def test_thousands_of_manifests_take_little_memory(tmp_path):
    """8,000 entries of which one is there, and 2,000 that are there."""
    one = layout(A)
    entry = one.entries[0]
    absent = [{**entry, "digest": f"sha256:{n:064x}"} for n in range(8_000)]
    index = json.dumps(
        {"schemaVersion": 2, "manifests": [entry, *absent]}, separators=(",", ":")
    ).encode()
    outer = {"digest": "sha256:" + blob(index)[13:], "size": len(index)}
    files = Layout({**one.blobs, blob(index): index}, (outer,)).files()
    images = [Image((), architecture=f"a{number}") for number in range(2000)]
    many = layout(*images)
    for case in (files, many.files()):
        path = tar(tmp_path / "image.tar", case)
        tracemalloc.start()
        try:
            with open_archive(path) as archive:
                assert archive.images
            assert tracemalloc.get_traced_memory()[1] < 20 << 20
        finally:
            tracemalloc.stop()


@pytest.mark.long
def test_a_tar_of_the_most_members_takes_bounded_memory(tmp_path):
    header = bytearray(packed({"n" * 77: b""})[:512])
    checksum = sum(header[:148]) + sum(header[156:]) + 256
    path = tmp_path / "image.tar"
    with path.open("wb") as file:
        for number in range(49_999):
            digits = b"%05d" % number
            header[:5] = digits
            header[148:156] = b"%06o\0 " % (checksum + sum(digits) - 5 * ord("n"))
            file.write(header)
    tracemalloc.start()
    try:
        assert "it holds no image" in error_of(path)
        assert tracemalloc.get_traced_memory()[1] < 24 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "files",
    [legacy(A), layout(A).annotated(ref="1").files(), simple(A)],
    ids=["legacy", "oci", "simple"],
)
def test_an_archive_cut_anywhere_is_refused_or_whole(written, files):
    """A copy that stopped early never passes for an image with fewer layers."""
    content = packed(files)
    with open_archive(written(content)) as archive:
        whole = archive.images
    for size in range(0, len(content), 512):
        path = written(content[:size])
        with contextlib.suppress(*OUR_ERRORS), open_archive(path) as archive:
            assert archive.images == whole


@pytest.mark.parametrize(
    "files",
    [legacy(A), layout(A).annotated(ref="1").files()],
    ids=["legacy", "oci"],
)
def test_damaged_json_is_nothing_but_our_errors(written, files):
    """Bytes of the JSON changed, the tar kept sound."""
    source = random.Random(11)
    names = [
        name for name, x in files.items() if isinstance(x, bytes) and x[:1] in b"[{"
    ]
    words = [
        b'"',
        b"null",
        b"[]",
        b"{}",
        b"-1",
        b"1e999",
        b"0" * 20,
        b"sha256:",
        b"../",
    ]
    for _ in range(600):
        name = source.choice(names)
        content = bytearray(files[name])
        for _ in range(source.randint(1, 3)):
            start = source.randrange(len(content))
            end = start + source.randrange(12)
            content[start:end] = source.choice([*words, source.randbytes(2)])
        changed = {**files, name: bytes(content)}
        with contextlib.suppress(*OUR_ERRORS):
            open_archive(written(packed(changed))).close()


def test_nothing_stays_open_after_an_error(written):
    """An unclosed file is a ResourceWarning, which fails the test."""
    before = open_files()
    for content in (b"", b"x" * 600, packed({"manifest.json": b"[1]"})):
        error_of(written(content))
    assert open_files() == before


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
