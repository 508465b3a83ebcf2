"""Self-critical training, and a correction of the captions' length, which it shortens."""

from __future__ import annotations

import numpy as np
from keras import ops

from captioning.generator import DEFAULT_BEAM_WIDTH
from captioning.network.decoder import Decoder
from captioning.network.search import MAX_LENGTH, make_sampler, make_search, max_beam_width, special_token_mask
from captioning.text import Tokenizer
from captioning.training.features import Features
from captioning.training.reward import CaptionReward
from captioning.training.teacher_forcing import Captions, Training, caption_loss

SAMPLES = 5  # captions per image
TEMPERATURE = 0.5  # of sampling; at 1, after label smoothing, every tenth word would be arbitrary


class SelfCriticalTraining(Training):
    """Train a decoder for the scores of whole captions (Rennie et al., 2017, arXiv:1612.00563).

    For each image some captions are sampled. Those with more reward than the mean of the others become likelier, the
    rest less likely (this baseline: Luo, 2020, arXiv:2003.09971). The reward is CIDEr with a brevity penalty, and BLEU.
    Start from a decoder trained by teacher forcing, on features.

    Args: as for `Training`, and

        bleu: weight of BLEU in the reward, as for `CaptionReward`.
    """

    def __init__(self, *args, bleu: float = 1.0, **kwargs):
        super().__init__(*args, label_smoothing=0.0, **kwargs)  # type: ignore[misc]  # *args end before it
        self.settings |= {"samples": SAMPLES, "temperature": TEMPERATURE, "bleu": bleu}
        self.sample, self.seeds = make_sampler(self.decoder, self.tokenizer, SAMPLES, temperature=TEMPERATURE)
        self.reward = CaptionReward(
            self.train, end_token=True, brevity_penalty=True, bleu=bleu, language=self.tokenizer.language
        )

    def _loss(self, features, tokens, weights):
        # Captions are sampled without dropout and without special tokens, and their probabilities must be computed in
        # the same way. Otherwise tokens that are never sampled would gain the probability that bad captions lose.
        logits = self.decoder([features, tokens[..., :-1]]) / TEMPERATURE
        logits += special_token_mask(self.tokenizer, self.decoder.vocabulary_size)
        return caption_loss(logits, tokens[..., 1:], weights)

    def batches(self, epoch):
        names = list(self.train)
        random = np.random.default_rng([self.seed, epoch])
        random.shuffle(names)
        seeds = random.integers(2**32, size=2, dtype="uint32") + np.uint32(self.workers.index)
        self.seeds.state.assign(seeds)
        for i in range(0, len(names), self.batch_size):
            batch = names[i : i + self.batch_size]
            features, has_part = self._choose_views(batch, random), self._has_part(batch)
            batch = [batch[row] for row in self.workers.rows(len(batch))]
            sampled = ops.convert_to_numpy(self.sample(features))  # (B, C, T)
            length = -(-int((sampled != self.tokenizer.pad).sum(-1).max()) // 4) * 4
            sampled = sampled[..., :length]
            repeated = [n for n in batch for _ in range(SAMPLES)]
            captions = [self.tokenizer.decode(row) for row in sampled.reshape(-1, sampled.shape[-1])]
            ended = (sampled == self.tokenizer.end).any(-1).flatten()
            rewards = self.reward.reward(repeated, captions, ended).reshape(len(batch), SAMPLES)
            others = (rewards.sum(1, keepdims=True) - rewards) / (SAMPLES - 1)
            tokens = np.insert(sampled, 0, self.tokenizer.start, axis=-1)
            yield features, tokens, self._mask(tokens) * (rewards - others)[..., None] * has_part


def match_length(decoder: Decoder, tokenizer: Tokenizer, features: Features, captions: Captions) -> dict[str, str]:
    """Lower the score of the end token until captions are on average at most one word shorter than people's.

    CIDEr and the word prior make captions short. The score is lowered in steps of 0.1, by 2 at most.

    Args:
        features: of the validation images.
        captions: people's. Only their first `MAX_LENGTH` words count.

    Returns the decoder's captions afterwards: image name → caption.
    """
    names = list(captions)
    lengths = [min(len(tokenizer.encode(text)) - 2, MAX_LENGTH) for texts in captions.values() for text in texts]
    search, beam_width = make_search(decoder, tokenizer), min(DEFAULT_BEAM_WIDTH, max_beam_width(decoder))
    tenths = 0
    while True:
        batches = (features.batch(names[i : i + 50]).astype("float32") for i in range(0, len(names), 50))
        found = [tokenizer.words(tokens[0]) for batch in batches for tokens in search(batch, beam_width).tokens]
        if np.mean([len(words) for words in found]) >= np.mean(lengths) - 1 or tenths == 20:
            return {name: tokenizer.join(words) for name, words in zip(names, found, strict=True)}
        decoder.word_bias.assign(decoder.word_bias - 0.1 * (np.arange(decoder.vocabulary_size) == tokenizer.end))
        tenths += 1
