"""The ``sar`` command: train, decode, claims, bench, demo; ledger and cards, which write files of the book.

Exit codes: 0 done, 1 it failed (a damaged checkpoint, a full disk, a line that could not be
decoded), 2 it was called wrongly, 130 stopped by Ctrl-C. Errors are one line on standard error.
"""

import argparse
import sys
from dataclasses import fields
from pathlib import Path

from ..checks import Refusal

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
    main = argparse.ArgumentParser(
        prog="sar",
        description="Shifted autoregressive models, small enough to read.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")

    train = commands.add_parser(
        "train",
        help="train a model on a task; Ctrl-C leaves a checkpoint that --resume goes on from",
    )
    train.add_argument(
        "task", metavar="TASK", help="copy, reverse, sort, homophone, coherence, numerals or pinyin"
    )
    train.add_argument(
        "--model",
        required=True,
        choices=("sar", "ar", "lm", "masked", "shifted", "length", "ctc", "transition"),
        help="Algorithm 1, encoder-decoder, a language model of y, a masked model (mask-predict), a language "
        "model told the shift, Algorithm 1 for a y of another length: predicted, or with blanks; or with a chain "
        "of learned transitions",
    )
    train.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="the folder of the run"
    )
    train.add_argument("--resume", action="store_true", help="go on from the checkpoint in DIR")
    train.add_argument("--corpus", help="for pinyin: words (default), news, file:PATH")
    for name, kind, text in (
        (
            "mask",
            str,
            "what each position of --model sar reads: causal (default, the document's) or full",
        ),
        ("width", int, "D"),
        ("layers", int, "L"),
        ("heads", int, "H"),
        ("dropout", float, "0 to 1"),
        ("shifts", int, "K, the largest shift of --model shifted"),
        ("upsample", int, "u, the places of --model ctc for each token of x"),
        ("rank", int, "of the matrix of --model transition"),
        ("candidates", int, "k, the tokens that --model transition considers at a position"),
    ):
        train.add_argument(f"--{name}", type=kind, help=text, default=argparse.SUPPRESS)
    for name, kind, text in (
        ("steps", int, "optimiser steps"),
        ("short", int, "so many of them first, on the shortest third of the pairs (0)"),
        ("tokens", int, "tokens in a batch"),
        ("rate", float, "highest learning rate"),
        ("seed", int, "of the weights and the order of the data"),
    ):
        train.add_argument(f"--{name}", type=kind, help=text, default=argparse.SUPPRESS)
    train.add_argument("--mixed", action="store_true", help="bfloat16, for wide models on a GPU")

    decode = commands.add_parser("decode", help="read a line in, write a line out")
    decode.add_argument("run", type=Path, metavar="DIR", help="a folder that sar train wrote")
    decode.add_argument(
        "text", nargs="*", help="the sentence; standard input, one a line, if there is none"
    )
    decode.add_argument(
        "--beam",
        type=int,
        metavar="K",
        help="keep the K best prefixes (autoregressive models), or try the K likeliest lengths (length)",
    )
    decode.add_argument(
        "--new", type=int, default=20, metavar="N", help="tokens to add, for a language model (20)"
    )
    decode.add_argument(
        "--verbose", action="store_true", help="add log-probability, steps and milliseconds"
    )

    claims = commands.add_parser(
        "claims", help="the document's claims, their verdicts and what was measured"
    )
    claims.add_argument(
        "ids", nargs="*", metavar="ID", help="only these, such as C10 (default: all)"
    )
    form = claims.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="as a Markdown table")
    form.add_argument("--json", action="store_true", help="as a JSON list, measurements in full")

    bench = commands.add_parser("bench", help="speed and memory, as ratios within one run")
    bench.add_argument(
        "what",
        nargs="?",
        default="speed",
        choices=("speed", "decode", "theory", "pinyin"),
        help="speed and memory (default); decoders with fewer steps; trained models against exact bounds; pinyin to "
        "hanzi by counting, by networks and by both",
    )
    bench.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    bench.add_argument(
        "--threads", type=int, metavar="N", help="threads of torch (2; decode: once 1, once 2)"
    )
    bench.add_argument("--png", type=Path, metavar="FILE", help="decode: draw a figure there")
    bench.add_argument(
        "--quick", action="store_true", help="decode, pinyin: a small measurement, in minutes"
    )
    bench.add_argument("--large", action="store_true", help="pinyin: networks that want a GPU")
    bench.add_argument(
        "--corpus",
        nargs="+",
        help="pinyin: of words, news (and hsk with it) and file:PATH; default: words, and news if installed",
    )
    bench.add_argument(
        "--compile", action="store_true", help="decode: also torch.compile, and CUDA graphs"
    )

    demo = commands.add_parser("demo", help="the flagship in the terminal, in under 5 minutes")
    demo.add_argument(
        "--out", type=Path, metavar="DIR", help="keep the two runs in DIR/sar and DIR/ar"
    )
    demo.add_argument(
        "--steps", type=int, default=argparse.SUPPRESS, help="optimiser steps of each model"
    )

    ledger = commands.add_parser("ledger", help="write the ledger of claims as a page of the book")
    ledger.add_argument(
        "--out", type=Path, metavar="FILE", help="a notebook (chapters/ledger.ipynb)"
    )
    cards = commands.add_parser("cards", help="write the card of each data set")
    cards.add_argument("--out", type=Path, metavar="DIR", help="the folder for them (data)")
    return main


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    found, rest = parser().parse_known_args(argv)  # an option may stand before the sentence or ids
    words = {"decode": "text", "claims": "ids"}.get(found.command)
    if rest and (words is None or any(word.startswith("-") for word in rest)):
        parser().error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        getattr(found, words).extend(rest)
    arguments = vars(found)
    command = COMMANDS[arguments.pop("command")]
    try:
        return command(**arguments)
    except KeyboardInterrupt as stop:
        print(str(stop) or "stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as in `sar decode ... | head`
        sys.stderr.close()
        return 1
    except Refusal as error:
        from .runs import DamagedCheckpoint

        print(f"sar: {error}", file=sys.stderr)
        return 1 if isinstance(error, DamagedCheckpoint) else 2
    except (OSError, ImportError) as error:
        print(f"sar: {error}", file=sys.stderr)
        return 1


def _train(task, model, out, resume, corpus, **options) -> int:
    from ..kinds import make_model
    from ..tasks import load_task
    from ..training import Recipe
    from .runs import train

    recipe = Recipe(**{f.name: options.pop(f.name) for f in fields(Recipe) if f.name in options})
    loaded = load_task(task, **({} if corpus is None else {"corpus": corpus}))
    metrics = train(
        make_model(model, loaded, seed=recipe.seed, **options), loaded, recipe, out, resume
    )
    print(
        f"step {metrics[-1]['step']}: validation {metrics[-1]['validation']:.4f} nats per token; run kept in {out}"
    )
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

    from .report import as_json, as_markdown, as_text, select

    claims = select(ids)
    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    form = as_markdown if markdown else as_json if json else None
    print(form(claims) if form else as_text(claims, width), flush=True)
    return 0


def _bench(what, json, threads, png, quick, large, compile, corpus) -> int:
    for name, given, where in (
        ("corpus", corpus is not None, ["pinyin"]),
        ("large", large, ["pinyin"]),
        ("png", png, ["decode"]),
        ("quick", quick, ["decode", "pinyin"]),
        ("compile", compile, ["decode"]),
    ):
        if given and what not in where:
            raise Refusal(f"--{name}: expected with `sar bench {where[0]}`, got it with {what}")
    if quick and large:
        raise Refusal("--large: expected one of --quick and --large, got both")
    if what == "decode":
        from dataclasses import replace

        from .bench_decode import QUICK, Plan, bench_decode

        plan = QUICK if quick else Plan()
        if threads is not None:
            plan = replace(plan, threads=(threads,))
        bench_decode(plan, json, png, compile)
        return 0
    if what == "pinyin":
        import torch

        from .bench_pinyin import LARGE, QUICK, Plan, bench_pinyin

        torch.set_num_threads(2 if threads is None else threads)
        bench_pinyin(QUICK if quick else LARGE if large else Plan(), json, corpus)
        return 0
    from .bench_speed import bench

    bench(what, json, 2 if threads is None else threads)
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
