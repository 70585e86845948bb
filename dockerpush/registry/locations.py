"""URLs that a registry gives: pages, uploads, redirects, and traps in them; pure.

A Location may be relative, absolute, without a scheme, on another host, with a port
lost, or ``http://`` because a proxy ended the TLS (distribution#996, #2862). Its query
is the session's state: it is never taken apart, only appended to.

Where a URL leads, and whether we may go there; pure, but for the resolver passed in.

Rules: two URLs have one origin when scheme, host and effective port are the same
(RFC 6454); a subdomain is another host. A host that the user did not name may not lead
us to an address closer to us than the registry itself is (loopback, link-local,
private): otherwise any registry could make us talk to this machine or to a cloud's
metadata service. The address is checked, not the name (ggcr#2440).
"""

from __future__ import annotations

import enum
import functools
import ipaddress
import re
import socket
from typing import Any, Callable, Iterable, NamedTuple
from urllib.parse import urljoin

from ..errors import NetworkError
from ..expressions import expression
from ..values import value
from .debug import one_line, show_url

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
_LOOPBACK = ("0.0.0.0/32", "127.0.0.0/8", "::/127")
_LINK_LOCAL = ("169.254.0.0/16", "fe80::/10")
_GLOBAL_IPV6 = ("2000::/3",)
_PRIVATE = (
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16"),
    *("192.0.0.0/24", "192.0.2.0/24", "198.18.0.0/15", "198.51.100.0/24"),
    *("192.88.99.0/24", "203.0.113.0/24", "224.0.0.0/3"),
    *("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"),
)
"""What is not reached across the internet: IANA's registries of special-purpose
addresses, and multicast. Python's own tables differ from version to version."""

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
class UrlParts:
    """A URL in two parts; *target* is path and query, never changed on the way."""

    origin: Origin
    target: str

    @classmethod
    def parse(cls, url: str) -> UrlParts:
        """From an absolute URL; a fragment is dropped.

        Raises NetworkError for anything else, also for one with a user name in it.
        """
        return _parsed(url)

    @property
    def url(self) -> str:
        """The whole URL."""
        return f"{self.origin}{self.target}"


@functools.lru_cache(maxsize=64)  # one request asks several times
def _parsed(url: str) -> UrlParts:
    match = _URL.fullmatch(url)
    port = int(match["port"]) if match and match["port"] else None
    is_port = port is None or 0 < port < 65536
    if match is None or not is_port or not _is_host(match["host"]):
        raise NetworkError(f"not a URL that can be followed: {one_line(url, 80)!r}")
    scheme = match["scheme"].lower()
    host = match["host"].strip("[]").lower()
    target = match["target"] or "/"
    return UrlParts(
        Origin(scheme, host, port or DEFAULT_PORTS[scheme]),
        target if target.startswith("/") else "/" + target,
    )


def _is_host(host: str) -> bool:
    """False for brackets around what is no IPv6 address, as in ``[192.0.2.1]``."""
    try:
        return not host.startswith("[") or bool(ipaddress.IPv6Address(host[1:-1]))
    except ValueError:
        return False


def joined(base: str, part: str) -> str:
    """The absolute URL that *part*, found at *base*, means (RFC 3986, 5).

    Raises NetworkError for one that Python cannot read, such as ``http://[``.
    """
    try:
        return urljoin(base, part)
    except ValueError:
        shown = one_line(part, 80)
        raise NetworkError(f"not a URL that can be followed: {shown!r}") from None


def same_origin(one: str, other: str) -> bool:
    """True when the absolute URLs *one* and *other* have one origin."""
    return UrlParts.parse(one).origin == UrlParts.parse(other).origin


class AddressScope(enum.Enum):
    """How close to us an address is."""

    PUBLIC = "public"
    PRIVATE = "private"
    LINK_LOCAL = "link-local"
    LOOPBACK = "loopback"


def address_scope(address: str) -> AddressScope:
    """Where the IP literal *address* is; IPv4 inside IPv6 counts as itself."""
    ip = _unwrapped(ipaddress.ip_address(address.partition("%")[0]))
    if _is_among(ip, _LOOPBACK):
        return AddressScope.LOOPBACK
    if _is_among(ip, _LINK_LOCAL):
        return AddressScope.LINK_LOCAL
    is_near = _is_among(ip, _PRIVATE)
    is_near = is_near or (ip.version == 6 and not _is_among(ip, _GLOBAL_IPV6))
    return AddressScope.PRIVATE if is_near else AddressScope.PUBLIC


def _is_among(
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address, networks: Iterable[str]
) -> bool:
    return any(ip in ipaddress.ip_network(network) for network in networks)


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
        ip = ipaddress.ip_address(name)
        return ip.is_loopback and getattr(ip, "ipv4_mapped", None) is None
    except ValueError:
        return False


def allowed_from(home: Iterable[Address]) -> frozenset[AddressScope]:
    """How near a foreign host may be when the registry is at the addresses *home*."""
    there = {address_scope(address.ip) for address in home}
    if AddressScope.LOOPBACK in there:
        there.add(AddressScope.PRIVATE)
    return frozenset(there | {AddressScope.PUBLIC})


def resolve_location(location: str, request_url: str) -> str:
    """The absolute URL that a *location* means in the answer to *request_url*.

    It is taken as it stands. Raises NetworkError for what is no URL, and for one that
    leads from https to http.
    """
    here = UrlParts.parse(request_url).origin
    place = UrlParts.parse(_absolute(location.strip(), request_url))
    if here.scheme == "https" and place.origin.scheme == "http":
        raise NetworkError(
            f"{here} redirects from https to {show_url(place.url)}: dockerpush does "
            "not follow, because others could read the data; configure https in the "
            "registry, or in the proxy in front of it"
        )
    return place.url


def resolve_own(location: str, request_url: str) -> str:
    """As `resolve_location`, for a URL of the registry's own API, below ``/v2/``.

    A proxy that ends the TLS makes it lose its port (distribution#2862) or name http
    (distribution#996): on the request's own host both are put right.
    """
    here = UrlParts.parse(request_url).origin
    place = UrlParts.parse(_absolute(location.strip(), request_url))
    there = place.origin
    downgrade = here.scheme == "https" and there.scheme == "http"
    lost_port = (
        there.scheme == here.scheme and there.port == DEFAULT_PORTS[there.scheme]
    )
    is_own = there.host == here.host and place.target.startswith("/v2/")
    if is_own and (downgrade or lost_port):
        return f"{here}{place.target}"
    return resolve_location(location, request_url)


def _absolute(location: str, request_url: str) -> str:
    origin = UrlParts.parse(request_url).origin
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
    return joined(request_url.partition("?")[0], head) + mark + query
