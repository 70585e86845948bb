"""What there is to move, found before a byte of it moves."""

from __future__ import annotations

from typing import NamedTuple, Sequence

from ..oci import Descriptor, Digest
from ..values import field, record
from .choices import TakenPlatform
from .manifests import Document
from .source import Source
from .tree import Tree


class Wanted(NamedTuple):
    """An image to be moved: what *reference*, a tag or a digest, names in *source*.

    *names* are what it is to be called at the target: tags in a registry, full
    references in an archive or a directory. A name that is the image's digest stores it
    without a name.
    """

    source: Source
    reference: str
    names: tuple[str, ...]


@record
class Found:
    """What there is to move for one image.

    *root* is what is moved of *whole*: all of it, or what is left for some platforms.
    *listed* are the referrers of each manifest of the image, where they are wanted.
    *stored* is what the target has of it, once it has.
    """

    wanted: Wanted
    whole: Document
    root: Document
    tree: Tree
    taken: TakenPlatform | None = None
    stored: Descriptor | None = None
    listed: dict[Digest, Sequence[Descriptor]] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """What it is to be called; its own digest where that of the whole was said."""
        whole, root = self.whole.descriptor.digest, self.root.descriptor.digest
        return [str(root) if name == whole else name for name in self.wanted.names]
