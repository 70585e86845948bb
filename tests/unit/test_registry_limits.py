"""What hosts allow, and what is learned from their answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockerpush.errors import RegistryError
from dockerpush.upload.limits import (
    CHUNK,
    MIB,
    ONE_PUT,
    HostLimits,
    Observed,
    Status,
    Tail,
    believable,
    default_limits,
    observed_in,
)

ECR = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"


def test_an_unknown_host_gets_one_put_up_to_its_limit_and_chunks_above():
    limits = default_limits("registry.example.com:5000")
    assert limits.is_monolithic(ONE_PUT)
    assert not limits.is_monolithic(ONE_PUT + 1)
    assert limits.chunk_size == CHUNK
    assert limits.chunk_size % (10 * MIB) == 0
    assert limits.chunk_size < ONE_PUT


@pytest.mark.parametrize(
    ("host", "size", "monolithic"),
    [
        ("ghcr.io", 2**33, True),
        ("europe-docker.pkg.dev", 2**33, True),
        ("gcr.io", 2**33, True),
        ("eu.gcr.io", 2**33, True),
        (ECR, 2**33, True),
        ("public.ecr.aws", 2**33, True),
        ("docker.io", 2**33, True),
        ("myteam.azurecr.io", 20_000_000, True),
        ("myteam.azurecr.io", 20_000_001, False),
        ("evilgcr.io", 2**33, False),
        ("gcr.io.example.com", 2**33, False),
    ],
)
def test_known_hosts_take_what_they_are_known_to_take(host, size, monolithic):
    assert default_limits(host).is_monolithic(size) is monolithic


def test_ghcr_takes_small_chunks_only():
    """rust-oci-client#35: 416 above 4 MiB."""
    assert default_limits("ghcr.io").chunk_size == 4 * MIB


def test_ecr_wants_the_tail_in_the_put_and_has_no_status():
    """tart#159, aws/containers-roadmap#2831."""
    limits = default_limits(ECR)
    assert (limits.tail, limits.status) == (Tail.PUT, Status.NEVER)
    assert limits.chunk_size >= 5 * MIB


def test_google_cannot_be_made_to_take_chunks():
    """dotnet/sdk-container-builds#287."""
    limits = default_limits("europe-docker.pkg.dev")
    assert limits.observe(Observed.TOO_LARGE, 10**9) == limits
    assert limits.observe(Observed.MONOLITHIC_REFUSED) == limits


def test_a_413_halves_down_to_one_mebibyte():
    """nginx lets a body of 1 MiB through by default (goharbor/harbor#3270)."""
    limits, sizes = HostLimits(), []
    for _ in range(20):
        smaller = limits.observe(Observed.TOO_LARGE, limits.chunk_size)
        if smaller == limits:
            break
        limits = smaller
        sizes.append(limits.chunk_size)
    assert sizes[0] == CHUNK // 2
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == MIB


def test_a_413_for_a_whole_blob_leads_to_chunks():
    limits = HostLimits().observe(Observed.TOO_LARGE, 80_000_000)
    assert not limits.is_monolithic(80_000_000)
    assert limits.is_monolithic(79_000_000)
    assert limits.chunk_size == 40_000_000


def test_halving_respects_the_minimum_of_the_host():
    limits = HostLimits(chunk=8 * MIB, chunk_min=5 * MIB)
    assert limits.observe(Observed.TOO_LARGE, 8 * MIB) == limits


def test_a_416_about_the_size_goes_to_four_mebibytes():
    limits = HostLimits().observe(Observed.CHUNK_TOO_LARGE, CHUNK)
    assert limits.chunk_size == 4 * MIB
    assert limits.observe(Observed.CHUNK_TOO_LARGE, 4 * MIB).chunk_size == 2 * MIB


def test_a_refused_way_leads_to_the_other():
    chunks = HostLimits().observe(Observed.MONOLITHIC_REFUSED)
    assert not chunks.is_monolithic(1)
    whole = HostLimits().observe(Observed.CHUNKS_REFUSED)
    assert whole.is_monolithic(2**40)
    assert chunks.observe(Observed.CHUNKS_REFUSED) == chunks


def test_a_throttling_host_is_asked_more_slowly_but_not_ever_more():
    limits, paces = HostLimits(), []
    for _ in range(10):
        limits = limits.observe(Observed.THROTTLED)
        paces.append(limits.pace)
    assert paces == sorted(paces)
    assert 0 < paces[0] < paces[-1] <= 10


def test_advertised_lengths_are_kept_to():
    limits = HostLimits().advertised(5 * MIB, 100_000_000)
    assert (limits.chunk_size, limits.equal_chunks) == (CHUNK, True)
    assert HostLimits().advertised(60 * MIB, None).chunk_size == 60 * MIB
    assert HostLimits().advertised(1, 10 * MIB).chunk_size == 10 * MIB
    assert HostLimits().advertised(None, None) == HostLimits()
    assert HostLimits().advertised(None, 0) == HostLimits()
    known = HostLimits(chunk_max=MIB)
    assert known.advertised(None, 10 * MIB).chunk_size == MIB


LIMITS = st.builds(
    HostLimits,
    chunk=st.integers(2, 50),
    chunk_max=st.none() | st.integers(2, 50),
    equal_chunks=st.booleans(),
)


@given(LIMITS, st.integers(1, 500))
def test_chunks_cover_a_blob_and_leave_no_tail_of_one_byte(limits, size):
    limits = limits.for_blob(size)
    sizes, offset = [], 0
    while offset < size:
        sizes.append(limits.next_chunk(offset, size))
        assert sizes[-1] >= 1
        offset += sizes[-1]
    assert offset == size
    assert all(chunk <= (limits.chunk_max or size) for chunk in sizes)
    if limits.equal_chunks:
        assert len(set(sizes[:-1])) <= 1
    if size > 1 and limits.chunk_size > 2 and len(sizes) > 1 and sizes[0] > len(sizes):
        assert sizes[-1] > 1


@pytest.mark.parametrize(
    ("status", "detail", "observed"),
    [
        (413, "", Observed.TOO_LARGE),
        (
            416,
            "the request body is too large and exceeds the maximum permissible limit "
            "of 4.00MiB",
            Observed.CHUNK_TOO_LARGE,
        ),
        (416, "invalid content range", None),
        (400, "LayerPartTooSmallException", Observed.CHUNK_TOO_SMALL),
        (429, "", Observed.THROTTLED),
        (404, "", None),
    ],
)
def test_what_an_answer_shows(status, detail, observed):
    assert observed_in(RegistryError("PATCH", "u", status, "", detail)) is observed


@pytest.mark.parametrize(
    ("reported", "status", "offset"),
    [
        (100, Status.ASK, 100),
        (130, Status.ASK, 130),
        (150, Status.ASK, 150),
        (151, Status.ASK, 150),  # Gitea: the count, not the last byte
        (99, Status.ASK, None),  # ECR: stuck
        (152, Status.ASK, None),
        (131, Status.OFF_BY_ONE, 130),
        (101, Status.OFF_BY_ONE, 100),
        (100, Status.OFF_BY_ONE, None),
        (120, Status.NEVER, None),
    ],
)
def test_a_status_is_believed_where_it_is_plausible(reported, status, offset):
    assert believable(reported, 100, 50, status) == offset
