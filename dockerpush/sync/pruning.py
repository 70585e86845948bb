"""What a list no longer yields at its target, and its removal: ``sync --prune``.

Only repositories that the list writes to are looked at, and only names in them. What
refers to an image (a referrer, cosign's ``sha256-….sig``, the list of referrers under
``sha256-…``) stays as long as that image does. Where anything that decides is unknown,
nothing is removed.
"""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Collection, Iterable, Iterator, Mapping, NamedTuple, Sequence

from ..archive.writers import name_of, read_index, take_from_index
from ..documents import held, is_document
from ..errors import (
    Cancelled,
    ContentMismatch,
    InvalidDigest,
    InvalidJSON,
    InvalidReference,
    PusherError,
)
from ..expressions import expression
from ..oci import Descriptor, Digest, parse_json
from ..reference import Reference
from ..registry.client import RegistryClient
from ..registry.pages import referrers_tag
from ..state.blobs import BlobDirectory
from ..strict_json import DOCUMENT
from ..system.cancellation import Cancellation
from ..system.workers import Workers
from ..transfer.deletion import Deleter, StillUsed, Survey, Uses, survey
from ..values import replace, value
from .planner import SyncItem

_SPEAKS_OF_IMAGE = expression(r"(sha(?:256|512)-[0-9a-f]{32,128})(?:\..*)?")


class PruneAction(enum.Enum):
    """What is to be done with a name at the target, or has been."""

    PRUNE = "prune"
    KEEP = "keep"
    FAILED = "failed"


@value
class PruneItem:
    """A name at the target that the list does not yield, and what became of it.

    *name* is a reference in full, or the digest of what has no name in a directory.
    *is_alone* is true when the name went, and what it showed stayed. A repository that
    could not be looked at has no *digest*.
    """

    name: str
    digest: Digest | None
    action: PruneAction = PruneAction.PRUNE
    why: str = ""
    is_alone: bool = False

    @property
    def short(self) -> str:
        """The beginning of the digest."""
        return self.digest.short if self.digest else ""


class Kept(NamedTuple):
    """What the list yields in one repository: *tags*, and images by their *digests*."""

    tags: set[str]
    digests: set[Digest]


class Shown(NamedTuple):
    """What a name shows: a digest, and the *members* of an index below it.

    *subject* is the image that it refers to: a digest, or the beginning of a tag as
    `referrers_tag` makes it; "" for none.
    """

    digest: Digest
    members: Collection[Digest] = ()
    subject: str = ""

    @property
    def digests(self) -> set[Digest]:
        """Everything that it shows."""
        return {self.digest, *self.members}


def yielded(items: Iterable[SyncItem]) -> dict[str, Kept]:
    """What the list yields by repository, also what could not be copied."""
    found: dict[str, Kept] = {}
    for item in items:
        kept = found.setdefault(item.target.name, Kept(set(), set()))
        kept.tags.update([item.target.tag] if item.target.tag else [])
        if item.target.digest:
            digests = (item.target.digest, item.digest)
            kept.digests.update(digest for digest in digests if digest)
    return found


def unlisted(items: Iterable[SyncItem]) -> SyncItem | None:
    """The first repository of which nobody knows what the list yields.

    Its tags could not be listed, or its rules choose none of them.
    """
    unknown = (one for one in items if not (one.target.tag or one.target.digest))
    return next(unknown, None)


def doomed_names(
    shown: Mapping[str, Shown], candidates: Collection[str], digests: Collection[Digest]
) -> list[str]:
    """The *candidates* that go; *shown* has all names, *digests* stay anyway.

    A name that refers to an image goes with it, and comes after it.
    """
    doomed = sorted(name for name in candidates if not shown[name].subject)
    waiting = sorted(set(candidates).difference(doomed))
    while True:
        gone = _keys(_gone(shown, doomed, digests))
        more = [name for name in waiting if shown[name].subject in gone]
        if not more:
            return doomed
        doomed += more
        waiting = [name for name in waiting if name not in more]


def _gone(
    shown: Mapping[str, Shown], doomed: Collection[str], digests: Collection[Digest]
) -> set[Digest]:
    """What only the names *doomed* show."""
    going = set(doomed)
    gone: set[Digest] = set().union(*(shown[name].digests for name in going))
    staying = (one.digests for name, one in shown.items() if name not in going)
    return gone.difference(digests, *staying)


def _keys(digests: Iterable[Digest]) -> set[str]:
    """How those that refer to *digests* may name them."""
    return {key for one in digests for key in (str(one), referrers_tag(one))}


def subject_in(raw: bytes) -> str:
    """The digest of the subject in the manifest *raw*, "" for none."""
    try:
        record = parse_json(raw, "manifest", DOCUMENT)
        return str(record["subject"]["digest"])
    except (InvalidJSON, TypeError, KeyError):
        return ""


def tag_subject(tag: str) -> str:
    """The beginning of *tag* when that says which image it refers to, else ""."""
    match = _SPEAKS_OF_IMAGE.fullmatch(tag)
    return match[1] if match else ""


class RegistryPruner:
    """Prunes one repository of a registry."""

    def __init__(
        self,
        client: RegistryClient,
        place: Reference,
        kept: Kept,
        cancellation: Cancellation,
        *,
        jobs: int,
    ) -> None:
        """*place* is the repository."""
        self._client = client
        self._place = place
        self._repository = place.repository
        self._kept = kept
        self._cancellation = cancellation
        self._jobs = jobs
        self._deleter: Deleter | None = None
        self._shown: Mapping[str, Shown] = {}
        self._stays: set[str] = set()
        self._is_stopped = False

    def plan(self) -> list[PruneItem]:
        """What would go, images first. Raises what clients do, ContentMismatch."""
        listed = set(held(self._client.tags(self._repository)))
        candidates = listed - self._kept.tags
        if not candidates:
            return []
        seen = survey(
            self._client,
            self._repository,
            self._cancellation,
            jobs=self._jobs,
            also=self._kept.digests,
        )
        self._check_known(listed, seen)
        self._shown = self._look(seen)
        candidates &= set(seen.digests)
        doomed = doomed_names(self._shown, candidates, self._kept.digests)
        self._deleter = Deleter(
            self._client,
            self._repository,
            doomed,
            self._cancellation,
            jobs=self._jobs,
            whole=False,
            seen=seen,
        )
        return [PruneItem(f"{self._place}:{tag}", seen.digests[tag]) for tag in doomed]

    def _check_known(self, listed: Collection[str], seen: Survey) -> None:
        for tag in sorted(self._kept.tags.intersection(listed) - set(seen.digests)):
            raise ContentMismatch(
                f"{self._place}:{tag}: the registry lists the tag, but has no image "
                "for it, so dockerpush does not know what the tag needs; see: "
                f"dockerpush inspect {self._place}:{tag}"
            )

    def _look(self, seen: Survey) -> dict[str, Shown]:
        """What every name shows; of those that stay it does not matter what it is."""
        names = [name for name in seen.digests if name not in self._kept.tags]
        child, jobs = self._cancellation.child(), self._jobs
        with child, Workers(child, jobs, name="look") as workers:
            reads = [workers.submit(self._subject, name, seen) for name in names]
            subjects = dict(zip(names, workers.wait(reads)))
        return {
            name: Shown(digest, seen.members.get(digest, ()), subjects.get(name, ""))
            for name, digest in seen.digests.items()
        }

    def _subject(self, name: str, seen: Survey) -> str:
        known = tag_subject(name)
        if known or ":" in name:
            return known
        return subject_in(self._read(seen.digests[name]))

    def _read(self, digest: Digest) -> bytes:
        return self._client.read_manifest(self._repository, str(digest))[1]

    def prune(self, items: Iterable[PruneItem]) -> Iterator[PruneItem]:
        """*items*, each after its name was deleted; what fails is in it.

        Raises Cancelled.
        """
        for item in items:
            done = self._attempted(item)
            if done.action is not PruneAction.PRUNE:
                self._stays |= _keys(self._shown[_tag(item)].digests)
            yield done

    def _attempted(self, item: PruneItem) -> PruneItem:
        try:
            why = self._reason_to_keep(item)
            if why:
                return replace(item, action=PruneAction.KEEP, why=why)
            return self._deleted(item)
        except Cancelled:
            raise
        except StillUsed:
            why = f"the registry deletes no tag alone; it is also {self._uses(item)}"
            return replace(item, action=PruneAction.KEEP, why=why)
        except PusherError as error:
            return replace(item, action=PruneAction.FAILED, why=str(error))

    def _reason_to_keep(self, item: PruneItem) -> str:
        if self._is_stopped:
            return "the registry deletes more than one tag at a time"
        if self._shown[_tag(item)].subject in self._stays:
            return "the image that it belongs to stays"
        now = self._client.manifest_descriptor(self._repository, _tag(item))
        if now is not None and now.digest != item.digest:
            return f"it points to {now.digest.short} by now"
        return ""

    def _deleted(self, item: PruneItem) -> PruneItem:
        assert self._deleter is not None
        assert item.digest is not None
        uses = self._uses(item)
        image = None
        if uses.is_used:
            image = self._client.read_manifest(self._repository, str(item.digest))
        deleted = self._deleter.delete(_tag(item), item.digest)
        if image is not None and not deleted.is_alone:
            self._restore(*image, uses)
            raise PusherError(
                f"with this tag the registry deleted its image, which is also {uses}; "
                "dockerpush stored the image again: prune nothing in this registry, "
                "for it does not delete tags as the specification says"
            )
        return replace(item, is_alone=deleted.is_alone)

    def _restore(self, image: Descriptor, raw: bytes, uses: Uses) -> None:
        """Store an image again that went with a name, for what still needs it."""
        self._is_stopped = True
        for name in sorted({str(image.digest), *uses.tags}):
            self._client.store_manifest(self._repository, name, raw, image.media_type)

    def _uses(self, item: PruneItem) -> Uses:
        assert self._deleter is not None
        assert item.digest is not None
        return self._deleter.uses(item.digest)


def _tag(item: PruneItem) -> str:
    return item.name.rpartition(":")[2]


class DirectoryPruner:
    """Prunes an OCI directory. Everything raises ArchiveError, StateError.

    *kept* is by repository. *freed* is how many bytes of blobs went with the names;
    with *is_unclear* no blob goes, as nobody knows what some other entry needs.
    """

    def __init__(self, path: Path, kept: Mapping[str, Kept]) -> None:
        self._path = path
        self._kept = kept
        self._blobs = BlobDirectory(path, what="the directory")
        self._doomed: dict[str, Descriptor] = {}
        self.freed = 0
        self.is_unclear = False

    def plan(self) -> list[PruneItem]:
        """What would go, images first."""
        with self._blobs.failing():
            index = read_index(self._path)
        entries = {_key(entry): entry for entry in (index.manifests if index else ())}
        shown = {key: self._look(entry) for key, entry in entries.items()}
        candidates = [key for key in entries if self._may_go(key, shown[key])]
        self._needed([entries[key] for key in entries if key not in candidates])
        if self.is_unclear:
            candidates = [key for key in candidates if not shown[key].subject]
        digests = [one for kept in self._kept.values() for one in kept.digests]
        doomed = doomed_names(shown, candidates, digests)
        self._doomed = {key: entries[key] for key in doomed}
        return [PruneItem(key, entry.digest) for key, entry in self._doomed.items()]

    def _look(self, entry: Descriptor) -> Shown:
        found = self._blobs.occupied(entry)
        documents = [one.digest for one in found.values() if is_document(one)]
        subject = tag_subject((name_of(entry) or "").rpartition(":")[2])
        subject = subject or subject_in(self._blobs.read_document(entry) or b"")
        return Shown(entry.digest, documents, subject)

    def _may_go(self, key: str, shown: Shown) -> bool:
        """True for what the list could have brought; other names are somebody's own."""
        if key == str(shown.digest):
            return bool(shown.subject)
        try:
            reference = Reference.parse(key)
        except InvalidReference:
            return False
        kept = self._kept.get(reference.name)
        return kept is not None and not (
            reference.tag in kept.tags or reference.digest in kept.digests
        )

    def prune(self, items: Iterable[PruneItem]) -> Iterator[PruneItem]:
        """*items* after the directory names them no more, and their blobs are gone.

        What fails is in them.
        """
        doomed = {(item.name, item.digest) for item in items}
        try:
            with self._blobs.failing():
                take_from_index(
                    self._path,
                    lambda entry: (_key(entry), entry.digest) in doomed,
                    self._free,
                )
        except PusherError as error:
            why, failed = str(error), PruneAction.FAILED
            items = [replace(item, action=failed, why=why) for item in items]
        yield from items

    def _free(self, left: Sequence[Descriptor]) -> None:
        """Remove the blobs that only pruned names needed."""
        needed = self._needed(left)
        if self.is_unclear:
            return
        for entry in self._doomed.values():
            for digest in set(self._blobs.occupied(entry)) - needed:
                self.freed += self._blobs.size_of(digest) or 0
                self._blobs.remove(digest)

    def _needed(self, entries: Iterable[Descriptor]) -> set[Digest]:
        """What *entries* need; *is_unclear* when one of them does not say."""
        found: set[Digest] = set()
        for entry in entries:
            try:
                found |= self._blobs.needed(entry)
            except (InvalidJSON, InvalidDigest, ContentMismatch):
                self.is_unclear = True
        return found


def _key(entry: Descriptor) -> str:
    """An entry's name, else its digest."""
    return name_of(entry) or str(entry.digest)
