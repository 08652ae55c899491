"""Networks and counting together: ``rescore`` counts after one pass, ``Reranker`` asks a network
after counting."""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import islice

import torch
from torch import Tensor

from ..algorithm1 import DualStreamSAR, given_x
from ..autoregressive import Autoregressive
from ..blocks import decoder
from ..checks import check_whole
from ..data import Decoded, Split, accuracy
from ..decoding import log_likelihood
from ..errors import expect
from ..shift import PAD, UNKNOWN
from .ngram import NGram
from .word_ngram import WordNGram

Path = tuple[float, float, list[int]]  # of a reranker: score, log q, text


@decoder
def rescore(
    model: DualStreamSAR,
    x: Tensor,
    ngram: NGram,
    lengths: Tensor | None = None,
    k: int = 8,
    weight: float = 1.0,
) -> Decoded:
    """One pass, then agreement: the path through the ``k`` likeliest tokens of each position that
    is best for model and n-gram at once, found by Viterbi (Xiao 2022; Sun 2019 learns the n-gram).

    It maximises weight * sum_t log q(y_t | x) + log p(y </s>) under the n-gram, in nats; the larger
    weight, the nearer it is to ``one_pass``. Both know how frequent a token is, so the sum is a
    score, no probability: choose weight on validation data. Arguments, errors and log_probs (the
    model's) are those of ``one_pass``, which has to be of the n-gram's vocabulary. steps: 1, no
    network reads anything again.
    """
    check_whole("k", k)
    expect(0 < weight < math.inf, "weight", "> 0 and finite", weight)
    log_q, own = given_x(model, x, lengths)
    vocabulary, known = model.config.target_vocab, ngram.model.base
    expect(known == vocabulary, "ngram", f"a vocabulary of {vocabulary} as in model", known)
    log_q[..., :UNKNOWN] = -math.inf  # an n-gram has no <pad>, <s> or </s> within a sentence
    scores, candidates = log_q.topk(min(k, vocabulary - UNKNOWN))  # (B, T, k)
    tokens = torch.full(x.shape, PAD, device=x.device)
    for row, n in enumerate(own.tolist()):
        columns = candidates[row, :n].cpu().numpy(), weight * scores[row, :n].double().cpu().numpy()
        tokens[row, :n] = torch.tensor(ngram.search(*columns), device=x.device)
    return Decoded.of(tokens, log_q.gather(2, tokens[..., None])[..., 0], own, 1)


def tuned(
    decode: Callable[[float], list[list[int]]], y: list[list[int]], weights: Sequence[float]
) -> float:
    """The weight whose ``decode(weight)`` has the most sentences of y right, then characters."""
    return max(weights, key=lambda weight: accuracy(decode(weight), y)[::-1])


class Reranker:
    """Does a network know something that counting does not? Of the ``k`` best paths of ``words``,
    the one that is best when weight * log q(y | x) of the network (nats) is added to its score."""

    def __init__(self, words: WordNGram, network: DualStreamSAR | Autoregressive, k: int = 10):
        check_whole("k", k)
        self.words, self.network, self.k = words, network, k

    @torch.inference_mode()
    def paths(self, x: Sequence[int]) -> list[Path]:
        """The k best paths, the best first: all are read by the network at once."""
        paths = list(islice(self.words.lattice(x).paths(), self.k))
        texts = [[token for word in words for token in word] for _, words in paths]
        device = next(self.network.parameters()).device
        source, y = torch.tensor([x], device=device), torch.tensor(texts, device=device)
        if isinstance(self.network, DualStreamSAR):
            log_q = self.network(source)[0].log_softmax(-1).gather(1, y.T).sum(0)  # (T, V): one x
        else:
            log_q = log_likelihood(self.network, source.expand(len(y), -1), y).sum(1)
        scores = [score for score, _ in paths]
        return list(zip(scores, log_q.tolist(), texts, strict=True))

    @staticmethod
    def best(paths: list[Path], weight: float) -> list[int]:
        """The text of the best of ``paths``, when the network's say has that weight."""
        return max(paths, key=lambda path: path[0] + weight * path[1])[2]

    def tuned(self, split: Split) -> Callable[[Iterable[Sequence[int]]], list[list[int]]]:
        """``decode`` with the best of seven weights on ``split``; 0 leaves the network out."""
        every, weights = [self.paths(x) for x in split.x], (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
        weight = tuned(lambda w: [self.best(paths, w) for paths in every], split.y, weights)
        return lambda xs: [self.best(self.paths(x), weight) for x in xs]
