"""Captions of a clip's shots as a timeline, and as the files that players read: WebVTT, SRT and JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from captioning.images import Preview
from captioning.shots import Shot
from captioning.text import sentence

if TYPE_CHECKING:
    from captioning.generator import Caption


@dataclass(frozen=True)
class Segment:
    """A part of a clip and its caption. Times are seconds from the start of the clip.

    The caption is that of the frame at ``key_frame_time``; ``thumbnail`` is a small copy of this frame.
    """

    start: float
    end: float
    caption: Caption
    key_frame_time: float
    thumbnail: Preview = field(repr=False)

    def to_dict(self) -> dict:
        """For JSON. The caption is as the model wrote it, without full stop."""
        return {
            "start": round(self.start, 3),
            "end": round(self.end, 3),
            **self.caption.to_dict(),
            "language": self.caption.language,
            "key_frame_time": round(self.key_frame_time, 3),
        }


def make_segments(shots: Iterable[Shot], captions: Iterable[Caption]) -> list[Segment]:
    """Joins shots with their captions. Neighbours with the same words become one segment.

    Its key frame is that of the shot with the highest confidence.
    """
    segments: list[Segment] = []
    for shot, caption in zip(shots, captions, strict=True):
        segment = Segment(shot.start, shot.end, caption, shot.key_frame_time, shot.thumbnail)
        if segments and segments[-1].caption.text == caption.text:
            before = segments.pop()
            best = max(before, segment, key=lambda one: one.caption.confidence)
            segment = dataclasses.replace(best, start=before.start, end=segment.end)
        segments.append(segment)
    return segments


def to_vtt(segments: Sequence[Segment]) -> str:
    """WebVTT, for ``<track kind="descriptions">``. Captions become sentences; segments without one are left out."""
    return "\n".join(["WEBVTT\n", *_cues(segments, ".")])


def to_srt(segments: Sequence[Segment]) -> str:
    """SubRip subtitles. Captions become sentences; segments without one are left out."""
    return "\n".join(f"{number}\n{cue}" for number, cue in enumerate(_cues(segments, ","), 1))


def _cues(segments: Sequence[Segment], point: str) -> list[str]:
    return [
        f"{_clock(s.start, point)} --> {_clock(s.end, point)}\n{sentence(s.caption.text)}\n"
        for s in segments
        if s.caption.text
    ]


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(1000 * seconds)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}{point}{rest % 1000:03}"
