"""The model that ships, on real photos: skipped where Flickr8k is not at hand."""

import pytest

from captioning.training.datasets import load_dataset
from captioning.training.evaluation import score_captions

FLOORS = {"BLEU-1": 60, "BLEU-4": 20, "CIDEr": 55, "ROUGE-L": 45}


@pytest.mark.slow
def test_scores_on_real_photos_stay_above_a_floor(generator, flickr8k):
    """Slow: it captions 200 photos and scores them."""
    dataset = load_dataset(flickr8k)
    references = dict(list(dataset.captions["validation"].items())[:200])
    captions = {}
    names = list(references)
    for start in range(0, len(names), 20):
        batch = names[start : start + 20]
        results = generator.caption_batch([dataset.image_paths[name] for name in batch])
        captions.update((name, result.text) for name, result in zip(batch, results))
    scores = score_captions(captions, references)
    assert {name: scores[name] for name, floor in FLOORS.items() if scores[name] < floor} == {}
