"""``--recompress``: layers that are compressed already, compressed in another way."""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from conftest import Command, Finished, peak_rss
from copied import Layout, assert_whole, put, read
from faultproxy import FaultProxy
from images import MIB, config_of, digest_of, docker_archive, tar_of
from inprocess import run_here
from multiplatform import (
    finish,
    write_blob,
    write_image,
    write_index,
    write_layout,
    write_manifest,
)

import dockerpush
from dockerpush import events
from dockerpush.archive.zstd import find_zstd
from dockerpush.cli.session import Session
from dockerpush.errors import PusherError
from dockerpush.oci import OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, OCI_MANIFEST
from dockerpush.server import Registry, RegistryServer

TYPES = {"zstd": OCI_LAYER_ZSTD, "gzip": OCI_LAYER_GZIP, "none": OCI_LAYER}
TARS = [tar_of({"n": random.Random(n).randbytes(50_000) * 2}) for n in range(2)]

Run = Callable[..., Finished]


@pytest.fixture
def here(run_cli: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command in this process and in ``tmp_path``; it must end with *code*."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object, code: int = 0) -> Finished:
        done = run_here(words, run_cli.environment())
        assert done.returncode == code, done.stderr
        assert done.stderr.count("error: ") == (code != 0)
        return done

    return run


@pytest.fixture
def host(tmp_path: Path) -> Iterator[str]:
    with RegistryServer(Registry(tmp_path / "registry")) as server:
        yield server.host


@pytest.fixture
def gzipped(here: Run, host: str, tmp_path: Path) -> str:
    """An image of gzip layers in the registry, as gzip itself makes them."""
    path = tmp_path / "gzipped"
    layers = [
        write_blob(path, OCI_LAYER_GZIP, gzip.compress(tar, 9, mtime=0)) for tar in TARS
    ]
    config = json.loads(config_of([digest_of(tar) for tar in TARS]))
    finish(path, write_manifest(path, config, layers))
    here("copy", "oci:gzipped", f"{host}/from/app:1", "-q")
    return f"{host}/from/app:1"


def unpacked(content: bytes) -> bytes:
    if content.startswith(b"\x1f\x8b"):
        return gzip.decompress(content)
    if content.startswith(b"\x28\xb5\x2f\xfd"):
        import io

        with find_zstd().open(io.BytesIO(content), "layer") as reader:
            return reader.readall()
    return content


def manifest_of(host: str, name: str) -> dict[str, Any]:
    repository, _, tag = name.rpartition(":")
    return json.loads(read(host, repository, tag))


def assert_packed(host: str, name: str, how: str) -> None:
    """The layers are TARS, each packed as *how* says, under their right type."""
    manifest = manifest_of(host, name)
    assert_whole(host, name.rpartition(":")[0], json.dumps(manifest).encode())
    for layer, tar in zip(manifest["layers"], TARS):
        assert layer["mediaType"] == TYPES[how]
        content = read(host, name.rpartition(":")[0], layer["digest"], "blobs")
        assert unpacked(content) == tar
        assert (content == tar) is (how == "none")


@pytest.mark.parametrize("how", TYPES)
def test_every_way_gives_the_same_image(here, host, gzipped, tmp_path, how):
    here("copy", gzipped, "plain.tar", "-q")
    subprocess.run(["gzip", "-k", "plain.tar"], cwd=tmp_path, check=True)
    here("copy", gzipped, "oci-archive:cut.tar", "--split", "64KiB", "-q")
    here("pull", gzipped, "-q")
    (tmp_path / "list.txt").write_text(f"{gzipped} {host}/to/sync:1\n")
    option = ("--recompress", how)
    here("push", "plain.tar", "-t", f"{host}/to/file:1", *option, "--verify")
    here("push", "plain.tar.gz", "-t", f"{host}/to/packed:1", *option, "--verify")
    here("push", "cut.tar.001", "-t", f"{host}/to/volumes:1", *option)
    here("push", "gzipped", "-t", f"{host}/to/folder:1", *option)
    here("push", gzipped, "-t", f"{host}/to/cached:1", *option, "--verify")
    here("copy", gzipped, f"{host}/to/copied:1", *option)
    here("copy", "plain.tar", f"{host}/to/archive:1", *option)
    here("copy", "-a", f"{host}/from/app", f"{host}/to/all", *option)
    here("sync", "list.txt", *option)
    names = [
        *("file", "packed", "volumes", "folder", "cached"),
        *("copied", "archive", "all", "sync"),
    ]
    raw = {read(host, f"to/{name}", "1") for name in names}
    assert len(raw) == 1
    assert_packed(host, "to/copied:1", how)
    if how == "gzip":  # these are gzip already, and stay byte for byte
        assert raw == {read(host, "from/app", "1")}
    here("verify", "plain.tar", f"{host}/to/copied:1")


def test_a_pipe_gives_the_same_image(run_cli, host, gzipped, here, tmp_path):
    here("copy", gzipped, "plain.tar", "-q")
    option = ("--recompress", "zstd")
    content = (tmp_path / "plain.tar").read_bytes()
    target = f"{host}/to/pipe:1"
    done = run_cli("push", "-", "-t", target, *option, stdin=content)
    assert done.returncode == 0, done.stderr
    here("push", "plain.tar", "-t", f"{host}/to/file:1", *option)
    assert read(host, "to/pipe", "1") == read(host, "to/file", "1")


@pytest.mark.parametrize("how", TYPES)
def test_raw_layers_of_a_docker_archive_are_compressed_too(here, host, tmp_path, how):
    docker_archive(tmp_path / "raw.tar", TARS, names=["app:1"])
    here("push", "raw.tar", "-t", f"{host}/app:1", "--recompress", how, "--verify")
    assert_packed(host, "app:1", how)


@pytest.mark.parametrize("first", TYPES)
@pytest.mark.parametrize("then", TYPES)
def test_from_each_compression_to_each(here, host, gzipped, first, then):
    here("copy", gzipped, f"{host}/a:1", "--recompress", first)
    here("copy", f"{host}/a:1", f"{host}/b:1", "--recompress", then)
    assert_packed(host, "b:1", then)


def test_the_old_digest_is_told(here, host, gzipped):
    old = digest_of(read(host, "from/app", "1"))
    done = here("copy", gzipped, f"{host}/to:1", "--recompress", "zstd")
    assert f"note: layers were recompressed: the digest was {old}" in done.stderr
    assert digest_of(read(host, "to", "1")) in done.stdout


def test_an_image_may_be_recompressed_where_it_is(here, host, gzipped):
    here("copy", gzipped, gzipped, "--recompress", "zstd")
    assert_packed(host, "from/app:1", "zstd")


@pytest.mark.parametrize("command", ["copy", "sync", "push"])
def test_the_second_run_reads_and_sends_no_layer(
    here, host, gzipped, command, tmp_path
):
    here("copy", gzipped, "plain.tar", "-q")
    with FaultProxy(host) as proxy:
        source = gzipped.replace(host, proxy.host)
        (tmp_path / "list").write_text(f"{source} {proxy.host}/to:1\n")
        words = {
            "copy": ("copy", source, f"{proxy.host}/to:1"),
            "sync": ("sync", "list"),
            "push": ("push", "plain.tar", "-t", f"{proxy.host}/to:1"),
        }[command]
        words = (*words, "--recompress", "zstd", "--json", "--plain-http")
        if command != "push":
            words = (*words, "--src-plain-http")
        here(*words)
        before = len(proxy.exchanges())
        done = here(*words)
        layers = {layer["digest"] for layer in manifest_of(host, "to:1")["layers"]}
        layers |= {one["digest"] for one in manifest_of(host, "from/app:1")["layers"]}
        for exchange in proxy.exchanges()[before:]:
            is_layer = any(digest in exchange.target for digest in layers)
            assert not (is_layer and exchange.method != "HEAD"), exchange
            assert "/blobs/uploads" not in exchange.target
    assert done.json["bytes"] == 0
    if command == "sync":
        assert done.json["skip"] == 1


def test_another_repository_gets_what_was_made_before_by_mounting(here, host, gzipped):
    here("copy", gzipped, f"{host}/a:1", "--recompress", "zstd")
    done = here("copy", gzipped, f"{host}/b:1", "--recompress", "zstd", "--json")
    assert done.json["blobs"]["mounted"] >= 2  # a small config may as well be sent
    assert done.json["bytes"] < 1000


@pytest.fixture
def multi(host: str, tmp_path: Path) -> Path:
    """An index of amd64, arm64 and an attestation, in the registry as multi:1."""
    path = tmp_path / "multi"
    write_layout(path)
    layout = Layout.__new__(Layout)
    layout.path = path
    layout.send(host, "multi", "v1")
    return path


@pytest.mark.parametrize("command", ["copy", "sync", "push"])
def test_attestations_are_left_out_with_a_warning(here, host, multi, tmp_path, command):
    (tmp_path / "list").write_text(f"{host}/multi:v1 {host}/to:1\n")
    words = {
        "copy": ("copy", f"{host}/multi:v1", f"{host}/to:1"),
        "sync": ("sync", "list"),
        "push": ("push", "multi", "-t", f"{host}/to:1"),
    }[command]
    words = (*words, "--recompress", "zstd")
    done = here(*words)
    assert done.stderr.count("warning: left out: unknown/unknown") == 1
    platforms = [
        one["platform"]["architecture"]
        for one in manifest_of(host, "to:1")["manifests"]
    ]
    assert platforms == ["amd64", "arm64"]
    done = here(*words, "--strict", code=7)
    assert "1 signatures or attestations left out" in done.error
    here(*words[:-2], "--recompress", "gzip", "--strict")  # nothing changes


def test_referrers_are_left_out_with_a_warning(here, host, gzipped):
    subject = {
        "mediaType": OCI_MANIFEST,
        "digest": digest_of(read(host, "from/app", "1")),
        "size": len(read(host, "from/app", "1")),
    }
    empty = manifest_of(host, "from/app:1")["config"]
    record = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": "application/vnd.example.signature",
        "config": empty,
        "layers": [],
        "subject": subject,
    }
    raw = json.dumps(record).encode()
    put(host, "from/app", digest_of(raw), raw, OCI_MANIFEST)
    words = ("copy", gzipped, f"{host}/to:1", "--recompress", "zstd")
    assert "left out" not in here(*words).stderr  # nobody asked for them
    done = here(*words, "--referrers")
    assert "left out: application/vnd.example.signature" in done.stderr
    here(*words, "--referrers", "--strict", code=7)
    gzip_again = (*words[:-1], "gzip", "--referrers", "--strict")
    here(*gzip_again)  # the layers are gzip, so the signature holds
    assert len(
        json.loads(read(host, "to", subject["digest"], "referrers"))["manifests"]
    )


def test_one_platform_of_an_index(here, host, multi):
    words = ("copy", f"{host}/multi:v1", f"{host}/to:1", "--recompress", "none")
    here(*words, "--platform", "linux/arm64")
    layers = manifest_of(host, "to:1")["layers"]
    assert [layer["mediaType"] for layer in layers] == [OCI_LAYER] * 2


def test_unknown_keys_stay_and_places_in_the_old_bytes_go(here, host, tmp_path):
    path = tmp_path / "layout"
    layers = []
    for tar in TARS:
        layer = write_blob(path, OCI_LAYER_GZIP, gzip.compress(tar, mtime=0))
        annotations = {
            "org.example": "kept",
            "containerd.io/snapshot/stargz/toc.digest": layer["digest"],
        }
        layers.append({**layer, "x-layer": [1], "annotations": annotations})
    config = json.loads(config_of([digest_of(tar) for tar in TARS]))
    found = write_manifest(path, config, layers)
    blob = path / "blobs/sha256" / found["digest"][7:]
    record = {**json.loads(blob.read_text()), "x-manifest": {"a": None}}
    finish(path, write_blob(path, OCI_MANIFEST, json.dumps(record).encode()))
    here("copy", "oci:layout", f"{host}/from:1", "--recompress", "gzip")
    here("copy", f"{host}/from:1", f"{host}/to:1", "--recompress", "zstd")
    manifest = manifest_of(host, "to:1")
    assert manifest["x-manifest"] == {"a": None}
    for layer in manifest["layers"]:
        assert layer["x-layer"] == [1]
        assert layer["annotations"] == {"org.example": "kept"}


def test_the_types_of_docker_become_those_of_oci_only_for_zstd(here, host, gzipped):
    here("copy", gzipped, f"{host}/raw:1", "--recompress", "none")
    manifest = manifest_of(host, "raw:1")
    manifest["mediaType"] = "application/vnd.docker.distribution.manifest.v2+json"
    manifest["config"]["mediaType"] = "application/vnd.docker.container.image.v1+json"
    for layer in manifest["layers"]:
        layer["mediaType"] = "application/vnd.docker.image.rootfs.diff.tar"
    put(host, "raw", "d", json.dumps(manifest).encode(), manifest["mediaType"])
    here("copy", f"{host}/raw:d", f"{host}/to:gzip", "--recompress", "gzip")
    found = manifest_of(host, "to:gzip")
    assert found["mediaType"] == manifest["mediaType"]
    assert found["layers"][0]["mediaType"].endswith(".rootfs.diff.tar.gzip")
    here("copy", f"{host}/raw:d", f"{host}/to:zstd", "--recompress", "zstd")
    assert manifest_of(host, "to:zstd")["mediaType"] == OCI_MANIFEST
    assert_packed(host, "to:zstd", "zstd")


def test_what_is_no_layer_of_files_stays(here, host, tmp_path):
    path = tmp_path / "layout"
    chart = write_blob(path, "application/vnd.cncf.helm.chart.content.v1.tar+gzip", b"")
    record = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": write_blob(path, "application/vnd.cncf.helm.config.v1+json", b"{}"),
        "layers": [chart],
    }
    finish(path, write_blob(path, OCI_MANIFEST, json.dumps(record).encode()))
    here("copy", "oci:layout", f"{host}/chart:1")
    done = here("copy", f"{host}/chart:1", f"{host}/to:1", "--recompress", "zstd")
    assert read(host, "to", "1") == read(host, "chart", "1")
    assert "recompressed" not in done.stderr


def test_a_layer_that_is_not_what_the_config_says_is_refused(here, host, tmp_path):
    path = tmp_path / "layout"
    layers = [write_blob(path, OCI_LAYER_GZIP, gzip.compress(TARS[0], mtime=0))]
    config = json.loads(config_of([digest_of(TARS[1])]))
    finish(path, write_manifest(path, config, layers))
    here("copy", "oci:layout", "oci:copy")
    layout = Layout.__new__(Layout)
    layout.path = path
    layout.send(host, "wrong", "v1")
    for words in (
        ("copy", f"{host}/wrong:v1", f"{host}/to:1"),
        ("push", "layout", "-t", f"{host}/to:1"),
    ):
        done = here(*words, "--recompress", "zstd", code=6)
        assert digest_of(TARS[0]) in done.error
        here("digest", f"{host}/to:1", code=4)


def send_damaged(host: str, path: Path) -> None:
    """Have *host* hold damaged:v1, of a layer with a hole in it."""
    content = bytearray(gzip.compress(TARS[0], mtime=0))
    content[5000:5100] = bytes(100)
    layers = [write_blob(path, OCI_LAYER_GZIP, bytes(content))]
    config = json.loads(config_of([digest_of(TARS[0])]))
    finish(path, write_manifest(path, config, layers))
    layout = Layout.__new__(Layout)
    layout.path = path
    layout.send(host, "damaged", "v1")


def test_a_damaged_layer_is_refused(here, host, tmp_path):
    send_damaged(host, tmp_path / "layout")
    words = ("copy", f"{host}/damaged:v1", f"{host}/to:1", "--recompress", "zstd")
    here(*words, code=6)


FILES = {
    "directory": ("oci:to", "to"),
    "archive": ("oci-archive:to.tar", "to.tar"),
    "docker": ("docker-archive:to.tar", "to.tar"),
    "volumes": ("oci-archive:to.tar", "to.tar.001", "--split", "64KiB"),
}
"""Where copy writes, what push reads then, and options."""


@pytest.mark.parametrize(
    ("form", "how"),
    [*(("directory", how) for how in TYPES), *((form, "zstd") for form in FILES)][1:],
)
def test_files_get_the_image_that_a_registry_gets(here, host, gzipped, form, how):
    to, path, *options = FILES[form]
    here("copy", gzipped, f"{host}/there:1", "--recompress", how)
    for _ in range(2):
        here("copy", gzipped, to, "--recompress", how, *options)
    here("push", path, "-t", f"{host}/back:1")
    assert read(host, "back", "1") == read(host, "there", "1")
    assert_packed(host, "back:1", how)


def test_a_pipe_and_a_local_source_are_recompressed_as_well(
    run_cli, here, host, gzipped, tmp_path
):
    here("copy", gzipped, f"{host}/there:1", "--recompress", "zstd")
    words = ("copy", "oci:gzipped", "-", "--recompress", "zstd")
    with run_cli.start(*words, cwd=tmp_path, stdout=-1) as child:
        archive = child.stdout.read()
    assert child.returncode == 0
    pushed = run_cli("push", "-", "-t", f"{host}/back:1", stdin=archive)
    assert pushed.returncode == 0, pushed.stderr
    assert read(host, "back", "1") == read(host, "there", "1")


def test_several_images_and_a_list_go_into_one_place(here, host, gzipped, tmp_path):
    here("copy", gzipped, f"{host}/from/app:2")
    here("copy", gzipped, f"{host}/there:1", "--recompress", "zstd")
    (tmp_path / "list").write_text(f"{gzipped}\n{host}/from/app:2\n")
    here("sync", "list", "oci:synced", "--recompress", "zstd")
    here("copy", "-a", f"{host}/from/app", "all.tar", "--recompress", "zstd")
    for number, path in enumerate(("synced", "all.tar")):
        here("push", "-a", path, "--registry", f"{host}/back{number}", "--yes")
        for tag in ("1", "2"):
            found = read(host, f"back{number}/from/app", tag)
            assert found == read(host, "there", "1")


@pytest.mark.parametrize("command", ["copy", "sync"])
def test_the_second_run_into_a_directory_compresses_nothing(
    here, host, gzipped, tmp_path, command, monkeypatch
):
    (tmp_path / "list").write_text(f"{gzipped}\n")
    words = (command, gzipped if command == "copy" else "list", "oci:to")
    words = (*words, "--recompress", "zstd")
    here(*words)
    blobs = tmp_path / "to" / "blobs" / "sha256"
    layers = [path for path in blobs.iterdir() if path.stat().st_size > 10_000]
    assert len(layers) == len(TARS)
    before = [path.stat() for path in layers]
    with monkeypatch.context() as broken:
        broken.setattr("dockerpush.transfer.prepare.compress", None)
        here(*words)
    assert [path.stat() for path in layers] == before
    layers[0].unlink()
    here(*words)
    assert layers[0].exists()


@pytest.mark.parametrize("form", ["directory", "archive", "volumes"])
def test_a_file_is_not_made_of_a_damaged_layer(here, host, tmp_path, form):
    send_damaged(host, tmp_path / "layout")
    to, _, *options = FILES[form]
    words = ("copy", f"{host}/damaged:v1", to, "--recompress", "zstd")
    here(*words, *options, code=6)
    assert not list(tmp_path.glob("to.tar*"))
    assert not (tmp_path / "to" / "index.json").exists()


@pytest.mark.parametrize("to", ["oci:to", "to.tar", "{host}/to:1"])
def test_each_blob_that_was_planned_ends(to, here, gzipped, host, monkeypatch):
    """Under the name that it was planned with, whatever its new digest is."""
    seen: list[events.Event] = []
    usual = Session.on_event

    def on_event(session: Session, event: events.Event) -> None:
        seen.append(event)
        usual(session, event)

    monkeypatch.setattr(Session, "on_event", on_event)
    here("copy", gzipped, to.format(host=host), "--recompress", "zstd")
    planned = {one.key for one in seen if isinstance(one, events.BlobPlanned)}
    finished = {one.key for one in seen if isinstance(one, events.BlobFinished)}
    assert planned == finished
    assert len(planned) > 1


@pytest.mark.parametrize("to", ["oci:to", "to.tar"])
def test_a_file_lacks_attestations_with_a_warning(here, host, multi, to):
    words = ("copy", f"{host}/multi:v1", to, "--recompress", "zstd")
    done = here(*words)
    assert done.stderr.count("warning: left out: unknown/unknown") == 1
    assert "1 signatures or attestations" in here(*words, "--strict", code=7).error
    here(*words[:-1], "gzip", "--referrers", "--strict")  # nothing changes


def test_skopeo_and_umoci_read_the_files_that_were_made(here, host, gzipped, tmp_path):
    here("copy", gzipped, f"{host}/n:1", "--recompress", "none")
    here("copy", gzipped, "zstd.tar", "--recompress", "zstd")
    here("copy", f"{host}/n:1", "oci:gzip:1", "--recompress", "gzip")
    copy = ("skopeo", "--insecure-policy", "copy", "-q")
    for one in ("oci-archive:zstd.tar", "oci:gzip:1"):
        words = [*copy, one, f"dir:{tmp_path / one.rpartition(':')[2]}.out"]
        subprocess.run(words, check=True, capture_output=True, cwd=tmp_path)
    words = ["umoci", "raw", "unpack", "--rootless", "--image", "gzip:1", "bundle"]
    subprocess.run(words, check=True, capture_output=True, cwd=tmp_path)
    content = random.Random(1).randbytes(50_000) * 2
    assert (tmp_path / "bundle" / "n").read_bytes() == content


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("sync", "list", "oci-archive:x"), "needs a registry or oci:DIR"),
        (("sync", "list", "oci:x", "--have", "list"), "not both"),
        (("copy", "{image}", "oci:x", "--have", "list"), "not both"),
        (("copy", "{image}", "{host}/to@{digest}"), "name a tag"),
        (("copy", "{host}/from/app@{digest}", "oci:x"), "name a tag"),
        (("copy", "{host}/from/app@{digest}", "x.oci.tar"), "name a tag"),
        (("push", "x.tar", "-t", "{host}/to:1", "--compress", "gzip"), "not both"),
    ],
)
def test_what_cannot_be_is_refused(here, host, gzipped, tmp_path, words, why):
    (tmp_path / "list").write_text(f"{gzipped}\n")
    docker_archive(tmp_path / "x.tar", TARS)
    digest = digest_of(read(host, "from/app", "1"))
    names = {"image": gzipped, "host": host, "digest": digest}
    words = [word.format(**names) for word in words]
    assert why in here(*words, "--recompress", "zstd", code=2).error


def test_an_image_of_a_list_that_is_named_by_its_digest_fails_alone(
    here, host, gzipped, tmp_path
):
    digest = digest_of(read(host, "from/app", "1"))
    name = gzipped.rpartition(":")[0]
    (tmp_path / "list").write_text(
        f"{name}@{digest} {host}/a@{digest}\n{gzipped} {host}/b:1\n"
    )
    done = here("sync", "list", "--recompress", "zstd", code=7)
    assert "name a tag" in done.stderr
    assert_packed(host, "b:1", "zstd")


def test_a_dry_run_says_what_would_be_done(here, host, gzipped):
    here("copy", gzipped, "plain.tar", "-q")
    words = ("push", "plain.tar", "-t", f"{host}/to:1", "--dry-run", "--json")
    blobs = here(*words, "--recompress", "zstd").json["blobs"]
    assert [one["action"] for one in blobs[1:]] == ["compress (zstd) and send"] * 2
    blobs = here(*words, "--recompress", "none").json["blobs"]
    assert [one["action"] for one in blobs[1:]] == ["unpack and send"] * 2


def test_skopeo_and_umoci_read_what_was_made(here, host, gzipped, tmp_path):
    here("copy", gzipped, f"{host}/z:1", "--recompress", "zstd")
    here("copy", gzipped, f"{host}/n:1", "--recompress", "none")
    copy = ("skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false")
    for name in ("z", "n"):
        words = [*copy, f"docker://{host}/{name}:1", f"oci:{tmp_path}/sk-{name}:1"]
        subprocess.run(words, check=True, capture_output=True)
    bundle = tmp_path / "bundle"
    words = ["umoci", "raw", "unpack", "--rootless", "--image", f"{tmp_path}/sk-n:1"]
    subprocess.run([*words, bundle], check=True, capture_output=True)
    assert (bundle / "n").read_bytes() == random.Random(1).randbytes(50_000) * 2


@pytest.mark.long
def test_memory_stays_flat(run_cli, host, tmp_path):
    """80 MiB that shrink to a tenth, between all compressions, in frames of 1 MiB."""
    path = tmp_path / "large"
    block = b"".join(b"%12d\n" % n for n in range(80_660))[:MIB]
    packer, pieces = zlib.compressobj(1, zlib.DEFLATED, 31), []
    content = tar_of({"large": block * 80})
    pieces = [packer.compress(content), packer.flush()]
    layer = write_blob(path, OCI_LAYER_GZIP, b"".join(pieces))
    finish(
        path, write_manifest(path, json.loads(config_of([digest_of(content)])), [layer])
    )
    del content
    dockerpush.push(path, f"{host}/large:gzip")
    for kept, wanted in ("gzip", "zstd"), ("zstd", "gzip"), ("zstd", "none"):
        words = ("copy", f"{host}/large:{kept}", f"{host}/large:{wanted}")
        state = {"DOCKERPUSH_STATE_DIR": str(tmp_path / f"{kept}-{wanted}")}
        words = (*words, "--recompress", wanted, "-q")
        with run_cli.start(*words, env=state, stdout=-3) as child:
            peak = 0
            while child.poll() is None:
                peak = max(peak, peak_rss(child.pid))
                time.sleep(0.01)
        assert child.returncode == 0
        assert 20 * MIB < peak < 50 * MIB, (kept, wanted)


@pytest.mark.parametrize("compression", ["gzip", "none"])
def test_what_is_read_is_counted_as_it_is_stored(host, gzipped, compression, here):
    """Else a bar of what was read goes on when it is full."""
    here("copy", gzipped, f"oci:{compression}:1", "--recompress", compression)
    planned, read_of = {}, Counter[str]()

    def watch(event: events.Event) -> None:
        if isinstance(event, events.BlobPlanned):
            planned[event.key] = event.size
        elif isinstance(event, events.BytesRead):
            read_of[event.key] += event.count

    options = dockerpush.PushOptions(compress="zstd", recompress=True)
    dockerpush.push(compression, f"{host}/to:1", options=options, on_event=watch)
    assert len(read_of) == len(TARS)
    assert all(planned[key] == count for key, count in read_of.items())


def test_two_images_share_a_layer_of_an_index(here, host, tmp_path):
    path = tmp_path / "shared"
    images = [write_image(path, name) for name in ("amd64", "arm64")]
    finish(path, write_index(path, images))
    here("push", "shared", "-t", f"{host}/to:1", "--recompress", "zstd")
    digests = [
        layer["digest"]
        for entry in manifest_of(host, "to:1")["manifests"]
        for layer in json.loads(read(host, "to", entry["digest"]))["layers"]
    ]
    assert len(digests) == 4
    assert len(set(digests)) == 3


@pytest.mark.parametrize("how", ["none", "zstd"])
def test_a_layer_that_unpacks_to_more_than_there_is_room_for_is_refused(
    host, tmp_path, how
):
    """A bomb: it is small in the registry, and fills any disk."""
    path = tmp_path / "bomb"
    content = tar_of({"zeros": bytes(20 * MIB)})
    layer = write_blob(path, OCI_LAYER_GZIP, gzip.compress(content, mtime=0))
    config = json.loads(config_of([digest_of(content)]))
    finish(path, write_manifest(path, config, [layer]))
    options = dockerpush.PushOptions(
        compress=how, recompress=True, temp_budget=MIB, jobs=1
    )
    if how == "zstd":
        dockerpush.push(path, f"{host}/bomb:1", options=options)
        return
    with pytest.raises(PusherError, match="cannot write more than 1048576 bytes"):
        dockerpush.push(path, f"{host}/bomb:1", options=options)
