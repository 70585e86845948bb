"""``pull REF [REF ...]``: from a registry into the cache, and into archives."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterator, Sequence

from ..errors import Cancelled, PusherError, SomeFailed, StateError, UsageError
from . import exits, output, places
from .connect import Connections, add_connection_options, add_transfer_options
from .digestfile import check_writable, write_digests
from .options import OPERANDS, chosen_platforms, names_several
from .secrets import add_credential_options

if TYPE_CHECKING:
    from ..cache import Cache, Pins
    from ..pull import PulledImage, PullSource
    from ..reference import Reference
    from .session import Session


def configure(parser: ArgumentParser) -> None:
    """Add the arguments of ``pull``."""
    parser.add_argument(
        "references", metavar="REF", nargs="+", help="registry/repository[:tag|@digest]"
    )
    parser.set_defaults(**{OPERANDS: "references"})
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="also write all of them into this archive or OCI directory; - for "
        "standard output",
    )
    parser.add_argument(
        "--format",
        choices=(*places.FORMS, "json"),
        help="of the output (default: oci-dir for a directory, oci-archive for .oci "
        "and .oci.tar and several platforms, else docker-archive)",
    )
    parser.add_argument(
        "--platform",
        action="append",
        default=[],
        metavar="OS/ARCH",
        help="only this platform (may be repeated), or all (default: all, but "
        "linux/amd64 for a docker-archive)",
    )
    parser.add_argument(
        "--digestfile", metavar="FILE", help="write the manifest's digest to FILE"
    )
    parser.add_argument(
        "-n", "--no-clobber", action="store_true", help="keep an output that exists"
    )
    parser.add_argument(
        "--json", action="store_true", help="one JSON object for each image"
    )
    add_transfer_options(parser)
    add_credential_options(parser)
    add_connection_options(parser)


def run(args: Namespace, session: Session) -> int:
    """Pull what *args* name; the exit code."""
    from ..reference import Reference

    wanted = [_complete(Reference.parse(text)) for text in args.references]
    references = list(dict.fromkeys(wanted))
    form = _form(args)
    chosen_platforms(args.platform)
    if args.digestfile:
        check_writable(args.digestfile)
    with ExitStack() as stack:
        connections = stack.enter_context(Connections(args, session, writes=False))
        needed = form is None
        cache = stack.enter_context(usable_cache(connections, needed=needed))
        pins = stack.enter_context(cache.pins())
        images = _pull_all(references, connections, cache, pins, args)
        if form is not None:
            _write(images, cache, form, args, session)
    if args.digestfile:
        digests = ((str(one.chosen.digest), str(one.reference)) for one in images)
        write_digests(args.digestfile, digests)
    return exits.DONE


def _complete(reference: Reference) -> Reference:
    named = reference.tag or reference.digest
    return reference if named else reference.with_tag("latest")


def _form(args: Namespace) -> str | None:
    """The form of the output; None when there is none. Raises UsageError."""
    form = args.format if args.format in places.FORMS else None
    if args.output is None:
        if form:
            raise UsageError(f"--format {form} needs -o FILE")
        return None
    return places.output_form(
        places.Local(args.output, form),
        several=names_several(args.platform),
        no_clobber=args.no_clobber,
    )


@contextlib.contextmanager
def usable_cache(connections: Connections, *, needed: bool) -> Iterator[Cache]:
    """The cache; unless it is *needed*, one for this run where it cannot be written."""
    from ..cache import Cache
    from ..events import Notice

    cache = Cache(connections.state.path / "cache")
    try:
        with cache.guarded():
            pass
    except StateError as error:
        if needed:
            raise
        connections.session.on_event(Notice(f"{error}; going on without it"))
        with tempfile.TemporaryDirectory(prefix="dockerpush-") as directory:
            yield Cache(Path(directory) / "cache")
        return
    yield cache


def _pull_all(
    references: Sequence[Reference],
    connections: Connections,
    cache: Cache,
    pins: Pins,
    args: Namespace,
) -> list[PulledImage]:
    """All of them, or with an output the first failure."""
    images, failed = [], []
    for reference in references:
        try:
            images.append(_pull_one(reference, connections, cache, pins, args))
        except Cancelled:
            raise
        except PusherError as error:
            if len(references) == 1 or args.output is not None:
                raise
            connections.session.end_progress()
            output.say(f"failed: {reference}: {error}")
            failed.append(str(reference))
    if failed:
        raise SomeFailed(
            f"{len(failed)} of {len(references)} pulls failed: {', '.join(failed[:5])}"
        )
    return images


def _pull_one(
    reference: Reference,
    connections: Connections,
    cache: Cache,
    pins: Pins,
    args: Namespace,
) -> PulledImage:
    from ..oci import Platform
    from ..pull import pull_image

    started = time.monotonic()
    docker = _form(args) == places.DOCKER_ARCHIVE
    image = pull_image(
        source_of(reference, connections, cache, pins),
        reference,
        platforms=chosen_platforms(args.platform),
        default=Platform("linux", "amd64") if docker else None,
    )
    connections.session.end_progress()
    _report(image, time.monotonic() - started, args)
    return image


def source_of(
    reference: Reference, connections: Connections, cache: Cache, pins: Pins
) -> PullSource:
    """Where *reference* is pulled from, into *cache*."""
    from ..pull import PullSource

    session = connections.session
    return PullSource(
        connections.client(reference.registry),
        reference.repository,
        cache,
        pins,
        session.cancellation,
        session.on_event,
        connections.settings(reference.registry).jobs,
    )


def _report(image: PulledImage, seconds: float, args: Namespace) -> None:
    reference = image.reference
    name = f"{reference.registry}/{reference.repository}"
    to_stdout = args.output == places.STDOUT
    if args.json or args.format == "json":
        if not to_stdout:
            output.json_result(_record(image, seconds))
    elif not to_stdout:
        output.result(f"{name}@{image.chosen.digest}")
    if not args.quiet:
        output.say(
            f"pulled {reference}: {image.blobs} blobs, "
            f"{output.size_text(image.received)} received in {seconds:.1f} s"
        )


def _record(image: PulledImage, seconds: float) -> dict[str, Any]:
    reference = image.reference
    return {
        "source": str(reference),
        "ref": f"{reference.registry}/{reference.repository}@{image.chosen.digest}",
        "digest": image.chosen.digest,
        "mediaType": image.chosen.media_type,
        "root": image.root.digest,
        "blobs": image.blobs,
        "bytes": image.received,
        "seconds": round(seconds, 3),
    }


def _write(
    images: Sequence[PulledImage],
    cache: Cache,
    form: str,
    args: Namespace,
    session: Session,
) -> None:
    from ..pull.export import export

    to_stdout = args.output == places.STDOUT
    export(
        images,
        cache,
        sys.stdout.buffer if to_stdout else Path(args.output),
        form=form,
        cancellation=session.cancellation,
        no_clobber=args.no_clobber,
    )
    if not args.quiet:
        output.say(f"wrote {args.output} ({form})")
