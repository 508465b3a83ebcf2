"""Finds the images of a web page that have no alt text, and writes drafts into it.

```python
images = find_images(page)  # bytes of the file
page = insert_drafts(page, {images[0]: "A dog runs through the grass."})
```

A draft is `alt="…" data-alt-draft=""`, right behind `<img`. Nothing else in the file changes: not its encoding, its
line ends or its quotes.
"""

import codecs
import contextlib
import html
import re
from bisect import bisect
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple
from urllib.parse import unquote, urljoin, urlsplit

from captioning.worker_process import OutOfTime, ProcessLost, ask

MAX_PAGE = 4_000_000
"""Bytes of a page."""
MAX_BASE = 2000
"""Characters of a base address; a longer one is ignored, because the address of each image would hold it."""

MARK = "data-mark-"
IMG = re.compile(rb"<img(?=[\s/>])", re.IGNORECASE)
DECLARED = re.compile(rb"<(?:meta[^>]+charset|\?xml[^>]+encoding)\s*=\s*[\"']?\s*([\w-]+)", re.IGNORECASE)
XHTML = re.compile(rb"^\s*<\?xml|<html[^>]+http://www\.w3\.org/1999/xhtml", re.IGNORECASE)
EMPTY = re.compile(  # not in a string of a script
    rb"(?<![\"'`])<(script|style|title|textarea|iframe|noscript|xmp|noembed|noframes)\b([^<>]*)/>", re.IGNORECASE
)
LAZY = ("data-src", "data-lazy-src")
"""Attributes with the address of an image that a script loads late. `src` holds a placeholder then."""
TEMPLATE = re.compile(rb"(</?)template(?=[\s/>])", re.IGNORECASE)
WIDE = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}  # all others have the bytes of ASCII


class HtmlError(ValueError):
    """A page that cannot be read. The message states what is wrong and what to do."""


class Image(NamedTuple):
    """An `<img>` without alt text. `source` is its address, joined with the page's base address; "" if it has none.

    It is that of an attribute in `LAZY`. Else, of `data-original`, `src` and the first in `srcset`, it is the first one
    that may be a file beside the page.
    """

    position: int
    line: int
    source: str


def find_images(page: bytes) -> list[Image]:
    """The images without alt text, in the order of the page.

    Those with an empty alt text, with `role="presentation"` or `role="none"`, or with `aria-hidden="true"` are
    decoration: they are left out. The page is read in a process of its own, because some pages would keep a parser busy
    for hours.

    Raises:
        HtmlError: the page is too large, takes too long, or is not the UTF-16 text that it claims to be.
        OSError: no process can be started.
    """
    check_size(page)
    try:
        return ask(__name__, page, cpu_seconds=5, wall_seconds=30)
    except (OutOfTime, ProcessLost) as error:
        raise HtmlError("The page takes too long to read. Check that it is an HTML file.") from error


def check_size(page: bytes) -> None:
    """Raises HtmlError for a page of more than `MAX_PAGE` bytes."""
    if len(page) > MAX_PAGE:
        raise HtmlError("The page has more than 4 MB. Split it, or take large scripts out of it.")  # MAX_PAGE


def insert_drafts(page: bytes, drafts: Mapping[Image, str]) -> bytes:
    """The page with a draft as alt text of each image in `drafts`."""
    data, back = _with_ascii(page)
    pieces, start = [], 0
    for image in sorted(drafts):
        end = image.position + len("<img")
        alt = html.escape(drafts[image]).encode("ascii", "xmlcharrefreplace")
        pieces += [data[start:end], b' alt="%s" data-alt-draft=""' % alt]
        start = end
    return back(b"".join([*pieces, data[start:]]))


def local_path(image: Image) -> str | None:
    """The path of an image's file, relative to the page's folder; None where its address leads elsewhere.

    A path from the root of the site, such as `/images/a.jpg`, counts from the page's folder too.
    """
    try:
        address = urlsplit(image.source)
    except ValueError:
        return None
    if address.scheme or address.netloc or not address.path:
        return None
    path = unquote(address.path.replace("\\", "/")).lstrip("/")
    return None if "\0" in path else path


def answer(page: bytes) -> Iterator[list[Image]]:
    """In the process: finds the images.

    Each `<img` gets a mark as its first attribute. Where the mark is an attribute of an image after the page is parsed,
    there is an image; where it is not, there is a comment, a script or the like.
    """
    from selectolax.lexbor import LexborHTMLParser, SelectolaxError

    data, _ = _with_ascii(page)
    positions = {f"{MARK}{number}": match.start() for number, match in enumerate(IMG.finditer(data))}
    marks = iter(positions)
    marked = IMG.sub(lambda match: match[0] + f" {next(marks)}".encode(), data)
    marked = TEMPLATE.sub(rb"\1div", marked)  # the parser keeps the content of templates apart
    if XHTML.search(data[:2048]):
        marked = EMPTY.sub(rb"<\1\2></\1>", marked)  # HTML would take the rest of the page for their content
    try:
        tree = LexborHTMLParser(_decode(marked))
    except (SelectolaxError, MemoryError) as error:
        raise HtmlError("The page takes too much memory to read. Split it.") from error
    ends = [match.start() for match in re.finditer(b"\n", data)]
    first = tree.css_first("base[href]")
    base = first.attributes["href"] or "" if first else ""
    if len(base) > MAX_BASE:
        base = ""
    images = []
    for node in tree.css("img"):
        attributes = node.attributes
        mark = next((name for name in attributes if name in positions), None)
        roles = (attributes.get("role") or "").lower().split()
        hidden = (attributes.get("aria-hidden") or "").lower() == "true" or {"presentation", "none"} & set(roles)
        if mark is None or "alt" in attributes or hidden:
            continue
        position = positions[mark]
        first_in_set = [part.rstrip(",") for part in (attributes.get("srcset") or "").split()[:1]]
        late = [attributes.get(name) for name in LAZY]
        line = bisect(ends, position) + 1
        found = [
            Image(position, line, _join(base, source.strip()))
            for source in (*late, attributes.get("data-original"), attributes.get("src"), *first_in_set)
            if source and source.strip()
        ]
        best = found[0] if any(late) else next(filter(local_path, found), None)
        images.append(best or (found or [Image(position, line, "")])[0])
    yield sorted(images)


def _join(base: str, source: str) -> str:
    """Like `urljoin`, but a path that leads out of a relative base keeps its dots, as in ``../`` and ``../a.jpg``.

    What is no address stays as it is.
    """
    try:
        parts = urlsplit(base), urlsplit(source)
        if any(part.scheme or part.netloc or part.path.startswith("/") for part in parts) or not parts[1].path:
            return urljoin(base, source)
    except ValueError:
        return source
    folder, _, last = parts[0].path.rpartition("/")
    folders = [*([folder] if folder else []), *([last] if last in (".", "..") else [])]
    return "/".join([*folders, source])


def _with_ascii(page: bytes) -> tuple[bytes, Callable[[bytes], bytes]]:
    """The page in an encoding where ASCII letters are single bytes, and the function that leads back."""
    encoding = WIDE.get(page[:2])
    if encoding is None:
        return page, bytes
    try:
        text = page.decode(encoding)
    except UnicodeDecodeError as error:
        raise HtmlError("The page is not the UTF-16 text that it claims to be. Save it again as UTF-8.") from error
    return text.encode(), lambda data: data.decode().encode(encoding)


def _decode(data: bytes) -> str:
    """A page as text: in UTF-8 if it can be, else as it declares, else in Windows-1252."""
    declared = DECLARED.search(data[:2048])
    for encoding in ("utf-8", declared[1].decode() if declared else "cp1252"):
        with contextlib.suppress(UnicodeError, LookupError):
            return data.decode(encoding)
    return data.decode("cp1252", "replace")
