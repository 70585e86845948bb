"""The embedded registry, with answers of some other registry's.

A *bend* gets each request and what gives the honest answer to it; it returns what is
sent. ``check_user`` and the rest of the Api stay as they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

from dockerpush.server import Registry, RegistryServer
from dockerpush.server.messages import Request, Response
from dockerpush.values import replace

Honest = Callable[[], Response]
Bend = Callable[[Request, Honest], Response]


class _BentApi:
    def __init__(self, api: Any, bend: Bend) -> None:
        self._api = api
        self._bend = bend

    def __call__(self, request: Request) -> Response:
        return self._bend(request, lambda: self._api(request))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._api, name)


class BentServer(RegistryServer):
    """Serves a registry in *directory*; *seen* is what was answered."""

    def __init__(self, directory: Path, bend: Bend) -> None:
        self.seen: list[Any] = []
        super().__init__(Registry(directory), on_request=self.seen.append)
        self._api = _BentApi(self._api, bend)  # type: ignore[assignment]

    def asked(self, method: str, path: str = "") -> list[str]:
        """The paths of requests of *method* that have *path* in them."""
        seen = [one.path for one in self.seen if one.method == method]
        return [one for one in seen if path in one]


def refused(status: int, code: str = "UNSUPPORTED") -> Response:
    """An answer of a registry that does not like the request."""
    headers = {"Content-Type": "application/json"}
    body = b'{"errors":[{"code":"%s","message":"refused"}]}' % code.encode()
    return Response.of(status, headers, body)


def html() -> Response:
    """What a login page before the registry answers to everything."""
    page = b"<html><title>Sign in</title><body>Please sign in</body></html>"
    return Response.of(200, {"Content-Type": "text/html"}, page)


def without_referrers(request: Request, honest: Honest) -> Response:
    """A registry from before referrers were specified."""
    if "/referrers/" in request.path:
        return refused(404, "UNKNOWN")
    answer = honest()
    headers = {k: v for k, v in answer.headers.items() if k != "OCI-Subject"}
    return replace(answer, headers=headers)
