"""The ``sar`` command: train, decode, claims, bench, demo; ledger and cards, for the book's files.

Exit codes: 0 done, 1 it failed (a damaged checkpoint, a full disk or memory, diverged training, a
line that could not be decoded), 2 it was called wrongly, 130 stopped by Ctrl-C. Errors are one line
on standard error; only a bug of ours has a traceback.
"""

import argparse
import inspect
import io
import os
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NoReturn, TextIO

from ..errors import MissingPackage, Refusal  # no torch: half of the commands do without

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
  sar measure C10                                     run its chapter here: is it as in the book?
  sar ledger                                          the ledger's page, as make run-nb writes it
  sar cards                                           the data cards, after a change to a task
"""
RAW = argparse.RawDescriptionHelpFormatter


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:  # a line: the usage of `sar train` is ten
        self.exit(2, f"{self.prog}: {_one_line(message)} (see {self.prog} --help)\n")


def _whole(most: int = 2**31 - 1, what: str = "a whole number >= 1") -> Callable[[str], int]:
    """A reader of options that are whole numbers, at least 1; ``what`` they are."""

    def read(text: str) -> int:
        value = int(text) if re.fullmatch(r"\d{1,30}", text) else 0
        if not 1 <= value <= most:
            limit = f"{what}, and at most {most:,}" if value else what
            raise argparse.ArgumentTypeError(f"expected {limit}, got {text}")
        return value

    return read


def _int(text: str) -> int:
    """What torch can count with: an option of `sar train`, whose owner says what it should be."""
    if not re.fullmatch(r"\s*[+-]?[\d_]{1,1000}\s*", text):
        raise argparse.ArgumentTypeError(f"invalid int value: {text!r}")
    if abs(value := int(text)) >= 2**63:
        raise argparse.ArgumentTypeError(f"expected less than 2 ** 63, got {text}")
    return value


def _path(text: str) -> Path:
    if not text.strip():  # Path("") is the folder one happens to be in
        raise argparse.ArgumentTypeError(f"expected a path, got {text!r}")
    return Path(text)


def parser(training: bool = False) -> argparse.ArgumentParser:
    """What is understood, command by command; ``COMMANDS`` has a function for each. training: with
    the options of ``sar train``, which are read off the models, and so need torch."""
    text = "Shifted autoregressive models, small enough to read."
    main = _Parser("sar", description=text, epilog=EXAMPLES, formatter_class=RAW)
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")
    text = "train a model on a task; Ctrl-C leaves a checkpoint that --resume goes on from"
    train = commands.add_parser("train", help=text, formatter_class=RAW)
    if training:
        _add_train(train)

    add = commands.add_parser("decode", help="read a line in, write a line out").add_argument
    add("run", type=_path, metavar="DIR", help="a folder that sar train wrote")
    add("text", nargs="*", help="the sentence; standard input, one a line, if there is none")
    text = "keep the K best prefixes (autoregressive), or try the K likeliest lengths (length)"
    add("--beam", type=_whole(most=2**16), metavar="K", help=text)
    text, new = "tokens to add, for a language model (20)", "at least 1 token to make"
    add("--new", type=_whole(what=new), metavar="N", help=text)
    add("--verbose", action="store_true", help="add log-probability, steps and milliseconds")

    text = "the document's claims, their verdicts and what was measured"
    claims = commands.add_parser("claims", help=text)
    claims.add_argument("ids", nargs="*", metavar="ID", help="only these, such as C10")
    add = claims.add_mutually_exclusive_group().add_argument
    add("--markdown", action="store_true", help="as a Markdown table")
    add("--json", action="store_true", help="as a JSON list, measurements in full")

    _add_benches(commands.add_parser("bench", help="speed and memory, as ratios within one run"))
    text = "the flagship in the terminal, in under 5 minutes"
    add = commands.add_parser("demo", help=text).add_argument
    add("--out", type=_path, metavar="DIR", help="keep the two runs in DIR/sar and DIR/ar")
    add("--steps", type=_whole(), metavar="N", help="optimiser steps of each model")
    text = "run the chapters of some claims here, and put what they measure beside the book"
    measure = commands.add_parser("measure", help=text)
    measure.add_argument("ids", nargs="*", metavar="ID", help="such as C10 (default: all, an hour)")
    text = "train longer, more seeds; keep it in data/measured/full; goes on where it was stopped"
    measure.add_argument("--full", action="store_true", help=text)
    text = "with --full: keep it in full-NAME, beside what other machines measured"
    measure.add_argument("--machine", default="", metavar="NAME", help=text)
    text = "write the ledger of claims and the sources as pages of the book"
    add = commands.add_parser("ledger", help=text).add_argument
    add("--out", type=_path, metavar="FILE", help="the ledger alone, as a notebook")
    add = commands.add_parser("cards", help="write the card of each data set").add_argument
    add("--out", type=_path, metavar="DIR", help="the folder for them (data)")
    return main


BENCHES = {
    "speed": "decoding and training beside other libraries, memory, start-up",
    "decode": "decoders with fewer steps, and why they pay",
    "theory": "trained models against exact bounds",
    "pinyin": "pinyin to hanzi by counting, networks and both",
    "spectrum": "what one pass loses on fourteen tasks, beside theory; goes on with --json FILE",
    "faults": "wrong arguments, killed runs, damaged files, full disks: what comes of it",
}


def _add_benches(bench: argparse.ArgumentParser) -> None:
    whats = bench.add_subparsers(dest="what", metavar="WHAT", title="what (speed if none)")
    benches = {w: whats.add_parser(w, help=text, description=text) for w, text in BENCHES.items()}
    for one in benches.values():
        one.add_argument("--json", type=_path, metavar="FILE", help="write the figures there too")
        text = "of torch (2; decode: once 1, once 2)"
        one.add_argument("--threads", type=_whole(most=1024), metavar="N", help=text)
    add, quick = benches["decode"].add_argument, "a small measurement, in minutes"
    add("--png", type=_path, metavar="FILE", help="draw a figure there")
    add("--quick", action="store_true", help=quick)
    add("--compile", action="store_true", help="also torch.compile, and CUDA graphs")
    add = benches["pinyin"].add_mutually_exclusive_group().add_argument
    add("--quick", action="store_true", help=quick)
    add("--large", action="store_true", help="networks that want a GPU")
    text = "of words, news (with hsk), file:PATH; default: words, and news if installed"
    benches["pinyin"].add_argument("--corpus", nargs="+", help=text)


def _add_train(train: argparse.ArgumentParser) -> None:
    """The fields of ``Recipe`` and ``Config`` and the options of each kind are its options."""
    from ..blocks import Config
    from ..kinds import KINDS
    from ..tasks import TASKS
    from ..training import Recipe

    kinds = [f"  {name:11} {_doc(kind.model).splitlines()[0]}" for name, kind in KINDS.items()]
    train.epilog, add = "\n".join(["models:", *kinds]), train.add_argument
    add("task", metavar="TASK", help=", ".join(TASKS))
    add("--model", required=True, choices=KINDS, help="see below")
    add("--out", required=True, type=_path, metavar="DIR", help="the folder of the run")
    add("--resume", action="store_true", help="go on from the checkpoint in DIR")
    add("--corpus", help="for pinyin: words (default), news, file:PATH")

    owners = [("", Recipe), ("", Config), *((f"{n}: ", k.model) for n, k in KINDS.items())]
    takers: dict[str, list[tuple[str, Any, type]]] = {}  # of an option: kind, default, class
    for kind, owner in owners:
        for name, parameter in inspect.signature(owner).parameters.items():
            if parameter.default is not parameter.empty and name != "source_vocab":
                takers.setdefault(name, []).append((kind, parameter.default, owner))
    for name, those in takers.items():
        _, default, owner = those[0]
        values = ", ".join(f"{kind}{value}" for kind, value, _ in those)
        text = f"{_explained(name, owner)} ({values})".strip().replace("%", "%%")
        how: dict[str, Any] = {"type": _int if type(default) is int else type(default)}
        how["metavar"] = type(default).__name__.upper()
        how = {"action": "store_true"} if default is False else how
        add(f"--{name.replace('_', '-')}", default=argparse.SUPPRESS, help=text, **how)


def _explained(name: str, owner: type) -> str:
    """The sentence of a class's docstring that begins with ``name:``, "" if there is none."""
    sentence = rf"(?:^|\s){name}:\s+(.+?)\.?(?=\s\w+: |\.\s|\n\n|\Z)"
    text = re.search(sentence, _doc(owner), re.DOTALL)
    return " ".join(text[1].split()) if text else ""


def _doc(owner: type) -> str:
    return (inspect.getdoc(owner) or "").replace("``", "")


def parse(argv: list[str]) -> dict[str, Any]:
    """The command and its function's arguments (``COMMANDS``); argparse's SystemExit if wrong."""
    asked = argv[1] if len(argv) > 1 else "-"
    if argv[:1] == ["bench"] and asked.startswith("-") and asked not in ("-h", "--help"):
        argv = ["bench", "speed", *argv[1:]]
    main = parser(training=argv[:1] == ["train"])
    given, rest = main.parse_known_args(argv)  # an option may stand before the sentence or ids
    arguments = vars(given)
    words: Any = arguments.get("text", arguments.get("ids"))
    if rest:
        if words is None or any(word.startswith("-") for word in rest):
            main.error(f"unrecognized arguments: {' '.join(rest)}")
        words.extend(rest)
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    formatted = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"sar: {_one_line(str(message))}\n"
    try:
        _open_streams(argv[:1] != ["decode"])
        arguments = parse(argv)
        command = arguments.pop("command")
        if command == "decode" and not arguments["text"] and sys.stdin is None:
            raise Refusal("standard input: expected sentences, it is closed")
        code = COMMANDS[command](**arguments) or 0
        if sys.stdout:
            sys.stdout.flush()  # what cannot be written is known now
        return code
    except KeyboardInterrupt as stop:
        print(str(stop) or "stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as in `sar decode ... | head`
        sys.stderr.close()
        return 1
    except Exception as error:
        found = _expected(error)
        if found is None:  # a bug of ours
            raise
        code, line = found
        print(f"sar: {_one_line(line)}", file=sys.stderr)
        return code
    finally:
        warnings.formatwarning = formatted


def _open_streams(replace: bool) -> None:
    """A closed standard error hides what is written to it. replace: what the encoding of standard
    output lacks is written as \\u4e8c; else it is an error, since it is what was asked for."""
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")
    if replace and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")


def _one_line(text: str, most: int = 1000) -> str:
    """``text`` without line ends, control characters or more than one can read."""
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(text.split()))
    return text if len(text) <= most else text[:most] + " ..."


def _expected(error: Exception) -> tuple[int, str] | None:
    """The exit code and the line of what may go wrong; of anything else, a bug of ours, None."""
    if isinstance(error, UnicodeEncodeError):
        encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower()
        lacks = f"standard output is {encoding}, which cannot show {error.object[error.start]!a}"
        return None if encoding == "utf-8" else (1, f"{lacks}; set PYTHONUTF8=1")
    if isinstance(error, OSError | MissingPackage):
        return 1, str(error)
    if "home directory" in str(error) and not isinstance(error, Refusal):  # pathlib's, of a ~
        return 2, f"{error} Write the path out, without ~"
    from .device import out_of_memory
    from .runs import Diverged
    from .stored import DamagedCheckpoint

    if out_of_memory(error):
        return 1, f"too large for the memory of this machine ({' '.join(str(error).split())[:200]})"
    if isinstance(error, DamagedCheckpoint | Diverged):
        return 1, str(error)
    return (2, str(error)) if isinstance(error, Refusal) else None


def _train(task, model, out, resume, corpus, **options) -> None:
    from ..kinds import make_model
    from ..tasks import load_task
    from ..tasks.passages import told
    from ..training import Recipe
    from .runs import train

    recipe = Recipe(**{f.name: options.pop(f.name) for f in fields(Recipe) if f.name in options})
    loaded = load_task(task, **({} if corpus is None else {"corpus": corpus}))
    made = make_model(model, loaded, seed=recipe.seed, **options)
    print(told(loaded.card), end="")
    last = train(made, loaded, recipe, out, resume)[-1]
    nats = f"{last['validation']:.4f} nats per token"
    print(f"step {last['step']}: validation {nats}; run kept in {out}")


def _decode(run, text, beam, new, verbose) -> int:
    from .converter import Converter
    from .runs import load_run

    convert = Converter(*load_run(run), beam, new)
    if text:
        print(convert(line := " ".join(text), verbose))
        if cut := convert.read_as(line):
            print(cut, file=sys.stderr)
        return 0
    code = 0
    for number, line in enumerate(_lines(sys.stdin), 1):
        try:
            if broken := [c for c in line if "\udc80" <= c <= "\udcff"]:
                raise Refusal(f"expected UTF-8, got the byte {ord(broken[0]) - 0xDC00:#x}")
            print(convert(line, verbose) if line.strip() else "", flush=True)
            if line.strip() and (cut := convert.read_as(line)):
                print(f"line {number}: {cut}", file=sys.stderr)
        except Refusal as error:  # say which, go on with the others, and let the exit code tell
            print("", flush=True)
            print(f"sar: line {number}: {error}", file=sys.stderr)
            code = 1
    return code


def _lines(stream: TextIO | None) -> Iterator[str]:
    """Lines in UTF-8, read as kindly as a corpus; a byte that is none becomes a surrogate."""
    if stream is None:
        raise Refusal("standard input: expected a sentence a line, got none: it is closed")
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(encoding="utf-8-sig", errors="surrogateescape", newline=None)
    yield from stream


def _claims(ids, markdown, json) -> None:
    from .report import as_json, as_table, as_text, select

    claims, width = select(ids), min(shutil.get_terminal_size((100, 24)).columns, 120)
    text = as_table(claims) if markdown else as_json(claims) if json else as_text(claims, width)
    print(text, flush=True)


def _bench(what, json, threads, **flags) -> None:
    from ..tasks.files import check_writable

    for path in filter(None, (json, flags.get("png"))):
        check_writable(path)  # now, not when all has been measured
    if what in ("speed", "theory", "faults"):
        from .bench_speed import bench

        bench(what, json, threads or 2)
    if what == "decode":
        from .bench_decode import SMALL_GRID, Grid, bench_decode

        grid = SMALL_GRID if flags["quick"] else Grid()
        grid = replace(grid, threads=(threads,)) if threads else grid
        bench_decode(grid, json, flags["png"], flags["compile"])
    if what in ("spectrum", "pinyin"):
        import torch

        torch.set_num_threads(threads or 2)
    if what == "spectrum":
        from .bench_spectrum import bench_spectrum

        bench_spectrum(json)
    if what == "pinyin":
        from .bench_pinyin import LARGE, QUICK, Plan, bench_pinyin

        plan = QUICK if flags["quick"] else LARGE if flags["large"] else Plan()
        bench_pinyin(plan, json, flags["corpus"])


def _demo(out, steps) -> None:
    from .demo import demo

    demo(out, steps)


def _measure(ids, full, machine) -> int:
    """Exit status 1 where a measurement does not meet what its claim asks for."""
    from .evidence import compared
    from .report import select

    missed, folder = 0, f"full-{machine}".rstrip("-") if full else ""
    for row in compared([c.id for c in select(ids)], folder):
        missed += not row.met
        print(f"{row.claim} {row.name}: {row.verdict}")
        print(f"    asked {row.asked}; here {row.here}; in the book {row.book}")
    return int(missed > 0)


def _ledger(out) -> None:
    from ..tasks.files import write_atomically
    from .report import PAGE, README, SOURCES_PAGE, page, sources_page, summarised

    write_atomically(out or PAGE, page().encode())
    if out is None:
        write_atomically(SOURCES_PAGE, sources_page().encode())
        write_atomically(README, summarised(README.read_text("utf-8")).encode())


def _cards(out) -> None:
    from .cards import FOLDER, write_cards

    write_cards(out or FOLDER)


# What is returned is the exit code, None for 0.
COMMANDS: dict[str, Callable[..., int | None]] = dict(train=_train, decode=_decode, claims=_claims)
COMMANDS |= dict(measure=_measure, bench=_bench, demo=_demo, ledger=_ledger, cards=_cards)
