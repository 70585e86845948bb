"""``sync FILE``: many images, as a list says."""

from __future__ import annotations

import os
import sys
import threading
import time
from argparse import SUPPRESS, ArgumentParser, Namespace
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Mapping, Sequence

from ...errors import PusherError, SomeFailed, UsageError
from ...values import replace
from .. import console, location
from .. import console as exits
from .. import location as places
from ..endpoints import (
    Connections,
    add_side_options,
    source_connections,
    target_arguments,
    warn_of_unused_sides,
)
from ..options import OPERANDS, RECEIVING, USED, chosen_platforms, warn_of_unused
from .copy import add_selection

if TYPE_CHECKING:
    from ...sync.lists import Defaults, SyncEntry, SyncList
    from ...sync.planner import SyncItem
    from ..session import Session
    from ..sync_endpoints import DirectorySource

STDIN = "-"
MOST_LOOKS = 32
"""Images that are compared at a time, within the budget of each registry."""
_LIMIT = 4 * 1024 * 1024  # bytes of a list that are read


def configure(parser: ArgumentParser) -> None:
    """Add the arguments of ``sync``."""
    parser.add_argument(
        "file",
        metavar="FILE",
        help="lines 'SRC [DST]', or JSON or YAML (also skopeo's form); - for standard "
        "input; or oci:DIR for all the images of an OCI directory",
    )
    parser.add_argument(
        "place",
        metavar="DST",
        nargs="?",
        help="HOST[/PREFIX] for images without a target of their own; or oci:DIR, a "
        "directory to be carried, for all images, under the names of their sources",
    )
    parser.add_argument(
        "--from",
        dest="source",
        metavar="oci:DIR",
        help="take the images of the list from this directory instead of registries",
    )
    parser.set_defaults(**{OPERANDS: "place"})
    parser.add_argument(
        "--scoped", action="store_true", help="below DST by their full names"
    )
    add_selection(parser)
    parser.add_argument(
        "--on-exists",
        choices=("compare", "skip", "error"),
        default="compare",
        help="what to do with a tag that the target has: copy it when its digest is "
        "another one, leave it, or fail (default: compare)",
    )
    parser.add_argument(
        "--shard",
        metavar="I/N",
        default="0/1",
        help="only the I-th of N shares of the list, for as many machines",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="show what would be done, copy nothing"
    )
    parser.add_argument("--json", action="store_true", help="a report as one object")
    parser.add_argument("--format", choices=("json",), help=SUPPRESS)
    add_side_options(parser, USED["sync"])


def run(args: Namespace, session: Session) -> int:
    """Do what the list says; the exit code."""
    from ...sync.lists import Shard

    shard = Shard.parse(args.shard)
    _warn_of_unused(args)
    started = time.monotonic()
    with ExitStack() as stack:
        origin = _open_origin(args, session, stack)
        wanted = _read_list(args, origin)
        entries = [entry for entry in wanted.entries if shard.takes(entry)]
        run = _Run(wanted, entries, origin, args, session, stack)
        items = run.plan()
        if not args.dry_run:
            items = run.copy(items)
    session.end_progress()
    _report(items, time.monotonic() - started, args)
    return _code(items)


def _warn_of_unused(args: Namespace) -> None:
    source = bool(args.source or places.directory(args.file))
    target = places.directory(args.place or "") is not None
    warn_of_unused_sides(args, source=source, target=target)
    if target:
        used = ("jobs",) if source else RECEIVING
        what = "sync between directories" if source else "sync into a directory"
        warn_of_unused(what, used, args)


def _open_origin(
    args: Namespace, session: Session, stack: ExitStack
) -> DirectorySource | None:
    """The directory that all images come from, if there is one. Raises UsageError."""
    from ..sync_endpoints import DirectorySource

    listed = places.directory(args.file)
    path = listed
    if args.source:
        if listed:
            raise UsageError(f"{args.file} or --from {args.source}: one of them")
        path = places.directory(args.source) or Path(args.source)
    return DirectorySource(path, session, stack) if path else None


def _read_list(args: Namespace, origin: DirectorySource | None) -> SyncList:
    """The whole list, checked; every mistake is told with its line."""
    from ...sync.list_document import is_document, parse_document
    from ...sync.lists import SyncListError, parse_lines

    whole = None if args.source else origin
    name, text = _content(args.file) if whole is None else _names(args.file, whole)
    defaults = _defaults(args)
    try:
        if whole is None and is_document(text, name):
            return parse_document(text, name, defaults, os.environ)
        return parse_lines(text, name, defaults)
    except SyncListError as error:
        for problem in error.problems:
            console.say(f"{name}:{problem.line}: {problem.text}")
        raise


def _names(file: str, origin: DirectorySource) -> tuple[str, str]:
    """What the list of all images of *origin* is called, and its text."""
    if origin.nameless:
        console.say(
            f"left out, for want of a full name: {', '.join(origin.nameless[:5])}; "
            f"to copy one: dockerpush copy {file}:NAME DST"
        )
    return file, "\n".join(map(str, origin.images))


def _content(file: str) -> tuple[str, str]:
    """What the list is called in messages, and its text. Raises PusherError."""
    try:
        if file == STDIN:
            raw = sys.stdin.buffer.read(_LIMIT + 1)
        else:
            with Path(file).open("rb") as opened:
                raw = opened.read(_LIMIT + 1)
    except OSError as error:
        raise PusherError(f"{file}: cannot be read: {error.strerror}") from error
    name = "standard input" if file == STDIN else file
    if len(raw) > _LIMIT:
        raise UsageError(f"{name}: more than {_LIMIT} bytes; is it a list of images?")
    try:
        return name, raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{name}: not a text in UTF-8: {error.reason}") from error


def _defaults(args: Namespace) -> Defaults:
    from ...sync.lists import Defaults, OnExists

    into = places.directory(args.place or "")
    return Defaults(
        location.place(args.place) if args.place and not into else None,
        args.scoped,
        chosen_platforms(args.platform),
        args.referrers,
        OnExists(args.on_exists),
        into_directory=into is not None,
    )


class _Run:
    """Both sides of one run, opened before there are threads."""

    def __init__(
        self,
        wanted: SyncList,
        entries: Sequence[SyncEntry],
        origin: DirectorySource | None,
        args: Namespace,
        session: Session,
        stack: ExitStack,
    ) -> None:
        from ...transfer.engine import Share
        from ..sync_endpoints import DirectoryTargets, RegistrySide

        self._entries = entries
        self._session = session
        self._quiet = args.quiet
        from_registries = {entry.source.registry for entry in entries}
        to_registries = {entry.target.registry for entry in entries}
        into = places.directory(args.place or "")
        self._into = args.place if into else None
        self._from: RegistrySide | DirectorySource
        self._to: RegistrySide | DirectoryTargets
        if origin is not None:
            self._from = origin
        else:
            sources = stack.enter_context(source_connections(args, session))
            _apply(wanted.hosts, sources)
            self._from = RegistrySide(sources, from_registries)
        if into is not None:
            self._to = DirectoryTargets(into, to_registries, session)
        else:
            targets = Connections(target_arguments(args), session)
            _apply(wanted.hosts, stack.enter_context(targets))
            self._to = RegistrySide(targets, to_registries)
        budget = {**self._from.budget, **self._to.budget}
        self._jobs = wanted.parallel or max(budget.values(), default=0)
        if not self._jobs:
            self._jobs = source_connections(args, session).settings().jobs
        self._looks = max(1, min(MOST_LOOKS, sum(budget.values())))
        self._share = Share(budget)
        self._lock = threading.Lock()  # guards stderr

    def plan(self) -> list[SyncItem]:
        """What is to be done."""
        from ...sync.planner import Planner

        cancellation = self._session.cancellation
        planner = Planner(
            self._from.registries,
            self._to.registries,
            self._share,
            cancellation,
            jobs=self._looks,
        )
        return planner.plan(self._entries)

    def copy(self, items: Sequence[SyncItem]) -> list[SyncItem]:
        """What was done."""
        from ...sync.planner import copy_all

        return copy_all(
            items,
            self._copy,
            self._say,
            cancellation=self._session.cancellation,
            jobs=self._jobs,
        )

    def _copy(self, item: SyncItem) -> SyncItem:
        """A worker thread's work."""
        from ...sync.planner import Action
        from ...transfer.choices import CopyOptions
        from ...transfer.engine import copy_image

        with self._to.target(item.target) as target:
            result = copy_image(
                self._from.source(item.source),
                target,
                str(item.digest or item.source.digest or item.source.tag),
                tags=self._to.names(item.target, item.digest),
                options=CopyOptions(
                    item.entry.platforms, item.entry.referrers, self._jobs
                ),
                share=self._share,
            )
        item = replace(item, digest=result.descriptor.digest, sent=result.sent)
        if not result.manifests:
            return replace(item, action=Action.SKIP, why="unchanged")
        return item

    def _say(self, item: SyncItem) -> None:
        from ...sync.planner import Action

        with self._lock:
            if item.action is Action.FAILED:
                console.say(f"failed: {item.target}: {item.why}")
            elif item.action is Action.COPY and not self._quiet:
                size = console.size_text(item.sent)
                target = self._into or item.target
                console.say(f"copied {item.source} to {target}: {size}")


def _apply(hosts: Mapping[str, Mapping[str, object]], connections: Connections) -> None:
    """Have the settings of the list count as those of the configuration do."""
    known = connections.config.registries
    merged = {name: {**known.get(name, {}), **value} for name, value in hosts.items()}
    connections.config = replace(connections.config, registries={**known, **merged})


def _report(items: Sequence[SyncItem], seconds: float, args: Namespace) -> None:
    counts = Counter(item.action.value for item in items)
    if args.json or args.format:
        console.json_result(
            {
                "images": [_record(item) for item in items],
                **{name: counts[name] for name in ("copy", "skip")},
                **{name: counts[name] for name in ("missing", "failed")},
                "bytes": sum(item.sent for item in items),
                "seconds": round(seconds, 3),
                "dryRun": args.dry_run,
            }
        )
        return
    rows = [(i.action.value, str(i.source), str(i.target), i.why) for i in items]
    if not args.dry_run:
        rows = [row for row in rows if row[0] in ("missing", "failed")]
    if rows:
        console.table([("ACTION", "SOURCE", "TARGET", "WHY"), *rows])
    sent = console.size_text(sum(item.sent for item in items))
    words = ("to copy", "unchanged") if args.dry_run else ("copied", "unchanged")
    console.result(
        f"{counts['copy']} {words[0]}, {counts['skip']} {words[1]}, "
        f"{counts['missing']} missing, {counts['failed']} failed"
        + ("" if args.dry_run else f"; {sent} in {seconds:.1f} s")
    )


def _record(item: SyncItem) -> dict[str, Any]:
    return {
        "line": item.entry.line,
        "source": str(item.source),
        "target": str(item.target),
        "action": item.action.value,
        "digest": item.digest,
        "why": item.why,
        "bytes": item.sent,
    }


def _code(items: Sequence[SyncItem]) -> int:
    from ...sync.planner import Action

    bad = [i for i in items if i.action in (Action.MISSING, Action.FAILED)]
    if bad:
        names = ", ".join(str(item.target) for item in bad[:5])
        raise SomeFailed(f"{len(bad)} of {len(items)} images failed: {names}")
    return exits.DONE
