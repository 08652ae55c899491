"""The exact languages, held against brute force: every y is written down, and everything is a plain sum."""

import math
import os
from itertools import product

import numpy as np
import pytest
import torch
from laws import equal_lengths

from sar_minimal.algorithm1 import DualStreamSAR
from sar_minimal.autoregressive import DecoderLM
from sar_minimal.blocks import Config
from sar_minimal.bounds import DECODERS, bounds_of
from sar_minimal.kinds import make_model
from sar_minimal.lab.bench_theory import above_bound, bench_theory
from sar_minimal.languages import CoherenceLanguage, HomophoneLanguage
from sar_minimal.losses import ar_loss, sar_loss
from sar_minimal.shift import shift_right
from sar_minimal.tasks import load_task
from sar_minimal.tasks.exact import language_of
from sar_minimal.theory import entropy, every, exact_loss

LANGUAGES = {
    "homophone": (HomophoneLanguage.random(6, 2, 1.5, seed=3), 4),
    "homophone, one syllable a hanzi": (HomophoneLanguage.random(3, 3, 1.0), 4),
    "homophone, one syllable": (HomophoneLanguage.random(3, 1, 2.0), 4),
    "homophone, independent": (HomophoneLanguage.random(6, 2, 0.0), 4),
    "homophone, gaps": (
        HomophoneLanguage(
            [0.5, 0.0, 0.5, 0.0],
            [[0, 1, 0, 0], [0.3, 0, 0.7, 0], [0, 0.5, 0, 0.5], [1, 0, 0, 0]],
            [0, 1, 0, 1],
        ),
        5,
    ),
    "coherence": (CoherenceLanguage(2, 3), 4),
    "coherence, a tell": (CoherenceLanguage(2, 2, 0.3), 4),
    "one token": (HomophoneLanguage.random(5, 2, 1.0, seed=1), 1),
}


def brute_force(language, T):
    """Dicts from each x to {y: p(x, y)}, by multiplying along every y."""
    pi, A, sound = (
        np.asarray(t) for t in (language.initial, language.transition, language.syllable_of)
    )
    table = {}
    for y in product(range(len(pi)), repeat=T):
        p = pi[y[0]] * np.prod([A[u, v] for u, v in zip(y, y[1:], strict=False)])
        if p > 0:
            table.setdefault(tuple(int(sound[v]) for v in y), {})[y] = float(p)
    return table


def H(distribution):
    total = sum(distribution.values())
    return -sum(p / total * math.log(p / total) for p in distribution.values() if p > 0)


def marginal(posterior, t):
    at = {}
    for y, p in posterior.items():
        at[y[t]] = at.get(y[t], 0.0) + p
    return at


def by_prefix(table, t):
    """p(y_t, x_<=t) for each x_<=t."""
    merged = {}
    for x, posterior in table.items():
        at = merged.setdefault(x[: t + 1], {})
        for v, p in marginal(posterior, t).items():
            at[v] = at.get(v, 0.0) + p
    return merged


@pytest.fixture(params=LANGUAGES, scope="module")
def case(request):
    language, T = LANGUAGES[request.param]
    return language, T, brute_force(language, T)


def test_bounds_are_those_of_brute_force(case):
    language, T, table = case
    p_x = {x: sum(posterior.values()) for x, posterior in table.items()}
    assert math.isclose(sum(p_x.values()), 1, abs_tol=1e-12)
    b = bounds_of(language, T, "enumerate")
    assert b == bounds_of(language, T)  # the default at this length
    joint = sum(p_x[x] * H(posterior) for x, posterior in table.items()) / T
    smoothed = sum(p_x[x] * H(marginal(post, t)) for x, post in table.items() for t in range(T)) / T
    filtered = (
        sum(sum(m.values()) * H(m) for t in range(T) for m in by_prefix(table, t).values()) / T
    )
    assert abs(b.joint - joint) < 1e-10
    assert abs(b.smoothed - smoothed) < 1e-10
    assert abs(b.filtered - filtered) < 1e-10
    assert abs(b.total_correlation - (smoothed - joint)) < 1e-10
    assert b.joint <= b.smoothed + 1e-12 and b.smoothed <= b.filtered + 1e-12
    assert set(b.error.values()) == {0.0}


def test_accuracies_are_those_of_brute_force(case):
    language, T, table = case
    prefixes = [by_prefix(table, t) for t in range(T)]
    characters, sentences = dict.fromkeys(DECODERS, 0.0), dict.fromkeys(DECODERS, 0.0)
    best_characters = best_sentences = 0.0
    for x, posterior in table.items():
        here = torch.tensor([x])
        answers = {
            "filtering": language.filter(here).argmax(-1),
            "smoothing": language.smooth(here).argmax(-1),
            "viterbi": language.viterbi(here),
        }
        for t, best in enumerate(answers["filtering"][0].tolist()):
            seen = prefixes[t][x[: t + 1]]
            assert seen[best] > max(seen.values()) - 1e-12
        for name, answer in answers.items():
            y = tuple(answer[0].tolist())
            characters[name] += sum(marginal(posterior, t).get(y[t], 0.0) for t in range(T)) / T
            sentences[name] += posterior.get(y, 0.0)
        best_characters += sum(max(marginal(posterior, t).values()) for t in range(T)) / T
        best_sentences += max(posterior.values())
    b = bounds_of(language, T)
    for name in DECODERS:
        assert abs(b.characters[name] - characters[name]) < 1e-10
        assert abs(b.sentences[name] - sentences[name]) < 1e-10
    assert abs(b.characters["smoothing"] - best_characters) < 1e-10  # nothing beats smoothing here
    assert abs(b.sentences["viterbi"] - best_sentences) < 1e-10  # nor Viterbi there


def test_posteriors_are_those_of_brute_force(case):
    language, T, table = case
    prefixes = [by_prefix(table, t) for t in range(T)]
    x = torch.tensor(list(table))
    filtered, smoothed = language.filter(x), language.smooth(x)  # in one batch
    for row, posterior in enumerate(table.values()):
        for t in range(T):
            seen, all_seen = prefixes[t][tuple(x[row, : t + 1].tolist())], marginal(posterior, t)
            for v in range(language.hanzi):
                f, s = (
                    seen.get(v, 0.0) / sum(seen.values()),
                    all_seen.get(v, 0.0) / sum(all_seen.values()),
                )
                assert abs(float(filtered[row, t, v]) - f) < 1e-10
                assert abs(float(smoothed[row, t, v]) - s) < 1e-10
    p_x = torch.tensor(
        [sum(posterior.values()) for posterior in table.values()], dtype=torch.float64
    )
    torch.testing.assert_close(language.log_prob_source(x).exp(), p_x, atol=1e-12, rtol=0)
    y = torch.tensor([y for posterior in table.values() for y in posterior])
    p_y = torch.tensor(
        [p for posterior in table.values() for p in posterior.values()], dtype=torch.float64
    )
    torch.testing.assert_close(language.log_prob(y).exp(), p_y, atol=1e-12, rtol=0)
    sources, p = language.sources(T)
    assert {
        tuple(s): q for s, q in zip(sources.tolist(), p.tolist(), strict=True)
    } == pytest.approx({x: sum(posterior.values()) for x, posterior in table.items()}, abs=1e-12)


def test_three_methods_agree(case):
    language, T, _ = case
    exact, beliefs = bounds_of(language, T, "enumerate"), bounds_of(language, T, "beliefs")
    sampled = bounds_of(language, T, "sample", 4000, torch.Generator().manual_seed(0))
    for name in ("joint", "smoothed", "filtered", "total_correlation"):
        value = getattr(exact, name)
        assert abs(value - getattr(beliefs, name)) < 1e-10
        assert abs(value - getattr(sampled, name)) <= 4 * sampled.error[name] + 1e-10
    for what in ("characters", "sentences"):
        for name in DECODERS:
            value, cheap = getattr(exact, what)[name], getattr(beliefs, what)[name]
            assert cheap is None or abs(value - cheap) < 1e-10
            error = sampled.error[f"{what}, {name}"]
            assert abs(value - getattr(sampled, what)[name]) <= 4 * error + 1e-10
    assert beliefs.characters["filtering"] is not None is not beliefs.characters["smoothing"]


def test_a_sampled_bound_knows_how_wrong_it_is():
    """Over many samples of 200, the estimate lies within 2 of its standard errors as often as it says."""
    language, near = HomophoneLanguage.random(6, 2, 1.5), 0
    exact = bounds_of(language, 5)
    for seed in range(100):
        b = bounds_of(language, 5, "sample", 200, torch.Generator().manual_seed(seed))
        assert 0 < b.error["joint"] < 0.1
        near += abs(b.joint - exact.joint) < 2 * b.error["joint"]
    assert 88 <= near <= 100  # 95.4 expected, with a standard deviation of 2


@pytest.mark.parametrize("dialects", [2, 3])
@pytest.mark.parametrize("tell", [0.0, 0.25])
@pytest.mark.parametrize("T", [1, 5, 40])
def test_coherence_has_the_entropies_that_it_says(dialects, tell, T):
    b = bounds_of(CoherenceLanguage(3, dialects, tell), T, "beliefs")
    n, quiet = math.log(dialects), 1 - tell
    assert abs(b.joint * T - quiet**T * n) < 1e-9
    assert abs(b.smoothed * T - T * quiet**T * n) < 1e-9
    assert abs(b.filtered * T - sum(quiet**t for t in range(1, T + 1)) * n) < 1e-9
    assert abs(b.total_correlation * T - (T - 1) * quiet**T * n) < 1e-9


def test_a_drawn_dialect_is_coherent_and_tokens_drawn_alone_are_not():
    language, generator = CoherenceLanguage(3, 2), torch.Generator().manual_seed(0)
    x, y = language.sample(2000, 5, generator)
    assert language.coherent(y).all()
    alone = torch.multinomial(language.smooth(x).flatten(0, 1), 1, generator=generator).view(
        2000, 5
    )
    share = language.coherent(alone).double().mean()
    assert abs(float(share) - 2**-4) < 4 * math.sqrt(2**-4 / 2000)


def test_samples_follow_the_language():
    language = HomophoneLanguage.random(4, 2, 1.0)
    x, y = language.sample(40_000, 2, torch.Generator().manual_seed(1))
    assert torch.equal(language.syllable_of[y], x)
    counts = torch.bincount(4 * y[:, 0] + y[:, 1], minlength=16).double()
    expected = 40_000 * language.log_prob(every(4, 2)).exp()
    assert (
        float(((counts - expected) ** 2 / expected).sum()) < 37.7
    )  # chi-square, 15 freedoms, p 0.001
    again = language.sample(40_000, 2, torch.Generator().manual_seed(1))
    assert torch.equal(again[1], y)


def test_the_knob_turns_from_independent_to_deterministic():
    flat = bounds_of(HomophoneLanguage.random(9, 3, 0.0), 5)
    assert abs(flat.total_correlation) < 1e-12 and abs(flat.joint - math.log(3)) < 1e-12
    joint = [
        bounds_of(HomophoneLanguage.random(9, 3, knob), 5).joint
        for knob in (0, 0.5, 1, 2, 4, 8, 30)
    ]
    assert joint == sorted(joint, reverse=True) and joint[-1] < 1e-6
    middle = bounds_of(HomophoneLanguage.random(9, 3, 1.0), 5)
    assert middle.total_correlation > 0.05
    assert middle.sentences["viterbi"] > middle.sentences["smoothing"] + 0.01


def test_long_sequences_stay_finite():
    language = HomophoneLanguage.random()
    x, _ = language.sample(3, 500, torch.Generator().manual_seed(0))
    torch.testing.assert_close(language.smooth(x).sum(-1), torch.ones(3, 500).double())
    assert torch.isfinite(language.log_prob(language.viterbi(x))).all()
    b = bounds_of(language, 500, samples=50)
    assert 0 < b.joint < b.smoothed < b.filtered < math.log(3) and b.error["joint"] > 0


# ---------------------------------------------------------------- exact_loss


def teacher_forced(model, V, T):
    """log q(x_t | x_<t) of every sequence: (V, ..., V, T)."""
    x = every(V, T)
    with torch.no_grad():
        log_q = model(shift_right(x, V))[..., :V].log_softmax(-1).gather(2, x[..., None])[..., 0]
    return log_q.view(*[V] * T, T)


@pytest.fixture(scope="module")
def text():
    language = HomophoneLanguage.random(3, 2, 1.0)
    torch.manual_seed(0)
    model = DecoderLM(Config(target_vocab=4, width=16, heads=2)).eval()
    for weight in model.parameters():
        weight.data.mul_(5 if weight.dim() == 2 else 1)
    return language, language.log_prob(every(3, 4)).exp().view(3, 3, 3, 3), model


def test_expected_losses_are_those_of_the_package(text):
    _, p, model = text
    exact, x = exact_loss(p, teacher_forced(model, 3, 4)), every(3, 4)
    with torch.no_grad():
        logits = model(shift_right(x, 3))[..., :3]
        ar = ar_loss(logits, x, "none").double()
        sar = sar_loss(logits[:, 1:], x[:, 1:], "none")  # one term less still: from x_2 on, shifted
        whole = sar_loss(
            model(torch.cat((torch.full((81, 1), 3), x), 1))[..., :3],
            torch.cat((x[:, :1], x), 1),
            "none",
        )
    weights = p.flatten()
    assert abs(float(weights @ ar.sum(1)) - exact.ar) < 1e-5
    assert abs(float(weights @ ar[:, 1:].sum(1)) - exact.sar) < 1e-5
    assert sar.shape == (81, 2) and whole.shape == (81, 4)
    torch.testing.assert_close(whole.double(), ar, atol=1e-5, rtol=0)
    torch.testing.assert_close(weights @ ar, exact.cross_entropy, atol=1e-5, rtol=0)


def test_each_term_is_entropy_and_kl(text):
    language, p, model = text
    exact = exact_loss(p, teacher_forced(model, 3, 4))
    chain = float(entropy(p.flatten()))
    assert abs(float(exact.entropy.sum()) - chain) < 1e-10
    assert abs(float(exact.entropy[0]) - float(entropy(language.initial))) < 1e-10
    assert (exact.kl > 0.01).all()
    first_term = float(exact.cross_entropy[0])
    assert abs(exact.ar - exact.sar - first_term) < 1e-12  # law 6, in expectation
    prefix = [p.sum(list(range(t, 4)), keepdim=True) if t < 4 else p for t in range(5)]  # p(x_<=t)
    perfect = torch.stack([(prefix[t + 1] / prefix[t]).log().expand(p.shape) for t in range(4)], -1)
    assert float(exact_loss(p, perfect).kl.abs().max()) < 1e-12


def test_a_language_with_zeros_has_finite_losses():
    p = torch.tensor([[0.5, 0.0], [0.0, 0.5]])
    q = torch.full((2, 2, 2), math.log(0.5))
    exact = exact_loss(p, q)
    assert abs(exact.ar - 2 * math.log(2)) < 1e-6 and abs(float(exact.kl[1]) - math.log(2)) < 1e-6


def test_exact_loss_refuses_what_is_no_model_of_a_language(text):
    _, p, model = text
    log_q = teacher_forced(model, 3, 4)
    with pytest.raises(ValueError, match=r"p: expected probabilities .* sum 2"):
        exact_loss(2 * p, log_q)
    with pytest.raises(ValueError, match=r"p: .* got shape \(2, 3\)"):
        exact_loss(torch.full((2, 3), 1 / 6), log_q)
    with pytest.raises(ValueError, match=r"log_q: expected shape \(3, 3, 3, 3, 4\)"):
        exact_loss(p, log_q[..., :3])
    with pytest.raises(ValueError, match=r"q\(x_1 \| x_<1\) does not sum to 1"):
        exact_loss(p, log_q + 0.1)
    leaking = log_q.clone()
    leaking[..., 1] += torch.linspace(-0.1, 0.1, 3)[None, None, :, None]  # term 2 looks at x_3
    with pytest.raises(ValueError, match=r"log q\(x_2 \| x_<2\) changes with a later token"):
        exact_loss(p, leaking)


# ---------------------------------------------------------------- law 9


def test_a_model_that_reads_too_much_is_below_its_bound():
    """What law 9 is for: a causal model is held against ``filtered``, so one that smooths is found out."""
    task = load_task("homophone", hanzi=4, syllables=2, length=3, sizes=(10, 1, 1))
    language = language_of(task)
    smooth = language.smooth(every(2, 3))

    class Oracle(DualStreamSAR):
        def forward(self, x, lengths=None):
            p = smooth[((x - 4) * torch.tensor([4, 2, 1])).sum(1)].clamp(min=1e-30)
            return torch.nn.functional.pad(p.log(), (4, 0), value=-70.0)

    for mask, fair in (("causal", False), ("full", True)):
        oracle = Oracle(Config(len(task.target), len(task.source), width=8, heads=1), mask=mask)
        row = above_bound(oracle, language, 3)
        assert abs(row["excess"]) < 1e-9 if fair else row["excess"] < -0.05


def test_an_untrained_model_is_far_above_its_bound():
    task = load_task("homophone", length=3, sizes=(10, 1, 1))
    for kind in ("sar", "ar"):
        row = above_bound(make_model(kind, task, width=8, heads=1), language_of(task), 3, 500)
        assert row["excess"] > 1 and row["nats"] > math.log(9) - 0.1
        assert (row["error"] > 0) == (kind == "ar")


@pytest.mark.slow
def test_trained_models_come_within_two_percent_of_their_bounds_from_above():
    before = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count())  # side by side, which halves the longest test of all
    try:
        rows = list(bench_theory())
    finally:
        torch.set_num_threads(before)
    assert [r["theory"].split(",")[0] for r in rows] == ["EncoderDecoderAR"] + ["DualStreamSAR"] * 2
    for row in rows:
        assert -3 * row["error"] <= row["excess"] < 0.02, row


# ---------------------------------------------------------------- bad input


GOOD = {"initial": [0.5, 0.5], "transition": [[0.5, 0.5], [1, 0]], "syllable_of": [0, 1]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"initial": []}, r"initial: expected shape \(V,\), got \(0,\)"),
        ({"initial": [[0.5, 0.5]]}, r"initial: expected shape \(V,\), got \(1, 2\)"),
        ({"initial": [0.5, 0.6]}, "initial: expected probabilities that sum to 1, got"),
        ({"initial": [1.5, -0.5]}, "initial: expected probabilities"),
        ({"initial": [math.nan, 0.5]}, "initial: expected probabilities"),
        ({"transition": [[0.5, 0.5]]}, r"transition: expected shape \(2, 2\), got \(1, 2\)"),
        ({"transition": [[0.5, 0.5], [0, 0]]}, "transition: expected probabilities"),
        ({"syllable_of": [0]}, "syllable_of: expected 2 integers that use each of 0, 1, ..., got"),
        ({"syllable_of": [0, 2]}, "syllable_of: expected 2 integers"),
        ({"syllable_of": [0, -1]}, "syllable_of: expected 2 integers"),
        ({"syllable_of": [0.0, 1.0]}, "syllable_of: expected 2 integers"),
    ],
)
def test_a_language_refuses(change, message):
    HomophoneLanguage(**GOOD)
    with pytest.raises(ValueError, match=message):
        HomophoneLanguage(**{**GOOD, **change})


def test_names_the_argument_that_is_wrong():
    language, gaps = HomophoneLanguage.random(4, 2), LANGUAGES["homophone, gaps"][0]
    for call, message in (
        (lambda: HomophoneLanguage.random(3, 4), "syllables: expected at most hanzi = 3, got 4"),
        (lambda: HomophoneLanguage.random(sharpness=-1), "sharpness: expected a number >= 0, got -1"),
        (lambda: HomophoneLanguage.random(sharpness=math.inf), "sharpness: .* got inf"),
        (lambda: CoherenceLanguage(0), "words: expected a whole number >= 1, got 0"),
        (lambda: CoherenceLanguage(2, 1), "dialects: expected a whole number >= 2, got 1"),
        (lambda: CoherenceLanguage(2, 2, 1.0), "tell: expected 0 <= tell < 1, got 1.0"),
        (lambda: language.sample(0, 3), "n: expected a whole number >= 1, got 0"),
        (lambda: language.sample(3, 0), "length: expected a whole number >= 1, got 0"),
        (lambda: bounds_of(language, 0), "length: expected a whole number >= 1, got 0"),
        (lambda: bounds_of(language, 3, "guess"), "method: expected enumerate, beliefs or sample, got 'guess'"),
        (lambda: bounds_of(language, 3, "sample", 1), "samples: expected a whole number >= 2, got 1"),
        (lambda: bounds_of(language, 40, "beliefs"), "method: 'beliefs' has too many of them"),
        (lambda: language.filter(torch.tensor([[0, 2]])), r"x: expected syllables in 0..1, got 2"),
        (lambda: language.smooth(torch.tensor([[0, -1]])), r"x: expected syllables in 0..1, got -1"),
        (lambda: language.log_prob(torch.tensor([[0, 4]])), r"y: expected hanzi in 0..3, got 4"),
        (lambda: gaps.smooth(torch.tensor([[0, 1], [1, 1]])), r"x: row 1 cannot occur .*\[1, 1\]"),
        (lambda: gaps.viterbi(torch.tensor([[1, 1]])), "x: row 0 cannot occur"),
        (lambda: language_of(load_task("copy", sizes=(5, 5, 5))), "task: expected homophone or coherence"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="x: expected token ids"):
        language.filter(torch.zeros(1, 3))


# ---------------------------------------------------------------- as tasks


@pytest.mark.parametrize("name", ["homophone", "coherence"])
def test_a_task_is_drawn_from_its_language(name):
    task = load_task(name, length=4, sizes=(3000, 50, 50), seed=1)
    language = language_of(task)
    x, y = torch.tensor(task.train.x) - 4, torch.tensor(task.train.y) - 4
    assert torch.equal(language.syllable_of[y], x) and torch.isfinite(language.log_prob(y)).all()
    names = task.target.tokens
    assert [names[v][0] for v in range(language.hanzi)] == [
        task.source.tokens[s] for s in language.syllable_of.tolist()
    ]
    mean = float(-language.log_prob(y).mean() / 4)
    exact = float(entropy(language.log_prob(every(language.hanzi, 4)).exp()) / 4)
    assert abs(mean - exact) < 0.05
    assert equal_lengths(task) and len(task.train) == 3000
    again = load_task(name, **task.options)
    assert again.train == task.train and again.card == task.card
