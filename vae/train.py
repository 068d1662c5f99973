"""Train V on recorded frames.

    python vae/train.py carracing
    python vae/train.py carracing --scale day --epochs 1 --dtype mixed_bfloat16

Reads RUN/extract, writes RUN/vae: weights.npz, log.jsonl, checkpoints/; with --beta-privileged teller.npz, too. The same command resumes.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from env.episodes import PRIVILEGED, frame_batches, unpacked
from env.recordings import recordings
from env.run.command import existing, parser, resolve, run_command
from env.run.compute import start_tensorflow
from env.run.errors import UserError
from env.run.files import load_arrays, read_jsonl
from env.run.rundir import Run
from env.run.settings import Settings
from env.run.taken import begin_with, source_files, take
from env.run.weights import assign_weights, fingerprint, save_weights
from env.tasks import Task

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from vae.vae import ConvVAE

TELLER = "teller.npz"  # beside V's weights


def episode_paths(run: Run) -> list[Path]:
    """The recorded episodes of a run, in order, and then those that it has pooled.

    Raises:
        UserError: the extract stage is not finished, or as `env.recordings.pooled`.
    """
    if not run.stage("extract").check():
        raise UserError(f"{run.path} has no finished recordings: run controller/extract.py {run.settings.task} --run {run.path} first")
    return recordings(run.path, run.settings)


def count_frames(run: Run) -> int:
    """Frames in the run's recordings, from their log."""
    return sum(row["length"] for row in read_jsonl(run.stage("extract").log))


def steps_per_epoch(frames: int, settings: Settings) -> int:
    """Whole batches in a pass over `frames` frames."""
    steps = frames // settings.vae.batch
    if steps == 0:
        raise UserError(f"vae.batch is {settings.vae.batch}, but there are only {frames} frames: take a smaller batch")
    return steps


def batches_from(paths: list[Path], settings: Settings, per_epoch: int, done: int, privileged: int = 0) -> Iterator[tuple[np.ndarray, ...]]:
    """Batches of all epochs, from the one after `done` on, with the `privileged` answers if V learns any; an epoch's order depends on the
    seed and its number alone."""
    beside = (PRIVILEGED,) if privileged else ()
    for epoch in range(done // per_epoch, settings.vae.epochs):
        rng = np.random.default_rng([settings.seed, 1, epoch])
        skip = max(0, done - epoch * per_epoch)
        for frames, *told in frame_batches(paths, settings.vae.batch, rng, skip=skip, beside=beside):
            yield (frames, *(unpacked(bits, privileged) for bits in told))


def make_teller(z_size: int, privileged: int, hidden: int) -> keras.Model:
    """What is to tell from V's z what a world tells in training alone: z -> the logits of `privileged` answers, with a layer of so many
    `hidden` units between them, or none. It is there so that z has to hold them; only a V that begins with this one asks it later."""
    import keras

    layers = [keras.layers.Dense(hidden, activation="silu", name="teller_dense")] if hidden else []
    return keras.Sequential([keras.Input((z_size,)), *layers, keras.layers.Dense(privileged, name="teller_output")], name="teller")


def begin_teller(weights: Path, teller: keras.Model) -> None:
    """Set a teller's weights to those of the one that learned with the V in `weights`, if that lies beside it and has this shape: else V
    would forget what it holds, to begin with, for one that knows nothing."""
    path = weights.with_name(TELLER)
    arrays, meta = load_arrays(path) if path.exists() else ({}, {})
    fits = {name: array.shape for name, array in arrays.items()} == {v.path: tuple(v.shape) for v in teller.weights}
    if fits and meta.get("vae") == fingerprint(weights):
        assign_weights(path, arrays, teller)
        print(f"vae: what tells what is privileged begins with {path}")


def make_step(
    model: ConvVAE, optimizer: keras.Optimizer, teller: keras.Model | None = None, beta: float = 0.0
) -> Callable[..., dict[str, tf.Tensor]]:
    """The compiled training step: frames uint8 [B, 64, 64, 3], with a teller what is privileged of them, uint8 [B, K], and an int32 [2]
    seed -> the terms of the loss.

    Args:
        model, optimizer: what is trained, and how.
        teller, beta: see `make_teller`, and the weight of its loss, summed over the answers.
    """
    import tensorflow as tf

    @tf.function
    def step(frames: tf.Tensor, *rest: tf.Tensor) -> dict[str, tf.Tensor]:
        noise = tf.random.stateless_normal((tf.shape(frames)[0], model.z_size), rest[-1])
        with tf.GradientTape() as tape:
            terms, z = model.loss_and_z(frames, noise)
            if teller:
                answers = tf.nn.sigmoid_cross_entropy_with_logits(tf.cast(rest[0], tf.float32), teller(z))
                terms[PRIVILEGED] = tf.reduce_mean(tf.reduce_sum(answers, axis=-1))
                terms["loss"] += beta * terms[PRIVILEGED]
        variables = model.trainable_variables + (teller.trainable_variables if teller else [])
        optimizer.apply_gradients(zip(tape.gradient(terms["loss"], variables), variables))
        return terms

    return step


def random_vae(run: Run) -> None:
    """The vae stage of a run whose V is to learn with M, from nothing."""
    start_tensorflow()
    import keras

    from vae.vae import ConvVAE

    settings, stage = run.settings, run.stage("vae")
    stage.start()
    keras.utils.set_random_seed(settings.seed)
    save_weights(stage.dir / "weights.npz", ConvVAE(settings.vae.z_size), vae_meta(settings, 0))
    stage.finish({"steps": 0, "source": "random"})
    print(f"vae: random weights -> {stage.dir / 'weights.npz'}")


def vae_meta(settings: Settings, steps: int) -> dict[str, Any]:
    """What a weights file of V says of it."""
    return {"model": "vae", "task": settings.task, "z_size": settings.vae.z_size, "steps": steps}


def train_vae(run: Run, task: Task) -> None:
    """The vae stage of a run."""
    settings, stage = run.settings, run.stage("vae")
    if stage.check():
        print(f"vae: finished already in {stage.dir}")
        return
    if settings.vae.source == "random":
        random_vae(run)
        return
    wanted = {"model": "vae", "task": settings.task, "z_size": settings.vae.z_size}
    if settings.vae.source:
        take(run, "vae", settings.vae.source, wanted)
        return
    paths = episode_paths(run)
    per_epoch = steps_per_epoch(count_frames(run), settings)
    steps = per_epoch * settings.vae.epochs
    if settings.vae.limit_steps:
        steps = min(steps, settings.vae.limit_steps)
    start_tensorflow()
    import keras
    import tensorflow as tf

    from env.run.training import adam, stream, train, with_seeds
    from vae.vae import FRAME, ConvVAE

    stage.start()
    owner = stage.identity()
    keras.utils.set_random_seed(settings.seed)
    own = settings.vae
    model = ConvVAE(own.z_size, own.kl_tolerance, own.dtype, own.beta_outliers)
    answers = task.privileged if own.beta_privileged else 0
    teller = make_teller(own.z_size, answers, own.privileged_hidden) if answers else None
    if settings.vae.start:
        begin_with("vae", settings.vae.start, settings.task, wanted, model)
        if teller:
            begin_teller(source_files("vae", settings.vae.start, settings.task)[1], teller)
    optimizer = adam(own.learning_rate)
    told = teller.trainable_variables if teller else []
    optimizer.build(model.trainable_variables + told)
    step = make_step(model, optimizer, teller, own.beta_privileged)

    def batches(done: int) -> Iterator[tuple]:
        parts = (FRAME, (answers,)) if answers else (FRAME,)
        signature = tuple(tf.TensorSpec((own.batch, *part), tf.uint8) for part in parts)
        data = stream(lambda: batches_from(paths, settings, per_epoch, done, answers), signature, ahead=16)
        return with_seeds(data, settings.seed, done)

    log_every = min(100, max(1, steps // 10))
    row = train(stage.dir, "vae", model, optimizer, step, batches, steps, log_every=log_every, owner=owner, carried=told)
    weights = stage.dir / "weights.npz"
    save_weights(weights, model, vae_meta(settings, steps))
    if teller:
        save_weights(stage.dir / TELLER, teller, {"model": "teller", "task": settings.task, "vae": fingerprint(weights)})
    stage.finish({"steps": steps, **row})
    print(f"vae: {steps} steps, loss {row['loss']:.2f} -> {weights}")


def main() -> None:
    parsed = parser(__doc__ or "", "vae").parse_args()
    task, path, settings = resolve(parsed, "vae")
    train_vae(Run(existing(path, task), settings), task)


if __name__ == "__main__":
    run_command(main)
