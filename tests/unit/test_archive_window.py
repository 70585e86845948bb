"""Windows on a file."""

from __future__ import annotations

import io
import os

import pytest

from dockerpush.archive.tar import Window
from dockerpush.errors import ArchiveError
from dockerpush.system.files import SharedFile


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(100)))
    shared = SharedFile.open(path)
    yield shared
    shared.close()


def test_a_window_is_a_file_of_its_own(file):
    with Window(file, 10, 20, "x") as window:
        assert window.read() == bytes(range(10, 30))
        assert window.read(1) == b""
        assert window.seek(-5, os.SEEK_END) == 15
        assert window.seek(2, os.SEEK_CUR) == 17
        assert window.tell() == 17
        assert window.read() == bytes(range(27, 30))
        assert window.seek(100) == 100
        assert window.read(1) == b""


def test_it_reads_into_what_it_is_given_and_no_further(file):
    buffer = bytearray(8)
    with Window(file, 95, 3, "x") as window:
        assert window.readinto(buffer) == 3
    assert buffer == bytes([95, 96, 97, 0, 0, 0, 0, 0])


def test_a_buffered_reader_can_be_put_over_it(file):
    with io.BufferedReader(Window(file, 10, 20, "x"), 4) as reader:
        reader.seek(5)
        assert reader.read(2) == bytes([15, 16])


def test_a_seek_before_the_beginning_is_a_mistake(file):
    with Window(file, 10, 20, "x") as window, pytest.raises(ValueError, match="seek"):
        window.seek(-1)


def test_a_file_that_ends_too_early_is_named(file):
    said = pytest.raises(ArchiveError, match=r"some/member: truncated.*10 bytes")
    with Window(file, 90, 20, "some/member") as window, said:
        window.readall()


class BrokenDisk:
    """A file whose reads fail."""

    def readinto(self, buffer, offset):
        raise OSError(5, "Input/output error")


def test_a_file_that_cannot_be_read_is_named():
    said = pytest.raises(ArchiveError, match="some/member: cannot be read: input")
    with Window(BrokenDisk(), 0, 1, "some/member") as window, said:
        window.read(1)


def test_closing_it_twice_gives_back_once(file):
    closed = []
    window = Window(file, 0, 1, "x", on_close=lambda: closed.append(1))
    window.close()
    window.close()
    assert closed == [1]
