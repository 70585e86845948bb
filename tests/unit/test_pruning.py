"""Which names a sync may prune: a table, and what must hold whatever there is."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockerpush.oci import Digest
from dockerpush.registry.pages import referrers_tag
from dockerpush.sync.pruning import Shown, doomed_names, subject_in, tag_subject


def digest(number: int, algorithm: str = "sha256") -> Digest:
    return Digest(f"{algorithm}:{number:0{64 if algorithm == 'sha256' else 128}x}")


A, B, C, D, LONG = *map(digest, range(4)), digest(9, "sha512")
SIG_A, SIG_B = f"{referrers_tag(A)}.sig", f"{referrers_tag(B)}.sig"


def shown(one: Digest, *members: Digest, subject: Digest | None = None) -> Shown:
    return Shown(one, members, str(subject or ""))


def signed(tag: str) -> Shown:
    return Shown(D, (), tag_subject(tag))


@pytest.mark.parametrize(
    ("there", "keep", "gone"),
    [
        ({"1": shown(A), "2": shown(B)}, "1", ["2"]),
        ({"1": shown(A), "2": shown(A)}, "1", ["2"]),
        ({"1": shown(A), "2": shown(B), SIG_A: signed(SIG_A)}, "1", ["2"]),
        ({"1": shown(A), "2": shown(B), SIG_B: signed(SIG_B)}, "1", ["2", SIG_B]),
        # the signature of an image that an index which stays lists
        ({"1": shown(A, B), "2": shown(B), SIG_B: signed(SIG_B)}, "1", ["2"]),
        # and of one that only an index which goes lists
        ({"1": shown(A), "2": shown(C, B), SIG_B: signed(SIG_B)}, "1", ["2", SIG_B]),
        # of an image that no name shows: somebody may pull it by its digest
        ({"1": shown(A), SIG_B: signed(SIG_B)}, "1", []),
        # an artifact with a name of its own speaks of what stays, or of what goes
        ({"1": shown(A), "sbom": shown(D, subject=A)}, "1", []),
        ({"1": shown(A), "2": shown(B), "s": shown(D, subject=B)}, "1", ["2", "s"]),
        # a signature of a signature
        (
            {"1": shown(A), "2": shown(B), "s": shown(C, subject=B)}
            | {"t": shown(D, subject=C)},
            "1",
            ["2", "s", "t"],
        ),
        ({"1": shown(A), "a": shown(D, subject=A), "b": shown(C, subject=D)}, "1", []),
        (
            {"1": shown(A), "2": shown(LONG)}
            | {referrers_tag(LONG): signed(referrers_tag(LONG))},
            "1",
            ["2", referrers_tag(LONG)],
        ),
    ],
)
def test_which_names_go(there, keep, gone):
    assert doomed_names(there, [name for name in there if name != keep], []) == gone


def test_what_is_wanted_by_digest_keeps_its_signature():
    there = {"2": shown(B), SIG_B: signed(SIG_B)}
    assert doomed_names(there, list(there), [B]) == ["2"]


NUMBERS = st.integers(0, 5)


@given(
    st.dictionaries(
        st.sampled_from("abcdefgh"),
        st.tuples(NUMBERS, st.lists(NUMBERS, max_size=2), st.none() | NUMBERS),
    ),
    st.sets(st.sampled_from("abcdefgh")),
)
def test_what_refers_to_an_image_that_stays_stays(drawn, keep):
    there = {
        name: shown(
            digest(one),
            *map(digest, members),
            subject=None if subject is None else digest(subject),
        )
        for name, (one, members, subject) in drawn.items()
    }
    gone = doomed_names(there, [name for name in there if name not in keep], [])
    assert keep.isdisjoint(gone) and len(gone) == len(set(gone))
    staying = [one for name, one in there.items() if name not in gone]
    held = {str(one) for name in staying for one in name.digests}
    for name in gone:
        assert there[name].subject not in held
    for name in set(there) - keep - set(gone):
        assert there[name].subject


@pytest.mark.parametrize(
    ("tag", "subject"),
    [
        (referrers_tag(A), referrers_tag(A)),
        (SIG_A, referrers_tag(A)),
        (referrers_tag(A) + ".att", referrers_tag(A)),
        (referrers_tag(LONG), referrers_tag(LONG)),
        *((tag, "") for tag in ("latest", "sha256-", "sha256-abc", "x-" + SIG_A)),
    ],
)
def test_the_image_that_a_tag_refers_to(tag, subject):
    assert tag_subject(tag) == subject


@pytest.mark.parametrize(
    ("raw", "subject"),
    [
        (json.dumps({"subject": {"digest": str(A)}}), str(A)),
        ("{}", ""),
        ('{"subject": null}', ""),
        ('{"subject": []}', ""),
        ("[]", ""),
        ("no JSON", ""),
    ],
)
def test_the_subject_of_a_manifest(raw, subject):
    assert subject_in(raw.encode()) == subject
