"""What the training of V and of M share: the loop that counts, logs, checkpoints and resumes around a compiled step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from env.run.command import progress
from env.run.compute import available_cores
from env.run.errors import UserError
from env.run.files import JsonlLog, load_arrays, read_jsonl, save_arrays

Step = Callable[..., dict[str, tf.Tensor]]


class Adam(keras.optimizers.Adam):
    """Keras' Adam, each variable updated by the one operation that TF1's Adam used: the same formula (Kingma & Ba 2015, the
    form before section 2.1), in one pass through memory instead of about ten."""

    def update_step(self, gradient: tf.Tensor, variable: Any, learning_rate: tf.Tensor) -> None:
        dtype, step, index = variable.dtype, tf.cast(self.iterations + 1, tf.float32), self._get_variable_index(variable)
        beta1, beta2, epsilon = (tf.constant(value, dtype) for value in (self.beta_1, self.beta_2, self.epsilon))
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=beta1**step,
            beta2_power=beta2**step,
            lr=tf.cast(learning_rate, dtype),
            beta1=beta1,
            beta2=beta2,
            epsilon=epsilon,
            grad=tf.cast(gradient, dtype),
        )


def adam(learning_rate: float | keras.optimizers.schedules.LearningRateSchedule) -> keras.optimizers.Adam:
    """Adam as TF1 had it: epsilon 1e-8, where Keras' default is 1e-7."""
    return Adam(learning_rate, epsilon=1e-8)


Variables = dict[str, list[Any]]  # what a checkpoint keeps, by kind


def save_checkpoint(path: Path, kept: Variables, step: int) -> None:
    """Variables and step count in one npz, atomically."""
    arrays = {f"{kind}/{i}": np.asarray(v) for kind, variables in kept.items() for i, v in enumerate(variables)}
    save_arrays(path, arrays, {"step": step})


def load_checkpoint(path: Path, kept: Variables) -> int:
    """Restore variables from `path` and return the step count; 0 when there is no checkpoint yet.

    Raises:
        UserError: the file is damaged.
    """
    if not path.exists():
        return 0
    arrays, meta = load_arrays(path, "checkpoint")
    for kind, variables in kept.items():
        for i, variable in enumerate(variables):
            variable.assign(arrays[f"{kind}/{i}"])
    return int(meta["step"])


def stream(source: Callable[[], Iterator[Any]], signature: Any, ahead: int) -> Iterator[Any]:
    """The items of `source` as tensors, made `ahead` of time by tf.data in another thread.

    Args:
        source: makes the iterator of numpy arrays, or of tuples of them.
        signature: tf.TensorSpec of an item.
        ahead: items that wait at most.

    Raises:
        UserError: the source raised it (tf.data would bury it in an error of its own).
    """
    failures: list[UserError] = []

    def guarded() -> Iterator[Any]:
        try:
            yield from source()
        except UserError as error:
            failures.append(error)

    yield from tf.data.Dataset.from_generator(guarded, output_signature=signature).prefetch(ahead)
    if failures:
        raise failures[0]


def with_seeds(batches: Iterator[Any], seed: int, done: int) -> Iterator[tuple]:
    """Each batch with a seed of its own, int32 [2], from the run's seed and the number of its training step: the noise with which z
    is sampled is new for each step, and the same when a training resumes.

    Args:
        batches: those of the steps after `done`, tensors or tuples of them.
    """
    for number, batch in enumerate(batches, start=done):
        yield (*(batch if isinstance(batch, tuple) else (batch,)), tf.constant([seed, number]))


def train(
    folder: Path,
    name: str,
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    step_function: Step,
    batches: Callable[[int], Iterator[tuple]],
    steps: int,
    *,
    log_every: int,
    save_every: float = 60.0,
    carried: Sequence[tf.Variable] = (),
) -> dict[str, float]:
    """Train up to `steps` steps, from the checkpoint in `folder` if there is one.

    Args:
        folder: holds checkpoint.npz and log.jsonl.
        name: shown by the progress bar.
        step_function: one compiled training step: a batch -> dict of named scalars.
        batches: from which step on -> the batches, so that a resumed run sees what an uninterrupted one would.
        steps: total number of training steps.
        log_every: steps whose terms are averaged into a row of the log.
        save_every: seconds between checkpoints.
        carried: what the step keeps from one batch to the next, to be kept in the checkpoint.

    Returns:
        The last row of the log.
    """
    checkpoint = folder / "checkpoint.npz"
    if not optimizer.built:
        optimizer.build(model.trainable_variables)
    kept = {"model": list(model.weights), "optimizer": list(optimizer.variables), "carried": list(carried)}
    done = load_checkpoint(checkpoint, kept)
    log = JsonlLog(folder / "log.jsonl", keep=lambda row: row["step"] <= done, steps="step")
    sums: dict[str, tf.Tensor] = {}
    count = 0
    started = saved = time.monotonic()
    bar = progress(desc=name, total=steps, initial=done, unit="step")
    for step, batch in enumerate(batches(done), start=done + 1):
        if step > steps:
            break
        terms = step_function(*batch)
        sums = {key: sums[key] + value if sums else value for key, value in terms.items()}
        count += 1
        bar.update()
        if step % log_every == 0 or step == steps:
            row = {"step": step, **{key: float(value) / count for key, value in sums.items()}}
            row |= {"seconds_per_step": (time.monotonic() - started) / count, "cores": available_cores()}
            if not np.isfinite(row["loss"]):
                raise UserError(f"{name}: the loss became {row['loss']} at step {step}: lower the learning rate; the checkpoint is kept")
            log.append(row)
            bar.set_postfix({key: f"{row[key]:.4g}" for key in terms})
            sums, count, started = {}, 0, time.monotonic()
        if time.monotonic() - saved > save_every or step == steps:
            # A checkpoint always follows a full row, so that no row of the log covers steps twice.
            if count == 0:
                save_checkpoint(checkpoint, kept, step)
                saved = time.monotonic()
    bar.close()
    return read_jsonl(log.path)[-1]  # killed after its last step, it has no other row to give
