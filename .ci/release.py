"""Builds what is handed out: the same bytes from the same commit and Python.

Entries are sorted, and have the time of the commit (SOURCE_DATE_EPOCH), no owner and
one of two modes. `make dist` and `make pyz` call this with the Python of .venv-build.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import py_compile
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any, Callable

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
BUNDLED = ROOT / ".ci/bundled.txt"
SHEBANG = b"#!/usr/bin/env python3\n"
MAIN = "import sys\nfrom dockerpush.__main__ import main\nsys.exit(main())\n"
SOURCES = ("setup.cfg", "setup.py", "README.md", "LICENSE")
EARLIEST = 315532800  # 1980, before which a zip has no times
PIN = re.compile(r"^(\S+)==(\S+) --hash=sha256:([0-9a-f]{64})$", re.M)


def epoch() -> int:
    """When the commit was made; 1980 outside of a repository."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given is None:
        command = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
        is_here = (ROOT / ".git").exists()
        given = subprocess.check_output(command, text=True) if is_here else "0"
    return max(int(given), EARLIEST)


def fetch(*arguments: str) -> None:
    """pip with *arguments*, whose failure is one line."""
    command = [sys.executable, "-m", "pip", "--quiet", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = said[-1].partition(": ")[2] if said else f"exit {done.returncode}"
        sys.exit(
            f"error: pip cannot {arguments[0]} what {arguments[-1]} pins: {reason}; is "
            "a package index within reach (pip config list)?"
        )


def wheel(directory: str) -> None:
    """The wheel of dockerpush, in *directory*."""
    _built("build_wheel", Path(directory), _repack_zip)


def dist() -> None:
    """Wheel and sdist, in dist/."""
    wheel(str(DIST))
    _built("build_sdist", DIST, _repack_tar)


def _built(how: str, directory: Path, repack: Callable[[Path, Path], None]) -> None:
    """Build a copy of the sources: nothing of an earlier build gets into it."""
    from setuptools import build_meta

    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name) / "source"
        no_cache = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "dockerpush", copy / "dockerpush", ignore=no_cache)
        for file in SOURCES:
            shutil.copy(ROOT / file, copy / file)
        os.chdir(copy)
        os.environ["SOURCE_DATE_EPOCH"] = str(epoch())
        output, sys.stdout = sys.stdout, io.StringIO()
        made = getattr(build_meta, how)(name)
        sys.stdout = output
        os.chdir(ROOT)
        repack(Path(name) / made, directory / made)


def _repack_zip(source: Path, target: Path) -> None:
    with zipfile.ZipFile(source) as file:
        entries = {name: file.read(name) for name in file.namelist()}
    _write_zip(target, entries)


def _write_zip(target: Path, entries: dict[str, bytes], head: bytes = b"") -> None:
    def place(name: str) -> tuple[bool, str]:
        return ".dist-info/" in name, name

    with target.open("wb") as out:
        out.write(head)
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
            for name in sorted(entries, key=place):
                info = zipfile.ZipInfo(name, time.gmtime(epoch())[:6])
                info.compress_type = zipfile.ZIP_DEFLATED
                info.create_system = 3
                info.external_attr = 0o100644 << 16
                file.writestr(info, entries[name])


def _repack_tar(source: Path, target: Path) -> None:
    with (
        tarfile.open(source) as old,
        target.open("wb") as out,
        gzip.GzipFile("", "wb", 9, out, epoch()) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as new,
    ):
        for member in sorted(old.getmembers(), key=lambda member: member.name):
            member.mtime, member.pax_headers = epoch(), {}
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.mode = 0o755 if member.isdir() else 0o644
            new.addfile(member, old.extractfile(member) if member.isfile() else None)


def pyz() -> None:
    """dist/dockerpush.pyz: what is in the wheelhouse, and byte code of this Python."""
    entries = {"__main__.py": MAIN.encode()}
    for path in sorted((DIST / "wheelhouse").glob("*.whl")):
        with zipfile.ZipFile(path) as file:
            entries.update({name: file.read(name) for name in file.namelist()})
    with tempfile.TemporaryDirectory() as name:
        for source in sorted(entry for entry in entries if entry.endswith(".py")):
            entries[f"{source}c"] = _compiled(source, entries[source], Path(name))
    target = DIST / "dockerpush.pyz"
    _write_zip(target, entries, SHEBANG)
    target.chmod(0o755)


def _compiled(name: str, content: bytes, directory: Path) -> bytes:
    """Byte code that Python takes unseen: it is as old as its source."""
    source, made = directory / "source.py", directory / "made.pyc"
    source.write_bytes(content)
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(
        str(source), str(made), name, doraise=True, invalidation_mode=mode
    )
    return made.read_bytes()


def describe() -> None:
    """SHA256SUMS, requirements.txt and sbom.spdx.json of all that is in dist/."""
    suffixes = (".whl", ".tar.gz", ".pyz")
    found = [path for path in sorted(DIST.rglob("*")) if path.name.endswith(suffixes)]
    version = re.search(r'"(.*)"', _version_line())[1]
    own = {_hash(path) for path in found if path.match(f"dockerpush-{version}-*.whl")}
    if len(own) != 1:
        sys.exit("error: dist/ has files of another build; run: make clean")
    pins = [("dockerpush", version, *own), *PIN.findall(BUNDLED.read_text())]
    lines = [f"{name}=={number} --hash=sha256:{sha}" for name, number, sha in pins]
    (DIST / "requirements.txt").write_text("\n".join(lines) + "\n")
    bill = json.dumps(_bill(pins, found), indent=1)
    (DIST / "sbom.spdx.json").write_text(bill + "\n")
    found += [DIST / "requirements.txt", DIST / "sbom.spdx.json"]
    sums = [f"{_hash(path)}  {path.relative_to(DIST).as_posix()}\n" for path in found]
    (DIST / "SHA256SUMS").write_text("".join(sums))


def _version_line() -> str:
    lines = (ROOT / "dockerpush/__init__.py").read_text().splitlines()
    return next(line for line in lines if line.startswith("__version__"))


def _hash(path: Path, algorithm: str = "sha256") -> str:
    return hashlib.new(algorithm, path.read_bytes()).hexdigest()


def _bill(pins: list[tuple[str, str, str]], files: list[Path]) -> dict[str, Any]:
    """A software bill of materials (SPDX 2.3)."""
    digest = hashlib.sha256("".join(_hash(path) for path in files).encode())
    about = "SPDXRef-Package-dockerpush"
    packages = [_package(*pin) for pin in pins]
    links = [("SPDXRef-DOCUMENT", "DESCRIBES", about)]
    links += [(about, "DEPENDS_ON", one["SPDXID"]) for one in packages[1:]]
    entries = [_file(path) for path in files]
    links += [(about, "GENERATES", one["SPDXID"]) for one in entries]
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": f"dockerpush-{pins[0][1]}",
        "documentNamespace": f"https://spdx.org/spdxdocs/dockerpush-{digest.hexdigest()}",
        "creationInfo": {
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch())),
            "creators": ["Tool: dockerpush-.ci/release.py"],
        },
        "packages": packages,
        "files": entries,
        "relationships": [
            {
                "spdxElementId": one,
                "relationshipType": kind,
                "relatedSpdxElement": other,
            }
            for one, kind, other in links
        ],
    }


def _package(name: str, version: str, sha256: str) -> dict[str, Any]:
    unknown = dict.fromkeys(
        ("downloadLocation", "licenseConcluded", "licenseDeclared", "copyrightText"),
        "NOASSERTION",
    )
    locator = {
        "referenceCategory": "PACKAGE-MANAGER",
        "referenceType": "purl",
        "referenceLocator": f"pkg:pypi/{name}@{version}",
    }
    return {
        "SPDXID": f"SPDXRef-Package-{name}",
        "name": name,
        "versionInfo": version,
        "filesAnalyzed": False,
        "checksums": [{"algorithm": "SHA256", "checksumValue": sha256}],
        "externalRefs": [locator],
        **unknown,
    }


def _file(path: Path) -> dict[str, Any]:
    name = path.relative_to(DIST).as_posix()
    return {
        "SPDXID": "SPDXRef-File-" + re.sub(r"[^A-Za-z0-9.-]", "-", name),
        "fileName": f"./{name}",
        "checksums": [
            {"algorithm": kind.upper(), "checksumValue": _hash(path, kind)}
            for kind in ("sha1", "sha256")
        ],
        "licenseConcluded": "NOASSERTION",
        "copyrightText": "NOASSERTION",
    }


COMMANDS = (fetch, wheel, dist, pyz, describe)

if __name__ == "__main__":
    {command.__name__: command for command in COMMANDS}[sys.argv[1]](*sys.argv[2:])
