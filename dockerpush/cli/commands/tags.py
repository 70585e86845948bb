"""``tags REPOSITORY``: what a repository calls its images."""

from __future__ import annotations

import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from itertools import islice
from typing import TYPE_CHECKING, Iterable, Iterator

from ...documents import held
from ...errors import UsageError
from ...reference import NoRepository
from ...state.history import MOST_TAGS, remember_tags
from .. import console, location
from ..endpoints import Connections
from ..options import OPERANDS, add_json_option
from ..report import Outcomes
from ..side_options import add_registry_options, endpoint

if TYPE_CHECKING:
    from ...reference import Reference
    from ..session import Session

PAGE = 1000
"""Tags that are asked for at a time."""


def configure(parser: ArgumentParser) -> None:
    """Add the arguments of ``tags``."""
    parser.add_argument(
        "repositories",
        metavar="REPOSITORY",
        nargs="+",
        help="REGISTRY/REPO, without a tag",
    )
    parser.set_defaults(**{OPERANDS: "repositories"})
    for name, which in (("--include", "only"), ("--exclude", "leave out")):
        parser.add_argument(
            name,
            type=_pattern,
            action="append",
            default=[],
            metavar="REGEX",
            help=f"{which} tags that match as a whole (repeatable)",
        )
    parser.add_argument(
        "--last", default="", metavar="TAG", help="only tags that come after TAG"
    )
    parser.add_argument(
        "--limit", type=_number, metavar="N", help="no more than N tags (default: all)"
    )
    add_json_option(parser, "print a JSON object for each repository")
    add_registry_options(parser)


def run(args: Namespace, session: Session) -> int:
    """List the tags in the registry's order, and fetch no more pages than needed."""
    wanted = [_repository(text) for text in args.repositories]
    tally = Outcomes("repositories", session)
    tally.expect(len(wanted))
    with Connections(endpoint(args), session, writes=False) as connections:
        for reference in wanted:
            with tally.attempt(reference.name):
                _list(reference, connections, args)
    tally.finish()
    return console.DONE


def _list(reference: Reference, connections: Connections, args: Namespace) -> None:
    """The tags of one repository; with its name where there are several."""
    page = min(args.limit or PAGE, PAGE) if not args.include else PAGE
    client = connections.client(reference.registry)
    tags = client.tags(reference.repository, last=args.last, page_size=page)
    seen: list[str] = []
    found = islice(_matching(_noted(tags, seen), args), args.limit)
    if connections.session.display.json:
        console.json_result({"repository": reference.name, "tags": held(found)})
    before = f"{reference.name}:" if len(args.repositories) > 1 else ""
    for tag in found:
        console.result(f"{before}{tag}")
    if seen:
        remember_tags(connections.state, reference.name, seen)


def _noted(tags: Iterable[str], seen: list[str]) -> Iterator[str]:
    """*tags*, the first of which are put into *seen* for the completion of a shell."""
    for tag in tags:
        if len(seen) < MOST_TAGS:
            seen.append(tag)
        yield tag


def _repository(text: str) -> Reference:
    try:
        reference = location.source(text, if_file=f"see: dockerpush inspect {text}")
    except NoRepository as error:
        raise UsageError(
            f"tags takes {text:.200}/REPOSITORY; to list the repositories: dockerpush "
            f"repos {text:.200}"
        ) from error
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
