"""Archives and OCI directories, written: complete, or not under their final name."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path
from typing import BinaryIO, Iterator

from ..errors import (
    ArchiveError,
    InvalidDigest,
    InvalidJSON,
    PusherError,
    UsageError,
)
from ..oci import (
    JSON_LIMIT,
    OCI_INDEX,
    Index,
)
from ..state.blobs import LOCK, PARTIALS
from ..system.files import claim
from .bundle import (
    LAYOUT,
    merged,
)

LOCK_TIMEOUT = 60.0
"""Seconds to wait for another writer of one directory's index."""


def read_index(path: Path) -> Index | None:
    """The index of the OCI layout in *path*; None when there is nothing there yet.

    Raises ArchiveError when the directory holds something else, OSError.
    """
    try:
        with (path / "index.json").open("rb") as file:
            return Index.from_bytes(file.read(JSON_LIMIT + 1), OCI_INDEX)
    except (FileNotFoundError, NotADirectoryError):
        if _holds_something_else(path):
            raise ArchiveError(
                f"{path}: not empty, and no OCI layout: choose another directory"
            ) from None
        return None
    except (InvalidJSON, InvalidDigest) as error:
        raise ArchiveError(f"{path}/index.json: {error}") from error


def _holds_something_else(path: Path) -> bool:
    """True for a directory with files in it, none of them those of a layout.

    What a run that has just begun puts there, or one that was killed then, is no file.
    """
    names = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
    names -= {LOCK, PARTIALS}
    return bool(names) and not names & {"blobs", "oci-layout"}


def add_to_index(path: Path, added: Index) -> None:
    """Have the OCI layout in *path* name what *added* does, in one step.

    Raises OSError, ArchiveError, StateError when another run holds the index.
    """
    with claim(path / LOCK, timeout=LOCK_TIMEOUT):
        after = merged(read_index(path), added)
        _replace(path / "oci-layout", LAYOUT)
        _replace(path / "index.json", after.to_bytes())


def _replace(path: Path, content: bytes) -> None:
    """Who holds the lock is alone with the part, also with one that was left."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def naming_output(output: Path | BinaryIO) -> Iterator[None]:
    """Turn what the system says about *output* into errors that a user is told.

    UsageError for one that exists, else PusherError; a reader who has gone away is
    nobody's fault.
    """
    name = output if isinstance(output, Path) else "standard output"
    try:
        yield
    except BrokenPipeError:
        raise
    except FileExistsError as error:
        raise UsageError(f"{name} exists, and stays as it is") from error
    except OSError as error:
        raise PusherError(
            f"{name}: cannot be written: {error.strerror or error}"
        ) from error


def give_name(part: Path, path: Path, *, no_clobber: bool) -> None:
    """*part*, which is complete, becomes *path*. Raises OSError."""
    if no_clobber:
        _give_free_name(part, path)
    else:
        part.replace(path)


def _give_free_name(part: Path, path: Path) -> None:
    """Name *part* *path* too, unless that name is taken: FileExistsError then."""
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError:  # exFAT, the file system of sticks and disks, has no hard links
        if path.exists():
            raise FileExistsError(path) from None
        part.replace(path)


def part_of(path: Path) -> Path:
    """A name beside *path* for what is not complete yet, another one each time."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
