"""The cache: what it finds again, what it forgets, and who may use it at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dockerpush.errors import Cancelled, StateError
from dockerpush.oci import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    Digest,
    Index,
    Manifest,
)
from dockerpush.state.cache import Cache, damaged, prune
from dockerpush.system.cancellation import Cancellation

DAY = 24 * 3600.0


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "state" / "cache")


@pytest.fixture
def cancellation():
    with Cancellation() as cancellation:
        yield cancellation


def stored(cache: Cache, media_type: str, content: bytes) -> Descriptor:
    descriptor = Descriptor.of(media_type, content)
    cache.put(descriptor.digest, content)
    return descriptor


def image(cache: Cache, name: str, *layers: bytes, age: float = 0.0) -> Descriptor:
    """An image of *layers* in *cache*, used *age* seconds ago."""
    config = stored(cache, OCI_CONFIG, f'{{"name": "{name}"}}'.encode())
    blobs = tuple(stored(cache, OCI_LAYER, layer) for layer in layers)
    manifest = Manifest(OCI_MANIFEST, config, blobs).to_bytes()
    root = stored(cache, OCI_MANIFEST, manifest)
    cache.record(name, root)
    (path,) = (
        path
        for path in (cache.directory / "images").iterdir()
        if json.loads(path.read_bytes())["reference"] == name
    )
    used = path.stat().st_mtime - age
    os.utime(path, (used, used))
    return root


def names(cache: Cache) -> list[str]:
    return [found.reference for found in cache.images()]


def now(cache: Cache) -> float:
    """When the youngest image was used."""
    return cache.images()[0].used_at


def test_an_image_is_found_by_its_reference(cache):
    root = image(cache, "r/a:1", b"layer")
    found = cache.find("r/a:1")
    assert found is not None
    assert (found.root.digest, found.root.size) == (root.digest, root.size)
    assert cache.find("r/a:2") is None
    cache.forget("r/a:1")
    assert cache.find("r/a:1") is None


def test_everything_below_a_root_is_reached_through_indexes(cache):
    first, second = image(cache, "a", b"one"), image(cache, "b", b"two")
    root = stored(cache, OCI_INDEX, Index(OCI_INDEX, (first, second)).to_bytes())
    assert len(cache.occupied(root)) == 7


def test_an_index_without_its_children_is_reached_as_far_as_it_goes(cache):
    gone = Descriptor.of(OCI_MANIFEST, b"never stored")
    root = stored(cache, OCI_INDEX, Index(OCI_INDEX, (gone,)).to_bytes())
    assert set(cache.occupied(root)) == {root.digest, gone.digest}


def test_a_document_with_a_flipped_byte_is_as_if_it_were_not_there(cache):
    root = image(cache, "r/a:1", b"layer")
    path = cache.path_of(root.digest)
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(content)
    assert cache.read_document(root) is None


def test_a_broken_record_of_an_image_stops_nothing(cache):
    image(cache, "r/a:1", b"layer")
    (cache.directory / "images" / "broken.json").write_bytes(b"{")
    assert names(cache) == ["r/a:1"]


def test_verify_finds_damaged_blobs_and_removes_only_them(cache, cancellation):
    image(cache, "r/a:1", b"layer", b"other")
    wrong = cache.path_of(Digest.of(b"layer"))
    wrong.write_bytes(b"laYer")
    assert damaged(cache, cancellation) == [Digest.of(b"layer")]
    assert not wrong.exists()
    assert damaged(cache, cancellation) == []


def test_a_state_that_cannot_be_written_is_a_state_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    cache = Cache(tmp_path / "file" / "cache")
    with pytest.raises(StateError, match="cache"):
        cache.put(Digest.of(b"x"), b"x")
    with pytest.raises(StateError), cache.pins():
        pass
    assert cache.images() == []


class TestPrune:
    """What goes and what stays."""

    def test_without_limits_only_what_no_image_has_goes(self, cache):
        image(cache, "r/a:1", b"layer")
        stored(cache, OCI_LAYER, b"loose")
        done = prune(cache)
        assert (done.images, done.files, done.size) == ((), 1, len(b"loose"))
        assert cache.size_of(Digest.of(b"layer")) == 5
        assert cache.size_of(Digest.of(b"loose")) is None

    def test_images_go_by_age_and_shared_layers_stay(self, cache):
        image(cache, "old", b"shared", b"old layer", age=30 * DAY)
        image(cache, "new", b"shared")
        done = prune(cache, keep_since=now(cache) - DAY)
        assert done.images == ("old",)
        assert names(cache) == ["new"]
        assert cache.size_of(Digest.of(b"shared")) == 6
        assert cache.size_of(Digest.of(b"old layer")) is None

    def test_a_young_loose_blob_stays_for_the_pull_that_was_broken(self, cache):
        stored(cache, OCI_LAYER, b"loose")
        assert prune(cache, keep_since=1.0).files == 0
        assert prune(cache).files == 1

    def test_images_go_by_size_those_used_longest_ago_first(self, cache):
        for number in range(4):
            layer = bytes([number]) * 10_000
            image(cache, f"image{number}", layer, age=number * DAY)
        done = prune(cache, max_size=25_000)
        assert names(cache) == ["image0", "image1"]
        assert set(done.images) == {"image2", "image3"}
        total = sum(status.st_size for _, status in cache.blobs())
        assert total <= 25_000

    def test_a_dry_run_says_the_same_and_removes_nothing(self, cache):
        image(cache, "a", b"layer")
        tried = prune(cache, max_size=0, dry_run=True)
        assert names(cache) == ["a"]
        assert prune(cache, max_size=0) == tried
        assert list(cache.blobs()) == []

    def test_what_a_live_run_has_pinned_stays(self, cache):
        loose = stored(cache, OCI_LAYER, b"loose")
        with cache.pins() as pins:
            pins.add([loose.digest])
            assert prune(cache).files == 0
        assert prune(cache).files == 1
        assert list((cache.directory / "runs").iterdir()) == []

    def test_pins_of_a_run_that_was_killed_do_not_count(self, cache):
        loose = stored(cache, OCI_LAYER, b"loose")
        code = (
            "import os, sys\n"
            "from pathlib import Path\n"
            "from dockerpush.state.cache import Cache\n"
            "with Cache(Path(sys.argv[1])).pins() as pins:\n"
            "    pins.add([sys.argv[2]])\n"
            "    os._exit(9)\n"
        )
        arguments = [sys.executable, "-c", code, str(cache.directory), loose.digest]
        assert subprocess.run(arguments, check=False).returncode == 9
        assert prune(cache).files == 1
        assert list((cache.directory / "runs").iterdir()) == []

    def test_a_beginning_goes_unless_somebody_is_at_it(self, cache, cancellation):
        digest = Digest.of(b"blob")
        with cache.partial(digest, cancellation) as partial:
            partial.path.write_bytes(b"bl")
            assert prune(cache).files == 0
        assert prune(cache).files == 1
        assert list((cache.directory / "partial").glob("*")) == []


class TestPartial:
    """The beginning of a blob has one owner."""

    def test_a_beginning_is_there_for_the_next_and_becomes_the_blob(
        self, cache, cancellation
    ):
        digest = Digest.of(b"blob")
        with cache.partial(digest, cancellation) as partial:
            assert partial.size() == 0
            partial.path.write_bytes(b"bl")
        with cache.partial(digest, cancellation) as partial:
            assert partial.size() == 2
            partial.path.write_bytes(b"blob")
            partial.keep()
        assert cache.size_of(digest) == 4
        assert list((cache.directory / "partial").glob("*")) == []

    def test_the_lock_of_the_directory_is_taken_once_to_begin_and_once_to_end(
        self, cache, cancellation, monkeypatch
    ):
        """Many small blobs wait for it."""
        times, guarded = [], cache.guarded
        monkeypatch.setattr(cache, "guarded", lambda: times.append(1) or guarded())
        with cache.partial(Digest.of(b"blob"), cancellation):
            assert len(times) == 1
        assert len(times) == 2

    def test_the_second_waits_for_the_first(self, cache, cancellation):
        digest, order = Digest.of(b"blob"), []

        def second() -> None:
            with cache.partial(digest, cancellation):
                order.append("second")

        thread = threading.Thread(target=second)
        with cache.partial(digest, cancellation):
            thread.start()
            thread.join(0.3)
            order.append("first")
        thread.join()
        assert order == ["first", "second"]

    def test_waiting_ends_when_it_is_cancelled(self, cache, cancellation):
        digest = Digest.of(b"blob")
        with cancellation.child() as child, cache.partial(digest, cancellation):
            child.cancel("enough")
            with pytest.raises(Cancelled), cache.partial(digest, child):
                pass
