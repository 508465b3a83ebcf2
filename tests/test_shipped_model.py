"""The model that ships. What needs real photos is skipped where Flickr8k is not at hand.

Slow: it captions 200 photos and loads TensorFlow.
"""

import numpy as np
import pytest
from helpers import ROOT

from captioning.litert import parallel_map
from captioning.training.datasets import load_dataset
from captioning.training.evaluation import score_captions

pytestmark = pytest.mark.slow

FLOORS = {
    "en": {"BLEU-1": 60, "BLEU-4": 20, "CIDEr": 55, "ROUGE-L": 45},
    "de": {"BLEU-4": 11, "CIDEr": 40},
    "fr": {"BLEU-4": 4, "CIDEr": 45},
    "cs": {"BLEU-4": 1, "CIDEr": 30},
}


@pytest.fixture(scope="module")
def dataset(flickr8k):
    return load_dataset(flickr8k)


@pytest.fixture(scope="module")
def features(generator, dataset):
    """Of the first 100 development photos that have captions in all languages."""
    splits = [dataset.captions, *dataset.translations.values()]
    names = [name for name in dataset.captions["validation"] if all(name in split["validation"] for split in splits)]
    photos = parallel_map(generator.prepare, [dataset.image_paths[name] for name in names[:100]])
    return dict(zip(names, generator.encode(np.stack(list(photos)))))


@pytest.mark.parametrize("language", FLOORS)
def test_scores_on_real_photos_stay_above_a_floor(generator, dataset, features, language, monkeypatch):
    monkeypatch.setenv("PATH", "")  # no METEOR, because Java takes 12 s
    if language not in {"en", *dataset.translations}:
        pytest.skip(f"Flickr8k has no captions in {language} here")
    split = (dataset.captions if language == "en" else dataset.translations[language])["validation"]
    results = generator.search(np.stack(list(features.values())), language=language)
    captions = {name: result.text for name, result in zip(features, results, strict=True)}
    scores = score_captions(captions, {name: split[name] for name in features}, language)
    assert {name: scores[name] for name, floor in FLOORS[language].items() if scores[name] < floor} == {}


@pytest.mark.usefixtures("uncompiled")
def test_the_keras_models_that_ship_caption_as_the_exported_ones_do(generator):
    from captioning.network.saving import load_model
    from captioning.network.search import make_search

    encoder, decoders, tokenizers, config = load_model(ROOT / "artifacts")
    assert list(decoders) == list(tokenizers) == generator.languages
    images = np.stack([generator.prepare(path) for path in sorted((ROOT / "static" / "samples").iterdir())])
    features, exact = generator.encode(images), np.asarray(encoder(images))
    assert np.abs(features - exact).mean() < 0.08 * np.abs(exact).mean()
    for language, decoder in decoders.items():
        search = make_search(decoder, tokenizers[language], config["max_length"], config["length_power"])
        texts = [tokenizers[language].decode(tokens[0]) for tokens in search(features, 3).tokens]
        exported = [caption.text for caption in generator.caption_batch(list(images), language=language)]
        assert sum(map(str.__eq__, texts, exported)) >= 2, (texts, exported)  # rounding to eight bits changes some
