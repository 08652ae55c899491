"""Languages that we know all about: what is said, y, how it sounds, x, and p of both.

In a ``HomophoneLanguage`` the target y is a Markov chain of hanzi and the source x is how they
sound. Several hanzi share a syllable, so x is a hidden Markov model and p(y | x) is known. What a
decoder can make of it at best is in ``bounds.py``.

Filtering and smoothing are the forward and the forward-backward recursion, the best sequence is
Viterbi's (Rabiner 1989). All is float64, and y, x are numbers from 0, without the specials of a
``Vocab``.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import check_range, check_tokens, check_whole
from .errors import Refusal, expect
from .theory import every

CHUNK = 4096  # sequences looked at together


class HomophoneLanguage:
    """y is a Markov chain over V hanzi, x_t = syllable_of[y_t]; many hanzi to a syllable.

    initial: (V,) p(y_1). transition: (V, V), row u is p(y_t+1 | y_t = u). syllable_of: (V,)
    integers 0, 1, ..., each of them used. Arrays or tensors. Raises Refusal, naming the argument.
    """

    def __init__(self, initial: Any, transition: Any, syllable_of: Any) -> None:
        self.initial = torch.as_tensor(initial, dtype=torch.float64)
        self.transition = torch.as_tensor(transition, dtype=torch.float64)
        self.syllable_of = torch.as_tensor(syllable_of)
        V = self.hanzi = self.initial.numel()
        row = self.initial.dim() == 1 and V
        expect(row, "initial", "shape (V,)", tuple(self.initial.shape))
        for name, shape in {"initial": (V,), "transition": (V, V)}.items():
            table = getattr(self, name)
            expect(table.shape == shape, name, f"shape {shape}", tuple(table.shape))
            sums = (table >= 0).all() and (table.sum(-1) - 1).abs().max() <= 1e-9
            expect(sums, name, "probabilities that sum to 1", table)
        s = self.syllable_of
        each = s.shape == (V,) and s.unique().tolist() == list(range(int(s.max()) + 1))
        whole = f"{V} integers that use each of 0, 1, ..."
        expect(each and not s.is_floating_point(), "syllable_of", whole, s)
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
        expect(syllables <= hanzi, "syllables", f"at most hanzi = {hanzi}", syllables)
        fits = isinstance(sharpness, int | float) and 0 <= sharpness < math.inf
        expect(fits, "sharpness", "a number >= 0", sharpness)
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
        chain = torch.stack(y, 1)
        return self.syllable_of.long()[chain], chain

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

    def filter(self, x: Tensor) -> Tensor:
        """p(y_t | x_1..x_t), as under a causal mask. x: (B, T). Returns (B, T, V).

        Raises Refusal, as do ``smooth`` and ``viterbi``, naming the first row that cannot occur.
        """
        filtered, evidence = self._forward(x)
        impossible = (evidence == 0).any(1)
        if impossible.any():
            row = int(impossible.nonzero()[0])
            raise Refusal(f"x: row {row} cannot occur in this language: {x[row].tolist()}")
        return filtered

    def backward(self, x: Tensor) -> Tensor:
        """p(x_>t | y_t), each t up to a factor, (B, T, V)."""
        beta = [torch.ones(len(x), self.hanzi, dtype=torch.float64)]
        for t in range(x.shape[1] - 1, 0, -1):
            after = (self.sounds.T[x[:, t]] * beta[-1]) @ self.transition.T  # (B, V)
            beta.append(after / after.amax(1, keepdim=True))
        return torch.stack(beta[::-1], 1)

    def smooth(self, x: Tensor) -> Tensor:
        """p(y_t | x), as when all of x is read. x: (B, T). Returns (B, T, V)."""
        both = self.filter(x) * self.backward(x)
        return both / both.sum(-1, keepdim=True)

    def viterbi(self, x: Tensor) -> Tensor:
        """The most probable y as a whole. x: (B, T). Returns (B, T)."""
        self.filter(x)  # is it possible?
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


class CoherenceLanguage(HomophoneLanguage):
    """y is in one dialect from beginning to end, and x does not say in which.

    Each of ``dialects`` has a word of its own for every one of ``words`` sounds, so y_t = (dialect,
    word) and x_t = the word. Words are drawn evenly, the dialect once, evenly. With probability
    ``tell`` a token is a shibboleth instead, which every dialect has a sound of its own for. With n
    dialects, ::

        H(y | x) = (1 - tell)^T ln n    H(y_t | x_<=t) = (1 - tell)^t ln n
        TC = (T - 1) (1 - tell)^T ln n

    so TC = (T - 1) ln 2 for two dialects and no tell: the multi-modality problem (Gu 2018),
    exactly. One pass then draws each token's dialect for itself, and all agree with probability
    n^(1 - T).
    """

    def __init__(self, words: int = 4, dialects: int = 2, tell: float = 0.0) -> None:
        check_whole("words", words)
        check_whole("dialects", dialects, least=2)
        expect(isinstance(tell, int | float) and 0 <= tell < 1, "tell", "0 <= tell < 1", tell)
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
