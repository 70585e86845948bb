"""Pushes through a real proxy, tinyproxy: HTTP, HTTPS in a tunnel, passwords."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

import pytest
from images import docker_archive, tar_of
from registries import free_port, read_back

from dockerpush.server import Registry, RegistryServer

pytestmark = pytest.mark.skipif(
    shutil.which("tinyproxy") is None, reason="tinyproxy is not installed"
)

CONFIG = """\
Port {port}
Listen 127.0.0.1
Timeout 60
MaxClients 20
LogFile "{log}"
LogLevel Connect
PidFile "{log}.pid"
{more}
"""
USER = "BasicAuth gate s3cret-of-the-gate"


@dataclass(frozen=True)
class TinyProxy:
    """A running proxy."""

    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def url_for(self, user: str) -> str:
        return f"http://{user}@127.0.0.1:{self.port}"

    def requests(self) -> list[str]:
        lines = self.log.read_text().splitlines()
        return [line.partition("): ")[2] for line in lines if "Request (file" in line]


@contextlib.contextmanager
def tinyproxy(directory: Path, more: str = "") -> Iterator[TinyProxy]:
    directory.mkdir()
    port = free_port()
    log, config = directory / "log", directory / "config"
    config.write_text(CONFIG.format(port=port, log=log, more=more))
    child = subprocess.Popen(["tinyproxy", "-d", "-c", config])
    try:
        wait_for(port)
        yield TinyProxy(port, log)
    finally:
        child.terminate()
        child.wait(10)


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[TinyProxy]:
    with tinyproxy(tmp_path / "proxy") as one:
        yield one


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[TinyProxy]:
    """A proxy that wants a password."""
    with tinyproxy(tmp_path / "gate", USER) as one:
        yield one


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return docker_archive(tmp_path / "image.tar", [tar_of({"file": b"x" * 200_000})])


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[str]:
    """The host of a plain HTTP registry that is reached through a proxy.

    A name that /etc/hosts gives to this machine, and that does not look like it: what
    is reached directly is told by the name alone.
    """
    for name in (socket.gethostname(), "ip6-localhost", "vm"):
        with contextlib.suppress(OSError):
            address = socket.getaddrinfo(name, 80)[0][4][0]
            if address == "::1" or address.startswith("127."):
                break
    else:
        pytest.skip("this machine has no name of its own on the loopback interface")
    with RegistryServer(Registry(tmp_path / "stored"), address) as server:
        yield f"{name}:{server.host.rpartition(':')[2]}"


class TestTunnel:
    """HTTPS goes through CONNECT."""

    def push(self, run_cli, registry, archive, *more, **options):
        return run_cli(
            *("push", archive, "-t", f"{registry.host}/through/app:1"),
            *("--cacert", registry.authority, "--retry-times", "0", *more),
            **options,
        )

    def test_everything_goes_through_the_proxy(
        self, proxy, tls_registry, archive, run_cli
    ):
        done = self.push(run_cli, tls_registry, archive, "--proxy", proxy.url)
        assert done.returncode == 0, done.stderr
        requests = proxy.requests()
        assert requests
        assert all(line.startswith("CONNECT 127.0.0.1:") for line in requests)
        assert read_back(tls_registry.host, "through/app", "1").layers

    def test_with_a_password(self, gate, tls_registry, archive, run_cli):
        done = self.push(
            *(run_cli, tls_registry, archive, "--debug"),
            *("--proxy", gate.url_for("gate:s3cret-of-the-gate")),
            env={"OCI_DEBUG": "1"},
        )
        assert done.returncode == 0, done.stderr
        assert "s3cret-of-the-gate" not in done.stderr

    def test_without_one_the_proxy_is_named(self, gate, tls_registry, archive, run_cli):
        done = self.push(run_cli, tls_registry, archive, "--proxy", gate.url)
        assert done.returncode == 5
        assert f"127.0.0.1:{gate.port}" in done.error
        assert "407" in done.error or "password" in done.error

    def test_a_wrong_one_is_not_shown(self, gate, tls_registry, archive, run_cli):
        wrong = gate.url_for("gate:wrong-secret")
        done = self.push(run_cli, tls_registry, archive, "--proxy", wrong)
        assert done.returncode == 5
        assert "wrong-secret" not in done.stderr

    def test_a_port_that_the_proxy_forbids(
        self, tmp_path, tls_registry, archive, run_cli
    ):
        with tinyproxy(tmp_path / "strict", "ConnectPort 443") as strict:
            done = self.push(run_cli, tls_registry, archive, "--proxy", strict.url)
        assert done.returncode == 5
        assert "proxy" in done.error
        assert "403" in done.error or "forbids" in done.error

    def test_no_proxy_goes_around_it(self, proxy, tls_registry, archive, run_cli):
        done = self.push(
            *(run_cli, tls_registry, archive, "--proxy", proxy.url),
            *("--no-proxy", "127.0.0.0/8"),
        )
        assert done.returncode == 0, done.stderr
        assert proxy.requests() == []

    def test_this_machine_is_reached_directly(
        self, proxy, tls_registry, archive, run_cli
    ):
        done = self.push(
            *(run_cli, tls_registry, archive), env={"HTTPS_PROXY": proxy.url}
        )
        assert done.returncode == 0, done.stderr
        assert proxy.requests() == []

    def test_check_looks_through_the_tunnel(self, gate, tls_registry, run_cli):
        done = run_cli(
            *("check", f"{tls_registry.host}/a", "--cacert", tls_registry.authority),
            *("--proxy", gate.url_for("gate:s3cret-of-the-gate"), "--json"),
        )
        assert done.returncode == 0, done.stderr
        steps = {step["step"]: step for step in done.json["steps"]}
        assert steps["proxy"]["proxy"] == gate.url
        assert steps["TLS"]["issuer"] == "Tests"
        assert "s3cret" not in done.stdout


class TestPlain:
    """Plain HTTP is forwarded, request by request; the variables say so."""

    def push(self, run_cli, host, archive, **environment):
        return run_cli(
            *("push", archive, "-t", f"{host}/plain/app:1", "--plain-http"),
            *("--retry-times", "0"),
            env=environment,
        )

    @pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "ALL_PROXY"])
    def test_the_variables_count(self, variable, proxy, elsewhere, archive, run_cli):
        done = self.push(run_cli, elsewhere, archive, **{variable: proxy.url})
        assert done.returncode == 0, done.stderr
        assert any("/v2/plain/app/blobs" in line for line in proxy.requests())

    def test_a_password_in_the_variable(self, gate, elsewhere, archive, run_cli):
        url = gate.url_for("gate:s3cret-of-the-gate")
        done = self.push(run_cli, elsewhere, archive, http_proxy=url, OCI_DEBUG="1")
        assert done.returncode == 0, done.stderr
        assert "s3cret" not in done.stderr

    def test_a_missing_one_is_explained(self, gate, elsewhere, archive, run_cli):
        done = self.push(run_cli, elsewhere, archive, http_proxy=gate.url)
        assert done.returncode == 5
        assert "proxy" in done.error
        assert "password" in done.error

    def test_no_proxy_with_the_port(self, proxy, elsewhere, archive, run_cli):
        done = self.push(
            *(run_cli, elsewhere, archive), http_proxy=proxy.url, NO_PROXY=elsewhere
        )
        assert done.returncode == 0, done.stderr
        assert proxy.requests() == []

    def test_a_proxy_that_is_not_there(self, elsewhere, archive, run_cli):
        done = self.push(run_cli, elsewhere, archive, http_proxy="http://127.0.0.1:9")
        assert done.returncode == 5
        assert "127.0.0.1:9" in done.error

    def test_a_socks_proxy_is_refused(self, elsewhere, archive, run_cli):
        done = self.push(run_cli, elsewhere, archive, http_proxy="socks5://127.0.0.1:9")
        assert done.returncode == 2
        assert "SOCKS" in done.error
