"""``push`` of several archives with ``-t``: joined into one index.

What a push of one image and a push of a joined index have in common.
"""

from __future__ import annotations

import time
from argparse import Namespace
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Iterator

from ..errors import ArchiveError, UsageError
from ..values import replace, value
from . import console, report
from . import console as exits
from .choose_target import named, one_at_a_time
from .endpoints import Connections
from .options import chosen_platforms
from .push_sources import open_source
from .report import Tally, check_writable, compare, write_digests

if TYPE_CHECKING:
    from ..reference import Reference
    from ..settings.config import Settings
    from ..transfer.choices import PushOptions
    from ..transfer.join import Part
    from ..transfer.push_run import PushResult
    from .push_sources import Source
    from .session import Session


def remember(target: Reference, connections: Connections, args: Namespace) -> None:
    """Have later pushes know *target*; none of several is the last one pushed to."""
    from ..state.history import PushHistory

    history = PushHistory(connections.state)
    if len(args.targets) > 1:
        history.confirm(target, time.time())
    else:
        history.record(target, time.time())


def options_of(args: Namespace, settings: Settings) -> PushOptions:
    """How to push, as *args* and *settings* say."""
    from ..transfer.choices import PushOptions

    return PushOptions(
        compress=settings.compress,
        compress_level=settings.compress_level,
        jobs=settings.jobs,
        platforms=chosen_platforms(args.platform),
        strict=args.strict,
        trust_target=args.trust_target,
    )


@value
class Joined:
    """An archive, and what of it is joined with the others."""

    path: str
    source: Source
    part: Part


def run(args: Namespace, session: Session) -> int:
    """Push ``args.source`` and ``args.more`` as one index; the exit code."""
    with ExitStack() as stack:
        connections = stack.enter_context(Connections(args, session))
        targets = list(dict.fromkeys(named(t, connections) for t in args.targets))
        for target in targets:
            if target.tag is None:
                raise UsageError(f"-t {target}: what is joined needs a tag")
        joined = _opened([args.source, *args.more], args, session, stack)
        if args.digestfile:
            check_writable(args.digestfile)
        tally = Tally("pushes", session)
        tally.expect(len(targets))
        done = []
        for target in targets:
            with tally.attempt(str(target)):
                if args.dry_run:
                    _look(joined, target, connections, args)
                else:
                    done.append((target, _push(joined, target, connections, args)))
    if args.digestfile and done:
        write_digests(args.digestfile, report.digests_of(done))
    tally.finish()
    return exits.DONE


def _opened(
    paths: list[str], args: Namespace, session: Session, stack: ExitStack
) -> list[Joined]:
    """The archives at *paths*, all looked into, and what of each is joined."""
    from ..archive import select_image
    from ..transfer.join import parts_of

    sources = [
        stack.enter_context(open_source(path, session.cancellation)) for path in paths
    ]
    images = [select_image(source.images, args.name) for source in sources]
    found = zip(paths, sources, parts_of(images, chosen_platforms(args.platform)))
    return [Joined(path, source, part) for path, source, part in found if part]


def _push(
    joined: list[Joined],
    target: Reference,
    connections: Connections,
    args: Namespace,
) -> PushResult:
    """Push to one target, and report it."""
    session = connections.session
    with one_at_a_time(target, connections.state.path, session, if_busy=args.if_busy):
        started = time.monotonic()
        result = _pushed(joined, target, connections, args)
    remember(target, connections, args)
    session.end_progress()
    seconds = time.monotonic() - started
    if args.verify:
        _verify(joined, target, connections, args)
    report.pushed(target, result, seconds, args)
    return result


def _look(
    joined: list[Joined],
    reference: Reference,
    connections: Connections,
    args: Namespace,
) -> None:
    """What the push would do, archive by archive."""
    for one in joined:
        if not (args.json or args.format):
            console.result(f"{one.path}: {', '.join(map(str, one.part.platforms))}")
        options = _options(one, reference, connections, args)
        with connections.target(reference) as target, _named(one.path):
            tags = [str(reference.tag)]
            blobs = one.source.look(target, one.part.image, tags=tags, options=options)
        connections.session.end_progress()
        report.forecast(reference, blobs, args, one.path)


def _verify(
    joined: list[Joined],
    reference: Reference,
    connections: Connections,
    args: Namespace,
) -> None:
    from ..transfer.plan import narrowed

    for one in joined:
        options = _options(one, reference, connections, args)
        image = narrowed(one.part.image, options.platforms)
        size = console.size_text(compare(connections, image, reference).size)
        if not args.quiet:
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
    one: Joined, reference: Reference, connections: Connections, args: Namespace
) -> PushOptions:
    options = options_of(args, connections.settings(reference.registry))
    platforms = one.part.platforms if one.part.narrowed else ()
    return replace(options, platforms=platforms)


def _pushed(
    joined: list[Joined],
    reference: Reference,
    connections: Connections,
    args: Namespace,
) -> PushResult:
    from ..transfer.join import store_joined

    results = []
    for one in joined:
        options = _options(one, reference, connections, args)
        with connections.target(reference) as target, _named(one.path):
            pushed = one.source.push(target, one.part.image, tags=(), options=options)
            results.append((one.part, pushed))
    with connections.target(reference) as target:
        return store_joined(target, results, tags=[str(reference.tag)])
