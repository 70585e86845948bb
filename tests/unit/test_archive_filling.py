"""A tar that is filled in any order, by several runs if need be."""

from __future__ import annotations

import errno
import os
import random
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

import pytest

from dockerpush.archive import writers
from dockerpush.archive.writers import BundledImage, FilledTar, tar_layout
from dockerpush.errors import (
    Cancelled,
    ContentMismatch,
    NetworkError,
    NotFoundInRegistry,
    PusherError,
    RegistryError,
)
from dockerpush.oci import OCI_LAYER, Descriptor
from dockerpush.system.files import claimed

CONTENTS = [random.Random(size).randbytes(size) for size in (70_000, 0, 511, 512, 9)]
BLOBS = [Descriptor.of(OCI_LAYER, content) for content in CONTENTS]
LAYOUT = tar_layout([BundledImage(BLOBS[0], ("app:1",), tuple(BLOBS))], docker=False)


def whole() -> bytes:
    """The tar as it has to be in the end."""
    content = {blob.digest: raw for blob, raw in zip(BLOBS, CONTENTS)}
    return b"".join(
        content[piece.blob.digest] if piece.blob else piece.content
        for piece in LAYOUT.pieces
    )


def fill(tar: FilledTar, number: int, until: int | None = None) -> int:
    """Write the blob *number*, at most *until* some byte; from where it went on."""
    with tar.place(BLOBS[number]) as place:
        content = CONTENTS[number][:until]
        place.file.seek(place.start + place.have)
        place.file.write(content[place.have :])
        place.on_written(len(content))
        return place.have


def fill_all(path: Path, *, no_clobber: bool = False) -> list[int]:
    with FilledTar(path, LAYOUT, no_clobber=no_clobber) as tar:
        return [fill(tar, number) for number in reversed(range(len(BLOBS)))][::-1]


def interrupted(path: Path, error: Exception) -> None:
    """Fill a part, then fail by *error*."""
    with (
        pytest.raises(type(error)),
        FilledTar(path, LAYOUT, no_clobber=False) as tar,
    ):
        fill(tar, 0, 50_000)
        fill(tar, 3)
        raise error


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.name != "temporary")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.tar"


def test_blobs_come_in_any_order(path):
    assert fill_all(path) == [0] * 5
    assert path.read_bytes() == whole()
    assert names(path.parent) == ["out.tar"]


def test_several_threads_fill_it(path):
    with FilledTar(path, LAYOUT, no_clobber=False) as tar:
        threads = [
            threading.Thread(target=fill, args=(tar, number)) for number in range(5)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert path.read_bytes() == whole()


def test_the_name_is_given_in_the_end(path):
    path.write_bytes(b"old")
    with FilledTar(path, LAYOUT, no_clobber=False) as tar:
        for number in range(5):
            fill(tar, number)
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == whole()


@pytest.mark.parametrize(
    "error",
    [
        Cancelled("stop"),
        NetworkError("cut"),
        RegistryError("GET", "http://r.test/", 503, "later"),
    ],
)
def test_the_next_run_continues_after_an_interruption(error, path):
    interrupted(path, error)
    assert names(path.parent) == [".out.tar.part"]
    assert fill_all(path) == [50_000, 0, 0, 512, 0]
    assert path.read_bytes() == whole()
    assert names(path.parent) == ["out.tar"]


def test_the_next_run_continues_after_a_kill(path, monkeypatch):
    """Nothing is written when a process is killed: what was noted before has to do."""
    monkeypatch.setattr(writers, "NOTE_EVERY", 0.0)
    interrupted(path, Cancelled("stop"))
    part = path.with_name(".out.tar.part")
    before = part.read_bytes()
    tar = FilledTar(path, LAYOUT, no_clobber=False).__enter__()
    fill(tar, 2)
    after = part.read_bytes()
    tar.__exit__(RegistryError, RegistryError("GET", "", 500, ""), None)
    for left, have in (
        (before, [50_000, 0, 0, 512, 0]),
        (after, [50_000, 0, 511, 512, 0]),
    ):
        part.write_bytes(left)
        assert fill_all(path) == have
        assert path.read_bytes() == whole()


def test_a_run_that_is_killed_at_once_costs_nothing(path):
    interrupted(path, Cancelled("stop"))
    part = path.with_name(".out.tar.part")
    tar = FilledTar(path, LAYOUT, no_clobber=False).__enter__()
    left = part.read_bytes()
    tar.__exit__(None, None, None)
    part.write_bytes(left)
    assert fill_all(path) == [50_000, 0, 0, 512, 0]


@pytest.mark.parametrize(
    "error",
    [
        ContentMismatch("wrong"),
        NotFoundInRegistry("GET", "http://r.test/", 404, "gone"),
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("a bug"),
    ],
)
def test_nothing_is_left_by_another_failure(error, path):
    path.write_bytes(b"old")
    interrupted(path, error)
    assert names(path.parent) == ["out.tar"]
    assert path.read_bytes() == b"old"


def test_nothing_is_left_by_a_run_that_did_nothing(path):
    with pytest.raises(Cancelled), FilledTar(path, LAYOUT, no_clobber=False):
        raise Cancelled("at once")
    assert names(path.parent) == []


def test_another_image_under_the_same_name_starts_over(path):
    interrupted(path, Cancelled("stop"))
    content = b"another" * 30_000
    blob = Descriptor.of(OCI_LAYER, content)
    other = tar_layout([BundledImage(blob, ("app:1",), (blob,))], docker=False)
    with FilledTar(path, other, no_clobber=False) as tar, tar.place(blob) as place:
        assert place.have == 0
        tar.write(blob, content)
    assert content in path.read_bytes()
    assert path.stat().st_size == other.size
    assert names(path.parent) == ["out.tar"]


@pytest.mark.parametrize(
    "note",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"key": 1}',
        b"\0" * 5000,
        b"[" * 100_000,
        b'{"key": "KEY"}',
        b'{"key": "KEY", "have": 1}',
        b'{"key": "KEY", "have": {"a": "b"}}',
        b'{"key": "KEY", "have": {"DIGEST": true}}',
    ],
    ids=range(11),
)
def test_a_note_that_cannot_be_read_counts_for_nothing(note, path):
    interrupted(path, Cancelled("stop"))
    part = path.with_name(".out.tar.part")
    content = part.read_bytes()
    key = content[LAYOUT.size :].partition(b'"key":"')[2][:64]
    assert len(key) == 64
    note = note.replace(b"KEY", key).replace(b"DIGEST", str(BLOBS[0].digest).encode())
    part.write_bytes(content[: LAYOUT.size] + note)
    assert fill_all(path) == [0] * 5
    assert path.read_bytes() == whole()


def test_a_note_that_promises_too_much_is_cut_to_the_blob(path):
    interrupted(path, Cancelled("stop"))
    part = path.with_name(".out.tar.part")
    part.write_bytes(part.read_bytes().replace(b":50000", b":99999999"))
    with (
        FilledTar(path, LAYOUT, no_clobber=False) as tar,
        tar.place(BLOBS[0]) as place,
    ):
        assert place.have == BLOBS[0].size


class TestOthers:
    """Another run that writes the same file at the same time."""

    @contextmanager
    def running(self, path: Path) -> Iterator[None]:
        with claimed(path.with_name(f".{path.name}.part.lock")) as held:
            assert held
            yield

    def test_it_is_not_disturbed(self, path):
        part = path.with_name(".out.tar.part")
        part.write_bytes(b"theirs")
        with self.running(path):
            fill_all(path)
            assert part.read_bytes() == b"theirs"
        assert path.read_bytes() == whole()
        assert names(path.parent) == [".out.tar.part", "out.tar"]

    def test_nobody_could_find_what_is_left_beside_it(self, path):
        with self.running(path):
            interrupted(path, Cancelled("stop"))
        assert names(path.parent) == []

    def test_the_first_one_stays_with_no_clobber(self, path):
        with (
            pytest.raises(FileExistsError),
            FilledTar(path, LAYOUT, no_clobber=True),
        ):
            path.write_bytes(b"first")
        assert path.read_bytes() == b"first"
        assert names(path.parent) == ["out.tar"]

    def test_without_locks_each_has_a_part_of_its_own(self, path, monkeypatch):
        def no_locks(lock: Path, timeout: float = 0.0) -> Iterator[bool]:
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(writers, "claimed", contextmanager(no_locks))
        interrupted(path, Cancelled("stop"))
        assert names(path.parent) == []
        assert fill_all(path) == [0] * 5
        assert path.read_bytes() == whole()


class TestRoom:
    def test_it_is_looked_at_before_anything_is_fetched(self, path, monkeypatch):
        have_room(monkeypatch, LAYOUT.size - 1)
        with pytest.raises(PusherError, match=r"out\.tar: it takes .* free: make room"):
            fill_all(path)
        assert names(path.parent) == []

    def test_what_is_there_already_takes_none(self, path, monkeypatch):
        interrupted(path, Cancelled("stop"))
        have_room(monkeypatch, LAYOUT.size - 50_000)
        fill_all(path)
        assert path.read_bytes() == whole()

    def test_what_is_there_stays_when_the_rest_has_no_room(self, path, monkeypatch):
        interrupted(path, Cancelled("stop"))
        with monkeypatch.context() as context:
            have_room(context, 5000)
            with pytest.raises(PusherError):
                fill_all(path)
        assert fill_all(path)[0] == 50_000

    def test_what_is_there_of_another_image_is_gone_first(self, path, monkeypatch):
        part = path.with_name(".out.tar.part")
        part.write_bytes(b"another" * 100_000)
        sizes = []

        def usage(directory: Path) -> Free:
            sizes.append(part.stat().st_size)
            return Free(LAYOUT.size)

        monkeypatch.setattr(writers.shutil, "disk_usage", usage)
        fill_all(path)
        assert sizes == [0]

    def test_a_file_that_cannot_grow_so_far_is_gone(self, path, monkeypatch):
        """As on FAT, which has no files of 4 GiB."""
        monkeypatch.setattr(FilledTar, "_note", too_large)
        with pytest.raises(OSError, match="too large"):
            fill_all(path)
        assert names(path.parent) == []


class Free:
    def __init__(self, free: int) -> None:
        self.free = free


def have_room(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(writers.shutil, "disk_usage", lambda directory: Free(count))


def too_large(tar: FilledTar) -> None:
    raise OSError(errno.EFBIG, "File too large")


def test_a_link_stays_a_link(path):
    real = path.with_name("real.tar")
    path.symlink_to(real)
    fill_all(path)
    assert path.is_symlink()
    assert real.read_bytes() == whole()
    assert names(path.parent) == ["out.tar", "real.tar"]


def test_a_directory_that_is_not_there_is_an_os_error(path):
    with pytest.raises(FileNotFoundError):
        fill_all(path / "out.tar")


def test_everybody_may_read_it_as_the_umask_says(path):
    before = os.umask(0o027)
    try:
        fill_all(path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640
