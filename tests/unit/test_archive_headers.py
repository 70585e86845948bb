"""The header parser, against the standard library's and against damage."""

from __future__ import annotations

import io
import random
import tarfile
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dockerpush.archive import headers
from dockerpush.archive.headers import TarStream, normalised
from dockerpush.archive.stored import Member, MemberKind
from dockerpush.errors import ArchiveError

KINDS = {
    tarfile.REGTYPE: MemberKind.FILE,
    tarfile.SYMTYPE: MemberKind.SYMLINK,
    tarfile.LNKTYPE: MemberKind.HARDLINK,
    tarfile.DIRTYPE: MemberKind.DIRECTORY,
    tarfile.FIFOTYPE: MemberKind.OTHER,
    tarfile.CHRTYPE: MemberKind.OTHER,
}


class Pipe(io.RawIOBase):
    """Bytes that can only be read forward, *step* at a time at the most."""

    def __init__(self, content: bytes, step: int = 1 << 20) -> None:
        super().__init__()
        self._rest = memoryview(content)
        self._step = step

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        count = min(len(buffer), self._step, len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def members(content: bytes) -> list[Member]:
    return list(TarStream(io.BytesIO(content)))


def with_content(stream: TarStream) -> list[tuple[str, bytes]]:
    return [(member.name, stream.read(member.size)) for member in stream]


def info(name: str, **fields) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(member, key, value)
    return member


def packed(*items, format=tarfile.PAX_FORMAT, **options) -> bytes:
    """A tar of (TarInfo, content) pairs."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format, **options) as archive:
        for member, content in items:
            if content:
                member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def small() -> bytes:
    """A tar with extension records and every kind of member, content and padding."""
    return packed(
        (info("a/" * 70 + "long"), b"x" * 700),
        (info("link", type=tarfile.SYMTYPE, linkname="b" * 120), b""),
        (info("manifest.json"), b"[]"),
        (info("folder", type=tarfile.DIRTYPE), b""),
        (info("last"), b"y" * 512),
    )


names = st.text(
    st.characters(blacklist_characters="\0\\", blacklist_categories=("Cs",)),
    min_size=1,
    max_size=150,
)
ascii_names = st.text("abc/._-", min_size=1, max_size=90)
contents = st.binary(max_size=1300)


@st.composite
def tars(draw):
    format = draw(
        st.sampled_from([tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
    )
    name = ascii_names if format == tarfile.USTAR_FORMAT else names
    items = []
    for _ in range(draw(st.integers(0, 5))):
        kind = draw(st.sampled_from(list(KINDS)))
        member = info(draw(name), type=kind)
        if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            member.linkname = draw(name)
        items.append((member, draw(contents) if kind == tarfile.REGTYPE else b""))
    return packed(*items, format=format)


@settings(deadline=None)
@given(tars())
def test_any_tar_has_the_members_that_the_standard_library_finds(content):
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        wanted = [
            Member(
                normalised(member.name),
                KINDS[member.type],
                member.size,
                member.offset_data,
                normalised(member.linkname) if member.islnk() else member.linkname,
            )
            for member in archive
        ]
    assert members(content) == wanted
    assert list(TarStream(Pipe(content))) == wanted


@settings(deadline=None)
@given(tars(), st.integers(1, 700))
def test_a_pipe_gives_the_same_content_however_it_is_cut(content, step):
    assert with_content(TarStream(Pipe(content, step))) == with_content(
        TarStream(io.BytesIO(content))
    )


@pytest.mark.parametrize("make", [io.BytesIO, Pipe])
def test_content_that_was_read_in_part_is_left_behind(make):
    stream = TarStream(make(small()))
    found = {member.name: stream.read(3) for member in stream}
    assert found["manifest.json"] == b"[]"
    assert found["last"] == b"yyy"


def test_readinto_stops_at_the_end_of_the_member():
    stream = TarStream(Pipe(packed((info("a"), b"abc"), (info("b"), b"d"))))
    next(iter(stream))
    buffer = bytearray(10)
    assert stream.readinto(buffer) == 3
    assert buffer[:3] == b"abc"
    assert stream.readinto(buffer) == 0


def test_a_file_that_starts_elsewhere_has_offsets_of_the_file():
    file = io.BytesIO(b"j" * 100 + small())
    file.seek(100)
    assert next(iter(TarStream(file))).offset % 512 == 100


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_a_member_of_more_than_8_gib_has_its_true_size(format):
    """PAX writes the size in a record, GNU in base 256; both leave octal behind."""
    size = (8 << 30) + 512
    header = info("huge", size=size).tobuf(format)
    with pytest.raises(ArchiveError, match="truncated"):
        members(header)
    assert next(iter(TarStream(Pipe(header)))).size == size


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("make", [io.BytesIO, Pipe])
def test_names_and_targets_of_any_length_are_whole(make, format):
    """PAX has records for them, GNU members of type L and K before the real one."""
    name, target = "n/" * 300 + "é", "t/" * 400 + "x"
    content = packed(
        (info(name, type=tarfile.SYMTYPE, linkname=target), b""),
        (info(name), b"content"),
        format=format,
    )
    first, second = TarStream(make(content))
    assert (first.name, first.target) == (name, target)
    assert (second.name, second.size) == (name, 7)


def test_global_pax_records_hold_until_a_member_has_its_own():
    content = packed(
        (info("first"), b"1"),
        (info("second", pax_headers={"path": "own"}), b"2"),
        pax_headers={"path": "global", "comment": "whatever"},
    )
    assert [member.name for member in members(content)] == ["global", "own"]


def test_pax_path_and_size_replace_what_the_header_says():
    plain = info("x", size=5).tobuf(tarfile.USTAR_FORMAT)
    records = b"".join(record(key, value) for key, value in [("size", "3")])
    header = info("pax", type=tarfile.XHDTYPE, size=len(records))
    content = (
        header.tobuf(tarfile.USTAR_FORMAT)
        + records.ljust(512, b"\0")
        + plain
        + b"abc".ljust(512, b"\0")
    )
    assert [member.size for member in members(content)] == [3]


def record(key: str, value: str) -> bytes:
    text = f" {key}={value}\n".encode()
    size = len(text) + 1
    while len(str(size)) + len(text) != size:
        size += 1
    return str(size).encode() + text


def pax(*records: bytes) -> bytes:
    content = b"".join(records)
    header = info("pax", type=tarfile.XHDTYPE, size=len(content))
    padding = b"\0" * (-len(content) % 512)
    return header.tobuf(tarfile.USTAR_FORMAT) + content + padding


PLAIN = info("x", size=0).tobuf(tarfile.USTAR_FORMAT)


@pytest.mark.parametrize(
    "records",
    [
        [record("GNU.sparse.major", "1"), record("GNU.sparse.name", "real")],
        [record("GNU.sparse.map", "0,1"), record("path", "real")],
        [record("SCHILY.realsize", "9"), record("path", "real")],
    ],
)
def test_a_sparse_member_is_known_by_its_pax_records(records):
    found = members(pax(*records) + PLAIN)
    assert [(member.name, member.kind) for member in found] == [
        ("real", MemberKind.SPARSE)
    ]


def test_a_gnu_sparse_member_with_a_long_map_is_skipped():
    """The map goes on in blocks behind the header, as many as say so."""
    header = bytearray(info("holes", type=b"S", size=600).tobuf(tarfile.GNU_FORMAT))
    header[482] = 1
    seal(header)
    more = bytearray(512)
    more[504] = 1
    content = bytes(header) + bytes(more) + bytes(512) + b"d" * 1024
    content += packed((info("after"), b"yes"))
    found = members(content)
    assert [(member.name, member.kind) for member in found] == [
        ("holes", MemberKind.SPARSE),
        ("after", MemberKind.FILE),
    ]
    with pytest.raises(ArchiveError, match="truncated"):
        members(content[:900])


def seal(header: bytearray) -> None:
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)


@pytest.mark.parametrize(
    ("records", "said"),
    [
        (b"nonsense", "no length"),
        (b"99 path=x\n", "cut"),
        (b"9 pathxx\n\n", "cut"),
        (b"10 path=xy", "cut"),
        (b"0 a=b\n", "cut"),
        (b"-5 a=b\n", "no length"),
        (record("size", "-1"), "no number"),
        (record("size", "1e3"), "no number"),
        (record("size", "٣"), "no number"),
        (record("size", "9" * 30), "impossible size"),
    ],
)
def test_a_damaged_pax_header_is_refused(records, said):
    with pytest.raises(ArchiveError, match=said):
        members(pax(records) + PLAIN)


@pytest.mark.parametrize("type", [b"x", b"g", b"L", b"K"])
def test_a_header_record_of_any_claimed_size_is_refused_before_it_is_read(type):
    header = info("x", type=type, size=headers.EXTENSION_LIMIT + 1)
    with pytest.raises(ArchiveError, match="header record of 1048577 bytes"):
        members(header.tobuf(tarfile.GNU_FORMAT))


@pytest.mark.parametrize(
    ("field", "said"),
    [
        (b"\xff" * 12, "impossible size of -1 "),
        (b"\x80" + b"\xff" * 11, "impossible size"),
        (b"77777777778\0", "no octal number"),
        (b"-0000000001\0", "no octal number"),
    ],
)
def test_a_size_that_cannot_be_is_refused_by_name(field, said):
    header = bytearray(info("absurd").tobuf(tarfile.USTAR_FORMAT))
    header[124:136] = field
    seal(header)
    with pytest.raises(ArchiveError, match=said) as caught:
        members(bytes(header))
    assert "'absurd'" in str(caught.value)


def test_a_checksum_of_signed_bytes_is_accepted():
    header = bytearray(info("é").tobuf(tarfile.GNU_FORMAT, "latin-1"))
    header[148:156] = b" " * 8
    signed = sum(byte - 256 if byte > 127 else byte for byte in header)
    header[148:156] = b"%06o\0 " % signed
    assert len(members(bytes(header))) == 1


def test_a_wrong_checksum_is_damage_and_says_where():
    content = bytearray(packed((info("a"), b"1"), (info("b"), b"2")))
    content[1024 + 5] ^= 1
    with pytest.raises(ArchiveError, match="no tar header at byte 1024"):
        members(bytes(content))


def test_old_headers_without_magic_are_read():
    header = bytearray(info("folder/").tobuf(tarfile.USTAR_FORMAT))
    header[156] = 0
    header[257:] = bytes(512 - 257)
    seal(header)
    assert members(bytes(header)) == [Member("folder", MemberKind.DIRECTORY, 0, 512)]


@pytest.mark.parametrize("end", [b"", b"\0" * 512, b"\0" * 1024 + b"garbage" * 200])
def test_what_follows_the_last_member_does_not_matter(end):
    """No zero block at all, one, or two and garbage: the content is complete."""
    content = packed((info("a"), b"x" * 512))[:1024]
    assert [member.name for member in members(content + end)] == ["a"]
    assert with_content(TarStream(Pipe(content + end))) == [("a", b"x" * 512)]


def test_a_last_member_without_its_padding_is_complete():
    content = packed((info("a"), b"abc"))[:515]
    assert with_content(TarStream(io.BytesIO(content))) == [("a", b"abc")]
    assert with_content(TarStream(Pipe(content))) == [("a", b"abc")]


@pytest.mark.parametrize("make", [io.BytesIO, Pipe])
def test_a_cut_tar_is_truncated_or_has_fewer_whole_members(make):
    """Cut anywhere, it never has a member with less than its content."""
    content = small()
    whole = with_content(TarStream(io.BytesIO(content)))
    for size in [*range(0, len(content), 512), *range(1, len(content), 97)]:
        stream, found = TarStream(make(content[:size])), []
        try:
            for member in stream:
                found.append((member.name, stream.read(member.size)))
        except ArchiveError as error:
            assert "truncated" in str(error), size
        assert found == whole[: len(found)]


@pytest.mark.parametrize("make", [io.BytesIO, Pipe])
@pytest.mark.parametrize(("size", "said"), [(700, "'a'"), (300, "header, at byte 0")])
def test_a_cut_in_content_or_header_says_so(make, size, said):
    content = packed((info("a"), b"x" * 512))
    with pytest.raises(ArchiveError, match=f"truncated.*{said}"):
        list(TarStream(make(content[:size])))


def test_a_header_record_without_its_member_is_truncation():
    with pytest.raises(ArchiveError, match="without its member"):
        members(pax(record("path", "x")))


def test_the_number_of_members_is_bounded():
    content = PLAIN * (headers.HEADER_LIMIT + 1)
    with pytest.raises(ArchiveError, match="more than 50000 members"):
        for _ in TarStream(Pipe(content)):
            pass


@pytest.mark.long
def test_header_records_count_as_members():
    content = pax(record("path", "x")) * (headers.HEADER_LIMIT + 1)
    with pytest.raises(ArchiveError, match="more than 50000 members"):
        members(content)


def test_the_length_of_all_names_is_bounded():
    long = pax(record("path", "n" * 900_000)) + PLAIN
    with pytest.raises(ArchiveError, match="names take more than"):
        members(long * 5)


def test_mutations_are_nothing_but_archive_errors():
    """Thousands of damaged tars: an error of ours or members, and little memory."""
    source = random.Random(7)
    original = small()
    tracemalloc.start()
    try:
        for _ in range(3000):
            content = bytearray(original)
            for _ in range(source.randint(1, 4)):
                content[source.randrange(len(content))] = source.randrange(256)
            start = 512 * source.randrange(len(content) // 512)
            if source.random() < 0.7:
                head = content[start : start + 512]
                seal(head)
                content[start : start + 512] = head
            try:
                found = members(bytes(content))
            except ArchiveError:
                continue
            assert all(0 <= member.size <= len(content) for member in found)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
