"""What the training of V and of M share: the loop that counts, logs, checkpoints and resumes around a compiled step."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from env.run.checkpoints import Checkpoint, Checkpoints
from env.run.command import progress
from env.run.compute import available_cores
from env.run.errors import UserError
from env.run.files import JsonlLog, read_jsonl
from env.run.stopping import Stopped, asked_to_stop

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


def arrays_of(kept: Variables) -> dict[str, np.ndarray]:
    """Variables as the arrays of a checkpoint."""
    return {f"{kind}/{i}": np.asarray(v) for kind, variables in kept.items() for i, v in enumerate(variables)}


def restore(checkpoint: Checkpoint | None, kept: Variables) -> int:
    """Set variables to what a checkpoint holds and return its number; 0, and nothing is set, where there is none yet.

    Raises:
        UserError: it holds other variables, as those of another version of the program would be.
    """
    if checkpoint is None:
        return 0
    wanted = {f"{kind}/{i}": v for kind, variables in kept.items() for i, v in enumerate(variables)}
    found = {name: array.shape for name, array in checkpoint.arrays.items()}
    if found != {name: tuple(v.shape) for name, v in wanted.items()}:
        raise UserError(f"checkpoint {checkpoint.number} is of another version of the program: start a new run")
    for name, variable in wanted.items():
        variable.assign(checkpoint.arrays[name])
    return checkpoint.number


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


class Row:
    """A row of a training's log while it is made: the sums of its steps' terms. It is kept in checkpoints, for these come at any step.

    Args:
        begun: what `state` gave, or nothing for a new one.

    Attributes:
        count: steps so far.
    """

    def __init__(self, begun: dict[str, Any] | None = None) -> None:
        begun = begun or {"sums": {}, "count": 0, "seconds": 0.0}
        self._sums: dict[str, Any] = {key: tf.constant(value, tf.float32) for key, value in begun["sums"].items()}
        self.count, self._before, self._started = begun["count"], begun["seconds"], time.monotonic()

    def add(self, terms: dict[str, tf.Tensor]) -> None:
        """Add a step's."""
        self._sums = {key: self._sums[key] + value if self._sums else value for key, value in terms.items()}
        self.count += 1

    def state(self) -> dict[str, Any]:
        """What can be written as JSON, and gone on from."""
        return {"sums": {key: float(value) for key, value in self._sums.items()}, "count": self.count, "seconds": self.seconds()}

    def seconds(self) -> float:
        """Since it was begun, but for the time between a stop and what came after."""
        return self._before + time.monotonic() - self._started

    def means(self) -> dict[str, float]:
        """Of each term."""
        return {key: float(value) / self.count for key, value in self._sums.items()}

    def finish(self, step: int) -> dict[str, Any]:
        """The row, up to `step`."""
        return {"step": step, **self.means(), "seconds_per_step": self.seconds() / self.count, "cores": available_cores()}


def resumed_log(folder: Path, latest: Checkpoint | None) -> JsonlLog:
    """The log of a training that goes on from a checkpoint, without what came after it. Rows that are gone are told of, and those that
    will come again."""
    done, path = latest.number if latest else 0, folder / "log.jsonl"
    rows = read_jsonl(path) if path.exists() else []
    log = JsonlLog(path, rows=[row for row in rows if row["step"] <= done], steps="step")
    if latest and log.rows < len(rows):
        print(f"{folder.name}: going on from step {done}; the log went to {rows[-1]['step']}", file=sys.stderr, flush=True)
    if latest and log.rows < latest.meta["rows"]:
        print(f"warning: {log.path} has lost {latest.meta['rows'] - log.rows} of its rows", file=sys.stderr, flush=True)
    return log


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
    owner: str = "",
    save_every: float = 60.0,
    carried: Sequence[tf.Variable] = (),
) -> dict[str, float]:
    """Train up to `steps` steps, from the latest checkpoint in `folder` if there is one.

    Args:
        folder: holds checkpoints/ and log.jsonl.
        name: shown by the progress bar.
        step_function: one compiled training step: a batch -> dict of named scalars.
        batches: from which step on -> the batches, so that a resumed run sees what an uninterrupted one would.
        steps: total number of training steps.
        log_every: steps whose terms are averaged into a row of the log.
        owner: see Checkpoints.
        save_every: seconds between checkpoints, at least; see Checkpoints.due.
        carried: what the step keeps from one batch to the next, to be kept in the checkpoint.

    Returns:
        The last row of the log.

    Raises:
        UserError: no checkpoint can be read, or the loss is not finite.
        Stopped: this process was asked to stop; a checkpoint is written.
    """
    checkpoints = Checkpoints(folder, owner)
    if not optimizer.built:
        optimizer.build(model.trainable_variables)
    kept = {"model": list(model.weights), "optimizer": list(optimizer.variables), "carried": list(carried)}
    latest = checkpoints.latest()
    done = restore(latest, kept)
    if done > steps:
        raise UserError(f"{name}: {steps} steps are asked for, but its checkpoint is of step {done}: give at least so many")
    row = Row(latest.meta if latest else None)
    log = resumed_log(folder, latest)
    if latest is None:
        checkpoints.save(0, arrays_of(kept), row.state() | {"rows": 0})  # from here on, there always is one
    bar = progress(desc=name, total=steps, initial=done, unit="step")
    with asked_to_stop() as asked:
        for step, batch in enumerate(batches(done), start=done + 1):
            if step > steps:
                break
            terms = step_function(*batch)
            row.add(terms)
            bar.update()
            if step % log_every == 0 or step == steps:
                whole = row.finish(step)
                if not np.isfinite(whole["loss"]):
                    what = f"the loss became {whole['loss']} by step {step}"
                    raise UserError(f"{name}: {what}: lower the learning rate, in another run; the checkpoints before it are kept")
                log.append(whole, durable=True)  # a checkpoint may count on it
                bar.set_postfix({key: f"{whole[key]:.4g}" for key in terms})
                row = Row()
            if checkpoints.due(save_every) or step == steps or asked.signal:
                state = row.state() | {"rows": log.rows}
                if all(map(np.isfinite, state["sums"].values())):  # what is lost already is not worth going on from
                    checkpoints.save(step, arrays_of(kept), state)
            if asked.signal and step < steps:
                raise Stopped(asked.signal, f"at step {step} of {steps} of {name}")
    bar.close()
    rows = read_jsonl(log.path)  # killed after its last step, it has no other row to give
    return rows[-1] if rows else {"loss": float("nan")}  # lost, as was said
