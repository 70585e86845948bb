"""Help: an overview, pages that fit two screens, and mistakes told in one line."""

from __future__ import annotations

import re
import shlex
from argparse import SUPPRESS, Action, ArgumentParser
from typing import Mapping

import pytest
from conftest import Command, Finished
from inprocess import run_here

from dockerpush.cli import other_tools
from dockerpush.cli.help_pages import GROUPS, PAGES, value_of
from dockerpush.cli.main import COMMANDS, WITHOUT_OPTIONS, build_parser
from dockerpush.cli.options import subparsers


def long_name(option: Action) -> str:
    return next(name for name in option.option_strings if name.startswith("--"))


TWO_SCREENS = 50
PARSERS: Mapping[str, ArgumentParser] = subparsers(build_parser())


def run(words: str) -> Finished:
    return run_here(shlex.split(words), {})


def shown(name: str) -> list[Action]:
    """The options of a command that its help tells of."""
    actions = PARSERS[name]._actions
    return [one for one in actions if one.option_strings and one.help != SUPPRESS]


@pytest.mark.parametrize("words", ["help", "--help", "-h", "help --help", "-q --help"])
def test_the_overview_has_every_command_on_a_line(words: str) -> None:
    done = run(words)
    assert done.returncode == 0
    for name, text in {**COMMANDS, **WITHOUT_OPTIONS}.items():
        assert re.search(rf"^  {name} +{re.escape(text)}$", done.stdout, re.M)
    for group in GROUPS:
        assert f"\n{group}:\n" in done.stdout
    for name in ("push", "pull", "copy"):
        assert f"\n  dockerpush {PAGES[name].examples[0]}\n" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_the_program_alone_shows_the_overview_on_standard_error(
    run_cli: Command,
) -> None:
    done = run_cli()
    assert (done.returncode, done.stdout) == (2, "")
    assert "registries:" in done.stderr


def test_the_groups_have_every_command_once() -> None:
    grouped = [name for names in GROUPS.values() for name in names]
    assert sorted(grouped) == sorted([*COMMANDS, *WITHOUT_OPTIONS]) == sorted(PAGES)


@pytest.mark.parametrize("words", ["version", "-V", "--version", "-q --version"])
def test_the_version(words: str) -> None:
    done = run(words)
    assert done.returncode == 0
    assert re.fullmatch(r"dockerpush [0-9][0-9a-z.+]*\n", done.stdout)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_page_fits_two_screens(name: str) -> None:
    done = run(f"{name} --help")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert len(lines) <= TWO_SCREENS
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith(f"Usage: dockerpush {name}")
    assert lines[1] == "" and lines.index("Examples:") <= 5
    assert run(f"help {name}").stdout == done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_everything_is_on_the_long_page(name: str) -> None:
    short, everything = run(f"{name} --help").stdout, run(f"{name} --help-all").stdout
    assert run(f"help {name} --help-all").stdout == everything
    assert max(map(len, everything.splitlines())) <= 80
    for option in shown(name):
        assert long_name(option) in everything
    assert ("--help-all" in short.splitlines()[-1]) == (len(short) < len(everything))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_does_its_values_and_its_default(name: str) -> None:
    for option in shown(name):
        text, names = option.help or "", option.option_strings
        assert text, names
        if option.nargs == 0:
            continue
        assert re.fullmatch(r"[A-Z]|[A-Z:/\[\]]{2,}|oci:DIR|{.*}", value_of(option)), (
            names
        )
        if option.choices and option.default is not None:
            assert "(default: " in text, names
        if option.choices:
            assert "{" in value_of(option) or len(option.choices) == 1, names


@pytest.mark.parametrize("name", COMMANDS)
def test_three_to_five_examples_that_the_command_understands(name: str) -> None:
    examples = PAGES[name].examples
    assert 3 <= len(examples) <= 5
    for example in examples:
        words = shlex.split(example.partition(" > ")[0])
        assert words[0] == name
        assert build_parser().parse_args(words).command == name


MISTAKES = {
    "push image.tar --targte x": "unknown option --targte; did you mean --target?",
    "push --targte x": "unknown option --targte; did you mean --target?",
    "push": "push needs an archive: dockerpush push image.tar -t REGISTRY/REPO:TAG",
    "pull": "pull needs an image: dockerpush pull REGISTRY/REPO:TAG",
    "pul x": "unknown command 'pul'; did you mean pull?",
    "xyzzy": "unknown command 'xyzzy'; see dockerpush help",
    "help psuh": "unknown command 'psuh'; did you mean push?",
    "push x --compress gzpi": "--compress: 'gzpi' is not one of auto, gzip, zstd, "
    "none; did you mean gzip?",
    "cache rm": "'cache rm' needs an image: dockerpush cache rm REGISTRY/REPO:TAG",
    "cache ls app:1": "'cache ls' takes no image; only 'cache rm' does: leave out "
    "'app:1'",
    "completion ksh": "SHELL: 'ksh' is not one of bash, fish, zsh; did you mean zsh?",
    "inventory": "inventory needs a registry, a directory or an archive: dockerpush "
    "inventory REGISTRY > have.json",
    "pull 127.0.0.1:9/x:1 --platform arm64": "--platform: not a platform (wanted "
    "os/arch[/variant][:os.version]): 'arm64'; did you mean linux/arm64?",
    "tags 127.0.0.1:9": "tags takes 127.0.0.1:9/REPOSITORY; to list the repositories: "
    "dockerpush repos 127.0.0.1:9",
    "tag 127.0.0.1:9/x:1 127.0.0.1:8/x": "tag works within 127.0.0.1:9; for another "
    "registry: dockerpush copy 127.0.0.1:9/x:1 127.0.0.1:8/x",
    "sync / 127.0.0.1:9": "/ is a directory, not a list; for its images: dockerpush "
    "sync oci:/ DST",
    "cache lss": "ACTION: 'lss' is not one of ls, verify, prune, rm; did you mean ls?",
    "push x --target": "--target needs a value: --target REF",
    "push x -t": "--target needs a value: --target REF",
    "push x --json=yes": "--json takes no value",
    "push x --name=": "--name: the value is empty; is a variable not set?",
    "push ''": "ARCHIVE: the value is empty; is a variable not set?",
    "verify a b c": "verify takes no argument 'c'; see dockerpush help verify",
    "push x --zzzzzzzz": "unknown option --zzzzzzzz; see dockerpush help push",
    "-q": "no command; see dockerpush help",
    "--plain-http push x": "--plain-http goes after the command: dockerpush push ... "
    "--plain-http",
    "--tls-verify=false copy a b": "--tls-verify goes after the command: dockerpush "
    "copy ... --tls-verify=false",
    "ls x": "unknown command 'ls'; did you mean tags?",
    "catalog x": "unknown command 'catalog'; did you mean repos?",
    "help cp": "unknown command 'cp'; did you mean copy?",
    "copy --all a b": "unknown option --all: every platform is taken anyway; leave it "
    "out",
    "--override-os linux copy a b": "unknown option --override-os; write --platform "
    "OS/ARCH",
    "sync --src yaml a b": "unknown option --src; write the list, then the target",
    "copy --src yaml a b": "unknown option --src; see dockerpush help copy",
    "copy --from-username=me a b": "unknown option --from-username; did you mean "
    "--src-username?",
    "delete -f a": "unknown option -f; write --yes",
    "inspect x --raw --image-config": "--image-config and --raw cannot be used "
    "together",
}


@pytest.mark.parametrize(("words", "message"), MISTAKES.items(), ids=MISTAKES)
def test_a_mistake_is_one_line_with_a_hint(words: str, message: str) -> None:
    done = run(words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {message}\n"


ANSWERED = [
    f"{option} {command}"
    for options, texts in other_tools.OPTIONS.items()
    for option in options.split()
    for commands in texts
    for command in commands.split() or COMMANDS
]


@pytest.mark.parametrize("words", ANSWERED)
def test_an_option_of_another_tool_is_answered_with_one_of_ours(words: str) -> None:
    option, command = words.split()
    parser = PARSERS[command]
    assert option not in parser._option_string_actions, "it is one of ours"
    text = other_tools.advice(option, command)
    owner = PARSERS["copy"] if "dockerpush copy" in text else parser
    advised = set(re.findall(r"--[a-z-]+", text))
    assert text and advised <= set(owner._option_string_actions)


@pytest.mark.parametrize("theirs", sorted(other_tools.COMMANDS))
def test_a_command_of_another_tool_is_answered_with_one_of_ours(theirs: str) -> None:
    command, *options = other_tools.COMMANDS[theirs].split()
    assert theirs not in COMMANDS
    assert set(options) <= set(PARSERS[command]._option_string_actions)


def test_the_real_command_says_the_same(run_cli: Command) -> None:
    done = run_cli("push", "image.tar", "--targte", "x")
    assert done.stderr == "error: unknown option --targte; did you mean --target?\n"
