"""One pass of the network, then agreement that is learned: a chain over its scores.

Algorithm 1 says how well each token would do at each position, s_t(v), all at once. A matrix M says
how well a token follows another, so that y is scored as a whole, a conditional random field
(Lafferty 2001)::

    p(y | x) = exp( s_1(y_1) + M[y_1, y_2] + s_2(y_2) + ... + M[y_T-1, y_T] + s_T(y_T) ) / Z(x)

M = E_1 E_2' has a rank far below V, and where V is large, Z runs over the likeliest tokens of each
position alone (Sun 2019). What ``counting.rescoring.rescore`` counts in a text is learned here,
together with the network.

Both sums over all y and the best y come from one recursion, from the end to the beginning. What
lies ahead of a token at t is, with "total" a logsumexp or a maximum::

    ahead_t(u) = total over v of ( M[u, v] + s_t+1(v) + ahead_t+1(v) )    ahead_T(u) = 0

p(y_t+1 | y_<=t, x) = p(y_t+1 | y_t, x) then is a softmax of M[y_t, v] + s_t+1(v) + ahead_t+1(v)
over v.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .algorithm1 import DualStreamSAR, check_as_long
from .blocks import Config, Model, decoder
from .checks import Lengths, check_type, check_whole
from .data import Batch, Decoded
from .errors import expect
from .losses import reduced
from .shift import IGNORE, PAD, neighbours, past_end


class TransitionSAR(Model):
    """p(y | x) of a whole y: the scores of Algorithm 1, and a matrix between neighbours.

    rank: of M; with 0 the tokens are on their own again. candidates: k, only so many tokens are
    considered at each position, those with the largest s_t. From k = V on, all is exact. Below,
    every y that has another token has probability 0, so that Z is too small and every log p too
    large: such losses are too low, can be compared with one another at best, and never with an
    entropy.
    """

    def __init__(self, config: Config, rank: int = 32, candidates: int = 64) -> None:
        super().__init__(config)
        check_whole("rank", rank, least=0)
        check_whole("candidates", candidates)
        self.rank, self.candidates = rank, candidates
        self.streams = DualStreamSAR(config, mask="full")
        self.before, self.after = (
            nn.Parameter(torch.empty(config.target_vocab, rank)) for _ in range(2)
        )  # E_1, E_2
        self.initialise()

    def forward(self, x: Tensor, lengths: Lengths = None, trusted: bool = False) -> Tensor:
        """x: (B, T) ids. lengths: (B,), None when all are full. Returns the scores s, (B, T, V)."""
        return self.streams(x, lengths, trusted=trusted)

    def chain(
        self, x: Tensor, lengths: Lengths = None, k: int | None = None, y: Tensor | None = None
    ) -> "Chain":
        """The distribution of y given x (B, T), over ``k`` candidates (None: the model's).

        y: (B, T) ids that have to be among them, where training needs it. Raises WrongType or
        ValueError.
        """
        k = self.candidates if k is None else k
        check_whole("k", k)
        own = self.check_source(x, lengths)
        if y is not None:
            self.check_input(y, self.config.target_vocab, "y")
            expect(y.shape == x.shape, "y", f"shape {tuple(x.shape)} as x", tuple(y.shape))
        scores = self(x, None if lengths is None else own, trusted=True)
        behind = past_end(own, x.shape[1])
        with torch.autocast(x.device.type, enabled=False):  # nats are never summed in half
            scores, (B, T, V) = scores.to(self.before.dtype), scores.shape
            if k >= V:
                ids = torch.arange(V, device=x.device).expand(B, T, V)
                edges = (self.before @ self.after.T).expand(B, T - 1, V, V)
                return Chain(scores, edges, ids, behind)
            rank = scores.detach()
            if y is not None:
                rank = rank.scatter(2, y[..., None], torch.inf)
            ids = rank.topk(k).indices  # (B, T, k)
            a, b = neighbours(ids)
            edges = F.embedding(a, self.before) @ F.embedding(b, self.after).mT
            return Chain(scores.gather(2, ids), edges, ids, behind)


@dataclass(frozen=True, eq=False)
class Chain:
    """B distributions over sequences of one candidate, 0..k - 1, at each position.

    scores: (B, T, k), s. edges: (B, T - 1, k, k), M between the candidates of t and of t + 1. ids:
    (B, T, k), which token each candidate is. past_end: (B, T), positions that a row does not have.
    """

    scores: Tensor
    edges: Tensor
    ids: Tensor
    past_end: Tensor

    def ahead(self, total: Callable[..., Tensor] = torch.logsumexp) -> Tensor:
        """What lies ahead of each candidate: (B, T, k) nats, 0 from a row's last position on."""
        ahead = [torch.zeros_like(self.scores[:, 0])]
        for t in reversed(range(self.scores.shape[1] - 1)):
            after = self.edges[:, t] + (self.scores[:, t + 1] + ahead[-1])[:, None]  # (B, k, k)
            ahead.append(total(after, -1).masked_fill(self.past_end[:, t + 1, None], 0.0))
        return torch.stack(ahead[::-1], 1)

    def log_probs(self, path: Tensor) -> Tensor:
        """log p(y_t | y_<t, x), (B, T) nats, of one candidate each, path (B, T)."""
        ahead = self.ahead()
        value, at = self.scores + ahead, path[..., None]
        log_Z = value[:, 0].logsumexp(-1, keepdim=True)
        a, b = neighbours(at[:, :, None])  # (B, T - 1, 1, 1) each
        rows = a.expand(-1, -1, 1, self.edges.shape[-1])
        edges = self.edges.gather(2, rows).gather(3, b)[..., 0, 0]  # (B, T - 1)
        seen = torch.cat((log_Z, neighbours(ahead.gather(2, at)[..., 0])[0] - edges), 1)
        return (value.gather(2, at)[..., 0] - seen).masked_fill(self.past_end, 0.0)

    def best(self) -> Tensor:
        """The most probable sequence as a whole, exactly (Viterbi): candidates, (B, T)."""
        value = self.scores + self.ahead(torch.amax)
        path, rows = [value[:, 0].argmax(-1)], torch.arange(len(value), device=value.device)
        for t in range(1, value.shape[1]):
            path.append((self.edges[rows, t - 1, path[-1]] + value[:, t]).argmax(-1))
        return torch.stack(path, 1)

    def marginals(self) -> Tensor:
        """p(y_t | x) of each candidate, (B, T, k), 0 past the end."""
        value = self.scores + self.ahead()
        p = [value[:, 0].softmax(-1)]
        for t in range(1, value.shape[1]):
            follow = (self.edges[:, t - 1] + value[:, t, None]).softmax(-1)  # p(y_t | y_t-1, x)
            p.append((p[-1][:, None] @ follow)[:, 0])
        return torch.stack(p, 1).masked_fill(self.past_end[..., None], 0.0)


def transition_loss(
    model: TransitionSAR, batch: Batch, reduction: str = "mean", k: int | None = None
) -> Tensor:
    """-log p(y | x) in nats, over ``k`` candidates a position and y (None: the model's).

    reduction: "mean" per token, "sum", or "none": (B, T), -log p(y_t | y_<t, x). Too low where k <
    V, see ``TransitionSAR``. Raises Refusal unless each row of y is as long as x.
    """
    check_as_long(batch)
    y = batch.y.masked_fill(batch.y == IGNORE, PAD)
    chain = model.chain(batch.x, batch.x_lengths, k, y)
    path = (chain.ids == y[..., None]).long().argmax(-1)
    return reduced(-chain.log_probs(path), batch.y, reduction)


@decoder
def transition_pass(
    model: TransitionSAR, x: Tensor, lengths: Lengths = None, k: int | None = None
) -> Decoded:
    """The most probable y as a whole, over ``k`` candidates a position (None: the model's).

    x: (B, T) ids. lengths: (B,), None when every row is full. log_probs: log p(y_t | y_<t, x) over
    the candidates, so that a row sums to log p(y | x). steps: 1, no network reads anything again.
    Raises Refusal on wrong input.
    """
    check_type(model, TransitionSAR)
    chain = model.chain(x, lengths, k)
    path = chain.best()
    tokens = chain.ids.gather(2, path[..., None])[..., 0].masked_fill(chain.past_end, PAD)
    return Decoded(tokens, chain.log_probs(path), (~chain.past_end).sum(1), 1)
