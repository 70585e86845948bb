"""The tests in several processes: each runs once, and the end says what all came to."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("side_by_side.py")

RAN = """\
import os, signal, time, pytest
def ran(name):
    with open("ran", "a") as file:
        file.write(f"{name} {os.getpid()}\\n")
"""
"""What the test files below begin with."""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A directory for a few test files, with the script among them."""
    directory = tmp_path / "project"
    (directory / "tests").mkdir(parents=True)
    shutil.copy(SCRIPT, directory / "tests")
    (directory / "setup.cfg").write_text("[tool:pytest]\ntestpaths = tests\n")
    return directory


def write(project: Path, name: str, code: str) -> None:
    (project / f"tests/test_{name}.py").write_text(RAN + code)


def start(project: Path, *arguments: str) -> subprocess.Popen[str]:
    """The script, started as in the background of a shell, which ignores SIGINT."""
    return subprocess.Popen(
        [sys.executable, project / "tests/side_by_side.py", *arguments],
        env={"PATH": os.environ["PATH"], "TMPDIR": os.environ["TMPDIR"]},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )


def run(project: Path, *arguments: str) -> tuple[int, list[str]]:
    """The exit code, and the lines of the output."""
    with start(project, *arguments) as child:
        printed = child.communicate(timeout=60)[0]
    return child.returncode, printed.splitlines()


def what_ran(project: Path) -> list[str]:
    return [line.split()[0] for line in (project / "ran").read_text().splitlines()]


def test_each_test_runs_once_and_the_last_line_has_the_totals(project):
    for name in "abc":
        write(project, name, f"def test_it():\n    ran({name!r})\n")
    write(project, "skip", "def test_it():\n    ran('skip')\n    pytest.skip('no')\n")
    write(
        project,
        "more",
        "@pytest.fixture\ndef broken():\n    raise OSError\n"
        "def test_fails():\n    ran('fails')\n    assert 'this' == 'that'\n"
        "def test_error(broken):\n    pass\n"
        "def test_good():\n    ran('good')\n",
    )
    code, lines = run(project)
    assert code == 1
    assert sorted(what_ran(project)) == ["a", "b", "c", "fails", "good", "skip"]
    assert lines[-1] == "4 passed, 1 skipped, 2 failed"
    assert any("assert 'this' == 'that'" in line for line in lines)
    failed = json.loads((project / ".pytest_cache/v/cache/lastfailed").read_text())
    assert set(failed) == {
        "tests/test_more.py::test_fails",
        "tests/test_more.py::test_error",
    }


def test_all_well_is_0_and_options_reach_pytest(project):
    for name in "abc":
        write(project, name, f"def test_{name}():\n    ran({name!r})\n")
    assert run(project, "-k", "a or b")[1][-1] == "2 passed, 0 skipped, 0 failed"
    assert run(project)[0] == 0
    assert sorted(what_ran(project)) == ["a", "a", "b", "b", "c"]


def test_nothing_to_run_is_no_success(project):
    code, lines = run(project)
    assert code == 5
    assert lines[-1].startswith("0 passed, 0 skipped, 0 failed, process 1 ended with 5")


def test_a_file_that_cannot_be_read_is_no_success(project):
    write(project, "a", "import nothing_of_that_name\n")
    write(project, "b", "def test_it():\n    pass\n")
    assert run(project)[0] == 2


def test_a_process_that_dies_is_named(project):
    write(project, "a", "def test_it():\n    os.kill(os.getpid(), signal.SIGKILL)\n")
    write(project, "b", "def test_it():\n    ran('b')\n")
    code, lines = run(project)
    assert code == 128 + signal.SIGKILL
    assert lines[-1].endswith("ended with 137")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_of_them(number, project):
    """And each tells what it had found by then."""
    waits = "def test_it():\n    ran('a')\n    time.sleep(30)\n"
    for name in "abcdefgh":
        write(project, name, waits)
    with start(project) as child:
        while not child.stdout.readline().startswith("collected"):
            assert child.poll() is None  # and the output comes while they run
        wait_for(lambda: (project / "ran").exists())
        child.send_signal(number)
        printed = child.communicate(timeout=30)[0]
    assert child.returncode == 128 + signal.SIGINT
    assert "KeyboardInterrupt" in printed
    assert printed.splitlines()[-1].startswith("0 passed, 0 skipped, 0 failed")
    for line in (project / "ran").read_text().splitlines():
        with pytest.raises(ProcessLookupError):
            os.kill(int(line.split()[1]), 0)


def wait_for(happened) -> None:
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)
