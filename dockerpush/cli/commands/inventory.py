"""``inventory SOURCE [REPO ...]``: what a registry, a directory or an archive holds."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Iterable, Iterator, Sequence

from ...errors import PusherError, UsageError
from .. import console, location
from ..endpoints import Connections
from ..have import layout_holdings, repositories_below
from ..options import OPERANDS, RARE, add_volumes_option
from ..report import some_failed
from ..side_options import add_registry_options, endpoint
from ..text_files import read_list

if TYPE_CHECKING:
    from ...reference import Place
    from ...transfer.inventory import Holding
    from ..session import Session


def configure(parser: ArgumentParser) -> None:
    """Add the arguments of ``inventory``."""
    parser.add_argument(
        "place",
        metavar="SOURCE",
        help="REGISTRY[/PREFIX], oci:DIR, or an OCI archive",
    )
    parser.add_argument(
        "repositories",
        metavar="REPO",
        nargs="*",
        help="only these repositories, for a registry that does not list its own",
    )
    parser.set_defaults(**{OPERANDS: "repositories"})
    parser.add_argument(
        "--list",
        metavar="FILE",
        help="only the repositories that 'sync FILE SOURCE' would write to",
    )
    parser.add_argument(
        "--scoped", action="store_true", help="with --list: as sync --scoped"
    )
    add_volumes_option(parser.add_argument_group(RARE))
    add_registry_options(parser)


def run(args: Namespace, session: Session) -> int:
    """Print what *args* name holds, as one JSON document; the exit code."""
    from ...transfer.inventory import write_inventory

    place = location.local(args.place)
    count = _Count()
    failed: list[tuple[str, PusherError]] = []
    if place is not None:
        if args.repositories or args.list:
            raise UsageError("REPO and --list are for registries")
        found = count.counted(layout_holdings(place, args.place))
        write_inventory(args.place, found, console.result)
    else:
        there = location.place(args.place)
        with Connections(endpoint(args), session, writes=False) as connections:
            found = count.counted(_of_registry(there, args, connections, failed))
            write_inventory(str(there), found, console.result)
    if not session.display.quiet:
        console.say(f"{args.place}: {count}")
    for name, error in failed:
        console.say(f"failed: {name}: {error}")
    if failed:
        total = max(count.repositories, len(failed))
        raise some_failed([name for name, _ in failed], total, "looks")
    return console.DONE


class _Count:
    """How much was written."""

    repositories = tags = blobs = 0

    def counted(self, holdings: Iterable[Holding]) -> Iterator[Holding]:
        """*holdings*, as they go by."""
        for holding in holdings:
            self.repositories += 1
            self.tags += len(holding.tags)
            self.blobs += len(holding.blobs)
            yield holding

    def __str__(self) -> str:
        kind = "repository" if self.repositories == 1 else "repositories"
        tags, blobs = (
            console.counted(self.tags, "tag"),
            console.counted(self.blobs, "blob"),
        )
        return f"{self.repositories} {kind}, {tags}, {blobs}"


def _of_registry(
    place: Place,
    args: Namespace,
    connections: Connections,
    failed: list[tuple[str, PusherError]],
) -> Iterator[Holding]:
    """What *place* holds; *failed* gets what could not be read."""
    from ...transfer.registry_scan import RegistryScan

    client, session = connections.client(place.registry), connections.session
    names: Iterable[str] = _named(args, place)
    if not names:
        advice = (
            f"name repositories: dockerpush inventory {args.place} REPOSITORY ..., or "
            "--list images.txt"
        )
        names = repositories_below(place, client, advice)
    scan = RegistryScan(client, session.cancellation, session.on_event)
    yield from scan.holdings(names)
    session.end_progress()
    failed += scan.failed
    if not session.display.quiet:
        for name in scan.missing:
            console.say(f"note: {place.registry} has no repository {name} yet")


def _named(args: Namespace, place: Place) -> Sequence[str]:
    """The repositories that the command line names, in order, each once."""
    from ...reference import check_repository

    below = f"{place.prefix}/" if place.prefix else ""
    names = [
        name if name.startswith(below) else below + name for name in args.repositories
    ]
    for name in names:
        check_repository(name)
    if args.list:
        names += _of_list(args, place)
    return list(dict.fromkeys(names))


def _of_list(args: Namespace, place: Place) -> list[str]:
    from ...sync.lists import Defaults

    listed = read_list(args.list, Defaults(place, args.scoped))
    targets = (entry.target for entry in listed.entries)
    return [one.repository for one in targets if one.registry == place.registry]
