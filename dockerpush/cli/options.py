"""Options that several commands share, and what their values come to.

A command shows the options that it uses. It still takes the others, which every such
command once showed, so that old command lines continue to work; but it warns of them.

Credentials and TLS options without a prefix, and credentials of the environment, are
the destination's alone: they never go to a source. Everything else counts for both.
"""

from __future__ import annotations

import os
import sys
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Collection, Iterator, Mapping, Sequence

from ..errors import PusherError, UsageError, file_error
from ..settings.keys import (
    KEYS,
    KEYS_BY_NAME,
    PROXY,
    PUSHING,
    RECEIVING,
    SENDING,
    Key,
    flag,
)
from . import console
from .console import Display
from .endpoints import Endpoint

if TYPE_CHECKING:
    from ..credentials.identity import Credentials
    from ..oci import Platform


BOOLEANS = ("--tls-verify", "--src-tls-verify", "--dest-tls-verify")
"""Options that take ``=true`` or ``=false``, or nothing, or the next word."""


ALL = "all"
"""The platform that means every one of them."""

OPERANDS = "operands"
"""Where a command says which argument takes operands after the first ones."""


EMPTY = "the value is empty; is a variable not set?"
MAY_BE_EMPTY = {"proxy", "no_proxy", "last"}
"""Options whose empty value means something: no proxy, from the first tag on."""


LONGEST = 4096
"""Characters of a value; no path is longer."""
MAY_BE_LONG = {"token", "password", "creds", "proxy"}
"""The last words of options that hold more than that."""


def subparsers(parser: ArgumentParser) -> Mapping[str, Any]:
    """The commands of the program's *parser*."""
    for action in parser._actions:
        if action.dest == "command" and isinstance(action.choices, dict):
            return action.choices
    return {}


def normalised(argv: Sequence[str]) -> list[str]:
    """*argv* with every spelling of a boolean option as ``--option=value``."""
    words: list[str] = []
    for word in argv:
        if words and words[-1] in BOOLEANS and word in ("true", "false"):
            words[-1] += f"={word}"
        else:
            words.append(word)
    return [f"{word}=true" if word in BOOLEANS else word for word in words]


OUTPUT, CREDENTIALS, CONNECTION = "progress and debugging", "credentials", "connection"
TUNING, RARE = "tuning", "rarely needed"
SIDES = {"src": "source", "dest": "destination"}
ADVANCED = {
    *(OUTPUT, CREDENTIALS, CONNECTION, TUNING, RARE),
    *("TLS, browsers and logs", "disk"),  # of serve
    *(f"for the {name} alone" for name in SIDES.values()),
}
"""Groups of options that only ``--help-all`` shows."""


def add_common_options(parser: ArgumentParser, *, default: Any) -> None:
    """What may stand before the command as well as after it."""
    group = parser.add_argument_group(OUTPUT)

    def add(group: Any, *names: str, otherwise: Any, **more: Any) -> None:
        value = SUPPRESS if default is SUPPRESS else otherwise
        group.add_argument(*names, default=value, **more)

    def switch(group: Any, *names: str, help: str) -> None:
        add(group, *names, action="store_true", otherwise=False, help=help)

    switch(parser, "-q", "--quiet", help="print results, warnings and errors only")
    switch(parser, "-v", "--verbose", help="show decisions and their reasons")
    switch(group, "-D", "--debug", help="show every request, and where a bug came from")
    add(
        group,
        "--progress",
        choices=("auto", "tty", "plain", "none"),
        otherwise="auto",
        help="bars, lines or nothing (default: auto, bars on a terminal, else lines)",
    )
    add(
        group,
        "--no-progress",
        "--no-tty",
        dest="progress",
        action="store_const",
        const="none",
        otherwise="auto",
        help=SUPPRESS,
    )
    add(
        group,
        "--progress-interval",
        type=seconds,
        otherwise=30.0,
        metavar="SECONDS",
        help="time between progress lines without a terminal (default: 30)",
    )


def add_json_option(parser: ArgumentParser, help: str) -> None:
    """``--json``, and ``--format json``, which means the same."""
    parser.add_argument("--json", action="store_true", help=help)
    parser.add_argument("--format", choices=("json",), help=SUPPRESS)


def add_digestfile_option(parser: ArgumentParser) -> None:
    """``--digestfile``."""
    parser.add_argument(
        "--digestfile", metavar="FILE", help="write the digest of the manifest to FILE"
    )


def add_trust_option(group: Any) -> None:
    """``--trust-target``, for commands that push archives."""
    group.add_argument(
        "--trust-target",
        action="store_true",
        help="reuse compressed layers of the image under the target's tag "
        "without a check; whoever may write that tag decides what you "
        "publish (default: off)",
    )


def add_platform_option(parser: ArgumentParser, help: str) -> None:
    """``--platform``, as often as there are platforms."""
    parser.add_argument(
        "--platform", action="append", default=[], metavar="OS/ARCH", help=help
    )


def add_selection(parser: ArgumentParser) -> None:
    """What of an image is copied."""
    add_platform_option(
        parser,
        "copy only this platform, which changes the digest (repeatable; default: all)",
    )
    parser.add_argument(
        "--referrers",
        action="store_true",
        help="copy also signatures, SBOMs and other referrers",
    )


def seconds(text: str) -> float:
    """A positive number of seconds: for ``type=``."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise ArgumentTypeError(f"not a number of seconds above 0: {text!r}")
    return value


def chosen_platforms(texts: Sequence[str]) -> tuple[Platform, ...]:
    """The platforms that *texts* name; none of them means all. Raises UsageError."""
    from ..errors import InvalidJSON
    from ..oci import Platform

    if ALL in texts:
        if len(texts) > 1:
            raise UsageError(
                "--platform all and another --platform cannot be used together"
            )
        return ()
    try:
        return tuple(Platform.parse(text) for text in texts)
    except InvalidJSON as error:
        raise UsageError(f"--platform: {error}") from error


USED: Mapping[str, Collection[str]] = {
    "push": PUSHING,
    "copy": PUSHING,
    "sync": SENDING,
    "pull": RECEIVING,
    "verify": RECEIVING,
    "config": PUSHING,
}
"""Command → the settings that it uses, in at least one of its forms."""


def warn_of_unused(command: str, args: Namespace) -> None:
    """Take out of *args* the transfer options that *command* never uses, and say so."""
    used = USED.get(command, ())
    for name in PUSHING:
        if name not in used and getattr(args, name, None) is not None:
            setattr(args, name, None)
            console.warn(f"{command} does not use {flag(name)}; leave it out")


def warn_of_secrets(args: Namespace) -> None:
    """Say once which options show a secret to the other users of this machine."""
    sides = ("", *(f"{side}_" for side in SIDES))
    names = [side + name for side in sides for name in _SEEN]
    shown = [flag(name) for name in names if getattr(args, name, None) is not None]
    if "@" in (getattr(args, "proxy", None) or ""):
        shown.append("--proxy")
    if shown and not args.quiet:
        console.say(
            f"note: {' and '.join(shown)} can be seen in the process list; use "
            "--password-stdin, --password-file, a variable or dockerpush login"
        )


def display(args: Namespace) -> Display:
    """How *args* want results and progress shown."""
    as_json = getattr(args, "json", False) or getattr(args, "format", None) == "json"
    return Display(
        args.quiet,
        args.verbose,
        args.debug,
        as_json,
        args.progress,
        args.progress_interval,
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


def repeated(args: Namespace, names: Collection[str]) -> Iterator[str]:
    """The part of the command line that is repeated in a command that is shown: no
    secrets.

    Those of *names*, and every setting.
    """
    for name in names:
        given = getattr(args, name)
        if given is True:
            yield flag(name)
        for text in given if isinstance(given, list) else [given]:
            if isinstance(text, str):
                yield from (flag(name), text)
    for key in KEYS:
        value = getattr(args, key.name, None)
        if key.flag and value is not None and key.kind is not PROXY:
            yield key.flag if value == "true" else f"{key.flag}={value}"


def warn_of_json(what: str, display: Display) -> None:
    """Say that an archive on standard output leaves no room for a JSON object."""
    if display.json:
        console.warn(
            f"{what} does not use --json when the archive goes to standard output; "
            "--digestfile FILE gets the digest"
        )


def given(names: Collection[str], args: Namespace) -> Iterator[str]:
    """The *names* that the command line has."""
    return (name for name in names if getattr(args, name, None) not in (None, False))


_VARIABLES = (
    ("DOCKERPUSH_USERNAME", "DOCKERPUSH_PASSWORD"),
    ("DOCKER_USERNAME", "DOCKER_PASSWORD"),
)


def add_credential_options(
    parser: ArgumentParser, *, passwords_only: bool = False
) -> None:
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


_ALIASES = {
    "jobs": ("-j", "--parallel", "--concurrency"),
    "cacert": ("--ca-file",),
    "cert": ("--cert-file",),
    "key": ("--key-file",),
    "authfile": ("--registry-config", "--compat-auth-file"),
    "retry_times": ("--retry",),
}
_SWITCHES = ("plain_http", "allow_private_redirects")


def add_connection_options(parser: ArgumentParser) -> None:
    """How to reach a registry: one option for each setting that is about that."""
    group = parser.add_argument_group(CONNECTION)
    for key in KEYS:
        if key.flag and key.name not in PUSHING:
            _add_setting(group, key)
    group.add_argument(
        "--insecure",
        "--no-tls-verify",
        dest="tls_verify",
        action="store_const",
        const="false",
        help="do not check the certificate, and also try plain HTTP",
    )
    group.add_argument(
        "--config", metavar="FILE", help="read FILE in place of config.json"
    )
    group.add_argument(
        "--deadline",
        metavar="WHEN",
        help="end the run after 2h, 30m or at 06:00; the same command resumes it",
    )


def add_transfer_options(parser: ArgumentParser, used: Collection[str]) -> None:
    """How to move bytes: the *used* settings, and hidden what else is still taken."""
    group = parser.add_argument_group(TUNING)
    for key in KEYS:
        if key.name in PUSHING:
            basic = key.name in ("compress", "jobs")
            _add_setting(parser if basic else group, key, hidden=key.name not in used)


def _add_setting(
    group: Any, key: Key, *, side: str = "", hidden: bool = False, help: str = ""
) -> None:
    names = [flag(f"{side}{key.name}")]
    if not side:
        names += _ALIASES.get(key.name, ())
        names.sort(key=lambda name: name.startswith("--"))
    default = key.shown(key.default)
    text = help or key.help + f" (default: {default})" * bool(default)
    more: dict[str, Any] = {"help": SUPPRESS if hidden else text}
    if key.name in _SWITCHES:
        more.update(action="store_const", const="true")
    else:
        more.update(metavar=key.kind.metavar, choices=key.kind.choices or None)
    group.add_argument(*names, dest=f"{side}{key.name}", default=None, **more)


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


def add_side_options(parser: ArgumentParser, used: Collection[str]) -> None:
    """Everything about connections: for both sides, and for each of them."""
    add_transfer_options(parser, used)
    add_credential_options(parser)
    add_connection_options(parser)
    for side, name in SIDES.items():
        group = parser.add_argument_group(f"for the {name} alone")
        for secret, more in _SECRETS.items():
            group.add_argument(flag(f"{side}_{secret}"), help=_as(secret), **more)
        for key in _TRUST:
            _add_setting(group, KEYS_BY_NAME[key], side=f"{side}_", help=_as(key))
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
