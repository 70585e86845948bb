"""What a start costs: the modules that are loaded, which is most of a short run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from images import small_archive

from dockerpush.server import Registry, RegistryServer

TIMED = {"PYTHONPROFILEIMPORTTIME": "1"}
"""Has Python tell of every import, one line each on standard error."""

NEEDED = "urllib3, argparse, concurrent.futures, json, logging, socket, ssl, tempfile"
"""What a push cannot do without may load what it likes."""

MAKERS_OF_CODE = {"ast", "dataclasses", "dis", "inspect"}
RARE = {
    *("difflib", "getpass", "html", "html.entities", "shlex", "termios", "tty"),
    *("encodings.idna", "stringprep", "unicodedata"),
    *("http.server", "logging.handlers", "tarfile", "tqdm"),
    *("isal.igzip_lib", "lzma", "zstandard"),
    *(
        f"dockerpush.{name}"
        for name in (
            *("api", "runtimes", "server", "state.cache", "sync"),
            *("archive.forward", "archive.zstd", "cli.commands.login"),
            *("registry.tls", "transfer.stream"),
        )
    ),
}
"""What only other commands, mistakes, questions, bars or compressed archives need."""


def imported(stderr: str) -> set[str]:
    """The names that a run told of under TIMED."""
    lines = [line for line in stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines}


@pytest.fixture(scope="module")
def floor() -> set[str]:
    """What an interpreter loads that imports NEEDED."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", f"import {NEEDED}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return imported(done.stderr)


def test_a_push_of_what_is_there_loads_only_what_it_needs(run_cli, tmp_path, floor):
    """Over plain HTTP, with no credentials and nothing to compress."""
    archive = small_archive(tmp_path / "image.tar")
    with RegistryServer(Registry(tmp_path / "registry")) as server:
        push = ("push", archive, "-t", f"{server.host}/a:1", "--plain-http", "-q")
        assert run_cli(*push).returncode == 0
        done = run_cli(*push, env=TIMED)
    assert done.returncode == 0, done.stderr
    loaded = imported(done.stderr)
    assert "dockerpush.transfer.push_image" in loaded
    assert (loaded - floor) & (MAKERS_OF_CODE | RARE) == set()
    assert len([name for name in loaded if name.startswith("dockerpush")]) <= 125


COUNTING = """
import gc, sys
looks = []
gc.callbacks.append(lambda phase, about: phase == "start" and looks.append(about))
from dockerpush.__main__ import main
code = main()
print("looks", len(looks))
sys.exit(code)
"""
"""Runs a command, and prints how often Python looked for garbage in it."""


def test_a_command_looks_for_hardly_any_garbage_while_it_loads(run_cli, tmp_path):
    """Every 700 objects, as Python does by itself, is 25 times in a short command."""
    archive = small_archive(tmp_path / "image.tar")
    with RegistryServer(Registry(tmp_path / "registry")) as server:
        assert run_cli("push", archive, "-t", f"{server.host}/a:1").returncode == 0
        done = subprocess.run(
            [sys.executable, "-c", COUNTING, "tags", f"{server.host}/a"],
            capture_output=True,
            text=True,
            check=True,
        )
    tag, looks = done.stdout.splitlines()
    assert tag == "1"
    assert int(looks.split()[1]) <= 6


def test_importing_the_package_loads_nothing_else():
    code = "import sys; old = {*sys.modules}; import dockerpush; "
    done = subprocess.run(
        [sys.executable, "-c", code + "print(*({*sys.modules} - old))"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert {*done.stdout.split()} - {"__future__"} == {"dockerpush"}


def test_the_version_is_printed_before_anything_is_loaded(run_cli):
    done = run_cli("--version", env=TIMED)
    ours = {name for name in imported(done.stderr) if name.startswith("dockerpush")}
    assert done.stdout.startswith("dockerpush ")
    assert ours <= {"dockerpush", "dockerpush.__main__"}


def test_a_push_writes_its_messages_before_it_ends(run_cli, tmp_path: Path):
    """The end of a process frees nothing in order, but no output is lost."""
    with RegistryServer(Registry(tmp_path / "registry")) as server:
        archive = small_archive(tmp_path / "image.tar")
        done = run_cli("push", archive, "-t", f"{server.host}/a:1", "--json")
    assert done.json["target"].endswith("/a:1")


@pytest.mark.parametrize("words", [("psh",), ("-q", "psh", "push"), ("psh", "push")])
def test_a_mistyped_command_is_understood(run_cli, words):
    done = run_cli(*words)
    assert done.returncode == 2
    assert done.stderr == "error: unknown command 'psh'; did you mean push?\n"


@pytest.mark.parametrize(
    "words", [("push", "--help"), ("-q", "push", "--help"), ("push", "pull", "--help")]
)
def test_an_option_may_stand_before_the_command(run_cli, words):
    done = run_cli(*words)
    assert done.returncode == 0
    assert "--target" in done.stdout and "--quiet" in done.stdout
