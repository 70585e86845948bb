"""Which proxy a request goes through, from the variables that everybody sets.

Rules, where programs differ: the lower-case variable wins, and an empty one means none;
HTTP_PROXY in capitals is not believed in a CGI program, where a client can set it
(REQUEST_METHOD gives that away); ALL_PROXY comes last. NO_PROXY takes commas and
spaces, ``host``, ``.suffix``, ``*.suffix``, addresses, CIDR blocks, any of them with a
port, and ``*``; names are never looked up. This machine itself is reached directly,
unless a proxy was named for this run. Nothing here does input or output.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from typing import Mapping, Union
from urllib.parse import SplitResult, unquote, urlsplit

from ..credentials.identity import NO_SECRET, Secret
from ..errors import UsageError
from ..values import field, value

_DEFAULT_PORTS = {"http": 80, "https": 443}
_Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]


@value
class Proxy:
    """An HTTP proxy: *url* is ``scheme://host:port``, without credentials.

    *user* is ``user[:password]`` as it stood in the address, percent-encoded; *source*
    says who named the proxy: a variable or ``--proxy``.
    """

    url: str
    user: Secret = NO_SECRET
    source: str = "--proxy"

    def __str__(self) -> str:
        return self.url

    @property
    def authorization(self) -> Secret:
        """The value of Proxy-Authorization (RFC 7617); false without a user."""
        if not self.user:
            return NO_SECRET
        name, _, password = self.user.reveal().partition(":")
        pair = f"{unquote(name)}:{unquote(password)}"
        raw = pair.encode("utf-8", "surrogateescape")
        return Secret("Basic " + base64.b64encode(raw).decode())

    @property
    def address(self) -> Secret:
        """The URL with user and password in it."""
        if not self.user:
            return Secret(self.url)
        return Secret(self.url.replace("://", f"://{self.user.reveal()}@", 1))

    @classmethod
    def parse(cls, text: str, source: str = "--proxy") -> Proxy:
        """From ``[scheme://][user[:password]@]host[:port]``; http is the default.

        Raises UsageError, which names *source* and shows no credentials, for a text
        that is no address, and for a proxy that does not speak HTTP (SOCKS).
        """
        has_scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text)
        parts = _split(text if has_scheme else f"http://{text}")
        scheme = parts.scheme if parts else ""
        if scheme.startswith("socks"):
            raise UsageError(
                f"{source} names a SOCKS proxy ({scheme}), which is not supported: "
                "name an HTTP proxy with --proxy, or exempt the host with --no-proxy"
            )
        port = _port(parts) if parts else None
        if parts is None or scheme not in _DEFAULT_PORTS or not port:
            raise UsageError(
                f"{source} is not the address of a proxy, wanted "
                f"http://[USER:PASSWORD@]HOST:PORT, got {_shown(text)!r}"
            )
        name = parts.hostname or ""
        host = f"[{name}]" if ":" in name else name
        user = Secret(parts.netloc.rpartition("@")[0])
        return cls(f"{scheme}://{host}:{port}", user, source)


@value
class ProxySettings:
    """The proxies in force: *named* by the user for this run, or one for each scheme.

    *exempt* are the entries of NO_PROXY; *notes* say what is odd, for ``--debug``.
    The texts may hold credentials, so they are secrets.
    """

    named: Secret | None = None
    by_scheme: Mapping[str, tuple[str, Secret]] = field(default_factory=dict)
    exempt: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def from_environ(
        cls,
        environ: Mapping[str, str],
        proxy: str | None = None,
        no_proxy: str | None = None,
    ) -> ProxySettings:
        """What *environ* says; *proxy* and *no_proxy* (flags) win, "" means none."""
        found = {scheme: _variable(environ, scheme) for scheme in _DEFAULT_PORTS}
        exempt = no_proxy if no_proxy is not None else _either(environ, "no_proxy")[1]
        return cls(
            None if proxy is None else Secret(proxy),
            {scheme: (name, Secret(text)) for scheme, (name, text) in found.items()},
            tuple(entry.lower() for entry in re.split(r"[\s,]+", exempt) if entry),
            tuple(_conflicts(environ)),
        )

    def proxy_for(self, url: str) -> Proxy | None:
        """The proxy that a request for *url* goes through; None: it goes directly.

        Raises UsageError when the setting that counts here is of no use.
        """
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), _port(parts)
        source, text = self._chosen(parts.scheme, host)
        if not text or any(_exempts(entry, host, port) for entry in self.exempt):
            return None
        return Proxy.parse(text.reveal(), source)

    def address_for(self, url: str) -> str | None:
        """As `proxy_for`, as one URL that holds the proxy's user and password."""
        proxy = self.proxy_for(url)
        return proxy.address.reveal() if proxy else None

    def _chosen(self, scheme: str, host: str) -> tuple[str, Secret]:
        if self.named is not None:
            return "--proxy", self.named
        if _is_loopback(host):
            return "", NO_SECRET
        return self.by_scheme.get(scheme, ("", NO_SECRET))


def refusal(status: int, proxy: str) -> str:
    """One line for a *status* with which *proxy* (``host:port``) itself answered."""
    if status == 407:
        return (
            f"the proxy {proxy} wants a user and a password, or rejected them (407): "
            "use --proxy http://USER:PASSWORD@HOST:PORT"
        )
    if status == 403:
        return (
            f"the proxy {proxy} denied access to this host or port (403): allow it in "
            "the proxy, or bypass the proxy with --no-proxy HOST"
        )
    return f"the proxy {proxy} cannot reach the host ({status}): check its name there"


def _variable(environ: Mapping[str, str], scheme: str) -> tuple[str, str]:
    """Name and text of the variable that counts for *scheme*; ("", "") for none."""
    name = f"{scheme}_proxy"
    if name == "http_proxy" and "REQUEST_METHOD" in environ:
        environ = {key: environ[key] for key in environ if key != "HTTP_PROXY"}
    used, text = _either(environ, name)
    return (used, text) if used else _either(environ, "all_proxy")


def _either(environ: Mapping[str, str], name: str) -> tuple[str, str]:
    for spelling in (name, name.upper()):
        if spelling in environ:
            return spelling, environ[spelling].strip()
    return "", ""


def _conflicts(environ: Mapping[str, str]) -> list[str]:
    """On Windows variables have no case, and never conflict."""
    return [
        f"{name} is used, {name.upper()} differs and is ignored"
        for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
        if name in environ and environ[name] != environ.get(name.upper(), environ[name])
    ]


def _split(url: str) -> SplitResult | None:
    """*url* in parts, when it names a host."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        odd = re.search(r"\s", url) or re.search(r"%(?![0-9A-Fa-f]{2})", host)
        return parts if host and not odd else None
    except ValueError:
        return None


def _port(parts: SplitResult) -> int | None:
    try:
        return parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return None


def _shown(text: str) -> str:
    """*text* without what may be a password."""
    return re.sub(r"^([a-zA-Z0-9+.-]+://)?.*@", r"\1***@", text, flags=re.S)[:100]


def _exempts(entry: str, host: str, port: int | None) -> bool:
    """True when one entry of NO_PROXY refers to this host and port."""
    if entry == "*":
        return True
    address = _address(host)
    if address is not None and _network_holds(entry, address):
        return True
    name, wanted = _without_port(entry)
    if wanted is not None and wanted != port:
        return False
    if address is not None:
        return _address(name) == address
    name = name.lstrip("*") if name.startswith("*.") else name
    if name.startswith("."):
        return host.endswith(name)
    return bool(name) and (host == name or host.endswith("." + name))


def _without_port(entry: str) -> tuple[str, int | None]:
    """Host and port of ``host[:port]``; a bare IPv6 address has no port."""
    match = re.fullmatch(r"\[([^\]]*)\](?::(\d+))?|([^:]*)(?::(\d+))?", entry)
    if match is None:
        return entry, None
    port = match[2] or match[4]
    return match[1] or match[3] or "", int(port) if port else None


def _network_holds(entry: str, address: _Address) -> bool:
    if "/" not in entry:
        return False
    try:
        return address in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False


def _address(host: str) -> _Address | None:
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    address = _address(host)
    return address is not None and address.is_loopback
