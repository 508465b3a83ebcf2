"""Clips with known cuts: shots, key frames, captions, and files that are no good."""

import io
import json
import math
import struct
from itertools import pairwise

import av
import numpy as np
import psutil
import pytest
from clips import animation, clip, moving, scene
from PIL import Image

from captioning.descriptions import make_segments, to_srt, to_vtt
from captioning.generator import Caption
from captioning.images import Preview, resize_image
from captioning.shots import MAX_SHOT, Progress, Shot, read_shots
from captioning.video import VideoError
from captioning.video_worker import read_shots_safely

SHOTS = ((1, 2.0), (2, 1.2), (3, 3.0), (4, 0.8))
CUTS = [0.0, 2.0, 3.2, 6.2, 7.0]

CLIPS = {
    "MP4": lambda: clip(SHOTS),
    "MP4 with sound": lambda: clip(SHOTS, sound=True),
    "MP4, MPEG-4": lambda: clip(SHOTS, codec="mpeg4"),
    "MP4, 5 frames a second": lambda: clip(SHOTS, rate=5),
    "MP4, 60 frames a second": lambda: clip(SHOTS, rate=60),
    "MOV": lambda: clip(SHOTS, "mov"),
    "WebM, VP8": lambda: clip(SHOTS, "webm", "libvpx"),
    "WebM, VP9, with sound": lambda: clip(SHOTS, "webm", "libvpx-vp9", sound=True),
    "GIF": lambda: animation(SHOTS, "GIF", 0.2),
    "WebP": lambda: animation(SHOTS, "WEBP"),
}


def read(data: bytes, **options) -> list[Shot]:
    return [part for part in read_shots(io.BytesIO(data), 224, **options) if isinstance(part, Shot)]


@pytest.mark.parametrize(
    "name", [name if name in ("MP4", "WebP") else pytest.param(name, marks=pytest.mark.slow) for name in CLIPS]
)
def test_cuts_and_key_frames(name):
    """Slow for most formats: encoding a clip takes up to three seconds."""
    shots = read(CLIPS[name]())
    assert [shot.start for shot in shots] + [shots[-1].end] == pytest.approx(CUTS, abs=0.1)
    for shot, following, (number, _) in zip(shots, [*shots[1:], None], SHOTS, strict=True):
        assert following is None or shot.end == following.start
        assert shot.start <= shot.key_frame_time < shot.end
        expected = moving(scene(number), int(10 * (shot.key_frame_time - shot.start)))
        difference = np.abs(shot.image.astype(int) - resize_image(expected.convert("RGB"), (224, 224)))
        assert difference.mean() < 20, "the key frame is from another scene"
        assert max(shot.thumbnail[1:]) <= 240
        assert Image.open(io.BytesIO(shot.thumbnail.jpeg)).size == shot.thumbnail[1:]


@pytest.mark.slow
def test_captions_are_those_of_the_frames(generator, tmp_path):
    """Slow: it captions a clip."""
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip(SHOTS))
    segments = generator.caption_video(path)
    with av.open(path) as container:
        frames = {frame.time: frame.to_image() for frame in container.decode(video=0)}
    for segment in segments:
        assert segment.caption.text == generator.caption(frames[segment.key_frame_time]).text
    assert segments[0].start == 0 and segments[-1].end == pytest.approx(7, abs=0.05)
    assert all(a.end == b.start for a, b in pairwise(segments))


def test_variable_frame_rate():
    random = np.random.default_rng(0)
    times = [0.0]
    while times[-1] < 6.8:
        times.append(times[-1] + float(random.choice([0.02, 0.04, 0.2, 0.5])))
    shots = read(clip(((1, 2.0), (2, 2.0), (3, 2.8)), times=tuple(times[:-1])))
    expected = [next(time for time in times if time >= cut) for cut in (0, 2, 4)]  # when the frame is shown
    assert [shot.start for shot in shots] == pytest.approx(expected, abs=0.15)


def test_few_frames_at_a_high_nominal_rate():
    """Matroska keeps the nominal rate. The third frame is one that no other needs."""
    data = clip(((1, 2.0), (2, 2.0), (3, 2.0), (4, 2.0)), "matroska", times=(0, 2, 4, 6), bf="2", b_adapt="0")
    assert [shot.start for shot in read(data)] == pytest.approx([0, 2, 4, 6])


@pytest.mark.parametrize("format", ["GIF", "WEBP"])
def test_a_slide_show_has_a_cut_at_each_frame(format):
    shots = read(animation(tuple((n, 1.0) for n in range(6)), format, 1.0))
    assert [shot.start for shot in shots] == pytest.approx([0, 1, 2, 3, 4, 5])


@pytest.mark.parametrize("format", ["GIF", "WEBP"])
def test_a_picture_that_stays_after_a_short_one_is_looked_at(format):
    pictures, file = [moving(scene(number), 0) for number in (1, 2, 3)], io.BytesIO()
    pictures[0].save(file, format, save_all=True, append_images=pictures[1:], duration=[3000, 50, 5000])
    shots = read(file.getvalue())
    assert [shot.start for shot in shots] == pytest.approx([0, 3.05], abs=0.06)
    assert shots[-1].end == pytest.approx(8.05)
    assert shots[-1].key_frame_time == pytest.approx(3.05)


def test_a_frame_that_stays_after_a_short_one_is_looked_at():
    shots = read(clip(((1, 3.0), (2, 0.05), (3, 4.95)), times=(0, 3, 3.05, 7.9)))
    assert shots[1].start == pytest.approx(3.05, abs=0.02)


def test_sound_may_be_longer_than_the_picture():
    """Matroska has one duration for both."""
    data = clip(((1, 1.0), (2, 1.0)), "matroska", sound=True, sound_seconds=30)
    assert [shot.start for shot in read(data)] == pytest.approx([0, 1], abs=0.1)


def test_the_last_part_of_a_long_shot_is_not_too_short():
    data = clip(((1, 10.2),), rate=10)
    assert [shot.start for shot in read(data)] == [0]


@pytest.mark.parametrize(("rotation", "turn"), [(-90, 270), (90, 90), (180, 180)])
def test_rotation(rotation, turn):
    [shot] = read(clip(((1, 1.0),), rotation=rotation))
    assert shot.thumbnail[1:] == ((120, 160) if rotation in (-90, 90) else (160, 120))
    [plain] = read(clip(((1, 1.0),)))
    turned = plain.thumbnail.pixels.astype(int)
    assert np.abs(np.rot90(turned, turn // 90) - shot.thumbnail.pixels).mean() < 8


def test_a_moving_camera_is_no_cut_and_a_long_shot_is_divided():
    pan = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 60, 3), np.uint8)).resize((1600, 120))
    frames = [pan.crop((9 * n, 0, 9 * n + 160, 120)) for n in range(150)]
    file = io.BytesIO()
    frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:], duration=100)
    shots = read(file.getvalue())
    assert [shot.start for shot in shots] == pytest.approx([0, MAX_SHOT], abs=0.11)
    assert shots[-1].end == pytest.approx(15)


def test_progress():
    parts = list(read_shots(io.BytesIO(clip(SHOTS)), 32))
    progress = [part for part in parts if isinstance(part, Progress)]
    assert [part.seconds for part in progress] == pytest.approx([1, 2, 3, 4, 5, 6], abs=0.2)
    assert progress[0].total == pytest.approx(7, abs=0.05)


@pytest.mark.parametrize("make", [lambda: clip(((1, 1.5),)), lambda: animation(((1, 0.5), (2, 1.0)), "GIF", 0.5)])
def test_a_clip_may_be_a_second_longer(make):
    assert read(make(), max_seconds=1)[-1].end == pytest.approx(1.5, abs=0.1)
    with pytest.raises(VideoError, match="too long"):
        read(make(), max_seconds=0.4)


@pytest.mark.parametrize("seconds", [math.inf, math.nan, 0, -1])
def test_a_length_that_is_no_limit_is_refused(tmp_path, seconds):
    (tmp_path / "a.mp4").write_bytes(b"")
    with (tmp_path / "a.mp4").open("rb") as file, pytest.raises(ValueError, match="max_seconds"):
        next(read_shots_safely(file, 32, seconds))


# Segments


def shots_and_captions(*texts):
    captions = [Caption(text, 0.1, 0.1 * n, []) for n, text in enumerate(texts)]
    image, small = np.zeros((8, 8, 3), np.uint8), Preview(b"", 8, 8)
    return [Shot(n, n + 1, n + 0.5, image, small) for n in range(len(texts))], captions


def test_neighbours_that_say_the_same_are_one_segment():
    segments = make_segments(*shots_and_captions("a dog", "a cat", "a cat", "a dog"))
    assert [(s.start, s.end, s.caption.text, s.key_frame_time) for s in segments] == [
        (0, 1, "a dog", 0.5), (1, 3, "a cat", 2.5), (3, 4, "a dog", 3.5)
    ]  # fmt: skip


def test_vtt_and_srt():
    segments = make_segments(*shots_and_captions("a dog", "a cat"))
    assert to_vtt(segments) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.000\nA dog.\n\n00:00:01.000 --> 00:00:02.000\nA cat.\n"
    )
    assert to_srt(segments) == (
        "1\n00:00:00,000 --> 00:00:01,000\nA dog.\n\n2\n00:00:01,000 --> 00:00:02,000\nA cat.\n"
    )
    segments = make_segments(*shots_and_captions("", "a cat"))
    assert to_vtt(segments) == "WEBVTT\n\n00:00:01.000 --> 00:00:02.000\nA cat.\n"
    assert to_srt(segments) == "1\n00:00:01,000 --> 00:00:02,000\nA cat.\n"
    late = [Shot(3599.9996, 3661.5, 3600, *shots_and_captions("x")[0][0][3:])]
    assert "01:00:00.000 --> 01:01:01.500" in to_vtt(make_segments(late, shots_and_captions("x")[1]))


# Files that are no good. Each is read in a process with limits.


def sound_only() -> bytes:
    data = clip(((1, 1.0),), "webm", "libvpx", sound=True)
    return data.replace(b"V_VP8", b"X_XXX")


def enlarged(data: bytes) -> bytes:
    """A WebM file whose VP8 frames say that they are larger."""
    at = data.index(b"\x9d\x01\x2a") + 3
    return data[:at] + struct.pack("<HH", 16_000, 16_000) + data[at + 4 :]


def wide(data: bytes, side: int) -> bytes:
    """A GIF file that says that it is larger."""
    return data[:6] + struct.pack("<HH", side, side) + data[10:]


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def playlist() -> bytes:
    return b"#EXTM3U\n#EXTINF:10\nfile:///etc/passwd\n"


HOSTILE = {
    "empty": (lambda: b"", "not a clip"),
    "text": (lambda: b"no clip" * 9, "not a clip"),
    "a playlist": (playlist, "not a clip"),
    "only the first bytes": (lambda: clip(SHOTS)[:16], "damaged"),
    "the first half": (lambda: half(clip(SHOTS, sound=True)), "damaged"),
    "the first half, index first": (lambda: half(clip(SHOTS, movflags="faststart")), "damaged"),
    "the first half of a WebM": (lambda: half(clip(SHOTS, "webm", "libvpx")), "damaged"),
    "half a GIF": (lambda: half(animation(SHOTS[:1], "GIF")), "damaged"),
    "no known pictures": (sound_only, "no pictures|rare video codec"),
    "frames of 16,000 x 16,000": (lambda: enlarged(clip(SHOTS, "webm", "libvpx")), "10 million pixels|damaged"),
    "a GIF of 16,000 x 16,000": (
        lambda: wide(animation(SHOTS, "GIF"), 16_000),
        "10 million pixels",
    ),
    "one picture": (lambda: animation(((1, 0.1),), "GIF"), "only one picture"),
    "too long": (lambda: clip(((1, 200.0),), rate=1), "too long"),
    "an endless GIF": (lambda: animation(((1, 200.0),), "GIF", 10.0), "too long"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_a_bad_file_is_a_sentence(name, tmp_path):
    """Slow: some files reach the limits of time."""
    make, message = HOSTILE[name]
    (tmp_path / "clip").write_bytes(make())
    before = psutil.Process().num_fds()
    with (tmp_path / "clip").open("rb") as file, pytest.raises(VideoError, match=message) as raised:
        list(read_shots_safely(file, 224))
    assert raised.value.kind in ("unsupported", "damaged", "too large")
    assert psutil.Process().num_fds() == before


@pytest.mark.slow
def test_wrong_bytes_in_the_middle_do_no_harm(tmp_path):
    """They give shots or a sentence, never anything else. Slow: it reads many clips."""
    random = np.random.default_rng(0)
    seeds = [clip(SHOTS), clip(SHOTS, "webm", "libvpx"), animation(SHOTS, "WEBP"), animation(SHOTS[:1], "GIF")]
    found = set()
    for number in range(24):
        data = bytearray(seeds[number % 4])
        for at in random.integers(0, len(data), 1 + number):
            data[at] = random.integers(256)
        try:
            found.add(bool(read(bytes(data))))
        except VideoError:
            found.add(False)
    assert True in found


@pytest.mark.parametrize(
    ("limits", "message"),
    [({"cpu_seconds": 0.02}, "too long"), ({"wall_seconds": 0.02}, "too long"), ({"memory": 10_000_000}, "memory")],
)
def test_limits(limits, message, tmp_path):
    (tmp_path / "clip").write_bytes(wide(animation(SHOTS[:1], "GIF"), 3000))
    with (tmp_path / "clip").open("rb") as file, pytest.raises(VideoError, match=message) as raised:
        list(read_shots_safely(file, 224, **limits))
    assert raised.value.kind == "too large"


def test_the_process_ends_with_the_iterator(tmp_path):
    (tmp_path / "clip").write_bytes(clip(SHOTS))
    with (tmp_path / "clip").open("rb") as file:
        shots = read_shots_safely(file, 224)
        next(shots)
        [process] = [p for p in psutil.Process().children() if "video_process" in " ".join(p.cmdline())]
        shots.close()
    assert not process.is_running()


def test_to_dict_is_json():
    [segment] = make_segments(*shots_and_captions("a dog"))
    assert json.loads(json.dumps(segment.to_dict())) == {
        "start": 0, "end": 1, "caption": "a dog", "language": "en", "probability": 0.1, "confidence": 0.0,
        "key_frame_time": 0.5,
    }  # fmt: skip
