"""Proofs on behalf of ``verify``, and their reports."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Iterator, Sequence

from ..errors import ContentMismatch, NotFound, PusherError, UsageError, some_of
from ..system.workers import Workers
from . import console
from .endpoints import Connections, Endpoint
from .text_files import read_list

if TYPE_CHECKING:
    from pathlib import Path

    from ..archive import Archive
    from ..archive.opened import OpenLayout
    from ..archive.stored import StoredImage
    from ..reference import Place, Reference
    from ..sync.lists import SyncEntry
    from ..transfer.proof import Proof, Prover
    from .session import Session

_SHOWN = 5


def of_archive(path: str, there: Endpoint, session: Session) -> int:
    """Prove the archive, directory or volumes at *path* itself."""
    with ExitStack() as stack:
        prover = _prover(there, session, stack)
        opened = _opened(path, stack)
        proof = _proved(opened, opened.images, prover)
    return _report(path, proof, [], session)


def of_list_in_layout(file: str, path: Path, there: Endpoint, session: Session) -> int:
    """Prove that the OCI directory or archive at *path* has all of a list, whole."""
    from ..sync.lists import Defaults

    entries = read_list(file, Defaults(into_directory=True)).entries
    with ExitStack() as stack:
        prover = _prover(there, session, stack)
        opened = _opened(str(path), stack)
        images = {name: image for image in opened.images for name in _names(image)}
        missing: list[str] = []
        wanted: dict[int, StoredImage] = {}
        for entry in entries:
            found = [name for name in images if _is_meant(entry, name)]
            missing += [] if found else [str(entry.source)]
            wanted.update((id(images[name]), images[name]) for name in found)
        proof = _proved(opened, list(wanted.values()), prover)
    return _report(str(path), proof, missing, session)


def of_list_in_registry(
    file: str, place: Place, there: Endpoint, session: Session, *, scoped: bool
) -> int:
    """Prove that registries have what the list in *file* names, whole."""
    from ..sync.lists import Defaults
    from ..transfer.proof import RemoteProof
    from ..transfer.registry_scan import LOOKS

    entries = read_list(file, Defaults(place, scoped)).entries
    missing: list[str] = []
    with ExitStack() as stack:
        connections = stack.enter_context(Connections(there, session, writes=False))
        prover = _prover(there, session, stack)
        remote = RemoteProof(prover)
        with Workers(session.cancellation, LOOKS, name="look") as workers:
            for target in _targets(entries, connections, missing):
                client = connections.client(target.registry)
                named = str(target.digest or target.tag)
                workers.submit(
                    remote.add, client, target.repository, named, str(target)
                )
        proof = prover.finish(remote.count - len(remote.missing))
    return _report(str(place), proof, [*missing, *remote.missing], session)


def _targets(
    entries: Sequence[SyncEntry], connections: Connections, missing: list[str]
) -> Iterator[Reference]:
    """The images that *entries* mean; *missing* gets those of which there is none."""
    for entry in entries:
        target = entry.target
        if entry.tags is None:
            yield target
            continue
        try:
            tags = connections.client(target.registry).tags(target.repository)
            found = entry.tags.choose(tags)
        except NotFound:
            found = []
        missing += [] if found else [target.name]
        yield from map(target.with_tag, found)


def _is_meant(entry: SyncEntry, name: Reference) -> bool:
    if entry.tags is None:
        return name == entry.source
    same = name.name == entry.source.name
    return same and bool(name.tag and entry.tags.choose([name.tag]))


def _names(image: StoredImage) -> Iterator[Reference]:
    from ..sync.carried_directory import parsed

    return parsed(image.names)


def _prover(there: Endpoint, session: Session, stack: ExitStack) -> Prover:
    from ..transfer.proof import Prover

    connections = stack.enter_context(Connections(there, session, writes=False))
    jobs = connections.settings().jobs
    return Prover(session.cancellation, session.on_event, jobs=jobs)


def _opened(path: str, stack: ExitStack) -> Archive | OpenLayout:
    from ..archive.opened import open_any
    from ..archive.sniff import is_forward

    if is_forward(path):
        raise UsageError(
            f"{path}: verify reads an archive more than once, so no compressed file "
            "and no pipe: unpack it first"
        )
    opened = open_any(path)
    stack.enter_context(opened)
    return opened


def _proved(
    opened: Archive | OpenLayout, images: Sequence[StoredImage], prover: Prover
) -> Proof:
    from ..archive import Archive
    from ..transfer.proof import prove_archive, prove_layout

    if not isinstance(opened, Archive):
        return prove_layout(opened, images, prover)
    return prove_archive(opened, images, prover)


def _report(what: str, proof: Proof, missing: Sequence[str], session: Session) -> int:
    """Say what was found. Raises ContentMismatch, NotFound unless all is well."""
    session.end_progress()
    if session.display.json:
        console.json_result(_record(what, proof, missing))
    for damage in proof.damaged:
        console.say(f"damaged: {damage.what}: {damage.why}{_of(damage.images)}")
    for name in missing:
        console.say(f"missing: {name}")
    if proof.damaged or missing:
        raise _failure(what, proof, missing)
    if not session.display.json:
        console.result(f"verified {what}: {_count(proof)}")
    return console.DONE


def _of(images: Sequence[str]) -> str:
    return f"; needed by {some_of(images, _SHOWN)}"


def _count(proof: Proof) -> str:
    images = console.counted(proof.images, "image")
    read = f"{console.counted(proof.blobs, 'blob')}, {console.size_text(proof.size)}"
    needs = console.counted(proof.needs, "blob")
    left = f"; a delta, {needs} left out" if proof.needs else ""
    return f"{images}, {read} read{left}"


def _failure(what: str, proof: Proof, missing: Sequence[str]) -> PusherError:
    from ..transfer.proof import damaged_images

    touched = damaged_images(proof.damaged)
    shown = some_of([*touched, *missing], _SHOWN)
    if touched:
        return ContentMismatch(
            f"{what}: not whole: {shown}; carry or copy these images again"
        )
    return NotFound(f"{what}: not there: {shown}; copy these images again")


def _record(what: str, proof: Proof, missing: Sequence[str]) -> dict[str, Any]:
    return {
        "source": what,
        "verified": not (proof.damaged or missing),
        "images": proof.images,
        "blobs": proof.blobs,
        "bytes": proof.size,
        "needs": proof.needs,
        "missing": list(missing),
        "damaged": [
            {"what": one.what, "why": one.why, "images": list(one.images)}
            for one in proof.damaged
        ],
    }
