"""What tools read differently is refused by every command, and leads nowhere."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any, Iterator

import archives
import pytest
from archives import CONFIG, LAYER, MANIFEST, Image, blob, descriptor, digest, dump
from fake_registry import Answer, FakeRegistry, Incoming, serving
from images import small_archive
from inprocess import run_here
from suites import crossed
from test_documents import Loose, request

from dockerpush.server import Registry, RegistryServer

IMAGE = Image.of("hello", tags=("demo/app:1",))
OTHER = Image.of("other")


def saved(entry: dict[str, Any], config: bytes = IMAGE.config) -> archives.Files:
    """A docker-archive with *entry* beside what its entry has."""
    files = archives.simple(IMAGE)
    record = {**json.loads(files["manifest.json"])[0], **entry}
    return {**files, "config.json": config, "manifest.json": dump([record])}


def laid_out(manifest: bytes, config: bytes = IMAGE.config) -> archives.Files:
    layer = archives.gzipped(IMAGE.layers[0])
    blobs = {blob(item): item for item in (manifest, config, layer)}
    return archives.Layout(blobs, (descriptor(MANIFEST, manifest),)).files()


def manifest_of(config: bytes = IMAGE.config, **more: Any) -> bytes:
    layer = archives.gzipped(IMAGE.layers[0])
    return dump(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, config),
            "layers": [descriptor(LAYER + "+gzip", layer)],
            **more,
        }
    )


def changed(raw: bytes, more: bytes) -> bytes:
    return raw[:-1] + b"," + more + b"}"


ROOTS = changed(IMAGE.config, b'"Rootfs":{"type":"layers","diff_ids":[]}')
TWICE = changed(IMAGE.config, b'"os":"linux"')
ENVIRONMENT = dump({**json.loads(IMAGE.config), "config": {"Env": [], "ENV": ["A=1"]}})
INDEX_TWICE = archives.layout(IMAGE).files()
INDEX_TWICE["index.json"] = changed(INDEX_TWICE["index.json"], b'"Manifests":[]')
ARCHIVES = {
    "layers beside Layers": saved({"layers": []}),
    "another spelling of Config": saved({"config": "other.json"}),
    "Rootfs in a docker-archive": saved({}, ROOTS),
    "a key twice in a docker-archive": saved({}, TWICE),
    "ENV in a docker-archive": saved({}, ENVIRONMENT),
    "Manifests in index.json": INDEX_TWICE,
    "Layers in a layout": laid_out(manifest_of(Layers=[])),
    "NaN in a layout": laid_out(changed(manifest_of(), b'"x":NaN')),
    "a byte order mark in a layout": laid_out(b"\xef\xbb\xbf" + manifest_of()),
    "Rootfs in a layout": laid_out(manifest_of(ROOTS), ROOTS),
    "a key twice in a layout": laid_out(manifest_of(TWICE), TWICE),
}
READERS = ("push", "pipe", "gzip", "directory", "dry run", "inspect", "copy", "verify")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[str]:
    with RegistryServer(Registry(tmp_path / "registry")) as server:
        yield server.host


def words_for(how: str, files: archives.Files, target: str, path: Path) -> list[object]:
    if how == "directory":
        return ["push", archives.folder(path / "image", files), "-t", target]
    archive = archives.tar(path / "image.tar", files)
    if how == "gzip":
        packed = path / "image.tar.gz"
        packed.write_bytes(gzip.compress(archive.read_bytes()))
        return ["push", packed, "-t", target]
    return {
        "push": ["push", archive, "-t", target],
        "pipe": ["push", "-", "-t", target],
        "dry run": ["push", archive, "-t", target, "--dry-run"],
        "inspect": ["inspect", archive],
        "copy": ["copy", archive, target],
        "verify": ["verify", archive, target],
    }[how]


@pytest.mark.parametrize(("name", "how"), crossed(ARCHIVES, READERS))
def test_an_archive_with_two_readings_is_refused(name, how, host, run_cli, tmp_path):
    words = words_for(how, ARCHIVES[name], f"{host}/team/dst:v1", tmp_path)
    if how == "pipe":
        done = run_cli(*words, stdin=tmp_path / "image.tar")
    else:
        done = run_here(words, run_cli.environment())
    assert done.returncode == 6, done.stdout + done.stderr
    said = done.stdout + done.stderr
    assert "Traceback" not in said
    assert any(
        words in said for words in ("differently", " twice", "NaN", "byte order mark")
    ), said
    assert run_cli("tags", f"{host}/team/dst").stdout == ""


def test_a_broken_image_spoils_no_other(host, run_cli, tmp_path):
    files = {**archives.simple(IMAGE), **archives.simple(OTHER, config="other.json")}
    good = json.loads(archives.simple(IMAGE)["manifest.json"])[0]
    bad = json.loads(archives.simple(OTHER, config="other.json")["manifest.json"])[0]
    bad = {**bad, "RepoTags": ["demo/bad:1"], "layers": []}
    files["manifest.json"] = dump([good, bad])
    archive = archives.tar(tmp_path / "two.tar", files)
    done = run_cli("push", archive, "-a", "--registry", f"{host}/all", "--yes")
    assert done.returncode == 7
    assert "demo/bad:1" in done.stderr
    assert run_cli("tags", f"{host}/all/demo/app").stdout == "1\n"


# what is put into our own registry


@pytest.mark.parametrize(
    "raw",
    [
        manifest_of(Layers=[]),
        changed(manifest_of(), b'"layers":[]'),
        b"\xef\xbb\xbf" + manifest_of(),
        changed(manifest_of(), b'"x":NaN'),
        changed(manifest_of(), b'"x":"\xe9"'),
    ],
    ids=("case", "twice", "mark", "NaN", "Latin-1"),
)
def test_serve_takes_no_manifest_with_two_readings(raw, host, run_cli, tmp_path):
    whole = archives.tar(tmp_path / "whole.tar", laid_out(manifest_of()))
    target = f"{host}/team/app"
    assert run_cli("push", whole, "-t", f"{target}:v1").returncode == 0
    with pytest.raises(OSError, match="400"):
        request("PUT", f"http://{host}/v2/team/app/manifests/v2", raw, MANIFEST)
    assert run_cli("tags", target).stdout == "v1\n"


def test_what_an_older_server_took_can_be_deleted(run_cli, tmp_path):
    raw = manifest_of(Layers=[])
    with RegistryServer(Loose(tmp_path / "loose")) as server:
        base = f"http://{server.host}/v2/team/app"
        for content in (IMAGE.config, archives.gzipped(IMAGE.layers[0])):
            request("POST", f"{base}/blobs/uploads/?digest={digest(content)}", content)
        request("PUT", f"{base}/manifests/v1", raw, MANIFEST)
        request("DELETE", f"{base}/manifests/{digest(raw)}")
        assert run_cli("tags", f"{server.host}/team/app").stdout == ""


# what a registry says


class Says(FakeRegistry):
    """Answers every GET with *content*, and POST with *location*."""

    content = b"{}"
    kind = "application/json"
    location = ""
    realm = ""

    def answer(self, request: Incoming) -> Answer:
        request.body()
        if self.realm:
            challenge = f'Bearer realm="{self.realm}"'
            return Answer(401, {"WWW-Authenticate": challenge})
        if self.location and request.method == "POST":
            return Answer(202, {"Location": self.location})
        if self.location and request.method == "GET":
            return Answer(307, {"Location": self.location})
        if request.method in ("HEAD", "POST"):
            return Answer(404)
        return Answer(200, {"Content-Type": self.kind}, self.content)


@pytest.mark.parametrize(
    "content",
    [
        b'{"name":"a/b","Tags":["v1"]}',
        b'{"name":"a/b","tags":["v1"],"tags":["v2"]}',
        b'\xef\xbb\xbf{"name":"a/b","tags":["v1"]}',
        b'{"name":"a/b\xff","tags":["v1"]}',
    ],
)
def test_a_list_of_tags_with_two_readings_is_refused(content, run_cli):
    registry = Says()
    registry.content = content
    with serving(registry) as host:
        done = run_here(["tags", f"{host}/a/b", "--plain-http"], run_cli.environment())
    assert done.returncode == 6, done.stderr
    assert done.stdout == ""


ODD_URLS = (
    "http://[",
    "http://[/token",
    "http://]",
    "//[",
    "http://[1.2.3.4]/token",
    "http://[::g]/",
    "http://[:::]/",
    "http://[v1.x]/",
    "http://a\u2100b/",
    "http:[",
    "[",
    "x[y://z",
)
"""What Python's own reading of URLs raises ValueError for, and what is close to it."""

ASKERS: dict[str, tuple[object, ...]] = {
    "push": ("push", "ARCHIVE", "-t", "HOST/a/b:1"),
    "pull": ("pull", "HOST/a/b:1"),
    "copy": ("copy", "HOST/a/b:1", "HOST/c/d:1"),
    "inspect": ("inspect", "HOST/a/b:1"),
    "verify": ("verify", "HOST/a/b:1"),
    "tags": ("tags", "HOST/a/b"),
    "repos": ("repos", "HOST"),
    "digest": ("digest", "HOST/a/b:1"),
    "delete": ("delete", "HOST/a/b:1", "--yes"),
    "tag": ("tag", "HOST/a/b:1", "2"),
    "check": ("check", "HOST/a/b"),
}


@pytest.mark.parametrize("where", ["realm", "location"])
@pytest.mark.parametrize(("name", "url"), crossed(ASKERS, ODD_URLS))
def test_an_odd_url_is_an_error_of_the_registry(name, url, where, run_cli, tmp_path):
    registry = Says()
    setattr(registry, where, url.encode().decode("latin-1"))
    with serving(registry) as host:
        archive = small_archive(tmp_path / "a.tar") if name == "push" else ""
        given = [str(word).replace("HOST", host) for word in ASKERS[name]]
        words = [archive if word == "ARCHIVE" else word for word in given]
        options = ["--plain-http", "--retry-times", "0", "--timeout", "5"]
        done = run_here([*words, *options], run_cli.environment())
    assert done.returncode != 0, done.stderr
    assert "this is a bug" not in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
