"""What a push of one image and a push of a joined index have in common."""

from __future__ import annotations

import time
from argparse import Namespace
from typing import TYPE_CHECKING

from .connect import Connections
from .options import chosen_platforms

if TYPE_CHECKING:
    from ..reference import Reference
    from ..settings.config import Settings
    from ..transfer.push_options import PushOptions


def remember(target: Reference, connections: Connections, args: Namespace) -> None:
    """Have later pushes know *target*; none of several is the last one pushed to."""
    from ..state.history import PushHistory

    history = PushHistory(connections.state)
    if len(args.targets) > 1:
        history.confirm(target, time.time())
    else:
        history.record(target, time.time())


def options_of(args: Namespace, settings: Settings) -> PushOptions:
    """How to push, as *args* and *settings* say."""
    from ..transfer.push_options import PushOptions

    return PushOptions(
        compress=settings.compress,
        compress_level=settings.compress_level,
        jobs=settings.jobs,
        platforms=chosen_platforms(args.platform),
        strict=args.strict,
        trust_target=args.trust_target,
    )
