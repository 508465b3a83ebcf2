"""The API: `/model/…` follows IBM's MAX Image Caption Generator, `/api/…` offers more."""

import threading
from pathlib import Path
from typing import Any, NoReturn, cast

import flask_openapi_swagger
import numpy as np
from flask import Response, abort, current_app, jsonify, render_template, send_from_directory
from flask_babel import gettext as _
from flask_openapi import OpenAPI, Tag
from pydantic import ValidationError

from captioning.generator import Caption
from captioning.images import ImageError
from captioning.languages import LANGUAGES
from web.attention import draw_attention
from web.errors import is_api
from web.schemas import AttentionForm, CaptionOptions, Captions, Metadata, OnePhoto, Photos, Predictions, Problem
from web.uploads import (
    IMAGE_STATUS,
    Options,
    enqueue,
    limited,
    one_upload,
    several_uploads,
    submit,
    wait,
    wait_until_read,
)

SWAGGER = Path(flask_openapi_swagger.__file__).parent / "templates" / "swagger"
STRIP_SIDE = 448  # pixels of the longer side of the photo in an attention strip
strips = threading.Semaphore(8)  # limits how many attention strips are drawn at a time

PROBLEMS: dict[Any, Any] = dict.fromkeys((400, 413, 415, 422, 429, 500, 503), Problem)
PNG = {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}}


def add_api(app: OpenAPI) -> None:
    photos: list[Any] = [Tag(name="Photos")]
    app.post("/api/captions", tags=photos, responses={200: Captions, **PROBLEMS})(captions)
    app.post("/api/attention", tags=photos, responses={200: PNG, **PROBLEMS})(attention)
    ibm: list[Any] = [Tag(name="IBM", description="The API of IBM's MAX Image Caption Generator")]
    app.post("/model/predict", tags=ibm, responses={200: Predictions, **PROBLEMS})(predict)
    app.get("/model/metadata", tags=ibm, responses={200: Metadata, 400: Problem, 500: Problem})(metadata)
    app.add_url_rule("/openapi.json", view_func=openapi)
    app.add_url_rule("/docs", view_func=docs)
    app.add_url_rule("/docs/<any('swagger-ui.css', 'swagger-ui-bundle.js'):name>", view_func=docs_asset)


def predict(form: OnePhoto) -> Response:
    """Caption one photo

    Compatible with IBM's MAX Image Caption Generator.
    """
    [found] = enqueue([one_upload()], Options())
    if isinstance(found, ImageError):
        abort(IMAGE_STATUS[found.kind], _(str(found)))
    _photo, answer = found
    predictions = [
        {"index": str(index), "caption": choice.text, "probability": choice.probability}
        for index, choice in enumerate(wait(answer).alternatives)
    ]
    return jsonify(status="ok", predictions=predictions)


def metadata() -> Response:
    """Describe the model"""
    generator = current_app.extensions["captions"].generator
    model, names = generator.config, ", ".join(LANGUAGES[code].name for code in generator.languages)
    dataset = model.get("dataset", "unknown data")  # save_model does not demand it
    return jsonify(
        id=f"{model['encoder']}-{model['decoder']}-{dataset}".lower(),
        name="Captioner",
        description=f"Describes a photo in a sentence ({names}). Encoder {model['encoder']}, "
        f"decoder {model['decoder']}, trained on {dataset}.",
        type="Image-to-Text",
        source="MODEL_CARD.md",
        license="MIT",
    )


def captions(query: CaptionOptions, form: Photos) -> Response:
    """Caption several photos

    A photo that cannot be read has an `error` instead of a caption. If no photo can be read, the answer is the error of
    the first one.
    """
    files = several_uploads()
    if not files:
        abort(400, _("Send photos in the multipart field 'image', which may be repeated."))
    photos, statuses = [], []
    for file, found in zip(files, enqueue(files, query), strict=True):
        photo: dict[str, Any] = {"image": file.filename}
        if isinstance(found, ImageError):
            statuses.append(IMAGE_STATUS[found.kind])
            photo |= {"error": _(str(found)), "error_status": statuses[-1]}
        else:
            _photo, photo["answer"] = found
            statuses.append(200)
        photos.append(photo)
    if 200 not in statuses:
        abort(statuses[0], photos[0]["error"])
    for photo in photos:
        if "answer" in photo:
            best, *_others = choices = wait(photo.pop("answer")).alternatives[: query.shown]
            alternatives = [describe(choice, query.attention) for choice in choices]
            photo |= {**best.to_dict(), "language": best.language, "alternatives": alternatives}
    return jsonify(status="ok", photos=photos)


def describe(choice: Caption, attention: bool) -> dict:
    described = choice.to_dict()
    if attention:
        words = [
            {"text": word.text, "probability": word.probability, "attention": word.attention.tolist()}
            for word in choice.words
            if word.attention is not None
        ]
        if words:  # else the decoder has no attention
            described["words"] = words
    return described


def attention(form: AttentionForm) -> tuple[bytes, dict[str, str]]:
    """Draw the attention

    A PNG picture of the photo and, for each word, of the photo with the attention of this word.
    """
    file = one_upload()
    with limited(strips):
        try:
            preview = wait_until_read(submit(file, STRIP_SIDE // 2, STRIP_SIDE)).preview
        except ImageError as error:
            abort(IMAGE_STATUS[error.kind], _(str(error)))
        assert preview  # of the requested size
        png = draw_attention(preview.pixels, [(word.text, np.array(word.attention)) for word in form.words])
    return png, {"Content-Type": "image/png", "Content-Disposition": 'attachment; filename="attention.png"'}


def openapi() -> Response:
    """The OpenAPI document. Its languages are those of the model that serves now: a reload may bring others."""
    document = cast(OpenAPI, current_app).api_doc
    photos = document["components"]["schemas"]["Photos"]["properties"]["image"]
    photos["maxItems"] = current_app.config["MAX_PHOTOS"]
    languages = current_app.extensions["captions"].generator.languages
    for path in document["paths"].values():
        for operation in path.values():
            for parameter in operation.get("parameters", []):
                schema = parameter["schema"]
                parameter["schema"] = schema.get("anyOf", [schema])[0]  # null cannot be sent in a query string
                if parameter["name"] == "beam_width":
                    parameter["schema"]["default"] = current_app.config["BEAM_WIDTH"]
                if parameter["name"] == "language":
                    parameter["schema"] = {"type": "string", "enum": languages, "default": languages[0]}
            for status in {"429", "503"} & operation["responses"].keys():
                seconds = {"description": "Seconds.", "schema": {"type": "integer"}}
                operation["responses"][status]["headers"] = {"Retry-After": seconds}
    return jsonify(document)


def docs() -> str:
    return render_template("docs.html")


def docs_asset(name: str) -> Response:
    """Swagger UI, from its package."""
    return send_from_directory(SWAGGER, f"{name.rsplit('.')[-1]}/{name}", max_age=86400)


def refuse(error: ValidationError) -> NoReturn:
    """Validation errors in the form of `Problem`."""
    first = error.errors()[0]
    name = ".".join(map(str, first["loc"]))
    if name == "image" and error.title == Photos.__name__:
        abort(400, _("Send photos in the multipart field 'image', which may be repeated."))
    if name == "image":
        abort(400, _("Send one photo in the multipart field 'image'."))
    if name == "video":
        abort(400, _("Send one clip in the multipart field 'video'."))
    if first["type"] == "extra_forbidden":
        abort(
            400,
            _("There is no option “%(name)s” here. Options belong in the query string; /docs lists them.", name=name),
        )
    if not is_api():
        abort(400, _("The address of this page has an invalid option. Open the page without options."))
    abort(400, f"{name}: {first['msg']}.")
