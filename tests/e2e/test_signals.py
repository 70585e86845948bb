"""SIGINT, SIGTERM and SIGHUP end the command soon, whatever its threads wait for.

Every test has the real command wait in one place, sends the signal, and looks at the
time, the exit, the last line, and (by the fixture) at what is left of temp files.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from conftest import Command
from customized import with_customized_python
from faultproxy import ALWAYS, PLACES, Effect, Fault, FaultProxy
from images import MIB, large_archive, small_archive
from registries import read_back
from suites import first
from waiting import wait_for

from dockerpush.server import Registry, RegistryServer

SOON = 3.0
"""Seconds from the signal to the end."""

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
EACH = pytest.mark.parametrize("number", first(1, SIGNALS))
"""What they do is the same: the quick suite has one where a wait is tried."""

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_archive(tmp_path_factory.mktemp("image") / "image.tar")


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[FaultProxy]:
    with (
        RegistryServer(Registry(tmp_path / "embedded")) as server,
        FaultProxy(server.host) as proxy,
    ):
        yield proxy


def interrupted(
    child: subprocess.Popen[bytes],
    waits: Callable[[], bool],
    number: int = signal.SIGINT,
) -> str:
    """Signal *child* once it *waits*; what it said, after looking at how it ended."""
    with killed_at_last(child):
        wait_for(waits, child)
        started = time.monotonic()
        child.send_signal(number)
        _, said = child.communicate(timeout=10)
        assert time.monotonic() - started < SOON
    assert child.returncode == -number, said
    text = said.decode()
    assert text.splitlines()[-1].startswith("error: interrupted"), text
    assert text.count("error:") == 1, text
    assert "Traceback" not in text
    return text


@contextlib.contextmanager
def killed_at_last(child: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        child.kill()
        child.wait()
        for pipe in (child.stdout, child.stderr, child.stdin):
            if pipe is not None:
                pipe.close()


def start(run_cli: Command, *arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
    return run_cli.start(
        "push", *arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **options
    )


def after(seconds: float) -> Callable[[], bool]:
    """True from so many seconds after the first question on."""
    first: list[float] = []

    def passed() -> bool:
        first.append(time.monotonic())
        return first[-1] - first[0] > seconds

    return passed


@EACH
@pytest.mark.parametrize("kind", ["HEAD", "GET", "POST", "PATCH", "CLOSE", "MANIFEST"])
def test_while_an_answer_does_not_come(kind, number, proxy, archive, run_cli):
    schedule = proxy.schedule("wait", Fault(Effect.HOLD_ANSWER, *PLACES[kind]))
    child = start(
        run_cli,
        *(archive, "-t", f"{proxy.host}/wait:1", "--plain-http"),
        *("--blob-chunk", "64KiB"),
    )
    interrupted(child, schedule.held.is_set, number)


@pytest.mark.parametrize(
    ("target", "then"),
    [("out.tar", "again, which starts over"), ("oci:out", "again to resume")],
)
def test_what_a_second_run_would_do_is_said(target, then, proxy, tmp_path, run_cli):
    schedule = proxy.schedule("wait", Fault(Effect.HOLD_ANSWER, *PLACES["GET"]))
    child = run_cli.start(
        *("copy", f"{proxy.host}/wait:1", target, "--src-plain-http"),
        **{"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "cwd": tmp_path},
    )
    text = interrupted(child, schedule.held.is_set)
    assert text.rstrip().endswith(then)


@EACH
def test_while_the_registry_does_not_take_the_body(number, proxy, tmp_path, run_cli):
    path = large_archive(tmp_path / "big.tar", [32 * MIB], compressible=False)
    schedule = proxy.schedule("stuck", Fault(Effect.STALL, "PUT", "upload", after=1000))
    child = start(run_cli, path, "-t", f"{proxy.host}/stuck:1", "--plain-http")
    interrupted(child, schedule.held.is_set, number)


@EACH
def test_while_connecting_to_a_black_hole(number, archive, run_cli):
    with black_hole() as host:
        child = start(run_cli, archive, "-t", f"{host}/a:1", "--plain-http")
        interrupted(child, after(1.0), number)


@EACH
def test_while_a_tls_handshake_does_not_end(number, archive, run_cli):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        child = start(run_cli, archive, "-t", f"{host}/a:1")
        interrupted(child, after(1.0), number)


HANGING_LOOKUP = """\
import ctypes, socket
def getaddrinfo(*arguments, **options):
    # As with a name server that is silent: no signal ends it, no lock of Python is held
    lock, library = ctypes.create_string_buffer(64), ctypes.CDLL(None)
    library.pthread_mutex_lock(lock)
    library.pthread_mutex_lock(lock)
socket.getaddrinfo = getaddrinfo
"""


@EACH
def test_while_a_name_is_looked_up(number, archive, tmp_path, run_cli):
    child = start(
        run_cli,
        *(archive, "-t", "registry.example.invalid/a:1"),
        env=with_customized_python(tmp_path, HANGING_LOOKUP),
    )
    interrupted(child, after(1.0), number)


@EACH
def test_while_a_large_layer_is_compressed(number, proxy, tmp_path, run_cli):
    path = large_archive(tmp_path / "big.tar", [150 * MIB], compressible=True)
    child = start(
        run_cli,
        *(path, "-t", f"{proxy.host}/big:1", "--plain-http"),
        *("--compress-level", "9"),
    )
    interrupted(child, after(0.7), number)
    path.unlink()


@EACH
def test_while_a_pipe_is_stalled(number, proxy, archive, run_cli):
    content = archive.read_bytes()
    child = start(
        run_cli,
        *("-", "-t", f"{proxy.host}/pipe:1", "--plain-http"),
        stdin=subprocess.PIPE,
    )
    assert child.stdin is not None
    child.stdin.write(content[: len(content) // 2])
    child.stdin.flush()
    interrupted(child, after(1.0), number)


@EACH
def test_while_waiting_before_another_try(number, proxy, archive, run_cli):
    schedule = proxy.schedule(
        "again", Fault(Effect.REPLACE_REQUEST, "POST", times=ALWAYS, status=503)
    )
    child = start(
        run_cli,
        *(archive, "-t", f"{proxy.host}/again:1", "--plain-http"),
        *("--retry-delay", "60"),
    )
    interrupted(child, lambda: bool(schedule.met), number)


def test_while_a_rate_limit_holds_it_back(proxy, archive, run_cli):
    child = start(
        run_cli,
        *(archive, "-t", f"{proxy.host}/slow:1", "--plain-http"),
        *("--limit-rate", "2000"),
    )
    interrupted(child, after(1.5))


@pytest.mark.parametrize("tag", first(1, ["1", "2"]))
def test_while_another_process_holds_the_locks(tag, proxy, archive, run_cli):
    """That of the target comes first, those of the state's files at the end."""
    done = run_cli("push", archive, "-t", f"{proxy.host}/lock:1", "--plain-http")
    assert done.returncode == 0, done.stderr
    locks = [path for path in run_cli.state.rglob("*lock*") if path.is_file()]
    assert len(locks) > 1
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD_LOCKS, *map(str, locks)], stdout=subprocess.PIPE
    )
    with killed_at_last(holder):
        assert holder.stdout is not None
        holder.stdout.readline()
        schedule = proxy.schedule("lock")
        push = (archive, "-t", f"{proxy.host}/lock:{tag}", "--plain-http")
        child = start(run_cli, *push)
        settled = after(1.0)
        if tag == "1":
            interrupted(child, settled)
            assert schedule.requests == []
        else:
            interrupted(
                child, lambda: bool(schedule.exchanges("PUT", "manifest")) and settled()
            )


HOLD_LOCKS = """\
import fcntl, sys, time
files = [open(path, "r+b") for path in sys.argv[1:]]
for file in files:
    fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(60)
"""


def test_the_next_run_continues_after_a_signal(proxy, tmp_path, run_cli):
    """The session is kept, and what the registry acknowledged is not sent again."""
    path = large_archive(tmp_path / "big.tar", [8 * MIB], compressible=False)
    schedule = proxy.schedule("on", Fault(Effect.HOLD, "PATCH", nth=6, after=500_000))
    push = (path, "-t", f"{proxy.host}/on:1", "--plain-http", "--blob-chunk", "1MiB")
    interrupted(start(run_cli, *push), schedule.held.is_set)
    done = run_cli("push", *push)
    assert done.returncode == 0, done.stderr
    stored = read_back(proxy.upstream, "on", "1")
    assert stored.layers == stored.diff_ids
    assert schedule.sent < 1.25 * 8 * MIB


@pytest.mark.parametrize("times", [1, 2])
def test_a_lost_terminal_leaves_no_temp_files(times, proxy, tmp_path, run_cli):
    """The shell and the kernel may both send SIGHUP; the new layers wait in a file."""
    path = large_archive(tmp_path / "big.tar", [4 * MIB, 4 * MIB], compressible=True)
    source = f"{proxy.host}/hangup:1"
    assert run_cli("push", path, "-t", source, "--plain-http").returncode == 0
    hold = Fault(Effect.HOLD_ANSWER, "GET", "blob", nth=3)
    schedule = proxy.schedule("hangup", hold)
    child = run_cli.start(
        *("copy", source, tmp_path / "out.tar", "--recompress", "gzip", "-j", "1"),
        *("--src-plain-http", "--compress-level", "9"),
        **{"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE},
    )

    def waits() -> bool:
        if not schedule.held.is_set():
            return False
        for _ in range(times - 1):
            child.send_signal(signal.SIGHUP)
        return True

    interrupted(child, waits, signal.SIGHUP)
    assert not list(tmp_path.glob("*out.tar*"))


def test_a_lost_terminal_does_not_end_what_nohup_started(proxy, archive, run_cli):
    schedule = proxy.schedule("nohup", Fault(Effect.DELAY, "POST", seconds=1))
    push = ("push", archive, "-t", f"{proxy.host}/nohup:1", "--plain-http")
    child = run_cli.start(
        *push,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    with killed_at_last(child):
        wait_for(lambda: bool(schedule.met), child)
        child.send_signal(signal.SIGHUP)
        _, said = child.communicate(timeout=20)
    assert child.returncode == 0, said


HANGING_END = """\
import dockerpush.system.cancellation as module, time
def cancel(self, reason=""):
    self._cancelled = True
    while True:
        time.sleep(1)
module.Cancellation.cancel = cancel
"""


@EACH
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_at_once(
    number, second, proxy, archive, tmp_path, run_cli
):
    """Even when the first one's cleaning up hangs."""
    schedule = proxy.schedule("twice", Fault(Effect.HOLD_ANSWER, "POST"))
    child = start(
        run_cli,
        *(archive, "-t", f"{proxy.host}/twice:1", "--plain-http"),
        env=with_customized_python(tmp_path, HANGING_END),
    )
    with killed_at_last(child):
        wait_for(schedule.held.is_set, child)
        child.send_signal(number)
        time.sleep(0.5)
        assert child.poll() is None
        started = time.monotonic()
        child.send_signal(second)
        child.wait(5)
        assert time.monotonic() - started < 0.5
        assert child.returncode in (-second, 128 + second)


@pytest.mark.long
def test_what_hangs_in_spite_of_a_signal_is_left_behind(
    proxy, archive, tmp_path, run_cli
):
    schedule = proxy.schedule("hang", Fault(Effect.HOLD_ANSWER, "POST"))
    child = start(
        run_cli,
        *(archive, "-t", f"{proxy.host}/hang:1", "--plain-http"),
        env=with_customized_python(tmp_path, HANGING_END),
    )
    interrupted(child, schedule.held.is_set)


@contextlib.contextmanager
def black_hole() -> Iterator[str]:
    """``host:port`` where connecting is neither refused nor done."""
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect(full.getsockname())
        time.sleep(0.1)
        probe = stack.enter_context(socket.socket())
        probe.settimeout(0.3)
        with pytest.raises(socket.timeout):
            probe.connect(full.getsockname())
        yield f"127.0.0.1:{full.getsockname()[1]}"


def test_ctrl_c_while_the_command_is_still_loading():
    """Python itself raises it then: no handler of ours is there yet."""
    script = (
        "import sys, dockerpush.__main__ as entry, dockerpush.cli.main as cli\n"
        "def run(): raise KeyboardInterrupt\n"
        "cli.main = run\n"
        "sys.argv[1:] = ['push']\n"
        "sys.exit(entry.main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, timeout=30, check=False
    )
    assert done.returncode == -signal.SIGINT
    assert done.stderr == b"error: interrupted\n"
