"""``sync --prune``: what the list no longer yields, shown, asked about and removed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Iterator, Sequence, Union

from ..errors import Cancelled, NotFound, PusherError, UsageError
from ..reference import Reference
from ..sync.pruning import (
    DirectoryPruner,
    Kept,
    PruneAction,
    PruneItem,
    RegistryPruner,
    unlisted,
    yielded,
)
from ..transfer.deletion import space_note
from . import console

if TYPE_CHECKING:
    from ..sync.planner import SyncItem
    from .endpoints import Connections

Pruner = Union[RegistryPruner, DirectoryPruner]


def check_may_prune(*, yes: bool, dry_run: bool) -> None:
    """Check that somebody agreed, or can be asked. Raises UsageError."""
    if not (yes or dry_run or console.is_interactive()):
        raise UsageError(
            "--prune asks before it deletes, and there is no terminal to ask at: --yes "
            "deletes without asking, --dry-run shows what would go"
        )


class Pruning:
    """The last part of a sync of *items*; *into* is the directory they went to."""

    def __init__(
        self,
        items: Sequence[SyncItem],
        targets: Connections,
        into: Path | None,
        done: list[PruneItem],
    ) -> None:
        """*done* gets what becomes of each name."""
        self._done = done
        self._items = items
        self._targets = targets
        self._session = targets.session
        self._kept = yielded(items)
        self._into = into

    def plan(self) -> None:
        """Find out what would go."""
        for _, items in self._planned():
            self._done += items

    def run(self, *, yes: bool) -> None:
        """Prune, after somebody agreed."""
        planned = [(pruner, items) for pruner, items in self._planned() if items]
        self._session.end_progress()
        doomed = [item for _, items in planned for item in items]
        if not doomed or not (yes or self._agreed(doomed)):
            return
        for pruner, items in planned:
            for item in pruner.prune(items):
                self._report(item)
                self._done.append(item)
        self._say_space([pruner for pruner, _ in planned])

    def _planned(self) -> list[tuple[Pruner, list[PruneItem]]]:
        unknown = unlisted(self._items)
        if unknown:
            console.warn(
                "nothing was pruned, for it is not known which tags of "
                f"{unknown.source} the list means: {unknown.why}"
            )
            return []
        planned = []
        for name, pruner in self._pruners():
            try:
                planned.append((pruner, pruner.plan()))
            except Cancelled:
                raise
            except NotFound:
                continue  # nothing was ever stored there
            except PusherError as error:
                self._fail(name, error)
        return planned

    def _pruners(self) -> Iterator[tuple[str, Pruner]]:
        if self._into is not None:
            yield str(self._into), DirectoryPruner(self._into, self._kept)
            return
        for name, kept in sorted(self._kept.items()):
            yield name, self._registry_pruner(Reference.parse(name), kept)

    def _registry_pruner(self, place: Reference, kept: Kept) -> RegistryPruner:
        return RegistryPruner(
            self._targets.client(place.registry),
            place,
            kept,
            self._session.cancellation,
            jobs=self._targets.settings(place.registry).jobs,
        )

    def _fail(self, name: str, error: PusherError) -> None:
        console.say(f"failed: pruning {name}: {error}")
        item = PruneItem(name, None, PruneAction.FAILED, str(error))
        self._done.append(item)

    def _agreed(self, doomed: Sequence[PruneItem]) -> bool:
        for item in doomed:
            console.say(f"prune {item.name} ({item.short})")
        count = len(doomed)
        agreed = console.confirm(f"Prune {'it' if count == 1 else f'all {count}'}?")
        if not agreed:
            console.say("note: nothing was pruned")
        return agreed

    def _report(self, item: PruneItem) -> None:
        if item.action is PruneAction.FAILED:
            console.say(f"failed: pruning {item.name}: {item.why}")
        elif item.action is PruneAction.KEEP:
            self._say(f"note: {item.name} stays: {item.why}")
        else:
            self._say(f"pruned {item.name} ({item.short})")

    def _say_space(self, pruners: Sequence[Pruner]) -> None:
        gone = [item for item in self._done if item.action is PruneAction.PRUNE]
        for pruner in pruners:
            if not isinstance(pruner, DirectoryPruner):
                continue
            if pruner.is_unclear:
                console.warn(
                    f"{self._into}: no blob was removed, because an image there is "
                    "damaged or incomplete; see which one: dockerpush inspect "
                    f"{self._into}"
                )
            else:
                self._say(f"removed {console.size_text(pruner.freed)} of blobs")
        if gone and self._into is None:
            self._say(space_note(is_alone=any(item.is_alone for item in gone)))

    def _say(self, text: str) -> None:
        if not self._session.display.quiet:
            console.say(text)
