"""Requests over pooled connections: one attempt each, no redirects, no credentials.

Rules: one urllib3 pool per origin and proxy, with urllib3's own retries and redirects
off. A body is an iterable of pieces with a Content-Length, never chunked. The bytes of
all bodies, sent and received, pass one limit if there is one. Every failure leaves as
NetworkError, TransientError or Cancelled. An Answer is closed by whoever asked for it;
closing gives the connection back when nothing is left on it.
"""

from __future__ import annotations

import http.client
import ssl
import threading
from types import MappingProxyType
from typing import Callable, Iterable, Iterator, Mapping, Union
from urllib.parse import unquote

import urllib3
import urllib3.exceptions
from urllib3.util import Timeout, make_headers, parse_url

from ..errors import NetworkError, PusherError, TransientError
from ..system.cancellation import Cancellation
from ..system.rate import RateLimiter
from ..system.workers import wide
from ..values import field, value
from .answers import Answer
from .connections import Dialer, Piece, WatchedPool, WatchedTLSPool, watch_tls
from .debug import show_url
from .failures import proxy_wants_password, translated
from .locations import (
    Address,
    AddressScope,
    Origin,
    Resolver,
    UrlParts,
    address_scope,
    allowed_from,
)
from .locations import resolve as resolve_by_system

_TLSPool = Union[WatchedPool, WatchedTLSPool]


def verified(host_port: str) -> ssl.SSLContext:
    """The TLS context that trusts what the system trusts."""
    return ssl.create_default_context()


def direct(url: str) -> str | None:
    """No proxy for *url*, whatever it is."""
    return None


@value
class TransportSettings:
    """How to talk to a registry; times are seconds.

    *timeout* is for one piece of a body and for an ordinary answer; whoever asks says
    how many times that an answer may take, which a registry has to think about.
    *ssl_context* gets ``host[:port]``; *proxy_for* gets a URL and returns the proxy's,
    user and password included, or None. *headers* go to the registry's own origin only.
    *rate* limits the bytes of all bodies, sent and received together. A host that the
    user did not name may be at a private address with *allow_private_redirects*.
    *min_rate* is the least bytes a second of one transfer, 0 for none.
    *insecure* continues in plain HTTP where the server has no TLS, as on this machine
    anyway.
    """

    plain_http: bool = False
    insecure: bool = False
    timeout: float = 60.0
    connect_timeout: float = 10.0
    jobs: int = 3
    user_agent: str = "dockerpush"
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    ssl_context: Callable[[str], ssl.SSLContext] = verified
    proxy_for: Callable[[str], str | None] = direct
    resolve: Resolver = resolve_by_system
    rate: RateLimiter | None = None
    min_rate: float = 0.0
    allow_private_redirects: bool = False


class Transport:
    """The connections to one registry, *home* (``host[:port]``), and where it leads."""

    def __init__(
        self, settings: TransportSettings, cancellation: Cancellation, home: str
    ) -> None:
        self._settings = settings
        self._cancellation = cancellation
        self._home = UrlParts.parse(f"https://{home}/").origin
        self._lock = threading.Lock()  # guards _pools and _address_scope
        self._reached: set[Origin] = set()  # those that have answered
        self._pools: dict[tuple[Origin, str | None], _TLSPool] = {}
        self._proxies: dict[Origin, str | None] = {}
        self._address_scope: frozenset[AddressScope] | None = None

    def close(self) -> None:
        """Close the connections that are not in use."""
        with self._lock:
            pools = list(self._pools.values())
            self._pools.clear()
        for pool in pools:
            pool.close()

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: Iterable[Piece] | None = None,
        size: int = 0,
        patience: float = 1.0,
        task: str = "",
    ) -> Answer:
        """The answer to one request, its body not read yet, whatever the status.

        *size* is the bytes of *body*; the answer may take *patience* times the
        time-out. *task* names what fails when a connection breaks. Raises NetworkError,
        TransientError (*sending* is set when it broke inside the body), or Cancelled.
        """
        self._cancellation.check()
        place = UrlParts.parse(url)
        proxy = self._proxy(place.origin)
        pool = self._pool(place.origin, proxy)
        absolute = proxy is not None and place.origin.scheme == "http"
        sent = {"User-Agent": self._settings.user_agent, **headers}
        if body is not None or method in ("POST", "PUT", "PATCH"):
            sent["Content-Length"] = str(size)
        longest = self._settings.timeout * patience
        try:
            raw = pool.urlopen(
                method,
                place.url if absolute else place.target,
                body=self._limited(body),  # type: ignore[arg-type]
                headers=sent,
                retries=False,
                redirect=False,
                assert_same_host=False,
                timeout=Timeout(connect=self._settings.timeout, read=longest),
                preload_content=False,
                decode_content=False,
            )
        except PusherError as error:
            self._cancellation.check()
            if isinstance(error, TransientError) and place.origin not in self._reached:
                error.unreachable = error.hung_up = False  # it may not be there at all
            if isinstance(error, TransientError) and error.sending:
                error.during(task)
            raise
        except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as e:
            self._cancellation.check()
            where = place.origin.host_port
            raise translated(where, e, waited=longest).during(task) from e
        except ValueError as e:  # a header or a URL that http.client refuses
            label = f"{method} {show_url(url)}"
            raise NetworkError(f"{label}: not a valid request: {e}") from e
        self._reached.add(place.origin)
        response = Answer(
            raw, method, url, self._cancellation, self._settings.rate, task
        )
        if response.status == 407 and proxy is not None:
            response.close()
            raise proxy_wants_password(_without_user(proxy).rpartition("//")[2])
        return response

    def _limited(self, body: Iterable[Piece] | None) -> Iterable[Piece] | None:
        """*body* as slowly as the limit wants it."""
        rate = self._settings.rate
        if body is None or rate is None:
            return body
        return _paced(body, rate, self._cancellation)

    def _proxy(self, origin: Origin) -> str | None:
        if origin not in self._proxies:
            self._proxies[origin] = self._settings.proxy_for(f"{origin}/")
        return self._proxies[origin]

    def _pool(self, origin: Origin, proxy: str | None) -> _TLSPool:
        with self._lock:
            pool = self._pools.get((origin, proxy))
            if pool is None:
                pool = self._pools[origin, proxy] = self._new_pool(origin, proxy)
        return pool

    def _new_pool(self, origin: Origin, proxy: str | None) -> _TLSPool:
        options: dict[str, object] = {
            "maxsize": self._settings.jobs + wide(self._settings.jobs) + 1,
            "dialer": self._dialer(vetted=self._is_vetted(origin, proxy)),
        }
        if proxy is not None:
            options.update(self._proxy_options(proxy))
        if origin.scheme == "https":
            context = self._context(origin.host_port)
            options.update(ssl_context=context, cert_reqs=context.verify_mode)
            return WatchedTLSPool(origin.host, origin.port, **options)  # type: ignore[arg-type]
        where = origin if proxy is None else UrlParts.parse(_without_user(proxy)).origin
        return WatchedPool(where.host, where.port, **options)  # type: ignore[arg-type]

    def _context(self, host_port: str) -> ssl.SSLContext:
        context = self._settings.ssl_context(host_port)
        watch_tls(context, self._cancellation)
        return context

    def _proxy_options(self, proxy: str) -> dict[str, object]:
        """urllib3's own settings for *proxy*; its user and password become a header."""
        url = parse_url(proxy)
        headers = make_headers(proxy_basic_auth=unquote(url.auth)) if url.auth else {}
        manager = urllib3.ProxyManager(
            _without_user(proxy),
            proxy_headers=headers,
            proxy_ssl_context=(
                self._context(url.netloc or "") if url.scheme == "https" else None
            ),
        )
        keys = ("_proxy", "_proxy_headers", "_proxy_config")
        return {key: manager.connection_pool_kw[key] for key in keys}

    def _dialer(self, *, vetted: bool) -> Dialer:
        return Dialer(
            self._cancellation,
            self._settings.resolve,
            self._settings.timeout,
            self._settings.connect_timeout,
            self._admit_foreign if vetted else _admit_all,
            self._settings.min_rate,
        )

    def _is_vetted(self, origin: Origin, proxy: str | None) -> bool:
        """True when its address matters to us; a *proxy* sees to its own."""
        if proxy is not None or self._settings.allow_private_redirects:
            return False
        return origin.host != self._home.host

    def _admit_foreign(self, host: str, address: Address) -> None:
        near = address_scope(address.ip)
        if near is not AddressScope.PUBLIC and near not in self._allowed():
            raise NetworkError(
                f"{self._home.host_port} redirects to {host}, which is a {near.value} "
                "address, and dockerpush does not follow; if that is the registry's "
                "storage, use --allow-private-redirects"
            )

    def _allowed(self) -> frozenset[AddressScope]:
        with self._lock:
            known = self._address_scope
        if known is None:
            try:
                known = allowed_from(
                    self._settings.resolve(self._home.host, self._home.port)
                )
            except OSError:  # reached through a proxy that resolves for us
                known = frozenset({AddressScope.PUBLIC})
            with self._lock:
                self._address_scope = known
        return known


def _admit_all(host: str, address: Address) -> None:
    """Every address is fine for a host that the user named."""


def _paced(
    body: Iterable[Piece], rate: RateLimiter, cancellation: Cancellation
) -> Iterator[Piece]:
    for piece in body:
        rest = memoryview(piece)
        while rest:
            granted = rate.take(len(rest), cancellation)
            yield rest[:granted]
            rest = rest[granted:]


def _without_user(proxy: str) -> str:
    scheme, separator, rest = proxy.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
