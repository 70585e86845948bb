"""``python -m dockerpush`` runs nothing that lies in the current directory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import dockerpush

PASSWORD = "hidden-in-the-environment"
LOUD = (
    "import os, sys\n"
    "print('RAN', __name__, os.environ.get('DOCKERPUSH_PASSWORD'), file=sys.stderr)\n"
    "raise ImportError(__name__)\n"
)
NAMED = ("urllib3", "typing", "tqdm", "contextlib", "__future__", "argparse", "json")
PLANTED = sorted({*NAMED, *getattr(sys, "stdlib_module_names", ())})
"""Also what a later Python, or another version of ours, may import."""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Somebody else's repository."""
    directory = tmp_path / "checkout"
    directory.mkdir()
    for name in PLANTED:
        (directory / f"{name}.py").write_text(LOUD)
    return directory


def run(
    *words: str, cwd: Path, path: str = "", options: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    environment = {
        **{key: value for key, value in os.environ.items() if key == "PATH"},
        "HOME": str(cwd),
        "DOCKERPUSH_PASSWORD": PASSWORD,
        "PYTHONDONTWRITEBYTECODE": "1",
        **({"PYTHONPATH": path} if path else {}),
    }
    return subprocess.run(
        [sys.executable, *options, "-m", *words],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def ran(stderr: str) -> set[str]:
    lines = [line.split() for line in stderr.splitlines()]
    return {words[1] for words in lines if words[:1] == ["RAN"]}


def test_what_python_loads_itself_is_all_that_may_run(checkout, tmp_path):
    """runpy imports some modules before the first line of ours, for every module."""
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "nothing.py").touch()
    names = sorted(ran(run("nothing", cwd=checkout, path=str(empty)).stderr))
    while names:  # each of them ended the run, so that the next was not reached
        for name in names:
            (checkout / f"{name}.py").unlink()
        names = sorted(ran(run("nothing", cwd=checkout, path=str(empty)).stderr))
    left = {path.stem for path in checkout.glob("*.py")}
    assert left.issuperset({"urllib3", "tqdm", "argparse", "__future__"})
    for words in (("--version",), ("tags", "--help"), ("cache", "ls", "-v")):
        done = run("dockerpush", *words, cwd=checkout)
        assert done.returncode == 0, done.stderr
        assert ran(done.stderr) == set()
        assert PASSWORD not in done.stdout + done.stderr
        assert "current directory" not in done.stderr


@pytest.mark.parametrize("name", ["urllib3", "tqdm", "argparse", "__future__"])
def test_a_file_of_that_name_is_not_run(name, tmp_path):
    (tmp_path / f"{name}.py").write_text(LOUD)
    words = ("tags", "127.0.0.1:1/a/b", "--retry-times", "0")
    done = run("dockerpush", *words, cwd=tmp_path)
    assert done.returncode == 5, done.stderr
    assert PASSWORD not in done.stderr


def installed_in(directory: Path) -> Path:
    """As pip install --target has it."""
    shutil.copytree(Path(dockerpush.__file__).parent, directory / "dockerpush")
    return directory


@pytest.mark.parametrize("shown", ["-v", "-q"])
def test_where_dockerpush_itself_lies_there_a_note_says_so(shown, tmp_path):
    done = run("dockerpush", "cache", "ls", shown, cwd=installed_in(tmp_path))
    assert done.returncode == 0, done.stderr
    assert ("lies in the current directory" in done.stderr) is (shown == "-v")


def test_what_the_user_put_into_the_path_stays_there(tmp_path):
    """PYTHONPATH names the same directory: that is the user's own wish."""
    lib = installed_in(tmp_path / "lib")
    (lib / "tqdm.py").write_text("raise SystemExit('theirs')")
    run_there = run("dockerpush", "--version", cwd=tmp_path, path=str(lib))
    assert run_there.returncode == 0
    code = "import sys; from dockerpush.__main__ import leave_current_directory as f; "
    code += "f(); print(sys.path[0])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() not in ("", str(tmp_path))


def test_a_directory_that_is_gone_is_no_error(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    script = f"cd {gone} && rmdir {gone} && {sys.executable} -m dockerpush --version"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
