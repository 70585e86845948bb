"""The commands, and the way from an argument list to an exit code."""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib
import logging
import sys
from argparse import (
    PARSER,
    SUPPRESS,
    Action,
    ArgumentError,
    ArgumentParser,
    Namespace,
)
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Sequence

from .. import __version__
from ..errors import PusherError, about_room, reason_of
from . import console
from .options import (
    EMPTY,
    LONGEST,
    MAY_BE_EMPTY,
    MAY_BE_LONG,
    OPERANDS,
    add_common_options,
    display,
    normalised,
    subparsers,
    warn_of_unused,
)
from .side_options import warn_of_secrets

log = logging.getLogger(__name__)

COMMANDS = {
    "push": "push an archive to a registry",
    "pull": "pull images into the cache, and into archives",
    "copy": "copy an image between registries, archives and OCI directories",
    "sync": "copy the images of a list",
    "inspect": "show the images of an archive, or an image of a registry",
    "verify": "prove that images are whole, in an archive or a registry",
    "login": "log in to a registry, and keep the password",
    "logout": "log out of a registry: forget its password",
    "tags": "list the tags of a repository",
    "repos": "list the repositories of a registry",
    "digest": "show the digest that a tag points to",
    "inventory": "list what a registry, a directory or an archive holds",
    "images": "list the images that manifests, charts and Compose files name",
    "tag": "give an image of a registry more names there",
    "delete": "delete tags, or images, of a registry",
    "check": "try what a push to a repository would need",
    "save": "save images of docker, nerdctl or podman as archives",
    "load": "load an archive or an image into docker, nerdctl or podman",
    "serve": "run a registry on this machine",
    "cache": "list, verify and remove what was pulled",
    "config": "show the settings in force, and where each came from",
    "completion": "print a script that completes command lines in a shell",
}
WITHOUT_OPTIONS = {
    "help": "show this page, or how to use one command",
    "version": "show the version",
}
EVERYTHING = "--help-all"
GARBAGE = 10_000
"""Objects that are made before Python looks for cycles among them: what a command loads
has none, and a look at every 700 takes a tenth of its start."""
HERE = (
    "dockerpush lies in the current directory, so Python loads every module that "
    "lies there; elsewhere it does not"
)


class Parser(ArgumentParser):
    """An argument parser with pages of our own, whose errors are one line."""

    def __init__(self, **more: Any) -> None:
        super().__init__(add_help=False, allow_abbrev=False, **more)

    @property
    def command(self) -> str:
        """The command that it is for, "" for the program."""
        return self.prog.partition(" ")[2]

    def format_help(self) -> str:
        """The page of ``--help``."""
        return _page(self, everything=False)

    def error(self, message: str) -> NoReturn:
        """Say in one line what is wrong with the arguments; the exit code is 2."""
        from .mistakes import explained  # for mistakes only

        console.error_line(explained(message, self))
        raise SystemExit(console.USAGE)

    def _get_values(self, action: Action, arg_strings: Any) -> Any:
        """Refuse a second ``--`` in the place of an argument."""
        found = super()._get_values(action, arg_strings)
        if action.nargs is None and isinstance(found, list):
            raise ArgumentError(action, "-- is no value")
        return found

    def _get_value(self, action: Action, arg_string: str) -> Any:
        """Refuse an empty value, and one that can be no name of a file."""
        of_command = action.nargs == PARSER
        if not arg_string and not of_command and action.dest not in MAY_BE_EMPTY:
            raise ArgumentError(action, EMPTY)
        if len(arg_string) > LONGEST and action.dest.split("_")[-1] not in MAY_BE_LONG:
            raise ArgumentError(
                action, f"{len(arg_string)} characters, at most {LONGEST} are allowed"
            )
        return super()._get_value(action, arg_string)


class _ShowPage(Action):
    """Print the page of a command, and end."""

    def __call__(self, parser: ArgumentParser, *args: Any, **more: Any) -> NoReturn:
        assert isinstance(parser, Parser), "commands have parsers of ours"
        everything = self.dest == "help_all"
        sys.stdout.write(_page(parser, everything=everything))
        raise SystemExit(console.DONE)


def build_parser(
    wanted: Sequence[str] = tuple(COMMANDS), named: Sequence[str] = tuple(COMMANDS)
) -> Parser:
    """The tree of arguments: the *named* commands, the *wanted* ones with options."""
    parser = Parser(prog="dockerpush")
    shown = f"dockerpush {__version__}"
    parser.add_argument("-V", "--version", action="version", version=shown)
    add_common_options(parser, default=None)
    _add_help(parser)
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", parser_class=Parser
    )
    for name in named:
        command = commands.add_parser(name, help=COMMANDS[name])
        if name in wanted:
            _module(name).configure(command)
            add_common_options(command, default=SUPPRESS)
            _add_help(command)
    return parser


def _add_help(parser: ArgumentParser) -> None:
    more: Any = {"action": _ShowPage, "nargs": 0, "default": SUPPRESS}
    parser.add_argument("-h", "--help", help="show this page", **more)
    parser.add_argument(EVERYTHING, help="show all options", **more)


def _page(parser: Parser, *, everything: bool) -> str:
    pages = importlib.import_module(".help_pages", __package__)  # for help only
    if not parser.command:
        return str(pages.overview({**COMMANDS, **WITHOUT_OPTIONS}))
    return str(pages.page(parser.command, parser, everything=everything))


def _check_options(parser: Parser, argv: Sequence[str]) -> None:
    """Report an unknown option before anything that is missing."""
    commands = subparsers(parser)
    for word in argv:
        name = word.partition("=")[0]
        if word == "--":
            return
        if word in commands and parser.command == "":
            parser = commands[word]
        elif word[:2] == "--" and name not in parser._option_string_actions:
            parser.error(f"unrecognized arguments: {word}")


def _parsed(parser: Parser, argv: Sequence[str]) -> Namespace:
    """The arguments; operands may stand on both sides of an option.

    argparse leaves those over that come after one, when their number is not fixed.
    """
    _check_options(parser, argv)
    args, left = parser.parse_known_args(argv)
    operands = getattr(args, OPERANDS, None)
    if "--" in left:
        left.remove("--")
    strange = [word for word in left if word.startswith("-") and word != "-"]
    if left and operands and not strange:
        known = getattr(args, operands)
        if not all(left):
            subparsers(parser).get(args.command, parser).error(EMPTY)
        if isinstance(known, list):
            known += left
            left = []
        elif known is None:
            setattr(args, operands, left.pop(0))
    if left:
        named = subparsers(parser).get(args.command, parser)
        named.error(f"unrecognized arguments: {' '.join(strange or left)}")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that *argv* (``sys.argv`` by default) asks for; the exit code."""
    with console.usable_streams():
        return _main(normalised(sys.argv[1:] if argv is None else argv))


def _main(argv: Sequence[str]) -> int:
    if argv[:2] == ["completion", "--values"]:  # by a shell, for a word that is typed
        return int(_module("completion").print_values(argv[2:]))
    # a first word that is a command is the only one; an option may stand before it
    if not argv or argv[0] not in COMMANDS:
        shown = _without_options(argv)
        if shown is not None:
            return shown
    first = argv[:1] if argv[0] in COMMANDS else COMMANDS
    parser = build_parser([name for name in first if name in argv], tuple(first))
    args = _parsed(parser, argv)
    if args.command is None:
        parser.error("the following arguments are required: COMMAND")
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
        is_long = getattr(error, "errno", None) == errno.ENAMETOOLONG
        return console.USAGE if is_long else console.OTHER
    return code


def _without_options(argv: Sequence[str]) -> int | None:
    """Show the overview, a page or the version; the exit code, None for a command."""
    word = argv[0] if argv else None
    if word in ("-V", "--version", "version"):
        console.result(f"dockerpush {__version__}")
        return console.DONE
    if word not in (None, "help", "-h", "--help", EVERYTHING):
        return None
    command = argv[1] if word == "help" and len(argv) > 1 else ""
    parser = build_parser([command] if command in COMMANDS else [])
    if command in COMMANDS:
        parser = subparsers(parser)[command]
    elif command and command not in WITHOUT_OPTIONS and not command.startswith("-"):
        parser.error(f"argument COMMAND: invalid choice: {command!r} (")
    text = _page(parser, everything=EVERYTHING in argv)
    (sys.stdout if argv else sys.stderr).write(text)
    return console.DONE if argv else console.USAGE


def _run(args: Namespace) -> int:
    from .session import Session

    with Session(display(args)) as session:
        if _is_in_current_directory():
            log.info(HERE)
        warn_of_unused(args.command, args)
        warn_of_secrets(args)
        gc.freeze()
        gc.set_threshold(GARBAGE)
        gc.enable()
        try:
            if getattr(args, "deadline", None):
                session.end_at(args.deadline)
            with _volumes(args):
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


def _is_in_current_directory() -> bool:
    """True when ``-m`` found dockerpush in the current directory (`__main__`)."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    home = Path(__file__).parents[2]
    is_module = spec is not None and spec.name == "dockerpush.__main__"
    with contextlib.suppress(FileNotFoundError):  # the directory is gone
        return is_module and sys.path[0] == str(home) and home == Path.cwd()
    return False


def _volumes(args: Namespace) -> AbstractContextManager[None]:
    """Look for the volumes of archives also where *args* say. Raises NotFound."""
    directories = getattr(args, "volumes", None)
    if not directories:
        return nullcontext()
    from ..archive.volumes import looked_for_in

    return looked_for_in([Path(name) for name in directories])


def _refusal(error: OSError | MemoryError) -> str:
    """What the system refused us, and what may be done about it."""
    if isinstance(error, MemoryError):
        return "out of memory; allow more, or use fewer --jobs"
    what = f"{error.filename}: " if isinstance(error.filename, str) else ""
    return f"{what}{reason_of(error)}{about_room(error)}"


def _module(command: str) -> Any:
    return importlib.import_module(f".commands.{command}", __package__)


def _report_bugs(*, show_traceback: bool) -> None:
    """Report also an unexpected error in one line."""

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
