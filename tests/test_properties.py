"""What holds for anything one may type or hand over; hypothesis looks for the smallest that breaks it.

The same examples each time: a test that fails now and then teaches nobody anything.
"""

import itertools
import unicodedata

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from laws import build

from sar_minimal.data import Split, Vocab, accuracy, batch_plan, batches, convert, make_batch
from sar_minimal.decoding import beam, greedy
from sar_minimal.errors import Refusal
from sar_minimal.lengths import collapse
from sar_minimal.shift import IGNORE, PAD, START, past_end, shift_right, shifted_targets
from sar_minimal.speculation import draft_and_verify, jacobi
from sar_minimal.tasks.passages import HANZI, account, clean, evenly_cut, passages
from sar_minimal.tasks.syllables import letters, mandarin, pieces, segmented, syllable
from sar_minimal.tasks.words import LONGEST

some = settings(derandomize=True, deadline=None, max_examples=100)
few = settings(some, max_examples=30)
ids = st.integers(4, 10)
rows = st.lists(ids, min_size=1, max_size=9)
pairs = st.lists(st.tuples(rows, rows), min_size=1, max_size=12)
# What people write: hanzi of all blocks, letters, marks, spaces that one sees and that one does not.
text = st.text(
    st.sampled_from("我们爱北京天安门〇㐀𠮷⻋⽼aüǖ，。 \u200b\u3000\ufe0f\u0301'1ａＺ\t") | st.characters(codec="utf-8"),
    max_size=120,
)  # fmt: skip
pinyin = st.text(st.sampled_from("aeiouüǘv:'’bgnxzhlrāǎ1235 \u200bｚＮ\u0308\u030c"), max_size=12)


# ---------------------------------------------------------------- decoding
@st.composite
def requests(draw):
    """Prompts of a batch, how many tokens each wants, an end or none, a window, a draft's answers."""
    prompts = draw(st.lists(rows, min_size=1, max_size=4))
    new = [draw(st.integers(1, 6)) for _ in prompts]
    guess = draw(st.lists(st.lists(ids, min_size=3, max_size=3), min_size=1, max_size=3))
    return prompts, new, draw(st.none() | ids), draw(st.integers(1, 5)), guess


@few
@given(requests())
@example(([[4] * 9, [5]], [1, 6], 5, 1, [[4, 4, 4]]))
def test_each_row_is_what_it_is_alone(asked):
    """Whatever stands beside it, wherever it ends, however wrong a draft is."""
    prompts, new, end, window, guess = asked
    model, batch = build("lm"), make_batch(prompts, prompts)
    own = {"new": torch.tensor(new), "end_id": end}

    def draft(tokens, lengths):
        return torch.tensor(list(itertools.islice(itertools.cycle(guess), len(tokens))))

    made = {
        "greedy": greedy(model, batch.x, batch.x_lengths, **own),
        "beam": beam(model, batch.x, batch.x_lengths, width=1, **own),
        "jacobi": jacobi(model, batch.x, batch.x_lengths, window=window, **own),
        "draft": draft_and_verify(model, batch.x, draft, batch.x_lengths, window=window, **own),
    }
    for b, prompt in enumerate(prompts):
        alone = greedy(model, torch.tensor([prompt]), new=new[b], end_id=end)
        for name, d in made.items():
            T = int(d.lengths[b])
            assert d.tokens[b, :T].tolist() == alone.tokens[0].tolist(), name
            assert d.tokens[b, T:].eq(PAD).all() and d.log_probs[b, T:].eq(0).all(), name


@some
@given(st.lists(st.lists(st.integers(3, 6), min_size=1, max_size=8), min_size=1, max_size=4))
def test_collapse_by_hand(ways):
    """With blank 3: one of each run of equals, the blanks gone."""
    batch = make_batch(ways, ways)
    tokens, of, T = collapse(batch.x, 3, batch.x_lengths)
    for b, way in enumerate(ways):
        expected = [token for token, _ in itertools.groupby(way) if token != 3]
        assert tokens[b, : T[b]].tolist() == expected and tokens[b, T[b] :].eq(PAD).all()
        said = [tokens[b, of[b, n]].item() for n, token in enumerate(way) if token != 3]
        assert said == [token for token in way if token != 3]  # each place says its own token


# ---------------------------------------------------------------- shifts and batches
@some
@given(st.lists(rows, min_size=1, max_size=4), st.integers(0, 10))
def test_a_shift_by_hand(sequences, k):
    y = make_batch(sequences, sequences).y
    for row, target, before in zip(sequences, shifted_targets(y, k), shift_right(y, START), strict=True):  # fmt: skip
        assert target[target != IGNORE].tolist() == row[k:]
        assert before[: len(row)].tolist() == [START, *row[:-1]]
        assert before[len(row) + 1 :].eq(PAD).all()


@some
@given(pairs, st.integers(9, 40), st.none() | st.integers(0, 99), st.integers(0, 3))
def test_every_pair_is_in_one_batch(made, budget, seed, skip):
    split = Split([x for x, _ in made], [y for _, y in made])
    plan = batch_plan(split, budget, seed)
    assert sorted(i for part in plan for i in part) == list(range(len(split)))
    seen = list(batches(split, budget, seed))
    for part, batch in zip(plan, seen, strict=True):
        assert len(part) * max(batch.x.shape[1], batch.y.shape[1]) <= budget
        for i, x, S, y, T in zip(part, batch.x, batch.x_lengths, batch.y, batch.y_lengths, strict=True):  # fmt: skip
            assert x[:S].tolist() == split.x[i] and x[S:].eq(PAD).all()
            assert y[:T].tolist() == split.y[i] and y[T:].eq(IGNORE).all()
    later = list(batches(split, budget, seed, skip=skip))
    assert [b.x.tolist() for b in later] == [b.x.tolist() for b in seen[skip:]]


@few
@given(pairs)
def test_a_split_comes_back_in_its_order(made):
    """A decoder that says a row backwards says every row of a split backwards, in the split's order."""
    split = Split([x for x, _ in made], [y for _, y in made])

    class Backwards:
        def __init__(self, x, lengths):
            place = (lengths[:, None] - 1 - torch.arange(x.shape[1])).clamp(min=0)
            self.tokens = x.gather(1, place).masked_fill(past_end(lengths, x.shape[1]), PAD)
            self.lengths = lengths

    expected = [x[::-1] for x in split.x]
    assert convert(Backwards, split) == expected
    assert accuracy(expected, expected) == (1.0, 1.0)


# ---------------------------------------------------------------- text
@some
@given(st.lists(text, max_size=8), st.lists(text, max_size=8))
def test_a_vocabulary_gives_back_what_it_took(tokens, asked):
    """Or refuses: no token is changed on its way through ids."""
    try:
        vocab = Vocab(tokens)
    except Refusal:
        odd = any(t.split() != [t] or not t.isprintable() or t.startswith("<") for t in tokens)
        assert odd or len(set(tokens)) < len(tokens)
        return
    assert vocab.decode(vocab.encode(tokens)) == tokens and Vocab(vocab.tokens) == vocab
    known = [t in tokens for t in asked]
    assert [i > 3 for i in vocab.encode(asked, unknown="map")] == known
    if not all(known):
        with pytest.raises(Refusal, match=f"at position {known.index(False)}"):
            vocab.encode(asked)


@some
@given(st.lists(text, max_size=6))
@example(["我们爱北京" * 30, "㐀𠮷", "\u200b我\u200b们 家"])
def test_every_line_and_hanzi_is_used_or_counted(lines):
    lines = [line.replace("\t", " ") for line in lines]  # behind a tab stands pinyin
    found, left, sizes = passages("here", lines)
    facts = account(found, {run for _, run, _ in found}, left, sizes)
    assert facts["hanzi read"] == sum(len("".join(HANZI.findall(clean(line)))) for line in lines)
    used = {run for _, run, _ in found}
    out = sum(n for fact, n in facts.items() if fact.startswith("hanzi left out"))
    assert facts["hanzi read"] == sum(map(len, used)) + out
    assert facts["lines read"] == len(lines)
    assert all(map(HANZI.fullmatch, used)) and max(map(len, used), default=0) <= LONGEST


@some
@given(st.text(st.sampled_from("我们爱北京天安门"), min_size=1, max_size=200))
def test_a_long_run_is_cut_and_nothing_is_lost(run):
    cut = evenly_cut(run)
    assert "".join(cut) == run and max(map(len, cut)) <= LONGEST
    assert len(cut) == 1 or max(map(len, cut)) - min(map(len, cut)) <= 5


@some
@given(text)
def test_clean_text_has_nothing_unseen_and_stays_as_it_is(line):
    assert clean(clean(line)) == clean(line)
    assert not any(unicodedata.category(c) == "Cf" for c in clean(line))


@some
@given(pinyin)
def test_a_syllable_has_one_spelling(typed):
    """What is spelled is a syllable of Mandarin, and is spelled as itself; each piece is all letters."""
    for piece in pieces(typed):
        spelled = syllable(piece)
        assert spelled == "" or (spelled in mandarin() and syllable(spelled) == spelled)
        cut = segmented(letters(piece))
        assert not cut or set(cut) <= mandarin()


@some
@given(st.lists(st.sampled_from(sorted(mandarin())), min_size=1, max_size=6))
def test_syllables_with_apostrophes_are_cut_as_they_are_typed(typed):
    assert [syllable(piece) for piece in pieces("'".join(typed))] == typed
