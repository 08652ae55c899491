"""The README is true: its picture is the chapter's, its table is the chapters', its commands exist."""

import base64
import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PICTURE = ROOT / "chapters" / "images" / "who_reads_whom.png"


def test_picture_is_a_figure_of_chapter_2():
    """To remake it after `make run-nb`: save that figure of the chapter under this name."""
    cells = json.loads((ROOT / "chapters" / "02_ar_and_sar.ipynb").read_text(encoding="utf-8"))[
        "cells"
    ]
    stored = [
        o["data"]["image/png"]
        for c in cells
        for o in c.get("outputs", [])
        if "image/png" in o.get("data", {})
    ]
    assert PICTURE.read_bytes() in [base64.b64decode(png) for png in stored]


def test_table_links_each_chapter_that_exists():
    linked = set(re.findall(r"\(chapters/(\d\w+\.ipynb)\)", README))
    assert linked == {path.name for path in (ROOT / "chapters").glob("[0-9]*.ipynb")}


def test_make_targets_and_console_commands_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"\bmake ([a-z-]+)", README))
    assert {"read", "test", "demo"} <= targets
    assert [t for t in targets if not re.search(rf"^{t}:", makefile, re.MULTILINE)] == []
    from sar_minimal.lab.cli import COMMANDS

    assert {c for c in re.findall(r"^sar ([a-z]+)", README, re.MULTILINE)} <= set(COMMANDS)
