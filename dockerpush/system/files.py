"""Files as each system has them: pread, locks, one-step replacement, homes.

Everything that differs between POSIX and Windows is in this package, each with a
fallback that a test exercises.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
import sys
import threading
import time
from pathlib import Path
from typing import BinaryIO, ContextManager, Iterator, Mapping

from ..errors import PusherError, StateError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl
    import pwd


HAS_PREAD = hasattr(os, "preadv")

_HELD_BY_ANOTHER = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK}
_SHORTEST_STEP, _LONGEST_STEP = 0.0005, 0.02  # seconds between two tries to lock a file
_FLAGS = os.O_RDWR | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
_FOREIGN = {errno.ELOOP, errno.EMLINK, errno.EACCES, errno.EISDIR, errno.ENXIO}


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


class NotOurFile(PusherError, PermissionError):
    """A link, or a file that another user made or may write to."""

    def __init__(self, path: Path, error: OSError | None = None) -> None:
        """*error* is the reason of the system, if any."""
        if error and error.errno == errno.EACCES:
            super().__init__(error.errno, error.strerror, str(path))
            return
        super().__init__(
            errno.EPERM,
            "a link, or a file that another user made or may write to: remove it, or "
            "use a directory that only you can write to",
            str(path),
        )


def make_directories(path: Path, mode: int = 0o700) -> None:
    """Make the directory *path*, and those above it that are missing, all with *mode*.

    ``mkdir(parents=True)`` lets everybody read those above. Raises OSError.
    """
    try:
        path.mkdir(mode=mode, exist_ok=True)
    except FileNotFoundError:
        if path.parent == path:  # the current directory is gone
            raise
        make_directories(path.parent, mode)
        path.mkdir(mode=mode, exist_ok=True)


def open_own(path: Path) -> BinaryIO:
    """The partial, temporary or lock file *path*, unbuffered, to be read and written.

    It is made when it is missing, for its owner alone until `share`. Everybody opens
    such files here: in a directory that others can write to, one may have put a link
    there, or a file that he holds open. Raises NotOurFile then, OSError.
    """
    return os.fdopen(_open_own(path, os.O_CREAT), "r+b", buffering=0)


def open_new(path: Path) -> BinaryIO:
    """The same, of a file that is not there yet. Raises OSError."""
    return os.fdopen(_open_own(path, os.O_CREAT | os.O_EXCL), "r+b", buffering=0)


def open_left(path: Path) -> BinaryIO:
    """The same, of a file that is there. Raises NotOurFile, OSError."""
    return os.fdopen(_open_own(path, 0), "r+b", buffering=0)


def followed(path: Path) -> Path:
    """*path* without links, for a file that is replaced in one step.

    Raises NotOurFile for a link of another user in a directory such as /tmp, where
    Linux follows none either (protected_symlinks).
    """
    with contextlib.suppress(FileNotFoundError):
        found, around = path.lstat(), path.parent.stat()
        is_open = around.st_mode & 0o1002 == 0o1002
        if stat.S_ISLNK(found.st_mode) and is_open and sys.platform != "win32":
            if found.st_uid not in {os.geteuid(), around.st_uid}:
                raise NotOurFile(path)
    return Path(os.path.realpath(path))


def open_trusted(path: Path) -> BinaryIO:
    """The file *path*, to be read, if only we, or root, can have written it.

    Raises NotOurFile, OSError.
    """
    file = path.open("rb")
    if not is_ours(os.fstat(file.fileno()), path):
        file.close()
        raise NotOurFile(path)
    return file


def is_ours(found: os.stat_result, path: Path) -> bool:
    """True when only we, or root, can have written *path*; its status is *found*."""
    if sys.platform == "win32":
        return True
    if found.st_uid in (0, os.geteuid()) and not found.st_mode & 0o002:
        return True
    try:
        return _is_as_made(found, path)
    except OSError:
        return False


def own_name(path: Path) -> Path:
    """*path*, or a fresh name beside it where a file lies that is not ours.

    That one is left. Raises OSError.
    """
    try:
        open_left(path).close()
    except FileNotFoundError:
        pass
    except NotOurFile:
        return fresh_name(path)
    return path


def fresh_name(path: Path) -> Path:
    """A name beside *path* with the same ending, another one each time."""
    return path.with_name(f"{path.stem}.{secrets.token_hex(4)}{path.suffix}")


def share(file: BinaryIO, mode: int | None = None) -> None:
    """Give *file*, which is complete, the *mode* of any new file, or that one."""
    _set_mode(file.fileno(), default_mode() if mode is None else mode)


def _open_own(path: Path, how: int) -> int:
    while True:
        try:
            descriptor = os.open(path, _FLAGS | how, 0o600)
        except OSError as error:
            if error.errno in _FOREIGN and os.path.lexists(path):
                raise NotOurFile(path, error) from error
            raise
        try:
            found = os.fstat(descriptor)
            if how & os.O_EXCL or _is_own(found, path):
                if found.st_mode & 0o077:
                    _set_mode(descriptor, 0o600)
                return descriptor
            if found.st_nlink:
                raise NotOurFile(path)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # whose lock it was has removed it just now


def _is_own(found: os.stat_result, path: Path) -> bool:
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        return False
    if sys.platform == "win32":
        return True
    is_own = found.st_uid == os.geteuid() and not found.st_mode & 0o022
    return is_own or _is_as_made(found, path)


def _is_as_made(found: os.stat_result, path: Path) -> bool:
    """True where a file that we make has the same owner and is as open to others.

    vfat, exFAT and CIFS give each file the owner and the mode of their mount.
    """
    probe = path.with_name(f".{secrets.token_hex(8)}.probe")
    with open_new(probe) as file:
        made = os.fstat(file.fileno())
        probe.unlink()
    would_be = (made.st_uid, made.st_mode & 0o022)
    return (found.st_uid, found.st_mode & 0o022) == would_be


def _set_mode(descriptor: int, mode: int) -> None:
    if sys.platform != "win32":
        with contextlib.suppress(PermissionError):  # vfat keeps no modes
            os.fchmod(descriptor, mode)


AT_ONCE = 16 * 1024 * 1024
"""Bytes that the kernel copies before we look whether to go on."""


def copy_range(
    source: BinaryIO, start: int, target: BinaryIO, place: int, *, count: int
) -> int:
    """Let the kernel copy up to *count* bytes of *source* at *start* to *place*.

    How many it copied: none at the end of *source*, or where it cannot do that. Raises
    OSError when *target* has no room.
    """
    if not hasattr(os, "copy_file_range"):
        return 0
    files = source.fileno(), target.fileno()
    try:
        return os.copy_file_range(*files, min(count, AT_ONCE), start, place)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG):
            raise
        return 0


def default_mode() -> int:
    """The mode of any new file, which the umask decides."""
    try:  # Linux tells the mask; to change it for a moment may hit another thread
        status = Path("/proc/self/status").read_text()
        mask = int(status.partition("\nUmask:")[2].split()[0], 8)
    except (OSError, ValueError, IndexError):
        mask = os.umask(0o077)
        os.umask(mask)
    return 0o666 & ~mask


def replace_file(
    path: Path, content: bytes, *, mode: int = 0o600, durable: bool = True
) -> None:
    """Put *content* in place of *path*, with *mode*; who calls holds a lock.

    After a crash *path* is the old file or the new one, if *durable*. Raises OSError.
    """
    part = own_name(path.with_name(f".{path.name}.part"))
    try:
        with open_own(part) as file:
            file.truncate(0)
            write_whole(file, content)
            share(file, mode)
            if durable:
                os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_whole(file: BinaryIO, content: bytes | memoryview) -> None:
    """All of *content* into *file*, which a full disk may take a part of at a time."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


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
def try_lock(path: Path, *, timeout: float = 0.0) -> Iterator[bool]:
    """Try for *timeout* seconds to hold the lock file *path*; yields success.

    Raises OSError when the file can be neither opened nor made, is not ours, or lies on
    a file system that has no locks.
    """
    descriptor = _open_own(path, os.O_CREAT)
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
        descriptor = _open_own(path, os.O_CREAT)
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
    """As `claimed`, for callers that need the lock.

    Raises StateError when another process keeps it for *timeout* seconds, OSError.
    """
    with claimed(path, timeout=timeout) as held:
        if not held:
            raise StateError(f"{path}: another process holds this lock; try again")
        yield


@contextlib.contextmanager
def only_writer(path: Path, lock: ContextManager[bool]) -> Iterator[None]:
    """Be the only run that writes *path*: who gets the *lock* is.

    Where files cannot be locked it is supposed. Raises PusherError for another run.
    """
    with contextlib.ExitStack() as stack:
        alone = True
        with contextlib.suppress(OSError):  # a file system without locks
            alone = stack.enter_context(lock)
        if not alone:
            raise PusherError(
                f"another run is writing {path}: wait for it, or choose another name"
            )
        yield


def _is_file_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except OSError:
        return False


def _lock_within(descriptor: int, timeout: float) -> bool:
    deadline, step = time.monotonic() + timeout, _SHORTEST_STEP
    while not _lock_now(descriptor):
        if time.monotonic() >= deadline:
            return False
        time.sleep(step)
        step = min(2 * step, _LONGEST_STEP)
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
