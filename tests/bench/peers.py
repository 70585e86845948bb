"""The programs that are measured, and how each is told to push an archive."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Mapping, Sequence, TypeVar

from .images import Image, oci_layout

T = TypeVar("T")

FLOOR = "curl (floor)"
FAST = "dockerpush"
PULL = "dockerpush pull"
STDLIB = "dockerpush, stdlib only"
GZIP = "dockerpush --compress gzip"
NONE = "dockerpush --compress none"
SKOPEO = "skopeo"
SERVE = "dockerpush serve"
REGISTRY = "docker-registry"

AT_ONCE = 3
"""Blobs that the floor sends at the same time."""

_WITHOUT_ISAL = (
    "import sys; sys.modules['isal'] = None; "
    "from dockerpush.__main__ import main; sys.exit(main())"
)


@dataclass(frozen=True)
class Target:
    """Where to push: *host* is ``127.0.0.1:PORT``, *authority* what signed its TLS."""

    host: str
    authority: Path | None
    repository: str = "bench/image"

    @property
    def url(self) -> str:
        """The start of its addresses."""
        return f"{'https' if self.authority else 'http'}://{self.host}/v2"

    @property
    def reference(self) -> str:
        """What the image is to be named."""
        return f"{self.host}/{self.repository}:1"


@dataclass(frozen=True)
class Peer:
    """*command* pushes an image to a target; *scratch* is a directory it may use."""

    name: str
    command: Callable[[Image, Target, Path], Sequence[str]]


def environment(home: Path, temp: Path, target: Target | None) -> Mapping[str, str]:
    """The environment for a measured program: nothing of the user's own settings."""
    found = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "TMPDIR": str(temp),
        "DOCKERPUSH_STATE_DIR": str(home / "dockerpush"),
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
    }
    if target is not None and target.authority is not None:
        found["SSL_CERT_FILE"] = str(target.authority)
    return found


def available_peers() -> tuple[list[Peer], list[str]]:
    """The peers that can run here, the floor first, and why the others cannot."""
    has_isal = importlib.util.find_spec("isal") is not None
    candidates = [
        (Peer(FLOOR, floor), _missing("curl")),
        (Peer(FAST, dockerpush()), "" if has_isal else "isal is not installed"),
        (Peer(STDLIB, dockerpush(isal=False)), ""),
        (Peer(GZIP, dockerpush("--compress", "gzip", isal=has_isal)), ""),
        (Peer(NONE, dockerpush("--compress", "none", isal=has_isal)), ""),
        (Peer(SKOPEO, skopeo), _missing(SKOPEO)),
        (Peer("crane", crane), _missing("crane")),
        (Peer("regctl", regctl), _missing("regctl")),
        (Peer("oras", oras), _missing("oras")),
        (Peer("docker", docker), _missing("docker") or _docker_is_down()),
    ]
    skipped = [f"{peer.name}: {reason}" for peer, reason in candidates if reason]
    return [peer for peer, reason in candidates if not reason], skipped


def without_missing(by_peer: Mapping[str, T]) -> dict[str, T]:
    """*by_peer* without skopeo when it is not on the PATH."""
    missing = {SKOPEO} if _missing(SKOPEO) else set()
    return {peer: value for peer, value in by_peer.items() if peer not in missing}


def _missing(program: str) -> str:
    return "" if shutil.which(program) else "not on the PATH"


def _docker_is_down() -> str:
    asked = subprocess.run(["docker", "version"], capture_output=True, check=False)
    return "its daemon does not answer" if asked.returncode else ""


def dockerpush(
    *options: str, isal: bool = True
) -> Callable[[Image, Target, Path], list[str]]:
    """How dockerpush pushes, with *options*, with isal or as if it were missing."""
    start = ["-m", "dockerpush"] if isal else ["-c", _WITHOUT_ISAL]

    def command(image: Image, target: Target, scratch: Path) -> list[str]:
        words = [sys.executable, *start, "push", str(image.archive), "--yes", "-q"]
        words += ["-t", target.reference, *options]
        if target.authority is None:
            return [*words, "--plain-http"]
        return [*words, "--cacert", str(target.authority)]

    return command


def floor(image: Image, target: Target, scratch: Path) -> list[str]:
    """curl alone: open an upload for each blob, then put them, three at a time."""
    uploads = f"{target.url}/{target.repository}/blobs/uploads/"
    opening, sending = scratch / "opening", scratch / "sending"
    options = ["silent", "show-error", "fail"]
    if target.authority is not None:
        options.append(f'cacert = "{target.authority}"')
    opened = [
        *options,
        f'url = "{uploads}"',
        'request = "POST"',
        'data = ""',
        r'write-out = "%header{location}\n"',
        'output = "/dev/null"',
    ]
    opening.write_text("\nnext\n".join(["\n".join(opened)] * len(image.blobs)))
    lines = scratch / "lines"
    lines.write_text("".join(f"{blob.digest} {blob.path}\n" for blob in image.blobs))
    head = r"\n".join(options).replace('"', r"\"")
    form = (
        rf"{head}\nurl = \"%s&digest=%s\"\nupload-file = \"%s\"\n"
        r"header = \"Expect:\"\noutput = \"/dev/null\"\nnext\n"
    )
    curl = f"curl --parallel --parallel-immediate --parallel-max {AT_ONCE} --config"
    script = (
        f"set -e; {curl} {shlex.quote(str(opening))} "
        f"| paste -d ' ' - {shlex.quote(str(lines))} "
        f"| while read -r location digest path; do "
        f'printf "{form}" "$location" "$digest" "$path"; done '
        f"| sed '$d' > {shlex.quote(str(sending))}; "
        f"exec {curl} {shlex.quote(str(sending))}"
    )
    return ["sh", "-c", script]


def skopeo(image: Image, target: Target, scratch: Path) -> list[str]:
    """skopeo, which compresses whatever it finds uncompressed."""
    words = [*skopeo_in(scratch), "copy", "-q"]
    if target.authority is None:
        words.append("--dest-tls-verify=false")
    return [*words, f"docker-archive:{image.archive}", f"docker://{target.reference}"]


def skopeo_in(scratch: Path) -> list[str]:
    """The start of skopeo's commands; of itself it takes /var/tmp, not TMPDIR."""
    return ["skopeo", "--insecure-policy", "--tmpdir", str(scratch / "tmp")]


def crane(image: Image, target: Target, scratch: Path) -> list[str]:
    """crane of go-containerregistry."""
    insecure = ["--insecure"] if target.authority is None else []
    return ["crane", "push", *insecure, str(image.archive), target.reference]


def regctl(image: Image, target: Target, scratch: Path) -> list[str]:
    """regctl of regclient."""
    tls = "enabled" if target.authority else "disabled"
    words = ["regctl", "--host", f"reg={target.host},tls={tls}"]
    return [*words, "image", "import", target.reference, str(image.archive)]


def oras(image: Image, target: Target, scratch: Path) -> list[str]:
    """oras, which reads OCI layouts alone: one with the same layers, made before."""
    layout = oci_layout(image, scratch / "layout")
    words = ["oras", "cp", "--from-oci-layout", f"{layout}:1", target.reference]
    if target.authority is None:
        return [*words, "--to-plain-http"]
    return [*words, "--to-ca-file", str(target.authority)]


def docker(image: Image, target: Target, scratch: Path) -> list[str]:
    """docker load, tag and push; what the daemon uses is not seen."""
    name, archive = shlex.quote(target.reference), shlex.quote(str(image.archive))
    script = (
        f"set -e; loaded=$(docker load -q -i {archive}); "
        f'docker tag "${{loaded#Loaded image: }}" {name}; docker push -q {name}'
    )
    return ["sh", "-c", script]
