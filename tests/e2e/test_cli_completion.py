"""Completion scripts: shells can source them, and complete."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from dockerpush.cli.commands.completion import commands
from dockerpush.cli.main import COMMANDS, build_parser

COMPLETE = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _dockerpush
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
        )
        assert done.stderr == ""
        return done.stdout.split()

    return offer


class TestBash:
    def test_commands(self, complete):
        assert complete("") == list(COMMANDS)
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
        assert complete("push", "--progress", "=", "pl") == ["plain"]
        assert complete("completion", "z") == ["zsh"]

    def test_files_are_left_to_the_shell(self, complete, run_cli):
        assert complete("push", "--cacert", "a") == []
        assert complete("push", "ima") == []
        assert "-o default" in run_cli("completion", "bash").stdout

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
