"""Create a virtual environment and install the book with all its extras into it.

    python3 .ci/setup_env.py .venv          # `make` calls this

torch comes first, since the default build on PyPI brings gigabytes of CUDA: a machine with a GPU gets a
CUDA build, one without gets a CPU build, or the set-up fails and says why. uv does the work where it can
be installed, pip otherwise. `.ready` is written last; `.unfinished` stands in the environment until then,
so that an interrupted set-up starts afresh.
"""

import ast
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST = (3, 11)
PYTORCH_INDEX = "https://download.pytorch.org/whl/"


def has_gpu():
    """True where `nvidia-smi` is there and works."""
    if shutil.which("nvidia-smi") is None:
        return False
    probe = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    return probe.returncode == 0 and "GPU" in probe.stdout


def torch_problem(cuda, gpu):
    """Why a torch built for `cuda` (None: a CPU build) is wrong on this machine, or None."""
    if cuda and not gpu:
        return (
            f"torch was installed as a CUDA {cuda} build, but this machine has no working NVIDIA GPU "
            "(nvidia-smi is missing or fails).\nThe CPU build is smaller and enough: remove .venv, then\n"
            f"  python3 -m venv .venv && .venv/bin/pip install torch --index-url {PYTORCH_INDEX}cpu\n"
            "and run make again."
        )
    return None


def installed_cuda(python):
    """torch.version.cuda for the interpreter `python`, read without importing torch."""
    code = (
        "import importlib.util, pathlib, runpy; "
        "torch = importlib.util.find_spec('torch').submodule_search_locations[0]; "
        "print(runpy.run_path(str(pathlib.Path(torch, 'version.py'))).get('cuda') or '')"
    )
    return subprocess.check_output([python, "-c", code], text=True).strip() or None


def pip_settings(python):
    """pip's settings for an install (files and PIP_* variables), which uv does not read."""
    command = [python, "-m", "pip", "config", "list"]
    listing = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    found = {}
    for section in "global.", "install.", ":env:.":  # the later wins, as in pip
        for line in listing:  # global.find-links='/a /b'
            option, _, value = line.removeprefix(section).partition("=")
            if line.startswith(section):
                found[option] = ast.literal_eval(value)
    return found


def uv_environment(settings):
    """The environment in which uv sees the same indexes and wheel folders as pip."""
    env = dict(os.environ)
    handed_over = {"find-links": "UV_FIND_LINKS", "index-url": "UV_DEFAULT_INDEX"}
    for option, variable in handed_over.items():
        if settings.get(option):
            env.setdefault(variable, ",".join(settings[option].split()))
    return env


def say(text):
    print(f"[setup] {text}", flush=True)


def succeeds(command, env=None):
    """Run `command`, show it, and say whether it worked."""
    print("  $ " + " ".join(str(part) for part in command), flush=True)
    return subprocess.run(command, env=env, cwd=ROOT).returncode == 0


def torch_requirement():
    import tomllib  # not before the version check: it came with Python 3.11

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return next(line for line in project["dependencies"] if line.startswith("torch"))


def torch_ways(uv, pip, settings, gpu, requirement):
    """Commands that install the right torch, best first; the first that works counts."""
    if gpu:
        if uv:
            yield [*uv, "--torch-backend=auto", requirement]
        yield [*pip, requirement]
    elif sys.platform != "linux":
        yield [*(uv or pip), requirement]  # what PyPI has for macOS and Windows is a CPU build
    else:
        if settings.get("find-links"):  # a folder of wheels that this machine's pip is told to use
            yield [*(uv or pip), "--no-index", "--no-deps", requirement]
        if uv:
            yield [*uv, "--torch-backend=cpu", requirement]
        yield [*pip, "--retries=1", f"--index-url={PYTORCH_INDEX}cpu", requirement]


def install(venv):
    python = str(venv / "bin" / "python")
    settings, gpu = pip_settings(python), has_gpu()
    quiet = (
        [] if sys.stdout.isatty() else ["-q"]
    )  # a person sees what is downloaded, a log does not
    pip, uv = [python, "-m", "pip", "install", *quiet], None
    say("installing uv, which is several times faster than pip")
    if succeeds([*pip, "uv>=0.7"]):
        uv = [python, "-m", "uv", "pip", "install", *quiet, "--python", python]
    env = uv_environment(settings)

    say(
        f"installing torch, a {'CUDA' if gpu else 'CPU'} build: NVIDIA GPU {'found' if gpu else 'not found'}"
    )
    ways = torch_ways(uv, pip, settings, gpu, torch_requirement())
    if not any(succeeds(way, env) for way in ways):
        sys.exit("[setup] no suitable build of torch could be reached; see the errors above.")
    problem = torch_problem(installed_cuda(python), gpu)
    if problem:
        sys.exit(f"[setup] {problem}")

    say("installing the book and all its extras")
    everything = ["-e", ".[all]"]
    if not (uv and succeeds([*uv, *everything], env)) and not succeeds([*pip, *everything]):
        sys.exit("[setup] the installation failed; see the errors above.")
    problem = torch_problem(installed_cuda(python), gpu)  # nothing may have replaced it
    if problem:
        sys.exit(f"[setup] {problem}")

    # uv does not compile, and where PYTHONDONTWRITEBYTECODE is set nobody ever would: each start of Python would
    # compile torch, sympy and matplotlib anew, for up to ten seconds. Files that are no valid Python are left.
    say("compiling what was installed to bytecode")
    subprocess.run([python, "-m", "compileall", "-qq", "-j", "0", str(venv / "lib")])


def main(venv):
    if sys.version_info < OLDEST:
        sys.exit(
            "Python 3.11 or newer is needed, but {} is {}.{}. Name a newer one: "
            "make PYTHON=/path/to/python3.11".format(sys.executable, *sys.version_info[:2])
        )
    start = time.monotonic()
    ready, unfinished = venv / ".ready", venv / ".unfinished"
    if unfinished.exists():
        say(f"an earlier set-up of {venv} was interrupted: starting afresh")
        shutil.rmtree(venv)
    say(f"creating {venv} with Python {sys.version.split()[0]}")
    venv.mkdir(parents=True, exist_ok=True)
    ready.unlink(missing_ok=True)
    unfinished.touch()
    if not succeeds([sys.executable, "-m", "venv", str(venv)]):
        sys.exit(
            "[setup] no virtual environment could be made (on Debian: apt install python3-venv)."
        )
    install(venv.resolve())
    unfinished.unlink()
    ready.touch()
    say(f"ready after {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else ".venv"))
    except KeyboardInterrupt:
        sys.exit("[setup] interrupted; the next make starts the set-up afresh.")
