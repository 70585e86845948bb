"""Many pushes at once, with one state directory and one registry."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Iterator

import pytest
from conftest import Command
from faultproxy import Effect, Fault, FaultProxy
from images import MIB, digest_of, docker_archive, large_archive, small_archive, tar_of
from registries import read_back
from suites import first
from waiting import wait_for

from dockerpush.server import Registry, RegistryServer

MANY = 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    with RegistryServer(Registry(tmp_path_factory.mktemp("embedded"))) as server:
        yield server


@pytest.fixture(params=["docker-registry", "embedded"])
def host(request: pytest.FixtureRequest, server: RegistryServer) -> str:
    """One of the two registries; repositories are the tests' own."""
    if request.param == "embedded":
        return server.host
    return request.getfixturevalue("shared_docker_registry").host


def start_all(
    run_cli: Command, pushes: list[tuple[Any, ...]], **options: Any
) -> list[subprocess.Popen[bytes]]:
    """All *pushes* at the same time."""
    options.update(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return [run_cli.start("push", *words, **options) for words in pushes]


def end_all(children: list[subprocess.Popen[bytes]]) -> list[dict[str, Any]]:
    """What each of them printed as JSON, once all have succeeded."""
    records = []
    for child in children:
        out, err = child.communicate(timeout=60)
        assert child.returncode == 0, err.decode()
        assert b"Traceback" not in err
        records.append(json.loads(out.splitlines()[-1]))
    return records


def check_state(state: Path) -> None:
    """Every file is whole, nothing was set aside, no session or temp file is left."""
    for path in state.rglob("*"):
        if path.suffix == ".json":
            assert isinstance(json.loads(path.read_bytes()), dict), path
        assert path.suffix not in (".broken", ".part", ".tmp"), path
    assert list((state / "uploads").glob("*.json")) == []


def check_image(host: str, repository: str, tag: str = "1") -> list[str]:
    """What is under the tag is whole; its layers' digests when unpacked."""
    stored = read_back(host, repository, tag)
    assert stored.layers == stored.diff_ids
    return stored.layers


@pytest.mark.parametrize("many", first(1, [5, MANY]))
def test_many_pushes_of_one_image_with_one_state(many, host, tmp_path, run_cli):
    archive = small_archive(tmp_path / "image.tar")
    flags = ("--plain-http", "--json", "--blob-chunk", "64KiB", "-j", "2")
    names = [f"many/{many}/same-{number}" for number in range(many)]
    pushes = [(archive, "-t", f"{host}/{name}:1", *flags) for name in names]
    records = end_all(start_all(run_cli, pushes))
    assert len({record["digest"] for record in records}) == 1
    assert len({tuple(check_image(host, name)) for name in names[:: many // 4]}) == 1
    check_state(run_cli.state)


@pytest.mark.parametrize("many", first(1, [5, MANY]))
def test_many_pushes_of_different_images(many, server, tmp_path, run_cli):
    base = tar_of({"srv/base": os.urandom(400_000)})
    pushes, layers = [], []
    for number in range(many):
        layers.append(tar_of({"number": b"%d\n" % number * 9000}))
        path = docker_archive(tmp_path / f"{number}.tar", [base, layers[-1]])
        target = f"{server.host}/many/{many}/different-{number}:1"
        pushes.append((path, "-t", target, "--plain-http", "--json", "-j", "2"))
    records = end_all(start_all(run_cli, pushes))
    assert len({record["digest"] for record in records}) == many
    for number in range(0, many, many // 4):
        check_image(server.host, f"many/{many}/different-{number}")
    check_state(run_cli.state)
    known = (run_cli.state / "blobs.json").read_text()
    missing = [layer for layer in layers if digest_of(layer) not in known]
    assert missing == []  # no update was lost


@pytest.mark.parametrize("round_", first(1, range(3)))
def test_two_pushes_of_one_image_to_one_tag(round_, host, tmp_path, run_cli):
    """Both send the same blobs into the same repository."""
    archive = large_archive(
        tmp_path / f"{round_}.tar", [4 * MIB, 2 * MIB], compressible=False
    )
    push = (
        *(archive, "-t", f"{host}/many/tag-{round_}:1", "--plain-http", "--json"),
        *("--blob-chunk", "256KiB"),
    )
    records = end_all(start_all(run_cli, [push, push]))
    assert records[0]["digest"] == records[1]["digest"]
    check_image(host, f"many/tag-{round_}")
    check_state(run_cli.state)


@pytest.mark.parametrize("images", [1, 2])
def test_two_machines_and_one_tag_leave_one_image_whole(
    images, host, tmp_path, run_cli
):
    """Without a state in common nobody waits: both send, and the last one has it."""
    children = []
    for number in range(2):
        path = tmp_path / f"{number % images}.tar"
        if not path.exists():
            small_archive(path)
        children += start_all(
            run_cli,
            [(path, "-t", f"{host}/many/race-{images}:1", "--plain-http", "--json")],
            env={"DOCKERPUSH_STATE_DIR": str(tmp_path / f"state-{number}")},
        )
    wanted = {record["digest"] for record in end_all(children)}
    check_image(host, f"many/race-{images}")
    stored = read_back(host, f"many/race-{images}", "1")
    assert digest_of(stored.manifest_bytes) in wanted


class TestSessions:
    """An upload session belongs to the process that lives, and to nobody else."""

    @pytest.fixture
    def big(self, tmp_path: Path) -> Path:
        return large_archive(tmp_path / "big.tar", [6 * MIB], compressible=False)

    def push(self, path: Path, host: str, tag: int = 1) -> tuple[Any, ...]:
        target = f"{host}/live:{tag}"
        flags = ("--plain-http", "--json", "--blob-chunk", "1MiB")
        return (path, "-t", target, *flags)

    def test_one_that_is_used_is_not_taken(self, big, server, run_cli):
        """The first is held inside a PATCH while the second does the whole push."""
        with FaultProxy(server.host) as proxy:
            schedule = proxy.schedule(
                "live", Fault(Effect.HOLD, "PATCH", nth=3, after=500_000)
            )
            (first,) = start_all(run_cli, [self.push(big, proxy.host)])
            with ended(first):
                assert schedule.held.wait(30)
                (kept,) = (run_cli.state / "uploads").glob("*.json")
                before, asked = kept.read_bytes(), len(schedule.requests)
                end_all(start_all(run_cli, [self.push(big, proxy.host, 2)]))
                assert kept.read_bytes() == before
                session = json.loads(before)["location"].partition("?")[0]
                path = session.partition(proxy.host)[2]
                assert path
                assert not any(path in one for one in schedule.requests[asked:])
        check_image(server.host, "live", "2")

    def test_one_whose_owner_was_killed_is_taken(self, big, server, run_cli):
        with FaultProxy(server.host) as proxy:
            schedule = proxy.schedule(
                "live", Fault(Effect.HOLD, "PATCH", nth=3, after=500_000)
            )
            (first,) = start_all(run_cli, [self.push(big, proxy.host)])
            with ended(first):
                assert schedule.held.wait(30)
            asked = len(schedule.requests)
            pushes = [self.push(big, proxy.host, tag) for tag in (1, 2)]
            end_all(start_all(run_cli, pushes))
            again = [one for one in schedule.requests[asked:] if one.startswith("GET")]
            assert any("/blobs/uploads/" in one for one in again)
        check_image(server.host, "live")
        check_state(run_cli.state)

    @pytest.mark.long
    def test_one_whose_owner_is_stopped_is_not_taken(self, big, server, run_cli):
        """A stopped process (^Z) lives; when it goes on, it ends well."""
        with FaultProxy(server.host) as proxy:
            schedule = proxy.schedule(
                "live", Fault(Effect.THROTTLE, "PATCH", nth=3, rate=409600)
            )
            (first,) = start_all(run_cli, [self.push(big, proxy.host)])
            with ended(first):
                wait_for(lambda: bool(schedule.met))
                first.send_signal(signal.SIGSTOP)
                end_all(start_all(run_cli, [self.push(big, proxy.host, 2)]))
                first.send_signal(signal.SIGCONT)
                end_all([first])
        check_image(server.host, "live")
        check_state(run_cli.state)


IMPATIENT = """\
import dockerpush.cli.choose_target as module
module.HEARTBEAT_INTERVAL, module.HEARTBEAT_TIMEOUT = 0.2, 2.0
"""


class TestOneTag:
    """Pushes to one tag go one after the other, as long as the first one lives."""

    @pytest.fixture
    def impatient(self, tmp_path: Path) -> dict[str, str]:
        place = tmp_path / "customized"
        place.mkdir()
        (place / "sitecustomize.py").write_text(IMPATIENT)
        return {"PYTHONPATH": str(place)}

    def start(self, run_cli: Command, path: Path, host: str, env: dict[str, str]):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        flags = ("-t", f"{host}/turn:1", "--plain-http", "--json")
        return run_cli.start("push", path, *flags, env=env, **pipes)

    def test_a_live_one_is_waited_for(self, server, tmp_path, impatient, run_cli):
        archive = small_archive(tmp_path / "image.tar")
        with FaultProxy(server.host) as proxy:
            proxy.schedule("turn", Fault(Effect.DELAY, "PUT", "manifest", seconds=2.5))
            first = self.start(run_cli, archive, proxy.host, impatient)
            with ended(first):
                wait_for(lambda: bool(proxy.schedules["turn"].met))
                second = self.start(run_cli, archive, proxy.host, impatient)
                with ended(second):
                    time.sleep(1.5)
                    assert second.poll() is None
                    end_all([first, second])
        check_image(server.host, "turn")

    @pytest.mark.long
    def test_a_dead_one_that_left_its_lock_is_not(
        self, server, tmp_path, impatient, run_cli
    ):
        """As on NFS, when the machine that held it is gone: no sign of life."""
        archive = small_archive(tmp_path / "image.tar")
        with FaultProxy(server.host) as proxy:
            schedule = proxy.schedule(
                "turn", Fault(Effect.HOLD_ANSWER, "PUT", "manifest")
            )
            first = self.start(run_cli, archive, proxy.host, impatient)
            with ended(first):
                assert schedule.held.wait(30)
                first.send_signal(signal.SIGSTOP)
                started = time.monotonic()
                second = self.start(run_cli, archive, proxy.host, impatient)
                with ended(second):
                    _, said = second.communicate(timeout=30)
        assert second.returncode == 0, said
        assert b"no sign of life" in said
        assert time.monotonic() - started < 15
        check_image(server.host, "turn")


def test_what_one_has_finished_is_used_by_the_other(server, tmp_path, run_cli):
    """Another image with the same layers: nothing is compressed or sent again."""
    layers = [tar_of({"base": b"".join(b"%d\n" % n for n in range(90_000))})]
    first = docker_archive(tmp_path / "first.tar", layers)
    second = docker_archive(tmp_path / "second.tar", [*layers, tar_of({"top": b"2"})])
    flags = ("--plain-http", "--json")
    run_cli("push", first, "-t", f"{server.host}/used/first:1", *flags)
    done = run_cli("push", second, "-t", f"{server.host}/used/second:1", *flags)
    assert done.returncode == 0, done.stderr
    assert done.json["blobs"] == {"mounted": 1, "uploaded": 2}
    check_image(server.host, "used/second")


@contextlib.contextmanager
def ended(child: subprocess.Popen[bytes]) -> Iterator[None]:
    """*child* is killed at the end, if it still runs, and its pipes are closed."""
    try:
        yield
    finally:
        child.kill()
        child.wait()
        for pipe in (child.stdout, child.stderr):
            if pipe is not None:
                pipe.close()
