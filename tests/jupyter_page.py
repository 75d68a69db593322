"""A notebook and its explorers as a person at a browser meets them: what is seen, pressed and waited for."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE = 300_000  # milliseconds, for a machine with much else to do
SIZE = {"width": 1000, "height": 900}

# Kept on the explorer's element: when a key or button last went down, and for each picture since then the milliseconds
# until it could be seen; how often the read-outs changed; each picture that was shown.
WATCH = """root => {
  const seen = root.seen = {since: 0, waits: [], told: 0, pictures: []};
  let picture = root.querySelector('.anm-picture-image').src, text = root.querySelector('.anm-readout').textContent;
  for (const kind of ['keydown', 'pointerdown'])
    root.addEventListener(kind, () => { seen.since = performance.now(); }, {capture: true});
  new MutationObserver(async () => {
    const image = root.querySelector('.anm-picture-image'), now = root.querySelector('.anm-readout').textContent;
    if (now !== text) { text = now; seen.told += 1; }
    if (!image || image.src === picture) return;
    picture = image.src;
    seen.pictures.push(picture);
    await image.decode().catch(() => {});
    seen.waits.push(performance.now() - seen.since);
  }).observe(root, {subtree: true, childList: true, characterData: true});
}"""


@contextmanager
def chromium() -> Iterator:
    """The machine's own browser, without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # a root user's Chromium has no sandbox, and containers have little shared memory
        options = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options, timeout=PATIENCE)
        yield browser
        browser.close()


class NotebookPage:
    """A notebook in JupyterLab, all of its cells run; `strangers` are the addresses elsewhere that it asked for."""

    def __init__(self, browser, address: str, name: str) -> None:
        self.page = browser.new_page(viewport=SIZE)
        self.page.set_default_timeout(PATIENCE)
        self.strangers: list[str] = []
        self.page.route(lambda url: not url.startswith("http://127.0.0.1:"), self._refuse)
        self.page.goto(address.format(name))
        self.page.get_by_text("| Idle").wait_for()  # the notebook's own indicator says so before there is a kernel
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Run All Cells", exact=True).click()

    def wait_until_idle(self) -> None:
        """Wait until all cells ran, as sliders are answered only then."""
        self.page.get_by_text("| Idle").wait_for()

    def _refuse(self, route) -> None:
        self.strangers.append(route.request.url)
        route.abort()

    def explorer(self, kind: str) -> ExplorerPage:
        """The explorer of a kind, watched from now on."""
        root = self.page.locator(f".anm-{kind}-explorer").first
        root.locator(".anm-picture-image").wait_for()
        root.locator(".anm-readout b").first.wait_for()
        return ExplorerPage(self.page, root, kind)


class ExplorerPage:
    """An explorer in the page, and its controls by the names that screen readers tell."""

    def __init__(self, page, root, kind: str) -> None:
        self.page, self.root, self.kind = page, root, kind
        self.root.evaluate(WATCH)

    def slider(self, label: str):
        return self.root.get_by_role("slider", name=label, exact=True)

    def part(self, label: str, css: str):
        """What else belongs to a slider."""
        slider = self.page.get_by_role("slider", name=label, exact=True)
        return self.root.locator(".widget-slider", has=slider).locator(css)

    def button(self, name: str):
        return self.root.get_by_role("button", name=name, exact=True)

    @property
    def alt(self) -> str:
        return self.root.get_by_role("img").get_attribute("alt")

    @property
    def picture(self) -> str:
        return _digest(self.root.get_by_role("img").get_attribute("src"))

    @property
    def pictures(self) -> list[str]:
        """Every picture that was shown since the explorer is watched."""
        return [_digest(source) for source in self.seen("pictures")]

    @property
    def readouts(self) -> list[list[str]]:
        """Names and values, of both runs where there are two."""
        told = "all => all.map(each => [each.dataset.readout, each.textContent])"
        return self.root.locator("[data-readout]").evaluate_all(told)

    def seen(self, what: str):
        return self.root.evaluate(f"root => root.seen.{what}")

    def place(self, label: str) -> int:
        """Where a slider stands, from 0."""
        return int(float(self.slider(label).get_attribute("aria-valuenow")))

    def last(self, label: str) -> int:
        """The last place that a slider can be moved to."""
        return int(float(self.slider(label).get_attribute("aria-valuemax")))

    def press(self, label: str, key: str) -> float:
        """Press a key on a slider, and wait for what follows: milliseconds until the new picture; 0 if it stays."""
        handle = self.slider(label)
        ends = {"Home": 0, "ArrowLeft": 0, "End": self.last(label), "ArrowRight": self.last(label)}
        if self.place(label) == ends[key]:
            return 0.0
        handle.focus()
        return self.until_new_picture(lambda: self.page.keyboard.press(key))

    def until_new_picture(self, act) -> float:
        """Do what brings about one new picture, and wait for it and for its read-outs."""
        shown, told = len(self.seen("waits")), self.seen("told")
        act()
        moved = "([root, shown, told]) => root.seen.waits.length > shown && root.seen.told > told"
        self.page.wait_for_function(moved, arg=[self.root.element_handle(), shown, told])
        return self.seen("waits")[shown]


def _digest(source: str) -> str:
    return hashlib.sha256(source.encode()).hexdigest()
