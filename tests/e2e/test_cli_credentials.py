"""What others have stored is used by the command; Bearer tokens are fetched with it."""

from __future__ import annotations

import base64
import http.client
import json
import os
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Iterator, Mapping

import pytest
from conftest import USERS
from images import docker_archive, tar_of

from dockerpush.server import Registry, RegistryServer

PASSWORD = USERS["alice"]
AUTH = base64.b64encode(f"alice:{PASSWORD}".encode()).decode()


class TokenServer(ThreadingHTTPServer):
    """A registry of nothing, and the server of its tokens, in one."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), TokenHandler)
        self.host = f"127.0.0.1:{self.server_port}"
        self.realm = f"http://{self.host}/token"
        self.asked: list[str] = []


class TokenHandler(BaseHTTPRequestHandler):
    server: TokenServer

    def do_GET(self) -> None:
        authorization = self.headers.get("Authorization", "")
        self.server.asked.append(f"{self.path} {authorization.partition(' ')[0]}")
        if self.path.startswith("/token"):
            good = authorization == f"Basic {AUTH}"
            self.answer(200 if good else 401, b'{"token": "t0ken-of-alice"}' * good)
        elif authorization == "Bearer t0ken-of-alice":
            self.answer(200, b"{}")
        else:
            realm = f'Bearer realm="{self.server.realm}",service="tests"'
            self.answer(401, b"", realm)

    do_HEAD = do_GET

    def answer(self, status: int, body: bytes, challenge: str = "") -> None:
        self.send_response(status)
        if challenge:
            self.send_header("WWW-Authenticate", challenge)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def tokens() -> Iterator[TokenServer]:
    with TokenServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class TestBearer:
    """Login asks the token server, which is what knows the password."""

    def login(self, run_cli, host, password):
        return run_cli(
            *("login", host, "-u", "alice", "--password-stdin", "--debug"),
            stdin=password.encode(),
            env={"OCI_DEBUG": "1"},
        )

    def test_a_right_password_gets_a_token_and_is_kept(self, tokens, run_cli):
        done = self.login(run_cli, tokens.host, PASSWORD)
        assert done.returncode == 0, done.stderr
        kept = json.loads((run_cli.state / "credentials.json").read_text())
        assert kept[tokens.host]["password"] == PASSWORD
        assert any(line.startswith("/token") for line in tokens.asked)
        for secret in (PASSWORD, AUTH, "t0ken-of-alice"):
            assert secret not in done.stderr + done.stdout

    def test_a_wrong_one_is_refused(self, tokens, run_cli):
        done = self.login(run_cli, tokens.host, "wrong")
        assert done.returncode == 3
        assert not (run_cli.state / "credentials.json").exists()

    @pytest.mark.parametrize(
        "command",
        [
            ("pull", "{}/a:1"),
            ("tags", "{}/a"),
            ("digest", "{}/a:1"),
            ("inspect", "{}/a:1"),
            ("copy", "{}/a:1", "oci:TMP/directory"),
            ("copy", "{}/a:1", "TMP/image.tar"),
        ],
    )
    def test_who_only_reads_asks_for_tokens_that_allow_no_more(
        self, command, tokens, run_cli, tmp_path
    ):
        assert self.login(run_cli, tokens.host, PASSWORD).returncode == 0
        tokens.asked.clear()
        words = (
            word.format(tokens.host).replace("TMP", str(tmp_path)) for word in command
        )
        run_cli(*words)
        asked = [line for line in tokens.asked if line.startswith("/token")]
        assert asked
        for line in asked:
            query = urllib.parse.urlsplit(line.split()[0]).query
            assert urllib.parse.parse_qs(query)["scope"] == ["repository:a:pull"]


class Gate(BaseHTTPRequestHandler):
    """Lets who has a token that allows it pass to the embedded registry behind."""

    protocol_version = "HTTP/1.1"
    server: GateServer

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        if self.path.startswith("/token"):
            scopes = query.get("scope", [])
            self.server.scopes += scopes
            token = base64.urlsafe_b64encode(" ".join(scopes).encode()).decode()
            self.answer(200, json.dumps({"token": token}).encode())
        elif self.allowed(self.headers.get("Authorization", "")):
            self.pass_on(body)
        else:
            realm = f'Bearer realm="http://{self.server.host}/token",service="tests"'
            self.answer(401, b"", {"WWW-Authenticate": realm})

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def allowed(self, authorization: str) -> bool:
        scheme, _, token = authorization.partition(" ")
        if scheme != "Bearer":
            return False
        repository = self.path.split("/")[2]
        wanted = "pull" if self.command in ("GET", "HEAD") else "push"
        for scope in base64.urlsafe_b64decode(token).decode().split():
            _, name, actions = scope.split(":")
            if name == repository and wanted in actions.split(","):
                return True
        return self.path == "/v2/"

    def pass_on(self, body: bytes) -> None:
        behind = http.client.HTTPConnection(self.server.behind)
        headers = {
            name: value
            for name, value in self.headers.items()
            if name.lower() not in ("authorization", "connection")
        }
        headers["Host"] = self.server.host
        behind.request(self.command, self.path, body or None, headers)
        found = behind.getresponse()
        self.answer(found.status, found.read(), dict(found.headers))
        behind.close()

    def answer(
        self, status: int, body: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            if name.lower() not in ("connection", "date", "server"):
                self.send_header(name, value)
        if "Content-Length" not in (headers or {}):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


class GateServer(ThreadingHTTPServer):
    """*scopes* is what tokens were asked for."""

    def __init__(self, behind: str) -> None:
        super().__init__(("127.0.0.1", 0), Gate)
        self.behind = behind
        self.host = f"127.0.0.1:{self.server_port}"
        self.scopes: list[str] = []


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[GateServer]:
    with (
        RegistryServer(Registry(tmp_path / "registry")) as registry,
        GateServer(registry.host) as server,
    ):
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("second", [False, True], ids=["same", "other"])
@pytest.mark.parametrize("command", ["push", "copy", "sync"])
def test_a_source_is_only_read_and_a_target_is_written(
    command, second, gate, run_cli, tmp_path
):
    """In one registry as between two: each repository has tokens of its own."""
    archive = docker_archive(tmp_path / "a.tar", [tar_of({"f": b"f"})])
    source = f"{gate.host}/source:1"
    assert run_cli("push", archive, "-t", source).returncode == 0
    gate.scopes.clear()
    host = f"localhost:{gate.server_port}" if second else gate.host
    target = f"{host}/target:1"
    if command == "push":
        done = run_cli("push", source, "-t", target)
    elif command == "copy":
        done = run_cli("copy", source, target)
    else:
        (tmp_path / "list").write_text(f"{source} {target}\n")
        done = run_cli("sync", tmp_path / "list")
    assert done.returncode == 0, done.stderr
    assert run_cli("digest", target).returncode == 0
    asked = set(gate.scopes)
    assert {"repository:source:pull", "repository:target:pull,push"} <= asked
    assert not any("source" in scope and "push" in scope for scope in asked)


@pytest.fixture
def push(run_cli, htpasswd_registry, tmp_path):
    """Push to a/b of a registry that wants alice."""
    archive = docker_archive(tmp_path / "image.tar", [tar_of({"file": b"x"})])

    def start(*more, **options):
        return run_cli(
            *("push", archive, "-t", f"{htpasswd_registry.host}/a/b:1", *more),
            **options,
        )

    return start


class TestOthers:
    """Docker's and podman's files, as they write them."""

    @pytest.fixture
    def host(self, htpasswd_registry) -> str:
        return htpasswd_registry.host

    def write(self, path: Path, auths: dict, **more) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"auths": auths, **more}))
        return path

    def test_dockers_file_in_the_home(self, push, host, run_cli):
        self.write(run_cli.home / ".docker/config.json", {host: {"auth": AUTH}})
        assert push().returncode == 0

    def test_dockers_file_elsewhere(self, push, host, tmp_path):
        self.write(tmp_path / "docker/config.json", {f"https://{host}": {"auth": AUTH}})
        assert push(env={"DOCKER_CONFIG": str(tmp_path / "docker")}).returncode == 0

    def test_a_text_in_the_environment(self, push, host):
        text = json.dumps({"auths": {host: {"auth": AUTH}}})
        assert push(env={"DOCKER_AUTH_CONFIG": text}).returncode == 0

    def test_podmans_file_of_the_session(self, push, host, tmp_path):
        self.write(tmp_path / "run/containers/auth.json", {host: {"auth": AUTH}})
        assert push(env={"XDG_RUNTIME_DIR": str(tmp_path / "run")}).returncode == 0

    @pytest.mark.parametrize("way", ["--authfile", "REGISTRY_AUTH_FILE"])
    def test_a_file_that_is_named_shuts_out_others(
        self, way, push, host, run_cli, tmp_path
    ):
        wrong = base64.b64encode(b"alice:wrong").decode()
        self.write(run_cli.home / ".docker/config.json", {host: {"auth": wrong}})
        file = self.write(tmp_path / "auth.json", {host: {"auth": AUTH}})
        done = push(way, file) if way[0] == "-" else push(env={way: str(file)})
        assert done.returncode == 0, done.stderr
        self.write(file, {"other.example.com": {"auth": AUTH}})
        done = push(way, file) if way[0] == "-" else push(env={way: str(file)})
        assert done.returncode == 3
        assert "none were given" in done.error

    def test_the_longest_prefix_counts(self, push, host, run_cli):
        wrong = base64.b64encode(b"alice:wrong").decode()
        auths = {host: {"auth": wrong}, f"{host}/a": {"auth": AUTH}}
        self.write(run_cli.home / ".docker/config.json", auths)
        assert push().returncode == 0

    def test_those_of_another_repository_are_never_sent(self, push, host, run_cli):
        auths = {f"{host}/a/bc": {"auth": AUTH}, "127.0.0.1": {"auth": AUTH}}
        self.write(run_cli.home / ".docker/config.json", auths)
        done = push()
        assert done.returncode == 3
        assert "none were given" in done.error

    def test_our_own_come_first(self, push, host, run_cli):
        wrong = base64.b64encode(b"alice:wrong").decode()
        self.write(run_cli.home / ".docker/config.json", {host: {"auth": wrong}})
        login = ["login", host, "-u", "alice", "--password-stdin"]
        assert run_cli(*login, stdin=PASSWORD.encode()).returncode == 0
        assert push().returncode == 0

    def test_a_refusal_names_the_source(self, push, host, run_cli):
        wrong = base64.b64encode(b"alice:wrong").decode()
        file = run_cli.home / ".docker/config.json"
        self.write(file, {host: {"auth": wrong}})
        done = push()
        assert done.returncode == 3
        assert str(file) in done.error
        assert "login" in done.error

    @pytest.mark.parametrize("field", ["credsStore", "credHelpers"])
    def test_a_helper_is_asked(self, field, push, host, run_cli, tmp_path):
        answer = {"ServerURL": host, "Username": "alice", "Secret": PASSWORD}
        (tmp_path / "answer").write_text(json.dumps(answer))
        path = self.helper(tmp_path, f'cat > "{tmp_path}/given"; cat {tmp_path}/answer')
        value = "test" if field == "credsStore" else {host: "test"}
        self.write(run_cli.home / ".docker/config.json", {}, **{field: value})
        done = push("--debug", env={"PATH": path, "OCI_DEBUG": "1"})
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "given").read_text().strip() == host
        assert PASSWORD not in done.stderr

    def test_a_helper_that_fails_is_reported(self, push, run_cli, tmp_path):
        path = self.helper(tmp_path, "echo 'the keychain is locked'; exit 1")
        self.write(run_cli.home / ".docker/config.json", {}, credsStore="test")
        done = push(env={"PATH": path})
        assert done.returncode == 3
        assert "the keychain is locked" in done.stderr

    def helper(self, directory: Path, script: str) -> str:
        """A PATH with docker-credential-test on it."""
        program = directory / "helpers" / "docker-credential-test"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        return f"{program.parent}:{os.environ['PATH']}"

    def test_flags_and_environment_come_before_all(self, push, host, run_cli):
        wrong = base64.b64encode(b"alice:wrong").decode()
        self.write(run_cli.home / ".docker/config.json", {host: {"auth": wrong}})
        environment = {"DOCKERPUSH_USERNAME": "alice", "DOCKERPUSH_PASSWORD": "wrong"}
        flags = ["-u", "alice", "--password-stdin"]
        done = push(*flags, env=environment, stdin=PASSWORD.encode())
        assert done.returncode == 0, done.stderr
        environment["DOCKERPUSH_PASSWORD"] = PASSWORD
        assert push(env=environment).returncode == 0

    def test_an_archive_and_a_password_cannot_both_be_standard_input(
        self, host, run_cli
    ):
        done = run_cli(
            *("push", "-", "-t", f"{host}/a:1", "-u", "alice", "--password-stdin"),
            stdin=b"x" * 100_000,
        )
        assert done.returncode == 2
        assert "--password-file" in done.error

    def test_no_creds_uses_none(self, push, host, run_cli):
        self.write(run_cli.home / ".docker/config.json", {host: {"auth": AUTH}})
        assert push("--no-creds").returncode == 3


SEEN = {
    "--password": ("-u", "alice", "--password", "hidden"),
    "--creds": ("--creds", "alice:hidden"),
    "--registry-token": ("--registry-token", "hidden"),
    "--src-creds": ("--src-creds", "alice:hidden"),
    "--dest-creds": ("--dest-creds", "alice:hidden"),
    "--src-password": ("--src-username", "alice", "--src-password", "hidden"),
    "--dest-registry-token": ("--dest-registry-token", "hidden"),
    "--proxy": ("--proxy", "http://alice:hidden@127.0.0.1:1"),
}


ONCE = {"DOCKERPUSH_RETRY_TIMES": "0"}


@pytest.mark.parametrize("name", SEEN)
def test_a_secret_on_the_command_line_is_warned_of_once(name, run_cli):
    sided = name.startswith(("--src", "--dest"))
    copy = ("copy", "127.0.0.1:1/a:1", "127.0.0.1:1/b:1")
    words = copy if sided else ("tags", "127.0.0.1:1/a")
    done = run_cli(*words, *SEEN[name], env=ONCE)
    noted = [line for line in done.stderr.splitlines() if "process list" in line]
    assert len(noted) == 1, done.stderr
    assert noted[0].startswith(f"note: {name} can be seen in the process list; use ")
    side = name[: name.index("-", 2) + 1] if sided else "--"
    assert f"use {side}password-stdin, {side}password-file, " in noted[0]
    assert "hidden" not in done.stderr
    assert "process list" not in run_cli(*words, *SEEN[name], "-q", env=ONCE).stderr


def test_several_are_named_in_one_line(run_cli):
    words = ("copy", "127.0.0.1:1/a:1", "127.0.0.1:1/b:1")
    done = run_cli(*words, *SEEN["--src-creds"], *SEEN["--dest-creds"], env=ONCE)
    assert "note: --src-creds and --dest-creds can be seen" in done.stderr
    assert done.stderr.count("process list") == 1


ALICE = {"DOCKERPUSH_USERNAME": "alice", "DOCKERPUSH_PASSWORD": PASSWORD}


@pytest.mark.parametrize(
    ("name", "foreign"), [("localhost", True), ("127.0.0.1", False)]
)
def test_check_says_when_the_password_goes_to_another_host(
    name, foreign, tokens, run_cli
):
    tokens.realm = tokens.realm.replace("127.0.0.1", name)
    done = run_cli("check", tokens.host, "--plain-http", "--json", env=ALICE)
    assert done.returncode == 0, done.stdout
    (step,) = (one for one in done.json["steps"] if one["step"] == "authentication")
    assert (step["foreign"], step["realm"]) == (foreign, tokens.realm)
    assert ("your password goes there" in step["detail"]) is foreign


def test_check_says_that_it_does_not_go_to_a_nearer_host(tokens, run_cli):
    tokens.realm = "http://169.254.169.254/token"
    done = run_cli("check", tokens.host, "--plain-http", env=ALICE)
    assert done.returncode == 5, done.stdout
    assert "169.254.169.254, which is a link-local address" in done.stdout
