"""The bench measures: costs, the floor, the slow link, the table, the pictures."""

from __future__ import annotations

import shutil
import socket
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree

import pytest

from tests.bench import images, link, measure, peers, results, svg, table
from tests.registries import start_docker_registry

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
    cost = measure.measure(command, environment, tmp_path / "tmp", tmp_path / "log")
    assert 40 * MIB < cost.memory < 120 * MIB
    assert 8 * MIB <= cost.temp < 9 * MIB
    assert cost.wall > 0.3
    assert cost.cpu > 0.01


def test_a_command_that_fails_says_what_it_said(tmp_path):
    command = [sys.executable, "-c", "import sys; sys.exit('no such image')"]
    environment = peers.environment(tmp_path, tmp_path, None)
    with pytest.raises(measure.CommandFailed, match="exit 1:\nno such image"):
        measure.measure(command, environment, tmp_path, tmp_path / "log")


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_the_floor_stores_every_blob(tmp_path):
    image = images.small_layers_image(tmp_path)
    with start_docker_registry(tmp_path / "registry", tls=True) as registry:
        target = peers.Target(registry.host, registry.authority)
        measure.measure(
            peers.floor(image, target, tmp_path),
            peers.environment(tmp_path, tmp_path, target),
            tmp_path,
            tmp_path / "log",
        )
        stored = {path.parent.name for path in registry.storage.rglob("data")}
    assert stored == {blob.digest.partition(":")[2] for blob in image.blobs}


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
            result("memory, 1 MiB", "skopeo", MIB, 1.0),
            result("memory, 2 MiB", "skopeo", 2 * MIB, 1.0),
        ),
        (results.StartUp("--version", (0.03,), "python -c 'pass'", (0.02,)),),
    )


def test_a_report_comes_back_from_its_json(tmp_path):
    report = report_of(1.0, 2.0)
    report.write(tmp_path / "results.json")
    assert results.Report.read(tmp_path / "results.json") == report


def test_the_table_has_medians_and_ratios_to_the_floor():
    rows = [line for line in table.markdown(report_of(1, 2, 9)).splitlines()]
    (row,) = [line for line in rows if line.startswith("| a & b")]
    assert "6.00 (3.00 to 27.00) [3.00]" in row
    assert any("1.50" in line and "--version" in line for line in rows)


def test_the_pictures_are_xml_with_a_bar_and_a_line_for_each():
    report, space = report_of(1, 2, 3), "{http://www.w3.org/2000/svg}"
    bars = ElementTree.fromstring(svg.wall_picture(report)).findall(f"{space}rect")
    assert len(bars) == 1 + 2  # the background is one
    memory = ElementTree.fromstring(svg.memory_picture(report))
    assert len(memory.findall(f"{space}polyline")) == 1
    assert len(memory.findall(f"{space}circle")) == 2
