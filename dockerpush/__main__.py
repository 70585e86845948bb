"""``python -m dockerpush``."""

from __future__ import annotations

import gc
import sys

from . import __version__


def main() -> int:
    """Run the command that ``sys.argv`` asks for; the exit code.

    The version alone is told without loading what reads arguments.
    """
    if sys.argv[1:] in (["--version"], ["-V"], ["version"]):
        sys.stdout.write(f"dockerpush {__version__}\n")
        return 0
    gc.disable()  # until the command runs: what is loaded by then is no garbage
    try:
        from .cli.main import main as run

        return run()
    except KeyboardInterrupt:  # before the command has its own handler, or after
        return _interrupted()
    finally:
        gc.freeze()  # the end of a process frees all; looking for cycles takes 20 ms


def _interrupted() -> int:
    """End by the signal itself, as a shell expects; 130 where that cannot be."""
    import os
    import signal

    sys.stderr.write("error: interrupted\n")
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)
    return 130


if __name__ == "__main__":
    sys.exit(main())
