"""``push`` with several archives: joined under one ``-t``, else each its own push."""

from __future__ import annotations

import time
from argparse import Namespace
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Iterator

from ..errors import ArchiveError, Cancelled, PusherError, SomeFailed, UsageError
from . import exits, output, push
from .connect import Connections
from .digestfile import write_digests
from .options import chosen_platforms
from .sources import STDIN, open_source
from .target import named, one_at_a_time
from .verify import compare

if TYPE_CHECKING:
    from ..push import PushOptions, PushResult
    from ..push.join import Part
    from ..reference import Reference
    from .session import Session
    from .sources import Source


@dataclass(frozen=True)
class Joined:
    """An archive, and what of it is joined with the others."""

    path: str
    source: Source
    part: Part


def run(args: Namespace, session: Session) -> int:
    """Push ``args.source`` and ``args.more``; the exit code."""
    paths = [args.source, *args.more]
    if STDIN in paths or args.runtime is not None:
        raise UsageError("several sources have to be archives: no -, no --runtime")
    if args.target and not args.all_tags:
        return _join(paths, args, session)
    if args.digestfile:
        raise UsageError("--digestfile is for one push, and these are several")
    return _push_each(paths, args, session)


def _push_each(paths: list[str], args: Namespace, session: Session) -> int:
    failed = []
    for path in paths:
        try:
            push.run(Namespace(**{**vars(args), "source": path, "more": []}), session)
        except Cancelled:
            raise
        except PusherError as error:
            session.end_progress()
            output.say(f"failed: {path}: {error}")
            failed.append(path)
    if failed:
        raise SomeFailed(
            f"{len(failed)} of {len(paths)} pushes failed: {', '.join(failed[:5])}"
        )
    return exits.DONE


def _join(paths: list[str], args: Namespace, session: Session) -> int:
    from ..archive import select_image
    from ..push.join import parts_of
    from ..stores import PushHistory

    wanted = chosen_platforms(args.platform)
    with ExitStack() as stack:
        connections = stack.enter_context(Connections(args, session))
        reference = named(args.target, args)
        if reference.tag is None:
            raise UsageError(f"-t {reference}: what is joined needs a tag")
        sources = [
            stack.enter_context(open_source(path, session.cancellation))
            for path in paths
        ]
        images = [select_image(source.images, args.name) for source in sources]
        found = zip(paths, sources, parts_of(images, wanted))
        joined = [Joined(path, source, part) for path, source, part in found if part]
        if args.dry_run:
            return _look(joined, reference, connections, args)
        state = connections.state
        with one_at_a_time(reference, state.path, session, if_busy=args.if_busy):
            started = time.monotonic()
            result = _pushed(joined, reference, connections, args)
        PushHistory(state).record(reference, time.time())
        session.end_progress()
        if args.verify:
            _verify(joined, reference, connections, args)
    push.report(reference, result, time.monotonic() - started, args)
    if args.digestfile:
        write_digests(args.digestfile, push.digests_of([(reference, result)]))
    return exits.DONE


def _look(
    joined: list[Joined],
    reference: Reference,
    connections: Connections,
    args: Namespace,
) -> int:
    """What the push would do, archive by archive."""
    for one in joined:
        if not (args.json or args.format):
            output.result(f"{one.path}: {', '.join(map(str, one.part.platforms))}")
        options = _options(one, reference, connections, args)
        with connections.target(reference) as target, _named(one.path):
            tags = [str(reference.tag)]
            blobs = one.source.look(target, one.part.image, tags=tags, options=options)
        connections.session.end_progress()
        push.show_forecast(reference, blobs, args, one.path)
    return exits.DONE


def _verify(
    joined: list[Joined],
    reference: Reference,
    connections: Connections,
    args: Namespace,
) -> None:
    from ..push.plan import narrowed

    for one in joined:
        options = _options(one, reference, connections, args)
        image = narrowed(one.part.image, options.platforms)
        size = output.size_text(compare(connections, image, reference).size)
        output.say(f"verified {reference}, {one.path}: {size} read back")


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
    options = push.options_of(args, connections.settings(reference.registry))
    platforms = one.part.platforms if one.part.narrowed else ()
    return replace(options, platforms=platforms)


def _pushed(
    joined: list[Joined],
    reference: Reference,
    connections: Connections,
    args: Namespace,
) -> PushResult:
    from ..push.join import store_joined

    results = []
    for one in joined:
        options = _options(one, reference, connections, args)
        with connections.target(reference) as target, _named(one.path):
            pushed = one.source.push(target, one.part.image, tags=(), options=options)
            results.append((one.part, pushed))
    with connections.target(reference) as target:
        return store_joined(target, results, tags=[str(reference.tag)])
