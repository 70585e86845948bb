"""``copy``: from one registry into another, read back by clients that are not ours."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import USERS
from copied import Layout, assert_whole, delete, put, read
from images import digest_of, small_archive

from dockerpush.oci import OCI_MANIFEST
from dockerpush.server import Registry, RegistryServer


@pytest.fixture
def pair(tmp_path: Path):
    """Two embedded registries, with nothing in them."""
    with ExitStack() as stack:
        yield tuple(
            stack.enter_context(RegistryServer(Registry(tmp_path / name)))
            for name in ("one", "two")
        )


@pytest.fixture
def multi(tmp_path: Path) -> tuple[Layout, dict]:
    """Two platforms and an attestation; the layout and its index."""
    layout = Layout(tmp_path / "multi")
    amd, arm = layout.image("linux", "amd64"), layout.image("linux", "arm64")
    index = layout.index(amd, arm, layout.attestation(amd))
    layout.root(index)
    return layout, index


@pytest.mark.parametrize("direction", ["to docker-registry", "from docker-registry"])
def test_a_whole_index_is_stored_byte_for_byte(
    direction, multi, pair, shared_docker_registry, run_cli
):
    hosts = [pair[0].host, shared_docker_registry.host]
    source, target = hosts if direction.startswith("to") else hosts[::-1]
    repository = f"copy/{direction[:2]}"
    layout, index = multi
    layout.send(source, repository)
    done = run_cli(
        "copy", f"{source}/{repository}:1", f"{target}/new/{repository}:2", "--json"
    )
    assert done.returncode == 0, done.stderr
    assert done.json["digest"] == index["digest"]
    assert done.json["blobs"] == {"uploaded": 6}
    raw = read(target, f"new/{repository}", "2")
    assert digest_of(raw) == index["digest"]
    assert assert_whole(target, f"new/{repository}", raw) == 9


def test_nothing_is_sent_twice_and_a_second_copy_needs_no_blob(multi, pair, run_cli):
    layout, index = multi
    one, two = (server.host for server in pair)
    layout.send(one, "app")
    run_cli("copy", f"{one}/app:1", f"{two}/app:1")
    again = run_cli("copy", f"{one}/app:1", f"{two}/app:1", "--json")
    assert again.json["manifests"] == 0 and again.json["bytes"] == 0
    other_tag = run_cli("copy", f"{one}/app:1", f"{two}/app:other", "--json")
    assert other_tag.json["blobs"] == {} and other_tag.json["manifests"] == 1
    assert digest_of(read(two, "app", "other")) == index["digest"]


def test_blobs_are_mounted_within_one_registry(multi, pair, run_cli):
    layout, _ = multi
    host = pair[0].host
    layout.send(host, "app")
    done = run_cli("copy", f"{host}/app:1", f"{host}/mirror/app", "--json")
    assert done.json["blobs"] == {"mounted": 6}
    assert done.json["target"] == f"{host}/mirror/app:1"
    assert_whole(host, "mirror/app", read(host, "mirror/app", "1"))


def test_a_nested_index_is_copied_children_first(tmp_path, pair, run_cli):
    layout = Layout(tmp_path / "nested")
    inner = layout.index(layout.image("linux", "amd64"))
    outer = layout.index(inner, layout.image("linux", "arm64"))
    layout.root(outer)
    one, two = (server.host for server in pair)
    pushed = run_cli("push", layout.path, "-t", f"{one}/nested:1", "--json")
    assert pushed.json["digest"] == outer["digest"]
    done = run_cli("copy", f"{one}/nested:1", f"{two}/nested:1", "--json")
    assert done.json["digest"] == outer["digest"]
    assert assert_whole(two, "nested", read(two, "nested", "1")) == 7


class TestPlatforms:
    def test_one_platform_is_taken_out_of_its_index(self, multi, pair, run_cli):
        layout, index = multi
        one, two = (server.host for server in pair)
        layout.send(one, "app")
        done = run_cli(
            "copy",
            f"{one}/app:1",
            f"{two}/app:1",
            "--platform",
            "linux/arm64/v8",
            "--json",
        )
        children = json.loads(read(one, "app", "1"))["manifests"]
        assert done.json["digest"] == children[1]["digest"]
        assert index["digest"] in done.stderr and "the digest becomes" in done.stderr

    def test_several_stay_an_index_with_their_attestations(
        self, tmp_path, pair, run_cli
    ):
        layout = Layout(tmp_path / "three")
        amd, arm, s390 = (layout.image("linux", a) for a in ("amd64", "arm64", "s390x"))
        layout.root(layout.index(amd, arm, s390, layout.attestation(amd)))
        one, two = (server.host for server in pair)
        layout.send(one, "app")
        flags = ["--platform", "linux/amd64", "--platform", "linux/s390x"]
        done = run_cli("copy", f"{one}/app:1", f"{two}/app:1", *flags, "--json")
        assert done.returncode == 0, done.stderr
        kept = json.loads(read(two, "app", "1"))["manifests"]
        assert [entry["platform"]["architecture"] for entry in kept] == [
            "amd64",
            "s390x",
            "unknown",
        ]
        assert assert_whole(two, "app", read(two, "app", "1")) == 9

    def test_a_platform_that_is_not_there_names_those_that_are(
        self, multi, pair, run_cli
    ):
        layout, _ = multi
        one, two = (server.host for server in pair)
        layout.send(one, "app")
        done = run_cli(
            "copy", f"{one}/app:1", f"{two}/app:1", "--platform", "linux/s390x"
        )
        assert done.returncode == 4
        assert "linux/amd64, linux/arm64" in done.error

    def test_nonsense_is_refused_before_anybody_is_asked(self, run_cli):
        done = run_cli(
            "copy", "nowhere.test/a:1", "nowhere.test/b:1", "--platform", "x"
        )
        assert done.returncode == 2 and "--platform" in done.error


@pytest.mark.parametrize("kind", ["embedded", "docker-registry"])
def test_referrers_come_along_and_theirs_too(
    kind, multi, pair, shared_docker_registry, run_cli
):
    layout, index = multi
    one = pair[0].host
    two = pair[1].host if kind == "embedded" else shared_docker_registry.host
    layout.send(one, "app")
    below = index
    found = []
    for name in ("signature", "countersignature"):
        config = json.loads(read(one, "app", index["digest"]))["manifests"][0]
        image = json.loads(read(one, "app", config["digest"]))
        value = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": f"application/vnd.test.{name}",
            "config": image["config"],
            "layers": image["layers"],
            "subject": {k: below[k] for k in ("mediaType", "digest", "size")},
        }
        raw = json.dumps(value).encode()
        put(one, "app", digest_of(raw), raw, OCI_MANIFEST)
        below = {"mediaType": OCI_MANIFEST, "digest": digest_of(raw), "size": len(raw)}
        found.append(digest_of(raw))
    without = run_cli("copy", f"{one}/app:1", f"{two}/plain:1", "--json")
    assert without.json["referrers"] == 0
    done = run_cli("copy", f"{one}/app:1", f"{two}/signed:1", "--referrers", "--json")
    assert done.returncode == 0, done.stderr
    assert done.json["referrers"] == 2
    for subject, referrer in zip([index["digest"], found[0]], found):
        listed = _referrers(two, "signed", subject)
        assert [entry["digest"] for entry in listed] == [referrer]
        assert digest_of(read(two, "signed", referrer)) == referrer


def _referrers(host: str, repository: str, subject: str) -> list:
    try:
        return json.loads(read(host, repository, subject, "referrers"))["manifests"]
    except urllib.error.HTTPError:
        raw = read(host, repository, subject.replace(":", "-"))
        return json.loads(raw)["manifests"]


class TestTags:
    def test_all_of_them(self, pair, run_cli, tmp_path):
        one, two = (server.host for server in pair)
        for tag in ("1", "2"):
            path = small_archive(tmp_path / f"{tag}.tar", salt=tag.encode())
            run_cli("push", path, "-t", f"{one}/app:{tag}")
        done = run_cli("copy", "-a", f"{one}/app", f"{two}/app", "--json")
        assert done.returncode == 0, done.stderr
        for tag in ("1", "2"):
            assert read(one, "app", tag) == read(two, "app", tag)

    def test_all_of_a_tag_makes_no_sense(self, run_cli):
        done = run_cli("copy", "-a", "a.test/app:1", "b.test/app")
        assert done.returncode == 2 and "takes a repository" in done.error

    def test_one_that_exists_is_left_alone(self, pair, run_cli, tmp_path):
        one, two = (server.host for server in pair)
        run_cli("push", small_archive(tmp_path / "a.tar"), "-t", f"{one}/app:1")
        run_cli("push", small_archive(tmp_path / "b.tar"), "-t", f"{two}/app:1")
        before = read(two, "app", "1")
        done = run_cli("copy", "-n", f"{one}/app:1", f"{two}/app:1", "--json")
        assert done.returncode == 0 and done.json["skipped"] is True
        assert read(two, "app", "1") == before

    def test_a_digest_alone_is_copied_without_a_tag(self, multi, pair, run_cli):
        layout, index = multi
        one, two = (server.host for server in pair)
        layout.send(one, "app")
        path = run_cli.home / "digest"
        done = run_cli(
            "copy",
            f"{one}/app@{index['digest']}",
            f"{two}/app",
            "--digestfile",
            path,
        )
        assert done.returncode == 0, done.stderr
        assert path.read_text() == index["digest"]
        assert json.loads(read(two, "app", "list", "tags"))["tags"] in ([], None)


class TestFailures:
    def test_an_unknown_image_is_not_found(self, pair, run_cli):
        one, two = (server.host for server in pair)
        done = run_cli("copy", f"{one}/app:none", f"{two}/app:1")
        assert done.returncode == 4
        assert f"no repository {one}/app" in done.error

    def test_an_index_that_names_an_absent_child_moves_no_tag(
        self, tmp_path, pair, run_cli
    ):
        one, two = (server.host for server in pair)
        layout = Layout(tmp_path / "sparse")
        here, gone = layout.image("linux", "amd64"), layout.image("linux", "arm64")
        layout.root(layout.index(here, gone), "sparse")
        layout.send(one, "app", "sparse")
        delete(one, f"app/manifests/{gone['digest']}")
        done = run_cli("copy", f"{one}/app:sparse", f"{two}/app:1")
        assert done.returncode == 4
        assert gone["digest"] in done.error
        with pytest.raises(urllib.error.HTTPError):
            read(two, "app", "1")

    def test_a_blob_that_the_source_lost_names_it(self, multi, pair, run_cli, tmp_path):
        layout, _ = multi
        one, two = (server.host for server in pair)
        layout.send(one, "app")
        image = json.loads(read(one, "app", "1"))["manifests"][0]["digest"]
        layer = json.loads(read(one, "app", image))["layers"][0]["digest"]
        delete(one, f"app/blobs/{layer}")
        done = run_cli("copy", f"{one}/app:1", f"{two}/app:1", "--retry-times", "0")
        assert done.returncode == 4, done.stderr
        assert layer in done.error and one in done.error


@pytest.mark.parametrize("form", ["oci-archive:{}.tar", "oci:{}", "{}.oci.tar"])
def test_an_archive_as_the_target_holds_the_same_bytes(
    form, multi, pair, run_cli, tmp_path
):
    layout, index = multi
    one, two = (server.host for server in pair)
    layout.send(one, "app")
    target = form.format(tmp_path / "image")
    done = run_cli("copy", f"{one}/app:1", target)
    assert done.returncode == 0, done.stderr
    back = run_cli("copy", target, f"{two}/app:1", "--json")
    assert back.returncode == 0, back.stderr
    assert back.json["digest"] == index["digest"]


def test_an_archive_as_the_source_is_pushed(pair, run_cli, tmp_path):
    path = small_archive(tmp_path / "image.tar")
    host = pair[0].host
    pushed = run_cli("push", path, "-t", f"{host}/pushed:1", "--json")
    for source in (path, f"docker-archive:{path}"):
        copied = run_cli("copy", source, f"{host}/copied:1", "--json")
        assert copied.returncode == 0, copied.stderr
        assert copied.json["digest"] == pushed.json["digest"]


class TestCredentials:
    """Two registries with users; who gets to see what."""

    @pytest.fixture
    def private(self, docker_registry_factory):
        return [docker_registry_factory(name, users=USERS) for name in ("a", "b")]

    def test_each_side_has_its_own(self, private, run_cli, tmp_path):
        one, two = (registry.host for registry in private)
        alice, bob = (f"{name}:{USERS[name]}" for name in ("alice", "bob"))
        path = small_archive(tmp_path / "image.tar")
        run_cli("push", path, "-t", f"{one}/app:1", "--creds", alice)
        flags = ["--src-creds", alice, "--dest-creds", bob]
        done = run_cli("copy", f"{one}/app:1", f"{two}/app:1", *flags)
        assert done.returncode == 0, done.stderr

    def test_plain_ones_never_reach_the_source(self, private, run_cli, tmp_path):
        one, two = (registry.host for registry in private)
        alice = f"alice:{USERS['alice']}"
        path = small_archive(tmp_path / "image.tar")
        run_cli("push", path, "-t", f"{one}/app:1", "--creds", alice)
        environment = {
            "DOCKERPUSH_USERNAME": "alice",
            "DOCKERPUSH_PASSWORD": USERS["alice"],
        }
        for flags, env in ((["--creds", alice], {}), ([], environment)):
            done = run_cli("copy", f"{one}/app:1", f"{two}/app:1", *flags, env=env)
            assert done.returncode == 3, done.stderr
            assert one in done.error
            done = run_cli("copy", f"{one}/app:1", "./image.tar", *flags, env=env)
            assert done.returncode == 3, done.stderr
        more = ["--src-creds", alice]
        done = run_cli("copy", f"{one}/app:1", f"{two}/app:1", *more, env=environment)
        assert done.returncode == 0, done.stderr

    def test_one_stdin_holds_one_password(self, run_cli):
        flags = ["--src-password-stdin", "--src-username", "a", "--password-stdin"]
        done = run_cli("copy", "a.test/app:1", "b.test/app:1", *flags)
        assert done.returncode == 2 and "--src-password-file" in done.error


def test_each_side_has_its_own_trust(tls_registry, pair, run_cli, tmp_path):
    one, two = tls_registry.host, pair[1].host
    path = small_archive(tmp_path / "image.tar")
    authority = tls_registry.authority
    run_cli("push", path, "-t", f"{one}/app:1", "--cacert", authority)
    refused = run_cli("copy", f"{one}/app:1", f"{two}/app:1", "--cacert", authority)
    assert refused.returncode == 5, refused.stderr
    for flags in (
        ["--src-cacert", authority],
        ["--src-tls-verify=false"],
        ["--src-tls-verify", "false"],
    ):
        done = run_cli("copy", f"{one}/app:1", f"{two}/app:1", *flags)
        assert done.returncode == 0, done.stderr
