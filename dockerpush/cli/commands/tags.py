"""``tags REPOSITORY``: what a repository calls its images."""

from __future__ import annotations

import re
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, Namespace
from itertools import islice
from typing import TYPE_CHECKING, Iterable, Iterator

from ...errors import UsageError
from .. import console, location
from ..endpoints import Connections
from ..options import add_connection_options, add_credential_options, endpoint

if TYPE_CHECKING:
    from ...reference import Reference
    from ..session import Session

PAGE = 1000
"""Tags that are asked for at a time."""


def configure(parser: ArgumentParser) -> None:
    """Add the arguments of ``tags``."""
    parser.add_argument(
        "repository", metavar="REPOSITORY", help="registry/repository, without a tag"
    )
    for name, which in (("--include", "only"), ("--exclude", "not")):
        parser.add_argument(
            name,
            type=_pattern,
            action="append",
            default=[],
            metavar="REGEX",
            help=f"{which} tags that match as a whole (may be repeated)",
        )
    parser.add_argument(
        "--last", default="", metavar="TAG", help="only those that come after TAG"
    )
    parser.add_argument(
        "--limit", type=_number, metavar="N", help="no more than N (default: all)"
    )
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    parser.add_argument("--format", choices=("json",), help=SUPPRESS)
    add_credential_options(parser)
    add_connection_options(parser)


def run(args: Namespace, session: Session) -> int:
    """List the tags in the registry's order, and fetch no more pages than needed."""
    reference = _repository(args.repository)
    page = min(args.limit or PAGE, PAGE) if not args.include else PAGE
    with Connections(endpoint(args), session, writes=False) as connections:
        client = connections.client(reference.registry)
        tags = client.tags(reference.repository, last=args.last, page_size=page)
        found = islice(_matching(tags, args), args.limit)
        if session.display.json:
            console.json_result({"repository": reference.name, "tags": list(found)})
            return console.DONE
        for tag in found:
            console.result(tag)
    return console.DONE


def _repository(text: str) -> Reference:
    reference = location.source(text)
    if reference.tag or reference.digest:
        raise UsageError(f"tags takes a repository: {reference.name}")
    return reference


def _matching(tags: Iterable[str], args: Namespace) -> Iterator[str]:
    for tag in tags:
        wanted = not args.include or any(p.fullmatch(tag) for p in args.include)
        if wanted and not any(p.fullmatch(tag) for p in args.exclude):
            yield tag


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise ArgumentTypeError(
            f"not a regular expression: {text!r:.200}: {error}"
        ) from error


def _number(text: str) -> int:
    if re.fullmatch("[1-9][0-9]{0,8}", text) is None:
        raise ArgumentTypeError(f"not a number from 1 on: {text!r:.200}")
    return int(text)
