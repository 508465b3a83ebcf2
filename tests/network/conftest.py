import pytest


@pytest.fixture(scope="session")
def keras_folder(tiny_encoder, tmp_path_factory):
    """A whole, tiny, untrained model in English and German, not exported."""
    from captioning.network.decoder import build_decoder
    from captioning.network.saving import save_model
    from captioning.text import Tokenizer

    folder = tmp_path_factory.mktemp("keras")
    captions = {"en": ["a dog runs"], "de": ["ein Hund läuft weg"]}
    tokenizers = {language: Tokenizer.fit(texts, 1, language) for language, texts in captions.items()}
    settings = {"regions": tiny_encoder.regions, "depth": tiny_encoder.depth, "units": 8}
    decoders = {"en": build_decoder("attention", len(tokenizers["en"]), **settings)}
    decoders["de"] = build_decoder("attention", len(tokenizers["de"]), shared=decoders["en"], **settings)
    config = {"max_length": 5, "length_power": 0.7, "dataset": "none"}
    save_model(folder, tiny_encoder, decoders, tokenizers, {"loss": [1.0]}, config)
    return folder
