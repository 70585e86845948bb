"""``sync`` killed and repeated, with faults on the way, and with tags that move.

What was done before is not done again: neither an image nor a blob.
"""

from __future__ import annotations

import json
import random
import subprocess
import urllib.error
from collections import Counter
from pathlib import Path
from typing import Iterator, Sequence

import pytest
from conftest import Finished
from copied import assert_whole, delete, read, store, write
from faultproxy import Effect, Exchange, Fault, FaultProxy
from images import digest_of
from registries import read_back_all
from suites import first
from transfers import Gate, blobs_below, kill_at, noise_layer, sparse

from dockerpush.server import Registry, RegistryServer

PLAIN = ("--plain-http", "--src-plain-http")
NAMES = tuple(f"app{number}" for number in range(12))
BASE, OWN = 150_000, 60_000


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A dozen images, app0:1 to app11:1: a layer that all share, and an own one."""
    with RegistryServer(Registry(tmp_path_factory.mktemp("source"))) as server:
        for name in NAMES:
            layers = [noise_layer(BASE, "base"), noise_layer(OWN, name)]
            store(server.host, name, layers)
        yield server.host


def command(path: Path, source: str, target: str, *names: str) -> list[str]:
    """What copies *names* as a list says."""
    write(path, *(f"{source}/{name}:1" for name in names))
    return ["sync", str(path), target, *PLAIN]


def present(host: str, names: Sequence[str]) -> set[str]:
    """Those whose tag is there."""
    found = set()
    for name in names:
        try:
            read(host, name, "1")
        except urllib.error.HTTPError as error:
            assert error.code == 404
        else:
            found.add(name)
    return found


def stored_blobs(exchanges: Sequence[Exchange]) -> Counter[str]:
    """How often each blob was taken by the registry."""
    closed = [one.target for one in exchanges if one.status == 201]
    digests = [one.rpartition("digest=")[2] for one in closed if "digest=" in one]
    return Counter(one.replace("%3A", ":") for one in digests)


@pytest.mark.parametrize("seed", first(1, range(2)))
def test_killed_again_and_again_it_ends_complete_and_does_nothing_twice(
    seed, source, docker_registry, run_cli, tmp_path
):
    number, host = random.Random(seed), docker_registry.host
    with FaultProxy(source) as one, Gate(host) as two:
        sync = command(tmp_path / "list", one.host, two.host, *NAMES)
        for what in (("PUT", "manifest"), ("PUT", "upload")):
            stop = two.stop(*what, number.randint(2, 5))
            kill_at(stop.reached, run_cli, *sync)
            stop.drop()
            two.settle()
        before, asked = present(host, NAMES), len(one.log)
        assert 0 < len(before) < len(NAMES)
        done = run_cli(*sync, "--json")
        assert done.returncode == 0, done.stderr
        check_report(done, before)
        check_asked(one.log[asked:], before)
        check_sent(two, source)
    for name, image in read_back_all(host, NAMES, "1", tmp_path).items():
        assert image.manifest_bytes == read(source, name, "1")
        assert image.layers == image.diff_ids


def check_report(done: Finished, before: set[str]) -> None:
    """The images that were there already are unchanged, the others were copied."""
    skipped = [one for one in done.json["images"] if one["action"] == "skip"]
    assert {one["source"].split("/")[1] for one in skipped} == {
        f"{name}:1" for name in before
    }
    assert {one["why"] for one in skipped} == {"unchanged"}
    assert done.json["copy"] == len(NAMES) - len(before)


def check_asked(exchanges: Sequence[Exchange], before: set[str]) -> None:
    """Of the images that were there already, only the manifest was looked for."""
    about = [one for one in exchanges if one.target.split("/")[2] in before]
    assert Counter((one.method, one.kind) for one in about) == {
        ("HEAD", "manifest"): len(before)
    }


def check_sent(target: FaultProxy, source: str) -> None:
    """Every blob was taken once by the target, in all runs together."""
    taken = stored_blobs(target.log)
    sizes: dict[str, int] = {}
    for name in NAMES:
        sizes.update(blobs_below(source, name, "1"))
    base = digest_of(noise_layer(BASE, "base"))
    assert taken.pop(base) <= 4  # by which repository has it, a killed run did not say
    assert taken == dict.fromkeys(sizes.keys() - {base}, 1)
    assert target.sent("upload") < 1.6 * sum(sizes.values())


def test_what_failed_is_done_by_the_next_run_without_sending_a_blob_again(
    source, docker_registry, run_cli, tmp_path
):
    fault = Fault(Effect.REPLACE_REQUEST, "PUT", "manifest", nth=4, times=99)
    quick = ("--retry-times", "1", "--retry-delay", "0.01")
    with FaultProxy(docker_registry.host, [fault]) as proxy:
        sync = command(tmp_path / "list", source, proxy.host, *NAMES)
        done = run_cli(*sync, *quick)
        assert done.returncode == 7, done.stderr
        assert "9 of 12 images failed" in done.error
        assert "Traceback" not in done.stderr
        failed = [line for line in done.stdout.splitlines() if "503" in line]
        assert len(failed) == 9
        assert len(present(docker_registry.host, NAMES)) == 3
    sync = command(tmp_path / "list", source, docker_registry.host, *NAMES)
    again = run_cli(*sync, "--json")
    assert again.returncode == 0, again.stderr
    assert (again.json["copy"], again.json["skip"]) == (9, 3)
    assert again.json["bytes"] == 0


def test_a_source_that_is_down_for_a_while_fails_no_image(
    source, docker_registry, run_cli, tmp_path
):
    down = [
        Fault(Effect.REPLACE_REQUEST, "HEAD", "manifest", nth=3, times=4),
        Fault(Effect.REPLACE_REQUEST, "GET", "manifest", nth=2, times=2),
        Fault(Effect.CUT_ANSWER, "GET", "blob", nth=5, times=6, after=9_000),
    ]
    with FaultProxy(source, down) as proxy:
        sync = command(tmp_path / "list", proxy.host, docker_registry.host, *NAMES)
        done = run_cli(*sync, "--retry-times", "8", "--retry-delay", "0.01", "--json")
    assert done.returncode == 0, done.stderr
    assert done.json["copy"] == len(NAMES)
    for name in NAMES:
        assert_whole(docker_registry.host, name, read(source, name, "1"))


def test_an_image_whose_index_names_an_absent_child_fails_alone(
    source, docker_registry, run_cli, tmp_path
):
    gone = sparse(source, "sparse")
    names = ("app0", "sparse", "app1")
    sync = command(tmp_path / "list", source, docker_registry.host, *names)
    done = run_cli(*sync, "--json")
    assert done.returncode == 7, done.stderr
    (failed,) = (one for one in done.json["images"] if one["action"] == "failed")
    assert gone in failed["why"]
    assert present(docker_registry.host, names) == {"app0", "app1"}


@pytest.mark.long
def test_across_an_air_gap_it_may_be_killed_on_either_side(
    source, docker_registry, run_cli, tmp_path
):
    disk, host = f"oci:{tmp_path}/disk", docker_registry.host
    with Gate(source) as one:
        sync = command(tmp_path / "list", one.host, disk, *NAMES)[:3]
        for nth in (4, 9):
            stop = one.stop("GET", "blob", nth)
            kill_at(stop.reached, run_cli, *sync, "--src-plain-http")
            stop.drop()
            one.settle()
        done = run_cli(*sync, "--src-plain-http", "--json")
        assert done.returncode == 0, done.stderr
        blobs = {key for name in NAMES for key in blobs_below(source, name, "1")}
        # a blob that several images share may come from another one after a kill
        asked = [one.target.rpartition("/")[2] for one in one.exchanges("GET", "blob")]
        assert len(set(asked)) == len(blobs)
        assert len(asked) <= len(blobs) + 2 * 3  # as many at a time
    with Gate(host) as two:
        sync = ["sync", tmp_path / "list", "--from", disk, two.host, "--plain-http"]
        stop = two.stop("PUT", "manifest", 5)
        kill_at(stop.reached, run_cli, *sync)
        stop.drop()
        two.settle()
        before = present(host, NAMES)
        done = run_cli(*sync, "--json")
        assert done.returncode == 0, done.stderr
        check_report(done, before)
        check_sent(two, source)
    for name in NAMES:
        assert_whole(host, name, read(source, name, "1"))


class TestMovingTags:
    def test_the_digest_of_the_plan_is_copied(
        self, source, docker_registry, run_cli, tmp_path
    ):
        """The source's tag moves after the plan was made, before anything is read."""
        host = docker_registry.host
        store(source, "moving", [noise_layer(OWN, "first")])
        planned = digest_of(read(source, "moving", "1"))
        with Gate(source) as gate:
            sync = command(tmp_path / "list", gate.host, host, "moving")
            shown = run_cli(*sync, "--dry-run", "--json").json["images"][0]
            assert (shown["action"], shown["digest"]) == ("copy", planned)
            stop = gate.stop("GET", "manifest")
            with run_cli.start(*sync, "--json", stdout=subprocess.PIPE) as child:
                assert stop.reached.wait(20)
                store(source, "moving", [noise_layer(OWN, "another")])
                stop.go()
                (copied,) = json.loads(child.communicate(timeout=30)[0])["images"]
        assert (copied["action"], copied["digest"]) == ("copy", planned)
        assert digest_of(read(host, "moving", "1")) == planned
        assert_whole(host, "moving", read(host, "moving", "1"))
        again = run_cli(*command(tmp_path / "list", source, host, "moving"), "--json")
        assert again.json["images"][0]["digest"] == digest_of(
            read(source, "moving", "1")
        )
        assert digest_of(read(host, "moving", "1")) != planned

    def test_an_image_that_is_deleted_after_the_plan_is_one_failure(
        self, source, docker_registry, run_cli, tmp_path
    ):
        host = docker_registry.host
        store(source, "moving", [noise_layer(OWN, "first")])
        planned = digest_of(read(source, "moving", "1"))
        with Gate(source) as gate:
            sync = command(tmp_path / "list", gate.host, host, "moving")
            stop = gate.stop("GET", "manifest")
            pipe = subprocess.PIPE
            with run_cli.start(*sync, stdout=pipe, stderr=pipe) as child:
                assert stop.reached.wait(20)
                delete(source, f"moving/manifests/{planned}")
                stop.go()
                out, err = child.communicate(timeout=30)
        assert child.returncode == 7, err
        assert planned.encode() in out
        assert err.count(b"error: ") == 1
        assert present(host, ["moving"]) == set()
