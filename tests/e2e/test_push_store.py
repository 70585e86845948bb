"""Lists of referrers where the registry keeps none, for every command that stores one.

And what becomes of a blob that the registry has lost.
"""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from typing import Any

import pytest
from archives import (
    LAYER,
    MANIFEST,
    Image,
    Layout,
    blob,
    descriptor,
    digest,
    dump,
    folder,
    gzipped,
    legacy,
    manifest_of,
    tar,
)
from bent import BentServer, refused, without_referrers

from dockerpush.server.messages import Request, Response

KIND = "application/vnd.example.signature"
IMAGE = Image.of("signed")
SUBJECT = descriptor(MANIFEST, b"an image that was pushed before")
TAG = SUBJECT["digest"].replace(":", "-")
NOTE = {"org.example.note": "kept"}


def signature() -> bytes:
    """A manifest that refers to SUBJECT."""
    record = json.loads(manifest_of(IMAGE, [gzipped(IMAGE.layers[0])], LAYER + "+gzip"))
    record = {**record, "artifactType": KIND, "subject": SUBJECT, "annotations": NOTE}
    return dump(record)


def signed_layout() -> Layout:
    """The signature as the image ``it``."""
    manifest = signature()
    contents = (manifest, IMAGE.config, *map(gzipped, IMAGE.layers))
    entry = descriptor(MANIFEST, manifest)
    return Layout({blob(one): one for one in contents}, (entry,)).annotated(ref="it")


def ask(
    host: str, method: str, path: str, body: bytes = b"", kind: str = MANIFEST
) -> bytes:
    connection = http.client.HTTPConnection(host)
    headers = {"Content-Type": kind} if body else {"Accept": "*/*"}
    connection.request(method, f"/v2/{path}", body, headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    assert answer.status < 300, (method, path, content)
    return content


def push_file(run_cli, directory: Path, host: str):
    path = tar(directory / "it.tar", signed_layout().files())
    return run_cli("push", path, "-t", f"{host}/app:1", "--json")


def push_directory(run_cli, directory: Path, host: str):
    path = folder(directory / "layout", signed_layout().files())
    return run_cli("push", path, "-t", f"{host}/app:1", "--json")


def push_pipe(run_cli, directory: Path, host: str):
    path = tar(directory / "it.tar", signed_layout().files())
    return run_cli("push", "-", "-t", f"{host}/app:1", "--json", stdin=path)


def copy_archive(run_cli, directory: Path, host: str):
    path = tar(directory / "it.tar", signed_layout().files())
    return run_cli("copy", path, f"{host}/app:1", "--json")


def copy_image(run_cli, directory: Path, host: str):
    path = tar(directory / "it.tar", signed_layout().files())
    assert run_cli("push", path, "-t", f"{host}/other:1").returncode == 0
    return run_cli("copy", f"{host}/other:1", f"{host}/app:1", "--json")


def sync_image(run_cli, directory: Path, host: str):
    path = tar(directory / "it.tar", signed_layout().files())
    assert run_cli("push", path, "-t", f"{host}/other:1").returncode == 0
    images = directory / "images.txt"
    images.write_text(f"{host}/other:1 {host}/app:1\n")
    return run_cli("sync", images)


COMMANDS = [push_file, push_directory, push_pipe, copy_archive, copy_image, sync_image]


@pytest.fixture(params=COMMANDS, ids=lambda command: command.__name__)
def command(request) -> Any:
    return request.param


def listed(host: str) -> list[dict[str, Any]]:
    """What the tag lists."""
    return json.loads(ask(host, "GET", f"app/manifests/{TAG}"))["manifests"]


def test_a_registry_without_referrers_gets_their_list_under_a_tag(
    command, run_cli, tmp_path
):
    with BentServer(tmp_path / "registry", without_referrers) as server:
        for _ in range(2):  # the second time changes nothing
            done = command(run_cli, tmp_path, server.host)
            assert done.returncode == 0, done.stderr
            entry = descriptor(MANIFEST, signature())
            wanted = {**entry, "artifactType": KIND, "annotations": NOTE}
            assert listed(server.host) == [wanted]


def test_what_the_list_has_stays_as_it_is(run_cli, tmp_path):
    other = {**descriptor(MANIFEST, b"{}"), "org.example.unknown": [1]}
    with BentServer(tmp_path / "registry", without_referrers) as server:
        ask(server.host, "POST", f"app/blobs/uploads/?digest={digest(b'{}')}", b"{}")
        image = dump({**json.loads(signature()), "subject": None})
        for content in (IMAGE.config, gzipped(IMAGE.layers[0])):
            name = digest(content)
            ask(server.host, "POST", f"app/blobs/uploads/?digest={name}", content)
        ask(server.host, "PUT", f"app/manifests/{digest(image)}", image)
        other = {**descriptor(MANIFEST, image), "org.example.unknown": [1]}
        index = dump(
            {
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.index.v1+json",
                "manifests": [other],
                "org.example.too": "kept",
            }
        )
        kind = "application/vnd.oci.image.index.v1+json"
        ask(server.host, "PUT", f"app/manifests/{TAG}", index, kind)
        assert push_file(run_cli, tmp_path, server.host).returncode == 0
        record = json.loads(ask(server.host, "GET", f"app/manifests/{TAG}"))
    assert record["org.example.too"] == "kept"
    first, second = record["manifests"]
    assert first == other
    assert second["digest"] == digest(signature())


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_a_list_that_cannot_be_kept_is_reported_and_stops_nothing(
    method, command, run_cli, tmp_path
):
    def bend(request: Request, honest) -> Response:
        if request.method == method and request.path.endswith(TAG):
            return refused(403, "DENIED")
        return without_referrers(request, honest)

    with BentServer(tmp_path / "registry", bend) as server:
        done = command(run_cli, tmp_path, server.host)
        assert done.returncode == 0, done.stderr
        assert ask(server.host, "GET", "app/manifests/1") == signature()
    warnings = [one for one in done.stderr.splitlines() if "warning: " in one]
    assert any(TAG in one and "403" in one for one in warnings)


def test_a_registry_that_lists_them_itself_is_asked_nothing(command, run_cli, tmp_path):
    with BentServer(tmp_path / "registry", lambda _, honest: honest()) as server:
        done = command(run_cli, tmp_path, server.host)
        assert done.returncode == 0, done.stderr
        paths = [one.path for one in server.seen]
        assert not [one for one in paths if "/referrers/" in one or TAG in one]


def test_one_that_has_the_list_and_does_not_say_so_gets_no_tag(run_cli, tmp_path):
    def bend(request: Request, honest) -> Response:
        answer = honest()
        kept = {k: v for k, v in answer.headers.items() if k != "OCI-Subject"}
        return Response(answer.status, kept, answer.content, answer.size)

    with BentServer(tmp_path / "registry", bend) as server:
        assert push_file(run_cli, tmp_path, server.host).returncode == 0
        assert server.asked("GET", "/referrers/")
        assert not server.asked("PUT", TAG)


def test_what_is_sent_again_after_a_loss_is_remembered(run_cli, tmp_path):
    """The blob, and where it is: the next push makes nothing anew."""
    path = tar(tmp_path / "app.tar", legacy(Image.of("lost " * 5000, tags=("app:1",))))
    with BentServer(tmp_path / "registry", lambda _, honest: honest()) as server:
        line = ("push", path, "-t", f"{server.host}/app:1", "--json")
        first = run_cli(*line).json
        manifest = json.loads(ask(server.host, "GET", "app/manifests/1"))
        layer = manifest["layers"][0]["digest"]
        ask(server.host, "DELETE", f"app/blobs/{layer}")
        again = run_cli(*line, "-v")
        assert again.returncode == 0, again.stderr
        assert "lost blobs" in again.stderr
        known = json.loads((run_cli.state / "blobs.json").read_text())
        assert known["holders"][layer] == [f"{server.host}/app"]
        assert [one["digest"] for one in known["layers"].values()] == [layer]
        third = run_cli(*line).json
    assert again.json["digest"] == third["digest"] == first["digest"]
    assert third["blobs"]["reused"] == 1


def test_what_was_lost_is_forgotten_also_when_it_cannot_be_sent(run_cli, tmp_path):
    path = tar(tmp_path / "app.tar", legacy(Image.of("lost " * 5000, tags=("app:1",))))
    broken: list[str] = []

    def bend(request: Request, honest) -> Response:
        if broken and request.method == "POST":
            return refused(403, "DENIED")
        return honest()

    with BentServer(tmp_path / "registry", bend) as server:
        line = ("push", path, "-t", f"{server.host}/app:1", "--json")
        assert run_cli(*line).returncode == 0
        manifest = json.loads(ask(server.host, "GET", "app/manifests/1"))
        layer = manifest["layers"][0]["digest"]
        ask(server.host, "DELETE", f"app/blobs/{layer}")
        broken.append("no uploads")
        assert run_cli(*line).returncode == 3
        known = json.loads((run_cli.state / "blobs.json").read_text())
    assert layer not in known["holders"]
    assert known["layers"] == {}


def test_a_manifest_of_the_archive_never_becomes_another(run_cli, tmp_path):
    """Only one that was built here may be stored as Docker's."""

    def bend(request: Request, honest) -> Response:
        kind = request.headers.first("Content-Type") or ""
        if request.method == "PUT" and kind.startswith("application/vnd.oci"):
            return refused(415)
        return honest()

    with BentServer(tmp_path / "registry", bend) as server:
        built = tar(tmp_path / "app.tar", legacy(Image.of("app", tags=("app:1",))))
        done = run_cli("push", built, "-t", f"{server.host}/app:1", "--json")
        assert done.returncode == 0, done.stderr
        stored = json.loads(ask(server.host, "GET", "app/manifests/1"))
        assert stored["mediaType"].startswith("application/vnd.docker")
        path = tar(tmp_path / "it.tar", signed_layout().files())
        for words in ("push", path, "-t"), ("copy", path):
            done = run_cli(*words, f"{server.host}/signed:1")
            assert done.returncode == 1, done.stderr
            assert "415" in done.error
