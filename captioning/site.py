"""Reads web pages and their pictures as they are uploaded: as single files, or as a ZIP file of a site's folder.

```python
site = read_site([("site.zip", data)])
site.pages[0].images[0].image.source, site.pages[0].images[0].file    # "../pics/dog.jpg", "site/pics/dog.jpg"
site.files["site/pics/dog.jpg"]                                       # its bytes
```
"""

import contextlib
import io
import posixpath
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from lzma import LZMAError
from typing import NamedTuple
from zipfile import BadZipFile

from captioning import html_alt
from captioning.html_alt import MAX_PAGE, HtmlError, Image, local_path
from captioning.worker_process import OutOfTime, ProcessLost, ask

PAGES = (".html", ".htm", ".xhtml")
MAX_UNPACKED = 64 * 2**20
"""Bytes of all that is read from a ZIP file: its pages and their pictures."""
DAMAGED = (BadZipFile, RuntimeError, EOFError, OSError, ValueError, OverflowError, zlib.error, LZMAError)
"""What `zipfile` raises for files that are damaged or encrypted."""
MAX_IMAGES = 2000
"""Images without alt text, in all pages together."""


class Missing(NamedTuple):
    """An image without alt text, and the name of its file in the site, None where the site has no such file."""

    image: Image
    file: str | None


class Page(NamedTuple):
    name: str
    content: bytes
    images: list[Missing]


class Site(NamedTuple):
    """The pages, and the files of their images without alt text."""

    pages: list[Page]
    files: dict[str, bytes]


def read_site(uploads: Iterable[tuple[str, bytes]]) -> Site:
    """Reads uploads, each with its name, in a process of its own.

    Raises:
        HtmlError: there is no page, a page or the ZIP file cannot be read, or is too large.
    """
    try:
        return ask(__name__, list(uploads), cpu_seconds=10, wall_seconds=30)
    except (OutOfTime, ProcessLost, MemoryError) as error:
        raise HtmlError("The upload takes too long to read. Send fewer or smaller files.") from error


def answer(uploads: list[tuple[str, bytes]]) -> Iterator[Site]:
    """In the process: reads the uploads."""
    files: dict[str, bytes | zipfile.ZipInfo] = {}
    archives = [data for name, data in uploads if name.lower().endswith(".zip")]
    if len(archives) > 1:
        raise HtmlError("Send one ZIP file at a time.")
    names = [name for name, _ in uploads if name.lower().endswith(PAGES)]
    if len(set(names)) < len(names):
        raise HtmlError("Two HTML files have the same name. Send a ZIP file with their folders.")
    archive = _open_archive(archives[0]) if archives else None
    known: dict[str, str] = {}  # the paths under which a page may name a file → its name in `files`
    if archive:
        members = [info for info in archive.infolist() if not info.is_dir()]
        files = {_file_name(info): info for info in members}
        known = {_file_name(info, "cp852"): _file_name(info) for info in members}
    files |= {unicodedata.normalize("NFC", name): data for name, data in uploads if not name.lower().endswith(".zip")}
    known |= {name: name for name in files}
    left = MAX_UNPACKED

    def read(name: str, most: int) -> bytes:
        nonlocal left
        content = files[name]
        if isinstance(content, zipfile.ZipInfo):
            assert archive
            try:
                with archive.open(content) as file:
                    content = file.read(min(most, left) + 1)
            except DAMAGED as error:
                raise _damaged() from error
            left -= len(content)
            if left < 0:
                raise HtmlError("The ZIP file unpacks to more than 64 MB. Send a part of the site.")  # MAX_UNPACKED
        return content

    names = sorted(name for name in files if name.lower().endswith(PAGES) and not _is_hidden(name))
    if not names:
        raise HtmlError("There is no HTML file. Choose one, or a ZIP file with one.")
    loose = {posixpath.basename(name): name for name, content in files.items() if isinstance(content, bytes)}
    pages, found = [], {}
    for name in names:
        content = read(name, MAX_PAGE)
        html_alt.check_size(content)
        images = [Missing(image, _find(image, name, known, loose)) for image in next(html_alt.answer(content))]
        pages.append(Page(name, content, images))
        if sum(len(page.images) for page in pages) > MAX_IMAGES:
            raise HtmlError("The pages have more than 2,000 images without alt text. Send fewer pages.")  # MAX_IMAGES
        for missing in images:
            if missing.file and missing.file not in found:
                found[missing.file] = read(missing.file, MAX_UNPACKED)
    yield Site(pages, found)


def _open_archive(data: bytes) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(io.BytesIO(data))
    except DAMAGED as error:
        raise _damaged() from error


def _file_name(info: zipfile.ZipInfo, encoding: str = "cp437") -> str:
    """The path of a file in a ZIP file. macOS writes names in UTF-8 without saying so, older Windows backslashes.

    Args:
        encoding: of names that are not in UTF-8. Windows uses that of its language.
    """
    name = info.filename
    if not info.flag_bits & 0x800:  # else they are in UTF-8
        with contextlib.suppress(UnicodeEncodeError):  # Python 3.12 has read a name in UTF-8 from another field
            raw = name.encode("cp437")
            try:
                name = raw.decode("utf-8")
            except UnicodeDecodeError:
                name = raw.decode(encoding)
    return posixpath.normpath(unicodedata.normalize("NFC", name).replace("\\", "/"))


def _damaged() -> HtmlError:
    return HtmlError("The ZIP file is damaged or encrypted. Make it again, without a password.")


def _find(image: Image, page: str, known: Mapping[str, str], loose: Mapping[str, str]) -> str | None:
    """The name of an image's file: from the page's folder, from a folder above it, or, of single files, anywhere."""
    path = local_path(image)
    if path is None:
        return None
    path = unicodedata.normalize("NFC", path)
    folders = [posixpath.dirname(page)]
    while folders[-1] and image.source.startswith("/"):
        folders.append(posixpath.dirname(folders[-1]))
    candidates = (posixpath.normpath(posixpath.join(folder, path)) for folder in folders)
    return next((known[name] for name in candidates if name in known), loose.get(posixpath.basename(path)))


def _is_hidden(name: str) -> bool:
    """Whether a file is not part of a site, such as what macOS puts into each ZIP file."""
    return any(part.startswith((".", "__MACOSX")) for part in name.split("/"))
