"""URLs that a registry gives: pages, uploads, redirects, and traps in them; pure.

A Location may be relative, absolute, without a scheme, on another host, with a port
lost, or ``http://`` because a proxy ended the TLS (distribution#996, #2862). Its query
is the session's state: it is never taken apart, only appended to.

Link headers (RFC 8288): which page of a list comes next; pure.

A list that is taken for whole although it is a part does harm in silence. So a header
is understood in full or refused: there is no "no next page" for want of understanding.

Where a URL leads, and whether we may go there; pure, but for the resolver passed in.

Rules: two URLs have one origin when scheme, host and effective port are the same
(RFC 6454); a subdomain is another host. A host that the user did not name may not lead
us to an address closer to us than the registry itself is (loopback, link-local,
private): otherwise any registry could make us talk to this machine or to a cloud's
metadata service. The address is checked, not the name (ggcr#2440).
"""

from __future__ import annotations

import enum
import ipaddress
import re
import socket
from typing import Any, Callable, Iterable, Iterator, NamedTuple
from urllib.parse import quote, urljoin

from ..errors import ContentMismatch, NetworkError
from ..expressions import expression
from ..oci import Digest
from ..values import field, value
from .debug import one_line, show_url

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
    cannot be told which page comes next.
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
    return ContentMismatch(f"a Link header that cannot be read: {shown!r}")


DEFAULT_PORTS = {"http": 80, "https": 443}


class Address(NamedTuple):
    """A socket family and what `socket.connect` takes for it."""

    family: int
    target: tuple[Any, ...]

    @property
    def ip(self) -> str:
        """The IP literal."""
        return str(self.target[0])


Resolver = Callable[[str, int], "list[Address]"]
"""(host, port) → addresses to try, in order. Raises OSError (socket.gaierror)."""

_URL = expression(
    r"(?P<scheme>[Hh][Tt][Tt][Pp][Ss]?)://"
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_.])?)"
    r"(?::(?P<port>[0-9]{1,5})?)?"
    r"(?P<target>[/?][\x21-\x22\x24-\x7e]*)?"
    r"(?:\#.*)?",
    re.DOTALL,
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


@value
class Origin:
    """Scheme, host and effective port; *host* is lower case and without brackets."""

    scheme: str
    host: str
    port: int

    @property
    def host_port(self) -> str:
        """``host[:port]`` as people write it: no default port, IPv6 in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = DEFAULT_PORTS[self.scheme] == self.port
        return host if default else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host_port}"


@value
class Place:
    """A URL in two parts; *target* is path and query, never changed on the way."""

    origin: Origin
    target: str

    @classmethod
    def parse(cls, url: str) -> Place:
        """From an absolute URL; a fragment is dropped.

        Raises NetworkError for anything else, also for one with a user name in it.
        """
        match = _URL.fullmatch(url)
        port = int(match["port"]) if match and match["port"] else None
        if match is None or (port is not None and not 0 < port < 65536):
            raise NetworkError(f"not a URL that can be followed: {one_line(url, 80)!r}")
        scheme = match["scheme"].lower()
        host = match["host"].strip("[]").lower()
        target = match["target"] or "/"
        return cls(
            Origin(scheme, host, port or DEFAULT_PORTS[scheme]),
            target if target.startswith("/") else "/" + target,
        )

    @property
    def url(self) -> str:
        """The whole URL."""
        return f"{self.origin}{self.target}"


def same_origin(one: str, other: str) -> bool:
    """True when the absolute URLs *one* and *other* have one origin."""
    return Place.parse(one).origin == Place.parse(other).origin


class Nearness(enum.Enum):
    """How close to us an address is."""

    PUBLIC = "public"
    PRIVATE = "private"
    LINK_LOCAL = "link-local"
    LOOPBACK = "loopback"


def nearness(address: str) -> Nearness:
    """Where the IP literal *address* is; IPv4 inside IPv6 counts as itself."""
    ip = _unwrapped(ipaddress.ip_address(address.partition("%")[0]))
    if ip.is_loopback or ip.is_unspecified:
        return Nearness.LOOPBACK
    if ip.is_link_local:
        return Nearness.LINK_LOCAL
    return Nearness.PUBLIC if ip.is_global else Nearness.PRIVATE


def _unwrapped(
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    if ip in _NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour or ip


def resolve(host: str, port: int) -> list[Address]:
    """The addresses of *host*, by the system. Raises OSError (socket.gaierror)."""
    # a str would have Python load its tables for IDNA; hosts of URLs are ASCII
    name = host.encode("ascii") if host.isascii() else host
    found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    return [Address(family, target) for family, _, _, _, target in found]


def is_loopback(host: str) -> bool:
    """True for names and literals that can only mean this machine (RFC 6761)."""
    name = host.strip("[]").lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def allowed_from(home: Iterable[Address]) -> frozenset[Nearness]:
    """How near a foreign host may be when the registry is at the addresses *home*."""
    there = {nearness(address.ip) for address in home}
    if Nearness.LOOPBACK in there:
        there.add(Nearness.PRIVATE)
    return frozenset(there | {Nearness.PUBLIC})


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
