"""The JSON object that a state file holds, and sections of it, changed."""

from __future__ import annotations

from typing import Any

from .directory import Record


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


def drop(section: dict[str, Any], key: str) -> None:
    """Remove *key*, if it is there."""
    section.pop(key, None)
