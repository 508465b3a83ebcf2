"""The app on a phone's home screen: it can be installed, opens without a connection, and is never out of date.

Slow: each test opens pages in a real browser.
"""

import shutil
import threading

import pytest
from browsing import upload
from helpers import ROOT
from playwright.sync_api import expect

from app import create_app
from web import server

pytestmark = pytest.mark.slow


class Site:
    """The application on a port of its own, with a copy of the static files. It can go away and come back."""

    def __init__(self, generator, folder):
        self.static = folder / "static"
        shutil.copytree(ROOT / "static", self.static)
        self.app = create_app(generator=generator)
        self.app.static_folder = self.static
        self.port = 0

    def start(self):
        listener = server.bind("127.0.0.1", self.port)
        self.port = listener.getsockname()[1]
        self.server = server.make_server(self.app, listener)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        return f"http://127.0.0.1:{self.port}/"

    def stop(self):
        self.server.close()
        for channel in list(self.server.active_channels.values()):
            channel.handle_close()
        self.thread.join(10)


@pytest.fixture
def site(generator, tmp_path):
    site = Site(generator, tmp_path)
    yield site
    site.stop()
    site.app.extensions["images"].close()


@pytest.fixture
def page(chromium):
    context = chromium.new_context(locale="en-GB")
    yield context.new_page()
    context.close()


def installed(page):
    """Waits until the service worker answers for the page."""
    page.locator("body").evaluate(
        """() => {
            const worker = navigator.serviceWorker;
            return worker.controller || new Promise((done) => (worker.oncontrollerchange = done));
        }"""
    )


def test_can_be_installed(page, site):
    page.goto(site.start())
    installed(page)
    problems = page.context.new_cdp_session(page).send("Page.getInstallabilityErrors")["installabilityErrors"]
    assert [problem["errorId"] for problem in problems if problem["errorId"] != "in-incognito"] == []


def test_opens_without_a_connection_and_says_so(page, site, shoot):
    address = site.start()
    page.goto(address)
    installed(page)
    expect(page.locator("#offline")).to_be_hidden()
    page.goto(f"{address}gallery")
    page.set_input_files("#files", upload())
    expect(page.locator(".card")).to_have_count(1)

    site.stop()
    page.goto(address)
    expect(page.locator("#offline")).to_contain_text("The server cannot be reached.")
    expect(page.get_by_text("Choose photos")).to_be_visible()
    assert page.locator(".example img").evaluate("image => image.decode().then(() => image.naturalWidth)")
    page.get_by_role("link", name="Gallery").click()
    expect(page.locator("#offline")).to_be_visible()
    page.locator(".card button").click()
    expect(page.get_by_label("Text to publish")).not_to_have_value("")
    page.keyboard.press("Escape")
    shoot(page, "offline")

    site.start()
    expect(page.locator("#offline")).to_be_hidden()
    page.reload()
    expect(page.locator("#offline")).to_be_hidden()
    expect(page.locator(".card")).to_have_count(1)


def test_opens_when_the_network_is_up_but_nothing_answers(page, site):
    address = site.start()
    page.goto(address)
    installed(page)
    site.stop()
    with server.bind("127.0.0.1", site.port) as listener:
        listener.listen()  # the system takes connections, and nobody answers
        page.goto(address)
        expect(page.get_by_text("Choose photos")).to_be_visible()
        expect(page.locator("#offline")).to_be_visible()


def test_update_is_there_at_once(page, site):
    address = site.start()
    page.goto(address)
    installed(page)
    page.reload()
    script = site.static / "page.js"
    script.write_text(script.read_text() + "\ndocument.title = 'New code';\n")
    page.reload()
    expect(page).to_have_title("New code")
    site.stop()
    page.reload()
    expect(page).to_have_title("New code")


def test_keeps_no_answers(page, site):
    page.goto(site.start())
    installed(page)
    page.set_input_files("#photos", upload())
    expect(page.locator(".photo h2")).to_have_count(1)
    page.goto(f"{page.url}?beam_width=10")
    expect(page.locator("[name=beam_width]")).to_have_value("10")
    home = page.locator("body").evaluate("async () => (await caches.match('/')).text()")
    assert "<html" in home and 'value="10"' not in home
    kept = page.locator("body").evaluate(
        "async () => (await (await caches.open('pages')).keys()).map(({ url }) => new URL(url).pathname)"
    )
    assert {"/", "/gallery", "/static/gallery/thumbnailer.js"} <= set(kept)
    assert all(path in ("/", "/gallery") or path.startswith("/static/") for path in kept)


def test_no_service_worker_where_a_key_is_needed(generator):
    app = create_app({"API_KEYS": ["secret"]}, generator)
    page = app.test_client().get("/", headers={"X-API-Key": "secret"}).text
    assert "offline.js" not in page and "manifest" not in page
    app.extensions["images"].close()
