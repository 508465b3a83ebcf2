"""Every kind of photo becomes an upright RGB array; anything else is an `ImageError`."""

import io
import struct
import zlib

import numpy as np
import pytest
from helpers import swapped_profile
from hostile_images import BODY, tiff
from PIL import Image, ImageCms, PngImagePlugin
from pillow_heif import register_heif_opener

from captioning import images
from captioning.images import ImageError, open_photo, read_image, resize_image

register_heif_opener()  # so that Pillow writes HEIC

RED, WHITE = (250, 10, 10), (255, 255, 255)


def picture(size=(60, 40)) -> Image.Image:
    """Red above, blue below on the left, green below on the right."""
    image = Image.new("RGB", size, RED)
    image.paste((10, 10, 250), (0, size[1] // 2, size[0], size[1]))
    image.paste((10, 250, 10), (size[0] // 2, size[1] // 2, size[0], size[1]))
    return image


def encoded(image, format, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def is_close(array, image, tolerance=12) -> bool:
    expected = np.asarray(image.convert("RGB"), int)
    return array.shape == expected.shape and array.dtype == np.uint8 and np.abs(array - expected).mean() < tolerance


@pytest.mark.parametrize("format", images.FORMATS)
def test_formats(format):
    assert is_close(read_image(encoded(picture(), format)), picture())


def test_sources(tmp_path):
    png = encoded(picture(), "PNG")
    path = tmp_path / "photo.txt"  # the name does not matter
    path.write_bytes(png)
    with path.open("rb") as file:
        sources = [png, bytearray(png), path, str(path), io.BytesIO(png), file, picture(), np.asarray(picture())]
        for source in sources:
            assert np.array_equal(read_image(source), np.asarray(picture()))


def test_arrays():
    grey = np.full((4, 6), 90, np.uint8)
    assert np.array_equal(read_image(grey), np.full((4, 6, 3), 90))
    clear = np.zeros((4, 6, 4), np.uint8)
    assert np.array_equal(read_image(clear), np.full((4, 6, 3), 255))


@pytest.mark.parametrize("array", [np.zeros((4, 6, 3)), np.zeros((4, 6, 2), "uint8"), np.zeros((0, 6, 3), "uint8")])
def test_arrays_of_another_kind(array):
    with pytest.raises(ImageError, match="uint8"):
        read_image(array)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP", "HEIF"])
def test_camera_orientation(format, orientation):
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # orientation → the Image.Transpose that undoes it
    stored = picture().transpose(Image.Transpose(undo[orientation])) if orientation > 1 else picture()
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert is_close(read_image(encoded(stored, format, exif=exif.tobytes())), picture())


def test_odd_camera_data_beside_the_orientation_is_ignored():
    """The height as text."""
    stored = picture().transpose(Image.Transpose.ROTATE_90)
    data = encoded(
        stored,
        "JPEG",
        exif=b"Exif\0\0MM\0*\0\0\0\x08"
        + bytes.fromhex("0002 0112 0003 00000001 00060000 8825 0004 00000001 00000026 00000000")
        + bytes.fromhex("0001 0005 0002 00000002 30000000 00000000"),
    )
    assert is_close(read_image(data), picture()) and open_photo(data).info["original_size"] == (60, 40)


def test_an_unknown_orientation_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 9
    assert open_photo(encoded(picture(), "JPEG", exif=exif.tobytes())).info["original_size"] == (60, 40)


def test_damaged_camera_data_is_ignored():
    assert is_close(read_image(encoded(picture(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")), picture())


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "HEIF"])
def test_colour_profile(format):
    red, green, blue = picture().split()
    stored = Image.merge("RGB", (blue, green, red))
    assert is_close(read_image(encoded(stored, format, icc_profile=swapped_profile())), picture())
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(read_image(encoded(stored, format, icc_profile=srgb)), read_image(encoded(stored, format)))


def test_colour_profile_of_a_large_photo_that_is_turned():
    red, green, blue = picture((600, 400)).transpose(Image.Transpose.ROTATE_90).split()
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.merge("RGB", (blue, green, red))
    for format in ("JPEG", "PNG", "TIFF"):
        data = encoded(stored, format, icc_profile=swapped_profile(), exif=exif.tobytes())
        small = read_image(data, min_size=(50, 50))
        assert small.shape == (100, 150, 3) and is_close(small, picture((150, 100)))
        assert open_photo(data, min_size=(50, 50)).info["original_size"] == (600, 400)


def test_linear_colours():
    """The name of the profile has sRGB in it, but its curve is a line."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = int.from_bytes(profile[128:132])
    for n in range(count):
        name, at, size = struct.unpack_from(">4sII", profile, 132 + 12 * n)
        if name in (b"rTRC", b"gTRC", b"bTRC"):
            profile[at : at + size] = (b"curv" + bytes(8)).ljust(size, b"\0")  # the identity
    grey = Image.new("RGB", (8, 8), (55, 55, 55))
    assert read_image(encoded(grey, "PNG", icc_profile=bytes(profile)))[0, 0, 0] == 55
    renamed = bytes(profile) + b"GIMP built-in Linear sRGB"
    renamed = len(renamed).to_bytes(4) + renamed[4:]
    assert read_image(encoded(grey, "PNG", icc_profile=renamed))[0, 0, 0] == pytest.approx(128, abs=2)


def test_damaged_colour_profile_is_ignored():
    assert is_close(read_image(encoded(picture(), "PNG", icc_profile=b"no profile")), picture())


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_colour_modes(mode):
    image = picture().convert(mode)
    format = {"CMYK": "JPEG", "YCbCr": "JPEG"}.get(mode, "PNG")
    assert is_close(read_image(encoded(image, format)), image)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_is_white(mode):
    image = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    image.paste((250, 10, 10, 255), (0, 0, 10, 20))
    array = read_image(encoded(image.convert(mode), "PNG"))
    assert tuple(array[5, 15]) == WHITE
    assert tuple(array[5, 5]) != WHITE


def test_transparent_colour_of_a_palette_is_white():
    image = Image.new("P", (8, 8), 0)
    image.putpalette([1, 2, 3, 200, 0, 0])
    image.putpixel((0, 0), 1)
    array = read_image(encoded(image, "GIF", transparency=0))
    assert tuple(array[4, 4]) == WHITE and tuple(array[0, 0]) == (200, 0, 0)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit(format):
    image = Image.fromarray(np.array([[0, 32896], [65535, 257]], np.uint16))
    assert np.array_equal(read_image(encoded(image, format))[..., 0], [[0, 128], [255, 1]])


def test_12_bit():
    """Two values take three bytes."""
    data = tiff(2, 1, b"\x00\x0f\xff", more=((258, 3, 1, 12),))
    assert np.array_equal(read_image(data)[..., 0], [[0, 255]])


@pytest.mark.parametrize("white_is_zero", [False, True])
def test_zero_may_be_white(white_is_zero):
    data = tiff(2, 1, b"\0\0\xff\xff", more=((258, 3, 1, 16), (262, 3, 1, 0 if white_is_zero else 1)))
    assert np.array_equal(read_image(data)[..., 0], [[255, 0] if white_is_zero else [0, 255]])


def test_planes_of_16_bits_are_refused():
    """Pillow takes them for planes of eight bits."""
    planes = bytes(3 * 4800)
    lists = struct.pack("<3I3I3H", *(BODY + 4800 * n for n in range(3)), *[4800] * 3, *[16] * 3)
    places = BODY + len(planes)
    more = ((258, 3, 3, places + 24), (262, 3, 1, 2), (273, 4, 3, places), (277, 3, 1, 3), (279, 4, 3, places + 12))
    with pytest.raises(ImageError, match="not a photo that we can read"):
        read_image(tiff(60, 40, planes + lists, more=(*more, (284, 3, 1, 2))))


@pytest.mark.parametrize(
    ("bits", "data", "more"),
    [(16, b"\0\0\xff\xff", ()), (8, b"\xff\0", ((262, 3, 1, 0),)), (32, struct.pack("<2f", 0, 9), ((339, 3, 1, 3),))],
)
def test_a_single_plane(bits, data, more):
    data = tiff(2, 1, data, more=((258, 3, 1, bits), (284, 3, 1, 2), *more))
    assert np.array_equal(read_image(data)[..., 0], [[0, 255]])


def test_floating_point_in_the_other_byte_order():
    data = tiff(2, 1, struct.pack(">2f", 0, 5), more=((258, 3, 1, 32), (339, 3, 1, 3)), order=">")
    assert np.array_equal(read_image(data)[..., 0], [[0, 255]])


def test_texts_in_a_png_are_no_settings():
    image = Image.fromarray(np.array([[0, 65535]], np.uint16))
    texts = PngImagePlugin.PngInfo()
    for key in ("bits", "white_is_zero"):
        texts.add_text(key, "1")
    assert np.array_equal(read_image(encoded(image, "PNG", pnginfo=texts))[..., 0], [[0, 255]])


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_an_upright_image_is_not_turned_again(format):
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = picture().transpose(Image.Transpose.ROTATE_90)
    assert is_close(read_image(open_photo(encoded(stored, format, exif=exif.tobytes()))), picture())


def test_a_bitmap_whose_alpha_means_nothing():
    masks = b"".join(mask.to_bytes(4, "little") for mask in (0xFF0000, 0xFF00, 0xFF, 0xFF000000))
    header = struct.pack("<IiiHHIIiiII", 124, 2, 1, 1, 32, 3, 8, 0, 0, 0, 0) + masks + b"BGRs" + bytes(64)
    pixels = bytes((250, 10, 10, 0, 10, 250, 10, 0))
    data = b"BM" + struct.pack("<IHHI", 14 + len(header) + 8, 0, 0, 14 + len(header)) + header + pixels
    assert np.array_equal(read_image(data), [[(10, 10, 250), (10, 250, 10)]])


@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_32_bit(dtype):
    image = Image.fromarray(np.array([[0, 500], [1000, 1000]], dtype))
    assert np.array_equal(read_image(encoded(image, "TIFF"))[..., 0], [[0, 128], [255, 255]])


@pytest.mark.parametrize("format", ["GIF", "WEBP", "AVIF", "TIFF", "PNG", "HEIF"])
def test_first_frame(format):
    frames = [picture(), Image.new("RGB", (60, 40), "black")]
    assert is_close(read_image(encoded(frames[0], format, save_all=True, append_images=frames[1:])), picture(), 15)


@pytest.mark.parametrize(
    ("size", "expected"), [((1600, 1200), (300, 400)), ((1600, 700), (350, 800)), ((300, 200), (200, 300))]
)
def test_large_jpegs_are_decoded_small(size, expected):
    """To at least twice the requested size, for any proportions; they are never enlarged."""
    data = encoded(picture(size), "JPEG")
    small = read_image(data, min_size=(150, 100))
    assert small.shape[:2] == expected
    assert is_close(small, picture(size).resize(expected[::-1]))


def test_original_size_is_that_of_the_upright_photo():
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = open_photo(encoded(picture((1600, 1200)), "JPEG", exif=exif), min_size=(100, 100))
    assert photo.info["original_size"] == (1200, 1600)
    assert photo.size == (300, 400)


def test_the_image_of_the_caller_does_not_change():
    image = Image.open(io.BytesIO(encoded(picture((1600, 1200)), "JPEG")))
    assert read_image(image, min_size=(100, 100)).shape == (1200, 1600, 3)
    assert image.size == (1600, 1200)


def test_resized_like_the_photos_of_the_data_set():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (333, 500, 3), np.uint8))
    assert np.array_equal(resize_image(noise, (224, 224)), noise.resize((224, 224), Image.Resampling.NEAREST))


def test_resize():
    image = np.asarray(picture((64, 48)))
    small = resize_image(image, (12, 10))
    assert small.shape == (12, 10, 3) and small.dtype == np.uint8
    assert tuple(small[2, 5]) == RED
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(resize_image(stripes, (8, 8))[:, 2:-2].astype(int) - 127).max() <= 2, "antialiased"
    assert np.array_equal(resize_image(image, (48, 64)), image)


@pytest.mark.parametrize("format", images.FORMATS)
def test_cut_off(format):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = encoded(Image.fromarray(noise), format)
    for length in (len(data) // 2, 30):
        with pytest.raises(ImageError, match="damaged|not a photo"):
            read_image(data[:length])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"hello", "not a photo that we can read. Use a JPEG"),
        (b"P6 1 1 255 abc", "not a photo that we can read. Use a JPEG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG drawing.* export it as PNG"),
        (b"\xef\xbb\xbf<?xml version='1.0'?><!-- a --><SVG></SVG>", "SVG drawing.* export it as PNG"),
        (b"%PDF-1.7", "PDF document.* PNG"),
    ],
)
def test_not_a_photo(data, message):
    with pytest.raises(ImageError, match=message) as raised:
        read_image(data)
    assert raised.value.kind == "unsupported"


def test_empty():
    with pytest.raises(ImageError, match="empty"):
        read_image(b"")


def test_no_file(tmp_path):
    with pytest.raises(ImageError, match="No such file"):
        read_image(tmp_path / "absent.jpg")
    with pytest.raises(ImageError, match="directory"):
        read_image(tmp_path)


@pytest.mark.parametrize("size", [(25_000, 4_000), (60_000, 60_000)])
def test_too_many_pixels_are_refused_by_the_header_alone(size):
    header = bytearray(encoded(Image.new("1", (1, 1)), "PNG"))
    header[16:24] = size[0].to_bytes(4) + size[1].to_bytes(4)
    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4)
    with pytest.raises(ImageError, match="50 million pixels"):
        read_image(header)


def test_a_clip_behind_a_photo_is_no_scan(monkeypatch):
    """Phones append a clip to a photo. Its bytes are like noise, and so contain the marker of a scan."""
    monkeypatch.setattr(images, "MAX_PIXELS", 1000)
    monkeypatch.setattr(images, "MAX_SCANS", 3)
    baseline = encoded(picture((30, 20)), "JPEG")
    assert is_close(read_image(baseline + b"\xff\xda\0\2" * 100), picture((30, 20)))
    with pytest.raises(ImageError, match="progressive scans"):
        read_image(encoded(picture((30, 20)), "JPEG", progressive=True))


def test_an_animation_of_the_caller_stays_usable():
    file = io.BytesIO()
    picture().save(file, "WEBP", save_all=True, append_images=[Image.new("RGB", (60, 40), WHITE)], lossless=True)
    animation = Image.open(file)
    assert is_close(read_image(animation), picture())
    animation.seek(1)
    assert is_close(read_image(animation), Image.new("RGB", (60, 40), WHITE))


def test_a_long_comment_of_a_gif_does_not_matter():
    data = encoded(picture(), "GIF", comment=b"x" * 70_000)
    assert images.read_photo(data, 32, preview=20).preview.width == 20
