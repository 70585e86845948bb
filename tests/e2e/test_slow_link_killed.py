"""A push over a slow link that is killed: the next run sends what is missing."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from images import MIB, docker_archive, tar_of
from registries import read_back

from dockerpush.server import Registry, RegistryServer
from tests.bench.link import slow_link

SIZE = 36 * MIB
RATE = 1_000_000.0


@pytest.mark.long
@pytest.mark.parametrize("after", [8.0, 20.0])
def test_a_kill_costs_seconds_of_a_blob(after, tmp_path: Path, run_cli):
    """serve keeps the bytes of a request that broke, as distribution 3 does."""
    path = docker_archive(tmp_path / "i.tar", [tar_of({"noise": os.urandom(SIZE)})])
    seen: list = []
    registry = Registry(tmp_path / "registry")
    with (
        RegistryServer(registry, on_request=seen.append) as server,
        slow_link(server.host, rate=RATE, delay=0.02) as host,
    ):
        words = ("push", path, "-t", f"{host}/team/app:1", "--plain-http", "--json")
        child = run_cli.start(*words)
        time.sleep(after)
        child.kill()
        child.wait()
        done = run_cli(*words, timeout=120)
        assert done.returncode == 0, done.stderr
        assert len(read_back(server.host, "team/app", "1").layers) == 1
    told = [(one.method, one.path[-12:], one.status, one.received) for one in seen]
    assert "PATCH" in {one.method for one in seen}
    assert sum(one.received for one in seen) <= 1.1 * path.stat().st_size, told
