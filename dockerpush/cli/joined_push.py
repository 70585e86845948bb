"""``push`` of several archives with ``-t``: joined into one index."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Iterator

from ..errors import ArchiveError, UsageError
from ..values import replace, value
from . import console, report
from .choose_target import target_lock, target_of
from .image_sources import ImagePush, open_source
from .report import Outcomes, check_writable, skipped, write_digests

if TYPE_CHECKING:
    from ..reference import Reference
    from ..transfer.choices import PushOptions, PushResult
    from ..transfer.join import Part
    from .endpoints import Connections
    from .image_sources import Source
    from .push_jobs import PushRequest
    from .session import Session


@value
class Joined:
    """An archive, and what of it is joined with the others."""

    path: str
    source: Source
    part: Part


def run(request: PushRequest, connections: Connections) -> int:
    """Push the operands of *request* as one index; the exit code."""
    session = connections.session
    with ExitStack() as stack:
        targets = [target_of(text, connections) for text in request.targets]
        targets = list(dict.fromkeys(targets))
        for target in targets:
            if target.tag is None:
                raise UsageError(f"-t {target}: a joined image needs a tag")
        joined = _opened(request, session, stack)
        if request.digestfile:
            check_writable(request.digestfile)
        tally = Outcomes("pushes", session)
        tally.expect(len(targets))
        done = []
        for target in targets:
            with tally.attempt(str(target)):
                if request.no_clobber and connections.has(target):
                    sources = " ".join(request.operands)
                    skipped(sources, str(target), session.display)
                    continue
                if request.dry_run:
                    _dry_run(joined, target, connections, request)
                else:
                    done.append((target, _push(joined, target, connections, request)))
    if request.digestfile and done:
        write_digests(request.digestfile, report.digests_of(done))
    tally.finish()
    if request.strict:
        report.check_lost((str(target), result.lost) for target, result in done)
    return console.DONE


def _opened(request: PushRequest, session: Session, stack: ExitStack) -> list[Joined]:
    """The archives of *request*, all looked into, and what of each is joined."""
    from ..archive import select_image
    from ..transfer.join import parts_of

    sources = [
        stack.enter_context(open_source(path, session.cancellation))
        for path in request.operands
    ]
    images = [select_image(source.images, request.name) for source in sources]
    found = zip(request.operands, sources, parts_of(images, request.platforms))
    return [Joined(path, source, part) for path, source, part in found if part]


def _push(
    joined: list[Joined],
    target: Reference,
    connections: Connections,
    request: PushRequest,
) -> PushResult:
    """Push to one target, and report it."""
    session = connections.session
    with target_lock(target, connections.state.path, session, if_busy=request.if_busy):
        started = time.monotonic()
        result = _pushed(joined, target, connections, request)
    request.remember(target, connections)
    session.end_progress()
    seconds = time.monotonic() - started
    if request.verify:
        _verify(joined, target, connections, request)
    report.pushed(target, result, seconds, session.display)
    return result


def _dry_run(
    joined: list[Joined],
    reference: Reference,
    connections: Connections,
    request: PushRequest,
) -> None:
    """What the push would do, archive by archive."""
    for one in joined:
        if not connections.session.display.json:
            console.result(f"{one.path}: {', '.join(map(str, one.part.platforms))}")
        options = _options(one, reference, connections, request)
        with connections.target(reference) as target, _named(one.path):
            push = ImagePush(target, one.part.image, [str(reference.tag)], options)
            blobs = one.source.dry_run(push)
        connections.session.end_progress()
        report.forecast(reference, blobs, connections.session.display, one.path)


def _verify(
    joined: list[Joined],
    reference: Reference,
    connections: Connections,
    request: PushRequest,
) -> None:
    from ..transfer.plan import narrowed
    from ..transfer.verify import verify_image

    for one in joined:
        options = _options(one, reference, connections, request)
        image = narrowed(one.part.image, options.platforms)
        with connections.target(reference) as target:
            found = verify_image(target, image, str(reference.tag), jobs=options.jobs)
        connections.session.end_progress()
        size = console.size_text(found.size)
        if not connections.session.display.quiet:
            console.say(f"verified {reference}, {one.path}: {size} read back")


@contextmanager
def _named(path: str) -> Iterator[None]:
    """Say which archive it is that is broken or incomplete."""
    try:
        yield
    except ArchiveError as error:
        if path in str(error):
            raise
        raise ArchiveError(f"{path}: {error}") from error


def _options(
    one: Joined, reference: Reference, connections: Connections, request: PushRequest
) -> PushOptions:
    options = request.options(connections.settings(reference.registry))
    platforms = one.part.platforms if one.part.narrowed else ()
    return replace(options, platforms=platforms)


def _pushed(
    joined: list[Joined],
    reference: Reference,
    connections: Connections,
    request: PushRequest,
) -> PushResult:
    from ..transfer.join import store_joined

    results = []
    for one in joined:
        options = _options(one, reference, connections, request)
        with connections.target(reference) as target, _named(one.path):
            push = ImagePush(target, one.part.image, (), options)
            results.append((one.part, one.source.push(push)))
    with connections.target(reference) as target:
        return store_joined(target, results, tags=[str(reference.tag)])
