"""``inspect SOURCE``: what an archive holds, or an image of a registry.

No layer of a registry is downloaded.
"""

from __future__ import annotations

from argparse import SUPPRESS, ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any, Iterator

from ...errors import UsageError
from .. import console
from ..endpoints import Connections
from ..image_sources import image_name, open_source
from ..options import (
    add_connection_options,
    add_credential_options,
    chosen_platforms,
    endpoint,
)

if TYPE_CHECKING:
    from ...archive.stored import StoredBlob, StoredImage, StoredManifest
    from ...reference import Reference
    from ..session import Session


def configure(parser: ArgumentParser) -> None:
    """Add the arguments of ``inspect``."""
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a tar archive, a directory, or an image in a registry by its reference",
    )
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    parser.add_argument("--format", choices=("json",), help=SUPPRESS)
    add_credential_options(parser)
    add_connection_options(parser)
    _add_registry_options(parser)


def _add_registry_options(parser: ArgumentParser) -> None:
    """What shows an image of a registry; ``--config`` is the image's own here."""
    parser.conflict_handler = "resolve"
    group = parser.add_argument_group("an image in a registry")
    group.add_argument(
        "--platform",
        metavar="OS/ARCH",
        help="only this platform of a multi-platform image",
    )
    shown = group.add_mutually_exclusive_group()
    shown.add_argument(
        "--raw", action="store_true", help="the manifest or index, byte for byte"
    )
    shown.add_argument(
        "--config",
        dest="image_config",
        action="store_true",
        help="the config of the image, byte for byte",
    )
    parser.add_argument("--config-file", dest="config", metavar="FILE", help=SUPPRESS)


def run(args: Namespace, session: Session) -> int:
    """Show the images of an archive, or one of a registry."""
    chosen_platforms([args.platform] if args.platform else [])
    reference = image_name(args.source)
    if reference is not None:
        return _run_remote(reference, args, session)
    if args.raw or args.image_config or args.platform:
        raise UsageError(
            "--raw, --config and --platform are for an image in a registry, and "
            f"{args.source!r:.200} is, or looks like, a file"
        )
    return _run_archive(args, session)


def _run_remote(reference: Reference, args: Namespace, session: Session) -> int:
    from .. import remote_image

    with Connections(endpoint(args), session, writes=False) as connections:
        client = connections.client(reference.registry)
        jobs = connections.settings(reference.registry).jobs
        reader = remote_image.RemoteReader(client, reference)
        document = reader.chosen(args.platform)
        if args.raw:
            remote_image.show_raw(document.raw)
            return console.DONE
        if args.image_config:
            remote_image.show_raw(reader.config(document))
            return console.DONE
        images = reader.images(document, session.cancellation, jobs=jobs)
    record = remote_image.record_of(reference, document, images)
    if session.display.json:
        console.json_result(record)
    else:
        remote_image.show(record)
    return console.DONE


def _run_archive(args: Namespace, session: Session) -> int:
    with open_source(args.source, session.cancellation) as source:
        records = [record for image in source.images for record in _records(image)]
    if session.display.json:
        console.json_result({"images": records})
        return console.DONE
    for record in records:
        _print(record)
    return console.DONE


def _records(image: StoredImage) -> Iterator[dict[str, Any]]:
    """One record a platform, the way ``--json`` shows it."""
    from ...archive.stored import manifests

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
        "media_type": layer.actual_type,
        "diff_id": layer.diff_id,
    }


def _print(record: dict[str, Any]) -> None:
    console.result(", ".join(record["tags"]) or "(no name)")
    rows = [
        ("  platform", record["platform"]),
        ("  digest", record["digest"] or "(built when it is pushed)"),
        ("  config", record["config"]["digest"]),
    ]
    if not record["complete"]:
        rows.append(("  note", "parts of it are not in the archive"))
    console.table(rows)
    console.table(
        [("  LAYER", "SIZE", "TYPE")]
        + [
            (
                "  " + str(layer["digest"] or layer["diff_id"] or "?"),
                console.size_text(layer["size"]),
                layer["media_type"],
            )
            for layer in record["layers"]
        ]
    )
