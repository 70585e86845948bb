"""From an archive to a registry: plan, compress, upload, tag."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Sequence

from ..archive.forward import ForwardArchive, IndexedArchive
from ..archive.model import Compression, StoredImage
from ..events import Notice
from ..reference import Reference
from .codecs import Codec, choose_codec
from .decide import SampledDecision, raw_layer_decision
from .known import Knowledge, TargetImage
from .layers import Readable
from .options import PushOptions
from .plan import Decide, Method, known_digest, plan_push
from .stream import Select, StreamPush, members_of
from .transfer import Push, PushResult, PushTarget, find_present

SEND = "send"

__all__ = [
    "BlobForecast",
    "PushOptions",
    "PushResult",
    "PushTarget",
    "look",
    "look_ahead",
    "members_of",
    "push_image",
    "push_stream",
]


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
    wanted: frozenset[str] | None = None,
) -> PushResult:
    """Make *target* hold the image of *archive* that *select* chooses.

    *archive* is read once, forward. *wanted* names the members that the image needs
    where that is known (`members_of`); otherwise all layers are sent. ``auto`` means
    gzip here, since nobody can look ahead. Raises as `push_image` does.
    """
    options = _without_looking_ahead(options)
    codec = _codec(options)
    known = _knowledge(target, tags, codec, options)
    return StreamPush(target, archive, codec, options, known, select, wanted).run(tags)


@dataclass(frozen=True)
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
    known = _knowledge(target, tags, codec, options)
    decide: Decide = partial(raw_layer_decision, compress=options.compress != "none")
    if options.compress == "auto":
        decide = SampledDecision(archive, known)
    plan = plan_push(image, decide, platforms=options.platforms, strict=options.strict)
    if isinstance(decide, SampledDecision) and decide.kept:
        kept = f"{len(decide.kept)} that would not shrink"
        target.on_event(Notice(f"sent raw: layers: {kept}", minor=True))
    return Push(target, archive, plan, codec, options, known)


def _knowledge(
    target: PushTarget, tags: Sequence[str], codec: Codec, options: PushOptions
) -> Knowledge:
    """What the target's image and earlier runs tell.

    Whoever asks for a level means that level, so what became of a layer by another one
    does not count then.
    """
    asked = options.compress_level is not None
    image = TargetImage.read(target.client, target.repository, tags)
    return Knowledge(
        Reference(target.client.registry, target.repository),
        codec.compression,
        name=str(codec) if asked else codec.compression.value,
        image=replace(image, layers={}) if asked else image,
        blobs=target.blobs,
    )


def _codec(options: PushOptions) -> Codec:
    zstd = options.compress == "zstd"
    return choose_codec(
        Compression.ZSTD if zstd else Compression.GZIP, options.compress_level
    )
