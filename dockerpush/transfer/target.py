"""Where images go, as the engine sees it, and how a blob came there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Mapping, NamedTuple, Sequence

from ..documents import RawManifest
from ..events import OnEvent, Outcome
from ..oci import Descriptor, Digest
from ..system.cancellation import Cancellation
from ..upload.content import PreparedBlob
from .plan import PlannedBlob, PlannedImage, unique

if TYPE_CHECKING:
    from ..state.known_blobs import KnownBlobs
    from ..upload.early import EarlyUpload, GrowingBlob
    from .source import Source


class UploadResult(NamedTuple):
    """How a blob came to the target, and how many of its bytes moved for that.

    *made_from* is the content that this run compressed into it, if it did.
    """

    descriptor: Descriptor
    outcome: Outcome
    moved: int = 0
    made_from: Digest | None = None


class Target:
    """What takes images; several threads use it. Everything raises PusherError.

    *place* is a registry (``host[:port]``) or a path, *repository* is in it. *blobs* is
    what earlier runs left in the state directory, None for nothing. It *is_new* when
    the registry has no such repository yet. The methods of this class suit a file that
    is written from its beginning: it holds nothing, and nothing is remembered.
    """

    def __init__(
        self,
        place: str,
        cancellation: Cancellation,
        on_event: OnEvent,
        repository: str = "",
    ) -> None:
        self.place = place
        self.repository = repository
        self.blobs: KnownBlobs | None = None
        self.is_new = False
        self.cancellation = cancellation
        self.on_event = on_event

    @property
    def jobs(self) -> int | None:
        """Blobs that may come at a time, None: as many as the caller likes."""
        return None

    def begin(self, images: Sequence[PlannedImage]) -> Sequence[PlannedBlob]:
        """All that is going to come; its blobs, each once, in the order wanted."""
        return unique(blob for image in images for blob in image.plan.moving)

    def digest_of(self, reference: str) -> Digest | None:
        """What *reference* names there, None where nobody says."""
        return None

    def has(self, blobs: Sequence[Descriptor], *, jobs: int) -> set[Digest]:
        """Those of *blobs* that are there; *jobs* large ones may move at a time."""
        return set()

    def mounted(
        self, blobs: Mapping[Descriptor, Sequence[str]], *, jobs: int
    ) -> set[Digest]:
        """Those of *blobs* that could be mounted from one of their repositories."""
        return set()

    def has_document(self, document: Descriptor) -> bool:
        """True for a manifest that is there with all that it needs."""
        return False

    def mount_candidates(
        self, digest: Digest, source: Source | None = None
    ) -> list[str]:
        """Repositories that the blob may be mounted from; *source* has it."""
        return []

    def may_be_early(self) -> bool:
        """True when `early` may be asked for, for all blobs that are not there."""
        return False

    def early(self, blob: GrowingBlob) -> EarlyUpload:
        """What sends *blob* while it is being made."""
        raise NotImplementedError

    def put_blob(self, blob: PreparedBlob, mounts: Sequence[str]) -> UploadResult:
        """Have the target hold *blob*, which may be in the repositories *mounts*."""
        raise NotImplementedError

    def take_file(self, blob: Descriptor, path: Path) -> bool:
        """Have the target hold *blob*, which was hashed as it was written to *path*.

        False: it was not taken, and has to come by `put_blob`.
        """
        return False

    def learn(self, blobs: Sequence[Descriptor]) -> None:
        """Remember for other runs that these are there."""

    def put_document(self, document: RawManifest, reference: str) -> bool:
        """Store a manifest under *reference*, its digest or a name.

        True when the target lists it by itself as a referrer of its subject, or lists
        none.
        """
        return True

    def list_referrers(self, subject: Digest, listed: Sequence[Descriptor]) -> None:
        """Have the target list these referrers of *subject*, which it holds."""
