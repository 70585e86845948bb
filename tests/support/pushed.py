"""What many pushes in one process need, and a look at what they left in a registry."""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import sys
import zlib
from typing import Mapping, Sequence

from images import digest_of

MANIFEST = "application/vnd.oci.image.manifest.v1+json"

MANY_RUNS = """
import contextlib, io, json, sys
from dockerpush.cli.main import main
for arguments in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(arguments)
        except BaseException as error:  # as the interpreter would, at the real end
            sys.excepthook(type(error), error, error.__traceback__)
            code = 1
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
with contextlib.suppress(OSError), open("/proc/self/status") as file:
    peaks = [line.split()[1] for line in file if line.startswith("VmHWM")]
    print(json.dumps([0, peaks[0], ""]))
"""
"""The command again and again in one process, which only saves its start; last comes
the most memory that it had, in KiB."""


def run_many(
    words: Sequence[Sequence[str]], environment: Mapping[str, str]
) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of each; and one more, whose stdout is VmHWM."""
    done = subprocess.run(
        [sys.executable, "-c", MANY_RUNS],
        input=json.dumps(words).encode(),
        capture_output=True,
        env=environment,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    results = [tuple(json.loads(line)) for line in done.stdout.splitlines()]
    assert len(results) == len(words) + 1, done.stderr.decode()
    return results


def fetch(host: str, repository: str, what: str) -> bytes:
    """What the registry answers to a GET; it must be 200."""
    connection = http.client.HTTPConnection(host, timeout=20)
    with contextlib.closing(connection):
        path = f"/v2/{repository}/{what}"
        connection.request("GET", path, headers={"Accept": f"{MANIFEST}, */*"})
        response = connection.getresponse()
        content = response.read()
        assert response.status == 200, content
        return content


def check_stored(host: str, repository: str, diff_ids: list[str] | None = None) -> str:
    """Every byte under ``:1`` is right; the manifest's digest."""
    raw = fetch(host, repository, "manifests/1")
    manifest = json.loads(raw)
    contents = []
    for descriptor in (manifest["config"], *manifest["layers"]):
        content = fetch(host, repository, f"blobs/{descriptor['digest']}")
        assert digest_of(content) == descriptor["digest"]
        assert len(content) == descriptor["size"]
        contents.append(content)
    config, *layers = contents
    promised = json.loads(config)["rootfs"]["diff_ids"]
    assert [digest_of(unpacked(layer)) for layer in layers] == promised
    assert diff_ids in (None, promised)
    return digest_of(raw)


def unpacked(layer: bytes) -> bytes:
    """*layer* without gzip."""
    if layer[:2] != b"\x1f\x8b":
        return layer
    return zlib.decompress(layer, wbits=31)


def put_old_image(host: str, repository: str, source: str, manifest: bytes) -> None:
    """Have ``:1`` name the image *manifest*, whose blobs are in *source*."""
    record = json.loads(manifest)
    connection = http.client.HTTPConnection(host, timeout=20)
    with contextlib.closing(connection):
        for blob in (record["config"], *record["layers"]):
            mount = f"mount={blob['digest']}&from={source}"
            _call(connection, "POST", f"/v2/{repository}/blobs/uploads/?{mount}")
        _call(connection, "PUT", f"/v2/{repository}/manifests/1", manifest)


def _call(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes = b""
) -> None:
    connection.request(method, path, body=body, headers={"Content-Type": MANIFEST})
    response = connection.getresponse()
    content = response.read()
    assert response.status == 201, content
