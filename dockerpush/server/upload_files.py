"""Upload sessions: files that grow, one writer each, and the hash of what is in them.

Strategy. A session is a file, and its offset is the file's size, so a session outlives
a broken connection and a killed server. The newest request owns the session: whoever
comes while another request still writes waits `SETTLE` seconds for it to drain what it
received, and then takes the session away from it. The offset that the newcomer gets, is
therefore the truth and stays it; the old request ends without an answer.

The hash runs along with the bytes. Where it cannot be trusted (after a restart, a full
disk, another algorithm) the file is read once more at the end.

There is a limited number of sessions. While there is room, nobody is asked; then each
address has an equal share, and a session of one that has more goes for one that has
less. When there is no room for bytes, sessions that nobody moved for an hour go.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Callable, Iterator

from ..oci import Digest
from ..system import files
from .checked_names import Repository, SessionId
from .holdings import Space
from .messages import (
    BLOB_UPLOAD_INVALID,
    DIGEST_INVALID,
    Disconnected,
    Incoming,
    ProtocolError,
    busy,
    upload_range,
    upload_unknown,
)
from .slots import client_of
from .store_layout import ATTEMPTS, StoreLayout, make_parent, names_in, remove

if TYPE_CHECKING:
    from hashlib import _Hash

log = logging.getLogger(__name__)

SETTLE = 1.0
"""Seconds that a new request leaves an older one of the same session."""

PIECE = 256 * 1024
"""Bytes of the one buffer that a request receives into."""

SESSIONS = 2048
"""Sessions that may be open at one time."""

ABANDONED = 3600.0
"""Seconds without a byte after which a session may go when there is no room."""

RETRY_AFTER = 10
"""Seconds after which a client may ask for a session again."""

_FULL = (errno.ENOSPC, errno.EDQUOT)


class StoredUpload:
    """One upload of *client*. Its methods may be called from any thread.

    *space* counts the bytes; *make_room* is called when there is no room for them, and
    says whether there is now.
    """

    def __init__(
        self,
        path: Path,
        hasher: _Hash | None = None,
        *,
        name: str = "",
        client: str = "",
        space: Space | None = None,
        make_room: Callable[[], bool] = lambda: False,
    ) -> None:
        """*hasher* has seen every byte of *path*, or is None."""
        self.path = path
        self.name = name
        self.client = client
        self.moved = time.time()
        self._hasher = hasher
        self._hashed = 0
        self._space = space or Space()
        self._make_room = make_room
        self._owner: object | None = None
        self._changed = threading.Condition()  # guards all of the above, and the file

    def size(self) -> int:
        """Bytes received, now that nobody writes. Raises ProtocolError (404)."""
        with self.owned():
            return self._size()

    def append(self, body: Incoming, start: int | None) -> int:
        """Receive *body* at *start*, or at the end; how many bytes there are then.

        Raises ProtocolError (416 with the true range) when *start* is not the end.
        """
        with self.owned() as owner:
            self._receive(body, start, owner)
            return self._size()

    def finish(
        self,
        body: Incoming,
        start: int | None,
        *,
        digest: Digest,
        adopt: Callable[[Path], None],
    ) -> None:
        """Receive the rest, prove that all of it is *digest*, let *adopt* move it away.

        From the proof to the move nobody can take the session over. Raises
        ProtocolError: 416 as `append`; 400 when the digest is another one, and then the
        bytes are gone.
        """
        with self.owned() as owner:
            self._receive(body, start, owner)
            with self._changed:
                self._check_owner(owner)
                found = self._digest(digest)
                if found == digest:
                    size = self._size()
                    adopt(self.path)
                    self._space.receive(-size)
                    return
                self._remove()
        message = f"wanted {digest}, the bytes received are {found}"
        raise ProtocolError(400, DIGEST_INVALID, message)

    def discard(self) -> None:
        """Delete the bytes; whoever still writes ends without an answer."""
        with self.owned(), self._changed:
            self._remove()

    def age(self) -> float:
        """Seconds since the last byte came; 0 while a request has the session."""
        return 0.0 if self._owner is not None else time.time() - self.moved

    @contextlib.contextmanager
    def owned(self) -> Iterator[object]:
        """Take the session over for the ``with``."""
        owner = object()
        with self._changed:
            self._changed.wait_for(lambda: self._owner is None, SETTLE)
            self._owner = owner
        try:
            yield owner
        finally:
            with self._changed:
                if self._owner is owner:
                    self._owner = None
                    self._changed.notify_all()

    def _receive(self, body: Incoming, start: int | None, owner: object) -> None:
        offset = self._size()
        if start is not None and start != offset:
            headers = {"Range": upload_range(offset)}
            message = f"the session holds {offset} bytes, the chunk starts at {start}"
            raise ProtocolError(416, BLOB_UPLOAD_INVALID, message, headers=headers)
        if body.length == 0:
            return
        buffer = memoryview(bytearray(min(body.length or PIECE, PIECE)))
        with self._open() as file:
            while count := body.readinto(buffer):
                self._write(file, buffer[:count], owner)

    def _write(self, file: BinaryIO, piece: memoryview, owner: object) -> None:
        with self._changed:
            self._check_owner(owner)
            self._reserve(len(piece))
            written = 0
            try:
                while written < len(piece):
                    written += self._write_some(file, piece[written:])
            finally:
                self.moved = time.time()
                self._space.receive(written - len(piece))
                if self._hasher is not None:
                    self._hasher.update(piece[:written])
                    self._hashed += written

    def _reserve(self, count: int) -> None:
        if not self._space.fits(count):
            self._make_room()
        self._space.receive(count)

    def _write_some(self, file: BinaryIO, piece: memoryview) -> int:
        try:
            return self._write_bytes(file, piece)
        except OSError as error:
            if error.errno not in _FULL or not self._make_room():
                raise
            return self._write_bytes(file, piece)

    @staticmethod
    def _write_bytes(file: BinaryIO, piece: memoryview) -> int:
        return file.write(piece)

    def _remove(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            size = self.path.stat().st_size
            if remove(self.path):
                self._space.receive(-size)

    def _check_owner(self, owner: object) -> None:
        if self._owner is not owner:
            raise Disconnected("a newer request took the upload session over")

    def _open(self) -> BinaryIO:
        """The file, to write at its end; never a new one."""
        try:
            file = files.open_left(self.path)
        except FileNotFoundError:
            raise upload_unknown() from None
        file.seek(0, os.SEEK_END)
        return file

    def _size(self) -> int:
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            raise upload_unknown() from None

    def _digest(self, wanted: Digest) -> Digest:
        """What the bytes are, in the algorithm of *wanted*."""
        size, hasher = self._size(), self._hasher
        if hasher is None or hasher.name != wanted.algorithm or self._hashed != size:
            hasher = wanted.hasher()
            buffer = memoryview(bytearray(PIECE))
            with files.open_left(self.path) as file:
                while count := file.readinto(buffer):  # type: ignore[attr-defined]
                    hasher.update(buffer[:count])
        return Digest.from_hash(hasher)


class Uploads:
    """The sessions of all repositories, open for *max_age* seconds without a byte."""

    def __init__(
        self, layout: StoreLayout, max_age: float, space: Space | None = None
    ) -> None:
        self._layout = layout
        self._max_age = max_age
        self._space = space or Space()
        self._sessions: dict[SessionId, StoredUpload] = {}
        self._lock = threading.Lock()  # guards _sessions and _swept
        self._swept: float | None = None

    def __len__(self) -> int:
        return len(self._sessions)

    def load(self) -> None:
        """Take over the sessions that an earlier server left, and drop the old ones."""
        for name in self._layout.repositories():
            for file in names_in(self._layout.uploads(name)):
                session = self._register(name, SessionId(file))
                with contextlib.suppress(FileNotFoundError):
                    status = session.path.stat()
                    self._space.received += status.st_size
                    session.moved = status.st_mtime
            self._layout.prune(name)
        self.sweep()

    def start(self, name: Repository, algorithm: str, address: str = "") -> SessionId:
        """A new session, empty, for a blob with a digest of *algorithm*.

        Raises ProtocolError (503) when there are too many.
        """
        self.sweep(min(self._max_age, 600.0))
        session_id, client = SessionId.new(), client_of(address)
        session = self._register(
            name, session_id, client=client, hasher=hashlib.new(algorithm)
        )
        if len(self._sessions) > SESSIONS:
            self._make_place(session_id, client)
        try:
            self._touch(session.path)
        except BaseException:
            with self._lock:
                self._sessions.pop(session_id, None)
            raise
        return session_id

    @staticmethod
    def _touch(path: Path) -> None:
        for _ in range(ATTEMPTS):  # another request may remove an empty directory
            make_parent(path)
            with contextlib.suppress(FileNotFoundError):
                files.open_new(path).close()
                return
        raise busy("changes of this repository", RETRY_AFTER)

    def find(self, name: Repository, session_id: SessionId) -> StoredUpload:
        """An open session, also one from before a restart.

        Raises ProtocolError (404) when it is finished, cancelled or too old.
        """
        path = self._layout.upload(name, session_id)
        if self._is_old(path):
            self.forget(name, session_id)
        if not path.exists():
            raise upload_unknown()
        return self._register(name, session_id)

    def forget(self, name: Repository, session_id: SessionId) -> None:
        """Drop a session and its bytes, if any are left."""
        with self._lock:
            session = self._sessions.pop(session_id, None)
        path = self._layout.upload(name, session_id)
        (session or StoredUpload(path, space=self._space)).discard()
        self._layout.prune(name)

    def forget_if_gone(self, name: Repository, session_id: SessionId) -> None:
        """Drop a session whose bytes became a blob, or were the wrong ones."""
        if not self._layout.upload(name, session_id).exists():
            with self._lock:
                self._sessions.pop(session_id, None)
            self._layout.prune(name)

    def sweep(self, interval: float = 0.0) -> None:
        """Drop what is too old, unless that was done *interval* seconds ago."""
        with self._lock:
            now = time.monotonic()
            if self._swept is not None and now - self._swept < interval:
                return
            self._swept = now
        for session_id, session in self._snapshot():
            if self._is_old(session.path):
                self.forget(Repository(session.name), session_id)

    def make_room(self) -> bool:
        """Drop sessions that nobody moved for an hour, the oldest one first.

        As few as give room for one piece; false when there is none.
        """
        before, found = self._space.received, False
        old = [(session.age(), session_id) for session_id, session in self._snapshot()]
        for age, session_id in sorted(old, reverse=True):
            if age < ABANDONED or (found and before - self._space.received >= PIECE):
                break
            found = self._drop(session_id) or found
        return found

    def _register(
        self,
        name: Repository,
        session_id: SessionId,
        *,
        client: str = "",
        hasher: _Hash | None = None,
    ) -> StoredUpload:
        session = StoredUpload(
            self._layout.upload(name, session_id),
            hasher,
            name=name,
            client=client,
            space=self._space,
            make_room=self.make_room,
        )
        with self._lock:
            return self._sessions.setdefault(session_id, session)

    def _snapshot(self) -> list[tuple[SessionId, StoredUpload]]:
        with self._lock:
            return list(self._sessions.items())

    def _make_place(self, new: SessionId, client: str) -> None:
        """Drop a session for the one that is *new*. Raises ProtocolError (503)."""
        sessions = [item for item in self._snapshot() if item[0] != new]
        counts = Counter(session.client for _, session in sessions)
        share = SESSIONS // len({*counts, client})
        competing = counts[client] < share
        ages = (
            (session.age(), session_id)
            for session_id, session in sessions
            if not competing or counts[session.client] > share
        )
        age, oldest = max(ages, default=(0.0, new))
        needed = 0.0 if competing else ABANDONED
        if age <= needed or not self._drop(oldest):
            with self._lock:
                self._sessions.pop(new, None)
            raise busy("uploads", RETRY_AFTER)

    def _drop(self, session_id: SessionId) -> bool:
        with self._lock:
            session = self._sessions.get(session_id)
        if session is None:
            return False
        log.info("dropped an upload to %s that nobody moved", session.name)
        self.forget(Repository(session.name), session_id)
        return True

    def _is_old(self, path: Path) -> bool:
        try:
            return time.time() - path.stat().st_mtime > self._max_age
        except FileNotFoundError:
            return False
