"""Answers that were not asked for, as errors that carry the registry's words."""

from __future__ import annotations

import json
from typing import Any

from ..errors import (
    NetworkError,
    NotFoundInRegistry,
    PusherError,
    RegistryError,
    TransientError,
    Unauthorized,
)
from ..expressions import expression
from .debug import one_line, show_url
from .failures import speaks_tls
from .locations import Place
from .retry import TRANSIENT_STATUSES, parse_retry_after
from .transport import Response

ERROR_LIMIT = 64 * 1024
"""Bytes of an error's body that are read."""

_WANTS_TLS = (
    "sent an http request to an https server",
    "plain http request was sent to https port",
)
_INVISIBLE = expression(r"(?is)<(script|style|head)\b.*?(</\1>|\Z)|<!--.*?(-->|\Z)")
_TAG = expression(r"<[^<>]*>")
_TITLE = expression(r"(?is)<title[^>]*>(.*?)</title>")


def failure(response: Response, advice: str = "") -> PusherError:
    """The error that *response* stands for; reads its body, and does not close it.

    *advice* is appended to what the registry says. TransientError for the statuses that
    may pass, Unauthorized for 401 and 403, NotFoundInRegistry for 404.
    """
    status, url = response.status, show_url(response.url)
    code, detail = explanation(_body(response))
    if status == 400 and any(words in detail.lower() for words in _WANTS_TLS):
        return speaks_tls(Place.parse(response.url).origin.host_port)
    detail = "; ".join(part for part in (detail, advice) if part)
    kind = {401: Unauthorized, 403: Unauthorized, 404: NotFoundInRegistry}.get(
        status, RegistryError
    )
    error = kind(response.method, url, status, code, detail)
    if status in TRANSIENT_STATUSES:
        wait = parse_retry_after(response.header("Retry-After"))
        return TransientError(str(error), status=status, retry_after=wait)
    return error


def _body(response: Response) -> bytes:
    try:
        return response.read(ERROR_LIMIT)
    except NetworkError:
        return b""  # the status says enough


def explanation(body: bytes) -> tuple[str, str]:
    """(code, message) of an error's *body*; each may be "".

    Knows the registry's JSON (distribution-spec, Error Codes), other JSON with a
    message, HTML of proxies, and plain text.
    """
    text = body.decode("utf-8", "replace")
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return "", one_line(_visible(text))
    if not isinstance(record, dict):
        return "", one_line(str(record))
    errors = record.get("errors")
    if isinstance(errors, list) and errors:
        return _from_list(errors)
    words = (record.get(key) for key in ("message", "error_description", "error"))
    said = next((word for word in words if isinstance(word, str) and word), "")
    code = record.get("code")
    return one_line(code if isinstance(code, str) else "", 80), one_line(said)


def _from_list(errors: list[Any]) -> tuple[str, str]:
    known = [error for error in errors[:5] if isinstance(error, dict)]
    codes = [error["code"] for error in known if isinstance(error.get("code"), str)]
    said: list[str] = []
    for error in known:
        words = [error.get("message"), _about(error.get("detail"))]
        said.append(" ".join(word for word in words if isinstance(word, str) and word))
    return (
        one_line(codes[0], 80) if codes else "",
        one_line("; ".join(dict.fromkeys(part for part in said if part))),
    )


def _about(detail: Any) -> str:
    """What *detail* adds to a message: its text, or the digest that it is about."""
    if isinstance(detail, dict):
        detail = detail.get("digest") or detail.get("Digest") or ""
    return f"({detail})" if isinstance(detail, str) and detail else ""


def _visible(text: str) -> str:
    if "<" not in text:
        return text
    import html  # a table of 2,000 names, for answers that hardly ever come

    plain = html.unescape(_TAG.sub(" ", _INVISIBLE.sub(" ", text))).strip()
    title = _TITLE.search(text)
    return plain or (html.unescape(title[1]) if title else "")
