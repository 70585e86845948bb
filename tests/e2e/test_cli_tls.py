"""Trust in a registry's certificate, by every way that a user has."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from images import docker_archive, tar_of
from registries import CONFIG, TLS, make_certificates, run, running, wait_for_port


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return docker_archive(tmp_path / "image.tar", [tar_of({"file": b"x"})])


@pytest.fixture
def push(run_cli, archive):
    """Push to a repository of that host."""

    def start(host, *more, **options):
        return run_cli(
            *("push", archive, "-t", f"{host}/a/b:1", "--retry-times", "0", *more),
            **options,
        )

    return start


def trust_directory(home: Path, host: str) -> Path:
    directory = home / ".config/containers/certs.d" / host
    directory.mkdir(parents=True)
    return directory


class TestTrusted:
    def test_by_a_directory_for_the_host(self, tls_registry, push, run_cli):
        directory = trust_directory(run_cli.home, tls_registry.host)
        shutil.copy(tls_registry.authority, directory / "ca.crt")
        assert push(tls_registry.host).returncode == 0

    def test_by_a_directory_of_the_flag(self, tls_registry, push, tmp_path):
        directory = tmp_path / "certs"
        directory.mkdir()
        shutil.copy(tls_registry.authority, directory / "ca.crt")
        assert push(tls_registry.host, "--cert-dir", directory).returncode == 0

    @pytest.mark.parametrize("name", ["SSL_CERT_FILE", "DOCKERPUSH_CACERT"])
    def test_by_a_variable(self, name, tls_registry, push):
        done = push(tls_registry.host, env={name: str(tls_registry.authority)})
        assert done.returncode == 0, done.stderr

    def test_by_the_configuration_of_this_registry_alone(
        self, tls_registry, push, run_cli
    ):
        run_cli.state.mkdir()
        shutil.copy(tls_registry.authority, run_cli.state / "ca.pem")
        file = run_cli.state / "config.json"
        entry = f'{{"registries": {{"{tls_registry.host}": {{"cacert": "ca.pem"}}}}}}'
        file.write_text(entry)
        assert push(tls_registry.host).returncode == 0
        file.write_text(entry.replace(tls_registry.host, "other.example.com"))
        assert push(tls_registry.host).returncode == 5

    @pytest.mark.parametrize(
        "flags",
        [
            ["--tls-verify=false"],
            ["--tls-verify", "false"],
            ["--no-tls-verify"],
            ["--insecure"],
        ],
        ids=" ".join,
    )
    def test_or_not_looked_at(self, flags, tls_registry, push):
        assert push(tls_registry.host, *flags).returncode == 0

    def test_login_trusts_by_the_same_ways(self, docker_registry_factory, run_cli):
        registry = docker_registry_factory(users={"alice": "word"}, tls=True)
        command = ["login", registry.host, "-u", "alice", "--password-stdin"]
        done = run_cli(*command, stdin=b"word\n")
        assert done.returncode == 5
        assert "--cacert" in done.error
        done = run_cli(*command, "--cacert", registry.authority, stdin=b"word\n")
        assert done.returncode == 0, done.stderr


class TestClientCertificate:
    @pytest.fixture
    def mutual(self, tmp_path):
        """A registry that wants a certificate of its clients; its files."""
        directory = tmp_path / "mutual"
        (directory / "storage").mkdir(parents=True)
        authority = make_certificates(directory)
        extra = TLS.format(
            certificate=directory / "server.pem", key=directory / "server.key"
        ).replace("}", f', clientcas: ["{authority}"]}}')
        config, log = directory / "config.yml", directory / "log"
        config.write_text(CONFIG.format(storage=directory / "storage", extra=extra))
        make_client(directory)
        with (
            log.open("wb") as output,
            running("docker-registry", config, output) as child,
        ):
            yield f"127.0.0.1:{wait_for_port(child, log)}", directory

    def test_it_is_shown(self, mutual, push):
        host, directory = mutual
        done = push(
            *(host, "--cacert", directory / "authority.pem"),
            *("--cert", directory / "client.pem", "--key", directory / "client.key"),
        )
        assert done.returncode == 0, done.stderr

    def test_without_it_the_registry_refuses(self, mutual, push):
        host, directory = mutual
        done = push(host, "--cacert", directory / "authority.pem")
        assert done.returncode == 5
        assert len(done.error) < 400

    def test_from_the_directory_of_the_host(self, mutual, push, run_cli):
        host, directory = mutual
        trusted = trust_directory(run_cli.home, host)
        shutil.copy(directory / "authority.pem", trusted / "ca.crt")
        shutil.copy(directory / "client.pem", trusted / "client.cert")
        shutil.copy(directory / "client.key", trusted / "client.key")
        assert push(host).returncode == 0


def make_client(directory: Path) -> None:
    """client.pem and client.key, signed by the authority there."""
    request, extensions = directory / "client.csr", directory / "client.ext"
    run(
        *("openssl", "req", "-new", "-newkey", "ec", "-nodes"),
        *("-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=client"),
        *("-keyout", directory / "client.key", "-out", request),
        *("-config", "/dev/null"),
    )
    extensions.write_text("extendedKeyUsage=clientAuth\n")
    run(
        *("openssl", "x509", "-req", "-in", request, "-days", "2"),
        *("-CA", directory / "authority.pem", "-CAkey", directory / "authority.key"),
        *("-CAcreateserial", "-extfile", extensions),
        *("-out", directory / "client.pem"),
    )


class TestRefused:
    """Each failure has its own words, and says how to go on."""

    def test_an_unknown_authority(self, tls_registry, push):
        done = push(tls_registry.host)
        assert done.returncode == 5
        assert "--cacert FILE" in done.error

    def test_another_authority(self, tls_registry, push, tmp_path):
        (tmp_path / "other").mkdir()
        other = make_certificates(tmp_path / "other")
        assert push(tls_registry.host, "--cacert", other).returncode == 5

    def test_a_file_that_is_none(self, tls_registry, push, tmp_path):
        for name in ("image.tar", "missing"):
            done = push(tls_registry.host, "--cacert", tmp_path / name)
            assert done.returncode == 2
            assert "--cacert" in done.error
            assert name in done.error

    def test_tls_asked_in_plain_http(self, tls_registry, push):
        done = push(tls_registry.host, "--plain-http")
        assert done.returncode == 5
        assert re.search(r"HTTPS|--plain-http", done.error)
