"""The state directory: small JSON files that any number of runs share.

Every file but ``credentials.json`` is a cache or a convenience: losing it costs time,
never correctness. So `read` and `update` never fail; they say what is wrong once, as a
Notice, and the work continues without.

A file is replaced in one step (temp file, rename) by whoever holds the lock beside it,
so readers need no lock. Directories that we make are 0700, files 0600.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping

from ..errors import InvalidJSON, StateError, reason_of
from ..events import Notice, OnEvent, ignore
from ..oci import JSON_LIMIT, parse_json, require
from ..system import files

Record = dict[str, Any]
Change = Callable[[Record], Record]

LOCK_TIMEOUT = 10.0
"""Seconds to wait for another run to finish with a file; it needs milliseconds."""

NOWHERE = Path("/nonexistent")
"""Where the state of somebody without a home would be (Debian's home for nobody)."""


class StateDirectory:
    """The files below *path*, by name. The directory is made when it is written to."""

    def __init__(
        self,
        path: Path,
        on_event: OnEvent = ignore,
        *,
        lock_timeout: float = LOCK_TIMEOUT,
    ) -> None:
        self.path = path
        self._on_event = on_event
        self._lock_timeout = lock_timeout
        self._noticed: set[str] = set()

    @classmethod
    def locate(
        cls, environ: Mapping[str, str], on_event: OnEvent = ignore
    ) -> StateDirectory:
        """``$DOCKERPUSH_STATE_DIR``, else ``.dockerpush`` in the user's home."""
        chosen = environ.get("DOCKERPUSH_STATE_DIR")
        if chosen:
            return cls(Path(chosen).absolute(), on_event)
        home = files.home_directory(environ) or NOWHERE
        return cls(home / ".dockerpush", on_event)

    def read(self, name: str) -> Record:
        """What the file holds; {} when it is absent or cannot be used.

        A file that is not a JSON object is renamed to ``NAME.broken``.
        """
        try:
            return self._load(name)
        except InvalidJSON:
            return self._recovered(name)
        except OSError as error:
            self._notice(f"{self.path / name}: {_reason(error)}; continuing without it")
            return {}

    def update(self, name: str, change: Change) -> bool:
        """Replace the file's content by what *change* makes of it, if possible.

        Two updates never overlap. False when the file cannot be written; a Notice says
        so then.
        """
        try:
            with self._locked(name):
                self._replace(name, change, self._load_or_set_aside(name))
        except (OSError, StateError) as error:
            self._notice(
                f"{self.path / name}: cannot be written: {_reason(error)}; "
                "continuing without it"
            )
            return False
        return True

    def _load(self, name: str) -> Record:
        path = self.path / name
        try:
            with files.open_trusted(path) as file:
                raw = file.read(JSON_LIMIT + 1)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        record: Record = require(parse_json(raw, str(path)), dict, str(path))
        return record

    def _recovered(self, name: str) -> Record:
        """What a broken file holds once its turn has come: somebody may mend it."""
        try:
            with self._locked(name):
                return self._load_or_set_aside(name)
        except (OSError, StateError) as error:
            self._notice(
                f"{self.path / name}: not a JSON object, and cannot be renamed: "
                f"{_reason(error)}; continuing without it"
            )
            return {}

    def _load_or_set_aside(self, name: str) -> Record:
        """With the lock held. Raises OSError."""
        try:
            return self._load(name)
        except InvalidJSON as error:
            aside = self.path / f"{name}.broken"
            (self.path / name).replace(aside)
            self._notice(f"{error}; renamed to {aside.name}, starting with a new one")
            return {}

    def _replace(self, name: str, change: Change, record: Record) -> None:
        """With the lock held, so that no other run uses the same temp file."""
        before = _dump(record)
        after = _dump(change(record))
        if after != before:
            files.replace_file(self.path / name, after)

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """Raises OSError, or StateError when another run keeps the lock too long."""
        files.make_directories(self.path)
        lock = self.path / f".{name}.lock"
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(files.locked(lock, timeout=self._lock_timeout))
            except StateError:  # whoever holds this one may well hold others
                self._lock_timeout = 0.0
                raise
            yield

    def _notice(self, text: str) -> None:
        if text not in self._noticed:
            self._noticed.add(text)
            self._on_event(Notice(text, warning=True))


def _dump(record: Record) -> bytes:
    """A line for each entry. With an indent it would be made by Python, not in C."""
    return json.dumps(record, separators=(",\n", ": ")).encode() + b"\n"


def _reason(error: OSError | StateError) -> str:
    return reason_of(error) if isinstance(error, OSError) else str(error)


def section_of(record: Record, key: str) -> dict[str, Any]:
    """The object under *key*, put there when the file has something else."""
    if not isinstance(record.get(key), dict):
        record[key] = {}
    section: dict[str, Any] = record[key]
    return section


def put_last(section: dict[str, Any], key: str, value: Any, limit: int) -> None:
    """Add *key* as the one used most recently; the eldest beyond *limit* go."""
    section.pop(key, None)
    section[key] = value
    while len(section) > limit:
        del section[next(iter(section))]
