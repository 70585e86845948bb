"""What a push did, or would do: results on stdout, the rest on stderr."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Iterable, Iterator, Sequence

from . import console

if TYPE_CHECKING:
    from argparse import Namespace

    from ..reference import Reference
    from ..transfer.push_image import BlobForecast
    from ..transfer.push_run import PushResult


def pushed(
    reference: Reference, result: PushResult, seconds: float, args: Namespace
) -> None:
    """The result on stdout, and what was done on stderr."""
    digest = result.descriptor.digest
    name = f"{reference.registry}/{reference.repository}"
    with console.enduring():
        if args.json or args.format:
            console.json_result(_record(reference, result, seconds))
        else:
            console.result(f"{name}@{digest}")
    if not args.quiet:
        blobs = ", ".join(
            f"{number} {outcome.value}" for outcome, number in result.blobs.items()
        )
        console.say(
            f"pushed {reference}: {blobs or 'only the tag'}; "
            f"{console.size_text(result.sent)} "
            f"in {seconds:.1f} s"
        )


def _record(reference: Reference, result: PushResult, seconds: float) -> dict[str, Any]:
    return {
        "target": str(reference),
        "ref": f"{reference.registry}/{reference.repository}"
        f"@{result.descriptor.digest}",
        "tag": reference.tag,
        "digest": result.descriptor.digest,
        "mediaType": result.descriptor.media_type,
        "size": result.descriptor.size,
        "blobs": {outcome.value: n for outcome, n in result.blobs.items()},
        "bytes": result.sent,
        "seconds": round(seconds, 3),
    }


def digests_of(
    done: Iterable[tuple[Reference, PushResult]],
) -> Iterator[tuple[str, str]]:
    """Digest and name of each, for ``--digestfile``."""
    return ((str(result.descriptor.digest), str(name)) for name, result in done)


def forecast(
    reference: Reference,
    blobs: Sequence[BlobForecast],
    args: Namespace,
    source: str | None = None,
) -> None:
    """What a push to *reference* would do; *source* tells one archive from others."""
    record = _dry_record(reference, blobs)
    if args.json or args.format:
        console.json_result({"source": source, **record} if source else record)
    else:
        _print_plan(record)


def _dry_record(reference: Reference, blobs: Sequence[BlobForecast]) -> dict[str, Any]:
    sent = (blob.size for blob in blobs if blob.is_sent)
    return {
        "target": str(reference),
        "blobs": [
            {"blob": blob.name, "size": blob.size, "action": blob.action}
            for blob in blobs
        ],
        "bytes": sum(sent),
    }


def _print_plan(record: dict[str, Any]) -> None:
    rows = [("BLOB", "SIZE", "ACTION")]
    for blob in record["blobs"]:
        rows.append((blob["blob"], console.size_text(blob["size"]), blob["action"]))
    console.table(rows)
    console.result(
        f"{record['target']}: {console.size_text(record['bytes'])} at most "
        "would be sent"
    )
