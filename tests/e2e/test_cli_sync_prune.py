"""``sync --prune``: what the list no longer yields goes, and nothing else."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from unittest import mock

import pytest
from bent import BentServer, refused
from conftest import Finished
from copied import Layout, assert_whole, delete, put, read, store, write
from images import digest_of, tar_of
from inprocess import run_here
from multiplatform import write_layout
from registries import run
from terminal import at_terminal
from test_cli_delete import is_there, tags

from dockerpush.oci import OCI_INDEX, OCI_MANIFEST
from dockerpush.server import Registry, RegistryServer
from dockerpush.transfer.local_targets import DirectoryTarget

NAME = "org.opencontainers.image.ref.name"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A registry with app:1, :2, :3, other:1 and the index multi:v1."""
    directory = tmp_path_factory.mktemp("source")
    with RegistryServer(Registry(directory / "registry")) as server:
        for name in ("2", "3", "1"):
            store(server.host, "app", [tar_of({"own": name.encode() * 700})])
            put(server.host, "app", name, read(server.host, "app", "1"), OCI_MANIFEST)
        store(server.host, "other", [tar_of({"own": b"other"})])
        write_layout(directory / "layout")
        layout = Layout.__new__(Layout)
        layout.path = directory / "layout"
        layout.send(server.host, "multi", "v1")
        yield server.host


@pytest.fixture
def modern(tmp_path):
    """A registry that deletes tags alone."""
    with RegistryServer(Registry(tmp_path / "modern")) as server:
        yield server.host


@pytest.fixture(params=["modern", "old"])
def target(request):
    """That, and docker-registry 2.8, which deletes no tag alone."""
    if request.param == "modern":
        return request.getfixturevalue("modern")
    return request.getfixturevalue("docker_registry").host


@pytest.fixture
def sync(run_cli, source, tmp_path):
    """Sync these images of the source to a registry, into the same repositories."""

    def run_it(host: str, *names: str, options=("--prune", "--yes", "--json")):
        lines = [f"{source}/{name} {host}/{name}" for name in names]
        path = write(tmp_path / "list", *lines)
        return run_here(["sync", path, *options], run_cli.environment())

    return run_it


@pytest.fixture
def filled(sync, target):
    """The target after a first sync of everything."""
    names = ("app:1", "app:2", "app:3", "other:1", "multi:v1")
    assert sync(target, *names).returncode == 0
    return target


def outcome(done) -> dict[str, str]:
    """Name → action of what was pruned, as the report has it."""
    found = done.json["pruned"]
    return {one["target"].partition("/")[2]: one["action"] for one in found}


def put_as(host: str, repository: str, tag: str, like: str) -> None:
    """Give what *like* shows another tag."""
    raw = read(host, repository, like)
    put(host, repository, tag, raw, json.loads(raw)["mediaType"])


class TestWhatGoes:
    def test_tags_that_the_list_no_longer_names(self, filled, sync, source):
        first = read(filled, "app", "1")
        done = sync(filled, "app:2")
        assert done.returncode == 0, done.stderr
        assert outcome(done) == {"app:1": "prune", "app:3": "prune"}
        assert done.json["prune"] == 2
        assert f"pruned {filled}/app:1 ({digest_of(first)[7:19]})" in done.stderr
        assert "garbage-collect" in done.stderr
        assert tags(filled) == ["2"]
        assert_whole(filled, "app", read(filled, "app", "2"))
        # repositories that the list does not write to are none of its business
        assert tags(filled, "other") == ["1"] and tags(filled, "multi") == ["v1"]

    def test_what_was_pruned_is_no_image_that_could_fail(self, filled, sync):
        done = sync(filled, "app:2", "gone:1")
        assert (done.returncode, done.json["prune"]) == (7, 2), done.stderr
        assert "1 of 2 images failed" in done.error

    def test_the_second_run_has_nothing_to_do(self, filled, sync):
        assert sync(filled, "app:2").returncode == 0
        done = sync(filled, "app:2", options=("--prune", "--yes"))
        assert (done.returncode, done.stderr) == (0, "")
        assert "0 copied, 1 unchanged, 0 missing, 0 failed, 0 pruned" in done.stdout

    def test_without_the_option_nothing_goes(self, filled, sync):
        done = sync(filled, "app:2", options=("--json",))
        assert done.json["pruned"] == []
        assert tags(filled) == ["1", "2", "3"]

    def test_a_dry_run_shows_it_and_asks_nobody(self, filled, sync):
        done = sync(filled, "app:2", options=("--prune", "--dry-run"))
        assert done.returncode == 0, done.stderr
        rows = [line.split() for line in done.stdout.splitlines()]
        assert rows[2:4] == [["prune", "-", f"{filled}/app:{tag}"] for tag in "13"]
        assert rows[4][-3:] == ["2", "to", "prune"]
        assert tags(filled) == ["1", "2", "3"]

    def test_an_image_that_failed_or_is_missing_keeps_its_tag(self, filled, sync):
        done = sync(filled, "app:2", "app:absent")
        assert done.returncode == 7
        put_as(filled, "app", "absent", "2")
        done = sync(filled, "app:2", "app:absent")
        assert done.returncode == 7 and outcome(done) == {}
        assert tags(filled) == ["2", "absent"]

    def test_an_image_by_its_digest_stays(self, filled, sync, source):
        digest = digest_of(read(source, "app", "1"))
        done = sync(filled, "app:2", f"app@{digest}")
        assert done.returncode == 0, done.stderr
        assert is_there(filled, "app", digest)
        assert_whole(filled, "app", read(filled, "app", digest))

    def test_rules_for_tags(self, filled, run_cli, source, tmp_path):
        entry = {"source": f"{source}/app", "target": f"{filled}/app"}
        record = {"sync": [{**entry, "tags": {"newest": 1}}]}
        path = write(tmp_path / "rules.json", json.dumps(record))
        done = run_cli("sync", path, "--prune", "--yes", "--json")
        assert outcome(done) == {"app:1": "prune", "app:2": "prune"}
        assert tags(filled) == ["3"]


class TestWhatStays:
    def test_a_digest_that_a_kept_tag_shows(self, filled, sync, request):
        put_as(filled, "app", "latest", "2")
        done = sync(filled, "app:1", "app:2", "app:3")
        assert done.returncode == 0, done.stderr
        if tags(filled) == ["1", "2", "3"]:
            assert outcome(done) == {"app:latest": "prune"}
        else:
            assert outcome(done) == {"app:latest": "keep"}
            assert f"note: {filled}/app:latest stays: the registry deletes no tag" in (
                done.stderr
            )
            assert "also tag 2" in done.stderr
        assert_whole(filled, "app", read(filled, "app", "2"))

    def test_a_part_of_a_kept_index(self, filled, sync):
        child = json.loads(read(filled, "multi", "v1"))["manifests"][0]["digest"]
        put_as(filled, "multi", "part", child)
        done = sync(filled, "multi:v1")
        assert done.returncode == 0, done.stderr
        assert outcome(done)["multi:part"] in ("prune", "keep")
        assert_whole(filled, "multi", read(filled, "multi", "v1"))

    @pytest.mark.parametrize("ending", ["", ".sig", ".att", ".sbom"])
    def test_what_refers_to_an_image_that_stays(self, ending, filled, sync):
        for tag in ("1", "2"):
            digest = digest_of(read(filled, "app", tag))
            put_as(filled, "app", digest.replace(":", "-") + ending, "3")
        first, second = (
            digest_of(read(filled, "app", tag)).replace(":", "-") + ending
            for tag in ("1", "2")
        )
        put_as(filled, "app", "sha256-" + "0" * 64 + ending, "3")  # of nothing here
        done = sync(filled, "app:2", "app:3")
        assert done.returncode == 0, done.stderr
        left = {"2", "3", second, "sha256-" + "0" * 64 + ending}
        if outcome(done)[f"app:{first}"] == "keep":
            left |= {first}  # by a registry without deleting tags, app:3 is its digest
        assert set(tags(filled)) == left
        assert outcome(done)["app:1"] == "prune"

    def test_a_referrer_with_a_name_of_its_own(self, filled, sync):
        for tag, name in (("1", "sbom-1"), ("2", "sbom-2")):
            record = json.loads(read(filled, "app", "3"))
            raw = read(filled, "app", tag)
            record["subject"] = {
                "mediaType": OCI_MANIFEST,
                "digest": digest_of(raw),
                "size": len(raw),
            }
            put(filled, "app", name, json.dumps(record).encode(), OCI_MANIFEST)
        done = sync(filled, "app:2")
        assert done.returncode == 0, done.stderr
        assert "2" in tags(filled) and "sbom-2" in tags(filled)
        assert "1" not in tags(filled) and "sbom-1" not in tags(filled)

    def test_an_index_within_an_index_counts(self, filled, sync, source):
        inner = read(source, "multi", "v1")
        entry = {
            "mediaType": OCI_INDEX,
            "digest": digest_of(inner),
            "size": len(inner),
        }
        outer = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}
        put(source, "multi", "outer", json.dumps(outer).encode(), OCI_INDEX)
        child = json.loads(inner)["manifests"][0]["digest"]
        put_as(filled, "multi", "part", child)
        done = sync(filled, "multi:outer")
        assert done.returncode == 0, done.stderr
        assert_whole(filled, "multi", read(filled, "multi", "outer"))


class TestNeverOn:
    """Nothing is pruned when it is not known what the list means."""

    def check(self, done, host: str, code: int, said: str) -> None:
        assert done.returncode == code, done.stderr
        assert said in done.stderr
        assert done.stderr.count("error: ") == 1
        assert tags(host) == ["1", "2", "3"]

    @pytest.mark.parametrize(
        ("entry", "said"),
        [
            ({"source": "{source}/app", "tags": {"allow": ["x"]}}, "no tag is allowed"),
            ({"source": "{source}/gone", "tags": {}}, "gone"),
            ({"source": "127.0.0.1:1/app", "tags": {}}, "127.0.0.1:1"),
        ],
    )
    def test_a_source_that_yields_nothing(
        self, entry, said, filled, run_cli, source, tmp_path
    ):
        entry = {**entry, "source": entry["source"].format(source=source)}
        entry["target"] = f"{filled}/app"
        other = {"source": f"{source}/other:1", "target": f"{filled}/other:1"}
        path = write(tmp_path / "x.json", json.dumps({"sync": [entry, other]}))
        words = ("--prune", "--yes", "--retry-times=0")
        done = run_cli("sync", path, *words)
        self.check(done, filled, 7, said)
        assert "warning: nothing was pruned" in done.stderr
        done = run_cli("sync", path, *words, "--dry-run")
        assert "warning: nothing was pruned" in done.stderr

    @pytest.mark.parametrize(("name", "text"), [("x", ""), ("x.json", '{"sync": []}')])
    def test_an_empty_list(self, name, text, filled, run_cli, tmp_path):
        path = write(tmp_path / name, text)
        done = run_cli("sync", path, f"{filled}/m", "--prune", "--yes")
        self.check(done, filled, 4, "no images in it")

    def test_a_part_of_the_list(self, filled, sync):
        done = sync(filled, "app:2", options=("--prune", "--yes", "--shard", "1/2"))
        self.check(done, filled, 2, "--prune needs the whole list")

    def test_nobody_was_asked(self, filled, sync):
        done = sync(filled, "app:2", "other:1", options=("--prune",))
        self.check(done, filled, 2, "--yes deletes without asking")
        assert done.stdout == ""

    @pytest.mark.parametrize(
        ("answer", "left"), [("y", "2"), ("n", "123"), ("", "123")]
    )
    def test_it_asks_at_a_terminal(
        self, answer, left, modern, sync, run_cli, source, tmp_path
    ):
        assert sync(modern, "app:1", "app:2", "app:3").returncode == 0
        line = f"{source}/app:2 {modern}/app:2"
        path = write(tmp_path / "list", line)
        with at_terminal(run_cli, "sync", path, "--prune") as terminal:
            terminal.expect(rf"prune {modern}/app:1 \([0-9a-f]{{12}}\)")
            terminal.expect(rf"prune {modern}/app:3 \(")
            terminal.expect(r"Prune all 2\? \[y/N\]")
            terminal.type(f"{answer}\n")
            assert terminal.end() == 0
        assert tags(modern) == list(left)


class TestFailures:
    """Registries that answer as they should not."""

    @pytest.fixture
    def bent(self, tmp_path, sync):
        """A registry filled as the others, that answers as *bend* from then on."""
        bends = []

        def bend(request, honest):
            return bends[0](request, honest) if bends else honest()

        with BentServer(tmp_path / "bent", bend) as server:
            server.bends = bends
            names = ("app:1", "app:2", "app:3", "other:1")
            assert sync(server.host, *names).returncode == 0
            yield server

    @pytest.mark.parametrize("status", [401, 403, 405, 409])
    def test_deleting_is_refused(self, status, bent, sync):
        bent.bends.append(
            lambda request, honest: (
                refused(status) if request.method == "DELETE" else honest()
            )
        )
        done = sync(bent.host, "app:2")
        assert done.returncode == 7
        assert set(outcome(done).values()) == {"failed"}
        assert "2 of 3 images failed" in done.error
        assert tags(bent.host) == ["1", "2", "3"]

    @pytest.mark.parametrize("what", ["/tags/list", "/manifests/3", "/manifests/2"])
    def test_a_look_is_refused(self, what, bent, sync):
        def bend(request, honest):
            copying = not bent.asked("GET", "/tags/list")
            is_it = request.path.endswith(f"/app{what}") and request.method != "DELETE"
            return refused(403) if is_it and not copying else honest()

        if what == "/tags/list":
            bent.bends.append(
                lambda r, honest: refused(403) if what in r.path else honest()
            )
        else:
            bent.seen.clear()
            bent.bends.append(bend)
        put_as(bent.host, "other", "2", "1")
        done = sync(bent.host, "app:2", "other:1")
        assert done.returncode == 7, done.stderr
        other = {} if what == "/tags/list" else {"other:2": "prune"}
        assert outcome(done)["app"] == "failed"
        assert other.items() <= outcome(done).items()
        assert bent.asked("DELETE", "/app/") == []

    def test_a_kept_tag_is_listed_and_shows_nothing(self, bent, sync):
        bent.seen.clear()

        def bend(request, honest):
            listed = bool(bent.asked("GET", "/tags/list"))
            is_it = request.path.endswith("/manifests/2")
            return refused(404, "MANIFEST_UNKNOWN") if listed and is_it else honest()

        bent.bends.append(bend)
        done = sync(bent.host, "app:2")
        assert done.returncode == 7
        assert "has no image for it" in done.stderr
        assert bent.asked("DELETE") == []

    def test_a_tag_that_moves_meanwhile_stays(self, bent, sync):
        raw = read(bent.host, "app", "2")
        moved = []

        def bend(request, honest):
            if request.method == "DELETE" and not moved:
                moved.append(request.path)
                bent.bends.clear()
                put(bent.host, "app", "3", raw, OCI_MANIFEST)
            return honest()

        bent.bends.append(bend)
        done = sync(bent.host, "app:2")
        assert done.returncode == 0, done.stderr
        assert outcome(done) == {"app:1": "prune", "app:3": "keep"}
        assert f"{bent.host}/app:3 stays: it points to" in done.stderr
        assert tags(bent.host) == ["2", "3"]

    def test_a_registry_that_deletes_the_image_with_the_tag(self, bent, sync):
        """What a kept tag needs is stored again, and that was the last deletion."""
        put_as(bent.host, "app", "0", "2")
        digest = digest_of(read(bent.host, "app", "2"))

        def bend(request, honest):
            if request.method == "DELETE" and request.path.endswith("/0"):
                bent.bends.clear()
                delete(bent.host, f"app/manifests/{digest}")
                return refused(202)
            return honest()

        bent.bends.append(bend)
        done = sync(bent.host, "app:2")
        assert done.returncode == 7
        assert outcome(done) == {"app:0": "failed", "app:1": "keep", "app:3": "keep"}
        assert "stored the image again" in done.stderr
        assert_whole(bent.host, "app", read(bent.host, "app", "2"))
        assert tags(bent.host) == ["1", "2", "3"]


class TestDirectory:
    """An OCI directory, from which the blobs go too."""

    NAMES = ("app:1", "app:2", "other:1", "multi:v1")

    @pytest.fixture
    def carry(self, run_cli, source, tmp_path):
        """Sync these images of the source into the directory, with these options."""

        def run_it(*names: str, options=("--prune", "--yes", "--json")):
            path = write(tmp_path / "list", *(f"{source}/{name}" for name in names))
            words = ["sync", path, f"oci:{tmp_path / 'carried'}", *options]
            return run_here(words, run_cli.environment())

        return run_it

    @pytest.fixture
    def carried(self, carry, tmp_path) -> Path:
        assert carry(*self.NAMES).returncode == 0
        return tmp_path / "carried"

    def names(self, path: Path) -> list[str]:
        """What the index names, without the registry."""
        entries = json.loads((path / "index.json").read_text())["manifests"]
        found = [one.get("annotations", {}).get(NAME, one["digest"]) for one in entries]
        return sorted(name.partition("/")[2] or name for name in found)

    def check_whole(self, path: Path) -> None:
        """All that is named is there, nothing else is, and skopeo can read it."""
        needed: set[str] = set()
        waiting = json.loads((path / "index.json").read_text())["manifests"]
        while waiting:
            name = waiting.pop()["digest"][7:]
            needed.add(name)
            raw = (path / "blobs/sha256" / name).read_bytes()
            record = json.loads(raw) if raw[:1] == b"{" else {}
            waiting += record.get("manifests", []) + record.get("layers", [])
            waiting += [record["config"]] if "layers" in record else []
        there = {file.name for file in (path / "blobs/sha256").iterdir()}
        assert there == needed
        for entry in json.loads((path / "index.json").read_text())["manifests"]:
            name = entry["annotations"][NAME]
            run("skopeo", "inspect", "--raw", f"oci:{path}:{name}")

    def test_names_and_their_blobs_go(self, carry, carried):
        done = carry("app:2", "multi:v1")
        assert done.returncode == 0, done.stderr
        assert outcome(done) == {"app:1": "prune"}
        assert self.names(carried) == ["app:2", "multi:v1", "other:1"]
        assert "of blobs" in done.stderr
        self.check_whole(carried)

    def test_what_others_need_stays(self, carry, carried, source):
        host = source
        index = json.loads((carried / "index.json").read_text())
        multi = read(host, "multi", "v1")
        child = json.loads(multi)["manifests"][0]
        entry = {k: child[k] for k in ("mediaType", "digest", "size")}
        entry["annotations"] = {NAME: f"{host}/multi:part"}
        index["manifests"].append(entry)
        (carried / "index.json").write_text(json.dumps(index))
        done = carry("multi:v1")
        assert outcome(done) == {"multi:part": "prune"}
        self.check_whole(carried)

    def test_a_dry_run_changes_nothing(self, carry, carried):
        before = {path: path.stat().st_mtime_ns for path in carried.rglob("*")}
        done = carry("app:2", options=("--prune", "--dry-run", "--json"))
        assert outcome(done) == {"app:1": "prune"}
        assert {path: path.stat().st_mtime_ns for path in carried.rglob("*")} == before

    def test_it_needs_yes_without_a_terminal(self, carry, carried):
        done = carry("app:2", options=("--prune",))
        assert done.returncode == 2 and len(self.names(carried)) == 4

    def test_names_of_others_stay(self, carry, carried):
        """Of a repository that is not on the list, and such as other programs give."""
        index = json.loads((carried / "index.json").read_text())
        index["manifests"][0]["annotations"] = {NAME: "latest"}
        (carried / "index.json").write_text(json.dumps(index))
        done = carry("app:2")
        assert done.returncode == 0, done.stderr
        assert "latest" in self.names(carried)

    def test_referrers_go_with_what_they_speak_of(self, carry, carried, source):
        host = source
        for tag in ("1", "2"):
            record = json.loads(read(host, "app", "3"))
            raw = read(host, "app", tag)
            record["subject"] = {
                "mediaType": OCI_MANIFEST,
                "digest": digest_of(raw),
                "size": len(raw),
            }
            record["artifactType"] = f"application/vnd.test.{tag}"
            signature = json.dumps(record).encode()
            put(host, "app", digest_of(signature), signature, OCI_MANIFEST)
        carry("app:1", "app:2", options=("--referrers",))
        kinds = self.kinds(carried)
        assert kinds == {"application/vnd.test.1", "application/vnd.test.2"}
        done = carry("app:2", "app:3", options=("--prune", "--yes", "--referrers"))
        assert done.returncode == 0, done.stderr
        assert self.kinds(carried) == {"application/vnd.test.2"}

    def kinds(self, path: Path) -> set[str]:
        entries = json.loads((path / "index.json").read_text())["manifests"]
        return {one["artifactType"] for one in entries if "artifactType" in one}

    def test_no_file_goes_when_an_image_there_is_unclear(self, carry, carried, source):
        manifest = digest_of(read(source, "other", "1"))
        (carried / "blobs/sha256" / manifest[7:]).unlink()
        before = {path.name for path in (carried / "blobs/sha256").iterdir()}
        done = carry("app:2")
        assert done.returncode == 0, done.stderr
        assert "warning:" in done.stderr and "no blob was removed" in done.stderr
        assert "app:1" not in self.names(carried)
        assert {path.name for path in (carried / "blobs/sha256").iterdir()} == before

    def test_a_directory_that_cannot_be_written(self, carry, carried):
        with (carried / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with mock.patch("dockerpush.archive.writers.LOCK_TIMEOUT", 0):
                done = carry("app:2")
        assert done.returncode == 7
        assert outcome(done) == {"app:1": "failed"}
        assert "app:1" in self.names(carried)

    def test_another_run_never_names_what_was_pruned_meanwhile(
        self, carry, carried, source, run_cli, tmp_path
    ):
        """It found the blobs there, and names the image after they have gone."""
        host = source
        put_as(host, "app", "copy", "1")
        honest = DirectoryTarget.put_document

        def late(target, document, reference):
            DirectoryTarget.put_document = honest
            path = write(tmp_path / "kept", f"{source}/app:2")
            words = ("--prune", "--yes")
            done = run_cli("sync", path, f"oci:{carried}", *words)
            assert done.returncode == 0, done.stderr
            return honest(target, document, reference)

        with mock.patch.object(DirectoryTarget, "put_document", late):
            done = carry("app:copy", options=())
        assert done.returncode == 7
        assert "another run removed a part of" in done.stderr
        assert "app:copy" not in self.names(carried)
        assert carry("app:copy", "app:2", options=()).returncode == 0


def test_a_delta_still_names_what_it_leaves_out(modern, source, run_cli, tmp_path):
    """So what has not changed is not pruned on the other side."""

    def run(*words: object) -> Finished:
        done = run_here(list(words), run_cli.environment())
        assert done.returncode == 0, done.stderr
        return done

    first = write(tmp_path / "first", f"{source}/app:1", f"{source}/app:2")
    run("sync", first, f"oci:{tmp_path}/disk1")
    run("sync", f"oci:{tmp_path}/disk1", modern)
    have = tmp_path / "have.json"
    have.write_text(run("inventory", f"oci:{tmp_path}/disk1").stdout)
    second = write(tmp_path / "second", f"{source}/app:1", f"{source}/app:3")
    run("sync", second, f"oci:{tmp_path}/disk2", "--have", have)
    words = ("--prune", "--yes", "--json")
    done = run("sync", f"oci:{tmp_path}/disk2", modern, *words)
    assert outcome(done) == {"app:2": "prune"}
    assert tags(modern) == ["1", "3"]
    for tag in ("1", "3"):
        assert_whole(modern, "app", read(modern, "app", tag))
