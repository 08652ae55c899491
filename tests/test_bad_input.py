"""Bad input is refused at once, with the argument's name, what was expected and what was given.

Tasks and their options have their own tests of this kind in test_tasks.py, the command in test_cli.py.
"""

import errno
import json
import math
import os
import re

import pytest
import torch
from laws import TINY, build, ctrl_c, ignore_padding, run, tokens

from sar_minimal.algorithm1 import DualStreamSAR, one_pass
from sar_minimal.autoregressive import EncoderDecoderAR
from sar_minimal.blocks import Config
from sar_minimal.checks import check_lengths
from sar_minimal.data import Batch, Split, Vocab, accuracy, make_batch
from sar_minimal.decoding import beam, greedy, log_likelihood, sample
from sar_minimal.influence import influence
from sar_minimal.kinds import KINDS, loss_of, make_model
from sar_minimal.lab.device import choose_device
from sar_minimal.lab.runs import Interrupted, load_run, train
from sar_minimal.lab.stored import DamagedCheckpoint, load, save
from sar_minimal.lengths import collapse, ctc_pass, length_pass
from sar_minimal.losses import ar_loss, sar_loss, slm_loss
from sar_minimal.masked import mask_predict
from sar_minimal.shift import IGNORE, PAD, START, shift_right, shifted_targets
from sar_minimal.speculation import draft_and_verify, jacobi
from sar_minimal.tasks import load_task
from sar_minimal.theory import exact_loss
from sar_minimal.training import Recipe, endless, evaluate
from sar_minimal.transition import transition_pass

X = tokens(2, 5)


def verify(model, x, **options):
    return draft_and_verify(model, x, right, **options)


DECODERS = (greedy, sample, beam, jacobi, verify)
EMPTY = torch.zeros(2, 0, dtype=torch.int64)
LOGITS = torch.zeros(2, 5, 11)
FULL = torch.tensor([5, 5])


def right(tokens, lengths):
    """A draft that is well formed."""
    return tokens[:, :1].clamp(min=4)


def refuses(error, message, call, *arguments, **options):
    with pytest.raises(error, match=message):
        call(*arguments, **options)


# ---------------------------------------------------------------- token ids

BAD_TOKENS = [
    (X.tolist(), TypeError, "expected token ids, an int64 or int32 tensor, got list"),
    (X.float(), TypeError, "expected token ids, an int64 or int32 tensor, got torch.float32"),
    (X > 0, TypeError, "expected token ids, an int64 or int32 tensor, got torch.bool"),
    (X[0], ValueError, r"expected shape \(B, T\), got \(5,\)"),
    (X[None], ValueError, r"expected shape \(B, T\), got \(1, 2, 5\)"),
    (EMPTY, ValueError, r"expected at least one token, got \(2, 0\)"),
    (X[:0], ValueError, r"expected at least one token, got \(0, 5\)"),
]
READERS = {
    "shift_right": ("tokens", lambda x: shift_right(x, START)),
    "shifted_targets": ("tokens", shifted_targets),
    "ar_loss": ("tokens", lambda x: ar_loss(LOGITS, x)),
    "sar_loss": ("tokens", lambda x: sar_loss(LOGITS, x)),
    "slm_loss": ("tokens", lambda x: slm_loss(LOGITS, x, FULL)),
    "DualStreamSAR": ("x", build("sar-full-2-vocabulary")),
    "EncoderDecoderAR-x": ("x", lambda x: build("ar")(x, X)),
    "EncoderDecoderAR-y_in": ("y_in", lambda y: build("ar")(X, y)),
    "DecoderLM": ("tokens", build("lm")),
    "one_pass": ("x", lambda x: one_pass(build("sar-causal-2-vocabulary"), x)),
    "greedy": ("x", lambda x: greedy(build("ar"), x)),
    "sample": ("x", lambda x: sample(build("lm"), x)),
    "beam": ("x", lambda x: beam(build("lm"), x)),
    "jacobi": ("x", lambda x: jacobi(build("ar"), x)),
    "draft_and_verify": ("x", lambda x: draft_and_verify(build("lm"), x, right)),
    "MaskedModel-x": ("x", lambda x: build("masked")(x, X)),
    "MaskedModel-y": ("y", lambda y: build("masked", V=10)(X, y)),
    "mask_predict": ("x", lambda x: mask_predict(build("masked"), x)),
    "TransitionSAR": ("x", build("transition")),
    "transition_pass": ("x", lambda x: transition_pass(build("transition"), x)),
    "log_likelihood-x": ("x", lambda x: log_likelihood(build("lm"), x, X)),
    "log_likelihood-y": ("y", lambda y: log_likelihood(build("lm"), X, y)),
}


@pytest.mark.parametrize("bad", BAD_TOKENS, ids=["list", "float", "bool", "1d", "3d", "T=0", "B=0"])
@pytest.mark.parametrize("reader", READERS)
def test_tokens_are_integers_of_shape_B_T(reader, bad):
    (name, call), (tensor, error, message) = READERS[reader], bad
    refuses(error, f"^{name}: {message}", call, tensor)


@pytest.mark.parametrize(
    "reader", [r for r in READERS if r not in ("shift_right", "shifted_targets")]
)
@pytest.mark.parametrize("wrong", (-1, 12))
def test_token_ids_are_in_the_vocabulary(reader, wrong):
    name, call = READERS[reader]
    x = X.clone()
    x[1, 2] = wrong
    refuses(ValueError, rf"^{name}: expected ids in 0\.\.1[01].*, got {wrong}", call, x)


def test_padding_is_no_input():
    """IGNORE marks padding in targets; a model that is fed it says so instead of reading nonsense."""
    x = ignore_padding(X, torch.tensor([5, 3]))
    for name in ("sar-full-2-vocabulary", "lm"):
        refuses(ValueError, rf"expected ids in .*, got {IGNORE}", build(name), x)


def test_start_id():
    for wrong in (-1, 1.0, True, None, torch.tensor(1)):
        refuses(ValueError, "^start_id: expected a token id", shift_right, X, wrong)


@pytest.mark.parametrize(
    "k, error, message",
    [
        (-1, ValueError, r"expected a shift >= 0 \(targets lie ahead\), got -1"),
        (torch.tensor([1, -2]), ValueError, r"expected a shift >= 0 .*, got -2"),
        (1.0, TypeError, "expected an int or an integer tensor, got float"),
        (True, TypeError, "expected an int or an integer tensor, got bool"),
        (torch.ones(2), ValueError, "expected an integer tensor, got torch.float32"),
        (torch.tensor([1, 1, 1]), ValueError, r"expected shape \(2,\), one per row, got \(3,\)"),
        # no broadcast
        (torch.tensor(1), ValueError, r"expected shape \(2,\), one per row, got \(\)"),
    ],
)
def test_shift(k, error, message):
    refuses(error, f"^k: .*{message}", shifted_targets, X, k)
    if isinstance(k, torch.Tensor):
        message = message.replace("a shift >= 0", "shifts >= 0").replace("got -2", r"got \[1, -2\]")
        refuses(error, f"^shifts: .*{message}", slm_loss, LOGITS, X, k)
    else:
        refuses(TypeError, "^shifts: expected an integer tensor, got", slm_loss, LOGITS, X, k)


@pytest.mark.parametrize(
    "lengths, error, message",
    [
        ([5, 5], TypeError, "expected an integer tensor, got list"),
        (torch.tensor([5.0, 5.0]), TypeError, "expected an integer tensor, got torch.float32"),
        (torch.tensor([5]), ValueError, r"expected shape \(2,\), one per row, got \(1,\)"),
        (torch.tensor(5), ValueError, r"expected shape \(2,\), one per row, got \(\)"),
        (torch.tensor([5, 0]), ValueError, r"expected values in 1\.\.5, got \[5, 0\]"),
        (torch.tensor([6, 5]), ValueError, r"expected values in 1\.\.5, got \[6, 5\]"),
    ],
)
def test_lengths(lengths, error, message):
    message = f"^lengths: {message}"
    refuses(error, message, check_lengths, lengths, X)
    refuses(error, message, build("masked"), X, X, lengths)
    refuses(error, message, mask_predict, build("masked"), X, lengths)
    refuses(error, message, transition_pass, build("transition"), X, lengths)
    for name in ("sar-full-2-vocabulary", "sar-causal-2-vocabulary"):
        refuses(error, message, build(name), X, lengths)
        refuses(error, message, one_pass, build(name), X, lengths)
    refuses(error, message, build("ar"), X, X, lengths)
    for decode in DECODERS:
        refuses(error, message, decode, build("ar"), X, lengths=lengths)
    refuses(error, message, log_likelihood, build("ar"), X, X, lengths)


# ---------------------------------------------------------------- losses


@pytest.mark.parametrize("loss", (ar_loss, sar_loss, lambda *a: slm_loss(*a[:2], FULL * 0, *a[2:])))
def test_losses(loss):
    refuses(TypeError, "^logits: expected floating point, got torch.int64", loss, LOGITS.long(), X)
    refuses(TypeError, "^logits: expected floating point, got list", loss, [[0.0]], X)
    for shape in ((2, 11), (2, 4, 11), (1, 5, 11), (5, 2, 11), (2, 1, 11)):
        message = r"^logits: expected shape \(B, T, V\) with \(B, T\) = \(2, 5\) as in tokens, got"
        refuses(ValueError, message, loss, torch.zeros(shape), X)
    refuses(
        ValueError,
        "^reduction: expected 'mean', 'sum' or 'none', got 'max'",
        loss,
        LOGITS,
        X,
        "max",
    )
    nothing = torch.full_like(X, IGNORE)
    refuses(ValueError, "^tokens: expected a target to average over", loss, LOGITS, nothing)
    assert loss(LOGITS, nothing, "sum") == 0


def test_mean_of_no_term():
    """One token has no next one: L_SAR is a sum over nothing, and no mean."""
    one = X.narrow(1, 0, 1)
    refuses(
        ValueError,
        "^tokens: expected a target to average over",
        sar_loss,
        LOGITS.narrow(1, 0, 1),
        one,
    )


def test_lengths_of_x_and_y_are_equal_in_algorithm_1():
    n, message = torch.tensor([5, 3]), "^y: Algorithm 1 makes one token of y for each of x"
    for batch in (Batch(X, FULL, tokens(2, 6), FULL + 1), Batch(X, FULL, ignore_padding(X, n), n)):
        for name in ("sar-causal-2-vocabulary", "masked"):
            refuses(ValueError, message, loss_of, build(name), batch)


# ---------------------------------------------------------------- models


@pytest.mark.parametrize(
    "field", ("target_vocab", "width", "layers", "heads", "hidden", "max_length")
)
def test_sizes(field):
    for wrong in (0, -1, 2.0, "8", True, None):
        least = 2 if field == "target_vocab" else 1  # <s> is the second id
        message = rf"^{field}: expected a whole number >= {least}, got {wrong!r}"
        refuses(ValueError, message, Config, **{"target_vocab": 11, field: wrong})


def test_choices():
    config = {"target_vocab": 11, "source_vocab": 12}
    refuses(
        ValueError, r"^width: expected a multiple of 2 \* heads = 8 .*got 20", Config, 11, width=20
    )
    for wrong in (-1, 2.0, "x"):
        refuses(
            ValueError,
            "^source_vocab: expected a whole number >= 0",
            Config,
            11,
            source_vocab=wrong,
        )
    for wrong in (1.0, -0.1, float("nan"), "x"):
        refuses(ValueError, "^dropout: expected 0 <= dropout < 1", Config, 11, dropout=wrong)
    for field, wrong in (("mask", "casual"), ("streams", 3), ("completion", "point")):
        message = f"^{field}: expected .*{wrong!r}"
        refuses(ValueError, message, DualStreamSAR, Config(**config), **{field: wrong})
    refuses(ValueError, "^mask: expected 'causal' or", EncoderDecoderAR, Config(**config), "full")
    refuses(TypeError, "unexpected keyword argument 'depth'", Config, 11, depth=2)
    for model in (DualStreamSAR, EncoderDecoderAR):
        refuses(ValueError, "^source_vocab: expected a whole number >= 1, got 0", model, Config(11))
    message = "^source_vocab: expected target_vocab 11, as completion='copy' needs, got 12"
    refuses(ValueError, message, DualStreamSAR, Config(**config), completion="copy")


def test_longer_than_the_model():
    message = "max_length = 4 tokens, got 5"
    for name in ("sar-causal-2-vocabulary", "sar-full-1-copy", "lm"):
        refuses(ValueError, message, build(name, max_length=4), X)
    model, short = build("ar", max_length=4), X.narrow(1, 0, 3)
    refuses(ValueError, f"^x: .*{message}", model, X, short)
    refuses(ValueError, f"^y_in: .*{message}", model, short, X)
    refuses(ValueError, f"^x: .*{message}", greedy, model, X, new=2)
    for decode in DECODERS:  # the last token is said, and read by nobody
        assert decode(model, short, new=4).tokens.shape == (2, 4)
        message = "^new: .*max_length = 4 tokens in all, got 5"
        refuses(ValueError, message, decode, model, short, new=5)
        writer, message = build("lm", max_length=6), "^new: .*max_length = 6 tokens in all, got 7"
        assert decode(writer, X, new=2).tokens.shape == (2, 2)
        refuses(ValueError, message, decode, writer, X, new=3)


def test_rows_of_x_and_y():
    """One source for two targets would broadcast through the attention without a word."""
    model = build("ar")
    refuses(ValueError, "^y_in: expected 1 rows as in x, got 2", model, X[:1], X)
    refuses(ValueError, "^y: expected 1 rows as in x, got 2", log_likelihood, model, X[:1], X)
    refuses(ValueError, "^y: expected 2 rows as in x, got 1", log_likelihood, model, X, X[:1])


# ---------------------------------------------------------------- decoding


def test_the_right_decoder_for_a_model():
    message = "^model: expected a model of y given x alone .*, got DecoderLM"
    refuses(TypeError, message, one_pass, build("lm"), X)
    sar = build("sar-full-2-vocabulary")
    message = "^model: expected an autoregressive one .*, got DualStreamSAR"
    for decode in DECODERS:
        refuses(TypeError, message, decode, sar, X)
    refuses(TypeError, message, log_likelihood, sar, X, X)
    masked = build("masked")
    refuses(TypeError, "^model: expected a model of y .*, got MaskedModel", one_pass, masked, X)
    refuses(TypeError, "^model: expected an auto.*, got MaskedModel", greedy, masked, X)
    for other in (sar, build("ar")):
        message = f"^model: expected a MaskedModel, got {type(other).__name__}"
        refuses(TypeError, message, mask_predict, other, X)


@pytest.mark.parametrize("decode", DECODERS)
def test_decoding_options(decode):
    model = build("ar")
    refuses(ValueError, "^new: expected at least 1 token to make, got 0", decode, model, X, new=0)
    refuses(ValueError, "^new: expected at least 1", decode, model, X, new=torch.tensor([3, 0]))
    for wrong in (2.0, True, torch.tensor([2.0, 2.0]), torch.tensor([2]), torch.tensor(2)):
        refuses(
            TypeError, r"^new: expected an int or one integer per row", decode, model, X, new=wrong
        )
    for wrong in (-1, 11, "x", 2.0):
        message = rf"^end_id: expected an id in 0\.\.10, got {wrong!r}"
        refuses(ValueError, message, decode, model, X, end_id=wrong)


def test_temperature_top_k_and_width():
    model = build("ar")
    for wrong in (0, -1.0, float("nan"), "warm", 1e-46, float("inf")):
        refuses(ValueError, "^temperature: expected > 0", sample, model, X, temperature=wrong)
    for wrong in (0, -3, 1.5):
        message = f"^top_k: expected a whole number >= 1, got {wrong}"
        refuses(ValueError, message, sample, model, X, top_k=wrong)
    for wrong in (0, -1, 2.0, True, None):
        refuses(ValueError, "^width: expected a whole number >= 1", beam, model, X, width=wrong)


@pytest.mark.parametrize("wrong", (0, -1, 2.0, True, None))
def test_window(wrong):
    message = f"^window: expected a whole number >= 1, got {wrong!r}"
    refuses(ValueError, message, jacobi, build("ar"), X, window=wrong)
    draft = build("sar-full-2-vocabulary")
    refuses(ValueError, message, draft_and_verify, build("ar"), X, draft, window=wrong)


def test_mask_predict():
    masked = build("masked")
    for wrong in (0, -1, 2.0, True, None):
        message = f"^iterations: expected a whole number >= 1, got {wrong!r}"
        refuses(ValueError, message, mask_predict, masked, X, iterations=wrong)
    for y in (X[:1], X[:, :4]):
        refuses(ValueError, r"^y: expected shape \(2, 5\) as x, got", masked, X, y)
    refuses(
        ValueError, "max_length = 4 tokens, got 5", mask_predict, build("masked", max_length=4), X
    )


def test_draft():
    model, sar = build("ar"), build("sar-full-2-vocabulary")
    for wrong in (build("lm"), build("masked"), model, None, "sar"):
        message = (
            "^draft: expected a DualStreamSAR, a ShiftedLM or a function .*, got "
            + type(wrong).__name__
        )
        refuses(TypeError, message, draft_and_verify, model, X, wrong)
    refuses(
        TypeError,
        "^model: expected an EncoderDecoderAR, since the draft .*, got DecoderLM",
        draft_and_verify,
        build("lm"),
        X,
        sar,
    )
    larger, copies = build("sar-full-2-vocabulary", V=13), build("sar-full-2-copy")
    message = "^draft: expected source_vocab 12 as in model, got "
    refuses(ValueError, message + "14", draft_and_verify, model, X, larger)
    refuses(ValueError, message + "11", draft_and_verify, model, X, copies)
    for wrong in (0, -1.0, float("nan")):
        message = "^temperature: expected > 0 and finite"
        refuses(ValueError, message, draft_and_verify, model, X, sar, temperature=wrong)


@pytest.mark.parametrize("temperature", (None, 1.0))
def test_answer_of_a_draft(temperature):
    for answer, error, message in (
        ([[5], [5]], TypeError, "expected token ids, an int64 or int32 tensor, got list"),
        (None, TypeError, "expected token ids, an int64 or int32 tensor, got NoneType"),
        ((X, X, X), TypeError, "expected token ids, an int64 or int32 tensor, got tuple"),
        (torch.ones(2, 3), TypeError, "expected token ids, an int64"),
        (X[0], ValueError, r"expected shape \(B, T\), got \(5,\)"),
        (EMPTY, ValueError, "expected at least one token"),
        (X[:1], ValueError, "expected guesses for 2 rows, got 1"),
        (X + 7, ValueError, r"expected ids in 0\.\.10, got 1\d"),
        (X - 7, ValueError, r"expected ids in 0\.\.10, got -"),
    ):
        draft = lambda *_, answer=answer: answer  # noqa: E731
        refuses(
            error,
            f"^draft: {message}",
            draft_and_verify,
            build("ar"),
            X,
            draft,
            temperature=temperature,
        )
    if temperature is not None:
        for q in (LOGITS[0], LOGITS[..., 1:], [0.1]):
            draft = lambda *_, q=q: (X, q)  # noqa: E731
            message = r"^draft: expected probabilities of shape \(2, 5, 11\), got"
            refuses(ValueError, message, draft_and_verify, build("ar"), X, draft, temperature=1.0)


# ---------------------------------------------------------------- training


@pytest.mark.parametrize("field", ("steps", "tokens", "report", "checkpoint"))
def test_recipe_counts(field):
    for wrong in (0, -1, 1.5, True, "10"):
        message = f"^{field}: expected a whole number >= 1, got {wrong!r}"
        refuses(ValueError, message, Recipe, **{field: wrong})


def test_recipe_rates():
    for field in ("rate", "decay"):
        refuses(ValueError, f"^{field}: expected .*finite.*, got inf", Recipe, **{field: math.inf})
    for field, least in (("rate", "> 0"), ("clip", "> 0"), ("decay", ">= 0, and finite")):
        for wrong in (-1, float("nan"), "x"):
            refuses(ValueError, f"^{field}: expected {least}, got", Recipe, **{field: wrong})
    refuses(ValueError, "^seed: expected", Recipe, seed=-1)


def test_kind_of_model():
    task = load_task("copy", **TINY)
    refuses(
        ValueError,
        "^model: expected one of sar, ar, lm, masked, shifted, .*got 'rnn'",
        make_model,
        "rnn",
        task,
    )


def test_model_of_another_vocabulary():
    """A model with too small a vocabulary fails late, one with too large a one never: both now."""
    task = load_task("copy", **TINY)
    other = load_task("copy", **{**TINY, "symbols": 9})
    for wrong in (other, load_task("copy", **{**TINY, "symbols": 3})):
        model = make_model("ar", wrong, width=16, heads=2, layers=1)
        with pytest.raises(ValueError, match=r"vocabulary|source_vocab|target_vocab"):
            train(model, task, Recipe(steps=1), progress=False)


def test_nothing_to_learn_from():
    task = load_task("copy", **{**TINY, "sizes": (0, 5, 5)})
    refuses(ValueError, "train", run, None, task=task)
    model = make_model("ar", task, width=16, heads=2, layers=1)
    refuses(ValueError, "split", evaluate, model, Split([], []))


def test_a_loss_that_is_no_number():
    """A gradient that is not finite stops the run; it would make every weight NaN without a word."""
    task = load_task("copy", **TINY)
    model = make_model("ar", task, width=16, heads=2, layers=1)
    model.source_embed.data[4:] = float("nan")
    with pytest.raises(RuntimeError, match="non-finite"):
        train(model, task, Recipe(steps=3), progress=False)
    assert model.embed.isfinite().all(), "the weights were touched"


def test_device(monkeypatch):
    for wrong in ("cuda:99", "tpu", "none such"):
        monkeypatch.setenv("SAR_DEVICE", wrong)
        message = f"^SAR_DEVICE: expected a device of this machine, got '{wrong}'"
        refuses(ValueError, message, choose_device)


# ---------------------------------------------------------------- files


@pytest.fixture
def saved(tmp_path):
    """A trained run with its checkpoint."""
    run(tmp_path / "run", "ar")
    return tmp_path / "run"


def test_nothing_there(saved, tmp_path):
    refuses(
        FileNotFoundError,
        "nowhere: expected a saved model, found no config",
        load,
        tmp_path / "nowhere",
    )
    (saved / "task.json").unlink()
    refuses(FileNotFoundError, "run: expected a training run, found no task.json", load_run, saved)
    (saved / "model.safetensors").unlink()
    refuses(FileNotFoundError, "found no model.safetensors", load, saved)


def test_folder_in_use(saved):
    refuses(FileExistsError, "run: holds a run already; resume it", run, saved, "ar")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b"null",
        b'{"model": "GPT2", "config": {}}',
        b'{"model": "DecoderLM", "config": {"target_vocab": 11, "depth": 2}}',
        b'{"model": "DecoderLM", "config": {"target_vocab": "11"}}',
        b'{"model": "DecoderLM", "config": [11]}',
        b'{"model_type": "gpt2", "n_embd": 768}',
    ],
)
def test_damaged_or_foreign_config(saved, content):
    (saved / "config.json").write_bytes(content)
    refuses(DamagedCheckpoint, "config.json: not a configuration of ours", load, saved)


@pytest.mark.parametrize("file", ("model.safetensors", "checkpoint.safetensors"))
@pytest.mark.parametrize("damage", ("empty", "half", "header", "garbage", "pickle"))
def test_damaged_or_foreign_weights(saved, file, damage):
    whole = (saved / file).read_bytes()
    (saved / file).write_bytes(
        {
            "empty": b"",
            "half": whole[: len(whole) // 2],
            "header": whole[:20],
            "garbage": b"not a tensor in sight " * 100,
            "pickle": b"\x80\x02}q\x00." * 20,
        }[damage]
    )
    if file == "model.safetensors":
        refuses(DamagedCheckpoint, f"{file}: not the weights of", load, saved)
    else:
        refuses(
            DamagedCheckpoint, f"{file}: not a checkpoint of ours", run, saved, "ar", resume=True
        )


def test_weights_of_another_model(saved, tmp_path):
    save(build("lm"), tmp_path / "other")
    (saved / "model.safetensors").write_bytes((tmp_path / "other/model.safetensors").read_bytes())
    refuses(
        DamagedCheckpoint, "model.safetensors: not the weights of .*EncoderDecoderAR", load, saved
    )
    # weights without the record of where the run stood are no checkpoint
    (saved / "checkpoint.safetensors").write_bytes((saved / "model.safetensors").read_bytes())
    refuses(DamagedCheckpoint, "not a checkpoint of ours", run, saved, "ar", resume=True)


def test_task_of_another_model(saved):
    path = saved / "task.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps(about | {"source": [*about["source"], "new"]}))
    message = "task.json has a source vocabulary of 11 tokens, the model one of 10"
    refuses(DamagedCheckpoint, message, load_run, saved)
    for content in ("", "[]", '{"source": 3}', json.dumps(about | {"target": None})):
        path.write_text(content)
        refuses(DamagedCheckpoint, "task.json: not a task of ours", load_run, saved)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"width": 32}, "another config: width was 16, now 32"),
        ({"recipe": Recipe(steps=13)}, "another recipe: steps was 12, now 13"),
        ({"task": load_task("sort", **TINY)}, "another task: name was 'reverse', now 'sort'"),
        ({"task": load_task("reverse", **{**TINY, "symbols": 7})}, "target_vocab was 10, now 11"),
        ({"kind": "lm"}, "another model: 'EncoderDecoderAR' then, 'DecoderLM' now"),
    ],
)
def test_resume_as_something_else(saved, change, message):
    before = (saved / "checkpoint.safetensors").read_bytes()
    refuses(
        ValueError,
        f"checkpoint.safetensors: was made with .*{message}",
        run,
        saved,
        **{"kind": "ar"} | change,
        resume=True,
    )
    assert (saved / "checkpoint.safetensors").read_bytes() == before


def test_metrics_cut_short(saved):
    """A run that died while it wrote a line of metrics can be resumed: the line is written again."""
    model, metrics = run(None, "ar")
    path = saved / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 15, "lo')
    resumed, rows = run(saved, "ar", resume=True)
    assert [row["step"] for row in rows] == [row["step"] for row in metrics]
    path.unlink()
    run(saved, "ar", resume=True)


@pytest.mark.parametrize("full_at", ("open", "fsync", "replace"))
@pytest.mark.parametrize("write", ("checkpoint", "save"))
def test_full_disk(saved, monkeypatch, full_at, write):
    """A file is there whole or not at all: the old one survives, nothing half-written is left."""
    if write == "checkpoint":  # one that is not the last, so that there are steps to go on with
        with ctrl_c(at_step=5), pytest.raises(Interrupted):
            run(saved.parent / "stopped", "ar")
        saved = saved.parent / "stopped"
    before = {path.name: path.read_bytes() for path in saved.iterdir()}

    def full(path, *_, **__):
        path = path if full_at == "open" else None  # as the system says it
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    monkeypatch.setattr(os, full_at, full)
    with pytest.raises(OSError, match=r"No space left on device|could not write") as error:
        run(saved, "ar", resume=True) if write == "checkpoint" else save(build("ar"), saved)
    monkeypatch.undo()
    assert error.value.errno == errno.ENOSPC
    assert re.search(r"\.safetensors|\.json", str(error.value)), "the message names no file"
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


# ---------------------------------------------------------------- y of another length

REPAIRS = r"predict T \(LengthSAR\) or say blanks \(CTCSAR\)"


def test_another_length_names_both_repairs():
    """Algorithm 1 makes one token for each of x; who asks for more or fewer is told what can."""
    sar, batch = build("sar-full-2-vocabulary"), make_batch([[4, 5]], [[4, 5, 6]])
    refuses(ValueError, rf"y: Algorithm 1 .* \[2\] and \[3\].*{REPAIRS}", loss_of, sar, batch)
    for new in (6, torch.tensor([5, 4])):
        message = rf"new: one_pass makes one .* expected \[5, 5\] or None, got \[., .\].*{REPAIRS}"
        refuses(ValueError, message, one_pass, sar, X, new=new)
    for asked in (5, FULL):
        assert torch.equal(one_pass(sar, X, new=asked).tokens, one_pass(sar, X).tokens)
    numerals = load_task("numerals", digits=2, sizes=(20, 5, 5))
    refuses(
        ValueError, REPAIRS, evaluate, make_model("sar", numerals, width=8, heads=2), numerals.test
    )


def test_lengths_refuse_another_model():
    for decode, name in ((length_pass, "LengthSAR"), (ctc_pass, "CTCSAR")):
        refuses(
            TypeError, f"model: expected a {name}, got EncoderDecoderAR", decode, build("ar"), X
        )


@pytest.mark.parametrize("bad, error, message", BAD_TOKENS)
def test_lengths_refuse_bad_tokens(bad, error, message):
    refuses(error, "x: " + message, length_pass, build("length"), bad)
    refuses(error, "x: " + message, ctc_pass, build("ctc"), bad)
    refuses(error, "way: " + message, collapse, bad, 3)


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"beam": 0}, ValueError, "beam: expected a whole number >= 1, got 0"),
        ({"beam": 2.0}, ValueError, "beam: expected a whole number >= 1, got 2.0"),
        ({"beam": 2, "new": 3}, ValueError, "beam: expected 1 when new is given, got 2"),
        ({"new": 0}, ValueError, "new: expected at least 1 token to make, got 0"),
        ({"new": 33}, ValueError, "new: expected at most max_length = 32 tokens, got 33"),
        (
            {"new": FULL[:1]},
            TypeError,
            r"new: expected an int or one integer per row, shape \(2,\)",
        ),
        ({"new": True}, TypeError, "new: expected an int or one integer per row"),
        (
            {"lengths": torch.tensor([6, 1])},
            ValueError,
            r"lengths: expected values in 1..5, got \[6, 1\]",
        ),
    ],
)
def test_length_pass_refuses(options, error, message):
    refuses(error, message, length_pass, build("length"), X, **options)


def test_what_does_not_fit_is_refused():
    """y longer than the model can make, an x too long for it, and ids outside of a vocabulary."""
    length, ctc = build("length", max_length=4), build("ctc", upsample=1, max_length=4)
    refuses(
        ValueError,
        "T: expected at most max_length = 4 tokens, got 5",
        loss_of,
        length,
        make_batch([[4]], [[5] * 5]),
    )
    message = (
        r"y: expected at most upsample \* S = 1 \* 2 places in row 1, got 2 tokens and 1 blanks"
    )
    refuses(ValueError, message, loss_of, ctc, make_batch([[4], [4, 4]], [[5], [5, 5]]))
    assert loss_of(ctc, make_batch([[4, 4, 4]], [[5, 5]])).isfinite()
    for model in (length, ctc):
        refuses(
            ValueError,
            "x: expected at most max_length = 4 tokens, got 5",
            model,
            X,
            *[FULL][: model is length],
        )
        refuses(
            ValueError, "expected ids in 0..10.*got 11", loss_of, model, make_batch([[4]], [[11]])
        )
        refuses(
            ValueError,
            "x: expected ids in 0..11, got 12",
            loss_of,
            model,
            make_batch([[12]], [[4]]),
        )


# ---------------------------------------------------------------- options belong to their model


def test_an_option_of_another_kind_is_refused():
    task = load_task("copy", sizes=(5, 0, 0))
    message = (
        r"^shifts: the kind 'sar' has no such option; it has mask, streams, completion, dropout"
    )
    refuses(ValueError, message, make_model, "sar", task, shifts=7, rank=5)
    for kind, option in (("masked", "mask"), ("lm", "streams"), ("length", "upsample")):
        refuses(ValueError, f"^{option}: the kind '{kind}' has no", make_model, kind, task, **{option: 1})  # fmt: skip
    refuses(ValueError, "^mask: expected 'causal' or", make_model, "ar", task, mask="full")
    refuses(ValueError, "^candidates: expected a whole number >= 1", make_model, "transition", task, candidates=0)  # fmt: skip


def test_a_mask_that_is_no_mask_is_refused():
    x = torch.tensor([[4, 5, 6]])
    for mask in (lambda T, device: torch.ones(T, T), lambda T, device: torch.ones(T, 1).bool()):
        model = DualStreamSAR(Config(9, 9, width=8, heads=1), mask=mask)
        refuses(ValueError, r"^mask: expected booleans of shape \(3, 3\), got \(torch", model, x)


# ---------------------------------------------------------------- what trusts its caller is no door


def test_a_draft_that_is_too_short_is_refused():
    x, message = X.narrow(1, 0, 3), "^{}: expected at most max_length = 2 tokens, got 3"
    short = build("sar-full-2-vocabulary", V=11, max_length=2)
    refuses(ValueError, message.format("x"), draft_and_verify, build("ar"), x, short)


def test_public_methods_of_models_check():
    shifted, length = build("shifted", shifts=2), build("length")
    for wrong in ([0, 3], [3, 9]):
        refuses(
            ValueError, "^lengths: expected values in 1..5", shifted.ahead, X, torch.tensor(wrong)
        )
        refuses(ValueError, "^lengths: expected values in 1..5", length.length_logits, X, torch.tensor(wrong))  # fmt: skip
    refuses(TypeError, "^tokens: expected token ids", shifted.ahead, X.tolist())
    refuses(
        ValueError, "^x: expected ids in 0..11, got 99", length.length_logits, X + 95 * (X == 4)
    )


def test_recipes_in_whole_numbers():
    for field in ("warmup", "seed"):
        refuses(
            ValueError, f"^{field}: expected a whole number >= 0, got 2.5", Recipe, **{field: 2.5}
        )
    refuses(ValueError, "^seed: expected a whole number <= 9223372036854775807", Recipe, seed=2**64)


# ---------------------------------------------------------------- what was taken in silence


def test_padding_in_a_target_is_no_text():
    """A padded batch has to be cut to its lengths before anything is counted (F5)."""
    for wrong in (PAD, IGNORE):
        message = f"^target: expected ids of tokens, no padding, got {wrong}"
        refuses(ValueError, message, accuracy, [[5, 6], [7]], [[5, wrong], [7]])
    assert accuracy([[5, 0], [7]], [[5, 6], [7]]) == (2 / 3, 1 / 2)  # what is said may be anything


def test_top_k_is_k_also_among_equals():
    """Two tokens with one embedding have equal logits; of them top_k=1 draws greedy's, always (F13)."""
    model = build("ar")
    with torch.no_grad():
        model.embed[4:] = model.embed[4]
    expected, generator = greedy(model, X).tokens, torch.Generator().manual_seed(0)
    for _ in range(20):
        assert torch.equal(sample(model, X, top_k=1, generator=generator).tokens, expected)


def test_what_is_no_id_is_not_cut_to_one():
    for wrong in ([[4.7, 5.0]], ["45"], [[True, False]]):
        refuses(ValueError, "^ids: expected whole numbers", make_batch, wrong, [[4, 5]])
        refuses(ValueError, "^ids: expected whole numbers", make_batch, [[4, 5]], wrong)
    vocab = Vocab(("a", "b"))
    refuses(TypeError, r"^ids: expected whole numbers, got 4\.9", vocab.decode, [4.9])
    assert vocab.decode(torch.tensor([4, 5])) == ["a", "b"]


def test_a_language_model_is_asked_about_full_prompts():
    """The log-probabilities of a row whose prompt is shorter would be those of another text (A7)."""
    lm = build("lm")
    message = r"^lengths: expected full prompts, 5 each, got \[5, 3\]"
    refuses(ValueError, message, log_likelihood, lm, X, X, torch.tensor([5, 3]))
    whole = log_likelihood(lm, X, X, torch.tensor([5, 5]))
    assert torch.equal(whole, log_likelihood(lm, X, X))


@pytest.mark.parametrize(
    "change",
    (
        lambda q: 2 * q,
        lambda q: q / 2,
        lambda q: -q,
        lambda q: q.log(),
        lambda q: q * math.nan,
        lambda q: (q > 0).long(),
    ),
)
def test_what_a_draft_drew_from_is_a_distribution(change):
    model, q = build("ar"), torch.full((2, 1, 11), 1 / 11)

    def draft(tokens, lengths):
        return torch.full((2, 1), 5), change(q)

    message = "^draft: expected probabilities that sum to 1"
    refuses(ValueError, message, draft_and_verify, model, X, draft, temperature=1.0)


def test_a_loss_of_nothing_is_no_number():
    """Where no token of y counts, every kind of loss refuses the mean, and the sum is 0 or refused."""
    nothing = torch.full((2, 5), IGNORE)
    for kind in ("sar", "ar", "lm", "shifted", "length", "ctc", "transition"):
        batch = Batch(X, FULL, nothing, FULL)
        with pytest.raises(ValueError, match="a target to average over|a token at least"):
            loss_of(build(kind), batch)


def test_a_vocabulary_of_one_has_no_start():
    for kind in ("length", "ctc"):
        message = "^source_vocab: expected a whole number >= 2, got 1"
        refuses(ValueError, message, KINDS[kind].model, Config(target_vocab=11, source_vocab=1))


def test_the_tokens_that_a_chain_must_hold_are_checked():
    model = build("transition")
    refuses(ValueError, "^y: expected ids in 0..10, got 11", model.chain, X, y=X.clamp(min=11))
    refuses(ValueError, r"^y: expected shape \(2, 5\) as x", model.chain, X, y=X[:, :3])


def test_collapse_names_its_blank():
    refuses(ValueError, "^blank_id: expected a whole number >= 0, got -1", collapse, X, -1)


def test_probes_are_counted():
    model = build("sar-full-2-vocabulary")
    message = "^probes: expected a whole number >= 1, got 0"
    refuses(ValueError, message, influence, model, (X[:1],), "source", X[:1], probes=0)


def test_log_q_that_is_none_is_no_model():
    p = torch.full((2, 2), 0.25)
    log_q = torch.full((2, 2, 2), 0.5).log()
    log_q[0, 0, 0] = math.nan
    with pytest.raises(ValueError, match="^log_q: "):
        exact_loss(p, log_q)
    leak = torch.full((2, 2, 2), 0.5).log()
    leak[0, :, 0] = torch.tensor([0.0, -math.inf])  # q(x_1 = 0) is 1 or 0, as x_2 will be
    leak[1, :, 0] = torch.tensor([-math.inf, 0.0])
    with pytest.raises(
        ValueError, match=r"^log_q: log q\(x_1 \| x_<1\) changes with a later token"
    ):
        exact_loss(p, leak)
    zero = torch.tensor([[[0.0, 0.0], [0.0, -math.inf]], [[-math.inf, -9.0], [-math.inf, -9.0]]])
    zero[1] = torch.tensor([[-math.inf, math.log(0.5)], [-math.inf, math.log(0.5)]])
    sure = torch.tensor([[1.0, 0.0], [0.0, 0.0]])  # what never comes may be impossible for q too
    assert exact_loss(sure, zero).ar == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.half, torch.double))
@pytest.mark.parametrize("kind", KINDS)
def test_every_dtype_decodes(kind, dtype):
    model = build(kind).to(dtype)
    decoded = KINDS[kind].decode(model, X)
    assert decoded.log_probs.isfinite().all() and decoded.tokens.dtype == torch.int64


def test_no_pairs_are_no_training():
    refuses(
        ValueError, "^split: expected at least one pair", next, endless(Split([], []), Recipe())
    )


def test_a_draft_that_is_too_short_is_named():
    lm, draft = build("lm"), build("shifted", max_length=8)
    message = "^draft: expected a max_length of 13 or more, got 8"
    refuses(ValueError, message, draft_and_verify, lm, X, draft, new=9)


def test_a_hint_needs_a_second_stream():
    model = build("sar-full-1-vocabulary")
    refuses(ValueError, "^hint: expected two streams", model, X, hint=torch.ones(2, 5, 16))
