"""Figures: hanzi are drawn, descriptions are there, pictures do not change from run to run."""

import logging
import sys
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pytest

from sar_minimal.lab import plots


@pytest.fixture(autouse=True)
def style():
    with plt.rc_context():
        plots.use_style()
        yield
    plt.close("all")


def strip():
    figure, ax = plt.subplots()
    plots.strip(ax, {"input": ["<s>", "我", "爱"], "target": ["我", "爱", "."]})
    ax.set_title(r"熵 $H(y_t \mid x)$, 移位")
    return figure


def test_hanzi_are_drawn_in_text_and_in_mathematics(caplog):
    if plots.hanzi_font() is None:
        pytest.skip("no font with hanzi here")
    with caplog.at_level(logging.WARNING), warnings.catch_warnings():
        warnings.filterwarnings(
            "error", "Glyph"
        )  # one that the font lacks is a warning in text ...
        plots.show(strip(), "a strip")
    assert caplog.text == ""  # ... and a line of the log in mathematics


def test_without_a_font_labels_are_pinyin_and_one_warning_says_so(monkeypatch):
    monkeypatch.setattr(plots.font_manager.fontManager, "ttflist", [])
    monkeypatch.setitem(sys.modules, "mplfonts", None)
    plots.hanzi_font.cache_clear()
    try:
        with pytest.warns(UserWarning, match=r'pip install "sar-minimal\[book\]"'):
            assert plots.label("北京") == "bei jing"
        assert plots.label("abc") == "abc"  # and no second warning
    finally:
        plots.hanzi_font.cache_clear()


def test_a_picture_is_the_same_each_time_and_carries_its_description():
    first, second = plots.show(strip(), "a strip"), plots.show(strip(), "a strip")
    _, about = first._repr_png_()
    assert first.data.startswith(b"\x89PNG") and first.data == second.data
    assert about == {"alt": "a strip"} and "a strip" in repr(first)
    assert plt.get_fignums() == []  # closed, so that it is not shown twice


def test_a_picture_needs_a_description():
    with pytest.raises(ValueError, match="alt: expected a description"):
        plots.show(strip(), " ")


def test_exact_zeros_are_left_white_and_nothing_else_is():
    _, ax = plt.subplots()
    plots.dependencies(ax, [[1.0, 0.0], [1e-12, 2.0]], ["1", "2"], ["a", "b"])
    assert ax.images[0].get_array().mask.tolist() == [[False, True], [False, False]]


def test_a_matrix_must_fit_its_labels():
    with pytest.raises(ValueError, match=r"matrix: expected shape \(2, 1\), got \(2, 2\)"):
        plots.dependencies(plt.subplots()[1], np.ones((2, 2)), ["1", "2"], ["a"])


def test_a_graph_has_its_nodes_and_arrows():
    _, ax = plt.subplots()
    plots.graph(ax, {"a": (0, 0), "b": (1, 0), "c": (2, 0)}, [("a", "b"), ("a", "c")])
    assert len(ax.collections) == 3 and [t.get_text() for t in ax.texts if t.get_text()] == [
        "a",
        "b",
        "c",
    ]
    assert (
        sum(text.arrow_patch is not None for text in ax.texts if hasattr(text, "arrow_patch")) == 2
    )
