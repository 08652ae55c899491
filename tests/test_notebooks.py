"""Hygiene of everything under chapters/, and of the one rule about slices in the package.

Each check is a function from a notebook (as JSON) to a list of complaints. The second half of this file
breaks a clean notebook in one way at a time and asserts that the right check complains.
"""

import ast
import copy
import json
import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "chapters"
NOTEBOOKS = sorted(p for p in BOOK.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
CHAPTERS = [path for path in NOTEBOOKS if re.match(r"\d\d_", path.name) and path.parent == BOOK]
PAGES = [ROOT / "README.md", ROOT / "LOG.md", *sorted(BOOK.rglob("*.md"))]
PACKAGE = sorted((ROOT / "sar_minimal").rglob("*.py"))

MAX_BYTES = 300_000
MAX_CELL_LINES = 25
MAX_SETUP_LINES = 10
TAGS = {"nbval-check-output", "nbval-ignore-output", "nbval-skip", "raises-exception"}
MACHINE_PATH = re.compile(
    r"(?<![\w.:/-])/(?:tmp|root|home|work|Users)/"
)  # not in https://x.org/home/
# [text](target), with ![ for a picture; a target in angle brackets may hold spaces
LINK = re.compile(r"(!?)\[([^\]]*)\]\(\s*<?([^)\s>]+)>?[^)]*\)")
HTML_IMAGE = re.compile(r"<img\b[^>]*>", re.IGNORECASE)
IMAGE_ALT = re.compile(r"\balt\s*=\s*(['\"])\s*\S.*?\1", re.IGNORECASE)


def name_of(path):
    return str(path.relative_to(ROOT))


def cells(notebook, kind):
    """(number, source) of the cells of one kind that are not empty, counting all cells from 0."""
    for number, cell in enumerate(notebook["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == kind and source.strip():
            yield number, source


def tags(cell):
    return set(cell["metadata"].get("tags", []))


def is_valid(notebook):
    try:
        nbformat.validate(nbformat.from_dict(notebook))
    except nbformat.ValidationError as error:
        return [f"not a valid notebook: {error.message}"]
    return []


def ran_in_order(notebook):
    counts = [notebook["cells"][number]["execution_count"] for number, _ in cells(notebook, "code")]
    if counts != list(range(1, len(counts) + 1)):
        return [f"not executed in order in one go: {counts}"]
    return []


def stores_no_error(notebook):
    return [
        f"cell {number} stores an error and has no raises-exception tag"
        for number, cell in enumerate(notebook["cells"])
        for output in cell.get("outputs", [])
        if output["output_type"] == "error" and "raises-exception" not in tags(cell)
    ]


def has_nothing_of_one_run(notebook):
    found = ["stores widget state"] if "widgets" in notebook["metadata"] else []
    if "version" in notebook["metadata"].get("language_info", {}):
        found.append("stores the version of Python")
    for number, cell in enumerate(notebook["cells"]):
        if "execution" in cell["metadata"]:
            found.append(f"cell {number} stores timings")
    return found


def has_the_python3_kernel(notebook):
    kernel = notebook["metadata"].get("kernelspec", {}).get("name")
    return [] if kernel == "python3" else [f"kernel {kernel!r}, not 'python3'"]


def has_known_tags(notebook):
    found = []
    for number, cell in enumerate(notebook["cells"]):
        unknown = sorted(t for t in tags(cell) - TAGS if t.startswith(("nbval", "raises")))
        found += [f"cell {number}: nothing reads the tag {tag!r}" for tag in unknown]
    return found


def names_no_machine(notebook):
    """Sources, text outputs and metadata; not the bytes of pictures, where any letters can occur."""
    lean = copy.deepcopy(notebook)
    for cell in lean["cells"]:
        cell.pop("attachments", None)
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            output["data"] = {k: v for k, v in data.items() if not k.startswith("image/")}
    return [
        f"names a path of one machine: {text[hit.start() : hit.start() + 40]!r}"
        for text in strings(lean)
        for hit in MACHINE_PATH.finditer(text)
    ]


def strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings(item)


def has_short_cells(notebook):
    return [
        f"cell {number} has {len(source.splitlines())} lines, more than {MAX_CELL_LINES}"
        for number, source in cells(notebook, "code")
        if len(source.splitlines()) > MAX_CELL_LINES
    ]


def setup_cell(notebook):
    return next((source for _, source in cells(notebook, "code")), "")


def has_a_short_setup_cell(notebook):
    lines = len(setup_cell(notebook).splitlines())
    return [f"set-up cell of {lines} lines"] if not 1 <= lines <= MAX_SETUP_LINES else []


def prose_has_alt_texts(notebook):
    """Pictures in Markdown cells."""
    return [
        complaint
        for number, source in cells(notebook, "markdown")
        for complaint in missing_alt_texts(source, f"cell {number}")
    ]


def figures_have_alt_texts(notebook):
    """What a cell draws: `plots.show` stores the description beside the picture."""
    return [
        f"cell {number}: a figure has no alt text; use plots.show"
        for number, cell in enumerate(notebook["cells"])
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
        and not output["metadata"].get("image/png", {}).get("alt", "").strip()
    ]


CHECKS = [
    is_valid,
    ran_in_order,
    stores_no_error,
    has_nothing_of_one_run,
    has_the_python3_kernel,
    has_known_tags,
    names_no_machine,
    has_short_cells,
    prose_has_alt_texts,
    figures_have_alt_texts,
]


def without_code(markdown):
    """Markdown less its code blocks and code spans, in which [a](b) is not a link."""
    markdown = re.sub(r"^(```|~~~).*?^\1", "", markdown, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"(`+).+?\1", "", markdown, flags=re.DOTALL)


def missing_alt_texts(markdown, where):
    markdown = without_code(markdown)
    found = [f"{where}: {target} has no alt text" for _, target in images(markdown)]
    for image in HTML_IMAGE.findall(markdown):
        if not IMAGE_ALT.search(image):
            found.append(f"{where}: {image} has no alt text")
    return found


def images(markdown):
    return [
        (alt, target) for bang, alt, target in LINK.findall(markdown) if bang and not alt.strip()
    ]


def dead_links(markdown, folder):
    """Relative targets that are no file; addresses and jumps within the page are not looked at."""
    found = []
    for _, _, target in LINK.findall(without_code(markdown)):
        path = target.partition("#")[0]
        if path and not re.match(r"[a-z][a-z0-9+.-]*:", target) and not (folder / path).exists():
            found.append(f"dead link: {target}")
    return found


def shifts_in(source):
    """Subscripts that drop the first or the last entries of an axis, as (line, code).

    Forbidden, in a subscript of two or more axes (an ellipsis counts as one): on any axis, a slice
    without a step that is `:-n` or `n:`, with n a whole number above 0 written out. So `x[:, :-1]`,
    `x[:, 1:]`, `x[..., :-1]`, `x[..., 1:]`, `x[:, :-1, :]`, `x[1:, :]`, and also `x[:, :][:, 1:]`.
    Allowed: one axis (`words[1:]`), the last entries (`x[:, -1:]`), steps (`x[..., 1::2]`), the first n
    (`x[:, :n]`), and bounds that are names (`x[:, start:]`), as in a cache.
    """

    def drops(part):
        return (
            isinstance(part, ast.Slice)
            and part.step is None
            and (
                (part.upper is None and is_positive(part.lower))
                or (part.lower is None and is_negative(part.upper))
            )
        )

    return [
        (node.lineno, ast.unparse(node))
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Subscript)
        and isinstance(node.slice, ast.Tuple)
        and any(drops(part) for part in node.slice.elts)
    ]


def is_positive(node):
    return isinstance(node, ast.Constant) and isinstance(node.value, int) and node.value > 0


def is_negative(node):
    minus = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)
    return minus and is_positive(node.operand)


# The book


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_notebook(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    complaints = [complaint for check in CHECKS for complaint in check(notebook)]
    for _, source in cells(notebook, "markdown"):
        complaints += dead_links(source, path.parent)
    if path.stat().st_size > MAX_BYTES:
        complaints.append(f"{path.stat().st_size} bytes, more than {MAX_BYTES}")
    assert complaints == []


@pytest.mark.parametrize("path", CHAPTERS, ids=name_of)
def test_setup_cell_is_short_and_the_same_in_each_chapter(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert has_a_short_setup_cell(notebook) == []
    assert setup_cell(notebook) == setup_cell(json.loads(CHAPTERS[0].read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_page(path):
    text = path.read_text(encoding="utf-8")
    assert missing_alt_texts(text, path.name) + dead_links(text, path.parent) == []
    assert MACHINE_PATH.findall(text) == []


@pytest.mark.parametrize("path", [p for p in PACKAGE if p.name != "shift.py"], ids=name_of)
def test_sequences_are_shifted_in_shift_py_only(path):
    assert shifts_in(path.read_text(encoding="utf-8")) == [], "use sar_minimal.shift"


# The checks themselves


def clean_notebook():
    notebook = nbformat.v4.new_notebook()
    notebook["metadata"] = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "language_info": {"name": "python"},
    }
    described = {"image/png": {"alt": "a plot"}}
    figure = nbformat.v4.new_output(
        "display_data", data={"image/png": "aaaa/tmp/aaaa"}, metadata=described
    )
    notebook["cells"] = [
        nbformat.v4.new_markdown_cell("# Title\n![a plot](plot.png) https://x.org/home/a"),
        nbformat.v4.new_code_cell("import torch", execution_count=1),
        nbformat.v4.new_code_cell("draw()", execution_count=2, outputs=[figure]),
    ]
    return json.loads(nbformat.writes(notebook))


def set_at(notebook, value, *keys):
    for key in keys[:-1]:
        notebook = notebook[key]
    notebook[keys[-1]] = value


ERROR = {"output_type": "error", "ename": "E", "evalue": "", "traceback": []}
SAYS = {"output_type": "stream", "name": "stdout"}
BREAKS = [  # check, what to write, where
    (is_valid, "a word", "cells", 1, "execution_count"),
    (ran_in_order, None, "cells", 1, "execution_count"),
    (ran_in_order, 3, "cells", 2, "execution_count"),
    (stores_no_error, [ERROR], "cells", 2, "outputs"),
    (has_nothing_of_one_run, {}, "metadata", "widgets"),
    (has_nothing_of_one_run, "3.11.7", "metadata", "language_info", "version"),
    (has_nothing_of_one_run, {"iopub.execute_input": "t"}, "cells", 1, "metadata", "execution"),
    (has_the_python3_kernel, "venv", "metadata", "kernelspec", "name"),
    (has_known_tags, ["nbval-check-outputs"], "cells", 1, "metadata", "tags"),
    (has_known_tags, ["nbval-raises-exception"], "cells", 1, "metadata", "tags"),
    (names_no_machine, [{**SAYS, "text": ["in /root/a.py"]}], "cells", 2, "outputs"),
    (names_no_machine, "open('/tmp/a')", "cells", 1, "source"),
    (has_short_cells, "x = 1\n" * 26, "cells", 1, "source"),
    (has_a_short_setup_cell, "x = 1\n" * 11, "cells", 1, "source"),
    (prose_has_alt_texts, "![](a.png)", "cells", 0, "source"),
    (prose_has_alt_texts, "<img src='a.png' alt=''>", "cells", 0, "source"),
    (figures_have_alt_texts, {}, "cells", 2, "outputs", 0, "metadata"),
]


@pytest.mark.parametrize("check", [*CHECKS, has_a_short_setup_cell], ids=lambda c: c.__name__)
def test_check_passes_a_clean_notebook_and_can_fail(check):
    assert check(clean_notebook()) == []
    assert check in [entry[0] for entry in BREAKS]


@pytest.mark.parametrize(("check", "value", "where"), [(c, v, w) for c, v, *w in BREAKS])
def test_check_catches(check, value, where):
    notebook = clean_notebook()
    set_at(notebook, value, *where)
    assert len(check(notebook)) == 1


def test_raises_exception_excuses_a_stored_error():
    notebook = clean_notebook()
    set_at(notebook, [ERROR], "cells", 2, "outputs")
    set_at(notebook, ["raises-exception"], "cells", 2, "metadata", "tags")
    assert stores_no_error(notebook) == has_known_tags(notebook) == []


def test_dead_links_are_caught(tmp_path):
    (tmp_path / "02_ar.ipynb").touch()
    good = "[a](02_ar.ipynb) [b](02_ar.ipynb#part) [c](#part) [d](https://x.org/a) `[e](none)`"
    assert dead_links(good, tmp_path) == []
    bad = "[a](03_none.ipynb) ![b](none.png) [c](<none.md>)"
    assert len(dead_links(bad, tmp_path)) == 3


@pytest.mark.parametrize(
    "code",
    [
        "x[:, :-1]",
        "x[:, 1:]",
        "x[..., :-1]",
        "x[..., 1:]",
        "x[:, :-1, :]",
        "x[1:, :]",
        "x[0, 2:]",
        "f(x)[:, :][:, :-2]",
        "x[:, 1:] = y",
    ],
)
def test_shifts_are_caught(code):
    assert len(shifts_in(f"def f(x):\n    {code}\n")) == 1


@pytest.mark.parametrize(
    "code",
    ["x[1:]", "x[:-1]", "x[:, -1:]", "x[..., 1::2]", "x[:, :n]", "x[:, n:]", "x[:, :3]", "x[:, 0]"],
)
def test_other_slices_are_not(code):
    assert shifts_in(code) == []
