"""Teachers, who see what no player is told, and the C that learns from one by imitation."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import env.worlds.carracing as carracing
from controller.agent import load_agent, load_teacher, save_controller
from controller.imitate import LEAST, Fit, Imitation, Shown, importance
from controller.simulate import real_simulator
from controller.told import Teacher, numbers, told_features
from env.actions import Continuous, Discrete
from env.episodes import PRIVILEGED, episode_path, unpacked, write_episode
from env.random_policy import Exploring
from env.rollout import Job, WorldLanes, Worlds, rollout
from env.run.errors import UserError
from env.run.files import load_arrays, read_jsonl
from env.run.ranks import Ranks
from env.run.settings import load_settings
from env.tasks import get_task
from tests.conftest import run_python


def of_teacher(settings, **changes):
    c = dataclasses.replace(settings.controller, features="privileged", **changes)
    return dataclasses.replace(settings, controller=c)


def test_numbers_of_marks():
    bits = np.array([[1, 1, 1, 0, 0, 0, 0, 0, 0], [1, 1, 0, 1, 1, 1, 1, 0, 0]], np.uint8)
    np.testing.assert_allclose(numbers(bits, 3), [[1, -1, -1], [1 / 3, 1, -1 / 3]], atol=1e-6)
    np.testing.assert_allclose(told_features(bits, 3)[1], [1 / 3, 1, -1 / 3, 1 / 3, 1, 1 / 3], atol=1e-6)
    np.testing.assert_array_equal(numbers(bits, 1), 2.0 * bits - 1)


def played(task, settings, slots, jobs, **options):
    teacher = Teacher(task, of_teacher(settings, slots=slots, **options))
    teacher.set_candidates(np.random.default_rng(4).standard_normal((2, teacher.policy.size)))
    lanes = WorldLanes(Worlds.of(task, settings.world), teacher)
    return {result.job.index: (result.score, result.length) for result in rollout(lanes, jobs)}


def test_a_teacher_plays_the_same_in_any_slot_and_nothing_is_drawn(task, tiny, monkeypatch):
    monkeypatch.setattr(carracing.CarRacing, "look", lambda _: pytest.fail("nobody sees it"))
    jobs = [Job(i, i % 2, 10 + i // 2) for i in range(4)]
    one, three = (played(task, tiny, slots, jobs, privileged_noise=0.5) for slots in (1, 3))
    assert one == three and len({score for score, _ in one.values()}) > 1
    assert one != played(task, tiny, 1, jobs)  # without noise it does something else


def test_what_is_done_at_random_while_c_evolves_is_the_same_for_all_who_play_the_episode(task, tiny):
    def scores(slots, explore):
        simulator = real_simulator(task, of_teacher(tiny, slots=slots, explore=explore), None)
        # Twins play the same: what differs is the episode alone.
        candidates = np.tile(np.random.default_rng(4).standard_normal(simulator.size), (2, 1))
        jobs = [Job(i, i % 2, 10 + i // 2) for i in range(4)]
        return {result.job.index: result.score for result in simulator.play(candidates, jobs)}

    one, three = scores(1, 0.9), scores(3, 0.9)
    assert one == three and one[0] == one[1] and one[2] == one[3]
    assert one[0] != scores(1, 0.0)[0]


def test_a_teachers_episodes_are_recorded_with_their_frames(task, tiny):
    teacher = Teacher(task, of_teacher(tiny))
    params = np.random.default_rng(4).standard_normal(teacher.policy.size).astype(np.float32)
    teacher.set_candidates(params[None])
    [result] = rollout(WorldLanes(Worlds.of(task, tiny.world), teacher, record=True), [Job(0, 0, 3)])
    assert result.episode["obs"].shape == (41, 64, 64, 3) and result.episode["obs"].std() > 0
    told = unpacked(result.episode[PRIVILEGED], task.privileged)
    assert told.shape == (41, task.privileged) and told.any()
    sums = told_features(told, task.privileged_marks) @ params[3:].reshape(-1, 3) + params[:3]
    np.testing.assert_allclose(result.episode["action"], task.actions.of_outputs(np.tanh(sums))[:-1], atol=1e-5)
    exploring = WorldLanes(Worlds.of(task, tiny.world), Exploring(teacher, task, 0.95), record=True)
    others = [other.episode["action"] for other in rollout(exploring, [Job(number, 0, number) for number in range(4)])]
    assert any(not np.allclose(other, others[0]) for other in others[1:]) and not np.allclose(others[0], result.episode["action"])


def test_a_world_that_does_not_tell_is_named(task, tiny, monkeypatch):
    monkeypatch.setattr(carracing, "situation", lambda *_: None)
    lanes = WorldLanes(Worlds.of(task, tiny.world), Teacher(task, of_teacher(tiny)))
    with pytest.raises(UserError, match="does not tell at each step what is privileged"):
        list(rollout(lanes, [Job(0, 0, 3)]))


def test_a_teacher_is_no_agent_and_an_agent_no_teacher(task, tiny, tmp_path):
    teacher = Teacher(task, of_teacher(tiny))
    params = np.arange(teacher.policy.size, dtype=np.float32)
    save_controller(tmp_path / "teacher.npz", params, of_teacher(tiny, privileged_noise=0.5), {})
    save_controller(tmp_path / "agent.npz", np.zeros(867, np.float32), tiny, {})
    save_controller(tmp_path / "short.npz", params[1:], of_teacher(tiny), {})
    loaded, found, settings = load_teacher(task, dataclasses.replace(tiny), tmp_path / "teacher.npz")
    np.testing.assert_array_equal(found, params)
    assert loaded.sees_privileged and settings.controller.privileged_noise == 0.0
    with pytest.raises(UserError, match="is a teacher, which sees what no player is told"):
        load_agent(task, tiny, tmp_path, tmp_path / "teacher.npz")
    with pytest.raises(UserError, match="is no teacher: it sees zh"):
        load_teacher(task, tiny, tmp_path / "agent.npz")
    with pytest.raises(UserError, match="a teacher here has"):
        load_teacher(task, tiny, tmp_path / "short.npz")


def test_outputs_count_by_how_much_they_matter_to_the_action():
    actions = Continuous(scale=(1.0, 0.5, 1.0), offset=(0.0, 0.5, 0.0), low=(-1.0, 0.0, 0.0), high=(1.0, 1.0, 1.0))
    sums = np.array([[0.0, 1.0, -0.1], [3.0, -4.0, 0.5]])
    expected = [[1.0, 1 - np.tanh(1) ** 2, LEAST], [LEAST, LEAST, 1 - np.tanh(0.5) ** 2]]
    np.testing.assert_allclose(importance(actions, sums), expected)
    np.testing.assert_allclose(importance(Discrete(3), sums)[:, 2], 1 - np.tanh(sums[:, 2]) ** 2)


def test_the_fit_finds_a_linear_teacher_and_counts_what_matters():
    rng = np.random.default_rng(1)
    kernel, bias = rng.standard_normal((5, 3)) * 0.2, np.array([0.1, -0.2, 0.3])
    actions = get_task("carracing").actions
    seen = rng.standard_normal((4000, 5)).astype(np.float32)
    sums = seen @ kernel + bias
    fit = Fit(5, actions)
    for part in np.array_split(np.arange(4000), 3):  # shown in parts
        fit.add(Shown(seen[part], sums[part]))
    params = fit.params()
    np.testing.assert_allclose(params[:3], bias, atol=0.01)
    np.testing.assert_allclose(params[3:].reshape(5, 3), kernel, atol=0.01)
    # A twin of each step, where the brake is wanted not at all, hardly changes what is asked of the brake where it is.
    odd = Fit(5, actions)
    odd.add(Shown(seen, sums))
    odd.add(Shown(seen, np.where([False, False, True], np.minimum(sums, -1.0), sums)))
    brake = sums[:, 2] > 0
    found = odd.params()
    predicted = seen @ found[3:].reshape(5, 3) + found[:3]
    assert np.abs(predicted - sums)[brake, 2].mean() < 0.25 and np.abs(predicted - sums)[:, :2].max() < 0.05


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"teacher": "runs/t", "start": "shipped"}, "take no controller.start beside it"),
        ({"teacher": "runs/t", "hidden": 4}, "shows a linear C with a bias"),
        ({"teacher": "runs/t", "bias": False}, "shows a linear C with a bias"),
        ({"teacher": "runs/t", "features": "privileged"}, "shows a C of the real world"),
        ({"features": "privileged", "curiosity": 1.0}, "which the real world tells and no M"),
        ({"explore": 0.1, "world": "dream"}, "in dreams leave it at 0"),
        ({"features": "privileged", "world": "dream"}, "which the real world tells and no M"),
    ],
)
def test_what_does_not_go_together_is_refused(tiny, changes, words):
    with pytest.raises(UserError, match=words):
        dataclasses.replace(tiny, controller=dataclasses.replace(tiny.controller, **changes)).check()
    with pytest.raises(UserError, match="for which no V and M are needed"):
        of_teacher(tiny).check_together()


def test_without_recordings_that_tell_it_a_teacher_has_nothing_to_show(task, tiny, tmp_path):
    teacher = Teacher(task, of_teacher(tiny))
    save_controller(tmp_path / "teacher.npz", np.zeros(teacher.policy.size), of_teacher(tiny), {})
    settings = dataclasses.replace(tiny, controller=dataclasses.replace(tiny.controller, teacher=str(tmp_path / "teacher.npz")))
    with pytest.raises(UserError, match="has none that are encoded: record some"):
        Imitation(Ranks(), task, tmp_path, settings).recorded()
    z = np.zeros((4, 32), np.float16)
    rest = {"action": np.zeros((3, 3), np.float32), "reward": np.zeros(3, np.float32), "done": np.zeros(3, bool)}
    write_episode(episode_path(tmp_path / "encode" / "latents", 0), {"mu": z, "logvar": z, **rest, PRIVILEGED: np.zeros((4, 2), np.uint8)})
    with pytest.raises(UserError, match="does not tell the 135 privileged answers that a teacher sees"):
        Imitation(Ranks(), task, tmp_path, settings).recorded()


@pytest.mark.slow
def test_a_teacher_is_evolved_records_and_shows_an_agent_what_to_do(tmp_path):
    """The commands of controller/README.md in small; a run that was killed after a round goes on to the same C."""
    teacher, agent, again = (tmp_path / name for name in ("teacher", "agent", "again"))
    words = "--features privileged --privileged-noise 0.5 --population 4 --episodes 1 --sharing 0 --generations 2 --eval-every 2"
    made = run_python("controller/train.py", "carracing", "--scale", "smoke", "--run", teacher, *words.split())
    assert made.returncode == 0, made.stderr
    record_with = ("--policy", "controller", "--agent", teacher, "--episodes", "6", "--past-done", "no")
    for folder in (agent, again):
        steps = [
            ("controller/extract.py", *record_with),
            ("vae/train.py", "--start", "shipped", "--beta-privileged", "1", "--privileged-hidden", "0"),
            ("vae/encode.py",),
            ("rnn/train.py", "--start", "shipped", "--beta-privileged", "0.1"),
        ]
        for command, *flags in steps:
            done = run_python(command, "carracing", "--scale", "smoke", "--run", folder, *flags)
            assert done.returncode == 0, done.stderr
    flags = ["--teacher", teacher, "--teacher-rounds", "2", "--teacher-episodes", "2", "--latents", "mean", "--generations", "1"]
    trained = run_python("controller/train.py", "carracing", "--scale", "smoke", "--run", agent, *flags)
    assert trained.returncode == 0, trained.stderr
    assert trained.stdout.count("shown by the teacher, round") == 2
    first = load_arrays(agent / "controller" / "imitated.npz")
    assert first[0]["params"].shape == (867,) and [row["round"] for row in first[1]["rounds"]] == [1, 2]
    assert "start" in read_jsonl(agent / "controller" / "log.jsonl")[0]
    assert not (agent / "controller" / "shown").exists()
    # As if it had been killed in its second round; then the rest on two ranks.
    begun = Imitation(Ranks(), get_task("carracing"), again, load_settings(agent / "settings.json"))
    begun.play(1, begun.fit([begun.recorded()]))
    files = sorted((again / "controller" / "shown").glob("*/*.npz"))
    assert len(files) == 6 + 2
    resumed = run_python("controller/train.py", "carracing", "--scale", "smoke", "--run", again, *flags, ranks=2)
    assert resumed.returncode == 0, resumed.stderr
    np.testing.assert_array_equal(load_arrays(again / "controller" / "imitated.npz")[0]["params"], first[0]["params"])
