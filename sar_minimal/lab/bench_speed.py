"""``sar bench``: decoding and training beside other libraries, memory, start-up, as ratios."""

import importlib.util
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

from ..algorithm1 import DualStreamSAR
from ..autoregressive import DecoderLM
from ..blocks import Config
from ..data import Batch
from ..decoding import greedy
from ..errors import expect
from ..kinds import KINDS, make_model
from ..tasks import load_task
from ..training import loss_and_gradients, new_optimizer
from .bench_faults import bench_faults
from .bench_theory import bench_theory
from .converter import Converter
from .demo import FLAGSHIP, flagship
from .tables import Row
from .timing import Measured, in_turns, milliseconds, operations, ratio, seconds


def bench_greedy(batch: int, new: int = 64, prompt: int = 4, vocabulary: int = 4416) -> Row:
    """Milliseconds per step of our ``greedy`` and of the installed peers, and their ratios.
    All have width 128, 4 layers, 4 heads and random weights; every row makes ``new`` tokens."""
    model = DecoderLM(Config(target_vocab=vocabulary, width=128, layers=4, heads=4)).eval()
    x = torch.randint(4, vocabulary, (batch, prompt))
    calls = {"sar_minimal": lambda: greedy(model, x, new=new)} | _peers(vocabulary, x, new)
    times = in_turns(calls)
    row: Row = {"greedy, batch": batch, "threads": torch.get_num_threads()}
    row |= {f"{name} ms": milliseconds(t) / new for name, t in times.items()}
    ours = times.pop("sar_minimal")
    return row | {f"{name} / ours": ratio(t, ours) for name, t in times.items()}


def _peers(vocabulary: int, x: torch.Tensor, new: int) -> dict[str, Callable[[], object]]:
    peers: dict[str, Callable[[], object]] = {}
    if importlib.util.find_spec("transformers"):
        from transformers import GPT2Config, GPT2LMHeadModel

        size: Row = {"n_positions": 512, "n_embd": 128, "n_layer": 4, "n_head": 4}
        size |= {"vocab_size": vocabulary, "bos_token_id": 1, "eos_token_id": 2}
        generate = partial(GPT2LMHeadModel(GPT2Config(**size)).eval().generate, x)
        wanted: Row = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False}
        wanted |= {"pad_token_id": 0, "attention_mask": torch.ones_like(x)}
        peers["transformers"] = partial(generate, **wanted)
        if len(x) == 1:  # it takes no more rows
            lookup = partial(generate, **wanted, prompt_lookup_num_tokens=10)
            peers["transformers, prompt lookup"] = lookup
    if importlib.util.find_spec("x_transformers"):
        from x_transformers import AutoregressiveWrapper, Decoder, TransformerWrapper

        rotary = {"attn_dim_head": 32, "rotary_pos_emb": True, "rotary_emb_dim": 32}
        layers = Decoder(dim=128, depth=4, heads=4, **rotary)
        wrapped = TransformerWrapper(num_tokens=vocabulary, max_seq_len=512, attn_layers=layers)
        x_model = AutoregressiveWrapper(wrapped).eval()
        peers["x-transformers"] = lambda: x_model.generate(x, new, temperature=0.0, cache_kv=True)
    return peers


def bench_training(T: int = 16, tokens: int = 1024, rounds: int = 25) -> Row:
    """The flagship's training step, as a share of the rate of a 1024 x 1024 product, in turns."""
    config = Config(target_vocab=3758, source_vocab=404, **FLAGSHIP)
    model, B = DualStreamSAR(config, mask="full").train(), tokens // T
    lengths = torch.full((B,), T)
    batch = Batch(torch.randint(4, 404, (B, T)), lengths, torch.randint(4, 3758, (B, T)), lengths)
    optimizer, a = new_optimizer(model), torch.randn(1024, 1024)

    def step() -> None:
        loss_and_gradients(model, batch, optimizer)
        optimizer.step()

    flops, product = operations(step), 2 * 1024**3
    times = in_turns({"step": step, "product": lambda: a @ a}, rounds)
    median = {name: statistics.median(t) for name, t in times.items()}
    return {
        "training": f"SAR, width {config.width}, {tokens} tokens a step",
        "ms a step": 1e3 * median["step"],
        "tokens a second": tokens / median["step"],
        "GFLOP/s": flops / median["step"] / 1e9,
        "matmul GFLOP/s": product / median["product"] / 1e9,
        "share of matmul rate": flops / product * ratio(times["product"], times["step"]),
    }


def bench_import(rounds: int = 5) -> Row:
    """Seconds that the package and its models add to ``import torch``, in fresh processes."""
    add = "import time, torch; t = time.perf_counter(); import {0}; print(time.perf_counter() - t)"
    row: Row = {"import, seconds beyond torch": ""}
    for name in ("sar_minimal", "sar_minimal.kinds"):
        row[name] = statistics.median(float(_output(add.format(name))) for _ in range(rounds))
    return row


def _output(code: str) -> str:
    return subprocess.check_output([sys.executable, "-c", code], text=True)


def bench_memory() -> Row:
    """Peak resident memory, in MiB beyond what ``import torch`` takes: of the flagship's training
    steps, and of decoding 256 sentences at once, each in a process of its own. Linux only."""
    if not Path("/proc/self/status").exists():
        return {"peak memory": "read from /proc, which this system lacks"}
    calls = {"training": "bench_training(rounds=3)"}
    calls |= {"one pass": "decode_many('sar')", "greedy": "decode_many('ar')"}
    row: Row = {"peak memory, MiB beyond torch": ""}
    alone = _peak("import torch")
    for name, call in calls.items():
        row[name] = _peak(f"from sar_minimal.lab.bench_speed import *; {call}") - alone
    return row


def decode_many(kind: str) -> None:
    """Decode 256 sentences of 32 with an untrained flagship of a kind."""
    model, _, decode = KINDS[kind]
    options = {"mask": "full"} if kind == "sar" else {}
    config = Config(target_vocab=3758, source_vocab=404, **FLAGSHIP)
    decode(model(config, **options), torch.randint(4, 404, (256, 32)))


def _peak(code: str) -> float:
    # Not getrusage: what it says of a child on Linux begins with the size of its parent.
    report = "; print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    return int(_output(code + report).split()[-2]) / 1024


def bench_answer(sentence: str = "wo ai bei jing") -> Row:
    """Milliseconds for ``sar decode`` to answer one sentence once its model is loaded."""
    task = load_task("pinyin", sizes=(10, 0, 0))
    row: Row = {"sar decode, ms a sentence": sentence}
    for kind in ("sar", "ar"):
        model = make_model(kind, task, **flagship(kind)).eval()
        convert = Converter(model, task.source, task.target, {"name": "pinyin"})
        row[kind] = milliseconds([seconds(partial(convert, sentence)) for _ in range(50)])
    return row


def _speed() -> Iterator[Row]:
    for name in ("transformers", "x_transformers"):
        if not importlib.util.find_spec(name):
            print(f'{name} is not installed: pip install "sar-minimal[peers]" to compare with it')
    yield bench_greedy(1)
    yield bench_greedy(32)
    for part in (bench_training, bench_import, bench_memory, bench_answer):
        yield part()


PARTS = {"speed": _speed, "theory": bench_theory, "faults": bench_faults}


def bench(what: str = "speed", json_path: Path | None = None, threads: int = 2) -> Measured:
    """Print the rows of one of ``PARTS``; write them to ``json_path`` if given. Returns the tables.
    The decoders of the book are compared in ``bench_decode.py`` and ``bench_pinyin.py``."""
    expect(what in PARTS, "bench", f"one of {', '.join(PARTS)}", what)
    torch.set_num_threads(threads)
    tables, rows = Measured(json_path, threads=threads), []
    for row in PARTS[what]():
        rows.append(row)
        tables.keep(what, rows)
        shown = {k: f"{v:.3g}" if isinstance(v, float) else v for k, v in row.items()}
        print("  ".join(f"{k} {v}" for k, v in shown.items()), flush=True)
    return tables
