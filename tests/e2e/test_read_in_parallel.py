"""Blobs are unpacked and hashed several at a time, in memory that does not grow."""

from __future__ import annotations

import gzip
import os
import threading
from pathlib import Path

import pytest
from images import MIB, docker_archive_of_packed, tar_of
from inprocess import run_here
from registries import read_back

from dockerpush.archive import decompress
from dockerpush.errors import ArchiveError
from dockerpush.server import Registry, RegistryServer
from dockerpush.state import cache as cache_module
from dockerpush.system import workers
from dockerpush.system.cancellation import Cancellation
from dockerpush.system.workers import in_parallel

LAYERS = 6
LIMIT = 40 * MIB


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A docker-archive with gzip layers, whose digests it does not say."""
    layers = [tar_of({"noise": os.urandom(3 * MIB)}) for _ in range(LAYERS)]
    path = tmp_path_factory.mktemp("packed") / "packed.tar"
    return docker_archive_of_packed(path, layers, lambda raw: gzip.compress(raw, 1))


class Meeting:
    """Stands for a function of two arguments or more, and waits to be called twice."""

    def __init__(self, real) -> None:
        self.real = real
        self.peak = 0
        self._here = 0
        self._changed = threading.Condition()

    def __call__(self, *arguments, **options):
        with self._changed:
            self._here += 1
            self.peak = max(self.peak, self._here)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self.peak >= 2, timeout=5)
        try:
            return self.real(*arguments, **options)
        finally:
            with self._changed:
                self._here -= 1


@pytest.fixture
def meet(monkeypatch: pytest.MonkeyPatch):
    """Has the function *name* of *module* note how many threads are in it."""
    monkeypatch.setattr(workers, "block_threads", lambda: 2)

    def watch(module: object, name: str) -> Meeting:
        meeting = Meeting(getattr(module, name))
        monkeypatch.setattr(module, name, meeting)
        return meeting

    return watch


@pytest.mark.parametrize("way", ["push", "copy", "inspect"])
def test_packed_layers_of_an_archive(way, packed, tmp_path, run_cli, meet):
    meeting = meet(decompress, "open_decompressed")
    line = {"push": ["push", packed, "-t"], "copy": ["copy", packed]}.get(way)
    with RegistryServer(Registry(tmp_path / "registry")) as server:
        target = f"{server.host}/team/app:1"
        line = [*line, target] if line else ["inspect", packed, "--json"]
        done = run_here(line, run_cli.environment())
        assert done.returncode == 0, done.stderr
        if way != "inspect":
            assert len(read_back(server.host, "team/app", "1").layers) == LAYERS
    assert meeting.peak >= 2


def test_one_job_reads_one_at_a_time(packed, tmp_path, run_cli, meet):
    meeting = meet(decompress, "open_decompressed")
    meeting.peak = 2  # waits for nobody
    seen = []
    real = meeting.real

    def alone(*arguments, **options):
        seen.append(meeting._here)
        return real(*arguments, **options)

    meeting.real = alone
    with RegistryServer(Registry(tmp_path / "registry")) as server:
        line = ["push", packed, "-t", f"{server.host}/team/app:1", "-j", "1"]
        done = run_here(line, run_cli.environment())
        assert done.returncode == 0, done.stderr
    assert set(seen) == {1}


def test_the_blobs_of_the_cache(packed, tmp_path, run_cli, meet):
    meeting = meet(cache_module, "digest_of_file")
    with RegistryServer(Registry(tmp_path / "registry")) as server:
        target = f"{server.host}/team/app:1"
        assert run_cli("push", packed, "-t", target).returncode == 0
        assert run_cli("pull", target).returncode == 0
    blobs = sorted((run_cli.state / "cache" / "blobs" / "sha256").iterdir())
    for path in blobs[:2]:
        path.chmod(0o600)
        path.write_bytes(b"x" * path.stat().st_size)
    done = run_here(["cache", "verify", "--json"], run_cli.environment())
    assert done.returncode == 6
    assert done.json["damaged"] == [f"sha256:{path.name}" for path in blobs[:2]]
    assert meeting.peak >= 2


@pytest.mark.parametrize("words", [("push",), ("inspect",), ("verify",)])
def test_memory_stays_below_40_mib(words, packed, tmp_path, run_cli):
    with RegistryServer(Registry(tmp_path / "registry")) as server:
        target = f"{server.host}/team/app:1"
        lines = {
            "push": ("push", packed, "-t", target),
            "inspect": ("inspect", packed, "--json"),
            "verify": ("verify", packed, target),
        }
        if words[0] == "verify":
            assert run_cli(*lines["push"]).returncode == 0
        done = run_cli(*lines[words[0]], fresh=True)
    assert done.returncode == 0, done.stderr
    assert 0 < done.peak_rss < LIMIT


def test_a_damaged_layer_is_named_and_nothing_is_tagged(tmp_path, run_cli):
    layers = [tar_of({"noise": os.urandom(MIB)}) for _ in range(4)]

    def damaged(raw: bytes) -> bytes:
        content = bytearray(gzip.compress(raw, 1))
        if raw == layers[2]:
            content[-6] ^= 1
        return bytes(content)

    path = docker_archive_of_packed(tmp_path / "i.tar", layers, damaged)
    with RegistryServer(Registry(tmp_path / "registry")) as server:
        done = run_cli("push", path, "-t", f"{server.host}/team/app:1")
        assert done.returncode == 6
        assert "2/layer.tar" in done.error
        assert run_cli("digest", f"{server.host}/team/app:1").returncode == 4


def test_results_keep_their_order_and_the_first_failure_counts(monkeypatch):
    monkeypatch.setattr(workers, "block_threads", lambda: 4)

    def fail(number: int) -> int:
        if number == 7:
            raise ArchiveError("seven")
        return number * 2

    with Cancellation() as cancellation:
        assert in_parallel(fail, range(7), cancellation) == [*range(0, 14, 2)]
        with pytest.raises(ArchiveError, match="seven"):
            in_parallel(fail, range(20), cancellation)
        assert not cancellation.cancelled
