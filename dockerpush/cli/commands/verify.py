"""``verify ARCHIVE REF``: proof that a registry holds what an archive holds."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from .. import console, location
from ..endpoints import Connections
from ..options import (
    RARE,
    USED,
    add_connection_options,
    add_credential_options,
    add_json_option,
    add_transfer_options,
    endpoint,
)
from ..report import compare
from ..volume_options import add_volumes_option

if TYPE_CHECKING:
    from ..session import Session


def configure(parser: ArgumentParser) -> None:
    """Add the arguments of ``verify``."""
    parser.add_argument("source", metavar="ARCHIVE", help="tar archive or directory")
    parser.add_argument("reference", metavar="REF", help="what to compare it with")
    parser.add_argument(
        "--name",
        metavar="NAME",
        help="compare this image, where the archive holds several",
    )
    add_json_option(parser, "print one JSON object")
    add_transfer_options(parser, USED["verify"])
    add_volumes_option(parser.add_argument_group(RARE))
    add_credential_options(parser)
    add_connection_options(parser)


def run(args: Namespace, session: Session) -> int:
    """Download everything that the archive's image needs, and compare."""
    from ...archive import select_image
    from ..image_sources import open_source

    reference = location.source(args.reference)
    with open_source(args.source, session.cancellation) as source:
        image = select_image(source.images, args.name)
        with Connections(endpoint(args), session, writes=False) as connections:
            found = compare(connections, image, reference)
    if session.display.json:
        console.json_result(
            {
                "target": str(reference),
                "digest": found.digest,
                "verified": True,
                "blobs": found.blobs,
                "bytes": found.size,
            }
        )
    else:
        console.result(
            f"verified {reference}: {found.digest}, {found.blobs} layers, "
            f"{console.size_text(found.size)} read back"
        )
    return console.DONE
