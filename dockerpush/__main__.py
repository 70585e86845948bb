"""``python -m dockerpush``.

``-m`` has Python look for modules in the current directory first, so what is imported
here, and in ``__init__``, is built in or was loaded by Python before.
"""

import gc
import os
import sys

from . import __version__


def leave_current_directory() -> None:
    """Import nothing from there, unless dockerpush itself is what lies there."""
    is_safe = sys.flags.isolated or getattr(sys.flags, "safe_path", False)
    try:
        here = os.getcwd()
    except FileNotFoundError:
        here = ""
    home = os.path.dirname(os.path.dirname(__file__))
    if not is_safe and sys.path[:1] in ([here], [""]) and here != home:
        del sys.path[0]


def main() -> int:
    """Run the command that ``sys.argv`` asks for; the exit code.

    The version alone is printed without loading what reads arguments.
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
    leave_current_directory()
    sys.exit(main())
