"""The whole way across a gap, twice: list, volumes on two discs, proof, push, prune.

By the real command, between two docker-registries; skopeo and podman read what arrived.
"""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Iterator

import pytest
from conftest import Command, Finished
from copied import store
from registries import read_back, run
from transfers import noise_layer

from dockerpush.server import Registry, RegistryServer

BASE, OWN = 300_000, 100_000
"""Bytes of the layer that all images share, and of the one that each has alone."""

CHART = """\
apiVersion: apps/v1
kind: Deployment
spec:
  template:
    spec:
      initContainers:
      - {{name: db, image: "{host}/team/db:1"}}
      containers:
      - name: app
        image: {host}/team/app:{tag}
"""

Run = Callable[..., Finished]


@pytest.fixture
def cli(run_cli: Command) -> Run:
    def run_it(*words: object, code: int | None = 0, stdin: bytes = b"") -> Finished:
        done = run_cli(*words, stdin=stdin)
        assert code in (None, done.returncode), done.stderr
        return done

    return run_it


@pytest.fixture
def outside(docker_registry_factory, tmp_path: Path, cli: Run) -> Iterator[str]:
    """A docker-registry with team/app:1, team/app:2 and team/db:1."""
    host = docker_registry_factory("outside").host
    with RegistryServer(Registry(tmp_path / "made")) as made:
        for name, tag in (("team/app", "1"), ("team/app", "2"), ("team/db", "1")):
            own = noise_layer(OWN, (name, tag))
            store(made.host, name, [noise_layer(BASE, "base"), own], tag)
            cli("copy", f"{made.host}/{name}:{tag}", f"{host}/{name}:{tag}")
    return host


def discs(archive: Path, *names: str) -> list[Path]:
    """The volumes of *archive*, one after the other on discs; the sums on the first."""
    made = [archive.parent / name for name in names]
    for disc in made:
        disc.mkdir()
    for number, volume in enumerate(sorted(archive.parent.glob("*.oci.0*"))):
        volume.rename(made[number % len(made)] / volume.name)
    sums = archive.with_name(archive.name + ".sha256")
    sums.rename(made[0] / sums.name)
    return made


def size_of(places: list[Path]) -> int:
    return sum(path.stat().st_size for place in places for path in place.iterdir())


@pytest.mark.long
def test_there_and_a_month_later_again(
    outside: str, docker_registry_factory, cli: Run, runroot: str, tmp_path: Path
) -> None:
    inside = docker_registry_factory("inside").host
    where = f"{inside}/prod"
    listed = tmp_path / "images.txt"

    def from_chart(tag: str) -> None:
        chart = CHART.format(host=outside, tag=tag).encode()
        listed.write_text(cli("images", "-", stdin=chart).stdout)
        assert listed.read_text().splitlines() == [
            *(f"{outside}/team/app:{tag}", f"{outside}/team/db:1")
        ]

    # The first trip: everything, in volumes, on two discs, one of which is damaged.
    from_chart("1")
    archive = tmp_path / "first.oci"
    cli("sync", listed, f"oci-archive:{archive}", "--split", "200KB")
    one, two = first = discs(archive, "one", "two")
    volumes = ("--volumes", two)
    whole = one / "first.oci.001"
    damaged = two / "first.oci.002"
    good = damaged.read_bytes()
    damaged.write_bytes(good[:100_000] + b"scratch" + good[100_007:])
    done = cli("verify", whole, *volumes, code=6)
    assert "first.oci.002" in done.stderr
    cli("sync", f"oci-archive:{whole}", where, *volumes, code=7)
    assert inside_tags(cli, where) == set()
    damaged.write_bytes(good)
    cli("verify", whole, *volumes)
    cli("verify", listed, f"oci-archive:{whole}", *volumes)
    cli("sync", f"oci-archive:{whole}", where, *volumes)
    cli("verify", listed, where)
    assert inside_tags(cli, where) == {"app:1", "db:1"}

    # A month later: app has a new version, of which only its own layer is carried.
    from_chart("2")
    have = tmp_path / "have.json"
    have.write_text(cli("inventory", where).stdout)
    delta = tmp_path / "second.oci"
    cli(
        *("sync", listed, f"oci-archive:{delta}"),
        *("--have", have, "--split", "70KB"),
    )
    three, four = second = discs(delta, "three", "four")
    assert size_of(second) < OWN + 30_000 < BASE < size_of(first)
    carried = (f"oci-archive:{three / 'second.oci.001'}", where, "--volumes", four)
    (four / "second.oci.002").rename(tmp_path / "lost")
    assert "second.oci.002" in cli("sync", *carried, code=6).stderr
    (tmp_path / "lost").rename(four / "second.oci.002")
    cli("sync", *carried, "--prune", "--yes")
    cli("verify", listed, where)
    assert inside_tags(cli, where) == {"app:2", "db:1"}
    for name, tag in (("app", "2"), ("db", "1")):
        there = read_back(outside, f"team/{name}", tag)
        assert read_back(inside, f"prod/{name}", tag) == there
    podman = ("podman", "--root", tmp_path / "root", "--runroot", runroot)
    podman += ("--storage-driver", "vfs")
    run(*podman, "pull", "-q", "--tls-verify=false", f"{where}/app:2")


def inside_tags(cli: Run, where: str) -> set[str]:
    """REPO:TAG for each tag below the place *where*."""
    host, _, prefix = where.partition("/")
    found = set()
    for repository in cli("repos", host).stdout.split():
        tags = cli("tags", f"{host}/{repository.rpartition(host + '/')[2]}", code=None)
        name = repository.rpartition(prefix + "/")[2]
        found |= {f"{name}:{tag}" for tag in tags.stdout.split()}
    return found
