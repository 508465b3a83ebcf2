"""The page as a person uses it, in a real browser against a really served application."""

import io
import os
import re
import shutil
import threading

import numpy as np
import pytest
from PIL import Image

import app as web

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")

FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
)
playwright.expect.set_options(timeout=30_000)  # the machine may be busy

LOOK = re.compile(r"^“(.+)”, (\d+) % sure\. It looked where the photo is bright\.$")


def picture(seed=0, size=(320, 240)) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize(size).save(file, "PNG")
    return file.getvalue()


def upload(name="photo.png", data=None) -> dict:
    return {"name": name, "mimeType": "image/png", "buffer": picture() if data is None else data}


BROKEN = upload("notes.png", b"not a picture at all")


@pytest.fixture(scope="module")
def chromium():
    names = ("chromium", "chromium-browser", "google-chrome")
    with playwright.sync_playwright() as driver:
        own = driver.chromium.executable_path  # where "playwright install chromium" puts one
        path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), own)
        if path == own and not os.path.exists(own):
            pytest.skip("no Chromium here; install one or set CHROMIUM to its path")
        browser = driver.chromium.launch(executable_path=path, args=FLAGS.split())
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(generator):
    listener = web.bind("127.0.0.1", 0)
    server = web.serve(web.create_app(generator=generator), listener)
    threading.Thread(target=server.run, daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    server.close()


@pytest.fixture
def visit(chromium, address):
    """Opens the page; at the end, the browser must have had nothing to complain about but our 4xx answers."""
    contexts, complaints = [], []

    def visit(**options):
        context = chromium.new_context(**options)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: message.type == "error" and complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(address)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert [text for text in complaints if "status of 4" not in text] == []


@pytest.fixture
def caption(generator):
    """The sentence that the page should show for a picture."""
    width = web.create_app(generator=generator).config["BEAM_WIDTH"]
    return lambda data: web.sentence(generator.caption(data, beam_width=width, alternatives=width).text)


def test_choose_photos_and_read_their_captions(visit, caption):
    page = visit()
    page.set_input_files("#photos", [upload("one.png", picture(1)), upload("two.png", picture(2))])
    cards = page.locator("#captions .photo:not(.waiting)")
    playwright.expect(cards).to_have_count(2)
    for card, name, data in zip(cards.all(), ("one.png", "two.png"), (picture(1), picture(2))):
        playwright.expect(card.locator("h2")).to_have_text(caption(data))
        playwright.expect(card.locator(".name")).to_have_text(name)
        assert card.locator("img").evaluate("image => image.naturalWidth") == 320
    playwright.expect(page.locator("#status")).to_have_text(f"two.png: {caption(picture(2))}")


def test_preview_is_there_at_once(visit):
    page = visit()
    page.route("**/*", lambda route: None)  # held back
    page.set_input_files("#photos", [upload("one.png"), upload("two.png")])
    waiting = page.locator(".waiting")
    playwright.expect(waiting).to_have_count(2)
    assert waiting.last.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 320
    page.unroute("**/*")
    playwright.expect(page.locator(".words")).to_have_count(2)


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_drop_and_paste(visit, caption, way):
    page = visit()
    page.locator("body").evaluate(
        """(body, [way, bytes]) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "photo.png", { type: "image/png" }));
            const event = way === "drop" ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
                                         : new ClipboardEvent("paste", { clipboardData: data, bubbles: true });
            body.dispatchEvent(event);
        }""",
        [way, list(picture())],
    )
    playwright.expect(page.locator(".photo h2")).to_have_text(caption(picture()))


def test_invalid_file_gives_a_readable_error_and_the_others_go_on(visit, caption):
    page = visit()
    page.set_input_files("#photos", [BROKEN, upload()])
    failed = page.locator(".photo").first
    playwright.expect(failed).to_contain_text("This is not a photo that we can read")
    playwright.expect(failed).to_contain_text("notes.png")
    playwright.expect(page.locator(".photo h2").last).to_have_text(caption(picture()))


def test_too_large_a_file_is_not_even_sent(visit):
    page = visit()
    page.locator("form").evaluate("form => form.dataset.limit = 2 ** 20")
    page.route("**/*", lambda route: route.abort())
    page.set_input_files("#photos", upload(data=bytes(2**20 + 1)))
    playwright.expect(page.locator(".failed")).to_contain_text("more than 1 MB")


def test_server_that_went_away(chromium, address):
    page = chromium.new_page()
    page.goto(address)
    page.route("**/*", lambda route: route.abort())
    page.set_input_files("#photos", upload())
    playwright.expect(page.locator(".failed")).to_contain_text("The server cannot be reached")
    page.close()


def test_words_show_where_the_model_looked(visit):
    page = visit()
    page.set_input_files("#photos", upload())
    words, shade, text = page.locator(".words button"), page.locator("figure canvas"), page.locator(".sure span")
    playwright.expect(text).to_contain_text("Choose a word")
    playwright.expect(shade).to_have_css("opacity", "0")

    words.nth(1).hover()
    playwright.expect(text).to_have_text(LOOK)
    playwright.expect(shade).to_have_css("opacity", "1")
    page.mouse.move(1, 1)
    playwright.expect(shade).to_have_css("opacity", "0")

    words.first.focus()
    page.keyboard.press("ArrowRight")
    playwright.expect(words.nth(1)).to_be_focused()
    playwright.expect(text).to_contain_text(f"“{words.nth(1).inner_text()}”")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    playwright.expect(words.nth(1)).to_have_attribute("aria-pressed", "true")
    playwright.expect(shade).to_have_css("opacity", "1")
    box, photo = shade.bounding_box(), page.locator("figure img").bounding_box()
    assert box == photo


def test_other_captions_and_copying(visit, caption):
    page = visit()
    page.set_input_files("#photos", upload())
    other = page.locator("details li").first
    playwright.expect(other).to_be_hidden()
    page.locator("summary").click()
    playwright.expect(other).to_be_visible()
    page.get_by_role("button", name="Copy caption").click()
    playwright.expect(page.locator(".copy")).to_have_text("Copied")
    assert page.locator("body").evaluate("() => navigator.clipboard.readText()") == caption(picture())


def test_keyboard_alone_reaches_everything(visit):
    page = visit()
    page.set_input_files("#photos", upload())
    page.locator(".words").wait_for()
    reached = []
    for _ in range(5):
        page.keyboard.press("Tab")
        reached.append(page.locator(":focus").evaluate("e => e.id || e.className || e.localName"))
    assert reached == ["brand", "photos", "button", "summary", "copy"]


def test_without_javascript(visit, caption):
    page = visit(java_script_enabled=False)
    page.set_input_files("#photos", [upload("one.png"), BROKEN])
    page.get_by_role("button", name="Describe them").click()
    playwright.expect(page.locator("h2.caption")).to_have_text(caption(picture()))
    playwright.expect(page.locator(".photo img")).to_be_visible()
    playwright.expect(page.locator(".failed")).to_contain_text("This is not a photo that we can read")
    playwright.expect(page.get_by_role("button", name="Copy caption")).to_have_count(0)


def test_too_large_a_file_without_javascript(visit, tmp_path):
    file = tmp_path / "photo.png"
    file.write_bytes(bytes(40 * 2**20))
    page = visit(java_script_enabled=False)
    page.set_input_files("#photos", file)
    page.get_by_role("button", name="Describe them").click()
    playwright.expect(page.get_by_role("alert")).to_contain_text("more than 32 MB")


@pytest.mark.parametrize("width", [320, 390, 1280, 3840])
@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
def test_nothing_sticks_out(visit, width, script):
    page = visit(viewport={"width": width, "height": 800}, java_script_enabled=script)
    page.set_input_files("#photos", [upload("a-file-name-without-any-place-to-break-it" * 3 + ".png"), BROKEN])
    if not script:
        page.get_by_role("button", name="Describe them").click()
    page.locator(".failed").wait_for()
    widest = page.locator("main").evaluate(
        "main => Math.max(...[...main.querySelectorAll('*')].map(e => e.getBoundingClientRect().right))"
    )
    assert widest <= width
