"""Nothing is done twice: what was sent once is neither read nor sent again."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from archives import Image, named_by_digest, tar
from images import MIB, docker_archive, large_archive, small_archive, tar_of
from registries import read_back
from suites import crossed

from dockerpush.server import Registry, RegistryServer

REPORT = """
import sys
from dockerpush.cli.main import main
code = main(sys.argv[1:])
print(open("/proc/self/io").read(), file=sys.stderr)
raise SystemExit(code)
"""


@pytest.fixture
def embedded(tmp_path: Path):
    seen: list = []
    registry = Registry(tmp_path / "registry")
    with RegistryServer(registry, on_request=seen.append) as server:
        server.seen = seen
        yield server


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return small_archive(tmp_path / "image.tar")


def bytes_read(run_cli, *arguments: object) -> int:
    """What a run of the command read from files, sockets and all, in bytes."""
    done = subprocess.run(
        [sys.executable, "-c", REPORT, *map(str, arguments)],
        env={**run_cli.environment(), "PYTHONPATH": str(Path(__file__).parents[2])},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        timeout=120,
    )
    return int(re.search(r"rchar: (\d+)", done.stderr.decode())[1])


@pytest.mark.parametrize(
    ("state", "compressible"), crossed(["kept", "lost", "trusting"], [True, False])
)
def test_the_second_push_reads_no_layer_and_takes_few_requests(
    compressible, state, tmp_path, embedded, run_cli
):
    """A machine that has lost its memory compresses again, unless it trusts the tag."""
    sizes = [16 * MIB, 8 * MIB, 8 * MIB]
    path = large_archive(tmp_path / "i.tar", sizes, compressible=compressible)
    target = f"{embedded.host}/again:1"
    assert run_cli("push", path, "-t", target).returncode == 0
    if state != "kept":
        run_cli.state = tmp_path / "another"
    more = ["--trust-target"] if state == "trusting" else []
    dry = bytes_read(run_cli, "push", path, "-t", target, "--dry-run", *more)
    embedded.seen.clear()
    again = bytes_read(run_cli, "push", path, "-t", target, *more)
    compresses = compressible and state == "lost"
    assert again - dry < 2 * MIB + compresses * sum(sizes)
    assert again < 12 * MIB + compresses * sum(sizes)
    methods = [one.method for one in embedded.seen]
    assert len(methods) <= 5
    assert methods.count("PUT") == 1
    assert sum(one.received for one in embedded.seen) < 10_000


def test_a_new_tag_of_a_known_image_asks_only_whether_the_blobs_are_there(
    archive, embedded, run_cli
):
    run_cli("push", archive, "-t", f"{embedded.host}/app:1")
    embedded.seen.clear()
    done = run_cli("push", archive, "-t", f"{embedded.host}/app:2", "--json")
    assert done.json["bytes"] == 0
    assert {one.method for one in embedded.seen} == {"GET", "HEAD", "PUT"}
    assert done.json["blobs"]["reused"] == 2


def test_another_repository_of_the_registry_lends_its_blobs(archive, embedded, run_cli):
    run_cli("push", archive, "-t", f"{embedded.host}/one/app:1")
    done = run_cli("push", archive, "-t", f"{embedded.host}/two/app:1", "--json")
    assert done.json["blobs"]["mounted"] == 3
    stored = read_back(embedded.host, "two/app", "1")
    assert stored.layers == stored.diff_ids


def test_it_lends_them_to_a_pipe_too(tmp_path, embedded, run_cli):
    """Layers that are called by their digests need not be read to be known."""
    image = Image.of("lent " * 5000, "and this " * 5000, tags=("app:1",))
    path = tar(tmp_path / "app.tar", named_by_digest(image))
    for name in ("one", "two"):
        line = ("push", "-", "-t", f"{embedded.host}/{name}/app:1", "--json")
        done = run_cli(*line, stdin=path)
        assert done.returncode == 0, done.stderr
    assert done.json["blobs"].get("mounted") == 2
    assert done.json["bytes"] < 1000  # the config
    stored = read_back(embedded.host, "two/app", "1")
    assert stored.layers == stored.diff_ids


def test_a_registry_that_lost_a_blob_gets_it_again(archive, embedded, run_cli):
    target = f"{embedded.host}/lost:1"
    first = run_cli("push", archive, "-t", target, "--json").json
    for digest in read_back(embedded.host, "lost", "1").blobs:
        delete(embedded.host, f"/v2/lost/blobs/{digest}")
    done = run_cli("push", archive, "-t", target, "--json")
    assert done.returncode == 0, done.stderr
    assert done.json["digest"] == first["digest"]
    assert "lost" in done.stderr
    stored = read_back(embedded.host, "lost", "1")
    assert stored.layers == stored.diff_ids


@pytest.mark.parametrize(
    "content",
    [b"{", b"[]", b'{"layers": 7}', b"\xff\xfe", b'{"layers": {"gzip x": {}}}'],
)
def test_a_broken_memory_costs_time_and_nothing_else(
    content, archive, embedded, run_cli
):
    run_cli.state.mkdir()
    (run_cli.state / "blobs.json").write_bytes(content)
    done = run_cli("push", archive, "-t", f"{embedded.host}/app:1")
    assert done.returncode == 0, done.stderr
    stored = read_back(embedded.host, "app", "1")
    assert stored.layers == stored.diff_ids


def test_a_memory_that_lies_about_sizes_is_not_believed(archive, embedded, run_cli):
    target = f"{embedded.host}/app:1"
    run_cli("push", archive, "-t", target)
    file = run_cli.state / "blobs.json"
    record = json.loads(file.read_text())
    for layer in record["layers"].values():
        layer["size"] += 1
    file.write_text(json.dumps(record))
    done = run_cli("push", archive, "-t", f"{embedded.host}/app:2")
    assert done.returncode == 0, done.stderr
    stored = read_back(embedded.host, "app", "2")
    assert stored.layers == stored.diff_ids


def test_a_level_that_is_asked_for_is_not_replaced_by_another(
    archive, embedded, run_cli
):
    target = f"{embedded.host}/app:1"
    first = run_cli("push", archive, "-t", target, "--json").json
    best = run_cli("push", archive, "-t", target, "--json", "--compress-level", "9")
    assert best.json["digest"] != first["digest"]


def test_a_hundred_small_layers_cost_three_requests_each(tmp_path, embedded, run_cli):
    layers = [tar_of({f"f{n}": os.urandom(200)}) for n in range(100)]
    path = docker_archive(tmp_path / "many.tar", layers)
    done = run_cli("push", path, "-t", f"{embedded.host}/many:1")
    assert done.returncode == 0, done.stderr
    assert len(embedded.seen) <= 3 * 101 + 5


def delete(host: str, path: str) -> None:
    import http.client

    connection = http.client.HTTPConnection(host)
    connection.request("DELETE", path)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    assert answer.status == 202
