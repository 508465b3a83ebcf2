"""Pictures made to hurt whoever opens them: small to send, dear to open.

`QUICK` and `SLOW` map a name to a function that makes the file's bytes, at most 28 MB of them. The slow ones take more
than a second to open or to refuse. `LARGE` are good pictures of 49 million pixels. Each is made in six seconds at most.
"""

import functools
import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from helpers import swapped_profile
from PIL import Image
from pillow_heif import register_heif_opener

register_heif_opener()  # so that Pillow writes HEIC
SWAPPED = swapped_profile()

SIDE = 7000  # of large pictures: 49 million pixels, which is allowed
MEBIBYTE = 2**20


def encoded(image: Image.Image, format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def small(format: str, **options) -> bytes:
    colours = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    return encoded(Image.fromarray(colours), format, **options)


# JPEG


def segment(marker: int, body: bytes = b"") -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def jpeg_with(extra: bytes) -> bytes:
    """A good JPEG with more in front of its first segment."""
    good = small("JPEG")
    return good[:2] + extra + good[2:]


def jpeg_of_size(width: int, height: int) -> bytes:
    good = bytearray(small("JPEG"))
    place = good.index(b"\xff\xc0") + 5
    good[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(good)


def jpeg_scans(count: int, side: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    good = encoded(Image.new("RGB", (side, side)), "JPEG", progressive=True)
    return good[:-2] + good[good.rindex(b"\xff\xda") : -2] * count + good[-2:]


def exif_loop(order: str = "<") -> bytes:
    """An EXIF block whose directories all lead back to the first one."""
    tags = [(0x8769, 4, 1, 8), (0x8825, 4, 1, 8), (0xA005, 4, 1, 8)]
    return b"Exif\0\0" + {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HI", 42, 8) + directory(tags, 8, order)


def many_pictures_in_one(count: int) -> bytes:
    """A JPEG that claims to hold `count` more (MPO)."""
    tags = [(0xB000, 7, 4, 0x30303130), (0xB001, 4, 1, count), (0xB002, 7, count * 16 % 2**32, 50)]
    return jpeg_with(segment(0xE2, b"MPF\0II" + struct.pack("<HI", 42, 8) + directory(tags)))


# PNG


def chunk(kind: bytes, body: bytes = b"", length: int | None = None) -> bytes:
    claimed = len(body) if length is None else length
    return struct.pack(">I", claimed) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, extra: bytes = b"", pixels: bytes | None = None) -> bytes:
    """Black, unless the compressed `pixels` say otherwise; `extra` chunks come before them."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zeros(height * (1 + width)) if pixels is None else pixels
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", data) + chunk(b"IEND")


@functools.cache
def zeros(count: int) -> bytes:
    """So many zero bytes, compressed a thousand times."""
    packer = zlib.compressobj(1)
    full, rest = divmod(count, MEBIBYTE)
    parts = [packer.compress(bytes(MEBIBYTE)) for _ in range(full)]
    return b"".join([*parts, packer.compress(bytes(rest)), packer.flush()])


# GIF


def gif(width: int, height: int, extra: bytes = b"", frame: tuple[int, int] = (1, 1)) -> bytes:
    """A frame with a pixel of data; `extra` blocks come before it."""
    screen = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    return screen + extra + gif_frame(*frame) + b";"


def gif_frame(width: int, height: int) -> bytes:
    return b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x44\x01\0"


# BMP


def bmp(width: int, height: int, pixels: bytes, compression: int = 0, bits: int = 8, offset: int = 1078) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(pixels), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 1078 + len(pixels), 0, 0, offset) + header + bytes(1024) + pixels


# TIFF


def directory(tags: list[tuple[int, int, int, int]], following: int = 0, order: str = "<") -> bytes:
    """An image file directory. A tag is its number, its type, its count, and its value or where that is."""

    def entry(number: int, kind: int, count: int, value: int) -> bytes:
        short = kind == 3 and count == 1
        return struct.pack(order + ("HHIHH" if short else "HHII"), number, kind, count, value, *[0] * short)

    entries = b"".join(entry(*tag) for tag in sorted(tags))
    return struct.pack(order + "H", len(tags)) + entries + struct.pack(order + "I", following)


BODY = 8192
"""Where in a TIFF the data begin, behind its directory."""


def tiff(width: int, height: int, data: bytes, following: int = 0, more: tuple = (), order: str = "<") -> bytes:
    """Grey of 8 bits in one strip, unless `more` tags say otherwise; those of count 0 are left out."""
    fields = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1),
              (273, 4, 1, BODY), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, len(data)), *more]  # fmt: skip
    latest = {field[0]: field for field in fields}
    fields = [field for field in latest.values() if field[2]]
    mark = {"<": b"II", ">": b"MM"}[order]
    head = mark + struct.pack(order + "HI", 42, 8) + directory(fields, following, order)
    return head.ljust(BODY, b"\0") + data


def tiff_strips(count: int) -> bytes:
    """A row in each strip: the file has two bytes for a strip, the reader makes several objects of it."""
    return tiff(1, count, bytes(2 * count), more=((273, 3, count, BODY), (278, 4, 1, 1), (279, 3, count, BODY)))


def tiff_tiles(count: int) -> bytes:
    tiles = ((322, 4, 1, 16), (323, 4, 1, 16), (324, 3, count, BODY), (325, 3, count, BODY))
    return tiff(16, 16, bytes(2 * count), more=(*tiles, (273, 4, 0, 0), (278, 4, 0, 0)))


def tiff_chain(count: int) -> bytes:
    """A directory that leads to the next, and so on."""
    parts = [directory([(256, 4, 1, 1)], following=BODY + 18 * (index + 1)) for index in range(count)]
    return tiff(1, 1, b"".join(parts), following=BODY)


# WebP


def riff(*chunks: tuple[bytes, bytes], size: int | None = None) -> bytes:
    parts = [kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for kind, data in chunks]
    body = b"WEBP" + b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(body) if size is None else size) + body


def canvas(width: int, height: int, flags: int = 0) -> tuple[bytes, bytes]:
    return b"VP8X", bytes((flags, 0, 0, 0)) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")


def webp_pixels() -> tuple[bytes, bytes]:
    return b"VP8 ", small("WEBP")[20:]


def webp_frames(count: int, side: int) -> bytes:
    """An animation: of a large canvas, each frame changes a small part."""
    kind, data = webp_pixels()
    frame = bytes(6) + (63).to_bytes(3, "little") * 2 + bytes(4) + kind + struct.pack("<I", len(data)) + data
    return riff(canvas(side, side, flags=2), (b"ANIM", bytes(6)), *[(b"ANMF", frame)] * count)


# AVIF and HEIC


def box(kind: bytes, body: bytes = b"", size: int | None = None) -> bytes:
    return struct.pack(">I", len(body) + 8 if size is None else size) + kind + body


def avif_with(extra: bytes, format: str = "AVIF") -> bytes:
    """A good file with more boxes after the first, which moves the pixels away from where its index says they are."""
    good = small(format)
    length = int.from_bytes(good[:4], "big")
    return good[:length] + extra + good[length:]


def avif_of_size(width: int, height: int, format: str = "AVIF") -> bytes:
    good = small(format)
    place = good.index(b"ispe") + 8
    return good[:place] + struct.pack(">II", width, height) + good[place + 8 :]


def avif_nested(depth: int, kind: bytes = b"avif") -> bytes:
    nested = b""
    for _ in range(depth):
        nested = box(b"meta", bytes(4) + nested)
    return box(b"ftyp", kind + bytes(4) + kind + b"mif1") + nested


QUICK: dict[str, Callable[[], bytes]] = {
    "JPEG of 65,500 x 65,500": lambda: jpeg_of_size(65_500, 65_500),
    "JPEG of 7,000 x 7,000 and no data": lambda: jpeg_of_size(7_000, 7_000),
    "JPEG of 3,000 passes": lambda: jpeg_scans(3_000, 2_000),
    "JPEG with EXIF loop": lambda: jpeg_with(segment(0xE1, exif_loop())),
    "JPEG with EXIF loop, big-endian": lambda: jpeg_with(segment(0xE1, exif_loop(">"))),
    "JPEG of 400 colour profile parts": lambda: jpeg_with(segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(65_000)) * 400),
    "JPEG of 2^28 pictures": lambda: many_pictures_in_one(2**28),
    "JPEG of 100,000 Huffman tables": lambda: jpeg_with(segment(0xC4, b"\0" + bytes(16)) * 100_000),
    "PNG of 2^31 x 2^31": lambda: png(2**31 - 1, 2**31 - 1, pixels=zeros(10)),
    "PNG of 100,000 x 100,000": lambda: png(100_000, 100_000, pixels=zeros(10)),
    "PNG of 49 million pixels in 60 KB": lambda: png(SIDE, SIDE),
    "PNG of 50 million pixels in a row": lambda: png(50_000_000, 1),
    "PNG with text of 256 MB": lambda: png(1, 1, chunk(b"zTXt", b"a\0\0" + zeros(2**28))),
    "PNG with international text of 256 MB": lambda: png(1, 1, chunk(b"iTXt", b"a\0\1\0\0\0" + zeros(2**28))),
    "PNG with a colour profile of 256 MB": lambda: png(1, 1, chunk(b"iCCP", b"a\0\0" + zeros(2**28))),
    "PNG with 100,000 texts": lambda: png(1, 1, chunk(b"tEXt", b"a\0" + b"b" * 200) * 100_000),
    "PNG with a chunk of 2 GB": lambda: png(1, 1, chunk(b"tEXt", b"a\0b", length=2**31 - 1)),
    "PNG with a chunk of 4 GB": lambda: png(1, 1, chunk(b"abCd", b"", length=2**32 - 1)),
    "PNG with EXIF loop": lambda: png(1, 1, chunk(b"eXIf", exif_loop()[6:])),
    "PNG of 2^31 frames": lambda: png(8, 8, chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))),
    "PNG with too much data": lambda: png(1, 1, pixels=zeros(2**28)),
    "GIF of 65,535 x 65,535": lambda: gif(65_535, 65_535),
    "GIF whose frame is larger than its screen": lambda: gif(1, 1, frame=(65_535, 65_535)),
    "GIF of 7,000 x 7,000 and no data": lambda: gif(SIDE, SIDE, frame=(SIDE, SIDE)),
    "GIF of 200,000 extensions": lambda: gif(8, 8, b"!\xfe\x01a\0" * 200_000),
    "GIF of a comment of 2 MB": lambda: gif(8, 8, b"!\xfe" + (b"\xff" + b"a" * 255) * 8_000 + b"\0"),
    "GIF of 200,000 frames": lambda: gif(8, 8, gif_frame(1, 1) * 200_000),
    "BMP of 2^31 x 2^31": lambda: bmp(2**31 - 1, 2**31 - 1, b""),
    "BMP upside down": lambda: bmp(2**15, -(2**31), b""),
    "BMP whose data begin after 4 GB": lambda: bmp(100, 100, b"", offset=2**32 - 1),
    "BMP of jumps": lambda: bmp(SIDE, SIDE, b"\0\2\0\1" * 7_000, compression=1),
    "TIFF of 2^32 x 2^32": lambda: tiff(2**32 - 1, 2**32 - 1, b""),
    "TIFF whose directory is its own successor": lambda: tiff(8, 8, bytes(64), following=8),
    "TIFF with EXIF loop": lambda: tiff(8, 8, bytes(64), more=((0x8769, 4, 1, 8), (330, 4, 1, 8))),
    "TIFF of a chain of 200,000 directories": lambda: tiff_chain(200_000),
    "TIFF of 2^32 strips": lambda: tiff(8, 8, b"", more=((273, 4, 2**32 - 1, BODY),)),
    "TIFF of 2^32 samples": lambda: tiff(8, 8, b"", more=((258, 3, 2**32 - 1, BODY), (277, 3, 1, 65_535))),
    "TIFF with a strip of 4 GB": lambda: tiff(8, 8, b"", more=((279, 4, 1, 2**32 - 1),)),
    "TIFF with a compressed strip of 4 GB": lambda: tiff(8, 8, b"", more=((259, 3, 1, 8), (279, 4, 1, 2**32 - 1))),
    "TIFF of 49 million pixels in 50 KB": lambda: tiff(SIDE, SIDE, zeros(SIDE**2), more=((259, 3, 1, 8),)),
    "TIFF with a description of 28 MB": lambda: tiff(8, 8, b"a" * 28_000_000, more=((270, 2, 28_000_000, BODY),)),
    "WebP of 16,384 x 16,384": lambda: riff(canvas(16_384, 16_384), webp_pixels()),
    "WebP of 2^24 x 2^24": lambda: riff(canvas(2**24, 2**24), webp_pixels()),
    "WebP that claims 4 GB": lambda: riff(canvas(64, 64), webp_pixels(), size=2**32 - 10),
    "WebP of a million chunks": lambda: riff(canvas(64, 64), *[(b"ABCD", b"")] * 1_000_000, webp_pixels()),
    "WebP with EXIF loop": lambda: riff(canvas(64, 64, flags=8), webp_pixels(), (b"EXIF", exif_loop())),
    "TIFF of 14 million tiles": lambda: tiff_tiles(14_000_000),
    "JPEG of 15 passes of 49 million pixels": lambda: jpeg_scans(5, SIDE),
    "AVIF of 2^31 x 2^31": lambda: avif_of_size(2**31 - 1, 2**31 - 1),
    "AVIF of 7,000 x 7,000 and no data": lambda: avif_of_size(SIDE, SIDE),
    "AVIF of a million boxes": lambda: avif_with(box(b"free") * 1_000_000),
    "AVIF with a box of 4 GB": lambda: avif_with(box(b"free", size=2**32 - 1)),
    "AVIF of 1,000 boxes within each other": lambda: avif_nested(1_000),
    "HEIC of 2^31 x 2^31": lambda: avif_of_size(2**31 - 1, 2**31 - 1, "HEIF"),
    "HEIC of 7,000 x 7,000 and no data": lambda: avif_of_size(SIDE, SIDE, "HEIF"),
    "HEIC of a million boxes": lambda: avif_with(box(b"free") * 1_000_000, "HEIF"),
    "HEIC with a box of 4 GB": lambda: avif_with(box(b"free", size=2**32 - 1), "HEIF"),
    "HEIC of 1,000 boxes within each other": lambda: avif_nested(1_000, b"heic"),
}  # fmt: skip

SLOW: dict[str, Callable[[], bytes]] = {
    "JPEG of 400 EXIF blocks": lambda: jpeg_with(segment(0xE1, exif_loop().ljust(65_000, b"\0")) * 400),
    "JPEG with 28 MB of filling": lambda: jpeg_with(b"\xff" * 28_000_000),
    "WebP of 5,000 frames on a large canvas": lambda: webp_frames(5_000, SIDE),
    "TIFF of 14 million strips": lambda: tiff_strips(14_000_000),
    "JPEG of 7 million comments": lambda: jpeg_with(segment(0xFE) * 7_000_000),
    "BMP of 14 million runs of a pixel": lambda: bmp(SIDE, SIDE, b"\1\0" * 14_000_000, compression=1),
    "PNG of a million chunks": lambda: png(1, 1, chunk(b"abCd") * 1_000_000),
    "PNG of two million data chunks": lambda: png(SIDE, SIDE, chunk(b"IDAT") * 2_000_000),
    "GIF of 5 million extensions": lambda: gif(8, 8, b"!\xfe\x01a\0" * 5_000_000),
    "GIF of 14 million blocks": lambda: gif(8, 8, b"!\xfe" + b"\x01a" * 14_000_000 + b"\0"),
}  # fmt: skip


def large(mode: str) -> Image.Image:
    """All bytes of a wide number are the same, so that packing is quick."""
    colours: dict[str, Any] = {"I;16": 0x0101, "I": 0x01010101, "F": 0.7470588, "P": 1, "CMYK": (9, 90, 200, 0)}
    return Image.new(mode, (SIDE, SIDE), colours.get(mode, (9, 90, 200, 120)[: len(mode)]))


def turned(orientation: int = 6) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


LARGE = {
    name: functools.cache(make)
    for name, make in {
        "16-bit PNG": lambda: encoded(large("I;16"), "PNG", compress_level=1),
        "RGBA PNG, turned": lambda: encoded(large("RGBA"), "PNG", compress_level=1, exif=turned()),
        "palette PNG with transparency": lambda: encoded(large("P"), "PNG", compress_level=1, transparency=1),
        "32-bit TIFF": lambda: encoded(large("I"), "TIFF", compression="packbits"),
        "float TIFF": lambda: encoded(large("F"), "TIFF", compression="packbits"),
        "CMYK JPEG": lambda: encoded(large("CMYK"), "JPEG"),
        "lossless WebP, turned": lambda: encoded(
            large("RGBA"), "WEBP", lossless=True, quality=0, method=0, exif=turned()
        ),
        "WebP": lambda: encoded(large("RGB"), "WEBP", method=0),
        "AVIF, turned": lambda: encoded(large("RGB"), "AVIF", speed=10, exif=turned()),
        "HEIC, turned": lambda: encoded(
            large("RGB"), "HEIF", exif=turned().tobytes(), enc_params={"preset": "ultrafast"}
        ),
        "RGBA PNG with colour profile": lambda: encoded(large("RGBA"), "PNG", compress_level=1, icc_profile=SWAPPED),
        "CMYK JPEG with colour profile": lambda: encoded(large("CMYK"), "JPEG", icc_profile=SWAPPED),
    }.items()
}  # they take seconds to make
