"""The API over HTTP: what goes in and out, in models from which `/openapi.json` is made, and the views.

`/model/…` is the contract of IBM's MAX Image Caption Generator; `/api/…` is our own and tells more.
"""

import functools
import importlib.util
import io
import threading
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from flask import abort, current_app, jsonify, render_template, send_from_directory
from flask_babel import gettext as _
from flask_openapi import FileStorage, OpenAPI
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from captioning.figures import plot_attention
from captioning.images import ImageError
from intake import IMAGE_STATUS, Options, busy, decode, enqueue, several_uploads, uploads, wait

SWAGGER = Path(importlib.util.find_spec("flask_openapi_swagger").origin).parent / "templates" / "swagger"
STRIP_SIDE = 448  # pixels of a photo's longer side in an attention strip
strips = threading.Semaphore(8)  # asked for at a time; each takes about a second
drawing = threading.Lock()  # Matplotlib is not thread-safe

Probability = Annotated[float, Field(ge=0, le=1)]


class Problem(BaseModel):
    """Any error."""

    status: Literal["error"]
    message: str = Field(
        description="What is wrong and what to do, in the language of Accept-Language; what a field lacks, in English."
    )


class Prediction(BaseModel):
    index: str
    caption: str
    probability: Probability = Field(description="Of all its words, and of ending there.")


class Predictions(BaseModel):
    status: Literal["ok"]
    predictions: list[Prediction] = Field(description="The best one first.")


class Metadata(BaseModel):
    id: str
    name: str
    description: str
    type: str
    source: str
    license: str


Row = Annotated[list[Annotated[float, Field(ge=0, le=99)]], Field(min_length=7, max_length=7)]


class Word(BaseModel):
    model_config = ConfigDict(strict=True)

    text: str = Field(pattern=r"^[A-Za-z0-9'-]{1,40}$")
    probability: Probability
    attention: list[Row] = Field(
        min_length=7, max_length=7, description="Where the model looked: the photo's rows from top to bottom."
    )


class Choice(BaseModel):
    caption: str = Field(description="In lower case, without full stop.")
    probability: Probability = Field(description="Of all its words, and of ending there.")
    confidence: Probability = Field(description="How much of the caption people can be expected to say too.")
    words: list[Word] | None = Field(None, description="Only where attention was asked for, and the model has it.")


class PhotoResult(BaseModel):
    """A photo with its captions, or the error that says why it has none."""

    image: str = Field(description="The file's name.")
    caption: str | None = None
    probability: Probability | None = None
    confidence: Probability | None = None
    alternatives: list[Choice] | None = Field(None, description="The best one first; it is the caption.")
    error: str | None = None


class Captions(BaseModel):
    status: Literal["ok"]
    photos: list[PhotoResult] = Field(description="In the order in which they were sent.")


class Form(BaseModel):
    """A multipart form."""

    @classmethod
    @functools.cache
    def model_json_schema(cls, **options):
        """Made once: flask-openapi asks for it at each request, for the time that it takes to read a photo's header."""
        return super().model_json_schema(**options)


class OnePhoto(Form):
    image: FileStorage = Field(description="JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF.")


class Photos(Form):
    image: list[FileStorage] = Field(
        min_length=1,
        description="One or several photos.",
        json_schema_extra={"maxItems": 20},  # MAX_PHOTOS; more are refused with a better sentence than pydantic's
    )


class CaptionOptions(Options):
    attention: bool = Field(False, description="Whether to tell for each word where the model looked.")


class AttentionForm(OnePhoto):
    words: list[Word] = Field(
        min_length=1,
        max_length=30,
        description="The `words` of an alternative from /api/captions?attention=true, as one JSON text.",
    )

    @field_validator("words", mode="before")
    @classmethod
    def join(cls, texts: list):
        """Of a repeated field, too, one list."""
        return [word for text in texts for word in (text if isinstance(text, list) else [text])]


PROBLEMS = dict.fromkeys((400, 413, 415, 422, 429, 500, 503), Problem)
PNG = {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}}


def add_api(app: OpenAPI) -> None:
    app.post("/model/predict", responses={200: Predictions} | PROBLEMS)(predict)
    app.get("/model/metadata", responses={200: Metadata, 400: Problem, 500: Problem})(metadata)
    app.post("/api/captions", responses={200: Captions} | PROBLEMS)(captions)
    app.post("/api/attention", responses={200: PNG} | PROBLEMS)(attention)
    app.add_url_rule("/openapi.json", view_func=openapi)
    app.add_url_rule("/docs", view_func=docs)
    app.add_url_rule("/docs/<any('swagger-ui.css', 'swagger-ui-bundle.js'):name>", view_func=docs_asset)


def predict(form: OnePhoto):
    """Caption one photo

    The contract of IBM's MAX Image Caption Generator.
    """
    files = uploads()
    if len(files) != 1:
        abort(400, _("Send one photo in the multipart field 'image'."))
    try:
        _seen, answer = enqueue(files[0], Options())
    except ImageError as error:
        abort(IMAGE_STATUS[error.kind], _(str(error)))
    predictions = [
        {"index": str(index), "caption": choice.text, "probability": float(choice.probability)}
        for index, choice in enumerate(wait(answer).alternatives)
    ]
    return jsonify(status="ok", predictions=predictions)


def metadata():
    """What the model is"""
    model = current_app.extensions["generator"].config
    return jsonify(
        id=f"{model['encoder']}-{model['decoder']}-{model['dataset']}".lower(),
        name="Captioner",
        description=f"Describes a photo in an English sentence. Encoder {model['encoder']}, "
        f"decoder {model['decoder']}, trained on {model['dataset']}.",
        type="Image-to-Text",
        source="MODEL_CARD.md",
        license="MIT",
    )


def captions(query: CaptionOptions, form: Photos):
    """Caption several photos

    A photo that cannot be read has an `error` in place of its caption; the others are captioned all the same. Only if
    none can be read, the answer is an error.
    """
    files = several_uploads()
    if not files:
        abort(400, _("Send photos in the multipart field 'image', which may be repeated."))
    photos, statuses = [], []
    for file in files:  # one after the other: one full-size photo in memory
        photo = {"image": file.filename}
        try:
            _seen, photo["answer"] = enqueue(file, query)
            statuses.append(200)
        except ImageError as error:
            photo["error"] = _(str(error))
            statuses.append(IMAGE_STATUS[error.kind])
        photos.append(photo)
    if 200 not in statuses:
        abort(statuses[0], photos[0]["error"])
    for photo in photos:
        if "answer" in photo:
            found = wait(photo.pop("answer")).alternatives[: query.shown]
            choices = [describe(choice, query.attention) for choice in found]
            photo |= {key: choices[0][key] for key in ("caption", "probability", "confidence")} | {"alternatives": choices}
    return jsonify(status="ok", photos=photos)


def describe(choice, attention: bool) -> dict:
    described = {
        "caption": choice.text,
        "probability": float(choice.probability),
        "confidence": float(choice.confidence),
    }
    if attention and choice.words and choice.words[0].attention is not None:
        described["words"] = [
            {"text": w.text, "probability": float(w.probability), "attention": w.attention.tolist()}
            for w in choice.words
        ]
    return described


def attention(form: AttentionForm):
    """Draw where the model looked

    The photo, then for each word the photo with light where the model looked, as a PNG picture.
    """
    if len(files := uploads()) != 1:
        abort(400, _("Send one photo in the multipart field 'image'."))
    if not strips.acquire(blocking=False):
        busy("queue full", _("Too many photos are waiting just now. Please try again in a moment."))
    try:
        with current_app.extensions["decoders"]:
            photo = decode(files[0], STRIP_SIDE // 2)
            photo.thumbnail((STRIP_SIDE, STRIP_SIDE))
        words, maps = zip(*((word.text, np.array(word.attention)) for word in form.words))
        file = io.BytesIO()
        with drawing:
            plot_attention(np.asarray(photo), words, maps).savefig(file, dpi=150)
    except ImageError as error:
        abort(IMAGE_STATUS[error.kind], _(str(error)))
    finally:
        strips.release()
    return file.getvalue(), {"Content-Type": "image/png", "Content-Disposition": 'attachment; filename="attention.png"'}


def openapi():
    return jsonify(current_app.api_doc)


def docs():
    return render_template("docs.html")


def docs_asset(name: str):
    """Swagger UI, from its package."""
    return send_from_directory(SWAGGER, f"{name.rsplit('.')[-1]}/{name}", max_age=86400)


def refuse(error: ValidationError):
    """What does not fit the models, as the one kind of error that we have."""
    first = error.errors()[0]
    name = ".".join(map(str, first["loc"]))
    if name == "image" and error.title == Photos.__name__:
        abort(400, _("Send photos in the multipart field 'image', which may be repeated."))
    if name == "image":
        abort(400, _("Send one photo in the multipart field 'image'."))
    abort(400, f"{name}: {first['msg']}.")
