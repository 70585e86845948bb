"""Which image of an index runs where."""

from __future__ import annotations

import pytest

from dockerpush.oci import Platform
from dockerpush.platforms import best_match, normalised


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("linux/x86_64", "linux/amd64/v1"),
        ("linux/amd64", "linux/amd64/v1"),
        ("linux/aarch64", "linux/arm64/v8"),
        ("linux/arm64/8", "linux/arm64/v8"),
        ("linux/armhf", "linux/arm/v7"),
        ("linux/armel", "linux/arm/v6"),
        ("linux/arm", "linux/arm/v7"),
        ("macos/arm64", "darwin/arm64/v8"),
        ("linux/s390x", "linux/s390x"),
    ],
)
def test_platforms_are_put_into_the_usual_words(written, meant):
    assert str(normalised(Platform.parse(written))) == meant


@pytest.mark.parametrize(
    ("wanted", "have", "found"),
    [
        ("linux/amd64", "linux/arm64 linux/amd64", 1),
        ("linux/arm64", "linux/amd64 linux/arm64/v8", 1),
        ("linux/arm64/v8", "linux/arm64", 0),
        ("linux/arm/v7", "linux/arm/v5 linux/arm/v6 linux/arm/v7", 2),
        ("linux/arm/v7", "linux/arm/v5 linux/arm/v6", 1),
        ("linux/arm/v6", "linux/arm/v7", None),
        ("linux/arm", "linux/arm/v6 linux/arm/v7", 1),
        ("linux/amd64/v3", "linux/amd64 linux/amd64/v2", 1),
        ("linux/amd64", "linux/amd64/v3", None),
        ("linux/amd64", "linux/386", None),
        ("linux/amd64", "unknown/unknown windows/amd64", None),
        ("linux/riscv64", "linux/riscv64", 0),
    ],
)
def test_the_best_variant_that_runs_is_chosen(wanted, have, found):
    platforms = [Platform.parse(text) for text in have.split()]
    assert best_match(Platform.parse(wanted), platforms) == found


def test_what_has_no_platform_is_never_chosen():
    assert best_match(Platform("linux", "amd64"), [None]) is None
    assert best_match(Platform("linux", "amd64"), []) is None


def test_a_version_of_the_system_matches_by_its_beginning():
    have = [
        Platform("windows", "amd64", os_version="10.0.17763.1"),
        Platform("windows", "amd64", os_version="10.0.20348.2"),
    ]
    wanted = Platform("windows", "amd64", os_version="10.0.20348")
    assert best_match(wanted, have) == 1
    assert best_match(Platform("windows", "amd64"), have) == 0


def test_a_version_is_not_the_beginning_of_a_number():
    have = [Platform("windows", "amd64", os_version="10.0.177630")]
    assert (
        best_match(Platform("windows", "amd64", os_version="10.0.17763"), have) is None
    )
