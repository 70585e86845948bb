"""``verify`` of what is carried, and of lists: everything is read, faults are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from conftest import Command, Finished
from copied import Layout, delete, read, store, write
from images import docker_archive, tar_of
from inprocess import checked
from transfers import noise_layer

from dockerpush.server import Registry, RegistryServer

SIZE = 20_000
NAMES = ("red", "green", "multi")

Run = Callable[..., Finished]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("source")
    layout = Layout(directory / "layout")
    layout.root(layout.index(*(layout.image("linux", one) for one in ("a", "b"))))
    with RegistryServer(Registry(directory / "registry")) as server:
        for name in NAMES[:2]:
            layers = [noise_layer(SIZE, seed) for seed in ("base", name)]
            store(server.host, name, layers)
        layout.send(server.host, "multi")
        yield server.host


@pytest.fixture
def cli(run_cli: Command) -> Run:
    """Run a command; it ends with *code*, and one line if that is an error."""
    return checked(run_cli.environment())


@pytest.fixture
def names(source: str, tmp_path: Path) -> Path:
    return write(tmp_path / "list", *(f"{source}/{name}:1" for name in NAMES))


@pytest.fixture
def disk(cli: Run, names: Path, tmp_path: Path) -> Path:
    cli("sync", names, f"oci:{tmp_path / 'disk'}")
    return tmp_path / "disk"


@pytest.fixture
def target(cli: Run, names: Path, tmp_path: Path) -> Iterator[str]:
    with RegistryServer(Registry(tmp_path / "target")) as server:
        cli("sync", names, f"{server.host}/m")
        yield server.host


def layers_of(host: str, name: str) -> list[str]:
    record = json.loads(read(host, name, "1"))
    return [layer["digest"] for layer in record["layers"]]


def damage(path: Path, where: int) -> None:
    content = bytearray(path.read_bytes())
    content[where] ^= 1
    path.write_bytes(content)


def blob_in(disk: Path, digest: str) -> Path:
    return disk / "blobs" / digest.replace(":", "/")


class TestOfWhatIsCarried:
    @pytest.mark.parametrize("form", ["oci", "oci-archive", "docker-archive"])
    def test_it_is_whole(self, form, cli, names, source, tmp_path):
        place = f"{form}:{tmp_path / 'it'}"
        if form == "docker-archive":
            cli("copy", f"{source}/red:1", place)
        else:
            cli("sync", names, place)
        done = cli("verify", tmp_path / "it", "--json")
        assert done.json["verified"]
        assert done.json["images"] == (1 if form == "docker-archive" else 3)
        assert done.json["bytes"] > 2 * SIZE

    def test_volumes(self, cli, names, tmp_path):
        cli("sync", names, f"oci-archive:{tmp_path / 'it'}", "--split", "64KiB")
        assert cli("verify", tmp_path / "it.001", "--json").json["images"] == 3
        damage(tmp_path / "it.001", 40_000)
        done = cli("verify", tmp_path / "it.001", code=6)
        assert "it.001" in done.stderr

    @pytest.mark.parametrize(
        "name", ["podman-oci-archive", "skopeo-oci-zstd", "podman-docker-archive"]
    )
    def test_what_other_programs_wrote(self, name, real_archives, cli):
        assert cli("verify", real_archives[name], "--json").json["verified"]

    def test_a_damaged_layer_is_named_with_all_images_that_need_it(
        self, cli, source, disk
    ):
        base = layers_of(source, "red")[0]
        damage(blob_in(disk, base), 700)
        done = cli("verify", disk, "--json", code=6)
        (found,) = done.json["damaged"]
        assert base[7:] in found["what"]
        assert sorted(found["images"]) == [f"{source}/{n}:1" for n in ("green", "red")]
        assert f"damaged: {found['what']}: " in done.stderr
        damage(blob_in(disk, base), 700)
        assert cli("verify", disk).stdout.startswith(f"verified {disk}: 3 images, ")

    @pytest.mark.parametrize("what", ["config", "manifest", "layer"])
    @pytest.mark.parametrize("gone", [True, False])
    def test_whatever_is_damaged_or_gone(self, gone, what, cli, source, disk):
        raw = read(source, "red", "1")
        record = json.loads(raw)
        digest = {
            "config": record["config"]["digest"],
            "layer": record["layers"][1]["digest"],
            "manifest": next(
                entry["digest"]
                for entry in json.loads((disk / "index.json").read_text())["manifests"]
                if "red" in json.dumps(entry)
            ),
        }[what]
        if gone:
            blob_in(disk, digest).unlink()
        else:
            damage(blob_in(disk, digest), 20)
        done = cli("verify", disk, code=6)
        assert digest[7:] in done.stderr
        assert f"{source}/red:1" in done.stderr

    def test_a_layer_that_its_config_does_not_name(self, cli, tmp_path):
        path = docker_archive(tmp_path / "x.tar", [tar_of({"f": b"x" * 4000})])
        assert cli("verify", path, "--json").json["blobs"] == 1
        content = path.read_bytes()
        place = content.index(b"x" * 4000)
        path.write_bytes(content[:place] + b"y" + content[place + 1 :])
        assert "damaged: " in cli("verify", path, code=6).stderr

    def test_a_delta_says_what_it_leaves_out(self, cli, names, source, disk, tmp_path):
        delta = tmp_path / "delta"
        store(source, "late", [noise_layer(SIZE, seed) for seed in ("base", "late")])
        more = write(tmp_path / "more", names.read_text(), f"{source}/late:1")
        cli("sync", more, f"oci:{delta}", "--have", disk)
        done = cli("verify", delta, "--json")
        assert (done.json["verified"], done.json["needs"]) == (True, 4)
        assert "4 blobs left out" in cli("verify", more, f"oci:{delta}").stdout
        damage(blob_in(delta, layers_of(source, "late")[1]), 700)
        done = cli("verify", delta, code=6)
        assert f"{source}/late:1" in done.stderr
        assert f"{source}/red:1" not in done.stderr

    @pytest.mark.parametrize("words", [("--name", "x"), ("--scoped",)])
    def test_options_that_need_a_second_place(self, words, cli, disk):
        cli("verify", disk, *words, code=2)


class TestOfLists:
    @pytest.fixture(params=["directory", "registry"])
    def place(self, request: pytest.FixtureRequest) -> tuple[str, Any]:
        """What the second word is, and a function that has it lose a layer."""
        if request.param == "directory":
            disk = request.getfixturevalue("disk")
            return f"oci:{disk}", lambda _, digest: blob_in(disk, digest).unlink()
        host = request.getfixturevalue("target")
        return f"{host}/m", lambda name, d: delete(host, f"m/{name}/blobs/{d}")

    def test_all_is_there(self, cli, names, place):
        done = cli("verify", names, place[0], "--json")
        assert (done.json["verified"], done.json["images"]) == (True, 3)
        assert cli("verify", names, place[0]).stdout.startswith("verified ")

    def test_what_is_missing_is_named(self, cli, names, place, source):
        names.write_text(f"{names.read_text()}\n{source}/none:1\n")
        done = cli("verify", names, place[0], code=4)
        assert "missing: " in done.stderr
        assert "none:1" in done.error

    def test_what_lacks_something_is_named(self, cli, names, place, source):
        own = layers_of(source, "red")[1]
        place[1]("red", own)
        done = cli("verify", names, place[0], code=6)
        assert own[7:] in done.stderr
        assert "red:1" in done.error
        assert "green:1" not in done.error
        names.write_text(f"{source}/green:1\n")  # what else there is does not matter
        cli("verify", names, place[0])

    def test_a_damaged_blob_of_a_registry(self, cli, names, source, target, tmp_path):
        own = layers_of(source, "red")[1]
        (path,) = (
            one
            for one in (tmp_path / "target").rglob("*")
            if one.is_file() and own[7:] in str(one) and one.stat().st_size > SIZE
        )
        damage(path, 700)
        done = cli("verify", names, f"{target}/m", code=6)
        assert own in done.stderr
        assert f"{target}/m/red:1" in done.error

    def test_rules_for_tags(self, cli, place, source, tmp_path):
        record = {"source": f"{source}/red", "tags": {"allow": ["1"]}}
        path = write(tmp_path / "list.json", json.dumps({"sync": [record]}))
        if place[0].startswith("oci:"):
            record["target"] = "x.test/m/red"
        assert cli("verify", path, place[0], "--json").json["images"] == 1
        record["tags"] = {"allow": ["9"]}
        path = write(tmp_path / "list.json", json.dumps({"sync": [record]}))
        cli("verify", path, place[0], code=4)
