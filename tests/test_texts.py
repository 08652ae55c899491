"""Text and instructions: what is read is clean, splits do not leak, every answer is what was asked for."""

import ast
import re
import sysconfig
from pathlib import Path

import pytest
from laws import equal_lengths

from sar_minimal.lab.cards import to_markdown
from sar_minimal.shift import UNKNOWN
from sar_minimal.tasks import load_task
from sar_minimal.tasks.docstrings import CHARACTERS, SPACE, characters, library_docstrings
from sar_minimal.tasks.instructions import INSTRUCTIONS, SOURCE, STATUS, TARGET, Instruction, ask

ROOT = Path(__file__).parents[1]

# ---------------------------------------------------------------- docstrings


@pytest.fixture(scope="module")
def docstrings():
    return load_task("docstrings")


def test_what_is_read_are_docstrings():
    folder, found = Path(sysconfig.get_path("stdlib")), dict(library_docstrings())
    assert found.keys() > {"json", "argparse", "asyncio"} and "test" not in found
    texts = [text for _, text in library_docstrings()]
    assert len(set(texts)) == len(texts) > 1000 and all(texts)
    whole = right = 0
    for name in ("argparse", "heapq", "textwrap"):
        tree = ast.parse((folder / f"{name}.py").read_text(encoding="utf-8"))
        holders = ast.Module | ast.ClassDef | ast.FunctionDef
        nodes = (node for node in ast.walk(tree) if isinstance(node, holders))
        wanted = {characters(ast.get_docstring(node) or "") for node in nodes}
        mine = {text for module, text in library_docstrings() if module == name}
        whole, right = whole + len(mine), right + len(mine & wanted)
    assert right > 0.7 * whole > 20  # a string that holds another, or an escape, is read otherwise


def test_characters():
    assert characters(" One,\n\ttwo…\x00  Ünder ") == f"one,{SPACE}two{SPACE}nder"
    everything = characters("".join(map(chr, range(0x250))))  # also control characters, as in A17
    assert set(everything) <= set(CHARACTERS) and len(everything) > 90


def test_docstring_pieces(docstrings):
    assert docstrings.source == docstrings.target and equal_lengths(docstrings)
    assert docstrings.source.tokens == tuple(CHARACTERS) and not any(
        c.isupper() for c in CHARACTERS
    )
    sets = [
        set(map(tuple, s.y)) for s in (docstrings.train, docstrings.validation, docstrings.test)
    ]
    assert all(sets) and not (sets[0] & sets[1] or sets[0] & sets[2] or sets[1] & sets[2])
    assert len(sets[0]) == len(docstrings.train) > 3 * len(sets[2])
    for s in (docstrings.train, docstrings.test):
        assert s.x == s.y and {len(y) for y in s.y} == {64}
        assert min(min(y) for y in s.y) > UNKNOWN


def test_docstrings_are_split_by_module(docstrings):
    of = {}
    for module, text in library_docstrings():
        for first in range(0, len(text) - 63, 64):
            of.setdefault(text[first : first + 64], module)
    spell = docstrings.target.decode
    modules = [
        {of["".join(spell(y))] for y in s.y}
        for s in (docstrings.train, docstrings.validation, docstrings.test)
    ]
    assert not (modules[0] & modules[1] or modules[0] & modules[2] or modules[1] & modules[2])
    assert sum(map(len, modules)) == len(set.union(*modules)) > 50


def test_docstrings_come_in_other_lengths(docstrings):
    longer = load_task("docstrings", length=100)
    assert {len(y) for y in longer.test.y} == {100} and len(longer.train) < len(docstrings.train)
    assert load_task(docstrings.name, **docstrings.options) == docstrings
    for wrong in (0, 2.5, "a"):
        with pytest.raises(ValueError, match="length: expected a whole number >= 1"):
            load_task("docstrings", length=wrong)
    with pytest.raises(ValueError, match="docstrings has no such option; it has length"):
        load_task("docstrings", seed=1)


# ---------------------------------------------------------------- instructions


def test_the_grid():
    assert len(INSTRUCTIONS) == len({do.words for do in INSTRUCTIONS}) == 60
    status = {s: [do for do in INSTRUCTIONS if do.status == s] for s in STATUS}
    assert [len(d) for d in status.values()] == [41, 3, 6, 10]
    seen = status["seen"]
    for do in (*status["language"], *status["pair"]):  # every part of it is known in its language
        assert any(s.order == do.order and s.language == do.language for s in seen)
        assert any(s.change == do.change and s.language == do.language for s in seen)
    pairs = {(s.order, s.change) for s in seen}
    assert all((do.order, do.change) in pairs for do in status["language"])
    assert not any((do.order, do.change) in pairs for do in status["pair"])
    new = {do.order for do in status["skill"]}
    assert not new & {do.order for do in INSTRUCTIONS if do not in status["skill"]}
    assert {w for do in status["pair"] for w in do.words} <= {w for do in seen for w in do.words}


@pytest.mark.parametrize(
    "order, change, ordered, answer",
    [
        ("copy", "", "cab", "cab"),
        ("copy", "mirror", "cab", "fhg"),
        ("reverse", "upper", "bac", "BAC"),
        ("rotate", "number", "abc", "123"),
        ("first", "next", "ccc", "ddd"),
        ("last", "", "bbb", "bbb"),
        ("swap", "next", "acb", "bdc"),
    ],
)
def test_answers(order, change, ordered, answer):
    for language in ("en", "zh"):
        do = Instruction(order, change, language)
        assert do("cab") == answer and do("cab", working=True) == ordered + answer
        x, y = ask(do, ["cab"])
        assert SOURCE.decode(x) == [*"cab:", *do.words] and y == TARGET.encode(answer)
        assert ask(do, ["cab"], working=True) == (x, TARGET.encode(ordered + answer))


def test_examples_and_other_words():
    do = Instruction("reverse", "upper", "zh")
    x, y = ask(do, ["hga", "abc", "ccd"])
    assert "".join(SOURCE.decode(x)) == "hga:先反转再大写;abc=CBA;ccd=DCC"
    assert TARGET.decode(y) == ["A", "G", "H"]
    other, same = ask(do, ["hga"], words=("copy",))
    assert "".join(SOURCE.decode(other)) == "hga:copy" and same == y


def asked(x):
    """(question, words, examples) of a prompt."""
    text = SOURCE.decode(x)
    told, *shots = " ".join(text[4:]).split(" ; ")
    return "".join(text[:3]), tuple(told.split()), [s.replace(" ", "").split("=") for s in shots]


@pytest.mark.parametrize("working", [False, True])
def test_instruction_pairs(working):
    task = load_task("instructions", shots=2, working=working, sizes=(3000, 100, 600))
    by_words, questions = {do.words: do for do in INSTRUCTIONS}, []
    for s in (task.train, task.validation, task.test):
        told = []
        for i, (x, y) in enumerate(zip(s.x, s.y, strict=True)):
            question, words, shots = asked(x)
            do = by_words[words]
            assert "".join(TARGET.decode(y)) == do(question, working) and len(shots) == 2
            assert all(do(a, working) == b for a, b in shots)
            assert s is not task.test or do == INSTRUCTIONS[i % 60]
            told.append(do)
        assert {do.status for do in told} == set(STATUS if s is task.test else STATUS[:1])
        questions.append({asked(x)[0] for x in s.x})
    a, b, c = questions
    assert not (a & b or a & c or b & c)
    assert load_task(task.name, **task.options) == task
    small = {"sizes": (10, 10, 10)}
    assert load_task("instructions", **small, seed=1) != load_task("instructions", **small)


def test_shuffled_instructions_say_nothing_of_the_answer():
    task = load_task("instructions", shuffled=True, sizes=(4000, 0, 600))
    by_words = {do.words: do for do in INSTRUCTIONS}
    right = [
        "".join(TARGET.decode(y)) == by_words[asked(x)[1]](asked(x)[0])
        for x, y in zip(task.train.x, task.train.y, strict=True)
    ]
    assert 0.02 < sum(right) / len(right) < 0.12  # the two languages agree, and some by chance
    assert task.test == load_task("instructions", sizes=(10, 0, 600)).test


@pytest.mark.parametrize(
    "options, message",
    [
        ({"shots": -1}, "shots: expected a whole number >= 0, got -1"),
        ({"shuffled": 1}, "shuffled: expected True or False, got 1"),
        ({"working": "yes"}, "working: expected True or False, got 'yes'"),
        ({"sizes": 5}, "sizes: expected"),
        ({"letters": 5}, "instructions has no such option; it has shots, working, shuffled"),
    ],
)
def test_instructions_say_what_is_wrong(options, message):
    with pytest.raises(ValueError, match=message):
        load_task("instructions", **options)


# ---------------------------------------------------------------- cards


@pytest.mark.parametrize("name", ["docstrings", "instructions"])
def test_the_committed_card_is_up_to_date(name):
    committed = (ROOT / "data" / f"{name}.md").read_text(encoding="utf-8")
    card = to_markdown(load_task(name).card)
    if name == "docstrings":  # what there is to read differs from machine to machine

        def without_numbers(text):
            return re.sub(r"[\d.,]+", "", text)

        committed, card = without_numbers(committed), without_numbers(card)
    assert card == committed, "run sar cards"
