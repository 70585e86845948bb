"""Every option with an empty, huge, unknown, repeated and misplaced value.

Each is honoured, or refused by one line of plain English.
"""

from __future__ import annotations

import functools
import io
import re
import sys
from argparse import SUPPRESS, Action, ArgumentParser
from pathlib import Path
from typing import Callable, Iterator, Mapping, Sequence
from unittest import mock

import pytest
from conftest import Command, Finished
from copied import write
from images import small_archive
from inprocess import run_here

from dockerpush.cli.main import COMMANDS, build_parser
from dockerpush.cli.options import MAY_BE_EMPTY, subparsers
from dockerpush.server import Registry, RegistryServer

LINES = {
    "push": "push {archive} -t {image}",
    "pull": "pull {image}",
    "copy": "copy {image} {host}/copied:1",
    "sync": "sync {list} {host}/mirror",
    "inspect": "inspect {image}",
    "verify": "verify {archive} {image}",
    "login": "login {host} -u me -p secret",
    "logout": "logout {host}",
    "tags": "tags {host}/app",
    "digest": "digest {image}",
    "check": "check {host}/app",
    "delete": "delete {host}/app:9 --yes --ignore-missing",
    "repos": "repos {host}",
    "tag": "tag {image} other",
    "images": "images {list}",
    "inventory": "inventory {host}",
    "load": "load {archive} --runtime {tmp}/docker",
    "save": "save app:1 -o {tmp}/saved.tar --force --runtime {tmp}/docker",
    "serve": "serve --gc --dir {stored}",
    "cache": "cache prune",
    "config": "config",
    "completion": "completion bash",
}
"""A line of each command that does its work and ends."""

BAD = {
    "empty": "",
    "huge": "x" * 5000,
    "number": "9" * 400,
    "unknown": "no-such-value",
}
MEANT = {
    0: "honoured",
    2: "refused",
    4: "no such file",
    5: "no such proxy",
    3: "denied",
    7: "one of several failed",
}


OTHERWISE = {
    ("serve", "--dir"): 1,
    ("sync", "--from"): 6,
    ("login", "--authfile"): 1,
    ("logout", "--authfile"): 1,
}
"""No directory of images is broken content; a file that cannot be written is 1."""


@functools.cache
def parsers() -> Mapping[str, ArgumentParser]:
    return subparsers(build_parser())


@functools.cache
def options(name: str) -> list[Action]:
    actions = parsers()[name]._actions
    return [one for one in actions if one.option_strings and one.help != SUPPRESS]


def long_name(option: Action) -> str:
    return next(name for name in option.option_strings if name.startswith("--"))


def each_once() -> list[tuple[str, str]]:
    """Every option, with the first command that has it."""
    found, seen = [], set()
    for name in COMMANDS:
        for option in options(name):
            word = long_name(option)
            if word not in seen | {"--help", "--help-all"}:
                seen.add(word)
                found.append((name, word))
    return found


def every_one() -> list[tuple[str, str]]:
    once = set(each_once())
    pairs = [(n, long_name(o)) for n in COMMANDS for o in options(n)]
    return [one for one in pairs if one not in once and "--help" not in one[1]]


def plain(word: str) -> str:
    return word.strip("-")


def takes_value(name: str, word: str) -> bool:
    (found,) = (one for one in options(name) if word in one.option_strings)
    return found.nargs != 0


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("registry")


@pytest.fixture(scope="module")
def host(stored: Path) -> Iterator[str]:
    with RegistryServer(Registry(stored)) as server:
        yield server.host


@pytest.fixture
def run(
    host: str,
    stored: Path,
    run_cli: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[str, Sequence[str], Sequence[str]], Finished]:
    """Run the line of a command, with words before and after it."""
    names = {
        "archive": str(small_archive(tmp_path / "image.tar")),
        "image": f"{host}/app:1",
        "host": host,
        "stored": str(stored),
        "list": str(write(tmp_path / "list", f"{host}/app:1")),
        "tmp": str(tmp_path),
    }
    program = tmp_path / "docker"
    loading = 'if [ "$1" = load ]; then exec cat >/dev/null; fi'
    program.write_text(f"#!/bin/sh\n{loading}\nexec cat {tmp_path}/image.tar\n")
    program.chmod(0o755)
    environment = run_cli.environment()
    monkeypatch.chdir(tmp_path)  # some values are names of files to be written

    def run_it(name: str, before: Sequence[str], after: Sequence[str]) -> Finished:
        words = [word.format(**names) for word in LINES[name].split()]
        nothing = io.TextIOWrapper(io.BytesIO())
        raw = mock.patch("dockerpush.cli.remote_image.show_raw")
        with mock.patch.object(sys, "stdin", nothing), raw:
            return run_here([*before, *words, *after], environment)

    assert run_it("push", [], ["-q"]).returncode == 0
    return run_it


def check(done: Finished, what: str) -> None:
    said = done.stderr if len(done.stderr) < 3000 else done.stderr[:3000] + "..."
    name, option, *_ = [*what.split(), ""]
    meant = {*MEANT, OTHERWISE.get((name, option), 0)}
    assert done.returncode in meant, (what, done.returncode, said)
    assert "this is a bug" not in said and "Traceback" not in said, (what, said)
    errors = re.findall("^error: .*$", done.stderr, re.M)
    assert len(errors) == bool(done.returncode), (what, said)
    if done.returncode == 2:
        assert done.stderr.splitlines()[-1] == errors[0]
        assert len(errors[0]) < 1500, what


def try_all(name: str, word: str, run: Callable[..., Finished]) -> None:
    good = ["--dry-run"] if name == "push" and word == "--yes" else []
    if not takes_value(name, word):
        for given in ([f"{word}=x"], [f"{word}="]):
            if not word.endswith("tls-verify"):
                done = run(name, [], given)
                assert done.returncode == 2, (given, done.stderr)
        check(run(name, [], [word, word, *good]), f"{name} {word} twice")
        check(run(name, [word], []), f"{word} {name}")
        return
    for kind, value in BAD.items():
        done = run(name, [], [word, value])
        check(done, f"{name} {word} {kind}")
        if kind == "empty" and word.strip("-").replace("-", "_") not in MAY_BE_EMPTY:
            assert done.returncode == 2, (word, done.stderr)
        check(run(name, [], [f"{word}={value}", word, value]), f"{name} {word} twice")
        check(run(name, [word, value], []), f"{word} {name}")
    assert run(name, [], [word]).returncode == 2 or word.endswith("tls-verify")


@pytest.mark.parametrize(
    ("name", "word"), each_once(), ids=lambda word: word.strip("-")
)
def test_bad_values_of_an_option(
    name: str, word: str, run: Callable[..., Finished]
) -> None:
    try_all(name, word, run)


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "word"), every_one(), ids=lambda word: word.strip("-")
)
def test_bad_values_of_an_option_in_every_command(
    name: str, word: str, run: Callable[..., Finished]
) -> None:
    try_all(name, word, run)


@pytest.mark.parametrize("name", COMMANDS)
def test_bad_operands(
    name: str, run_cli: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    environment = run_cli.environment()
    for value in ("", "x" * 5000, "\udcff", "--", "http://", "@", ":", "//"):
        if name in ("serve", "login") and value in ("--", "x" * 5000):
            continue  # asks, or serves until it is ended
        for words in ([name, value], [name, value, value, value]):
            if name == "serve":
                words += ["--gc"]
            with mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO())):
                done = run_here(words, environment)
            what = f"{name} {value[:20]!r}"
            assert "this is a bug" not in done.stderr, (what, done.stderr[:2000])
            assert done.stderr.count("error: ") <= 1 or done.returncode == 7
            assert done.returncode in (0, 1, 2, 4, 5, 6, 7), (what, done.stderr[:2000])
