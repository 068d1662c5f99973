"""The agent: V, M and C as one compiled step for several episodes side by side.

    frames uint8 [B,64,64,3] --V--> z --M--> state --features--> C (weights of its own in each slot) --> action [B,A]

The order is the original's (carracing/model.py): z_t is a sample of V's posterior, never its mean; C acts on what it sees of M's
state, such as [z_t, h_t]; then M takes the action and the next z to its next state. Here that is done at the start of the next call.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Protocol

import numpy as np
import tensorflow as tf

from controller.policy import Policy
from controller.told import Teacher, is_told
from env.actions import Actions, Continuous
from env.episodes import PRIVILEGED
from env.rollout import Job, episode_rng
from env.run.compute import steady_sizes
from env.run.errors import UserError
from env.run.files import load_arrays, save_arrays
from env.run.rundir import saved_settings
from env.run.settings import Settings
from env.run.stages import Stage
from env.run.weights import fingerprints, is_shipped, model_paths
from env.tasks import Task, as_shipped
from rnn.memory import Memory, State, load_memory
from vae.vae import ConvVAE, load_vae

SHAPE = ("features", "hidden", "bias", "world", "temperature")  # the settings of C that its file keeps


TRIED_STEPS = 8  # to find out whether this CPU treats all slots alike


class Explorer(Protocol):
    """Who draws C's outputs at random (controller/actor_critic.py, Actor).

    Attributes:
        noise: standard normal numbers that it takes.
    """

    noise: int

    def sample(self, features: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
        """features [B, F], noise [B, noise] -> C's outputs [B, A]."""


class Agent:
    """Plays `slots` episodes side by side (a Player, see env/rollout.py).

    Args:
        actions: how C's outputs become an action.
        vae, memory: V and M. V's weights are taken over as they are now; later changes of them have no effect.
        policy: the shape of C.
        feature_names: what C sees, see Memory.features.
        slots: B.
        max_steps: the longest episode, for which noise is drawn.
        explorer: draws the actions in the place of C; its and M's weights are then those of the moment. What an episode does may depend
            on its slot.
        mean: see each frame as V's mean instead of a sample of its posterior (controller.latents).
    """

    def __init__(
        self,
        actions: Actions,
        vae: ConvVAE,
        memory: Memory,
        policy: Policy,
        feature_names: str,
        slots: int,
        max_steps: int,
        explorer: Explorer | None = None,
        mean: bool = False,
    ) -> None:
        self.slots, self._mean = slots, mean
        self.policy, self._explorer = policy, explorer
        self._actions, self.vae, self.memory = actions, vae, memory
        self._feature_names, self._max_steps = feature_names, max_steps
        self.candidates = np.zeros((1, policy.size), np.float32)
        self._size = [vae.z_size, max(memory.initial_noise, memory.observe_noise), (explorer or policy).noise]
        self._params = np.zeros((slots, policy.size), np.float32)
        # For each step: V's sample, what M takes to observe it (at the first step, to begin with it), and what an action is drawn by.
        self._noise = np.zeros((slots, max_steps, sum(self._size)), np.float32)
        self._time = np.zeros(slots, np.int64)
        self._surprise: tf.types.experimental.GenericFunction | None = None
        for rows in [slots] if explorer else steady_sizes(slots):
            self._build(rows)
            if explorer or self._is_steady():
                break
        self._forget()

    def _build(self, rows: int) -> None:
        """Compile the step for so many rows, of which the slots are the first."""
        self._rows = rows
        self._encode = self.vae.fixed_encoder(rows)
        self._compiled = tf.function(self._step)

    def _forget(self) -> None:
        """No slot has seen or done anything."""
        blank = tf.zeros((self._rows, self.memory.initial_noise))
        self._state = self.memory.initial(tf.zeros((self._rows, self.vae.z_size)), blank)
        self._action = tf.zeros((self._rows, self._actions.size))

    def _is_steady(self) -> bool:
        """Whether what an episode does is the same to the bit in any slot, on this CPU: some steps, with rows in several orders.
        Several, because in bfloat16 most differences are rounded away."""
        rng, rows = np.random.default_rng(0), self._rows
        frames = rng.integers(0, 256, (TRIED_STEPS, rows, 64, 64, 3), np.uint8)
        noise = rng.standard_normal((TRIED_STEPS, rows, sum(self._size)), np.float32)
        params = rng.standard_normal((rows, self.policy.size), np.float32)

        def play(order: np.ndarray) -> list[np.ndarray]:
            self._forget()
            state, action = self._state, self._action
            for step in range(TRIED_STEPS):
                fresh = np.full(rows, step == 0)
                state, action = self._compiled(frames[step][order], noise[step][order], params[order], fresh, state, action)
            return [part.numpy() for part in tf.nest.flatten((state, action))]

        expected = play(np.arange(rows))
        orders = [np.arange(rows)[::-1], *(rng.permutation(rows) for _ in range(3))]
        return all(np.array_equal(a[order], b) for order in orders for a, b in zip(expected, play(order)))

    def set_candidates(self, candidates: np.ndarray) -> None:
        """The parameter vectors [n, size] that jobs name by `candidate`."""
        self.candidates = np.asarray(candidates, np.float32)

    def begin(self, slot: int, job: Job) -> None:
        self._params[slot] = self.candidates[job.candidate]
        # All noise of the episode from its own seed: the same whatever the slot, the rank or the neighbours.
        self._noise[slot] = episode_rng(job.seed).standard_normal(self._noise.shape[1:], np.float32)
        self._time[slot] = 0

    def act(self, frames: np.ndarray) -> np.ndarray:
        noise = self._noise[np.arange(self.slots), np.minimum(self._time, self._max_steps - 1)]
        inputs = (self._padded(part) for part in (frames, noise, self._params, self._time == 0))
        self._state, self._action = self._compiled(*inputs, self._state, self._action)
        self._time += 1
        return self._action.numpy()[: self.slots]

    def _padded(self, array: np.ndarray) -> np.ndarray:
        """An array of the slots as one of all rows."""
        if self._rows == self.slots:
            return array
        return np.concatenate([array, np.zeros((self._rows - self.slots, *array.shape[1:]), array.dtype)])

    def acted(self, actions: np.ndarray) -> None:
        """Tell M that other actions [slots, A] were taken than those that `act` answered."""
        self._action = tf.constant(self._padded(np.asarray(actions, np.float32)))

    def _step(
        self, frames: tf.Tensor, noise: tf.Tensor, params: tf.Tensor, fresh: tf.Tensor, state: State, action: tf.Tensor
    ) -> tuple[State, tf.Tensor]:
        mu, logvar = self._encode(frames)
        noise, own, drawing = tf.split(noise, self._size, axis=1)
        z, memory = mu if self._mean else self.vae.sample(mu, logvar, noise), self.memory
        started = memory.initial(z, own[:, : memory.initial_noise])
        went_on = memory.observe(state, action, z, own[:, : memory.observe_noise])
        state = tf.nest.map_structure(lambda a, b: tf.where(_like(fresh, a), a, b), started, went_on)
        seen = memory.features(state, self._feature_names)
        y = self._explorer.sample(seen, drawing) if self._explorer else self.policy.act(params, seen, drawing)
        return state, self._actions.of_outputs(y)

    def surprise(self) -> np.ndarray:
        """How little M foresaw the frame that it was shown last, float32 [slots], see Memory.surprise; 0 at an episode's first."""
        if self._surprise is None:
            self._surprise = tf.function(self.memory.surprise)
        return np.where(self._time > 1, self._surprise(self._state).numpy()[: self.slots], 0.0)

    @property
    def state(self) -> State:
        """M's state in each slot, a nest of tensors [slots, ...]."""
        return tf.nest.map_structure(lambda part: part[: self.slots], self._state)

    @property
    def latents(self) -> np.ndarray:
        """The present z of each slot, as V decodes it: float32 [slots, z_size]."""
        return self.memory.latent(self._state).numpy()[: self.slots]


def _like(mask: tf.Tensor, tensor: tf.Tensor) -> tf.Tensor:
    """A mask [B] that fits a tensor [B, ...]."""
    return tf.reshape(mask, (-1,) + (1,) * (len(tensor.shape) - 1))


def make_policy(task: Task, settings: Settings, memory: Memory) -> Policy:
    """The C that the settings describe, for what it sees of M."""
    c, drawn = settings.controller, ""
    if settings.trainer == "actor_critic" and settings.actor_critic.drawn:
        drawn = "normal" if isinstance(task.actions, Continuous) else "categorical"
    return Policy(memory.feature_size(c.features), task.actions.size, c.hidden, c.bias, drawn)


def load_models(task: Task, settings: Settings, run: Path | None) -> tuple[ConvVAE, Memory]:
    """V and M by `model_paths`.

    Raises:
        UserError: as `model_paths`, or weights that do not fit the settings.
    """
    paths = model_paths(task.name, run)
    vae = load_vae(paths.vae, settings.vae.z_size, settings.vae.kl_tolerance, settings.controller.dtype)
    return vae, load_memory(paths.rnn, task, settings)


def save_controller(path: Path, params: np.ndarray, settings: Settings, note: dict[str, float]) -> None:
    """Save C: its flat parameter vector, and what it takes to use it."""
    c = settings.controller
    meta = {"model": "controller", "task": settings.task} | {key: getattr(c, key) for key in SHAPE}
    if settings.world.repeat != 1:  # files from before there was a choice stay as they are, to the byte
        meta["repeat"] = settings.world.repeat
    if c.latents != "sampled":  # the same
        meta["latents"] = c.latents
    if settings.trainer == "actor_critic":
        meta["drawn"] = settings.actor_critic.drawn
    save_arrays(path, {"params": np.asarray(params, np.float32)}, meta | note)


def load_controller(path: Path, task: Task, settings: Settings) -> tuple[np.ndarray, Settings]:
    """C from a file by `save_controller`: its parameters, and the settings with C's own features, hidden layer, bias, what of V's
    answer it sees, the frames for which it holds an action, and the world and temperature that it was evolved in.

    Raises:
        UserError: the file is missing, damaged, a pickle, or of another task, or C holds its actions for another time than is asked for.
    """
    arrays, meta = load_arrays(path)
    if meta.get("model") != "controller" or "params" not in arrays:
        raise UserError(f"weights file {path} holds no controller: give a file such as RUN/controller/best.npz")
    if meta["task"] != task.name:
        raise UserError(f"weights file {path} is a controller for {meta['task']}, not for {task.name}")
    missing = [key for key in SHAPE if key not in meta]
    if missing:
        raise UserError(f"weights file {path} does not say its {', '.join(missing)}: an older version made it")
    shape = {key: meta[key] for key in SHAPE} | {"latents": meta.get("latents", "sampled")}
    if meta["features"] == PRIVILEGED:
        shape |= {"teacher": ""}  # whose own is none, whatever a run has that it records for
    settings = dataclasses.replace(settings, controller=dataclasses.replace(settings.controller, **shape))
    repeat = meta.get("repeat", 1)
    if settings.world.repeat not in (1, repeat):
        raise UserError(f"world.repeat is {settings.world.repeat}, but {path} was made to hold its actions for {repeat}: take that")
    settings = dataclasses.replace(settings, world=dataclasses.replace(settings.world, repeat=repeat))
    drawn = meta.get("drawn", False)
    if drawn and settings.trainer != "actor_critic":
        raise UserError(f"{path} draws its actions, as an actor-critic's C does: give the --run that it is of")
    settings = dataclasses.replace(settings, actor_critic=dataclasses.replace(settings.actor_critic, drawn=drawn))
    settings.check()
    return arrays["params"], settings


def check_made_with(weights: Path, now: dict[str, str]) -> None:
    """Raise UserError when a C that learned together with V or M would play with others."""
    then = load_arrays(weights)[1].get("made_with", {})
    changed = [{"vae": "V", "rnn": "M"}[part] for part in then if then[part] != now[part]]
    if changed:
        raise UserError(f"{weights} learned with another {' and '.join(changed)} than it would play with: restore what lay beside it")


def load_teacher(task: Task, settings: Settings, weights: Path) -> tuple[Teacher, np.ndarray, Settings]:
    """The teacher in `weights`, its parameters, and the settings with its shape. It sees what is privileged as it is.

    Raises:
        UserError: as `load_controller`, or the C there sees what an agent does, or is of another size.
    """
    params, settings = load_controller(weights, task, settings)
    if not is_told(settings):
        raise UserError(f"{weights} is no teacher: it sees {settings.controller.features}, not what is privileged")
    settings = dataclasses.replace(settings, controller=dataclasses.replace(settings.controller, privileged_noise=0.0))
    settings.check_told(task.health, task.privileged)
    teacher = Teacher(task, settings)
    if params.shape != (teacher.policy.size,):
        raise UserError(f"{weights} has parameters of shape {params.shape}, a teacher here has ({teacher.policy.size},): evolve another")
    teacher.set_candidates(params[None])
    return teacher, params, settings


def load_agent(task: Task, settings: Settings, run: Path, weights: Path, latents: str | None = None) -> tuple[Agent, Settings]:
    """The agent of the C in `weights` on the V and M of a run, and the settings with C's shape.

    A shipped C plays on the shipped V and M, whatever the run holds.

    Args:
        task, settings, run, weights: the game, the run's settings and directory, and C's file.
        latents: what it sees of V's answer (controller.latents), if that is not to be what C's file says.

    Raises:
        UserError: as `load_models` and `load_controller`; the run's C was evolved on another V and M than it has now; or C is of
            a size that V and M do not give.
    """
    on_shipped = is_shipped(weights, task.name)
    if on_shipped:
        settings = as_shipped(settings, task)
    elif weights.resolve() == (run / "controller" / "best.npz").resolve():
        Stage(run, "controller", saved_settings(run) or settings).check_inputs()
    params, settings = load_controller(weights, task, settings)
    if is_told(settings):
        raise UserError(f"{weights} is a teacher, which sees what no player is told: record with it (--extract-agent), or take another")
    if latents:
        settings = dataclasses.replace(settings, controller=dataclasses.replace(settings.controller, latents=latents))
    check_made_with(weights, fingerprints(model_paths(task.name, None if on_shipped else run)))
    agent = make_agent(task, settings, *load_models(task, settings, None if on_shipped else run))
    if params.shape != (agent.policy.size,):
        raise UserError(
            f"weights file {weights} has parameters of shape {params.shape}, expected ({agent.policy.size},) "
            f"for vae.z_size {settings.vae.z_size} and an M of {settings.of_memory.units} units"
        )
    agent.set_candidates(params[None])
    return agent, settings


def make_agent(task: Task, settings: Settings, vae: ConvVAE, memory: Memory) -> Agent:
    """An agent of the settings' C on V and M."""
    c, policy = settings.controller, make_policy(task, settings, memory)
    # Not world.steps(): who records may ask it more often than it was made to hold its actions for (controller/extract.py).
    return Agent(task.actions, vae, memory, policy, c.features, c.slots, settings.world.max_steps, mean=c.latents == "mean")
