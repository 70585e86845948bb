"""Scripted answers: what `responses` scripts, given to urllib3.

`responses` replaces what requests sends; here urllib3's one way out,
``HTTPConnectionPool.urlopen``, hands every request to it. So no socket is opened, and
everything above urllib3 is the real thing.
"""

from __future__ import annotations

from typing import Any, Iterator, Mapping

import pytest
import requests
import responses
import urllib3

DEFAULT_PORTS = {"http": 80, "https": 443}


@pytest.fixture(name="scripted")
def scripted_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[responses.RequestsMock]:
    """Add answers with ``scripted.add(method, url, ...)``; look at ``scripted.calls``.

    An answer that nobody asked for fails the test, and so does a question that has no
    answer. Of several answers to one request each is given once, the last for ever.
    """
    with responses.RequestsMock() as mock, requests.Session() as session:
        session.trust_env = False
        monkeypatch.setattr(urllib3.HTTPConnectionPool, "urlopen", _urlopen(session))
        yield mock


def _urlopen(session: requests.Session) -> Any:
    def urlopen(
        pool: urllib3.HTTPConnectionPool,
        method: str,
        url: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Any:
        assert options.get("redirect") is False, "urllib3 must not follow redirects"
        assert options.get("retries") is False, "urllib3 must not retry"
        content = None if body is None else b"".join(bytes(piece) for piece in body)
        if content is not None:
            assert (headers or {})["Content-Length"] == str(len(content))
        request = requests.Request(
            method, _without_default_port(pool, url), headers=headers, data=content
        ).prepare()
        if content and "urlencoded" in request.headers.get("Content-Type", ""):
            request.body = content.decode()  # as the matchers of forms want it
        try:
            return session.send(request, stream=True, allow_redirects=False).raw
        except requests.exceptions.ConnectionError as error:
            raise AssertionError(f"no answer is scripted: {error}") from error

    return urlopen


def _without_default_port(pool: urllib3.HTTPConnectionPool, url: str) -> str:
    """The absolute URL of *url* in *pool*, as a test writes it."""
    if url.startswith(("http://", "https://")):
        return url
    host = f"[{pool.host}]" if ":" in pool.host else pool.host
    port = "" if pool.port == DEFAULT_PORTS[pool.scheme] else f":{pool.port}"
    return f"{pool.scheme}://{host}{port}{url}"


def asked(mock: responses.RequestsMock) -> list[str]:
    """``METHOD URL`` of every request so far."""
    return [f"{call.request.method} {call.request.url}" for call in mock.calls]


def authorizations(mock: responses.RequestsMock) -> list[str | None]:
    """The Authorization of every request so far."""
    return [call.request.headers.get("Authorization") for call in mock.calls]
