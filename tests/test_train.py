"""The evolution of C: its seeds, and what it keeps."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from controller.train import Evolution, scoring_seeds, training_seeds
from env.rollout import Purpose, episode_seed
from env.run.files import load_arrays, read_jsonl
from env.run.rundir import Run


def with_controller(settings, **changes):
    return dataclasses.replace(settings, controller=dataclasses.replace(settings.controller, **changes))


def test_candidates_share_episodes_and_generations_do_not(tiny):
    settings = with_controller(tiny, population=6, sharing=2, episodes=3)
    seeds = training_seeds(settings, 4)
    assert seeds.shape == (6, 3)
    np.testing.assert_array_equal(seeds[:3], seeds[3:])
    assert len(set(seeds[:3].ravel())) == 9
    assert not set(seeds.ravel()) & set(training_seeds(settings, 5).ravel())
    alone = training_seeds(with_controller(tiny, population=6, sharing=1, episodes=3), 4)
    assert len(set(alone.ravel())) == 18
    together = training_seeds(with_controller(tiny, population=6, sharing=0, episodes=3), 4)
    assert (together == together[0]).all()


def test_all_scorings_are_on_the_same_episodes(tiny):
    """The original's np.arange(popsize): the best scoring is not the one with the easiest episodes."""
    seeds = scoring_seeds(with_controller(tiny, eval_episodes=5))
    assert seeds.shape == (1, 5) and len(set(seeds.ravel())) == 5
    for _ in range(3):
        np.testing.assert_array_equal(scoring_seeds(with_controller(tiny, eval_episodes=5)), seeds)
    assert not set(seeds.ravel()) & set(training_seeds(tiny, 0).ravel())


def test_no_two_purposes_share_a_seed():
    """Neither what recording, training, scoring, evaluation, pictures and play use, nor an episode and another of its kind."""
    assert len(Purpose) == len(Purpose.__members__)
    keys = [(Purpose.RECORDING, i) for i in range(40)] + [(Purpose.RECORDING, i, attempt) for i in range(20) for attempt in (1, 2)]
    keys += [(Purpose.TRAINING, *numbers) for numbers in itertools.product(range(4), repeat=3)]
    several = (Purpose.RECORDING, Purpose.TRAINING, Purpose.TEACHING)
    keys += [(Purpose.TEACHING, *numbers) for numbers in itertools.product(range(6), repeat=2)]
    keys += [(purpose, i) for purpose in Purpose if purpose not in several for i in range(40)]
    seeds = [episode_seed(1, *key) for key in keys]
    assert len(set(seeds)) == len(keys)
    assert not set(seeds) & {episode_seed(2, *key) for key in keys}
    for purpose, numbers in ((Purpose.RECORDING, (5, 0)), (Purpose.SCORING, (1, 0)), (Purpose.TRAINING, (1, 2)), (Purpose.PLAY, ())):
        with pytest.raises(ValueError, match="does not take"):
            episode_seed(1, purpose, *numbers)


def evolve(evolution, generations, size=7):
    """Generations of a toy fitness."""
    for _ in range(generations):
        candidates = evolution.es.ask()
        scores = -((candidates - 0.3) ** 2).sum(axis=1, keepdims=True)
        evolution.commit(evolution.tell(candidates, scores, np.ones(scores.shape, np.int64), 0.1))


def test_a_killed_evolution_goes_on_from_its_last_generation(tmp_path, tiny):
    """Though the state of CMA-ES is written seldom: the fitness of all candidates is kept, and is learned again."""
    settings = with_controller(tiny, generations=100)
    whole = Evolution(Run(tmp_path / "whole", settings), 7)
    evolve(whole, 9)
    killed = Evolution(Run(tmp_path / "killed", settings), 7)
    evolve(killed, 3)
    killed.checkpoints.save(3, killed.es.arrays())
    killed.checkpoints._took = 1e9  # from here on no state is written
    evolve(killed, 3)
    with open(tmp_path / "killed" / "controller" / "fitness.jsonl", "a") as file:
        file.write('{"generation": 7, "fitn')  # killed while it wrote
    killed.run.release()
    again = Evolution(Run(tmp_path / "killed", settings), 7)
    assert again.generation == 6
    evolve(again, 3)
    np.testing.assert_array_equal(again.es.mean, whole.es.mean)
    rows = [read_jsonl(tmp_path / name / "controller" / "log.jsonl") for name in ("whole", "killed")]
    assert rows[0] == rows[1] and len(rows[0]) == 9


def test_a_scoring_for_want_of_any_is_forgotten_when_evolution_goes_on(tmp_path, tiny):
    evolution = Evolution(Run(tmp_path, tiny), 7)
    evolution.scored(np.zeros(7), np.full((1, 3), 50.0), unplanned=True)
    evolution.run.release()
    assert Evolution(Run(tmp_path, tiny), 7).best == -np.inf
    evolution.scored(np.zeros(7), np.full((1, 3), 40.0))
    assert evolution.best == 50.0


def test_a_c_that_is_gone_is_made_again(tmp_path, tiny, capsys):
    """Though no later scoring may be better."""
    settings = with_controller(tiny, generations=100)
    evolution = Evolution(Run(tmp_path, settings), 7)
    candidates = evolution.es.ask()
    row = evolution.tell(candidates, -np.square(candidates).sum(axis=1, keepdims=True), np.ones((len(candidates), 1), np.int64), 0.1)
    evolution.commit(row | evolution.scored(np.zeros(7), np.full((1, 3), 50.0)))
    evolution.run.release()
    (tmp_path / "controller" / "best.npz").unlink()
    again = Evolution(Run(tmp_path, settings), 7)
    assert again.best == -np.inf and "best.npz is gone" in capsys.readouterr().err
    again.scored(np.zeros(7), np.full((1, 3), 40.0))
    assert (tmp_path / "controller" / "best.npz").exists()
    assert read_jsonl(tmp_path / "controller" / "log.jsonl")[0]["eval"] == 50.0, "the log still tells what was"


def test_without_a_terminal_a_line_says_how_far_it_is(tmp_path, tiny, capsys, monkeypatch):
    """Generation, mean, best and time left, at most every so many seconds."""
    settings = with_controller(tiny, generations=50)
    evolution = Evolution(Run(tmp_path, settings), 7)
    evolve(evolution, 3)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr("controller.train.TELL_EVERY", 0.0)
    evolve(evolution, 2)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("controller: generation 4 of 50, mean -") and "best mean solution" in lines[0] and lines[0].endswith("left")


@pytest.mark.parametrize("start_score, kept", [(50.0, 0), (30.0, 25)])
def test_a_c_to_begin_with_is_kept_until_a_better_one_is_found(tmp_path, tiny, start_score, kept):
    """By the same episodes; and a resumed run knows what it was worth."""
    evolution = Evolution(Run(tmp_path, with_controller(tiny, generations=100)), 7)
    begun = evolution.scored(np.full(7, 0.5), np.full((1, 3), start_score))
    candidates = evolution.es.ask()
    row = evolution.tell(candidates, np.zeros((len(candidates), 1)), np.ones((len(candidates), 1), np.int64), 0.1)
    evolution.commit(row | {"start": begun["eval"]})
    evolution.run.release()
    again = Evolution(Run(tmp_path, with_controller(tiny, generations=100)), 7)
    assert again.best == start_score
    again.generation = 25
    again.scored(np.zeros(7), np.full((1, 3), 40.0))
    assert load_arrays(tmp_path / "controller" / "best.npz")[1]["generation"] == kept
