"""What all cases have in common: the peers take turns, each in places that are new."""

from __future__ import annotations

import contextlib
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, ContextManager, Iterator, Mapping, Protocol

from tests.support.images import MIB
from tests.support.registries import DockerRegistry, start_docker_registry

from .measure import CommandFailed
from .results import Result, Round


@dataclass(frozen=True)
class Turns:
    """By peer, what does one round; *size* is bytes of the layers it is about."""

    size: int
    by_peer: Mapping[str, Callable[[], Round]]


class Case(Protocol):
    """Something to measure, *rounds* times."""

    @property
    def name(self) -> str:
        """What it is called in tables, and by ``--only``."""

    @property
    def rounds(self) -> int:
        """Turns of every peer."""

    def ready(self, directory: Path) -> ContextManager[Turns]:
        """Everything made in *directory* that the peers find there."""


def run_case(
    case: Case, wanted: str, directory: Path, say: Callable[[str], None]
) -> list[Result]:
    """Every peer whose name matches *wanted* in turn, *case.rounds* times.

    A peer that fails is told of, and left out.
    """
    with case.ready(directory) as turns:
        results = {
            peer: Result(case.name, peer, turns.size, ())
            for peer in turns.by_peer
            if re.search(wanted, peer)
        }
        for number in range(case.rounds):
            for peer, before in list(results.items()):
                try:
                    done = turns.by_peer[peer]()
                except CommandFailed as error:
                    say(f"{case.name}: {error}")
                    del results[peer]
                    continue
                say(
                    f"{case.name}: {number + 1}/{case.rounds}: {peer}: "
                    f"{done.cold.wall:.2f} s, {done.cold.memory / MIB:.1f} MiB"
                )
                results[peer] = replace(before, rounds=(*before.rounds, done))
    return list(results.values())


@contextlib.contextmanager
def new_registry(directory: Path, *, tls: bool = False) -> Iterator[DockerRegistry]:
    """An empty docker-registry in *directory*, gone when the ``with`` ends."""
    with (
        emptied(directory) as fresh,
        start_docker_registry(fresh / "run", tls=tls) as registry,
    ):
        yield registry


@contextlib.contextmanager
def new_scratch(directory: Path) -> Iterator[Path]:
    """A directory for one peer's files in one round, with ``tmp`` in it."""
    with emptied(directory / "scratch") as scratch:
        (scratch / "tmp").mkdir()
        yield scratch


@contextlib.contextmanager
def emptied(directory: Path) -> Iterator[Path]:
    """*directory*, new; gone when the ``with`` ends."""
    directory.mkdir(parents=True)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def stored_in(registry: DockerRegistry) -> int:
    """Bytes of all blobs of *registry*, manifests included."""
    blobs = registry.storage / "docker" / "registry" / "v2" / "blobs"
    return sum(path.stat().st_size for path in blobs.rglob("data"))
