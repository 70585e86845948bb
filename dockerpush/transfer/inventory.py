"""What a place holds: its repositories, their tags, manifests and blobs.

An inventory is written and read a part at a time, each a line of one JSON document, so
that its size does not matter. It is a hint: whoever leaves something out by its word
says so, and whoever gets the rest looks for what was left out.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    BinaryIO,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    NamedTuple,
    Sequence,
)

from ..archive.needs import VERSION, Need, check_kind
from ..documents import Walk, children_of, is_document
from ..errors import (
    ArchiveError,
    InvalidDigest,
    InvalidJSON,
    InvalidReference,
    file_error,
)
from ..oci import (
    JSON_LIMIT,
    Descriptor,
    Digest,
    optional,
    parse_json,
    require,
    required,
)
from ..reference import Reference
from ..strict_json import ANY
from .plan import PlannedBlob

if TYPE_CHECKING:
    from ..archive.opened import OpenLayout
    from ..archive.stored import StoredImage

KIND = "inventory"
MOST_HOLDERS = 4
"""Repositories that are remembered of each blob."""

_PART = 8000  # tags, manifests and blobs that one line tells
_END = b"]}"


class Holding(NamedTuple):
    """What the repository *name* has; the same name may come again with more of it."""

    name: str
    tags: Mapping[str, Digest] = {}
    manifests: Sequence[Digest] = ()
    blobs: Sequence[Digest] = ()


def write_inventory(
    place: str, holdings: Iterable[Holding], write: Callable[[str], object]
) -> None:
    """Give the inventory of *place* to *write*, a line at a time without its end."""
    parts = (part for holding in holdings for part in _parts(holding))
    lines = (_dumped(part._asdict()) for part in parts)
    before = next(lines, None)  # a registry that refuses has nothing written
    head = _dumped({"dockerpush": KIND, "version": VERSION, "place": place})
    write(f'{head[:-1]},"repositories":[')
    for line in lines:
        write(f"{before},")
        before = line
    if before is not None:
        write(before)
    write(_END.decode())


def _dumped(value: object) -> str:
    """One line of ASCII, whatever the terminal speaks."""
    return json.dumps(value, separators=(",", ":"))


def _parts(holding: Holding) -> Iterator[Holding]:
    """*holding* in pieces that can be read one by one."""
    name, tags = holding.name, list(holding.tags.items())
    size = max(1, len(tags), len(holding.manifests), len(holding.blobs))
    for start in range(0, size, _PART):
        part = slice(start, start + _PART)
        yield Holding(
            name, dict(tags[part]), holding.manifests[part], holding.blobs[part]
        )


def read_inventory(path: Path) -> Iterator[Holding]:
    """What the inventory in *path* says.

    Raises InvalidJSON for what is damaged, cut short, something else, or from a newer
    version; NotFound, PusherError when it cannot be read.
    """
    try:
        with path.open("rb") as file:
            yield from _read(file)
    except (InvalidJSON, InvalidDigest) as error:
        raise InvalidJSON(
            f"{path}: not a valid inventory: {error}; write it again by "
            "'dockerpush inventory'"
        ) from error
    except OSError as error:
        raise file_error(str(path), error) from error


def _read(file: BinaryIO) -> Iterator[Holding]:
    first = file.readline(JSON_LIMIT + 1)
    if not first.rstrip().endswith(b"["):
        yield from _read_whole(first + file.read(JSON_LIMIT))
        return
    _check_head(parse_json(first.rstrip() + _END, KIND, ANY))
    while line := file.readline(JSON_LIMIT + 1).strip():
        if line == _END:
            return
        yield _holding(parse_json(line.rstrip(b","), KIND, ANY))
    raise InvalidJSON(f"{KIND}: it ends too early")


def _read_whole(raw: bytes) -> Iterator[Holding]:
    """As another program may have written it again."""
    record = parse_json(raw, KIND, ANY)
    _check_head(record)
    for entry in required(record, "repositories", list, KIND):
        yield _holding(entry)


def _check_head(record: object) -> None:
    check_kind(require(record, dict, KIND), KIND)


def _holding(value: object) -> Holding:
    where = f"{KIND}.repositories"
    record = require(value, dict, where)
    tags = optional(record, "tags", dict, where) or {}
    lists = {
        key: [Digest(require(one, str, where)) for one in listed]
        for key in ("manifests", "blobs")
        for listed in [optional(record, key, list, where) or ()]
    }
    return Holding(
        required(record, "name", str, where),
        {tag: Digest(require(one, str, where)) for tag, one in tags.items()},
        **lists,
    )


def holdings_of(layout: OpenLayout) -> Iterator[Holding]:
    """What the OCI layout holds, and what it needs if it is a delta, by repository.

    A manifest counts only with all that it names.
    """
    found: dict[str, tuple[dict[str, Digest], dict[Digest, None]]] = {}
    for image in layout.images:
        root = image.root.descriptor if image.root else None
        assert root is not None, "index.json names manifests"
        reached = list(_Reach(layout).whole(root))
        for name, tag in _named(image):
            tags, digests = found.setdefault(name, ({}, {}))
            digests.update(dict.fromkeys(reached))
            if tag and root.digest in digests:
                tags[tag] = root.digest
    for name, (tags, digests) in found.items():
        yield Holding(name, tags, (), list(digests))
    for digest, need in layout.needs.items():
        for name in need.repositories or ("",):
            yield Holding(name, {}, (), [digest])


def _named(image: StoredImage) -> Iterator[tuple[str, str | None]]:
    """The repositories and tags that *image* is called by; "" for no full name."""
    for name in image.names:
        with suppress(InvalidReference):
            reference = Reference.parse(name)
            yield reference.name, reference.tag
    if not image.names:
        yield "", None


class _Reach:
    """Walks down from one image of *layout*, each digest once."""

    def __init__(self, layout: OpenLayout) -> None:
        self._layout = layout
        self._walk = Walk(str(layout.path))
        self._seen: dict[Digest, bool] = {}

    def whole(self, root: Descriptor) -> Iterator[Digest]:
        """What is there of *root* and below it, manifests only with all they name."""
        self._is_whole(root, 0)
        return (digest for digest, is_there in self._seen.items() if is_there)

    def _is_whole(self, node: Descriptor, depth: int) -> bool:
        if node.digest not in self._seen:
            self._seen[node.digest] = False  # what names itself is not whole
            self._seen[node.digest] = self._looks(node, depth)
        return self._seen[node.digest]

    def _looks(self, node: Descriptor, depth: int) -> bool:
        layout = self._layout
        if node.digest in layout.needs or not is_document(node):
            return node.digest in layout.needs or layout.has(node)
        self._walk.enters(node, depth)
        try:
            raw = layout.document(node)
            children = children_of(node, raw)
        except (ArchiveError, InvalidJSON, InvalidDigest):
            return False
        self._walk.takes(raw, node.size)
        below = (*children.documents, *children.blobs)
        there = [self._is_whole(one, depth + 1) or bool(one.urls) for one in below]
        return all(there)


class HeldBlobs:
    """Digests that places hold, and repositories that have each of them.

    A digest takes some 25 bytes here: a record of _KEPT bytes of it, which are enough
    for a hint, and the number of its repositories. Records are in bins by how the
    digest begins.
    """

    def __init__(self) -> None:
        self._bins: dict[str, bytearray] = {}
        self._numbers: dict[tuple[str, ...], int] = {}
        self._names: list[tuple[str, ...]] = []

    def __contains__(self, digest: Digest) -> bool:
        return self._found(digest) is not None

    def __len__(self) -> int:
        return sum(map(len, self._bins.values())) // _RECORD

    def holders(self, digest: Digest) -> tuple[str, ...]:
        """Some full names of repositories that have it; none where that is unknown."""
        return self._found(digest) or ()

    def add(self, holding: Holding) -> None:
        """Take note of what *holding* has."""
        for digest in (*holding.manifests, *holding.blobs):
            self.add_holder(digest, (holding.name,) if holding.name else ())

    def add_holder(self, digest: Digest, names: Iterable[str]) -> None:
        """Take note that the repositories *names* have *digest*."""
        text = digest.hex
        key = bytes.fromhex(text[_BIN : _BIN + 2 * _KEPT])
        records = self._bins.setdefault(text[:_BIN], bytearray())
        start = _position(records, key)
        known = () if start is None else self._at(records, start)
        found = tuple(dict.fromkeys((*known, *names)))[:MOST_HOLDERS]
        number = self._numbers.setdefault(found, len(self._names))
        if number == len(self._names):
            self._names.append(found)
        if start is None:
            start = len(records)
        records[start : start + _RECORD] = key + number.to_bytes(_NUMBER, "big")

    def _at(self, records: bytearray, start: int) -> tuple[str, ...]:
        number = records[start + _KEPT : start + _RECORD]
        return self._names[int.from_bytes(number, "big")]

    def _found(self, digest: Digest) -> tuple[str, ...] | None:
        """The repositories that have *digest*; None when nothing does."""
        text = digest.hex
        records = self._bins.get(text[:_BIN], bytearray())
        start = _position(records, bytes.fromhex(text[_BIN : _BIN + 2 * _KEPT]))
        return None if start is None else self._at(records, start)


_BIN = 3
_KEPT = 16
_NUMBER = 4
_RECORD = _KEPT + _NUMBER


def _position(records: bytearray, key: bytes) -> int | None:
    """Where the record of *key* begins; None when there is none."""
    start = records.find(key)
    while start % _RECORD and start > 0:  # it lies across two records
        start = records.find(key, start + 1)
    return None if start < 0 else start


NOTHING_HELD = HeldBlobs()
"""What is had where nothing is to be left out; nobody adds to it."""


class LeftOut:
    """What one target leaves out, since *have* holds it, and so needs."""

    def __init__(self, have: HeldBlobs) -> None:
        self._have = have
        self.needs: dict[Digest, Need] = {}

    def takes(self, blob: Descriptor) -> bool:
        """True when *blob*, or a manifest with all below it, is left out."""
        if blob.digest not in self._have:
            return False
        held = self._have.holders(blob.digest)
        bare = Descriptor(blob.media_type, blob.digest, blob.size)
        self.needs[blob.digest] = Need(bare, held)
        return True

    def without(self, blobs: Sequence[PlannedBlob]) -> list[PlannedBlob]:
        """Those of *blobs* that are not left out."""
        return [
            blob
            for blob in blobs
            if not (blob.descriptor and self.takes(blob.descriptor))
        ]
