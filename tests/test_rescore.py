"""``rescore`` against enumeration: with all candidates kept, the best of all sequences."""

import itertools
import math

import pytest
import torch

from sar_minimal.algorithm1 import DualStreamSAR, one_pass
from sar_minimal.autoregressive import DecoderLM
from sar_minimal.blocks import Config
from sar_minimal.counting.ngram import NGram
from sar_minimal.counting.rescoring import rescore
from sar_minimal.data import Split
from sar_minimal.shift import PAD, UNKNOWN

V = 9


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = DualStreamSAR(Config(V, V, width=16, heads=2), mask="full").eval()
    for weight in model.parameters():
        weight.data.mul_(6 if weight.dim() == 2 else 1)
    return model


@pytest.fixture(scope="module", params=[1, 2, 3])
def ngram(request):
    torch.manual_seed(1)
    y = torch.randint(4, V, (80, 5)).cumsum(1) % (V - 4) + 4
    return NGram(Split(y.tolist(), y.tolist()), request.param, V)


def total(model, ngram, x, y, weight):
    log_q = model(x)[0].log_softmax(-1)
    return weight * sum(float(log_q[t, v]) for t, v in enumerate(y)) + float(ngram.log_prob([y])[0])


@torch.no_grad()
@pytest.mark.parametrize("weight", [0.1, 1.0])
def test_finds_what_enumeration_finds(model, ngram, weight):
    tokens = range(UNKNOWN, V)
    for x in torch.tensor([[4, 5, 6], [8, 8, 4]]).split(1):
        best = max(
            total(model, ngram, x, list(y), weight) for y in itertools.product(tokens, repeat=3)
        )
        found = rescore(model, x, ngram, k=V, weight=weight)
        assert found.steps == 1 and found.lengths.tolist() == [3]
        y = found.tokens[0].tolist()
        assert total(model, ngram, x, y, weight) == pytest.approx(best, abs=1e-4)
        own = model(x)[0].log_softmax(-1)
        assert found.log_probs[0].tolist() == pytest.approx(
            [float(own[t, v]) for t, v in enumerate(y)]
        )


def test_a_large_weight_or_a_single_candidate_is_one_pass(model, ngram):
    torch.manual_seed(2)
    x = torch.randint(4, V, (200, 6))
    plain = one_pass(model, x).tokens
    inside = (plain >= UNKNOWN).all(1)  # where it says no <pad>, <s> or </s>, which an n-gram lacks
    assert int(inside.sum()) >= 5
    for options in ({"weight": 1e6}, {"k": 1}):
        assert torch.equal(rescore(model, x, ngram, **options).tokens[inside], plain[inside])


def test_padding_and_batch_mates_change_nothing(model, ngram):
    x = torch.tensor([[4, 5, 6, 7, 8], [8, 7, PAD, PAD, PAD]])
    both = rescore(model, x, ngram, torch.tensor([5, 2]))
    assert both.tokens[1, 2:].tolist() == [PAD] * 3 and both.log_probs[1, 2:].tolist() == [0.0] * 3
    for row, n in ((0, 5), (1, 2)):
        alone = rescore(model, x[row : row + 1, :n], ngram)
        assert both.tokens[row, :n].tolist() == alone.tokens[0].tolist()
        torch.testing.assert_close(both.log_probs[row, :n], alone.log_probs[0], atol=1e-5, rtol=0)


def test_refuses(model, ngram):
    x = torch.tensor([[4, 5]])
    small = NGram(Split([[4]], [[4]]), 2, 5)
    for call, error, message in (
        (lambda: rescore(model, x, ngram, k=0), ValueError, "k: expected a whole number >= 1, got 0"),
        (lambda: rescore(model, x, ngram, weight=0), ValueError, "weight: expected > 0 and finite, got 0"),
        (lambda: rescore(model, x, ngram, weight=math.nan), ValueError, "weight: expected > 0"),
        (lambda: rescore(model, x, small), ValueError, "ngram: expected a vocabulary of 9 as in model, got 5"),
        (lambda: rescore(DecoderLM(Config(V, width=8, heads=1)), x, ngram), TypeError, "model: expected a model of y given x alone"),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            call()
