"""Programs that are read piece by piece: ends, failures, cancellation, reaping."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import Iterator

import pytest

from dockerpush.errors import Cancelled, PusherError
from dockerpush.runtimes.programs import ProgramOutput
from dockerpush.system.cancellation import Cancellation

BOTH_WAYS = pytest.mark.parametrize("polled", [True, False], ids=["poll", "no-poll"])


@pytest.fixture
def cancellation() -> Iterator[Cancellation]:
    with Cancellation() as one:
        yield one


def failure(code: int, said: str) -> PusherError:
    return PusherError(f"{code}: {said}")


def start(
    script: str, cancellation: Cancellation, *, polled: bool = True
) -> ProgramOutput:
    return ProgramOutput.start(
        [sys.executable, "-S", "-c", script],
        failure,
        cancellation=cancellation,
        polled=polled,
    )


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@BOTH_WAYS
def test_all_that_a_program_writes_is_read(
    cancellation: Cancellation, polled: bool
) -> None:
    script = "import sys; sys.stdout.buffer.write(b'0123456789' * 300_000)"
    with start(script, cancellation, polled=polled) as output:
        assert output.read() == b"0123456789" * 300_000
        assert output.read(1) == b""


@BOTH_WAYS
def test_a_failed_program_has_no_end_of_output(
    cancellation: Cancellation, polled: bool
) -> None:
    script = (
        "import sys; sys.stdout.write('part'); sys.stdout.flush();"
        "sys.stderr.write('starting\\nError: the\\x1b[31m disk\\x07\\nsee --help\\n');"
        "sys.exit(125)"
    )
    with start(script, cancellation, polled=polled) as output:
        assert output.read(4) == b"part"
        with pytest.raises(PusherError, match=r"^125: Error: the \[31m disk$"):
            output.read(5)


@BOTH_WAYS
def test_a_killed_program_has_failed(cancellation: Cancellation, polled: bool) -> None:
    script = "import os; os.kill(os.getpid(), 9)"
    with (
        start(script, cancellation, polled=polled) as output,
        pytest.raises(PusherError, match=r"^-9: it gave no reason$"),
    ):
        output.finish()


@BOTH_WAYS
def test_many_complaints_neither_stall_a_program_nor_pile_up(
    cancellation: Cancellation, polled: bool
) -> None:
    script = (
        "import sys; sys.stderr.write('noise\\n' * 200_000 + 'the last line\\n');"
        "sys.stdout.write('done'); sys.stdout.flush(); sys.exit(1)"
    )
    with start(script, cancellation, polled=polled) as output:
        assert output.read(4) == b"done"
        with pytest.raises(PusherError, match="the last line"):
            output.finish()
        assert len(output._said) <= 8192


def test_finishing_reads_the_rest_and_learns_of_a_late_failure(
    cancellation: Cancellation,
) -> None:
    script = "import sys; sys.stdout.write('x' * 500_000); sys.stdout.flush(); 1 / 0"
    with start(script, cancellation) as output:
        output.read(10)
        with pytest.raises(PusherError, match="ZeroDivisionError"):
            output.finish()


def test_a_program_that_closes_its_output_is_waited_for(
    cancellation: Cancellation,
) -> None:
    script = "import os, sys, time; os.close(1); time.sleep(0.3); os._exit(3)"
    with (
        start(script, cancellation) as output,
        pytest.raises(PusherError, match=r"^3:"),
    ):
        output.read(1)


@pytest.mark.parametrize(
    "script",
    [
        "import time; time.sleep(60)",
        "import os, time; os.close(1); time.sleep(60)",
        "import os, time; os.close(2); time.sleep(60)",
    ],
    ids=["silent", "output closed", "complaints closed"],
)
def test_cancelling_ends_the_wait_at_once(
    cancellation: Cancellation, script: str
) -> None:
    threading.Timer(0.3, cancellation.cancel, ("enough",)).start()
    began = time.monotonic()
    with start(script, cancellation) as output:
        with pytest.raises(Cancelled, match="enough"):
            output.read(1)
        pid = output._process.pid
        assert is_running(pid)
    assert time.monotonic() - began < 2
    assert not is_running(pid)


def test_without_polling_a_cancellation_is_seen_between_pieces(
    cancellation: Cancellation,
) -> None:
    script = "while True: print('x' * 1000)"
    with start(script, cancellation, polled=False) as output:
        output.read(100)
        cancellation.cancel("enough")
        with pytest.raises(Cancelled):
            output.read(100)


def test_closing_ends_a_program_that_ignores_it(cancellation: Cancellation) -> None:
    script = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print('ready', flush=True); time.sleep(60)"
    )
    began = time.monotonic()
    with start(script, cancellation) as output:
        output.read(5)
    assert 1 < time.monotonic() - began < 3
    assert not is_running(output._process.pid)


@BOTH_WAYS
def test_a_program_that_cannot_be_run_is_named(
    cancellation: Cancellation, tmp_path: Path, polled: bool
) -> None:
    script = tmp_path / "docker"
    script.write_text("neither a script nor a program")
    with pytest.raises(PusherError, match=f"cannot run {script}: permission denied"):
        ProgramOutput.start(
            [str(script)], failure, cancellation=cancellation, polled=polled
        )


def test_a_program_does_not_inherit_our_settings(
    cancellation: Cancellation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKERPUSH_PASSWORD", "hunter2")
    monkeypatch.setenv("DOCKER_HOST", "ssh://build")
    script = "import os; print(sorted(k for k in os.environ if 'DOCKER' in k))"
    with start(script, cancellation) as output:
        assert output.read().strip() == b"['DOCKER_HOST']"
