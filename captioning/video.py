"""From a clip to its shots, each with a key frame.

```python
with open("clip.mp4", "rb") as file:
    shots = [part for part in read_shots(file, size=224) if isinstance(part, Shot)]
```

MP4, MOV and WebM are read by FFmpeg through PyAV, animated GIF and WebP by Pillow. Only about ten frames a second are
looked at, and only as small copies. So memory does not grow with the clip.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain, pairwise
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, cast

import numpy as np
from PIL import Image, ImageSequence

from captioning.images import Preview, open_photo, resize_image

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer

SUFFIXES = {".mp4", ".m4v", ".mov", ".webm", ".mkv"}
"""Suffixes of clips. GIF and WebP files are clips only where a clip is asked for."""

MAX_SECONDS = 180.0
MAX_PIXELS = 10_000_000
"""Of a frame. 4096 × 2304 pixels are 9.4 million."""

INTERVAL = 0.1  # seconds between the frames that are looked at
SMALL = (64, 36)  # width and height of the copies that are compared
MIN_DIFFERENCE = 12.0  # mean difference of their values (0 to 255) at a cut
MIN_RATIO = 3.0  # of the difference at a cut to the mean of those around it, which camera movement makes high
AROUND = 0.25  # seconds
MIN_SHOT, MAX_SHOT = 0.5, 10.0  # seconds; a longer shot is cut, because much can happen in it
CANDIDATES = 8  # frames of a shot that are kept until its key frame is chosen
THUMBNAIL = 240  # pixels of the longer side
FULL_RATE = 20  # frames a second; of faster clips, frames that no other frame needs are not decoded
CODECS = ["h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "mpeg4", "mjpeg", "prores"]


class VideoError(ValueError):
    """A clip that cannot be read. The message states what is wrong and what to do.

    Its `kind` is "unsupported", "too large" or "damaged", as that of an `ImageError`.
    """

    def __init__(self, message: str, kind: str = "damaged"):
        super().__init__(message)
        self.kind = kind


class Progress(NamedTuple):
    """How far a clip was read. `total` is None if the clip does not say how long it is."""

    seconds: float
    total: float | None


class Shot(NamedTuple):
    """Frames without a cut. Times are seconds from the start of the clip.

    `image` is the key frame for the encoder, uint8 (size, size, 3), and `thumbnail` a small copy to show.
    """

    start: float
    end: float
    key_frame_time: float
    image: np.ndarray
    thumbnail: Preview


class Frame(NamedTuple):
    """A frame at `time`. The clip is known to last until `end`. `small` is int16 (36, 64, 3)."""

    time: float
    end: float
    small: np.ndarray
    picture: Callable[[], Image.Image]


def read_shots(
    file: BinaryIO, size: int, max_seconds: float = MAX_SECONDS, threads: int = 1
) -> Iterator[Shot | Progress]:
    """Reads a clip from its start to its end.

    Shots follow one another without gaps. Now and then, a `Progress` is between them.

    Args:
        file: an MP4, MOV, WebM, animated GIF or animated WebP file.
        size: pixels of each side of a shot's `image`.
        max_seconds: a longer clip is refused.
        threads: of the decoder.

    Raises:
        VideoError: not a clip, damaged, without pictures, too long, or with frames of more than `MAX_PIXELS`.
    """
    head = file.read(12)
    file.seek(0)
    if head[:4] == b"\x1aE\xdf\xa3":
        reader, total = _open_video(file, "matroska", max_seconds, threads)
    elif head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        reader, total = _open_video(file, "mov", max_seconds, threads)
    elif head[:4] == b"GIF8" or (head[:4], head[8:]) == (b"RIFF", b"WEBP"):
        reader, total = _read_animation(file), None
    else:
        raise VideoError(
            "This is not a clip that we can read. Use an MP4, MOV, WebM, animated GIF or animated WebP file.",
            "unsupported",
        )
    return _find_shots(_checked(reader, max_seconds), size, total)


def _checked(frames: Iterator[Frame], max_seconds: float) -> Iterator[Frame]:
    """Turns whatever can happen to a hostile file into a `VideoError`."""
    try:
        for number, frame in enumerate(frames):
            if frame.end > max_seconds or number > max_seconds / INTERVAL:
                raise _too_long()
            yield frame
    except (VideoError, MemoryError):
        raise
    except Exception as error:
        raise damaged() from error


# Reading frames


def _open_video(file: BinaryIO, format: str, max_seconds: float, threads: int) -> tuple[Iterator[Frame], float | None]:
    """The frames of an MP4, MOV or WebM file, and how long it says to be."""
    import av  # takes 0.2 s

    try:
        container = cast("InputContainer", av.open(file, format=format, buffer_size=2**20))
    except MemoryError:
        raise
    except Exception as error:
        raise damaged() from error
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not streams:
        raise VideoError("This file has no pictures, only sound or other data. Choose a clip.", "unsupported")
    stream = streams[0]
    codec = stream.codec_context
    if codec is None or codec.name not in CODECS:
        raise VideoError("The clip has a rare video codec. Save it as MP4 with H.264 and try again.", "unsupported")
    _check_size(codec.width, codec.height)
    total = container.duration / av.time_base if container.duration else None
    if total and total > max_seconds + 1:
        raise _too_long()
    codec.thread_type, codec.thread_count = "AUTO", threads
    codec.options = {"max_pixels": str(MAX_PIXELS)}
    rate = float(stream.average_rate or stream.guessed_rate or 0)
    if rate >= FULL_RATE:
        codec.skip_frame = "NONREF"

    def read() -> Iterator[Frame]:
        first = (container.start_time or 0) / av.time_base
        end = following = last = 0.0
        frames = 0
        with container:
            for packet in container.demux(stream):
                if packet.pts is not None and stream.time_base:
                    end = max(end, float((packet.pts + (packet.duration or 0)) * stream.time_base) - first)
                for frame in packet.decode():
                    _check_size(frame.width, frame.height)
                    if (frames := frames + 1) > max_seconds * 250:
                        raise _too_long()
                    last = last + 1 / (rate or 25) if frame.time is None else frame.time - first
                    end = max(end, last)
                    if last < following:
                        continue
                    following = last + INTERVAL - 0.01
                    small = frame.reformat(*SMALL, "rgb24", interpolation="FAST_BILINEAR").to_ndarray()
                    yield Frame(max(last, 0.0), end, small.astype(np.int16), partial(_upright, frame))
        declared = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else total
        if end < 0.9 * (declared or 0) - 1:
            raise damaged()

    return read(), total


def _upright(frame: VideoFrame) -> Image.Image:
    return frame.to_image().rotate(frame.rotation, expand=True)


def _read_animation(file: BinaryIO) -> Iterator[Frame]:
    """The frames of a GIF or WebP file. Of those that follow within `INTERVAL`, the first."""
    try:
        image = Image.open(file, formats=["GIF", "WEBP"])
    except Image.DecompressionBombError as error:
        raise _too_many_pixels() from error
    _check_size(*image.size)
    time = following = 0.0
    for frame in ImageSequence.Iterator(image):
        milliseconds = frame.info.get("duration", 0)
        end = time + (milliseconds if milliseconds > 10 else 100) / 1000  # as browsers do
        if time >= following:
            picture = open_photo(frame.copy())
            small = np.asarray(picture.resize(SMALL, Image.Resampling.BILINEAR), np.int16)
            yield Frame(time, end, small, picture.copy)
            following = time + INTERVAL - 0.01
        time = end


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise _too_many_pixels()


# Finding shots


def _find_shots(frames: Iterator[Frame], size: int, total: float | None) -> Iterator[Shot | Progress]:
    shot: list[Frame] = []  # candidates for its key frame; the first frame is always one
    start = end = 0.0
    number = stride = count = reported = 0

    def finish() -> Shot:
        key = _key_frame(shot, start, end)
        picture = key.picture()
        image = resize_image(picture, (size, size))
        picture.thumbnail((THUMBNAIL, THUMBNAIL))
        jpeg = io.BytesIO()
        picture.save(jpeg, "JPEG", quality=80)
        return Shot(start, end, key.time, image, Preview(jpeg.getvalue(), picture.width, picture.height))

    for frame, is_cut in _with_cuts(frames):
        count += 1
        length = frame.time - start
        if shot and ((is_cut and length >= MIN_SHOT) or length >= MAX_SHOT):
            end = frame.time
            yield finish()
            shot, start, number = [], end, 0
        if not shot:
            stride = 1
        if number % stride == 0:
            shot.append(frame)
            if len(shot) > CANDIDATES:
                shot, stride = shot[::2], 2 * stride
        number += 1
        end = frame.end
        if int(frame.time) > reported:
            reported = int(frame.time)
            yield Progress(frame.time, total)
    if not count:
        raise damaged()
    if count == 1:
        raise VideoError("This file has only one picture. Caption it as a photo.", "unsupported")
    yield finish()


def _with_cuts(frames: Iterable[Frame]) -> Iterator[tuple[Frame, bool]]:
    """Each frame, and whether it is the first after a cut.

    As PySceneDetect's adaptive detector: a cut is where two frames differ, and far more than those before and after.
    """
    window: deque[tuple[Frame, float | None]] = deque()  # frames with their difference from the one before
    decided = 0  # how many of the window have been given out

    def decide() -> tuple[Frame, bool]:
        frame, difference = window[decided]
        around = [d for f, d in window if d is not None and f is not frame and abs(f.time - frame.time) <= AROUND]
        is_cut = difference is not None and difference >= max(MIN_DIFFERENCE, MIN_RATIO * float(np.mean(around or [0])))
        return frame, is_cut

    for before, frame in pairwise(chain([None], frames)):
        assert frame
        window.append((frame, None if before is None else float(np.abs(frame.small - before.small).mean())))
        while window[decided][0].time + AROUND < frame.time:
            yield decide()
            decided += 1
        while window[0][0].time + 2 * AROUND < window[decided][0].time:
            window.popleft()
            decided -= 1
    while decided < len(window):
        yield decide()
        decided += 1


def _key_frame(shot: list[Frame], start: float, end: float) -> Frame:
    """Of the candidates in the middle half of the shot, the one with the most detail: not blurred, not blank."""
    quarter = (end - start) / 4
    middle = [frame for frame in shot if start + quarter <= frame.time <= end - quarter]
    centre = (start + end) / 2
    return max(middle, key=_detail) if middle else min(shot, key=lambda frame: abs(frame.time - centre))


def _detail(frame: Frame) -> float:
    return float(np.abs(np.diff(frame.small, axis=0)).mean() + np.abs(np.diff(frame.small, axis=1)).mean())


# Errors


def damaged() -> VideoError:
    return VideoError("The clip is damaged or incomplete. Save or download it again, then try once more.")


def too_much_time() -> VideoError:
    return VideoError(
        "The clip takes too long to read. Save it with 1920 × 1080 pixels or fewer and try again.", "too large"
    )


def too_much_memory() -> VideoError:
    return VideoError(
        "The clip takes too much memory to read. Save it with 1920 × 1080 pixels or fewer and try again.", "too large"
    )


def _too_many_pixels() -> VideoError:
    return VideoError(
        "The clip's frames have more than 10 million pixels. Save it with 1920 × 1080 pixels and try again.",
        "too large",
    )


def _too_long() -> VideoError:
    return VideoError("The clip is too long. Cut it into shorter clips and try again.", "too large")
