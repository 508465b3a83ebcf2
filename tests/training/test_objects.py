"""Hallucinated objects."""

import pytest

from captioning.training.objects import MEANINGS, hallucination


@pytest.mark.parametrize(
    ("caption", "sentences", "objects"),
    [
        ("a dog with a ball", 100, 50),
        ("a puppy with a stick", 0, 0),
        ("nothing at all", 0, 0),
        ("a dog and a dog and a cat", 100, 50),  # an object counts once
    ],
)
def test_objects_that_no_reference_names(caption, sentences, objects):
    found = hallucination({"1.jpg": caption}, {"1.jpg": ["a puppy runs", "the dog has a stick"]})
    assert found == {"CHAIR-s": sentences, "CHAIR-i": objects}


@pytest.mark.parametrize("reference", ["he is on a skateboard", "he is on a snowboard", "a surfer"])
def test_a_word_with_several_meanings_may_have_any_of_them(reference):
    assert len(MEANINGS["board"]) == 3
    assert hallucination({"1": "a board"}, {"1": [reference]})["CHAIR-s"] == 0
    assert hallucination({"1": "a board"}, {"1": ["a dog"]})["CHAIR-s"] == 100


def test_on_top_of_is_no_shirt():
    assert hallucination({"1": "a dog on top of a rock"}, {"1": ["a dog on a rock"]})["CHAIR-s"] == 0
    assert hallucination({"1": "a red top"}, {"1": ["a dog"]})["CHAIR-s"] == 100
