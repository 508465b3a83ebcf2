"""The gallery as a person uses it. Slow: each test opens pages in a real browser."""

import csv
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from browsing import BROKEN, picture, upload
from helpers import SIDE, Brightness, Serving, wait_until
from PIL import Image
from playwright.sync_api import expect

from app import create_app
from captioning.images import resize_image

pytestmark = pytest.mark.slow


def photos(count, start=0, **options):
    return [upload(f"{n}.png", picture(n, **options)) for n in range(start, start + count)]


def fill(page, files):
    """Adds photos and waits until all have their answers and are shown."""
    page.set_input_files("#files", files)
    finished(page)
    expect(page.locator(".card").first).to_be_attached()


def finished(page):
    expect(page.locator("#sending .count")).to_contain_text("Finished", timeout=300_000)


def names(page):
    return page.locator(".card .name").all_text_contents()  # also of cards that are not on the screen


def found(page, text):
    expect(page.locator("#found")).to_have_text(re.compile(text))


def stored(page):
    """What IndexedDB holds: [photos, number of thumbnails]."""
    return page.locator("body").evaluate(
        """() => new Promise((resolve) => {
            indexedDB.open("gallery").onsuccess = ({ target: { result } }) => {
                const transaction = result.transaction(["photos", "thumbnails"]);
                const photos = transaction.objectStore("photos").getAll();
                const thumbnails = transaction.objectStore("thumbnails").count();
                transaction.oncomplete = () => resolve([photos.result, thumbnails.result]);
            };
        })"""
    )


def downloaded(page, kind):
    with page.expect_download() as download:
        page.get_by_role("button", name=kind, exact=True).click()
    return download.value.path().read_text("utf-8-sig")


# Many photos


class Quick(Brightness):
    """Captions of the usual length at once: this is not about the model."""

    def caption_batch(self, images, **options):
        captions = [
            replace(result, text=f"a dog of brightness {result.text} is running through the green grass")
            for result in super().caption_batch(images, **options)
        ]
        others = ("Another caption", "A third one")
        return [replace(c, alternatives=[c, *(replace(c, text=text) for text in others)]) for c in captions]


@pytest.fixture(scope="module")
def quick_address():
    app = create_app(generator=Quick())
    with Serving(app) as (_server, (host, port)):
        yield f"http://{host}:{port}/"
    app.extensions["images"].close()


def test_three_hundred_photos_in_one_go(visit, quick_address, shoot):
    page = visit()
    page.goto(f"{quick_address}gallery")
    page.set_input_files("#files", photos(300, size=(96, 72)))
    expect(page.locator("#sending .count")).to_have_text(
        re.compile(r"^\d+ of 300 photos · [\d.]+ photos per second · \d+ (seconds?|minutes?) left$")
    )
    finished(page)
    expect(page.locator("#sending .count")).to_have_text("Finished · 300 of 300 photos")
    found(page, "^300 of 300 photos, 0 reviewed$")
    assert names(page) == [f"{n}.png" for n in range(48)]
    expect(page.locator("#pager span")).to_have_text("Page 1 of 7")
    page.get_by_role("button", name="Next page").click()
    assert names(page) == [f"{n}.png" for n in range(48, 96)]
    with Image.open(io.BytesIO(picture(51, size=(96, 72)))) as image:
        brightness = int(resize_image(np.array(image), (SIDE, SIDE)).mean())
    expect(page.locator(".card .caption").nth(3)).to_contain_text(f"A dog of brightness {brightness} is running")

    page.reload()
    found(page, "^300 of 300 photos, 0 reviewed$")
    for n in range(3):
        expect(page.locator(".card img").nth(n)).to_have_attribute("src", re.compile("^blob:"))
        assert page.locator(".card img").nth(n).evaluate("image => image.decode().then(() => image.naturalWidth)") == 96
    page.get_by_label("Search").fill("a")
    page.get_by_label("Order").select_option("Least sure first")
    page.locator("[name=view]").select_option("List")
    page.mouse.move(600, 600)
    for _ in range(20):
        page.mouse.wheel(0, 400)
        page.wait_for_timeout(30)
    shoot(page, "gallery 300")


def test_one_failure_does_not_stop_the_rest(visit, caption):
    page = visit("gallery")
    fill(page, [upload("one.png", picture(1)), BROKEN, upload("two.png", picture(2))])
    expect(page.locator("#sending .count")).to_have_text("Finished · 3 of 3 photos · without caption: 1")
    expect(page.locator(".card .caption").nth(1)).to_contain_text("This is not a photo that we can read")
    expect(page.locator(".card .caption").nth(2)).to_have_text(caption(picture(2)))
    page.get_by_label("Show").select_option("Without caption")
    assert names(page) == ["notes.png"]
    page.get_by_role("button", name="Remove photos without caption").click()
    found(page, "^0 of 2 photos")
    expect(page.get_by_role("button", name="Remove photos without caption")).to_be_hidden()
    page.get_by_label("Show").select_option("All photos")
    assert names(page) == ["one.png", "two.png"]
    assert [photo["name"] for photo in stored(page)[0]] == ["one.png", "two.png"]


def test_each_of_several_failures_has_its_own_reason(visit):
    page = visit("gallery")
    fill(page, [BROKEN, upload("empty.png", b""), upload("cut.png", picture()[:300])])
    texts = page.locator(".card .caption").all_text_contents()
    assert [text.split(".")[0] for text in texts] == [
        "This is not a photo that we can read",
        "The file is empty",
        "The picture is damaged or incomplete",
    ]


@pytest.fixture
def files(tmp_path):
    """24 photos. Chosen again, they are the same ones."""
    files = [tmp_path / f"{n}.png" for n in range(24)]
    for n, file in enumerate(files):
        file.write_bytes(picture(n))
    return files


def cancel_after_one_group(page, files):
    """Adds photos, of which the first eight get captions before the rest are cancelled. Then the server is free."""
    sent = []

    def hold_all_but_the_first(route):
        sent.append(route)
        if len(sent) == 1:
            route.continue_()

    page.route("**/api/captions*", hold_all_but_the_first)
    page.set_input_files("#files", files)
    expect(page.locator(".card")).to_have_count(8)
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#sending .count")).to_have_text("Cancelled · 8 of 24 photos")
    page.unroute("**/api/captions*")


def test_cancel_and_go_on_later(visit, files):
    page = visit("gallery")
    cancel_after_one_group(page, files)
    expect(page.locator("#files")).to_be_focused()
    with page.expect_request("**/api/captions*"):
        page.set_input_files("#files", files)
    finished(page)
    expect(page.locator("#sending .count")).to_have_text("Finished · 16 of 16 photos")  # those that were missing
    assert sorted(names(page), key=lambda name: int(name[:-4])) == [f"{n}.png" for n in range(24)]
    page.set_input_files("#files", files)
    expect(page.get_by_role("alert")).to_have_text("These photos are already in the gallery.")


def test_cancel_while_small_copies_are_made(visit, files):
    page = visit("gallery")
    page.route("**/thumbnailer.js", lambda route: None)
    page.reload()
    cancel_after_one_group(page, files)
    with page.expect_request("**/api/captions*"):
        page.set_input_files("#files", files)
    expect(page.locator(".card")).to_have_count(24)
    expect(page.get_by_role("alert")).to_be_hidden()


def test_photos_that_wait_keep_their_language(visit):
    page, held, free = visit("gallery"), [], []
    page.route("**/api/captions*", lambda route: route.continue_() if free else held.append(route))
    page.set_input_files("#files", photos(26))
    expect(page.locator("#sending .count")).to_contain_text("0 of 26")
    page.get_by_label("Language of the captions").select_option("Deutsch")
    page.set_input_files("#files", photos(2, 26))
    expect(page.locator("#sending .count")).to_contain_text("0 of 28")
    free.append(True)
    for route in held:
        route.continue_()
    finished(page)
    rows = [(row["image"], row["language"]) for row in json.loads(downloaded(page, "JSON"))]
    assert sorted(rows) == sorted((f"{n}.png", "en" if n < 26 else "de") for n in range(28))


def test_server_that_is_busy_and_one_that_is_away(visit, tmp_path):
    page, asked = visit("gallery"), []

    def busy_once(route):
        asked.append(route)
        if len(asked) == 1:
            route.fulfill(status=503, headers={"Retry-After": "Mon, 30 Nov 2026 12:00:00 GMT"})
        else:
            route.continue_()

    page.route("**/api/captions*", busy_once)
    fill(page, photos(1))
    assert len(asked) == 2
    expect(page.locator("#sending .count")).to_have_text("Finished · 1 of 1 photos")

    page.unroute_all()
    asked.clear()

    def busy(route):
        asked.append(route)
        message = "Too many photos are waiting."
        route.fulfill(status=503, headers={"Retry-After": "0"}, json={"status": "error", "message": message})

    page.route("**/api/captions*", busy)
    (tmp_path / "5.png").write_bytes(picture(5))
    fill(page, tmp_path / "5.png")
    assert len(asked) == 5
    expect(page.locator(".card .caption").nth(1)).to_have_text("Too many photos are waiting.")
    with page.expect_request("**/api/captions*"):
        page.set_input_files("#files", tmp_path / "5.png")  # chosen again, it is sent again
    finished(page)
    expect(page.locator(".card")).to_have_count(2)
    page.unroute_all()
    page.get_by_role("button", name="Try again").click()
    finished(page)
    expect(page.locator(".card[data-state=open]")).to_have_count(2)
    expect(page.locator("#files")).to_be_focused()


def test_choose_a_folder(visit, tmp_path):
    (tmp_path / "trip" / "day 1").mkdir(parents=True)
    (tmp_path / "trip" / "a.png").write_bytes(picture(1))
    (tmp_path / "trip" / "day 1" / "a.png").write_bytes(picture(2))
    (tmp_path / "trip" / "._a.png").write_bytes(b"what macOS keeps about a.png")
    (tmp_path / "trip" / "notes.txt").write_text("not a photo")
    page = visit("gallery")
    page.set_input_files("#folder", tmp_path / "trip")
    finished(page)
    expect(page.locator(".card")).to_have_count(2)
    assert sorted(names(page)) == ["trip/a.png", "trip/day 1/a.png"]


# Finding


def test_filters(visit, generator):
    captions = [generator.caption(picture(n), 3, 3) for n in range(12)]
    page = visit("gallery")
    fill(page, photos(12))

    word = page.locator("#words button").first.get_attribute("value")
    having = [f"{n}.png" for n, caption in enumerate(captions) if word in caption.text.split()]
    expect(page.locator("#words button").first).to_have_text(f"{word} {len(having)}")
    page.locator("#words button").first.click()
    expect(page.locator("#status")).to_have_text(page.locator("#found").text_content())
    found(page, f"^{len(having)} of 12 photos")
    assert names(page) == having
    page.reload()  # the filter is in the address
    found(page, f"^{len(having)} of 12 photos")
    page.locator("#words button[aria-pressed=true]").click()

    page.get_by_label("Search").fill("11.PNG")
    found(page, "^1 of 12 photos")
    assert names(page) == ["11.png"]
    page.get_by_label("Search").fill("")

    page.get_by_label("Order").select_option("Least sure first")
    sure = [round(100 * caption.confidence) for caption in captions]
    assert names(page) == [f"{n}.png" for n in sorted(range(12), key=lambda n: (sure[n], n))]
    page.get_by_label("Confidence").select_option("A guess")
    found(page, f"^{sum(per < 45 for per in sure)} of 12 photos")


def test_filters_in_an_address_of_the_open_gallery(visit):
    page = visit("gallery#search=nothing")
    page.set_input_files("#files", photos(2))
    finished(page)
    found(page, "^0 of 2 photos")
    page.evaluate("location.hash = 'order=name'")
    found(page, "^2 of 2 photos")
    expect(page.get_by_label("Order")).to_have_value("name")


def test_filters_in_an_address_that_the_browser_does_not_take(visit):
    page = visit("gallery#length=1&search=0.png")
    page.set_input_files("#files", photos(2))
    finished(page)
    found(page, "^1 of 2 photos")
    page.locator("body").evaluate("() => { history.replaceState = () => { throw new Error('too often'); }; }")
    page.get_by_label("Search").fill("")
    found(page, "^2 of 2 photos")


# Reviewing


def test_review_with_the_keyboard_alone(visit, caption, shoot):
    page = visit("gallery")
    fill(page, photos(4))
    page.get_by_role("button", name="Review").focus()
    page.keyboard.press("Enter")
    dialog, text = page.get_by_role("dialog"), page.get_by_label("Text to publish")
    expect(dialog.get_by_role("heading")).to_have_text("Photo 1 of 4")
    assert dialog.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 320

    page.keyboard.press("?")
    expect(dialog.get_by_text("Accept the text and go on")).to_be_visible()
    shoot(page, "review keys")
    page.keyboard.press("?")
    page.keyboard.press("2")
    expect(text).to_have_value(caption(picture(0), 1))
    page.keyboard.press("a")
    expect(dialog.get_by_role("heading")).to_have_text("Photo 2 of 4")
    expect(dialog.get_by_role("status")).to_contain_text(f"Photo 2 of 4, 1.png: {caption(picture(1))}")

    page.keyboard.press("e")
    page.keyboard.type("Made by a person, with d and u.")
    page.keyboard.press("Escape")
    expect(dialog).to_be_visible()
    expect(dialog.get_by_role("button", name="Accept")).to_be_focused()
    page.keyboard.press("Enter")

    dialog.locator("img").click()  # takes the focus away from the buttons, not the keys from the review
    page.keyboard.press("d")
    expect(text).to_have_value("")
    expect(dialog.get_by_role("button", name="Decorative")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("d")
    expect(text).to_have_value(caption(picture(2)))
    page.keyboard.press("d")
    page.keyboard.press("a")
    page.keyboard.press("a")
    expect(dialog.get_by_role("status")).to_contain_text("That was the last photo.")
    expect(dialog.get_by_text("That was the last photo.", exact=True)).to_be_visible()
    page.keyboard.press("u")
    expect(dialog.get_by_text("Undone.", exact=True)).to_be_visible()
    page.keyboard.press("ArrowLeft")
    expect(dialog.get_by_role("heading")).to_have_text("Photo 3 of 4")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(page.locator(".card button").nth(2)).to_be_focused()

    found(page, "^4 of 4 photos, 3 reviewed$")
    for _ in range(2):
        assert page.locator(".card .caption").all_text_contents() == [
            caption(picture(0), 1),
            "Made by a person, with d and u.",
            "Decorative picture, no text",
            caption(picture(3)),
        ]
        page.reload()
        found(page, "^4 of 4 photos, 3 reviewed$")
    page.get_by_label("Show").select_option("Not reviewed")
    assert names(page) == ["3.png"]


def test_the_review_never_shows_the_photo_before(visit):
    page = visit("gallery")
    fill(page, photos(2))
    page.add_init_script(  # the small copy of the second photo never comes
        """const begin = IDBDatabase.prototype.transaction;
        let count = 0;
        IDBDatabase.prototype.transaction = function (names, mode, options) {
            if (names.join() === "thumbnails" && ++count === 2) return { objectStore: () => ({ get() {} }) };
            return begin.call(this, names, mode, options);
        };"""
    )
    page.reload()
    page.get_by_role("button", name="Review").click()
    image = page.get_by_role("dialog").locator("img")
    expect(image).to_have_attribute("src", re.compile("^blob:"))
    page.keyboard.press("ArrowRight")
    expect(page.locator("#place")).to_have_text("Photo 2 of 2")
    assert not image.evaluate("image => image.hasAttribute('src')")


def test_a_photo_whose_text_is_cleared_is_decorative(visit):
    page = visit("gallery")
    fill(page, photos(1))
    page.get_by_role("button", name="Review").click()
    page.get_by_label("Text to publish").fill("")
    page.get_by_role("button", name="Close").click()
    expect(page.locator(".card .caption")).to_have_text("Decorative picture, no text")


def test_the_focus_is_never_lost(visit, quick_address):
    page = visit()
    page.goto(f"{quick_address}gallery")
    fill(page, photos(49))
    page.get_by_role("button", name="Next page").press("Enter")
    expect(page.get_by_role("button", name="Previous page")).to_be_focused()

    page.get_by_label("Show").select_option("Not reviewed")
    page.locator(".card button").first.press("Enter")
    page.keyboard.press("a")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Review")).to_be_focused()

    page.get_by_label("Show").select_option("Reviewed")
    found(page, "^1 of 49 photos")
    page.locator(".card button").press("Enter")
    second = page.locator("#review .choices button").nth(1)
    second.press("Enter")
    expect(second).to_be_focused()
    expect(second).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Delete")
    expect(page.locator("#found")).to_be_focused()


def test_a_key_that_is_held_down_acts_once(visit):
    page = visit("gallery")
    fill(page, photos(3))
    page.get_by_role("button", name="Review").click()
    for _ in range(3):
        page.keyboard.down("a")  # all but the first are repetitions
    page.keyboard.up("a")
    expect(page.locator("#place")).to_have_text("Photo 2 of 3")
    for _ in range(2):
        page.keyboard.down("ArrowRight")
    expect(page.locator("#place")).to_have_text("Photo 3 of 3")
    page.get_by_role("button", name="Close").click()
    page.get_by_role("button", name="Review").focus()
    for _ in range(3):
        page.keyboard.down("Enter")  # opens the dialog, whose focus is on a button
    page.keyboard.up("Enter")
    expect(page.locator("#place")).to_have_text("Photo 2 of 3")  # the first one that is not reviewed


def test_letters_can_be_switched_off_as_keys(visit):
    """Who dictates would press them by speaking (WCAG 2.1.4)."""
    page = visit("gallery")
    fill(page, photos(2))
    page.get_by_role("button", name="Review").click()
    page.keyboard.press("?")
    page.get_by_label("Use letters, digits and ? as keys").uncheck()
    page.reload()
    page.get_by_role("button", name="Review").click()
    before = stored(page)
    for key in ("a", "d", "2", "?"):
        page.keyboard.press(key)
    expect(page.locator("#place")).to_have_text("Photo 1 of 2")
    expect(page.locator("#keys")).to_be_hidden()
    assert stored(page) == before
    page.keyboard.press("ArrowRight")
    expect(page.locator("#place")).to_have_text("Photo 2 of 2")


def test_everything_in_a_review_can_be_undone(visit, caption):
    page = visit("gallery")
    fill(page, photos(3))
    before = stored(page)
    page.locator(".card button").nth(1).click()
    for key in ("2", "d", "d", "3"):
        page.keyboard.press(key)
    page.get_by_label("Text to publish").fill("One edit.")
    page.keyboard.press("Control+Enter")
    page.keyboard.press("a")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Delete")
    expect(page.locator("#place")).to_have_text("Photo 2 of 2")
    for _ in range(8):
        page.keyboard.press("u")
    expect(page.locator("#place")).to_have_text("Photo 2 of 3")
    page.keyboard.press("u")
    expect(page.get_by_role("dialog").get_by_role("status")).to_have_text("There is nothing to undo.")
    page.keyboard.press("Escape")
    assert stored(page) == before


# Keeping, downloading, deleting


def test_downloads_hold_the_reviewed_texts_of_the_photos_shown(visit, caption):
    page = visit("gallery")
    fill(page, [*photos(3), BROKEN])
    page.get_by_role("button", name="Review").click()
    page.get_by_label("Text to publish").fill('Mine, "all" mine.')
    page.keyboard.press("Control+Enter")
    page.keyboard.press("d")
    page.keyboard.press("a")
    page.keyboard.press("Escape")
    texts = ['Mine, "all" mine.', "", caption(picture(2))]
    rows = list(csv.reader(io.StringIO(downloaded(page, "CSV"))))
    assert [row[:2] for row in rows] == [["image", "caption"], *([f"{n}.png", text] for n, text in enumerate(texts))]
    rows = json.loads(downloaded(page, "JSON"))
    assert [row["caption"] for row in rows] == texts and len(rows[2]["alternatives"]) == 3
    page.get_by_label("Show").select_option("Reviewed")
    found(page, "^2 of 4 photos")
    assert json.loads(downloaded(page, "COCO")) == [
        {"image_id": str(n), "caption": text} for n, text in enumerate(texts[:2])
    ]


def test_a_download_that_fails_leaves_the_gallery(visit):
    page = visit("gallery")
    fill(page, photos(1))
    page.route("**/download*", lambda route: route.fulfill(status=503, body="busy"))
    page.get_by_role("button", name="JSON", exact=True).click()
    expect(page.get_by_role("alert")).to_have_text("The server cannot be reached. Try again in a moment.")
    expect(page.locator(".card")).to_have_count(1)


def test_two_tabs_show_the_same(visit):
    page = visit("gallery")
    fill(page, photos(3))
    other = page.context.new_page()
    other.goto(page.url)
    other.locator(".card button").nth(1).click()
    other.get_by_label("Text to publish").fill("Made in the other tab.")
    expect(page.locator(".card .caption").nth(1)).to_have_text("Made in the other tab.")

    page.locator(".card button").nth(1).click()  # the next change is not taken before the review ends
    other.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(other.locator("#place")).to_have_text("Photo 2 of 2")
    expect(page.get_by_label("Text to publish")).to_have_value("Made in the other tab.")
    page.evaluate("() => { window.heard = new Promise((done) => (new BroadcastChannel('gallery').onmessage = done)); }")
    other.get_by_label("Text to publish").fill("The last one.")  # of a photo that is not under review here
    page.evaluate("() => heard.then(() => true)")
    stored(page)  # after the page itself has read the change
    page.keyboard.press("ArrowRight")
    expect(page.get_by_label("Text to publish")).to_have_value("The last one.")
    page.keyboard.press("Escape")
    expect(page.locator(".card")).to_have_count(2)

    other.keyboard.press("Escape")  # ends the edit
    other.keyboard.press("Escape")
    other.set_input_files("#files", photos(1, 3))
    expect(page.locator(".card")).to_have_count(3)
    image = page.locator(".card img").last
    expect(image).to_have_attribute("src", re.compile("^blob:"))
    assert image.evaluate("image => (image.loading = 'eager', image.decode().then(() => image.naturalWidth))") == 320
    other.get_by_role("button", name="Delete everything …").click()
    other.get_by_role("dialog").get_by_role("button", name="Delete everything").click()
    expect(page.locator("#collection")).to_be_hidden()


def test_small_copies_that_another_tab_makes_later_are_shown(visit):
    page = visit("gallery")
    page.route("**/thumbnailer.js", lambda route: route.fulfill(content_type="text/javascript", body="""
        onmessage = ({ data }) => (onmessage = () => postMessage({ id: data.id, blob: data.file }));"""))  # fmt: skip
    page.reload()
    page.set_input_files("#files", photos(1))
    expect(page.locator(".card")).to_have_count(1)
    other = page.context.new_page()
    other.goto(page.url)
    expect(other.locator(".card")).to_have_count(1)
    page.set_input_files("#files", photos(1, 1))  # only now the first one gets its copy
    expect(other.locator(".card img").first).to_have_attribute("src", re.compile("^blob:"))


def test_delete_everything(visit):
    page = visit("gallery")
    fill(page, photos(3))
    page.get_by_role("button", name="Delete everything …").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    kept, thumbnails = stored(page)
    assert (len(kept), thumbnails) == (3, 3)
    page.get_by_role("button", name="Delete everything …").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete everything").click()
    expect(page.get_by_role("status")).to_have_text("Everything is deleted.")
    expect(page.locator(".card")).to_have_count(0)
    assert stored(page) == [[], 0]
    page.reload()
    expect(page.locator("#collection")).to_be_hidden()
    fill(page, photos(1))
    found(page, "^1 of 1 photos")


def test_a_database_that_the_browser_closed_is_opened_again(visit):
    page = visit("gallery")
    fill(page, photos(2))
    origin = page.evaluate("location.origin")
    clear = {"origin": origin, "storageTypes": "indexeddb"}
    page.context.new_cdp_session(page).send("Storage.clearDataForOrigin", clear)  # closes it, too
    page.get_by_role("button", name="Review").click()
    page.keyboard.press("a")
    expect(page.locator("#place")).to_have_text("Photo 2 of 2")
    expect(page.locator("#review .problem")).to_be_visible()  # the other photo is lost when the page is closed
    wait_until(lambda: stored(page)[0])
    assert [photo["reviewed"] for photo in stored(page)[0]] == [True]


def test_the_browser_is_asked_once_to_keep_the_gallery(visit):
    page = visit("gallery")
    page.locator("body").evaluate(
        "() => { window.asked = 0; navigator.storage.persist = async () => { window.asked += 1; return true; }; }"
    )
    fill(page, photos(2))
    assert page.locator("body").evaluate("() => window.asked") == 1


def test_without_small_copies_the_gallery_works(visit):
    page = visit("gallery")
    page.route("**/thumbnailer.js", lambda route: route.fulfill(status=404))
    page.reload()
    fill(page, photos(2))
    page.get_by_role("button", name="Review").click()
    expect(page.get_by_text("This browser cannot show this file.")).to_be_visible()


def test_no_progress_after_everything_is_deleted(visit):
    page = visit("gallery")
    page.route("**/thumbnailer.js", lambda route: route.fulfill(content_type="text/javascript", body="""
        onmessage = ({ data: { id } }) => setTimeout(() => postMessage({ id, blob: null }), 1500);"""))  # fmt: skip
    page.reload()
    page.set_input_files("#files", photos(1))
    expect(page.locator(".card")).to_have_count(1)
    page.get_by_role("button", name="Delete everything …").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete everything").click()
    page.wait_for_timeout(2000)
    expect(page.locator("#sending")).to_be_hidden()
    expect(page.locator("#status")).to_have_text("Everything is deleted.")


def test_browser_that_stores_nothing(chromium, address):
    page = chromium.new_page()
    page.add_init_script("indexedDB.open = () => { throw new DOMException('no', 'SecurityError'); };")
    page.goto(f"{address}gallery")
    expect(page.get_by_role("alert")).to_contain_text("This browser has no room or does not allow pages to store data")
    fill(page, photos(2))
    expect(page.locator(".card")).to_have_count(2)
    page.close()


def test_without_javascript_the_gallery_says_so(visit):
    page = visit("gallery", java_script_enabled=False)
    assert "The gallery needs JavaScript." in page.locator("main").inner_html()
    expect(page.locator("#upload")).to_be_hidden()


def test_german_gallery(visit, shoot):
    page = visit("gallery", locale="de-DE")
    page.set_input_files("#files", photos(2))
    expect(page.locator("#sending .count")).to_have_text("Fertig · Fotos: 2 von 2")
    expect(page.locator(".card .caption").first).to_have_attribute("lang", "de")
    page.get_by_role("button", name="Prüfen").click()
    expect(page.get_by_role("dialog").get_by_role("heading")).to_have_text("Foto 1 von 2")
    shoot(page, "german review")
