"""Run the tests in as many pytest processes as there are cores.

Each process takes the next test file that none has taken yet, so that they end at about
the same time. Their outputs follow one another, that of the first as it grows; the last
line has the totals. Arguments go to every pytest. This file is also the plugin that has
a pytest leave out what others have taken.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Sequence

import pytest

ROOT = Path(__file__).parents[1]

LONGEST = (
    "test_faults.py",
    "test_cli_push.py",
    "test_hostile.py",
    "test_cli_pull.py",
    "test_cli_target.py",
    "test_signals.py",
    "test_together.py",
    "test_resources.py",
    "test_cli_sync.py",
    "test_cli_stream.py",
    "test_cli_copy.py",
)
"""They are taken first: who takes a long one last works alone at the end."""

MOST = 8
"""Processes; more would only wait for whoever has the longest file."""

PATIENCE = 60.0
"""Seconds in which an interrupted pytest stops what its fixtures have started."""

LAST_FAILED = "v/cache/lastfailed"
"""What ``pytest --lf`` runs again, below the cache directory."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--taken", help="directory with a file for each test file taken")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Taking(Path(config.getoption("--taken"))))


class Taking:
    """Has a pytest run the test files that it is the first to take."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ours: dict[str, bool] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Put what takes longest first; all else stays in its order."""
        items.sort(key=lambda item: (*LONGEST, item.path.name).index(item.path.name))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        """Say that a test is done already when somebody else has its file."""
        file = item.nodeid.partition("::")[0]
        if file not in self._ours:
            self._ours[file] = self._take(file)
        return None if self._ours[file] else True

    def _take(self, file: str) -> bool:
        try:
            (self._directory / file.replace("/", "+")).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


class Process:
    """One pytest, in a session of its own: Ctrl-C comes from us, and once."""

    def __init__(self, number: int, directory: Path, words: Sequence[str]) -> None:
        self.number = number
        self._cache = directory / f"{number}.cache"
        log = directory / f"{number}.log"
        command = [sys.executable, "-m", "pytest", "-p", "tests.side_by_side"]
        command += [f"--taken={directory}", "-o", f"cache_dir={self._cache}"]
        command += ["-o", "console_output_style=classic"]
        if sys.stdout.isatty():
            command.append("--color=yes")
        with log.open("wb") as output:
            self._child = subprocess.Popen(
                [*command, *words],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._log = log.open("rb")

    @property
    def code(self) -> int:
        """The exit code; 128 and the signal's number when it died of one."""
        code = self._child.returncode
        return 128 - code if code < 0 else code

    def show(self) -> None:
        """Print what was not printed yet, until the process ends."""
        while self._child.poll() is None:
            self._print()
            time.sleep(0.1)
        self._print()

    def _print(self) -> None:
        sys.stdout.buffer.write(self._log.read())
        sys.stdout.buffer.flush()

    def stop(self) -> None:
        """What Ctrl-C does: to pytest and to all that it has started."""
        self._signal(signal.SIGINT)

    def end(self) -> None:
        """Wait for what was stopped; neither forever nor beyond a second Ctrl-C."""
        try:
            self._child.wait(PATIENCE)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            self._signal(signal.SIGKILL)
            self._child.wait()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self._child.poll() is None:
                os.killpg(self._child.pid, number)

    def counts(self) -> Counter[str]:
        """Outcome → tests, by pytest's last line; none when it did not come so far."""
        self._log.seek(0)
        text = re.sub(r"\x1b\[[\d;]*m", "", self._log.read().decode("utf-8", "replace"))
        *_, last = ["", *re.findall(r"^=+ (.+) in [\d.]+s\b", text, re.MULTILINE)]
        found = re.findall(r"(\d+) (passed|skipped|failed|error)", last)
        return Counter({outcome: int(count) for count, outcome in found})

    def last_failed(self) -> dict[str, bool]:
        """What pytest would run again."""
        try:
            return json.loads((self._cache / LAST_FAILED).read_text("utf-8"))
        except FileNotFoundError:
            return {}


def cores() -> int:
    """Those that we may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def main(words: Sequence[str]) -> int:
    """Run the tests; the highest exit code, that of a signal as a shell has it."""
    for number in (signal.SIGINT, signal.SIGTERM):  # whatever a shell's & has set
        signal.signal(number, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="dockerpush-tests-") as name:
        processes: list[Process] = []
        try:
            for number in range(1, min(cores(), MOST) + 1):
                processes.append(Process(number, Path(name), words))
            for process in processes:
                process.show()
        except KeyboardInterrupt:
            return 128 + signal.SIGINT
        else:
            remember(processes)
        finally:
            for act in (Process.stop, Process.end, Process.show):
                for process in processes:
                    act(process)
            print(totals(processes), flush=True)
        return max(process.code for process in processes)


def remember(processes: Sequence[Process]) -> None:
    """Have ``pytest --lf`` know of all that failed."""
    failed = {test: True for process in processes for test in process.last_failed()}
    path = ROOT / ".pytest_cache" / LAST_FAILED
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(failed), "utf-8")


def totals(processes: Sequence[Process]) -> str:
    """The last line: how many tests ended how, and which pytest did not end well."""
    counts = sum((process.counts() for process in processes), Counter())
    bad = counts["failed"] + counts["error"]
    line = f"{counts['passed']} passed, {counts['skipped']} skipped, {bad} failed"
    for process in processes:
        if process.code > 1:
            line += f", process {process.number} ended with {process.code}"
    return line


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
