"""Credentials that the command line or the environment give for one run."""

from __future__ import annotations

import sys
from argparse import SUPPRESS, ArgumentParser, Namespace
from typing import TYPE_CHECKING, Mapping

from ..errors import PusherError, UsageError
from . import console

if TYPE_CHECKING:
    from ..credentials.identity import Credentials

_VARIABLES = (
    ("DOCKERPUSH_USERNAME", "DOCKERPUSH_PASSWORD"),
    ("DOCKER_USERNAME", "DOCKER_PASSWORD"),
)


def add_credential_options(
    parser: ArgumentParser, *, passwords_only: bool = False
) -> None:
    """The ways to say who one is; hidden what is none with *passwords_only*."""
    group = parser.add_argument_group(
        "credentials", "without these: what login, docker and podman have stored"
    )
    group.add_argument("-u", "--username", metavar="NAME")
    group.add_argument(
        "-p",
        "--password",
        metavar="PASSWORD",
        help="others can see it in the process list: prefer --password-stdin",
    )
    group.add_argument(
        "--password-stdin",
        "--pass-stdin",
        action="store_true",
        help="read the password from standard input",
    )
    group.add_argument("--password-file", metavar="FILE", help="read it from FILE")
    group.add_argument("--creds", metavar="NAME:PASSWORD", help="both in one")
    token, none = "a bearer token", "use no credentials at all"
    if passwords_only:
        token = none = SUPPRESS
    group.add_argument("--registry-token", metavar="TOKEN", help=token)
    group.add_argument("--no-creds", action="store_true", help=none)


def given_credentials(
    args: Namespace, environ: Mapping[str, str]
) -> Credentials | None:
    """What the options say, else the environment; None when neither does.

    Raises UsageError for half of a pair.
    """
    from ..credentials.identity import Credentials, Secret

    if args.registry_token:
        token = Secret(args.registry_token)
        return Credentials(registry_token=token, source="--registry-token")
    username, password, source = given_pair(args, environ)
    if username is None and password is None:
        return None
    if not username or not password:
        raise UsageError(
            "credentials need both parts: --username with --password-stdin"
        )
    return Credentials(username, Secret(password), source=source)


def given_pair(
    args: Namespace, environ: Mapping[str, str]
) -> tuple[str | None, str | None, str]:
    """Username, password and where they are from; from the options, None for a part
    that is missing, else from the environment, where only both count."""
    username, password = _from_options(args)
    source = "--username"
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


def _from_options(args: Namespace) -> tuple[str | None, str | None]:
    username, password = args.username, args.password
    if args.creds is not None:
        username, colon, password = args.creds.partition(":")
        password = password if colon else None
    if args.password_stdin and getattr(args, "source", "") == "-":
        raise UsageError(
            "--password-stdin and the source - both want standard input: use "
            "--password-file, or DOCKERPUSH_USERNAME and DOCKERPUSH_PASSWORD"
        )
    if args.password_stdin:
        password = read_password_line()
    if args.password_file is not None:
        password = _read_file(args.password_file)
    if args.password is not None and not args.quiet:
        console.say(
            "note: a password on the command line can be seen in the process list; "
            "--password-stdin avoids that"
        )
    return username, password


def read_password_line() -> str:
    """The password on standard input, without the end of its line.

    Raises UsageError when there is none.
    """
    raw = sys.stdin.buffer.read(64 * 1024)
    try:
        password = raw.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise UsageError("--password-stdin: what came is not UTF-8") from error
    if not password:
        raise UsageError("--password-stdin: standard input is empty")
    return password


def _read_file(name: str) -> str:
    try:
        with open(name, encoding="utf-8") as file:  # noqa: PTH123
            return file.read(64 * 1024).rstrip("\r\n")
    except OSError as error:
        raise PusherError(f"--password-file {name}: {error.strerror}") from error
    except ValueError as error:
        raise PusherError(f"--password-file {name}: it is not UTF-8") from error
