"""Layers that are sent while they are compressed, by the command, read back.

The maker waits for the sender here, so that what may happen does.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import random
import threading
from pathlib import Path
from typing import Iterator, Sequence

import pytest
from archives import Image, named_by_digest, packed
from bent import Bend, BentServer, Honest, refused
from conftest import Command, Finished
from images import MIB, config_of, digest_of, docker_archive, tar_of
from inprocess import run_here
from registries import read_back
from waiting import wait_for

from dockerpush.archive.spooled import Spool, SpoolError
from dockerpush.server.messages import Request, Response
from dockerpush.transfer import engine, stream
from dockerpush.upload import early
from dockerpush.upload.early import EarlyUpload, GrowingBlob

SIZE = 6 * MIB
"""Bytes of a layer of numbers in hexadecimal, which become half as many."""


def layer(number: int) -> bytes:
    return tar_of(
        {"numbers": random.Random(number).randbytes(SIZE // 2).hex().encode()}
    )


def archive_of(path: Path, layer: bytes, *, diff_id: str = "", **more: str) -> Path:
    """An archive with a config of its own."""
    config = config_of([diff_id or digest_of(layer)], **more)
    entry = {"Config": "c.json", "RepoTags": ["demo/app:1"], "Layers": ["layer.tar"]}
    manifest = json.dumps([entry]).encode()
    files = {"layer.tar": layer, "c.json": config, "manifest.json": manifest}
    path.write_bytes(tar_of(files))
    return path


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers of 4 MiB are large, and 1 MiB of one is worth a request."""
    monkeypatch.setattr(early, "PART", MIB)
    for room in (engine, stream):
        monkeypatch.setattr(room, "LEAST", 4 * MIB)


@pytest.fixture
def in_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing more is written before what there is was sent, if somebody sends."""
    write, run, next_part = GrowingBlob.write, EarlyUpload.run, EarlyUpload._next_part
    chosen, chosen_of_stream = engine._Transfer._early, stream._Reader._sent_early
    sent: dict[str, float] = {}

    def noted_choice(self: engine._Transfer, *given: object) -> set[str]:
        early = chosen(self, *given)
        sent.update(dict.fromkeys(early, 0))
        return early

    def noted_of_stream(self: stream._Reader, growing: GrowingBlob, size: int):
        sending = chosen_of_stream(self, growing, size)
        if sending is not None:
            sent.setdefault(growing.key, 0)
        return sending

    def note(upload: EarlyUpload, size: float) -> None:
        with upload._blob._changed:
            sent[upload._blob.key] = size
            upload._blob._changed.notify_all()

    def write_in_step(self: GrowingBlob, data: bytes | memoryview) -> None:
        write(self, data)
        with self._changed:
            self._changed.wait_for(
                lambda: self._size - sent.get(self.key, self._size) < MIB, timeout=20
            )

    def noted_part(self: EarlyUpload) -> int:
        note(self, self._offset)
        return next_part(self)

    def noted_run(self: EarlyUpload) -> None:
        try:
            run(self)
        finally:
            note(self, float("inf"))

    monkeypatch.setattr(engine._Transfer, "_early", noted_choice)
    monkeypatch.setattr(stream._Reader, "_sent_early", noted_of_stream)
    monkeypatch.setattr(GrowingBlob, "write", write_in_step)
    monkeypatch.setattr(EarlyUpload, "_next_part", noted_part)
    monkeypatch.setattr(EarlyUpload, "run", noted_run)


class Here:
    """Pushes in this process, to ``team/app`` of *server*."""

    def __init__(self, command: Command, server: BentServer, directory: Path) -> None:
        self._environment = command.environment()
        self.server = server
        self._directory = directory

    def push(
        self,
        *layers: bytes,
        tag: str = "1",
        more: Sequence[object] = (),
        way: str = "file",
    ) -> Finished:
        archive = docker_archive(self._directory / "image.tar", list(layers))
        if way != "file":
            by_digest = packed(named_by_digest(Image(layers)))
            archive = self._directory / "image.tar.gz"
            archive.write_bytes(gzip.compress(by_digest, 1))
        self.server.seen.clear()
        done = self.push_file(archive, tag, *more)
        assert done.returncode == 0, done.stderr
        return done

    def push_file(self, archive: Path, tag: str, *more: object) -> Finished:
        target = f"{self.server.host}/team/app:{tag}"
        return self.run("push", archive, "-t", target, *more)

    def run(self, *words: object) -> Finished:
        return run_here(words, self._environment)

    def forget(self) -> None:
        """The next push has a state directory of its own."""
        state = Path(self._environment["DOCKERPUSH_STATE_DIR"])
        self._environment["DOCKERPUSH_STATE_DIR"] = str(state.with_name("another"))

    def early(self) -> int:
        """How many blobs were sent in parts: no other one is as large."""
        return len({one.path for one in self.server.seen if one.method == "PATCH"})

    def open_sessions(self) -> int:
        return len(list(self._directory.glob("registry/**/_uploads/*")))

    def check(self, *layers: bytes, tag: str = "1") -> None:
        """All bytes of the tag are right, and nothing is left beside them."""
        stored = read_back(self.server.host, "team/app", tag)
        assert stored.layers == [digest_of(layer) for layer in layers]
        assert not self.open_sessions()


@contextlib.contextmanager
def bent(command: Command, directory: Path, bend: Bend) -> Iterator[Here]:
    with BentServer(directory / "registry", bend) as server:
        yield Here(command, server, directory)


@pytest.fixture
def here(run_cli: Command, tmp_path: Path) -> Iterator[Here]:
    with bent(run_cli, tmp_path, lambda request, honest: honest()) as here:
        yield here


@pytest.mark.parametrize("way", ["file", "gz"])
@pytest.mark.parametrize("jobs", [1, 3])
def test_all_layers_go_early_into_a_new_repository(jobs, way, here, in_step):
    layers = [layer(1), layer(2)]
    done = here.push(*layers, more=["-j", jobs], way=way)
    assert "sent 3 blobs (" in done.stderr
    assert here.early() == 2
    here.check(*layers)


@pytest.mark.parametrize("way", ["file", "gz"])
def test_what_is_new_beside_what_was_remembered_goes_early(way, here, in_step):
    """Of a pipe, what comes later and has a digest for its name."""
    here.push(layer(1))
    layers = [layer(1), layer(2), layer(3)]
    here.push(*layers, tag="2", way=way)
    assert here.early() == 2
    here.check(*layers, tag="2")


def test_where_nothing_is_remembered_only_the_top_layer_goes_early(here, in_step):
    """A layer below it may be that of another image, and be there."""
    here.push(layer(1))
    here.forget()
    layers = [layer(1), layer(2)]
    here.push(*layers, tag="2")
    assert here.early() == 1
    here.check(*layers, tag="2")


def test_an_image_that_is_there_is_not_sent_again_in_vain(here, in_step):
    layers = [layer(1), layer(2)]
    here.push(*layers)
    here.forget()
    done = here.push(*layers, tag="2")
    assert "nothing to send" in done.stderr
    assert here.early() == 0
    here.check(*layers, tag="2")


def test_a_layer_that_is_there_after_all_is_not_kept_twice(here, in_step, tmp_path):
    """Its config is not, so it was thought to be new."""
    here.push(layer(1))
    here.forget()
    other = archive_of(tmp_path / "other.tar", layer(1), author="somebody else")
    done = here.push_file(other, "2")
    assert done.returncode == 0 and "sent 1 blob (" in done.stderr
    here.check(layer(1), tag="2")


def test_a_small_layer_waits(here, in_step):
    here.push(tar_of({"numbers": layer(1)[: 2 * MIB]}))
    assert here.early() == 0


@pytest.mark.parametrize("status", [404, 405, 501])
def test_where_no_parts_are_taken_the_layer_goes_whole(
    status, run_cli, tmp_path, in_step
):
    def bend(request: Request, honest: Honest) -> Response:
        return refused(status) if request.method == "PATCH" else honest()

    layers = [layer(1), layer(2)]
    with bent(run_cli, tmp_path, bend) as here:
        done = here.push(*layers)
        assert here.early() == 1  # it was tried once
        here.check(*layers)
    assert "warning" not in done.stderr


def test_a_layer_that_is_not_what_its_image_promises_names_nothing(
    here, in_step, tmp_path
):
    wrong = digest_of(b"something else")
    archive = archive_of(tmp_path / "image.tar", layer(1), diff_id=wrong)
    done = here.push_file(archive, "1")
    assert done.returncode == 6 and here.early() == 1
    assert "its content has the digest" in done.stderr
    assert done.stderr.count("error: ") == 1 and "Traceback" not in done.stderr
    assert not here.run("tags", f"{here.server.host}/team/app").stdout


def test_a_layer_that_goes_by_and_turns_out_not_to_shrink_goes_as_it_is(here, in_step):
    """Its first bytes shrank. What was sent of the compressed one is forgotten."""
    noise = random.Random(5).randbytes(4 * SIZE)
    mixed = tar_of({"numbers": bytes(1000) * 400, "noise": noise})
    here.push(mixed, way="gz")
    assert here.early() == 1
    here.check(mixed)


def test_a_temp_disk_that_fills_up_has_the_layer_sent_as_it_is(
    here, in_step, monkeypatch
):
    """What was sent of the compressed one is forgotten."""
    write = Spool.write

    def full(self: Spool, data: bytes | memoryview) -> int:
        if self.size > 2 * MIB:
            raise SpoolError("no space left on the device")
        return write(self, data)

    monkeypatch.setattr(Spool, "write", full)
    done = here.push(layer(1))
    assert "warning: " in done.stderr and "sent without compression" in done.stderr
    assert here.early() >= 1
    here.check(layer(1))


def test_a_temp_disk_that_fills_up_leaves_what_is_read_meanwhile_open(
    here, monkeypatch
):
    """The sender reads a part when the maker has given up already."""
    write, body = Spool.write, EarlyUpload._body

    def full(self: Spool, data: bytes | memoryview) -> int:
        if self.size > 2 * MIB:
            wait_for(started.is_set)
            raise SpoolError("no space left on the device")
        return write(self, data)

    def late_body(self: EarlyUpload, start: int, size: int) -> object:
        started.set()
        self._blob.made(self._target.cancellation)
        return body(self, start, size)

    started = threading.Event()
    monkeypatch.setattr(Spool, "write", full)
    monkeypatch.setattr(EarlyUpload, "_body", late_body)
    done = here.push(layer(1))
    assert "sent without compression" in done.stderr
    parts = [one.status for one in here.server.seen if one.method == "PATCH"]
    assert parts == [202]
    here.check(layer(1))


def test_recompressing_into_a_registry_sends_early_too(here, in_step, tmp_path):
    archive = docker_archive(tmp_path / "image.tar", [layer(1)])
    oci = f"oci:{tmp_path / 'oci'}:1"
    assert here.run("copy", archive, oci).returncode == 0
    target = f"{here.server.host}/team/app:1"
    here.server.seen.clear()
    done = here.run("copy", "--recompress", "gzip", oci, target)
    assert done.returncode == 0, done.stderr
    assert here.early() == 1
    here.check(layer(1))
