"""Syncs: many tags that have not changed, looked at in two registries."""

from __future__ import annotations

import contextlib
import functools
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator, Sequence

from .copies import measured, publish
from .images import many_images
from .link import slow_link
from .peers import FAST, SKOPEO, skopeo_in, without_missing
from .results import Round
from .turns import Turns, emptied, new_registry, new_scratch, stored_in

SYNC = "sync"
"""The start of the names of these cases."""

TAGS = 200
LINK_DELAY = 0.02
LINK_RATE = 12.5e6
"""Seconds of a round trip to each registry, and bytes a second (100 Mbit/s)."""

PREFIX = "bench"
REPOSITORY = f"{PREFIX}/image"

Command = Callable[[str, str, int, Path], Sequence[str]]
"""The words that bring so many tags from a host to another one; for a list of theirs
there is a directory."""


@dataclass(frozen=True)
class Sync:
    """*tags* tiny images, all of them in both registries; *slow* leads over a link."""

    name: str
    rounds: int
    slow: bool = False
    tags: int = TAGS

    @contextlib.contextmanager
    def ready(self, directory: Path) -> Iterator[Turns]:
        """Both registries with everything in them, for the ``with``."""
        with contextlib.ExitStack() as stack:
            registries = [
                stack.enter_context(new_registry(directory / name))
                for name in ("source", "target")
            ]
            hosts = [registry.host for registry in registries]
            with emptied(directory / "image") as made:
                images = many_images(made, REPOSITORY, self.tags)
                for host in hosts:
                    publish(
                        images.archive, "-a", "--yes", "--registry", host, home=made
                    )
            if self.slow:
                links = [slow_link(h, rate=LINK_RATE, delay=LINK_DELAY) for h in hosts]
                hosts = [stack.enter_context(link) for link in links]
            commands = {FAST: dockerpush_sync, SKOPEO: skopeo_sync}
            stored = functools.partial(stored_in, registries[1])
            rounds = {
                peer: functools.partial(self._round, command, hosts, stored, directory)
                for peer, command in without_missing(commands).items()
            }
            yield Turns(images.size, rounds)

    def _round(
        self,
        command: Command,
        hosts: Sequence[str],
        stored: Callable[[], int],
        directory: Path,
    ) -> Round:
        with new_scratch(directory) as scratch:
            words = command(*hosts, self.tags, scratch)
            return Round(measured(words, scratch), None, stored())


def sync_cases(rounds: int) -> list[Sync]:
    """The same tags without a delay, and over a link with one."""
    name = f"{SYNC}, {TAGS} unchanged tags"
    delay = f"{LINK_DELAY * 1000:.0f} ms link"
    return [Sync(name, rounds), Sync(f"{name}, {delay}", rounds, slow=True)]


def dockerpush_sync(source: str, target: str, tags: int, scratch: Path) -> list[str]:
    """dockerpush, with a line for each tag."""
    file = scratch / "list"
    lines = [f"{source}/{REPOSITORY}:{tag}" for tag in range(tags)]
    file.write_text("\n".join(lines))
    words = [sys.executable, "-m", "dockerpush", "sync", "-q"]
    words += ["--plain-http", "--src-plain-http"]
    return [*words, str(file), f"{target}/{PREFIX}"]


def skopeo_sync(source: str, target: str, tags: int, scratch: Path) -> list[str]:
    """skopeo, with a list in YAML, of which JSON is a part."""
    file = scratch / "list"
    images = {REPOSITORY: list(map(str, range(tags)))}
    file.write_text(json.dumps({source: {"tls-verify": False, "images": images}}))
    words = [*skopeo_in(scratch), "sync", "--src", "yaml", "--dest", "docker"]
    return [*words, "--dest-tls-verify=false", str(file), f"{target}/{PREFIX}"]
