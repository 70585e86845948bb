"""What there is to store for an image: its manifests, children first, and its blobs.

From an index to a part of it: the images for some platforms.
"""

from __future__ import annotations

from typing import Callable, Iterator, Protocol, Sequence

from ..documents import (
    RawManifest,
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

DEEPEST = 8
"""Indexes within indexes that are followed."""

MOST_MANIFESTS = 2000
"""Manifests of one image, its referrers included."""

MOST_BYTES = 64 * 1024 * 1024
"""Bytes of all these manifests, which are held in memory."""


Fetch = Callable[[Sequence[Descriptor]], Sequence[RawManifest]]
"""Gives the manifests that descriptors name, in their order."""


class Walker:
    """Plans what *source* has and *is_held* does not know, byte for byte.

    *fetch* gets manifests of *source*, several at a time where that is faster. `walk`,
    then `add_referrers` or not, then `plan`. Raises ContentMismatch for documents
    without end, or one that is not what its descriptor says; InvalidJSON for one of a
    type that is not known; and what *source* does.
    """

    def __init__(
        self,
        source: Source,
        is_held: Callable[[Descriptor], bool] = lambda document: False,
        fetch: Fetch | None = None,
    ) -> None:
        self._source = source
        self._is_held = is_held
        self._fetch = fetch or (lambda nodes: [source.child(node) for node in nodes])
        self._documents: list[RawManifest] = []
        self._referrers: list[RawManifest] = []
        self._listed: dict[Digest, Sequence[Descriptor]] = {}
        self._blobs: dict[Digest, PlannedBlob] = {}
        self._seen: set[Digest] = set()
        self._skipped_existing = False
        self._count = self._bytes = 0

    def walk(self, root: RawManifest) -> Walker:
        """Take *root* and what it needs."""
        if self._is_held(root.descriptor):
            self._skipped_existing = True
            self._documents.append(root)
        else:
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
            self._listed[subject] = listed
            more: list[RawManifest] = []
            self._add(listed, more, 0)
            self._referrers += more
            subjects += [one.descriptor.digest for one in more]

    def plan(self) -> Plan:
        """All that was found."""
        return Plan(
            blobs=tuple(self._blobs.values()),
            documents=tuple(self._documents),
            referrers=tuple(self._referrers),
            listed=self._listed,
            skipped_existing=self._skipped_existing,
        )

    def _add(
        self, nodes: Sequence[Descriptor], into: list[RawManifest], depth: int
    ) -> None:
        """Add *nodes*, documents, and what they need, each once."""
        wanted = [node for node in nodes if self._is_wanted(node)]
        self._check(len(wanted), depth)
        for node, document in zip(wanted, self._fetch(wanted)):
            _check_fits(node, document.descriptor)
            if node.digest not in self._seen:
                self._walk(document, into, depth + 1)

    def _is_wanted(self, node: Descriptor) -> bool:
        if node.digest in self._seen:
            return False
        if not is_document(node):
            raise InvalidJSON(
                f"{label(self._source)}: {node.digest} is of the type "
                f"{node.media_type[:80]!r}, which dockerpush cannot read"
            )
        if not self._is_held(node):
            return True
        self._seen.add(node.digest)
        self._skipped_existing = True
        return False

    def _walk(self, document: RawManifest, into: list[RawManifest], depth: int) -> None:
        self._count += 1
        self._bytes += len(document.raw)
        self._seen.add(document.descriptor.digest)
        self._check(0, depth)
        children = children_of(document.descriptor, document.raw)
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
        if node.digest in self._seen:
            return True
        found = self._source.find_document(node)
        raw = found.raw if found else self._source.read_blob(node)
        check_names_nothing(node, raw)
        if found:
            self._count += 1
            self._bytes += len(raw)
            self._check(0, 0)
            self._seen.add(node.digest)
            into.append(found)
        return found is not None

    def _check(self, count: int, depth: int) -> None:
        """Raises ContentMismatch when there would be more than the limits allow."""
        if (
            depth > DEEPEST
            or self._count + count > MOST_MANIFESTS
            or self._bytes > MOST_BYTES
        ):
            raise ContentMismatch(
                f"{label(self._source)}: more than {DEEPEST} levels of indexes, "
                f"{MOST_MANIFESTS} manifests or {MOST_BYTES} bytes of them; refused"
            )


def _check_fits(node: Descriptor, found: Descriptor) -> None:
    """Raises ContentMismatch unless *found* is what the index says of it, *node*."""
    if (found.size, found.media_type) != (node.size, node.media_type):
        raise ContentMismatch(
            f"manifest {node.digest}: {found.size} bytes of {found.media_type}, the "
            f"index says {node.size} of {node.media_type}"
        )


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
    """*root* with the images for *platforms* alone, and what speaks of them.

    The bytes of *root* stay as they are when nothing is left out; a single image is
    taken out of its index. Raises NotFound, which tells what there is.
    """
    where = label(source)
    if root.descriptor.media_type not in INDEX_TYPES:
        alone = Candidate(root.descriptor, _platform(source, root), is_image=True)
        narrow([alone], platforms, where)
        return root
    entries = list(_entries(source, root))
    candidates = [_candidate(source, entry) for entry in entries]
    wanted, places = narrow(candidates, platforms, where)
    kept = tuple(entries[place] for place in places)
    if kept == index_of(root).manifests:
        return root
    if len(wanted) == 1:
        return source.child(entries[wanted[0]])
    return part_of_index(root.raw, root.descriptor.media_type, kept)


def _candidate(source: Narrowable, entry: Descriptor) -> Candidate:
    if _is_about_another(entry):
        return Candidate(entry, None, is_image=False)
    return Candidate(entry, _entry_platform(source, entry), is_image=True)


def images_of(
    source: Narrowable, root: RawManifest
) -> list[tuple[Descriptor, Platform | None]]:
    """The entries of the index *root* that are no attestations, and their platforms.

    Those of inner indexes are among them.
    """
    found = [
        (entry, _entry_platform(source, entry))
        for entry in _entries(source, root)
        if not _is_about_another(entry)
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


def _entries(
    source: Narrowable, document: RawManifest, depth: int = 0
) -> Iterator[Descriptor]:
    """What the index *document* names, the insides of inner indexes instead."""
    for entry in index_of(document).manifests:
        if entry.media_type in INDEX_TYPES and depth < DEEPEST:
            yield from _entries(source, source.child(entry), depth + 1)
        else:
            yield entry


def _entry_platform(source: Narrowable, entry: Descriptor) -> Platform | None:
    if entry.platform is not None or entry.media_type not in MANIFEST_TYPES:
        return entry.platform
    return _platform(source, source.child(entry))


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
