import numpy as np
import pytest


@pytest.fixture(scope="session")
def keras_folder(tiny_encoder, tmp_path_factory):
    """A whole, tiny model with random weights in English and German, not exported.

    With this seed, the best captions are far better than the next ones: rounding does not change them.
    """
    from captioning.network.decoder import build_decoder
    from captioning.network.saving import save_model
    from captioning.text import Tokenizer

    folder = tmp_path_factory.mktemp("keras")
    captions = {"en": ["a dog runs"], "de": ["ein Hund läuft weg"]}
    tokenizers = {language: Tokenizer.fit(texts, 1, language) for language, texts in captions.items()}
    settings = {"regions": tiny_encoder.regions, "depth": tiny_encoder.depth, "units": 8}
    decoders = {"en": build_decoder("attention", len(tokenizers["en"]), **settings)}
    decoders["de"] = build_decoder("attention", len(tokenizers["de"]), shared=decoders["en"], **settings)
    random = np.random.default_rng(41)
    for decoder in decoders.values():
        decoder.set_weights([random.normal(0, 0.7, w.shape) for w in decoder.get_weights()])
    config = {"max_length": 5, "length_power": 0.7, "dataset": "none"}
    save_model(folder, tiny_encoder, decoders, tokenizers, {"loss": [1.0]}, config)
    return folder
