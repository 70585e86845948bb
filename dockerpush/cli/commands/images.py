"""``images FILE ...``: the images that manifests and other texts name."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Sequence

from ...errors import NotFound, UsageError
from ...settings.keys import without_own
from .. import console
from ..options import OPERANDS, add_json_option
from ..text_files import read_text, shown_name

if TYPE_CHECKING:
    from ...sync.lists import Problem
    from ..session import Session

LIMIT = 32 * 1024 * 1024
"""Bytes of a file that are read."""
MOST_WARNINGS = 20
"""Warnings for one file; the others are counted."""


def configure(parser: ArgumentParser) -> None:
    """Add the arguments of ``images``."""
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="*",
        help="Kubernetes manifests, output of Helm or Kustomize, Compose files, plain "
        "text; - for standard input",
    )
    parser.set_defaults(**{OPERANDS: "files"})
    parser.add_argument(
        "--text", action="store_true", help="read every FILE as plain text, not as YAML"
    )
    add_json_option(parser, "print one JSON object, with files and lines")


def run(args: Namespace, session: Session) -> int:
    """Print the images, sorted, each once. Raises NotFound when there are none."""
    from ...sync.image_search import find_images

    if not args.files:
        raise UsageError(
            "images reads files: name some, or - for standard input; images on this "
            "machine are in 'dockerpush cache ls' (pulled ones) and in the runtime, as "
            "in 'docker images'"
        )
    places: dict[str, list[str]] = {}
    variables = without_own(os.environ)
    for file in dict.fromkeys(args.files):
        name = shown_name(file)
        found = find_images(
            read_text(file, LIMIT, "split it into several"),
            name,
            variables,
            plain=args.text,
            check=session.cancellation.check,
        )
        _warn(found.problems, name)
        for image, line in found.images:
            places.setdefault(str(image), []).append(f"{name}:{line}")
    if not places:
        names = ", ".join(map(shown_name, args.files[:5]))
        raise NotFound(f"no images in {names}; if a command wrote it, did that fail?")
    _show(places, session)
    return console.DONE


def _warn(problems: Sequence[Problem], name: str) -> None:
    for problem in problems[:MOST_WARNINGS]:
        console.warn(f"{name}:{problem.line}: skipped: {problem.text}")
    if len(problems) > MOST_WARNINGS:
        more = len(problems) - MOST_WARNINGS
        console.warn(f"{name}: {more} more were skipped for the same reasons")


def _show(places: dict[str, list[str]], session: Session) -> None:
    if session.display.json:
        records = [
            {"image": image, "places": places[image][:100]} for image in sorted(places)
        ]
        console.json_result({"images": records})
        return
    for image in sorted(places):
        console.result(image)
        if session.display.verbose:
            console.say(f"{image}: {', '.join(places[image][:5])}")
