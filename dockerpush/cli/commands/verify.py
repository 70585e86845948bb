"""``verify SOURCE [WHERE]``: proof that images are whole, here or in a registry."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import UsageError
from .. import console, location
from ..endpoints import Connections
from ..image_sources import image_name
from ..options import (
    OPERANDS,
    RARE,
    USED,
    add_json_option,
    add_transfer_options,
    add_volumes_option,
)
from ..side_options import add_registry_options, endpoint
from ..text_files import STDIN

if TYPE_CHECKING:
    from ..session import Session

_LOOKED_AT = 512  # bytes that tell a list from an archive


def configure(parser: ArgumentParser) -> None:
    """Add the arguments of ``verify``."""
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="tar archive, its first volume, or directory; or a list of images",
    )
    parser.add_argument(
        "reference",
        metavar="WHERE",
        nargs="?",
        help="REF to compare the image of an archive with; for a list, "
        "REGISTRY[/PREFIX], oci:DIR or oci-archive:FILE; without it, SOURCE itself is "
        "proved",
    )
    parser.set_defaults(**{OPERANDS: "reference"})
    parser.add_argument(
        "--name",
        metavar="NAME",
        help="compare this image, where the archive holds several",
    )
    parser.add_argument(
        "--scoped", action="store_true", help="for a list, as sync --scoped"
    )
    add_json_option(parser, "print one JSON object")
    add_transfer_options(parser, USED["verify"])
    add_volumes_option(parser.add_argument_group(RARE))
    add_registry_options(parser)


def run(args: Namespace, session: Session) -> int:
    """Read everything, and say what is wrong; the exit code."""
    from .. import proofs

    args.source = _source(args.source)
    where = args.reference
    if where is None:
        if args.name or args.scoped:
            raise UsageError("--name and --scoped need WHERE, which is missing")
        return proofs.of_archive(args.source, endpoint(args), session)
    here = location.directory(where) or location.archive(where)
    if here is not None:
        if Path(args.source).exists() and not _is_list(args.source):
            raise UsageError(
                f"{args.source} is no list of images, which {where} could be compared "
                f"with; to prove {here} itself: dockerpush verify {here}"
            )
        return proofs.of_list_in_layout(args.source, here, endpoint(args), session)
    if _is_list(args.source):
        place = location.place(where)
        return proofs.of_list_in_registry(
            args.source, place, endpoint(args), session, scoped=args.scoped
        )
    return _compare(args, session)


def _source(text: str) -> str:
    """The path that *text* means. Raises UsageError for an image of a registry."""
    path = location.archive_path(text)
    if path != text or (reference := image_name(text)) is None:
        return path
    raise UsageError(
        f"{reference} is an image of a registry, and verify compares one with an "
        f"archive: dockerpush verify image.tar {reference}"
    )


def _is_list(source: str) -> bool:
    """True for a file that is text, and so no archive."""
    path = Path(source)
    if source == STDIN or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            head = file.read(_LOOKED_AT)
    except OSError:
        return False  # whoever opens it says why
    return bool(head) and b"\0" not in head and _is_text(head)


def _is_text(head: bytes) -> bool:
    text = head.decode("utf-8", "ignore")
    return len(text.encode()) > len(head) - 4 and all(
        one.isprintable() or one.isspace() or one == "\ufeff" for one in text
    )


def _compare(args: Namespace, session: Session) -> int:
    """Download everything that the archive's image needs, and compare."""
    from ...archive import select_image
    from ...transfer.choices import PushOptions
    from ..image_sources import ImagePush, open_source

    reference = location.source(args.reference)
    with open_source(args.source, session.cancellation) as source:
        image = select_image(source.images, args.name)
        with Connections(endpoint(args), session, writes=False) as connections:
            options = PushOptions(jobs=connections.settings(reference.registry).jobs)
            named = str(reference.digest or reference.tag or "latest")
            with connections.target(reference) as target:
                found = source.verify(ImagePush(target, image, (named,), options))
    session.end_progress()
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
            f"verified {reference}: {found.digest}, "
            f"{console.counted(found.blobs, 'layer')}, "
            f"{console.size_text(found.size)} read back"
        )
    return console.DONE
