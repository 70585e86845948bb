"""Pages of HTML for people, without a script and without any other file.

Every text goes through `element`, which escapes it. The style is in the page, and the
Content-Security-Policy allows nothing else. Pure.
"""

from __future__ import annotations

import base64
import hashlib
import html
import time
from typing import Iterable

LONGEST = 2000
"""Characters of a text that are shown."""

STYLE = """
:root { color-scheme: light dark; --text: #1d1f23; --back: #ffffff; --soft: #545963;
  --line: #c9cdd4; --link: #0b4fb3; --panel: #f3f4f6; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e8eb; --back: #15171b;
  --soft: #a9b0bb; --line: #444a55; --link: #8ab8ff; --panel: #1f2228; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 0 1rem 2rem; max-width: 60rem; color: var(--text);
  background: var(--back); font: 1rem/1.5 system-ui, sans-serif;
  overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
h3 { font-size: 1rem; margin-bottom: 0; }
a { color: var(--link); }
a:focus-visible, input:focus-visible, button:focus-visible, pre:focus-visible {
  outline: 3px solid var(--link); outline-offset: 2px; }
.skip { position: absolute; left: -999rem; } .skip:focus { position: static; }
header { border-bottom: 1px solid var(--line); padding: .75rem 0; }
footer { border-top: 1px solid var(--line); margin-top: 2rem; color: var(--soft); }
form { display: flex; flex-wrap: wrap; gap: .5rem; align-items: end; margin: 1rem 0; }
label { width: 100%; }
input, button { font: inherit; color: inherit; background: var(--back);
  border: 1px solid var(--soft); border-radius: .25rem; padding: .35rem .6rem;
  max-width: 100%; min-height: 2.5rem; }
input { flex: 1 1 10rem; min-width: 0; }
ul, ol { padding-left: 1.5rem; } ul.plain { list-style: none; padding: 0; }
ul.plain > li { border-bottom: 1px solid var(--line); padding: .6rem 0; }
dt { color: var(--soft); } dd { margin: 0 0 .5rem; }
small { color: var(--soft); font-size: .9rem; }
code { font-family: ui-monospace, monospace; font-size: .9em; }
pre { background: var(--panel); padding: .6rem; margin: .25rem 0 1rem;
  white-space: pre-wrap; }
"""

STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY = f"default-src 'none'; style-src 'sha256-{STYLE_HASH}'; base-uri 'none'"
"""The beginning of every Content-Security-Policy."""

_WITHOUT_END = ("meta", "input", "br")


class Markup(str):
    """Text that is HTML already: what `element` made."""

    __slots__ = ()


def element(kind: str, /, *content: str, **attributes: str) -> Markup:
    """An element; text in it and in attributes is escaped. ``class_`` is ``class``."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(shown(text))}"'
        for key, text in attributes.items()
    )
    start = f"<{kind}{given}>"
    if kind in _WITHOUT_END:
        return Markup(start)
    return Markup(f"{start}{joined(content)}</{kind}>")


def joined(content: Iterable[str]) -> Markup:
    """Elements and texts, one after the other."""
    return Markup(
        "".join(
            part if isinstance(part, Markup) else html.escape(shown(part))
            for part in content
        )
    )


def shown(text: str) -> str:
    """*text* without what controls a terminal, a browser or the direction of text."""
    cut = text if len(text) <= LONGEST else text[:LONGEST] + " ..."
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in cut)


def document(
    title: str, body: Markup, *, top: Markup, bottom: str, head: Iterable[Markup] = ()
) -> str:
    """A whole page: *top* is its header, *bottom* its footer."""
    name = "width=device-width, initial-scale=1"
    start = element(
        "head",
        element("meta", charset="utf-8"),
        *head,
        element("meta", name="viewport", content=name),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{title} · dockerpush"),
        Markup(f"<style>{STYLE}</style>"),
    )
    page = element(
        "body",
        element("a", "Skip to the content", class_="skip", href="#content"),
        element("header", top),
        element("main", body, id="content", tabindex="-1"),
        element("footer", element("p", bottom)),
    )
    return "<!DOCTYPE html>\n" + element("html", start, page, lang="en") + "\n"


def when(seconds: float) -> Markup:
    """A moment, in UTC."""
    at = time.gmtime(seconds)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", at)
    return element("time", time.strftime("%Y-%m-%d %H:%M UTC", at), datetime=stamp)


def definitions(rows: Iterable[tuple[str, Markup]]) -> Markup:
    """Terms, each with its definition; those without anything are left out."""
    pairs = ((element("dt", key), element("dd", text)) for key, text in rows if text)
    return element("dl", *(part for pair in pairs for part in pair))
