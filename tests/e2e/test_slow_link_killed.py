"""A push over a slow link that is killed: the next run sends what is missing."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from faultproxy import FaultProxy
from images import MIB, docker_archive, tar_of
from registries import read_back

from dockerpush.server import Registry, RegistryServer
from tests.bench.link import slow_link

SIZE = 36 * MIB
RATE = 1_000_000.0


def pushed_after_a_kill(run_cli, path: Path, proxy: FaultProxy, after: float) -> int:
    """Bytes that crossed the link until the push was killed, *after* seconds."""
    with slow_link(proxy.host, rate=RATE, delay=0.02) as host:
        words = ("push", path, "-t", f"{host}/team/app:1", "--plain-http", "--json")
        child = run_cli.start(*words)
        time.sleep(after)
        child.kill()
        child.wait()
        proxy.settle()
        before = proxy.sent()
        done = run_cli(*words, timeout=180)
        assert done.returncode == 0, done.stderr
    return before


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An image of one layer that takes 38 s over the link."""
    return docker_archive(tmp_path / "i.tar", [tar_of({"noise": os.urandom(SIZE)})])


@pytest.mark.long
@pytest.mark.parametrize("after", [8.0, 20.0])
def test_a_kill_costs_seconds_of_a_blob(after, archive, tmp_path: Path, run_cli):
    """serve keeps the bytes of a request that broke, as distribution 3 does."""
    registry = Registry(tmp_path / "registry")
    with RegistryServer(registry) as server, FaultProxy(server.host) as proxy:
        assert pushed_after_a_kill(run_cli, archive, proxy, after) > 2 * MIB
        assert proxy.exchanges("PATCH")
        assert proxy.sent() <= 1.1 * archive.stat().st_size, proxy.log
        assert len(read_back(server.host, "team/app", "1").layers) == 1


@pytest.mark.long
@pytest.mark.parametrize("after", [8.0, 20.0])
def test_a_session_that_the_registry_dropped_starts_over(
    after, archive, docker_registry, run_cli
):
    """docker-registry 2.8 drops one whose request broke, and so what it had.

    Besides, a PUT is stopped in the run that learns how slow the link is.
    """
    with FaultProxy(docker_registry.host) as proxy:
        before = pushed_after_a_kill(run_cli, archive, proxy, after)
        assert before > 2 * MIB
        size = archive.stat().st_size
        assert size <= proxy.sent() <= before + 1.6 * size, proxy.log
        stored = read_back(docker_registry.host, "team/app", "1")
        assert stored.layers == stored.diff_ids
