"""Copies: an image from a registry into another one, or into an archive.

The source keeps its image for all rounds; target, state and cache are new in each.
What a copy puts on disk beside its target, a cache of its own included, is temp space.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator, Mapping, Sequence

from tests.support.images import MIB
from tests.support.registries import run

from .images import compressible_image
from .measure import Cost, measure
from .peers import FAST, PULL, SKOPEO, environment, skopeo_in, without_missing
from .results import Round
from .turns import Turns, emptied, new_registry, new_scratch, stored_in

COPY = "copy"
"""The start of the names of these cases."""

NAME = "bench/image:1"

FILES = (
    ("docker-archive", "docker-archive:", "image.tar"),
    ("oci-archive", "oci-archive:", "image.oci.tar"),
    ("oci-dir", "oci:", "image"),
)
"""What a registry is not: the form for pull, the prefix for copy, a name."""

SKOPEO_ZSTD = ("--dest-compress-format", "zstd", "--dest-force-compress-format")
"""What newer skopeos take to compress layers that are compressed already."""

Command = Callable[[str, str, Path], Sequence[str]]
"""The words that bring a reference to a place; there is a directory for their own."""


@dataclass(frozen=True)
class Copy:
    """*peers* copy an image of *size* bytes, into *file* or else a registry."""

    name: str
    peers: Mapping[str, Command]
    size: int
    rounds: int
    file: str = ""

    @contextlib.contextmanager
    def ready(self, directory: Path) -> Iterator[Turns]:
        """The image in a registry, for the ``with``."""
        with new_registry(directory / "source") as registry:
            source = f"{registry.host}/{NAME}"
            with emptied(directory / "image") as made:
                image = compressible_image(made, self.size)
                publish(image.archive, "-t", source, home=made)
            rounds = {
                peer: functools.partial(self._round, command, source, directory)
                for peer, command in without_missing(self.peers).items()
            }
            yield Turns(image.size, rounds)

    def _round(self, command: Command, source: str, directory: Path) -> Round:
        with new_scratch(directory) as scratch:
            if not self.file:
                with new_registry(directory / "target") as registry:
                    words = command(source, f"{registry.host}/{NAME}", scratch)
                    cold, warm = measured(words, scratch), measured(words, scratch)
                    return Round(cold, warm, stored_in(registry))
            with emptied(directory / "target") as target:
                words = command(source, str(target / self.file), scratch)
                cold = measured(words, scratch)
                files = [path for path in target.rglob("*") if path.is_file()]
                return Round(cold, None, sum(path.stat().st_size for path in files))


def copy_cases(size: int, rounds: int) -> list[Copy]:
    """One image of *size* bytes to everything that it can be copied to."""
    mib = f"{size // MIB} MiB"
    between = {FAST: dockerpush_copy(""), SKOPEO: skopeo_copy("docker://")}
    cases = [Copy(f"{COPY}, registry to registry, {mib}", between, size, rounds)]
    for form, prefix, file in FILES:
        peers = {
            FAST: dockerpush_copy(prefix),
            PULL: dockerpush_pull(form),
            SKOPEO: skopeo_copy(prefix, f":{NAME}"),
        }
        name = f"{COPY}, registry to {form}, {mib}"
        cases.append(Copy(name, peers, size, rounds, file))
    return cases


def recompress_case(size: int, rounds: int) -> Copy:
    """One image of *size* bytes, of gzip layers that become zstd."""
    peers = {
        FAST: _with(dockerpush_copy(""), "--recompress", "zstd"),
        SKOPEO: _with(skopeo_copy("docker://"), *SKOPEO_ZSTD),
    }
    return Copy(f"recompress to zstd, {size // MIB} MiB", peers, size, rounds)


def _with(command: Command, *options: str) -> Command:
    return lambda source, target, scratch: [
        *command(source, target, scratch),
        *options,
    ]


def publish(archive: Path, *target: str, home: Path) -> None:
    """Push *archive* with gzipped layers, unmeasured; *home* is for state."""
    words = [sys.executable, "-m", "dockerpush", "push", archive, *target, "-q"]
    words += ["--plain-http", "--yes", "--compress", "gzip"]
    run(*words, env=environment(home, home, None))


def dockerpush_copy(prefix: str) -> Command:
    """dockerpush, straight from one to the other."""
    start = [sys.executable, "-m", "dockerpush", "copy", "-q", "--src-plain-http"]
    start += [] if prefix else ["--plain-http"]
    return lambda source, target, scratch: [*start, source, prefix + target]


def dockerpush_pull(form: str) -> Command:
    """dockerpush as well, which keeps what it pulls in its cache."""
    start = [sys.executable, "-m", "dockerpush", "pull", "-q", "--plain-http"]
    end = ["--format", form]
    return lambda source, target, scratch: [*start, source, "-o", target, *end]


def skopeo_copy(prefix: str, name: str = "") -> Command:
    """skopeo, which gives the image *name* in an archive."""

    def command(source: str, target: str, scratch: Path) -> list[str]:
        words = [*skopeo_in(scratch), "copy", "-q", "--src-tls-verify=false"]
        words += [] if name else ["--dest-tls-verify=false"]
        return [*words, f"docker://{source}", prefix + target + name]

    return command


def measured(words: Sequence[str], scratch: Path) -> Cost:
    """What the command *words* costs, with its state and temp files in *scratch*."""
    settings = environment(scratch, scratch / "tmp", None)
    cache = Path(settings["DOCKERPUSH_STATE_DIR"], "cache")
    os.sync()  # what the one before left to be written is not this one's
    return measure(words, settings, [scratch / "tmp", cache], scratch / "log")
