"""``push SOURCE [-t REF]``."""

from __future__ import annotations

import time
from argparse import SUPPRESS, ArgumentParser, Namespace
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterable, Iterator, Optional, Sequence

from ..errors import Cancelled, PusherError, SomeFailed, Unauthorized, UsageError
from . import exits, output, prompts
from .cached import open_pushed
from .connect import Connections, add_connection_options, add_transfer_options
from .digestfile import check_writable, write_digests
from .login import typed_credentials
from .options import OPERANDS, chosen_platforms
from .secrets import add_credential_options
from .sources import STDIN, ForwardSource, Source
from .target import add_target_options, infer, named, one_at_a_time

if TYPE_CHECKING:
    from ..archive import StoredImage
    from ..push import BlobForecast, PushOptions, PushResult
    from ..reference import Reference
    from ..settings import Settings
    from .session import Session

    Job = tuple[Optional[StoredImage], Reference]


def configure(parser: ArgumentParser) -> None:
    """Add the arguments of ``push``."""
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a tar archive, plain or compressed; a directory; - for standard input; "
        "or an image by its reference, which is pulled when the cache lacks it",
    )
    parser.add_argument(
        "more",
        metavar="SOURCE",
        nargs="*",
        help="more archives: with -t they are joined, each for platforms of its own",
    )
    parser.set_defaults(**{OPERANDS: "more"})
    _add_selection(parser)
    add_target_options(parser)
    add_transfer_options(parser)
    _add_result(parser)
    add_credential_options(parser)
    add_connection_options(parser)


def _add_selection(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("what and where")
    group.add_argument(
        "-t",
        "--target",
        metavar="REF",
        help="where to: registry/repository[:tag]",
    )
    group.add_argument(
        "--runtime",
        metavar="NAME",
        help="SOURCE is an image that docker, nerdctl or podman has",
    )
    group.add_argument(
        "--registry",
        metavar="HOST[/PREFIX]",
        help="where to, under the names that the archive gives",
    )
    group.add_argument(
        "--name", metavar="NAME", help="which image, when the archive holds several"
    )
    group.add_argument(
        "-a",
        "--all-tags",
        action="store_true",
        help="every image and tag of the archive",
    )
    group.add_argument(
        "--platform",
        action="append",
        default=[],
        metavar="OS/ARCH",
        help="only this platform of a multi-platform image (may be repeated)",
    )
    group.add_argument(
        "--strict",
        action="store_true",
        help="fail when the archive lacks a platform that its index names",
    )


def _add_result(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("result")
    group.add_argument(
        "--dry-run", action="store_true", help="show what would be sent, send nothing"
    )
    group.add_argument(
        "--verify",
        action="store_true",
        help="afterwards, read everything back and compare",
    )
    group.add_argument(
        "--json", action="store_true", help="one JSON object for each pushed tag"
    )
    group.add_argument("--format", choices=("json",), help=SUPPRESS)
    group.add_argument(
        "--digestfile", metavar="FILE", help="write the manifest's digest to FILE"
    )


def run(args: Namespace, session: Session) -> int:
    """Push what *args* name; the exit code."""
    if args.more:
        from . import several

        return several.run(args, session)
    with ExitStack() as stack:
        connections = stack.enter_context(Connections(args, session))
        source = stack.enter_context(open_pushed(args, connections))
        jobs = _jobs(source, args, connections)
        if args.dry_run:
            return _dry_run(source, jobs, connections, args)
        if args.digestfile:
            check_writable(args.digestfile)
        return _push_all(source, jobs, connections, args)


def _jobs(source: Source, args: Namespace, connections: Connections) -> list[Job]:
    """Which image goes where."""
    from ..archive import select_image
    from ..reference import Reference
    from .names import targets_below, targets_in

    if args.all_tags:
        if args.name:
            raise UsageError("--all-tags takes every image, so --name has no place")
        if args.registry:
            return list(targets_below(args.registry, source.images))
        if args.target:
            return list(targets_in(Reference.parse(args.target), source.images))
        raise UsageError("--all-tags needs --registry HOST[/PREFIX] or -t REPOSITORY")
    if args.verify and (args.source == STDIN or args.runtime is not None):
        raise UsageError("--verify compares with the archive: a pipe is gone by then")
    if args.target and _is_read_once(source, args):
        return [(None, named(args.target, args))]
    if args.runtime is not None and not (args.dry_run or args.name):
        return [(None, infer(args.source, args, connections))]
    image = select_image(source.images, args.name)
    if args.target:
        return [(image, named(args.target, args))]
    if not image.names:
        raise UsageError(
            "the archive names no image: say where to with -t REGISTRY/REPOSITORY:TAG"
        )
    return [(image, infer(image.names[0], args, connections))]


def _is_read_once(source: Source, args: Namespace) -> bool:
    """True when nothing has to be known of the archive before it is pushed."""
    if not isinstance(source, ForwardSource) or args.dry_run:
        return False
    return args.source == STDIN or not args.name


def _push_all(
    source: Source,
    jobs: Sequence[Job],
    connections: Connections,
    args: Namespace,
) -> int:
    done, failed = [], []
    for image, reference in jobs:
        try:
            done.append(_push_one(source, image, reference, connections, args))
        except Cancelled:
            raise
        except PusherError as error:
            if len(jobs) == 1:
                raise
            output.say(f"failed: {reference}: {error}")
            failed.append(reference)
    if args.digestfile:
        write_digests(args.digestfile, digests_of(done))
    if failed:
        raise SomeFailed(
            f"{len(failed)} of {len(jobs)} pushes failed: "
            + ", ".join(map(str, failed[:5]))
        )
    return exits.DONE


def _push_one(
    source: Source,
    image: StoredImage | None,
    reference: Reference,
    connections: Connections,
    args: Namespace,
) -> tuple[Reference, PushResult]:
    from ..stores import PushHistory

    session, state = connections.session, connections.state
    with one_at_a_time(reference, state.path, session, if_busy=args.if_busy):
        started = time.monotonic()
        result = _sent(source, image, reference, connections, args)
    PushHistory(state).record(reference, time.time())
    seconds = time.monotonic() - started
    connections.session.end_progress()
    if args.verify:
        _verify(source, image, reference, connections, args)
    report(reference, result, seconds, args)
    return reference, result


def _sent(
    source: Source,
    image: StoredImage | None,
    reference: Reference,
    connections: Connections,
    args: Namespace,
) -> PushResult:
    """Push; a registry that wants to know who we are has a person asked, once."""
    try:
        return _transfer(source, image, reference, connections, args)
    except Unauthorized as error:
        if error.status != 401 or not _may_ask(connections, args):
            raise
        connections.session.end_progress()
        output.say(str(error))
        connections.use(typed_credentials(reference.registry))
        output.say(
            f"for this push alone: dockerpush login {reference.registry} keeps them"
        )
    return _transfer(source, image, reference, connections, args)


def _may_ask(connections: Connections, args: Namespace) -> bool:
    """True the first time, with somebody there and an archive that can be reread."""
    repeatable = not Path(args.source).is_fifo()
    return repeatable and not connections.was_asked and prompts.is_interactive()


def _transfer(
    source: Source,
    image: StoredImage | None,
    reference: Reference,
    connections: Connections,
    args: Namespace,
) -> PushResult:
    tags = [_tag(reference)]
    options = options_of(args, connections.settings(reference.registry))
    with connections.target(reference) as target:
        if image is not None:
            return source.push(target, image, tags=tags, options=options)
        assert isinstance(source, ForwardSource), "the others are looked into"
        return source.push_unseen(target, args.name, tags=tags, options=options)


def _verify(
    source: Source,
    image: StoredImage | None,
    reference: Reference,
    connections: Connections,
    args: Namespace,
) -> None:
    """Read back what was pushed; a compressed file is looked into once more."""
    from ..archive import select_image
    from ..push.plan import narrowed
    from .verify import compare

    if image is None:
        image = select_image(source.images, args.name)
    image = narrowed(image, chosen_platforms(args.platform))
    found = compare(connections, image, reference)
    output.say(f"verified {reference}: {output.size_text(found.size)} read back")


def _tag(reference: Reference) -> str:
    return str(reference.digest) if reference.tag is None else reference.tag


def report(
    reference: Reference, result: PushResult, seconds: float, args: Namespace
) -> None:
    """The result on stdout, and what was done on stderr."""
    digest = result.descriptor.digest
    name = f"{reference.registry}/{reference.repository}"
    if args.json or args.format:
        output.json_result(_record(reference, result, seconds))
    else:
        output.result(f"{name}@{digest}")
    if not args.quiet:
        blobs = ", ".join(
            f"{number} {outcome.value}" for outcome, number in result.blobs.items()
        )
        output.say(
            f"pushed {reference}: {blobs}; {output.size_text(result.sent)} "
            f"in {seconds:.1f} s"
        )


def _record(reference: Reference, result: PushResult, seconds: float) -> dict[str, Any]:
    return {
        "target": str(reference),
        "ref": f"{reference.registry}/{reference.repository}"
        f"@{result.descriptor.digest}",
        "tag": reference.tag,
        "digest": result.descriptor.digest,
        "mediaType": result.descriptor.media_type,
        "size": result.descriptor.size,
        "blobs": {outcome.value: n for outcome, n in result.blobs.items()},
        "bytes": result.sent,
        "seconds": round(seconds, 3),
    }


def digests_of(
    done: Iterable[tuple[Reference, PushResult]],
) -> Iterator[tuple[str, str]]:
    """Digest and name of each, for ``--digestfile``."""
    return ((str(result.descriptor.digest), str(name)) for name, result in done)


def options_of(args: Namespace, settings: Settings) -> PushOptions:
    """How to push, as *args* and *settings* say."""
    from ..push import PushOptions

    return PushOptions(
        compress=settings.compress,
        compress_level=settings.compress_level,
        jobs=settings.jobs,
        platforms=chosen_platforms(args.platform),
        strict=args.strict,
    )


def _dry_run(
    source: Source,
    jobs: Sequence[Job],
    connections: Connections,
    args: Namespace,
) -> int:
    for image, reference in jobs:
        assert image is not None, "a dry run looks into the archive"
        options = options_of(args, connections.settings(reference.registry))
        with connections.target(reference) as target:
            blobs = source.look(target, image, tags=[_tag(reference)], options=options)
        connections.session.end_progress()
        show_forecast(reference, blobs, args)
    return exits.DONE


def show_forecast(
    reference: Reference,
    blobs: Sequence[BlobForecast],
    args: Namespace,
    source: str | None = None,
) -> None:
    """What a push to *reference* would do; *source* tells one archive from others."""
    record = _dry_record(reference, blobs)
    if args.json or args.format:
        output.json_result({"source": source, **record} if source else record)
    else:
        _print_plan(record)


def _dry_record(reference: Reference, blobs: Sequence[BlobForecast]) -> dict[str, Any]:
    sent = (blob.size for blob in blobs if blob.is_sent)
    return {
        "target": str(reference),
        "blobs": [
            {"blob": blob.name, "size": blob.size, "action": blob.action}
            for blob in blobs
        ],
        "bytes": sum(sent),
    }


def _print_plan(record: dict[str, Any]) -> None:
    rows = [("BLOB", "SIZE", "ACTION")]
    for blob in record["blobs"]:
        rows.append((blob["blob"], output.size_text(blob["size"]), blob["action"]))
    output.table(rows)
    output.result(
        f"{record['target']}: {output.size_text(record['bytes'])} at most would be sent"
    )
