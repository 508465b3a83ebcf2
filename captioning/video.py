"""Reads the frames of a clip.

MP4, MOV and WebM are read by FFmpeg through PyAV, animated GIF and WebP by Pillow. Only about ten frames a second are
looked at, and only as small copies. So memory does not grow with the clip.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, TypeVar, cast

import numpy as np
from PIL import Image, ImageSequence

from captioning.images import ImageError, open_photo

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer

Picture = TypeVar("Picture")

SUFFIXES = {".mp4", ".m4v", ".mov", ".webm", ".mkv"}
"""Suffixes of clips. GIF and WebP files are clips only where a clip is asked for."""

MAX_SECONDS = 180.0
TOLERANCE = 1.0
"""Seconds that a clip may be longer, because some say to be a little longer or shorter than they are."""
MAX_PIXELS = 10_000_000
"""Of a frame. 4096 × 2304 pixels are 9.4 million."""

INTERVAL = 0.1  # seconds between the frames that are looked at
STEP = INTERVAL - 0.01  # the shortest of these intervals
STILL = 1.0  # seconds that a frame stays, as in a slide show
SMALL = (64, 36)  # width and height of the copies
MAX_RATE = 250  # frames a second, on average; a clip of more would only keep the processor busy
FULL_RATE = 20  # frames a second; of faster clips, frames that no other frame needs are not decoded
CODECS = ["h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "mpeg4", "mjpeg", "prores"]


class VideoError(ImageError):
    """A clip that cannot be read. The message states what is wrong and what to do."""


class Frame(NamedTuple):
    """A frame at `time`. The clip is known to last until `end`. `small` is int16 (36, 64, 3)."""

    time: float
    end: float
    small: np.ndarray
    picture: Callable[[], Image.Image]


def read_frames(file: BinaryIO, max_seconds: float, threads: int) -> tuple[Iterator[Frame], float | None]:
    """The frames of a clip that are looked at, and how many seconds it says to last.

    Args: as for `captioning.shots.read_shots`.

    Raises:
        VideoError: not a clip, damaged, without pictures, too long, or with frames of more than `MAX_PIXELS`.
    """
    head = file.read(12)
    file.seek(0)
    if head[:4] == b"\x1aE\xdf\xa3":
        frames, total = _open_video(file, "matroska", max_seconds, threads)
    elif head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        frames, total = _open_video(file, "mov", max_seconds, threads)
    elif head[:4] == b"GIF8" or (head[:4], head[8:]) == (b"RIFF", b"WEBP"):
        frames, total = _read_animation(file), None
    else:
        raise VideoError(
            "This is not a clip that we can read. Use an MP4, MOV, WebM, animated GIF or animated WebP file.",
            "unsupported",
        )
    return _checked(frames, max_seconds), total


def _checked(frames: Iterator[Frame], max_seconds: float) -> Iterator[Frame]:
    """Turns whatever can happen to an untrusted file into a `VideoError`."""
    try:
        for number, frame in enumerate(frames):
            if frame.end > max_seconds + TOLERANCE or number > (max_seconds + TOLERANCE) / STEP:
                raise _too_long()
            yield frame
    except (VideoError, MemoryError):
        raise
    except Exception as error:
        raise damaged() from error


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
    if total and total > max_seconds + TOLERANCE:
        raise _too_long()
    codec.thread_type, codec.thread_count = "AUTO", threads
    codec.options = {"max_pixels": str(MAX_PIXELS)}
    rate = float(stream.average_rate or stream.guessed_rate or 0)
    if rate >= FULL_RATE and stream.frames:  # Matroska has no number of frames, so its rate may be too high
        codec.skip_frame = "NONREF"

    def read() -> Iterator[tuple[float, float, VideoFrame]]:
        first = (container.start_time or 0) / av.time_base
        end = end_of_all = last = 0.0
        frames = 0
        with container:
            for packet in container.demux():
                is_picture = packet.stream.index == stream.index
                if packet.pts is not None and packet.time_base:
                    reached = float((packet.pts + (packet.duration or 0)) * packet.time_base) - first
                    end_of_all = max(end_of_all, reached)
                    if is_picture:
                        end = max(end, reached)
                if not is_picture:
                    continue
                for frame in cast("list[VideoFrame]", packet.decode()):
                    _check_size(frame.width, frame.height)
                    if (frames := frames + 1) > max_seconds * MAX_RATE:
                        raise _too_long()
                    last = last + 1 / (rate or 25) if frame.time is None else frame.time - first
                    end = max(end, last)
                    yield last, end, frame
        if stream.duration and stream.time_base:
            is_cut_off = end < 0.9 * float(stream.duration * stream.time_base) - 1
        else:  # Matroska has one duration for all streams, and sound may be longer than the picture
            is_cut_off = end_of_all < 0.9 * (total or 0) - 1
        if is_cut_off:
            raise damaged()

    return (_look(max(time, 0.0), end, frame) for time, end, frame in _some(read())), total


def _look(time: float, end: float, frame: VideoFrame) -> Frame:
    small = frame.reformat(*SMALL, "rgb24", interpolation="FAST_BILINEAR").to_ndarray()
    return Frame(time, end, small.astype(np.int16), partial(_upright, frame))


def _some(frames: Iterable[tuple[float, float, Picture]]) -> Iterator[tuple[float, float, Picture]]:
    """Of frames with their time and the end that is known, those that are looked at.

    Of frames within `INTERVAL`, that is the first, or the last if it stays for `STILL`.
    """
    first: tuple[float, Picture] | None = None
    last: tuple[float, Picture] | None = None
    end = 0.0

    def chosen(until: float) -> tuple[float, float, Picture]:
        assert first
        time, picture = last if last and until - last[0] >= STILL else first
        return time, max(end, until), picture

    for time, now_end, picture in frames:
        if first and time >= first[0] + STEP:
            yield chosen(time)
            first = last = None
        if first:
            last = time, picture
        else:
            first = time, picture
        end = now_end
    if first:
        yield chosen(end)


def _upright(frame: VideoFrame) -> Image.Image:
    return frame.to_image().rotate(frame.rotation, expand=True)


def _read_animation(file: BinaryIO) -> Iterator[Frame]:
    """The frames of a GIF or WebP file."""
    try:
        image = Image.open(file, formats=["GIF", "WEBP"])
    except Image.DecompressionBombError as error:
        raise _too_many_pixels() from error
    _check_size(*image.size)

    def read() -> Iterator[tuple[float, float, Image.Image]]:
        time = 0.0
        for frame in ImageSequence.Iterator(image):
            frame.load()  # only now WebP tells the duration
            milliseconds = frame.info.get("duration", 0)
            end = time + (milliseconds if milliseconds > 10 else 100) / 1000  # as browsers do
            yield time, end, frame.copy()
            time = end

    for time, end, frame in _some(read()):
        picture = open_photo(frame)
        small = np.asarray(picture.resize(SMALL, Image.Resampling.BILINEAR), np.int16)
        yield Frame(time, end, small, picture.copy)


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise _too_many_pixels()


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
