"""A tiny data set whose features hold what its captions say, and runs of training on it."""

from functools import partial

import keras
import numpy as np
import tensorflow as tf

from captioning.network import backend, search
from captioning.network.decoder import build_decoder
from captioning.text import Tokenizer
from captioning.training import self_critical, teacher_forcing
from captioning.training.features import Features

WORDS = ["red", "green", "blue"]
# At most three words, so that training compiles for four tokens only.
CAPTIONS = {f"{i}.jpg": [f"a {WORDS[i % 3]} ball", f"{WORDS[i % 3]} ball"] for i in range(30)}
TOKENIZER = Tokenizer.fit([c for cs in CAPTIONS.values() for c in cs], 1)


def compile_fast() -> None:
    """Compile without XLA and the graph optimizer, which take seconds for each function. `tests/network` uses both."""
    search.compiled = lambda function, xla=False: backend.compiled(function)
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


def write_short_captions() -> None:
    """Captions in training have at most four words. Decoders that have learned little would write twenty."""
    teacher_forcing.make_search = partial(search.make_search, max_length=4)
    self_critical.make_sampler = partial(search.make_sampler, max_length=4)


def new_features() -> Features:
    """The colour is in the features."""
    random = np.random.default_rng(0)
    array = np.stack([np.eye(3)[i % 3] + random.normal(0, 0.1, (4, 3)) for i in range(30)]).astype("float16")
    return Features(array, {n: i for i, n in enumerate(CAPTIONS)}, {})


def new_decoder(seed=0, dropout=0.0, depth=3, name="attention"):
    keras.utils.set_random_seed(seed)
    return build_decoder(name, len(TOKENIZER), 4, depth, units=16, dropout=dropout, input_dropout=dropout)


def new_run(cls, folder, decoder=None, **settings):
    """A training of class `cls` that can be run."""
    train = {n: c for n, c in CAPTIONS.items() if int(n[:-4]) < 24}
    settings.setdefault("validation", {n: c for n, c in CAPTIONS.items() if n not in train})
    settings = {"epochs": 4, "batch_size": 8, "learning_rate": 2e-2, "features": new_features()} | settings
    return cls(decoder or new_decoder(), TOKENIZER, train, folder=folder, **settings)
