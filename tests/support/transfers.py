"""What tests of pull, copy and sync share: a gate for requests, kills, last words."""

from __future__ import annotations

import hashlib
import json
import subprocess
import threading
from dataclasses import dataclass, field
from typing import Any, Callable, Mapping, Sequence

from conftest import Command, Finished
from copied import delete, put, read, store
from faultproxy import Exchange, Fault, FaultProxy
from httpstream import Broken
from images import digest_of, tar_of
from pushed import run_many
from waiting import wait_for

from dockerpush.oci import OCI_INDEX, OCI_MANIFEST

HELD = 30.0
"""Seconds after which a gate lets go by itself, so that no test can hang."""


def noise_layer(size: int, seed: object) -> bytes:
    """A layer with a file that does not shrink; the same one for the same seed."""
    return tar_of({"noise": hashlib.shake_128(repr(seed).encode()).digest(size)})


def blobs_below(host: str, repository: str, reference: str) -> dict[str, int]:
    """Digest → size of every blob that the image needs."""
    record = json.loads(read(host, repository, reference))
    found: dict[str, int] = {}
    for child in record.get("manifests", ()):
        found.update(blobs_below(host, repository, child["digest"]))
    if "layers" in record:
        blobs = (record["config"], *record["layers"])
        found.update({blob["digest"]: blob["size"] for blob in blobs})
    return found


def sparse(host: str, repository: str) -> str:
    """Store an index under 1, one of whose two children is lost; the lost digest."""
    children = []
    for architecture in ("amd64", "arm64"):
        store(host, repository, [noise_layer(5_000, architecture)])
        raw = read(host, repository, "1")
        platform = {"os": "linux", "architecture": architecture}
        found = {"mediaType": OCI_MANIFEST, "digest": digest_of(raw), "size": len(raw)}
        children.append({**found, "platform": platform})
    record = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": children}
    put(host, repository, "1", json.dumps(record).encode(), OCI_INDEX)
    gone = str(children[1]["digest"])
    delete(host, f"{repository}/manifests/{gone}")
    return gone


@dataclass
class Stop:
    """A request of *method* and *path* that is held until `go` or `drop`.

    It is the one after *left* - 1 others. One that is dropped never reaches the
    upstream.
    """

    method: str
    path: str
    left: int
    reached: threading.Event = field(default_factory=threading.Event)
    _over: threading.Event = field(default_factory=threading.Event)
    _dropped: bool = False

    def go(self) -> None:
        """Let it pass."""
        self._over.set()

    def drop(self) -> None:
        """Break its connection instead."""
        self._dropped = True
        self._over.set()

    def hold(self) -> None:
        """The request is here."""
        self.reached.set()
        self._over.wait(HELD)
        if self._dropped:
            raise Broken(reset=False)


class Gate(FaultProxy):
    """A proxy without faults that can stop a request."""

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream)
        self._stops: list[Stop] = []
        self._counting = threading.Lock()  # guards _stops and their counts

    def stop(self, method: str, path: str, nth: int = 1) -> Stop:
        """Stop the *nth* such request from now on."""
        stop = Stop(method, path, nth)
        with self._counting:
            self._stops.append(stop)
        return stop

    def met_by(self, exchange: Exchange) -> list[Fault]:
        """Nothing, once it may pass."""
        met = super().met_by(exchange)
        with self._counting:
            due = [stop for stop in self._stops if _counts_down(stop, exchange)]
        for stop in due:
            stop.hold()
        return met


def _counts_down(stop: Stop, exchange: Exchange) -> bool:
    """True when *exchange* is the one that *stop* waits for."""
    if (stop.method, stop.path) != (exchange.method, exchange.kind):
        return False
    stop.left -= 1
    return stop.left == 0


def run_all(
    commands: Mapping[str, Sequence[object]], environment: Mapping[str, str]
) -> dict[str, Finished]:
    """Run each of the named *commands*, all in one process, and say how it ended."""
    words = [[str(word) for word in line] for line in commands.values()]
    ended = run_many(words, environment)
    return {name: Finished(*one, 0) for name, one in zip(commands, ended)}


def kill_at(
    reached: threading.Event,
    run_cli: Command,
    *arguments: object,
    ready: Callable[[], bool] = lambda: True,
    **options: Any,
) -> None:
    """Run the command until it has *reached* the place and is *ready*: ``kill -9``."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    child = run_cli.start(*arguments, **quiet, **options)
    try:
        assert reached.wait(HELD)
        wait_for(ready, child)
    finally:
        child.kill()
        child.wait()


def check_error(done: Finished, code: int, *said: str) -> None:
    """It ended with *code* and one line that has all of *said* in it."""
    assert done.returncode == code, done.stderr
    assert done.error.startswith("error: "), done.stderr
    assert done.stderr.count("error: ") == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "bug" not in done.error
    for words in said:
        assert words in done.error, done.error
