"""The images of a page are found as a browser finds them, and only drafts are added to the file."""

import re

import pytest

from captioning import html_alt
from captioning.html_alt import HtmlError, Image, answer, find_images, insert_drafts, local_path
from captioning.worker_process import ask

XHTML = "http://www.w3.org/1999/xhtml"


def sources(page) -> list[str]:
    return [image.source for image in images(page if isinstance(page, bytes) else page.encode())]


def images(page: bytes) -> list[Image]:
    """As `find_images`, without the time that a process takes to start."""
    return next(answer(page))


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("<img src=a.jpg>", ["a.jpg"]),
        ("<IMG\n\tSRC = 'a.jpg' >", ["a.jpg"]),
        ('<img src="a.jpg"/><img/src="b.jpg"/>', ["a.jpg", "b.jpg"]),
        ("<img src=a/>", ["a/"]),
        ("<img>", [""]),
        ('<img src="a.jpg" alt="A dog">', []),
        ('<img src="a.jpg" alt="">', []),
        ("<img alt src=a.jpg>", []),
        ("<img ALT='x' src=a.jpg>", []),
        ('<img src=a.jpg role="presentation"><img src=b.jpg aria-hidden="true">', []),
        ("<!-- <img src=a> --><img src=b>", ["b"]),
        ("<!--> <img src=b>", ["b"]),
        ("<!-- <img src=a> --!><img src=b>", ["b"]),
        ("<script>x = '<img src=a>'</script><img src=b>", ["b"]),
        ("<script><!-- <script> </script> <img src=a> --></script><img src=b>", ["b"]),
        ("<style>/* <img src=a> */</style><textarea><img src=a></textarea><title><img src=a></title>", []),
        ("<iframe><img src=a></iframe><xmp><img src=a></xmp><noframes><img src=a></noframes>", []),
        ("<noscript><img src=a></noscript><template><p><img src=b></template>", ["a", "b"]),
        ("<a title='<img src=a>'><img title='>' src=b></a>", ["b"]),
        ("<a title=<img src=a>x</a>", []),
        ("<img title=<img src=b>", ["b"]),
        ("<svg><style/><img src=b></svg>", ["b"]),
        ("<svg><![CDATA[ <img src=a> ]]></svg><img src=b>", ["b"]),
        ("<table><img src=a><tr><td><img src=b></table>", ["a", "b"]),
        ("<picture><source srcset=x><img src=a></picture>", ["a"]),
        ("<image src=a><imgs src=b><my-img src=c>", []),
        ('<base href="https://example.org/x/"><img src=a>', ["https://example.org/x/a"]),
        ('<base href="pics/"><img src="a.jpg">', ["pics/a.jpg"]),
        ('<img src="a&amp;b&#x2e;jpg">', ["a&b.jpg"]),
        ("<img src='http://[oops/a.jpg'>", ["http://[oops/a.jpg"]),
        ('<img src=a role="none presentation"><img src=b ROLE=None><img src=c aria-hidden="TRUE">', []),
        ('<base href="./"><img src="../dog.jpg">', ["./../dog.jpg"]),
        ('<base href="../assets/"><img src="dog.jpg"><img src="/a.jpg">', ["../assets/dog.jpg", "/a.jpg"]),
        ('<img src="blank.gif" data-src="dog.jpg"><img data-original=b.jpg>', ["dog.jpg", "b.jpg"]),
        ('<img srcset="small.jpg 1x, large.jpg 2x"><img srcset="a.jpg, b.jpg 2x">', ["small.jpg", "a.jpg"]),
        ('<?xml version="1.0"?><html><script src="a.js"/><title/><img src="dog.jpg"/></html>', ["dog.jpg"]),
        ('<!DOCTYPE html><html xmlns="http://www.w3.org/1999/xhtml"><style/><img src="dog.jpg"/></html>', ["dog.jpg"]),
        ("<script/><img src=a>", []),
        (f"<html xmlns='{XHTML}'><script>a('<script/>', '<img src=a>')</script><img src=b></html>", ["b"]),
        ('<img src="dog.jpg" data-original="https://example.org/large.jpg">', ["dog.jpg"]),
        ('<img src="blank.gif" data-src="https://example.org/a.jpg">', ["https://example.org/a.jpg"]),
        ('<img src="data:image/gif;base64,AA" data-src="https://example.org/a.jpg">', ["https://example.org/a.jpg"]),
        ('<img srcset="a.jpg\t1x">', ["a.jpg"]),
        ('<base href=".."><img src="a.jpg">', ["../a.jpg"]),
        ('<base href="pics/?v=1/2"><img src="a.jpg">', ["pics/a.jpg"]),
        ("<img", []),
        ("", []),
    ],
)
def test_images_without_alt_text(html, expected):
    assert sources(html) == expected
    page = html.encode()
    drafts = {image: f"Draft {n}" for n, image in enumerate(images(page))}
    new = insert_drafts(page, drafts)
    assert re.sub(rb' alt="Draft \d+" data-alt-draft=""', b"", new) == page
    assert sources(new) == [] and new.count(b"data-alt-draft") == len(expected)


PAGE = "<p title=x>Grüße\r\n<IMG  src='bäume.jpg'>\n\r<img alt=\"\" src=a.jpg >\x00</P>"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16"])
def test_everything_else_stays_byte_by_byte(encoding):
    page = PAGE.encode(encoding)
    (image,) = find_images(page)
    assert image.source == "bäume.jpg" and image.line == 2
    new = insert_drafts(page, {image: "Trees & \"more\" – <b>'x'"})
    draft = ' alt="Trees &amp; &quot;more&quot; &#8211; &lt;b&gt;&#x27;x&#x27;" data-alt-draft=""'
    assert new == PAGE.replace("<IMG", f"<IMG{draft}").encode(encoding)


def test_declared_encoding():
    page = '<meta charset="shift_jis"><img src="写真.jpg">'
    assert sources(page.encode("shift_jis")) == ["写真.jpg"]
    assert sources('<?xml version="1.0" encoding="iso-8859-2"?><img src="č.jpg">'.encode("iso-8859-2")) == ["č.jpg"]
    assert sources(b'<meta charset="no-such"><img src="\xe4.jpg">') == ["ä.jpg"]


def test_lines():
    page = b"\n" * 7 + b"<img src=a> <img src=b>\r\n<img src=c>"
    assert [image.line for image in find_images(page)] == [8, 8, 9]


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("a.jpg", "a.jpg"),
        ("../pics/my%20dog.jpg?v=2#top", "../pics/my dog.jpg"),
        ("/images/a.jpg", "images/a.jpg"),
        ("img\\a.jpg", "img/a.jpg"),
        ("https://example.org/a.jpg", None),
        ("//example.org/a.jpg", None),
        ("data:image/png;base64,AAAA", None),
        ("file:///a.jpg", None),
        ("http://[oops/a.jpg", None),
        ("a%00.jpg", None),
        ("?x", None),
        ("", None),
    ],
)
def test_local_path(source, path):
    assert local_path(Image(0, 1, source)) == path


def test_a_huge_base_address_is_not_repeated_for_each_image():
    images = find_images(b'<base href="http://a/' + b"a" * 10**6 + b'/">' + b"<img src=a.jpg>" * 100)
    assert [image.source for image in images] == ["a.jpg"] * 100


def test_pages_that_are_refused():
    with pytest.raises(HtmlError, match="4 MB"):
        find_images(b"x" * 4_000_001)
    with pytest.raises(HtmlError, match="UTF-16"):
        find_images(b"\xff\xfe<")


@pytest.mark.slow
def test_a_hostile_page_is_refused_in_time(monkeypatch):
    """Slow because it takes all of the time that it may: here two seconds instead of five."""
    monkeypatch.setattr(html_alt, "ask", lambda *order, **limits: ask(*order, **limits | {"cpu_seconds": 2}))
    with pytest.raises(HtmlError, match="too long"):
        find_images(b"<div>" * 400_000)


@pytest.mark.slow
def test_a_page_that_fills_the_memory_is_refused(monkeypatch):
    """Slow: it fills a memory. The parser repeats all open elements in each paragraph."""
    monkeypatch.setattr(html_alt, "ask", lambda *order, **limits: ask(*order, **limits | {"memory": 150_000_000}))
    page = b"<p>" + b"".join(b"<b a%d>" % n for n in range(400)) + b"<p>x" * 4000
    with pytest.raises(HtmlError, match="too much memory"):
        find_images(page)


def test_a_mark_that_is_not_ours():
    assert find_images(b"<image data-mark-x><img src=a>")[0].source == "a"


def test_a_page_of_many_images():
    page = b"<p><img src=a><b>hello</b>\n" * 20_000
    assert [image.line for image in find_images(page)] == list(range(1, 20_001))
