"""``sync FILE``: many images, as a list says."""

from __future__ import annotations

import os
import re
from argparse import ArgumentParser, Namespace
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Sequence

from ...errors import Cancelled, NotFound, UsageError
from ...reference import has_registry
from ...settings.keys import RECEIVING, is_own_variable
from .. import console, location
from ..endpoints import Connections, Endpoint
from ..have import add_have_option, check_have, read_have
from ..image_files import check_directory, check_sums
from ..image_sources import is_file
from ..options import (
    OPERANDS,
    RARE,
    USED,
    add_json_option,
    add_selection,
    add_split_option,
    add_sums_option,
    add_volumes_option,
    chosen_platforms,
)
from ..recompress_options import (
    NEEDS_DIRECTORY,
    add_recompress_option,
    check_recompress,
)
from ..report import check_lost
from ..side_options import (
    add_side_options,
    local_endpoint,
    source_endpoint,
    target_endpoint,
    warn_of_unused_sides,
)
from ..sync_report import SyncReport, report_path, to_retry, write_report
from ..sync_run import SyncRequest, SyncRun, archive_output, keeps
from ..text_files import parse_list, read_list, shown_name

if TYPE_CHECKING:
    from ...sync.carried_directory import CarriedDirectory
    from ...sync.lists import Defaults, Shard, SyncList
    from ..session import Session


def configure(parser: ArgumentParser) -> None:
    """Add the arguments of ``sync``."""
    parser.add_argument(
        "file",
        metavar="FILE",
        help="lines 'SRC [DST]', JSON or YAML (also skopeo's); - for standard input; "
        "or oci:DIR or oci-archive:FILE for all images in there",
    )
    parser.add_argument(
        "place",
        metavar="DST",
        nargs="?",
        help="HOST[/PREFIX] for images without a target in the list; or oci:DIR or "
        "oci-archive:FILE for all images",
    )
    parser.add_argument(
        "--from",
        dest="source",
        metavar="oci:DIR",
        help="take the images of the list from this directory, or oci-archive:FILE",
    )
    parser.set_defaults(**{OPERANDS: "place"})
    add_have_option(parser)
    parser.add_argument(
        "--scoped", action="store_true", help="keep full names below DST"
    )
    add_selection(parser)
    add_split_option(parser)
    _add_what_is_done(parser)
    add_json_option(parser, "print a report as one JSON object")
    parser.add_argument(
        "--report", metavar="FILE", help="write a report: FILE.html, or FILE.json"
    )
    parser.add_argument(
        "--retry-failed",
        metavar="REPORT",
        help="copy only the images that failed in this FILE.json",
    )
    _add_rare(parser.add_argument_group(RARE))
    add_side_options(parser, USED["sync"])


def _add_what_is_done(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--on-exists",
        choices=("compare", "skip", "error"),
        default="compare",
        help="what to do with a tag that exists: copy when the digest differs, skip "
        "it, or fail (default: compare)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="show what would be done, copy nothing"
    )
    parser.add_argument(
        "--prune",
        action="store_true",
        help="afterwards delete other tags in the repositories of the list",
    )
    parser.add_argument("-y", "--yes", action="store_true", help="prune without asking")


def _add_rare(rare: Any) -> None:
    add_sums_option(rare)
    add_recompress_option(rare, strict=True)
    add_volumes_option(rare)
    rare.add_argument(
        "--shard",
        metavar="I/N",
        default="0/1",
        help="only the I-th of N shares of the list, for N machines (default: 0/1)",
    )
    rare.add_argument(
        "--env",
        metavar="NAME",
        action="append",
        default=[],
        help="allow ${NAME} in the list (repeatable)",
    )


def run(args: Namespace, session: Session) -> int:
    """Do what the list says; the exit code."""
    from ...sync.lists import Shard

    shard = Shard.parse(args.shard)
    request = _request(args)
    _check_prune(request, shard)
    if request.output and keeps(request.output, args.on_exists, args.file, session):
        return console.DONE
    report = SyncReport(
        shown_name(request.file), request.target, request.dry_run, request.prune
    )
    try:
        _sync(request, shard, report, _endpoints(request, args), session)
    except Cancelled:
        if report.items:
            _finish(report, request, session)
        raise
    _finish(report, request, session)
    report.check()
    if args.strict:
        check_lost((str(item.target), item.lost) for item in report.items)
    return console.DONE


def _sync(
    request: SyncRequest,
    shard: Shard,
    report: SyncReport,
    sides: tuple[Endpoint, Endpoint],
    session: Session,
) -> None:
    """Plan, copy and prune, and have *report* say what became of it."""
    from ...sync.carried_directory import CarriedDirectory

    with ExitStack() as stack:
        origin = None
        if request.origin:
            origin = CarriedDirectory(request.origin, session.cancellation, stack)
        wanted = _read_list(request, origin)
        entries = [entry for entry in wanted.entries if shard.takes(entry)]
        if request.retry is not None:
            entries = to_retry(request.retry, entries, request.target)
        sources = stack.enter_context(Connections(sides[0], session, writes=False))
        targets = stack.enter_context(Connections(sides[1], session))
        have = read_have(request.have, targets)
        run = SyncRun(
            wanted,
            entries,
            request,
            origin,
            sources=sources,
            targets=targets,
            have=have,
        )
        report.items += run.plan()
        if not request.dry_run:
            run.copy(report.items)
        if request.prune:
            _prune(request, report, targets)
        if request.sums and request.into and not request.dry_run:
            _write_sums(request.into)


def _finish(report: SyncReport, request: SyncRequest, session: Session) -> None:
    """Write and show *report*; who interrupts a run reads no result."""
    session.end_progress()
    report.finish()
    if request.report is not None:
        write_report(report, request.report)
    if session.signal is None:
        report.show(as_json=session.display.json)


def _check_prune(request: SyncRequest, shard: Shard) -> None:
    """Check that what is asked for may be pruned. Raises UsageError."""
    if request.prune and request.output:
        raise UsageError(
            "--prune is for registries and OCI directories; a new archive replaces the "
            "old one: leave the option out"
        )
    if request.prune and shard.count > 1:
        raise UsageError(
            "--prune needs the whole list: sync all shards, then run once with --prune "
            "and without --shard"
        )
    if request.prune and request.retry is not None:
        raise UsageError(
            "--prune needs the whole list: retry first, then run once with --prune and "
            "without --retry-failed"
        )
    if request.output and request.retry is not None:
        raise UsageError(
            "--retry-failed adds images to what is there, and an archive is written as "
            "a whole: leave the option out"
        )
    if request.prune:
        from ..sync_prune import check_may_prune

        check_may_prune(yes=request.yes, dry_run=request.dry_run)


def _prune(request: SyncRequest, report: SyncReport, targets: Connections) -> None:
    from ..sync_prune import Pruning

    pruning = Pruning(report.items, targets, request.into, report.pruned)
    if request.dry_run:
        pruning.plan()
    else:
        pruning.run(yes=request.yes)


def _request(args: Namespace) -> SyncRequest:
    """What *args* say. Raises UsageError."""
    listed = _carried(args.file)
    origin = listed
    if args.source:
        if listed:
            raise UsageError(f"give {args.file} or --from {args.source}, not both")
        origin = _carried(args.source) or Path(args.source)
    into = location.directory(args.place or "")
    output = archive_output(args.place or "", args.split)
    if into is not None:
        check_directory(into)
    check_sums(sums=args.sums, is_directory=into is not None)
    check_recompress(args.recompress, args.compress, args.have)
    if args.recompress and output:
        raise UsageError(NEEDS_DIRECTORY)
    check_have(args.have, is_file=bool(into or output))
    return SyncRequest(
        args.file,
        bool(listed),
        origin,
        into,
        output,
        args.place or "",
        _defaults(args, is_file=bool(into or output)),
        _variables(args.env),
        args.dry_run,
        args.sums,
        args.recompress,
        args.prune,
        args.yes,
        tuple(args.have),
        report_path(args.report),
        args.retry_failed,
    )


def _write_sums(directory: Path) -> None:
    """Write those of *directory*, if any image went there."""
    from ...archive.writers import write_sums

    if (directory / "index.json").exists():
        write_sums(directory)


def _variables(names: Sequence[str]) -> dict[str, str]:
    """The variables *names*, "" for one that is not set. Raises UsageError."""
    for name in names:
        if not re.fullmatch(r"\w{1,255}", name):
            raise UsageError(f"--env: wanted the name of a variable: {name!r:.80}")
        if is_own_variable(name):
            raise UsageError(
                f"--env {name:.80}: variables of dockerpush hold its settings and "
                "credentials, which no list may use; set another variable"
            )
    return {name: os.environ.get(name, "") for name in names}


def _carried(text: str) -> Path | None:
    """The directory or archive that *text* means; None for a list."""
    return location.directory(text) or location.archive(text)


def _endpoints(request: SyncRequest, args: Namespace) -> tuple[Endpoint, Endpoint]:
    """Source and destination. Raises UsageError, PusherError."""
    source, target = request.origin is not None, bool(request.into or request.output)
    warn_of_unused_sides(args, source=source, target=target)
    sources = (local_endpoint if source else source_endpoint)(args)
    targets = (local_endpoint if target else target_endpoint)(args)
    if target:
        what = "sync between files" if source else "sync into a file"
        sources = sources.using(what, ("jobs",) if source else RECEIVING)
    return sources, targets


def _read_list(request: SyncRequest, origin: CarriedDirectory | None) -> SyncList:
    """The whole list, checked; every mistake is reported with its line."""
    if not (request.whole and origin):
        _check_list(request.file)
        return read_list(request.file, request.defaults, request.variables)
    name, text = _names(request.file, origin)
    return parse_list(text, name, request.defaults, {}, is_plain=True)


def _check_list(file: str) -> None:
    """Raises UsageError for a directory, and NotFound for what may be a repository."""
    if Path(file).is_dir():
        raise UsageError(
            f"{file:.200} is a directory, not a list; for its images: dockerpush sync "
            f"{location.OCI_PREFIX}{file:.200} DST"
        )
    if has_registry(file) and not is_file(file):
        raise NotFound(
            f"{file:.200}: no such list; for one repository: dockerpush copy "
            f"--all-tags {file:.200} DST"
        )


def _names(file: str, origin: CarriedDirectory) -> tuple[str, str]:
    """What the list of all images of *origin* is called, and its text."""
    if origin.nameless:
        console.say(
            f"left out, no full name: {', '.join(origin.nameless[:5])}; "
            f"to copy one: dockerpush copy {file}:NAME DST"
        )
    return file, "\n".join(map(str, origin.images))


def _defaults(args: Namespace, *, is_file: bool) -> Defaults:
    from ...sync.lists import Defaults, OnExists

    return Defaults(
        location.place(args.place) if args.place and not is_file else None,
        args.scoped,
        chosen_platforms(args.platform),
        args.referrers,
        OnExists(args.on_exists),
        into_directory=is_file,
    )
