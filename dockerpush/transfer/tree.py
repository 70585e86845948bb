"""What there is to store for an image: its manifests, children first, and its blobs.

From an index to a part of it: the images for some platforms.
"""

from __future__ import annotations

from graphlib import TopologicalSorter
from typing import Callable, Iterator, Protocol, Sequence

from ..documents import (
    RawManifest,
    Walk,
    check_names_nothing,
    children_of,
    is_document,
    part_of_index,
    subject_of,
)
from ..errors import ContentMismatch, InvalidDigest, InvalidJSON
from ..events import Notice
from ..oci import (
    INDEX_TYPES,
    JSON_LIMIT,
    MANIFEST_TYPES,
    Descriptor,
    Digest,
    ImageConfig,
    Index,
    Manifest,
    Platform,
    dump_json,
)
from ..system.cancellation import Cancellation
from ..values import replace
from .choices import TakenPlatform
from .plan import (
    Candidate,
    Method,
    Plan,
    PlannedBlob,
    narrow,
    unchanged,
)
from .source import Named, Source, label

Fetch = Callable[[Sequence[Descriptor]], Sequence[RawManifest]]
"""Gives the manifests that descriptors name, in their order, each checked by `child`.
"""


class Walker:
    """Plans what *source* has and *is_held* does not know, byte for byte.

    *fetch* gets manifests of *source*, several at a time where that is faster. `walk`,
    then `add_referrers` or not, then `plan`. Raises what `Walk` and `child` do;
    InvalidJSON for a document of a type that is not known; and what *source* does.
    """

    def __init__(
        self,
        source: Source,
        is_held: Callable[[Descriptor], bool] = lambda document: False,
        fetch: Fetch | None = None,
    ) -> None:
        self._source = source
        self._is_held = is_held
        self._fetch = fetch or (lambda nodes: [child(source, node) for node in nodes])
        self._documents: list[RawManifest] = []
        self._referrers: list[RawManifest] = []
        self._listed: dict[Digest, Sequence[Descriptor]] = {}
        self._needs: dict[Digest, list[Digest]] = {}
        self._blobs: dict[Digest, PlannedBlob] = {}
        self._visits = Walk(label(source))
        self._skipped_existing = False

    def walk(self, root: RawManifest) -> Walker:
        """Take *root* and what it needs."""
        if self._is_held(root.descriptor):
            self._skipped_existing = True
            self._documents.append(root)
        else:
            self._visits.enters(root.descriptor)
            self._walk(root, self._documents, 0)
        return self

    def add_referrers(self, cancellation: Cancellation) -> None:
        """Take what refers to the manifests, and what refers to that."""
        subjects = [one.descriptor.digest for one in self._documents]
        for subject in subjects:  # grows meanwhile
            cancellation.check()
            listed = self._source.referrers(subject)
            if not listed:
                continue
            self._visits.takes(dump_json([one.to_json() for one in listed]))
            self._listed[subject] = listed
            more: list[RawManifest] = []
            self._add(listed, more, 0)
            self._referrers += more
            subjects += [one.descriptor.digest for one in more]

    def plan(self) -> Plan:
        """All that was found."""
        return Plan(
            blobs=tuple(self._blobs.values()),
            documents=self._children_first(self._documents),
            referrers=self._children_first(self._referrers),
            listed=self._listed,
            skipped_existing=self._skipped_existing,
        )

    def _children_first(self, documents: list[RawManifest]) -> tuple[RawManifest, ...]:
        """*documents* in the order in which a registry takes them.

        An index and one below it may name the same manifest, which was found once.
        """
        found = {one.descriptor.digest: one for one in documents}
        sorter = TopologicalSorter({one: self._needs.get(one, ()) for one in found})
        return tuple(found[one] for one in sorter.static_order() if one in found)

    def _add(
        self, nodes: Sequence[Descriptor], into: list[RawManifest], depth: int
    ) -> None:
        """Add *nodes*, documents, and what they need, each once."""
        wanted = [node for node in nodes if self._is_wanted(node, depth + 1)]
        for document in self._fetch(wanted):
            self._walk(document, into, depth + 1)

    def _is_wanted(self, node: Descriptor, depth: int) -> bool:
        if self._visits.has(node):
            return False
        if not is_document(node):
            raise InvalidJSON(
                f"{label(self._source)}: {node.digest} is of the type "
                f"{node.media_type[:80]!r}, which dockerpush cannot read"
            )
        if not self._is_held(node):
            return self._visits.enters(node, depth)
        self._visits.skip(node)
        self._skipped_existing = True
        return False

    def _walk(self, document: RawManifest, into: list[RawManifest], depth: int) -> None:
        self._visits.takes(document.raw, document.descriptor.size)
        children = children_of(document.descriptor, document.raw)
        below = (*children.documents, *children.unknown)
        self._needs[document.descriptor.digest] = [one.digest for one in below]
        after_all = {one.digest for one in children.unknown if self._finds(one, into)}
        for blob in children.blobs:
            known = self._blobs.get(blob.digest)
            if blob.digest not in after_all and (
                known is None or known.method is Method.FOREIGN
            ):
                self._blobs[blob.digest] = self._planned(blob)
        self._add(children.documents, into, depth)
        into.append(document)

    def _planned(self, blob: Descriptor) -> PlannedBlob:
        """*blob* as it is; left where its urls point when the source lacks it."""
        planned = unchanged(blob)
        if planned.method is Method.FOREIGN and self._source.has(blob):
            return replace(planned, method=Method.AS_IS)
        return planned

    def _finds(self, node: Descriptor, into: list[RawManifest]) -> bool:
        """True when *node*, of a type that is not known, is a document: it is added.

        Raises InvalidJSON when it names what would have to come along.
        """
        if self._visits.has(node):
            return True
        found = self._source.find_document(node)
        raw = found.raw if found else self._source.read_blob(node)
        check_names_nothing(node, raw)
        self._visits.reads(len(raw))
        if found:
            self._visits.enters(node)
            self._visits.takes(raw, len(raw) + node.size)
            into.append(found)
        return found is not None


def child(source: Narrowable, node: Descriptor) -> RawManifest:
    """The manifest that an index of *source* names so.

    Raises ContentMismatch unless it is what the index says of it, and what *source*
    does.
    """
    document = source.child(node)
    found = document.descriptor
    if (found.size, found.media_type) != (node.size, node.media_type):
        raise ContentMismatch(
            f"manifest {node.digest}: {found.size} bytes of {found.media_type}, the "
            f"index says {node.size} of {node.media_type}"
        )
    return document


class PlanReader:
    """The manifests of *plan* without asking *source* again, and its blobs."""

    def __init__(self, source: Source, plan: Plan) -> None:
        self.place = source.place
        self.repository = source.repository
        self._source = source
        self._documents = {one.descriptor.digest: one for one in plan.documents}

    def child(self, descriptor: Descriptor) -> RawManifest:
        """The manifest that *descriptor* names, which is in the plan."""
        return self._documents[descriptor.digest]

    def read_blob(self, descriptor: Descriptor) -> bytes:
        """The whole of a small blob, checked."""
        return self._source.read_blob(descriptor)


def index_of(document: RawManifest) -> Index:
    """What the index *document* says. Raises InvalidJSON."""
    return Index.from_bytes(document.raw, document.descriptor.media_type)


_NO_PLATFORM = Platform("unknown", "unknown")
"""What buildkit says of an attestation."""


class Narrowable(Named, Protocol):
    """What is asked for manifests and configs."""

    def child(self, descriptor: Descriptor) -> RawManifest:
        """The manifest that *descriptor* names."""

    def read_blob(self, descriptor: Descriptor) -> bytes:
        """The whole of a small blob, checked."""


def narrowed(
    source: Narrowable, root: RawManifest, platforms: Sequence[Platform]
) -> RawManifest:
    """*root* with the images for *platforms* alone, and what refers to them.

    The bytes of *root* stay as they are when nothing is left out; a single image is
    taken out of its index. Raises NotFound, which names what there is.
    """
    where = label(source)
    if root.descriptor.media_type not in INDEX_TYPES:
        alone = Candidate(root.descriptor, _platform(source, root), is_image=True)
        narrow([alone], platforms, where)
        return root
    opened = _Opened(source, root)
    candidates = [opened.candidate(entry) for entry in opened.entries]
    wanted, places = narrow(candidates, platforms, where)
    kept = tuple(opened.entries[place] for place in places)
    if kept == index_of(root).manifests:
        return root
    if len(wanted) == 1:
        return source.child(opened.entries[wanted[0]])
    return part_of_index(root.raw, root.descriptor.media_type, kept)


class _Opened:
    """What an index names, the *entries* of inner indexes in their place.

    Manifests are read for their platforms, each once. Raises what `Walk` does.
    """

    def __init__(self, source: Narrowable, root: RawManifest) -> None:
        self._source = source
        self._walk = Walk(label(source))
        self._platforms: dict[Digest, Platform | None] = {}
        self._walk.enters(root.descriptor)
        self.entries = list(self._inside(root, 0))

    def candidate(self, entry: Descriptor) -> Candidate:
        """*entry* with its platform, but for what refers to another one."""
        if _is_about_another(entry):
            return Candidate(entry, None, is_image=False)
        return Candidate(entry, self._platform_of(entry), is_image=True)

    def _inside(self, document: RawManifest, depth: int) -> Iterator[Descriptor]:
        self._walk.takes(document.raw, document.descriptor.size)
        for entry in index_of(document).manifests:
            if entry.media_type not in INDEX_TYPES:
                yield entry
            elif self._walk.enters(entry, depth + 1):
                yield from self._inside(self._source.child(entry), depth + 1)

    def _platform_of(self, entry: Descriptor) -> Platform | None:
        if entry.platform is not None or entry.media_type not in MANIFEST_TYPES:
            return entry.platform
        if self._walk.enters(entry):
            document = self._source.child(entry)
            self._walk.reads(len(document.raw) - entry.size)
            self._platforms[entry.digest] = _platform(self._source, document)
        return self._platforms.get(entry.digest)


def images_of(
    source: Narrowable, root: RawManifest
) -> list[tuple[Descriptor, Platform | None]]:
    """The entries of the index *root* that are no attestations, and their platforms.

    Those of inner indexes are among them.
    """
    opened = _Opened(source, root)
    found = [
        (entry, one.platform)
        for entry in opened.entries
        if (one := opened.candidate(entry)).is_image
    ]
    return [pair for pair in found if pair[1] != _NO_PLATFORM]


def taken_of(
    source: Narrowable, whole: RawManifest, part: Descriptor, platform: Platform
) -> TakenPlatform | None:
    """What to say of *part*, taken of *whole* for *platform*; None if it is all."""
    if part.digest == whole.descriptor.digest:
        return None
    return TakenPlatform(platform, len(images_of(source, whole)))


def narrowing_notice(
    whole: Descriptor, part: Descriptor, platforms: Sequence[Platform]
) -> Notice:
    """What to say when *part* is what is left of *whole* for *platforms*."""
    return Notice(
        f"only {', '.join(map(str, platforms))}: the digest becomes {part.digest}, "
        f"that of the whole is {whole.digest}"
    )


def _platform(source: Narrowable, document: RawManifest) -> Platform | None:
    """What the config of a manifest says; None when that is no image's."""
    manifest = Manifest.from_bytes(document.raw, document.descriptor.media_type)
    if manifest.config.size > JSON_LIMIT:
        return None
    raw = source.read_blob(manifest.config)
    try:
        return ImageConfig.from_bytes(raw).platform
    except (InvalidJSON, InvalidDigest):
        return None


def _is_about_another(entry: Descriptor) -> bool:
    return bool(subject_of(entry) or entry.artifact_type)
