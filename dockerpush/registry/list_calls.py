"""The endpoints that list: tags and referrers, page by page."""

from __future__ import annotations

from typing import Callable, Iterator, TypeVar

from ..errors import ContentMismatch, InvalidJSON, NetworkError, NotFoundInRegistry
from ..expressions import expression
from ..oci import Descriptor, Digest, Index, optional, parse_json, require
from .calls import query
from .debug import show_url
from .http_session import Call
from .locations import next_target, resolve_location, same_origin
from .manifest_calls import ManifestCalls
from .transport import Response

T = TypeVar("T")

MOST_PAGES = 10_000
"""Pages of one list that are read; more of them have no end."""

_TAG = expression(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


class ListCalls(ManifestCalls):
    """Lists (distribution-spec, Content Discovery)."""

    def tags(
        self, repository: str, *, last: str = "", page_size: int = 1000
    ) -> Iterator[str]:
        """The tags of *repository* in the registry's order, those after *last*.

        Raises InvalidJSON for an answer that is no list of tags, ContentMismatch when
        the registry does not say clearly which page comes next.
        """
        tail = "tags/list" + query(n=str(page_size), last=last)
        for page in self._pages(repository, tail, parse_tags):
            yield from page

    def referrers(
        self, repository: str, digest: Digest, artifact_type: str | None = None
    ) -> tuple[Descriptor, ...]:
        """The manifests that have *digest* as their subject (Listing Referrers).

        A registry that does not know the endpoint is asked for the tag
        ``sha256-<hex>`` instead. Raises what `tags` does.
        """
        tail = f"referrers/{digest}" + query(artifactType=artifact_type or "")
        pages = self._pages(repository, tail, parse_referrers)
        try:
            found = list(next(pages, []))
        except NotFoundInRegistry:
            raw = self.tagged_referrers(repository, digest)
            found = parse_referrers(raw) if raw else []
        for page in pages:
            found += page
        return tuple(one for one in found if artifact_type in (None, one.artifact_type))

    def lists_referrers(self, repository: str, digest: Digest) -> bool:
        """True when the registry knows the endpoint that lists those of *digest*.

        Raises what `tags` does.
        """
        try:
            next(self._pages(repository, f"referrers/{digest}", parse_referrers))
        except NotFoundInRegistry:
            return False
        return True

    def tagged_referrers(self, repository: str, digest: Digest) -> bytes | None:
        """The index under `referrers_tag` of *digest*, None when there is none."""
        try:
            return self.read_manifest(repository, referrers_tag(digest))[1]
        except NotFoundInRegistry:
            return None

    def _pages(
        self, repository: str, tail: str, parse: Callable[[bytes], list[T]]
    ) -> Iterator[list[T]]:
        """What *parse* finds in a list and in the pages that its Link headers lead to.

        Raises ContentMismatch for pages that never end. A page without anything on it
        may lead back: what there is was read.
        """
        call = self._call("GET", repository, tail, (200,))
        seen: set[str] = set()
        for _ in range(MOST_PAGES):
            content, url, following = self._retrying(
                lambda call=call: self._page(call),  # type: ignore[misc]
                f"listing {repository}",
            )
            entries = parse(content)
            repeated = bool(entries) and str(Digest.of(content)) in seen
            seen |= {url, call.url, str(Digest.of(content))}
            if repeated or (entries and following in seen):
                raise _endless(repository)
            yield entries
            if following is None or following in seen:
                return
            call = self._call("GET", repository, following, (200,))
        raise _endless(repository)

    def _page(self, call: Call) -> tuple[bytes, str, str | None]:
        with self._session.send(call) as response:
            content = response.read_json("a list")
            return content, response.url, next_page(response)


def next_page(response: Response) -> str | None:
    """The URL that the Link header of *response* gives for the next page, or None.

    Raises NetworkError when it leads away from the registry, ContentMismatch when it
    cannot be understood.
    """
    where = show_url(response.url)
    try:
        target = next_target(response.header_lines("Link"))
    except ContentMismatch as error:
        raise ContentMismatch(
            f"{where}: the registry sent {error}, so the rest of the list is unknown; "
            "report it to the registry's operator"
        ) from error
    if target is None:
        return None
    url = resolve_location(target, response.url)
    if not same_origin(url, response.url):
        raise NetworkError(f"{where}: the next page is elsewhere")
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


def parse_tags(content: bytes) -> list[str]:
    """The tags in one page. Raises InvalidJSON, also for what cannot be a tag."""
    record = require(parse_json(content, "tags"), dict, "tags")
    tags = optional(record, "tags", list, "tags") or []
    for tag in tags:
        if not isinstance(tag, str) or not _TAG.fullmatch(tag):
            raise InvalidJSON(f"tags: not a tag: {str(tag)[:80]!r}")
    return list(tags)


def parse_referrers(content: bytes) -> list[Descriptor]:
    """The manifests in one page. Raises InvalidJSON or InvalidDigest."""
    return list(Index.from_bytes(content).manifests)
