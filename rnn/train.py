"""Train M on latents.

    python rnn/train.py carracing
    python rnn/train.py carracing --scale day --steps 3000

Reads RUN/encode, writes RUN/rnn: weights.npz, log.jsonl, checkpoint.npz. The same command resumes.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from env.run.command import existing, parser, resolve, run_command
from env.run.compute import start_tensorflow
from env.run.rundir import Run
from env.run.settings import Rnn
from env.tasks import Task
from rnn.memory import Batch
from rnn.sequences import batches, usable_episodes

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from rnn.memory import Memory


def make_step(memory: Memory, optimizer: keras.Optimizer, rnn: Rnn, carried: Any) -> Callable[..., dict[str, tf.Tensor]]:
    """The compiled training step: the arrays of a Batch and an int32 [2] seed -> the terms of the loss.

    Args:
        memory, optimizer: what is trained, and how.
        rnn: the settings.
        carried: a nest of variables for what M carries from batch to batch of a stream; else None.
    """
    import tensorflow as tf

    @tf.function
    def step(
        mu: tf.Tensor, logvar: tf.Tensor, action: tf.Tensor, first: tf.Tensor, fresh: tf.Tensor, seed: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        noise = tf.random.stateless_normal((*tf.unstack(tf.shape(mu)[:2]), memory.sample_noise), seed)
        kept = 1.0 - tf.cast(fresh, tf.float32)
        before = None if carried is None else tf.nest.map_structure(lambda variable: variable * kept, carried)
        with tf.GradientTape() as tape:
            terms, after = memory.loss_terms(Batch(mu, logvar, action, first, fresh), noise, before)
        variables = memory.trainable_variables
        # Element by element, not by norm: the original's clip_by_value.
        gradients = [tf.clip_by_value(g, -rnn.grad_clip, rnn.grad_clip) for g in tape.gradient(terms["loss"], variables)]
        optimizer.apply_gradients(zip(gradients, variables))
        if carried is not None:
            tf.nest.map_structure(lambda variable, value: variable.assign(value), carried, after)
        return terms

    return step


def make_optimizer(rnn: Rnn) -> keras.Optimizer:
    """Adam, with the learning rate min + (start - min) * decay^step (original doomrnn/rnn_train.py)."""
    import keras

    from env.run.training import adam

    class Falling(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step: tf.Tensor) -> tf.Tensor:
            fall = keras.ops.exp(math.log(rnn.decay) * keras.ops.cast(step, "float32"))  # 0.99999 itself is no float32
            return rnn.min_learning_rate + (rnn.learning_rate - rnn.min_learning_rate) * fall

    return adam(rnn.learning_rate if rnn.decay == 1 else Falling())


def make_carried(memory: Memory, rnn: Rnn) -> Any:
    """Variables for what M carries between the windows of a stream; None for sequences of their own, which need none."""
    import tensorflow as tf

    return tf.nest.map_structure(tf.Variable, memory.blank(rnn.batch)) if rnn.sequences == "stream" else None


def train_rnn(run: Run, task: Task) -> None:
    """The rnn stage of a run."""
    settings, stage = run.settings, run.stage("rnn")
    if stage.check():
        print(f"rnn: finished already in {stage.dir}")
        return
    episodes = usable_episodes(run)
    start_tensorflow()
    import keras
    import tensorflow as tf

    from env.run.training import stream, train, with_seeds
    from env.run.weights import save_weights
    from rnn.memory import make_memory, memory_meta

    stage.start()
    keras.utils.set_random_seed(settings.seed)
    rnn = settings.rnn
    memory, optimizer = make_memory(task, settings, rnn.dtype), make_optimizer(rnn)
    carried = make_carried(memory, rnn)

    def numbered(done: int) -> Iterator[tuple]:
        shape, z_size = (rnn.batch, None), settings.vae.z_size
        signature = Batch(
            tf.TensorSpec((*shape, z_size), tf.float16),
            tf.TensorSpec((*shape, z_size), tf.float16),
            tf.TensorSpec((*shape, task.actions.size), tf.float32),
            tf.TensorSpec(shape, tf.float32),
            tf.TensorSpec((), tf.bool),
        )
        return with_seeds(stream(lambda: batches(episodes, settings, done), signature, ahead=4), settings.seed, done)

    step, log_every = make_step(memory, optimizer, rnn, carried), min(20, max(1, rnn.steps // 10))
    kept = tf.nest.flatten(carried) if carried is not None else []
    row = train(stage.dir, "rnn", memory, optimizer, step, numbered, rnn.steps, log_every=log_every, carried=kept)
    save_weights(stage.dir / "weights.npz", memory, memory_meta(task, settings) | {"steps": rnn.steps})
    stage.finish({"steps": rnn.steps, **row})
    print(f"rnn: {rnn.steps} steps, loss {row['loss']:.4f} -> {stage.dir / 'weights.npz'}")


def main() -> None:
    parsed = parser(__doc__ or "", "rnn").parse_args()
    task, path, settings = resolve(parsed, "rnn")
    train_rnn(Run(existing(path, task), settings), task)


if __name__ == "__main__":
    run_command(main)
