"""``inspect SOURCE``: what an archive holds, or an image of a registry.

No layer of a registry is downloaded.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Iterator, Sequence

from ...errors import UsageError
from ...oci import parse_json
from ...strict_json import CONFIG
from .. import console, location
from ..endpoints import Connections
from ..image_sources import image_name
from ..inspected import Inspected, contents_of, runtime_settings, settings_rows
from ..options import (
    OPERANDS,
    RARE,
    add_volumes_option,
    chosen_platforms,
)
from ..report import Outcomes
from ..side_options import add_registry_options, endpoint

if TYPE_CHECKING:
    from ...archive.stored import StoredBlob, StoredImage, StoredManifest
    from ...oci import Descriptor
    from ...reference import Reference
    from ..session import Session

_SHOWN = 40  # names of fields in an error


def configure(parser: ArgumentParser) -> None:
    """Add the arguments of ``inspect``."""
    parser.add_argument(
        "sources",
        metavar="SOURCE",
        nargs="+",
        help="a tar archive, a directory, or an image of a registry by its reference",
    )
    parser.set_defaults(**{OPERANDS: "sources"})
    parser.add_argument(
        "--json", action="store_true", help="print a JSON object for each SOURCE"
    )
    parser.add_argument(
        "--format",
        metavar="PATH",
        help="print one value of what --json shows, by a path such as "
        "images.0.env; json is the same as --json",
    )
    parser.add_argument(
        "--platform", metavar="OS/ARCH", help="only this platform of a registry's image"
    )
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument(
        "--raw",
        action="store_true",
        help="print the manifest or index of a registry, byte for byte",
    )
    shown.add_argument(
        "--image-config",
        action="store_true",
        help="print the config of an image of a registry, byte for byte",
    )
    add_volumes_option(parser.add_argument_group(RARE))
    add_registry_options(parser)


def run(args: Namespace, session: Session) -> int:
    """Show the images of archives and registries; the exit code."""
    chosen_platforms([args.platform] if args.platform else [])
    sources = list(map(location.archive_path, args.sources))
    tally = Outcomes("sources", session)
    tally.expect(len(sources))
    found = 0
    with ExitStack() as stack:
        connections = None
        if any(map(image_name, sources)):
            connections = Connections(endpoint(args), session, writes=False)
            stack.enter_context(connections)
        for source in sources:
            with tally.attempt(source):
                _show(source, args, session, connections, first=not found)
                found += 1
    tally.finish()
    return console.DONE


def _show(
    source: str,
    args: Namespace,
    session: Session,
    connections: Connections | None,
    *,
    first: bool,
) -> None:
    """Show one archive, or one image of a registry, which needs *connections*."""
    reference = image_name(source) if connections else None
    byte_for_byte = args.raw or args.image_config
    if connections and reference and byte_for_byte:
        _show_bytes(reference, args, connections)
        return
    if reference is None and (byte_for_byte or args.platform):
        raise UsageError(
            "--raw, --image-config and --platform are for an image in a registry, and "
            f"{source!r:.200} is, or looks like, a file"
        )
    if connections and reference:
        record = _remote_record(reference, args.platform, connections)
    else:
        hashed = session.display.json or bool(args.format)
        record = _archive_record(source, session, hashed=hashed)
    if args.format and args.format != "json":
        console.result(value_at(args.format, record))
    elif session.display.json:
        console.json_result(record)
    else:
        if not first:
            console.result("")
        _print(record)


def _show_bytes(
    reference: Reference, args: Namespace, connections: Connections
) -> None:
    from .. import remote_image

    client = connections.client(reference.registry)
    reader = remote_image.RemoteReader(client, reference)
    document = reader.chosen(args.platform)
    raw = document.raw if args.raw else reader.config(document)
    remote_image.show_raw(raw)


def _remote_record(
    reference: Reference, platform: str | None, connections: Connections
) -> dict[str, Any]:
    from .. import remote_image

    session = connections.session
    client = connections.client(reference.registry)
    jobs = connections.settings(reference.registry).jobs
    reader = remote_image.RemoteReader(client, reference)
    document = reader.chosen(platform)
    images = reader.images(document, session.cancellation, jobs=jobs)
    return remote_image.record_of(reference, document, images)


def _archive_record(path: str, session: Session, *, hashed: bool) -> dict[str, Any]:
    with contents_of(path, session.cancellation, hashed=hashed) as found:
        records = [one for image in found.images for one in _records(image, found)]
        broken = [_broken(image) for image in found.images if image.problem]
    for notice in [one for image in found.images for one in image.notices]:
        session.on_event(notice)
    return {"images": records, **({"broken": broken} if broken else {})}


def value_at(path: str, record: Any) -> str:
    """The value of *record* at the dotted *path*; a text as it is, else JSON.

    Raises UsageError, which says what there is.
    """
    if "{{" in path:
        raise UsageError(
            f"--format {path:.200}: it takes a path, no template: --format digest"
        )
    found, there = record, ""
    for part in path.strip(".").split("."):
        known = _parts(found)
        if part not in known:
            shown = ", ".join(list(known)[:_SHOWN]) or "nothing"
            raise UsageError(
                f"--format {path:.200}: {there or 'it'} has no {part[:80]!r}; it has "
                + shown
            )
        found, there = known[part], f"{there}.{part}".strip(".")
    return found if isinstance(found, str) else json.dumps(found)


def _parts(found: Any) -> dict[str, Any]:
    """What a path can continue with."""
    if isinstance(found, list):
        return {str(number): one for number, one in enumerate(found)}
    return found if isinstance(found, dict) else {}


def _print(record: dict[str, Any]) -> None:
    """*record* for people."""
    if "ref" in record:
        from .. import remote_image

        remote_image.show(record)
        return
    for image in record["images"]:
        _print_stored(image)
    for one in record.get("broken", ()):
        console.warn(f"{', '.join(one['tags'])}: {one['problem']}")


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
        **runtime_settings(_config(manifest)),
        "layers": [_layer(layer, found) for layer in layers],
    }


def _config(manifest: StoredManifest | None) -> Any:
    """The config of an image; {} for an artifact, and for one that is not there."""
    if manifest is None or manifest.image_config is None or manifest.config is None:
        return {}
    return parse_json(manifest.config, "config", CONFIG)


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


def _print_stored(record: dict[str, Any]) -> None:
    console.result(", ".join(record["tags"]) or "(no name)")
    rows = [
        ("  platform", record["platform"]),
        ("  digest", record["digest"] or "(built when it is pushed)"),
    ]
    if record["config"]:
        rows.append(("  config", record["config"]["digest"]))
    else:
        rows.append(("  type", record["mediaType"]))
    rows += settings_rows(record)
    if not record["complete"]:
        rows.append(("  note", "parts of it are not in the archive"))
    console.table((name, console.printable(text)) for name, text in rows)
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
