"""Photos are downloaded with their texts in them. Slow: each test starts pages in a real browser."""

import zipfile

import pytest
from browsing import picture, upload
from helpers import wait_until
from playwright.sync_api import expect
from test_page import describe

from captioning.metadata import embed

pytestmark = pytest.mark.slow


def test_photos_with_edited_texts(visit, caption):
    page = visit()
    describe(page, upload("one.png", picture(1)), upload("two.png", picture(2)))
    card = page.locator(".photo", has_text="two.png")
    card.locator("textarea").fill("A text by a person.")
    with page.expect_download() as download:
        page.get_by_role("button", name="Photos with text (ZIP)").click()
    assert download.value.suggested_filename == "photos.zip"
    archive = zipfile.ZipFile(download.value.path())
    assert archive.read("one.png") == embed(picture(1), caption(picture(1)))[0]
    assert archive.read("two.png") == embed(picture(2), "A text by a person.")[0]
    assert sorted(archive.namelist()) == ["one.png", "two.png"]
    expect(page.get_by_role("button", name="Photos with text (ZIP)")).to_be_visible()
    held = []
    page.route("**/photos.zip", lambda route: held.append(route))
    with page.expect_request("**/photos.zip"):
        page.get_by_role("button", name="Photos with text (ZIP)").click()
    card.locator("textarea").fill("A later text.")
    with page.expect_download():
        held[0].continue_()
    page.get_by_role("link", name="Start again").click()  # the question is answered with no
    expect(card.locator("textarea")).to_have_value("A later text.")
    card.locator("textarea").fill("A text by a person.")
    page.unroute("**/photos.zip")
    with page.expect_download():
        page.get_by_role("button", name="Photos with text (ZIP)").click()
    expect(page.get_by_role("button", name="Photos with text (ZIP)")).to_be_visible()
    page.get_by_role("link", name="Start again").click()  # without a question
    expect(page.locator(".photo")).to_have_count(0)


def test_many_photos_come_in_groups(visit):
    page = visit()
    describe(page, *[upload(f"{n}.png", picture(n)) for n in range(3)])
    page.locator("#zip").evaluate("button => (button.dataset.photos = 2)")
    downloads = []
    page.on("download", lambda download: downloads.append(download))
    held = []
    page.route("**/photos.zip", lambda route: held.append(route))
    label = page.locator("#zip").inner_text()
    with page.expect_request("**/photos.zip"):
        page.locator("#zip").click()
    status = page.locator("#status")
    expect(status).to_have_text("Writing ZIP file 1 of 2 …")
    expect(page.locator("#zip")).to_have_text("Writing ZIP file 1 of 2 …")
    page.locator("#zip").click()  # does nothing
    page.wait_for_timeout(300)
    assert len(held) == 1
    page.route("**/photos.zip", lambda route: route.continue_())
    held[0].continue_()
    expect(status).to_have_text("Finished")
    expect(page.locator("#zip")).to_have_text(label)
    wait_until(lambda: page.wait_for_timeout(100) or len(downloads) == 2)
    names = {d.suggested_filename: sorted(zipfile.ZipFile(d.path()).namelist()) for d in downloads}
    assert list(names) == ["photos-1.zip", "photos-2.zip"] and sum(map(len, names.values())) == 3


def test_photos_from_before_a_reload_that_are_chosen_again(visit):
    """Their texts stay."""
    page = visit()
    page.get_by_label("Language of the captions").select_option("de")
    describe(page, upload("one.png", picture(1)))
    page.get_by_label("Text to publish").fill("A text by a person.")
    page.reload()
    page.set_input_files("#photos", [upload("one.png", picture(1)), upload("one.png", picture(2))])
    expect(page.locator("#note")).to_have_text(
        "Photos that were already here: 1. Your texts stay, and the ZIP file will hold these photos again."
    )
    expect(page.locator(".photo:not(.waiting)")).to_have_count(2)
    with page.expect_download() as download:
        page.locator("#zip").click()
    archive = zipfile.ZipFile(download.value.path())
    assert archive.read("one.png") == embed(picture(1), "A text by a person.")[0]
    assert sorted(archive.namelist()) == ["one (2).png", "one.png"]
    page.reload()
    page.get_by_role("link", name="Start again").click()  # without a question: the text was downloaded
    expect(page.locator(".photo")).to_have_count(0)


def test_photos_from_before_a_reload_are_counted(visit):
    page = visit()
    describe(page, upload("one.png", picture(1)))
    page.reload()
    page.set_input_files("#photos", [upload("two.png", picture(2))])
    expect(page.locator(".photo:not(.waiting)")).to_have_count(2)
    with page.expect_download() as download:
        page.locator("#zip").click()
    assert zipfile.ZipFile(download.value.path()).namelist() == ["two.png"]
    expect(page.locator("#note")).to_have_text(
        "Photos that are not in the ZIP file, because the page was reloaded: 1. "
        "Choose these photos again, then download the ZIP file once more."
    )


@pytest.mark.parametrize("status", [429, 200])
def test_an_answer_that_is_no_file(status, visit):
    """200: a page of a proxy."""
    page = visit()
    describe(page)
    page.route("**/photos.zip", lambda route: route.fulfill(status=status, body="<p>Log in", content_type="text/html"))
    page.locator("#zip").click()
    expect(page.locator("#note")).to_have_text("Could not write the ZIP file. Try again in a moment.")
    expect(page.locator("#zip")).to_have_text("Photos with text (ZIP)")
