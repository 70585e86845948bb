"""What goes where: several targets, several images, several archives, one list."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from archives import Image, Layout, layout, legacy, nested, tar
from images import digest_of, docker_archive, small_archive, tar_of
from registries import read_back
from terminal import at_terminal

from dockerpush.server import Registry, RegistryServer
from dockerpush.state.directory import StateDirectory
from dockerpush.state.history import Login, PushHistory


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory):
    seen: list = []
    registry = Registry(tmp_path_factory.mktemp("embedded"))
    with RegistryServer(registry, on_request=seen.append) as server:
        server.seen = seen
        yield server


@pytest.fixture
def host(embedded) -> str:
    return embedded.host


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return small_archive(tmp_path / "image.tar")


def digest(run_cli, reference: str) -> str:
    done = run_cli("digest", reference)
    return done.stdout.strip() if done.returncode == 0 else ""


class TestAnswers:
    """What is typed at ``Push to [...]:``, where a slip must not publish anything."""

    @pytest.fixture
    def asking(self, host, run_cli, tmp_path):
        history = PushHistory(StateDirectory(run_cli.state))
        assert history.record_login(Login(host, 1000.0, "me"))
        path = docker_archive(tmp_path / "i.tar", [tar_of({"f": b"x"})], names=["a:1"])
        return ("push", path)

    @pytest.mark.parametrize("answer", ["", "y", "Y", "yes"])
    def test_yes(self, answer, asking, host, run_cli):
        with at_terminal(run_cli, *asking) as terminal:
            terminal.expect("Push to .*: ")
            terminal.type(f"{answer}\n")
            assert terminal.end() == 0
        assert f"{host}/a@sha256:" in terminal.text

    @pytest.mark.parametrize("answer", ["n", "no", "NO", "q"])
    def test_no(self, answer, asking, host, run_cli):
        with at_terminal(run_cli, *asking) as terminal:
            terminal.expect("Push to .*: ")
            terminal.type(f"{answer}\n")
            assert terminal.end() == 2
        assert "not pushed" in terminal.text

    def test_the_end_of_input(self, asking, run_cli):
        with at_terminal(run_cli, *asking) as terminal:
            terminal.expect("Push to .*: ")
            terminal.type("\x04")
            assert terminal.end() == 2
        assert "error: no answer" in terminal.text

    @pytest.mark.parametrize(
        ("answer", "target"),
        [
            ("team/app:1", "team/app:1"),
            ("team/app", "team/app:1"),
            ("app:2", "app:2"),
            ("other", "other:1"),
        ],
    )
    def test_a_name_without_a_registry_is_one_at_the_proposed(
        self, answer, target, asking, host, run_cli
    ):
        with at_terminal(run_cli, *asking, "--json") as terminal:
            terminal.expect("Push to .*: ")
            terminal.type(f"{answer}\n")
            assert terminal.end() == 0
        assert f'"target": "{host}/{target}"' in terminal.text

    @pytest.mark.parametrize("answer", ["127.0.0.1:5000", "host:5000", "a.tar"])
    def test_what_is_neither_is_asked_for_again(self, answer, asking, run_cli):
        with at_terminal(run_cli, *asking) as terminal:
            terminal.expect("Push to .*: ")
            terminal.type(f"{answer}\n")
            terminal.expect("Push to .*: ")
            terminal.type("n\n")
            assert terminal.end() == 2

    def test_with_registry_given_too(self, asking, host, run_cli):
        more = ("--registry", f"{host}/given")
        with at_terminal(run_cli, *asking, *more, "--json") as terminal:
            terminal.expect("Push to .*: ")
            terminal.type("team/app:9\n")
            assert terminal.end() == 0
        assert f'"target": "{host}/team/app:9"' in terminal.text


class TestForgottenTarget:
    @pytest.mark.parametrize("order", ["archive first", "reference first"])
    def test_a_reference_after_an_archive_is_refused(
        self, order, archive, host, run_cli
    ):
        """The first archive would go to a remembered target otherwise."""
        run_cli("push", archive, "-t", f"{host}/demo/app:1")
        before = digest(run_cli, f"{host}/demo/app:1")
        other = small_archive(archive.parent / "other.tar", salt=b"other")
        word = f"{host}/pos/h1:1"
        operands = [other, word] if order == "archive first" else [word, word]
        done = run_cli("push", *operands, "--yes")
        assert done.returncode == 2
        assert f"did you mean -t {word}?" in done.error
        assert digest(run_cli, f"{host}/demo/app:1") == before
        assert digest(run_cli, word) == ""

    @pytest.mark.parametrize("word", ["team/app", "app", "app:1"])
    def test_so_is_a_word_that_is_no_file(self, word, archive, host, run_cli):
        done = run_cli("push", archive, word, "--registry", host, "--yes")
        assert done.returncode == 2
        said = "did you mean -t" if "/" in word else "no such archive"
        assert said in done.error

    def test_all_archives_are_looked_at_before_one_is_sent(
        self, archive, embedded, run_cli, tmp_path
    ):
        two = tar(tmp_path / "two.tar", legacy(Image.of("1"), Image.of("2")))
        embedded.seen.clear()
        done = run_cli("push", archive, two, "--registry", embedded.host, "--yes")
        assert done.returncode == 2
        assert [one for one in embedded.seen if one.method != "GET"] == []


class TestSeveralTargets:
    def test_several_tags_of_one_repository(self, archive, embedded, run_cli):
        host = embedded.host
        targets = [f"{host}/several/tags:{tag}" for tag in ("1", "1.2", "latest")]
        embedded.seen.clear()
        done = run_cli("push", archive, *with_each(targets), "--json")
        assert done.returncode == 0, done.stderr
        records = [json.loads(line) for line in done.stdout.splitlines()]
        assert [one["target"] for one in records] == targets
        assert len({one["digest"] for one in records}) == 1
        assert {digest(run_cli, one) for one in targets} == {records[0]["digest"]}
        sent = [one for one in embedded.seen if one.method == "POST"]
        assert len(sent) == 4  # each blob once

    def test_several_repositories_and_registries(
        self, archive, host, docker_registry, run_cli
    ):
        targets = [
            f"{host}/several/one:1",
            f"{host}/several/two:1",
            f"{docker_registry.host}/several/one:1",
        ]
        done = run_cli("push", archive, *with_each(targets))
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert [line.partition("@")[0] for line in lines] == [
            target.rpartition(":")[0] for target in targets
        ]
        assert len({digest(run_cli, target) for target in targets}) == 1
        assert "3 mounted" in done.stderr

    @pytest.mark.parametrize("way", ["pipe", "compressed"])
    def test_from_what_is_read_once(
        self, way, archive, host, docker_registry, run_cli, tmp_path
    ):
        import gzip

        packed = tmp_path / "image.tar.gz"
        packed.write_bytes(gzip.compress(archive.read_bytes(), 1))
        targets = [
            f"{host}/{way}/one:1",
            f"{host}/{way}/one:2",
            f"{host}/{way}/two:1",
            f"{docker_registry.host}/{way}/one:1",
        ]
        source = "-" if way == "pipe" else packed
        stdin = packed if way == "pipe" else None
        done = run_cli("push", source, *with_each(targets), stdin=stdin)
        assert done.returncode == 0, done.stderr
        assert len({digest(run_cli, target) for target in targets}) == 1
        assert len(done.stdout.splitlines()) == 4

    @pytest.mark.parametrize("way", ["file", "pipe"])
    def test_one_that_fails_does_not_stop_the_others(self, way, archive, host, run_cli):
        targets = [
            f"{host}/fails/{way}:1",
            "127.0.0.1:9/a/b:1",
            f"{host}/fails/{way}:2",
        ]
        stdin = archive if way == "pipe" else None
        done = run_cli(
            *("push", "-" if stdin else archive, *with_each(targets)),
            *("--retry-times", "0"),
            stdin=stdin,
        )
        assert done.returncode == 7
        assert "1 of 3 pushes failed: 127.0.0.1:9/a/b:1" in done.error
        assert digest(run_cli, targets[0]) == digest(run_cli, targets[2]) != ""

    def test_a_pipe_whose_first_push_failed_is_not_read_again(
        self, archive, host, run_cli
    ):
        targets = ["127.0.0.1:9/a/b:1", f"{host}/late/app:1"]
        done = run_cli(
            *("push", "-", *with_each(targets), "--retry-times", "0"), stdin=archive
        )
        assert done.returncode == 7
        assert "can be read only once" in done.stderr
        assert digest(run_cli, targets[1]) == ""

    def test_none_of_several_is_remembered_as_the_last(self, archive, host, run_cli):
        targets = [f"{host}/remembered/one:1", f"{host}/remembered/two:1"]
        assert run_cli("push", archive, *with_each(targets)).returncode == 0
        history = PushHistory(StateDirectory(run_cli.state))
        assert history.destinations() == ()
        record = json.loads((run_cli.state / "push_history.json").read_text())
        assert sorted(record["confirmed"]) == [t[:-2] for t in targets]

    def test_one_that_is_written_twice_is_pushed_once(self, archive, host, run_cli):
        target = f"{host}/twice/app:1"
        done = run_cli("push", archive, "-t", target, "-t", target)
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) == 1

    def test_joined_archives(self, host, run_cli, tmp_path):
        one = docker_archive(tmp_path / "one.tar", [tar_of({"f": b"x"})])
        other = tmp_path / "other.tar"
        other.write_bytes(one.read_bytes().replace(b'"amd64"', b'"arm64"'))
        targets = [f"{host}/joined/{name}" for name in ("one:1", "one:2", "two:1")]
        done = run_cli("push", one, other, *with_each(targets), "--json")
        assert done.returncode == 0, done.stderr
        records = [json.loads(line) for line in done.stdout.splitlines()]
        assert [record["target"] for record in records] == targets
        assert len({digest(run_cli, target) for target in targets}) == 1

    def test_all_tags_into_each_repository(self, host, run_cli, tmp_path):
        names = ["x:1", "x:2"]
        path = docker_archive(tmp_path / "i.tar", [tar_of({"f": b"x"})], names=names)
        places = [f"{host}/each/one", f"{host}/each/two"]
        done = run_cli("push", "-a", path, *with_each(places))
        assert done.returncode == 0, done.stderr
        found = {digest(run_cli, f"{place}:{tag}") for place in places for tag in "12"}
        assert len(found) == 1 and "" not in found

    def test_the_digestfile_and_a_dry_run_name_each(
        self, archive, host, run_cli, tmp_path
    ):
        targets = [f"{host}/told/one:1", f"{host}/told/one:2"]
        looked = run_cli("push", archive, *with_each(targets), "--dry-run", "--json")
        assert looked.returncode == 0, looked.stderr
        records = [json.loads(line) for line in looked.stdout.splitlines()]
        assert [record["target"] for record in records] == targets
        file = tmp_path / "digests"
        done = run_cli("push", archive, *with_each(targets), "--digestfile", file)
        assert done.returncode == 0, done.stderr
        lines = file.read_text().splitlines()
        assert [line.partition(" ")[2] for line in lines] == targets


def with_each(targets) -> list[str]:
    return [word for target in targets for word in ("-t", target)]


def bare_tags(path: Path) -> Path:
    """Two images that have bare tags, as skopeo, regctl and oras write them."""
    one = layout(Image.of("one")).annotated(ref="1.0")
    two = layout(Image.of("two")).annotated(ref="1.1")
    both = Layout({**one.blobs, **two.blobs}, (*one.entries, *two.entries))
    return tar(path, both.files())


def one_path_twice(path: Path) -> Path:
    """Two images of one path and tag, from two registries."""
    one = Image.of("one", tags=("docker.io/bitnami/redis:7",))
    two = Image.of("two", tags=("quay.io/bitnami/redis:7",))
    return tar(path, legacy(one, two))


def two_platforms(path: Path) -> Path:
    """One name for two platforms, and no index."""
    images = [Image.of(x, architecture=x) for x in ("amd64", "arm64")]
    return tar(path, layout(*images).annotated(ref="1.0.0").files())


class TestNobodyReads:
    """Who stops reading the results stops no push."""

    @pytest.mark.parametrize("way", ["closed", "full"])
    @pytest.mark.parametrize("command", ["push", "copy"])
    def test_all_targets_are_served(self, command, way, host, run_cli, tmp_path):
        path = docker_archive(
            tmp_path / "i.tar", [tar_of({"f": b"x"})], names=["a:1", "a:2", "a:3"]
        )
        place = f"{host}/unread/{command}-{way}"
        words = ("push", "-a", path, "-t", place)
        if command == "copy":
            assert run_cli(*words).returncode == 0
            words = ("copy", "-a", place, f"{place}-again")
            place = f"{place}-again"
        read, write = os.pipe()
        os.close(read)
        if way == "full":
            os.dup2(os.open("/dev/full", os.O_WRONLY), write)
        child = run_cli.start(*words, "-q", stdout=write, stderr=-1)
        _, said = child.communicate(timeout=60)
        assert child.returncode == (1 if way == "full" else 141), said
        for tag in "123":
            assert digest(run_cli, f"{place}:{tag}")
        if way == "full":
            assert b"error: " in said
        os.close(write)


class TestAllTags:
    def test_bare_tags_have_no_place_below_a_registry(self, host, run_cli, tmp_path):
        path = bare_tags(tmp_path / "x.tar")
        for more in ([], ["--dry-run"], ["--json"]):
            done = run_cli("push", "-a", path, "--registry", f"{host}/v", *more)
            assert done.returncode == 2
            assert done.stdout == ""
            assert "1.0, 1.1" in done.error
        done = run_cli("push", "-a", path, "-t", f"{host}/bare/tags")
        assert done.returncode == 0, done.stderr
        assert digest(run_cli, f"{host}/bare/tags:1.1")

    @pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["push", "dry run"])
    def test_an_image_without_a_name_is_reported(self, dry, host, run_cli, tmp_path):
        images = Image.of("named", tags=("here/app:1",)), Image.of("nameless")
        path = tar(tmp_path / "x.tar", legacy(*images))
        place = f"{host}/some/dry" if dry else f"{host}/some"
        done = run_cli("push", "-a", path, "--registry", place, "--yes", *dry)
        assert done.returncode == 7
        nameless = digest_of(images[1].config)
        assert f"--name {nameless}" in done.stderr
        assert "1 of 2 pushes failed" in done.error
        assert bool(digest(run_cli, f"{place}/here/app:1")) is not bool(dry)
        picked = run_cli(
            *("push", path, "--name", nameless, "-t", f"{host}/some/picked:1")
        )
        assert picked.returncode == 0, picked.stderr

    @pytest.mark.parametrize(
        "command",
        [
            ("push", "-a", "X", "--registry", "H/mirror", "--yes"),
            ("push", "-a", "X", "-t", "H/one"),
            ("push", "-a", "X", "--registry", "H/mirror", "--dry-run"),
            ("copy", "-a", "X", "H/two"),
            ("copy", "-a", "-n", "X", "H/three"),
            ("serve", "X", "--port", "0"),
            ("push", "one.tar", "two.tar", "--registry", "H/four", "--yes"),
        ],
        ids=" ".join,
    )
    def test_two_images_never_go_to_one_target(
        self, command, embedded, run_cli, tmp_path
    ):
        path = one_path_twice(tmp_path / "x.tar")
        for name, content in (("one", b"1"), ("two", b"2")):
            layers = [tar_of({"f": content})]
            docker_archive(tmp_path / f"{name}.tar", layers, names=["some/app:7"])
        host = embedded.host
        embedded.seen.clear()
        words = {"X": str(path)}
        done = run_cli(*(words.get(w, w.replace("H/", f"{host}/")) for w in command))
        assert done.returncode == 2
        expected = ("one.tar", "two.tar")
        if "X" in command:
            expected = ("docker.io/bitnami/redis:7", "quay.io/bitnami/redis:7")
        for name in expected:
            assert name in done.error
        assert [one for one in embedded.seen if one.method != "GET"] == []

    @pytest.mark.parametrize("more", [[], ["--dry-run"]], ids=["push", "dry run"])
    def test_nor_do_two_images_of_the_cache(self, more, embedded, run_cli, tmp_path):
        names = [f"{embedded.host}/{place}/app:1" for place in ("here", "there")]
        for name, content in zip(names, (b"1", b"2")):
            layers = [tar_of({"f": content})]
            path = docker_archive(tmp_path / "x.tar", layers, names=["app:1"])
            assert run_cli("push", path, "-t", name).returncode == 0
        onto = f"{embedded.host}/onto"
        done = run_cli("push", *names, "--registry", onto, "--yes", *more)
        assert done.returncode == 2
        for name in names:
            assert f"{name} ({digest(run_cli, name)})" in done.error
        done = run_cli("push", names[0], path, "--registry", onto, "--yes", *more)
        assert done.returncode == 2
        assert f"would get both {names[0]} (" in done.error
        assert digest(run_cli, f"{onto}/app:1") == ""

    def test_the_same_image_twice_is_one(self, host, run_cli, tmp_path):
        paths = [
            docker_archive(tmp_path / f"{n}.tar", [tar_of({"f": b"x"})]) for n in "12"
        ]
        done = run_cli("push", *paths, "--registry", f"{host}/same", "--yes")
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) == 1

    @pytest.mark.parametrize(
        ("command", "count"),
        [
            (("push", "X", "-t", "H/multi/a:1.0.0"), 2),
            (("push", "X", "--name", "1.0.0", "-t", "H/multi/b:1.0.0"), 2),
            (("push", "-a", "X", "-t", "H/multi/c"), 2),
            (("copy", "-a", "X", "H/multi/d"), 2),
            (("copy", "oci-archive:X:1.0.0", "H/multi/e:1.0.0"), 2),
            (("push", "X", "-t", "H/multi/f:1.0.0", "--platform", "linux/arm64"), 1),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
    )
    def test_one_name_for_two_platforms_is_one_index(
        self, command, count, host, run_cli, tmp_path
    ):
        path = two_platforms(tmp_path / "x.tar")
        words = [w.replace("X", str(path)).replace("H/", f"{host}/") for w in command]
        done = run_cli(*words)
        assert done.returncode == 0, done.stderr
        name = next(w for w in words if w.startswith(f"{host}/"))
        reference = name if name.endswith(":1.0.0") else f"{name}:1.0.0"
        shown = run_cli("inspect", reference, "--json")
        assert len(shown.json["images"]) == count

    def test_an_index_of_the_same_name_is_never_taken_apart(
        self, host, run_cli, tmp_path
    ):
        """Joining it would lose its digest and what it says of itself."""
        whole = nested(layout(Image.of("a"), Image.of("b", architecture="arm64")))
        other = layout(Image.of("c", architecture="s390x"))
        both = Layout(
            {**whole.blobs, **other.blobs}, (*whole.entries, *other.entries)
        ).annotated(name="docker.io/t/m:1", ref="1")
        path = tar(tmp_path / "x.tar", both.files())
        done = run_cli("push", "-a", path, "--registry", f"{host}/kept", "--yes")
        assert done.returncode == 2
        for entry in both.entries:
            assert entry["digest"] in done.error
        root = whole.entries[0]["digest"]
        done = run_cli("push", path, "--name", root, "-t", f"{host}/kept/m:1")
        assert digest(run_cli, f"{host}/kept/m:1") == root

    def test_a_platform_chooses_where_names_do_not(self, host, run_cli, tmp_path):
        arms = [Image.of(x, architecture="arm64", tags=("m:1",)) for x in ("a", "b")]
        amd = Image.of("amd", tags=("m:1",))
        path = tar(tmp_path / "x.tar", legacy(*arms, amd))
        wanted = ("-t", f"{host}/chosen:1", "--platform", "linux/amd64")
        done = run_cli("push", path, *wanted)
        assert done.returncode == 0, done.stderr
        assert read_back(host, "chosen", "1").config == amd.config

    def test_a_platform_twice_is_distinguished_by_digests(
        self, host, run_cli, tmp_path
    ):
        images = [Image.of(x, tags=("app:1",)) for x in ("one", "two")]
        path = tar(tmp_path / "x.tar", legacy(*images))
        done = run_cli("push", path, "-t", f"{host}/apart/app:1", "--name", "app:1")
        assert done.returncode == 2
        for image in images:
            assert digest_of(image.config) in done.error
        named = ("--name", digest_of(images[1].config))
        done = run_cli("push", path, "-t", f"{host}/apart/app:1", *named)
        assert done.returncode == 0, done.stderr
        stored = read_back(host, "apart/app", "1")
        assert stored.config == images[1].config
