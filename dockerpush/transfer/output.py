"""Where images go that leave the registries: an archive or an OCI directory."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

from ..events import OnEvent
from ..system.cancellation import Cancellation
from .archive_target import ArchiveTarget, Output
from .loadable import ForDocker
from .target import DirectoryTarget, Target

DOCKER_ARCHIVE = "docker-archive"
OCI_ARCHIVE = "oci-archive"
OCI_DIRECTORY = "oci-dir"
FORMATS = (DOCKER_ARCHIVE, OCI_ARCHIVE, OCI_DIRECTORY)


@contextmanager
def open_output(
    output: Output,
    form: str,
    *,
    docker: ForDocker | None = None,
    no_clobber: bool = False,
    resumable: bool = True,
    cancellation: Cancellation,
    on_event: OnEvent,
) -> Iterator[Target]:
    """A target that writes *output* in one of FORMATS; a path for a directory.

    An archive is complete when the ``with`` ends well; another run resumes one that is
    *resumable*. *docker* says how a docker-archive gets its manifest.json. Raises what
    `ArchiveTarget` and `DirectoryTarget` do.
    """
    with cancellation.child() as child:
        if form == OCI_DIRECTORY:
            assert isinstance(output, Path), "a directory has a path"
            yield DirectoryTarget(output, child, on_event)
            return
        with ArchiveTarget(
            output,
            docker=docker if form == DOCKER_ARCHIVE else None,
            no_clobber=no_clobber,
            resumable=resumable,
            cancellation=child,
            on_event=on_event,
        ) as target:
            yield target
