"""What may be shown, and that secrets are not."""

from __future__ import annotations

import logging
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockerpush.credentials.identity import NO_SECRET, Credentials, Secret
from dockerpush.registry.answers import explanation
from dockerpush.registry.debug import log_request, one_line, show_url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://a/v2/", "https://a/v2/"),
        ("https://a/u/1?_state=s3cret", "https://a/u/1?…"),
        (
            "https://a/u/1?_state=s3cret&digest=sha256:1",
            "https://a/u/1?digest=sha256:1&…",
        ),
        ("https://a/x?X-Amz-Signature=s3cret&n=1", "https://a/x?n=1&…"),
        (
            "https://a/t?account=bob&scope=repository:a:pull",
            "https://a/t?scope=repository:a:pull&…",
        ),
        ("https://bob:s3cret@a/x", "https://a/x"),
        ("https://a/x#s3cret", "https://a/x"),
        ("/v2/\x1b[31m\n", "/v2/ [31m"),
    ],
)
def test_only_known_parameters_are_shown(url, shown):
    assert show_url(url) == shown


@given(st.text(alphabet="abc=&?#_%", max_size=40))
def test_an_unknown_parameter_is_never_shown(query):
    assert "s3cret" not in show_url(f"https://a/x?_state=s3cret&{query}")


@given(st.text())
def test_a_line_is_one_printable_line(text):
    line = one_line(text)
    assert len(line) <= 300
    assert "\n" not in line
    assert "\x1b" not in line


def test_a_request_is_one_line_with_its_scope(caplog):
    with caplog.at_level(logging.DEBUG, "dockerpush.registry.requests"):
        log_request(
            "PUT", "https://a/u?_state=s3cret", 201, scopes=("repo:x",), seconds=0.0123
        )
    assert caplog.messages == ["PUT https://a/u?… -> 201 scope=repo:x 12 ms"]


def test_a_secret_shows_only_where_it_is_revealed():
    secret = Secret("s3cret")
    credentials = Credentials("bob", secret, source="a file")
    for text in (f"{secret}", f"{secret!r}", f"{secret!s:>10}", "%s" % secret):  # noqa: UP031
        assert "s3cret" not in text
    assert "s3cret" not in repr(credentials)
    assert "'bob'" in repr(credentials)
    assert secret.reveal() == "s3cret"
    assert secret == Secret("s3cret")
    assert secret != Secret("other")
    assert secret != "s3cret"
    assert not NO_SECRET
    assert len({secret, Secret("s3cret")}) == 1
    with pytest.raises(TypeError):
        "Bearer " + secret  # type: ignore[operator]
    assert pickle.loads(pickle.dumps(secret)) == secret


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        (b"", "", ""),
        (b'{"errors":[{"code":"DENIED","message":"no"}]}', "DENIED", "no"),
        (
            b'{"errors":[{"code":"A","message":"x"},{"code":"B","message":"y"}]}',
            "A",
            "x; y",
        ),
        (b'{"errors":[{"code":"A","message":"x","detail":"y"}]}', "A", "x (y)"),
        (b'{"errors":[{"message":"x","detail":{"digest":"d"}}]}', "", "x (d)"),
        (b'{"errors":[{"code":3,"message":null,"detail":[1]}]}', "", ""),
        (b'{"errors":[]}', "", ""),
        (b'{"errors":["x"]}', "", ""),
        (b'{"error":"invalid_scope","error_description":"bad"}', "", "bad"),
        (b'{"message":"slow down","code":"THROTTLED"}', "THROTTLED", "slow down"),
        (b'"just text"', "", "just text"),
        (b"too many\r\nrequests\x1b[2J", "", "too many requests [2J"),
        (
            b"<title>413</title><style>x</style><h1>a &lt; b</h1>",
            "",
            "413 a < b",
        ),
        (b"<html><head><title>Denied</title></head></html>", "", "Denied"),
        (b"\xff\xfe", "", "\ufffd\ufffd"),
    ],
)
def test_the_registrys_words_become_one_line(body, code, words):
    assert explanation(body) == (code, words)


@given(st.binary())
def test_any_body_has_an_explanation(body):
    code, words = explanation(body)
    assert len(code) <= 80
    assert len(words) <= 300


def test_a_hostile_page_takes_linear_time():
    for page in (b"<" * 60_000, b"<script>" * 8000, b"<!--" * 16_000, b"[" * 60_000):
        explanation(page)
