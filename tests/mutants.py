"""Mutants: is a small mistake anywhere in the core noticed? ``make mutants`` (half an hour; ARGS="30 7").

Each mutant is one change of one operator or whole number of one file of the core, drawn from a seed, in a copy
of the package; the laws and the tests of the core then have to fail. Prints those that live. What changes
nothing (a message, an annotation, the default of an option) is not drawn.
"""

import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TESTS = (
    "laws bad_input theory transition lengths parallel influence training structure tasks".split()
)
SWAPS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.And: ast.Or, ast.Or: ast.And, ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}  # fmt: skip


def places(tree):
    """The nodes that can be changed."""
    left_out = set()
    for node in ast.walk(tree):
        quiet = [node] if isinstance(node, ast.JoinedStr | ast.Raise) else []
        if isinstance(node, ast.FunctionDef):
            quiet += [*node.args.defaults, *node.args.kw_defaults, node.returns]
            quiet += [a.annotation for a in (*node.args.args, *node.args.kwonlyargs)]
        if isinstance(node, ast.AnnAssign):
            quiet += [node.annotation, node.value]
        left_out |= {id(inner) for n in quiet if n for inner in ast.walk(n)}
    for node in ast.walk(tree):
        whole = isinstance(node, ast.Constant) and type(node.value) is int
        negated = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)
        operator = isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in SWAPS
        compared = isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS
        if (whole or negated or operator or compared) and id(node) not in left_out:
            yield node


def change(node):
    """Change a node; says what it was and is."""
    before = ast.unparse(node)
    if isinstance(node, ast.Constant):
        node.value += 1
    elif isinstance(node, ast.UnaryOp):
        node.op = ast.UAdd()
    elif isinstance(node, ast.Compare):
        node.ops[0] = SWAPS[type(node.ops[0])]()
    else:
        node.op = SWAPS[type(node.op)]()
    return f"{node.lineno}: {before}  ->  {ast.unparse(node)}"


def lives(copy):
    """Whether the tests pass on the package in ``copy``."""
    tests = [str(copy / "tests" / f"test_{name}.py") for name in TESTS]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-m",
        "not slow",
        "-p",
        "no:cacheprovider",
    ]
    skip = "small_enough or do_not_grow or no_file_is_long"
    command += ["-k", f"not ({skip})", *tests]
    environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        run = subprocess.run(command, cwd=copy, env=environment, capture_output=True, timeout=600)
    except subprocess.TimeoutExpired:  # a loop without end is noticed, too
        return False
    return run.returncode == 0


def main(number=100, seed=0):
    files = sorted((ROOT / "sar_minimal").glob("*.py"))
    every = [(f, i) for f in files for i, _ in enumerate(places(ast.parse(f.read_text())))]
    drawn, living = random.Random(seed).sample(every, number), []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("sar_minimal", "tests", "data"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        if not lives(copy):
            sys.exit("the tests fail before anything is changed")
        for done, (file, index) in enumerate(drawn, 1):
            tree = ast.parse(file.read_text())
            what = change(list(places(tree))[index])
            mutant = copy / "sar_minimal" / file.name
            mutant.write_text(ast.unparse(tree))
            if lives(copy):
                living.append(f"{file.name}:{what}")
                print(f"lives: {living[-1]}", flush=True)
            shutil.copy(file, mutant)
            print(f"{done - len(living)} of {done} caught", end="\r", flush=True)
    print(
        f"{number - len(living)} of {number} mutants caught, of {len(every)} places (seed {seed})"
    )
    return len(living) > number / 10


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
