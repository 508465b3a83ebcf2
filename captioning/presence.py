"""Which words a photo calls for, told from the whole of it by ridge regression.

A decoder learns from captions word by word and soon knows its training photos by heart. What a straight line from
the mean of a photo's regions says of the words in its captions is learned in one step and holds better for other photos;
the two together choose better words than either. Words predicted from the photo were first given to a language model
by Fang et al., 2015, arXiv:1411.4952, and Wu et al., 2016, arXiv:1506.01144.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from tqdm import tqdm

from captioning.decoder import Decoder
from captioning.encoder import Features
from captioning.search import FUNCTION_WORDS
from captioning.text import Tokenizer

RIDGE = 1.0  # beside the variance of a feature, which is 1


def fit_presence(decoder: Decoder, tokenizer: Tokenizer, features: Features, captions: Mapping[str, list[str]]) -> None:
    """Fit what `Decoder.presence` tells: the share of a photo's captions that say a word.

    Ridge regression, then what comes closest to it on these photos with `captioning.decoder.PRESENCE_RANK` numbers a photo
    (reduced-rank regression: Izenman, 1975, Journal of Multivariate Analysis 5: 248–264). `FUNCTION_WORDS` and
    special tokens are left to the decoder: of them it tells nothing.

    Args:
        features, captions: of the training photos. The means of their regions, (N, D) float32, must fit in memory twice.
    """
    names, V = list(captions), decoder.vocabulary_size
    starts = range(0, len(names), 500)
    batches = [names[start : start + 500] for start in starts]
    photos = np.concatenate([features.batch(batch).mean(axis=1, dtype="float32") for batch in tqdm(batches, desc="word presence")])
    mean, scale = photos.mean(axis=0), photos.std(axis=0) + 1e-3

    told = np.ones(V, bool)
    told[[tokenizer.pad, tokenizer.start, tokenizer.end, tokenizer.unknown]] = False
    told[[tokenizer.word_index[word] for word in FUNCTION_WORDS if word in tokenizer.word_index]] = False
    squares, products, share = np.zeros((len(mean), len(mean))), np.zeros((len(mean), V)), np.zeros(V)
    for seen, batch in zip(np.split(photos, starts[1:]), batches):
        seen = (seen - mean) / scale
        said = np.zeros((len(batch), V), "float32")
        for row, name in zip(said, batch):
            for caption in captions[name]:
                row[list(set(tokenizer.encode(caption)))] += 1 / len(captions[name])
        said *= told
        squares += seen.T @ seen / len(names)
        products += seen.T @ said / len(names)
        share += said.sum(axis=0) / len(names)

    variances, axes = np.linalg.eigh(squares)
    coefficients = axes.T @ products / (variances + RIDGE)[:, None]
    _, _, right = np.linalg.svd(np.sqrt(np.maximum(variances, 0))[:, None] * coefficients, full_matrices=False)
    directions = np.zeros((decoder.glance.units, V))
    directions[: len(right)] = right[: len(directions)]
    glance = axes @ coefficients @ directions.T / scale[:, None]
    decoder.glance.set_weights([glance, -mean @ glance])
    decoder.shares.set_weights([directions, share])
