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
from typing import TYPE_CHECKING

from env.command import existing, parser, resolve, run_command
from env.compute import start_tensorflow
from env.rundir import Run
from env.sections import Rnn
from env.tasks import Task
from rnn.sequences import Batch, batches, usable_episodes

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from rnn.rnn import MDNRNN


def make_step(model: MDNRNN, optimizer: keras.Optimizer, rnn: Rnn, carried: list[tf.Variable]) -> Callable[..., dict[str, tf.Tensor]]:
    """The compiled training step: the arrays of a Batch and an int32 [2] seed -> the terms of the loss.

    Args:
        model, optimizer: what is trained, and how.
        rnn: the settings.
        carried: h and c [B, units] after the last batch, for a stream; else empty.
    """
    import tensorflow as tf

    @tf.function
    def step(
        mu: tf.Tensor, logvar: tf.Tensor, action: tf.Tensor, restart: tf.Tensor, fresh: tf.Tensor, seed: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        noise = tf.random.stateless_normal(tf.shape(mu), seed)
        kept = 1.0 - tf.cast(fresh, tf.float32)
        before = tuple(variable * kept for variable in carried) or None
        with tf.GradientTape() as tape:
            terms, after = model.loss_terms(mu, logvar, action, noise, restart, before)
        variables = model.trainable_variables
        # Element by element, not by norm: the original's clip_by_value.
        gradients = [tf.clip_by_value(g, -rnn.grad_clip, rnn.grad_clip) for g in tape.gradient(terms["loss"], variables)]
        optimizer.apply_gradients(zip(gradients, variables))
        for variable, value in zip(carried, after):
            variable.assign(value)
        return terms

    return step


def make_optimizer(rnn: Rnn) -> keras.Optimizer:
    """Adam, with the learning rate min + (start - min) * decay^step (original doomrnn/rnn_train.py)."""
    import keras

    from vae.training import adam

    class Falling(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step: tf.Tensor) -> tf.Tensor:
            fall = keras.ops.exp(math.log(rnn.decay) * keras.ops.cast(step, "float32"))  # 0.99999 itself is no float32
            return rnn.min_learning_rate + (rnn.learning_rate - rnn.min_learning_rate) * fall

    return adam(rnn.learning_rate if rnn.decay == 1 else Falling())


def make_carried(rnn: Rnn) -> list[tf.Variable]:
    """Room for h and c between the windows of a stream; none is needed for sequences of their own."""
    import tensorflow as tf

    return [tf.Variable(tf.zeros((rnn.batch, rnn.units))) for _ in "hc"] if rnn.sequences == "stream" else []


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

    from rnn.rnn import make_rnn, rnn_meta
    from vae.training import stream, train
    from vae.vae import save_weights

    stage.start()
    keras.utils.set_random_seed(settings.seed)
    rnn = settings.rnn
    model, optimizer, carried = make_rnn(task, settings, rnn.dtype), make_optimizer(rnn), make_carried(rnn)

    def numbered(done: int) -> Iterator[tuple]:
        shape, z_size = (rnn.batch, None), settings.vae.z_size
        signature = Batch(
            tf.TensorSpec((*shape, z_size), tf.float16),
            tf.TensorSpec((*shape, z_size), tf.float16),
            tf.TensorSpec((*shape, task.action_size), tf.float32),
            tf.TensorSpec(shape, tf.float32),
            tf.TensorSpec((), tf.bool),
        )
        for number, batch in enumerate(stream(lambda: batches(episodes, settings, done), signature, ahead=4), start=done):
            yield *batch, tf.constant([settings.seed, number])

    step, log_every = make_step(model, optimizer, rnn, carried), min(20, max(1, rnn.steps // 10))
    row = train(stage.dir, "rnn", model, optimizer, step, numbered, rnn.steps, log_every=log_every, carried=carried)
    save_weights(stage.dir / "weights.npz", model, rnn_meta(task, settings) | {"steps": rnn.steps})
    stage.finish({"steps": rnn.steps, **row})
    print(f"rnn: {rnn.steps} steps, loss {row.get('loss', float('nan')):.4f} -> {stage.dir / 'weights.npz'}")


def main() -> None:
    parsed = parser(__doc__ or "", "rnn").parse_args()
    task, path, settings = resolve(parsed, "rnn")
    train_rnn(Run(existing(path, task), settings), task)


if __name__ == "__main__":
    run_command(main)
