"""From an archive to a registry: plan, compress, upload, tag."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Sequence

from ..archive.stored import Compression, StoredImage
from ..events import Notice
from ..oci import Digest
from ..reference import Reference
from ..values import replace, value
from .choices import PushOptions
from .compress import Codec, choose_codec
from .decide import SampledDecision, raw_layer_decision
from .known import NOTHING, Knowledge, TargetImage
from .layers import Readable
from .plan import Decide, Method, Plan, known_digest, plan_push
from .push_run import Push, PushResult, find_present, wanted_sizes
from .registry_target import PushTarget

if TYPE_CHECKING:
    from ..archive.forward import ForwardArchive, IndexedArchive
    from .stream import Reopen, Select

SEND = "send"


def push_image(
    target: PushTarget,
    archive: Readable,
    image: StoredImage,
    *,
    tags: Sequence[str],
    options: PushOptions,
) -> PushResult:
    """Make *target* hold *image* of *archive*, and name it by *tags*.

    Raises ArchiveError, ContentMismatch, NotFound, RegistryError, NetworkError,
    Cancelled; then no tag was moved.
    """
    return _push(target, archive, image, tags, options).run(tags)


def push_stream(
    target: PushTarget,
    archive: ForwardArchive,
    select: Select,
    *,
    tags: Sequence[str],
    options: PushOptions,
    image: StoredImage | None = None,
    again: Reopen | None = None,
) -> PushResult:
    """Make *target* hold the image of *archive* that *select* chooses.

    *archive* is read once, forward. *image* is what *select* chooses, where an earlier
    reading has told that; otherwise all layers are sent. *again* opens the archive once
    more, where that can be done: a blob that turns out to have been compressed although
    it must stay as it is needs a second reading. ``auto`` means gzip here, since nobody
    can look ahead. Raises as `push_image` does.
    """
    from .stream import StreamPush  # the way of a pipe or a compressed file alone

    options = _without_looking_ahead(options)
    codec = _codec(options)
    known = _knowledge(target, codec, options, _trusted(target, tags, options))
    push = StreamPush(target, archive, codec, options, known, select, image)
    return push.run(tags, again)


@value
class BlobForecast:
    """What a push would do with one blob; *size* is bytes, before compression."""

    name: str
    size: int
    action: str

    @property
    def is_sent(self) -> bool:
        """True when bytes of it would go over the wire."""
        return self.action.endswith(SEND)


def look(
    target: PushTarget,
    archive: Readable,
    image: StoredImage,
    *,
    tags: Sequence[str],
    options: PushOptions,
) -> list[BlobForecast]:
    """What `push_image` would do, by asking the registry and sending nothing."""
    push = _push(target, archive, image, tags, options)
    plan, offers = push.plan, push.known.offers(push.plan)
    for notice in plan.notices:
        target.on_event(Notice(notice))
    present = find_present(push, offers)
    configs = {
        manifest.stored.config_descriptor.digest: manifest.stored.config_descriptor.size
        for manifest in plan.manifests()
    }
    forecasts = [
        BlobForecast(digest, size, present[digest].value if digest in present else SEND)
        for digest, size in configs.items()
    ]
    for blob in plan.blobs:
        offer = offers.get(blob.key)
        digest = offer.digest if offer else known_digest(blob)
        if digest in present:
            action = present[digest].value
        elif blob.method is Method.FOREIGN:
            action = "left where its urls point"
        elif blob.method is Method.COMPRESS:
            action = f"compress ({push.codec.compression.value}) and send"
        else:
            action = SEND
        forecasts.append(BlobForecast(blob.key, blob.stored.size, action))
    return forecasts


def look_ahead(
    target: PushTarget,
    archive: IndexedArchive,
    image: StoredImage,
    *,
    tags: Sequence[str],
    options: PushOptions,
) -> list[BlobForecast]:
    """As `look`, for an archive that cannot be read at will."""
    options = _without_looking_ahead(options)
    return look(target, archive, image, tags=tags, options=options)


def _without_looking_ahead(options: PushOptions) -> PushOptions:
    return replace(options, compress="gzip") if options.compress == "auto" else options


def _push(
    target: PushTarget,
    archive: Readable,
    image: StoredImage,
    tags: Sequence[str],
    options: PushOptions,
) -> Push:
    """*image* with all that is known and decided before a byte is sent."""
    codec = _codec(options)
    trusted = _trusted(target, tags, options)
    known = _knowledge(target, codec, options, trusted)
    decide: Decide = partial(raw_layer_decision, compress=options.compress != "none")
    if options.compress == "auto":
        decide = SampledDecision(archive, known)
    plan = plan_push(image, decide, platforms=options.platforms, strict=options.strict)
    if isinstance(decide, SampledDecision) and decide.kept:
        kept = f"{len(decide.kept)} that would not shrink"
        target.on_event(Notice(f"sent raw: layers: {kept}", minor=True))
    held = trusted.blobs
    if not options.trust_target:
        held = _held(target, tags, plan, known)
    return Push(target, archive, plan, codec, options, known, held)


def _trusted(
    target: PushTarget, tags: Sequence[str], options: PushOptions
) -> TargetImage:
    """The image under the target's tag, where its word counts: `trust_target`."""
    if not options.trust_target:
        return NOTHING
    wanted = tags or [target.reference]
    return TargetImage.read(target.client, target.repository, wanted, trusted=True)


def _held(
    target: PushTarget, tags: Sequence[str], plan: Plan, known: Knowledge
) -> frozenset[Digest]:
    """What the image under the target's tag names: one request in place of many.

    Nothing of it is asked for when fewer than two digests can be told.
    """
    if len(wanted_sizes(plan, known.offers(plan))) < 2:
        return frozenset()
    image = TargetImage.read(target.client, target.repository, tags, trusted=False)
    return image.blobs


def _knowledge(
    target: PushTarget, codec: Codec, options: PushOptions, trusted: TargetImage
) -> Knowledge:
    """What earlier runs made, and what the *trusted* image says.

    Whoever asks for a level means that level, so what became of a layer by another one
    does not count then.
    """
    asked = options.compress_level is not None
    return Knowledge(
        Reference(target.client.registry, target.repository),
        codec.compression,
        name=str(codec) if asked else codec.compression.value,
        trusted=replace(trusted, layers={}) if asked else trusted,
        blobs=target.blobs,
    )


def _codec(options: PushOptions) -> Codec:
    zstd = options.compress == "zstd"
    return choose_codec(
        Compression.ZSTD if zstd else Compression.GZIP, options.compress_level
    )
