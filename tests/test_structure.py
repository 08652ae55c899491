"""The package keeps its shape: a core that can be read, wings that know it and not each other, no circle.

Which part may import which is written down in pyproject.toml ([tool.importlinter]). The second half of this
file plants one fault at a time into a copy of the package and sees the right guard complain.
"""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "sar_minimal"
CORE = 3200  # lines of the core, at most
LAB = 4465  # of the lab; 2,800 was the aim before damage, attack, rule, room and the second tier
PACKAGE_LINES = 10554  # of the core and all wings; 7,900 was the aim then, without the applications
LONGEST = 300  # lines of a file, but in lab/
# What a function may import, since it need not be installed, or since it takes long (0.2 s and more).
OPTIONAL = {
    "transformers",
    "x_transformers",
    "Pinyin2Hanzi",
    "matplotlib",
    "mplfonts",
    "nbformat",
    "nbclient",
}
SLOW = {"pypinyin", "cn2an"}
NEEDS_MATPLOTLIB = {"plots"}
STARTS_QUICKLY = "lab/cli.py"  # so it imports what a command needs when the command is given


def lines_of(package, pattern):
    """A line counts once for every 100 columns that it begins, an empty one once."""
    lines = [line for path in package.glob(pattern) for line in path.read_text().splitlines()]
    return sum(max(1, -(-len(line) // 100)) for line in lines)


def lines_of_core(package):
    return lines_of(package, "*.py")


def sources(package):
    return [(str(p.relative_to(package)), p.read_text()) for p in sorted(package.rglob("*.py"))]


def long_files(package):
    sizes = {name: len(text.splitlines()) for name, text in sources(package)}
    return [
        f"{name}: {size} lines"
        for name, size in sizes.items()
        if size > LONGEST and not name.startswith("lab/")
    ]


def late_imports(package):
    """Imports inside a function, which hide an arrow or a circle until the function is called."""
    return [
        f"{name}:{node.lineno}: {ast.unparse(node)}"
        for name, text in sources(package)
        if name != STARTS_QUICKLY
        for function in ast.walk(ast.parse(text))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
        and not imported(node) <= OPTIONAL | SLOW | NEEDS_MATPLOTLIB
    ]


def imported(node):
    """The packages that a statement imports from, by their first names; of ``from . import a``, a."""
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return {node.module.partition(".")[0]}
    return {alias.name.partition(".")[0] for alias in node.names}


LINT = (
    "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
)
CIRCLE = """
import graphlib, grimp, sys
graph = grimp.build_graph("sar_minimal", cache_dir=None)
arrows = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
try:
    graphlib.TopologicalSorter(arrows).prepare()
except graphlib.CycleError as error:
    sys.exit(f"circle: {' <- '.join(error.args[1])}")
"""


def complaint(code, root):
    """What ``code`` prints about the package in ``root``, in a process of its own; nothing if it is content."""
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    return done.stdout + done.stderr if done.returncode else ""


# The package


def test_the_core_is_small_enough_to_be_read():
    assert lines_of_core(PACKAGE) <= CORE


def test_the_lab_and_the_whole_do_not_grow():
    assert lines_of(PACKAGE, "lab/*.py") <= LAB
    assert lines_of(PACKAGE, "**/*.py") <= PACKAGE_LINES


def test_no_file_is_long():
    assert long_files(PACKAGE) == []


def test_nothing_is_imported_inside_a_function():
    assert late_imports(PACKAGE) == []


def test_arrows_run_one_way():
    assert complaint(LINT, ROOT) == ""


def test_there_is_no_circle():
    assert complaint(CIRCLE, ROOT) == ""


# The guards themselves


@pytest.fixture
def package(tmp_path):
    """A copy to plant faults in."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    ignore = shutil.ignore_patterns("__pycache__")
    return Path(shutil.copytree(PACKAGE, tmp_path / "sar_minimal", ignore=ignore))


def plant(package, name, text):
    with (package / name).open("a") as file:
        file.write(f"\n{text}\n")


def test_the_copy_is_in_order(package):
    assert long_files(package) == late_imports(package) == []
    assert complaint(LINT, package.parent) == complaint(CIRCLE, package.parent) == ""


@pytest.mark.parametrize(
    "name, text, said",
    [
        ("theory.py", "from .languages import CHUNK", "theory is not allowed to import"),
        ("masked.py", "from .shifted import ShiftedLM", "masked is not allowed to import"),
        ("blocks.py", "from .tasks import load_task", "blocks is not allowed to import"),
        ("data.py", "import sar_minimal.lab.plots", "data is not allowed to import"),
        ("tasks/words.py", "from ..counting.lexicon import Lexicon", "tasks is not allowed"),
        ("counting/ngram.py", "from ..tasks.words import word_model", "counting is not allowed"),
        ("lab/claims.py", "from .ledger import record", "claims is not allowed to import"),
        ("extra.py", "", "extra"),  # a new file has to be given its place
    ],
)
def test_an_arrow_that_runs_up_is_found(package, name, text, said):
    plant(package, name, text)
    assert said in complaint(LINT, package.parent)


@pytest.mark.parametrize(
    "name, text, said",
    [
        ("theory.py", "from .languages import CHUNK", "sar_minimal.theory"),
        ("tasks/pinyin.py", "from . import load_task", "sar_minimal.tasks.pinyin"),
        ("lab/report.py", "def late():\n    from .cli import main", "sar_minimal.lab.report"),
    ],
)
def test_a_circle_is_found(package, name, text, said):
    plant(package, name, text)
    found = complaint(CIRCLE, package.parent)
    assert found.startswith("circle: ") and said in found


def test_a_long_file_is_found(package):
    for name in ("tasks/exact.py", "lab/timing.py"):
        (package / name).write_text(300 * "\n")
    assert long_files(package) == []
    for name in ("tasks/exact.py", "lab/timing.py"):
        (package / name).write_text(301 * "\n")
    assert long_files(package) == ["tasks/exact.py: 301 lines"]


def test_lines_are_counted_by_their_length(package):
    before = lines_of_core(package)
    plant(package, "shift.py", "# " + 98 * "a")
    assert lines_of_core(package) == before + 2
    plant(package, "shift.py", "# " + 99 * "a")
    assert lines_of_core(package) == before + 5
    plant(package, "lab/cli.py", "# ")
    assert lines_of_core(package) == before + 5


@pytest.mark.parametrize(
    "name, text, found",
    [
        ("shift.py", "def late():\n    import json", ["import json"]),
        (
            "lab/runs.py",
            "class A:\n    def late(self):\n        from .cli import main",
            ["from .cli import main"],
        ),
        ("tasks/words.py", "def late():\n    from pypinyin import pinyin", []),
        ("lab/cli.py", "def late():\n    import json", []),
    ],
)
def test_an_import_in_a_function_is_found(package, name, text, found):
    plant(package, name, text)
    assert [complaint.partition(": ")[2] for complaint in late_imports(package)] == found
