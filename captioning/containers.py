"""Where JPEG, PNG, WebP and TIFF files hold metadata: replaces the XMP packet and the IPTC block of a file.

```python
data = rewrite(data, lambda xmp, iptc: (new_xmp, new_iptc))
```

All other bytes stay as they are, the compressed pixels among them. References: XMP specification part 3 (Adobe), PNG
specification, WebP container specification, TIFF 6.0, BigTIFF.
"""

import hashlib
import struct
import zlib
from collections.abc import Callable, Iterator, Sized
from typing import NamedTuple

Edit = Callable[[bytes | None, bytes | None], tuple[bytes, bytes]]
"""From the old XMP packet and IPTC block, None where there is none, to the new ones."""

XMP_IN_JPEG = b"http://ns.adobe.com/xap/1.0/\0"
PHOTOSHOP_IN_JPEG = b"Photoshop 3.0\0"
XMP_IN_PNG = b"XML:com.adobe.xmp\0"
IPTC_RESOURCE, DIGEST_RESOURCE = 0x0404, 0x0425  # numbers of Photoshop's image resources
XMP_TAG, IPTC_TAG, PHOTOSHOP_TAG = 700, 33723, 34377  # of TIFF
MAX_PACKET = 2**24
"""Bytes of an XMP packet in a PNG, once decompressed."""


class MetadataError(ValueError):
    """Metadata that cannot be read or written. The message states what is wrong and what to do."""


def rewrite(data: bytes, edit: Edit) -> bytes:
    """A copy of a photo's file with the XMP packet and the IPTC block that `edit` makes.

    PNG and WebP have no place for IPTC: there, `edit` gets None, and what it makes is not used.

    Raises:
        MetadataError: the file is of another format, damaged, or has no room.
    """
    try:
        if data[:3] == b"\xff\xd8\xff":
            return _rewrite_jpeg(data, edit)
        if data[:8] == b"\x89PNG\r\n\x1a\n":
            return _rewrite_png(data, edit)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _rewrite_webp(data, edit)
        if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return _rewrite_tiff(data, edit)
    except (struct.error, IndexError, zlib.error, OverflowError) as error:
        raise damaged() from error
    raise MetadataError("Only JPEG, PNG, WebP and TIFF files can hold the text.")


def damaged() -> MetadataError:
    return MetadataError("The metadata of the file is damaged, so it was left as it is.")


# JPEG: segments. XMP is in one of kind APP1, IPTC in Photoshop's resources in those of kind APP13.


class _Segment(NamedTuple):
    marker: int
    body: bytes

    @property
    def encoded(self) -> bytes:
        if len(self.body) > 65533:
            raise MetadataError("The metadata of the file is too large for a JPEG.")
        return struct.pack(">BBH", 0xFF, self.marker, len(self.body) + 2) + self.body


def _rewrite_jpeg(data: bytes, edit: Edit) -> bytes:
    segments, pixels = _jpeg_segments(data)

    def places(marker: int, start: bytes) -> list[int]:
        return [n for n, one in enumerate(segments) if one.marker == marker and one.body.startswith(start)]

    xmp_at, photoshop_at = places(0xE1, XMP_IN_JPEG), places(0xED, PHOTOSHOP_IN_JPEG)
    _check_single(xmp_at)
    xmp = segments[xmp_at[0]].body[len(XMP_IN_JPEG) :] if xmp_at else None
    photoshop = b"".join(segments[n].body[len(PHOTOSHOP_IN_JPEG) :] for n in photoshop_at)
    xmp, iptc = edit(xmp, _resource(photoshop, IPTC_RESOURCE))
    photoshop = PHOTOSHOP_IN_JPEG + _with_iptc(photoshop, iptc)

    new = dict(enumerate(segments)) | dict.fromkeys(photoshop_at[1:], None)
    first = next((n for n, one in enumerate(segments) if one.marker not in (0xE0, 0xE1)), len(segments))
    inserted = []  # before segment `first`
    for at, segment in ((xmp_at, _Segment(0xE1, XMP_IN_JPEG + xmp)), (photoshop_at, _Segment(0xED, photoshop))):
        if at:
            new[at[0]] = segment
        else:
            inserted.append(segment)
    order = [*list(new.values())[:first], *inserted, *list(new.values())[first:]]
    encoded = [segment.encoded for segment in order if segment]
    if index := places(0xE2, b"MPF\0"):  # an index of further pictures; it counts bytes from itself
        behind = sum(len(one.encoded) for one in segments[index[0] :])
        if behind != sum(map(len, encoded[encoded.index(segments[index[0]].encoded) :])):
            raise MetadataError("The file holds several pictures, which would be lost.")
    return data[:2] + b"".join(encoded) + pixels


def _jpeg_segments(data: bytes) -> tuple[list[_Segment], bytes]:
    """The segments before the pixels, and all that follows, unread."""
    segments: list[_Segment] = []
    position = 2
    while data[position] == 0xFF:
        if data[position + 1] == 0xDA:  # start of scan
            return segments, data[position:]
        if data[position + 1] == 0xFF:  # padding
            position += 1
            continue
        marker, length = struct.unpack_from(">xBH", data, position)
        if marker < 0xC0 or 0xD0 <= marker <= 0xD9 or length < 2:
            break
        segments.append(_Segment(marker, data[position + 4 : position + 2 + length]))
        position += 2 + length
    raise damaged()


def _resources(photoshop: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """The number, the content and all bytes of each of Photoshop's image resources."""
    position = 0
    while position + 12 <= len(photoshop):
        number, name = struct.unpack_from(">4xHB", photoshop, position)
        start = position + 6 + (name + 2) // 2 * 2
        (length,) = struct.unpack_from(">I", photoshop, start)
        end = start + 4 + length
        if end > len(photoshop):
            raise damaged()
        yield number, photoshop[start + 4 : end], photoshop[position : end + length % 2]
        position = end + length % 2


def _resource(photoshop: bytes, wanted: int) -> bytes | None:
    found = [content for number, content, _ in _resources(photoshop) if number == wanted]
    _check_single(found)
    return found[0] if found else None


def _check_single(found: Sized) -> None:
    """Programs differ in which of several blocks of metadata they read."""
    if len(found) > 1:
        raise MetadataError("The file has the same kind of metadata several times.")


def _with_iptc(photoshop: bytes, iptc: bytes) -> bytes:
    """Photoshop's resources with another IPTC block, and its digest if there was one."""

    def resource(number: int, content: bytes) -> bytes:
        head = struct.pack(">4sHHI", b"8BIM", number, 0, len(content))
        return head + content + bytes(len(content) % 2)

    found, new = False, []
    for number, _, whole in _resources(photoshop):
        if number == IPTC_RESOURCE:
            new.append(resource(number, iptc))
            found = True
        elif number == DIGEST_RESOURCE:
            new.append(resource(number, hashlib.md5(iptc, usedforsecurity=False).digest()))
        else:
            new.append(whole)
    return b"".join(new if found else [resource(IPTC_RESOURCE, iptc), *new])


# PNG: chunks. XMP is in one of kind iTXt.


def _rewrite_png(data: bytes, edit: Edit) -> bytes:
    chunks: list[tuple[bytes, bytes]] = []  # kind and all bytes
    position = 8
    while not chunks or chunks[-1][0] != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, position)
        if position + 12 + length > len(data):
            raise damaged()
        chunks.append((kind, data[position : position + 12 + length]))
        position += 12 + length
    found = [n for n, (kind, whole) in enumerate(chunks) if kind == b"iTXt" and whole[8:].startswith(XMP_IN_PNG)]
    _check_single(found)
    old = _packet_in_png(chunks[found[0]][1][8 + len(XMP_IN_PNG) : -4]) if found else None
    body = XMP_IN_PNG + bytes(4) + edit(old, None)[0]  # not compressed, no language, no translated keyword
    chunk = struct.pack(">I", len(body)) + b"iTXt" + body + struct.pack(">I", zlib.crc32(b"iTXt" + body))
    at = found[0] if found else next((n for n, (kind, _) in enumerate(chunks) if kind == b"IDAT"), len(chunks) - 1)
    chunks[at : at + len(found[:1])] = [(b"iTXt", chunk)]
    return data[:8] + b"".join(whole for _, whole in chunks) + data[position:]


def _packet_in_png(body: bytes) -> bytes:
    text = body[2:].split(b"\0", 2)[2]  # after language and translated keyword
    if not body[0]:
        return text
    decompressor = zlib.decompressobj()
    packet = decompressor.decompress(text, MAX_PACKET)
    if not decompressor.eof:
        raise damaged()
    return packet


# WebP: RIFF chunks. XMP is one of its own, and a flag in the header of an extended file tells of it.


def _rewrite_webp(data: bytes, edit: Edit) -> bytes:
    (size,) = struct.unpack_from("<I", data, 4)
    end, position = 8 + size, 12
    chunks: list[tuple[bytes, bytes]] = []  # kind and content
    while position + 8 <= end:
        kind, length = struct.unpack_from("<4sI", data, position)
        if position + 8 + length > len(data):
            raise damaged()
        chunks.append((kind, data[position + 8 : position + 8 + length]))
        position += 8 + length + length % 2
    if not chunks:
        raise damaged()
    if chunks[0][0] != b"VP8X":
        chunks.insert(0, (b"VP8X", _webp_header(*chunks[0])))
    header = chunks[0][1]
    chunks[0] = b"VP8X", bytes((header[0] | 0x04,)) + header[1:]
    found = [n for n, (kind, _) in enumerate(chunks) if kind == b"XMP "]
    _check_single(found)
    old = chunks[found[0]][1] if found else None
    at = found[0] if found else len(chunks)
    chunks[at : at + 1] = [(b"XMP ", edit(old, None)[0])]
    body = b"".join(struct.pack("<4sI", kind, len(c)) + c + bytes(len(c) % 2) for kind, c in chunks)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body + data[max(end, position) :]


def _webp_header(kind: bytes, content: bytes) -> bytes:
    """The header that makes a simple file, of one chunk with pixels, an extended one."""
    if kind == b"VP8 " and content[3:6] == b"\x9d\x01\x2a":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", content, 6))
        alpha = 0
    elif kind == b"VP8L" and content[0] == 0x2F:
        (bits,) = struct.unpack_from("<I", content, 1)
        width, height, alpha = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, bits >> 28 & 1
    else:
        raise damaged()
    return struct.pack("<I", alpha << 4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")


# TIFF: a directory of tags. A new copy of the first directory goes to the end of the file, and only the pointer to it
# in the header changes. So nothing moves that other directories point to.


def _rewrite_tiff(data: bytes, edit: Edit) -> bytes:
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    pointer_at, pointer = (8, order + "Q") if big else (4, order + "I")
    count_format, entry_format = (order + "Q", order + "HHQQ") if big else (order + "H", order + "HHII")
    count_size, entry_size = struct.calcsize(count_format), struct.calcsize(entry_format)
    most = 2 ** (64 if big else 32)  # bytes of a file

    (start,) = struct.unpack_from(pointer, data, pointer_at)
    (count,) = struct.unpack_from(count_format, data, start)
    first, end = start + count_size, start + count_size + count * entry_size
    if not 0 < count < 65536 or end > len(data):
        raise damaged()
    entries = {}  # tag → all bytes
    for at in range(first, end, entry_size):
        entries[struct.unpack_from(order + "H", data, at)[0]] = data[at : at + entry_size]
    (following,) = struct.unpack_from(pointer, data, end)

    def content(tag: int) -> bytes | None:
        if tag not in entries:
            return None
        _, kind, length, place = struct.unpack(entry_format, entries[tag])
        length *= {1: 1, 2: 1, 6: 1, 7: 1, 3: 2, 4: 4}.get(kind, 0)
        if length <= struct.calcsize(pointer):
            return entries[tag][-struct.calcsize(pointer) :][:length]
        if place + length > len(data):
            raise damaged()
        return data[place : place + length]

    in_photoshop = _resource(content(PHOTOSHOP_TAG) or b"", IPTC_RESOURCE)
    xmp, iptc = edit(content(XMP_TAG), content(IPTC_TAG) or in_photoshop)
    new = {XMP_TAG: (1, xmp), IPTC_TAG: (7, iptc)}
    if photoshop := content(PHOTOSHOP_TAG):
        new[PHOTOSHOP_TAG] = (1, _with_iptc(photoshop, iptc))
    added = bytearray(len(data) % 2)
    for tag, (kind, value) in new.items():
        entries[tag] = struct.pack(entry_format, tag, kind, len(value), len(data) + len(added))
        added += value + bytes(len(value) % 2)
    directory = len(data) + len(added)
    added += struct.pack(count_format, len(entries)) + b"".join(entries[tag] for tag in sorted(entries))
    added += struct.pack(pointer, following)
    if len(data) + len(added) >= most:
        raise MetadataError("The file is too large for more metadata.")
    head = data[:pointer_at] + struct.pack(pointer, directory)
    return head + data[len(head) :] + added
