"""The attention strip."""

import io

import numpy as np
import pytest
from PIL import Image

from web.attention import COLUMNS, GAP, TEXT_HEIGHT, draw_attention

PHOTO = np.full((60, 100, 3), 200, np.uint8)
HEIGHT, WIDTH, _ = PHOTO.shape


def drawn(words) -> np.ndarray:
    image = Image.open(io.BytesIO(draw_attention(PHOTO, words)))
    assert image.format == "PNG"
    return np.asarray(image)


def panel(strip: np.ndarray, number: int) -> np.ndarray:
    row, column = divmod(number, COLUMNS)
    top, left = GAP + row * (HEIGHT + TEXT_HEIGHT + GAP), GAP + column * (WIDTH + GAP)
    return strip[top : top + HEIGHT, left : left + WIDTH]


@pytest.mark.parametrize(("words", "columns", "rows"), [(1, 2, 1), (4, 5, 1), (5, 5, 2), (9, 5, 2), (10, 5, 3)])
def test_size(words, columns, rows):
    strip = drawn([("dog", np.full((7, 7), 1 / 49))] * words)
    assert strip.shape == (rows * (HEIGHT + TEXT_HEIGHT + GAP) + GAP, columns * (WIDTH + GAP) + GAP, 3)


def test_the_first_panel_is_the_photo():
    np.testing.assert_array_equal(panel(drawn([("dog", np.eye(7))]), 0), PHOTO)


@pytest.mark.parametrize(("row", "column"), [(0, 0), (1, 5), (3, 3), (6, 2)])
def test_a_panel_is_brightest_where_attention_is_greatest(row, column):
    attention = np.full((7, 7), 0.01)
    attention[row, column] = 0.52
    light = panel(drawn([("a", np.eye(7)), ("dog", attention)]), 2)[..., 0]
    brightest = np.unravel_index(light.argmax(), light.shape)
    assert (int(brightest[0] / HEIGHT * 7), int(brightest[1] / WIDTH * 7)) == (row, column)
    assert light.max() > 0.9 * 200 and light.min() < 0.4 * 200


def test_without_any_attention_a_panel_is_dark():
    assert panel(drawn([("dog", np.zeros((7, 7)))]), 1).max() < 0.4 * 200


def test_each_word_is_below_its_panel():
    strip = drawn([("dog", np.eye(7)), ("", np.eye(7))])
    below = strip[GAP + HEIGHT : GAP + HEIGHT + TEXT_HEIGHT]
    photo, dog, empty = (below[:, GAP + n * (WIDTH + GAP) :][:, :WIDTH] for n in range(3))
    assert dog.min() < 50 and photo.min() == empty.min() == 255


@pytest.mark.parametrize("word", ["Mädchen", "weiß", "chaîne", "skáče", "příšerně", "žluťoučký"])
def test_every_letter_has_a_shape_of_its_own(word):
    def drawn_as(text):
        strip = drawn([(text, np.eye(7))])
        return strip[GAP + HEIGHT : GAP + HEIGHT + TEXT_HEIGHT, 2 * GAP + WIDTH : 2 * (GAP + WIDTH)]

    for letter in word:
        assert (drawn_as(letter) != drawn_as("\uffff")).any()  # what is drawn for a letter that the font lacks
