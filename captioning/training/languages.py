"""Captions in a further language, by a decoder that shares the trained layers of the first one.

python -m captioning.training.languages data/flickr8k artifacts

adds each language that the data set has captions in, and the model has not, to the model in an artifacts folder. The
captions in its other languages stay as they are.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from captioning import artifacts
from captioning.generator import Caption, CaptionGenerator
from captioning.languages import LANGUAGES
from captioning.network.decoder import Decoder, build_decoder
from captioning.network.export import export
from captioning.network.saving import load_model, save_model
from captioning.text import Tokenizer
from captioning.training.datasets import (
    DatasetError,
    has_several_captions,
    load_dataset,
    trained_splits,
    translated_splits,
)
from captioning.training.evaluation import agreement
from captioning.training.features import Features, extract_features
from captioning.training.log import joined
from captioning.training.self_critical import SelfCriticalTraining
from captioning.training.teacher_forcing import Captions, OnEpoch, Training
from captioning.training.word_prior import add_word_prior
from captioning.training.workers import ONE, Workers


class Schedule(NamedTuple):
    """Epochs of the two stages, and photos per step."""

    epochs: int
    self_critical_epochs: int
    batch_size: int


SEVERAL_CAPTIONS = Schedule(5, 1, 20)  # per photo
ONE_CAPTION = Schedule(6, 0, 25)

PHOTOS_FOR_A_SLOPE = 30  # a line through fewer points follows their noise

History = dict[str, list[float]]


def usable(splits: Mapping[str, Captions]) -> bool:
    """Whether there are captions to train and to validate with."""
    return bool(splits["train"] and splits["validation"])


def train_language(
    first: Decoder,
    language: str,
    train: Captions,
    validation: Captions,
    features: Features,
    views: Sequence[Features],
    folder: Path,
    schedule: Schedule | None = None,
    minimum_count: int = 5,
    seed: int = 0,
    on_epoch: OnEpoch | None = None,
    workers: Workers = ONE,
) -> tuple[Decoder, Tokenizer, dict[str, History]]:
    """Train a decoder for another language: teacher forcing, self-critical training, word prior, length.

    The layers that it shares with the first decoder are not trained, so that captions in the first language stay the
    same. It learns an embedding, an output layer and a word bias of its own.

    Args:
        first: the trained decoder of the model's first language.
        language: a key of `LANGUAGES`.
        train, validation: image name → captions in this language.
        features, views, workers: as for `Training`.
        folder: for checkpoints; an interrupted run continues.
        seed: of the first weights, the batches and the samples.
        schedule: None: `SEVERAL_CAPTIONS`, or where photos have a single caption, `ONE_CAPTION`.
        minimum_count: rarer words are not in the vocabulary; at most 3 for fewer than 20,000 captions.

    Returns the decoder, its tokenizer, and stage → history.
    """
    texts = [text for captions in train.values() for text in captions]
    schedule = schedule or (SEVERAL_CAPTIONS if has_several_captions(train) else ONE_CAPTION)
    tokenizer = Tokenizer.fit(texts, minimum_count if len(texts) >= 20_000 else min(minimum_count, 3), language)
    settings = first.settings | {"vocabulary_size": len(tokenizer), "dropout": 0.3, "input_dropout": 0.2}
    decoder = build_decoder(first.name, shared=first, precision=first.dtype_policy.name, seed=seed, **settings)
    own = {id(variable) for variable in decoder.variables} - {id(variable) for variable in first.variables}
    for layer in decoder.layers:
        layer.trainable = layer.trainable and all(id(variable) in own for variable in layer.variables)
    history = {}
    stages = (
        ("decoder", Training, 2e-3, schedule.epochs),
        ("self-critical", SelfCriticalTraining, 1e-4, schedule.self_critical_epochs),
    )
    for stage, kind, learning_rate, epochs in stages:
        if epochs:
            training: Training = kind(
                decoder,
                tokenizer,
                train,
                validation,
                folder=folder / stage,
                epochs=epochs,
                features=features,
                views=views,
                learning_rate=learning_rate,
                batch_size=schedule.batch_size,
                seed=seed,
                workers=workers,
            )
            history[f"{language} {stage}"] = training.run(on_epoch)
    add_word_prior(decoder, tokenizer, features, train, validation)
    return decoder, tokenizer, history


def halves(validation: Iterable[str]) -> tuple[list[str], list[str]]:
    """The validation photos that the confidence is fitted on, and those to check it with: every second one."""
    names = list(validation)
    return names[::2], names[1::2] or names


def fit_confidence(
    generator: CaptionGenerator, features: Features, train: Captions, validation: Captions, language: str
) -> list[float]:
    """Slope and offset of the line from the mean word probability of a caption to its confidence.

    The mean is the geometric one, and function words count less (`FUNCTION_WORD_WEIGHT`).

    It is fitted to the `agreement` of captions with those of people, on half of the validation photos (see `halves`).
    With fewer than `PHOTOS_FOR_A_SLOPE` of them, or if the slope is not positive, the confidence is the mean agreement
    for any caption.
    """
    half, _ = halves(validation)
    found: dict[str, Caption] = {}
    for start in range(0, len(half), 50):
        names = half[start : start + 50]
        found.update(zip(names, generator.search(features.batch(names), language=language), strict=True))
    texts = {name: caption.text for name, caption in found.items()}
    agreed = list(agreement(texts, {name: validation[name] for name in found}, train, language).values())
    if len(agreed) >= PHOTOS_FOR_A_SLOPE:
        slope, offset = np.polyfit([caption.confidence for caption in found.values()], agreed, 1).tolist()
        if slope > 0:
            return [slope, offset]
    return [0.0, float(np.mean(agreed))]


def write_confidence(
    folder: Path, features: Features, splits: Mapping[str, Mapping[str, Captions]]
) -> dict[str, list[float]]:
    """Fit the confidence of languages of an exported model and write it to ``config.pkl`` and the manifest.

    Args:
        splits: language → ``"train"`` and ``"validation"`` → captions. Other languages keep their confidence.
    """
    generator = CaptionGenerator.load(folder)
    others = generator.config.pop("confidence", {})  # without it, the confidence is the mean word probability
    lines = {
        language: fit_confidence(generator, features, s["train"], s["validation"], language)
        for language, s in splits.items()
    }
    artifacts.write_pickle(folder / "config.pkl", generator.config | {"confidence": others | lines})
    artifacts.write_manifest(folder)
    return lines


def add_languages(dataset_folder: str | Path, folder: str | Path) -> list[str]:
    """Add the languages of a data set to a model that was trained on it; returns those that are new.

    Raises:
        DatasetError: the folder holds no data set.
        ArtifactError: the model cannot be loaded.
    """
    folder = Path(folder)
    encoder, decoders, tokenizers, config = load_model(folder)
    if missing := {"dataset", "seed", "minimum_count"} - set(config):
        raise artifacts.ArtifactError(f"{folder / 'config.pkl'} has no {', '.join(sorted(missing))}")
    dataset = load_dataset(dataset_folder, config["seed"])
    print(dataset.summary(), flush=True)
    english = trained_splits(dataset, folder, config["dataset"])
    images = {split: {n: dataset.image_paths[n] for n in english[split]} for split in ("train", "validation")}
    known = config.get("confidence", {})  # written last
    new = [code for code, splits in translated_splits(dataset, images).items() if code not in known and usable(splits)]
    if not new:
        return []
    work = folder / "training"
    features = extract_features(encoder, images["train"] | images["validation"], work / "features.pkl")
    views = [extract_features(encoder, images["train"], work / "view-1.pkl", view=1)]
    splits = translated_splits(dataset, {s: [n for n in names if n in features] for s, names in images.items()})
    history = artifacts.read_pickle(folder / artifacts.HISTORY)
    for language in new:
        print(f"{LANGUAGES[language].name}:", flush=True)
        train, validation = splits[language]["train"], splits[language]["validation"]
        decoders[language], tokenizers[language], stages = train_language(
            next(iter(decoders.values())), language, train, validation, features, views, work / language,
            minimum_count=config["minimum_count"], seed=config["seed"],
            on_epoch=lambda epoch, values, _: print(epoch + 1, {k: round(v, 2) for k, v in values.items()}, flush=True),
        )  # fmt: skip
        if so_far := history.get("stage"):
            added = joined(stages)  # in place of what an interrupted addition recorded
            history = {
                key: [value for value, stage in zip(values, so_far, strict=True) if stage not in stages] + added[key]
                for key, values in history.items()
                if key in added
            }
    save_model(folder, encoder, decoders, tokenizers, history, config)
    export(folder)
    write_confidence(folder, features, {language: splits[language] for language in new})
    return new


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Add the languages of a data set to a trained model.")
    parser.add_argument("dataset", help="the folder of the data set that the model was trained on")
    parser.add_argument("artifacts", help="the folder of the model, which is changed")
    options = parser.parse_args(arguments)
    try:
        new = add_languages(options.dataset, options.artifacts)
    except (DatasetError, artifacts.ArtifactError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped. Run it again: finished epochs are kept", file=sys.stderr)
        return 130
    if new:
        print("Added: " + ", ".join(new))
    else:
        print("No language added: the model has every language in which training and validation photos have captions.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
