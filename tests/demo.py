"""Show what dockerpush does: serve, make an archive, push, read back. Nothing stays."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
from pathlib import Path
from typing import Iterator

MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.oci.image.index.v1+json, "
    "application/vnd.docker.distribution.manifest.v2+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json"
)


def main() -> int:
    """Run the demo; the exit code is that of the push."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archive", nargs="?", help="push this one (default: make one)")
    chosen = parser.parse_args().archive
    with tempfile.TemporaryDirectory(prefix="dockerpush-demo-") as name:
        directory = Path(name)
        os.environ["DOCKERPUSH_STATE_DIR"] = str(directory / "state")
        archive = Path(chosen) if chosen else make_archive(directory / "image.tar")
        with serving(directory / "registry") as host:
            target = f"{host}/demo/app:1"
            code = run("inspect", archive) or run("push", archive, "-t", target)
            if code == 0:
                read_back(host, "demo/app")
    return code


def run(*arguments: object) -> int:
    """Run a command as a user would type it, and show it."""
    words = ["-m", "dockerpush", *map(str, arguments)]
    print("\n$ python", shlex.join(words), flush=True)
    return subprocess.run([sys.executable, *words], check=False).returncode


@contextlib.contextmanager
def serving(directory: Path) -> Iterator[str]:
    """The host and port of an embedded registry, which stops with the ``with``."""
    words = ["-m", "dockerpush", "serve", "-q", "--dir", str(directory)]
    words += ["--addr", "127.0.0.1", "--port", "0"]
    print("$ python", shlex.join(words), "&", flush=True)
    with subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline().decode()
            url = re.search(r"http://([\w.:]+)", line)
            if url is None:
                raise SystemExit(f"the registry did not start: {line!r}")
            print(line, end="", flush=True)
            yield url[1]
        finally:
            server.terminate()


def make_archive(path: Path) -> Path:
    """A small image of three layers, in the form that docker save writes."""
    layers = [
        make_layer({"etc/motd": b"hello from dockerpush\n"}),
        make_layer({"srv/numbers": b"".join(b"%d\n" % n for n in range(200_000))}),
        make_layer({"srv/random": os.urandom(2_000_000)}),
    ]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["/bin/sh"]},
        "rootfs": {
            "type": "layers",
            "diff_ids": ["sha256:" + hashlib.sha256(x).hexdigest() for x in layers],
        },
    }
    names = [f"{hashlib.sha256(layer).hexdigest()}/layer.tar" for layer in layers]
    manifest = [{"Config": "c.json", "RepoTags": ["demo/app:1"], "Layers": names}]
    files = {
        **dict(zip(names, layers)),
        "c.json": json.dumps(config).encode(),
        "manifest.json": json.dumps(manifest).encode(),
    }
    path.write_bytes(make_layer(files))
    print(f"made {path}: a docker-save archive of {len(layers)} layers", flush=True)
    return path


def make_layer(files: dict[str, bytes]) -> bytes:
    """A tar of *files*."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def read_back(host: str, repository: str) -> None:
    """Ask the registry, without dockerpush, what it holds now."""
    base = f"http://{host}/v2/{repository}"
    print(f"\nRead back from {base}:")
    with urllib.request.urlopen(f"{base}/tags/list") as answer:
        tags = json.load(answer)["tags"]
    print("  tags   ", ", ".join(tags))
    accept = {"Accept": MANIFEST_TYPES}
    request = urllib.request.Request(f"{base}/manifests/{tags[0]}", headers=accept)
    with urllib.request.urlopen(request) as answer:
        raw = answer.read()
        said = answer.headers["Docker-Content-Digest"]
    print("  digest ", said, "(checked)" if said == digest_of(raw) else "(WRONG)")
    manifest = json.loads(raw)
    for entry in manifest.get("layers") or manifest.get("manifests", []):
        check = checked(f"{base}/blobs/{entry['digest']}", entry)
        print(f"  {entry['digest']} {entry['size']:>11,} bytes", check)


def checked(url: str, entry: dict) -> str:
    """Whether the blob at *url* is what the manifest says; children are named."""
    if "manifest" in entry["mediaType"] or "index" in entry["mediaType"]:
        return "(a manifest)"
    hasher, size = hashlib.sha256(), 0
    with urllib.request.urlopen(url) as answer:
        for block in iter(lambda: answer.read(1 << 20), b""):
            hasher.update(block)
            size += len(block)
    right = (f"sha256:{hasher.hexdigest()}", size) == (entry["digest"], entry["size"])
    return "(checked)" if right else "(WRONG)"


def digest_of(raw: bytes) -> str:
    return "sha256:" + hashlib.sha256(raw).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
