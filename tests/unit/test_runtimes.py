"""Saving images with a real podman, and with programs that stand in for the others."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import resource
import signal
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path
from typing import Iterator

import pytest

from dockerpush.errors import Cancelled, NotFound, PusherError, UsageError
from dockerpush.runtimes.runtime import (
    Runtime,
    default_file_name,
    find_runtime,
    list_images,
    open_save,
    save,
)
from dockerpush.system.cancellation import Cancellation
from dockerpush.system.files import try_lock

NGINX = "docker.io/library/nginx:latest"
BIG = "registry.example.com:5000/big:1"


@pytest.fixture
def cancellation() -> Iterator[Cancellation]:
    with Cancellation() as one:
        yield one


def image_archive(path: Path, content: bytes, names: list[str]) -> None:
    """A docker-archive with one layer that holds *content*."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        _add(tar, "file", content)
    raw = layer.getvalue()
    config = {
        "architecture": "amd64",
        "os": "linux",
        "created": "2024-01-02T03:04:05Z",
        "config": {},
        "rootfs": {
            "type": "layers",
            "diff_ids": ["sha256:" + hashlib.sha256(raw).hexdigest()],
        },
    }
    entry = {"Config": "config.json", "RepoTags": names, "Layers": ["layer.tar"]}
    with tarfile.open(path, "w") as tar:
        _add(tar, "config.json", json.dumps(config).encode())
        _add(tar, "layer.tar", raw)
        _add(tar, "manifest.json", json.dumps([entry]).encode())


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def repo_tags(archive: Path | io.BytesIO) -> set[str]:
    """The names in an archive, read by the standard library."""
    source = (
        {"fileobj": archive} if isinstance(archive, io.BytesIO) else {"name": archive}
    )
    with tarfile.open(**source) as tar:
        manifest = tar.extractfile("manifest.json")
        assert manifest is not None
        with manifest:
            return {name for entry in json.load(manifest) for name in entry["RepoTags"]}


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory, runroot: str) -> Runtime:
    """podman with a vfs storage that holds two images, one under two names."""
    directory = tmp_path_factory.mktemp("podman")
    runtime = Runtime(
        "podman",
        "podman",
        (
            *("--root", str(directory / "root"), "--runroot", runroot),
            *("--storage-driver", "vfs"),
        ),
    )
    for content, names in ((b"a", [NGINX, "localhost/x:3"]), (b"b" * 3000000, [BIG])):
        image_archive(directory / "image.tar", content, names)
        command = [runtime.program, *runtime.arguments, "load", "-q", "-i"]
        subprocess.run([*command, directory / "image.tar"], check=True, timeout=60)
    return runtime


@pytest.fixture(scope="module")
def empty_podman(tmp_path_factory: pytest.TempPathFactory, runroot: str) -> Runtime:
    """podman with nothing in its storage."""
    directory = tmp_path_factory.mktemp("empty")
    return Runtime(
        "podman",
        "podman",
        (
            *("--root", str(directory / "root"), "--runroot", runroot),
            *("--storage-driver", "vfs"),
        ),
    )


def program(directory: Path, name: str, script: str) -> Path:
    """A program called *name* in *directory*, written in sh."""
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def fake(directory: Path, name: str, script: str) -> Runtime:
    """A Runtime that is such a program."""
    return Runtime(name, str(program(directory, name, script)))


# docker 28.2.2 says so when there is no daemon
DOCKER_DOWN = (
    "echo 'Cannot connect to the Docker daemon at unix:///var/run/docker.sock. "
    "Is the docker daemon running?' >&2; exit 1"
)


def test_podman_lists_its_images(podman: Runtime, cancellation: Cancellation) -> None:
    images = list_images(podman, cancellation=cancellation)
    names = [image.name for image in images]
    assert sorted(names) == [NGINX, "localhost/x:3", BIG]
    assert {len(image.id) for image in images} == {64}
    assert images[0].created is not None
    sizes = {image.name: image.size for image in images}
    assert (sizes[BIG] or 0) > 3_000_000


def test_no_images_is_an_error_that_says_what_to_do(
    empty_podman: Runtime, cancellation: Cancellation
) -> None:
    with pytest.raises(NotFound, match="podman has no local images: pull"):
        list_images(empty_podman, cancellation=cancellation)


def test_podman_saves_an_image_as_a_whole_file(
    podman: Runtime, cancellation: Cancellation, tmp_path: Path
) -> None:
    target = tmp_path / "out" / "nginx_latest.tar"
    target.parent.mkdir()
    pieces: list[int] = []
    size = save(
        podman,
        ["nginx"],
        target,
        cancellation=cancellation,
        on_progress=pieces.append,
    )
    assert size == target.stat().st_size == sum(pieces)
    assert repo_tags(target) == {NGINX}
    assert [path.name for path in target.parent.iterdir()] == ["nginx_latest.tar"]


def test_podman_saves_several_images_into_one_archive(
    podman: Runtime, cancellation: Cancellation
) -> None:
    """Without its flag for that, podman takes the second name for a mere tag."""
    output = io.BytesIO()
    save(podman, ["localhost/x:3", BIG], output, cancellation=cancellation)
    output.seek(0)
    assert {"localhost/x:3", BIG} <= repo_tags(output)
    output.seek(0)
    with tarfile.open(fileobj=output) as tar:
        manifest = tar.extractfile("manifest.json")
        assert manifest is not None
        with manifest:
            assert len(json.load(manifest)) == 2


@pytest.mark.parametrize("names", [["nope"], ["nginx", "nope:7"]])
def test_an_image_that_podman_does_not_know_is_named(
    podman: Runtime, cancellation: Cancellation, tmp_path: Path, names: list[str]
) -> None:
    with pytest.raises(NotFound, match=f"podman has no image '{names[-1]}': `podman"):
        save(podman, names, tmp_path / "x.tar", cancellation=cancellation)
    assert not list(tmp_path.glob("*.tar")) + list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("runtime", "said"),
    [
        ("docker", "Error response from daemon: reference does not exist"),
        ("docker", "Error response from daemon: No such image: nope:latest"),
        ("nerdctl", 'time="2025-01-01" level=fatal msg="no such image: nope"'),
    ],
)
def test_the_words_of_docker_and_nerdctl_for_an_unknown_image_are_known(
    tmp_path: Path, cancellation: Cancellation, runtime: str, said: str
) -> None:
    stand_in = fake(tmp_path, runtime, f"echo '{said}' >&2; exit 1")
    with pytest.raises(NotFound, match=f"{runtime} has no image 'nope'"):
        save(stand_in, ["nope"], io.BytesIO(), cancellation=cancellation)


@pytest.mark.parametrize("runtime", ["docker", "nerdctl"])
def test_docker_and_nerdctl_are_asked_in_their_own_words(
    tmp_path: Path, cancellation: Cancellation, runtime: str
) -> None:
    line = (
        '{"CreatedAt":"2024-06-07 13:00:09 +0100 BST","ID":"sha256:35a88802559d",'
        '"Repository":"ubuntu","Size":"78.1MB","Tag":"latest"}'
    )
    stand_in = fake(
        tmp_path,
        runtime,
        f"""
        case "$*" in
        "images --no-trunc --format {{{{json .}}}}") echo '{line}' ;;
        "save ubuntu:latest alpine") printf archive ;;
        *) echo "unexpected: $*" >&2; exit 1 ;;
        esac""",
    )
    (image,) = list_images(stand_in, cancellation=cancellation)
    assert (image.name, image.id, image.size) == (
        "ubuntu:latest",
        "35a88802559d",
        78_100_000,
    )
    output = io.BytesIO()
    save(stand_in, ["ubuntu:latest", "alpine"], output, cancellation=cancellation)
    assert output.getvalue() == b"archive"


def test_a_runtime_that_fails_half_way_leaves_nothing(
    tmp_path: Path, cancellation: Cancellation
) -> None:
    stand_in = fake(
        tmp_path / "bin",
        "docker",
        "head -c 3000000 /dev/zero; echo 'unexpected EOF: layer is gone' >&2; exit 1",
    )
    target = tmp_path / "out" / "x.tar"
    target.parent.mkdir()
    target.write_bytes(b"the old one")
    with pytest.raises(
        PusherError, match=r"docker save failed \(exit code 1\): unexpected EOF: layer"
    ):
        save(stand_in, ["x"], target, cancellation=cancellation)
    assert target.read_bytes() == b"the old one"
    assert [path.name for path in target.parent.iterdir()] == ["x.tar"]


def test_a_pipe_into_a_push_never_ends_well_when_the_runtime_did_not(
    tmp_path: Path, cancellation: Cancellation
) -> None:
    stand_in = fake(tmp_path, "nerdctl", "printf 0123456789; exit 7")
    with open_save(stand_in, ["x"], cancellation=cancellation) as source:
        assert source.read(10) == b"0123456789"
        with pytest.raises(PusherError, match=r"\(exit code 7\): it gave no reason"):
            source.read(10)


def test_a_runtime_that_writes_nothing_has_not_saved(
    tmp_path: Path, cancellation: Cancellation
) -> None:
    target = tmp_path / "x.tar"
    with pytest.raises(PusherError, match="wrote no archive"):
        save(fake(tmp_path, "docker", "true"), ["x"], target, cancellation=cancellation)
    assert not target.exists()


def test_cancelling_a_save_leaves_nothing_and_ends_the_runtime(
    tmp_path: Path, cancellation: Cancellation
) -> None:
    stand_in = fake(
        tmp_path / "bin",
        "docker",
        f"echo $$ > {tmp_path}/pid; head -c 2000000 /dev/zero; exec sleep 60",
    )
    target = tmp_path / "out" / "x.tar"
    target.parent.mkdir()
    total = 0

    def on_progress(count: int) -> None:
        nonlocal total
        total += count
        if total == 2_000_000:
            threading.Timer(0.1, cancellation.cancel, ("stopped by a signal",)).start()

    began = time.monotonic()
    with pytest.raises(Cancelled, match="stopped by a signal"):
        save(
            stand_in,
            ["x"],
            target,
            cancellation=cancellation,
            on_progress=on_progress,
        )
    assert time.monotonic() - began < 3
    assert list(target.parent.iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_control_c_leaves_nothing_either(tmp_path: Path) -> None:
    """A KeyboardInterrupt in the middle, without any cancellation."""
    program(tmp_path / "bin", "docker", "head -c 2000000 /dev/zero; exec sleep 60")
    (tmp_path / "out").mkdir()
    script = f"""
import signal, sys
from pathlib import Path
from dockerpush.system.cancellation import Cancellation
from dockerpush.runtimes.runtime import Runtime, save
signal.signal(signal.SIGINT, signal.default_int_handler)
with Cancellation() as c:
    save(Runtime("docker", {str(tmp_path / "bin/docker")!r}), ["x"],
         Path({str(tmp_path / "out/x.tar")!r}), cancellation=c,
         on_progress=lambda count: print("x", flush=True))
"""
    child = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert child.stdout is not None
    child.stdout.read(1)
    os.killpg(child.pid, signal.SIGINT)
    _, errors = child.communicate(timeout=10)
    assert b"KeyboardInterrupt" in errors
    assert list((tmp_path / "out").iterdir()) == []


def test_a_disk_that_fills_up_leaves_nothing(
    cancellation: Cancellation, tmp_path: Path
) -> None:
    stand_in = fake(tmp_path, "docker", "head -c 3000000 /dev/zero")
    target = tmp_path / "x.tar"
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, usual[1]))
    try:
        with pytest.raises(PusherError, match=f"cannot write {target}: file too large"):
            save(stand_in, ["x"], target, cancellation=cancellation)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert list(tmp_path.glob("*.tar")) + list(tmp_path.glob(".*")) == []


def test_a_full_device_is_an_error(tmp_path: Path, cancellation: Cancellation) -> None:
    """/dev/full is written in place: it is no regular file."""
    stand_in = fake(tmp_path, "docker", "echo archive")
    with pytest.raises(PusherError, match="/dev/full: no space left on device"):
        save(stand_in, ["x"], Path("/dev/full"), cancellation=cancellation)
    assert Path("/dev/full").is_char_device()


def test_a_named_pipe_is_written_in_place(
    tmp_path: Path, cancellation: Cancellation
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    stand_in = fake(tmp_path, "docker", "echo archive")
    save(stand_in, ["x"], pipe, cancellation=cancellation)
    reader.join()
    assert read == [b"archive\n"]
    assert pipe.is_fifo()


def test_a_link_keeps_pointing_at_the_file(
    tmp_path: Path, cancellation: Cancellation
) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "x.tar"
    link.symlink_to("elsewhere/real.tar")
    save(fake(tmp_path, "docker", "echo 1"), ["x"], link, cancellation=cancellation)
    assert link.is_symlink()
    assert (tmp_path / "elsewhere/real.tar").read_bytes() == b"1\n"


def test_two_runs_do_not_write_one_file(
    tmp_path: Path, cancellation: Cancellation
) -> None:
    stand_in = fake(tmp_path, "docker", "echo archive")
    target = tmp_path / "x.tar"
    with (
        try_lock(tmp_path / ".x.tar.part"),
        pytest.raises(PusherError, match=r"another run is writing .*x\.tar: wait"),
    ):
        save(stand_in, ["x"], target, cancellation=cancellation)
    save(stand_in, ["x"], target, cancellation=cancellation)  # over the one left behind
    assert target.read_bytes() == b"archive\n"
    assert not (tmp_path / ".x.tar.part").exists()


@pytest.mark.parametrize(
    ("target", "kind", "said"),
    [
        ("no/such/x.tar", PusherError, "no such file or directory"),
        (".", UsageError, "is a directory: name a file, or use --output-dir"),
    ],
)
def test_a_place_that_cannot_be_written_is_named(
    tmp_path: Path,
    cancellation: Cancellation,
    target: str,
    kind: type[PusherError],
    said: str,
) -> None:
    stand_in = fake(tmp_path, "docker", "echo archive")
    with pytest.raises(kind, match=said):
        save(stand_in, ["x"], tmp_path / target, cancellation=cancellation)


class Closed(io.BytesIO):
    """Like stdout when ``| head`` has ended."""

    def write(self, data: object) -> int:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def test_a_reader_that_leaves_is_not_called_a_failure_of_the_runtime(
    tmp_path: Path, cancellation: Cancellation
) -> None:
    with pytest.raises(BrokenPipeError):
        save(
            fake(tmp_path, "docker", "echo archive"),
            ["x"],
            Closed(),
            cancellation=cancellation,
        )


@pytest.mark.parametrize("names", [[], [""], ["--all"], ["a\nb"]])
def test_names_that_cannot_be_reach_no_runtime(
    cancellation: Cancellation, names: list[str]
) -> None:
    with pytest.raises(UsageError, match="image"):
        open_save(Runtime("docker", "/nowhere"), names, cancellation=cancellation)


def test_the_first_runtime_that_works_is_taken(
    tmp_path: Path, cancellation: Cancellation
) -> None:
    """A docker whose daemon is down does not hide a podman."""
    program(tmp_path, "docker", DOCKER_DOWN)
    program(tmp_path, "podman", "true")
    runtime = find_runtime(None, cancellation=cancellation, search_path=str(tmp_path))
    assert runtime == Runtime("podman", str(tmp_path / "podman"))
    program(tmp_path, "nerdctl", "true")
    runtime = find_runtime(None, cancellation=cancellation, search_path=str(tmp_path))
    assert runtime.name == "nerdctl"
    program(tmp_path, "docker", "echo Docker version 28.2.2, build e6534b4")
    runtime = find_runtime(None, cancellation=cancellation, search_path=str(tmp_path))
    assert runtime.name == "docker"


def test_a_runtime_is_named_or_given_by_its_path(
    tmp_path: Path, cancellation: Cancellation
) -> None:
    path = program(tmp_path, "nerdctl", "true")
    for wanted in ("nerdctl", str(path)):
        runtime = find_runtime(
            wanted, cancellation=cancellation, search_path=str(tmp_path)
        )
        assert runtime == Runtime("nerdctl", str(path))


def test_podman_that_poses_as_docker_is_distinguished(
    tmp_path: Path, cancellation: Cancellation
) -> None:
    """podman-docker's ``docker`` has podman's flags and habits."""
    program(tmp_path, "docker", 'exec podman "$@"')
    for wanted in ("docker", None):
        runtime = find_runtime(
            wanted, cancellation=cancellation, search_path=str(tmp_path)
        )
        assert runtime == Runtime("podman", str(tmp_path / "docker"))


@pytest.mark.parametrize(
    ("wanted", "kind", "said"),
    [
        (None, NotFound, r"no runtime found \(docker, nerdctl, podman\): install one"),
        ("podman", NotFound, "podman is not installed, or not on the PATH"),
        ("/opt/podman", NotFound, "/opt/podman is not installed"),
        ("crictl", UsageError, "not a runtime: 'crictl' .wanted docker, nerdctl"),
        ("", UsageError, "not a runtime: ''"),
    ],
)
def test_a_runtime_that_is_not_there_is_an_error_that_says_what_to_do(
    tmp_path: Path,
    cancellation: Cancellation,
    wanted: str | None,
    kind: type[PusherError],
    said: str,
) -> None:
    with pytest.raises(kind, match=said):
        find_runtime(wanted, cancellation=cancellation, search_path=str(tmp_path))


def test_a_daemon_that_is_down_is_reported_in_its_own_words(
    tmp_path: Path, cancellation: Cancellation
) -> None:
    with pytest.raises(PusherError, match=r"Cannot connect to the Docker .*--runtime"):
        list_images(fake(tmp_path, "docker", DOCKER_DOWN), cancellation=cancellation)


def test_a_listing_without_end_is_cut_off(
    tmp_path: Path, cancellation: Cancellation
) -> None:
    stand_in = fake(tmp_path, "docker", "exec cat /dev/zero")
    with pytest.raises(PusherError, match="docker images printed more than"):
        list_images(stand_in, cancellation=cancellation)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nginx", "nginx_latest.tar"),
        ("nginx:latest", "nginx_latest.tar"),
        ("docker.io/library/nginx:1.25", "nginx_1.25.tar"),
        ("localhost:5000/team/app", "app_latest.tar"),
        ("a/b@sha256:" + "12ab" * 16, "b_12ab12ab12ab.tar"),
        ("35a88802559d", "35a88802559d.tar"),
        ("..", "latest.tar"),
        ("a/../..:..", "image.tar"),
        ("x:$(touch y)", "x_touch_y.tar"),
    ],
)
def test_the_file_name_is_that_of_the_image(name: str, expected: str) -> None:
    assert default_file_name(name) == expected
