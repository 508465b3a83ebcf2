"""The photos of the page with their texts written into them, as a ZIP file. Nothing is stored."""

import io
import threading
import time
import zipfile
from pathlib import PurePosixPath

from flask import Response, abort, request
from flask_babel import gettext as _
from flask_openapi import OpenAPI
from werkzeug.datastructures import FileStorage

from captioning.worker_process import OutOfTime, ProcessLost, WorkerProcess
from web.uploads import limited, refuse_late, refuse_without_process, seconds_left, several_uploads

downloads = threading.Semaphore(4)  # limits how many ZIP files are made at a time


def add_photo_downloads(app: OpenAPI) -> None:
    app.post("/photos.zip", doc_ui=False)(photos_zip)


def photos_zip() -> Response:
    """The files of the field `image` as a ZIP file, with the texts of the field `text`, which come in the same order.

    A photo whose format has no place for a text comes with a sidecar file; a photo with an empty text stays as it is.
    """
    files, texts = several_uploads(), request.form.getlist("text")
    if not files or len(files) != len(texts):
        abort(400, _("Send one text for each photo."))
    with limited(downloads):
        data = zip_photos(files, texts)
    headers = {"Content-Disposition": 'attachment; filename="photos.zip"'}
    return Response(data, mimetype="application/zip", headers=headers)


def zip_photos(files: list[FileStorage], texts: list[str]) -> bytes:
    """The ZIP file. A process with limits writes the texts into the photos."""
    target, taken = io.BytesIO(), set[str]()
    writer = WorkerProcess("captioning.metadata", cpu_seconds=5, wall_seconds=20)
    try:
        writer.start()
    except OSError:
        refuse_without_process()
    try:
        with zipfile.ZipFile(target, "w") as archive:  # photos are compressed already
            for file, text in zip(files, texts, strict=True):
                if not seconds_left():
                    refuse_late()
                name = unused_name(file.filename or "", taken)
                writer.send((file.stream.read(), text))
                written = writer.receive()
                if isinstance(written, Exception):
                    raise written
                photo, sidecar = written
                archive.writestr(zip_entry(name), photo)
                if sidecar:
                    archive.writestr(zip_entry(f"{name}.xmp"), sidecar)
    except (OutOfTime, ProcessLost, MemoryError, ValueError):
        abort(422, _("The text cannot be written into %(name)s. Remove this photo and try again.", name=name))
    finally:
        writer.stop()
    return target.getvalue()


def zip_entry(name: str) -> zipfile.ZipInfo:
    """A file that everybody may read when it is unpacked; by default, only its owner may."""
    info = zipfile.ZipInfo(name, time.localtime()[:6])
    info.external_attr = 0o644 << 16
    return info


def unused_name(name: str, taken: set[str]) -> str:
    """The end of the file's name, without folders, and with a number if it or its sidecar is in `taken`.

    Both names are added to `taken`.
    """
    path = PurePosixPath(name.replace("\\", "/").rsplit("/", 1)[-1].strip(". ")[-100:] or "photo")
    number, unused = 1, path.name
    while not taken.isdisjoint(both(unused)):
        number += 1
        unused = f"{path.stem} ({number}){path.suffix}"
    taken.update(both(unused))
    return unused


def both(name: str) -> set[str]:
    """The names of a file and of its sidecar; case does not count."""
    return {name.lower(), f"{name}.xmp".lower()}
