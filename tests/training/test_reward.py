"""The reward of self-critical training."""

import math

import numpy as np
import pytest
from captions import CAPTIONS, REFERENCES

from captioning.training.evaluation import per_image_cider
from captioning.training.reward import CaptionReward


def test_reward_is_the_cider_of_coco():
    reward = CaptionReward(REFERENCES).reward(list(CAPTIONS), list(CAPTIONS.values()))
    assert reward.dtype == np.float32 and reward.shape == (4,)
    by_image = np.array(list(per_image_cider(CAPTIONS, REFERENCES).values())) / 100
    np.testing.assert_allclose(reward, by_image, atol=1e-5)
    assert reward[0] > reward[3]


def test_reward_of_random_captions_is_the_cider_of_coco():
    random = np.random.default_rng(0)
    sentence = lambda: " ".join(random.choice(list("abcdefgh"), random.integers(1, 12)))  # noqa: E731
    references = {str(i): [sentence() for _ in range(random.integers(1, 6))] for i in range(50)}
    captions = {name: sentence() for name in references}
    captions["7"] = ""
    expected = [score / 100 for score in per_image_cider(captions, references).values()]
    reward = CaptionReward(references).reward(list(captions), list(captions.values()))
    np.testing.assert_allclose(reward, expected, atol=1e-5)


def test_reward_takes_an_image_many_times_and_new_words():
    reward = CaptionReward(REFERENCES)
    scores = reward.reward(["dog.jpg"] * 3, ["a dog runs", "a dog runs", "zebra quagga"])
    assert scores[0] == scores[1] > scores[2] == 0
    assert reward.reward([], []).shape == (0,)
    with pytest.raises(ValueError, match="bird.jpg has no reference"):
        reward.reward(["bird.jpg"], ["a bird"])
    with pytest.raises(ValueError):
        reward.reward(["dog.jpg"], [])


def test_reward_falls_with_brevity():
    """By BLEU's brevity penalty, against one word less than the mean length of the references."""
    references = {"1": ["a dog runs in the snow", "a dog runs in the tall grass"], "2": ["a cat"]}
    texts = ["a dog runs", "a dog runs in the tall white grass"]
    plain, brief = (CaptionReward(references, brevity_penalty=b).reward(["1", "1"], texts) for b in (False, True))
    assert brief[0] == pytest.approx(plain[0] * math.exp(1 - 5.5 / 3))
    assert brief[1] == plain[1] > 0
    assert CaptionReward(references, brevity_penalty=True).reward(["1"], [""]) == 0


def test_reward_with_end_token_punishes_captions_that_break_off():
    reward = CaptionReward(REFERENCES, end_token=True)
    captions = ["a dog runs in a field", "a dog runs in a"]
    whole, cut = reward.reward(["dog.jpg"] * 2, captions)
    whole_without, cut_without = CaptionReward(REFERENCES).reward(["dog.jpg"] * 2, captions)
    assert whole - cut > whole_without - cut_without > 0


@pytest.mark.parametrize("bleu", [0.0, 0.5])
def test_a_caption_that_was_cut_has_no_end(bleu):
    caption = "a dog runs in a field"
    reward = CaptionReward(REFERENCES, end_token=True, bleu=bleu)
    complete, cut = reward.reward(["dog.jpg"] * 2, [caption] * 2, [True, False])
    assert complete > cut > 0
    assert complete == reward.reward(["dog.jpg"], [caption])


def test_reward_counts_bleu():
    names, captions = ["dog.jpg"] * 2, [REFERENCES["dog.jpg"][0], "purple elephants"]
    plain, mixed = (CaptionReward(REFERENCES, bleu=bleu).reward(names, captions) for bleu in (0.0, 0.5))
    assert mixed - plain == pytest.approx([0.5 * 4, 0.0], abs=1e-3)  # BLEU-1 to BLEU-4 of people's own words are 1
