"""Pushes from pipes and compressed files, by the real command."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from images import MIB, docker_archive, large_archive, small_archive, tar_of
from registries import read_back, run
from suites import first

import dockerpush
from dockerpush.events import BlobFinished, BlobPlanned
from dockerpush.server import Registry, RegistryServer


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory):
    seen: list = []
    registry = Registry(tmp_path_factory.mktemp("embedded"))
    with RegistryServer(registry, on_request=seen.append) as server:
        server.seen = seen
        yield server


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return small_archive(tmp_path / "image.tar")


def zstd(data: bytes, path: Path) -> bytes:
    path.write_bytes(data)
    return run("zstd", "-qc", path)


def test_each_blob_of_a_stream_is_counted_once(archive, embedded, tmp_path):
    """The plan comes after the blobs: they were counted again, and never ended."""
    path = tmp_path / "image.tar.gz"
    path.write_bytes(gzip.compress(archive.read_bytes()))
    for _ in range(2):
        events: list = []
        dockerpush.push(path, f"{embedded.host}/counted:1", on_event=events.append)
        planned = [one.key for one in events if isinstance(one, BlobPlanned)]
        finished = [one.key for one in events if isinstance(one, BlobFinished)]
        assert len(set(planned)) == len(planned) > 1
        assert sorted(planned) == sorted(finished)


@pytest.mark.parametrize("ending", ["gz", "bz2", "xz", "zst"])
@pytest.mark.parametrize("way", ["file", "pipe"])
def test_compressed_archives_are_stored_whole(
    ending, way, archive, embedded, run_cli, tmp_path
):
    raw = archive.read_bytes()
    packed = {
        "gz": gzip.compress,
        "bz2": bz2.compress,
        "xz": lzma.compress,
        "zst": lambda data: zstd(data, tmp_path / "raw"),
    }[ending](raw)
    path = tmp_path / "packed"  # the ending of a name says nothing
    path.write_bytes(packed)
    repository = f"{way}/{ending}"
    target = f"{embedded.host}/{repository}:1"
    if way == "file":
        done = run_cli("push", path, "-t", target)
    else:
        done = run_cli("push", "-", "-t", target, stdin=packed)
    assert done.returncode == 0, done.stderr
    stored = read_back(embedded.host, repository, "1")
    assert stored.layers == stored.diff_ids


@pytest.mark.parametrize(
    "name", ["podman-docker-archive", "podman-oci-archive", "skopeo-oci-zstd"]
)
def test_a_pipe_gives_the_image_that_a_file_gives(
    name, real_archives, embedded, run_cli
):
    target = f"{embedded.host}/real/{name}:1"
    done = run_cli("push", "-", "-t", target, "--json", stdin=real_archives[name])
    assert done.returncode == 0, done.stderr
    stored = read_back(embedded.host, f"real/{name}", "1")
    assert stored.config == real_archives.config(name)
    assert stored.layers == stored.diff_ids
    of_file = run_cli(
        *("push", real_archives[name], "--compress", "gzip", "--json"),
        *("-t", f"{embedded.host}/real/file-{name}:1"),
    )
    assert of_file.json["digest"] == done.json["digest"]


def test_layers_are_sent_while_the_rest_is_held_back(tmp_path, embedded, run_cli):
    path = docker_archive(
        tmp_path / "image.tar",
        [tar_of({"first": os.urandom(2 * MIB)}), tar_of({"second": b"x" * MIB})],
    )
    raw = path.read_bytes()
    child = run_cli.start(
        *("push", "-", "-t", f"{embedded.host}/held/back:1"),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    child.stdin.write(raw[: 2 * MIB + 64 * 1024])
    child.stdin.flush()
    deadline = time.monotonic() + 20
    while not any(
        one.method == "PUT" and "/held/back/blobs/" in one.path and one.status == 201
        for one in embedded.seen
    ):
        assert time.monotonic() < deadline, "nothing was sent while the rest waits"
        time.sleep(0.02)
    _, said = child.communicate(raw[2 * MIB + 64 * 1024 :], timeout=30)
    assert child.returncode == 0, said


def test_only_the_named_image_of_a_compressed_file_is_sent(
    real_archives, embedded, run_cli, tmp_path
):
    path = tmp_path / "multi.tar.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(real_archives["podman-multi"].read_bytes())
    done = run_cli(
        *("push", path, "--name", "localhost/demo/busybox:1", "--json"),
        *("-t", f"{embedded.host}/named/one:1"),
    )
    assert done.returncode == 0, done.stderr
    assert done.json["blobs"] == {"uploaded": 2}


def test_the_second_push_of_a_pipe_sends_nothing(archive, embedded, run_cli):
    target = f"{embedded.host}/again/app:1"
    raw = archive.read_bytes()
    first = run_cli("push", "-", "-t", target, "--json", stdin=raw).json
    again = run_cli("push", "-", "-t", target, "--json", stdin=raw).json
    assert again["digest"] == first["digest"]
    assert again["bytes"] == 0


def test_raw_layers_of_an_oci_archive_say_that_the_digest_changes(
    real_archives, embedded, run_cli
):
    source = real_archives["umoci-layout"]
    raw = run("tar", "-C", source, "-cf", "-", ".")
    target = f"{embedded.host}/umoci/app:1"
    kept = run_cli("push", "-", "-t", target, "--compress", "none", stdin=raw)
    assert kept.returncode == 0, kept.stderr
    stored = read_back(embedded.host, "umoci/app", "1")
    assert stored.layers == stored.diff_ids


class TestBadInput:
    @pytest.fixture(autouse=True)
    def _arrange(self, embedded, run_cli, archive):
        self.target = f"{embedded.host}/bad/app:1"
        self.run_cli = run_cli
        self.raw = archive.read_bytes()

    def check(self, data: bytes, *words: str, code: int = 6):
        done = self.run_cli("push", "-", "-t", self.target, stdin=data)
        assert done.returncode == code, done.stderr
        assert done.error.startswith("error: standard input")
        assert "Traceback" not in done.stderr
        for word in words:
            assert word in done.error
        with pytest.raises(RuntimeError):
            read_back(self.target.partition("/")[0], "bad/app", "1")

    def test_a_pipe_that_closes_at_once(self):
        self.check(b"", "it is empty")

    @pytest.mark.parametrize("part", [0.001, 0.2, 0.5, 0.9])
    def test_a_pipe_that_ends_early(self, part):
        self.check(self.raw[: int(len(self.raw) * part)])

    @pytest.mark.parametrize("part", [0.3, 0.999])
    def test_a_compressed_pipe_that_ends_early(self, part):
        packed = gzip.compress(self.raw)
        self.check(packed[: int(len(packed) * part)], "truncated")

    def test_a_corrupt_stream(self):
        packed = bytearray(gzip.compress(self.raw))
        packed[len(packed) // 2 : len(packed) // 2 + 50] = b"\xff" * 50
        self.check(bytes(packed))

    def test_junk_after_the_end(self):
        self.check(gzip.compress(self.raw) + b"junk", "gzip")

    def test_something_else(self):
        self.check(b"<html>not found</html>" * 100, "HTML")

    def test_without_a_target(self):
        done = self.run_cli("push", "-", stdin=self.raw)
        assert done.returncode == 2
        assert "-t" in done.error

    def test_a_bomb_needs_no_memory_and_no_disk(self, tmp_path):
        """1 GiB of zeros in 1 MiB of gzip: no archive, found by its first block."""
        bomb = gzip.compress(bytes(MIB), 9) * 1024
        done = self.run_cli("push", "-", "-t", self.target, stdin=bomb, fresh=True)
        assert done.returncode == 6
        assert done.peak_rss < 50 * MIB

    def test_a_stalled_pipe_ends_with_the_signal(self):
        child = self.run_cli.start(
            *("push", "-", "-t", self.target),
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        child.stdin.write(self.raw[:5000])
        child.stdin.flush()
        time.sleep(1)
        started = time.monotonic()
        child.send_signal(signal.SIGTERM)
        child.wait(10)
        assert time.monotonic() - started < 3
        assert child.returncode == -signal.SIGTERM
        said = child.stderr.read().decode()
        child.stdin.close()
        child.stderr.close()
        assert said.splitlines()[-1].startswith("error: interrupted")


@pytest.mark.parametrize("size", first(1, [100, 400]))
def test_memory_is_flat_for_a_compressed_file(size, tmp_path, docker_registry, run_cli):
    path = large_archive(tmp_path / "image.tar", [size * MIB], compressible=True)
    with path.open("rb") as raw, (tmp_path / "image.tgz").open("wb") as packed:
        subprocess.run(["gzip", "-1c"], stdin=raw, stdout=packed, check=True)
    path.unlink()
    done = run_cli(
        *("push", tmp_path / "image.tgz", "-t", f"{docker_registry.host}/flat:1"),
        timeout=120,
        fresh=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.peak_rss < 50 * MIB
