"""Names, ranges and routes of the embedded registry: text in, values out."""

from __future__ import annotations

import contextlib
import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dockerpush.errors import PusherError
from dockerpush.oci import Digest
from dockerpush.server.checked_names import Repository, SessionId, Tag, parse_reference
from dockerpush.server.messages import (
    ProtocolError,
    media_type_of,
    parse_content_range,
    parse_range,
    upload_range,
)
from dockerpush.server.routes import Resource, Route, parse_route, split_target
from dockerpush.server.store_layout import StoreLayout

TAGS = st.text(string.ascii_letters + string.digits + "_.-", min_size=1, max_size=128)


@pytest.mark.parametrize(
    "name", ["a", "a/b", "a-b_c__d.e/f---g", "0/1", "a" * 255, "/".join("a" * 128)]
)
def test_a_repository_name_of_the_grammar_is_accepted(name):
    assert Repository(name) == name


@pytest.mark.parametrize(
    "name",
    [
        *["", "A", "a/", "/a", "a//b", "..", "a/../b", ".a", "a.", "a..b", "_a"],
        *["a\n", "a b", "a\\b", "a\0", "ä", "a" * 256, "c:/a", "~", "a/_tags", "%2e"],
        "a___b",
    ],
)
def test_any_other_repository_name_is_refused(name):
    with pytest.raises(ProtocolError) as caught:
        Repository(name)
    assert (caught.value.status, caught.value.code) == (400, "NAME_INVALID")


@settings(deadline=None)
@given(TAGS)
def test_a_tag_comes_back_from_its_file_name(text):
    tag = Tag.parse(text)
    if tag is None:
        assert text[0] in ".-"
        return
    assert Tag.from_file_name(tag.file_name) == tag
    assert tag.file_name == tag.file_name.lower()
    assert len(tag.file_name) <= 255


@settings(deadline=None)
@given(TAGS)
def test_no_two_tags_share_a_file_even_where_names_have_no_case(text):
    texts = {text, text.lower(), text.upper(), text.swapcase(), text.title()}
    tags = [tag for tag in map(Tag.parse, texts) if tag is not None]
    assert len({tag.file_name for tag in tags}) == len(tags)


@pytest.mark.parametrize("name", ["", "x", "v1", "v1=", "v1=z", "=0", ".=0", "a/b=0"])
def test_a_file_that_is_no_tag_is_not_listed(name):
    assert Tag.from_file_name(name) is None


TRICKS = ["..", ".", "/", "//", "%2e%2e", "%2f", "\\", "\0", "~", "C:", "a", "_tags"]
WORDS = ["blobs", "uploads", "manifests", "/blobs/", "/manifests/", "/blobs/uploads/"]
DIGEST = "sha256:" + "0" * 64
SESSION = "00000000-0000-0000-0000-000000000000"


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([*TRICKS, *WORDS, DIGEST, SESSION]), max_size=9).map(
        "".join
    )
    | st.text(max_size=300)
)
def test_no_text_leads_out_of_the_directory(text):
    """Whatever a client sends, the path it leads to is below the root."""
    root = Path("/srv/registry")
    layout = StoreLayout(root)
    try:
        route = parse_route(split_target(f"/v2/{text}")[0])
        name = route.repository or Repository("x")
    except ProtocolError:
        return
    paths = [layout.repository(name)]
    with contextlib.suppress(ProtocolError):
        paths.append(layout.upload(name, SessionId.parse(route.item)))
    try:
        reference = parse_reference(route.item)
    except ProtocolError:
        reference = None
    if isinstance(reference, Digest):
        paths += [layout.content(reference), layout.manifest_link(name, reference)]
    elif reference is not None:
        paths.append(layout.tag(name, reference))
    for path in paths:
        assert root in path.parents
        assert ".." not in path.parts


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/v2", Route(Resource.BASE)),
        ("/v2/", Route(Resource.BASE)),
        ("/v2/_catalog", Route(Resource.CATALOG)),
        ("/v2/a/b/tags/list", Route(Resource.TAGS, Repository("a/b"))),
        ("/v2/a/blobs/uploads/", Route(Resource.UPLOADS, Repository("a"))),
        ("/v2/a/blobs/uploads", Route(Resource.UPLOADS, Repository("a"))),
        ("/v2/a/blobs/uploads/x", Route(Resource.UPLOAD, Repository("a"), "x")),
        (
            "/v2/blobs/uploads/blobs/x",
            Route(Resource.BLOB, Repository("blobs/uploads"), "x"),
        ),
        ("/v2/a/blobs/sha256%3Aab", Route(Resource.BLOB, Repository("a"), "sha256:ab")),
        ("/v2/a/manifests/v1", Route(Resource.MANIFEST, Repository("a"), "v1")),
        ("/v2/tags/list/tags/list", Route(Resource.TAGS, Repository("tags/list"))),
        ("/v2/a/referrers/x", Route(Resource.REFERRERS, Repository("a"), "x")),
    ],
)
def test_a_path_has_one_meaning(target, expected):
    assert parse_route(split_target(target)[0]) == expected


@pytest.mark.parametrize(
    "path", ["", "/", "/v1/", "/v2/a", "/v2/tags/list", "/v3/a/tags/list", "v2/", "*"]
)
def test_a_path_without_meaning_is_not_found(path):
    with pytest.raises(ProtocolError) as caught:
        parse_route(path)
    assert caught.value.status == 404


@settings(deadline=None)
@given(st.integers(0, 50), st.integers(0, 60), st.integers(0, 60))
def test_a_range_is_what_python_slices(size, start, end):
    """For every blob and range: the same bytes as a slice, or a refusal."""
    content = bytes(range(size))
    try:
        found = parse_range(f"bytes={start}-{end}", size)
    except ProtocolError as error:
        assert error.status == 416
        assert start > end or start >= size
        return
    assert found is not None
    at, count = found
    assert content[at : at + count] == content[start : end + 1]
    assert count > 0


@settings(deadline=None)
@given(st.text(max_size=40), st.none() | st.integers(0, 10))
def test_no_content_range_breaks_the_parser(text, length):
    try:
        start = parse_content_range(text, length)
    except ProtocolError as error:
        assert error.status == 400
    else:
        assert start is not None
        assert start >= 0


@pytest.mark.parametrize(("size", "text"), [(0, "0-0"), (1, "0-0"), (2, "0-1")])
def test_an_upload_range_ends_with_its_last_byte(size, text):
    assert upload_range(size) == text


def test_a_media_type_loses_its_parameters():
    assert media_type_of("Application/JSON ; q=1") == "application/json"


def test_every_refusal_is_an_error_of_ours():
    assert issubclass(ProtocolError, PusherError)
