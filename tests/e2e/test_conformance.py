"""The requirements of the OCI distribution-spec 1.1, one by one, on the wire.

Categories and cases follow the specification's own conformance suite; every test names
the section it is about. The registry runs as that suite wants it for all categories:
writable, and with sparse manifests accepted.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Iterator

import pytest
from conformance import (
    EMPTY_TYPE,
    Client,
    Image,
    artifact,
    closing,
    descriptor,
    digest_of,
    index_of,
    random_bytes,
    serving,
    uploads,
)

from dockerpush.oci import OCI_INDEX, OCI_MANIFEST

ALGORITHMS = ("sha256", "sha512")
SBOM, SIGNATURE = "application/vnd.example.sbom", "application/vnd.example.signature"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of one registry, which all tests of this file share."""
    with serving(tmp_path_factory.mktemp("registry"), sparse=True) as (_, client):
        yield client


@pytest.fixture
def repository(request: pytest.FixtureRequest) -> str:
    """A repository of the test's own."""
    return "conformance/" + digest_of(request.node.name.encode())[7:19]


def check_blob(client: Client, repository: str, content: bytes, digest: str) -> None:
    """The blob is there by HEAD and GET, with the headers that must be."""
    target = f"/v2/{repository}/blobs/{digest}"
    head, got = client("HEAD", target), client("GET", target)
    assert (head.status, head.body) == (200, b"")
    assert (got.status, got.body) == (200, content)
    for answer in (head, got):
        assert answer.headers["Docker-Content-Digest"] == digest
        assert answer.headers["Content-Length"] == str(len(content))


def check_created(client: Client, answer, content: bytes, digest: str) -> None:
    """201, with a Location under which the content is found."""
    assert answer.status == 201, answer
    assert answer.headers["Docker-Content-Digest"] == digest
    assert client("GET", answer.location).body == content


# Determining support


def test_the_base_says_that_the_specification_is_implemented(client):
    """Determining Support, end-1."""
    assert client("GET", "/v2/").status == 200


# Pull


def test_what_is_absent_is_not_found(client, repository):
    """Pulling manifests, Pulling blobs: MUST be 404."""
    absent = digest_of(b"absent")
    for kind, name in (("blobs", absent), ("manifests", absent), ("manifests", "none")):
        for method in ("GET", "HEAD"):
            answer = client(method, f"/v2/{repository}/{kind}/{name}")
            assert answer.status == 404
            assert method == "HEAD" or answer.code.endswith("_UNKNOWN")


def test_a_manifest_is_pulled_by_tag_and_by_digest_byte_for_byte(client, repository):
    """Pulling manifests: Content-Type and Docker-Content-Digest as pushed."""
    raw = client.push_image(repository, "v1")
    for reference in ("v1", digest_of(raw)):
        for method in ("GET", "HEAD"):
            answer = client(method, f"/v2/{repository}/manifests/{reference}")
            assert answer.status == 200
            assert answer.headers["Content-Type"] == OCI_MANIFEST
            assert answer.headers["Docker-Content-Digest"] == digest_of(raw)
            assert answer.headers["Content-Length"] == str(len(raw))
            assert answer.body == (raw if method == "GET" else b"")


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=500-1499", 500, 1499),
        ("bytes=500-", 500, 2047),
        ("bytes=-500", 1548, 2047),
        ("bytes=2000-5000", 2000, 2047),
        ("bytes=0-0", 0, 0),
        ("bytes=-5000", 0, 2047),
    ],
)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_part_of_a_blob_can_be_pulled(
    client, repository, asked, start, end, algorithm
):
    """Pulling blobs: the Range header of RFC 9110."""
    content = random_bytes(2048)
    digest = client.push_blob(repository, content, algorithm)
    answer = client("GET", f"/v2/{repository}/blobs/{digest}", Range=asked)
    assert answer.status == 206
    assert answer.body == content[start : end + 1]
    assert answer.headers["Content-Range"] == f"bytes {start}-{end}/2048"


@pytest.mark.parametrize("asked", ["bytes=500-0", "bytes=2048-", "bytes=-0"])
def test_a_part_outside_of_a_blob_is_refused(client, repository, asked):
    """RFC 9110, 15.5.17: with the size that there is."""
    digest = client.push_blob(repository, random_bytes(2048))
    answer = client("GET", f"/v2/{repository}/blobs/{digest}", Range=asked)
    assert answer.status == 416
    assert answer.headers["Content-Range"] == "bytes */2048"


@pytest.mark.parametrize("asked", ["bytes=0-1,4-5", "lines=1-2", "bytes=", "nonsense"])
def test_a_range_that_is_not_understood_gives_the_whole_blob(client, repository, asked):
    """RFC 9110, 14.2: a server may ignore it, but not guess."""
    content = random_bytes(100)
    digest = client.push_blob(repository, content)
    answer = client("GET", f"/v2/{repository}/blobs/{digest}", Range=asked)
    assert (answer.status, answer.body) == (200, content)


def test_a_range_under_a_condition_gives_the_whole_blob(client, repository):
    """RFC 9110, 13.1.5: no validator of ours can match an If-Range."""
    content = random_bytes(100)
    digest = client.push_blob(repository, content)
    target = f"/v2/{repository}/blobs/{digest}"
    answer = client("GET", target, Range="bytes=1-2", If_Range='"x"')
    assert (answer.status, answer.body) == (200, content)


# Push: blobs


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("content", [b"", b"{}", random_bytes(5000)])
def test_a_blob_is_pushed_with_one_post(client, repository, content, algorithm):
    """Single POST."""
    digest = digest_of(content, algorithm)
    answer = client("POST", uploads(repository, digest=digest), content)
    check_created(client, answer, content, digest)
    check_blob(client, repository, content, digest)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("content", [b"", b"{}", random_bytes(5000)])
def test_a_blob_is_pushed_with_post_and_put(client, repository, content, algorithm):
    """POST then PUT."""
    digest = digest_of(content, algorithm)
    location = client.start_upload(repository)
    answer = client("PUT", closing(location, digest), content)
    check_created(client, answer, content, digest)
    check_blob(client, repository, content, digest)


@pytest.mark.parametrize("last", ["PATCH", "PUT"])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_blob_is_pushed_in_chunks(client, repository, last, count, algorithm):
    """Pushing a blob in chunks, the last one in a PATCH or in the closing PUT."""
    content = random_bytes(3 * 1024 - 5)
    digest = digest_of(content, algorithm)
    location = client.start_upload(repository, **{"digest-algorithm": algorithm})
    size = len(content) // count + 1
    for start in range(0, len(content), size):
        chunk = content[start : start + size]
        span = f"{start}-{start + len(chunk) - 1}"
        if last == "PUT" and start + size >= len(content):
            target = closing(location, digest)
            answer = client("PUT", target, chunk, Content_Range=span)
            break
        answer = client("PATCH", location, chunk, Content_Range=span)
        assert answer.status == 202
        assert answer.headers["Range"] == f"0-{start + len(chunk) - 1}"
        location = answer.location
    else:
        answer = client("PUT", closing(location, digest), b"")
    check_created(client, answer, content, digest)
    check_blob(client, repository, content, digest)


@pytest.mark.parametrize("encoding", ["chunked", "length"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_blob_is_streamed_in_patches_without_a_range(
    client, repository, encoding, algorithm
):
    """What docker and podman do: one PATCH, or more, of whatever comes next."""
    content = random_bytes(200_000)
    digest = digest_of(content, algorithm)
    location = client.start_upload(repository)
    for piece in (content[:150_000], content[150_000:]):
        parts = [piece[at : at + 7000] for at in range(0, len(piece), 7000)]
        body = iter(parts) if encoding == "chunked" else piece
        answer = client("PATCH", location, body)
        assert answer.status == 202
        location = answer.location
    assert answer.headers["Range"] == f"0-{len(content) - 1}"
    answer = client("PUT", closing(location, digest), b"")
    check_created(client, answer, content, digest)
    check_blob(client, repository, content, digest)


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
@pytest.mark.parametrize("start", [0, 999, 1001, 5000])
def test_a_chunk_out_of_order_is_refused_and_the_session_continues(
    client, repository, method, start
):
    """MUST be 416; a GET tells the offset and the location to go on from."""
    content = random_bytes(3000)
    digest = digest_of(content)
    location = client.start_upload(repository)
    answer = client("PATCH", location, content[:1000], Content_Range="0-999")
    target = answer.location if method == "PATCH" else closing(answer.location, digest)
    answer = client(
        method, target, content[:1000], Content_Range=f"{start}-{start + 999}"
    )
    assert answer.status == 416
    assert answer.headers["Range"] == "0-999"
    status = client("GET", answer.location)
    assert (status.status, status.headers["Range"]) == (204, "0-999")
    answer = client(
        "PUT",
        closing(status.location, digest),
        content[1000:],
        Content_Range="1000-2999",
    )
    check_created(client, answer, content, digest)


def test_the_first_chunk_must_start_at_zero(client, repository):
    """Pushing a blob in chunks: the first chunk's range MUST begin with 0."""
    location = client.start_upload(repository)
    answer = client("PATCH", location, b"x" * 10, Content_Range="10-19")
    assert answer.status == 416
    assert client("GET", location).headers["Range"] == "0-0"


@pytest.mark.parametrize(
    ("span", "code"),
    [
        ("bytes 0-9/10", "BLOB_UPLOAD_INVALID"),
        ("0-", "BLOB_UPLOAD_INVALID"),
        ("9-0", "BLOB_UPLOAD_INVALID"),
        ("0-10", "SIZE_INVALID"),
        ("0-8", "SIZE_INVALID"),
    ],
)
def test_a_content_range_of_another_form_or_length_is_refused(
    client, repository, span, code
):
    """The header MUST match ``^[0-9]+-[0-9]+$`` and the body."""
    location = client.start_upload(repository)
    answer = client("PATCH", location, b"x" * 10, Content_Range=span)
    assert (answer.status, answer.code) == (400, code)
    assert client("GET", location).headers["Range"] == "0-0"


def test_an_upload_is_cancelled(client, repository):
    """Cancel a blob upload: 204, and the session is gone."""
    location = client.start_upload(repository)
    assert client("PATCH", location, b"some").status == 202
    assert client("DELETE", location).status == 204
    for method in ("GET", "PATCH", "DELETE"):
        answer = client(method, location)
        assert (answer.status, answer.code) == (404, "BLOB_UPLOAD_UNKNOWN")


@pytest.mark.parametrize("origin", ["source", None])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_blob_is_mounted(client, repository, origin, algorithm):
    """Mounting a blob from another repository, named or not."""
    content = random_bytes(100, seed=len(algorithm))
    digest = client.push_blob(f"{repository}/source", content, algorithm)
    query = {"mount": digest}
    if origin:
        query["from"] = f"{repository}/{origin}"
    answer = client("POST", uploads(repository, **query), b"")
    check_created(client, answer, content, digest)
    check_blob(client, repository, content, digest)


@pytest.mark.parametrize("origin", ["source", None])
def test_what_cannot_be_mounted_can_be_uploaded_instead(client, repository, origin):
    """202, which is a session."""
    content = f"never pushed {origin}".encode()
    digest = digest_of(content)
    query = {"mount": digest, **({"from": f"{repository}/source"} if origin else {})}
    answer = client("POST", uploads(repository, **query), b"")
    assert answer.status == 202
    answer = client("PUT", closing(answer.location, digest), content)
    check_created(client, answer, content, digest)


@pytest.mark.parametrize("way", ["post", "put", "chunk", "chunk in put", "stream"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_content_with_another_digest_is_refused(client, repository, way, algorithm):
    """SHOULD be 400, and nothing is there afterwards."""
    content = random_bytes(1000)
    digest = digest_of(content + b"oh no", algorithm)
    if way == "post":
        answer = client("POST", uploads(repository, digest=digest), content)
    else:
        location = client.start_upload(repository)
        if way == "chunk":
            client("PATCH", location, content, Content_Range="0-999")
        if way == "stream":
            client("PATCH", location, iter([content]))
        target = closing(location, digest)
        if way == "chunk in put":
            client("PATCH", location, content[:500], Content_Range="0-499")
            answer = client("PUT", target, content[500:], Content_Range="500-999")
        else:
            answer = client("PUT", target, content if way == "put" else b"")
    assert (answer.status, answer.code) == (400, "DIGEST_INVALID")
    for wrong in (digest, digest_of(content, algorithm)):
        assert client("HEAD", f"/v2/{repository}/blobs/{wrong}").status == 404


@pytest.mark.parametrize(
    "digest", ["sha256:abc", "sha256:" + "g" * 64, "md5:" + "0" * 32, "nonsense", ""]
)
def test_a_digest_that_cannot_be_verified_is_refused(client, repository, digest):
    """Pushing blobs: 400 for an invalid digest or an unsupported algorithm."""
    location = client.start_upload(repository)
    for method, target in (
        ("PUT", closing(location, digest)),
        ("POST", uploads(repository, digest=digest)),
        ("POST", uploads(repository, mount=digest)),
    ):
        answer = client(method, target, b"content")
        assert (answer.status, answer.code) == (400, "DIGEST_INVALID")


def test_an_unknown_digest_algorithm_is_refused_at_the_start(client, repository):
    """Pushing a blob in chunks, end-4c."""
    answer = client("POST", uploads(repository, **{"digest-algorithm": "md5"}), b"")
    assert (answer.status, answer.code) == (400, "DIGEST_INVALID")


def test_a_session_belongs_to_its_repository(client, repository):
    """A location of one repository is nothing in another."""
    location = client.start_upload(repository)
    elsewhere = location.replace(repository, f"{repository}/other")
    assert client("GET", elsewhere).status == 404
    assert client("GET", location).status == 204


# Push: manifests


def push_blobs(client: Client, repository: str, image: Image) -> None:
    for blob in image.blobs.values():
        client.push_blob(repository, blob)


def test_a_manifest_is_pushed_by_digest_only(client, repository):
    """Pushing Manifests: it has no tag then."""
    image = Image(1)
    push_blobs(client, repository, image)
    answer = client.push_manifest(repository, image.digest, image.manifest)
    check_created(client, answer, image.manifest, image.digest)
    assert client("GET", f"/v2/{repository}/tags/list").json["tags"] == []


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_manifest_is_pushed_by_digest_with_tags(client, repository, algorithm):
    """end-7b: OCI-Tag names every tag that was accepted."""
    image = Image(2)
    push_blobs(client, repository, image)
    digest = digest_of(image.manifest, algorithm)
    tags = [f"v{number}" for number in range(12)]
    query = "&".join(f"tag={tag}" for tag in tags)
    answer = client.push_manifest(repository, f"{digest}?{query}", image.manifest)
    check_created(client, answer, image.manifest, digest)
    assert answer.headers["OCI-Tag"].split(", ") == tags
    for tag in tags:
        got = client("GET", f"/v2/{repository}/manifests/{tag}")
        assert got.body == image.manifest
        assert got.headers["Docker-Content-Digest"] == digest


def test_a_manifest_with_another_digest_is_refused(client, repository):
    """The digest in the path MUST be that of the content."""
    image = Image(3)
    push_blobs(client, repository, image)
    answer = client.push_manifest(repository, image.digest, image.manifest + b" ")
    assert (answer.status, answer.code) == (400, "DIGEST_INVALID")
    assert client("GET", f"/v2/{repository}/manifests/{image.digest}").status == 404


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT"])
def test_a_digest_that_is_none_names_no_manifest(client, repository, method):
    """PUT MUST fail with 400; GET with 400 or 404."""
    target = f"/v2/{repository}/manifests/sha256:baddigeststring"
    image = Image(3)
    body = image.manifest if method == "PUT" else None
    answer = client(method, target, body, Content_Type=OCI_MANIFEST)
    assert answer.status == 400


def test_a_manifest_of_four_megabytes_is_accepted_and_a_larger_one_is_not(
    client, repository
):
    """Pushing Manifests: at least 4 MB; 413 above the limit."""
    image = Image(4)
    push_blobs(client, repository, image)
    room = 4 * 1024 * 1024 - len(json.dumps({**image.record, "annotations": {"x": ""}}))
    record = {**image.record, "annotations": {"x": "a" * room}}
    raw = json.dumps(record).encode()
    assert len(raw) == 4 * 1024 * 1024
    answer = client.push_manifest(repository, "large", raw)
    check_created(client, answer, raw, digest_of(raw))
    for body in (raw + b" ", iter([raw, b" "])):
        answer = client("PUT", f"/v2/{repository}/manifests/larger", body)
        assert (answer.status, answer.code) == (413, "SIZE_INVALID")


def test_an_index_and_an_index_of_indexes_are_pushed(client, repository):
    """Children first, then the index, nested too, and an empty one."""
    children = [Image(5), Image(6)]
    for image in children:
        push_blobs(client, repository, image)
        client.push_manifest(repository, image.digest, image.manifest)
    inner = index_of(*(image.descriptor for image in children))
    outer = index_of(descriptor(OCI_INDEX, json.dumps(inner).encode()))
    for tag, record in (("inner", inner), ("outer", outer), ("empty", index_of())):
        answer = client.push_manifest(repository, tag, record, OCI_INDEX)
        assert answer.status == 201
        got = client("GET", f"/v2/{repository}/manifests/{tag}")
        assert got.json == record
        assert got.headers["Content-Type"] == OCI_INDEX


def test_every_shape_of_manifest_is_accepted(client, repository):
    """No layers, artifacts, data fields, custom fields, layers of elsewhere."""
    image = Image(7)
    push_blobs(client, repository, image)
    client.push_blob(repository, b"{}")
    empty = {**descriptor(EMPTY_TYPE, b"{}"), "data": "e30="}
    elsewhere = {
        **descriptor("application/vnd.oci.image.layer.nondistributable.v1.tar", b"no"),
        "urls": ["https://store.example.com/blob"],
    }
    changes = (
        {"layers": []},
        {"artifactType": SBOM, "config": empty, "layers": [empty]},
        {"x-custom": {"field": [1]}},
        {"layers": [elsewhere, *image.layers]},
    )
    for number, change in enumerate(changes):
        record = {**image.record, **change}
        answer = client.push_manifest(repository, f"shape{number}", record)
        assert answer.status == 201, (change, answer)
        got = client("GET", f"/v2/{repository}/manifests/shape{number}")
        assert got.json == record


def test_sparse_manifests_are_accepted_where_that_is_wanted(client, repository):
    """A registry MAY reject what needs something absent; this one was told not to."""
    image = Image(8)
    client.push_blob(repository, image.blobs[image.config["digest"]])
    assert client.push_manifest(repository, "image", image.record).status == 201
    record = index_of(image.descriptor, descriptor(OCI_MANIFEST, b"absent"))
    assert client.push_manifest(repository, "index", record, OCI_INDEX).status == 201


@pytest.mark.parametrize(
    ("raw", "media_type"),
    [
        (b"", OCI_MANIFEST),
        (b"not json", OCI_MANIFEST),
        (b"[]", OCI_MANIFEST),
        (b"{}", OCI_MANIFEST),
        (b"{}", OCI_INDEX),
        (b"{}", ""),
        (b'{"mediaType": 3, "layers": []}', OCI_MANIFEST),
        (b"[" * 100_000, OCI_MANIFEST),
        (json.dumps(Image(9).record).encode(), OCI_INDEX),
        (json.dumps(Image(9).record).encode(), "text/html"),
        (json.dumps({**Image(9).record, "subject": {"x": 1}}).encode(), OCI_MANIFEST),
    ],
)
def test_what_is_no_manifest_is_refused(client, repository, raw, media_type):
    """MANIFEST_INVALID, and the tag is not there."""
    answer = client.push_manifest(repository, "bad", raw, media_type)
    assert (answer.status, answer.code) == (400, "MANIFEST_INVALID")
    assert client("GET", f"/v2/{repository}/manifests/bad").status == 404


def test_parameters_of_the_content_type_are_ignored(client, repository):
    """Pushing Manifests: the registry SHOULD ignore them, and not give them back."""
    image = Image(10)
    push_blobs(client, repository, image)
    media_type = f"{OCI_MANIFEST}; charset=utf-8"
    answer = client.push_manifest(repository, "v1", image.manifest, media_type)
    got = client("GET", answer.location)
    assert got.headers["Content-Type"] == OCI_MANIFEST


# Content discovery: tags


def test_tags_are_listed_in_order_and_in_pages(client, repository):
    """Listing Tags, end-8a and end-8b; the Link leads through all of them."""
    tags = ["1.10", "1.9", "B", "Latest", "_x", "a", "latest"]
    for tag in reversed(tags):
        client.push_image(repository, tag)
    base = f"/v2/{repository}/tags/list"
    answer = client("GET", base)
    assert (answer.status, answer.json) == (200, {"name": repository, "tags": tags})
    assert answer.headers["Link"] is None
    assert client("GET", f"{base}?last=B").json["tags"] == tags[3:]
    assert client("GET", f"{base}?n=2&last=Absent").json["tags"] == ["B", "Latest"]
    assert client("GET", f"{base}?n=100").json["tags"] == tags
    seen, target = [], f"{base}?n=3"
    while target:
        answer = client("GET", target)
        seen.append(answer.json["tags"])
        link = answer.headers["Link"]
        target = link and link.partition(">")[0].lstrip("<")
        assert link is None or link.endswith('; rel="next"')
    assert seen == [tags[:3], tags[3:6], tags[6:]]


def test_no_tags_are_listed_when_none_are_asked_for(client, repository):
    """When n is zero: an empty list, and MUST NOT include a Link header."""
    client.push_image(repository, "v1")
    answer = client("GET", f"/v2/{repository}/tags/list?n=0")
    assert (answer.json["tags"], answer.headers["Link"]) == ([], None)


@pytest.mark.parametrize("count", ["-1", "x", "1.5", "9" * 30, "²"])
def test_a_count_that_is_none_is_refused(client, repository, count):
    client.push_image(repository, "v1")
    answer = client("GET", f"/v2/{repository}/tags/list?{_encode(count)}")
    assert (answer.status, answer.code) == (400, "UNSUPPORTED")


def _encode(count: str) -> str:
    return uploads("x", n=count).partition("?")[2]


def test_the_tags_of_an_unknown_repository_are_not_found(client):
    answer = client("GET", "/v2/never/pushed/tags/list")
    assert (answer.status, answer.code) == (404, "NAME_UNKNOWN")


# Content discovery: referrers


def referrers(client: Client, repository: str, digest: str, query: str = ""):
    answer = client("GET", f"/v2/{repository}/referrers/{digest}{query}")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == OCI_INDEX
    assert answer.json["mediaType"] == OCI_INDEX
    assert answer.json["schemaVersion"] == 2
    return answer


def test_nothing_refers_to_what_nobody_knows(client):
    """MUST NOT be 404, not even for an unknown repository."""
    answer = referrers(client, "never/pushed", digest_of(b"unknown"))
    assert answer.json["manifests"] == []


def test_a_referrers_request_for_no_digest_is_refused(client, repository):
    """MUST be 400."""
    answer = client("GET", f"/v2/{repository}/referrers/sha256:nonsense")
    assert answer.status == 400


@pytest.mark.parametrize("order", ["subject first", "subject last"])
def test_referrers_are_listed_filtered_and_forgotten(client, repository, order):
    """Pushing Manifests with Subject, Listing Referrers, Deleting Manifests."""
    image = Image(11)
    push_blobs(client, repository, image)
    client.push_blob(repository, b"{}")
    if order == "subject first":
        client.push_manifest(repository, "v1", image.manifest)
    sbom = artifact(image.descriptor, SBOM, note="one")
    signature = artifact(image.descriptor, SIGNATURE, note="two")
    plain = {**image.record, "subject": image.descriptor}
    listed = index_of(subject=image.descriptor, annotations={"note": "three"})
    expected = {}
    for record, kind in (
        (sbom, SBOM),
        (signature, SIGNATURE),
        (plain, image.config["mediaType"]),
        (listed, None),
    ):
        raw = json.dumps(record).encode()
        answer = client.push_manifest(
            repository, digest_of(raw), raw, record["mediaType"]
        )
        assert answer.status == 201
        assert answer.headers["OCI-Subject"] == image.digest
        entry = descriptor(record["mediaType"], raw)
        if kind:
            entry["artifactType"] = kind
        if "annotations" in record:
            entry["annotations"] = record["annotations"]
        expected[entry["digest"]] = entry
    if order == "subject last":
        answer = client.push_manifest(repository, "v1", image.manifest)
        assert answer.headers["OCI-Subject"] is None
    answer = referrers(client, repository, image.digest)
    found = {entry["digest"]: entry for entry in answer.json["manifests"]}
    assert found == expected
    assert answer.headers["OCI-Filters-Applied"] is None
    answer = referrers(client, repository, image.digest, f"?artifactType={SBOM}")
    assert answer.headers["OCI-Filters-Applied"] == "artifactType"
    assert [entry["artifactType"] for entry in answer.json["manifests"]] == [SBOM]
    for digest in expected:
        client("DELETE", f"/v2/{repository}/manifests/{digest}")
    assert referrers(client, repository, image.digest).json["manifests"] == []


@pytest.mark.parametrize("query", ["", f"?artifactType={SBOM}"])
def test_referrers_that_fit_into_no_index_come_in_pages(client, repository, query):
    """A Link header MUST be included when the list needs more than one manifest."""
    client.push_blob(repository, b"{}")
    subject = descriptor(OCI_MANIFEST, b"absent")
    pushed = set()
    for number in range(5):
        record = artifact(subject, SBOM, text="x" * 1_500_000, number=str(number))
        raw = json.dumps(record).encode()
        assert client.push_manifest(repository, digest_of(raw), raw).status == 201
        pushed.add(digest_of(raw))
    seen: list[str] = []
    target = f"/v2/{repository}/referrers/{subject['digest']}{query}"
    pages = 0
    while target:
        answer = client("GET", target)
        assert len(answer.body) <= 4 * 1024 * 1024
        assert (answer.headers["OCI-Filters-Applied"] is None) == (not query)
        seen += [entry["digest"] for entry in answer.json["manifests"]]
        link = answer.headers["Link"]
        target = link and link.partition(">")[0].lstrip("<")
        pages += 1
    assert (sorted(seen), pages) == (sorted(pushed), 3)


# Content management


def test_a_deleted_tag_is_gone_and_the_manifest_is_not(client, repository):
    """Deleting tags: 202, then 404."""
    raw = client.push_image(repository, "v1")
    client.push_image(repository, "v2")
    target = f"/v2/{repository}/manifests/v1"
    assert client("DELETE", target).status == 202
    assert client("GET", target).status == 404
    assert client("DELETE", target).status == 404
    assert client("GET", f"/v2/{repository}/manifests/v2").body == raw
    assert client("GET", f"/v2/{repository}/manifests/{digest_of(raw)}").body == raw
    assert client("GET", f"/v2/{repository}/tags/list").json["tags"] == ["v2"]


def test_a_deleted_manifest_is_gone_with_its_tags(client, repository):
    """Deleting Manifests: any tag pointing to that digest returns 404."""
    raw = client.push_image(repository, "v1", seed=1)
    client.push_image(repository, "v2", seed=1)
    other = client.push_image(repository, "other", seed=2)
    target = f"/v2/{repository}/manifests/{digest_of(raw)}"
    assert client("DELETE", target).status == 202
    for reference in (digest_of(raw), "v1", "v2"):
        assert client("GET", f"/v2/{repository}/manifests/{reference}").status == 404
    assert client("DELETE", target).status == 404
    assert client("GET", f"/v2/{repository}/manifests/other").body == other
    assert client("GET", f"/v2/{repository}/tags/list").json["tags"] == ["other"]


def test_a_deleted_blob_is_gone_from_its_repository_only(client, repository):
    """Deleting Blobs: 202, then 404; another repository keeps it."""
    content = random_bytes(100, seed=12)
    digest = client.push_blob(repository, content)
    client.push_blob(f"{repository}/other", content)
    target = f"/v2/{repository}/blobs/{digest}"
    assert client("DELETE", target).status == 202
    assert client("GET", target).status == 404
    assert (client("DELETE", target).code) == "BLOB_UNKNOWN"
    check_blob(client, f"{repository}/other", content, digest)


def test_the_last_deletion_frees_the_bytes(tmp_path: Path):
    """Nobody holds the blob, or the manifest, so nobody pays for it."""
    with serving(tmp_path) as (_, client):
        raw = client.push_image("a", "v1")
        blobs = list(Image(0).blobs)
        client("POST", uploads("b", mount=blobs[0]), b"")
        client("DELETE", f"/v2/a/manifests/{digest_of(raw)}")
        for digest in blobs:
            client("DELETE", f"/v2/a/blobs/{digest}")
        left = [path.name for path in (tmp_path / "blobs").rglob("*") if path.is_file()]
        assert left == [blobs[0].partition(":")[2]]
        client("DELETE", f"/v2/b/blobs/{blobs[0]}")
        assert not [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]
