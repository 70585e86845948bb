"""A few blocks tell whether a layer is worth compressing."""

from __future__ import annotations

import io
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockerpush.errors import ArchiveError
from dockerpush.transfer.prepare import COUNT, Sample, sample_size, shrinks

NOISE = random.Random(5).randbytes(4 << 20)
SMALLEST = sample_size(1)
TEXT = b"the same words again and again, " * (128 * 1024)


class Layer:
    """A layer that counts what is read of it."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.offsets: list[int] = []
        self.open = 0

    def open_at(self, offset: int) -> io.BytesIO:
        self.offsets.append(offset)
        return io.BytesIO(self.content[offset:])


@pytest.mark.parametrize(
    "size",
    [512, SMALLEST - 1, SMALLEST, SMALLEST + 1, 3 * SMALLEST, 1 << 20, 4 << 20],
)
def test_text_shrinks_and_noise_does_not(size: int) -> None:
    assert shrinks(Layer(TEXT[:size]).open_at, size)
    assert not shrinks(Layer(NOISE[:size]).open_at, size)


@pytest.mark.parametrize(("noise", "worth"), [(0.95, False), (0.5, True)])
def test_the_whole_counts_not_its_beginning(noise: float, worth: bool) -> None:
    part = int(len(NOISE) * noise)
    for content in (
        NOISE[:part] + TEXT[: len(NOISE) - part],
        TEXT[: len(NOISE) - part] + NOISE[:part],
    ):
        assert shrinks(Layer(content).open_at, len(content)) is worth


def test_few_blocks_are_read_from_the_first_byte_to_the_last() -> None:
    layer = Layer(NOISE)
    shrinks(layer.open_at, len(NOISE))
    assert len(layer.offsets) == COUNT
    assert layer.offsets[0] == 0
    assert layer.offsets[-1] == len(NOISE) - sample_size(len(NOISE))
    assert layer.offsets == sorted(set(layer.offsets))


@pytest.mark.parametrize("size", [1 << 20, 4 << 20])
def test_what_clearly_shrinks_needs_no_more_blocks(size: int) -> None:
    layer = Layer(TEXT[:size])
    assert shrinks(layer.open_at, size)
    assert len(layer.offsets) * sample_size(size) <= size // 32


PARTS = st.tuples(st.sampled_from([NOISE, TEXT]), st.integers(0, 90_000))


@given(st.lists(PARTS, min_size=1, max_size=8), st.integers(1_000, 70_000))
def test_who_reads_all_in_order_gets_the_same_answer(
    parts: list[tuple[bytes, int]], step: int
) -> None:
    content = memoryview(b"".join(kind[:size] for kind, size in parts))
    sample = Sample(len(content))
    for start in range(0, len(content), step):
        sample.feed(content[start : start + step])
    assert sample.shrinks is shrinks(Layer(bytes(content)).open_at, len(content))


def test_an_empty_layer_does_not_shrink() -> None:
    assert not shrinks(Layer(b"").open_at, 0)


def test_a_truncated_layer_is_left_for_the_push_to_name() -> None:
    assert shrinks(Layer(TEXT[:1000]).open_at, len(TEXT))


def test_a_layer_that_cannot_be_read_says_so() -> None:
    class Broken(io.BytesIO):
        def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
            raise ArchiveError("layer.tar: truncated")

    with pytest.raises(ArchiveError, match="truncated"):
        shrinks(lambda offset: Broken(), 1000)
