"""The benchmarks: what they count, and that tests/README.md shows what they found."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, run_python

sys.path.insert(0, str(ROOT))

from tests.benches.commands import idle_share, makespan, peak_mb  # noqa: E402
from tests.benches.play import flops  # noqa: E402

KEYS = {
    "gemm_gflops_core",
    "world_steps_per_s_core",
    "loop_float32_steps_per_s_core",
    "loop_bfloat16_steps_per_s_core",
    "dream_float32_steps_per_s_core",
    "dream_bfloat16_steps_per_s_core",
    "vae_train_float32_frames_per_s",
    "vae_train_bfloat16_frames_per_s",
    "rnn_train_steps_per_s",
    "extract_frames_per_s_core",
    "encode_frames_per_s_core",
    "ranks_speedup_2",
    "idle_share_64_carracing",
    "idle_share_64_doom",
    "vae_train_rss_mb",
}


def test_operations_are_counted_by_hand():
    """V's encoder: 2 x (31^2 x 4x4x3x32 + 14^2 x 4x4x32x64 + 6^2 x 4x4x64x128 + 2^2 x 4x4x128x256 + 1024 x 64) = 29.5 million."""
    places = [(31, 3, 32), (14, 32, 64), (6, 64, 128), (2, 128, 256)]
    encoder = 2 * sum(side * side * 16 * inputs * outputs for side, inputs, outputs in places) + 2 * 1024 * 64
    table = flops()
    assert table["encode_frames_per_s_core"] == encoder
    assert table["dream_float32_steps_per_s_core"] == 2 * ((66 + 512) * 2048 + 512 * 961)
    assert table["vae_train_float32_frames_per_s"] == pytest.approx(3 * (encoder + 47.9e6), rel=0.01)


def test_the_peak_of_a_command_is_its_own():
    """Not that of the process which started it, which is large by TensorFlow here."""
    process = subprocess.Popen(["sleep", "5"])
    time.sleep(0.2)
    peak = peak_mb(process.pid)
    process.kill()
    process.wait()
    assert 0 < peak < 50


def test_makespan_refills_slots():
    assert makespan(np.array([5, 1, 1, 1, 1]), 2) == 5
    assert makespan(np.array([5, 1, 1, 1, 1]), 1) == 9
    assert makespan(np.array([3, 4]), 16) == 4


def test_ranks_are_idle_when_episodes_differ():
    assert idle_share(np.array([[1000]]), "carracing", 64, trials=2) == 0
    mixed = np.array([[100] * 9 + [2100]])
    assert 0 <= idle_share(mixed, "doom", 8, trials=5) < idle_share(mixed, "doom", 256, trials=5) < 1


def test_the_readme_shows_what_the_bench_found():
    figures = json.loads((ROOT / "tests" / "benches" / "bench.json").read_text())
    assert KEYS <= figures.keys()
    assert all(isinstance(value, float) and value >= 0 for value in figures.values())
    text = (ROOT / "tests" / "README.md").read_text()
    for key in KEYS - {"ranks_speedup_2", "idle_share_64_carracing", "idle_share_64_doom"}:
        assert re.search(rf"(?<![\d.,]){figures[key]:,.0f}(?![\d.,]*\d)", text), key
    assert f"{figures['ranks_speedup_2']:.2f} times" in text
    for task in ("carracing", "doom"):
        shares = " / ".join(f"{figures[f'idle_share_{ranks}_{task}']:.1%}" for ranks in (8, 64, 256))
        assert shares in text


@pytest.mark.slow
def test_a_bench_runs_and_writes_its_figures(tmp_path):
    result = run_python("tests/bench.py", "extract", "--json", tmp_path / "bench.json")
    assert result.returncode == 0, result.stderr
    figures = json.loads((tmp_path / "bench.json").read_text())
    assert figures["extract_frames_per_s_core"] > 0 and figures["gemm_gflops_core"] > 0
    assert "extract_frames_per_s_core" in result.stdout
