"""Who reads whom: gradients agree with differences, and with the masks."""

import pytest
import torch

from sar_minimal.algorithm1 import DualStreamSAR
from sar_minimal.autoregressive import DecoderLM, EncoderDecoderAR
from sar_minimal.blocks import Config
from sar_minimal.influence import entrances, fed, influence

SHAPE = {"target_vocab": 9, "source_vocab": 9, "width": 16, "heads": 2}
x = torch.tensor([[4, 5, 6, 7, 8]])


def make(kind, **options):
    torch.manual_seed(0)
    model = kind(Config(**SHAPE), **options).eval()
    for weight in model.parameters():
        weight.data.mul_(8 if weight.dim() == 2 else 1)
    return model


@pytest.mark.parametrize("mask", ["causal", "full"])
@pytest.mark.parametrize("streams", [1, 2])
def test_algorithm_1_reads_what_its_mask_allows(mask, streams):
    seen = influence(make(DualStreamSAR, mask=mask, streams=streams), [x], "source", x) > 0
    allowed = torch.ones(5, 5).bool()
    assert torch.equal(seen, allowed.tril() if mask == "causal" else allowed)


def test_a_decoder_reads_the_past_and_an_encoder_decoder_all_of_the_source():
    past = torch.ones(5, 5).bool().tril()
    assert torch.equal(influence(make(DecoderLM), [x], "output", x) > 0, past)
    model = make(EncoderDecoderAR)
    assert torch.equal(influence(model, [x, x], "output", x) > 0, past)
    assert torch.equal(influence(model, [x, x], "source", x) > 0, torch.ones(5, 5).bool())


def test_the_estimate_is_the_norm_of_the_jacobian():
    model = make(DecoderLM).double()
    block, table = model.layers[0], model.embed

    def logits(h):
        with fed(block, h):
            return model(x)[0]

    J = torch.autograd.functional.jacobian(logits, table[x].detach())  # (T, V, 1, S, D)
    exact = J.square().sum((1, 2, 4)).sqrt()
    estimate = influence(model, [x], "output", x, probes=2000)
    torch.testing.assert_close(estimate, exact.float(), rtol=0.1, atol=0)


def test_a_fed_block_reads_what_it_is_fed_and_nothing_after():
    model = make(DecoderLM)
    before = model(x)
    with fed(model.layers[0], torch.zeros(1, 5, 16)):
        assert not torch.allclose(model(x), before)
    assert torch.equal(model(x), before)
    with pytest.raises(ValueError, match=r"h: expected shape \(1, 5, 16\), got \(1, 4, 16\)"):
        with fed(model.layers[0], torch.zeros(1, 4, 16)):
            model(x)


def test_wrong_calls_say_what_was_expected():
    with pytest.raises(ValueError, match="side: expected 'source' or 'output', got 'left'"):
        entrances(make(DecoderLM), "left")
    with pytest.raises(ValueError, match="tokens: expected a batch of 1, got 2"):
        influence(make(DecoderLM), [x], "output", x.repeat(2, 1))
    assert entrances(make(DualStreamSAR), "output") == []  # y is no input of Algorithm 1
