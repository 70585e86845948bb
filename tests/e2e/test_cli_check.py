"""``check`` against real registries: what it reports, and that it leaves nothing."""

from __future__ import annotations

import json
import re
import socket

import pytest
from conftest import USERS
from images import small_archive

from dockerpush.server import Registry, RegistryServer

STEPS = [
    *("proxy", "name", "TLS", "credentials", "API", "authentication"),
    *("pull", "push", "chunks", "round trip"),
]
ALICE = {"DOCKERPUSH_USERNAME": "alice", "DOCKERPUSH_PASSWORD": USERS["alice"]}


def steps(done) -> dict[str, dict]:
    return {step["step"]: step for step in done.json["steps"]}


def results(done) -> list[str]:
    return [step["result"] for step in done.json["steps"]]


class TestSuccess:
    def test_every_step_is_a_line_for_people(self, docker_registry, run_cli):
        done = run_cli("check", f"{docker_registry.host}/team/app")
        assert done.returncode == 0, done.stderr
        assert re.findall(r"^(\S+(?: \S+)?) +ok ", done.stdout, re.M) == STEPS
        assert "reached directly" in done.stdout
        assert "registry/2.0" in done.stdout
        assert re.search(r"round trip +ok +[\d.]+ ms", done.stdout)

    def test_and_a_record_for_scripts(self, docker_registry, run_cli):
        done = run_cli("check", f"{docker_registry.host}/team/app", "--json")
        assert done.json["ok"] is True
        assert done.json["target"] == f"{docker_registry.host}/team/app"
        assert list(steps(done)) == STEPS
        assert steps(done)["name"]["addresses"] == ["127.0.0.1"]
        assert steps(done)["authentication"]["scheme"] is None

    def test_it_leaves_no_upload_and_no_repository(self, docker_registry, run_cli):
        run_cli("check", f"{docker_registry.host}/left/over")
        asked = [
            (request.method, request.status) for request in docker_registry.requests()
        ]
        assert ("POST", 202) in asked
        assert ("DELETE", 204) in asked
        # distribution 2.8 itself forgets the state of its hash there
        files = docker_registry.storage.rglob("_uploads/*/*")
        assert [path.name for path in files if path.is_file()] == []

    def test_it_says_what_the_tag_is(self, docker_registry, run_cli, tmp_path):
        archive = small_archive(tmp_path / "i.tar")
        target = f"{docker_registry.host}/team/app:7"
        digest = run_cli("push", archive, "-t", target, "--json").json["digest"]
        done = run_cli("check", target, "--json")
        assert digest in steps(done)["pull"]["detail"]

    def test_basic_and_where_the_credentials_are_from(self, htpasswd_registry, run_cli):
        done = run_cli(
            "check", f"{htpasswd_registry.host}/a", "--json", "--debug", env=ALICE
        )
        assert done.returncode == 0, done.stderr
        assert steps(done)["authentication"]["scheme"] == "basic"
        assert steps(done)["credentials"]["source"] == "DOCKERPUSH_USERNAME"
        assert USERS["alice"] not in done.stdout + done.stderr

    def test_tls_and_who_issued_it(self, tls_registry, run_cli):
        done = run_cli(
            *("check", f"{tls_registry.host}/a", "--json"),
            *("--cacert", tls_registry.authority),
        )
        assert done.returncode == 0, done.stderr
        step = steps(done)["TLS"]
        assert step["issuer"] == "Tests"
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", step["expires"])
        assert step["detail"].startswith("TLSv1.")

    def test_tls_that_is_not_verified_says_so(self, tls_registry, run_cli):
        done = run_cli("check", f"{tls_registry.host}/a", "--no-tls-verify", "--json")
        assert done.returncode == 0, done.stderr
        assert "not verified" in steps(done)["TLS"]["detail"]


class TestFailure:
    """The first failure decides the exit code; what follows it is not tried."""

    def check(self, done, code, failed):
        assert done.returncode == code, done.stderr
        assert done.error.startswith("error: ")
        assert done.json["ok"] is False
        position = STEPS.index(failed)
        assert results(done)[:position] == ["ok"] * position
        assert results(done)[position] == "failed"
        assert set(results(done)[position + 1 :]) == {"not tried"}

    def test_a_name_that_nobody_knows(self, run_cli):
        done = run_cli("check", "nosuch.invalid/a", "--json", "--retry-times", "0")
        self.check(done, 5, "name")
        assert "nosuch.invalid" in done.error

    def test_a_closed_port(self, run_cli):
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            host = f"127.0.0.1:{sock.getsockname()[1]}"
            done = run_cli("check", f"{host}/a", "--json", "--retry-times", "0")
        self.check(done, 5, "TLS")

    def test_a_certificate_that_nobody_knows(self, tls_registry, run_cli):
        done = run_cli("check", f"{tls_registry.host}/a", "--json")
        self.check(done, 5, "TLS")
        assert "--cacert" in done.error

    def test_a_wrong_password(self, htpasswd_registry, run_cli):
        wrong = {**ALICE, "DOCKERPUSH_PASSWORD": "wrong"}
        done = run_cli("check", f"{htpasswd_registry.host}/a", "--json", env=wrong)
        self.check(done, 3, "API")

    def test_no_right_to_push(self, run_cli, tmp_path):
        registry = Registry(tmp_path / "stored", read_only=True)
        with RegistryServer(registry) as server:
            done = run_cli("check", f"{server.host}/a", "--json")
        assert done.returncode != 0
        assert steps(done)["pull"]["result"] == "ok"
        assert steps(done)["push"]["result"] == "failed"

    @pytest.mark.parametrize("target", ["UPPER/a/B", "host:1/", "", "docker://"])
    def test_a_target_that_cannot_be(self, target, run_cli):
        done = run_cli("check", target)
        assert done.returncode == 2
        assert done.stdout == ""

    def test_the_error_stands_on_stderr_and_the_table_on_stdout(self, run_cli):
        done = run_cli("check", "nosuch.invalid/a", "--retry-times", "0")
        assert json.dumps(done.stdout).count("not tried") == len(STEPS) - 2
        assert done.error.startswith("error: ")
