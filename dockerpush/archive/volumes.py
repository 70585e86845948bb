"""Archives in volumes: ``FILE.001``, ``FILE.002`` and so on, for media of any size.

All volumes but the last have one size, so ``cat FILE.[0-9]*`` gives the plain archive.
``FILE.sha256`` says how many there are and what their SHA-256 is, in the form of
``sha256sum``. What a layer holds is proved by its own digest when it is read, so the
sums are compared only when something is wrong, to name the volume that is damaged.

``split -d -a 3`` makes volumes too: they begin with ``FILE.000`` and have no sums.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from bisect import bisect_right
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Iterator, Mapping, NamedTuple, Sequence, Union, cast

from ..errors import (
    ArchiveError,
    ContentMismatch,
    InvalidDigest,
    InvalidJSON,
    NotFound,
    reason_of,
    some_of,
)
from ..expressions import expression
from ..system.files import SharedFile
from ..system.streams import RawReader

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MOST = 999
"""Volumes that an archive may have."""

SUMS = ".sha256"
"""What stands behind the name of an archive in that of the file with the sums."""

_SUMS_LIMIT = 1024 * 1024
_PIECE = 1024 * 1024
_SHOWN = 5
_VOLUME = expression(r"(.+)\.([0-9]{3})")
_SUM = expression(r"\\?([0-9a-fA-F]{64}) [ *](.+)")
_CONTENT_ERRORS = (ArchiveError, ContentMismatch, InvalidDigest, InvalidJSON)

_directories: list[Path] = []
"""Where volumes are looked for beside the directory of the first one, as on a PATH."""


@contextlib.contextmanager
def looked_for_in(directories: Sequence[Path]) -> Iterator[None]:
    """Look for volumes in these *directories* too, during the ``with``.

    Raises NotFound for what is no directory.
    """
    for directory in directories:
        if not directory.is_dir():
            raise NotFound(f"--volumes {directory}: no such directory; mount it")
    _directories[:] = directories
    try:
        yield
    finally:
        _directories.clear()


def volume_path(path: Path, number: int) -> Path:
    """The volume *number* of the archive *path*."""
    return path.with_name(f"{path.name}.{number:03}")


class VolumeSet(NamedTuple):
    """The volumes of the archive *path* by their numbers, the first is *first*.

    *sums* has the SHA-256 of each in hex, None where no file says it.
    """

    path: Path
    volumes: Mapping[int, Path]
    sums: Mapping[int, str] | None = None

    @property
    def first(self) -> int:
        """The number of the first volume: 0 only for those that ``split`` made."""
        return 0 if 0 in self.volumes else 1

    @property
    def numbers(self) -> range:
        """The numbers that there should be, as far as anything says."""
        return range(self.first, max((*self.volumes, *(self.sums or ()))) + 1)

    def name(self, number: int) -> str:
        """What a volume is called in messages: where it lies, else where it should."""
        return str(self.volumes.get(number) or volume_path(self.path, number))


def find(path: Path) -> VolumeSet | None:
    """The volumes that *path* means, ``FILE.001`` or ``FILE``; None for another file.

    Raises ArchiveError for a volume that is not the first.
    """
    given, match = path, _VOLUME.fullmatch(path.name)
    if match is None and path.exists():
        return None
    path = path.with_name(match[1]) if match else path
    found = VolumeSet(path, volumes_in((path.parent, *_directories), path.name))
    if match is None or int(match[2]) == found.first:
        return found if found.volumes else None
    if found.first in found.volumes and given.exists():
        first = found.name(found.first)
        raise ArchiveError(f"it is a later volume of an archive: give {first}")
    return None


def beginning(path: Path) -> Path:
    """The file with the first bytes of the archive *path*, which may be in volumes."""
    try:
        found = find(path)
    except ArchiveError:
        return path  # whoever opens it says why
    return path if found is None else found.volumes.get(found.first, path)


def volumes_in(directories: Sequence[Path], name: str) -> dict[int, Path]:
    """The volumes of the archive *name* by number; the first of two with one name."""
    found: dict[int, Path] = {}
    for directory in directories:
        for entry in _names(directory):
            match = _VOLUME.fullmatch(entry)
            if match and match[1] == name and not (directory / entry).is_dir():
                found.setdefault(int(match[2]), directory / entry)
    return found


def _names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)  # noqa: PTH208 -- names alone, there may be many
    except OSError:
        return []


def with_sums(found: VolumeSet) -> VolumeSet:
    """*found* with what its file of sums says, if that is about volumes.

    Raises ArchiveError when it is broken. (coreutils, sha256sum: a line has the sum, a
    blank, a blank or ``*``, and the name)
    """
    for directory in (found.path.parent, *_directories):
        path = directory / f"{found.path.name}{SUMS}"
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            with path.open("rb") as file:
                text = file.read(_SUMS_LIMIT).decode("utf-8", "replace")
            return found._replace(sums=_parsed_sums(path, text))
    return found


def _parsed_sums(path: Path, text: str) -> Mapping[int, str] | None:
    """The sums by number; None for those of something else, as the whole archive."""
    lines = [_SUM.fullmatch(line) for line in text.splitlines()]
    sums = {}
    for line in lines:
        if line is None:
            raise ArchiveError(
                f"{path}: damaged: a line is not that of a SHA-256; copy it again, or "
                "remove it to read without sums"
            )
        if volume := _VOLUME.fullmatch(line[2]):
            sums[int(volume[2])] = line[1].lower()
    return sums or None


class Volumes:
    """The archive in the volumes *found*, read as one file; for many threads.

    Each thread has one volume open. Raises ArchiveError, which names the volume that is
    missing, has another size than it should, or cannot be read.
    """

    def __init__(self, found: VolumeSet) -> None:
        self._found = found = with_sums(found)
        _check_complete(found)
        self._sizes = [_size(found.volumes[number]) for number in found.numbers]
        _check_sizes(found, self._sizes)
        self._starts = [0, *accumulate(self._sizes)]
        self._open: set[SharedFile] = set()
        self._lock = threading.Lock()  # guards _open and _damage
        self._here = threading.local()
        self._damage: str | None = None

    def readinto(self, buffer: memoryview, offset: int) -> int:
        """Fill *buffer* from *offset* on; fewer bytes only at the end of the last."""
        done = 0
        while done < len(buffer) and offset + done < self._starts[-1]:
            done += self._read_piece(buffer[done:], offset + done)
        return done

    def size(self) -> int:
        """Bytes in all volumes."""
        return self._starts[-1]

    def close(self) -> None:
        """Close the volumes for all readers."""
        with self._lock:
            for file in self._open:
                file.close()
            self._open.clear()

    def damage(self) -> str:
        """Which volumes are not what they were; "" when the sums are right.

        All of them are read, the first time.
        """
        with self._lock:
            if self._damage is None:
                self._damage = _damage(self._found)
            return self._damage

    def _read_piece(self, buffer: memoryview, offset: int) -> int:
        index = bisect_right(self._starts, offset) - 1
        inside = offset - self._starts[index]
        path = self._found.volumes[self._found.numbers[index]]
        try:
            file = self._file(index, path)
            count = file.readinto(buffer[: self._sizes[index] - inside], inside)
        except OSError as error:
            raise ArchiveError(
                f"volume {path}: cannot be read: {reason_of(error)}"
            ) from error
        if not count:
            raise ArchiveError(f"volume {path}: it got shorter while it was read")
        return count

    def _file(self, index: int, path: Path) -> SharedFile:
        """The volume *index* as this thread has it open."""
        before, file = getattr(self._here, "file", (None, None))
        if file is not None and before == index:
            return cast("SharedFile", file)
        opened = SharedFile.open(path)
        with self._lock:
            if file is not None:
                self._open.discard(file)
                file.close()
            self._open.add(opened)
        self._here.file = index, opened
        return opened


class VolumesReader(RawReader):
    """The archive in *volumes* from its first byte to its last; closes *volumes*."""

    def __init__(self, volumes: Volumes) -> None:
        super().__init__()
        self.volumes = volumes
        self._position = 0

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill *buffer* with what comes next; 0 at the end of the last volume."""
        view = memoryview(buffer).cast("B")
        count = self.volumes.readinto(view, self._position)
        self._position += count
        return count

    def close(self) -> None:
        """Close the volumes as well."""
        if not self.closed:
            super().close()
            self.volumes.close()


RandomAccess = Union[SharedFile, Volumes]


def open_file(path: Path) -> RandomAccess:
    """The file *path*, or its volumes. Raises OSError, ArchiveError."""
    found = find(path)
    return SharedFile.open(path) if found is None else Volumes(found)


def blame(error: object, file: object) -> None:
    """Add to *error* which volumes of *file* are damaged, if it has volumes.

    An error that is not about content stays as it is.
    """
    file = file.volumes if isinstance(file, VolumesReader) else file
    if isinstance(file, Volumes) and isinstance(error, _CONTENT_ERRORS):
        damage = file.damage()
        if damage and damage not in str(error):
            error.args = (f"{error}; {damage}",)


def _check_complete(found: VolumeSet) -> None:
    missing = [number for number in found.numbers if number not in found.volumes]
    if missing:
        names = some_of([volume_path(found.path, one).name for one in missing], _SHOWN)
        of = f" of {len(found.numbers)}" if found.sums else ""
        one = len(missing) == 1
        what, it = ("volume {} is", "it") if one else ("volumes {} are", "them")
        raise ArchiveError(
            f"{what.format(names + of)} missing: copy {it} here, or give the directory "
            "with --volumes DIR"
        )


def _size(path: Path) -> int:
    try:
        if not path.is_file():
            raise ArchiveError(f"volume {path}: not a regular file; copy it again")
        return path.stat().st_size
    except OSError as error:
        reason = reason_of(error)
        raise ArchiveError(f"volume {path}: cannot be read: {reason}") from error


def _check_sizes(found: VolumeSet, sizes: Sequence[int]) -> None:
    """Raises ArchiveError for volumes that cannot be of one archive."""
    usual = max(sizes[:-1], default=sizes[-1])
    for number, size in zip(found.numbers, sizes):
        is_last = number == found.numbers[-1]
        if size == usual or (is_last and 0 < size < usual):
            continue
        if size < usual or not size:
            why = f"truncated: {size} bytes, the others have {usual}; copy it again"
        else:
            why = (
                f"{size} bytes, more than the {usual} of the volumes before it; it is "
                "of another archive, or they are truncated"
            )
        raise ArchiveError(f"volume {found.name(number)}: {why}")


def _damage(found: VolumeSet) -> str:
    if found.sums is None and len(found.numbers) == 1:
        return ""  # perhaps no volume at all, only called like one
    if found.sums is None:
        return (
            f"{found.path.name}{SUMS} is missing, so the volumes cannot be checked: is "
            f"there one after {found.name(found.numbers[-1])}?"
        )
    bad = [one for one in found.numbers if _sum_of(found, one) != found.sums.get(one)]
    if not bad:
        return ""
    if len(bad) == len(found.numbers) > 1:
        return f"no volume has the sum that {found.path.name}{SUMS} has for it"
    names = some_of([found.name(number) for number in bad], _SHOWN)
    return (
        f"volume {names} is damaged or of another archive, for the sum is not that of "
        f"{found.path.name}{SUMS}: copy it again"
    )


def _sum_of(found: VolumeSet, number: int) -> str:
    """The SHA-256 of a volume in hex; "" when it cannot be read."""
    hasher, buffer = hashlib.sha256(), memoryview(bytearray(_PIECE))
    try:
        with found.volumes[number].open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                hasher.update(buffer[:count])
    except OSError:
        return ""
    return hasher.hexdigest()
