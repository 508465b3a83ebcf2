"""The page: photos in, each with its caption beside it, out; and what a person made of the captions as a file."""

import base64
import csv
import io
import json
from pathlib import Path
from typing import Literal

import numpy as np
from flask import Response, abort, render_template, request
from flask_babel import get_locale, lazy_gettext
from flask_babel import gettext as _
from flask_openapi import OpenAPI
from PIL import Image
from pydantic import BaseModel
from werkzeug.datastructures import FileStorage

from captioning.images import ImageError
from intake import IMAGE_STATUS, Options, enqueue, several_uploads, wait

PREVIEW_SIDE = 800  # pixels, at most, of the longer side of the photo that is shown beside its caption

CONFIDENCE = {  # from so many per cent on
    60: lazy_gettext("Quite sure"),
    45: lazy_gettext("Fairly sure"),
    0: lazy_gettext("A guess"),
}

SAMPLES = {
    "dog": lazy_gettext("A drawn dog"),
    "beach": lazy_gettext("A drawn beach"),
    "snow": lazy_gettext("A drawn skier"),
}
SAMPLES_FOLDER = Path(__file__).parent / "static" / "samples"


class Format(BaseModel):
    format: Literal["csv", "json", "coco"]


def add_page(app: OpenAPI) -> None:
    app.get("/", doc_ui=False)(home)
    app.post("/", doc_ui=False)(caption_photos)
    app.post("/download", doc_ui=False)(download)
    for template_filter in (sentence, confidence, in_words, words_with_attention):
        app.add_template_filter(template_filter)
    app.context_processor(lambda: {"samples": SAMPLES, "language": get_locale()})


def home(query: Options):
    return render_template("page.html", options=query)


def caption_photos(query: Options):
    files = several_uploads() or sample()
    if not files:
        abort(400, _("No photo was chosen. Choose one or more, then try again."))
    photos = [describe(file, query) for file in files]  # one after the other: one full-size photo in memory
    for photo in photos:
        if "answer" in photo:
            photo["result"] = wait(photo["answer"])
    statuses = [photo.get("status", 200) for photo in photos]
    return render_template("page.html", photos=photos, options=query), 200 if 200 in statuses else statuses[0]


def sample() -> list:
    """Our own picture, if one was chosen."""
    name = request.form.get("sample")
    return [FileStorage((SAMPLES_FOLDER / f"{name}.webp").open("rb"), f"{name}.webp")] if name in SAMPLES else []


def describe(file, options: Options) -> dict:
    """What the page shows of one upload: a small copy and the answer to come, or why there is none."""
    try:
        small_copy, answer = enqueue(file, options, preview)
    except ImageError as error:
        return {"name": file.filename, "error": _(str(error)), "status": IMAGE_STATUS[error.kind]}
    return {"name": file.filename, "answer": answer, **small_copy}


def preview(small: Image.Image) -> dict:
    """The photo, made small, to travel inside the page; the server keeps nothing."""
    small.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=85)
    source = "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
    return {"source": source, "width": small.width, "height": small.height}


def download(query: Format):
    """The captions of the page's form, as a person left them: as CSV, JSON or COCO results."""
    names, texts, found = map(request.form.getlist, ("name", "text", "alternatives"))
    texts = [" ".join(text.split()) for text in texts]
    if query.format == "csv":
        file = io.StringIO()
        csv.writer(file).writerows([("image", "caption"), *zip(names, texts)])
        data, kind, name = file.getvalue().encode("utf-8-sig"), "text/csv", "captions.csv"  # so that Excel knows UTF-8
    else:
        if query.format == "coco":
            rows = [{"image_id": Path(name).stem, "caption": text} for name, text in zip(names, texts)]
        else:
            rows = [
                {"image": name, "caption": text, "alternatives": others.split("|") if others else []}
                for name, text, others in zip(names, texts, found)
            ]
        data = json.dumps(rows, indent=2, ensure_ascii=False).encode() + b"\n"
        kind, name = "application/json", {"json": "captions.json", "coco": "captions.coco.json"}[query.format]
    return Response(data, mimetype=kind, headers={"Content-Disposition": f'attachment; filename="{name}"'})


# How the page says it


def sentence(text: str) -> str:
    """The model's words as a sentence: "a dog runs" → "A dog runs."."""
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def confidence(result) -> int:
    """How sure the model is, in per cent."""
    return round(100 * result.confidence)


def in_words(percent: int) -> str:
    return next(str(words) for least, words in CONFIDENCE.items() if percent >= least)


def words_with_attention(result) -> list[dict] | None:
    """The words in the shape of the API, with where the model looked in whole numbers from 0 to 99, the peak."""
    if not result.words or result.words[0].attention is None:
        return None
    return [
        {
            "text": word.text,
            "probability": round(word.probability, 2),
            "attention": np.uint8(word.attention / word.attention.max() * 99).tolist(),
        }
        for word in result.words
    ]
