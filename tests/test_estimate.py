"""How long a run is said to take."""

from __future__ import annotations

import dataclasses
import shutil

import pytest

from controller.estimate import amounts, check_disk, describe, disk_bytes, duration, stage_seconds
from env.run.errors import UserError


def test_amounts_of_the_papers_run(task):
    work = amounts(task, task.scales["paper"])
    assert work["extract"] == work["encode"] == 10_000_000
    assert work["vae"] == 100_000_000
    assert work["rnn"] == 4000 * 100 * 1000
    assert work["controller"] == 1800 * 64 * 16 * 1000 + 72 * 1024 * 1000
    assert work["evaluate"] == 100_000


def test_a_limit_of_steps_bounds_vs_work(task):
    paper = task.scales["paper"]
    limited = dataclasses.replace(paper, vae=dataclasses.replace(paper.vae, limit_steps=50))
    assert amounts(task, limited)["vae"] == 5000


def test_ranks_share_what_is_played_as_far_as_there_are_cores(task, monkeypatch):
    monkeypatch.setattr("controller.estimate.available_cores", lambda: 4)
    rates = dict.fromkeys(amounts(task, task.scales["paper"]), 100.0)
    one, four = (stage_seconds(rates, task, task.scales["paper"], ranks) for ranks in (1, 4))
    assert stage_seconds(rates, task, task.scales["paper"], 64) == four
    assert one["controller"] == pytest.approx(4 * four["controller"])
    assert one["vae"] == four["vae"]


def test_the_estimate_names_the_smaller_scales(task):
    rates = dict.fromkeys(amounts(task, task.scales["paper"]), 1000.0) | {"startup": 5.0}
    text = describe(task, task.scales["paper"], rates, ranks=2)
    assert "--scale smoke" in text
    assert "--scale day" in text
    smoke = describe(task, task.scales["smoke"], rates, ranks=2)
    assert "--scale" not in smoke
    assert "35 s for starting" in smoke


@pytest.mark.parametrize(("seconds", "words"), [(4, "4 s"), (600, "10 min"), (3 * 3600, "3.0 h"), (5e6, "58 days")])
def test_durations(seconds, words):
    assert duration(seconds) == words


def test_a_run_that_will_not_fit_on_its_disk_is_refused_before_it_starts(task, tmp_path, monkeypatch):
    paper, run = task.scales["paper"], tmp_path / "runs" / "new"
    needed = disk_bytes(task, paper, run)
    assert 9e9 < needed < 12e9, "10,000 episodes of 1,000 frames"
    free = [needed + 1e6]
    monkeypatch.setattr("controller.estimate.shutil.disk_usage", lambda path: shutil._ntuple_diskusage(1e12, 0, free[0]))
    check_disk(task, paper, run)
    free[0] = needed - 1e6
    with pytest.raises(UserError, match=r"new will take about 10\.\d GB more, and 10\.\d GB are free there: make room"):
        check_disk(task, paper, run)
    (run / "extract" / "episodes").mkdir(parents=True)
    for number in range(5):  # are there already
        (run / "extract" / "episodes" / f"{number:06d}.npz").touch()
    check_disk(task, paper, run)
    free[0] = 1e6
    check_disk(task, paper, run, ["evaluate"])
