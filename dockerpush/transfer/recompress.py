"""An image of any source whose layers are compressed in another way on their way.

The source is read as an archive is, so that a push of it does the rest: each layer is
unpacked and compressed as it comes, its content is proved by the config's diff_id, and
the manifests are rewritten with all that they hold besides.
"""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Callable, Iterator, Mapping, Sequence

from ..archive.assemble import assemble
from ..archive.contents import blob_digest, path_of
from ..archive.layout import INDEX_JSON
from ..archive.opened import open_archive
from ..archive.sniff import HEAD_SIZE
from ..archive.spooled import temp_directory
from ..archive.stored import Compression, Member, MemberKind, compression_of_type
from ..archive.writers import BundledImage, index_of
from ..errors import MORE_TEMP_SPACE, UsageError
from ..system.streams import RawReader
from ..values import replace
from .archive_source import ArchiveSource
from .choices import CopyOptions, CopyResult, PushOptions
from .copy_image import copy_image, copy_images
from .known import EMPTY, Shortcuts
from .local_targets import DirectoryTarget
from .plan import Method, Plan, PlannedIndex, PlannedNode, Wanted, left_out, plan_push
from .prepare import CompressionStep, decision
from .push_image import codec_of, knowledge_of, planned, transfer_planned
from .registry_target import RegistryTarget
from .tree import Walker

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from ..archive.stored import StoredImage
    from ..documents import RawManifest
    from ..events import Notice
    from ..oci import Descriptor
    from ..state.blobs import Reader
    from .compress import Codec
    from .engine import ConcurrencyLimits
    from .source import Source
    from .target import Target

_HEADS = {
    Compression.GZIP: b"\x1f\x8b\x08",
    Compression.ZSTD: b"\x28\xb5\x2f\xfd",
}
"""How a layer of a media type begins; its bytes decide when it is read."""


class SourceArchive:
    """The image *root* of *source*, read as an archive is. *path* is for messages."""

    def __init__(self, source: Source, root: RawManifest) -> None:
        """Raises what *source* and `Walker` do."""
        self.path = Path(source.place)
        self.repository = source.repository
        self._source = source
        walked = Walker(source).walk(root).plan()
        index = index_of([BundledImage(root.descriptor, ("image:1",), ())]).to_bytes()
        self._documents = {INDEX_JSON: index}
        members = {INDEX_JSON: Member(INDEX_JSON, MemberKind.FILE, len(index))}
        for document in walked.documents:
            name = path_of(document.descriptor.digest)
            self._documents[name] = document.raw
            members[name] = Member(name, MemberKind.FILE, len(document.raw))
        self._blobs = {path_of(blob.digest): blob for blob in _descriptors(walked)}
        for name, blob in self._blobs.items():
            members.setdefault(name, Member(name, MemberKind.FILE, blob.size))
        documents, heads = (
            _Lazily(read, members) for read in (self._document, self._head)
        )
        self.image: StoredImage = assemble(members, documents, heads)[0]

    def open_at(self, member: str, offset: int = 0) -> _Reader:
        """A reader of a blob from *offset* on."""
        digest = blob_digest(member)
        assert digest is not None, "the members of a source are blobs"
        return _Reader(self._source.open_blob(digest, offset))

    def _document(self, name: str) -> bytes:
        if name not in self._documents:
            self._documents[name] = self._source.read_blob(self._blobs[name])
        return self._documents[name]

    def _head(self, name: str) -> bytes:
        if name in self._documents:
            return self._documents[name][:HEAD_SIZE]
        packing = compression_of_type(self._blobs[name].media_type)
        return _HEADS.get(packing or Compression.NONE, b"")


class _Lazily(Mapping[str, bytes]):
    """What *read* gives for each of *names*, when it is asked for."""

    def __init__(
        self, read: Callable[[str], bytes], names: Mapping[str, object]
    ) -> None:
        self._read = read
        self._names = names

    def __getitem__(self, name: str) -> bytes:
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class _Reader(RawReader):
    """A blob of a source as a file."""

    def __init__(self, blob: Reader) -> None:
        super().__init__()
        self._blob = blob

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill *buffer* with what comes next; 0 at the end."""
        return self._blob.readinto(memoryview(buffer).cast("B")) or 0

    def close(self) -> None:
        """Close the blob as well."""
        if not self.closed:
            super().close()
            self._blob.close()


def _descriptors(plan: Plan) -> Iterator[Descriptor]:
    """The blobs that the source of *plan* has."""
    for blob in plan.blobs:
        if blob.method is not Method.FOREIGN and blob.stored.descriptor:
            yield blob.stored.descriptor


def recompress_image(
    source: Source,
    target: Target,
    reference: str,
    *,
    tags: Sequence[str],
    options: PushOptions,
    referrers: bool = False,
    limits: ConcurrencyLimits | None = None,
) -> CopyResult:
    """Make *target* hold what *reference* names in *source*, as *options* recompress.

    An image whose layers are all so already is copied byte for byte. Its *referrers*
    come along then; else they are named and left out, for their subject has another
    digest. Raises what `push_image` and *source* do, UsageError for a name that is a
    digest, which the image will not have.
    """
    root = source.document(reference)
    archive = SourceArchive(source, root)
    codec, plan, shortcuts = _planned(target, archive, tags, options)
    if plan.root is None or plan.root.verbatim:
        as_they_are = CopyOptions(options.platforms, referrers, options.jobs)
        return copy_image(
            source, target, reference, tags=tags, options=as_they_are, limits=limits
        )
    lost = [*plan.lost, *(_lost(source, plan.root) if referrers else ())]
    for notice in lost[len(plan.lost) :]:
        target.on_event(notice)
    done = transfer_planned(
        target,
        plan,
        tags=without_digests(tags, ":" if target.repository else "@"),
        shortcuts=shortcuts,
        step=CompressionStep(archive, codec, options, archive.repository),
        limits=limits,
    )
    return replace(done, lost=len(lost), whole=root.descriptor)


def recompress_images(
    wanted: Sequence[Wanted],
    target: Target,
    *,
    options: PushOptions,
    referrers: bool = False,
) -> list[CopyResult]:
    """As `recompress_image`, into a directory or an archive.

    An archive begins with what is in it, so blobs wait for that in temp space.
    """
    if isinstance(target, DirectoryTarget):
        return _into_directory(wanted, target, options, referrers=referrers)
    copying = CopyOptions(referrers=referrers, jobs=options.jobs)
    named = [tuple(without_digests(one.names, "@")) for one in wanted]
    numbered = [one._replace(names=(str(n),)) for n, one in enumerate(wanted)]
    with TemporaryDirectory("", "dockerpush-", temp_directory(os.environ)) as path:
        kept = DirectoryTarget(
            Path(path),
            target.cancellation,
            target.on_event,
            what="the temp directory",
            room=MORE_TEMP_SPACE,
        )
        kept.blobs = target.blobs
        made = _into_directory(numbered, kept, options, referrers=referrers)
        with open_archive(path) as archive:
            source = ArchiveSource(archive)
            for image in (*archive.images, *archive.referrers()):
                source.add(image, target.cancellation)
            digests = [str(one.descriptor.digest) for one in made]
            again = [Wanted(source, *pair) for pair in zip(digests, named)]
            done = copy_images(again, target, options=copying)
    return [
        replace(last, lost=first.lost, whole=first.whole)
        for first, last in zip(made, done)
    ]


def _into_directory(
    wanted: Sequence[Wanted],
    target: DirectoryTarget,
    options: PushOptions,
    *,
    referrers: bool,
) -> list[CopyResult]:
    return [
        recompress_image(
            one.source,
            target,
            one.reference,
            tags=one.names,
            options=options,
            referrers=referrers,
        )
        for one in wanted
    ]


def _planned(
    target: Target, archive: SourceArchive, tags: Sequence[str], options: PushOptions
) -> tuple[Codec, Plan, Shortcuts]:
    """All that is known and decided before a byte moves."""
    if isinstance(target, RegistryTarget):
        return planned(target, archive, archive.image, tags=tags, options=options)
    plan = plan_push(archive.image, decision(options), platforms=options.platforms)
    codec = codec_of(options)
    known = knowledge_of(target, codec, options, EMPTY)
    return codec, plan, Shortcuts(target, known, options.jobs)


def without_digests(names: Sequence[str], sign: str) -> Sequence[str]:
    """Those of *names* that are tags: digests have a *sign* in them.

    Raises UsageError when there is none.
    """
    tags = [name for name in names if sign not in name]
    if names and not tags:
        raise UsageError(
            f"{names[0]}: --recompress gives the image another digest: name a tag"
        )
    return tags


def _lost(source: Source, node: PlannedNode) -> Iterator[Notice]:
    """What refers to the manifests below *node*, and cannot come along."""
    if isinstance(node, PlannedIndex):
        for child in node.children:
            yield from _lost(source, child)
    subject = node.stored.descriptor
    for one in source.referrers(subject.digest) if subject else ():
        kind = one.artifact_type or one.media_type
        assert subject is not None, "something refers to it"
        yield left_out(f"{kind} {one.digest.short}", subject.digest.short)
