import pytest

from captioning.network.decoder import build_decoder
from captioning.network.saving import save_model
from captioning.text import Tokenizer


@pytest.fixture(scope="session")
def keras_folder(tiny_encoder, tmp_path_factory):
    """A whole, tiny, untrained model, not exported."""
    folder = tmp_path_factory.mktemp("keras")
    tokenizer = Tokenizer.fit(["a dog runs"], 1)
    decoder = build_decoder("attention", len(tokenizer), tiny_encoder.regions, tiny_encoder.depth, units=8)
    config = {"max_length": 5, "length_power": 0.7, "dataset": "none"}
    save_model(folder, tiny_encoder, decoder, tokenizer, {"loss": [1.0]}, config)
    return folder
