"""Training: teacher forcing, encoder fine-tuning, distillation, self-critical training; one loop for all of them.

After it, `match_length` sets how long captions are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import ops
from tqdm import tqdm

from captioning import artifacts
from captioning.backend import compiled
from captioning.decoder import Decoder
from captioning.encoder import Encoder, Features, checksum, read_batches
from captioning.evaluation import CaptionReward, cider
from captioning.images import distort
from captioning.search import MAX_LENGTH, make_sampler, make_search, sayable
from captioning.text import Tokenizer

Captions = Mapping[str, list[str]]  # image name → captions


def caption_batches(captions: Captions, tokenizer: Tokenizer, batch_size: int, seed: int, epoch: int,
                    captions_per_image: int = 5) -> list[tuple[list[str], np.ndarray]]:
    """One epoch of (image names, tokens int32 (B, C, T + 1)), shuffled by ``seed`` and ``epoch``.

    Images whose captions are of like length come together, and T is rounded
    up to a multiple of four, so that little of a batch is padding and few
    shapes are compiled. An image with fewer captions repeats some.
    """
    random = np.random.default_rng([seed, epoch])
    names = list(captions)
    random.shuffle(names)
    chosen = {n: [captions[n][i % len(captions[n])] for i in range(captions_per_image)] for n in names}
    encoded = {n: [tokenizer.encode(c) for c in chosen[n]] for n in names}
    longest = {n: max(map(len, encoded[n])) for n in names}
    batches = []
    for start in range(0, len(names), 10 * batch_size):
        alike = sorted(names[start : start + 10 * batch_size], key=longest.get)
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
        features: image name → (R, D) of every image, for training on features; or None.
        views: features of distorted training images; each time an image comes, it is one of these or the whole one.
        folder: checkpoints and the log live here. A run goes on from the last
            finished epoch it finds in it, if that was of the same settings and
            started from the same weights; otherwise it starts anew.
        encoder, image_paths: to fine-tune the encoder too, on distorted pictures.
        learning_rate, encoder_learning_rate: Adam's, falling to 0 by a cosine over ``epochs``.
        seed: of the order of the batches and of the distortions.

    After `run`, decoder (and encoder) hold the weights of the epoch with the
    best validation CIDEr. ``captions`` are what was last said of the
    validation photos.
    """

    def __init__(self, decoder: Decoder, tokenizer: Tokenizer, train: Captions, validation: Captions,
                 folder: Path, epochs: int, features: Features | None = None, encoder: Encoder | None = None,
                 image_paths: Mapping[str, Path] | None = None, views: Sequence[Features] = (), learning_rate: float = 6e-4,
                 encoder_learning_rate: float = 5e-5, batch_size: int = 40, label_smoothing: float = 0.1, seed: int = 0):
        self.decoder, self.tokenizer, self.encoder = decoder, tokenizer, encoder
        self.train, self.validation = train, validation
        self.captions: dict[str, str] = {}
        self.features, self.views, self.image_paths = features, (features, *views), image_paths
        self.epochs, self.batch_size, self.label_smoothing, self.seed = epochs, batch_size, label_smoothing, seed
        self.folder = Path(folder)
        self.settings = {
            "images": len(train), "epochs": epochs, "batch_size": batch_size, "label_smoothing": label_smoothing,
            "seed": seed, "learning_rate": learning_rate, "views": len(views),
            "decoder": [checksum(decoder), decoder.count_params()],
            "encoder": [encoder_learning_rate, checksum(encoder)] if encoder else None,
        }
        self.steps = -(-len(train) // batch_size)
        self.search = make_search(decoder, tokenizer)

        def adam(rate, model):
            schedule = keras.optimizers.schedules.CosineDecay(
                rate / 10, epochs * self.steps, warmup_target=rate, warmup_steps=min(100, self.steps)
            )
            optimizer = keras.optimizers.Adam(schedule, global_clipnorm=5.0)
            optimizer.build(model.trainable_variables)
            return optimizer

        self.models = [(decoder, adam(learning_rate, decoder))]
        if encoder:
            self.models.append((encoder, adam(encoder_learning_rate, encoder)))
        self._step = compiled(self._train_step)
        self._encode = compiled(lambda images: self.encoder(images))  # `Encoder.encode` would keep the first weights
        self._predict = compiled(lambda features, tokens: self.decoder([features, tokens]))
        self._checkpoint = tf.train.Checkpoint(**{f"model{i}": m for i, (m, _) in enumerate(self.models)},
                                               **{f"optimizer{i}": o for i, (_, o) in enumerate(self.models)})

    def _train_step(self, images, tokens, weights):
        with tf.GradientTape() as tape:
            features = self.encoder(images) if self.encoder else images
            loss = self._loss(features, tokens, weights)
        variables = [model.trainable_variables for model, _ in self.models]
        for (_, optimizer), gradients, own in zip(self.models, tape.gradient(loss, variables), variables):
            optimizer.apply(gradients, own)
        return loss

    def _loss(self, features, tokens, weights):
        """What a step makes smaller: here, the cross-entropy of teacher forcing."""
        logits = self.decoder([features, tokens[..., :-1]], training=True)
        return caption_loss(logits, tokens[..., 1:], weights, self.label_smoothing)

    def batches(self, epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Images or features, tokens (B, C, T + 1) and weights (B, C, T) of one epoch."""
        batches = caption_batches(self.train, self.tokenizer, self.batch_size, self.seed, epoch)
        random = np.random.default_rng([self.seed, epoch, 1])
        if self.encoder:
            order = {n: self.image_paths[n] for names, _ in batches for n in names}
            stream, pictures = read_batches(order, self.encoder.image_size, self.batch_size), {}
        for names, tokens in batches:
            if self.encoder:
                while names[-1] not in pictures:  # one batch, anywhere, is shorter than what comes of the stream
                    read, images, failed = next(stream)
                    if failed:
                        raise ValueError(f"a training picture cannot be read: {failed}")
                    pictures.update(zip(read, images))
                inputs = np.stack([distort(pictures.pop(name), random) for name in names])
            else:
                inputs = self._look(names, random)
            yield inputs, tokens, self._mask(tokens)

    def _look(self, names: list[str], random: np.random.Generator) -> np.ndarray:
        """Features (B, R, D) of training images, each of a view that chance picks."""
        return np.stack([self.views[v][name] for v, name in zip(random.integers(len(self.views), size=len(names)), names)])

    def _mask(self, tokens: np.ndarray) -> np.ndarray:
        """1 for each token to predict, 0 for padding: float32 (B, C, T)."""
        return (tokens[..., 1:] != self.tokenizer.pad).astype("float32")

    def validate(self) -> dict[str, float]:
        """Cross-entropy a word on the validation captions, and CIDEr of greedy captions."""
        if self.encoder:
            features = {}
            paths = {n: self.image_paths[n] for n in self.validation}
            for names, images, _ in read_batches(paths, self.encoder.image_size, 50):
                features.update(zip(names, ops.convert_to_numpy(self._encode(images)).astype("float16")))
        else:
            features = self.features
        losses = []
        for names, tokens in caption_batches(self.validation, self.tokenizer, self.batch_size, 0, 0):
            logits = self._predict(np.stack([features[n] for n in names]), tokens[..., :-1])
            losses.append(float(caption_loss(logits, tokens[..., 1:], self._mask(tokens))))
        names = list(self.validation)
        for start in range(0, len(names), 50):
            batch = names[start : start + 50]
            found = self.search(np.stack([features[n] for n in batch]), 1)
            self.captions.update((n, self.tokenizer.decode(t[0])) for n, t in zip(batch, found.tokens))
        return {"val_loss": float(np.mean(losses)), "val_CIDEr": cider(self.captions, self.validation)}

    def run(self, on_epoch: Callable[[int, dict], None] | None = None) -> dict[str, list[float]]:
        """Train to the end, from wherever it stopped; returns the history, one value an epoch a key."""
        log = self.folder / "log.json"
        history: dict[str, list[float]] = {}
        if log.exists():
            found = json.loads(log.read_text())
            if found["settings"] == self.settings:
                history = found["history"]
                self._checkpoint.read(self._checkpoint_path(len(history["loss"]))).expect_partial()
        done = len(history.get("loss", []))
        for epoch in range(done, self.epochs):
            losses = []
            with tqdm(self.batches(epoch), total=self.steps, desc=f"epoch {epoch + 1}/{self.epochs}") as bar:
                for images, tokens, weights in bar:
                    losses.append(float(self._step(images, tokens, weights)))
                    bar.set_postfix(loss=f"{np.mean(losses[-50:]):.3f}")
            values = {"loss": float(np.mean(losses)), **self.validate()}
            best = max(history.get("val_CIDEr", []), default=-1.0)
            for key, value in values.items():
                history.setdefault(key, []).append(value)
            self._checkpoint.write(self._checkpoint_path(epoch + 1))
            if values["val_CIDEr"] > best:
                for i, (model, _) in enumerate(self.models):
                    model.save_weights(self.folder / f"best{i}.weights.h5")
            artifacts.write_bytes(log, json.dumps({"settings": self.settings, "history": history}, indent=1).encode())
            if on_epoch:
                on_epoch(epoch, values)
        for i, (model, _) in enumerate(self.models):
            model.load_weights(self.folder / f"best{i}.weights.h5")
        return history

    def _checkpoint_path(self, epochs: int) -> str:
        """Two files take turns, so that the log always names a whole one."""
        return str(self.folder / f"checkpoint-{epochs % 2}")


class Distillation(Training):
    """Train a decoder to give each next word the probability that a teacher gives it (Hinton et al., 2015,
    arXiv:1503.02531), after the same true words.

    Args: as for `Training`, after the ``teacher``, a decoder of the same vocabulary.
    """

    def __init__(self, teacher: Decoder, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.settings |= {"teacher": checksum(teacher)}
        self.teacher = teacher

    def _loss(self, features, tokens, weights):
        taught = ops.log_softmax(self.teacher([features, tokens[..., :-1]]))
        learned = ops.log_softmax(self.decoder([features, tokens[..., :-1]], training=True))
        divergence = ops.sum(ops.exp(taught) * (taught - learned), axis=-1)
        return ops.sum(divergence * weights) / ops.sum(weights)


class SelfCriticalTraining(Training):
    """Train a decoder for the scores themselves (Rennie et al., 2017, arXiv:1612.00563).

    For each image some captions are drawn from the decoder; those with more
    reward than the mean of the others become likelier, the rest less likely
    (that baseline: Luo, 2020, arXiv:2003.09971). The reward is CIDEr with a
    brevity penalty, and BLEU. Starts from a decoder trained by teacher forcing, on features.

    Args: as for `Training`; ``samples`` captions are drawn for each image, at
    ``temperature``: after label smoothing, every tenth word drawn at 1 would be
    any word at all.
    """

    def __init__(self, *args, samples: int = 5, temperature: float = 0.5, **kwargs):
        super().__init__(*args, label_smoothing=0.0, **kwargs)
        self.settings |= {"samples": samples, "temperature": temperature}
        self.temperature = temperature
        self.sample, self.seeds = make_sampler(self.decoder, self.tokenizer, samples, temperature=temperature)
        self.reward = CaptionReward(self.train, end_token=True, brevity_penalty=True, bleu=1.0)
        self.samples = samples

    def _loss(self, features, tokens, weights):
        # The captions come from the decoder without dropout and special tokens; so must their probabilities, or what
        # is never drawn, such as the unknown token, would take all the probability that bad captions lose.
        logits = self.decoder([features, tokens[..., :-1]]) / self.temperature
        logits += sayable(self.tokenizer, self.decoder.vocabulary_size)
        return caption_loss(logits, tokens[..., 1:], weights)

    def batches(self, epoch):
        names = list(self.train)
        random = np.random.default_rng([self.seed, epoch])
        random.shuffle(names)
        self.seeds.state.assign(random.integers(2**32, size=2, dtype="uint32"))
        for i in range(0, len(names), self.batch_size):
            batch = names[i : i + self.batch_size]
            features = self._look(batch, random)
            drawn = ops.convert_to_numpy(self.sample(features))  # (B, C, T)
            length = -(-int((drawn != self.tokenizer.pad).sum(-1).max()) // 4) * 4
            drawn = drawn[..., :length]
            repeated = [n for n in batch for _ in range(self.samples)]
            captions = [self.tokenizer.decode(row) for row in drawn.reshape(-1, drawn.shape[-1])]
            rewards = self.reward.reward(repeated, captions).reshape(len(batch), self.samples)
            others = (rewards.sum(1, keepdims=True) - rewards) / (self.samples - 1)
            tokens = np.insert(drawn, 0, self.tokenizer.start, axis=-1)
            yield features, tokens, self._mask(tokens) * (rewards - others)[..., None]


def match_length(decoder: Decoder, tokenizer: Tokenizer, features: Features, captions: Captions, beam_width: int = 3) -> float:
    """Make what the decoder says at most a word shorter than what people say, on average, where it is shorter.

    The score of the end token falls, by tenths and by 2 at most. Rewards like CIDEr's and a word's `Decoder.presence` make
    captions short.

    Args:
        features, captions: of validation photos; ``captions`` are people's, of which `MAX_LENGTH` words count.

    Returns the mean number of words of the decoder's captions in the end.
    """
    names = list(captions)
    people = [min(len(tokenizer.encode(text)) - 2, MAX_LENGTH) for texts in captions.values() for text in texts]
    search = make_search(decoder, tokenizer)
    for tenths in range(21):
        batches = (features.batch(names[i : i + 50]).astype("float32") for i in range(0, len(names), 50))
        length = np.mean([len(tokenizer.words(tokens[0])) for batch in batches for tokens in search(batch, beam_width).tokens])
        if length >= np.mean(people) - 1 or tenths == 20:
            return float(length)
        decoder.word_bias.assign(decoder.word_bias - 0.1 * (np.arange(decoder.vocabulary_size) == tokenizer.end))
