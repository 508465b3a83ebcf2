"""The decoders of all languages of a model in one Keras model."""

from __future__ import annotations

import keras

from captioning.network.decoder import PACKAGE, Decoder, build_decoder


@keras.saving.register_keras_serializable(PACKAGE)
class MultilingualDecoder(keras.Model):
    """A decoder for each language, as ``model.keras`` holds them. All of them share the layers of the first one, except
    embedding, output layer, word bias and word prior.

    Args:
        decoder: a key of `DECODERS`.
        vocabulary_sizes: language → V.
        settings: the other arguments of `build_decoder`.

    Attributes:
        decoders: language → `Decoder`.
    """

    def __init__(self, decoder, vocabulary_sizes, settings, precision="float32", **kwargs):
        super().__init__(**kwargs)
        self.config = {"decoder": decoder, "vocabulary_sizes": vocabulary_sizes, "settings": settings}
        decoders: dict[str, Decoder] = {}
        for language, size in vocabulary_sizes.items():
            shared = next(iter(decoders.values()), None)
            decoders[language] = build_decoder(
                decoder, size, precision=precision, **settings | ({"shared": shared} if shared else {})
            )
        self.decoders = decoders
        self.built = True

    def get_config(self):
        return {"name": self.name, **self.config}
