"""``logout [REGISTRY]``: forget what login kept."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from ...errors import UsageError
from .. import console
from ..choose_target import registry_of
from ..endpoints import Connections
from ..side_options import endpoint
from .login import add_registry_argument

if TYPE_CHECKING:
    from ..session import Session


def configure(parser: ArgumentParser) -> None:
    """Add the arguments of ``logout``."""
    add_registry_argument(parser)
    parser.add_argument(
        "-a", "--all", action="store_true", help="forget every registry"
    )
    parser.add_argument("--authfile", metavar="FILE", help="take it out of this file")
    parser.add_argument(
        "--config", metavar="FILE", help="read FILE in place of config.json"
    )


def run(args: Namespace, session: Session) -> int:
    """Forget one registry or all; not being logged in is no failure."""
    with Connections(endpoint(args), session) as connections:
        registry = registry_of(args.registry, connections)
        if args.all:
            names = _forget_all(args, connections)
        else:
            known = connections.credential_store(registry).erase(registry)
            names = (registry,) if known else ()
        _forget_logins(connections, names if args.all else (registry,))
    session.end_progress()
    for name in () if args.quiet else names:
        console.say(f"logged out of {name}")
    if not (names or args.quiet):
        console.say(f"note: not logged in{'' if args.all else f' to {registry}'}")
    return console.DONE


def _forget_all(args: Namespace, connections: Connections) -> tuple[str, ...]:
    from ...credentials.credential_store import CredentialStore

    store = connections.credential_store(None)
    if not isinstance(store, CredentialStore):
        raise UsageError(
            "--all works on dockerpush's own file alone: with --authfile name each "
            "registry"
        )
    return store.erase_all()


def _forget_logins(connections: Connections, registries: tuple[str, ...]) -> None:
    from ...state.history import PushHistory

    history = PushHistory(connections.state)
    for registry in registries:
        history.forget_login(registry)
