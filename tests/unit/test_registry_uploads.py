"""Upload sessions on disk: owned by one, handed on, never in the way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockerpush.oci import Digest
from dockerpush.state import upload_sessions
from dockerpush.state.upload_sessions import ClaimedUpload, SavedUpload, UploadSessions

DIGEST = Digest.of(b"layer")
LOCATION = "https://registry.example.com/v2/team/app/blobs/uploads/1?_state=secret"
NOW = 1_700_000_000.0


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sessions(tmp_path: Path, clock: Clock) -> UploadSessions:
    return UploadSessions(tmp_path / "uploads", clock)


def claim(sessions: UploadSessions, digest: Digest = DIGEST) -> ClaimedUpload:
    claimed = sessions.claim("registry.example.com", "team/app", digest)
    assert claimed is not None
    return claimed


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.name != ".lock")


def test_the_next_owner_gets_what_the_last_one_recorded(sessions):
    with claim(sessions) as first:
        assert first.saved is None
        first.record(LOCATION, 0, 10)
        first.record(LOCATION + "2", 10, 10)
    with claim(sessions) as second:
        assert second.saved == SavedUpload(
            "registry.example.com", "team/app", DIGEST, LOCATION + "2", 10, 10, NOW
        )


def test_files_are_private_and_the_location_is_in_no_repr(sessions, tmp_path):
    with claim(sessions) as claimed:
        claimed.record(LOCATION, 5, 10)
        assert "secret" not in repr(claimed.saved)
    for path in (tmp_path / "uploads").iterdir():
        assert path.stat().st_mode & 0o077 == 0
    assert (tmp_path / "uploads").stat().st_mode & 0o077 == 0
    with claim(sessions) as claimed:
        assert "secret" not in repr(claimed.saved)


def test_a_live_owner_keeps_its_session_to_itself(sessions, tmp_path):
    with claim(sessions) as owner:
        owner.record(LOCATION, 5, 10)
        assert sessions.claim("registry.example.com", "team/app", DIGEST) is None
        other = UploadSessions(tmp_path / "uploads")
        assert other.claim("registry.example.com", "team/app", DIGEST) is None


def test_another_digest_repository_or_registry_is_another_session(sessions):
    with claim(sessions) as owner:
        owner.record(LOCATION, 5, 10)
        for key in (
            ("registry.example.com", "team/app", Digest.of(b"other")),
            ("registry.example.com", "team/other", DIGEST),
            ("other.example.com", "team/app", DIGEST),
        ):
            claimed = sessions.claim(*key)
            assert claimed is not None
            assert claimed.saved is None
            claimed.close()


def test_a_killed_owner_leaves_its_session_to_the_next(sessions, tmp_path):
    """SIGKILL gives the lock back and leaves the file."""
    program = (
        "import os, sys, signal, pathlib\n"
        "from dockerpush.oci import Digest\n"
        "from dockerpush.state.upload_sessions import UploadSessions\n"
        "sessions = UploadSessions(pathlib.Path(sys.argv[1]))\n"
        "claimed = sessions.claim('registry.example.com', 'team/app',"
        f" Digest({str(DIGEST)!r}))\n"
        "claimed.record('https://registry.example.com/v2/u', 7, 10)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    directory = tmp_path / "uploads"
    subprocess.run([sys.executable, "-c", program, str(directory)], check=False)
    with UploadSessions(directory).claim(
        "registry.example.com", "team/app", DIGEST
    ) as claimed:
        assert claimed.saved.offset == 7


def test_a_finished_session_leaves_nothing(sessions, tmp_path):
    with claim(sessions) as claimed:
        claimed.record(LOCATION, 5, 10)
        claimed.forget()
        assert claimed.saved is None
    assert names(tmp_path / "uploads") == []


def test_a_session_that_recorded_nothing_leaves_nothing(sessions, tmp_path):
    claim(sessions).close()
    assert names(tmp_path / "uploads") == []


@pytest.mark.parametrize(
    "age", [upload_sessions.MAX_AGE + 1, -upload_sessions.MAX_AGE - 1]
)
def test_an_old_session_or_one_from_the_future_is_forgotten(sessions, clock, age):
    with claim(sessions) as claimed:
        claimed.record(LOCATION, 5, 10)
    clock.now += age
    with claim(sessions) as claimed:
        assert claimed.saved is None


def test_a_session_survives_a_clock_that_jumps_an_hour(sessions, clock):
    with claim(sessions) as claimed:
        claimed.record(LOCATION, 5, 10)
    clock.now -= 3600
    with claim(sessions) as claimed:
        assert claimed.saved.offset == 5


BROKEN = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"registry": 1}',
]


def saved_file(directory: Path) -> Path:
    return next(path for path in directory.iterdir() if path.suffix == ".json")


@pytest.mark.parametrize("content", BROKEN)
def test_a_broken_file_is_as_good_as_none(sessions, tmp_path, content):
    with claim(sessions) as claimed:
        claimed.record(LOCATION, 5, 10)
    saved_file(tmp_path / "uploads").write_bytes(content)
    with claim(sessions) as claimed:
        assert claimed.saved is None
        claimed.record(LOCATION, 6, 10)
    with claim(sessions) as claimed:
        assert claimed.saved.offset == 6


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("offset", -1),
        ("offset", "5"),
        ("chunk_size", 0),
        ("location", "file:///etc/passwd"),
        ("location", 5),
        ("digest", "sha256:../../x"),
        ("saved_at", "yesterday"),
        ("saved_at", float("nan")),
        ("registry", "other.example.com"),
    ],
)
def test_a_file_with_an_impossible_value_is_not_used(sessions, tmp_path, field, value):
    with claim(sessions) as claimed:
        claimed.record(LOCATION, 5, 10)
    path = saved_file(tmp_path / "uploads")
    path.write_text(json.dumps({**json.loads(path.read_bytes()), field: value}))
    with claim(sessions) as claimed:
        assert claimed.saved is None


@given(
    st.recursive(
        st.none() | st.text() | st.floats() | st.integers(),
        lambda inner: st.dictionaries(st.text(), inner),
    )
)
def test_no_json_breaks_the_reader(value):
    """Whatever the file holds, it is a session or a PusherError that says why not."""
    try:
        SavedUpload.from_json(value)
    except (upload_sessions.InvalidJSON, upload_sessions.InvalidDigest) as error:
        assert str(error)


def test_a_missing_directory_is_made(tmp_path):
    sessions = UploadSessions(tmp_path / "a" / "b")
    with claim(sessions) as claimed:
        claimed.record(LOCATION, 5, 10)
    assert names(tmp_path / "a" / "b") != []


def test_where_no_directory_can_be_there_are_no_sessions(tmp_path):
    (tmp_path / "file").write_text("")
    sessions = UploadSessions(tmp_path / "file" / "uploads")
    assert sessions.claim("registry.example.com", "team/app", DIGEST) is None


def test_a_full_or_read_only_disk_does_not_stop_an_owner(sessions, tmp_path):
    """A directory in the place of the file is as unwritable for root as for anyone."""
    with claim(sessions) as claimed:
        stem = next((tmp_path / "uploads").glob("*.lock")).stem
        blocked = tmp_path / "uploads" / f"{stem}.tmp"
        blocked.mkdir()
        claimed.record(LOCATION, 5, 10)
        blocked.rmdir()
        assert claimed.saved is None
        claimed.record(LOCATION, 6, 10)
    with claim(sessions) as claimed:
        assert claimed.saved.offset == 6


def test_a_directory_lock_that_nobody_gives_back_is_done_without(
    sessions, tmp_path, monkeypatch
):
    monkeypatch.setattr(upload_sessions, "GUARD_TIMEOUT", 0.05)
    with sessions_guard(tmp_path):
        assert sessions.claim("registry.example.com", "team/app", DIGEST) is None


def sessions_guard(tmp_path: Path):
    (tmp_path / "uploads").mkdir(exist_ok=True)
    return UploadSessions(tmp_path / "uploads").guarded()


def test_purging_keeps_the_youngest_and_the_owned(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(upload_sessions, "MAX_COUNT", 2)
    directory = tmp_path / "uploads"
    sessions = UploadSessions(directory, clock)
    for number in range(4):
        with claim(sessions, Digest.of(b"%d" % number)) as claimed:
            claimed.record(LOCATION, number, 10)
        path = (
            directory
            / sessions.path_of(
                ("registry.example.com", "team/app", Digest.of(b"%d" % number))
            ).name
        )
        os.utime(path, (NOW + number, NOW + number))
        os.utime(path.with_suffix(".lock"), (NOW + number, NOW + number))
    with claim(sessions, Digest.of(b"0")):
        UploadSessions(directory, clock).purge()
        kept = {json.loads(p.read_bytes())["offset"] for p in directory.glob("*.json")}
    assert kept == {0, 2, 3}


def test_the_first_claim_of_a_run_purges_what_is_too_old(tmp_path, clock):
    directory = tmp_path / "uploads"
    with claim(UploadSessions(directory, clock)) as claimed:
        claimed.record(LOCATION, 5, 10)
    old = saved_file(directory)
    old.with_suffix(".tmp").write_text("left by a killed writer")
    (directory / "notes.txt").write_text("not ours")
    for path in directory.iterdir():
        os.utime(path, (NOW - upload_sessions.MAX_AGE - 5,) * 2)
    claim(UploadSessions(directory, clock), Digest.of(b"other")).close()
    assert names(directory) == ["notes.txt"]


def test_twenty_threads_share_one_directory_and_each_session_has_one_owner(tmp_path):
    """Nobody sees another's live session, and nothing is left at the end."""
    owners: dict[Digest, int] = {}
    clashes: list[Digest] = []
    lock = threading.Lock()

    def work(seed: int) -> None:
        sessions = UploadSessions(tmp_path / "uploads")
        for number in range(10):
            digest = Digest.of(b"%d" % ((seed + number) % 5))
            claimed = sessions.claim("registry.example.com", "team/app", digest)
            if claimed is None:
                continue
            with lock:
                owners[digest] = owners.get(digest, 0) + 1
                if owners[digest] > 1:
                    clashes.append(digest)
            claimed.record(LOCATION, number, 10)
            claimed.forget()
            with lock:
                owners[digest] -= 1
            claimed.close()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clashes == []
    assert names(tmp_path / "uploads") == []
