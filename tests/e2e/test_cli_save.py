"""Saving images as a user does: a real podman, the picker at a terminal, failures."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path

import pytest
from images import docker_archive, tar_of
from registries import read_back, run
from terminal import at_terminal

from dockerpush.server import Registry, RegistryServer

NGINX = "docker.io/library/nginx:latest"
TOOL = "localhost/tool:3"
OTHER = "quay.io/other/nginx:latest"


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory, runroot: str) -> Path:
    """A directory with a ``podman`` that keeps three images in a storage of its own."""
    directory = tmp_path_factory.mktemp("podman")
    flags = [
        *("--root", str(directory / "root"), "--runroot", runroot),
        *("--storage-driver", "vfs"),
    ]
    bin = directory / "bin"
    bin.mkdir()
    real = run("sh", "-c", "command -v podman").decode().strip()
    write_program(bin / "podman", f'exec {real} {" ".join(flags)} "$@"')
    for number, name in enumerate((NGINX, TOOL, OTHER)):
        layer = tar_of({"file": b"%d" % number * 100_000})
        archive = docker_archive(directory / "image.tar", [layer], names=[name])
        run(bin / "podman", "load", "-q", "-i", archive)
    return bin


def write_program(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory):
    registry = Registry(tmp_path_factory.mktemp("embedded"))
    with RegistryServer(registry) as server:
        yield server.host


@pytest.fixture
def out(tmp_path: Path) -> Path:
    directory = tmp_path / "out"
    directory.mkdir()
    return directory


@pytest.fixture
def save(run_cli, programs, out):
    """``save`` with this podman, into *out*."""

    def start(*arguments, **options):
        return run_cli(
            *("save", "--runtime", programs / "podman"),
            *("--output-dir", out, *arguments),
            **options,
        )

    return start


def tags(path: Path) -> list[str]:
    with tarfile.open(path) as tar:
        entries = json.load(tar.extractfile("manifest.json"))
    return [name for entry in entries for name in entry["RepoTags"]]


class TestNamed:
    def test_an_image_becomes_a_file_with_its_name(self, save, out):
        done = save("nginx")
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{out}/nginx_latest.tar\n"
        assert tags(out / "nginx_latest.tar") == [NGINX]
        assert [path.name for path in out.iterdir()] == ["nginx_latest.tar"]

    def test_several_become_several(self, save, out):
        assert save(NGINX, TOOL).returncode == 0
        assert sorted(p.name for p in out.iterdir()) == [
            "nginx_latest.tar",
            "tool_3.tar",
        ]

    def test_or_one_with_a_name_for_it(self, save, out):
        assert save(NGINX, TOOL, "-o", out / "both.tar").returncode == 0
        assert sorted(tags(out / "both.tar")) == sorted([NGINX, TOOL])

    def test_two_that_want_one_file_are_distinguished_first(self, save, out):
        done = save(NGINX, OTHER)
        assert done.returncode == 2
        assert "nginx_latest.tar" in done.error
        assert list(out.iterdir()) == []

    @pytest.mark.parametrize("output", ["-", "/dev/stdout"])
    def test_standard_output_holds_the_archive_alone(
        self, output, programs, run_cli, tmp_path
    ):
        piped = tmp_path / "piped.tar"
        with piped.open("wb") as file:
            child = run_cli.start(
                *("save", NGINX, "-o", output, "--runtime", programs / "podman"),
                stdout=file,
                stderr=subprocess.PIPE,
            )
            _, said = child.communicate(timeout=60)
        assert child.returncode == 0, said
        assert tags(piped) == [NGINX]
        assert b"/dev/stdout" not in piped.read_bytes()

    def test_an_existing_file_stays_unless_forced(self, save, out):
        file = out / "nginx_latest.tar"
        file.write_text("mine")
        done = save("nginx")
        assert done.returncode == 2
        assert "--force" in done.error
        assert file.read_text() == "mine"
        assert save("nginx", "--force").returncode == 0
        assert tags(file) == [NGINX]

    def test_an_image_that_podman_does_not_know(self, save, out):
        done = save("nosuch:1")
        assert done.returncode == 4
        assert "nosuch:1" in done.error
        assert list(out.iterdir()) == []

    def test_no_name_and_no_terminal(self, save):
        done = save()
        assert done.returncode == 2
        assert "podman images" in done.error

    def test_a_directory_that_does_not_exist(self, save, out):
        done = save("nginx", "--output-dir", out / "missing")
        assert done.returncode == 4
        assert "missing" in done.error

    @pytest.mark.parametrize("prefix", ["oci:", "oci-archive:", "docker-archive:"])
    def test_a_prefix_is_no_part_of_a_name(self, prefix, save, out):
        done = save(NGINX, "-o", f"{prefix}{out}/x.tar")
        assert done.returncode == 2
        assert done.error.endswith("save writes a docker-archive: give its path alone")
        assert list(out.iterdir()) == []

    def test_no_runtime_at_all(self, run_cli, tmp_path):
        done = run_cli("save", "nginx", env={"PATH": str(tmp_path)})
        assert done.returncode == 4
        assert "no runtime found" in done.error
        assert "--runtime" in done.error


@pytest.mark.long
def test_progress_is_a_line_now_and_then(run_cli, out, tmp_path):
    program = write_program(
        tmp_path / "docker",
        'if [ "$1" = --version ]; then echo "Docker version 28.2.2"; exit; fi\n'
        "for i in 1 2 3; do head -c 1000000 /dev/zero; sleep 0.3; done",
    )
    command = ["save", "nginx", "--runtime", program, "--output-dir", out]
    done = run_cli(*command, "--progress-interval", "0.2")
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    line = r"saving nginx [\d.]+ MiB [\d.]+ MiB/s"
    assert re.fullmatch(line, lines[0])
    assert re.fullmatch(r"saved nginx: 2\.9 MiB in [\d.]+ s", lines[-1])
    quiet = run_cli(*command, "--force", "-q", "--progress-interval", "0.2")
    assert (quiet.returncode, quiet.stderr) == (0, "")


class TestFailures:
    def fails(self, run_cli, out, tmp_path, script):
        program = write_program(tmp_path / "docker", script)
        done = run_cli(
            *("save", "nginx", "--runtime", program, "--output-dir", out, "-q")
        )
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1
        assert list(out.iterdir()) == []
        return done

    def test_a_runtime_that_fails_half_way_leaves_nothing(self, run_cli, out, tmp_path):
        done = self.fails(
            *(run_cli, out, tmp_path),
            'if [ "$1" = --version ]; then echo "Docker version 28.2.2"; exit; fi\n'
            "head -c 2000000 /dev/zero; echo 'Error: disk on fire' >&2; exit 1",
        )
        assert "disk on fire" in done.error

    def test_a_disk_that_fills_up_leaves_nothing(self, run_cli, out, tmp_path):
        """A limit on the size of files stands in for the disk's end."""
        write_program(
            tmp_path / "docker",
            'if [ "$1" = --version ]; then echo "Docker version 28.2.2"; exit; fi\n'
            "cat /dev/zero",
        )
        child = subprocess.Popen(
            ["sh", "-c", 'ulimit -f 1000; exec "$0" "$@"', *save_command(tmp_path)],
            env=run_cli.environment(),
            cwd=out,
            stderr=subprocess.PIPE,
        )
        _, said = child.communicate(timeout=60)
        assert child.returncode == 1, said
        assert said.decode().splitlines()[-1].startswith("error: ")
        assert list(out.iterdir()) == []

    def test_ctrl_c_leaves_nothing(self, run_cli, out, tmp_path):
        program = write_program(
            tmp_path / "docker",
            'if [ "$1" = --version ]; then echo "Docker version 28.2.2"; exit; fi\n'
            "head -c 1000000 /dev/zero; exec sleep 60",
        )
        command = ["save", "nginx", "--runtime", program, "--output-dir", out]
        with at_terminal(run_cli, *command) as terminal:
            deadline = time.monotonic() + 20
            while not list(out.iterdir()):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            terminal.type("\x03")
            assert terminal.end() == -signal.SIGINT
        assert list(out.iterdir()) == []


def save_command(directory: Path) -> list[str]:
    import sys

    root = Path(__file__).parents[2]
    start = f"import sys; sys.path.insert(0, {str(root)!r}); "
    start += "from dockerpush.__main__ import main; sys.exit(main())"
    return [
        *(sys.executable, "-c", start),
        *("save", "nginx", "--runtime", str(directory / "docker")),
    ]


class TestAtATerminal:
    def start(self, run_cli, programs, out, *more):
        return at_terminal(
            run_cli,
            *("save", "--runtime", programs / "podman", "--output-dir", out, *more),
        )

    def test_the_list_and_a_choice_by_number(self, run_cli, programs, out):
        with self.start(run_cli, programs, out) as terminal:
            terminal.expect("Which .*: ")
            number = next(
                line.partition(")")[0].strip()
                for line in terminal.text.splitlines()
                if TOOL in line
            )
            terminal.type(f"{number}\n")
            assert terminal.end() == 0
        assert [path.name for path in out.iterdir()] == ["tool_3.tar"]

    def test_a_wrong_choice_is_asked_for_again(self, run_cli, programs, out):
        with self.start(run_cli, programs, out) as terminal:
            terminal.expect("Which .*: ")
            terminal.type("99\n")
            terminal.expect("Which .*: ")
            terminal.type("tool nginx:latest\n")
            terminal.end()
        assert "1 to 3" in terminal.text

    def test_all_into_one(self, run_cli, programs, out):
        file = out / "all.tar"
        with self.start(run_cli, programs, out, "-o", file) as terminal:
            terminal.expect("Which .*: ")
            terminal.type("*\n")
            assert terminal.end() == 0
        assert sorted(tags(file)) == sorted([NGINX, TOOL, OTHER])

    @pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 2), ("", 2)])
    def test_overwriting_is_asked_for(self, answer, code, run_cli, programs, out):
        file = out / "tool_3.tar"
        file.write_text("mine")
        with self.start(run_cli, programs, out, TOOL) as terminal:
            terminal.expect(r"Overwrite it\? \[y/N\]")
            terminal.type(f"{answer}\n")
            assert terminal.end() == code
        assert (file.read_bytes() == b"mine") == (code != 0)

    def test_an_archive_is_not_written_to_a_terminal(self, run_cli, programs, out):
        with self.start(run_cli, programs, out, TOOL, "-o", "-") as terminal:
            assert terminal.end() == 2
        assert "terminal" in terminal.text

    def test_no_images_at_all(self, run_cli, out, tmp_path):
        real = run("sh", "-c", "command -v podman").decode().strip()
        with tempfile.TemporaryDirectory(dir="/tmp") as short:  # podman wants it so
            flags = f"--root {short}/r --runroot {short}/rr --storage-driver vfs"
            write_program(tmp_path / "podman", f'exec {real} {flags} "$@"')
            with self.start(run_cli, tmp_path, out) as terminal:
                assert terminal.end() == 4, terminal.text
        assert "podman has no local images" in terminal.text


class TestIntoAPush:
    """``push --runtime``: no tar on disk in between."""

    def test_an_image_goes_straight_to_a_registry(self, run_cli, programs, host):
        target = f"{host}/from/podman:1"
        done = run_cli(
            *("push", NGINX, "-t", target, "--runtime", programs / "podman", "--json")
        )
        assert done.returncode == 0, done.stderr
        assert done.json["target"] == target
        stored = read_back(host, "from/podman", "1")
        assert stored.layers == stored.diff_ids

    def test_its_name_says_where_to(self, run_cli, programs, host):
        done = run_cli(
            *("push", TOOL, "--registry", f"{host}/team", "--yes", "--json"),
            *("--runtime", programs / "podman"),
        )
        assert done.returncode == 0, done.stderr
        assert done.json["target"] == f"{host}/team/tool:3"

    def test_an_unknown_image_moves_no_tag(self, run_cli, programs, host):
        done = run_cli(
            *("push", "nosuch:1", "-t", f"{host}/none:1"),
            *("--runtime", programs / "podman"),
        )
        assert done.returncode == 4
        assert "nosuch:1" in done.error
        with pytest.raises(RuntimeError):
            read_back(host, "none", "1")

    def test_a_runtime_that_fails_half_way_moves_no_tag(self, run_cli, tmp_path, host):
        archive = docker_archive(tmp_path / "i.tar", [tar_of({"f": b"x"})])
        write_program(
            tmp_path / "docker",
            'if [ "$1" = --version ]; then echo "Docker version 28.2.2"; exit; fi\n'
            f"cat {archive}; echo 'Error: lost the daemon' >&2; exit 1",
        )
        done = run_cli(
            *("push", "app:1", "-t", f"{host}/half:1"),
            *("--runtime", tmp_path / "docker"),
        )
        assert done.returncode == 1
        assert "lost the daemon" in done.error
        with pytest.raises(RuntimeError):
            read_back(host, "half", "1")

    def test_what_needs_a_file_says_so(self, run_cli, programs, host):
        for flag in ("--dry-run", "--all-tags", "--verify"):
            done = run_cli(
                *("push", TOOL, "-t", f"{host}/a", "--runtime", "podman", flag)
            )
            assert done.returncode == 2, flag
