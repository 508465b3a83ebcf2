"""From a clip to its shots, each with a key frame.

```python
with open("clip.mp4", "rb") as file:
    shots = [part for part in read_shots(file, size=224) if isinstance(part, Shot)]
```
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain, pairwise
from typing import BinaryIO, NamedTuple

import numpy as np

from captioning.images import Preview, make_preview, resize_image
from captioning.video import MAX_SECONDS, Frame, VideoError, damaged, read_frames

MIN_DIFFERENCE = 12.0  # mean difference of two frames' values (0 to 255) at a cut
MIN_RATIO = 3.0  # of the difference at a cut to the mean of those around it, which camera movement makes high
AROUND = 0.25  # seconds
MIN_SHOT, MAX_SHOT = 0.5, 10.0  # seconds; a longer shot is cut, because much can happen in it
CANDIDATES = 8  # frames of a shot that are kept until its key frame is chosen
THUMBNAIL = 240  # pixels of the longer side


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
        VideoError: as for `read_frames`.
    """
    frames, total = read_frames(file, max_seconds, threads)
    return _find_shots(frames, size, total)


def _find_shots(frames: Iterator[Frame], size: int, total: float | None) -> Iterator[Shot | Progress]:
    """Frames → shots. Every `stride`-th frame of a shot is a candidate for its key frame, and more than `CANDIDATES`
    double the stride."""
    shot: list[Frame] = []  # the candidates; the first frame is always one
    start = end = 0.0
    number = stride = count = reported = 0

    def finish() -> Shot:
        key = _key_frame(shot, start, end)
        picture = key.picture()
        return Shot(start, end, key.time, resize_image(picture, (size, size)), make_preview(picture, THUMBNAIL))

    for frame, is_cut in _with_cuts(frames):
        count += 1
        length = frame.time - start
        is_too_long = length >= MAX_SHOT and (total is None or total - frame.time >= MIN_SHOT)
        if shot and ((is_cut and length >= MIN_SHOT) or is_too_long):
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
