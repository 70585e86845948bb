"""From a registry, an archive or an OCI directory into another one of these.

Blobs stream from the source into the target, without a disk in between.
"""

from .engine import Wanted, copy_image, transfer
from .model import CopyOptions, CopyResult, PulledImage
from .sources import ArchiveSource, RegistrySource, Source
from .targets import DirectoryTarget, RegistryTarget, Target

__all__ = [
    "ArchiveSource",
    "CopyOptions",
    "CopyResult",
    "DirectoryTarget",
    "PulledImage",
    "RegistrySource",
    "RegistryTarget",
    "Source",
    "Target",
    "Wanted",
    "copy_image",
    "transfer",
]
