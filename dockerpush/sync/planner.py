"""Many images: which of them are to be copied, and all of those at once.

Nothing here knows of registries but what it asks of them; how one image is copied is
the caller's. An image that has not changed costs one HEAD at each side. Whatever goes
wrong with one image is in its result and stops no other.
"""

from __future__ import annotations

import enum
import time
from typing import Callable, Iterator, Mapping, Protocol, Sequence

from ..documents import held
from ..errors import Cancelled, NotFound, PusherError
from ..oci import Descriptor, Digest, Platform
from ..reference import Reference
from ..registry.looks import unless_refused
from ..system.cancellation import Cancellation
from ..system.workers import Workers
from ..transfer.engine import ConcurrencyLimits
from ..values import replace, value
from .lists import OnExists, SyncEntry, TagRules, place_of, version_key


class TagLister(Protocol):
    """What a plan asks of a registry; several threads do."""

    def tags(self, repository: str) -> Iterator[str]:
        """The tags of *repository*."""

    def manifest_descriptor(self, repository: str, reference: str) -> Descriptor | None:
        """What *reference* names, None when there is nothing."""


class Action(enum.Enum):
    """What is to be done with an image, or has been."""

    COPY = "copy"
    SKIP = "skip"
    MISSING = "missing"
    FAILED = "failed"


@value
class SyncItem:
    """One image of a plan, and in the end what became of it.

    *digest* is what the source named when the plan was made, and what is copied
    whatever the tag names by then, *root* its whole descriptor; *why* is for people.
    *sent* is bytes, *replaced* is the image that the target's tag named before, *lost*
    counts what was left out since it refers to the image by its old digest.
    """

    entry: SyncEntry
    source: Reference
    target: Reference
    action: Action
    digest: Digest | None = None
    why: str = ""
    sent: int = 0
    replaced: Digest | None = None
    root: Descriptor | None = None
    seconds: float = 0.0
    lost: int = 0


class Planner:
    """Makes a plan for lists of images; *sources* and *targets* are by registry."""

    def __init__(
        self,
        sources: Mapping[str, TagLister],
        targets: Mapping[str, TagLister],
        limits: ConcurrencyLimits,
        cancellation: Cancellation,
        *,
        jobs: int,
        created: Callable[[Reference], float | None] = lambda reference: None,
    ) -> None:
        """*jobs* images are looked at at a time.

        *created* says when an image was made, in seconds since the epoch.
        """
        self._created = created
        self._sources = sources
        self._targets = targets
        self._limits = limits
        self._cancellation = cancellation
        self._jobs = jobs

    def plan(self, entries: Sequence[SyncEntry]) -> list[SyncItem]:
        """What to do with each image of *entries*, in their order. Raises Cancelled."""
        with Workers(self._cancellation, self._jobs, name="plan") as workers:
            listed = workers.wait(
                [workers.submit(self._expanded, entry) for entry in entries]
            )
            found = _apart([item for items in listed for item in items])
            return workers.wait([workers.submit(self._decided, i) for i in found])

    def _expanded(self, entry: SyncEntry) -> list[SyncItem]:
        """The images of *entry*: one, or those that its rules for tags choose."""
        whole = SyncItem(entry, entry.source, entry.target, Action.COPY)
        if entry.tags is None:
            return [whole]
        try:
            tags = self._named(entry.source, entry.tags)
            chosen = self._dated(entry.source, entry.tags, tags)
            held: set[str] = set()
            if entry.on_exists is OnExists.SKIP and chosen:
                held = self._held(entry.target)
        except Cancelled:
            raise
        except NotFound as error:
            return [replace(whole, action=Action.MISSING, why=str(error))]
        except PusherError as error:
            return [replace(whole, action=Action.FAILED, why=str(error))]
        if not tags:
            why = "no tag is allowed by the rules"
            return [replace(whole, action=Action.MISSING, why=why)]
        if not chosen and entry.tags.since:
            why = f"no image since {entry.tags.since.text}"
            return [replace(whole, action=Action.SKIP, why=why)]
        return [_tagged(whole, tag, held, why) for tag, why in chosen.items()]

    def _named(self, source: Reference, rules: TagRules) -> list[str]:
        """The tags of *source* that *rules* choose, as far as names say."""
        with self._limits.permit(self._cancellation, source.registry):
            listed = self._tags(self._sources, source)
            return held(rules.matching(listed)) if rules.since else rules.choose(listed)

    def _dated(
        self, source: Reference, rules: TagRules, tags: Sequence[str]
    ) -> dict[str, str]:
        """The *tags* whose images are new enough, and what to report of them.

        An image without a date counts as new. With a number of tags that are wanted, no
        more are looked at than that takes, the highest first.
        """
        if rules.since is None:
            return dict.fromkeys(tags, "")
        earliest, found = rules.since.earliest(time.time()), dict[str, str]()
        most = rules.newest or len(tags)
        first = sorted(tags, key=version_key, reverse=True) if rules.newest else tags
        child, jobs = self._cancellation.child(), self._jobs
        with child, Workers(child, jobs, name="dates") as workers:
            for start in range(0, len(first), self._jobs):
                some = first[start : start + self._jobs]
                looks = [workers.submit(self._age, source.with_tag(t)) for t in some]
                for tag, moment in zip(some, workers.wait(looks)):
                    if len(found) < most and (moment is None or moment >= earliest):
                        found[tag] = "" if moment else "no creation date"
                if len(found) == most:
                    break
        return {tag: found[tag] for tag in tags if tag in found}

    def _age(self, image: Reference) -> float | None:
        with self._limits.permit(self._cancellation, image.registry):
            return self._created(image)

    def _held(self, target: Reference) -> set[str]:
        try:
            with self._limits.permit(self._cancellation, target.registry):
                return set(held(self._tags(self._targets, target)))
        except NotFound:
            return set()

    def _tags(
        self, registries: Mapping[str, TagLister], repository: Reference
    ) -> Iterator[str]:
        return registries[repository.registry].tags(repository.repository)

    def _decided(self, item: SyncItem) -> SyncItem:
        """*item* with what is to be done."""
        if item.action is not Action.COPY:
            return item
        try:
            return self._compared(item)
        except Cancelled:
            raise
        except PusherError as error:
            return replace(item, action=Action.FAILED, why=str(error))

    def _compared(self, item: SyncItem) -> SyncItem:
        entry = item.entry
        if entry.on_exists is OnExists.SKIP:
            # a list of tags that was read has told already
            held = None if entry.tags else self._find(self._targets, item.target)
            if held is not None:
                return replace(item, action=Action.SKIP, why="exists")
        source = self._find(self._sources, item.source)
        if source is None:
            why = f"{item.source} does not exist"
            return replace(item, action=Action.MISSING, why=why)
        item = replace(item, digest=source.digest, root=source)
        if entry.on_exists is OnExists.SKIP:
            return item
        target = self._there(item)
        if target is None or entry.platforms:
            return _unless_refused(item, target)
        if target.digest == source.digest:
            if entry.referrers:
                return item  # there may be more of them by now
            return replace(item, action=Action.SKIP, why="unchanged")
        return _unless_refused(item, target)

    def _there(self, item: SyncItem) -> Descriptor | None:
        """What is to be replaced; may it be, a registry need not say."""
        if item.entry.on_exists is OnExists.ERROR:
            return self._find(self._targets, item.target)
        return unless_refused(lambda: self._find(self._targets, item.target))

    def _find(
        self, registries: Mapping[str, TagLister], reference: Reference
    ) -> Descriptor | None:
        with self._limits.permit(self._cancellation, reference.registry):
            registry = registries[reference.registry]
            return registry.manifest_descriptor(reference.repository, named(reference))


def _apart(items: Sequence[SyncItem]) -> list[SyncItem]:
    """*items*, each once; those that rules give one target have failed."""
    makers: dict[str, dict[tuple[str, frozenset[Platform]], SyncItem]] = {}
    for number, item in enumerate(items):
        made_of = (place_of(item.source), frozenset(item.entry.platforms))
        is_one = item.target.tag or item.target.digest  # rules chose some
        target = place_of(item.target) if is_one else str(number)
        makers.setdefault(target, {}).setdefault(made_of, item)
    return [
        item if len(made) == 1 else _clashing(item, list(made.values()))
        for made in makers.values()
        for item in made.values()
    ]


def _clashing(item: SyncItem, items: Sequence[SyncItem]) -> SyncItem:
    sources = [" ".join([str(s.source), *map(str, s.entry.platforms)]) for s in items]
    why = f"it would get {' and '.join(sources)}: change the rules, or one target"
    return replace(item, action=Action.FAILED, why=why)


def named(reference: Reference) -> str:
    """The digest of *reference*, else its tag."""
    return str(reference.digest or reference.tag)


def _tagged(whole: SyncItem, tag: str, held: set[str], why: str) -> SyncItem:
    source, target = whole.source.with_tag(tag), whole.target.with_tag(tag)
    item = replace(whole, source=source, target=target, why=why)
    if tag in held:
        return replace(item, action=Action.SKIP, why="exists")
    return item


def _unless_refused(item: SyncItem, target: Descriptor | None) -> SyncItem:
    if target is None or item.entry.on_exists is not OnExists.ERROR:
        return item
    why = f"{item.target} exists, with another image: {target.digest}"
    return replace(item, action=Action.FAILED, why=why)


def copy_all(
    items: list[SyncItem],
    copy: Callable[[SyncItem], SyncItem],
    on_done: Callable[[SyncItem], None],
    *,
    cancellation: Cancellation,
    jobs: int,
) -> None:
    """Put in place of those of *items* that are to be copied what *copy* makes of them.

    *jobs* are copied at a time; *on_done* gets each from the thread that did it. Raises
    Cancelled; what was not done by then has failed.
    """
    waiting = {n: item for n, item in enumerate(items) if item.action is Action.COPY}

    def work(place: int, item: SyncItem) -> None:
        started = time.monotonic()
        try:
            done = copy(item)
        except Cancelled:
            raise
        except PusherError as error:
            done = replace(item, action=Action.FAILED, why=str(error))
        items[place] = replace(done, seconds=time.monotonic() - started)
        waiting.pop(place)
        on_done(items[place])

    if not waiting:
        return
    try:
        with Workers(cancellation, min(jobs, len(waiting)), name="sync") as workers:
            workers.wait([workers.submit(work, *one) for one in list(waiting.items())])
    except Cancelled as error:
        for place, item in waiting.items():
            items[place] = replace(item, action=Action.FAILED, why=f"not done: {error}")
        raise
