"""``--recompress``: layers that are compressed already, compressed in another way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import UsageError

if TYPE_CHECKING:
    from ..oci import Platform
    from ..settings.config import Settings
    from ..transfer.choices import PushOptions

NEEDS_REGISTRY = (
    "--recompress needs a registry as the destination: copy to one, and from there to "
    "a file or a directory"
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


def check_recompress(recompress: str | None, compress: str | None) -> None:
    """Raises UsageError when *compress*, the other option, says something else."""
    if recompress and compress not in (None, recompress):
        raise UsageError(
            f"give --compress {compress} or --recompress {recompress}, not both"
        )


def recompressing(
    how: str, platforms: tuple[Platform, ...], settings: Settings
) -> PushOptions:
    """The options of a transfer that recompresses, *how* being the compression."""
    from ..transfer.choices import PushOptions

    return PushOptions(
        compress=how,
        compress_level=settings.compress_level,
        jobs=settings.jobs,
        platforms=platforms,
        recompress=True,
    )
