"""Archives in volumes, written and read by every command that has archives."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Callable, Iterator

import pytest
import readme
from conftest import Command, Finished, peak_rss
from images import MIB, docker_archive, large_archive, tar_of
from inprocess import run_here
from pushed import fetch

from dockerpush.archive import open_archive
from dockerpush.server import Registry, RegistryServer

SIZE = 64 * 1024
LAYERS = [tar_of({f"layer{n}": random.Random(n).randbytes(150_000)}) for n in range(2)]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with RegistryServer(Registry(tmp_path_factory.mktemp("registry"))) as server:
        directory = tmp_path_factory.mktemp("cli")
        (directory / "temporary").mkdir()
        command = Command(directory, directory / "temporary")
        archive = docker_archive(directory / "image.tar", LAYERS, names=["app:1"])
        target = f"{server.host}/team/app:1"
        done = command("push", archive, "-t", target, "--compress", "none")
        assert done.returncode == 0, done.stderr
        yield server.host


Run = Callable[..., Finished]


@pytest.fixture
def here(run_cli: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command in this process, in a directory of its own, which is ``tmp_path``."""
    monkeypatch.chdir(tmp_path)
    return lambda *words: run_here(words, run_cli.environment())


@pytest.fixture
def image(host: str) -> str:
    """The image in the registry."""
    return f"{host}/team/app:1"


def joined(path: Path) -> bytes:
    """What ``cat FILE.[0-9]*`` gives."""
    command = f'cat "{path}".[0-9]*'
    return subprocess.run(command, shell=True, check=True, capture_output=True).stdout


def digest_in(host: str, name: str) -> str:
    repository, tag = name.split(":")
    raw = fetch(host, repository, f"manifests/{tag}")
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"


def left(directory: Path) -> list[str]:
    """Parts and locks below *directory*."""
    names = [path.name for path in directory.iterdir()]
    return [name for name in names if name.endswith((".part", ".lock"))]


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("pull", "{image}", "-o", "out.tar"), "out.tar"),
        (("pull", "{image}", "--no-cache", "-o", "out.oci"), "out.oci"),
        (("copy", "{image}", "out.tar"), "out.tar"),
        (("copy", "{image}", "oci-archive:disk"), "disk"),
        (("copy", "{image}", "docker-archive:disk"), "disk"),
    ],
)
def test_what_is_written_joined_is_the_plain_archive(
    here, image, tmp_path, words, name
):
    words = [word.format(image=image) for word in words]
    (tmp_path / "plain").mkdir()
    done = here(*words, "--split", "64KiB")
    assert done.returncode == 0, done.stderr
    content = joined(tmp_path / name)
    for volume in tmp_path.glob(f"{name}.*"):
        volume.rename(tmp_path / "plain" / volume.name)
    assert here(*words).returncode == 0
    assert content == (tmp_path / name).read_bytes()
    volumes = sorted((tmp_path / "plain").glob(f"{name}.0*"))
    assert len(volumes) == -(-len(content) // SIZE) > 4
    assert f"wrote {name}.001 to {volumes[-1].name} and {name}.sha256" in done.stderr
    check = ["sha256sum", "--strict", "-c", f"{name}.sha256"]
    subprocess.run(check, cwd=tmp_path / "plain", check=True, capture_output=True)
    assert left(tmp_path) == []


def test_skopeo_reads_the_joined_volumes(here, image, tmp_path, host):
    assert here("copy", image, "out.tar", "--split", "64k").returncode == 2
    assert here("copy", image, "out.tar", "--split", "100KB").returncode == 0
    (tmp_path / "joined.tar").write_bytes(joined(tmp_path / "out.tar"))
    raw = subprocess.run(
        ["skopeo", "inspect", "--raw", f"oci-archive:{tmp_path / 'joined.tar'}"],
        capture_output=True,
        check=True,
    ).stdout
    assert raw == fetch(host, "team/app", "manifests/1")


@pytest.fixture
def volumes(here: Run, image: str, tmp_path: Path) -> list[Path]:
    """The volumes of out.tar, and the file with their sums, in this directory."""
    done = here("copy", image, "oci-archive:out.tar", "--split", "64KiB")
    assert done.returncode == 0, done.stderr
    return sorted(tmp_path.glob("out.tar.0*"))


READERS = {
    "push": ("push", "{}", "-t", "{host}/read/push:1"),
    "a push of all": ("push", "{}", "-a", "-t", "{host}/read/all"),
    "a dry run": ("push", "{}", "-t", "{host}/read/dry:1", "--dry-run"),
    "a push with --verify": ("push", "{}", "-t", "{host}/read/v:1", "--verify"),
    "copy": ("copy", "{}", "{host}/read/copy:1"),
    "copy with referrers": ("copy", "{}", "{host}/read/r:1", "--referrers"),
    "copy to a directory": ("copy", "oci-archive:{}", "oci:dir"),
    "copy to volumes": ("copy", "{}", "again.tar", "--split", "100KB"),
    "inspect": ("inspect", "{}", "--json"),
    "verify": ("verify", "{}", "{host}/team/app:1"),
    "verify alone": ("verify", "{}"),
    "inventory": ("inventory", "oci-archive:{}"),
    "copy with --have": (
        *("copy", "{host}/team/app:1", "oci-archive:new.tar"),
        *("--have", "oci-archive:{}"),
    ),
    "pull with --have": (
        *("pull", "{host}/team/app:1", "-o", "new.oci"),
        *("--have", "oci-archive:{}"),
    ),
    "sync": ("sync", "oci-archive:{}", "{host}/read"),
    "sync with a list": ("sync", "list.txt", "--from", "oci-archive:{}", "{host}/l"),
}


@pytest.fixture(params=READERS)
def reader(request: pytest.FixtureRequest, host: str, image: str, tmp_path: Path):
    """The words of a command that reads the archive which it is given."""
    (tmp_path / "list.txt").write_text(f"{image}\n")
    words = READERS[request.param]
    return lambda archive, target=host: [
        word.format(archive, host=target) for word in words
    ]


@pytest.mark.parametrize("name", ["out.tar", "out.tar.001"])
def test_every_reader_takes_volumes(here, reader, volumes, name):
    done = here(*reader(name))
    assert done.returncode == 0, done.stderr


def test_every_reader_finds_volumes_in_other_directories(
    here, reader, volumes, tmp_path
):
    for number, volume in enumerate(volumes):
        place = tmp_path / f"disc{number % 3}"
        place.mkdir(exist_ok=True)
        volume.rename(place / volume.name)
    (tmp_path / "out.tar.sha256").rename(tmp_path / "disc1/out.tar.sha256")
    done = here(*reader("disc0/out.tar.001"))
    assert done.returncode in (6, 7)
    assert "volumes out.tar.002, out.tar.003 are missing: copy them here" in done.stderr
    done = here(*reader("disc0/out.tar.001"), "--volumes", "disc1", "disc2")
    assert done.returncode == 0, done.stderr
    done = here(*reader("out.tar"), "--volumes", "disc0", "disc1", "--volumes=disc2")
    assert done.returncode == 0, done.stderr
    done = here(*reader("out.tar"), "--volumes", "disc3")
    assert done.returncode == 4
    assert "disc3: no such directory" in done.error


def damage(volume: Path) -> None:
    content = bytearray(volume.read_bytes())
    content[1000:2000] = bytes(1000)
    volume.write_bytes(content)


def test_every_reader_names_a_damaged_volume(here, reader, volumes, tmp_path):
    damage(volumes[2])
    with RegistryServer(Registry(tmp_path / "empty")) as server:
        words = reader("out.tar.001", server.host)
        reads_none = {"inspect", "inventory", "--dry-run", "--have"} & set(words)
        if reads_none or (words[0] == "verify" and len(words) == 3):
            return  # these read no layer of an archive
        done = here(*words)
    assert done.returncode in (6, 7)
    assert "volume out.tar.003 is damaged or of another archive" in done.stderr
    assert len(done.error.splitlines()) == 1


def test_every_reader_refuses_a_truncated_volume(here, reader, volumes):
    volumes[1].write_bytes(volumes[1].read_bytes()[:-1])
    done = here(*reader("out.tar"))
    assert done.returncode in (6, 7)
    assert "volume out.tar.002: truncated: 65535 bytes" in done.stderr


def test_an_image_of_several_that_is_damaged_names_the_volume(here, host, tmp_path):
    for number in (1, 2):
        layer = tar_of({"x": random.Random(number + 7).randbytes(150_000)})
        names = [f"several:{number}"]
        docker_archive(tmp_path / f"{number}.tar", [layer], names=names)
        target = f"{host}/several:{number}"
        words = ("push", f"{number}.tar", "-t", target, "--compress", "none")
        assert here(*words).returncode == 0
    done = here("copy", "-a", f"{host}/several", "all.tar", "--split", "64KiB")
    assert done.returncode == 0, done.stderr
    damage(tmp_path / "all.tar.002")
    with RegistryServer(Registry(tmp_path / "empty")) as server:
        done = here("push", "all.tar", "-a", "-t", f"{server.host}/damaged")
    assert done.returncode == 7
    assert "volume all.tar.002 is damaged" in done.stderr


def test_a_compressed_archive_cut_by_split_is_pushed(here, tmp_path, host):
    docker_archive(tmp_path / "image.tar", LAYERS, names=["app:1"])
    command = "gzip -c image.tar | split -b 50000 -d -a 3 - image.tar.gz."
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    for name in ("image.tar.gz.000", "image.tar.gz"):
        done = here("push", name, "-t", f"{host}/cut:1", "--verify")
        assert done.returncode == 0, done.stderr
    assert here("inspect", "image.tar.gz").returncode == 0
    (tmp_path / "image.tar.gz.003").unlink()
    done = here("push", "image.tar.gz", "-t", f"{host}/cut:2")
    assert done.returncode == 6
    assert "image.tar.gz.003" in done.error


def test_volumes_are_served(run_cli, volumes, host, tmp_path):
    with run_cli.start(
        *("serve", "out.tar.001", "--port", "0", "--read-only"),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as child:
        url = child.stdout.readline().decode().strip()
        served = url.partition("//")[2].rstrip("/")
        raw = fetch(served, f"{host}/team/app".split("/", 1)[1], "manifests/1")
        child.send_signal(signal.SIGTERM)
    assert raw == fetch(host, "team/app", "manifests/1")


def test_volumes_are_loaded_into_a_runtime(here, volumes, tmp_path, run_cli):
    """A stand-in for docker: what it reads is the archive."""
    program = tmp_path / "docker"
    program.write_text(
        '#!/bin/sh\ncase "$1" in --version) echo Docker;;'
        " load) cat > loaded.tar;; esac\n"
    )
    program.chmod(0o755)
    done = here("load", "out.tar.001", "--runtime", program)
    assert done.returncode == 0, done.stderr
    with open_archive(tmp_path / "loaded.tar") as archive:
        assert archive.images


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    """A stand-in for docker that saves an image of 300,000 bytes and a little."""
    docker_archive(tmp_path / "saved.tar", LAYERS, names=["app:1"])
    program = tmp_path / "docker"
    program.write_text(
        '#!/bin/sh\ncase "$1" in --version) echo Docker;;'
        f" save) cat {tmp_path}/saved.tar;; esac\n"
    )
    program.chmod(0o755)
    return program


def test_save_writes_volumes(here, runtime, tmp_path):
    words = ("save", "app:1", "-o", "out.tar", "--runtime", runtime)
    done = here(*words, "--split", "100KB")
    assert done.returncode == 0, done.stderr
    names = [f"out.tar.{n:03}" for n in range(1, 5)]
    assert done.stdout.splitlines() == [*names, "out.tar.sha256"]
    assert joined(tmp_path / "out.tar") == (tmp_path / "saved.tar").read_bytes()
    done = here(*words, "--split", "100KB")
    assert done.returncode == 2
    assert "out.tar.001 exists: --force overwrites it" in done.error
    assert here(*words, "--split", "200KB", "--force").returncode == 0
    assert sorted(path.name for path in tmp_path.glob("out.tar.*")) == [
        *names[:2],
        "out.tar.sha256",
    ]
    assert here(*words[:2], "-o", "-", *words[4:], "--split", "1MB").returncode == 2


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("copy", "{image}", "oci:dir"), "--split is for an archive in a file"),
        (("copy", "{image}", "-"), "--split is for an archive in a file"),
        (
            ("copy", "{image}", "{image}2"),
            "--split is for an archive as the destination",
        ),
        (("pull", "{image}"), "--split needs -o FILE"),
        (("pull", "{image}", "-o", "dir/"), "--split is for an archive in a file"),
        (("pull", "{image}", "-o", "x.tar.001"), "leave .001 out"),
        (("copy", "{image}", "x.tar.gz"), "archives are written plain"),
        (("copy", "{image}", "taken.tar"), "would be read in place of its volumes"),
    ],
)
def test_what_cannot_be_in_volumes_is_refused(here, image, tmp_path, words, why):
    (tmp_path / "taken.tar").write_bytes(b"")
    words = [word.format(image=image) for word in words]
    done = here(*words, "--split", "1MB")
    assert done.returncode == 2, done.stderr
    assert why in done.error
    assert left(tmp_path) == []


@pytest.mark.parametrize("size", ["", "0", "1", "63KiB", "floppy", "-1", "4GiB/s"])
def test_a_size_that_is_none_is_refused(here, image, size):
    done = here("copy", image, "x.tar", f"--split={size}")
    assert done.returncode == 2
    assert "--split" in done.error


@pytest.mark.parametrize(
    ("medium", "most"),
    [("cd", 737_280_000), ("DVD", 4_700_372_992), ("fat32", 2**32 - 1)],
)
def test_a_medium_stands_for_what_fits_on_it(here, image, medium, most):
    from dockerpush.cli.options import volume_size

    assert 0.99 * most < volume_size(medium) < most
    done = here("copy", image, "x.tar", "--split", medium, "-q")
    assert done.returncode == 0, done.stderr


def test_volumes_that_exist_are_kept_on_request(here, image, volumes):
    before = [one.stat().st_mtime_ns for one in volumes]
    for words in (("pull", image, "-o", "out.tar"), ("copy", image, "out.tar")):
        done = here(*words, "-n", "--split", "64KiB")
        assert done.returncode == 0, done.stderr
        assert "out.tar exists and is left as it is" in done.stderr
    assert [one.stat().st_mtime_ns for one in volumes] == before


def test_a_run_that_is_interrupted_leaves_nothing(run_cli, host, tmp_path):
    archive = large_archive(tmp_path / "large.tar", [20 * MIB], compressible=False)
    target = f"{host}/large:1"
    assert run_cli("push", archive, "-t", target, "-q").returncode == 0
    words = ("copy", target, tmp_path / "out.tar", "--split", "1MiB")
    with run_cli.start(*words, "--limit-rate", "2MiB", stderr=-3) as child:
        deadline = time.monotonic() + 30
        while not list(tmp_path.glob(".out.tar.003.part")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        second = run_cli(*words)
        assert second.returncode == 1
        assert "another run is writing" in second.error
        child.send_signal(signal.SIGTERM)
    assert list(tmp_path.glob("out.tar*")) == []
    assert left(tmp_path) == []


def test_what_a_killed_run_left_goes_with_the_next(run_cli, image, tmp_path):
    for number in (1, 2, 200):
        (tmp_path / f".out.tar.{number:03}.part").write_bytes(b"x" * 100)
    done = run_cli("copy", image, tmp_path / "out.tar", "--split", "64KiB")
    assert done.returncode == 0, done.stderr
    assert left(tmp_path) == []


def test_pushing_from_volumes_takes_little_memory(run_cli, host, tmp_path):
    archive = large_archive(tmp_path / "large.tar", [60 * MIB] * 2, compressible=False)
    subprocess.run(["split", "-b", "10M", "-d", "-a", "3", archive, f"{archive}."])
    archive.unlink()
    words = ("push", archive, "-t", f"{host}/memory:1", "-q", "--compress", "none")
    with run_cli.start(*words, stdout=-3) as child:
        peak = 0
        while child.poll() is None:
            peak = max(peak, peak_rss(child.pid))
            time.sleep(0.01)
    assert child.returncode == 0
    assert peak <= 40 * MIB
    manifest = json.loads(fetch(host, "memory", "manifests/1"))
    assert [layer["size"] > 60 * MIB for layer in manifest["layers"]] == [True, True]


SUMS_CHECK = ["sha256sum", "--strict", "--check", "--quiet", "SHA256SUMS"]


@pytest.mark.parametrize(
    "words",
    [
        ("pull", "{image}", "-o", "dir/"),
        ("copy", "{image}", "oci:dir"),
        ("sync", "list.txt", "oci:dir"),
    ],
)
def test_a_directory_gets_sums_on_request(here, image, tmp_path, words):
    (tmp_path / "list.txt").write_text(f"{image}\n")
    words = [word.format(image=image) for word in words]
    assert here(*words).returncode == 0
    sums = tmp_path / "dir/SHA256SUMS"
    assert not sums.exists()
    for _ in range(2):
        done = here(*words, "--sums")
        assert done.returncode == 0, done.stderr
        subprocess.run(SUMS_CHECK, cwd=tmp_path / "dir", check=True)
    listed = {line.partition("  ")[2] for line in sums.read_text().splitlines()}
    files = (path for path in (tmp_path / "dir").rglob("*") if path.is_file())
    assert {str(path.relative_to(tmp_path / "dir")) for path in files} == {
        *listed,
        "SHA256SUMS",
    }
    assert here("inspect", "dir").returncode == 0
    blobs = (tmp_path / "dir/blobs/sha256").iterdir()
    damage(max(blobs, key=lambda path: path.stat().st_size))
    done = subprocess.run(SUMS_CHECK, cwd=tmp_path / "dir", capture_output=True)
    assert done.returncode == 1


@pytest.mark.parametrize(
    "words",
    [
        ("pull", "{image}"),
        ("pull", "{image}", "-o", "x.tar"),
        ("copy", "{image}", "x.tar"),
        ("copy", "{image}", "{image}2"),
        ("sync", "list.txt", "oci-archive:x.tar"),
        ("sync", "list.txt", "{host}/x"),
    ],
)
def test_sums_are_for_directories_only(here, image, host, tmp_path, words):
    (tmp_path / "list.txt").write_text(f"{image}\n")
    done = here(*(word.format(image=image, host=host) for word in words), "--sums")
    assert done.returncode == 2
    assert "--sums is for an OCI directory" in done.error


def signing_steps(*programs: str) -> list[str]:
    """The lines of the README that sign and check, those of some *programs*."""
    text = "".join(
        block.text
        for block in readme.blocks("sh")
        if block.heading.startswith("Volumes")
    )
    lines = [line.partition("  #")[0].rstrip() for line in text.splitlines()]
    return [line for line in lines if line.split()[0] in programs]


def test_the_readme_shows_how_to_sign_with_ssh(here, image, tmp_path):
    assert here("copy", image, "oci-archive:disk.oci", "--split", "1MB").returncode == 0
    key = tmp_path / ".ssh/id_ed25519"
    key.parent.mkdir(mode=0o700)
    words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key]
    subprocess.run(words, check=True)
    public = key.with_suffix(".pub").read_text()
    (tmp_path / "allowed_signers").write_text(f"carrier {public}")
    steps = signing_steps("ssh-keygen", "sha256sum")
    assert len(steps) == 3
    play(steps, tmp_path)
    (tmp_path / "disk.oci.sha256").write_text("0" * 64 + "  disk.oci.001\n")
    with pytest.raises(subprocess.CalledProcessError):
        play(steps[1:2], tmp_path)


def test_the_readme_shows_how_to_sign_with_gpg(here, image, tmp_path):
    assert here("copy", image, "oci-archive:disk.oci", "--split", "1MB").returncode == 0
    with tempfile.TemporaryDirectory(prefix="gpg", dir="/tmp") as home:
        environment = {"GNUPGHOME": home}
        create = "gpg --batch --quiet --passphrase '' --quick-generate-key carrier"
        steps = signing_steps("gpg", "sha256sum")
        assert len(steps) == 3
        play([create, *steps], tmp_path, **environment)
        (tmp_path / "disk.oci.sha256").write_text("0" * 64 + "  disk.oci.001\n")
        with pytest.raises(subprocess.CalledProcessError):
            play(steps[1:2], tmp_path, **environment)
        subprocess.run(["gpgconf", "--kill", "all"], env={**os.environ, **environment})


def play(steps: list[str], directory: Path, **environment: str) -> None:
    for step in steps:
        subprocess.run(
            ["sh", "-ec", step],
            cwd=directory,
            env={"PATH": os.environ["PATH"], "HOME": str(directory), **environment},
            check=True,
            capture_output=True,
        )
