"""Turn recorded frames into latents: mu and logvar of each frame, next to the actions.

    python vae/encode.py carracing

Reads RUN/extract and RUN/vae, writes RUN/encode/latents/*.npz (one for each episode) and RUN/encode/initial.npz: mu and
logvar of up to 1000 first frames, where dreams start (original: rnn/series.py, initial_z). z itself is never stored: it is
sampled anew wherever it is used. The same command resumes.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from collections.abc import Callable
from typing import Any

import numpy as np

from env.episodes import LATENTS, Episode, episode_path, is_whole, read_episode, write_episode
from env.run.command import existing, parser, progress, resolve, run_command
from env.run.compute import start_tensorflow
from env.run.errors import UserError
from env.run.files import save_arrays
from env.run.rundir import Run
from env.run.stages import pool_path
from env.run.weights import fingerprint
from vae.train import episode_paths

INITIAL = 1000  # first frames kept as starting points of dreams
CHUNK = 200  # frames encoded at a time

Encoder = Callable[[np.ndarray], tuple[Any, Any]]


def vae_weights(run: Run) -> Path:
    """The run's trained V.

    Raises:
        UserError: the vae stage is not finished.
    """
    if not run.stage("vae").check():
        raise UserError(f"{run.path} has no trained V: run vae/train.py {run.settings.task} --run {run.path} first")
    return run.path / "vae" / "weights.npz"


def make_encoder(weights: Path, z_size: int, dtype: str = "float32") -> Encoder:
    """The V in a weights file, compiled: frames uint8 [CHUNK, 64, 64, 3] -> mu, logvar, each float32 [CHUNK, z_size]."""
    start_tensorflow()
    import tensorflow as tf

    from vae.vae import load_vae

    encode = load_vae(weights, z_size, dtype=dtype).fixed_encoder(CHUNK)
    return lambda frames: encode(tf.constant(frames))


def encode_episode(encode: Encoder, source: Path, target: Path) -> None:
    """Write the latents of the recorded episode `source` to `target`."""
    # M's training reads each file many times.
    write_episode(target, latents_of(encode, read_episode(source)), compress=False)


def latents_of(encode: Encoder, episode: Episode) -> Episode:
    """An episode (env/episodes.py) with V's mu and logvar, float16, in the place of its frames."""
    rest = {key: array for key, array in episode.items() if key != "obs"}
    frames = episode["obs"]
    padded = np.concatenate([frames, np.zeros((-len(frames) % CHUNK, *frames.shape[1:]), np.uint8)])
    parts = [encode(padded[start : start + CHUNK]) for start in range(0, len(padded), CHUNK)]
    mu, logvar = (np.concatenate([np.asarray(p[i]) for p in parts])[: len(frames)] for i in (0, 1))
    return rest | {"mu": mu.astype(np.float16), "logvar": logvar.astype(np.float16)}


def known_latents(run: Run, number: int) -> Episode | None:
    """The latents of episode `number`, if it is a pooled one that its run has encoded by the same V; else None."""
    settings, pool = run.settings, pool_path(run.path, run.settings)
    index = number - settings.extract.episodes
    if not settings.extract.pool or index < 0 or not (pool / "vae" / "weights.npz").exists():
        return None
    if fingerprint(pool / "vae" / "weights.npz") != fingerprint(vae_weights(run)):
        return None
    path = episode_path(pool / "encode" / "latents", index)
    return read_episode(path, LATENTS) if is_whole(path, LATENTS) else None


def first_frames(episodes: list[Path]) -> np.ndarray:
    """The first frames of up to INITIAL recorded episodes, uint8 [n, 64, 64, 3]."""
    return np.stack([read_episode(episode, ("obs",))["obs"][0] for episode in episodes[:INITIAL]])


def save_initial(path: Path, encode: Encoder, frames: np.ndarray) -> None:
    """Write mu and logvar of first frames, where dreams start, by a V that is not the encode stage's."""
    latents = latents_of(encode, {"obs": frames})
    save_arrays(path, {"mu": latents["mu"], "logvar": latents["logvar"]})


def encode_run(run: Run) -> None:
    """The encode stage of a run."""
    stage = run.stage("encode")
    folder = stage.dir / "latents"
    if stage.is_finished():
        print(f"encode: finished already in {stage.dir}")
        return
    encode = make_encoder(vae_weights(run), run.settings.vae.z_size, run.settings.vae.dtype)
    stage.start()
    paths = episode_paths(run)
    first: list[tuple[np.ndarray, np.ndarray]] = []
    for number, path in enumerate(progress(paths, desc="encode", unit="episode")):
        target = episode_path(folder, number)
        if not is_whole(target, LATENTS):
            known = known_latents(run, number)
            write_episode(target, known, compress=False) if known else encode_episode(encode, path, target)
        if len(first) < INITIAL:
            latents = read_episode(target, LATENTS)
            first.append((latents["mu"][0], latents["logvar"][0]))
    save_arrays(stage.dir / "initial.npz", {"mu": np.stack([m for m, _ in first]), "logvar": np.stack([v for _, v in first])})
    stage.finish({"episodes": len(paths)})
    print(f"encode: {len(paths)} episodes -> {folder}")


def main() -> None:
    parsed = parser(__doc__ or "", "encode").parse_args()
    task, path, settings = resolve(parsed, "encode")
    encode_run(Run(existing(path, task), settings))


if __name__ == "__main__":
    run_command(main)
