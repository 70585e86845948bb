"""Which settings there are: one list, from which flags, variables and README follow."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Callable, Mapping

from ..errors import UsageError
from ..expressions import expression
from ..values import value
from .quantities import (
    format_duration,
    format_size,
    parse_duration,
    parse_least_rate,
    parse_rate,
    parse_size,
)

LEAST_CHUNK = 64 * 1024
"""Smaller chunks are more requests than bytes; registries refuse them."""

_OWN = "DOCKERPUSH_"
_TRUE = frozenset({"true", "yes", "on", "1"})
_FALSE = frozenset({"false", "no", "off", "0"})
_CREDENTIALS = expression(r"^((?:[a-z]+://)?).*@", re.IGNORECASE | re.DOTALL)


@value
class ValueKind:
    """A type of value. *parse* reads it from a text, and raises UsageError.

    *json* are the types that it may have in a JSON file, *show* writes it for people.
    *metavar* stands for the value in help, *choices* are all values that there are.
    """

    parse: Callable[[str], Any]
    json: tuple[type, ...] = (str,)
    show: Callable[[Any], str] = str
    metavar: str = "TEXT"
    choices: tuple[str, ...] = ()


@value
class Key:
    """One setting; *flag* is the long flag, None where there is none."""

    name: str
    kind: ValueKind
    default: Any
    help: str
    flag: str | None

    @property
    def variable(self) -> str:
        """The environment variable."""
        return _OWN + self.name.upper()

    def shown(self, value: Any) -> str:
        """*value* as it may be shown to anybody: "" for None, no credentials."""
        return "" if value is None else self.kind.show(value)


def parse_boolean(text: str) -> bool:
    """From ``true`` or ``false``, and what else means these. Raises UsageError."""
    word = text.strip().lower()
    if word not in _TRUE | _FALSE:
        raise UsageError(f"neither true nor false: {text!r:.80}")
    return word in _TRUE


def is_switched_on(text: str | None) -> bool:
    """What a switch of the environment says: on, but for nothing and words for false.

    For variables that people set to anything at all, such as ``OCI_DEBUG=please``.
    """
    return (text or "").strip().lower() not in _FALSE | {""}


def is_own_variable(name: str) -> bool:
    """True for a variable of ours: a setting, and some of them are secrets."""
    return name.upper().startswith(_OWN)


def without_own(environ: Mapping[str, str]) -> dict[str, str]:
    """*environ* as others may see it."""
    return {k: v for k, v in environ.items() if not is_own_variable(k)}


def parse_path(text: str) -> Path:
    """A path, not empty. Raises UsageError."""
    if not text or "\0" in text:
        raise UsageError(f"not a path: {text!r:.80}")
    return Path(text)


def parse_timeout(text: str) -> float:
    """Seconds above 0, in the forms of `parse_duration`. Raises UsageError."""
    seconds = parse_duration(text)
    if not seconds:
        raise UsageError(f"wanted a time above 0: {text!r:.80}")
    return seconds


def parse_chunk(text: str) -> int:
    """Bytes of a chunk, at least `LEAST_CHUNK`. Raises UsageError."""
    size = parse_size(text)
    if size < LEAST_CHUNK:
        raise UsageError(
            f"a chunk has at least {format_size(LEAST_CHUNK)}: {text!r:.80}"
        )
    return size


def counts(least: int, most: int) -> ValueKind:
    """Whole numbers from *least* to *most*."""

    def parse(text: str) -> int:
        word = text.strip()
        if re.fullmatch("[0-9]{1,9}", word) and least <= int(word) <= most:
            return int(word)
        raise UsageError(f"not a whole number from {least} to {most}: {text!r:.80}")

    return ValueKind(parse, (int,), metavar="N")


def choices(*words: str) -> ValueKind:
    """One of *words*."""

    def parse(text: str) -> str:
        if text not in words:
            raise UsageError(f"not one of {', '.join(words)}: {text!r:.80}")
        return text

    return ValueKind(parse, metavar="{" + ",".join(words) + "}", choices=words)


_QUANTITY = (str, int, float)

HOSTS = ValueKind(str, metavar="HOSTS")
PATH = ValueKind(parse_path, metavar="FILE")
DIRECTORY = ValueKind(parse_path, metavar="DIR")
BOOLEAN = ValueKind(
    parse_boolean, (bool,), lambda value: str(value).lower(), metavar="{true,false}"
)
SIZE = ValueKind(parse_size, _QUANTITY, format_size, "SIZE")
CHUNK = ValueKind(parse_chunk, _QUANTITY, format_size, "SIZE")
RATE = ValueKind(parse_rate, _QUANTITY, format_size, "RATE")
LEAST_RATE = ValueKind(parse_least_rate, _QUANTITY, format_size, "RATE")
DELAY = ValueKind(parse_duration, _QUANTITY, format_duration, "TIME")
TIMEOUT = ValueKind(parse_timeout, _QUANTITY, format_duration, "TIME")
PROXY = ValueKind(
    str, show=lambda value: _CREDENTIALS.sub(r"\1***@", value), metavar="URL"
)


def flag(name: str) -> str:
    """The option that sets *name*."""
    return f"--{name}".replace("_", "-")


def _key(name: str, kind: ValueKind, help: str, *, default: Any = None) -> Key:
    return Key(name, kind, default, help, flag(name))


KEYS: tuple[Key, ...] = (
    _key("plain_http", BOOLEAN, "use HTTP without TLS", default=False),
    _key("tls_verify", BOOLEAN, "check the server's certificate", default=True),
    _key("cacert", PATH, "trust the CAs in this PEM file in addition to the system's"),
    _key("cert", PATH, "PEM file with the client's certificate"),
    _key("key", PATH, "PEM file with the client's key, unless --cert holds it"),
    _key(
        *("cert_dir", DIRECTORY, "directory of certificates, as certs.d/HOST has them"),
    ),
    _key("proxy", PROXY, "proxy for every request: http://HOST:PORT"),
    _key("no_proxy", HOSTS, "hosts that need no proxy, as in NO_PROXY"),
    _key(
        *("allow_private_redirects", BOOLEAN),
        help="follow a registry to storage or token servers at private addresses",
        default=False,
    ),
    _key("blob_chunk", CHUNK, "size of one chunk of a large blob", default=50 * 2**20),
    _key("jobs", counts(1, 64), "large blobs at a time", default=3),
    _key("limit_rate", RATE, "most bytes a second, sent and received together"),
    _key(
        *("min_rate", LEAST_RATE),
        help="end a transfer of fewer bytes a second for 5 minutes",
        default=100,
    ),
    _key("timeout", TIMEOUT, "time without progress that ends a request", default=60.0),
    _key("retry_times", counts(0, 100), "retries after a temporary failure", default=3),
    _key("retry_delay", DELAY, "pause before the first retry", default=1.0),
    _key(
        *("patience", DELAY),
        help="time that a registry may be down in the middle of a run",
        default=60.0,
    ),
    _key(
        "compress",
        choices("auto", "gzip", "zstd", "none"),
        "how to compress raw layers",
        default="auto",
    ),
    _key("compress_level", counts(0, 22), "level of the compressor (default: its own)"),
    Key("chunk_delay", DELAY, 0.0, "pause between two chunks of a blob", None),
    Key("layer_delay", DELAY, 0.0, "pause after each blob that was sent", None),
    _key("authfile", PATH, "credentials file to read instead of all others"),
)

KEYS_BY_NAME: Mapping[str, Key] = {key.name: key for key in KEYS}

RECEIVING = ("jobs", "limit_rate")
SENDING = ("blob_chunk", *RECEIVING)
PUSHING = (*SENDING, "compress", "compress_level")
"""The settings that are about moving bytes; what receives or copies uses some."""
