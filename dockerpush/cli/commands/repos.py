"""``repos REGISTRY``: the repositories of a registry."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from ...documents import held
from ...errors import NotFound
from .. import console, location
from ..endpoints import Connections
from ..have import repositories_below
from ..options import add_json_option
from ..side_options import add_registry_options, endpoint

if TYPE_CHECKING:
    from ..session import Session


def configure(parser: ArgumentParser) -> None:
    """Add the arguments of ``repos``."""
    parser.add_argument(
        "place",
        metavar="REGISTRY[/PREFIX]",
        help="a registry; with PREFIX, only that repository and those below it",
    )
    parser.add_argument("--full-ref", action="store_true", help="print REGISTRY/REPO")
    add_json_option(parser, "print one JSON object")
    add_registry_options(parser)


def run(args: Namespace, session: Session) -> int:
    """List the repositories in the registry's order. Raises NotFound."""
    place = location.place(args.place)
    before = f"{place.registry}/" if args.full_ref else ""
    with Connections(endpoint(args), session, writes=False) as connections:
        advice = (
            f"name a repository instead: dockerpush tags {place.registry}/REPOSITORY"
        )
        client = connections.client(place.registry)
        found = repositories_below(place, client, advice)
        if session.display.json:
            names = held(before + name for name in found)
            console.json_result({"registry": place.registry, "repositories": names})
            is_empty = not names
        else:
            is_empty = True
            for name in found:
                console.result(before + name)
                is_empty = False
    if is_empty and place.prefix:
        raise NotFound(f"{place.registry} shows no repository {place.prefix}, or below")
    if is_empty and not session.display.quiet:
        console.say(f"note: {place.registry} shows no repositories")
    return console.DONE
