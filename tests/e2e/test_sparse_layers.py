"""A layer with holes, stored as a sparse file: every command reads it as it was."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import archives
import pytest
from archives import Image, digest
from inprocess import run_here
from pushed import fetch
from suites import crossed

from dockerpush.server import Registry, RegistryServer

LAYER = archives.packed({"disk.img": b"start" + bytes(3 << 20) + b"end"})
IMAGE = Image((LAYER,), tags=("app:1",))
FORMS = {
    "old": ("--format=gnu",),
    "0.0": ("--format=posix", "--sparse-version=0.0"),
    "0.1": ("--format=posix", "--sparse-version=0.1"),
    "1.0": ("--format=posix", "--sparse-version=1.0"),
}


@pytest.fixture
def host(tmp_path: Path):
    with RegistryServer(Registry(tmp_path / "registry")) as server:
        yield server.host


def packed_again(directory: Path, form: str) -> Path:
    """``docker save``, unpacked and packed again by ``tar -S``."""
    unpacked = directory / "unpacked"
    archives.folder(unpacked, archives.simple(IMAGE, {"layer.tar": b""}))
    with (unpacked / "layer.tar").open("wb") as file:
        for start in range(0, len(LAYER), 4096):
            block = LAYER[start : start + 4096]
            if any(block):
                file.seek(start)
                file.write(block)
        file.truncate(len(LAYER))
    path = directory / "a.tar"
    command = ["tar", "-S", *FORMS[form], "-cf", path, "-C", unpacked, "."]
    subprocess.run(command, check=True)
    assert path.stat().st_size < 100_000
    return path


WAYS = ("file", "pipe", "compressed", "raw", "copy", "dry run", "inspect")


def run(way: str, path: Path, host: str, run_cli: Any) -> Any:
    target = f"{host}/x:1"
    if way == "pipe":
        return run_cli("push", "-", "-t", target, stdin=path)
    if way == "compressed":
        raw = path.read_bytes()
        path.write_bytes(gzip.compress(raw))
    words: dict[str, list[Any]] = {
        "raw": ["push", path, "-t", target, "--compress", "none"],
        "copy": ["copy", f"docker-archive:{path}", f"oci:{path.with_name('out')}:1"],
        "dry run": ["push", path, "-t", target, "--dry-run"],
        "inspect": ["inspect", path, "--json"],
    }
    given = words.get(way, ["push", path, "-t", target])
    return run_here(given, run_cli.environment())


@pytest.mark.parametrize(("form", "way"), crossed(FORMS, WAYS))
def test_its_layer_is_whole(form, way, host, run_cli, tmp_path):
    path = packed_again(tmp_path, form)
    done = run(way, path, host, run_cli)
    assert done.returncode == 0, done.stderr
    if way == "inspect":
        (layer,) = done.json["images"][0]["layers"]
        assert (layer["digest"], layer["size"]) == (digest(LAYER), len(LAYER))
    elif way == "copy":
        stored = path.with_name("out") / archives.blob(LAYER)
        assert stored.read_bytes() == LAYER
    elif way != "dry run":
        layers = json.loads(fetch(host, "x", "manifests/1"))["layers"]
        blob = fetch(host, "x", f"blobs/{layers[0]['digest']}")
        assert (blob if way == "raw" else gzip.decompress(blob)) == LAYER
        verified = run_here(("verify", path, f"{host}/x:1"), run_cli.environment())
        assert verified.returncode == 0, verified.stderr


def test_holes_without_end_are_refused_at_once(host, run_cli, tmp_path):
    """A bomb: a few bytes that claim to be a layer of a tebibyte."""
    path = tmp_path / "bomb.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("GNUSparseFile.0/layer.tar")
        member.size = 512
        member.pax_headers = {
            **{"GNU.sparse.major": "1", "GNU.sparse.minor": "0"},
            **{"GNU.sparse.name": "layer.tar", "GNU.sparse.realsize": str(1 << 40)},
        }
        map_of = f"1\n{1 << 40}\n0\n".encode()
        tar.addfile(member, io.BytesIO(map_of.ljust(512, b"\0")))
    for words in (("push", path, "-t", f"{host}/x:1"), ("inspect", path)):
        done = run_cli(*words, fresh=True)
        assert done.returncode == 6, done.stderr
        assert "bytes of holes" in done.error
        assert done.peak_rss < 50 << 20
    done = run_cli("push", "-", "-t", f"{host}/x:1", stdin=path)
    assert done.returncode == 6 and "bytes of holes" in done.error
