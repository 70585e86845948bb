"""Which command uses which options about moving bytes, and warnings for the others.

A command shows the options that it uses. It still takes the others, which every such
command once showed, so that old command lines go on to work; but it warns of them.
"""

from __future__ import annotations

from argparse import Namespace
from typing import Collection, Iterator, Mapping

from . import console

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
