"""A text in a photo's metadata is read back by ExifTool, and nothing else in the file changes."""

import io
import json
import os
import re
import shutil
import struct
import subprocess

import numpy as np
import pytest
from PIL import Image

from captioning.containers import PHOTOSHOP_IN_JPEG, rewrite
from captioning.metadata import MetadataError, embed, sidecar, write_metadata

TEXT = "A dög runs – 狗."
SUFFIX = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "TIFF": "tif"}
ALL = ["alt text", "description", "IPTC caption"]
FIELDS = ["XMP-iptcCore:AltTextAccessibility", "XMP-dc:Description", "IPTC:Caption-Abstract"]


def picture(seed=0, mode="RGB") -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (40, 61, 3), np.uint8)
    return Image.fromarray(noise).convert(mode)


def encoded(format, image=None, **options) -> bytes:
    file = io.BytesIO()
    (image or picture()).save(file, format, **options)
    return file.getvalue()


KINDS = {
    "JPEG": lambda: encoded("JPEG"),
    "JPEG with camera data and comment": lambda: encoded("JPEG", exif=exif(), comment="hello", progressive=True),
    "JPEG of two pictures": lambda: encoded("MPO", save_all=True, append_images=[picture(1)]),
    "PNG": lambda: encoded("PNG"),
    "PNG, animated": lambda: encoded("PNG", save_all=True, append_images=[picture(1)], duration=50),
    "PNG with palette and bytes behind": lambda: encoded("PNG", picture(mode="P")) + b"more",
    "WebP": lambda: encoded("WEBP"),
    "WebP, lossless": lambda: encoded("WEBP", lossless=True),
    "WebP, lossless with transparency": lambda: encoded("WEBP", picture(mode="RGBA"), lossless=True),
    "WebP with camera data": lambda: encoded("WEBP", exif=exif(), icc_profile=b"x" * 9),
    "WebP, animated": lambda: encoded("WEBP", save_all=True, append_images=[picture(1)], duration=50),
    "TIFF": lambda: encoded("TIFF"),
    "TIFF of three pages": lambda: encoded(
        "TIFF", save_all=True, append_images=[picture(1)] * 2, compression="tiff_lzw"
    ),
    "TIFF, big-endian": lambda: encoded("TIFF", Image.fromarray(np.arange(999, dtype=">u2").reshape(27, 37))),
    "TIFF of more than 4 GB, in principle": lambda: encoded("TIFF", big_tiff=True),
}


def exif() -> bytes:
    camera = Image.Exif()
    camera[0x010F], camera[0x0112] = "a camera", 6
    return camera.tobytes()


@pytest.fixture(scope="session")
def exiftool():
    """All that ExifTool reads in a file, as a dict of "group:name"."""
    return lambda path: json.loads(run_exiftool("-json", "-G1", "-charset", "utf8", path))[0]


def run_exiftool(*arguments) -> str:
    if not (program := shutil.which("exiftool")):
        pytest.skip("ExifTool is not installed (Debian: libimage-exiftool-perl)")
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=True).stdout


def complaints(path) -> set[str]:
    """What ExifTool finds wrong in a file."""
    found = set(run_exiftool("-validate", "-a", "-s3", "-warning", "-error", path).splitlines())
    allowed = "Non-standard format (undef) for IFD0 0x83bb IPTC-NAA"  # TIFF/EP says undef
    return {text for text in found if text != allowed and not re.match(r"\d+ Warnings", text)}


def frames(data: bytes) -> list:
    """The pixels of all pictures in a file."""
    with Image.open(io.BytesIO(data)) as image:
        found = []
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            found.append(np.asarray(image.convert("RGBA")))
        return found


def compressed(data: bytes) -> bytes:
    """The bytes of the pixels."""
    if data[:2] == b"\xff\xd8":
        return data[data.index(b"\xff\xda") :]
    if data[:4] == b"RIFF":
        kinds = (b"VP8 ", b"VP8L", b"ANMF", b"ALPH")
        chunks, at = b"", 12
        while at < len(data):
            kind, length = struct.unpack_from("<4sI", data, at)
            chunks += data[at : at + 8 + length] if kind in kinds else b""
            at += 8 + length + length % 2
        return chunks
    if data[:2] in (b"II", b"MM"):
        return data[16:]  # all but the header: checked as a beginning
    return data[data.index(b"IDAT") - 4 :]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_written_in_place(kind, tmp_path, exiftool):
    """Slow: it starts ExifTool four times."""
    path, data = tmp_path / f"photo.{SUFFIX[kind.split(' ')[0].strip(',').upper()]}", KINDS[kind]()
    path.write_bytes(data)
    os.chmod(path, 0o640)
    before, wrong = exiftool(path), complaints(path)
    assert write_metadata(path, TEXT, in_place=True) == []
    after, new = exiftool(path), path.read_bytes()
    has_iptc = path.suffix in (".jpg", ".tif")
    assert [after.get(field) for field in FIELDS] == [TEXT, TEXT, TEXT if has_iptc else None]
    assert path.stat().st_mode & 0o777 == 0o640 and os.listdir(tmp_path) == [path.name]

    assert compressed(data) == (compressed(new)[: len(data) - 16] if path.suffix == ".tif" else compressed(new))
    assert all(np.array_equal(one, other) for one, other in zip(frames(data), frames(new), strict=True))
    changing = ("System:", "XMP-", "IPTC:", "SourceFile", "MPImage2:MPImageStart", "RIFF:WebP_Flags")
    changing += ("File:CurrentIPTCDigest", "File:FileType")  # "Extended WEBP"
    kept = {name: value for name, value in before.items() if not name.startswith(changing)}
    assert {name: after.get(name) for name in kept} == kept
    assert complaints(path) <= wrong


@pytest.mark.parametrize("kind", KINDS)
def test_existing_text_is_kept_unless_it_is_overwritten(kind):
    data, _ = embed(KINDS[kind](), "A text by a person.")
    fields = ALL if data[:2] in (b"\xff\xd8", b"II", b"MM") else ALL[:2]
    assert embed(data, "A dog.") == (data, fields)
    assert embed(data, "A text by a person.") == (data, [])
    new, kept = embed(data, "A dog.", overwrite=True)
    assert kept == [] and b"A dog." in new
    assert embed(new, "A dog.") == (new, [])
    again, _ = embed(new, "A text by a person.", overwrite=True)
    if data[:1] not in b"IM":  # a TIFF grows, because nothing in it moves
        assert again == data


@pytest.mark.slow
def test_what_another_program_wrote_is_kept(tmp_path, exiftool):
    """ExifTool writes a photo with metadata of all kinds; then the text is added to it. Slow: it starts ExifTool."""
    for format, suffix in SUFFIX.items():
        path = tmp_path / f"photo.{suffix}"
        path.write_bytes(encoded(format))
        fields = [
            "-XMP-dc:Description=By a person",
            "-XMP-dc:Description-de=Von einem Menschen",
            "-XMP-dc:Title=A title",
        ]
        if suffix in ("jpg", "tif"):
            fields += ["-IPTC:Keywords=dög", "-IPTC:City=Köln", "-Photoshop:IPTCDigest=new"]
        run_exiftool("-q", "-overwrite_original", *fields, path)
        assert write_metadata(path, TEXT, in_place=True) == ["description"]
        found = exiftool(path)
        assert [found.get(f) for f in FIELDS[:2]] == [TEXT, "By a person"]
        assert found["XMP-dc:Description-de"] == "Von einem Menschen" and found["XMP-dc:Title"] == "A title"
        if suffix in ("jpg", "tif"):
            assert found["IPTC:City"] == "Köln" and found["IPTC:Keywords"] == "dög"
            assert found["Photoshop:IPTCDigest"] == found["File:CurrentIPTCDigest"]
        assert write_metadata(path, TEXT, in_place=True, overwrite=True) == []
        found = exiftool(path)
        assert found["XMP-dc:Description"] == TEXT and "XMP-dc:Description-de" not in found
        assert found["XMP-dc:Title"] == "A title"


@pytest.mark.slow
def test_sidecar(tmp_path, exiftool):
    """Slow: it starts ExifTool."""
    path = tmp_path / "photo.heic"
    path.write_bytes(b"not opened")
    assert write_metadata(path, TEXT) == []
    written = tmp_path / "photo.heic.xmp"
    assert [exiftool(written).get(field) for field in FIELDS] == [TEXT, TEXT, None]
    assert path.read_bytes() == b"not opened"
    assert write_metadata(path, "A cat.") == ALL[:2]
    assert exiftool(written)[FIELDS[0]] == TEXT
    assert write_metadata(path, "A <cat> &\x00 more", overwrite=True) == []
    assert exiftool(written)[FIELDS[0]] == "A <cat> & more"


def test_a_link_stays_a_link_and_unchanged_files_are_not_touched(tmp_path):
    path, link = tmp_path / "photo.jpg", tmp_path / "link.jpg"
    path.write_bytes(embed(encoded("JPEG"), "A cat.")[0])
    link.symlink_to(path.name)
    os.utime(path, (1, 1))
    assert write_metadata(link, "A dog.", in_place=True) == ALL
    assert path.stat().st_mtime == 1
    assert write_metadata(link, "A dog.", in_place=True, overwrite=True) == []
    assert link.is_symlink() and b"A dog." in path.read_bytes()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may give files to others")
def test_owner_group_and_rights_stay(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded("JPEG"))
    path.chmod(0o640)
    os.chown(path, 1234, 1235)
    write_metadata(path, "A dog.", in_place=True)
    status = path.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (
        1234,
        1235,
        0o640,
    ) and b"A dog." in path.read_bytes()


def test_old_character_sets_stay():
    """Without a mark for UTF-8 the other fields are Latin-1, and so must the caption be."""
    city = b"\x1c\x02\x5a\x00\x05K\xf6ln "
    data = rewrite(encoded("JPEG"), lambda xmp, iptc: (sidecar(xmp, "x")[0], city))
    new, kept = embed(data, "A dög, a cat.", overwrite=True)
    assert city in new and "A dög, a cat.".encode("latin-1") in new and b"\x1b%G" not in new and not kept
    newer, kept = embed(new, "Un bœuf.", overwrite=True)
    assert "A dög, a cat.".encode("latin-1") in newer and "Un bœuf.".encode() in newer
    assert kept == ["IPTC caption"], "it has no letter for the text"


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_several_packets_are_refused(format):
    """Programs differ in which one they read."""
    once = embed(encoded(format), "A cat.")[0]
    if format == "JPEG":
        at = once.index(b"http://ns.adobe.com/xap/1.0/") - 4
        end = at + 2 + int.from_bytes(once[at + 2 : at + 4])
    elif format == "PNG":
        at = once.index(b"iTXt") - 4
        end = at + 12 + int.from_bytes(once[at : at + 4])
    else:
        at = once.index(b"XMP ")
        length = int.from_bytes(once[at + 4 : at + 8], "little")
        end = at + 8 + length + length % 2
    twice = once[:end] + once[at:end] + once[end:]
    if format == "WEBP":
        twice = twice[:4] + (len(twice) - 8).to_bytes(4, "little") + twice[8:]
    with pytest.raises(MetadataError, match="several times"):
        embed(twice, "A dog.", overwrite=True)


def test_long_texts():
    new, _ = embed(encoded("JPEG"), "ö" * 3000)
    assert ("ö" * 3000).encode() in new
    with pytest.raises(MetadataError, match="too large for a JPEG"):
        embed(encoded("JPEG"), "ö" * 40_000)
    assert len(embed(encoded("PNG"), "ö" * 40_000)[0]) > 80_000


@pytest.mark.parametrize("format", ["GIF", "BMP", "AVIF"])
def test_other_formats_are_refused(format, tmp_path):
    path = tmp_path / "photo"
    path.write_bytes(encoded(format))
    with pytest.raises(MetadataError, match="Only JPEG, PNG, WebP and TIFF"):
        write_metadata(path, TEXT, in_place=True)
    assert path.read_bytes() == encoded(format) and os.listdir(tmp_path) == ["photo"]


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_refused_or_keep_what_they_have(kind):
    """However a file is cut or changed, the outcome is a `MetadataError` or a file."""
    data = embed(KINDS[kind](), "A cat.")[0]
    random = np.random.default_rng(0)
    for length in [*range(60), *random.integers(60, len(data), 60)]:
        try_embed(data[:length])
    for _ in range(300):
        changed = np.frombuffer(data, np.uint8).copy()
        changed[random.integers(0, min(len(data), 3000), 8)] = random.integers(0, 256, 8)
        try_embed(changed.tobytes())


def try_embed(data: bytes) -> None:
    try:
        new, _ = embed(data, TEXT, overwrite=True)
    except MetadataError:
        return
    assert len(new) < len(data) + 10_000


@pytest.mark.parametrize(
    "packet", [b"<a>", b"<a/>", b"\xff\xfe", b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>']
)
def test_damaged_packets_are_refused(packet):
    with pytest.raises(MetadataError, match="damaged"):
        sidecar(packet, TEXT, overwrite=True)


def test_resources_of_photoshop_stay(tmp_path):
    other = b"8BIM\x03\xed\x04name\0" + struct.pack(">I", 3) + b"abc\0"
    good = encoded("JPEG")
    body = PHOTOSHOP_IN_JPEG + other
    data = good[:2] + struct.pack(">BBH", 0xFF, 0xED, len(body) + 2) + body + good[2:]
    new, _ = embed(data, TEXT)
    assert new.count(other) == 1 and new.count(PHOTOSHOP_IN_JPEG) == 1


def test_a_tiff_with_iptc_in_photoshops_resources_only():
    """The fields that it has stay."""
    city = b"\x1c\x02\x5a\x00\x05Paris"
    file = io.BytesIO()
    resource = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(city)) + city
    Image.new("RGB", (4, 4)).save(file, "TIFF", tiffinfo={34377: resource})
    new, kept = embed(file.getvalue(), TEXT)
    assert kept == [] and new.count(city) >= 2  # in the resource and in the field of its own


def test_iptc_fields_that_cannot_be_read_are_not_dropped():
    city = b"\x1c\x02\x5a\x00\x05Paris"
    data = rewrite(encoded("JPEG"), lambda xmp, iptc: (sidecar(xmp, "x")[0], city + b"?" + city))
    with pytest.raises(MetadataError, match="damaged"):
        embed(data, TEXT, overwrite=True)


def test_a_photo_that_does_not_exist(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_metadata(tmp_path / "folder" / "photo.jpg", TEXT)
    assert not list(tmp_path.iterdir())


def test_joiners_of_letters_stay_and_control_characters_go():
    newer = "\U000e0fff"  # not assigned in any version of Unicode so far
    text = f"می\u200cخواهم \U0001f469\u200d\U0001f680{newer}\x07\ufffe"
    new, _ = embed(encoded("PNG"), text)
    assert f"می\u200cخواهم \U0001f469\u200d\U0001f680{newer}<".encode() in new and b"\x07<" not in new
