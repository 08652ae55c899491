"""Faults of runs, their files and the command, each with the behaviour that is right: what was found by
attack and in other people's bug reports (issue 17)."""

import contextlib
import errno
import io
import json
import multiprocessing
import os
import random
import signal
import stat
import subprocess
import sys
import warnings
from pathlib import Path

import laws
import pytest
import torch
from laws import TINY, build, ctrl_c, run
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sar_minimal.data import Split
from sar_minimal.errors import Refusal
from sar_minimal.kinds import make_model
from sar_minimal.lab import cli, demo, runs, stored, timing
from sar_minimal.lab import ledger as records
from sar_minimal.lab.claims import Verdict, ledger, measured_in
from sar_minimal.lab.cli import main
from sar_minimal.lab.runs import Diverged, Interrupted, load_run, train
from sar_minimal.lab.stored import DamagedCheckpoint, load, save
from sar_minimal.tasks import files, load_task
from sar_minimal.training import Recipe

ROOT = Path(__file__).parents[1]
SMALL = "--width 16 --layers 1 --heads 2 --steps 4 --tokens 64".split()
POSIX = pytest.mark.skipif(os.name != "posix", reason="permissions and locks of POSIX")


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setenv("SAR_DEVICE", "cpu")


@pytest.fixture
def sar(capsys):
    """Exit code, standard output, standard error; every error is one line and no traceback."""

    def call(*words):
        capsys.readouterr()
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        assert code == 0 or (err.count("\n") == 1 and "Traceback" not in err), err
        return code, out, err

    return call


def sar_train(folder, *words, task="copy", kind="ar"):
    return ["train", task, "--model", kind, "--out", str(folder), *SMALL, *map(str, words)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a trained run, not to be written to."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    run(folder, "ar")
    return folder


@pytest.fixture
def saved(trained, tmp_path):
    """A copy of it."""
    copy = tmp_path / "run"
    copy.mkdir()
    for path in trained.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


def same_weights(one, two):
    one, two = one.state_dict(), two.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


# ---------------------------------------------------------------- stopped anywhere (A2)


@pytest.mark.parametrize("checkpoints", ("often", "once"))
def test_a_full_disk_at_any_file(tmp_path, checkpoints):
    """As a law has it for a process that is killed."""
    laws.a_run_may_end_between_any_two_files(checkpoints, tmp_path, of=OSError)


def test_what_lies_there_was_trained(tmp_path):
    """Until there are weights to keep, nothing can be decoded."""
    for number in range(4):
        with pytest.raises(laws.Killed), laws.dies_after(number):
            run(tmp_path / str(number), "ar")
        with pytest.raises(FileNotFoundError, match="expected a saved model"):
            load_run(tmp_path / str(number))


def test_weights_that_an_older_version_left_stale_are_mended(saved):
    whole = (saved / "model.safetensors").read_bytes()
    save(make_model("ar", load_task("reverse", **TINY), width=16, layers=1, heads=2, max_length=8,
                    dropout=0.2), saved)  # fmt: skip
    run(saved, "ar", resume=True)
    assert (saved / "model.safetensors").read_bytes() == whole


# ---------------------------------------------------------------- never over a model (A3), never half (A4, A13)


def test_a_model_without_a_checkpoint_is_not_trained_over(saved, sar, tmp_path):
    (saved / "checkpoint.safetensors").unlink()
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    for resume in (True, False):
        with pytest.raises(FileExistsError, match="run: holds a "):
            run(saved, "lm", resume=resume)
    code, _, err = sar(*sar_train(saved, "--resume"))
    assert code == 1 and "holds a model but no checkpoint.safetensors to resume from" in err
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_the_demo_does_not_train_over_a_model(saved, monkeypatch):
    task = load_task("reverse", **TINY)
    monkeypatch.setattr(demo, "load_task", lambda _: task)
    (saved / "checkpoint.safetensors").unlink()
    (saved.parent / "sar").symlink_to(saved)
    with pytest.raises(FileExistsError, match="holds a model but no checkpoint"):
        demo.demo(saved.parent, steps=2)


@pytest.mark.parametrize(
    "words, message",
    [
        (["numerals", "sar"], "Algorithm 1 makes one token of y for each of x"),
        (["numerals", "masked"], "y"),
        (["numerals", "ctc", "--upsample", 1], "upsample"),
        (["copy", "ar", "--tokens", 3], "more than the budget of 3 tokens a batch"),
        (["copy", "ar", "--tokens", 6, "--short", 4], "more than the budget of 6 tokens a batch"),
        (["copy", "ar", "--max-length", 8], "max_length = 8 tokens, got "),
        (["copy", "ar", "--seed", "1e20"], "invalid int value: '1e20'"),
        (["copy", "ar", "--seed", 10**20], "less than 2 ** 63"),
        (["copy", "ar", "--max-length", 10**20], "less than 2 ** 63"),
        (["copy", "ar", "--rate", "inf"], "rate: expected a finite number"),
        (["copy", "ar", "--shifts", 3], "shifts: the kind 'ar' has no such option"),
    ],
)
def test_what_is_refused_leaves_nothing(sar, tmp_path, words, message):
    """Neither at the first batch nor, after hours, at the longest pair."""
    (task, kind, *rest), folder = words, tmp_path / "run"
    code, out, err = sar(*sar_train(folder, *rest, task=task, kind=kind))
    assert code == 2 and message in err and not folder.exists()


def test_options_that_are_no_json_leave_nothing(tmp_path):
    """As the name of a corpus that is not UTF-8."""
    task = load_task("reverse", **TINY)
    for wrong in ("file:\udcff.txt", b"file"):
        task.options["corpus"] = wrong
        with pytest.raises(Refusal, match="task: expected options that can be written as JSON"):
            run(tmp_path / "run", task=task)
        assert not (tmp_path / "run").exists()
    model = make_model("sar", task, width=16, heads=2, mask=lambda *_: None)
    with pytest.raises(Refusal, match="mask: a function cannot be written"):
        train(model, load_task("reverse", **TINY), Recipe(steps=1), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_that_failed_before_its_first_checkpoint_is_none(sar, tmp_path):
    """The corrected command works, and nothing can be decoded before."""
    assert sar(*sar_train(tmp_path / "run", "--rate", "1e30"))[0] == 1
    code, _, err = sar("decode", tmp_path / "run", "1 2")
    assert code == 1 and "found no model.safetensors" in err
    assert sar(*sar_train(tmp_path / "run"))[0] == 0


@pytest.mark.parametrize(
    "words",
    [
        sar_train(""),
        ["decode", "", "1 2"],
        ["demo", "--out", ""],
        ["ledger", "--out", ""],
        ["cards", "--out", " "],
        ["bench", "--json", ""],
    ],
)
def test_no_path_is_no_path(sar, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    code, _, err = sar(*words)
    assert code == 2 and "expected a path, got '" in err and not list(tmp_path.iterdir())
    with pytest.raises(Refusal, match="out: expected a folder, got ''"):
        run("")


# ---------------------------------------------------------------- two at once (A14)


@POSIX
def test_a_folder_has_one_run_at_a_time(saved, sar):
    with files.locked(saved):
        for resume in (False, True):
            with pytest.raises(FileExistsError, match="run: in use by another process"):
                run(saved, "ar", resume=resume)
        assert sar(*sar_train(saved, "--resume"))[0] == 1
    run(saved, "ar", resume=True)
    assert not list(saved.glob("*lock*"))


@POSIX
def test_a_killed_process_lets_go(tmp_path):
    code = "import sys; from pathlib import Path; from sar_minimal.tasks.files import locked\n"
    code += "with locked(Path(sys.argv[1])): print('mine', flush=True); sys.stdin.read()"
    words, pipe = [sys.executable, "-c", code, str(tmp_path)], subprocess.PIPE
    with subprocess.Popen(words, cwd=ROOT, stdin=pipe, stdout=pipe) as process:
        assert process.stdout.readline() == b"mine\n"
        with pytest.raises(FileExistsError), files.locked(tmp_path):
            pass
        process.kill()
    with files.locked(tmp_path):
        pass


CLAIM = """
[[claim]]
id = "{}"
place = ["9"]
claim = "c"
formal = "f"
verdict = "holds"
because = "b"
chapters = ["99_nowhere"]
experiment = "e"
true = {{n = "> 0"}}
"""


def _record(path, id):
    row = ledger(path)[id]
    records.record(Verdict(row, {"n": [1.0]}), "99_nowhere", path.parent / "measured")


@POSIX
@pytest.mark.skipif(torch.cuda.is_available(), reason="forks")
def test_recordings_at_once_lose_none(tmp_path, monkeypatch):
    ids, path = [f"C{n:02}" for n in range(8)], tmp_path / "claims.toml"
    path.write_text("".join(CLAIM.format(id) for id in ids))
    monkeypatch.setattr(records, "_commit", lambda: "abc")
    fork = multiprocessing.get_context("fork")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        children = [fork.Process(target=_record, args=(path, id)) for id in ids]
        for child in children:
            child.start()
    for child in children:
        child.join(60)
    assert list(measured_in(tmp_path / "measured" / "99_nowhere.json")) == ids


def test_a_claim_can_be_recorded_where_lines_end_in_cr_lf(tmp_path, monkeypatch):
    """As on a checkout with core.autocrlf (F12)."""
    monkeypatch.setattr(records, "_commit", lambda: "abc")
    path = tmp_path / "claims.toml"
    path.write_bytes(CLAIM.format("C00").replace("\n", "\r\n").encode())
    for _ in range(2):
        _record(path, "C00")
        (file,) = (tmp_path / "measured").iterdir()
        file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    assert list(measured_in(file)) == ["C00"]


# ---------------------------------------------------------------- the same data and machine (A15, F6)


def half(folder, **options):
    with ctrl_c(at_step=6), pytest.raises(Interrupted):
        run(folder, "ar", **options)


def test_other_pairs_are_another_run(tmp_path):
    """A corpus that was edited has the same name."""
    half(tmp_path / "run")
    for name in ("train", "validation"):
        task = load_task("reverse", **TINY)
        split = getattr(task, name)
        object.__setattr__(task, name, Split(split.x[::-1], split.y[::-1]))
        message = "another set of pairs: .*; the text or the task was changed since"
        with pytest.raises(Refusal, match=message):
            run(tmp_path / "run", "ar", task=task, resume=True)
    run(tmp_path / "run", "ar", resume=True)


def test_the_same_pairs_from_elsewhere_are_the_same_run(tmp_path):
    """A text that was moved, or is named by its full path."""
    task = load_task("reverse", **TINY)
    task.options["corpus"] = "file:mine.txt"
    half(tmp_path / "run", task=task)
    task.options["corpus"] = "file:/home/me/mine.txt"
    model, _ = run(tmp_path / "run", "ar", task=task, resume=True)
    assert same_weights(model, run(None, "ar")[0])
    assert load_run(tmp_path / "run")[3]["options"]["corpus"] == "file:/home/me/mine.txt"


def test_another_number_of_threads_is_said(tmp_path, monkeypatch, sar):
    """Not refused, since a run may have to move to another machine; but it is no longer exact."""
    half(tmp_path / "run")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    with pytest.warns(UserWarning, match="threads was 1, now 7.*: the weights will not be, to the"):
        run(tmp_path / "run", "ar", resume=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(tmp_path / "run", "ar", resume=True)
    monkeypatch.undo()
    with ctrl_c(at_step=2):
        main(sar_train(tmp_path / "two"))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = lambda w, c, *_: sys.stderr.write(
            warnings.formatwarning(w, c, "", 1)
        )
        code, _, err = sar(*sar_train(tmp_path / "two", "--resume"))
    assert code == 0 and err.startswith("sar: ") and "threads was 1" in err and err.count("\n") == 1


def older(folder):
    """Make a folder as it was before 2026-11-27: no checksums, no pairs, no machine."""
    with safe_open(folder / "checkpoint.safetensors", "pt") as file:
        about = json.loads(file.metadata()["about"])
    del about["machine"], about["identity"]["set of pairs"]
    weights = load_file(folder / "checkpoint.safetensors")
    save_file(weights, folder / "checkpoint.safetensors", {"about": json.dumps(about)})
    save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors")


def test_older_folders_load_and_resume(tmp_path):
    half(tmp_path / "run")
    older(tmp_path / "run")
    load_run(tmp_path / "run")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model, _ = run(tmp_path / "run", "ar", resume=True)
    assert same_weights(model, run(None, "ar")[0])
    older(tmp_path / "run")
    assert same_weights(load_run(tmp_path / "run")[0], model)


def test_how_often_it_reports_is_no_other_run(tmp_path):
    """No weight depends on it; the number of steps is another matter, and it is said why."""
    recipe = dict(steps=12, tokens=40, warmup=4, short=8, report=3, checkpoint=4)
    half(tmp_path / "run")
    for wrong in ({"steps": 24}, {"rate": 1.0}):
        with pytest.raises(Refusal, match="to train longer, name another folder"):
            run(tmp_path / "run", "ar", Recipe(**recipe | wrong), resume=True)
    model, _ = run(tmp_path / "run", "ar", Recipe(**recipe | {"report": 5, "checkpoint": 2}), True)
    assert same_weights(model, run(None, "ar")[0])


# ---------------------------------------------------------------- damage (A6, A10, A12)


def flipped(data, seed):
    bits, at = bytearray(data), random.Random(seed)
    bits[at.randrange(len(bits))] ^= 1 << at.randrange(8)
    return bytes(bits)


FLIPS = int(os.environ.get("SAR_FLIPS", 25))  # `sar bench faults` is to do more


@pytest.mark.parametrize("name", ("model.safetensors", "config.json", "task.json"))
def test_a_flipped_bit_is_noticed(saved, name):
    """Or it is one that says nothing, such as a space of JSON: the model and its words are the same."""
    model, *rest = load_run(saved)
    whole, noticed = (saved / name).read_bytes(), 0
    for seed in range(FLIPS):
        (saved / name).write_bytes(flipped(whole, seed))
        try:
            other, *others = load_run(saved)
        except DamagedCheckpoint as error:
            noticed += 1
            named = name in str(error) or "weights of {'model'" in str(error)  # of the other
            assert named and "\n" not in str(error) and len(str(error)) < 1000
        else:
            assert same_weights(model, other) and rest == others, f"flip {seed} of {name}"
            assert (model.config, model.options) == (other.config, other.options)
    print(f"{name}: {noticed} of {FLIPS} noticed")
    assert noticed == FLIPS or name.endswith("json") and noticed > 0.7 * FLIPS


@pytest.mark.parametrize("where", ("anywhere", "header"))
def test_a_flipped_bit_of_a_checkpoint_is_noticed(saved, where):
    whole = (saved / "checkpoint.safetensors").read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    size, noticed = len(whole) if where == "anywhere" else header, 0
    for seed in range(FLIPS):
        (saved / "checkpoint.safetensors").write_bytes(flipped(whole[:size], seed) + whole[size:])
        with pytest.raises(DamagedCheckpoint, match="not a checkpoint of ours") as error:
            run(saved, "ar", resume=True)
        noticed += "\n" not in str(error.value)
    print(f"checkpoint, {where}: {noticed} of {FLIPS} noticed")
    assert noticed == FLIPS


@pytest.mark.parametrize(
    "change", ({"heads": 1}, {"heads": 4}, {"max_length": 9}, {"dropout": 0.3})
)
def test_a_configuration_that_fits_the_weights_too(saved, change):
    path = saved / "config.json"
    stored = json.loads(path.read_text())
    stored["config"] |= change
    path.write_text(json.dumps(stored))
    with pytest.raises(DamagedCheckpoint, match="config.json: .*checksum"):
        load(saved)


def test_other_words_of_the_same_number(saved):
    path = saved / "task.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps(about | {"source": about["source"][::-1]}))
    with pytest.raises(DamagedCheckpoint, match="task.json: not a task of ours .*checksum"):
        load_run(saved)


@pytest.mark.parametrize("file", ("config.json", "task.json"))
@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        "null",
        "3",
        '{"name": 3, "options": {}, "source": [], "target": []}',
        '{"options": {}, "source": [], "target": []}',
        '{"model": ["EncoderDecoderAR"], "config": {}}',
    ],
)
def test_json_of_something_else(saved, file, content):
    (saved / file).write_text(content)
    with pytest.raises(DamagedCheckpoint, match=f"{file}: not a .* of ours") as error:
        load_run(saved)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        {"layers": 1_000_000},
        {"layers": 10**30},
        {"max_length": 100_000_000},
        {"max_length": 10**30},
        {"target_vocab": 1_000_000_000},
        {"width": 1_000_000},
        {"width": 10**30},
        {"hidden": 10**18},
    ],
)
@pytest.mark.parametrize("old", (False, True))
def test_sizes_are_compared_before_anything_is_built(saved, monkeypatch, change, old):
    if old:
        older(saved)
    path = saved / "config.json"
    stored = json.loads(path.read_text())
    stored["config"] |= change
    path.write_text(json.dumps(stored))
    monkeypatch.setattr(torch.Tensor, "normal_", _no_real_weights)
    with pytest.raises(DamagedCheckpoint, match=r"config.json|model.safetensors: not") as error:
        load(saved)
    assert "\n" not in str(error.value)


def _no_real_weights(weight, *_, **__):
    assert weight.is_meta
    return weight


@pytest.mark.parametrize("change", ("int8", "bool", "nan", "inf"))
@pytest.mark.parametrize("file", ("model", "checkpoint"))
def test_weights_of_another_type(saved, change, file):
    older(saved)  # no checksum to help
    path = saved / f"{file}.safetensors"
    tensors, about = load_file(path), None
    if file == "checkpoint":
        with safe_open(path, "pt") as whole:
            about = whole.metadata()
    name = next(name for name in tensors if name.endswith("embed"))
    if change in ("int8", "bool"):
        tensors[name] = tensors[name].to(getattr(torch, change))
    else:
        tensors[name].view(-1)[3] = float(change)
    save_file(tensors, path, about)
    with pytest.raises(DamagedCheckpoint, match=f"{file}.safetensors: not"):
        load(saved) if file == "model" else run(saved, "ar", resume=True)


def forged(saved, tensors=None, **about):
    """A checkpoint without a checksum, in which this stands instead."""
    older(saved)
    path = saved / "checkpoint.safetensors"
    with safe_open(path, "pt") as file:
        stored = json.loads(file.metadata()["about"])
    there = load_file(path) | (tensors or {})
    there = {name: tensor for name, tensor in there.items() if tensor is not None}
    save_file(there, path, {"about": json.dumps(stored | about)})


@pytest.mark.parametrize(
    "forgery",
    [
        {"identity": None},
        {"identity": []},
        {"identity": "x"},
        {"step": "12"},
        {"step": 0},
        {"step": 13},
        {"step": True},
        {"seconds": None},
        {"metrics": None},
        {"metrics": [3]},
        {"tensors": {"random.cpu": None}},
        {"tensors": {"random.cpu": torch.zeros(3, dtype=torch.uint8)}},
        {"tensors": {"random.cpu": torch.zeros(3)}},
        {"tensors": {"model.embed": None}},
        {"tensors": {"model.embed": torch.zeros(2, 2)}},
        {"tensors": {"model.more": torch.zeros(2, 2)}},
        {"tensors": {"adam.0.exp_avg": None}},
        {"tensors": {"adam.0.exp_avg": torch.zeros(3)}},
        {"tensors": {"adam.x.exp_avg": torch.zeros(3)}},
        {"tensors": {"adam.99.exp_avg": torch.zeros(3)}},
        {"tensors": {"adam": torch.zeros(3), "adam.1": torch.zeros(2)}},
    ],
)
def test_a_checkpoint_of_something_else_is_one_line(saved, forgery):
    forged(saved, **forgery)
    with pytest.raises(DamagedCheckpoint, match="not a checkpoint of ours") as error:
        run(saved, "ar", resume=True)
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000


def test_a_checkpoint_without_averages_or_deeply_nested(saved):
    path = saved / "checkpoint.safetensors"
    with safe_open(path, "pt") as file:
        about = file.metadata()["about"]
    weights = {n: t for n, t in load_file(path).items() if not n.startswith("adam.")}
    for tensors, metadata in ((weights, about), (load_file(path), "[" * 100_000)):
        save_file(tensors, path, {"about": metadata})
        with pytest.raises(DamagedCheckpoint, match="not a checkpoint of ours"):
            run(saved, "ar", resume=True)


@POSIX
@pytest.mark.parametrize("name", ("checkpoint.safetensors", "config.json", "task.json"))
def test_a_pipe_is_no_file(saved, name):
    (saved / name).unlink()
    os.mkfifo(saved / name)
    with pytest.raises((DamagedCheckpoint, FileNotFoundError), match=name):
        run(saved, "ar", resume=True) if name.startswith("check") else load_run(saved)


# ---------------------------------------------------------------- no numbers (A9, F9)


def finite_json(text):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


@pytest.mark.parametrize("rate, steps", (("1e30", 4), ("1e38", 1), ("1e38", 2)))
def test_divergence_is_a_line(sar, tmp_path, rate, steps):
    words = ["--rate", rate, "--steps", steps, "--warmup", 0, "--report", 1, "--checkpoint", 1]
    code, out, err = sar(*sar_train(tmp_path / "run", *words))
    assert code == 1 and "validation" not in out
    assert "non-finite" in err and "after step 1 " in err and "try a lower --rate than 1e+" in err
    finite_json((tmp_path / "run" / "metrics.jsonl").read_text())
    with contextlib.suppress(FileNotFoundError):
        assert all(bool(w.isfinite().all()) for w in load(tmp_path / "run").state_dict().values())


def test_non_finite_weights_are_never_saved(tmp_path):
    model = build("ar")
    save(model, tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    model.embed.data[2, 3] = float("nan")
    with pytest.raises(Refusal, match="model: expected finite weights, embed has others"):
        save(model, tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_weights_that_overflow_at_a_checkpoint(tmp_path, monkeypatch):
    """Between two reports: the last good checkpoint stays."""
    a_step = runs.training_steps

    def steps(model, *rest):
        for number, made in enumerate(a_step(model, *rest), 1):
            if number == 8:
                next(model.parameters()).data.fill_(float("inf"))
            yield made

    monkeypatch.setattr(runs, "training_steps", steps)
    with pytest.raises(Diverged, match="after step 8 .* is non-finite"):
        run(tmp_path, "ar")
    monkeypatch.undo()
    model, _ = run(tmp_path, "ar", resume=True)
    assert same_weights(model, run(None, "ar")[0])


# ---------------------------------------------------------------- one line for each (A10, F9, A19)


@pytest.mark.parametrize(
    "error, code",
    [
        (MemoryError(), 1),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 1),
        (RuntimeError("Storage size calculation overflowed with sizes=[9]"), 1),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"), 1),
        (RuntimeError("a training process ended without a result (no memory?)"), 1),
        (RuntimeError("Could not determine home directory."), 2),
        (OSError(errno.ENOSPC, "No space left on device"), 1),
        (Refusal("two\nlines\x1b[31m" + "x" * 10**6), 2),
        (Diverged("after step 3"), 1),
    ],
)
def test_what_may_go_wrong_is_a_line(sar, monkeypatch, error, code):
    def fails(**_):
        raise error

    monkeypatch.setitem(cli.COMMANDS, "cards", fails)
    found, _, err = sar("cards")
    assert found == code and err.startswith("sar: ") and "\x1b" not in err and len(err) < 1100


def test_too_large_a_model(sar, tmp_path):
    for words in (["--width", 4 * 10**8], ["--hidden", 2**30]):
        code, _, err = sar(*sar_train(tmp_path / "run", *words))
        assert code == 1 and "too large for the memory of this machine" in err
        assert not (tmp_path / "run").exists()
    for name, most in (("hidden", 2**31 - 1), ("max-length", 2**20)):
        code, _, err = sar(*sar_train(tmp_path / "run", f"--{name}", most + 1))
        name = name.replace("-", "_")
        assert code == 2 and f"{name}: expected a whole number <= {most}" in err


@pytest.mark.parametrize(
    "words, message",
    [
        (["decode", "RUN", "--beam", 0, "1"], "--beam: expected a whole number >= 1, got 0"),
        (["decode", "RUN", "--beam", "-1", "1"], "--beam: expected a whole number >= 1, got -1"),
        (["decode", "RUN", "--beam", 10**20, "1"], "--beam: expected a whole number >= 1, and at"),
        (["decode", "RUN", "--beam", 10**9, "1"], "--beam: expected a whole number >= 1, and at"),
        (["decode", "RUN", "--beam", "1e20", "1"], "--beam: expected a whole number >= 1, got 1e"),
        (["decode", "RUN", "--new", 10**20, "1"], "--new: expected at least 1 token to make, and"),
        (["decode", "RUN", "--new", 3, "1"], "--new: a EncoderDecoderAR knows by itself"),
        (["decode", "RUN", "--new", 20, "1"], "--new: a EncoderDecoderAR knows by itself"),
        (["bench", "--threads", 0], "--threads: expected a whole number >= 1, got 0"),
        (["bench", "pinyin", "--threads", "-1"], "--threads: expected a whole number >= 1, got -1"),
        (["demo", "--steps", 0], "--steps: expected a whole number >= 1, got 0"),
    ],
)
def test_a_number_that_is_none_is_named_as_it_was_typed(sar, trained, words, message):
    code, out, err = sar(*(trained if word == "RUN" else word for word in words))
    assert (code, out) == (2, "") and message in err


def test_a_device_that_holds_no_numbers(sar, tmp_path, monkeypatch):
    monkeypatch.setenv("SAR_DEVICE", "meta")
    code, _, err = sar(*sar_train(tmp_path / "run"))
    assert code == 2 and "SAR_DEVICE: expected a device of this machine, got 'meta'" in err


@pytest.fixture
def homeless(monkeypatch):
    """As in a container: a uid without an entry, and no HOME."""
    for name in ("HOME", "SAR_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54321, raising=False)
    files._warn_once.cache_clear()


@POSIX
def test_without_a_home(homeless, monkeypatch, sar, tmp_path):
    with pytest.warns(UserWarning, match="cannot write ~/.cache .*no home.*; set SAR_CACHE"):
        assert files.cached("t", "key", lambda: {"a": 1}) == {"a": 1}
    monkeypatch.setenv("SAR_CACHE", "~nosuchuser/x")
    with pytest.raises(Refusal, match="SAR_CACHE: expected a folder, got '~nosuchuser/x'"):
        files.cached("t", "key", dict)
    monkeypatch.setenv("SAR_CACHE", str(tmp_path))
    assert files.cached("t", "key", lambda: {"a": 1}) == {"a": 1}


def test_a_long_line_does_not_end_the_demo(monkeypatch, capsys):
    """Nor does one that a model refuses, after minutes of training."""
    task = load_task("pinyin", sizes=(10, 0, 0))
    models = {
        kind: make_model(kind, task, width=16, layers=1, heads=2, max_length=16).eval()
        for kind in ("sar", "ar")
    }
    lines = iter(["wo " * 600, "wo ai", ""])
    monkeypatch.setattr("builtins.input", lambda _: next(lines))
    demo.prompt(task, demo.neural_decoders(**models), "cpu")
    out = capsys.readouterr().out
    assert "max_length = 16 tokens, got 600" in out and "SAR, one pass" in out


# ---------------------------------------------------------------- consoles (F7), closed streams, signals (A19)


def as_process(*words, **how):
    how = {"capture_output": True, "cwd": ROOT, "timeout": 120} | how
    return subprocess.run([sys.executable, "-m", "sar_minimal", *map(str, words)], **how)


@pytest.mark.parametrize("encoding", ("cp1252", "ascii"))
def test_help_where_the_console_has_no_hanzi(encoding):
    done = as_process("--help", env=os.environ | {"PYTHONIOENCODING": encoding})
    assert done.returncode == 0 and done.stderr == b""
    assert b"205 is \\u4e8c\\u767e" in done.stdout


def test_decode_says_once_what_to_set(monkeypatch, capsys, tmp_path):
    words = sar_train(tmp_path / "run", task="numerals", kind="length")
    assert main(words) == 0
    capsys.readouterr()
    for encoding in ("cp1252", "ascii"):
        narrow = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
        monkeypatch.setattr(sys, "stdout", narrow)
        monkeypatch.setattr(sys, "stdin", io.StringIO("12\n34\n"))
        assert main(["decode", str(tmp_path / "run")]) == 1
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and "charmap" not in err and "set PYTHONUTF8=1" in err
        assert f"standard output is {encoding}" in err


def test_closed_streams(monkeypatch, tmp_path, trained):
    """Nothing is said where nobody can hear it; what there is to do is done."""
    monkeypatch.setattr(sys, "stderr", None)
    assert main(sar_train(tmp_path / "run")) == 0
    sys.stderr.close()  # of /dev/null
    load_run(tmp_path / "run")
    monkeypatch.setattr(sys, "stderr", heard := io.StringIO())
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["decode", str(trained)]) == 2
    assert heard.getvalue() == "sar: standard input: expected sentences, it is closed\n"


@POSIX
def test_ctrl_c_that_was_to_be_ignored_is(tmp_path):
    """As under nohup, or in the background of a script."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with ctrl_c(at_step=3):
            _, rows = run(tmp_path, "ar")
    finally:
        signal.signal(signal.SIGINT, before)
    assert rows[-1]["step"] == 12


# ---------------------------------------------------------------- files (A16)


@POSIX
@pytest.mark.parametrize("umask", (0o077, 0o022, 0o002))
def test_the_umask_is_honoured(tmp_path, umask):
    before = os.umask(umask)
    try:
        run(tmp_path / "run", "ar")
        files.write_atomically(tmp_path / "private", b"", private=True)
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "run").iterdir()}
    assert modes == {0o666 & ~umask}
    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o600


@POSIX
def test_what_was_made_private_stays_so(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o640)
    files.write_atomically(path, b"new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@POSIX
def test_the_cache_of_a_text_of_ones_own_is_private(tmp_path, monkeypatch):
    monkeypatch.setenv("SAR_CACHE", str(tmp_path / "cache"))
    text, some = tmp_path / "mine.txt", "我爱你们很好一二三四五六七八九十大小上下"
    lines = [f"{some[i % 20]}今天天气{some[i // 20]}\n" for i in range(400)]
    text.write_text("".join(lines), encoding="utf-8")
    load_task("pinyin", corpus=f"file:{text}")
    (path,) = (tmp_path / "cache").glob("text-*")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)  # as an older version left it
    load_task("pinyin", corpus=f"file:{text}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_could_not_be_loaded_is_not_trained(tmp_path, monkeypatch):
    """A configuration may ask for so many positions; so that no file does, no run does."""
    monkeypatch.setattr(stored, "LARGEST", 1000)
    with pytest.raises(Refusal, match="^max_length: expected rotary positions of at most 1000"):
        run(tmp_path / "run", "ar", max_length=64)
    assert not (tmp_path / "run").exists()


def test_what_a_killed_process_left_is_removed(tmp_path, monkeypatch):
    run_folder, cache = tmp_path / "run", tmp_path / "cache"
    half(run_folder)
    (run_folder / ".checkpoint.safetensors.x2t7xo4q.part").write_bytes(b"half of it")
    run(run_folder, "ar", resume=True)
    assert not list(run_folder.glob(".*"))
    monkeypatch.setenv("SAR_CACHE", str(cache))
    cache.mkdir()
    for name, age in ((".old.json.aa.part", 7200), (".young.json.bb.part", 0)):
        (cache / name).write_bytes(b"half")
        then = (cache / name).stat().st_mtime - age
        os.utime(cache / name, (then, then))
    files.cached("t", "key", dict)
    assert [path.name for path in cache.glob(".*")] == [".young.json.bb.part"]  # may be at work


@POSIX
def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    link, target = tmp_path / "link", tmp_path / "disk" / "file"
    target.write_text("old")
    link.symlink_to(target)
    files.write_atomically(link, b"new")
    assert link.is_symlink() and target.read_text() == "new"


@POSIX
@pytest.mark.parametrize("name", ("file/x.json", "folder", "closed/x.json"))
def test_errors_name_the_file_and_come_first(tmp_path, sar, monkeypatch, name):
    """Not the temporary one beside it, and not when all has been measured."""
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder").mkdir()
    if name.startswith("closed"):  # root may write anywhere
        refuse = PermissionError(errno.EACCES, "Permission denied", ".x.json.aa.part")
        monkeypatch.setattr(os, "open", lambda *_: (_ for _ in ()).throw(refuse))
    monkeypatch.setattr(timing.Measured, "__init__", lambda *_, **__: pytest.fail("too late"))
    code, _, err = sar("bench", "--json", tmp_path / name)
    assert code == 1 and f"could not write {tmp_path / name}: " in err and ".part" not in err
