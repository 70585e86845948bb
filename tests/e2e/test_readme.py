"""The README is true: its commands run, and print what it shows."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import struct
import subprocess
import sys
import threading
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Callable, Iterator

import pytest
import readme
from bent import BentServer, refused
from images import docker_archive, small_archive, tar_of
from multiplatform import finish, write_image, write_index
from registries import free_port, make_certificates

import dockerpush
from dockerpush.cli.main import COMMANDS, WITHOUT_OPTIONS, _parsed, build_parser
from dockerpush.server import Registry, RegistryServer
from dockerpush.server.users import put_user
from dockerpush.settings.keys import KEYS

ROOT = Path(__file__).parents[2]
OURS, THEIRS, MEDIA = "registry.example.com", "ghcr.io", "/media"
ALICE = "alice"

AT_A_TERMINAL = "Log in, save, push"
PLAYED_BY_RECIPES = {"cron", "ini"}
RUN_BY_RECIPES = ("push-image:", "- name: Push the image", "failed=\n")
NOT_RUN = {
    "python3 -m venv ~/.venvs/dockerpush": "installs; test_pyz builds and installs",
    "for i in 1 2 3 4 5 6 7 8; do": "test_cli_sync runs shards",
    "dockerpush sync images.txt registry.example.com/mirror --report": (
        "test_cli_sync_report retries"
    ),
    "helm template shop ./chart": "test_trip goes there twice",
    "dockerpush verify /media/one/trip.oci.001": "test_trip does so on the other side",
    "apiVersion: batch/v1": "Kubernetes",
    "dockerpush serve --dir registry": "serves until a signal; test_cli_serve runs it",
    "dockerpush completion bash": "test_cli_completion sources it",
    "# skopeo.yaml": "a list without a command",
}
"""Blocks whose commands are only parsed, by their first words, and why."""


def examples() -> list[str]:
    """The Python blocks, in their order."""
    return [block.text for block in readme.blocks("python")]


def test_there_are_five_python_examples_at_least():
    assert len(examples()) >= 5


@pytest.mark.parametrize("number", range(len(examples())))
def test_an_example_runs_as_it_stands_there(number, tmp_path):
    small_archive(tmp_path / "image.tar")
    with RegistryServer(Registry(tmp_path / "registry")) as server:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", examples()[number]],
            cwd=tmp_path,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(ROOT),
                "HOME": str(tmp_path / "home"),
                "TMPDIR": os.environ["TMPDIR"],
                "REGISTRY": server.host,
            },
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


class TestCommands:
    """Every command line of the README is one that the program understands."""

    @pytest.mark.parametrize("line", sorted(set(readme.command_lines())))
    def test_the_parser_takes_it(self, line):
        for words in readme.arguments(line):
            if not words or words[0] in (*WITHOUT_OPTIONS, "COMMAND"):
                continue
            assert words[0] in COMMANDS or words[0].startswith("-"), line
            try:
                args = _parsed(build_parser(), words)
            except SystemExit as end:
                assert end.code == 0, line
            else:
                assert args.command == words[0]

    def test_each_command_is_in_it(self):
        known = {
            word
            for line in readme.command_lines()
            for words in readme.arguments(line)
            for word in words[:1]
        }
        assert set(COMMANDS) - known <= {"logout"}

    def test_each_block_is_run_or_there_is_a_reason(self):
        for block in readme.blocks():
            played = block.kind in ("console", "python", *PLAYED_BY_RECIPES)
            known = block.text.startswith((*RUN_BY_RECIPES, *NOT_RUN))
            assert played or known or "dockerpush " not in block.text, block


def write_program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


class World:
    """The machine, the registries and the files that the README speaks of."""

    def __init__(self, directory: Path, ours: str, theirs: str) -> None:
        self.folder = directory / "folder"
        self._bin = directory / "bin"
        self._temporary = directory / "temporary"
        self._real = {
            OURS: ours,
            THEIRS: theirs,
            MEDIA: str(directory / "media"),
        }
        for path in (self.folder, self._bin, directory / "media"):
            path.mkdir()
        self._home = directory / "home"
        self._write_files()
        self._write_programs()

    def _write_files(self) -> None:
        layers = [tar_of({"etc/motd": b"hello\n"}), tar_of({"srv/zeros": bytes(10**6)})]
        archive = docker_archive(self.folder / "image.tar", layers, names=["app:1"])
        subprocess.run(["gzip", "-k", archive], check=True)
        for block in readme.blocks("text"):
            if block.heading == "Mirror a list":
                (self.folder / "images.txt").write_text(self.real(block.text))
        manifest = (
            "apiVersion: v1\nkind: Pod\nspec:\n  containers:\n"
            f"  - image: {OURS}/team/app:2\n  - image: {OURS}/team/app:1\n"
        )
        (self.folder / "deployment.yaml").write_text(self.real(manifest))
        (self.folder / "compose.yaml").write_text("services: {}\n")
        (self.folder / "password").write_text("secret\n")

    def _write_programs(self) -> None:
        for name, module in (("python3", ""), ("dockerpush", " -m dockerpush")):
            write_program(self._bin / name, f'exec {sys.executable}{module} "$@"')
        write_program(self._bin / "helm", "cat deployment.yaml")
        write_program(
            self._bin / "docker",
            "case $1 in load) cat >/dev/null; echo 'Loaded image: app:1';;\n"
            "save) cat image.tar;; *) echo '[]';; esac",
        )

    def real(self, text: str) -> str:
        """*text* with the names that these places have here."""
        for name, here in self._real.items():
            text = text.replace(name, here)
        return text

    def shown(self, text: str) -> str:
        """*text* with the names that these places have in the README."""
        for name, here in self._real.items():
            text = text.replace(here, name)
        return text

    def run(self, command: str) -> tuple[int, str]:
        """The exit code of *command*, and what it prints on both streams."""
        with (self.folder / "password").open("rb") as password:
            done = subprocess.run(
                ["bash", "-o", "pipefail", "-c", self.real(command)],
                env={
                    "PATH": f"{self._bin}:/usr/bin:/bin",
                    "HOME": str(self._home),
                    "TMPDIR": str(self._temporary),
                    "LC_ALL": "C.UTF-8",
                    "PYTHONPATH": str(ROOT),
                },
                cwd=self.folder,
                stdin=password,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=60,
            )
        return done.returncode, self.shown(done.stdout)


def fill(host: str, directory: Path) -> None:
    """What the README takes from another registry."""
    images = [write_image(directory / "multi", name) for name in ("amd64", "arm64")]
    finish(directory / "multi", write_index(directory / "multi", images))
    dockerpush.push(directory / "multi", f"{host}/team/app:1.4")
    small_archive(directory / "alpine.tar")
    dockerpush.push(directory / "alpine.tar", f"{host}/library/alpine:3.20")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        ours, theirs = (
            stack.enter_context(RegistryServer(Registry(tmp_path / name))).host
            for name in ("ours", "theirs")
        )
        fill(theirs, tmp_path)
        yield World(tmp_path, ours, theirs)


def test_the_commands_print_what_the_readme_shows(world):
    """All of them in their order, as somebody who types them from top to bottom."""
    for block in readme.blocks("console"):
        for step in readme.steps(block.text):
            if block.heading == AT_A_TERMINAL:
                continue  # test_cli_recipes
            code, printed = world.run(step.command)
            assert code == 0, (step.command, printed)
            assert re.fullmatch(readme.pattern_of(step.shown), printed), (
                f"{step.command}\nREADME:\n{step.shown}\nprinted:\n{printed}"
            )


def messages() -> list[str]:
    """The messages in the table of troubleshooting."""
    section = re.split(r"^## ", readme.README.read_text(), flags=re.M)
    (table,) = (text for text in section if text.startswith("Troubleshooting"))
    return re.findall(r"^\| `([^`]+)`", table, re.M)


def settings_table() -> str:
    """What the README says of the settings."""
    rows = [
        ("key", "flag", "environment", "default", "meaning"),
        ("---",) * 5,
        *(
            (
                f"`{key.name}`",
                f"`{key.flag}`" if key.flag else "",
                f"`{key.variable}`",
                key.shown(key.default),
                key.help,
            )
            for key in KEYS
        ),
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def test_the_table_of_settings_is_the_programs():
    assert settings_table() in readme.README.read_text()


class Refuses(BaseHTTPRequestHandler):
    """A proxy that allows nothing."""

    def do_CONNECT(self) -> None:
        self.send_error(403)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


class Place:
    """Where the failures of the table come from; each method gives a command line."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory, self._stack = directory, stack
        self.archive = small_archive(directory / "image.tar")

    def serving(self, **options) -> RegistryServer:
        registry = Registry(self._directory / "registry")
        return self._stack.enter_context(RegistryServer(registry, **options))

    def listening(self) -> socket.socket:
        return self._stack.enter_context(socket.create_server(("127.0.0.1", 0)))

    def _push(self, target: str, *options: object) -> tuple[object, ...]:
        return ("push", self.archive, "-t", target, "--retry-times", "0", *options)

    def _refusing_uploads(self, status: int) -> tuple[object, ...]:
        uploads = lambda request: request.method in ("POST", "PATCH", "PUT")  # noqa: E731
        server = self._stack.enter_context(
            BentServer(
                self._directory / "bent",
                lambda request, honest: (
                    refused(status, "DENIED") if uploads(request) else honest()
                ),
            )
        )
        return self._push(f"{server.host}/team/app:1")

    def unauthorized(self) -> tuple[object, ...]:
        users = self._directory / "users.json"
        put_user(users, ALICE, b"correct horse")
        return self._push(f"{self.serving(users=users).host}/team/app:1")

    def forbidden(self) -> tuple[object, ...]:
        return self._refusing_uploads(403)

    def too_large(self) -> tuple[object, ...]:
        return self._refusing_uploads(413)

    def unknown_repository(self) -> tuple[object, ...]:
        return ("pull", f"{self.serving().host}/team/nothing:1")

    def unknown_tag(self) -> tuple[object, ...]:
        host = self.serving().host
        dockerpush.push(self.archive, f"{host}/team/app:1")
        return ("pull", f"{host}/team/app:2")

    def other_platform(self) -> tuple[object, ...]:
        host = self.serving().host
        dockerpush.push(self.archive, f"{host}/team/app:1")
        return ("pull", f"{host}/team/app:1", "--platform", "linux/arm64")

    def _tls(self) -> str:
        make_certificates(self._directory)
        names = ("server.pem", "server.key")
        certificate, key = (self._directory / name for name in names)
        return self.serving(tls=(certificate, key)).host

    def unknown_authority(self) -> tuple[object, ...]:
        return self._push(f"{self._tls()}/team/app:1", "--tls-verify=true")

    def plain_http_to_tls(self) -> tuple[object, ...]:
        return self._push(f"{self._tls()}/team/app:1", "--plain-http")

    def tls_to_plain_http(self) -> tuple[object, ...]:
        """By an address of this machine that is no loopback address to us."""
        return self._push(f"0.0.0.0:{self.serving().port}/team/app:1")

    def full_disk(self) -> tuple[object, ...]:
        host = self.serving().host
        dockerpush.push(self.archive, f"{host}/team/app:1")
        return ("copy", f"{host}/team/app:1", "docker-archive:/dev/full")

    def reset(self) -> tuple[object, ...]:
        listener = self.listening()
        no_lingering = struct.pack("ii", 1, 0)

        def cut() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection = listener.accept()[0]
                    connection.recv(1)
                    connection.setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, no_lingering
                    )
                    connection.close()

        thread = threading.Thread(target=cut, daemon=True)
        thread.start()
        self._stack.callback(listener.shutdown, socket.SHUT_RDWR)
        return self._push(f"127.0.0.1:{listener.getsockname()[1]}/a:1", "--plain-http")

    def nobody_listens(self) -> tuple[object, ...]:
        return self._push(f"127.0.0.1:{free_port()}/a:1")

    def unknown_name(self) -> tuple[object, ...]:
        return self._push("registry.invalid/team/app:1")

    def proxy(self) -> tuple[object, ...]:
        server = self._stack.enter_context(
            ThreadingHTTPServer(("127.0.0.1", 0), Refuses)
        )
        threading.Thread(target=server.serve_forever, args=(0.05,)).start()
        self._stack.callback(server.shutdown)
        proxy = f"http://127.0.0.1:{server.server_port}"
        return self._push("registry.test/team/app:1", "--proxy", proxy)

    def silence(self) -> tuple[object, ...]:
        port = self.listening().getsockname()[1]
        options = ("--plain-http", "--timeout", "0.2s")
        return self._push(f"127.0.0.1:{port}/team/app:1", *options)


TROUBLES: dict[str, Callable[[Place], tuple[object, ...]]] = {
    "401 Unauthorized": Place.unauthorized,
    "403 Forbidden": Place.forbidden,
    "no repository": Place.unknown_repository,
    "no tag": Place.unknown_tag,
    "413 Request Entity Too Large": Place.too_large,
    "an unknown CA signed the certificate": Place.unknown_authority,
    "the server sent plain HTTP where TLS was expected": Place.tls_to_plain_http,
    "is an HTTPS server, and dockerpush sent plain HTTP": Place.plain_http_to_tls,
    "no space left on device": Place.full_disk,
    "connection reset by peer": Place.reset,
    "connection refused": Place.nobody_listens,
    "cannot resolve the host name": Place.unknown_name,
    "denied access to this host or port": Place.proxy,
    "no answer from": Place.silence,
    "holds no image for": Place.other_platform,
}


def test_each_message_of_the_table_has_its_failure():
    assert messages() == list(TROUBLES)


@pytest.mark.parametrize("message", TROUBLES)
def test_a_failure_says_what_the_table_quotes(message, run_cli, tmp_path):
    with ExitStack() as stack:
        done = run_cli(*TROUBLES[message](Place(tmp_path, stack)))
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ") and message in last, done.stderr
    assert done.returncode in range(1, 8)


PRIVATE = (
    r"arrived|gone on with|goes on with|anew|heard|speaks? of|passing failure|is had|"
    r"machines that have little|lies beside|(was|is) told|all of it can be lost"
)
"""Words of our own for what the field has words for."""
LONGEST = 32
"""Words of one sentence, or of a part before a colon or a semicolon."""


def sentences() -> list[str]:
    """The sentences of the README that are not in a table or a block."""
    text = re.sub(r"^(\||#|!|<!--).*$", "\n", readme.prose(), flags=re.M)
    text = re.sub(r"`[^`]*`", "`code`", text)
    paragraphs = re.split(r"\n\s*\n|\n(?=- |\d\. )", text)
    flat = (" ".join(paragraph.split()) for paragraph in paragraphs)
    return [one for each in flat for one in re.split(r"(?<=[.:;!?·])\s", each) if one]


def test_sentences_are_short_and_plain():
    text = sentences()
    assert len(text) > 200
    assert [one for one in text if len(one.split()) > LONGEST] == []
    assert [one for one in text if re.search(rf"\b({PRIVATE})\b", one)] == []


def test_every_link_leads_somewhere():
    text = readme.prose()
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    anchors = {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in anchors
        else:
            assert (ROOT / target).exists()
