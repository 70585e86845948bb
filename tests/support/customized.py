"""A command whose Python runs some lines of a test first, to set its constants."""

from __future__ import annotations

from pathlib import Path


def with_customized_python(directory: Path, code: str) -> dict[str, str]:
    """An environment in which Python runs *code* before the command."""
    place = directory / "customized"
    place.mkdir(exist_ok=True)
    (place / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": str(place)}
