"""Files as each system has them: pread, locks, one-step replacement, homes.

Everything that differs between POSIX and Windows is in this package, each with a
fallback that a test exercises.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Iterator, Mapping

from ..errors import StateError

if TYPE_CHECKING:
    pass

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl
    import pwd


HAS_PREAD = hasattr(os, "preadv")

_HELD_BY_ANOTHER = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK}


class SharedFile:
    """A file that any number of threads read, each where it likes.

    With *positioned* (what the system offers, by default) reads carry their own
    offset; without it they take turns to seek and read.
    """

    def __init__(self, file: BinaryIO, *, positioned: bool = HAS_PREAD) -> None:
        self._file = file
        self._positioned = positioned
        self._lock = threading.Lock()  # guards the file's one position

    @classmethod
    def open(cls, path: Path) -> SharedFile:
        """The file at *path*, unbuffered, to be read. Raises OSError."""
        return cls(path.open("rb", buffering=0))

    def readinto(self, buffer: memoryview, offset: int) -> int:
        """Fill *buffer* from *offset* on; the count of bytes read, 0 at the end."""
        if self._positioned:
            return os.preadv(self._file.fileno(), [buffer], offset)
        with self._lock:
            self._file.seek(offset)
            return self._file.readinto(buffer)  # type: ignore[attr-defined,no-any-return]

    def size(self) -> int:
        """Bytes in the file now."""
        return os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        """Close the file for all its readers."""
        self._file.close()


def open_for_update(path: Path) -> BinaryIO:
    """The file at *path*, made when it is missing, unbuffered, to be read and written.

    Raises OSError.
    """
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
    return os.fdopen(os.open(path, flags, 0o666), "r+b", buffering=0)


def replace_file(path: Path, content: bytes) -> None:
    """Put *content* in place of *path*, for its owner alone; who calls holds a lock.

    After a crash *path* is the old file or the new one. Raises OSError.
    """
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)  # of a run that was killed
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def locked(path: Path, *, timeout: float) -> Iterator[None]:
    """Hold the lock file *path*, which is made when missing, for the ``with``.

    Raises StateError when another process keeps it for *timeout* seconds.
    """
    with try_lock(path, timeout=timeout) as held:
        if not held:
            raise StateError(f"{path}: another process holds this lock")
        yield


@contextlib.contextmanager
def try_lock(path: Path, *, timeout: float = 0.0, mode: int = 0o600) -> Iterator[bool]:
    """Try for *timeout* seconds to hold the lock file *path*; yields success.

    A file that is made gets *mode*, less the umask. Raises OSError when the file can be
    neither opened nor made, or lies on a file system that has no locks.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, mode)
    try:
        yield _lock_within(descriptor, timeout)
    finally:
        os.close(descriptor)  # gives the lock back as well


@contextlib.contextmanager
def claimed(path: Path, *, timeout: float = 0.0) -> Iterator[bool]:
    """Try for *timeout* seconds to hold the lock file *path*; yields success.

    Unlike that of `try_lock` the file is gone afterwards, where the system can remove
    one that is open. Raises OSError, as `try_lock` does.
    """
    deadline = time.monotonic() + timeout
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            left = max(0.0, deadline - time.monotonic())
            if not _lock_within(descriptor, left):
                yield False
                return
            if _is_file_at(path, descriptor):
                try:
                    yield True
                finally:
                    with contextlib.suppress(OSError):
                        path.unlink()
                return
            # Who held it has removed it just now: this is nobody's file.
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def claim(path: Path, *, timeout: float) -> Iterator[None]:
    """As `claimed`, for who cannot do without.

    Raises StateError when another process keeps it for *timeout* seconds, OSError.
    """
    with claimed(path, timeout=timeout) as held:
        if not held:
            raise StateError(f"{path}: another process holds this lock; try again")
        yield


def _is_file_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except OSError:
        return False


def _lock_within(descriptor: int, timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while not _lock_now(descriptor):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.02)
    return True


def _lock_now(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _HELD_BY_ANOTHER:
            raise
        return False
    return True


def home_directory(environ: Mapping[str, str], user: int | None = None) -> Path | None:
    """The home of who runs us; None for a *user* whom the system does not know.

    ``HOME`` of *environ* decides, else the user database: cron and containers often
    set none. *user* is the numeric id, our own by default.
    """
    if sys.platform == "win32":
        home = environ.get("USERPROFILE", "")
    else:
        home = environ.get("HOME") or _home_of(os.getuid() if user is None else user)
    return Path(home) if home else None


def _home_of(user: int) -> str:
    if sys.platform == "win32":
        return ""
    try:
        return pwd.getpwuid(user).pw_dir
    except KeyError:
        return ""


def free_space(directory: Path) -> int:
    """Bytes that an ordinary user may still write below *directory*."""
    return shutil.disk_usage(directory).free


def user_id() -> int | None:
    """The number of the user we run as; None where users have none."""
    return None if sys.platform == "win32" else os.getuid()
