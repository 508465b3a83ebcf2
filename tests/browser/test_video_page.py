"""The page for clips as a person uses it. Slow: each starts pages in a real browser, and encodes clips."""

import json
import re

import pytest
from clips import animation, clip
from playwright.sync_api import expect

from captioning.descriptions import to_srt, to_vtt
from captioning.text import sentence

SHOTS = ((1, 2.0), (2, 2.0), (3, 2.0))

pytestmark = pytest.mark.slow


def webm(name="clip.webm", data=None) -> dict:
    return {"name": name, "mimeType": "video/webm", "buffer": data or clip(SHOTS, "webm", "libvpx")}


@pytest.fixture
def expected(generator, tmp_path):
    """The segments that the page should show."""
    (tmp_path / "clip.webm").write_bytes(webm()["buffer"])
    return generator.caption_video(tmp_path / "clip.webm")


def describe(page, file=None):
    page.set_input_files("#file", file or webm())
    expect(page.locator("#timeline li").first).to_be_visible()


def keep_running(page):
    """No clip that is sent from now on gets its captions."""

    def answer(route):
        if route.request.method == "POST":
            route.fulfill(status=202, json={"url": "/api/videos/1"})
        else:
            route.fulfill(json={"state": "running", "progress": 0.4})

    page.route(re.compile(r"/api/videos"), answer)


def download(page, name) -> str:
    with page.expect_download() as found:
        page.get_by_role("button", name=name).click()
    return found.value.path().read_text(encoding="utf-8")


def test_timeline_edit_and_download(visit, expected, shoot):
    page = visit("video")
    describe(page)
    fields = page.locator("#timeline textarea")
    expect(fields).to_have_count(len(expected))
    for field, segment in zip(fields.all(), expected, strict=True):
        expect(field).to_have_value(sentence(segment.caption.text))
    for image in page.locator(".seek img").all():
        assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 100
    expect(page.get_by_role("status")).to_have_text(f"Captions ready: {len(expected)}")
    assert download(page, "WebVTT") == to_vtt(expected)
    assert download(page, "SRT") == to_srt(expected)

    fields.first.fill("Dots & lines\n<b>move</b> --> right")
    vtt = download(page, "WebVTT")
    assert "\nDots &amp; lines &lt;b&gt;move&lt;/b&gt; --&gt; right\n" in vtt and vtt.count("-->") == len(expected)
    assert "\nDots & lines <b>move</b> → right\n" in download(page, "SRT")
    rows = json.loads(download(page, "JSON"))
    assert rows["video"] == "clip.webm" and rows["segments"][0]["caption"] == "Dots & lines <b>move</b> --> right"
    assert rows["segments"][0]["end"] == pytest.approx(expected[0].end, abs=0.001)
    fields.first.fill(" ")
    assert download(page, "WebVTT").count("-->") == len(expected) - 1
    shoot(page, "video")


def test_thumbnails_seek_and_the_row_of_the_moment_is_marked(visit, expected):
    page = visit("video")
    describe(page)
    video, rows = page.locator("video"), page.locator("#timeline li")
    expect(rows.first).to_have_attribute("aria-current", "true")
    rows.last.get_by_role("button").focus()
    page.keyboard.press("Enter")
    expect(rows.last).to_have_attribute("aria-current", "true")
    assert video.evaluate("video => video.currentTime") == pytest.approx(expected[-1].start, abs=0.05)
    expect(page.locator("#timeline [aria-current]")).to_have_count(1)


def test_edits_are_not_lost_to_another_clip_without_a_question(visit):
    page = visit("video")
    describe(page)
    fields, questions = page.locator("#timeline textarea"), []
    fields.first.fill("Made by a person.")
    page.once("dialog", lambda dialog: (questions.append(dialog.message), dialog.dismiss()))
    page.set_input_files("#file", webm("other.webm"))
    expect(fields.first).to_have_value("Made by a person.")
    assert questions == ["You have edited captions that you did not download. Discard your edits?"]
    page.once("dialog", lambda dialog: dialog.accept())
    page.set_input_files("#file", webm("other.webm"))
    expect(fields.first).not_to_have_value("Made by a person.")


def test_a_second_clip_does_not_end_the_running_one_without_a_question(visit):
    page = visit("video")
    keep_running(page)
    page.set_input_files("#file", webm())
    bar = page.get_by_role("progressbar", name="Looking for shots")
    expect(bar).to_be_visible()
    page.locator("#upload").evaluate("form => (form.dataset.limit = 1000)")
    page.set_input_files("#file", webm("large.webm"))
    expect(page.get_by_role("alert")).to_contain_text("more than 200 MB")
    expect(bar).to_be_visible()
    page.locator("#upload").evaluate("form => (form.dataset.limit = 10_000_000)")
    questions: list[str] = []
    page.once("dialog", lambda dialog: (questions.append(dialog.message), dialog.dismiss()))
    page.set_input_files("#file", webm("other.webm"))
    assert questions == ["Another clip is being captioned. Caption this one instead?"]
    expect(page.locator("#work .name")).to_have_text("clip.webm")
    page.once("dialog", lambda dialog: dialog.accept())
    page.set_input_files("#file", webm("other.webm"))
    expect(page.locator("#work .name")).to_have_text("other.webm")


def test_a_player_that_is_hidden_is_silent(visit):
    page = visit("video")
    describe(page)
    page.locator("video").evaluate("video => { video.loop = video.muted = true; return video.play(); }")
    keep_running(page)
    page.set_input_files("#file", webm("other.webm"))
    expect(page.locator("#result")).to_be_hidden()
    assert page.locator("video").evaluate("video => video.paused")


def test_a_focused_field_is_not_behind_the_clip(visit):
    page = visit("video", viewport={"width": 600, "height": 800})
    describe(page)
    page.locator("#timeline textarea").last.focus()
    page.locator("body").evaluate("() => scrollTo(0, document.body.scrollHeight)")
    for _ in range(4):
        page.keyboard.press("Shift+Tab")
        page.wait_for_timeout(500)
        top = page.locator(":focus").bounding_box()["y"]
        assert top >= page.locator("#result figure").evaluate("figure => figure.getBoundingClientRect().bottom")


def test_an_answer_that_breaks_off_is_asked_for_again(visit):
    page = visit("video")
    asked = []

    def answer(route):
        asked.append(route.request.method)
        return route.fulfill(body="") if len(asked) == 1 else route.continue_()

    page.route(re.compile(r"/api/videos/"), answer)
    describe(page)


def test_a_clip_is_sent_again_if_the_server_is_busy(visit):
    page = visit("video")
    asked = []

    def answer(route):
        asked.append(route.request.method)
        if len(asked) > 1:
            return route.continue_()
        return route.fulfill(status=503, headers={"Retry-After": "1"}, json={"message": "busy"})

    page.route(re.compile(r"/api/videos(\?|$)"), answer)
    describe(page)
    assert asked == ["POST", "POST"]


def test_an_animation_is_shown_but_cannot_seek(visit):
    page = visit("video")
    gif = {"name": "a.gif", "mimeType": "image/gif", "buffer": animation(SHOTS, "GIF", 0.5)}
    describe(page, gif)
    assert page.locator("figure img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 160
    expect(page.locator(".seek").first).to_be_disabled()


def test_drop_a_clip(visit):
    page = visit("video")
    page.locator("body").evaluate(
        """(body, bytes) => {
            const dataTransfer = new DataTransfer();
            dataTransfer.items.add(new File([new Uint8Array(bytes)], "clip.webm", { type: "video/webm" }));
            body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
        }""",
        list(webm()["buffer"]),
    )
    expect(page.locator("#timeline li").first).to_be_visible()


def test_a_clip_that_the_browser_cannot_play(visit):
    page = visit("video")
    describe(page, {"name": "a.mp4", "mimeType": "video/mp4", "buffer": clip(SHOTS, codec="mpeg4")})
    expect(page.get_by_text("Your browser cannot play this clip")).to_be_visible()
    expect(page.locator(".seek").first).to_be_disabled()


def test_bad_and_large_clips(visit):
    page = visit("video")
    page.set_input_files("#file", webm("notes.mp4", b"not a clip"))
    expect(page.get_by_role("alert")).to_contain_text("This is not a clip that we can read")
    page.locator("#upload").evaluate("form => form.dataset.limit = 1000")
    page.set_input_files("#file", webm())
    expect(page.get_by_role("alert")).to_contain_text("more than 200 MB")


def test_progress_and_cancel(visit, chromium):
    page = visit("video")
    asked: list[str] = []
    page.route(re.compile(r"/api/videos/"), lambda route: (asked.append(route.request.method), route.fulfill(
        json={"state": "running", "progress": 0.4}))[-1] if route.request.method == "GET" else (
        asked.append("DELETE"), route.continue_())[-1])  # fmt: skip
    page.set_input_files("#file", webm())
    bar = page.get_by_role("progressbar", name="Looking for shots")
    expect(bar).to_have_attribute("value", "0.4")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#work")).to_be_hidden()
    expect(page.locator("#file")).to_be_focused()
    page.wait_for_timeout(1500)
    assert asked[-1] == "DELETE"


@pytest.mark.parametrize(
    "answer",
    [{"json": {"state": "done", "progress": 1, "segments": []}}, {"status": 422, "json": {"message": "No."}}],
)
def test_the_focus_is_not_lost_at_the_end(visit, answer):
    page, ended = visit("video"), []
    running = {"json": {"state": "running", "progress": 0.4}}
    page.route(re.compile(r"/api/videos/"), lambda route: route.fulfill(**(answer if ended else running)))
    page.set_input_files("#file", webm())
    page.get_by_role("button", name="Cancel").focus()
    ended.append(True)
    expect(page.locator("#work")).to_be_hidden()
    expect(page.locator("#file")).to_be_focused()


def test_without_javascript(visit):
    page = visit("video", java_script_enabled=False)
    assert "This page needs JavaScript" in page.locator("noscript").text_content()
    expect(page.locator("#upload")).to_be_hidden()


def test_nothing_sticks_out_and_targets_are_large_enough(visit):
    page = visit("video")
    describe(page, webm("a-file-name-without-any-place-to-break-it" * 3 + ".webm"))
    for width in (320, 640, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        widest = page.locator("main").evaluate(
            "main => Math.max(...[...main.querySelectorAll('*')].map(e => e.getBoundingClientRect().right))"
        )
        assert widest <= width
        for button in page.locator("button:visible, .button:visible, nav a").all():
            box = button.bounding_box()
            assert min(box["width"], box["height"]) >= 24, button.inner_text()
