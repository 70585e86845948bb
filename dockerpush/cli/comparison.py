"""An archive compared with what a registry holds, byte by byte."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .connect import Connections

if TYPE_CHECKING:
    from ..archive import StoredImage
    from ..reference import Reference
    from ..transfer.verify import Verified


def compare(
    connections: Connections, image: StoredImage, reference: Reference
) -> Verified:
    """What was found to be equal; raises what `verify_image` does."""
    from ..transfer.verify import verify_image

    jobs = connections.settings(reference.registry).jobs
    named = str(reference.digest or reference.tag or "latest")
    with connections.target(reference) as target:
        found = verify_image(target, image, named, jobs=jobs)
    connections.session.end_progress()
    return found
