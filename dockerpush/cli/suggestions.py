"""What a shell offers for a word that is being typed: from this machine, no network."""

from __future__ import annotations

import os
from contextlib import suppress
from itertools import chain
from typing import Iterator, Sequence

from ..errors import PusherError
from ..settings.config import Config
from ..state.cache import Cache
from ..state.directory import StateDirectory
from ..state.history import PushHistory, known_tags
from .location import is_here

TARGETS, REGISTRIES, IMAGES, NAMES = "targets", "registries", "images", "names"


def suggestions(kind: str, current: str, line: Sequence[str]) -> list[str]:
    """The words of *kind* that begin with *current*; *line* is all that stands there.

    A repository is offered before its tags: these come after its colon.
    """
    state = StateDirectory.locate(os.environ)
    if kind == NAMES:
        found = _names(line)
    elif kind == REGISTRIES:
        found = iter(_registries(state))
    else:
        found = chain(_repositories(state), _tagged(state, current))
    return sorted({word for word in found if word.startswith(current)})


def _registries(state: StateDirectory) -> list[str]:
    """Where somebody logged in or pushed to, and what config.json knows."""
    history = PushHistory(state)
    found = [login.registry for login in history.logins()]
    found += [name.partition("/")[0] for name in _repositories(state)]
    with suppress(PusherError):  # a broken file is for other commands to tell of
        found += Config.find(None, state.path).registries
    return found


def _repositories(state: StateDirectory) -> Iterator[str]:
    """Those that were pushed to, pulled from or listed."""
    for destination in PushHistory(state).destinations():
        yield destination.target.name
    yield from known_tags(state)
    for reference in _cached(state):
        yield reference.partition("@")[0].rpartition(":")[0]


def _tagged(state: StateDirectory, current: str) -> Iterator[str]:
    """References with a tag, once *current* has the repository and a colon."""
    name, colon, tag = current.rpartition(":")
    if not colon or "/" in tag or "/" not in name:
        return
    yield from (f"{name}:{one}" for one in known_tags(state).get(name, ()))
    for destination in PushHistory(state).destinations():
        yield str(destination.target)
    yield from _cached(state)


def _cached(state: StateDirectory) -> list[str]:
    images = Cache(state.path / "cache").images()
    return [image.reference for image in images if "@" not in image.reference]


def _names(line: Sequence[str]) -> Iterator[str]:
    """What ``--name`` can be: the names in the archive that stands on the *line*."""
    from ..archive import open_archive
    from ..archive.sniff import is_forward

    for word in line:
        if not word or not is_here(word) or is_forward(word):
            continue
        with suppress(PusherError), open_archive(word) as archive:
            for image in archive.images:
                yield from (*image.names, *image.tags)
