"""A reader's first minutes, in a real browser: `make read`, open a chapter, Run All, move a slider.

Runs on a copy of the chapters with their outputs removed, so that nothing stored can pass for a result.
"""

import importlib.util
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CHAPTER = "chapters/02_ar_and_sar.ipynb"
BROWSERS = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
SECONDS = 300  # to run one chapter
# What the page holds, whether scrolled into view or not (--expose-app-in-browser).
PANEL = "window.jupyterapp.shell.currentWidget"
NOTEBOOK = f"{PANEL}.content"
# The indicator on the page says idle before there is a kernel, and Run All then asks for one.
KERNEL_IDLE = f"() => {PANEL}?.sessionContext?.session?.kernel?.status == 'idle'"
FINISHED = f"""() => {{
  const code = {NOTEBOOK}.model.toJSON().cells.filter(c => c.cell_type == 'code' && c.source.length);
  const failed = c => !(c.metadata.tags || []).includes('raises-exception')
    && c.outputs.some(o => o.output_type == 'error');
  return code.every(c => c.execution_count !== null) || code.some(failed);
}}"""
PICTURES = "cell => [...cell.querySelectorAll('.jp-OutputArea img')].map(i => i.src).join()"


def missing(what):
    """Skip by hand, fail in CI, where the browser test must not go missing unseen."""
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"browser test: {what}")


def browser_program():
    found = [path for path in map(shutil.which, BROWSERS) if path]
    return found[0] if found else missing("no Chromium or Chrome (Debian: apt install chromium)")


def copy_of_the_book(folder):
    shutil.copy(ROOT / "Makefile", folder)
    shutil.copy(ROOT / "pyproject.toml", folder)
    shutil.copytree(ROOT / "chapters", folder / "chapters")
    chapter = folder / CHAPTER
    notebook = json.loads(chapter.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
    chapter.write_text(json.dumps(notebook), encoding="utf-8")


def own_folders(folder):
    """The environment in which Jupyter and the browser use no settings of the person who tests."""
    names = "CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR"
    env = {f"JUPYTER_{name}": str(folder / name.lower()) for name in names}
    env |= {
        f"JUPYTERLAB_{name}_DIR": str(folder / name.lower()) for name in ["SETTINGS", "WORKSPACES"]
    }
    news = (
        folder
        / "settings"
        / "@jupyterlab"
        / "apputils-extension"
        / "notification.jupyterlab-settings"
    )
    news.parent.mkdir(parents=True)
    news.write_text(json.dumps({"fetchNews": "false", "checkForUpdates": False}))
    env["OMP_NUM_THREADS"] = "1"  # the browser wants a core too: two threads wait for each other
    env["XDG_DATA_HOME"] = str(folder / "xdg")
    fonts = folder / "xdg" / "fonts"
    fonts.mkdir(parents=True)
    mplfonts = importlib.util.find_spec(
        "mplfonts"
    )  # hanzi on the page, where the system has no font
    for font in Path(mplfonts.origin).parent.rglob("NotoSansCJK*-Regular.otf") if mplfonts else []:
        (fonts / font.name).symlink_to(font)
    outer_make = {"MAKEFLAGS", "MFLAGS", "ARGS"}
    return {**{k: v for k, v in os.environ.items() if k not in outer_make}, **env}


@contextmanager
def make_read(folder, env):
    """`make read ARGS=--no-browser` in `folder`, with this test's environment; gives the address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(8)
    arguments = f"--no-browser --ip=127.0.0.1 --port={port} --ServerApp.port_retries=0"
    arguments += f" --IdentityProvider.token={token} --expose-app-in-browser"
    venv = sys.prefix
    command = ["make", "read", f"VENV={venv}", f"--assume-old={venv}/.ready", f"ARGS={arguments}"]
    with open(folder / "server.log", "w") as log:
        server = subprocess.Popen(
            command, cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(f"{url}/api?token={token}", server, folder / "server.log")
        yield lambda path: f"{url}{path}?token={token}"
    finally:
        stop(server)


def stop(server):
    """End make, the server and its kernels, and wait until all are gone."""
    for sent, seconds in (signal.SIGTERM, 20), (signal.SIGKILL, 5):
        deadline = time.monotonic() + seconds
        try:
            os.killpg(server.pid, sent)
            while time.monotonic() < deadline:
                server.poll()  # collects make, which otherwise stays in the group
                os.killpg(server.pid, 0)
                time.sleep(0.1)
        except ProcessLookupError:
            return


def wait_for(address, server, log):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    pytest.fail(f"the server did not come up:\n{log.read_text()}")


@contextmanager
def browser_page(program, env):
    from playwright.sync_api import sync_playwright

    root = hasattr(os, "getuid") and os.getuid() == 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox"] if root else [], env=env
        )
        page = browser.new_page(viewport={"width": 1300, "height": 1000})
        yield page
        browser.close()


def run_all(page):
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
    page.wait_for_function(KERNEL_IDLE, timeout=60_000)
    page.click("li.lm-MenuBar-item:has-text('Run')")
    page.click("li[data-command='runmenu:run-all']")
    page.wait_for_function(FINISHED, timeout=SECONDS * 1000)
    return page.evaluate(f"{NOTEBOOK}.model.toJSON()")


def failed_cells(notebook):
    return [
        output["evalue"]
        for cell in notebook["cells"]
        for output in cell.get("outputs", [])
        if output["output_type"] == "error"
        and "raises-exception" not in cell["metadata"].get("tags", [])
    ]


def cell_with_widget(page, notebook):
    """Scroll to the first cell that shows a widget with a slider; gives the cell and the slider."""
    view = "application/vnd.jupyter.widget-view+json"
    for number, cell in enumerate(notebook["cells"]):
        if any(view in output.get("data", {}) for output in cell.get("outputs", [])):
            page.evaluate(f"{NOTEBOOK}.scrollToItem({number}, 'center')")
            element = page.locator(f".jp-Cell[data-windowed-list-index='{number}']")
            element.locator(".jupyter-widgets").first.wait_for(timeout=30_000)
            slider = element.locator(".widget-slider .noUi-handle")
            if slider.count():  # not a progress bar or a button
                return element, slider.first
    pytest.fail("no cell of the chapter shows a slider")


def move(page, cell, slider):
    """One step with the arrow keys; returns the pictures before and after."""
    cell.locator(".jp-OutputArea img").first.wait_for(timeout=30_000)
    before = cell.evaluate(PICTURES)
    at_end = slider.get_attribute("aria-valuenow") == slider.get_attribute("aria-valuemax")
    slider.focus()
    page.keyboard.press("ArrowLeft" if at_end else "ArrowRight")
    deadline = time.monotonic() + 30
    after = before
    while after in (before, "") and time.monotonic() < deadline:
        page.wait_for_timeout(100)
        after = cell.evaluate(PICTURES)
    return before, after


@pytest.mark.slow
def test_a_reader_runs_a_chapter_and_moves_a_slider(tmp_path):
    program = browser_program()
    if importlib.util.find_spec("playwright") is None:
        missing("no playwright (pip install -e '.[test]')")
    if not (ROOT / CHAPTER).exists():
        missing(f"no {CHAPTER}")
    copy_of_the_book(tmp_path)
    env = own_folders(tmp_path)
    with make_read(tmp_path, env) as address, browser_page(program, env) as page:
        errors = []
        page.on("pageerror", lambda error: errors.append(str(error)))

        page.goto(address("/"))  # where the book opens
        page.wait_for_selector("#jp-main-dock-panel .lm-TabBar-tabLabel", timeout=60_000)
        page.screenshot(path=tmp_path / "door.png")
        assert page.url.partition("?")[0].endswith(".ipynb")

        page.goto(address(f"/lab/tree/{CHAPTER}") + "&reset")
        notebook = run_all(page)
        assert failed_cells(notebook) == []
        before, after = move(page, *cell_with_widget(page, notebook))
        page.wait_for_timeout(300)
        page.screenshot(path=tmp_path / "chapter.png")
        assert before and after and before != after, "the slider moved, the picture did not change"
        assert errors == []
    print(f"screenshots: {tmp_path}/door.png, {tmp_path}/chapter.png")
