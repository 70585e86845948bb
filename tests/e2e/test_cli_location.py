"""No command contacts a registry that nobody named: every command, every mistake."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from images import small_archive

from dockerpush.errors import InvalidReference
from dockerpush.reference import DOCKER_HUB, Reference, parse_source, parse_target

REGISTRY_ALONE = ["127.0.0.1:5000", "host:5000", "registry.example.com", "localhost"]
FILE = ["out.tar", "images/out.tar", "image.oci", "./out", "image.tar.gz"]

# each command, with X where the word stands that is read, and Y where one is written
READS = [
    ("pull", "X"),
    ("digest", "X"),
    ("tags", "X"),
    ("inspect", "X"),
    ("verify", "image.tar", "X"),
    ("copy", "X", "127.0.0.1:9/copied/app:1"),
    ("push", "X", "-t", "127.0.0.1:9/pushed/app:1"),
    ("sync", "read.txt", "127.0.0.1:9/mirror"),
]
WRITES = [
    ("push", "image.tar", "-t", "Y"),
    ("push", "image.tar", "-t", "127.0.0.1:9/a/b:1", "-t", "Y"),
    ("push", "image.tar", "-a", "-t", "Y"),
    ("push", "image.tar", "other.tar", "-t", "Y"),
    ("push", "image.tar", "-t", "Y", "--dry-run"),
    ("copy", "127.0.0.1:9/team/app:1", "Y"),
    ("copy", "image.tar", "Y"),
    ("sync", "written.txt"),
]
ONE_PART = ["app", "app:1", "app@sha256:" + "a" * 64]


@pytest.fixture
def outside() -> Iterator[list[str]]:
    """A proxy that notes whoever asks it for a way to the internet."""
    asked: list[str] = []
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        proxy = f"http://127.0.0.1:{listener.getsockname()[1]}"

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        asked.append(connection.recv(200).decode(errors="replace"))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        asked.append(proxy)
        yield asked
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)


@pytest.fixture
def ask(run_cli, outside, tmp_path):
    """``ask(command, word)``: the command, which may ask the proxy for nothing."""
    small_archive(tmp_path / "image.tar")
    small_archive(tmp_path / "other.tar")

    def ask(command, word: str):
        (tmp_path / "read.txt").write_text(f"{word}\n")
        (tmp_path / "written.txt").write_text(f"127.0.0.1:9/team/app:1 {word}\n")
        words = [word if one in ("X", "Y") else one for one in command]
        environment = {"HTTPS_PROXY": outside[0], "DOCKERPUSH_RETRY_TIMES": "0"}
        done = run_cli(*words, env=environment)
        assert outside[1:] == []
        return done

    return ask


@pytest.mark.parametrize("word", REGISTRY_ALONE)
@pytest.mark.parametrize("command", READS + WRITES, ids=" ".join)
def test_a_registry_without_a_repository(command, word, ask):
    done = ask(command, word)
    assert done.returncode == 2, done.stderr
    assert f"{word}/REPOSITORY" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("word", FILE[:3])
@pytest.mark.parametrize(
    "command", [c for c in READS + WRITES if c[0] != "push" or "Y" in c], ids=" ".join
)
def test_the_name_of_a_file(command, word, ask, tmp_path):
    done = ask(command, word)
    if command[0] == "copy" and "Y" in command and word.endswith(".tar"):
        assert done.returncode in (0, 4, 5), done.stderr  # it is the file to write
    elif command[0] == "inspect" or (command[0] == "copy" and "X" in command):
        assert done.returncode in (2, 4), done.stderr
    else:
        assert done.returncode == 2, done.stderr
        assert "looks like a file" in done.stderr


@pytest.mark.parametrize("command", READS[:7], ids=" ".join)
def test_a_scheme_before_what_is_read(command, ask):
    done = ask(command, "http://127.0.0.1:9/team/app:1")
    assert done.returncode == 2, done.stderr
    assert "write '127.0.0.1:9/team/app:1', and give --plain-http" in done.error


WHAT_TO_DO = {
    ("digest", "X"): "see: dockerpush inspect out.tar",
    ("tags", "X"): "see: dockerpush inspect out.tar",
    ("tag", "X", "new"): "to push it: dockerpush push out.tar -t REF",
    ("push", "image.tar", "-t", "Y"): "to write a file: dockerpush copy SRC FILE",
}


@pytest.mark.parametrize("command", WHAT_TO_DO, ids=" ".join)
def test_what_to_do_with_a_file(command, ask):
    done = ask(command, "out.tar")
    assert done.returncode == 2
    assert done.error.endswith(WHAT_TO_DO[command])


@pytest.mark.parametrize("command", ["push", "inspect"])
def test_a_mistyped_archive_is_said_to_be_no_file(command, ask):
    more = ("-t", "127.0.0.1:9/team/app:1") if command == "push" else ()
    done = ask((command, "X", *more), "image.tra")
    assert done.returncode == 2
    assert "it is no file here either" in done.error


@pytest.mark.parametrize("words", [("verify", "X"), ("verify", "X", "image.tar")])
def test_verify_wants_the_archive_first(words, ask):
    reference = "127.0.0.1:9/team/app:1"
    done = ask(words, reference)
    assert done.returncode == 2
    assert done.error.endswith(f"dockerpush verify image.tar {reference}")


@pytest.mark.parametrize("word", ["docker-archive:x.tar", "dir:x", "oci:"])
def test_a_prefix_in_the_place_of_a_registry(word, ask):
    done = ask(("check", "X"), word)
    assert done.returncode == 2
    assert "is an archive or a directory, not a registry" in done.error


@pytest.mark.parametrize(
    ("word", "runtime"),
    [("docker-daemon:app:1", "docker"), ("containers-storage:app:1", "podman")],
)
@pytest.mark.parametrize("command", [*READS[:2], *READS[5:7], WRITES[5]], ids=" ".join)
def test_an_image_of_a_runtime(command, word, runtime, ask):
    done = ask(command, word)
    assert done.returncode == 2
    assert f"is an image of {runtime}, not of a registry" in done.error
    assert f"push --runtime {runtime}" in done.error


def test_pull_says_how_to_write_a_file(ask):
    done = ask(("pull", "127.0.0.1:9/team/app:1", "X"), "out.tar")
    assert done.returncode == 2
    assert "-o out.tar" in done.error


@pytest.mark.parametrize("word", ONE_PART)
@pytest.mark.parametrize("command", WRITES, ids=" ".join)
def test_a_target_of_one_part(command, word, ask):
    done = ask(command, word)
    assert done.returncode == 2, done.stderr
    assert f"REGISTRY/{word}" in done.stderr
    assert done.stdout == ""


def test_copy_says_how_to_write_a_directory(ask):
    done = ask(("copy", "127.0.0.1:9/team/app:1", "Y"), "layoutdir")
    assert done.returncode == 2
    assert "oci:" in done.error


@pytest.mark.parametrize("kind", ["file", "directory"])
@pytest.mark.parametrize(
    "command", [("pull", "X"), ("digest", "X"), ("tags", "X")], ids=" ".join
)
def test_a_source_of_one_part_that_lies_here(command, kind, ask, tmp_path):
    if kind == "file":
        (tmp_path / "layoutdir").write_text("")
    else:
        (tmp_path / "layoutdir").mkdir()
    done = ask(command, "layoutdir")
    assert done.returncode == 2, done.stderr
    assert f"is a {kind} here" in done.error
    assert "docker.io/library/layoutdir" in done.error


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("ubuntu:22.04", "docker.io/library/ubuntu:22.04"),
        ("ubuntu", "docker.io/library/ubuntu"),
        ("redis:7", "docker.io/library/redis:7"),
        ("amazonlinux:2023", "docker.io/library/amazonlinux:2023"),
        ("app:20240131", "docker.io/library/app:20240131"),
        ("team/app", "docker.io/team/app"),
        ("docker.io/ubuntu", "docker.io/library/ubuntu"),
        ("docker.io/library/host:5000", "docker.io/library/host:5000"),
        ("127.0.0.1:5000/app", "127.0.0.1:5000/app"),
        ("localhost/app.tar", "localhost/app.tar"),
    ],
)
def test_what_is_meant_for_docker_hub_by_its_form(word, meant):
    assert str(parse_source(word)) == meant


@pytest.mark.parametrize("word", ["pull", "digest", "tags"])
def test_an_image_of_docker_hub_is_asked_for_there(word, run_cli, outside):
    environment = {"HTTPS_PROXY": outside[0], "DOCKERPUSH_RETRY_TIMES": "0"}
    done = run_cli(word, "team/app", env=environment)
    assert done.returncode == 5
    assert outside[1].startswith("CONNECT registry-1.docker.io:443")


@pytest.mark.parametrize("word", ["oci:layoutdir", "dir:layoutdir", "docker-archive:x"])
@pytest.mark.parametrize(
    "command", [c for c in READS if c[0] != "copy"] + WRITES[:5], ids=" ".join
)
def test_an_archive_by_skopeos_words(command, word, ask, tmp_path):
    """``copy``, ``sync`` and ``verify`` take some of them, and for themselves."""
    done = ask(command, word)
    if command[0] in ("push", "inspect") and command[1] == "X" and word[:4] != "dir:":
        assert done.returncode == 4, done.stderr
        assert done.error.endswith(
            f"{word.partition(':')[2]}: no such file or directory"
        )
        return
    assert done.returncode == 2, done.stderr
    if (command[0], word[:4]) == ("verify", "oci:"):
        assert "image.tar is no list of images" in done.stderr
    else:
        assert "an archive or a directory, not an image of a registry" in done.stderr


@pytest.mark.parametrize("word", ["layoutdir", "file.tar"])
@pytest.mark.parametrize(
    "command",
    [
        ("sync", "read.txt", "Y"),
        ("push", "-a", "image.tar", "--registry", "Y"),
        ("check", "Y"),
        ("login", "Y", "-u", "me", "-p", "it"),
    ],
    ids=" ".join,
)
def test_a_file_in_the_place_of_a_registry(command, word, ask, tmp_path):
    (tmp_path / "layoutdir").mkdir()
    done = ask(command, word)
    assert done.returncode == 2, done.stderr
    if command[0] != "sync":
        assert "not a registry" in done.error


@pytest.mark.parametrize("word", ["./layoutdir", "../x", "/x/y", "~/z"])
@pytest.mark.parametrize("command", [("pull", "X"), ("tags", "X")], ids=" ".join)
def test_a_path_is_never_a_registry(command, word, ask):
    done = ask(command, word)
    assert done.returncode == 2, done.stderr
    assert "looks like a file" in done.error


def test_login_and_check_take_a_registry_alone(run_cli, docker_registry):
    done = run_cli("check", docker_registry.host, "--json")
    assert done.returncode == 0, done.stderr
    tried = {one["step"]: one["result"] for one in done.json["steps"]}
    assert tried["authentication"] == "ok"
    assert tried["push"] == "not tried"
    assert done.json["target"] == docker_registry.host


def test_sync_takes_a_registry_alone(run_cli, docker_registry, tmp_path):
    archive = small_archive(tmp_path / "image.tar")
    run_cli("push", archive, "-t", f"{docker_registry.host}/team/app:1")
    (tmp_path / "list").write_text(f"{docker_registry.host}/team/app:1\n")
    done = run_cli("sync", tmp_path / "list", docker_registry.host)
    assert done.returncode == 0, done.stderr


@given(st.from_regex(r"[a-z0-9.:/@_-]{1,30}", fullmatch=True))
def test_whatever_is_taken_names_its_registry_or_is_meant_for_docker_hub(text):
    try:
        target = parse_target(text)
    except InvalidReference:
        return
    assert target == Reference.parse(text)
    first, slash, _ = text.partition("/")
    assert slash
    if target.registry == DOCKER_HUB:
        assert first in (DOCKER_HUB, "index.docker.io") or not {*":."} & {*first}
