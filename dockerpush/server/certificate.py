"""The certificate that the registry shows: its TLS context, its names, read again."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Iterator

from .messages import ServerError

_ALTERNATIVE_NAMES = b"\x06\x03\x55\x1d\x11"  # the identifier 2.5.29.17 in DER
_DNS_NAME = 0x82


class Certificate:
    """A certificate with its key, both in PEM. Raises ServerError."""

    def __init__(self, path: Path, key: Path) -> None:
        self._path = path
        self._key = key
        self.load()

    def load(self) -> None:
        """Read both files; what cannot be used leaves the old ones in place.

        Raises ServerError.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self._path, self._key, password="")  # never asks
            names = names_in_certificate(self._path.read_text("ascii", "replace"))
        except (OSError, ValueError) as error:
            raise ServerError(
                f"cannot use the certificate {self._path} with the key {self._key}: "
                f"{error}"
            ) from error
        self.context, self.names = context, names


def names_in_certificate(pem: str) -> list[str]:
    """The DNS names of the first certificate in *pem* (RFC 5280, 4.2.1.6)."""
    end = "-----END CERTIFICATE-----"
    start = pem.find("-----BEGIN CERTIFICATE-----")
    if start < 0 or end not in pem[start:]:
        return []
    der = ssl.PEM_cert_to_DER_cert(pem[start : pem.index(end, start) + len(end)])
    at = der.find(_ALTERNATIVE_NAMES)
    if at < 0:
        return []
    at += len(_ALTERNATIVE_NAMES)
    if der[at : at + 1] == b"\x01":  # whether it is critical
        at += 3
    (_, octets), *_ = _elements(der[at:])
    (_, names), *_ = _elements(octets)
    return [
        content.decode("ascii", "replace")
        for kind, content in _elements(names)
        if kind == _DNS_NAME
    ]


def _elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Tags and contents of the elements of *der*, one after the other."""
    at = 0
    while at + 2 <= len(der):
        kind, size, at = der[at], der[at + 1], at + 2
        if size & 0x80:  # so many bytes that tell the size
            count = size & 0x7F
            size, at = int.from_bytes(der[at : at + count], "big"), at + count
        yield kind, der[at : at + size]
        at += size
