"""The one file that a bare Python runs: built, then pushed with, by every Python."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from images import small_archive
from registries import read_back

from dockerpush.server import Registry, RegistryServer

ROOT = Path(__file__).parent.parent
MINORS = range(9, 20)


def pythons() -> list[str]:
    """One interpreter for each minor version from 3.9 on: pyenv's, else the PATH's."""
    found = {sys.version_info[1]: sys.executable}
    for minor in MINORS:
        for place in sorted(Path.home().glob(f".pyenv/versions/3.{minor}.*/bin")):
            found.setdefault(minor, str(place / "python"))
        on_path = shutil.which(f"python3.{minor}")
        if on_path:
            found.setdefault(minor, on_path)
    return [found[minor] for minor in sorted(found)]


@pytest.fixture(scope="module")
def pyz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pyz")
    for name in ("setup.cfg", "setup.py", "README.md", "LICENSE", "Makefile"):
        shutil.copy(ROOT / name, directory / name)
    shutil.copytree(
        ROOT / "dockerpush",
        directory / "dockerpush",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    subprocess.run(
        ["make", "pyz", f"PYTHON={sys.executable}"],
        cwd=directory,
        check=True,
        capture_output=True,
        timeout=300,
    )
    return directory / "dist" / "dockerpush.pyz"


def test_every_bare_python_pushes_with_it(pyz, tmp_path):
    archive = small_archive(tmp_path / "image.tar")
    with RegistryServer(Registry(tmp_path / "registry")) as server:
        for number, python in enumerate(pythons()):
            done = subprocess.run(
                [
                    *(python, "-I", "-S", pyz, "push", archive),
                    *("-t", f"{server.host}/bare/python:{number}"),
                ],
                env={
                    "PATH": os.environ["PATH"],
                    "DOCKERPUSH_STATE_DIR": str(tmp_path / f"state{number}"),
                },
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=60,
            )
            assert done.returncode == 0, (python, done.stderr.decode())
            stored = read_back(server.host, "bare/python", str(number))
            assert stored.layers == stored.diff_ids
