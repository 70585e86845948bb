"""What a command costs: time, processor, memory and temp space, all children included.

Memory is the sum of the peaks (VmHWM) of the processes that ran at the same time, read
every few milliseconds: the kernel's ru_maxrss also counts what the parent had before
exec. Temp space counts files of the given directories and files that a process holds
open though their names are gone.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import stat
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Mapping, Sequence

INTERVAL = 0.02
"""Seconds between two looks at the processes."""

_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB", re.MULTILINE)


class CommandFailed(Exception):
    """A measured command did not end well; the message has the end of what it said."""


@dataclass(frozen=True)
class Cost:
    """*wall* and *cpu* are seconds, *memory* and *temp* bytes at their peak."""

    wall: float
    cpu: float
    memory: int
    temp: int


def measure(
    command: Sequence[str],
    environment: Mapping[str, str],
    temp: Sequence[Path],
    log: Path,
) -> Cost:
    """What *command* costs; its output goes to *log*. Raises CommandFailed."""
    with log.open("wb") as output:
        started = time.monotonic()
        child = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        memory, space = _watch(child.pid, temp)
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.monotonic() - started
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        said = log.read_text(errors="replace")[-2000:]
        raise CommandFailed(f"{' '.join(command)}: exit {child.returncode}:\n{said}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, memory, space)


def timed(command: Sequence[str], environment: Mapping[str, str]) -> float:
    """Seconds that *command* takes, without looking at it meanwhile."""
    started = time.monotonic()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return time.monotonic() - started


def _watch(pid: int, temp: Sequence[Path]) -> tuple[int, int]:
    """Peaks of memory and temp space until process *pid* has ended."""
    memory = space = 0
    flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
    while os.waitid(os.P_PID, pid, flags) is None:
        processes = family(pid)
        memory = max(memory, sum(map(peak_memory, processes)))
        space = max(space, _temp_space(processes, temp))
        time.sleep(INTERVAL)
    return memory, max(space, _temp_space([], temp))  # what is left counts, too


def family(pid: int) -> list[int]:
    """*pid* and what it started, as far as that still runs."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def peak_memory(pid: int) -> int:
    """The most memory that process *pid* had, in bytes."""
    with contextlib.suppress(OSError):
        match = _PEAK.search(Path(f"/proc/{pid}/status").read_text())
        if match:
            return int(match[1]) * 1024
    return 0


def cpu_seconds(pid: int) -> float:
    """What process *pid* has used of the processor so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def _temp_space(processes: Sequence[int], temp: Sequence[Path]) -> int:
    """Bytes on disk below *temp*, and in nameless files that *processes* hold open."""
    used: dict[tuple[int, int], int] = {}
    for folder, _, names in itertools.chain.from_iterable(map(os.walk, temp)):
        for name in names:
            with contextlib.suppress(OSError):
                _count(Path(folder, name).lstat(), used)
    for pid in processes:
        with contextlib.suppress(OSError):
            for entry in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    found = entry.stat()
                    if found.st_nlink == 0:
                        _count(found, used)
    return sum(used.values())


def _count(found: os.stat_result, used: dict[tuple[int, int], int]) -> None:
    if stat.S_ISREG(found.st_mode):
        used[found.st_dev, found.st_ino] = found.st_blocks * 512
