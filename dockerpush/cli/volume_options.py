"""``--split`` and ``--volumes``: archives in several files."""

from __future__ import annotations

from argparse import ArgumentTypeError
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..expressions import expression
from ..settings.quantities import format_size, parse_size
from ..transfer.choices import OCI_DIRECTORY
from . import console, location

_NUMBERED = expression(r"\.[0-9]{3}")
_MEDIA = {"cd": 700 * 2**20, "dvd": 4480 * 2**20, "fat32": 4095 * 2**20}
"""Bytes of a file that fits on a medium beside the sums and the file system."""
LEAST_VOLUME = 64 * 1024


def volume_size(text: str) -> int:
    """Bytes of a volume, by a size or the name of a medium: for ``type=``."""
    if text.lower() in _MEDIA:
        return _MEDIA[text.lower()]
    try:
        size = parse_size(text)
    except UsageError:
        size = 0
    if size < LEAST_VOLUME:
        raise ArgumentTypeError(
            f"not {', '.join(_MEDIA)} or a size of at least "
            f"{format_size(LEAST_VOLUME)}: {text!r:.80}"
        )
    return size


def add_split_option(group: Any) -> None:
    """``--split``, for commands that write archives."""
    group.add_argument(
        "--split",
        type=volume_size,
        metavar="SIZE",
        help="write the archive FILE in volumes FILE.001 and so on of at most SIZE: "
        f"4GiB, 500MB, {', '.join(_MEDIA)}; FILE.sha256 has their sums",
    )


def add_volumes_option(group: Any) -> None:
    """``--volumes``, for commands that read archives."""
    group.add_argument(
        "--volumes",
        action="extend",
        nargs="+",
        default=[],
        metavar="DIR",
        help="where FILE.002 and so on are, if not beside FILE.001 (repeatable)",
    )


def add_sums_option(group: Any) -> None:
    """``--sums``, for commands that write OCI directories."""
    group.add_argument(
        "--sums",
        action="store_true",
        help="write SHA256SUMS into an OCI directory, for sha256sum --check",
    )


def check_sums(*, sums: bool, is_directory: bool) -> None:
    """Raises UsageError for *sums* of anything but a directory."""
    if sums and not is_directory:
        raise UsageError(
            "--sums is for an OCI directory as the destination: leave it out; --split "
            "writes the sums of its volumes by itself"
        )


def volumes_of(path: Path) -> list[Path]:
    """The volumes of the archive *path*, in their order."""
    from ..archive.volumes import find

    found = find(path)
    return [found.volumes[number] for number in sorted(found.volumes)] if found else []


def say_volumes(path: Path) -> None:
    """Say what files an archive in volumes, which was written just now, is in."""
    first, *others = volumes_of(path)
    names = f"{first} to {others[-1].name}" if others else str(first)
    console.say(f"wrote {names} and {path.name}.sha256")


def check_split(place: location.Local, form: str, split: int | None) -> None:
    """Raises UsageError when what is written to *place* cannot be in volumes."""
    if not split:
        return
    if place.path == location.STDOUT or form == OCI_DIRECTORY:
        what = "a directory" if form == OCI_DIRECTORY else "standard output"
        raise UsageError(f"--split is for an archive in a file, not for {what}")
    if _NUMBERED.fullmatch(Path(place.path).suffix):
        raise UsageError(
            f"{place.path}: --split adds .001 and so on: leave "
            f"{Path(place.path).suffix} out"
        )
