"""``pull REF [REF ...]``: from a registry into the cache, and into archives."""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Sequence

from ...errors import CacheError, UsageError
from ...transfer.choices import DOCKER_ARCHIVE, FORMS
from ...values import replace, value
from .. import console, location
from ..choose_target import with_tag
from ..endpoints import Connections
from ..have import add_have_option, read_have
from ..image_files import (
    ImageOrigin,
    ImageOutput,
    check_sums,
    copy_to_file,
    exists,
    names_in,
    output_form,
    say_volumes,
)
from ..image_sources import pulled, receiving_options, registry_source, usable_cache
from ..options import (
    OPERANDS,
    RARE,
    USED,
    add_digestfile_option,
    add_platform_option,
    add_split_option,
    add_sums_option,
    add_transfer_options,
    add_volumes_option,
    chosen_platforms,
    warn_of_json,
)
from ..report import Outcomes, check_writable, skipped, write_digests
from ..side_options import add_registry_options, endpoint

if TYPE_CHECKING:
    from ...oci import Platform
    from ...reference import Reference
    from ...transfer.choices import PulledImage
    from ..console import Display
    from ..session import Session


def configure(parser: ArgumentParser) -> None:
    """Add the arguments of ``pull``."""
    parser.add_argument(
        "references", metavar="REF", nargs="+", help="REGISTRY/REPO[:TAG|@DIGEST]"
    )
    parser.set_defaults(**{OPERANDS: "references"})
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="also write the images to this archive or OCI directory; - "
        "for standard output",
    )
    parser.add_argument(
        "--format",
        choices=(*FORMS, "json"),
        help="form of the output (default: oci-dir for a directory, oci-archive for "
        ".oci and .oci.tar, else docker-archive); json is the same as --json",
    )
    add_platform_option(
        parser,
        "pull only this platform (repeatable), or all (default: all; linux/amd64 for a "
        "docker-archive, with a warning)",
    )
    parser.add_argument(
        "-n", "--no-clobber", action="store_true", help="keep an output that exists"
    )
    parser.add_argument(
        "--no-cache", action="store_true", help="with -o: leave the cache alone"
    )
    add_have_option(parser)
    add_split_option(parser)
    add_sums_option(parser)
    add_digestfile_option(parser)
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object for each image"
    )
    add_volumes_option(parser.add_argument_group(RARE))
    add_transfer_options(parser, USED["pull"])
    add_registry_options(parser)


@value
class PullRequest:
    """What one ``pull`` is asked for; without an *output* only the cache is filled."""

    references: tuple[Reference, ...]
    platforms: tuple[Platform, ...] = ()
    output: ImageOutput | None = None
    digestfile: str | None = None
    no_cache: bool = False

    @property
    def to_stdout(self) -> bool:
        """True when the archive goes to standard output."""
        return self.output is not None and self.output.place.path == location.STDOUT


def run(args: Namespace, session: Session) -> int:
    """Pull what *args* name; the exit code."""
    wanted = [with_tag(_reference(text)) for text in args.references]
    request = PullRequest(
        tuple(dict.fromkeys(wanted)),
        chosen_platforms(args.platform),
        _output(args, session.display),
        args.digestfile,
        args.no_cache,
    )
    output = request.output
    if output and output.no_clobber and _exists(output):
        skipped(" ".join(args.references), output.place.path, session.display)
        return console.DONE
    if request.digestfile:
        check_writable(request.digestfile)
    with Connections(endpoint(args), session, writes=False) as connections:
        if output is None:
            images = _into_cache(request, connections)
        else:
            output = replace(output, have=read_have(args.have, connections))
            images = _into_file(request, output, connections)
    if request.digestfile:
        digests = ((str(one.chosen.digest), str(one.reference)) for one in images)
        write_digests(request.digestfile, digests)
    return console.DONE


def _exists(output: ImageOutput) -> bool:
    is_there = Path(output.place.path).exists()
    return is_there or exists(output.place, output.form, output.split)


def _reference(text: str) -> Reference:
    return location.source(text, if_file=f"to write a file: -o {text}")


def _output(args: Namespace, display: Display) -> ImageOutput | None:
    """Where to write to; None when there is none. Raises UsageError.

    A docker-archive gets one platform if nobody says more.
    """
    from ...transfer.archive_target import LINUX_AMD64

    wanted = args.format if args.format in FORMS else None
    if args.output is None:
        if wanted:
            raise UsageError(f"--format {wanted} needs -o FILE")
        if args.split:
            raise UsageError("--split needs -o FILE")
        check_sums(sums=args.sums, is_directory=False)
        if args.have:
            raise UsageError("--have needs -o FILE")
        if args.no_cache:
            raise UsageError("--no-cache needs -o FILE: without, pull fills the cache")
        if args.no_clobber:
            console.warn("pull does not use --no-clobber without -o; leave it out")
        return None
    place = location.output(args.output) or location.Local(args.output)
    if place.name is not None:
        raise UsageError(
            f"{args.output!r:.200}: pull keeps the names of images; for another name: "
            f"dockerpush copy REF {args.output:.200}"
        )
    if wanted and place.form not in (None, wanted):
        raise UsageError(f"--format {wanted} and {args.output!r:.200} contradict")
    place = location.Local(place.path, place.form or wanted)
    if place.path == location.STDOUT:
        warn_of_json("pull", display)
    form = output_form(place, args.split, sums=args.sums, is_delta=bool(args.have))
    one = form == DOCKER_ARCHIVE and not args.platform
    only = LINUX_AMD64 if one else None
    return ImageOutput(place, form, args.no_clobber, only, args.split, args.sums)


def _into_cache(request: PullRequest, connections: Connections) -> list[PulledImage]:
    """Pull all of them, whatever becomes of one. Raises SomeFailed."""
    images = []
    tally = Outcomes("pulls", connections.session)
    tally.expect(len(request.references))
    with usable_cache(connections, needed=True) as cache, cache.pins() as pins:
        for reference in request.references:
            with tally.attempt(str(reference)):
                started = time.monotonic()
                image = pulled(
                    reference,
                    connections,
                    cache,
                    pins=pins,
                    platforms=request.platforms,
                )
                _report(image, time.monotonic() - started, request, connections.session)
                images.append(image)
    tally.finish()
    return images


def _into_file(
    request: PullRequest, into: ImageOutput, connections: Connections
) -> list[PulledImage]:
    """Pull all of them through the cache, and without it where it cannot be used."""
    from ...events import Notice

    session, started = connections.session, time.monotonic()
    if request.no_cache or into.have:  # the cache would lack what is left out
        images = _without_cache(request, into, connections)
    else:
        try:
            images = _through_cache(request, into, connections)
        except CacheError as error:
            degraded = Notice(f"{error}; continuing without the cache", warning=True)
            session.on_event(degraded)
            images = _without_cache(request, into, connections)
    seconds = time.monotonic() - started
    _warn(images, request, session)
    session.end_progress()
    for image in images:
        _report(image, seconds, request, session)
    if not session.display.quiet:
        if into.split:
            say_volumes(Path(into.place.path))
        else:
            console.say(f"wrote {into.place.path} ({into.form})")
    return images


def _through_cache(
    request: PullRequest, into: ImageOutput, connections: Connections
) -> list[PulledImage]:
    """Into the cache and the output in one pass. Raises CacheError."""
    from ...transfer.pull import Pull, notices_of, pull_images

    session = connections.session
    options = receiving_options(request.references[0], connections, request.platforms)
    listener = notices_of(session.on_event)
    with ExitStack() as stack:
        cache = stack.enter_context(usable_cache(connections, needed=True))
        pins = stack.enter_context(cache.pins())
        return pull_images(
            [
                Pull(
                    registry_source(one, connections), one, names_in(into, (str(one),))
                )
                for one in request.references
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
    request: PullRequest, into: ImageOutput, connections: Connections
) -> list[PulledImage]:
    """Straight into the output, as ``copy`` does it."""
    from ...transfer.choices import PulledImage

    origins = [
        ImageOrigin(
            registry_source(one, connections),
            str(one.digest or one.tag),
            str(one),
            (str(one),),
        )
        for one in request.references
    ]
    options = receiving_options(request.references[0], connections, request.platforms)
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
        for reference, (_, result) in zip(request.references, results)
        if result is not None
    ]


def _warn(
    images: Sequence[PulledImage], request: PullRequest, session: Session
) -> None:
    """Say which of *images* have more platforms than the output holds."""
    assert request.output is not None, "only an output leaves platforms out"
    place = "standard output" if request.to_stdout else request.output.place.path
    for image in images:
        if image.taken:
            of = f" of {image.reference}" if len(images) > 1 else ""
            session.on_event(image.taken.notice(place, "--platform all", of))


def _report(
    image: PulledImage, seconds: float, request: PullRequest, session: Session
) -> None:
    reference = image.reference
    name = f"{reference.registry}/{reference.repository}"
    with console.surviving_closed_stdout():
        if request.to_stdout:
            pass
        elif session.display.json:
            console.json_result(_record(image, seconds))
        else:
            console.result(f"{name}@{image.chosen.digest}")
    if not session.display.quiet:
        console.say(f"pulled {reference}: {_received(image, seconds)}")


def _received(image: PulledImage, seconds: float) -> str:
    blobs = console.counted(image.blobs, "blob")
    if not image.received:
        return f"nothing to receive: {blobs} already in the cache"
    size = console.size_text(image.received)
    return f"{blobs}, {size} received in {seconds:.1f} s"


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
