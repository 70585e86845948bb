"""Archives and OCI directories, written: complete, or not under their final name.

A docker-archive is an OCI layout with a ``manifest.json`` beside ``index.json``, as
docker has written it since 25.0: blobs keep their bytes, so the digest of the manifest
outlives the way through it. ``index.json`` names the whole of a multi-platform image,
``manifest.json`` one platform of it. The JSON comes first and layers last, so that a
reader of a pipe knows what it needs. The same images give the same bytes.

Where everything lies is known before the first byte, so blobs may come in any order,
several at a time. The part file beside the final name has the tar, and after its end a
note of how much of which blob is there, so that another run continues with it. It has
one owner at a time; who finds it taken writes another one, without a note.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shutil
import tarfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Callable, Iterable, Iterator, Sequence, TypeVar

from ..errors import (
    WRITE_ELSEWHERE,
    ArchiveError,
    Cancelled,
    InvalidDigest,
    InvalidJSON,
    NetworkError,
    NotFoundInRegistry,
    PusherError,
    RegistryError,
    StateError,
    UsageError,
    file_error,
)
from ..oci import (
    JSON_LIMIT,
    OCI_INDEX,
    Descriptor,
    Digest,
    Index,
    dump_json,
    parse_json,
    require,
    required,
)
from ..reference import is_tag
from ..state.blobs import LOCK, PARTIALS, BlobPlace
from ..system.files import (
    claim,
    claimed,
    default_mode,
    followed,
    fresh_name,
    open_own,
    own_name,
    replace_file,
    share,
    write_whole,
)
from ..values import replace, value
from .contents import path_of
from .layout import FULL_NAME, REF_NAME
from .needs import NEEDS_JSON, Needs, parse_needs, to_bytes

T = TypeVar("T")

LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
"""(image-spec, image-layout.md, oci-layout file)"""

_BLOCK = tarfile.BLOCKSIZE
_END = b"\0" * (2 * _BLOCK)
_PIECE = 1024 * 1024


@value
class BundledImage:
    """An image to be written: what ``index.json`` names, and under which names.

    *blobs* is everything that *root* needs, itself included, documents first. *config*
    and *layers* are those of the one image of *root* that ``manifest.json`` names; None
    and nothing when docker cannot load it.
    """

    root: Descriptor
    names: tuple[str, ...]
    blobs: tuple[Descriptor, ...]
    config: Digest | None = None
    layers: tuple[Digest, ...] = ()


@value
class Piece:
    """A part of a tar at the byte *offset*: *content*, or the bytes of *blob*."""

    offset: int
    content: bytes = b""
    blob: Descriptor | None = None


@value
class TarLayout:
    """A tar of *size* bytes: *pieces* in their order, without a gap."""

    pieces: tuple[Piece, ...]
    size: int


def tar_layout(
    images: Sequence[BundledImage], *, docker: bool, needs: Needs | None = None
) -> TarLayout:
    """The tar of *images*, and a needs.json where it *needs* what it does not hold.

    For *docker* it has a manifest.json for those that docker can load, if any can.
    """
    blobs = all_blobs(images)
    builder = _TarBuilder()
    builder.file("oci-layout", LAYOUT)
    builder.file("index.json", index_of(images, docker=docker).to_bytes())
    records = _docker_records(images) if docker else []
    if records:
        builder.file("manifest.json", dump_json(records))
    if needs:
        builder.file(NEEDS_JSON, to_bytes(needs))
    for folder in ("blobs", *sorted({f"blobs/{d.algorithm}" for d in blobs})):
        builder.add(_header(folder, tarfile.DIRTYPE, 0))
    for blob in blobs.values():
        builder.add(_header(path_of(blob.digest), tarfile.REGTYPE, blob.size))
        builder.blob(blob)
    builder.add(_END)
    return builder.done()


class _TarBuilder:
    def __init__(self) -> None:
        self._pieces: list[Piece] = []
        self._content = bytearray()
        self._offset = 0

    def add(self, content: bytes) -> None:
        self._content += content

    def file(self, name: str, content: bytes) -> None:
        self.add(_header(name, tarfile.REGTYPE, len(content)))
        self.add(content + b"\0" * (-len(content) % _BLOCK))

    def blob(self, blob: Descriptor) -> None:
        self._flush()
        self._pieces.append(Piece(self._offset, blob=blob))
        self._offset += blob.size
        self.add(b"\0" * (-blob.size % _BLOCK))

    def done(self) -> TarLayout:
        self._flush()
        return TarLayout(tuple(self._pieces), self._offset)

    def _flush(self) -> None:
        if self._content:
            self._pieces.append(Piece(self._offset, bytes(self._content)))
            self._offset += len(self._content)
            self._content.clear()


def all_blobs(images: Iterable[BundledImage]) -> dict[Digest, Descriptor]:
    """Every blob once, the small ones that are JSON first."""
    found = {blob.digest: blob for image in images for blob in image.blobs}
    layers = {digest for image in images for digest in image.layers}
    return dict(
        sorted(
            found.items(),
            key=lambda item: item[0] in layers or not _is_json(item[1]),
        )
    )


def _is_json(blob: Descriptor) -> bool:
    return blob.media_type.endswith("json")


def index_of(images: Iterable[BundledImage], *, docker: bool = False) -> Index:
    """An entry for each name; for *docker* those of indexes as docker save has them."""
    entries = []
    for image in images:
        if not image.names:
            entries.append(image.root)
        entries += [_named(image.root, name, short=docker) for name in image.names]
    return Index(OCI_INDEX, tuple(entries))


def _named(root: Descriptor, name: str, *, short: bool) -> Descriptor:
    """podman reads one annotation, *short* the tag alone; containerd the full one."""
    before = root.annotations or {}
    said = {key: before[key] for key in before if key not in (FULL_NAME, REF_NAME)}
    if not is_tag(name):
        said[FULL_NAME] = name
    tag = name.rpartition(":")[2]
    return replace(
        root, annotations={**said, REF_NAME: tag if short and is_tag(tag) else name}
    )


def merged(before: Index | None, added: Index) -> Index:
    """*before* with the entries of *added*, which take their names from others."""
    taken = {name_of(entry) for entry in added.manifests}
    digests = {entry.digest for entry in added.manifests}
    kept = [
        entry
        for entry in (before.manifests if before else ())
        if (name_of(entry) or entry.digest) not in taken | digests
    ]
    return replace(before or added, manifests=(*kept, *added.manifests))


def name_of(entry: Descriptor) -> str | None:
    """What an entry of ``index.json`` is called; None for one without a name."""
    return (entry.annotations or {}).get(REF_NAME)


def _docker_records(images: Iterable[BundledImage]) -> list[dict[str, Any]]:
    """manifest.json: an entry for each image that docker loads, under all its names."""
    records: dict[tuple[Digest, tuple[Digest, ...]], dict[str, Any]] = {}
    for image in images:
        if image.config is None:
            continue
        record = records.setdefault(
            (image.config, image.layers),
            {
                "Config": path_of(image.config),
                "RepoTags": [],
                "Layers": [path_of(digest) for digest in image.layers],
            },
        )
        names = record["RepoTags"]
        names += [n for n in image.names if n not in names and "@" not in n]
    return list(records.values())


def _header(name: str, kind: bytes, size: int) -> bytes:
    """A header without owner and time; GNU's form stores sizes beyond 8 GiB."""
    header = tarfile.TarInfo(name)
    header.type, header.size = kind, size
    header.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    return header.tobuf(tarfile.GNU_FORMAT)


NOTE_EVERY = 1.0
"""Seconds between two notes of how far it has come."""


class FilledTar:
    """The file *path*, which has its name when the ``with`` ends well.

    What is left by an interruption, a lost connection or a registry that refuses stays
    for the next run if it is *resumable*, else nothing does. Raises OSError,
    FileExistsError with *no_clobber*, StateError when the disk has no room for it.
    """

    def __init__(
        self,
        path: Path,
        layout: TarLayout,
        *,
        no_clobber: bool,
        resumable: bool = True,
    ) -> None:
        self._resumable = resumable
        self._final = followed(path)
        self._layout = layout
        self._no_clobber = no_clobber
        self._key = _key_of(layout)
        self._lock = threading.Lock()  # guards the two below
        self._have: dict[str, int] = {}
        self._noted = time.monotonic()
        self._offsets = {
            piece.blob.digest: piece.offset for piece in layout.pieces if piece.blob
        }

    def __enter__(self) -> FilledTar:
        with contextlib.ExitStack() as stack:
            steady = self._final.with_name(f".{self._final.name}.part")
            lock = steady.with_name(f"{steady.name}.lock")
            owned = False
            with contextlib.suppress(OSError):  # a file system without locks
                owned = stack.enter_context(claimed(lock))
            self._part = own_name(steady) if owned else fresh_name(steady)
            self._steady = self._part == steady
            self._file = stack.enter_context(open_own(self._part))
            stack.callback(self._remove_unless_useful)
            self._have = self._read_note()
            if not self._have:
                self._file.truncate(0)  # what is of another image takes no room
            check_room(self._final, self._layout.size - sum(self._have.values()))
            for piece in self._layout.pieces:
                self._write(piece.offset, piece.content)
            self._note()  # at once: this run may be killed before the next note
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._stack:
            if self._resumable and _is_resumable(error):
                with contextlib.suppress(OSError):
                    self._note()
                return
            self._have.clear()
            if error is None:
                self._file.truncate(self._layout.size)
                share(self._file)
                self._file.close()
                commit(self._part, self._final, no_clobber=self._no_clobber)

    def write(self, blob: Descriptor, content: bytes) -> None:
        """Put the whole of *blob* into its place."""
        self._write(self._offsets[blob.digest], content)

    @contextlib.contextmanager
    def place(self, blob: Descriptor) -> Iterator[BlobPlace]:
        """Where *blob* is received, for one thread."""
        key = str(blob.digest)
        with open_own(self._part) as file:
            yield BlobPlace(
                file,
                self._offsets[blob.digest],
                min(self._have.get(key, 0), blob.size),
                lambda count: self._took(key, count),
            )

    def _remove_unless_useful(self) -> None:
        """Keep what another run can continue with."""
        if not (self._steady and any(self._have.values())):
            self._part.unlink(missing_ok=True)

    def _took(self, key: str, count: int) -> None:
        with self._lock:
            self._have[key] = count
            if time.monotonic() - self._noted >= NOTE_EVERY:
                self._note()

    def _write(self, offset: int, content: bytes) -> None:
        self._file.seek(offset)
        write_whole(self._file, content)

    def _note(self) -> None:
        """Write down how far it has come, behind the end of the tar."""
        self._noted = time.monotonic()
        note = dump_json({"key": self._key, "have": self._have})
        self._write(self._layout.size, note)
        self._file.truncate(self._layout.size + len(note))

    def _read_note(self) -> dict[str, int]:
        """What another run has left of the same tar; nothing when it was another."""
        self._file.seek(self._layout.size)
        raw = self._file.read(JSON_LIMIT)
        with contextlib.suppress(InvalidJSON):
            note = require(parse_json(raw, "note"), dict, "note")
            if note.get("key") == self._key:
                have = required(note, "have", dict, "note")
                return {key: count for key, count in have.items() if type(count) is int}
        return {}


def check_room(path: Path, size: int) -> None:
    """Raises PusherError when the disk of *path* has no room for *size* bytes."""
    free = shutil.disk_usage(path.parent).free
    if size > free:
        raise PusherError(
            f"{path}: it takes {size / 2**20:.1f} MiB, and the disk has "
            f"{free / 2**20:.1f} MiB free: {WRITE_ELSEWHERE}"
        )


def _is_resumable(error: BaseException | None) -> bool:
    """True for what the same command may not meet again."""
    if isinstance(error, NotFoundInRegistry):
        return False
    return isinstance(error, (Cancelled, NetworkError, RegistryError))


def _key_of(layout: TarLayout) -> str:
    hasher = hashlib.sha256()
    for piece in layout.pieces:
        digest = str(piece.blob.digest) if piece.blob else ""
        hasher.update(f"{piece.offset} {digest}\n".encode() + piece.content)
    return hasher.hexdigest()


LOCK_TIMEOUT = 60.0
"""Seconds to wait for another writer of one directory's index."""


def read_index(path: Path) -> Index | None:
    """The index of the OCI layout in *path*; None when there is nothing there yet.

    Raises ArchiveError when the directory holds something else, OSError.
    """
    try:
        with (path / "index.json").open("rb") as file:
            return _parsed_index(file.read(JSON_LIMIT + 1))
    except (FileNotFoundError, NotADirectoryError):
        if _holds_something_else(path):
            raise ArchiveError(
                f"{path}: not empty, and no OCI layout: choose another directory"
            ) from None
        return None
    except (InvalidJSON, InvalidDigest) as error:
        raise ArchiveError(f"{path}/index.json: {error}") from error


@functools.lru_cache(maxsize=1)
def _parsed_index(raw: bytes) -> Index:
    """The index *raw*; a sync reads the same one for each of its images."""
    return Index.from_bytes(raw, OCI_INDEX)


def _holds_something_else(path: Path) -> bool:
    """True for a directory with files in it, none of them those of a layout.

    What a run that has just begun puts there, or one that was killed then, is no file.
    """
    names = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
    names -= {LOCK, PARTIALS}
    return bool(names) and not names & {"blobs", "oci-layout"}


def add_to_index(
    path: Path, added: Index, is_whole: Callable[[Descriptor], bool]
) -> None:
    """Add to the index of the OCI layout in *path* what *added* names, in one step.

    *is_whole* says of an entry whether all that it needs is there: another run may have
    pruned it. Raises OSError, ArchiveError, StateError for what is not whole, and when
    another run holds the index.
    """
    with claim(path / LOCK, timeout=LOCK_TIMEOUT):
        for entry in added.manifests:
            if not is_whole(entry):
                raise StateError(
                    f"{path}: another run removed a part of {name_of(entry)} in the "
                    "meantime; run the same command again"
                )
        after = merged(read_index(path), added)
        _replace(path / "oci-layout", LAYOUT)
        _replace(path / "index.json", after.to_bytes())


def take_from_index(
    path: Path,
    is_doomed: Callable[[Descriptor], bool],
    then: Callable[[Sequence[Descriptor]], T],
) -> T:
    """Remove from the OCI layout in *path* each entry that *is_doomed*, in one step.

    *then* gets those that are left, while no other run names any; what it returns.
    Raises OSError, ArchiveError, StateError when another run holds the index.
    """
    with claim(path / LOCK, timeout=LOCK_TIMEOUT):
        index = read_index(path) or Index(OCI_INDEX, ())
        left = [entry for entry in index.manifests if not is_doomed(entry)]
        if len(left) < len(index.manifests):
            after = replace(index, manifests=tuple(left))
            _replace(path / "index.json", after.to_bytes())
        return then(left)


SUMS_FILE = "SHA256SUMS"
"""What the sums of all files of a directory are in, for ``sha256sum --check``."""


def write_sums(path: Path) -> None:
    """Write into the OCI layout in *path* the sums of its files.

    A blob was hashed before it got its name, so its name is its sum. Raises PusherError
    when they cannot be written, StateError when another run holds the index.
    """
    with translate_write_errors(path), claim(path / LOCK, timeout=LOCK_TIMEOUT):
        files = [one for one in path.iterdir() if one.is_file()]
        names = [one.name for one in files if not one.name.startswith((".", SUMS_FILE))]
        names += [f"blobs/{one}" for one in _names_below(path / "blobs")]
        lines = [f"{_sum_of(path, name)}  {name}\n" for name in sorted(names)]
        _replace(path / SUMS_FILE, "".join(lines).encode())


def _names_below(blobs: Path) -> Iterator[str]:
    for folder in filter(Path.is_dir, blobs.iterdir()):
        yield from (f"{folder.name}/{blob.name}" for blob in folder.iterdir())


def _sum_of(path: Path, name: str) -> str:
    folder, _, found = name.rpartition("/")
    if folder == "blobs/sha256":
        return found
    hasher = hashlib.sha256()
    with (path / name).open("rb") as file:
        while piece := file.read(_PIECE):
            hasher.update(piece)
    return hasher.hexdigest()


def add_needs(path: Path, added: Needs) -> None:
    """Add *added* to what the OCI layout in *path* needs.

    Raises as `add_to_index` does.
    """
    if not added:
        return
    with claim(path / LOCK, timeout=LOCK_TIMEOUT):
        before = _read_needs(path)
        if not added.items() <= before.items():
            _replace(path / NEEDS_JSON, to_bytes({**before, **added}))


def _read_needs(path: Path) -> Needs:
    try:
        with (path / NEEDS_JSON).open("rb") as file:
            return parse_needs(file.read(JSON_LIMIT + 1))
    except FileNotFoundError:
        return {}
    except (InvalidJSON, InvalidDigest) as error:
        raise ArchiveError(f"{path / NEEDS_JSON}: {error}") from error


def _replace(path: Path, content: bytes) -> None:
    replace_file(path, content, mode=default_mode(), durable=False)


@contextlib.contextmanager
def translate_write_errors(output: Path | BinaryIO) -> Iterator[None]:
    """Turn what the system says about *output* into errors for the user.

    UsageError for one that exists, NotFound without its directory, else PusherError;
    a reader who has gone away is nobody's fault.
    """
    name = output if isinstance(output, Path) else "standard output"
    try:
        yield
    except BrokenPipeError:
        raise
    except FileExistsError as error:
        raise UsageError(f"{name} exists, and stays as it is") from error
    except OSError as error:
        raise file_error(f"cannot write {name}", error) from error


def commit(part: Path, path: Path, *, no_clobber: bool) -> None:
    """*part*, which is complete, becomes *path*. Raises OSError."""
    if no_clobber:
        _commit_to_free_name(part, path)
    else:
        part.replace(path)


def _commit_to_free_name(part: Path, path: Path) -> None:
    """Name *part* *path* too, unless that name is taken: FileExistsError then."""
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError:  # exFAT, the file system of sticks and disks, has no hard links
        if path.exists():
            raise FileExistsError(path) from None
        part.replace(path)
