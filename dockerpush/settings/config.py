"""The settings in force, and where each came from.

A value is, in this order: the flag of this run, the environment variable, the entry of
the registry in ``config.json``, the defaults in that file, the built-in default. The
file never holds a secret, and looks like this::

    {"version": 1,
     "defaults": {"jobs": 5, "limit_rate": "10M"},
     "registries": {"reg.example.com:5000": {"cacert": "ca.pem", "jobs": 2}}}
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Iterable, Mapping

from ..errors import InvalidJSON, InvalidReference, NotFound, UsageError, reason_of
from ..expressions import expression
from ..oci import JSON_LIMIT, parse_json
from ..reference import Place
from ..values import field, value
from .keys import DIRECTORY, KEYS, KEYS_BY_NAME, PATH, PROXY, Key

CONFIG_FILE = "config.json"
BUILT_IN = "built in"

_SECRET = expression(r"passw(or)?d|secret|token|^auths?$|credentials?$")
_SECTIONS = ("version", "defaults", "registries")
_JSON_NAMES: Mapping[type, str] = {
    dict: "an object",
    list: "an array",
    str: "a text",
    int: "a number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}


@value
class Settings:
    """The values in force, by the names of `KEYS`; *sources* says where each is from.

    Times are seconds, sizes bytes, rates bytes a second; None: nothing was set.
    """

    plain_http: bool
    tls_verify: bool
    cacert: Path | None
    cert: Path | None
    key: Path | None
    cert_dir: Path | None
    proxy: str | None = field(repr=False)
    no_proxy: str | None
    allow_private_redirects: bool
    blob_chunk: int
    jobs: int
    limit_rate: int | None
    min_rate: int
    timeout: float
    retry_times: int
    retry_delay: float
    patience: float
    compress: str
    compress_level: int | None
    chunk_delay: float
    layer_delay: float
    authfile: Path | None
    sources: Mapping[str, str]

    def rows(self) -> list[tuple[str, str, str]]:
        """Name, value and source of every setting, fit to be shown to anybody."""
        return [
            (key.name, key.shown(getattr(self, key.name)), self.sources[key.name])
            for key in KEYS
        ]


@value
class Config:
    """A ``config.json`` that was read and checked; the values are parsed."""

    path: Path
    defaults: Mapping[str, Any] = field(default_factory=dict)
    registries: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def find(cls, named: Path | None, state_directory: Path) -> Config:
        """The file *named* by the user; else that of the state directory, if any.

        Raises UsageError, which names the place in the file, and NotFound for a named
        file that does not exist.
        """
        path = named or state_directory / CONFIG_FILE
        try:
            with path.open("rb") as file:
                raw = file.read(JSON_LIMIT + 1)
        except (FileNotFoundError, NotADirectoryError) as error:
            if named is None:
                return cls(path)
            raise NotFound(f"{path}: no such configuration file") from error
        except OSError as error:
            raise UsageError(f"{path}: cannot be read: {reason_of(error)}") from error
        return cls.parse(raw, path)

    @classmethod
    def parse(cls, raw: bytes, path: Path) -> Config:
        """What *raw*, the content of the file *path*, says. Raises UsageError."""
        try:
            record = _object(parse_json(raw, str(path)), str(path))
        except InvalidJSON as error:
            raise UsageError(str(error)) from error
        for name in record:
            if name not in _SECTIONS:
                raise _unknown(name, _SECTIONS, f"{path}: {name!r:.80}")
        if record.get("version", 1) != 1:
            raise UsageError(f"{path}: version: this dockerpush understands version 1")
        entries = _object(record.get("registries", {}), f"{path}: registries")
        return cls(
            path,
            _values(record.get("defaults", {}), path, "defaults"),
            {
                _registry(name, path): _values(entry, path, _entry(name))
                for name, entry in entries.items()
            },
        )


def resolve(
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    config: Config,
    registry: str | None = None,
) -> Settings:
    """The settings for *registry* (``host[:port]``), None: for no one in particular.

    *flags* are by the names of `KEYS`, as texts or parsed; None and absent: not given.
    An empty environment variable counts as absent. Raises UsageError, which names the
    flag or the variable.
    """
    entry = config.registries.get(registry or "", {})
    values, sources = {}, {}
    for key in KEYS:
        name = key.name
        if flags.get(name) is not None:
            value, source = flags[name], key.flag or name
            value = _parsed(key, value, source) if isinstance(value, str) else value
        elif environ.get(key.variable):
            source = key.variable
            value = _parsed(key, environ[source], source)
        elif name in entry:
            value, source = entry[name], f"{config.path}: {_entry(registry)}"
        elif name in config.defaults:
            value, source = config.defaults[name], f"{config.path}: defaults"
        else:
            value, source = key.default, BUILT_IN
        values[name], sources[name] = value, source
    return Settings(**values, sources=sources)


def _parsed(key: Key, text: str, where: str) -> Any:
    try:
        return key.kind.parse(text)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"{where}: wanted an object, as in {{...}}")
    return value


def _entry(registry: str | None) -> str:
    return f"registries[{registry!r:.80}]"


def _registry(name: str, path: Path) -> str:
    try:
        place = Place.parse(name)
    except InvalidReference as error:
        raise UsageError(f"{path}: registries: {error}") from error
    if place.prefix:
        raise UsageError(
            f"{path}: registries: {name!r} is more than a registry, wanted HOST[:PORT]"
        )
    return place.registry


def _values(section: Any, path: Path, place: str) -> Mapping[str, Any]:
    where = f"{path}: {place}"
    return {
        name: _value(name, value, path.parent, f"{where}: {name!r:.80}")
        for name, value in _object(section, where).items()
    }


def _value(name: str, value: Any, directory: Path, where: str) -> Any:
    """*value* of the file, parsed; a path is meant from the file's *directory*."""
    key = KEYS_BY_NAME.get(name)
    if key is None:
        raise _unknown(name, KEYS_BY_NAME, where)
    if type(value) not in key.kind.json:
        wanted = " or ".join(dict.fromkeys(_JSON_NAMES[kind] for kind in key.kind.json))
        raise UsageError(f"{where}: wanted {wanted}, got {_JSON_NAMES[type(value)]}")
    if key.kind is PROXY and "@" in value:
        raise UsageError(
            f"{where}: no user or password in this file: set {key.variable} instead"
        )
    text = str(value).lower() if isinstance(value, bool) else str(value)
    parsed = _parsed(key, text, where)
    is_path = key.kind in (PATH, DIRECTORY)
    return directory / _expanded(parsed, where) if is_path else parsed


def _expanded(path: Path, where: str) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise UsageError(f"{where}: no home directory for {str(path)!r}") from error


def _unknown(name: str, known: Iterable[str], where: str) -> UsageError:
    if _SECRET.search(name.lower()):
        return UsageError(
            f"{where}: never keep a secret in this file: use `dockerpush login`, or a "
            "credentials file by the key authfile"
        )
    import difflib  # for mistakes only

    close = difflib.get_close_matches(name.lower(), list(known), 1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
    return UsageError(f"{where}: unknown key: {hint}")
