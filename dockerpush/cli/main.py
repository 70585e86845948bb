"""The commands, and the way from an argument list to an exit code."""

from __future__ import annotations

import errno
import gc
import importlib
import logging
import sys
from argparse import SUPPRESS, ArgumentParser, Namespace
from types import TracebackType
from typing import Any, NoReturn, Sequence

from .. import __version__
from ..errors import PusherError
from . import console
from .options import OPERANDS, add_common_options, display, normalised, warn_of_unused

log = logging.getLogger(__name__)

COMMANDS = {
    "login": "check credentials at a registry, and keep them",
    "logout": "forget what login kept",
    "save": "save images of docker, nerdctl or podman as archives",
    "push": "push an archive to a registry",
    "pull": "pull images into the cache, and into archives",
    "cache": "list, verify and prune what was pulled",
    "inspect": "show the images of an archive, or an image of a registry",
    "tags": "list the tags of a repository",
    "digest": "show the digest that a tag stands for",
    "copy": "copy an image from one registry into another",
    "sync": "copy many images, as a list says",
    "images": "list the images that manifests, charts and Compose files name",
    "verify": "prove that a registry holds what an archive holds",
    "serve": "run a registry on this machine",
    "check": "try what a push to a repository would need",
    "config": "show the settings in force, and where each came from",
    "completion": "print a script that completes command lines in a shell",
}


class Parser(ArgumentParser):
    """An argument parser whose errors end with one ``error:`` line."""

    def error(self, message: str) -> NoReturn:
        """Print usage and *message*, and exit with 2."""
        self.print_usage(sys.stderr)
        console.error_line(f"{message}; see '{self.prog} --help'")
        raise SystemExit(console.USAGE)


def build_parser(
    wanted: Sequence[str] = tuple(COMMANDS), named: Sequence[str] = tuple(COMMANDS)
) -> ArgumentParser:
    """The tree of arguments: the *named* commands, the *wanted* ones with options."""
    parser = Parser(
        prog="dockerpush",
        description="Push container images to registries: no daemon, flat memory.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version", action="version", version=f"dockerpush {__version__}"
    )
    add_common_options(parser, default=None)
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", parser_class=Parser
    )
    for name in named:
        command = commands.add_parser(
            name,
            help=COMMANDS[name],
            description=COMMANDS[name],
            allow_abbrev=False,
        )
        if name in wanted:
            add_common_options(command, default=SUPPRESS)
            _module(name).configure(command)
    return parser


def _parsed(parser: ArgumentParser, argv: Sequence[str]) -> Namespace:
    """The arguments; operands may stand on both sides of an option.

    argparse leaves those over that come after one, when their number is not fixed.
    """
    args, left = parser.parse_known_args(argv)
    operands = getattr(args, OPERANDS, None)
    if "--" in left:
        left.remove("--")
    strange = [word for word in left if word.startswith("-") and word != "-"]
    if left and operands and not strange:
        known = getattr(args, operands)
        if isinstance(known, list):
            known += left
            left = []
        elif known is None:
            setattr(args, operands, left.pop(0))
    if left:
        parser.error(f"unrecognized arguments: {' '.join(left)}")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that *argv* (``sys.argv`` by default) asks for; the exit code."""
    with console.usable_streams():
        return _main(normalised(sys.argv[1:] if argv is None else argv))


def _main(argv: Sequence[str]) -> int:
    # a first word that is a command is the only one; an option may stand before it
    first = argv[:1] if argv and argv[0] in COMMANDS else COMMANDS
    parser = build_parser([name for name in first if name in argv], tuple(first))
    args = _parsed(parser, argv)
    if args.command is None:
        parser.print_help(sys.stderr)
        return console.USAGE
    _report_bugs(show_traceback=args.debug)
    try:
        code = _run(args)
        sys.stdout.flush()
        failure = console.failure()
        if failure is not None:
            raise failure
    except BrokenPipeError:
        console.to_devnull(sys.stdout)
        return console.CLOSED_PIPE
    except RuntimeError as error:
        if str(error) != "can't start new thread":
            raise
        log.debug("the system refused", exc_info=True)
        console.error_line(
            "no more threads can be started; allow more memory or processes (ulimit "
            "-v, ulimit -u), or use fewer --jobs"
        )
        return console.OTHER
    except (OSError, MemoryError) as error:
        log.debug("the system refused", exc_info=True)
        console.error_line(_refusal(error))
        console.to_devnull(sys.stdout)
        return console.OTHER
    return code


def _run(args: Namespace) -> int:
    from .session import Session

    with Session(display(args)) as session:
        warn_of_unused(args.command, args)
        gc.enable()
        try:
            return int(_module(args.command).run(args, session))
        except PusherError as error:
            session.end_progress()
            if session.signal is not None:
                session.die_by_signal()
            console.error_line(str(error))
            return console.exit_code(error)
        except (OSError, MemoryError):
            session.end_progress()
            if session.signal is not None:
                session.die_by_signal()
            raise


def _refusal(error: OSError | MemoryError) -> str:
    """What the system refused us, and what may be done about it."""
    if isinstance(error, MemoryError):
        return "out of memory; allow more, or use fewer --jobs"
    what = f"{error.filename}: " if isinstance(error.filename, str) else ""
    reason = (error.strerror or str(error)).lower()
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f"{what}{reason}; allow more (ulimit -n), or use fewer --jobs"
    return f"{what}{reason}"


def _module(command: str) -> Any:
    return importlib.import_module(f".commands.{command}", __package__)


def _report_bugs(*, show_traceback: bool) -> None:
    """Have an error that nobody expected end in one line too."""

    def report(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        if show_traceback:
            sys.__excepthook__(kind, error, trace)
        console.error_line(
            f"this is a bug in dockerpush: {kind.__name__}: {error}; please report it "
            "with what --debug shows"
        )

    sys.excepthook = report
