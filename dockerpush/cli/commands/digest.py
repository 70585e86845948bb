"""``digest REF``: the digest that a tag stands for now."""

from __future__ import annotations

from argparse import SUPPRESS, ArgumentParser, Namespace
from typing import TYPE_CHECKING

from ...errors import NotFound
from .. import console, location
from ..endpoints import Connections
from ..options import add_connection_options, add_credential_options, endpoint

if TYPE_CHECKING:
    from ..session import Session


def configure(parser: ArgumentParser) -> None:
    """Add the arguments of ``digest``."""
    parser.add_argument("reference", metavar="REF", help="registry/repository[:tag]")
    parser.add_argument(
        "--full-ref", action="store_true", help="registry/repository@digest"
    )
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    parser.add_argument("--format", choices=("json",), help=SUPPRESS)
    add_credential_options(parser)
    add_connection_options(parser)


def run(args: Namespace, session: Session) -> int:
    """Ask the registry, without fetching the manifest. Raises NotFound."""
    reference = location.source(args.reference)
    named = str(reference.digest or reference.tag or "latest")
    with Connections(endpoint(args), session, writes=False) as connections:
        client = connections.client(reference.registry)
        found = client.manifest_descriptor(reference.repository, named)
    if found is None:
        raise NotFound(
            f"{reference}: the registry has no such image; see 'dockerpush tags "
            f"{reference.name}'"
        )
    full = f"{reference.name}@{found.digest}"
    if session.display.json:
        console.json_result(
            {
                "ref": full,
                "digest": found.digest,
                "mediaType": found.media_type,
                "size": found.size,
            }
        )
    else:
        console.result(full if args.full_ref else found.digest)
    return console.DONE
