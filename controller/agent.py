"""The agent: V, M and C as one compiled step for several episodes side by side.

    frames uint8 [B,64,64,3] --V--> z --M--> state --features--> C (weights of its own in each slot) --> action [B,A]

The order is the original's (carracing/model.py): z_t is a sample of V's posterior, never its mean; C acts on [z_t, h_t];
then M takes z_t and the action to h_{t+1}. Here M's part of a step is done at the start of the next call.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import tensorflow as tf

from controller.policy import Policy, to_action
from controller.rollout import Job, episode_rng
from controller.weights import check_models, model_paths, shipped
from env.files import load_arrays, save_arrays
from env.settings import UserError
from env.tasks import Settings, Task
from rnn.rnn import MDNRNN, State, feature_size, features, load_rnn
from vae.vae import ConvVAE, load_vae


SHAPE = ("features", "hidden", "bias", "world", "temperature")  # the settings of C that its file keeps


class Agent:
    """Plays `slots` episodes side by side (a Player, see controller/rollout.py).

    Args:
        task: how C's outputs become an action.
        vae, rnn: V and M. V's weights are taken over as they are now; later changes of them have no effect.
        policy: the shape of C.
        feature_names: what C sees, see rnn/rnn.py.
        slots: B.
        max_steps: the longest episode, for which noise is drawn.
    """

    def __init__(
        self, task: Task, vae: ConvVAE, rnn: MDNRNN, policy: Policy, feature_names: str, slots: int, max_steps: int
    ) -> None:
        self.slots = slots
        self.policy = policy
        self._task, self.vae, self.rnn = task, vae, rnn
        self._feature_names, self._max_steps = feature_names, max_steps
        self.candidates = np.zeros((1, policy.size), np.float32)
        self._params = np.zeros((slots, policy.size), np.float32)
        self._noise = np.zeros((slots, max_steps, vae.z_size), np.float32)
        self._time = np.zeros(slots, np.int64)
        zeros = np.zeros((slots, vae.z_size), np.float32)
        self._state = rnn.initial(tf.constant(zeros))
        self._action = tf.zeros((slots, task.action_size))
        self._encode = vae.fixed_encoder(slots)
        self._compiled = tf.function(self._step)

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
        self._state, self._action = self._compiled(frames, noise, self._params, self._time == 0, self._state, self._action)
        self._time += 1
        return self._action.numpy()

    def acted(self, actions: np.ndarray) -> None:
        """Tell M that other actions [slots, A] were taken than those that `act` answered."""
        self._action = tf.constant(actions, tf.float32)

    def _step(
        self, frames: tf.Tensor, noise: tf.Tensor, params: tf.Tensor, fresh: tf.Tensor, state: State, action: tf.Tensor
    ) -> tuple[State, tf.Tensor]:
        mu, logvar = self._encode(frames)
        z = self.vae.sample(mu, logvar, noise)
        started, went_on = self.rnn.initial(z), self.rnn.observe(state, action, z)
        state = State(*(tf.where(fresh[:, None], a, b) for a, b in zip(started, went_on)))
        y = self.policy.act(params, features(state, self._feature_names))
        return state, to_action(self._task, y, tf.clip_by_value)

    @property
    def latents(self) -> np.ndarray:
        """The present z of each slot, float32 [slots, z_size]."""
        return self._state.z.numpy()


def make_policy(task: Task, settings: Settings) -> Policy:
    """The C that the settings describe."""
    c = settings.controller
    return Policy(feature_size(c.features, settings.vae.z_size, settings.rnn.units), task.action_size, c.hidden, c.bias)


def load_models(task: Task, settings: Settings, run: Path | None) -> tuple[ConvVAE, MDNRNN]:
    """V and M by `model_paths`.

    Raises:
        UserError: as `model_paths`, or weights that do not fit the settings.
    """
    paths = model_paths(task, run)
    vae = load_vae(paths.vae, settings.vae.z_size, settings.vae.kl_tolerance, settings.controller.dtype)
    return vae, load_rnn(paths.rnn, task, settings)


def save_controller(path: Path, params: np.ndarray, settings: Settings, note: dict[str, float]) -> None:
    """Save C: its flat parameter vector, and what it takes to use it."""
    c = settings.controller
    meta = {"model": "controller", "task": settings.task} | {key: getattr(c, key) for key in SHAPE}
    save_arrays(path, {"params": np.asarray(params, np.float32)}, meta | note)


def load_controller(path: Path, task: Task, settings: Settings) -> tuple[np.ndarray, Settings]:
    """C from a file by `save_controller`: its parameters, and the settings with C's own features, hidden layer, bias, and the
    world and temperature that it was evolved in.

    Raises:
        UserError: the file is missing, damaged, a pickle, of another task, or of a size that V and M do not give.
    """
    arrays, meta = load_arrays(path)
    if meta.get("model") != "controller" or "params" not in arrays:
        raise UserError(f"weights file {path} holds no controller: give a file such as RUN/controller/best.npz")
    if meta["task"] != task.name:
        raise UserError(f"weights file {path} is a controller for {meta['task']}, not for {task.name}")
    shape = {key: meta[key] for key in SHAPE if key in meta}
    settings = dataclasses.replace(settings, controller=dataclasses.replace(settings.controller, **shape))
    size = make_policy(task, settings).size
    if arrays["params"].shape != (size,):
        raise UserError(
            f"weights file {path} has parameters of shape {arrays['params'].shape}, expected ({size},) "
            f"for vae.z_size {settings.vae.z_size} and rnn.units {settings.rnn.units}"
        )
    return arrays["params"], settings


def load_agent(task: Task, settings: Settings, run: Path, weights: Path) -> tuple[Agent, Settings]:
    """The agent of the C in `weights` on the V and M of a run, and the settings with C's shape.

    The shipped C plays on the shipped V and M, whatever the run holds.

    Raises:
        UserError: as `load_models`, `load_controller` and `check_models`.
    """
    paper = task.scales["paper"]
    on_shipped = weights == shipped("controller", task)
    if on_shipped:
        settings = dataclasses.replace(settings, vae=paper.vae, rnn=paper.rnn)
    elif weights == run / "controller" / "best.npz":
        check_models(task, run)
    params, settings = load_controller(weights, task, settings)
    agent = make_agent(task, settings, *load_models(task, settings, None if on_shipped else run))
    agent.set_candidates(params[None])
    return agent, settings


def make_agent(task: Task, settings: Settings, vae: ConvVAE, rnn: MDNRNN) -> Agent:
    """An agent of the settings' C on V and M."""
    c = settings.controller
    return Agent(task, vae, rnn, make_policy(task, settings), c.features, c.slots, settings.world.max_steps)
