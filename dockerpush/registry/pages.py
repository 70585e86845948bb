"""Lists of a registry: what is on a page, which page comes next, and their stand-in.

A registry that lists no referrers has a tag for those of each manifest, which clients
keep.

A part of a list that passes for the whole does harm in silence. So a Link header (RFC
8288) is understood in full or refused: there is no "no next page" for want of
understanding.
"""

from __future__ import annotations

import hashlib
import re
import time
from typing import Any, Callable, Iterable, Iterator, NamedTuple
from urllib.parse import urlencode

from ..documents import Walk
from ..errors import (
    ContentMismatch,
    InvalidDigest,
    InvalidJSON,
    NetworkError,
    NotFoundInRegistry,
    RegistryError,
)
from ..events import Notice, OnEvent, ignore
from ..expressions import expression
from ..oci import INDEX_TYPES, Descriptor, Digest, optional, parse_json, require
from ..reference import is_tag
from ..strict_json import DOCUMENT
from .answers import Answer
from .debug import one_line
from .locations import resolve_own, same_origin
from .refusals import shown_name

Read = Callable[[str, str], tuple[Descriptor, bytes]]
"""Gives the manifest that a repository has under a reference."""

MOST_PAGES = 10_000
"""Pages of one list that are read; more of them have no end."""

MOST_LISTED = 1_000_000
"""Names or manifests of one list that are read, one after the other."""

MOST_BYTES = 256 * 1024 * 1024
"""Bytes of all the pages of one list."""

MOST_SECONDS = 3600.0
"""How long the pages of one list may take to come."""

_REPOSITORY = expression(r"[!-~]{1,255}")
# </v2/team/app/tags/list?last=b,c>; and without brackets, as quay.io once sent it:
# /v2/team/app/tags/list?last=b; rel="next" (heroku/docker-registry-client#11)
_TARGET = expression(r"<([^<>]+)>|([^\s<>,;\"]+)")
# ; rel="next"  ; rel=next  ; title="a, b; c"  ; and a ; that nothing follows
_PARAMETER = expression(
    r"\s*;\s*(?:([!#$%&'*+\-.^_`|~0-9A-Za-z]+)\s*"
    r"(?:=\s*(?:\"((?:[^\"\\]|\\.)*)\"|([^\s,;\"]*)))?)?",
    re.DOTALL,
)
_ESCAPED = expression(r"\\(.)", re.DOTALL)
_BETWEEN = expression(r"[\s,]*")
_SPACE = expression(r"\s*")


class _Link(NamedTuple):
    """One link; *relations* is None when the header does not say what it leads to."""

    target: str
    relations: tuple[str, ...] | None


def next_target(lines: Iterable[str]) -> str | None:
    """What the *lines* of a Link header give as the next page; None without one.

    A link in angle brackets without a ``rel`` counts as the next page, as skopeo and
    crane take it, unless another link says that it is. Raises ContentMismatch when it
    is not clear which page comes next.
    """
    links = [link for line in lines for link in _links(line)]
    found = {link.target for link in links if "next" in (link.relations or ())}
    found = found or {link.target for link in links if link.relations is None}
    if len(found) > 1:
        raise ContentMismatch(f"several next pages: {one_line(' '.join(found), 160)!r}")
    return next(iter(found), None)


def _links(line: str) -> Iterator[_Link]:
    position = _after(_BETWEEN, line, 0)
    while position < len(line):
        target = _TARGET.match(line, position)
        if target is None:
            raise _unreadable(line)
        parameters, position = _parameters(line, target.end())
        if position < len(line) and line[position] != ",":
            raise _unreadable(line)
        relations = parameters.get("rel")
        if relations is None and target[1] is None:
            raise _unreadable(line)
        words = None
        if relations is not None:  # 'next' in single quotes is meant as next
            words = tuple(relations.lower().replace("'", "").split())
        yield _Link((target[1] or target[2]).strip(), words)
        position = _after(_BETWEEN, line, position)


def _parameters(line: str, position: int) -> tuple[dict[str, str], int]:
    """Names, lower case, and values from *position* on, and where they end.

    The first of two equal names counts (RFC 8288, 3.3).
    """
    found: dict[str, str] = {}
    while match := _PARAMETER.match(line, position):
        name, quoted, bare = match.groups()
        if name is not None:
            text = bare or "" if quoted is None else _ESCAPED.sub(r"\1", quoted)
            found.setdefault(name.lower(), text)
        position = match.end()
    return found, _after(_SPACE, line, position)


def _after(pattern: re.Pattern[str], line: str, position: int) -> int:
    match = pattern.match(line, position)
    return match.end() if match else position


def _unreadable(line: str) -> ContentMismatch:
    shown = one_line(line, 160)
    return ContentMismatch(f"an invalid Link header: {shown!r}")


class Page(NamedTuple):
    """One page: the *url* that it came from, and that of the *following* one."""

    content: bytes
    url: str
    following: str | None

    @classmethod
    def of(cls, response: Answer) -> Page:
        """The page that *response* brings. Raises what `next_page` does."""
        content = response.read_json("a list")
        return cls(content, response.url, next_page(response))


class Listed(NamedTuple):
    """What is on a page, and the *odd* entries on it that cannot be understood."""

    found: list[Any]
    odd: list[str]


def read_pages(
    repository: str,
    first: str,
    read: Callable[[str], Page],
    parse: Callable[[bytes], Listed],
    *,
    on_event: OnEvent = ignore,
) -> Iterator[list[Any]]:
    """What *parse* finds on the page *first* and on those that its links lead to.

    Odd entries are skipped, with one warning for all of them. Raises ContentMismatch
    for pages that never end. A page without anything on it may lead back: what there
    is was read.
    """
    where, seen, odd = first, set[bytes](), _Odd()
    counted = _Counted(repository)
    while True:
        counted.check()
        page = read(where)
        entries, digest = parse(page.content), _mark(page.content)
        counted.take(page, entries)
        repeated = bool(entries.found) and digest in seen
        seen |= {_mark(page.url), _mark(where), digest}
        is_back = page.following is not None and _mark(page.following) in seen
        if repeated or (entries.found and is_back):
            raise _endless(repository)
        odd.add(entries.odd)
        yield entries.found
        if page.following is None or is_back:
            if odd.count:
                on_event(Notice(odd.notice(repository), warning=True))
            return
        where = page.following


class _Counted:
    """What of one list has come. Raises ContentMismatch for one that has no end."""

    def __init__(self, repository: str) -> None:
        self._repository = repository
        self._end = time.monotonic() + MOST_SECONDS
        self._pages = self._bytes = self._listed = 0

    def take(self, page: Page, entries: Listed) -> None:
        """Count what is on *page*, the *entries*."""
        self._pages += 1
        self._bytes += len(page.content)
        self._listed += len(entries.found) + len(entries.odd)

    def check(self) -> None:
        """Nothing, when one more page may be read."""
        for is_over, much in (
            (self._pages >= MOST_PAGES, f"{MOST_PAGES} pages"),
            (self._listed > MOST_LISTED, f"{MOST_LISTED} entries"),
            (self._bytes > MOST_BYTES, f"{MOST_BYTES >> 20} MiB"),
            (time.monotonic() > self._end, f"{MOST_SECONDS:.0f} s"),
        ):
            if is_over:
                raise ContentMismatch(
                    f"listing {self._repository}: the list did not end after {much}; "
                    "name the images instead, or report it to the registry's operator"
                )


class _Odd:
    """Entries that cannot be understood: their *count*, and the first of them."""

    def __init__(self) -> None:
        self.count = 0
        self._first = ""

    def add(self, entries: list[str]) -> None:
        if entries and not self.count:
            self._first = entries[0]
        self.count += len(entries)

    def notice(self, repository: str) -> str:
        more = f" and {self.count - 1} more" if self.count > 1 else ""
        return (
            f"listing {repository}: skipped {one_line(self._first, 80)!r}{more}: the "
            "registry lists it, but it is not valid"
        )


def _mark(text: str | bytes) -> bytes:
    """What is kept of a URL or a page, to know it again."""
    raw = text.encode(errors="replace") if isinstance(text, str) else text
    return hashlib.sha256(raw).digest()


def read_catalog(
    registry: str, read: Callable[[str], Page], *, on_event: OnEvent
) -> Iterator[list[str]]:
    """The repositories of *registry*, in pages of 1000 or of the size that it likes."""
    for wanted in ("1000", ""):
        where = "/v2/_catalog" + query(n=wanted)
        pages = read_pages(registry, where, read, parse_repositories, on_event=on_event)
        try:
            first = next(pages, [])
        except RegistryError as error:
            if error.status != 400 or not wanted:
                raise
            continue
        yield first
        yield from pages
        return


def query(**parameters: str) -> str:
    """``?name=value&...`` of those that have a value, or ""."""
    given = {name: value for name, value in parameters.items() if value}
    return "?" + urlencode(given) if given else ""


def next_page(response: Answer) -> str | None:
    """The URL that the Link header of *response* gives for the next page, or None.

    Raises NetworkError when it leads away from the registry, ContentMismatch when it
    cannot be understood.
    """
    where = shown_name(response.host, response.url)
    try:
        target = next_target(response.header_lines("Link"))
    except ContentMismatch as error:
        raise ContentMismatch(
            f"{where}: the registry sent {error}, so the rest of the list is unknown; "
            "report it to the registry's operator"
        ) from error
    if target is None:
        return None
    url = resolve_own(target, response.url)
    if not same_origin(url, response.url):
        raise NetworkError(
            f"{where}: the registry sends the next page of the list to another host; "
            "report it to the registry's operator"
        )
    return url


def _endless(repository: str) -> ContentMismatch:
    return ContentMismatch(
        f"listing {repository}: the registry gives the same page again and again, so "
        "the rest of the list is unknown; report it to the registry's operator"
    )


def referrers_tag(subject: Digest) -> str:
    """The tag of the list that clients keep (distribution-spec, Referrers Tag Schema).

    ``sha256-<hex>``: neither part is longer than the specification allows.
    """
    return f"{subject.algorithm[:32]}-{subject.hex[:64]}"


def parse_tags(content: bytes) -> Listed:
    """The tags in one page; null is none. Raises InvalidJSON."""
    return _names(content, "tags", is_tag)


def parse_repositories(content: bytes) -> Listed:
    """The repositories in one page of the catalog, as `parse_tags`."""
    return _names(content, "repositories", _REPOSITORY.fullmatch)


def _names(content: bytes, key: str, is_one: Callable[[str], object]) -> Listed:
    record = parse_json(content, key, {"name": None, key: None})
    if record is None:
        return Listed([], [])
    listed = Listed([], [])
    for name in optional(require(record, dict, key), key, list, key) or []:
        fits = isinstance(name, str) and is_one(name)
        (listed.found if fits else listed.odd).append(name if fits else str(name))
    return listed


def parse_listed(content: bytes) -> Listed:
    """As `parse_referrers`, from the endpoint that lists them.

    Raises InvalidJSON also for null: whoever answers so does not know.
    """
    record = parse_json(content, "referrers", DOCUMENT)
    if not isinstance(record, dict) or record.get("manifests") is None:
        raise InvalidJSON("referrers: no list")
    return parse_referrers(content)


def bounded(what: str) -> Callable[[bytes], Listed]:
    """As `parse_listed`, for the pages of one list that is held. Raises what Walk does.

    *what* is listed.
    """
    walk = Walk(what)

    def parse(content: bytes) -> Listed:
        walk.takes(content)
        return parse_listed(content)

    return parse


def parse_referrers(content: bytes) -> Listed:
    """The manifests in an index of referrers. Raises InvalidJSON."""
    record = require(parse_json(content, "referrers", DOCUMENT), dict, "referrers")
    listed = Listed([], [])
    for entry in optional(record, "manifests", list, "referrers") or []:
        try:
            listed.found.append(Descriptor.from_json(entry, "referrers"))
        except (InvalidJSON, InvalidDigest) as error:
            listed.odd.append(str(error))
    return listed


def tagged_or_none(
    read: Read, repository: str, digest: Digest, on_event: OnEvent
) -> list[Descriptor]:
    """What the tag lists; nothing, with a warning, when it lists something else."""
    try:
        raw = tagged_referrers(read, repository, digest)
        return parse_referrers(raw).found if raw else []
    except InvalidJSON as error:
        on_event(Notice(f"{error}: ignored", warning=True))
        return []


def tagged_referrers(read: Read, repository: str, digest: Digest) -> bytes | None:
    """The index under `referrers_tag` of *digest*, None when there is none.

    Raises InvalidJSON when something else has that tag.
    """
    tag = referrers_tag(digest)
    try:
        found, raw = read(repository, tag)
    except NotFoundInRegistry:
        return None
    if digest.fits(raw):
        return None  # a registry that takes the tag for the digest
    if found.media_type not in INDEX_TYPES:
        raise InvalidJSON(f"{repository}:{tag} is not a list of referrers")
    return raw
