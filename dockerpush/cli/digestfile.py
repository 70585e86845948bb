"""``--digestfile``: what was pushed, pulled or copied, for the next program."""

from __future__ import annotations

from pathlib import Path
from typing import Iterable

from ..errors import PusherError, UsageError


def check_writable(path: str) -> None:
    """Nothing, when a digest could be written there. Raises UsageError."""
    try:
        with Path(path).open("a"):
            pass
    except OSError as error:
        raise UsageError(f"--digestfile {path}: {error.strerror}") from error


def write_digests(path: str, done: Iterable[tuple[str, str]]) -> None:
    """Write digests and what has them to *path*.

    One: the bare digest, as podman writes it; several: a line for each.
    """
    done = list(done)
    if len(done) == 1:
        text = done[0][0]
    else:
        text = "".join(f"{digest} {name}\n" for digest, name in done)
    try:
        Path(path).write_text(text)
    except OSError as error:
        raise PusherError(f"--digestfile {path}: {error.strerror}") from error
