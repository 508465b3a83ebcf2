"""Clips: a job for each upload, its result as JSON, WebVTT or SRT, and the page `/video`."""

import os
from typing import Any, Literal

from flask import Response, abort, current_app, jsonify, render_template, request, url_for
from flask_babel import gettext as _
from flask_openapi import FileStorage, OpenAPI, Tag
from pydantic import BaseModel, ConfigDict, Field
from werkzeug.exceptions import InternalServerError

from captioning.descriptions import to_srt, to_vtt
from captioning.video import VideoError
from web.language import caption_language
from web.schemas import Probability, Problem
from web.uploads import IMAGE_STATUS, VIDEOS, SearchOptions, refuse_busy, uploads
from web.video_jobs import Job, TooManyJobs, VideoJobs

REFUSED: dict[Any, Any] = dict.fromkeys((400, 413, 429, 500, 503), Problem)
FAILED: dict[Any, Any] = dict.fromkeys((400, 404, 409, 413, 415, 422, 500), Problem)
TEXT = {"schema": {"type": "string"}}


class OneVideo(BaseModel):
    model_config = ConfigDict(extra="forbid")  # options belong in the query string

    video: FileStorage = Field(description="MP4, MOV, WebM, animated GIF or animated WebP.")


class VideoPath(BaseModel):
    id: str = Field(description="From the answer to the upload.", max_length=64)


class VideoFormat(BaseModel):
    model_config = ConfigDict(extra="forbid")  # a misspelt option must not be ignored

    format: Literal["json", "vtt", "srt"] = Field(default="json", description="WebVTT and SRT only when it is done.")
    thumbnails: bool = Field(default=False, description="Add a small picture of each key frame.")


class VideoSegment(BaseModel):
    start: float = Field(description="Seconds from the start of the clip.")
    end: float = Field(description="Seconds from the start of the clip.")
    caption: str = Field(
        description="In lower case except for German nouns, without a full stop; empty if the model found none."
    )
    language: str
    probability: Probability
    confidence: Probability
    key_frame_time: float = Field(
        description="Of the frame that the caption describes, in seconds from the start of the clip."
    )
    thumbnail: str | None = Field(default=None, description="JPEG as a data: URL.")


class VideoJob(BaseModel):
    status: Literal["ok"]
    id: str
    url: str = Field(description="Ask here for the result, at least once in two minutes; else the job ends.")
    state: Literal["running", "done"]
    progress: Probability | None = Field(
        description="Share of the clip that was read. Null if the clip does not say how long it is."
    )
    segments: list[VideoSegment] | None = Field(default=None, description="When it is done: without gaps, in order.")


def add_videos(app: OpenAPI) -> None:
    """The page and the API for clips, unless ``VIDEO_JOBS`` is 0."""
    if not app.config["VIDEO_JOBS"]:
        return
    app.extensions["videos"] = VideoJobs(app)
    app.before_request(allow_large)
    app.get("/video", doc_ui=False)(video)
    clips: list[Any] = [Tag(name="Clips")]
    app.post(VIDEOS, tags=clips, responses={202: VideoJob, **REFUSED})(start_video)
    result = {
        "application/json": {"schema": {"$ref": "#/components/schemas/VideoJob"}},
        "text/vtt": TEXT,
        "application/x-subrip": TEXT,
    }
    app.get(f"{VIDEOS}/<id>", tags=clips, responses={200: {"content": result}, **FAILED})(get_video)
    responses: dict[Any, Any] = {204: None, 400: Problem, 404: Problem, 500: Problem}
    app.delete(f"{VIDEOS}/<id>", tags=clips, responses=responses)(cancel_video)


def allow_large() -> None:
    if request.path == VIDEOS:
        request.max_content_length = current_app.config["VIDEO_BYTES"] + 2**16  # for the rest of the form


def video() -> str:
    return render_template("video.html", chosen=caption_language())


def start_video(query: SearchOptions, form: OneVideo) -> Response:
    """Caption a clip

    Starts a job. Ask for its result at the `url` of the answer.
    """
    files = uploads("video")
    if len(files) != 1:
        abort(400, _("Send one clip in the multipart field 'video'."))
    stream: Any = files[0].stream
    stream.flush()
    file = os.fdopen(os.dup(stream.fileno()), "rb")  # Flask closes its own with the request
    try:
        job = jobs().start(file, query.beam_width, query.language)
    except TooManyJobs:
        refuse_busy("queue full", _("Too many clips are being captioned. Please try again in a minute."), 20)
    response = jsonify(describe(job, False))
    response.status_code, response.headers["Location"] = 202, job_url(job)
    return response


def get_video(path: VideoPath, query: VideoFormat) -> Response:
    """Get the result of a clip

    Its progress while it is being captioned, then its segments. An error if the clip cannot be captioned.
    """
    job = find(path.id)
    if isinstance(job.error, VideoError):
        abort(IMAGE_STATUS[job.error.kind], _(str(job.error)))
    if job.error:
        raise InternalServerError
    if query.format == "json":
        return jsonify(describe(job, query.thumbnails))
    if job.segments is None:
        abort(409, _("The captions are not ready yet. Ask again in a moment."))
    text, kind = (to_vtt, "text/vtt") if query.format == "vtt" else (to_srt, "application/x-subrip")
    headers = {"Content-Disposition": f'attachment; filename="captions.{query.format}"'}
    return Response(text(job.segments), content_type=f"{kind}; charset=utf-8", headers=headers)


def cancel_video(path: VideoPath) -> tuple[str, int]:
    """Cancel a clip

    Its file and its result are removed.
    """
    jobs().cancel(find(path.id))
    return "", 204


def jobs() -> VideoJobs:
    return current_app.extensions["videos"]


def find(id: str) -> Job:
    job = jobs().get(id)
    if job is None or job.cancelled:
        abort(404, _("There is no such clip. It was cancelled, or nobody asked for it for two minutes. Send it again."))
    return job


def job_url(job: Job) -> str:
    return url_for("get_video", id=job.id)


def describe(job: Job, thumbnails: bool) -> dict:
    described: dict[str, Any] = {"status": "ok", "id": job.id, "url": job_url(job)}
    if job.segments is None:
        return described | {"state": "running", "progress": job.progress}
    return described | {
        "state": "done",
        "progress": 1.0,
        "segments": [
            segment.to_dict() | ({"thumbnail": segment.thumbnail.url} if thumbnails else {}) for segment in job.segments
        ],
    }
