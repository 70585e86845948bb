"""``pull REF [REF ...]``: from a registry into the cache, and into archives."""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Sequence

from ...errors import StateError, UsageError
from .. import console, location
from .. import console as exits
from .. import location as places
from ..endpoints import (
    Connections,
    add_connection_options,
    add_credential_options,
    add_transfer_options,
)
from ..options import OPERANDS, USED, chosen_platforms, warn_of_json
from ..report import Tally, check_writable, write_digests

if TYPE_CHECKING:
    from ...reference import Reference
    from ...transfer.choices import PulledImage
    from ..local import Into
    from ..session import Session

from ..cached import pulled, receiving_options, registry_source, usable_cache


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
        "and .oci.tar, else docker-archive)",
    )
    parser.add_argument(
        "--platform",
        action="append",
        default=[],
        metavar="OS/ARCH",
        help="only this platform (may be repeated), or all (default: all, but "
        "linux/amd64 for a docker-archive, with a warning)",
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
    add_transfer_options(parser, USED["pull"])
    add_credential_options(parser)
    add_connection_options(parser)


def run(args: Namespace, session: Session) -> int:
    """Pull what *args* name; the exit code."""
    wanted = [_complete(_reference(text)) for text in args.references]
    references = list(dict.fromkeys(wanted))
    form = _form(args)
    chosen_platforms(args.platform)
    if args.digestfile:
        check_writable(args.digestfile)
    with Connections(args, session, writes=False) as connections:
        if form is None:
            images = _into_cache(references, connections, args)
        else:
            images = _into_file(references, form, connections, args)
    if args.digestfile:
        digests = ((str(one.chosen.digest), str(one.reference)) for one in images)
        write_digests(args.digestfile, digests)
    return exits.DONE


def _reference(text: str) -> Reference:
    return location.source(text, if_file=f"to write a file: -o {text}")


def _complete(reference: Reference) -> Reference:
    named = reference.tag or reference.digest
    return reference if named else reference.with_tag("latest")


def _form(args: Namespace) -> str | None:
    """The form of the output; None when there is none. Raises UsageError."""
    form = _said_form(args)
    if args.output is None:
        if form:
            raise UsageError(f"--format {form} needs -o FILE")
        if args.no_clobber:
            console.warn("pull does not use --no-clobber without -o; leave it out")
        return None
    if args.output == places.STDOUT:
        warn_of_json("pull", args)
    if args.no_clobber and args.output != places.STDOUT and Path(args.output).exists():
        raise UsageError(f"{args.output} exists, and stays as it is")
    return places.output_form(
        places.Local(args.output, form), no_clobber=args.no_clobber
    )


def _said_form(args: Namespace) -> str | None:
    return args.format if args.format in places.FORMS else None


def _into(form: str, args: Namespace) -> Into:
    """The output of *form*; a docker-archive gets one platform if nobody says more."""
    from ...transfer.loadable import LINUX_AMD64
    from ..local import Into

    one = form == places.DOCKER_ARCHIVE and not args.platform
    place = places.Local(args.output, _said_form(args))
    return Into(place, form, args.no_clobber, LINUX_AMD64 if one else None)


def _into_cache(
    references: Sequence[Reference], connections: Connections, args: Namespace
) -> list[PulledImage]:
    """Pull all of them, whatever becomes of one. Raises SomeFailed."""
    images = []
    tally = Tally("pulls", connections.session)
    tally.expect(len(references))
    with usable_cache(connections, needed=True) as cache, cache.pins() as pins:
        for reference in references:
            with tally.attempt(str(reference)):
                started = time.monotonic()
                image = pulled(reference, connections, cache, pins=pins, args=args)
                _report(image, time.monotonic() - started, args)
                images.append(image)
    tally.finish()
    return images


def _into_file(
    references: Sequence[Reference],
    form: str,
    connections: Connections,
    args: Namespace,
) -> list[PulledImage]:
    """Pull all of them through the cache, and without it where it cannot be used."""
    from ...events import Notice

    session, started = connections.session, time.monotonic()
    into = _into(form, args)
    try:
        images = _through_cache(references, into, connections, args)
    except StateError as error:
        session.on_event(Notice(f"{error}; going on without the cache"))
        images = _without_cache(references, into, connections, args)
    seconds = time.monotonic() - started
    _warn(images, args, session)
    session.end_progress()
    for image in images:
        _report(image, seconds, args)
    if not args.quiet:
        console.say(f"wrote {args.output} ({form})")
    return images


def _through_cache(
    references: Sequence[Reference],
    into: Into,
    connections: Connections,
    args: Namespace,
) -> list[PulledImage]:
    """Into the cache and the output in one pass. Raises StateError."""
    from ...transfer.pull import Pull, notices_of, pull_images
    from ..local import names_in

    session = connections.session
    options = receiving_options(references, connections, args)
    listener = notices_of(session.on_event)
    with ExitStack() as stack:
        cache = stack.enter_context(usable_cache(connections, needed=True))
        pins = stack.enter_context(cache.pins())
        return pull_images(
            [
                Pull(
                    registry_source(one, connections), one, names_in(into, (str(one),))
                )
                for one in references
            ],
            cache,
            pins,
            options=options,
            only=into.only,
            into=stack.enter_context(
                into.opened(options, session, listener, resumable=False)
            ),
            cancellation=stack.enter_context(session.cancellation.child()),
            on_event=session.on_event,
        )


def _without_cache(
    references: Sequence[Reference],
    into: Into,
    connections: Connections,
    args: Namespace,
) -> list[PulledImage]:
    """Straight into the output, as ``copy`` does it."""
    from ...transfer.choices import PulledImage
    from ..local import Origin, copy_to_file

    origins = [
        Origin(
            registry_source(one, connections),
            str(one.digest or one.tag),
            str(one),
            (str(one),),
        )
        for one in references
    ]
    options = receiving_options(references, connections, args)
    results = copy_to_file(origins, into, options, connections.session)
    return [
        PulledImage(
            reference,
            result.whole or result.descriptor,
            result.descriptor,
            sum(result.blobs.values()),
            result.sent,
            result.taken,
        )
        for reference, (_, result) in zip(references, results)
        if result is not None
    ]


def _warn(images: Sequence[PulledImage], args: Namespace, session: Session) -> None:
    """Say which of *images* have more platforms than the output holds."""
    place = "standard output" if args.output == places.STDOUT else args.output
    for image in images:
        if image.taken:
            of = f" of {image.reference}" if len(images) > 1 else ""
            session.on_event(image.taken.notice(place, "--platform all", of))


def _report(image: PulledImage, seconds: float, args: Namespace) -> None:
    reference = image.reference
    name = f"{reference.registry}/{reference.repository}"
    to_stdout = args.output == places.STDOUT
    with console.enduring():
        if to_stdout:
            pass
        elif args.json or args.format == "json":
            console.json_result(_record(image, seconds))
        else:
            console.result(f"{name}@{image.chosen.digest}")
    if not args.quiet:
        console.say(
            f"pulled {reference}: {image.blobs} blobs, "
            f"{console.size_text(image.received)} received in {seconds:.1f} s"
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
