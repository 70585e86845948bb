"""The tags of repositories as they were last listed, so that a shell can offer them.

``tags.json``: ``{"version": 1, "repositories": {"reg.io/app": ["1", "2"]}}``, the
repository listed last at the end. What does not have this shape is skipped.
"""

from __future__ import annotations

from typing import Iterable

from .directory import Record, StateDirectory, put_last, section_of

TAGS_FILE = "tags.json"
MOST_REPOSITORIES = 50
MOST_TAGS = 1000


def remember_tags(state: StateDirectory, repository: str, tags: Iterable[str]) -> None:
    """Note the first *tags* of *repository*, ``registry/path``, in place of others."""
    kept = list(tags)[:MOST_TAGS]

    def change(record: Record) -> Record:
        record["version"] = 1
        known = section_of(record, "repositories")
        put_last(known, repository, kept, MOST_REPOSITORIES)
        return record

    StateDirectory(state.path).update(TAGS_FILE, change)  # silently: it only helps


def known_tags(state: StateDirectory) -> dict[str, list[str]]:
    """Repository → its tags."""
    found = section_of(state.read(TAGS_FILE), "repositories").items()
    return {
        name: [tag for tag in tags if isinstance(tag, str)]
        for name, tags in found
        if isinstance(tags, list)
    }
