"""One entry of an archive that cannot be used spoils nothing else, on every path."""

from __future__ import annotations

import gzip
import json
import urllib.request
from pathlib import Path
from typing import Any, Callable

import archives
import pytest
from archives import CONFIG, INDEX, LAYER, MANIFEST, Image, descriptor, digest, dump
from inprocess import run_here
from pushed import fetch
from suites import crossed

from dockerpush.server import Registry, RegistryServer

REF = "org.opencontainers.image.ref.name"
ARTIFACT = "application/vnd.oci.artifact.manifest.v1+json"
XML = b"<?xml version='1.0'?><component/>" * 40
PNG = b"\x89PNG" * 300
GOOD = Image.of("good")
GONE = descriptor(MANIFEST, b"gone")


def named(entry: dict[str, Any], name: str) -> dict[str, Any]:
    return {**entry, "annotations": {REF: name}}


def manifest(config: bytes, layers: Any, **more: Any) -> bytes:
    return dump(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, config),
            "layers": layers,
            **more,
        }
    )


TAR = archives.gzipped(archives.layer("policy"))
OPA = manifest(b"{}", [descriptor(LAYER + "+gzip", TAR)])
YAML = manifest(b"kind: Config\n" * 90, [descriptor(LAYER + "+gzip", TAR)])
NO_DIFF_IDS = dump({"os": "linux", "rootfs": {"type": "layers"}})
BARE = dump({"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": None}})
CACHE = dump(
    {
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [
            descriptor(LAYER + "+gzip", TAR, annotations={"buildkit/createdat": "x"}),
            descriptor("application/vnd.buildkit.cacheconfig.v0", b'{"layers":[]}'),
        ],
    }
)
THINGS = dump({"mediaType": ARTIFACT, "blobs": [descriptor("a/b", PNG)]})
UNKNOWN = dump({"mediaType": "application/vnd.acme.v1+json", "hello": 1})
NESTED = dump({"schemaVersion": 2, "mediaType": INDEX, "manifests": None})


def of_type(raw: bytes) -> str:
    return str(json.loads(raw)["mediaType"])


WHOLE: dict[str, tuple[bytes, ...]] = {
    "a config {}": (OPA, b"{}", TAR),
    "a config without diff_ids": (
        manifest(NO_DIFF_IDS, [descriptor(LAYER + "+gzip", TAR)]),
        *(NO_DIFF_IDS, TAR),
    ),
    "layers: null": (manifest(BARE, None), BARE),
    "a cache of BuildKit": (CACHE, TAR, b'{"layers":[]}'),
    "an artifact manifest": (THINGS, PNG),
    "an unknown type": (UNKNOWN,),
    "an index of nothing": (NESTED,),
}
"""The root first, then what it needs. Each goes byte for byte, also beside an image."""


class Loose(Registry):
    """A registry that takes every document, as some do."""

    def put_manifest(self, name: Any, manifest: Any, tags: Any) -> None:
        self._storage.put_manifest(
            name, manifest, tags=tuple(tags), reference=None, check=lambda: None
        )


@pytest.fixture
def host(tmp_path: Path):
    with RegistryServer(Loose(tmp_path / "loose")) as server:
        yield server.host


def layout(*contents: bytes, entries: Any) -> archives.Files:
    blobs = {archives.blob(content): content for content in contents}
    return archives.Layout(blobs, tuple(entries)).files()


def written(form: str, path: Path, files: archives.Files) -> Path:
    """*files* as a plain file, a compressed one, or a directory."""
    if form == "directory":
        return archives.folder(path, files)
    raw = archives.packed(files)
    path.write_bytes(gzip.compress(raw) if form == "compressed" else raw)
    return path


FORMS = ("file", "compressed", "directory", "pipe")


def push(
    form: str, path: Path, files: archives.Files, run_cli: Any, *words: Any
) -> Any:
    source = written(form, path, files)
    if form == "pipe":
        return run_cli("push", "-", *words, stdin=source)
    return run_here(("push", source, *words), run_cli.environment())


def check(host: str, repository: str, contents: tuple[bytes, ...]) -> None:
    """*contents* are in the registry, the first one under the tag 1."""
    root, *rest = contents
    accept = {"Accept": "*/*"}
    url = f"http://{host}/v2/{repository}/manifests/1"
    with urllib.request.urlopen(urllib.request.Request(url, headers=accept)) as answer:
        assert answer.read() == root
    for content in rest:
        assert fetch(host, repository, f"blobs/{digest(content)}") == content


@pytest.mark.parametrize(("name", "form"), crossed(WHOLE, FORMS))
def test_it_is_pushed_as_it_is(name, form, host, run_cli, tmp_path):
    contents = WHOLE[name]
    root = contents[0]
    files = layout(*contents, entries=[named(descriptor(of_type(root), root), "v1")])
    target = f"{host}/{form}:1"
    done = push(form, tmp_path / "a.tar", files, run_cli, "-t", target)
    assert done.returncode == 0, done.stderr
    check(host, form, contents)


def dry_run(path: Path, host: str) -> list[Any]:
    return [("push", path, "-t", f"{host}/x:2", "--dry-run")]


def verify(path: Path, host: str) -> list[Any]:
    return [("push", path, "-t", f"{host}/x:1"), ("verify", path, f"{host}/x:1")]


def copy(path: Path, host: str) -> list[Any]:
    out = path.with_name("out")
    return [
        ("copy", f"oci-archive:{path}", f"oci:{out}:v1"),
        ("copy", f"oci:{out}:v1", f"{host}/x:1"),
        ("copy", f"{host}/x:1", f"{host}/y:1"),
        (
            "pull",
            f"{host}/y:1",
            "-o",
            path.with_name("p.tar"),
            "--format",
            "oci-archive",
        ),
        ("push", path.with_name("p.tar"), "-t", f"{host}/z:1"),
    ]


def inspect(path: Path, host: str) -> list[Any]:
    return [("inspect", path), ("inspect", path, "--json")]


def inspect_remote(path: Path, host: str) -> list[Any]:
    image = f"{host}/x:1"
    pushed = ("push", path, "-t", image)
    return [pushed, ("inspect", image), ("inspect", image, "--json")]


def pull_for_docker(path: Path, host: str) -> list[Any]:
    out = path.with_name("p.tar")
    return [
        ("push", path, "-t", f"{host}/x:1"),
        ("pull", f"{host}/x:1", "-o", out, "--platform", "all"),
        ("push", out, "-t", f"{host}/z:1"),
    ]


WAYS: tuple[Callable[[Path, str], list[Any]], ...] = (
    *(dry_run, verify, copy, inspect),
    *(inspect_remote, pull_for_docker),
)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", WHOLE)
def test_every_command_takes_it(name, way, host, run_cli, tmp_path):
    contents = WHOLE[name]
    root = contents[0]
    files = layout(*contents, entries=[named(descriptor(of_type(root), root), "v1")])
    path = archives.tar(tmp_path / "a.tar", files)
    for words in way(path, host):
        done = run_here(words, run_cli.environment())
        assert done.returncode == 0, (words, done.stderr)
    if way in (copy, pull_for_docker):
        check(host, "z", contents)
    if way is inspect:
        (found,) = done.json["images"]
        assert found["tags"] == ["v1"] and found["digest"] == digest(root)


@pytest.mark.parametrize("name", ["a config {}", "a cache of BuildKit", "layers: null"])
def test_a_strict_registry_takes_it(name, run_cli, tmp_path):
    """Also ours: the children of an index may be blobs."""
    contents = WHOLE[name]
    root = contents[0]
    files = layout(*contents, entries=[named(descriptor(of_type(root), root), "v1")])
    path = archives.tar(tmp_path / "a.tar", files)
    with RegistryServer(Registry(tmp_path / "strict")) as server:
        target = f"{server.host}/x:1"
        done = run_here(("push", path, "-t", target), run_cli.environment())
        assert done.returncode == 0, done.stderr
        check(server.host, "x", contents)


def good() -> tuple[dict[str, Any], list[bytes]]:
    """An image that is whole: its entry, and its blobs."""
    made = archives.layout(GOOD)
    return named(made.entries[0], "good"), [
        content for content in made.blobs.values() if isinstance(content, bytes)
    ]


DAMAGED = manifest(GOOD.config, [descriptor(LAYER, b"absent")])
BROKEN: dict[str, tuple[dict[str, Any], tuple[bytes, ...]]] = {
    "a dangling line": (GONE, ()),
    "a layer that is not there": (descriptor(MANIFEST, DAMAGED), (DAMAGED,)),
    "a line without a digest": ({"mediaType": MANIFEST, "size": 3}, ()),
    "a digest of an unknown algorithm": ({**GONE, "digest": "blake3:" + "a" * 64}, ()),
    "what is no JSON": (descriptor(MANIFEST, PNG), (PNG,)),
    "an index with what is no JSON": (
        descriptor(INDEX, dump({"manifests": [descriptor(MANIFEST, PNG)]})),
        (dump({"manifests": [descriptor(MANIFEST, PNG)]}), PNG),
    ),
    "a cache without a layer": (descriptor(INDEX, CACHE), (CACHE,)),
    "a document that names what it needs": (
        descriptor("x/y", dump({"needs": GONE})),
        (dump({"needs": GONE}),),
    ),
}
"""What cannot be pushed itself, and what of it there is."""


def beside(name: str, *, tag: str = "") -> archives.Files:
    entry, blobs = good()
    odd, contents = BROKEN[name]
    odd = named(odd, tag) if tag else odd
    return layout(*blobs, *contents, entries=[entry, odd])


@pytest.mark.parametrize(("name", "form"), crossed(BROKEN, FORMS))
def test_the_image_beside_it_is_pushed_with_a_warning(
    name, form, host, run_cli, tmp_path
):
    files = beside(name)
    done = push(form, tmp_path / "a.tar", files, run_cli, "-t", f"{host}/{form}:1")
    assert done.returncode == 0, done.stderr
    assert "warning: left out: " in done.stderr
    assert digest(fetch(host, form, "manifests/1")) == good()[0]["digest"]
    strict = (*("-t", f"{host}/{form}:2"), "--strict")
    (tmp_path / "b").mkdir()
    done = push(form, tmp_path / "b" / "a.tar", files, run_cli, *strict)
    assert done.returncode == 6, done.stderr


@pytest.mark.parametrize(("name", "form"), crossed(BROKEN, FORMS))
def test_it_is_refused_when_it_is_asked_for(name, form, host, run_cli, tmp_path):
    files = beside(name, tag="odd")
    asked = ("-t", f"{host}/{form}:1", "--name", "odd")
    done = push(form, tmp_path / "a.tar", files, run_cli, *asked)
    assert done.returncode == 6, done.stderr
    assert "Traceback" not in done.stderr
    if form in ("pipe", "compressed"):
        return
    everything = ("push", "-a", tmp_path / "a.tar", "-t", f"{host}/all")
    done = run_here(everything, run_cli.environment())
    assert done.returncode == 7, done.stderr
    assert "a.tar:odd" in done.error
    assert digest(fetch(host, "all", "manifests/good")) == good()[0]["digest"]


@pytest.mark.parametrize("name", BROKEN)
def test_all_else_is_inspected_and_copied(name, host, run_cli, tmp_path):
    path = archives.tar(tmp_path / "a.tar", beside(name, tag="odd"))
    done = run_here(("inspect", path, "--json"), run_cli.environment())
    assert done.returncode == 0, done.stderr
    assert [one["tags"] for one in done.json["images"]] == [["good"]]
    assert [one["tags"] for one in done.json["broken"]] == [["odd"]]
    for words, code in (
        (("copy", f"oci-archive:{path}:good", f"oci:{tmp_path / 'out'}:good"), 0),
        (("copy", f"oci-archive:{path}:odd", f"oci:{tmp_path / 'out'}:odd"), 6),
        (("copy", "-a", f"oci-archive:{path}", f"oci:{tmp_path / 'all'}"), 7),
    ):
        done = run_here(words, run_cli.environment())
        assert done.returncode == code, (words, done.stderr)
    index = json.loads((tmp_path / "all" / "index.json").read_bytes())
    assert [one["digest"] for one in index["manifests"]] == [good()[0]["digest"]]


def test_what_is_nameless_and_no_image_is_left_out_with_a_note(host, run_cli, tmp_path):
    entry, blobs = good()
    odd = [descriptor("application/xml", XML), descriptor(ARTIFACT, THINGS)]
    files = layout(*blobs, XML, THINGS, PNG, entries=[entry, *odd])
    path = archives.tar(tmp_path / "a.tar", files)
    done = run_cli("push", path, "-t", f"{host}/x:1", "--strict")
    assert done.returncode == 0, done.stderr
    for raw in (XML, THINGS):
        assert f"note: left out, it has no name: {digest(raw)}" in done.stderr


def test_serve_leaves_out_what_is_broken(run_cli, tmp_path):
    path = archives.tar(tmp_path / "a.tar", beside("a dangling line", tag="odd"))
    child = run_cli.start("serve", path, "--port", "0", stdout=-1, stderr=-1)
    try:
        url = child.stdout.readline().decode().strip()
        with urllib.request.urlopen(f"{url}/v2/a/tags/list") as answer:
            assert json.loads(answer.read())["tags"] == ["good"]
    finally:
        child.terminate()
        stderr = child.communicate(timeout=20)[1].decode()
    assert "warning: not served: odd: " in stderr


@pytest.mark.parametrize("manifests", [None, []])
def test_an_image_saved_by_its_id_has_no_entry_in_index_json(
    manifests, host, run_cli, tmp_path
):
    """docker 25.0 writes ``"manifests": null`` then, and a good manifest.json."""
    files = archives.both(archives.layout(GOOD), GOOD)
    files["index.json"] = dump({"schemaVersion": 2, "manifests": manifests})
    path = archives.tar(tmp_path / "a.tar", files)
    done = run_cli("push", path, "-t", f"{host}/x:1")
    assert done.returncode == 0, done.stderr
    pushed = json.loads(fetch(host, "x", "manifests/1"))
    assert pushed["config"]["digest"] == digest(GOOD.config)


def test_one_entry_of_manifest_json_spoils_no_other(host, run_cli, tmp_path):
    other = Image.of("other", tags=("other:1",))
    files = archives.legacy(Image.of("good", tags=("good:1",)), other)
    del files[f"{archives.sha256(other.config)}.json"]
    path = archives.tar(tmp_path / "a.tar", files)
    assert run_cli("push", path, "-t", f"{host}/x:1").returncode == 0
    done = run_cli("push", path, "-t", f"{host}/x:1", "--name", "other:1")
    assert done.returncode == 6 and "other:1" in done.error
    done = run_cli("push", "-a", path, "--registry", host, "--yes")
    assert done.returncode == 7 and "other:1" in done.error
    assert fetch(host, "good", "manifests/1")


def test_one_name_is_refused_when_a_part_of_it_is_broken(host, run_cli, tmp_path):
    """Unless a platform is asked for, which is there."""
    entry, blobs = good()
    arm = {"os": "linux", "architecture": "arm64"}
    odd = {**named(GONE, "good"), "platform": arm}
    path = archives.tar(tmp_path / "a.tar", layout(*blobs, entries=[entry, odd]))
    for words in ((), ("--name", "good")):
        done = run_cli("push", path, "-t", f"{host}/x:1", *words)
        assert done.returncode == 6, done.stderr
    done = run_cli("push", path, "-t", f"{host}/x:1", "--platform", "linux/amd64")
    assert done.returncode == 0, done.stderr


def test_a_broken_entry_is_not_hidden_by_another_of_its_name(host, run_cli, tmp_path):
    same = [Image.of(text, tags=("same:1",)) for text in ("good", "bad")]
    files = archives.legacy(*same)
    del files[f"{archives.sha256(same[1].config)}.json"]
    path = archives.tar(tmp_path / "a.tar", files)
    done = run_cli("push", path, "-t", f"{host}/x:1")
    assert done.returncode == 6, done.stderr


def test_thousands_of_entries_take_no_time_together(run_cli, tmp_path):
    """Of which some are broken, and all have names."""
    entry, blobs = good()
    lines = [
        named({**GONE, "digest": f"sha256:{n:064x}"}, f"n{n}") for n in range(4000)
    ]
    path = archives.tar(tmp_path / "a.tar", layout(*blobs, entries=[entry, *lines]))
    done = run_cli("inspect", path, "--json", timeout=20)
    assert done.returncode == 0, done.stderr
    assert len(done.json["broken"]) == 4000


FIXED = Image.of("fixed", tags=("fixed:1",))
EDITED = FIXED.config.replace(b"/bin/sh", b"/bin/bash")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["legacy", "both"])
def test_a_config_that_was_edited_is_pushed_with_a_warning(
    kind, form, host, run_cli, tmp_path
):
    """As docker loads it; a strict push refuses."""
    if kind == "legacy":
        name = f"{archives.sha256(FIXED.config)}.json"
        files = archives.legacy(FIXED)
    else:
        name = archives.blob(FIXED.config)
        named = archives.layout(FIXED).annotated(name="docker.io/library/fixed:1")
        files = archives.both(named, FIXED)
    files = {**files, name: EDITED}
    done = push(form, tmp_path / "a.tar", files, run_cli, "-t", f"{host}/{form}:1")
    assert done.returncode == 0, done.stderr
    assert "warning: image 'fixed:1': its config was changed" in done.stderr
    pushed = json.loads(fetch(host, form, "manifests/1"))
    assert pushed["config"]["digest"] == digest(EDITED)
    (tmp_path / "b").mkdir()
    words = ("-t", f"{host}/{form}:2", "--strict")
    done = push(form, tmp_path / "b" / "a.tar", files, run_cli, *words)
    assert done.returncode == 6 and "its config was changed" in done.error
