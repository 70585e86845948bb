"""``tag``: more names for an image within its registry, and not a byte moves."""

from __future__ import annotations

import pytest
from bent import BentServer, refused
from copied import Layout, assert_whole, read
from images import digest_of, small_archive
from multiplatform import write_layout

from dockerpush import push
from dockerpush.server import Registry, RegistryServer


@pytest.fixture
def host(tmp_path):
    """A registry with team/app:1, and multi:v1 of several platforms."""
    write_layout(tmp_path / "layout")
    with RegistryServer(Registry(tmp_path / "registry")) as server:
        push(small_archive(tmp_path / "image.tar"), f"{server.host}/team/app:1")
        layout = Layout.__new__(Layout)
        layout.path = tmp_path / "layout"
        layout.send(server.host, "multi", "v1")
        yield server.host


def test_words_are_tags_of_the_same_repository(host, run_cli):
    done = run_cli("tag", f"{host}/team/app:1", "stable", "1.0")
    assert done.returncode == 0, done.stderr
    raw = read(host, "team/app", "1")
    assert read(host, "team/app", "stable") == raw == read(host, "team/app", "1.0")
    assert done.stdout.splitlines() == [f"{host}/team/app@{digest_of(raw)}"] * 2
    assert f"tagged {host}/team/app:1 as {host}/team/app:stable" in done.stderr


def test_an_index_by_its_digest(host, run_cli):
    raw = read(host, "multi", "v1")
    done = run_cli("tag", f"{host}/multi@{digest_of(raw)}", "new", "--json")
    assert done.returncode == 0, done.stderr
    assert done.json["digest"] == digest_of(raw) and done.json["changed"] is True
    assert read(host, "multi", "new") == raw


@pytest.mark.parametrize("name", ["team/app:1", "multi:v1"])
def test_another_repository_gets_it_by_mounts(name, host, run_cli):
    repository, tag = name.split(":")
    done = run_cli("tag", f"{host}/{name}", f"{host}/other/{repository}", "--json")
    assert done.returncode == 0, done.stderr
    assert done.json["bytes"] == 0
    assert done.json["tag"] == tag
    raw = read(host, f"other/{repository}", tag)
    assert raw == read(host, repository, tag)
    assert_whole(host, f"other/{repository}", raw)


def test_the_same_once_more_writes_nothing(run_cli, tmp_path):
    with BentServer(tmp_path / "bent", lambda request, honest: honest()) as server:
        push(small_archive(tmp_path / "image.tar"), f"{server.host}/a:1")
        for _ in range(2):
            done = run_cli("tag", f"{server.host}/a:1", "2", f"{server.host}/b:2")
            assert done.returncode == 0, done.stderr
        puts = [path for path in server.asked("PUT") if "/manifests/" in path]
        posts = server.asked("POST", "/v2/b/")
    assert "2 is sha256:" in done.stderr and done.stderr.count("already") == 2
    assert sorted(puts) == sorted(set(puts))
    assert posts and len(posts) == len(set(posts))


def test_a_refused_mount_is_reported(run_cli, tmp_path):
    def bend(request, honest):
        return refused(405) if "mount" in request.query else honest()

    with BentServer(tmp_path / "bent", bend) as server:
        push(small_archive(tmp_path / "image.tar"), f"{server.host}/a:1")
        done = run_cli("tag", f"{server.host}/a:1", f"{server.host}/b:2")
        assert done.returncode == 0, done.stderr
        assert "did not mount every blob" in done.stderr
        assert_whole(server.host, "b", read(server.host, "b", "2"))


def test_with_a_real_registry(docker_registry, run_cli, tmp_path):
    host = docker_registry.host
    push(small_archive(tmp_path / "image.tar"), f"{host}/a:1")
    done = run_cli("tag", f"{host}/a:1", "2", f"{host}/deep/b:3", "--json")
    assert done.returncode == 0, done.stderr
    assert done.json["bytes"] == 0
    assert read(host, "a", "1") == read(host, "a", "2") == read(host, "deep/b", "3")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["{host}/team/app:1"], 2, "needs an image and a new name"),
        (["{host}/team/app:absent", "x"], 4, "dockerpush tags {host}/team/app"),
        (["{host}/absent:1", "x"], 4, "no repository"),
        (
            ["{host}/team/app:1", "other.test/x:1"],
            2,
            "dockerpush copy {host}/team/app:1",
        ),
        (["{host}/team/app:1", "{host}/x@sha256:" + "a" * 64], 2, "a digest is no new"),
        (["{host}/team/app:1", ".bad"], 2, "looks like a file"),
        (["{host}/team/app:1", "UP/x:1"], 2, "copy"),
        (["{host}/team/app:1", "x:1"], 2, "names no registry"),
        (["./file.tar", "x"], 2, "looks like a file"),
    ],
)
def test_what_cannot_be_is_one_line(words, code, said, host, run_cli):
    done = run_cli("tag", *(word.format(host=host) for word in words))
    assert (done.returncode, done.stdout) == (code, "")
    assert said.format(host=host) in done.error
    assert [line for line in done.stderr.splitlines() if "error:" in line] == [
        done.error
    ]


def test_one_failure_stops_no_other(run_cli, tmp_path):
    def bend(request, honest):
        bad = request.method == "PUT" and request.path.endswith("/manifests/bad")
        return refused(403, "DENIED") if bad else honest()

    with BentServer(tmp_path / "bent", bend) as server:
        push(small_archive(tmp_path / "image.tar"), f"{server.host}/a:1")
        done = run_cli("tag", f"{server.host}/a:1", "bad", "good")
        assert done.returncode == 7
        assert f"failed: {server.host}/a:bad" in done.stderr
        assert read(server.host, "a", "good") == read(server.host, "a", "1")
        assert run_cli("tag", f"{server.host}/a:1", "bad").returncode == 3
