"""The endpoints of the distribution-spec: a request in, a response out."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from typing import IO, Callable, Iterable, Iterator, Mapping

from ..oci import JSON_LIMIT, Digest
from ..values import replace
from .browsers import Browsers
from .checked_names import Repository, SessionId, Tag, parse_digest, parse_reference
from .embedded import IN_MEMORY, Registry
from .http_request import pieces
from .logins import PasswordFile
from .messages import (
    DENIED,
    DIGEST_INVALID,
    MANIFEST_INVALID,
    READING,
    SIZE_INVALID,
    UNAUTHORIZED,
    UNKNOWN,
    UNSUPPORTED,
    Incoming,
    ProtocolError,
    Request,
    Response,
    Span,
    error_response,
    index_response,
    json_response,
    media_type_of,
    parse_content_range,
    parse_range,
    upload_range,
)
from .read_only import index_of, stated_type
from .records import METRICS_TYPE, Metrics
from .routes import (
    METHODS,
    Resource,
    Route,
    check_method,
    page_of_names,
    page_of_referrers,
    parse_route,
)
from .slots import is_loopback
from .storage import ServedManifest


class BlobEndpoints:
    """``/v2/<name>/blobs/<digest>``"""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def read(self, request: Request, name: Repository, item: str) -> Response:
        """The blob or a part of it (Pulling blobs)."""
        digest = parse_digest(item)
        size = self._registry.blob_size(name, digest)
        headers = {
            "Content-Type": "application/octet-stream",
            "Accept-Ranges": "bytes",
            "Docker-Content-Digest": str(digest),
        }
        if request.method == "HEAD":
            return Response(200, headers, b"", size)
        whole = request.headers.first("If-Range") is not None  # we give no validators
        span = None if whole else parse_range(request.headers.first("Range"), size)
        start, count = span or (0, size)
        content = self._registry.open_blob(name, digest, start, count)
        if span is None:
            return Response(200, headers, Span(content, count), count)
        headers["Content-Range"] = f"bytes {start}-{start + count - 1}/{size}"
        return Response(206, headers, Span(content, count), count)

    def delete(self, request: Request, name: Repository, item: str) -> Response:
        """Deleting Blobs."""
        self._registry.delete_blob(name, parse_digest(item))
        return Response.of(202, {})


class ManifestEndpoints:
    """``/v2/<name>/manifests/<reference>``, tags and referrers."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def read(self, request: Request, name: Repository, item: str) -> Response:
        """The manifest, byte for byte (Pulling manifests)."""
        reference = parse_reference(item)
        kind, digest, content, size = self._registry.open_manifest(name, reference)
        headers = {"Content-Type": kind, "Docker-Content-Digest": str(digest)}
        if isinstance(content, bytes):
            return Response(200, headers, content, size)
        if request.method == "HEAD":
            content.close()
            return Response(200, headers, b"", size)
        return Response(200, headers, Span(content, size), size)

    def put(self, request: Request, name: Repository, item: str) -> Response:
        """Pushing Manifests, under a tag, a digest, or a digest with tags."""
        reference = parse_reference(item)
        if reference is None:
            raise ProtocolError(400, MANIFEST_INVALID, f"not a tag: {item[:160]!r}")
        asked = [item] if isinstance(reference, Tag) else []
        tags = _parse_tags(asked + request.query.get("tag", []))
        with self._registry.spool() as file:
            _receive(request.body, file)
            with self._registry.large_json:
                manifest = _read_manifest(request, file, reference)
                subject = self._registry.put_manifest(name, manifest, tags)
        headers = {
            "Location": f"/v2/{name}/manifests/{manifest.digest}",
            "Docker-Content-Digest": str(manifest.digest),
        }
        if subject is not None:
            headers["OCI-Subject"] = str(subject)
        if tags:
            headers["OCI-Tag"] = ", ".join(tags)
        return Response.of(201, headers)

    def delete(self, request: Request, name: Repository, item: str) -> Response:
        """Deleting tags, Deleting Manifests."""
        with self._registry.large_json:
            self._registry.delete_manifest(name, parse_reference(item))
        return Response.of(202, {})

    def tags(self, request: Request, name: Repository, item: str) -> Response:
        """Listing Tags."""
        with self._registry.large_json:
            page, headers = page_of_names(request, self._registry.tags(name))
            record = {"name": name, "tags": page}
            return self._spooled(json_response(record, headers))

    def referrers(self, request: Request, name: Repository, item: str) -> Response:
        """Listing Referrers."""
        last, subject = request.parameter("last") or "", parse_digest(item)
        with self._registry.large_json:
            entries = self._registry.referrers(name, subject, last)
            page, headers = page_of_referrers(request, entries)
            return self._spooled(index_response(index_of(page), headers))

    def catalog(self, request: Request) -> Response:
        """``/v2/_catalog``, which Docker's registry has (not in the specification)."""
        with self._registry.large_json:
            page, headers = page_of_names(request, self._registry.repositories())
            return self._spooled(json_response({"repositories": page}, headers))

    def _spooled(self, response: Response) -> Response:
        """*response*; a large one waits for its client in a file, not in memory."""
        content = response.content
        if not isinstance(content, bytes) or len(content) <= IN_MEMORY:
            return response
        file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  (closed when sent)
        file.write(content)
        file.seek(0)
        return replace(response, content=Span(file, response.size))


def _parse_tags(texts: list[str]) -> tuple[Tag, ...]:
    tags = []
    for text in texts:
        tag = Tag.parse(text)
        if tag is None:
            raise ProtocolError(400, MANIFEST_INVALID, f"not a tag: {text[:160]!r}")
        tags.append(tag)
    return tuple(dict.fromkeys(tags))


def _receive(body: Incoming, file: IO[bytes]) -> None:
    """Write a manifest to *file*. Raises ProtocolError (413)."""
    too_large = (body.length or 0) > JSON_LIMIT
    for piece in () if too_large else pieces(body):
        file.write(piece)
        if file.tell() > JSON_LIMIT:
            too_large = True
            break
    if too_large:
        message = f"a manifest may have {JSON_LIMIT} bytes"
        raise ProtocolError(413, SIZE_INVALID, message)


def _read_manifest(
    request: Request, file: IO[bytes], reference: Tag | Digest
) -> ServedManifest:
    """What is in *file*, which has the digest that *reference* is, if it is one."""
    file.seek(0)
    raw = file.read()
    algorithm = reference.algorithm if isinstance(reference, Digest) else "sha256"
    digest = Digest.from_hash(hashlib.new(algorithm, raw))
    if isinstance(reference, Digest) and digest != reference:
        message = f"wanted {reference}, the bytes received are {digest}"
        raise ProtocolError(400, DIGEST_INVALID, message)
    content_type = media_type_of(request.headers.first("Content-Type") or "")
    return ServedManifest(content_type or stated_type(raw), digest, raw)


ALGORITHMS = ("sha256", "sha384", "sha512")


class UploadEndpoints:
    """``/v2/<name>/blobs/uploads/`` and the sessions below it."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def start(self, request: Request, name: Repository, item: str) -> Response:
        """A session, a whole blob at once, or a mount from another repository."""
        mount, digest = request.parameter("mount"), request.parameter("digest")
        if mount is not None:
            wanted = parse_digest(mount)
            if self._registry.mount(name, wanted, request.parameter("from")):
                return _created(name, mount)
        elif digest is not None:
            return self._whole(request, name, digest)
        algorithm = request.parameter("digest-algorithm") or "sha256"
        if algorithm not in ALGORITHMS:
            message = f"unknown digest-algorithm: {algorithm[:40]!r}"
            raise ProtocolError(400, DIGEST_INVALID, message)
        session = self._registry.start_upload(name, algorithm, request.address)
        response = _accepted(name, session, 0)
        if self._registry.min_chunk is None:
            return response
        minimum = {"OCI-Chunk-Min-Length": str(self._registry.min_chunk)}
        return Response.of(202, {**response.headers, **minimum})

    def status(self, request: Request, name: Repository, item: str) -> Response:
        """How many bytes the session holds, in its Range header."""
        session = SessionId.parse(item)
        size = self._registry.upload_size(name, session)
        return Response.of(204, _progress(name, session, size))

    def append(self, request: Request, name: Repository, item: str) -> Response:
        """A chunk, with a Content-Range; or, without one, whatever comes next."""
        session = SessionId.parse(item)
        start = _start(request)
        with _located(name, session):
            size = self._registry.append(name, session, request.body, start)
        return _accepted(name, session, size)

    def finish(self, request: Request, name: Repository, item: str) -> Response:
        """The last chunk, if any, and the digest of all of them."""
        session = SessionId.parse(item)
        digest = request.parameter("digest")
        if digest is None:
            message = "the digest parameter is missing"
            raise ProtocolError(400, DIGEST_INVALID, message)
        wanted, start = parse_digest(digest), _start(request)
        with _located(name, session):
            self._registry.finish_upload(
                name, session, request.body, start=start, digest=wanted
            )
        return _created(name, digest)

    def cancel(self, request: Request, name: Repository, item: str) -> Response:
        """Cancel a blob upload."""
        self._registry.cancel_upload(name, SessionId.parse(item))
        return Response.of(204, {})

    def _whole(self, request: Request, name: Repository, digest: str) -> Response:
        """Single POST. A broken one leaves nothing that anybody can use."""
        wanted = parse_digest(digest)
        session = self._registry.start_upload(name, wanted.algorithm, request.address)
        try:
            self._registry.finish_upload(
                name, session, request.body, start=None, digest=wanted
            )
        finally:
            self._registry.drop_upload(name, session)
        return _created(name, digest)


def _start(request: Request) -> int | None:
    text = request.headers.first("Content-Range")
    return parse_content_range(text, request.body.length)


def _location(name: Repository, session: SessionId) -> str:
    return f"/v2/{name}/blobs/uploads/{session}"


def _progress(name: Repository, session: SessionId, size: int) -> dict[str, str]:
    return {
        "Location": _location(name, session),
        "Range": upload_range(size),
        "Docker-Upload-UUID": str(session),
    }


def _accepted(name: Repository, session: SessionId, size: int) -> Response:
    return Response.of(202, _progress(name, session, size))


def _created(name: Repository, digest: str) -> Response:
    location = f"/v2/{name}/blobs/{digest}"
    return Response.of(201, {"Location": location, "Docker-Content-Digest": digest})


@contextlib.contextmanager
def _located(name: Repository, session: SessionId) -> Iterator[None]:
    """Give a 416 the Location to continue from."""
    try:
        yield
    except ProtocolError as error:
        if error.status == 416:
            error.headers["Location"] = _location(name, session)
        raise


Endpoint = Callable[[Request, Repository, str], Response]

_EVERY_RESPONSE = {"Docker-Distribution-Api-Version": "registry/2.0"}


class Api:
    """Answers requests out of a registry, for the users of a password file if any.

    *names* are those under which browsers find it. *metrics* are for its users, and
    without any for this machine, unless they are public (*metrics_public*). *page*
    gives the page that a person asked for.
    """

    def __init__(
        self,
        registry: Registry,
        users: PasswordFile | None = None,
        *,
        names: Iterable[str] = (),
        metrics: Metrics | None = None,
        metrics_public: bool = False,
        page: Callable[[Request], Response | None] = lambda _: None,
    ) -> None:
        self._registry = registry
        self._users = users
        self._browsers = Browsers(names)
        self._metrics = metrics or Metrics()
        self._metrics_public = metrics_public
        self._page = page
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

    def close(self) -> None:
        """End what requests wait for: the server stops."""
        if self._users is not None:
            self._users.close()

    def rejected_logins(self) -> int:
        """How many logins were wrong."""
        return 0 if self._users is None else self._users.rejected

    def settle(self, seconds: float) -> bool:
        """Wait for what cannot be ended; false when it takes longer than that."""
        return self._users is None or self._users.settle(seconds)

    def check_user(self, request: Request) -> None:
        """Raises ProtocolError (401) unless the request may be served at all."""
        header = request.headers.first("Authorization")
        users = self._users
        if users is not None and not users.accepts(header, request.address):
            message = "authentication required"
            headers = {"WWW-Authenticate": 'Basic realm="dockerpush", charset="UTF-8"'}
            raise ProtocolError(401, UNAUTHORIZED, message, headers=headers)

    def _answer(self, request: Request) -> Response:
        if request.path == "/healthz":
            return self._health(request)
        self._browsers.check(request)
        if request.path == "/metrics":
            return self._measured(request)
        self.check_user(request)
        page = self._page(request)
        if page is not None:
            return page
        route = parse_route(request.path)
        check_method(route, request.method)
        self._check_allowed(request, route)
        if route.resource is Resource.BASE:
            return json_response({})
        if route.repository is None:
            return self._manifest.catalog(request)
        method = "GET" if request.method == "HEAD" else request.method
        endpoint = self._endpoints[route.resource, method]
        return endpoint(request, route.repository, route.item)

    def _check_allowed(self, request: Request, route: Route) -> None:
        """Raises ProtocolError (405) for what this registry is set not to do."""
        kept = not self._registry.deletes and route.resource is not Resource.UPLOAD
        if self._registry.read_only and request.method not in READING:
            message = "the registry is read-only"
            allowed: tuple[str, ...] = READING
        elif kept and request.method == "DELETE":
            message = "deletes are switched off (serve --no-delete)"
            allowed = tuple(x for x in METHODS[route.resource] if x != "DELETE")
        else:
            return
        headers = {"Allow": ", ".join(allowed)}
        raise ProtocolError(405, DENIED, message, headers=headers)

    def _health(self, request: Request) -> Response:
        """For whoever starts servers again that do not work."""
        _check_reading(request)
        if self._registry.is_healthy():
            return json_response({"status": "ok"})
        raise ProtocolError(503, UNKNOWN, "the directory of the registry is gone")

    def _measured(self, request: Request) -> Response:
        _check_reading(request)
        if not self._metrics_public:
            self.check_user(request)
            if self._users is None and not is_loopback(request.address):
                message = "metrics are for this machine; see serve --metrics-public"
                raise ProtocolError(403, DENIED, message)
        text = self._metrics.text().encode()
        return Response.of(200, {"Content-Type": METRICS_TYPE}, text)


def _check_reading(request: Request) -> None:
    if request.method not in READING:
        headers = {"Allow": ", ".join(READING)}
        message = f"{request.method} is not for this endpoint"
        raise ProtocolError(405, UNSUPPORTED, message, headers=headers)
