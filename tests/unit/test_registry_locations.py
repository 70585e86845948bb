"""Locations and ranges, as registries and the proxies before them write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockerpush.errors import NetworkError
from dockerpush.oci import Digest
from dockerpush.registry.locations import resolve_location, resolve_own, same_origin
from dockerpush.registry.uploads import (
    acknowledged,
    chunk_length,
    reported_offset,
    with_digest,
)

HERE = "https://r.example.com:8443/v2/a/b/blobs/uploads/?mount=x"
BLOB = Digest.of(b"")


@pytest.mark.parametrize(
    ("location", "url"),
    [
        (
            "/v2/a/u/1?_state=a%2Fb==",
            "https://r.example.com:8443/v2/a/u/1?_state=a%2Fb==",
        ),
        ("1?_state=x", "https://r.example.com:8443/v2/a/b/blobs/uploads/1?_state=x"),
        ("?_state=x", "https://r.example.com:8443/v2/a/b/blobs/uploads/?_state=x"),
        ("//r.example.com:8443/x", "https://r.example.com:8443/x"),
        ("r.example.com:8443/x?y", "https://r.example.com:8443/x?y"),  # no scheme
        ("other.example.com/v2/x", "https://other.example.com/v2/x"),
        ("https://other.example.com/x#y", "https://other.example.com/x"),
        ("https://other.example.com", "https://other.example.com/"),
        ("https://r.example.com/x", "https://r.example.com/x"),
        ("HTTPS://R.Example.COM:8443/X", "https://r.example.com:8443/X"),
        ("https://r.example.com:9443/x", "https://r.example.com:9443/x"),
        (" https://r.example.com:8443/x ", "https://r.example.com:8443/x"),
    ],
)
def test_a_location_is_understood_as_it_was_meant(location, url):
    assert resolve_location(location, HERE) == url


@pytest.mark.parametrize(
    ("location", "url"),
    [
        # a proxy ended the TLS (distribution#996), or lost the port (#2862)
        ("http://r.example.com:8443/v2/x", "https://r.example.com:8443/v2/x"),
        ("http://r.example.com/v2/x", "https://r.example.com:8443/v2/x"),
        ("http://r.example.com:5000/v2/x", "https://r.example.com:8443/v2/x"),
        ("https://r.example.com/v2/x", "https://r.example.com:8443/v2/x"),
        # storage beside the registry is not the registry
        ("https://r.example.com/minio/x", "https://r.example.com/minio/x"),
        ("https://r.example.com:9000/v2/x", "https://r.example.com:9000/v2/x"),
        ("https://other.example.com/v2/x", "https://other.example.com/v2/x"),
    ],
)
def test_only_the_registrys_own_paths_are_mended(location, url):
    assert resolve_own(location, HERE) == url


def test_plain_http_may_lead_anywhere():
    here = "http://127.0.0.1:5000/v2/"
    assert resolve_location("http://other/x", here) == "http://other/x"
    assert resolve_location("https://other/x", here) == "https://other/x"


@pytest.mark.parametrize(
    "location",
    [
        "http://r.example.com:8443/x",
        "http://r.example.com/v2/x",
        "http://other.example.com/x",
        "https://u:p@r.example.com/x",
        "ftp://r.example.com/x",
        "https://",
        "https://a:0/",
        "https://a:70000/",
        "https://a b/",
        "/x\r\nHost: evil",
        "https://r.example.com\\@evil.example.com/",
    ],
)
def test_a_location_that_cannot_be_trusted_is_refused(location):
    with pytest.raises(NetworkError):
        resolve_location(location, HERE)


@given(st.text(max_size=80))
def test_any_location_resolves_or_is_refused(text):
    try:
        url = resolve_location(text, HERE)
    except NetworkError:
        return
    assert url.startswith(("https://",))
    assert url.isprintable()


@given(st.sampled_from(["http", "https"]), st.sampled_from(["", ":80", ":443", ":1"]))
def test_the_own_host_stays_on_https(scheme, port):
    location = f"{scheme}://r.example.com{port}/v2/x"
    assert resolve_own(location, HERE).startswith("https")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("https://a/", "https://a:443/x", True),
        ("http://a/", "http://A:80", True),
        ("https://a/", "http://a/", False),
        ("https://a/", "https://b.a/", False),
        ("https://a/", "https://a:444/", False),
        ("https://[::1]/", "https://[::1]:443/", True),
    ],
)
def test_an_origin_is_scheme_host_and_effective_port(one, other, same):
    assert same_origin(one, other) is same


@pytest.mark.parametrize(
    ("location", "joined"),
    [
        ("https://a/u/1", "https://a/u/1?digest="),
        ("https://a/u/1?_state=x%2f&y", "https://a/u/1?_state=x%2f&y&digest="),
        ("https://a/u/1?", "https://a/u/1?digest="),
        ("https://a/u/1?x&", "https://a/u/1?x&digest="),
    ],
)
def test_a_digest_is_appended_and_nothing_else_changes(location, joined):
    assert with_digest(location, BLOB) == f"{joined}sha256%3A{BLOB.hex}"


@pytest.mark.parametrize(
    ("value", "offset"),
    [
        ("0-99", 100),
        ("bytes=0-99", 100),
        ("bytes 0-99", 100),
        ("0-0", 0),
        ("0--1", 0),
        ("bytes=0--1", 0),
        ("", None),
        (None, None),
        ("99", None),
        ("0-9999999999999999999999", None),
        ("a-b", None),
    ],
)
def test_a_range_is_read_in_all_its_forms(value, offset):
    assert reported_offset(value) == offset


@pytest.mark.parametrize(
    ("value", "offset"),
    [
        ("0-199", 200),
        ("0-200", 200),  # Quay: one too many
        ("0-99", 200),  # Aliyun: of the chunk alone
        ("0-149", 150),  # a part of it
        ("0-0", 200),
        (None, 200),
        ("0-9999", 200),
    ],
)
def test_what_was_acknowledged_is_believed_where_it_can_be(value, offset):
    assert acknowledged(value, 100, 100) == offset


@pytest.mark.parametrize(
    ("value", "length"),
    [
        ("5242880", 5242880),
        (" 5 ", 5),
        ("-1", None),
        ("x", None),
        (None, None),
        ("٣", None),
    ],
)
def test_chunk_lengths_are_numbers(value, length):
    assert chunk_length(value) == length
