"""One right answer on every path: commands against the habits of other registries.

Each habit is one that somebody's registry, or a proxy before it, has. Each command that
meets it must do its work as if the registry were like the others.
"""

from __future__ import annotations

import gzip
import json
import urllib.request
from pathlib import Path
from typing import Any, Callable
from urllib.parse import urlencode

import pytest
from archives import Image, digest, dump, legacy, tar
from bent import BentServer, Honest, html, refused, without_referrers
from front import Raw, Trait, fronting
from images import large_archive
from registries import read_back

from dockerpush.oci import OCI_INDEX
from dockerpush.server.messages import Request, Response
from dockerpush.values import replace

IMAGE = Image.of("habits", tags=("app:1",))


class Sides:
    """A registry with IMAGE as ``app:1``, and commands that are aimed at *host*."""

    def __init__(self, run_cli: Any, directory: Path, host: str) -> None:
        self.run_cli = run_cli
        self.directory = directory
        self.host = host
        self.archive = tar(directory / "app.tar", legacy(IMAGE))

    def done(self, *arguments: Any, **options: Any) -> Any:
        done = self.run_cli(*arguments, "--plain-http", **options)
        assert done.returncode == 0, done.stderr
        return done

    def push(self) -> None:
        self.done("push", self.archive, "-t", f"{self.host}/new:1")

    def push_pipe(self) -> None:
        self.done("push", "-", "-t", f"{self.host}/new:1", stdin=self.archive)

    def pull(self) -> None:
        self.done("pull", f"{self.host}/app:1", "-o", self.directory / "out.tar")

    def copy(self) -> None:
        self.done("copy", f"{self.host}/app:1", f"{self.host}/new:1")

    def sync(self) -> None:
        images = self.directory / "images.txt"
        images.write_text(f"{self.host}/app:1 {self.host}/new:1\n")
        self.done("sync", images)

    def digest(self) -> None:
        assert self.done("digest", f"{self.host}/app:1").stdout.startswith("sha256:")

    def tags(self) -> None:
        assert self.done("tags", f"{self.host}/app").stdout == "1\n"

    def inspect(self) -> None:
        assert "amd64" in self.done("inspect", f"{self.host}/app:1").stdout

    def verify(self) -> None:
        self.done("verify", self.archive, f"{self.host}/app:1")

    def check(self) -> None:
        self.done("check", f"{self.host}/app:1")


WRITING = [Sides.push, Sides.push_pipe, Sides.copy, Sides.sync]
READING = [Sides.pull, Sides.digest, Sides.inspect, Sides.verify, Sides.check]
ALL = [*WRITING, *READING, Sides.tags]


def quick(values: Any, *first: Any) -> list[Any]:
    """*values*, of which all but *first* are left to the long tests."""
    return [
        one if one in first else pytest.param(one, marks=pytest.mark.long)
        for one in values
    ]


class Bent:
    """The bend that a test has chosen, none until then."""

    bend: Callable[[Request, Honest], Response] | None = None

    def __call__(self, request: Request, honest: Honest) -> Response:
        return self.bend(request, honest) if self.bend else honest()


@pytest.fixture
def bent() -> Bent:
    return Bent()


@pytest.fixture
def server(bent, tmp_path):
    with BentServer(tmp_path / "registry", bent) as server:
        yield server


@pytest.fixture
def sides(server, run_cli, tmp_path) -> Sides:
    sides = Sides(run_cli, tmp_path, server.host)
    sides.done("push", sides.archive, "-t", f"{server.host}/app:1")
    return sides


def names(value: Any) -> str:
    return getattr(value, "__name__", str(value)).strip("_")


def stored_again(sides: Sides) -> None:
    stored = read_back(sides.host, "new", "1")
    assert stored.layers == stored.diff_ids


# -- what HEAD says


def _head(answer: Callable[[], Response]) -> Callable[[Request, Honest], Response]:
    def bend(request: Request, honest: Honest) -> Response:
        return answer() if request.method == "HEAD" else honest()

    return bend


HEADS = [*(lambda s=s: refused(s) for s in (400, 403, 404, 405, 406, 501)), html]


@pytest.mark.parametrize("answer", HEADS, ids=(400, 403, 404, 405, 406, 501, "html"))
@pytest.mark.parametrize(
    "command", quick([Sides.digest, Sides.sync], Sides.digest), ids=names
)
def test_what_head_refuses_is_asked_by_get(command, answer, sides, bent):
    bent.bend = _head(answer)
    command(sides)


@pytest.mark.parametrize("command", quick(ALL, Sides.push, Sides.pull), ids=names)
def test_a_registry_that_knows_no_head_does_for_all_commands(command, sides, bent):
    bent.bend = _head(lambda: refused(404))
    command(sides)


def _passes_on(
    elsewhere: str, status: int, concerns: Callable[[Request], bool]
) -> Callable[[Request, Honest], Response]:
    """Redirects what it *concerns* to *elsewhere*, a front before the same registry."""

    def bend(request: Request, honest: Honest) -> Response:
        if request.headers.first("Host") == elsewhere or not concerns(request):
            return honest()
        pairs = [(key, one) for key, all in request.query.items() for one in all]
        query = "?" + urlencode(pairs) if pairs else ""
        where = f"http://{elsewhere}{request.path}{query}"
        return Response.of(status, {"Location": where})

    return bend


@pytest.mark.parametrize("command", [*WRITING, Sides.pull], ids=names)
def test_storage_that_signs_no_head_is_no_obstacle(command, sides, bent, server):
    """Blobs are redirected to storage that refuses HEAD, and knows our GET."""

    def refuse(answer: Raw) -> Raw:
        return answer._replace(status=403) if answer.method == "HEAD" else answer

    with fronting(server.host, Trait(change=refuse)) as elsewhere:
        bent.bend = _passes_on(
            *(elsewhere, 307),
            lambda one: "/blobs/sha256:" in one.path and one.method in ("GET", "HEAD"),
        )
        command(sides)


@pytest.mark.parametrize("status", [307, 308])
@pytest.mark.parametrize("command", quick(WRITING, Sides.push), ids=names)
def test_what_is_sent_goes_again_to_where_it_is_redirected(
    command, status, sides, bent, server
):
    def note(answer: Raw) -> Raw:
        seen.append(answer.method)
        return answer

    seen: list[str] = []
    with fronting(server.host, Trait(change=note)) as elsewhere:
        bent.bend = _passes_on(
            *(elsewhere, status), lambda one: one.method in ("POST", "PATCH", "PUT")
        )
        command(sides)
    bent.bend = None
    assert "PUT" in seen
    stored_again(sides)


# -- who may do what


class Tokens:
    """Token servers: each token is good for what was asked for, at one of them.

    *realm* and *scope* say what a repository is challenged with.
    """

    def __init__(self, host: str, realm: Callable, scope: Callable) -> None:
        self.host = host
        self.realm = realm
        self.scope = scope
        self.given: dict[str, tuple[str, list[str]]] = {}
        self.status = 401

    def __call__(self, request: Request, honest: Honest) -> Response:
        if request.path.startswith("/token/"):
            name = f"t{len(self.given)}"
            scopes = [one for all in request.query.get("scope", []) for one in [all]]
            self.given[name] = (request.path, scopes)
            return Response.of(200, {}, json.dumps({"token": name}).encode())
        repository = request.path.partition("/v2/")[2].rpartition("/blobs")[0]
        for part in ("/blobs", "/manifests", "/tags", "/referrers"):
            if part in request.path:
                repository = request.path.partition("/v2/")[2].partition(part)[0]
        realm, scope = self.realm(repository), self.scope(repository)
        writes = request.method not in ("GET", "HEAD")
        action = "pull,push" if writes else "pull"
        token = (request.headers.first("Authorization") or "")[len("Bearer ") :]
        path, scopes = self.given.get(token, ("", []))
        allowed = any(
            one.startswith(f"repository:{scope}:")
            and set(action.split(",")) <= set(one.rpartition(":")[2].split(","))
            for one in scopes
        )
        if path == realm and (allowed or not repository):
            return honest()
        header = f'Bearer realm="http://{self.host}{realm}",service="s"'
        if repository:
            header += f',scope="repository:{scope}:{action}"'
        return replace(
            refused(401, "UNAUTHORIZED"), headers={"WWW-Authenticate": header}
        )


@pytest.mark.parametrize("command", quick(ALL, Sides.push, Sides.pull), ids=names)
def test_each_repository_may_have_its_own_token_server(command, sides, bent, server):
    bent.bend = Tokens(server.host, lambda name: f"/token/{name or 'x'}", str)
    command(sides)


@pytest.mark.parametrize("command", quick(ALL, Sides.push, Sides.pull), ids=names)
def test_the_scope_that_a_challenge_names_is_asked_for(command, sides, bent, server):
    """A gateway shows repositories under another path than the registry behind it."""
    bent.bend = Tokens(server.host, lambda name: "/token/x", lambda name: f"in/{name}")
    command(sides)


@pytest.mark.parametrize("status", [403, 404])
@pytest.mark.parametrize("command", quick(ALL, Sides.push, Sides.pull), ids=names)
def test_a_refused_stranger_sends_credentials(command, status, sides, bent):
    def bend(request: Request, honest: Honest) -> Response:
        if request.headers.first("Authorization") is not None:
            return honest()
        if request.path != "/v2/":
            return refused(status)
        challenge = {"WWW-Authenticate": 'Basic realm="r"'}
        return replace(refused(401), headers=challenge)

    bent.bend = bend
    sides.done("login", sides.host, "-u", "u", "--password-stdin", stdin=b"p\n")
    command(sides)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_credentials_that_were_not_sent_were_not_refused(status, sides, bent):
    bent.bend = lambda request, honest: (
        honest() if request.path == "/v2/" else refused(status)
    )
    env = {"DOCKERPUSH_USERNAME": "u", "DOCKERPUSH_PASSWORD": "p"}
    source = f"{sides.host}/app:1"
    done = sides.run_cli("digest", source, "--plain-http", env=env)
    assert done.returncode == (4 if status == 404 else 3), done.stderr
    assert "rejected user" not in done.stderr
    if status != 404:
        assert "were not sent" in done.stderr


# -- doing it again


class Immutable:
    """No tag is written twice."""

    def __init__(self, status: int) -> None:
        self.status = status
        self.written: set[str] = set()

    def __call__(self, request: Request, honest: Honest) -> Response:
        if request.method != "PUT" or "/manifests/" not in request.path:
            return honest()
        if request.path in self.written:
            return refused(self.status, "TAG_INVALID")
        if "sha256:" not in request.path:
            self.written.add(request.path)
        return honest()


@pytest.mark.parametrize("status", quick([400, 403, 409, 412], 400))
@pytest.mark.parametrize("command", WRITING, ids=names)
def test_the_same_image_again_is_a_success_where_tags_are_immutable(
    command, status, sides, bent
):
    bent.bend = Immutable(status)
    command(sides)
    command(sides)


def test_another_image_for_an_immutable_tag_is_refused(sides, bent, tmp_path):
    bent.bend = Immutable(400)
    sides.push()
    other = tar(tmp_path / "other.tar", legacy(Image.of("other", tags=("app:1",))))
    done = sides.run_cli("push", other, "-t", f"{sides.host}/new:1")
    assert done.returncode == 1 and "TAG_INVALID" in done.stderr


@pytest.mark.parametrize("head", ["answered", "refused"])
@pytest.mark.parametrize("command", WRITING, ids=names)
def test_a_mount_that_did_nothing_is_made_good(command, head, sides, bent):
    def bend(request: Request, honest: Honest) -> Response:
        if request.method == "POST" and "mount" in request.query:
            return Response.of(201, {"Location": "/v2/new/blobs/x"})
        if request.method == "HEAD" and "/blobs/" in request.path and head == "refused":
            return refused(405)
        return honest()

    bent.bend = bend
    if command is Sides.push_pipe and head == "refused":
        with pytest.raises(AssertionError, match="run the same command once more"):
            command(sides)
    command(sides)
    bent.bend = None
    stored_again(sides)


# -- lists


def _listing(tags: Any) -> Callable[[Request, Honest], Response]:
    def bend(request: Request, honest: Honest) -> Response:
        if not request.path.endswith("/tags/list"):
            return honest()
        return Response.of(200, {}, json.dumps({"name": "app", "tags": tags}).encode())

    return bend


@pytest.mark.parametrize("odd", quick([None, "sha256:" + 64 * "a", "-x", 7], None))
def test_an_odd_tag_is_skipped_with_one_warning(odd, sides, bent):
    bent.bend = _listing(["1", odd])
    done = sides.done("tags", f"{sides.host}/app")
    assert done.stdout == "1\n" and done.stderr.count("warning:") == 1
    done = sides.done("copy", "-a", f"{sides.host}/app", f"{sides.host}/new")
    assert done.stderr.count("skipped") == 1
    stored_again(sides)


REFERRERS = {
    **{str(status): lambda s=status: refused(s) for status in (400, 403, 404)},
    **{str(status): lambda s=status: refused(s) for status in (405, 406, 501)},
    "html": html,
    "null": lambda: Response.of(200, {}, b'{"schemaVersion":2,"manifests":null}'),
    "just null": lambda: Response.of(200, {}, b"null"),
}


@pytest.mark.parametrize("how", quick(REFERRERS, "406", "html", "null"))
def test_referrers_are_found_under_their_tag_where_nothing_lists_them(how, sides, bent):
    raw = _call(sides, "GET", "manifests/1")
    image = json.loads(raw)
    subject = {"mediaType": image["mediaType"], "digest": digest(raw), "size": len(raw)}
    about = {"artifactType": "application/x.signature", "layers": []}
    signature = dump({**image, **about, "subject": subject})
    listed = {**subject, "digest": digest(signature), "size": len(signature)}
    index = dump({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [listed]})
    tag = digest(raw).replace(":", "-")
    for name, content, kind in (
        (digest(signature), signature, image["mediaType"]),
        (tag, index, OCI_INDEX),
    ):
        _call(sides, "PUT", f"manifests/{name}", content, kind)
    bent.bend = lambda request, honest: (
        REFERRERS[how]() if "/referrers/" in request.path else honest()
    )
    sides.done("copy", "--referrers", f"{sides.host}/app:1", f"{sides.host}/new:1")
    copied = f"{sides.host}/new@{digest(signature)}"
    assert sides.done("digest", copied).stdout.strip() == digest(signature)


def test_a_subject_under_its_own_tag_has_no_referrers(sides, bent):
    """Some registries take ``sha256-<hex>`` for the digest itself."""
    raw = _call(sides, "GET", "manifests/1")
    tag = digest(raw).replace(":", "-")
    _call(sides, "PUT", f"manifests/{tag}", raw, json.loads(raw)["mediaType"])
    bent.bend = without_referrers
    done = sides.done(
        "copy", "--referrers", f"{sides.host}/app:1", f"{sides.host}/new:1"
    )
    assert "warning" not in done.stderr


def _call(
    sides: Sides, method: str, path: str, content: bytes | None = None, kind: str = ""
) -> bytes:
    url = f"http://{sides.host}/v2/app/{path}"
    headers = {"Content-Type": kind} if kind else {}
    call = urllib.request.Request(url, content, headers, method=method)
    with urllib.request.urlopen(call, timeout=10) as answer:
        return answer.read()


def test_an_artifacts_tag_is_left_out_of_a_docker_archive_and_named(sides, tmp_path):
    raw = _call(sides, "GET", "manifests/1")
    index = dump({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []})
    tag = digest(raw).replace(":", "-")
    _call(sides, "PUT", f"manifests/{tag}", index, OCI_INDEX)
    out = f"docker-archive:{tmp_path}/out.tar"
    done = sides.done("copy", "-a", f"{sides.host}/app", out)
    assert f"warning: left out {sides.host}/app:{tag}" in done.stderr
    held = sides.run_cli("inspect", tmp_path / "out.tar", "--json").json
    assert [one["tags"] for one in held["images"]] == [[f"{sides.host}/app:1"]]


# -- below HTTP


def _json_packed(answer: Raw) -> Raw:
    """As a proxy does that packs all JSON, asked or not."""
    if answer.method != "GET" or not answer.body.startswith(b"{"):
        return answer
    body = gzip.compress(answer.body)
    answer = answer.without("content-length")
    headers = [("Content-Encoding", "gzip"), ("Content-Length", str(len(body)))]
    return answer._replace(body=body, headers=answer.headers + headers)


def _label(answer: Raw) -> Raw:
    """A blob's own gzip, named as if it were the way's."""
    if not answer.body.startswith(b"\x1f\x8b"):
        return answer
    return answer._replace(headers=[*answer.headers, ("Content-Encoding", "gzip")])


def _without_length(answer: Raw) -> Raw:
    if answer.status not in (201, 202, 204) and answer.method != "HEAD":
        return answer
    return answer.without("content-length")


def _interim(status: int) -> bytes:
    return b"HTTP/1.1 %d Wait\r\nLink: </x>; rel=preload\r\n\r\n" % status


BELOW = {
    "100 before the body": Trait(early=lambda method: _interim(100)),
    "102 before the body": Trait(early=lambda method: _interim(102) * 2),
    "103 before the answer": Trait(late=lambda method: _interim(103)),
    "102 at any time": Trait(lambda _: _interim(102), lambda _: _interim(102) * 3),
    "no length": Trait(change=_without_length),
    "packed JSON": Trait(change=_json_packed),
    "a label": Trait(change=_label),
}


@pytest.mark.parametrize("trait", BELOW)
@pytest.mark.parametrize("command", quick(ALL, Sides.push, Sides.pull), ids=names)
def test_what_is_odd_below_http_costs_nothing(command, trait, sides, server):
    """Least of all a wait: each command ends long before the first time-out."""
    with fronting(server.host, BELOW[trait]) as host:
        sides.host = host
        command(sides)


def test_a_large_body_continues_after_100_continue(sides, server, tmp_path):
    path = large_archive(tmp_path / "large.tar", [3_000_000], compressible=False)
    with fronting(server.host, BELOW["100 before the body"]) as host:
        sides.done("push", path, "-t", f"{host}/large:1", "--retry", "0")
