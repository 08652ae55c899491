"""Benchmarks, and the demo: everything that is timed is timed here, never in a test.

A machine's speed drifts, so nothing is quoted alone: what is compared runs in turns within one
process, and the figure is the median of the ratios of neighbouring turns.
"""

import importlib.util
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from .decoding import beam, greedy, log_likelihood, one_pass
from .files import write_json
from .models import Config, DecoderLM, DualStreamSAR, EncoderDecoderAR, Model
from .tasks import SPECIALS, Batch, Split, Task, accuracy, batches, language_of, load_task
from .theory import HomophoneLanguage
from .transition import TransitionSAR, transition_loss

FLAGSHIP = {"width": 128, "layers": 2, "heads": 4}  # of `sar demo`, with mask="full"


def seconds(function: Callable[[], object]) -> float:
    """How long one call takes."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def in_turns(
    functions: dict[str, Callable[[], object]], rounds: int = 7, warm: bool = True
) -> dict[str, list[float]]:
    """Seconds of each function, called a b c, a b c, ... after a first round that does not count, if ``warm``."""
    for function in functions.values() if warm else ():
        function()
    times = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            times[name].append(seconds(function))
    return times


def ratio(slow: list[float], fast: list[float]) -> float:
    """The median over rounds of slow / fast."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


# ------------------------------------------------------------- greedy decoding beside other libraries


def bench_greedy(batch: int, new: int = 64, prompt: int = 4, vocabulary: int = 4416) -> dict:
    """Milliseconds per step of our ``greedy`` and of the peers that are installed, and their ratios.

    All have width 128, 4 layers, 4 heads and random weights; every row makes ``new`` tokens.
    """
    model = DecoderLM(Config(target_vocab=vocabulary, width=128, layers=4, heads=4)).eval()
    x = torch.randint(4, vocabulary, (batch, prompt))
    times = in_turns(
        {"sar_minimal": lambda: greedy(model, x, new=new)} | _peers(vocabulary, x, new)
    )
    row = {f"{name} ms": 1e3 * statistics.median(t) / new for name, t in times.items()}
    row |= {
        f"{name} / ours": ratio(t, times["sar_minimal"])
        for name, t in times.items()
        if name != "sar_minimal"
    }
    return {"greedy, batch": batch} | row


def _peers(vocabulary: int, x: torch.Tensor, new: int) -> dict[str, Callable[[], object]]:
    peers = {}
    if importlib.util.find_spec("transformers"):
        from transformers import GPT2Config, GPT2LMHeadModel

        config = GPT2Config(
            vocab_size=vocabulary,
            n_positions=512,
            n_embd=128,
            n_layer=4,
            n_head=4,
            bos_token_id=1,
            eos_token_id=2,
        )
        gpt2 = GPT2LMHeadModel(config).eval()
        wanted = {
            "max_new_tokens": new,
            "min_new_tokens": new,
            "do_sample": False,
            "pad_token_id": 0,
        }
        everything = torch.ones_like(x)
        peers["transformers"] = lambda: gpt2.generate(x, attention_mask=everything, **wanted)
        if len(x) == 1:  # it takes no more rows
            lookup = {"prompt_lookup_num_tokens": 10}
            peers["transformers, prompt lookup"] = lambda: gpt2.generate(
                x, attention_mask=everything, **wanted, **lookup
            )
    if importlib.util.find_spec("x_transformers"):
        from x_transformers import AutoregressiveWrapper, Decoder, TransformerWrapper

        layers = Decoder(
            dim=128, depth=4, heads=4, attn_dim_head=32, rotary_pos_emb=True, rotary_emb_dim=32
        )
        wrapped = TransformerWrapper(num_tokens=vocabulary, max_seq_len=512, attn_layers=layers)
        x_model = AutoregressiveWrapper(wrapped).eval()
        peers["x-transformers"] = lambda: x_model.generate(x, new, temperature=0.0, cache_kv=True)
    return peers


# ------------------------------------------------------------- training, against the matmul rate


def training_flops(config: Config, B: int, T: int) -> int:
    """Floating-point operations of one training step of ``DualStreamSAR`` on B sequences of length T.

    A product of (N, a) by (a, b) is 2 N a b of them, and the backward pass does it twice more, once for
    each factor: 6 N a b. With N = B T, streams s, layers L, width D, hidden m D, vocabulary V:

    - blocks: qkv 3 D^2, out D^2, feed-forward 2 m D^2, for each of s L layers;
    - content-query attention: 4 D^2; head: D V;
    - attention itself: q k' and weights times v, 2 * B T^2 D products in each of s L + 1 places.

    Norms, softmax, rotations, the optimiser and the embedding are not counted.
    """
    c, layers = config, config.streams * config.layers
    weights = layers * (4 + 2 * c.hidden) * c.width**2 + 4 * c.width**2 + c.width * c.target_vocab
    return 6 * B * T * weights + 6 * (layers + 1) * 2 * B * T * T * c.width


def bench_training(T: int = 16, tokens: int = 1024, rounds: int = 25) -> dict:
    """The flagship's training step, as a share of the rate of a plain 1024 x 1024 product in turns with it."""
    from .training import loss_and_gradients, new_optimizer

    config = Config(target_vocab=3758, source_vocab=404, mask="full", **FLAGSHIP)
    model, B = DualStreamSAR(config).train(), tokens // T
    lengths = torch.full((B,), T)
    batch = Batch(torch.randint(4, 404, (B, T)), lengths, torch.randint(4, 3758, (B, T)), lengths)
    optimizer = new_optimizer(model)
    a = torch.randn(1024, 1024)

    def step():
        loss_and_gradients(model, batch, optimizer)
        optimizer.step()

    times = in_turns({"step": step, "product": lambda: a @ a}, rounds)
    flops = training_flops(config, B, T)
    share = statistics.median(
        flops / s / (2 * 1024**3 / p) for s, p in zip(times["step"], times["product"], strict=True)
    )
    return {
        "training": f"SAR, width {config.width}, {tokens} tokens a step",
        "ms a step": 1e3 * statistics.median(times["step"]),
        "tokens a second": tokens / statistics.median(times["step"]),
        "GFLOP/s": flops / statistics.median(times["step"]) / 1e9,
        "matmul GFLOP/s": 2 * 1024**3 / statistics.median(times["product"]) / 1e9,
        "share of matmul rate": share,
    }


# ------------------------------------------------------------- start-up and latency


def bench_import(rounds: int = 5) -> dict:
    """What ``import sar_minimal`` and its models add to ``import torch``, in seconds, in fresh processes."""
    add = "import time, torch; t = time.perf_counter(); import {0}; print(time.perf_counter() - t)"
    row = {"import, seconds beyond torch": ""}
    for name in ("sar_minimal", "sar_minimal.models, sar_minimal.decoding"):
        times = [
            float(subprocess.check_output([sys.executable, "-c", add.format(name)]))
            for _ in range(rounds)
        ]
        row[name] = statistics.median(times)
    return row


def bench_memory() -> dict:
    """Peak resident memory, in MiB beyond what ``import torch`` takes: of the flagship's training steps, and
    of decoding 256 sentences at once, each in a process of its own. Linux only."""
    if not Path("/proc/self/status").exists():
        return {"peak memory": "read from /proc, which this system lacks"}
    make = "from sar_minimal import bench; bench.decode_many(bench.{0})"
    row = {"peak memory, MiB beyond torch": ""}
    alone = _peak("import torch")
    for name, code in (
        ("training", "from sar_minimal.bench import bench_training; bench_training(rounds=3)"),
        ("one pass", make.format("one_pass")),
        ("greedy", make.format("greedy")),
    ):
        row[name] = _peak(code) - alone
    return row


def decode_many(decode) -> None:
    """``decode`` 256 sentences of 32 with an untrained flagship of the kind it needs."""
    kind = DualStreamSAR if decode is one_pass else EncoderDecoderAR
    decode(
        kind(Config(target_vocab=3758, source_vocab=404, mask="full", **FLAGSHIP)),
        torch.randint(4, 404, (256, 32)),
    )


def _peak(code: str) -> float:
    # Not getrusage: what it says of a child on Linux begins with the size of its parent.
    report = "; print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    return int(subprocess.check_output([sys.executable, "-c", code + report]).split()[-2]) / 1024


def bench_answer(sentence: str = "wo ai bei jing") -> dict:
    """Milliseconds for ``sar decode`` to answer one sentence once its model is loaded."""
    from .cli import Converter
    from .training import make_model

    task = load_task("pinyin", sizes=(10, 0, 0))
    row = {"sar decode, ms a sentence": sentence}
    for kind in ("sar", "ar"):
        model = make_model(kind, task, mask="full", **FLAGSHIP).eval()
        convert = Converter(model, task.source, task.target, {"name": "pinyin"})
        times = in_turns({"answer": lambda convert=convert: convert(sentence)}, rounds=50)["answer"]
        row[kind] = 1e3 * statistics.median(times)
    return row


# ------------------------------------------------------------- trained models against exact bounds


def above_bound(
    model: Model, language: HomophoneLanguage, length: int, samples: int = 20_000
) -> dict:
    """The model's expected loss on sequences of the language, and the bound of what it may read, in nats
    per token: ``filtered`` under a causal mask, ``smoothed`` under a full one, ``joint`` when it says y as a
    whole, token after token or as a chain.

    ``Algorithm 1`` is scored exactly, over all x. For ``EncoderDecoderAR`` and ``TransitionSAR`` (with all
    tokens as candidates) the excess over the bound is the mean of log p(y | x) - log q(y | x) over ``samples``
    drawn pairs, and ``error`` its standard error.
    """
    bounds, first, device = language.bounds(length), len(SPECIALS), next(model.parameters()).device
    with torch.inference_mode():
        if isinstance(model, DualStreamSAR):
            x, p = language.sources(length)
            log_q = model((x + first).to(device)).cpu().double().log_softmax(-1)[..., first:]
            loss = -float((p[:, None, None] * language.smooth(x) * log_q).sum()) / length
            bound = bounds.filtered if model.config.mask == "causal" else bounds.smoothed
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
    return {
        "nats": bound + excess,
        "bound": bound,
        "excess": excess / bound,
        "error": error / bound,
    }


def bench_theory(steps: int = 3500, length: int = 6) -> Iterator[dict]:
    """Algorithm 1 with both masks and the encoder-decoder, trained on the homophone language: how far above
    its exact bound is each (law 9), and after how many seconds?"""
    from .training import Recipe, make_model, train

    task = load_task("homophone", length=length, sizes=(steps * 1024 // length, 1, 1))
    recipe = Recipe(steps=steps, tokens=1024, rate=4e-3)
    for kind, mask in (("sar", "causal"), ("sar", "full"), ("ar", "full")):
        model = make_model(kind, task, width=64, layers=2, heads=4, mask=mask)
        metrics = train(model, task, recipe, progress=False)
        name = type(model).__name__ + (f", mask {mask}" if kind == "sar" else "")
        row = {"theory": name, "seconds": metrics[-1]["seconds"]}
        yield row | above_bound(model, language_of(task), length)


def _speed() -> Iterator[dict]:
    for name in ("transformers", "x_transformers"):
        if not importlib.util.find_spec(name):
            print(f'{name} is not installed: pip install "sar-minimal[peers]" to compare with it')
    yield bench_greedy(1)
    yield bench_greedy(32)
    for part in (bench_training, bench_import, bench_memory, bench_answer):
        yield part()


PARTS = {"speed": _speed, "theory": bench_theory}


def machine() -> dict:
    """What the figures of a run belong to."""
    return {"machine": platform.processor() or platform.machine(), "torch": torch.__version__}


def bench(what: str = "speed", json_path: Path | None = None, threads: int = 2) -> list[dict]:
    """Print the rows of one of ``PARTS``, and write them to ``json_path`` if given. Returns the rows.

    "speed": decoding and training beside other libraries, memory, start-up. "theory": ``bench_theory``. The
    decoders of the book are compared in ``bench_decode.py``.
    """
    if what not in PARTS:
        raise ValueError(f"bench: expected one of {', '.join(PARTS)}, got {what!r}")
    torch.set_num_threads(threads)
    rows = [machine() | {"threads": threads}]
    print(_line(rows[0]))
    for row in PARTS[what]():
        rows.append(row)
        print(_line(row), flush=True)
    if json_path is not None:
        write_json(json_path, rows, indent=2)
    return rows


def _line(row: dict) -> str:
    return "  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items())


# ------------------------------------------------------------- the demo


def convert(decode, split: Split, device="cpu") -> list[list[int]]:
    """``decode(x, lengths)`` over a whole split, batch by batch, in the order of the split."""
    found = {}
    # In larger batches Jacobi and draft and verify wait longer for the slowest row.
    for batch in batches(split, 2048):
        decoded = decode(batch.x.to(device), batch.x_lengths.to(device))
        for x, y, n in zip(
            batch.x.tolist(), decoded.tokens.tolist(), decoded.lengths.tolist(), strict=True
        ):
            found[tuple(x[:n])] = y[:n]
    return [found[tuple(x)] for x in split.x]


def neural_decoders(sar: Model, ar: Model) -> dict[str, Callable]:
    """Name to ``decode(x, lengths)``, for a one-pass and an autoregressive model of one task."""
    return {
        "SAR, one pass": lambda x, lengths=None: one_pass(sar, x, lengths),
        "AR, greedy": lambda x, lengths=None: greedy(ar, x, lengths),
        "AR, beam 4": lambda x, lengths=None: beam(ar, x, lengths, width=4),
    }


def table(
    task: Task, sar: Model, ar: Model, trained: dict[str, float], sample: int = 100
) -> list[dict]:
    """Every decoder on the test split: right characters and sentences, and milliseconds a sentence alone.

    trained: seconds of training by row name. sample: so many sentences are timed, one at a time.
    """
    from .lexicon import Lexicon
    from .ngram import NGram
    from .pinyin import word_model

    V = len(task.target)
    counted = {f"{name} of the training text": NGram(task.train, order, V) for order, name in
               ((1, "most frequent hanzi"), (2, "bigram"), (3, "trigram"))}  # fmt: skip
    counted["word lattice of jieba's dictionary"] = Lexicon.from_model(
        word_model(), task.source, task.target
    )
    device = next(sar.parameters()).device
    few, rows = task.test.x[:sample], []
    for name, model in counted.items():
        found = model.decode(task.test.x)
        ms = 1e3 * statistics.median(seconds(lambda x=x, m=model: m.decode([x])) for x in few)
        rows.append(
            {"decoder": name, "parameters": None, "ms": ms, "steps": None, "seconds": None}
            | _score(found, task)
        )
    for name, decode in neural_decoders(sar, ar).items():
        found = convert(decode, task.test, device)
        alone = [torch.tensor([x], device=device) for x in few]
        steps = []
        ms = 1e3 * statistics.median(
            seconds(lambda x=x, d=decode, s=steps: s.append(d(x).steps)) for x in alone
        )
        model = sar if name.startswith("SAR") else ar
        rows.append({"decoder": name, "parameters": model.number_of_parameters(), "ms": ms, "steps": statistics.mean(steps),
                     "seconds": trained[name[: name.index(",")]]} | _score(found, task))  # fmt: skip
    return rows


def _score(found, task):
    characters, sentences = accuracy(found, task.test.y)
    return {"characters": characters, "sentences": sentences}


def print_table(rows: list[dict]) -> None:
    """The rows of ``table``, aligned."""
    print(
        f"\n{'decoder':38}{'characters':>11}{'sentences':>11}{'ms':>8}{'steps':>7}{'parameters':>12}{'training':>10}"
    )
    for r in rows:
        steps = "-" if r["steps"] is None else f"{r['steps']:.1f}"
        size = "-" if r["parameters"] is None else f"{r['parameters']:,}"
        spent = "-" if r["seconds"] is None else f"{r['seconds']:.0f} s"
        print(
            f"{r['decoder']:38}{r['characters']:>11.3f}{r['sentences']:>11.3f}{r['ms']:>8.2f}{steps:>7}{size:>12}{spent:>10}"
        )


def demo(out: Path | None = None, steps: int | None = None) -> list[dict]:
    """Train the one-pass and the autoregressive model on pinyin, compare, then convert what is typed.

    out: keeps the two runs in ``out/sar`` and ``out/ar``, and goes on from them if they are there.
    steps: optimiser steps of each; None is the recipe's.
    """
    from .training import Recipe, choose_device, make_model, train

    task = load_task("pinyin")
    print(
        f"pinyin to hanzi: {len(task.train):,} sentences of {len(task.source) - 4} syllables and "
        f"{len(task.target) - 4:,} hanzi to learn from, {len(task.test):,} to test on"
    )
    steps = Recipe.steps if steps is None else steps
    recipe = Recipe(steps=steps, short=steps // 2)
    models, trained = {}, {}
    for name, kind in (("SAR", "sar"), ("AR", "ar")):
        models[kind] = make_model(kind, task, mask="full", **FLAGSHIP)
        metrics = train(
            models[kind], task, recipe, None if out is None else out / kind, resume=out is not None
        )
        trained[name] = metrics[-1]["seconds"]
    rows = table(task, models["sar"], models["ar"], trained)
    print_table(rows)
    print(
        "\nms: one sentence alone, median. steps: forward passes that wait for the one before. Both models stop\n"
        "long before they have learned what they can. The lattice knows the dictionary that the sentences were\n"
        "drawn from, word by word; the others saw the training text alone."
    )
    if sys.stdin.isatty():
        prompt(task, neural_decoders(models["sar"], models["ar"]), choose_device()[0])
    return rows


def prompt(task: Task, decoders: dict[str, Callable], device) -> None:
    """Read pinyin, print each decoder's hanzi with how sure it is of them, until an empty line."""
    from .pinyin import parse_pinyin

    print("\nType pinyin, as in: wo ai bei jing. An empty line ends.")
    while True:
        try:
            line = input("pinyin> ").strip()
        except EOFError:
            line = ""
        if not line:
            return
        try:
            x = torch.tensor([parse_pinyin(line, task.source)], device=device)
        except ValueError as error:
            print(error)
            continue
        for name, decode in decoders.items():
            began = time.perf_counter()
            decoded = decode(x)
            ms = 1e3 * (time.perf_counter() - began)
            text = "".join(task.target.decode(decoded.tokens[0].tolist()))
            sure = " ".join(f"{p:.2f}" for p in decoded.log_probs[0].exp().tolist())
            print(f"  {name:14} {text}   {sure}   {decoded.steps} steps, {ms:.1f} ms")
