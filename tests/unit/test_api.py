"""The library: what ``import dockerpush`` offers."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from images import large_archive, small_archive
from multiplatform import write_layout
from registries import write_users

import dockerpush
from dockerpush import events
from dockerpush.server import Registry, RegistryServer


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No stored credentials, and a state directory that must stay empty."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DOCKERPUSH_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def host(tmp_path: Path):
    with RegistryServer(Registry(tmp_path / "registry")) as server:
        yield server.host


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return small_archive(tmp_path / "image.tar")


def digest_at(reference: str) -> str | None:
    place = dockerpush.Reference.parse(reference)
    with dockerpush.connect(place.registry) as client:
        found = client.manifest_descriptor(place.repository, place.tag or "latest")
    return found and found.digest


def test_a_push_returns_what_the_registry_holds_and_prints_nothing(
    archive, host, capfd, nobody
):
    seen: list[events.Event] = []
    result = dockerpush.push(archive, f"{host}/team/app:1", on_event=seen.append)
    assert result.descriptor.digest == digest_at(f"{host}/team/app:1")
    assert result.sent > 0
    assert any(isinstance(event, events.ManifestStored) for event in seen)
    assert capfd.readouterr() == ("", "")
    assert not nobody.exists()


def test_a_reference_may_be_a_text_or_a_value_and_latest_is_understood(archive, host):
    one = dockerpush.push(archive, f"{host}/app")
    two = dockerpush.push(archive, dockerpush.Reference(host, "app"))
    assert one.tags == two.tags == ("latest",)


def test_a_compressed_archive_is_pushed_too(archive, host, tmp_path):
    import gzip

    packed = tmp_path / "image.tar.gz"
    packed.write_bytes(gzip.compress(archive.read_bytes(), 1))
    dockerpush.push(packed, f"{host}/app:1", name="demo/app:1")
    assert digest_at(f"{host}/app:1")


def test_what_was_pulled_and_pushed_again_has_the_same_digest(host, tmp_path):
    root = write_layout(tmp_path / "layout")
    whole = dockerpush.PushOptions(compress="none")
    dockerpush.push(tmp_path / "layout", f"{host}/app:1", options=whole)
    out = tmp_path / "out.tar"
    pulled = dockerpush.pull(f"{host}/app:1", out, form="oci-archive")
    assert pulled.root.digest == root["digest"]
    again = dockerpush.push(out, f"{host}/again:1", options=whole)
    assert again.descriptor.digest == root["digest"]


def test_a_platform_is_taken_out_of_an_index(host, tmp_path):
    write_layout(tmp_path / "layout")
    dockerpush.push(tmp_path / "layout", f"{host}/app:1")
    out = tmp_path / "out.tar"
    arm = dockerpush.Platform("linux", "arm64")
    dockerpush.pull(f"{host}/app:1", out, platforms=[arm])
    with dockerpush.open_archive(out) as archive:
        (image,) = archive.images
    assert json.loads(image.entry.config)["architecture"] == "arm64"


def test_a_copy_keeps_the_digest(archive, host, tmp_path):
    pushed = dockerpush.push(archive, f"{host}/app:1")
    with RegistryServer(Registry(tmp_path / "other")) as other:
        copied = dockerpush.copy(f"{host}/app:1", f"{other.host}/team/app")
        assert copied.descriptor.digest == pushed.descriptor.digest
        assert digest_at(f"{other.host}/team/app:1") == pushed.descriptor.digest


def test_credentials_are_given_in_pairs_and_count(archive, tmp_path):
    users = write_users(tmp_path / "users", {"alice": "secret"})
    registry = Registry(tmp_path / "registry")
    with RegistryServer(registry, users=users) as server:
        target = f"{server.host}/app:1"
        with pytest.raises(dockerpush.PusherError, match="401"):
            dockerpush.push(archive, target)
        with pytest.raises(dockerpush.PusherError, match="go together"):
            dockerpush.push(archive, target, username="alice")
        dockerpush.push(archive, target, username="alice", password="secret")


def test_a_push_can_be_cancelled_from_another_thread(host, tmp_path):
    archive = large_archive(tmp_path / "big.tar", [64 << 20], compressible=True)
    with dockerpush.Cancellation() as cancellation:
        started = threading.Event()

        def on_event(event: events.Event) -> None:
            if isinstance(event, events.BytesRead):
                started.set()

        def stop() -> None:
            started.wait(30)
            cancellation.cancel("enough")

        stopper = threading.Thread(target=stop)
        stopper.start()
        with pytest.raises(dockerpush.PusherError, match="enough"):
            dockerpush.push(
                archive,
                f"{host}/app:1",
                on_event=on_event,
                cancellation=cancellation,
            )
        stopper.join()
    assert digest_at(f"{host}/app:1") is None


def test_an_unknown_form_is_refused_before_anything_is_asked(tmp_path):
    with pytest.raises(dockerpush.PusherError, match="unknown form"):
        dockerpush.pull("127.0.0.1:1/app", tmp_path / "out", form="zip")


def test_no_part_of_the_package_is_called_like_a_function():
    """Importing it would put it in the function's place."""
    parts = {module.name for module in pkgutil.iter_modules(dockerpush.__path__)}
    assert parts.isdisjoint(dockerpush.__all__)


def test_everything_that_is_offered_exists_and_has_a_description():
    for name in dockerpush.__all__:
        offered = getattr(dockerpush, name)
        assert offered.__doc__
        assert name in dir(dockerpush)
    with pytest.raises(AttributeError, match="no attribute 'pusher'"):
        dockerpush.pusher  # noqa: B018


def test_importing_the_package_loads_nothing_of_it():
    code = (
        "import sys, dockerpush; print([m for m in sys.modules if 'dockerpush.' in m])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout.strip() == b"[]"
