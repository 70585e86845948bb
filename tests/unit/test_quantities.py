"""Sizes, rates and durations as people write them."""

from __future__ import annotations

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockerpush.errors import UsageError
from dockerpush.settings.quantities import (
    format_duration,
    format_size,
    parse_deadline,
    parse_duration,
    parse_rate,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("100_000", 100_000),
        ("52428800", 50 * 1024 * 1024),
        ("50MiB", 50 * 1024 * 1024),
        ("50Mi", 50 * 1024 * 1024),
        ("50 mib", 50 * 1024 * 1024),
        ("10M", 10_000_000),
        ("10MB", 10_000_000),
        ("10mb", 10_000_000),
        ("1.5G", 1_500_000_000),
        ("0.5KiB", 512),
        ("1T", 10**12),
        (" 7b ", 7),
        ("9223372036854775807", 2**63 - 1),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            " ",
            "0",
            "-1",
            "M",
            "10MM",
            "1e6",
            "1__0",
            "_1",
            "1_",
            "0.0001",
            "10 M B",
        ),
        *(
            "9223372036854775808",
            "9" * 5000,
            "9300000T",
            "inf",
            "nan",
            "1,5M",
            "٣",
            "5s",
        ),
    ],
)
def test_what_is_no_size_is_quoted(text: str) -> None:
    with pytest.raises(UsageError, match="not a size") as caught:
        parse_size(text)
    assert len(str(caught.value)) < 150


@pytest.mark.parametrize(
    ("text", "rate"),
    [("10M", 10_000_000), ("500KiB/s", 512_000), ("1000", 1000), (" 1k/s ", 1000)],
)
def test_rates(text: str, rate: int) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["", "0", "/s", "10M/m", "fast"])
def test_what_is_no_rate_is_quoted(text: str) -> None:
    with pytest.raises(UsageError, match="not a rate"):
        parse_rate(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("60", 60),
        ("0", 0),
        ("1.5", 1.5),
        ("60s", 60),
        ("1m30s", 90),
        ("1m30", 90),
        ("5m", 300),
        ("2h", 7200),
        ("1h2m3.5s", 3723.5),
        ("200ms", 0.2),
        (" 1M ", 60),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", " ", "-1", "s", "m", "1x", "30s1m", "1e3", "inf", "nan", "9999h", "ms"]
)
def test_what_is_no_duration_is_quoted(text: str) -> None:
    with pytest.raises(UsageError, match="not a duration"):
        parse_duration(text)


@given(st.integers(1, 2**63 - 1))
def test_a_size_that_is_shown_is_read_again(size: int) -> None:
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize(
    ("size", "text"),
    [(52428800, "50MiB"), (1024, "1KiB"), (1000, "1000"), (2**41, "2TiB"), (0, "0")],
)
def test_sizes_are_shown_in_the_largest_exact_unit(size: int, text: str) -> None:
    assert format_size(size) == text


@given(st.integers(0, 9999))
def test_a_duration_that_is_shown_is_read_again(milliseconds: int) -> None:
    seconds = milliseconds / 1000
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds)


@given(st.text(alphabet="0123456789_.kKmMgGiIbBhs/ -", max_size=12))
def test_any_text_is_a_quantity_or_a_usage_error(text: str) -> None:
    for parse in (parse_size, parse_rate, parse_duration):
        try:
            assert parse(text) >= 0
        except UsageError as error:
            assert "\n" not in str(error)


NOON = datetime(2026, 3, 1, 12, 0, 30)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2h", 7200),
        ("90m", 5400),
        ("12:01", 30),
        ("12:00", 24 * 3600 - 30),
        ("6:00", 18 * 3600 - 30),
        (" 06:00 ", 18 * 3600 - 30),
    ],
)
def test_a_deadline_is_a_duration_or_the_next_such_time(text, seconds):
    assert parse_deadline(text, NOON) == seconds


@pytest.mark.parametrize("text", ["", "0", "24:00", "6:60", "tomorrow", "-2h"])
def test_what_is_no_deadline_is_refused(text):
    with pytest.raises(UsageError, match="wanted 2h, 90m or 06:00"):
        parse_deadline(text, NOON)
