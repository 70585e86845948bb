"""Options that several commands share, and what their values come to.

A command shows the options that it uses. It still takes the others, which every such
command once showed, so that old command lines continue to work; but it warns of them.
"""

from __future__ import annotations

from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, Namespace
from typing import TYPE_CHECKING, Any, Collection, Iterator, Mapping, Sequence

from ..errors import UsageError
from ..settings.keys import (
    KEYS,
    PROXY,
    PUSHING,
    RECEIVING,
    SENDING,
    Key,
    flag,
)
from ..settings.quantities import format_size, parse_size
from . import console
from .console import Display

if TYPE_CHECKING:
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


_MEDIA = {"cd": 700 * 2**20, "dvd": 4480 * 2**20, "fat32": 4095 * 2**20}
"""Bytes of a file that fits on a medium beside the sums and the file system."""
LEAST_VOLUME = 64 * 1024


def volume_size(text: str) -> int:
    """Bytes of a volume, by a size or the name of a medium: for ``type=``."""
    if text.lower() in _MEDIA:
        return _MEDIA[text.lower()]
    try:
        size = parse_size(text)
    except UsageError:
        size = 0
    if size < LEAST_VOLUME:
        raise ArgumentTypeError(
            f"not {', '.join(_MEDIA)} or a size of at least "
            f"{format_size(LEAST_VOLUME)}: {text!r:.80}"
        )
    return size


def add_split_option(group: Any) -> None:
    """``--split``, for commands that write archives."""
    group.add_argument(
        "--split",
        type=volume_size,
        metavar="SIZE",
        help="write the archive FILE in volumes FILE.001 and so on of at most SIZE: "
        f"4GiB, 500MB, {', '.join(_MEDIA)}; FILE.sha256 has their sums",
    )


def add_volumes_option(group: Any) -> None:
    """``--volumes``, for commands that read archives."""
    group.add_argument(
        "--volumes",
        action="extend",
        nargs="+",
        default=[],
        metavar="DIR",
        help="where FILE.002 and so on are, if not beside FILE.001 (repeatable)",
    )


def add_sums_option(group: Any) -> None:
    """``--sums``, for commands that write OCI directories."""
    group.add_argument(
        "--sums",
        action="store_true",
        help="write SHA256SUMS into an OCI directory, for sha256sum --check",
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
    if ALL in texts:
        if len(texts) > 1:
            raise UsageError(
                "--platform all and another --platform cannot be used together"
            )
        return ()
    return tuple(map(_platform, texts))


def _platform(text: str) -> Platform:
    from ..errors import InvalidJSON
    from ..oci import Platform

    try:
        return Platform.parse(text)
    except InvalidJSON as error:
        hint = f"; did you mean linux/{text}?" if text in _ARCHITECTURES else ""
        raise UsageError(f"--platform: {error}{hint}") from error


_ARCHITECTURES = ("386", "amd64", "arm", "arm64", "ppc64le", "riscv64", "s390x")


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
            add_setting(group, key)
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
            add_setting(parser if basic else group, key, hidden=key.name not in used)


def add_setting(
    group: Any, key: Key, *, side: str = "", hidden: bool = False, help: str = ""
) -> None:
    """The option of the setting *key*, of one *side* or of all."""
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
