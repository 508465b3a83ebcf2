"""Writes a text into the metadata of a photo, where photo managers, content systems and screen readers find it.

```python
data, kept = embed(Path("photo.jpg").read_bytes(), "A dog runs through the grass.")
kept = write_metadata(Path("photo.jpg"), "A dog runs through the grass.", in_place=True)
```

The text goes into the XMP properties `Iptc4xmpCore:AltTextAccessibility` and `dc:description`, as defined by the IPTC
Photo Metadata Standard 2021.1, and, in JPEG and TIFF, into the older IPTC caption (IIM 2:120) too.
"""

import struct
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from captioning.artifacts import write_bytes
from captioning.containers import MetadataError, damaged, rewrite

__all__ = ["MetadataError", "embed", "sidecar", "write_metadata"]

ALT_TEXT, DESCRIPTION, CAPTION = "alt text", "description", "IPTC caption"

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
PROPERTIES = {  # prefix, namespace and name in XMP
    ALT_TEXT: ("Iptc4xmpCore", "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/", "AltTextAccessibility"),
    DESCRIPTION: ("dc", "http://purl.org/dc/elements/1.1/", "description"),
}
NEW_PACKET = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
    f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{RDF}"><rdf:Description rdf:about=""/></rdf:RDF>'
    '</x:xmpmeta>\n<?xpacket end="w"?>'
).encode()

CHARACTER_SET, VERSION, CAPTION_FIELD = (1, 90), (2, 0), (2, 120)  # record and number of fields of IPTC
UTF_8 = b"\x1b%G"
FORBIDDEN = ("Cc", "Cs")  # kinds of characters: controls, surrogates
MAX_CAPTION = 2000
"""Bytes of the IPTC caption; a longer text is cut there."""


def write_metadata(photo: Path, text: str, *, in_place: bool = False, overwrite: bool = False) -> list[str]:
    """Writes a text beside a photo, into `photo.jpg.xmp`, or into the photo itself.

    The file is replaced as a whole, so that a reader sees the old one or the new one.

    Args:
        text: a sentence; runs of white space become one space.
        in_place: write into the photo: JPEG, PNG, WebP or TIFF. Its compressed pixels stay as they are.
        overwrite: replace text that is there already, in all its languages.

    Returns:
        The fields that keep another text: "alt text", "description", "IPTC caption".

    Raises:
        MetadataError: the file is of another format, its metadata is damaged, there twice or too large, or it holds
            several pictures. It stays as it is.
        OSError: a file cannot be read or written.
    """
    photo.stat()  # an error if there is none
    target = photo if in_place else photo.with_name(photo.name + ".xmp")
    target = target.resolve()  # a link stays a link
    old = target.read_bytes() if in_place or target.exists() else None
    if in_place and old is not None:
        new, kept = embed(old, text, overwrite)
    else:
        try:
            new, kept = sidecar(old, text, overwrite)
        except MetadataError:
            raise MetadataError(
                f"{target.name} is damaged, so it was left as it is. Delete it and try again."
            ) from None
    if new != old:
        write_bytes(target, new)
    return kept


def embed(photo: bytes, text: str, overwrite: bool = False) -> tuple[bytes, list[str]]:
    """The bytes of a photo with a text in its metadata, and the fields that keep another text.

    Raises:
        MetadataError: as for `write_metadata`.
    """
    kept: list[str] = []
    changed = False

    def edit(xmp: bytes | None, iptc: bytes | None) -> tuple[bytes, bytes]:
        nonlocal changed
        new_xmp, kept_xmp = sidecar(xmp, text, overwrite)
        new_iptc, kept_iptc = _edit_iptc(iptc or b"", text, overwrite)
        changed = new_xmp != xmp or new_iptc != iptc
        kept.extend([*kept_xmp, *kept_iptc])
        return new_xmp, new_iptc

    new = rewrite(photo, edit)
    is_iptc = photo[:2] in (b"\xff\xd8", b"II", b"MM")
    return new if changed else photo, [field for field in kept if field != CAPTION or is_iptc]


def sidecar(packet: bytes | None, text: str, overwrite: bool = False) -> tuple[bytes, list[str]]:
    """An XMP packet with a text, made from an old packet if there is one, and the fields that keep another text.

    Raises:
        MetadataError: the old packet is damaged.
    """
    from lxml import etree  # takes 30 ms, and captioning alone does not need it

    text = _clean(text)
    parser = etree.XMLParser(resolve_entities=False, no_network=True)
    try:
        root = etree.fromstring((packet or NEW_PACKET).strip(b"\0 \r\n\t"), parser)
    except etree.XMLSyntaxError as error:
        raise damaged() from error
    rdf = next(root.iter(f"{{{RDF}}}RDF"), None)
    if rdf is None or root.getroottree().docinfo.doctype:
        raise damaged()
    descriptions = rdf.findall(f"{{{RDF}}}Description") or [etree.SubElement(rdf, f"{{{RDF}}}Description")]
    kept, changed = [], False
    for field, (prefix, namespace, name) in PROPERTIES.items():
        tag = f"{{{namespace}}}{name}"
        elements = [element for one in descriptions for element in one.findall(tag)]
        attributes = [one.get(tag) for one in descriptions if one.get(tag)]
        old = [words for element in elements for words in map(str.strip, element.itertext()) if words] + attributes
        if old and old != [text] and not overwrite:
            kept.append(field)
        if old and (old == [text] or not overwrite):
            continue
        changed = True
        for element in elements:
            element.getparent().remove(element)
        for one in descriptions:
            one.attrib.pop(tag, None)
        holder = etree.SubElement(descriptions[0], tag, nsmap={prefix: namespace})
        item = etree.SubElement(etree.SubElement(holder, f"{{{RDF}}}Alt"), f"{{{RDF}}}li")
        item.set("{http://www.w3.org/XML/1998/namespace}lang", "x-default")
        item.text = text
    if not changed and packet is not None:
        return packet, kept
    return etree.tostring(root.getroottree(), encoding="utf-8"), kept


def answer(photo: bytes, text: str) -> Iterator[tuple[bytes, bytes | None]]:
    """In a process of its own: the photo with the text, and a sidecar where the photo cannot hold it.

    The text replaces older ones; an empty one leaves the photo as it is.
    """
    if not _clean(text):
        yield photo, None
        return
    try:
        yield embed(photo, text, overwrite=True)[0], None
    except MetadataError:
        yield photo, sidecar(None, text)[0]


def _clean(text: str) -> str:
    """One line without the control characters and other codes that XML forbids. Joiners of letters stay."""
    allowed = (c for c in text if c.isspace() or (unicodedata.category(c) not in FORBIDDEN and c not in "\ufffe\uffff"))
    return " ".join("".join(allowed).split())


def _edit_iptc(block: bytes, text: str, overwrite: bool) -> tuple[bytes, list[str]]:
    """The IPTC block with the text as its caption.

    A text in UTF-8 says so in the block. Where older fields in another character set prevent that, the caption is in
    Latin-1, and a text with other letters is not written: the old caption is kept.
    """
    fields = _iptc_fields(block)
    old = b" ".join(content for key, content in fields if key == CAPTION_FIELD)
    is_utf_8 = (CHARACTER_SET, UTF_8) in fields
    others = [(key, content) for key, content in fields if key != CAPTION_FIELD]
    if not is_utf_8 and all(content.isascii() for key, content in others if key[0] > 1):
        others = [(CHARACTER_SET, UTF_8), *(field for field in others if field[0] != CHARACTER_SET)]
        is_utf_8 = True
    try:
        new = _clean(text).encode("utf-8" if is_utf_8 else "latin-1")[:MAX_CAPTION]
    except UnicodeEncodeError:
        return block, [CAPTION]
    new = new.decode("utf-8", "ignore").encode() if is_utf_8 else new  # not within a character
    if old == new or (old.strip() and not overwrite):
        return block, [] if old == new else [CAPTION]
    if VERSION not in dict(others):
        others.append((VERSION, b"\0\4"))
    in_order = sorted([*others, (CAPTION_FIELD, new)], key=lambda field: field[0])
    return b"".join(_iptc_field(*field) for field in in_order), []


def _iptc_fields(block: bytes) -> list[tuple[tuple[int, int], bytes]]:
    """The fields of an IPTC block: ((record, number), content)."""
    fields, position = [], 0
    while block[position : position + 1] == b"\x1c":
        _, record, number, length = struct.unpack_from(">BBBH", block, position)
        position += 5
        if length & 0x8000:  # the length of the length
            size = length & 0x7FFF
            length = int.from_bytes(block[position : position + size])
            position += size
        if position + length > len(block):
            raise damaged()
        fields.append(((record, number), block[position : position + length]))
        position += length
    if block[position:].strip(b"\0"):  # fields that we cannot read would be lost
        raise damaged()
    return fields


def _iptc_field(key: tuple[int, int], content: bytes) -> bytes:
    if len(content) < 0x8000:
        return struct.pack(">BBBH", 0x1C, *key, len(content)) + content
    return struct.pack(">BBBHI", 0x1C, *key, 0x8004, len(content)) + content
