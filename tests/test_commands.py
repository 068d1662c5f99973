"""Commands as a user calls them: bad input, and what they do not do."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, run_python

from env.run.files import save_arrays
from env.run.rundir import Run
from env.run.weights import save_weights
from env.tasks import get_task
from vae.vae import ConvVAE

COMMANDS = [
    "controller/pipeline.py",
    "controller/extract.py",
    "vae/train.py",
    "vae/encode.py",
    "rnn/train.py",
    "controller/train.py",
    "controller/learn.py",
    "controller/evaluate.py",
    "controller/report.py",
    "controller/estimate.py",
    "controller/ship.py",
    "controller/play.py",
    "controller/web.py",
]


def assert_refused(result: subprocess.CompletedProcess[str], *parts: str) -> None:
    """The command said in one line what is wrong, and left with 2."""
    assert result.returncode == 2, result.stderr
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_opens_with_lines_to_paste_and_starts_no_tensorflow(command):
    code = (
        f"import sys, runpy; sys.argv = [{command!r}, '--help']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert 'tensorflow' not in sys.modules and 'gymnasium' not in sys.modules, 'slow imports'"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr
    assert f"python {command} " in result.stdout
    doc, _, options = result.stdout.partition("\noptions:")
    examples = re.findall(rf"^ +(?:mpirun [^\n]*)?python {command}.*$", doc, re.M)
    assert examples
    for example in examples:
        assert set(re.findall(r"--[\w-]+", example.partition(command)[2])) <= set(re.findall(r"--[\w-]+", options)), example


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_unknown_task_and_flag(command, tmp_path):
    assert_refused(run_python(command, "mario"), "unknown task 'mario'", "carracing")
    assert_refused(run_python(command, "carracing", "--sede", "1"), "unknown flag '--sede'", "--seed")


def test_numbers_out_of_bounds(tmp_path):
    assert_refused(run_python("controller/evaluate.py", "carracing", "--episodes", "0"), "evaluate.episodes is 0", "at least 1")
    assert_refused(run_python("controller/extract.py", "carracing", "--episodes", "ten", "--run", tmp_path), "invalid int value")
    assert_refused(run_python("controller/pipeline.py", "carracing", "--seed", "-1", "--run", tmp_path / "new"), "run.seed is -1")
    assert not (tmp_path / "new").exists()


def test_a_json_file_that_cannot_be_written_is_refused_before_playing(tmp_path):
    assert_refused(run_python("controller/evaluate.py", "carracing", "--json", tmp_path), "cannot be written")
    assert_refused(run_python("controller/evaluate.py", "carracing", "--json", tmp_path / "no" / "x.json"), "cannot be written")
    for command, words in (
        ("controller/verify.py", ("carracing",)),
        ("rnn/evaluate.py", ("carracing", "--recordings", tmp_path)),
        ("controller/tools/handover.py", ("doom", "--recordings", tmp_path)),
    ):
        assert_refused(run_python(command, *words, "--json", tmp_path), "cannot be written")


def test_flags_that_would_do_nothing_or_harm_are_refused(tmp_path):
    command = "controller/evaluate.py"
    assert_refused(run_python(command, "doom", "--policy", "uniform", "--dream-episodes", "4"), "--dream-episodes", "leave it out")
    assert_refused(run_python(command, "carracing", "--temperature", "1"), "--temperature", "there are none here")
    assert_refused(run_python(command, "doom", "--dream-episodes", "1", "--temperature", "nan"), "--temperature is nan", "above 0")
    assert_refused(run_python(command, "doom", "--dream-episodes", "1", "--temperature", "0"), "--temperature is 0", "above 0")
    result = run_python("controller/pipeline.py", "doom", "--run", tmp_path / "new", "--rounds-episodes", "3")
    assert_refused(result, "--rounds-episodes", "such as --rounds 2")
    result = run_python("controller/extract.py", "doom", "--run", tmp_path / "new", "--explore", "0.5")
    assert_refused(result, "extract.explore", "extract.policy controller")
    result = run_python("controller/extract.py", "carracing", "--run", tmp_path / "new", "--memory", "rssm", "--past-done", "yes")
    assert_refused(result, "extract.past_done", "teaches M a wrong end")
    assert not (tmp_path / "new").exists()
    words = ("--memory", "rssm", "--trainer", "actor_critic", "--shipped")
    assert_refused(run_python(command, "doom", *words, "--run", tmp_path), "give one of them")


def test_under_mpirun_the_line_comes_once():
    result = run_python("controller/evaluate.py", "carracing", "--episodes", "0", ranks=3)
    assert result.returncode == 2
    assert sum("error:" in line for line in result.stderr.splitlines()) == 1
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_missing_runs_and_stages(tmp_path):
    gone = tmp_path / "gone"
    assert_refused(run_python("controller/evaluate.py", "carracing", "--run", gone), "run directory", "is missing")
    for command in ("vae/train.py", "vae/encode.py", "rnn/train.py", "controller/report.py"):
        assert_refused(run_python(command, "carracing", "--run", gone), "run directory", "is missing")
    assert not gone.exists(), "a mistyped --run must not be made"
    gone.mkdir()
    assert_refused(run_python("vae/train.py", "carracing", "--run", gone), "controller/extract.py", "first")
    assert_refused(run_python("vae/encode.py", "carracing", "--run", gone), "vae/train.py", "first")
    assert_refused(run_python("rnn/train.py", "carracing", "--run", gone), "vae/encode.py", "first")
    assert_refused(run_python("controller/report.py", "carracing", "--run", gone), "not finished")
    save_arrays(gone / "vae" / "weights.npz", {})
    assert_refused(run_python("controller/train.py", "carracing", "--run", gone), "rnn/train.py", "first")


@pytest.mark.slow
def test_weights_that_do_not_fit(tmp_path):
    run, task = tmp_path / "run", get_task("carracing")
    opened = Run(run, task.scales["smoke"])
    opened.release()
    save_weights(run / "vae" / "weights.npz", ConvVAE(16), {"z_size": 16})
    save_arrays(run / "rnn" / "weights.npz", {}, {"z_size": 16})
    assert_refused(run_python("controller/train.py", "carracing", "--run", run), "z_size 16", "vae.z_size 32")
    (tmp_path / "c.npz").write_bytes(pickle.dumps({"params": np.zeros(867)}))
    assert_refused(run_python("controller/evaluate.py", "carracing", "--run", run, "--weights", tmp_path / "c.npz"), "is a pickle")
    assert_refused(run_python("controller/evaluate.py", "carracing", "--weights", tmp_path / "no.npz"), "no.npz is missing")
    assert_refused(run_python("controller/evaluate.py", "carracing", "--original", tmp_path), "best.json")


@pytest.mark.parametrize(
    "stamp, gpu, installs, code, said",
    [
        ("tensorflow", True, False, 0, "warning: CUDA's libraries could not be installed"),  # from a login node, and now without internet
        ("tensorflow", True, True, 0, "installing"),
        ("tensorflow[and-cuda]", False, False, 0, ""),  # from a node with a GPU: more than is wanted
        ("tensorflow[and-cuda]\npytest", False, False, 0, ""),
        ("older", True, False, 2, "error: installing failed"),
        ("", False, False, 2, "error: installing failed"),
    ],
)
@pytest.mark.skipif(Path("/proc/driver/nvidia/version").exists(), reason="this machine has a GPU for good")
def test_one_installation_serves_nodes_with_and_without_a_gpu(tmp_path, stamp, gpu, installs, code, said):
    shutil.copyfile(ROOT / "run.sh", tmp_path / "run.sh")
    (tmp_path / "requirements.txt").write_text("tensorflow[and-cuda]\n")
    bin = tmp_path / ".venv" / "bin"
    bin.mkdir(parents=True)
    (bin / "python").write_text(f"#!/bin/sh\ncase \"$*\" in *--version) exit 0;; esac\nexit {0 if installs else 1}\n")
    (bin / "nvidia-smi").write_text(f"#!/bin/sh\nexit {0 if gpu else 1}\n")
    for name in ("python", "nvidia-smi"):
        (bin / name).chmod(0o755)
    kept = tmp_path / ".venv" / "requirements.installed"
    if stamp:
        kept.write_text(stamp + "\n")
    environment = os.environ | {"PATH": f"{bin}:{os.environ['PATH']}"}
    result = subprocess.run(["bash", "run.sh", "setup"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == code, result.stderr
    assert said in result.stdout + result.stderr and (said or "installing" not in result.stdout)
    if code == 0:
        assert kept.read_text().strip() == ("tensorflow[and-cuda]" if installs else stamp)


def test_run_sh_usage_from_any_directory(tmp_path):
    for words in ([], ["mario"], ["setup", "twice"]):
        result = subprocess.run(["bash", str(ROOT / "run.sh"), *words], capture_output=True, text=True, cwd=tmp_path, check=False)
        assert result.returncode == 2
        assert "usage: bash run.sh carracing|doom" in result.stderr
