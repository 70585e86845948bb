"""What places hold: repositories of a registry, blobs that ``--have`` leaves out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Iterator, Sequence

from ..errors import (
    NotFound,
    PusherError,
    RegistryError,
    Unauthorized,
    UsageError,
    file_error,
)
from ..reference import looks_like_file
from ..transfer.choices import DOCKER_ARCHIVE
from . import console, location

if TYPE_CHECKING:
    from argparse import ArgumentParser

    from ..reference import Place
    from ..registry.client import RegistryClient
    from ..transfer.inventory import HeldBlobs, Holding
    from .endpoints import Connections


def add_have_option(parser: ArgumentParser) -> None:
    """``--have``."""
    parser.add_argument(
        "--have",
        metavar="X",
        action="append",
        default=[],
        help="leave out what X holds: an inventory, an OCI directory or archive "
        "carried before, or a registry (repeatable)",
    )


def check_have(words: Sequence[str], *, is_file: bool) -> None:
    """Check that *words*, the values of ``--have``, are for a file or a directory.

    Raises UsageError.
    """
    if words and not is_file:
        raise UsageError(
            "--have is for a directory or an archive: dockerpush asks a registry "
            "itself what it holds; leave the option out, or write to oci:DIR"
        )


def read_have(words: Sequence[str], connections: Connections) -> HeldBlobs | None:
    """All that the places *words* hold; None when there are none.

    Raises UsageError, NotFound, ArchiveError, InvalidJSON, and what a registry raises.
    """
    if not words:
        return None
    from ..transfer.inventory import HeldBlobs

    found = HeldBlobs()
    for word in words:
        for holding in _holdings(word, connections):
            found.add(holding)
    return found


def _holdings(word: str, connections: Connections) -> Iterator[Holding]:
    from ..transfer.inventory import read_inventory

    place = location.local(word)
    if place is None:
        yield from _of_registry(word, connections)
    elif place.form is None and _is_json(Path(place.path)):
        yield from read_inventory(Path(place.path))
    else:
        yield from layout_holdings(place, f"--have {word}")


def _of_registry(word: str, connections: Connections) -> Iterator[Holding]:
    """Of a registry whose repositories cannot all be read, nothing counts."""
    from ..transfer.registry_scan import RegistryScan

    if looks_like_file(word):
        raise NotFound(f"--have {word:.200}: no such file or directory")
    place = location.place(word)
    if not any(sign in place.registry for sign in ".:") and "/" not in word:
        raise NotFound(
            f"--have {word:.200}: no such file or directory; a registry is HOST:PORT "
            "or HOST.DOMAIN"
        )
    client = connections.client(place.registry)
    session = connections.session
    scan = RegistryScan(client, session.cancellation, session.on_event)
    advice = f"name an inventory: dockerpush inventory {word} REPOSITORY > have.json"
    yield from scan.holdings(repositories_below(place, client, advice))
    for name, error in scan.failed:
        console.warn(f"--have {word} is used without {name}: {error}")


def layout_holdings(place: location.Local, word: str) -> Iterator[Holding]:
    """What the OCI layout at *place* holds; *word* is what the user called it.

    Raises UsageError for what is no whole layout, NotFound, ArchiveError, InvalidJSON.
    """
    from ..archive.opened import open_layout
    from ..transfer.inventory import holdings_of

    if place.path == location.STDOUT or place.form == DOCKER_ARCHIVE or place.name:
        raise UsageError(f"{word:.200}: {_WANTED}")
    with open_layout(place.path) as layout:
        if layout.is_docker:
            raise UsageError(f"{word:.200} is a docker-archive: {_WANTED}")
        yield from holdings_of(layout)


_WANTED = (
    "wanted a whole OCI directory or OCI archive; the blobs of a docker-archive have "
    "other digests in a registry"
)


def _is_json(path: Path) -> bool:
    """True for a file that begins as an inventory does."""
    if path.is_dir() or not path.exists():
        return False
    try:
        with path.open("rb") as file:
            return file.read(64).lstrip()[:1] in (b"{", b"[")
    except OSError as error:
        raise file_error(str(path), error) from error


_NO_CATALOG = (400, 404, 405, 406, 410, 501)
"""What registries without a list of their repositories answer."""


def repositories_below(
    place: Place, client: RegistryClient, advice: str
) -> Iterator[str]:
    """The repositories at *place*; *advice* is what to do without a list of them."""
    try:
        for name in client.repositories():
            if not place.prefix or f"{name}/".startswith(f"{place.prefix}/"):
                yield name
    except RegistryError as error:
        raise _explained(error, place.registry, advice) from error


def _explained(error: RegistryError, registry: str, advice: str) -> PusherError:
    """What it means that the list is not given."""
    if isinstance(error, Unauthorized):
        said = error.detail or error.code or f"status {error.status}"
        login = f"try: dockerpush login {registry}; " if error.status == 401 else ""
        return error.in_words(
            f"{registry} does not let you list its repositories: {said}; {login}many "
            f"registries let only administrators, or nobody; {advice}"
        )
    if error.status in _NO_CATALOG:
        return NotFound(
            f"{registry} has no list of its repositories (status {error.status}); "
            + advice
        )
    return error
