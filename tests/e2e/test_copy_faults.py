"""Faults between a copy and its source, and between a copy and its target; and kills.

What passes by itself is survived with the digest unchanged. What stays ends in one line
and the right exit code, and no tag is moved.
"""

from __future__ import annotations

import contextlib
import functools
import random
import socket
import urllib.error
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterable, Iterator, Mapping

import pytest
from conftest import Command, Finished
from copied import Layout, assert_whole, read, store
from faultproxy import ALWAYS, Effect, Fault, FaultProxy
from images import MIB
from peers import answer, peer, read_head
from pushed import put_old_image
from registries import DockerRegistry, read_back
from suites import first
from test_resume import nginx
from transfers import (
    Gate,
    blobs_below,
    check_error,
    kill_at,
    noise_layer,
    run_all,
)

from dockerpush.oci import OCI_INDEX
from dockerpush.server import Registry, RegistryServer

PLAIN = ("--plain-http", "--src-plain-http")
QUICK = ("--retry-times", "2", "--retry-delay", "0.01", "--blob-chunk", "64KiB")
WRONG = f"sha256:{'0' * 64}"
PAGE = b"<html>please log in</html>"
HTML = {"status": 200, "body": PAGE, "headers": {"Content-Type": "text/html"}}


REFUSED, ANSWERED = Effect.REPLACE_REQUEST, Effect.REPLACE_ANSWER
CUT, LOST = Effect.CUT_REQUEST, Effect.LOSE_ANSWER
BLOB, MANIFEST = ("GET", "blob"), ("GET", "manifest")
SENT, CHUNK_SENT, STORED = ("PUT", "upload"), ("PATCH", "upload"), ("PUT", "manifest")


def source(effect: Effect, where: tuple[str, str], **options: Any) -> Case:
    """A fault between the source and the copy."""
    return case("source", effect, where, **options)


def target(effect: Effect, where: tuple[str, str], **options: Any) -> Case:
    """A fault between the copy and the target."""
    return case("target", effect, where, **options)


@dataclass(frozen=True)
class Case:
    """A fault on one *side*, and the exit code and words that it is to end with."""

    side: str
    fault: Fault
    code: int
    said: str
    flags: tuple[str, ...]


def case(side: str, effect: Effect, where: tuple[str, str], **options: Any) -> Case:
    """A case; one that ends with a *code* has a fault that stays."""
    code, said = options.pop("code", 0), options.pop("said", "")
    flags = options.pop("flags", ())
    options.setdefault("times", ALWAYS if code else 1)
    options.setdefault("headers", {"Retry-After": "0"})
    return Case(side, Fault(effect, *where, **options), code, said, flags)


OTHER = {"status": 201, "headers": {"Docker-Content-Digest": WRONG}}

PASSING = {
    "cut": source(Effect.CUT_ANSWER, BLOB, times=4, after=40_000, reset=False),
    "reset": source(Effect.CUT_ANSWER, BLOB, times=2),
    "manifest cut": source(Effect.CUT_ANSWER, MANIFEST, times=2, after=100),
    "503": source(REFUSED, BLOB, times=2, status=503),
    "child 503": source(REFUSED, MANIFEST, nth=2, status=503),
    "429": source(REFUSED, BLOB, nth=2, status=429),
    "byte": source(Effect.CORRUPT_ANSWER, BLOB),
    "short": source(ANSWERED, BLOB, status=200, body=b"x" * 90),
    "page": source(ANSWERED, BLOB, **HTML),
    "chunk cut": target(CUT, CHUNK_SENT, nth=2, after=30_000),
    "manifest sent cut": target(CUT, STORED, nth=3, after=40),
    "chunk's answer lost": target(LOST, CHUNK_SENT, nth=3),
    "tag's answer lost": target(LOST, STORED, nth=4),
    "all broken": target(Effect.KILL, CHUNK_SENT, nth=3, after=20_000),
    "chunk 503": target(REFUSED, CHUNK_SENT, nth=2, status=503),
    "session 503": target(REFUSED, ("POST", "upload"), times=2, status=503),
    "stored 503": target(REFUSED, STORED, times=2, status=503),
    "look 503": target(REFUSED, ("HEAD", ""), times=2, status=503),
    "413": target(REFUSED, SENT, status=413, flags=("--blob-chunk", "50MiB")),
}

LASTING = {
    "cut": source(Effect.CUT_ANSWER, BLOB, code=5, said="blob sha256:"),
    "manifest cut": source(
        Effect.CUT_ANSWER, MANIFEST, after=99, code=5, said="/app:1: "
    ),
    "byte": source(Effect.CORRUPT_ANSWER, BLOB, code=6, said="blob sha256:"),
    "short": source(ANSWERED, BLOB, status=200, body=b"x" * 90, code=6, said="blob "),
    "empty": source(ANSWERED, BLOB, status=200, code=6, said="blob sha256:"),
    "page": source(ANSWERED, BLOB, code=6, said="blob sha256:", **HTML),
    "manifest byte": source(Effect.CORRUPT_ANSWER, MANIFEST, code=6, said="digest"),
    "manifest page": source(ANSWERED, MANIFEST, code=6, said="not JSON", **HTML),
    "child page": source(ANSWERED, MANIFEST, nth=2, code=6, said="digest", **HTML),
    "503": source(REFUSED, BLOB, status=503, code=1, said="503"),
    "manifest 503": source(REFUSED, MANIFEST, status=503, code=1, said="503"),
    "401": source(REFUSED, BLOB, nth=2, status=401, code=3, said="401"),
    "child 401": source(REFUSED, MANIFEST, nth=3, status=401, code=3, said="401"),
    "404": source(REFUSED, BLOB, status=404, code=4, said="blob sha256:"),
    "sent cut": target(CUT, ("", "upload"), code=5, said="blob"),
    "manifest sent cut": target(CUT, STORED, code=5, said="cannot push 127.0.0.1:"),
    "sent 503": target(REFUSED, SENT, status=503, code=1, said="503"),
    "tag 503": target(REFUSED, STORED, nth=4, status=503, code=1, said="503"),
    "sent 401": target(REFUSED, SENT, nth=2, status=401, code=3, said="401"),
    "tag 401": target(REFUSED, STORED, nth=4, status=401, code=3, said="401"),
    "sent 413": target(REFUSED, ("", "upload"), nth=2, status=413, code=1, said="413"),
    "tag 413": target(REFUSED, STORED, nth=4, status=413, code=1, said="413"),
    "sent page": target(REFUSED, SENT, code=1, **HTML),
    "tag page": target(REFUSED, STORED, nth=4, code=1, said="login page", **HTML),
    "blob's digest": target(REFUSED, SENT, code=6, said=WRONG, **OTHER),
    "child's digest": target(ANSWERED, STORED, code=6, said=WRONG, **OTHER),
    "tag's digest": target(REFUSED, STORED, nth=4, code=6, said=WRONG, **OTHER),
}


@dataclass(frozen=True)
class Place:
    """A source with app:1, an index of two platforms and an attestation; a target.

    *old* is the manifest of another image, which the target has as old:1.
    """

    source: str
    target: str
    digest: str
    old: bytes

    @contextlib.contextmanager
    def behind(
        self, side: str, fault: Fault, repository: str, *flags: str
    ) -> Iterator[list[object]]:
        """What copies app:1 to *repository*:1, with *fault* on one *side*.

        The fault has to be met by the end.
        """
        with contextlib.ExitStack() as stack:
            proxies = {
                name: stack.enter_context(FaultProxy(host, [fault] * (side == name)))
                for name, host in (("source", self.source), ("target", self.target))
            }
            names = (proxies["source"].host, proxies["target"].host)
            images = (f"{names[0]}/app:1", f"{names[1]}/{repository}:1")
            yield ["copy", *images, *PLAIN, *QUICK, "--json", *flags]
            assert any(one.effects for one in proxies[side].log), fault

    def again(self, repository: str) -> list[object]:
        """What copies app:1 to *repository*:1 with no fault on the way."""
        images = (f"{self.source}/app:1", f"{self.target}/{repository}:1")
        return ["copy", *images, "--json"]

    def check_arrived(self, repository: str, done: Finished) -> None:
        """All of it is there, byte for byte."""
        assert done.returncode == 0, done.stderr
        assert done.json["digest"] == self.digest
        raw = read(self.target, repository, "1")
        assert raw == read(self.source, "app", "1")
        assert_whole(self.target, repository, raw)


@pytest.fixture(scope="module")
def places(
    shared_docker_registry: DockerRegistry, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Place]]:
    """From docker-registry to the embedded one for faults at the source, and back."""
    directory = tmp_path_factory.mktemp("places")
    layout, old = (Layout(directory / name) for name in ("layout", "old"))
    images = [layout.image("linux", one, size=100_000) for one in ("amd64", "arm64")]
    index = layout.index(*images, layout.attestation(images[0]))
    layout.root(index)
    old.root(old.image("linux", "amd64"))
    with RegistryServer(Registry(directory / "embedded")) as server:
        hosts = (shared_docker_registry.host, server.host)
        for host in hosts:
            layout.send(host, "app")
            old.send(host, "old")
        yield {
            side: Place(*pair, index["digest"], read(pair[1], "old", "1"))
            for side, pair in (("source", hosts), ("target", hosts[::-1]))
        }


def repository_of(name: str) -> str:
    """A repository for the case *name*."""
    return "faults/" + name.replace(" ", "-").replace("'", "")


def asked_for(
    request: pytest.FixtureRequest, table: Mapping[str, Case]
) -> dict[str, Case]:
    """The rows of *table* that are the ``name`` of a test that is to run."""
    mine = (item for item in request.session.items if item.path == request.path)
    rows = (getattr(item, "callspec", None) for item in mine)
    names = {row.params.get("name") for row in rows if row}
    return {name: case for name, case in table.items() if name in names}


Ended = dict[str, Finished]


@pytest.fixture(scope="module")
def ended(
    request: pytest.FixtureRequest,
    places: dict[str, Place],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Ended, Ended, Ended]:
    """How PASSING ended, and LASTING, and what of that was tried again afterwards.

    Of each what a test of this run asks for.
    """
    passing, lasting = (asked_for(request, table) for table in (PASSING, LASTING))
    directory = tmp_path_factory.mktemp("ended")
    environment = Command(directory, directory).environment()
    results = []
    for prefix, cases in (("passing", passing), ("lasting", lasting)):
        with contextlib.ExitStack() as stack:
            commands = {}
            for name, case in cases.items():
                repository = repository_of(f"{prefix} {name}")
                place = places[case.side]
                put_old_image(place.target, repository, "old", place.old)
                behind = place.behind(case.side, case.fault, repository, *case.flags)
                commands[name] = stack.enter_context(behind)
            results.append(run_all(commands, environment))
    tags = {
        name: read(places[case.side].target, repository_of(f"lasting {name}"), "1")
        for name, case in lasting.items()
    }
    for name, case in lasting.items():
        assert tags[name] == places[case.side].old, name
    again = {
        name: places[case.side].again(repository_of(f"lasting {name}"))
        for name, case in lasting.items()
        if case.code == 6
    }
    return results[0], results[1], run_all(again, environment)


class TestFaults:
    """All commands of a table run in one process, which only saves its start."""

    @pytest.mark.parametrize("name", PASSING)
    def test_what_passes_is_survived(self, name, ended, places):
        place = places[PASSING[name].side]
        place.check_arrived(repository_of(f"passing {name}"), ended[0][name])

    @pytest.mark.parametrize("name", LASTING)
    def test_what_stays_ends_in_one_line(self, name, ended):
        """That no tag was moved has been looked at before anything else was done."""
        check_error(ended[1][name], LASTING[name].code, LASTING[name].said)
        assert ended[1][name].stdout == ""

    @pytest.mark.parametrize("name", [n for n in LASTING if LASTING[n].code == 6])
    def test_the_same_command_does_it_when_what_was_wrong_is_right(
        self, name, ended, places
    ):
        place = places[LASTING[name].side]
        place.check_arrived(repository_of(f"lasting {name}"), ended[2][name])

    @pytest.mark.parametrize("name", ["chunk cut"])
    def test_a_temporary_fault_in_a_process_of_its_own(self, name, places, run_cli):
        case, repository = PASSING[name], repository_of(f"process {name}")
        place = places[case.side]
        with place.behind(case.side, case.fault, repository) as command:
            place.check_arrived(repository, run_cli(*command))

    @pytest.mark.parametrize("name", ["page", "tag 503"])
    def test_what_stays_by_a_process_of_its_own(self, name, places, run_cli):
        case, repository = LASTING[name], repository_of(f"process {name}")
        place = places[case.side]
        put_old_image(place.target, repository, "old", place.old)
        with place.behind(case.side, case.fault, repository) as command:
            check_error(run_cli(*command), case.code, case.said)
        assert read(place.target, repository, "1") == place.old

    @pytest.mark.parametrize(
        ("side", "where"),
        [("source", BLOB), ("target", CHUNK_SENT), ("target", STORED)],
    )
    def test_a_token_that_ends_in_the_middle_is_fetched_again(
        self, side, where, places, run_cli
    ):
        repository = repository_of(f"token {where[1]}")
        with token_server() as (realm, asked):
            challenge = f'Bearer realm="{realm}",service="tests",scope="repository:x"'
            headers = {"WWW-Authenticate": challenge}
            fault = Fault(REFUSED, *where, nth=2, status=401, headers=headers)
            with places[side].behind(side, fault, repository) as command:
                done = run_cli(*command)
        places[side].check_arrived(repository, done)
        assert asked

    def test_another_digest_in_the_header_of_the_source(self, places, run_cli):
        place, repository = places["source"], repository_of("header")
        headers = {"Docker-Content-Digest": WRONG, "Content-Type": OCI_INDEX}
        raw = read(place.source, "app", "1")
        fault = Fault(ANSWERED, *MANIFEST, status=200, body=raw, headers=headers)
        with place.behind("source", fault, repository) as command:
            check_error(run_cli(*command), 6, WRONG)


@contextlib.contextmanager
def token_server() -> Iterator[tuple[str, list[str]]]:
    """Gives a token to whoever asks; its realm, and what was asked."""
    asked: list[str] = []

    def handle(sock: socket.socket) -> None:
        asked.append(read_head(sock))
        sock.sendall(answer(200, b'{"token": "anybody"}'))

    with peer(handle) as port:
        yield f"http://127.0.0.1:{port}/token", asked


SMALL, BIG = 700_000, 6 * MIB
CHUNK = MIB
CHUNKS = ("--blob-chunk", str(CHUNK), "-j", "1")


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[list[str]]:
    """Two embedded registries; the first holds app:1, a small layer and a big one."""
    with contextlib.ExitStack() as stack:
        hosts = [
            stack.enter_context(RegistryServer(Registry(tmp_path / name))).host
            for name in ("one", "two")
        ]
        store(hosts[0], "app", [noise_layer(SMALL, 1), noise_layer(BIG, 2)])
        yield hosts


def gets(proxy: FaultProxy, start: int = 0) -> set[str]:
    """Digests of the blobs that were asked for from exchange *start* on."""
    asked = proxy.log[start:]
    return {
        one.target.rpartition("/")[2]
        for one in asked
        if (one.method, one.kind) == ("GET", "blob")
    }


def check_read_back(source: str, target: str, repository: str) -> None:
    """skopeo reads at the target what the source has."""
    stored = read_back(target, repository, "1")
    assert stored.manifest_bytes == read(source, "app", "1")
    assert stored.layers == stored.diff_ids


class TestKills:
    """``kill -9`` again and again, and then the same command once more."""

    @pytest.mark.parametrize("seed", first(1, range(2)))
    def test_inside_a_blob_it_continues_in_its_session(self, seed, embedded, run_cli):
        """Killed twice at random bytes of random chunks, the embedded registry keeps
        what arrived: each byte is sent about once. The source is read again up to
        there, because what is sent is hashed from its first byte on."""
        source, target = embedded
        chunks = random.Random(seed).sample(range(6), 2)
        held = tuple(
            Fault(
                Effect.HOLD,
                "PATCH",
                nth=chunk + 1,
                after=random.Random(chunk).randrange(CHUNK),
            )
            for chunk in sorted(chunks)
        )
        with FaultProxy(source) as one, FaultProxy(target) as two:
            schedule = two.schedule("kill", *held)
            copy = ("copy", f"{one.host}/app:1", f"{two.host}/kill:1", *PLAIN, *CHUNKS)
            for _ in held:
                kill_at(schedule.held, run_cli, *copy)
                two.settle()
                schedule.held.clear()
            before = len(one.log)
            done = run_cli(*copy)
            assert done.returncode == 0, done.stderr
            sizes = blobs_below(source, "app", "1")
            assert schedule.sent < 1.1 * sum(sizes.values())
            assert gets(one, before) == {max(sizes, key=lambda name: sizes[name])}
            asked = Counter(blob.target for blob in one.exchanges("GET", "blob"))
            assert max(asked.values()) == 1 + len(held)
        check_read_back(source, target, "kill")

    def test_between_two_chunks_docker_registry_keeps_the_session_as_well(
        self, embedded, docker_registry, run_cli
    ):
        source, target = embedded[0], docker_registry.host
        with Gate(target) as gate:
            copy = ("copy", f"{source}/app:1", f"{gate.host}/kill:1", *PLAIN, *CHUNKS)
            for _ in range(2):
                stop = gate.stop("PATCH", "upload", 3)
                kill_at(stop.reached, run_cli, *copy)
                stop.drop()
                gate.settle()
            done = run_cli(*copy)
            assert done.returncode == 0, done.stderr
            sizes = blobs_below(source, "app", "1")
            # It answers the POST of the config with a session, which gets it once more.
            assert gate.sent("upload") == sum(sizes.values()) + min(sizes.values())
        check_read_back(source, target, "kill")

    def test_inside_a_chunk_a_buffering_proxy_keeps_it_for_docker_registry(
        self, embedded, docker_registry, run_cli, tmp_path
    ):
        source, target = embedded[0], docker_registry.host
        with (
            nginx(target, tmp_path / "nginx") as front,
            FaultProxy(front) as proxy,
        ):
            held = Fault(Effect.HOLD, "PATCH", nth=4, after=300_000)
            schedule = proxy.schedule("kill", held)
            copy = ("copy", f"{source}/app:1", f"{proxy.host}/kill:1", *PLAIN, *CHUNKS)
            kill_at(schedule.held, run_cli, *copy)
            done = run_cli(*copy)
            assert done.returncode == 0, done.stderr
            sizes = blobs_below(source, "app", "1")
            assert schedule.sent < sum(sizes.values()) + CHUNK
        check_read_back(source, target, "kill")

    def test_stored_blobs_are_neither_read_nor_sent_again(
        self, embedded, docker_registry, run_cli
    ):
        """docker-registry 2.8 drops a session whose request broke; only that blob is
        sent anew, three at a time."""
        source, target = embedded[0], docker_registry.host
        size, count = 1_100_000, 12  # too large for the lane of what is small
        store(source, "app", [noise_layer(size, n) for n in range(count)])
        steps = (4, 3)
        with FaultProxy(source) as one, FaultProxy(target) as two:
            schedule = two.schedule("kill")
            copy = ("copy", f"{one.host}/app:1", f"{two.host}/kill:1", *PLAIN)

            def has_stored(count: int) -> bool:
                puts = schedule.exchanges("PUT", "upload")
                return sum(exchange.status == 201 for exchange in puts) >= count

            for number, step in enumerate(steps):
                nth = len(schedule.exchanges("PUT", "upload")) + step
                held = Fault(
                    *(Effect.HOLD, "PUT", "upload", nth + 1),
                    times=ALWAYS,
                    after=99_000,
                )
                schedule.faults = (held,)
                ready = functools.partial(has_stored, sum(steps[: number + 1]))
                kill_at(schedule.held, run_cli, *copy, ready=ready)
                two.settle()
                schedule.held.clear()
            schedule.faults = ()
            arrived = blobs_held(target, "kill", blobs_below(source, "app", "1"))
            before, asked = len(one.log), len(schedule.requests)
            done = run_cli(*copy)
            assert done.returncode == 0, done.stderr
            assert len(arrived) >= sum(steps) - 1  # one PUT may be that of the config
            assert gets(one, before).isdisjoint(arrived)
            sent = [one for one in schedule.requests[asked:] if one.startswith("PUT")]
            assert not [one for one in sent for digest in arrived if digest in one]
            whole = sum(blobs_below(source, "app", "1").values())
            assert schedule.sent < whole + len(steps) * 3 * (size + 10_240)
        check_read_back(source, target, "kill")


def blobs_held(host: str, repository: str, digests: Iterable[str]) -> set[str]:
    """Those of *digests* that the repository has."""
    found = set()
    for digest in digests:
        with contextlib.suppress(urllib.error.HTTPError):
            read(host, repository, digest, "blobs")
            found.add(digest)
    return found
