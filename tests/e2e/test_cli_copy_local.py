"""``copy`` between registries, archives and OCI directories, read by other programs.

Whatever holds an image hands on its manifest byte for byte, unless less is asked for.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator, Sequence

import pytest
from conftest import Command, Finished, peak_rss
from copied import assert_whole, put, read, store
from images import MIB, digest_of, docker_archive, tar_of
from inprocess import run_here
from multiplatform import (
    finish,
    write_attestation,
    write_image,
    write_index,
)
from pushed import fetch
from registries import run

from dockerpush.archive import open_archive
from dockerpush.oci import OCI_INDEX, OCI_LAYER, OCI_MANIFEST
from dockerpush.server import Registry, RegistryServer

PREFIXES = {
    "docker-archive": "docker-archive:",
    "oci-archive": "oci-archive:",
    "oci-dir": "oci:",
}
"""Forms of a file or directory, and what a command calls them by."""
OCI_FORMS = ("oci-archive", "oci-dir")
FORMS = ("registry", *PREFIXES)
SKOPEO = ("skopeo", "--insecure-policy")


@dataclass(frozen=True)
class Source:
    """A registry: small:1 is an image, nested:1 an index with all that one can have.

    tags holds the tags a, b and c, two of which are one image.
    """

    host: str
    nested: dict[str, Any]
    images: dict[str, str]

    @property
    def small(self) -> str:
        """The digest of small:1."""
        return digest_of(read(self.host, "small", "1"))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Source]:
    directory = tmp_path_factory.mktemp("source")
    path = directory / "layout"
    images = {name: write_image(path, name) for name in ("amd64", "arm64")}
    inner = write_index(path, [images["arm64"]])
    about = write_attestation(path, images["amd64"])
    nested = write_index(path, [images["amd64"], inner, about])
    with RegistryServer(Registry(directory / "registry")) as server:
        for blob in (path / "blobs/sha256").iterdir():
            for repository in ("nested", "small"):
                upload(server.host, repository, blob.read_bytes())
        for document in (*images.values(), about, inner, nested):
            raw = (path / "blobs/sha256" / document["digest"][7:]).read_bytes()
            name = "1" if document is nested else document["digest"]
            put(server.host, "nested", name, raw, document["mediaType"])
        put(
            server.host,
            "small",
            "1",
            read(server.host, "nested", images["amd64"]["digest"]),
            OCI_MANIFEST,
        )
        for tag in ("a", "b", "c"):
            store(server.host, "tags", [tar_of({"a": b"a" * 900}), _layer(tag)])
            put(server.host, "tags", tag, read(server.host, "tags", "1"), OCI_MANIFEST)
        digests = {name: image["digest"] for name, image in images.items()}
        yield Source(server.host, nested, digests)


def upload(host: str, repository: str, content: bytes) -> None:
    url = f"http://{host}/v2/{repository}/blobs/uploads/?digest={digest_of(content)}"
    request = urllib.request.Request(url, data=content, method="POST")
    request.add_header("Content-Type", "application/octet-stream")
    urllib.request.urlopen(request).close()


def _layer(tag: str) -> bytes:
    return tar_of({"own": ("b" if tag == "c" else tag).encode() * 700})


def place(form: str, directory: Path, host: str, name: str) -> str:
    """What a command calls a place of some *form*."""
    if form == "registry":
        return f"{host}/{name}:1"
    return f"{PREFIXES[form]}{directory / name.replace('/', '-')}"


def run_all(run_cli: Command, *lines: Sequence[object]) -> list[Finished]:
    """Run the command with each of *lines* in this process; all of them succeed."""
    done = [run_here(line, run_cli.environment()) for line in lines]
    for one in done:
        assert one.returncode == 0, one.stderr
    return done


def refused(run_cli: Command, code: int, *lines: Sequence[object]) -> list[Finished]:
    """Run them; each ends with *code* and one line of error."""
    done = [run_here(line, run_cli.environment()) for line in lines]
    for one in done:
        assert one.returncode == code, one.stderr
        assert one.error.startswith("error: ")
        assert one.stderr.count("error: ") == 1
    return done


def roots(path: Path) -> list[str]:
    """The digests of the manifests in an archive or a directory."""
    with open_archive(path) as archive:
        found = [image.root for image in archive.images if image.root]
    return [str(root.descriptor.digest) for root in found if root.descriptor]


def index_of(path: Path) -> list[dict[str, Any]]:
    """The entries of index.json, in a tar or a directory."""
    if path.is_dir():
        raw = (path / "index.json").read_bytes()
    else:
        with tarfile.open(path) as tar:
            raw = tar.extractfile("index.json").read()  # type: ignore[union-attr]
    return json.loads(raw)["manifests"]


def names_in(path: Path) -> list[str | None]:
    """The full names, else what else the index calls the images."""
    keys = "io.containerd.image.name", "org.opencontainers.image.ref.name"
    said = [entry.get("annotations", {}) for entry in index_of(path)]
    return [one.get(keys[0], one.get(keys[1])) for one in said]


def tags(host: str, repository: str) -> list[str]:
    return sorted(json.loads(fetch(host, repository, "tags/list"))["tags"] or [])


def left(directory: Path) -> list[str]:
    """What is there of parts and locks, those of the state apart."""
    return [
        str(path.relative_to(directory))
        for path in directory.rglob("*")
        if (path.name.endswith((".part", ".lock")) or path.name == ".partial")
        and "state" not in path.parts
    ]


class TestPairs:
    def test_an_image_keeps_its_digest_on_every_way(self, source, run_cli, tmp_path):
        host, lines = source.host, []
        for form in PREFIXES:
            lines.append((f"{host}/small:1", place(form, tmp_path, host, form)))
        ways = [(one, other) for one in FORMS for other in FORMS]
        for one, other in ways:
            begin = place(one, tmp_path, host, one)
            if one == "registry":
                begin = f"{host}/small:1"
            lines.append((begin, place(other, tmp_path, host, f"{one}/{other}")))
        done = run_all(run_cli, *(("copy", *line, "--json") for line in lines))
        assert {one.json["digest"] for one in done} == {source.small}
        for one, other in ways:
            if other == "registry":
                raw = read(host, f"{one}/{other}", "1")
                assert digest_of(raw) == source.small
                assert_whole(host, f"{one}/{other}", raw)
            else:
                assert roots(tmp_path / f"{one}-{other}") == [source.small]
        assert left(tmp_path) == []

    @pytest.mark.parametrize("form", PREFIXES)
    def test_an_index_stays_whole(self, form, source, run_cli, tmp_path):
        host = source.host
        first, second = (place(form, tmp_path, host, name) for name in ("1", "2"))
        back = f"{host}/whole/{form}:1"
        lines = [(f"{host}/nested:1", first), (first, second), (second, back)]
        done = run_all(run_cli, *(("copy", *line, "--json") for line in lines))
        assert {one.json["digest"] for one in done} == {source.nested["digest"]}
        raw = read(host, f"whole/{form}", "1")
        assert raw == read(host, "nested", "1")
        assert assert_whole(host, f"whole/{form}", raw) == 12

    @pytest.mark.parametrize("form", PREFIXES)
    def test_skopeo_reads_it(self, form, source, run_cli, tmp_path):
        host, name = source.host, "small" if form == "docker-archive" else "nested"
        out = place(form, tmp_path, host, "out")
        run_all(run_cli, ("copy", f"{host}/{name}:1", f"{out}:demo/app:7"))
        raw = run(*SKOPEO, "inspect", "--raw", f"{out}:demo/app:7")
        if form == "docker-archive":  # of which it says what is in manifest.json
            config = json.loads(read(host, "small", "1"))["config"]["digest"]
            assert json.loads(raw)["config"]["digest"] == config
        else:
            assert digest_of(raw) == source.nested["digest"]

    @pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
    def test_standard_output_gets_what_a_file_gets(
        self, form, source, run_cli, tmp_path
    ):
        reference = f"{source.host}/tags:a"
        run_all(run_cli, ("copy", reference, f"{form}:{tmp_path / 'out.tar'}"))
        line = ("copy", reference, f"{form}:-", "-q", "--json")
        with run_cli.start(*line, stdout=subprocess.PIPE) as child:
            assert child.stdout.read() == (tmp_path / "out.tar").read_bytes()
        assert child.returncode == 0

    def test_a_pipe_is_pushed(self, source, run_cli, tmp_path):
        out, target = tmp_path / "out.tar", f"{source.host}/piped:1"
        run_all(run_cli, ("copy", f"{source.host}/small:1", out))
        done = run_cli("copy", "-", target, "--json", stdin=out)
        assert done.returncode == 0, done.stderr
        assert roots(out) == [source.small]

    def test_a_fifo_is_written_to_and_stays(self, source, run_cli, tmp_path):
        fifo, out = tmp_path / "fifo", tmp_path / "out.tar"
        os.mkfifo(fifo)
        with (
            out.open("wb") as file,
            subprocess.Popen(["cat", fifo], stdout=file) as reader,
        ):
            run_all(run_cli, ("copy", f"{source.host}/small:1", fifo))
            reader.wait(20)
        assert fifo.is_fifo()
        assert roots(out) == [source.small]
        assert left(tmp_path) == []


class TestPlatforms:
    def test_a_docker_archive_is_narrowed_to_one(self, source, run_cli, tmp_path):
        out, reference = tmp_path / "out.tar", f"{source.host}/nested:1"
        line = ("copy", reference, f"docker-archive:{out}")
        (done,) = run_all(run_cli, (*line, "--json"))
        assert done.json["digest"] == source.nested["digest"]
        flags = ("--platform", "linux/arm64", "--json")
        (done,) = run_all(run_cli, (*line, *flags))
        assert done.json["digest"] == source.images["arm64"]
        config = json.loads(
            run(*SKOPEO, "inspect", "--config", f"docker-archive:{out}")
        )
        assert config["architecture"] == "arm64"

    @pytest.mark.parametrize("form", PREFIXES)
    def test_several_of_them_stay_an_index_with_their_referrers(
        self, form, source, run_cli, tmp_path
    ):
        out = tmp_path / "out"
        both = ("--platform", "linux/amd64", "--platform", "linux/arm64")
        line = ("copy", f"{source.host}/nested:1", f"{PREFIXES[form]}{out}")
        (done,) = run_all(run_cli, (*line, *both, "--json"))
        target = f"{source.host}/several/{form}:1"
        (back,) = run_all(run_cli, ("copy", f"{PREFIXES[form]}{out}", target, "--json"))
        assert back.json["digest"] == done.json["digest"] != source.nested["digest"]
        kept = json.loads(read(source.host, f"several/{form}", "1"))["manifests"]
        found = [entry["platform"]["architecture"] for entry in kept]
        assert found == ["amd64", "arm64", "unknown"]

    def test_one_is_narrowed_under_its_own_digest(self, source, run_cli, tmp_path):
        """Also when it is named by the digest of the whole, which it cannot keep."""
        reference = f"{source.host}/nested@{source.nested['digest']}"
        one = ("--platform", "linux/amd64", "--json")
        lines = [
            ("copy", reference, f"{source.host}/narrowed", *one),
            ("copy", reference, f"oci:{tmp_path / 'layout'}", *one),
            ("copy", f"oci:{tmp_path / 'layout'}", tmp_path / "out.tar", *one),
        ]
        for done in run_all(run_cli, *lines):
            assert done.json["digest"] == source.images["amd64"]
        read(source.host, "narrowed", source.images["amd64"])
        assert roots(tmp_path / "out.tar") == [source.images["amd64"]]

    def test_what_is_not_there_is_named_and_nothing_written(
        self, source, run_cli, tmp_path
    ):
        run_all(run_cli, ("copy", f"{source.host}/nested:1", f"oci:{tmp_path / 'l'}"))
        missing = ("--platform", "linux/s390x")
        for done in refused(
            run_cli,
            4,
            ("copy", f"oci:{tmp_path / 'l'}", tmp_path / "out.tar", *missing),
            ("copy", f"{source.host}/nested:1", f"oci:{tmp_path / 'm'}", *missing),
        ):
            assert "linux/amd64, linux/arm64" in done.error
        assert not (tmp_path / "out.tar").exists()
        assert not (tmp_path / "m" / "index.json").exists()


@pytest.fixture
def signed(source: Source) -> list[str]:
    """What refers to small:1, and what refers to that; their digests."""
    host, found = source.host, []
    below = {"mediaType": OCI_MANIFEST, "digest": source.small}
    below["size"] = len(read(host, "small", "1"))
    image = json.loads(read(host, "small", "1"))
    for kind in ("signature", "countersignature"):
        record = {**image, "artifactType": f"application/vnd.test.{kind}"}
        raw = json.dumps({**record, "subject": below}).encode()
        put(host, "small", digest_of(raw), raw, OCI_MANIFEST)
        below = {"mediaType": OCI_MANIFEST, "digest": digest_of(raw), "size": len(raw)}
        found.append(digest_of(raw))
    return found


class TestReferrers:
    @pytest.mark.parametrize("form", OCI_FORMS)
    def test_they_come_along_and_are_listed_again(
        self, form, signed, source, shared_docker_registry, run_cli, tmp_path
    ):
        out = place(form, tmp_path, source.host, "out")
        hosts = (source.host, shared_docker_registry.host)
        line = ("copy", f"{source.host}/small:1", out, "--referrers", "--json")
        targets = [f"{host}/signed/{form}:1" for host in hosts]
        lines = [("copy", out, to, "--referrers", "--json") for to in targets]
        for done in run_all(run_cli, line, *lines):
            assert done.json["referrers"] == 2
            assert done.json["digest"] == source.small
        for host in hosts:
            for subject, referrer in zip([source.small, *signed], signed):
                listed = self.listed(host, f"signed/{form}", subject)
                assert [entry["digest"] for entry in listed] == [referrer]
                assert "artifactType" in listed[0]

    def listed(self, host: str, repository: str, subject: str) -> list[dict[str, Any]]:
        tag = subject.replace(":", "-")
        if tag in tags(host, repository):  # docker-registry keeps no list itself
            return json.loads(read(host, repository, tag))["manifests"]
        return json.loads(read(host, repository, subject, "referrers"))["manifests"]

    def test_a_docker_archive_has_no_place_for_them(
        self, signed, source, run_cli, tmp_path
    ):
        out = tmp_path / "out.tar"
        line = ("copy", f"{source.host}/small:1", f"docker-archive:{out}")
        (done,) = refused(run_cli, 2, (*line, "--referrers"))
        assert "oci-archive" in done.error
        assert "--format" not in done.error
        assert not out.exists()


class TestNames:
    @pytest.mark.parametrize("form", PREFIXES)
    def test_all_tags_go_into_one_and_come_back(self, form, source, run_cli, tmp_path):
        out = place(form, tmp_path, source.host, "out")
        line = ("copy", "-a", f"{source.host}/tags", out, "--json")
        (done,) = run_all(run_cli, line)
        told = [json.loads(line) for line in done.stdout.splitlines()]
        assert len({one["digest"] for one in told}) == 2
        names = [f"{source.host}/tags:{tag}" for tag in ("1", "a", "b", "c")]
        assert sorted(names_in(tmp_path / "out")) == names
        back = f"{source.host}/back/{form}"
        run_all(run_cli, ("copy", "-a", out, back, "--referrers"))
        assert tags(source.host, f"back/{form}") == ["1", "a", "b", "c"]
        for tag in ("a", "b", "c"):
            raw = read(source.host, f"back/{form}", tag)
            assert raw == read(source.host, "tags", tag)

    def test_one_of_several_is_chosen_by_its_name(self, source, run_cli, tmp_path):
        bundle, host = tmp_path / "bundle", source.host
        run_all(run_cli, ("copy", "-a", f"{host}/tags", f"oci:{bundle}"))
        chosen = f"oci:{bundle}:{host}/tags:b"
        run_all(
            run_cli,
            ("copy", chosen, tmp_path / "b.tar"),
            ("copy", chosen, f"{host}/chosen"),
        )
        assert roots(tmp_path / "b.tar") == [digest_of(read(host, "tags", "b"))]
        assert tags(host, "chosen") == ["b"]
        for done in refused(
            run_cli,
            2,
            ("copy", f"oci:{bundle}", tmp_path / "x.tar"),
            ("copy", f"oci:{bundle}", f"{host}/chosen"),
        ):
            assert "oci:DIR:NAME" in done.error
            assert all(f"{host}/tags:{tag}" in done.error for tag in ("a", "b", "c"))
        (done,) = refused(
            run_cli, 4, ("copy", f"oci:{bundle}:none", tmp_path / "x.tar")
        )
        assert f"{host}/tags:a" in done.error
        assert not (tmp_path / "x.tar").exists()

    @pytest.fixture
    def tagged(self, tmp_path: Path) -> Path:
        """A directory as skopeo makes it, whose images have tags alone."""
        images = [write_image(tmp_path / "tagged", name) for name in ("amd64", "arm64")]
        finish(tmp_path / "tagged", *images)
        return tmp_path / "tagged"

    def test_images_that_have_tags_alone_keep_them(
        self, tagged, source, run_cli, tmp_path
    ):
        host = source.host
        run_all(
            run_cli,
            ("copy", "-a", f"oci:{tagged}", f"oci:{tmp_path / 'dir'}"),
            ("copy", "-a", f"oci:{tagged}", f"oci-archive:{tmp_path / 'a.tar'}"),
            ("copy", "-a", f"oci:{tagged}", f"{host}/tagged/pushed"),
            ("copy", "-a", f"oci:{tagged}", f"{host}/tagged/all", "--referrers"),
            ("copy", f"oci:{tagged}:v2", f"{host}/tagged/one"),
        )
        assert (
            names_in(tmp_path / "dir") == names_in(tmp_path / "a.tar") == ["v1", "v2"]
        )
        annotations = index_of(tmp_path / "dir")[0]["annotations"]
        assert "io.containerd.image.name" not in annotations
        assert tags(host, "tagged/pushed") == tags(host, "tagged/all") == ["v1", "v2"]
        assert tags(host, "tagged/one") == ["v2"]

    def test_a_directory_names_what_has_no_name_by_itself(
        self, tagged, run_cli, tmp_path
    ):
        index = json.loads((tagged / "index.json").read_text())
        for entry in index["manifests"]:
            del entry["annotations"], entry["platform"]
        (tagged / "index.json").write_text(json.dumps(index))
        first = index["manifests"][0]["digest"]
        run_all(
            run_cli,
            ("copy", f"oci:{tagged}:{first}", f"oci:{tmp_path / 'one'}"),
            ("copy", "-a", f"oci:{tagged}", f"oci:{tmp_path / 'both'}"),
        )
        assert names_in(tmp_path / "one") == ["one"]
        assert len(index_of(tmp_path / "both")) == 2

    def test_docker_gets_names_that_it_can_load(self, source, run_cli, tmp_path):
        reference = f"{source.host}/small"
        found = {}
        for name, begin in {
            "app": f"{reference}:1",
            "host:5000/app:2": f"{reference}:1",
            "": f"{reference}@{source.small}",
        }.items():
            end = f":{name}" if name else ""
            out = tmp_path / "out.tar"
            run_all(run_cli, ("copy", begin, f"docker-archive:{out}{end}"))
            with tarfile.open(out) as tar:
                record = json.load(tar.extractfile("manifest.json"))  # type: ignore
            found[name] = record[0]["RepoTags"]
        assert found == {
            "app": ["app:latest"],
            "host:5000/app:2": ["host:5000/app:2"],
            "": [],
        }

    def test_an_image_takes_the_place_of_another_of_its_name(
        self, source, run_cli, tmp_path
    ):
        out = tmp_path / "dir"
        run_all(
            run_cli,
            ("copy", f"{source.host}/tags:a", f"oci:{out}:x"),
            ("copy", f"{source.host}/tags:a", f"oci:{out}:y"),
            ("copy", f"{source.host}/tags:b", f"oci:{out}:x"),
        )
        assert names_in(out) == ["y", "x"]
        digests = [digest_of(read(source.host, "tags", tag)) for tag in ("a", "b")]
        assert [entry["digest"] for entry in index_of(out)] == digests


class TestOptions:
    def test_no_clobber(self, source, run_cli, tmp_path):
        """A file that exists, and a name in a directory, is left as it is."""
        host, out, bundle = source.host, tmp_path / "out.tar", tmp_path / "dir"
        out.write_bytes(b"precious")
        run_all(run_cli, ("copy", f"{host}/tags:b", f"oci:{bundle}:{host}/tags:a"))
        (done,) = run_all(run_cli, ("copy", "-n", f"{host}/small:1", out))
        assert done.stderr == f"note: {out} exists and is left as it is\n"
        assert out.read_bytes() == b"precious"
        (done,) = run_all(run_cli, ("copy", "-an", f"{host}/tags", f"oci:{bundle}"))
        assert "left as it is" in done.stderr
        entries = dict(zip(names_in(bundle), index_of(bundle)))
        assert len(entries) == 4
        was = entries[f"{host}/tags:a"]["digest"]
        assert was == digest_of(read(host, "tags", "b"))

    def test_no_clobber_looks_at_every_tag_of_a_registry(
        self, source, run_cli, tmp_path
    ):
        host, bundle = source.host, tmp_path / "dir"
        run_all(
            run_cli,
            ("copy", "-a", f"{host}/tags", f"oci:{bundle}"),
            ("copy", f"{host}/small:1", f"{host}/kept:b"),
            ("copy", "-a", "-n", f"oci:{bundle}", f"{host}/kept"),
        )
        assert tags(host, "kept") == ["1", "a", "b", "c"]
        assert digest_of(read(host, "kept", "b")) == source.small

    def test_of_two_runs_the_first_one_stays_with_no_clobber(
        self, source, run_cli, tmp_path
    ):
        out = tmp_path / "out.tar"
        children = [
            run_cli.start("copy", "-qn", f"{source.host}/{name}", out, stdout=-3)
            for name in ("tags:a", "tags:b", "small:1")
        ]
        codes = {child.wait(60) for child in children}
        # whoever starts when another one is done already leaves the file alone, too
        assert codes <= {0, 2}
        assert 0 in codes
        assert len(roots(out)) == 1
        assert left(tmp_path) == []

    def test_digests_are_written_for_the_next_program(self, source, run_cli, tmp_path):
        file = tmp_path / "digest"
        line = ("copy", f"{source.host}/small:1", tmp_path / "out.tar")
        run_all(run_cli, (*line, "--digestfile", file))
        assert file.read_text() == source.small
        line = ("copy", "-a", f"{source.host}/tags", f"oci:{tmp_path / 'dir'}")
        run_all(run_cli, (*line, "--digestfile", file))
        lines = file.read_text().splitlines()
        assert len(lines) == 4
        assert all(line.startswith("sha256:") for line in lines)

    def test_json_says_what_was_done(self, source, run_cli, tmp_path):
        out = tmp_path / "out.oci.tar"
        (done,) = run_all(run_cli, ("copy", f"{source.host}/nested:1", out, "--json"))
        told = done.json
        assert told["source"] == f"{source.host}/nested:1"
        assert told["target"] == str(out)
        assert told["mediaType"] == OCI_INDEX
        assert told["manifests"] == 5
        assert told["blobs"] == {"uploaded": 7}
        again = f"oci:{tmp_path / 'dir'}"
        line = ("copy", f"{source.host}/nested:1", again, "--json")
        first, second = run_all(run_cli, line, line)
        assert first.json["bytes"] == told["bytes"]
        assert (second.json["manifests"], second.json["bytes"]) == (0, 0)


class TestDockerSave:
    """Archives of docker save before 25.0: layers that are not compressed."""

    @pytest.fixture
    def classic(self, tmp_path: Path) -> tuple[Path, list[str]]:
        layers = [tar_of({"a": b"a" * 5000}), tar_of({"b": b"b" * 7000})]
        archive = docker_archive(
            tmp_path / "classic.tar", layers, names=["demo/app:1", "demo/app:2"]
        )
        return archive, [digest_of(layer) for layer in layers]

    @pytest.mark.parametrize("form", PREFIXES)
    def test_layers_go_as_they_are(self, form, classic, run_cli, tmp_path):
        archive, diff_ids = classic
        out = place(form, tmp_path, "", "out")
        (done,) = run_all(run_cli, ("copy", archive, out, "--json"))
        assert names_in(tmp_path / "out") == ["demo/app:1", "demo/app:2"]
        again = f"oci:{tmp_path / 'again'}"
        run_all(run_cli, ("copy", f"{out}:demo/app:2", f"{again}:x"))
        raw = run(*SKOPEO, "inspect", "--raw", f"{again}:x")
        assert digest_of(raw) == done.json["digest"]
        layers = json.loads(raw)["layers"]
        assert [layer["digest"] for layer in layers] == diff_ids
        assert {layer["mediaType"] for layer in layers} <= {OCI_LAYER}

    @pytest.fixture
    def podman(self, tmp_path: Path) -> Iterator[tuple[str, ...]]:
        root = tmp_path / "podman"
        runroot = tempfile.mkdtemp(prefix="podman", dir="/tmp")  # 50 characters at most
        yield (
            *("podman", "--root", str(root), "--runroot", runroot),
            *("--storage-driver", "vfs"),
        )
        for directory in (root, runroot):
            shutil.rmtree(directory, ignore_errors=True)

    def test_podman_loads_what_became_of_it(self, classic, podman, run_cli, tmp_path):
        archive, diff_ids = classic
        out = tmp_path / "out.tar"
        run_all(run_cli, ("copy", archive, f"oci-archive:{out}:localhost/app:3"))
        assert b"localhost/app:3" in run(*podman, "load", "-q", "-i", out)
        (shown,) = json.loads(run(*podman, "inspect", "localhost/app:3"))
        assert shown["RootFS"]["Layers"] == diff_ids
        bundle = tmp_path / "bundle.tar"
        run_all(run_cli, ("copy", archive, f"docker-archive:{bundle}"))
        said = run(*podman, "load", "-q", "-i", bundle).decode()
        assert "demo/app:1" in said
        assert "demo/app:2" in said

    def test_a_compressed_one_has_to_be_unpacked(self, classic, run_cli, tmp_path):
        run("gzip", "-k", classic[0])
        packed = f"{classic[0]}.gz"
        (done,) = refused(run_cli, 2, ("copy", packed, f"oci:{tmp_path / 'out'}"))
        assert "unpack it first" in done.error


class TestOddPlaces:
    @pytest.mark.parametrize("name", ["with space", "ünï-çode", "-dash", "a'b\"c$d"])
    def test_any_name_will_do(self, name, source, run_cli, tmp_path):
        directory = tmp_path / name
        directory.mkdir()
        tar, layout = directory / f"{name}.tar", directory / f"{name}:layout"
        run_all(
            run_cli,
            ("copy", f"{source.host}/small:1", tar),
            ("copy", tar, f"{layout}/"),
            ("copy", layout, f"oci-archive:{directory}/other:some/name:1"),
        )
        assert names_in(directory / "other") == ["some/name:1"]
        assert sorted(path.name for path in directory.iterdir()) == sorted(
            ["other", tar.name, layout.name]
        )

    def test_a_link_stays_a_link(self, source, run_cli, tmp_path):
        (tmp_path / "link.tar").symlink_to("real.tar")
        run_all(run_cli, ("copy", f"{source.host}/small:1", tmp_path / "link.tar"))
        assert (tmp_path / "link.tar").is_symlink()
        assert roots(tmp_path / "real.tar") == [source.small]

    def test_what_cannot_be_written_is_one_line(self, source, run_cli, tmp_path):
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "file").write_text("precious")
        begin = f"{source.host}/small:1"
        before = sorted(tmp_path.rglob("*"))
        places = {
            "oci:{}/other": "no OCI layout",
            "{}/other": "no OCI layout",
            "oci:{}/other/file": "is a file: name a directory",
            "oci-archive:{}/other": "is a directory",
            "{}/other/file/x.tar": "cannot write",
            "{}/none/x.tar": "cannot write",
            "/proc/x.tar": "cannot write",
            "oci:/proc/x": "/proc/x",
            "/dev/full": "cannot write /dev/full: no space left",
            "{}/x.tar.gz": "plain",
            "{}/" + "x" * 250 + ".tar": "too long",
            "oci:": "wanted oci:PATH",
            "oci-archive:": "wanted oci-archive:PATH",
            "oci:{}/new:": "wanted oci:PATH",
            "oci:{}/new:a b": "wanted oci:PATH",
            "docker-archive:{}/new:UPPER": "no name that docker can load",
            "docker-archive:{}/new:app@" + source.small: "no name that docker can load",
        }
        for target, words in places.items():
            line = ("copy", begin, target.format(tmp_path))
            done = run_here(line, run_cli.environment())
            assert done.returncode in (1, 2, 4, 6), done.stderr
            assert done.error.startswith("error: ")
            assert words in done.error
        assert sorted(tmp_path.rglob("*")) == before

    def test_a_directory_that_was_begun_is_continued(self, source, run_cli, tmp_path):
        """By a run that was killed before it had a blob, or is at work just now."""
        (tmp_path / "dir" / ".partial").mkdir(parents=True)
        (tmp_path / "dir" / ".partial" / f"sha256-{'0' * 64}").write_text("begun")
        (tmp_path / "dir" / ".lock").touch()
        line = ("copy", f"{source.host}/small:1", f"oci:{tmp_path / 'dir'}")
        run_all(run_cli, line)
        assert roots(tmp_path / "dir") == [source.small]

    def test_a_full_standard_output_is_called_so(self, source, run_cli):
        with Path("/dev/full").open("wb") as full:
            line = ("copy", "-q", f"{source.host}/small:1", "-")
            child = run_cli.start(*line, stdout=full, stderr=subprocess.PIPE)
            said = child.communicate(timeout=30)[1].decode()
        assert child.returncode == 1
        assert said == (
            "error: cannot write standard output: no space left on device; "
            "make room, or write it elsewhere\n"
        )

    @pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
    @pytest.mark.parametrize("words", ["copy {} {}", "pull {} -o {}"])
    def test_standard_output_is_the_same_by_its_other_names(
        self, words, name, source, run_cli, tmp_path
    ):
        """A pipe got the result behind the archive; a file of many was replaced."""
        line = words.format(f"{source.host}/small:1", name).split()
        piped = run_cli.start(*line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        archive = piped.communicate(timeout=30)[0]
        assert piped.returncode == 0
        assert archive.endswith(bytes(1024))
        with (tmp_path / "many").open("wb") as many:
            many.write(b"before")
            many.flush()
            child = run_cli.start(*line, stdout=many, stderr=subprocess.DEVNULL)
            assert child.wait(30) == 0
        assert (tmp_path / "many").read_bytes() == b"before" + archive

    def test_a_sync_prints_its_result_there(self, source, run_cli, tmp_path):
        lines = tmp_path / "images.txt"
        lines.write_text(f"{source.host}/small:1\n")
        commands = [
            ("sync", lines, f"oci-archive:{name}") for name in ("-", "/dev/stdout")
        ]
        for done in refused(run_cli, 2, *commands):
            assert "sync prints its result to standard output" in done.error
            assert done.stdout == ""

    def test_a_circle_of_links_is_replaced_like_any_link(
        self, source, run_cli, tmp_path
    ):
        """Python resolves it with an error of its own."""
        lines, out = tmp_path / "images.txt", tmp_path / "out.oci"
        lines.write_text(f"{source.host}/small:1\n")
        for words in (("sync", lines), ("copy", f"{source.host}/small:1")):
            out.unlink(missing_ok=True)
            out.symlink_to(out)
            run_all(run_cli, (*words, f"oci-archive:{out}"))
            assert not out.is_symlink()

    @pytest.mark.parametrize("name", ["a\nb.tar", "a\x1b[31m.tar", b"\xff.tar"])
    def test_volumes_have_names_that_a_file_of_sums_can_hold(
        self, name, source, run_cli, tmp_path
    ):
        out = tmp_path / os.fsdecode(name)
        line = ("copy", f"{source.host}/small:1", out, "--split", "400KB")
        (done,) = refused(run_cli, 2, line)
        assert "choose one without control characters" in done.error
        assert list(tmp_path.glob("*.00*")) == []

    def test_what_makes_no_sense_is_refused(self, source, run_cli, tmp_path):
        host, bundle = source.host, f"oci:{tmp_path / 'dir'}"
        run_all(run_cli, ("copy", "-a", f"{host}/tags", bundle))
        name = f"{bundle}:{host}/tags:a"
        out = tmp_path / "x.tar"
        for done in refused(
            run_cli,
            2,
            ("copy", "-a", f"{host}/tags", f"oci:{tmp_path / 'new'}:name"),
            ("copy", "-a", f"{host}/tags:a", out),
            ("copy", "-a", name, out),
            ("copy", "-a", name, f"{host}/x"),
            ("copy", "-a", bundle, f"{host}/x:1"),
            ("copy", "-a", bundle, f"{host}/x:1", "--referrers"),
            ("copy", f"{host}/nested:1", out, "--platform", "linux"),
            ("copy", "-", out),
            ("copy", f"{host}/small:1", "oci:-"),
        ):
            assert done.stdout == ""
        assert sorted(path.name for path in tmp_path.glob("*.tar")) == []
        assert not (tmp_path / "new").exists()

    INDEXES = (
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"manifests": 1}',
        b'{"manifests": [1]}',
        b'{"manifests": [{"digest": "sha256:1", "size": 1, "mediaType": "a"}]}',
        b"[" * 100_000,
        b"\xff\xfe",
    )

    def test_a_damaged_index_is_neither_read_nor_replaced(
        self, source, run_cli, tmp_path
    ):
        outs = [tmp_path / str(number) for number in range(len(self.INDEXES))]
        lines = []
        for out, index in zip(outs, self.INDEXES):
            (out / "blobs").mkdir(parents=True)
            (out / "index.json").write_bytes(index)
            lines.append(("copy", f"{source.host}/tags:a", f"oci:{out}"))
            lines.append(("copy", f"oci:{out}", tmp_path / "x.tar"))
        for done in refused(run_cli, 6, *lines):
            assert "index.json" in done.error
        for out, index in zip(outs, self.INDEXES):
            assert (out / "index.json").read_bytes() == index
        assert not (tmp_path / "x.tar").exists()
        assert left(tmp_path) == []

    def test_an_index_that_names_what_is_absent_takes_other_images(
        self, source, run_cli, tmp_path
    ):
        """And what names it becomes whole when it is copied again."""
        out = tmp_path / "dir"
        line = ("copy", f"{source.host}/nested:1", f"oci:{out}")
        run_all(run_cli, line)
        for blob in (out / "blobs/sha256").iterdir():
            blob.unlink()
        run_all(run_cli, ("copy", f"{source.host}/small:1", f"oci:{out}"))
        assert len(index_of(out)) == 2
        gone = f"{source.host}/nested:1"
        refused(run_cli, 6, ("copy", f"oci:{out}:{gone}", tmp_path / "x.tar"))
        (done,) = run_all(run_cli, ("copy", f"oci:{out}", tmp_path / "x.tar"))
        assert f"warning: left out: {gone}: " in done.stderr
        (done,) = refused(run_cli, 7, ("copy", "-a", f"oci:{out}", tmp_path / "y.tar"))
        assert "1 of 2 copies failed" in done.error
        run_all(run_cli, line)
        assert len(roots(out)) == 2

    @pytest.mark.parametrize("to", ["oci:{}/out", "oci-archive:{}/out", "{host}/bad:1"])
    def test_a_flipped_byte_in_a_directory_goes_nowhere(
        self, to, source, run_cli, tmp_path
    ):
        bundle = tmp_path / "dir"
        store(source.host, "flipped", [os.urandom(2000)])
        run_all(run_cli, ("copy", f"{source.host}/flipped:1", f"oci:{bundle}"))
        layer = json.loads(read(source.host, "flipped", "1"))["layers"][0]["digest"]
        blob = bundle / "blobs/sha256" / layer[7:]
        blob.write_bytes(blob.read_bytes()[::-1])
        target = to.format(tmp_path, host=source.host)
        with RegistryServer(Registry(tmp_path / "registry")) as server:
            target = target.replace(source.host, server.host)
            (done,) = refused(run_cli, 6, ("copy", f"oci:{bundle}", target))
            if to.startswith("{host}"):
                line = ("copy", f"oci:{bundle}", target, "--referrers")
                refused(run_cli, 6, line)
        assert layer in done.error
        assert not (tmp_path / "out" / "index.json").exists()
        assert not (tmp_path / "out").is_file()
        assert left(tmp_path) == []


def test_eight_processes_fill_one_directory(source, run_cli, tmp_path):
    out = tmp_path / "dir"
    names = [f"{source.host}/tags:{tag}" for tag in ("a", "b", "c")]
    names += [f"{source.host}/small:1", f"{source.host}/nested:1"]
    begun = [
        *((name, f"oci:{out}:{name}") for name in names),
        *((names[0], f"oci:{out}:again{number}") for number in range(3)),
    ]
    children = [run_cli.start("copy", "-q", *line, stdout=-3) for line in begun]
    assert [child.wait(60) for child in children] == [0] * 8
    assert sorted(map(str, names_in(out))) == sorted(
        [*names, "again0", "again1", "again2"]
    )
    for name in names:
        raw = run(*SKOPEO, "inspect", "--raw", f"oci:{out}:{name}")
        repository, _, tag = name.partition("/")[2].partition(":")
        assert raw == read(source.host, repository, tag)
    assert sorted(path.name for path in out.iterdir()) == [
        "blobs",
        "index.json",
        "oci-layout",
    ]


@pytest.fixture(scope="module")
def large(source: Source) -> str:
    """An image of 96 MiB."""
    store(source.host, "large", [os.urandom(48 * MIB), os.urandom(48 * MIB)])
    return f"{source.host}/large:1"


class TestLarge:
    @pytest.mark.parametrize("form", PREFIXES)
    def test_memory_stays_flat_and_nothing_is_kept_elsewhere(
        self, form, large, source, run_cli, tmp_path
    ):
        out = place(form, tmp_path, source.host, "out")
        seen = []
        with run_cli.start("copy", "-q", large, out, stdout=-3) as child:
            peak = 0
            while child.poll() is None:
                peak = max(peak, peak_rss(child.pid))
                seen += _files(run_cli.state) + _files(tmp_path / "temporary")
        assert child.returncode == 0
        assert peak < 50 * MIB
        assert max(seen, default=0) < MIB
        assert left(tmp_path) == []


def _files(directory: Path) -> list[int]:
    """Sizes of the files below *directory*."""
    found = []
    for path in directory.rglob("*"):
        try:
            found.append(path.stat().st_size if path.is_file() else 0)
        except OSError:
            continue
    return found
