"""The tag that lists the referrers of a manifest where a registry lists none itself."""

from __future__ import annotations

from typing import Callable

from ..errors import InvalidJSON, NotFoundInRegistry
from ..events import Notice, OnEvent
from ..oci import INDEX_TYPES, Descriptor, Digest
from .pages import parse_referrers, referrers_tag

Read = Callable[[str, str], tuple[Descriptor, bytes]]
"""Gives the manifest that a repository has under a reference."""


def tagged_or_none(
    read: Read, repository: str, digest: Digest, on_event: OnEvent
) -> list[Descriptor]:
    """What the tag lists; nothing, with a warning, when it lists something else."""
    try:
        raw = tagged_referrers(read, repository, digest)
        return parse_referrers(raw).found if raw else []
    except InvalidJSON as error:
        on_event(Notice(f"{error}: ignored", warning=True))
        return []


def tagged_referrers(read: Read, repository: str, digest: Digest) -> bytes | None:
    """The index under `referrers_tag` of *digest*, None when there is none.

    Raises InvalidJSON when something else has that tag.
    """
    tag = referrers_tag(digest)
    try:
        found, raw = read(repository, tag)
    except NotFoundInRegistry:
        return None
    if digest.fits(raw):
        return None  # a registry that takes the tag for the digest
    if found.media_type not in INDEX_TYPES:
        raise InvalidJSON(f"{repository}:{tag} is not a list of referrers")
    return raw
