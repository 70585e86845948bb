"""A look at a server's certificate, for ``check``; requests are made elsewhere."""

from __future__ import annotations

import http.client
import ssl
import time
from typing import Any

from ..values import value
from .failures import cannot_connect, proxy_failure, tls_failure
from .origins import Origin
from .proxies import Proxy


@value
class Certificate:
    """What TLS came to. *issuer* and *expires* are "" when nothing was verified.

    *days* are those until it expires, *protocol* is as ``TLSv1.3``.
    """

    protocol: str
    issuer: str = ""
    expires: str = ""
    days: int = 0


def certificate_of(
    origin: Origin,
    context: ssl.SSLContext,
    proxy: Proxy | None,
    *,
    timeout: float,
    clock: float | None = None,
) -> Certificate:
    """The certificate of *origin*, reached through *proxy* if there is one.

    *timeout* is in seconds. Raises NetworkError, which says what to do about it.
    """
    connection = _connection(origin, context, proxy, timeout)
    try:
        connection.connect()
        sock: Any = connection.sock
        return _told(sock.version() or "TLS", sock.getpeercert() or {}, clock)
    except ssl.SSLError as error:
        raise tls_failure(origin.host_port, error) from error
    except OSError as error:
        if proxy is not None:
            raise proxy_failure(str(proxy), error) from error
        raise cannot_connect(origin.host_port, error) from error
    finally:
        connection.close()


def _connection(
    origin: Origin, context: ssl.SSLContext, proxy: Proxy | None, timeout: float
) -> http.client.HTTPSConnection:
    if proxy is None:
        return http.client.HTTPSConnection(
            origin.host, origin.port, context=context, timeout=timeout
        )
    host, _, port = proxy.url.rpartition("//")[2].rpartition(":")
    tunnel = http.client.HTTPSConnection(
        host.strip("[]"), int(port), context=context, timeout=timeout
    )
    authorization = proxy.authorization.reveal()
    headers = {"Proxy-Authorization": authorization} if authorization else {}
    tunnel.set_tunnel(origin.host, origin.port, headers)
    return tunnel


def _told(protocol: str, fields: Any, clock: float | None) -> Certificate:
    if not fields:
        return Certificate(protocol)
    names = dict(pair for part in fields.get("issuer", ()) for pair in part)
    issuer = names.get("commonName") or names.get("organizationName") or "unnamed"
    expires = ssl.cert_time_to_seconds(fields["notAfter"])
    now = time.time() if clock is None else clock
    return Certificate(
        protocol,
        issuer,
        time.strftime("%Y-%m-%d", time.gmtime(expires)),
        int((expires - now) // 86400),
    )
