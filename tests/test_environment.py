"""environment.yml says what pyproject.toml says, both hold for what is installed, and set-up is safe.

conda itself is not run here: this compares names and version ranges.
"""

import importlib.util
import os
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
CONDA_NAMES = {"pytorch": "torch", "matplotlib-base": "matplotlib"}  # conda-forge's name: PyPI's
NOT_FOR_CONDA = {"peers"}  # extras that environment.yml leaves out


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


setup_env = load(ROOT / ".ci" / "setup_env.py")


def project_ranges(project):
    """{name: range} of the core and the extras that conda users get."""
    lines = list(project["dependencies"])
    for extra, extra_lines in project["optional-dependencies"].items():
        if extra not in NOT_FOR_CONDA | {"all"}:
            lines += extra_lines
    return {canonicalize_name(r.name): r.specifier for r in map(Requirement, lines)}


def conda_ranges(environment):
    """{name on PyPI: range} of environment.yml, its pip section included; not the package itself."""
    lines = []
    for entry in environment["dependencies"]:
        lines += entry["pip"] if isinstance(entry, dict) else [entry]
    wanted = [Requirement(line) for line in lines if not line.startswith("-e ")]
    return {canonicalize_name(CONDA_NAMES.get(r.name, r.name)): r.specifier for r in wanted}


def disagreements(project, environment):
    """Where the two files differ, one line each."""
    ours, theirs = project_ranges(project), conda_ranges(environment)
    python = theirs.pop("python", None)
    theirs.pop("pip", None)
    found = [f"{name}: not in environment.yml" for name in sorted(ours.keys() - theirs.keys())]
    found += [f"{name}: not in pyproject.toml" for name in sorted(theirs.keys() - ours.keys())]
    for name in sorted(ours.keys() & theirs.keys()):
        if ours[name] != theirs[name]:
            found.append(
                f"{name}: {ours[name]} in pyproject.toml, {theirs[name]} in environment.yml"
            )
    if str(python) != project["requires-python"]:
        found.append(f"python: {project['requires-python']} and {python}")
    return found


def outside(ranges, installed):
    """What is missing or outside its range; `installed(name)` gives a version or raises."""
    found = []
    for name, wanted in ranges.items():
        try:
            version = installed(name)
        except metadata.PackageNotFoundError:
            found.append(f"{name}: not installed")
            continue
        if not wanted.contains(version, prereleases=True):
            found.append(f"{name}: {version} is installed, {wanted} is wanted")
    return found


@pytest.fixture
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture
def environment():
    return yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))


def test_both_files_agree(project, environment):
    assert disagreements(project, environment) == []


def test_installed_versions_are_in_range(project, environment):
    assert outside(project_ranges(project), metadata.version) == []
    ranges = {n: r for n, r in conda_ranges(environment).items() if n not in {"python", "pip"}}
    assert outside(ranges, metadata.version) == []


def test_environment_installs_this_package(environment):
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    (editable,) = [line for line in pip if line.startswith("-e ")]
    extras = Requirement("x" + editable.removeprefix("-e .")).extras
    assert {"book", "test"} <= extras


def test_all_means_all(project):
    extras = project["optional-dependencies"]
    (everything,) = extras["all"]
    assert Requirement(everything).extras == extras.keys() - {"all"}


def test_a_disagreement_is_found(project, environment):
    environment["dependencies"].remove("numpy>=1.26")
    environment["dependencies"] += ["scipy"]
    project["dependencies"][0] = "torch>=99"
    project["requires-python"] = ">=3.12"
    found = "\n".join(disagreements(project, environment))
    for name in ["numpy: not in env", "scipy: not in pyp", "torch: >=99 in pyp", "python: >=3.12"]:
        assert name in found
    assert len(found.splitlines()) == 4


def test_a_version_out_of_range_is_found():
    def installed(name):
        if name == "absent":
            raise metadata.PackageNotFoundError
        return "1.5"

    ranges = {r.name: r.specifier for r in map(Requirement, ["absent", "old>=2", "fine>=1"])}
    assert outside(ranges, installed) == [
        "absent: not installed",
        "old: 1.5 is installed, >=2 is wanted",
    ]


# Set-up: a CUDA build on a machine without a GPU is an accident that costs gigabytes.


@pytest.mark.parametrize(
    ("cuda", "gpu", "wrong"),
    [("12.6", False, True), ("12.6", True, False), (None, False, False), (None, True, False)],
)
def test_guard(cuda, gpu, wrong):
    problem = setup_env.torch_problem(cuda, gpu)
    assert bool(problem) == wrong
    if wrong:
        assert "CUDA 12.6" in problem and "GPU" in problem and "pip install" in problem


@pytest.mark.parametrize(("line", "cuda"), [("cuda = '12.6'", "12.6"), ("cuda = None", None)])
def test_guard_reads_the_build_that_is_installed(tmp_path, monkeypatch, line, cuda):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('not needed for this')")
    (tmp_path / "torch" / "version.py").write_text(line + "\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert setup_env.installed_cuda(sys.executable) == cuda


def fake_program(folder, name, script):
    path = folder / name
    path.write_text("#!/bin/sh\n" + script)
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("script", "gpu"),
    [("echo 'GPU 0: A card'\n", True), ("echo 'no driver'; exit 9\n", False), (None, False)],
)
def test_gpu_is_what_nvidia_smi_says(tmp_path, monkeypatch, script, gpu):
    if script:
        fake_program(tmp_path, "nvidia-smi", script)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert setup_env.has_gpu() == gpu


@pytest.mark.skipif(sys.platform != "linux", reason="PyPI's torch is a CUDA build on Linux only")
@pytest.mark.parametrize("uv", [["uv", "install"], None])
def test_which_torch(uv):
    def ways(gpu, settings):
        found = setup_env.torch_ways(uv, ["pip", "install"], settings, gpu, "torch>=2.5")
        return [" ".join(way) for way in found]

    assert ways(True, {})[-1] == "pip install torch>=2.5"
    for settings in {}, {"find-links": "wheels"}:
        cpu = ways(False, settings)
        assert "--no-index" in cpu[0] if settings else "--no-index" not in " ".join(cpu)
        # without a GPU no way leads to PyPI's own build
        assert all("--no-index" in way or "cpu" in way for way in cpu)


def test_uv_is_told_what_pip_is_told(monkeypatch):
    for name in "UV_FIND_LINKS", "UV_DEFAULT_INDEX":
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_FIND_LINKS", "wheels more-wheels")
    monkeypatch.setenv("PIP_INDEX_URL", "https://mirror.example/simple")
    settings = setup_env.pip_settings(sys.executable)
    environment = setup_env.uv_environment(settings)
    assert environment["UV_FIND_LINKS"] == "wheels,more-wheels"
    assert environment["UV_DEFAULT_INDEX"] == "https://mirror.example/simple"


def run_setup(venv, *, version=None, **environment):
    """Run the set-up script with a fake Python version or fake programs first on the PATH."""
    code = "import runpy, sys; "
    if version:
        code += f"sys.version_info = {version!r}; "
    code += f"sys.argv = ['setup', {str(venv)!r}]; "
    code += f"runpy.run_path({str(ROOT / '.ci' / 'setup_env.py')!r}, run_name='__main__')"
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )


def test_an_old_python_is_refused_with_the_reason(tmp_path):
    done = run_setup(tmp_path / "venv", version=(3, 10, 12, "final", 0))
    assert done.returncode == 1
    assert "Python 3.11 or newer is needed" in done.stderr and "is 3.10" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_a_failed_setup_leaves_no_stamp(tmp_path):
    venv = tmp_path / "venv"
    done = run_setup(venv, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path))
    assert done.returncode == 1, done.stdout
    assert (venv / ".unfinished").exists() and not (venv / ".ready").exists()
    done = run_setup(venv, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path))
    assert "interrupted: starting afresh" in done.stdout


def test_a_finished_setup_is_not_repeated(tmp_path):
    (tmp_path / ".ready").touch()
    stamp = (tmp_path / ".ready").stat().st_mtime + 60
    os.utime(tmp_path / ".ready", (stamp, stamp))

    def make(*arguments):
        command = ["make", "--dry-run", f"VENV={tmp_path}", *arguments]
        # not the flags of the make that runs these tests
        env = {k: v for k, v in os.environ.items() if k not in {"MAKEFLAGS", "MFLAGS", "MAKELEVEL"}}
        return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True).stdout

    assert "setup_env.py" not in make("test")
    assert "setup_env.py" in make("test", "--assume-new=pyproject.toml")
    assert "-m pytest" in make("test").splitlines()[-1]  # pytest's closing line ends the log
