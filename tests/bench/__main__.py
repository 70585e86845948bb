"""``python -m tests.bench``: measure, print the table, draw the pictures."""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Sequence

from dockerpush import __version__
from tests.support.images import MIB

from .cases import large_case, memory_cases, start_up, usual_cases
from .copies import copy_cases, recompress_case
from .crowd import crowd_case
from .deltas import delta_cases
from .peers import Peer, available_peers
from .results import Report, Result
from .svg import copies_picture, memory_picture, wall_picture
from .syncs import sync_cases
from .table import markdown, summary
from .turns import Case, run_case
from .volumes import volumes_case

GIB = 1024 * MIB
QUICK_SIZES = (100, 400, 1024, 3072)
FULL_SIZES = (100, 500, 1024, 2048, 5120)
"""MiB of the images that memory is measured with."""

VERSIONS = (
    ("skopeo", "--version"),
    ("crane", "version"),
    ("regctl", "version"),
    ("oras", "version"),
    ("curl", "--version"),
    ("docker-registry", "--version"),
)
"""What says how new a program is that is measured."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what *argv* asks for; 1 when it is worse than what was recorded."""
    args = _arguments().parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.draw is None:
        report = _measured(args)
        report.write(args.out / "results.json")
    else:
        report = Report.read(args.draw)
    text = markdown(report)
    (args.out / "results.md").write_text(text)
    (args.out / "summary.md").write_text(summary(report))
    print(text)
    pictures = (
        ("memory", memory_picture),
        ("wall", wall_picture),
        ("copies", copies_picture),
    )
    for name, draw in pictures:
        _draw(args.out / f"{name}.svg", report, draw)
    worse = report.worse_than(Report.read(args.check)) if args.check else []
    for line in worse:
        _say(f"worse: {line}")
    return int(bool(worse))


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    add = parser.add_argument
    add("--size", type=int, default=400, metavar="MIB", help="of the usual images")
    add("--rounds", type=int, default=3, help="turns of each program (default: 3)")
    add("--full", action="store_true", help="up to 5 GiB; takes half an hour")
    add("--only", default="", metavar="REGEX", help="the cases whose names match")
    add("--peers", default="", metavar="REGEX", help="the programs whose names match")
    add("--tmp", type=Path, default=None, help="for images and registries (/var/tmp)")
    out = Path("dist", "bench")
    add("--out", type=Path, default=out, help=f"for JSON, table, pictures ({out})")
    recorded = Path(__file__).parent / "results.json"
    add(
        "--check",
        type=Path,
        nargs="?",
        const=recorded,
        metavar="JSON",
        help="fail when a ratio is 15 %% worse in every round than in this file "
        "(tests/bench/results.json)",
    )
    add("--draw", type=Path, metavar="JSON", help="measure nothing, show this again")
    return parser


def _measured(args: argparse.Namespace) -> Report:
    peers, skipped = available_peers()
    results: list[Result] = []
    parent = args.tmp or Path(os.environ.get("TMPDIR", "/var/tmp"))
    with tempfile.TemporaryDirectory(prefix="dockerpush-bench-", dir=parent) as name:
        directory = Path(name)
        begun = start_up(directory) if re.search(args.only, "start-up") else []
        for case in _cases(args, peers):
            results += run_case(case, args.peers, directory, _say)
    return Report(_about(), tuple(skipped), tuple(results), tuple(begun))


def _cases(args: argparse.Namespace, peers: Sequence[Peer]) -> list[Case]:
    size = args.size * MIB
    sizes = [size * MIB for size in (FULL_SIZES if args.full else QUICK_SIZES)]
    cases: list[Case] = [*usual_cases(peers, size, args.rounds)]
    if args.full:
        cases.append(large_case(peers, 5 * GIB, args.rounds))
    cases += [*copy_cases(size, args.rounds), *sync_cases(args.rounds)]
    cases += delta_cases(args.rounds)
    cases.append(crowd_case(args.rounds))
    cases += [volumes_case(size, args.rounds), recompress_case(size, args.rounds)]
    cases += memory_cases(peers, sizes)
    return [case for case in cases if re.search(args.only, case.name)]


def _about() -> dict[str, str]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "command": shlex.join(["python", "-m", "tests.bench", *sys.argv[1:]]),
        "machine": f"{_processor()}, {os.cpu_count()} cores, {memory / GIB:.0f} GiB, "
        f"{platform.system()} {platform.release()}",
        "load at the end": load,
        "versions": f"dockerpush {__version__}, Python {platform.python_version()}, "
        + ", ".join(filter(None, (_first_line(*command) for command in VERSIONS))),
    }


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.machine()
    match = re.search(r"^model name\s*:\s*(.*)", text, re.MULTILINE)
    return match[1] if match else platform.machine()


def _first_line(*command: str) -> str:
    """What a program says of its version; "" when there is none."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    words = (done.stdout or done.stderr).partition("\n")[0].split()
    named = words if command[0] in " ".join(words[:1]) else [command[0], *words]
    return " ".join(named[:3])


def _draw(path: Path, report: Report, draw) -> None:
    try:
        path.write_text(draw(report))
    except ValueError:
        _say(f"{path}: nothing was measured for this picture")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
