"""JSON with one meaning: what two readers could read differently is refused.

Go, in which most other tools are written, takes "Layers" for "layers" and the last of
two equal keys; Python reads NaN, UTF-16 and a byte order mark. The next tool would see
another image than we do. No other module decodes JSON.
"""

from __future__ import annotations

import json
import math
from typing import Any, Iterator, Mapping

from .errors import InvalidJSON

BYTE_ORDER_MARK = "\ufeff"

DIGIT_LIMIT = 4300
"""Digits of a number, as in newer Pythons: older ones take minutes for a million."""

Shape = Mapping[str, Any]
"""The fields of an object, each with its own shape: None for what is free, a tuple of
one for a list. The shape under "*" is that of all other fields."""

ANY: Shape = {}
"""An object of any keys, none of them twice."""

_PLATFORM: Shape = dict.fromkeys(
    ("architecture", "os", "os.version", "os.features", "variant", "features")
)
DESCRIPTOR: Shape = {
    **dict.fromkeys(("mediaType", "digest", "size", "urls", "annotations", "data")),
    "artifactType": None,
    "platform": _PLATFORM,
}
DOCUMENT: Shape = {
    **dict.fromkeys(("schemaVersion", "mediaType", "artifactType", "annotations")),
    **dict.fromkeys(("config", "subject"), DESCRIPTOR),
    **dict.fromkeys(("layers", "manifests", "blobs"), (DESCRIPTOR,)),
}
"""A manifest, an index or an artifact (image-spec, manifest.md, image-index.md)."""

_RUN: Shape = {
    **dict.fromkeys(("User", "ExposedPorts", "Env", "Entrypoint", "Cmd", "Volumes")),
    **dict.fromkeys(("WorkingDir", "Labels", "StopSignal", "ArgsEscaped", "Shell")),
    **dict.fromkeys(("Memory", "MemorySwap", "CpuShares", "OnBuild", "StopTimeout")),
    **dict.fromkeys(("Hostname", "Domainname", "Image", "Tty", "OpenStdin")),
    "Healthcheck": dict.fromkeys(
        ("Test", "Interval", "Timeout", "StartPeriod", "StartInterval", "Retries")
    ),
}
CONFIG: Shape = {
    **_PLATFORM,
    **dict.fromkeys(("created", "author")),
    "config": _RUN,
    "rootfs": dict.fromkeys(("type", "diff_ids")),
    "history": (
        dict.fromkeys(("created", "author", "created_by", "comment", "empty_layer")),
    ),
}
"""The config of an image (image-spec, config.md), and what docker has beside it."""

SAVED_IMAGE: Shape = {
    **dict.fromkeys(("Config", "RepoTags", "Layers", "Parent")),
    "LayerSources": {"*": DESCRIPTOR},
}
"""An entry of the manifest.json that docker save writes."""


def decode(raw: bytes, what: str, shape: Shape | None) -> Any:
    """*raw* decoded. Raises InvalidJSON, which names *what*.

    It comes from outside and has this *shape*: UTF-8 without a byte order mark, each
    key once, and none that is a field of the shape but for its case. Without a shape
    it is a file of this machine, which has a mark where an editor writes one.
    """
    try:
        if shape is None:
            return _OWN.decode(raw.decode("utf-8").lstrip(BYTE_ORDER_MARK))
        found = _FOREIGN.decode(_text(raw))
    except InvalidJSON as error:
        raise InvalidJSON(f"{what}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidJSON(f"{what}: not JSON: {str(error)[:120]}") from error
    check_keys(found, shape, what)
    return found


def check_keys(found: Any, shape: Any, what: str) -> None:
    """Raises InvalidJSON for a key that some readers take for a field of *shape*."""
    if isinstance(shape, tuple):
        for item in found if isinstance(found, list) else ():
            check_keys(item, shape[0], what)
    elif shape and isinstance(found, dict):
        _check_case(found.keys() - shape.keys(), shape, what)
        for key in found.keys() if "*" in shape else found.keys() & shape.keys():
            check_keys(found[key], shape.get(key, shape.get("*")), what)


def _check_case(keys: set[str], shape: Shape, what: str) -> None:
    fields = {field.casefold(): field for field in shape} if keys else {}
    for key in keys:
        field = fields.get(key.casefold())  # also of "layerſ", as in Go
        if field:
            raise InvalidJSON(
                f"{what}: it has the key {key!r} in place of {field!r}, which tools "
                "read differently; have it written again"
            )


def glance(raw: bytes | str) -> Any:
    """*raw* decoded as far as any reader may: what is only looked at, or shown.

    Raises ValueError or RecursionError.
    """
    return json.loads(raw, parse_int=_integer)


def values_in(text: str, what: str) -> Iterator[Any]:
    """The values one after the other in *text*. Raises InvalidJSON, naming *what*."""
    position = _after_space(text, 0)
    while position < len(text):
        try:
            found, position = _OWN.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            line = text[position : position + 80].splitlines()[0]
            raise InvalidJSON(f"{what}: not JSON: {line!r}") from error
        yield found
        position = _after_space(text, position)


def _after_space(text: str, position: int) -> int:
    while position < len(text) and text[position].isspace():
        position += 1
    return position


def _text(raw: bytes) -> str:
    text = raw.decode("utf-8")
    if text.startswith(BYTE_ORDER_MARK):
        raise InvalidJSON("it begins with a byte order mark, which JSON does not have")
    return text


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) == len(pairs):
        return record
    keys = [key for key, _ in pairs]
    twice = next(key for key in keys if keys.count(key) > 1)
    raise InvalidJSON(f"it has the key {twice!r:.80} twice")


def _constant(text: str) -> Any:
    raise InvalidJSON(f"it has {text}, which is no number in JSON")


def _integer(text: str) -> int:
    if len(text) > DIGIT_LIMIT:
        raise InvalidJSON(f"it has a number of {len(text)} digits")
    return int(text)


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise InvalidJSON(f"it has the number {text:.40}, which is too large")
    return number


_OWN = json.JSONDecoder(
    parse_constant=_constant, parse_int=_integer, parse_float=_float
)
_FOREIGN = json.JSONDecoder(
    object_pairs_hook=_once,
    parse_constant=_constant,
    parse_int=_integer,
    parse_float=_float,
)
