"""Where a push without ``-t`` goes: a place and a name. Pure.

The place is ``HOST[/PREFIX]``: what ``--registry`` says; else the more recent of the
last login (HOST) and the last confirmed push (its repository without the last part);
else the registry in the image's own name. Below a HOST the image keeps the path of its
name, below a PREFIX only the last part. A repository that was pushed to before, and
ends in the image's name, comes before the newest PREFIX.
"""

from __future__ import annotations

import contextlib
from typing import Callable, Iterable, Sequence

from ..errors import InvalidReference, UsageError
from ..reference import DOCKER_HUB, Place, Reference
from ..state.history import Destination, Login
from ..values import value

_OFFICIAL = "library/"
_HUB_PREFIXES = ("docker.io/", "index.docker.io/")
_LOCAL = "localhost"
"""What podman and buildah put before names that have no registry. One that listens on
port 80 or 443 of this machine needs ``-t``."""


@value
class Known:
    """What earlier commands left behind. *destinations* are newest first."""

    destinations: Sequence[Destination] = ()
    logins: Sequence[Login] = ()
    is_confirmed: Callable[[Reference], bool] = lambda target: False


@value
class Inference:
    """Where to push, and *why* there, as a phrase.

    *confirmed* is true when somebody agreed to this repository before, with any tag.
    """

    reference: Reference
    confirmed: bool
    why: str


def infer_target(
    repo_tag: str, known: Known, *, registry: str | None = None
) -> Inference:
    """Where the image called *repo_tag* goes; *registry* is ``HOST[/PREFIX]``.

    Raises UsageError, which says how to name a target, when there is no way to tell,
    and InvalidReference for a *registry* that cannot be.
    """
    name = _ImageName.parse(repo_tag)
    if registry is not None:
        target, why = name.below(Place.parse(registry)), "--registry"
    else:
        target, why = _from_events(name, known)
    return Inference(target, known.is_confirmed(target), why)


@value
class _ImageName:
    """The parts of an image's own name; *registry* is None unless it stands there."""

    text: str
    registry: str | None
    path: str
    tag: str

    @classmethod
    def parse(cls, text: str) -> _ImageName:
        try:
            reference = Reference.parse(text)
        except InvalidReference as error:
            raise UsageError(f"{error}; name the target with -t") from error
        if reference.tag is None and reference.digest is not None:
            raise UsageError(f"{text!r} has no tag: name the target with -t")
        is_named = reference.registry != DOCKER_HUB or text.startswith(_HUB_PREFIXES)
        is_named = is_named and reference.registry != _LOCAL
        path = reference.repository
        if reference.registry == DOCKER_HUB and path.count("/") == 1:
            path = path[len(_OFFICIAL) :] if path.startswith(_OFFICIAL) else path
        registry = reference.registry if is_named else None
        return cls(text, registry, path, reference.tag or "latest")

    @property
    def last(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    def below(self, place: Place) -> Reference:
        """This image at *place*."""
        return place.reference(self.last if place.prefix else self.path, self.tag)


def _from_events(name: _ImageName, known: Known) -> tuple[Reference, str]:
    push = known.destinations[0] if known.destinations else None
    login = max(known.logins, key=lambda login: login.time, default=None)
    if login is not None and (push is None or login.time > push.time):
        return _after_login(name, login, known.destinations)
    if push is not None:
        same = _same_name(name, known.destinations)
        if same is not None:
            return same, "pushed there before"
        place = Place.of(push.target)
        return name.below(place), f"the last push went to {push.target.name}"
    if name.registry is not None:
        return name.below(Place(name.registry)), "the registry in the image's name"
    raise UsageError(
        f"cannot tell where to push {name.text!r}: name the target with -t "
        "REGISTRY/REPOSITORY:TAG, or the place with --registry HOST[/PREFIX], or log "
        "in there first"
    )


def _after_login(
    name: _ImageName, login: Login, destinations: Iterable[Destination]
) -> tuple[Reference, str]:
    """A login newer than every push says which registry, not where in it."""
    there = [item for item in destinations if item.target.registry == login.registry]
    same = _same_name(name, there)
    if same is not None:
        return same, "pushed there before"
    place = Place(login.registry)
    if login.registry == DOCKER_HUB and login.username and "/" not in name.path:
        with contextlib.suppress(InvalidReference):  # a user whose name is no path
            place = Place(DOCKER_HUB, login.username)
    return name.below(place), f"the last login was at {login.registry}"


def _same_name(
    name: _ImageName, destinations: Iterable[Destination]
) -> Reference | None:
    """The newest repository that ends in the whole path, else in its last part."""
    repositories = [item.target for item in destinations]
    for ending in (name.path, name.last):
        for target in repositories:
            if f"/{target.repository}".endswith(f"/{ending}"):
                return Reference(target.registry, target.repository, name.tag)
    return None
