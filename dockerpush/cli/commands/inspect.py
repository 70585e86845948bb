"""``inspect SOURCE``: what an archive holds, or an image of a registry.

No layer of a registry is downloaded.
"""

from __future__ import annotations

from argparse import SUPPRESS, ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any, Iterator, Sequence

from ...errors import UsageError
from .. import console
from ..endpoints import Connections
from ..image_sources import image_name
from ..inspected import Inspected, contents_of
from ..options import (
    add_connection_options,
    add_credential_options,
    chosen_platforms,
    endpoint,
)

if TYPE_CHECKING:
    from ...archive.stored import StoredBlob, StoredImage, StoredManifest
    from ...oci import Descriptor
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
    as_json = session.display.json
    with contents_of(args.source, session.cancellation, hashed=as_json) as found:
        records = [one for image in found.images for one in _records(image, found)]
        broken = [_broken(image) for image in found.images if image.problem]
    for notice in [one for image in found.images for one in image.notices]:
        session.on_event(notice)
    if as_json:
        console.json_result(
            {"images": records, **({"broken": broken} if broken else {})}
        )
        return console.DONE
    for record in records:
        _print(record)
    for one in broken:
        console.warn(f"{', '.join(one['tags'])}: {one['problem']}")
    return console.DONE


def _broken(image: StoredImage) -> dict[str, Any]:
    return {"tags": [*image.names, *image.tags], "problem": image.problem}


def _records(image: StoredImage, found: Inspected) -> Iterator[dict[str, Any]]:
    """One record a manifest, the way ``--json`` shows it.

    The blobs that an index names itself, as BuildKit's cache does, have one for all.
    """
    from ...archive.stored import StoredManifest, StoredOther, leaves

    root = image.root or image.entry
    blobs: list[StoredBlob] = []
    for leaf in leaves(root):
        if isinstance(leaf, StoredOther) and leaf.raw is None:
            blobs += leaf.layers
        elif isinstance(leaf, StoredManifest):
            yield _record(image, leaf.descriptor, leaf, leaf.layers, found)
        elif isinstance(leaf, StoredOther):
            yield _record(image, leaf.descriptor, None, leaf.layers, found)
    if root and (blobs or not any(True for _ in leaves(root))):
        yield _record(image, root.descriptor, None, blobs, found)


def _record(
    image: StoredImage,
    descriptor: Descriptor | None,
    manifest: StoredManifest | None,
    layers: Sequence[StoredBlob],
    found: Inspected,
) -> dict[str, Any]:
    from ...archive.stored import is_complete

    config = manifest.config_descriptor if manifest else None
    whole = manifest.complete if manifest else all(map(is_complete, layers))
    return {
        "tags": [*image.names, *image.tags],
        "platform": _platform(manifest) if manifest else "unknown",
        "digest": descriptor.digest if descriptor else None,
        "mediaType": descriptor.media_type if descriptor else None,
        "config": {"digest": config.digest, "size": config.size} if config else None,
        "complete": whole,
        "layers": [_layer(layer, found) for layer in layers],
    }


def _platform(manifest: StoredManifest) -> str:
    if manifest.descriptor and manifest.descriptor.platform:
        return str(manifest.descriptor.platform)
    return str(manifest.image_config.platform) if manifest.image_config else "unknown"


def _layer(layer: StoredBlob, found: Inspected) -> dict[str, Any]:
    return {
        "digest": layer.digest or found.digest_of(layer),
        "size": layer.size,
        "mediaType": layer.actual_type,
        "diff_id": layer.diff_id,
    }


def _print(record: dict[str, Any]) -> None:
    console.result(", ".join(record["tags"]) or "(no name)")
    rows = [
        ("  platform", record["platform"]),
        ("  digest", record["digest"] or "(built when it is pushed)"),
    ]
    if record["config"]:
        rows.append(("  config", record["config"]["digest"]))
    else:
        rows.append(("  type", record["mediaType"]))
    if not record["complete"]:
        rows.append(("  note", "parts of it are not in the archive"))
    console.table(rows)
    console.table(
        [("  LAYER", "SIZE", "TYPE")]
        + [
            (
                "  " + str(layer["digest"] or layer["diff_id"] or "?"),
                console.size_text(layer["size"]),
                layer["mediaType"],
            )
            for layer in record["layers"]
        ]
    )
