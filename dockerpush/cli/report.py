"""What commands report: results on stdout, the rest on stderr.

`Outcomes` counts pieces of work of which some may fail: each failure is reported, and
the rest continues. `write_digests` is ``--digestfile``, for the next program.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterable, Iterator, Sequence

from ..errors import Cancelled, PusherError, SomeFailed, UsageError, file_error, some_of
from ..events import Outcome
from . import console

if TYPE_CHECKING:
    from ..oci import Digest
    from ..reference import Reference
    from ..transfer.choices import BlobForecast, CopyResult, PushResult
    from .console import Display
    from .session import Session


_SHOWN = 5


class Outcomes:
    """Counts *what* is done, as in "2 of 5 pushes failed".

    Work that is alone fails with its own error. *several* says from the start that it
    is not alone.
    """

    def __init__(self, what: str, session: Session, *, several: bool = False) -> None:
        self._what = what
        self._session = session
        self._several = several
        self._total = 0
        self._failed: list[str] = []

    def expect(self, count: int) -> None:
        """*count* pieces of work follow."""
        self._total = count + len(self._failed)
        self._several = self._several or self._total > 1

    @contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        """One piece of work; its error is reported, and raised when it is alone.

        Raises UsageError and Cancelled in any case: these concern the whole run.
        """
        try:
            yield
        except (Cancelled, UsageError):
            raise
        except PusherError as error:
            if not self._several:
                raise
            self.failed(name, str(error))

    def failed(self, name: str, why: str) -> None:
        """Report that *name* failed."""
        self._session.end_progress()
        console.say(f"failed: {name}: {why}")
        self._failed.append(name)

    def finish(self) -> None:
        """Raises SomeFailed when something did."""
        if self._failed:
            raise some_failed(self._failed, self._total, self._what)


def some_failed(failed: Sequence[str], total: int, what: str) -> SomeFailed:
    """The error that *failed* are of *total*, as in "2 of 5 pushes failed"."""
    names = some_of(failed, _SHOWN)
    return SomeFailed(f"{len(failed)} of {total} {what} failed: {names}")


def check_lost(done: Iterable[tuple[str, int]]) -> None:
    """Raises SomeFailed when images lost something; *done* are names and how much."""
    found = [(name, lost) for name, lost in done if lost]
    if found:
        count = sum(lost for _, lost in found)
        names = ", ".join(name for name, _ in found[:_SHOWN])
        raise SomeFailed(
            f"{names}: {count} signatures or attestations left out; without --strict "
            "that is a warning"
        )


def skipped(source: str, target: str, display: Display) -> None:
    """Say that *target* exists and was not written."""
    if display.json:
        console.json_result({"source": source, "target": target, "skipped": True})
    if not display.quiet:
        console.say(f"note: {target} exists and is left as it is")


def check_writable(path: str) -> None:
    """Check that a digest can be written to *path*. Raises NotFound, PusherError."""
    try:
        with Path(path).open("a"):
            pass
    except OSError as error:
        raise file_error(f"--digestfile {path}", error) from error


def write_digests(path: str, done: Iterable[tuple[str, str]]) -> None:
    """Write digests and what has them to *path*.

    One: the bare digest, as podman writes it; several: a line for each.
    """
    done = list(done)
    if len(done) == 1:
        text = done[0][0]
    else:
        text = "".join(f"{digest} {name}\n" for digest, name in done)
    try:
        Path(path).write_text(text)
    except OSError as error:
        raise file_error(f"--digestfile {path}", error) from error


def pushed(
    reference: Reference, result: PushResult, seconds: float, display: Display
) -> None:
    """The result on stdout, and what was done on stderr."""
    digest = result.descriptor.digest
    name = f"{reference.registry}/{reference.repository}"
    with console.surviving_closed_stdout():
        if display.json:
            console.json_result(_record(reference, result, seconds))
        else:
            console.result(f"{name}@{digest}")
    if display.quiet:
        return
    console.say(f"pushed {reference}: {moved('send', result, seconds)}")
    say_replaced(reference, result.replaced)


def say_replaced(target: object, digest: Digest | None) -> None:
    """Say what *target*, a tag, pointed to before, for whoever wants it back."""
    if digest is not None:
        console.say(f"note: {target} pointed to {digest} before")


def moved(verb: str, result: PushResult | CopyResult, seconds: float) -> str:
    """What *result* took, as in "sent 2 blobs (12.3 MiB) in 0.5 s; 1 already there".

    *verb* is send or copy.
    """
    mounted = result.blobs.get(Outcome.MOUNTED, 0)
    there = sum(result.blobs.values()) - mounted
    there -= (sent := result.blobs.get(Outcome.UPLOADED, 0))
    if not sent and not mounted:
        what = f"{console.counted(there, 'blob')} {'is' if there == 1 else 'are'}"
        return f"nothing to {verb}: {what if there else 'the image is'} already there"
    rest = [
        f"{number} {how}"
        for number, how in ((mounted, "mounted"), (there, "already there"))
        if number
    ]
    if not sent:
        return f"nothing to {verb}: {', '.join(rest)}"
    size = console.size_text(result.sent)
    done = f"{_PAST[verb]} {console.counted(sent, 'blob')} ({size}) in {seconds:.1f} s"
    return "; ".join([done, *rest])


_PAST = {"send": "sent", "copy": "copied"}


def _record(reference: Reference, result: PushResult, seconds: float) -> dict[str, Any]:
    return {
        "target": str(reference),
        "ref": f"{reference.registry}/{reference.repository}"
        f"@{result.descriptor.digest}",
        "tag": reference.tag,
        "digest": result.descriptor.digest,
        "mediaType": result.descriptor.media_type,
        "size": result.descriptor.size,
        "replaced": result.replaced,
        "blobs": {outcome.value: n for outcome, n in result.blobs.items()},
        "bytes": result.sent,
        "seconds": round(seconds, 3),
    }


def digests_of(
    done: Iterable[tuple[Reference, PushResult]],
) -> Iterator[tuple[str, str]]:
    """Digest and name of each, for ``--digestfile``."""
    return ((str(result.descriptor.digest), str(name)) for name, result in done)


def forecast(
    reference: Reference,
    blobs: Sequence[BlobForecast],
    display: Display,
    source: str | None = None,
) -> None:
    """What a push to *reference* would do; *source* names one archive of several."""
    record = _dry_record(reference, blobs)
    if display.json:
        console.json_result({"source": source, **record} if source else record)
    else:
        _print_plan(record)


def _dry_record(reference: Reference, blobs: Sequence[BlobForecast]) -> dict[str, Any]:
    sent = (blob.size for blob in blobs if blob.is_sent)
    return {
        "target": str(reference),
        "blobs": [
            {"blob": blob.name, "size": blob.size, "action": blob.action}
            for blob in blobs
        ],
        "bytes": sum(sent),
    }


def _print_plan(record: dict[str, Any]) -> None:
    rows = [("BLOB", "SIZE", "ACTION")]
    for blob in record["blobs"]:
        rows.append((blob["blob"], console.size_text(blob["size"]), blob["action"]))
    console.table(rows)
    most = f"at most {console.size_text(record['bytes'])}"
    would = f"would send {most if record['bytes'] else 'nothing'}"
    console.result(f"{record['target']}: {would}")
