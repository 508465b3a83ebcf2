"""Photos come back in a ZIP file, with the texts in their metadata."""

import io
import struct
import zipfile

import pytest
from helpers import photo, picture

from captioning.metadata import embed, sidecar
from web.photo_downloads import downloads, unused_name


def post(app, *photos):
    """Send (name, bytes, text) of each photo."""
    data = {"image": [photo(data, name) for name, data, _ in photos], "text": [text for _, _, text in photos]}
    return app.test_client().post("/photos.zip", data=data, content_type="multipart/form-data")


def test_texts_are_in_the_photos(small_app):
    jpeg = embed(picture(format="JPEG"), "An older text.")[0]
    png, gif = picture(1), picture(format="GIF")
    response = post(
        small_app,
        ("a.jpg", jpeg, "A dög\r\nruns."),
        ("a.jpg", jpeg, ""),
        ("../b.png", png, "Ä"),
        ("c.gif", gif, "A cat."),
        ("notes.txt", b"no photo", "Notes."),
    )
    assert response.status_code == 200 and response.mimetype == "application/zip"
    assert response.headers["Content-Disposition"] == 'attachment; filename="photos.zip"'
    archive = zipfile.ZipFile(io.BytesIO(response.data))
    assert archive.testzip() is None
    assert {name: archive.read(name) for name in archive.namelist()} == {
        "a.jpg": embed(jpeg, "A dög runs.", overwrite=True)[0],
        "a (2).jpg": jpeg,
        "b.png": embed(png, "Ä")[0],
        "c.gif": gif,
        "c.gif.xmp": sidecar(None, "A cat.")[0],
        "notes.txt": b"no photo",
        "notes.txt.xmp": sidecar(None, "Notes.")[0],
    }


@pytest.mark.parametrize("texts", [[], ["a", "b"]])
def test_other_numbers_of_texts_than_of_photos(small_app, texts):
    response = small_app.test_client().post("/photos.zip", data={"image": [photo()], "text": texts})
    assert response.status_code == 400 and "one text for each photo" in response.text


def test_too_many(small_app):
    small_app.config["MAX_PHOTOS"] = 1
    assert post(small_app, ("a", b"x", ""), ("b", b"x", "")).status_code == 400
    for _ in range(4):
        downloads.acquire()
    try:
        assert post(small_app, ("a", b"x", "")).status_code == 503
    finally:
        downloads.release(4)
    assert post(small_app, ("a", b"x", "")).status_code == 200


def test_a_request_that_takes_too_long(small_app):
    small_app.config["REQUEST_TIMEOUT"] = 0
    assert post(small_app, ("a", b"x", "")).status_code == 503


def test_names():
    taken = set()
    assert unused_name("x" * 70_000 + ".jpg", taken) == "x" * 96 + ".jpg"
    names = ["a.jpg", "A.JPG", "x/a.jpg", "..\\b", "..", "", "a (2).jpg"]
    assert [unused_name(name, taken) for name in names] == [
        "a.jpg", "A (2).JPG", "a (3).jpg", "b", "photo", "photo (2)", "a (2) (2).jpg",
    ]  # fmt: skip


def test_a_damaged_photo_comes_with_a_sidecar(small_app):
    """A WebP file without width and height."""
    frame = b"VP8 " + struct.pack("<I", 10) + b"\0\0\0\x9d\x01\x2a" + bytes(4)
    data = b"RIFF" + struct.pack("<I", 4 + len(frame)) + b"WEBP" + frame
    long = "x" * 95 + ".webp"
    images = [photo(data, name) for name in ("a.webp", "a.webp.xmp", "b.webp.xmp", "b.webp", long)]
    texts = ["A dog.", "", "", "A cat.", "A man."]
    response = small_app.test_client().post("/photos.zip", data={"image": images, "text": texts})
    assert response.status_code == 200
    assert zipfile.ZipFile(io.BytesIO(response.data)).namelist() == [
        *("a.webp", "a.webp.xmp", "a.webp (2).xmp", "b.webp.xmp", "b (2).webp", "b (2).webp.xmp"),
        *(long, f"{long}.xmp"),
    ]
