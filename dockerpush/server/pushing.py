"""The endpoints of blob uploads."""

from __future__ import annotations

import contextlib
from typing import Iterator

from .checked_names import Repository, SessionId, parse_digest
from .embedded import Registry
from .messages import Request, Response, parse_content_range, upload_range
from .protocol_errors import DIGEST_INVALID, ProtocolError

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
        session = self._registry.start_upload(name, algorithm)
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
        """Single POST. What arrived of a broken one is of no use to anybody."""
        wanted = parse_digest(digest)
        session = self._registry.start_upload(name, wanted.algorithm)
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
    """Give a 416 the Location to go on from."""
    try:
        yield
    except ProtocolError as error:
        if error.status == 416:
            error.headers["Location"] = _location(name, session)
        raise
