"""From frames to latents, and where dreams start."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from conftest import run_python

from env.episodes import LATENTS, episode_path, read_episode, write_episode
from env.run.files import JsonlLog, load_arrays
from env.run.rundir import Run
from env.run.weights import save_weights
from env.tasks import get_task
from vae.vae import ConvVAE


@pytest.fixture()
def run(tmp_path):
    """A Doom run with three recorded episodes of random frames, and an untrained V."""
    smoke = get_task("doom").scales["smoke"]
    settings = dataclasses.replace(smoke, extract=dataclasses.replace(smoke.extract, episodes=3))
    made, rng = Run(tmp_path / "run", settings), np.random.default_rng(0)
    stage = made.stage("extract")
    stage.start()
    log = JsonlLog(stage.log)
    for index, length in enumerate((5, 260, 7)):
        frames = rng.integers(0, 256, (length + 1, 64, 64, 3)).astype(np.uint8)
        arrays = {"obs": frames, "action": rng.uniform(-1, 1, (length, 1)).astype(np.float32)}
        arrays |= {"reward": np.ones(length, np.float32), "done": np.arange(length) == length - 1}
        arrays["health"] = np.linspace(1, 0, length + 1).astype(np.float32)
        write_episode(episode_path(stage.dir / "episodes", index), arrays)
        log.append({"episode": index, "score": float(length), "length": length})
    stage.finish({"episodes": 3})
    made.stage("vae").start()
    save_weights(made.path / "vae" / "weights.npz", ConvVAE(64), {"model": "vae", "z_size": 64})
    made.stage("vae").finish({})
    made.release()
    return made.path


@pytest.mark.slow
def test_latents_keep_their_episodes_and_dreams_start_at_first_frames(run):
    result = run_python("vae/encode.py", "doom", "--run", run)
    assert result.returncode == 0, result.stderr
    initial, _ = load_arrays(run / "encode" / "initial.npz")
    assert initial["mu"].shape == initial["logvar"].shape == (3, 64)
    for index, length in enumerate((5, 260, 7)):
        latents = read_episode(episode_path(run / "encode" / "latents", index), LATENTS)
        recorded = read_episode(episode_path(run / "extract" / "episodes", index))
        assert latents["mu"].shape == latents["logvar"].shape == (length + 1, 64)
        np.testing.assert_array_equal(latents["action"], recorded["action"])
        np.testing.assert_array_equal(latents["done"], recorded["done"])
        np.testing.assert_array_equal(latents["health"], recorded["health"])
        np.testing.assert_array_equal(initial["mu"][index], latents["mu"][0])
        np.testing.assert_array_equal(initial["logvar"][index], latents["logvar"][0])
        assert not np.array_equal(latents["mu"][0], latents["mu"][1])
