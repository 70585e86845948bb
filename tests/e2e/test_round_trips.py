"""What is pulled and pushed again is what it was, through every form that can hold it.

And podman loads every archive that is written, and shows the image.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

import pytest
from conftest import Command
from copied import read
from images import digest_of, docker_archive, tar_of
from multiplatform import write_layout
from registries import run
from suites import crossed
from transfers import noise_layer, run_all

from dockerpush.server import Registry, RegistryServer

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
FORMS = ("docker-archive", "oci-archive", "oci-dir")
TO_SKOPEO = {
    "zstd": ("--dest-compress-format", "zstd", "-f", "oci"),
    "docker": ("--dest-compress-format", "gzip", "-f", "v2s2"),
}
"""Images that skopeo makes of a docker-archive while it pushes."""
KINDS = ("gzip", "zstd", "docker", "raw", "multi")
"""Kinds of images, each of which every form can hold all of."""


@dataclass(frozen=True)
class Source:
    """A registry with an image of each kind, by its name, as 1; and their digests."""

    host: str
    digests: dict[str, str]

    def reference(self, kind: str) -> str:
        return f"{self.host}/{kind}:1"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Source]:
    directory = tmp_path_factory.mktemp("source")
    write_layout(directory / "multi")
    with RegistryServer(Registry(directory / "registry")) as server:
        lines: dict[str, list[object]] = {
            "multi": ["push", directory / "multi", "-t", f"{server.host}/multi:1"]
        }
        for kind in ("gzip", "raw", *TO_SKOPEO):
            text = b"".join(b"%d %s\n" % (n, kind.encode()) for n in range(9_000))
            layers = [tar_of({"etc/text": text}), noise_layer(50_000, kind)]
            archive = docker_archive(directory / f"{kind}.tar", layers)
            target = f"{server.host}/{kind}:1"
            if kind in TO_SKOPEO:
                skopeo = ("skopeo", "--insecure-policy", "copy", "-q")
                flags = ("--dest-tls-verify=false", *TO_SKOPEO[kind])
                run(*skopeo, *flags, f"docker-archive:{archive}", f"docker://{target}")
            else:
                compress = {"raw": "none"}.get(kind, kind)
                lines[kind] = ["push", archive, "-t", target, "--compress", compress]
        command = Command(directory, directory)
        for done in run_all(lines, command.environment()).values():
            assert done.returncode == 0, done.stderr
        check_kinds(server.host)
        digests = {kind: digest_of(read(server.host, kind, "1")) for kind in KINDS}
        yield Source(server.host, digests)


def check_kinds(host: str) -> None:
    """The images are what they are called."""
    records = {kind: json.loads(read(host, kind, "1")) for kind in KINDS}
    assert records["docker"]["mediaType"] == DOCKER_MANIFEST
    assert len(records["multi"]["manifests"]) == 3
    for kind in ("gzip", "zstd", "raw"):
        for layer in records[kind]["layers"]:
            assert layer["mediaType"].endswith({"raw": ".tar"}.get(kind, kind))


PREFIXES = dict(zip(FORMS, ("docker-archive:", "oci-archive:", "oci:")))


def writing(way: str, source: Source, kind: str, form: str, out: Path) -> list[object]:
    """The command that writes the image as *form* to *out*."""
    if way == "copy":
        return ["copy", source.reference(kind), f"{PREFIXES[form]}{out}"]
    every = ("--platform", "all", "--format", form)
    return ["pull", source.reference(kind), "-o", out, *every]


def again(source: Source, kind: str, way: str, out: object) -> list[object]:
    """The command that brings *out* back to the registry, into another repository."""
    target = f"{source.host}/again/{kind}-{way}:1"
    as_it_is = ("--compress", "none") if kind == "raw" else ()
    return ["push", out, "-t", target, "--json", *as_it_is]


@pytest.mark.long
@pytest.mark.parametrize("way", ["pull", "copy"])
def test_the_digest_is_the_same_through_every_form(way, source, run_cli, tmp_path):
    """Of every kind of image that the form can hold; verify reads the forms, too."""
    lines: dict[str, list[object]] = {}
    for kind in KINDS:
        for form in FORMS:
            out = tmp_path / f"{kind}-{form}"
            lines[f"{kind} {form}"] = writing(way, source, kind, form, out)
            lines[f"{kind} {form} verified"] = ["verify", out, source.reference(kind)]
            pushed = again(source, kind, f"{way}-{form}", out)
            lines[f"{kind} {form} pushed"] = pushed
    for name, done in run_all(lines, run_cli.environment()).items():
        assert done.returncode == 0, (name, done.stderr)
        if name.endswith("pushed"):
            assert done.json["digest"] == source.digests[name.split()[0]], name
    for kind in KINDS:
        for form in FORMS:
            raw = read(source.host, f"again/{kind}-{way}-{form}", "1")
            assert raw == read(source.host, kind, "1")


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        ("gzip", "docker-archive"),
        ("zstd", "oci-archive"),
        ("docker", "docker-archive"),
        ("multi", "oci-archive"),
    ],
)
def test_the_digest_is_the_same_through_a_pipe(kind, form, source, run_cli):
    """Layers that are not compressed are, in a pipe, so those are not here."""
    line = writing("pull", source, kind, form, Path("-"))
    with run_cli.start(*line, "-q", stdout=subprocess.PIPE) as pulling:
        line = again(source, kind, f"pipe-{form}", "-")
        pipe = subprocess.PIPE
        with run_cli.start(*line, stdin=pulling.stdout, stdout=pipe) as pushing:
            assert pulling.stdout is not None
            pulling.stdout.close()
            told, _ = pushing.communicate(timeout=30)
    assert (pulling.returncode, pushing.returncode) == (0, 0)
    assert json.loads(told)["digest"] == source.digests[kind]


class TestPodman:
    """A storage of its own for each form, so that nothing is there already."""

    @pytest.fixture
    def podman(self, tmp_path: Path) -> Iterator[tuple[str, ...]]:
        root = tmp_path / "podman"
        runroot = tempfile.mkdtemp(prefix="podman", dir="/tmp")  # 50 characters at most
        yield (
            *("podman", "--root", str(root), "--runroot", runroot),
            *("--storage-driver", "vfs"),
        )
        for directory in (root, runroot):
            shutil.rmtree(directory, ignore_errors=True)

    @pytest.mark.parametrize(("way", "form"), crossed(["pull", "copy"], FORMS))
    def test_it_loads_every_archive_and_shows_the_image(
        self, form, way, source, podman, run_cli, tmp_path
    ):
        kinds = KINDS if way == "pull" else ("gzip", "multi")
        lines = {k: writing(way, source, k, form, tmp_path / k) for k in kinds}
        for done in run_all(lines, run_cli.environment()).values():
            assert done.returncode == 0, done.stderr
        loaded = []
        for kind in kinds:
            said = run(*podman, "load", "-q", "-i", tmp_path / kind).decode()
            loaded.append(said.partition("Loaded image: ")[2].strip())
        if form != "oci-dir":  # podman calls these by their path
            assert loaded == [source.reference(kind) for kind in kinds]
        for kind, shown in zip(kinds, json.loads(run(*podman, "inspect", *loaded))):
            config = json.loads(
                read(source.host, kind, config_of(source, kind), "blobs")
            )
            assert shown["RootFS"]["Layers"] == config["rootfs"]["diff_ids"]
            assert shown["Architecture"] == "amd64"
            assert shown["Config"]["Cmd"] == ["/bin/sh"]


def config_of(source: Source, kind: str) -> str:
    """The digest of the config of the image, in an index of its first one."""
    record = json.loads(read(source.host, kind, "1"))
    if "manifests" in record:
        record = json.loads(read(source.host, kind, record["manifests"][0]["digest"]))
    return str(record["config"]["digest"])
