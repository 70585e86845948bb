"""``load ARCHIVE|REF``: into docker, nerdctl or podman, through a pipe."""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from contextlib import ExitStack
from typing import TYPE_CHECKING, BinaryIO, Callable, Sequence, cast

from ...errors import NotFound, UsageError
from ...transfer.choices import DOCKER_ARCHIVE
from ...values import value
from .. import console, location
from ..choose_target import with_tag
from ..endpoints import Connections
from ..image_files import ImageOrigin, ImageOutput, archive_origins, copy_to_file
from ..image_sources import registry_source, usable_cache
from ..options import (
    RARE,
    add_json_option,
    add_platform_option,
    add_volumes_option,
    chosen_platforms,
)
from ..report import Outcomes
from ..side_options import add_registry_options, endpoint

if TYPE_CHECKING:
    from ...oci import Platform
    from ...reference import Reference
    from ...runtimes.programs import ProgramInput
    from ...runtimes.runtime import Runtime
    from ..session import Session

_PIECE = 1024 * 1024
_ARCHITECTURES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm/v7",
    "armv6l": "arm/v6",
    "i386": "386",
    "i686": "386",
}


def configure(parser: ArgumentParser) -> None:
    """Add the arguments of ``load``."""
    parser.add_argument(
        "source",
        metavar="ARCHIVE|REF",
        help="an archive or an OCI directory (- for standard input), or an image: of "
        "the cache, else of its registry",
    )
    parser.add_argument(
        "--runtime",
        "--engine",
        metavar="NAME",
        help="docker, nerdctl, podman or a path (default: the first that works)",
    )
    parser.add_argument(
        "--name",
        metavar="NAME:TAG",
        help="name of the image there (default: its own names)",
    )
    add_platform_option(
        parser, "load this platform of an index (default: that of this machine)"
    )
    add_json_option(parser, "print one JSON object")
    add_volumes_option(parser.add_argument_group(RARE))
    add_registry_options(parser)


def run(args: Namespace, session: Session) -> int:
    """Load what *args* name, and print what the runtime calls it; the exit code."""
    place, reference = _meant(args.source)
    _check_name(args.name)
    request = LoadRequest(args.name, chosen_platforms(args.platform), args.runtime)
    if place is not None and _is_stream(place):
        _check_plain(place, request)
        path = place.path
        _load(
            lambda program, name: _write_to_program(path, program, session),
            request,
            session,
        )
        return console.DONE
    tally = Outcomes("images", session)
    with ExitStack() as stack:
        connections = stack.enter_context(
            Connections(endpoint(args), session, writes=False)
        )
        if reference is not None:
            origins = [_origin(reference, connections, request.platforms, stack)]
        else:
            assert place is not None, "it is a file or an image"
            every = place.name is None
            origins = archive_origins(
                place, session, stack, every=every, referrers=False, tally=tally
            )
        _check_one(origins, request)
        _load(
            lambda program, name: _write(origins, program, name, request, session),
            request,
            session,
        )
    tally.finish()
    return console.DONE


@value
class LoadRequest:
    """What one ``load`` is asked for: *name* in place of the image's own names."""

    name: str | None
    platforms: tuple[Platform, ...]
    runtime: str | None


Feed = Callable[["ProgramInput", str], Sequence[str]]
"""Has a program of a runtime, and its name, read an archive; the names in it."""


def _load(feed: Feed, request: LoadRequest, session: Session) -> None:
    from ...runtimes.runtime import find_runtime, loaded_names, open_load

    started, cancellation = time.monotonic(), session.cancellation
    runtime = find_runtime(request.runtime, cancellation=cancellation)
    with open_load(runtime, cancellation=cancellation) as program:
        known = feed(program, runtime.name)
        names = loaded_names(program.finish()) or known
    session.end_progress()
    _report(names, runtime, time.monotonic() - started, session)


def _meant(text: str) -> tuple[location.Local | None, Reference | None]:
    """The file or the image that *text* means. Raises UsageError."""
    place = location.local(text)
    reference = with_tag(location.source(text)) if place is None else None
    return place, reference


def _check_name(name: str | None) -> None:
    """Raises UsageError, InvalidReference for what no runtime takes as a name."""
    from ...reference import Reference

    if name is not None and Reference.parse(name).digest:
        raise UsageError(f"--name {name!r:.200}: a digest is no name: wanted NAME:TAG")


def _is_stream(place: location.Local) -> bool:
    from ...archive.sniff import is_forward

    return is_forward(place.path)


def _origin(
    reference: Reference,
    connections: Connections,
    platforms: Sequence[Platform],
    stack: ExitStack,
) -> ImageOrigin:
    """The image of the cache that *reference* names, else that of its registry."""
    from ...transfer.pull import cached_image
    from ...transfer.source import CacheSource

    cache = stack.enter_context(usable_cache(connections, needed=False))
    pins = stack.enter_context(cache.pins())
    name, named = str(reference), str(reference.digest or reference.tag)
    for wanted in (platforms,) if platforms else ((_this_machine(),), ()):
        try:
            found = cached_image(cache, pins, reference, wanted)
        except NotFound:
            continue
        if found is not None:
            held = CacheSource(cache, found.chosen)
            return ImageOrigin(held, str(found.chosen.digest), name, (name,))
    source = registry_source(reference, connections)
    return ImageOrigin(source, named, name, (name,))


def _this_machine() -> Platform:
    """What images for this machine are for; runtimes run Linux."""
    import platform

    from ...oci import Platform

    machine = platform.machine().lower()
    return Platform.parse(f"linux/{_ARCHITECTURES.get(machine, machine)}")


def _check_one(origins: Sequence[ImageOrigin], request: LoadRequest) -> None:
    """Raises UsageError when one name is to be that of several images."""
    if request.name is not None and len(origins) > 1:
        raise UsageError(
            f"--name names one image, and these are {len(origins)}: choose one, as in "
            "docker-archive:FILE:NAME"
        )


def _write(
    origins: Sequence[ImageOrigin],
    program: ProgramInput,
    runtime: str,
    request: LoadRequest,
    session: Session,
) -> list[str]:
    """Send *program* an archive that is made on the way; the names in it."""
    from ...transfer.choices import CopyOptions

    only = None if request.platforms else _this_machine()
    into = ImageOutput(
        location.Local(f"{runtime} load", DOCKER_ARCHIVE, request.name),
        DOCKER_ARCHIVE,
        no_clobber=False,
        only=only,
        pipe=cast("BinaryIO", program),
    )
    options = CopyOptions(request.platforms, jobs=1)
    copy_to_file(origins, into, options, session)
    nameless = [one.label for one in origins if not (request.name or one.names)]
    if nameless and not session.display.quiet:
        names = ", ".join(nameless[:5])
        console.say(f"note: {names} has no full name there; --name gives it one")
    return [request.name or name for one in origins for name in one.names[:1]]


def _check_plain(place: location.Local, request: LoadRequest) -> None:
    """Raises UsageError for what cannot be done to a stream."""
    if request.name is not None or request.platforms or place.name is not None:
        raise UsageError(
            f"{place.path}: a pipe or a compressed file is loaded as it is: unpack it "
            "for --name, for --platform, or for one image of several"
        )


def _write_to_program(path: str, program: ProgramInput, session: Session) -> list[str]:
    """Send *program* a stream, unpacked: podman takes no compressed one."""
    from ...archive.forward import open_plain

    with open_plain(path, session.cancellation) as tar:
        while piece := tar.read(_PIECE):
            program.write(piece)
    return []


def _report(
    names: Sequence[str], runtime: Runtime, seconds: float, session: Session
) -> None:
    with console.surviving_closed_stdout():
        if session.display.json:
            record = {"images": list(names), "runtime": runtime.name}
            console.json_result({**record, "seconds": round(seconds, 3)})
        else:
            for name in names:
                console.result(name)
    if not session.display.quiet:
        what = ", ".join(names[:5]) or "the archive"
        console.say(f"loaded {what} into {runtime.name} in {seconds:.1f} s")
