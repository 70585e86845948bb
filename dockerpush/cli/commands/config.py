"""``config [REGISTRY]``: the settings in force, and where each came from."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import console, location
from ..endpoints import Connections
from ..options import USED, add_connection_options, add_transfer_options
from ..side_options import endpoint

if TYPE_CHECKING:
    from ...settings.config import Settings
    from ..session import Session


def configure(parser: ArgumentParser) -> None:
    """Add the arguments of ``config``."""
    parser.add_argument(
        "registry",
        metavar="REGISTRY",
        nargs="?",
        help="show what is in force for this registry",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_transfer_options(parser, USED["config"])
    add_connection_options(parser)


def run(args: Namespace, session: Session) -> int:
    """Show every setting; options given here count as they would for a push."""
    registry = location.place(args.registry).registry if args.registry else None
    with Connections(endpoint(args), session) as connections:
        settings = connections.settings(registry)
        if args.json:
            console.json_result(_record(settings, registry, connections))
            return console.DONE
        console.table([("SETTING", "VALUE", "FROM"), *settings.rows()])
        if not args.quiet:
            console.say(f"configuration file: {_state_of(connections.config.path)}")
            console.say(f"state directory: {_state_of(connections.state.path)}")
    return console.DONE


def _record(
    settings: Settings, registry: str | None, connections: Connections
) -> dict[str, Any]:
    return {
        "registry": registry,
        "config_file": str(connections.config.path),
        "state_directory": str(connections.state.path),
        "settings": {
            name: {"value": _plain(getattr(settings, name), shown), "source": source}
            for name, shown, source in settings.rows()
        },
    }


def _plain(value: Any, shown: str) -> Any:
    """*value* as JSON has it; a text as it may be *shown*."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return shown


def _state_of(path: Path) -> str:
    return f"{path}" if path.exists() else f"{path} (does not exist)"
