"""``login [REGISTRY]``: check who one is at a registry, and keep it."""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from ...errors import NotFound, UsageError
from .. import console
from ..choose_target import registry_of
from ..endpoints import Connections
from ..side_options import add_registry_options, endpoint, given_pair

if TYPE_CHECKING:
    from ...credentials.identity import Credentials
    from ..session import Session

NON_INTERACTIVE = (
    "there is no terminal to ask at: give --username NAME and --password-stdin, or set "
    "DOCKERPUSH_USERNAME and DOCKERPUSH_PASSWORD"
)


def configure(parser: ArgumentParser) -> None:
    """Add the arguments of ``login``."""
    add_registry_argument(parser)
    parser.add_argument(
        "--get-login",
        action="store_true",
        help="show which user would be used, and end",
    )
    parser.add_argument(
        "--skip-check",
        action="store_true",
        help="do not ask the registry first",
    )
    add_registry_options(parser, passwords_only=True)


def add_registry_argument(parser: ArgumentParser) -> None:
    """The registry that is meant, Docker Hub by default."""
    parser.add_argument(
        "registry",
        metavar="REGISTRY",
        nargs="?",
        default="docker.io",
        help="HOST[:PORT] (default: docker.io)",
    )


def run(args: Namespace, session: Session) -> int:
    """Log in, or say who is logged in; the exit code."""
    if args.get_login:
        return _show_login(args, session)
    if args.no_creds or args.registry_token:
        raise UsageError("login keeps a username and a password: give these")
    with Connections(endpoint(args, credentials=False), session) as connections:
        registry = registry_of(args.registry, connections)
        credentials = ask_credentials(registry, args)
        connections.use(credentials)
        if not args.skip_check:
            _check(registry, connections)
        where = _keep(registry, credentials, connections)
    if not args.quiet:
        console.say(f"logged in to {registry} as {credentials.username}")
        console.say(f"note: the password is kept as plain text in {where}")
    return console.DONE


def _check(registry: str, connections: Connections) -> None:
    """Raises Unauthorized, or what else keeps us from asking *registry*."""
    client = connections.client(registry)
    client.ping()
    connections.session.end_progress()
    if client.challenge is None:
        console.say(
            f"note: {registry} asked for no credentials, so nobody checked them"
        )


def ask_credentials(registry: str, args: Namespace) -> Credentials:
    """From options and environment; what is missing is asked for on a terminal.

    Raises UsageError without one.
    """
    from ...credentials.identity import Credentials, Secret

    username, password, source = given_pair(args)
    _check_username(username or "")
    if username and password:
        return Credentials(username, Secret(password), source=source)
    if args.password_stdin or not console.is_interactive():
        missing = "--username" if not username else "the password"
        raise UsageError(f"{missing} is missing, and {NON_INTERACTIVE}")
    return typed_credentials(registry, username or "", password or "")


def typed_credentials(
    registry: str, username: str = "", password: str = ""
) -> Credentials:
    """What is missing of these is asked for. Raises UsageError for an empty answer."""
    from ...credentials.identity import Credentials, Secret

    username = username or console.ask(f"Username at {registry}")
    _check_username(username)
    if username and not password:
        password = console.ask_password("Password")
    if not username or not password:
        raise UsageError("login needs a username and a password; nothing was stored")
    return Credentials(username, Secret(password), source="the prompt")


def _check_username(username: str) -> None:
    if ":" in username:
        raise UsageError(f"a username cannot hold a colon (RFC 7617): {username!r}")


def _show_login(args: Namespace, session: Session) -> int:
    with Connections(endpoint(args), session) as connections:
        registry = registry_of(args.registry, connections)
        found = connections.credentials(registry)(registry, "")
    session.end_progress()
    if found is None or not found.username:
        raise NotFound(f"not logged in to {registry}: dockerpush login {registry}")
    console.result(found.username)
    if args.verbose:
        console.say(f"from {found.source}")
    return console.DONE


def _keep(registry: str, credentials: Credentials, connections: Connections) -> str:
    """Store *credentials*; where. Raises StateError, HelperFailed."""
    from ...state.history import Login, PushHistory

    store = connections.credential_store(registry)
    store.save(registry, credentials.username, credentials.password)
    PushHistory(connections.state).record_login(
        Login(registry, time.time(), credentials.username)
    )
    return str(store.path)
