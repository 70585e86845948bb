"""A look that only saves work is never fatal; a look that is the work is.

Every command that brings blobs into a registry, against registries that refuse HEAD and
GET in every way that is known.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable

import pytest
from archives import Image, layout, legacy, tar
from bent import BentServer, Honest, html, refused
from registries import read_back

from dockerpush.server.messages import Request, Response

REFUSALS: dict[str, Callable[[], Response]] = {
    **{str(status): lambda s=status: refused(s) for status in (400, 403, 404)},
    **{str(status): lambda s=status: refused(s) for status in (405, 406, 501)},
    "a login page": html,
}
IMAGE = Image.of("looked for", tags=("app:1",))


class Blind:
    """Refuses all looks once *refusal* is set, and lets everything else pass."""

    refusal: Callable[[], Response] | None = None

    def __call__(self, request: Request, honest: Honest) -> Response:
        looks = request.method in ("GET", "HEAD") and request.path.startswith(
            ("/v2/app/blobs/sha256:", "/v2/app/manifests/")
        )
        return self.refusal() if looks and self.refusal else honest()


@pytest.fixture
def blind() -> Blind:
    return Blind()


@pytest.fixture
def server(blind, tmp_path):
    with BentServer(tmp_path / "registry", blind) as server:
        yield server


def _push(run_cli, directory: Path, host: str):
    path = tar(directory / "app.tar", legacy(IMAGE))
    return run_cli("push", path, "-t", f"{host}/app:1")


def _push_layout(run_cli, directory: Path, host: str):
    path = tar(directory / "oci.tar", layout(IMAGE).annotated(ref="1").files())
    return run_cli("push", path, "-t", f"{host}/app:1")


def _push_pipe(run_cli, directory: Path, host: str):
    path = tar(directory / "app.tar", layout(IMAGE).annotated(ref="1").files())
    return run_cli("push", "-", "-t", f"{host}/app:1", stdin=path)


def _copy_archive(run_cli, directory: Path, host: str):
    path = tar(directory / "app.tar", legacy(IMAGE))
    return run_cli("copy", path, f"{host}/app:1")


def _other(run_cli, directory: Path, host: str) -> str:
    path = tar(directory / "app.tar", legacy(IMAGE))
    assert run_cli("push", path, "-t", f"{host}/other:1").returncode == 0
    return f"{host}/other:1"


def _copy(run_cli, directory: Path, host: str):
    return run_cli("copy", _other(run_cli, directory, host), f"{host}/app:1")


def _push_cached(run_cli, directory: Path, host: str):
    return run_cli("push", _other(run_cli, directory, host), "-t", f"{host}/app:1")


def _sync(run_cli, directory: Path, host: str):
    images = directory / "images.txt"
    images.write_text(f"{_other(run_cli, directory, host)} {host}/app:1\n")
    return run_cli("sync", images)


def _join(run_cli, directory: Path, host: str):
    paths = [
        tar(
            directory / f"{name}.tar",
            legacy(Image.of(name, tags=("app:1",), architecture=name)),
        )
        for name in ("amd64", "arm64")
    ]
    return run_cli("push", *paths, "-t", f"{host}/app:1")


COMMANDS = [
    *(_push, _push_layout, _push_pipe, _copy_archive, _copy, _push_cached, _sync),
    _join,
]


CASES = [
    *((command, "403", True) for command in COMMANDS),
    *((command, "a login page", False) for command in COMMANDS),
    *((_push, name, False) for name in REFUSALS),
    *((_copy, name, False) for name in REFUSALS),
]


@pytest.mark.parametrize(
    ("command", "refusal", "again"),
    dict.fromkeys(CASES),
    ids=lambda one: getattr(one, "__name__", str(one)).strip("_"),
)
def test_a_look_that_is_refused_stops_nothing(
    command: Any, refusal, again, blind, server, run_cli, tmp_path
):
    if again:
        assert command(run_cli, tmp_path, server.host).returncode == 0
    blind.refusal = REFUSALS[refusal]
    done = command(run_cli, tmp_path, server.host)
    assert done.returncode == 0, done.stderr
    blind.refusal = None
    if command is not _join:
        stored = read_back(server.host, "app", "1")
        assert stored.layers == stored.diff_ids


@pytest.mark.parametrize("command", COMMANDS, ids=lambda one: one.__name__.strip("_"))
def test_a_look_that_wants_to_know_who_asks_is_an_error(
    command: Any, blind, server, run_cli, tmp_path
):
    blind.refusal = lambda: refused(401, "UNAUTHORIZED")
    done = command(run_cli, tmp_path, server.host)
    assert done.returncode == (7 if command is _sync else 3), done.stderr


@pytest.mark.parametrize("refusal", [one for one in REFUSALS if one != "404"])
def test_whether_a_tag_may_be_replaced_has_to_be_known(
    refusal, blind, server, run_cli, tmp_path
):
    other = _other(run_cli, tmp_path, server.host)
    blind.refusal = REFUSALS[refusal]
    done = run_cli("copy", "-n", other, f"{server.host}/app:1")
    assert done.returncode not in (0, 2), done.stderr
    images = tmp_path / "images.txt"
    images.write_text(f"{other} {server.host}/app:1\n")
    assert run_cli("sync", "--on-exists", "skip", images).returncode == 7
    assert not server.asked("PUT", "/v2/app/manifests/")


def test_what_is_refused_once_is_not_asked_again(blind, server, run_cli, tmp_path):
    """501 is an answer, not a failure that may pass."""
    blind.refusal = lambda: refused(501)
    assert _push(run_cli, tmp_path, server.host).returncode == 0
    looks = server.asked("HEAD", "/blobs/")
    # But for the first blob that a POST brought: is it there, as the answer says?
    assert len(looks) <= len(set(looks)) + 1


def test_a_dry_run_says_what_it_cannot_see_is_sent(blind, server, run_cli, tmp_path):
    blind.refusal = lambda: refused(403)
    path = tar(tmp_path / "app.tar", legacy(IMAGE))
    line = ("push", path, "-t", f"{server.host}/app:1", "--dry-run", "--json")
    done = run_cli(*line)
    assert done.returncode == 0, done.stderr
    assert "send" in json.dumps(done.json)
