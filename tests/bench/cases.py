"""Pushes: which image goes by which way to a registry, and by whom it is sent."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterator, Sequence

from tests.support.images import MIB

from .images import Image, compressible_image, incompressible_image, small_layers_image
from .link import slow_link
from .measure import Cost, measure, timed
from .peers import FLOOR, GZIP, NONE, STDLIB, Peer, Target, environment
from .results import Round, StartUp
from .turns import Turns, emptied, new_registry, new_scratch, stored_in

MEMORY = "memory"
"""The start of the names of the cases that the picture of memory is drawn from."""

LINK_DELAYS = (0.02, 0.05, 0.3)
LINK_RATE = 12.5e6
"""Seconds of round trips, and bytes a second (100 Mbit/s), of links."""

SLOW_RATE = 1e6
SLOW_SIZE = 8 * MIB
"""Bytes a second of the slowest link, and of the image that goes over it."""

START_UPS = 15
"""Times that a short command is run."""


@dataclass(frozen=True)
class Push:
    """*peers* push what *make* makes, each into an empty registry, and once more.

    *without* names those that have no part in it. A *link* is its bytes a second and
    the seconds of a round trip.
    """

    name: str
    peers: Sequence[Peer]
    make: Callable[[Path], Image]
    rounds: int
    tls: bool = False
    link: tuple[float, float] | None = None
    without: frozenset[str] = frozenset()

    @contextlib.contextmanager
    def ready(self, directory: Path) -> Iterator[Turns]:
        """The image made, for the ``with``."""
        with emptied(directory / "image") as made:
            image = self.make(made)
            rounds = {
                peer.name: functools.partial(_round, self, peer, image, directory)
                for peer in self.peers
                if peer.name not in self.without
            }
            yield Turns(image.size, rounds)


def usual_cases(peers: Sequence[Peer], size: int, rounds: int) -> list[Push]:
    """The cases with images of *size* bytes, and those with small layers."""
    same = frozenset({STDLIB, GZIP, NONE})
    mib = f"{size // MIB} MiB"

    def incompressible(directory: Path) -> Image:
        return incompressible_image(directory, size)

    def compressible(directory: Path) -> Image:
        return compressible_image(directory, size)

    def case(name: str, make: Callable[[Path], Image], **how: Any) -> Push:
        return Push(name, peers, make, rounds, **how)

    return [
        case(f"incompressible, {mib}", incompressible),
        case(f"incompressible, {mib}, TLS", incompressible, tls=True, without=same),
        case(f"real files, {mib}", compressible),
        case("100 small layers", small_layers_image),
        *(
            case(
                f"100 small layers, {delay * 1000:.0f} ms link",
                small_layers_image,
                link=(LINK_RATE, delay),
                without=frozenset({STDLIB, GZIP}),
            )
            for delay in LINK_DELAYS
        ),
        case(
            f"incompressible, {SLOW_SIZE // MIB} MiB, 977 KiB/s link",
            lambda directory: incompressible_image(directory, SLOW_SIZE),
            link=(SLOW_RATE, 0.05),
            without=same,
        ),
    ]


def large_case(peers: Sequence[Peer], size: int, rounds: int) -> Push:
    """The largest image, by those that differ there."""
    return Push(
        f"incompressible, {size // MIB} MiB",
        peers,
        lambda directory: incompressible_image(directory, size),
        rounds,
        without=frozenset({STDLIB, GZIP, NONE}),
    )


def memory_cases(peers: Sequence[Peer], sizes: Sequence[int]) -> list[Push]:
    """One push of an incompressible image of each of *sizes* bytes."""
    without = frozenset({FLOOR, STDLIB, GZIP, NONE})

    def case(size: int) -> Push:
        return Push(
            f"{MEMORY}, {size // MIB} MiB",
            peers,
            lambda directory: incompressible_image(directory, size),
            1,
            without=without,
        )

    return [case(size) for size in sizes]


def _round(case: Push, peer: Peer, image: Image, directory: Path) -> Round:
    place = directory / "registry"
    with (
        new_registry(place, tls=case.tls) as registry,
        new_scratch(directory) as scratch,
    ):
        with contextlib.ExitStack() as stack:
            host = registry.host
            if case.link is not None:
                rate, delay = case.link
                host = stack.enter_context(slow_link(host, rate=rate, delay=delay))
            target = Target(host, registry.authority)
            cold = _push(peer, image, target, scratch)
            warm = None
            if peer.name != FLOOR:
                warm = _push(peer, image, target, scratch)
        return Round(cold, warm, stored_in(registry))


def _push(peer: Peer, image: Image, target: Target, scratch: Path) -> Cost:
    temp = scratch / "tmp"
    os.sync()  # what the one before left to be written is not this one's
    return measure(
        peer.command(image, target, scratch),
        environment(scratch, temp, target),
        [temp],
        scratch / "log",
    )


def start_up(directory: Path) -> list[StartUp]:
    """The short commands, each in turn with what it is measured against."""
    place = directory / "registry"
    with new_registry(place) as registry, new_scratch(directory) as scratch:
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
