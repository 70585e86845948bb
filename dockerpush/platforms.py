"""Which image of an index runs on a platform, as containerd decides it. Pure.

(containerd/platforms: normalizeArch, platformVector). Only variants stand in for each
other: an image for arm/v6 runs where arm/v7 does, but nobody who asks for amd64 gets an
image for 386.
"""

from __future__ import annotations

import re
from typing import Sequence

from .oci import Platform
from .values import replace

_ALIASES = {
    "x86_64": ("amd64", None),
    "x86-64": ("amd64", None),
    "i386": ("386", None),
    "i486": ("386", None),
    "i586": ("386", None),
    "i686": ("386", None),
    "aarch64": ("arm64", None),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
}
_DEFAULTS = {"arm": "v7", "arm64": "v8", "amd64": "v1"}
_OLDEST = {"arm": 5, "arm64": 8, "amd64": 1}


def normalised(platform: Platform) -> Platform:
    """*platform* in the usual words, with a variant where its architecture has one."""
    os, architecture = platform.os.lower(), platform.architecture.lower()
    architecture, implied = _ALIASES.get(architecture, (architecture, None))
    variant = (platform.variant or implied or _DEFAULTS.get(architecture, "")).lower()
    if re.fullmatch(r"\d+", variant):
        variant = f"v{variant}"
    os = "darwin" if os == "macos" else os
    return replace(platform, os=os, architecture=architecture, variant=variant or None)


def best_match(wanted: Platform, have: Sequence[Platform | None]) -> int | None:
    """The place in *have* of the image to run on *wanted*; None when there is none.

    The first of those with the best variant.
    """
    known = [normalised(platform) if platform else None for platform in have]
    for accepted in _accepted(normalised(wanted)):
        for place, platform in enumerate(known):
            if platform is not None and _is_same(accepted, platform):
                return place
    return None


def _accepted(wanted: Platform) -> list[Platform]:
    """*wanted* and what runs there as well, the best first."""
    number = re.fullmatch(r"v(\d+)", wanted.variant or "")
    oldest = _OLDEST.get(wanted.architecture)
    if number is None or oldest is None:
        return [wanted]
    variants = range(int(number[1]), oldest - 1, -1)
    older = [replace(wanted, variant=f"v{variant}") for variant in variants]
    return older or [wanted]


def _is_same(wanted: Platform, have: Platform) -> bool:
    names = (wanted.os, wanted.architecture, wanted.variant)
    return names == (have.os, have.architecture, have.variant) and _begins(
        have.os_version or "", wanted.os_version or ""
    )


def _begins(version: str, with_what: str) -> bool:
    """True when *version* is *with_what*, or one of its revisions."""
    return not with_what or f"{version}.".startswith(f"{with_what}.")
