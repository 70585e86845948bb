"""Deltas: what the other side of an air gap holds already is not carried again."""

from __future__ import annotations

import json
import urllib.error
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from conftest import Command, Finished
from copied import Layout, actions, assert_whole, delete, put, read, store, write
from images import digest_of
from inprocess import checked
from registries import read_back, run, start_docker_registry
from test_cli_copy_local import tags
from transfers import blobs_below, noise_layer

from dockerpush.oci import OCI_MANIFEST
from dockerpush.server import Registry, RegistryServer

SIZE = 60_000
NAMES = ("red", "green", "blue")

Run = Callable[..., Finished]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry with red:1, green:1, blue:1, which share a layer, and multi:1.

    new:1 has the shared layer and one of its own.
    """
    directory = tmp_path_factory.mktemp("source")
    layout = Layout(directory / "layout")
    children = [layout.image("linux", one) for one in ("amd64", "arm64")]
    layout.root(layout.index(*children))
    with RegistryServer(Registry(directory / "registry")) as server:
        for name in (*NAMES, "new"):
            layers = [noise_layer(SIZE, seed) for seed in ("base", name)]
            store(server.host, name, layers)
        layout.send(server.host, "multi")
        yield server.host


@pytest.fixture
def target(tmp_path: Path) -> Iterator[str]:
    with RegistryServer(Registry(tmp_path / "target")) as server:
        yield server.host


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return tmp_path / "disk"


@pytest.fixture
def cli(run_cli: Command) -> Run:
    """Run a command; it ends with *code*, and one line if that is an error."""
    return checked(run_cli.environment())


@pytest.fixture
def have(cli, tmp_path: Path) -> Callable[..., Path]:
    """A file with the inventory of a place."""

    def take(place: object, *words: object) -> Path:
        path = tmp_path / f"have-{len(list(tmp_path.iterdir()))}.json"
        path.write_text(cli("inventory", place, *words).stdout)
        return path

    return take


def listed(tmp_path: Path, host: str, *names: str) -> Path:
    return write(tmp_path / "list", *(f"{host}/{name}:1" for name in names))


def blobs_in(disk: Path) -> dict[str, int]:
    files = (disk / "blobs" / "sha256").iterdir()
    return {f"sha256:{path.name}": path.stat().st_size for path in files}


def needs_of(disk: Path) -> dict[str, list[str]]:
    record = json.loads((disk / "needs.json").read_bytes())
    return {one["digest"]: one["repositories"] for one in record["blobs"]}


class TestThereAndBack:
    def test_only_what_is_new_is_carried(
        self, cli, have, source, target, disk, tmp_path
    ):
        cli("sync", listed(tmp_path, source, *NAMES, "multi"), f"{target}/m")
        everything = listed(tmp_path, source, *NAMES, "multi", "new")
        inventory = have(f"{target}/m")
        done = cli("sync", everything, f"oci:{disk}", "--have", inventory, "--json")
        assert (done.json["copy"], done.json["skip"]) == (1, 4)
        new = read(source, "new", "1")
        record = json.loads(new)
        base, own = (layer["digest"] for layer in record["layers"])
        carried = {digest_of(new), record["config"]["digest"], own}
        assert set(blobs_in(disk)) == carried
        assert base in needs_of(disk)
        back = cli("sync", f"oci:{disk}", f"{target}/m", "--json")
        assert actions(back)["m/new:1"] == "copy"
        assert (back.json["copy"], back.json["skip"]) == (1, 4)
        assert read(target, "m/new", "1") == new
        assert_whole(target, "m/new", new)

    def test_the_disk_that_was_carried_last_time_serves_as_well(
        self, cli, source, target, disk, tmp_path
    ):
        second, third = tmp_path / "second", tmp_path / "third"
        cli("sync", listed(tmp_path, source, "red", "green"), f"oci:{disk}")
        more = listed(tmp_path, source, "red", "green", "new")
        cli("sync", more, f"oci:{second}", "--have", f"oci:{disk}")
        most = listed(tmp_path, source, "red", "green", "new", "blue")
        cli("sync", most, f"oci:{third}", "--have", second)
        assert not set(blobs_in(disk)) & set(blobs_in(second))
        assert not set(blobs_in(second)) & set(blobs_in(third))
        for carried in (disk, second, third):
            cli("sync", f"oci:{carried}", f"{target}/deep")
        for name in ("red", "green", "new", "blue"):
            raw = read(source, name, "1")
            assert read(target, f"deep/{name}", "1") == raw
            assert_whole(target, f"deep/{name}", raw)

    def test_an_index_of_which_one_image_is_new(
        self, cli, have, source, target, disk, tmp_path
    ):
        layout = Layout(tmp_path / "layout")
        old, new = (layout.image("linux", one) for one in ("amd64", "arm64"))
        layout.root(layout.index(old))
        layout.send(source, "grows")
        names = listed(tmp_path, source, "grows")
        cli("sync", names, target)
        inventory = have(target)
        layout.root(layout.index(old, new))
        layout.send(source, "grows")
        cli("sync", names, f"oci:{disk}", "--have", inventory)
        assert needs_of(disk) == {old["digest"]: [f"{target}/grows"]}
        place = tmp_path / "elsewhere"  # where nothing of it is yet
        for word in (target, f"{target}/other"):
            cli("sync", f"oci:{disk}", word)
        raw = read(source, "grows", "1")
        for name in ("grows", "other/grows"):
            assert read(target, name, "1") == raw
            assert_whole(target, name, raw)
        assert not place.exists()

    def test_an_image_that_only_has_a_new_name(
        self, cli, have, source, target, disk, tmp_path
    ):
        names = listed(tmp_path, source, "red")
        cli("sync", names, target)
        inventory = have(target)
        put(source, "red", "stable", read(source, "red", "1"), OCI_MANIFEST)
        names.write_text(f"{source}/red:stable\n")
        done = cli("sync", names, f"oci:{disk}", "--have", inventory, "--json")
        assert done.json["images"][0]["why"] == "left out: --have holds it"
        assert not list(disk.glob("blobs/*/*"))
        cli("sync", f"oci:{disk}", target)
        assert tags(target, "red") == ["1", "stable"]

    def test_a_dry_run_says_what_would_be_left_out(
        self, cli, have, source, target, disk, tmp_path
    ):
        cli("sync", listed(tmp_path, source, "red"), target)
        names = listed(tmp_path, source, "red", "new")
        words = ("--have", have(target), "--dry-run", "--json")
        done = cli("sync", names, f"oci:{disk}", *words)
        assert (done.json["copy"], done.json["skip"]) == (1, 1)
        assert not disk.exists()

    def test_a_second_run_completes_the_directory(
        self, cli, have, source, target, disk, tmp_path
    ):
        names = listed(tmp_path, source, "red", "new")
        cli("sync", listed(tmp_path, source, "red"), target)
        names = listed(tmp_path, source, "red", "new")
        inventory = have(target)
        for _ in range(2):
            cli("sync", names, f"oci:{disk}", "--have", inventory)
        again = cli("sync", names, f"oci:{disk}", "--have", inventory, "--json")
        assert again.json["copy"] == 0
        cli("sync", names, f"oci:{disk}")
        with RegistryServer(Registry(tmp_path / "empty")) as empty:
            cli("sync", f"oci:{disk}", empty.host)
            for name in ("red", "new"):
                assert_whole(empty.host, name, read(source, name, "1"))

    def test_what_no_image_needs_any_more_is_no_harm(
        self, cli, have, source, target, disk, tmp_path
    ):
        cli("sync", listed(tmp_path, source, "red"), target)
        names = listed(tmp_path, source, "red", "multi")
        cli("sync", names, f"oci:{disk}", "--have", have(target))
        cli("inspect", disk, code=6)
        names = listed(tmp_path, source, "multi")
        cli("sync", names, f"oci:{disk}", "--have", have(target), "--prune", "--yes")
        index = json.loads((disk / "index.json").read_text())
        kept = [one for one in index["manifests"] if "multi" in json.dumps(one)]
        index["manifests"] = kept
        (disk / "index.json").write_text(json.dumps(index))
        assert needs_of(disk)
        cli("inspect", disk)
        cli("copy", f"oci:{disk}", tmp_path / "whole.tar")
        cli("verify", disk)
        cli("sync", f"oci:{disk}", f"{target}/again")
        assert_whole(target, "again/multi", read(source, "multi", "1"))

    def test_skopeo_reads_what_is_whole(
        self, cli, have, source, target, disk, tmp_path
    ):
        cli("sync", listed(tmp_path, source, "multi"), target)
        names = listed(tmp_path, source, "multi", "red")
        cli("sync", names, f"oci:{disk}", "--have", have(target))
        place = f"oci:{disk}:{source}/red:1"
        out = tmp_path / "out"
        run("skopeo", "--insecure-policy", "copy", "-q", place, f"dir:{out}")
        assert (out / "manifest.json").read_bytes() == read(source, "red", "1")


class TestBase:
    """What a delta lacks is taken from the registry that it goes to."""

    @pytest.fixture
    def carried(self, cli, have, source, target, disk, tmp_path) -> Path:
        """A disk with new:1, made for a target that has red:1 alone, as old/red."""
        cli("sync", listed(tmp_path, source, "red"), f"{target}/old")
        inventory = have(target)
        names = listed(tmp_path, source, "new")
        cli("sync", names, f"oci:{disk}", "--have", inventory)
        assert list(needs_of(disk).values()) == [[f"{target}/old/red"]]
        return disk

    def test_it_is_mounted(self, cli, carried, source, target):
        done = cli("sync", f"oci:{carried}", target, "--json")
        assert done.json["bytes"] == sum(
            size
            for digest, size in blobs_below(source, "new", "1").items()
            if digest in blobs_in(carried)
        )
        assert_whole(target, "new", read(source, "new", "1"))

    def test_it_is_read_where_the_registry_does_not_mount(
        self, cli, carried, source, target, monkeypatch
    ):
        monkeypatch.setattr(Registry, "mount", lambda *args: False)
        done = cli("sync", f"oci:{carried}", target, "--json")
        assert done.json["bytes"] == sum(blobs_below(source, "new", "1").values())
        assert_whole(target, "new", read(source, "new", "1"))

    @pytest.mark.parametrize("command", ["sync", "push", "copy"])
    def test_without_it_no_tag_is_moved(self, command, cli, carried, source, tmp_path):
        (lost,) = needs_of(carried)
        with RegistryServer(Registry(tmp_path / "empty")) as other:
            words = {
                "sync": ("sync", f"oci:{carried}", other.host),
                "push": ("push", carried, "-t", f"{other.host}/new:1"),
                "copy": ("copy", f"oci:{carried}", f"{other.host}/new:1"),
            }[command]
            done = cli(*words, code=6)
            assert lost in done.stderr
            assert f"{other.host}/new:1 lacks" in done.stderr
            assert "made for 127.0.0.1:" in done.stderr
            with pytest.raises(urllib.error.HTTPError):
                read(other.host, "new", "1")

    def test_no_tag_is_moved_when_one_of_several_images_lacks_something(
        self, cli, carried, source, target, tmp_path
    ):
        cli("sync", listed(tmp_path, source, "multi"), f"oci:{carried}")
        (lost,) = needs_of(carried)
        delete(target, f"old/red/blobs/{lost}")
        done = cli("sync", f"oci:{carried}", target, code=6)
        assert f"{target}/new:1 lacks {lost}" in done.stderr
        for name in ("multi", "new"):
            with pytest.raises(urllib.error.HTTPError):
                read(target, name, "1")

    @pytest.mark.parametrize("command", ["push", "copy"])
    def test_push_and_copy_take_it_too(self, command, cli, carried, source, target):
        last = ["-t"] if command == "push" else []
        cli(command, carried, *last, f"{target}/sub/new:2")
        raw = read(source, "new", "1")
        assert read(target, "sub/new", "2") == raw
        assert_whole(target, "sub/new", raw)

    @pytest.mark.parametrize("command", ["sync", "push"])
    def test_names_that_no_registry_has_are_no_place(
        self, command, cli, carried, source, target
    ):
        record = json.loads((carried / "needs.json").read_bytes())
        odd = ["../../x", "A B", "", "x/../y", "x\n", "y" * 300]
        record["blobs"][0]["repositories"][:0] = odd
        (carried / "needs.json").write_text(json.dumps(record))
        if command == "sync":
            cli("sync", f"oci:{carried}", target)
        else:
            cli("push", carried, "-t", f"{target}/new:1")
        assert_whole(target, "new", read(source, "new", "1"))

    @pytest.mark.parametrize(
        ("content", "why"),
        [
            ("", "not JSON"),
            ("[]", "an object"),
            ('{"dockerpush":"needs","version":1,"blobs":[3]}', "an object"),
            ('{"dockerpush":"needs","version":2,"blobs":[]}', "newer dockerpush"),
            ('{"dockerpush":"inventory","version":1}', "the kind 'inventory'"),
        ],
    )
    def test_damaged_needs(self, content, why, cli, carried, target):
        (carried / "needs.json").write_text(content)
        for words in (
            ("sync", f"oci:{carried}", target),
            ("push", carried, "-t", f"{target}/new:1"),
            ("verify", carried),
            ("inspect", carried),
        ):
            done = cli(*words, code=6)
            assert "needs.json" in done.error
            assert why in done.error

    def test_a_push_finds_what_a_carried_directory_brought_beside_it(
        self, cli, source, target, disk, tmp_path
    ):
        first = tmp_path / "first"
        cli("sync", listed(tmp_path, source, "red"), f"oci:{first}")
        cli("sync", f"oci:{first}", f"{target}/deep")
        new = listed(tmp_path, source, "new")
        cli("sync", new, f"oci:{disk}", "--have", first)
        cli("push", disk, "-t", f"{target}/deep/new:1")
        assert_whole(target, "deep/new", read(source, "new", "1"))

    @pytest.mark.parametrize(
        "words",
        [
            ("load", "{}"),
            ("copy", "oci:{}", "whole.tar"),
            ("copy", "oci:{}", "oci:whole"),
            ("inspect", "{}"),
            ("serve", "{}"),
        ],
    )
    def test_who_needs_the_whole_says_so(self, words, cli, carried):
        done = cli(*(word.format(carried) for word in words), code=6)
        assert "a delta, without 1 blob that 127.0.0.1:" in done.stderr


@pytest.mark.parametrize("options", [("--referrers",), ("-a", "-n")])
def test_a_delta_that_only_sync_can_take_says_so(
    options, cli, have, source, target, disk, tmp_path
):
    cli("sync", listed(tmp_path, source, "red"), f"{target}/m")
    cli("sync", listed(tmp_path, source, "new"), f"oci:{disk}", "--have", have(target))
    done = cli("copy", f"oci:{disk}", f"{target}/m/new", *options, code=2)
    assert f"{disk} is a delta: copy does not take it with" in done.error
    assert "use sync" in done.error
    cli("sync", f"oci:{disk}", f"{target}/m", "--referrers")
    assert_whole(target, "m/new", read(source, "new", "1"))


class TestArchives:
    """An archive leaves out as a directory does, whole or in volumes."""

    @pytest.mark.parametrize("split", [(), ("--split", "64KiB")])
    def test_into_an_archive_and_out_of_it(
        self, split, cli, have, source, target, tmp_path
    ):
        cli("sync", listed(tmp_path, source, "red", "multi"), target)
        names = listed(tmp_path, source, "red", "multi", "new")
        inventory = have(target)
        path = f"oci-archive:{tmp_path / 'delta.tar'}"
        cli("sync", names, path, "--have", inventory, *split)
        sizes = [one.stat().st_size for one in tmp_path.glob("delta.tar*")]
        assert SIZE < sum(sizes) < 2 * SIZE
        done = cli("sync", path, target, "--json")
        assert (done.json["copy"], done.json["skip"]) == (1, 2)
        assert_whole(target, "new", read(source, "new", "1"))

    @pytest.mark.parametrize("command", ["pull", "copy"])
    @pytest.mark.parametrize("name", ["delta.tar", "delta"])
    def test_pull_and_copy_leave_out_as_well(
        self, name, command, cli, have, source, target, tmp_path
    ):
        cli("sync", listed(tmp_path, source, "red"), target)
        inventory, path = have(target), tmp_path / name
        where = path if name.endswith("tar") else f"oci:{path}"
        words = ("-o", f"{path}/") if command == "pull" else (where,)
        words = ("-o", path) if command == "pull" and where is path else words
        cli(command, f"{source}/new:1", *words, "--have", inventory)
        for again in ("1", "2"):
            cli("push", path, "-t", f"{target}/other/new:{again}")
        assert_whole(target, "other/new", read(source, "new", "1"))

    @pytest.mark.parametrize(
        "words",
        [
            ("copy", "{}/new:1", "docker-archive:x.tar"),
            ("pull", "{}/new:1", "-o", "x.tar", "--format", "docker-archive"),
            ("pull", "{}/new:1"),
            ("copy", "{}/new:1", "{}/other:1"),
        ],
    )
    def test_what_cannot_leave_out(self, words, cli, source, tmp_path):
        path = write(tmp_path / "have.json", "{}")
        cli(*(word.format(source) for word in words), "--have", path, code=2)

    def test_a_pipe_says_that_it_is_a_delta(
        self, run_cli, cli, have, source, target, tmp_path
    ):
        cli("sync", listed(tmp_path, source, "red"), target)
        path = tmp_path / "delta.tar"
        cli("copy", f"{source}/new:1", path, "--have", have(target))
        words = ("push", "-", "-t", f"{target}/x:1")
        done = run_cli(*words, stdin=path.read_bytes())
        assert done.returncode == 6
        assert "a delta, without 1 blob" in done.stderr


class TestHave:
    @pytest.mark.parametrize("kind", ["registry", "archive", "directory"])
    def test_every_kind_of_place(self, kind, cli, source, target, disk, tmp_path):
        names = listed(tmp_path, source, "red")
        place: Any = tmp_path / "last.oci.tar"
        if kind == "registry":
            cli("sync", names, place := f"{target}/x")
        elif kind == "archive":
            cli("copy", f"{source}/red:1", f"oci-archive:{place}")
        else:
            cli("sync", names, place := f"oci:{tmp_path / 'last'}")
        new = listed(tmp_path, source, "new")
        cli("sync", new, f"oci:{disk}", "--have", place)
        base = json.loads(read(source, "red", "1"))["layers"][0]["digest"]
        assert list(needs_of(disk)) == [base]

    def test_a_docker_archive_is_refused(self, cli, source, disk, tmp_path):
        cli("copy", f"{source}/red:1", tmp_path / "red.tar")
        for word in (tmp_path / "red.tar", f"docker-archive:{tmp_path / 'red.tar'}"):
            names = listed(tmp_path, source, "new")
            done = cli("sync", names, f"oci:{disk}", "--have", word, code=2)
            assert "other digests in a registry" in done.stderr
        assert not disk.exists()

    def test_a_registry_needs_no_have(self, cli, source, target, tmp_path):
        names = listed(tmp_path, source, "new")
        done = cli("sync", names, target, "--have", source, code=2)
        assert "dockerpush asks a registry" in done.stderr

    @pytest.mark.parametrize(
        ("content", "why"),
        [
            ("{}", "something else"),
            ('{"dockerpush":"needs","version":1}', "the kind 'needs'"),
            ('{"dockerpush":"inventory","version":2,"repositories":[\n]}', "newer"),
            ('{"dockerpush":"inventory","version":1,"repositories":[\n', "too early"),
            ('{"dockerpush":"inventory","version":1,"repositories":3}', "an array"),
            ("[1]", "an object"),
            ('{"dockerpush":"inventory","version":1,"version":1}', "'version' twice"),
        ],
    )
    def test_a_damaged_inventory(self, content, why, cli, source, disk, tmp_path):
        path = write(tmp_path / "have.json", content)
        names = listed(tmp_path, source, "new")
        done = cli("sync", names, f"oci:{disk}", "--have", path, code=6)
        assert why in done.stderr
        assert f"{path}: not a valid inventory" in done.stderr
        assert not disk.exists()

    def test_what_is_not_there(self, cli, source, disk, tmp_path):
        names = listed(tmp_path, source, "new")
        for word in (tmp_path / "no.json", f"oci:{tmp_path / 'no'}"):
            cli("sync", names, f"oci:{disk}", "--have", word, code=4)


class TestInventory:
    def test_it_tells_tags_and_blobs_and_who_has_them(self, cli, source, target):
        store(target, "team/app", [noise_layer(100, "x")])
        (only,) = json.loads(cli("inventory", target).stdout)["repositories"]
        raw = read(target, "team/app", "1")
        assert only["name"] == f"{target}/team/app"
        assert only["tags"] == {"1": digest_of(raw)}
        assert only["manifests"] == [digest_of(raw)]
        assert set(only["blobs"]) == set(blobs_below(target, "team/app", "1"))

    def test_a_prefix_names_or_a_list_narrow_it(self, cli, target, tmp_path):
        for name in ("a/one", "a/two", "b/one"):
            store(target, name, [noise_layer(100, name)])

        def names(*words: object) -> list[str]:
            found = json.loads(cli("inventory", *words).stdout)["repositories"]
            return [one["name"].partition("/")[2] for one in found]

        assert names(target) == ["a/one", "a/two", "b/one"]
        assert names(f"{target}/a") == ["a/one", "a/two"]
        assert names(f"{target}/a", "two", "a/one") == ["a/two", "a/one"]
        images = write(tmp_path / "list", "x.test/one:1", "x.test/three:1")
        assert names(f"{target}/a", "--list", images) == ["a/one"]

    def test_a_registry_without_a_catalog(self, cli, tmp_path):
        with start_docker_registry(tmp_path / "real") as real:
            run(
                *("skopeo", "--insecure-policy", "copy", "-q"),
                *("--dest-tls-verify=false", "--preserve-digests"),
                *(f"oci:{whole(tmp_path)}:1", f"docker://{real.host}/app:1"),
            )
            record = json.loads(cli("inventory", real.host).stdout)
            assert record == json.loads(cli("inventory", real.host, "app").stdout)
            missing = cli("inventory", real.host, "app", "none")
            assert "has no repository none yet" in missing.stderr

    def test_that_of_a_directory_is_that_of_its_images(
        self, cli, source, disk, tmp_path
    ):
        cli("sync", listed(tmp_path, source, "red"), f"oci:{disk}")
        (only,) = json.loads(cli("inventory", f"oci:{disk}").stdout)["repositories"]
        assert only["name"] == f"{source}/red"
        assert only["tags"] == {"1": digest_of(read(source, "red", "1"))}
        assert set(only["blobs"]) == set(blobs_in(disk))


def whole(tmp_path: Path) -> Path:
    layout = Layout(tmp_path / "whole")
    layout.root(layout.image("linux", "amd64"))
    return layout.path


@pytest.mark.parametrize("form", ["oci:", "oci-archive:"])
def test_a_tag_that_is_left_out_whole_costs_one_look(form, cli, have, source, tmp_path):
    with start_docker_registry(tmp_path / "outside") as outside:
        there = outside.host
        cli("sync", listed(tmp_path, source, *NAMES, "multi"), there)
        inventory = have(there)
        cli("sync", listed(tmp_path, source, "new"), there)
        names = listed(tmp_path, there, *NAMES, "multi", "new")
        before = len(outside.requests())
        cli("sync", names, f"{form}{tmp_path / 'delta'}", "--have", inventory)
        asked = outside.requests()[before:]
        for name in (*NAMES, "multi"):
            looks = [one.method for one in asked if f"/v2/{name}/" in one.path]
            assert looks == ["HEAD"], name
        cli("sync", f"{form}{tmp_path / 'delta'}", f"{there}/again")
        cli("verify", names, f"{there}/again")


class TestVolumesCarriedBefore:
    """``--have FILE.001``: what went in volumes the last time is not carried again."""

    @pytest.fixture
    def carried(self, cli, source, tmp_path) -> list[Path]:
        """The volumes of red, green and blue; from the third on on another disc."""
        names = listed(tmp_path, source, *NAMES)
        cli("sync", names, f"oci-archive:{tmp_path / 'base'}", "--split", "64KiB")
        (tmp_path / "other").mkdir()
        found = sorted(tmp_path.glob("base.[0-9]*"))
        assert len(found) > 3
        moved = [one.rename(tmp_path / "other" / one.name) for one in found[2:]]
        return [*found[:2], *moved]

    @pytest.fixture
    def again(self, cli, carried, source, disk, tmp_path) -> Run:
        """Carry them again, and new:1."""
        more = listed(tmp_path, source, *NAMES, "new")

        def sync(have: str, *words: object, code: int = 0) -> Finished:
            have = have.format(tmp_path / "base")
            done = cli(
                *("sync", more, f"oci:{disk}", "--have", have, "--json", *words),
                code=code,
            )
            assert disk.exists() == (code == 0)
            return done

        return sync

    @pytest.mark.parametrize("have", ["{}", "{}.001", "oci-archive:{}.001"])
    def test_on_one_disc(self, have, carried, again, disk, source):
        for one in carried[2:]:
            one.rename(carried[0].with_name(one.name))
        done = again(have)
        assert (done.json["copy"], done.json["skip"]) == (1, 3)
        assert digest_of(read(source, "new", "1")) in blobs_in(disk)
        assert digest_of(noise_layer(SIZE, "base")) not in blobs_in(disk)

    @pytest.mark.parametrize("command", ["pull", "copy"])
    def test_on_two_discs_for_one_image(
        self, command, cli, carried, source, disk, tmp_path
    ):
        to = ("-o", f"{disk}/") if command == "pull" else (f"oci:{disk}",)
        volumes = ("--volumes", tmp_path / "other")
        cli(command, f"{source}/new:1", *to, "--have", carried[0], *volumes)
        assert set(needs_of(disk)) == {digest_of(noise_layer(SIZE, "base"))}

    def test_on_two_discs(self, again, disk, tmp_path):
        done = again("{}.001", "--volumes", tmp_path / "other")
        assert (done.json["copy"], done.json["skip"]) == (1, 3)

    def test_a_missing_volume_is_named(self, again, carried, tmp_path):
        carried[3].unlink()
        words = ("--volumes", tmp_path / "other")
        done = again("{}.001", *words, code=6)
        assert f"base.001: volume {carried[3].name} of {len(carried)} is" in done.error

    def test_a_truncated_volume_is_named(self, again, carried, tmp_path):
        carried[2].write_bytes(carried[2].read_bytes()[:-10])
        words = ("--volumes", tmp_path / "other")
        assert f"{carried[2]}: truncated" in again("{}.001", *words, code=6).error

    def test_what_a_damaged_manifest_names_is_carried_again(
        self, again, carried, source, disk, tmp_path
    ):
        manifest, marks = read(source, "red", "1"), 0
        for path in carried:
            content = path.read_bytes()
            marks += content.count(manifest)
            path.write_bytes(content.replace(manifest, manifest[:-2] + b"? "))
        assert marks == 1
        done = again("{}.001", "--volumes", tmp_path / "other")
        assert (done.json["copy"], done.json["skip"]) == (2, 2)
        assert digest_of(noise_layer(SIZE, "red")) in blobs_in(disk)


def test_the_whole_trip_twice(cli, have, source, tmp_path):
    """From one docker-registry to another one, on discs of which one is damaged."""
    with (
        start_docker_registry(tmp_path / "outside") as outside,
        start_docker_registry(tmp_path / "inside") as inside,
    ):
        there, prod = outside.host, f"{inside.host}/prod"
        cli("sync", listed(tmp_path, source, *NAMES, "multi"), f"{there}/x")
        names = [f"{there}/x/{name}:1" for name in (*NAMES, "multi")]
        images = write(tmp_path / "images.txt", *names)
        cli("sync", images, f"oci-archive:{tmp_path / 'one'}", "--split", "64KiB")
        cli("sync", f"oci-archive:{tmp_path / 'one.001'}", prod)
        cli("verify", images, prod)

        cli("copy", f"{source}/new:1", f"{there}/x/new:1")  # a month later
        write(images, *names, f"{there}/x/new:1")
        two = tmp_path / "two"
        inventory = have(prod, "--list", images)
        cli(
            "sync",
            images,
            f"oci-archive:{two}",
            "--split",
            "64KiB",
            "--have",
            inventory,
        )
        first = tmp_path / "two.001"
        sound = first.read_bytes()
        first.write_bytes(sound[:30_000] + b"?" + sound[30_001:])
        assert "two.001" in cli("verify", two, code=6).stderr
        cli("verify", images, prod, code=4)
        first.write_bytes(sound)
        cli("verify", two)
        done = cli("sync", f"oci-archive:{two}", prod, "--json")
        assert (done.json["copy"], done.json["skip"]) == (1, 4)
        cli("verify", images, prod)
        assert read_back(inside.host, "prod/new", "1").manifest_bytes == read(
            source, "new", "1"
        )


def test_a_signature_that_is_new_comes_with_an_image_that_is_not(
    cli, have, source, target, disk, tmp_path
):
    store(source, "signed", [noise_layer(SIZE, "signed")])
    names = listed(tmp_path, source, "signed")
    cli("sync", names, target)
    raw = read(source, "signed", "1")
    config = json.loads(raw)["config"]
    subject = {"mediaType": OCI_MANIFEST, "digest": digest_of(raw), "size": len(raw)}
    signature = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "subject": subject}
    signature |= {"artifactType": "x/signature", "config": config, "layers": []}
    content = json.dumps(signature).encode()
    put(source, "signed", digest_of(content), content, OCI_MANIFEST)
    words = ("--have", have(target), "--referrers")
    cli("sync", names, f"oci:{disk}", *words)
    assert set(blobs_in(disk)) == {digest_of(content)}
    cli("sync", f"oci:{disk}", target, "--referrers")
    assert read(target, "signed", digest_of(content)) == content
    assert read(target, "signed", "1") == raw
