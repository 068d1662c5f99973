"""Several C's on the V and M of one run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from controller.results.paper import SCORES
from controller.results.studies import link_stages, parse_numbers, plan_studies, study_name
from controller.results.tables import belongs
from controller.train import scoring_seeds, training_seeds
from env.run.errors import UserError
from env.run.stages import Stage
from env.tasks import TASKS, get_task


@pytest.mark.parametrize("task", TASKS)
def test_the_papers_table_is_planned_row_by_row(task):
    settings = get_task(task).scales["paper"]
    plan = plan_studies(Path("run"), settings, table=True)
    wanted = [row for row in SCORES[task] if row.features]
    assert len(plan) == len(wanted)
    for row, (_, its) in zip(wanted, plan):
        assert belongs(its.controller, row)
        assert dataclasses.replace(its, controller=settings.controller) == settings, "V and M are the same for all"
    assert len({folder for folder, _ in plan}) == len(plan)


def test_names_of_studies():
    carracing, doom = (get_task(task).scales["paper"] for task in ("carracing", "doom"))
    names = [folder.name for folder, _ in plan_studies(Path("run"), carracing, table=True)]
    assert names == ["z", "z-hidden-40", "zh"]
    names = [folder.name for folder, _ in plan_studies(Path("run"), doom, temperatures="0.5,1.15", es_seeds="1,7")]
    assert names == ["tau-0.5-seed-1", "tau-0.5-seed-7", "tau-1.15-seed-1", "tau-1.15-seed-7"]
    assert study_name(doom.controller) == "tau-1.15"
    dates = plan_studies(Path("run"), carracing, es_seeds="20240101,20240102")
    assert [folder.name for folder, _ in dates] == ["zh-seed-20240101", "zh-seed-20240102"]


def test_another_seed_of_cma_es_is_another_evolution_scored_alike():
    settings = get_task("carracing").scales["smoke"]
    other = dataclasses.replace(settings, controller=dataclasses.replace(settings.controller, es_seed=5))
    assert not np.isin(training_seeds(settings, 0), training_seeds(other, 0)).any()
    np.testing.assert_array_equal(scoring_seeds(settings), scoring_seeds(other))
    assert settings.evolution_seed == settings.seed
    same_number = dataclasses.replace(settings, controller=dataclasses.replace(settings.controller, es_seed=settings.seed))
    assert len({settings.evolution_seed, other.evolution_seed, same_number.evolution_seed}) == 3


def test_tables_of_temperatures_need_dreams():
    doom = get_task("doom").scales["paper"]
    real = dataclasses.replace(doom, controller=dataclasses.replace(doom.controller, world="real"))
    with pytest.raises(UserError, match="evolved in the real world"):
        plan_studies(Path("run"), real, table=True)


def test_a_c_that_is_not_scored_yet_is_taken_over_all_the_same(tmp_path):
    settings = get_task("carracing").scales["smoke"]
    stage = Stage(tmp_path, "controller", settings)
    stage.start()
    stage.finish({})
    link_stages(tmp_path, settings, tmp_path / "studies" / "zh", settings)
    assert (tmp_path / "studies" / "zh" / "controller" / "stage.json").exists()
    assert not (tmp_path / "studies" / "zh" / "evaluate").is_symlink()


def test_lists_of_numbers():
    assert parse_numbers("0.1,1.15,2", "--t", float, "1") == (0.1, 1.15, 2.0)
    assert parse_numbers("3,1", "--t", int, "1") == (3, 1)
    for words in ("", "a", "1,,2", "0", "-1", "1,1.0", "1,1.0000001", "inf", "nan"):
        with pytest.raises(UserError, match="--t is .*: give different positive numbers"):
            parse_numbers(words, "--t", float, "1")
    with pytest.raises(UserError, match="give different positive numbers"):
        parse_numbers("1.5", "--t", int, "1")
