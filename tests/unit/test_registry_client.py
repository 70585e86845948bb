"""The client against scripted answers: each dialect is named after who speaks it."""

from __future__ import annotations

import json
from typing import Any, Iterator

import pytest
from scripted import asked, authorizations, scripted_answers  # noqa: F401

from dockerpush.credentials.identity import Credentials, Secret
from dockerpush.errors import (
    ContentMismatch,
    InvalidJSON,
    InvalidReference,
    NetworkError,
    NotFoundInRegistry,
    RegistryError,
    TransientError,
    Unauthorized,
)
from dockerpush.events import Notice, Retrying
from dockerpush.oci import (
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Digest,
    Index,
    Manifest,
)
from dockerpush.registry.client import PULL, RegistryClient
from dockerpush.registry.retry import RetryPolicy
from dockerpush.registry.transport import TransportSettings
from dockerpush.registry.uploads import Upload
from dockerpush.system.cancellation import Cancellation

HOST = "https://r.example.com"
BLOB = Digest.of(b"a blob")
BLOBS = f"{HOST}/v2/team/app/blobs/"
UPLOADS = BLOBS + "uploads/"
SESSION = UPLOADS + "1234?_state=secret"
MANIFESTS = f"{HOST}/v2/team/app/manifests/"
MANIFEST = Manifest(OCI_MANIFEST, Descriptor.of(OCI_CONFIG, b"{}"), ()).to_bytes()
NAME = "team/app"


@pytest.fixture
def events() -> list[Any]:
    return []


@pytest.fixture
def make_client(events) -> Iterator[Any]:
    with Cancellation() as cancellation:

        def make(registry: str = "r.example.com", **options: Any) -> RegistryClient:
            settings = options.pop("settings", TransportSettings())
            options.setdefault("policy", RetryPolicy(attempts=3, base=0.0))
            options.setdefault("on_event", events.append)
            return RegistryClient(registry, settings, cancellation, **options)

        yield make


@pytest.fixture
def client(make_client) -> RegistryClient:
    return make_client()


# where the registry is


@pytest.mark.parametrize("name", ["docker.io", "index.docker.io"])
def test_docker_hub_is_reached_at_its_api(scripted, make_client, name):
    scripted.add("GET", "https://registry-1.docker.io/v2/")
    looked_up = []

    def source(registry: str, repository: str) -> None:
        looked_up.append(registry)

    make_client(name, credentials=source).ping()
    assert looked_up == [name]


def test_plain_http_is_used_when_asked_for(scripted, make_client):
    scripted.add("GET", "http://r.example.com/v2/")
    client = make_client(settings=TransportSettings(plain_http=True))
    client.ping()
    assert client.base == "http://r.example.com"


def test_what_is_no_registry_is_reported(scripted, client):
    scripted.add("GET", HOST + "/v2/", status=404, body="<html>nginx</html>")
    with pytest.raises(NotFoundInRegistry):
        client.ping()


@pytest.mark.parametrize(
    "words",
    [
        "Client sent an HTTP request to an HTTPS server.\n",  # Go
        "<h1>400</h1>The plain HTTP request was sent to HTTPS port",  # nginx
    ],
)
def test_plain_http_to_an_https_port_is_reported(scripted, make_client, words):
    scripted.add("GET", "http://r.example.com/v2/", status=400, body=words)
    client = make_client(settings=TransportSettings(plain_http=True))
    with pytest.raises(NetworkError, match="leave out --plain-http"):
        client.ping()


def test_own_headers_go_to_the_registry_alone(scripted, make_client):
    scripted.add(
        "GET", BLOBS + BLOB, status=307, headers={"Location": "https://s3.example/x"}
    )
    scripted.add("GET", "https://s3.example/x", body=b"a blob")
    client = make_client(settings=TransportSettings(headers={"X-Team": "7"}))
    with client.open_blob(NAME, BLOB) as reader:
        reader.read()
    assert [call.request.headers.get("X-Team") for call in scripted.calls] == [
        "7",
        None,
    ]


# retries


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 522])
def test_what_may_pass_is_asked_again(scripted, client, events, status):
    scripted.add("HEAD", BLOBS + BLOB, status=status)
    scripted.add("HEAD", BLOBS + BLOB, headers={"Content-Length": "6"})
    assert client.blob_size(NAME, BLOB) == 6
    assert [type(event) for event in events] == [Retrying]
    assert str(status) in events[0].reason


def test_a_failure_that_stays_is_raised_after_the_last_attempt(scripted, client):
    scripted.add("GET", HOST + "/v2/", status=503, body="down for maintenance")
    with pytest.raises(TransientError, match="down for maintenance"):
        client.ping()
    assert len(scripted.calls) == 3


def test_a_definite_answer_is_not_asked_for_twice(scripted, client):
    scripted.add("GET", HOST + "/v2/", status=403, body="no")
    with pytest.raises(Unauthorized):
        client.ping()
    assert len(scripted.calls) == 1


def test_bodies_of_a_blob_are_single_attempts(scripted, client):
    scripted.add("PATCH", SESSION, status=503)
    with pytest.raises(TransientError):
        client.send_chunk(NAME, Upload(SESSION), [b"abc"], 3)
    assert len(scripted.calls) == 1


# blobs


def test_a_missing_blob_has_no_size(scripted, client):
    scripted.add("HEAD", BLOBS + BLOB, status=404)
    assert client.blob_size(NAME, BLOB) is None


def test_an_answer_to_head_without_a_length_is_looked_up(scripted, client):
    scripted.add("HEAD", BLOBS + BLOB)
    scripted.add(
        "GET", BLOBS + BLOB, body=b"a blob", auto_calculate_content_length=True
    )
    assert client.blob_size(NAME, BLOB) == 6


def test_a_blob_is_read_from_an_offset(scripted, client):
    scripted.add(
        "GET",
        BLOBS + BLOB,
        status=206,
        body=b"blob",
        headers={"Content-Range": "bytes 2-5/6"},
    )
    with client.open_blob(NAME, BLOB, 2) as reader:
        buffer = memoryview(bytearray(10))
        assert (reader.size, reader.readinto(buffer)) == (6, 4)
        assert reader.readinto(buffer) == 0
    assert scripted.calls[0].request.headers["Range"] == "bytes=2-"


def test_a_server_without_ranges_is_read_from_the_beginning(scripted, client):
    scripted.add("GET", BLOBS + BLOB, body=b"a blob")
    with client.open_blob(NAME, BLOB, 2) as reader:
        assert reader.read() == b"blob"


def test_another_range_than_was_asked_for_is_refused(scripted, client):
    headers = {"Content-Range": "bytes 0-5/6"}
    scripted.add("GET", BLOBS + BLOB, status=206, body=b"a blob", headers=headers)
    with pytest.raises(TransientError, match="asked for byte 2"):
        client.open_blob(NAME, BLOB, 2)


def test_a_redirect_to_storage_goes_without_authorization(scripted, make_client):
    """S3 answers 400 to two ways of authentication (opa#6728)."""
    scripted.add("GET", BLOBS + BLOB, status=401, headers={"WWW-Authenticate": "Basic"})
    location = {"Location": "https://s3.example/bucket?X-Amz-Signature=abc%2F"}
    scripted.add("GET", BLOBS + BLOB, status=307, headers=location)
    scripted.add("GET", location["Location"], body=b"a blob")
    credentials = Credentials("alice", Secret("pw"), source="a test")
    client = make_client(credentials=lambda registry, repository: credentials)
    with client.open_blob(NAME, BLOB) as reader:
        assert reader.read() == b"a blob"
    assert [one is not None for one in authorizations(scripted)] == [False, True, False]


@pytest.mark.parametrize(
    "location",
    [
        "http://r.example.com.evil.example/x",
        "http://s3.example/x",
        "https://alice:pw@r.example.com/",
        "file:///etc/passwd",
        "https://",
    ],
)
def test_a_redirect_that_cannot_be_trusted_is_not_followed(scripted, client, location):
    scripted.add("GET", BLOBS + BLOB, status=302, headers={"Location": location})
    with pytest.raises(NetworkError):
        client.open_blob(NAME, BLOB)


def test_redirects_end(scripted, client):
    scripted.add("GET", BLOBS + BLOB, status=302, headers={"Location": BLOBS + BLOB})
    with pytest.raises(RegistryError, match="302"):
        client.open_blob(NAME, BLOB)
    assert len(scripted.calls) == 6


def test_a_subdomain_gets_no_authorization(scripted, make_client):
    scripted.add("GET", BLOBS + BLOB, status=401, headers={"WWW-Authenticate": "Basic"})
    other = "https://a.r.example.com/x"
    scripted.add("GET", BLOBS + BLOB, status=302, headers={"Location": other})
    scripted.add("GET", other, status=401, headers={"WWW-Authenticate": "Basic"})
    credentials = Credentials("alice", Secret("pw"), source="a test")
    client = make_client(credentials=lambda registry, repository: credentials)
    with pytest.raises(Unauthorized):
        client.open_blob(NAME, BLOB)
    assert authorizations(scripted)[-1] is None


def test_an_explicit_default_port_is_the_same_origin(scripted, make_client):
    """oras-go#177."""
    scripted.add("GET", BLOBS + BLOB, status=401, headers={"WWW-Authenticate": "Basic"})
    moved = {"Location": "https://R.example.com:443/moved"}
    scripted.add("GET", BLOBS + BLOB, status=307, headers=moved)
    scripted.add("GET", HOST + "/moved", body=b"")
    credentials = Credentials("alice", Secret("pw"), source="a test")
    make_client(credentials=lambda *_: credentials).open_blob(NAME, BLOB).close()
    assert authorizations(scripted)[-1] is not None


# uploads


def opened(scripted, location: str = SESSION, **headers: str) -> None:
    known = {"Location": location, "Range": "0-0", **headers}
    scripted.add("POST", UPLOADS, status=202, headers=known)


def test_an_upload_is_opened(scripted, client):
    opened(
        scripted,
        "/v2/team/app/blobs/uploads/1234?_state=secret",
        **{"OCI-Chunk-Min-Length": "5242880", "OCI-Chunk-Max-Length": "100000000"},
    )
    upload = client.start_upload(NAME)
    assert upload == Upload(SESSION, 0, 5242880, 100_000_000)
    assert "secret" not in repr(upload)


def test_a_session_without_a_location_is_found_by_its_id(scripted, client):
    headers = {"Docker-Upload-UUID": "1234-abcd"}
    scripted.add("POST", UPLOADS, status=202, headers=headers)
    upload = client.start_upload(NAME)
    assert upload is not None
    assert upload.location == UPLOADS + "1234-abcd"


def test_a_session_without_any_name_is_an_error(scripted, client):
    scripted.add("POST", UPLOADS, status=202)
    with pytest.raises(RegistryError, match="without a Location"):
        client.start_upload(NAME)


def test_a_redirect_that_loses_the_method_is_not_followed(scripted, make_client):
    """harbor#20980: http to https made a GET of it, "blob unknown"."""
    post = "http://r.example.com/v2/team/app/blobs/uploads/"
    scripted.add("POST", post, status=301, headers={"Location": UPLOADS})
    client = make_client(settings=TransportSettings(plain_http=True))
    with pytest.raises(NetworkError, match="leave out --plain-http"):
        client.start_upload(NAME)


def test_a_redirect_that_keeps_the_method_is_followed(scripted, client):
    moved = HOST + "/v2/other/blobs/uploads/"
    scripted.add("POST", UPLOADS, status=308, headers={"Location": moved})
    scripted.add("POST", moved, status=202, headers={"Location": SESSION})
    assert client.start_upload(NAME) == Upload(SESSION)


def test_a_blob_is_mounted(scripted, client):
    scripted.add("POST", f"{UPLOADS}?mount={BLOB}&from=team/base", status=201)
    assert client.start_upload(NAME, mount=BLOB, source="team/base") is None


def test_a_mount_that_opens_an_upload_instead_is_used(scripted, client):
    headers = {"Location": SESSION}
    url = f"{UPLOADS}?mount={BLOB}&from=team/base"
    scripted.add("POST", url, status=202, headers=headers)
    assert client.start_upload(NAME, mount=BLOB, source="team/base") == Upload(SESSION)
    assert len(scripted.calls) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405])
def test_harbor_and_others_refuse_a_mount_in_their_own_ways(scripted, client, status):
    """harbor#17097 (401), containerd#14086 (403), zot (405)."""
    url = f"{UPLOADS}?mount={BLOB}&from=team/base"
    scripted.add("POST", url, status=status)
    if status == 401:
        scripted.add("GET", HOST + "/v2/", status=200)
    opened(scripted)
    assert client.start_upload(NAME, mount=BLOB, source="team/base") == Upload(SESSION)


def test_docker_hub_fails_a_token_for_a_foreign_repository(scripted, make_client):
    """ggcr#1679: then the second try has a token for the target alone."""
    url = f"{UPLOADS}?mount={BLOB}&from=team/base"
    challenge = {"WWW-Authenticate": f'Bearer realm="{HOST}/token"'}
    scripted.add("POST", url, status=401, headers=challenge)
    both = "scope=repository:team/app:pull,push&scope=repository:team/base:pull"
    scripted.add("GET", f"{HOST}/token?{both}", status=400)
    alone = f"{HOST}/token?scope=repository:team/app:pull,push"
    scripted.add("GET", alone, json={"token": "t"})
    opened(scripted)
    assert make_client().start_upload(NAME, mount=BLOB, source="team/base") == (
        Upload(SESSION)
    )
    assert authorizations(scripted)[-1] == "Bearer t"


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_a_chunk_is_accepted_by_any_of_its_statuses(scripted, client, status):
    """ECR answers 201 (tart#273), Pulp 204 (pulp_container#2199)."""
    scripted.add("PATCH", SESSION, status=status, headers={"Range": "0-7"})
    upload = client.send_chunk(NAME, Upload(SESSION, 5), [b"a", b"bc"], 3)
    assert upload == Upload(SESSION, 8)
    request = scripted.calls[0].request
    assert request.headers["Content-Range"] == "5-7"
    assert request.headers["Content-Length"] == "3"
    assert request.headers["Content-Type"] == "application/octet-stream"
    assert request.body == b"abc"


def test_a_chunk_moves_the_session(scripted, client):
    moved = {"Location": "/v2/team/app/blobs/uploads/1234?_state=next"}
    scripted.add("PATCH", SESSION, status=202, headers=moved)
    before = Upload(SESSION, 0, 5, 10)
    upload = client.send_chunk(NAME, before, [b"abc"], 3)
    assert upload == Upload(UPLOADS + "1234?_state=next", 3, 5, 10)


ELSEWHERE = "https://upload.example.com/x?sig=1"


@pytest.mark.parametrize("status", [307, 308])
def test_a_body_is_sent_again_to_where_it_is_redirected(scripted, make_client, status):
    """Without our authorization, and the session goes on where it was."""
    moved = {"status": status, "headers": {"Location": ELSEWHERE}}
    credentials = Credentials("alice", Secret("pw"), source="a test")
    client = make_client(credentials=lambda *_: credentials)
    basic = {"WWW-Authenticate": "Basic"}
    scripted.add("GET", "https://r.example.com/v2/", status=401, headers=basic)
    scripted.add("GET", "https://r.example.com/v2/", status=200)
    client.ping()
    closing = f"{SESSION}&digest={BLOB}"
    for method, url in (("PATCH", SESSION), ("PUT", closing), ("POST", UPLOADS)):
        scripted.add(method, url, **moved)
    scripted.add("PATCH", ELSEWHERE, status=202, headers={"Range": "0-7"})
    scripted.add("PUT", ELSEWHERE, status=201)
    scripted.add("POST", ELSEWHERE, status=202, headers={"Location": SESSION})
    upload = client.send_chunk(NAME, Upload(SESSION, 5), [b"abc"], 3)
    assert upload == Upload(SESSION, 8)
    client.finish_upload(NAME, Upload(SESSION), BLOB, body=[b"a blob"], size=6)
    assert client.start_upload(NAME) == Upload(SESSION)
    bodies = [call.request.body for call in scripted.calls[2:]]
    assert bodies[:4] == [b"abc", b"abc", b"a blob", b"a blob"]
    sent = authorizations(scripted)[2:]
    assert sent[0::2] == [sent[0]] * 3 and sent[0].startswith("Basic ")
    assert sent[1::2] == [None] * 3


@pytest.mark.parametrize("status", [301, 302, 303])
def test_a_redirect_that_loses_the_body_is_an_error(scripted, client, status):
    moved = {"status": status, "headers": {"Location": ELSEWHERE}}
    scripted.add("PUT", f"{SESSION}&digest={BLOB}", **moved)
    with pytest.raises(RegistryError, match="would get lost"):
        client.finish_upload(NAME, Upload(SESSION), BLOB, body=[b"a blob"], size=6)


def test_a_body_never_follows_from_https_to_http(scripted, client):
    moved = {"status": 307, "headers": {"Location": "http://r.example.com/x"}}
    scripted.add("PATCH", SESSION, **moved)
    with pytest.raises(NetworkError, match="from https to"):
        client.send_chunk(NAME, Upload(SESSION, 5), [b"abc"], 3)


def test_a_foreign_location_gets_no_authorization(scripted, make_client):
    """CVE-2026-50151."""
    scripted.add("POST", UPLOADS, status=401, headers={"WWW-Authenticate": "Basic"})
    foreign = "https://upload.example.com/x?sig=1"
    opened(scripted, foreign)
    scripted.add("PUT", f"{foreign}&digest={BLOB}", status=201)
    credentials = Credentials("alice", Secret("pw"), source="a test")
    client = make_client(credentials=lambda *_: credentials)
    upload = client.start_upload(NAME)
    client.finish_upload(NAME, upload, BLOB, body=[b"a blob"], size=6)
    assert authorizations(scripted)[-1] is None


@pytest.mark.parametrize("status", [200, 201, 204])
def test_an_upload_is_closed(scripted, client, status):
    scripted.add("PUT", f"{SESSION}&digest={BLOB}", status=status)
    client.finish_upload(NAME, Upload(SESSION, 6), BLOB)
    request = scripted.calls[0].request
    assert request.headers["Content-Length"] == "0"
    assert "Content-Range" not in request.headers


def test_a_whole_blob_has_no_content_range_and_a_tail_has_one(scripted, client):
    """zot takes a body without Content-Range for one at offset 0."""
    scripted.add("PUT", f"{SESSION}&digest={BLOB}", status=201)
    client.finish_upload(NAME, Upload(SESSION), BLOB, body=[b"a blob"], size=6)
    client.finish_upload(NAME, Upload(SESSION, 4), BLOB, body=[b"ob"], size=2)
    ranges = [call.request.headers.get("Content-Range") for call in scripted.calls]
    assert ranges == [None, "4-5"]


def test_another_digest_than_ours_is_a_mismatch(scripted, client):
    headers = {"Docker-Content-Digest": Digest.of(b"other")}
    scripted.add("PUT", f"{SESSION}&digest={BLOB}", status=201, headers=headers)
    with pytest.raises(ContentMismatch):
        client.finish_upload(NAME, Upload(SESSION, 6), BLOB)


@pytest.mark.parametrize(
    ("told", "offset"), [("0-9", 10), ("bytes=0--1", 0), ("0-0", 0), (None, 3)]
)
def test_the_status_of_an_upload_is_passed_on_as_it_is(scripted, client, told, offset):
    headers = {"Range": told} if told else {}
    scripted.add("GET", SESSION, status=204, headers=headers)
    assert client.upload_status(NAME, Upload(SESSION, 3)) == Upload(SESSION, offset)


def test_a_session_that_is_gone_says_its_code(scripted, client):
    body = {"errors": [{"code": "BLOB_UPLOAD_UNKNOWN", "message": "upload unknown"}]}
    scripted.add("GET", SESSION, status=404, json=body)
    with pytest.raises(NotFoundInRegistry, match="upload unknown") as caught:
        client.upload_status(NAME, Upload(SESSION, 3))
    assert caught.value.code == "BLOB_UPLOAD_UNKNOWN"
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("status", [202, 204, 404])
def test_an_upload_is_cancelled(scripted, client, status):
    scripted.add("DELETE", SESSION, status=status)
    client.cancel_upload(NAME, Upload(SESSION))


def test_a_push_to_nowhere_says_what_may_be_missing(scripted, make_client):
    body = {"errors": [{"code": "NAME_UNKNOWN", "message": "repository not known"}]}
    scripted.add("POST", UPLOADS, status=404, json=body)
    with pytest.raises(NotFoundInRegistry) as caught:
        make_client().start_upload(NAME)
    assert "repository not known" in str(caught.value)
    assert "dockerpush login r.example.com" in str(caught.value)


def test_a_page_of_a_proxy_becomes_one_line(scripted, client):
    page = "<html><head><title>x</title></head><body>\n<h1>413 Too Large</h1>\x1b[31m"
    scripted.add("PATCH", SESSION, status=413, body=page)
    with pytest.raises(RegistryError) as caught:
        client.send_chunk(NAME, Upload(SESSION), [b"abc"], 3)
    assert str(caught.value).endswith(": 413 Too Large [31m")
    assert "<" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


# manifests


def manifest_headers(raw: bytes = MANIFEST, media_type: str = OCI_MANIFEST):
    return {"Content-Type": media_type, "Docker-Content-Digest": Digest.of(raw)}


def test_a_manifest_is_read_by_its_tag(scripted, client):
    scripted.add("GET", MANIFESTS + "1", body=MANIFEST, headers=manifest_headers())
    descriptor, raw = client.read_manifest(NAME, "1")
    assert (descriptor, raw) == (Descriptor.of(OCI_MANIFEST, MANIFEST), MANIFEST)
    accepted = scripted.calls[0].request.headers["Accept"]
    assert OCI_INDEX in accepted
    assert DOCKER_MANIFEST in accepted


def test_a_manifest_without_headers_is_known_by_itself(scripted, client):
    digest = Digest.of(MANIFEST)
    scripted.add("GET", MANIFESTS + digest, body=MANIFEST, content_type="text/plain")
    assert client.read_manifest(NAME, digest)[0].media_type == OCI_MANIFEST


def test_other_bytes_than_were_asked_for_are_refused(scripted, client):
    digest = Digest.of(b"other")
    scripted.add("GET", MANIFESTS + digest, body=MANIFEST, content_type=OCI_MANIFEST)
    with pytest.raises(ContentMismatch):
        client.read_manifest(NAME, digest)


def test_other_bytes_than_were_stated_are_refused(scripted, client):
    headers = manifest_headers(b"other")
    scripted.add("GET", MANIFESTS + "1", body=MANIFEST, headers=headers)
    with pytest.raises(ContentMismatch):
        client.read_manifest(NAME, "1")


def test_an_sha512_digest_is_checked_too(scripted, client):
    hasher = Digest("sha512:" + "0" * 128).hasher()
    hasher.update(MANIFEST)
    digest = Digest.from_hash(hasher)
    scripted.add("GET", MANIFESTS + digest, body=MANIFEST, headers=manifest_headers())
    assert client.read_manifest(NAME, digest)[0].digest == digest


INDEX = Index(OCI_INDEX, ()).to_bytes()
BOTH = json.dumps(
    {"mediaType": OCI_INDEX, "manifests": [], "layers": [], "config": {}}
).encode()


@pytest.mark.parametrize(
    ("raw", "media_type"),
    [
        (MANIFEST, OCI_INDEX),
        (INDEX, OCI_MANIFEST),
        (BOTH, OCI_INDEX),
        (b'{"manifests": []}', OCI_MANIFEST),
        (
            b'{"schemaVersion": 1}',
            "application/vnd.docker.distribution.manifest.v1+json",
        ),
        (b'{"mediaType": "application/evil"}', "application/json"),
        (b"[]", OCI_MANIFEST),
        (b"<html>", OCI_MANIFEST),
        (b'{"a":' * 100_000, OCI_MANIFEST),
    ],
)
def test_a_document_that_is_not_what_it_says_is_refused(
    scripted, client, raw, media_type
):
    """CVE-2021-41190."""
    scripted.add("GET", MANIFESTS + "1", body=raw, content_type=media_type)
    with pytest.raises(InvalidJSON):
        client.read_manifest(NAME, "1")


def test_an_endless_manifest_is_not_read(scripted, client):
    body = b" " * (5 << 20)
    scripted.add("GET", MANIFESTS + "1", body=body, content_type=OCI_MANIFEST)
    with pytest.raises(NetworkError, match="more than"):
        client.read_manifest(NAME, "1")


def test_a_descriptor_takes_a_head_alone(scripted, client):
    headers = {**manifest_headers(), "Content-Length": str(len(MANIFEST))}
    scripted.add("HEAD", MANIFESTS + "1", headers=headers)
    wanted = Descriptor.of(OCI_MANIFEST, MANIFEST)
    assert client.manifest_descriptor(NAME, "1") == wanted


@pytest.mark.parametrize("status", [200, 405])
def test_a_head_that_says_nothing_is_made_good_by_a_get(scripted, client, status):
    scripted.add("HEAD", MANIFESTS + "1", status=status)
    scripted.add("GET", MANIFESTS + "1", body=MANIFEST, headers=manifest_headers())
    wanted = Descriptor.of(OCI_MANIFEST, MANIFEST)
    assert client.manifest_descriptor(NAME, "1") == wanted


def test_a_missing_manifest_has_no_descriptor(scripted, client):
    scripted.add("HEAD", MANIFESTS + "1", status=404)
    scripted.add("GET", MANIFESTS + "1", status=404)
    assert client.manifest_descriptor(NAME, "1") is None


@pytest.mark.parametrize("status", [200, 201, 202])
def test_a_manifest_is_stored(scripted, client, status):
    scripted.add("PUT", MANIFESTS + "1", status=status, headers=manifest_headers())
    digest = client.put_manifest(NAME, "1", MANIFEST, OCI_MANIFEST)
    assert digest == Digest.of(MANIFEST)
    request = scripted.calls[0].request
    assert (request.body, request.headers["Content-Type"]) == (MANIFEST, OCI_MANIFEST)


def test_a_manifest_is_sent_again_after_a_401(scripted, make_client):
    scripted.add(
        "PUT", MANIFESTS + "1", status=401, headers={"WWW-Authenticate": "Basic"}
    )
    scripted.add("PUT", MANIFESTS + "1", status=201)
    credentials = Credentials("alice", Secret("pw"), source="a test")
    client = make_client(credentials=lambda *_: credentials)
    client.put_manifest(NAME, "1", MANIFEST, OCI_MANIFEST)


def test_a_manifest_whose_answer_was_lost_is_not_sent_twice(scripted, client):
    scripted.add("PUT", MANIFESTS + "1", status=504)
    headers = {**manifest_headers(), "Content-Length": str(len(MANIFEST))}
    scripted.add("HEAD", MANIFESTS + "1", headers=headers)
    client.put_manifest(NAME, "1", MANIFEST, OCI_MANIFEST)
    assert [line.split()[0] for line in asked(scripted)] == ["PUT", "HEAD"]


@pytest.mark.parametrize("status", [200, 404])
def test_a_lost_manifest_is_sent_again(scripted, client, status):
    """Also when the tag is there and still names another manifest."""
    old = {**manifest_headers(b"old"), "Content-Length": "3"}
    scripted.add("PUT", MANIFESTS + "1", status=504)
    scripted.add("HEAD", MANIFESTS + "1", status=status, headers=old)
    scripted.add("PUT", MANIFESTS + "1", status=201)
    client.put_manifest(NAME, "1", MANIFEST, OCI_MANIFEST)


@pytest.mark.parametrize("there", [MANIFEST, b"old", None])
def test_a_200_that_proves_nothing_is_checked(scripted, client, there):
    """It may come from the login page of a proxy, and nothing was stored."""
    scripted.add("PUT", MANIFESTS + "1", status=200, body=b"<html>log in</html>")
    if there is None:
        scripted.add("HEAD", MANIFESTS + "1", status=404)
        scripted.add("GET", MANIFESTS + "1", status=404)
    else:
        headers = {**manifest_headers(there), "Content-Length": str(len(there))}
        scripted.add("HEAD", MANIFESTS + "1", headers=headers)
    if there == MANIFEST:
        client.put_manifest(NAME, "1", MANIFEST, OCI_MANIFEST)
    else:
        with pytest.raises(RegistryError, match="login page"):
            client.put_manifest(NAME, "1", MANIFEST, OCI_MANIFEST)


def test_a_blob_that_another_client_is_just_linking_is_waited_for(scripted, client):
    """distribution 2.8 reads a half-written link: seen with eight clients at once."""
    body = {
        "errors": [
            {"code": "DIGEST_INVALID", "message": "provided digest did not match"},
            {"code": "MANIFEST_BLOB_UNKNOWN", "message": "blob unknown to registry"},
        ]
    }
    scripted.add("PUT", MANIFESTS + "1", status=400, json=body)
    scripted.add("HEAD", MANIFESTS + "1", status=404)
    scripted.add("PUT", MANIFESTS + "1", status=201)
    client.put_manifest(NAME, "1", MANIFEST, OCI_MANIFEST)


def test_a_digest_that_is_invalid_for_itself_is_definite(scripted, client):
    body = {"errors": [{"code": "DIGEST_INVALID", "message": "did not match"}]}
    scripted.add("PUT", MANIFESTS + "1", status=400, json=body)
    with pytest.raises(RegistryError, match="DIGEST_INVALID"):
        client.put_manifest(NAME, "1", MANIFEST, OCI_MANIFEST)


def test_a_missing_blob_is_known_by_its_code(scripted, client):
    body = {
        "errors": [
            {
                "code": "MANIFEST_BLOB_UNKNOWN",
                "message": "blob unknown",
                "detail": {"digest": BLOB},
            }
        ]
    }
    scripted.add("PUT", MANIFESTS + "1", status=404, json=body)
    with pytest.raises(RegistryError, match=BLOB) as caught:
        client.put_manifest(NAME, "1", MANIFEST, OCI_MANIFEST)
    assert caught.value.code == "MANIFEST_BLOB_UNKNOWN"


def test_a_manifest_is_not_stored_under_the_digest_of_another(client):
    with pytest.raises(ContentMismatch):
        client.put_manifest(NAME, BLOB, MANIFEST, OCI_MANIFEST)


@pytest.mark.parametrize(
    ("repository", "reference"),
    [
        ("../x", "1"),
        ("UPPER", "1"),
        ("a//b", "1"),
        ("a", "../1"),
        ("a", ""),
        ("a", "?"),
    ],
)
def test_a_name_that_does_not_belong_into_a_url_is_refused(
    client, repository, reference
):
    with pytest.raises(InvalidReference):
        client.read_manifest(repository, reference)


def test_manifests_and_blobs_are_deleted(scripted, client):
    scripted.add("DELETE", MANIFESTS + "1", status=202)
    scripted.add("DELETE", BLOBS + BLOB, status=202)
    client.delete_manifest(NAME, "1")
    client.delete_blob(NAME, BLOB)


# lists

TAGS = f"{HOST}/v2/team/app/tags/list"


def test_tags_come_page_by_page(scripted, client):
    first = {"Link": '</v2/team/app/tags/list?last=b&n=2>; rel="next"'}
    scripted.add("GET", TAGS + "?n=1000", json={"tags": ["a", "b"]}, headers=first)
    scripted.add("GET", TAGS + "?last=b&n=2", json={"tags": ["c"]})
    assert list(client.tags(NAME)) == ["a", "b", "c"]


def test_a_list_that_leads_back_to_itself_is_an_error(scripted, client):
    again = {"Link": f"<{TAGS}?n=1000>; rel=next"}
    scripted.add("GET", TAGS + "?n=1000", json={"tags": ["a"]}, headers=again)
    with pytest.raises(ContentMismatch, match="again and again"):
        list(client.tags(NAME))


def test_a_page_that_comes_again_under_other_urls_is_an_error(scripted, client):
    for here, following in (("n=1000", "last=a"), ("last=a", "last=a&x=1")):
        link = {"Link": f"<{TAGS}?{following}>; rel=next"}
        scripted.add("GET", f"{TAGS}?{here}", json={"tags": ["a"]}, headers=link)
    with pytest.raises(ContentMismatch, match="again and again"):
        list(client.tags(NAME))


def test_an_empty_last_page_may_lead_back(scripted, client):
    first = {"Link": f"<{TAGS}?last=a>; rel=next"}
    scripted.add("GET", TAGS + "?n=1000", json={"tags": ["a"]}, headers=first)
    scripted.add("GET", TAGS + "?last=a", json={"tags": []}, headers=first)
    assert list(client.tags(NAME)) == ["a"]


def test_a_list_without_end_is_an_error(scripted, client, monkeypatch):
    monkeypatch.setattr("dockerpush.registry.pages.MOST_PAGES", 2)
    for here, following in (("n=1000", "last=a"), ("last=a", "last=b")):
        link = {"Link": f"<{TAGS}?{following}>; rel=next"}
        scripted.add("GET", f"{TAGS}?{here}", json={"tags": [here[-1]]}, headers=link)
    with pytest.raises(ContentMismatch, match="did not end after 2 pages"):
        list(client.tags(NAME))


def test_a_list_that_leads_elsewhere_is_refused(scripted, client):
    away = {"Link": '<https://evil.example.com/v2/>; rel="next"'}
    scripted.add("GET", TAGS + "?n=1000", json={"tags": ["a"]}, headers=away)
    with pytest.raises(NetworkError, match="to another host"):
        list(client.tags(NAME))


def test_a_repository_without_tags_has_none(scripted, client):
    scripted.add("GET", TAGS + "?n=1000", json={"name": NAME, "tags": None})
    assert list(client.tags(NAME)) == []


@pytest.mark.parametrize("odd", ["\x1b[31m", 3, None, ".x", "-x", {}, str(BLOB)])
def test_what_is_no_tag_is_skipped_with_one_warning(scripted, client, events, odd):
    scripted.add("GET", TAGS + "?n=1000", json={"tags": ["1.0", odd, "1.1", odd]})
    assert list(client.tags(NAME)) == ["1.0", "1.1"]
    (notice,) = [event for event in events if isinstance(event, Notice)]
    assert notice.warning and "and 1 more" in notice.text
    assert "\x1b" not in notice.text


@pytest.mark.parametrize("body", [{"tags": "abc"}, [], "x"])
def test_what_is_no_list_of_tags_is_refused(scripted, client, body):
    scripted.add("GET", TAGS + "?n=1000", json=body)
    with pytest.raises(InvalidJSON):
        list(client.tags(NAME))


SIGNATURE = Descriptor.of(OCI_MANIFEST, b"signature").to_json()
REFERRERS = {
    "mediaType": OCI_INDEX,
    "manifests": [
        {**SIGNATURE, "artifactType": "a/signature"},
        {**Descriptor.of(OCI_MANIFEST, b"sbom").to_json(), "artifactType": "a/sbom"},
    ],
}


def test_referrers_are_filtered_here_when_the_registry_does_not(scripted, client):
    url = f"{HOST}/v2/team/app/referrers/{BLOB}?artifactType=a/sbom"
    scripted.add("GET", url, json=REFERRERS)
    found = client.referrers(NAME, BLOB, "a/sbom")
    assert [one.artifact_type for one in found] == ["a/sbom"]


def test_referrers_are_found_by_tag_where_the_endpoint_is_unknown(scripted, client):
    scripted.add("GET", f"{HOST}/v2/team/app/referrers/{BLOB}", status=404)
    tag = f"sha256-{BLOB.hex}"
    scripted.add("GET", MANIFESTS + tag, json=REFERRERS, content_type=OCI_INDEX)
    assert len(client.referrers(NAME, BLOB)) == 2


def test_referrers_whose_second_page_is_missing_are_an_error(scripted, client):
    url = f"{HOST}/v2/team/app/referrers/{BLOB}"
    link = {"Link": f"<{url}?last=x>; rel=next"}
    scripted.add("GET", url, json=REFERRERS, headers=link)
    scripted.add("GET", url + "?last=x", status=404)
    with pytest.raises(NotFoundInRegistry):
        client.referrers(NAME, BLOB)


def test_nothing_refers_to_what_nobody_knows(scripted, client):
    scripted.add("GET", f"{HOST}/v2/team/app/referrers/{BLOB}", status=404)
    scripted.add("GET", f"{MANIFESTS}sha256-{BLOB.hex}", status=404)
    assert client.referrers(NAME, BLOB) == ()


# the rest


def test_a_warning_is_shown_once(scripted, client, events):
    """distribution-spec, Warnings; other codes are not for users."""
    lines = [
        ("Warning", '299 - "this tag is \\"old\\""'),
        ("Warning", '299 - "quota"'),
        ("Warning", '199 - "misc"'),
    ]
    scripted.add("GET", HOST + "/v2/", headers=lines)
    client.ping()
    client.ping()
    assert events == [
        Notice('r.example.com warns: this tag is "old"'),
        Notice("r.example.com warns: quota"),
    ]


def test_a_client_that_only_reads_asks_for_no_more(scripted, make_client):
    challenge = {"WWW-Authenticate": f'Bearer realm="{HOST}/token"'}
    scripted.add("HEAD", BLOBS + BLOB, status=401, headers=challenge)
    token = f"{HOST}/token?scope=repository:team/app:pull"
    scripted.add("GET", token, json={"token": "t"})
    scripted.add("HEAD", BLOBS + BLOB, headers={"Content-Length": "6"})
    assert make_client(actions=PULL).blob_size(NAME, BLOB) == 6
