"""Upload sessions, as a registry's answers describe them."""

from __future__ import annotations

import re
from urllib.parse import quote

from ..errors import RegistryError
from ..expressions import expression
from ..oci import Digest
from ..values import field, value
from .answers import Answer
from .debug import one_line, show_url, uploads_log
from .locations import resolve_own


@value
class Upload:
    """An open upload session.

    *location* is an absolute URL and a secret: it may carry a signature. *offset* is
    how many bytes the registry has acknowledged. *min_chunk* and *max_chunk* are the
    bytes that it wants in a chunk (OCI-Chunk-Min-Length, OCI-Chunk-Max-Length).
    """

    location: str = field(repr=False)
    offset: int = 0
    min_chunk: int | None = None
    max_chunk: int | None = None


def opened_upload(repository: str, response: Answer) -> Upload:
    """The session that *response* has opened. Raises RegistryError without a place."""
    location = response.header("Location")
    session = response.header("Docker-Upload-UUID")
    if not location and session and re.fullmatch(r"[\w.=-]{1,200}", session):
        location = f"/v2/{repository}/blobs/uploads/{session}"
    if not location:
        error = RegistryError("POST", show_url(response.url), response.status)
        raise error.in_words(
            f"cannot push to {response.host}/{repository}: the registry opened "
            "an upload without a Location; report it to the registry's operator"
        )
    upload = Upload(resolve_own(location, response.url))
    return updated_upload(upload, response, 0)


def updated_upload(upload: Upload, response: Answer, offset: int) -> Upload:
    """*upload* after *response*: where it continues, at *offset*, in what chunks."""
    location = response.header("Location")
    lowest = chunk_length(response.header("OCI-Chunk-Min-Length"))
    highest = chunk_length(response.header("OCI-Chunk-Max-Length"))
    return Upload(
        resolve_own(location, response.url) if location else upload.location,
        offset,
        upload.min_chunk if lowest is None else lowest,
        upload.max_chunk if highest is None else highest,
    )


def with_digest(location: str, digest: Digest) -> str:
    """*location* with the ``digest`` that closes an upload, the rest untouched."""
    joint = "&" if "?" in location else "?"
    if location.endswith(("?", "&")):
        joint = ""
    return f"{location}{joint}digest={quote(digest, safe='')}"


_RANGE = expression(r"(?:bytes[= ])?0*?([0-9]{1,18})-(-?[0-9]{1,18})")


def reported_offset(value: str | None) -> int | None:
    """The bytes that a Range header of a session refers to; None for none.

    ``0--1`` and ``0-0`` mean an empty session: the one is Gitea's and Quay's way, the
    other that of distribution 2, which also says so of one byte; a session with one
    byte is not worth keeping.
    """
    match = _RANGE.fullmatch((value or "").strip())
    if match is None:
        return None
    last = int(match[2])
    return 0 if last <= 0 else last + 1


def acknowledged(value: str | None, start: int, size: int) -> int:
    """The offset after a PATCH of *size* bytes at *start* was answered with success.

    A Range header that says less counts, if it lies inside the chunk; one that cannot
    be true (per chunk: Aliyun, regclient#627; one too many: Quay) does not.
    """
    reported = reported_offset(value)
    if reported is not None and start < reported < start + size:
        return reported
    return start + size


def chunk_length(value: str | None) -> int | None:
    """Bytes in OCI-Chunk-Min-Length or OCI-Chunk-Max-Length; None for none."""
    text = (value or "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None


def log_upload(upload: Upload, text: str, *values: object) -> None:
    """One line for OCI_DEBUG_UPLOAD: what happened to which session."""
    uploads_log.debug(f"upload session %s: {text}", show_url(upload.location), *values)


def shown_range(header: str | None) -> str:
    """The registry's own words, which need not be a range."""
    return "no Range" if header is None else f"Range {one_line(header, 60)}"
