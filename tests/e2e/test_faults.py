"""Random faults between the command and a real registry: what passes is survived.

A schedule is made from its number alone, so a failure names what to run again. The
commands run a few to a process, as `run_many` does; those of TestTheCommand have a
process each.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

import pytest
from conftest import Command
from faultproxy import FaultProxy, Schedule, lasting_fault, transient_faults
from images import docker_archive, small_archive, tar_of
from pushed import check_stored, fetch, put_old_image, run_many
from registries import DockerRegistry, make_certificates, read_back, read_back_all
from suites import first

RETRIES = 5
MOST_FAULTS = 4
"""Of one schedule. One that breaks a chunk on docker-registry 2.8, which loses the
session then, may take two attempts of a blob where all of them meet."""

TRANSIENT = range(160)
LASTING = range(1000, 1048)
BY_PROCESS = [*first(2, range(2000, 2014)), *first(1, range(3000, 3004))]
"""Schedules with a process each: transient ones below 3000, lasting ones from there.
Over HTTPS, other ones than over plain HTTP."""

PART = 16
"""Schedules of one test, half of them over plain HTTP, half over HTTPS."""

BATCH = 4
"""Schedules of one process."""


@dataclass(frozen=True)
class Place:
    """A registry with an old image in it, behind a proxy that breaks things."""

    registry: DockerRegistry
    proxy: FaultProxy
    archive: Path
    diff_ids: list[str]
    flags: tuple[str, ...]
    old: bytes

    @property
    def is_secure(self) -> bool:
        """Whether it is reached by HTTPS."""
        return "--plain-http" not in self.flags

    def prepare(self, number: int) -> tuple[str, Schedule]:
        """A repository where ``:1`` is the old image, and what will happen there."""
        repository = f"faults/{self.flags[0].strip('-')}-{number}"
        put_old_image(self.registry.host, repository, "faults/old", self.old)
        lasting = number in LASTING or number >= 3000
        faults = (
            (lasting_fault(number),)
            if lasting
            else transient_faults(number, MOST_FAULTS)
        )
        return repository, self.proxy.schedule(repository, *faults)

    def arguments(self, repository: str) -> list[str]:
        """What to run."""
        return [
            *("push", str(self.archive), "-t", f"{self.proxy.host}/{repository}:1"),
            *("--retry-times", str(RETRIES), "--retry-delay", "0.001", "--json"),
            *("--blob-chunk", "64KiB", "-q", *self.flags),
        ]

    def check(self, repository: str, code: int, out: str, err: str) -> None:
        """The push ended as its schedule lets it."""
        schedule = self.proxy.schedules[repository]
        if any(fault.stays for fault in schedule.faults):
            assert code in (1, 3, 4, 5), (schedule, err)
            last = err.splitlines()[-1]
            assert last.startswith("error: "), err
            assert "bug" not in last
            assert fetch(self.registry.host, repository, "manifests/1") == self.old
            assert out == ""
        else:
            assert code == 0, (schedule.faults, schedule.met, err)
            pushed = json.loads(out.splitlines()[-1])["digest"]
            assert pushed == check_stored(self.registry.host, repository, self.diff_ids)
        assert "Traceback" not in err


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four layers of up to five chunks; three of them shrink."""
    noise = hashlib.shake_128(b"layers").digest
    numbers = b"".join(b"%d\n" % (n * n) for n in range(60_000))
    return docker_archive(
        tmp_path_factory.mktemp("image") / "image.tar",
        [
            tar_of({"etc/motd": b"hello\n"}),
            tar_of({"srv/numbers": numbers}),
            tar_of({"srv/noise": noise(290_000)}),
            tar_of({"srv/mixed": noise(65_536) + numbers[:100_000]}),
        ],
    )


@pytest.fixture(scope="module", params=["http", "https"])
def place(
    request: pytest.FixtureRequest,
    image: Path,
    shared_docker_registry: DockerRegistry,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("place")
    registry, tls = shared_docker_registry, None
    flags: tuple[str, ...] = ("--plain-http",)
    if request.param == "https":
        authority = make_certificates(directory)
        tls = (directory / "server.pem", directory / "server.key")
        flags = ("--cacert", str(authority))
    command = Command(directory, directory)
    old = small_archive(directory / "old.tar")
    done = command("push", old, "-t", f"{registry.host}/faults/old:1", "--json")
    assert done.returncode == 0, done.stderr
    with FaultProxy(registry.host, tls=tls) as proxy:
        yield Place(
            registry,
            proxy,
            image,
            diff_ids_of(image),
            flags,
            fetch(registry.host, "faults/old", "manifests/1"),
        )


def diff_ids_of(archive: Path) -> list[str]:
    with tarfile.open(archive) as tar:
        return json.load(tar.extractfile("config.json"))["rootfs"]["diff_ids"]


class TestManySchedules:
    """Half of the schedules over plain HTTP, half over HTTPS."""

    def numbers(self, place: Place, start: int) -> list[int]:
        return [n for n in range(start, start + PART) if n % 2 == place.is_secure]

    def push_all(self, place: Place, numbers: list[int], run_cli: Command) -> None:
        """Run the schedules in batches, two at a time, and check each."""
        batches = [numbers[i : i + BATCH] for i in range(0, len(numbers), BATCH)]

        def run(batch: list[int]) -> None:
            repositories = [place.prepare(number)[0] for number in batch]
            words = [place.arguments(name) for name in repositories]
            state = {"DOCKERPUSH_STATE_DIR": str(run_cli.state / str(batch[0]))}
            results = run_many(words, run_cli.environment(state))
            for name, result in zip(repositories, results):
                place.check(name, *result)

        with ThreadPoolExecutor(2, "schedules") as pool:
            for _ in pool.map(run, batches):
                pass

    @pytest.mark.parametrize("start", first(1, TRANSIENT[::PART]))
    def test_temporary_faults_are_survived(self, start, place, tmp_path, run_cli):
        numbers = self.numbers(place, start)
        self.push_all(place, numbers, run_cli)
        names = [f"faults/{place.flags[0].strip('-')}-{number}" for number in numbers]
        met = sum(len(place.proxy.schedules[name].met) for name in names)
        assert met >= len(numbers) / 2  # the schedules do break something
        stored = read_back_all(place.registry.host, names, "1", tmp_path)
        for image in stored.values():
            assert image.layers == image.diff_ids == place.diff_ids
        shutil.rmtree(tmp_path / place.registry.host)

    @pytest.mark.parametrize("start", first(1, LASTING[::PART]))
    def test_what_stays_ends_in_one_line_and_the_old_tag_in_place(
        self, start, place, run_cli
    ):
        self.push_all(place, self.numbers(place, start), run_cli)


class TestTheCommand:
    """The same with a process for each push."""

    @pytest.mark.parametrize("number", BY_PROCESS)
    def test_it_survives_or_fails_cleanly(self, number, place, run_cli):
        if place.is_secure:
            number += 500
        repository, _ = place.prepare(number)
        done = run_cli(*place.arguments(repository))
        place.check(repository, done.returncode, done.stdout, done.stderr)
        if done.returncode == 0:
            stored = read_back(place.registry.host, repository, "1")
            assert stored.layers == stored.diff_ids == place.diff_ids
