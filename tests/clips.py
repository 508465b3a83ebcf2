"""Clips with known cuts, made with PyAV and Pillow."""

from __future__ import annotations

import functools
import io
from fractions import Fraction
from typing import cast

import av
import numpy as np
from av.video.stream import VideoStream
from PIL import Image

FAST = {
    "libx264": {"preset": "veryfast"},
    "libvpx": {"deadline": "realtime", "cpu-used": "8"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
}  # options of encoders


@functools.cache
def scene(number: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """A picture with soft blots of colour, another for each number."""
    noise = np.random.default_rng(number).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def moving(picture: Image.Image, shift: int) -> Image.Image:
    """The picture a little further to the right, as if the camera moved."""
    larger = picture.resize((picture.width * 5 // 4, picture.height * 5 // 4))
    return larger.crop((shift, shift // 2, shift + picture.width, shift // 2 + picture.height))


def shot_at(shots: tuple[tuple[int, float], ...], time: float) -> tuple[int, float]:
    """The scene that is shown at a time, and for how many seconds it has been."""
    start = 0.0
    for number, seconds in shots[:-1]:
        if time < start + seconds - 1e-6:
            return number, time - start
        start += seconds
    return shots[-1][0], time - start


@functools.cache
def clip(
    shots: tuple[tuple[int, float], ...],
    format: str = "mp4",
    codec: str = "libx264",
    rate: int = 25,
    size: tuple[int, int] = (160, 120),
    times: tuple[float, ...] | None = None,
    rotation: int = 0,
    sound: bool = False,
    sound_seconds: float | None = None,
    **options: str,
) -> bytes:
    """A clip of moving scenes.

    Args:
        shots: number of the scene and seconds of each shot.
        times: seconds of each frame, if not the same time apart.
        rotation: of the display matrix, in degrees counterclockwise.
        sound: with a silent sound track beside the pictures, of `sound_seconds`, else as long as they are.
    """
    file = io.BytesIO()
    with av.open(file, "w", format=format) as container:
        stream = cast(VideoStream, container.add_stream(codec, rate=rate, options=FAST.get(codec, {}) | options))
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        track = container.add_stream("libopus", rate=48_000) if sound else None
        length = sum(seconds for _, seconds in shots)
        for time in times or [number / rate for number in range(round(length * rate))]:
            number, since = shot_at(shots, time)
            frame = av.VideoFrame.from_image(moving(scene(number, size), int(10 * since)))
            frame.pts, frame.time_base = round(1000 * time), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if track:
            for number in range(int((sound_seconds or length) * 48_000 / 960)):
                silence = av.AudioFrame.from_ndarray(np.zeros((1, 960), np.float32), "fltp", "mono")
                silence.sample_rate, silence.pts = 48_000, 960 * number
                container.mux(track.encode(silence))
            container.mux(track.encode())
    return file.getvalue()


@functools.cache
def animation(shots: tuple[tuple[int, float], ...], format: str, seconds: float = 0.1) -> bytes:
    """An animated GIF or WebP. Each frame takes the same time."""
    frames = [
        moving(scene(number), int(10 * seconds * index))
        for number, length in shots
        for index in range(round(length / seconds))
    ]
    file = io.BytesIO()
    frames[0].save(file, format, save_all=True, append_images=frames[1:], duration=round(1000 * seconds), loop=0)
    return file.getvalue()
