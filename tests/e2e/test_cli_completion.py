"""Completion scripts: shells can source them, and complete."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from images import small_archive

from dockerpush.cli.commands.completion import commands
from dockerpush.cli.main import COMMANDS, WITHOUT_OPTIONS, build_parser
from dockerpush.server import Registry, RegistryServer

COMPLETE = """
source "$1"; shift
COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
# bash breaks words at each colon and equals sign
read -ra COMP_WORDS <<< "$(printf '%s' "$*" | sed -E 's/[:=]/ & /g')"
if [[ ${*: -1} == "" || ${*: -1} == *[:=] ]]; then COMP_WORDS+=(""); fi
COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _dockerpush
printf '%s\\n' "${COMPREPLY[@]}"
"""


def script(run_cli, shell: str, tmp_path: Path) -> Path:
    done = run_cli("completion", shell)
    assert done.returncode == 0, done.stderr
    path = tmp_path / f"completion.{shell}"
    path.write_text(done.stdout)
    return path


@pytest.fixture
def complete(run_cli, tmp_path):
    """What bash offers for the last of some words."""
    path = script(run_cli, "bash", tmp_path)

    def offer(*words: str) -> list[str]:
        done = subprocess.run(
            ["bash", "--norc", "-c", COMPLETE, "bash", path, "dockerpush", *words],
            capture_output=True,
            text=True,
            check=True,
            env=with_program(run_cli, tmp_path),
        )
        assert done.stderr == ""
        return done.stdout.split()

    return offer


def with_program(run_cli, tmp_path: Path) -> dict[str, str]:
    """An environment in which a shell finds ``dockerpush``."""
    folder = tmp_path / "bin"
    folder.mkdir(exist_ok=True)
    program = folder / "dockerpush"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m dockerpush "$@"\n')
    program.chmod(0o755)
    environment = run_cli.environment()
    return {**environment, "PATH": f"{folder}:{environment['PATH']}"}


@pytest.fixture
def remembered(run_cli, tmp_path):
    """A registry that was logged in to, pushed to, listed and pulled from."""
    with RegistryServer(Registry(tmp_path / "registry")) as server:
        archive = small_archive(tmp_path / "image.tar", names=["team/a:1", "team/b:2"])
        for tag in ("1.0", "1.1"):
            assert (
                run_cli("push", archive, "-t", f"{server.host}/app:{tag}").returncode
                == 0
            )
        assert run_cli("tags", f"{server.host}/app").returncode == 0
        assert run_cli("pull", f"{server.host}/app:1.0").returncode == 0
        host = server.host
    login = ("login", "reg.test:5000", "-u", "me", "-p", "secret", "--skip-check")
    assert run_cli(*login).returncode == 0
    return host  # nobody listens there any more


class TestBash:
    def test_commands(self, complete):
        assert complete("") == [*COMMANDS, *WITHOUT_OPTIONS]
        assert complete("comp") == ["completion"]

    def test_options_of_the_command_alone(self, complete):
        assert complete("push", "--dry") == ["--dry-run"]
        assert complete("save", "--dry") == []
        assert complete("push", "image.tar", "-t", "a", "--ye") == ["--yes"]

    def test_options_before_the_command(self, complete):
        assert complete("--debug", "comp") == ["completion"]

    def test_values(self, complete):
        assert complete("push", "--progress", "") == ["auto", "tty", "plain", "none"]
        assert complete("push", "--if-busy", "w") == ["wait"]
        assert complete("push", "--progress=pl") == ["plain"]
        assert complete("completion", "z") == ["zsh"]

    def test_files_are_left_to_the_shell(self, complete, run_cli):
        assert complete("push", "--cacert", "a") == []
        assert complete("push", "ima") == []
        assert "-o default" in run_cli("completion", "bash").stdout

    @pytest.mark.parametrize(
        "words",
        [
            ("push", "image.tar", "-t"),
            ("push", "image.tar", "--target"),
            ("pull",),
            ("inspect",),
            ("digest",),
            ("copy",),
            ("verify", "image.tar"),
            ("cache", "rm"),
        ],
    )
    def test_repositories_and_then_their_tags(self, words, complete, remembered):
        host, port = remembered.split(":")
        assert complete(*words, host[:5]) == [f"{remembered}/app"]
        assert complete(*words, f"{host}:{port}/a") == [f"{port}/app"]
        assert complete(*words, f"{host}:{port}/app:") == ["1.0", "1.1"]
        assert complete(*words, f"{host}:{port}/app:1.1") == ["1.1"]

    @pytest.mark.parametrize(
        "words",
        [("push", "x.tar", "--registry"), ("login",), ("logout",), ("config",)],
    )
    def test_known_registries(self, words, complete, remembered):
        assert complete(*words, "reg") == ["reg.test:5000"]
        assert complete(*words, "reg.test:") == ["5000"]
        assert complete(*words, remembered.partition(":")[0]) == [remembered]

    def test_the_names_in_an_archive(self, complete, tmp_path, remembered):
        line = ("push", str(tmp_path / "image.tar"), "--name")
        assert complete(*line, "team/") == ["team/a:1", "team/b:2"]
        assert complete(*line, "team/a:") == ["1"]
        assert complete("push", "nosuch.tar", "--name", "") == []

    def test_every_option_of_every_command_is_offered(self, complete):
        for command in commands(build_parser()):
            offered = set(complete(command.name, "-"))
            for option in command.options:
                assert offered.issuperset(option.names), command.name


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_can_read_theirs(shell, run_cli, tmp_path):
    path = script(run_cli, shell, tmp_path)
    text = path.read_text()
    for command in COMMANDS:
        assert command in text
    assert "if-busy" in text
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    subprocess.run([shell, "-n", path], check=True)


def test_asking_shows_no_error_and_asks_no_registry(run_cli, remembered, tmp_path):
    (tmp_path / "broken.tar").write_bytes(b"no tar" * 500)
    for words in (
        ("targets", "", "dockerpush"),
        ("images", f"{remembered}/app:", "dockerpush"),
        ("registries", ""),
        ("names", "", str(tmp_path / "broken.tar")),
        ("nosuch",),
        (),
    ):
        done = run_cli("completion", "--values", *words)
        assert done.stderr == ""
        assert done.returncode in (0, 1)


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish_asks_for_targets(run_cli, tmp_path, remembered):
    path = script(run_cli, "fish", tmp_path)
    line = f"dockerpush push x.tar -t {remembered}/app:1"
    done = subprocess.run(
        ["fish", "--no-config", "-c", f'source {path}; complete -C "{line}"'],
        capture_output=True,
        text=True,
        check=True,
        env=with_program(run_cli, tmp_path),
    )
    assert f"{remembered}/app:1.1" in done.stdout


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish_completes(run_cli, tmp_path):
    path = script(run_cli, "fish", tmp_path)
    done = subprocess.run(
        ["fish", "--no-config", "-c", f'source {path}; complete -C "dockerpush pus"'],
        capture_output=True,
        text=True,
        check=True,
        env=run_cli.environment(),
    )
    assert done.stdout.startswith("push\t")


def test_an_unknown_shell_is_refused(run_cli):
    done = run_cli("completion", "tcsh")
    assert done.returncode == 2
    assert "tcsh" in done.error
