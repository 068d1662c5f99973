"""The contract of a memory, M: all that the rest of the program knows of it.

A memory's state is a nest of tensors [B, ...] that only the memory opens; others hand it on, or treat each tensor of it alike
(`tf.nest.map_structure`). x is what the world shows, as V gives it: z, a sample of its posterior. In a drawing, where s is the state:

    s_0 = initial(x_0)      a_0 = C(features(s_0))      s_1 = observe(s_0, a_0, x_1)                           in the world
                                                        s_1, reward_0, goes_on_0, over_0 = imagine(s_0, a_0)   in the dream
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from env.episodes import PRIVILEGED
from env.run.errors import UserError
from env.run.files import load_arrays
from env.run.settings import Settings
from env.run.weights import assign_weights, unfit
from env.tasks import Task

if TYPE_CHECKING:
    import tensorflow as tf

State = Any  # a nest of tensors [B, ...]


class Imagined(NamedTuple):
    """M's answer to an action.

    Attributes:
        state: the next one.
        reward: float32 [B].
        goes_on: the probability that the episode does, float32 [B].
        over: whether a dream ends here, bool [B].
    """

    state: State
    reward: tf.Tensor
    goes_on: tf.Tensor
    over: tf.Tensor


class Batch(NamedTuple):
    """What M learns from at a step, numpy arrays or tensors.

    Attributes:
        mu, logvar: V's posterior of each frame, float16 [B, T, z_size]; for an M that observes pixels the frames themselves, uint8
            [B, T, 64, 64, 3], and nothing, [B, T, 0].
        action: the action taken after each frame, float32 [B, T, A]; the last one leads out of the batch.
        reward: what that action earned, float32 [B, T].
        done: 1 where the world ended the episode upon that action (a step limit is no such end), else 0, float32 [B, T].
        first: 1 where a frame is its episode's first, else 0, float32 [B, T].
        lost: which share of a life that action cost, from which ends are learned: `done` itself, or the health lost, float32 [B, T].
        privileged: at each frame what the world tells in training alone, uint8 [B, T, K]; K is 0 where M does not learn it.
        fresh: whether the state before it is that of no episode instead of the last batch's, bool [].
    """

    mu: Any
    logvar: Any
    action: Any
    reward: Any
    done: Any
    first: Any
    lost: Any
    privileged: Any
    fresh: Any


class Memory(Protocol):
    """A memory, of B episodes side by side. It is a Keras model, too.

    Attributes:
        z_size: size of z.
        initial_noise, observe_noise, imagine_noise: standard normal numbers that these take for each episode.
        sample_noise: those that `loss_terms` and `follow` take for each frame.
        foresees_end: whether it knows that episodes end.
        with_last: whether M learns from each episode's last frame, too: the one that its last action led to.
        learning: the variables that training changes.
        weights: Keras'.
    """

    z_size: int
    initial_noise: int
    observe_noise: int
    imagine_noise: int
    sample_noise: int
    foresees_end: bool
    with_last: bool
    learning: list[Any]
    weights: list[Any]

    def initial(self, x: tf.Tensor, noise: tf.Tensor) -> State:
        """The state at the start of episodes that show x float32 [B, z_size] first; noise float32 [B, initial_noise]."""

    def observe(self, state: State, action: tf.Tensor, x: tf.Tensor, noise: tf.Tensor) -> State:
        """The next state, when the world answered the action [B, A] with x [B, z_size]; noise [B, observe_noise]."""

    def imagine(self, state: State, action: tf.Tensor, temperature: float | tf.Tensor, noise: tf.Tensor) -> Imagined:
        """M itself invents the answer to the action, at temperature tau > 0; noise [B, imagine_noise]."""

    def features(self, state: State, names: str) -> tf.Tensor:
        """What C sees of the state, float32 [B, F]; `names` is the setting controller.features."""

    def feature_size(self, names: str) -> int:
        """F."""

    def latent(self, state: State) -> tf.Tensor:
        """The z that V decodes to a picture of the state, float32 [B, z_size]."""

    def surprise(self, state: State) -> tf.Tensor:
        """How little M foresaw what the world showed last: minus the logarithm of what it held for likely before, of a state that
        `observe` gave, float32 [B]. In nats a dimension of z, as the loss of the paper's M; for an RSSM, in nats."""

    def blank(self, rows: int) -> Any:
        """What is carried from batch to batch of a stream (`loss_terms`), before there was any: a nest of tensors [rows, ...]."""

    def loss_terms(self, batch: Batch, noise: tf.Tensor, carried: Any = None) -> tuple[dict[str, tf.Tensor], Any]:
        """The training loss of a batch, "loss", and its parts, as scalars; and what to carry to the batch that follows.

        Args:
            batch: what to learn from.
            noise: standard normal float32 [B, T, sample_noise].
            carried: what the last call of a stream gave; None for nothing.
        """

    def follow(self, batch: Batch, noise: tf.Tensor) -> State:
        """M's states as it is shown the batch's frames, from none before the first: a nest of tensors [B, T, ...], without gradient.
        Dreams of these moments start from them."""

    def loss_and_states(self, batch: Batch, noise: tf.Tensor) -> tuple[dict[str, tf.Tensor], State]:
        """The terms of `loss_terms` with nothing carried, and the states of `follow`: M computes them once, if it can."""


def _make_mdnrnn(task: Task, settings: Settings, dtype: str) -> Memory:
    from rnn.rnn import MDNRNN

    rnn, reward = settings.rnn, task.step_reward * settings.world.repeat
    sizes = settings.vae.z_size, task.actions.size, rnn.units, rnn.mixtures
    return MDNRNN(*sizes, rnn.restart, rnn.restart_weight, reward, dtype, task.privileged, rnn.beta_privileged)


def _make_rssm(task: Task, settings: Settings, dtype: str) -> Memory:
    from rnn.rssm import RSSM

    return RSSM(settings.vae.z_size, task.actions.size, settings.rssm, dtype, task.privileged)


class Kind(NamedTuple):
    """A kind of memory.

    Attributes:
        make: makes one with fresh weights, of a task, settings and a compute type.
        shape: the settings that decide the shape of its weights.
        replayed: whether it learns from sequences cut at random places (rnn/replay.py) instead of those of the paper's M
            (rnn/sequences.py).
        clip: whether each "element" of its gradients is clipped, as the original's, or the "norm" of all together.
    """

    make: Callable[[Task, Settings, str], Memory]
    shape: tuple[str, ...]
    replayed: bool
    clip: str


# By the name of the setting `memory`.
KINDS = {
    "mdnrnn": Kind(_make_mdnrnn, ("units", "mixtures", "restart"), False, "element"),
    "rssm": Kind(_make_rssm, ("units", "hidden", "groups", "classes", "reward_loss", "bins"), True, "norm"),
}


def make_memory(task: Task, settings: Settings, dtype: str) -> Memory:
    """The M that the settings describe, with fresh weights."""
    return KINDS[settings.memory].make(task, settings, dtype)


def told(task: Task, settings: Settings) -> int:
    """K, of how many questions M learns what the world answers in training alone (Batch.privileged)."""
    return task.privileged if settings.learns_privileged else 0


def memory_meta(task: Task, settings: Settings) -> dict[str, Any]:
    """What a weights file of M says of its shape, and of the frames for which each action was held while it learned, if not for one."""
    own = {key: getattr(settings.of_memory, key) for key in KINDS[settings.memory].shape}
    model = "rnn" if settings.memory == "mdnrnn" else settings.memory
    # Files from before there was a choice of it stay as they are, to the byte.
    repeat = {"repeat": settings.world.repeat} if settings.world.repeat != 1 else {}
    return {"model": model, "task": task.name, "z_size": settings.vae.z_size} | own | repeat


def load_memory(path: Path, task: Task, settings: Settings, dtype: str = "float32") -> Memory:
    """An M from a weights file.

    Raises:
        UserError: the file is missing, damaged, a pickle, or of another z size, number of units and so on than the settings say.
    """
    arrays, meta = load_arrays(path)
    if found := unfit(meta, memory_meta(task, settings)):
        raise UserError("M in {} has {} {}, this run needs {}: take the M of a run that fits".format(path, *found))
    model = make_memory(task, settings, dtype)
    assign_weights(path, arrays, model, new=PRIVILEGED)  # nobody who plays asks that head
    return model


def as_batch(
    mu: np.ndarray,
    logvar: np.ndarray,
    action: np.ndarray,
    first: np.ndarray | None = None,
    reward: np.ndarray | None = None,
    done: np.ndarray | None = None,
    privileged: int = 0,
) -> Batch:
    """A batch of sequences of their own, of which no frame is an episode's first, and no action earns or ends anything, unless it is
    said; and all of whose `privileged` answers are no."""
    reward, done, first = (np.zeros(np.shape(mu)[:2], np.float32) if part is None else part for part in (reward, done, first))
    return Batch(mu, logvar, action, reward, done, first, done, np.zeros((*np.shape(mu)[:2], privileged), np.uint8), np.array(True))


def batch_signature(rows: int, window: int | None, z_size: int, actions: int, pixels: bool = False, privileged: int = 0) -> Batch:
    """The tf.TensorSpec of each part of a batch.

    Args:
        rows, window: B and T; None for any T.
        z_size, actions: sizes of z and of an action.
        pixels: whether it has frames instead of latents.
        privileged: K.
    """
    import tensorflow as tf

    steps = tf.TensorSpec((rows, window), tf.float32)
    mu = tf.TensorSpec((rows, window, 64, 64, 3), tf.uint8) if pixels else tf.TensorSpec((rows, window, z_size), tf.float16)
    logvar = tf.TensorSpec((rows, window, 0 if pixels else z_size), tf.float16)
    action, answers = tf.TensorSpec((rows, window, actions), tf.float32), tf.TensorSpec((rows, window, privileged), tf.uint8)
    return Batch(mu, logvar, action, steps, steps, steps, steps, answers, tf.TensorSpec((), tf.bool))
