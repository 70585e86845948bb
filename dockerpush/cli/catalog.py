"""What a registry shows of its repositories, and what these hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Iterator

from ..errors import NotFound, PusherError, RegistryError, Unauthorized

if TYPE_CHECKING:
    from ..reference import Place
    from ..registry.client import RegistryClient

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
        return error.in_words(
            f"{registry} does not let you list its repositories: {said}; many "
            f"registries let only administrators, or nobody; {advice}"
        )
    if error.status in _NO_CATALOG:
        return NotFound(
            f"{registry} has no list of its repositories (status {error.status}); "
            + advice
        )
    return error
