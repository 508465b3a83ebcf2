"""Random variations of training photos."""

import numpy as np

from captioning.training.augmentation import augment


def test_an_augmented_picture_keeps_its_size_and_depends_on_the_generator_alone():
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    first, same, other = (augment(image, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.shape == image.shape and first.dtype == np.uint8
    assert (first == same).all() and (first != other).any()
