"""Pulls into the cache, from a registry that is a dict, and beside each other."""

from __future__ import annotations

import contextlib
import json
import random
import resource
import subprocess
import threading
from pathlib import Path

import archives
import pytest
from archives import Image
from images import docker_archive, tar_of

from dockerpush.errors import (
    ContentMismatch,
    InvalidJSON,
    NotFound,
    NotFoundInRegistry,
    PusherError,
)
from dockerpush.events import BlobFinished, BytesSent, Notice, Retrying
from dockerpush.oci import OCI_INDEX, OCI_MANIFEST, Descriptor, Digest, Platform
from dockerpush.reference import Reference
from dockerpush.server import Registry, RegistryServer
from dockerpush.state.cache import Cache, Pins, damaged, prune
from dockerpush.system.cancellation import Cancellation
from dockerpush.transfer.choices import CopyOptions, PulledImage
from dockerpush.transfer.pull import Pull, cached_image, pull_images
from dockerpush.transfer.source import CacheSource, RegistrySource
from dockerpush.values import replace

REFERENCE = Reference.parse("r.example/app:1")


class Stream:
    """A download that ends where it shall."""

    def __init__(self, content: bytes, piece: int) -> None:
        self._content = content
        self._piece = piece

    def close(self) -> None:
        pass

    def readinto(self, buffer: memoryview) -> int:
        piece = self._content[: min(self._piece, len(buffer))]
        self._content = self._content[len(piece) :]
        buffer[: len(piece)] = piece
        return len(piece)


class FakeRegistry:
    """What a client gives; *answers* replace a blob's bytes, one for each request."""

    registry = "r.test"

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.types: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.answers: dict[str, list[bytes]] = {}
        self.asked: list[tuple[str, int]] = []
        self.piece = 100

    def add(self, whole: archives.Layout) -> Descriptor:
        """Everything of *whole*, whose one entry becomes the tag 1."""
        for content in whole.blobs.values():
            self.blobs[Digest.of(content)] = content
            with contextlib.suppress(ValueError, AttributeError):
                self.types[Digest.of(content)] = json.loads(content).get("mediaType")
        root = Descriptor.from_json(whole.entries[0])
        self.tags["1"] = root.digest
        return root

    def has_blob(self, repository: str, blob: Descriptor) -> bool:
        return blob.digest in self.blobs

    def read_manifest(self, repository: str, reference: str):
        digest = self.tags.get(reference, reference)
        self.asked.append((digest, 0))
        if digest not in self.blobs:
            raise NotFoundInRegistry("GET", f"/v2/{repository}/{reference}", 404)
        raw = self.blobs[digest]
        return Descriptor(self.types[digest], Digest(digest), len(raw)), raw

    def read_blob(self, repository: str, descriptor: Descriptor) -> bytes:
        self.asked.append((descriptor.digest, 0))
        return self.blobs[descriptor.digest]

    def download(self, repository: str, digest: Digest, offset: int) -> Stream:
        self.asked.append((digest, offset))
        answers = self.answers.get(digest)
        content = answers.pop(0) if answers else self.blobs[digest]
        return Stream(content[offset:], self.piece)


class Bench:
    """A fake registry, a cache, and what a pull between them needs."""

    def __init__(self, cache: Cache, cancellation: Cancellation) -> None:
        self.registry = FakeRegistry()
        self.cache = cache
        self.cancellation = cancellation
        self.events: list = []

    def pull(
        self,
        *platforms: str,
        default: str | None = None,
        reference: Reference = REFERENCE,
        pins: Pins | None = None,
    ) -> PulledImage:
        with contextlib.ExitStack() as stack:
            return pull_images(
                [Pull(RegistrySource(self.registry, "app"), reference)],
                self.cache,
                pins or stack.enter_context(self.cache.pins()),
                options=CopyOptions(tuple(map(Platform.parse, platforms))),
                only=Platform.parse(default) if default else None,
                cancellation=stack.enter_context(self.cancellation.child()),
                on_event=self.events.append,
            )[0]

    def cached(self, *platforms: str) -> PulledImage | None:
        wanted = [Platform.parse(text) for text in platforms]
        with self.cache.pins() as pins:
            return cached_image(self.cache, pins, REFERENCE, wanted)


@pytest.fixture
def bench(tmp_path: Path):
    with Cancellation() as cancellation:
        yield Bench(Cache(tmp_path / "cache"), cancellation)


AMD, ARM = Image.of("amd", "shared"), Image.of("arm", "shared", architecture="arm64")


def layer_digest(image: Image, place: int = 0) -> Digest:
    return Digest.of(archives.gzipped(image.layers[place]))


def test_an_image_is_pulled_once_and_found_again(bench):
    root = bench.registry.add(archives.layout(AMD))
    done = bench.pull()
    assert (done.root.digest, done.chosen.digest, done.blobs) == (
        root.digest,
        root.digest,
        3,
    )
    bench.registry.asked.clear()
    again = bench.pull()
    assert again.received == 0
    assert bench.registry.asked == [(root.digest, 0)]
    assert bench.cached() is not None


def test_a_digest_that_is_in_the_cache_needs_no_registry(bench):
    root = bench.registry.add(archives.layout(AMD))
    named = Reference.parse(f"r.example/app@{root.digest}")
    bench.pull(reference=named)
    bench.registry.asked.clear()
    assert bench.pull(reference=named).root.digest == root.digest
    assert bench.registry.asked == []


def test_a_tag_that_moved_is_pulled_again(bench):
    bench.registry.add(archives.layout(AMD))
    bench.pull()
    moved = bench.registry.add(archives.layout(ARM))
    assert bench.pull().root.digest == moved.digest


def test_everything_below_nested_indexes_is_pulled(bench):
    inner = archives.nested(archives.layout(AMD, ARM))
    bench.registry.add(archives.nested(inner))
    done = bench.pull()
    assert done.blobs == 5
    assert all(bench.cache.has(d) for d in bench.cache.occupied(done.root).values())


def test_one_platform_of_an_index_leaves_the_others_where_they_are(bench):
    root = bench.registry.add(archives.nested(archives.layout(AMD, ARM)))
    done = bench.pull("linux/arm64")
    assert done.root.digest == root.digest
    assert done.chosen.digest == archives.layout(ARM).entries[0]["digest"]
    assert bench.cache.size_of(layer_digest(AMD)) is None
    assert bench.cached() is None
    assert bench.cached("linux/arm64") is not None


def test_the_default_counts_for_an_index_only(bench):
    bench.registry.add(archives.layout(ARM))
    assert bench.pull(default="linux/amd64").chosen.digest
    bench.registry.add(archives.nested(archives.layout(AMD, ARM)))
    done = bench.pull(default="linux/amd64")
    assert done.chosen.digest == archives.layout(AMD).entries[0]["digest"]


def test_a_platform_that_only_the_config_shows_is_found(bench):
    bench.registry.add(archives.layout(ARM))
    assert bench.pull("linux/arm64/v8").blobs == 3
    with pytest.raises(NotFound, match="only for linux/arm64"):
        bench.pull("linux/amd64")


def test_several_platforms_are_an_index_of_their_own(bench):
    third = Image.of("s390x", architecture="s390x")
    bench.registry.add(archives.nested(archives.layout(AMD, ARM, third)))
    done = bench.pull("linux/amd64", "linux/s390x")
    assert done.chosen.media_type == OCI_INDEX
    assert done.chosen.digest != done.root.digest
    again = bench.cached("linux/amd64", "linux/s390x")
    assert again is not None and again.chosen == done.chosen
    assert any(isinstance(event, Notice) for event in bench.events)


def test_what_is_left_of_a_broken_download_is_not_fetched_again(bench):
    bench.registry.add(archives.layout(AMD))
    digest = layer_digest(AMD)
    size = len(bench.registry.blobs[digest])
    with bench.cache.partial(digest, bench.cancellation) as partial:
        partial.path.write_bytes(bench.registry.blobs[digest][:70])
    done = bench.pull()
    assert (digest, 70) in bench.registry.asked
    assert (digest, 0) not in bench.registry.asked
    sent = [e.count for e in bench.events if isinstance(e, BytesSent)]
    finished = [e.size for e in bench.events if isinstance(e, BlobFinished)]
    assert sum(sent) == sum(finished) == done.received + 70
    assert size > 70


@pytest.mark.parametrize("beginning", [b"wrong", b"x" * 10_000])
def test_a_beginning_that_is_wrong_is_thrown_away(beginning, bench):
    bench.registry.add(archives.layout(AMD))
    digest = layer_digest(AMD)
    with bench.cache.partial(digest, bench.cancellation) as partial:
        partial.path.write_bytes(beginning)
    bench.pull()
    assert damaged(bench.cache, bench.cancellation) == []


def test_a_complete_beginning_is_checked_and_kept_without_a_request(bench):
    bench.registry.add(archives.layout(AMD))
    digest = layer_digest(AMD)
    with bench.cache.partial(digest, bench.cancellation) as partial:
        partial.path.write_bytes(bench.registry.blobs[digest])
    bench.pull()
    assert digest not in [asked for asked, _ in bench.registry.asked]


@pytest.mark.parametrize("wrong", [b"", b"short", b"<html>" * 1000, b"longer" * 9999])
def test_one_wrong_answer_is_survived_and_two_are_a_mismatch(wrong, bench):
    bench.registry.add(archives.layout(AMD))
    digest = layer_digest(AMD)
    bench.registry.answers[digest] = [wrong]
    bench.pull()
    assert any(isinstance(event, Retrying) for event in bench.events)
    bench.cache.remove(digest)
    bench.registry.answers[digest] = [wrong, wrong]
    with pytest.raises(ContentMismatch, match="the blob was not kept"):
        bench.pull()
    assert bench.cache.size_of(digest) is None
    partial = bench.cache.directory / "partial" / f"sha256-{digest.hex}"
    assert not partial.exists()


def test_an_endless_answer_is_not_written_to_the_disk(bench):
    bench.registry.add(archives.layout(AMD))
    digest = layer_digest(AMD)
    bench.registry.answers[digest] = [b"x" * 5_000_000] * 2
    bench.registry.piece = 50
    with pytest.raises(ContentMismatch) as caught:
        bench.pull()
    size = len(bench.registry.blobs[digest])
    assert f"gave {size // 50 * 50 + 50} bytes" in str(caught.value)


def test_an_index_that_names_an_absent_child_is_an_error_and_no_image(bench):
    whole = archives.nested(archives.layout(AMD, ARM))
    root = bench.registry.add(whole)
    del bench.registry.blobs[archives.layout(ARM).entries[0]["digest"]]
    with pytest.raises(NotFoundInRegistry):
        bench.pull()
    assert bench.cache.find(str(REFERENCE)) is None
    assert bench.pull("linux/amd64").root.digest == root.digest


def test_a_child_of_another_size_or_type_than_the_index_says_is_refused(bench):
    inner = archives.layout(AMD)
    for lie in ({"size": 7}, {"mediaType": OCI_INDEX}):
        wrong = archives.Layout(inner.blobs, ({**inner.entries[0], **lie},))
        bench.registry.add(archives.nested(wrong))
        with pytest.raises((ContentMismatch, InvalidJSON)) as caught:
            bench.pull()
        assert "the index says" in str(caught.value) or "index: holds" in str(
            caught.value
        )


def test_an_index_of_too_many_manifests_is_refused(bench):
    entry = archives.layout(AMD).entries[0]
    entries = tuple({**entry, "digest": f"sha256:{n:064x}"} for n in range(2001))
    bench.registry.add(archives.nested(archives.Layout({}, entries)))
    with pytest.raises(ContentMismatch, match="2000 manifests"):
        bench.pull()
    assert len(bench.registry.asked) == 1


def foreign() -> archives.Layout:
    """An image whose layer may be fetched elsewhere."""
    inner = archives.layout(AMD)
    digest = Digest(inner.entries[0]["digest"])
    manifest = json.loads(inner.blobs[f"blobs/sha256/{digest.hex}"])
    manifest["layers"][0]["urls"] = ["https://elsewhere.example/layer"]
    raw = archives.dump(manifest)
    entry = archives.descriptor(OCI_MANIFEST, raw)
    return archives.Layout({**inner.blobs, archives.blob(raw): raw}, (entry,))


def test_a_layer_that_may_be_elsewhere_is_taken_where_it_is(bench):
    bench.registry.add(foreign())
    bench.pull()
    assert bench.cache.size_of(layer_digest(AMD))


def test_a_layer_that_is_elsewhere_is_left_there(bench):
    bench.registry.add(foreign())
    del bench.registry.blobs[layer_digest(AMD)]
    assert bench.pull().blobs == 2
    assert bench.cache.size_of(layer_digest(AMD)) is None
    assert bench.cached() is not None


def test_a_damaged_manifest_of_the_cache_is_fetched_again(bench):
    root = bench.registry.add(archives.nested(archives.layout(AMD)))
    bench.pull()
    for digest in (root.digest, Digest(archives.layout(AMD).entries[0]["digest"])):
        path = bench.cache.path_of(digest)
        path.write_bytes(path.read_bytes()[:-1] + b" ")
        assert bench.cached() is None
        bench.pull()
        assert bench.cached() is not None


def test_a_cached_image_is_a_source_by_itself(bench):
    root = bench.registry.add(archives.nested(archives.layout(AMD, ARM)))
    bench.pull()
    bench.registry.asked.clear()
    source = CacheSource(bench.cache)
    found = source.document(str(REFERENCE))
    assert found.descriptor.digest == root.digest
    assert source.document(str(root.digest)).raw == found.raw
    child = Descriptor.from_json(json.loads(found.raw)["manifests"][1])
    assert source.child(child).descriptor == child
    with pytest.raises(NotFound, match="pull it again"):
        source.document("other.example/app:1")
    assert bench.registry.asked == []


def test_pulls_and_prunes_at_the_same_time_leave_whole_images(bench):
    """Whatever prune takes away between pulls, an image just pulled is whole."""
    bench.registry.add(archives.nested(archives.layout(AMD, ARM)))
    over, problems = threading.Event(), []

    def keep_pruning() -> None:
        pause = random.Random(1)
        while not over.wait(pause.random() / 100):
            prune(bench.cache, max_size=0)

    def keep_pulling(name: str) -> None:
        for _ in range(8):
            with bench.cache.pins() as pins:
                reference = replace(REFERENCE, repository=name)
                done = bench.pull(reference=reference, pins=pins)
                below = bench.cache.occupied(done.root)
                gone = [d for d, what in below.items() if not bench.cache.has(what)]
                if gone or len(below) != 8:
                    problems.append((name, len(below), gone))

    pruning = threading.Thread(target=keep_pruning)
    pulling = [threading.Thread(target=keep_pulling, args=(name,)) for name in "abc"]
    for thread in (pruning, *pulling):
        thread.start()
    for thread in pulling:
        thread.join()
    over.set()
    pruning.join()
    assert problems == []
    prune(bench.cache, max_size=0)
    assert list(bench.cache.blobs()) == []


@pytest.mark.parametrize("output", [False, True], ids=["into the cache", "into a file"])
def test_a_full_disk_is_one_line_and_the_next_pull_continues(output, tmp_path, run_cli):
    """The limit on a file's size stands for the disk."""
    layer = tar_of({"f": random.Random(1).randbytes(3_000_000)})
    archive = docker_archive(tmp_path / "large.tar", [layer])
    out = tmp_path / "out.tar"
    limit = 1_000_000
    with RegistryServer(Registry(tmp_path / "registry")) as server:
        reference = f"{server.host}/large:1"
        run_cli("push", archive, "-t", reference, "--compress", "none")
        if output:
            assert run_cli("pull", reference).returncode == 0
        with (tmp_path / "err").open("wb") as errors:
            child = run_cli.start(
                "pull",
                reference,
                *(["-o", out] if output else []),
                stdout=subprocess.DEVNULL,
                stderr=errors,
                preexec_fn=lambda: resource.setrlimit(
                    resource.RLIMIT_FSIZE, (limit, limit)
                ),
            )
            assert child.wait(60) == 1
        lines = (tmp_path / "err").read_text().splitlines()
        assert "file too large; the file system, or ulimit -f," in lines[-1]
        assert not out.exists() and list(tmp_path.glob(".*.part")) == []
        done = run_cli("pull", reference, "-o", out, "--json")
    assert done.returncode == 0, done.stderr
    assert done.json["bytes"] < 2_100_000


@pytest.mark.parametrize("limit", [10, 12, 14])
@pytest.mark.parametrize("output", [["-o", "out.tar"], ["-o", "out/"], []])
def test_too_few_descriptors_are_said_with_what_to_do(output, limit, tmp_path, run_cli):
    path = docker_archive(tmp_path / "app.tar", [tar_of({"f": b"1"})])
    with RegistryServer(Registry(tmp_path / "registry")) as server:
        reference = f"{server.host}/few:1"
        assert run_cli("push", path, "-t", reference).returncode == 0
        child = run_cli.start(
            *("pull", reference, *output, "--retry-times", "0"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            preexec_fn=lambda: resource.setrlimit(
                resource.RLIMIT_NOFILE, (limit, limit)
            ),
        )
        said = child.communicate(timeout=30)[1].decode()
    if child.returncode != 0:
        assert "allow more (ulimit -n), or use fewer" in said.splitlines()[-1]


def test_every_error_is_one_of_ours(bench):
    with pytest.raises(PusherError):
        bench.pull()
