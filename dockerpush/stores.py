"""What the state files mean: where we pushed or logged in, and which blobs are known.

``push_history.json``, newest first, times in seconds since 1970::

    {"version": 1,
     "destinations": [{"target": "reg.io/team/app:1", "time": 1700000000}],
     "confirmed": {"reg.io/team/app": 1700000000},
     "logins": {"reg.io": {"time": 1700000000, "username": "alice"}}}

``blobs.json``, what was used least recently first::

    {"version": 2,
     "layers": {"gzip sha256:…": {"mediaType": …, "digest": …, "size": …}},
     "holders": {"sha256:…": ["reg.io/team/app"]}}

``layers`` says what runs with this state directory compressed a layer into: a run
writes only pairs both sides of which it hashed itself. Version 1 also held pairs by the
word of registries, so its layers are dropped. ``holders`` are hints, of any version:
the registry is asked before one counts. What does not have this shape is passed over.
Fields that we do not know are kept.
"""

from __future__ import annotations

import contextlib
from typing import Any, Callable

from .errors import InvalidDigest, InvalidJSON, InvalidReference
from .oci import Descriptor, Digest
from .reference import Reference
from .state import Record, StateDirectory
from .values import value

HISTORY_FILE = "push_history.json"
BLOBS_FILE = "blobs.json"

BLOBS_VERSION = 2

DESTINATIONS_LIMIT = 5
CONFIRMED_LIMIT = 1000
LOGINS_LIMIT = 100
LAYERS_LIMIT = 1000
HOLDERS_LIMIT = 1500
REPOSITORIES_LIMIT = 4
"""Repositories kept for one digest: one is enough to mount from."""


@value
class Destination:
    """Where a push ended, and when, in seconds since 1970."""

    target: Reference
    time: float


@value
class Login:
    """A login that was accepted; *time* is in seconds since 1970."""

    registry: str
    time: float
    username: str = ""


class PushHistory:
    """The most recent destinations, confirmed repositories, and logins."""

    def __init__(self, state: StateDirectory) -> None:
        self._state = state

    def destinations(self) -> tuple[Destination, ...]:
        """Up to five, the newest first, one for each repository."""
        found = _destinations(self._state.read(HISTORY_FILE))
        return tuple(found[:DESTINATIONS_LIMIT])

    def is_confirmed(self, target: Reference) -> bool:
        """True when somebody agreed to push to the repository of *target* before."""
        return target.name in _section(self._state.read(HISTORY_FILE), "confirmed")

    def record(self, target: Reference, now: float) -> bool:
        """Note a push to *target*, which somebody asked for or agreed to.

        *now* is in seconds since 1970. False when it could not be written.
        """

        def change(record: Record) -> Record:
            others = [
                destination
                for destination in _destinations(record)
                if destination.target.name != target.name
            ]
            newest = [Destination(target.with_digest(None), now), *others]
            record["version"] = 1
            record["destinations"] = [
                {"target": str(destination.target), "time": destination.time}
                for destination in newest[:DESTINATIONS_LIMIT]
            ]
            confirmed = _section(record, "confirmed")
            _put_last(confirmed, target.name, now, CONFIRMED_LIMIT)
            return record

        return self._state.update(HISTORY_FILE, change)

    def confirm(self, target: Reference, now: float) -> bool:
        """Note that pushes to the repository of *target* are agreed to, no more.

        *now* is in seconds since 1970. False when it could not be written.
        """

        def change(record: Record) -> Record:
            record["version"] = 1
            confirmed = _section(record, "confirmed")
            _put_last(confirmed, target.name, now, CONFIRMED_LIMIT)
            return record

        return self._state.update(HISTORY_FILE, change)

    def logins(self) -> tuple[Login, ...]:
        """The logins that still hold, in no particular order."""
        entries = _section(self._state.read(HISTORY_FILE), "logins").items()
        found = (_login(registry, entry) for registry, entry in entries)
        return tuple(login for login in found if login)

    def record_login(self, login: Login) -> bool:
        """Note *login* in place of an earlier one; False when it cannot be written."""

        def change(record: Record) -> Record:
            entry = {"time": login.time, "username": login.username}
            record["version"] = 1
            logins = _section(record, "logins")
            _put_last(logins, login.registry, entry, LOGINS_LIMIT)
            return record

        return self._state.update(HISTORY_FILE, change)

    def forget_login(self, registry: str) -> bool:
        """Drop the login at *registry*; False when the file cannot be written."""

        def change(record: Record) -> Record:
            _drop(_section(record, "logins"), registry)
            return record

        if registry not in _section(self._state.read(HISTORY_FILE), "logins"):
            return True
        return self._state.update(HISTORY_FILE, change)


def _login(registry: str, entry: Any) -> Login | None:
    with contextlib.suppress(KeyError, TypeError, ValueError):
        return Login(registry, float(entry["time"]), str(entry.get("username", "")))
    return None


def _destinations(record: Record) -> list[Destination]:
    entries = record.get("destinations")
    found = map(_destination, entries if isinstance(entries, list) else [])
    return [destination for destination in found if destination]


def _destination(entry: Any) -> Destination | None:
    with contextlib.suppress(InvalidReference, KeyError, TypeError, ValueError):
        return Destination(Reference.parse(entry["target"]), float(entry["time"]))
    return None


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
            found = Descriptor.from_json(_section(self._record, "layers").get(key))
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
                lambda record: _put_last(
                    _section(record, "layers"), key, value, LAYERS_LIMIT
                )
            )

    def forget_layer(self, diff_id: Digest, compression: str) -> None:
        """Drop what `layer` says: it turned out to be wrong, or of no use."""
        key = f"{compression} {diff_id}"
        if key in _section(self._record, "layers"):
            self._used.discard(key)
            self._learn(lambda record: _drop(_section(record, "layers"), key))

    def holders(self, digest: Digest, registry: str) -> tuple[Reference, ...]:
        """Repositories of *registry* that held *digest*, the newest first."""
        references = []
        for name in _names(_section(self._record, "holders").get(digest)):
            host, _, repository = name.partition("/")
            with contextlib.suppress(InvalidReference):
                if host == registry:
                    references.append(Reference(host, repository))
        return tuple(references)

    def add_holder(self, digest: Digest, target: Reference) -> None:
        """The repository of *target* holds *digest*."""
        name = target.name
        if name in _names(_section(self._record, "holders").get(digest)):
            self._used.add(digest)
        else:
            self._learn(lambda record: _add_holder(record, digest, name))

    def forget_holder(self, digest: Digest, target: Reference) -> None:
        """The repository of *target* does not hold *digest* any more."""
        name = target.name
        if name in _names(_section(self._record, "holders").get(digest)):
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
        for section in (_section(record, "layers"), _section(record, "holders")):
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


def _section(record: Record, key: str) -> dict[str, Any]:
    """The object under *key*, put there when the file has something else."""
    if not isinstance(record.get(key), dict):
        record[key] = {}
    section: dict[str, Any] = record[key]
    return section


def _put_last(section: dict[str, Any], key: str, value: Any, limit: int) -> None:
    """Add *key* as the one used most recently; the eldest beyond *limit* go."""
    section.pop(key, None)
    section[key] = value
    while len(section) > limit:
        del section[next(iter(section))]


def _drop(section: dict[str, Any], key: str) -> None:
    section.pop(key, None)


def _names(value: Any) -> list[str]:
    names = value if isinstance(value, list) else []
    return [name for name in names if isinstance(name, str)]


def _add_holder(record: Record, digest: Digest, name: str) -> None:
    holders = _section(record, "holders")
    others = [known for known in _names(holders.get(digest)) if known != name]
    _put_last(holders, digest, [name, *others][:REPOSITORIES_LIMIT], HOLDERS_LIMIT)


def _drop_holder(record: Record, digest: Digest, name: str) -> None:
    holders = _section(record, "holders")
    others = [known for known in _names(holders.get(digest)) if known != name]
    if others:
        holders[digest] = others
    else:
        _drop(holders, digest)
