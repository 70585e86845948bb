"""Many small layers: how many requests they cost, and how many are under way at once.

Counts, which no other load on the machine can change, stand for the time over a link.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections import Counter
from pathlib import Path

import pytest
from bent import BentServer, Honest, refused
from images import (
    MIB,
    config_of,
    digest_of,
    docker_archive,
    large_archive,
    tar_of,
)
from registries import read_back, start_docker_registry

from dockerpush.server.messages import Request, Response

LAYERS = 24
JOBS = 3


class Crowd:
    """A bend that keeps requests until *wanted* of them are there, or 3 s are over.

    Those of *methods* count that have a body of *at_least* so many bytes; *peak* is how
    many were there at a time.
    """

    def __init__(self, wanted: int, *methods: str, at_least: int = 0) -> None:
        self.peak = 0
        self._here = 0
        self._wanted = wanted
        self._methods = methods
        self._at_least = at_least
        self._changed = threading.Condition()

    def __call__(self, request: Request, honest: Honest) -> Response:
        counts = request.method in self._methods and "/blobs/" in request.path
        if not counts or (request.body.length or 0) < self._at_least:
            return honest()
        with self._changed:
            self._here += 1
            self.peak = max(self.peak, self._here)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self.peak >= self._wanted, timeout=3)
        try:
            return honest()
        finally:
            with self._changed:
                self._here -= 1


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    layers = [tar_of({f"etc/{n}": b"%d\n" % n * 500}) for n in range(LAYERS)]
    path = tmp_path_factory.mktemp("small") / "small.tar"
    return docker_archive(path, layers, names=["team/app:1"])


def honest(request: Request, answer: Honest) -> Response:
    return answer()


def test_a_new_repository_of_a_registry_that_takes_posts(archive, tmp_path, run_cli):
    """One request for each blob, the tag's look and its PUT, and one proof."""
    with BentServer(tmp_path / "r", honest) as server:
        done = run_cli("push", archive, "-t", f"{server.host}/team/app:1")
        assert done.returncode == 0, done.stderr
        asked = Counter(one.method for one in server.seen)
        assert len(read_back(server.host, "team/app", "1").layers) == LAYERS
    blobs = LAYERS + 1
    assert asked == {"GET": 1, "HEAD": 1, "POST": blobs, "PUT": 1}


def test_blobs_that_may_be_there_are_looked_for(archive, tmp_path, run_cli):
    """MANIFEST_UNKNOWN says nothing of blobs: those of a push that was broken."""

    def broken(request: Request, answer: Honest) -> Response:
        is_tag = request.method == "PUT" and "/manifests/" in request.path
        return refused(400, "MANIFEST_INVALID") if is_tag and failing else answer()

    with BentServer(tmp_path / "r", broken) as server:
        for failing in (True, False):
            server.seen.clear()
            done = run_cli("push", archive, "-t", f"{server.host}/team/app:1")
            assert done.returncode == int(failing), done.stderr
        asked = Counter(one.method for one in server.seen)
    assert asked == {"GET": 1, "HEAD": LAYERS + 1, "PUT": 1}


def test_a_registry_that_opens_a_session_instead(archive, tmp_path, run_cli):
    """docker-registry: as many requests as ever, the look at the tag included."""
    with start_docker_registry(tmp_path / "r") as registry:
        done = run_cli("push", archive, "-t", f"{registry.host}/team/app:1")
        assert done.returncode == 0, done.stderr
        asked = Counter(one.method for one in registry.requests())
        assert len(read_back(registry.host, "team/app", "1").layers) == LAYERS
    blobs = LAYERS + 1
    assert asked == {"GET": 1, "HEAD": blobs, "POST": blobs, "PUT": blobs + 1}


@pytest.mark.parametrize("way", ["file", "pipe", "copy"])
@pytest.mark.parametrize("jobs", [1, JOBS])
def test_more_of_them_are_under_way_than_jobs(way, jobs, archive, tmp_path, run_cli):
    """One job is one job: a registry that can do no more gets no more."""
    wanted = 4 * jobs if jobs > 1 else 2
    crowd = Crowd(wanted if jobs > 1 else 1, "HEAD", "POST", "PUT")
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(BentServer(tmp_path / "r", crowd))
        source: object = archive
        if way == "copy":
            origin = stack.enter_context(BentServer(tmp_path / "o", honest))
            source = f"{origin.host}/team/app:1"
            assert run_cli("push", archive, "-t", source).returncode == 0
        target = f"{server.host}/team/app:1"
        words = ["copy", source, target] if way == "copy" else ["push", source]
        words += [] if way == "copy" else ["-t", target]
        more = {}
        if way == "pipe":
            words[1], more = "-", {"stdin": archive}
        done = run_cli(*words, "-j", jobs, **more)
        assert done.returncode == 0, done.stderr
        assert len(read_back(server.host, "team/app", "1").layers) == LAYERS
    assert crowd.peak >= wanted if jobs > 1 else crowd.peak == 1


def test_no_more_large_ones_are_under_way_than_jobs(tmp_path, run_cli):
    path = large_archive(tmp_path / "i.tar", [2 * MIB] * 6, compressible=False)
    crowd = Crowd(JOBS, "PUT", "PATCH", at_least=MIB)
    with BentServer(tmp_path / "r", crowd) as server:
        words = ["push", path, "-t", f"{server.host}/team/app:1", "-j", JOBS]
        done = run_cli(*words)
        assert done.returncode == 0, done.stderr
    assert crowd.peak == JOBS


def test_a_large_layer_and_small_ones_go_side_by_side(tmp_path, run_cli):
    """A small one that fails stops the rest with its own words, and the other way."""
    layers = [tar_of({f"etc/{n}": b"%d\n" % n}) for n in range(6)]
    layers[3] = tar_of({"srv/random": os.urandom(3 * MIB)})
    path = docker_archive(tmp_path / "i.tar", layers)
    for refused_size in (lambda size: size > MIB, lambda size: 0 < size < 300):

        def refusing(request: Request, answer: Honest) -> Response:
            size = request.body.length or 0
            is_blob = "/blobs/" in request.path and request.method in ("PUT", "POST")
            if is_blob and refused_size(size):  # noqa: B023
                return refused(403, "DENIED")
            return answer()

        with BentServer(tmp_path / f"r{id(refusing)}", refusing) as server:
            done = run_cli("push", path, "-t", f"{server.host}/team/app:1")
            assert done.returncode == 3
            assert done.error.startswith("error: ")
            assert "403" in done.error or "DENIED" in done.error
            assert not [
                one
                for one in server.seen
                if one.path.endswith("manifests/1") and one.method == "PUT"
            ]


@pytest.mark.parametrize("command", ["push -a", "sync"])
def test_what_a_registry_takes_is_found_out_once(command, tmp_path, run_cli):
    """By the first of all images of a run: one proof, no matter how many follow."""
    path = many_archive(tmp_path / "many.tar", 4)
    with (
        BentServer(tmp_path / "o", honest) as origin,
        BentServer(tmp_path / "r", honest) as server,
    ):
        line = ["push", "-a", path, "--registry", server.host, "--yes"]
        if command == "sync":
            line[4] = origin.host
            assert run_cli(*line).returncode == 0
            listed = tmp_path / "list"
            names = [f"{origin.host}/team/app:{number}" for number in range(4)]
            listed.write_text("".join(f"{name}\n" for name in names))
            line = ["sync", listed, server.host]
        done = run_cli(*line, "-j", 1)
        assert done.returncode == 0, done.stderr
        posts = server.asked("POST")
        heads = [one for one in server.seen if one.method == "HEAD"]
    assert len(posts) == 8  # a layer and a config for each
    assert [one.status for one in heads if "/blobs/" in one.path].count(200) == 1


def many_archive(path: Path, count: int) -> Path:
    """Images of one layer each, called team/app:0 and so on."""
    files, entries = {}, []
    for number in range(count):
        layer = tar_of({f"etc/{number}": b"%d\n" % number})
        files[f"{number}/layer.tar"] = layer
        files[f"{number}.json"] = config_of([digest_of(layer)])
        entries.append(
            {
                "Config": f"{number}.json",
                "RepoTags": [f"team/app:{number}"],
                "Layers": [f"{number}/layer.tar"],
            }
        )
    files["manifest.json"] = json.dumps(entries).encode()
    path.write_bytes(tar_of(files))
    return path
