"""Fixtures that every test file shares: real registries, real archives, the command."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator, Mapping

import hypothesis
import pytest
from real import RealArchives, shared_directory
from registries import DockerRegistry, start_docker_registry
from warm import Forked, WarmPython

hypothesis.settings.register_profile("quick", max_examples=30, deadline=None)
hypothesis.settings.register_profile("long", max_examples=200, deadline=None)
hypothesis.settings.load_profile("quick")
# --hypothesis-profile=long chooses the other one.

pytest.register_assert_rewrite("copied", "pushed", "transfers")

USERS = {"alice": "correct horse", "bob": "p:a s$s%"}


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores, as some tests wait for time to pass."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    return (len(cores) or os.cpu_count() or 1) + 1


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All rows of a table in tests/e2e are long, but for the first and the last."""
    tables: dict[tuple[Path, str], list[pytest.Item]] = {}
    for item in items:
        if item.path.parent.name == "e2e":
            name = item.nodeid.partition("[")[0]
            tables.setdefault((item.path, name), []).append(item)
    for rows in tables.values():
        for item in rows[1:-1]:
            item.add_marker("long")


def pytest_collection_finish() -> None:
    """Have no search for garbage go through all tests again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared_temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where temp files go in a test that has no directory of its own."""
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(autouse=True)
def nothing_left(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """After every test: no worker thread is alive, no temp file is left."""
    if "tmp_path" in request.fixturenames:
        temporary = request.getfixturevalue("tmp_path") / "temporary"
        temporary.mkdir()
    else:  # directories are slow to come and go
        temporary = request.getfixturevalue("shared_temporary")
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    yield
    names = [thread.name for thread in threading.enumerate()]
    assert [name for name in names if name.startswith("push")] == []
    if temporary.is_dir():
        left = list(temporary.iterdir())
        for path in left:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        assert [path.name for path in left] == []


@pytest.fixture(scope="session")
def shared_docker_registry(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[DockerRegistry]:
    """One plain docker-registry for the session; use a repository of your own."""
    with stored_registry(tmp_path_factory.mktemp("shared-registry")) as registry:
        yield registry


@pytest.fixture
def docker_registry_factory(tmp_path: Path) -> Iterator[Any]:
    """Start docker-registries: ``docker_registry_factory(users={...}, tls=True)``."""
    with contextlib.ExitStack() as stack:

        def start(name: str = "registry", **options: Any) -> DockerRegistry:
            return stack.enter_context(stored_registry(tmp_path / name, **options))

        yield start


@pytest.fixture
def docker_registry(docker_registry_factory: Any) -> DockerRegistry:
    """A plain docker-registry with nothing in it."""
    return docker_registry_factory()


@pytest.fixture
def htpasswd_registry(docker_registry_factory: Any) -> DockerRegistry:
    """A docker-registry that asks for one of USERS (Basic)."""
    return docker_registry_factory(users=USERS)


@pytest.fixture
def tls_registry(docker_registry_factory: Any) -> DockerRegistry:
    """A docker-registry behind TLS; ``.authority`` is the CA's certificate."""
    return docker_registry_factory(tls=True)


@contextlib.contextmanager
def stored_registry(directory: Path, **options: Any) -> Iterator[DockerRegistry]:
    """A docker-registry whose storage is removed at the end."""
    try:
        with start_docker_registry(directory, **options) as registry:
            yield registry
    finally:
        shutil.rmtree(directory / "storage", ignore_errors=True)


@pytest.fixture(scope="session")
def real_archives(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealArchives]:
    """Archive name → path, by podman, buildah, skopeo and umoci (see `real`).

    All processes of a run have them together; the last one removes them.
    """
    base = tmp_path_factory.getbasetemp()
    common = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with shared_directory(common / "real", base.name) as directory:
        yield RealArchives(directory)


@pytest.fixture(scope="module")
def runroot() -> Iterator[str]:
    """A directory for podman's ``--runroot``, which takes 50 characters at most."""
    with tempfile.TemporaryDirectory(prefix="podman", dir="/tmp") as directory:
        yield directory


@dataclass(frozen=True)
class Finished:
    """How a run of the command ended.

    *peak_rss* is VmHWM in bytes, 0 if the system does not tell, None of a fork.
    """

    returncode: int
    stdout: str
    stderr: str
    peak_rss: int | None

    @property
    def json(self) -> Any:
        """The JSON on the last line of stdout."""
        return json.loads(self.stdout.splitlines()[-1])

    @property
    def error(self) -> str:
        """The last line of stderr."""
        return (self.stderr.splitlines() or [""])[-1]


KEPT = ("PYTHON", "LC_", "LANG")
"""What Python looks at when it starts: a command with one of them starts anew."""


class Command:
    """Runs ``python -m dockerpush`` with an environment of its own.

    What is run to its end comes from *warm*, if there is one.
    """

    def __init__(
        self, directory: Path, temporary: Path, warm: WarmPython | None = None
    ) -> None:
        self._warm = warm
        self.home = directory / "home"
        self.state = directory / "state"
        self._directory = directory
        self._temporary = temporary
        self.home.mkdir()

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """No proxies, nobody's credentials, a HOME and a state of the test's own."""
        kept = ("PATH", "SYSTEMROOT", "COVERAGE_PROCESS_START", "LD_LIBRARY_PATH")
        return {
            **{name: os.environ[name] for name in kept if name in os.environ},
            "HOME": str(self.home),
            "DOCKERPUSH_STATE_DIR": str(self.state),
            "TMPDIR": str(self._temporary),
            "LC_ALL": "C.UTF-8",
            "DOCKERPUSH_PATIENCE": "0",  # a broken connection counts, it is no outage
            **(extra or {}),
        }

    def start(
        self, *arguments: object, env: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[bytes]:
        """The command, started; *options* go to Popen, *env* is added to ours."""
        options.setdefault("stdin", subprocess.DEVNULL)
        command = [sys.executable, "-m", "dockerpush", *map(str, arguments)]
        options.setdefault("cwd", self._directory)
        return subprocess.Popen(command, env=self.environment(env), **options)

    def __call__(
        self,
        *arguments: object,
        env: Mapping[str, str] | None = None,
        stdin: bytes | Path | None = None,
        timeout: float = 60,
        fresh: bool = False,
    ) -> Finished:
        """The command, run to its end; killed and failed after *timeout* seconds.

        One whose memory is measured has to be *fresh*.
        """
        with contextlib.ExitStack() as stack:
            out, err, given = (
                stack.enter_context((self._directory / name).open("w+b"))
                for name in ("stdout", "stderr", "stdin")
            )
            if isinstance(stdin, Path):
                given = stack.enter_context(stdin.open("rb"))
            else:
                given.write(stdin or b"")
                given.seek(0)
            streams = (given, out, err)
            child: subprocess.Popen[bytes] | Forked
            if (
                self._warm is None
                or fresh
                or any(name.startswith(KEPT) for name in env or ())
            ):
                names = ("stdin", "stdout", "stderr")
                child = self.start(*arguments, env=env, **dict(zip(names, streams)))
            else:
                child = self._warm.start(
                    [str(word) for word in arguments],
                    self.environment(env),
                    str(self._directory),
                    streams,
                )
            peak = wait_and_measure(child, timeout)
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode())
        return Finished(child.returncode, texts[0], texts[1], peak)


def wait_and_measure(
    child: subprocess.Popen[bytes] | Forked, timeout: float
) -> int | None:
    """Wait for *child* to end; the most memory it had (VmHWM), in bytes."""
    peak, deadline = 0, time.monotonic() + timeout
    if isinstance(child, Forked):
        child.wait(timeout)
    while child.poll() is None:
        peak = max(peak, peak_rss(child.pid))
        if time.monotonic() > deadline:
            child.kill()
            child.wait()
            raise AssertionError(f"still running after {timeout} s: {child.args}")
        time.sleep(0.005)
    return None if isinstance(child, Forked) else peak


def peak_rss(pid: int) -> int:
    """VmHWM of the process now, in bytes; 0 when it is gone or nobody tells."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


@pytest.fixture(scope="session", autouse=True)
def authorities(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Mapping[str, str]]:
    """Variables that have one authority of the system trusted: all take 12 ms.

    This process has them, and what is forked; what is started trusts all.
    """
    found: dict[str, str] = {}
    if os.environ.get("DOCKERPUSH_TEST_WARM"):
        directory = tmp_path_factory.mktemp("authorities")
        for one in ssl.create_default_context().get_ca_certs(binary_form=True)[:1]:
            file, none = directory / "one.pem", directory / "none"
            file.write_text(ssl.DER_cert_to_PEM_cert(one))
            none.mkdir()
            found = {"SSL_CERT_FILE": str(file), "SSL_CERT_DIR": str(none)}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in found.items():
            patch.setenv(name, value)
        yield found


@pytest.fixture(scope="session")
def warm(
    tmp_path_factory: pytest.TempPathFactory, authorities: Mapping[str, str]
) -> Iterator[WarmPython | None]:
    """A Python that forks for each command, where the environment asks for it."""
    if not os.environ.get("DOCKERPUSH_TEST_WARM"):
        yield None
        return
    directory = tmp_path_factory.mktemp("warm")
    environment = Command(directory, directory).environment()
    with WarmPython(environment, authorities) as warm:
        yield warm


@pytest.fixture
def run_cli(tmp_path: Path, nothing_left: None, warm: WarmPython | None) -> Command:
    """``run_cli("push", archive, "-t", ...)`` → Finished; ``.start`` for a Popen."""
    return Command(tmp_path, tmp_path / "temporary", warm)
