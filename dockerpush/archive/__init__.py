"""What is on disk: tar files and directories that hold images."""

from __future__ import annotations

from .opened import Archive, open_archive
from .select import describe, select_image
from .stored import StoredImage

__all__ = ["Archive", "StoredImage", "describe", "open_archive", "select_image"]
