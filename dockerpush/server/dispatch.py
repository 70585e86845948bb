"""The endpoints of the distribution-spec: a request in, a response out."""

from __future__ import annotations

from typing import Callable, Mapping

from ..values import replace
from .checked_names import Repository
from .embedded import Registry
from .messages import Request, Response, error_response, json_response
from .protocol_errors import DENIED, UNAUTHORIZED, ProtocolError
from .pulling import BlobEndpoints, ManifestEndpoints
from .pushing import UploadEndpoints
from .routes import Resource, check_method, parse_route
from .users import PasswordFile

Endpoint = Callable[[Request, Repository, str], Response]

READING = ("GET", "HEAD")
_EVERY_RESPONSE = {"Docker-Distribution-Api-Version": "registry/2.0"}


class Api:
    """Answers requests out of a registry, for the users of a password file if any."""

    def __init__(self, registry: Registry, users: PasswordFile | None = None) -> None:
        self._registry = registry
        self._users = users
        blob, upload = BlobEndpoints(registry), UploadEndpoints(registry)
        manifest = self._manifest = ManifestEndpoints(registry)
        self._endpoints: Mapping[tuple[Resource, str], Endpoint] = {
            (Resource.BLOB, "GET"): blob.read,
            (Resource.BLOB, "DELETE"): blob.delete,
            (Resource.UPLOADS, "POST"): upload.start,
            (Resource.UPLOAD, "GET"): upload.status,
            (Resource.UPLOAD, "PATCH"): upload.append,
            (Resource.UPLOAD, "PUT"): upload.finish,
            (Resource.UPLOAD, "DELETE"): upload.cancel,
            (Resource.MANIFEST, "GET"): manifest.read,
            (Resource.MANIFEST, "PUT"): manifest.put,
            (Resource.MANIFEST, "DELETE"): manifest.delete,
            (Resource.TAGS, "GET"): manifest.tags,
            (Resource.REFERRERS, "GET"): manifest.referrers,
        }

    def __call__(self, request: Request) -> Response:
        """The response, also for what is refused."""
        try:
            response = self._answer(request)
        except ProtocolError as error:
            response = error_response(error)
        return replace(response, headers={**_EVERY_RESPONSE, **response.headers})

    def check_user(self, request: Request) -> None:
        """Raises ProtocolError (401) unless the request may be served at all."""
        header = request.headers.first("Authorization")
        if self._users is not None and not self._users.accepts(header):
            message = "authentication required"
            headers = {"WWW-Authenticate": 'Basic realm="dockerpush", charset="UTF-8"'}
            raise ProtocolError(401, UNAUTHORIZED, message, headers=headers)

    def _answer(self, request: Request) -> Response:
        self.check_user(request)
        route = parse_route(request.path)
        check_method(route, request.method)
        if self._registry.read_only and request.method not in READING:
            headers = {"Allow": ", ".join(READING)}
            raise ProtocolError(
                405, DENIED, "the registry is read-only", headers=headers
            )
        if route.resource is Resource.BASE:
            return json_response({})
        if route.repository is None:
            return self._manifest.catalog(request)
        method = "GET" if request.method == "HEAD" else request.method
        endpoint = self._endpoints[route.resource, method]
        return endpoint(request, route.repository, route.item)
