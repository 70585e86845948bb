"""From an archive to a registry; layers may be compressed on the way."""

from __future__ import annotations

from functools import partial
from typing import Callable, NamedTuple, Sequence

from ..archive.stored import Compression, StoredBlob, StoredImage
from ..events import Notice
from ..oci import OCI_LAYER
from ..reference import Reference
from ..values import replace
from .archive_source import ArchiveSource
from .choices import SEND, BlobForecast, CopyResult, PushOptions, PushResult
from .compress import Codec, choose_codec
from .engine import ConcurrencyLimits, transfer
from .known import EMPTY, Knowledge, Shortcuts, TargetImage
from .plan import Decide, Method, Plan, PlannedImage, plan_push
from .prepare import (
    AutoCompression,
    CompressionStep,
    ReadableArchive,
    decision,
    layer_shrinks,
)
from .registry_target import RegistryTarget
from .target import Target

Shrinks = Callable[[StoredBlob], bool]


def push_image(
    target: RegistryTarget,
    archive: ReadableArchive,
    image: StoredImage,
    *,
    tags: Sequence[str],
    options: PushOptions,
) -> PushResult:
    """Make *target* hold *image* of *archive*, and name it by *tags*.

    Raises ArchiveError, ContentMismatch, NotFound, RegistryError, NetworkError,
    Cancelled; then no tag was moved.
    """
    codec, plan, shortcuts = planned(target, archive, image, tags=tags, options=options)
    step = CompressionStep(archive, codec, options)
    return push_planned(target, plan, tags=tags, shortcuts=shortcuts, step=step)


def push_planned(
    target: RegistryTarget,
    plan: Plan,
    *,
    tags: Sequence[str],
    shortcuts: Shortcuts,
    step: CompressionStep,
) -> PushResult:
    """Make *target* hold what *plan* says of an image of the archive of *step*."""
    done = transfer_planned(target, plan, tags=tags, shortcuts=shortcuts, step=step)
    return done.as_push(target.repository, tags)


def transfer_planned(
    target: Target,
    plan: Plan,
    *,
    tags: Sequence[str],
    shortcuts: Shortcuts,
    step: CompressionStep,
    limits: ConcurrencyLimits | None = None,
) -> CopyResult:
    """As `push_planned`, to any target, with the result of a copy."""
    for notice in plan.notices:
        target.on_event(notice)
    source = ArchiveSource(step.archive, step.repository)
    source.take(plan)
    image = PlannedImage(source, plan, tuple(tags))
    if shortcuts.tagged:
        image.looked, image.before = True, shortcuts.tagged.digest
    planner = _Planned(image)
    jobs = shortcuts.jobs
    (done,) = transfer(
        planner, target, jobs=jobs, limits=limits, shortcuts=shortcuts, step=step
    )
    if step.options.recompress:
        _report_new_digest(target, plan, done)
    if image.before == done.descriptor.digest:
        return replace(done, manifests=0)
    return done


def _report_new_digest(target: Target, plan: Plan, done: CopyResult) -> None:
    """Say which digest an image had whose layers were compressed in another way."""
    before = plan.root.stored.descriptor if plan.root else None
    if before and before.digest != done.descriptor.digest:
        text = f"layers were recompressed: the digest was {before.digest}"
        target.on_event(Notice(text, minor=True))


class _Planned(NamedTuple):
    """An image that is planned already; the shortcuts say what is left out of it."""

    image: PlannedImage

    def plan(self, *, trusting: bool) -> list[PlannedImage]:
        """The image, in each try."""
        return [self.image]


def dry_run(
    target: RegistryTarget,
    archive: ReadableArchive,
    image: StoredImage,
    *,
    tags: Sequence[str],
    options: PushOptions,
    shrinks: Shrinks | None = None,
) -> list[BlobForecast]:
    """What `push_image` would do, by asking the registry and sending nothing.

    *shrinks* gives the results of samples of layers, where they cannot be read at will.
    """
    codec, plan, shortcuts = planned(
        target, archive, image, tags=tags, options=options, shrinks=shrinks
    )
    for notice in plan.notices:
        target.on_event(notice)
    return forecast(plan, shortcuts, codec)


def forecast(
    plan: Plan, shortcuts: Shortcuts, codec: Codec | None = None
) -> list[BlobForecast]:
    """What a transfer of *plan* would do with each blob; *codec* compresses."""
    layers = shortcuts.known.reusable_layers(plan.blobs)
    present = shortcuts.present(plan.moving)
    forecasts = []
    for blob in (*plan.configs, *plan.blobs):
        descriptor = layers.get(blob.key) or blob.descriptor
        if descriptor and descriptor.digest in present:
            action = present[descriptor.digest].value
        elif blob.method is Method.FOREIGN:
            action = blob.method.value
        elif blob.method is Method.COMPRESS and codec and codec.media_type == OCI_LAYER:
            action = f"unpack and {SEND}"
        elif blob.method is Method.COMPRESS and codec:
            action = f"compress ({codec.compression.value}) and {SEND}"
        else:
            action = SEND
        forecasts.append(BlobForecast(blob.key, blob.stored.size, action))
    return forecasts


def planned(
    target: RegistryTarget,
    archive: ReadableArchive,
    image: StoredImage,
    *,
    tags: Sequence[str],
    options: PushOptions,
    shrinks: Shrinks | None = None,
) -> tuple[Codec, Plan, Shortcuts]:
    """*image* with all that is known and decided before a byte is sent."""
    codec = codec_of(options)
    trusted = trusted_image(target, tags, options)
    known = knowledge_of(target, codec, options, trusted)
    shrinks = shrinks or partial(layer_shrinks, archive)
    plan = plan_of(target, image, options=options, known=known, shrinks=shrinks)
    tagged = tagged_image(target, tags, options, trusted)
    return codec, plan, Shortcuts(target, known, options.jobs, tagged)


def _incompressible(layers: int) -> str:
    if layers == 1:
        return "1 layer stays uncompressed: it would not shrink"
    return f"{layers} layers stay uncompressed: they would not shrink"


def plan_of(
    target: RegistryTarget,
    image: StoredImage,
    *,
    options: PushOptions,
    known: Knowledge,
    shrinks: Shrinks,
) -> Plan:
    """The plan for *image*, where *shrinks* samples raw layers for ``auto``."""
    decide: Decide = decision(options)
    if options.compress == "auto":
        decide = AutoCompression(shrinks, known)
    plan = plan_push(image, decide, platforms=options.platforms, strict=options.strict)
    if isinstance(decide, AutoCompression) and decide.sampled:
        target.on_event(Notice(_incompressible(len(decide.sampled)), minor=True))
    return plan


def trusted_image(
    target: RegistryTarget, tags: Sequence[str], options: PushOptions
) -> TargetImage:
    """The image under the target's tag, where its word counts: `trust_target`."""
    if not options.trust_target:
        return EMPTY
    wanted = tags or [target.reference]
    return TargetImage.read(target.client, target.repository, wanted, trusted=True)


def tagged_image(
    target: RegistryTarget,
    tags: Sequence[str],
    options: PushOptions,
    trusted: TargetImage,
) -> TargetImage:
    """The image under the target's tag, by which *target* knows whether it is new."""
    tagged = trusted
    if not options.trust_target:
        tagged = TargetImage.read(target.client, target.repository, tags, trusted=False)
    target.is_new = tagged.is_new
    return tagged


def knowledge_of(
    target: Target, codec: Codec, options: PushOptions, trusted: TargetImage
) -> Knowledge:
    """What earlier runs made, and what the *trusted* image says.

    Whoever asks for a level means that level, so what became of a layer by another one
    does not count then.
    """
    asked = options.compress_level is not None
    repository = target.repository
    return Knowledge(
        Reference(target.place, repository) if repository else None,
        codec.compression,
        name=str(codec) if asked else codec.compression.value,
        trusted=replace(trusted, layers={}) if asked else trusted,
        blobs=target.blobs,
    )


def codec_of(options: PushOptions) -> Codec:
    """What compresses for *options*."""
    packs = options.recompress or options.compress == "zstd"
    wanted = Compression(options.compress) if packs else Compression.GZIP
    return choose_codec(wanted, options.compress_level)
