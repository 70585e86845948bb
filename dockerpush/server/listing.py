"""Lists in pages, with a Link to the next (distribution-spec, Content Discovery)."""

from __future__ import annotations

from typing import Any, Sequence
from urllib.parse import quote, urlencode

from ..oci import JSON_LIMIT, dump_json
from .messages import Request, parse_count


def page_of_names(
    request: Request, names: Sequence[str]
) -> tuple[list[str], dict[str, str]]:
    """The *names*, which are sorted, that ``n`` and ``last`` ask for, and headers."""
    count, last = parse_count(request.parameter("n")), request.parameter("last")
    rest = [name for name in names if last is None or name > last]
    page = rest if count is None else rest[:count]
    if not page or len(page) == len(rest):
        return page, {}
    return page, _link(request, {"n": str(count), "last": page[-1]})


def page_of_referrers(
    request: Request, entries: Sequence[dict[str, Any]]
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The *entries*, sorted by digest, that fit into one index, and headers.

    ``artifactType`` is a filter, and ``last`` the digest where the last page ended.
    """
    kind, last = request.parameter("artifactType"), request.parameter("last")
    headers = {} if kind is None else {"OCI-Filters-Applied": "artifactType"}
    rest = [
        entry
        for entry in entries
        if (kind is None or entry.get("artifactType") == kind)
        and (last is None or entry["digest"] > last)
    ]
    page = rest[: _fitting(rest)]
    if len(page) < len(rest):
        query = {"last": page[-1]["digest"]}
        headers |= _link(
            request, query if kind is None else {"artifactType": kind, **query}
        )
    return page, headers


def _fitting(entries: Sequence[dict[str, Any]]) -> int:
    """How many entries, at least one, stay below the limit of a manifest."""
    room = JSON_LIMIT - 1024
    for number, entry in enumerate(entries):
        room -= len(dump_json(entry)) + 1
        if room < 0:
            return max(number, 1)
    return len(entries)


def _link(request: Request, query: dict[str, str]) -> dict[str, str]:
    """The header that points to the next page (RFC 8288)."""
    return {"Link": f'<{quote(request.path)}?{urlencode(query)}>; rel="next"'}
