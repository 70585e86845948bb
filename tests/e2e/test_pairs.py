"""Every source into every target: the same digest, or a refusal that names what it is.

Each pair is the real command with a state directory of its own, and what it leaves is
read back without dockerpush. OUTCOMES says for each image what must come out.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

import archives
import pytest
from pairs import (
    NAME,
    SAMPLES,
    TEXT,
    Ended,
    Found,
    Run,
    Sample,
    in_directory,
    in_registry,
    in_tar,
    run_forked,
    seed,
)
from registries import run
from suites import all_but

from dockerpush.server import Registry, RegistryServer

KEPT = "kept"
"""Exit 0; the digest and every byte stay."""
PACKED = "packed"
"""Exit 0; raw layers are compressed, into one digest for all pairs that do so."""
NO_IMAGE = "no image"
"""Exit 2: a docker-archive was asked for, and docker could not load it."""
AT_URLS = "at its urls"
"""KEPT, but for a foreign layer: a note says that it stays where its urls point."""


@dataclass(frozen=True)
class Row:
    """What comes out of one image, by the kind of pair.

    *push*: a file, a compressed file, a directory or a pipe into a registry. *raw*: the
    same with ``--compress none``. *copy*: all that compresses nothing. *docker*: a pull
    as a docker-archive.
    """

    push: str
    raw: str = KEPT
    copy: str = KEPT
    docker: str = KEPT


WHOLE = Row(KEPT)
RAW = Row(PACKED)

OUTCOMES = {
    # image             push    raw   copy  docker
    "docker-archive": Row(PACKED, KEPT, KEPT),
    "docker": WHOLE,
    "docker-raw": RAW,
    "oci": WHOLE,
    "raw": RAW,
    "raw-twice": RAW,
    "raw-index": RAW,
    "noise": Row(KEPT),
    "zstd": WHOLE,
    "index": WHOLE,
    "nested": WHOLE,
    "twice": WHOLE,
    "no-layers": WHOLE,
    "sha512": WHOLE,
    "sha512-raw": RAW,
    "sha512-index": WHOLE,
    "sha512-root": WHOLE,
    "sha512-artifact": Row(KEPT, docker=NO_IMAGE),
    "artifact": Row(KEPT, docker=NO_IMAGE),
    "artifact-empty": Row(KEPT, docker=NO_IMAGE),
    "artifact-tar": Row(KEPT, docker=NO_IMAGE),
    "foreign": Row(KEPT, KEPT, AT_URLS, NO_IMAGE),
    "foreign-there": Row(KEPT),
    "encrypted": Row(KEPT, docker=NO_IMAGE),
    "encrypted-tar": Row(KEPT, docker=NO_IMAGE),
}

NOT_OFFERED = (
    "copy cannot read a compressed file or a pipe: unpack it first, or use push"
)
"""What a copy of a compressed file or a pipe into anything but a registry says."""

TARGETS = ("registry", "oci:", "docker-archive", "oci-archive:", "-")
FORMATS = ("docker-archive", "oci-archive", "oci-dir", "-")


@dataclass(frozen=True)
class Pair:
    """One command: from *source*, by *verb* (with ``raw``: ``--compress none``)."""

    source: str
    verb: str
    target: str = "registry"

    def __str__(self) -> str:
        return f"{self.source}, {self.verb}, {self.target}"

    def outcome(self, row: Row) -> str:
        """What must come out of it."""
        if self.verb == "pull" and self.target == "docker-archive":
            return row.docker
        pushes = self.target == "registry" and self.source in LOCAL
        if not pushes:
            return row.copy
        return row.raw if self.verb == "push raw" else row.push


LOCAL = ("file", "gz", "directory", "pipe")
PAIRS = (
    *(Pair(source, verb) for source in LOCAL for verb in ("push", "push raw")),
    *(Pair(source, "copy", to) for source in ("file", "directory") for to in TARGETS),
    *(Pair("registry", "copy", target) for target in TARGETS),
    *(Pair("registry", "pull", form) for form in FORMATS),
    Pair("cache", "push"),
    *(Pair("cache", "pull", form) for form in FORMATS),
)
FEW = (
    *(Pair(source, "push") for source in LOCAL),
    Pair("pipe", "push raw"),
    Pair("directory", "copy", "oci:"),
    Pair("registry", "copy", "docker-archive"),
    Pair("cache", "push"),
    Pair("cache", "pull", "docker-archive"),
)
"""The pairs of images that differ little from another one in OUTCOMES."""
LIKE_OTHERS = {
    *("docker-raw", "raw-twice", "raw-index", "noise", "nested", "twice", "no-layers"),
    *("sha512-index", "sha512-root", "sha512-artifact", "artifact-empty"),
    "encrypted-tar",
}


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    registry = Registry(tmp_path_factory.mktemp("pairs") / "registry")
    with RegistryServer(registry) as server:
        yield server.host


class Bench:
    """One image in every source, and a place for every target."""

    def __init__(self, name: str, host: str, directory: Path) -> None:
        self.name, self.host, self.directory = name, host, directory
        self.sample: Sample = SAMPLES[name]()
        tar = archives.tar(directory / "image.tar", self.sample.files)
        packed = directory / "image.tar.gz"
        packed.write_bytes(gzip.compress(tar.read_bytes(), 1))
        layout = archives.folder(directory / "layout", self.sample.files)
        self.sources = {"file": tar, "gz": packed, "directory": layout, "pipe": "-"}
        if self.sample.given is None:
            seed(host, f"source/{name}", self.sample)
            reference = f"{host}/source/{name}:1"
            self.sources.update(registry=reference, cache=reference)

    def runs(self) -> dict[Pair, Run]:
        """The command of every pair, after the one that fills the cache."""
        pairs = FEW if self.name in LIKE_OTHERS else PAIRS
        found = {pair: self.run(pair) for pair in pairs if pair.source in self.sources}
        if "cache" not in self.sources:
            return found
        filled = Run(["pull", self.sources["cache"]], state="cache")
        return {Pair("registry", "pull", "cache"): filled, **found}

    def run(self, pair: Pair) -> Run:
        """The command of *pair*."""
        source = self.sources[pair.source]
        if pair.verb == "copy":
            words = ["copy", source, self._place(pair)]
        elif pair.verb == "pull":
            form = () if pair.target == "-" else ("--format", pair.target)
            out = self.file(pair)
            words = ["pull", source, "-o", out, *form, "--platform", "all"]
        else:
            raw = ("--compress", "none") if pair.verb == "push raw" else ()
            verify = ("--verify",) if pair.source in LOCAL[:3] else ()
            words = ["push", source, "-t", self._place(pair), *raw, *verify]
        state = "cache" if pair.source == "cache" else str(pair)
        given = self.sources["file"] if source == "-" else Path("/dev/null")
        return Run(words, Path(given), state)

    def _place(self, pair: Pair) -> str:
        if pair.target == "registry":
            return f"{self.host}/{self._repository(pair)}:1"
        prefix = pair.target if pair.target.endswith(":") else ""
        return f"{prefix}{self.file(pair)}"

    def _repository(self, pair: Pair) -> str:
        return f"{self.name}/{pair.source}/{pair.verb.replace(' ', '-')}"

    def file(self, pair: Pair) -> str:
        """Where the file or directory goes that *pair* writes."""
        if pair.target == "-":
            return "-"
        name = f"{pair.source}-{pair.verb}-{pair.target.rstrip(':')}.tar"
        return str(self.directory / name)

    def found(self, pair: Pair, ended: Ended) -> Found | None:
        """What the pair has left, None for nothing."""
        if pair.target == "registry":
            return in_registry(self.host, self._repository(pair))
        if pair.target in ("oci:", "oci-dir"):
            return in_directory(Path(self.file(pair)))
        return in_tar(ended.stdout if pair.target == "-" else Path(self.file(pair)))


class Judge:
    """Compares with OUTCOMES; what is made anew must be whole, and one for all."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._made: dict[str, str] = {}

    def complaint(self, pair: Pair, ended: Ended, wanted: str) -> str:
        """What is wrong, "" when *wanted* came out."""
        if "Traceback" in ended.stderr:
            return ended.stderr
        found = self._bench.found(pair, ended)
        if wanted == NO_IMAGE:
            return self._not_refused(ended, found)
        if ended.code or found is None:
            return f"exit {ended.code}: {ended.stderr}"
        if (
            wanted == AT_URLS
            and "note: not copied, it stays at its urls: " not in ended.stderr
        ):
            return f"no word of the foreign layer: {ended.stderr}"
        if wanted == PACKED or self._bench.sample.given is not None:
            first = self._made.setdefault(wanted, found.root)
            other = "" if first == found.root else f"{found.root}, not {first}"
            return other or found.broken()
        foreign = archives.digest(TEXT) if wanted == AT_URLS else ""
        return found.differs_from(self._bench.sample, foreign)

    def _not_refused(self, ended: Ended, found: Found | None) -> str:
        named = (f"/source/{self._bench.name}:1: ", "make it an oci-archive")
        lines = ended.stderr.count("error: ")
        said = all(words in ended.error for words in named)
        if (ended.code, lines, said, found) == (2, 1, True, None):
            return ""
        return f"exit {ended.code}, left {found}: {ended.stderr}"


def test_every_image_has_its_outcomes():
    assert set(OUTCOMES) == set(SAMPLES)


@pytest.mark.parametrize("name", all_but(set(OUTCOMES) - LIKE_OTHERS, OUTCOMES))
def test_every_pair_gives_the_same_or_refuses_by_name(name, host, run_cli, tmp_path):
    bench = Bench(name, host, tmp_path)
    judge, wrong = Judge(bench), {}
    ended = run_forked(bench.runs(), tmp_path / "runs", run_cli.environment())
    for pair, one in ended.items():
        if pair.target == "cache":
            assert one.code == 0, one.stderr
            continue
        complaint = judge.complaint(pair, one, pair.outcome(OUTCOMES[name]))
        if complaint:
            wrong[pair] = complaint
    for left in ("*.part", "*.tmp"):
        assert list(tmp_path.rglob(left)) == []
    assert wrong == {}


@pytest.mark.parametrize("target", TARGETS[1:])
@pytest.mark.parametrize("source", ["gz", "pipe"])
def test_what_is_read_once_is_not_copied_but_into_a_registry(
    source, target, host, run_cli, tmp_path
):
    bench = Bench("oci", host, tmp_path)
    pair = Pair(source, "copy", target)
    (ended,) = run_forked(
        {pair: bench.run(pair)}, tmp_path / "runs", run_cli.environment()
    ).values()
    assert ended.code == 2, ended.stderr
    assert ended.error == f"error: {bench.sources[source]}: {NOT_OFFERED}"
    assert bench.found(pair, ended) is None


def test_skopeo_finds_the_same(host, run_cli, tmp_path):
    """The index through a pipe, an archive and a directory, by a client not ours."""
    bench = Bench("index", host, tmp_path)
    places = {
        Pair("pipe", "push"): f"docker://{host}/index/pipe/push:1",
        Pair("cache", "push"): f"docker://{host}/index/cache/push:1",
        Pair("registry", "copy", "oci-archive:"): "oci-archive:{}:"
        + bench.sources["cache"],
        Pair("directory", "copy", "oci:"): "oci:{}:" + NAME,
    }
    runs = {pair: bench.run(pair) for pair in places}
    done = run_forked(runs, tmp_path / "runs", run_cli.environment())
    assert [one.code for one in done.values()] == [0] * len(places), done
    skopeo = ("skopeo", "--insecure-policy", "inspect", "--raw", "--tls-verify=false")
    for pair, place in places.items():
        raw = run(*skopeo, place.format(bench.file(pair)))
        assert raw == bench.sample.blobs[bench.sample.digest], pair
