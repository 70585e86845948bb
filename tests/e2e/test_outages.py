"""How long a run lasts: outages are ridden out, silence ends, a deadline is kept."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from bent import BentServer, Honest
from images import large_archive
from registries import free_port

from dockerpush.server.messages import Request, Response


@pytest.fixture
def server(tmp_path):
    with BentServer(tmp_path / "registry", lambda request, honest: honest()) as server:
        yield server


@pytest.fixture
def archive(tmp_path) -> Path:
    return large_archive(tmp_path / "app.tar", [400_000], compressible=False)


def _push(host: str, archive: Path) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return ("push", archive, "-t", f"{host}/new:1"), {}


def _pipe(host: str, archive: Path) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return ("push", "-", "-t", f"{host}/new:1"), {"stdin": archive}


def _pull(host: str, archive: Path) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return ("pull", f"{host}/app:1"), {}


def _copy(host: str, archive: Path) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return ("copy", f"{host}/app:1", f"oci-archive:{archive.parent}/copied.tar"), {}


@pytest.mark.parametrize(
    "command", [_push, _pipe, _pull, _copy], ids=lambda one: one.__name__.strip("_")
)
def test_a_deadline_ends_a_run_that_can_continue_later(
    command, server, archive, run_cli
):
    assert run_cli("push", archive, "-t", f"{server.host}/app:1").returncode == 0
    state = {"DOCKERPUSH_STATE_DIR": str(archive.parent / "fresh")}
    words, options = command(server.host, archive)
    slow = ("--limit-rate", "100K", "--deadline", "400ms")
    done = run_cli(*words, *slow, env=state, **options)
    assert done.returncode == 1, done.stderr
    assert done.error.startswith("error: stopped at the deadline 400ms; run the same")
    done = run_cli(*words, env=state, **options)
    assert done.returncode == 0, done.stderr


def test_what_is_no_deadline_is_a_mistake(server, archive, run_cli):
    words, options = _push(server.host, archive)
    done = run_cli(*words, "--deadline", "soon", **options)
    assert done.returncode == 2 and "06:00" in done.stderr


def test_a_registry_that_swallows_chunks_ends_the_run(archive, tmp_path, run_cli):
    """Each chunk is read, and nothing is ever answered to it."""
    over = threading.Event()
    patches = []

    def bend(request: Request, honest: Honest) -> Response:
        if request.method == "PATCH":
            patches.append(request.path)
            over.wait(20)
        return honest()

    with BentServer(tmp_path / "registry", bend) as server:
        words, options = _push(server.host, archive)
        chunks = ("--blob-chunk", "100K", "--timeout", "100ms", "--retry-delay", "0")
        started = time.monotonic()
        patience = {"DOCKERPUSH_PATIENCE": "60"}
        done = run_cli(*words, *chunks, env=patience, **options)
        over.set()
    assert done.returncode == 5, done.stderr
    assert "within 0.2 s" in done.error
    assert len(patches) <= 4 and time.monotonic() - started < 15


def test_a_host_that_never_answered_fails_soon(archive, run_cli):
    words, options = _push(f"127.0.0.1:{free_port()}", archive)
    patience = {"DOCKERPUSH_PATIENCE": "60"}
    started = time.monotonic()
    done = run_cli(*words, "--retry-delay", "0", env=patience, **options)
    assert done.returncode == 5 and "connection refused" in done.error
    assert time.monotonic() - started < 15


def test_an_outage_is_reported_as_one(archive, tmp_path, run_cli):
    """It answers once, and then nobody listens any more."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def once() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(
                    b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
                )
            listener.close()

        thread = threading.Thread(target=once)
        thread.start()
        words, options = _push(f"127.0.0.1:{port}", archive)
        lines = ("--plain-http", "--retry-delay", "0")
        done = run_cli(*words, *lines, env={"DOCKERPUSH_PATIENCE": "300ms"}, **options)
        thread.join()
    assert done.returncode == 5, done.stderr
    assert "was down for" in done.error and "may be missing" not in done.error
