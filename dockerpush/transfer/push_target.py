"""From settings to the place that a push goes to."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Iterator

from ..events import OnEvent
from ..reference import Reference
from ..registry.client import RegistryClient
from ..registry.setup import retry_policy
from ..settings.config import Settings
from ..state.directory import StateDirectory
from ..state.known_blobs import KnownBlobs
from ..state.upload_sessions import UploadSessions
from ..system.cancellation import Cancellation
from ..upload.learned import LearnedLimits, limits_for
from ..upload.limits import default_limits
from ..upload.uploader import Uploader
from ..values import replace
from .registry_target import PushTarget


@contextmanager
def open_target(
    client: RegistryClient,
    reference: Reference,
    settings: Settings,
    *,
    cancellation: Cancellation,
    on_event: OnEvent,
    state: StateDirectory | None = None,
) -> Iterator[PushTarget]:
    """Where a push to *reference* goes, for one push.

    *state* is where upload sessions and known blobs are kept for other runs, None for
    nowhere.
    """
    limits = limits_for(default_limits(reference.registry), settings.blob_chunk)
    limits = replace(limits, pace=max(limits.pace, settings.chunk_delay))
    with cancellation.child() as child:
        uploader = Uploader(
            client,
            reference.repository,
            LearnedLimits(limits),
            retry_policy(settings),
            cancellation=child,
            on_event=on_event,
            sessions=UploadSessions(state.path / "uploads") if state else None,
            pause=settings.layer_delay,
        )
        yield PushTarget(
            client,
            reference.repository,
            uploader,
            child,
            on_event,
            KnownBlobs(state) if state else None,
            reference.tag or str(reference.digest or ""),
        )
