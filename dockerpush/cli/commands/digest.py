"""``digest REF``: the digest that a tag stands for now."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from ...errors import NotFound
from ...registry.refusals import absence
from .. import console, location
from ..endpoints import Connections
from ..options import (
    OPERANDS,
    add_json_option,
    chosen_platforms,
)
from ..report import Outcomes
from ..side_options import add_registry_options, endpoint

if TYPE_CHECKING:
    from ...oci import Descriptor
    from ...reference import Reference
    from ..session import Session


def configure(parser: ArgumentParser) -> None:
    """Add the arguments of ``digest``."""
    parser.add_argument(
        "references", metavar="REF", nargs="+", help="REGISTRY/REPO[:TAG]"
    )
    parser.set_defaults(**{OPERANDS: "references"})
    parser.add_argument(
        "--platform",
        metavar="OS/ARCH",
        help="show the digest of the image for this platform (default: of all)",
    )
    parser.add_argument(
        "--full-ref", action="store_true", help="print REGISTRY/REPO@DIGEST"
    )
    add_json_option(parser, "print a JSON object for each image")
    add_registry_options(parser)


def run(args: Namespace, session: Session) -> int:
    """Ask the registry, without fetching the image. Raises NotFound, SomeFailed."""
    references = [
        location.source(text, if_file=f"see: dockerpush inspect {text}")
        for text in args.references
    ]
    chosen_platforms([args.platform] if args.platform else [])
    tally = Outcomes("images", session)
    tally.expect(len(references))
    with Connections(endpoint(args), session, writes=False) as connections:
        for reference in references:
            with tally.attempt(str(reference)):
                found = _descriptor(reference, args.platform, connections)
                _print(reference, found, session, full=args.full_ref)
    tally.finish()
    return console.DONE


def _descriptor(
    reference: Reference, platform: str | None, connections: Connections
) -> Descriptor:
    """What *reference* names, or what of it is for *platform*. Raises NotFound."""
    client = connections.client(reference.registry)
    if platform is not None:
        from ..remote_image import RemoteReader  # a plain digest reads no manifest

        return RemoteReader(client, reference).chosen(platform).descriptor
    named = str(reference.digest or reference.tag or "latest")
    found = client.manifest_descriptor(reference.repository, named)
    if found is None:
        raise NotFound(absence(reference.name, named))
    return found


def _print(
    reference: Reference, found: Descriptor, session: Session, *, full: bool
) -> None:
    shown = f"{reference.name}@{found.digest}"
    if session.display.json:
        console.json_result(
            {
                "ref": shown,
                "digest": found.digest,
                "mediaType": found.media_type,
                "size": found.size,
            }
        )
    else:
        console.result(shown if full else found.digest)
