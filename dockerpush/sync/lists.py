"""What a list of images to be copied says. Pure.

Three forms: plain lines ``SRC [DST]``; our own object; and skopeo's. The last two are
JSON or YAML. All of a list is read before anything else happens, and every mistake in
it is reported, with its line. A source that names neither tag nor digest means
``latest``, as everywhere, unless there are rules for tags: then it is a repository.

Ranges of versions, ``>= 3.12.0, < 4``, are those of skopeo's lists
(github.com/Masterminds/semver, Constraints). A version before its release, ``1.0-rc1``,
is in no range that names none itself; ``>=1.0-0 <2`` names one.
"""

from __future__ import annotations

import enum
import hashlib
import heapq
import re
from operator import itemgetter
from typing import (
    Any,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
)

from ..documents import held
from ..errors import InvalidJSON, InvalidReference, NotFound, UsageError
from ..expressions import expression
from ..oci import Platform
from ..reference import (
    Place,
    Reference,
    parse_source,
    parse_target,
    without_docker,
)
from ..transfer.creation import parse_moment
from ..values import field, value

Version = tuple[int, int, int, tuple[tuple[int, int, str], ...]]

_VERSION = expression(
    r"v?(\d{1,18})(?:\.(\d{1,18}))?(?:\.(\d{1,18}))?"
    r"(?:-([0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.-]+)?"
)
_RULE = expression(
    r"(=|==|!=|>=|=>|<=|=<|>|<|~|~>|\^)?\s*"
    r"v?(\d{1,18}|[xX*])(?:\.(\d{1,18}|[xX*]))?(?:\.(\d{1,18}|[xX*]))?"
    r"(?:-([0-9A-Za-z.-]+))?"
)
_RELEASE = (1, 0, "")
_AGO = expression(r"([0-9]{1,5})([hdw])", re.IGNORECASE)
_SECONDS = {"h": 3600, "d": 24 * 3600, "w": 7 * 24 * 3600}
Test = Callable[[str], bool]


def parse_version(text: str) -> Version | None:
    """*text* as something that sorts; None when it is no version."""
    match = _VERSION.fullmatch(text)
    if match is None:
        return None
    major, minor, patch = (int(part or 0) for part in match.groups()[:3])
    return major, minor, patch, _before_release(match[4])


def _before_release(text: str | None) -> tuple[tuple[int, int, str], ...]:
    """Sorts before the release (semver.org, 11)."""
    if not text:
        return (_RELEASE,)
    return tuple(
        (-1, int(part), "") if part.isdigit() else (0, 0, part)
        for part in text.split(".")
    )


def parse_range(text: str) -> Test:
    """Says of a tag whether its version is in the range. Raises InvalidJSON."""
    choices = [_all_of(part) for part in text.split("||")]

    def contains(tag: str) -> bool:
        version = parse_version(tag)
        return version is not None and any(rule(version) for rule in choices)

    return contains


def _all_of(text: str) -> Callable[[Version], bool]:
    """What all rules of *text* hold for; early versions if one of them names one."""
    rest = re.sub(r"(\S+)\s+-\s+(\S+)", r">=\1 <=\2", text.replace(",", " ")).strip()
    rules, takes_early = [], False
    while match := _RULE.match(rest):
        rules.append(_rule(match))
        takes_early = takes_early or match[5] is not None
        rest = rest[match.end() :].lstrip()
    if rest or not rules:
        raise InvalidJSON(f"not a range of versions: {text!r:.80}")
    return lambda version: (
        (takes_early or version[3] == (_RELEASE,))
        and all(rule(version) for rule in rules)
    )


def _rule(match: re.Match[str]) -> Callable[[Version], bool]:
    sign = match[1] or "="
    numbers = [
        None if part is None or part in "xX*" else int(part)
        for part in match.groups()[1:4]
    ]
    known = numbers.index(None) if None in numbers else 3
    filled = [number or 0 for number in numbers]
    low: Version = (filled[0], filled[1], filled[2], _before_release(match[5]))
    high = _end(sign, filled, known)

    def holds(version: Version) -> bool:
        within = low <= version and (high is None or version[:3] < high)
        exact = version == low if known == 3 else within
        return {
            "=": exact,
            "!": not exact,
            ">": version > low if known == 3 else version[:3] >= (high or version[:3]),
            "<": version < low,
            ">=": version >= low,
            "<=": version <= low if known == 3 else version < low or within,
            "^": within,
        }[_SIGNS.get(sign, sign)]

    return holds


_SIGNS = {"==": "=", "!=": "!", "=>": ">=", "=<": "<=", "~": "^", "~>": "^"}

_Numbers = Optional[tuple[int, int, int]]


def _end(sign: str, numbers: list[int], known: int) -> _Numbers:
    """The first version beyond what *sign* and the *known* numbers mean."""
    major, minor, patch = numbers
    if known == 0:
        return None
    if sign == "^" and (major or known == 1):
        return major + 1, 0, 0
    if sign == "^" and (minor or known == 2):
        return 0, minor + 1, 0
    if sign == "^":
        return 0, 0, patch + 1
    return (major + 1, 0, 0) if known == 1 else (major, minor + 1, 0)


Path = tuple[Any, ...]
"""The way to a value in a document: keys and numbers."""

_ARCHIVES = ("oci:", "oci-archive:", "docker-archive:", "dir:", "./", "/")


class OnExists(enum.Enum):
    """What happens when the target has the tag already."""

    COMPARE = "compare"
    """Copy when the digest is another one."""
    SKIP = "skip"
    """Leave it as it is, without asking what it holds."""
    ERROR = "error"
    """Fail when the digest is another one."""


@value
class Since:
    """The earliest day of creation: a *moment*, or so many seconds *ago*."""

    text: str
    moment: float | None
    ago: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Since:
        """``2026-01-31``, a time of RFC 3339, ``30d``, ``12h``. Raises InvalidJSON."""
        match = _AGO.fullmatch(text)
        ago = float(match[1]) * _SECONDS[match[2].lower()] if match else 0.0
        moment = None if match else parse_moment(text)
        if not match and moment is None:
            raise InvalidJSON(f"wanted 30d, 12h or 2026-01-31, got {text!r:.80}")
        return cls(text, moment, ago)

    def earliest(self, now: float) -> float:
        """Seconds since the epoch."""
        return now - self.ago if self.moment is None else self.moment


@value
class TagRules:
    """Which tags of a repository are meant.

    *allow* and *deny* match whole tags; an empty *allow* takes all. *newest* keeps the
    highest so many, numbers in a tag compared as numbers; None keeps all. *versions*
    says of a tag whether its version is meant; None takes all. *since* is about images.
    """

    allow: tuple[re.Pattern[str], ...] = ()
    deny: tuple[re.Pattern[str], ...] = ()
    newest: int | None = None
    versions: Callable[[str], bool] | None = None
    since: Since | None = None

    def matching(self, tags: Iterable[str]) -> Iterator[str]:
        """The *tags* whose names are meant."""
        return (
            tag
            for tag in tags
            if (not self.allow or any(rule.fullmatch(tag) for rule in self.allow))
            and not any(rule.fullmatch(tag) for rule in self.deny)
            and (self.versions is None or self.versions(tag))
        )

    def choose(self, tags: Iterable[str]) -> list[str]:
        """The *tags* that are meant, in their order, as far as names say.

        However long the list is, only the newest are in memory.
        """
        found = self.matching(tags)
        if self.newest is None:
            return held(found)
        numbered = ((version_key(tag), place, tag) for place, tag in enumerate(found))
        kept = heapq.nlargest(self.newest, numbered)
        return [tag for _, _, tag in sorted(kept, key=itemgetter(1))]


def version_key(tag: str) -> tuple[tuple[int, int, str], ...]:
    """Sorts ``v1.9`` before ``1.10``, and ``1.10-rc1`` before ``1.10``."""
    parts = re.findall(r"\d+|[A-Za-z]+", re.sub(r"^[vV](?=\d)", "", tag))
    key = [(2, int(p), "") if p.isdigit() else (0, 0, p.lower()) for p in parts]
    return (*key, (1, 0, ""))


@value
class SyncEntry:
    """One line of the list: an image, or with *tags* a repository.

    *line* counts from 1. An empty *platforms* takes all.
    """

    line: int
    source: Reference
    target: Reference
    tags: TagRules | None = None
    platforms: tuple[Platform, ...] = ()
    referrers: bool = False
    on_exists: OnExists = OnExists.COMPARE


@value
class Defaults:
    """What counts for the lines that say nothing else.

    *place* is where images without a target go: below it by the last part of their
    name, or with *scoped* by their full name, the registry's included. With
    *into_directory* everything is stored under the name of its source, whatever
    targets are named: the same list serves at both ends of the way.
    """

    place: Place | None = None
    scoped: bool = False
    platforms: tuple[Platform, ...] = ()
    referrers: bool = False
    on_exists: OnExists = OnExists.COMPARE
    into_directory: bool = False


@value
class SyncList:
    """A list without mistakes; *hosts* are settings by registry."""

    entries: tuple[SyncEntry, ...]
    hosts: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    parallel: int | None = None


@value
class Problem:
    """A mistake, and the line that it is in."""

    line: int
    text: str


class Document(NamedTuple):
    """A list in JSON or YAML before anybody asked what it means.

    *lines* has the line of each value, *problems* what is wrong in its form.
    """

    value: Any
    lines: dict[Path, int]
    problems: list[Problem]


class SyncListError(UsageError):
    """A list has *problems*; nothing of it may be done."""

    def __init__(self, name: str, problems: Sequence[Problem]) -> None:
        self.name = name
        self.problems = tuple(sorted(problems, key=lambda problem: problem.line))
        count = len(self.problems)
        super().__init__(
            f"{name}: {count} mistake{'s' * (count > 1)}, nothing was copied: line "
            f"{self.problems[0].line}: {self.problems[0].text}"
        )


@value
class Shard:
    """One of *count* shares of a list, by *number*; 0 and *count* are the same one."""

    number: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """``3/8``. Raises UsageError."""
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if match is None or not 0 <= int(match[1]) <= int(match[2]) or match[2] == "0":
            raise UsageError(
                f"--shard: wanted I/N, I from 1 to N or from 0 to N-1: {text!r:.80}"
            )
        return cls(int(match[1]), int(match[2]))

    def takes(self, entry: SyncEntry) -> bool:
        """True when *entry* is in this share: by its target, wherever it stands."""
        digest = hashlib.sha256(str(entry.target).encode()).digest()
        return (
            int.from_bytes(digest[:8], "big") % self.count == self.number % self.count
        )


def parse_listed_source(text: str) -> Reference:
    """*text*, also with ``docker://`` before it. Raises InvalidReference."""
    return parse_source(without_docker(text))


def target_of(source: Reference, text: str | None, defaults: Defaults) -> Reference:
    """Where *source* goes: to *text*, else below the default place; under its tag.

    Raises InvalidReference, which says what to do.
    """
    if text is not None:
        if text.startswith(_ARCHIVES):
            raise InvalidReference(
                f"{text!r:.200}: targets are in registries; a directory is one for "
                "the whole list: dockerpush sync FILE oci:DIR"
            )
        target = parse_target(without_docker(text))
    elif defaults.into_directory:
        target = source
    elif defaults.place is None:
        raise InvalidReference(
            "no target: write SRC DST, or name the registry on the command line"
        )
    else:
        full = f"{source.registry}/{source.repository}".replace(":", "-")
        last = source.repository.rpartition("/")[2]
        target = defaults.place.reference(full if defaults.scoped else last)
    if defaults.into_directory:
        return source
    if target.tag or target.digest:
        return target
    return Reference(
        target.registry,
        target.repository,
        source.tag,
        None if source.tag else source.digest,
    )


def parse_lines(text: str, name: str, defaults: Defaults) -> SyncList:
    """A plain list; ``#`` starts a comment. Raises SyncListError about *name*."""
    entries, problems = [], []
    for number, line in enumerate(text.splitlines(), 1):
        words = re.sub(r"(^|\s)#.*", "", line).split()
        if not words:
            continue
        try:
            entries.append(_line_entry(number, words, defaults))
        except InvalidReference as error:
            problems.append(Problem(number, str(error)))
    return checked(SyncList(tuple(entries)), name, problems, defaults)


def _line_entry(number: int, words: Sequence[str], defaults: Defaults) -> SyncEntry:
    if len(words) > 2:
        raise InvalidReference(f"wanted SRC [DST], got {len(words)} words")
    source = tagged(parse_listed_source(words[0]))
    target = target_of(source, words[1] if len(words) > 1 else None, defaults)
    return SyncEntry(
        number,
        source,
        target,
        platforms=defaults.platforms,
        referrers=defaults.referrers,
        on_exists=defaults.on_exists,
    )


def tagged(source: Reference) -> Reference:
    """*source* as an image: ``latest`` when it has neither tag nor digest."""
    named = source.tag or source.digest
    return source if named else source.with_tag("latest")


def checked(
    found: SyncList, name: str, problems: Iterable[Problem], defaults: Defaults
) -> SyncList:
    """*found*, when there are no *problems* and no target is written twice.

    Raises SyncListError, and NotFound for a list without images.
    """
    problems = list(problems)
    if defaults.into_directory:
        problems += _narrowed_apart(found.entries)
    else:
        problems += _clashes(found.entries)
    if not found.entries and not problems:
        raise NotFound(
            f"{name}: no images in it, nothing was copied; if a command wrote the "
            "list, see whether it failed"
        )
    if problems:
        raise SyncListError(name, problems)
    return found


def _narrowed_apart(entries: Sequence[SyncEntry]) -> Iterator[Problem]:
    """Sources that are written twice, for other platforms: one would be lost."""
    first: dict[str, SyncEntry] = {}
    for entry in entries:
        other = first.setdefault(f"{entry.source} {entry.tags}", entry)
        if set(other.platforms) != set(entry.platforms):
            yield Problem(
                entry.line,
                f"{entry.source} is in line {other.line} for other platforms, and a "
                "directory holds it only once",
            )


def place_of(reference: Reference) -> str:
    """What *reference* and all others have that mean the same: a host has no case."""
    return str(reference).replace(reference.registry, reference.registry.lower(), 1)


def _clashes(entries: Sequence[SyncEntry]) -> Iterator[Problem]:
    """Targets that are written twice, and sources that are their own."""
    first: dict[str, int] = {}
    for entry in entries:
        target = place_of(entry.target)
        line = first.setdefault(target, entry.line)
        if line != entry.line or place_of(entry.source) == target:
            why = (
                f"goes to the same target as line {line}"
                if line != entry.line
                else "is its own target"
            )
            yield Problem(entry.line, f"{entry.source} {why}")
