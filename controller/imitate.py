"""C as a teacher shows it: the linear C that is nearest, by least squares, to what the teacher would do (`controller.teacher`).

The teacher sees what is privileged (controller/told.py), C what it sees of V and M. Where V and M have learned to tell what is privileged
(vae.beta_privileged with vae.privileged_hidden 0, rnn.beta_privileged), a linear C can do nearly the same. What it learns from are
first the run's recorded episodes, which may be the teacher's own, and then, again and again, all that and what came of its own play:
there it sees where its own errors lead, and what the teacher would have done (DAgger: Ross, Gordon & Bagnell 2011).

A step counts by how much its outputs matter to the action: hardly where tanh or a bound cuts them off.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from controller.directions import EPISODES, LANES, features_of
from env.actions import Actions, Continuous
from env.episodes import PRIVILEGED, Episode, episode_path, read_episode, unpacked
from env.rollout import Job, Purpose, WorldLanes, Worlds, episode_seed, rollout
from env.run.errors import UserError
from env.run.files import load_arrays, save_arrays
from env.run.ranks import Ranks
from env.run.rundir import Run
from env.run.settings import Settings
from env.run.weights import model_paths, start_path
from env.tasks import Task

if TYPE_CHECKING:
    from controller.agent import Agent
    from controller.told import Teacher
    from rnn.memory import Memory

RIDGE = 1e-3  # of the least squares, in units of a feature's mean square
LEAST = 0.05  # the weight of an output that does not matter to the action
MOST = 2.5  # an output beyond this is as good as one of this: tanh is within 0.014 of 1


class Shown(NamedTuple):
    """Steps of an episode: what C sees, float32 [T, F], and what the teacher would do, its outputs before tanh, float32 [T, A]."""

    seen: np.ndarray
    sums: np.ndarray


def importance(actions: Actions, sums: np.ndarray) -> np.ndarray:
    """How much a teacher's outputs before tanh, [n, A], matter to the action: [n, A], from LEAST to 1."""
    y = np.tanh(sums)
    weights = 1.0 - y**2
    if isinstance(actions, Continuous):
        action = y * np.array(actions.scale) + np.array(actions.offset)
        weights = np.where((action < actions.low) | (action > actions.high), 0.0, weights)
    return np.clip(weights, LEAST, 1.0)


class Fit:
    """Weighted least squares of a teacher's outputs by linear functions of what C sees, a sum over steps.

    Args:
        features, actions: F, and the game's.
    """

    def __init__(self, features: int, actions: Actions) -> None:
        self._actions, outputs = actions, actions.size
        self._square, self._cross = np.zeros((outputs, features + 1, features + 1)), np.zeros((outputs, features + 1))

    def add(self, shown: Shown) -> None:
        """Learn from these steps, too."""
        x = np.concatenate([np.ones((len(shown.seen), 1)), shown.seen], axis=1).astype(np.float64)
        sums = shown.sums.astype(np.float64)
        weights, target = importance(self._actions, sums), np.clip(sums, -MOST, MOST)
        for output in range(self._actions.size):
            weighted = x * weights[:, output, None]
            self._square[output] += weighted.T @ x
            self._cross[output] += weighted.T @ target[:, output]

    def params(self) -> np.ndarray:
        """A linear C's parameters, see controller/policy.py: float32 [(F + 1) A]."""
        solved = []
        for square, cross in zip(self._square, self._cross):
            ridge = RIDGE * (np.trace(square) - square[0, 0]) / (len(square) - 1) * np.eye(len(square))
            ridge[0, 0] = 0.0  # a constant is free
            solved.append(np.linalg.solve(square + ridge, cross))
        return np.stack(solved, axis=1).ravel().astype(np.float32)


def show(task: Task, settings: Settings, memory: Memory, teacher: Teacher, params: np.ndarray, episodes: list[Episode]) -> list[Shown]:
    """What C saw in encoded episodes, and what the teacher of these parameters would have done."""
    import tensorflow as tf

    from controller.told import told_features

    shown = []
    for episode, seen in zip(episodes, features_of(memory, settings, episodes)):
        told = told_features(unpacked(episode[PRIVILEGED], task.privileged), task.privileged_marks)[: len(seen)]
        shown.append(Shown(seen, teacher.policy.sums(tf.constant(params), tf.constant(told)).numpy()))
    return shown


def _recorded(run: Path, task: Task) -> list[Path]:
    """The run's encoded episodes. Raises UserError when there are none, or they do not tell what is privileged."""
    paths = sorted((run / "encode" / "latents").glob("*.npz"))[: 2 * EPISODES]
    if not paths:
        raise UserError(
            f"controller.teacher shows what to do in recorded episodes first, but {run} has none that are encoded: record some "
            "(--extract-policy controller --extract-agent TEACHER), and run vae/encode.py"
        )
    for path in paths:
        if read_episode(path, (PRIVILEGED,))[PRIVILEGED].shape[1] != -(-task.privileged // 8):
            raise UserError(f"{path} does not tell the {task.privileged} privileged answers that a teacher sees: record anew")
    return paths


class Imitation:
    """The rounds of a run, on all ranks. What was shown is kept in RUN/controller/shown/ROUND until C is made: a run that was killed does
    not show what was recorded again; what C had played by itself it plays again, to the same C.

    Args:
        ranks, task, path, settings: the run's.

    Raises:
        UserError: the teacher is missing or none, or there are no recorded episodes to begin with.
    """

    def __init__(self, ranks: Ranks, task: Task, path: Path, settings: Settings) -> None:
        from controller.agent import load_teacher
        from rnn.memory import load_memory

        self._ranks, self._task, self._settings, self._path = ranks, task, settings, path
        weights = start_path(task.name, settings.controller.teacher)
        self._teacher, self._params, _ = load_teacher(task, settings, weights)
        self._paths = model_paths(task.name, path)
        self._memory = load_memory(self._paths.rnn, task, settings)
        self._agent: Agent | None = None

    def _folder(self, number: int) -> Path:
        return self._path / "controller" / "shown" / f"{number:02d}"

    def _keep(self, folder: Path, indices: list[int], episodes: list[Episode]) -> None:
        for index, shown in zip(indices, show(self._task, self._settings, self._memory, self._teacher, self._params, episodes)):
            save_arrays(episode_path(folder, index), {"seen": shown.seen, "sums": shown.sums}, {})

    def recorded(self) -> int:
        """Show what was recorded, as round 0; returns how many episodes that are."""
        paths, folder = _recorded(self._path, self._task), self._folder(0)
        # Shared first: what is there already changes while other ranks write.
        own = [(index, path) for index, path in self._ranks.share(list(enumerate(paths))) if not episode_path(folder, index).exists()]
        for first in range(0, len(own), LANES):
            group = own[first : first + LANES]
            self._ranks.pulse()
            self._keep(folder, [index for index, _ in group], [read_told(path) for _, path in group])
        self._ranks.total(np.zeros(1))  # all are done
        return len(paths)

    def play(self, number: int, params: np.ndarray) -> np.ndarray:
        """Let C play round `number`, and show what it saw: the scores of its episodes, on every rank."""
        from controller.agent import load_models, make_agent
        from vae.encode import latents_of, make_encoder

        c, folder = self._settings.controller, self._folder(number)
        if self._agent is None:
            self._agent = make_agent(self._task, self._settings, *load_models(self._task, self._settings, self._path))
            self._encode = make_encoder(self._paths.vae, self._settings.vae.z_size)
            self._worlds = Worlds.of(self._task, self._settings.world)
        self._agent.set_candidates(params[None])
        scores = np.zeros(c.teacher_episodes)
        jobs = [Job(i, 0, episode_seed(self._settings.seed, Purpose.TEACHING, number, i)) for i in range(c.teacher_episodes)]
        for result in rollout(WorldLanes(self._worlds, self._agent, record=True), self._ranks.share(jobs), self._ranks.pulse):
            assert result.episode is not None
            self._keep(folder, [result.job.index], [latents_of(self._encode, result.episode)])
            scores[result.job.index] = result.score
        return self._ranks.total(scores)

    def fit(self, counts: list[int]) -> np.ndarray:
        """C by all that was shown in the rounds so far, of so many episodes each; the same on every rank."""
        size = self._memory.feature_size(self._settings.controller.features)

        def solve() -> np.ndarray:
            fit = Fit(size, self._task.actions)
            for number, count in enumerate(counts):
                for index in range(count):
                    arrays = load_arrays(episode_path(self._folder(number), index))[0]
                    fit.add(Shown(arrays["seen"], arrays["sums"]))
            return fit.params()

        found = self._ranks.on_first(solve)
        return self._ranks.broadcast(found if found is not None else np.empty((size + 1) * self._task.actions.size, np.float32))


def read_told(path: Path) -> Episode:
    """An encoded episode with what is privileged."""
    return read_episode(path, ("mu", "logvar", "action", "reward", "done", PRIVILEGED))


def imitate(ranks: Ranks, run: Run | None, task: Task, path: Path, settings: Settings) -> None:
    """Make RUN/controller/imitated.npz, the C to begin with, on all ranks; nothing, if this stage has made it already.

    Args:
        ranks, task, path, settings: the run's.
        run: itself, on the first rank.

    Raises:
        UserError: see `Imitation`.
    """
    target = path / "controller" / "imitated.npz"
    identity = run.stage("controller").identity() if run else ""
    made = bool(run) and target.exists() and load_arrays(target)[1].get("identity") == identity
    if ranks.broadcast(np.array([made]))[0]:
        return
    imitation, c = Imitation(ranks, task, path, settings), settings.controller
    counts, rows = [imitation.recorded()], []
    params = imitation.fit(counts)
    for number in range(1, c.teacher_rounds + 1):
        scores = imitation.play(number, params)
        rows.append({"round": number, "mean": float(scores.mean()), "std": float(scores.std()), "min": float(scores.min())})
        if run:
            of = f"round {number} of {c.teacher_rounds}"
            print(f"controller: shown by the teacher, {of}: {scores.mean():.1f} ± {scores.std():.1f}", flush=True)
        counts.append(c.teacher_episodes)
        params = imitation.fit(counts)
    if run:
        save_arrays(target, {"params": params}, {"task": task.name, "identity": identity, "rounds": rows})
        shutil.rmtree(path / "controller" / "shown", ignore_errors=True)
