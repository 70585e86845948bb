"""Where somebody pushed to, logged in, and listed tags.

``push_history.json``, newest first, times in seconds since 1970::

    {"version": 1,
     "destinations": [{"target": "reg.io/team/app:1", "time": 1700000000}],
     "confirmed": {"reg.io/team/app": 1700000000},
     "logins": {"reg.io": {"time": 1700000000, "username": "alice"}}}

``tags.json``, for what a shell offers, the repository that was listed last at the end::

    {"version": 1, "repositories": {"reg.io/app": ["1", "2"]}}

What does not have this shape is skipped. Fields that we do not know are kept.
"""

from __future__ import annotations

import contextlib
from typing import Any, Iterable

from ..errors import InvalidReference
from ..reference import Reference
from ..values import value
from .directory import Record, StateDirectory, put_last, section_of

HISTORY_FILE = "push_history.json"
TAGS_FILE = "tags.json"

DESTINATIONS_LIMIT = 5
MOST_TAGS = 1000
LIMITS = {"confirmed": 1000, "logins": 100, "repositories": 50}
"""Section of a file → how many entries it keeps."""


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
        return target.name in section_of(self._state.read(HISTORY_FILE), "confirmed")

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
            _put(record, "confirmed", target.name, now)
            record["destinations"] = [
                {"target": str(destination.target), "time": destination.time}
                for destination in newest[:DESTINATIONS_LIMIT]
            ]
            return record

        return self._state.update(HISTORY_FILE, change)

    def confirm(self, target: Reference, now: float) -> bool:
        """Note that pushes to the repository of *target* are agreed to, no more.

        *now* is in seconds since 1970. False when it could not be written.
        """

        return self._state.update(
            HISTORY_FILE, lambda record: _put(record, "confirmed", target.name, now)
        )

    def logins(self) -> tuple[Login, ...]:
        """The logins that still hold, in no particular order."""
        entries = section_of(self._state.read(HISTORY_FILE), "logins").items()
        found = (_login(registry, entry) for registry, entry in entries)
        return tuple(login for login in found if login)

    def record_login(self, login: Login) -> bool:
        """Note *login* in place of an earlier one; False when it cannot be written."""
        entry = {"time": login.time, "username": login.username}
        return self._state.update(
            HISTORY_FILE, lambda record: _put(record, "logins", login.registry, entry)
        )

    def forget_login(self, registry: str) -> bool:
        """Drop the login at *registry*; False when the file cannot be written."""

        def change(record: Record) -> Record:
            section_of(record, "logins").pop(registry, None)
            return record

        if registry not in section_of(self._state.read(HISTORY_FILE), "logins"):
            return True
        return self._state.update(HISTORY_FILE, change)


def _put(record: Record, section: str, key: str, value: Any) -> Record:
    """*record* with *value* as the newest of a *section*."""
    record["version"] = 1
    put_last(section_of(record, section), key, value, LIMITS[section])
    return record


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


def remember_tags(state: StateDirectory, repository: str, tags: Iterable[str]) -> None:
    """Note the first *tags* of *repository*, ``registry/path``, in place of others."""
    kept = list(tags)[:MOST_TAGS]
    silent = StateDirectory(state.path)  # it only helps
    silent.update(
        TAGS_FILE, lambda record: _put(record, "repositories", repository, kept)
    )


def known_tags(state: StateDirectory) -> dict[str, list[str]]:
    """Repository → its tags."""
    found = section_of(state.read(TAGS_FILE), "repositories").items()
    return {
        name: [tag for tag in tags if isinstance(tag, str)]
        for name, tags in found
        if isinstance(tags, list)
    }
