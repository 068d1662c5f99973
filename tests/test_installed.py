"""`pip install .`: what it plants, and that it works from anywhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT


def listed() -> list[str]:
    """The files of the repository."""
    return subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The package in a folder of its own, without its dependencies."""
    target, source = tmp_path_factory.mktemp("installed"), tmp_path_factory.mktemp("source")
    for name in listed():  # a build leaves its traces where it runs
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, source / name)
    words = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--target", str(target), str(source)]
    result = subprocess.run(words, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return target


def run_installed(target, folder, *words):
    environment = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
    environment["PYTHONPATH"] = str(target)
    # -P: not the present directory, as for a user who is somewhere else.
    return subprocess.run([sys.executable, "-P", *words], capture_output=True, text=True, cwd=folder, env=environment, check=False)


@pytest.mark.slow
def test_one_package_is_planted_with_all_that_is_shipped(installed):
    names = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert names == {"world_models", "bin"}
    wanted = [name for name in listed() if name.startswith(("env/", "vae/", "rnn/", "controller/")) and "/installed/" not in name]
    assert len(wanted) > 80
    folder = installed / "world_models"
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert there - {"__init__.py", "__main__.py"} == set(wanted) - {name for name in wanted if name.endswith("/README.md")}


@pytest.mark.slow
def test_commands_and_library_work_from_anywhere(installed, tmp_path):
    result = run_installed(installed, tmp_path, "-m", "world_models", "verify", "doom", "--json", "doom.json")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "doom.json").exists() and "Full world model" in result.stdout
    code = "import world_models as w; g = w.load('carracing'); print(g.begin(1).shape, g.dream().reset(seed=1)[0].shape)"
    result = run_installed(installed, tmp_path, "-c", code)
    assert result.stdout.split("\n")[0] == "(64, 64, 3) (288,)", result.stderr
    result = run_installed(installed, tmp_path, "-m", "world_models", "carracing", "--scale", "tiny")
    assert result.returncode == 2 and "tiny" in result.stderr
