"""The two sides of a copy, each with its own credentials and its own trust.

Credentials and TLS options without a prefix, and credentials of the environment, are
the destination's alone: they never go to a source. Everything else counts for both.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any, Collection

from ..errors import UsageError
from . import console
from .connect import Connections, add_connection_options, add_transfer_options
from .given_credentials import add_credential_options
from .transfer_options import flag, given

if TYPE_CHECKING:
    from .session import Session

SIDES = {"src": "source", "dest": "destination"}

_TRUST = ("plain_http", "tls_verify", "cacert", "cert", "key", "cert_dir", "authfile")
_SECRETS = {
    "username": {"metavar": "NAME"},
    "password": {"metavar": "PASSWORD", "help": "prefer the ways that hide it"},
    "password_stdin": {"action": "store_true"},
    "password_file": {"metavar": "FILE"},
    "creds": {"metavar": "NAME:PASSWORD"},
    "registry_token": {"metavar": "TOKEN"},
    "no_creds": {"action": "store_true"},
}


def add_side_options(parser: ArgumentParser, used: Collection[str]) -> None:
    """Everything about connections: for both sides, and for each of them."""
    add_transfer_options(parser, used)
    add_credential_options(parser)
    add_connection_options(parser)
    for side, name in SIDES.items():
        group = parser.add_argument_group(
            f"for the {name} alone", "as the options without the prefix"
        )
        for secret, more in _SECRETS.items():
            group.add_argument(flag(f"{side}_{secret}"), **more)  # type: ignore[arg-type]
        for key in _TRUST:
            _add_trust(group, side, key)
        group.add_argument(
            f"--{side}-no-tls-verify",
            dest=f"{side}_tls_verify",
            action="store_const",
            const="false",
        )


def _add_trust(group: Any, side: str, key: str) -> None:
    name = flag(f"{side}_{key}")
    if key == "plain_http":
        group.add_argument(name, action="store_const", const="true")
    else:
        group.add_argument(name, metavar=key.upper().replace("_", "-"))


def warn_of_unused_sides(args: Namespace, *, source: bool, target: bool) -> None:
    """Warn of options for a side that is no registry: *source*, *target* are local."""
    names = (*_SECRETS, *_TRUST)
    for side, is_local in (("src", source), ("dest", target)):
        for name in given([f"{side}_{name}" for name in names] * is_local, args):
            console.warn(
                f"the {SIDES[side]} is local and does not use {flag(name)}; "
                "leave it out"
            )
    for name in given(names if target else (), args):
        advice = "leave it out" if source else f"for the source: {flag(f'src_{name}')}"
        console.warn(
            f"the destination is local and does not use {flag(name)}; {advice}"
        )


def source_connections(args: Namespace, session: Session) -> Connections:
    """Those to sources. Raises UsageError."""
    if args.src_password_stdin and (args.dest_password_stdin or args.password_stdin):
        raise UsageError(
            "standard input holds one password: give the other by --src-password-file"
        )
    return Connections(source_arguments(args), session, writes=False)


def source_arguments(args: Namespace) -> Namespace:
    """*args* as a command with one side has them, for the source.

    Without credentials of its own nothing is in there that could hold any, so that
    neither the options without prefix nor the environment count.
    """
    shared = {
        name: value
        for name, value in vars(args).items()
        if name not in _SECRETS and name not in _TRUST
    }
    trust = {name: getattr(args, f"src_{name}") for name in _TRUST}
    secrets = {name: getattr(args, f"src_{name}") for name in _SECRETS}
    no_creds = secrets.pop("no_creds")
    if not any(secrets.values()):
        secrets.clear()
    return Namespace(**shared, **trust, **secrets, no_creds=no_creds)


def target_arguments(args: Namespace) -> Namespace:
    """*args* as a command with one side has them, for the destination."""
    own = {name: getattr(args, f"dest_{name}") for name in (*_SECRETS, *_TRUST)}
    given = {name: value for name, value in own.items() if value not in (None, False)}
    if given.keys() & _SECRETS.keys():
        given = {**{name: own[name] for name in _SECRETS}, **given}
    return Namespace(**{**vars(args), **given})
