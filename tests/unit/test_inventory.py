"""Inventories, and what a delta needs: what was written is read, and nothing else."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockerpush.archive.needs import Need, parse_needs, to_bytes
from dockerpush.errors import InvalidDigest, InvalidJSON
from dockerpush.oci import Descriptor, Digest
from dockerpush.transfer.inventory import (
    MOST_HOLDERS,
    HeldBlobs,
    Holding,
    LeftOut,
    read_inventory,
    write_inventory,
)

digests = st.binary(min_size=1, max_size=8).map(Digest.of)
names = st.text("abc/:.1", min_size=1, max_size=8)
holdings = st.builds(
    Holding,
    names,
    st.dictionaries(names, digests, max_size=4),
    st.lists(digests, max_size=4),
    st.lists(digests, max_size=4),
)


def written(found: list[Holding], place: str = "x.test") -> str:
    lines: list[str] = []
    write_inventory(place, found, lines.append)
    return "".join(f"{line}\n" for line in lines)


def read(text: str | bytes, directory: Path) -> list[Holding]:
    path = directory / "have.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return list(read_inventory(path))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("inventories")


@given(found=st.lists(holdings, max_size=5))
def test_what_was_written_is_read(found, directory):
    text = written(found)
    assert read(text, directory) == found
    assert read(json.dumps(json.loads(text), indent=2), directory) == found


@given(found=st.lists(holdings, min_size=1, max_size=3), data=st.data())
def test_what_is_cut_short_is_refused(found, data, directory):
    text = written(found).rstrip()
    length = data.draw(st.integers(0, len(text) - 1))
    with pytest.raises(InvalidJSON, match="not a valid inventory"):
        read(text[:length], directory)


@given(found=st.lists(holdings, min_size=1, max_size=3), data=st.data())
def test_damage_is_refused_or_changes_a_value(found, data, directory):
    raw = bytearray(written(found).encode())
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] = data.draw(st.integers(0, 255))
    try:
        read(bytes(raw), directory)
    except InvalidJSON as error:
        assert len(str(error).splitlines()) == 1


@given(value=st.recursive(st.none() | st.integers() | names, st.lists))
def test_any_other_json_is_refused(value, directory):
    with pytest.raises(InvalidJSON):
        read(json.dumps(value), directory)


@pytest.mark.parametrize("version", [2, 10**30])
def test_a_newer_version_is_named(version, directory):
    text = written([]).replace('"version":1', f'"version":{version}')
    with pytest.raises(InvalidJSON, match="install a newer dockerpush"):
        read(text, directory)


def test_a_repository_of_any_size_is_in_lines_of_bounded_size(directory):
    blobs = [Digest.of(b"%d" % number) for number in range(20_001)]
    text = written([Holding("big", {"1": blobs[0]}, blobs[:1], blobs)])
    assert max(map(len, text.splitlines())) < 1_000_000
    again = read(text, directory)
    assert {one.name for one in again} == {"big"}
    assert [digest for one in again for digest in one.blobs] == blobs


def test_a_few_holders_of_each_blob_are_remembered():
    digest, held = Digest.of(b"x"), HeldBlobs()
    for number in range(9):
        held.add(Holding(f"r/{number % 7}", {}, (), [digest]))
    assert held.holders(digest) == tuple(f"r/{n}" for n in range(MOST_HOLDERS))
    assert (len(held), digest in held) == (1, True)
    assert held.holders(Digest.of(b"y")) == ()


def test_a_digest_is_found_only_where_its_record_begins():
    """Here the end of each record and the start of the next make up other digests."""
    held = HeldBlobs()
    there = [Digest(f"sha256:{'0' * 3}{n:02x}{'0' * 59}") for n in range(0, 256, 2)]
    for number, digest in enumerate(there):
        held.add_holder(digest, [f"h/{number}"])
    assert len(held) == len(there)
    assert [held.holders(one) for one in there] == [(f"h/{n}",) for n in range(128)]
    others = [Digest(f"sha256:{'0' * 3}{n:032x}{'0' * 29}") for n in range(1, 2000)]
    assert not any(one in held for one in others)


def test_a_digest_takes_few_bytes_of_memory():
    every = [Digest(f"sha256:{n * 7919:08x}{n:056x}") for n in range(100_000)]
    tracemalloc.start()
    held = HeldBlobs()
    held.add(Holding("h/r", {}, (), every))
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(held) == len(every)
    assert used < 35 * len(every)


def test_what_is_left_out_is_needed():
    held, digest = HeldBlobs(), Digest.of(b"x")
    held.add(Holding("r/a", {}, (), [digest]))
    left = LeftOut(held)
    assert left.takes(Descriptor("t", digest, 1, annotations={"a": "b"}))
    assert not left.takes(Descriptor("t", Digest.of(b"y"), 1))
    assert left.needs == {digest: Need(Descriptor("t", digest, 1), ("r/a",))}


@given(st.dictionaries(digests, st.lists(names, max_size=3), max_size=5))
def test_needs_are_read_as_they_were_written(found):
    needs = {
        digest: Need(Descriptor("type", digest, 5), tuple(held))
        for digest, held in found.items()
    }
    assert parse_needs(to_bytes(needs)) == needs


@given(st.binary(max_size=40) | st.just(b'{"dockerpush":"needs","version":1}'))
def test_needs_that_cannot_be_read_are_refused(raw):
    with pytest.raises((InvalidJSON, InvalidDigest)):
        parse_needs(raw)
