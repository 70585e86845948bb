"""The one uploader: what it sends, what it checks, what it does when things break."""

from __future__ import annotations

import hashlib
import threading
import time
import tracemalloc
from typing import Callable

import pytest
from fake_registry import CUT, Answer, FakeRegistry, Incoming, cut_after, error, serving
from hypothesis import given, settings
from hypothesis import strategies as st
from uploading import (
    MIB,
    PATIENT,
    QUICK,
    Reader,
    Sender,
    Source,
    blob_of,
    holds,
    noise,
    sender_to,
    small,
    uploading,
)

from dockerpush.errors import (
    ArchiveError,
    Cancelled,
    ContentMismatch,
    RegistryError,
    TransientError,
    Unauthorized,
)
from dockerpush.events import (
    BlobFinished,
    BlobStarted,
    BytesSent,
    Outcome,
    Retrying,
)
from dockerpush.oci import OCI_LAYER, Descriptor, Digest
from dockerpush.state.upload_sessions import UploadSessions
from dockerpush.system.cancellation import Cancellation
from dockerpush.system.rate import RateLimiter
from dockerpush.upload import content as prepared
from dockerpush.upload.content import CheckedContent, PreparedBlob
from dockerpush.upload.limits import HostLimits, LearnedLimits, limits_for
from dockerpush.values import replace


def content_of(
    content: bytes, source: Source | None = None, events: list | None = None
) -> CheckedContent:
    on_event = events.append if events is not None else lambda event: None
    return CheckedContent(blob_of(content, source), Cancellation(), on_event)


@pytest.fixture(autouse=True)
def closed_cancellations(monkeypatch):
    """Every Cancellation of a test is closed after it."""
    made = []
    real = Cancellation.__init__

    def remember(self):
        real(self)
        made.append(self)

    monkeypatch.setattr(Cancellation, "__init__", remember)
    yield
    for cancellation in made:
        cancellation.close()


SIZES = [0, 1, 2, 1000, prepared.PIECE - 1, prepared.PIECE, prepared.PIECE + 1, 700_001]


@pytest.mark.parametrize("size", SIZES)
def test_the_pieces_are_the_content(size):
    with content_of(noise(size)) as content:
        assert b"".join(bytes(p) for p in content.pieces(0, size)) == noise(size)
        content.verify()
        assert content.position == size


def test_one_buffer_serves_all_pieces_and_none_is_larger():
    size = 5 * prepared.PIECE + 17
    with content_of(noise(size)) as content:
        pieces = [(piece.obj, len(piece)) for piece in content.pieces(0, size)]
    assert len({id(owner) for owner, _ in pieces}) == 1
    assert max(count for _, count in pieces) == prepared.PIECE


def test_chunks_share_one_reader_and_bytes_are_read_once():
    source = Source(noise(1_000_000))
    with content_of(source.content, source) as content:
        for start in range(0, 1_000_000, 250_000):
            for _ in content.pieces(start, start + 250_000):
                pass
    assert source.opened == [0]
    assert source.read_bytes == 1_000_000
    assert source.open_now == 0


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 900), st.integers(0, 900)), max_size=8))
def test_whatever_is_sent_again_the_hash_stays_right(ranges):
    """Any order of starts, ends and breaks: the bytes are right, and verified once."""
    data = noise(900)
    events: list[BytesSent] = []
    content = content_of(data, events=events)
    for start, end in ranges:
        got = b"".join(bytes(p) for p in content.pieces(start, max(start, end)))
        assert got == data[start : max(start, end)]
    assert b"".join(bytes(p) for p in content.pieces(0, 900)) == data
    content.verify()
    content.close()
    assert sum(event.count for event in events) == 900


def test_going_back_is_reported_as_a_negative_count():
    events: list[BytesSent] = []
    with content_of(noise(1000), events=events) as content:
        for _ in content.pieces(0, 600):
            pass
        for _ in content.pieces(200, 1000):
            pass
    assert [event.count for event in events] == [600, -400, 800]


def test_a_prefix_that_is_skipped_is_hashed_first():
    """A resumed session's first bytes were sent by another run; we check them too."""
    data = noise(3 * prepared.PIECE)
    with content_of(data, Source(b"x" + data[1:])) as content:
        content.start_at(2 * prepared.PIECE)
        with pytest.raises(ContentMismatch):
            for _ in content.pieces(2 * prepared.PIECE, len(data)):
                pass


@pytest.mark.parametrize("size", [1, 1000, prepared.PIECE, prepared.PIECE + 1])
def test_the_last_piece_of_other_bytes_is_withheld(size):
    """Nobody can close a blob that lacks its last piece."""
    data = noise(size)
    given = b""
    content = content_of(data, Source(noise(size, seed=2)))
    with content, pytest.raises(ContentMismatch, match=str(Digest.of(data))):
        for piece in content.pieces(0, size):
            given += bytes(piece)
    assert len(given) <= size - (size % prepared.PIECE or prepared.PIECE)


def test_a_blob_that_ends_early_is_named():
    data = noise(1000)
    content = content_of(data, Source(data[:900]))
    said = r"sha256:\w+: .*ends after 900"
    with content, pytest.raises(ContentMismatch, match=said):
        list(content.pieces(0, 1000))


def test_a_blob_that_continues_too_long_is_named():
    data = noise(1000)
    content = content_of(data, Source(data + b"x"))
    with content, pytest.raises(ContentMismatch, match="longer than its descriptor"):
        list(content.pieces(0, 1000))


def test_a_content_that_was_not_read_to_its_end_is_not_verified():
    with content_of(noise(1000)) as content:
        list(content.pieces(0, 999))
        with pytest.raises(ContentMismatch):
            content.verify()


def test_a_disk_that_fails_is_not_taken_for_the_network():
    class Broken(Reader):
        def readinto(self, buffer: memoryview) -> int:
            raise OSError(5, "Input/output error")

    source = Source(noise(1000))
    blob = PreparedBlob(
        "key",
        Descriptor.of(OCI_LAYER, source.content),
        lambda offset: Broken(source, offset),
    )
    source.open_now = 1
    content = CheckedContent(blob, Cancellation(), lambda event: None)
    with content, pytest.raises(ArchiveError, match="input/output error"):
        list(content.pieces(0, 1000))
    assert source.open_now == 0


def test_cancelling_stops_between_two_pieces():
    cancellation = Cancellation()
    blob = blob_of(noise(4 * prepared.PIECE))
    with CheckedContent(blob, cancellation, lambda event: None) as content:
        pieces = iter(content.pieces(0, blob.descriptor.size))
        next(pieces)
        cancellation.cancel("stop")
        with pytest.raises(Cancelled, match="stop"):
            next(pieces)


def test_reading_64_mib_takes_little_memory():
    """One buffer, no copies."""
    size = 64 * 1024 * 1024

    descriptor = zeros(size)
    tracemalloc.start()
    try:
        blob = PreparedBlob("key", descriptor, lambda offset: EndingZeros(size, offset))
        with CheckedContent(blob, Cancellation(), lambda event: None) as content:
            for _ in content.pieces(0, size):
                pass
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * 1024 * 1024


def zeros(size: int) -> Descriptor:
    """The descriptor of *size* zero bytes, a multiple of 1 MiB."""
    hasher, zero = hashlib.sha256(), bytes(MIB)
    for _ in range(size // MIB):
        hasher.update(zero)
    return Descriptor(OCI_LAYER, Digest.from_hash(hasher), size)


class EndingZeros:
    """*size* zero bytes, from *offset* on."""

    def __init__(self, size: int, offset: int) -> None:
        self.left = size - offset

    def readinto(self, buffer: memoryview) -> int:
        count = min(len(buffer), self.left)
        self.left -= count
        return count

    def close(self) -> None:
        pass


def test_a_small_blob_goes_in_one_put():
    registry, content = FakeRegistry(), noise(1000)
    with uploading(registry) as sender:
        assert sender.send(content) is Outcome.UPLOADED
    assert registry.methods() == ["HEAD", "POST", "PUT"]
    assert holds(registry, content)
    digest = Digest.of(content)
    assert sender.events == [
        BlobStarted("key", digest, 1000),
        BytesSent("key", 1000),
        BlobFinished("key", digest, 1000, Outcome.UPLOADED),
    ]


def test_an_empty_blob_is_uploaded_too():
    registry = FakeRegistry()
    with uploading(registry) as sender:
        assert sender.send(b"") is Outcome.UPLOADED
    assert holds(registry, b"")


def test_a_blob_that_is_there_costs_one_head_and_is_not_read():
    registry, content = FakeRegistry(), noise(1000)
    registry.blobs[str(Digest.of(content))] = content
    source = Source(content)
    with uploading(registry) as sender:
        assert sender.send(content, source=source) is Outcome.EXISTS
    assert registry.methods() == ["HEAD"]
    assert source.opened == []
    assert [type(event) for event in sender.events] == [BlobFinished]


def test_a_blob_of_another_size_is_as_good_as_none():
    """A registry whose disk was full may keep half of a blob under its digest."""
    registry, content = FakeRegistry(), noise(1000)
    registry.blobs[str(Digest.of(content))] = content[:500]
    with uploading(registry) as sender:
        assert sender.send(content) is Outcome.UPLOADED
    assert holds(registry, content)


def test_nobody_looks_twice_for_what_is_known_to_be_absent():
    registry = FakeRegistry()
    with uploading(registry) as sender:
        sender.send(noise(10), known_absent=True)
    assert registry.methods() == ["POST", "PUT"]


def test_a_mounted_blob_is_not_sent():
    registry, content = FakeRegistry(), noise(1000)
    asked = []

    def mount(request: Incoming) -> Answer:
        asked.append(request.query)
        registry.blobs[request.query["mount"]] = b"x" * 1000
        return Answer(201, {"Location": "/v2/team/app/blobs/x"})

    registry.script("POST", mount, mount)
    with uploading(registry) as sender:
        outcome = sender.send(content, mount_from=("team/base", "team/other"))
        assert outcome is Outcome.MOUNTED
        assert asked == [{"mount": str(Digest.of(content)), "from": "team/base"}]
        assert registry.methods() == ["HEAD", "POST", "HEAD"]  # the first one is proved
        assert sender.send(b"y" * 1000, mount_from=["team/base"]) is Outcome.MOUNTED
    assert registry.methods()[3:] == ["HEAD", "POST"]


def test_a_mount_that_was_a_lie_is_the_last_one():
    registry = FakeRegistry()
    registry.script("POST", Answer(201, {"Location": "/v2/team/app/blobs/x"}))
    with uploading(registry) as sender:
        for number in range(2):
            content = noise(1000 + number)
            assert sender.send(content, mount_from=["team/base"]) is Outcome.UPLOADED
    assert registry.methods().count("POST") == 3


def test_the_session_of_a_mount_that_was_not_done_is_used():
    registry, content = FakeRegistry(), noise(1000)
    with uploading(registry) as sender:
        assert sender.send(content, mount_from=("team/base",)) is Outcome.UPLOADED
    assert registry.methods() == ["HEAD", "POST", "PUT"]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 500])
def test_a_mount_that_fails_in_any_way_is_an_upload(status):
    registry, content = FakeRegistry(), noise(1000)

    def refuse(request: Incoming) -> Answer | None:
        return error(status, "UNSUPPORTED") if "mount" in request.query else None

    registry.script("POST", *[refuse] * QUICK.attempts)
    with uploading(registry) as sender:
        assert sender.send(content, mount_from=("team/base",)) is Outcome.UPLOADED
    assert holds(registry, content)


@pytest.mark.parametrize("size", [1001, 2000, 2001, 3999])
def test_a_larger_blob_goes_in_chunks_and_an_empty_put(size):
    registry, content = FakeRegistry(), noise(size)
    with uploading(registry, small()) as sender:
        assert sender.send(content) is Outcome.UPLOADED
    assert holds(registry, content)
    chunks = registry.sizes("PATCH")
    assert sum(chunks) == size
    assert max(chunks) <= 1001
    assert min(chunks) > 1
    assert registry.methods() == ["HEAD", "POST", *["PATCH"] * len(chunks), "PUT"]
    assert registry.sizes("PUT") == [0]


def test_a_user_who_wants_small_chunks_gets_small_requests():
    limits = limits_for(HostLimits(), 2 * MIB)
    assert limits.chunk_size == 2 * MIB
    assert not limits.is_monolithic(3 * MIB)
    assert limits_for(HostLimits(), HostLimits().chunk) == HostLimits()
    assert limits_for(HostLimits(), None) == HostLimits()


@pytest.mark.parametrize("size", [900, 3500])
def test_other_bytes_than_promised_never_become_a_blob(size):
    registry, content = FakeRegistry(), noise(size)
    said = f"blob {Digest.of(content)}: wanted {size} bytes"
    with uploading(registry, small()) as sender:
        sender.fails(ContentMismatch, said, content, source=Source(noise(size, seed=2)))
    assert registry.blobs == {}
    assert registry.uploads == {}, "the session is cancelled"
    assert registry.sizes("PUT") in ([], [900])


def test_a_source_that_ends_early_in_a_chunk_closes_nothing():
    registry, content = FakeRegistry(), noise(3500)
    with uploading(registry, small()) as sender:
        sender.fails(
            ContentMismatch, "ends after 2500", content, source=Source(content[:2500])
        )
    assert registry.blobs == {}
    assert registry.sizes("PUT") == []


def broken_patches(registry: FakeRegistry, *counts: int) -> None:
    """The next PATCHes break after so many bytes, which the registry keeps."""

    def part_of(count: int) -> Callable[[Incoming], Answer]:
        def act(request: Incoming) -> Answer:
            upload, left = registry.upload_of(request), count
            while left and (part := request.read(left)):
                upload += part
                left -= len(part)
            return CUT

        return act

    registry.script("PATCH", *map(part_of, counts))


def test_after_a_break_it_continues_where_the_registry_stands():
    registry, content = FakeRegistry(), noise(3 * MIB)
    broken_patches(registry, 300_000)
    source = Source(content)
    with uploading(registry, small(MIB)) as sender:
        assert sender.send(content, source=source) is Outcome.UPLOADED
    assert holds(registry, content)
    assert registry.methods()[:5] == ["HEAD", "POST", "PATCH", "STATUS", "PATCH"]
    assert registry.received() == 3 * MIB, "no byte was taken twice"
    assert [event.what for event in sender.told(Retrying)] == [
        f"blob {Digest.of(content).short}: PATCH with a chunk"
    ]
    assert sum(event.count for event in sender.told(BytesSent)) == 3 * MIB


def test_a_patch_whose_answer_is_lost_is_not_repeated():
    registry, content = FakeRegistry(), noise(3500)

    def lose(request: Incoming) -> Answer:
        registry.patch(request)
        return CUT

    registry.script("PATCH", lose)
    with uploading(registry, small()) as sender:
        sender.send(content)
    assert holds(registry, content)
    assert registry.received() == 3500


@pytest.mark.parametrize("size", [900, 3500])
def test_a_put_whose_answer_is_lost_is_recognised_by_a_head(size):
    registry, content = FakeRegistry(), noise(size)

    def lose(request: Incoming) -> Answer:
        registry.put(request)
        return CUT

    registry.script("PUT", lose)
    with uploading(registry, small()) as sender:
        assert sender.send(content) is Outcome.UPLOADED
    assert registry.methods().count("PUT") == 1
    assert registry.methods()[-1] == "HEAD"
    assert registry.received() == size


def test_a_put_that_broke_in_its_middle_is_sent_again():
    registry, content = FakeRegistry(), noise(4 * MIB)
    registry.script("PUT", cut_after(MIB))
    with uploading(registry) as sender:
        assert sender.send(content) is Outcome.UPLOADED
    assert holds(registry, content)
    assert registry.methods().count("POST") == 2


def test_a_registry_that_forgot_the_session_gets_the_blob_from_its_start():
    registry, content = FakeRegistry(), noise(3500)

    def forget(request: Incoming) -> None:
        registry.uploads.clear()

    registry.script("PATCH", lambda request: None, forget)
    with uploading(registry, small()) as sender:
        sender.send(content)
    assert holds(registry, content)
    assert registry.methods().count("POST") == 2


def test_an_upload_that_never_gets_on_ends_and_keeps_its_session():
    registry, content = FakeRegistry(), noise(3500)
    registry.script("PATCH", *[error(503, "UNAVAILABLE", "later")] * 9)
    with uploading(registry, small()) as sender:
        caught = sender.fails(TransientError, "503", content)
    assert caught.status == 503
    assert registry.methods().count("PATCH") == QUICK.attempts
    assert registry.cancelled == []


def test_progress_earns_new_attempts():
    """Two attempts, and every chunk breaks once: it gets through all the same."""
    registry, content = FakeRegistry(), noise(5 * MIB)
    broken_patches(registry, *[700_000] * 7)
    policy = replace(QUICK, attempts=2)
    with uploading(registry, small(MIB), policy=policy) as sender:
        sender.send(content)
    assert holds(registry, content)


def test_a_session_that_is_lost_again_and_again_earns_none():
    """What was reached before is no progress when it is reached again."""
    registry, content = FakeRegistry(), noise(9500)

    def forget(request: Incoming) -> None:
        if len(registry.upload_of(request)) >= 3000:
            registry.uploads.clear()

    registry.script("PATCH", *[forget] * 1000)
    with uploading(registry, small()) as sender:
        sender.fails(RegistryError, "BLOB_UPLOAD_UNKNOWN", content)
    assert registry.methods().count("POST") == QUICK.attempts


def test_what_retry_after_asks_for_is_waited_for():
    registry, content = FakeRegistry(), noise(100)
    registry.script("PUT", Answer(429, {"Retry-After": "0"}, b"slow down"))
    with uploading(registry) as sender:
        sender.send(content)
    assert [event.delay for event in sender.told(Retrying)] == [0.0]
    assert sender.limits.current.pace > 0


def test_a_token_that_expires_on_the_way_costs_one_more_request():
    registry, content = FakeRegistry(), noise(3500)
    expired = error(401, "UNAUTHORIZED", "token expired")
    registry.script("PATCH", lambda request: None, expired)
    with uploading(registry, small()) as sender:
        sender.send(content)
    assert holds(registry, content)
    assert registry.methods().count("POST") == 1
    assert sender.told(Retrying) == []


def test_a_second_401_in_a_row_is_the_answer():
    registry, content = FakeRegistry(), noise(3500)
    denied = error(401, "UNAUTHORIZED", "no push for you")
    registry.script("PATCH", *[denied] * 5)
    with uploading(registry, small()) as sender:
        sender.fails(Unauthorized, "no push for you", content)
    assert registry.methods().count("PATCH") == 2
    assert registry.uploads == {}


@pytest.mark.parametrize(
    ("status", "code"), [(403, "DENIED"), (404, "NAME_UNKNOWN"), (400, "NAME_INVALID")]
)
def test_a_definite_answer_ends_at_once_with_the_registrys_words(status, code):
    registry, content = FakeRegistry(), noise(900)
    registry.script("PUT", error(status, code, "this is why"))
    with uploading(registry) as sender:
        sender.fails(RegistryError, "this is why", content)
    assert registry.methods() == ["HEAD", "POST", "PUT", "DELETE"]
    assert registry.uploads == {}
    assert sender.told(Retrying) == []


def test_a_digest_that_the_registry_finds_wrong_ends_at_once():
    registry, content = FakeRegistry(), noise(900)
    registry.script("PUT", error(400, "DIGEST_INVALID", "did not match"))
    with uploading(registry) as sender:
        sender.fails(RegistryError, "DIGEST", content)
    assert registry.methods().count("PUT") == 1


def test_a_resumed_session_with_wrong_bytes_is_started_over():
    """After a break the registry may write the broken request's bytes late."""
    registry, content = FakeRegistry(), noise(3500)

    def late(request: Incoming) -> None:
        registry.upload_of(request).extend(b"late")

    registry.script("PATCH", CUT)
    registry.script("PUT", late)
    with uploading(registry, small()) as sender:
        sender.send(content)
    assert holds(registry, content)
    assert registry.methods().count("POST") == 2


def test_two_cuts_of_one_body_are_a_limit_of_its_size():
    """urllib3 1.26 shows a reset where urllib3 2 shows the 413 of a proxy."""
    registry, content = FakeRegistry(), noise(8 * MIB)

    def limit(request: Incoming) -> Answer | None:
        return cut_after(64 * 1024)(request) if request.length > 3 * MIB else None

    registry.script("PUT", *[limit] * 9)
    registry.script("PATCH", *[limit] * 9)
    with uploading(registry, policy=replace(QUICK, attempts=9)) as sender:
        sender.send(content)
        sender.send(noise(7 * MIB))
    assert holds(registry, content)
    assert sender.limits.current.chunk_size == 2 * MIB
    assert max(registry.sizes("PATCH")[-4:]) == 2 * MIB, "remembered for the next blob"


def test_cancelling_keeps_the_session_for_the_next_run():
    registry, content = FakeRegistry(), noise(3500)
    with uploading(registry, small()) as sender:
        registry.script("PATCH", lambda request: sender.cancellation.cancel("stop"))
        sender.fails(Cancelled, "stop", content)
    assert registry.cancelled == []
    assert len(registry.uploads) == 1


def interrupted(registry: FakeRegistry, sender: Sender, chunks: int) -> None:
    """Have *sender* cancelled during the PATCH that follows *chunks* others."""

    def stop(request: Incoming) -> Answer:
        sender.cancellation.cancel("stop")
        return CUT

    registry.script("PATCH", *[lambda request: None] * chunks, stop)


@pytest.mark.parametrize("chunks", [0, 1, 3])
def test_the_next_run_continues_with_the_session(tmp_path, chunks):
    registry, content = FakeRegistry(), noise(5500)
    sessions = UploadSessions(tmp_path / "uploads")
    with serving(registry) as host:
        with sender_to(host, small(), sessions=sessions) as first:
            interrupted(registry, first, chunks)
            first.fails(Cancelled, "stop", content)
        registry.seen.clear()
        with sender_to(host, small(), sessions=sessions) as second:
            assert second.send(content) is Outcome.UPLOADED
    assert holds(registry, content)
    assert registry.methods()[:3] == ["HEAD", "STATUS", "PATCH"]
    assert registry.received() == 5500 - 1000 * chunks
    assert sum(event.count for event in second.told(BytesSent)) == 5500
    assert [p.name for p in (tmp_path / "uploads").iterdir()] == [".lock"]


def test_a_source_that_changed_between_two_runs_is_noticed(tmp_path):
    """What the first run sent is hashed again by the second."""
    registry, content = FakeRegistry(), noise(5500)
    sessions = UploadSessions(tmp_path / "uploads")
    with serving(registry) as host:
        with sender_to(host, small(), sessions=sessions) as first:
            interrupted(registry, first, 3)
            first.fails(Cancelled, "stop", content)
        with sender_to(host, small(), sessions=sessions) as second:
            second.fails(
                ContentMismatch,
                "its 5500 bytes are",
                content,
                source=Source(b"x" + content[1:]),
            )
    assert registry.blobs == {}
    assert registry.uploads == {}


@pytest.mark.parametrize("good", [True, False])
def test_a_session_that_lacks_only_its_put_is_hashed_before_it_is_closed(
    tmp_path, good
):
    registry, content = FakeRegistry(), noise(5500)
    sessions = UploadSessions(tmp_path / "uploads")
    with serving(registry) as host:
        with sender_to(host, small(), sessions=sessions) as first:

            def stop(request: Incoming) -> Answer:
                first.cancellation.cancel("stop")
                return CUT

            registry.script("PUT", stop)
            first.fails(Cancelled, "stop", content)
        received = registry.received()
        with sender_to(host, small(), sessions=sessions) as second:
            if good:
                second.send(content)
            else:
                source = Source(content[:-1] + b"x")
                second.fails(ContentMismatch, "its 5500", content, source=source)
    assert holds(registry, content) is good
    assert registry.uploads == {}
    assert registry.received() == received == 5500


def test_a_session_of_an_earlier_run_is_better_than_a_new_one(tmp_path):
    """A mount that was not done opened one, which is given back."""
    registry, content = FakeRegistry(), noise(5500)
    sessions = UploadSessions(tmp_path / "uploads")
    with serving(registry) as host:
        with sender_to(host, small(), sessions=sessions) as first:
            interrupted(registry, first, 3)
            first.fails(Cancelled, "stop", content)
        with sender_to(host, small(), sessions=sessions) as second:
            second.send(content, mount_from=("team/base",))
    assert holds(registry, content)
    assert registry.received() == 5500
    assert registry.cancelled == ["2"]


def test_a_registry_that_cannot_say_where_it_stands_is_not_asked_twice():
    """405 to the status: go on at the acknowledged offset."""
    registry, content = FakeRegistry(), noise(3500)
    registry.script("PATCH", CUT, lambda request: None, CUT)
    registry.script("STATUS", error(405, "UNSUPPORTED"))
    with uploading(registry, small()) as sender:
        sender.send(content)
    assert holds(registry, content)
    assert registry.methods().count("STATUS") == 1
    assert registry.methods().count("POST") == 1


def test_a_session_that_the_registry_forgot_is_started_over(tmp_path):
    registry, content = FakeRegistry(), noise(5500)
    sessions = UploadSessions(tmp_path / "uploads")
    with serving(registry) as host:
        with sender_to(host, small(), sessions=sessions) as first:
            interrupted(registry, first, 3)
            first.fails(Cancelled, "stop", content)
        registry.uploads.clear()
        registry.seen.clear()
        with sender_to(host, small(), sessions=sessions) as second:
            second.send(content)
    assert holds(registry, content)
    assert registry.methods()[:4] == ["HEAD", "STATUS", "POST", "PATCH"]


@pytest.mark.parametrize("location", ["http://127.0.0.1:1/v2/u", "http://[::bad/u"])
def test_a_session_that_cannot_be_reached_any_more_is_started_over(tmp_path, location):
    """A file with nonsense, or with a host that is gone, costs time only."""
    registry, content = FakeRegistry(), noise(5500)
    sessions = UploadSessions(tmp_path / "uploads")
    with serving(registry) as host:
        with sessions.claim(host, "team/app", Digest.of(content)) as claimed:
            claimed.record(location, 1000, 1000)
        with sender_to(host, small(), sessions=sessions) as sender:
            assert sender.send(content) is Outcome.UPLOADED
    assert holds(registry, content)


def test_a_session_outlives_a_run_in_which_the_registry_is_down(tmp_path):
    registry, content = FakeRegistry(), noise(5500)
    sessions = UploadSessions(tmp_path / "uploads")
    with serving(registry) as host:
        with sender_to(host, small(), sessions=sessions) as first:
            interrupted(registry, first, 3)
            first.fails(Cancelled, "stop", content)
        down = [CUT] * QUICK.attempts
        registry.script("STATUS", *down)
        registry.script("POST", *down, *down)
        with sender_to(host, small(), sessions=sessions) as second:
            second.fails(TransientError, "the connection to .* broke", content)
        with sender_to(host, small(), sessions=sessions) as third:
            third.send(content)
    assert holds(registry, content)
    assert registry.received() == 5500


def test_a_session_that_another_run_owns_is_left_alone(tmp_path):
    registry, content = FakeRegistry(), noise(5500)
    sessions = UploadSessions(tmp_path / "uploads")
    with (
        serving(registry) as host,
        sender_to(host, small(), sessions=sessions) as sender,
    ):
        with sessions.claim(host, "team/app", Digest.of(content)) as owner:
            owner.record(f"http://{host}/v2/team/app/blobs/uploads/9", 1000, 1000)
            sender.send(content)
            assert owner.saved is None
        again = UploadSessions(tmp_path / "uploads")
        with again.claim(host, "team/app", Digest.of(content)) as claimed:
            assert claimed.saved.location.endswith("/9")
    assert "STATUS" not in registry.methods()
    assert holds(registry, content)


def test_where_no_session_can_be_kept_the_upload_continues(tmp_path):
    (tmp_path / "file").write_text("")
    registry, content = FakeRegistry(), noise(5500)
    sessions = UploadSessions(tmp_path / "file" / "uploads")
    with uploading(registry, small(), sessions=sessions) as sender:
        assert sender.send(content) is Outcome.UPLOADED


def test_a_connection_that_is_cut_at_the_post_asks_for_the_repository():
    """Amazon ECR hangs up when the repository is missing (sdk-container-builds#279)."""
    registry = FakeRegistry()
    registry.script("POST", *[CUT] * QUICK.attempts * 2)
    with uploading(registry, policy=PATIENT) as sender:
        sender.fails(TransientError, "'team/app' may be missing", noise(10))
    assert registry.methods()[-1 - QUICK.attempts] == "HEAD"


def test_an_outage_that_ends_is_no_missing_repository():
    """The POST breaks as often as it may, and the look after it finds all well."""
    registry, content = FakeRegistry(), noise(10)
    registry.script("POST", *[CUT] * QUICK.attempts)
    with uploading(registry, policy=PATIENT) as sender:
        sender.send(content)
    assert holds(registry, content)


@pytest.mark.parametrize("method", ["HEAD", "PUT", "PATCH"])
def test_an_outage_counts_time_and_not_tries(method):
    registry, content = FakeRegistry(), noise(5500)
    registry.script("HEAD", Answer(404))
    registry.script(method, *[CUT] * QUICK.attempts * 3)
    limits = small() if method == "PATCH" else None
    with uploading(registry, limits, policy=PATIENT) as sender:
        sender.send(content)
    assert holds(registry, content)


def test_a_registry_that_swallows_chunks_in_silence_counts_tries():
    registry = FakeRegistry()
    silent = threading.Event()

    def swallow(request: Incoming) -> Answer:
        request.body()
        silent.wait(5)
        return CUT

    registry.script("PATCH", *[swallow] * 50)
    with serving(registry) as host:
        options = {"policy": PATIENT, "timeout": 0.05}
        with sender_to(host, small(), **options) as sender:
            sender.fails(TransientError, "no answer from .* within 0.1 s", noise(5500))
        silent.set()
    assert registry.methods().count("PATCH") == QUICK.attempts


def test_a_rate_limit_cuts_the_pieces_smaller():
    registry, content = FakeRegistry(), noise(120_000)
    rate = RateLimiter(1_000_000)
    with uploading(registry, rate=rate) as sender:
        sender.send(content)
    assert holds(registry, content)
    assert len(sender.told(BytesSent)) > 1


def test_the_pace_of_a_host_is_kept():
    """Four requests with a body, three pauses."""
    registry, content = FakeRegistry(), noise(2500)
    with uploading(registry, small(pace=0.1)) as sender:
        started = time.monotonic()
        sender.send(content)
        assert time.monotonic() - started >= 0.3
    assert holds(registry, content)


def test_uploads_that_share_a_pace_take_turns():
    now, waited = [100.0], []

    class Waiting(Cancellation):
        def wait(self, seconds: float) -> None:
            waited.append(seconds)

    limits = LearnedLimits(HostLimits(pace=2.0), clock=lambda: now[0])
    for _ in range(3):
        limits.wait_for_turn(Waiting())
    now[0] += 60
    limits.wait_for_turn(Waiting())
    assert waited == [2.0, 4.0]


class Sink(FakeRegistry):
    """Keeps no byte of a body, only its hash."""

    def __init__(self) -> None:
        super().__init__()
        self.hasher = hashlib.sha256()

    def stored(self, request: Incoming, upload: bytearray) -> Answer:
        self.swallow(request)
        return Answer(202, {"Location": request.path})

    def patch(self, request: Incoming) -> Answer:
        return self.stored(request, bytearray())

    def put(self, request: Incoming) -> Answer:
        self.swallow(request)
        right = request.query["digest"] == "sha256:" + self.hasher.hexdigest()
        return Answer(201 if right else 400)

    def swallow(self, request: Incoming) -> None:
        left = request.length
        while left and (part := request.read(min(left, 65536))):
            self.hasher.update(part)
            left -= len(part)


@pytest.mark.parametrize("chunk", [16 * MIB, 64 * MIB])
def test_uploading_64_mib_takes_little_memory(chunk):
    """In chunks and in one PUT; the sink's own memory is counted too."""
    descriptor = zeros(64 * MIB)
    blob = PreparedBlob("key", descriptor, lambda at: EndingZeros(64 * MIB, at))
    with uploading(Sink(), small(chunk)) as sender:
        tracemalloc.start()
        try:
            sender.uploader.upload(blob)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 2 * MIB


class Ahead(FakeRegistry):
    """Keeps *kept* bytes of the first chunk, cuts, and says so by 416 alone."""

    def __init__(self, kept: int, *, by_status: bool = False) -> None:
        super().__init__()
        self.kept = kept
        self.by_status = by_status
        self.cut = False

    def patch(self, request: Incoming) -> Answer:
        upload = self.upload_of(request)
        if not self.cut:
            self.cut = True
            upload += request.body()[: self.kept]
            return Answer(503)
        if request.range[0] != len(upload):
            return Answer(416, {"Range": self.range_of(upload)})
        return self.stored(request, upload)

    def status(self, request: Incoming) -> Answer:
        return super().status(request) if self.by_status else Answer(405)


@pytest.mark.parametrize("by_status", [False, True])
@pytest.mark.parametrize("kept", [0, 1, 2, 999, 1000])
def test_a_416_says_where_to_continue(kept, by_status):
    """Also where exactly one byte is there, which is told as none is."""
    registry, content = Ahead(kept, by_status=by_status), noise(5500)
    with uploading(registry, small()) as sender:
        sender.send(content)
    assert holds(registry, content)
    if by_status:
        assert registry.methods().count("POST") == 1


def test_a_416_that_cannot_be_true_is_not_followed():
    registry, content = FakeRegistry(), noise(5500)
    registry.script("PATCH", *[Answer(416, {"Range": "0-99999"})] * 2)
    with uploading(registry, small()) as sender:
        sender.send(content)
    assert holds(registry, content)


def test_a_registry_that_says_416_for_ever_is_given_up():
    registry = FakeRegistry()
    registry.script("PATCH", *[Answer(416, {"Range": "0-1"})] * 99)
    with uploading(registry, small()) as sender:
        sender.fails(RegistryError, "416", noise(5500))
    assert registry.methods().count("PATCH") < 20


def test_501_to_a_chunk_means_one_put():
    registry, content = FakeRegistry(), noise(5500)
    registry.script("PATCH", *[Answer(501)] * 9)
    with uploading(registry, small()) as sender:
        sender.send(content)
    assert holds(registry, content)
    assert registry.methods().count("PATCH") == 1
