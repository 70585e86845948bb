"""From an archive to a registry: plan, compress, upload, tag."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Sequence

from ..archive.model import Compression, StoredImage
from .codecs import Codec, choose_codec
from .decide import SampledDecision, raw_layer_decision
from .layers import Readable
from .options import PushOptions
from .plan import Decide, Method, Plan, known_digest, plan_push
from .transfer import PushResult, PushTarget, find_present, push_plan

__all__ = [
    "BlobForecast",
    "PushOptions",
    "PushResult",
    "PushTarget",
    "look",
    "push_image",
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
    return push_plan(
        target,
        archive,
        _plan(archive, image, options),
        tags=tags,
        codec=_codec(options),
        options=options,
    )


@dataclass(frozen=True)
class BlobForecast:
    """What a push would do with one blob; *size* is bytes, before compression."""

    name: str
    size: int
    action: str


def look(
    target: PushTarget, archive: Readable, image: StoredImage, *, options: PushOptions
) -> list[BlobForecast]:
    """What `push_image` would do, by asking the registry and sending nothing."""
    plan = _plan(archive, image, options)
    present = find_present(target, plan, options.jobs)
    configs = {
        m.stored.config_descriptor.digest: m.stored.config_descriptor
        for m in plan.manifests()
    }.values()
    forecasts = [
        BlobForecast(
            descriptor.digest,
            descriptor.size,
            "exists" if descriptor.digest in present else "send",
        )
        for descriptor in configs
    ]
    for blob in plan.blobs:
        digest = known_digest(blob)
        if digest in present:
            action = "exists"
        elif blob.method is Method.FOREIGN:
            action = "left where its urls point"
        elif blob.method is Method.COMPRESS:
            action = f"compress ({_codec(options).compression.value}) and send"
        else:
            action = "send"
        forecasts.append(BlobForecast(blob.key, blob.stored.size, action))
    return forecasts


def _plan(archive: Readable, image: StoredImage, options: PushOptions) -> Plan:
    decide: Decide = partial(raw_layer_decision, compress=options.compress != "none")
    if options.compress == "auto":
        decide = SampledDecision(archive)
    plan = plan_push(image, decide, platforms=options.platforms, strict=options.strict)
    if isinstance(decide, SampledDecision) and decide.kept:
        kept = f"{len(decide.kept)} that would not shrink"
        return replace(plan, notices=(*plan.notices, f"sent raw: layers: {kept}"))
    return plan


def _codec(options: PushOptions) -> Codec:
    zstd = options.compress == "zstd"
    return choose_codec(
        Compression.ZSTD if zstd else Compression.GZIP, options.compress_level
    )
