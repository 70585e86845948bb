"""``sync`` across an air gap: into an OCI directory that is carried, and out of it."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from pathlib import Path
from typing import Callable, Iterator

import pytest
from conftest import Command, Finished
from copied import Layout, actions, assert_whole, put, read, store, write
from faultproxy import FaultProxy
from images import digest_of, tar_of
from inprocess import checked, run_here
from multiplatform import finish, write_image, write_layout
from registries import run
from test_cli_copy_local import index_of, left, names_in, tags
from transfers import Gate, blobs_below, kill_at, noise_layer

from dockerpush.oci import OCI_MANIFEST
from dockerpush.server import Registry, RegistryServer

NAMES = ("red", "green", "blue")
SIZE = 60_000

Sync = Callable[..., Finished]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry with red:1, green:1, blue:1, which share a layer, and multi:1."""
    directory = tmp_path_factory.mktemp("source")
    write_layout(directory / "layout")
    with RegistryServer(Registry(directory / "registry")) as server:
        for name in NAMES:
            layers = [noise_layer(SIZE, seed) for seed in ("base", name)]
            store(server.host, name, layers)
        layout = Layout.__new__(Layout)
        layout.path = directory / "layout"
        layout.send(server.host, "multi", "v1")
        raw = read(server.host, "multi", "v1")
        put(server.host, "multi", "1", raw, json.loads(raw)["mediaType"])
        yield server.host


@pytest.fixture
def target(tmp_path: Path) -> Iterator[str]:
    with RegistryServer(Registry(tmp_path / "target")) as server:
        yield server.host


@pytest.fixture
def carried(tmp_path: Path) -> Path:
    return tmp_path / "carried"


@pytest.fixture
def sync(run_cli: Command) -> Sync:
    """Run ``sync``; it ends with *code*, and one line if that is an error."""
    return checked(run_cli.environment(), "sync")


@pytest.fixture
def everything(source: str, tmp_path: Path) -> Path:
    """A list of all images of the source, with and without a target of their own."""
    lines = [f"{source}/{name}:1" for name in ("red", "green", "multi")]
    return write(tmp_path / "list", *lines, f"{source}/blue:1 mirror.test/sky:new")


class TestThereAndBack:
    def test_the_same_list_serves_at_both_ends(
        self, everything, source, target, carried, sync, tmp_path
    ):
        there = sync(everything, f"oci:{carried}", "--json")
        assert set(actions(there).values()) == {"copy"}
        names = [f"{source}/{name}:1" for name in ("blue", "green", "multi", "red")]
        assert sorted(map(str, names_in(carried))) == names
        text = everything.read_text().replace("mirror.test", target)
        everything.write_text(text)
        back = sync(everything, "--from", f"oci:{carried}", f"{target}/m", "--json")
        assert actions(back) == {
            "m/red:1": "copy",
            "m/green:1": "copy",
            "m/multi:1": "copy",
            "sky:new": "copy",
        }
        for name in ("red", "green", "multi"):
            raw = read(target, f"m/{name}", "1")
            assert raw == read(source, name, "1")
            assert_whole(target, f"m/{name}", raw)
        assert read(target, "sky", "new") == read(source, "blue", "1")
        again = sync(everything, "--from", carried, f"{target}/m", "--json")
        assert (again.json["skip"], again.json["bytes"]) == (4, 0)

    def test_the_second_time_nothing_is_read_but_digests(
        self, source, everything, carried, sync
    ):
        with FaultProxy(source) as proxy:
            text = everything.read_text().replace(source, proxy.host)
            everything.write_text(text)
            sync(everything, f"oci:{carried}", "--plain-http", "--src-plain-http")
            before = len(proxy.log)
            files = {path: path.stat().st_mtime_ns for path in carried.rglob("*")}
            again = sync(everything, f"oci:{carried}", "--src-plain-http", "--json")
            asked = [(one.method, one.kind) for one in proxy.log[before:]]
        assert (again.json["skip"], again.json["bytes"]) == (4, 0)
        assert {image["why"] for image in again.json["images"]} == {"unchanged"}
        assert [one for one in asked if one[1] != "base"] == [("HEAD", "manifest")] * 4
        now = {path: path.stat().st_mtime_ns for path in carried.rglob("*")}
        assert now == files

    def test_a_layer_that_images_share_is_fetched_once(
        self, source, everything, carried, sync
    ):
        done = sync(everything, f"oci:{carried}", "--json")
        sizes: dict[str, int] = {}
        for name in (*NAMES, "multi"):
            sizes.update(blobs_below(source, name, "1"))
        assert done.json["bytes"] == sum(sizes.values())

    def test_skopeo_reads_the_directory(self, source, everything, carried, sync):
        sync(everything, f"oci:{carried}")
        for name in (*NAMES, "multi"):
            place = f"oci:{carried}:{source}/{name}:1"
            raw = run("skopeo", "--insecure-policy", "inspect", "--raw", place)
            assert raw == read(source, name, "1")
        assert sorted(path.name for path in carried.iterdir()) == [
            "blobs",
            "index.json",
            "oci-layout",
        ]

    @pytest.mark.parametrize("scoped", [(), ("--scoped",)])
    def test_all_that_a_directory_holds(
        self, scoped, source, target, everything, carried, sync
    ):
        sync(everything, f"oci:{carried}")
        done = sync(f"oci:{carried}", f"{target}/up", *scoped, "--json")
        below = f"up/{source.replace(':', '-')}" if scoped else "up"
        assert actions(done) == {
            f"{below}/{name}:1": "copy" for name in (*NAMES, "multi")
        }
        for name in (*NAMES, "multi"):
            assert read(target, f"{below}/{name}", "1") == read(source, name, "1")

    def test_from_one_directory_into_another(
        self, source, everything, carried, sync, tmp_path
    ):
        sync(everything, f"oci:{carried}")
        other = tmp_path / "with space:no"
        sync(everything, "--from", f"oci:{carried}", f"oci:{tmp_path / 'other'}")
        assert sorted(map(str, names_in(tmp_path / "other"))) == sorted(
            map(str, names_in(carried))
        )
        again = sync(f"oci:{carried}", f"oci:{carried}", "--json")
        assert again.json["skip"] == 4
        assert not other.exists()

    def test_an_image_that_moved_takes_the_place_of_the_old_one(
        self, source, carried, sync, tmp_path
    ):
        path = write(tmp_path / "list", f"{source}/moving:1")
        for seed in ("one", "two"):
            store(source, "moving", [noise_layer(SIZE, seed)])
            done = sync(path, f"oci:{carried}", "--json")
            assert done.json["copy"] == 1
        (entry,) = index_of(carried)
        assert entry["digest"] == digest_of(read(source, "moving", "1"))


class TestLists:
    def test_rules_for_tags(self, source, target, carried, sync, tmp_path):
        store(source, "versions", [tar_of({"v": b"v" * 100})])
        raw = read(source, "versions", "1")
        for tag in ("2.1", "2.9", "2.10", "2.10-rc1"):
            put(source, "versions", tag, raw, OCI_MANIFEST)
        entry = {
            "source": f"{source}/versions",
            "target": f"{target}/v",
            "tags": {"allow": [r"2\.\d+.*"], "deny": [".*-rc.*"], "newest": 2},
        }
        path = write(tmp_path / "list.json", json.dumps({"sync": [entry]}))
        done = sync(path, f"oci:{carried}", "--json")
        chosen = [f"{source}/versions:{tag}" for tag in ("2.10", "2.9")]
        assert sorted(image["source"] for image in done.json["images"]) == chosen
        assert sorted(map(str, names_in(carried))) == chosen
        done = sync(path, "--from", f"oci:{carried}", "--json")
        assert actions(done) == {"v:2.9": "copy", "v:2.10": "copy"}
        assert tags(target, "v") == ["2.10", "2.9"]
        for rule in ("skip", "compare"):
            done = sync(path, f"oci:{carried}", "--on-exists", rule, "--json")
            assert done.json["skip"] == 2

    def test_digests_as_references(self, source, target, carried, sync, tmp_path):
        digest = digest_of(read(source, "red", "1"))
        path = write(tmp_path / "list", f"{source}/red@{digest}")
        sync(path, f"oci:{carried}")
        assert names_in(carried) == [f"{source}/red@{digest}"]
        assert sync(path, f"oci:{carried}", "--json").json["skip"] == 1
        done = sync(path, "--from", f"oci:{carried}", target, "--json")
        assert actions(done) == {f"red@{digest}": "copy"}
        assert read(target, "red", digest) == read(source, "red", digest)
        assert sync(f"oci:{carried}", target, "--json").json["skip"] == 1
        write(path, f"{source}/red:1@{digest} {target}/both:2")
        done = sync(path, "--from", f"oci:{carried}", "--json")
        assert done.json["copy"] == 1
        assert read(target, "both", "2") == read(source, "red", "1")

    @pytest.mark.parametrize("named", [":1", "@"])
    def test_platforms_are_narrowed_and_unchanged_the_next_time(
        self, named, source, target, carried, sync, tmp_path
    ):
        whole = digest_of(read(source, "multi", "1"))
        reference = f"{source}/multi{named}{whole if named == '@' else ''}"
        path = write(tmp_path / "list", reference)
        only = ("--platform", "linux/arm64", "--json")
        done = sync(path, f"oci:{carried}", *only)
        (image,) = done.json["images"]
        children = json.loads(read(source, "multi", "1"))["manifests"]
        assert image["digest"] == children[1]["digest"]
        again = sync(path, f"oci:{carried}", *only)
        assert (again.json["skip"], again.json["bytes"]) == (1, 0)
        for flags in (only, ("--json",)):
            up = sync(path, "--from", f"oci:{carried}", target, *flags)
            assert up.json["images"][0]["digest"] == image["digest"]
        assert up.json["skip"] == 1
        assert_whole(target, "multi", read(target, "multi", image["digest"]))

    def test_referrers_come_along(self, source, target, carried, sync, tmp_path):
        raw = read(source, "green", "1")
        subject = {"digest": digest_of(raw), "size": len(raw)}
        subject["mediaType"] = OCI_MANIFEST
        signature = {
            **json.loads(raw),
            "artifactType": "application/vnd.test.signature",
            "subject": subject,
        }
        signed = json.dumps(signature).encode()
        put(source, "green", digest_of(signed), signed, OCI_MANIFEST)
        path = write(tmp_path / "list", f"{source}/green:1")
        sync(path, f"oci:{carried}", "--referrers")
        sync(path, "--from", f"oci:{carried}", target, "--referrers")
        listed = json.loads(read(target, "green", subject["digest"], "referrers"))
        assert [one["digest"] for one in listed["manifests"]] == [digest_of(signed)]
        assert read(target, "green", digest_of(signed)) == signed


class TestMissing:
    def test_images_that_are_not_there_are_named_at_both_ends(
        self, source, target, carried, sync, tmp_path
    ):
        path = write(tmp_path / "list", f"{source}/red:1", f"{source}/none:1")
        for words in (
            (path, f"oci:{carried}"),
            (path, "--from", f"oci:{carried}", f"{target}/m"),
        ):
            done = sync(*words, code=7)
            assert "1 copied, 0 unchanged, 1 missing, 0 failed" in done.stdout
            assert f"{source}/none:1 does not exist" in done.stdout
        assert names_in(carried) == [f"{source}/red:1"]
        assert read(target, "m/red", "1") == read(source, "red", "1")
        repository = {"source": f"{source}/other", "tags": {"allow": [".*"]}}
        write(path, json.dumps({"sync": [{**repository, "target": f"{target}/x"}]}))
        done = sync(path, "--from", f"oci:{carried}", code=7)
        assert f"it holds no image of {source}/other" in done.stdout

    def test_a_dry_run_writes_nothing(
        self, source, target, everything, carried, sync, tmp_path
    ):
        done = sync(everything, f"oci:{carried}", "--dry-run", "--json")
        assert done.json["copy"] == 4
        assert not carried.exists()
        sync(everything, f"oci:{carried}")
        done = sync(everything, f"oci:{carried}", "--dry-run", "--json")
        assert done.json["skip"] == 4
        done = sync(f"oci:{carried}", f"{target}/m", "--dry-run", "--json")
        assert done.json["copy"] == 4
        assert repositories(target) == []


def repositories(host: str) -> list[str]:
    with urllib.request.urlopen(f"http://{host}/v2/_catalog") as answer:
        return list(json.load(answer)["repositories"])


class TestInterrupted:
    @pytest.mark.parametrize("nth", [1, 3, 6])
    def test_killed_and_repeated_each_byte_comes_about_once(
        self, nth, source, carried, run_cli, tmp_path
    ):
        with Gate(source) as gate:
            lines = [f"{gate.host}/{name}:1" for name in NAMES]
            path = write(tmp_path / "list", *lines)
            words = ("sync", path, f"oci:{carried}", "--src-plain-http")
            stop = gate.stop("GET", "blob", nth)
            kill_at(stop.reached, run_cli, *words)
            stop.drop()
            gate.settle()
            check_named_are_whole(carried)
            done = run_here([*words, "--json"], run_cli.environment())
            assert done.returncode == 0, done.stderr
            got = sum(one.received for one in gate.exchanges("GET", "blob"))
        sizes: dict[str, int] = {}
        for name in NAMES:
            sizes.update(blobs_below(source, name, "1"))
        # what was on its way, three at a time, had not reached the disk
        assert got <= sum(sizes.values()) + 3 * max(sizes.values())
        assert len(index_of(carried)) == 3
        check_named_are_whole(carried)
        assert left(carried) == []

    def test_shards_fill_one_directory_side_by_side(
        self, source, carried, run_cli, tmp_path
    ):
        raw = read(source, "red", "1")
        for number in range(24):
            put(source, "red", f"t{number}", raw, OCI_MANIFEST)
        names = [f"{source}/red:t{number}" for number in range(24)]
        names += [f"{source}/{name}:1" for name in (*NAMES, "multi")]
        path = write(tmp_path / "list", *names)
        children = [
            run_cli.start(
                *("sync", path, f"oci:{carried}", "--json", "--shard", f"{number}/4"),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            for number in range(4)
        ]
        seen = []
        for child in children:
            out, err = child.communicate(timeout=60)
            assert child.returncode == 0, err.decode()
            seen += [image["source"] for image in json.loads(out)["images"]]
        assert sorted(seen) == sorted(names)
        assert sorted(map(str, names_in(carried))) == sorted(names)
        check_named_are_whole(carried)
        assert left(carried) == []


def check_named_are_whole(directory: Path) -> None:
    """Everything below what index.json names is there, with the right bytes."""
    if (directory / "index.json").exists():
        pending = index_of(directory)
        while pending:
            entry = pending.pop()
            raw = (directory / "blobs/sha256" / entry["digest"][7:]).read_bytes()
            assert digest_of(raw) == entry["digest"]
            if "manifest" in entry["mediaType"] or "index" in entry["mediaType"]:
                record = json.loads(raw)
                pending += record.get("manifests", []) + record.get("layers", [])
                pending += [record["config"]] if "config" in record else []


class TestDamage:
    @pytest.fixture
    def filled(self, everything: Path, carried: Path, sync: Sync) -> Path:
        sync(everything, f"oci:{carried}")
        return carried

    def blob(self, directory: Path, digest: str) -> Path:
        return directory / "blobs/sha256" / digest.partition(":")[2]

    def test_a_flipped_byte_fails_its_image_alone(self, source, target, filled, sync):
        layer = json.loads(read(source, "red", "1"))["layers"][1]["digest"]
        path = self.blob(filled, layer)
        path.write_bytes(path.read_bytes()[::-1])
        done = sync(f"oci:{filled}", target, code=7)
        assert "3 copied, 0 unchanged, 0 missing, 1 failed" in done.stdout
        assert layer in done.stdout
        assert "red" not in repositories(target) or tags(target, "red") == []

    def test_an_index_that_is_there_in_part_fails_alone(
        self, source, target, filled, sync
    ):
        """It is not copied as another one."""
        children = json.loads(read(source, "multi", "1"))["manifests"]
        self.blob(filled, children[1]["digest"]).unlink()
        done = sync(f"oci:{filled}", target, code=7)
        assert "3 copied, 0 unchanged, 0 missing, 1 failed" in done.stdout
        assert children[1]["digest"][7:19] in done.stdout
        assert "multi" not in repositories(target)

    def test_what_is_gone_is_brought_by_the_next_sync(
        self, source, everything, filled, sync
    ):
        record = json.loads(read(source, "red", "1"))
        self.blob(filled, record["layers"][1]["digest"]).unlink()
        self.blob(filled, digest_of(read(source, "green", "1"))).write_bytes(b"short")
        done = sync(everything, f"oci:{filled}", "--json")
        assert (done.json["copy"], done.json["skip"]) == (2, 2)
        check_named_are_whole(filled)

    def test_names_that_other_programs_write_are_reported(
        self, source, target, sync, tmp_path
    ):
        """Tags alone say not what they are tags of; what is no name is passed over."""
        layout = tmp_path / "layout"
        images = [write_image(layout, name) for name in ("amd64", "arm64", "s390x")]
        finish(layout, *images)
        index = json.loads((layout / "index.json").read_text())
        for entry, name in zip(index["manifests"], ("v1", "r.test/a:1", "NO NAME/x")):
            entry["annotations"]["org.opencontainers.image.ref.name"] = name
        (layout / "index.json").write_text(json.dumps(index))
        done = sync(f"oci:{layout}", target, "--json")
        assert actions(done) == {"a:1": "copy"}
        assert "v1" in done.stderr
        path = write(tmp_path / "list", f"{source}/red:1")
        for rule in ("skip", "compare"):
            assert sync(path, f"oci:{layout}", "--on-exists", rule).returncode == 0
        assert len(index_of(layout)) == 4

    def test_what_makes_no_sense_is_refused(
        self, source, target, everything, filled, sync, tmp_path
    ):
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "file").write_text("precious")
        bad = write(tmp_path / "bad", f"{source}/red:1 oci:{filled}")
        for code, words, said in (
            (2, (f"oci:{filled}", target, "--from", f"oci:{filled}"), "not both"),
            (2, (everything, f"oci:{filled}:name"), "a whole directory"),
            (2, (everything, "oci:"), "a whole directory"),
            (2, (f"oci:{filled}",), "no target"),
            (2, (bad, target), "sync FILE oci:DIR"),
            (6, (everything, f"oci:{tmp_path / 'other'}"), "no OCI layout"),
            (6, (f"oci:{tmp_path / 'other'}", target), "holds no image"),
            (4, (f"oci:{tmp_path / 'none'}", target), "no such file"),
            (4, (everything, "--from", "oci:none", target), "no such file"),
        ):
            done = sync(*words, code=code)
            assert said in done.error, words
            assert done.stdout == ""
        assert [path.name for path in (tmp_path / "other").iterdir()] == ["file"]

    def test_one_source_for_different_platforms_has_no_place_there(
        self, source, target, carried, sync, tmp_path
    ):
        """The second one would take the place of the first."""
        entries = [
            {
                "source": f"{source}/multi:1",
                "target": f"{target}/{name}",
                "platforms": [f"linux/{name}"],
            }
            for name in ("amd64", "arm64")
        ]
        path = write(tmp_path / "list.json", json.dumps({"sync": entries}))
        done = sync(path, f"oci:{carried}", code=2)
        assert "for other platforms" in done.error
        assert not carried.exists()
        assert sync(path, "--json").json["copy"] == 2

    def test_a_directory_that_cannot_be_written_fails_each_image(
        self, source, everything, sync
    ):
        done = sync(everything, "oci:/proc/carried", code=7)
        assert "0 copied, 0 unchanged, 0 missing, 4 failed" in done.stdout
