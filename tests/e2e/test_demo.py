"""The demo of the README does what it says, and leaves nothing behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[1] / "demo.py"


@pytest.fixture
def demo(run_cli):
    """Run the demo as make does; what it printed, and its exit code."""

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, str(DEMO), *map(str, arguments)],
            env=run_cli.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    return run


def test_the_demo_pushes_an_image_of_its_own_and_reads_it_back(demo):
    code, shown, said = demo()
    assert code == 0, said
    assert "$ python -m dockerpush serve " in shown
    assert "$ python -m dockerpush push " in shown
    assert "  tags    1\n" in shown
    assert shown.count("(checked)") == 4  # the manifest and three layers
    assert "WRONG" not in shown


def test_the_demo_pushes_the_archive_that_it_is_given(demo, real_archives):
    code, shown, said = demo(real_archives["skopeo-docker-archive"])
    assert code == 0, said
    assert shown.count("(checked)") == 2
    assert "WRONG" not in shown


def test_the_demo_fails_when_the_archive_does_not_exist(demo, tmp_path):
    code, _, said = demo(tmp_path / "missing.tar")
    assert code == 4
    assert "missing.tar" in said.splitlines()[-1]


def test_make_alone_lists_what_there_is():
    """Every target that is meant to be called is in the list."""
    root = DEMO.parent.parent
    listed = subprocess.run(
        ["make", "-s"], cwd=root, capture_output=True, text=True, check=True
    ).stdout
    shipped = ("pyz", "wheelhouse", "dist")
    for target in (
        "demo",
        "test",
        "test-long",
        "test-all",
        "lint",
        "bench",
        "clean",
        *shipped,
    ):
        assert f"\n  {target} " in listed
