"""The page "Web pages": takes HTML files and their pictures, and gives them back with drafts of alt texts."""

import base64
import io
import threading
import zipfile
from concurrent.futures import Future
from itertools import islice
from pathlib import PurePosixPath
from typing import NamedTuple

from flask import abort, current_app, render_template, request
from flask_babel import gettext as _
from flask_openapi import OpenAPI
from werkzeug.datastructures import FileStorage

from captioning.generator import Caption
from captioning.html_alt import HtmlError, insert_drafts, local_path
from captioning.images import SUFFIXES, ImageError, Photo
from captioning.site import Missing, Site, read_site
from captioning.text import sentence
from web.language import caption_language
from web.photo_downloads import zip_entry
from web.uploads import Options, enqueue, limited, refuse_without_process, uploads, wait

THUMBNAIL = 160  # pixels of the longer side
MAX_LINK = 1_400_000  # bytes of a file in a link; browsers refuse to save links of more than two million letters
reading = threading.Semaphore(2)  # limits how many uploads are unpacked at a time


class Row(NamedTuple):
    """An image without alt text, as the page lists it: with a draft, or with the reason why it has none."""

    line: int
    source: str
    draft: str = ""
    thumbnail: str = ""
    problem: str = ""


def add_html_page(app: OpenAPI) -> None:
    app.get("/html", doc_ui=False)(html_form)
    app.post("/html", doc_ui=False)(draft_site)


def html_form() -> str:
    return render_template("html.html", chosen=caption_language())


def draft_site() -> str | tuple[str, int]:
    """Answers with a report and, in a link, the new file. So the server stores nothing, and no script is needed."""
    language = caption_language(request.form.get("language"))
    files = [(file.filename or "", file.stream.read()) for file in uploads("file")]
    if not files:
        abort(400, _("No file was chosen. Choose an HTML file and its pictures, or a ZIP file."))
    try:
        with limited(reading):
            site = read_site(files)
    except HtmlError as error:
        return render_template("html.html", error=_(str(error)), chosen=language), 422
    except OSError:
        refuse_without_process()
    found = caption_files(site, language)
    reports, changed = [], {}
    for page in site.pages:
        rows = [(missing, describe(missing, found)) for missing in page.images]
        changed[page.name] = insert_drafts(page.content, {one.image: row.draft for one, row in rows if row.draft})
        reports.append((page.name, [row for _missing, row in rows]))
    name, file = pack(changed)
    if len(file) > MAX_LINK:
        too_large = _("The pages are too large. Send fewer, or use the command line.")
        return render_template("html.html", error=too_large, chosen=language), 413
    return render_template(
        "html.html",
        reports=reports,
        drafts=sum(bool(row.draft) for _name, rows in reports for row in rows),
        left=sum(not row.draft for _name, rows in reports for row in rows),
        name=name,
        link="data:application/octet-stream;base64," + base64.b64encode(file).decode(),
        chosen=language,
    )


def caption_files(site: Site, language: str) -> dict[str, dict[str, str]]:
    """`draft` and `thumbnail` for the `Row` of MAX_PHOTOS files; `problem` for those that cannot be read."""
    found: dict[str, dict[str, str]] = {}
    queued: dict[str, tuple[Photo, Future[Caption]]] = {}
    most = current_app.config["MAX_PHOTOS"]
    # Photos come before icons, which nobody can read.
    names = sorted(site.files, key=lambda name: PurePosixPath(name).suffix.lower() not in SUFFIXES)
    left = iter(names[: 5 * most])
    while some := list(islice(left, most - len(queued))):
        files = [FileStorage(io.BytesIO(site.files[name]), name) for name in some]
        for name, result in zip(some, enqueue(files, Options(language=language), THUMBNAIL), strict=True):
            if isinstance(result, ImageError):
                found[name] = {"problem": _(str(result))}
            else:
                queued[name] = result
    for name, (photo, answer) in queued.items():
        assert photo.preview  # of the requested size
        if text := sentence(wait(answer).text):
            found[name] = {"draft": text, "thumbnail": photo.preview.url}
        else:
            found[name] = {"problem": _("The model found no caption for this photo.")}
    return found


def describe(missing: Missing, found: dict[str, dict[str, str]]) -> Row:
    image, file = missing
    if file in found:
        return Row(image.line, image.source, **found[file])
    if file is not None:
        most = current_app.config["MAX_PHOTOS"]
        problem = _(
            "Only %(most)s pictures are captioned at a time. For the next ones, send the downloaded file with its "
            "pictures.",
            most=most,
        )
    elif not image.source:
        problem = _("This image has no address. Write its text by hand.")
    elif local_path(image) is None:
        problem = _("This image is on another site or embedded in the page. Write its text by hand.")
    else:
        problem = _("The file of this image was not sent. Send it too.")
    return Row(image.line, image.source, problem=problem)


def pack(pages: dict[str, bytes]) -> tuple[str, bytes]:
    """The name and the bytes of the file to save: the page, or a ZIP file of several pages or of a large one."""
    if len(pages) == 1:
        ((name, content),) = pages.items()
        if len(content) <= MAX_LINK:
            return PurePosixPath(name).name, content
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in pages.items():
            archive.writestr(zip_entry(name), content, zipfile.ZIP_DEFLATED)
    return "pages.zip", target.getvalue()
