"""Deltas: 200 images of which ten have changed, and an inventory over a slow link."""

from __future__ import annotations

import contextlib
import functools
import json
import random
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator, Mapping, Sequence

from tests.support.images import MIB, config_of, digest_of, tar_of
from tests.support.registries import run

from .copies import measured, publish
from .images import add
from .link import slow_link
from .measure import CommandFailed
from .peers import FAST, environment
from .results import Round
from .turns import Turns, emptied, new_registry, new_scratch

DELTA, INVENTORY = "delta", "inventory"
"""The starts of the names of these cases."""

ALONE = f"{FAST}, the changed images alone"

IMAGES, CHANGED = 200, 10
LAYER_SIZE = 32 * MIB
REPOSITORIES, TAGS = 200, 10
LINK_DELAY = 0.02
LINK_RATE = 12.5e6
"""Seconds of a round trip, and bytes a second (100 Mbit/s)."""

PROGRAM = [sys.executable, "-m", "dockerpush"]


@dataclass(frozen=True)
class Delta:
    """*images* are in a registry, and *changed* of them since it was looked at."""

    name: str
    rounds: int
    images: int = IMAGES
    changed: int = CHANGED
    layer: int = LAYER_SIZE

    @contextlib.contextmanager
    def ready(self, directory: Path) -> Iterator[Turns]:
        """The registry and the inventory of what it held, for the ``with``."""
        names = [f"bench/{number}:1" for number in range(self.images)]
        with (
            new_registry(directory / "source") as registry,
            emptied(directory / "image") as made,
        ):
            host = registry.host
            push_images(host, names, made, 0)
            have = made / "have.json"
            words = [*PROGRAM, "inventory", "-q", "--plain-http", host]
            have.write_bytes(run(*words, env=environment(made, made, None)))
            push_images(host, names[: self.changed], made, self.layer)
            lists = {
                FAST: (names, ["--have", str(have)]),
                ALONE: (names[: self.changed], []),
            }
            rounds: dict[str, Callable[[], Round]] = {}
            for peer, (some, more) in lists.items():
                file = made / f"list-{len(some)}"
                file.write_text("".join(f"{host}/{name}\n" for name in some))
                words = [*PROGRAM, "sync", "-q", "--src-plain-http", str(file), *more]
                rounds[peer] = functools.partial(self._round, words, directory)
            yield Turns(self.changed * self.layer, rounds)

    def _round(self, words: Sequence[str], directory: Path) -> Round:
        with (
            new_scratch(directory) as scratch,
            emptied(directory / "target") as target,
        ):
            cold = measured([*words, f"oci:{target / 'disk'}"], scratch)
            sizes = [one.stat().st_size for one in target.rglob("*") if one.is_file()]
            return Round(cold, None, sum(sizes))


@dataclass(frozen=True)
class Inventory:
    """*repositories* with *tags* each, by a link with a delay."""

    name: str
    rounds: int
    repositories: int = REPOSITORIES
    tags: int = TAGS

    @contextlib.contextmanager
    def ready(self, directory: Path) -> Iterator[Turns]:
        """The registry behind the link, for the ``with``."""
        with (
            new_registry(directory / "source") as registry,
            emptied(directory / "image") as made,
        ):
            count = self.repositories * self.tags
            names = [f"bench/{n // self.tags}:{n % self.tags}" for n in range(count)]
            push_images(registry.host, names, made, 0)
            with slow_link(registry.host, rate=LINK_RATE, delay=LINK_DELAY) as host:
                look = functools.partial(self._round, host, count, directory)
                yield Turns(0, {FAST: look})

    def _round(self, host: str, count: int, directory: Path) -> Round:
        words = [*PROGRAM, "inventory", "-q", "--plain-http", host]
        with new_scratch(directory) as scratch:
            cost = measured(words, scratch)
            written = (scratch / "log").read_bytes()
            found = json.loads(written)["repositories"]
            if sum(len(one["tags"]) for one in found) != count:
                raise CommandFailed(f"the inventory does not have all {count} tags")
            return Round(cost, None, len(written))


def delta_cases(rounds: int) -> list[Delta | Inventory]:
    """A delta, and an inventory over a link with a delay."""
    delay = f"{LINK_DELAY * 1000:.0f} ms link"
    many = f"{REPOSITORIES} repositories, {REPOSITORIES * TAGS} tags"
    return [
        Delta(f"{DELTA}, {CHANGED} of {IMAGES} images changed", rounds),
        Inventory(f"{INVENTORY}, {many}, {delay}", rounds),
    ]


def push_images(host: str, names: Sequence[str], made: Path, size: int) -> None:
    """Have *host* hold images called *names*, with *size* bytes that do not shrink."""
    archive, entries = made / "images.tar", list[Mapping[str, object]]()
    with tarfile.open(archive, "w") as tar:
        for number, name in enumerate(names):
            content = random.Random(f"{name} {size}").randbytes(size + 64)
            layer = tar_of({"etc/content": content})
            add(tar, f"{number}/layer.tar", layer)
            add(tar, f"{number}.json", config_of([digest_of(layer)]))
            entries.append(
                {
                    "Config": f"{number}.json",
                    "RepoTags": [name],
                    "Layers": [f"{number}/layer.tar"],
                }
            )
        add(tar, "manifest.json", json.dumps(entries).encode())
    publish(archive, "-a", "--registry", host, home=made)
    archive.unlink()
