"""The iterative procedure: rounds, pooled recordings, and trainings that begin with another run's weights."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, run_python

from controller.estimate import amounts
from controller.extract import extract_run, recording_seeds
from controller.learning import frames_to_come
from controller.rounds import ROUNDS, figures_wanted, held_out_run, plan_rounds, rounds_table, summary_of
from controller.train import check_start, first_mean, training_seeds
from env.episodes import LATENTS, episode_path, read_episode, write_episode
from env.recordings import pooled, pooled_rows, recordings
from env.run.command import parser, resolve
from env.run.errors import UserError
from env.run.files import JsonlLog, load_arrays, read_jsonl, save_arrays, write_json
from env.run.ranks import Ranks
from env.run.rundir import Run, said_rounds
from env.run.settings import Settings
from env.run.taken import begin_with, check_starts, warn_of_another_v, warn_of_other_eyes
from env.run.weights import fingerprint, fingerprints, model_paths, save_weights
from env.tasks import get_task, system
from rnn.memory import make_memory, memory_meta
from vae.encode import known_latents

DOOM = get_task("doom")
SMOKE = DOOM.scales["smoke"]


def with_extract(settings, **values):
    return dataclasses.replace(settings, extract=dataclasses.replace(settings.extract, **values))


def in_the_world(settings):
    return dataclasses.replace(settings, controller=dataclasses.replace(settings.controller, world="real"))


def recorded(path, settings, length=5):
    """A run with its recordings, each of `length` frames; the pooled ones counted in its log, as controller/extract.py does."""
    run = Run(path, settings)
    stage = run.stage("extract")
    stage.start()
    rows = []
    for index in range(settings.extract.episodes):
        frames = np.full((length + 1, 64, 64, 3), index, np.uint8)
        arrays = {"obs": frames, "action": np.zeros((length, 1), np.float32), "reward": np.ones(length, np.float32)}
        write_episode(episode_path(stage.dir / "episodes", index), arrays | {"done": np.arange(length) == length - 1})
        rows.append({"episode": index, "score": float(length), "length": length})
    JsonlLog(stage.log, rows=rows + pooled_rows(path, settings, len(rows)))
    stage.finish({})
    run.release()
    return path


def test_each_round_begins_with_the_one_before():
    plan = plan_rounds(Path("run"), SMOKE, 3)
    assert [str(path) for path, _ in plan] == ["run", "run/rounds/2", "run/rounds/3"]
    for (before, _), (_, its) in zip(plan, plan[1:]):
        assert its.extract.policy == "controller" and its.extract.agent == its.extract.pool == str(before)
        assert its.vae.source == its.rnn.start == its.controller.start == str(before) and not its.rnn.source
        assert its.rnn.steps == SMOKE.rounds.memory_steps and its.controller.generations == SMOKE.rounds.generations
        assert its.controller.sigma == SMOKE.rounds.sigma and its.extract.episodes == SMOKE.rounds.episodes
    seeds = [training_seeds(its, 0) for _, its in plan]
    assert not np.isin(seeds[0], seeds[1]).any() and not np.isin(seeds[1], seeds[2]).any(), "C meets other episodes in each round"


def test_the_held_out_games_of_any_seed_have_one():
    for seed in (1, 2**31 - 1):
        path, its = held_out_run(plan_rounds(Path("run"), dataclasses.replace(SMOKE, seed=seed), 2))
        assert Settings.from_dict(its.to_dict()).seed == its.seed != seed and its.extract.explore == 0 and path.parent.name == ROUNDS


def test_what_is_trained_afresh_is_trained_as_in_round_one():
    first = dataclasses.replace(
        SMOKE, vae=dataclasses.replace(SMOKE.vae, source="shipped"), rnn=dataclasses.replace(SMOKE.rnn, source="shipped")
    )
    first = dataclasses.replace(first, rounds=dataclasses.replace(first.rounds, vae="afresh", memory="afresh", controller="afresh"))
    its = plan_rounds(Path("run"), first, 2)[1][1]
    assert its.vae == dataclasses.replace(first.vae, source="") and its.rnn == dataclasses.replace(first.rnn, source="")
    assert its.controller == dataclasses.replace(first.controller, es_seed=2)
    on = dataclasses.replace(first, rounds=dataclasses.replace(first.rounds, vae="on"))
    its = plan_rounds(Path("run"), on, 2)[1][1]
    assert its.vae.start == "run" and its.vae.limit_steps == first.rounds.vae_steps and not its.vae.source


def test_rounds_of_another_memory_train_that_memory():
    settings = system(SMOKE, "rssm", "cmaes")
    its = plan_rounds(Path("run"), settings, 2)[1][1]
    assert its.rssm.start == "run" and its.rssm.steps == settings.rounds.memory_steps and its.rnn == settings.rnn


def test_rounds_of_an_actor_critic_go_on_with_its_c():
    settings = system(SMOKE, "rssm", "actor_critic")
    settings = dataclasses.replace(settings, rounds=dataclasses.replace(settings.rounds, updates=7))
    settings = dataclasses.replace(settings, actor_critic=dataclasses.replace(settings.actor_critic, critic_first=5))
    plan = plan_rounds(Path("run"), settings, 3)
    assert [its.actor_critic.critic_first for _, its in plan] == [5, 0, 0], "the critic goes on, too"
    assert [its.actor_critic.updates for _, its in plan] == [settings.actor_critic.updates, 7, 7]
    assert [its.controller.start for _, its in plan] == ["", "run", "run/rounds/2"]
    assert len({its.evolution_seed for _, its in plan}) == 3, "other batches, other dreams"
    assert SMOKE.rounds.updates <= SMOKE.actor_critic.updates
    of_cmaes = plan_rounds(Path("run"), system(SMOKE, "mdnrnn", "cmaes"), 2)
    assert all(Settings.from_dict(its.to_dict()) == its for _, its in (*plan, *of_cmaes))
    afresh = dataclasses.replace(settings, rounds=dataclasses.replace(settings.rounds, controller="afresh"))
    its = plan_rounds(Path("run"), afresh, 2)[1][1]
    assert its.actor_critic == settings.actor_critic and not its.controller.start


def test_rounds_of_a_run_from_before_they_were_its_own_are_its_games(tmp_path):
    settings = system(SMOKE, "rssm", "actor_critic")
    said = settings.to_dict()
    assert Settings.from_dict(said) == settings
    del said["rounds"]
    write_json(tmp_path / "settings.json", said)
    assert not said_rounds(tmp_path) and said_rounds(tmp_path / "none")
    parsed = parser("", None).parse_args(["doom", "--run", str(tmp_path)])
    assert resolve(parsed, None)[2] == settings and settings.rounds.episodes == 4
    said = SMOKE.to_dict()
    del said["rounds"]
    with pytest.raises(UserError, match="rounds"):
        Settings.from_dict(said)


def test_rounds_that_cannot_be_are_refused():
    for count, settings, words in (
        (1, SMOKE, "give at least 2"),
        (
            2,
            in_the_world(
                dataclasses.replace(system(SMOKE, "rssm", "actor_critic"), rssm=dataclasses.replace(SMOKE.rssm, observations="pixels"))
            ),
            "take latents",
        ),
        (2, in_the_world(system(SMOKE, "rssm", "actor_critic")), "plays and learns in rounds by itself"),
        (
            2,
            dataclasses.replace(system(SMOKE, "rssm", "cmaes"), rssm=dataclasses.replace(SMOKE.rssm, observations="pixels")),
            "take latents",
        ),
    ):
        with pytest.raises(UserError, match=words):
            plan_rounds(Path("run"), settings, count)


def test_pooled_episodes_follow_a_runs_own(tmp_path):
    first = recorded(tmp_path / "first", with_extract(SMOKE, episodes=3))
    second = recorded(tmp_path / "second", with_extract(SMOKE, episodes=2, pool=str(first)), length=7)
    settings = with_extract(SMOKE, episodes=4, pool=str(second))
    third = recorded(tmp_path / "third", settings, length=9)
    paths = recordings(third, settings)
    assert [path.parents[2].name for path in paths] == ["third"] * 4 + ["second"] * 2 + ["first"] * 3
    rows = read_jsonl(third / "extract" / "log.jsonl")
    assert [row["episode"] for row in rows] == list(range(9))
    assert [row["length"] for row in rows] == [len(read_episode(path)["done"]) for path in paths]
    assert [row.get("pooled", False) for row in rows] == [False] * 4 + [True] * 5
    runs = [(first, with_extract(SMOKE, episodes=3)), (second, with_extract(SMOKE, episodes=2, pool=str(first))), (third, settings)]
    seeds = [recording_seeds(path, its)(index) for path, its in runs for index in range(its.extract.episodes)]
    assert len(set(seeds)) == 9, "other games in each round"
    run = Run(third, dataclasses.replace(settings, controller=dataclasses.replace(settings.controller, world="dream")), lock=False)
    assert frames_to_come(run) == 4 * (settings.world.max_steps + 1) + 2 * 8 + 3 * 6, "an actor-critic learns from all of them"


def test_a_pool_of_a_pool_is_found_from_another_folder(tmp_path, monkeypatch):
    """Whose settings name it as it was given where that run was made."""
    there, here = tmp_path / "there", tmp_path / "here"
    for folder in (there, here):
        folder.mkdir()
    monkeypatch.chdir(there)
    recorded(Path("runs/first"), with_extract(SMOKE, episodes=3))
    recorded(Path("runs/second"), with_extract(SMOKE, episodes=2, pool="runs/first"))
    monkeypatch.chdir(here)
    settings = with_extract(SMOKE, episodes=1, pool=str(there / "runs" / "second"))
    paths = recordings(recorded(Path("third"), settings), settings)
    assert [path.parents[2].name for path in paths] == ["third", "second", "second", "first", "first", "first"]
    assert all(path.exists() for path in paths)
    # All that asks for the pool finds it from here: what is recorded, how much there is to learn from, what it takes.
    run, its = there / "runs" / "second", with_extract(SMOKE, episodes=2, pool="runs/first")
    assert [row["episode"] for row in pooled_rows(run, its, 2)] == [2, 3, 4]
    assert recording_seeds(run, its)(0) == recording_seeds(there, with_extract(its, pool=str(there / "runs" / "first")))(0)
    assert amounts(DOOM, its, run)["encode"] == amounts(DOOM, its, run)["extract"] + 3 * 5


def test_mirrored_recordings_are_the_pools_left_for_right(tmp_path):
    pool = recorded(tmp_path / "pool", with_extract(SMOKE, episodes=3))
    rng, health = np.random.default_rng(0), np.linspace(1, 0, 6, dtype=np.float32)
    for index in range(3):
        path = episode_path(pool / "extract" / "episodes", index)
        frames, action = rng.integers(0, 256, (6, 64, 64, 3), np.uint8), rng.uniform(-1, 1, (5, 1)).astype(np.float32)
        told = {"health": health, "privileged": np.ones((6, 36), np.uint8)}
        write_episode(path, read_episode(path) | {"obs": frames, "action": action} | told)
    settings = with_extract(SMOKE, episodes=2, policy="mirrored", pool=str(pool))
    run = tmp_path / "run"
    extract_run(Ranks(), DOOM, run, settings)
    assert len(recordings(run, settings)) == len(read_jsonl(run / "extract" / "log.jsonl")) == 2 + 3
    ours, theirs = read_episode(recordings(run, settings)[0]), read_episode(episode_path(pool / "extract" / "episodes", 0))
    np.testing.assert_array_equal(ours["obs"][:, :, 0], theirs["obs"][:, :, 63])
    np.testing.assert_array_equal(ours["obs"][:, 0], theirs["obs"][:, 0, ::-1])
    np.testing.assert_array_equal(ours["action"], -theirs["action"])
    for name in ("reward", "done", "health"):
        np.testing.assert_array_equal(ours[name], theirs[name])
    assert "privileged" in theirs and "privileged" not in ours  # what is told of it is left for right only here and there


def test_what_cannot_be_mirrored_is_refused(tmp_path):
    pool = recorded(tmp_path / "pool", with_extract(SMOKE, episodes=3))
    many = with_extract(SMOKE, episodes=4, policy="mirrored", pool=str(pool))
    with pytest.raises(UserError, match="extract.episodes is 4, but extract.pool has 3 to mirror"):
        extract_run(Ranks(), DOOM, tmp_path / "run", many)
    with pytest.raises(UserError, match="not known to be the same game left for right"):
        extract_run(Ranks(), dataclasses.replace(DOOM, mirror=()), tmp_path / "run", with_extract(many, episodes=2))
    with pytest.raises(UserError, match="give --extract-pool"):
        with_extract(many, pool="").check()


def test_a_pool_that_does_not_fit_is_refused(tmp_path):
    first = recorded(tmp_path / "first", with_extract(SMOKE, episodes=2))
    own = tmp_path / "own"
    car = get_task("carracing").scales["smoke"]
    frames = dataclasses.replace(SMOKE, world=dataclasses.replace(SMOKE.world, frames="original"))
    for settings, words in (
        (with_extract(SMOKE, pool=str(tmp_path / "none")), "no run of doom"),
        (with_extract(car, pool=str(first)), "no run of carracing"),
        (with_extract(frames, pool=str(first)), "world.frames plain, this run has original"),
        (with_extract(SMOKE, pool=str(first), past_done=True), "extract.past_done False, this run has True"),
        (with_extract(SMOKE, pool=str(own)), "leads back to itself"),
    ):
        with pytest.raises(UserError, match=words):
            pooled(own, settings)
    (first / "extract" / "stage.json").unlink()
    with pytest.raises(UserError, match="not finished"):
        pooled(own, with_extract(SMOKE, pool=str(first)))


def test_a_run_whose_pool_changed_is_refused(tmp_path):
    first = recorded(tmp_path / "first", with_extract(SMOKE, episodes=2))
    settings = with_extract(SMOKE, episodes=2, pool=str(first))
    second = recorded(tmp_path / "second", settings)
    assert Run(second, settings, lock=False).stage("extract").is_finished()
    recorded(first, with_extract(SMOKE, episodes=3))
    with pytest.raises(UserError, match="another pool"):
        Run(second, settings, lock=False).stage("extract").is_finished()


def test_latents_of_the_same_v_are_taken_over_and_of_another_are_not(tmp_path):
    first = recorded(tmp_path / "first", with_extract(SMOKE, episodes=3))
    settings = with_extract(SMOKE, episodes=2, pool=str(first))
    second = recorded(tmp_path / "second", settings)
    for index in range(3):
        arrays = {"mu": np.full((6, 64), index, np.float16), "logvar": np.zeros((6, 64), np.float16)}
        arrays |= {"action": np.zeros((5, 1), np.float32), "reward": np.ones(5, np.float32), "done": np.arange(5) == 4}
        write_episode(episode_path(first / "encode" / "latents", index), arrays)

    def with_v(path, its, content):
        stage = Run(path, its, lock=False).stage("vae")
        stage.start()
        (path / "vae" / "weights.npz").write_bytes(content)
        stage.finish({})

    with_v(first, with_extract(SMOKE, episodes=3), b"one")
    with_v(second, settings, b"one")
    run = Run(second, settings, lock=False)
    assert known_latents(run, 0) is None and known_latents(run, 1) is None, "its own"
    assert [known_latents(run, number)["mu"][0, 0] for number in (2, 3, 4)] == [0, 1, 2]
    with_v(second, settings, b"other")
    assert known_latents(run, 3) is None


def test_m_begins_with_the_weights_of_another_run(tmp_path):
    vae = tmp_path / "other" / "vae"
    memory = make_memory(DOOM, SMOKE, "float32")
    save_weights(tmp_path / "other" / "rnn" / "weights.npz", memory, memory_meta(DOOM, SMOKE))
    save_arrays(vae / "weights.npz", {}, {})
    fresh = make_memory(DOOM, SMOKE, "float32")
    assert any(not np.array_equal(a, b) for a, b in zip(fresh.get_weights(), memory.get_weights()))
    begin_with("rnn", str(tmp_path / "other"), "doom", memory_meta(DOOM, SMOKE), fresh)
    for a, b in zip(fresh.get_weights(), memory.get_weights()):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(UserError, match="take another rnn.start"):
        begin_with("rnn", str(tmp_path / "other"), "doom", memory_meta(DOOM, SMOKE) | {"units": 7}, fresh)


def test_c_begins_with_the_c_of_another_run(tmp_path):
    assert first_mean(SMOKE, 1088) is None
    params = np.arange(1088, dtype=np.float32)
    save_arrays(tmp_path / "other" / "controller" / "best.npz", {"params": params}, {})
    settings = dataclasses.replace(SMOKE, controller=dataclasses.replace(SMOKE.controller, start=str(tmp_path / "other")))
    np.testing.assert_array_equal(first_mean(settings, 1088), params)
    shutil.copy(tmp_path / "other" / "controller" / "best.npz", tmp_path / "some.npz")
    of_file = dataclasses.replace(SMOKE, controller=dataclasses.replace(SMOKE.controller, start=str(tmp_path / "some.npz")))
    np.testing.assert_array_equal(first_mean(of_file, 1088), params)
    with pytest.raises(UserError, match="has 1088 parameters, this run's has 577"):
        first_mean(settings, 577)
    for meta in ({"features": "z"}, {"hidden": 9}, {"task": "carracing"}, {"repeat": 4}):
        save_arrays(tmp_path / "strange" / "best.npz", {"params": params}, meta)
        strange = dataclasses.replace(SMOKE, controller=dataclasses.replace(SMOKE.controller, start=str(tmp_path / "strange")))
        with pytest.raises(UserError, match=f"{tmp_path}/strange/best.npz has {next(iter(meta))} .* take one that fits"):
            check_start(strange)
    check_start(dataclasses.replace(SMOKE, controller=dataclasses.replace(SMOKE.controller, start="shipped")))
    save_arrays(tmp_path / "critic.npz", {"bias": params}, {})
    no_c = dataclasses.replace(SMOKE, controller=dataclasses.replace(SMOKE.controller, start=str(tmp_path / "critic.npz")))
    for refuse in (check_start, lambda its: first_mean(its, 1088)):
        with pytest.raises(UserError, match="critic.npz holds no C: give a run, or its controller/best.npz"):
            refuse(no_c)
    assert not system(settings, "mdnrnn", "actor_critic").controller.start, "a game's own start is of its own trainer"
    stage = Run(tmp_path / "run", settings, lock=False).stage("controller")
    assert stage.inputs()["start"] == fingerprint(tmp_path / "other" / "controller" / "best.npz")


def test_a_c_that_saw_another_v_or_m_is_told_of(tmp_path, capsys):
    def models(path, vae, rnn):
        for floor, number in (("vae", vae), ("rnn", rnn)):
            save_arrays(tmp_path / path / floor / "weights.npz", {"number": np.array(number)}, {})

    def said(path, **starts):
        sections = {name: dataclasses.replace(getattr(SMOKE, name), start=str(tmp_path / start)) for name, start in starts.items()}
        warn_of_other_eyes(Run(tmp_path / path, dataclasses.replace(SMOKE, **sections), lock=False))
        return capsys.readouterr().err

    for path, vae, rnn in (("its", 1, 1), ("same", 1, 1), ("on", 1, 2), ("other", 2, 3)):
        models(path, vae, rnn)
    assert said("other") == said("same", controller="its") == said("on", controller="its", rnn="its") == ""
    assert said("on", controller="its").count("another M than") == 1
    both = said("other", controller="its")
    assert "its/controller/best.npz saw another V than this run's" in both and both.count("\n") == 2
    for path in ("its/controller/mean.npz", "elsewhere/mean.npz"):
        save_arrays(tmp_path / path, {"params": np.zeros(3)}, {})
    assert said("same", controller="its/controller/mean.npz") == said("other", controller="elsewhere/mean.npz") == ""
    assert said("other", controller="its/controller/mean.npz").count("its/controller/mean.npz saw another") == 2
    shipped = dataclasses.replace(SMOKE, controller=dataclasses.replace(SMOKE.controller, start="shipped"))
    warn_of_other_eyes(Run(tmp_path / "none", shipped, lock=False))
    assert capsys.readouterr().err == "", "a run without V and M has those that come along, as the C that does"


def test_an_m_that_learned_on_another_v_is_told_of(tmp_path, capsys):
    def said(path, **starts):
        sections = {name: dataclasses.replace(getattr(SMOKE, name), start=str(tmp_path / start)) for name, start in starts.items()}
        warn_of_another_v(Run(tmp_path / path, dataclasses.replace(SMOKE, **sections), lock=False))
        return capsys.readouterr().err

    for path, number in (("its", 1), ("same", 1), ("other", 2)):
        for floor in ("vae", "rnn"):
            save_arrays(tmp_path / path / floor / "weights.npz", {"number": np.array(number)}, {})
    assert said("same", rnn="its") == said("other", rnn="its", vae="its") == said("none", rnn="its") == said("other", rnn="gone") == ""
    assert "its/rnn/weights.npz learned on another V than this run's" in said("other", rnn="its")


def test_what_training_is_to_begin_with_is_there_before_it_is_needed(tmp_path):
    for name in ("vae", "rnn", "controller"):
        settings = dataclasses.replace(SMOKE, **{name: dataclasses.replace(getattr(SMOKE, name), start=str(tmp_path / "none"))})
        with pytest.raises(UserError, match=rf"^{name}.start: .*none/{name}/\w+.npz is missing"):
            check_starts(settings, ("extract", "vae", "encode", "rnn", "controller"))
        check_starts(settings, ("evaluate",))
        check_starts(dataclasses.replace(settings, **{name: dataclasses.replace(getattr(SMOKE, name), start="shipped")}), (name,))


def test_weights_are_taken_or_trained_on_from_not_both():
    for name in ("vae", "rnn"):
        with pytest.raises(UserError, match=f"{name}.source takes weights as they are"):
            both = dataclasses.replace(getattr(SMOKE, name), source="shipped", start="shipped")
            dataclasses.replace(SMOKE, **{name: both}).check()


def test_the_table_shows_what_there_is(tmp_path):
    path = recorded(tmp_path / "run", with_extract(SMOKE, episodes=3))
    [row] = rounds_table([summary_of(1, path, "held-out-2")]).rows
    assert row[:6] == ["1", "3", "5", "15", "", "not run"]
    nothing = {"mean": 0.0, "std": 0.0, "ci95": [0.0, 0.0], "episodes": 3}
    [row] = rounds_table([summary_of(1, path, "held-out-2") | {"game": nothing, "dream": nothing}]).rows
    assert row[7] == "", "no share of nothing"


def test_figures_are_asked_for_again_of_another_m_or_of_other_recordings(tmp_path):
    its = with_extract(SMOKE, episodes=2)
    plan = [(recorded(tmp_path / "run", its), its), (recorded(tmp_path / "run" / ROUNDS / "2", its), its)]
    held_out = recorded(tmp_path / "held-out-2", its)
    for path, _ in plan:
        for floor in ("vae", "rnn"):
            save_arrays(path / floor / "weights.npz", {}, {})
    wanted = figures_wanted(DOOM, plan, held_out)
    assert [(run, on) for run, on, _ in wanted] == [(plan[0][0], plan[1][0]), (plan[0][0], held_out), (plan[1][0], held_out)]
    for run, on, target in wanted:
        figures = {"fingerprints": fingerprints(model_paths("doom", run)), "recordings": fingerprint(on / "extract" / "log.jsonl")}
        write_json(target, figures | {"episodes": min(its.rounds.held_out, 2) if on == plan[1][0] else its.rounds.held_out})
    assert not figures_wanted(DOOM, plan, held_out)
    more = dataclasses.replace(its, rounds=dataclasses.replace(its.rounds, held_out=1))
    assert len(figures_wanted(DOOM, [(plan[0][0], more), plan[1]], held_out)) == 3, "of another number of episodes"
    recorded(plan[1][0], its, length=6)
    assert [on for _, on, _ in figures_wanted(DOOM, plan, held_out)] == [plan[1][0]]
    save_arrays(plan[1][0] / "rnn" / "weights.npz", {"a": np.zeros(1)}, {})
    assert [on for _, on, _ in figures_wanted(DOOM, plan, held_out)] == [plan[1][0], held_out]


FLAGS = (
    "--scale",
    "smoke",
    "--max-steps",
    "120",
    "--extract-episodes",
    "5",
    "--rnn-window",
    "20",
    "--rnn-steps",
    "6",
    "--rounds-memory-steps",
    "4",
)
FLAGS += ("--controller-dream-steps", "60", "--evaluate-episodes", "2", "--rounds-held-out", "4", "--rounds-explore", "0.5")


def test_the_rounds_of_the_pendulum_are_told_as_they_were():
    """The README's table is of the returns that are kept; up to the seventh, each round was better than the one before."""
    folder, text = ROOT / "tests" / "games" / "pendulum", (ROOT / "controller" / "README.md").read_text()
    means = []
    for row in json.loads((folder / "rounds.json").read_text()):
        scores = json.loads((folder / f"round-{row['round']}-scores.json").read_text())
        assert len(scores["returns"]) == 100 and scores["render"] == "official"
        assert row["game"]["mean"] == scores["mean"] == pytest.approx(np.mean(scores["returns"]))
        assert f"| {scores['mean']:.1f} ± {scores['std']:.1f} " in text
        means.append(scores["mean"])
    assert len(means) == 8 and means[:7] == sorted(means[:7]) and means[7] > means[0]


@pytest.mark.slow
def test_two_rounds_in_doom(tmp_path):
    """From random play to the table; the second round starts where the first ended, and a finished one is not made again."""
    run = tmp_path / "run"
    words = ("controller/pipeline.py", "doom", "--run", run, *FLAGS, "--ranks", "2", "--no-estimate", "--rounds", "2")
    result = run_python(*words)
    assert result.returncode == 0, result.stdout + result.stderr
    second = run / ROUNDS / "2"
    assert f"begins with {run / 'rnn' / 'weights.npz'}" in result.stdout
    assert len(list((second / "extract" / "episodes").glob("*.npz"))) == 4
    latents = sorted((second / "encode" / "latents").glob("*.npz"))
    assert len(latents) == 9
    same, again = (read_episode(path, LATENTS) for path in (run / "encode" / "latents" / "000001.npz", latents[5]))
    np.testing.assert_array_equal(same["mu"], again["mu"])
    rounds = json.loads((run / ROUNDS / "rounds.json").read_text())
    assert [row["round"] for row in rounds] == [1, 2] and all(row["game"]["episodes"] == 2 for row in rounds)
    assert rounds[0]["surprise"]["loss"] > 0 and rounds[1]["surprise"] is None
    assert all(row["skilled"]["steps"] == rounds[0]["skilled"]["steps"] for row in rounds), "on the same held-out play"
    assert (run / ROUNDS / "rounds.png").stat().st_size > 1000 and "| 2     |" in (run / ROUNDS / "rounds.md").read_text()
    made = {path: path.stat().st_mtime_ns for path in second.rglob("*.npz")}
    best, note = load_arrays(second / "controller" / "best.npz")
    best, rows = best["params"], read_jsonl(second / "controller" / "log.jsonl")
    assert note["score"] == max(rows[0]["start"], *(row["eval"] for row in rows if "eval" in row)), "the C of round 1 was scored, too"
    shutil.rmtree(second / "controller")
    shutil.rmtree(second / "evaluate")
    result = run_python(*words)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"round 1 of 2: {run} is finished" in result.stdout
    np.testing.assert_array_equal(load_arrays(second / "controller" / "best.npz")[0]["params"], best)
    kept = {path: path.stat().st_mtime_ns for path in second.rglob("*.npz") if "controller" not in path.parts[-3:]}
    assert all(made[path] == when for path, when in kept.items())
