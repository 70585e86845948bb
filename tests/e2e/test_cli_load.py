"""``load``: a real podman, and programs that stand for docker and nerdctl."""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import pytest
from images import docker_archive, small_archive, tar_of
from multiplatform import write_layout
from registries import run

from dockerpush import push
from dockerpush.server import Registry, RegistryServer

APP = "registry.test/team/app:1"
TOOL = "localhost/tool:3"


@pytest.fixture
def podman(tmp_path: Path, runroot: str) -> Path:
    """A podman with an empty storage of its own."""
    flags = f"--root {tmp_path}/root --runroot {runroot} --storage-driver vfs"
    real = run("sh", "-c", "command -v podman").decode().strip()
    return write_program(tmp_path / "podman", f'exec {real} {flags} "$@"')


def write_program(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def names(podman: Path) -> list[str]:
    listed = json.loads(run(podman, "images", "--format", "json") or b"[]")
    return sorted({name for one in listed for name in one.get("Names") or ()})


@pytest.fixture
def docker(tmp_path: Path) -> Path:
    """A program in docker's place, which keeps what it reads as loaded.tar."""
    return write_program(
        tmp_path / "docker",
        'if [ "$1" = --version ]; then echo "Docker version 28.2.2"; exit; fi\n'
        f'echo "$@" >{tmp_path}/called; cat >{tmp_path}/loaded.tar\n'
        'echo "Loaded image: app:1"',
    )


def tags(path: Path) -> list[str]:
    with tarfile.open(path) as tar:
        entries = json.load(tar.extractfile("manifest.json"))
    return [name for entry in entries for name in entry["RepoTags"] or ()]


class TestPodman:
    def test_an_archive_keeps_its_names(self, podman, run_cli, tmp_path):
        image = [tar_of({"a": b"x" * 5000})]
        path = docker_archive(tmp_path / "x.tar", image, names=[APP, TOOL])
        done = run_cli("load", path, "--runtime", podman)
        assert done.returncode == 0, done.stderr
        assert sorted(done.stdout.splitlines()) == sorted([APP, TOOL])
        assert names(podman) == sorted([APP, TOOL])

    @pytest.mark.parametrize("form", ["gz", "stdin"])
    def test_a_stream_is_passed_on(self, form, podman, run_cli, tmp_path):
        path = docker_archive(tmp_path / "x.tar", [tar_of({"a": b"x"})], names=[APP])
        if form == "gz":
            packed = tmp_path / "x.tar.gz"
            packed.write_bytes(gzip.compress(path.read_bytes()))
            done = run_cli("load", packed, "--runtime", podman)
        else:
            done = run_cli("load", "-", "--runtime", podman, stdin=path)
        assert done.returncode == 0, done.stderr
        assert names(podman) == [APP]

    def test_a_directory_under_another_name(self, podman, run_cli, tmp_path):
        write_layout(tmp_path / "layout")
        done = run_cli(
            *("load", f"oci:{tmp_path}/layout:v1", "--runtime", podman),
            *("--name", TOOL, "--platform", "linux/amd64", "--json"),
        )
        assert done.returncode == 0, done.stderr
        assert done.json["images"] == [TOOL] and done.json["runtime"] == "podman"
        assert names(podman) == [TOOL]

    def test_an_image_of_a_registry_and_back(self, podman, run_cli, tmp_path):
        with RegistryServer(Registry(tmp_path / "registry")) as server:
            reference = f"{server.host}/team/app:1"
            push(small_archive(tmp_path / "x.tar"), reference)
            done = run_cli("load", reference, "--runtime", podman)
            assert done.returncode == 0, done.stderr
        assert names(podman) == [reference]
        assert not (run_cli.state / "cache").exists() or not list(
            (run_cli.state / "cache").rglob("blobs/*/*")
        )
        saved = run_cli("save", reference, "--runtime", podman, "-o", "back.tar")
        assert saved.returncode == 0, saved.stderr
        assert tags(tmp_path / "back.tar") == [reference]


class TestSources:
    def test_the_cache_comes_before_the_registry(self, docker, run_cli, tmp_path):
        with RegistryServer(Registry(tmp_path / "registry")) as server:
            reference = f"{server.host}/team/app:1"
            push(small_archive(tmp_path / "x.tar"), reference)
            assert run_cli("pull", reference).returncode == 0
        done = run_cli("load", reference, "--runtime", docker)
        assert done.returncode == 0, done.stderr
        assert done.stdout == "app:1\n"
        assert tags(tmp_path / "loaded.tar") == [reference]
        assert (tmp_path / "called").read_text() == "load -q\n"

    def test_all_images_of_an_archive(self, docker, run_cli, tmp_path):
        for name in ("one", "two"):
            archive = tmp_path / f"{name}.tar"
            layer = [tar_of({"a": name.encode()})]
            docker_archive(archive, layer, names=[f"r.test/{name}:1"])
            copied = run_cli("copy", archive, f"oci:{tmp_path}/both")
            assert copied.returncode == 0, copied.stderr
        done = run_cli("load", f"oci:{tmp_path}/both", "--runtime", docker)
        assert done.returncode == 0, done.stderr
        assert tags(tmp_path / "loaded.tar") == ["r.test/one:1", "r.test/two:1"]
        chosen = f"oci:{tmp_path}/both:r.test/two:1"
        assert run_cli("load", chosen, "--runtime", docker).returncode == 0
        assert tags(tmp_path / "loaded.tar") == ["r.test/two:1"]
        words = ("load", f"oci:{tmp_path}/both", "--runtime", docker, "--name", "x:1")
        done = run_cli(*words)
        assert done.returncode == 2 and "these are 2" in done.error

    def test_nothing_is_written_to_the_disk(self, docker, run_cli, tmp_path):
        """The temp directory is watched while a slow program reads 30 MB."""
        write_program(
            tmp_path / "docker",
            'if [ "$1" = --version ]; then echo "Docker version 28"; exit; fi\n'
            "head -c 20000000 >/dev/null; sleep 0.4; cat >/dev/null; echo x",
        )
        layer = tar_of({"a": b"\0" * 30_000_000})
        path = docker_archive(tmp_path / "x.tar", [layer], names=[APP])
        child = run_cli.start("load", path, "--runtime", docker)
        used = 0
        while child.poll() is None:
            files = [
                one for one in (tmp_path / "temporary").rglob("*") if one.is_file()
            ]
            used = max(used, sum(one.stat().st_size for one in files))
            time.sleep(0.01)
        assert child.returncode == 0
        assert used < 1_000_000
        assert not (run_cli.state / "cache").exists()


class TestFailures:
    def fails(self, done, code: int, words: str) -> None:
        assert (done.returncode, done.stdout) == (code, "")
        assert words in done.error and done.error.startswith("error: ")
        assert "Traceback" not in done.stderr

    def test_a_runtime_that_refuses_at_once(self, run_cli, tmp_path):
        program = write_program(
            tmp_path / "docker",
            'if [ "$1" = --version ]; then echo "Docker version 28"; exit; fi\n'
            "echo 'Cannot connect to the Docker daemon' >&2; exit 1",
        )
        layer = tar_of({"a": b"\0" * 3_000_000})
        path = docker_archive(tmp_path / "x.tar", [layer], names=[APP])
        done = run_cli("load", path, "--runtime", program)
        self.fails(done, 1, "Cannot connect to the Docker daemon")

    def test_a_runtime_that_stops_reading(self, run_cli, tmp_path):
        program = write_program(
            tmp_path / "docker",
            'if [ "$1" = --version ]; then echo "Docker version 28"; exit; fi\n'
            "head -c 1000 >/dev/null; echo Loaded image: x",
        )
        layer = tar_of({"a": b"\0" * 3_000_000})
        path = docker_archive(tmp_path / "x.tar", [layer], names=[APP])
        done = run_cli("load", path, "--runtime", program)
        self.fails(done, 1, "did not read to the end")

    def test_a_runtime_that_fails_at_the_end(self, run_cli, tmp_path):
        program = write_program(
            tmp_path / "docker",
            'if [ "$1" = --version ]; then echo "Docker version 28"; exit; fi\n'
            "cat >/dev/null; echo 'Error: no space left' >&2; exit 3",
        )
        path = docker_archive(tmp_path / "x.tar", [tar_of({"a": b"x"})], names=[APP])
        done = run_cli("load", path, "--runtime", program)
        self.fails(done, 1, "docker load failed (exit code 3): Error: no space left")

    def test_a_source_that_breaks_ends_the_runtime(self, docker, run_cli, tmp_path):
        path = docker_archive(tmp_path / "x.tar", [tar_of({"a": b"x"})], names=[APP])
        run_cli("copy", path, f"oci:{tmp_path}/dir")
        for blob in (tmp_path / "dir/blobs/sha256").iterdir():
            if blob.stat().st_size > 1500:
                blob.write_bytes(b"\0" * blob.stat().st_size)
        done = run_cli("load", f"oci:{tmp_path}/dir", "--runtime", docker)
        self.fails(done, 6, "")

    def test_a_compressed_file_that_is_cut_loads_nothing(
        self, podman, run_cli, tmp_path
    ):
        path = small_archive(tmp_path / "x.tar")
        packed = tmp_path / "x.tar.gz"
        packed.write_bytes(gzip.compress(path.read_bytes())[:-2000])
        done = run_cli("load", packed, "--runtime", podman)
        self.fails(done, 6, "x.tar.gz")
        assert names(podman) == []

    def test_ctrl_c_ends_the_runtime(self, run_cli, tmp_path):
        program = write_program(
            tmp_path / "docker",
            'if [ "$1" = --version ]; then echo "Docker version 28"; exit; fi\n'
            f"touch {tmp_path}/begun; exec sleep 60",
        )
        layer = tar_of({"a": b"\0" * 3_000_000})
        path = docker_archive(tmp_path / "x.tar", [layer], names=[APP])
        child = run_cli.start(
            "load", path, "--runtime", program, stderr=subprocess.PIPE
        )
        deadline = time.monotonic() + 20
        while not (tmp_path / "begun").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=20)
        assert child.returncode == -signal.SIGINT, said

    @pytest.mark.parametrize(
        ("words", "code", "said"),
        [
            (["absent.tar"], 4, "no such file"),
            (["oci:absent"], 4, "no such file"),
            (["host:5000"], 2, "a registry without a repository"),
            ([], 2, "load needs an archive or an image"),
            (["{archive}", "--name", "UP"], 2, "UP"),
            (["{archive}", "--name", "x@sha256:" + "a" * 64], 2, "a digest is no name"),
            (["{archive}", "--platform", "x"], 2, "--platform"),
            (["{packed}", "--name", "x:1"], 2, "unpack it"),
            (["-"], 6, "standard input: it is empty"),
            (["{archive}", "--runtime", "rkt"], 2, "not a runtime"),
        ],
    )
    def test_what_cannot_be_is_one_line(
        self, words, code, said, docker, run_cli, tmp_path
    ):
        layer = [tar_of({"a": b"x"})]
        archive = docker_archive(tmp_path / "x.tar", layer, names=[APP])
        packed = tmp_path / "x.tar.gz"
        packed.write_bytes(gzip.compress(archive.read_bytes()))
        words = [word.format(archive=archive, packed=packed) for word in words]
        if "--runtime" not in words:
            words += ["--runtime", str(docker)]
        done = run_cli("load", *words, stdin=b"")
        self.fails(done, code, said)
        assert done.stderr.count("\n") == 1

    def test_no_runtime_at_all(self, run_cli, tmp_path):
        path = docker_archive(tmp_path / "x.tar", [tar_of({"a": b"x"})], names=[APP])
        done = run_cli("load", path, env={"PATH": str(tmp_path)})
        self.fails(done, 4, "no runtime found")
