"""What a browser may ask of the registry: a page of another site must not use it.

docker, podman, skopeo and others send neither ``Origin`` nor ``Sec-Fetch-*``, and are
served under any name. A browser sends them for every page, so a request that has one
must come to a name that is ours (or a name server could make us part of another site)
and may write only from a page of ours.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Iterable
from urllib.parse import urlsplit

from .messages import DENIED, READING, ProtocolError, Request


class Browsers:
    """Requests of browsers are for *names*, for this machine's, and for addresses."""

    def __init__(self, names: Iterable[str]) -> None:
        machine = socket.gethostname().lower()
        own = {"localhost", machine, machine.partition(".")[0], f"{machine}.local"}
        given = {name.lower().rstrip(".") for name in names}
        self._names = (given | own) - {""}

    def check(self, request: Request) -> None:
        """Raises ProtocolError (403) for what a page of another site may have sent."""
        if not is_marked(request):
            return
        host = request.headers.first("Host") or ""
        if not self._is_ours(host):
            raise _denied(
                f"browsers are not served under the name {host[:80]!r}; to have them "
                "served: dockerpush serve --host NAME"
            )
        if request.method not in READING and _is_foreign(request, host):
            raise _denied("a page of another site may not change anything here")

    def _is_ours(self, host: str) -> bool:
        name = _name_of(host)
        if name in self._names or name.endswith(".localhost") or _is_address(name):
            return True
        return f"*.{name.partition('.')[2]}" in self._names


def is_marked(request: Request) -> bool:
    """True when a browser sent *request*."""
    names = (name.lower() for name, _ in request.headers.pairs)
    return any(name == "origin" or name.startswith("sec-fetch-") for name in names)


def is_for_people(request: Request) -> bool:
    """True when a browser asks for a page, and for no endpoint."""
    accepted = ",".join(request.headers.values("Accept")).lower()
    path = request.path
    return (
        request.method in READING
        and "text/html" in accepted
        and path != "/v2"
        and not path.startswith("/v2/")
    )


def _is_foreign(request: Request, host: str) -> bool:
    if "cross-site" in request.headers.values("Sec-Fetch-Site"):
        return True
    origins = request.headers.values("Origin")
    return any(origin.partition("://")[2].lower() != host.lower() for origin in origins)


def _name_of(host: str) -> str:
    """The name in a Host header, "" for what is none."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _denied(message: str) -> ProtocolError:
    return ProtocolError(403, DENIED, message)
