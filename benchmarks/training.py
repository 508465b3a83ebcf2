"""What a training epoch costs, and what one sample a prefix would cost; features to captions; photos to features.

    python benchmarks/training.py [--images 6000]

Times do not depend on what the pictures show or how well the model knows them, so photos and features are random, and
a few steps of each kind are timed and scaled to an epoch of that many images with five captions each.
"""

import argparse
import functools
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import captioning.network  # noqa: F401  # isort: skip  # before TensorFlow, whose settings it chooses
import keras
import numpy as np
import tensorflow as tf
from keras import ops

from captioning.exported import ExportedSearch
from captioning.network.decoder import build_decoder
from captioning.network.encoder import Encoder
from captioning.network.export import convert_search, quantized_encoder
from captioning.network.search import LENGTH_POWER, MAX_LENGTH
from captioning.text import Tokenizer
from captioning.training.teacher_forcing import caption_loss

BATCH, CAPTIONS, WORDS, VOCABULARY = 40, 5, 12, 2500  # Flickr8k: 11.8 words a caption, 2,500 words seen five times
REGIONS, DEPTH = 49, 2048
RANDOM = np.random.default_rng(0)


def seconds(function, *arguments, repeat=5):
    """Seconds a call, after one that compiles."""
    function(*arguments)
    start = time.perf_counter()
    for _ in range(repeat):
        result = function(*arguments)
    np.asarray(result)  # wait for it
    return (time.perf_counter() - start) / repeat


def train_step(decoder, loss):
    """A compiled step of Adam on ``loss(features, tokens)``."""
    optimizer = keras.optimizers.Adam(1e-4, global_clipnorm=5.0)
    optimizer.build(decoder.trainable_variables)

    @tf.function
    def step(features, tokens):
        with tf.GradientTape() as tape:
            value = loss(features, tokens)
        optimizer.apply(tape.gradient(value, decoder.trainable_variables), decoder.trainable_variables)
        return value

    return step


def teacher_forcing(decoder):
    """Whole sentences: every word of (B, C, T + 1) tokens is predicted in one pass."""

    def loss(features, tokens):
        logits = decoder([features, tokens[..., :-1]], training=True)
        return caption_loss(logits, tokens[..., 1:], ops.ones(tokens[..., 1:].shape), 0.1)

    return train_step(decoder, loss)


def one_prefix(decoder):
    """The common tutorial way: each sample is a prefix (B, 1, T + 1), and only its next word is predicted."""

    def loss(features, tokens):
        memory, state = decoder.start(features, training=True)
        words = decoder.embed(tokens[..., :-1], training=True)
        for t in range(words.shape[2]):
            context, _, state = decoder.step(memory, state, words[:, :, t])
        logits = decoder.logits(memory, state[0], context, training=True)
        return caption_loss(logits, tokens[..., -1], ops.ones(logits.shape[:2]), 0.1)

    return train_step(decoder, loss)


def convert(decoder, tokenizer, language, beam_width):
    return convert_search(decoder, tokenizer, beam_width, MAX_LENGTH, LENGTH_POWER)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=6000, help="images of an epoch (default: 6000)")
    images = parser.parse_args().images
    tokenizer = Tokenizer.fit((str(i) for i in range(VOCABULARY)), minimum_count=1)
    features = RANDOM.random((BATCH, REGIONS, DEPTH), "float32")
    rows = []

    encoder = Encoder("resnet50")
    photos = RANDOM.integers(0, 255, (32, 224, 224, 3), "uint8")
    each = seconds(quantized_encoder(encoder), photos) / len(photos)
    rows.append((f"encoder: features of {images + 1000:,} photos", each * (images + 1000)))

    for name in ("lstm", "attention"):
        decoder = build_decoder(name, len(tokenizer), REGIONS, DEPTH)
        tokens = RANDOM.integers(4, len(tokenizer), (BATCH, CAPTIONS, 16 + 1), "int32")  # padded as in training
        epoch = seconds(teacher_forcing(decoder), features, tokens) * images / BATCH
        rows.append((f"{name}: one epoch, whole sentences", epoch))
        if name == "lstm":
            repeated = np.repeat(features, CAPTIONS, axis=0)
            prefixes = RANDOM.integers(4, len(tokenizer), (BATCH * CAPTIONS, 1, 16 + 1), "int32")
            samples = images * CAPTIONS * (WORDS + 1)
            slow = seconds(one_prefix(decoder), repeated, prefixes) * samples / len(prefixes)
            rows.append((f"{name}: one epoch, one sample a prefix ({slow / epoch:.0f} times as long)", slow))
        search = ExportedSearch(functools.partial(convert, decoder, tokenizer))
        for width in (1, 3, 5):
            each = seconds(lambda f, s=search, w=width: s(f, w, "en").scores, features) / BATCH
            rows.append((f"{name}: captions for 1,000 photos from features, beam {width}", each * 1000))

    print(f"{os.cpu_count()} cores, TensorFlow {tf.__version__}, {images:,} images an epoch")
    for what, time_ in rows:
        print(f"{time_:9.1f} s  {what}")


if __name__ == "__main__":
    main()
