"""A web page gets drafts of alt texts. Slow: each test opens pages in a real browser."""

import pytest
from browsing import picture, upload
from playwright.sync_api import expect

pytestmark = pytest.mark.slow


def draft(page, html, *pictures):
    """Send a page and its pictures from the page "Web pages", and wait for the report."""
    page.get_by_role("link", name="Web pages").click()
    page.set_input_files("#site", [{"name": "index.html", "mimeType": "text/html", "buffer": html.encode()}, *pictures])
    page.get_by_role("button", name="Get drafts").click()
    expect(page.locator("#drafts")).to_be_visible()


def save(page) -> tuple[str, str]:
    with page.expect_download() as download:
        page.locator("#drafts a[download]").click()
    return download.value.suggested_filename, download.value.path().read_bytes().decode()


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
def test_drafts(visit, caption, shoot, script):
    page = visit(java_script_enabled=script)
    html = "<h1>Größe</h1>\r\n<img src=pics/one.png>\r\n<img src=https://example.org/a.jpg>"
    draft(page, html, upload("one.png", picture(1)))
    expect(page.get_by_role("heading", level=2)).to_have_text("Drafts to check: 1. Images without a draft: 1.")
    expect(page.locator("#drafts li").first).to_contain_text(caption(picture(1)))
    expect(page.locator("#drafts li.problem")).to_contain_text("This image is on another site or embedded in the page.")
    new = html.replace("<img src=p", f'<img alt="{caption(picture(1))}" data-alt-draft="" src=p')
    assert save(page) == ("index.html", new)
    shoot(page, f"web page {script}")


def test_the_largest_page_that_is_not_packed(visit):
    page = visit()
    draft(page, "<img src=one.png>" + "<p>hello\n" * 155_000, upload("one.png", picture(1)))
    name, text = save(page)
    assert name == "index.html" and len(text) > 1_395_000


@pytest.mark.parametrize("width", [320, 640])
def test_nothing_sticks_out(visit, width):
    page = visit(viewport={"width": width, "height": 800})
    draft(page, f"<img src=one.png><img src=https://example.org/{'x' * 300}>", upload("one.png", picture(1)))
    widest = page.locator("body").evaluate(
        "body => Math.max(...[...body.querySelectorAll('*')].map(e => e.getBoundingClientRect().right))"
    )
    assert widest <= width
