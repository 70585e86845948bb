"""Copying between registries that misbehave, and what copies share."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import time
from pathlib import Path
from typing import Iterator

import pytest
from copied import assert_whole, delete, put, read
from images import small_archive

from dockerpush.errors import (
    Cancelled,
    ContentMismatch,
    NotFound,
    PusherError,
    TransientError,
)
from dockerpush.events import BytesSent, Notice, ignore
from dockerpush.oci import OCI_INDEX, OCI_MANIFEST, Descriptor, Digest
from dockerpush.registry.client import RegistryClient
from dockerpush.registry.retry import RetryPolicy
from dockerpush.registry.transport import TransportSettings
from dockerpush.server import Registry, RegistryServer
from dockerpush.system.cancellation import Cancellation
from dockerpush.transfer.choices import CopyOptions
from dockerpush.transfer.copy_image import copy_image
from dockerpush.transfer.engine import ConcurrencyLimits
from dockerpush.transfer.registry_target import RegistryTarget
from dockerpush.transfer.source import RegistrySource
from dockerpush.upload.limits import HostLimits, LearnedLimits
from dockerpush.upload.uploader import Uploader

POLICY = RetryPolicy(attempts=2, base=0.01)
MIB = 1024 * 1024


def target_at(client, repository, cancellation, on_event=ignore) -> RegistryTarget:
    uploader = Uploader(
        client,
        repository,
        LearnedLimits(HostLimits().with_chunk(MIB)),
        POLICY,
        cancellation=cancellation,
        on_event=on_event,
    )
    return RegistryTarget(client, repository, uploader, cancellation, on_event=on_event)


class Sides:
    """A source and a target, with what was heard meanwhile."""

    def __init__(self, one: str, two: str, stack: contextlib.ExitStack) -> None:
        self.one, self.two = one, two
        self.events: list = []
        self.cancellation = stack.enter_context(Cancellation())
        self.clients = [
            stack.enter_context(
                RegistryClient(
                    host,
                    TransportSettings(plain_http=True),
                    self.cancellation,
                    policy=POLICY,
                )
            )
            for host in (one, two)
        ]

    def copy(self, reference="1", *, source=None, **options):
        with self.cancellation.child() as child:
            target = target_at(self.clients[1], "app", child, self.events.append)
            source = source or RegistrySource(self.clients[0], "app")
            return copy_image(source, target, reference, tags=["1"], **options)


@pytest.fixture
def sides(tmp_path: Path) -> Iterator[Sides]:
    with contextlib.ExitStack() as stack:
        hosts = [
            stack.enter_context(RegistryServer(Registry(tmp_path / name))).host
            for name in ("one", "two")
        ]
        yield Sides(*hosts, stack)


@pytest.fixture
def pushed(sides, run_cli, tmp_path) -> str:
    """The digest of app:1 at the source."""
    path = small_archive(tmp_path / "image.tar")
    return run_cli("push", path, "-t", f"{sides.one}/app:1", "--json").json["digest"]


class Flaky:
    """A client whose downloads go wrong in one of several ways."""

    def __init__(self, client, spoil) -> None:
        self._client = client
        self._spoil = spoil

    def __getattr__(self, name):
        return getattr(self._client, name)

    def download(self, repository, digest, offset=0):
        return self._spoil(self._client.download(repository, digest, offset))


class Failing:
    def __init__(self, error: Exception) -> None:
        self._error = error

    def __call__(self, download):
        self._download = download
        return self

    def readinto(self, buffer):
        raise self._error

    def close(self):
        self._download.close()


class Altered:
    """Every first byte is another one."""

    def __init__(self, download) -> None:
        self._download = download

    def readinto(self, buffer):
        count = self._download.readinto(buffer)
        if count:
            buffer[0] ^= 1
        return count

    def close(self):
        self._download.close()


class TestSources:
    @pytest.mark.parametrize(
        "error",
        [TransientError("the source broke"), NotFound("gone at the source")],
        ids=["broken", "gone"],
    )
    def test_their_failures_are_not_taken_for_the_targets(self, error, sides, pushed):
        source = RegistrySource(Flaky(sides.clients[0], Failing(error)), "app")
        with pytest.raises(PusherError) as caught:
            sides.copy(source=source)
        assert caught.value is error
        assert sides.clients[1].manifest_descriptor("app", "1") is None

    def test_wrong_bytes_never_become_a_blob(self, sides, pushed):
        source = RegistrySource(Flaky(sides.clients[0], Altered), "app")
        with pytest.raises(ContentMismatch):
            sides.copy(source=source)
        manifest = json.loads(read(sides.one, "app", "1"))
        for blob in (manifest["config"], *manifest["layers"]):
            assert sides.clients[1].blob_size("app", Digest(blob["digest"])) is None
        assert sides.clients[1].manifest_descriptor("app", "1") is None

    def test_indexes_in_indexes_end_somewhere(self, sides, pushed):
        below = Descriptor(OCI_MANIFEST, Digest(pushed), len(read_raw(sides)))
        for _ in range(12):
            record = {
                "schemaVersion": 2,
                "mediaType": OCI_INDEX,
                "manifests": [below.to_json()],
            }
            raw = json.dumps(record).encode()
            below = Descriptor.of(OCI_INDEX, raw)
            put(sides.one, "app", str(below.digest), raw, OCI_INDEX)
        with pytest.raises(ContentMismatch, match="indexes within indexes"):
            sides.copy(str(below.digest))


def read_raw(sides: Sides) -> bytes:
    return read(sides.one, "app", "1")


class TestTargets:
    def test_one_that_lost_a_blob_of_an_image_it_holds_gets_it_again(
        self, sides, pushed
    ):
        sides.copy()
        layer = json.loads(read_raw(sides))["layers"][0]["digest"]
        delete(sides.two, f"app/blobs/{layer}")
        delete(sides.two, "app/manifests/1")
        try:
            sides.copy()
        finally:
            notices = [e.text for e in sides.events if isinstance(e, Notice)]
        assert_whole(sides.two, "app", read(sides.two, "app", "1"))
        assert any("lost blobs" in text for text in notices)

    def test_a_large_blob_goes_in_pieces_and_little_memory(
        self, docker_registry_factory, run_cli, tmp_path
    ):
        """The command's peak, with a layer larger than it may use."""
        one, two = (docker_registry_factory(name).host for name in ("a", "b"))
        size = 150 * MIB
        hasher = hashlib.sha256()
        with contextlib.ExitStack() as stack:
            sides = Sides(one, two, stack)
            digest = push_random_blob(sides.clients[0], size, hasher)
            raw = artifact(sides.clients[0], digest, size)
            sides.clients[0].put_manifest("app", "1", raw, OCI_MANIFEST)
        done = run_cli(
            "copy", f"{one}/app:1", f"{two}/app:1", "--json", timeout=120, fresh=True
        )
        assert done.returncode == 0, done.stderr
        assert done.json["bytes"] > size
        assert 0 < done.peak_rss < 50 * MIB


def push_random_blob(client, size: int, hasher) -> Digest:
    """A blob that was never in one piece in memory."""
    block = os.urandom(MIB)
    for _ in range(size // MIB):
        hasher.update(block)
    digest = Digest.from_hash(hasher)
    upload = client.start_upload("app")
    body = (memoryview(block) for _ in range(size // MIB))
    client.finish_upload("app", upload, digest, body=body, size=size)
    return digest


def artifact(client, digest: Digest, size: int) -> bytes:
    config = b"{}"
    upload = client.start_upload("app")
    client.finish_upload("app", upload, Digest.of(config), body=[config], size=2)
    layer = Descriptor("application/octet-stream", digest, size)
    described = Descriptor.of("application/vnd.oci.empty.v1+json", config)
    record = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": described.to_json(),
        "layers": [layer.to_json()],
    }
    return json.dumps(record).encode()


class TestEvents:
    def test_every_byte_is_counted_once(self, sides, pushed):
        result = sides.copy(options=CopyOptions(jobs=1))
        sent = sum(e.count for e in sides.events if isinstance(e, BytesSent))
        assert sent == result.sent > 0


class TestShare:
    def test_permits_bound_the_work_at_a_registry(self):
        share = ConcurrencyLimits({"a": 2, "b": 9})
        going, most = [], []
        lock = threading.Lock()

        def work() -> None:
            with share.permit(cancellation, "a", "b", "unknown", small=False):
                with lock:
                    going.append(1)
                    most.append(len(going))
                time.sleep(0.02)
                with lock:
                    going.pop()

        with Cancellation() as cancellation:
            threads = [threading.Thread(target=work) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert max(most) == 2

    def test_permits_in_another_order_do_not_lock_each_other_out(self):
        share = ConcurrencyLimits({"a": 1, "b": 1})

        def work(*registries: str) -> None:
            for _ in range(200):
                with share.permit(cancellation, *registries):
                    pass

        with Cancellation() as cancellation:
            threads = [
                threading.Thread(target=work, args=names, daemon=True)
                for names in (("a", "b"), ("b", "a"))
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(10)
            assert not any(thread.is_alive() for thread in threads)

    def test_waiting_ends_with_a_cancellation(self):
        share, digest = ConcurrencyLimits({"a": 1}), Digest.of(b"")
        with (
            Cancellation() as cancellation,
            share.permit(cancellation, "a"),
            share.blob(cancellation, "a", digest),
        ):
            cancellation.cancel()
            with pytest.raises(Cancelled), share.permit(cancellation, "a"):
                pass
            with pytest.raises(Cancelled), share.blob(cancellation, "a", digest):
                pass

    def test_who_gives_up_waiting_lets_those_behind_go(self):
        share, order = ConcurrencyLimits({"a": 2}), []
        with Cancellation() as cancellation, cancellation.child() as child:

            def wait(name: str, run: Cancellation, *, small: bool) -> None:
                with (
                    contextlib.suppress(Cancelled),
                    share.permit(run, "a", small=small),
                ):
                    order.append(name)

            def waiting(*arguments, **how) -> threading.Thread:
                thread = threading.Thread(target=wait, args=arguments, kwargs=how)
                thread.start()
                time.sleep(0.05)
                return thread

            with contextlib.ExitStack() as held:
                held.enter_context(share.permit(cancellation, "a", small=False))
                held.enter_context(share.permit(cancellation, "a", small=True))
                large = waiting("large", child, small=False)
                small = waiting("small", cancellation, small=True)
                assert order == [], "who came first is served first"
                child.cancel()
                large.join(10)
                small.join(10)
                assert order == ["small"]
            with (
                share.permit(cancellation, "a", small=False),
                share.permit(cancellation, "a", small=False),
            ):
                order.append("all came back")
        assert order == ["small", "all came back"]
