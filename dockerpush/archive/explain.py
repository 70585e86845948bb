"""What a tar without an image probably is, and what to do about it."""

from __future__ import annotations

from typing import Collection

from ..expressions import expression
from .member_names import quoted

_LAYER_OF_DOCKER = expression(r"[0-9a-f]{64}(?:/layer)?\.tar")
_ROOT_FOLDERS = ("bin", "etc", "usr", "var")
_WANTED = "wanted manifest.json or index.json in it, as docker save writes them"


def explain_no_image(names: Collection[str]) -> str:
    """Why an archive with the member *names* holds no image, for an error."""
    if "index.json" in names or "manifest.json" in names:
        return "it holds no image: its list of images is empty"
    for name in names:
        folder, _, file = name.rpartition("/")
        if file in ("index.json", "manifest.json") and "/" not in folder:
            return (
                f"its files are in the folder {quoted(folder)}; unpack it and give "
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
        return f"it holds no image, but {quoted(inner)}: unpack that and give it"
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
