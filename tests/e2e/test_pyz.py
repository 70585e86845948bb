"""The one file that a bare Python runs: built, then run by every Python there is."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Iterator

import pytest
from fake_registry import Answer, FakeRegistry, Incoming, serving
from images import small_archive
from registries import free_port, read_back

from dockerpush.server import Registry, RegistryServer

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
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


PYTHONS = pythons()
OTHERS = [python for python in PYTHONS if python != sys.executable]

BARE = ("-I", "-S")
"""Nothing of the environment, of the user or of site-packages."""


class Refusing(FakeRegistry):
    """Answers every request with one status."""

    def __init__(self, status: int) -> None:
        super().__init__()
        self._status = status

    def answer(self, request: Incoming) -> Answer:
        return Answer(self._status)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied(tmp_path_factory.mktemp("pyz"))


def copied(directory: Path) -> Path:
    """A copy of what ``make pyz`` needs, to build in."""
    directory.mkdir(exist_ok=True)
    for name in ("setup.cfg", "setup.py", "README.md", "LICENSE", "Makefile"):
        shutil.copy(ROOT / name, directory / name)
    shutil.copytree(
        ROOT / "dockerpush",
        directory / "dockerpush",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    shutil.copytree(ROOT / ".ci", directory / ".ci")
    return directory


def make(tree: Path, *arguments: str) -> None:
    """Run make there; what an old pip leaves in the temporary directory is its own."""
    temporary = tree / "temporary"
    temporary.mkdir(exist_ok=True)
    subprocess.run(
        ["make", *arguments],
        cwd=tree,
        env={**os.environ, "TMPDIR": str(temporary)},
        check=True,
        capture_output=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def pyz(tree: Path) -> Path:
    """What this Python builds."""
    make(tree, "pyz", f"PYTHON={sys.executable}")
    built = tree / "built-here.pyz"
    shutil.copy(tree / "dist/dockerpush.pyz", built)
    return built


class Runner:
    """Runs one .pyz by one Python."""

    def __init__(self, python: str, pyz: Path, state: Path) -> None:
        self._command = (python, *BARE, str(pyz))
        self._environment = {
            "PATH": os.environ["PATH"],
            "DOCKERPUSH_STATE_DIR": str(state),
        }

    def start(self, *arguments: object) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*self._command, *map(str, arguments)],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def __call__(self, *arguments: object) -> tuple[int, str]:
        """The exit code, and what was said on stderr."""
        with self.start(*arguments) as child:
            said = child.communicate(timeout=60)[1].decode()
        return child.returncode, said

    def fails(self, code: int, *arguments: object) -> None:
        """The command ends with *code* and one line that says why."""
        ended, said = self(*arguments)
        assert ended == code, said
        assert said.splitlines()[-1].startswith("error: "), said
        assert "Traceback" not in said


@pytest.fixture(params=PYTHONS)
def run(request: pytest.FixtureRequest, pyz: Path, tmp_path: Path) -> Runner:
    return Runner(request.param, pyz, tmp_path / "state")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return small_archive(tmp_path / "image.tar")


class TestExitCodes:
    """The README's table, through the .pyz, on every bare Python."""

    def test_0_for_a_push(self, run, archive, tmp_path):
        with RegistryServer(Registry(tmp_path / "registry")) as server:
            code, said = run("push", archive, "-t", f"{server.host}/bare/python:1")
            assert code == 0, said
            stored = read_back(server.host, "bare/python", "1")
        assert stored.layers == stored.diff_ids

    @pytest.mark.parametrize(("status", "code"), [(500, 1), (401, 3)])
    def test_what_a_registry_refuses(self, status, code, run, archive):
        with serving(Refusing(status)) as host:
            target = ("-t", f"{host}/team/app:1", "--plain-http")
            run.fails(code, "push", archive, *target, "--retry-times", "0")

    def test_2_for_usage(self, run, archive):
        run.fails(2, "push", archive, "-t", "a b")
        run.fails(2, "push", "--nosuch")
        assert run()[0] == 2

    def test_4_for_a_file_that_is_not_there(self, run, tmp_path):
        run.fails(4, "push", tmp_path / "nosuch.tar", "-t", "127.0.0.1:9/a/b")

    def test_5_for_a_registry_that_nobody_runs(self, run, archive):
        target = f"127.0.0.1:{free_port()}/a/b:1"
        run.fails(5, "push", archive, "-t", target, "--retry-times", "0")

    def test_6_for_a_damaged_archive(self, run, archive):
        archive.write_bytes(archive.read_bytes()[:100_000])
        run.fails(6, "push", archive, "-t", "127.0.0.1:9/a/b:1")

    def test_7_for_a_sync_of_which_half_failed(self, run, archive, tmp_path):
        with RegistryServer(Registry(tmp_path / "registry")) as server:
            assert run("push", archive, "-t", f"{server.host}/here:1")[0] == 0
            lines = tmp_path / "images.txt"
            lines.write_text(f"{server.host}/here:1\n{server.host}/gone:1\n")
            run.fails(7, "sync", lines, f"{server.host}/mirror")

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_ends_it_as_a_shell_expects(self, number, run, archive):
        """A shell tells these as 130 and 143."""
        with silent() as listener:
            target = f"127.0.0.1:{listener.getsockname()[1]}/a:1"
            child = run.start("push", archive, "-t", target, "--plain-http")
            connection, _ = listener.accept()
            with connection, child:
                child.send_signal(number)
                said = child.communicate(timeout=20)[1].decode()
        assert child.returncode == -number
        assert said.splitlines()[-1].startswith("error: interrupted")


@contextlib.contextmanager
def silent() -> Iterator[socket.socket]:
    """A port whose listener takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        yield listener


def test_it_runs_isolated_and_with_what_the_python_has(pyz):
    for flags in ((), ("-I",), ("-S",), ("-O",)):
        command = [sys.executable, *flags, pyz, "push", "nosuch.tar", "-t", "h:1/a/b"]
        assert subprocess.run(command, capture_output=True).returncode == 4


class TestByteCode:
    """Beside each source is its byte code, for the Python that built the file."""

    def test_each_source_has_it(self, pyz):
        with zipfile.ZipFile(pyz) as file:
            names = set(file.namelist())
            sources = {name for name in names if name.endswith(".py")}
            assert {"__main__.py", "dockerpush/api.py", "urllib3/util/url.py"} < sources
            assert {f"{name}c" for name in sources} <= names
            for name in sources:
                head = file.read(f"{name}c")[:8]
                assert head[:4] == importlib.util.MAGIC_NUMBER
                assert head[4:] == b"\1\0\0\0", "hashed, and not to be checked"

    def test_the_builder_runs_it_and_every_other_python_the_source(self, pyz, tmp_path):
        """In a file whose sources all fail only the byte code can run."""
        spoilt = tmp_path / "spoilt.pyz"
        with zipfile.ZipFile(pyz) as old, zipfile.ZipFile(spoilt, "w") as new:
            for name in old.namelist():
                fails = name.endswith(".py")
                new.writestr(name, b"raise SystemExit(77)" if fails else old.read(name))
        run = Runner(sys.executable, spoilt, tmp_path / "state")
        run.fails(4, "push", tmp_path / "nosuch.tar", "-t", "h:1/a/b")
        for python in OTHERS:
            assert Runner(python, spoilt, tmp_path / "state")("--version")[0] == 77

    def test_no_path_of_the_builder_is_in_it(self, pyz, tree):
        with zipfile.ZipFile(pyz) as file:
            for name in file.namelist():
                assert str(tree).encode() not in file.read(name), name


@pytest.mark.skipif(not OTHERS, reason="needs a second Python")
class TestMakeTakesThePythonItIsTold:
    def test_for_the_byte_code(self, pyz, tree, tmp_path):
        """The directory has a .venv-build of this Python, and another is asked for."""
        make(tree, "pyz", f"PYTHON={OTHERS[0]}")
        built = tree / "dist/dockerpush.pyz"
        asked = "import importlib.util as u; print(u.MAGIC_NUMBER.hex())"
        magic = subprocess.check_output([OTHERS[0], "-c", asked], text=True).strip()
        with zipfile.ZipFile(built) as file:
            assert file.read("dockerpush/api.pyc")[:4].hex() == magic
        for python in (OTHERS[0], sys.executable):
            run = Runner(python, built, tmp_path / "state")
            run.fails(4, "push", tmp_path / "nosuch.tar", "-t", "h:1/a/b")

    @pytest.mark.parametrize(
        "stamp",
        [
            ".venv-test/done-test",
            ".venv-lint/done",
            ".venv-demo/done",
            ".venv-bench/done",
            ".venv-build/done",
        ],
    )
    def test_for_every_venv(self, stamp, tree, tmp_path):
        """A Python that only notes what it is asked, and makes empty venvs."""
        log, venv = tmp_path / "log", stamp.partition("/")[0]
        shutil.rmtree(tree / venv, ignore_errors=True)
        pips = [f"{name}=true" for name in ("TEST", "LINT", "DEMO", "BENCH", "BUILD")]

        def made_by(identity: str) -> bool:
            """True when *identity* was asked to make the venv."""
            log.write_text("")
            python = tmp_path / "python"
            python.write_text(
                "#!/bin/sh\n"
                f'echo "$*" >>{log}\n'
                f'[ "$1" = -c ] && echo {identity} || mkdir -p {venv}\n'
            )
            python.chmod(0o755)
            make(tree, stamp, f"PYTHON={python}", "EXTRAS=test", *pips)
            return f"-m venv --clear {venv}" in log.read_text()

        asked = [made_by(name) for name in ("3.9", "3.9", "3.10", "3.10", "3.9")]
        assert asked == [True, False, True, False, True]
