"""Threads and GPUs of a process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from conftest import ROOT, run_python

from env.run.compute import available_cores, hidden


@pytest.mark.parametrize("gpu, seen", [(False, "-1"), (True, "None")])
def test_ranks_keep_off_the_gpu_unless_they_are_given_it(gpu, seen):
    lines = ("import os", "from env.run.compute import limit_threads", f"limit_threads(False, gpu={gpu})")
    program = "; ".join((*lines, "print(os.environ.get('CUDA_VISIBLE_DEVICES'))"))
    clean = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=clean, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == seen


def test_tensorflow_starts_without_what_it_needs_for_nothing_here():
    program = (
        "import sys; from env.run.compute import limit_threads; limit_threads(); "
        "print([name for name in ('jax', 'matplotlib', 'tensorflow') if name in sys.modules]); "
        "import matplotlib.pyplot, keras; print(bool(matplotlib.pyplot.plot), keras.backend.backend())"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.split("\n")[:2] == ["['tensorflow']", "True tensorflow"] and not result.stderr


def test_a_package_is_hidden_within_the_block_alone():
    import numpy

    with pytest.raises(ZeroDivisionError), hidden("wave", "numpy"):
        assert sys.modules["numpy"] is numpy  # imported before: it stays
        with pytest.raises(ImportError):
            import wave
        1 / 0  # noqa: B018
    import wave  # noqa: F811

    assert wave.open


def test_a_container_has_no_more_cores_than_it_is_given_time(tmp_path):
    quota = tmp_path / "cpu.max"
    there = available_cores(quota)
    assert there >= 1
    for text, cores in (("100000 100000", 1), ("50000 100000", 1), (f"{100000 * (there + 5)} 100000", there), ("max 100000", there)):
        quota.write_text(text + "\n")
        assert available_cores(quota) == cores


@pytest.mark.slow
def test_a_gpu_that_is_not_there_is_refused(tmp_path):
    result = run_python("controller/train.py", "doom", "--run", tmp_path, "--device", "gpu")
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "TensorFlow finds none" in result.stderr


def test_worlds_are_not_computed_on_a_gpu(tmp_path):
    result = run_python("controller/train.py", "carracing", "--run", tmp_path, "--device", "gpu")
    assert result.returncode == 2 and "worlds run on cores" in result.stderr
