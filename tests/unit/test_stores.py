"""Push history and known blobs: bounded, tolerant, merged with what others wrote."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockerpush.oci import OCI_LAYER_GZIP, Descriptor, Digest
from dockerpush.reference import Reference
from dockerpush.state import history as state_history
from dockerpush.state import known_blobs
from dockerpush.state.directory import StateDirectory
from dockerpush.state.history import Destination, Login, PushHistory
from dockerpush.state.known_blobs import KnownBlobs

APP = Reference.parse("reg.io/team/app:1")
DIFF_ID = Digest.of(b"layer")
BLOB = Descriptor.of(OCI_LAYER_GZIP, b"compressed layer")


@pytest.fixture
def state(tmp_path):
    return StateDirectory(tmp_path / "state")


@pytest.fixture
def history(state):
    return PushHistory(state)


def test_the_five_most_recent_destinations_are_kept_newest_first(history):
    for number in range(8):
        assert history.record(Reference.parse(f"reg.io/app{number}:1"), number)
    found = [(str(item.target), item.time) for item in history.destinations()]
    assert found == [(f"reg.io/app{n}:1", n) for n in (7, 6, 5, 4, 3)]


def test_confirmations_outlive_the_destinations(history):
    for number in range(8):
        history.record(Reference.parse(f"reg.io/app{number}:1"), number)
    assert history.is_confirmed(Reference.parse("reg.io/app0:other"))
    assert not history.is_confirmed(Reference.parse("reg.io/app9:1"))


def test_a_login_is_one_event_with_its_newest_time(history):
    history.record_login(Login("reg.io", 1, "alice"))
    history.record_login(Login("other.io", 2, "bob"))
    history.record_login(Login("reg.io", 3, "carol"))
    assert set(history.logins()) == {
        Login("other.io", 2, "bob"),
        Login("reg.io", 3, "carol"),
    }


def test_logins_and_pushes_leave_each_other_alone(history):
    history.record_login(Login("reg.io", 1, "alice"))
    history.record(APP, 2)
    history.record_login(Login("other.io", 3))
    assert history.destinations() == (Destination(APP, 2),)
    assert history.forget_login("reg.io")
    assert history.logins() == (Login("other.io", 3),)
    assert history.is_confirmed(APP)


def test_forgetting_an_unknown_login_writes_nothing(history, state):
    assert history.forget_login("reg.io")
    assert not state.path.exists()


def test_logins_are_bounded(history, monkeypatch):
    monkeypatch.setitem(state_history.LIMITS, "logins", 2)
    for number in range(4):
        history.record_login(Login(f"reg{number}.io", number))
    assert [login.registry for login in history.logins()] == ["reg2.io", "reg3.io"]


@pytest.mark.parametrize(
    "logins", [[], None, {"reg.io": 1}, {"reg.io": {"time": "soon"}}, {"reg.io": {}}]
)
def test_logins_of_another_shape_are_skipped(logins, history, state):
    state.update("push_history.json", lambda record: {**record, "logins": logins})
    assert history.logins() == ()


def test_a_repository_is_one_destination_with_its_newest_tag(history):
    history.record(APP, 1)
    history.record(Reference.parse("reg.io/other:1"), 2)
    history.record(APP.with_tag("2").with_digest(DIFF_ID), 3)
    assert history.destinations() == (
        Destination(APP.with_tag("2"), 3),
        Destination(Reference.parse("reg.io/other:1"), 2),
    )


def test_confirmations_are_bounded(history, monkeypatch):
    monkeypatch.setitem(state_history.LIMITS, "confirmed", 3)
    names = [Reference.parse(f"reg.io/app{number}") for number in range(4)]
    for number in (0, 1, 2, 0, 3):
        history.record(names[number], number)
    assert [history.is_confirmed(name) for name in names] == [True, False, True, True]


def test_the_history_has_the_documented_shape(history, state):
    history.record(APP, 1700000000)
    assert state.read("push_history.json") == {
        "version": 1,
        "destinations": [{"target": "reg.io/team/app:1", "time": 1700000000}],
        "confirmed": {"reg.io/team/app": 1700000000},
    }


def test_fields_that_we_do_not_know_are_kept(history, state):
    state.update("push_history.json", lambda record: {"theirs": {"a": 1}})
    history.record(APP, 1)
    assert state.read("push_history.json")["theirs"] == {"a": 1}


@pytest.mark.parametrize(
    "destinations",
    [
        None,
        5,
        {"target": "a"},
        [None, 5, [], {}, {"target": 5, "time": 1}, {"target": "a"}],
        [{"target": "A", "time": 1}, {"target": "reg.io/a", "time": "soon"}],
        [{"target": "reg.io/a", "time": None}],
    ],
)
def test_entries_of_another_shape_are_skipped(history, state, destinations):
    record = {"destinations": destinations, "confirmed": [1]}
    state.update("push_history.json", lambda _: record)
    assert history.destinations() == ()
    assert not history.is_confirmed(APP)
    assert history.record(APP, 1)
    assert history.destinations() == (Destination(APP, 1),)
    assert history.is_confirmed(APP)


def test_a_layer_is_known_by_how_it_was_compressed(state):
    known = KnownBlobs(state)
    known.add_layer(DIFF_ID, "gzip-1", BLOB)
    assert known.layer(DIFF_ID, "gzip-1") == BLOB
    assert known.layer(DIFF_ID, "gzip-6") is None
    assert known.layer(Digest.of(b"other"), "gzip-1") is None


def test_what_was_learned_is_there_in_the_next_run(state):
    known = KnownBlobs(state)
    known.add_layer(DIFF_ID, "gzip-1", BLOB)
    known.add_holder(BLOB.digest, APP)
    assert KnownBlobs(state).layer(DIFF_ID, "gzip-1") is None
    assert known.save()
    again = KnownBlobs(state)
    assert again.layer(DIFF_ID, "gzip-1") == BLOB
    assert again.holders(BLOB.digest, "reg.io") == (APP.with_tag(None),)


def test_two_runs_at_once_keep_what_both_learned(state):
    first, second = KnownBlobs(state), KnownBlobs(state)
    first.add_layer(DIFF_ID, "gzip-1", BLOB)
    second.add_layer(DIFF_ID, "zstd-3", BLOB)
    first.add_holder(BLOB.digest, APP)
    second.add_holder(BLOB.digest, Reference.parse("reg.io/b"))
    assert first.save() and second.save()
    known = KnownBlobs(state)
    assert known.layer(DIFF_ID, "gzip-1") == known.layer(DIFF_ID, "zstd-3") == BLOB
    names = [holder.repository for holder in known.holders(BLOB.digest, "reg.io")]
    assert names == ["b", "team/app"]


def test_nothing_new_writes_nothing(state):
    known = KnownBlobs(state)
    known.add_layer(DIFF_ID, "gzip-1", BLOB)
    known.add_holder(BLOB.digest, APP)
    known.save()
    before = (state.path / "blobs.json").stat().st_ino
    again = KnownBlobs(state)
    again.add_layer(DIFF_ID, "gzip-1", BLOB)
    again.add_holder(BLOB.digest, APP.with_tag("2"))
    again.forget_layer(DIFF_ID, "gzip-9")
    again.forget_holder(BLOB.digest, Reference.parse("reg.io/never"))
    assert again.save()
    assert (state.path / "blobs.json").stat().st_ino == before


def test_knowledge_that_was_wrong_is_dropped(state):
    known = KnownBlobs(state)
    known.add_layer(DIFF_ID, "gzip-1", BLOB)
    known.add_holder(BLOB.digest, APP)
    known.add_holder(BLOB.digest, Reference.parse("reg.io/b"))
    known.save()
    known.forget_layer(DIFF_ID, "gzip-1")
    known.forget_holder(BLOB.digest, APP)
    assert known.layer(DIFF_ID, "gzip-1") is None
    known.save()
    again = KnownBlobs(state)
    assert again.layer(DIFF_ID, "gzip-1") is None
    assert [str(item) for item in again.holders(BLOB.digest, "reg.io")] == ["reg.io/b"]
    again.forget_holder(BLOB.digest, Reference.parse("reg.io/b"))
    again.save()
    assert state.read("blobs.json")["holders"] == {}


@pytest.mark.parametrize("version", [None, 1, "2", 3, [], True])
def test_layers_that_another_version_wrote_do_not_count(version, state):
    """Also when it writes between two looks of ours; its other hints are kept."""
    key, name = f"gzip-1 {DIFF_ID}", "reg.io/team/app"
    record = {"layers": {key: BLOB.to_json()}, "holders": {BLOB.digest: [name]}}
    if version is not None:
        record["version"] = version
    other = Digest.of(b"other")
    running = KnownBlobs(state)
    state.update("blobs.json", lambda _: record)
    known = KnownBlobs(state)
    assert known.layer(DIFF_ID, "gzip-1") is None
    assert known.holders(BLOB.digest, "reg.io") == (APP.with_tag(None),)
    running.add_layer(other, "gzip-1", BLOB)
    assert running.save()
    again = KnownBlobs(state)
    assert again.layer(DIFF_ID, "gzip-1") is None
    assert again.layer(other, "gzip-1") == BLOB
    assert again.holders(BLOB.digest, "reg.io") == (APP.with_tag(None),)
    assert state.read("blobs.json")["version"] == 2


def test_holders_are_of_one_registry_newest_first_and_few(state):
    known = KnownBlobs(state)
    for name in ("reg.io/a", "other.io/a", "reg.io/b", "reg.io/c", "reg.io/d"):
        known.add_holder(BLOB.digest, Reference.parse(name))
    names = [holder.repository for holder in known.holders(BLOB.digest, "reg.io")]
    assert names == ["d", "c", "b"]
    assert known.holders(BLOB.digest, "reg") == ()


def test_what_is_used_stays_and_the_eldest_goes(state, monkeypatch):
    monkeypatch.setattr(known_blobs, "LAYERS_LIMIT", 3)
    known = KnownBlobs(state)
    for name in ("a", "b", "c"):
        known.add_layer(DIFF_ID, name, BLOB)
    known.save()
    again = KnownBlobs(state)
    assert again.layer(DIFF_ID, "a") == BLOB
    again.add_layer(DIFF_ID, "d", BLOB)
    again.save()
    last = KnownBlobs(state)
    found = [name for name in "abcd" if last.layer(DIFF_ID, name)]
    assert found == ["a", "c", "d"]


def test_the_largest_file_is_one_that_can_be_read_again(state):
    """Full to the limits, with names as long as they get."""
    known = KnownBlobs(state)
    registry = "h" * 63 + ".io:65535"
    for number in range(known_blobs.HOLDERS_LIMIT):
        digest = Digest.of(str(number).encode())
        known.add_layer(digest, "gzip-1-isal", BLOB)
        for name in range(known_blobs.REPOSITORIES_LIMIT):
            repository = f"{name}/" + "r" * 253
            known.add_holder(digest, Reference(registry, repository))
    known.save()
    again = KnownBlobs(state)
    assert again.layer(digest, "gzip-1-isal") == BLOB
    assert len(again.holders(digest, registry)) == known_blobs.REPOSITORIES_LIMIT


def test_without_a_state_directory_the_run_still_learns(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    known = KnownBlobs(StateDirectory(tmp_path / "file"))
    known.add_layer(DIFF_ID, "gzip-1", BLOB)
    assert not known.save()
    assert known.layer(DIFF_ID, "gzip-1") == BLOB


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


class InMemory:
    """A state directory that holds one record."""

    def __init__(self, record):
        self.record = record

    def read(self, name):
        return json.loads(json.dumps(self.record))

    def update(self, name, change):
        self.record = change(self.read(name))
        return True


@given(JSON, JSON, JSON, JSON)
def test_no_content_of_the_file_stops_a_run(layers, entry, holders, names):
    """Whatever is in blobs.json, it is passed over or used, and can be added to."""
    key = f"gzip-1 {DIFF_ID}"
    for record in (
        {"version": 2, "layers": layers, "holders": holders},
        {"version": 2, "layers": {key: entry}, "holders": {BLOB.digest: names}},
        {"version": entry, "layers": layers, "holders": holders},
    ):
        known = KnownBlobs(InMemory(record))
        known.layer(DIFF_ID, "gzip-1")
        known.holders(BLOB.digest, "reg.io")
        known.add_layer(DIFF_ID, "gzip-1", BLOB)
        known.add_holder(BLOB.digest, APP)
        assert known.save()
        assert known.layer(DIFF_ID, "gzip-1") == BLOB
        assert APP.with_tag(None) in known.holders(BLOB.digest, "reg.io")
