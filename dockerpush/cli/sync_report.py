"""What a sync did, or would do: on stdout, and in a file, a page or JSON.

The JSON says what to retry.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterable, Mapping, Sequence, Union

from ..errors import InvalidJSON, NotFound, UsageError, file_error
from ..markup import POLICY, Markup, definitions, document, element, joined, when
from ..oci import require, required
from ..strict_json import decode
from ..system.files import default_mode, followed, fresh_name, open_own, replace_file
from ..values import field, record, replace
from . import console
from .report import some_failed
from .text_files import read_text

if TYPE_CHECKING:
    from ..sync.lists import SyncEntry
    from ..sync.planner import SyncItem
    from ..sync.pruning import PruneItem

VERSION = 1
"""Of the JSON; another number means that older programs must not read it."""

_LIMIT = 64 * 1024 * 1024  # bytes of a report that is read
PAGES = (".html", ".htm")
"""What the names of reports end in that are pages."""


@record
class SyncReport:
    """What became of *items* of the list *file*, and of names that were *pruned*.

    *target* is where the list went, "" when the list alone says that. *started* is
    seconds since the epoch.
    """

    file: str
    target: str
    dry_run: bool
    prunes: bool
    items: list[SyncItem] = field(default_factory=list)
    pruned: list[PruneItem] = field(default_factory=list)
    started: float = field(default_factory=time.time)
    seconds: float = 0.0
    _began: float = field(default_factory=time.monotonic)

    def finish(self) -> None:
        """All is done."""
        self.seconds = time.monotonic() - self._began

    @property
    def counts(self) -> Counter[str]:
        """How many images there are of each action."""
        return Counter(item.action.value for item in self.items)

    @property
    def sent(self) -> int:
        """Bytes of blobs that moved."""
        return sum(item.sent for item in self.items)

    @property
    def gone(self) -> int:
        """How many names were pruned."""
        return sum(item.action.value == "prune" for item in self.pruned)

    def to_json(self) -> dict[str, Any]:
        """The report as an object."""
        counts, moment = self.counts, time.gmtime(self.started)
        return {
            "version": VERSION,
            "list": self.file,
            "target": self.target,
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", moment),
            "images": [_image(item) for item in self.items],
            **{name: counts[name] for name in ("copy", "skip", "missing", "failed")},
            "pruned": [_pruned(item) for item in self.pruned],
            "prune": self.gone,
            "bytes": self.sent,
            "seconds": round(self.seconds, 3),
            "dryRun": self.dry_run,
        }

    def show(self, *, as_json: bool) -> None:
        """The result on stdout."""
        if as_json:
            console.json_result(self.to_json())
            return
        rows = [
            (i.action.value, str(i.source), str(i.target), i.why) for i in self.items
        ]
        if self.dry_run:
            rows += [(i.action.value, "-", i.name, i.why) for i in self.pruned]
        else:
            rows = [row for row in rows if row[0] in ("missing", "failed")]
        if rows:
            console.table([("ACTION", "SOURCE", "TARGET", "WHY"), *rows])
        console.result(self._summary())

    def _summary(self) -> str:
        counts, planned = self.counts, self.dry_run
        gone = f", {self.gone} {'to prune' if planned else 'pruned'}"
        took = f"; {console.size_text(self.sent)} in {self.seconds:.1f} s"
        return (
            f"{counts['copy']} {'to copy' if planned else 'copied'}, "
            f"{counts['skip']} unchanged, {counts['missing']} missing, "
            f"{counts['failed']} failed{gone * self.prunes}{took * (not planned)}"
        )

    def check(self) -> None:
        """Raises SomeFailed when something did."""
        bad = [str(i.target) for i in self.items if i.action.value in _BAD]
        kept = [item.name for item in self.pruned if item.action.value in _BAD]
        if bad or kept:
            raise some_failed(bad + kept, len(self.items) + len(kept), "images")


_BAD = ("missing", "failed")


def _image(item: SyncItem) -> dict[str, Any]:
    return {
        "line": item.entry.line,
        "source": str(item.source),
        "target": str(item.target),
        "action": item.action.value,
        "digest": item.digest,
        "why": item.why,
        "bytes": item.sent,
        "seconds": round(item.seconds, 3),
        "replaced": item.replaced,
    }


def _pruned(item: PruneItem) -> dict[str, Any]:
    return {
        "target": item.name,
        "digest": item.digest,
        "action": item.action.value,
        "why": item.why,
    }


def report_path(text: str | None) -> Path | None:
    """Where a report is to be written. Raises UsageError, NotFound, PusherError."""
    if text is None:
        return None
    path = Path(text)
    if path.suffix.lower() not in (*PAGES, ".json"):
        raise UsageError(
            f"--report {text!r:.200}: the name says the form: end it in .json or .html"
        )
    if path.is_dir():
        raise UsageError(f"--report {text!r:.200}: it is a directory")
    try:
        probe = fresh_name(path)
        open_own(probe).close()
        probe.unlink()
    except OSError as error:
        raise file_error(f"--report {path}", error) from error
    return path


def to_retry(file: str, entries: Sequence[SyncEntry], target: str) -> list[SyncEntry]:
    """What failed or was missing by the report *file*, as far as *entries* say it too.

    *target* is where the list goes now. Raises InvalidJSON for a damaged report,
    UsageError for one that is of something else, NotFound for one of another list.
    """
    failed = _failures(_read(file), file, target)
    known = {(str(entry.source), str(entry.target)): entry for entry in entries}
    found = [known.get(pair) or _of_rules(*pair, entries) for pair in failed]
    wanted = [entry for entry in found if entry is not None]
    if failed and not wanted:
        raise NotFound(
            f"--retry-failed {file}: nothing that failed there is on this list; run "
            "sync without --retry-failed"
        )
    if len(wanted) < len(failed):
        console.say(f"note: {len(failed) - len(wanted)} of {file} are not on the list")
    if not failed:
        console.say(f"note: nothing failed in {file}")
    return wanted


def _of_rules(
    source: str, target: str, entries: Sequence[SyncEntry]
) -> SyncEntry | None:
    """The image *source* of an entry that chooses tags by rules."""
    name, _, tag = source.rpartition(":")
    for entry in entries:
        if entry.tags is None or str(entry.source) != name:
            continue
        if f"{entry.target}:{tag}" == target:
            source_image, goal = entry.source.with_tag(tag), entry.target.with_tag(tag)
            return replace(entry, source=source_image, target=goal, tags=None)
    return None


def _read(file: str) -> Mapping[str, Any]:
    text = read_text(file, _LIMIT, "is it a report of sync?")
    found = decode(text.encode(), file, None)
    return require(found, dict, file)  # type: ignore[no-any-return]


def _failures(
    report: Mapping[str, Any], file: str, target: str
) -> list[tuple[str, str]]:
    """Sources and targets."""
    version = required(report, "version", int, file)
    if version > VERSION:
        raise UsageError(
            f"--retry-failed {file}: a newer dockerpush wrote it (version {version} of "
            f"the report, this one reads {VERSION})"
        )
    before = required(report, "target", str, file)
    if before != target:
        raise UsageError(
            f"--retry-failed {file}: its DST is {before or 'not given'!r:.200}, that "
            f"of this sync {target or 'not given'!r:.200}"
        )
    if required(report, "dryRun", bool, file):
        raise UsageError(
            f"--retry-failed {file}: a dry run wrote it, and copied nothing"
        )
    failed = []
    for number, image in enumerate(required(report, "images", list, file)):
        where = f"{file}: images[{number}]"
        image = require(image, dict, where)
        source, goal, action = (
            required(image, key, str, where) for key in ("source", "target", "action")
        )
        if action not in ("copy", "skip", *_BAD):
            raise InvalidJSON(f"{where}.action: unknown: {action!r:.80}")
        failed += [(source, goal)] if action in _BAD else []
    return failed


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
        "Images": ", ".join(numbers) or "none",
        "Sent": "" if report.dry_run else console.size_text(report.sent),
        "Time": f"{report.seconds:.1f} s",
    }
    rows = [(key, joined([text])) for key, text in facts.items()]
    return definitions([("Started", when(report.started)), *rows])


def _sections(report: SyncReport) -> Iterable[Markup]:
    """What needs attention comes first."""
    for action, words in _HEADINGS.items():
        found = [item for item in report.items if item.action.value == action]
        yield _section(words[report.dry_run], [_image_entry(item) for item in found])
    for action, words in _PRUNED.items():
        gone = [item for item in report.pruned if item.action.value == action]
        yield _section(words[report.dry_run], [_name_entry(item) for item in gone])


def _section(title: str, items: Sequence[Markup]) -> Markup:
    if not items:
        return Markup("")
    heading = element("h2", f"{title} ({len(items)})")
    return element("section", heading, element("ul", *items, class_="plain"))


def _image_entry(item: SyncItem) -> Markup:
    moved = (
        f"{console.size_text(item.sent)} in {item.seconds:.1f} s"
        if item.seconds
        else ""
    )
    return _entry(str(item.target), (f"from {item.source}", item.why, moved), item)


def _name_entry(item: PruneItem) -> Markup:
    return _entry(item.name, (item.why,), item)


def _entry(name: str, facts: Iterable[str], item: Item) -> Markup:
    """What became of *name*; it and the facts may run in any direction.

    Why it failed is as easy to see as its name.
    """
    clear = item.why if item.action.value in _BAD else ""
    lines = [(fact, element("bdi", fact)) for fact in facts if fact]
    about = [line if fact == clear else element("small", line) for fact, line in lines]
    if item.digest:
        about.append(element("small", element("code", str(item.digest))))
    broken = [part for line in about for part in (element("br"), line)]
    return element("li", element("bdi", name), *broken)
