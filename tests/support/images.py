"""Small docker-archives made by hand, for tests that need an image on disk."""

from __future__ import annotations

import functools
import hashlib
import io
import itertools
import json
import os
import tarfile
from pathlib import Path
from typing import Callable, Sequence

MIB = 1024 * 1024


def tar_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def config_of(diff_ids: Sequence[str], **more: object) -> bytes:
    record = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": list(diff_ids)},
        **more,
    }
    return json.dumps(record).encode()


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def docker_archive(
    path: Path, layers: Sequence[bytes], *, names: Sequence[str] = ("demo/app:1",)
) -> Path:
    """A docker-archive of *layers*, each a tar."""
    config = config_of([digest_of(layer) for layer in layers])
    members = [f"{number}/layer.tar" for number in range(len(layers))]
    entry = {"Config": "config.json", "RepoTags": list(names), "Layers": members}
    files = {
        **dict(zip(members, layers)),
        "config.json": config,
        "manifest.json": json.dumps([entry]).encode(),
    }
    path.write_bytes(tar_of(files))
    return path


def docker_archive_of_packed(
    path: Path, layers: Sequence[bytes], pack: Callable[[bytes], bytes]
) -> Path:
    """A docker-archive of *layers*, each a tar that *pack* has compressed."""
    files = {f"{n}/layer.tar": pack(layer) for n, layer in enumerate(layers)}
    entry = {"Config": "c.json", "RepoTags": ["demo/app:1"], "Layers": list(files)}
    files["c.json"] = config_of([digest_of(layer) for layer in layers])
    files["manifest.json"] = json.dumps([entry]).encode()
    path.write_bytes(tar_of(files))
    return path


@functools.cache
def numbers() -> bytes:
    """A layer that shrinks."""
    return tar_of({"srv/numbers": b"".join(b"%d\n" % n for n in range(50_000))})


def small_archive(path: Path, *, salt: bytes = b"", **options) -> Path:
    """Two layers that shrink and one that does not."""
    return docker_archive(
        path,
        [
            tar_of({"etc/motd": b"hello\n" + salt}),
            numbers(),
            tar_of({"srv/random": os.urandom(300_000)}),
        ],
        **options,
    )


def large_archive(path: Path, sizes: Sequence[int], *, compressible: bool) -> Path:
    """A docker-archive with layers of about *sizes* bytes, written in pieces.

    The layers are padded to a multiple of 1 MiB and never held in memory.
    """
    block = b"".join(b"%12d\n" % n for n in range(80_660))[:MIB]
    random = os.urandom(MIB)
    with tarfile.open(path, "w") as tar:
        diff_ids, members = [], []
        for number, size in enumerate(sizes):
            source = _Blocks(block if compressible else random, number, size)
            member = tarfile.TarInfo(f"{number}/layer.tar")
            member.size = source.size
            tar.addfile(member, source)
            diff_ids.append("sha256:" + source.hasher.hexdigest())
            members.append(member.name)
        entry = {"Config": "c.json", "RepoTags": ["demo/big:1"], "Layers": members}
        for name, content in (
            ("c.json", config_of(diff_ids)),
            ("manifest.json", json.dumps([entry]).encode()),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


class _Blocks:
    """A tar of one file, made of blocks that all differ."""

    def __init__(self, block: bytes, number: int, size: int) -> None:
        blocks = max(1, size // MIB)
        header = tarfile.TarInfo(f"data{number}")
        header.size = blocks * MIB
        end = b"\0" * 1024
        stamped = (
            b"%16d%16d" % (number, left) + block[32:] for left in range(blocks, 0, -1)
        )
        self._pieces = itertools.chain([header.tobuf()], stamped, [end])
        self._piece = io.BytesIO()
        self.size = tarfile.BLOCKSIZE + blocks * MIB + len(end)
        self.hasher = hashlib.sha256()

    def read(self, count: int) -> bytes:
        """The next *count* bytes, fewer at the end."""
        data = self._piece.read(count)
        while len(data) < count:
            piece = next(self._pieces, None)
            if piece is None:
                break
            self._piece = io.BytesIO(piece)
            data += self._piece.read(count - len(data))
        self.hasher.update(data)
        return data
