"""What CMA-ES searches: all of C's weights (the paper), or a few directions in which they change together.

CarRacing's linear C has 867 weights. From zero, hundreds of generations find good ones; to mend a C that is good already, a few
generations of a population of 64 are few for so many numbers. `controller.search directions` lets CMA-ES
search sums of what matters instead. Each output of C (before tanh) may change by

* a constant,
* what each output is now: gains, and one output acting on another,
* readouts of C's features: the linear functions of them that foretell, by least squares on the run's recorded episodes, the reward of
  the next 10, 30 and 60 steps. In CarRacing these go with how fast the car is; where episodes end by a death that M knows of, with its
  coming.

That is 3 x (1 + 3 + 3) = 21 numbers in CarRacing. `controller.search first_steps` takes others, two readouts for each output: of whether
the episode is in its first 50 steps (`controller.search_first`), and of whether it is in the 50 after them. In CarRacing the picture zooms
in during the former, and a car that gains speed slowly loses most in the latter. That is 6 numbers, and hardly anything changes later in an
episode, so that a start can be learned in episodes that are cut short (`world.max_steps`).

A unit of each number adds what has one standard deviation along the recordings. C stays the paper's linear C.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from env.episodes import LATENTS, Episode, read_episode
from env.run.errors import UserError
from env.run.files import load_arrays, save_arrays
from env.run.rundir import Run
from env.run.settings import Settings
from env.run.weights import model_paths
from env.tasks import Task

if TYPE_CHECKING:
    from rnn.memory import Memory

AHEAD = (10, 30, 60)  # steps whose reward is foretold
RIDGE = 2e-3  # of the least squares, in units of a feature's mean square
EPISODES = 100  # the run's first ones, which is enough for 289 numbers: they have up to 100,000 steps
LANES = 20  # of them that M follows side by side
SURE = 1e-6  # a readout that varies less than this tells nothing
GONE = -40.0  # logarithm of a variance so small that a sample is the mean


class Directions:
    """C's weights as a start and sums of directions.

    Args:
        start: the C to begin with, [size].
        basis: float64 [n, size]; a row is what one unit adds to C's weights.
    """

    def __init__(self, start: np.ndarray, basis: np.ndarray) -> None:
        self.start, self.basis = np.asarray(start, np.float64), np.asarray(basis, np.float64)

    @property
    def size(self) -> int:
        """n, the numbers that are searched."""
        return len(self.basis)

    def weights(self, numbers: np.ndarray) -> np.ndarray:
        """[..., n] -> C's weights, float64 [..., size]."""
        return self.start + numbers @ self.basis


def rewards_ahead(reward: np.ndarray, ahead: int, ends: bool) -> np.ndarray:
    """The sum of each step's reward and those that follow, `ahead` in all: float64 [T] if the episode `ends` with its last step, where
    nothing is earned any more, else [T - ahead + 1], or [0], for what would have come is not known."""
    reward = np.concatenate([np.asarray(reward, np.float64), np.zeros(ahead - 1 if ends else 0)])
    total = np.concatenate([[0.0], np.cumsum(reward)])
    return total[ahead:] - total[:-ahead]


def readout(seen: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The linear function of features [n, F] nearest to a target [n] by least squares, but for a constant: float64 [F]."""
    x, y = seen - seen.mean(axis=0), target - target.mean()
    square = x.T @ x
    return np.linalg.solve(square + RIDGE * np.trace(square) / len(square) * np.eye(len(square)), x.T @ y)


def make_basis(start: np.ndarray, outputs: int, episodes: list[tuple[np.ndarray, np.ndarray, bool]]) -> np.ndarray:
    """The directions of `controller.search directions`, float64 [n, size].

    Args:
        start: a linear C's parameters, see controller/policy.py: biases [outputs], then weights [features, outputs] row by row.
        outputs: those of C.
        episodes: of each the features [T, F], the rewards [T], and whether it ends with the last of them.
    """
    weights = np.asarray(start, np.float64)[outputs:].reshape(-1, outputs)
    features = np.concatenate([seen for seen, _, _ in episodes]).astype(np.float64)
    columns = [weights[:, output] for output in range(outputs)]
    for ahead in AHEAD:
        sums = [rewards_ahead(reward, ahead, ends) for _, reward, ends in episodes]
        seen = np.concatenate([part[: len(total)] for (part, _, _), total in zip(episodes, sums)]).astype(np.float64)
        target = np.concatenate(sums)
        if len(target):
            columns.append(readout(seen, target))
    constants = [np.concatenate([unit, np.zeros(weights.size)]) for unit in np.eye(outputs)]
    return np.stack(constants + along(columns, features, outputs))


def first_basis(outputs: int, episodes: list[np.ndarray], first: int) -> np.ndarray:
    """The directions of `controller.search first_steps`, float64 [n, size].

    Args:
        outputs: those of C.
        episodes: the features [T, F] of each.
        first: controller.search_first.

    Raises:
        UserError: no episode is longer than that, so that nothing tells its first steps apart.
    """
    features = np.concatenate(episodes).astype(np.float64)
    step = np.concatenate([np.arange(len(seen)) for seen in episodes])
    if step.max() < first:
        raise UserError(f"controller.search_first is {first}, but the longest recorded episode has {step.max() + 1} steps: take fewer")
    columns = [readout(features, ((step >= begin) & (step < begin + first)).astype(np.float64)) for begin in (0, first)]
    return np.stack(along(columns, features, outputs))


def along(columns: list[np.ndarray], features: np.ndarray, outputs: int) -> list[np.ndarray]:
    """What adds a linear function of the features, a column [F], to an output of C: float64 [size] for each column and output. A unit adds
    a standard deviation along the features [n, F], and nothing on average; a column that tells nothing is left out."""
    centre, rows = features.mean(axis=0), []
    for column in columns:
        spread = ((features - centre) @ column).std()
        if spread <= SURE:
            continue
        scaled = column / spread
        rows += [np.concatenate([-(centre @ scaled) * unit, np.outer(scaled, unit).ravel()]) for unit in np.eye(outputs)]
    return rows


def recorded(run: Run, memory: Memory) -> Iterator[tuple[np.ndarray, np.ndarray, bool]]:
    """Of the run's first recorded episodes: what C sees at each step [T, F], the rewards [T], and whether the episode then ends, if M
    knows of ends.

    Raises:
        UserError: none are encoded.
    """
    c = run.settings.controller
    paths = sorted((run.path / "encode" / "latents").glob("*.npz"))[:EPISODES]
    if not paths or not run.stage("encode").check():
        raise UserError(
            f"controller.search is {c.search}, which recorded episodes show, but {run.path} has none that are encoded: record some of "
            "the C to begin with (--extract-policy controller --extract-agent RUN), and run vae/encode.py"
        )
    for first in range(0, len(paths), LANES):
        episodes = [read_episode(path, LATENTS) for path in paths[first : first + LANES]]
        for episode, seen in zip(episodes, features_of(memory, run.settings, episodes)):
            yield seen, episode["reward"][: len(seen)], bool(episode["done"].any()) and memory.foresees_end


def features_of(memory: Memory, settings: Settings, episodes: list[Episode]) -> Iterator[np.ndarray]:
    """What C sees at each step of encoded episodes, float32 [T, F] each, up to their ends: what is recorded past one
    (extract.past_done) was not earned."""
    from rnn.evaluate import follow

    if settings.controller.latents == "mean":
        episodes = [episode | {"logvar": np.full_like(episode["logvar"], GONE)} for episode in episodes]
    seen = [memory.features(state, settings.controller.features).numpy() for state, _ in follow(memory, episodes, settings.seed)]
    for lane, episode in enumerate(episodes):
        done = episode["done"]
        steps = int(np.argmax(done)) + 1 if done.any() else len(done)
        yield np.stack([part[lane] for part in seen[:steps]])


def load_directions(run: Run, task: Task, start: np.ndarray) -> Directions:
    """Those of a run, RUN/controller/directions.npz: made once, so that a run that was killed goes on with the same to the last bit, and
    made again where the stage is made from something else now, such as another M.

    Raises:
        UserError: see `recorded`.
    """
    path: Path = run.path / "controller" / "directions.npz"
    identity = run.stage("controller").identity()
    if not path.exists() or load_arrays(path)[1].get("identity") != identity:
        from rnn.memory import load_memory

        memory = load_memory(model_paths(task.name, run.path).rnn, task, run.settings)
        episodes, c = list(recorded(run, memory)), run.settings.controller
        if c.search == "directions":
            basis = make_basis(start, task.actions.size, episodes)
        else:
            basis = first_basis(task.actions.size, [seen for seen, _, _ in episodes], c.search_first)
        save_arrays(path, {"start": np.asarray(start, np.float64), "basis": basis}, {"task": task.name, "identity": identity})
    arrays = load_arrays(path)[0]
    return Directions(arrays["start"], arrays["basis"])
