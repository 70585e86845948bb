"""An archive written in volumes; none has its name before all are complete."""

from __future__ import annotations

import contextlib
import hashlib
import io
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO

from ..errors import UsageError
from ..system.files import (
    claimed,
    default_mode,
    only_writer,
    open_own,
    own_name,
    replace_file,
    share,
)
from .volumes import MOST, SUMS, find, volume_path, volumes_in
from .writers import check_room

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class VolumeWriter(io.RawIOBase):
    """What is written goes into volumes of *size* bytes of the archive *path*.

    They get their names when the ``with`` ends well, and ``FILE.sha256`` last of all;
    then an older archive's volumes are gone. On any failure nothing is left. Raises
    UsageError for more than `MOST` volumes and where the plain *path* exists,
    PusherError while another run writes there and where there is no room for
    *expected* bytes, FileExistsError with *no_clobber*, OSError.
    """

    def __init__(
        self, path: Path, size: int, *, no_clobber: bool = False, expected: int = 0
    ) -> None:
        super().__init__()
        self._path = path
        self._size = size
        self._no_clobber = no_clobber
        self._expected = expected
        self._stack = contextlib.ExitStack()
        self._part: BinaryIO | None = None
        self._parts: list[Path] = []
        self._left = 0
        self._hasher = hashlib.sha256()
        self._sums: list[str] = []
        self.written: list[Path] = []

    def __enter__(self) -> VolumeWriter:
        with contextlib.ExitStack() as stack:
            self._check_free()
            lock = self._path.with_name(f".{self._path.name}.part.lock")
            stack.enter_context(only_writer(self._path, claimed(lock)))
            stack.callback(self._remove_parts)
            self._remove_parts()  # those of a run that was killed
            self._check_count(-(-self._expected // self._size))
            check_room(self._path, self._expected)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._stack:
            self._end_volume()
            if error is None:
                self._commit()

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, data: WriteableBuffer) -> int:
        """All of *data*, across the ends of volumes."""
        view = memoryview(data).cast("B")
        size = len(view)
        while view:
            if not self._left:
                self._begin_volume()
            assert self._part is not None, "a volume was begun"
            count = self._part.write(view[: self._left])
            self._hasher.update(view[:count])
            self._left -= count
            view = view[count:]
        return size

    def _begin_volume(self) -> None:
        self._end_volume()
        self._check_count(len(self._sums) + 1)
        part = own_name(self._part_of(len(self._sums) + 1))
        self._part = open_own(part)
        self._parts.append(part)
        self._part.truncate(0)
        self._left = self._size
        self._hasher = hashlib.sha256()

    def _end_volume(self) -> None:
        if self._part is not None:
            share(self._part)
            self._part.close()
            self._part = None
            self._sums.append(self._hasher.hexdigest())

    def _commit(self) -> None:
        """Name the volumes; in the end there is nothing else that is called so."""
        self._check_free()
        sums = self._sums_path
        sums.unlink(missing_ok=True)
        numbers = range(1, len(self._sums) + 1)
        self.written = [volume_path(self._path, number) for number in numbers]
        for part, volume in zip(self._parts, self.written):
            part.replace(volume)
        for number, old in volumes_in([self._path.parent], self._path.name).items():
            if number not in numbers:
                old.unlink(missing_ok=True)
        pairs = zip(self._sums, self.written)
        text = "".join(f"{found}  {path.name}\n" for found, path in pairs)
        replace_file(sums, text.encode(), mode=default_mode(), durable=False)
        self.written.append(sums)

    def _check_count(self, count: int) -> None:
        if count > MOST:
            raise UsageError(
                f"{self._path}: more than {MOST} volumes of {self._size} bytes: choose "
                "a larger --split"
            )

    def _check_free(self) -> None:
        if self._path.is_dir():
            raise UsageError(f"{self._path} is a directory: name a file for an archive")
        if self._path.exists():
            raise UsageError(
                f"{self._path} exists, and would be read in place of its volumes: "
                "remove it, or choose another name"
            )
        if self._no_clobber and (find(self._path) or self._sums_path.exists()):
            raise FileExistsError(volume_path(self._path, 1))

    @property
    def _sums_path(self) -> Path:
        return self._path.with_name(f"{self._path.name}{SUMS}")

    def _remove_parts(self) -> None:
        if self._part is not None:
            self._part.close()
        parts = self._path.parent.glob(".*.part")
        names = {self._part_of(number).name for number in range(1, MOST + 1)}
        left = [one for one in parts if one.name in names and own_name(one) == one]
        for part in (*left, *self._parts):
            part.unlink(missing_ok=True)

    def _part_of(self, number: int) -> Path:
        """What is to become a volume."""
        volume = volume_path(self._path, number)
        return volume.with_name(f".{volume.name}.part")
