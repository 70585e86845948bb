"""Pages for people: repositories, tags, and what an image is made of.

Every text goes through `markup.element`, which escapes it.
"""

from __future__ import annotations

from typing import Mapping
from urllib.parse import quote, urlencode

from ..errors import InvalidJSON
from ..expressions import expression
from ..markup import POLICY, Markup, definitions, document, element, joined, when
from ..oci import Descriptor, Digest, Index, Manifest, parse_json
from ..strict_json import CONFIG
from .checked_names import Repository, Tag, parse_reference
from .embedded import Registry
from .messages import ProtocolError, Request, Response, manifest_unknown
from .read_only import parse_manifest

ON_A_PAGE = 50
"""Repositories or tags on one page."""

MOST = 200
"""Layers, platforms or annotations that are shown of one image."""

CONFIG_LIMIT = 1024 * 1024
"""Bytes of a config that is read for its platform."""

HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": (
        f"{POLICY}; form-action 'self'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
    "Vary": "Accept",
}

_HOST = expression(r"[A-Za-z0-9.:\[\]-]{1,255}")


class Pages:
    """The pages of *registry*; *host* is its name for who has none, *secure* TLS."""

    def __init__(
        self, registry: Registry, request: Request, host: str, *, secure: bool
    ) -> None:
        self._registry = registry
        self._request = request
        given = request.headers.first("Host") or ""
        self._host = given if _HOST.fullmatch(given) else host
        self._secure = secure

    def respond(self) -> Response:
        """The page that the path names; also one that says what is wrong."""
        try:
            title, body = self._found()
            status = 200
        except ProtocolError as error:
            title, status = "Not found", error.status
            body = joined([element("h1", title), element("p", error.message)])
        home = element("a", "dockerpush registry", href="/")
        nav = element("nav", home, aria_label="Start")
        page = document(title, body, top=nav, bottom="Served by dockerpush.")
        raw = page.encode()
        return Response(status, HEADERS, raw, len(raw), "" if status == 200 else title)

    def _found(self) -> tuple[str, Markup]:
        path = self._request.path.strip("/")
        if not path:
            return "Repositories", self._repositories()
        name, mark, reference = path.partition("@")
        if not mark and ":" in path.rpartition("/")[2]:
            name, _, reference = path.rpartition(":")
        repository = Repository(name)
        if not reference:
            return name, self._repository(repository)
        return path, self._image(repository, parse_reference(reference), path)

    # Repositories and tags

    def _repositories(self) -> Markup:
        with self._registry.large_json:
            names = self._registry.repositories()
        found, more = self._page(names)
        items = [element("li", link(f"/{name}", name)) for name in found]
        return joined(
            [
                element("h1", "Repositories"),
                self._search("/", "Search repositories"),
                _list(items, "There is no repository" + self._searched_for()),
                self._more("/", more),
            ]
        )

    def _repository(self, name: Repository) -> Markup:
        with self._registry.large_json:
            tags = self._registry.tags(name)
        found, more = self._page(tags)
        items = [self._tag(name, Tag(tag)) for tag in found]
        return joined(
            [
                element("h1", str(name)),
                self._search(f"/{name}", "Search tags"),
                _list(items, "There is no tag" + self._searched_for()),
                self._more(f"/{name}", more),
            ]
        )

    def _tag(self, name: Repository, tag: Tag) -> Markup:
        place = f"{name}:{tag}"
        try:
            facts = self._facts(name, tag)
        except ProtocolError as error:
            facts = [error.message]
        about: list[str] = [" · ".join(facts)]
        came = self._registry.tagged_at(name, tag)
        if came is not None:
            about += [" · ", when(came)]
        place = link(f"/{place}", tag)
        return element("li", place, element("br"), element("small", *about))

    def _facts(self, name: Repository, tag: Tag) -> list[str]:
        with self._registry.large_json:
            digest, _, manifest = self._read(name, tag)
            platforms = self._platforms(name, manifest)
            size = self._size(name, manifest)
        return [platforms or "no platform", size_text(size), digest[:19]]

    # One image

    def _image(
        self, name: Repository, reference: Tag | Digest | None, path: str
    ) -> Markup:
        with self._registry.large_json:
            digest, kind, manifest = self._read(name, reference)
            facts = {
                "Digest": str(digest),
                "Type": kind,
                "Artifact type": manifest.artifact_type or "",
                "Platforms": self._platforms(name, manifest),
                "Size": size_text(self._size(name, manifest)),
            }
            parts = [
                element("h1", path),
                element("p", link(f"/{name}", f"All tags of {name}")),
                self._facts_list(facts, name, reference),
                self._commands(path),
                self._children(name, manifest),
                _annotations(manifest.annotations or {}),
                self._referrers(name, digest),
            ]
        return joined(parts)

    def _facts_list(
        self, facts: Mapping[str, str], name: Repository, reference: object
    ) -> Markup:
        rows = [(key, element("code", text)) for key, text in facts.items() if text]
        if isinstance(reference, Tag):
            came = self._registry.tagged_at(name, reference)
            rows.append(("Pushed", Markup("") if came is None else when(came)))
        return definitions(rows)

    def _commands(self, path: str) -> Markup:
        reference = f"{self._host}/{path}"
        plain = not self._secure
        commands = (
            ("docker", f"docker pull {reference}"),
            ("podman", f"podman pull{' --tls-verify=false' * plain} {reference}"),
            ("crane", f"crane pull{' --insecure' * plain} {reference} image.tar"),
            ("dockerpush", f"dockerpush pull{' --plain-http' * plain} {reference}"),
        )
        rows = [
            joined([element("h3", name), element("pre", element("code", command))])
            for name, command in commands
        ]
        return element("section", element("h2", "Pull"), *rows)

    def _children(self, name: Repository, manifest: Manifest | Index) -> Markup:
        if isinstance(manifest, Index):
            items = [self._child(name, child) for child in manifest.manifests[:MOST]]
            return _section("Platforms", "ul", items, len(manifest.manifests))
        items = [_layer(layer) for layer in manifest.layers[:MOST]]
        return _section("Layers", "ol", items, len(manifest.layers))

    def _child(self, name: Repository, child: Descriptor) -> Markup:
        title = str(child.platform) if child.platform else str(child.digest)[:19]
        place = link(f"/{name}@{child.digest}", title)
        return element("li", place, " ", element("code", str(child.digest)))

    def _referrers(self, name: Repository, digest: Digest) -> Markup:
        items = []
        for entry in self._registry.referrers(name, digest, ""):
            kind = str(entry.get("artifactType") or "artifact")
            other = str(entry["digest"])
            place = link(f"/{name}@{other}", kind)
            items.append(element("li", place, " ", element("code", other)))
            if len(items) == MOST:
                break
        return _section("Referrers", "ul", items, len(items))

    # What is read

    def _read(
        self, name: Repository, reference: Tag | Digest | None
    ) -> tuple[Digest, str, Manifest | Index]:
        found = self._registry.manifest(name, reference)
        return (
            found.digest,
            found.media_type,
            parse_manifest(found.raw, found.media_type),
        )

    def _platforms(self, name: Repository, manifest: Manifest | Index) -> str:
        if isinstance(manifest, Manifest):
            return self._platform_of(name, manifest.config)
        children = manifest.manifests[:ON_A_PAGE]
        return ", ".join(str(child.platform) for child in children if child.platform)

    def _platform_of(self, name: Repository, config: Descriptor) -> str:
        """The platform that a config says, "" for one that says none."""
        try:
            size = self._registry.blob_size(name, config.digest)
            if size > CONFIG_LIMIT:
                return ""
            raw = read_whole(self._registry, name, config.digest, size)
            record = parse_json(raw, "config", CONFIG)
        except (ProtocolError, InvalidJSON):
            return ""
        if not isinstance(record, dict):
            return ""
        parts = (record.get(key) for key in ("os", "architecture", "variant"))
        return "/".join(part for part in parts if isinstance(part, str) and part)

    def _size(self, name: Repository, manifest: Manifest | Index) -> int:
        """Bytes of config and layers; of an index, of those images that are here."""
        if isinstance(manifest, Manifest):
            return manifest.config.size + sum(layer.size for layer in manifest.layers)
        total = 0
        for child in manifest.manifests[:ON_A_PAGE]:
            try:
                read = self._read(name, child.digest)[2]
            except ProtocolError:  # a sparse index
                continue
            total += self._size(name, read) if isinstance(read, Manifest) else 0
        return total

    # Search and pages

    def _page(self, names: list[str]) -> tuple[list[str], str | None]:
        """What is shown of *names*, and where the next page begins."""
        wanted = (self._request.parameter("q") or "").strip().lower()
        last = self._request.parameter("last") or ""
        rest = [name for name in names if name > last and wanted in name.lower()]
        return rest[:ON_A_PAGE], rest[ON_A_PAGE - 1] if len(rest) > ON_A_PAGE else None

    def _searched_for(self) -> str:
        wanted = (self._request.parameter("q") or "").strip()
        return f" with {wanted!r} in its name." if wanted else " yet."

    def _search(self, path: str, label: str) -> Markup:
        value = self._request.parameter("q") or ""
        return element(
            "form",
            element("label", label, for_="q"),
            element("input", id="q", name="q", type="search", value=value),
            element("button", "Search", type="submit"),
            role="search",
            action=quote(path),
            method="get",
        )

    def _more(self, path: str, last: str | None) -> Markup:
        if last is None:
            return Markup("")
        query = {"last": last, "q": self._request.parameter("q") or ""}
        target = f"{quote(path)}?{urlencode(query)}"
        return element(
            "nav", element("a", "Next page", href=target), aria_label="Pages"
        )


def read_whole(
    registry: Registry, name: Repository, digest: Digest, size: int
) -> bytes:
    """A small blob. Raises ProtocolError."""
    content, view = (
        registry.open_blob(name, digest, 0, size),
        memoryview(bytearray(size)),
    )
    try:
        read = 0
        while read < size and (count := content.readinto(view[read:])):
            read += count
    finally:
        content.close()
    if read < size:
        raise manifest_unknown(digest)
    return bytes(view)


def link(path: str, text: str) -> Markup:
    """A link to a page of ours; the text may run in any direction."""
    return element("a", element("bdi", text), href=quote(path, safe="/:@"))


def size_text(size: int) -> str:
    """*size* in the largest unit that it has one of."""
    if size < 1024:
        return f"{size} B"
    number = float(size)
    unit = 0
    while number >= 1024 and unit < 3:
        number, unit = number / 1024, unit + 1
    return f"{number:.1f} {('B', 'KiB', 'MiB', 'GiB')[unit]}"


def _list(items: list[Markup], none: str) -> Markup:
    return element("ul", *items, class_="plain") if items else element("p", none)


def _section(title: str, kind: str, items: list[Markup], count: int) -> Markup:
    if not items:
        return Markup("")
    rest = count - len(items)
    more = element("p", f"and {rest} more") if rest else Markup("")
    return element("section", element("h2", title), element(kind, *items), more)


def _layer(layer: Descriptor) -> Markup:
    about = f"{size_text(layer.size)} · {layer.media_type}"
    return element(
        "li", element("code", str(layer.digest)), element("br"), element("small", about)
    )


def _annotations(annotations: Mapping[str, str]) -> Markup:
    if not annotations:
        return Markup("")
    rows = [
        (key, element("bdi", text)) for key, text in sorted(annotations.items())[:MOST]
    ]
    return element("section", element("h2", "Annotations"), definitions(rows))
