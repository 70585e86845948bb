"""What a pull writes: a blob of the cache and of the output is one file, or is copied
by the kernel; and what becomes of it where that is not possible."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Iterator

import pytest
from images import MIB, large_archive
from inprocess import run_here

from dockerpush.server import Registry, RegistryServer

SIZE = 6 * MIB
REPORT = """
import sys
from dockerpush.cli.main import main
code = main(sys.argv[1:])
print(open("/proc/self/io").read(), file=sys.stderr)
raise SystemExit(code)
"""


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An image of two layers that do not shrink, in a registry."""
    directory = tmp_path_factory.mktemp("registry")
    path = large_archive(directory / "i.tar", [SIZE // 2] * 2, compressible=False)
    with RegistryServer(Registry(directory / "registry")) as server:
        target = f"{server.host}/team/app:1"
        environment = {"DOCKERPUSH_STATE_DIR": str(directory / "state")}
        done = run_here(["push", path, "-t", target, "-q"], environment)
        assert done.returncode == 0, done.stderr
        yield target


def blobs_of(directory: Path) -> dict[str, os.stat_result]:
    files = (directory / "blobs" / "sha256").iterdir()
    return {file.name: file.stat() for file in files if file.stat().st_size > MIB}


def test_a_directory_and_the_cache_share_their_files(reference, tmp_path, run_cli):
    words = ("pull", reference, "-o", tmp_path / "out", "--format", "oci-dir")
    done = subprocess.run(
        [sys.executable, "-c", REPORT, *map(str, words)],
        env={**run_cli.environment(), "PYTHONPATH": str(Path(__file__).parents[2])},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    written = int(done.stderr.partition("wchar: ")[2].split()[0])
    assert written < 1.2 * SIZE
    ours, cached = blobs_of(tmp_path / "out"), blobs_of(run_cli.state / "cache")
    assert len(ours) == 2
    assert {n: one.st_ino for n, one in ours.items()} == {
        n: one.st_ino for n, one in cached.items()
    }


def test_each_outlives_the_other(reference, tmp_path, run_cli):
    out = tmp_path / "out"
    words = ("pull", reference, "-o", out, "--format", "oci-dir")
    for gone, check in (
        (run_cli.state / "cache", ("verify", out, reference)),
        (out, ("cache", "verify")),
    ):
        assert run_cli(*words).returncode == 0
        shutil.rmtree(gone)
        assert run_cli(*check).returncode == 0
        shutil.rmtree(out, ignore_errors=True)


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive", "oci-dir"])
@pytest.mark.parametrize("error", [None, errno.EXDEV, errno.EPERM, errno.EINVAL])
def test_it_is_right_whatever_the_file_system_can(
    error, form, reference, tmp_path, run_cli, monkeypatch
):
    """None: it can all of it. The copy may also end early, as a signal makes it."""
    calls = []

    def refused(*_: object) -> int:
        calls.append(1)
        raise OSError(error, os.strerror(error))

    if error is not None:
        monkeypatch.setattr(os, "link", refused)
        monkeypatch.setattr(os, "copy_file_range", refused)
    else:
        real = os.copy_file_range

        def short(source: int, target: int, count: int, *offsets: int) -> int:
            return real(source, target, min(count, 300_001), *offsets)

        monkeypatch.setattr(os, "copy_file_range", short)
    out = tmp_path / "out"
    line = ["pull", reference, "-o", out, "--format", form, "--json"]
    done = run_here(line, run_cli.environment())
    assert done.returncode == 0, done.stderr
    assert bool(calls) is (error is not None)
    assert run_cli("verify", out, reference).returncode == 0
    assert json.loads(done.stdout.splitlines()[-1])


def test_a_kernel_that_stops_in_the_middle_is_gone_on_after(
    reference, tmp_path, run_cli, monkeypatch
):
    real, left = os.copy_file_range, [2]

    def once(source: int, target: int, count: int, *offsets: int) -> int:
        if not left[0]:
            return 0
        left[0] -= 1
        return real(source, target, min(count, 500_000), *offsets)

    monkeypatch.setattr(os, "copy_file_range", once)
    out = tmp_path / "out.tar"
    done = run_here(["pull", reference, "-o", out], run_cli.environment())
    assert done.returncode == 0, done.stderr
    assert run_cli("verify", out, reference).returncode == 0


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_is_told_in_one_line(
    error, reference, tmp_path, run_cli, monkeypatch
):
    def fails(*_: object) -> int:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "copy_file_range", fails)
    out = tmp_path / "out.tar"
    done = run_here(["pull", reference, "-o", out], run_cli.environment())
    assert done.returncode == 1
    assert done.error.startswith("error: ")
    assert not out.exists()
