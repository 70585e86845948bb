"""``sync --report``: what a sync did, as a page of its own, or as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Iterable, Sequence, Union

from ..errors import file_error
from ..markup import POLICY, Markup, definitions, document, element, joined, when
from ..system.files import default_mode, followed, replace_file
from .console import size_text
from .sync_report import PAGES, SyncReport

if TYPE_CHECKING:
    from ..sync.planner import SyncItem
    from ..sync.pruning import PruneItem

    Item = Union[SyncItem, PruneItem]

_HEADINGS = {
    "failed": ("Failed", "Would fail"),
    "missing": ("Missing", "Missing"),
    "copy": ("Copied", "To copy"),
    "skip": ("Unchanged", "Unchanged"),
}
_PRUNED = {
    "failed": ("Pruning failed", "Pruning would fail"),
    "prune": ("Pruned", "To prune"),
    "keep": ("Not pruned", "Not to be pruned"),
}


def write_report(report: SyncReport, path: Path) -> None:
    """Write the file *path*, complete or not at all. Raises PusherError."""
    is_page = path.suffix.lower() in PAGES
    text = report_page(report) if is_page else json.dumps(report.to_json(), indent=1)
    try:
        content = text.encode("utf-8", "backslashreplace")
        replace_file(followed(path), content, mode=default_mode(), durable=False)
    except OSError as error:
        raise file_error(f"--report {path}", error) from error


def report_page(report: SyncReport) -> str:
    """The page. It needs no other file, and no script."""
    policy = element("meta", http_equiv="Content-Security-Policy", content=POLICY)
    referrer = element("meta", name="referrer", content="no-referrer")
    title = "Sync, dry run" if report.dry_run else "Sync"
    return document(
        title,
        joined([element("h1", title), _facts(report), *_sections(report)]),
        top=element("p", "dockerpush sync"),
        bottom="Written by dockerpush.",
        head=(policy, referrer),
    )


def _facts(report: SyncReport) -> Markup:
    counts = report.counts
    numbers = [
        f"{counts[action]} {words[report.dry_run].lower()}"
        for action, words in _HEADINGS.items()
        if counts[action]
    ]
    if report.prunes:
        numbers.append(f"{report.gone} {_PRUNED['prune'][report.dry_run].lower()}")
    facts = {
        "List": report.file,
        "Target": report.target,
        "Images": ", ".join(numbers),
        "Sent": "" if report.dry_run else size_text(report.sent),
        "Time": f"{report.seconds:.1f} s",
    }
    rows = [(key, joined([text])) for key, text in facts.items()]
    return definitions([("Started", when(report.started)), *rows])


def _sections(report: SyncReport) -> Iterable[Markup]:
    """What needs attention comes first."""
    for action, words in _HEADINGS.items():
        found = [item for item in report.items if item.action.value == action]
        yield _section(words[report.dry_run], [_image(item) for item in found])
    for action, words in _PRUNED.items():
        gone = [item for item in report.pruned if item.action.value == action]
        yield _section(words[report.dry_run], [_name(item) for item in gone])


def _section(title: str, items: Sequence[Markup]) -> Markup:
    if not items:
        return Markup("")
    heading = element("h2", f"{title} ({len(items)})")
    return element("section", heading, element("ul", *items, class_="plain"))


def _image(item: SyncItem) -> Markup:
    moved = f"{size_text(item.sent)} in {item.seconds:.1f} s" if item.seconds else ""
    return _entry(str(item.target), (f"from {item.source}", item.why, moved), item)


def _name(item: PruneItem) -> Markup:
    return _entry(item.name, (item.why,), item)


def _entry(name: str, facts: Iterable[str], item: Item) -> Markup:
    """What became of *name*; it and the facts may run in any direction."""
    about = [element("small", element("bdi", fact)) for fact in facts if fact]
    if item.digest:
        about.append(element("small", element("code", str(item.digest))))
    lines = [part for line in about for part in (element("br"), line)]
    return element("li", element("bdi", name), *lines)
