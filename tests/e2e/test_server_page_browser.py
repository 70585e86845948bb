"""Pages for people in a real browser: narrow, dark, by keyboard and screen reader."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Iterator

import pytest
from conformance import Image, artifact, descriptor, index_of, serving

from dockerpush.cli.sync_report import SyncReport, write_report
from dockerpush.oci import OCI_INDEX, OCI_MANIFEST
from dockerpush.sync.pruning import PruneAction, PruneItem

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium"),
]

HOSTILE = '"><script>document.title="gone"</script><img src=x onerror=alert(1)>'
LONG = "x" * 300

CONTRAST = """(() => {
  const parts = c => c.match(/[0-9.]+/g).map(Number);
  const light = c => { const [r, g, b] = parts(c).map(v => { v /= 255;
    return v > 0.04 ? ((v + 0.055) / 1.055) ** 2.4 : v / 12.92; });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const back = e => { for (; e; e = e.parentElement) {
    const c = getComputedStyle(e).backgroundColor;
    if (parts(c)[3] !== 0) return c; } return "rgb(255, 255, 255)"; };
  return Math.min(...[...document.querySelectorAll("main *, header *, footer *")]
    .filter(e => e.childNodes.length && e.innerText && e.innerText.trim()).map(e => {
    const [a, b] = [light(getComputedStyle(e).color), light(back(e))];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05); }));
})()"""


class Browser:
    """Chromium without a window, by its debugging protocol over a pipe."""

    def __init__(self, profile: Path) -> None:
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        command = (
            f'exec 3<&{theirs_in} 4>&{theirs_out}; exec "$@" --headless '
            f"--remote-debugging-pipe --no-sandbox --user-data-dir={profile}"
        )
        assert CHROMIUM is not None
        self._process = subprocess.Popen(
            ["bash", "-c", command, "bash", CHROMIUM],
            pass_fds=(theirs_in, theirs_out),
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._count = 0
        self._buffer = b""
        self._session: str | None = None
        self.problems: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Log", "Runtime", "Accessibility"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        return self._until(lambda answer: answer.get("id") == self._count)["result"]

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self._until(lambda answer: answer.get("method") == "Page.loadEventFired")

    def evaluate(self, expression: str) -> Any:
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return found["result"].get("value")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def _until(self, wanted) -> dict[str, Any]:
        while True:
            while b"\0" not in self._buffer:
                piece = os.read(self._in, 65536)
                assert piece, "the browser ended"
                self._buffer += piece
            raw, _, self._buffer = self._buffer.partition(b"\0")
            answer = json.loads(raw)
            if answer.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown"):
                self.problems.append(json.dumps(answer["params"]))
            if wanted(answer):
                return answer


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    started = Browser(tmp_path_factory.mktemp("profile"))
    try:
        yield started
    finally:
        started.close()


@pytest.fixture(scope="module")
def registry(tmp_path_factory) -> Iterator[str]:
    """Its URL; names are as long as they may be, annotations as bad."""
    with serving(tmp_path_factory.mktemp("registry")) as (server, client):
        client.push_image("team/app", "v1", 1)
        client.push_image("a" * 200, "t" * 128, 2)
        image = Image(1)
        child = {**image.descriptor, "platform": {"os": "linux", "architecture": LONG}}
        index = index_of(child, annotations={"bad": HOSTILE, LONG: LONG})
        assert client.push_manifest("team/app", "all", index, OCI_INDEX).status == 201
        client.push_blob("team/app", b"{}")
        subject = descriptor(OCI_MANIFEST, image.manifest)
        referrer = artifact(subject, HOSTILE)
        assert client.push_manifest("team/app", "sig", referrer).status == 201
        yield server.url


PATHS = [
    *("/", "/?q=none", "/team/app", "/team/app:v1", "/team/app:all", "/nothing"),
    f"/{'a' * 200}:{'t' * 128}",
]


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("path", PATHS)
def test_a_page_is_readable_on_a_small_screen(browser, registry, path, mode):
    """320 pixels without a scroll bar, contrast, no script, and nothing else loaded."""
    check_small(browser, registry + path, mode)
    expected = 1 if path == "/nothing" else 0  # its 404 is in the browser's log
    assert len(browser.problems) <= expected, browser.problems


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_a_report_of_sync_is_readable_on_a_small_screen(browser, mode, tmp_path):
    report = SyncReport(LONG, HOSTILE, dry_run=False, prunes=True)
    report.pruned += [PruneItem(LONG, None, PruneAction.FAILED, HOSTILE)]
    path = tmp_path / "report.html"
    write_report(report, path)
    check_small(browser, path.as_uri(), mode)
    assert browser.problems == []


def check_small(browser: Browser, url: str, mode: str) -> None:
    browser.call(
        "Emulation.setDeviceMetricsOverride",
        **{"width": 320, "height": 640, "deviceScaleFactor": 1, "mobile": True},
    )
    features = [{"name": "prefers-color-scheme", "value": mode}]
    browser.call("Emulation.setEmulatedMedia", features=features)
    browser.problems.clear()
    browser.open(url)
    assert browser.evaluate("document.documentElement.scrollWidth") <= 320
    assert browser.evaluate("document.title").endswith("· dockerpush")
    assert browser.evaluate("document.scripts.length + document.images.length") == 0
    assert browser.evaluate(CONTRAST) >= 4.5
    dark = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (dark == "rgb(255, 255, 255)") == (mode == "light")
    loaded = "performance.getEntriesByType('resource').length"
    assert browser.evaluate(loaded) == 0


def test_a_screen_reader_finds_landmarks_headings_and_labels(browser, registry):
    browser.open(f"{registry}/team/app")
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    found = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node.get("ignored")
    ]
    roles = {role for role, _ in found}
    assert {"banner", "main", "contentinfo", "navigation", "search"} <= roles
    assert ("searchbox", "Search tags") in found
    assert ("button", "Search") in found
    assert ("heading", "team/app") in found
    assert all(name for role, name in found if role in ("link", "button", "heading"))


def test_everything_is_reached_by_the_keyboard(browser, registry):
    """The way to the content comes first, and can be seen once it has the focus."""
    browser.open(f"{registry}/team/app")
    seen = []
    for _ in range(8):
        for kind in ("keyDown", "keyUp"):
            browser.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab")
        seen.append(browser.evaluate("document.activeElement.innerText"))
        box = browser.evaluate("document.activeElement.getBoundingClientRect().left")
        assert box >= 0
    assert seen[0] == "Skip to the content"
    assert {"Search", "all", "sig", "v1"} <= set(seen)


def test_the_search_is_a_plain_form(browser, registry):
    browser.open(f"{registry}/")
    browser.call("Runtime.evaluate", expression="document.getElementById('q').focus()")
    browser.call("Input.insertText", text="team")
    for kind in ("rawKeyDown", "char", "keyUp"):
        enter = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13}
        browser.call("Input.dispatchKeyEvent", type=kind, text="\r", **enter)
    browser._until(lambda answer: answer.get("method") == "Page.loadEventFired")
    assert browser.evaluate("location.search") == "?q=team"
    assert browser.evaluate("document.querySelectorAll('main li').length") == 1
