"""The word prior: which words fit a photo as a whole, by ridge regression from the mean of its regions.

The decoder adds the prior to its word scores. The prior generalises better than the decoder, which has memorised much
of its training photos. Words predicted from the photo were first given to a language model by Fang et al., 2015,
arXiv:1411.4952, and Wu et al., 2016, arXiv:1506.01144.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from tqdm import tqdm

from captioning.languages import LANGUAGES
from captioning.network.decoder import Decoder
from captioning.text import Tokenizer
from captioning.training.features import Features

RIDGE = 1.0  # features are scaled to variance 1
BATCH = 500  # images


def fit_word_prior(
    decoder: Decoder, tokenizer: Tokenizer, features: Features, captions: Mapping[str, list[str]]
) -> None:
    """Fit `Decoder.word_prior` to the share of an image's captions that contain a word.

    This is ridge regression, then its best approximation of rank ``word_prior_rank`` on these images (reduced-rank
    regression: Izenman, 1975, Journal of Multivariate Analysis 5: 248–264). Function words and special tokens get no
    prior.

    Args:
        features, captions: of the training images. The mean features, (N, D) float32, must fit in memory twice.
    """
    names, V = list(captions), decoder.vocabulary_size
    starts = range(0, len(names), BATCH)
    batches = [names[start : start + BATCH] for start in starts]
    means = [features.batch(batch).mean(axis=1, dtype="float32") for batch in tqdm(batches, desc="word prior")]
    images = np.concatenate(means)
    mean, scale = images.mean(axis=0), images.std(axis=0) + 1e-3

    has_prior = np.ones(V, bool)
    has_prior[[tokenizer.pad, tokenizer.start, tokenizer.end, tokenizer.unknown]] = False
    function_words = LANGUAGES[tokenizer.language].function_words.split()
    has_prior[[tokenizer.word_index[word] for word in function_words if word in tokenizer.word_index]] = False
    covariance, products = np.zeros((len(mean), len(mean))), np.zeros((len(mean), V))
    share_of_all = np.zeros(V)
    for x, batch in zip(np.split(images, starts[1:]), batches, strict=True):
        x = (x - mean) / scale
        share = np.zeros((len(batch), V), "float32")
        for row, name in zip(share, batch, strict=True):
            for caption in captions[name]:
                row[list(set(tokenizer.encode(caption)))] += 1 / len(captions[name])
        share *= has_prior
        covariance += x.T @ x / len(names)
        products += x.T @ share / len(names)
        share_of_all += share.sum(axis=0) / len(names)

    variances, axes = np.linalg.eigh(covariance)
    coefficients = axes.T @ products / (variances + RIDGE)[:, None]
    _, _, right = np.linalg.svd(np.sqrt(np.maximum(variances, 0))[:, None] * coefficients, full_matrices=False)
    directions = np.zeros((decoder.word_prior_projection.units, V))
    directions[: len(right)] = right[: len(directions)]
    projection = axes @ coefficients @ directions.T / scale[:, None]
    decoder.word_prior_projection.set_weights([projection, -mean @ projection])
    decoder.word_prior_output.set_weights([directions, share_of_all])
