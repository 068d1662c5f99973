"""Train M on latents.

    python rnn/train.py carracing
    python rnn/train.py carracing --scale day --steps 3000

Reads RUN/encode, writes RUN/rnn: weights.npz, log.jsonl, checkpoints/. The same command resumes.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from env.run.command import existing, parser, resolve, run_command
from env.run.compute import start_tensorflow
from env.run.rundir import Run
from env.run.settings import Rnn, Rssm, Settings
from env.run.taken import begin_with, take, warn_of_another_v
from env.tasks import Task
from rnn.memory import KINDS, Batch, batch_signature, make_memory, memory_meta, told
from rnn.replay import Replay
from rnn.sequences import batches, usable_episodes
from vae.encode import first_frames, make_encoder, save_initial, vae_weights
from vae.train import episode_paths, vae_meta

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from rnn.memory import Memory
    from vae.vae import ConvVAE


def clipped(gradients: list[tf.Tensor], how: str, limit: float) -> list[tf.Tensor]:
    """Gradients, each "element" of them clipped to [-limit, limit] (the original's clip_by_value), or the "norm" of all together."""
    import tensorflow as tf

    if how == "norm":
        return tf.clip_by_global_norm(gradients, limit)[0]
    return [tf.clip_by_value(gradient, -limit, limit) for gradient in gradients]


def make_step(
    memory: Memory, optimizer: keras.Optimizer, grad_clip: float, carried: Any = None, clip: str = "element"
) -> Callable[..., dict[str, tf.Tensor]]:
    """The compiled training step: the arrays of a Batch and an int32 [2] seed -> the terms of the loss.

    Args:
        memory, optimizer: what is trained, and how.
        grad_clip, clip: see `clipped`.
        carried: a nest of variables for what M carries from batch to batch of a stream; else None.
    """
    import tensorflow as tf

    @tf.function
    def step(*parts: tf.Tensor) -> dict[str, tf.Tensor]:
        batch, seed = Batch(*parts[:-1]), parts[-1]
        noise = tf.random.stateless_normal((*tf.unstack(tf.shape(batch.mu)[:2]), memory.sample_noise), seed)
        kept = 1.0 - tf.cast(batch.fresh, tf.float32)
        before = None if carried is None else tf.nest.map_structure(lambda variable: variable * kept, carried)
        with tf.GradientTape() as tape:
            terms, after = memory.loss_terms(batch, noise, before)
        variables = memory.learning
        optimizer.apply_gradients(zip(clipped(tape.gradient(terms["loss"], variables), clip, grad_clip), variables))
        if carried is not None:
            tf.nest.map_structure(lambda variable, value: variable.assign(value), carried, after)
        return terms

    return step


def make_optimizer(rnn: Rnn | Rssm) -> keras.Optimizer:
    """Adam, for the MDN-RNN with the learning rate min + (start - min) * decay^step (original doomrnn/rnn_train.py)."""
    import keras

    from env.run.training import adam

    if isinstance(rnn, Rssm) or rnn.decay == 1:
        return adam(rnn.learning_rate)
    start, end, decay = rnn.learning_rate, rnn.min_learning_rate, rnn.decay

    class Falling(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step: tf.Tensor) -> tf.Tensor:
            fall = keras.ops.exp(math.log(decay) * keras.ops.cast(step, "float32"))  # 0.99999 itself is no float32
            return end + (start - end) * fall

    return adam(Falling())


def make_carried(memory: Memory, rnn: Rnn | Rssm) -> Any:
    """Variables for what M carries between the windows of a stream; None for sequences of their own, which need none."""
    import tensorflow as tf

    streamed = isinstance(rnn, Rnn) and rnn.sequences == "stream"
    return tf.nest.map_structure(tf.Variable, memory.blank(rnn.batch)) if streamed else None


def eyes(memory: Any, weights: Path, settings: Settings) -> ConvVAE:
    """The V in a weights file, with which `memory`, an RSSM, sees and learns from now on."""
    from vae.vae import load_vae

    vae = load_vae(weights, settings.vae.z_size, settings.vae.kl_tolerance, settings.vae.dtype)
    memory.see_with(vae)
    return vae


def make_replay(capacity: int, task: Task, settings: Settings, memory: Memory, pixels: bool | None = None) -> Replay:
    """Where a run's episodes are kept to learn from: `capacity` frames; frames themselves or latents, as `pixels` or else M wants them."""
    pixels = settings.sees_pixels if pixels is None else pixels
    sizes = capacity, settings.vae.z_size, task.actions.size
    return Replay(*sizes, memory.with_last, pixels, settings.learns_health, told(task, settings))


def training_batches(run: Run, task: Task, memory: Memory) -> Callable[[int], Iterator[Batch]]:
    """From which step on -> M's batches, in the way of its kind.

    Raises:
        UserError: as `usable_episodes`.
    """
    settings, episodes = run.settings, usable_episodes(run)
    if not KINDS[settings.memory].replayed:
        return lambda done: batches(episodes, settings, done, told(task, settings))
    rssm = settings.rssm
    capacity = min(rssm.capacity, int((episodes.lengths + 1).sum()))
    replay = make_replay(capacity, task, settings, memory)
    replay.fill(episode_paths(run) if settings.sees_pixels else episodes.paths)
    replay.all_seen()
    replay.check(rssm.window)

    def cut(done: int) -> Iterator[Batch]:
        for step in range(done, rssm.steps):
            yield replay.sample(np.random.default_rng([settings.seed, 2, step]), rssm.batch, rssm.window)

    return cut


def train_rnn(run: Run, task: Task) -> None:
    """The rnn stage of a run."""
    settings, stage = run.settings, run.stage("rnn")
    if stage.check():
        print(f"rnn: finished already in {stage.dir}")
        return
    if settings.of_memory.source:
        take(run, "rnn", settings.of_memory.source, memory_meta(task, settings))
        return
    usable_episodes(run)  # refuses before TensorFlow starts
    start_tensorflow()
    import keras
    import tensorflow as tf

    from env.run.training import stream, train, with_seeds
    from env.run.weights import save_weights

    stage.start()
    owner = stage.identity()
    keras.utils.set_random_seed(settings.seed)
    own, kind = settings.of_memory, KINDS[settings.memory]
    memory, optimizer = make_memory(task, settings, own.dtype), make_optimizer(own)
    if own.start:
        begin_with(settings.memory_section, own.start, settings.task, memory_meta(task, settings), memory)
        warn_of_another_v(run)
    carried, source = make_carried(memory, own), training_batches(run, task, memory)
    window = own.window if kind.replayed else None
    sizes = settings.vae.z_size, task.actions.size
    signature = batch_signature(own.batch, window, *sizes, settings.sees_pixels, told(task, settings))
    vae = eyes(memory, vae_weights(run), settings) if settings.sees_pixels else None
    optimizer.build(memory.learning)

    def numbered(done: int) -> Iterator[tuple]:
        return with_seeds(stream(lambda: source(done), signature, ahead=4), settings.seed, done)

    step = make_step(memory, optimizer, own.grad_clip, carried, kind.clip)
    kept = [*(tf.nest.flatten(carried) if carried is not None else []), *(vae.weights if vae else [])]
    log_every = min(20 if not kind.replayed else 100, max(1, own.steps // 10))
    row = train(stage.dir, "rnn", memory, optimizer, step, numbered, own.steps, log_every=log_every, owner=owner, carried=kept)
    save_weights(stage.dir / "weights.npz", memory, memory_meta(task, settings) | {"steps": own.steps})
    if vae:
        save_weights(stage.dir / "vae.npz", vae, vae_meta(settings, own.steps))
        save_initial(stage.dir / "initial.npz", make_encoder(stage.dir / "vae.npz", settings.vae.z_size), first_frames(episode_paths(run)))
    stage.finish({"steps": own.steps, **row})
    print(f"rnn: {own.steps} steps, loss {row['loss']:.4f} -> {stage.dir / 'weights.npz'}")


def main() -> None:
    parsed = parser(__doc__ or "", "rnn").parse_args()
    task, path, settings = resolve(parsed, "rnn")
    train_rnn(Run(existing(path, task), settings), task)


if __name__ == "__main__":
    run_command(main)
