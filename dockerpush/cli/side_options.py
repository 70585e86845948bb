"""Options about each side of a run, and the `Endpoint` that they come to.

Credentials and TLS options without a prefix, and credentials of the environment, are
the destination's alone: they never go to a source. Everything else counts for both.
"""

from __future__ import annotations

import os
import sys
from argparse import SUPPRESS, ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Collection, Iterator, Mapping

from ..errors import PusherError, UsageError, file_error
from ..settings.keys import KEYS, KEYS_BY_NAME, flag
from . import console
from .endpoints import Endpoint
from .options import (
    CREDENTIALS,
    SIDES,
    add_connection_options,
    add_setting,
    add_transfer_options,
)

if TYPE_CHECKING:
    from ..credentials.identity import Credentials

_VARIABLES = (
    ("DOCKERPUSH_USERNAME", "DOCKERPUSH_PASSWORD"),
    ("DOCKER_USERNAME", "DOCKER_PASSWORD"),
)
_TRUST = ("plain_http", "tls_verify", "cacert", "cert", "key", "cert_dir", "authfile")
_SEEN = ("password", "creds", "registry_token")
"""What has a secret in its value."""
_SECRETS: Mapping[str, Mapping[str, Any]] = {
    "username": {"metavar": "NAME"},
    "password": {"metavar": "PASSWORD"},
    "password_stdin": {"action": "store_true"},
    "password_file": {"metavar": "FILE"},
    "creds": {"metavar": "NAME:PASSWORD"},
    "registry_token": {"metavar": "TOKEN"},
    "no_creds": {"action": "store_true"},
}


def add_registry_options(
    parser: ArgumentParser, *, passwords_only: bool = False
) -> None:
    """Who we are at a registry, and how it is reached."""
    _add_credential_options(parser, passwords_only=passwords_only)
    add_connection_options(parser)


def _add_credential_options(parser: ArgumentParser, *, passwords_only: bool) -> None:
    """The ways to say who one is; hidden what is none with *passwords_only*."""
    group = parser.add_argument_group(
        CREDENTIALS, "default: what login, docker and podman have stored"
    )
    basic = parser if passwords_only else group
    basic.add_argument("-u", "--username", metavar="NAME", help="user at the registry")
    basic.add_argument(
        "--password-stdin",
        "--pass-stdin",
        action="store_true",
        help="read the password from standard input",
    )
    group.add_argument(
        "-p",
        "--password",
        metavar="PASSWORD",
        help="the password; others see it in the process list",
    )
    group.add_argument(
        "--password-file", metavar="FILE", help="read the password from FILE"
    )
    group.add_argument(
        "--creds",
        metavar="NAME:PASSWORD",
        help="user and password in one; others see them in the process list",
    )
    token = "send this bearer token; others see it in the process list"
    none = "use no credentials at all"
    if passwords_only:
        token = none = SUPPRESS
    group.add_argument("--registry-token", metavar="TOKEN", help=token)
    group.add_argument("--no-creds", action="store_true", help=none)


def add_side_options(parser: ArgumentParser, used: Collection[str]) -> None:
    """Everything about connections: for both sides, and for each of them."""
    add_transfer_options(parser, used)
    add_registry_options(parser)
    for side, name in SIDES.items():
        group = parser.add_argument_group(f"for the {name} alone")
        for secret, more in _SECRETS.items():
            group.add_argument(flag(f"{side}_{secret}"), help=_as(secret), **more)
        for key in _TRUST:
            add_setting(group, KEYS_BY_NAME[key], side=f"{side}_", help=_as(key))
        group.add_argument(
            f"--{side}-no-tls-verify",
            dest=f"{side}_tls_verify",
            action="store_const",
            const="false",
            help=f"the same as --{side}-tls-verify=false",
        )


def _as(name: str) -> str:
    return f"as {flag(name)}"


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


def given(names: Collection[str], args: Namespace) -> Iterator[str]:
    """The *names* that the command line has."""
    return (name for name in names if getattr(args, name, None) not in (None, False))


def warn_of_secrets(args: Namespace) -> None:
    """Say once which options show a secret to the other users of this machine."""
    sides = ("", *(f"{side}_" for side in SIDES))
    names = [side + name for side in sides for name in _SEEN]
    shown = [flag(name) for name in names if getattr(args, name, None) is not None]
    if "@" in (getattr(args, "proxy", None) or ""):
        shown.append("--proxy")
    if shown and not args.quiet:
        of = [side for side in SIDES if shown[0].startswith(f"--{side}-")]
        before = f"--{of[0]}-" if of and len(shown) == 1 else "--"
        console.say(
            f"note: {' and '.join(shown)} can be seen in the process list; use "
            f"{before}password-stdin, {before}password-file, a variable or dockerpush "
            "login"
        )


def endpoint(args: Namespace, *, credentials: bool = True) -> Endpoint:
    """The only side of a command, with the *credentials* of this run or without.

    Raises UsageError, PusherError.
    """
    values = dict(vars(args))
    if not credentials:
        del values["username"]
    return _endpoint(values, os.environ)


def target_endpoint(args: Namespace) -> Endpoint:
    """The destination: by its own options, else by those without a prefix.

    Raises UsageError, PusherError.
    """
    own = _of_side("dest", args)
    given = {name: value for name, value in own.items() if value not in (None, False)}
    side = "dest-" if given.keys() & _SECRETS.keys() else ""
    if side:
        given = {**{name: own[name] for name in _SECRETS}, **given}
    return _endpoint({**vars(args), **given}, os.environ, side)


def source_endpoint(args: Namespace) -> Endpoint:
    """The source: by its own options alone, whatever the options for the destination
    are.

    Raises UsageError, PusherError.
    """
    if args.src_password_stdin and (args.dest_password_stdin or args.password_stdin):
        raise UsageError(
            "standard input holds one password: give the other by --src-password-file"
        )
    return _endpoint({**vars(args), **_of_side("src", args)}, {}, "src-")


def local_endpoint(args: Namespace) -> Endpoint:
    """A side that is no registry: only what is set for both sides counts."""
    values = {**vars(args), **dict.fromkeys(_TRUST)}
    del values["username"]
    return _endpoint(values, {})


def _of_side(side: str, args: Namespace) -> dict[str, Any]:
    names = (*_SECRETS, *_TRUST)
    return {name: getattr(args, f"{side}_{name}") for name in names}


def _endpoint(
    values: Mapping[str, Any], environ: Mapping[str, str], side: str = ""
) -> Endpoint:
    anonymous = bool(values.get("no_creds"))
    config = values.get("config")
    return Endpoint(
        _flags(values),
        Path(config) if config else None,
        _credentials(values, environ, side) if "username" in values else None,
        anonymous,
    )


def _flags(values: Mapping[str, Any]) -> dict[str, Any]:
    found = ((key.name, values.get(key.name)) for key in KEYS)
    return {name: value for name, value in found if value is not None}


def _credentials(
    values: Mapping[str, Any], environ: Mapping[str, str], side: str
) -> Credentials | None:
    """What the options say, else the environment; None when neither does.

    Raises UsageError for half of a pair.
    """
    from ..credentials.identity import Credentials, Secret

    if values["registry_token"]:
        token = Secret(values["registry_token"])
        return Credentials(registry_token=token, source=f"--{side}registry-token")
    username, password, source = _given_pair(values, environ)
    source = source.replace("--", f"--{side}")
    if username is None and password is None:
        return None
    if not username or not password:
        raise UsageError(
            f"credentials need a user and a password: give --{side}username NAME with "
            f"--{side}password-stdin"
        )
    return Credentials(username, Secret(password), source=source)


def given_pair(args: Namespace) -> tuple[str | None, str | None, str]:
    """What `_given_pair` finds in *args* and the environment. Raises UsageError."""
    return _given_pair(vars(args), os.environ)


def _given_pair(
    values: Mapping[str, Any], environ: Mapping[str, str]
) -> tuple[str | None, str | None, str]:
    """Username, password and where they are from; from the options, None for a part
    that is missing, else from the environment, where only both count."""
    username, password = _from_options(values)
    source = "--creds" if values["creds"] is not None else "--username"
    if username is None and password is None:
        for source, secret in _VARIABLES:
            if environ.get(source) and environ.get(secret):
                username, password = environ[source], environ[secret]
                break
    for text in (username, password):
        _check_text(text or "", source)
    return username, password, source


def _check_text(text: str, source: str) -> None:
    """Raises UsageError for bytes that the system could only pass on as they were."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"the username or the password is not UTF-8 (from {source})"
        ) from error


def _from_options(values: Mapping[str, Any]) -> tuple[str | None, str | None]:
    username, password = values["username"], values["password"]
    if values["creds"] is not None:
        username, colon, password = values["creds"].partition(":")
        password = password if colon else None
    if values["password_stdin"]:
        password = read_password_line()
    if values["password_file"] is not None:
        password = _read_file(values["password_file"])
    return username, password


def read_password_line() -> str:
    """The password on standard input, without the end of its line.

    Raises UsageError when there is none.
    """
    raw = sys.stdin.buffer.read(64 * 1024)
    try:
        password = raw.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise UsageError("--password-stdin: the password is not UTF-8") from error
    if not password:
        raise UsageError("--password-stdin: standard input is empty")
    return password


def _read_file(name: str) -> str:
    try:
        with open(name, encoding="utf-8") as file:  # noqa: PTH123
            return file.read(64 * 1024).rstrip("\r\n")
    except OSError as error:
        raise file_error(f"--password-file {name}", error) from error
    except ValueError as error:
        raise PusherError(f"--password-file {name}: it is not UTF-8") from error
