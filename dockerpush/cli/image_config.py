"""What an image's config says of how a container runs, for ``inspect``."""

from __future__ import annotations

import json
from typing import Any, Iterator

_FIELDS = {
    "env": ("Env", list),
    "entrypoint": ("Entrypoint", list),
    "cmd": ("Cmd", list),
    "user": ("User", str),
    "workingDir": ("WorkingDir", str),
    "exposedPorts": ("ExposedPorts", dict),
    "labels": ("Labels", dict),
}
"""Our name of a field → the config's name and the type that it must have."""


def runtime_settings(config: Any) -> dict[str, Any]:
    """The fields of *config*, a config as parsed, by our names; empty where absent."""
    known = _object(_object(config).get("config"))
    found: dict[str, Any] = {}
    for name, (theirs, kind) in _FIELDS.items():
        found[name] = _of_type(kind, known.get(theirs))
    found["exposedPorts"] = sorted(found["exposedPorts"])
    return found


def _object(found: Any) -> dict[str, Any]:
    return found if isinstance(found, dict) else {}


def _of_type(kind: type, found: Any) -> Any:
    return found if isinstance(found, kind) else kind()


def settings_rows(record: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The settings in *record*, for people; what is empty is left out."""
    for name in ("entrypoint", "cmd"):
        if record[name]:
            yield f"  {name}", json.dumps(record[name])
    if record["user"]:
        yield "  user", record["user"]
    if record["workingDir"]:
        yield "  directory", record["workingDir"]
    for name, values in (("env", "env"), ("port", "exposedPorts")):
        yield from ((f"  {name}", str(value)) for value in record[values])
    yield from (("  label", f"{k}={v}") for k, v in record["labels"].items())
