"""Entropies, and the losses of a language in expectation, term by term, without training."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .checks import check_type, check_whole
from .errors import Refusal, expect


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

    p: (V, ..., V), T axes, the probability of every sequence. log_q: (V, ..., V, T), entry [x_1,
    ..., x_T, t - 1] = log q(x_t | x_<t). Term t is H(x_t | x_<t) + E KL(p || q) (sections 2, 4.1).
    Raises Refusal when p is no distribution, when q(. | x_<t) is none, or when it changes with a
    token that comes after t, as under a mask that leaks.
    """
    for name, table in (("p", p), ("log_q", log_q)):
        check_type(table, Tensor, name)
        expect(table.dim(), name, "an axis for each token", table)
    V, T = p.shape[0], p.dim()
    if set(p.shape) != {V} or not torch.isclose(p.sum(), p.new_ones(()), atol=1e-6) or p.min() < 0:
        got = f"shape {tuple(p.shape)} and sum {float(p.sum()):.6g}"
        raise Refusal(f"p: expected probabilities of shape (V, ..., V) that sum to 1, got {got}")
    expect(log_q.shape == (*p.shape, T), "log_q", f"shape {(*p.shape, T)}", tuple(log_q.shape))
    p, log_q, H, KL = p.double(), log_q.double(), [], []
    for t in range(T):
        later = V ** (T - 1 - t)
        q = log_q[..., t].reshape(-1, V, later)  # (V ** t prefixes, x_t, all that comes after)
        if not torch.isclose(q, q[..., :1], rtol=0.0, atol=1e-4, equal_nan=True).all():
            raise Refusal(f"log_q: log q(x_{t + 1} | x_<{t + 1}) changes with a later token")
        q = q[..., 0]
        if not float((q.exp().sum(1) - 1).abs().max()) <= 1e-4:  # nor where it is NaN
            raise Refusal(f"log_q: q(x_{t + 1} | x_<{t + 1}) does not sum to 1 over x_{t + 1}")
        joint = p.reshape(-1, V, later).sum(2)  # p(x_<=t)
        given = joint / joint.sum(1, keepdim=True).clamp(min=1e-300)  # p(x_t | x_<t)
        H.append((joint.sum(1) * entropy(given)).sum())
        KL.append((torch.xlogy(joint, given) - torch.where(joint > 0, joint * q, 0.0)).sum())
    return ExactLoss(torch.stack(H), torch.stack(KL))
