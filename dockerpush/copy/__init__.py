"""From a registry, an archive or an OCI directory into another one of these.

Blobs stream from the source into the target, without a disk in between.
"""

from .image import copy_image
from .model import CopyOptions, CopyResult
from .sources import ArchiveSource, RegistrySource, Source
from .targets import DirectoryTarget, RegistryTarget, Target

__all__ = [
    "ArchiveSource",
    "CopyOptions",
    "CopyResult",
    "DirectoryTarget",
    "RegistrySource",
    "RegistryTarget",
    "Source",
    "Target",
    "copy_image",
]
