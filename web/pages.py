"""The pages: they take photos and show each with its caption; the edited captions can be downloaded."""

import csv
import functools
import hashlib
import io
import json
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Literal, Self

from flask import Response, abort, current_app, render_template, request
from flask_babel import get_locale, lazy_gettext
from flask_babel import gettext as _
from flask_openapi import OpenAPI
from pydantic import BaseModel, ConfigDict, model_validator
from werkzeug.datastructures import FileStorage

from captioning.generator import Caption
from captioning.images import ImageError, Photo
from captioning.languages import LANGUAGES
from captioning.text import coco_image_id, sentence
from web.language import caption_language, language_names
from web.uploads import IMAGE_STATUS, Options, enqueue, several_uploads, wait

PREVIEW_SIDE = 800  # pixels of the longer side, at most, of the photo beside its caption

CONFIDENCE = {  # the lowest percentage for each
    60: lazy_gettext("Quite sure"),
    45: lazy_gettext("Less sure"),
    0: lazy_gettext("A guess"),
}

SAMPLES = {
    "dog": lazy_gettext("Drawing of a dog"),
    "beach": lazy_gettext("Drawing of a beach"),
    "snow": lazy_gettext("Drawing of a skier"),
}
ROOT = Path(__file__).parent.parent
SAMPLES_FOLDER = ROOT / "static" / "samples"
EXAMPLES = {  # captions of the dog and their confidence, for the empty pages; English in other languages
    "en": ("A brown dog is running in the grass.", 0.58),
    "de": ("Ein brauner Hund rennt über eine Wiese.", 0.52),
    "fr": ("Un chien brun court dans l'herbe verte.", 0.35),
    "cs": ("Hnědý pes běží skrz trávě.", 0.2),
}


class PageOptions(Options):
    """As for the API, but captions are in the visitor's language, unless another one is chosen."""

    model_config = ConfigDict(extra="ignore")  # links from other sites have parameters of their own

    @model_validator(mode="after")
    def choose_language(self) -> Self:
        self.language = caption_language(self.language)
        return self


class Format(BaseModel):
    format: Literal["csv", "json", "coco"]


def add_page(app: OpenAPI) -> None:
    app.get("/", doc_ui=False)(home)
    app.post("/", doc_ui=False)(caption_photos)
    app.post("/download", doc_ui=False)(download)
    app.get("/gallery", doc_ui=False)(gallery)
    app.add_url_rule("/service-worker.js", view_func=service_worker)
    for template_filter in (sentence, confidence, in_words, words_with_attention):
        app.add_template_filter(template_filter)
    app.context_processor(page_context)


def page_context() -> dict[str, Any]:
    """What all templates may use."""
    language = str(get_locale())
    return {"samples": SAMPLES, "example": EXAMPLES.get(language, EXAMPLES["en"]), "language": language}


def home(query: PageOptions) -> str:
    return render_template("page.html", options=query)


def caption_photos(query: PageOptions) -> tuple[str, int]:
    files = several_uploads() or sample()
    if not files:
        abort(400, _("No photo was chosen. Choose one or more, then try again."))
    query.language = caption_language(request.form.get("language") or query.language)  # the form's, without script
    photos = [
        {"name": file.filename} | describe(found)
        for file, found in zip(files, enqueue(files, query, PREVIEW_SIDE), strict=True)
    ]
    for photo in photos:
        if "answer" in photo:
            photo["result"] = wait(photo["answer"])
    statuses = [photo.get("status", 200) for photo in photos]
    status = 200 if 200 in statuses else statuses[0]
    return render_template("page.html", options=query, photos=photos), status


def sample() -> list[FileStorage]:
    """The sample picture that was chosen, if one was."""
    name = request.form.get("sample")
    if name not in SAMPLES:
        return []
    return [FileStorage(io.BytesIO((SAMPLES_FOLDER / f"{name}.webp").read_bytes()), f"{name}.webp")]


def describe(found: tuple[Photo, Future[Caption]] | ImageError) -> dict:
    """What the page shows of an upload: a preview and the pending answer, or an error.

    The preview is embedded in the page, so that the server stores nothing.
    """
    if isinstance(found, ImageError):
        return {"error": _(str(found)), "status": IMAGE_STATUS[found.kind]}
    photo, answer = found
    assert photo.preview  # of the requested size
    return {"answer": answer, "source": photo.preview.url, "width": photo.preview.width, "height": photo.preview.height}


def download(query: Format) -> Response:
    """The edited captions of the page's form as CSV, JSON or COCO results."""
    request.max_form_memory_size = request.max_content_length  # thousands of captions
    names, texts, languages, found = map(request.form.getlist, ("name", "text", "language", "alternatives"))
    texts = [" ".join(text.split()) for text in texts]
    if query.format == "csv":
        file = io.StringIO()
        rows_of_text = zip(map(as_text, names), map(as_text, texts), languages, strict=False)
        csv.writer(file).writerows([("image", "caption", "language"), *rows_of_text])
        data, kind, name = file.getvalue().encode("utf-8-sig"), "text/csv", "captions.csv"  # so that Excel reads UTF-8
    else:
        if query.format == "coco":
            rows: list[dict] = [
                {"image_id": coco_image_id(name), "caption": text} for name, text in zip(names, texts, strict=False)
            ]
        else:
            rows = [
                {
                    "image": name,
                    "caption": text,
                    "language": language,
                    "alternatives": others.split("|") if others else [],
                }
                for name, text, language, others in zip(names, texts, languages, found, strict=False)
            ]
        data = json.dumps(rows, indent=2, ensure_ascii=False).encode() + b"\n"
        kind, name = "application/json", {"json": "captions.json", "coco": "captions.coco.json"}[query.format]
    return Response(data, mimetype=kind, headers={"Content-Disposition": f'attachment; filename="{name}"'})


def as_text(cell: str) -> str:
    """A cell of a CSV file that no spreadsheet takes for a formula, as it would a file named ``=HYPERLINK(…).jpg``."""
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def gallery() -> str:
    """Many photos at once. The script sends them to the API and keeps the captions in the browser."""
    return render_template(
        "gallery.html",
        confidence=[(least, str(words)) for least, words in CONFIDENCE.items()],
        common={code: LANGUAGES[code].function_words.replace("'", "").split() for code in language_names()},
        chosen=caption_language(),
    )


def service_worker() -> Response:
    """The script that opens the pages without a connection. It changes with any of the files that it keeps.

    It cannot ask for a key. Where one is needed, browsers that have it get a script instead that removes it.
    """
    name = "remove-service-worker.js" if current_app.config["API_KEYS"] else "service-worker.js"
    script = (ROOT / "static" / "app" / name).read_text()
    return Response(f"// Version {files_version()}\n{script}", mimetype="text/javascript")


@functools.cache
def files_version() -> str:
    """A checksum of what the pages are made of."""
    folders = ("templates", "static", "translations")
    files = sorted(path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def confidence(result: Caption) -> int:
    """The confidence of a caption in per cent."""
    return round(100 * result.confidence)


def in_words(percent: int) -> str:
    """A confidence in words."""
    return next(str(words) for least, words in CONFIDENCE.items() if percent >= least)


def words_with_attention(result: Caption) -> list[dict] | None:
    """The words as in the API, their attention scaled to whole numbers from 0 to 99, the maximum."""
    if not result.words or result.words[0].attention is None:
        return None
    return [
        {
            "text": word.text,
            "probability": round(word.probability, 2),
            "attention": (word.attention / word.attention.max() * 99).astype(int).tolist(),
        }
        for word in result.words
        if word.attention is not None
    ]
