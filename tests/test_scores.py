"""Scores, intervals and the paper's rows."""

from __future__ import annotations

import numpy as np
import pytest

from controller.paper import ORIGINAL_CURVE, SCORES, row_for
from controller.scores import bootstrap_interval, score_table, summarise


def test_interval_covers_the_mean_at_its_rate():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        low, high = bootstrap_interval(rng.normal(5, 2, 100), resamples=400)
        hits += low <= 5 <= high
    assert 180 <= hits <= 199


def test_interval_of_known_spread():
    returns = np.random.default_rng(0).normal(900, 20, 100)
    low, high = bootstrap_interval(returns)
    half = 1.96 * returns.std() / 10
    assert low == pytest.approx(returns.mean() - half, abs=0.6)
    assert high == pytest.approx(returns.mean() + half, abs=0.6)
    assert bootstrap_interval(returns) == (low, high)


def test_summary_holds_every_return():
    scores = summarise(np.array([1.0, 3.0]), np.array([10, 20]), np.array([5, 6]))
    assert scores["returns"] == [1.0, 3.0]
    assert scores["lengths"] == [10, 20]
    assert scores["seeds"] == [5, 6]
    assert (scores["mean"], scores["std"], scores["episodes"]) == (2.0, 1.0, 2)
    assert 1 <= scores["ci95"][0] <= 2 <= scores["ci95"][1] <= 3


def test_the_papers_rows():
    full = row_for("carracing", "zh", 0)
    assert (full.mean, full.std) == (906, 21)
    assert row_for("carracing", "z", 0).mean == 632
    assert row_for("carracing", "z", 40).mean == 788
    assert ORIGINAL_CURVE["carracing"][25][3] == 822.9
    table = score_table("ours", "carracing", full, summarise(np.ones(3), np.ones(3), np.ones(3)))
    assert "**906 ± 21**" in table
    assert all(row.method in table for row in SCORES["carracing"])
