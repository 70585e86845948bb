"""``repos REGISTRY``: the repositories of a registry."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Iterator

from ...documents import held
from ...errors import NotFound, PusherError, RegistryError, Unauthorized
from .. import console, location
from ..endpoints import Connections
from ..options import (
    add_connection_options,
    add_credential_options,
    add_json_option,
    endpoint,
)

if TYPE_CHECKING:
    from ...reference import Place
    from ...registry.client import RegistryClient
    from ..session import Session

_NO_CATALOG = (400, 404, 405, 406, 410, 501)
"""What registries without a list of their repositories answer."""


def configure(parser: ArgumentParser) -> None:
    """Add the arguments of ``repos``."""
    parser.add_argument(
        "place",
        metavar="REGISTRY[/PREFIX]",
        help="a registry; with PREFIX, only that repository and those below it",
    )
    parser.add_argument("--full-ref", action="store_true", help="print REGISTRY/REPO")
    add_json_option(parser, "print one JSON object")
    add_credential_options(parser)
    add_connection_options(parser)


def run(args: Namespace, session: Session) -> int:
    """List the repositories in the registry's order. Raises NotFound."""
    place = location.place(args.place)
    before = f"{place.registry}/" if args.full_ref else ""
    with Connections(endpoint(args), session, writes=False) as connections:
        found = _below(place, connections.client(place.registry))
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


def _below(place: Place, client: RegistryClient) -> Iterator[str]:
    try:
        for name in client.repositories():
            if not place.prefix or f"{name}/".startswith(f"{place.prefix}/"):
                yield name
    except RegistryError as error:
        raise _explained(error, place.registry) from error


def _explained(error: RegistryError, registry: str) -> PusherError:
    """What it means that the list is not given."""
    advice = f"name a repository instead: dockerpush tags {registry}/REPOSITORY"
    if isinstance(error, Unauthorized):
        said = error.detail or error.code or f"status {error.status}"
        return error.in_words(
            f"{registry} does not let you list its repositories: {said}; many let "
            f"nobody, or administrators alone; {advice}"
        )
    if error.status in _NO_CATALOG:
        return NotFound(
            f"{registry} has no list of its repositories (status {error.status}); "
            + advice
        )
    return error
