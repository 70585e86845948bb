"""What bytes are, by how they begin; and what to do when they are no tar."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePath
from typing import Collection

from ..errors import ArchiveError
from ..expressions import expression
from .headers import BLOCK, is_header, quoted
from .stored import Compression
from .volumes import beginning

HEAD_SIZE = 16
"""Bytes from the beginning of a blob that `compression_of` needs."""

_ZSTD_SKIPPABLE = expression(rb"[\x50-\x5f]\x2a\x4d\x18", re.DOTALL)
_BZIP2 = expression(rb"BZh[1-9](?:1AY&SY|\x17\x72\x45\x38\x50\x90)", re.DOTALL)

_UNPACK = {
    Compression.GZIP: ("gunzip", (".gz", ".tgz")),
    Compression.BZIP2: ("bunzip2", (".bz2", ".tbz2", ".tbz")),
    Compression.XZ: ("unxz", (".xz", ".txz")),
    Compression.ZSTD: ("unzstd", (".zst", ".tzst")),
}

_LAYER_OF_DOCKER = expression(r"[0-9a-f]{64}(?:/layer)?\.tar")
_ROOT_FOLDERS = ("bin", "etc", "usr", "var")
_WANTED = "wanted manifest.json or index.json in it, as docker save writes them"
_OTHER_FILES = (
    (expression(rb"\s*<(!doctype|html|\?xml)", re.IGNORECASE), "an HTML or XML page"),
    (expression(rb"\s*[{\[]"), "a JSON file"),
    (expression(rb"version https://git-lfs"), "a Git LFS pointer, not the file itself"),
    (expression(rb"PK\x03\x04"), "a zip file"),
    (expression(rb"Rar!|7z\xbc\xaf"), "a rar or 7z file"),
    (expression(rb"!<arch>"), "an ar file or a Debian package"),
    (expression(rb"\x7fELF|MZ"), "a program"),
    (expression(rb"hsqs"), "a squashfs file system"),
    (expression(rb"QFI\xfb"), "a disk image of a virtual machine"),
    (expression(rb"07070[127]"), "a cpio archive"),
    (expression(rb"[\t\n\r\x20-\x7e]+\Z"), "a text file"),
)


def compression_of(head: bytes) -> Compression:
    """How what begins with *head* is compressed; NONE when that is none we know."""
    if head.startswith(b"\x1f\x8b"):
        return Compression.GZIP
    if head.startswith(b"\x28\xb5\x2f\xfd") or _ZSTD_SKIPPABLE.match(head):
        return Compression.ZSTD
    if head.startswith(b"\xfd7zXZ\0"):
        return Compression.XZ
    if _BZIP2.match(head):
        return Compression.BZIP2
    return Compression.NONE


def begins_as_tar(head: bytes) -> bool:
    """True when a file with the first block *head* may be a tar; zeros are empty."""
    return is_header(head) or not any(head)


def check_tar(head: bytes, path: PurePath) -> None:
    """Check that a file at *path* that begins with *head* is a plain tar.

    Raises ArchiveError, which says what the file looks like and what to do.
    """
    if not head:
        raise ArchiveError("the file is empty; save the image again")
    compression = compression_of(head)
    if compression is not Compression.NONE:
        refuse_compressed(compression, path)
    if is_header(head):
        return
    if len(head) == BLOCK and not any(head):
        raise ArchiveError("it starts with zeros; an empty tar, or a failed download")
    for pattern, what in _OTHER_FILES:
        if pattern.match(head):
            raise ArchiveError(
                f"not a tar, it looks like {what}; wanted what docker save writes"
            )
    raise ArchiveError("not a tar; wanted what docker save or podman save writes")


def is_forward(path: str | os.PathLike[str]) -> bool:
    """True for ``-``, for what is no regular file, and for a compressed file."""
    if str(path) == "-":
        return True
    path = beginning(Path(path))
    if path.is_dir() or not path.exists():
        return False
    if not path.is_file():
        return True
    try:
        with path.open("rb") as file:
            return compression_of(file.read(HEAD_SIZE)) is not Compression.NONE
    except OSError:
        return False  # whoever opens it says why


def refuse_compressed(compression: Compression, path: PurePath) -> None:
    """Raises ArchiveError with the command that makes a plain tar of *path*."""
    import shlex  # for mistakes only

    program, suffixes = _UNPACK[compression]
    if path.suffix in suffixes:
        command = f"{program} {shlex.quote(str(path))}"
    else:
        plain = shlex.quote(f"{path.stem}-plain.tar")
        command = f"{program} < {shlex.quote(str(path))} > {plain}"
    raise ArchiveError(
        f"compressed with {compression.value}; decompress it first: {command}"
    )


def refuse_stream() -> None:
    """Raises ArchiveError, which says how to give a file instead of a pipe."""
    raise ArchiveError(
        "standard input cannot be read as an archive; write it to a file first: "
        "cat > image.tar"
    )


def explain_no_image(names: Collection[str]) -> str:
    """Why an archive with the member *names* holds no image, for an error."""
    if "index.json" in names or "manifest.json" in names:
        return "it holds no image: its list of images is empty"
    for name in names:
        folder, _, file = name.rpartition("/")
        if file in ("index.json", "manifest.json") and "/" not in folder:
            return (
                f"its files are in the folder {quoted(folder)}; unpack it and use "
                "that folder instead"
            )
    if "repositories" in names:
        return (
            "written by docker before 1.10, without manifest.json; load it with "
            "docker load and save it again"
        )
    if "oci-layout" in names or any(
        name.startswith("blobs/") or _LAYER_OF_DOCKER.fullmatch(name) for name in names
    ):
        return (
            "truncated or incomplete archive: manifest.json and index.json are "
            "missing; save it again"
        )
    return _explain_other(names)


def _explain_other(names: Collection[str]) -> str:
    if not names:
        return f"it is empty; {_WANTED}"
    inner = next((name for name in names if name.endswith((".tar", ".tar.gz"))), None)
    if inner:
        return f"it holds no image, but {quoted(inner)}: unpack that, and use it"
    if (
        sum(folder in names or _has_folder(names, folder) for folder in _ROOT_FOLDERS)
        > 1
    ):
        return (
            "a root file system, as docker export writes it, not an image; use docker "
            "save, or docker import first"
        )
    shown = ", ".join(quoted(name) for name in sorted(names)[:3])
    return f"it holds no image ({_WANTED}), but {shown}"


def _has_folder(names: Collection[str], folder: str) -> bool:
    return any(name.startswith(folder + "/") for name in names)
