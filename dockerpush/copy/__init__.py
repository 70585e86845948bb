"""From a registry into another, without a disk in between."""

from .image import copy_image
from .model import CopyOptions, CopyResult, CopySource

__all__ = ["CopyOptions", "CopyResult", "CopySource", "copy_image"]
