"""Damaged and hostile archives, hundreds of them, through the whole push.

A mutation is made from its number alone. Whatever it does to an archive, the push ends
well with a right image, or with exit 6 and one line; never with a traceback, a moved
tag, a temp file, or much memory.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import random
import re
import tarfile
from pathlib import Path
from typing import Callable, Iterator

import pytest
from archives import Image, both, layout, legacy, simple, tar
from conftest import Command
from images import MIB, config_of, digest_of, docker_archive, small_archive, tar_of
from pushed import check_stored, fetch, put_old_image, run_many
from suites import first

from dockerpush.server import Registry, RegistryServer

MANY = range(480)
"""Mutations that run some to a process."""

BY_PROCESS = range(5000, 5040)
"""Mutations with a process each, whose memory is measured; half of them as a pipe."""

BATCH = 30
LIMIT = 50 * MIB

Mutate = Callable[[random.Random, bytearray], bytes]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    with RegistryServer(Registry(tmp_path_factory.mktemp("embedded"))) as server:
        yield server


@pytest.fixture(scope="module")
def old(server: RegistryServer, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The manifest that every tag names before the push."""
    directory = tmp_path_factory.mktemp("old")
    done = Command(directory, directory)(
        *("push", small_archive(directory / "old.tar"), "--plain-http"),
        *("-t", f"{server.host}/hostile/old:1"),
    )
    assert done.returncode == 0, done.stderr
    return fetch(server.host, "hostile/old", "manifests/1")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Whole archives of several shapes."""
    directory = tmp_path_factory.mktemp("bases")
    image = Image.of("one", "two", "three", tags=("demo/app:1",))
    noise = random.Random(1).randbytes
    larger = [tar_of({"a": noise(9000)}), tar_of({"b": b"line\n" * 9000})]
    plain = [
        tar(directory / "legacy.tar", legacy(image)),
        tar(directory / "simple.tar", simple(image)),
        tar(directory / "layout.tar", layout(image).files()),
        tar(directory / "both.tar", both(layout(image), image)),
        docker_archive(directory / "larger.tar", larger),
    ]
    return [path.read_bytes() for path in plain]


def flip_bits(source: random.Random, content: bytearray) -> bytes:
    for _ in range(source.choice([1, 1, 2, 8])):
        content[source.randrange(len(content))] ^= 1 << source.randrange(8)
    return content


def flip_in_headers(source: random.Random, content: bytearray) -> bytes:
    """The same where it hurts: in a header, whose checksum is made good again."""
    starts = header_offsets(content)
    for start in source.sample(starts, min(len(starts), 2)):
        content[start + source.randrange(512)] ^= 1 << source.randrange(8)
        mend(content, start)
    return content


def odd_header_field(source: random.Random, content: bytearray) -> bytes:
    """A size, type, name or link that nobody writes."""
    start = source.choice(header_offsets(content))
    field, values = source.choice(
        [
            ((124, 12), [b"77777777777\0", b"-0000000001\0", b"\x80" + b"\xff" * 11]),
            ((124, 12), [b"\xff" * 12, b"            ", b"0000000000\0\0"]),
            ((156, 1), [bytes([n]) for n in b"\x00123456789ADEKLMNSVXgxz"]),
            ((0, 100), [b"../../../etc/passwd", b"/etc/passwd", b"", b"a" * 100]),
            ((0, 100), [b"manifest.json", b"index.json", b"config.json", b"\xff\xfe"]),
            ((157, 100), [b"../../x", b"manifest.json", b"/proc/self/mem"]),
            ((345, 155), [b"..", b"blobs/sha256", b"/" * 155]),
        ]
    )
    offset, size = field
    value = source.choice(values)[:size].ljust(size, b"\0")
    content[start + offset : start + offset + size] = value
    mend(content, start)
    return content


def truncate(source: random.Random, content: bytearray) -> bytes:
    end = source.randrange(len(content))
    return content[: end - end % source.choice([1, 512])]


def swap_blocks(source: random.Random, content: bytearray) -> bytes:
    first, second = (source.randrange(len(content) // 512) * 512 for _ in "ab")
    one, other = content[first : first + 512], content[second : second + 512]
    content[first : first + 512], content[second : second + 512] = other, one
    return content


def cut_out(source: random.Random, content: bytearray) -> bytes:
    start = source.randrange(len(content))
    del content[start : start + source.choice([1, 511, 512, 1024, 5000])]
    return content


def put_in(source: random.Random, content: bytearray) -> bytes:
    start = source.randrange(len(content))
    what = source.choice([b"\0", b"\0" * 512, b"\0" * 1024, source.randbytes(512)])
    content[start:start] = what
    return content


def swap_members(source: random.Random, content: bytearray) -> bytes:
    """Two members under each other's names, or one of them missing or twice."""
    files = members_of(content)
    first, second = source.sample(range(len(files)), 2)
    how = source.choice(["swap", "drop", "double", "replace", "shuffle"])
    (one, text), (other, others) = files[first], files[second]
    if how == "swap":
        files[first], files[second] = (one, others), (other, text)
    elif how == "drop":
        del files[first]
    elif how == "double":
        files.append((one, others))
    elif how == "replace":
        files[first] = (one, source.randbytes(source.choice([0, 1, 512, 3000])))
    else:
        source.shuffle(files)
    return packed(files)


JSON_WORDS: tuple[object, ...] = (
    *(None, True, -1, 0, 2**63, 2**200, 1e308, "", "x", [], {}, [[]], {"a": None}),
    *("../../../etc/passwd", "/etc/passwd", "sha256:", "sha256:" + "0" * 64),
    *("sha256:../../x", "sha512:" + "f" * 128, "\ud800", "\0", "a" * 5000),
    ["layer.tar"] * 500,
)


def odd_json(source: random.Random, content: bytearray) -> bytes:
    """One value in one of the JSON documents is another one."""
    files = members_of(content)
    documents = [n for n, (_, text) in enumerate(files) if text[:2] in (b'{"', b"[{")]
    chosen = source.choice(documents)
    name, text = files[chosen]
    value = json.loads(text)
    replace_somewhere(source, value)
    changed = json.dumps(value).encode()
    if source.random() < 0.1:
        changed = source.choice([b"[" * 5000, b"{", b"", b"\xff\xfe", b'{"a":1,"a":2}'])
    files[chosen] = (name, changed)
    return packed(files)


def replace_somewhere(source: random.Random, value: object) -> None:
    places: list[tuple[object, object]] = []

    def walk(node: object) -> None:
        pairs = node.items() if isinstance(node, dict) else enumerate(node)  # type: ignore[call-overload]
        for key, child in list(pairs):
            places.append((node, key))
            if isinstance(child, (dict, list)):
                walk(child)

    walk(value)
    node, key = source.choice(places)
    node[key] = source.choice(JSON_WORDS)  # type: ignore[index]


def junk_at_the_end(source: random.Random, content: bytearray) -> bytes:
    return bytes(content) + source.randbytes(source.choice([1, 512, 5000]))


def broken_compression(source: random.Random, content: bytearray) -> bytes:
    """Packed as a whole, then damaged."""
    pack = source.choice([gzip.compress, bz2.compress, lzma.compress])
    packed_ = bytearray(pack(bytes(content)))
    return source.choice([flip_bits, truncate, cut_out, junk_at_the_end])(
        source, packed_
    )


def damaged_then_packed(source: random.Random, content: bytearray) -> bytes:
    """Damaged, then packed as a whole."""
    pack = source.choice([gzip.compress, bz2.compress, lzma.compress])
    return pack(bytes(source.choice(INNER)(source, content)))


INNER: tuple[Mutate, ...] = (
    *(flip_bits, flip_in_headers, odd_header_field, truncate, swap_blocks),
    *(cut_out, put_in, swap_members, odd_json, junk_at_the_end),
)
MUTATIONS: tuple[Mutate, ...] = (*INNER, broken_compression, damaged_then_packed)


def header_offsets(content: bytes) -> list[int]:
    """Where the headers of *content* begin."""
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return [member.offset for member in archive.getmembers()]


def mend(content: bytearray, start: int) -> None:
    """Make the checksum of a header right (POSIX, pax, ustar interchange format)."""
    content[start + 148 : start + 156] = b" " * 8
    total = sum(content[start : start + 512])
    content[start + 148 : start + 156] = b"%06o\0 " % total


def members_of(content: bytes) -> list[tuple[str, bytes]]:
    """Names and contents of the regular files."""
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        files = [member for member in archive.getmembers() if member.isfile()]
        return [(file.name, archive.extractfile(file).read()) for file in files]


def packed(files: list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def mutated(number: int, bases: list[bytes]) -> bytes:
    """The archive of that number."""
    source = random.Random(number)
    mutate = MUTATIONS[number % len(MUTATIONS)]
    return bytes(mutate(source, bytearray(source.choice(bases))))


def check(host: str, name: str, code: int, old: bytes, said: str, what: str) -> None:
    """The push of one mutation ended as it may."""
    assert code in (0, 6), f"{what}: {code}: {said}"
    assert "Traceback" not in said, what
    if code == 0:
        check_stored(host, name)
        return
    lines = said.splitlines()
    assert lines[-1].startswith("error: "), f"{what}: {said}"
    assert sum(line.startswith("error:") for line in lines) == 1
    assert "this is a bug" not in said, f"{what}: {said}"
    assert len(lines[-1]) < 1000, what
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", said), what
    assert fetch(host, name, "manifests/1") == old, what


@pytest.mark.parametrize("start", first(1, MANY[::BATCH]))
def test_many_mutations(start, bases, old, server, tmp_path, run_cli):
    numbers = range(start, start + BATCH)
    words = []
    for number in numbers:
        path = tmp_path / f"{number}.tar"
        path.write_bytes(mutated(number, bases))
        name = f"hostile/{number}"
        put_old_image(server.host, name, "hostile/old", old)
        target = f"{server.host}/{name}:1"
        words.append(["push", str(path), "-t", target, "--plain-http", "-q"])
    *results, (_, peak, _) = run_many(words, run_cli.environment())
    codes = []
    for number, (code, _, said) in zip(numbers, results):
        what = f"{number}: {MUTATIONS[number % len(MUTATIONS)].__name__}"
        check(server.host, f"hostile/{number}", code, old, said, what)
        codes.append(code)
    assert 0 in codes  # some mutations are harmless, or nothing would be proved
    assert codes.count(6) > BATCH / 3
    assert int(peak) * 1024 < LIMIT + 20 * MIB  # of all of them, in one process


@pytest.mark.parametrize("number", first(6, BY_PROCESS))
def test_a_mutation_by_the_command(number, bases, old, server, tmp_path, run_cli):
    path = tmp_path / "mutated.tar"
    path.write_bytes(mutated(number, bases))
    name = f"hostile/{number}"
    put_old_image(server.host, name, "hostile/old", old)
    piped = number % 2
    done = run_cli(
        *("push", "-" if piped else path, "-t", f"{server.host}/{name}:1"),
        "--plain-http",
        stdin=path if piped else None,
        fresh=True,
    )
    check(server.host, name, done.returncode, old, done.stderr, path.name)
    assert done.peak_rss < LIMIT


class TestTinyLayers:
    """Below 512 bytes they are kept in memory when they come through a pipe."""

    def archive(self, path: Path, layer: bytes, promised: bytes) -> Path:
        entry = {"Config": "c.json", "RepoTags": ["a:1"], "Layers": ["l.tar"]}
        files = [
            ("l.tar", layer),
            ("c.json", config_of([digest_of(promised)])),
            ("manifest.json", json.dumps([entry]).encode()),
        ]
        path.write_bytes(packed(files))
        return path

    def push(self, path: Path, name: str, old: bytes, server, run_cli) -> int:
        put_old_image(server.host, name, "hostile/old", old)
        target = f"{server.host}/{name}:1"
        done = run_cli("push", "-", "-t", target, "--plain-http", stdin=path)
        check(server.host, name, done.returncode, old, done.stderr, path.name)
        return done.returncode

    @pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
    def test_they_are_pushed(self, pack, old, server, tmp_path, run_cli):
        layer = tar_of({"a": b"x"})
        path = self.archive(tmp_path / "a.tar", pack(layer), layer)
        name = f"hostile/tiny-{pack.__module__}"
        assert self.push(path, name, old, server, run_cli) == 0
        (descriptor,) = json.loads(fetch(server.host, name, "manifests/1"))["layers"]
        assert descriptor["mediaType"].rpartition(".")[2] in ("tar", "tar+gzip")

    @pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
    def test_others_than_promised_do_not(self, pack, old, server, tmp_path, run_cli):
        layer = pack(tar_of({"a": b"x"}))
        path = self.archive(tmp_path / "a.tar", layer, tar_of({"a": b"y"}))
        name = f"hostile/wrong-{pack.__module__}"
        assert self.push(path, name, old, server, run_cli) == 6


class TestBombs:
    """Small files that would become large."""

    def push(self, path: Path, name: str, old: bytes, server, run_cli) -> str:
        put_old_image(server.host, name, "hostile/old", old)
        done = run_cli(
            *("push", path, "-t", f"{server.host}/{name}:1", "--plain-http"), fresh=True
        )
        check(server.host, name, done.returncode, old, done.stderr, path.name)
        assert done.returncode == 6, done.stderr
        assert done.peak_rss < LIMIT
        return done.error

    def test_a_record_of_a_gigabyte(self, old, server, tmp_path, run_cli):
        """PAX and long names are read into memory by the usual reader."""
        for kind in b"xgLK":
            header = tarfile.TarInfo("record")
            header.type, header.size = bytes([kind]), 1 << 30
            path = tmp_path / f"{kind}.tar"
            with path.open("wb") as file:
                file.write(header.tobuf())
                file.truncate(512 + (1 << 30) + 1024)
            self.push(path, f"bomb/record-{kind}", old, server, run_cli)
            path.unlink()

    def test_a_json_document_of_a_gigabyte(self, old, server, tmp_path, run_cli):
        header = tarfile.TarInfo("manifest.json")
        header.size = 1 << 30
        path = tmp_path / "json.tar"
        with path.open("wb") as file:
            file.write(header.tobuf())
            file.truncate(512 + (1 << 30) + 1024)
        self.push(path, "bomb/json", old, server, run_cli)

    def test_nothing_but_zeros_behind_gzip(self, old, server, tmp_path, run_cli):
        path = tmp_path / "zeros.tar.gz"
        with gzip.open(path, "wb", 9) as file:
            for _ in range(256):
                file.write(bytes(MIB))
        self.push(path, "bomb/zeros", old, server, run_cli)

    @pytest.mark.long
    def test_a_million_empty_members(self, old, server, tmp_path, run_cli):
        header = tarfile.TarInfo("x").tobuf()
        path = tmp_path / "members.tar.gz"
        with gzip.open(path, "wb", 1) as file:
            for _ in range(200):
                file.write(header * 5000)
        self.push(path, "bomb/members", old, server, run_cli)

    def test_a_layer_that_becomes_far_more_than_it_is(
        self, old, server, tmp_path, run_cli
    ):
        """A gzip layer of a docker-archive, of a thousand times its size."""
        blown = gzip.compress(bytes(64 * MIB), 9)
        config = config_of([digest_of(b"whatever")])
        entry = {"Config": "c.json", "RepoTags": ["a:1"], "Layers": ["l.tar"]}
        path = tmp_path / "layer.tar"
        path.write_bytes(
            packed(
                [
                    ("l.tar", blown),
                    ("c.json", config),
                    ("manifest.json", json.dumps([entry]).encode()),
                ]
            )
        )
        self.push(path, "bomb/layer", old, server, run_cli)
