"""``pull`` and ``cache``: from real registries into the cache, archives, and back."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import archives
import pytest
from archives import Image
from faultproxy import Effect, Fault, FaultProxy
from images import docker_archive, small_archive, tar_of
from waiting import wait_for

from dockerpush.archive import open_archive
from dockerpush.server import Registry, RegistryServer


@pytest.fixture
def embedded(tmp_path: Path):
    with RegistryServer(Registry(tmp_path / "registry")) as server:
        yield server


@pytest.fixture
def pushed(tmp_path: Path, embedded, run_cli):
    """A reference in the embedded registry, and the digest of its manifest."""
    archive = small_archive(tmp_path / "image.tar")
    reference = f"{embedded.host}/app:1"
    return reference, push(run_cli, archive, reference)


@pytest.fixture
def index(tmp_path: Path, embedded, run_cli):
    """An index of two platforms with an attestation, and its digest."""
    layouts = [
        archives.layout(Image.of("amd64")),
        archives.layout(Image.of("arm64", architecture="arm64")),
        archives.attestation(Image.of("amd64")),
    ]
    blobs = {name: raw for layout in layouts for name, raw in layout.blobs.items()}
    entries = tuple(entry for layout in layouts for entry in layout.entries)
    whole = archives.nested(archives.Layout(blobs, entries))
    archive = archives.tar(tmp_path / "index.tar", whole.files())
    reference = f"{embedded.host}/many:1"
    return reference, push(run_cli, archive, reference)


GENTLE_CUT = (Effect.CUT_ANSWER, "GET", "blob")
"""With reset=False: a reset would also take what the kernel has not handed over yet."""


def push(run_cli, source, reference, *more) -> str:
    done = run_cli("push", source, "-t", reference, "--json", *more)
    assert done.returncode == 0, done.stderr
    return str(done.json["digest"])


def pull(run_cli, *arguments):
    done = run_cli("pull", *arguments)
    assert done.returncode == 0, done.stderr
    return done


def blobs_of(run_cli) -> list[Path]:
    return sorted((run_cli.state / "cache" / "blobs").glob("*/*"))


def left_over(directory: Path) -> list[str]:
    return [path.name for path in directory.rglob("*.part")]


@pytest.mark.parametrize("output", ["image.tar", "image.oci.tar", "layout/", "-"])
def test_what_is_pulled_and_pushed_again_has_the_same_digest(
    output, pushed, embedded, run_cli, tmp_path
):
    reference, digest = pushed
    if output == "-":
        source = tmp_path / "piped.tar"
        with source.open("wb") as file:
            child = run_cli.start("pull", reference, "-o", "-", "-q", stdout=file)
            assert child.wait(60) == 0
    else:
        source = tmp_path / output
        pull(run_cli, reference, "-o", f"{tmp_path}/{output}")
    assert left_over(tmp_path) == []
    again = f"{embedded.host}/again:1"
    assert push(run_cli, source, again, "--compress", "none") == digest


def test_an_image_goes_from_one_registry_to_another_byte_for_byte(
    pushed, docker_registry, run_cli
):
    reference, digest = pushed
    target = f"{docker_registry.host}/copy:1"
    assert push(run_cli, reference, target) == digest
    assert f"pulled {reference}" not in run_cli("push", reference, "-t", target).stderr


def test_an_image_of_the_cache_is_pushed_when_its_registry_is_gone(
    tmp_path, docker_registry, run_cli
):
    with RegistryServer(Registry(tmp_path / "source")) as source:
        reference = f"{source.host}/app:1"
        digest = push(run_cli, small_archive(tmp_path / "image.tar"), reference)
        pull(run_cli, reference)
    assert push(run_cli, reference, f"{docker_registry.host}/app:1") == digest


def test_an_index_is_pulled_whole_and_pushed_whole(
    index, docker_registry, run_cli, tmp_path
):
    reference, digest = index
    done = pull(run_cli, reference, "--json")
    assert done.json["digest"] == digest
    assert push(run_cli, reference, f"{docker_registry.host}/many:1") == digest
    pull(run_cli, reference, "--platform", "all", "-o", f"{tmp_path}/many.tar")
    source = tmp_path / "many.tar"
    assert push(run_cli, source, f"{docker_registry.host}/many:2") == digest


def test_a_docker_archive_holds_the_image_for_amd64_by_default(
    index, run_cli, tmp_path
):
    reference, _ = index
    pull(run_cli, reference, "-o", tmp_path / "a.tar")
    pull(run_cli, reference, "-o", tmp_path / "b.tar", "--platform", "linux/arm64/v8")
    found = []
    for name in ("a.tar", "b.tar"):
        with open_archive(tmp_path / name) as archive:
            (image,) = archive.images
            assert image.names == (reference,)
            found.append(image.entry.image_config.platform.architecture)
    assert found == ["amd64", "arm64"]


def test_all_platforms_by_name_are_the_index_as_it_is(index, run_cli, tmp_path):
    reference, digest = index
    platforms = ("--platform", "linux/amd64", "--platform", "linux/arm64")
    done = pull(run_cli, reference, *platforms, "-o", tmp_path / "two.tar", "--json")
    assert done.json["digest"] == done.json["root"] == digest
    with open_archive(tmp_path / "two.tar") as archive:
        (image,) = archive.images
        assert image.root.descriptor.digest == digest


def test_digests_are_written_for_the_next_program(index, pushed, run_cli, tmp_path):
    path = tmp_path / "digest"
    pull(run_cli, index[0], "--digestfile", path)
    assert path.read_text() == index[1]
    pull(run_cli, index[0], pushed[0], "--digestfile", path)
    assert path.read_text().splitlines() == [
        f"{digest} {reference}" for reference, digest in (index, pushed)
    ]
    refused = run_cli("pull", index[0], "--digestfile", tmp_path / "no" / "file")
    assert refused.returncode == 4 and "--digestfile" in refused.error


def test_an_unknown_platform_is_not_found_and_those_there_are_named(
    index, run_cli, tmp_path
):
    out = tmp_path / "x.tar"
    done = run_cli("pull", index[0], "--platform", "linux/riscv64", "-o", out)
    assert done.returncode == 4
    assert "linux/amd64" in done.error
    assert not out.exists()


def test_several_images_make_one_bundle_and_podman_loads_them(
    pushed, index, run_cli, tmp_path
):
    bundle = tmp_path / "bundle.tar"
    pull(run_cli, pushed[0], index[0], pushed[0], "-o", bundle)
    assert podman_load(bundle, tmp_path) == {pushed[0], index[0]}


def test_podman_loads_an_oci_archive(pushed, run_cli, tmp_path):
    pull(run_cli, pushed[0], "-o", tmp_path / "image.oci.tar")
    assert podman_load(tmp_path / "image.oci.tar", tmp_path) == {pushed[0]}


def podman_load(archive: Path, directory: Path) -> set[str]:
    """The names that podman gives what it loaded."""
    run = tempfile.mkdtemp(prefix="podman", dir="/tmp")  # it takes 50 characters
    podman = ["podman", "--root", str(directory / "podman")]
    podman += ["--runroot", run, "--storage-driver", "vfs"]
    try:
        done = subprocess.run(
            [*podman, "load", "-i", str(archive)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        loaded = set(re.findall(r"Loaded image: (\S+)", done.stdout))
        for name in loaded:
            subprocess.run([*podman, "inspect", name], check=True, capture_output=True)
    finally:
        shutil.rmtree(directory / "podman", ignore_errors=True)
        shutil.rmtree(run, ignore_errors=True)
    return loaded


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive", "oci-dir"])
def test_skopeo_reads_every_form(form, pushed, run_cli, tmp_path):
    reference, _ = pushed
    out = tmp_path / "out"
    pull(run_cli, reference, "-o", out, "--format", form)
    transport = {"oci-dir": "oci"}.get(form, form)
    done = subprocess.run(
        ["skopeo", "inspect", f"{transport}:{out}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(json.loads(done.stdout)["Layers"]) == 3


def test_an_oci_directory_takes_a_second_image_beside_the_first(
    pushed, index, run_cli, tmp_path
):
    out = tmp_path / "layout"
    pull(run_cli, pushed[0], "-o", out, "--format", "oci-dir")
    pull(run_cli, index[0], "-o", out)
    pull(run_cli, pushed[0], "-o", out)
    with open_archive(out) as archive:
        names = [name for image in archive.images for name in image.names]
    assert sorted(names) == sorted([pushed[0], index[0]])


def test_what_is_in_the_cache_is_not_asked_for_again(
    docker_registry, run_cli, tmp_path
):
    reference = f"{docker_registry.host}/app:1"
    push(run_cli, small_archive(tmp_path / "image.tar"), reference)
    pull(run_cli, reference)
    before = len(docker_registry.requests())
    done = pull(run_cli, reference, "--json")
    asked = docker_registry.requests()[before:]
    assert [(r.method, r.path) for r in asked if "/blobs/" in r.path] == []
    assert sum("/manifests/" in request.path for request in asked) == 1
    assert done.json["bytes"] == 0


def large(tmp_path: Path, run_cli, host: str) -> str:
    """A reference with a layer of 3 MB that does not shrink."""
    layer = tar_of({"f": os.urandom(3_000_000)})
    archive = docker_archive(tmp_path / "large.tar", [layer])
    reference = f"{host}/large:1"
    push(run_cli, archive, reference, "--compress", "none")
    return reference


def test_a_broken_download_continues_in_the_same_run(
    docker_registry, run_cli, tmp_path
):
    reference = large(tmp_path, run_cli, docker_registry.host)
    cut = Fault(*GENTLE_CUT, times=4, after=700_000, reset=False)
    with FaultProxy(docker_registry.host, [cut]) as proxy:
        through = reference.replace(docker_registry.host, proxy.host)
        done = run_cli("pull", "--plain-http", through, "--retry-delay", "0.01")
        assert done.returncode == 0, done.stderr
        received = sum(exchange.received for exchange in proxy.exchanges("GET", "blob"))
    assert received < 5_000_000  # starting over each time would take 5.8
    assert "trying again" in done.stderr


def test_a_broken_download_continues_in_the_next_run(
    docker_registry, run_cli, tmp_path
):
    reference = large(tmp_path, run_cli, docker_registry.host)
    cut = Fault(*GENTLE_CUT, times=99, after=1_500_000, reset=False)
    with FaultProxy(docker_registry.host, [cut]) as proxy:
        through = reference.replace(docker_registry.host, proxy.host)
        done = run_cli("pull", "--plain-http", through, "--retry-times", "0")
        assert done.returncode == 5
    before = len(docker_registry.requests())
    done = pull(run_cli, reference, "--json")
    assert done.json["bytes"] < 1_700_000
    statuses = [r.status for r in docker_registry.requests()[before:]]
    assert 206 in statuses


def kept(state: Path) -> int:
    """Bytes of what the cache has in part."""
    partials = (state / "cache" / "partial").glob("sha256-*")
    return sum(path.stat().st_size for path in partials)


@pytest.mark.long
def test_a_pull_killed_again_and_again_ends_complete_having_fetched_about_once(
    docker_registry, run_cli, tmp_path
):
    reference = large(tmp_path, run_cli, docker_registry.host)
    slow = Fault(Effect.THROTTLE, path="blob", times=99, rate=1_500_000)
    with FaultProxy(docker_registry.host, [slow]) as proxy:
        through = reference.replace(docker_registry.host, proxy.host)
        for count, number in ((500_000, signal.SIGKILL), (900_000, signal.SIGTERM)):
            child = run_cli.start(
                "pull", "--plain-http", through, stderr=subprocess.DEVNULL
            )
            wait_for(lambda: kept(run_cli.state) >= count)  # noqa: B023
            child.send_signal(number)
            assert child.wait(30) == -number
        done = pull(run_cli, "--plain-http", through, "--json")
    assert done.json["bytes"] < 3_000_000
    assert list((run_cli.state / "cache" / "partial").glob("*")) == []
    assert run_cli("cache", "verify").returncode == 0


def test_a_byte_that_was_changed_on_the_way_is_fetched_again(
    docker_registry, run_cli, tmp_path
):
    reference = large(tmp_path, run_cli, docker_registry.host)
    flip = Fault(Effect.CORRUPT_ANSWER, method="GET", path="blob", after=10)
    with FaultProxy(docker_registry.host, [flip]) as proxy:
        done = run_cli(
            "pull", "--plain-http", reference.replace(docker_registry.host, proxy.host)
        )
        assert done.returncode == 0, done.stderr
    assert run_cli("cache", "verify").returncode == 0


@pytest.mark.parametrize(
    "fault",
    [
        Fault(Effect.CORRUPT_ANSWER, method="GET", path="blob", times=99, after=10),
        Fault(
            Effect.REPLACE_ANSWER,
            method="GET",
            path="blob",
            times=99,
            status=200,
            body=b"<html>please log in</html>",
            headers={"Content-Type": "text/html"},
        ),
    ],
    ids=["one byte changed", "a page of a proxy"],
)
def test_wrong_bytes_are_never_kept(fault, docker_registry, run_cli, tmp_path):
    reference = large(tmp_path, run_cli, docker_registry.host)
    out = tmp_path / "out.tar"
    with FaultProxy(docker_registry.host, [fault]) as proxy:
        through = reference.replace(docker_registry.host, proxy.host)
        done = run_cli("pull", "--plain-http", through, "-o", out)
    assert done.returncode == 6
    assert "the blob was not kept" in done.error
    assert not out.exists()
    assert len(blobs_of(run_cli)) <= 1
    pull(run_cli, reference, "-o", out)
    assert run_cli("cache", "verify").returncode == 0


def test_a_manifest_with_another_digest_than_the_one_asked_for_is_refused(
    docker_registry, run_cli, tmp_path
):
    reference = large(tmp_path, run_cli, docker_registry.host)
    flip = Fault(Effect.CORRUPT_ANSWER, method="GET", path="manifest", after=30)
    with FaultProxy(docker_registry.host, [flip]) as proxy:
        done = run_cli(
            "pull", "--plain-http", reference.replace(docker_registry.host, proxy.host)
        )
    assert done.returncode == 6
    assert blobs_of(run_cli) == []


@pytest.mark.parametrize("way", ["a file", "standard output"])
def test_a_damaged_blob_of_the_cache_never_gets_into_an_archive(
    way, pushed, run_cli, tmp_path
):
    """It is fetched again, unless a part of it went where it cannot be taken back."""
    reference, digest = pushed
    pull(run_cli, reference)
    blob = max(blobs_of(run_cli), key=lambda path: path.stat().st_size)
    content = bytearray(blob.read_bytes())
    content[1000] ^= 1
    blob.write_bytes(content)
    out = tmp_path / "out.tar"
    if way == "standard output":
        with (tmp_path / "piped").open("wb") as piped:
            child = run_cli.start("pull", reference, "-o", "-", stdout=piped)
            assert child.wait(60) == 6
        assert not blob.exists()
    done = run_cli("pull", reference, "-o", out, "--json")
    assert done.returncode == 0, done.stderr
    assert done.json["bytes"] == blob.stat().st_size
    assert left_over(tmp_path) == []
    assert run_cli("cache", "verify").returncode == 0
    pushed_again = run_cli("push", out, "-t", f"{reference}-again", "--json")
    assert pushed_again.json["digest"] == digest


def test_no_clobber_keeps_what_is_there(pushed, run_cli, tmp_path):
    out = tmp_path / "out.tar"
    out.write_bytes(b"mine")
    done = run_cli("pull", pushed[0], "-o", out, "-n")
    assert done.returncode == 0
    assert done.stderr == f"note: {out} exists and is left as it is\n"
    assert out.read_bytes() == b"mine"
    pull(run_cli, pushed[0], "-o", out)
    assert out.read_bytes() != b"mine"


def test_an_output_that_cannot_be_written_is_one_line(pushed, run_cli, tmp_path):
    done = run_cli("pull", pushed[0], "-o", tmp_path / "missing" / "out.tar")
    assert done.returncode == 4
    assert "cannot write" in done.error


@pytest.mark.parametrize(
    "arguments",
    [
        ["--format", "oci-archive"],
        ["-o", "x.tar.gz"],
        ["-o", "x.tar", "--platform", "all", "--platform", "linux/amd64"],
        ["-o", "x.tar", "--platform", "linux"],
        ["-o", "-", "--format", "oci-dir"],
    ],
    ids=" ".join,
)
def test_impossible_options_are_reported_before_any_request(arguments, run_cli):
    done = run_cli("pull", "127.0.0.1:1/app:1", *arguments)
    assert done.returncode == 2
    assert done.error.startswith("error: ")


def test_a_state_that_cannot_be_written_does_not_stop_a_pull_into_a_file(
    pushed, run_cli, tmp_path
):
    (tmp_path / "file").write_bytes(b"")
    env = {"DOCKERPUSH_STATE_DIR": str(tmp_path / "file" / "state")}
    out = tmp_path / "out.tar"
    done = run_cli("pull", pushed[0], "-o", out, env=env)
    assert done.returncode == 0, done.stderr
    assert out.exists()
    assert run_cli("pull", pushed[0], env=env).returncode == 1


def test_one_missing_reference_does_not_stop_the_others(pushed, run_cli, tmp_path):
    missing = pushed[0].replace("app:1", "app:none")
    done = run_cli("pull", missing, pushed[0])
    assert done.returncode == 7
    assert len(done.stdout.splitlines()) == 1
    assert run_cli("pull", missing).returncode == 4
    bundle = tmp_path / "bundle.tar"
    assert run_cli("pull", pushed[0], missing, "-o", bundle).returncode == 4
    assert not bundle.exists()


def test_a_file_that_is_missing_is_not_taken_for_an_image(run_cli):
    for name in ("missing.tar", "dir/missing.tar", "./missing", "missing"):
        done = run_cli("push", name, "-t", "127.0.0.1:1/app:1")
        assert done.returncode == 4
        assert "no such file" in done.error


def test_the_credentials_of_the_target_are_not_shown_to_the_source(
    embedded, htpasswd_registry, run_cli, tmp_path
):
    """They would open the source, which must not be known; as one registry it is."""
    user, password = next(iter(htpasswd_registry.users.items()))
    given = ("-u", user, "--password", password)
    reference = f"{htpasswd_registry.host}/app:1"
    push(run_cli, small_archive(tmp_path / "image.tar"), reference, *given)
    done = run_cli("push", reference, "-t", f"{embedded.host}/app:1", *given)
    assert done.returncode == 3
    push(run_cli, reference, f"{htpasswd_registry.host}/app:2", *given)


def test_the_cache_lists_what_it_holds_and_forgets_it(pushed, index, run_cli):
    assert run_cli("cache", "ls", "--json").json == {"images": [], "size": 0}
    pull(run_cli, pushed[0], index[0])
    listed = run_cli("cache", "ls", "--json").json
    assert {image["ref"] for image in listed["images"]} == {pushed[0], index[0]}
    assert listed["size"] == sum(path.stat().st_size for path in blobs_of(run_cli))
    before = blobs_of(run_cli)
    tried = run_cli("cache", "prune", "--max-size", "10", "--dry-run", "--json")
    assert blobs_of(run_cli) == before
    done = run_cli("cache", "prune", "--max-size", "10", "--json")
    assert done.json == tried.json
    assert done.json["bytes"] == listed["size"]
    assert blobs_of(run_cli) == []
    assert "IMAGE" in run_cli("cache", "ls").stdout


def test_prune_removes_expired_upload_sessions(run_cli):
    uploads = run_cli.state / "uploads"
    uploads.mkdir(parents=True)
    old = uploads / f"{'a' * 32}.json"
    old.write_bytes(b"{}")
    os.utime(old, (0, 0))
    assert run_cli("cache", "prune", "--keep-since", "30d").returncode == 0
    assert not old.exists()


def test_prune_options_belong_to_prune(run_cli):
    assert run_cli("cache", "ls", "--max-size", "1G").returncode == 2
    assert run_cli("cache", "prune", "--keep-since", "soon").returncode == 2
