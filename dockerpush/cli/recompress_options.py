"""``--recompress``: a copy that compresses also layers that are compressed already."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Sequence

from ..errors import UsageError

if TYPE_CHECKING:
    from ..settings.config import Settings
    from ..state.directory import StateDirectory
    from ..transfer.choices import CopyOptions, CopyResult, PushOptions
    from ..transfer.engine import ConcurrencyLimits
    from ..transfer.source import Source
    from ..transfer.target import Target

NEEDS_DIRECTORY = (
    "sync --recompress needs a registry or oci:DIR as the destination: sync into "
    "oci:DIR, and copy that into an archive"
)


def add_recompress_option(group: Any, *, strict: bool) -> None:
    """``--recompress``, and what it means to be *strict* about it."""
    group.add_argument(
        "--recompress",
        choices=("zstd", "gzip", "none"),
        help="compress also layers that are compressed already; the digest changes, "
        "and signatures are left out (default: keep these layers)",
    )
    if strict:
        group.add_argument(
            "--strict",
            action="store_true",
            help="exit 7 when --recompress leaves out signatures or attestations",
        )


def check_recompress(
    recompress: str | None, compress: str | None, have: Sequence[str] = ()
) -> None:
    """Raises UsageError when *compress*, the other option, says something else.

    Also where *have* says what is held by digests that become others.
    """
    if recompress and have:
        raise UsageError(
            "give --have or --recompress, not both: recompressed layers have new "
            "digests"
        )
    if recompress and compress not in (None, recompress):
        raise UsageError(
            f"give --compress {compress} or --recompress {recompress}, not both"
        )


def copy_or_recompress(
    source: Source,
    target: Target,
    named: str,
    *,
    tags: Sequence[str],
    options: CopyOptions,
    how: str | None,
    settings: Settings,
    state: StateDirectory,
    limits: ConcurrencyLimits | None = None,
) -> CopyResult:
    """Copy an image as `copy_image` does; *how* is the compression for its layers.

    None keeps them. *settings* are those of the target. In *state* is what became of
    layers before.
    """
    from ..transfer.copy_image import copy_image

    if how is None:
        return copy_image(
            source, target, named, tags=tags, options=options, limits=limits
        )
    from ..state.known_blobs import KnownBlobs
    from ..transfer.recompress import recompress_image

    target.blobs = target.blobs or KnownBlobs(state)
    return recompress_image(
        source,
        target,
        named,
        tags=tags,
        options=recompressing(how, options, settings),
        referrers=options.referrers,
        limits=limits,
    )


def recompressing(how: str, options: CopyOptions, settings: Settings) -> PushOptions:
    """A copy by *options* that recompresses; *how* is the compression."""
    from ..transfer.choices import PushOptions

    return PushOptions(
        compress=how,
        compress_level=settings.compress_level,
        jobs=options.jobs,
        platforms=options.platforms,
        recompress=True,
    )
