"""Random variations of training photos."""

import numpy as np
import pytest

from captioning.training.augmentation import augment, crop


@pytest.mark.parametrize("vary", [augment, crop])
def test_a_variation_keeps_its_size_and_depends_on_the_generator_alone(vary):
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    first, same, other = (vary(image, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.shape == image.shape and first.dtype == np.uint8
    assert (first == same).all() and (first != other).any()


def test_a_crop_shows_most_of_the_photo():
    """Nearly all captions must stay true of it."""
    image = np.zeros((100, 100, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(100), np.arange(100)[:, None]
    for seed in range(50):
        cropped = crop(image, np.random.default_rng(seed)).astype(int)
        width, height = (np.ptp(cropped[..., channel]) for channel in (0, 1))
        assert width >= 80 and height >= 80
