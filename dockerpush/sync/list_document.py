"""Lists of images in JSON or YAML, each value with its line: our form, and skopeo's.

Ours::

    {"version": 1,
     "hosts": {"registry:5000": {"tls": "disabled"}},
     "defaults": {"platforms": ["linux/amd64"], "referrers": false,
                  "onExists": "compare", "parallel": 4},
     "sync": [
       {"source": "docker.io/library/busybox:1.36", "target": "registry:5000/busybox"},
       {"source": "alpine", "target": "registry:5000/alpine",
        "tags": {"allow": ["3\\\\.\\\\d+"], "deny": [".*-rc.*"], "newest": 5}}]}

``${NAME}`` in targets and hosts stands for a variable that the caller allows.
Null is an empty list or object. Pure.
"""

from __future__ import annotations

import re
from pathlib import Path as FilePath
from typing import Any, Iterator, Mapping, Sequence

from ..errors import InvalidJSON, InvalidReference
from ..expressions import expression
from ..oci import Platform, parse_json
from ..strict_json import glance
from ..values import replace
from .list_yaml import as_boolean, as_integer, is_null, is_yaml, parse_yaml
from .lists import (
    Defaults,
    Document,
    OnExists,
    Path,
    Problem,
    Since,
    SyncEntry,
    SyncList,
    SyncListError,
    TagRules,
    Test,
    checked,
    parse_listed_source,
    parse_range,
    tagged,
    target_of,
)

_IPV6 = expression(r"\[[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*\](:[0-9]+)?/")
_TOKEN = expression(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')


def may_be_json(text: str) -> bool:
    """True when *text* is no list of plain lines.

    ``[::1]:5000/app:1`` begins a line.
    """
    start = text.lstrip()[:64]
    return start[:1] == "{" or (start[:1] == "[" and not _IPV6.match(start))


def parse_json_list(text: str, name: str) -> Document:
    """The document *text*. Raises SyncListError, which calls it *name*."""
    try:
        return located(parse_json(text.encode(), name), text)
    except InvalidJSON as error:
        line = re.search(r"line (\d+)", str(error))
        problem = Problem(int(line[1]) if line else 1, str(error))
        raise SyncListError(name, [problem]) from error


def located(value: Any, text: str) -> Document:
    """*value* of the JSON document *text*, with its lines and the repeated keys."""
    document = Document(value, {(): 1}, [])
    path: list[Any] = []
    kinds: list[str] = []
    line, end = 1, 0
    for match in _TOKEN.finditer(text):
        line += text.count("\n", end, match.start())
        end, token = match.start(), match[0]
        if token in "}]":
            path.pop()
            kinds.pop()
        elif token == ",":
            path[-1] = path[-1] + 1 if kinds[-1] == "[" else None
        elif token != ":":
            if kinds and kinds[-1] == "{" and path[-1] is None:
                path[-1] = glance(token)
                _check_key(tuple(path), line, document)
            document.lines.setdefault(tuple(path), line)
            if token in "{[":
                path.append(0 if token == "[" else None)
                kinds.append(token)
    return document


def _check_key(path: Path, line: int, document: Document) -> None:
    """JSON itself would drop the first of two values without a word."""
    if path in document.lines:
        problem = Problem(line, f"{shown(path)}: this key is there twice")
        document.problems.append(problem)


def shown(path: Path) -> str:
    """*path* as messages have it: ``sync[0].tags``."""
    parts = (f"[{p}]" if isinstance(p, int) else f".{p}" for p in path)
    return "".join(parts).lstrip(".")


_NO_OBJECT = "wanted an object, as in {...}"
_TLS: Mapping[str, Mapping[str, object]] = {
    "enabled": {},
    "insecure": {"tls_verify": False},
    "disabled": {"plain_http": True},
}
_TOP = ("version", "hosts", "defaults", "sync")
_DEFAULTS = ("parallel", "platforms", "referrers", "onExists")
_ENTRY = ("source", "target", "tags", "platforms", "referrers", "onExists")
_TAGS = ("allow", "deny", "semver", "since", "newest")
_SKOPEO = (
    *("images", "images-by-tag-regex", "images-by-semver"),
    *("credentials", "tls-verify", "cert-dir"),
)


def is_document(text: str, name: str) -> bool:
    """True when the list *text* of the file *name* is no list of plain lines."""
    return may_be_json(text) or is_yaml(text, name)


def parse_document(
    text: str, name: str, defaults: Defaults, environ: Mapping[str, str]
) -> SyncList:
    """A list in our form or skopeo's, in JSON or YAML.

    *environ* has the variables that ``${NAME}`` may stand for, "" for one not set.
    Raises SyncListError, which calls it *name*; UsageError for YAML without PyYAML.
    """
    document = _decoded(text, name)
    reader = _Reader(document, environ)
    if isinstance(document.value, dict) and _is_skopeo(document.value):
        found = reader.skopeo(document.value, defaults)
    else:
        found = reader.ours(document.value, defaults)
    return checked(found, name, reader.problems, defaults)


def _decoded(text: str, name: str) -> Document:
    """JSON where it is that, whatever the file is called. Raises SyncListError."""
    yaml = is_yaml(text, name)
    if yaml and not may_be_json(text):
        return parse_yaml(text, name)
    try:
        return parse_json_list(text, name)
    except SyncListError:
        if not yaml:
            raise
    return parse_yaml(text, name)


def _is_skopeo(record: Mapping[str, Any]) -> bool:
    hosts = [value for value in record.values() if isinstance(value, dict)]
    keys = {key for host in hosts for key in host}
    return "sync" not in record and not keys.isdisjoint(_SKOPEO[:3])


class _Reader:
    """Reads on after a mistake, so that all of them are reported."""

    def __init__(self, document: Document, environ: Mapping[str, str]) -> None:
        self.problems = document.problems
        self._lines = document.lines
        self._environ = environ

    def ours(self, record: Any, defaults: Defaults) -> SyncList:
        """Our own form."""
        top = self._object(record, (), _TOP)
        if as_integer(top.get("version", 1)) != 1:
            self._wrong(("version",), "this dockerpush understands version 1")
        hosts = self._hosts(top.get("hosts", {}))
        common = self._object(top.get("defaults", {}), ("defaults",), _DEFAULTS)
        defaults = self._defaults(common, ("defaults",), defaults)
        parallel = self._number(common, ("defaults",), "parallel")
        entries = [
            entry
            for number, value in enumerate(self._list(top.get("sync"), ("sync",)))
            for entry in self._entry(value, ("sync", number), defaults)
        ]
        return SyncList(tuple(entries), hosts, parallel)

    def _hosts(self, value: Any) -> dict[str, Mapping[str, object]]:
        hosts: dict[str, Mapping[str, object]] = {}
        for name, entry in self._object(value, ("hosts",)).items():
            path = ("hosts", name)
            tls = self._object(entry, path, ("tls",)).get("tls", "enabled")
            if not isinstance(tls, str) or tls not in _TLS:
                self._wrong((*path, "tls"), f"wanted one of {', '.join(_TLS)}")
            hosts[self._expanded(name, path)] = _TLS.get(str(tls), {})
        return hosts

    def _defaults(
        self, record: Mapping[str, Any], path: Path, defaults: Defaults
    ) -> Defaults:
        """*defaults*, and what *record* says instead."""
        if "platforms" in record:
            texts = self._texts(record["platforms"], (*path, "platforms"))
            defaults = replace(defaults, platforms=self._platforms(texts, path))
        if "referrers" in record:
            referrers = self._boolean(record, path, "referrers")
            defaults = replace(defaults, referrers=referrers)
        if "onExists" in record:
            words = [one.value for one in OnExists]
            if record["onExists"] not in words:
                self._wrong((*path, "onExists"), f"wanted one of {', '.join(words)}")
            else:
                defaults = replace(defaults, on_exists=OnExists(record["onExists"]))
        return defaults

    def _platforms(self, texts: Sequence[str], path: Path) -> tuple[Platform, ...]:
        found = []
        for number, text in enumerate(texts):
            try:
                found.append(Platform.parse(text))
            except InvalidJSON as error:
                self._wrong((*path, "platforms", number), str(error))
        return tuple(found)

    def _entry(self, value: Any, path: Path, defaults: Defaults) -> Iterator[SyncEntry]:
        if not isinstance(value, dict):
            self._wrong(path, _NO_OBJECT)
            return
        record = self._object(value, path, _ENTRY)
        defaults = self._defaults(record, path, defaults)
        rules = self._rules(record, path) if "tags" in record else None
        text, target = record.get("source"), record.get("target")
        target = None if is_null(target) else target
        if not isinstance(text, str) or not isinstance(target, (str, type(None))):
            self._wrong(path, "wanted texts as its source and target")
            return
        try:
            source = parse_listed_source(text)
            if rules is not None and (source.tag or source.digest):
                raise InvalidReference(f"{text!r:.200}: a tag and rules for tags")
            source = tagged(source) if rules is None else source
            where = None if target is None else self._expanded(target, path)
            goal = target_of(source, where, defaults)
            if rules is not None and (goal.tag or goal.digest):
                raise InvalidReference(f"{target!r:.200}: many tags go to one")
        except InvalidReference as error:
            self._wrong(path, str(error))
            return
        yield self._made(path, source, goal, rules, defaults)

    def _made(
        self,
        path: Path,
        source: Any,
        target: Any,
        rules: TagRules | None,
        defaults: Defaults,
    ) -> SyncEntry:
        return SyncEntry(
            self._line(path),
            source,
            target,
            rules,
            defaults.platforms,
            defaults.referrers,
            defaults.on_exists,
        )

    def _rules(self, record: Mapping[str, Any], path: Path) -> TagRules:
        path = (*path, "tags")
        if is_null(record["tags"]):  # every tag, or none in particular?
            self._wrong(path, _NO_OBJECT)
        tags = self._object(record["tags"], path, _TAGS)
        newest = self._number(tags, path, "newest")
        allow, deny = (self._patterns(tags, path, key) for key in ("allow", "deny"))
        versions = self._versions(tags, path)
        return TagRules(allow, deny, newest, versions, self._since(tags, path))

    def _versions(self, tags: Mapping[str, Any], path: Path) -> Test | None:
        """What is in one of the ranges, a text or a list of texts."""
        path, given = (*path, "semver"), tags.get("semver")
        if is_null(given) or given == []:
            return None
        texts = self._texts(given if isinstance(given, list) else [given], path)
        try:
            return parse_range(" || ".join(texts)) if texts else None
        except InvalidJSON as error:
            self._wrong(path, str(error))
            return None

    def _since(self, tags: Mapping[str, Any], path: Path) -> Since | None:
        path = (*path, "since")
        text = None if is_null(tags.get("since")) else self._text(tags["since"], path)
        try:
            return Since.parse(text) if text else None
        except InvalidJSON as error:
            self._wrong(path, str(error))
            return None

    def _patterns(
        self, tags: Mapping[str, Any], path: Path, key: str
    ) -> tuple[re.Pattern[str], ...]:
        texts = self._texts(tags.get(key, []), (*path, key))
        found = [self._pattern(t, (*path, key, n)) for n, t in enumerate(texts)]
        return tuple(pattern for pattern in found if pattern is not None)

    def _pattern(self, text: str, path: Path) -> re.Pattern[str] | None:
        try:
            return re.compile(text)
        except (re.error, RecursionError, OverflowError) as error:
            self._wrong(path, f"not a regular expression: {text!r:.200}: {error}")
            return None

    def skopeo(self, record: Mapping[str, Any], defaults: Defaults) -> SyncList:
        """skopeo's form (skopeo-sync(1), YAML file content) as JSON."""
        entries: list[SyncEntry] = []
        hosts: dict[str, Mapping[str, object]] = {}
        for host, value in record.items():
            given = self._object(value, (host,), _SKOPEO)
            if given.get("credentials"):
                self._wrong(
                    (host, "credentials"),
                    f"no credentials in this file: dockerpush login {host} keeps them",
                )
            hosts[host] = self._skopeo_settings(given, (host,))
            for path, name, rule in self._skopeo_images(given, (host,)):
                entries += self._skopeo_entry(path, f"{host}/{name}", rule, defaults)
        return SyncList(tuple(entries), hosts)

    def _skopeo_settings(
        self, given: Mapping[str, Any], path: Path
    ) -> Mapping[str, object]:
        settings: dict[str, object] = {}
        if "tls-verify" in given:
            settings["tls_verify"] = self._boolean(given, path, "tls-verify")
        if "cert-dir" in given:
            text = self._text(given["cert-dir"], (*path, "cert-dir"))
            settings["cert_dir"] = FilePath(text)
        return settings

    def _skopeo_images(
        self, given: Mapping[str, Any], path: Path
    ) -> Iterator[tuple[Path, str, str | TagRules]]:
        """Where it stands, the repository, and a tag or a digest, or rules for tags."""
        where: Path = (*path, "images")
        for name, tags in self._object(given.get("images", {}), where).items():
            found = self._texts(tags, (*where, name))
            if not found:
                yield (*where, name), name, TagRules()
            for number, tag in enumerate(found):
                yield (*where, name, number), name, tag
        where = (*path, "images-by-tag-regex")
        for name, text in self._named_texts(given, where):
            pattern = self._pattern(f".*(?:{text}).*", (*where, name))
            if pattern is not None:
                yield (*where, name), name, TagRules((pattern,))
        where = (*path, "images-by-semver")
        for name, text in self._named_texts(given, where):
            try:
                yield (*where, name), name, TagRules(versions=parse_range(text))
            except InvalidJSON as error:
                self._wrong((*where, name), str(error))

    def _named_texts(
        self, given: Mapping[str, Any], path: Path
    ) -> Iterator[tuple[str, str]]:
        for name, value in self._object(given.get(path[-1], {}), path).items():
            text = self._text(value, (*path, name))
            if text:
                yield name, text

    def _skopeo_entry(
        self, path: Path, name: str, rule: str | TagRules, defaults: Defaults
    ) -> Iterator[SyncEntry]:
        rules = rule if isinstance(rule, TagRules) else None
        try:
            source = parse_listed_source(name)
            if isinstance(rule, str):
                joint = "@" if ":" in rule and "@" not in rule else ":"
                source = parse_listed_source(f"{source.name}{joint}{rule}")
            yield self._made(
                path, source, target_of(source, None, defaults), rules, defaults
            )
        except InvalidReference as error:
            self._wrong(path, str(error))

    def _expanded(self, text: str, path: Path) -> str:
        """*text* with the environment's values in it."""

        def value(match: re.Match[str]) -> str:
            name = match[1]
            if name not in self._environ:
                self._wrong(path, f"${{{name}}} needs --env {name} on the command line")
            elif not self._environ[name]:
                self._wrong(path, f"${{{name}}} is not set")
            return self._environ.get(name, "")

        return re.sub(r"\$\{(\w+)\}", value, text)

    def _object(
        self, value: Any, path: Path, known: Sequence[str] | None = None
    ) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            if not is_null(value):
                self._wrong(path, _NO_OBJECT)
            return {}
        for key in value:
            if known is not None and key not in known:
                self._wrong((*path, key), f"unknown key; known: {', '.join(known)}")
        return value

    def _list(self, value: Any, path: Path) -> list[Any]:
        if isinstance(value, list):
            return value
        if not is_null(value):
            self._wrong(path, "wanted a list, as in [...]")
        return []

    def _texts(self, value: Any, path: Path) -> list[str]:
        texts = enumerate(self._list(value, path))
        found = [self._text(text, (*path, number)) for number, text in texts]
        return [text for text in found if text]

    def _text(self, value: Any, path: Path) -> str:
        """*value*; "" for what is none, or empty."""
        if isinstance(value, str) and value and not is_null(value):
            return value
        self._wrong(path, "wanted a text")
        return ""

    def _boolean(self, record: Mapping[str, Any], path: Path, key: str) -> bool:
        value = as_boolean(record[key])
        if value is None:
            self._wrong((*path, key), "wanted true or false")
        return value is True

    def _number(self, record: Mapping[str, Any], path: Path, key: str) -> int | None:
        if is_null(record.get(key)):
            return None
        value = as_integer(record[key])
        if value is None or not 0 < value <= 10_000:
            self._wrong((*path, key), "wanted a whole number above 0")
        return value

    def _wrong(self, path: Path, text: str) -> None:
        told = f"{shown(path)}: {text}" if path else text
        self.problems.append(Problem(self._line(path), told))

    def _line(self, path: Path) -> int:
        while path not in self._lines:
            path = path[:-1]
        return self._lines[path]
