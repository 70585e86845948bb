"""Ranges of versions, ``>= 3.12.0, < 4``, as skopeo's lists of images have them. Pure.

(github.com/Masterminds/semver, Constraints). A version before its release, ``1.0-rc1``,
is in no range that names none itself.
"""

from __future__ import annotations

import re
from typing import Callable, Optional

from ..errors import InvalidJSON
from ..expressions import expression

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
        return version is not None and any(
            all(rule(version) for rule in rules) for rules in choices
        )

    return contains


def _all_of(text: str) -> list[Callable[[Version], bool]]:
    hyphen = re.fullmatch(r"\s*(\S+)\s+-\s+(\S+)\s*", text)
    if hyphen:
        text = f">={hyphen[1]} <={hyphen[2]}"
    rules, rest = [], text.replace(",", " ").strip()
    while match := _RULE.match(rest):
        rules.append(_rule(match))
        rest = rest[match.end() :].lstrip()
    if rest or not rules:
        raise InvalidJSON(f"not a range of versions: {text!r:.80}")
    return rules


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
    takes_early = match[5] is not None

    def holds(version: Version) -> bool:
        if version[3] != (_RELEASE,) and not takes_early:
            return False
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
