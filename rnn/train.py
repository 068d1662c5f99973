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

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from env.command import existing, parser, resolve, run_command
from env.compute import start_tensorflow
from env.episodes import episode_path, read_episode
from env.files import read_jsonl
from env.rundir import Run
from env.settings import UserError
from env.tasks import Settings, Task

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from rnn.rnn import MDNRNN

KEYS = ("mu", "logvar", "action")


def usable_episodes(run: Run) -> list[Path]:
    """The encoded episodes that are long enough for a training sequence.

    Raises:
        UserError: the encode stage is not finished, whole episodes differ in length, or too few are long enough.
    """
    settings = run.settings
    if not run.stage("encode").check():
        raise UserError(f"{run.path} has no latents: run vae/encode.py {settings.task} --run {run.path} first")
    lengths = {row["episode"]: row["length"] for row in read_jsonl(run.stage("extract").log)}
    if not settings.rnn.window and len(set(lengths.values())) > 1:
        raise UserError("rnn.window is 0 (whole episodes), but the recorded episodes differ in length: give a --window, such as 100")
    long = [i for i, length in lengths.items() if length >= settings.rnn.window]
    if len(long) < settings.rnn.batch:
        raise UserError(
            f"rnn.batch is {settings.rnn.batch}, but only {len(long)} episodes have {settings.rnn.window} frames: "
            "take a smaller batch or window"
        )
    return [episode_path(run.path / "encode" / "latents", i) for i in sorted(long)]


def batch_at(paths: list[Path], settings: Settings, step: int) -> tuple[np.ndarray, ...]:
    """The batch of training step `step`: different episodes drawn at random, cut to the window from a random start.

    Returns:
        mu, logvar, action: float16, float16 and float32 [batch, T, size].
    """
    rng = np.random.default_rng([settings.seed, 2, step])
    sequences = []
    for choice in rng.choice(len(paths), settings.rnn.batch, replace=False):
        episode = read_episode(paths[choice], KEYS)
        length = settings.rnn.window or len(episode["mu"])
        start = rng.integers(0, len(episode["mu"]) - length + 1)
        sequences.append([episode[key][start : start + length] for key in KEYS])
    mu, logvar, action = (np.stack(parts) for parts in zip(*sequences))
    return mu, logvar, action


def make_step(model: MDNRNN, optimizer: keras.Optimizer, grad_clip: float) -> Callable[..., dict[str, tf.Tensor]]:
    """The compiled training step: mu, logvar, action [B, T, size] and an int32 [2] seed -> the terms of the loss."""
    import tensorflow as tf

    @tf.function
    def step(mu: tf.Tensor, logvar: tf.Tensor, action: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        noise = tf.random.stateless_normal(tf.shape(mu), seed)
        with tf.GradientTape() as tape:
            terms = model.loss_terms(mu, logvar, action, noise)
        variables = model.trainable_variables
        # Element by element, not by norm: the original's clip_by_value.
        gradients = [tf.clip_by_value(g, -grad_clip, grad_clip) for g in tape.gradient(terms["loss"], variables)]
        optimizer.apply_gradients(zip(gradients, variables))
        return terms

    return step


def train_rnn(run: Run, task: Task) -> None:
    """The rnn stage of a run."""
    settings, stage = run.settings, run.stage("rnn")
    if stage.check():
        print(f"rnn: finished already in {stage.dir}")
        return
    paths = usable_episodes(run)
    start_tensorflow()
    import keras
    import tensorflow as tf

    from rnn.rnn import MDNRNN
    from vae.training import adam, stream, train
    from vae.vae import save_weights

    stage.start()
    keras.utils.set_random_seed(settings.seed)
    rnn = settings.rnn
    model = MDNRNN(settings.vae.z_size, task.action_size, rnn.units, rnn.mixtures)
    optimizer = adam(rnn.learning_rate)

    step = make_step(model, optimizer, rnn.grad_clip)

    def batches(done: int) -> Iterator[tuple]:
        signature = (
            tf.TensorSpec((rnn.batch, None, settings.vae.z_size), tf.float16),
            tf.TensorSpec((rnn.batch, None, settings.vae.z_size), tf.float16),
            tf.TensorSpec((rnn.batch, None, task.action_size), tf.float32),
        )
        source = (batch_at(paths, settings, number) for number in range(done, rnn.steps))
        for number, batch in enumerate(stream(lambda: source, signature, ahead=4), start=done):
            yield *batch, tf.constant([settings.seed, number])

    row = train(stage.dir, "rnn", model, optimizer, step, batches, rnn.steps, log_every=min(20, max(1, rnn.steps // 10)))
    meta = {"model": "rnn", "task": task.name, "z_size": settings.vae.z_size, "units": rnn.units, "mixtures": rnn.mixtures}
    save_weights(stage.dir / "weights.npz", model, meta | {"steps": rnn.steps})
    stage.finish({"steps": rnn.steps, **row})
    print(f"rnn: {rnn.steps} steps, loss {row.get('loss', float('nan')):.4f} -> {stage.dir / 'weights.npz'}")


def main() -> None:
    parsed = parser(__doc__ or "", "rnn").parse_args()
    task, path, settings = resolve(parsed, "rnn")
    train_rnn(Run(existing(path, task), settings), task)


if __name__ == "__main__":
    run_command(main)
