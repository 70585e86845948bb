"""``completion bash|zsh|fish``: what a shell needs to complete our command lines.

The words are those of the argparse tree, written out: completing starts no Python.
"""

from __future__ import annotations

import shlex
from argparse import SUPPRESS, Action, ArgumentParser, Namespace, _SubParsersAction
from typing import TYPE_CHECKING, Callable, Iterable, Iterator

from ...values import value
from .. import console

if TYPE_CHECKING:
    from ..session import Session

PROGRAM = "dockerpush"


@value
class Option:
    """One option; *choices* are its values, *takes_value* when it needs one."""

    names: tuple[str, ...]
    help: str
    takes_value: bool
    choices: tuple[str, ...]


@value
class Command:
    """One command; *words* are what its arguments may be, where that is known."""

    name: str
    help: str
    options: tuple[Option, ...]
    words: tuple[str, ...]


def configure(parser: ArgumentParser) -> None:
    """Add the arguments of ``completion``."""
    parser.add_argument("shell", choices=sorted(_SHELLS), help="for which shell")


def run(args: Namespace, session: Session) -> int:
    """Print the script; the shell sources it."""
    from ..main import build_parser

    for line in _SHELLS[args.shell](list(commands(build_parser()))).splitlines():
        console.result(line)
    return console.DONE


def commands(parser: ArgumentParser) -> Iterator[Command]:
    """The commands of *parser*, with what may follow them."""
    for action in parser._actions:
        if isinstance(action, _SubParsersAction):
            helps = {one.dest: one.help or "" for one in action._choices_actions}
            for name, command in action.choices.items():
                yield _command(name, helps.get(name, ""), command._actions)


def _command(name: str, help_text: str, actions: list[Action]) -> Command:
    shown = [action for action in actions if action.help != SUPPRESS]
    positional = [action for action in shown if not action.option_strings]
    return Command(
        name,
        help_text,
        tuple(_option(action) for action in shown if action.option_strings),
        tuple(str(word) for action in positional for word in action.choices or ()),
    )


def _option(action: Action) -> Option:
    text = (action.help or "").replace("%%", "%")
    return Option(
        tuple(action.option_strings),
        text,
        action.nargs != 0,
        tuple(str(word) for word in action.choices or ()),
    )


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
        f"words={_quoted(command.words)} ;;"
        for command in tree
    ]
    return _BASH.format(
        program=PROGRAM,
        commands=" ".join(command.name for command in tree),
        values=_indented(cases),
        words=_indented(words),
    )


def _bash_values(option: Option) -> str:
    """What to do after *option*: offer its values, else leave it to file names."""
    return f"values={_quoted(option.choices)}" if option.choices else "return"


_BASH = """\
# bash completion: source <({program} completion bash)
_{program}() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" previous="${{COMP_WORDS[COMP_CWORD-1]}}"
    local command= options='--help --version' words='{commands}' values= word
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
    if [[ -n $values ]]; then words=$values; fi
    if [[ $current == -* ]]; then words=$options; fi
    COMPREPLY=($(compgen -W "$words" -- "${{current#=}}"))
}}
complete -o default -F _{program} {program}
"""


def _zsh(tree: list[Command]) -> str:
    names = [_quoted([f"{c.name}:{c.help.replace(':', '')}"]) for c in tree]
    cases = []
    for command in tree:
        lines = [_zsh_option(option) for option in command.options]
        words = f"({' '.join(command.words)})" if command.words else "_files"
        lines.append(_quoted([f"*:argument:{words}"]))
        body = " \\\n            ".join(lines)
        cases.append(f"{command.name}) _arguments \\\n            {body} ;;")
    return _ZSH.format(
        program=PROGRAM, commands=_indented(names), cases=_indented(cases)
    )


def _zsh_option(option: Option) -> str:
    text = option.help.translate(str.maketrans("[]:", "() "))
    values = f"({' '.join(option.choices)})" if option.choices else "_files"
    value = f":value:{values}" if option.takes_value else ""
    exclusive = f"({' '.join(option.names)})" if len(option.names) > 1 else ""
    specs = [_quoted([f"{exclusive}{name}[{text}]{value}"]) for name in option.names]
    return " ".join(specs)


_ZSH = """\
#compdef {program}
# zsh completion: {program} completion zsh > "${{fpath[1]}}/_{program}"
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
        lines += [f"{seen} {_fish_option(option)}" for option in command.options]
    return "\n".join(lines)


def _fish_option(option: Option) -> str:
    words = [
        f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}"
        for name in option.names
    ]
    if option.takes_value:
        words.append("-r")
    if option.choices:
        words.append(f"-f -a {_fish_quoted(' '.join(option.choices))}")
    return " ".join([*words, f"-d {_fish_quoted(option.help)}"])


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
