"""The page as a client sees it, without a browser."""

import base64
import csv
import io
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from flask import render_template
from helpers import broken, photo, picture
from PIL import Image

from web import pages
from web.pages import confidence, in_words, sentence
from web.uploads import Options


def test_text_is_sent_compressed(small_app):
    client = small_app.test_client()
    for path in ("/", "/static/base.css", "/static/page.js", "/docs/swagger-ui.css"):
        plain = client.get(path)
        small = client.get(path, headers={"Accept-Encoding": "gzip, deflate, br"})
        assert small.content_encoding and "Content-Encoding" not in plain.headers
        assert len(small.data) < 0.6 * len(plain.data) and "Accept-Encoding" in small.headers["Vary"]
    brotli = {"Accept-Encoding": "br"}
    tag = client.get("/static/page.js", headers=brotli).headers["ETag"]
    assert client.get("/static/page.js", headers={**brotli, "If-None-Match": tag}).status_code == 304


def test_page_has_the_form_and_no_result_yet(client):
    response = client.get("/")
    assert response.status_code == 200
    assert 'name="image"' in response.text and 'enctype="multipart/form-data"' in response.text
    assert re.search(r'id="captions"[^>]*>\s*</section>', response.text)


def test_page_has_nothing_inline_and_loads_nothing_from_elsewhere(client, post):
    for html in (
        client.get("/").text,
        post(photo(), broken()).text,
        client.get("/docs").text,
        client.get("/gallery").text,
    ):
        assert not re.search(r"\sstyle=|\son\w+=|<style|<script>", html)
        for address in re.findall(r'<(?!a )[^>]*(?:src|href|action)="([^"]*)"', html):  # a link loads nothing
            assert address.startswith(("/", "data:image/jpeg;"))
            if address.startswith("/static"):
                assert client.get(address).status_code == 200


def test_photo_has_its_caption(post, expected):
    response = post(photo(name="beach.png"))
    best = expected()
    assert response.status_code == 200
    assert f'<h2 class="caption"><span lang="en">{sentence(best.text)}</span></h2>' in response.text
    assert (
        f'<textarea name="text" rows="2" lang="en" autocomplete="off">{sentence(best.text)}</textarea>' in response.text
    )
    assert f"{confidence(best)}%" in response.text
    assert "beach.png" in response.text
    for other in best.alternatives[1:]:
        assert sentence(other.text) in response.text


def test_every_alternative_has_its_attention(post, expected):
    page = post(photo()).text
    shown = [json.loads(words) for words in re.findall(r"data-words='([^']+)'", page)]
    alternatives = expected().alternatives
    assert len(shown) == len(alternatives)
    for words, alternative in zip(shown, alternatives):
        assert [word["text"] for word in words] == alternative.text.split()
        for word, truth in zip(words, alternative.words):
            levels = np.array(word["attention"])
            assert levels.shape == (7, 7) and levels.max() == 99
            assert np.allclose(levels / 99, truth.attention / truth.attention.max(), atol=0.011)
            assert word["probability"] == pytest.approx(truth.probability, abs=0.006)


def test_decoder_without_attention_has_plain_words(small_app):
    word = SimpleNamespace(text="dog", probability=0.5, attention=None)
    result = SimpleNamespace(text="dog", probability=0.25, confidence=0.5, words=[word])
    result.alternatives = [result]
    with small_app.test_request_context():
        shown = {"name": "a", "source": "", "result": result}
        card = render_template("photo.html", photo=shown, options=Options())
    assert "Dog." in card and "data-words='null'" in card and '<details class="choices" hidden>' in card


def test_preview_is_small_and_has_no_camera_data(post):
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    data = picture(size=(2000, 3000), format="JPEG", exif=exif)
    encoded = re.search(r'src="data:image/jpeg;base64,([^"]+)"', post(photo(data)).text)[1]
    preview = Image.open(io.BytesIO(base64.b64decode(encoded)))
    assert preview.format == "JPEG" and not preview.getexif()
    assert 448 <= min(preview.size) < max(preview.size) <= pages.PREVIEW_SIDE


def test_several_photos_stay_in_order_and_one_may_fail(post, expected):
    response = post(photo(picture(1), "one.png"), broken("two.jpg"), photo(picture(3), "three.png"))
    assert response.status_code == 200
    cards = response.text.split("<article")[1:]
    assert sentence(expected(picture(1)).text) in cards[0] and "one.png" in cards[0]
    assert "not a photo that we can read" in cards[1] and "two.jpg" in cards[1]
    assert sentence(expected(picture(3)).text) in cards[2] and "three.png" in cards[2]


def test_only_photos_that_fail(post):
    response = post(broken())
    assert response.status_code == 415
    assert "not a photo that we can read" in response.text


def test_no_photo(client, post):
    for response in (client.post("/"), post(photo(b"", "")), client.post("/", data={"image": "text"})):
        assert response.status_code == 400
        assert "No photo was chosen" in response.text


def test_too_many_photos(app, post):
    app.config["MAX_PHOTOS"] = 2
    response = post(*[photo(picture(n)) for n in range(3)])
    assert response.status_code == 400
    assert "at most 2" in response.text


def test_parameters_of_other_sites_do_no_harm(small_app):
    client = small_app.test_client()
    assert client.get("/?utm_source=news").status_code == 200
    assert client.post("/?fbclid=1", data={"image": photo()}).status_code == 200


def test_options_are_in_the_address_and_take_effect(post, generator):
    response = post(photo(), beam_width=5, alternatives=4)
    best = generator.caption(picture(), beam_width=5, alternatives=5)
    for shown in best.alternatives[:4]:
        assert f'<span lang="en">{sentence(shown.text)}</span> <small>' in response.text
    assert response.text.count("data-words=") == 4
    assert 'action="/?beam_width=5&amp;alternatives=4&amp;language=en#captions"' in response.text
    assert re.search(r'name="beam_width"[^>]*value="5"', response.text)
    assert re.search(r'name="alternatives"[^>]*value="4"', response.text)


@pytest.mark.parametrize("name", pages.SAMPLES)
def test_sample_pictures(client, name):
    response = client.post("/", data={"sample": name})
    assert response.status_code == 200 and f"{name}.webp" in response.text and '<h2 class="caption">' in response.text
    size = client.get(f"/static/samples/{name}.webp").content_length
    assert 0 < size <= 10_000


def test_downloads_have_the_edited_captions(small_app):
    client = small_app.test_client()
    names, texts = ["a dog.png", "old/ü,b.jpg"], ['A "dog", really.\r\n', ""]
    form = {"name": names, "text": texts, "language": ["en", "de"], "alternatives": ["a dog|a cat", ""]}
    response = client.post("/download?format=csv", data=form)
    assert response.headers["Content-Disposition"] == 'attachment; filename="captions.csv"'
    rows = list(csv.reader(io.StringIO(response.data.decode("utf-8-sig"))))
    assert rows == [
        ["image", "caption", "language"],
        ["a dog.png", 'A "dog", really.', "en"],
        ["old/ü,b.jpg", "", "de"],
    ]
    risky = client.post("/download?format=csv", data={"name": "=1+1.png", "text": "- a dog", "language": "en"}).text
    assert risky.splitlines()[1] == "'=1+1.png,'- a dog,en"
    assert client.post("/download?format=json", data=form).json == [
        {"image": "a dog.png", "caption": 'A "dog", really.', "language": "en", "alternatives": ["a dog", "a cat"]},
        {"image": "old/ü,b.jpg", "caption": "", "language": "de", "alternatives": []},
    ]
    assert client.post("/download?format=coco", data=form).json == [
        {"image_id": "a dog", "caption": 'A "dog", really.'},
        {"image_id": "old/ü,b", "caption": ""},
    ]
    assert client.post("/download?format=exe", data=form).status_code == 400


def test_thousands_of_captions_can_be_downloaded(small_app):
    texts = [f"Photo {n} shows a dog that is running through the grass." for n in range(5000)]
    form = {"name": ["a.png"] * 5000, "text": texts, "language": ["en"] * 5000, "alternatives": ["a|b|c"] * 5000}
    response = small_app.test_client().post("/download?format=coco", data=form)
    assert [row["caption"] for row in response.json] == texts


def test_service_worker_changes_with_the_files(small_app, monkeypatch):
    client = small_app.test_client()
    response = client.get("/service-worker.js")
    assert response.mimetype == "text/javascript"
    assert re.match(r"// Version [0-9a-f]{16}\n", response.text)
    assert client.get("/service-worker.js").text == response.text
    monkeypatch.setattr(pages, "files_version", lambda: "another")
    assert client.get("/service-worker.js").text != response.text


def test_file_names_are_escaped(post):
    page = post(photo(name="<script>alert(1)</script>.png")).text
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page


def test_sentence():
    assert sentence("a dog runs") == "A dog runs."
    assert sentence("2 dogs in L.A") == "2 dogs in L.A."
    assert sentence("") == ""


def test_confidence():
    assert confidence(SimpleNamespace(confidence=0.296)) == 30
    assert [in_words(percent) for percent in (100, 60, 59, 0)] == ["Quite sure", "Quite sure", "Less sure", "A guess"]


def test_where_a_key_is_needed_the_service_worker_is_removed(make_app):
    """A browser fetches the script without asking for a key."""
    response = make_app(API_KEYS=["secret"]).test_client().get("/service-worker.js")
    assert response.status_code == 200 and "registration.unregister()" in response.text
