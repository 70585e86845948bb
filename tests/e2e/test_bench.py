"""The bench measures: costs, the floor, the slow link, the table, the pictures."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

import pytest
from suites import first

from tests.bench import (
    copies,
    crowd,
    deltas,
    images,
    link,
    measure,
    peers,
    picture,
    results,
    svg,
    syncs,
    table,
    turns,
    volumes,
)
from tests.support.registries import start_docker_registry

MIB = 1024 * 1024

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the bench reads Linux's /proc"
)

HOLDS = f"""
import tempfile, time
block = b"x" * {MIB}
kept = [block * 40]
with tempfile.TemporaryFile() as file:
    for _ in range(8):
        file.write(block)
    file.flush()
    time.sleep(0.3)
"""


def test_memory_and_nameless_files_of_a_child_are_seen(tmp_path):
    command = ["sh", "-c", '"$0" -c "$1"; true', sys.executable, HOLDS]
    (tmp_path / "tmp").mkdir()
    environment = peers.environment(tmp_path, tmp_path / "tmp", None)
    cost = measure.measure(command, environment, [tmp_path / "tmp"], tmp_path / "log")
    assert 40 * MIB < cost.memory < 120 * MIB
    assert 8 * MIB <= cost.temp < 9 * MIB
    assert cost.wall > 0.3
    assert cost.cpu > 0.01


def test_a_command_that_fails_shows_its_output(tmp_path):
    command = [sys.executable, "-c", "import sys; sys.exit('no such image')"]
    environment = peers.environment(tmp_path, tmp_path, None)
    with pytest.raises(measure.CommandFailed, match="exit 1:\nno such image"):
        measure.measure(command, environment, [tmp_path], tmp_path / "log")


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
@pytest.mark.long
def test_the_floor_stores_every_blob(tmp_path):
    image = images.small_layers_image(tmp_path)
    with start_docker_registry(tmp_path / "registry", tls=True) as registry:
        target = peers.Target(registry.host, registry.authority)
        measure.measure(
            peers.floor(image, target, tmp_path),
            peers.environment(tmp_path, tmp_path, target),
            [tmp_path],
            tmp_path / "log",
        )
        stored = {path.parent.name for path in registry.storage.rglob("data")}
    assert stored == {blob.digest.partition(":")[2] for blob in image.blobs}


def test_oras_gets_a_layout_with_the_same_layers(tmp_path):
    image = images.small_layers_image(tmp_path)
    target = peers.Target("127.0.0.1:9", None)
    *words, source, reference, plain = peers.oras(image, target, tmp_path)
    assert (words, plain) == (["oras", "cp", "--from-oci-layout"], "--to-plain-http")
    assert reference == target.reference
    shown = subprocess.run(
        ["skopeo", "inspect", "--raw", f"oci:{source}"], capture_output=True, check=True
    )
    layers = [layer["digest"] for layer in json.loads(shown.stdout)["layers"]]
    assert layers == [blob.digest for blob in image.blobs[:-1]]


def test_the_slow_link_takes_its_time():
    """A round trip to connect, one for the answer, and the rate for what is sent."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        answering = threading.Thread(target=answer, args=(server, 200_000))
        answering.start()
        port = server.getsockname()[1]
        with link.slow_link(f"127.0.0.1:{port}", rate=1e6, delay=0.1) as host:
            started = time.monotonic()
            with socket.create_connection(("127.0.0.1", int(host[10:]))) as client:
                client.sendall(b"x" * 200_000)
                assert client.recv(10) == b"done"
            passed = time.monotonic() - started
        answering.join()
    assert 0.4 <= passed < 5


def answer(server: socket.socket, count: int) -> None:
    connection, _ = server.accept()
    with connection:
        while count > 0:
            count -= len(connection.recv(count))
        connection.sendall(b"done")


def run_small(case: turns.Case, directory: Path) -> dict[str, results.Round]:
    """By peer, its only round of *case*; nobody fails, and nothing is left."""
    said: list[str] = []
    found = turns.run_case(case, "", directory / "bench", said.append)
    assert [line for line in said if "exit" in line] == []
    assert list((directory / "bench").iterdir()) == []
    return {result.peer: result.rounds[0] for result in found}


@pytest.fixture(scope="module")
def copied(tmp_path_factory) -> dict[str, dict[str, results.Round]]:
    """By case and by peer, one round with a small image."""
    cases = copies.copy_cases(MIB, rounds=1)
    return {
        case.name: run_small(case, tmp_path_factory.mktemp("copies")) for case in cases
    }


@pytest.mark.long
def test_every_copy_brings_the_whole_image(copied):
    """What is stored is the same everywhere but where skopeo decompresses layers."""
    for case, by_peer in copied.items():
        sizes = {peer: done.stored for peer, done in by_peer.items()}
        assert peers.FAST in sizes
        assert peers.SKOPEO in sizes
        decompressed = "docker-archive" in case
        least = MIB if decompressed else max(sizes.values()) * 0.9
        assert sizes.pop(peers.SKOPEO) >= least, case
        assert min(sizes.values()) > max(sizes.values()) * 0.9 > 100_000, case


@pytest.mark.long
def test_a_copy_between_registries_is_done_again_and_needs_no_temp_space(copied):
    between = copied["copy, registry to registry, 1 MiB"]
    assert all(done.warm is not None for done in between.values())
    assert {done.cold.temp for done in between.values()} == {0}


@pytest.mark.long
def test_what_a_pull_keeps_in_its_cache_is_temp_space(copied):
    done = copied["copy, registry to oci-archive, 1 MiB"][peers.PULL]
    assert done.cold.temp > done.stored * 0.9


@pytest.mark.parametrize("slow", first(1, [False, True]))
def test_a_sync_finds_all_tags_in_both_registries(tmp_path, slow):
    """Both programs ask for every tag at both sides, and dockerpush writes nothing."""
    case = syncs.Sync("sync", 1, slow=slow, tags=3)
    with case.ready(tmp_path) as ready:
        assert set(ready.by_peer) == {peers.FAST, peers.SKOPEO}
        for peer, one in ready.by_peer.items():
            before = {side: requests_of(tmp_path, side) for side in SIDES}
            one()
            for side in SIDES:
                asked = requests_of(tmp_path, side) - before[side]
                paths = {path for method, path in asked if method in ("GET", "HEAD")}
                assert {f"/v2/bench/image/manifests/{tag}" for tag in "012"} <= paths
                writing = {method for method, _ in asked} - {"GET", "HEAD"}
                assert not (writing and peer == peers.FAST)


def test_a_delta_has_the_bytes_of_what_has_changed(tmp_path):
    case = deltas.Delta("delta", 1, images=4, changed=1, layer=MIB)
    with case.ready(tmp_path) as ready:
        done = {peer: one() for peer, one in ready.by_peer.items()}
    whole, alone = done[peers.FAST], done[deltas.ALONE]
    assert MIB < alone.stored <= whole.stored < alone.stored * 1.02


def test_an_inventory_has_every_tag(tmp_path):
    case = deltas.Inventory("inventory", 1, repositories=2, tags=2)
    with case.ready(tmp_path) as ready:
        assert ready.by_peer[peers.FAST]().stored > 4 * 71


@pytest.mark.long
def test_a_push_from_volumes_stores_what_one_from_a_file_does(tmp_path):
    done = run_small(volumes.volumes_case(3 * MIB, 1), tmp_path)
    assert set(done) == {peers.FAST, volumes.VOLUMES}
    assert len({one.stored for one in done.values()}) == 1


@pytest.mark.long
def test_an_image_is_recompressed_also_where_skopeo_cannot(tmp_path):
    said: list[str] = []
    case = copies.recompress_case(MIB, 1)
    found = turns.run_case(case, "", tmp_path / "bench", said.append)
    assert peers.FAST in [result.peer for result in found]


@pytest.mark.long
def test_a_crowd_is_served_whole_by_both_registries(tmp_path):
    case = crowd.Crowd("crowd", 1, pulls=50, pushes=50)
    with case.ready(tmp_path) as ready:
        assert set(ready.by_peer) == {peers.SERVE, peers.REGISTRY}
        done = {peer: one() for peer, one in ready.by_peer.items()}
    assert all(one.cold.memory > 10 * MIB and one.cold.cpu > 0 for one in done.values())
    assert done[peers.SERVE].cold.memory < 120 * MIB
    assert not (tmp_path / "image").exists()
    assert not (tmp_path / "server").exists()


@pytest.mark.long
def test_a_request_of_a_crowd_that_fails_is_reported(tmp_path):
    with crowd.our_server(tmp_path) as url:
        missing = [crowd.Transfer("GET", f"{url}/v2/a/manifests/1", 200)] * 3
        with pytest.raises(measure.CommandFailed, match=r"statuses \{404: 3\}"):
            crowd.transferred(missing, tmp_path)


SIDES = ("source", "target")


def requests_of(directory: Path, side: str) -> Counter:
    """(method, path) of all that was asked of a registry so far."""
    log = (directory / side / "run" / "registry.log").read_text()
    return Counter(re.findall(r'"([A-Z]+) (\S+) HTTP/[\d.]+" \d+', log))


def test_a_peer_that_fails_is_reported_and_left_out(tmp_path):
    def fail() -> results.Round:
        raise measure.CommandFailed("exit 1: no")

    class One:
        name, rounds = "one", 2

        @contextlib.contextmanager
        def ready(self, directory: Path):
            done = results.Round(measure.Cost(1.0, 1.0, MIB, 0), None, 1)
            yield turns.Turns(1, {"a": lambda: done, "b": fail, "c": lambda: done})

    said: list[str] = []
    (found,) = turns.run_case(One(), "a|b", tmp_path, said.append)
    assert (found.peer, len(found.rounds)) == ("a", 2)
    assert "one: exit 1: no" in said


def report_of(*walls: float) -> results.Report:
    def result(case: str, peer: str, size: int, scale: float) -> results.Result:
        rounds = tuple(
            results.Round(measure.Cost(wall * scale, 1.0, 30 * MIB, 0), None, size)
            for wall in walls
        )
        return results.Result(case, peer, size, rounds)

    return results.Report(
        {"date": "today"},
        ("crane: not on the PATH",),
        (
            result("layers", peers.FLOOR, MIB, 1.0),
            result("layers", "a & b", MIB, 3.0),
            result("copy, 1 MiB", "dockerpush", MIB, 1.0),
            result("copy, 1 MiB", "skopeo", MIB, 2.0),
            result("memory, 1 MiB", "skopeo", MIB, 1.0),
            result("memory, 2 MiB", "skopeo", 2 * MIB, 1.0),
        ),
        (results.StartUp("--version", (0.03,), "python -c 'pass'", (0.02,)),),
    )


def rounds_of(case: str, **walls: tuple[float, ...]) -> results.Report:
    """A report of *case*: the seconds of each round, by peer."""
    made = [
        results.Result(
            case,
            peer,
            MIB,
            tuple(results.Round(measure.Cost(one, 1.0, 1, 0), None, 1) for one in wall),
        )
        for peer, wall in walls.items()
    ]
    return results.Report({}, (), tuple(made), ())


@pytest.mark.parametrize(
    ("now", "worse"),
    [
        ((1.2, 1.2, 1.2), True),
        ((1.2, 1.1, 9.0), False),  # one round may be the noise of the machine
        ((0.5, 0.5, 0.5), False),
    ],
)
def test_a_ratio_is_worse_when_it_is_in_every_round(now, worse):
    """Beside the best of the others in the same round, whoever that is."""
    recorded = rounds_of(
        "a", dockerpush=(2.0, 2.0, 2.0), skopeo=(9.0, 2.0, 2.0), crane=(2.0, 3.0, 3.0)
    )
    report = rounds_of("a", dockerpush=now, skopeo=(1.0,) * 3, crane=(2.0,) * 3)
    found = report.worse_than(recorded)
    assert bool(found) is worse
    assert report.worse_than(rounds_of("b", dockerpush=(0.1,), skopeo=(1.0,))) == []


def test_a_report_comes_back_from_its_json(tmp_path):
    report = report_of(1.0, 2.0)
    report.write(tmp_path / "results.json")
    assert results.Report.read(tmp_path / "results.json") == report


def test_the_table_has_medians_and_ratios_to_the_floor():
    rows = [line for line in table.markdown(report_of(1, 2, 9)).splitlines()]
    (row,) = [line for line in rows if line.startswith("| a & b")]
    assert "6.00 (3.00 to 27.00) [3.00]" in row
    assert any("1.50" in line and "--version" in line for line in rows)


def test_the_summary_has_a_line_for_each_case_and_the_fastest_of_the_others():
    report = report_of(1, 2, 9)
    lines = table.summary(report).splitlines()
    cases = [*report.cases(), *(one.name for one in report.start_up)]
    assert [line.split(" | ")[0] for line in lines[2:]] == [f"| {one}" for one in cases]
    assert lines[2] == "| layers | 2.00 s | | | a & b: 6.00 s, 30 MiB | |"
    copy = "| copy, 1 MiB | | 2.00 s, 30 MiB | | skopeo: 4.00 s, 30 MiB | 0.50 |"
    assert lines[3] == copy
    assert lines[-1] == "| --version | | 30 ms | | `python -c 'pass'`: 20 ms | 1.50 |"


def test_the_table_of_the_readme_is_that_of_the_recorded_run():
    root = Path(__file__).parents[2]
    recorded = results.Report.read(root / "tests" / "bench" / "results.json")
    readme = (root / "README.md").read_text()
    assert table.summary(recorded) in readme
    assert f"on {recorded.about['date']}, one run" in readme


def test_where_there_is_no_floor_the_ratios_are_to_skopeo():
    text = table.markdown(report_of(1, 2, 9))
    assert "| dockerpush | 2.00 (1.00 to 9.00) [0.50]" in text
    assert "2.00 s (0.50 x skopeo)" in svg.copies_picture(report_of(1, 2, 9))


def test_the_pictures_are_xml_with_a_bar_and_a_line_for_each():
    report, space = report_of(1, 2, 3), "{http://www.w3.org/2000/svg}"
    bars = ElementTree.fromstring(svg.wall_picture(report)).findall(f"{space}rect")
    assert len(bars) == 1 + 2  # the background is one
    others = ElementTree.fromstring(svg.copies_picture(report)).findall(f"{space}rect")
    assert len(others) == 1 + 2
    memory = ElementTree.fromstring(svg.memory_picture(report))
    assert len(memory.findall(f"{space}polyline")) == 1
    assert len(memory.findall(f"{space}circle")) == 2


@pytest.mark.long
def test_the_picture_of_a_push_shows_a_run_in_its_middle_and_at_its_end(tmp_path):
    """By the script, as `make picture` runs it; the README shows what is checked in."""
    assert picture.main(["--out", str(tmp_path)]) == 0
    for directory in (tmp_path, Path(picture.__file__).parent):
        drawn = ElementTree.parse(directory / "push.svg").getroot()
        words = [text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
        said = "\n".join(filter(None, words))
        assert said.count("$ dockerpush push app.tar -t localhost:") == 2
        assert re.search(r"^blob \d/5$", said, re.M)
        assert re.search(r"MiB/s eta \d:\d\d$", said, re.M)
        assert re.search(r"@sha256:[0-9a-f]{64}$", said, re.M)
        assert re.search(r"^pushed \S+: sent 5 blobs \(11\.\d MiB\) in", said, re.M)
        bars = [one for one in drawn.iter() if one.get("class") == "bar"]
        assert len(bars) >= 3
        assert "prefers-color-scheme: dark" in ElementTree.tostring(drawn).decode()


def test_a_picture_of_nothing_is_not_drawn():
    empty = results.Report({}, (), (), ())
    for draw in (svg.wall_picture, svg.copies_picture, svg.memory_picture):
        with pytest.raises(ValueError, match=r"no cases|empty"):
            draw(empty)
