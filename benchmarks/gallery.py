"""List the tasks that keep the gallery page busy for more than 50 ms, with many photos.

    python benchmarks/gallery.py [FOLDER] [--photos 300] [--rounds 3]

Starts the app at low priority and opens `/gallery` in Chromium. Without FOLDER, it draws the photos. Prints a Markdown
table: for each thing that a person does, the tasks over 50 ms of all rounds (the browser's own "long tasks").
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright
from tqdm import tqdm

ROOT = Path(__file__).parent.parent
OBSERVE = """
window.tasks = [];
new PerformanceObserver((list) => tasks.push(...list.getEntries().map((entry) => entry.duration)))
    .observe({ type: "longtask", buffered: true });
"""


def draw(folder: Path, photos: int) -> list[Path]:
    """Pictures of 500 × 375 pixels and about 60 KB, as in Flickr8k."""
    random = np.random.default_rng(0)
    paths = [folder / f"{i:03}.jpg" for i in range(photos)]
    for path in paths:
        blots = random.integers(0, 256, (75, 100, 3), np.uint8)
        Image.fromarray(blots).resize((500, 375)).save(path, quality=90)
    return paths


@contextmanager
def serving() -> Iterator[str]:
    """The app in a process of low priority, so that it leaves a core to the browser; its address."""
    command = ["nice", "-n", "19", sys.executable, "app.py", "--port", "0"]
    environment = {**os.environ, "CAPTIONER_RATE_LIMIT": ""}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout
    try:
        yield process.stdout.readline().split()[-1]
    finally:
        process.terminate()
        process.wait()


def steps(page: Page, address: str, paths: list[Path]) -> Iterator[str]:
    """Use the gallery as a person does. Yields the name of each step when it is done."""
    page.goto(f"{address}/gallery", wait_until="networkidle")
    yield "open the page"
    page.set_input_files("#files", paths)
    expect(page.locator("#sending")).to_be_visible()
    yield "choose the photos"
    expect(page.locator("#sending .count")).to_contain_text("Finished", timeout=600_000)
    page.wait_for_timeout(500)
    yield "send them and show their captions"
    for number in range(3):
        page.locator("#words button").nth(number).click()
        page.wait_for_timeout(200)
    page.locator("#words button[aria-pressed=true]").first.click()
    page.get_by_label("Search").press_sequentially("a dog", delay=60)
    page.get_by_label("Search").fill("")
    page.get_by_label("Order").select_option("Least sure first")
    page.wait_for_timeout(300)
    while (pressed := page.locator("#words button[aria-pressed=true]")).count():
        pressed.first.click()
    yield "filter and sort"
    for view in ("List", "Grid"):
        page.locator("[name=view]").select_option(view)
        page.mouse.move(600, 600)
        for _ in range(40):
            page.mouse.wheel(0, 300)
            page.wait_for_timeout(20)
        page.get_by_role("button", name="Next page").click()
        page.wait_for_timeout(300)
    yield "scroll and turn pages, as list and as grid"
    page.locator("#start").click()
    for key in ("ArrowRight", "a", "a", "2", "d", "u", "ArrowLeft", "a", "ArrowRight"):
        page.keyboard.press(key)
        page.wait_for_timeout(80)
    page.keyboard.press("Escape")
    page.wait_for_timeout(300)
    yield "review with the keyboard"
    page.reload(wait_until="networkidle")
    expect(page.locator("#found")).to_have_text(re.compile(rf"{len(paths)} photos"))
    page.wait_for_timeout(500)
    yield "load the page again"


def main() -> None:
    parser = argparse.ArgumentParser(description="List the gallery's long tasks.")
    parser.add_argument("folder", nargs="?", type=Path, help="with photos; without it, they are drawn")
    parser.add_argument("--photos", type=int, default=300, help="at least 49, so that there is a second page")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    found: dict[str, list[float]] = {}
    names = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
    browser_path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    with tempfile.TemporaryDirectory() as temporary, serving() as address, sync_playwright() as driver:
        folder = options.folder
        paths = sorted(folder.glob("*.jpg"))[: options.photos] if folder else draw(Path(temporary), options.photos)
        for _ in tqdm(range(options.rounds), unit="round"):
            browser = driver.chromium.launch(executable_path=browser_path, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page(locale="en-GB")
            page.add_init_script(OBSERVE)
            for step in steps(page, address, paths):
                found.setdefault(step, []).extend(page.evaluate("tasks.splice(0)"))
            browser.close()
    print(f"{len(paths)} photos, {options.rounds} rounds\n\n| step | tasks over 50 ms (ms) |\n|---|---|")
    for step, durations in found.items():
        print(f"| {step} | {', '.join(f'{d:.0f}' for d in sorted(durations, reverse=True)) or 'none'} |")


if __name__ == "__main__":
    main()
