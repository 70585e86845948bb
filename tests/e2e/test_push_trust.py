"""What a tag says of layers is not believed; what this machine made itself is.

Whoever may write a tag can name our config beside a layer of theirs. A push that took
that layer would publish it under a digest that people sign.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

import pytest
from archives import (
    LAYER,
    MANIFEST,
    Image,
    blob,
    descriptor,
    digest,
    dump,
    legacy,
    manifest_of,
    named_by_digest,
    packed,
    tar,
)
from registries import read_back

import dockerpush
from dockerpush.server import Registry, RegistryServer

FOREIGN = gzip.compress(b"a layer of somebody else", mtime=0)
NUMBERS = "".join(f"{number}\n" for number in range(3_000))
NOISE = b"".join(hashlib.sha256(b"%d" % n).digest() for n in range(3_000))
OURS = Image.of(NUMBERS, tags=("team/app:1",))
MIXED = Image((*OURS.layers, packed({"srv/noise": NOISE})), OURS.tags)
OTHER = Image.of(NUMBERS, tags=("team/app:1",), architecture="arm64")

WITHOUT_COMPRESSORS = """
import sys, zlib
from dockerpush.transfer import compress as codecs
def refuse(*words, **more): raise SystemExit("something was compressed")
codecs.GzipCodec.pack = codecs.ZstdCodec.pack = zlib.compress = refuse
from dockerpush.cli.main import main
raise SystemExit(main(sys.argv[1:]))
"""


@pytest.fixture
def embedded(tmp_path: Path):
    seen: list = []
    registry = Registry(tmp_path / "registry")
    with RegistryServer(registry, on_request=seen.append) as server:
        server.seen = seen
        yield server


def ask(host: str, method: str, path: str, body: bytes = b"", kind: str = "") -> Any:
    connection = http.client.HTTPConnection(host)
    connection.request(method, path, body, {"Content-Type": kind} if kind else {})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    assert answer.status < 300, (method, path, content)
    return content


def put_blob(host: str, repository: str, content: bytes) -> None:
    name = digest(content)
    ask(host, "POST", f"/v2/{repository}/blobs/uploads/?digest={name}", content)


def plant(
    host: str, repository: str, *, layer: bytes = FOREIGN, packing: str = "+gzip"
) -> None:
    """The tag ``1``: our config, whose diff_id is ours, beside *layer*."""
    for content in (OURS.config, layer):
        put_blob(host, repository, content)
    manifest = manifest_of(OURS, [layer], LAYER + packing)
    path = f"/v2/{repository}/manifests/1"
    ask(host, "PUT", path, manifest, MANIFEST)


def layers_of(host: str, repository: str, tag: str = "1") -> list[str]:
    """The digests of the layers under *tag*, of every platform."""
    found = json.loads(ask(host, "GET", f"/v2/{repository}/manifests/{tag}"))
    if "layers" in found:
        return [layer["digest"] for layer in found["layers"]]
    children = [entry["digest"] for entry in found["manifests"]]
    return [one for child in children for one in layers_of(host, repository, child)]


@dataclass(frozen=True)
class Way:
    """A command that pushes our image under ``REPOSITORY:1``."""

    push: Callable[..., Any]
    platforms: int = 1

    def __call__(self, run_cli, directory: Path, name: str, *more: str):
        done = self.push(run_cli, directory, name, *more)
        assert done.returncode == 0, done.stderr
        return done


def _file(run_cli, directory, name, *more):
    path = tar(directory / "ours.tar", legacy(OURS))
    return run_cli("push", path, "-t", f"{name}:1", "--json", *more)


def _pipe(run_cli, directory, name, *more):
    path = tar(directory / "ours.tar", named_by_digest(OURS))
    return run_cli("push", "-", "-t", f"{name}:1", "--json", *more, stdin=path)


def _packed_file(run_cli, directory, name, *more):
    path = tar(directory / "ours.tar", named_by_digest(OURS))
    smaller = directory / "ours.tar.gz"
    smaller.write_bytes(gzip.compress(path.read_bytes()))
    return run_cli("push", smaller, "-t", f"{name}:1", "--json", *more)


def _every_tag(run_cli, directory, name, *more):
    path = tar(directory / "ours.tar", legacy(OURS))
    return run_cli("push", path, "-a", "-t", name, "--json", *more)


def _joined(run_cli, directory, name, *more):
    paths = [
        tar(directory / f"{image.architecture}.tar", legacy(image))
        for image in (OURS, OTHER)
    ]
    return run_cli("push", *paths, "-t", f"{name}:1", "--json", *more)


def _copy(run_cli, directory, name, *more):
    path = tar(directory / "ours.tar", legacy(OURS))
    return run_cli("copy", path, f"{name}:1", "--json", *more)


WAYS = {
    "file": Way(_file),
    "pipe": Way(_pipe),
    "compressed file": Way(_packed_file),
    "every tag": Way(_every_tag),
    "joined": Way(_joined, platforms=2),
    "copy": Way(_copy),
}


@pytest.fixture(params=WAYS, ids=lambda name: name.replace(" ", "-"))
def way(request) -> Way:
    return WAYS[request.param]


def known(run_cli) -> str:
    """What ``blobs.json`` holds; "" when there is none."""
    path = run_cli.state / "blobs.json"
    return path.read_text() if path.exists() else ""


@pytest.mark.parametrize("packing", ["gzip", "zstd"])
def test_a_foreign_layer_under_the_tag_is_not_published(
    packing, way, tmp_path, embedded, run_cli
):
    plant(embedded.host, "team/app", packing=f"+{packing}")
    how = ("--compress", packing)
    done = way(run_cli, tmp_path, f"{embedded.host}/team/app", *how)
    assert digest(FOREIGN) not in layers_of(embedded.host, "team/app")
    assert digest(FOREIGN) not in known(run_cli)
    stored = read_back(embedded.host, "team/app", "1")
    assert stored.layers == stored.diff_ids
    elsewhere = way(run_cli, tmp_path, f"{embedded.host}/team/next", *how)
    run_cli.state = tmp_path / "another"
    empty = way(run_cli, tmp_path, f"{embedded.host}/team/empty", *how)
    assert done.json["digest"] == elsewhere.json["digest"] == empty.json["digest"]


def test_a_foreign_layer_is_taken_where_the_target_is_trusted_and_not_learned(
    way, tmp_path, embedded, run_cli
):
    plant(embedded.host, "team/app")
    name = f"{embedded.host}/team/app"
    done = way(run_cli, tmp_path, name, "--trust-target")
    assert layers_of(embedded.host, "team/app") == [digest(FOREIGN)] * way.platforms
    assert done.json["blobs"]["reused"] == way.platforms
    assert digest(FOREIGN) not in known(run_cli)
    way(run_cli, tmp_path, f"{embedded.host}/team/next")
    stored = read_back(embedded.host, "team/next", "1")
    assert stored.layers == stored.diff_ids


def test_a_dry_run_believes_no_more_than_the_push(tmp_path, embedded, run_cli):
    plant(embedded.host, "team/app")
    name = f"{embedded.host}/team/app"
    actions = [
        {one["action"] for one in _file(run_cli, tmp_path, name, *more).json["blobs"]}
        for more in (("--dry-run",), ("--dry-run", "--trust-target"))
    ]
    assert actions == [{"exists", "compress (gzip) and send"}, {"exists", "reused"}]


def test_a_library_push_trusts_only_when_asked(tmp_path, embedded):
    plant(embedded.host, "team/app")
    path = tar(tmp_path / "ours.tar", legacy(OURS))
    target = f"{embedded.host}/team/app:1"
    options = dockerpush.PushOptions(trust_target=True)
    dockerpush.push(path, target, plain_http=True, options=options)
    assert layers_of(embedded.host, "team/app") == [digest(FOREIGN)]
    dockerpush.push(path, target, plain_http=True)
    assert digest(FOREIGN) not in layers_of(embedded.host, "team/app")


def test_a_raw_layer_under_the_tag_does_not_decide_what_is_compressed(
    tmp_path, embedded, run_cli
):
    plant(embedded.host, "team/app", layer=OURS.layers[0], packing="")
    done = _file(run_cli, tmp_path, f"{embedded.host}/team/app")
    run_cli.state = tmp_path / "another"
    empty = _file(run_cli, tmp_path, f"{embedded.host}/team/empty")
    assert done.json["digest"] == empty.json["digest"]


def test_pairs_of_the_first_edition_are_dropped_without_a_word(
    tmp_path, embedded, run_cli
):
    """And its hints are kept: the config is mounted from where it was said to be."""
    put_blob(embedded.host, "team/app", FOREIGN)
    put_blob(embedded.host, "team/lender", OURS.config)
    pair = {"mediaType": "", "digest": digest(FOREIGN), "size": len(FOREIGN)}
    lender = [f"{embedded.host}/team/lender"]
    record = {
        "version": 1,
        "layers": {
            f"{name} {OURS.diff_ids[0]}": pair
            for name in ("gzip", "zstd", "gzip:zlib:1", "gzip:isal:1")
        },
        "holders": {digest(OURS.config): lender, digest(FOREIGN): lender},
    }
    run_cli.state.mkdir()
    (run_cli.state / "blobs.json").write_text(json.dumps(record))
    done = _file(run_cli, tmp_path, f"{embedded.host}/team/app")
    assert not {"warning", "note"} & set(done.stderr.replace(":", " ").split())
    assert done.json["blobs"] == {"uploaded": 1, "mounted": 1}
    stored = read_back(embedded.host, "team/app", "1")
    assert stored.layers == stored.diff_ids
    after = json.loads(known(run_cli))
    assert after["version"] == 2
    assert [pair["digest"] for pair in after["layers"].values()] == stored.blobs


def test_a_layer_that_an_archive_holds_compressed_stands_for_no_other(
    tmp_path, embedded, run_cli
):
    """Its config says what is in it: that is the archive's word."""
    manifest = manifest_of(OURS, [FOREIGN], LAYER + "+gzip")
    index = {"schemaVersion": 2, "manifests": [descriptor(MANIFEST, manifest)]}
    files = {
        "oci-layout": dump({"imageLayoutVersion": "1.0.0"}),
        "index.json": dump(index),
        **{blob(content): content for content in (OURS.config, FOREIGN, manifest)},
    }
    theirs = tar(tmp_path / "theirs.tar", files)
    pushed = run_cli("push", theirs, "-t", f"{embedded.host}/theirs:1")
    assert pushed.returncode == 0, pushed.stderr
    assert _file(run_cli, tmp_path, f"{embedded.host}/ours").returncode == 0
    assert digest(FOREIGN) not in layers_of(embedded.host, "ours")


@pytest.mark.parametrize("compress", ["auto", "gzip", "zstd"])
@pytest.mark.parametrize("tag", ["1", "2"], ids=["the same tag", "another tag"])
def test_a_machine_without_history_sends_nothing_twice(
    compress, tag, tmp_path, embedded, run_cli
):
    path = tar(tmp_path / "image.tar", legacy(MIXED))
    how = ("--json", "--compress", compress)
    target = f"{embedded.host}/team/app"
    first = run_cli("push", path, "-t", f"{target}:1", *how)
    assert first.json["blobs"] == {"uploaded": 3}, first.stderr
    run_cli.state = tmp_path / "another"
    embedded.seen.clear()
    second = run_cli("push", path, "-t", f"{target}:{tag}", *how)
    assert second.json["blobs"] == {"exists": 3}, second.stderr
    assert second.json["bytes"] == 0
    assert second.json["digest"] == first.json["digest"]
    methods = {one.method for one in embedded.seen}
    assert not methods & {"POST", "PATCH"}, "no upload was begun"


@pytest.mark.parametrize("compress", ["auto", "gzip", "zstd"])
def test_what_this_machine_has_pushed_is_not_compressed_again(
    compress, tmp_path, embedded, run_cli
):
    """Not even a sample of a layer that does not shrink."""
    path = tar(tmp_path / "image.tar", legacy(MIXED))
    words = ["push", path, "-t", f"{embedded.host}/app:1", "--compress", compress]
    first = run_cli(*words, "--json")
    assert first.returncode == 0, first.stderr
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_COMPRESSORS, *map(str, words), "--json"],
        env={**run_cli.environment(), "PYTHONPATH": str(Path(__file__).parents[2])},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    again = json.loads(done.stdout)
    assert again["bytes"] == 0
    assert again["digest"] == first.json["digest"]


def test_one_look_at_the_old_image_stands_for_many_at_blobs(
    tmp_path, embedded, run_cli
):
    """A machine that has lost its memory knows the config alone before it reads."""
    target = f"{embedded.host}/team/app"
    _file(run_cli, tmp_path, target)
    for state, heads in (("another", 1), ("another", 0)):
        run_cli.state = tmp_path / state
        embedded.seen.clear()
        _file(run_cli, tmp_path, target)
        methods = [one.method for one in embedded.seen]
        assert methods.count("GET") == 1
        assert methods.count("HEAD") == heads
        assert methods.count("POST") == 0


def test_a_copy_that_compresses_nothing_refuses_to_trust(tmp_path, embedded, run_cli):
    plant(embedded.host, "team/app")
    source = f"{embedded.host}/team/app:1"
    for target in (f"{embedded.host}/team/next:1", "out.tar"):
        done = run_cli("copy", source, target, "--trust-target")
        assert done.returncode == 2
        assert done.error.startswith("error: --trust-target")
