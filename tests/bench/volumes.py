"""A push of one archive, from a plain file and from volumes."""

from __future__ import annotations

import contextlib
import functools
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

from tests.support.images import MIB

from .copies import NAME, measured
from .images import incompressible_image
from .peers import FAST
from .results import Round
from .turns import Turns, emptied, new_registry, new_scratch, stored_in

VOLUMES = f"{FAST}, volumes"
"""The same program; what it reads differs."""

VOLUME_SIZE = 64 * MIB


@dataclass(frozen=True)
class FromVolumes:
    """An image of *size* bytes that does not compress, pushed *rounds* times."""

    name: str
    size: int
    rounds: int

    @contextlib.contextmanager
    def ready(self, directory: Path) -> Iterator[Turns]:
        """The image as a file, and in volumes, for the ``with``."""
        with emptied(directory / "image") as made:
            image = incompressible_image(made, self.size)
            prefix = made / "cut.tar."
            words = ["split", "-b", str(VOLUME_SIZE), "-d", "-a", "3"]
            subprocess.run([*words, image.archive, prefix], check=True)
            sources = {FAST: image.archive, VOLUMES: made / "cut.tar.000"}
            rounds = {
                peer: functools.partial(_round, source, directory)
                for peer, source in sources.items()
            }
            yield Turns(image.size, rounds)


def _round(source: Path, directory: Path) -> Round:
    with (
        new_registry(directory / "registry") as registry,
        new_scratch(directory) as scratch,
    ):
        words = [sys.executable, "-m", "dockerpush", "push", str(source), "-q"]
        words += ["-t", f"{registry.host}/{NAME}", "--plain-http"]
        cold, warm = measured(words, scratch), measured(words, scratch)
        return Round(cold, warm, stored_in(registry))


def volumes_case(size: int, rounds: int) -> FromVolumes:
    """The case with an image of *size* bytes."""
    return FromVolumes(f"push from volumes, {size // MIB} MiB", size, rounds)
