"""What may be shown of a request: one place that turns URLs and answers into text.

Rules: a header is never shown. Of a query only the parameters in `_SHOWN` are, so that
an upload's state, a signature or a token cannot slip through under a new name. What a
server says is cut to one line without control characters.

Two loggers carry the lines: ``dockerpush.registry.requests`` has one line for each
request, and ``dockerpush.registry.uploads`` what happens to upload sessions, which the
command line shows alone with OCI_DEBUG_UPLOAD=1.
"""

from __future__ import annotations

import logging

from ..expressions import expression

requests_log = logging.getLogger("dockerpush.registry.requests")
uploads_log = logging.getLogger("dockerpush.registry.uploads")

_SHOWN = frozenset(
    ("digest", "mount", "from", "n", "last", "artifactType", "scope", "service")
)
_UNPRINTABLE = expression(r"[^\x20-\x7e\u00a1-\u1fff\u2010-\u2027\u2030-\ufffd]+")


def show_url(url: str) -> str:
    """*url* without its secrets: no user, no fragment, no unknown parameter."""
    head, _, query = url.partition("#")[0].partition("?")
    scheme, separator, rest = head.partition("://")
    if separator:
        authority, slash, path = rest.partition("/")
        head = f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"
    shown = [part for part in query.split("&") if part.partition("=")[0] in _SHOWN]
    if query and len(shown) < len(query.split("&")):
        shown.append("…")
    return one_line(head + ("?" + "&".join(shown) if shown else ""), 500)


def one_line(text: str, limit: int = 300) -> str:
    """*text* as one printable line of at most *limit* characters."""
    text = text[: limit * 20]
    if not (text.isascii() and text.isprintable()):
        text = _UNPRINTABLE.sub(" ", text)
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def log_request(
    method: str, url: str, status: int, *, scopes: tuple[str, ...], seconds: float
) -> None:
    """One line for OCI_DEBUG about an answered request."""
    if not requests_log.isEnabledFor(logging.DEBUG):
        return  # to show the URL costs more than all the rest
    requests_log.debug(
        "%s %s -> %d scope=%s %d ms",
        method,
        show_url(url),
        status,
        ",".join(scopes) or "-",
        round(seconds * 1000),
    )
