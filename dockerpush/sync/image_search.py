"""The images that a deployment needs, found in the texts that describe it. Pure.

Kubernetes manifests, the output of Helm, Kustomize and Compose files are YAML, which
PyYAML reads where it is installed, and rules of our own elsewhere. Anything else is a
plain text. An image that stands where only images stand, and cannot be read, is a
problem: whoever carries the others has to know. Elsewhere a text counts as an image
only when it is a whole one, with a tag, a digest or a registry.
"""

from __future__ import annotations

import re
from typing import Any, Callable, Iterator, Mapping, NamedTuple

from ..errors import InvalidJSON, InvalidReference
from ..expressions import expression
from ..oci import VALUE_LIMIT
from ..reference import Reference, has_registry, looks_like_file
from ..values import field, record
from .list_document import may_be_json
from .lists import Problem, tagged
from .yaml_lines import (
    ALIAS,
    COMMENT,
    DEEPEST,
    DOCUMENT,
    END,
    MAPPING,
    SCALAR,
    SEQUENCE,
    Event,
    read_events,
    split_key,
)


class FoundImage(NamedTuple):
    """An *image*, with a tag or a digest, and the line that it stands in."""

    image: Reference
    line: int


class Findings(NamedTuple):
    """What there is in one text, in its order; *problems* are what was skipped."""

    images: list[FoundImage]
    problems: list[Problem]


_YAML_ENDINGS = (".yaml", ".yml", ".json")
_TEXT_ENDINGS = (".txt", ".list", ".lst", ".md")
_NULLS = ("", "~", "null", "Null", "NULL")
_NO_IMAGES = (*_NULLS, "true", "false")
_PARTS = ("registry", "repository", "tag", "digest", "version", "reference", "name")
_KEPT = frozenset((*_PARTS, "value", "newName", "newTag"))
_NOT_OF_CONTAINERS = ("rbd",)
"""Keys whose ``image`` is something else: a volume of Ceph."""

_LONGEST = 4096
"""Characters of a text that may be an image."""

_FLAG = expression(r"--?[\w.-]*image[\w.-]*=(\S+)", re.I)
_HEX = expression(r"[0-9a-f]{64}")
_TEMPLATE = expression(r"\{\{|<no value>|\$\(")
_VARIABLE = expression(r"\$(?:\$|(\w+)|\{(\w+)(?:(:?[-?+])([^${}]*))?\})")
_BETWEEN_WORDS = expression(r"[\s\"'`,;|()<>\[\]{}=]+")
_BULLET = expression(r"^\s*[-*+]\s+")


def find_images(
    text: str,
    name: str,
    variables: Mapping[str, str],
    *,
    plain: bool = False,
    check: Callable[[], object] = lambda: None,
) -> Findings:
    """The images in *text*, which came from a file called *name*.

    *plain* says that it is no YAML. *variables* stand for ``${NAME}``, as in Compose
    files. *check* is called on the way, and may raise. Raises InvalidJSON for what is
    meant as YAML and is none.
    """
    search = _Search(variables, check)
    if plain or not is_yaml_text(text, name):
        search.read_plain(text)
    else:
        search.read_yaml(text, name)
    return Findings(search.images, search.problems)


def is_yaml_text(text: str, name: str) -> bool:
    """Whether *text* is YAML or JSON: by the ending of *name*, else by its first line.

    No line of a list of images begins with ``key:``.
    """
    ending = name.lower()
    if ending.endswith(_YAML_ENDINGS):
        return True
    lines = (line.strip() for line in text.splitlines())
    first = next((line for line in lines if line and line[0] != "#"), "")
    is_document = first[:3] == "---" or first[:1] == "%" or may_be_json(first)
    key = split_key(first[2:] if first[:2] == "- " else first)
    return not ending.endswith(_TEXT_ENDINGS) and (
        is_document or (key is not None and " " not in key[0])
    )


@record
class _Node:
    """A collection that has not ended; *name* is the key that it stands under.

    *values* are the texts of a mapping, *merged* those that ``<<`` brings. *key* is the
    key whose value comes next; None: a key comes next.
    """

    kind: str
    name: str
    line: int
    anchor: str | None
    key: str | None = None
    values: dict[str, tuple[str, int]] = field(default_factory=dict)
    merged: dict[str, tuple[str, int]] = field(default_factory=dict)


class _Search:
    """Collects the images of one text."""

    def __init__(
        self,
        variables: Mapping[str, str],
        check: Callable[[], object],
        *,
        embedded: bool = False,
    ) -> None:
        self.images: list[FoundImage] = []
        self.problems: list[Problem] = []
        self._variables = variables
        self._check = check
        self._embedded = embedded
        self._merged = 0
        self._stack: list[_Node] = []
        self._texts: dict[str, str] = {}
        self._mappings: dict[str, dict[str, tuple[str, int]]] = {}

    def read_yaml(self, text: str, name: str) -> None:
        """Take every document of *text*. Raises InvalidJSON."""
        events = _with_library(text, name)
        self._take_all(events or read_events(text, self._problem))

    def read_embedded(self, text: str) -> None:
        """Take *text*, a value within another document, if it is one itself."""
        self._take_all(read_events(text, lambda line, why: None))

    def read_plain(self, text: str) -> None:
        """Take the words of *text*; a line of one word is an image by itself."""
        lines = [COMMENT.sub("", line) for line in text.splitlines()]
        lines = [_BULLET.sub("", line).strip() for line in lines]
        is_list = all(len(line.split()) < 2 for line in lines)
        for number, line in enumerate(lines, 1):
            if is_list and line:
                self._add(line, number)
                continue
            for word in _BETWEEN_WORDS.split(line):
                word = word.rstrip(".:!?")
                if word == line or _is_among_words(word):
                    self._add_whole(word, number)

    def _take_all(self, events: Iterator[Event]) -> None:
        for event in events:
            if event.kind in (MAPPING, SEQUENCE):
                self._begin(event)
            elif event.kind == END:
                self._end()
            elif event.kind == SCALAR:
                if event.anchor:
                    self._texts[event.anchor] = event.text[: _LONGEST + 1]
                self._inner(event)
                self._text(event.text, event.line)
            elif event.kind == ALIAS:
                self._alias(event.text, event.line)
            else:
                self._texts.clear()
                self._mappings.clear()

    def _begin(self, event: Event) -> None:
        self._check()
        parent = self._stack[-1] if self._stack else None
        name = "images"  # a list at the root
        if parent is not None:
            name = parent.name if parent.kind == SEQUENCE else parent.key or ""
        elif event.kind == MAPPING:
            name = ""
        self._stack.append(_Node(event.kind, name, event.line, event.anchor))

    def _end(self) -> None:
        node = self._stack.pop()
        if node.kind == MAPPING:
            values = {**node.merged, **node.values}
            if node.anchor:
                self._mappings[node.anchor] = values
            self._mapping(_Values(values), node)
        self._done("")

    def _done(self, text: str) -> None:
        """A value of the innermost mapping came, or a key of it, which is *text*."""
        if self._stack and self._stack[-1].kind == MAPPING:
            node = self._stack[-1]
            node.key = text if node.key is None else None

    def _alias(self, name: str, line: int) -> None:
        node = self._stack[-1] if self._stack else None
        if name in self._texts:
            self._text(self._texts[name], line)
            return
        if node is not None and node.kind == SEQUENCE and node.name == "<<":
            node = self._stack[-2]
        if node is not None and node.key == "<<":
            self._merge(node, self._mappings.get(name, {}), line)
        self._done("")

    def _merge(
        self, node: _Node, values: Mapping[str, tuple[str, int]], line: int
    ) -> None:
        self._merged += len(values)
        if self._merged > VALUE_LIMIT:
            raise InvalidJSON(
                f"line {line}: '<<' stands for more than {VALUE_LIMIT} values; write "
                "the aliases out"
            )
        for key, value in values.items():
            node.merged.setdefault(key, value)

    def _text(self, text: str, line: int) -> None:
        node = self._stack[-1] if self._stack else None
        if node is None or node.kind == SEQUENCE:
            self._item(text, line, node.name if node else "")
        elif node.key is not None and (node.key in _KEPT or _is_image_key(node.key)):
            if node.key == "image" and "image" in node.values:
                self._problem(line, "the key image is there twice; this one counts")
            node.values[node.key] = (text[: _LONGEST + 1], line)
        self._done(text[: _LONGEST + 1])

    def _item(self, text: str, line: int, name: str) -> None:
        """A text in a list: an image in ``images``, or an argument that names one."""
        flag = _FLAG.fullmatch(text) if len(text) <= _LONGEST else None
        if flag:
            self._add_whole(flag[1], line)
        elif name == "images":
            self._add_whole(text, line)

    def _inner(self, event: Event) -> None:
        """A text of several lines may be a manifest itself."""
        text, node = event.text, self._stack[-1] if self._stack else None
        if self._embedded or "\n" not in text or "image" not in text:
            return
        if node is not None and node.key != "description":
            search = _Search(self._variables, self._check, embedded=True)
            search.read_embedded(text)
            for image, _ in search.images:
                self.images.append(FoundImage(image, event.line))

    def _mapping(self, values: _Values, node: _Node) -> None:
        """What the texts of the mapping *node* say about images."""
        name, line = node.name, node.line
        if values["repository"]:
            self._of_repository(values, name)
        elif values["image"] and name not in _NOT_OF_CONTAINERS:
            self._add(values.joined(values["image"]), values.line("image"))
        elif name == "images" and values["name"]:
            self._of_list(values, line)
        elif _is_image_key(name) and (values["reference"] or values["name"]):
            whole = values["reference"] or values.joined(values["name"])
            self._add_whole(whole, line)
        for key in values:
            if key != "image" and _is_image_key(key):
                self._add_whole(values[key], values.line(key))
        if "image" in values["name"].lower():  # a variable of a container
            self._add_whole(values["value"], line)

    def _of_list(self, values: _Values, line: int) -> None:
        """An entry of ``images``: of Kustomize, or with the name of an image alone."""
        name = values["newName"] or values["name"]
        tag, digest = values["newTag"], values["digest"]
        if tag or digest:
            self._add(join_parts("", name, tag, digest), line)
        elif values["newName"]:
            self._problem(
                line,
                f"{name:.200} has no newTag and no digest, so the tag is that of the "
                "resources; use: kustomize build",
            )
        else:
            self._add_whole(name, line)

    def _of_repository(self, values: _Values, name: str) -> None:
        repository, image = values["repository"], values["image"]
        if "://" in repository:  # of charts
            return
        path = f"{repository.rstrip('/')}/{image}" if image else repository
        whole = values.joined(path, values["version"] if image else "")
        if _has_name(whole):
            self._add(whole, values.line("repository"))
        elif "tag" in values or "digest" in values or _is_image_key(name):
            self._problem(
                values.line("repository"),
                f"{path:.200} has neither a tag nor a digest; for a chart, use "
                "the output of: helm template",
            )

    def _add(self, text: str, line: int) -> None:
        """An image, and a problem if it is none."""
        if text in _NO_IMAGES:
            return
        try:
            self.images.append(FoundImage(self._image(text), line))
        except InvalidReference as error:
            self._problem(line, str(error))

    def _add_whole(self, text: str, line: int) -> None:
        """An image if *text* is a whole one; a problem if it has to be filled in."""
        if "/" in text and (_TEMPLATE.search(text) or "${" in text):
            self._add(text, line)
        elif _is_whole(text):
            try:
                self.images.append(FoundImage(self._image(text), line))
            except InvalidReference:
                return

    def _image(self, text: str) -> Reference:
        if _TEMPLATE.search(text):
            raise InvalidReference(
                f"{text!r:.200} is a template, fill it in first: helm template"
            )
        return tagged(Reference.parse(_filled(text, self._variables)))

    def _problem(self, line: int, why: str) -> None:
        if not self._embedded:
            self.problems.append(Problem(line, why))


class _Values:
    """The texts of a mapping; what is missing or null is ""."""

    def __init__(self, values: Mapping[str, tuple[str, int]]) -> None:
        self._values = values

    def __getitem__(self, key: str) -> str:
        text = self._values.get(key, ("", 0))[0].strip()
        return "" if text in _NULLS else text

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def line(self, key: str) -> int:
        """Where the value of *key* stands."""
        return self._values[key][1]

    def joined(self, path: str, version: str = "") -> str:
        """*path* with the registry, the tag and the digest that stand beside it."""
        tag = self["tag"] or version
        return join_parts(self["registry"], path, tag, self["digest"])


def join_parts(registry: str, path: str, tag: str, digest: str) -> str:
    """The image that is written in parts; what *path* says itself counts."""
    if registry and not has_registry(path):
        path = f"{registry.rstrip('/')}/{path}"
    if _has_name(path):
        return path
    if _HEX.fullmatch(digest):
        digest = f"sha256:{digest}"
    if tag.startswith("sha256:"):
        tag, digest = "", digest or tag
    return path + f":{tag}" * bool(tag) + f"@{digest}" * bool(digest)


def _is_image_key(key: str) -> bool:
    return key.lower().endswith("image")


def _has_name(text: str) -> bool:
    """True when *text* has a tag or a digest."""
    return "@" in text or ":" in text.rpartition("/")[2]


def _is_whole(text: str) -> bool:
    """True for what is hardly anything but an image."""
    if text.startswith(("/", ".")) or "://" in text or looks_like_file(text):
        return False
    named = _has_name(text) and not looks_like_file(text.partition(":")[0])
    return named or ("/" in text and has_registry(text))


def _is_among_words(text: str) -> bool:
    """True for what is an image also in a sentence: ``src/main.py:12`` is none."""
    path = text.partition("@")[0]
    is_file = not has_registry(path) and "." in path.partition(":")[0]
    return "/" in path and _has_name(text) and not is_file


def _filled(text: str, variables: Mapping[str, str]) -> str:
    """*text* with its ``$NAME`` replaced as Compose does. Raises InvalidReference."""
    for _ in range(8):  # a default may be a variable again
        if "$" not in text:
            break
        text = _VARIABLE.sub(lambda match: _variable(match, variables), text)
    return text


def _variable(match: re.Match[str], variables: Mapping[str, str]) -> str:
    name, sign, word = match[1] or match[2], match[3] or "", match[4] or ""
    if name is None:
        return ""
    found = variables.get(name)
    if sign[:1] == ":":
        found = found or None
    if sign[-1:] == "+":
        return word if found is not None else ""
    if found is None and sign[-1:] == "-":
        return word
    if found is None:
        raise InvalidReference(
            f"the variable {name:.80} is not set: set it, or fill the file in first: "
            "docker compose config"
        )
    return found


def _with_library(text: str, name: str) -> Iterator[Event] | None:
    """The events of *text* by PyYAML; None without it."""
    try:
        import yaml
    except ImportError:
        return None
    return _library_events(yaml, text, name)


def _library_events(yaml: Any, text: str, name: str) -> Iterator[Event]:
    depth = 0
    try:
        for event in yaml.parse(text, getattr(yaml, "CBaseLoader", yaml.BaseLoader)):
            made = _translated(yaml, event)
            if made is None:
                continue
            depth += (made.kind in (MAPPING, SEQUENCE)) - (made.kind == END)
            if depth > DEEPEST:
                raise InvalidJSON(f"{name}:{made.line}: it is nested too deep")
            yield made
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        why = " ".join(str(getattr(error, "problem", None) or error).split())
        raise InvalidJSON(
            f"{name}:{mark.line + 1 if mark else 1}: not YAML: {why:.120}; a template "
            "has to be filled in first (helm template, kustomize build), and a plain "
            "text needs --text"
        ) from error


def _translated(yaml: Any, event: Any) -> Event | None:
    line = event.start_mark.line + 1
    if isinstance(event, yaml.ScalarEvent):
        return Event(SCALAR, line, event.value, event.anchor)
    if isinstance(event, yaml.AliasEvent):
        return Event(ALIAS, line, event.anchor)
    if isinstance(event, yaml.MappingStartEvent):
        return Event(MAPPING, line, "", event.anchor)
    if isinstance(event, yaml.SequenceStartEvent):
        return Event(SEQUENCE, line, "", event.anchor)
    if isinstance(event, yaml.CollectionEndEvent):
        return Event(END, line)
    return Event(DOCUMENT, line) if isinstance(event, yaml.DocumentStartEvent) else None
