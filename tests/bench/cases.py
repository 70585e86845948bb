"""The cases: which image goes by which way to a registry, and by whom it is sent."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, Iterator, Sequence

from tests.images import MIB
from tests.registries import DockerRegistry, start_docker_registry

from .images import Image, compressible_image, incompressible_image, small_layers_image
from .link import slow_link
from .measure import CommandFailed, Cost, measure, timed
from .peers import FLOOR, GZIP, NONE, STDLIB, Peer, Target, environment
from .results import Result, Round, StartUp

MEMORY = "memory"
"""The start of the names of the cases that the picture of memory is drawn from."""

LINK_DELAY = 0.05
LINK_RATE = 12.5e6
"""Seconds of a round trip, and bytes a second (100 Mbit/s), of the slow link."""

START_UPS = 15
"""Times that a short command is run."""


@dataclass(frozen=True)
class Case:
    """*make* makes the image; *without* names peers that have no part in it."""

    name: str
    make: Callable[[Path], Image]
    rounds: int
    tls: bool = False
    slow: bool = False
    without: frozenset[str] = frozenset()


def usual_cases(size: int, rounds: int) -> list[Case]:
    """The cases with images of *size* bytes, and those with small layers."""
    same = frozenset({STDLIB, GZIP, NONE})
    mib = f"{size // MIB} MiB"

    def incompressible(directory: Path) -> Image:
        return incompressible_image(directory, size)

    def compressible(directory: Path) -> Image:
        return compressible_image(directory, size)

    return [
        Case(f"incompressible, {mib}", incompressible, rounds),
        Case(
            f"incompressible, {mib}, TLS",
            incompressible,
            rounds,
            tls=True,
            without=same,
        ),
        Case(f"real files, {mib}", compressible, rounds),
        Case("100 small layers", small_layers_image, rounds),
        Case(
            "100 small layers, 50 ms link",
            small_layers_image,
            rounds,
            slow=True,
            without=frozenset({STDLIB, GZIP}),
        ),
    ]


def large_case(size: int, rounds: int) -> Case:
    """The largest image, by those that differ there."""
    return Case(
        f"incompressible, {size // MIB} MiB",
        lambda directory: incompressible_image(directory, size),
        rounds,
        without=frozenset({STDLIB, GZIP, NONE}),
    )


def memory_cases(sizes: Sequence[int]) -> list[Case]:
    """One push of an incompressible image of each of *sizes* bytes."""
    without = frozenset({FLOOR, STDLIB, GZIP, NONE})

    def case(size: int) -> Case:
        return Case(
            f"{MEMORY}, {size // MIB} MiB",
            lambda directory: incompressible_image(directory, size),
            1,
            without=without,
        )

    return [case(size) for size in sizes]


def run_case(
    case: Case, peers: Sequence[Peer], directory: Path, say: Callable[[str], None]
) -> list[Result]:
    """Every peer in turn, *case.rounds* times, each into an empty registry.

    A peer that fails is told of, and left out.
    """
    peers = [peer for peer in peers if peer.name not in case.without]
    with _emptied(directory / "image") as made:
        image = case.make(made)
        results = {
            peer.name: Result(case.name, peer.name, image.size, ()) for peer in peers
        }
        for number in range(case.rounds):
            for peer in peers:
                before = results.get(peer.name)
                if before is None:
                    continue
                try:
                    done = _round(case, peer, image, directory)
                except CommandFailed as error:
                    say(f"{case.name}: {error}")
                    del results[peer.name]
                    continue
                say(
                    f"{case.name}: {number + 1}/{case.rounds}: {peer.name}: "
                    f"{done.cold.wall:.2f} s, {done.cold.memory / MIB:.1f} MiB"
                )
                rounds = (*before.rounds, done)
                results[peer.name] = replace(before, rounds=rounds)
    return list(results.values())


def _round(case: Case, peer: Peer, image: Image, directory: Path) -> Round:
    with _registry(directory, tls=case.tls) as registry, _scratch(directory) as scratch:
        with contextlib.ExitStack() as stack:
            host = registry.host
            if case.slow:
                link = slow_link(host, rate=LINK_RATE, delay=LINK_DELAY)
                host = stack.enter_context(link)
            target = Target(host, registry.authority)
            cold = _push(peer, image, target, scratch)
            warm = None
            if peer.name != FLOOR:
                warm = _push(peer, image, target, scratch)
        return Round(cold, warm, _stored(registry))


def _push(peer: Peer, image: Image, target: Target, scratch: Path) -> Cost:
    temp = scratch / "tmp"
    os.sync()  # what the one before left to be written is not this one's
    return measure(
        peer.command(image, target, scratch),
        environment(scratch, temp, target),
        temp,
        scratch / "log",
    )


def _stored(registry: DockerRegistry) -> int:
    blobs = registry.storage / "docker" / "registry" / "v2" / "blobs"
    return sum(path.stat().st_size for path in blobs.rglob("data"))


@contextlib.contextmanager
def _registry(directory: Path, *, tls: bool) -> Iterator[DockerRegistry]:
    with (
        _emptied(directory / "registry") as fresh,
        start_docker_registry(fresh / "run", tls=tls) as registry,
    ):
        yield registry


@contextlib.contextmanager
def _scratch(directory: Path) -> Iterator[Path]:
    with _emptied(directory / "scratch") as scratch:
        (scratch / "tmp").mkdir()
        yield scratch


@contextlib.contextmanager
def _emptied(directory: Path) -> Iterator[Path]:
    """*directory*, new; gone when the ``with`` ends."""
    directory.mkdir(parents=True)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def start_up(directory: Path) -> list[StartUp]:
    """The short commands, each in turn with what it is measured against."""
    with _registry(directory, tls=False) as registry, _scratch(directory) as scratch:
        image = incompressible_image(scratch, 24 * MIB)
        target = Target(registry.host, None)
        settings = environment(scratch, scratch / "tmp", target)
        push = [sys.executable, "-m", "dockerpush", "push", str(image.archive), "-q"]
        push += ["-t", target.reference, "--plain-http"]
        timed(push, settings)
        pairs = [
            ("--version", [sys.executable, "-m", "dockerpush", "--version"], "pass"),
            ("warm push, 3 layers", push, "import urllib3"),
        ]
        return [_beside(name, words, code, settings) for name, words, code in pairs]


def _beside(name: str, command: list[str], code: str, settings) -> StartUp:
    other = [sys.executable, "-c", code]
    pairs = [
        (timed(command, settings), timed(other, settings)) for _ in range(START_UPS)
    ]
    seconds, against = zip(*pairs)
    return StartUp(name, seconds, f"python -c '{code}'", against)
