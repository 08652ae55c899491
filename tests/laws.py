"""The laws of the book as functions, for test_laws.py and test_bugs.py.

A law raises AssertionError when it is broken. ``test_laws.py`` calls each one on the package as it is,
``test_bugs.py`` on a package with a bug in it, where the law has to break. The models are small and
untrained, but *loud*: ``initialise`` starts so near to uniform that a wrong model would pass.
"""

import contextlib
import dataclasses
import errno
import itertools
import json
import math
import os
import random
import signal
import unittest.mock

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch.nn.attention import SDPBackend, sdpa_kernel

from sar_minimal import training
from sar_minimal.algorithm1 import DualStreamSAR, one_pass
from sar_minimal.attention import (
    KeyValueCache,
    attend,
    causal_mask,
    full_mask,
    heads,
    padding_mask,
    rotations,
)
from sar_minimal.autoregressive import EncoderDecoderAR
from sar_minimal.blocks import Block, Config
from sar_minimal.data import Batch, Split, batch_plan, convert, make_batch
from sar_minimal.decoding import beam, greedy, log_likelihood, sample
from sar_minimal.errors import Refusal
from sar_minimal.kinds import KINDS, loss_of, make_model
from sar_minimal.lab import runs, stored
from sar_minimal.lab.runs import Interrupted, train
from sar_minimal.lab.stored import DamagedCheckpoint, load
from sar_minimal.lengths import collapse, ctc_pass, length_pass
from sar_minimal.losses import ar_loss, sar_loss, slm_loss
from sar_minimal.masked import hide, mask_predict
from sar_minimal.shift import IGNORE, PAD, START, past_end, shift_right, shifted_targets
from sar_minimal.shifted import look_ahead
from sar_minimal.speculation import acceptance, draft_and_verify, jacobi
from sar_minimal.tasks import files, load_task
from sar_minimal.tasks.files import write_atomically
from sar_minimal.training import Recipe
from sar_minimal.transition import transition_loss, transition_pass

SAR = {
    f"sar-{mask}-{streams}-{completion}": dict(mask=mask, streams=streams, completion=completion)
    for mask in ("causal", "full")
    for streams in (2, 1)
    for completion in ("vocabulary", "copy")
}
AR = ("ar", "lm")
MODELS = (*SAR, *AR)

LAWS = []  # (law, arguments), in the order of this file


def law(*cases):
    """Register a function as a law, to be held for each of ``cases`` (once if there are none)."""

    def register(function):
        LAWS.extend((function, (case,)) for case in cases)
        if not cases:
            LAWS.append((function, ()))
        return function

    return register


def build(name: str, V: int = 11, **options):
    """The model called ``name``, loud, in evaluation mode; x has a vocabulary of its own if it may."""
    options = dict(width=16, layers=2, heads=2, max_length=32) | SAR.get(name, {}) | options
    S = V if options.get("completion") == "copy" else V + 1
    kind = KINDS["sar" if name in SAR else name].model
    own = {name: options.pop(name) for name in kind.option_names() if name in options}
    model = kind(Config(target_vocab=V, source_vocab=S, **options), **own)
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=random)
            if weight.dim() == 1:
                weight.copy_(1 + 0.3 * noise)
            else:
                weight.copy_(noise * (0.5 if "embed" in key else 1.5 / math.sqrt(len(weight))))
    return model.eval()


def equal_lengths(task):
    """Every pair has len(x) == len(y)."""
    splits = (task.train, task.validation, task.test)
    return all(len(x) == len(y) for s in splits for x, y in zip(s.x, s.y, strict=True))


def tokens(B: int, T: int, V: int = 11, seed: int = 0):
    return torch.randint(4, V, (B, T), generator=torch.Generator().manual_seed(seed))


def ignore_padding(tokens, lengths):
    """A padded batch (B, T) as targets: IGNORE from position ``lengths[b]`` on."""
    return tokens.masked_fill(past_end(lengths, tokens.shape[1]), IGNORE)


def same(got, expected, what: str, atol: float = 1e-5):
    torch.testing.assert_close(
        got, expected, atol=atol, rtol=0, msg=lambda text: f"{what}\n{text}", check_dtype=False
    )


def every_sequence(V: int, T: int):
    """All V ** T sequences, (V ** T, T)."""
    return torch.tensor(list(itertools.product(range(V), repeat=T)))


def score(model, x, y):
    """log p(y_t | ...) of given tokens, (B, T), from the model's own ``forward``."""
    if isinstance(model, DualStreamSAR):
        logits = model(x)
    elif isinstance(model, EncoderDecoderAR):
        logits = model(x, shift_right(y, START))
    else:
        logits = model(shift_right(y, START))
    return -ar_loss(logits, y, "none")


# ---------------------------------------------------------------- the shift


@law()
def shift_moves_one_step():
    """Position t of the input holds the token before t, position t of the target the one k after."""
    y = ignore_padding(tokens(3, 5), torch.tensor([5, 3, 1]))
    for b, row in enumerate(y.tolist()):
        read = shift_right(y, START)[b].tolist()
        expected = [START, *(PAD if token == IGNORE else token for token in row)][: len(row)]
        assert read == expected, f"shift_right of {row} is {read}, expected {expected}"
        for k in range(7):
            target = shifted_targets(y, k)[b].tolist()
            expected = [row[t + k] if t + k < len(row) else IGNORE for t in range(len(row))]
            assert target == expected, f"targets {k} after {row} are {target}, expected {expected}"


@law()
def both_codings_are_one():
    """Where both codings predict a token, they predict the same token from the same past."""
    y = ignore_padding(tokens(3, 6), torch.tensor([6, 4, 2]))
    read, target = shift_right(y, START), shifted_targets(y)
    for b, t in itertools.product(range(3), range(5)):
        # coding 1 has read this much when it is asked for y[t + 1]; coding 2 has read it too
        assert target[b, t] == y[b, t + 1], "coding 2 asks for another token than coding 1"
        if y[b, t + 1] != IGNORE:
            assert read[b, t + 1] == y[b, t], "coding 1 does not read the token before its target"


# ---------------------------------------------------------------- 1 causality


def reads(model, x, embed, outputs) -> torch.Tensor:
    """Which inputs each output reads: a (T, S) table of gradients, summed in absolute value.

    All tokens of x (1, S) differ, so row x[s] of the embedding is the input at s and nothing else.
    """
    table = []
    for output in outputs:
        (gradient,) = torch.autograd.grad(output, embed, retain_graph=True)
        table.append(gradient[x[0]].abs().sum(-1))
    return torch.stack(table)


def _check_reads(table, visible, what):
    assert (table[~visible] == 0).all(), f"{what}: an output reads a hidden input\n{table}"
    assert (table[visible] > 1e-6).all(), f"{what}: an output reads nothing of a visible input"


@law(*MODELS)
def causality(name):
    """The gradient of output t with respect to a hidden input is exactly 0, to a visible one it is not."""
    T = 5
    model = build(name)
    x = torch.tensor([[4, 8, 5, 7, 6]])  # 9 and 10 are not in it
    random = torch.randn(11, generator=torch.Generator().manual_seed(0))
    causal = torch.ones(T, T).tril().bool()
    if name in AR:
        # the embedding is the head too: ask for the logits of tokens that are no input
        logits = model(x) if name == "lm" else model(x, x)
        outputs = (logits[0, :, 9:] * random[9:]).sum(-1)
        _check_reads(reads(model, x, model.embed, outputs), causal, f"{name}, y")
        if name == "ar":
            table = reads(model, x, model.source_embed, outputs)
            _check_reads(table, torch.ones(T, T).bool(), "ar, x")
        return
    outputs = (model(x)[0].log_softmax(-1) * random).sum(-1)
    visible = causal if "causal" in name else torch.ones(T, T).bool()
    for stream, embed in enumerate(model.embed):
        table = reads(model, x, embed, outputs)
        if name.startswith("sar-causal") and name.endswith("copy"):
            assert (table[0] == 0).all(), "the first token can be copied from one place alone"
            table, visible = table[1:], causal[1:]
        _check_reads(table, visible, f"{name}, stream {stream}")


@law(*SAR, "length", "ctc")
def y_is_no_input(name):
    """Algorithm 1 computes the same from x whatever y is: the targets enter the loss alone."""
    model, x, seen = build(name), tokens(2, 5), []
    model.register_forward_hook(lambda _, __, logits: seen.append(logits))
    lengths = torch.tensor([5, 5])
    losses = [loss_of(model, Batch(x, lengths, tokens(2, 5, seed=s), lengths)) for s in (1, 2)]
    assert torch.equal(*seen), "the logits depend on y"
    assert losses[0] != losses[1], "the loss does not depend on y"


# ---------------------------------------------------------------- 2 parallel scoring


@law(*AR)
def parallel_scoring(name):
    """Scoring all tokens at once gives what making them one by one gave."""
    model, x = build(name), tokens(3, 5)
    lengths = None if name == "lm" else torch.tensor([5, 2, 4])
    generator = torch.Generator().manual_seed(0)
    for made in (
        greedy(model, x, lengths, new=6),
        sample(model, x, lengths, new=6, generator=generator),
        sample(model, x, lengths, new=6, temperature=2.0, top_k=5, generator=generator),
        beam(model, x, lengths, new=6, width=3),
    ):
        expected = log_likelihood(model, x, made.tokens, lengths)
        same(made.log_probs, expected, "log-probability of the tokens that were made")


@law(*AR)
def training_is_scoring(name):
    """The training loss of a batch is minus the log-probability that decoding gives its targets."""
    model, x, y = build(name, dropout=0.5), tokens(3, 5), tokens(3, 6, seed=1)
    x_lengths, y_lengths = torch.tensor([5, 2, 4]), torch.tensor([6, 3, 1])
    targets = ignore_padding(y, y_lengths)
    loss = loss_of(model, Batch(x, x_lengths, targets, y_lengths), "none")
    start = torch.full((3, 1), START)
    scored = log_likelihood(model, *((start, y) if name == "lm" else (x, y, x_lengths)))
    same(loss, -scored.masked_fill(targets == IGNORE, 0.0), "loss and score")


# ---------------------------------------------------------------- 3 cache


@law(*AR)
def cached_is_uncached(name):
    """Reading in pieces, with a cache, gives the logits of reading all at once."""
    model, x, y = build(name), tokens(3, 5), tokens(3, 7, seed=1)
    lengths = None if name == "lm" else torch.tensor([5, 2, 4])
    whole = model(y) if name == "lm" else model(x, y, lengths)
    for pieces in ([7], [1] * 7, [3, 4], [2, 1, 4], [6, 1]):
        with torch.inference_mode():
            state = model.start(y if name == "lm" else x, lengths, 7)[0]
            logits = [model.step(piece, state) for piece in y.split(pieces, dim=1)]
        same(torch.cat(logits, dim=1), whole, f"pieces of {pieces}")


# ---------------------------------------------------------------- 4 padding and batch-mates

LENGTHS = torch.tensor([3, 6, 1, 5])


def _alone(x, b):
    return x[b : b + 1, : LENGTHS[b]]


@law(*MODELS)
def padding_changes_no_logits(name):
    """A row has the same logits alone as in a batch, whatever stands in its padding."""
    model, x, y = build(name), tokens(4, 6), tokens(4, 6, seed=1)
    if name == "lm":
        batch = model(y)
    else:
        batch = model(x, LENGTHS) if name in SAR else model(x, y, LENGTHS)
    for b, n in enumerate(LENGTHS.tolist()):
        if name == "lm":
            alone = model(_alone(y, b))
        else:
            alone = model(_alone(x, b)) if name in SAR else model(_alone(x, b), _alone(y, b))
        same(batch[b, :n], alone[0], f"row {b}")


@law(*MODELS, "transition", "length", "ctc")
def padding_changes_no_loss(name):
    """The loss of a batch is the mean over its tokens of what each row loses alone."""
    model, x, y = build(name), tokens(4, 6), tokens(4, 6, seed=1)
    if name.endswith("copy"):
        y = x.flip(1)  # what a copying model can say at all
    batch = Batch(x, LENGTHS, ignore_padding(y, LENGTHS), LENGTHS)
    n = [LENGTHS[b : b + 1] for b in range(4)]
    alone = [Batch(_alone(x, b), n[b], _alone(y, b), n[b]) for b in range(4)]
    total = sum(loss_of(model, row, "sum") for row in alone)
    same(loss_of(model, batch, "sum"), total, "sum", atol=1e-4)
    same(loss_of(model, batch), total / LENGTHS.sum(), "mean")
    each = loss_of(model, batch, "none")
    assert (each[batch.y == IGNORE] == 0).all(), "padding has a loss"
    same(each[2, :1], loss_of(model, alone[2], "none")[0], "none")


@law("mean", "sum", "none")
def losses_read_their_own_row(reduction):
    """No loss reads another row of the batch, or a token past the end of its own."""
    logits, y = torch.randn(4, 6, 11, generator=torch.Generator().manual_seed(0)), tokens(4, 6)
    shifts = torch.tensor([0, 2, 0, 4])
    padded = ignore_padding(y, LENGTHS)
    for loss, k in ((ar_loss, [0] * 4), (sar_loss, [1] * 4), (slm_loss, shifts.tolist())):
        extra = (shifts,) if loss is slm_loss else ()
        got = loss(logits, padded, *extra, reduction)
        terms = [
            [-logits[b, t].log_softmax(-1)[y[b, t + k[b]]] for t in range(int(LENGTHS[b]) - k[b])]
            for b in range(4)
        ]
        counted = torch.stack([term for row in terms for term in row])
        if reduction == "none":
            for b, row in enumerate(terms):
                same(got[b, : len(row)], torch.tensor(row), f"{loss.__name__}, row {b}")
                assert (got[b, len(row) :] == 0).all(), f"{loss.__name__}: padding has a loss"
        else:
            same(got, getattr(counted, reduction)(), loss.__name__)


@law(*MODELS)
def padding_changes_no_decoding(name):
    """A row is decoded the same alone as in a batch, whatever stands in its padding."""
    model, x = build(name), tokens(4, 6)
    decoders = {"one pass": one_pass} if name in SAR else {
        "greedy": greedy,
        "beam": beam,
        "sample": lambda *a: sample(*a, top_k=1),  # greedy by another way, so that it is comparable
        "jacobi": jacobi,
        "draft": lambda model, x, *n: draft_and_verify(model, x, drafts(name, None)["some right"], *n),
    }  # fmt: skip
    if name == "ar":
        sar = build("sar-full-2-vocabulary")
        decoders["one-pass draft"] = lambda model, x, *n: draft_and_verify(model, x, sar, *n)
    for which, decode in decoders.items():
        batch = decode(model, x, LENGTHS)
        assert batch.lengths.tolist() == LENGTHS.tolist(), f"{which}: lengths {batch.lengths}"
        for b, n in enumerate(LENGTHS.tolist()):
            alone = decode(model, _alone(x, b))
            assert batch.tokens[b, :n].tolist() == alone.tokens[0].tolist(), f"{which}, row {b}"
            same(batch.log_probs[b, :n], alone.log_probs[0], f"{which}, row {b}")
            assert (batch.tokens[b, n:] == PAD).all() and (batch.log_probs[b, n:] == 0).all()


# ---------------------------------------------------------------- 5 sums to 1


@law(*MODELS)
def sums_to_one(name):
    """The probabilities of all sequences y, given one x, sum to 1."""
    y = every_sequence(3, 4)
    x = torch.tensor([[0, 2, 1, 2]]).expand(len(y), 4)
    total = score(build(name, V=3), x, y).sum(-1).exp().sum()
    same(total, torch.ones(()), "sum over all y")


@law()
def shifted_product_sums_to_V():
    """The document's product of p(x_{t+1} | x_<=t), t < T, sums to V: nothing predicts x_1."""
    x = every_sequence(3, 4)
    log_p = -sar_loss(build("lm", V=3)(x), x, "none").sum(-1)
    same(log_p.exp().sum(), torch.tensor(3.0), "sum over all x")


# ---------------------------------------------------------------- 6 the first token's term


@law()
def first_term():
    """ar_loss - sar_loss is the first token's term, in value and in every gradient."""
    model = build("lm").double()
    weights = list(model.parameters())
    x = ignore_padding(tokens(4, 6), LENGTHS)
    # <s> x_1 ... x_T is read once: output t predicts x_{t+1} (coding 1), and so does output t + 1
    # of the same reading for the token after it (coding 2).
    read = torch.cat((shift_right(x, START), torch.full((4, 1), PAD)), dim=1)
    for b, n in enumerate(LENGTHS.tolist()):
        read[b, n] = x[b, n - 1]
    logits = model(read)
    ar = ar_loss(logits.narrow(1, 0, 6), x, "sum")
    sar = sar_loss(logits.narrow(1, 1, 6), x, "sum")
    first = F.cross_entropy(logits[:, 0], x[:, 0], reduction="sum")
    same(ar - sar, first, "value", atol=1e-6)
    gradients = [torch.autograd.grad(loss, weights, retain_graph=True) for loss in (ar, sar, first)]
    for a, s, f in zip(*gradients, strict=True):
        assert f.abs().max() > 1e-3, "the first term has no gradient: the comparison says nothing"
        same(a - s, f, "gradient", atol=1e-6)
    each = ar_loss(logits.narrow(1, 0, 6), x, "none")
    same(each.narrow(1, 1, 5), sar_loss(logits.narrow(1, 1, 6), x, "none"), "term by term")


@law()
def one_loss_in_three():
    """ar_loss is slm_loss with shift 0, sar_loss with shift 1, and both are torch's cross-entropy."""
    logits = torch.randn(4, 6, 11, generator=torch.Generator().manual_seed(0))
    y = ignore_padding(tokens(4, 6), LENGTHS)
    for reduction in ("mean", "sum", "none"):
        zero, one = torch.zeros(4, dtype=torch.int64), torch.ones(4, dtype=torch.int64)
        same(slm_loss(logits, y, zero, reduction), ar_loss(logits, y, reduction), "shift 0")
        slm = slm_loss(logits, y, one, reduction)
        slm = slm.narrow(1, 0, 5) if reduction == "none" else slm
        same(slm, sar_loss(logits, y, reduction), "shift 1")
    by_hand = F.cross_entropy(logits.flatten(0, 1), y.flatten(), ignore_index=IGNORE)
    same(ar_loss(logits, y), by_hand, "L_AR by hand")
    later, target = logits.narrow(1, 0, 5).flatten(0, 1), y.narrow(1, 1, 5).flatten()
    same(sar_loss(logits, y), F.cross_entropy(later, target, ignore_index=IGNORE), "L_SAR by hand")


# ---------------------------------------------------------------- 7 parallel decoding


def drafts(name, truth, k=3):
    """Drafts by name. truth: (B, n) what greedy makes with its prompt, for those that need to know it."""

    def told(change):
        def draft(tokens, lengths):
            at = (lengths[:, None] + torch.arange(k)).clamp(max=truth.shape[1] - 1)
            return change(truth.gather(1, at), at)

        return draft

    def last_token(tokens, lengths):  # a function of the row's own past, right now and then
        last = tokens.gather(1, lengths[:, None] - 1)
        return (last * torch.arange(1, k + 1) + lengths[:, None]) % 11

    made = {
        "all right": told(lambda right, at: right),
        "never right": told(lambda right, at: (right + 1) % 11),
        "every third wrong": told(
            lambda right, at: torch.where(at % 3 == 0, (right + 1) % 11, right)
        ),
        "some right": last_token,
    }
    if name == "ar":
        made |= {f"{mask} pass": build(f"sar-{mask}-2-vocabulary") for mask in ("full", "causal")}
    made["three shifts"] = build("shifted", shifts=3)
    return made


PARALLEL = (
    {},
    {"new": 9},
    {"new": 1},
    {"new": 9, "end_id": 5},
    {"new": torch.tensor([2, 5, 1, 9])},
    {"new": torch.tensor([9, 5, 3, 9]), "end_id": 7},
    {"lengths": LENGTHS},
    {"lengths": LENGTHS, "new": 9, "end_id": 6},
)


def _same_decoding(got, expected, what):
    assert torch.equal(got.tokens, expected.tokens), (
        f"{what}: other tokens\n{got.tokens}\n{expected.tokens}"
    )
    same(got.log_probs, expected.log_probs, what)
    assert torch.equal(got.lengths, expected.lengths), f"{what}: lengths"


@contextlib.contextmanager
def counted(model):
    """Counts the calls of ``model.step``."""
    calls, step = [], model.step
    model.step = lambda *a, **o: (calls.append(a[0].shape[1]), step(*a, **o))[1]
    try:
        yield calls
    finally:
        del model.step


@law(*AR)
def jacobi_is_greedy(name):
    """The fixed point is greedy's sequence, token for token, in no more steps than it takes."""
    model, saved = build(name), 0
    for options, seed in itertools.product(PARALLEL, range(3)):
        x = tokens(4, 6, seed=seed)
        expected = greedy(model, x, **options)
        with counted(model) as calls:
            found = jacobi(model, x, **options)
        _same_decoding(found, expected, f"{options}")
        assert len(calls) == found.steps <= expected.steps, (
            f"{options}: {len(calls)} passes, {found.steps} said, greedy {expected.steps}"
        )
        saved += expected.steps - found.steps
    assert saved > 0, "it never saves a step: the comparison says little"


@law("jacobi", "draft_and_verify", "sample", "beam")
def nothing_is_read_that_was_not_written(decoder):
    """Every new cache is full of NaN, and rows of a batch have little in common: prompts of 2 and of 40
    tokens, new ones of 1 to 8, ends, narrow windows. What a decoder says is what greedy says of each
    row alone, and drawn with one seed the same draw again and a likely one."""
    cache = KeyValueCache.__init__

    def full_of_nan(self, *arguments, **options):
        cache(self, *arguments, **options)
        for kv in self.layers:
            kv.fill_(math.nan)

    most = 47  # the last token is read by nobody
    lm, draft = build("lm", max_length=most), build("shifted", shifts=3, max_length=64)
    lengths, new = torch.tensor([2, 40, 11, 4]), torch.tensor([1, 8, 3, 9])
    with unittest.mock.patch.object(KeyValueCache, "__init__", full_of_nan):
        for seed, window, end_id in itertools.product(range(4), (1, 2, 3, 32), (None, 7)):
            x, options = tokens(4, 40, seed=seed), dict(new=new, end_id=end_id)
            said = f"seed {seed}, window {window}, end {end_id}"
            alone = [
                greedy(lm, x[b : b + 1, : lengths[b]], new=int(new[b]), end_id=end_id)
                for b in range(4)
            ]
            if decoder == "jacobi":
                found = [jacobi(lm, x, lengths, window=window, **options)]
            elif decoder == "draft_and_verify":
                found = [draft_and_verify(lm, x, draft, lengths, window=window, **options)]
            elif decoder == "beam":
                found = [beam(lm, x, lengths, width=1, **options)]
            else:
                found = [sample(lm, x, lengths, top_k=1, **options)]
                warm = dict(
                    temperature=1.5, generator=torch.Generator().manual_seed(seed), **options
                )
                drawn = draft_and_verify(lm, x, draft, lengths, window=window, **warm)
                for b, n in enumerate(drawn.lengths.tolist()):
                    own, y = x[b : b + 1, : lengths[b]], drawn.tokens[b : b + 1, :n]
                    expected = log_likelihood(lm, own, y)[0]
                    same(drawn.log_probs[b, :n], expected, f"drawn, {said}, row {b}")
            for b, row in enumerate(alone):
                n = int(row.lengths)
                assert int(found[0].lengths[b]) == n, f"{said}, row {b}: another length"
                assert found[0].tokens[b, :n].tolist() == row.tokens[0].tolist(), f"{said}, row {b}"
                same(found[0].log_probs[b, :n], row.log_probs[0], f"{said}, row {b}")


@law()
def a_split_comes_back_in_its_order():
    """``convert`` gives each source its own text, also where that is longer or shorter than the source."""
    lm_rows = [[4, 5, 6], [7, 8], [4, 5], [9] * 5]
    for name, options in (
        ("ar", {"new": 2}),
        ("ar", {"new": 7}),
        ("ar", {"end_id": 7, "new": 9}),
        ("length", {}),
    ):
        model = build(name)
        decode = KINDS[name].decode
        found = convert(lambda x, n: decode(model, x, n, **options), Split(lm_rows, lm_rows))  # noqa: B023
        for x, y in zip(lm_rows, found, strict=True):
            alone = decode(model, torch.tensor([x]), **options)
            assert y == alone.tokens[0].tolist(), f"{name}, {options}, {x}"


@law(*AR)
def verified_draft_is_greedy(name):
    """Whatever the draft guesses, what comes out is greedy's sequence, in no more passes of the model."""
    model = build(name)
    for options, seed in itertools.product(PARALLEL, range(2)):
        x = tokens(4, 6, seed=seed)
        expected = greedy(model, x, **options)
        own = (
            options.get("lengths", torch.tensor([6] * 4)) if name == "lm" else torch.ones(4).long()
        )
        truth = torch.full((4, 16), PAD)  # the prompt and what greedy makes
        for b in range(4):
            n, made = int(own[b]), int(expected.lengths[b])
            truth[b, n : n + made] = expected.tokens[b, :made]
        for which, draft in drafts(name, truth).items():
            with counted(model) as calls:
                found = draft_and_verify(model, x, draft, **options)
            _same_decoding(found, expected, f"{which}, {options}")
            asked = 1 if "pass" in which else len(calls)
            assert found.steps == len(calls) + asked, f"{which}: {found.steps} said"
            assert len(calls) <= expected.steps, f"{which}: {len(calls)} passes"
            if options is PARALLEL[1]:  # 9 tokens, in each row
                if which == "all right":  # 3 guesses and a token more a pass
                    assert len(calls) == 3, f"all right, yet {len(calls)} passes"
                if which == "never right":
                    assert len(calls) == 9, f"never right, yet {len(calls)} passes"


@law()
def acceptance_keeps_p():
    """Kept or drawn again, a token comes out with probability p, whatever it was first drawn from."""
    random = torch.Generator().manual_seed(0)
    p = torch.randn(50, 7, generator=random).mul(2).softmax(-1)
    q = torch.randn(50, 7, generator=random).mul(2).softmax(-1)
    q[:7], q[7], q[8] = torch.eye(7), p[7], 0.0  # no choice, the same, nothing proposed
    q[9:12, :3], p[12:15, :3] = 0.0, 0.0
    q[9:12], p[12:15] = (r / r.sum(-1, keepdim=True) for r in (q[9:12], p[12:15]))
    keep, rest = acceptance(p, q)
    assert (keep >= 0).all() and (keep <= 1).all() and (rest >= 0).all()
    same(rest.sum(-1), torch.ones(50), "sum of the rest")
    kept = q * keep
    same(kept + (1 - kept.sum(-1, keepdim=True)) * rest, p, "what comes out", atol=1e-6)
    overlap = torch.minimum(p, q).sum(-1)
    same(kept.sum(-1), overlap, "how much is kept", atol=1e-6)


class EveryDraw:
    """Run a random function once for each thing that chance can do, with its probability.

    Stands in for ``torch.bernoulli`` and ``torch.multinomial``, and goes through the tree of their
    outcomes, depth first.
    """

    def __init__(self):
        self.todo, self.taken, self.weight = [[]], [], 1.0

    def choose(self, p):
        """p: the probabilities of outcomes 0, 1, ... Returns one of them."""
        possible = [i for i, chance in enumerate(p) if chance > 0]
        depth = len(self.taken)
        if depth < len(self.plan):
            taken = self.plan[depth]
        else:
            taken, *others = possible
            self.todo += [[*self.taken, other] for other in others]
        self.taken.append(taken)
        self.weight *= p[taken] / sum(p)
        return taken

    def bernoulli(self, p, generator=None):
        return torch.tensor([self.choose([1 - c, c]) for c in p.flatten().tolist()]).view(p.shape)

    def multinomial(self, p, number, generator=None):
        assert number == 1
        return torch.tensor([[self.choose(row)] for row in p.tolist()])

    def run(self, function):
        """The probability of each result of ``function``."""
        result = {}
        patch = unittest.mock.patch.multiple(
            torch, bernoulli=self.bernoulli, multinomial=self.multinomial
        )
        with patch:
            while self.todo:
                self.plan, self.taken, self.weight = self.todo.pop(), [], 1.0
                key = function()
                result[key] = result.get(key, 0.0) + self.weight
        return result


def random_drafts(V, T):
    """Drafts for sampling: one that draws each token by itself, one with its mind made up."""

    def draws(tokens, lengths):
        k = T + 1 - int(lengths.min())  # no more than can be used
        q = torch.randn(k, V, generator=torch.Generator().manual_seed(3)).mul(1.5).softmax(-1)
        guess = torch.multinomial(q.repeat(len(tokens), 1), 1).view(len(tokens), k)
        return guess, q.expand(len(tokens), k, V)

    def insists(tokens, lengths):
        return (torch.arange(T) + lengths[:, None]) % V

    made = {"one pass": build("sar-full-2-vocabulary", V=V), "draws": draws, "insists": insists}
    return made | {"shifts": build("shifted", V=V, shifts=2)}


@law("one pass", "draws", "insists", "shifts")
def speculation_is_exact(which):
    """Summed over all that chance can do, every sequence has the probability that the model gives it."""
    V, T = 3, 3 if which == "insists" else 2
    model, y, x = build("ar", V=V), every_sequence(V, T), torch.tensor([[2, 0, 1][:T]])
    draft = random_drafts(V, T)[which]
    for temperature in (1.0, 2.0):
        log_p = model(x.expand(len(y), T), shift_right(y, START)).div(temperature).log_softmax(-1)
        p = log_p.gather(2, y[..., None])[..., 0].sum(-1).exp()
        found = EveryDraw().run(
            lambda t=temperature: tuple(
                draft_and_verify(model, x, draft, temperature=t).tokens[0].tolist()
            )
        )
        got = torch.tensor([found.get(tuple(row), 0.0) for row in y.tolist()])
        same(got, p, f"probability of each y, {temperature=}")


@law("one pass", "draws", "insists", "shifts")
def speculation_follows_p(which):
    """Sequences are drawn as often as the model says (chi-square), in a batch whose rows differ in speed."""
    V, T, N = 4, 3, 6000
    model, y, x = build("ar", V=V), every_sequence(V, T), torch.tensor([[2, 3, 0]])
    p = score(model, x.expand(len(y), T), y).sum(-1).exp()
    torch.manual_seed(0)  # for the draft that draws
    made = draft_and_verify(
        model,
        x.expand(N, T),
        random_drafts(V, T)[which],
        temperature=1.0,
        generator=torch.Generator().manual_seed(0),
    )
    seen = torch.bincount(made.tokens @ torch.tensor([V * V, V, 1]), minlength=V**T)
    often = p * N >= 1  # chi-square is no good for cells that expect less
    chi2 = ((seen - N * p) ** 2 / (N * p))[often].sum()
    assert chi2 < 114, (
        f"chi-square {chi2:.0f} for {int(often.sum())} cells; 114 is 1 in 10,000 for 64"
    )
    same(made.log_probs, score(model, x.expand(N, T), made.tokens), "log-probability")


# ---------------------------------------------------------------- 8 one pass


@law(*SAR)
def one_pass_reads_no_output(name):
    """Forcing one predicted token to be another changes no other prediction, in one pass."""
    model, x = build(name), tokens(2, 6)
    free, passes = one_pass(model, x), []
    other = (free.tokens[:, 2] + 1) % 11

    def force(_, __, logits):
        passes.append(1)
        bonus = torch.zeros_like(logits)
        bonus[[0, 1], 2, other] = 100
        return logits + bonus

    with model.register_forward_hook(force):
        forced = one_pass(model, x)
    assert len(passes) == forced.steps == 1, f"{len(passes)} passes, {forced.steps} said"
    assert torch.equal(forced.tokens[:, 2], other), "nothing was forced"
    others = [0, 1, 3, 4, 5]
    assert torch.equal(forced.tokens[:, others], free.tokens[:, others]), "another token changed"
    assert torch.equal(forced.log_probs[:, others], free.log_probs[:, others]), "a log p changed"


@law()
def first_iteration_is_one_pass():
    """mask_predict's first iteration reads none of its tokens; its second reads those it keeps."""
    model, x = build("masked"), tokens(2, 6)
    nothing = torch.full_like(x, model.mask_id)
    free = mask_predict(model, x, iterations=1)
    value, best = model(x, nothing).log_softmax(-1).max(-1)
    assert torch.equal(free.tokens, best), "not the most probable tokens given x"
    same(free.log_probs, value, "log-probability")
    algorithm_1 = one_pass(model.streams, x)
    assert torch.equal(free.tokens, algorithm_1.tokens), "not Algorithm 1's"
    same(free.log_probs, algorithm_1.log_probs, "log-probability and Algorithm 1's", atol=0)
    other, seen = (free.tokens[:, 2] + 1) % 11, []

    def force(_, inputs, logits):
        seen.append(inputs[1])
        bonus = torch.zeros_like(logits)
        bonus[[0, 1], 2, other] = 100
        return logits + bonus

    with model.register_forward_hook(force):
        once, twice = (mask_predict(model, x, iterations=n) for n in (1, 2))
    assert len(seen) == once.steps + twice.steps == 3
    others = [0, 1, 3, 4, 5]
    assert torch.equal(seen[0], nothing), "the first iteration reads tokens"
    assert torch.equal(once.tokens[:, 2], other), "nothing was forced"
    assert torch.equal(once.tokens[:, others], free.tokens[:, others]), "another token changed"
    assert torch.equal(once.log_probs[:, others], free.log_probs[:, others]), "a log p changed"
    twice_free = mask_predict(model, x, iterations=2)
    again = seen[2] == model.mask_id  # said again, with the forced token in sight
    assert (again.sum(1) == 3).all() and not again[:, 2].any()
    assert (twice.log_probs != twice_free.log_probs)[again].any(), "the second does not read it"


@law()
def least_certain_are_said_again():
    """mask_predict is what its definition says, row by row and token by token."""
    model, x = build("masked"), tokens(4, 6)
    for iterations in (1, 2, 3, 5, 8):
        found, longest = mask_predict(model, x, LENGTHS, iterations), 0
        for b, n in enumerate(LENGTHS.tolist()):
            y, certain = [model.mask_id] * n, [0.0] * n
            for i in range(iterations):
                number = n * (iterations - i) // iterations
                hidden = sorted(range(n), key=lambda t, c=tuple(certain): c[t])[:number]
                longest = max(longest, i + 1) if hidden else longest
                for t in hidden:
                    y[t] = model.mask_id
                log_p = model(_alone(x, b), torch.tensor([y]))[0].log_softmax(-1).detach()
                for t in hidden:
                    y[t], certain[t] = int(log_p[t].argmax()), float(log_p[t].max())
            assert found.tokens[b].tolist() == y + [PAD] * (6 - n), f"row {b}, {iterations=}"
            same(found.log_probs[b, :n], torch.tensor(certain), f"row {b}, {iterations=}")
            assert (found.log_probs[b, n:] == 0).all() and found.lengths[b] == n
        assert found.steps == longest, f"{found.steps} said, {longest} taken"


@law()
def masked_loss_asks_for_what_it_hides():
    """A masked model is trained on the tokens it cannot see, on no others, and sees all others."""
    model, y, seen = build("masked").train(), ignore_padding(tokens(4, 6), LENGTHS), []
    batch = Batch(tokens(4, 6, seed=1), LENGTHS, y, LENGTHS)
    model.register_forward_hook(lambda _, inputs, logits: seen.append((inputs[1], logits)))
    torch.manual_seed(0)
    numbers = [set() for _ in range(4)]
    for _ in range(60):
        loss = loss_of(model, batch, "none")
        read, logits = seen.pop()
        hidden = read == model.mask_id
        assert ((loss > 0) == hidden).all(), "the loss counts other tokens than the hidden ones"
        shown = ~hidden & (y != IGNORE)
        assert torch.equal(read[shown], y[shown]), "what is shown is not y"
        assert (read[y == IGNORE] == PAD).all()
        p = logits.log_softmax(-1).gather(2, y.clamp(min=0)[..., None])[..., 0]
        same(loss, -p.masked_fill(~hidden, 0.0), "loss")
        for b, number in enumerate(hidden.sum(1).tolist()):
            numbers[b].add(number)
    every = [set(range(1, n + 1)) for n in LENGTHS.tolist()]
    assert numbers == every, f"numbers of hidden tokens: {numbers}, expected {every}"
    assert (hide(batch, 11, everything=True)[0] == 11).equal(y != IGNORE)


# ---------------------------------------------------------------- a shift that is told


@law()
def shifts_read_the_past():
    """A token k steps ahead is guessed from x_1..x_t, whatever k is; only the query stream is told k."""
    model = build("shifted", shifts=3)
    x = torch.tensor([[4, 8, 5, 7, 6]])
    random = torch.randn(11, generator=torch.Generator().manual_seed(0))
    causal, heard = torch.ones(5, 5).tril().bool(), []
    for k in (1, 2, 3):
        outputs = (model(x, torch.tensor([k]))[0].log_softmax(-1) * random).sum(-1)
        for stream, embed in enumerate(model.streams.embed):
            _check_reads(reads(model, x, embed, outputs), causal, f"shift {k}, stream {stream}")
        heard.append(outputs.detach())
    assert all((heard[0] - other).abs().min() > 1e-3 for other in heard[1:]), "k changes nothing"


@law()
def shifted_loss_is_what_look_ahead_says():
    """What is learned about the token k ahead is what ``look_ahead`` is asked for behind the same past."""
    model, y = build("shifted", shifts=3).train(), ignore_padding(tokens(4, 6), LENGTHS)
    batch, drawn = Batch(tokens(4, 6, seed=1), LENGTHS, y, LENGTHS), [set() for _ in range(4)]
    read = torch.cat(
        (torch.full((4, 1), START), y), 1
    )  # <s> y_1 y_2 ..., which training never sees whole
    expected = torch.zeros(3, 4, 6)  # (k - 1, row, position)
    with torch.no_grad():
        for b, n in enumerate(LENGTHS.tolist()):
            for t in range(n):
                p = model.ahead(read[b : b + 1, : t + 1])[0].log_softmax(-1)  # (K, V)
                for k in range(min(3, n - t)):
                    expected[k, b, t] = -p[k, y[b, t + k]]
    torch.manual_seed(0)
    for _ in range(60):
        loss = loss_of(model, batch, "none").detach()
        for b, n in enumerate(LENGTHS.tolist()):
            k = n - int((loss[b] > 0).sum())  # the last k - 1 positions have no target
            drawn[b].add(k + 1)
            same(loss[b], expected[k, b], f"row {b}, shift {k + 1}")
    every = [set(range(1, min(3, n) + 1)) for n in LENGTHS.tolist()]
    assert drawn == every, f"shifts {drawn}, expected {every}"
    same(loss_of(model.eval(), batch, "none"), expected[0], "evaluation is not at shift 1")


@law()
def look_ahead_is_its_own_row():
    """A row's guesses are the same alone as in a batch, whatever stands in its padding."""
    model, x = build("shifted", shifts=3), tokens(4, 6)
    batch = look_ahead(model, x, LENGTHS)
    for b in range(4):
        alone = look_ahead(model, _alone(x, b))
        assert torch.equal(batch.tokens[b], alone.tokens[0]), f"row {b}"
        same(batch.log_probs[b], alone.log_probs[0], f"row {b}")


# ---------------------------------------------------------------- a chain over one pass


@torch.no_grad()
def chain_by_definition(model, x, y):
    """The score of each y (N, T) for each x (B, T) as the formula says it, token by token, (B, N)."""
    s, M = model(x), model.before @ model.after.T
    scores = torch.zeros(len(x), len(y), dtype=s.dtype)
    for i, row in enumerate(y.tolist()):
        for t, v in enumerate(row):
            scores[:, i] += s[:, t, v] + (M[row[t - 1], v] if t else 0.0)
    return scores


@law()
def chain_sums_over_every_y():
    """log p(y | x) is the score of y less the log of the sum over all y, and its terms are the chain rule's."""
    model = build("transition", V=4, rank=2).double()
    x, y = tokens(5, 4, V=8) - 4, every_sequence(4, 4)
    log_p = chain_by_definition(model, x, y).log_softmax(1)  # (5, 256)
    n = torch.full((len(x) * len(y),), 4)
    pairs = Batch(x.repeat_interleave(len(y), 0), n, y.repeat(len(x), 1), n)
    terms = -transition_loss(model, pairs, "none").detach()
    same(terms.sum(1).view(log_p.shape), log_p, "log p(y | x)", atol=1e-9)
    for t in range(1, 5):
        alike = (y[:, None, :t] == y[None, :, :t]).all(-1).double()  # (256, 256): one beginning
        beginning = (log_p.exp() @ alike).log()  # log p(y_<=t | x)
        same(terms[:, :t].sum(1).view(log_p.shape), beginning, f"log p(y_<={t} | x)", atol=1e-9)


@law()
def best_of_a_chain_is_exhaustive():
    """What comes out of ``transition_pass`` is the best of all y, and not what each token would choose."""
    model = build("transition", V=4, rank=2).double()
    x, y = tokens(40, 4, V=8) - 4, every_sequence(4, 4)
    log_p = chain_by_definition(model, x, y).log_softmax(1)
    found = transition_pass(model, x)
    assert torch.equal(found.tokens, y[log_p.argmax(1)]), "not the most probable y"
    same(found.log_probs.sum(1), log_p.max(1).values, "log p of the best", atol=1e-9)
    assert found.steps == 1 and found.lengths.tolist() == [4] * 40
    for other in (one_pass(model.streams, x).tokens, model.chain(x).marginals().argmax(-1)):
        assert not torch.equal(found.tokens, other), "others say the same: this says little"


# ---------------------------------------------------------------- y of another length


@law("length", "ctc")
def unequal_lengths_change_nothing(name):
    """With x and y of different lengths, a row loses and says the same alone as in a batch."""
    model, x = build(name), tokens(4, 6)
    T = torch.tensor([5, 2, 3, 8])
    y = 4 + (torch.arange(4)[:, None] + 3 * torch.arange(8)) % 7  # no two neighbours are equal
    alone = [
        Batch(_alone(x, b), LENGTHS[b : b + 1], y[b : b + 1, : T[b]], T[b : b + 1])
        for b in range(4)
    ]
    together = Batch(x, LENGTHS, ignore_padding(y, T), T)
    decoders = {"ctc": lambda pairs: ctc_pass(model, pairs.x, pairs.x_lengths)} if name == "ctc" else {
        "likeliest length": lambda pairs: length_pass(model, pairs.x, pairs.x_lengths),
        "four lengths": lambda pairs: length_pass(model, pairs.x, pairs.x_lengths, beam=4),
        "told": lambda pairs: length_pass(model, pairs.x, pairs.x_lengths, new=pairs.y_lengths),
    }  # fmt: skip
    each = loss_of(model, together, "none")
    for b, row in enumerate(alone):
        same(each[b, : T[b]], loss_of(model, row, "none")[0], f"loss of row {b}")
        assert (each[b, T[b] :] == 0).all(), "padding has a loss"
    for which, decode in decoders.items():
        batch = decode(together)
        for b, row in enumerate(alone):
            one, n = decode(row), int(batch.lengths[b])
            assert n == int(one.lengths[0]), f"{which}, row {b}: {n} tokens"
            assert batch.tokens[b, :n].tolist() == one.tokens[0].tolist(), f"{which}, row {b}"
            same(batch.log_probs[b, :n], one.log_probs[0], f"{which}, row {b}")
            assert (batch.tokens[b, n:] == PAD).all() and (batch.log_probs[b, n:] == 0).all()


@law()
def lengths_and_tokens_sum_to_one():
    """The length model's probabilities of all y of all lengths, given one x, sum to 1."""
    model, total = build("length", V=3, max_length=3), 0.0
    for T in (1, 2, 3):
        y = every_sequence(3, T).tolist()
        pairs = make_batch([[1, 3]] * len(y), y)
        total += loss_of(model, pairs, "none").sum(1).neg().exp().sum()
    same(total, torch.ones(()), "sum over all T and y")


@law()
def ctc_sums_every_way():
    """The CTC loss of y is minus the log of the sum over all the ways to say y, and all y sum to 1."""
    model, x, blank = build("ctc", V=3, upsample=2), [[1, 3], [2, 2]], 3
    ways = every_sequence(4, 4)  # u S = 4 places
    log_p = model(torch.tensor(x)).log_softmax(-1)  # (2, 4, 4)
    for b in range(2):
        of_way = log_p[b, torch.arange(4), ways].sum(1).exp()
        of_y = {}
        for p, way in zip(of_way, ways.tolist(), strict=True):
            y = tuple(v for v, _ in itertools.groupby(way) if v != blank)
            of_y[y] = of_y.get(y, 0.0) + p
        silence = of_y.pop(())
        pairs = make_batch([x[b]] * len(of_y), list(map(list, of_y)))
        loss = loss_of(model, pairs, "none").sum(1)
        same(loss, -torch.stack(list(of_y.values())).log(), "-log p(y | x)")
        same(loss.neg().exp().sum() + silence, torch.ones(()), "sum over all y")


@law()
def a_blank_keeps_equal_tokens_apart():
    """``collapse`` is what ``itertools.groupby`` and a filter make of a row, for every row there is."""
    ways, blank = every_sequence(4, 5), 3
    lengths = torch.arange(len(ways)) % 5 + 1
    found, of, T = collapse(ways, blank, lengths)
    for row, (way, n) in enumerate(zip(ways.tolist(), lengths.tolist(), strict=True)):
        runs = [(v, len(list(run))) for v, run in itertools.groupby(way[:n])]
        y = [v for v, _ in runs if v != blank]
        assert found[row].tolist() == y + [PAD] * (found.shape[1] - len(y)), f"{way[:n]}"
        assert T[row] == len(y), f"{way[:n]}"
        said, place = -1, []
        for v, length in runs:
            said += v != blank
            place += [max(said, 0)] * length
        assert of[row, :n].tolist() == place, f"{way[:n]}"


@law(*AR)
def step_by_step_reads_its_output(name):
    """Forcing one predicted token changes every later log-probability, and no earlier one."""
    model, x = build(name), tokens(2, 6)
    free, step, calls = greedy(model, x, new=6), model.step, []

    def force(*arguments, **options):
        logits = step(*arguments, **options)
        calls.append(1)
        if len(calls) == 3:
            logits[[0, 1], -1, (free.tokens[:, 2] + 1) % 11] += 100
        return logits

    model.step = force
    forced = greedy(model, x, new=6)
    assert len(calls) == forced.steps == free.steps == 6, f"{len(calls)} steps, {forced.steps} said"
    assert torch.equal(forced.log_probs[:, :2], free.log_probs[:, :2]), "the past changed"
    assert (forced.log_probs[:, 3:] != free.log_probs[:, 3:]).all(), "the future did not"


# ---------------------------------------------------------------- decoders


@law(*AR)
def narrowest_beam_is_greedy(name):
    """A beam of width 1 is greedy decoding."""
    model, x = build(name), tokens(4, 6)
    for options in ({}, {"new": 7}, {"new": 7, "end_id": 5}, {"new": torch.tensor([2, 5, 1, 7])}):
        one, other = beam(model, x, width=1, **options), greedy(model, x, **options)
        assert torch.equal(one.tokens, other.tokens), f"{options}"
        same(one.log_probs, other.log_probs, f"{options}")
        assert one.steps == other.steps and torch.equal(one.lengths, other.lengths)


@law(*AR)
def widest_beam_is_exhaustive(name):
    """A beam as wide as there are prefixes to keep, V ** (T - 1), finds the best of all sequences."""
    V, T = 3, 4
    model, y = build(name, V=V), every_sequence(V, T)
    x = every_sequence(V, 3)  # a prompt or a source a row
    found = beam(model, x, new=T, width=V ** (T - 1))
    pairs = x.repeat_interleave(len(y), 0), y.repeat(len(x), 1)
    scores = log_likelihood(model, *pairs).sum(-1).view(len(x), len(y))
    assert torch.equal(found.tokens, y[scores.argmax(-1)]), "not the best"
    same(found.log_probs.sum(-1), scores.max(-1).values, "score")
    assert not torch.equal(found.tokens, greedy(model, x, new=T).tokens), "greedy finds it too"


@law(*AR)
def end_stops_a_beam(name):
    """With an end token the widest beam finds the best of all sequences that stop at their first end."""
    V, T = 3, 4
    model, x, y = build(name, V=V), every_sequence(V, 3), every_sequence(V, T)
    pairs = x.repeat_interleave(len(y), 0), y.repeat(len(x), 1)
    each = log_likelihood(model, *pairs).view(len(x), len(y), T)
    lengths = set()
    for end in range(V):
        found = beam(model, x, new=T, end_id=end, width=V**T)
        after = (y == end).cumsum(-1) - (y == end).long() > 0  # the first end
        scores = each.masked_fill(after, 0.0).sum(-1)
        best = scores.argmax(-1)
        same(found.log_probs.sum(-1), scores.max(-1).values, f"score, {end=}")
        assert torch.equal(found.lengths, T - after[best].sum(-1)), f"lengths, {end=}"
        longest = found.tokens.shape[1]
        expected = y.masked_fill(after, PAD)[best].narrow(1, 0, longest)
        assert torch.equal(found.tokens, expected), f"not the best, {end=}"
        lengths |= set(found.lengths.tolist())
    assert len(lengths) > 1, "all rows end alike: the comparison says little"


@law("plain", "temperature", "top_k")
def samples_follow_p(which):
    """Sequences are drawn as often as the model says (chi-square)."""
    V, N = 4, 6000
    model, y = build("lm", V=V), every_sequence(V, 2)
    options = {"plain": {}, "temperature": {"temperature": 2.0}, "top_k": {"top_k": 3}}[which]
    log_p = model(torch.cat((torch.full((len(y), 1), START), y), 1)).log_softmax(-1)[:, :2]
    if which == "top_k":
        log_p = log_p.masked_fill(log_p == log_p.min(-1, keepdim=True).values, -math.inf)
    p = (log_p / options.get("temperature", 1.0)).softmax(-1)
    p = p.gather(2, y[..., None])[..., 0].prod(-1)  # of each of the V ** 2 sequences
    generator = torch.Generator().manual_seed(0)
    drawn = sample(model, torch.full((N, 1), START), new=2, generator=generator, **options).tokens
    seen = torch.bincount(drawn[:, 0] * V + drawn[:, 1], minlength=V * V)
    assert (seen[p == 0] == 0).all(), "a token outside the top k was drawn"
    often = p * N >= 1  # chi-square is no good for cells that expect less
    chi2 = ((seen - N * p) ** 2 / (N * p))[often].sum()
    assert chi2 < 45, (
        f"chi-square {chi2:.0f} for {int(often.sum())} cells; 45 is 1 in 10,000 for 16"
    )


@law(*AR)
def a_generator_is_a_sample(name):
    """The same seed of the generator draws the same tokens, another seed draws others."""
    model, x = build(name), tokens(4, 6)
    one, two, other = (
        sample(model, x, generator=torch.Generator().manual_seed(seed)).tokens for seed in (0, 0, 1)
    )
    assert torch.equal(one, two), "the same seed, other tokens"
    assert not torch.equal(one, other), "another seed, the same tokens"


@law(*AR)
def end_stops_a_row(name):
    """A row ends with its first end token, the others go on; ``new`` bounds each row by its own."""
    model, x = build(name), tokens(5, 6)
    free = greedy(model, x, new=8)
    end = int(free.tokens[0, 3])  # what row 0 says, at the latest in its fourth step
    limits = torch.tensor([8, 8, 8, 3, 1])
    made = greedy(model, x, new=limits, end_id=end)
    for b, row in enumerate(free.tokens.tolist()):
        row = row[: limits[b]]
        row = row[: row.index(end) + 1] if end in row else row
        n = int(made.lengths[b])
        assert made.tokens[b, :n].tolist() == row, f"row {b}"
        assert (made.tokens[b, n:] == PAD).all() and (made.log_probs[b, n:] == 0).all()


# ---------------------------------------------------------------- attention


@law()
def masks_are_their_definition():
    """Masks say who may look at whom, as a double loop over t and s says it."""
    for T, past, strict in itertools.product((1, 2, 5), (0, 3), (False, True)):
        mask = causal_mask(T, strict=strict, past=past)
        assert mask.shape == (T, past + T) and mask.dtype == torch.bool
        for t, s in itertools.product(range(T), range(past + T)):
            visible = s < past + t if strict else s <= past + t
            assert bool(mask[t, s]) == visible, f"causal, {T=} {past=} {strict=} {t=} {s=}"
    assert full_mask(4).all() and full_mask(4).shape == (4, 4)
    mask = padding_mask(torch.tensor([3, 1, 4]), 4)
    assert mask.shape == (3, 1, 1, 4)
    for b, n in enumerate((3, 1, 4)):
        assert mask[b, 0, 0].tolist() == [s < n for s in range(4)], f"padding, row {b}"


@law()
@torch.no_grad()
def a_mask_of_ones_own_hides_padding_too():
    """A function as a mask, that sees two tokens either way, in a batch with padding: each row as if alone."""

    def near(T, device=None):
        at = torch.arange(T, device=device)
        return (at[:, None] - at).abs() <= 2  # sees two ahead as well, so padding is in sight

    model, x = build("sar-full-2-vocabulary", mask=near), tokens(3, 6)
    lengths = torch.tensor([6, 3, 1])
    together = model(x, lengths)
    for b, n in enumerate(lengths.tolist()):
        same(together[b, :n], model(x[b : b + 1, :n])[0], f"row {b}")


@law()
@torch.no_grad()
def the_length_is_its_formula():
    """p(T | x): a head over <s>, as the content stream reads it in front of x."""
    model, x = build("length").double(), torch.cat((torch.tensor([START]), tokens(1, 5)[0]))
    h = model.streams.embed[0][x]
    for block in model.streams.streams[0]:
        h = slow_block(block, h, everything)
    expected = slow_norm(h, model.streams.gains[0])[0] @ model.head
    same(model.length_logits(x[None, 1:])[0], expected, "log p(T | x)")


@law()
def rotary_is_relative():
    """Turned by their positions, a query and a key have a product that only their distance decides."""
    q, k = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    turn = torch.view_as_complex(rotations(12, 8))

    def product(t, s):
        def turned(v, at, which):
            return heads(v[None, None], turn[which : which + 1, :, :, at : at + 1], 1).flatten()

        return turned(q, t, 0) @ turned(k, s, 1)

    products = {d: [product(s + d, s) for s in range(12) if 0 <= s + d < 12] for d in range(-5, 6)}
    for d, equal in products.items():
        same(torch.stack(equal), equal[0].expand(len(equal)), f"distance {d}")
    assert len({round(float(equal[0]), 3) for equal in products.values()}) == 11, "all the same"


# The same models, written slowly: one row, one head, one position after the other, sines and cosines
# in place of complex numbers, and nothing of the package but the weights and the options.


def slow_turned(v, at):
    """Each pair of v (Dh,) turned by the angle at / 10000^(2i / Dh), i the pair's number."""
    turned = v.clone()
    for i in range(len(v) // 2):
        angle = at * math.exp(-math.log(10000) * 2 * i / len(v))
        a, b = v[2 * i], v[2 * i + 1]
        turned[2 * i] = a * math.cos(angle) - b * math.sin(angle)
        turned[2 * i + 1] = a * math.sin(angle) + b * math.cos(angle)
    return turned


def slow_norm(h, gain):
    centred = h - h.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * gain


def slow_scores(asks, source, W_q, W_k, H):
    """q . k / sqrt(Dh) of each head, (H, T, S)."""
    q, k = asks @ W_q, source @ W_k
    Dh = q.shape[1] // H
    scores = torch.zeros(H, len(q), len(k), dtype=q.dtype)
    for h, t, s in itertools.product(range(H), range(len(q)), range(len(k))):
        part = slice(h * Dh, (h + 1) * Dh)
        scores[h, t, s] = slow_turned(q[t, part], t) @ slow_turned(k[s, part], s) / math.sqrt(Dh)
    return scores


def slow_read(asks, source, W_q, W_k, W_v, H, may_look):
    """What each position reads, the heads side by side: (T, D)."""
    scores, v = slow_scores(asks, source, W_q, W_k, H), source @ W_v
    Dh = v.shape[1] // H
    rows = []
    for t in range(len(asks)):
        seen = [s for s in range(len(source)) if may_look(t, s)]
        per_head = [
            scores[h, t, seen].softmax(-1) @ v[seen, h * Dh : (h + 1) * Dh] for h in range(H)
        ]
        rows.append(torch.cat(per_head))
    return torch.stack(rows)


def slow_block(block, h, may_look, source=None):
    w, H, D = dict(block.named_parameters()), block.heads, h.shape[1]
    n = slow_norm(h, w["gain"])
    W_q, W_k, W_v = w["qkv"].split(D, 1)
    h = h + slow_read(n, n, W_q, W_k, W_v, H, may_look) @ w["out"]
    if source is not None:
        n, (W_k, W_v) = slow_norm(h, w["cross_gain"]), w["cross_kv"].split(D, 1)
        h = h + slow_read(n, source, w["cross_q"], W_k, W_v, H, lambda t, s: True) @ w["cross_out"]
    return h + (slow_norm(h, w["feed_gain"]) @ w["feed_in"]).clamp(min=0) @ w["feed_out"]


def causal(t, s):
    return s <= t


def everything(t, s):
    return True


@law(*SAR)
@torch.no_grad()
def algorithm_1_is_its_formula(name):
    """Two streams over x, content-query attention between them, then tokens, as section 3.2 has it."""
    model, x = build(name).double(), tokens(1, 5)[0]
    may_look, H = everything if model.mask == "full" else causal, model.config.heads
    ends = []
    for E, stream, gain in zip(model.embed, model.streams, model.gains, strict=True):
        h = E[x]
        for block in stream:
            h = slow_block(block, h, may_look)
        ends.append(slow_norm(h, gain))
    content, query = ends[0], ends[-1]
    W_k, W_v = model.cqa.kv.split(model.config.width, 1)
    if model.completion == "vocabulary":
        read = slow_read(query, content, model.cqa.q, W_k, W_v, H, may_look) @ model.cqa.out
        expected = (slow_norm(query + read, model.gain) @ model.head).log_softmax(-1)
    else:  # the heads' products summed, with the width of all of them
        scores = slow_scores(query, content, model.cqa.q, W_k, H).sum(0) / math.sqrt(H)
        expected = torch.zeros(5, model.config.target_vocab, dtype=torch.float64)
        for t in range(5):
            seen = [s for s in range(5) if may_look(t, s)]
            for s, p in zip(seen, scores[t, seen].softmax(-1), strict=True):
                expected[t, x[s]] += p
        one = model(x[None]).exp().sum(-1)  # of probabilities, without a softmax
        same(one, torch.ones_like(one), "sum of p over tokens", atol=1e-9)
        floor = model.COPY_FLOOR
        expected = ((1 - floor) * expected + floor / model.config.target_vocab).log()
    same(model(x[None])[0].log_softmax(-1), expected, "log p(y_t | x)")  # rotations are float32


@law(*AR)
@torch.no_grad()
def the_baseline_is_its_formula(name):
    """An encoder and a decoder that reads it (Vaswani 2017), or the decoder alone."""
    model, x, y = build(name).double(), tokens(1, 4)[0], tokens(1, 5, seed=1)[0]
    source = None
    if name == "ar":
        h = model.source_embed[x]
        for block in model.encoder:
            h = slow_block(block, h, everything)
        source = slow_norm(h, model.encoder_gain)
    h = model.embed[y]
    for block in model.layers:
        h = slow_block(block, h, causal, source)
    expected = slow_norm(h, model.gain) @ model.embed.T
    found = model(y[None]) if name == "lm" else model(x[None], y[None])
    same(found[0], expected, "logits")


@law()
def passes_are_counted():
    """What a decoder says of its passes is what a hook on the model's first layer counts."""
    x, seen = tokens(2, 5), []
    for kind, (model, _, decode) in KINDS.items():
        model = build("sar-full-2-vocabulary" if kind == "sar" else kind)
        layers = model.layers if kind in AR else next(model.modules())
        first = next(m for m in layers.modules() if isinstance(m, Block))
        with first.register_forward_pre_hook(lambda *_: seen.append(1)):
            decoded = decode(model, x)
        # p(T | x) reads the content stream once more; an encoder's pass is not the decoder's.
        expected = decoded.steps if kind in AR else decoded.calls
        assert len(seen) == expected, f"{kind}: {len(seen)} passes, said {expected}"
        seen.clear()


@law()
def values_are_not_turned():
    """What is read of a sequence of equal values is that value, wherever the reader stands."""
    x = torch.randn(8, generator=torch.Generator().manual_seed(0)).expand(1, 6, 8)
    q, k, v = heads(x.repeat(1, 1, 3), torch.view_as_complex(rotations(6, 4)), H=2)
    same(attend(q, torch.stack((k, v)), causal_mask(6)), x, "what was read")


@law()
def nothing_to_look_at_is_zero():
    """Under the strict mask the first row reads 0, and its gradients are finite."""
    random = torch.Generator().manual_seed(0)
    q = torch.randn(1, 2, 4, 8, generator=random, requires_grad=True)
    kv = torch.randn(2, 1, 2, 4, 8, generator=random, requires_grad=True)
    for backend in (SDPBackend.MATH, SDPBackend.FLASH_ATTENTION):  # training's, decoding's on a CPU
        with sdpa_kernel(backend):
            read = attend(q, kv, causal_mask(4, strict=True))
            assert (read[0, 0] == 0).all() and (read[0, 1:].abs().sum(-1) > 1e-3).all(), backend
            for gradient in torch.autograd.grad((read**2).sum(), (q, kv)):
                assert gradient.isfinite().all(), f"gradients are not finite ({backend})"


@law(*(name for name in SAR if name.endswith("copy")))
def copying_needs_the_original(name):
    """A token that x lacks (where it may look) has at most the floor; all of them sum to 1."""
    model, x = build(name), torch.tensor([[4, 8, 5, 4, 6]])
    p = model(x)[0].exp()  # (T, V): the logits are log-probabilities
    same(p.sum(-1), torch.ones(5), "sum over the vocabulary")
    for t in range(5):
        seen = set(x[0].tolist() if "full" in name else x[0, : t + 1].tolist())
        for v in range(11):
            if v not in seen:
                assert p[t, v] <= model.COPY_FLOOR, f"{v} is not in x but has p = {p[t, v]}"
            else:
                assert p[t, v] > model.COPY_FLOOR, f"{v} is in x but has p = {p[t, v]}"


# ---------------------------------------------------------------- training


@law(*AR)
def decoding_leaves_no_trace(name):
    """A model that has decoded trains as if it had not."""

    def gradients(decode_first):
        model, x = build(name), tokens(2, 5)
        if decode_first:
            greedy(model, x)
            log_likelihood(model, x, x)
        n = torch.tensor([5, 5])
        loss_of(model, Batch(x, n, x, n)).backward()
        return [weight.grad for weight in model.parameters() if weight.grad is not None]

    for one, other in zip(gradients(True), gradients(False), strict=True):
        same(one, other, "gradient", atol=0)


@contextlib.contextmanager
def ctrl_c(at_step: int):
    """Press Ctrl-C in the middle of the step that comes after ``at_step - 1`` whole ones."""
    count, a_step = itertools.count(1), training.loss_and_gradients

    def interrupted(*arguments):
        if next(count) == at_step:
            signal.raise_signal(signal.SIGINT)
        return a_step(*arguments)

    training.loss_and_gradients = interrupted
    try:
        yield
    finally:
        training.loss_and_gradients = a_step


TINY = dict(symbols=6, min_length=2, max_length=4, sizes=(60, 10, 10))


def run(folder, kind="sar", recipe=None, resume=False, task=None, **options):
    """A few steps on a tiny task: the model and its metrics."""
    task = task or load_task("reverse", **TINY)
    options = dict(width=16, layers=1, heads=2, max_length=8, dropout=0.2) | options
    options |= {"shifts": 3} if kind == "shifted" else {}
    model = make_model(kind, task, **options)
    recipe = recipe or Recipe(steps=12, tokens=40, warmup=4, short=8, report=3, checkpoint=4)
    return model, train(model, task, recipe, folder, resume, progress=False)


@law("sar", "ar", "lm", "masked", "shifted", "transition", "length", "ctc")
def resume_is_exact(kind, tmp_path):
    """A run that was stopped and resumed ends with the weights, to the last bit, of one that was not."""
    model, metrics = run(tmp_path / "whole", kind)
    with ctrl_c(at_step=7), contextlib.suppress(Interrupted):
        run(tmp_path / "parts", kind)
        raise AssertionError("Ctrl-C was not noticed")
    resumed, parts = run(tmp_path / "parts", kind, resume=True)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), f"{name} differs"
    assert [row["step"] for row in parts] == [row["step"] for row in metrics] == [3, 6, 9, 12]
    assert parts[-1]["validation"] == metrics[-1]["validation"]


class Killed(BaseException):
    """A process that ends here: nothing that would follow is done."""


@contextlib.contextmanager
def dies_after(number: int, of: type[BaseException] = Killed):
    """The process ends, or else fails, when it would write one more than ``number`` files."""
    left, write = itertools.count(), files.write_atomically

    def writes(*arguments):
        if next(left) >= number:
            raise of
        write(*arguments)

    with contextlib.ExitStack() as patches:
        for module in (runs, stored, files):
            patches.enter_context(unittest.mock.patch.object(module, "write_atomically", writes))
        yield


@law("often", "once")
def a_run_may_end_between_any_two_files(checkpoints, tmp_path, of=Killed):
    """However many were written, the run can be resumed, and ends with the weights of one that never
    stopped, on disk too; nowhere do weights lie beside the last checkpoint that are not its own."""
    checkpoint = {"often": 2, "once": 100}[checkpoints]
    recipe = Recipe(steps=4, tokens=40, warmup=2, report=2, checkpoint=checkpoint)
    model, _ = run(None, "ar", recipe)
    for number in range(99):
        folder, done = tmp_path / str(number), False
        with contextlib.suppress(of), dies_after(number, of):
            run(folder, "ar", recipe)
            done = True
        weights = (folder / "model.safetensors").exists()
        if weights and last_checkpoint(folder) == recipe.steps:
            same_as(load(folder), model, f"after {number} files")
        run(folder, "ar", recipe, resume=True)
        same_as(load(folder), model, f"resumed after {number} files")
        if done:
            return
    raise AssertionError("it never ends")


def last_checkpoint(folder) -> int:
    """The step of the checkpoint in a folder, -1 if there is none."""
    path = folder / "checkpoint.safetensors"
    if not path.exists():
        return -1
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["about"])["step"]


def same_as(found, model, where: str) -> None:
    """The weights are the model's, to the last bit."""
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, found.state_dict()[name]), f"{where}: another {name}"


@law()
def other_pairs_are_another_run(tmp_path):
    """A run does not go on with other pairs than it began with, whatever their text is called."""
    with ctrl_c(at_step=7), contextlib.suppress(Interrupted):
        run(tmp_path, "ar")
    task = load_task("reverse", **TINY)
    edited = Split(task.train.x[::-1], task.train.y[::-1])
    try:
        run(tmp_path, "ar", task=dataclasses.replace(task, train=edited), resume=True)
    except Refusal as error:
        assert "set of pairs" in str(error)
    else:
        raise AssertionError("it went on with a text that was edited")


@law("model.safetensors", "checkpoint.safetensors")
def damage_is_noticed(name, tmp_path):
    """One bit, the least of one number, and the file is not taken for what was written."""
    run(tmp_path, "ar")
    data = bytearray((tmp_path / name).read_bytes())
    data[-4] ^= 1
    (tmp_path / name).write_bytes(data)
    try:
        load(tmp_path) if name.startswith("model") else run(tmp_path, "ar", resume=True)
    except DamagedCheckpoint as error:
        assert name in str(error)
    else:
        raise AssertionError(f"{name} was changed, and nobody said so")


@law()
def data_go_on_where_they_stopped():
    """From step n on, a resumed run reads what a whole one reads, also where passes differ in their batches."""
    shuffle = random.Random(0)
    pairs = [([4] * 3, [4 + i % 9] * shuffle.randint(1, 9)) for i in range(40)]
    split, recipe = (
        Split(*map(list, zip(*pairs, strict=True))),
        Recipe(steps=60, tokens=30, short=9),
    )
    assert len({len(batch_plan(split, 30, (0, epoch))) for epoch in range(4)}) > 1

    def read(step):
        return [b.y for b in itertools.islice(training.endless(split, recipe, step), 60 - step)]

    whole = read(0)
    for step in (5, 9, 20, 33, 58):
        rest = read(step)
        assert all(map(torch.equal, rest, whole[step:])), f"another batch behind step {step}"


@law()
def full_disk_keeps_the_old_file(tmp_path):
    """When the disk is full in the middle of a file, the old one is still there, whole, and no part."""
    path = tmp_path / "file"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"old, whole")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with unittest.mock.patch("os.replace", full):
        try:
            write_atomically(path, b"new" * 1000)
        except OSError as error:
            assert str(path) in str(error), f"the message does not name the file: {error}"
        else:
            raise AssertionError("nobody was told that the disk is full")
    assert path.read_bytes() == b"old, whole", "the old file is gone"
    assert list(tmp_path.iterdir()) == [path], f"left behind: {list(tmp_path.iterdir())}"


# ---------------------------------------------------------------- all decoders alike

EVERY_DECODER = {
    "one_pass": ("sar-full-2-vocabulary", one_pass),
    "mask_predict": ("masked", mask_predict),
    "transition_pass": ("transition", transition_pass),
    "length_pass": ("length", length_pass),
    "ctc_pass": ("ctc", ctc_pass),
    "look_ahead": ("shifted", look_ahead),
    "greedy": ("ar", greedy),
    "beam": ("ar", beam),
    "jacobi": ("ar", jacobi),
    "draft_and_verify": ("ar", lambda model, x: draft_and_verify(model, x, same_draft)),
    "sample": ("ar", lambda model, x: sample(model, x, generator=torch.Generator().manual_seed(0))),
    "greedy, no source": ("lm", greedy),
}


def same_draft(tokens, lengths):
    return tokens[:, :1].clamp(min=4)


@law(*EVERY_DECODER)
def decoders_do_not_drop(which):
    """Whatever mode the model is in, and left in that mode; tokens and lengths are int64, nats as precise as
    the weights but never half; and 8 tokens are decoded where max_length is 8."""
    name, decode = EVERY_DECODER[which]
    model, x = build(name, dropout=0.5, max_length=8), tokens(3, 4 if name == "lm" else 8)
    if name == "lm":  # 4 of the 8 are the prompt
        assert decode(model, x, new=5).tokens.shape == (3, 5)
    rest, narrow = decode(model, x), decode(model, x.int())
    busy = decode(model.train(), x)
    assert model.training and all(part.training for part in model.modules())
    frozen = list(model.modules())[-1].eval()  # stays as it was, whatever the rest is
    assert decode(model, x) and model.training and not frozen.training
    for other in (busy, narrow):
        _same_decoding(other, rest, which)
        assert (other.tokens.dtype, other.lengths.dtype) == (torch.int64, torch.int64)
    assert rest.log_probs.dtype == torch.float32
    assert decode(model.double(), x).log_probs.dtype == torch.float64
