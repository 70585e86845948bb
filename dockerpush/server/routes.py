"""Which endpoint of the distribution-spec a request is for, and lists in pages; pure.

A list that was cut has a Link to the next page (Content Discovery).
"""

from __future__ import annotations

import enum
from typing import Any, Iterable, Sequence
from urllib.parse import parse_qs, quote, unquote, urlencode

from ..expressions import expression
from ..oci import JSON_LIMIT, dump_json
from ..values import value
from .checked_names import Repository
from .messages import NAME_UNKNOWN, UNSUPPORTED, ProtocolError, Request, parse_count


class Resource(enum.Enum):
    """What a path names."""

    BASE = "base"
    CATALOG = "catalog"
    BLOB = "blob"
    UPLOADS = "uploads"
    UPLOAD = "upload"
    MANIFEST = "manifest"
    TAGS = "tags"
    REFERRERS = "referrers"


@value
class Route:
    """A resource of *repository*; *item* is a digest, reference or session, unchecked.

    *repository* is None for what belongs to no repository.
    """

    resource: Resource
    repository: Repository | None = None
    item: str = ""


_PATTERNS = (
    (Resource.UPLOADS, expression(r"(.+)/blobs/uploads/?()")),
    (Resource.UPLOAD, expression(r"(.+)/blobs/uploads/([^/]+)")),
    (Resource.BLOB, expression(r"(.+)/blobs/([^/]+)")),
    (Resource.MANIFEST, expression(r"(.+)/manifests/([^/]+)")),
    (Resource.TAGS, expression(r"(.+)/tags/list()")),
    (Resource.REFERRERS, expression(r"(.+)/referrers/([^/]+)")),
)

METHODS = {
    Resource.BASE: ("GET", "HEAD"),
    Resource.CATALOG: ("GET", "HEAD"),
    Resource.BLOB: ("GET", "HEAD", "DELETE"),
    Resource.UPLOADS: ("POST",),
    Resource.UPLOAD: ("GET", "HEAD", "PATCH", "PUT", "DELETE"),
    Resource.MANIFEST: ("GET", "HEAD", "PUT", "DELETE"),
    Resource.TAGS: ("GET", "HEAD"),
    Resource.REFERRERS: ("GET", "HEAD"),
}
"""The methods that an endpoint knows."""


def split_target(target: str) -> tuple[str, dict[str, list[str]]]:
    """The decoded path of a request target, and the values of its query.

    Raises ProtocolError (400) for a query with absurdly many fields.
    """
    path, _, query = target.partition("?")
    try:
        return unquote(path), parse_qs(query, keep_blank_values=True, max_num_fields=64)
    except ValueError as error:
        raise ProtocolError(400, UNSUPPORTED, f"bad query: {error}") from error


def parse_route(path: str) -> Route:
    """The route of a decoded path. Raises ProtocolError: 404, or a bad name."""
    if path in ("/v2", "/v2/"):
        return Route(Resource.BASE)
    if path == "/v2/_catalog":
        return Route(Resource.CATALOG)
    rest = path[len("/v2/") :] if path.startswith("/v2/") else ""
    for resource, pattern in _PATTERNS:
        match = pattern.fullmatch(rest)
        if match is not None:
            return Route(resource, Repository(match[1]), match[2])
    raise ProtocolError(404, NAME_UNKNOWN, f"no such endpoint: {path[:160]!r}")


def check_method(route: Route, method: str) -> None:
    """Raises ProtocolError (405) when the endpoint does not know *method*."""
    known = METHODS[route.resource]
    if method not in known:
        headers = {"Allow": ", ".join(known)}
        message = f"{method} is not for this endpoint"
        raise ProtocolError(405, UNSUPPORTED, message, headers=headers)


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
    request: Request, entries: Iterable[dict[str, Any]]
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The *entries*, sorted by digest, that fit into one index, and its headers.

    ``artifactType`` is a filter, and ``last`` the digest where the next page begins.
    """
    kind = request.parameter("artifactType")
    headers = {} if kind is None else {"OCI-Filters-Applied": "artifactType"}
    page: list[dict[str, Any]] = []
    room = JSON_LIMIT - 1024
    for entry in entries:
        if kind is not None and entry.get("artifactType") != kind:
            continue
        room -= len(dump_json(entry)) + 1
        if room < 0 and page:
            query = {"last": str(page[-1]["digest"])}
            filtered = query if kind is None else {"artifactType": kind, **query}
            return page, headers | _link(request, filtered)
        page.append(entry)
    return page, headers


def _link(request: Request, query: dict[str, str]) -> dict[str, str]:
    """The header that points to the next page (RFC 8288)."""
    return {"Link": f'<{quote(request.path)}?{urlencode(query)}>; rel="next"'}
