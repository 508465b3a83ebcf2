"""Read the photos of a data set in batches. It needs no TensorFlow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from captioning.images import ImageError, open_photo, resize_image


def read_batches(paths: Mapping[str, Path], size: int, batch_size: int) -> Iterator[tuple[list, np.ndarray, dict]]:
    """Read pictures on other threads, a few batches ahead of their use.

    Yields (names, uint8 (B, size, size, 3), {name of an unreadable picture: reason}).
    """

    def read(item):
        name, path = item
        try:
            return name, resize_image(open_photo(path, min_size=(size, size)), (size, size)), None
        except (ImageError, OSError) as error:
            return name, None, str(error)

    items = list(paths.items())
    with ThreadPoolExecutor(4) as pool:
        ahead = 4 * batch_size
        futures = [pool.submit(read, item) for item in items[:ahead]]
        for start in range(0, len(items), batch_size):
            results = [future.result() for future in futures[:batch_size]]
            futures = futures[batch_size:]
            futures += [pool.submit(read, item) for item in items[start + ahead : start + ahead + batch_size]]
            good = [(name, image) for name, image, _ in results if image is not None]
            images = np.stack([image for _, image in good]) if good else np.zeros((0, size, size, 3), np.uint8)
            yield [name for name, _ in good], images, {name: why for name, _, why in results if why}
