"""Languages whose entropies we can compute exactly, and with them what each decoder can know at best.

In a ``HomophoneLanguage`` the target y is a Markov chain of hanzi and the source x is how they sound.
Several hanzi share a syllable, so x is a hidden Markov model and p(y | x) is known. Each kind of
decoder answers a question of its own about it, and a loss below the entropy of that question is a bug:

====================================  =====================  ==============================
decoder                               what it can know       bound, nats per token
====================================  =====================  ==============================
Algorithm 1 with the document's mask  p(y_t | x_1..x_t)      ``filtered`` sum_t H(y_t | x_<=t) / T
one pass that reads all of x          p(y_t | x)             ``smoothed`` sum_t H(y_t | x) / T
autoregressive                        p(y_t | y_<t, x)       ``joint``    H(y | x) / T
====================================  =====================  ==============================

joint <= smoothed <= filtered. The first gap is the conditional total correlation TC(y | x) / T, which is
what decoding in one pass costs; the second is what the mask throws away (document, sections 2 to 4).

Filtering and smoothing are the forward and the forward-backward recursion, the best sequence is
Viterbi's (Rabiner 1989). All is float64, and y, x are numbers from 0, without the specials of a ``Vocab``.
"""

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from .shift import check_range, check_tokens, check_whole

DECODERS = ("filtering", "smoothing", "viterbi")
ENUMERATE = 2**16  # default: so many source sequences at most are enumerated, more are sampled
BELIEFS = 2**21  # numbers that the pasts, the futures or their pairs may take: 16 MB
CHUNK = 4096  # sequences looked at together


def entropy(p: Tensor) -> Tensor:
    """H in nats over the last axis of probabilities; 0 log 0 = 0.

    >>> round(float(entropy(torch.tensor([0.5, 0.5, 0.0]))), 4)
    0.6931
    """
    return torch.special.entr(p).sum(-1)


def every(symbols: int, length: int) -> Tensor:
    """All sequences, (symbols ** length, length), in the order of counting.

    >>> every(2, 2).tolist()
    [[0, 0], [0, 1], [1, 0], [1, 1]]
    """
    check_whole("symbols", symbols)
    check_whole("length", length)
    return torch.cartesian_prod(*[torch.arange(symbols)] * length).view(-1, length)


# ---------------------------------------------------------------- the losses in expectation


@dataclass(frozen=True)
class ExactLoss:
    """entropy, kl: (T,) nats; term t of the expected loss is their sum."""

    entropy: Tensor
    kl: Tensor

    @property
    def cross_entropy(self) -> Tensor:
        return self.entropy + self.kl

    @property
    def ar(self) -> float:
        """E L_AR, nats per sequence: all T terms."""
        return float(self.cross_entropy.sum())

    @property
    def sar(self) -> float:
        """E L_SAR, nats per sequence: the same terms without the first."""
        return float(self.cross_entropy[1:].sum())


def exact_loss(p: Tensor, log_q: Tensor) -> ExactLoss:
    """What L_AR and L_SAR are in expectation, under a language p and a model q, term by term.

    p: (V, ..., V), T axes, the probability of every sequence. log_q: (V, ..., V, T), entry
    [x_1, ..., x_T, t - 1] = log q(x_t | x_<t). Term t is H(x_t | x_<t) + E KL(p || q) (sections 2, 4.1).
    Raises ValueError when p is no distribution, when q(. | x_<t) is none, or when it changes with a
    token that comes after t, as under a mask that leaks.
    """
    V, T = p.shape[0], p.dim()
    if set(p.shape) != {V} or not torch.isclose(p.sum(), p.new_ones(()), atol=1e-6) or p.min() < 0:
        raise ValueError(
            f"p: expected probabilities of shape (V, ..., V) that sum to 1, got shape {tuple(p.shape)} "
            f"and sum {float(p.sum()):.6g}"
        )
    if log_q.shape != (*p.shape, T):
        raise ValueError(f"log_q: expected shape {(*p.shape, T)}, got {tuple(log_q.shape)}")
    p, log_q, H, KL = p.double(), log_q.double(), [], []
    for t in range(T):
        later = V ** (T - 1 - t)
        q = log_q[..., t].reshape(-1, V, later)  # (V ** t prefixes, x_t, all that comes after)
        if float((q - q[..., :1]).abs().max()) > 1e-4:
            raise ValueError(f"log_q: log q(x_{t + 1} | x_<{t + 1}) changes with a later token")
        q = q[..., 0]
        if float((q.exp().sum(1) - 1).abs().max()) > 1e-4:
            raise ValueError(f"log_q: q(x_{t + 1} | x_<{t + 1}) does not sum to 1 over x_{t + 1}")
        joint = p.reshape(-1, V, later).sum(2)  # p(x_<=t)
        given = joint / joint.sum(1, keepdim=True).clamp(min=1e-300)  # p(x_t | x_<t)
        H.append((joint.sum(1) * entropy(given)).sum())
        KL.append((torch.xlogy(joint, given) - torch.where(joint > 0, joint * q, 0.0)).sum())
    return ExactLoss(torch.stack(H), torch.stack(KL))


# ---------------------------------------------------------------- bounds


@dataclass(frozen=True)
class Bounds:
    """What can be reached at best, of y given x. Entropies in nats per token.

    characters, sentences: for each of filtering, smoothing and viterbi, the expected share of tokens and
    of whole sequences that its most probable answer has right; None where the method cannot say.
    error: the standard error of each number under its name, 0 when exact.
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


class HomophoneLanguage:
    """y is a Markov chain over V hanzi, x_t = syllable_of[y_t]; many hanzi to a syllable.

    initial: (V,) p(y_1). transition: (V, V), row u is p(y_t+1 | y_t = u). syllable_of: (V,) integers
    0, 1, ..., each of them used. Arrays or tensors. Raises ValueError, naming the argument.
    """

    def __init__(self, initial, transition, syllable_of):
        self.initial = torch.as_tensor(initial, dtype=torch.float64)
        self.transition = torch.as_tensor(transition, dtype=torch.float64)
        self.syllable_of = torch.as_tensor(syllable_of)
        if self.initial.dim() != 1 or not len(self.initial):
            raise ValueError(f"initial: expected shape (V,), got {tuple(self.initial.shape)}")
        V = self.hanzi = len(self.initial)
        for name, table, shape in (
            ("initial", self.initial, (V,)),
            ("transition", self.transition, (V, V)),
        ):
            if table.shape != shape:
                raise ValueError(f"{name}: expected shape {shape}, got {tuple(table.shape)}")
            if not (table >= 0).all() or float((table.sum(-1) - 1).abs().max()) > 1e-9:
                raise ValueError(
                    f"{name}: expected probabilities that sum to 1, got {table.tolist()}"
                )
        s = self.syllable_of
        if (
            s.shape != (V,)
            or s.is_floating_point()
            or s.unique().tolist() != list(range(int(s.max()) + 1))
        ):
            raise ValueError(
                f"syllable_of: expected {V} integers that use each of 0, 1, ..., got {s.tolist()}"
            )
        self.syllables = int(s.max()) + 1
        self.sounds = F.one_hot(s.long(), self.syllables).double()  # (V, S), p(x_t | y_t)

    @classmethod
    def random(
        cls, hanzi: int = 9, syllables: int = 3, sharpness: float = 2.0, seed: int = 0
    ) -> "HomophoneLanguage":
        """A language drawn from ``seed``; hanzi v sounds like syllable v modulo ``syllables``.

        sharpness: 0 makes all hanzi independent and equally likely; as it grows, each hanzi has one
        successor, and in the limit the whole text follows from its first token.
        """
        check_whole("hanzi", hanzi)
        check_whole("syllables", syllables)
        if syllables > hanzi:
            raise ValueError(f"syllables: expected at most hanzi = {hanzi}, got {syllables}")
        if not 0 <= sharpness < math.inf:
            raise ValueError(f"sharpness: expected a number >= 0, got {sharpness!r}")
        generator = torch.Generator().manual_seed(seed)
        scores = torch.randn(hanzi + 1, hanzi, generator=generator, dtype=torch.float64)
        table = (sharpness * scores).softmax(1)
        return cls(table[0], table[1:], torch.arange(hanzi) % syllables)

    def sample(
        self, n: int, length: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """n pairs: x and y, (n, length) int64 each."""
        check_whole("n", n)
        check_whole("length", length)
        y = [torch.multinomial(self.initial, n, replacement=True, generator=generator)]
        while len(y) < length:
            rows = self.transition[y[-1]]  # (n, V)
            y.append(torch.multinomial(rows, 1, generator=generator)[:, 0])
        y = torch.stack(y, 1)
        return self.syllable_of.long()[y], y

    # ------------------------------------------------------------ given x: the classical recursions

    def _forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """p(y_t | x_<=t), (B, T, V), and p(x_t | x_<t), (B, T), which is 0 where x cannot occur."""
        check_tokens(x, "x")
        check_range(x, self.syllables, "x", "syllables")
        filtered, evidence, before = [], [], self.initial
        for t in range(x.shape[1]):
            joint = before * self.sounds.T[x[:, t]]  # (B, V), p(y_t, x_t | x_<t)
            evidence.append(joint.sum(1))
            filtered.append(joint / evidence[-1].clamp(min=1e-300)[:, None])
            before = filtered[-1] @ self.transition  # (B, V), p(y_t+1 | x_<=t)
        return torch.stack(filtered, 1), torch.stack(evidence, 1)

    def _possible(self, x: Tensor) -> Tensor:
        """p(y_t | x_<=t), (B, T, V). Raises ValueError naming the first row that cannot occur."""
        filtered, evidence = self._forward(x)
        impossible = (evidence == 0).any(1)
        if impossible.any():
            row = int(impossible.nonzero()[0])
            raise ValueError(f"x: row {row} cannot occur in this language: {x[row].tolist()}")
        return filtered

    def _backward(self, x: Tensor) -> Tensor:
        """p(x_>t | y_t), each t up to a factor, (B, T, V)."""
        beta = [torch.ones(len(x), self.hanzi, dtype=torch.float64)]
        for t in range(x.shape[1] - 1, 0, -1):
            after = (self.sounds.T[x[:, t]] * beta[-1]) @ self.transition.T  # (B, V)
            beta.append(after / after.amax(1, keepdim=True))
        return torch.stack(beta[::-1], 1)

    def filter(self, x: Tensor) -> Tensor:
        """p(y_t | x_1..x_t), as under a causal mask. x: (B, T). Returns (B, T, V).

        Raises ValueError, as do ``smooth`` and ``viterbi``, when an x cannot occur.
        """
        return self._possible(x)

    def smooth(self, x: Tensor) -> Tensor:
        """p(y_t | x), as when all of x is read. x: (B, T). Returns (B, T, V)."""
        both = self._possible(x) * self._backward(x)
        return both / both.sum(-1, keepdim=True)

    def viterbi(self, x: Tensor) -> Tensor:
        """The most probable y as a whole. x: (B, T). Returns (B, T)."""
        self._possible(x)
        sound, A = self.sounds.log().T, self.transition.log()
        score, back = self.initial.log() + sound[x[:, 0]], []  # (B, V)
        for t in range(1, x.shape[1]):
            score, best = (score[:, :, None] + A).max(1)  # over y_t-1
            score = score + sound[x[:, t]]
            back.append(best)
        y = [score.argmax(1)]
        for best in reversed(back):
            y.append(best.gather(1, y[-1][:, None])[:, 0])
        return torch.stack(y[::-1], 1)

    def log_prob(self, y: Tensor) -> Tensor:
        """log p(y), nats, -inf when y cannot occur. y: (B, T). Returns (B,)."""
        check_tokens(y, "y")
        check_range(y, self.hanzi, "y", "hanzi")
        log_p, A = self.initial.log()[y[:, 0]], self.transition.log()
        for t in range(1, y.shape[1]):
            log_p = log_p + A[y[:, t - 1], y[:, t]]
        return log_p

    def log_prob_source(self, x: Tensor) -> Tensor:
        """log p(x), nats, -inf when x cannot occur. x: (B, T). Returns (B,)."""
        return self._forward(x)[1].log().sum(1)

    def sources(self, length: int) -> tuple[Tensor, Tensor]:
        """Every x that can occur, (N, length), and its probability, (N,)."""
        x = every(self.syllables, length)
        p = torch.cat([self.log_prob_source(part).exp() for part in x.split(CHUNK)])
        return x[p > 0], p[p > 0]

    # ------------------------------------------------------------ over all x: what is best possible

    def bounds(
        self,
        length: int,
        method: str | None = None,
        samples: int = 20_000,
        generator: torch.Generator | None = None,
    ) -> Bounds:
        """Entropies and best accuracies of y given x, for sequences of ``length``.

        Given x, all is exact by dynamic programming. Over x, method is one of

        - "enumerate": every x, exact; the work grows as S ** length;
        - "beliefs": exact too, by dynamic programming over the different beliefs that a decoder can be
          in (``_beliefs``), which are few when the language forgets, or when x says little. Says None of
          accuracies that need the whole answer. ValueError when there are too many;
        - "sample": the mean over ``samples`` x drawn from the language, with its standard error.

        None enumerates up to 2 ** 16 sequences x and samples beyond.
        """
        check_whole("length", length)
        if method is None:
            method = "enumerate" if self.syllables**length <= ENUMERATE else "sample"
        if method == "beliefs":
            return self._bounds_by_beliefs(length)
        if method == "enumerate":
            x, p = self.sources(length)
        elif method == "sample":
            check_whole("samples", samples, least=2)
            x, p = (
                self.sample(samples, length, generator)[0],
                torch.full((samples,), 1 / samples, dtype=torch.float64),
            )
        else:
            raise ValueError(f"method: expected enumerate, beliefs or sample, got {method!r}")
        parts = [self._given(part) for part in x.split(CHUNK)]
        mean, error = {}, {}
        for name in parts[0]:
            values = torch.cat([part[name] for part in parts])  # (N,)
            mean[name] = float((p * values).sum())
            error[name] = float(values.std()) / math.sqrt(samples) if method == "sample" else 0.0
        return _bounds(mean, error)

    def _given(self, x: Tensor) -> dict[str, Tensor]:
        """For each x (B, T): the three entropies per token, and how often each decoder's answer is right."""
        filtered, smoothed, beta = self.filter(x), self.smooth(x), self._backward(x)
        T, log_p_x = x.shape[1], self.log_prob_source(x)
        # Given x, y is a Markov chain too, with p(y_t+1 | y_t, x) from what y_t+1 explains of the rest.
        joint = entropy(smoothed[:, 0])
        for t in range(T - 1):
            follow = self.transition * (self.sounds.T[x[:, t + 1]] * beta[:, t + 1])[:, None]
            follow = follow / follow.sum(-1, keepdim=True).clamp(min=1e-300)  # (B, V, V)
            joint = joint + (smoothed[:, t] * entropy(follow)).sum(-1)
        # H(y_t | x_<=t) is a mean over the x_>t that may follow, so here it is one term of that mean.
        result = {
            "joint": joint / T,
            "smoothed": entropy(smoothed).mean(1),
            "filtered": entropy(filtered).mean(1),
        }
        result["total_correlation"] = result["smoothed"] - result["joint"]  # for its standard error
        answers = (filtered.argmax(-1), smoothed.argmax(-1), self.viterbi(x))
        for name, y in zip(DECODERS, answers, strict=True):
            right = smoothed.gather(-1, y[..., None])[..., 0]  # (B, T), p(y_t is right | x)
            result[f"characters, {name}"] = right.mean(1)
            result[f"sentences, {name}"] = (self.log_prob(y) - log_p_x).exp()
        return result

    def _beliefs(self, length: int) -> tuple[list, list]:
        """The different pasts and futures: [t] -> vectors (N, V) of the pasts of t + 1 tokens with their
        probabilities (N,), and [k] -> vectors (M, V) of the futures of k tokens.

        A past x_<=t is p(y_t | x_<=t), a future is p(x_>t | y_t). Two pasts with one belief are one
        from then on, and so are two futures that are proportional: their sum stands for both.
        """
        p, pasts = self.initial.expand(1, -1), []
        weight = torch.ones(1, dtype=torch.float64)
        for _ in range(length):
            p = (p[:, None] * self.sounds.T).flatten(0, 1)  # (N * S, V)
            p = _merge(p * weight.repeat_interleave(self.syllables)[:, None])
            weight = p.sum(1)
            pasts.append((p / weight[:, None], weight))
            p = pasts[-1][0] @ self.transition
        futures = [torch.ones(1, self.hanzi, dtype=torch.float64)]
        for _ in range(length - 1):
            b = (futures[-1][:, None] * self.sounds.T).flatten(0, 1) @ self.transition.T
            futures.append(_merge(b))
        return pasts, futures

    def _bounds_by_beliefs(self, length: int) -> Bounds:
        pasts, futures = self._beliefs(length)
        mean = dict.fromkeys(("joint", "smoothed", "filtered"), 0.0)
        mean |= {
            f"{what}, {name}": None for what in ("characters", "sentences") for name in DECODERS
        }
        mean["characters, filtering"] = mean["characters, smoothing"] = 0.0
        marginal, before = self.initial, self.initial[None]
        weight, H_y, H_x = torch.ones(1, dtype=torch.float64), float(entropy(marginal)), 0.0
        for t, (a, w) in enumerate(pasts):
            H_x += float((weight * entropy(before @ self.sounds)).sum())  # H(x_t | x_<t)
            before, weight = a @ self.transition, w
            if t:
                H_y += float(marginal @ entropy(self.transition))  # H(y_t | y_t-1)
                marginal = marginal @ self.transition
            mean["filtered"] += float((w * entropy(a)).sum())
            mean["characters, filtering"] += float((w * a.amax(1)).sum())
            b = futures[length - 1 - t]
            _check_size(len(a) * b.numel())
            both = w[:, None, None] * a[:, None] * b  # (N, M, V), p(past, future, y_t)
            seen = both.sum(-1)
            mean["smoothed"] += float(
                (seen * entropy(both / seen.clamp(min=1e-300)[..., None])).sum()
            )
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
        raise ValueError(
            "method: 'beliefs' has too many of them here; take 'enumerate' or 'sample'"
        )


def _bounds(mean: dict, error: dict) -> Bounds:
    accuracies = {
        what: {name: mean[f"{what}, {name}"] for name in DECODERS}
        for what in ("characters", "sentences")
    }
    return Bounds(mean["joint"], mean["smoothed"], mean["filtered"], **accuracies, error=error)


class CoherenceLanguage(HomophoneLanguage):
    """y is in one dialect from beginning to end, and x does not say in which.

    Each of ``dialects`` has a word of its own for every one of ``words`` sounds, so y_t = (dialect, word)
    and x_t = the word. Words are drawn evenly, the dialect once, evenly. With probability ``tell`` a
    token is a shibboleth instead, which every dialect has a sound of its own for. With n dialects, ::

        H(y | x) = (1 - tell)^T ln n    H(y_t | x_<=t) = (1 - tell)^t ln n    TC = (T - 1) (1 - tell)^T ln n

    so TC = (T - 1) ln 2 for two dialects and no tell: the multi-modality problem (Gu 2018), exactly. One
    pass then draws each token's dialect for itself, and all agree with probability n^(1 - T).
    """

    def __init__(self, words: int = 4, dialects: int = 2, tell: float = 0.0):
        check_whole("words", words)
        check_whole("dialects", dialects, least=2)
        if not 0 <= tell < 1:
            raise ValueError(f"tell: expected 0 <= tell < 1, got {tell!r}")
        p = torch.full((words,), (1 - tell) / words, dtype=torch.float64)
        sounds = torch.arange(words).repeat(dialects, 1)  # (dialects, words)
        if tell:
            p = F.pad(p, (0, 1), value=tell)
            own = words + torch.arange(dialects)[:, None]
            sounds = torch.cat((sounds, own), 1)  # the last word of each sounds unlike any other
        self.dialects, self.size, self.tell = dialects, len(p), tell
        stay = torch.block_diag(*[p.repeat(len(p), 1)] * dialects)
        super().__init__(p.repeat(dialects) / dialects, stay, sounds.flatten())

    def coherent(self, y: Tensor) -> Tensor:
        """Which rows of y (B, T) are in one dialect, (B,) booleans."""
        dialect = y // self.size
        return (dialect == dialect[:, :1]).all(1)
