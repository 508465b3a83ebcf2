"""The page as a person uses it. Slow: each starts pages in a real browser."""

import csv
import io
import json
import re
from urllib.parse import urlsplit

import pytest
from browsing import BROKEN, PHONE, picture, upload
from helpers import ROOT
from playwright.sync_api import expect

from web.pages import sentence

LOOK = re.compile(r"^“(.+)”: probability (\d+)%\. The model focused on the bright area\.$")

pytestmark = pytest.mark.slow


def describe(page, *files):
    """Chooses photos and waits until all have their answers."""
    page.set_input_files("#photos", list(files) or [upload()])
    done(page, len(files) or 1)
    return page.locator(".photo").last


def done(page, count):
    expect(page.locator(".photo:not(.waiting)")).to_have_count(count)


def clipboard(page):
    return page.locator("body").evaluate("() => navigator.clipboard.readText()")


def hold(page):
    """Holds back what goes to the server; gives the list of it, and the function that lets it go."""
    held, free = [], []
    page.route(lambda url: urlsplit(url).path == "/", lambda route: route.continue_() if free else held.append(route))

    def release():
        free.append(True)
        for route in held:
            route.continue_()

    return held, release


# Ways in


def test_choose_photos_and_read_their_captions(visit, caption):
    page = visit()
    describe(page, upload("one.png", picture(1)), upload("two.png", picture(2)))
    for card, name, data in zip(
        page.locator(".photo").all(), ("one.png", "two.png"), (picture(1), picture(2)), strict=True
    ):
        expect(card.locator("h2")).to_have_text(caption(data))
        expect(card.locator(".name")).to_have_text(name)
        expect(card.locator(".sure span")).to_contain_text(re.compile(r"^[A-Z][a-z ]+, \d+%\."))
        assert card.locator("img").evaluate("image => image.naturalWidth") == 320
    expect(page.get_by_role("status")).to_contain_text(re.compile(r"^[12] of 2\. (one|two)\.png: .+\.$"))


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_drop_and_paste(visit, caption, way):
    page = visit()
    page.locator("body").evaluate(
        """(body, [way, bytes]) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "photo.png", { type: "image/png" }));
            const event = way === "drop"
                ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
                : new ClipboardEvent("paste", { clipboardData: data, bubbles: true });
            body.dispatchEvent(event);
        }""",
        [way, list(picture())],
    )
    expect(page.locator(".photo h2")).to_have_text(caption(picture()))


def test_take_a_photo_with_the_phone(visit, caption):
    page = visit(**PHONE)
    expect(page.get_by_text("Take a photo")).to_be_visible()
    expect(page.locator("#camera")).to_have_attribute("capture", "environment")
    page.set_input_files("#camera", upload())
    expect(page.locator(".photo h2")).to_have_text(caption(picture()))


def test_our_own_picture(visit):
    page = visit()
    page.get_by_role("button", name="Drawing of a dog").click()
    done(page, 1)
    expect(page.locator(".photo .name")).to_have_text("dog.webp")
    expect(page.locator(".photo h2")).to_contain_text("dog")


@pytest.mark.parametrize("language", ["en", "de", "fr", "cs"])
def test_example_on_the_empty_page_is_what_the_model_says(visit, generator, language):
    page = visit(locale=language)
    result = generator.caption(ROOT / "static" / "samples" / "dog.webp", 3, language=language)
    example = page.locator(".example")
    expect(example.locator("b")).to_have_text(sentence(result.text))
    expect(example).to_contain_text(str(round(100 * result.confidence)))
    assert example.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)")
    if language == "en":
        describe(page)
        expect(example).to_be_hidden()


# On the way


def test_preview_and_progress_are_there_at_once(visit, shoot):
    page = visit()
    _held, release = hold(page)
    page.set_input_files("#photos", [upload(f"{n}.png", picture(n)) for n in range(6)])
    waiting = page.locator(".waiting")
    expect(waiting).to_have_count(6)
    for card, name in zip(waiting.all(), "012345", strict=True):
        assert card.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 320
        expect(card.get_by_role("progressbar", name=f"Progress of {name}.png")).to_be_visible()
    expect(page.get_by_role("button", name="CSV")).to_be_disabled()
    shoot(page, "working")
    release()
    done(page, 6)
    assert page.locator(".photo .name").all_inner_texts() == [f"{n}.png" for n in range(6)]
    expect(page.get_by_role("button", name="CSV")).to_be_enabled()


def test_cancel_one_while_the_others_go_on(visit):
    page = visit()
    _held, release = hold(page)
    page.set_input_files("#photos", [upload(f"{n}.png", picture(n)) for n in range(6)])
    page.locator(".waiting").nth(1).get_by_role("button", name="Cancel").click()  # on its way
    page.locator(".waiting").nth(4).get_by_role("button", name="Cancel").press("Enter")  # not yet sent
    expect(page.get_by_role("status")).to_have_text("Removed: 5.png")
    expect(page.locator(".waiting").nth(3).get_by_role("button", name="Cancel")).to_be_focused()
    release()
    done(page, 4)
    assert page.locator(".photo .name").all_inner_texts() == ["0.png", "2.png", "3.png", "4.png"]


def test_invalid_file_gives_a_readable_error_and_the_others_go_on(visit, caption):
    page = visit()
    describe(page, BROKEN, upload())
    failed = page.locator(".photo").first
    expect(failed).to_contain_text("This is not a photo that we can read")
    expect(failed).to_contain_text("notes.png")
    expect(page.locator(".photo h2").last).to_have_text(caption(picture()))


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("", "This cannot be opened. It is a folder, or the file was moved or deleted."),
        ("video", "This file cannot be opened. It may have been moved or deleted."),
    ],
)
def test_a_file_that_is_gone_says_so(visit, path, problem):
    page = visit(path)
    page.locator("body").evaluate("() => { Blob.prototype.arrayBuffer = () => Promise.reject(new Error('gone')); }")
    page.set_input_files("#file" if path else "#photos", [upload()])
    expect(page.get_by_text(problem).last).to_be_visible()


def test_too_large_a_file_is_not_even_sent(visit):
    page = visit()
    page.locator("#upload").evaluate("form => form.dataset.limit = 2 ** 20")
    held, _release = hold(page)
    describe(page, upload(data=bytes(2**20 + 1)))
    expect(page.locator(".failed")).to_contain_text("more than 32 MB")
    assert held == []


def test_server_that_went_away_and_came_back(chromium, address, caption):
    page = chromium.new_page(locale="en")
    page.goto(address)
    page.route("**/*", lambda route: route.abort())
    page.set_input_files("#photos", upload())
    expect(page.locator(".failed")).to_contain_text("The server cannot be reached")
    page.unroute_all()
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".photo h2")).to_have_text(caption(picture()))
    page.close()


def test_a_short_outage_needs_no_click(chromium, address, caption):
    """Neither the network's nor the server's."""
    page, sent = chromium.new_page(locale="en"), []
    page.goto(address)

    def fail(route):
        sent.append(route)
        if len(sent) == 1:
            return route.abort()
        if len(sent) == 2:
            return route.fulfill(status=503, headers={"Retry-After": "1"})
        return route.continue_()

    page.route(lambda url: urlsplit(url).path == "/", fail)
    card = describe(page)
    expect(card.locator("h2")).to_have_text(caption(picture()))
    assert len(sent) == 3
    page.close()


def test_a_photo_that_waits_keeps_its_options(visit, caption):
    page = visit()
    _held, release = hold(page)
    page.set_input_files("#photos", [upload(f"{n}.png") for n in range(5)])
    expect(page.locator(".waiting")).to_have_count(5)
    page.get_by_label("Language of the captions").select_option("Deutsch")
    release()
    done(page, 5)
    expect(page.locator(".photo h2")).to_have_text([caption(picture())] * 5)


def test_a_browser_that_stores_nothing(visit, caption):
    page = visit()
    page.add_init_script(
        "Object.defineProperty(window, 'sessionStorage', { get() { throw new DOMException('no'); } });"
    )
    page.reload()
    card = describe(page)
    expect(card.locator("h2")).to_have_text(caption(picture()))
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("link", name="Start again").click()
    expect(page.locator(".photo")).to_have_count(0)


# A photo and its caption


def test_words_show_where_the_model_looked(visit, shoot):
    page = visit()
    describe(page)
    words, shade, text = page.locator(".words button"), page.locator("figure canvas"), page.locator(".sure span")
    expect(text).to_contain_text("Choose a word")
    expect(shade).to_have_css("opacity", "0")

    words.nth(1).hover()
    expect(text).to_have_text(LOOK)
    expect(shade).to_have_css("opacity", "1")
    expect(page.locator(".legend")).to_have_css("opacity", "1")
    page.mouse.move(1, 1)
    expect(shade).to_have_css("opacity", "0")

    words.first.focus()
    page.keyboard.press("ArrowRight")
    expect(words.nth(1)).to_be_focused()
    expect(text).to_contain_text(f"“{words.nth(1).inner_text()}”")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(words.nth(1)).to_have_attribute("aria-pressed", "true")
    assert words.evaluate_all("words => words.map((word) => word.tabIndex).indexOf(0)") == 1
    expect(shade).to_have_css("opacity", "1")
    assert shade.bounding_box() == page.locator(".photo figure img").bounding_box()
    shoot(page, "word")


def test_tap_a_word_on_a_phone(visit):
    page = visit(**PHONE)
    describe(page)
    page.locator(".words button").first.tap()
    expect(page.locator(".sure span")).to_have_text(LOOK)
    expect(page.locator("figure canvas")).to_have_css("opacity", "1")


def test_save_where_the_model_looked(visit):
    page = visit()
    describe(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Save attention picture").click()
    assert download.value.suggested_filename == "photo-attention.png"
    assert download.value.path().read_bytes().startswith(b"\x89PNG")


def test_pick_another_caption(visit, caption):
    page = visit()
    describe(page)
    page.get_by_text("3 captions to choose from").click()
    choices = page.locator(".choices button")
    expect(choices).to_have_count(3)
    expect(choices.first).to_have_attribute("aria-pressed", "true")
    choices.nth(1).click()
    expect(choices.nth(1)).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_label("Text to publish")).to_have_value(caption(picture(), 1))
    expect(page.locator(".photo h2")).to_have_text(caption(picture(), 1))
    expect(page.locator(".words")).to_have_text(caption(picture(), 1))
    page.locator(".words button").first.hover()
    expect(page.locator(".sure span")).to_have_text(LOOK)


VOICES = """
    window.spoken = [];
    Object.defineProperty(window, "speechSynthesis", { value: Object.assign(new EventTarget(), {
        getVoices: () => [{ lang: "en" }],
        speak: (speech) => { window.spoken.push([speech.lang, speech.text]); window.speech = speech; },
        cancel: () => window.speech?.onend?.(),
    }) });
"""


def test_another_caption_does_not_replace_a_text_of_ones_own_without_a_question(visit, caption):
    page = visit()
    describe(page)
    field, questions = page.get_by_label("Text to publish"), []
    field.fill("Made by a person.")
    page.locator(".choices summary").click()
    page.once("dialog", lambda dialog: (questions.append(dialog.message), dialog.dismiss()))
    page.locator(".choices button").nth(1).click()
    expect(page.locator(".photo h2")).to_have_text(caption(picture(), 1))
    expect(field).to_have_value("Made by a person.")
    page.reload()
    expect(page.locator(".photo h2")).to_have_text(caption(picture(), 1))
    page.locator(".choices summary").click()
    page.once("dialog", lambda dialog: (questions.append(dialog.message), dialog.accept()))
    page.locator(".choices button").nth(1).click()
    expect(field).to_have_value(caption(picture(), 1))
    page.locator(".choices button").nth(0).click()
    expect(field).to_have_value(caption(picture()))
    page.get_by_role("link", name="Start again").click()  # without a question
    expect(page.locator(".photo")).to_have_count(0)
    assert questions == 2 * ["Replace your text with this caption?"]


def test_a_text_of_ones_own_is_not_removed_without_a_question(visit):
    page = visit()
    describe(page)
    page.get_by_label("Text to publish").fill("Made by a person.")
    page.get_by_role("button", name="Remove").click()  # the question is answered with no
    expect(page.get_by_label("Text to publish")).to_have_value("Made by a person.")
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Remove").click()
    expect(page.locator(".photo")).to_have_count(0)


def test_copy_over_plain_http(visit):
    """There is no navigator.clipboard then."""
    page = visit()
    describe(page)
    page.get_by_label("Text to publish").fill("Made by a person.")
    page.evaluate("delete Navigator.prototype.clipboard")
    button = page.locator(".copy")
    button.press("Enter")
    expect(button).to_have_text("Copied")
    expect(button).to_be_focused()
    page.get_by_label("Text to publish").press("Control+a")
    page.keyboard.press("Control+v")
    expect(page.get_by_label("Text to publish")).to_have_value("Made by a person.")


def test_read_aloud(visit, caption):
    """With voices of the test's own: a browser without a loudspeaker has none."""
    page = visit()
    page.context.add_init_script(VOICES)
    page.reload()
    describe(page)
    page.get_by_role("button", name="Read aloud").click()
    expect(page.get_by_role("button", name="Read aloud")).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="Read aloud").click()
    expect(page.get_by_role("button", name="Read aloud")).to_have_attribute("aria-pressed", "false")
    page.get_by_label("Text to publish").fill("My own words.")
    page.get_by_role("button", name="Read aloud").click()
    spoken = page.locator("body").evaluate("() => window.spoken")
    assert spoken == [["en", caption(picture())], ["en", "My own words."]]


def test_no_read_aloud_in_a_browser_without_voices(visit):
    page = visit()
    page.context.add_init_script("delete Window.prototype.speechSynthesis; delete window.speechSynthesis;")
    page.reload()
    describe(page)
    expect(page.get_by_role("button", name="Copy text")).to_be_visible()
    expect(page.get_by_role("button", name="Read aloud")).to_be_hidden()


def test_edit_and_copy(visit):
    page = visit()
    describe(page)
    page.get_by_label("Text to publish").fill('Rex & "Bella" <3')
    page.get_by_role("button", name="Copy text").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert clipboard(page) == 'Rex & "Bella" <3'
    page.get_by_role("button", name="Copy <img").click()
    expect(page.get_by_role("status")).to_have_text("Copied")
    markup = clipboard(page)
    assert re.fullmatch(r'<img alt="Rex &amp; &quot;Bella&quot; (<|&lt;)3">', markup)
    page.get_by_label("Text to publish").fill("")
    expect(page.get_by_role("button", name="Copy <img")).to_be_visible()
    page.get_by_role("button", name="Copy <img").click()
    expect(page.get_by_role("button", name="Copy <img")).to_have_count(0)
    assert clipboard(page) == '<img alt="">'


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
def test_downloads_hold_the_edited_texts(visit, caption, script):
    page = visit(java_script_enabled=script)
    page.set_input_files("#photos", [upload("one.png", picture(1)), BROKEN, upload("two.png", picture(2))])
    if not script:
        page.get_by_role("button", name="Get captions").click()
    done(page, 3)
    page.get_by_label("Text to publish").first.fill('Mine, "all" mine.')
    got = {}
    for kind in ("CSV", "JSON", "COCO"):
        with page.expect_download() as download:
            page.get_by_role("button", name=kind, exact=True).click()
        got[kind] = download.value.path().read_text("utf-8-sig")
    texts = ['Mine, "all" mine.', caption(picture(2))]
    assert list(csv.reader(io.StringIO(got["CSV"])))[1:] == [
        ["one.png", texts[0], "en"],
        ["two.png", texts[1], "en"],
    ]
    assert [(row["image"], row["caption"]) for row in json.loads(got["JSON"])] == list(
        zip(["one.png", "two.png"], texts, strict=True)
    )
    assert json.loads(got["COCO"]) == [
        {"image_id": "one", "caption": texts[0]},
        {"image_id": "two", "caption": texts[1]},
    ]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"status": 429, "body": '<main><p class="problem">Please wait.</p></main>'}, "Please wait."),
        ({"status": 503, "body": "Bad gateway"}, "The server cannot be reached. Try again in a moment."),
    ],
)
def test_a_download_that_fails_loses_nothing(visit, answer, message):
    page = visit()
    describe(page)
    field = page.get_by_label("Text to publish")
    field.fill("Made by a person.")
    page.route("**/download*", lambda route: route.fulfill(content_type="text/html", **answer))
    page.get_by_role("button", name="CSV", exact=True).click()
    expect(page.get_by_text(message)).to_be_visible()
    expect(field).to_have_value("Made by a person.")
    questions = []
    page.once("dialog", lambda dialog: (questions.append(dialog.message), dialog.dismiss()))
    page.get_by_role("link", name="Start again").click()
    assert questions == ["You have edited captions that you did not download. Discard your edits?"]
    page.unroute("**/download*")
    with page.expect_download():
        page.get_by_role("button", name="CSV", exact=True).click()
    expect(page.get_by_text(message)).to_have_count(0)


# Nothing is lost, nothing is kept


def test_a_card_of_an_older_version_keeps_its_text_and_harms_no_other(visit):
    page = visit()
    describe(page, upload("old.png", picture(1)), upload("new.png", picture(2)))
    page.get_by_label("Text to publish").first.fill("My own words.")
    page.locator("body").evaluate(
        """() => {
            const [key] = Object.keys(sessionStorage).filter((key) => sessionStorage[key].includes("old.png"));
            sessionStorage[key] = sessionStorage[key].replaceAll("copy-alt", "copied-once");
        }"""
    )
    page.reload()
    expect(page.get_by_label("Text to publish").first).to_have_value("My own words.")
    expect(page.locator(".photo", has_text="new.png").get_by_role("button", name="Copy text")).to_be_visible()


def test_reload_keeps_what_was_made(visit, caption):
    page = visit()
    describe(page, *[upload(f"{n}.png", picture(n)) for n in range(3)])
    page.get_by_label("Text to publish").nth(0).fill("My own words.")
    card = page.locator(".photo").nth(2)
    card.locator("summary").click()
    card.locator(".choices button").nth(1).click()
    page.locator(".photo").nth(1).get_by_role("button", name="Remove").click()
    page.reload()
    done(page, 2)
    assert page.locator(".photo .name").all_inner_texts() == ["0.png", "2.png"]
    expect(page.get_by_label("Text to publish").nth(0)).to_have_value("My own words.")
    expect(page.get_by_label("Text to publish").nth(1)).to_have_value(caption(picture(2), 1))
    expect(page.locator(".photo h2").nth(1)).to_have_text(caption(picture(2), 1))
    page.locator(".words button").first.hover()
    expect(page.locator(".sure span").first).to_have_text(LOOK)
    assert page.locator(".photo img").first.evaluate("image => image.naturalWidth") == 320

    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("link", name="Start again").click()
    page.reload()
    done(page, 0)
    assert page.locator("body").evaluate("() => sessionStorage.length") == 0


def test_start_again_asks_before_edits_are_lost(visit):
    page = visit()
    describe(page)
    field, start_again = page.get_by_label("Text to publish"), page.get_by_role("link", name="Start again")
    field.fill("Made by a person.")
    start_again.click(modifiers=["Control"])  # another tab
    expect(field).to_have_value("Made by a person.")
    page.once("dialog", lambda dialog: dialog.dismiss())
    start_again.click()
    expect(field).to_have_value("Made by a person.")
    asked: list[str] = []
    page.once("dialog", lambda dialog: (asked.append(dialog.type), dialog.accept()))
    page.reload()
    assert asked == ["beforeunload"]
    page.once("dialog", lambda dialog: dialog.accept())
    start_again.click()
    expect(page.locator(".photo")).to_have_count(0)


def test_text_of_an_office_program_is_not_taken_for_a_photo(visit):
    """It comes with a picture of itself."""
    page = visit()
    describe(page)
    page.get_by_label("Text to publish").evaluate(
        """(field) => {
            const clipboardData = new DataTransfer();
            clipboardData.items.add(new File(["x"], "image.png", { type: "image/png" }));
            clipboardData.setData("text/plain", "A cell.");
            field.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true }));
        }"""
    )
    expect(page.locator("#captions > *")).to_have_count(1)


def test_reload_keeps_the_order_in_which_photos_came(visit):
    page, held = visit(), []

    def hold_the_first(route):
        if route.request.method == "POST" and not held:
            held.append(route)
        else:
            route.continue_()

    page.route("**/*", hold_the_first)
    page.locator("#photos").set_input_files([upload(f"{n}.png", picture(n)) for n in range(2)])
    expect(page.get_by_label("Text to publish")).to_have_count(1)
    held[0].continue_()
    done(page, 2)
    page.reload()
    done(page, 2)
    assert page.locator(".photo .name").all_inner_texts() == ["0.png", "1.png"]


def test_browser_asks_before_edits_are_lost_that_it_has_no_room_for(visit):
    page = visit()
    page.locator("body").evaluate("() => sessionStorage.setItem('filler', 'x'.repeat(5 * 2 ** 20 - 10_000))")
    describe(page)
    asked = []
    page.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.dismiss()))
    page.get_by_label("Text to publish").click()  # browsers ask only those who did something
    page.get_by_label("Text to publish").fill("My own words.")
    with page.expect_download():
        page.get_by_role("button", name="CSV", exact=True).click()
    assert not asked
    with page.expect_event("dialog"):
        page.locator("body").evaluate("() => { location.reload(); }")
    assert asked == ["beforeunload"]
    expect(page.get_by_label("Text to publish")).to_have_value("My own words.")
    page.locator("body").evaluate("() => sessionStorage.clear()")


def test_browser_asks_before_edits_are_lost_in_a_page_that_came_without_script(visit):
    page = visit()
    asked: list[str] = []
    page.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.dismiss()))
    with page.expect_navigation():
        page.locator("#upload").evaluate(
            """form => {
                form.insertAdjacentHTML("beforeend", "<input type=hidden name=sample value=dog>");
                form.submit();
            }"""
        )
    page.get_by_label("Text to publish").click()  # browsers ask only those who did something
    page.get_by_label("Text to publish").fill("My own words.")
    with page.expect_event("dialog"):
        page.locator("body").evaluate("() => { location.reload(); }")
    assert asked == ["beforeunload"]
    with page.expect_download():
        page.get_by_role("button", name="CSV", exact=True).click()
    page.wait_for_timeout(300)
    page.get_by_role("link", name="Gallery").first.click()
    expect(page.get_by_role("heading", name="Gallery")).to_be_visible()
    assert asked == ["beforeunload"]


def test_options_stand_in_the_address(visit, generator):
    page = visit()
    page.get_by_text("Options", exact=True).click()
    page.get_by_label("Beam width").fill("5")
    page.get_by_label("Captions to choose from").fill("4")
    expect(page).to_have_url(re.compile(r"/\?language=en&beam_width=5&alternatives=4$"))
    page.reload()
    expect(page.get_by_label("Beam width")).to_have_value("5")
    card = describe(page)
    found = generator.caption(picture(), 5, 5).alternatives[:4]
    texts = [text.lower().rstrip(".") for text in card.locator(".choices li [lang]").all_text_contents()]
    assert texts == [choice.text.lower() for choice in found]


def test_a_wrong_option_is_shown_when_the_language_is_chosen(visit):
    page = visit()
    page.get_by_text("Options", exact=True).click()
    page.get_by_label("Beam width").fill("")
    page.get_by_text("Options", exact=True).click()
    expect(page.get_by_label("Beam width")).to_be_hidden()
    page.get_by_label("Language of the captions").select_option("Deutsch")
    expect(page.get_by_label("Beam width")).to_be_focused()


def test_options_work_on_an_error_page(visit, address):
    page = visit()
    page.goto(f"{address}/nothing")
    page.get_by_text("Options", exact=True).click()
    page.get_by_label("Captions to choose from").fill("2")
    card = describe(page)
    expect(card.locator(".choices li")).to_have_count(2)


# Without JavaScript


def test_without_javascript(visit, caption, shoot):
    page = visit("?alternatives=2", java_script_enabled=False)
    page.set_input_files("#photos", [upload("one.png"), BROKEN])
    page.get_by_role("button", name="Get captions").click()
    expect(page.locator("h2.caption")).to_have_text(caption(picture()))
    expect(page.locator(".photo img")).to_be_visible()
    expect(page.locator(".failed")).to_contain_text("This is not a photo that we can read")
    expect(page.get_by_label("Text to publish")).to_have_value(caption(picture()))
    page.get_by_text("2 captions to choose from").click()
    expect(page.locator(".choices li").nth(1)).to_contain_text(caption(picture(), 1))
    for name in ("Copy text", "Remove", "Save attention picture", "Try again"):
        expect(page.get_by_role("button", name=name)).to_have_count(0)
    assert page.url.endswith("/?alternatives=2&language=en#captions")
    shoot(page, "no script")


def test_options_and_our_own_pictures_without_javascript(visit):
    page = visit(java_script_enabled=False)
    page.get_by_text("Options", exact=True).click()
    page.get_by_label("Captions to choose from").fill("5")
    page.get_by_role("button", name="Apply").click()
    assert page.url.endswith("/?language=en&beam_width=3&alternatives=5")
    page.get_by_role("button", name="Drawing of a beach").click()
    expect(page.locator(".choices li")).to_have_count(5)


def test_language_without_javascript(visit, caption):
    page = visit(java_script_enabled=False)
    page.get_by_label("Language of the captions").select_option("Deutsch")
    page.set_input_files("#photos", upload())
    page.get_by_role("button", name="Get captions").click()
    expect(page.locator("h2.caption")).to_have_text(caption(picture(), language="de"))
    expect(page.get_by_label("Language of the captions")).to_have_value("de")
    page.get_by_text("Options", exact=True).click()
    page.get_by_role("button", name="Apply").click()
    expect(page.get_by_label("Language of the captions")).to_have_value("de")


def test_too_large_a_file_without_javascript(visit, tmp_path):
    file = tmp_path / "photo.png"
    file.write_bytes(bytes(40 * 2**20))
    page = visit(java_script_enabled=False)
    page.set_input_files("#photos", file)
    page.get_by_role("button", name="Get captions").click()
    expect(page.get_by_role("alert")).to_contain_text("more than 32 MB")


# The rest


def test_german(visit, caption, shoot):
    page = visit(locale="de-DE", **PHONE)
    expect(page.locator("html")).to_have_attribute("lang", "de")
    describe(page)
    expect(page.locator(".photo h2 span")).to_have_attribute("lang", "de")
    expect(page.locator(".photo h2")).to_have_text(caption(picture(), language="de"))
    expect(page.locator(".sure span")).to_contain_text("Wählen Sie ein Wort")
    page.locator(".words button").first.tap()
    expect(page.locator(".sure span")).to_have_text(re.compile(r"^„.+“: Wahrscheinlichkeit \d+\s%\."))
    expect(page.get_by_role("status")).to_have_text(f"1 von 1. photo.png: {caption(picture(), language='de')}")
    shoot(page, "german phone")


def test_first_view_is_small_and_ours(visit, address):
    page = visit()
    page.wait_for_load_state("networkidle")
    loaded = page.locator("body").evaluate(
        "() => performance.getEntries().filter(e => 'transferSize' in e).map(e => [e.name, e.transferSize])"
    )
    assert len(loaded) >= 4
    assert all(url.startswith(address) for url, _size in loaded)
    assert 10_000 < sum(size for _url, size in loaded) < 60_000


def test_the_api_can_be_tried(visit, shoot):
    page = visit("docs")
    expect(page.locator(".opblock")).to_have_count(7)
    page.get_by_text("/model/metadata").click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()
    expect(page.locator(".live-responses-table")).to_contain_text("Image-to-Text")
    shoot(page, "docs")
