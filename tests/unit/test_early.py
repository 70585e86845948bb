"""A blob that is sent while it is made: what goes early, and what ends that."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import Callable, Iterator

import pytest
from fake_registry import CUT, Answer, FakeRegistry, Incoming, cut_after, error
from uploading import MIB, Sender, Source, blob_of, holds, noise, uploading
from waiting import wait_for

from dockerpush.archive.spooled import Spool
from dockerpush.errors import Cancelled, ContentMismatch, RegistryError, TransientError
from dockerpush.events import BlobFinished, BytesSent, Outcome
from dockerpush.oci import Digest
from dockerpush.state.upload_sessions import UploadSessions
from dockerpush.upload import early, uploader
from dockerpush.upload.early import GrowingBlob
from dockerpush.upload.limits import CHUNK, HostLimits, LearnedLimits, Status
from dockerpush.values import replace

ADAPTS = HostLimits(adapts=True)
SIZE = 4 * MIB + 5
STEP = 512 * 1024


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part is worth a request from 1 MiB on."""
    monkeypatch.setattr(early, "PART", MIB)


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with contextlib.closing(Spool(tmp_path)) as spool:
        yield spool


another_spool = spool


class Maker:
    """Writes *content* in small pieces from a thread of its own.

    After each piece it waits until *follows* of the bytes written is true. In the end
    *content* is the blob, or it is *instead*.
    """

    def __init__(
        self,
        spool: Spool,
        content: bytes,
        follows: Callable[[int], bool],
        instead: bytes | None = None,
    ) -> None:
        self.blob = GrowingBlob("key", spool)
        self._content = content
        self._follows = follows
        self._instead = instead
        self.thread = threading.Thread(target=self._make)
        self.thread.start()

    def _make(self) -> None:
        try:
            for start in range(0, len(self._content), STEP):
                self.blob.write(memoryview(self._content)[start : start + STEP])
                written = min(start + STEP, len(self._content))
                wait_for(lambda: self._follows(written))  # noqa: B023
        finally:
            self._end()

    def _end(self) -> None:
        if self._instead is not None:
            self.blob.end(blob_of(self._instead), of_spool=False)
            return
        made = blob_of(self._content)
        self.blob.end(replace(made, open_at=self.blob.open_at), of_spool=True)


def send_early(
    sender: Sender,
    spool: Spool,
    content: bytes,
    follows: Callable[[int], bool] = lambda written: True,
    instead: bytes | None = None,
) -> Outcome:
    """Send *content* while it is made, as the engine does."""
    maker = Maker(spool, content, follows, instead)
    with sender.uploader.early(maker.blob) as upload:
        upload.run()
        made = maker.blob.made(sender.cancellation)
        maker.thread.join()
        return sender.uploader.upload(replace(made, early=upload))


def parts_arrive(registry: FakeRegistry) -> Callable[[int], bool]:
    """True when the registry has every whole part of what was written."""

    def follows(written: int) -> bool:
        return registry.received() >= written // MIB * MIB

    return follows


def asked_for(registry: FakeRegistry, method: str, most: int) -> Callable[[int], bool]:
    """True when *method* was asked for once for each part, up to *most* times."""

    def follows(written: int) -> bool:
        return registry.methods().count(method) >= min(written // MIB, most)

    return follows


def counted(sender: Sender) -> int:
    """The bytes that progress counts in the end."""
    return sum(event.count for event in sender.told(BytesSent))


def test_parts_arrive_while_the_blob_is_made_and_a_put_closes_it(spool):
    registry, content = FakeRegistry(), noise(SIZE)
    with uploading(registry, ADAPTS) as sender:
        outcome = send_early(sender, spool, content, parts_arrive(registry))
    assert outcome is Outcome.UPLOADED and holds(registry, content)
    early = ["POST", *["PATCH"] * 4]
    assert registry.methods() == [*early, "HEAD", "PATCH", "PUT"]
    assert registry.sizes("PATCH") == [MIB, MIB, MIB, MIB, 5]
    assert registry.received() == counted(sender) == SIZE
    (finished,) = sender.told(BlobFinished)
    assert (finished.size, finished.outcome) == (SIZE, Outcome.UPLOADED)


def test_a_part_grows_with_what_waits_but_not_beyond_a_chunk(spool):
    registry, content = FakeRegistry(), noise(7 * MIB)
    registry.script("POST", lambda _: written.wait(20) and None)
    written = threading.Event()

    def follows(count: int) -> bool:
        if count == len(content):
            written.set()
        return count < len(content) or len(registry.sizes("PATCH")) > 2

    with uploading(registry, replace(ADAPTS, chunk=3 * MIB)) as sender:
        now = sender.limits.clock()
        sender.limits.clock = lambda: now  # nothing takes any time
        send_early(sender, spool, content, follows)
    assert holds(registry, content)
    assert registry.sizes("PATCH") == [MIB, 3 * MIB, 3 * MIB]


def test_a_short_blob_opens_no_session_before_it_is_complete(spool):
    registry, content = FakeRegistry(), noise(MIB - 1)
    with uploading(registry, ADAPTS) as sender:
        send_early(sender, spool, content)
    assert registry.methods() == ["HEAD", "POST", "PUT"]
    assert holds(registry, content)


@pytest.mark.parametrize("more", [0, 1])
def test_a_blob_that_ends_with_a_part_or_a_byte_later_is_whole(more, spool):
    registry, content = FakeRegistry(), noise(2 * MIB + more)
    with uploading(registry, ADAPTS) as sender:
        send_early(sender, spool, content, parts_arrive(registry))
    assert holds(registry, content)
    assert registry.received() == len(content)


def test_what_is_there_already_throws_the_session_away(spool):
    registry, content = FakeRegistry(), noise(SIZE)
    registry.blobs[str(Digest.of(content))] = content
    with uploading(registry, ADAPTS) as sender:
        outcome = send_early(sender, spool, content, parts_arrive(registry))
    assert outcome is Outcome.EXISTS
    assert registry.methods()[-2:] == ["HEAD", "DELETE"]
    assert not registry.uploads and counted(sender) == 0


def test_what_becomes_another_blob_throws_the_session_away(spool):
    registry, content, other = FakeRegistry(), noise(SIZE), noise(1000, 2)
    with uploading(registry, ADAPTS) as sender:
        follows = parts_arrive(registry)
        outcome = send_early(sender, spool, content, follows, instead=other)
    assert outcome is Outcome.UPLOADED and holds(registry, other)
    assert not registry.uploads and len(registry.blobs) == 1
    assert counted(sender) == len(other)


REFUSALS = {
    **{str(status): error(status) for status in (400, 404, 405, 413, 416, 429, 500)},
    "unknown session": error(404, "BLOB_UPLOAD_UNKNOWN"),
    "denied": error(403, "DENIED"),
    "unsupported": error(405, "UNSUPPORTED"),
    "cut": CUT,
}
CASES = {
    f"{method}, {name}": (method, answer)
    for method in ("POST", "PATCH")
    for name, answer in REFUSALS.items()
}
CASES["PATCH, cut in the middle"] = "PATCH", cut_after(100_000)


@pytest.mark.parametrize(("method", "answer"), CASES.values(), ids=CASES)
def test_a_refusal_ends_what_is_early_and_never_the_push(
    method, answer, spool, another_spool
):
    registry, content = FakeRegistry(), noise(SIZE)
    registry.script(method, answer)
    with uploading(registry, ADAPTS) as sender:
        follows = asked_for(registry, method, 1)
        assert send_early(sender, spool, content, follows) is Outcome.UPLOADED
        assert holds(registry, content)
        assert counted(sender) == SIZE
        before = len(registry.seen)
        if not sender.limits.takes_early:
            another = noise(SIZE, 2)
            send_early(sender, another_spool, another)
            assert holds(registry, another)
            assert registry.methods()[before] == "HEAD"  # nothing was early
    assert not registry.uploads


class TakesOnePart(FakeRegistry):
    """A second PATCH is refused, as some registries do."""

    def patch(self, request: Incoming) -> Answer:
        upload = self.upload_of(request)
        return error(405, "UNSUPPORTED") if upload else super().patch(request)


class MixesParts(FakeRegistry):
    """What came in parts is stored wrongly."""

    def closed(self, request: Incoming, upload: bytearray) -> Answer:
        if any(seen.method == "PATCH" for seen in self.seen[-3:]):
            upload = upload[::-1]
        return super().closed(request, upload)


class ClosesNothing(FakeRegistry):
    """A session that had parts is closed by nothing."""

    def put(self, request: Incoming) -> Answer:
        if self.upload_of(request):
            return error(400, "BLOB_UPLOAD_INVALID")
        return super().put(request)


@pytest.mark.parametrize("kind", [TakesOnePart, MixesParts, ClosesNothing])
def test_a_registry_that_cannot_continue_gets_the_blob_whole(kind, spool):
    registry, content = kind(), noise(SIZE)
    with uploading(registry, ADAPTS) as sender:
        follows = asked_for(registry, "PATCH", 1)
        assert send_early(sender, spool, content, follows) is Outcome.UPLOADED
    assert holds(registry, content)
    assert registry.sizes("PUT")[-1] == SIZE
    assert counted(sender) == SIZE


def test_who_may_not_push_is_told_so(spool):
    registry = FakeRegistry()
    registry.script("POST", *[error(403, "DENIED")] * 3)
    with uploading(registry, ADAPTS) as sender:
        follows = asked_for(registry, "POST", 1)
        with pytest.raises(RegistryError, match=r"cannot push to .* DENIED"):
            send_early(sender, spool, noise(SIZE), follows)
    assert not registry.uploads


@pytest.mark.parametrize("kept", [0, 1, 300_000, MIB])
def test_a_part_that_broke_continues_where_the_registry_stands(kept, spool):
    registry, content = FakeRegistry(), noise(SIZE)

    def stop(request: Incoming) -> Answer:
        registry.upload_of(request).extend(request.body()[:kept])
        return CUT

    registry.script("PATCH", lambda _: None, stop)
    with uploading(registry, ADAPTS) as sender:
        send_early(sender, spool, content, asked_for(registry, "PATCH", 2))
    assert holds(registry, content)
    assert "STATUS" in registry.methods()
    assert counted(sender) == SIZE
    assert registry.received() - SIZE <= max(MIB - kept, 0) + MIB * (kept == 1)


def test_a_registry_whose_word_is_worth_nothing_is_not_asked(spool):
    registry, content = FakeRegistry(), noise(SIZE)
    registry.script("PATCH", cut_after(1000))
    with uploading(registry, replace(ADAPTS, status=Status.NEVER)) as sender:
        send_early(sender, spool, content, asked_for(registry, "PATCH", 1))
    assert holds(registry, content)
    assert "STATUS" not in registry.methods()
    assert counted(sender) == SIZE and not registry.uploads


UNUSUAL = {
    "known": replace(ADAPTS, adapts=False),
    "one put": replace(ADAPTS, chunked=False),
    "equal chunks": replace(ADAPTS, equal_chunks=True),
}


@pytest.mark.parametrize("limits", UNUSUAL.values(), ids=UNUSUAL)
def test_a_host_with_rules_of_its_own_gets_nothing_early(limits, spool):
    registry, content = FakeRegistry(), noise(SIZE)
    with uploading(registry, limits) as sender:
        send_early(sender, spool, content)
    assert registry.methods()[0] == "HEAD"
    assert holds(registry, content)


@pytest.mark.parametrize(
    ("headers", "sizes"),
    [
        ({"OCI-Chunk-Min-Length": str(2 * MIB)}, [2 * MIB, 2 * MIB, 5]),
        ({"OCI-Chunk-Max-Length": str(3 * MIB)}, [3 * MIB, MIB + 5]),
    ],
)
def test_sizes_that_a_registry_asks_for_are_kept(headers, sizes, spool):
    """One that says the most it takes wants equal chunks, so it gets none early."""
    registry, content = FakeRegistry(), noise(SIZE)
    registry.script("POST", lambda _: registry.opened(registry.new_upload(), **headers))
    with uploading(registry, ADAPTS) as sender:

        def follows(written: int) -> bool:
            return registry.received() >= written // (2 * MIB) * 2 * MIB or (
                "OCI-Chunk-Max-Length" in headers
            )

        send_early(sender, spool, content, follows)
    assert holds(registry, content)
    assert registry.sizes("PATCH") == sizes
    assert registry.methods().count("POST") == 1


def sizes_at(rate: float | None, limits: HostLimits = ADAPTS) -> tuple[int, int]:
    learned = LearnedLimits(limits)
    learned.rate = rate
    return early._part_sizes(learned)


@pytest.mark.parametrize(
    ("rate", "least", "most"),
    [
        (None, MIB, MIB),
        (100e6, 10 * MIB, CHUNK),
        (10e6, 10 * MIB, 19 * MIB),
        (2e6, 3 * MIB, 3 * MIB),
        (20e3, MIB, MIB),
    ],
)
def test_a_slow_link_gets_small_parts(rate, least, most, monkeypatch):
    monkeypatch.setattr(early, "PART", 10 * MIB)
    assert sizes_at(rate) == (least, most)


def test_a_part_that_takes_too_long_is_stopped(spool, monkeypatch):
    """The link was not known before; what follows goes in smaller parts."""
    registry, content = FakeRegistry(), noise(SIZE)
    start, seconds = time.monotonic(), iter(range(0, 10_000, 4))
    with uploading(registry, ADAPTS) as sender:
        sender.limits.clock = lambda: start + next(seconds)
        send_early(sender, spool, content)
        assert sender.limits.takes_early
        assert sender.limits.rate is not None
    assert holds(registry, content)


def test_the_session_of_an_earlier_run_is_better_than_what_is_early(tmp_path):
    sessions = UploadSessions(tmp_path / "uploads")
    registry = FakeRegistry()
    with uploading(registry, ADAPTS, sessions=sessions) as sender:
        assert sender.uploader.may_be_early()
        place = sender.host, "team/other", Digest.of(b"1")
        with sessions.claim(*place) as claim:
            claim.record(f"http://{sender.host}/v2/u", 5, 10)
        assert sender.uploader.may_be_early()
        place = sender.host, "team/app", Digest.of(b"1")
        with sessions.claim(*place) as claim:
            claim.record(f"http://{sender.host}/v2/u", 5, 10)
        assert not sender.uploader.may_be_early()


def test_a_file_that_cannot_be_read_beside_its_writer_is_not_sent_early(monkeypatch):
    with uploading(FakeRegistry(), ADAPTS) as sender:
        monkeypatch.setattr(uploader, "HAS_PREAD", False)
        assert not sender.uploader.may_be_early()


def test_the_session_is_kept_for_the_next_run_once_the_digest_is_known(spool, tmp_path):
    sessions, registry = UploadSessions(tmp_path / "uploads"), FakeRegistry()
    content = noise(SIZE)
    with uploading(registry, ADAPTS, sessions=sessions) as sender:
        registry.script("PUT", *[CUT] * 8)
        with pytest.raises(TransientError, match="cannot push blob"):
            send_early(sender, spool, content, parts_arrive(registry))
    before = registry.received()
    (saved,) = (tmp_path / "uploads").glob("*.json")
    assert f'"offset": {SIZE}' in saved.read_text()
    assert before == SIZE


@pytest.mark.parametrize("step", ["run", "made"])
def test_a_maker_that_never_ends_does_not_hold_a_run_that_is_cancelled(step, spool):
    blob = GrowingBlob("key", spool)
    with uploading(FakeRegistry(), ADAPTS) as sender:
        threading.Timer(0.05, sender.cancellation.cancel, ["enough"]).start()
        with pytest.raises(Cancelled), sender.uploader.early(blob) as upload:
            if step == "run":
                upload.run()
            blob.made(sender.cancellation)


def test_other_bytes_than_the_maker_promises_never_become_a_blob(spool):
    registry, content = FakeRegistry(), noise(SIZE)
    maker = Maker(spool, content, parts_arrive(registry))
    with (
        uploading(registry, ADAPTS) as sender,
        sender.uploader.early(maker.blob) as upload,
    ):
        upload.run()
        maker.thread.join()
        other = blob_of(noise(SIZE, 2), Source(content))
        maker.blob.descriptor = other.descriptor
        with pytest.raises(ContentMismatch, match="the source is damaged"):
            sender.uploader.upload(replace(other, early=upload))
    assert not registry.blobs and "PUT" not in registry.methods()
