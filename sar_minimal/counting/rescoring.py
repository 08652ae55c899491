"""Networks and counting together: ``rescore`` counts after one pass, ``Reranker`` asks a network after counting."""

import math
from collections.abc import Callable, Sequence
from itertools import islice

import torch
from torch import Tensor

from ..algorithm1 import DualStreamSAR, given_x
from ..checks import Refusal, check_whole
from ..data import Decoded, Split, accuracy
from ..decoding import log_likelihood
from ..shift import PAD, UNKNOWN
from .ngram import NGram
from .word_ngram import WordNGram


@torch.inference_mode()
def rescore(
    model: DualStreamSAR, x: Tensor, ngram: NGram, lengths=None, k: int = 8, weight: float = 1.0
) -> Decoded:
    """One pass, and then agreement: the path through the ``k`` likeliest tokens of each position that is best
    for the model and an n-gram together, found exactly by Viterbi (Xiao 2022; Sun 2019 learns the n-gram).

    It maximises weight * sum_t log q(y_t | x) + log p(y </s>) under the n-gram, in nats; the larger weight, the
    nearer it is to ``one_pass``. Both know how frequent a token is, so the sum is a score, no probability:
    choose weight on validation data. Arguments, errors and log_probs (the model's) are those of ``one_pass``,
    which has to be of the n-gram's vocabulary. steps: 1, no network reads anything again.
    """
    check_whole("k", k)
    if not weight > 0:
        raise Refusal(f"weight: expected > 0, got {weight!r}")
    log_q, own, behind = given_x(model, x, lengths)
    if ngram.model.base != model.config.target_vocab:
        raise Refusal(
            f"ngram: expected a vocabulary of {model.config.target_vocab} as in model, got {ngram.model.base}"
        )
    log_q[..., :UNKNOWN] = -math.inf  # an n-gram has no <pad>, <s> or </s> within a sentence
    scores, candidates = log_q.topk(min(k, log_q.shape[-1] - UNKNOWN))  # (B, T, k)
    tokens = torch.full(behind.shape, PAD, device=x.device)
    for row, n in enumerate(own.tolist()):
        columns = candidates[row, :n].cpu().numpy(), weight * scores[row, :n].double().cpu().numpy()
        tokens[row, :n] = torch.tensor(ngram.search(*columns), device=x.device)
    log_probs = log_q.gather(2, tokens[..., None])[..., 0].masked_fill(behind, 0.0)
    return Decoded(tokens, log_probs, own, 1)


def tuned(found: Callable[[float], list], y: list, weights: Sequence[float]) -> float:
    """The weight whose conversions ``found(weight)`` have the most sentences of y right, then characters."""
    return max(weights, key=lambda weight: accuracy(found(weight), y)[::-1])


class Reranker:
    """Does a network know something that counting does not? Of the ``k`` best paths of ``words``, the one that is
    best when weight * log q(y | x) of the network is added to their scores, in nats. All k are read at once."""

    def __init__(self, words: WordNGram, network, k: int = 10):
        self.words, self.network, self.k = words, network, k

    def paths(self, x: Sequence[int]) -> list[tuple[float, float, list[int]]]:
        """(score, log q, text) of each path, the best first."""
        found = list(islice(self.words.lattice(x).paths(), self.k))
        texts = [[token for word in path for token in word] for _, path in found]
        log_q = self._log_q(x, texts)
        return [(score, q, text) for (score, _), q, text in zip(found, log_q, texts, strict=True)]

    @torch.inference_mode()
    def _log_q(self, x, texts) -> list[float]:
        device = next(self.network.parameters()).device
        x, y = torch.tensor([x], device=device), torch.tensor(texts, device=device)
        if isinstance(self.network, DualStreamSAR):
            log_q = self.network(x)[0].log_softmax(-1)  # (T, V): the same for every text
            return log_q.gather(1, y.T).sum(0).tolist()
        return log_likelihood(self.network, x.expand(len(y), -1), y).sum(1).tolist()

    @staticmethod
    def best(paths: list, weight: float) -> list[int]:
        return max(paths, key=lambda path: path[0] + weight * path[1])[2]

    def tuned(self, split: Split) -> Callable:
        """``decode`` with the best of seven weights on ``split``; 0 is among them, and leaves the network out."""
        every = [self.paths(x) for x in split.x]
        weight = tuned(
            lambda w: [self.best(p, w) for p in every], split.y, (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
        )
        return lambda xs: [self.best(self.paths(x), weight) for x in xs]
