"""What each decoder can know at best of a language, exactly.

Each kind of decoder answers a question of its own about y given x:

====================================  =====================  ==============================
decoder                               what it can know       bound, nats per token
====================================  =====================  ==============================
Algorithm 1 with the document's mask  p(y_t | x_1..x_t)      ``filtered`` sum_t H(y_t | x_<=t) / T
one pass that reads all of x          p(y_t | x)             ``smoothed`` sum_t H(y_t | x) / T
autoregressive                        p(y_t | y_<t, x)       ``joint``    H(y | x) / T
====================================  =====================  ==============================

joint <= smoothed <= filtered. The first gap is the conditional total correlation TC(y | x) / T,
which is what decoding in one pass costs; the second is what the mask throws away (document,
sections 2 to 4). How far above its own a trained model is, ``lab.bench_theory.above_bound`` says.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .checks import check_type, check_whole
from .errors import Refusal, expect
from .languages import CHUNK, HomophoneLanguage
from .theory import entropy

DECODERS = ("filtering", "smoothing", "viterbi")
ENUMERATE = 2**16  # default: so many source sequences at most are enumerated, more are sampled
BELIEFS = 2**21  # numbers that the pasts, the futures or their pairs may take: 16 MB


@dataclass(frozen=True)
class Bounds:
    """What can be reached at best, of y given x. Entropies in nats per token.

    characters, sentences: for each of filtering, smoothing and viterbi, the expected share of
    tokens and of whole sequences that its most probable answer has right; None where the method
    cannot say. error: the standard error of each number under its name, 0 when exact.
    """

    joint: float
    smoothed: float
    filtered: float
    characters: dict[str, float | None]
    sentences: dict[str, float | None]
    error: dict[str, float] = field(repr=False)

    @property
    def total_correlation(self) -> float:
        """TC(y | x) / T = smoothed - joint, nats per token."""
        return self.smoothed - self.joint


def bounds_of(
    language: HomophoneLanguage,
    length: int,
    method: str | None = None,
    samples: int = 20_000,
    generator: torch.Generator | None = None,
) -> Bounds:
    """Entropies and best accuracies of y given x, for sequences of ``length`` of the language.

    Given x, all is exact by dynamic programming. Over x, method is one of

    - "enumerate": every x, exact; the work grows as S ** length;
    - "beliefs": exact too, by dynamic programming over the different beliefs that a decoder can be
      in (``_beliefs``), which are few when the language forgets, or x says little. Says None of
      accuracies that need the whole answer. ValueError when there are too many;
    - "sample": the mean over ``samples`` x drawn from the language, with its standard error.

    None enumerates up to 2 ** 16 sequences x and samples beyond.
    """
    check_type(language, HomophoneLanguage, "language")
    check_whole("length", length, most=2**16)
    if method is None:
        method = "enumerate" if language.syllables**length <= ENUMERATE else "sample"
    known = method in ("enumerate", "beliefs", "sample")
    expect(known, "method", "enumerate, beliefs or sample", method)
    if method == "beliefs":
        return _bounds_by_beliefs(language, length)
    if method == "enumerate":
        x, p = language.sources(length)
    else:
        check_whole("samples", samples, least=2)
        x, _ = language.sample(samples, length, generator)
        p = torch.full((samples,), 1 / samples, dtype=torch.float64)
    parts = [_given(language, part) for part in x.split(CHUNK)]
    mean, error = {}, {}
    for name in parts[0]:
        values = torch.cat([part[name] for part in parts])  # (N,)
        mean[name] = float((p * values).sum())
        error[name] = float(values.std()) / math.sqrt(samples) if method == "sample" else 0.0
    return _bounds(mean, error)


def _given(language: HomophoneLanguage, x: Tensor) -> dict[str, Tensor]:
    """For each x (B, T): the entropies per token, and how often each decoder is right."""
    filtered, smoothed, beta = language.filter(x), language.smooth(x), language.backward(x)
    T, log_p_x = x.shape[1], language.log_prob_source(x)
    # Given x, y is a Markov chain too, with p(y_t+1 | y_t, x) from what y_t+1 explains of the rest.
    joint = entropy(smoothed[:, 0])
    for t in range(T - 1):
        follow = language.transition * (language.sounds.T[x[:, t + 1]] * beta[:, t + 1])[:, None]
        follow = follow / follow.sum(-1, keepdim=True).clamp(min=1e-300)  # (B, V, V)
        joint = joint + (smoothed[:, t] * entropy(follow)).sum(-1)
    # H(y_t | x_<=t) is a mean over the x_>t that may follow, so here it is one term of that mean.
    result = {
        "joint": joint / T,
        "smoothed": entropy(smoothed).mean(1),
        "filtered": entropy(filtered).mean(1),
    }
    result["total_correlation"] = result["smoothed"] - result["joint"]  # for its standard error
    answers = (filtered.argmax(-1), smoothed.argmax(-1), language.viterbi(x))
    for name, y in zip(DECODERS, answers, strict=True):
        right = smoothed.gather(-1, y[..., None])[..., 0]  # (B, T), p(y_t is right | x)
        result[f"characters, {name}"] = right.mean(1)
        result[f"sentences, {name}"] = (language.log_prob(y) - log_p_x).exp()
    return result


def _beliefs(
    language: HomophoneLanguage, length: int
) -> tuple[list[tuple[Tensor, Tensor]], list[Tensor]]:
    """The different pasts and futures: [t] -> vectors (N, V) of the pasts of t + 1 tokens with
    their probabilities (N,), and [k] -> vectors (M, V) of the futures of k tokens.

    A past x_<=t is p(y_t | x_<=t), a future is p(x_>t | y_t). Two pasts with one belief are one
    from then on, and so are two futures that are proportional: their sum stands for both.
    """
    p, pasts = language.initial.expand(1, -1), []
    weight = torch.ones(1, dtype=torch.float64)
    for _ in range(length):
        p = (p[:, None] * language.sounds.T).flatten(0, 1)  # (N * S, V)
        p = _merge(p * weight.repeat_interleave(language.syllables)[:, None])
        weight = p.sum(1)
        pasts.append((p / weight[:, None], weight))
        p = pasts[-1][0] @ language.transition
    futures = [torch.ones(1, language.hanzi, dtype=torch.float64)]
    for _ in range(length - 1):
        b = (futures[-1][:, None] * language.sounds.T).flatten(0, 1) @ language.transition.T
        futures.append(_merge(b))
    return pasts, futures


def _bounds_by_beliefs(language: HomophoneLanguage, length: int) -> Bounds:
    pasts, futures = _beliefs(language, length)
    mean: dict[str, Any] = dict.fromkeys(("joint", "smoothed", "filtered"), 0.0)
    mean |= {f"{what}, {name}": None for what in ("characters", "sentences") for name in DECODERS}
    mean["characters, filtering"] = mean["characters, smoothing"] = 0.0
    marginal, before = language.initial, language.initial[None]
    weight, H_y, H_x = torch.ones(1, dtype=torch.float64), float(entropy(marginal)), 0.0
    for t, (a, w) in enumerate(pasts):
        H_x += float((weight * entropy(before @ language.sounds)).sum())  # H(x_t | x_<t)
        before, weight = a @ language.transition, w
        if t:
            H_y += float(marginal @ entropy(language.transition))  # H(y_t | y_t-1)
            marginal = marginal @ language.transition
        mean["filtered"] += float((w * entropy(a)).sum())
        mean["characters, filtering"] += float((w * a.amax(1)).sum())
        b = futures[length - 1 - t]
        _check_size(len(a) * b.numel())
        both = w[:, None, None] * a[:, None] * b  # (N, M, V), p(past, future, y_t)
        seen = both.sum(-1)
        mean["smoothed"] += float((seen * entropy(both / seen.clamp(min=1e-300)[..., None])).sum())
        mean["characters, smoothing"] += float(both.amax(-1).sum())
    mean["joint"] = H_y - H_x  # H(y | x) = H(y) - H(x), since y determines x
    mean = {name: None if m is None else m / length for name, m in mean.items()}
    return _bounds(mean, dict.fromkeys(mean, 0.0))


def _merge(vectors: Tensor) -> Tensor:
    """Non-negative rows (N, V), those that are proportional added up, zero rows left out."""
    size = vectors.sum(1)
    vectors, size = vectors[size > 0], size[size > 0]
    _check_size(vectors.numel())
    _, group = (vectors / size[:, None]).round(decimals=12).unique(dim=0, return_inverse=True)
    merged = vectors.new_zeros(int(group.max()) + 1, vectors.shape[1])
    return merged.index_add_(0, group, vectors)


def _check_size(numbers: int) -> None:
    if numbers > BELIEFS:
        raise Refusal("method: 'beliefs' has too many of them here; take 'enumerate' or 'sample'")


def _bounds(mean: dict[str, Any], error: dict[str, float]) -> Bounds:
    characters, sentences = (
        {name: mean[f"{what}, {name}"] for name in DECODERS} for what in ("characters", "sentences")
    )
    return Bounds(mean["joint"], mean["smoothed"], mean["filtered"], characters, sentences, error)
