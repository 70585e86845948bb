"""Upload sessions: files that grow, one writer each, and the hash of what is in them.

Strategy. A session is a file, and its offset is the file's size, so a session outlives
a broken connection and a killed server. The newest request owns the session: whoever
comes while another request still writes waits `SETTLE` seconds for it to drain what it
received, and then takes the session away from it. What the newcomer is told, or starts
from, is therefore the truth and stays it; the old request ends without an answer.

The hash runs along with the bytes. Where it cannot be trusted (after a restart, a full
disk, another algorithm) the file is read once more at the end.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Callable, Iterator

from ..oci import Digest
from .checked_names import Repository, SessionId
from .messages import (
    BLOB_UPLOAD_INVALID,
    DIGEST_INVALID,
    Disconnected,
    Incoming,
    ProtocolError,
    upload_range,
    upload_unknown,
)
from .storage import Layout, names_in, remove

if TYPE_CHECKING:
    from hashlib import _Hash

SETTLE = 1.0
"""Seconds that a new request leaves an older one of the same session."""

PIECE = 1024 * 1024
"""Bytes of the one buffer that a request receives into."""


class Session:
    """One upload. Its methods may be called from any thread."""

    def __init__(self, path: Path, hasher: _Hash | None) -> None:
        """*hasher* has seen every byte of *path*, or is None."""
        self.path = path
        self._hasher = hasher
        self._hashed = 0
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
                    adopt(self.path)
                    return
                remove(self.path)
        message = f"wanted {digest}, the bytes received are {found}"
        raise ProtocolError(400, DIGEST_INVALID, message)

    def discard(self) -> None:
        """Delete the bytes; whoever still writes ends without an answer."""
        with self.owned(), self._changed:
            remove(self.path)

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
            written = 0
            try:
                while written < len(piece):
                    written += file.write(piece[written:])
            finally:
                if self._hasher is not None:
                    self._hasher.update(piece[:written])
                    self._hashed += written

    def _check_owner(self, owner: object) -> None:
        if self._owner is not owner:
            raise Disconnected("a newer request took the upload session over")

    def _open(self) -> BinaryIO:
        """The file, to write at its end; never a new one."""
        try:
            file = self.path.open("r+b", buffering=0)
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
            with self.path.open("rb", buffering=0) as file:
                while count := file.readinto(buffer):
                    hasher.update(buffer[:count])
        return Digest.from_hash(hasher)


class Uploads:
    """The sessions of all repositories, open for *max_age* seconds without a byte."""

    def __init__(self, layout: Layout, max_age: float) -> None:
        self._layout = layout
        self._max_age = max_age
        self._sessions: dict[SessionId, Session] = {}
        self._lock = threading.Lock()  # guards _sessions and _swept
        self._swept: float | None = None

    def start(self, name: Repository, algorithm: str) -> SessionId:
        """A new session, empty, for a blob with a digest of *algorithm*."""
        self.sweep(min(self._max_age, 600.0))
        session_id = SessionId.new()
        path = self._layout.upload(name, session_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(exist_ok=False)
        with self._lock:
            self._sessions[session_id] = Session(path, hashlib.new(algorithm))
        return session_id

    def find(self, name: Repository, session_id: SessionId) -> Session:
        """An open session, also one from before a restart.

        Raises ProtocolError (404) when it is finished, cancelled or too old.
        """
        path = self._layout.upload(name, session_id)
        if self._is_old(path):
            self.forget(name, session_id)
        if not path.exists():
            raise upload_unknown()
        with self._lock:
            return self._sessions.setdefault(session_id, Session(path, None))

    def forget(self, name: Repository, session_id: SessionId) -> None:
        """Drop a session and its bytes, if any are left."""
        with self._lock:
            session = self._sessions.pop(session_id, None)
        path = self._layout.upload(name, session_id)
        (session or Session(path, None)).discard()

    def forget_if_gone(self, name: Repository, session_id: SessionId) -> None:
        """Drop a session whose bytes became a blob, or were the wrong ones."""
        if not self._layout.upload(name, session_id).exists():
            with self._lock:
                self._sessions.pop(session_id, None)

    def sweep(self, interval: float = 0.0) -> None:
        """Drop what is too old, unless that was done *interval* seconds ago."""
        with self._lock:
            now = time.monotonic()
            if self._swept is not None and now - self._swept < interval:
                return
            self._swept = now
        for name in self._layout.repositories():
            for file in names_in(self._layout.uploads(name)):
                if self._is_old(self._layout.uploads(name) / file):
                    self.forget(name, SessionId(file))

    def _is_old(self, path: Path) -> bool:
        try:
            return time.time() - path.stat().st_mtime > self._max_age
        except FileNotFoundError:
            return False
