"""A further language is learned by layers of its own. Slow: it compiles and trains two decoders."""

from types import SimpleNamespace

import numpy as np
import pytest
from training_runs import CAPTIONS, TOKENIZER, WORDS, new_decoder, new_features, new_run

from captioning.artifacts import read_pickle
from captioning.network.search import make_search
from captioning.training import languages
from captioning.training.languages import Schedule, train_language, write_confidence
from captioning.training.teacher_forcing import Training

pytestmark = pytest.mark.slow

GERMAN = dict(zip(WORDS, ["roter", "grüner", "blauer"], strict=True))
TRANSLATED = {
    name: [f"Ein {GERMAN[texts[0].split()[1]]} Ball", f"{GERMAN[texts[0].split()[1]]} Ball"]
    for name, texts in CAPTIONS.items()
}


def captions(search, tokenizer):
    found = search(new_features().batch(list(CAPTIONS)).astype("float32"), 1)
    return [tokenizer.decode(tokens[0]) for tokens in found.tokens]


def test_a_language_is_added_and_the_first_one_stays_the_same(tmp_path):
    english = new_decoder()
    new_run(Training, tmp_path / "en", english).run()
    search = make_search(english, TOKENIZER)
    before, weights = captions(search, TOKENIZER), [w.copy() for w in english.get_weights()]
    split = {
        "train": {n: texts for n, texts in TRANSLATED.items() if int(n[:-4]) < 24},
        "validation": {n: texts for n, texts in TRANSLATED.items() if int(n[:-4]) >= 24},
    }
    german, tokenizer, history = train_language(
        english, "de", **split, features=new_features(), views=[], folder=tmp_path / "de",
        schedule=Schedule(25, 1, 12), minimum_count=1,
    )  # fmt: skip
    assert {stage: len(values["loss"]) for stage, values in history.items()} == {
        "de decoder": 25,
        "de self-critical": 1,
    }
    texts = captions(make_search(german, tokenizer), tokenizer)
    right = [GERMAN[WORDS[int(n[:-4]) % 3]] in text.split() for n, text in zip(CAPTIONS, texts)]
    assert np.mean(right) > 0.9
    assert "Ball" in tokenizer.word_index and "ball" not in tokenizer.word_index
    assert german.attention_lstm is english.attention_lstm
    for then, now in zip(weights, english.get_weights(), strict=True):
        np.testing.assert_array_equal(then, now)
    assert captions(search, TOKENIZER) == before


def test_a_new_language_leaves_the_confidence_of_the_others(tmp_path, monkeypatch):
    config = {"grid": [7, 7], "confidence": {"en": [0.5, 0.1], "de": [0.6, 0.2]}}
    monkeypatch.setattr(languages.CaptionGenerator, "load", lambda _: SimpleNamespace(config=config))
    monkeypatch.setattr(languages, "fit_confidence", lambda generator, *_: [0.7, 0.3])
    monkeypatch.setattr(languages.artifacts, "write_manifest", lambda _: None)
    assert write_confidence(tmp_path, None, {"fr": {"train": {}, "validation": {}}}) == {"fr": [0.7, 0.3]}
    expected = {"en": [0.5, 0.1], "de": [0.6, 0.2], "fr": [0.7, 0.3]}
    assert read_pickle(tmp_path / "config.pkl") == {"grid": [7, 7], "confidence": expected}


@pytest.mark.parametrize(("photos", "slope"), [(200, 2.0), (200, -2.0), (4, 2.0)])
def test_the_confidence_is_constant_without_a_slope_to_trust(photos, slope):
    """The captions of the validation photos have one to ten words, of which people wrote the first ones too."""
    right = [i % 5 for i in range(photos)]
    captions = {str(i): SimpleNamespace(text=" ".join(["dog"] * n + ["cat"] * (5 - n)), confidence=0.2 + n / 5 / slope)
                for i, n in enumerate(right)}  # fmt: skip
    generator = SimpleNamespace(search=lambda names, language: [captions[name] for name in names])
    features = SimpleNamespace(batch=list)
    people = {name: ["a dog"] for name in captions}
    found = languages.fit_confidence(generator, features, {"1": ["dog"], "2": ["cat"]}, people, "en")
    half = np.mean([n / 5 for n in right[::2]])
    assert found == pytest.approx([2, -0.4] if (photos, slope) == (200, 2.0) else [0, half])
