"""The examples of the README run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from images import small_archive

from dockerpush.server import Registry, RegistryServer

README = Path(__file__).parents[2] / "README.md"
HEADING = "## As a library"


def examples() -> list[str]:
    """The Python blocks of the section, in their order."""
    _, _, rest = README.read_text("utf-8").partition(f"\n{HEADING}\n")
    section = re.split(r"^## ", rest, maxsplit=1, flags=re.MULTILINE)[0]
    return re.findall(r"^```python\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)


def test_the_section_holds_five_examples_at_least():
    assert len(examples()) >= 5


@pytest.mark.parametrize("number", range(len(examples())))
def test_an_example_runs_as_it_stands_there(number, tmp_path):
    small_archive(tmp_path / "image.tar")
    with RegistryServer(Registry(tmp_path / "registry")) as server:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", examples()[number]],
            cwd=tmp_path,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(Path(__file__).parents[2]),
                "HOME": str(tmp_path / "home"),
                "TMPDIR": os.environ["TMPDIR"],
                "REGISTRY": server.host,
            },
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
