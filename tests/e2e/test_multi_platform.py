"""Images for several platforms, pushed whole, narrowed, or as far as they are there."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import archives
import pytest
from copied import assert_whole, read
from images import digest_of, small_archive, tar_of
from inprocess import run_here
from multiplatform import (
    finish,
    write_attestation,
    write_blob,
    write_image,
    write_index,
    write_layout,
    write_manifest,
)
from pushed import fetch
from registries import run

from dockerpush.oci import OCI_LAYER, OCI_MANIFEST
from dockerpush.server import Registry, RegistryServer


@pytest.fixture
def host(tmp_path: Path):
    with RegistryServer(Registry(tmp_path / "registry")) as server:
        yield server.host


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    return tmp_path / "layout"


def archived(layout: Path) -> Path:
    """*layout* as an oci-archive."""
    path = layout.with_suffix(".tar")
    with tarfile.open(path, "w") as tar:
        for file in sorted(layout.rglob("*")):
            tar.add(file, file.relative_to(layout), recursive=False)
    return path


def blob_path(layout: Path, descriptor: dict[str, Any]) -> Path:
    return layout / "blobs/sha256" / descriptor["digest"][7:]


def children(layout: Path, descriptor: dict[str, Any]) -> list[dict[str, Any]]:
    return json.loads(blob_path(layout, descriptor).read_bytes())["manifests"]


def files_of(layout: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in layout.glob("blobs/sha256/*")}


def fetched(source: str, directory: Path) -> dict[str, bytes]:
    """Every blob and manifest of *source*, as skopeo reads it."""
    run(
        *("skopeo", "--insecure-policy", "copy", "-q", "--all", "--preserve-digests"),
        *("--src-tls-verify=false", f"docker://{source}", f"oci:{directory}:1"),
    )
    return files_of(directory)


@pytest.mark.parametrize("form", ["directory", "archive"])
def test_an_index_is_pushed_whole_with_its_attestation(
    form, layout, host, run_cli, tmp_path
):
    root = write_layout(layout)
    source = layout if form == "directory" else archived(layout)
    done = run_cli("push", source, "-t", f"{host}/app:1", "--json")
    assert done.returncode == 0, done.stderr
    assert done.json["digest"] == root["digest"]
    assert fetched(f"{host}/app:1", tmp_path / "back") == files_of(layout)


def test_nested_indexes_keep_their_digests(layout, host, run_cli, tmp_path):
    inner = write_index(layout, [write_image(layout, "arm64")])
    root = write_index(layout, [write_image(layout, "amd64"), inner])
    finish(layout, root)
    done = run_cli("push", layout, "-t", f"{host}/app:1", "--json")
    assert done.json["digest"] == root["digest"]
    for digest in (root["digest"], inner["digest"]):
        shown = run_cli("inspect", "--raw", f"{host}/app@{digest}")
        stored = layout / "blobs/sha256" / digest[7:]
        assert shown.stdout.encode() == stored.read_bytes()


def test_children_are_stored_before_the_index_that_names_them(layout, tmp_path):
    """The registry refuses an index with absent children, so the order is visible."""
    from dockerpush import push

    root = write_layout(layout)
    stored: list[str] = []

    def note(served: Any) -> None:
        if served.method == "PUT" and "/manifests/" in served.path:
            stored.append(served.path.rpartition("/")[2])

    registry = Registry(tmp_path / "registry")
    with RegistryServer(registry, on_request=note) as server:
        push(layout, f"{server.host}/app:1")
    names = [child["digest"] for child in children(layout, root)]
    assert sorted(stored[:-1]) == sorted(names)
    assert stored[-1] == "1"


def test_one_platform_keeps_the_digest_of_its_manifest(layout, host, run_cli):
    root = write_layout(layout)
    arm = children(layout, root)[1]
    target = f"{host}/app:1"
    done = run_cli("push", layout, "-t", target, "--platform", "linux/arm64", "--json")
    assert done.json["digest"] == arm["digest"]


def test_two_of_three_platforms_make_an_index_of_two(layout, host, run_cli):
    names = ("amd64", "arm64", "s390x")
    root = write_index(layout, [write_image(layout, name) for name in names])
    finish(layout, root)
    done = run_cli(
        *("push", layout, "-t", f"{host}/app:1"),
        *("--platform", "linux/amd64", "--platform", "linux/s390x"),
    )
    assert done.returncode == 0, done.stderr
    shown = run_cli("inspect", f"{host}/app:1", "--json").json["images"]
    assert [image["platform"] for image in shown] == ["linux/amd64", "linux/s390x"]


def test_an_unknown_platform_is_not_found_and_nothing_is_stored(layout, host, run_cli):
    write_layout(layout)
    target = f"{host}/app:1"
    done = run_cli("push", layout, "-t", target, "--platform", "linux/riscv64")
    assert done.returncode == 4
    assert "linux/amd64" in done.error
    assert run_cli("digest", target).returncode == 4


class TestNoImageForThisPlatform:
    """The same words and exit 4 in each command, whether an index or not is asked."""

    @pytest.fixture(params=["index", "image"])
    def foreign(self, request, layout, host, run_cli) -> str:
        """An image in the registry for s390x, and for arm64 if it is an index."""
        images = [write_image(layout, name) for name in ("s390x", "arm64")]
        index = {**write_index(layout, images)}
        finish(layout, index if request.param == "index" else images[0])
        reference = f"{host}/foreign:1"
        assert run_cli("push", layout, "-t", reference).returncode == 0
        return reference

    @pytest.mark.parametrize(
        "line",
        [
            "pull {image}",
            "pull {image} -o {out}",
            "copy {image} docker-archive:{out}",
            "copy {image} oci:{out}",
            "copy {image} {host}/other:1",
            "sync {list} {host}/other",
            "inspect {image}",
            "digest {image}",
            "push {layout} -t {host}/other:1",
        ],
    )
    def test_it_names_those_that_there_are(
        self, line, foreign, layout, host, run_cli, tmp_path
    ):
        out = tmp_path / "out"
        listed = tmp_path / "list"
        listed.write_text(f"{foreign}\n")
        names = {"image": foreign, "host": host, "layout": layout, "list": listed}
        words = [word.format(out=out, **names) for word in line.split()]
        done = run_here([*words, "--platform", "linux/amd64"], run_cli.environment())
        assert done.returncode == (7 if words[0] == "sync" else 4), done.stderr
        there = (
            "linux/s390x" if "arm64" not in done.stderr else "linux/arm64, linux/s390x"
        )
        said = f"holds no image for linux/amd64, only for {there}; choose one of these"
        assert said in done.stderr
        assert not out.exists()

    def test_an_archive_for_docker_takes_all_if_told_so(
        self, foreign, run_cli, tmp_path
    ):
        out = tmp_path / "out.tar"
        done = run_cli("pull", foreign, "-o", out)
        if done.returncode:  # an index, of which one image would be taken
            assert done.returncode == 4
            assert "with --platform, or all with --platform all" in done.error
            assert not out.exists()
            done = run_cli("pull", foreign, "-o", out, "--platform", "all")
        assert done.returncode == 0, done.stderr
        assert run_cli("verify", out, foreign).returncode == 0


@pytest.fixture
def incomplete(layout: Path) -> tuple[Path, list[dict[str, Any]]]:
    """A layout of which the arm64 image was left out, as containerd's save does."""
    images = [write_image(layout, name) for name in ("amd64", "arm64")]
    attestations = [write_attestation(layout, image) for image in images]
    finish(layout, write_index(layout, [*images, *attestations]))
    manifest = json.loads(blob_path(layout, images[1]).read_bytes())
    blob_path(layout, manifest["layers"][1]).unlink()
    return layout, images


def test_what_is_complete_is_pushed_and_the_rest_is_named(incomplete, host, run_cli):
    layout, images = incomplete
    done = run_cli("push", layout, "-t", f"{host}/app:1", "--json")
    assert done.returncode == 0, done.stderr
    assert f"left out: linux/arm64 {images[1]['digest'][7:19]}" in done.stderr
    shown = run_cli("inspect", f"{host}/app:1", "--json").json["images"]
    digests = [image["digest"] for image in shown]
    assert images[0]["digest"] in digests
    assert images[1]["digest"] not in digests


def test_an_incomplete_platform_that_was_asked_for_is_not_left_out(
    incomplete, host, run_cli
):
    layout, _ = incomplete
    target = f"{host}/app:1"
    both = ("--platform", "linux/amd64", "--platform", "linux/arm64")
    done = run_cli("push", layout, "-t", target, *both)
    assert done.returncode == 6
    assert "linux/arm64: layer " in done.error
    assert run_cli("digest", target).returncode == 4


def test_strict_fails_instead_and_names_what_is_missing(incomplete, host, run_cli):
    layout, _ = incomplete
    target = f"{host}/app:1"
    done = run_cli("push", layout, "-t", target, "--strict")
    assert done.returncode == 6
    assert "incomplete: layer " in done.error
    assert run_cli("digest", target).returncode == 4


def test_a_child_that_was_changed_is_refused(layout, host, run_cli):
    root = write_layout(layout)
    path = blob_path(layout, children(layout, root)[0])
    path.write_bytes(path.read_bytes().replace(b'"schemaVersion"', b'"schemaversion"'))
    done = run_cli("push", layout, "-t", f"{host}/app:1")
    assert done.returncode == 6
    assert run_cli("digest", f"{host}/app:1").returncode == 4


def test_a_list_that_buildah_made_goes_as_it_is(host, run_cli, tmp_path):
    source = listed_by_buildah(tmp_path)
    (entry,) = json.loads((source / "index.json").read_text())["manifests"]
    done = run_cli("push", source, "-t", f"{host}/app:1", "--json")
    assert done.returncode == 0, done.stderr
    assert done.json["digest"] == entry["digest"]
    assert fetched(f"{host}/app:1", tmp_path / "back") == files_of(source)


def listed_by_buildah(directory: Path) -> Path:
    """A layout of a list that buildah made of two images, and pushed into it."""
    short = tempfile.mkdtemp(prefix="buildah", dir="/tmp")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(directory),
        "TMPDIR": os.environ["TMPDIR"],
        "XDG_RUNTIME_DIR": short,
    }
    policy = directory / ".config/containers/policy.json"
    policy.parent.mkdir(parents=True)
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    buildah = ["buildah", "--root", directory / "root", "--runroot", short]
    buildah += ["--storage-driver", "vfs"]
    try:
        run(*buildah, "manifest", "create", "list", env=environment)
        for name in ("amd64", "arm64"):
            finish(directory / name, write_image(directory / name, name))
            image = f"oci:{directory / name}:v1"
            run(*buildah, "manifest", "add", "list", image, env=environment)
        out = directory / "listed"
        push = ("manifest", "push", "--all", "-f", "oci", "list", f"oci:{out}:1")
        run(*buildah, *push, env=environment)
    finally:
        shutil.rmtree(short, ignore_errors=True)
        shutil.rmtree(directory / "root", ignore_errors=True)
    return out


@pytest.fixture
def single(tmp_path: Path) -> list[Path]:
    """An archive for amd64 and one for arm64, which share a layer."""
    paths = []
    for name in ("amd64", "arm64"):
        finish(tmp_path / name, write_image(tmp_path / name, name))
        paths.append(archived(tmp_path / name))
    return paths


def test_archives_for_one_platform_each_are_joined(single, host, run_cli, tmp_path):
    target = f"{host}/app:1"
    done = run_cli("push", *single, "-t", target, "--json", "--verify")
    assert done.returncode == 0, done.stderr
    assert done.json["mediaType"] == "application/vnd.oci.image.index.v1+json"
    shown = run_cli("inspect", target, "--json").json
    assert shown["digest"] == done.json["digest"]
    platforms = [image["platform"] for image in shown["images"]]
    assert platforms == ["linux/amd64", "linux/arm64"]
    back = fetched(target, tmp_path / "back")
    for name in platforms:
        stored = files_of(tmp_path / name.partition("/")[2])
        assert stored.items() <= back.items()


def test_joining_again_gives_the_same_digest_and_sends_nothing(single, host, run_cli):
    target = f"{host}/app:1"
    runs = [run_cli("push", *single, "-t", target, "--json").json for _ in range(2)]
    assert runs[0]["digest"] == runs[1]["digest"]
    assert runs[1]["bytes"] == 0


def test_docker_archives_are_joined_and_compressed(host, run_cli, tmp_path):
    paths = [tmp_path / "one.tar", tmp_path / "two.tar"]
    for path in paths:
        small_archive(path)
    paths[1].write_bytes(paths[1].read_bytes().replace(b'"amd64"', b'"arm65"'))
    done = run_cli("push", *paths, "-t", f"{host}/app:1")
    assert done.returncode == 0, done.stderr
    shown = run_cli("inspect", f"{host}/app:1", "--json").json["images"]
    platforms = [image["platform"] for image in shown]
    assert platforms == ["linux/amd64", "linux/arm65"]


def test_the_same_platform_twice_is_refused_before_anything_is_sent(
    single, host, run_cli
):
    done = run_cli("push", single[0], single[0], "-t", f"{host}/app:1")
    assert done.returncode == 2
    assert "linux/amd64" in done.error
    assert run_cli("digest", f"{host}/app:1").returncode == 4


@pytest.fixture
def halves(tmp_path: Path) -> list[Path]:
    """Two layouts of one index, as containerd saves it on two machines."""
    layouts = []
    for gone in (1, 0):
        layout = tmp_path / f"half{gone}"
        images = [write_image(layout, name) for name in ("amd64", "arm64")]
        attestations = [write_attestation(layout, image) for image in images]
        finish(layout, write_index(layout, [*images, *attestations]))
        manifest = blob_path(layout, images[gone])
        blob_path(layout, json.loads(manifest.read_bytes())["layers"][1]).unlink()
        if gone:
            manifest.unlink()
        layouts.append(layout)
    return layouts


def entries_of(run_cli, target: str) -> list[dict[str, Any]]:
    return json.loads(run_cli("inspect", "--raw", target).stdout)["manifests"]


def test_halves_of_an_index_are_joined_into_the_whole(halves, host, run_cli):
    """What one lacks is named, and does not collide with what the other holds."""
    target = f"{host}/app:1"
    packed = halves[1].with_suffix(".tar.gz")
    packed.write_bytes(gzip.compress(archived(halves[1]).read_bytes()))
    done = run_cli("push", halves[0], packed, "-t", target, "--verify")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("not in the archive, left out: linux/") == 2
    entries = entries_of(run_cli, target)
    names = [entry["platform"]["architecture"] for entry in entries]
    assert names == ["amd64", "unknown", "arm64", "unknown"]
    for image, attestation in (entries[:2], entries[2:]):
        subject = attestation["annotations"]["vnd.docker.reference.digest"]
        assert subject == image["digest"]


def test_strict_refuses_to_join_half_an_index_and_names_the_archive(
    halves, host, run_cli
):
    done = run_cli("push", *halves, "-t", f"{host}/app:1", "--strict")
    assert done.returncode == 6
    assert f"{halves[0]}: the archive is incomplete: manifest" in done.error
    assert run_cli("digest", f"{host}/app:1").returncode == 4


def test_the_name_of_an_archive_is_not_written_into_the_index(single, host, run_cli):
    run_cli("push", *single, "-t", f"{host}/app:1")
    for entry in entries_of(run_cli, f"{host}/app:1"):
        assert "annotations" not in entry


@pytest.mark.parametrize("also", [[], ["more.tar"]], ids=["one", "joined"])
def test_what_was_narrowed_is_verified(also, layout, host, run_cli, tmp_path):
    """Nobody expects the platforms that were left out to be there."""
    write_layout(layout)
    sources = [layout, *(other(tmp_path / name, "sparc") for name in also)]
    target = ("-t", f"{host}/app:1", "--platform", "linux/arm64", "--verify")
    done = run_cli("push", *sources, *target)
    assert done.returncode == 0, done.stderr
    assert "verified" in done.stderr


def test_the_best_variant_of_all_archives_is_joined(host, run_cli, tmp_path):
    paths = []
    for variant in ("v6", "v7"):
        path = tmp_path / variant
        image = write_image(path, "arm")
        image["platform"] = {**image["platform"], "variant": variant}
        finish(path, image)
        paths.append(path)
    more = other(tmp_path / "more.tar", "sparc")
    for wanted, found in (("v7", "v7"), ("v6", "v6"), ("v8", "v7")):
        done = run_cli(
            *("push", *paths, more, "-t", f"{host}/app:1"),
            *("--platform", f"linux/arm/{wanted}", "--platform", "linux/sparc"),
        )
        assert done.returncode == 0, done.stderr
        platforms = [
            entry["platform"] for entry in entries_of(run_cli, f"{host}/app:1")
        ]
        assert [one.get("variant") for one in platforms] == [found, None]


def other(path: Path, architecture: str) -> Path:
    """A docker-archive for *architecture*, of five letters."""
    small_archive(path)
    changed = path.read_bytes().replace(b'"amd64"', f'"{architecture}"'.encode())
    path.write_bytes(changed)
    return path


def test_an_archive_for_several_is_joined_with_its_attestations(
    layout, host, run_cli, tmp_path
):
    """All that the index names goes into the joined one, as it was."""
    root = write_layout(layout)
    own = children(layout, root)
    more = other(tmp_path / "more.tar", "sparc")
    done = run_cli("push", layout, more, "-t", f"{host}/app:1", "--json")
    assert done.returncode == 0, done.stderr
    raw = run_cli("inspect", f"{host}/app:1", "--raw").stdout
    entries = json.loads(raw)["manifests"]
    assert entries[: len(own)] == own
    assert entries[-1]["platform"]["architecture"] == "sparc"


def test_platforms_of_archives_that_are_joined_are_narrowed(
    layout, host, run_cli, tmp_path
):
    write_layout(layout)
    more = other(tmp_path / "more.tar", "sparc")
    target = ("-t", f"{host}/app:1")
    wanted = ("--platform", "linux/amd64", "--platform", "linux/sparc")
    done = run_cli("push", layout, more, *target, *wanted)
    assert done.returncode == 0, done.stderr
    shown = run_cli("inspect", f"{host}/app:1", "--json").json["images"]
    assert [image["platform"] for image in shown] == ["linux/amd64", "linux/sparc"]
    refused = run_cli("push", layout, more, *target, "--platform", "linux/s390x")
    assert refused.returncode == 4
    assert "linux/s390x" in refused.error


def test_a_dry_run_of_a_join_looks_at_each_archive(single, host, run_cli):
    join = ("push", *single, "-t", f"{host}/app:1", "--dry-run")
    done = run_cli(*join)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("would send at most") == 2
    assert f"{single[1]}: linux/arm64" in done.stdout
    records = [
        json.loads(line) for line in run_cli(*join, "--json").stdout.splitlines()
    ]
    assert [record["source"] for record in records] == list(map(str, single))
    assert run_cli("digest", f"{host}/app:1").returncode == 4


def test_archives_may_stand_on_both_sides_of_an_option(single, host, run_cli):
    one, two = single
    done = run_cli("push", one, "-t", f"{host}/app:1", two)
    assert done.returncode == 0, done.stderr
    shown = run_cli("inspect", f"{host}/app:1", "--json").json["images"]
    assert len(shown) == 2
    wrong = run_cli("push", one, "-t", f"{host}/app:1", two, "--nonsense")
    assert wrong.returncode == 2 and "--nonsense" in wrong.stderr


def test_an_older_variant_of_a_platform_will_do(layout, host, run_cli):
    write_layout(layout)
    done = run_cli(
        "push", layout, "-t", f"{host}/app:1", "--platform", "linux/arm64/v9"
    )
    assert done.returncode == 0, done.stderr
    assert (
        run_cli("inspect", f"{host}/app:1", "--json")
        .json["images"][0]["platform"]
        .startswith("linux/arm64")
    )


def test_without_a_target_each_archive_is_its_own_push(host, run_cli, tmp_path):
    paths = []
    for name in ("one", "two"):
        path = tmp_path / f"{name}.tar"
        paths.append(small_archive(path, names=[f"team/{name}:1"]))
    done = run_cli("push", *paths, "--registry", f"{host}/here", "-a", "--yes")
    assert done.returncode == 0, done.stderr
    for name in ("one", "two"):
        assert run_cli("digest", f"{host}/here/team/{name}:1").returncode == 0


def test_one_bad_archive_of_several_does_not_stop_the_others(host, run_cli, tmp_path):
    good = small_archive(tmp_path / "good.tar", names=["team/good:1"])
    absent = tmp_path / "absent.tar"
    done = run_cli("push", absent, good, "--registry", host, "-a", "--yes")
    assert done.returncode == 7
    assert "absent.tar" in done.error
    assert run_cli("digest", f"{host}/team/good:1").returncode == 0


def test_what_was_left_out_on_purpose_is_not_missed_by_verify(layout, host, run_cli):
    """A raw layer is compressed, so its image has another digest than attested."""
    layer = tar_of({"words": b"words " * 50_000})
    found = write_blob(layout, "application/vnd.oci.image.layer.v1.tar", layer)
    platform = {"architecture": "amd64", "os": "linux"}
    rootfs = {"type": "layers", "diff_ids": [found["digest"]]}
    image = write_manifest(layout, {**platform, "rootfs": rootfs}, [found])
    image["platform"] = platform
    about = write_attestation(layout, image)
    finish(layout, write_index(layout, [image, about]))
    done = run_cli("push", layout, "-t", f"{host}/app:1", "--verify")
    assert done.returncode == 0, done.stderr
    assert "left out" in done.stderr
    looked = run_cli("push", layout, "-t", f"{host}/app:2", "--dry-run")
    assert looked.returncode == 0 and "left out" in looked.stderr


def test_what_follows_two_dashes_is_an_archive(single, host, run_cli):
    done = run_cli("push", single[0], "-t", f"{host}/app:1", "--", single[1])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("source", ["file", "directory", "gzip", "pipe", "copy"])
def test_every_command_leaves_the_same_of_an_index(source, host, run_cli, tmp_path):
    """Images in the order of the index, their attestations, what the index says."""
    names = ("amd64", "arm64", "s390x")
    images = [archives.Image.of(name, architecture=name) for name in names]
    makers = (archives.layout, archives.attestation)
    parts = [make(image) for image in images for make in makers]
    blobs = {name: content for part in parts for name, content in part.blobs.items()}
    entries = [entry for part in parts for entry in part.entries]
    record = {"schemaVersion": 2, "mediaType": archives.INDEX, "manifests": entries}
    index = archives.dump({**record, "annotations": {"org.example": "kept"}})
    whole = archives.Layout(
        {**blobs, archives.blob(index): index},
        (archives.descriptor(archives.INDEX, index),),
    )
    files = whole.annotated(ref="1").files()
    path = archives.tar(tmp_path / "all.tar", files)
    origin = f"{host}/{source}/origin:1"
    assert run_cli("push", path, "-t", origin).returncode == 0
    options = ("--platform", "linux/s390x", "--platform", "linux/amd64", "--json")
    wanted = run_cli("copy", origin, f"{host}/{source}/wanted:1", *options).json
    packed = tmp_path / "all.tar.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    words = {
        "file": ("push", path, "-t"),
        "directory": ("push", archives.folder(tmp_path / "all", files), "-t"),
        "gzip": ("push", packed, "-t"),
        "pipe": ("push", "-", "-t"),
        "copy": ("copy", path),
    }[source]
    target = f"{host}/{source}/part:1"
    verify = () if source in ("pipe", "copy") else ("--verify",)
    done = run_cli(*words, target, *options, *verify, stdin=path)
    assert done.returncode == 0, done.stderr
    assert done.json["digest"] == wanted["digest"]
    stored = json.loads(fetch(host, f"{source}/part", "manifests/1"))
    assert stored["annotations"] == {"org.example": "kept"}
    kept = [entries[place]["digest"] for place in (0, 1, 4, 5)]
    assert [entry["digest"] for entry in stored["manifests"]] == kept


def shared_blob(layout: Path, order: tuple[str, ...]) -> dict[str, Any]:
    """An index of an image and an artifact that have a raw tar in common.

    For the artifact it is a file, and no layer; its descriptor.
    """
    tar = tar_of({"text": b"shrinks well " * 20_000})
    diff_ids = [digest_of(tar)]
    platform = {"os": "linux", "architecture": "amd64"}
    config = {**platform, "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    layer = write_blob(layout, OCI_LAYER, tar)
    image = {**write_manifest(layout, config, [layer]), "platform": platform}
    empty = write_blob(layout, "application/vnd.oci.empty.v1+json", b"{}")
    record = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": "application/x-thing",
        "config": empty,
        "layers": [{**layer, "mediaType": "application/x-tar"}],
    }
    artifact = write_blob(layout, OCI_MANIFEST, json.dumps(record).encode())
    children = {"image": image, "artifact": artifact}
    finish(layout, write_index(layout, [children[name] for name in order]))
    return artifact


@pytest.mark.parametrize("order", [("image", "artifact"), ("artifact", "image")])
@pytest.mark.parametrize("form", ["directory", "file", "gzip", "pipe"])
@pytest.mark.parametrize("how", ["--compress=auto", "--compress=gzip"])
def test_a_file_of_an_artifact_stays_though_it_is_a_layer_elsewhere(
    order, form, how, layout, host, run_cli, tmp_path
):
    artifact = shared_blob(layout, order)
    source: Any = layout
    if form != "directory":
        source = archived(layout)
    if form == "gzip":
        run("gzip", source)
        source = f"{source}.gz"
    stdin = Path(source).read_bytes() if form == "pipe" else None
    word = "-" if form == "pipe" else source
    done = run_cli("push", word, "-t", f"{host}/both:1", how, stdin=stdin)
    assert done.returncode == 0, done.stderr
    index = json.loads(read(host, "both", "1"))
    assert artifact["digest"] in [child["digest"] for child in index["manifests"]]
    assert_whole(host, "both", read(host, "both", "1"))
