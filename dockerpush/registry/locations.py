"""Upload sessions as values, and the traps in the headers that describe them; pure.

A Location may be relative, absolute, without a scheme, on another host, with a port
lost, or ``http://`` because a proxy ended the TLS (distribution#996, #2862). Its query
is the session's state: it is never taken apart, only appended to.
"""

from __future__ import annotations

import re
from urllib.parse import quote, urljoin

from ..errors import NetworkError
from ..expressions import expression
from ..oci import Digest
from ..values import field, value
from .debug import show_url
from .origins import DEFAULT_PORTS, Place


@value
class Upload:
    """An open upload session.

    *location* is an absolute URL and a secret: it may carry a signature. *offset* is
    how many bytes the registry has acknowledged. *min_chunk* and *max_chunk* are the
    bytes that it wants in a chunk (OCI-Chunk-Min-Length, OCI-Chunk-Max-Length).
    """

    location: str = field(repr=False)
    offset: int = 0
    min_chunk: int | None = None
    max_chunk: int | None = None


def resolve_location(location: str, request_url: str) -> str:
    """The absolute URL that a *location* means in the answer to *request_url*.

    A Location on the request's own host never changes its scheme from https to http,
    and never loses its port. Raises NetworkError for what is no URL, and for one that
    would leave https for another host's http.
    """
    here = Place.parse(request_url).origin
    place = Place.parse(_absolute(location.strip(), request_url))
    there = place.origin
    downgrade = here.scheme == "https" and there.scheme == "http"
    if there.host == here.host:
        lost_port = (
            there.scheme == here.scheme and there.port == DEFAULT_PORTS[there.scheme]
        )
        return f"{here}{place.target}" if downgrade or lost_port else place.url
    if downgrade:
        raise NetworkError(
            f"{here} leads from https to {show_url(place.url)}; refused, since what "
            "is sent there could be read on the way"
        )
    return place.url


def _absolute(location: str, request_url: str) -> str:
    origin = Place.parse(request_url).origin
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", location):
        return location
    if location.startswith("//"):
        return f"{origin.scheme}:{location}"
    if location.startswith("/"):
        return f"{origin}{location}"
    if location.startswith("?"):
        return request_url.partition("?")[0] + location
    host, _, path = location.partition("/")
    if host in (origin.host, origin.host_port) or path.startswith("v2/"):
        return f"{origin.scheme}://{location}"
    head, mark, query = location.partition("?")
    return urljoin(request_url.partition("?")[0], head) + mark + query


def with_digest(location: str, digest: Digest) -> str:
    """*location* with the ``digest`` that closes an upload, the rest untouched."""
    joint = "&" if "?" in location else "?"
    if location.endswith(("?", "&")):
        joint = ""
    return f"{location}{joint}digest={quote(digest, safe='')}"


_RANGE = expression(r"(?:bytes[= ])?0*?([0-9]{1,18})-(-?[0-9]{1,18})")


def reported_offset(value: str | None) -> int | None:
    """The bytes that a Range header of a session speaks of; None for none.

    ``0--1`` and ``0-0`` mean an empty session: the one is Gitea's and Quay's way, the
    other that of distribution 2, which also says so of one byte; a session with one
    byte is not worth keeping.
    """
    match = _RANGE.fullmatch((value or "").strip())
    if match is None:
        return None
    last = int(match[2])
    return 0 if last <= 0 else last + 1


def acknowledged(value: str | None, start: int, size: int) -> int:
    """The offset after a PATCH of *size* bytes at *start* was answered with success.

    A Range header that says less counts, if it lies inside the chunk; one that cannot
    be true (per chunk: Aliyun, regclient#627; one too many: Quay) does not.
    """
    reported = reported_offset(value)
    if reported is not None and start < reported < start + size:
        return reported
    return start + size


def chunk_length(value: str | None) -> int | None:
    """Bytes in OCI-Chunk-Min-Length or OCI-Chunk-Max-Length; None for none."""
    text = (value or "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None
