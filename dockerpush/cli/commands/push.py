"""``push SOURCE [-t REF]``."""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Sequence

from ...archive.select import select_image
from ...errors import Unauthorized, UsageError
from .. import console, location, report
from ..choose_target import target_lock
from ..endpoints import Connections, Endpoint
from ..image_sources import STDIN, DeltaImages, ForwardSource, ImagePush
from ..options import (
    OPERANDS,
    RARE,
    USED,
    add_digestfile_option,
    add_json_option,
    add_platform_option,
    add_transfer_options,
    add_trust_option,
    add_volumes_option,
    chosen_platforms,
    repeated,
)
from ..push_jobs import Job, PushRequest, all_jobs, check_usage
from ..recompress_options import add_recompress_option, check_recompress
from ..report import Outcomes, check_writable, skipped, write_digests
from ..side_options import add_registry_options, endpoint

if TYPE_CHECKING:
    from ...reference import Reference
    from ...transfer.choices import PushResult
    from ...transfer.delta_source import Lacking
    from ..session import Session


def configure(parser: ArgumentParser) -> None:
    """Add the arguments of ``push``."""
    parser.add_argument(
        "source",
        metavar="ARCHIVE",
        help="tar, compressed tar, directory, - for standard input; or an image by its "
        "reference, from the cache",
    )
    parser.add_argument(
        "more",
        metavar="ARCHIVE ...",
        nargs="*",
        help="with -t: more archives, joined into one multi-platform image",
    )
    parser.set_defaults(**{OPERANDS: "more"})
    _add_selection(parser)
    add_transfer_options(parser, USED["push"])
    _add_result(parser)
    _add_rare(parser.add_argument_group(RARE))
    add_registry_options(parser)


def _add_selection(parser: ArgumentParser) -> None:
    parser.add_argument(
        "-t",
        "--target",
        dest="targets",
        action="append",
        default=[],
        metavar="REF",
        help="push to this REGISTRY/REPO[:TAG] (repeatable)",
    )
    parser.add_argument(
        "--registry",
        metavar="HOST[/PREFIX]",
        help="push there, under the names in the archive",
    )
    parser.add_argument(
        "--name",
        metavar="NAME",
        help="push this image, where the archive holds several",
    )
    parser.add_argument(
        "-a",
        "--all-tags",
        action="store_true",
        help="push every image and tag of the archive",
    )
    add_platform_option(parser, "push only this platform (repeatable; default: all)")
    add_recompress_option(parser, strict=False)
    parser.add_argument(
        "--runtime",
        metavar="NAME",
        help="ARCHIVE is an image of docker, nerdctl or podman",
    )


def _add_result(parser: ArgumentParser) -> None:
    parser.add_argument(
        "-n", "--no-clobber", action="store_true", help="keep a tag that exists"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="show what would be sent, send nothing"
    )
    parser.add_argument(
        "--verify", action="store_true", help="read everything back and compare"
    )
    parser.add_argument("--yes", action="store_true", help="accept a suggested target")
    add_json_option(parser, "print one JSON object for each pushed tag")
    add_digestfile_option(parser)


def _add_rare(group: Any) -> None:
    group.add_argument(
        "--if-busy",
        choices=("wait", "leave"),
        default="wait",
        help="when another run pushes to the same target: wait for it, or leave with "
        "exit code 1 (default: wait)",
    )
    group.add_argument(
        "--strict",
        action="store_true",
        help="fail when the archive lacks a platform that its index names; exit 7 when "
        "an attestation is left out",
    )
    add_trust_option(group)
    add_volumes_option(group)


def run(args: Namespace, session: Session) -> int:
    """Push what *args* name; the exit code."""
    operands = (args.source, *args.more)
    if args.runtime is None:
        operands = tuple(map(location.archive_path, operands))
    request = PushRequest(
        operands,
        tuple(args.targets),
        args.registry,
        args.runtime,
        args.name,
        args.all_tags,
        chosen_platforms(args.platform),
        args.strict,
        args.trust_target,
        args.dry_run,
        args.verify,
        args.no_clobber,
        agreed=args.yes or args.dry_run,
        if_busy=args.if_busy,
        digestfile=args.digestfile,
        recompress=args.recompress,
        words=tuple(repeated(args, _REPEATED)),
    )
    check_usage(request)
    check_recompress(args.recompress, args.compress)
    if args.password_stdin and STDIN in request.operands:
        raise UsageError(
            "--password-stdin and the source - both want standard input: use "
            "--password-file, or DOCKERPUSH_USERNAME and DOCKERPUSH_PASSWORD"
        )
    return push(request, endpoint(args), session)


_REPEATED = (
    *("all_tags", "dry_run", "json", "no_clobber", "password_stdin", "quiet"),
    *(
        "strict",
        "recompress",
        "trust_target",
        "platform",
        "runtime",
        "name",
        "username",
        "password_file",
    ),
    *("digestfile", "config", "volumes"),
)
"""What a command that names the target says again; secrets are not among it."""


def push(request: PushRequest, target: Endpoint, session: Session) -> int:
    """Push what *request* says to *target*; the exit code."""
    several = len(request.operands) > 1
    with ExitStack() as stack:
        connections = stack.enter_context(Connections(target, session))
        if several and request.targets and not request.all_tags:
            from .. import joined_push

            return joined_push.run(request, connections)
        tally = Outcomes("pushes", session, several=several)
        jobs = all_jobs(request, connections, stack, tally)
        if request.digestfile:
            check_writable(request.digestfile)
        _check_bases(jobs, connections)
        if request.dry_run:
            return _dry_run(jobs, connections, request, tally)
        return _push_all(jobs, connections, request, tally)


def _check_bases(jobs: Sequence[Job], connections: Connections) -> None:
    """Raises NotHeld when registries do not hold what deltas left out."""
    found: dict[DeltaImages, list[Lacking]] = {}
    for job in jobs:
        if isinstance(job.source, DeltaImages) and job.image is not None:
            with connections.target(job.target) as target:
                lacking = job.source.lacks(target, job.image)
                found.setdefault(job.source, []).append(lacking)
    for source, images in found.items():
        source.check(images)


Done = tuple[Job, "PushResult"]


def _push_all(
    jobs: Sequence[Job], connections: Connections, request: PushRequest, tally: Outcomes
) -> int:
    done: list[Done] = []
    tally.expect(len(jobs))
    for job in jobs:
        with tally.attempt(str(job.target)):
            if request.no_clobber and connections.has(job.target):
                skipped(job.operand, str(job.target), connections.session.display)
            else:
                done.append((job, _push_one(job, done, connections, request)))
    if request.digestfile and done:
        write_digests(
            request.digestfile, report.digests_of((j.target, r) for j, r in done)
        )
    tally.finish()
    if request.strict:
        report.check_lost((str(job.target), result.lost) for job, result in done)
    return console.DONE


def _push_one(
    job: Job, done: Sequence[Done], connections: Connections, request: PushRequest
) -> PushResult:
    session, state = connections.session, connections.state
    with target_lock(job.target, state.path, session, if_busy=request.if_busy):
        started = time.monotonic()
        result = _sent(job, done, connections, request)
    request.remember(job.target, connections)
    seconds = time.monotonic() - started
    session.end_progress()
    if request.verify:
        _verify(job, connections, request)
    report.pushed(job.target, result, seconds, session.display)
    return result


def _sent(
    job: Job, done: Sequence[Done], connections: Connections, request: PushRequest
) -> PushResult:
    """Push; a registry that wants to know who we are has a person asked, once."""
    try:
        return _transfer(job, done, connections, request)
    except Unauthorized as error:
        if error.status != 401 or not _may_ask(job, connections):
            raise
        from .login import typed_credentials

        registry = job.target.registry
        connections.session.end_progress()
        console.say(str(error))
        connections.use(typed_credentials(registry))
        console.say(f"for this push alone: dockerpush login {registry} keeps them")
    return _transfer(job, done, connections, request)


def _may_ask(job: Job, connections: Connections) -> bool:
    """True the first time, with somebody there and an archive that can be reread."""
    repeatable = not Path(job.operand).is_fifo()
    return repeatable and not connections.was_asked and console.is_interactive()


def _transfer(
    job: Job, done: Sequence[Done], connections: Connections, request: PushRequest
) -> PushResult:
    """Push the image, or copy it from where this run has pushed it already."""
    source, target = job.source, job.target
    for earlier, result in done:
        if (earlier.source, earlier.image) == (source, job.image) and (
            source.is_stream or earlier.target.name == target.name
        ):
            return _copied(earlier.target, result, target, connections)
    tags = [_tag(target)]
    options = request.options(connections.settings(target.registry))
    with connections.target(target) as place:
        if job.image is not None:
            return source.push(ImagePush(place, job.image, tags, options))
        assert isinstance(source, ForwardSource), "the others are looked into"
        return source.push_unseen(place, request.name, tags=tags, options=options)


def _copied(
    there: Reference, result: PushResult, target: Reference, connections: Connections
) -> PushResult:
    """What was pushed to *there* under *target* as well: the same digest.

    In one repository only the tag is new; in one registry blobs are mounted.
    """
    from ...transfer.choices import CopyOptions
    from ...transfer.copy_image import copy_image
    from ...transfer.source import RegistrySource

    tags = [_tag(target)]
    options = CopyOptions(jobs=connections.settings(target.registry).jobs)
    origin = RegistrySource(connections.client(there.registry), there.repository)
    with connections.target(target) as place:
        copied = copy_image(
            origin,
            place,
            str(result.descriptor.digest),
            tags=tags,
            options=options,
        )
    return copied.as_push(target.repository, tags)


def _verify(job: Job, connections: Connections, request: PushRequest) -> None:
    """Read back what was pushed; a compressed file is looked into once more."""
    image = job.image or select_image(job.source.images, request.name)
    options = request.options(connections.settings(job.target.registry))
    with connections.target(job.target) as place:
        pushed = ImagePush(place, image, [_tag(job.target)], options)
        found = job.source.verify(pushed)
    connections.session.end_progress()
    if not connections.session.display.quiet:
        console.say(f"verified {job.target}: {console.size_text(found.size)} read back")


def _tag(reference: Reference) -> str:
    return str(reference.digest) if reference.tag is None else reference.tag


def _dry_run(
    jobs: Sequence[Job], connections: Connections, request: PushRequest, tally: Outcomes
) -> int:
    tally.expect(len(jobs))
    for job in jobs:
        with tally.attempt(str(job.target)):
            if request.no_clobber and connections.has(job.target):
                skipped(job.operand, str(job.target), connections.session.display)
                continue
            assert job.image is not None, "a dry run looks into the archive"
            options = request.options(connections.settings(job.target.registry))
            with connections.target(job.target) as place:
                planned = ImagePush(place, job.image, [_tag(job.target)], options)
                blobs = job.source.dry_run(planned)
            connections.session.end_progress()
            report.forecast(job.target, blobs, connections.session.display)
    tally.finish()
    return console.DONE
