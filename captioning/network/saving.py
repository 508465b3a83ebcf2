"""Save and load the Keras models of an artifacts folder."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import keras

from captioning import artifacts
from captioning.artifacts import EXPORTED, HISTORY, MANIFEST, REMEDY, ArtifactError
from captioning.network.decoder import Decoder
from captioning.network.encoder import Encoder
from captioning.text import Tokenizer


def save_model(
    folder: str | Path, encoder: Encoder, decoder: Decoder, tokenizer: Tokenizer, history: dict, config: dict
) -> None:
    """Write all files that ship, except the exported models. The manifest comes last.

    Models exported from earlier weights are deleted. `captioning.network.export.export` makes new ones.

    Args:
        history: lists with one value per epoch.
        config: settings of the training (data set, minimum count, …). The settings of the model and the versions of the
            libraries are added.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (MANIFEST, *EXPORTED):
        (folder / name).unlink(missing_ok=True)
    artifacts.write_pickle(folder / "tokenizer.pkl", tokenizer.to_dict())
    artifacts.write_pickle(folder / HISTORY, history)
    described = {
        "encoder": encoder.network,
        "image_size": encoder.image_size,
        "grid": list(encoder.grid),
        "depth": encoder.depth,
        "decoder": decoder.name,
        "vocabulary_size": len(tokenizer),
        "versions": {name: importlib.metadata.version(name) for name in ("keras", "tensorflow", "numpy")},
    }
    artifacts.write_pickle(folder / "config.pkl", {**config, **described})
    encoder.save(folder / "encoder.weights.h5")
    keras.saving.save_model(decoder, folder / "model.keras")
    artifacts.write_manifest(folder)


def load_model(folder: str | Path) -> tuple[Encoder, Decoder, Tokenizer, dict]:
    """Read the Keras models, the tokenizer and the config, for training, notebooks and export.

    Raises:
        ArtifactError: a file is missing, damaged or does not fit the others; the message names it.
    """
    folder = Path(folder)
    artifacts.check_manifest(folder, for_training=True)
    config = artifacts.read_pickle(folder / "config.pkl")
    path = folder / "tokenizer.pkl"
    try:
        tokenizer = Tokenizer.from_dict(artifacts.read_pickle(path))
        path = folder / "model.keras"
        decoder = keras.saving.load_model(path, compile=False, safe_mode=True)
        path = folder / "encoder.weights.h5"
        encoder = Encoder(config["encoder"], path, config["image_size"])
        path = folder / "config.pkl"
        if len(tokenizer) != decoder.vocabulary_size or encoder.regions != decoder.regions:
            raise ValueError("encoder, decoder and vocabulary have different sizes")
        config["max_length"], config["length_power"]
    except ArtifactError:
        raise
    except Exception as error:  # Keras raises many kinds for a file that is not what it expects
        raise ArtifactError(f"{path} cannot be used ({error}): {REMEDY}") from None
    return encoder, decoder, tokenizer, config
