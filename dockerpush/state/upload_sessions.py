"""Upload sessions that outlive a run: one small file for each that is open.

Rules: a session has one live owner, who holds the lock file beside it from `claim` to
`close`; what a dead owner left is handed to the next. The directory's own lock is held
only while lock files are made, taken or removed, so that nobody locks a removed one. A
session's location is a secret (it may carry a signature), so files are 0600 and the
location is in no repr. All of it is a convenience: what cannot be read or written is as
if it were not there, and never stops an upload.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import time
from pathlib import Path
from typing import Any, Callable, Tuple

from ..errors import InvalidDigest, InvalidJSON, StateError
from ..expressions import expression
from ..oci import Digest, parse_json, require, required
from ..system.files import (
    locked,
    make_directories,
    open_trusted,
    replace_file,
    try_lock,
)
from ..system.streams import Closeable
from ..values import as_dict, field, value

log = logging.getLogger(__name__)

MAX_AGE = 7 * 24 * 3600.0
"""Seconds after which a session is forgotten: distribution, which keeps them longest,
purges at 168 hours. One that its registry dropped earlier costs a single request."""

MAX_COUNT = 256
"""Sessions that are kept, the youngest; the largest of images have 127 layers."""

MAX_FILE = 64 * 1024
"""Bytes of a session's file that are read; a location is rarely beyond 2 KB."""

GUARD_TIMEOUT = 1.0
"""Seconds to wait for the directory's lock before doing without."""

_FILE = expression(r"[0-9a-f]{32}\.(json|lock|tmp)")

Key = Tuple[str, str, Digest]  # noqa: UP006


@value
class SavedUpload:
    """An open upload session as it stood after a chunk was acknowledged.

    *location* is its absolute URL, *offset* the count of acknowledged bytes,
    *chunk_size* the bytes of a chunk, *saved_at* seconds since the epoch.
    """

    registry: str
    repository: str
    digest: Digest
    location: str = field(repr=False)
    offset: int
    chunk_size: int
    saved_at: float

    @classmethod
    def from_json(cls, value: Any) -> SavedUpload:
        """Raises InvalidJSON or InvalidDigest."""
        where = "upload session"
        record = require(value, dict, where)
        saved_at = record.get("saved_at")
        if not isinstance(saved_at, (int, float)):
            raise InvalidJSON(f"{where}.saved_at: wanted seconds, got {saved_at!r}")
        found = cls(
            required(record, "registry", str, where),
            required(record, "repository", str, where),
            Digest(required(record, "digest", str, where)),
            required(record, "location", str, where),
            required(record, "offset", int, where),
            required(record, "chunk_size", int, where),
            saved_at,
        )
        if found.offset < 0 or found.chunk_size < 1:
            raise InvalidJSON(f"{where}: impossible sizes")
        if not found.location.startswith(("https://", "http://")):
            raise InvalidJSON(f"{where}.location: not a URL")
        return found


class ClaimedUpload(Closeable):
    """The right to one blob's session, until it is closed.

    *saved* is what an earlier owner left, None when there is nothing to continue with.
    """

    def __init__(
        self, sessions: UploadSessions, key: Key, lock: contextlib.ExitStack
    ) -> None:
        """*lock* is held, and is let go by `close`."""
        self._sessions = sessions
        self._key = key
        self._lock = lock
        self._path = sessions.path_of(key)
        self.saved = _usable(_read(self._path), key, sessions.now())

    def record(self, location: str, offset: int, chunk_size: int) -> None:
        """Keep where the session stands, in one step: the old file or the new one."""
        now = self._sessions.now()
        saved = SavedUpload(*self._key, location, offset, chunk_size, now)
        try:
            content = json.dumps(as_dict(saved)).encode()
            replace_file(self._path, content, durable=False)
        except OSError as error:
            log.debug("upload session not kept: %s", error)

    def forget(self) -> None:
        """The session is over: finished, cancelled, or lost by the registry."""
        self.saved = None
        with contextlib.suppress(OSError):
            self._path.unlink()

    def close(self) -> None:
        """Release the session for other runs; of one that is over, nothing is left."""
        with contextlib.suppress(OSError, StateError), self._sessions.guarded():
            if not self._path.exists():
                self._path.with_suffix(".lock").unlink()
        self._lock.close()


class UploadSessions:
    """The session files in *directory*, which is made when it is missing.

    *clock* gives seconds since the epoch. Threads may share it.
    """

    def __init__(self, directory: Path, clock: Callable[[], float] = time.time) -> None:
        self.now = clock
        self._directory = directory
        self._purged = False

    def may_have(self, registry: str, repository: str, digest: Digest) -> bool:
        """True when a session of that blob may have been left; costs little."""
        return self.path_of((registry, repository, digest)).exists()

    def has_any(self, registry: str, repository: str) -> bool:
        """True when a session of any blob may have been left in that repository."""
        with contextlib.suppress(OSError):
            for path in self._directory.glob("*.json"):
                saved = _read(path)
                if saved and (saved.registry, saved.repository) == (
                    registry,
                    repository,
                ):
                    return True
        return False

    def claim(
        self, registry: str, repository: str, digest: Digest
    ) -> ClaimedUpload | None:
        """The session of that blob in that repository; the caller closes it.

        None when another owner lives, or when nothing can be kept in the directory.
        """
        key = (registry, repository, digest)
        try:
            make_directories(self._directory)
            if not self._purged:
                self._purged = True
                self.purge()
            return self._claim(key)
        except (OSError, StateError) as error:
            log.debug("upload sessions are not kept: %s", error)
            return None

    def _claim(self, key: Key) -> ClaimedUpload | None:
        lock_path = self.path_of(key).with_suffix(".lock")
        with self.guarded(), contextlib.ExitStack() as stack:
            if not stack.enter_context(try_lock(lock_path)):
                return None
            return ClaimedUpload(self, key, stack.pop_all())

    def purge(self) -> None:
        """Remove what is too old or beyond MAX_COUNT, and has no live owner.

        Raises OSError or StateError when the directory does not allow it.
        """
        with self.guarded():
            times = self._modified()
            youngest = set(sorted(times, key=times.__getitem__)[-MAX_COUNT:])
            for stem in times:
                age = abs(self.now() - times[stem])
                if stem not in youngest or age > MAX_AGE:
                    self._remove_if_free(stem)

    def _modified(self) -> dict[str, float]:
        """Stem → when its youngest file was written, seconds since the epoch."""
        times: dict[str, float] = {}
        for path in self._directory.iterdir():
            if _FILE.fullmatch(path.name):
                modified = path.stat().st_mtime
                times[path.stem] = max(modified, times.get(path.stem, modified))
        return times

    def _remove_if_free(self, stem: str) -> None:
        with try_lock(self._directory / f"{stem}.lock") as free:
            if free:
                names = (f"{stem}.json", f".{stem}.json.part", f"{stem}.lock")
                for name in (*names, f"{stem}.tmp"):
                    with contextlib.suppress(OSError):
                        (self._directory / name).unlink()

    def path_of(self, key: Key) -> Path:
        """The file of one session."""
        name = hashlib.sha256("\n".join(key).encode()).hexdigest()[:32]
        return self._directory / f"{name}.json"

    def guarded(self) -> contextlib.AbstractContextManager[None]:
        """Hold the directory's own lock. Raises OSError or StateError."""
        return locked(self._directory / ".lock", timeout=GUARD_TIMEOUT)


def _usable(saved: SavedUpload | None, key: Key, now: float) -> SavedUpload | None:
    """*saved* if it is of *key* and not too old, or from too far in the future."""
    if saved is None or (saved.registry, saved.repository, saved.digest) != key:
        return None
    return saved if abs(now - saved.saved_at) <= MAX_AGE else None


def _read(path: Path) -> SavedUpload | None:
    """What *path* holds; None when it is missing, unreadable, broken or not ours.

    Where it says that a session is, the blob would be sent to.
    """
    try:
        with open_trusted(path) as file:
            raw = file.read(MAX_FILE)
        return SavedUpload.from_json(parse_json(raw, "upload session"))
    except FileNotFoundError:
        return None
    except (OSError, InvalidJSON, InvalidDigest) as error:
        log.debug("%s: ignored: %s", path, error)
        return None
