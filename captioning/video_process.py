"""What the process of `captioning.video_worker` runs."""

from collections.abc import Iterator

import av  # noqa: F401  # before the memory is limited

from captioning.shots import Progress, Shot, read_shots
from captioning.video import too_much_memory


def answer(descriptor: int, size: int, max_seconds: float, threads: int) -> Iterator[Shot | Progress | None]:
    """The shots of the clip in an open file, and None at the end."""
    with open(descriptor, "rb") as file:
        file.seek(0)
        try:
            yield from read_shots(file, size, max_seconds, threads)
        except MemoryError:
            raise too_much_memory() from None
    yield None
