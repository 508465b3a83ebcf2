"""A web page comes back with drafts of the alt texts that it lacks."""

import base64
import dataclasses
import io
import re
import zipfile

import pytest
from helpers import Brightness, broken, photo, picture

from captioning import site
from captioning.html_alt import HtmlError
from captioning.site import read_site
from captioning.worker_process import ask
from web.pages import sentence

PAGE = (
    b"<title>\xe4</title>\r\n<img src='pics/dog.png'><img src=pics/dog.png alt=''>\n"
    b"<img src=https://example.org/a.jpg><img src=notes.jpg><img src=absent.jpg><img>"
)
PROBLEMS = [
    "This image is on another site or embedded in the page. Write its text by hand.",
    "This is not a photo that we can read.",
    "The file of this image was not sent. Send it too.",
    "This image has no address. Write its text by hand.",
]


@pytest.fixture
def send(client):
    """Send files to the page; gives the answer."""
    return lambda *files, **headers: client.post("/html", data={"file": list(files)}, headers=headers)


def saved(response) -> tuple[str, bytes]:
    """The name and the content of the file behind the link."""
    found = re.search(r'href="data:application/octet-stream;base64,([^"]+)" download="([^"]+)"', response.text)
    assert found
    return found[2], base64.b64decode(found[1])


def archive(files: dict) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as target:
        for name, data in files.items():
            target.writestr(name, data)
    return file.getvalue()


def broken_deflate() -> bytes:
    """A ZIP file whose first file is compressed in a way that does not exist."""
    data = archive({"a.html": b"<p>" * 99})
    return data[:36] + b"\xff" * 4 + data[40:]


def draft(expected, data=None) -> bytes:
    return f'<img alt="{sentence(expected(data).text)}" data-alt-draft=""'.encode()


def test_form(client):
    page = client.get("/html").text
    assert 'enctype="multipart/form-data"' in page and 'name="language"' in page
    assert '<a href="/html" aria-current="page">Web pages</a>' in page
    assert '<a href="/html">Web pages</a>' in client.get("/").text


def test_page_and_its_pictures(send, expected):
    response = send(photo(PAGE, "index.html"), photo(name="dog.png"), broken())
    assert response.status_code == 200
    name, new = saved(response)
    assert name == "index.html"
    assert new == PAGE.replace(b"<img src='", draft(expected) + b" src='")
    assert "Drafts to check: 1. Images without a draft: 4." in response.text
    assert sentence(expected().text) in response.text
    for problem in PROBLEMS:
        assert problem in response.text
    assert "https://example.org/a.jpg" in response.text and response.text.count("data:image/jpeg") == 1


def test_zip_of_a_site(send, expected):
    files = {
        "site/index.html": b"<img src=pics/a.png><img src='/pics/b.png'>",
        "site/about/me.htm": b"<img src=../pics/b.png><img src=b.png>",
        "site/done.html": b"<img src=x alt=y>",
        "site/pics/a.png": picture(),
        "site/pics/b.png": picture(1),
        "__MACOSX/site/._index.html": b"<img>",
    }
    response = send(photo(archive(files), "site.zip"))
    name, data = saved(response)
    assert name == "pages.zip"
    pages = zipfile.ZipFile(io.BytesIO(data))
    first, second = draft(expected), draft(expected, picture(1))
    assert {name: pages.read(name) for name in pages.namelist()} == {
        "site/index.html": first + b" src=pics/a.png>" + second + b" src='/pics/b.png'>",
        "site/about/me.htm": second + b" src=../pics/b.png><img src=b.png>",
        "site/done.html": b"<img src=x alt=y>",
    }
    assert "Drafts to check: 3. Images without a draft: 1." in response.text


def test_more_pictures_than_at_a_time(app, send):
    app.config["MAX_PHOTOS"] = 1
    files = [photo(picture(n), f"{n}.png") for n in range(2)]
    response = send(photo(b"<img src=0.png><img src=1.png><img src=0.png>", "a.html"), *files)
    assert "Only 1 pictures are captioned at a time" in response.text
    assert saved(response)[1].count(b"data-alt-draft") == 2


def test_pictures_that_cannot_be_read_take_no_place(app, send):
    app.config["MAX_PHOTOS"] = 1
    files = [broken("0.jpg"), broken("1.jpg"), photo(name="2.png")]
    response = send(photo(b"<img src=0.jpg><img src=1.jpg><img src=2.png>", "a.html"), *files)
    assert saved(response)[1].count(b"data-alt-draft") == 1


def test_photos_come_before_icons(app, send):
    app.config["MAX_PHOTOS"] = 1
    files = [*(broken(f"{n}.svg") for n in range(5)), photo(name="dog.png")]
    images = b"".join(b"<img src=%d.svg>" % n for n in range(5))
    response = send(photo(images + b"<img src=dog.png>", "a.html"), *files)
    assert saved(response)[1].count(b"data-alt-draft") == 1


def test_a_zip_file_and_a_picture_beside_it(send):
    data = archive({"site/a.html": b"<img src=dog.png>"})
    response = send(photo(data, "site.zip"), photo(name="dog.png"))
    assert "Drafts to check: 1. Images without a draft: 0." in response.text


def test_unpacked_pages_may_be_read_by_a_web_server(send):
    pages = saved(
        send(photo(archive({f"{n}.html": b"<img src=a.png>" for n in range(2)} | {"a.png": picture()}), "a.zip"))
    )
    modes = {info.external_attr >> 16 for info in zipfile.ZipFile(io.BytesIO(pages[1])).infolist()}
    assert modes == {0o644}


def test_names_of_czech_windows(send):
    old = "kůň.png".encode("cp852")
    data = archive({"a.html": "<img src=kůň.png>".encode(), "x" * len(old): picture()})
    response = send(photo(data.replace(b"x" * len(old), old), "site.zip"))
    assert "Drafts to check: 1. Images without a draft: 0." in response.text


def test_a_name_that_python_has_read_from_another_field():
    info = zipfile.ZipInfo("kůň.png")
    info.flag_bits = 0
    assert site._file_name(info) == "kůň.png"


def test_names_in_zip_files_of_other_systems(send):
    """UTF-8 that the archive does not declare, backslashes, ./ and letters with separate accents."""
    utf_8 = "größe.png".encode()
    data = archive({"./a.html": "<img src=größe.png><img src=pics/b.png><img src=ä.png>".encode()})
    with zipfile.ZipFile(file := io.BytesIO(data), "a") as target:
        target.writestr("x" * len(utf_8), picture())
        target.writestr("pics\\b.png", picture())
        target.writestr("a\u0308.png", picture())
    response = send(photo(file.getvalue().replace(b"x" * len(utf_8), utf_8), "site.zip"))
    assert "Drafts to check: 3. Images without a draft: 0." in response.text


def test_nothing_to_do(send):
    response = send(photo(b"<img src=a alt=b>", "a.html"))
    assert "Nothing to do: no image needs an alt text." in response.text and "download=" not in response.text


@pytest.mark.parametrize(
    ("files", "status", "message"),
    [
        ([], 400, "No file was chosen"),
        ([("dog.png", b"x")], 422, "There is no HTML file"),
        ([("a.zip", b"x")], 422, "The ZIP file is damaged"),
        ([("a.zip", archive({"a.txt": b""}))], 422, "There is no HTML file"),
        ([("a.zip", archive({"a.html": b"<p>" * 9})[:40] + b"\0" + archive({"a.html": b""})[41:])], 422, "damaged"),
        ([("a.zip", archive({})), ("b.zip", archive({}))], 422, "one ZIP file at a time"),
        ([("a.html", b"<p>"), ("a.html", b"<br>")], 422, "have the same name"),
        ([("a.zip", broken_deflate())], 422, "damaged"),
        ([("a.zip", archive({"ä.html": b""}).replace(b"\xc3\xa4", b"\xff\xff", 1))], 422, "damaged"),  # no UTF-8
        ([("a.html", b"<img>" * 2001)], 422, "more than 2,000 images"),
        ([("a.html", b"\xff\xfe<")], 422, "UTF-16"),
        ([("a.html", b" " * 4_000_001)], 422, "more than 4 MB"),
        ([("a.zip", archive({"a.html": b"<img src=a>", "a": bytes(2**26)}))], 422, "more than 64 MB"),
    ],
)
def test_uploads_that_are_refused(small_app, files, status, message):
    data = {"file": [photo(data, name) for name, data in files]}
    response = small_app.test_client().post("/html", data=data)
    assert response.status_code == status
    assert message in re.search(r'class="problem" role="alert">([^<]+)', response.text)[1]


def test_large_pages_come_as_a_zip(small_app):
    page = b"<img src=a.png>" + b"<p>hello\n" * 200_000
    data = {"file": [photo(page, "a.html"), photo(name="a.png")]}
    name, new = saved(small_app.test_client().post("/html", data=data))
    assert name == "pages.zip" and len(zipfile.ZipFile(io.BytesIO(new)).read("a.html")) > len(page)


def test_report_is_translated_and_escaped(send):
    page = b"<img src='<script>alert(1)</script>.jpg'>"
    response = send(photo(page, "<b>.html"), **{"Accept-Language": "de"})
    assert "Die Datei dieses Bildes fehlt." in response.text
    assert "<script>alert" not in response.text and "<b>.html" not in response.text


def test_model_without_a_caption(make_app, monkeypatch):
    monkeypatch.setattr(Brightness, "caption_batch", silent(Brightness.caption_batch))
    data = {"file": [photo(b"<img src=a.png>", "a.html"), photo(name="a.png")]}
    response = make_app().test_client().post("/html", data=data)
    assert "The model found no caption for this photo." in response.text


def silent(caption_batch):
    def without_text(*arguments, **options):
        return [dataclasses.replace(caption, text="") for caption in caption_batch(*arguments, **options)]

    return without_text


def test_site_outside_of_its_folder():
    page = b"<img src=../../../etc/passwd><img src=/etc/passwd>"
    site = read_site([("site.zip", archive({"a/index.html": page, "../../etc/passwd": b"x"}))])
    assert [missing.file for missing in site.pages[0].images] == ["../../etc/passwd", None]  # a name in the archive


@pytest.mark.slow
def test_a_hostile_site_is_refused_in_time(monkeypatch):
    """Slow because it takes all of the time that it may: here two seconds instead of ten."""
    monkeypatch.setattr(site, "ask", lambda *order, **limits: ask(*order, **limits | {"cpu_seconds": 2}))
    with pytest.raises(HtmlError, match="too long"):
        read_site([("a.html", b"<div>" * 400_000)])
