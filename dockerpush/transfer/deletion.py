"""Deleting tags and manifests of a repository, and nothing that others still show.

The specification (distribution-spec, Deleting tags) lets a registry delete a tag alone,
or refuse. Refused by docker-registry 2.8 (400 DIGEST_INVALID), Harbor (UNSUPPORTED),
ghcr.io, Docker Hub (405) and older ECR (404); done by distribution 3, Quay, Zot, GitLab
and Google's. Where it is refused, deleting the digest takes every tag with it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Collection, Mapping, NamedTuple

from ..documents import Walk, held, visit
from ..errors import ContentMismatch, PusherError, RegistryError, some_of
from ..oci import INDEX_TYPES, Descriptor, Digest
from ..registry.pages import referrers_tag
from ..system.cancellation import Cancellation
from ..system.workers import Workers
from .source import RegistrySource

if TYPE_CHECKING:
    from ..registry.client import RegistryClient

_NOT_SUPPORTED = (400, 404, 405, 501)
_SHOWN = 5


class StillUsed(PusherError):
    """What was to be deleted is needed for something that stays."""


class Uses(NamedTuple):
    """What a digest is needed for: *tags* that show it, tags of *indexes* that list it.

    *referrers* are tags of signatures and such, which stay without what they sign.
    """

    tags: tuple[str, ...] = ()
    indexes: tuple[str, ...] = ()
    referrers: tuple[str, ...] = ()

    @property
    def is_used(self) -> bool:
        """True when somebody would miss it."""
        return bool(self.tags or self.indexes)

    def __str__(self) -> str:
        words = [f"{'image' if ':' in tag else 'tag'} {tag}" for tag in self.tags]
        words += [f"the index {tag}" for tag in self.indexes]
        return some_of(words, _SHOWN)


class Survey(NamedTuple):
    """What the tags of a repository show: a digest each, and *members* of indexes."""

    digests: Mapping[str, Digest]
    members: Mapping[Digest, Collection[Digest]]

    def uses(self, digest: Digest, without: Collection[str] = ()) -> Uses:
        """What *digest* is needed for, when the tags *without* are gone."""
        kept = {t: d for t, d in sorted(self.digests.items()) if t not in without}
        start = referrers_tag(digest)
        return Uses(
            tuple(tag for tag, one in kept.items() if one == digest),
            tuple(t for t, one in kept.items() if digest in self.members.get(one, ())),
            tuple(tag for tag in kept if tag.startswith(start)),
        )


class Deleted(NamedTuple):
    """What was done: *is_alone* when the tag went, and the manifest stayed.

    *uses* is what else went, or lost a part, with the manifest.
    """

    is_alone: bool
    uses: Uses = Uses()


def space_note(*, is_alone: bool) -> str:
    """What frees the space; *is_alone*: manifests are left that no tag shows."""
    option = " --delete-untagged" if is_alone else ""
    return (
        "note: the space is free after the registry's garbage collection, as by "
        f"docker-registry's garbage-collect{option} CONFIG"
    )


def survey(
    client: RegistryClient,
    repository: str,
    cancellation: Cancellation,
    *,
    jobs: int,
    also: Collection[Digest] = (),
) -> Survey:
    """Look at what every tag shows, *jobs* at a time. Raises what clients do.

    What neither a tag nor *also* names is not seen: the specification has no list of
    manifests. An image of *also* is in the survey under its digest.
    """
    tags = [*held(client.tags(repository)), *map(str, also)]
    look = partial(client.manifest_descriptor, repository)
    with cancellation.child() as child, Workers(child, jobs, name="look") as workers:
        found = workers.wait([workers.submit(look, tag) for tag in tags])
        shown = {tag: one for tag, one in zip(tags, found) if one is not None}
        indexes = {
            one.digest: one for one in shown.values() if one.media_type in INDEX_TYPES
        }
        read = partial(_members, client, repository)
        members = workers.wait([workers.submit(read, one) for one in indexes.values()])
    digests = {tag: one.digest for tag, one in shown.items()}
    return Survey(digests, dict(zip(indexes, members)))


def _members(
    client: RegistryClient, repository: str, index: Descriptor
) -> frozenset[Digest]:
    """Every document below *index*. Raises what `Walk` does."""
    source = RegistrySource(client, repository)
    walk = Walk(f"{client.registry}/{repository}@{index.digest}")
    below = visit(source.child(index), source.child, walk)
    return frozenset(one.node.digest for one in below) - {index.digest}


class Deleter:
    """Deletes in one repository; the tags *doomed* will all go.

    With *whole* a manifest goes whatever else shows it.
    """

    def __init__(
        self,
        client: RegistryClient,
        repository: str,
        doomed: Collection[str],
        cancellation: Cancellation,
        *,
        jobs: int,
        whole: bool,
        seen: Survey | None = None,
    ) -> None:
        """*seen* is what the repository shows, if that is known already."""
        self.name = f"{client.registry}/{repository}"
        self._client = client
        self._repository = repository
        self._doomed = doomed
        self._cancellation = cancellation
        self._jobs = jobs
        self._whole = whole
        self._survey = seen
        self._gone: set[Digest] = set()
        self._tags_alone = not whole

    @property
    def seen(self) -> Survey:
        """What the repository shows, looked at once."""
        if self._survey is None:
            self._survey = survey(
                self._client, self._repository, self._cancellation, jobs=self._jobs
            )
        return self._survey

    def uses(self, digest: Digest) -> Uses:
        """What *digest* is needed for beside the doomed tags."""
        return self.seen.uses(digest, self._doomed)

    def delete(self, tag: str | None, digest: Digest) -> Deleted:
        """Delete *tag*, which shows *digest*, or the manifest itself without one.

        Raises StillUsed when others need what would go, ContentMismatch when the tag
        shows something else by now, and what clients do.
        """
        if digest in self._gone:
            return Deleted(is_alone=False)
        if tag is not None and self._tags_alone and self._delete_tag(tag):
            return Deleted(is_alone=self._is_there(str(digest)))
        self._check_shows(tag, digest)
        uses = self.uses(digest)
        if uses.is_used and not self._whole:
            raise self._refusal(tag, digest, uses)
        self._delete_manifest(digest)
        self._gone.add(digest)
        if tag is not None:
            self._check_gone(tag)
        return Deleted(is_alone=False, uses=uses)

    def _delete_tag(self, tag: str) -> bool:
        """True when the registry has deleted *tag*; False when it never does."""
        try:
            self._client.delete_manifest(self._repository, tag)
        except RegistryError as error:
            if error.status not in _NOT_SUPPORTED:
                raise
            if error.status != 404 or self._is_there(tag):
                self._tags_alone = False
                return False  # else an earlier attempt did it, whose answer was lost
        self._check_gone(tag)
        return True

    def _delete_manifest(self, digest: Digest) -> None:
        try:
            self._client.delete_manifest(self._repository, str(digest))
        except RegistryError as error:
            if error.status == 404 and not self._is_there(str(digest)):
                return
            if error.status not in (405, 501):
                raise
            raise error.in_words(
                f"{self.name}: the registry deletes nothing (status {error.status}); "
                "its operator may switch it on, as by REGISTRY_STORAGE_DELETE_ENABLED="
                "true of docker-registry, or use its own web page or command"
            ) from error

    def _check_shows(self, tag: str | None, digest: Digest) -> None:
        now = self.seen.digests.get(tag) if tag is not None else digest
        if now != digest:
            raise ContentMismatch(
                f"{self.name}:{tag} shows {now or 'nothing'} by now, not {digest}; "
                "nothing was deleted, look again"
            )

    def _is_there(self, named: str) -> bool:
        found = self._client.manifest_descriptor(self._repository, named)
        return found is not None

    def _check_gone(self, tag: str) -> None:
        if self._is_there(tag):
            raise PusherError(
                f"{self.name}:{tag}: the registry confirmed the delete, and still "
                "lists the tag; look again later"
            )

    def _refusal(self, tag: str | None, digest: Digest, uses: Uses) -> StillUsed:
        what = f"{self.name}:{tag}" if tag else f"{self.name}@{digest}"
        why = "the registry deletes no tag alone, and " if tag else ""
        return StillUsed(
            f"{what} was not deleted: {why}{digest.short} is also {uses}; --digest "
            "deletes it for all of them"
        )
