"""Page objects for notebooks and their explorers in a browser: look, press keys, and wait for the effect."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE = 300_000  # milliseconds, for a busy machine
SIZE = {"width": 1000, "height": 900}

# Records on the explorer's element: the time of the last key or button press; for each later picture the milliseconds
# until it is visible; the number of changes of the read-outs; all pictures shown.
WATCH = """root => {
  const seen = root.seen = {since: 0, waits: [], updates: 0, pictures: []};
  let picture = root.querySelector('.anm-picture-image').src, text = root.querySelector('.anm-readout').textContent;
  for (const kind of ['keydown', 'pointerdown'])
    root.addEventListener(kind, () => { seen.since = performance.now(); }, {capture: true});
  new MutationObserver(async () => {
    const image = root.querySelector('.anm-picture-image'), now = root.querySelector('.anm-readout').textContent;
    if (now !== text) { text = now; seen.updates += 1; }
    if (!image || image.src === picture) return;
    picture = image.src;
    seen.pictures.push(picture);
    await image.decode().catch(() => {});
    seen.waits.push(performance.now() - seen.since);
  }).observe(root, {subtree: true, childList: true, characterData: true});
}"""


@contextmanager
def chromium() -> Iterator:
    """The installed Chromium, headless."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Chromium has no sandbox for root, and containers have little shared memory
        options = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options, timeout=PATIENCE)
        yield browser
        browser.close()


class NotebookPage:
    """A notebook in JupyterLab that runs all its cells; `strangers` lists its requests to other hosts."""

    def __init__(self, browser, address: str, name: str) -> None:
        self.page = browser.new_page(viewport=SIZE)
        self.page.set_default_timeout(PATIENCE)
        self.strangers: list[str] = []
        self.page.route(lambda url: not url.startswith("http://127.0.0.1:"), self._refuse)
        self.page.goto(address.format(name))
        self.page.get_by_text("| Idle").wait_for()  # the notebook's own indicator is idle even without a kernel
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Run All Cells", exact=True).click()

    def wait_until_idle(self) -> None:
        """Wait until all cells have run; the kernel does not respond to sliders before."""
        self.page.get_by_text("| Idle").wait_for()

    def _refuse(self, route) -> None:
        self.strangers.append(route.request.url)
        route.abort()

    def explorer(self, kind: str) -> ExplorerPage:
        """Find the explorer of a kind, and record its pictures from now on."""
        root = self.page.locator(f".anm-{kind}-explorer").first
        root.locator(".anm-picture-image").wait_for()
        root.locator(".anm-readout b").first.wait_for()
        return ExplorerPage(self.page, root, kind)


class ExplorerPage:
    """An explorer in the page, and its controls by their accessible names."""

    def __init__(self, page, root, kind: str) -> None:
        self.page, self.root, self.kind = page, root, kind
        self.root.evaluate(WATCH)

    def slider(self, label: str):
        return self.root.get_by_role("slider", name=label, exact=True)

    def part(self, label: str, css: str):
        """Another element of a slider's widget."""
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
        """Digests of all pictures shown since recording began."""
        return [_digest(source) for source in self.seen("pictures")]

    @property
    def readouts(self) -> list[list[str]]:
        """Names and values of the read-outs, of both runs if there are two."""
        script = "all => all.map(each => [each.dataset.readout, each.textContent])"
        return self.root.locator("[data-readout]").evaluate_all(script)

    def seen(self, what: str):
        return self.root.evaluate(f"root => root.seen.{what}")

    def place(self, label: str) -> int:
        """The position of a slider, from 0."""
        return int(float(self.slider(label).get_attribute("aria-valuenow")))

    def last(self, label: str) -> int:
        """The last position of a slider."""
        return int(float(self.slider(label).get_attribute("aria-valuemax")))

    def press(self, label: str, key: str) -> float:
        """Press a key on a slider, and return the milliseconds until the new picture; 0 if the slider cannot move."""
        handle = self.slider(label)
        ends = {"Home": 0, "ArrowLeft": 0, "End": self.last(label), "ArrowRight": self.last(label)}
        if self.place(label) == ends[key]:
            return 0.0
        handle.focus()
        return self.until_new_picture(lambda: self.page.keyboard.press(key))

    def until_new_picture(self, act) -> float:
        """Perform an action that causes one new picture, and wait for the picture and its read-outs."""
        shown, updates = len(self.seen("waits")), self.seen("updates")
        act()
        moved = "([root, shown, updates]) => root.seen.waits.length > shown && root.seen.updates > updates"
        self.page.wait_for_function(moved, arg=[self.root.element_handle(), shown, updates])
        return self.seen("waits")[shown]


def _digest(source: str) -> str:
    return hashlib.sha256(source.encode()).hexdigest()
