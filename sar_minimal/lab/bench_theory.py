"""``sar bench theory``: trained models against exact bounds."""

from collections.abc import Iterator
from typing import Any

import torch

from ..algorithm1 import DualStreamSAR
from ..autoregressive import Autoregressive
from ..bounds import bounds_of
from ..data import SPECIALS, Batch
from ..decoding import log_likelihood
from ..kinds import make_model
from ..languages import HomophoneLanguage
from ..tasks import load_task
from ..tasks.exact import language_of
from ..training import Recipe
from ..transition import TransitionSAR, transition_loss
from .side_by_side import train_all
from .tables import Row


def bench_theory(steps: int = 3500, length: int = 6) -> Iterator[Row]:
    """Algorithm 1 with both masks and the encoder-decoder, trained on the homophone language: how
    far above its exact bound is each (law 9), and after how many seconds?"""
    task = load_task("homophone", length=length, sizes=(steps * 1024 // length, 1, 1))
    recipe = Recipe(steps=steps, tokens=1024, rate=4e-3)
    kinds: list[tuple[str, dict[str, Any]]] = [("sar", {"mask": m}) for m in ("causal", "full")]
    kinds = [("ar", {}), *kinds]  # the longest first
    models = [make_model(k, task, width=64, layers=2, heads=4, **options) for k, options in kinds]
    metrics = train_all((model, task, recipe) for model in models)
    for (_, options), model, rows in zip(kinds, models, metrics, strict=True):
        name = type(model).__name__ + "".join(f", {k} {v}" for k, v in options.items())
        row = {"theory": name, "seconds": rows[-1]["seconds"]}
        yield row | above_bound(model, language_of(task), length)


def above_bound(
    model: DualStreamSAR | TransitionSAR | Autoregressive,
    language: HomophoneLanguage,
    length: int,
    samples: int = 20_000,
) -> dict[str, float]:
    """The model's expected loss on sequences of the language, and the bound of what it may read, in
    nats per token: ``filtered`` under a causal mask, ``smoothed`` under a full one, ``joint`` when
    it says y as a whole, token after token or as a chain.

    ``Algorithm 1`` is scored exactly, over all x. For ``EncoderDecoderAR`` and ``TransitionSAR``
    (with all tokens as candidates) the excess over the bound is the mean of log p(y | x) - log q(y
    | x) over ``samples`` drawn pairs, and ``error`` its standard error.
    """
    bounds, first = bounds_of(language, length), len(SPECIALS)
    device = next(model.parameters()).device
    with torch.inference_mode():
        if isinstance(model, DualStreamSAR):
            x, p = language.sources(length)
            log_q = model((x + first).to(device)).cpu().double().log_softmax(-1)[..., first:]
            loss = -float((p[:, None, None] * language.smooth(x) * log_q).sum()) / length
            bound = bounds.filtered if model.mask == "causal" else bounds.smoothed
            excess, error = loss - bound, 0.0
        else:
            x, y = language.sample(samples, length, torch.Generator().manual_seed(0))
            given = (x + first).to(device), (y + first).to(device)
            if isinstance(model, TransitionSAR):
                n = torch.full((samples,), length, device=device)
                batch = Batch(given[0], n, given[1], n)
                log_q = -transition_loss(model, batch, "none", model.config.target_vocab)
            else:
                log_q = log_likelihood(model, *given)
            log_q = log_q.cpu().double().sum(1)
            apart = (language.log_prob(y) - language.log_prob_source(x) - log_q) / length
            bound, excess = bounds.joint, float(apart.mean())
            error = float(apart.std()) / samples**0.5
    of = {"nats": bound + excess, "bound": bound}
    return of | {"excess": excess / bound, "error": error / bound}
