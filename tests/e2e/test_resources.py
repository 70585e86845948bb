"""When something runs out: disk, descriptors, memory, permissions, time, listeners."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping

import pytest
from conftest import Command
from images import MIB, docker_archive, large_archive, small_archive, tar_of
from registries import StoredImage, read_back
from suites import all_but

from dockerpush.server import Registry, RegistryServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    with RegistryServer(Registry(tmp_path_factory.mktemp("embedded"))) as server:
        yield server


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_archive(tmp_path_factory.mktemp("image") / "image.tar")


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One layer of 13 MB, which becomes about 7 MB by gzip."""
    source = random.Random(6)
    lines = b"".join(source.randbytes(48).hex().encode() for _ in range(140_000))
    return docker_archive(
        tmp_path_factory.mktemp("image") / "lines.tar", [tar_of({"lines": lines})]
    )


@dataclass(frozen=True)
class Ended:
    """How a run with odd surroundings ended."""

    code: int
    said: str
    printed: str

    @property
    def error(self) -> str:
        """The last line of stderr."""
        return (self.said.splitlines() or [""])[-1]


@dataclass(frozen=True)
class Surroundings:
    """Runs ``dockerpush push`` where something is missing."""

    command: Command
    host: str

    def push(
        self,
        source: object,
        repository: str,
        *flags: object,
        before: Callable[[], None] | None = None,
        prefix: tuple[str, ...] = (),
        env: Mapping[str, str] | None = None,
        stdin: Any = subprocess.DEVNULL,
    ) -> Ended:
        """A push to ``:1``; *before* runs in the child, *prefix* starts it."""
        words = [*prefix, sys.executable, "-m", "dockerpush", "push", str(source)]
        words += ["-t", f"{self.host}/{repository}:1", "--plain-http"]
        done = subprocess.run(
            [*words, *map(str, flags)],
            env=self.command.environment(env),
            capture_output=True,
            preexec_fn=before,
            stdin=stdin,
            timeout=60,
            check=False,
        )
        said, printed = done.stderr.decode(), done.stdout.decode()
        assert "Traceback" not in said
        assert "bug" not in said, said
        return Ended(done.returncode, said, printed)

    def stored(self, repository: str) -> StoredImage:
        """What arrived, checked."""
        stored = read_back(self.host, repository, "1")
        assert stored.layers == stored.diff_ids
        return stored


@pytest.fixture
def around(run_cli: Command, server: RegistryServer) -> Surroundings:
    return Surroundings(run_cli, server.host)


def limited(what: int, value: int) -> Callable[[], None]:
    """A ``before`` that sets a limit of the process."""
    return lambda: resource.setrlimit(what, (value, value))


def small_disk(directory: Path, size: str, *more: str) -> tuple[str, ...]:
    """A ``prefix`` under which *directory* is a file system of *size* of its own."""
    script = f'mount -t tmpfs -o size={size} tmpfs "$0" && {"".join(more)} exec "$@"'
    prefix = ("unshare", "-rm", "sh", "-c", script, str(directory))
    subprocess.run([*prefix, "true"], check=True)
    return prefix


class TestTempDirectory:
    def test_too_little_space_sends_the_layer_as_it_is(self, lines, around, tmp_path):
        """Found before anything is written: 13 MB may become 13 MB."""
        disk = tmp_path / "disk"
        disk.mkdir()
        done = around.push(
            lines,
            "temp/small",
            prefix=small_disk(disk, "4m"),
            env={"TMPDIR": str(disk)},
        )
        assert done.code == 0, done.said
        assert "larger than the free temp space" in done.said
        (layer,) = around.stored("temp/small").manifest["layers"]
        assert layer["mediaType"].endswith(".tar")

    def test_no_space_at_all_is_no_obstacle_either(self, lines, around, tmp_path):
        disk = tmp_path / "disk"
        disk.mkdir()
        done = around.push(
            lines,
            "temp/full",
            prefix=small_disk(disk, "64k", 'head -c 65536 /dev/zero > "$0/x";'),
            env={"TMPDIR": str(disk)},
        )
        assert done.code == 0, done.said
        around.stored("temp/full")

    def test_a_disk_that_fills_up_in_the_middle(self, lines, around):
        """The space was there when it was looked at (here: a limit of file sizes)."""
        done = around.push(
            lines, "temp/filled", before=limited(resource.RLIMIT_FSIZE, 2 * MIB)
        )
        assert done.code == 0, done.said
        assert "sent without compression" in done.said
        (layer,) = around.stored("temp/filled").manifest["layers"]
        assert layer["mediaType"].endswith(".tar")

    def test_from_a_pipe_there_is_no_other_way_and_it_says_so(
        self, lines, around, tmp_path
    ):
        disk = tmp_path / "disk"
        disk.mkdir()
        with lines.open("rb") as file:
            done = around.push(
                "-",
                "temp/pipe",
                prefix=small_disk(disk, "2m"),
                env={"TMPDIR": str(disk)},
                stdin=file,
            )
        assert done.code == 1, done.said
        assert "TMPDIR" in done.error
        assert str(disk) in done.error

    def test_a_temp_directory_that_is_not_there_is_skipped(self, lines, around):
        done = around.push(lines, "temp/none", env={"TMPDIR": "/proc/nothing"})
        assert done.code == 0, done.said
        around.stored("temp/none")


class TestStateDirectory:
    """What cannot be kept is lost, and the push goes on."""

    @pytest.fixture(params=["file", "below-a-file", "impossible", "full", "read-only"])
    def place(self, request, tmp_path) -> tuple[Path, tuple[str, ...]]:
        state = tmp_path / "odd"
        if request.param == "file":
            state.write_text("not a directory")
        elif request.param == "below-a-file":
            (tmp_path / "odd").write_text("not a directory")
            state = state / "state"
        elif request.param == "impossible":
            state = Path("/proc/nothing/state")
        else:
            state.mkdir()
            fill = {
                "full": 'head -c 65536 /dev/zero > "$0/x" 2>/dev/null;',
                "read-only": 'mount -o remount,ro "$0" &&',
            }
            return state, small_disk(state, "64k", fill[request.param])
        return state, ()

    def test_the_push_continues_without_it(self, place, archive, around):
        state, prefix = place
        repository = f"state/{abs(hash(str(place)))}"
        done = around.push(
            archive,
            repository,
            *("--blob-chunk", "64KiB"),
            prefix=prefix,
            env={"DOCKERPUSH_STATE_DIR": str(state)},
        )
        assert done.code == 0, done.said
        around.stored(repository)
        assert done.said.count(f"{state}") <= 4, done.said  # once for each file

    def test_broken_files_are_set_aside(self, archive, around):
        state = around.command.state
        (state / "uploads").mkdir(parents=True)
        for name in ("blobs.json", "push_history.json"):
            (state / name).write_bytes(b'{"half')
        (state / "uploads" / f"{'0' * 32}.json").write_bytes(b"\0" * 100)
        for _ in range(2):
            done = around.push(archive, "state/odd-files", "--blob-chunk", "64KiB")
            assert done.code == 0, done.said
        around.stored("state/odd-files")
        assert "broken" not in done.said

    @pytest.mark.long
    def test_locks_of_somebody_dead_cost_time_and_nothing_else(self, archive, around):
        """As a dead NFS client leaves them: held, and nobody will give them back."""
        assert around.push(archive, "state/locked").code == 0
        locks = [
            *around.command.state.rglob("*.lock"),
            *hidden_locks(around.command.state),
        ]
        with holding(sorted(set(locks))):
            started = time.monotonic()
            done = around.push(archive, "state/locked-2", "--blob-chunk", "64KiB")
        assert done.code == 0, done.said
        assert time.monotonic() - started < 15
        assert "holds this lock" in done.said
        around.stored("state/locked-2")


def hidden_locks(state: Path) -> list[Path]:
    """Lock files whose names begin with a dot, that of the sessions included."""
    (state / "uploads").mkdir(exist_ok=True)
    (state / "uploads/.lock").touch()
    return list(state.rglob(".*lock"))


HOLD = """\
import fcntl, sys, time
files = [open(path, "r+b") for path in sys.argv[1:]]
for file in files:
    fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(120)
"""


@contextlib.contextmanager
def holding(locks: list[Path]) -> Iterator[None]:
    """Another process holds *locks*."""
    command = [sys.executable, "-c", HOLD, *map(str, locks)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        try:
            yield
        finally:
            child.kill()


class TestLimits:
    @pytest.mark.parametrize("count", all_but([8, 13, 20], [8, 11, 13, 16, 20, 32]))
    def test_few_descriptors_are_enough_or_end_in_one_line(
        self, count, lines, archive, around
    ):
        for number, path in enumerate((lines, archive)):
            repository = f"limits/files-{count}-{number}"
            done = around.push(
                path,
                repository,
                *("--retry-delay", "0.01"),
                before=limited(resource.RLIMIT_NOFILE, count),
            )
            if count >= 32:
                assert done.code == 0, done.said
            if done.code == 0:
                around.stored(repository)
            else:
                assert done.error.startswith("error: "), done.said
                assert "ulimit -n" in done.error, done.said

    @pytest.mark.long
    def test_160_mib_of_address_space_are_enough(self, around, tmp_path):
        """``ulimit -v``: threads' stacks and arenas of malloc count as well."""
        path = large_archive(tmp_path / "big.tar", [64 * MIB] * 3, compressible=True)
        done = around.push(
            path, "limits/memory", before=limited(resource.RLIMIT_AS, 160 * MIB)
        )
        assert done.code == 0, done.said
        around.stored("limits/memory")

    @pytest.mark.long
    def test_a_cgroup_of_128_mib_is_enough(self, around, tmp_path):
        """The page cache of what is read and spooled counts here, and is given back."""
        path = large_archive(
            tmp_path / "big.tar", [128 * MIB, 96 * MIB], compressible=False
        )
        with cgroup(128 * MIB) as prefix:
            done = around.push(path, "limits/cgroup", prefix=prefix)
        assert done.code == 0, done.said
        around.stored("limits/cgroup")


@contextlib.contextmanager
def cgroup(size: int) -> Iterator[tuple[str, ...]]:
    """A ``prefix`` that runs with *size* bytes of memory, page cache included.

    Without a cgroup of our own (an ordinary user has none), ``ulimit -v`` stands in.
    """
    for parent, name in (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    ):
        group = parent / f"dockerpush-tests-{os.getpid()}"
        with contextlib.suppress(OSError):
            group.mkdir()
            try:
                (group / name).write_text(str(size))
                script = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
                yield ("sh", "-c", script, str(group))
                return
            finally:
                group.rmdir()
    yield ("sh", "-c", f'ulimit -v {size * 5 // 4 // 1024} && exec "$@"', "sh")


class TestOutput:
    @pytest.mark.parametrize("flags", [(), ("--json",), ("--debug",)])
    def test_a_closed_stdout_is_141_and_the_push_is_done(
        self, flags, archive, around, run_cli
    ):
        """As in ``dockerpush push ... | head -0``."""
        repository = f"output/{len(flags)}{'-'.join(flags)}"
        reading, writing = os.pipe()
        os.close(reading)
        child = run_cli.start(
            *("push", archive, "-t", f"{around.host}/{repository}:1", *flags),
            stdout=writing,
            stderr=subprocess.PIPE,
        )
        os.close(writing)
        _, said = child.communicate(timeout=30)
        assert child.returncode == 141, said
        assert b"Traceback" not in said
        assert b"BrokenPipe" not in said
        around.stored(repository)

    @pytest.mark.parametrize("flags", [(), ("--progress", "tty"), ("-v",)])
    def test_a_closed_stderr_stops_nothing(self, flags, archive, around, run_cli):
        repository = f"output/err{len(''.join(flags))}"
        reading, writing = os.pipe()
        os.close(reading)
        child = run_cli.start(
            *("push", archive, "-t", f"{around.host}/{repository}:1", *flags),
            stdout=subprocess.PIPE,
            stderr=writing,
        )
        os.close(writing)
        printed, _ = child.communicate(timeout=30)
        assert child.returncode == 0
        assert b"@sha256:" in printed
        around.stored(repository)

    @pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
    def test_a_stream_that_was_never_open(self, closed, archive, around):
        """Its number must not become that of a connection, which lines would go to."""
        repository = f"output/closed{closed.count('2')}{len(closed)}"
        prefix = ("sh", "-c", f'exec "$@" {closed}', "sh")
        done = around.push(archive, repository, "--debug", prefix=prefix)
        assert done.code == 0, done.said
        around.stored(repository)
        if closed == "2>&-":
            assert done.printed.count("\n") == 1
            assert "@sha256:" in done.printed

    def test_a_full_stdout_ends_in_one_line(self, archive, around, run_cli):
        with Path("/dev/full").open("wb") as full:
            child = run_cli.start(
                *("push", archive, "-t", f"{around.host}/output/full:1"),
                stdout=full,
                stderr=subprocess.PIPE,
            )
            _, said = child.communicate(timeout=30)
        assert child.returncode == 1, said
        last = said.decode().splitlines()[-1]
        assert last.startswith("error: ")
        assert "bug" not in last
        assert b"Traceback" not in said
        around.stored("output/full")


JUMPING_CLOCK = """\
import itertools, time
real, jumps = time.time, itertools.cycle([0, 86400, -86400, 10 * 365 * 86400])
time.time = lambda: real() + next(jumps)
"""


def test_a_clock_that_jumps_back_and_forth(archive, around, tmp_path):
    """Every look at the wall clock is days or years from the last."""
    place = tmp_path / "customized"
    place.mkdir()
    (place / "sitecustomize.py").write_text(JUMPING_CLOCK)
    for _ in range(2):
        started = time.monotonic()
        done = around.push(
            archive,
            "clock/jumps",
            *("--blob-chunk", "64KiB"),
            env={"PYTHONPATH": str(place)},
        )
        assert done.code == 0, done.said
        assert time.monotonic() - started < 10
    around.stored("clock/jumps")
