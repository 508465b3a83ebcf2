"""Save and load the Keras models of an artifacts folder."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path

import keras

from captioning import artifacts
from captioning.artifacts import EXPORTED, HISTORY, MANIFEST, REMEDY, ArtifactError
from captioning.network.decoder import Decoder
from captioning.network.encoder import Encoder
from captioning.network.multilingual import MultilingualDecoder
from captioning.text import Tokenizer, tokenizers_from_dict, tokenizers_to_dict


def save_model(
    folder: str | Path,
    encoder: Encoder,
    decoders: Mapping[str, Decoder],
    tokenizers: Mapping[str, Tokenizer],
    history: dict,
    config: dict,
) -> None:
    """Write all files that ship, except the exported models. The manifest comes last.

    Models exported from earlier weights are deleted. `captioning.network.export.export` makes new ones. The weights of
    the decoders are rounded to float16.

    Args:
        decoders, tokenizers: by language, for the same languages in the same order. The decoders share the layers of
            the first one.
        history: lists with one value per epoch.
        config: settings of the training (data set, minimum count, …). The settings of the model and the versions of the
            libraries are added.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    first = next(iter(decoders.values()))
    described = {
        "encoder": encoder.network,
        "image_size": encoder.image_size,
        "grid": list(encoder.grid),
        "depth": encoder.depth,
        "decoder": first.name,
        "vocabulary_size": sum(map(len, tokenizers.values())),
        "versions": {name: importlib.metadata.version(name) for name in ("keras", "tensorflow", "numpy")},
    }
    sizes = {language: len(tokenizer) for language, tokenizer in tokenizers.items()}
    settings = {name: value for name, value in first.settings.items() if name != "vocabulary_size"}
    half = MultilingualDecoder(first.name, sizes, settings, precision="float16")
    for language, decoder in decoders.items():
        half.decoders[language].set_weights(decoder.get_weights())
    new = folder / "new.weights.h5", folder / "new.keras"  # an interruption here leaves the old model
    encoder.save(new[0])
    keras.saving.save_model(half, new[1])
    for name in (MANIFEST, *EXPORTED):
        (folder / name).unlink(missing_ok=True)
    new[0].replace(folder / "encoder.weights.h5")
    new[1].replace(folder / "model.keras")
    artifacts.write_pickle(folder / "tokenizer.pkl", tokenizers_to_dict(tokenizers))
    artifacts.write_pickle(folder / HISTORY, history)
    artifacts.write_pickle(folder / "config.pkl", {**config, **described})
    artifacts.write_manifest(folder)


def load_model(folder: str | Path) -> tuple[Encoder, dict[str, Decoder], dict[str, Tokenizer], dict]:
    """Read the Keras models, the tokenizers and the config, for training, notebooks and export.

    Decoders and tokenizers are by language.

    Raises:
        ArtifactError: a file is missing, damaged or does not fit the others; the message names it.
    """
    folder = Path(folder)
    artifacts.check_manifest(folder, for_training=True)
    config = artifacts.read_pickle(folder / "config.pkl")
    path = folder / "tokenizer.pkl"
    try:
        tokenizers = tokenizers_from_dict(artifacts.read_pickle(path))
        path = folder / "model.keras"
        decoders = keras.saving.load_model(path, compile=False, safe_mode=True).decoders
        path = folder / "encoder.weights.h5"
        encoder = Encoder(config["encoder"], path, config["image_size"])
        path = folder / "config.pkl"
        sizes = {language: decoder.vocabulary_size for language, decoder in decoders.items()}
        regions = {decoder.regions for decoder in decoders.values()}
        if sizes != {language: len(t) for language, t in tokenizers.items()} or regions != {encoder.regions}:
            raise ValueError("encoder, decoder and vocabulary have different sizes")
        if missing := {"max_length", "length_power"} - set(config):
            raise ValueError(f"it has no {', '.join(sorted(missing))}")
    except ArtifactError:
        raise
    except Exception as error:  # Keras raises many kinds for a file that is not what it expects
        raise ArtifactError(f"{path} cannot be used ({error.__cause__ or error}): {REMEDY}") from None
    return encoder, decoders, tokenizers, config
