"""A registry in a crowd: many pulls and pushes at once, by one curl for all of them.

What is measured is the registry: its memory and its processor; the time is until all
are served. A request that fails, or brings less than it should, fails the round.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import random
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, ContextManager, Iterator, Sequence
from urllib.parse import urljoin

from tests.support.images import MIB, config_of, digest_of
from tests.support.registries import start_docker_registry

from .measure import CommandFailed, Cost, cpu_seconds, family, peak_memory
from .peers import REGISTRY, SERVE, environment
from .results import Round
from .turns import Turns, emptied

CROWD = "serve"
"""The start of the name of this case."""

PULLS, PUSHES = 200, 50
LAYERS = 4
LAYER_SIZE = MIB
AT_ONCE = 250

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


@dataclass(frozen=True)
class Transfer:
    """One request; *body* is a file that is sent, *size* what has to come."""

    method: str
    url: str
    status: int
    body: Path | None = None
    size: int = 0

    def lines(self) -> list[str]:
        """What curl's config has for it."""
        lines = [f'url = "{self.url}"', f'request = "{self.method}"']
        lines += ["globoff", 'output = "/dev/null"']
        shown = r"%{http_code} %{size_download} %{url} %header{location}\n"
        lines += [f'write-out = "{shown}"', f'header = "Content-Type: {MANIFEST}"']
        lines += [f'header = "Accept: {MANIFEST}"']
        if self.method == "POST":
            lines.append('data = ""')
        if self.body is not None:
            lines += [f'upload-file = "{self.body}"', 'header = "Expect:"']
        return ["silent", "show-error", *lines]


@dataclass(frozen=True)
class Picture:
    """An image in files: its blobs by digest, and its manifest."""

    blobs: dict[str, Path]
    manifest: Path


@dataclass(frozen=True)
class Crowd:
    """*pulls* of one image, and *pushes* of others, at the same time."""

    name: str
    rounds: int
    pulls: int = PULLS
    pushes: int = PUSHES

    @contextlib.contextmanager
    def ready(self, directory: Path) -> Iterator[Turns]:
        """The images made, for the ``with``."""
        with emptied(directory / "image") as made:
            images = [picture(made, number) for number in range(self.pushes + 1)]
            servers = {SERVE: our_server, REGISTRY: their_server}
            rounds = {
                peer: functools.partial(self._round, server, images, directory)
                for peer, server in servers.items()
            }
            yield Turns(LAYERS * LAYER_SIZE, rounds)

    def _round(
        self,
        server: Callable[[Path], ContextManager[str]],
        images: Sequence[Picture],
        directory: Path,
    ) -> Round:
        with emptied(directory / "server") as place, server(place) as url:
            (pid,) = family(os.getpid())[1:2]
            pushed = [f"{url}/v2/crowd/{number}" for number in range(self.pushes)]
            push([f"{url}/v2/crowd/shared"], images[:1], [], place)
            before = cpu_seconds(pid)
            started = time.monotonic()
            pulls = pull(f"{url}/v2/crowd/shared", images[0]) * self.pulls
            push(pushed, images[1:], pulls, place)
            wall = time.monotonic() - started
            memory = sum(map(peak_memory, family(pid)))
            cost = Cost(wall, cpu_seconds(pid) - before, memory, 0)
            for base in pushed:
                with urllib.request.urlopen(f"{base}/tags/list") as answer:
                    assert json.load(answer)["tags"] == ["1"]
            return Round(cost, None, (self.pushes + 1) * LAYERS * LAYER_SIZE)


def crowd_case(rounds: int) -> Crowd:
    """The one that there is."""
    return Crowd(f"{CROWD}, {PULLS} pulls and {PUSHES} pushes at once", rounds)


def picture(directory: Path, number: int) -> Picture:
    """An image of layers that nobody else has."""
    source = random.Random(number)
    layers = [source.randbytes(LAYER_SIZE) for _ in range(LAYERS)]
    config = config_of([digest_of(layer) for layer in layers])
    record = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": described(CONFIG, config),
        "layers": [described(LAYER, layer) for layer in layers],
    }
    contents = [*layers, config]
    files = [directory / f"{number}-{place}" for place in range(len(contents) + 1)]
    for file, content in zip(files, [*contents, json.dumps(record).encode()]):
        file.write_bytes(content)
    return Picture(dict(zip(map(digest_of, contents), files)), files[-1])


def described(media_type: str, content: bytes) -> dict[str, object]:
    """The descriptor of *content*."""
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    return {"mediaType": media_type, "digest": digest, "size": len(content)}


def pull(base: str, image: Picture) -> list[Transfer]:
    """What a client asks for that has nothing of *image*."""
    size = image.manifest.stat().st_size
    blobs = [
        Transfer("GET", f"{base}/blobs/{digest}", 200, size=file.stat().st_size)
        for digest, file in image.blobs.items()
    ]
    return [Transfer("GET", f"{base}/manifests/1", 200, size=size), *blobs]


def push(
    bases: Sequence[str], images: Sequence[Picture], others: list[Transfer], place: Path
) -> None:
    """Push each of *images* to one of *bases*, its blobs together with the *others*."""
    blobs = [
        (base, digest, file)
        for base, image in zip(bases, images)
        for digest, file in image.blobs.items()
    ]
    posts = [Transfer("POST", f"{base}/blobs/uploads/", 202) for base, _, _ in blobs]
    puts, sessions = [], transferred(posts, place)
    for base, digest, file in blobs:
        opening = f"{base}/blobs/uploads/"
        session = urljoin(opening, sessions[opening].pop())
        joint = "&" if "?" in session else "?"
        puts.append(Transfer("PUT", f"{session}{joint}digest={digest}", 201, file))
    mixed = [*others, *puts]
    random.Random(1).shuffle(mixed)
    transferred(mixed, place)
    manifests = [
        Transfer("PUT", f"{base}/manifests/1", 201, image.manifest)
        for base, image in zip(bases, images)
    ]
    transferred(manifests, place)


def transferred(transfers: Sequence[Transfer], place: Path) -> dict[str, list[str]]:
    """Do *transfers* at once; each Location that came, by the URL that was asked.

    Raises CommandFailed for one that did not end as it should.
    """
    config = place / "curl"
    config.write_text("\nnext\n".join("\n".join(one.lines()) for one in transfers))
    words = ["curl", "--parallel", "--parallel-immediate", "--parallel-max"]
    words += [str(AT_ONCE), "--config", str(config)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    lines = [line.split(" ", 3) for line in done.stdout.splitlines()]
    got = sorted((int(line[0]), int(line[1])) for line in lines)
    sizes = sorted(one.size for one in transfers if one.method == "GET")
    right = sorted(one.status for one in transfers) == [status for status, _ in got]
    right = right and sizes == sorted(size for status, size in got if status == 200)
    if done.returncode or not right:
        counts = {status: [s for s, _ in got].count(status) for status, _ in got}
        said = f"exit {done.returncode}, statuses {counts}: {done.stderr[:500]}"
        raise CommandFailed(f"{len(transfers)} requests at once: {said}")
    locations: dict[str, list[str]] = {}
    for _, _, url, location in lines:
        locations.setdefault(url, []).append(location)
    return locations


@contextlib.contextmanager
def our_server(place: Path) -> Iterator[str]:
    """The URL of `dockerpush serve`, which notes each request as the other does."""
    words = [sys.executable, "-m", "dockerpush", "serve", "--port", "0"]
    words += ["--dir", str(place / "store"), "--access-log", str(place / "log")]
    child = subprocess.Popen(
        words,
        env=environment(place, place, None),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with child:
        try:
            yield child.stdout.readline().strip().rstrip("/")
        finally:
            child.terminate()
            child.wait(20)


@contextlib.contextmanager
def their_server(place: Path) -> Iterator[str]:
    """The URL of docker-registry."""
    with start_docker_registry(place / "run") as registry:
        yield registry.url
