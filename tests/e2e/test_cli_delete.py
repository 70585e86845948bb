"""``delete``: a tag alone where the registry can, and nothing that others show."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

import pytest
from bent import BentServer, refused
from copied import Layout, assert_whole, put, read
from images import digest_of, small_archive
from multiplatform import write_layout
from terminal import at_terminal

from dockerpush import push
from dockerpush.oci import OCI_INDEX, OCI_MANIFEST
from dockerpush.server import Registry, RegistryServer


def fill(host: str, directory) -> str:
    """Push app:1 and :2, which are one image, app:3 and multi:v1; app:1's digest."""
    for tag, name in (("1", "one"), ("3", "three")):
        archive = small_archive(directory / f"{name}.tar", salt=name.encode())
        push(archive, f"{host}/app:{tag}")
    raw = read(host, "app", "1")
    put(host, "app", "2", raw, json.loads(raw)["mediaType"])
    write_layout(directory / "layout")
    layout = Layout.__new__(Layout)
    layout.path = directory / "layout"
    layout.send(host, "multi", "v1")
    return digest_of(raw)


def tags(host: str, repository: str = "app") -> list[str]:
    try:
        with urllib.request.urlopen(f"http://{host}/v2/{repository}/tags/list") as got:
            return sorted(json.load(got)["tags"] or [])
    except urllib.error.HTTPError as error:
        assert error.code == 404
        return []


def is_there(host: str, repository: str, reference: str) -> bool:
    try:
        read(host, repository, reference)
    except urllib.error.HTTPError as error:
        assert error.code == 404
        return False
    return True


@pytest.fixture
def modern(tmp_path):
    """A registry that deletes tags alone, and the digest of app:1."""
    with RegistryServer(Registry(tmp_path / "registry")) as server:
        yield server.host, fill(server.host, tmp_path)


@pytest.fixture
def old(docker_registry, tmp_path):
    """docker-registry 2.8, which deletes no tag alone, and the digest of app:1."""
    return docker_registry.host, fill(docker_registry.host, tmp_path)


class TestTagsAlone:
    def test_the_image_stays_under_its_other_tags(self, modern, run_cli):
        host, digest = modern
        done = run_cli("delete", f"{host}/app:1", "--yes")
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{host}/app:1@{digest}\n"
        assert f"deleted the tag {host}/app:1" in done.stderr
        assert "garbage-collect --delete-untagged" in done.stderr
        assert tags(host) == ["2", "3"]
        assert_whole(host, "app", read(host, "app", "2"))

    def test_the_last_tag_leaves_the_manifest(self, modern, run_cli):
        host, digest = modern
        done = run_cli("delete", f"{host}/app:1", f"{host}/app:2", "--yes", "--json")
        assert done.returncode == 0, done.stderr
        assert done.json["deleted"] == "tag"
        assert tags(host) == ["3"]
        assert is_there(host, "app", digest)

    def test_only_if_it_has_the_given_digest(self, modern, run_cli):
        host, digest = modern
        wrong = run_cli("delete", f"{host}/app:3@{digest}", "--yes")
        assert wrong.returncode == 6 and "nothing was deleted" in wrong.error
        assert run_cli("delete", f"{host}/app:1@{digest}", "--yes").returncode == 0
        assert tags(host) == ["2", "3"]

    def test_a_lost_answer_is_no_failure(self, run_cli, tmp_path):
        lost = []

        def bend(request, honest):
            answer = honest()
            if request.method == "DELETE" and not lost:
                lost.append(request.path)
                return refused(503)
            return answer

        with BentServer(tmp_path / "bent", bend) as server:
            fill(server.host, tmp_path)
            done = run_cli("delete", f"{server.host}/app:1", "--yes", "--retry-delay=0")
            assert done.returncode == 0, done.stderr
            assert tags(server.host) == ["2", "3"]


class TestByDigest:
    """Where the registry deletes no tag alone."""

    def test_an_image_that_nobody_else_shows_goes(self, old, run_cli):
        host, _ = old
        done = run_cli("delete", f"{host}/app:3", "--yes", "--json")
        assert done.returncode == 0, done.stderr
        assert done.json["deleted"] == "manifest"
        assert tags(host) == ["1", "2"]
        assert "garbage-collect CONFIG" in done.stderr

    def test_one_that_another_tag_shows_is_refused_by_name(self, old, run_cli):
        host, _ = old
        done = run_cli("delete", f"{host}/app:1", "--yes")
        assert (done.returncode, done.stdout) == (1, "")
        assert "is also tag 2" in done.error and "--digest" in done.error
        assert done.stderr.count("\n") == 1
        assert tags(host) == ["1", "2", "3"]

    def test_all_its_tags_at_once_are_fine(self, old, run_cli):
        host, digest = old
        done = run_cli("delete", f"{host}/app:1", f"{host}/app:2", "--yes")
        assert done.returncode == 0, done.stderr
        assert tags(host) == ["3"]
        assert not is_there(host, "app", digest)

    def test_digest_deletes_it_for_all(self, old, run_cli):
        host, digest = old
        done = run_cli("delete", f"{host}/app:1", "--digest", "--yes")
        assert done.returncode == 0, done.stderr
        assert f"warning: {digest[7:19]} was also tag 2" in done.stderr
        assert tags(host) == ["3"]

    @pytest.mark.parametrize("registry", ["modern", "old"])
    def test_a_part_of_an_index_is_refused(self, registry, request, run_cli):
        host, _ = request.getfixturevalue(registry)
        index = json.loads(read(host, "multi", "v1"))
        child = index["manifests"][0]["digest"]
        put(host, "multi", "part", read(host, "multi", child), OCI_MANIFEST)
        done = run_cli("delete", f"{host}/multi@{child}", "--yes")
        assert done.returncode == 1
        assert "is also tag part, the index v1" in done.error
        if registry == "old":
            done = run_cli("delete", f"{host}/multi:part", "--yes")
            assert done.returncode == 1
            assert "is also the index v1; --digest" in done.error
        assert_whole(host, "multi", read(host, "multi", "v1"))
        forced = run_cli("delete", f"{host}/multi@{child}", "--yes", "--digest")
        assert forced.returncode == 0, forced.stderr
        assert "the index v1" in forced.stderr
        assert not is_there(host, "multi", child)

    def test_an_index_within_an_index_counts(self, modern, run_cli):
        host, _ = modern
        inner = read(host, "multi", "v1")
        entry = {
            "mediaType": OCI_INDEX,
            "digest": digest_of(inner),
            "size": len(inner),
        }
        outer = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}
        put(host, "multi", "outer", json.dumps(outer).encode(), OCI_INDEX)
        run_cli("delete", f"{host}/multi:v1", "--yes")
        child = json.loads(inner)["manifests"][0]["digest"]
        done = run_cli("delete", f"{host}/multi@{child}", "--yes")
        assert done.returncode == 1 and "is also the index outer" in done.error

    def test_a_signature_that_stays_is_reported(self, old, run_cli):
        host, _ = old
        raw = read(host, "app", "3")
        tag = digest_of(raw).replace(":", "-") + ".sig"
        other = read(host, "app", "1")
        put(host, "app", tag, other, json.loads(other)["mediaType"])
        done = run_cli("delete", f"{host}/app:3", "--yes")
        assert done.returncode == 0, done.stderr
        assert f"note: {tag} refers to it" in done.stderr


class TestQuestions:
    def test_without_a_terminal_it_needs_yes(self, modern, run_cli):
        host, _ = modern
        done = run_cli("delete", f"{host}/app:1")
        assert done.returncode == 2 and "--yes" in done.error
        assert tags(host) == ["1", "2", "3"]

    @pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 2), ("", 2)])
    def test_it_asks_at_a_terminal(self, answer, code, modern, run_cli):
        host, _ = modern
        with at_terminal(run_cli, "delete", f"{host}/app:1") as terminal:
            terminal.expect(r"Delete it\? \[y/N\]")
            terminal.type(f"{answer}\n")
            assert terminal.end() == code
        assert ("1" in tags(host)) == (code != 0)

    def test_a_dry_run_deletes_nothing_and_asks_nothing(self, old, run_cli):
        host, digest = old
        done = run_cli("delete", f"{host}/app:1", f"{host}/app:3", "--dry-run")
        assert done.returncode == 0, done.stderr
        lines = [line.split() for line in done.stdout.splitlines()]
        assert lines[1][0] == f"{host}/app:1" and lines[1][2:] == ["tag", "2"]
        assert lines[2][0] == f"{host}/app:3" and lines[2][2:] == ["-"]
        done = run_cli("delete", f"{host}/app:1", "--dry-run", "--json")
        assert (done.json["digest"], done.json["tags"]) == (digest, ["2"])
        assert tags(host) == ["1", "2", "3"]


class TestFailures:
    @pytest.mark.parametrize(
        ("words", "code", "said"),
        [
            (["{host}/app", "--yes"], 2, "name the tag or the digest"),
            (["{host}/app:absent", "--yes"], 4, "dockerpush tags {host}/app"),
            (["{host}/absent:1", "--yes"], 4, "no tag '1' in"),
            (["{host}/app@sha256:" + "a" * 64, "--yes"], 4, "no image sha256:aaa"),
            (["./x.tar", "--yes"], 2, "looks like a file"),
            (["--yes"], 2, "delete needs a tag or a digest"),
        ],
    )
    def test_what_cannot_be_is_one_line(self, words, code, said, modern, run_cli):
        host, _ = modern
        done = run_cli("delete", *(word.format(host=host) for word in words))
        assert (done.returncode, done.stdout) == (code, "")
        assert said.format(host=host) in done.error
        assert done.stderr.count("\n") == 1

    def test_what_is_missing_may_be_ignored(self, modern, run_cli):
        host, _ = modern
        command = ["delete", f"{host}/app:1", "--yes", "--ignore-missing"]
        assert run_cli(*command).returncode == 0
        done = run_cli(*command)
        assert done.returncode == 0 and "is not there" in done.stderr

    def test_one_failure_stops_no_other(self, modern, run_cli):
        host, _ = modern
        done = run_cli("delete", f"{host}/app:absent", f"{host}/app:1", "--yes")
        assert done.returncode == 7
        assert "1 of 2 deletions failed" in done.error
        assert tags(host) == ["2", "3"]

    @pytest.mark.parametrize(
        ("status", "code", "words"),
        [
            (401, 3, ""),
            (403, 3, ""),
            (405, 1, "the registry deletes nothing"),
            (409, 1, "409"),
            (412, 1, "412"),
        ],
    )
    def test_a_registry_that_refuses(self, status, code, words, run_cli, tmp_path):
        def bend(request, honest):
            return refused(status) if request.method == "DELETE" else honest()

        with BentServer(tmp_path / "bent", bend) as server:
            fill(server.host, tmp_path)
            done = run_cli("delete", f"{server.host}/app:3", "--yes")
            assert done.returncode == code, done.stderr
            assert words in done.error and done.stderr.count("\n") == 1
            assert tags(server.host) == ["1", "2", "3"]
            asked = server.asked("DELETE")
        assert len(asked) == (2 if status == 405 else 1)  # 409: the tag is protected

    def test_a_look_that_is_refused_is_no_push(self, run_cli, tmp_path):
        def bend(request, honest):
            return refused(401) if request.path.endswith("/manifests/1") else honest()

        with BentServer(tmp_path / "bent", bend) as server:
            done = run_cli("delete", f"{server.host}/app:1", "--yes")
        assert done.returncode == 3
        assert done.error.startswith(f"error: cannot read {server.host}/app:1: ")

    def test_a_registry_that_only_says_that_it_deletes(self, run_cli, tmp_path):
        def bend(request, honest):
            return refused(202) if request.method == "DELETE" else honest()

        with BentServer(tmp_path / "bent", bend) as server:
            fill(server.host, tmp_path)
            done = run_cli("delete", f"{server.host}/app:1", "--yes")
        assert done.returncode == 1 and "still lists the tag" in done.error

    def test_a_tag_that_moves_meanwhile_stays(self, run_cli, tmp_path):
        moved = []

        def bend(request, honest):
            if request.method == "DELETE" and request.path.endswith("/3"):
                moved.append(request.path)
                raw = read(server.host, "app", "1")
                put(server.host, "app", "3", raw, json.loads(raw)["mediaType"])
                return refused(400, "DIGEST_INVALID")
            return honest()

        with BentServer(tmp_path / "bent", bend) as server:
            fill(server.host, tmp_path)
            before = digest_of(read(server.host, "app", "3"))
            done = run_cli("delete", f"{server.host}/app:3", "--yes")
            assert moved and done.returncode == 6
            assert "by now" in done.error
            assert is_there(server.host, "app", before)
