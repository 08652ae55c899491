"""One style for all figures, and the pictures that come back in several chapters.

Colours are Okabe and Ito's, which colour-blind readers can tell apart. ``show`` closes a figure and
puts it on the page with a text that says what is on it.
"""

import io
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler  # comes with matplotlib
from IPython.display import Image
from matplotlib import font_manager
from matplotlib.patches import Rectangle
from PIL import Image as Pixels  # comes with matplotlib

from ..errors import Refusal, expect

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#767676",
)  # fmt: skip
CJK = ("Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Micro Hei",
       "PingFang SC", "Hiragino Sans GB", "Microsoft YaHei", "SimHei")  # fmt: skip
MUTED = (".", "<s>", "<pad>")


@cache
def hanzi_font() -> str | None:
    """The name of a font with hanzi: one of the system's, else the one mplfonts brings, else None.
    None comes with a warning; ``label`` then writes pinyin."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    for name in CJK:
        if name in installed:
            return name
    with suppress(ImportError):
        import mplfonts

        path = Path(mplfonts.__file__).parent / "fonts" / "NotoSansCJKsc-Regular.otf"
        if path.exists():
            font_manager.fontManager.addfont(path)
            return font_manager.FontProperties(fname=path).get_name()
    brings = 'pip install "sar-minimal[book]" brings one'
    warnings.warn(f"no font with hanzi: labels are in pinyin; {brings}", stacklevel=2)
    return None


def label(text: str) -> str:
    """``text``, or its pinyin where no font can draw it."""
    if hanzi_font() is not None or text.isascii():
        return text
    from pypinyin import lazy_pinyin

    return " ".join(lazy_pinyin(text))


def use_style() -> None:
    """Set matplotlib up for the book: fonts, colours, sizes. The CJK family comes first, since
    mathematics in a label is set in the first family only."""
    plt.rc("font", family=[name for name in (hanzi_font(), "DejaVu Sans") if name], size=10)
    colours = cycler(color=[BLUE, ORANGE, GREEN, RED, PURPLE, SKY])
    plt.rc("axes", unicode_minus=False, prop_cycle=colours)
    plt.rc("axes.spines", top=False, right=False)
    plt.rc("figure", figsize=(8, 3.2))
    plt.rc("figure.constrained_layout", use=True)


class Picture(Image):
    """A finished figure: PNG for the eye, its description for everyone else."""

    def __repr__(self) -> str:
        return f"[figure] {self.alt}"


def show(figure, alt: str, dpi: int = 100) -> Picture:
    """Close ``figure`` and return it as a ``Picture``. alt: what it shows, in a sentence or two."""
    if not alt.strip():
        raise Refusal("alt: expected a description of the figure, got an empty string")
    raw, png = io.BytesIO(), io.BytesIO()
    figure.savefig(raw, format="png", dpi=dpi, bbox_inches="tight")
    plt.close(figure)
    # A palette of 128 colours is a third of the size, and to the eye the same.
    few = Pixels.open(raw).convert("RGB").quantize(128, dither=Pixels.Dither.NONE)
    few.save(png, "png", optimize=True)
    return Picture(png.getvalue(), alt=alt)


def strip(ax, rows: dict[str, list[str]], muted: tuple[str, ...] = MUTED, colours=None) -> None:
    """Sequences as rows of boxes, position under position, as a shift is drawn; muted: grey."""
    for r, (name, tokens) in enumerate(rows.items()):
        colour = (colours or {}).get(name, SKY)
        ax.text(-0.7, -r, name, ha="right", va="center")
        for t, token in enumerate(tokens):
            face = "#EEEEEE" if token in muted else colour
            corner = (t - 0.45, -r - 0.36)
            ax.add_patch(Rectangle(corner, 0.9, 0.72, facecolor=face, edgecolor="white"))
            ax.text(t, -r, label(token), ha="center", va="center", color="black")
    longest = max(map(len, rows.values()))
    ax.set(xlim=(-0.6, longest - 0.4), ylim=(-len(rows) + 0.45, 0.55))
    ax.set_axis_off()


def dependencies(ax, matrix, rows: list[str], columns: list[str], title="", mark=()) -> None:
    """matrix[t, s] >= 0: how much t depends on s; exact zeros stay white. mark: (t, s) to frame."""
    matrix = np.asarray(matrix, dtype=float)
    shape = (len(rows), len(columns))
    expect(matrix.shape == shape, "matrix", f"shape {shape}", matrix.shape)
    shown = np.ma.masked_equal(matrix / max(matrix.max(), 1e-30), 0.0)
    ax.imshow(shown, cmap="viridis_r", vmin=0, vmax=1, aspect="equal")
    ax.set_xticks(range(len(columns)), [label(c) for c in columns])
    ax.set_yticks(range(len(rows)), [label(r) for r in rows])
    ax.set_xticks(np.arange(-0.5, len(columns)), minor=True)
    ax.set_yticks(np.arange(-0.5, len(rows)), minor=True)
    ax.grid(which="minor", color="#DDDDDD", linewidth=0.8)
    ax.tick_params(which="both", length=0)
    ax.set_title(title, fontsize=10)
    for t, s in mark:
        ax.add_patch(Rectangle((s - 0.5, t - 0.5), 1, 1, fill=False, edgecolor=RED, linewidth=2))


def graph(
    ax, nodes: dict[str, tuple[float, float]], edges, title="", colours=None, style="-|>"
) -> None:
    """Nodes at given places; from a to b of each edge an arrow ("-": a line), bent over others."""
    for a, b in edges:
        (x0, y0), (x1, y1) = nodes[a], nodes[b]
        bend = -0.45 if y0 == y1 and abs(x1 - x0) > 1 else 0.0
        look = {"arrowstyle": style, "color": GREY, "connectionstyle": f"arc3,rad={bend}"}
        ax.annotate("", (x1, y1), (x0, y0), arrowprops=look | {"shrinkA": 11, "shrinkB": 11})
    for name, (x, y) in nodes.items():
        ax.scatter([x], [y], s=420, color=(colours or {}).get(name, SKY), zorder=3)
        ax.text(x, y, name, ha="center", va="center", zorder=4)
    xs, ys = zip(*nodes.values(), strict=True)
    ax.set(xlim=(min(xs) - 0.5, max(xs) + 0.5), ylim=(min(ys) - 0.6, max(ys) + 0.9))
    ax.set_title(title, fontsize=10)
    ax.set_axis_off()
