"""The messages of dockerpush, and the rules of plain English that a program can check.

``python tests/support/plain_english.py`` prints each message, line of help, sentence of
the README and docstring that breaks a rule. With ``--write`` it writes all messages to
``tests/unit/messages.txt``, so that a change of words shows in a review.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from pathlib import Path
from typing import Iterator

ROOT = Path(__file__).parents[2]
COLLECTION = ROOT / "tests" / "unit" / "messages.txt"

SCREENS = 48
"""Lines of two terminals."""

PRIVATE = re.compile(
    r"\b(arriv\w+|(?:is|be|was) had|passed over|told|tells?|said|speaks? of|spoken?"
    r"|anew|heard"
    r"|(?:go|goes|going|gone) on|packed|stood still|by the word of|taken for"
    r"|what came|nothing came|that has little|pass by itself)\b",
    re.IGNORECASE,
)
"""Words of ours for what the field calls otherwise."""

INVERSION = re.compile(
    r"^(what\b.*\b(?:is|are|was|were)\b|nothing is\b|there is nothing\b"
    r"|it (?:is|was) .* (?:that|who|which)\b|by .* is\b)",
    re.IGNORECASE,
)
"""A sentence whose subject does not come first."""

UNITS = re.compile(r"(?:\d ?|\} |\b)(?:[KMGkmg]B|[KMG]bytes|[kMG]bit)\b")
"""Units other than B, KiB, MiB and GiB."""

ALLOWED = ("what do you", "many tools tell", "says nothing", "What is tested", "500MB")
"""Uses of these words that everybody understands."""

RULES = (
    ("a private word", PRIVATE),
    ("an inversion", INVERSION),
    ("a unit other than B, KiB, MiB or GiB", UNITS),
)

_WORDS = re.compile(r"[a-z]{2,},? [a-z(]{2,}|\} [a-z]{2,}|[a-z]{2,}[:,;]? \{")


def messages() -> dict[str, list[str]]:
    """The texts of each module that reach people, with ``{}`` for what is put in."""
    found = {}
    for path in sorted((ROOT / "dockerpush").rglob("*.py")):
        texts = {_plain(text) for text in _texts(ast.parse(path.read_text("utf-8")))}
        texts = {text for text in texts if _WORDS.search(text)}
        if texts:
            found[path.relative_to(ROOT).as_posix()] = sorted(texts)
    return found


def _texts(node: ast.AST) -> Iterator[str]:
    """The string constants below *node* but for docstrings, assertions and scripts."""
    if isinstance(node, ast.Assert) or _is_docstring(node):
        return
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        if node.value.count("\n") < 2:
            yield node.value
        return
    if isinstance(node, ast.JoinedStr):
        pieces = [_piece(piece) for piece in node.values]
        if "".join(pieces).count("\n") < 2:
            yield "".join(pieces)
        inner = [one for one in node.values if isinstance(one, ast.FormattedValue)]
        for one in inner:
            yield from _texts(one.value)
        return
    for child in ast.iter_child_nodes(node):
        yield from _texts(child)


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _piece(node: ast.expr) -> str:
    return str(node.value) if isinstance(node, ast.Constant) else "{}"


def _plain(text: str) -> str:
    return re.sub(r"\{[^{}]*\}|%[sd]|%\.1f", "{}", " ".join(text.split()))


def help_pages() -> dict[str, str]:
    """The text of each page of help, by the command line that prints it."""
    from dockerpush.cli import help_pages as pages
    from dockerpush.cli.main import COMMANDS, WITHOUT_OPTIONS, build_parser
    from dockerpush.cli.mistakes import subparsers

    found = {"help": pages.overview({**COMMANDS, **WITHOUT_OPTIONS})}
    for name, parser in subparsers(build_parser()).items():
        found[f"{name} --help"] = pages.page(name, parser, everything=False)
        found[f"{name} --help-all"] = pages.page(name, parser, everything=True)
    return found


def sentences(text: str) -> Iterator[str]:
    """The sentences of *text*, Markdown, without code and marks of tables."""
    text = re.sub(r"(?ms)^ *```.*?^ *```", "\n\n", text)
    text = re.sub(r"<!--.*?-->|<[^>]+>|`[^`]*`", "X", text, flags=re.DOTALL)
    for block in re.split(r"\n\s*\n|\n(?=\s*[-*|#>]|\s*\d+\. )|(?<=.)\|", text):
        joined = " ".join(block.split()).strip("-*|#> ")
        yield from (one for one in re.split(r"(?<=[.!?:;])\s+", joined) if one)


def docstrings() -> Iterator[tuple[str, str]]:
    """The docstring of each module, class and function, after where it stands."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    for path in sorted((ROOT / "dockerpush").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, kinds) and (text := ast.get_docstring(node)):
                where = f"{path.relative_to(ROOT)}: {getattr(node, 'name', 'module')}"
                yield (
                    where,
                    re.sub(r"``.*?``|`.*?`|\*\w+\*", "X", text, flags=re.DOTALL),
                )


def broken_rules() -> Iterator[str]:
    """A line for each text that breaks a rule."""
    for module, texts in messages().items():
        for text in texts:
            for part in re.split(r"(?<=[:;])\s+", text):
                yield from _broken(f"{module}: {text!r}", part)
    for name, page in help_pages().items():
        if name.endswith("--help") and page.count("\n") > SCREENS:
            yield f"{name}: more than {SCREENS} lines"
        for line in page.splitlines():
            yield from _broken(f"{name}: {line.strip()!r}", line.strip())
    yield from _unnamed_values()
    for where, text in docstrings():
        if match := PRIVATE.search(" ".join(text.split())):
            yield f"{where}: a private word: {match[0]!r}"
    for sentence in sentences((ROOT / "README.md").read_text("utf-8")):
        yield from _broken(f"README.md: {sentence!r}", sentence)


def _broken(where: str, text: str) -> Iterator[str]:
    if any(allowed in text for allowed in ALLOWED):
        return
    for what, rule in RULES:
        if match := rule.search(text):
            yield f"{where}: {what}: {match[0]!r}"


def _unnamed_values() -> Iterator[str]:
    """The options that take a value without a word for it or a list of its choices."""
    from dockerpush.cli.main import build_parser
    from dockerpush.cli.mistakes import subparsers

    for name, parser in subparsers(build_parser()).items():
        for action in parser._actions:
            takes_value = action.option_strings and action.nargs != 0
            shown = action.help != argparse.SUPPRESS
            if takes_value and shown and not (action.metavar or action.choices):
                yield f"{name} {action.option_strings[-1]}: no word for its value"
            if (
                takes_value
                and shown
                and action.choices
                and "default" not in action.help
            ):
                yield f"{name} {action.option_strings[-1]}: no default"


def collection() -> str:
    """All messages as one text, a module after the other."""
    blocks = (
        "\n".join([f"# {module}", *texts]) for module, texts in messages().items()
    )
    return "\n\n".join(blocks) + "\n"


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    if "--write" in sys.argv[1:]:
        COLLECTION.write_text(collection(), "utf-8")
    else:
        found = list(broken_rules())
        print(*found, sep="\n", end="\n" if found else "")
        sys.exit(bool(found))
