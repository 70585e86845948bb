"""Real archives for the tests, written by podman, buildah, skopeo and umoci."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import shutil
from pathlib import Path
from typing import Iterator, Mapping

from registries import run

SMALL = "localhost/demo/busybox:1"
BIG = "localhost/demo/big:2"
BIG_LAYER = 110_000_000
"""Bytes in the one file of the big image's upper layer."""


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Alone among the processes that ask for the same *path* beside others."""
    with path.with_name(f"{path.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def shared_directory(path: Path, user: str) -> Iterator[Path]:
    """*path* as a directory for all who ask for it; it goes with its last *user*."""
    users = path / "users"
    with locked(path):
        users.mkdir(parents=True, exist_ok=True)
        (users / user).touch()
    try:
        yield path
    finally:
        with locked(path):
            (users / user).unlink()
            if not any(users.iterdir()):
                shutil.rmtree(path, ignore_errors=True)


class RealArchives(Mapping[str, Path]):
    """Archive name → path, each written when it is first asked for.

    ``podman-docker-archive``, ``podman-oci-archive`` and ``skopeo-oci-zstd`` hold the
    big image: busybox below, a layer of more than 100 MB above. ``podman-multi`` holds
    both images; the others the small one.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._storage: Storage | None = None

    def __getitem__(self, name: str) -> Path:
        make, suffix = MAKERS[name]
        path = self._directory / f"{name}{suffix}"
        with locked(self._directory):
            if not path.exists():
                if self._storage is None:
                    self._storage = Storage(self._directory / "storage")
                make(self._storage, path)
        return path

    def __iter__(self) -> Iterator[str]:
        return iter(MAKERS)

    def __len__(self) -> int:
        return len(MAKERS)

    def config(self, name: str, reference: str = "") -> bytes:
        """The exact bytes of the image config, read by skopeo."""
        where = TRANSPORTS[name].format(path=self[name])
        if reference:
            where += f":{reference}"
        return run("skopeo", "--insecure-policy", "inspect", "--raw", "--config", where)


class Storage:
    """Images in a containers/storage of the tests' own."""

    def __init__(self, directory: Path) -> None:
        self._flags = [
            *["--root", directory / "root", "--runroot", directory / "run"],
            *["--storage-driver", "vfs"],
        ]
        self.files = directory / "files"
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "TMPDIR": str(directory),
            "XDG_RUNTIME_DIR": str(directory / "run"),
            "BUILDAH_ISOLATION": "chroot",
        }
        if not directory.exists():
            self._make(directory)

    def _make(self, directory: Path) -> None:
        policy = directory / ".config/containers/policy.json"
        policy.parent.mkdir(parents=True)
        policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        self._fill(directory / "big")
        self._commit("scratch", self.files, SMALL)
        self._commit(SMALL, directory / "big", BIG)

    def _fill(self, big: Path) -> None:
        (self.files / "bin").mkdir(parents=True)
        shutil.copy("/bin/busybox", self.files / "bin/busybox")
        for name in ("sh", "ls", "cat"):
            (self.files / "bin" / name).symlink_to("busybox")
        long = self.files / "usr/share" / ("d" * 90) / ("e" * 90)
        long.mkdir(parents=True)
        (long / "naïve file").write_text("a name that needs a PAX record\n")
        (big / "srv").mkdir(parents=True)
        write_half_compressible(big / "srv/data", BIG_LAYER)

    def _commit(self, base: str, files: Path, name: str) -> None:
        container = self.buildah("from", "--pull-never", base).decode().strip()
        self.buildah("copy", "-q", container, files, "/")
        self.buildah("config", "--cmd", "/bin/sh", container)
        self.buildah("commit", "-q", container, name)
        self.buildah("rm", container)

    def buildah(self, *arguments: object) -> bytes:
        """What buildah says."""
        return run("buildah", *self._flags, *arguments, env=self.environment)

    def podman(self, *arguments: object) -> bytes:
        """What podman says."""
        return run("podman", *self._flags, *arguments, env=self.environment)

    def umoci(self, *arguments: object) -> bytes:
        """What umoci says."""
        return run("umoci", *arguments, env=self.environment)

    def copy(self, *arguments: object) -> bytes:
        """``skopeo copy``, without a policy file."""
        command = ["skopeo", "--insecure-policy", "copy", "-q", *arguments]
        return run(*command, env=self.environment)

    def archived(self, name: str) -> str:
        """*name* as a docker-archive for skopeo to read."""
        path = self.files.parent / f"{name.rpartition('/')[2]}.tar".replace(":", "_")
        if not path.exists():
            self.podman("save", "-q", "-o", path, name)
        return f"docker-archive:{path}"


def write_half_compressible(path: Path, size: int) -> None:
    """*size* bytes, of which about half go away under gzip; always the same ones."""
    source = random.Random(1)
    block = b"the same line again and again\n" * 2184
    with path.open("wb") as file:
        while file.tell() < size:
            file.write(source.randbytes(1 << 16))
            file.write(block)
        file.truncate(size)


def _podman(format: str, *names: str):
    flags = ["-m"] if len(names) > 1 else ["--format", format]

    def make(storage: Storage, path: Path) -> None:
        storage.podman("save", "-q", *flags, "-o", path, *names)

    return make


def _buildah(target: str):
    def make(storage: Storage, path: Path) -> None:
        storage.buildah("push", "-q", SMALL, target.format(path=path))

    return make


def _skopeo(target: str, *flags: str, image: str = SMALL):
    def make(storage: Storage, path: Path) -> None:
        storage.copy(*flags, storage.archived(image), target.format(path=path))

    return make


def _umoci(storage: Storage, path: Path) -> None:
    storage.umoci("init", "--layout", path)
    storage.umoci("new", "--image", f"{path}:1")
    storage.umoci("insert", "--image", f"{path}:1", storage.files / "bin", "/bin")
    storage.umoci("insert", "--image", f"{path}:1", storage.files / "usr", "/usr")
    storage.umoci("config", "--image", f"{path}:1", "--config.cmd", "/bin/sh")
    storage.umoci("gc", "--layout", path)


GZIP = ("--dest-compress-format", "gzip")
ZSTD = ("--dest-compress-format", "zstd")

MAKERS = {
    "podman-docker-archive": (_podman("docker-archive", BIG), ".tar"),
    "podman-multi": (_podman("docker-archive", SMALL, BIG), ".tar"),
    "podman-oci-archive": (_podman("oci-archive", BIG), ".tar"),
    "buildah-oci": (_buildah("oci-archive:{path}:1"), ".tar"),
    "buildah-docker": (_buildah("docker-archive:{path}:demo/busybox:1"), ".tar"),
    "skopeo-docker-archive": (_skopeo("docker-archive:{path}:demo/busybox:1"), ".tar"),
    "skopeo-oci-gzip": (_skopeo("oci-archive:{path}:1", *GZIP), ".tar"),
    "skopeo-oci-zstd": (_skopeo("oci-archive:{path}:1", *ZSTD, image=BIG), ".tar"),
    "skopeo-oci-layout": (_skopeo("oci:{path}:1"), ""),
    "skopeo-dir": (_skopeo("dir:{path}"), ""),
    "umoci-layout": (_umoci, ""),
}
"""Archive name → what writes it, and the suffix of its path."""

NAMES = tuple(MAKERS)
"""Every archive name, for parametrized tests."""

TRANSPORTS = {
    "podman-docker-archive": "docker-archive:{path}",
    "podman-multi": "docker-archive:{path}",
    "podman-oci-archive": "oci-archive:{path}",
    "buildah-oci": "oci-archive:{path}",
    "buildah-docker": "docker-archive:{path}",
    "skopeo-docker-archive": "docker-archive:{path}",
    "skopeo-oci-gzip": "oci-archive:{path}",
    "skopeo-oci-zstd": "oci-archive:{path}",
    "skopeo-oci-layout": "oci:{path}",
    "skopeo-dir": "dir:{path}",
    "umoci-layout": "oci:{path}",
}
"""Archive name → how skopeo names it."""
