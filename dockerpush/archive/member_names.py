"""Names in an archive: one spelling for each, and links followed to their files."""

from __future__ import annotations

from typing import Mapping

from ..errors import ArchiveError, InvalidReference
from ..reference import Reference
from .stored import Kind, Member

HOP_LIMIT = 40
"""Links that may lead from one name to its file, as in Linux (path_resolution(7))."""


def quoted(name: str) -> str:
    """*name* for a message: quoted, unprintable characters escaped, not too long."""
    return repr(name if len(name) <= 160 else name[:80] + "…" + name[-80:])


def canonical(name: str) -> str:
    """What the image name *name* means to Docker; itself when that is nothing."""
    try:
        reference = Reference.parse(name)
    except InvalidReference:
        return name
    has_version = reference.tag or reference.digest
    return str(reference if has_version else reference.with_tag("latest"))


def normalised(name: str) -> str:
    """*name* without ``.``, inner ``..``, doubled and leading slashes.

    A backslash counts as a slash. What climbs above the root keeps its leading ``..``.
    """
    parts: list[str] = []
    for part in name.replace("\\", "/").split("/"):
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def resolved(members: Mapping[str, Member], name: str) -> Member | None:
    """The member that *name* leads to, which is no link; None when it is not there.

    Raises ArchiveError for a loop of links and for what leads out of the archive.
    """
    path = _inside(normalised(name), name)
    for _ in range(HOP_LIMIT):
        member = members.get(path)
        if member is None:
            followed = _through_folder(members, path)
            if followed is None:
                return None
            path = followed
        elif member.kind is Kind.SYMLINK:
            path = _symlink_target(members, member, member.target)
        elif member.kind is Kind.HARDLINK:
            path = _inside(member.target, member.name)
        else:
            return member
    raise ArchiveError(f"{quoted(name)}: its links lead in a circle")


def _through_folder(members: Mapping[str, Member], path: str) -> str | None:
    """*path* with the first folder that is a symbolic link replaced by its target."""
    end = path.find("/")
    while end >= 0:
        folder = members.get(path[:end])
        if folder is not None and folder.kind is Kind.SYMLINK:
            rest = path[end:]
            return _symlink_target(members, folder, folder.target + rest)
        end = path.find("/", end + 1)
    return None


def _symlink_target(members: Mapping[str, Member], link: Member, target: str) -> str:
    """Where *target* leads, seen from *link*.

    Some writers give it from the root of the archive (github.com/containerd/containerd
    issue 12890), so that is tried when nothing lies where it should lead.
    """
    from_root = normalised(target)
    if target.startswith(("/", "\\")):
        return _inside(from_root, link.name)
    parent = link.name.rpartition("/")[0]
    path = _inside(normalised(f"{parent}/{target}"), link.name)
    return from_root if path not in members and from_root in members else path


def _inside(path: str, name: str) -> str:
    if path == ".." or path.startswith("../"):
        raise ArchiveError(f"{quoted(name)}: leads out of the archive with '..'")
    return path
