"""``repos``: the repositories of a registry, and a clear word where it tells none."""

from __future__ import annotations

import json

import pytest
from bent import BentServer, refused
from images import small_archive

from dockerpush import push
from dockerpush.server import Registry, RegistryServer
from dockerpush.server.messages import Response

NAMES = ["base", "team/app", "team/tool/x", "teams"]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory):
    """A registry that holds NAMES."""
    directory = tmp_path_factory.mktemp("repos")
    archive = small_archive(directory / "image.tar")
    with RegistryServer(Registry(directory / "registry")) as server:
        for name in NAMES:
            push(archive, f"{server.host}/{name}:1")
        yield server.host


@pytest.mark.parametrize(
    ("place", "wanted"),
    [
        ("{host}", NAMES),
        ("http://{host}", None),
        ("docker://{host}/", NAMES),
        ("{host}/team", ["team/app", "team/tool/x"]),
        ("{host}/team/app", ["team/app"]),
    ],
)
def test_repositories_are_listed_one_a_line(place, wanted, host, run_cli):
    done = run_cli("repos", place.format(host=host))
    if wanted is None:
        assert done.returncode == 2 and "leave out 'http://'" in done.error
        return
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == wanted


def test_with_the_registry_before_them_and_as_json(host, run_cli):
    done = run_cli("repos", f"{host}/team/tool", "--full-ref")
    assert done.stdout == f"{host}/team/tool/x\n"
    done = run_cli("repos", f"{host}/team/tool", "--json")
    assert done.json == {"registry": host, "repositories": ["team/tool/x"]}


def test_pages_are_followed(run_cli, docker_registry, tmp_path):
    archive = small_archive(tmp_path / "image.tar")
    for number in range(7):
        push(archive, f"{docker_registry.host}/r{number}:1")

    def bend(request, honest):
        query = {key: values[0] for key, values in request.query.items()}
        assert request.path.startswith("/v2/_catalog")
        if "n" in query:
            return refused(400, "PAGINATION_NUMBER_INVALID")
        last = int(query.get("last", "0"))
        body = json.dumps({"repositories": [f"r{last}", f"r{last + 1}"]}).encode()
        link = f'</v2/_catalog?last={last + 2}>; rel="next"'
        headers = {"Content-Type": "application/json"}
        return Response.of(
            200, headers if last == 4 else {**headers, "Link": link}, body
        )

    done = run_cli("repos", docker_registry.host)
    assert done.stdout.splitlines() == [f"r{number}" for number in range(7)]
    with BentServer(tmp_path / "bent", bend) as server:
        done = run_cli("repos", server.host)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"r{number}" for number in range(6)]


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (401, 3, "does not let you list its repositories"),
        (403, 3, "does not let you list its repositories"),
        (404, 4, "has no list of its repositories (status 404)"),
        (405, 4, "has no list of its repositories (status 405)"),
        (400, 4, "has no list of its repositories (status 400)"),
    ],
)
def test_a_closed_catalog_is_reported_in_one_line(
    status, code, words, run_cli, tmp_path
):
    def bend(request, honest):
        return honest() if request.path == "/v2/" else refused(status)

    with BentServer(tmp_path / "bent", bend) as server:
        done = run_cli("repos", server.host)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.count("\n") == 1
    assert words in done.error and "dockerpush tags" in done.error
    assert ("; try: dockerpush login " in done.error) is (status == 401)


def test_nonsense_in_the_place_of_the_list(run_cli, tmp_path):
    def bend(request, honest):
        return Response.of(
            200, {"Content-Type": "application/json"}, b'{"repositories": 1}'
        )

    with BentServer(tmp_path / "bent", bend) as server:
        done = run_cli("repos", server.host)
    assert done.returncode == 6
    assert done.stderr.count("\n") == 1


def test_nothing_there(host, run_cli, tmp_path):
    with RegistryServer(Registry(tmp_path / "empty")) as server:
        done = run_cli("repos", server.host)
        assert (done.returncode, done.stdout) == (0, "")
        assert "shows no repositories" in done.stderr
    done = run_cli("repos", f"{host}/absent")
    assert done.returncode == 4
    assert "no repository absent" in done.error
