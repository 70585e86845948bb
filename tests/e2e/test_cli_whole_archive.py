"""Tars of multi-platform images: the whole index, and one platform for docker.

What they hold is looked at with skopeo and podman, and by pushing them again.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator

import pytest
from conftest import Command, Finished
from copied import assert_whole, put, read
from faultproxy import Fault, FaultProxy
from images import digest_of, tar_of
from multiplatform import (
    finish,
    write_attestation,
    write_blob,
    write_image,
    write_index,
    write_manifest,
)
from registries import run
from test_cli_copy_local import SKOPEO, left, refused, run_all, upload
from test_cli_pull import GENTLE_CUT, podman_load
from test_cli_serve import host_of, served

import dockerpush
from dockerpush.archive import open_archive
from dockerpush.events import Notice
from dockerpush.oci import (
    OCI_CONFIG,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
)
from dockerpush.server import Registry, RegistryServer

EMPTY = "application/vnd.oci.empty.v1+json"
SIGNATURE = "application/vnd.dev.cosign.simplesigning.v1+json"
ENCRYPTED = OCI_LAYER_GZIP + "+encrypted"
REF_NAME = "org.opencontainers.image.ref.name"
FULL_NAME = "io.containerd.image.name"


@dataclass(frozen=True)
class Source:
    """A registry with the repository ``all``; *digests* are those of its tags."""

    host: str
    digests: dict[str, str]

    def reference(self, tag: str) -> str:
        return f"{self.host}/all:{tag}"


def manifest(path: Path, *, config: str, layer: str, **more: Any) -> dict[str, Any]:
    """A manifest with one layer of the type *layer*; its descriptor.

    *more* goes into the descriptor of the layer.
    """
    tar = tar_of({"file": f"{config} {layer}".encode()})
    content = tar
    if "gzip" in layer:
        content = gzip.compress(tar, mtime=0)
    elif "zstd" in layer:
        packed = subprocess.run(["zstd", "-qc"], input=tar, stdout=-1, check=True)
        content = packed.stdout
    described = {**write_blob(path, layer, content), **more}
    if more.get("urls"):
        (path / "blobs/sha256" / described["digest"][7:]).unlink()
    image = b"{}" if config == EMPTY else config_for(tar)
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": write_blob(path, config, image),
        "layers": [described],
    }
    return write_blob(path, OCI_MANIFEST, json.dumps(document).encode())


def config_for(tar: bytes) -> bytes:
    rootfs = {"type": "layers", "diff_ids": [digest_of(tar)]}
    record = {"os": "linux", "architecture": "amd64", "rootfs": rootfs}
    return json.dumps(record).encode()


def raw_image(path: Path, size: int) -> dict[str, Any]:
    """An image with one raw layer, which does not shrink; its descriptor."""
    tar = tar_of({"noise": os.urandom(size)})
    layers = [write_blob(path, OCI_LAYER, tar)]
    return write_manifest(path, json.loads(config_for(tar)), layers)


def on(platform: str, entry: dict[str, Any]) -> dict[str, Any]:
    """*entry* of an index, for a *platform*."""
    os, architecture = platform.split("/")
    return {**entry, "platform": {"os": os, "architecture": architecture}}


def roots_by_tag(path: Path) -> dict[str, dict[str, Any]]:
    """What the registry holds, by tag, in the layout at *path*; inner ones first."""
    amd64, arm64, s390x = (
        write_image(path, name) for name in ("amd64", "arm64", "s390x")
    )
    about = write_attestation(path, amd64)
    inner = write_index(path, [arm64])
    chart = manifest(path, config=EMPTY, layer=OCI_LAYER_GZIP)
    encrypted = manifest(path, config=OCI_CONFIG, layer=ENCRYPTED)
    foreign = manifest(
        path, config=OCI_CONFIG, layer=OCI_LAYER_GZIP, urls=["https://example.org/l"]
    )
    return {
        "amd64": amd64,
        "arm64": arm64,
        "s390x": s390x,
        "about": about,
        "inner": inner,
        "multi": write_index(path, [about, arm64, amd64]),
        "nested": write_index(path, [inner, amd64]),
        "no-amd64": write_index(path, [about, s390x, arm64]),
        "one": write_index(path, [amd64, about]),
        "one-arm64": write_index(path, [arm64]),
        "chart": chart,
        "charts": write_index(path, [chart, on("linux/amd64", chart)]),
        "chart-and-image": write_index(path, [chart, arm64]),
        "encrypted": encrypted,
        "crypted": write_index(path, [on("linux/amd64", encrypted), arm64]),
        "foreign": foreign,
        "signature": manifest(path, config=OCI_CONFIG, layer=SIGNATURE),
        "zstd": manifest(path, config=OCI_CONFIG, layer=OCI_LAYER_ZSTD),
    }


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Source]:
    directory = tmp_path_factory.mktemp("whole")
    found = roots_by_tag(directory / "layout")
    blobs = directory / "layout" / "blobs" / "sha256"
    with RegistryServer(Registry(directory / "registry")) as server:
        for blob in blobs.iterdir():
            upload(server.host, "all", blob.read_bytes())
        for tag, root in found.items():
            raw = (blobs / root["digest"][7:]).read_bytes()
            for name in (root["digest"], tag):
                put(server.host, "all", name, raw, root["mediaType"])
        digests = {tag: root["digest"] for tag, root in found.items()}
        yield Source(server.host, digests)


def document(path: Path, name: str) -> Any:
    """The JSON in the member *name*; None when the tar has none."""
    with tarfile.open(path) as tar:
        if name not in tar.getnames():
            return None
        return json.load(tar.extractfile(name))  # type: ignore[arg-type]


def loaded_config(path: Path) -> str | None:
    """The digest of the config in manifest.json, None without one."""
    entries = document(path, "manifest.json")
    if entries is None:
        return None
    (entry,) = entries
    return "sha256:" + entry["Config"].rpartition("/")[2]


def config_of(source: Source, tag: str) -> str:
    return str(json.loads(read(source.host, "all", tag))["config"]["digest"])


def assert_holds(path: Path, digest: str, run_cli: Command, host: str) -> None:
    """Every byte of *digest* is in the tar: a push makes a registry hold it."""
    (entry,) = document(path, "index.json")["manifests"]
    assert entry["digest"] == digest
    repository = f"back/{digest[7:19]}"
    line = ("push", path, "-t", f"{host}/{repository}:1", "--json")
    (done,) = run_all(run_cli, line)
    assert done.json["digest"] == digest
    assert_whole(host, repository, read(host, repository, "1"))


TAKEN = {
    "amd64": "amd64",
    "arm64": "arm64",
    "multi": "amd64",
    "nested": "amd64",
    "no-amd64": "s390x",
    "one": "amd64",
    "one-arm64": "arm64",
    "chart-and-image": "arm64",
    "zstd": "zstd",
}
"""What docker gets of each, by tag: linux/amd64, else the first image."""


class TestWhole:
    @pytest.mark.parametrize("prefix", ["", "docker-archive:"])
    @pytest.mark.parametrize("tag", TAKEN)
    def test_a_tar_holds_all_and_names_one_for_docker(
        self, tag, prefix, source, run_cli, tmp_path
    ):
        out, reference = tmp_path / "x.tar", source.reference(tag)
        (done,) = run_all(run_cli, ("copy", reference, f"{prefix}{out}", "--json"))
        assert done.json["digest"] == source.digests[tag]
        assert "note:" not in done.stderr and "warning:" not in done.stderr
        assert loaded_config(out) == config_of(source, TAKEN[tag])
        assert document(out, "manifest.json")[0]["RepoTags"] == [reference]
        assert_holds(out, source.digests[tag], run_cli, source.host)

    def test_every_source_gives_the_same_bytes(self, source, run_cli, tmp_path):
        reference = source.reference("multi")
        first, piped = tmp_path / "first.tar", tmp_path / "piped.tar"
        run_all(
            run_cli,
            ("copy", reference, first),
            ("copy", reference, tmp_path / "again.tar"),
            ("copy", reference, f"oci:{tmp_path / 'layout'}:{reference}"),
            ("copy", f"oci:{tmp_path / 'layout'}", tmp_path / "from-layout.tar"),
            ("copy", first, tmp_path / "from-tar.tar"),
        )
        with piped.open("wb") as file:
            child = run_cli.start("copy", "-q", reference, "-", stdout=file)
            assert child.wait(60) == 0
        found = {path.name: path.read_bytes() for path in tmp_path.glob("*.tar")}
        assert len(found) == 5
        for name, content in found.items():
            assert content == found["first.tar"], name
        assert left(tmp_path) == []

    def test_skopeo_takes_one_or_all_of_it(self, source, run_cli, tmp_path):
        out = tmp_path / "x.tar"
        run_all(run_cli, ("copy", source.reference("multi"), out))
        raw = run(*SKOPEO, "inspect", "--config", f"docker-archive:{out}")
        assert json.loads(raw)["architecture"] == "amd64"
        layout = f"oci:{tmp_path / 'layout'}:all"
        run(*SKOPEO, "copy", "-q", "--all", f"oci-archive:{out}:multi", layout)
        raw = run(*SKOPEO, "inspect", "--raw", layout)
        assert digest_of(raw) == source.digests["multi"]

    def test_podman_loads_it(self, source, run_cli, tmp_path):
        out, reference = tmp_path / "x.tar", source.reference("multi")
        run_all(run_cli, ("copy", reference, out))
        assert podman_load(out, tmp_path) == {reference}

    def test_its_names_are_those_of_docker_save(self, source, run_cli, tmp_path):
        out, reference = tmp_path / "x.tar", source.reference("multi")
        run_all(run_cli, ("copy", reference, out))
        (entry,) = document(out, "index.json")["manifests"]
        wanted = {REF_NAME: "multi", FULL_NAME: reference}
        assert entry["annotations"] == wanted

    def test_an_oci_archive_has_nothing_for_docker(self, source, run_cli, tmp_path):
        for name in ("oci-archive:x.tar", "x.oci.tar", "x.oci"):
            prefix, _, file = name.rpartition(":")
            out = f"{prefix}{':' if prefix else ''}{tmp_path}/{file}"
            run_all(run_cli, ("copy", source.reference("multi"), out))
            assert document(tmp_path / file, "manifest.json") is None

    def test_an_interrupted_copy_continues(
        self, docker_registry, source, run_cli, tmp_path
    ):
        whole, out, layout = (tmp_path / name for name in ("w.tar", "x.tar", "layout"))
        images = [
            on(f"linux/{name}", manifest(layout, config=OCI_CONFIG, layer=layer))
            for name, layer in (("amd64", OCI_LAYER_GZIP), ("arm64", OCI_LAYER_ZSTD))
        ]
        images.append(on("linux/s390x", raw_image(layout, 3_000_000)))
        finish(layout, write_index(layout, images))
        reference = f"{docker_registry.host}/large:1"
        run_all(
            run_cli,
            ("push", layout, "-t", reference, "--compress", "none"),
            ("copy", reference, whole),
        )
        cut = Fault(*GENTLE_CUT, times=99, after=1_500_000, reset=False)
        with FaultProxy(docker_registry.host, [cut]) as proxy:
            through = reference.replace(docker_registry.host, proxy.host)
            name = f"docker-archive:{out}:{reference}"
            line = ("copy", "--src-plain-http", through, name)
            for _ in range(10):  # the system may throw away what was on its way
                done = run_cli(*line, "--retry-times", "0")
                assert done.returncode == 5, done.stderr
                assert left(tmp_path) == [".x.tar.part"]
                if largest_part(tmp_path / ".x.tar.part") > 100_000:
                    break
        before = len(docker_registry.requests())
        run_all(run_cli, ("copy", reference, name))
        deadline = time.monotonic() + 10  # the registry notes a request when it is over
        while 206 not in [r.status for r in docker_registry.requests()[before:]]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert out.read_bytes() == whole.read_bytes()
        assert left(tmp_path) == []


def largest_part(path: Path) -> int:
    """How much of the blob that came furthest is there, by the note at the end."""
    raw = path.read_bytes()
    have = json.loads(raw[raw.rfind(b'{"key"') :])["have"]
    return max(have.values(), default=0)


CHOICES = {
    ("linux/arm64",): ("arm64", "arm64"),
    ("linux/amd64",): ("amd64", "amd64"),
    ("linux/amd64", "linux/arm64"): ("multi", "arm64"),
    ("linux/arm64", "linux/amd64"): ("multi", "arm64"),
    ("all",): ("multi", "amd64"),
}
"""Platforms → the tag that has what is left of multi, and what docker gets of it.

Of all of multi by name docker gets the first that is left.
"""


class TestChosen:
    @pytest.mark.parametrize("command", ["copy", "pull"])
    @pytest.mark.parametrize("platforms", CHOICES, ids=",".join)
    def test_platforms_narrow_the_index(
        self, command, platforms, source, run_cli, tmp_path
    ):
        out = tmp_path / "x.tar"
        flags = [word for name in platforms for word in ("--platform", name)]
        line = [command, source.reference("multi"), *flags, "--json"]
        line += [out] if command == "copy" else ["-o", out]
        (done,) = run_all(run_cli, line)
        tag, taken = CHOICES[platforms]
        digest = source.digests[tag]
        assert done.json["digest"] == digest
        assert "warning:" not in done.stderr
        assert loaded_config(out) == config_of(source, taken)
        assert_holds(out, digest, run_cli, source.host)

    @pytest.mark.parametrize("command", ["copy", "pull"])
    def test_two_of_three_are_a_new_index(self, command, source, run_cli, tmp_path):
        host = source.host
        layout, out = tmp_path / "layout", tmp_path / "x.tar"
        images = [write_image(layout, name) for name in ("s390x", "arm64", "amd64")]
        root = write_index(layout, images)
        for blob in (layout / "blobs/sha256").iterdir():
            upload(host, "three", blob.read_bytes())
        for one in (*images, root):
            raw = (layout / "blobs/sha256" / one["digest"][7:]).read_bytes()
            put(host, "three", one["digest"], raw, one["mediaType"])
        line = [command, f"{host}/three@{root['digest']}", "--json"]
        line += ["--platform", "linux/amd64", "--platform", "linux/arm64"]
        line += [out] if command == "copy" else ["-o", out]
        (done,) = run_all(run_cli, line)
        assert done.json["digest"] != root["digest"]
        assert "note: only linux/amd64, linux/arm64: " in done.stderr
        assert loaded_config(out) == config_of(source, "arm64")
        assert_holds(out, done.json["digest"], run_cli, host)


REFUSED = {
    "chart": f"it is an artifact ({EMPTY})",
    "charts": f"it is an artifact ({EMPTY})",
    "encrypted": "is encrypted",
    "crypted": "is encrypted",
    "foreign": "is only where its urls point",
    "signature": f"is no tar ({SIGNATURE})",
}
"""What docker cannot load, by tag, and why."""


class TestNotForDocker:
    @pytest.mark.parametrize("command", ["copy", "copy -", "pull", "pull -"])
    @pytest.mark.parametrize("tag", REFUSED)
    def test_a_tar_of_it_has_no_manifest_json_and_a_note(
        self, tag, command, source, run_cli, tmp_path
    ):
        out, reference = tmp_path / "x.tar", source.reference(tag)
        done = self.written(command, reference, out, run_cli)
        assert done.returncode == 0, done.stderr
        (note,) = [line for line in done.stderr.splitlines() if "cannot load" in line]
        assert note.startswith(f"note: {reference}: ")
        assert REFUSED[tag] in note
        assert document(out, "manifest.json") is None
        (entry,) = document(out, "index.json")["manifests"]
        assert entry["digest"] == source.digests[tag]
        (back,) = run_all(
            run_cli, ("copy", out, f"oci:{tmp_path / 'layout'}:x", "--json")
        )
        assert back.json["digest"] == source.digests[tag]

    def written(
        self, command: str, reference: str, out: Path, run_cli: Command
    ) -> Finished:
        name, *stdout = command.split()
        line: list[object] = [name, reference]
        if name == "pull":
            line += ["--platform", "all", "-o"]
        line.append("-" if stdout else out)
        if not stdout:
            return run_cli(*line)
        with out.open("wb") as file:
            child = run_cli.start(*line, stdout=file, stderr=subprocess.PIPE)
            said = child.communicate(timeout=60)[1].decode()
        return Finished(child.returncode, "", said, 0)

    @pytest.mark.parametrize("tag", REFUSED)
    def test_who_asks_for_a_docker_archive_is_refused(
        self, tag, source, run_cli, tmp_path
    ):
        out, reference = tmp_path / "x.tar", source.reference(tag)
        form = ("--platform", "all", "--format", "docker-archive")
        for done in refused(
            run_cli,
            2,
            ("copy", reference, f"docker-archive:{out}"),
            ("pull", reference, "-o", out, *form),
        ):
            assert REFUSED[tag] in done.error
            assert "docker cannot load: make it an oci-archive" in done.error
        assert list(tmp_path.glob("*.tar")) == []
        assert left(tmp_path) == []

    def test_referrers_come_along_beside_it(self, source, run_cli, tmp_path):
        host, out = source.host, tmp_path / "x.tar"
        raw = read(host, "all", "amd64")
        subject = {
            "mediaType": OCI_MANIFEST,
            "digest": digest_of(raw),
            "size": len(raw),
        }
        signature = json.loads(read(host, "all", "signature"))
        signed = json.dumps({**signature, "subject": subject}).encode()
        put(host, "all", digest_of(signed), signed, OCI_MANIFEST)
        line = ("copy", source.reference("amd64"), out, "--referrers", "--json")
        back = ("copy", out, f"{host}/signed/it:1", "--referrers", "--json")
        for done in run_all(run_cli, line, back):
            assert done.json["referrers"] == 1
            assert done.json["digest"] == source.digests["amd64"]
        assert loaded_config(out) == config_of(source, "amd64")


class TestSeveral:
    def test_every_tag_gets_its_entry_and_comes_back(self, source, run_cli, tmp_path):
        """Indexes that share images, images of these indexes, and artifacts."""
        out, host = tmp_path / "x.tar", source.host
        line = ("copy", "-a", f"{host}/all", out)
        run_all(run_cli, line, (*line[:3], tmp_path / "again.tar"))
        assert out.read_bytes() == (tmp_path / "again.tar").read_bytes()
        told = {
            name.rpartition(":")[2]: entry["Config"].rpartition("/")[2]
            for entry in document(out, "manifest.json")
            for name in entry["RepoTags"]
        }
        wanted = {tag: config_of(source, taken)[7:] for tag, taken in TAKEN.items()}
        assert {tag: told[tag] for tag in wanted} == wanted
        assert not set(REFUSED) & set(told)
        with open_archive(out) as archive:
            found = [
                (name.rpartition(":")[2], str(image.root.descriptor.digest))
                for image in archive.images
                for name in image.names
            ]
        assert sorted(found) == sorted(source.digests.items())

    def test_what_comes_back_by_push_is_the_same(self, source, run_cli, tmp_path):
        out, host = tmp_path / "x.tar", source.host
        run_all(run_cli, ("copy", "-a", f"{host}/all", out))
        for tag in ("multi", "nested", "inner", "one", "arm64", "amd64"):
            name = ("--name", source.reference(tag), "--json")
            (done,) = run_all(run_cli, ("push", out, "-t", f"{host}/b/{tag}:1", *name))
            assert done.json["digest"] == source.digests[tag]

    def test_podman_loads_several(self, source, run_cli, tmp_path):
        out = tmp_path / "x.tar"
        names = [source.reference(tag) for tag in ("multi", "one-arm64")]
        line = ("pull", *names, "--platform", "all", "-o", out)
        run_all(run_cli, line)
        assert podman_load(out, tmp_path) == set(names)


class TestReadBack:
    @pytest.fixture
    def whole(self, source, run_cli, tmp_path) -> Path:
        run_all(run_cli, ("copy", source.reference("multi"), tmp_path / "x.tar"))
        return tmp_path / "x.tar"

    def test_every_command_sees_the_whole_index(self, whole, source, run_cli, tmp_path):
        host, digest = source.host, source.digests["multi"]
        target = f"{host}/seen/multi:1"
        shutil.copy(whole, tmp_path / "packed.tar")
        run("gzip", tmp_path / "packed.tar")
        packed = ("push", tmp_path / "packed.tar.gz", "-t", f"{host}/seen/packed:1")
        shown, pushed, verified, again = run_all(
            run_cli,
            ("inspect", whole, "--json"),
            ("push", whole, "-t", target, "--verify", "--json"),
            ("verify", whole, target, "--json"),
            (*packed, "--json"),
        )
        platforms = [image["platform"] for image in shown.json["images"]]
        assert platforms == ["unknown/unknown", "linux/arm64", "linux/amd64"]
        for done in (pushed, verified, again):
            assert done.json["digest"] == digest
        piped = run_cli(
            "push", "-", "-t", f"{host}/seen/piped:1", "--json", stdin=whole
        )
        assert piped.json["digest"] == digest

    def test_a_server_serves_the_whole_index(self, whole, source, run_cli):
        with served(run_cli, whole) as url:
            raw = read(host_of(url), "all", "multi")
        assert digest_of(raw) == source.digests["multi"]

    def test_raw_layers_leave_no_attestation_out_in_silence(
        self, run_cli, source, tmp_path
    ):
        """An index of one image, whose digest a push that compresses changes."""
        layout, out = tmp_path / "layout", tmp_path / "x.tar"
        image = on("linux/amd64", manifest(layout, config=OCI_CONFIG, layer=OCI_LAYER))
        root = write_index(layout, [image, write_attestation(layout, image)])
        for blob in (layout / "blobs/sha256").iterdir():
            upload(source.host, "raw", blob.read_bytes())
        index = json.loads((layout / "blobs/sha256" / root["digest"][7:]).read_bytes())
        for one in (*index["manifests"], root):
            raw = (layout / "blobs/sha256" / one["digest"][7:]).read_bytes()
            put(source.host, "raw", one["digest"], raw, one["mediaType"])
        reference = f"{source.host}/raw@{root['digest']}"
        targets = [f"{source.host}/raw-{n}:1" for n in "ab"]
        _, _, *pushed = run_all(
            run_cli,
            ("copy", reference, out),
            ("copy", reference, f"oci-archive:{tmp_path / 'y.tar'}"),
            ("push", out, "-t", targets[0], "--json"),
            ("push", tmp_path / "y.tar", "-t", targets[1], "--json"),
        )
        assert len({done.json["digest"] for done in pushed}) == 1
        for done in pushed:
            assert "left out" in done.stderr


ONE_OF_TWO = "holds linux/amd64 only, 1 of 2 platforms; --platform all keeps them"
WARNINGS = {
    "multi": f"x.tar {ONE_OF_TWO}",
    "nested": f"x.tar {ONE_OF_TWO}",
    "one": None,
    "amd64": None,
    "arm64": None,
}
"""What a pull of each tag into x.tar leaves out, None for nothing."""


class TestPull:
    @pytest.mark.parametrize("more", [(), ("-q",), ("--format", "docker-archive")])
    @pytest.mark.parametrize("cache", [True, False])
    @pytest.mark.parametrize("tag", WARNINGS)
    def test_it_says_which_platforms_it_leaves_out(
        self, tag, cache, more, source, run_cli, tmp_path
    ):
        env = None
        if not cache:
            (tmp_path / "file").touch()
            env = {"DOCKERPUSH_STATE_DIR": f"{tmp_path}/file/state"}
        line = ("pull", source.reference(tag), "-o", tmp_path / "x.tar", *more)
        done = run_cli(*line, env=env)
        assert done.returncode == 0, done.stderr
        assert self.warnings(done) == (
            [f"warning: {tmp_path}/{WARNINGS[tag]}"] if WARNINGS[tag] else []
        )
        (entry,) = document(tmp_path / "x.tar", "index.json")["manifests"]
        taken = "amd64" if WARNINGS[tag] else tag
        assert entry["digest"] == source.digests[taken]

    def warnings(self, done: Finished) -> list[str]:
        lines = [line for line in done.stderr.splitlines() if "warning" in line]
        return [line for line in lines if "continuing without the cache" not in line]

    def test_it_says_so_of_standard_output(self, source, run_cli, tmp_path):
        with (tmp_path / "x.tar").open("wb") as file:
            line = ("pull", "-q", source.reference("multi"), "-o", "-")
            child = run_cli.start(*line, stdout=file, stderr=subprocess.PIPE)
            said = child.communicate(timeout=60)[1].decode()
        assert said == (
            "warning: standard output holds linux/amd64 only, 1 of 2 platforms; "
            "--platform all keeps them\n"
        )
        assert loaded_config(tmp_path / "x.tar") == config_of(source, "amd64")

    def test_it_says_so_of_each_of_several(self, source, run_cli, tmp_path):
        names = [source.reference(tag) for tag in ("multi", "amd64", "nested")]
        done = run_cli("pull", *names, "-o", tmp_path / "x.tar")
        assert self.warnings(done) == [
            f"warning: {tmp_path}/x.tar holds linux/amd64 only of {name}, 1 of 2 "
            "platforms; --platform all keeps them"
            for name in (names[0], names[2])
        ]

    @pytest.mark.parametrize(
        "more",
        [
            ("--platform", "linux/amd64", "-o", "{}/x.tar"),
            ("--platform", "all", "-o", "{}/x.tar"),
            ("-o", "{}/x.oci.tar"),
            ("-o", "{}/layout/"),
            (),
        ],
        ids=" ".join,
    )
    def test_what_was_asked_for_or_is_whole_needs_no_warning(
        self, more, source, run_cli, tmp_path
    ):
        words = [word.format(tmp_path) for word in more]
        done = run_cli("pull", source.reference("multi"), *words)
        assert done.returncode == 0, done.stderr
        assert self.warnings(done) == []

    def test_an_index_without_amd64_is_not_found(self, source, run_cli, tmp_path):
        line = ("pull", source.reference("no-amd64"), "-o", tmp_path / "x.tar")
        (done,) = refused(run_cli, 4, line)
        assert "linux/arm64, linux/s390x" in done.error
        assert not (tmp_path / "x.tar").exists()

    def test_the_library_says_so_and_can_keep_all(self, source, tmp_path):
        notices: list[Notice] = []

        def listen(event: object) -> None:
            if isinstance(event, Notice):
                notices.append(event)

        out = tmp_path / "x.tar"
        reference = source.reference("multi")
        image = dockerpush.pull(reference, out, plain_http=True, on_event=listen)
        assert image.chosen.digest == source.digests["amd64"]
        assert image.taken == (dockerpush.Platform("linux", "amd64"), 2)
        (notice,) = notices
        assert notice.warning
        assert notice.text == (
            f"{out} holds linux/amd64 only, 1 of 2 platforms; all_platforms=True "
            "keeps them"
        )
        image = dockerpush.pull(
            reference, out, plain_http=True, all_platforms=True, on_event=listen
        )
        assert image.taken is None
        assert notices == [notice]
        assert image.chosen.digest == source.digests["multi"]
        assert loaded_config(out) == config_of(source, "amd64")
        both = [dockerpush.Platform("linux", name) for name in ("amd64", "arm64")]
        image = dockerpush.pull(reference, out, plain_http=True, platforms=both)
        assert image.chosen.digest == source.digests["multi"]
        assert loaded_config(out) == config_of(source, "arm64")
