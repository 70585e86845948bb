"""``inspect ARCHIVE``: what an archive holds."""

from __future__ import annotations

from argparse import SUPPRESS, ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any, Iterator

from . import exits, output

if TYPE_CHECKING:
    from ..archive.model import StoredBlob, StoredImage, StoredManifest
    from .session import Session


def configure(parser: ArgumentParser) -> None:
    """Add the arguments of ``inspect``."""
    parser.add_argument("source", metavar="SOURCE", help="a tar archive or a directory")
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    parser.add_argument("--format", choices=("json",), help=SUPPRESS)


def run(args: Namespace, session: Session) -> int:
    """Show the images of an archive."""
    from .sources import open_source

    with open_source(args.source, session.cancellation) as source:
        records = [record for image in source.images for record in _records(image)]
    if args.json or args.format:
        output.json_result({"images": records})
        return exits.DONE
    for record in records:
        _print(record)
    return exits.DONE


def _records(image: StoredImage) -> Iterator[dict[str, Any]]:
    """One record a platform, the way ``--json`` shows it."""
    from ..archive.model import manifests

    for manifest in manifests(image.root or image.entry):
        yield {
            "tags": [*image.names, *image.tags],
            "platform": _platform(manifest),
            "digest": manifest.descriptor.digest if manifest.descriptor else None,
            "config": {
                "digest": manifest.config_descriptor.digest,
                "size": manifest.config_descriptor.size,
            },
            "complete": manifest.complete,
            "layers": [_layer(layer) for layer in manifest.layers],
        }


def _platform(manifest: StoredManifest) -> str:
    if manifest.descriptor and manifest.descriptor.platform:
        return str(manifest.descriptor.platform)
    return str(manifest.image_config.platform) if manifest.image_config else "unknown"


def _layer(layer: StoredBlob) -> dict[str, Any]:
    return {
        "digest": layer.digest,
        "size": layer.size,
        "media_type": layer.media_type,
        "diff_id": layer.diff_id,
    }


def _print(record: dict[str, Any]) -> None:
    output.result(", ".join(record["tags"]) or "(no name)")
    rows = [
        ("  platform", record["platform"]),
        ("  digest", record["digest"] or "(built when it is pushed)"),
        ("  config", record["config"]["digest"]),
    ]
    if not record["complete"]:
        rows.append(("  note", "parts of it are not in the archive"))
    output.table(rows)
    output.table(
        [("  LAYER", "SIZE", "TYPE")]
        + [
            (
                "  " + str(layer["digest"] or layer["diff_id"] or "?"),
                output.size_text(layer["size"]),
                layer["media_type"],
            )
            for layer in record["layers"]
        ]
    )
