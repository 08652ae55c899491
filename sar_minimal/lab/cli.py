"""The ``sar`` command: train, decode, claims, bench, demo; ledger and cards write files of the
book.

Exit codes: 0 done, 1 it failed (a damaged checkpoint, a full disk, a line that could not be
decoded), 2 it was called wrongly, 130 stopped by Ctrl-C. Errors are one line on standard error.
"""

import argparse
import inspect
import re
import sys
from dataclasses import fields
from pathlib import Path

from ..blocks import Config
from ..checks import Refusal
from ..files import MissingPackage
from ..kinds import KINDS
from ..tasks import MAKERS
from ..training import Recipe

EXAMPLES = """examples:
  sar demo                                            train, compare, then type your own pinyin
  sar train pinyin --model sar --mask full --out runs/sar
  sar train pinyin --model ar --out runs/ar --resume  go on after Ctrl-C
  sar train sort --model sar --out runs/sort --steps 500
  sar train numerals --model length --out runs/num    y is longer than x: 205 is 二百零五
  sar train pinyin --corpus file:my_text.txt --model sar --out runs/mine
  sar decode runs/sar "wo ai bei jing"
  sar decode runs/ar --beam 4 < sentences.txt         one sentence a line
  sar claims C08 C10                                  what was claimed, measured and found
  sar bench --json bench.json                         speed beside other libraries
  sar bench decode --quick --png decode.png           decoders with fewer steps, in minutes
  sar bench pinyin --quick --json pinyin.json         counting, networks and both on pinyin
  sar ledger                                          the ledger's page, as make run-nb writes it
  sar cards                                           the data cards, after a change to a task
"""


def parser() -> argparse.ArgumentParser:
    """What is understood, command by command; ``COMMANDS`` has a function for each."""
    main = argparse.ArgumentParser(
        prog="sar",
        description="Shifted autoregressive models, small enough to read.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_train(commands)

    decode = commands.add_parser("decode", help="read a line in, write a line out")
    decode.add_argument("run", type=Path, metavar="DIR", help="a folder that sar train wrote")
    said = "the sentence; standard input, one a line, if there is none"
    decode.add_argument("text", nargs="*", help=said)
    said = "keep the K best prefixes (autoregressive), or try the K likeliest lengths (length)"
    decode.add_argument("--beam", type=int, metavar="K", help=said)
    said = "tokens to add, for a language model (20)"
    decode.add_argument("--new", type=int, default=20, metavar="N", help=said)
    said = "add log-probability, steps and milliseconds"
    decode.add_argument("--verbose", action="store_true", help=said)

    said = "the document's claims, their verdicts and what was measured"
    claims = commands.add_parser("claims", help=said)
    claims.add_argument("ids", nargs="*", metavar="ID", help="only these, such as C10")
    form = claims.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="as a Markdown table")
    form.add_argument("--json", action="store_true", help="as a JSON list, measurements in full")

    bench = commands.add_parser("bench", help="speed and memory, as ratios within one run")
    whats = bench.add_subparsers(dest="what", metavar="WHAT (speed if left out)")
    for what, (said, flags) in BENCHES.items():
        one = whats.add_parser(what, help=said, description=said)
        size = one.add_mutually_exclusive_group() if "quick" in flags else None
        for flag in ("json", "threads", *flags):
            group = size if flag in ("quick", "large") else one
            group.add_argument(f"--{flag}", **BENCH_FLAGS[flag])

    demo = commands.add_parser("demo", help="the flagship in the terminal, in under 5 minutes")
    said = "keep the two runs in DIR/sar and DIR/ar"
    demo.add_argument("--out", type=Path, metavar="DIR", help=said)
    said = "optimiser steps of each model"
    demo.add_argument("--steps", type=int, default=argparse.SUPPRESS, help=said)

    ledger = commands.add_parser("ledger", help="write the ledger of claims as a page of the book")
    said = "a notebook (chapters/ledger.ipynb)"
    ledger.add_argument("--out", type=Path, metavar="FILE", help=said)
    cards = commands.add_parser("cards", help="write the card of each data set")
    cards.add_argument("--out", type=Path, metavar="DIR", help="the folder for them (data)")
    return main


BENCHES = {
    "speed": ("decoding and training beside other libraries, memory, start-up", ()),
    "decode": ("decoders with fewer steps, and why they pay", ("png", "quick", "compile")),
    "theory": ("trained models against exact bounds", ()),
    "pinyin": (
        "pinyin to hanzi by counting, by networks and by both",
        ("quick", "large", "corpus"),
    ),
}
BENCH_FLAGS = {
    "json": {"type": Path, "metavar": "FILE", "help": "write the figures there too"},
    "threads": {"type": int, "metavar": "N", "help": "of torch (2; decode: once 1, once 2)"},
    "png": {"type": Path, "metavar": "FILE", "help": "draw a figure there"},
    "quick": {"action": "store_true", "help": "a small measurement, in minutes"},
    "large": {"action": "store_true", "help": "networks that want a GPU"},
    "compile": {"action": "store_true", "help": "also torch.compile, and CUDA graphs"},
    "corpus": {
        "nargs": "+",
        "help": "of words, news (with hsk), file:PATH; default: words, and news if installed",
    },
}


def _add_train(commands) -> None:
    """Every field of ``Recipe`` and of ``Config``, and every option of a kind's own class, is a
    flag."""
    said = "train a model on a task; Ctrl-C leaves a checkpoint that --resume goes on from"
    kinds = "\n".join(f"  {n:11} {_first_line(kind.model)}" for n, kind in KINDS.items())
    train = commands.add_parser(
        "train",
        help=said,
        epilog=f"models:\n{kinds}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    train.add_argument("task", metavar="TASK", help=", ".join([*MAKERS, "pinyin"]))
    train.add_argument("--model", required=True, choices=KINDS, help="see below")
    train.add_argument("--out", required=True, type=Path, metavar="DIR", help="the run's folder")
    train.add_argument("--resume", action="store_true", help="go on from the checkpoint in DIR")
    train.add_argument("--corpus", help="for pinyin: words (default), news, file:PATH")
    takers = {}  # of each flag: whose it is, and the default there
    owners = {"": Recipe, " ": Config} | {name: kind.model for name, kind in KINDS.items()}
    for kind, owner in owners.items():
        for name, parameter in inspect.signature(owner).parameters.items():
            if parameter.default is not parameter.empty and name != "source_vocab":
                takers.setdefault(name, []).append((kind.strip(), owner, parameter.default))
    for name, ((_, owner, default), *_) in takers.items():
        kinds = ", ".join(kind for kind, *_ in takers[name] if kind)
        said = f"{_said_of(name, owner)} ({kinds}{': ' if kinds else ''}{default})".strip()
        how = {"action": "store_true"} if default is False else {"type": type(default)}
        if "type" in how:
            how["metavar"] = type(default).__name__.upper()
        flag = f"--{name.replace('_', '-')}"
        train.add_argument(flag, default=argparse.SUPPRESS, help=said.replace("%", "%%"), **how)


def _first_line(owner: type) -> str:
    return inspect.getdoc(owner).partition("\n")[0].replace("``", "")


def _said_of(name: str, owner: type) -> str:
    """The sentence of a class's docstring that begins with ``name:``, "" if there is none."""
    said = re.search(
        rf"(?:^|\s){name}: (.+?)\.?(?=\s\w+: |\.\s|\n\n|\Z)", inspect.getdoc(owner), re.S
    )
    return " ".join(said[1].replace("``", "").split()) if said else ""


def parse(argv: list[str]) -> dict:
    """The command, and the arguments of its function in ``COMMANDS``. Raises SystemExit as argparse
    does."""
    if argv[:1] == ["bench"] and not {*argv[1:2]} & {*BENCHES, "-h", "--help"}:
        argv = ["bench", "speed", *argv[1:]]
    given, rest = parser().parse_known_args(argv)  # an option may stand before the sentence or ids
    words = {"decode": "text", "claims": "ids"}.get(given.command)
    if rest and (words is None or any(word.startswith("-") for word in rest)):
        parser().error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        getattr(given, words).extend(rest)
    return vars(given)


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    arguments = parse(sys.argv[1:] if argv is None else argv)
    command = COMMANDS[arguments.pop("command")]
    try:
        return command(**arguments)
    except KeyboardInterrupt as stop:
        print(str(stop) or "stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as in `sar decode ... | head`
        sys.stderr.close()
        return 1
    except (
        Refusal,
        OSError,
        MissingPackage,
    ) as error:  # anything else is a bug, and looks like one
        from .runs import DamagedCheckpoint

        print(f"sar: {error}", file=sys.stderr)
        wrongly = isinstance(error, Refusal) and not isinstance(error, DamagedCheckpoint)
        return 2 if wrongly else 1


def _train(task, model, out, resume, corpus, **options) -> int:
    from ..kinds import make_model
    from ..tasks import load_task
    from .runs import train

    recipe = Recipe(**{f.name: options.pop(f.name) for f in fields(Recipe) if f.name in options})
    loaded = load_task(task, **({} if corpus is None else {"corpus": corpus}))
    made = make_model(model, loaded, seed=recipe.seed, **options)
    last = train(made, loaded, recipe, out, resume)[-1]
    nats = f"{last['validation']:.4f} nats per token"
    print(f"step {last['step']}: validation {nats}; run kept in {out}")
    return 0


def _decode(run, text, beam, new, verbose) -> int:
    from .converter import Converter
    from .runs import load_run

    convert = Converter(*load_run(run), beam=beam, new=new)
    if text:
        print(convert(" ".join(text), verbose))
        return 0
    failed = 0
    for number, line in enumerate(sys.stdin, 1):
        try:
            print(convert(line, verbose) if line.strip() else "", flush=True)
        except Refusal as error:  # say which, go on with the others, and let the exit code tell
            print("", flush=True)
            print(f"sar: line {number}: {error}", file=sys.stderr)
            failed += 1
    return 1 if failed else 0


def _claims(ids, markdown, json) -> int:
    import shutil

    from .report import as_json, as_table, as_text, select

    claims = select(ids)
    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    form = as_table if markdown else as_json if json else None
    print(form(claims) if form else as_text(claims, width), flush=True)
    return 0


def _bench(what, json, threads, **flags) -> int:
    if what in ("speed", "theory"):
        from .bench_speed import bench

        bench(what, json, 2 if threads is None else threads)
    if what == "decode":
        from dataclasses import replace

        from .bench_decode import SMALL_GRID, Grid, bench_decode

        grid = SMALL_GRID if flags["quick"] else Grid()
        grid = grid if threads is None else replace(grid, threads=(threads,))
        bench_decode(grid, json, flags["png"], flags["compile"])
    if what == "pinyin":
        import torch

        from .bench_pinyin import LARGE, QUICK, Plan, bench_pinyin

        torch.set_num_threads(2 if threads is None else threads)
        plan = QUICK if flags["quick"] else LARGE if flags["large"] else Plan()
        bench_pinyin(plan, json, flags["corpus"])
    return 0


def _demo(out, **options) -> int:
    from .demo import demo

    demo(out, **options)
    return 0


def _ledger(out) -> int:
    from .report import PAGE, write_page

    write_page(PAGE if out is None else out)
    return 0


def _cards(out) -> int:
    from .cards import FOLDER, write_cards

    write_cards(FOLDER if out is None else out)
    return 0


COMMANDS = {
    "train": _train,
    "decode": _decode,
    "claims": _claims,
    "bench": _bench,
    "demo": _demo,
    "ledger": _ledger,
    "cards": _cards,
}
