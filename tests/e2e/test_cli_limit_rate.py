"""``--limit-rate``: every command that moves bytes, and both directions."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Iterator
from unittest import mock

import pytest
from conftest import Command, Finished
from copied import read, write
from images import docker_archive
from inprocess import run_here
from suites import first
from transfers import blobs_below, noise_layer

from dockerpush.server import Registry, RegistryServer
from dockerpush.system.cancellation import Cancellation
from dockerpush.system.rate import RateLimiter

LAYERS = 3
SIZE = 100_000
SLACK = 20_000
"""Bytes of manifests, configs and answers at most, beside the layers."""


@dataclass
class Asked:
    """What limiters were asked for: all bytes, and who asked. They never wait."""

    count: int = 0
    limiters: set[int] = field(default_factory=set)
    largest: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, limiter: RateLimiter, count: int, cancellation: Cancellation) -> int:
        granted = min(count, limiter.grant)
        with self._lock:
            self.count += granted
            self.limiters.add(id(limiter))
            self.largest = max(self.largest, granted)
        return granted


@pytest.fixture
def asked() -> Iterator[Asked]:
    asked = Asked()

    def take(limiter: RateLimiter, count: int, cancellation: Cancellation) -> int:
        return asked.take(limiter, count, cancellation)

    with mock.patch.object(RateLimiter, "take", take):
        yield asked


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Two registries; the first holds app:1."""
    with (
        RegistryServer(Registry(tmp_path / "one")) as one,
        RegistryServer(Registry(tmp_path / "two")) as two,
    ):
        yield one.host, two.host


@dataclass(frozen=True)
class Place:
    """What a run starts from: two registries, an archive, a directory of its own."""

    one: str
    two: str
    archive: Path
    directory: Path
    run: Callable[..., Finished]

    @property
    def image(self) -> str:
        """The image that the first registry holds."""
        return f"{self.one}/app:1"

    def list(self) -> Path:
        """A list for sync, with that image alone."""
        return write(self.directory / "list", self.image)


@pytest.fixture
def place(hosts: tuple[str, str], run_cli: Command, tmp_path: Path) -> Place:
    layers = [noise_layer(SIZE, number) for number in range(LAYERS)]
    archive = docker_archive(tmp_path / "image.tar", layers)

    def run(*words: object) -> Finished:
        done = run_here(words, run_cli.environment())
        assert done.returncode == 0, done.stderr
        return done

    run("push", archive, "-t", f"{hosts[0]}/app:1", "-q")
    return Place(*hosts, archive, tmp_path, run)


Words = Callable[[Place], "list[object]"]
PUSHES: dict[str, Words] = {
    "push": lambda p: ["push", p.archive, "-t", f"{p.two}/app:1"],
    "copy archive": lambda p: ["copy", p.archive, f"{p.two}/app:1"],
    "copy archive, referrers": lambda p: [
        *("copy", p.archive, f"{p.two}/app:1", "--referrers")
    ],
}
PULLS: dict[str, Words] = {
    "pull": lambda p: ["pull", p.image],
    "pull -o x.tar": lambda p: ["pull", p.image, "-o", p.directory / "x.tar"],
    "pull -o x/": lambda p: ["pull", p.image, "-o", f"{p.directory}/x/"],
    "copy x.tar": lambda p: ["copy", p.image, p.directory / "x.tar"],
    "copy x.oci.tar": lambda p: ["copy", p.image, p.directory / "x.oci.tar"],
    "copy oci:x": lambda p: ["copy", p.image, f"oci:{p.directory}/x"],
    "sync oci:x": lambda p: ["sync", p.list(), f"oci:{p.directory}/x"],
    "verify": lambda p: ["verify", p.archive, p.image],
}
BOTH: dict[str, Words] = {
    "copy": lambda p: ["copy", p.image, f"{p.two}/app:1"],
    "sync": lambda p: ["sync", p.list(), p.two],
    "push REF": lambda p: ["push", p.image, "-t", f"{p.two}/app:1"],
    "push --verify": lambda p: ["push", p.archive, "-t", f"{p.two}/app:1", "--verify"],
}
CASES = [
    *((name, words, 1) for name, words in {**PUSHES, **PULLS}.items()),
    *((name, words, 2) for name, words in BOTH.items()),
]


@pytest.mark.parametrize(
    ("words", "directions"),
    [case[1:] for case in CASES],
    ids=[case[0] for case in CASES],
)
def test_every_byte_of_every_command_passes_one_limit(
    words: Words, directions: int, place: Place, asked: Asked
) -> None:
    size = sum(blobs_below(place.one, "app", "1").values())
    assert size > LAYERS * SIZE
    place.run(*words(place), "--limit-rate", "200K")
    assert directions * size <= asked.count < directions * size + SLACK
    assert len(asked.limiters) == 1
    assert asked.largest <= 200_000 / 20


def test_sync_out_of_a_directory_sends_through_the_limit(
    place: Place, asked: Asked
) -> None:
    carried = f"oci:{place.directory}/carried"
    place.run("sync", place.list(), carried)
    assert asked.count == 0
    size = sum(blobs_below(place.one, "app", "1").values())
    place.run("sync", carried, place.two, "--limit-rate", "200K")
    assert size <= asked.count < size + SLACK


def test_what_is_local_does_not_pass_the_limit(place: Place, asked: Asked) -> None:
    place.run("pull", place.image)
    place.run("inspect", place.archive)
    assert asked.count == 0


def test_small_answers_count_as_well(place: Place, asked: Asked) -> None:
    place.run("pull", place.image)
    place.run("pull", place.image, "--limit-rate", "200K")
    raw = read(place.one, "app", "1")
    assert len(raw) <= asked.count < SLACK


@pytest.mark.parametrize("name", ["pull", "copy"])
def test_a_limit_of_the_environment_holds_too(
    name: str, place: Place, asked: Asked, run_cli: Command
) -> None:
    words = {**PULLS, **BOTH}[name](place)
    environment = {"DOCKERPUSH_LIMIT_RATE": "200K"}
    done = run_here(words, run_cli.environment(environment))
    assert done.returncode == 0, done.stderr
    assert asked.count > LAYERS * SIZE
    assert len(asked.limiters) == 1


def test_the_limit_of_one_registry_leaves_the_others_alone(
    place: Place, asked: Asked, run_cli: Command
) -> None:
    run_cli.state.mkdir(exist_ok=True)
    (run_cli.state / "config.json").write_text(
        f'{{"registries": {{"{place.one}": {{"limit_rate": "200K"}}}}}}'
    )
    size = sum(blobs_below(place.one, "app", "1").values())
    place.run("copy", place.image, f"{place.two}/app:1")
    assert size <= asked.count < size + SLACK


@pytest.mark.long
@pytest.mark.parametrize(
    "words",
    first(1, [PUSHES["push"], PULLS["pull"], PULLS["copy x.tar"], BOTH["copy"]]),
    ids=["push", "pull", "copy x.tar", "copy"],
)
def test_it_takes_the_time(words: Words, place: Place, run_cli: Command) -> None:
    """The real command; a slow machine may take longer."""
    done = run_cli(*words(place), "--limit-rate", "150K", "--json")
    assert done.returncode == 0, done.stderr
    assert done.json["seconds"] >= LAYERS * SIZE / 150_000 * 0.9


@pytest.mark.long
def test_pipes_are_limited(place: Place, run_cli: Command) -> None:
    """Standard input as it is sent, standard output as it is received."""
    more = ("--limit-rate", "600K", "-q")
    least = LAYERS * SIZE / 600_000 * 0.9
    target = f"{place.two}/app:1"
    started = time.monotonic()
    done = run_cli("push", "-", "-t", target, *more, stdin=place.archive)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started >= least
    started = time.monotonic()
    with (place.directory / "out.tar").open("wb") as file:
        child = run_cli.start("pull", target, "-o", "-", *more, stdout=file)
        assert child.wait(60) == 0
    assert time.monotonic() - started >= least


@pytest.mark.long
def test_a_slow_limit_is_not_taken_for_a_dead_connection(
    place: Place, run_cli: Command
) -> None:
    """Each blob takes longer than the time-out, in both directions."""
    words = BOTH["copy"](place)
    done = run_cli(*words, "--limit-rate", "150K", "--timeout", "1s", "-v")
    assert done.returncode == 0, done.stderr
    assert "retry" not in done.stderr.lower()
    assert "trying again" not in done.stderr.lower()
