"""The README as data: its blocks, and the command lines in it."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Iterator, NamedTuple

README = Path(
    os.environ.get("DOCKERPUSH_TEST_README", Path(__file__).parents[2] / "README.md")
)


class Block(NamedTuple):
    """A fenced block: its kind, its text, and the heading that it stands under."""

    kind: str
    text: str
    heading: str


def blocks(kind: str = "") -> list[Block]:
    """The fenced blocks (of one *kind*), in their order."""
    found, heading = [], ""
    pattern = r"^#+ (?P<heading>[^\n]*)$|^```(?P<kind>\w+)\n(?P<text>.*?)^```$"
    for match in re.finditer(pattern, README.read_text("utf-8"), re.M | re.S):
        heading = match["heading"] or heading
        if match["kind"] and kind in ("", match["kind"]):
            found.append(Block(match["kind"], match["text"], heading))
    return found


def prose() -> str:
    """All that stands in no fenced block."""
    text = README.read_text("utf-8")
    return re.sub(r"^```\w+\n.*?^```$", "", text, flags=re.M | re.S)


class Step(NamedTuple):
    """A command of a console block, and what it prints."""

    command: str
    shown: str


def steps(text: str) -> list[Step]:
    """The commands of the console block *text*."""
    parts = re.split(r"^\$ ", text, flags=re.M)[1:]
    return [Step(*part.rstrip().partition("\n")[::2]) for part in parts]


AMOUNT = r"\d+(\.\d+)? ([KMG]iB|B|s)\b"


def pattern_of(shown: str) -> str:
    """A regular expression of lines in which ``…`` stands for what differs.

    A line of ``…`` alone stands for any number of lines, spaces for any number of them,
    and a size or a time for any other one.
    """
    lines = []
    for line in shown.splitlines():
        words = re.sub(AMOUNT, "†", line).split()
        text = r"\s+".join(map(re.escape, words)).replace("…", ".*")
        text = text.replace("†", AMOUNT)
        lines.append(r"(?:.*\n)*" if line == "…" else rf"\s*{text}\n")
    return "".join(lines)


def arguments(line: str) -> Iterator[list[str]]:
    """What follows ``dockerpush`` in each of its commands in the shell *line*."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>()")
    lexer.whitespace_split = True
    command: list[str] = []
    for word in (*lexer, ";"):
        if not set(word) <= set("|&;<>()"):
            command.append(word)
            continue
        while command and re.fullmatch(r"\w+=.*|(.*/)?python3|-m", command[0]):
            command.pop(0)
        if command and re.fullmatch(r"(.*/)?dockerpush(\.pyz)?", command[0]):
            yield command[1:]
        command = []


def command_lines() -> Iterator[str]:
    """Every line and every piece of inline code that names a command of dockerpush."""
    command = r"(?<![\w-])dockerpush(\.pyz)? +[a-z-]"
    for block in blocks():
        if block.kind != "python":
            text = block.text.replace("\\\n", " ")
            for line in text.splitlines():
                line = re.sub(r"^(\$ |ExecStart=|\s*- )", "", line)
                line = re.sub(r"^\s*\w+=\$\((.*)\)$", r"\1", line)
                if re.search(command, line):
                    yield line
    for code in re.findall(r"`([^`\n]+)`", prose()):
        if re.search(command, code):
            yield code
