"""The endpoints of an upload: open, add, ask, close, cancel."""

from __future__ import annotations

import re
from typing import Iterable

from ..errors import RegistryError
from ..oci import Digest
from .calls import PULL, PUSH, Caller, checked_repository, query
from .connections import Piece
from .debug import one_line, show_url, uploads_log
from .http_session import SAME_METHOD
from .locations import (
    Upload,
    acknowledged,
    chunk_length,
    reported_offset,
    resolve_location,
    with_digest,
)
from .manifest_calls import check_digest
from .transport import Response

OCTETS = {"Content-Type": "application/octet-stream"}


class UploadCalls(Caller):
    """Upload sessions (distribution-spec, Pushing Blobs)."""

    def start_upload(
        self,
        repository: str,
        *,
        mount: Digest | None = None,
        source: str | None = None,
    ) -> Upload | None:
        """An open session, or None when the blob *mount* was mounted from *source*.

        A registry that refuses a mount, in whatever way, is asked for a session with
        another request and a token for *repository* alone.
        """
        if mount is not None:
            try:
                return self._start(repository, mount, source)
            except RegistryError as error:
                uploads_log.debug("no mount of %s: %s", mount.short, error)
        return self._start(repository, None, None)

    def _start(
        self, repository: str, mount: Digest | None, source: str | None
    ) -> Upload | None:
        tail, scopes = "blobs/uploads/", [self._scope(repository, PUSH)]
        if mount is not None:
            tail += query(
                mount=mount, **({"from": checked_repository(source)} if source else {})
            )
            scopes += [self._scope(source, PULL)] if source else []
        call = self._call(
            "POST",
            repository,
            tail,
            (202,) if mount is None else (201, 202),
            scopes=tuple(scopes),
        )
        with self._sent(call, f"starting an upload to {repository}") as response:
            if response.status == 201:
                return None
            return self._opened(repository, response)

    def _opened(self, repository: str, response: Response) -> Upload:
        location = response.header("Location")
        session = response.header("Docker-Upload-UUID")
        if not location and session and re.fullmatch(r"[\w.=-]{1,200}", session):
            location = f"/v2/{repository}/blobs/uploads/{session}"
        if not location:
            raise RegistryError(
                "POST", show_url(response.url), 202, "", "an upload without a Location"
            )
        upload = Upload(resolve_location(location, response.url))
        _log(upload, "opened in %s", repository)
        return self._updated(upload, response, 0)

    def send_chunk(
        self, repository: str, upload: Upload, body: Iterable[Piece], size: int
    ) -> Upload:
        """The session after *body*, *size* bytes, was added at its offset.

        One attempt. The new offset is what the registry acknowledged: unchanged when it
        wants the same bytes sent to another location.
        """
        end = upload.offset + size - 1
        call = self._call(
            "PATCH",
            repository,
            upload.location,
            (200, 201, 202, 204, *SAME_METHOD),
            scopes=(self._scope(repository, PUSH),),
            headers={**OCTETS, "Content-Range": f"{upload.offset}-{end}"},
            stream=body,
            size=size,
        )
        with self._session.send(call) as response:
            told = response.header("Range")
            sent = f"{upload.offset}-{end}"
            _log(upload, "sent bytes %s: %d, %s", sent, response.status, _range(told))
            if response.status in SAME_METHOD:
                return self._updated(upload, response, upload.offset)
            offset = acknowledged(told, upload.offset, size)
            return self._updated(upload, response, offset)

    def upload_status(self, repository: str, upload: Upload) -> Upload:
        """The session as the registry says it stands, which need not be true.

        Raises NotFoundInRegistry when it is gone.
        """
        call = self._call(
            "GET",
            repository,
            upload.location,
            (200, 202, 204),
            scopes=(self._scope(repository, PUSH),),
        )
        with self._sent(call, "asking where the upload stands") as response:
            told = response.header("Range")
            _log(upload, "asked where it stands: %s", _range(told))
            offset = reported_offset(told)
            return self._updated(
                upload, response, upload.offset if offset is None else offset
            )

    def _updated(self, upload: Upload, response: Response, offset: int) -> Upload:
        location = response.header("Location")
        lowest = chunk_length(response.header("OCI-Chunk-Min-Length"))
        highest = chunk_length(response.header("OCI-Chunk-Max-Length"))
        return Upload(
            resolve_location(location, response.url) if location else upload.location,
            offset,
            upload.min_chunk if lowest is None else lowest,
            upload.max_chunk if highest is None else highest,
        )

    def finish_upload(
        self,
        repository: str,
        upload: Upload,
        digest: Digest,
        *,
        body: Iterable[Piece] | None = None,
        size: int = 0,
    ) -> None:
        """Close the session: from here on *repository* holds the blob *digest*.

        *body* are its last *size* bytes. One attempt. Raises ContentMismatch when the
        registry names another digest.
        """
        headers = dict(OCTETS)
        if body is not None and upload.offset:
            end = upload.offset + size - 1
            headers["Content-Range"] = f"{upload.offset}-{end}"
        call = self._call(
            "PUT",
            repository,
            with_digest(upload.location, digest),
            (200, 201, 204),
            scopes=(self._scope(repository, PUSH),),
            headers=headers,
            stream=body,
            size=size,
        )
        with self._session.send(call) as response:
            _log(upload, "closed at byte %d: %s", upload.offset + size, digest)
            check_digest(response, digest)

    def cancel_upload(self, repository: str, upload: Upload) -> None:
        """Have the registry forget the session. One attempt."""
        call = self._call(
            "DELETE",
            repository,
            upload.location,
            (200, 202, 204, 404),
            scopes=(self._scope(repository, PUSH),),
        )
        with self._session.send(call) as response:
            _log(upload, "cancelled, status %d", response.status)


def _log(upload: Upload, text: str, *values: object) -> None:
    """One line for OCI_DEBUG_UPLOAD: what happened to which session."""
    uploads_log.debug(f"upload session %s: {text}", show_url(upload.location), *values)


def _range(header: str | None) -> str:
    """The registry's own words, which need not be a range."""
    return "no Range" if header is None else f"Range {one_line(header, 60)}"
