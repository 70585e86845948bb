"""What is handed out: the same bytes from the same sources, listed and pinned."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from test_pyz import ROOT, copied

pytestmark = pytest.mark.long

FIRST = {"LANG": "C.UTF-8", "TZ": "UTC", "PYTHONHASHSEED": "1"}
SECOND = {"LANG": "C", "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "2", "UMASK": "077"}
NOWHERE = {
    "PIP_CONFIG_FILE": os.devnull,
    "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
    "PIP_FIND_LINKS": "",
    "PIP_RETRIES": "0",
}


def build(
    directory: Path, *targets: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    temporary = directory / "temporary"
    temporary.mkdir(exist_ok=True)
    script = f'umask {environment.get("UMASK", "022")} && exec make "$@"'
    return subprocess.run(
        ["sh", "-c", script, "make", *targets, f"PYTHON={sys.executable}"],
        cwd=directory,
        env={**os.environ, "TMPDIR": str(temporary), **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = copied(tmp_path_factory.mktemp("first"))
    done = build(tree, "dist", "pyz", **FIRST)
    assert done.returncode == 0, done.stderr
    return tree / "dist"


def contents(dist: Path) -> dict[str, bytes]:
    files = [path for path in dist.rglob("*") if path.is_file()]
    return {path.relative_to(dist).as_posix(): path.read_bytes() for path in files}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_two_builds_are_the_same_bytes(built, tmp_path):
    """Elsewhere, later, by a user with another umask, language and time zone."""
    tree = copied(tmp_path / "a longer name with spaces")
    for path in (tree / "dockerpush").rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    done = build(tree, "pyz", "dist", **SECOND)
    assert done.returncode == 0, done.stderr
    one, other = contents(built), contents(tree / "dist")
    assert list(sorted(one)) == list(sorted(other))
    assert [name for name in one if one[name] != other[name]] == []


def test_the_time_of_the_commit_is_in_it(built, tmp_path):
    tree = copied(tmp_path / "tree")
    done = build(tree, "dist", SOURCE_DATE_EPOCH="1700000000")
    assert done.returncode == 0, done.stderr
    (wheel,) = (tree / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        assert {info.date_time[:3] for info in file.infolist()} == {(2023, 11, 14)}
    bill = json.loads((tree / "dist/sbom.spdx.json").read_text())
    assert bill["creationInfo"]["created"] == "2023-11-14T22:13:20Z"


def test_every_file_has_its_sum(built):
    found = contents(built)
    lines = found.pop("SHA256SUMS").decode().splitlines()
    sums = dict(reversed(line.split("  ")) for line in lines)
    assert sums == {name: sha256(content) for name, content in found.items()}
    assert {"dockerpush.pyz", "requirements.txt", "sbom.spdx.json"} < sums.keys()
    assert sum(name.endswith(".tar.gz") for name in sums) == 1


def test_the_bill_of_materials_names_all_that_is_inside(built):
    found = contents(built)
    bill = json.loads(found["sbom.spdx.json"])
    assert (bill["spdxVersion"], bill["dataLicense"]) == ("SPDX-2.3", "CC0-1.0")
    wheels = {
        name.rpartition("/")[2].split("-")[0]: sha256(content)
        for name, content in found.items()
        if name.startswith("wheelhouse/")
    }
    packages = {one["name"]: one for one in bill["packages"]}
    assert packages.keys() == wheels.keys() == {"dockerpush", "tqdm", "urllib3"}
    for name, package in packages.items():
        assert package["checksums"][0]["checksumValue"] == wheels[name]
    files = {one["fileName"][2:]: one["checksums"] for one in bill["files"]}
    for name, sums in files.items():
        assert [one["algorithm"] for one in sums] == ["SHA1", "SHA256"]
        assert sums[1]["checksumValue"] == sha256(found[name])
    assert "dockerpush.pyz" in files
    known = {one["SPDXID"] for one in (*bill["packages"], *bill["files"])}
    named = {one["relatedSpdxElement"] for one in bill["relationships"]}
    assert named == known


def test_the_pyz_has_the_pinned_wheels_and_nothing_else(built):
    inside: set[str] = {"__main__.py"}
    for path in (built / "wheelhouse").glob("*.whl"):
        with zipfile.ZipFile(path) as file:
            inside.update(file.namelist())
    with zipfile.ZipFile(built / "dockerpush.pyz") as file:
        names = set(file.namelist())
    assert {name for name in names if not name.endswith(".pyc")} == inside


def test_pip_installs_what_the_pins_say_and_nothing_else(built, tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv/bin/python"
    options = ("--no-index", "--find-links", built / "wheelhouse", "--require-hashes")
    install = [python, "-m", "pip", "install", "-q", *options, "-r"]
    environment = {"PATH": os.environ["PATH"], **NOWHERE, "TMPDIR": str(tmp_path)}
    pins = built / "requirements.txt"
    subprocess.run([*install, pins], check=True, env=environment, timeout=120)
    said = subprocess.check_output([python, "-m", "dockerpush", "--version"])
    assert said.startswith(b"dockerpush ")
    bad = tmp_path / "bad.txt"
    bad.write_text(pins.read_text().replace("sha256:", "sha256:0", 1)[:-2] + "\n")
    assert (
        subprocess.run(
            [*install, bad, "--force-reinstall"], capture_output=True
        ).returncode
        != 0
    )


def test_without_an_index_the_build_says_so_in_one_line(tmp_path):
    tree = copied(tmp_path / "tree")
    done = build(tree, "-s", "dist", **NOWHERE)
    assert done.returncode == 2
    said = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert len(said) == 1, done.stderr
    assert said[0].startswith("error: pip cannot install what .ci/build.txt pins: ")


def test_what_is_pinned_is_what_the_settings_allow():
    """A new dependency in setup.cfg needs a pin."""
    settings = (ROOT / "setup.cfg").read_text()
    pins = (ROOT / ".ci/bundled.txt").read_text()
    wanted = settings.partition("install_requires =\n")[2].partition("\n\n")[0]
    names = [line.split(">")[0].strip() for line in wanted.splitlines()]
    pinned = [line.split("=")[0] for line in pins.splitlines() if line[:1] != "#"]
    assert sorted(names) == sorted(pinned)
