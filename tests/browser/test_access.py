"""Everybody can use the pages: WCAG 2.2 AA as far as machines can check, keyboard, sizes, motion.

Slow: each test opens pages in a real browser.
"""

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from browsing import BROKEN, PHONE, picture, upload
from playwright.sync_api import expect
from test_gallery import fill, photos
from test_html import draft
from test_page import describe, hold
from test_video_page import describe as describe_clip
from test_video_page import webm

RULES = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    "resultTypes": ["violations"],
}

pytestmark = pytest.mark.slow


def empty(page):
    page.get_by_text("Options", exact=True).click()


def working(page):
    hold(page)
    page.set_input_files("#photos", [upload(f"{n}.png") for n in range(6)])
    expect(page.locator(".waiting")).to_have_count(6)


def result(page):
    describe(page)
    page.locator("summary").nth(1).click()
    page.locator(".words button").first.click()
    page.mouse.move(1, 1)


def error_page(page):
    page.goto(page.url + "nowhere")


def site_form(page):
    page.get_by_role("link", name="Web pages").click()


def site_report(page):
    draft(page, "<img src=one.png><img src=https://example.org/a.jpg><img>", upload("one.png", picture(1)))


def site_error(page):
    site_form(page)
    page.set_input_files("#site", [upload("one.png")])
    page.get_by_role("button", name="Get drafts").click()


def many(page):
    describe(page, *[upload(f"{n}.png", picture(n)) for n in range(5)], BROKEN)


def gallery_empty(page):
    page.goto(page.url + "gallery")


def gallery_working(page):
    gallery_empty(page)
    page.route("**/api/captions*", lambda route: None)
    page.set_input_files("#files", photos(20))
    expect(page.locator("#sending .count")).to_have_text("0 of 20 photos")


def gallery_grid(page):
    gallery_empty(page)
    fill(page, [*photos(5), BROKEN])
    page.locator("#words").evaluate("words => words.open = true")
    page.locator("#words button").first.click()
    page.locator("#words button").first.click()


def gallery_list(page):
    gallery_grid(page)
    page.locator("[name=view]").select_option("List")


def gallery_review(page):
    gallery_grid(page)
    page.get_by_role("button", name="Review").click()
    page.keyboard.press("?")
    page.keyboard.press("a")
    page.keyboard.press("d")


def gallery_delete(page):
    gallery_grid(page)
    page.get_by_role("button", name="Delete everything …").click()


def video_empty(page):
    page.goto(page.url + "video")


def video_working(page):
    video_empty(page)
    page.route(re.compile("/api/videos/"), lambda route: route.fulfill(json={"state": "running", "progress": 0.4}))
    page.set_input_files("#file", webm())
    expect(page.locator("#work")).to_be_visible()


def video_result(page):
    video_empty(page)
    describe_clip(page)


def video_error(page):
    video_empty(page)
    page.set_input_files("#file", webm("notes.mp4", b"not a clip"))
    expect(page.get_by_role("alert")).to_be_visible()


TARGETS = "button:visible:not(.words *), summary:visible, .button:visible, a:visible, select:visible"
"""The words of a caption are links in a text, which may be smaller."""
SIZES = """targets => targets.map(target => {
    const box = target.getBoundingClientRect();
    return [Math.min(box.width, box.height), target.outerHTML];
})"""


@pytest.mark.parametrize(
    "state",
    [
        empty,
        working,
        result,
        error_page,
        many,
        gallery_empty,
        gallery_working,
        gallery_grid,
        gallery_list,
        gallery_review,
        gallery_delete,
        site_form,
        site_report,
        site_error,
        video_empty,
        video_working,
        video_result,
        video_error,
    ],
)
def test_axe_finds_nothing_and_targets_are_large_enough_for_a_thumb(visit, shoot, state):
    """On a light desktop and a dark phone. On the phone, targets have 44 pixels."""
    page = visit(reduced_motion="reduce", has_touch=True)
    state(page)
    for scheme, size in (("light", None), ("dark", PHONE["viewport"])):
        page.emulate_media(color_scheme=scheme)
        if size:
            page.set_viewport_size(size)
        shoot(page, f"{state.__name__} {scheme}")
        found = Axe().run(page, options=RULES)
        assert found.violations_count == 0, found.generate_report()
    part = "dialog[open]" if page.locator("dialog[open]").count() else "body"
    sizes = page.locator(part).locator(TARGETS).evaluate_all(SIZES)
    assert len(sizes) >= 2
    assert [target for size, target in sizes if size < 43.5] == []


def test_keyboard_alone_reaches_everything_and_shows_where_it_is(visit):
    page = visit()
    describe(page)
    reached = []
    page.locator("body").evaluate("() => scrollTo(0, 0)")
    for _ in range(19):
        page.keyboard.press("Tab")
        focused = page.locator(":focus")
        reached.append(focused.evaluate("e => e.id || e.className || e.pathname?.slice(1) || e.localName"))
        ring = focused if reached[-1] != "photos" else page.locator("label[for=photos]")
        assert ring.evaluate("e => getComputedStyle(e).outlineStyle") != "none"
    assert reached == [
        "brand", "gallery", "html", "video", "photos", "select", "summary", "plain", "plain", "plain", "zip", "clear",
        "button", "summary", "textarea", "plain copy", "plain copy-alt", "plain strip", "plain remove",
    ]  # fmt: skip


WIDEST = "root => Math.max(...[...root.querySelectorAll('*')].map(e => e.getBoundingClientRect().right))"


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
def test_nothing_sticks_out(visit, shoot, script):
    page = visit("?alternatives=5", java_script_enabled=script)
    page.set_input_files("#photos", [upload("a-file-name-without-any-place-to-break-it" * 3 + ".png"), BROKEN])
    if not script:
        page.get_by_role("button", name="Get captions").click()
    expect(page.locator(".photo:not(.waiting)")).to_have_count(2)
    for summary in page.locator("summary").all():
        summary.click()
    for width in (320, 390, 640, 1280, 3840):  # 640 is 1280 at 200 %
        page.set_viewport_size({"width": width, "height": 800})
        assert page.locator("main").evaluate(WIDEST) <= width
        if script:
            shoot(page, f"{width} wide")


@pytest.mark.parametrize("state", [gallery_list, gallery_review])
def test_nothing_sticks_out_of_the_gallery(visit, shoot, state):
    page = visit()
    state(page)
    for width in (320, 390, 640, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.locator("html").evaluate("html => html.scrollWidth") <= width
        assert page.locator("dialog[open]" if state is gallery_review else "main").evaluate(WIDEST) <= width
        shoot(page, f"{state.__name__} {width} wide")


def test_reduced_motion(visit):
    page = visit(reduced_motion="reduce")
    working(page)
    moving = "() => document.getAnimations().filter(a => a.effect.target.matches?.('main *')).length"
    assert page.locator("body").evaluate(moving) == 0
