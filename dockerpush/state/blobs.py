"""A directory of blobs, each a file named by its digest, in the way of an OCI layout.

Rules: a file below ``blobs/`` was hashed before it got its name. A partial file has one
live owner, who holds the lock beside it, and is handed to the next run. What must not
happen at once happens under the directory's own lock, which is held for moments only.
A source may break or lie, so a blob is hashed as it is written.
"""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from typing import BinaryIO, Callable, Iterator, Protocol

from ..documents import Walk, check_names_nothing, children_of, is_document
from ..errors import (
    WRITE_ELSEWHERE,
    ContentMismatch,
    InvalidDigest,
    InvalidJSON,
    StateError,
    about_room,
    reason_of,
)
from ..events import BlobFinished, BlobStarted, BytesSent, OnEvent, Outcome, Retrying
from ..oci import JSON_LIMIT, Descriptor, Digest
from ..system.cancellation import Cancellation
from ..system.files import (
    claim,
    default_mode,
    is_ours,
    make_directories,
    open_own,
    own_name,
    replace_file,
    share,
    try_lock,
    write_whole,
)
from ..values import replace, value

GUARD_TIMEOUT = 30.0
"""Seconds to wait for the directory's lock; a prune of many images needs a few."""

LOCK = ".lock"
"""The lock file of a directory, which is there while it is held."""

PARTIALS = ".partial"
"""The directory for blobs that are not complete yet."""

_STEP = 0.1  # seconds between two looks at a partial file that another run has


class BlobDirectory:
    """The blobs below *directory*, which is made when it is written to.

    Any number of threads and processes may use it. Everything raises StateError when
    the file system does not allow it; *what* says in such an error what this is, and
    *room* what to do when the disk is full.
    """

    error: type[StateError] = StateError

    def __init__(
        self,
        directory: Path,
        *,
        what: str,
        room: str = WRITE_ELSEWHERE,
        mode: int = 0o777,
        partials: str = PARTIALS,
    ) -> None:
        """*mode* is that of directories that are made, less the umask.

        *partials* is the name of the directory for what is not complete yet.
        """
        self.directory = directory
        self._what = what
        self._room = room
        self._mode = mode
        self._partials = partials
        self._owners: dict[tuple[int, int, int], bool] = {}  # who is one of us
        self._hashed: dict[tuple[Digest, int, int], bool] = {}  # what others wrote

    def failing(self) -> contextlib.AbstractContextManager[None]:
        """Turn an OSError into a StateError that says which directory it is about."""
        return failing(f"{self._what} {self.directory}", self._room, self.error)

    def path_of(self, digest: Digest) -> Path:
        """Where the blob *digest* is, if it is there."""
        return self.directory / "blobs" / digest.algorithm / digest.hex

    def has(self, descriptor: Descriptor) -> bool:
        """True when the blob is there, in its full size, and proved.

        A file of ours was hashed before it got its name; any other is hashed now.
        """
        path = self.path_of(descriptor.digest)
        try:
            found = path.stat()
        except OSError:
            return False
        return found.st_size == descriptor.size and (
            self._is_ours(path, found) or self._is_right(path, descriptor.digest, found)
        )

    def _is_ours(self, path: Path, found: os.stat_result) -> bool:
        owner = (found.st_dev, found.st_uid, found.st_mode & 0o002)
        if owner not in self._owners:
            self._owners[owner] = is_ours(found, path)
        return self._owners[owner]

    def _is_right(self, path: Path, digest: Digest, found: os.stat_result) -> bool:
        key = (digest, found.st_ino, found.st_mtime_ns)
        if key not in self._hashed:
            with failing(f"blob {digest.short} of {self._what}"):
                self._hashed[key] = digest_of_file(path, digest) == digest
        return self._hashed[key]

    def size_of(self, digest: Digest) -> int | None:
        """Bytes of the blob on disk; None when it is not there."""
        try:
            return self.path_of(digest).stat().st_size
        except OSError:
            return None

    def open_blob(self, digest: Digest, offset: int = 0) -> io.FileIO:
        """The blob from *offset* on, unbuffered; the caller closes it."""
        with failing(f"blob {digest.short} of {self._what}"):
            file = self.path_of(digest).open("rb", buffering=0)
            file.seek(offset)
            return file

    def read_document(self, descriptor: Descriptor) -> bytes | None:
        """The bytes of a manifest, index or config; None unless they are right."""
        is_there = self.size_of(descriptor.digest) == descriptor.size
        if descriptor.size > JSON_LIMIT or not is_there:
            return None
        with self.open_blob(descriptor.digest) as file:
            raw = file.read(descriptor.size)
        hasher = descriptor.digest.hasher()
        hasher.update(raw)
        return raw if Digest.from_hash(hasher) == descriptor.digest else None

    def put(self, digest: Digest, raw: bytes) -> None:
        """Keep *raw*, whose digest the caller has checked."""
        self._write(self.path_of(digest), raw)

    def link(self, descriptor: Descriptor, path: Path) -> bool:
        """Give the blob's file, *path*, a name here as well; False if that cannot be.

        Blobs get their names when they are complete, and are never written to again.
        """
        final = self.path_of(descriptor.digest)
        if self.has(descriptor):
            return True
        with self.failing():
            make_directories(final.parent, self._mode)
        try:
            os.link(path, final)
        except OSError:
            return False
        return self.has(descriptor)

    def remove(self, digest: Digest) -> None:
        """Forget the blob *digest*, which turned out to be damaged."""
        with failing(f"blob {digest.short} of {self._what}"):
            self.path_of(digest).unlink(missing_ok=True)

    def is_whole(
        self,
        root: Descriptor,
        is_spared: Callable[[Descriptor], bool] = lambda blob: False,
    ) -> bool:
        """True when *root*, a manifest, is there with all that it needs.

        What *is_spared* need not be there. False as well for what cannot be read: who
        fetches it again says why.
        """
        try:
            return self._is_whole(root, is_spared, Walk(self._what), 0)
        except (InvalidJSON, InvalidDigest, ContentMismatch):
            return False

    def _is_whole(
        self,
        node: Descriptor,
        is_spared: Callable[[Descriptor], bool],
        walk: Walk,
        depth: int,
    ) -> bool:
        if not walk.enters(node, depth):
            return True  # one that is not whole ends the walk
        raw = self.read_document(node)
        if raw is None or not is_document(node):
            return is_spared(node)
        walk.takes(raw, node.size)
        children = children_of(node, raw)
        return all(
            self.has(blob) or blob.urls or is_spared(blob) for blob in children.blobs
        ) and all(
            self._is_whole(child, is_spared, walk, depth + 1)
            for child in children.documents
        )

    def occupied(self, root: Descriptor) -> dict[Digest, Descriptor]:
        """*root* and everything below it that the documents which are there name."""
        found: dict[Digest, Descriptor] = {}
        with contextlib.suppress(InvalidJSON, InvalidDigest, ContentMismatch):
            self._reach(root, found, Walk(self._what), 0)
        return found

    def needed(self, root: Descriptor) -> set[Digest]:
        """As `occupied`, when nothing of it is unknown.

        Raises InvalidJSON, InvalidDigest, ContentMismatch for a document that is
        damaged or not there.
        """
        found: dict[Digest, Descriptor] = {}
        self._reach(root, found, Walk(self._what), 0, strict=True)
        return set(found)

    @contextlib.contextmanager
    def partial(self, digest: Digest, cancellation: Cancellation) -> Iterator[Partial]:
        """The beginning of the blob *digest*, ours alone for the ``with``.

        Another run or thread that has it is waited for. Raises Cancelled.
        """
        path = self.directory / self._partials / str(digest).replace(":", "-")
        with contextlib.ExitStack() as stack:
            while (found := self._claimed(path, digest, stack)) is None:
                cancellation.wait(_STEP)
            lock, part = found
            try:
                yield part
            finally:
                with contextlib.suppress(OSError, StateError), self.guarded():
                    if not part.size() or part.path != path:
                        part.discard()
                    lock.unlink()
                    lock.parent.rmdir()  # the last one, if nothing was left

    def _claimed(
        self, path: Path, digest: Digest, stack: contextlib.ExitStack
    ) -> tuple[Path, Partial] | None:
        """The lock and the partial file at *path*, ours until *stack* is left."""
        with self.guarded():
            path.parent.mkdir(mode=self._mode, exist_ok=True)
            lock = own_name(path.with_name(f"{path.name}.lock"))
            with contextlib.ExitStack() as mine:
                if not mine.enter_context(try_lock(lock)):
                    return None
                own, final = own_name(path), self.path_of(digest)
                part = Partial(own, final, self._mode, self.failing)
                stack.push(mine.pop_all())
                return lock, part

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Hold the directory's own lock for a moment."""
        with self.failing():
            make_directories(self.directory, self._mode)
            with claim(self.directory / LOCK, timeout=GUARD_TIMEOUT):
                yield

    def _reach(
        self,
        node: Descriptor,
        found: dict[Digest, Descriptor],
        walk: Walk,
        depth: int,
        *,
        strict: bool = False,
    ) -> None:
        if not walk.enters(node, depth):
            return
        found[node.digest] = node
        raw = self.read_document(node)
        if raw is None and strict:
            raise ContentMismatch(f"{node.digest} is damaged, or not there")
        if raw is None:
            return
        walk.takes(raw, node.size)
        children = children_of(node, raw)
        for blob in children.blobs:
            found.setdefault(blob.digest, blob)
        for blob in children.unknown:
            content = self.read_document(blob)
            if content is not None:
                check_names_nothing(blob, content)
        for child in children.documents:
            self._reach(child, found, walk, depth + 1, strict=strict)

    def _write(self, path: Path, raw: bytes) -> None:
        with self.guarded(), self.failing():
            make_directories(path.parent, self._mode)
            mode = default_mode() & self._mode
            replace_file(path, raw, mode=mode, durable=False)


@value
class Partial:
    """The beginning of a blob at *path*, which becomes *final* when it is complete.

    *failing* makes StateErrors of OSErrors.
    """

    path: Path
    final: Path
    mode: int
    failing: Callable[[], contextlib.AbstractContextManager[None]]

    def size(self) -> int:
        """Bytes that an earlier run, or this one, has left; 0 for none."""
        return self.path.stat().st_size if self.path.exists() else 0

    def open(self) -> BinaryIO:
        """The file, to be read and written, unbuffered. Raises OSError."""
        return open_own(self.path)

    def keep(self) -> None:
        """It is complete, and was hashed: give it its name."""
        with self.failing():
            make_directories(self.final.parent, self.mode)
            self.path.replace(self.final)

    def discard(self) -> None:
        """Delete it: nothing of it is of any use."""
        with self.failing():
            self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def failing(
    what: str, room: str = WRITE_ELSEWHERE, kind: type[StateError] = StateError
) -> Iterator[None]:
    """Turn an OSError into a *kind* that says *what* cannot be used, and why.

    *room* says what to do when the disk is full.
    """
    try:
        yield
    except OSError as error:
        reason = f"{reason_of(error)}{about_room(error, room)}"
        raise kind(f"{what}: {reason}") from error


PIECE = 256 * 1024
"""Bytes received and written at a time."""


def digest_of_file(
    path: Path, like: Digest, check: Callable[[], object] = lambda: None
) -> Digest:
    """What the bytes of *path* are, by the algorithm of *like*.

    *check* is called after each piece. Raises OSError, and what *check* does.
    """
    hasher = like.hasher()
    with path.open("rb", buffering=0) as file:
        while piece := file.read(PIECE):
            check()
            hasher.update(piece)
    return Digest.from_hash(hasher)


class Reader(Protocol):
    """Bytes from somewhere on, until it is closed."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill *buffer* from its start; the count of bytes, 0 at the end."""

    def close(self) -> None:
        """Give back what the reader holds."""


OpenAt = Callable[[int], Reader]


@value
class BlobPlace:
    """Where a blob is written to: *file* from byte *start* on.

    *have* is how many bytes of it an earlier run has left there. *on_written* gets the
    count of those that are there by now, after each piece.
    """

    file: BinaryIO
    start: int = 0
    have: int = 0
    on_written: Callable[[int], None] = lambda count: None


@value
class _Found:
    """What a blob turned out to be; *received* bytes of it came from the source."""

    digest: Digest
    size: int
    received: int


def receive(
    descriptor: Descriptor,
    open_at: OpenAt,
    place: BlobPlace,
    *,
    cancellation: Cancellation,
    on_event: OnEvent,
    key: str = "",
) -> int:
    """Put the blob into *place*; returns how many bytes came from the source for it.

    *key* is the one of its events, its digest where none is given.
    Continues what an earlier run left. A blob that turns out wrong is fetched once more
    from its first byte, since a cache or a proxy on the way may have lied. Raises
    ContentMismatch when it is still not what *descriptor* says, Cancelled, OSError when
    it cannot be written, and what the reader raises.
    """
    digest = descriptor.digest
    key = key or str(digest)

    def on_moved(count: int) -> None:
        on_event(BytesSent(key, count))

    on_event(BlobStarted(key, digest, descriptor.size))
    found = _Receiving(descriptor, open_at, place, cancellation, on_moved).run()
    if found.digest != digest:
        on_moved(-found.size)
        on_event(Retrying(f"blob {digest.short}", _described(found), 0.0))
        place = replace(place, have=0)
        again = _Receiving(descriptor, open_at, place, cancellation, on_moved).run()
        found = replace(again, received=found.received + again.received)
    if found.digest != digest:
        place.on_written(0)
        raise ContentMismatch(
            f"blob {digest}: wanted {descriptor.size} bytes of that digest, but "
            f"{_described(found)}; the blob was not kept"
        )
    on_event(BlobFinished(key, digest, descriptor.size, Outcome.UPLOADED))
    return found.received


def receive_partial(
    partial: Partial,
    descriptor: Descriptor,
    open_at: OpenAt,
    *,
    cancellation: Cancellation,
    on_event: OnEvent,
    key: str = "",
) -> int:
    """The same into the file *partial*, which gets its name when it is complete.

    Raises StateError when it cannot be written.
    """
    if partial.size() > descriptor.size:
        partial.discard()
    failure = None
    with partial.failing(), partial.open() as file:
        place = BlobPlace(file, have=partial.size())
        try:
            received = receive(
                descriptor,
                open_at,
                place,
                cancellation=cancellation,
                on_event=on_event,
                key=key,
            )
            share(file)
        except ContentMismatch as error:
            failure = error
    if failure is not None:
        partial.discard()
        raise failure
    partial.keep()
    return received


def _described(found: _Found) -> str:
    return f"the source gave {found.size} bytes that are {found.digest}"


class _Receiving:
    """One attempt at the bytes of a blob."""

    def __init__(
        self,
        descriptor: Descriptor,
        open_at: OpenAt,
        place: BlobPlace,
        cancellation: Cancellation,
        on_moved: Callable[[int], None],
    ) -> None:
        self._descriptor = descriptor
        self._open_at = open_at
        self._place = place
        self._cancellation = cancellation
        self._on_moved = on_moved
        self._hasher = descriptor.digest.hasher()
        self._buffer = memoryview(bytearray(max(1, min(PIECE, descriptor.size))))

    def run(self) -> _Found:
        """Read until the end, or one piece beyond the size there should be."""
        self._place.file.seek(self._place.start)
        offset = self._read_again()
        received = self._receive(offset)
        return _Found(Digest.from_hash(self._hasher), offset + received, received)

    def _read_again(self) -> int:
        """Hash what is there already; how many bytes that is."""
        offset = 0
        while offset < self._place.have:
            piece = self._buffer[: self._place.have - offset]
            count = self._place.file.readinto(piece)  # type: ignore[attr-defined]
            if not count:
                break
            self._cancellation.check()
            self._took(piece[:count])
            offset += count
        return offset

    def _receive(self, offset: int) -> int:
        missing = self._descriptor.size - offset
        if not missing and self._descriptor.size:
            return 0
        received = 0
        reader = self._open_at(offset)
        try:
            while count := reader.readinto(self._buffer):
                self._cancellation.check()
                piece = self._buffer[:count]
                received += count
                self._took(piece)
                if received > missing:
                    break
                write_whole(self._place.file, piece)
                self._place.on_written(offset + received)
        finally:
            reader.close()
        return received

    def _took(self, piece: memoryview) -> None:
        self._hasher.update(piece)
        self._on_moved(len(piece))
