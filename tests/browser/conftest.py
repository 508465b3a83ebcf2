"""A real browser against a really served application. With SCREENSHOTS=FOLDER, pictures of the pages land there."""

import os
import re
import shutil
import threading
from pathlib import Path

import pytest
from helpers import remembering

from app import create_app
from web import server
from web.pages import sentence

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")

FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
)
SCREENSHOTS = os.environ.get("SCREENSHOTS")

playwright.expect.set_options(timeout=30_000)  # the machine may be busy


@pytest.fixture(scope="module")
def chromium():
    names = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
    with playwright.sync_playwright() as driver:
        own = driver.chromium.executable_path  # where "playwright install chromium" puts one
        path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), own)
        if path == own and not os.path.exists(own):
            pytest.skip("no Chromium here; install one or set CHROMIUM to its path")
        browser = driver.chromium.launch(executable_path=path, args=FLAGS.split())
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def generator(generator):
    return remembering(generator)


@pytest.fixture(scope="module")
def address(generator):
    listener = server.bind("127.0.0.1", 0)
    app = create_app({"VIDEO_JOBS": 100}, generator)  # some tests leave clips behind
    waitress_server = server.make_server(app, listener)
    threading.Thread(target=waitress_server.run, daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    waitress_server.close()
    app.extensions["images"].close()


@pytest.fixture
def visit(chromium, address):
    """Opens the page; at the end, the browser must have had nothing to complain about but our 4xx and 503 answers."""
    contexts, complaints = [], []

    def visit(path="", **options):
        context = chromium.new_context(**{"locale": "en-GB", "service_workers": "block", **options})
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: message.type == "error" and complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(address + path)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert [text for text in complaints if not re.search("status of (4|503)", text)] == []


@pytest.fixture
def caption(generator):
    """The sentence that the page should show for a picture."""
    return lambda data, choice=0, language="en": sentence(
        generator.caption(data, 3, 3, language).alternatives[choice].text
    )


@pytest.fixture
def shoot():
    """Keeps a picture of the whole page, if SCREENSHOTS is set."""

    def shoot(page, name):
        if SCREENSHOTS:
            page.screenshot(path=Path(SCREENSHOTS) / f"{name}.png", full_page=True)

    return shoot
