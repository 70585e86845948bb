"""What can go wrong on the wire, as one line each with what to do about it.

The errors of sockets, of OpenSSL and of urllib3 end here; nothing above sees them.
"""

from __future__ import annotations

import errno
import http.client
import re
import socket
import ssl
from typing import Iterator, Mapping

import urllib3.exceptions

from ..errors import NetworkError, TransientError, reason_of
from .debug import one_line
from .proxies import refusal


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
        return TransientError(
            f"{text}; check this machine's DNS settings", unreachable=True
        )
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
    return TransientError(f"cannot connect to {where}: {why}", unreachable=True)


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
    where: str, sent: int, size: int, error: BaseException | None
) -> TransientError:
    """The connection broke, or stalled, inside a request body of *size* bytes."""
    silent = isinstance(error, (socket.timeout, TimeoutError))
    why = "stalled" if silent else "broke"
    return TransientError(
        f"the connection to {where} {why} after {sent} of {size} bytes",
        sending=True,
        hung_up=not silent,
    )


def speaks_tls(where: str) -> NetworkError:
    """*where* wants TLS and was asked in plain HTTP."""
    return NetworkError(
        f"{where} is an HTTPS server, and dockerpush sent plain HTTP; leave out "
        "--plain-http, or http://"
    )


def proxy_failure(proxy: str, error: OSError) -> NetworkError:
    """The *proxy* (``host:port``) made no tunnel; *error* has the status as text."""
    match = re.search(r"Tunnel connection failed: (\d{3})", str(error))
    if match is None:
        return NetworkError(
            f"cannot use the proxy {proxy}: {_reason(error)}; check --proxy and "
            "HTTPS_PROXY"
        )
    status = int(match[1])
    if status in (502, 503, 504):
        return TransientError(refusal(status, proxy))
    return NetworkError(refusal(status, proxy))


def proxy_wants_password(proxy: str) -> NetworkError:
    """The *proxy* (``host:port``) answered 407 to a request in plain HTTP."""
    return NetworkError(refusal(407, proxy))


def translated(
    where: str, error: Exception, *, waited: float | None = None
) -> NetworkError:
    """Any other failure of sockets, http.client or urllib3 at *where* (``host:port``).

    *waited* is how many seconds the answer could take.
    """
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
        time = "in time" if waited is None else f"within {waited:g} s"
        return TransientError(f"no answer from {where} {time}; try a longer --timeout")
    if isinstance(cause, (ConnectionError, http.client.RemoteDisconnected, OSError)):
        return TransientError(
            f"the connection to {where} broke: {_reason(cause)}", hung_up=True
        )
    if isinstance(cause, (http.client.IncompleteRead, http.client.HTTPException)):
        return TransientError(
            f"{where} sent a broken answer: {_reason(cause)}", hung_up=True
        )
    return TransientError(f"{where}: {_reason(cause)}")


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
    if isinstance(error, http.client.RemoteDisconnected):
        return "the server closed it without an answer"
    if isinstance(error, socket.gaierror) or (
        isinstance(error, OSError) and error.errno in errno.errorcode
    ):
        return one_line(reason_of(error), 160)
    return one_line(str(error) or type(error).__name__, 160)


_UNKNOWN_CA = (
    "an unknown CA signed the certificate: pass the CA with --cacert FILE, or keep it "
    "as ~/.config/containers/certs.d/{host}/ca.crt; if this machine trusts the CA, the "
    "server does not send its intermediate certificate"
)
_SELF_SIGNED = (
    "the certificate, or the CA that signed it, is self-signed, and this machine does "
    "not trust it: if it is the right one, pass it with --cacert FILE, or keep it as "
    "~/.config/containers/certs.d/{host}/ca.crt"
)
_OTHER_NAME = (
    "the certificate is for another name: use one of its names, or issue a certificate "
    "with this name as subjectAltName (a common name does not count)"
)
_WEAK = (
    "the certificate or its CA has a key or a signature that is too weak for this "
    "system: issue it again (RSA 2048 or EC, SHA-256)"
)
_BROKEN_CA = (
    "a certificate of the chain is not valid for this use: issue it again, for "
    "servers, by a CA that is marked as CA"
)

# numbers of X509_verify_cert, see openssl-verification-options(1)
_VERIFY: Mapping[int, str] = {
    9: "the certificate, or one above it, is not valid yet: set the clock of this "
    "machine if it is late, else wait or issue the certificate again",
    10: "the certificate, or one above it, has expired: renew it on the server, or set "
    "the clock of this machine if that is wrong",
    2: _UNKNOWN_CA,
    18: _SELF_SIGNED,
    19: _SELF_SIGNED,
    20: _UNKNOWN_CA,
    21: _UNKNOWN_CA,
    23: "the certificate is revoked: issue a new one",
    24: _BROKEN_CA,
    26: _BROKEN_CA,
    62: _OTHER_NAME,
    64: _OTHER_NAME,
    66: _WEAK,
    67: _WEAK,
    68: _WEAK,
    79: _BROKEN_CA,
}

_PLAIN = (
    "the server sent plain HTTP where TLS was expected: use --plain-http or "
    "http://{host}/..."
)
_OLD_TLS = (
    "the server offers only TLS versions that are unsafe: enable TLS 1.2 or 1.3 on it"
)
_WANTS_CERTIFICATE = (
    "the server wants a client certificate: pass one with --cert FILE and --key FILE, "
    "or keep it as ~/.config/containers/certs.d/{host}/client.cert and .key"
)
_REFUSES_CERTIFICATE = (
    "the server rejected the client certificate: check that its own CA issued the file "
    "of --cert, and that it has not expired"
)
_REASONS: Mapping[str, str] = {
    "WRONG_VERSION_NUMBER": _PLAIN,
    "UNKNOWN_PROTOCOL": _PLAIN,
    "HTTP_REQUEST": _PLAIN,
    "PACKET_LENGTH_TOO_LONG": _PLAIN,
    "RECORD_LAYER_FAILURE": _PLAIN,
    "UNSUPPORTED_PROTOCOL": _OLD_TLS,
    "TLSV1_ALERT_PROTOCOL_VERSION": _OLD_TLS,
    "NO_PROTOCOLS_AVAILABLE": _OLD_TLS,
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": _WANTS_CERTIFICATE,
    "SSLV3_ALERT_NO_CERTIFICATE": _WANTS_CERTIFICATE,
    "TLSV1_ALERT_UNKNOWN_CA": _REFUSES_CERTIFICATE,
    "SSLV3_ALERT_BAD_CERTIFICATE": _REFUSES_CERTIFICATE,
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": _REFUSES_CERTIFICATE,
    "SSLV3_ALERT_CERTIFICATE_REVOKED": _REFUSES_CERTIFICATE,
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": _REFUSES_CERTIFICATE,
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": _REFUSES_CERTIFICATE,
    "TLSV1_ALERT_ACCESS_DENIED": _REFUSES_CERTIFICATE,
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "the server ended the TLS handshake: it may "
    "want a client certificate (--cert FILE --key FILE), or support no cipher of this "
    "system",
    "TLSV1_UNRECOGNIZED_NAME": "the server has no certificate for this name: check "
    "the name, or the server's configuration",
    "DH_KEY_TOO_SMALL": _WEAK,
    "EE_KEY_TOO_SMALL": _WEAK,
    "CA_MD_TOO_WEAK": _WEAK,
    "CA_KEY_TOO_SMALL": _WEAK,
}
_CLOSED = (
    "the server closed the connection during the TLS handshake: check the port, and "
    "firewalls or proxies on the way"
)


def explain(error: BaseException, host: str) -> str:
    """One line for a failed TLS connection to *host* (``host[:port]``): why, what next.

    Looks for the cause through whatever has been wrapped around it.
    """
    for cause in causes(error):
        text = _sentence(cause)
        if text:
            return f"{host}: " + text.format(host=host)
    return f"{host}: TLS failed: {' '.join(str(error).split())[:200]}"


def _sentence(error: BaseException) -> str | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        said = " ".join((error.verify_message or str(error)).split())
        known = _VERIFY.get(error.verify_code)
        return known or f"the certificate is not accepted: {_literal(said)}"
    if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        return _CLOSED
    if isinstance(error, ssl.SSLError):
        return _REASONS.get((error.reason or "").replace(" ", "_").upper())
    return _CLOSED if isinstance(error, ConnectionError) else None


def _literal(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def causes(error: BaseException) -> Iterator[BaseException]:
    """*error* and everything it was made from, each once, the outermost first."""
    waiting, seen = [error], set()
    while waiting:
        current = waiting.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        inside = (*current.args, getattr(current, "reason", None))
        inside += (current.__cause__, current.__context__)
        waiting += [item for item in inside if isinstance(item, BaseException)]
