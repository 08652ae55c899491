"""Why parallel decoding stops paying: what one step of greedy has to multiply and to read, against
this machine's measured rates; and what compiling a step, or recording all of them, would change."""

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ..algorithm1 import DualStreamSAR, one_pass
from ..autoregressive import EncoderDecoderAR
from ..blocks import Block, Config, Model
from ..data import Decoded
from ..decoding import greedy
from ..masked import MaskedModel
from ..shift import START
from .tables import Row
from .timing import in_turns, milliseconds, operations, ratio, seconds


class Models(NamedTuple):
    ar: EncoderDecoderAR
    sar: DualStreamSAR
    masked: MaskedModel


def bytes_read(config: Config, B: int, S: int, t: float) -> float:
    """What one step of ``greedy`` reads, with B rows, t positions cached, the new one too, S of x.

    P weights are 4 P bytes whatever B is. L layers have 6 D^2 weights in attention (qkv and out,
    and the source's q and out) and 2 m D^2 in the feed-forward, the head D V. Attention reads keys
    and values, 2 D numbers, of each of t + S positions. What is written is not counted.
    """
    c = config
    weights = c.layers * (6 + 2 * c.hidden) * c.width**2 + c.width * c.target_vocab
    return 4 * (weights + c.layers * 2 * c.width * B * (t + S))


def step_rows(ar: EncoderDecoderAR, batches: tuple[int, ...], T: int, rounds: int) -> list[Row]:
    """Milliseconds of a step of greedy at each B, beside three times that bound or explain it.

    ``calls``: the same step of a model of width 2 H, which has as many operators and nearly nothing
    to do in them. ``reading``: reading as many bytes as the step does, from wherever they then lie
    (weights of a few MB stay in a cache). ``arithmetic``: its operations at the rate of a 1024 x
    1024 product. All in turns.
    """
    tiny = EncoderDecoderAR(replace(ar.config, width=2 * ar.config.heads)).eval()
    a, big = torch.randn(1024, 1024), torch.randn(32 * 2**20)  # 128 MiB, larger than most caches
    rates = in_turns({"product": lambda: a @ a, "read": lambda: big.sum()}, rounds)
    rate = 2 * 1024**3 / statistics.median(rates["product"])
    bandwidth = 4 * big.numel() / statistics.median(rates["read"])

    def reading(block: Tensor) -> None:
        for _ in range(T):
            block.sum()

    rows = []
    for B in batches:
        x = torch.randint(4, ar.config.source_vocab, (B, T))
        y = torch.randint(4, ar.config.target_vocab, (B, T))
        steps = _stepping(ar, x, y)
        flops, read = operations(steps) / T, bytes_read(ar.config, B, T, (T + 1) / 2)
        calls = {"step": steps, "calls": _stepping(tiny, x, y)}
        calls["reading"] = partial(reading, torch.randn(int(read) // 4))
        ms = {name: milliseconds(t) / T for name, t in in_turns(calls, rounds).items()}
        ms["arithmetic"] = 1e3 * flops / rate
        row: Row = {"B": B, "T": T, "threads": torch.get_num_threads()}
        row |= {f"{name} ms": value for name, value in ms.items()} | {"FLOP / byte": flops / read}
        bound = max(ms["reading"], ms["arithmetic"])
        row |= {"bound ms": bound, "step / bound": ms.pop("step") / bound}
        row["longest"] = max(ms, key=lambda name: ms[name])
        rows.append(row | {"GFLOP/s": rate / 1e9, "memory GB/s": bandwidth / 1e9})
    return rows


def _stepping(ar: EncoderDecoderAR, x: Tensor, y: Tensor) -> Callable[[], object]:
    """A call that reads y (B, T) token by token; the source x was read before."""
    with torch.inference_mode():
        state, *_ = ar.start(x, torch.full((len(x),), x.shape[1]), y.shape[1])

    @torch.inference_mode()
    def call() -> None:
        state.cache.used = 0
        for t in range(y.shape[1]):
            ar.step(y[:, t : t + 1], state)

    return call


def compiled_rows(models: Models, T: int, rounds: int) -> list[Row]:
    """One pass, and a greedy step, with layers compiled by torch for the CPU: seconds that the
    first use takes, and how many times as fast the uses after it are. Then ``graph_rows``."""
    rows = []
    decoders: dict[str, tuple[Callable[..., Decoded], Model]]
    decoders = {"one pass": (one_pass, models.sar), "greedy": (greedy, models.ar)}
    for name, (decode, model) in decoders.items():
        plain, fast = copy.deepcopy(model).cpu(), copy.deepcopy(model).cpu()
        for layer in fast.modules():
            if isinstance(layer, Block):
                layer.compile(dynamic=name == "greedy")
        x = torch.randint(4, model.config.source_vocab, (1, T))
        row = _row("torch.compile", name, T, 1)
        calls = {"plain": partial(decode, plain, x), "fast": partial(decode, fast, x)}
        try:
            row["first use, seconds"] = seconds(calls["fast"])
        except Exception as error:  # a compiler that is not there fails under many names
            reason = (str(error).splitlines() or [""])[0]
            rows.append(row | {"result": f"failed: {type(error).__name__} {reason}"[:120]})
            continue
        times = in_turns(calls, rounds)
        rows.append(row | {"times as fast": ratio(times["plain"], times["fast"])})
    return rows + graph_rows(models.ar, T, rounds)


def _row(how: str, decoder: str, T: int, B: int) -> Row:
    threads = torch.get_num_threads()
    return {"compiled": how, "decoder": decoder, "T": T, "B": B, "threads": threads}


def graph_rows(ar: EncoderDecoderAR, T: int, rounds: int, batches=(1, 64, 1024)) -> list[Row]:
    """Greedy's T steps as *one* CUDA graph, recorded once, beside the same steps called by Python.

    A step is some hundred kernels that take microseconds each, and Python needs longer to call them
    than the GPU to run them; a replay calls none. Only this very x can be decoded with it: nothing
    may wait for the device while it is recorded, so it holds the steps and not the encoder, whose
    caller checks its ids. (torch.compile's "reduce-overhead" overwrites keys that are still read.)
    """
    if not torch.cuda.is_available():
        return [{"compiled": "CUDA graphs", "result": "not measured: no CUDA"}]
    ar, rows = copy.deepcopy(ar).cuda(), []

    def whole(call: Callable[[], object]) -> None:
        call()
        torch.cuda.synchronize()

    for B in batches:
        x = torch.randint(4, ar.config.source_vocab, (B, T), device="cuda")
        steps, replay, tokens, first = _recorded(ar, x)
        times = in_turns({"plain": partial(whole, steps), "fast": partial(whole, replay)}, rounds)
        row = _row("CUDA graphs", "greedy", T, B) | {"first use, seconds": first}
        row["times as fast"] = ratio(times["plain"], times["fast"])
        rows.append(row | {"same": float((tokens == greedy(ar, x).tokens).float().mean())})
    return rows


@torch.inference_mode()
def _recorded(ar: EncoderDecoderAR, x: Tensor) -> tuple[Callable, Callable, Tensor, float]:
    """The steps that decode x, their replay, the tokens (B, T) it writes, seconds to record it."""
    T = x.shape[1]
    state, *_ = ar.start(x, torch.full((len(x),), T, device=x.device), T)
    start, used = torch.full((len(x), 1), START, device=x.device), state.cache.used

    @torch.inference_mode()
    def steps() -> Tensor:
        state.cache.used, made = used, [start]
        for _ in range(T):
            made.append(ar.step(made[-1], state, last=True).argmax(-1))
        return torch.cat(made[1:], 1)

    side = torch.cuda.Stream()  # a first call makes what must not be made while recording
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        steps()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    began, graph = time.perf_counter(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        tokens = steps()
    torch.cuda.synchronize()
    took = time.perf_counter() - began

    # A graph knows addresses, not tensors. What it reads lives as long as ``steps``.
    return steps, graph.replay, tokens, took
