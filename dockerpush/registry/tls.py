"""Whom we trust, host by host: one SSLContext for each registry or token server.

Rules: what the user names is added to the system's trust, never put in its place, save
that SSL_CERT_FILE and SSL_CERT_DIR stand for the system's file and directory, as in
OpenSSL. Of the ``certs.d`` directories the first that has this host counts, as for
podman. Every decision is for one host: who switches verification off for a registry has
not switched it off for the token server that the registry names. Python 3.13 would
refuse many private CAs for what RFC 5280 asks of their form; no context of ours does.

A look at a server's certificate, for ``check``; requests are made elsewhere.
"""

from __future__ import annotations

import http.client
import re
import ssl
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO, Iterable, Mapping

from ..errors import UsageError, reason_of
from ..events import Notice, OnEvent, ignore
from ..expressions import expression
from ..values import field, replace, value
from .failures import cannot_connect, proxy_failure, tls_failure
from .locations import Origin
from .proxies import Proxy

KNOWN_BUNDLES = tuple(
    Path(name)
    for name in (
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
        "/etc/ssl/ca-bundle.pem",
        "/etc/pki/tls/cacert.pem",
        "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
        "/etc/ssl/cert.pem",
    )
)
"""Where systems keep their CAs; for a Python that was built for another place."""

_PARTIAL_CHAIN = 0x80000  # X509_V_FLAG_PARTIAL_CHAIN, which ssl names from 3.10 on
_READ_LIMIT = 16 * 1024 * 1024  # bytes of a certificate file
_HOST = expression(r"[0-9A-Za-z\[\]:._%-]+")


@value
class TrustSettings:
    """What the user set for one host; the names are those of the flags.

    *cacert* is a PEM file of CAs, *cert* and *key* the client's pair (*key* None: it is
    in *cert*), *cert_dir* a directory in the form of ``certs.d/HOST``.
    """

    cacert: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    cert_dir: Path | None = None
    verify: bool = True

    def for_other_hosts(self) -> TrustSettings:
        """What holds for hosts that the user did not name, such as a token server.

        They are verified, may use the same CA, and never see the client's pair.
        """
        return replace(self, cert=None, key=None, cert_dir=None, verify=True)


@value
class TrustPlaces:
    """Where this system and this user keep certificates.

    *cert_file* and *cert_directories* come from SSL_CERT_FILE and SSL_CERT_DIR;
    *host_directories* are the ``certs.d`` directories, first choice first; the first
    of *bundles* that exists serves when OpenSSL's own places hold nothing.
    """

    cert_file: Path | None = None
    cert_directories: tuple[Path, ...] = ()
    host_directories: tuple[Path, ...] = ()
    bundles: tuple[Path, ...] = KNOWN_BUNDLES
    default_file: Path = field(
        default_factory=lambda: Path(ssl.get_default_verify_paths().openssl_cafile)
    )
    default_directory: Path = field(
        default_factory=lambda: Path(ssl.get_default_verify_paths().openssl_capath)
    )

    @classmethod
    def from_environ(
        cls, environ: Mapping[str, str], home: Path | None = None
    ) -> TrustPlaces:
        """The places of *environ*; *home* None: there is no home directory."""
        separator = ";" if sys.platform == "win32" else ":"
        directories = environ.get("SSL_CERT_DIR", "").split(separator)
        file = environ.get("SSL_CERT_FILE")
        return cls(
            Path(file) if file else None,
            tuple(Path(name) for name in directories if name),
            _host_directories(environ.get("XDG_CONFIG_HOME"), home),
        )


def _host_directories(config_home: str | None, home: Path | None) -> tuple[Path, ...]:
    config = Path(config_home) if config_home else home and home / ".config"
    system = (Path("/etc/containers/certs.d"), Path("/etc/docker/certs.d"))
    if config is None:
        return system
    rootless = config / "docker/certs.d"
    return (config / "containers/certs.d", *system, rootless)


class Trust:
    """The trust decision of every host: *hosts* by name, *default* for the rest.

    A host is named as in a reference, ``host[:port]``; port 443 is the default one.
    """

    def __init__(
        self,
        hosts: Mapping[str, TrustSettings],
        default: TrustSettings,
        places: TrustPlaces,
        *,
        on_event: OnEvent = ignore,
    ) -> None:
        self._hosts = {_without_default_port(name): hosts[name] for name in hosts}
        self._default = default
        self._places = places
        self._on_event = on_event

    def settings(self, host_port: str) -> TrustSettings:
        """What the user set for this host."""
        return self._hosts.get(_without_default_port(host_port), self._default)

    def ssl_context(self, host_port: str) -> ssl.SSLContext:
        """A new context for this host, see `context_for`."""
        return context_for(
            host_port,
            self.settings(host_port),
            self._places,
            on_event=self._on_event,
        )


def context_for(
    host_port: str,
    settings: TrustSettings,
    places: TrustPlaces,
    *,
    on_event: OnEvent = ignore,
) -> ssl.SSLContext:
    """A client context for one host: TLS 1.2 or newer, with all its certificates.

    Raises UsageError, which names the flag or the file, when a certificate or key that
    was asked for is missing, unreadable, not PEM, encrypted, or does not fit. What lies
    in ``certs.d`` and may not be read is skipped with a Notice.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags |= ssl.VerifyFlags(_PARTIAL_CHAIN)
    context.hostname_checks_common_name = False
    if settings.verify:
        _load_system(context, places)
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    directory = _open_directory(host_port, settings, places, on_event)
    _load_directory(context, directory, on_event)
    if settings.cacert:
        _load_authorities(context, settings.cacert, "--cacert")
    if settings.cert:
        _load_pair(context, settings.cert, settings.key, ("--cert", "--key"))
    elif settings.key:
        raise UsageError(f"--key {str(settings.key)!r} needs its --cert FILE")
    return context


def _without_default_port(host_port: str) -> str:
    name = host_port.lower()
    return name[: -len(":443")] if name.endswith(":443") else name


def _load_system(context: ssl.SSLContext, places: TrustPlaces) -> None:
    if sys.platform == "win32":
        context.load_default_certs()  # the system's stores, which are not files
    if places.cert_file:
        _load_authorities(context, places.cert_file, "SSL_CERT_FILE")
    elif _holds(places.default_file):
        context.load_verify_locations(cafile=places.default_file)
    directories = places.cert_directories or (places.default_directory,)
    found = [directory for directory in directories if _holds(directory)]
    for directory in found:
        context.load_verify_locations(capath=directory)
    if not found and not context.cert_store_stats()["x509"]:
        for bundle in filter(_holds, places.bundles):
            context.load_verify_locations(cafile=bundle)
            return


def _holds(path: Path) -> bool:
    """True for a directory or file that can be read and is not empty."""
    try:
        if path.is_dir():
            return any(path.iterdir())
        with path.open("rb") as file:
            return bool(file.read(1))
    except OSError:
        return False


def _open_directory(
    host_port: str, settings: TrustSettings, places: TrustPlaces, on_event: OnEvent
) -> list[Path]:
    """The files of this host's directory of certificates; none when it has none."""
    if settings.cert_dir:
        try:
            return sorted(settings.cert_dir.iterdir())
        except OSError as error:
            raise _unusable("--cert-dir", settings.cert_dir, error) from error
    for root in places.host_directories:
        for name in _directory_names(host_port):
            try:
                return sorted((root / name).iterdir())
            except PermissionError:
                on_event(
                    Notice(f"{root / name}: permission denied, skipped", warning=True)
                )
            except OSError:
                continue
    return []


def _directory_names(host_port: str) -> list[str]:
    """How the host may be spelled there; Windows allows no colon in a file name."""
    if not _HOST.fullmatch(host_port) or not host_port.strip("."):
        return []
    bare = _without_default_port(host_port)
    names = list(dict.fromkeys((host_port, bare)))
    if bare == host_port.lower() and not re.search(r":\d+$", bare):
        names.append(bare + ":443")
    if sys.platform == "win32":
        return [name.replace(":", "") for name in names]
    return names


def _load_directory(
    context: ssl.SSLContext, files: Iterable[Path], on_event: OnEvent
) -> None:
    """``*.crt`` are CAs, ``X.cert`` and ``X.key`` the client's pair (docker, certs.d).

    Of several pairs with one type of key the first by name counts.
    """
    present = {path for path in files if path.suffix in (".crt", ".cert", ".key")}
    for path in sorted(present):
        if path.suffix == ".crt" and _permitted(path, on_event):
            _load_authorities(context, path, "CA file")
    for path in sorted(present, reverse=True):  # the last one loaded is used
        if path.suffix == ".key" and path.with_suffix(".cert") not in present:
            raise _orphan(path, path.with_suffix(".cert"))
        if path.suffix != ".cert":
            continue
        key = path.with_suffix(".key")
        if key not in present:
            raise _orphan(path, key)
        if _permitted(path, on_event) and _permitted(key, on_event):
            _load_pair(context, path, key, ("certificate", "key"))


def _orphan(path: Path, missing: Path) -> UsageError:
    return UsageError(
        f"{path} has no {missing.name} beside it; put it there, or, when it is a CA "
        "certificate, give it the extension .crt"
    )


def _permitted(path: Path, on_event: OnEvent) -> bool:
    try:
        with path.open("rb"):
            return True
    except PermissionError:
        on_event(Notice(f"{path}: permission denied, skipped", warning=True))
        return False
    except OSError:
        return True  # whoever loads it says what is wrong


def _load_authorities(context: ssl.SSLContext, path: Path, named: str) -> None:
    _add_certificates(context, _read(path, named), f"{named} {str(path)!r}")


def _add_certificates(context: ssl.SSLContext, content: bytes, what: str) -> None:
    # only what stands between the PEM lines counts, and that is ASCII
    text = content.decode("ascii", "ignore")
    try:
        context.load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError) as error:
        raise UsageError(f"{what} {_why_not_certificate(content)}") from error


def _load_pair(
    context: ssl.SSLContext, cert: Path, key: Path | None, named: tuple[str, str]
) -> None:
    """*named* says how the user calls the certificate and the key."""
    content = _read(cert, named[0])
    in_key = _read(key, named[1]) if key else content
    key_name = f"{named[1]} {str(key or cert)!r}"
    scratch = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # tells whose fault it is
    _add_certificates(scratch, content, f"{named[0]} {str(cert)!r}")
    if b"PRIVATE KEY-----" not in in_key:
        raise UsageError(f"{key_name} holds no private key in PEM form")

    def password() -> str:
        raise UsageError(
            f"{key_name} is encrypted, and dockerpush asks for no passphrase; "
            "decrypt it with: openssl pkey -in KEY -out NEW"
        )

    try:
        context.load_cert_chain(cert, key, password)
    except ssl.SSLError as error:
        # the second is OpenSSL's word for a key of another type
        if error.reason in ("KEY_VALUES_MISMATCH", "NO_CERTIFICATE_ASSIGNED"):
            what = f"does not belong to the certificate {str(cert)!r}"
            raise UsageError(f"{key_name} {what}") from error
        raise UsageError(f"{key_name} is a broken private key") from error


def _read(path: Path, named: str) -> bytes:
    try:
        with path.open("rb") as file:
            return _read_up_to(file, _READ_LIMIT)
    except OSError as error:
        raise _unusable(named, path, error) from error


def _read_up_to(file: BinaryIO, limit: int) -> bytes:
    """At most *limit* bytes; ``read(limit)`` would take that much memory at once."""
    content = b""
    while len(content) < limit and (piece := file.read(256 * 1024)):
        content += piece
    return content[:limit]


def _unusable(named: str, path: Path, error: OSError) -> UsageError:
    reason = reason_of(error)
    return UsageError(f"{named} {str(path)!r} cannot be read: {reason}")


def _why_not_certificate(content: bytes) -> str:
    if not content.strip():
        return "is empty; it must hold a certificate in PEM form"
    if content.startswith(b"\x30"):
        return (
            "is DER, wanted PEM; convert it with: "
            "openssl x509 -inform der -in FILE -out NEW"
        )
    if b"PRIVATE KEY-----" in content and b"CERTIFICATE-----" not in content:
        return "holds a private key, wanted a certificate"
    return "is not a certificate in PEM form (-----BEGIN CERTIFICATE-----)"


@value
class TlsResult:
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
) -> TlsResult:
    """The certificate of *origin*, reached through *proxy* if there is one.

    *timeout* is in seconds. Raises NetworkError, which says what to do about it.
    """
    connection = _connection(origin, context, proxy, timeout)
    try:
        connection.connect()
        sock: Any = connection.sock
        return _tls_result(sock.version() or "TLS", sock.getpeercert() or {}, clock)
    except ssl.SSLError as error:
        raise tls_failure(origin.host_port, error) from error
    except (OSError, UnicodeError) as error:  # the latter for a name that is too long
        cause = error if isinstance(error, OSError) else OSError(str(error))
        if proxy is not None:
            raise proxy_failure(str(proxy), cause) from error
        raise cannot_connect(origin.host_port, cause) from error
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


def _tls_result(protocol: str, fields: Any, clock: float | None) -> TlsResult:
    if not fields:
        return TlsResult(protocol)
    names = dict(pair for part in fields.get("issuer", ()) for pair in part)
    issuer = names.get("commonName") or names.get("organizationName") or "unnamed"
    expires = ssl.cert_time_to_seconds(fields["notAfter"])
    now = time.time() if clock is None else clock
    return TlsResult(
        protocol,
        issuer,
        time.strftime("%Y-%m-%d", time.gmtime(expires)),
        int((expires - now) // 86400),
    )
