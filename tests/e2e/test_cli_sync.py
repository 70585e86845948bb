"""``sync``: many images between real registries, as a list says."""

from __future__ import annotations

import json
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar

import pytest
from bent import BentServer, refused
from copied import Layout, actions, assert_whole, delete, put, read, store, write
from faultproxy import Effect, Fault, FaultProxy
from images import digest_of, tar_of
from inprocess import run_here
from registries import make_certificates
from suites import first

from dockerpush.oci import OCI_INDEX, OCI_MANIFEST
from dockerpush.server import Registry, RegistryServer

NAMES = ("red", "green", "blue")


class SeenServer(RegistryServer):
    """*seen* are the paths that were asked for."""

    def __init__(self, registry: Registry) -> None:
        self.seen: list[str] = []
        super().__init__(registry, on_request=lambda one: self.seen.append(one.path))


@pytest.fixture
def pair(tmp_path: Path):
    """Two embedded registries: the first holds red:1, green:1 and blue:1."""
    with ExitStack() as stack:
        yield tuple(
            stack.enter_context(SeenServer(Registry(tmp_path / name)))
            for name in ("one", "two")
        )


@pytest.fixture
def filled(pair):
    """The hosts of *pair*; the first holds red:1, green:1 and blue:1."""
    one, two = (server.host for server in pair)
    base = tar_of({"base": b"the same in all of them" * 500})
    for name in NAMES:
        store(one, name, [base, tar_of({"own": name.encode() * 700})])
    return one, two


class TestLists:
    def test_lines_with_and_without_a_target(self, filled, run_cli, tmp_path):
        one, two = filled
        lines = (
            "# what we mirror",
            f"{one}/red:1",
            f"docker://{one}/green:1 {two}/other/green:new  # renamed",
        )
        done = run_cli("sync", write(tmp_path / "list", *lines), f"{two}/m", "--json")
        assert done.returncode == 0, done.stderr
        assert actions(done) == {"m/red:1": "copy", "other/green:new": "copy"}
        for there, name in (("m/red", "red"), ("other/green", "green")):
            tag = "new" if name == "green" else "1"
            assert read(two, there, tag) == read(one, name, "1")
            assert_whole(two, there, read(two, there, tag))

    def test_from_standard_input(self, filled, run_cli):
        one, two = filled
        lines = "".join(f"{one}/{name}:1\n" for name in NAMES)
        done = run_cli("sync", "-", two, "--scoped", "--json", stdin=lines.encode())
        assert done.returncode == 0, done.stderr
        scope = one.replace(":", "-")
        assert actions(done) == {f"{scope}/{name}:1": "copy" for name in NAMES}

    def test_json_with_rules_for_tags(self, filled, run_cli, tmp_path):
        one, two = filled
        raw = read(one, "red", "1")
        for tag in ("2", "10", "9", "10-rc1", "old"):
            put(one, "red", tag, raw, OCI_MANIFEST)
        tags = {"allow": [r"\d+.*"], "deny": [".*-rc.*"], "newest": 2}
        record = {
            "version": 1,
            "defaults": {"parallel": 2},
            "sync": [{"source": f"{one}/red", "target": "${MIRROR}/red", "tags": tags}],
        }
        path = write(tmp_path / "list.json", json.dumps(record, indent=1))
        done = run_cli("sync", path, "--json", "--env=MIRROR", env={"MIRROR": two})
        assert done.returncode == 0, done.stderr
        assert actions(done) == {"red:9": "copy", "red:10": "copy"}

    def test_skopeos_form(self, filled, run_cli, tmp_path):
        one, two = filled
        digest = digest_of(read(one, "blue", "1"))
        hosts = {
            one: {
                "images": {"red": [], "blue": [digest]},
                "images-by-tag-regex": {"green": "^1$"},
                "tls-verify": False,
            }
        }
        path = write(tmp_path / "list.json", json.dumps(hosts))
        done = run_cli("sync", path, f"{two}/m", "--json")
        assert done.returncode == 0, done.stderr
        assert actions(done) == {
            "m/red:1": "copy",
            f"m/blue@{digest}": "copy",
            "m/green:1": "copy",
        }
        assert_whole(two, "m/blue", read(two, "m/blue", digest))

    def test_skopeos_list_in_yaml_means_to_us_what_it_means_to_skopeo(
        self, filled, run_cli, tmp_path
    ):
        pytest.importorskip("yaml")
        one, two = filled
        raw = read(one, "red", "1")
        tags = ("1.10", "010", "2024-01-01", "no", "1e3", "x")
        for tag in tags:
            put(one, "red", tag, raw, OCI_MANIFEST)
        lines = [
            *(f"{one}:", "  tls-verify: false", "  images:", "    blue:", "    red:"),
            *[f"      - {tag}" for tag in tags[:-1]],
            *("  images-by-tag-regex:", "    green: ^1$"),
        ]
        path = write(tmp_path / "list.yml", *lines)
        done = run_cli("sync", path, f"{two}/ours", "--json")
        assert done.returncode == 0, done.stderr
        command = ["skopeo", "--insecure-policy", "sync", "--dest-tls-verify=false"]
        command += ["--src", "yaml", "--dest", "docker", str(path), f"{two}/theirs"]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        for name in NAMES:
            ours, theirs = (
                run_cli("tags", f"{two}/{side}/{name}").stdout.split()
                for side in ("ours", "theirs")
            )
            assert ours == theirs
            assert ours == (sorted(tags[:-1]) if name == "red" else ["1"])
        done = run_cli("sync", "-", f"{two}/ours", "--json", stdin=path.read_bytes())
        assert (done.returncode, done.json["copy"], done.json["skip"]) == (0, 0, 7)

    def test_yaml_without_pyyaml_is_refused_in_one_line(self, run_cli, tmp_path):
        (tmp_path / "none").mkdir()
        (tmp_path / "none/yaml.py").write_text("raise ImportError('not here')\n")
        path = write(tmp_path / "list", "a.test:", "  images: {x: []}")
        env = {"PYTHONPATH": str(tmp_path / "none")}
        done = run_cli("sync", path, "b.test/m", env=env)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == (
            f"error: {path} is YAML, which needs PyYAML: pip install "
            "'dockerpush[yaml]', or write the list as JSON or as lines SRC [DST]\n"
        )

    def test_mistakes_in_yaml_have_their_lines(self, run_cli, tmp_path):
        pytest.importorskip("yaml")
        lines = ("a.test:", "  images:", "    x: [1]", "    x: [2]", "    UP: [1]")
        done = run_cli("sync", write(tmp_path / "list", *lines), "b.test/m")
        assert done.returncode == 2
        told = [line for line in done.stderr.splitlines() if line.startswith("/")]
        assert [line.split(":")[1] for line in told] == ["4", "5"]
        assert "2 mistakes, nothing was copied" in done.error

    def test_a_byte_order_mark_is_no_part_of_a_list(self, filled, run_cli, tmp_path):
        one, two = filled
        path = tmp_path / "list"
        for text in (
            f"{one}/red:1\n",
            json.dumps({"sync": [{"source": f"{one}/red"}]}),
        ):
            path.write_text(text, "utf-8-sig")
            done = run_cli("sync", path, f"{two}/m", "--dry-run", "--json")
            assert actions(done).keys() & {"m/red:1", "m/red:latest"}

    def test_all_mistakes_are_reported_with_their_lines(self, run_cli, tmp_path):
        lines = ("a.test/UPPER:1 b.test/a", "", "a.test/x:1", "a.test/y b.test/y c d")
        done = run_cli("sync", write(tmp_path / "list", *lines))
        assert done.returncode == 2
        told = [line for line in done.stderr.splitlines() if line.startswith("/")]
        assert [line.split(":")[1] for line in told] == ["1", "3", "4"]
        assert "3 mistakes, nothing was copied" in done.error

    def test_one_mistake_is_one_line(self, run_cli, tmp_path):
        done = run_cli("sync", write(tmp_path / "list", "a.test/x:1"))
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "1 mistake, nothing was copied: line 1: no target" in done.error

    @pytest.mark.parametrize("content", [b"\xff\xfe", b"{", b"[1]", b'{"sync":1}'])
    def test_what_is_no_list_is_one_line(self, content, run_cli, tmp_path):
        (tmp_path / "list").write_bytes(content)
        done = run_cli("sync", tmp_path / "list", "b.test")
        assert done.returncode == 2
        assert done.error.startswith("error: ") and "Traceback" not in done.stderr
        assert done.stderr.count("\n") == 1

    @pytest.mark.parametrize("content", [b"", b"# none\n", b"{}", b'{"sync":[]}'])
    def test_a_list_without_images_is_not_found(self, content, run_cli, tmp_path):
        (tmp_path / "list").write_bytes(content)
        for file in (tmp_path / "list", "-"):
            done = run_cli("sync", file, "b.test", stdin=content)
            assert done.returncode == 4
            assert "no images in it" in done.error and done.stderr.count("\n") == 1

    def test_no_list_at_all(self, run_cli):
        done = run_cli("sync", "nothing-here", "b.test")
        assert done.returncode == 4 and "nothing-here" in done.error


class TestVariables:
    """A list that somebody else wrote learns nothing that it was not told."""

    SECRET = "hunter2"

    def sync(self, run_cli, path: Path, place: str, *words: str):
        names = {"sync": [{"source": "a.test/x:1", "target": place}]}
        write(path, json.dumps(names))
        names = ("DOCKERPUSH_PASSWORD", "AWS_SECRET_ACCESS_KEY", "HOST")
        env = dict.fromkeys(names, self.SECRET)
        return run_cli("sync", path, "--dry-run", *words, env=env)

    @pytest.mark.parametrize(
        ("name", "words", "told"),
        [
            ("AWS_SECRET_ACCESS_KEY", (), "needs --env AWS_SECRET_ACCESS_KEY"),
            ("DOCKERPUSH_PASSWORD", (), "needs --env DOCKERPUSH_PASSWORD"),
            ("AWS_SECRET_ACCESS_KEY", ("--env", "HOST"), "needs --env AWS_SECRET"),
            ("DOCKERPUSH_PASSWORD", ("--env=DOCKERPUSH_PASSWORD",), "which no list"),
            ("X", ("--env", "dockerpush_password"), "which no list may use"),
            ("X", ("--env", "A B"), "wanted the name of a variable"),
            ("X", ("--env", "X=hunter3"), "wanted the name of a variable"),
            ("X", ("--env", "X"), "is not set"),
        ],
    )
    def test_only_those_that_the_command_line_allows(
        self, name, words, told, run_cli, tmp_path
    ):
        place = f"b.test/${{{name}}}"
        done = self.sync(run_cli, tmp_path / "list.json", place, *words)
        assert (done.returncode, done.stdout) == (2, "")
        assert told in done.error
        assert self.SECRET not in done.stderr

    def test_one_that_is_allowed_is_used(self, run_cli, filled, tmp_path):
        one, two = filled
        record = {
            "hosts": {"${MIRROR}": {"tls": "disabled"}},
            "sync": [{"source": f"{one}/red:1", "target": "${MIRROR}/${TEAM}/red"}],
        }
        path = write(tmp_path / "list.json", json.dumps(record))
        words = ("--env", "MIRROR", "--env", "TEAM", "--json")
        done = run_cli("sync", path, *words, env={"MIRROR": two, "TEAM": "blue"})
        assert done.returncode == 0, done.stderr
        assert actions(done) == {"blue/red:1": "copy"}


def days_ago(days: float) -> str:
    """As docker writes it."""
    then = time.gmtime(time.time() - days * 24 * 3600)
    return time.strftime("%Y-%m-%dT%H:%M:%S.123456789Z", then)


class TestSince:
    """Images by their day of creation."""

    AGES: ClassVar = {"1.0": 400, "1.1": 100, "2.0": 20, "1.2": 1}

    @pytest.fixture
    def dated(self, pair):
        """The first registry has app with tags of these ages, in days."""
        one, two = (server.host for server in pair)
        layer = tar_of({"data": b"1" * 500})
        for tag, age in self.AGES.items():
            store(one, "app", [layer], tag, created=days_ago(age))
        return one, two

    def sync(self, run_cli, tmp_path, hosts, *options, **tags):
        one, two = hosts
        entry = {"source": f"{one}/app", "target": f"{two}/app", "tags": tags}
        path = write(tmp_path / "list.json", json.dumps({"sync": [entry]}))
        done = run_here(["sync", path, *options, "--json"], run_cli.environment())
        return done, [image["target"].rpartition(":")[2] for image in image_list(done)]

    @pytest.mark.parametrize(
        ("rules", "chosen"),
        [
            ({"since": "30d"}, ["1.2", "2.0"]),
            ({"since": "2w"}, ["1.2"]),
            ({"since": "2001-01-01"}, ["1.0", "1.1", "1.2", "2.0"]),
            ({"since": "200d", "semver": "<2"}, ["1.1", "1.2"]),
            ({"since": "200d", "newest": 2}, ["1.2", "2.0"]),
            ({"since": "30d", "semver": "1.x", "newest": 3}, ["1.2"]),
            ({"semver": ">=1.1 <2"}, ["1.1", "1.2"]),
        ],
    )
    def test_those_that_are_new_enough(self, rules, chosen, dated, run_cli, tmp_path):
        done, tags = self.sync(run_cli, tmp_path, dated, **rules)
        assert done.returncode == 0, done.stderr
        assert sorted(tags) == chosen
        assert done.json["copy"] == len(chosen)

    def test_no_image_that_is_new_is_no_failure_and_no_reason_to_prune(
        self, dated, run_cli, tmp_path
    ):
        self.sync(run_cli, tmp_path, dated, since="30d")
        done, _ = self.sync(run_cli, tmp_path, dated, "--prune", "--yes", since="1h")
        assert done.returncode == 0, done.stderr
        assert done.json["images"][0]["why"] == "no image since 1h"
        assert "warning: nothing was pruned" in done.stderr
        assert run_cli("tags", f"{dated[1]}/app").stdout.split() == ["1.2", "2.0"]

    @pytest.mark.parametrize(
        "created",
        [
            *(None, "1970-01-01T00:00:00Z", "1980-01-01T00:00:01Z"),
            *("0001-01-01T00:00:00Z", "yesterday"),
        ],
    )
    def test_an_image_without_a_date_counts_as_new(
        self, created, dated, run_cli, tmp_path
    ):
        keys = {} if created is None else {"created": created}
        store(dated[0], "app", [tar_of({"x": b"x"})], "none", **keys)
        done, tags = self.sync(run_cli, tmp_path, dated, "--dry-run", since="30d")
        assert sorted(tags) == ["1.2", "2.0", "none"]
        why = {one["target"].rpartition(":")[2]: one["why"] for one in image_list(done)}
        assert why == {"1.2": "", "2.0": "", "none": "no creation date"}

    def test_an_index_has_the_date_of_its_images(self, dated, run_cli, tmp_path):
        one, _ = dated
        for tag, of in (("multi-old", "1.0"), ("multi-new", "1.2")):
            raw = read(one, "app", of)
            child = {"mediaType": OCI_MANIFEST, "digest": digest_of(raw)}
            child |= {
                "size": len(raw),
                "platform": {"os": "linux", "architecture": "x"},
            }
            index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [child]}
            put(one, "app", tag, json.dumps(index).encode(), OCI_INDEX)
        rules = {"since": "30d", "allow": ["multi-.*"]}
        _, tags = self.sync(run_cli, tmp_path, dated, "--dry-run", **rules)
        assert tags == ["multi-new"]

    def test_with_a_number_of_tags_no_more_are_looked_at(
        self, pair, dated, run_cli, tmp_path
    ):
        one, _ = dated
        for number in range(40):
            put(one, "app", f"0.{number}", read(one, "app", "1.0"), OCI_MANIFEST)
        pair[0].seen.clear()
        rules = {"since": "30d", "newest": 1}
        done, tags = self.sync(run_cli, tmp_path, dated, "-j", "2", **rules)
        assert tags == ["2.0"]
        asked = [path for path in pair[0].seen if "/manifests/0." in path]
        assert done.returncode == 0 and len(asked) < 20

    def test_a_registry_that_cannot_be_asked_fails(self, dated, run_cli, tmp_path):
        def bend(request, honest):
            is_blob = request.method == "GET" and "/blobs/" in request.path
            return refused(403) if is_blob else honest()

        with BentServer(tmp_path / "bent", bend) as server:
            store(server.host, "app", [tar_of({"x": b"x"})], created=days_ago(1))
            hosts = (server.host, dated[1])
            done, _ = self.sync(run_cli, tmp_path, hosts, since="30d")
        assert done.returncode == 7
        assert done.json["images"][0]["action"] == "failed"

    def test_from_a_directory(self, dated, run_cli, tmp_path):
        lines = [f"{dated[0]}/app:{tag}" for tag in self.AGES]
        path = write(tmp_path / "all", *lines)
        assert run_cli("sync", path, f"oci:{tmp_path}/disk").returncode == 0
        options = ("--from", f"oci:{tmp_path}/disk")
        done, tags = self.sync(run_cli, tmp_path, dated, *options, since="30d")
        assert done.returncode == 0, done.stderr
        assert sorted(tags) == ["1.2", "2.0"]


def image_list(done) -> list[dict]:
    assert done.stdout, done.stderr
    return done.json["images"]


class TestPlans:
    def test_a_dry_run_shows_what_would_be_done_and_does_nothing(
        self, filled, run_cli, tmp_path
    ):
        one, two = filled
        run_cli("copy", f"{one}/red:1", f"{two}/red:1")
        lines = [f"{one}/{name}:1" for name in ("red", "green", "gone")]
        path = write(tmp_path / "list", *lines)
        done = run_cli("sync", path, two, "--dry-run")
        words = [line.split()[0] for line in done.stdout.splitlines()]
        assert words == ["ACTION", "skip", "copy", "missing", "1"]
        assert done.returncode == 7
        again = run_cli("sync", path, two, "--dry-run", "--json")
        assert actions(again) == {
            "red:1": "skip",
            "green:1": "copy",
            "gone:1": "missing",
        }

    def test_one_failure_stops_no_other(self, filled, run_cli, tmp_path):
        one, two = filled
        layer = json.loads(read(one, "red", "1"))["layers"][1]["digest"]
        delete(one, f"red/blobs/{layer}")
        lines = [f"{one}/{name}:1" for name in ("red", "gone", "green", "blue")]
        path = write(tmp_path / "list", *lines)
        done = run_cli("sync", path, two, "--retry-times", "0")
        assert done.returncode == 7, done.stderr
        assert "2 of 4 images failed" in done.error
        assert "2 copied, 0 unchanged, 1 missing, 1 failed" in done.stdout
        assert layer in done.stdout
        for name in ("green", "blue"):
            assert_whole(two, name, read(two, name, "1"))
        again = run_cli("sync", path, two, "--json", "--retry-times", "0")
        assert again.json["skip"] == 2 and again.json["copy"] == 0

    @pytest.mark.parametrize(
        ("rule", "code", "action"),
        [("compare", 0, "copy"), ("skip", 0, "skip"), ("error", 7, "failed")],
    )
    def test_a_tag_that_exists_with_another_image(
        self, rule, code, action, filled, run_cli, tmp_path
    ):
        one, two = filled
        run_cli("copy", f"{one}/red:1", f"{two}/green:1")
        before = read(two, "green", "1")
        path = write(tmp_path / "list", f"{one}/green:1")
        done = run_cli("sync", path, two, "--on-exists", rule, "--json")
        assert done.returncode == code, done.stderr
        assert actions(done) == {"green:1": action}
        assert (read(two, "green", "1") == before) is (rule != "compare")

    @pytest.mark.parametrize("before", [False, True])
    def test_a_tag_that_rules_give_to_two_images_gets_neither(
        self, before, filled, run_cli, tmp_path
    ):
        """A list knows only with the tags before it that two of its entries meet."""
        one, two = filled
        if before:
            assert run_cli("copy", f"{one}/blue:1", f"{two}/m:1").returncode == 0
        entries = [
            {"source": f"{one}/{name}", "target": f"{two}/m", "tags": {"allow": ["1"]}}
            for name in ("red", "green")
        ]
        entries.append({"source": f"{one}/blue:1", "target": f"{two}/blue:1"})
        path = write(
            tmp_path / "list.json", json.dumps({"version": 1, "sync": entries})
        )
        for _ in range(2):
            done = run_cli("sync", path)
            assert done.returncode == 7, done.stdout
            assert "2 of 3 images failed" in done.error
            assert f"{one}/red:1 and {one}/green:1" in done.stdout
            shown = read(two, "m", "1") if before else None
            assert run_cli("digest", f"{two}/m:1").returncode == (0 if before else 4)
            assert shown == (read(one, "blue", "1") if before else None)
            assert_whole(two, "blue", read(two, "blue", "1"))

    def test_an_image_that_two_rules_choose_is_copied_once(
        self, filled, run_cli, tmp_path
    ):
        one, two = filled
        entry = {"source": f"{one}/red", "target": f"{two}/m"}
        entries = [{**entry, "tags": {"allow": [rule]}} for rule in ("1", "[0-9]")]
        path = write(
            tmp_path / "list.json", json.dumps({"version": 1, "sync": entries})
        )
        done = run_cli("sync", path, "--json")
        assert (done.returncode, done.json["copy"]) == (0, 1), done.stderr

    def test_a_directory_holds_no_image_for_two_choices_of_platforms(
        self, pair, run_cli, tmp_path
    ):
        one = pair[0].host
        layout = Layout(tmp_path / "multi")
        names = ("amd64", "arm64")
        layout.root(layout.index(*(layout.image("linux", name) for name in names)))
        layout.send(one, "app")
        entries = [
            {
                "source": f"{one}/app",
                "tags": {"allow": [rule]},
                "platforms": [f"linux/{name}"],
            }
            for rule, name in zip(("1", "[0-9]"), names)
        ]
        path = write(
            tmp_path / "list.json", json.dumps({"version": 1, "sync": entries})
        )
        done = run_cli("sync", path, f"oci:{tmp_path / 'out'}")
        assert done.returncode == 7, done.stdout
        wanted = f"{one}/app:1 linux/amd64 and {one}/app:1 linux/arm64"
        assert wanted in done.stdout

    def test_a_host_is_the_same_in_capitals(self, filled, run_cli, tmp_path):
        one, two = filled
        port = two.rpartition(":")[2]
        lines = (
            f"{one}/red:1 localhost:{port}/m:1",
            f"{one}/green:1 LocalHost:{port}/m:1",
        )
        done = run_cli("sync", write(tmp_path / "list", *lines))
        assert done.returncode == 2
        assert "goes to the same target as line 1" in done.error

    def test_a_tag_that_moves_names_the_image_that_it_pointed_to(
        self, filled, run_cli, tmp_path
    ):
        one, two = filled
        red, green = (digest_of(read(one, name, "1")) for name in ("red", "green"))
        lines = write(tmp_path / "list", f"{one}/red:1 {two}/m:1")
        first = run_cli("sync", lines, two, "--json")
        assert first.json["images"][0]["replaced"] is None
        lines = write(tmp_path / "list", f"{one}/green:1 {two}/m:1")
        done = run_cli("sync", lines, two)
        assert f"note: {two}/m:1 pointed to {red} before\n" in done.stderr
        write(tmp_path / "list", f"{one}/red:1 {two}/m:1")
        again = run_cli("sync", lines, two, "--json")
        assert again.json["images"][0]["replaced"] == green

    def test_platforms_are_narrowed_and_unchanged_the_next_time(
        self, pair, run_cli, tmp_path
    ):
        one, two = (server.host for server in pair)
        layout = Layout(tmp_path / "multi")
        images = [layout.image("linux", name) for name in ("amd64", "arm64")]
        layout.root(layout.index(*images))
        layout.send(one, "app")
        path = write(tmp_path / "list", f"{one}/app:1")
        flags = ["--platform", "linux/arm64", "--json"]
        done = run_cli("sync", path, two, *flags)
        assert done.json["images"][0]["digest"] == images[1]["digest"]
        again = run_cli("sync", path, two, *flags)
        assert again.json["skip"] == 1 and again.json["bytes"] == 0


@pytest.mark.parametrize("shape", ["inside first", "inside last", "two inside", "deep"])
@pytest.mark.parametrize(
    "words", first(1, ["copy {one}/app:1 {two}/app:1", "sync {list} {two}"])
)
@pytest.mark.parametrize("kind", first(1, ["registry", "directory"]))
def test_an_index_may_name_what_an_index_below_it_names(
    kind, words, shape, pair, run_cli, tmp_path
):
    """A registry takes the inner index only after all that it names."""
    one, two = (server.host for server in pair)
    layout = Layout(tmp_path / "nested")
    image, second = (layout.image("linux", name) for name in ("amd64", "arm64"))
    inner = layout.index(image, second)
    children = {
        "inside first": (inner, image),
        "inside last": (second, inner),
        "two inside": (layout.index(inner, second), inner, image),
        "deep": (layout.index(layout.index(image)), inner, second),
    }
    layout.root(layout.index(*children[shape]))
    assert run_cli("push", layout.path, "-t", f"{one}/app:1").returncode == 0
    source = one
    if kind == "directory":
        taken = run_cli("copy", f"{one}/app:1", f"oci:{tmp_path / 'dir'}:{one}/app:1")
        assert taken.returncode == 0, taken.stderr
        source = "oci:" + str(tmp_path / "dir")
    lines = write(tmp_path / "list", f"{one}/app:1")
    line = words.format(one=one, two=two, list=lines).split()
    if kind == "directory" and line[0] == "sync":
        line += ["--from", source]
    elif kind == "directory":
        line[1] = f"{source}:{one}/app:1"
    done = run_cli(*line)
    assert done.returncode == 0, done.stderr
    assert read(two, "app", "1") == read(one, "app", "1")
    assert_whole(two, "app", read(two, "app", "1"))


def test_a_layer_that_images_share_is_sent_once(filled, run_cli, tmp_path):
    one, two = filled
    path = write(tmp_path / "list", *(f"{one}/{name}:1" for name in NAMES))
    done = run_cli("sync", path, two, "--json")
    blobs = {}
    for name in NAMES:
        manifest = json.loads(read(one, name, "1"))
        for blob in (manifest["config"], *manifest["layers"]):
            blobs[blob["digest"]] = blob["size"]
    assert done.json["bytes"] == sum(blobs.values())


@pytest.mark.long
def test_eight_shards_side_by_side_copy_everything_once(
    filled, shared_docker_registry, run_cli, tmp_path
):
    one, two = filled[0], shared_docker_registry.host
    raw = read(one, "red", "1")
    for number in range(40):
        put(one, "red", f"t{number}", raw, OCI_MANIFEST)
    lines = [
        f"{one}/red:t{number} {two}/shards/{number % 5}:t{number}"
        for number in range(40)
    ]
    path = write(tmp_path / "list", *lines)
    children = [
        run_cli.start(
            *("sync", path, "--json", "--shard", f"{number}/8"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for number in range(8)
    ]
    seen = []
    for child in children:
        out, err = child.communicate(timeout=120)
        assert child.returncode == 0, err.decode()
        report = json.loads(out)
        seen += [image["target"] for image in report["images"]]
        assert all(image["action"] == "copy" for image in report["images"])
    assert sorted(seen) == sorted(line.split()[1] for line in lines)
    for number in range(40):
        assert read(two, f"shards/{number % 5}", f"t{number}") == raw


def test_a_tag_that_moves_meanwhile_is_copied_as_it_was_planned(
    pair, filled, run_cli, tmp_path
):
    """The plan is made of digests, so nobody gets half of each image."""
    from test_copy import target_at

    from dockerpush.registry.client import RegistryClient
    from dockerpush.registry.transport import TransportSettings
    from dockerpush.sync.lists import Defaults, parse_lines
    from dockerpush.sync.planner import Planner
    from dockerpush.system.cancellation import Cancellation
    from dockerpush.transfer.copy_image import copy_image
    from dockerpush.transfer.engine import ConcurrencyLimits
    from dockerpush.transfer.source import RegistrySource

    one, two = filled
    planned = digest_of(read(one, "red", "1"))
    with Cancellation() as cancellation, ExitStack() as stack:
        source, target = (
            stack.enter_context(
                RegistryClient(host, TransportSettings(plain_http=True), cancellation)
            )
            for host in (one, two)
        )
        entries = parse_lines(f"{one}/red:1 {two}/red:1", "list", Defaults()).entries
        planner = Planner(
            {one: source}, {two: target}, ConcurrencyLimits(), cancellation, jobs=1
        )
        (item,) = planner.plan(entries)
        assert item.digest == planned
        run_cli("copy", f"{one}/green:1", f"{one}/red:1")
        assert digest_of(read(one, "red", "1")) != planned
        copy_image(
            RegistrySource(source, "red"),
            target_at(target, "red", cancellation),
            str(item.digest),
            tags=["1"],
        )
    assert digest_of(read(two, "red", "1")) == planned
    assert_whole(two, "red", read(two, "red", "1"))


class TestUnchangedTags:
    """Two hundred of them, over a network where every answer takes its time."""

    LATENCY = 0.03

    @pytest.fixture
    def far(self, filled, tmp_path):
        (tmp_path / "tls").mkdir()
        make_certificates(tmp_path / "tls")
        files = tuple(tmp_path / "tls" / f"server.{end}" for end in ("pem", "key"))
        slow = Fault(Effect.DELAY, times=1_000_000, seconds=self.LATENCY)
        with ExitStack() as stack:
            proxies = [
                stack.enter_context(FaultProxy(host, [slow], files)) for host in filled
            ]
            for host, repository in zip(filled, ("red", "m/red")):
                if repository != "red":
                    base = tar_of({"base": b"the same in all of them" * 500})
                    store(host, repository, [base, tar_of({"own": b"red" * 700})])
                raw = read(filled[0], "red", "1")
                for number in range(200):
                    put(host, repository, f"t{number}", raw, OCI_MANIFEST)
            yield proxies

    @pytest.mark.long
    def test_they_cost_one_look_at_each_side_and_are_five_times_as_fast_as_skopeo(
        self, far, run_cli, tmp_path
    ):
        one, two = (proxy.host for proxy in far)
        images = {"red": [f"t{number}" for number in range(200)]}
        hosts = {one: {"images": images, "tls-verify": False}}
        path = write(tmp_path / "list.yaml", json.dumps(hosts))
        started = time.monotonic()
        done = run_cli("sync", path, f"{two}/m", "--json", "--tls-verify=false")
        ours = time.monotonic() - started
        assert done.json["skip"] == 200 and done.json["bytes"] == 0, done.stderr
        for proxy in far:
            assert len(proxy.exchanges("HEAD", "manifest")) == 200
            assert len(proxy.log) <= 201  # how to speak to it is found out once
        command = [
            *("skopeo", "--insecure-policy", "sync", "--dest-tls-verify=false"),
            *("--src", "yaml", "--dest", "docker", str(path), f"{two}/m"),
        ]
        with pytest.raises(subprocess.TimeoutExpired):
            subprocess.run(command, timeout=5 * ours, capture_output=True, check=True)
