"""Scores, intervals and the paper's rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from controller.results.paper import ORIGINAL_CURVE, SCORES, row_for
from controller.results.scores import bootstrap_interval, score_table, summarise
from env.run.settings import Controller, Settings
from env.tasks import get_task


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
    full = row_for("carracing", Settings())
    assert (full.mean, full.std) == (906, 21)
    assert row_for("carracing", Settings(controller=Controller(features="z"))).mean == 632
    assert row_for("carracing", Settings(controller=Controller(features="z", hidden=40))).mean == 788
    assert ORIGINAL_CURVE["carracing"][25][3] == 822.9
    table = score_table("ours", "carracing", full, summarise(np.ones(3), np.ones(3), np.ones(3)))
    assert "**906 ± 21**" in table
    assert all(row.method in table for row in SCORES["carracing"])


def test_dooms_rows_go_by_temperature():
    paper = get_task("doom").scales["paper"]

    def at(temperature):
        return replace(paper, controller=replace(paper.controller, temperature=temperature))

    row = row_for("doom", paper)
    assert (row.mean, row.std, row.dream) == (1092, 556, (918, 546))
    assert row_for("doom", at(0.1)).mean == 193
    assert row_for("doom", None).mean == 210
    assert row_for("carracing", None) is None
    assert row_for("doom", replace(paper, memory="rssm")) is row_for("doom", replace(paper, trainer="actor_critic")) is None
    assert row_for("doom", at(0.77)).mean == 1092  # the paper has none: its best
    scores = summarise(np.ones(3), np.ones(3), np.ones(3)) | {"dream": summarise(np.full(3, 7.0), np.ones(3), np.ones(3))}
    table = score_table("ours", "doom", row, scores)
    assert "| 7.0 ± 0.0 | **1.0 ± 0.0** |" in table
    assert "| 918 ± 546 | **1092 ± 556** |" in table
    assert len({line.count("|") for line in table.splitlines()}) == 1
