"""``completion bash|zsh|fish``: what a shell needs to complete our command lines.

Commands, options and choices are written out, which starts no Python. Targets,
registries, images and names are asked of ``completion --values KIND WORD LINE``, which
never asks a registry.
"""

from __future__ import annotations

import os
import re
import shlex
from argparse import SUPPRESS, Action, ArgumentParser, Namespace, _SubParsersAction
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING, Callable, Iterable, Iterator, Mapping, Sequence

from ...errors import PusherError
from ...settings.config import Config
from ...state.cache import Cache
from ...state.directory import StateDirectory
from ...state.history import PushHistory, known_tags
from ...values import value
from .. import console
from ..location import is_here

if TYPE_CHECKING:
    from ..session import Session

PROGRAM = "dockerpush"
VALUES = "--values"

_KINDS: Mapping[str, str] = {
    "targets": "targets",
    "registry": "registries",
    "name": "names",
    "reference": "images",
    "references": "images",
    "repositories": "images",
    "sources": "images",
}
"""The argument → what it is. Files are left to the shell in any case."""
_KINDS_OF: Mapping[tuple[str, str], str] = {
    ("copy", "source"): "images",
    ("copy", "target"): "targets",
    ("check", "target"): "targets",
    ("sync", "place"): "registries",
}


@value
class Option:
    """One option; *choices* are its values, *takes_value* when it needs one.

    *kind* is what the program can be asked for, "" where it is nothing.
    """

    names: tuple[str, ...]
    help: str
    takes_value: bool
    choices: tuple[str, ...]
    kind: str = ""


@value
class Command:
    """One command; *words* are what its arguments may be, where that is known."""

    name: str
    help: str
    options: tuple[Option, ...]
    words: tuple[str, ...]
    kind: str = ""


def configure(parser: ArgumentParser) -> None:
    """Add the arguments of ``completion``."""
    parser.add_argument(
        "shell", metavar="SHELL", choices=sorted(_SHELLS), help="bash, zsh or fish"
    )


def run(args: Namespace, session: Session) -> int:
    """Print the script; the shell sources it."""
    from ..main import build_parser

    tree = list(commands(build_parser()))
    for line in _SHELLS[args.shell](tree).splitlines():
        console.result(line)
    return console.DONE


def print_values(words: Sequence[str]) -> int:
    """Print what may stand for the word that is typed: *words* are KIND WORD LINE.

    Whatever is wrong, a shell that completes shows no error.
    """
    kind, current, *line = [*words, "", ""][: max(2, len(words))]
    try:
        for found in suggestions(kind, current, line):
            console.result(found)
    except (PusherError, OSError):
        return console.OTHER
    return console.DONE


def commands(parser: ArgumentParser) -> Iterator[Command]:
    """The commands of *parser*, with what may follow them."""
    from ..main import WITHOUT_OPTIONS

    known: list[str] = []
    for action in parser._actions:
        if isinstance(action, _SubParsersAction):
            helps = {one.dest: one.help or "" for one in action._choices_actions}
            for name, command in action.choices.items():
                known.append(name)
                yield _command(name, helps.get(name, ""), command._actions)
    for name, text in WITHOUT_OPTIONS.items():
        yield Command(name, text, (), tuple(known) if name == "help" else ())


def _command(name: str, help_text: str, actions: list[Action]) -> Command:
    shown = [action for action in actions if action.help != SUPPRESS]
    positional = [action for action in shown if not action.option_strings]
    kinds = [_kind(name, action) for action in positional]
    return Command(
        name,
        help_text,
        tuple(_option(name, one) for one in shown if one.option_strings),
        tuple(str(word) for action in positional for word in action.choices or ()),
        next(filter(None, kinds), ""),
    )


def _option(command: str, action: Action) -> Option:
    braces = re.fullmatch("{(.*)}", str(action.metavar))
    choices = action.choices or (braces[1].split(",") if braces else ())
    return Option(
        tuple(action.option_strings),
        action.help or "",
        action.nargs != 0,
        tuple(map(str, choices)),
        _kind(command, action),
    )


def _kind(command: str, action: Action) -> str:
    return _KINDS_OF.get((command, action.dest), _KINDS.get(action.dest, ""))


def _bash(tree: list[Command]) -> str:
    cases = [
        f"{command.name}:{name}) {_bash_values(option)} ;;"
        for command in tree
        for option in command.options
        if option.takes_value
        for name in option.names
    ]
    words = [
        f"{command.name}) options={_quoted(_all_names(command))} "
        f"words={_quoted(command.words)} kind=${{kind:-{command.kind}}} ;;"
        for command in tree
    ]
    return _BASH.format(
        program=PROGRAM,
        commands=" ".join(command.name for command in tree),
        values=_indented(cases),
        words=_indented(words),
        asked=VALUES,
    )


def _bash_values(option: Option) -> str:
    """What to do after *option*: offer its values, else leave it to file names."""
    if option.kind:
        return f"kind={option.kind}"
    return f"values={_quoted(option.choices)}" if option.choices else "return"


_BASH = """\
# bash completion: source <({program} completion bash)
_{program}() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" previous="${{COMP_WORDS[COMP_CWORD-1]}}"
    local command= options='--help --version' words='{commands}' values= word kind=
    local line="${{COMP_LINE:0:COMP_POINT}}"
    local typed="${{line##*[[:space:]=]}}"
    # bash breaks words at colons: what stands before the one that is typed
    if [[ $typed == *:* ]]; then
        previous="${{line% *}}"
        previous="${{previous##* }}"
    fi
    if [[ $previous == = ]]; then previous="${{COMP_WORDS[COMP_CWORD-2]}}"; fi
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case " {commands} " in *" $word "*) command=$word; break ;; esac
    done
    COMPREPLY=()
    case "$command:$previous" in
{values}
    esac
    case "$command" in
{words}
    esac
    if [[ -n $values ]]; then words=$values; kind=; fi
    if [[ $current == -* ]]; then words=$options; kind=; fi
    if [[ -n $kind ]]; then
        words="$words $("${{COMP_WORDS[0]}}" completion {asked} $kind "$typed" \\
            "${{COMP_WORDS[@]:1}}" 2>/dev/null)"
        COMPREPLY=($(compgen -W "$words" -- "$typed"))
        if [[ $typed == *:* && $COMP_WORDBREAKS == *:* ]]; then
            COMPREPLY=("${{COMPREPLY[@]#"${{typed%"${{typed##*:}}"}}"}}")
        fi
        return
    fi
    COMPREPLY=($(compgen -W "$words" -- "${{current#=}}"))
}}
complete -o default -F _{program} {program}
"""


def _zsh(tree: list[Command]) -> str:
    names = [_quoted([f"{c.name}:{c.help.replace(':', '')}"]) for c in tree]
    cases = []
    for command in tree:
        lines = [_zsh_option(option) for option in command.options]
        words = _zsh_words(command.words, command.kind)
        lines.append(_quoted([f"*:argument:{words}"]))
        body = " \\\n            ".join(lines)
        cases.append(f"{command.name}) _arguments \\\n            {body} ;;")
    return _ZSH.format(
        program=PROGRAM,
        commands=_indented(names),
        cases=_indented(cases),
        asked=VALUES,
    )


def _zsh_words(words: Sequence[str], kind: str) -> str:
    if kind:
        return f"_{PROGRAM}_values {kind}"
    return f"({' '.join(words)})" if words else "_files"


def _zsh_option(option: Option) -> str:
    text = option.help.translate(str.maketrans("[]:", "() "))
    values = _zsh_words(option.choices, option.kind)
    value = f":value:{values}" if option.takes_value else ""
    exclusive = f"({' '.join(option.names)})" if len(option.names) > 1 else ""
    specs = [_quoted([f"{exclusive}{name}[{text}]{value}"]) for name in option.names]
    return " ".join(specs)


_ZSH = """\
#compdef {program}
# zsh completion: {program} completion zsh > "${{fpath[1]}}/_{program}"
_{program}_values() {{
    local -a found
    found=("${{(@f)$({program} completion {asked} "${{@[-1]}}" "$PREFIX" $words \\
        2>/dev/null)}}")
    compadd "${{@[1,-2]}}" -- "${{(@)found:#}}"
    _files
}}
_{program}() {{
    local context state state_descr line
    local -a commands
    commands=(
{commands}
    )
    _arguments -C '--help[show help]' '--version[show the version]' \\
        '1:command:->command' '*::argument:->argument'
    case $state in
        command) _describe command commands ;;
        argument) case $words[1] in
{cases}
        esac ;;
    esac
}}
if [ "$funcstack[1]" = _{program} ]; then _{program} "$@"; else
    compdef _{program} {program}; fi
"""


def _fish(tree: list[Command]) -> str:
    lines = [f"# fish completion: {PROGRAM} completion fish | source"]
    start = f"complete -c {PROGRAM}"
    for command in tree:
        lines.append(
            f"{start} -n __fish_use_subcommand -f -a {command.name} "
            f"-d {_fish_quoted(command.help)}"
        )
        seen = f"{start} -n '__fish_seen_subcommand_from {command.name}'"
        if command.words:
            lines.append(f"{seen} -f -a {_fish_quoted(' '.join(command.words))}")
        if command.kind:
            lines.append(f"{seen} -a {_fish_asking(command.kind)}")
        lines += [f"{seen} {_fish_option(option)}" for option in command.options]
    return "\n".join(lines)


def _fish_option(option: Option) -> str:
    words = [
        f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}"
        for name in option.names
    ]
    if option.takes_value:
        words.append("-r")
    if option.kind:
        words.append(f"-a {_fish_asking(option.kind)}")
    if option.choices:
        words.append(f"-f -a {_fish_quoted(' '.join(option.choices))}")
    return " ".join([*words, f"-d {_fish_quoted(option.help)}"])


def _fish_asking(kind: str) -> str:
    line = "(commandline -ct) (commandline -opc)"
    return _fish_quoted(f"({PROGRAM} completion {VALUES} {kind} {line} 2>/dev/null)")


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _quoted(words: Iterable[str]) -> str:
    """*words* as one word of a POSIX shell."""
    return shlex.quote(" ".join(words))


def _all_names(command: Command) -> list[str]:
    return [name for option in command.options for name in option.names]


def _indented(lines: list[str]) -> str:
    return "\n".join(f"        {line}" for line in lines)


_SHELLS: dict[str, Callable[[list[Command]], str]] = {
    "bash": _bash,
    "fish": _fish,
    "zsh": _zsh,
}


def suggestions(kind: str, current: str, line: Sequence[str]) -> list[str]:
    """The words of *kind* that begin with *current*; *line* is all that stands there.

    A repository is offered before its tags: these come after its colon.
    """
    state = StateDirectory.locate(os.environ)
    if kind == "names":
        found = _names(line)
    elif kind == "registries":
        found = iter(_registries(state))
    else:
        found = chain(_repositories(state), _tagged(state, current))
    return sorted({word for word in found if word.startswith(current)})


def _registries(state: StateDirectory) -> list[str]:
    """Where somebody logged in or pushed to, and what config.json knows."""
    history = PushHistory(state)
    found = [login.registry for login in history.logins()]
    found += [name.partition("/")[0] for name in _repositories(state)]
    with suppress(PusherError):  # a broken file is for other commands to tell of
        found += Config.find(None, state.path).registries
    return found


def _repositories(state: StateDirectory) -> Iterator[str]:
    """Repositories that were pushed to, pulled from or listed."""
    for destination in PushHistory(state).destinations():
        yield destination.target.name
    yield from known_tags(state)
    for reference in _cached(state):
        yield reference.partition("@")[0].rpartition(":")[0]


def _tagged(state: StateDirectory, current: str) -> Iterator[str]:
    """References with a tag, once *current* has the repository and a colon."""
    name, colon, tag = current.rpartition(":")
    if not colon or "/" in tag or "/" not in name:
        return
    yield from (f"{name}:{one}" for one in known_tags(state).get(name, ()))
    for destination in PushHistory(state).destinations():
        yield str(destination.target)
    yield from _cached(state)


def _cached(state: StateDirectory) -> list[str]:
    images = Cache(state.path / "cache").images()
    return [image.reference for image in images if "@" not in image.reference]


def _names(line: Sequence[str]) -> Iterator[str]:
    """What ``--name`` can be: the names in the archive that stands on the *line*."""
    from ...archive import open_archive
    from ...archive.sniff import is_forward

    for word in line:
        if not word or not is_here(word) or is_forward(word):
            continue
        with suppress(PusherError), open_archive(word) as archive:
            for image in archive.images:
                yield from (*image.names, *image.tags)
