"""The endpoints that list: tags and referrers, page by page."""

from __future__ import annotations

import re
from typing import Iterator

from ..errors import InvalidJSON, NetworkError, NotFoundInRegistry
from ..oci import Descriptor, Digest, Index, optional, parse_json, require
from .calls import query
from .locations import resolve_location
from .manifests import ManifestCalls
from .origins import same_origin
from .session import Call
from .transport import Response

MOST_PAGES = 10_000

_NEXT = re.compile(r'<([^<>]*)>\s*;[^,<]*\brel\s*=\s*"?next\b"?', re.IGNORECASE)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


class ListCalls(ManifestCalls):
    """Lists (distribution-spec, Content Discovery)."""

    def tags(
        self, repository: str, *, last: str = "", page_size: int = 1000
    ) -> Iterator[str]:
        """The tags of *repository* in the registry's order, those after *last*.

        Raises InvalidJSON for an answer that is no list of tags.
        """
        tail = "tags/list" + query(n=str(page_size), last=last)
        for content, _ in self._pages(repository, tail):
            yield from parse_tags(content)

    def referrers(
        self, repository: str, digest: Digest, artifact_type: str | None = None
    ) -> tuple[Descriptor, ...]:
        """The manifests that have *digest* as their subject (Listing Referrers).

        A registry that does not know the endpoint is asked for the tag
        ``sha256-<hex>`` instead. Raises InvalidJSON.
        """
        tail = f"referrers/{digest}" + query(artifactType=artifact_type or "")
        found: list[Descriptor] = []
        try:
            for content, _ in self._pages(repository, tail):
                found += parse_referrers(content)
        except NotFoundInRegistry:
            found = self._referrers_by_tag(repository, digest)
        return tuple(one for one in found if artifact_type in (None, one.artifact_type))

    def _referrers_by_tag(self, repository: str, digest: Digest) -> list[Descriptor]:
        tag = f"{digest.algorithm}-{digest.hex[:64]}"
        try:
            return parse_referrers(self.read_manifest(repository, tag)[1])
        except NotFoundInRegistry:
            return []

    def _pages(self, repository: str, tail: str) -> Iterator[tuple[bytes, str]]:
        """(body, URL) of a list and the pages that its Link headers lead to."""
        call = self._call("GET", repository, tail, (200,))
        seen: set[str] = set()
        for _ in range(MOST_PAGES):
            content, url, following = self._retrying(
                lambda call=call: self._page(call),  # type: ignore[misc]
                f"listing {repository}",
            )
            yield content, url
            if following is None or following in seen:
                return
            seen.add(following)
            call = self._call("GET", repository, following, (200,))

    def _page(self, call: Call) -> tuple[bytes, str, str | None]:
        with self._session.send(call) as response:
            content = response.read_json("a list")
            return content, response.url, next_page(response)


def next_page(response: Response) -> str | None:
    """The URL that the Link header of *response* gives for the next page, or None.

    Raises NetworkError when it leads away from the registry.
    """
    match = _NEXT.search(response.header("Link") or "")
    if match is None:
        return None
    url = resolve_location(match[1], response.url)
    if not same_origin(url, response.url):
        raise NetworkError(
            f"{response.url.partition('?')[0]}: the next page is elsewhere"
        )
    return url


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
