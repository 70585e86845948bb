"""The recipes and the first steps of the README, run as they are written there."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import USERS
from images import docker_archive, small_archive, tar_of
from readme import README, steps
from registries import read_back, run
from terminal import at_terminal

REGISTRY = "registry.example.com"
FOLDER = "/srv/images"


def block(heading: str, kind: str, number: int = 0) -> str:
    """The fenced block of *kind* that follows the bold or ``##`` *heading*."""
    _, found, text = README.read_text().partition(heading)
    assert found, f"no {heading!r} in the README"
    blocks = re.findall(rf"^```{kind}\n(.*?)^```$", text, re.M | re.S)
    return blocks[number]


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A directory in which ``dockerpush`` is that of these tests."""
    directory = tmp_path / "bin"
    directory.mkdir()
    command = f'#!/bin/sh\nexec {sys.executable} -m dockerpush "$@"\n'
    (directory / "dockerpush").write_text(command)
    (directory / "dockerpush").chmod(0o755)
    return directory


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    directory = tmp_path / "images"
    directory.mkdir()
    return directory


@pytest.fixture
def machine(tmp_path: Path, programs: Path, folder: Path, run_cli):
    """Runs shell text as a job does: no terminal, and hardly any environment."""

    def execute(text: str, host: str, shell: tuple[str, ...] = ("sh",), **more: str):
        text = text.replace(REGISTRY, host).replace(FOLDER, str(folder))
        return subprocess.run(
            [*shell, "-c", text],
            env={
                "PATH": f"{programs}:/usr/bin:/bin",
                "HOME": str(run_cli.home),
                "TMPDIR": str(tmp_path / "temporary"),
                **more,
            },
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return execute


class TestCron:
    @pytest.fixture
    def command(self) -> str:
        path, line = block("**Cron**", "cron").splitlines()
        assert path.startswith("PATH=/")
        schedule, command = line.split(None, 5)[:5], line.split(None, 5)[5]
        assert all(re.fullmatch(r"[\d*/,-]+", field) for field in schedule)
        assert "%" not in command  # a new line to cron
        return command

    def test_it_is_silent_on_success(self, command, machine, folder, docker_registry):
        small_archive(folder / "app.tar")
        done = machine(command, docker_registry.host)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert read_back(docker_registry.host, "team/app", "nightly").layers

    def test_it_says_one_line_on_failure(self, command, machine, docker_registry):
        done = machine(command, docker_registry.host)
        assert done.returncode == 4
        assert done.stdout == ""
        assert len(done.stderr.splitlines()) == 1
        assert done.stderr.startswith("error: ")

    def test_also_when_the_registry_refuses(
        self, command, machine, folder, htpasswd_registry
    ):
        small_archive(folder / "app.tar")
        done = machine(command, htpasswd_registry.host)
        assert done.returncode == 3
        assert len(done.stderr.splitlines()) == 1

    def test_without_a_home_that_can_be_written(
        self, command, machine, folder, docker_registry, tmp_path
    ):
        small_archive(folder / "app.tar")
        (tmp_path / "file").write_text("")
        done = machine(command, docker_registry.host, HOME=str(tmp_path / "file"))
        assert done.returncode == 0, done.stderr
        assert read_back(docker_registry.host, "team/app", "nightly").layers


class TestTimer:
    def unit(self, number: int) -> configparser.ConfigParser:
        parser = configparser.ConfigParser(interpolation=None)
        parser.optionxform = str  # type: ignore[assignment]
        parser.read_string(block("**A systemd timer**", "ini", number))
        return parser

    def test_the_service_pushes(self, machine, folder, tmp_path, docker_registry):
        service = self.unit(0)["Service"]
        small_archive(folder / "app.tar")
        name, _, state = service["Environment"].partition("=")
        assert state == f"/var/lib/{service['StateDirectory']}"
        environment = {name: str(tmp_path / "var")}
        command = service["ExecStart"].replace("/usr/local/bin/", "")
        done = machine(command, docker_registry.host, **environment)
        assert (done.returncode, done.stderr) == (0, "")
        assert (tmp_path / "var" / "push_history.json").exists()

    def test_the_timer_has_a_time(self):
        timer = self.unit(1)
        assert timer["Timer"]["OnCalendar"]
        assert timer["Install"]["WantedBy"] == "timers.target"

    @pytest.mark.skipif(
        shutil.which("systemd-analyze") is None, reason="no systemd here"
    )
    def test_systemd_understands_both(self, tmp_path):
        names = ("push-image.service", "push-image.timer")
        for number, name in enumerate(names):
            text = block("**A systemd timer**", "ini", number)
            (tmp_path / name).write_text(text)
        when = self.unit(1)["Timer"]["OnCalendar"]
        run("systemd-analyze", "calendar", when)
        done = subprocess.run(
            ["systemd-analyze", "verify", *(tmp_path / name for name in names)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Unknown" not in done.stderr
        assert "Failed to parse" not in done.stderr


class TestContinuousIntegration:
    def test_gitlab(self, machine, folder, htpasswd_registry):
        text = block("**GitLab CI**", "yaml")
        small_archive(folder / "image.tar")
        predefined = {
            "CI_REGISTRY_USER": "alice",
            "CI_REGISTRY_PASSWORD": USERS["alice"],
            "CI_REGISTRY_IMAGE": f"{htpasswd_registry.host}/group/project",
            "CI_COMMIT_SHORT_SHA": "1ecfd275",
        }
        variables = dict(re.findall(r"^    (\w+): \$(\w+)$", text, re.M))
        given = {name: predefined[value] for name, value in variables.items()}
        (script,) = re.findall(r"^    - (.*)$", text, re.M)
        done = machine(script, "", ("bash", "-e"), **predefined, **given)
        assert done.returncode == 0, done.stderr
        pulled = read_back(
            *(htpasswd_registry.host, "group/project", "1ecfd275"),
            credentials=("alice", USERS["alice"]),
        )
        assert pulled.layers
        (artifact,) = re.findall(r"paths: \[(.*)\]", text)
        assert (folder / artifact).read_text().startswith("sha256:")

    def test_github(self, machine, folder, htpasswd_registry, tmp_path):
        text = block("**GitHub Actions**", "yaml")
        small_archive(folder / "image.tar")
        contexts = {"github.actor": "alice", "secrets.GITHUB_TOKEN": USERS["alice"]}
        pattern = r"^    (\w+): \$\{\{ (\S+) \}\}$"
        given = {n: contexts[value] for n, value in re.findall(pattern, text, re.M)}
        script = text.partition("run: |\n")[2].replace(
            "ghcr.io", htpasswd_registry.host
        )
        output = tmp_path / "output"
        done = machine(
            *(script, "", ("bash", "-e", "-o", "pipefail")),
            GITHUB_REPOSITORY="Octo-Org/App",
            GITHUB_SHA="5f3c1e0",
            GITHUB_OUTPUT=str(output),
            **given,
        )
        assert done.returncode == 0, done.stderr
        name = f"{htpasswd_registry.host}/octo-org/app"
        assert re.fullmatch(
            rf"image={name}@sha256:[0-9a-f]{{64}}\n", output.read_text()
        )


class TestFolder:
    def test_every_archive_is_pushed(self, machine, folder, docker_registry):
        for name in ("one", "two"):
            small_archive(folder / f"{name}.tar", names=[f"demo/{name}:1"])
        done = machine(block("**A folder of archives**", "sh"), docker_registry.host)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        for name in ("one", "two"):
            assert read_back(docker_registry.host, f"team/demo/{name}", "1").layers

    def test_one_that_fails_does_not_stop_the_others(
        self, machine, folder, docker_registry
    ):
        (folder / "broken.tar").write_bytes(b"x" * 10_000)
        small_archive(folder / "good.tar", names=["demo/good:1"])
        done = machine(block("**A folder of archives**", "sh"), docker_registry.host)
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1] == f"not pushed: {folder}/broken.tar"
        assert read_back(docker_registry.host, "team/demo/good", "1").layers


class TestFirstSteps:
    """The three commands at a pseudo-terminal, answer by answer."""

    @pytest.fixture
    def podman(self, tmp_path: Path, programs: Path) -> str:
        """The PATH with a podman that has the image nginx and nothing else."""
        real = run("sh", "-c", "command -v podman").decode().strip()
        flags = f"--root {tmp_path}/storage --storage-driver vfs"
        (programs / "podman").write_text(f'#!/bin/sh\nexec {real} {flags} "$@"\n')
        (programs / "podman").chmod(0o755)
        archive = docker_archive(
            tmp_path / "nginx.tar",
            [tar_of({"file": b"x" * 100_000})],
            names=["docker.io/library/nginx:latest"],
        )
        run(programs / "podman", "load", "-q", "-i", archive)
        archive.unlink()
        return f"{programs}:/usr/bin:/bin"

    def test_login_save_push(self, podman, folder, htpasswd_registry, run_cli):
        host = htpasswd_registry.host
        transcript = block("### Log in", "console").replace(REGISTRY, host)
        for command, shown in steps(transcript):
            words = shlex.split(command)[1:]
            environment = {"PATH": podman}
            with at_terminal(run_cli, *words, cwd=folder, env=environment) as terminal:
                for line in shown.splitlines():
                    play(terminal, line)
                assert terminal.end() == 0, terminal.text
        credentials = ("alice", USERS["alice"])
        stored = read_back(host, "team/nginx", "latest", credentials=credentials)
        assert stored.layers


QUESTION = re.compile(
    r"(Username at \S+:|Password:|Which \(.*\):|Push to \[.*\]:) ?(.*)"
)


def play(terminal, line: str) -> None:
    """Wait for *line*; where it is a question, give the answer that it shows."""
    asked = QUESTION.fullmatch(line)
    shown = asked[1] if asked else line
    terminal.expect(".*".join(map(re.escape, shown.split("…"))))
    if asked:
        answer = USERS["alice"] if asked[1] == "Password:" else asked[2]
        terminal.type(f"{answer}\n")
