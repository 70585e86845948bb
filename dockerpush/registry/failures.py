"""What can go wrong on the wire, as one line each with what to do about it.

The errors of sockets, of OpenSSL and of urllib3 end here; nothing above sees them.
"""

from __future__ import annotations

import errno
import http.client
import re
import socket
import ssl

import urllib3.exceptions

from ..errors import NetworkError, TransientError
from .debug import one_line
from .proxies import refusal
from .tls_errors import explain


class SpeaksPlainHTTP(NetworkError):
    """The other side answered a TLS handshake with something that is not TLS."""


_NOT_TLS = frozenset(
    (
        "WRONG_VERSION_NUMBER",
        "HTTP_REQUEST",
        "RECORD_LAYER_FAILURE",
        "UNKNOWN_PROTOCOL",
        "PACKET_LENGTH_TOO_LONG",
    )
)


def cannot_resolve(host: str, error: OSError) -> NetworkError:
    """*host* has no address, or nobody could be asked for it now."""
    text = f"cannot resolve the host name {host!r}: {_reason(error)}"
    if error.errno == socket.EAI_AGAIN:
        return TransientError(f"{text}; check this machine's DNS settings")
    return NetworkError(f"{text}; check the name and this machine's DNS settings")


def cannot_connect(where: str, error: OSError | None) -> TransientError:
    """No address of *where* (``host:port``) took the connection; *error* is the last.

    None stands for a time-out.
    """
    if error is None or isinstance(error, (socket.timeout, TimeoutError)):
        why = "no answer in time; check the address, the port and the firewall"
    elif isinstance(error, ConnectionRefusedError):
        why = "connection refused; check the port and that the server runs"
    else:
        why = _reason(error)
    return TransientError(f"cannot connect to {where}: {why}")


def tls_failure(where: str, error: ssl.SSLError) -> NetworkError:
    """The handshake with *where* (``host[:port]``) failed as *error* says."""
    text = explain(error, where)
    if isinstance(error, ssl.SSLCertVerificationError):
        return NetworkError(text)
    if error.reason in _NOT_TLS:
        return SpeaksPlainHTTP(text)
    if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        return TransientError(text)
    return NetworkError(text)


def broke_while_sending(
    request: str, sent: int, size: int, error: BaseException | None
) -> TransientError:
    """The connection broke, or stood still, inside a request body of *size* bytes."""
    if isinstance(error, (socket.timeout, TimeoutError)):
        why = "the connection stood still"
    else:
        why = "the connection broke"
    return TransientError(
        f"{request}: {why} after {sent} of {size} bytes", sending=True
    )


def speaks_tls(where: str) -> NetworkError:
    """*where* wants TLS and was asked in plain HTTP."""
    return NetworkError(
        f"{where} speaks HTTPS, and was asked in plain HTTP; leave --plain-http out"
    )


def proxy_failure(proxy: str, error: OSError) -> NetworkError:
    """The *proxy* (``host:port``) made no tunnel; http.client tells the status."""
    match = re.search(r"Tunnel connection failed: (\d{3})", str(error))
    if match is None:
        return NetworkError(f"the proxy {proxy} cannot be used: {_reason(error)}")
    status = int(match[1])
    if status in (502, 503, 504):
        return TransientError(refusal(status, proxy))
    return NetworkError(refusal(status, proxy))


def proxy_wants_password(proxy: str) -> NetworkError:
    """The *proxy* (``host:port``) answered 407 to a request in plain HTTP."""
    return NetworkError(refusal(407, proxy))


def translated(request: str, where: str, error: Exception) -> NetworkError:
    """Any other failure of sockets, http.client or urllib3 during *request*."""
    cause = _root(error)
    if isinstance(cause, ssl.SSLError) and not isinstance(
        cause, (ssl.SSLEOFError, ssl.SSLZeroReturnError, socket.timeout)
    ):
        return tls_failure(where, cause)
    if isinstance(cause, http.client.BadStatusLine) and "\x15\x03" in str(cause):
        return speaks_tls(where)
    if isinstance(
        cause, (socket.timeout, TimeoutError, urllib3.exceptions.TimeoutError)
    ):
        return TransientError(f"{request}: no answer in time")
    if isinstance(cause, (ConnectionError, http.client.RemoteDisconnected, OSError)):
        return TransientError(f"{request}: the connection broke: {_reason(cause)}")
    if isinstance(cause, (http.client.IncompleteRead, http.client.HTTPException)):
        return TransientError(f"{request}: a broken answer: {_reason(cause)}")
    return TransientError(f"{request}: {_reason(cause)}")


def _root(error: Exception) -> BaseException:
    """The innermost error that urllib3 has wrapped."""
    inner: BaseException = error
    for _ in range(8):
        wrapped = next(
            (arg for arg in inner.args if isinstance(arg, BaseException)), None
        )
        if wrapped is None or not isinstance(inner, urllib3.exceptions.HTTPError):
            return inner
        inner = wrapped
    return inner


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno in errno.errorcode:
        return one_line(error.strerror or str(error), 160).lower()
    return one_line(str(error) or type(error).__name__, 160)
