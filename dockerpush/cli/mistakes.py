"""What is wrong with a command line, in one line, with a hint."""

from __future__ import annotations

import difflib
import re
from argparse import SUPPRESS, Action, ArgumentParser
from typing import Iterable

from ..expressions import expression
from . import other_tools
from .help_pages import needed, value_of
from .options import subparsers

_UNKNOWN = expression(r"unrecognized arguments: (.*)", re.DOTALL)
_MISSING = expression(r"the following arguments are required: (.*)", re.DOTALL)
_ABOUT = expression(r"argument (\S+?): (.*)", re.DOTALL)
_CHOICE = expression(r"invalid choice: (.*?) \(", re.DOTALL)
_LIMIT = 200  # characters of a word that are shown
_ALIKE = 0.7  # of two options, as difflib measures it


def explained(message: str, parser: ArgumentParser) -> str:
    """What argparse says of a command line by *message*, for people."""
    command = parser.prog.partition(" ")[2]
    if match := _UNKNOWN.fullmatch(message):
        return _unknown(match[1].split(" ")[0], parser)
    if _MISSING.fullmatch(message):
        return needed(command) if command else "no command; see dockerpush help"
    if match := _ABOUT.fullmatch(message):
        return _about_argument(_long(match[1]), match[2], parser)
    return f"{message}; see dockerpush {command} --help".replace("  ", " ")


def _unknown(word: str, parser: ArgumentParser) -> str:
    """*word* is neither an option nor an argument that the command takes."""
    name, shown = word.partition("=")[0], word[:_LIMIT]
    if not word.startswith("-"):
        return f"{_called(parser)} takes no argument {shown!r}{_see(parser)}"
    known = _options(parser)
    if name in known and (command := _owner(name, parser)):
        return f"{name} goes after the command: dockerpush {command} ... {shown}"
    hint = _their_option(name, parser) or _similar_option(name, known)
    return f"unknown option {name[:_LIMIT]}{hint or _see(parser)}"


def _owner(name: str, parser: ArgumentParser) -> str:
    """The command that takes the option *name*; only those of the line have options."""
    found = subparsers(parser).items()
    return next((of for of, its in found if name in its._option_string_actions), "")


def _their_option(name: str, parser: ArgumentParser) -> str:
    """What another tool's option *name* is called here."""
    for theirs, ours in other_tools.SIDES.items():
        same = name.replace(theirs, ours, 1)
        if name.startswith(theirs) and same in _options(parser):
            return f"; did you mean {same}?"
    command = parser.prog.partition(" ")[2]
    configured = (of for of, its in subparsers(parser).items() if _options(its))
    return other_tools.advice(name, command or next(configured, ""))


def _similar_option(name: str, known: Iterable[str]) -> str:
    """The one of *known* that *name* may be; the dashes make no two names similar."""
    bare = [one.lstrip("-") for one in known]
    close = difflib.get_close_matches(name.lstrip("-")[:_LIMIT], bare, 1, _ALIKE)
    return f"; did you mean --{close[0]}?" if close else ""


def _about_argument(name: str, text: str, parser: ArgumentParser) -> str:
    if match := _CHOICE.match(text):
        return _no_choice(name, match[1].strip("'\""), parser)
    if text.startswith("expected "):
        action = parser._option_string_actions.get(name)
        value = value_of(action) if action else "a value"
        return f"{name} needs a value: {name} {value}"
    if text.startswith("ignored explicit argument"):
        return f"{name} takes no value"
    if text.startswith("not allowed with argument"):
        other = _long(text.rpartition(" ")[2])
        return f"{name} and {other} cannot be used together"
    return f"{name}: {text}"


def _long(names: str) -> str:
    """The first long one of *names*, as argparse writes them: ``-t/--target``."""
    words = names.split("/")
    return next((word for word in words if word.startswith("--")), words[0])


def _no_choice(name: str, word: str, parser: ArgumentParser) -> str:
    if name == "COMMAND":
        if word in other_tools.COMMANDS:
            ours = other_tools.COMMANDS[word]
            return f"unknown command {word!r}; did you mean {ours}?"
        hint = _similar(word, [*subparsers(parser), "help", "version"])
        return f"unknown command {word[:_LIMIT]!r}{hint or '; see dockerpush help'}"
    words = [str(one) for one in _choices(name, parser)]
    hint = _similar(word, words)
    return f"{name}: {word[:_LIMIT]!r} is not one of {', '.join(words)}{hint}"


def _choices(name: str, parser: ArgumentParser) -> Iterable[object]:
    for action in parser._actions:
        if name in (*action.option_strings, action.metavar, action.dest):
            return action.choices or ()
    return ()


def _options(parser: ArgumentParser) -> list[str]:
    """The options of *parser* that are shown, of the program those of its commands."""
    actions: list[Action] = list(parser._actions)
    for command in subparsers(parser).values():
        actions += command._actions
    return [
        name
        for action in actions
        if action.help != SUPPRESS
        for name in action.option_strings
        if name.startswith("--")
    ]


def _similar(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word[:_LIMIT], list(known), 1)
    return f"; did you mean {close[0]}?" if close else ""


def _called(parser: ArgumentParser) -> str:
    return parser.prog.partition(" ")[2] or parser.prog


def _see(parser: ArgumentParser) -> str:
    command = parser.prog.partition(" ")[2]
    return f"; see dockerpush help {command}".rstrip()
