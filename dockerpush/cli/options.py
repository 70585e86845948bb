"""Options that several commands share, and how their values are read.

Which command uses which options about moving bytes, and warnings for the others.

A command shows the options that it uses. It still takes the others, which every such
command once showed, so that old command lines go on to work; but it warns of them.
"""

from __future__ import annotations

from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, Namespace
from typing import TYPE_CHECKING, Any, Collection, Iterator, Mapping, Sequence

from ..errors import UsageError
from . import console

if TYPE_CHECKING:
    from ..oci import Platform


BOOLEANS = ("--tls-verify", "--src-tls-verify", "--dest-tls-verify")
"""Options that take ``=true`` or ``=false``, or nothing, or the next word."""


ALL = "all"
"""The platform that means every one of them."""

OPERANDS = "operands"
"""Where a command says which argument takes operands after the first ones."""


def normalised(argv: Sequence[str]) -> list[str]:
    """*argv* with every spelling of a boolean option as ``--option=value``."""
    words: list[str] = []
    for word in argv:
        if words and words[-1] in BOOLEANS and word in ("true", "false"):
            words[-1] += f"={word}"
        else:
            words.append(word)
    return [f"{word}=true" if word in BOOLEANS else word for word in words]


def add_common_options(parser: ArgumentParser, *, default: Any) -> None:
    """What may stand before the command as well as after it."""
    group = parser.add_argument_group("output")

    def add(*names: str, otherwise: Any, **more: Any) -> None:
        value = SUPPRESS if default is SUPPRESS else otherwise
        group.add_argument(*names, default=value, **more)

    add(
        "-q",
        "--quiet",
        action="store_true",
        otherwise=False,
        help="only results, warnings and errors",
    )
    add(
        "-v",
        "--verbose",
        action="store_true",
        otherwise=False,
        help="say what is decided and why",
    )
    add(
        "-D",
        "--debug",
        action="store_true",
        otherwise=False,
        help="show every request (secrets redacted), and tracebacks of bugs",
    )
    add(
        "--progress",
        choices=("auto", "tty", "plain", "none"),
        otherwise="auto",
        help="bars, lines or nothing (default: bars on a terminal, else lines)",
    )
    add(
        "--no-progress",
        "--no-tty",
        dest="progress",
        action="store_const",
        const="none",
        otherwise="auto",
        help=SUPPRESS,
    )
    add(
        "--progress-interval",
        type=seconds,
        otherwise=30.0,
        metavar="SECONDS",
        help="time between progress lines when there is no terminal (default: 30)",
    )


def add_trust_option(parser: ArgumentParser) -> None:
    """``--trust-target``, for commands that push archives."""
    parser.add_argument(
        "--trust-target",
        action="store_true",
        help="take compressed layers from the image under the target's tag by its "
        "config's word; whoever may write that tag chooses what is published "
        "(default: off)",
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
            raise UsageError("--platform all goes with no other --platform")
        return ()
    try:
        return tuple(Platform.parse(text) for text in texts)
    except InvalidJSON as error:
        raise UsageError(f"--platform: {error}") from error


RECEIVING = ("jobs", "limit_rate")
SENDING = ("blob_chunk", *RECEIVING)
PUSHING = (*SENDING, "compress", "compress_level")

USED: Mapping[str, Collection[str]] = {
    "push": PUSHING,
    "copy": PUSHING,
    "sync": SENDING,
    "pull": RECEIVING,
    "verify": RECEIVING,
    "config": PUSHING,
}
"""Command → the settings that it uses, in at least one of its forms."""


def warn_of_unused(what: str, used: Collection[str], args: Namespace) -> None:
    """Take out of *args* the transfer options that *what* does not use, and say so.

    What the environment and the configuration say is for all commands: no warning.
    """
    for name in given(PUSHING, args):
        if name not in used:
            setattr(args, name, None)
            console.warn(f"{what} does not use {flag(name)}; leave it out")


def warn_of_json(what: str, args: Namespace) -> None:
    """Say that an archive on standard output leaves no room for a JSON object."""
    if args.json or args.format == "json":
        console.warn(
            f"{what} does not use --json when the archive goes to standard output; "
            "--digestfile FILE tells the digest"
        )


def given(names: Collection[str], args: Namespace) -> Iterator[str]:
    """Those of *names* that the command line has."""
    return (name for name in names if getattr(args, name, None) not in (None, False))


def flag(name: str) -> str:
    """The option that sets *name*."""
    return f"--{name}".replace("_", "-")
