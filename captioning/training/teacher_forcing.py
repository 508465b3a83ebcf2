"""Training by teacher forcing, of the decoder alone or with the encoder, and distillation.

`Training` is also the loop of self-critical training (`captioning.training.self_critical`).
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import ops
from tqdm import tqdm

from captioning import artifacts
from captioning.generator import DEFAULT_BEAM_WIDTH
from captioning.network.backend import compiled
from captioning.network.decoder import Decoder
from captioning.network.encoder import Encoder
from captioning.network.search import MAX_LENGTH, make_search, max_beam_width
from captioning.text import Tokenizer
from captioning.training.augmentation import crop
from captioning.training.evaluation import cider
from captioning.training.features import Features, checksum, file_sizes, sample_sum, sizes_checksum
from captioning.training.reading import read_batches
from captioning.training.workers import ONE, Workers

Captions = Mapping[str, list[str]]  # image name → captions
OnEpoch = Callable[[int, dict[str, float], dict[str, str]], None]
VALUES = ("loss", "val_loss", "val_CIDEr", "seconds")  # of an epoch


def caption_batches(
    captions: Captions, tokenizer: Tokenizer, batch_size: int, seed: int, epoch: int
) -> list[tuple[list[str], np.ndarray]]:
    """One epoch of (image names, tokens int32 (B, C, T + 1)), shuffled by ``seed`` and ``epoch``.

    A batch holds images with captions of similar length, and T is a multiple of four or MAX_LENGTH + 1. So there is
    little padding, and few shapes are compiled. C is the most captions that an image has, at most five. An image with
    fewer repeats some.
    """
    captions_per_image = min(5, max(map(len, captions.values())))
    random = np.random.default_rng([seed, epoch])
    names = list(captions)
    random.shuffle(names)
    chosen = {n: [captions[n][i % len(captions[n])] for i in range(captions_per_image)] for n in names}
    encoded = {n: [tokenizer.encode(c) for c in chosen[n]] for n in names}
    longest = {n: max(map(len, encoded[n])) for n in names}
    batches = []
    for start in range(0, len(names), 10 * batch_size):
        alike = sorted(names[start : start + 10 * batch_size], key=longest.__getitem__)
        batches += [alike[i : i + batch_size] for i in range(0, len(alike), batch_size)]
    random.shuffle(batches)
    result = []
    for batch in batches:
        length = min(-(-(longest[batch[-1]] - 1) // 4) * 4, MAX_LENGTH + 1) + 1
        flat = [c for n in batch for c in chosen[n]]
        tokens = tokenizer.encode_batch(flat, length).reshape(len(batch), captions_per_image, length)
        result.append((batch, tokens))
    return result


def caption_loss(logits, targets, weights, label_smoothing: float = 0.0):
    """Cross-entropy with label smoothing, weighted token by token.

    Args:
        logits: (…, V); targets: (…) int; weights: (…) float, 0 for padding.

    Returns the sum over all tokens divided by the number of tokens whose weight is not 0.
    """
    target = ops.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    expected = (1 - label_smoothing) * target + label_smoothing * ops.mean(logits, axis=-1)
    loss = ops.logsumexp(logits, axis=-1) - expected
    return ops.sum(loss * weights) / ops.maximum(ops.sum(ops.cast(weights != 0, "float32")), 1.0)


class Training:
    """One training run that can be interrupted and resumed.

    Args:
        decoder, tokenizer: what is trained, and how captions become ids.
        train, validation: image name → captions.
        folder: for checkpoints and the log. A run continues after the last finished epoch in this folder, if settings,
            captions, photos (their names and sizes), features and first weights are the same. Otherwise it starts from
            the beginning, and the old files go to ``FOLDER-before-1``, ``-2`` and so on.
        features: image name → (R, D) of every image, for training on features; or None.
        views: features of augmented training images. At each step an image is one of these or the original.
        encoder, image_paths: to fine-tune the encoder too, on pictures that are cropped and mirrored at random.
        learning_rate, encoder_learning_rate: Adam's; after a warm-up they follow a cosine down to 0.
        seed: of the order of the batches and of the crops.
        workers: from `captioning.training.workers.connect`. Each takes a part of every batch; worker 0's weights and
            checkpoints count. Dropout, crops and samples depend on the number of workers, all else does not.

    After `run`, decoder (and encoder) have the weights of the epoch with the best validation CIDEr.

    Raises:
        ValueError: there is no epoch, or no caption to train or to validate with.
    """

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: Tokenizer,
        train: Captions,
        validation: Captions,
        folder: Path,
        epochs: int,
        features: Features | None = None,
        encoder: Encoder | None = None,
        image_paths: Mapping[str, Path] | None = None,
        views: Sequence[Features] = (),
        learning_rate: float = 6e-4,
        encoder_learning_rate: float = 1e-4,
        batch_size: int = 20,
        label_smoothing: float = 0.1,
        seed: int = 0,
        workers: Workers = ONE,
    ):
        if epochs < 1:
            raise ValueError(f"a stage needs at least one epoch, not {epochs}")
        if not train or not validation:
            raise ValueError("training needs photos with captions in the training and in the validation split")
        self.workers = workers
        self.decoder, self.tokenizer, self.encoder = decoder, tokenizer, encoder
        self.train, self.validation = train, validation
        self.features: Mapping[str, np.ndarray] = features or {}
        self.views, self.image_paths = (features, *views), image_paths or {}
        self.epochs, self.batch_size, self.label_smoothing, self.seed = epochs, batch_size, label_smoothing, seed
        self.folder = Path(folder)
        self.settings = {
            "captions": zlib.crc32(repr((train, validation, tokenizer.word_index)).encode()),
            "epochs": epochs,
            "batch_size": batch_size,
            "label_smoothing": label_smoothing,
            "seed": seed,
            "learning_rate": learning_rate,
            "max_length": MAX_LENGTH,
            "features": [[sample_sum(view, train), view.sizes] for view in (features, *views)] if features else None,
            "decoder": [decoder.get_config(), decoder.dtype_policy.name, checksum(decoder), decoder.count_params()],
            "encoder": None,
        }
        if encoder:
            sizes = file_sizes({name: self.image_paths[name] for name in (*train, *validation)})
            self.settings["encoder"] = [encoder_learning_rate, checksum(encoder), sizes_checksum(sizes)]
        self.steps = -(-len(train) // batch_size)
        self.search = make_search(decoder, tokenizer)

        def adam(rate, model):
            warmup = min(100, self.steps)
            decay = max(1, epochs * self.steps - warmup)
            schedule = keras.optimizers.schedules.CosineDecay(rate / 10, decay, warmup_target=rate, warmup_steps=warmup)
            optimizer = keras.optimizers.Adam(schedule, global_clipnorm=5.0)
            optimizer.build(model.trainable_variables)
            return optimizer

        self.models = [(decoder, adam(learning_rate, decoder))]
        if encoder:
            self.models.append((encoder, adam(encoder_learning_rate, encoder)))
            self._encode = compiled(lambda images: encoder(images))
        self._step = compiled(self._train_step)
        self._predict = compiled(lambda features, tokens: self.decoder([features, tokens]))
        self._checkpoint = tf.train.Checkpoint(
            **{f"model{i}": m for i, (m, _) in enumerate(self.models)},
            **{f"optimizer{i}": o for i, (_, o) in enumerate(self.models)},
        )

    def _train_step(self, images, tokens, weights):
        with tf.GradientTape() as tape:
            features = self.encoder(images) if self.encoder else images
            loss = self._loss(features, tokens, weights)
        variables = [model.trainable_variables for model, _ in self.models]
        gradients = tape.gradient(loss, variables)
        if self.workers.count > 1:
            predicted = ops.sum(ops.cast(weights != 0, "float32"))
            loss, *flat = self.workers.mean([loss, *tf.nest.flatten(gradients)], predicted)
            gradients = tf.nest.pack_sequence_as(variables, flat)
        for (_, optimizer), own_gradients, own in zip(self.models, gradients, variables, strict=True):
            optimizer.apply(own_gradients, own)
        return loss

    def _loss(self, features, tokens, weights):
        """The loss of a step: here, the cross-entropy of teacher forcing."""
        logits = self.decoder([features, tokens[..., :-1]], training=True)
        return caption_loss(logits, tokens[..., 1:], weights, self.label_smoothing)

    def batches(self, epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Images or features, tokens (B, C, T + 1) and weights (B, C, T) of one epoch: this worker's part."""
        batches = caption_batches(self.train, self.tokenizer, self.batch_size, self.seed, epoch)
        random = np.random.default_rng([self.seed, epoch, 1])
        if self.encoder:
            order = {
                names[i]: self.image_paths[names[i]] for names, _ in batches for i in self.workers.rows(len(names))
            }
            stream = read_batches(order, self.encoder.image_size, self.batch_size)
            pictures: dict[str, np.ndarray] = {}
        for names, tokens in batches:
            rows = self.workers.rows(len(names))
            if self.encoder:
                while names[rows[-1]] not in pictures:  # the stream's batches and these differ in size
                    read, images, failed = next(stream)
                    if failed:
                        raise ValueError(f"a training picture cannot be read: {failed}")
                    pictures.update(zip(read, images, strict=True))
                inputs = np.stack([crop(pictures.pop(names[i]), random) for i in rows])
            else:
                inputs = self._choose_views(names, random)
            yield inputs, tokens[rows], self._mask(tokens[rows]) * self._has_part(names)

    def _choose_views(self, names: list[str], random: np.random.Generator) -> np.ndarray:
        """Features (B, R, D) of this worker's images in a batch, each of a random view."""
        chosen = random.integers(len(self.views), size=len(names))
        return np.stack([self.views[chosen[i]][names[i]] for i in self.workers.rows(len(names))])

    def _mask(self, tokens: np.ndarray) -> np.ndarray:
        """1 for each token to predict, 0 for padding: float32 (B, C, T)."""
        return (tokens[..., 1:] != self.tokenizer.pad).astype("float32")

    def _has_part(self, names: list[str]) -> bool:
        """Whether a batch has images for this worker. The last one may be too small."""
        return self.workers.index < len(names)

    def validate(self) -> tuple[dict[str, float], dict[str, str]]:
        """Cross-entropy per word on the validation captions, and CIDEr of captions with the default beam width.

        Returns these two by their names in `VALUES`, and the captions: image name → caption.
        """
        total, count = 0.0, 0.0
        captions: dict[str, str] = {}
        beam_width = min(DEFAULT_BEAM_WIDTH, max_beam_width(self.decoder))
        for names, features in self._validation_features(max(1, 50 // self.batch_size) * self.batch_size):
            found = self.search(features, beam_width)
            captions.update((n, self.tokenizer.decode(t[0])) for n, t in zip(names, found.tokens, strict=True))
            of_name = dict(zip(names, features, strict=True))
            some = {name: self.validation[name] for name in names}
            for batch, tokens in caption_batches(some, self.tokenizer, self.batch_size, 0, 0):
                logits = self._predict(np.stack([of_name[n] for n in batch]), tokens[..., :-1])
                mask = self._mask(tokens)
                total += float(caption_loss(logits, tokens[..., 1:], mask)) * mask.sum()
                count += mask.sum()
        score = cider(captions, self.validation, self.tokenizer.language)
        return {"val_loss": float(total / count), "val_CIDEr": score}, captions

    def _validation_features(self, size: int) -> Iterator[tuple[list[str], np.ndarray]]:
        """The validation images in batches: names and features (B, R, D)."""
        if self.encoder:
            paths = {n: self.image_paths[n] for n in self.validation}
            for names, images, failed in read_batches(paths, self.encoder.image_size, size):
                if failed:
                    raise ValueError(f"a validation picture cannot be read: {failed}")
                yield names, ops.convert_to_numpy(self._encode(images)).astype("float16")
        else:
            names = list(self.validation)
            for start in range(0, len(names), size):
                batch = names[start : start + size]
                yield batch, np.stack([self.features[n] for n in batch])

    def run(self, on_epoch: OnEpoch | None = None) -> dict[str, list[float]]:
        """Train to the end, from the last checkpoint if there is one. Returns lists with one value per epoch.

        Args:
            on_epoch: called after each epoch with its number (from 0), its `VALUES`, and the captions of the
                validation images: image name → caption.

        Raises:
            WorkerError: a worker was lost, or has other settings.
        """
        with self.workers.together():
            return self._run(on_epoch)

    def _run(self, on_epoch: OnEpoch | None) -> dict[str, list[float]]:
        log = self.folder / "log.json"
        history: dict[str, list[float]] = {}
        if log.exists() and self.workers.index == 0:
            found = json.loads(log.read_text())
            different = [key for key, value in self.settings.items() if found["settings"].get(key) != value]
            if different:
                print(
                    f"{self.folder}: {', '.join(different)} changed, so this stage starts again. "
                    f"After the first epoch, its old files are in {self._old_folder()}"
                )
            else:
                history = found["history"]
                self._checkpoint.read(self._checkpoint_path(len(history["loss"]))).expect_partial()
        history = self._follow_first_worker(history)
        done = len(history.get("loss", []))
        for epoch in range(done, self.epochs):
            start, losses = time.perf_counter(), []
            self._seed_dropout(epoch)
            with tqdm(self.batches(epoch), total=self.steps, desc=f"epoch {epoch + 1}/{self.epochs}") as bar:
                for images, tokens, weights in bar:
                    losses.append(float(self._step(images, tokens, weights)))
                    bar.set_postfix(loss=f"{np.mean(losses[-50:]):.3f}", refresh=False)
            scores, captions = self.validate()
            values = {"loss": float(np.mean(losses)), **scores, "seconds": time.perf_counter() - start}
            for key, value in values.items():
                history.setdefault(key, []).append(value)
            if self.workers.index == 0:
                self._save(history, log)
            if on_epoch:
                on_epoch(epoch, values, captions)
        if self.workers.index == 0:
            for i, (model, _) in enumerate(self.models):
                model.load_weights(self.folder / f"best{i}.weights.h5")
        if self.workers.count > 1:
            for model, _ in self.models:
                model.set_weights(self.workers.broadcast(model.get_weights()))
        return history

    def _save(self, history: dict[str, list[float]], log: Path) -> None:
        """Checkpoint, best weights and log after an epoch."""
        scores = history["val_CIDEr"]
        if len(scores) == 1 and log.exists():  # with other settings
            self.folder.rename(self._old_folder())
        self._checkpoint.write(self._checkpoint_path(len(scores)))
        if scores[-1] >= max(scores):  # CIDEr of a single photo is always 0: the last epoch counts
            for i, (model, _) in enumerate(self.models):
                model.save_weights(self.folder / "new.weights.h5")
                (self.folder / "new.weights.h5").replace(self.folder / f"best{i}.weights.h5")
        artifacts.write_bytes(log, json.dumps({"settings": self.settings, "history": history}, indent=1).encode())

    def _old_folder(self) -> Path:
        """Where the files of this stage with other settings go."""
        number = 1
        while (old := self.folder.with_name(f"{self.folder.name}-before-{number}")).exists():
            number += 1
        return old

    def _follow_first_worker(self, history: dict[str, list[float]]) -> dict[str, list[float]]:
        """Take weights, optimizers and history from worker 0."""
        if self.workers.count == 1:
            return history
        own = ("decoder", "encoder", "teacher", "features")
        settings = {k: v for k, v in self.settings.items() if k not in own}
        text = repr((settings, self.decoder.count_params()))
        self.workers.check_same(zlib.crc32(text.encode()), "settings and captions")
        variables = [v for model, optimizer in self.models for v in (*model.weights, *optimizer.variables)]
        values = self.workers.broadcast([ops.convert_to_numpy(v) for v in variables])
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        (done,) = self.workers.broadcast([np.array(len(history.get("loss", [])))])
        table = np.array(list(history.values()) or np.zeros((len(VALUES), done)))
        return dict(zip(VALUES, self.workers.broadcast([table])[0].tolist(), strict=True)) if done else {}

    def _seed_dropout(self, epoch: int) -> None:
        """Dropout depends on seed, epoch and worker only, so that a resumed run does not differ from a whole one."""
        random = np.random.default_rng([self.seed, epoch, 2])
        for model, _ in self.models:
            for layer in model._flatten_layers():
                if isinstance(layer, keras.layers.Dropout) and layer.rate:
                    seeds = random.integers(2**32, size=2, dtype="uint32")
                    layer.seed_generator.state.assign(seeds + np.uint32(self.workers.index))

    def _checkpoint_path(self, epochs: int) -> str:
        """One of two files in turn, so that the log always names a complete one."""
        return str(self.folder / f"checkpoint-{epochs % 2}")


class Distillation(Training):
    """Train a decoder to predict the word probabilities of a teacher under teacher forcing (Hinton et al., 2015,
    arXiv:1503.02531).

    Args: ``teacher``, a decoder of the same vocabulary; the others as for `Training`.
    """

    def __init__(self, teacher: Decoder, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.settings |= {"teacher": checksum(teacher)}
        self.teacher = teacher

    def _loss(self, features, tokens, weights):
        target = ops.log_softmax(self.teacher([features, tokens[..., :-1]]))
        predicted = ops.log_softmax(self.decoder([features, tokens[..., :-1]], training=True))
        divergence = ops.sum(ops.exp(target) * (target - predicted), axis=-1)
        return ops.sum(divergence * weights) / ops.maximum(ops.sum(weights), 1.0)
