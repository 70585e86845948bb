"""A push that was killed goes on in the next run, with the bytes that were missing."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Iterator

import pytest
from conftest import Command
from faultproxy import Effect, Fault, FaultProxy, Schedule
from images import MIB, docker_archive, tar_of
from registries import free_port, read_back
from suites import first
from waiting import wait_for

from dockerpush.server import Registry, RegistryServer

BIG = 8 * MIB
CHUNK = MIB
FLAGS = ("--plain-http", "--blob-chunk", str(CHUNK), "-j", "1", "--json")
QUICK = ("--retry-delay", "0.2")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small layer, then a big one; neither shrinks, so they go as they are."""
    noise = random.Random(5).randbytes
    return docker_archive(
        tmp_path_factory.mktemp("image") / "image.tar",
        [tar_of({"small": noise(700_000)}), tar_of({"big": noise(BIG)})],
    )


@pytest.fixture(scope="module")
def compressible(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One layer that becomes some 4 MiB by gzip."""
    source = random.Random(6)
    lines = b"".join(source.randbytes(48).hex().encode() for _ in range(90_000))
    return docker_archive(
        tmp_path_factory.mktemp("image") / "lines.tar", [tar_of({"lines": lines})]
    )


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[RegistryServer]:
    with RegistryServer(Registry(tmp_path / "embedded")) as server:
        yield server


def killed_inside(
    schedule: Schedule, run_cli: Command, *arguments: Any, **options: Any
) -> None:
    """Run the command until the schedule holds it, then ``kill -9``."""
    child = run_cli.start(*arguments, **FORGOTTEN, **options)
    try:
        assert schedule.held.wait(30), schedule.requests
    finally:
        child.kill()
        child.wait()


FORGOTTEN = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


@pytest.mark.parametrize("seed", first(2, range(6)))
def test_two_runs_together_send_little_more_than_the_blob(
    seed, archive, embedded, run_cli
):
    """Killed at a random byte of a random PATCH, against the embedded registry."""
    source = random.Random(seed)
    fault = Fault(
        Effect.HOLD,
        "PATCH",
        nth=source.randint(1, 6) + 1,
        after=source.randrange(1, CHUNK),
    )
    with FaultProxy(embedded.host) as proxy:
        schedule = proxy.schedule("kill/big", fault)
        push = ("push", archive, "-t", f"{proxy.host}/kill/big:1", *FLAGS)
        killed_inside(schedule, run_cli, *push)
        first = schedule.sent
        assert first > CHUNK
        done = run_cli(*push)
        assert done.returncode == 0, done.stderr
        size = sum(layer["size"] for layer in layers_of(embedded.host, "kill/big"))
        assert schedule.sent < 1.25 * size
        assert schedule.sent - first < size - CHUNK
    stored = read_back(embedded.host, "kill/big", "1")
    assert stored.layers == stored.diff_ids


def test_a_compressed_layer_continues_because_its_bytes_are_the_same(
    compressible, embedded, run_cli
):
    with FaultProxy(embedded.host) as proxy:
        schedule = proxy.schedule(
            "kill/gzip", Fault(Effect.HOLD, "PATCH", nth=3, after=500_000)
        )
        push = ("push", compressible, "-t", f"{proxy.host}/kill/gzip:1", *FLAGS)
        push = (*push, "--compress", "gzip")
        killed_inside(schedule, run_cli, *push)
        done = run_cli(*push)
        assert done.returncode == 0, done.stderr
        (layer,) = layers_of(embedded.host, "kill/gzip")
        assert 3 * MIB < layer["size"] < 6 * MIB
        assert schedule.sent < 1.25 * layer["size"]


def test_another_form_of_the_layer_means_another_session(
    compressible, embedded, run_cli
):
    with FaultProxy(embedded.host) as proxy:
        schedule = proxy.schedule(
            "kill/other", Fault(Effect.HOLD, "PATCH", nth=3, after=500_000)
        )
        push = ("push", compressible, "-t", f"{proxy.host}/kill/other:1", *FLAGS)
        push = (*push, "--compress", "gzip")
        killed_inside(schedule, run_cli, *push)
        done = run_cli(*push, "--compress", "none")
        assert done.returncode == 0, done.stderr
        opened = [one for one in schedule.requests if one.startswith("POST")]
        assert len(opened) >= 3, schedule.requests  # config, layer, and the layer anew
    stored = read_back(embedded.host, "kill/other", "1")
    assert stored.layers == stored.diff_ids


@pytest.mark.parametrize("seed", first(1, range(3)))
def test_on_docker_registry_only_the_broken_blob_starts_over(
    seed, archive, docker_registry, run_cli
):
    """Version 2.8 drops a session whose request broke (distribution#3141)."""
    source = random.Random(seed)
    fault = Fault(
        Effect.HOLD,
        "PATCH",
        nth=source.randint(1, 6) + 1,
        after=source.randrange(1, CHUNK),
    )
    with FaultProxy(docker_registry.host) as proxy:
        schedule = proxy.schedule("kill/over", fault)
        push = ("push", archive, "-t", f"{proxy.host}/kill/over:1", *FLAGS)
        killed_inside(schedule, run_cli, *push)
        first, asked = schedule.sent, len(schedule.requests)
        done = run_cli(*push)
        assert done.returncode == 0, done.stderr
        small, big = layers_of(docker_registry.host, "kill/over")
        again = schedule.requests[asked:]
        assert any(f"HEAD /v2/kill/over/blobs/{small['digest']}" in r for r in again)
        assert not any(r.startswith("PUT") and small["digest"] in r for r in again)
        assert schedule.sent - first < big["size"] + small["size"]
        assert done.json["blobs"] == {"exists": 2, "uploaded": 1}
    stored = read_back(docker_registry.host, "kill/over", "1")
    assert stored.layers == stored.diff_ids


def test_a_buffering_proxy_saves_the_session_of_docker_registry(
    archive, docker_registry, tmp_path, run_cli
):
    """nginx keeps a broken PATCH to itself, so the acknowledged chunks stay."""
    with (
        nginx(docker_registry.host, tmp_path / "nginx") as front,
        FaultProxy(front) as proxy,
    ):
        schedule = proxy.schedule(
            "kill/nginx", Fault(Effect.HOLD, "PATCH", nth=6, after=300_000)
        )
        push = ("push", archive, "-t", f"{proxy.host}/kill/nginx:1", *FLAGS)
        killed_inside(schedule, run_cli, *push)
        done = run_cli(*push)
        assert done.returncode == 0, done.stderr
        size = sum(one["size"] for one in layers_of(docker_registry.host, "kill/nginx"))
        assert schedule.sent < 1.25 * size
    stored = read_back(docker_registry.host, "kill/nginx", "1")
    assert stored.layers == stored.diff_ids


@pytest.mark.parametrize("state", ["lost", "broken"])
def test_without_its_state_the_next_run_sends_the_blob_again(
    state, archive, embedded, run_cli
):
    with FaultProxy(embedded.host) as proxy:
        schedule = proxy.schedule(
            "kill/lost", Fault(Effect.HOLD, "PATCH", nth=4, after=1)
        )
        push = ("push", archive, "-t", f"{proxy.host}/kill/lost:1", *FLAGS)
        killed_inside(schedule, run_cli, *push)
        kept = list((run_cli.state / "uploads").glob("*.json"))
        assert len(kept) == 1
        if state == "lost":
            shutil.rmtree(run_cli.state)
        else:
            kept[0].write_bytes(kept[0].read_bytes()[:-20])
        done = run_cli(*push)
        assert done.returncode == 0, done.stderr
    stored = read_back(embedded.host, "kill/lost", "1")
    assert stored.layers == stored.diff_ids


def test_a_session_file_is_private_and_goes_with_the_push(archive, embedded, run_cli):
    with FaultProxy(embedded.host) as proxy:
        schedule = proxy.schedule(
            "kill/file", Fault(Effect.HOLD, "PATCH", nth=3, after=9)
        )
        push = ("push", archive, "-t", f"{proxy.host}/kill/file:1", *FLAGS)
        killed_inside(schedule, run_cli, *push)
        (kept,) = (run_cli.state / "uploads").glob("*.json")
        assert kept.stat().st_mode & 0o777 == 0o600
        assert json.loads(kept.read_bytes())["offset"] >= CHUNK
        assert run_cli(*push).returncode == 0
        assert list((run_cli.state / "uploads").glob("*.json")) == []


def test_a_registry_that_is_restarted_in_the_middle(archive, tmp_path, run_cli):
    """The server stops inside a PATCH, and its successor goes on, in the same push."""
    storage = tmp_path / "embedded"
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(RegistryServer(Registry(storage)))
        proxy = stack.enter_context(FaultProxy(first.host))
        fault = Fault(Effect.THROTTLE, "PATCH", nth=4, rate=273066)
        schedule = proxy.schedule("kill/server", fault)
        child = run_cli.start(
            *("push", archive, "-t", f"{proxy.host}/kill/server:1", *FLAGS),
            *("--retry-delay", "1", "--retry-times", "8"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        wait_for(lambda: fault in schedule.met)
        time.sleep(0.3)
        first.stop()
        second = stack.enter_context(RegistryServer(Registry(storage)))
        proxy.upstream = second.host
        _, err = child.communicate(timeout=60)
        assert child.returncode == 0, err
        size = sum(layer["size"] for layer in layers_of(second.host, "kill/server"))
        assert schedule.sent < 1.25 * size
        stored = read_back(second.host, "kill/server", "1")
        assert stored.layers == stored.diff_ids


def layers_of(host: str, repository: str) -> list[dict[str, Any]]:
    """The layers' descriptors, as the registry itself tells."""
    return read_back(host, repository, "1").manifest["layers"]


NGINX = """\
daemon off; master_process off; pid {directory}/pid; error_log {directory}/error.log;
events {{ worker_connections 64; }}
http {{
  access_log off; client_max_body_size 0;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u;
  scgi_temp_path {directory}/s;
  server {{
    listen 127.0.0.1:{port};
    location / {{ proxy_pass http://{upstream}; proxy_set_header Host $http_host; }}
  }}
}}
"""


@contextlib.contextmanager
def nginx(upstream: str, directory: Path) -> Iterator[str]:
    """nginx as it comes, which takes a whole request before it passes it on."""
    directory.mkdir()
    port = free_port()
    config = directory / "nginx.conf"
    config.write_text(NGINX.format(directory=directory, port=port, upstream=upstream))
    child = subprocess.Popen(["nginx", "-c", config], stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: can_connect(port))
        yield f"127.0.0.1:{port}"
    finally:
        child.terminate()
        child.wait(10)


def can_connect(port: int) -> bool:
    import socket

    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False
