"""The word prior: which words fit a photo as a whole, by ridge regression from the mean of its regions.

The decoder adds the prior to its word scores. The prior generalises better than the decoder, which has memorised much
of its training photos. Words predicted from the photo were first given to a language model by Fang et al., 2015,
arXiv:1411.4952, and Wu et al., 2016, arXiv:1506.01144.
"""

from __future__ import annotations

import numpy as np
from tqdm import tqdm

from captioning.network.decoder import Decoder
from captioning.text import Tokenizer
from captioning.training.evaluation import cider
from captioning.training.features import Features
from captioning.training.self_critical import match_length
from captioning.training.teacher_forcing import Captions

RIDGE = 1.0
BATCH = 500  # images


def add_word_prior(
    decoder: Decoder, tokenizer: Tokenizer, features: Features, train: Captions, validation: Captions
) -> tuple[float, float]:
    """Fit the word prior, keep it unless validation CIDEr falls, and then match the length of captions.

    The prior makes captions shorter, so it helps after self-critical training but may do harm without.

    Args:
        decoder: a word prior that it has is replaced.
        features: of the images of both splits.
        train, validation: image name → captions.

    Returns validation CIDEr without and with the prior, both with the length matched.
    """

    def matched_cider() -> float:
        return cider(match_length(decoder, tokenizer, features, validation), validation, tokenizer.language)

    prior = decoder.word_prior_projection, decoder.word_prior_output

    def remove_prior() -> None:
        for layer in prior:
            layer.set_weights([np.zeros_like(weights) for weights in layer.get_weights()])

    remove_prior()
    before = decoder.word_bias.numpy()
    without = matched_cider()
    matched = decoder.word_bias.numpy()
    decoder.word_bias.assign(before)
    fit_word_prior(decoder, tokenizer, features, train)
    with_prior = matched_cider()
    if with_prior < without:
        remove_prior()
        decoder.word_bias.assign(matched)
    return without, with_prior


def fit_word_prior(decoder: Decoder, tokenizer: Tokenizer, features: Features, captions: Captions) -> None:
    """Fit `Decoder.word_prior` to the share of an image's captions that contain a word.

    This is ridge regression, then its best approximation of rank ``word_prior_rank`` on these images (reduced-rank
    regression: Izenman, 1975, Journal of Multivariate Analysis 5: 248–264). Function words and special tokens get no
    prior.

    Args:
        features, captions: of the training images.
    """
    names, V, D = list(captions), decoder.vocabulary_size, features.array.shape[-1]
    has_prior = np.ones(V, bool)
    has_prior[[tokenizer.pad, tokenizer.start, tokenizer.end, tokenizer.unknown]] = False
    has_prior[list(tokenizer.function_words)] = False
    mean, share_of_all = np.zeros(D), np.zeros(V)
    covariance, products = np.zeros((D, D)), np.zeros((D, V))
    for start in tqdm(range(0, len(names), BATCH), desc="word prior"):
        batch = names[start : start + BATCH]
        x = features.batch(batch).mean(axis=1, dtype="float32").astype("float64")
        share = np.zeros((len(batch), V))
        for row, name in zip(share, batch, strict=True):
            for caption in captions[name]:
                row[list(set(tokenizer.encode(caption)))] += 1 / len(captions[name])
        share *= has_prior
        mean += x.sum(axis=0) / len(names)
        share_of_all += share.sum(axis=0) / len(names)
        covariance += x.T @ x / len(names)
        products += x.T @ share / len(names)
    covariance -= np.outer(mean, mean)
    products -= np.outer(mean, share_of_all)
    scale = np.sqrt(np.maximum(np.diag(covariance), 0)) + 1e-3  # features are scaled to variance 1
    covariance /= np.outer(scale, scale)
    products /= scale[:, None]

    variances, axes = np.linalg.eigh(covariance)
    coefficients = axes.T @ products / (variances + RIDGE)[:, None]
    _, _, right = np.linalg.svd(np.sqrt(np.maximum(variances, 0))[:, None] * coefficients, full_matrices=False)
    directions = np.zeros((decoder.word_prior_projection.units, V))
    directions[: len(right)] = right[: len(directions)]
    projection = axes @ coefficients @ directions.T / scale[:, None]
    decoder.word_prior_projection.set_weights([projection, -mean @ projection])
    decoder.word_prior_output.set_weights([directions, share_of_all])
