"""Sparse members, as GNU tar and bsdtar write them, are read as the files they were."""

from __future__ import annotations

import io
import subprocess
import tarfile
from functools import partial
from pathlib import Path
from typing import Any, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockerpush.archive import sparse
from dockerpush.archive.headers import TarStream
from dockerpush.archive.stored import MemberKind
from dockerpush.archive.tar import TarSource
from dockerpush.errors import ArchiveError

Pieces = list[tuple[int, bytes]]


@st.composite
def files(draw: Any) -> tuple[int, Pieces]:
    """The size of a file and its pieces with data, ascending."""
    pieces: Pieces = []
    end = 0
    for hole, length in draw(
        st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 900)), max_size=9)
    ):
        start = end + hole
        pieces.append((start, bytes((start + n) % 251 + 1 for n in range(length))))
        end = start + length
    size = end + draw(st.integers(0, 3000))
    return size, pieces or [(size, b"")]  # tarfile takes no empty map


def content_of(size: int, pieces: Pieces) -> bytes:
    content = bytearray(size)
    for start, data in pieces:
        content[start : start + len(data)] = data
    return bytes(content)


def pax(records: dict[str, str], stored: bytes, extra: bytes = b"") -> bytes:
    member = tarfile.TarInfo("GNUSparseFile.0/a")
    member.size = len(stored)
    header = member.create_pax_header(
        {"size": len(stored)} | member.get_info(), "utf-8"
    )
    block = header[-512:]
    body = extra + b"".join(record(key, value) for key, value in records.items())
    above = tarfile.TarInfo("pax")
    above.type, above.size = b"x", len(body)
    return b"".join(
        map(padded, (above.tobuf(tarfile.USTAR_FORMAT), body, block, stored))
    )


def record(key: str, value: str) -> bytes:
    text = f" {key}={value}\n".encode()
    length = len(text) + len(str(len(text)))
    length = len(text) + len(str(length))
    return str(length).encode() + text


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


def form_00(size: int, pieces: Pieces) -> bytes:
    parts = [
        record(f"GNU.sparse.{key}", str(value))
        for start, data in pieces
        for key, value in (("offset", start), ("numbytes", len(data)))
    ]
    records = {
        "GNU.sparse.size": str(size),
        "GNU.sparse.numblocks": str(len(pieces)),
        "path": "a",
    }
    return pax(records, b"".join(data for _, data in pieces), b"".join(parts))


def form_01(size: int, pieces: Pieces) -> bytes:
    written = ",".join(f"{start},{len(data)}" for start, data in pieces)
    records = {
        "GNU.sparse.size": str(size),
        "GNU.sparse.numblocks": str(len(pieces)),
        "GNU.sparse.map": written,
        "GNU.sparse.name": "a",
    }
    return pax(records, b"".join(data for _, data in pieces))


def form_10(size: int, pieces: Pieces) -> bytes:
    lines = [len(pieces)] + [n for start, data in pieces for n in (start, len(data))]
    head = padded("".join(f"{line}\n" for line in lines).encode())
    records = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "a",
        "GNU.sparse.realsize": str(size),
    }
    return pax(records, head + b"".join(data for _, data in pieces))


def number(value: int) -> bytes:
    octal = b"%011o\0" % value
    return octal if len(octal) == 12 else b"\x80" + value.to_bytes(11, "big")


def old(size: int, pieces: Pieces) -> bytes:
    stored = b"".join(data for _, data in pieces)
    member = tarfile.TarInfo("a")
    member.type, member.size = b"S", len(stored)
    entries = [number(start) + number(len(data)) for start, data in pieces]
    first, rest = entries[:4], entries[4:]
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[386:482] = b"".join(first).ljust(96, b"\0")
    header[482] = bool(rest)
    header[483:495] = number(size)
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    more = b""
    while rest:
        block = b"".join(rest[:21]).ljust(504, b"\0")
        rest = rest[21:]
        more += block + bytes([bool(rest)]) + bytes(7)
    return bytes(header) + more + padded(stored)


FORMS: list[Callable[[int, Pieces], bytes]] = [old, form_00, form_01, form_10]


def whole(written: bytes) -> bytes:
    """A tar of *written* between two plain members."""
    after = tarfile.TarInfo("after")
    after.size = 3
    return written + padded(after.tobuf()) + padded(b"end") + bytes(1024)


class Pipe(io.BytesIO):
    def seekable(self) -> bool:
        return False


@pytest.mark.parametrize("form", FORMS)
@given(made=files(), step=st.integers(1, 700))
def test_a_sparse_member_is_the_file_that_it_was(form, made, step):
    wanted = content_of(*made)
    raw = whole(form(*made))
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        assert tar.extractfile("a").read() == wanted  # the form is what tarfile reads
    for file in (io.BytesIO(raw), Pipe(raw)):
        found = {}
        stream = TarStream(file)
        for member in stream:
            content = b"".join(iter(partial(stream.read, step), b""))
            found[member.name] = (member.kind, member.size, content)
        assert found["a"] == (MemberKind.FILE, len(wanted), wanted)
        assert found["after"][2] == b"end"


@pytest.mark.parametrize("form", FORMS)
def test_its_bytes_are_read_from_anywhere(form, tmp_path):
    made = (9000, [(0, b"a" * 700), (3000, b"b" * 1), (4000, b"c" * 999)])
    path = tmp_path / "a.tar"
    path.write_bytes(whole(form(*made)))
    source = TarSource(path)
    member = source.members["a"]
    for start in (0, 1, 699, 700, 2999, 3000, 3001, 4500, 4999, 8999, 9000):
        with source.open_member(member, start) as reader:
            assert io.BufferedReader(reader).read() == content_of(*made)[start:]
    with source.open_member(member, 10) as reader:
        reader.seek(2990)
        assert io.BufferedReader(reader).read(3) == b"b\0\0"
    source.close()


@pytest.mark.parametrize("form", FORMS)
def test_a_member_that_is_not_read_is_skipped(form):
    made = (5000, [(100, b"x" * 600)])
    for file in (io.BytesIO(whole(form(*made))), Pipe(whole(form(*made)))):
        assert [member.name for member in TarStream(file)] == ["a", "after"]


@pytest.mark.parametrize(
    "words",
    [
        ("--format=gnu",),
        ("--format=posix", "--sparse-version=0.0"),
        ("--format=posix", "--sparse-version=0.1"),
        ("--format=posix", "--sparse-version=1.0"),
    ],
)
def test_what_gnu_tar_writes_is_read(words, tmp_path):
    file = tmp_path / "a"
    with file.open("wb") as out:
        for start in range(0, 3_000_000, 131_072):  # more pieces than a header holds
            out.seek(start)
            out.write(b"data")
        out.truncate(4_000_000)
    path = tmp_path / "a.tar"
    command = ["tar", "-S", *words, "-cf", path, "-C", tmp_path, "a"]
    subprocess.run(command, check=True)
    assert path.stat().st_size < 1_000_000
    source = TarSource(path)
    with source.open_member(source.members["a"], 0) as reader:
        assert io.BufferedReader(reader).read() == file.read_bytes()
    source.close()


@given(
    st.lists(st.tuples(st.integers(0, 9000), st.integers(0, 9000)), max_size=6),
    st.integers(0, 9000),
    st.integers(0, 9000),
)
def test_a_map_fits_its_member_or_is_refused(pieces, size, stored):
    try:
        made = sparse.SparseMap(pieces, size, stored)
    except sparse.MapError:
        return
    places = []
    position = 0
    view = memoryview(bytearray(700))

    def read(wanted: memoryview, offset: int) -> int:
        places.append((offset, len(wanted)))
        return len(wanted)

    while count := made.fill(view, position, read):
        position += count
    assert position == size
    assert sum(length for _, length in places) == stored
    assert all(0 <= offset <= stored - length for offset, length in places)


@given(
    st.dictionaries(
        st.sampled_from(
            ["map", "major", "minor", "realsize", "size", "offset", "numbytes", "name"]
        ).map("GNU.sparse.{}".format),
        st.text("0123456789,-\n ٣", max_size=12),
    ),
    st.binary(max_size=600),
)
def test_nonsense_is_no_file_and_no_traceback(records, stored):
    records = {key: value.replace("\n", "") for key, value in records.items()}
    raw = whole(pax({**records, "path": "a"}, stored))
    for file in (io.BytesIO(raw), Pipe(raw)):
        try:
            stream = TarStream(file)
            found = {member.name: stream.read(2000) for member in stream}
        except ArchiveError:
            continue
        assert found["after"] == b"end"


@pytest.mark.parametrize("form", FORMS)
def test_holes_without_end_are_refused(form):
    size = sparse.HOLES_LIMIT + 1
    with pytest.raises(ArchiveError, match="bytes of holes"):
        list(TarStream(io.BytesIO(whole(form(size, [])))))
    allowed = form(size + 30, [(0, b"x")])
    assert next(iter(TarStream(io.BytesIO(whole(allowed))))).size == size + 30


def test_many_small_bombs_are_one():
    part = form_01(sparse.HOLES_LIMIT // 3, [])
    with pytest.raises(ArchiveError, match="bytes of holes"):
        list(TarStream(io.BytesIO(part * 4)))


def test_too_many_pieces_are_refused():
    records = {
        **{"GNU.sparse.major": "1", "GNU.sparse.minor": "0"},
        "GNU.sparse.realsize": "5",
    }
    stored = b"%d\n" % (sparse.PIECES_LIMIT + 1)
    with pytest.raises(ArchiveError, match="more than 131072 pieces"):
        list(TarStream(io.BytesIO(whole(pax(records, stored)))))


def test_a_tar_of_a_sparse_file_is_small(tmp_path: Path):
    """Reading a hole takes no memory for its size."""
    made = form_10(1 << 30, [(0, b"x")])
    stream = TarStream(io.BytesIO(whole(made)))
    member = next(iter(stream))
    assert member.size == 1 << 30
    assert stream.read(100_000)[:2] == b"x\0"
