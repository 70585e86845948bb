"""What runs with this state directory know of blobs.

``blobs.json``, what was used least recently first::

    {"version": 2,
     "layers": {"gzip sha256:…": {"mediaType": …, "digest": …, "size": …}},
     "holders": {"sha256:…": ["reg.io/team/app"]}}

``layers`` says what runs with this state directory compressed a layer into: a run
writes only pairs both sides of which it hashed itself. Version 1 also held pairs on the
word of registries, so its layers are dropped. ``holders`` are hints, of any version:
the registry is asked before one counts. What does not have this shape is skipped.
Fields that we do not know are kept.
"""

from __future__ import annotations

import contextlib
from typing import Any, Callable

from ..errors import InvalidDigest, InvalidJSON, InvalidReference
from ..oci import Descriptor, Digest
from ..reference import Reference
from .directory import Record, StateDirectory, put_last, section_of

BLOBS_FILE = "blobs.json"

BLOBS_VERSION = 2
LAYERS_LIMIT = 1000
HOLDERS_LIMIT = 1500
REPOSITORIES_LIMIT = 4
"""Repositories kept for one digest: one is enough to mount from."""


class KnownBlobs:
    """What ``blobs.json`` held when this was made, and what was learned since.

    Not for several threads. `save` adds what was learned to what is in the file by
    then, so that runs at the same time lose nothing of each other's.
    """

    def __init__(self, state: StateDirectory) -> None:
        self._state = state
        self._record = _without_old_layers(state.read(BLOBS_FILE))
        self._learned: list[Callable[[Record], None]] = []
        self._used: set[str] = set()

    def layer(self, diff_id: Digest, compression: str) -> Descriptor | None:
        """The blob that a layer became; *compression* names how, level included."""
        key = f"{compression} {diff_id}"
        with contextlib.suppress(InvalidJSON, InvalidDigest):
            found = Descriptor.from_json(section_of(self._record, "layers").get(key))
            self._used.add(key)
            return found
        return None

    def add_layer(
        self, diff_id: Digest, compression: str, descriptor: Descriptor
    ) -> None:
        """The layer *diff_id* became *descriptor*, by *compression*.

        Only for what this run made: it hashed the content and the blob itself.
        """
        if self.layer(diff_id, compression) != descriptor:
            key, value = f"{compression} {diff_id}", descriptor.to_json()
            self._learn(
                lambda record: put_last(
                    section_of(record, "layers"), key, value, LAYERS_LIMIT
                )
            )

    def forget_layer(self, diff_id: Digest, compression: str) -> None:
        """Drop what `layer` says: it turned out to be wrong, or of no use."""
        key = f"{compression} {diff_id}"
        if key in section_of(self._record, "layers"):
            self._used.discard(key)
            self._learn(lambda record: section_of(record, "layers").pop(key, None))

    def holders(self, digest: Digest, registry: str) -> tuple[Reference, ...]:
        """Repositories of *registry* that held *digest*, the newest first."""
        references = []
        for name in _names(section_of(self._record, "holders").get(digest)):
            host, _, repository = name.partition("/")
            with contextlib.suppress(InvalidReference):
                if host == registry:
                    references.append(Reference(host, repository))
        return tuple(references)

    def add_holder(self, digest: Digest, target: Reference) -> None:
        """The repository of *target* holds *digest*."""
        name = target.name
        if name in _names(section_of(self._record, "holders").get(digest)):
            self._used.add(digest)
        else:
            self._learn(lambda record: _add_holder(record, digest, name))

    def forget_holder(self, digest: Digest, target: Reference) -> None:
        """The repository of *target* does not hold *digest* any more."""
        name = target.name
        if name in _names(section_of(self._record, "holders").get(digest)):
            self._learn(lambda record: _drop_holder(record, digest, name))

    def save(self) -> bool:
        """Write what was learned, if anything was; False when that is impossible."""
        if self._learned and not self._state.update(BLOBS_FILE, self._merged):
            return False
        self._learned.clear()
        return True

    def _learn(self, change: Callable[[Record], None]) -> None:
        change(self._record)
        self._learned.append(change)

    def _merged(self, record: Record) -> Record:
        record = _without_old_layers(record)
        record["version"] = BLOBS_VERSION
        for section in (section_of(record, "layers"), section_of(record, "holders")):
            for key in self._used & section.keys():
                section[key] = section.pop(key)
        for change in self._learned:
            change(record)
        return record


def _without_old_layers(record: Record) -> Record:
    """*record* of ``blobs.json``, without layers that another version wrote."""
    if record.get("version") == BLOBS_VERSION:
        return record
    return {key: value for key, value in record.items() if key != "layers"}


def _names(value: Any) -> list[str]:
    names = value if isinstance(value, list) else []
    return [name for name in names if isinstance(name, str)]


def _add_holder(record: Record, digest: Digest, name: str) -> None:
    holders = section_of(record, "holders")
    others = [known for known in _names(holders.get(digest)) if known != name]
    put_last(holders, digest, [name, *others][:REPOSITORIES_LIMIT], HOLDERS_LIMIT)


def _drop_holder(record: Record, digest: Digest, name: str) -> None:
    holders = section_of(record, "holders")
    others = [known for known in _names(holders.get(digest)) if known != name]
    if others:
        holders[digest] = others
    else:
        holders.pop(digest, None)
