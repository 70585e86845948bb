"""``push`` with several archives: joined under one ``-t``, else each its own push."""

from __future__ import annotations

import time
from argparse import Namespace
from contextlib import ExitStack
from typing import TYPE_CHECKING

from ..errors import Cancelled, PusherError, SomeFailed, UsageError
from . import exits, output, push
from .connect import Connections
from .digestfile import write_digests
from .sources import STDIN, open_source
from .target import named, one_at_a_time
from .verify import compare

if TYPE_CHECKING:
    from ..archive import StoredImage
    from ..push import PushResult
    from ..reference import Reference
    from .session import Session
    from .sources import Source

    Part = tuple[Source, StoredImage]


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
    from ..stores import PushHistory

    if args.dry_run or args.platform:
        raise UsageError(
            "--dry-run and --platform look at one archive: leave the others away"
        )
    with ExitStack() as stack:
        connections = stack.enter_context(Connections(args, session))
        reference = named(args.target, args)
        if reference.tag is None:
            raise UsageError(f"-t {reference}: what is joined needs a tag")
        parts = []
        for path in paths:
            source = stack.enter_context(open_source(path, session.cancellation))
            parts.append((source, select_image(source.images, args.name)))
        state = connections.state
        with one_at_a_time(reference, state.path, session, if_busy=args.if_busy):
            started = time.monotonic()
            result = _pushed(parts, reference, connections, args)
        PushHistory(state).record(reference, time.time())
        session.end_progress()
        if args.verify:
            for _, image in parts:
                found = compare(connections, image, reference)
                size = output.size_text(found.size)
                output.say(f"verified {reference}: {size} read back")
    push.report(reference, result, time.monotonic() - started, args)
    if args.digestfile:
        write_digests(args.digestfile, push.digests_of([(reference, result)]))
    return exits.DONE


def _pushed(
    parts: list[Part],
    reference: Reference,
    connections: Connections,
    args: Namespace,
) -> PushResult:
    from ..push.join import platforms_of, store_joined

    platforms = platforms_of(image for _, image in parts)
    options = push.options_of(args, connections.settings(reference.registry))
    results = []
    for source, image in parts:
        with connections.target(reference) as target:
            results.append(source.push(target, image, tags=(), options=options))
    with connections.target(reference) as target:
        joined = list(zip(platforms, results))
        return store_joined(target, joined, tags=[str(reference.tag)])
